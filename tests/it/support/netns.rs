//! A machine of its own: a network namespace with loopback and a resolv.conf, in which real programs
//! run and in-process servers listen on the ports that the world knows them by.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

pub struct Netns {
    name: String,
}

impl Netns {
    /// A namespace whose programs read this resolv.conf.
    pub fn with_resolv_conf(text: &str) -> Netns {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("goanyway-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name]);
        run("ip", &["-n", &name, "link", "set", "lo", "up"]);
        let netns = Netns { name };
        fs::create_dir_all(netns.etc()).unwrap();
        fs::write(netns.etc().join("resolv.conf"), text).unwrap();
        netns
    }

    /// A file of its own in the place of one under `/etc`.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.etc().join(name), text).unwrap();
    }

    /// A folder of its own in the place of one under `/etc`.
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.etc().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// One more address of this machine, such as `10.77.0.1/24`.
    pub fn add_address(&self, address: &str) {
        run("ip", &["-n", &self.name, "address", "add", address, "dev", "lo"]);
    }

    /// Whether this machine has that address.
    pub fn has(&self, address: IpAddr) -> bool {
        self.visit(|| std::net::UdpSocket::bind((address, 0)).is_ok())
    }

    /// A cable from here to there, by the name of its plug on each side; each end gets its addresses.
    pub fn connect(&self, plug: &str, addresses: &[&str], there: &Netns, other_plug: &str, theirs: &[&str]) {
        self.plug(plug, there, other_plug);
        for (netns, plug, addresses) in [(self, plug, addresses), (there, other_plug, theirs)] {
            netns.ip(&["link", "set", plug, "up"]);
            netns.give(plug, addresses);
        }
    }

    /// The cable alone, both ends down.
    pub fn plug(&self, plug: &str, there: &Netns, other_plug: &str) {
        self.ip(&["link", "add", plug, "type", "veth", "peer", "name", other_plug, "netns", &there.name]);
    }

    /// Addresses for one end of a cable. One of IPv6 is usable at once: nobody else can have it here.
    pub fn give(&self, plug: &str, addresses: &[&str]) {
        for address in addresses {
            let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
            self.ip(&[&["address", "add", address, "dev", plug], nodad].concat());
        }
    }

    /// `ip` with these arguments, inside.
    pub fn ip(&self, arguments: &[&str]) {
        run("ip", &[&["-n", &self.name], arguments].concat());
    }

    /// Sets a kernel switch inside.
    pub fn set(&self, switch: &str, value: &str) {
        let file = format!("/proc/sys/{}", switch.replace('.', "/"));
        self.visit(|| fs::write(&file, value).unwrap_or_else(|error| panic!("{file}: {error}")));
    }

    /// Makes a router of it.
    pub fn forward(&self) {
        self.set("net.ipv4.ip_forward", "1");
        self.set("net.ipv6.conf.all.forwarding", "1");
    }

    /// Takes these rules over inside.
    pub fn nft(&self, rules: &str) {
        let mut nft = self.command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "{rules}");
    }

    /// All that there is of rules and routes inside.
    pub fn rules(&self) -> String {
        let show = "nft list ruleset; ip -4 rule; ip -6 rule; ip -4 route show table all; ip -6 route show table all";
        let shown = self.visit(|| Command::new("sh").args(["-c", show]).output().unwrap());
        String::from_utf8(shown.stdout).unwrap()
    }

    /// Does something inside, on a thread and a runtime of its own, and hands over what came of it.
    pub fn within<F: Future>(&self, what: impl FnOnce() -> F + Send) -> F::Output
    where
        F::Output: Send,
    {
        self.visit(|| runtime().block_on(what()))
    }

    /// Runs a server inside as [`Netns::serve`] does, and hands it over.
    pub fn host<F>(&self, serve: impl FnOnce() -> F + Send + 'static) -> Hosted<F::Output>
    where
        F: Future<Output: Send + Sync + 'static>,
    {
        let (started, starting) = std::sync::mpsc::channel();
        let serving = self.serve(move || async move {
            let server = Arc::new(serve().await);
            started.send(Arc::clone(&server)).unwrap();
            server
        });
        Hosted { server: starting.recv().unwrap(), _serving: serving }
    }

    /// Does something inside, on a thread that goes there; programs that it starts run there, too.
    pub fn visit<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            enter(&self.path());
            what()
        };
        std::thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]).env_clear();
        command.env("PATH", std::env::var("PATH").unwrap());
        command
    }

    /// Runs servers inside on a thread of their own, until the guard is dropped. `serve` starts them;
    /// what it returns is handed back once they listen, and dropped at the end.
    pub fn serve<F, T>(&self, serve: impl FnOnce() -> F + Send + 'static) -> Serving
    where
        F: Future<Output = T>,
    {
        let path = self.path();
        let (listening, heard) = std::sync::mpsc::channel();
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            enter(&path);
            runtime().block_on(async {
                let kept = serve().await;
                listening.send(()).unwrap();
                let _ = ended.await;
                drop(kept);
            });
        });
        heard.recv().expect("the servers inside did not start");
        Serving { end: Some(end), thread: Some(thread) }
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    fn etc(&self) -> PathBuf {
        PathBuf::from("/etc/netns").join(&self.name)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
        let _ = fs::remove_dir_all(self.etc());
    }
}

/// Moves this thread inside.
fn enter(path: &str) {
    let namespace = fs::File::open(path).unwrap();
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A server inside a namespace, as it is spoken to from outside.
pub struct Hosted<T> {
    server: Arc<T>,
    _serving: Serving,
}

impl<T> std::ops::Deref for Hosted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.server
    }
}

/// Servers inside a namespace.
pub struct Serving {
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            let _ = end.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status}");
}
