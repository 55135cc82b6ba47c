//! The real `go` command through the real program, against mirrors and name servers of our own.
//!
//! What a machine lacks is skipped by name; `GOANYWAY_TEST_REQUIRE=all` makes that a failure.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "it/support/mod.rs"]
#[allow(dead_code, reason = "two test binaries share one vocabulary, and each speaks a part of it")]
mod support;

use std::path::Path;
use std::process::Command;

use goanyway::goproxy::{Ledger, SumdbConfig};
use hickory_proto::op::ResponseCode;
use support::authority::Authority;
use support::binary::{Ended, Home, home};
use support::book::recorded;
use support::daemon::goanyway;
use support::mirror::Mirror;
use support::nameserver::{Nameserver, Says};
use support::needs::have;
use support::netns::Netns;
use tempfile::TempDir;

const MODULE: &str = "example.com/m";

/// A build of a project that requires [`MODULE`], with an empty module cache of its own.
struct Build {
    folder: TempDir,
}

fn build() -> Build {
    let folder = tempfile::tempdir().unwrap();
    let go_mod = format!("module example.com/main\n\ngo 1.20\n\nrequire {MODULE} v1.0.0\n");
    std::fs::write(folder.path().join("go.mod"), go_mod).unwrap();
    let main = format!("package main\n\nimport \"{MODULE}\"\n\nfunc main() {{ println(m.Version) }}\n");
    std::fs::write(folder.path().join("main.go"), main).unwrap();
    Build { folder }
}

impl Build {
    /// `go mod download` with these variables and no others that matter.
    fn download(&self, mut go: Command, variables: &[(&str, &str)]) -> Ended {
        let at = |name: &str| self.folder.path().join(name);
        go.args(["mod", "download"]).current_dir(self.folder.path());
        go.env("HOME", self.folder.path())
            .env("GOPATH", at("gopath"))
            .env("GOMODCACHE", at("modcache"))
            .env("GOCACHE", at("gocache"))
            .env("GOFLAGS", "-mod=mod -modcacherw")
            .env("GOTOOLCHAIN", "local")
            .env("GOSUMDB", "off")
            .env("GOENV", "off")
            .envs(variables.iter().copied());
        Ended::of(go.output().unwrap())
    }

    fn has_module(&self) -> bool {
        self.folder.path().join("modcache/example.com/m@v1.0.0/m.go").is_file()
    }
}

/// go with nothing from our environment but the PATH.
fn go() -> Command {
    let mut go = Command::new("go");
    go.env_clear().env("PATH", std::env::var("PATH").unwrap());
    go
}

#[tokio::test(flavor = "multi_thread")]
async fn goproxy_points_at_us_and_a_warm_cache_needs_nobody() {
    if !have("goproxy_points_at_us", &["go"]) {
        return;
    }
    let mirror = Mirror::of(MODULE, &["v1.0.0"]).await;
    let proxy = goanyway().with("goproxy.upstreams", &mirror.url()).start();
    let url = format!("http://{}", proxy.address());
    let cold = build();
    let ended = cold.download(go(), &[("GOPROXY", &url)]);
    assert!(ended.code == Some(0) && cold.has_module(), "{ended:?}");

    let proxy = goanyway().after(proxy.stop()).with("goproxy.upstreams", "http://127.0.0.1:9").start();
    let url = format!("http://{}", proxy.address());
    let warm = build();
    let ended = warm.download(go(), &[("GOPROXY", &url)]);
    assert!(ended.code == Some(0) && warm.has_module(), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn https_proxy_points_at_us_and_the_mirror_is_intercepted() {
    if !have("https_proxy_points_at_us", &["go"]) {
        return;
    }
    let authority = Authority::new();
    let mirror = Mirror::tls(authority.server(&["mirror.example"]), MODULE, &["v1.0.0"]).await;
    let folder = tempfile::tempdir().unwrap();
    let pem = written(&folder, "real.pem", authority.pem());
    let port = mirror.origin.address.port();
    let goproxy = format!("https://mirror.example:{port}");
    let proxy = goanyway()
        .with("goproxy.upstreams", &goproxy)
        .with("fetch.extra_roots", &pem)
        .with("intercept.hosts", "mirror.example")
        .knowing("mirror.example", mirror.origin.address)
        .start();
    let ours = written(&folder, "ours.pem", &proxy.ca_pem());
    let says = format!("http://ca-{}:x@{}", proxy.fingerprint(), proxy.address());
    let silent = format!("http://{}", proxy.address());

    let trusting = build();
    let variables = [("GOPROXY", goproxy.as_str()), ("HTTPS_PROXY", &says), ("SSL_CERT_FILE", &ours)];
    let ended = trusting.download(go(), &variables);
    assert!(ended.code == Some(0) && trusting.has_module(), "{ended:?}");
    let asked = mirror.origin.heard().len();

    // A build from the same address that says nothing and trusts only the real world: a tunnel.
    let distrusting = build();
    let variables = [("GOPROXY", goproxy.as_str()), ("HTTPS_PROXY", &silent), ("SSL_CERT_FILE", &pem)];
    let ended = distrusting.download(go(), &variables);
    assert!(ended.code == Some(0) && distrusting.has_module(), "{ended:?}");
    assert!(mirror.origin.heard().len() > asked, "a tunnel leads to the mirror itself");

    // One that names another CA: a tunnel too.
    let foreign = build();
    let other = silent.replace("http://", "http://ca-00000000:x@");
    let variables = [("GOPROXY", goproxy.as_str()), ("HTTPS_PROXY", &other), ("SSL_CERT_FILE", &pem)];
    let asked = mirror.origin.heard().len();
    let ended = foreign.download(go(), &variables);
    assert!(ended.code == Some(0) && foreign.has_module(), "{ended:?}");
    assert!(mirror.origin.heard().len() > asked, "a tunnel leads to the mirror itself");
}

/// Mode `always` asks nobody's word. go does not retry, so the one build that finds out fails; none does after it.
#[tokio::test(flavor = "multi_thread")]
async fn in_mode_always_a_distrusting_go_fails_once_at_most() {
    if !have("in_mode_always_a_distrusting_go_fails_once_at_most", &["go"]) {
        return;
    }
    let authority = Authority::new();
    let mirror = Mirror::tls(authority.server(&["mirror.example"]), MODULE, &["v1.0.0"]).await;
    let folder = tempfile::tempdir().unwrap();
    let pem = written(&folder, "real.pem", authority.pem());
    let goproxy = format!("https://mirror.example:{}", mirror.origin.address.port());
    let proxy = goanyway()
        .with("goproxy.upstreams", &goproxy)
        .with("fetch.extra_roots", &pem)
        .with("intercept.hosts", "mirror.example")
        .with("intercept.mode", "always")
        .knowing("mirror.example", mirror.origin.address)
        .start();
    let silent = format!("http://{}", proxy.address());
    let variables = [("GOPROXY", goproxy.as_str()), ("HTTPS_PROXY", &silent), ("SSL_CERT_FILE", &pem)];

    let first = build().download(go(), &variables);
    assert_eq!(first.code, Some(1), "{first:?}");
    assert!(first.err.contains("certificate signed by unknown authority"), "{}", first.err);
    assert_eq!(mirror.origin.heard().len(), 0);
    for _ in 0..3 {
        let build = build();
        let ended = build.download(go(), &variables);
        assert!(ended.code == Some(0) && build.has_module(), "{ended:?}");
    }
}

/// A CONNECT that is refused: of all that we say, go prints the reason phrase.
#[tokio::test(flavor = "multi_thread")]
async fn what_go_prints_of_a_refusal_is_the_diagnosis() {
    if !have("what_go_prints_of_a_refusal", &["go"]) {
        return;
    }
    let proxy = goanyway().start();
    let through = format!("http://{}", proxy.address());
    let ended = build().download(go(), &[("GOPROXY", "https://nowhere.example"), ("HTTPS_PROXY", &through)]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("goanyway: ") && ended.err.contains("nowhere.example"), "{}", ended.err);
    assert!(ended.err.contains("try: goanyway resolve nowhere.example"), "{}", ended.err);

    let ended = build().download(go(), &[("GOPROXY", &through)]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("server response:") && ended.err.contains("goanyway: "), "{}", ended.err);
}

fn written(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// The failure it is named for. One name server, and that one lies, is not there, or is silent; a
/// second one that would know is nobody's idea but ours.
#[test]
fn no_such_host_is_no_reason_for_a_failed_build() {
    if !have("no_such_host_is_no_reason", &["root", "ip", "go"]) {
        return;
    }
    let lies: [(&'static str, Option<Says>, &[&str]); 3] = [
        ("NXDOMAIN", Some(Says::Code(ResponseCode::NXDomain)), &["no such host"]),
        ("a closed port", None, &["no such host", "connection refused"]),
        ("silence", Some(Says::Silent), &["no such host", "i/o timeout"]),
    ];
    for (what, system, said) in lies {
        rescued(what, system, said);
    }
}

fn rescued(what: &str, system: Option<Says>, said: &[&str]) {
    let netns = Netns::with_resolv_conf("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
    let home = home();
    let authority = Authority::new();
    let pem = written(&home.folder, "real.pem", authority.pem());
    let config = authority.server(&["goproxy.cn"]);
    let _world = netns.serve(move || async move {
        let liar = match system {
            Some(says) => Some(Nameserver::at("127.0.0.1:53", says).await),
            None => None,
        };
        let honest = Nameserver::at("127.0.0.2:53", Says::Address("127.0.0.3")).await;
        let mirror = Mirror::tls_at("127.0.0.3:443", config, MODULE, &["v1.0.0"]).await;
        (liar, honest, mirror)
    });

    let alone = build().download(netns.command("go"), &[("GOPROXY", "https://goproxy.cn"), ("SSL_CERT_FILE", &pem)]);
    assert_eq!(alone.code, Some(1), "{what}: {alone:?}");
    assert!(said.iter().any(|words| alone.err.contains(words)), "{what}: {}", alone.err);

    println!("{what}\n  go alone: {}", alone.err.lines().last().unwrap_or_default());

    let explained = explain(&netns, &home);
    println!("{}", explained.out);
    assert_eq!(explained.code, Some(0), "{what}: {explained:?}");
    if what == "NXDOMAIN" {
        // Word for word what go has just printed.
        let words = "lookup goproxy.cn on 127.0.0.1:53: no such host";
        assert!(alone.err.contains(words) && explained.out.contains(words), "{explained:?}");
    }

    let served = home.spawn(inside(&netns, &home, &pem));
    let proxy = format!("http://{}", served.address);
    let through = build();
    let variables = [("GOPROXY", "https://goproxy.cn"), ("HTTPS_PROXY", &proxy), ("SSL_CERT_FILE", &pem)];
    let ended = through.download(netns.command("go"), &variables);
    assert!(ended.code == Some(0) && through.has_module(), "{what}, by tunnel: {ended:?}");

    let run = build();
    let mut private = ours(&netns, &home, &["run", "--upstream", "https://goproxy.cn", "--sumdb", "off"]);
    private.args(["--", "go"]);
    let ended = run.download(private, &[("GOPROXY", "https://goproxy.cn"), ("SSL_CERT_FILE", &pem)]);
    assert!(ended.code == Some(0) && run.has_module(), "{what}, by run: {ended:?}");
    println!("goanyway run -- go mod download\n{}", ended.err);

    let modules = build();
    let ended = modules.download(netns.command("go"), &[("GOPROXY", &proxy)]);
    assert!(ended.code == Some(0) && modules.has_module(), "{what}, as GOPROXY: {ended:?}");
}

/// What `goanyway resolve` says inside, where it keeps nothing.
fn explain(netns: &Netns, home: &Home) -> Ended {
    let mut command = ours(netns, home, &["resolve", "goproxy.cn"]);
    Ended::of(command.env("XDG_STATE_HOME", home.at("nowhere")).output().unwrap())
}

/// `goanyway serve` inside, with the system's name server and one fallback, both of our own.
fn inside(netns: &Netns, home: &Home, pem: &str) -> Command {
    let mut command = ours(netns, home, &["serve", "--listen", "127.0.0.1:0", "--admin", "none"]);
    command.args(["--upstream", "https://goproxy.cn", "--sumdb", "off"]).env("SSL_CERT_FILE", pem);
    command
}

/// The program inside, as a user starts it who has nothing but this namespace.
fn ours(netns: &Netns, home: &Home, arguments: &[&str]) -> Command {
    let mut command = netns.command(env!("CARGO_BIN_EXE_goanyway"));
    command.args(arguments).args(["--nameserver", "system", "--fallback", "udp://127.0.0.2:53"]);
    command.args(["--allow-target", "127.0.0.0/8"]).env("HOME", home.at("."));
    for (variable, name) in [("XDG_CACHE_HOME", "cache"), ("XDG_STATE_HOME", "state"), ("XDG_DATA_HOME", "data")] {
        command.env(variable, home.at(name));
    }
    command
}

/// go never proxies loopback, so this needs an address that is none: with both variables at it, go
/// sends absolute form that names us.
#[tokio::test(flavor = "multi_thread")]
async fn both_variables_at_once() {
    if !have("both_variables_at_once", &["root", "ip", "go"]) {
        return;
    }
    let netns = Netns::with_resolv_conf("nameserver 127.0.0.1\n");
    netns.add_address("10.77.0.1/24");
    let home = home();
    let _world = netns.serve(|| Mirror::at("127.0.0.3:8080", MODULE, &["v1.0.0"]));
    let mut command = netns.command(env!("CARGO_BIN_EXE_goanyway"));
    command.args(["serve", "--listen", "10.77.0.1:3128", "--client", "10.77.0.0/24", "--admin", "none"]);
    command.args(["--upstream", "http://127.0.0.3:8080", "--sumdb", "off", "--fallback", "none"]);
    command.env("HOME", home.at(".")).env("XDG_CACHE_HOME", home.at("cache"));
    command.env("XDG_STATE_HOME", home.at("state")).env("XDG_DATA_HOME", home.at("data"));
    let _served = home.spawn(command);
    let build = build();
    let ours = "http://10.77.0.1:3128";
    let ended = build.download(netns.command("go"), &[("GOPROXY", ours), ("HTTP_PROXY", ours), ("HTTPS_PROXY", ours)]);
    assert!(ended.code == Some(0) && build.has_module(), "{ended:?}");
}

/// The tree on disk is what the README says it is.
#[tokio::test(flavor = "multi_thread")]
async fn the_cache_folder_is_a_file_proxy_without_us() {
    if !have("the_cache_folder_is_a_file_proxy", &["go"]) {
        return;
    }
    let mirror = Mirror::of(MODULE, &["v1.0.0"]).await;
    let proxy = goanyway().with("goproxy.upstreams", &mirror.url()).start();
    let url = format!("http://{}", proxy.address());
    assert_eq!(build().download(go(), &[("GOPROXY", &url)]).code, Some(0));
    let folder = proxy.stop();
    let build = build();
    let tree = file_url(&folder.path().join("cache/download"));
    let ended = build.download(go(), &[("GOPROXY", &tree)]);
    assert!(ended.code == Some(0) && build.has_module(), "{ended:?}");
}

/// The same with the checksum database's records beside: a go that has nothing, and nobody to ask, verifies.
#[tokio::test(flavor = "multi_thread")]
async fn written_out_with_its_records_the_cache_verifies_without_us() {
    if !have("written_out_with_its_records", &["go"]) {
        return;
    }
    let (mirror, key) = recorded(MODULE, "v1.0.0").await;
    let upstream = format!("http://{}", mirror.address);
    let proxy = goanyway().with("goproxy.upstreams", &upstream).with("goproxy.sumdb", &key).start();
    let url = format!("http://{}", proxy.address());
    let ended = build().download(go(), &[("GOPROXY", &url), ("GOSUMDB", &key)]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let folder = proxy.stop();
    drop(mirror);
    let (cache, config) = (folder.path().join("cache"), SumdbConfig::parse(&key).unwrap().unwrap());
    let ledger = Ledger::open(&config, &cache).unwrap().unwrap();
    let audit = ledger.audit().unwrap();
    assert!(audit.wrong.is_empty() && audit.proven >= 3, "{audit:?}");
    assert_eq!(ledger.write_out(&cache.join("download")).unwrap(), 1);

    let tree = file_url(&cache.join("download"));
    let verified = build();
    let ended = verified.download(go(), &[("GOPROXY", &tree), ("GOSUMDB", &key)]);
    assert!(ended.code == Some(0) && verified.has_module(), "{ended:?}");
    let go_mod = cache.join("download/example.com/m/@v/v1.0.0.mod");
    std::fs::write(go_mod, "module example.com/m\n").unwrap();
    let ended = build().download(go(), &[("GOPROXY", &tree), ("GOSUMDB", &key)]);
    assert!(ended.code == Some(1) && ended.err.contains("SECURITY ERROR"), "{ended:?}");
}

fn file_url(path: &Path) -> String {
    format!("file://{}", path.display())
}
