//! Parent proxies: over TLS, with credentials, around some names, and what they say told again.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::authority::Authority;
use crate::support::client::{connect, get, get_through, handshake, read_head};
use crate::support::daemon::{Wanted, goanyway};
use crate::support::mirror::Mirror;
use crate::support::origin::{Origin, echo, scripted, text};

/// A parent over TLS, as `parent.example`, that opens every tunnel to `to`; and the heads that it was sent.
async fn parent_over_tls(authority: &Authority, to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(authority.server(&["parent.example"]));
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let heads = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, heads) = (acceptor.clone(), Arc::clone(&heads));
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let head = read_head(&mut stream).await.unwrap();
                heads.lock().unwrap().push(head);
                let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 Fine\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut far).await;
            });
        }
    });
    (address, heard)
}

/// A daemon behind this parent, whose authority it trusts.
fn behind(authority: &Authority, parent: SocketAddr) -> Wanted {
    goanyway()
        .with("connect.parent", &format!("https://us%20er:p%40ss@parent.example:{}", parent.port()))
        .trusting(authority)
        .with("resolve.hosts", "parent.example=127.0.0.1")
}

#[tokio::test]
async fn a_tunnel_goes_through_a_parent_over_tls_with_its_credentials() {
    let (authority, echo) = (Authority::new(), echo().await);
    let (parent, heard) = parent_over_tls(&authority, echo).await;
    let proxy = behind(&authority, parent).start();
    let (answer, mut stream) = connect(proxy.address(), "far.example:443", None).await;
    assert_eq!(answer.status, 200, "{}", answer.reason);
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"hello");
    let head = heard.lock().unwrap()[0].clone();
    assert!(head.starts_with("CONNECT far.example:443 HTTP/1.1\r\n"), "the name, unresolved: {head}");
    assert!(head.contains("Proxy-Authorization: Basic dXMgZXI6cEBzcw==\r\n"), "{head}");
}

/// TLS to the origin within TLS to the parent: what is fetched by ourselves, for a module.
#[tokio::test]
async fn a_mirror_is_reached_through_a_parent_over_tls() {
    let authority = Authority::new();
    let config = authority.server(&["mirror.example"]);
    let mirror = Mirror::tls(config, "example.com/m", &["v1.0.0"]).await;
    let (parent, heard) = parent_over_tls(&authority, mirror.origin.address).await;
    let proxy = behind(&authority, parent).with("goproxy.upstreams", "https://mirror.example").start();
    let answer = get(proxy.address(), "/example.com/m/@v/v1.0.0.mod").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(heard.lock().unwrap()[0].starts_with("CONNECT mirror.example:443 "));
}

#[tokio::test]
async fn a_parent_with_anothers_certificate_gets_nothing() {
    let (authority, echo) = (Authority::new(), echo().await);
    let (parent, heard) = parent_over_tls(&Authority::new(), echo).await;
    let proxy = behind(&authority, parent).start();
    let (answer, _) = connect(proxy.address(), "far.example:443", None).await;
    assert_eq!(answer.status, 502);
    assert!(answer.reason.contains("certificate refused"), "{}", answer.reason);
    assert!(heard.lock().unwrap().is_empty());
}

/// Each refusal in our voice, with what the operator can do.
#[tokio::test]
async fn what_a_parent_says_reaches_the_client() {
    for (said, words) in [
        (&b"HTTP/1.1 403 not on Sundays\r\n\r\n"[..], "it answered 403 not on Sundays"),
        (b"HTTP/1.1 407 Who are you\r\n\r\n", "407 Who are you; name one: --parent http://USER:PASSWORD@HOST"),
        (b"HTTP/1.1 502 no such host\r\n\r\n", "it answered 502 no such host"),
        (b"SSH-2.0-no\r\n\r\n", "no HTTP answer"),
        (b"", "it closed the connection"),
    ] {
        let parent = scripted(said).await;
        let proxy = goanyway().with("connect.parent", &format!("http://{parent}")).start();
        let (answer, _) = connect(proxy.address(), "far.example:443", None).await;
        assert_eq!(answer.status, 502, "{}", answer.reason);
        assert!(answer.reason.contains(words), "{}", answer.reason);
        assert!(answer.reason.contains(&format!("the parent proxy http://{parent}: ")), "{}", answer.reason);
    }
}

/// A parent's 407 is about us: a client that saw it would send its own password there.
#[tokio::test]
async fn a_parents_challenge_to_plain_http_is_no_challenge_of_ours() {
    let parent = Origin::plain(|_| text(407, "who are you")).await;
    let proxy = goanyway().with("connect.parent", &format!("http://{}", parent.address)).start();
    let answer = get_through(proxy.address(), "http://far.example/").await;
    assert_eq!((answer.status, answer.header("proxy-authenticate")), (502, None));
    assert!(answer.text().contains("--parent http://USER:PASSWORD@"), "{}", answer.text());
    assert_eq!(parent.heard()[0].uri, "http://far.example/");
}

#[tokio::test]
async fn a_parent_that_is_ourselves_is_ignored_and_said() {
    let echo = echo().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let proxy = goanyway()
        .with("listen", &format!("127.0.0.1:{port}"))
        .with("listen_names", "proxy.corp.example")
        .with("connect.parent", &format!("http://proxy.corp.example:{port}"))
        .knowing("echo.example", echo)
        .start();
    assert!(
        proxy.notices().iter().any(|notice| notice.contains("is this very proxy: ignored")),
        "{:?}",
        proxy.notices()
    );
    let (answer, _) = connect(proxy.address(), &format!("echo.example:{}", echo.port()), None).await;
    assert_eq!(answer.status, 200, "{}", answer.reason);
}

/// RFC 9525 section 6.3: a name stands in the alternative names or nowhere.
#[tokio::test]
async fn a_mirror_whose_certificate_has_no_alternative_name_is_refused() {
    let authority = Authority::new();
    let config = authority.server_of_old("mirror.example");
    let mirror = Mirror::tls(config, "example.com/m", &["v1.0.0"]).await;
    let proxy = goanyway()
        .with("goproxy.upstreams", &format!("https://mirror.example:{}", mirror.origin.address.port()))
        .trusting(&authority)
        .knowing("mirror.example", mirror.origin.address)
        .start();
    let answer = get(proxy.address(), "/example.com/m/@v/v1.0.0.mod").await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(answer.text().contains("certificate"), "{}", answer.text());
    assert!(mirror.origin.heard().is_empty());
    // Not for want of trust in its authority.
    let stream = tokio::net::TcpStream::connect(mirror.origin.address).await.unwrap();
    let error = handshake(stream, "mirror.example", authority.roots(), &[]).await.unwrap_err();
    assert!(!error.to_string().contains("UnknownIssuer"), "{error}");
}

/// One site's names have a parent of their own, one of its hosts none; everybody else goes directly.
#[tokio::test]
async fn some_names_have_a_parent_of_their_own() {
    let parent = Origin::plain(|_| text(200, "by the parent")).await;
    let near = Origin::plain(|_| text(200, "by ourselves")).await;
    let proxy = goanyway()
        .and("connect.parent", "near.lab.example=none")
        .and("connect.parent", &format!("lab.example=http://{}", parent.address))
        .knowing("near.lab.example", near.address)
        .knowing("other.example", near.address)
        .start();
    let port = near.address.port();
    let table = [
        (format!("http://far.lab.example:{port}/"), "by the parent"),
        (format!("http://near.lab.example:{port}/"), "by ourselves"),
        (format!("http://other.example:{port}/"), "by ourselves"),
    ];
    for (url, by) in table {
        assert_eq!(get_through(proxy.address(), &url).await.text(), by, "{url}");
    }
}
