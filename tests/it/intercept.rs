//! Interception: only for clients that say they trust this CA, never worse than without.

use tokio::io::AsyncWriteExt;

use crate::support::authority::Authority;
use crate::support::client::{connect, get, handshake, request, roots};
use crate::support::daemon::{Daemon, Wanted, goanyway};
use crate::support::mirror::Mirror;

const MODULE: &str = "example.com/m";
const PATH: &str = "/example.com/m/@v/v1.0.0.mod";

/// A mirror over TLS under its real certificate, and a daemon that intercepts it.
struct Rig {
    mirror: Mirror,
    authority: Authority,
    target: String,
    proxy: Daemon,
}

async fn rig(change: impl FnOnce(Wanted) -> Wanted) -> Rig {
    let authority = Authority::new();
    let mirror = Mirror::tls(authority.server(&["mirror.example"]), MODULE, &["v1.0.0"]).await;
    let pem = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&pem, authority.pem()).unwrap();
    let port = mirror.origin.address.port();
    let wanted = goanyway()
        .with("goproxy.upstreams", &format!("https://mirror.example:{port}"))
        .with("fetch.extra_roots", &pem.path().display().to_string())
        .with("intercept.hosts", "mirror.example")
        .knowing("mirror.example", mirror.origin.address);
    Rig { mirror, authority, target: format!("mirror.example:{port}"), proxy: change(wanted).start() }
}

/// Whose certificate a client saw.
#[derive(Debug, PartialEq)]
enum Saw {
    Ours,
    Theirs,
    Nothing,
}

impl Rig {
    /// Connects as `user` and shakes hands, trusting both worlds or only the real one.
    async fn seen_by(&self, user: Option<&str>, trusts_us: bool) -> Saw {
        let (answer, stream) = connect(self.proxy.address(), &self.target, user).await;
        assert_eq!(answer.status, 200, "{}", answer.reason);
        let ca = self.proxy.ca_pem();
        let mut trusted = self.authority.roots();
        if trusts_us {
            trusted.roots.extend(roots(&ca).roots);
        }
        let Ok(tls) = handshake(stream, "mirror.example", trusted, &[b"http/1.1"]).await else { return Saw::Nothing };
        let chain = tls.get_ref().1.peer_certificates().unwrap().to_vec();
        // The real chain ends in the test's root; ours in an intermediate of our own.
        if self.authority.pem().contains(&pem_body(chain.last().unwrap())) { Saw::Theirs } else { Saw::Ours }
    }
}

fn pem_body(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    text[..48].to_owned()
}

#[tokio::test]
async fn a_client_that_says_it_trusts_this_ca_is_intercepted_and_served_from_the_store() {
    let rig = rig(|wanted| wanted).await;
    let user = format!("ca-{}", rig.proxy.fingerprint());
    for _ in 0..2 {
        let (answer, stream) = connect(rig.proxy.address(), &rig.target, Some(&user)).await;
        assert_eq!(answer.status, 200);
        let mut tls = handshake(stream, "mirror.example", roots(&rig.proxy.ca_pem()), &[b"http/1.1"]).await.unwrap();
        let head = format!("GET {PATH} HTTP/1.1\r\nHost: {}\r\n\r\n", rig.target);
        let answer = request(&mut tls, &head).await;
        assert_eq!((answer.status, answer.text().contains("module example.com/m")), (200, true), "{answer:?}");
    }
    assert_eq!(rig.mirror.asked(PATH), 1);
    // The same file, asked for in another position.
    assert_eq!(get(rig.proxy.address(), PATH).await.status, 200);
    assert_eq!(rig.mirror.asked(PATH), 1);
}

#[tokio::test]
async fn in_mode_auto_only_the_word_counts() {
    let rig = rig(|wanted| wanted).await;
    let ours = format!("ca-{}", rig.proxy.fingerprint());
    assert_eq!(rig.seen_by(Some(&ours), true).await, Saw::Ours);
    assert_eq!(rig.seen_by(None, false).await, Saw::Theirs);
    assert_eq!(rig.seen_by(Some("ca-00000000"), false).await, Saw::Theirs);
    assert_eq!(rig.seen_by(Some("alice"), false).await, Saw::Theirs);
    assert_eq!(rig.seen_by(Some(&format!("alice+{ours}")), true).await, Saw::Ours);
    assert_eq!(rig.seen_by(Some("ca"), true).await, Saw::Ours);
}

#[tokio::test]
async fn a_client_that_rejects_our_certificate_fails_once_and_passes_from_then_on() {
    let rig = rig(|wanted| wanted.with("intercept.mode", "always")).await;
    assert_eq!(rig.seen_by(None, false).await, Saw::Nothing);
    assert_eq!(rig.seen_by(None, false).await, Saw::Theirs);
    assert_eq!(rig.seen_by(Some("other"), true).await, Saw::Ours);
}

#[tokio::test]
async fn mode_off_tunnels_everything_and_has_no_ca() {
    let rig = rig(|wanted| wanted.with("intercept.mode", "off")).await;
    let (answer, stream) = connect(rig.proxy.address(), &rig.target, Some("ca")).await;
    assert_eq!(answer.status, 200);
    assert!(handshake(stream, "mirror.example", rig.authority.roots(), &[]).await.is_ok());
    assert_eq!(get(rig.proxy.address(), "/ca.pem").await.status, 404);
}

#[tokio::test]
async fn what_is_no_tls_passes_unread() {
    let rig = rig(|wanted| wanted).await;
    let (answer, mut stream) = connect(rig.proxy.address(), &rig.target, Some("ca")).await;
    assert_eq!(answer.status, 200);
    // The mirror speaks TLS and answers plain text with an alert of its own: the bytes got through.
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut heard).await;
    assert_eq!(heard.first(), Some(&21), "{heard:?}");
}

#[tokio::test]
async fn another_hosts_request_inside_is_misdirected() {
    let rig = rig(|wanted| wanted).await;
    let (_, stream) = connect(rig.proxy.address(), &rig.target, Some("ca")).await;
    let mut tls = handshake(stream, "mirror.example", roots(&rig.proxy.ca_pem()), &[b"http/1.1"]).await.unwrap();
    let answer = request(&mut tls, &format!("GET {PATH} HTTP/1.1\r\nHost: other.example\r\n\r\n")).await;
    assert_eq!(answer.status, 421);
}

/// A CONNECT opens the head guard for good. Inside an intercepted connection it was refused and the
/// connection kept, so that every later head went by unchecked (this one has a bare LF).
#[tokio::test]
async fn nothing_after_a_connect_inside_is_executed() {
    let rig = rig(|wanted| wanted).await;
    let (_, stream) = connect(rig.proxy.address(), &rig.target, Some("ca")).await;
    let mut tls = handshake(stream, "mirror.example", roots(&rig.proxy.ca_pem()), &[b"http/1.1"]).await.unwrap();
    let target = &rig.target;
    let both = format!(
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nGET /index?since=1 HTTP/1.1\r\nHost: {target}\nX: y\r\n\r\n"
    );
    let answer = request(&mut tls, &both).await;
    assert_eq!((answer.status, answer.header("connection")), (421, Some("close")));
    let mut rest = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut tls, &mut rest).await;
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    assert_eq!(rig.mirror.asked("/index?since=1"), 0);
}

#[tokio::test]
async fn what_is_no_module_request_on_a_module_host_passes_through() {
    let rig = rig(|wanted| wanted).await;
    let (_, stream) = connect(rig.proxy.address(), &rig.target, Some("ca")).await;
    let mut tls = handshake(stream, "mirror.example", roots(&rig.proxy.ca_pem()), &[b"http/1.1"]).await.unwrap();
    let head = format!("GET /index?since=1 HTTP/1.1\r\nHost: {}\r\n\r\n", rig.target);
    assert_eq!(request(&mut tls, &head).await.status, 404);
    assert_eq!(rig.mirror.asked("/index?since=1"), 1);
}

#[tokio::test]
async fn the_ca_is_handed_out_but_never_its_key() {
    let rig = rig(|wanted| wanted).await;
    let pem = get(rig.proxy.address(), "/ca.pem").await.text();
    assert_eq!(pem, rig.proxy.ca_pem());
    let bundle = get(rig.proxy.address(), "/ca-bundle.pem").await.text();
    assert!(bundle.contains(pem.trim()));
    assert!(!bundle.contains("PRIVATE KEY"));
}
