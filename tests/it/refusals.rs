//! Clients that do not trust our CA, as they are: each fails once at an intercepted host, and passes from then
//! on. Some look at a certificate only when the handshake is over. What a machine lacks is skipped by name.

use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::authority::Authority;
use crate::support::binary::{Ended, Home, home};
use crate::support::clients::JAVA;
use crate::support::daemon::{Daemon, goanyway};
use crate::support::mirror::Mirror;
use crate::support::needs::have;
use crate::support::origin::{Origin, text};

const HOST: &str = "mirror.example";

/// A host under its real certificate, and a daemon that shows everybody one of ours.
struct Rig {
    _origin: Origin,
    proxy: Daemon,
    home: Home,
    target: String,
}

async fn rig() -> Rig {
    let (authority, home) = (Authority::new(), home());
    std::fs::write(home.at("real.pem"), authority.pem()).unwrap();
    // git's plain protocol: a repository without a branch.
    let origin = Origin::tls_at("127.0.0.1:0", authority.server(&[HOST]), |_| text(200, "")).await;
    let proxy =
        goanyway().with("intercept.hosts", HOST).with("intercept.mode", "always").knowing(HOST, origin.address).start();
    let target = format!("{HOST}:{}", origin.address.port());
    Rig { _origin: origin, proxy, home, target }
}

impl Rig {
    /// Runs a client twice; the words are for its trust in the real certificate, and nothing else.
    async fn fails_once(&self, client: &str, script: &str, variables: &[(&str, &str)]) {
        let proxy = format!("http://{client}:x@{}", self.proxy.address());
        let all: Vec<_> = [("HTTPS_PROXY", proxy.as_str())].into_iter().chain(variables.iter().copied()).collect();
        let run = || tokio::task::block_in_place(|| self.home.shell(script, &all));
        let (first, second): (Ended, Ended) = (run(), run());
        let learnt = self.metrics();
        assert_ne!(first.code, Some(0), "{client}: {first:?}");
        assert_eq!(second.code, Some(0), "{client}: {second:?}\nafter {first:?}\n{learnt}");
    }

    fn metrics(&self) -> String {
        let metrics = self.proxy.metrics();
        metrics.lines().filter(|line| line.starts_with("goanyway_intercept_")).collect::<Vec<_>>().join("\n")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn git_and_curl_fail_once() {
    // Debian's git is of GnuTLS, its curl of OpenSSL. git names no user until it is asked for one: each has a daemon
    // of its own.
    for (client, program, script) in [
        ("git", "git", "git ls-remote"),
        ("git-1.2", "git", "git -c http.sslVersion=tlsv1.2 ls-remote"),
        ("git-http1", "git", "git -c http.version=HTTP/1.1 ls-remote"),
        ("curl", "curl", "curl -sS --cacert real.pem"),
        ("curl-1.2", "curl", "curl -sS --tls-max 1.2 --cacert real.pem"),
    ] {
        if have("git_and_curl_fail_once", &[program]) {
            let rig = rig().await;
            let (script, roots) = (format!("{script} https://{}/repo.git", rig.target), rig.home.at("real.pem"));
            rig.fails_once(client, &script, &[("GIT_SSL_CAINFO", roots.to_str().unwrap())]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_python_and_node_fail_once() {
    let rig = rig().await;
    let (proxy, target) = (rig.proxy.address(), rig.target.as_str());
    let openssl = format!(
        "openssl s_client -proxy {proxy} -connect {target} -servername {HOST} -verify_hostname {HOST} \
         -verify_return_error -CAfile real.pem -brief </dev/null"
    );
    std::fs::write(rig.home.at("client.py"), PYTHON).unwrap();
    std::fs::write(rig.home.at("client.js"), NODE).unwrap();
    for (client, program, script) in [
        ("openssl", "openssl", openssl.clone()),
        ("python", "python3", format!("python3 client.py https://{target}/")),
        ("node", "node", format!("NODE_EXTRA_CA_CERTS=real.pem node client.js {target} {HOST}")),
    ] {
        if have("openssl_python_and_node_fail_once", &[program]) {
            rig.fails_once(client, &script, &[]).await;
        }
    }
}

const PYTHON: &str = "import os, ssl, sys, urllib.request as r\n\
                      proxy = r.ProxyHandler({'https': os.environ['HTTPS_PROXY']})\n\
                      trust = r.HTTPSHandler(context=ssl.create_default_context(cafile='real.pem'))\n\
                      r.build_opener(proxy, trust).open(sys.argv[1]).read()\n";

const NODE: &str = "\
const [target, servername] = process.argv.slice(2), url = new URL(process.env.HTTPS_PROXY);
const auth = 'Basic ' + Buffer.from(url.username + ':' + url.password).toString('base64');
const ask = { host: url.hostname, port: url.port, method: 'CONNECT', path: target, headers: { 'Proxy-Authorization': auth } };
require('http').request(ask).on('connect', (_, socket) =>
  require('https').get({ socket, agent: false, servername, host: servername }, answer => answer.resume())).end();
";

#[tokio::test(flavor = "multi_thread")]
async fn java_fails_once() {
    if !have("java_fails_once", &["java", "keytool"]) {
        return;
    }
    let rig = rig().await;
    std::fs::write(rig.home.at("Client.java"), JAVA).unwrap();
    let (host, port) = rig.target.split_once(':').unwrap();
    rig.fails_once("java", &format!("java Client.java real.pem {host} {port}"), &[]).await;
}

/// How a client ends the TLS that it was given, once the handshake is over.
async fn ending(authority: &Authority, home: &Home, script: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = ServerConfig::clone(&authority.server(&[HOST]));
    // As ours: one that leaves with a ticket unread resets the connection, and its word is lost.
    config.send_tls13_tickets = 0;
    let (port, tls) = (listener.local_addr().unwrap().port(), TlsAcceptor::from(Arc::new(config)));
    let serving = tokio::spawn(async move {
        let Ok(mut stream) = tls.accept(listener.accept().await.unwrap().0).await else {
            return "no Finished".to_owned();
        };
        match stream.read(&mut [0]).await {
            Ok(0) => "close_notify".to_owned(),
            Ok(_) => "a word".to_owned(),
            Err(error) => error.to_string(),
        }
    });
    tokio::task::block_in_place(|| home.shell(&format!("{script} || true"), &[("PORT", &port.to_string())]));
    serving.await.unwrap()
}

/// Whether an end is a refusal cannot be seen by its manners: who was sure that a `close_notify` is none would fail git
/// every time.
#[tokio::test(flavor = "multi_thread")]
async fn git_refuses_in_the_same_way_as_a_client_leaves_that_has_nothing_to_say() {
    if !have("git_refuses_in_the_same_way_as_a_client_leaves_that_has_nothing_to_say", &["git", "openssl"]) {
        return;
    }
    let (authority, home) = (Authority::new(), home());
    std::fs::write(home.at("real.pem"), authority.pem()).unwrap();
    let is_gnutls = home.shell("ldd \"$(git --exec-path)/git-remote-http\" | grep gnutls", &[]).code == Some(0);
    let git = ending(&authority, &home, "git ls-remote https://127.0.0.1:$PORT/repo.git").await;
    assert!(git == "close_notify" || !is_gnutls, "{git}");
    let trusting = format!("-servername {HOST} -verify_hostname {HOST} -verify_return_error -CAfile real.pem");
    let content = format!("openssl s_client -connect 127.0.0.1:$PORT {trusting} -brief </dev/null");
    assert_eq!(ending(&authority, &home, &content).await, "close_notify");
}

/// A mirror of many versions, of which go fetches ten at a time.
async fn mirror(authority: &Authority) -> Mirror {
    let versions: Vec<String> = (0..10).map(|minor| format!("v1.{minor}.0")).collect();
    let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
    Mirror::tls(authority.server(&[HOST]), "example.com/m", &versions).await
}

/// `go mod download` of all of them, with nothing at hand.
fn download(home: &Home, proxy: &str, mirror: &Mirror, roots: &str) -> Ended {
    let goproxy = format!("https://{HOST}:{}", mirror.origin.address.port());
    let cache = tempfile::tempdir_in(home.at(".")).unwrap();
    let variables = [
        ("HTTPS_PROXY", proxy),
        ("GOPROXY", &goproxy),
        ("SSL_CERT_FILE", roots),
        ("SSL_CERT_DIR", "/nowhere"),
        ("GOMODCACHE", cache.path().to_str().unwrap()),
        ("GOSUMDB", "off"),
        ("GOTOOLCHAIN", "local"),
        ("GOFLAGS", "-modcacherw"),
    ];
    let modules = (0..10).map(|minor| format!("example.com/m@v1.{minor}.0")).collect::<Vec<_>>().join(" ");
    tokio::task::block_in_place(|| home.shell(&format!("go mod download {modules}"), &variables))
}

#[tokio::test(flavor = "multi_thread")]
async fn go_fails_once() {
    if !have("go_fails_once", &["go"]) {
        return;
    }
    let (authority, home) = (Authority::new(), home());
    let mirror = mirror(&authority).await;
    std::fs::write(home.at("real.pem"), authority.pem()).unwrap();
    let wanted = goanyway().with("intercept.hosts", HOST).with("intercept.mode", "always");
    let proxy = wanted.knowing(HOST, mirror.origin.address).start();
    let (url, roots) = (format!("http://go:x@{}", proxy.address()), home.at("real.pem").display().to_string());
    let first = download(&home, &url, &mirror, &roots);
    assert!(first.code != Some(0) && first.err.contains("unknown authority"), "{first:?}");
    let second = download(&home, &url, &mirror, &roots);
    assert_eq!(second.code, Some(0), "{second:?}");
}

/// go dials for each of ten requests, and keeps one connection once that speaks HTTP/2: the others leave without a
/// word, as a client does that refuses our certificate late.
#[tokio::test(flavor = "multi_thread")]
async fn a_go_that_trusts_us_is_intercepted_however_many_connections_it_drops() {
    if !have("a_go_that_trusts_us_is_intercepted_however_many_connections_it_drops", &["go"]) {
        return;
    }
    let (authority, home) = (Authority::new(), home());
    let mirror = mirror(&authority).await;
    std::fs::write(home.at("real.pem"), authority.pem()).unwrap();
    let proxy = goanyway()
        .with("goproxy.upstreams", &format!("https://{HOST}:{}", mirror.origin.address.port()))
        .trusting(&authority)
        .with("intercept.hosts", HOST)
        .knowing(HOST, mirror.origin.address)
        .start();
    std::fs::write(home.at("ours.pem"), proxy.ca_pem()).unwrap();
    let (url, roots) = (format!("http://ca:x@{}", proxy.address()), home.at("ours.pem").display().to_string());
    for _ in 0..3 {
        let ended = download(&home, &url, &mirror, &roots);
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    let metrics = proxy.metrics();
    let of_interest = metrics.lines().filter(|line| line.starts_with("goanyway_intercept_")).collect::<Vec<_>>();
    assert!(!metrics.contains("stance=\"rejected\""), "{of_interest:#?}");
    assert!(metrics.contains("handshakes_total{outcome=\"done\"}"), "{of_interest:#?}");
}
