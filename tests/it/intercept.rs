//! Interception: only for clients that say they trust this CA, never worse than without.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use goanyway::intercept::{self, IfThere, Making};
use rustls::client::{EchGreaseConfig, EchMode};
use rustls::crypto::aws_lc_rs::{default_provider, hpke};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

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
    let (proxy, target) = in_front_of(mirror.origin.address, &authority, change);
    Rig { mirror, authority, target, proxy }
}

/// A daemon that intercepts `mirror.example`, which is at this address.
fn in_front_of(origin: SocketAddr, authority: &Authority, change: impl FnOnce(Wanted) -> Wanted) -> (Daemon, String) {
    let target = format!("mirror.example:{}", origin.port());
    let wanted = goanyway()
        .with("goproxy.upstreams", &format!("https://{target}"))
        .trusting(authority)
        .with("intercept.hosts", "mirror.example")
        .knowing("mirror.example", origin);
    (change(wanted).start(), target)
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
        let Ok(mut tls) = handshake(stream, "mirror.example", trusted, &[b"http/1.1"]).await else {
            return Saw::Nothing;
        };
        // Who leaves without a word has refused.
        tls.write_all(b"GET").await.unwrap();
        let chain = tls.get_ref().1.peer_certificates().unwrap().to_vec();
        // The real chain ends in the test's root; ours in an intermediate of our own.
        if self.authority.pem().contains(&pem_body(chain.last().unwrap())) { Saw::Theirs } else { Saw::Ours }
    }
}

impl Rig {
    /// The same after a restart, with whatever was done to the daemon's folder in between.
    fn restarted(self, change: impl FnOnce(Wanted, &TempDir) -> Wanted) -> Rig {
        let folder = self.proxy.stop();
        let (proxy, target) = in_front_of(self.mirror.origin.address, &self.authority, |wanted| {
            let wanted = change(wanted, &folder);
            wanted.after(folder)
        });
        Rig { mirror: self.mirror, authority: self.authority, target, proxy }
    }

    /// Whose certificate a client of this kind saw that says it trusts us, and does.
    async fn shown_to(&self, config: ClientConfig, name: &str) -> Saw {
        let (answer, stream) = connect(self.proxy.address(), &self.target, Some("ca")).await;
        assert_eq!(answer.status, 200, "{}", answer.reason);
        self.judge(config, name, stream).await
    }

    async fn judge<S: AsyncRead + AsyncWrite + Unpin>(&self, config: ClientConfig, name: &str, stream: S) -> Saw {
        let server = ServerName::try_from(name.to_owned()).unwrap();
        let Ok(mut tls) = TlsConnector::from(Arc::new(config)).connect(server, stream).await else {
            return Saw::Nothing;
        };
        tls.write_all(b"GET").await.unwrap();
        let chain = tls.get_ref().1.peer_certificates().unwrap();
        if self.authority.pem().contains(&pem_body(chain.last().unwrap())) { Saw::Theirs } else { Saw::Ours }
    }

    /// A client that trusts both worlds.
    fn trusting(&self) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        builder.with_root_certificates(self.both()).with_no_client_auth()
    }

    fn both(&self) -> RootCertStore {
        let mut trusted = self.authority.roots();
        trusted.roots.extend(roots(&self.proxy.ca_pem()).roots);
        trusted
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

/// RFC 8446 section 5.1: a hello may come in as many records and segments as its client likes.
#[tokio::test]
async fn a_hello_in_one_byte_pieces_or_over_16_kib_is_answered() {
    let rig = rig(|wanted| wanted).await;
    let (_, stream) = connect(rig.proxy.address(), &rig.target, Some("ca")).await;
    stream.set_nodelay(true).unwrap();
    assert_eq!(rig.judge(rig.trusting(), "mirror.example", Dribble(stream)).await, Saw::Ours);
    let mut large = rig.trusting();
    large.alpn_protocols = (0..100).map(|number| vec![number; 255]).chain([b"http/1.1".to_vec()]).collect();
    assert_eq!(rig.shown_to(large, "mirror.example").await, Saw::Ours);
}

#[tokio::test]
async fn what_cannot_be_answered_in_the_origins_place_reaches_the_origin() {
    let rig = rig(|wanted| wanted.with("intercept.mode", "always").and("admit.allow", "127.0.0.0/8")).await;
    let mut nameless = rig.trusting();
    nameless.enable_sni = false;
    assert_eq!(rig.shown_to(nameless, "mirror.example").await, Saw::Theirs, "no SNI");
    let suite = hpke::ALL_SUPPORTED_SUITES[0];
    let (public, _) = suite.generate_key_pair().unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_ech(EchMode::Grease(EchGreaseConfig::new(suite, public))).unwrap();
    let encrypted = builder.with_root_certificates(rig.both()).with_no_client_auth();
    assert_eq!(rig.shown_to(encrypted, "mirror.example").await, Saw::Theirs, "ECH, RFC 9849");
    // A name that the origin has no certificate for: its own is refused, and none of ours was made.
    assert_eq!(rig.shown_to(rig.trusting(), "bank.example").await, Saw::Nothing, "another SNI");
    assert_eq!(rig.shown_to(rig.trusting(), "a.mirror.example").await, Saw::Nothing, "another one, that we could sign");
    let address = rig.mirror.origin.address.to_string();
    let (answer, stream) = connect(rig.proxy.address(), &address, Some("ca")).await;
    assert_eq!(answer.status, 200, "{}", answer.reason);
    assert_eq!(rig.judge(rig.trusting(), "mirror.example", stream).await, Saw::Theirs, "a CONNECT to an address");
    let metrics = rig.proxy.metrics();
    assert!(metrics.contains("intercept_leaves_signed_total 0"), "{metrics}");
    assert!(metrics.contains("intercept_handshakes_total{outcome=\"other-name\"} 2"), "{metrics}");
}

/// A stream that is written to one byte at a time.
struct Dribble(TcpStream);

impl AsyncRead for Dribble {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Dribble {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &buf[..buf.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A server of another protocol on a module host's port was never heard: each side waited for the other.
#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 speaking first\r\n").await.unwrap();
        let mut heard = [0; 6];
        stream.read_exact(&mut heard).await.unwrap();
        stream.write_all(&heard).await.unwrap();
    });
    let (proxy, target) = in_front_of(address, &Authority::new(), |wanted| wanted);
    let (answer, mut stream) = connect(proxy.address(), &target, Some("ca")).await;
    assert_eq!(answer.status, 200);
    let mut greeting = [0; 20];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 speaking first\r\n");
    stream.write_all(b"hello!").await.unwrap();
    let mut echoed = [0; 6];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"hello!");
}

/// A client waited 10 s for a handshake with an origin that is silent, and printed nothing of use: it
/// shakes hands with us, and is told within that time. (For modules there are more tries, and go waits.)
#[tokio::test]
async fn a_silent_origin_is_told_of_before_go_would_give_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (proxy, target) = in_front_of(listener.local_addr().unwrap(), &Authority::new(), |wanted| wanted);
    let (_, stream) = connect(proxy.address(), &target, Some("ca")).await;
    let mut tls = handshake(stream, "mirror.example", roots(&proxy.ca_pem()), &[b"http/1.1"]).await.unwrap();
    let head = format!("GET /index?since=1 HTTP/1.1\r\nHost: {target}\r\n\r\n");
    let answer = tokio::time::timeout(Duration::from_secs(10), request(&mut tls, &head)).await;
    let answer = answer.expect("an answer within go's 10 s");
    assert!(answer.status == 504 || answer.status == 502, "{answer:?}");
    assert!(answer.text().contains("mirror.example"), "{answer:?}");
    drop(listener);
}

/// A build that was told "unknown authority" once is not told so again because we were restarted.
#[tokio::test]
async fn a_rejection_outlives_a_restart() {
    let rig = rig(|wanted| wanted.with("intercept.mode", "always")).await;
    assert_eq!(rig.seen_by(None, false).await, Saw::Nothing);
    let rig = rig.restarted(|wanted, folder| {
        assert!(folder.path().join("state/rejections.jsonl").is_file());
        wanted.with("intercept.mode", "always")
    });
    assert_eq!(rig.seen_by(None, false).await, Saw::Theirs);
    assert_eq!(rig.seen_by(Some("other"), true).await, Saw::Ours);
}

/// Nobody but the client can show its certificate, so whoever intercepts such a host breaks it.
#[tokio::test]
async fn a_host_that_wants_client_certificates_is_tunnelled_once_that_is_known() {
    let authority = Authority::new();
    let mirror = Mirror::tls(authority.server_asking(&["mirror.example"]), MODULE, &["v1.0.0"]).await;
    let (proxy, target) = in_front_of(mirror.origin.address, &authority, |wanted| wanted);
    let rig = Rig { mirror, authority, target, proxy };
    let (_, stream) = connect(rig.proxy.address(), &rig.target, Some("ca")).await;
    let mut tls = handshake(stream, "mirror.example", roots(&rig.proxy.ca_pem()), &[b"http/1.1"]).await.unwrap();
    let head = format!("GET {PATH} HTTP/1.1\r\nHost: {}\r\n\r\n", rig.target);
    assert_eq!(request(&mut tls, &head).await.status, 502);
    assert_eq!(rig.shown_to(rig.trusting(), "mirror.example").await, Saw::Theirs);
    let rig = rig.restarted(|wanted, _| wanted);
    assert_eq!(rig.shown_to(rig.trusting(), "mirror.example").await, Saw::Theirs, "after a restart too");
}

#[tokio::test]
async fn a_rotation_serves_clients_of_both_cas_by_their_word() {
    let rig = rig(|wanted| wanted).await;
    let (old, old_pem) = (rig.proxy.fingerprint(), rig.proxy.ca_pem());
    let rig = rig.restarted(|wanted, folder| {
        let making = Making { if_there: IfThere::Overlap(Duration::from_secs(86_400)), keep_root: None };
        let further = ["athens.example".parse().unwrap()];
        intercept::Authority::create(&folder.path().join("ca"), &further, SystemTime::now(), making).unwrap();
        wanted
    });
    let new = rig.proxy.fingerprint();
    assert_ne!(new, old);
    let handed_out = get(rig.proxy.address(), "/ca.pem").await.text();
    let new_pem = handed_out.strip_suffix(&old_pem).expect("both roots, the new one first");
    let bundle = get(rig.proxy.address(), "/ca-bundle.pem").await;
    assert!(bundle.status == 404 || (bundle.text().contains(new_pem) && bundle.text().contains(&old_pem)));
    for (word, trusted) in [(&old, old_pem.as_str()), (&new, new_pem)] {
        for (user, accepted) in [(format!("ca-{word}"), true), ("ca-00000000".to_owned(), false)] {
            let (_, stream) = connect(rig.proxy.address(), &rig.target, Some(&user)).await;
            let shaken = handshake(stream, "mirror.example", roots(trusted), &[b"http/1.1"]).await;
            assert_eq!(shaken.is_ok(), accepted, "{user}");
        }
    }
    // Who names no CA was set up before: with the old one.
    let (_, stream) = connect(rig.proxy.address(), &rig.target, Some("ca")).await;
    assert!(handshake(stream, "mirror.example", roots(&old_pem), &[]).await.is_ok());
}
