//! A goanyway in the test's own process, with settings as a user would type them and nothing from
//! the environment: no name server but those that the test gives, no folder but its own.

use std::collections::HashMap;
use std::net::SocketAddr;

use goanyway::config::{ROWS, Settings, Typed};
use goanyway::daemon::{self, Running};
use tempfile::{NamedTempFile, TempDir};

use super::authority::Authority;

/// Settings in the making.
pub struct Wanted {
    flags: HashMap<&'static str, Vec<String>>,
    folder: TempDir,
    /// Whom it trusts, until it has read that.
    roots: Option<NamedTempFile>,
}

/// A daemon that serves, and stops when it is dropped.
pub struct Daemon {
    running: Option<Running>,
    pub folder: TempDir,
}

/// A daemon that trusts loopback as if it were the Internet, and asks nobody.
pub fn goanyway() -> Wanted {
    let folder = tempfile::tempdir().unwrap();
    let wanted = Wanted { flags: HashMap::new(), folder, roots: None };
    let at = |name: &str| wanted.folder.path().join(name).display().to_string();
    let (cache, state, ca) = (at("cache"), at("state"), at("ca"));
    wanted
        .with("listen", "127.0.0.1:0")
        .with("admin.listen", "127.0.0.1:0")
        .with("cache.dir", &cache)
        .with("state_dir", &state)
        .with("intercept.ca_dir", &ca)
        // Port 9 (discard) of loopback: refused at once.
        .with("resolve.nameservers", "udp://127.0.0.1:9")
        .with("resolve.fallback", "none")
        .with("connect.parent", "none")
        .with("goproxy.sumdb", "off")
        .with("admit.allow", "127.0.0.0/8")
}

impl Wanted {
    /// One setting, by its key; the first use in a test replaces what stands above.
    pub fn with(mut self, key: &str, value: &str) -> Wanted {
        let row = ROWS.iter().find(|row| row.key == key).unwrap_or_else(|| panic!("no setting {key}"));
        self.flags.insert(row.key, vec![value.to_owned()]);
        self
    }

    /// One more value of a list.
    pub fn and(mut self, key: &str, value: &str) -> Wanted {
        let row = ROWS.iter().find(|row| row.key == key).unwrap_or_else(|| panic!("no setting {key}"));
        self.flags.entry(row.key).or_default().push(value.to_owned());
        self
    }

    /// `name` is at this address, and its port may be asked for.
    pub fn knowing(self, name: &str, address: SocketAddr) -> Wanted {
        let port = address.port().to_string();
        self.and("resolve.hosts", &format!("{name}={}", address.ip())).and("admit.ports", &port)
    }

    /// Servers that this authority signed are trusted, as a company's own are.
    pub fn trusting(mut self, authority: &Authority) -> Wanted {
        let roots = NamedTempFile::new().unwrap();
        std::fs::write(&roots, authority.pem()).unwrap();
        let path = roots.path().display().to_string();
        self.roots = Some(roots);
        self.with("fetch.extra_roots", &path)
    }

    /// The folder of an earlier daemon: a restart.
    pub fn after(mut self, folder: TempDir) -> Wanted {
        for (key, name) in [("cache.dir", "cache"), ("state_dir", "state"), ("intercept.ca_dir", "ca")] {
            self = self.with(key, &folder.path().join(name).display().to_string());
        }
        self.folder = folder;
        self
    }

    pub fn settings(&self) -> Settings {
        let typed = Typed::gather(&self.flags, &|_| None, None).unwrap();
        Settings::understand(&typed, &|_| None).unwrap()
    }

    pub fn start(self) -> Daemon {
        let settings = self.settings();
        // Started off the test's runtime: a daemon brings runtimes of its own.
        let running = std::thread::scope(|scope| scope.spawn(|| daemon::start(settings).unwrap()).join().unwrap());
        Daemon { running: Some(running), folder: self.folder }
    }
}

impl Daemon {
    fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs until it is stopped")
    }

    pub fn address(&self) -> SocketAddr {
        self.running().bound.listen[0]
    }

    pub fn dns(&self) -> SocketAddr {
        self.running().bound.dns[0]
    }

    pub fn transparent(&self) -> SocketAddr {
        self.running().bound.transparent[0]
    }

    pub fn admin(&self) -> SocketAddr {
        self.running().bound.admin.unwrap()
    }

    pub fn ca_pem(&self) -> String {
        self.running().interceptor.root_pem().unwrap()
    }

    pub fn fingerprint(&self) -> String {
        self.running().interceptor.fingerprint().unwrap()
    }

    pub fn notices(&self) -> &[String] {
        &self.running().notices
    }

    pub fn metrics(&self) -> String {
        self.running().registry.text()
    }

    /// Ends it and hands over its folder, for a restart.
    pub fn stop(mut self) -> TempDir {
        self.end();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }

    fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.cutter().cancel();
            let _ = std::thread::spawn(move || running.stop()).join();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}
