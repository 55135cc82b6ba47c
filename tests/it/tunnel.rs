//! Tunnels: dialled before they are promised, carried untouched, refused in words.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::{connect, raw, request};
use crate::support::daemon::goanyway;
use crate::support::origin::{closed_port, echo};

#[tokio::test]
async fn what_goes_in_comes_out_at_the_other_end_and_back() {
    let origin = echo().await;
    let proxy = goanyway().knowing("echo.example", origin).start();
    let (answer, mut tunnel) = connect(proxy.address(), &format!("echo.example:{}", origin.port()), None).await;
    assert_eq!((answer.status, answer.header("content-length"), answer.header("transfer-encoding")), (200, None, None));
    tunnel.write_all(b"hello").await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut heard = Vec::new();
    tunnel.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"hello");
}

#[tokio::test]
async fn bytes_sent_with_the_connect_are_not_lost() {
    let origin = echo().await;
    let proxy = goanyway().knowing("echo.example", origin).start();
    let target = format!("echo.example:{}", origin.port());
    let mut tunnel = TcpStream::connect(proxy.address()).await.unwrap();
    let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nearly");
    assert_eq!(request(&mut tunnel, &head).await.status, 200);
    tunnel.shutdown().await.unwrap();
    let mut heard = Vec::new();
    tunnel.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"early");
}

/// An orderly end in place of a reset makes a cut answer look whole.
#[tokio::test]
async fn a_reset_of_the_origin_reaches_the_client_as_one() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = listener.local_addr().unwrap();
    let proxy = goanyway().and("admit.ports", &origin.port().to_string()).start();
    let (_, mut tunnel) = connect(proxy.address(), &origin.to_string(), None).await;
    let (stream, _) = listener.accept().await.unwrap();
    goanyway::socket::reset_on_close(&stream);
    drop(stream);
    let heard = tunnel.read_to_end(&mut Vec::new()).await;
    assert_eq!(heard.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn pip_speaks_http_1_0_without_a_host() {
    let origin = echo().await;
    let proxy = goanyway().knowing("echo.example", origin).start();
    let mut tunnel = TcpStream::connect(proxy.address()).await.unwrap();
    let answer = request(&mut tunnel, &format!("CONNECT echo.example:{} HTTP/1.0\r\n\r\n", origin.port())).await;
    assert_eq!(answer.status, 200);
    tunnel.write_all(b"x").await.unwrap();
    assert_eq!(tunnel.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_refused_in_the_reason_phrase() {
    let proxy = goanyway().start();
    let (answer, _) = connect(proxy.address(), "nowhere.example:443", None).await;
    assert_eq!(answer.status, 502);
    assert!(answer.reason.starts_with("goanyway: "), "{}", answer.reason);
    assert!(answer.reason.contains("nowhere.example"), "{}", answer.reason);
    assert!(answer.reason.contains("try: goanyway resolve nowhere.example"), "{}", answer.reason);
    assert!(answer.reason.len() <= 160, "{}", answer.reason.len());
    assert!(answer.header("proxy-status").unwrap().contains("error=dns_error"), "{answer:?}");
}

/// The hint names the name once more: with a long one nothing else was left of the phrase.
#[tokio::test]
async fn a_long_name_leaves_room_for_the_diagnosis() {
    let proxy = goanyway().start();
    let name = format!("{0}.{0}.{0}.example", "a".repeat(60));
    let (answer, _) = connect(proxy.address(), &format!("{name}:443"), None).await;
    assert_eq!(answer.status, 502);
    assert!(answer.reason.starts_with("goanyway: no "), "{}", answer.reason);
    assert!(answer.reason.len() <= 160, "{}", answer.reason.len());
}

/// A tunnel gave its place back when it began, so that the limit of connections held for none of them.
#[tokio::test]
async fn a_tunnel_keeps_its_place_in_the_house() {
    let origin = echo().await;
    let proxy = goanyway().knowing("echo.example", origin).start();
    let (_, mut tunnel) = connect(proxy.address(), &format!("echo.example:{}", origin.port()), None).await;
    tunnel.write_all(b"x").await.unwrap();
    assert_eq!(tunnel.read_u8().await.unwrap(), b'x');
    let metrics = proxy.metrics();
    assert!(metrics.lines().any(|line| line == "goanyway_accept_connections 1"), "{metrics}");
}

#[tokio::test]
async fn a_port_that_refuses_is_named_with_its_address() {
    let closed = closed_port().await;
    let proxy = goanyway().knowing("closed.example", closed).start();
    let (answer, _) = connect(proxy.address(), &format!("closed.example:{}", closed.port()), None).await;
    assert_eq!(answer.status, 502);
    assert!(answer.reason.contains("127.0.0.1 refused"), "{}", answer.reason);
    assert!(answer.header("proxy-status").unwrap().contains("error=connection_refused"), "{answer:?}");
}

#[tokio::test]
async fn denials_name_the_flag_that_would_allow_it() {
    let proxy = goanyway().with("admit.allow", "192.0.2.0/24").start();
    let refused = [
        ("a.example:25", "--allow-port 25"),
        ("127.0.0.1:443", "--allow-target 127.0.0.1"),
        ("0x7f000001:443", "--allow-target 127.0.0.1"),
        ("[::1]:443", "--allow-target ::1"),
        ("[::ffff:127.0.0.1]:443", "--allow-target 127.0.0.1"),
        ("169.254.169.254:443", "metadata"),
    ];
    for (target, words) in refused {
        let (answer, _) = connect(proxy.address(), target, None).await;
        assert_eq!(answer.status, 403, "{target}");
        assert!(answer.reason.contains(words), "{target}: {}", answer.reason);
    }
}

#[tokio::test]
async fn a_name_that_resolves_inwards_is_denied_after_dns() {
    let origin = echo().await;
    let proxy = goanyway().with("admit.allow", "192.0.2.0/24").knowing("inwards.example", origin).start();
    let (answer, _) = connect(proxy.address(), &format!("inwards.example:{}", origin.port()), None).await;
    assert_eq!(answer.status, 403);
    assert!(answer.reason.contains("loopback"), "{}", answer.reason);
}

#[tokio::test]
async fn we_are_never_dialled_by_ourselves() {
    let proxy = goanyway().start();
    let (own, admin) = (proxy.address(), proxy.admin());
    drop(proxy);
    let proxy = goanyway()
        .with("listen", &own.to_string())
        .with("admin.listen", &admin.to_string())
        .with("admit.ports", &own.port().to_string())
        .and("admit.ports", &admin.port().to_string())
        .start();
    for target in [own, admin] {
        let (answer, _) = connect(proxy.address(), &target.to_string(), None).await;
        assert_eq!(answer.status, 403);
        assert!(answer.reason.contains("does not connect to itself"), "{}", answer.reason);
    }
}

/// RFC 9931: whatever follows a refused CONNECT may be somebody else's bytes.
#[tokio::test]
async fn nothing_after_a_refused_connect_is_executed() {
    let origin = crate::support::origin::Origin::plain(|_| crate::support::origin::text(200, "reached")).await;
    let proxy = goanyway().and("admit.ports", &origin.address.port().to_string()).start();
    let url = format!("http://{}/", origin.address);
    let both = format!(
        "CONNECT nowhere.example:443 HTTP/1.1\r\nHost: nowhere.example\r\n\r\nGET {url} HTTP/1.1\r\nHost: x\r\n\r\n"
    );
    let heard = raw(proxy.address(), both.as_bytes()).await;
    assert_eq!(heard.matches("HTTP/1.1").count(), 1, "{heard}");
    assert!(origin.heard().is_empty());
}

/// A company's proxy stands between us and the world: it gets the name, which only it can resolve.
#[tokio::test]
async fn a_parent_gets_the_name_and_opens_the_tunnel() {
    let origin = echo().await;
    let parent = goanyway().knowing("inside.example", origin).start();
    let ours = goanyway()
        .with("connect.parent", &format!("http://{}", parent.address()))
        .and("admit.ports", &origin.port().to_string())
        .start();
    let target = format!("inside.example:{}", origin.port());
    let (answer, mut tunnel) = connect(ours.address(), &target, None).await;
    assert_eq!(answer.status, 200, "{}", answer.reason);
    tunnel.write_all(b"through two").await.unwrap();
    let mut heard = [0; 11];
    tunnel.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"through two");
}

/// Only where the parent cannot resolve the name does the ladder look up, and the CONNECT goes to
/// the address.
#[tokio::test]
async fn where_the_parent_cannot_resolve_we_do() {
    let origin = echo().await;
    let parent = goanyway().and("admit.ports", &origin.port().to_string()).start();
    let ours = goanyway()
        .with("connect.parent", &format!("http://{}", parent.address()))
        .knowing("outside.example", origin)
        .start();
    let (answer, mut tunnel) = connect(ours.address(), &format!("outside.example:{}", origin.port()), None).await;
    assert_eq!(answer.status, 200, "{}", answer.reason);
    tunnel.write_all(b"x").await.unwrap();
    assert_eq!(tunnel.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn a_parents_refusal_is_told_with_its_own_words() {
    let parent = goanyway().start();
    let ours =
        goanyway().with("connect.parent", &format!("http://{}", parent.address())).with("admit.ports", "25").start();
    let (answer, _) = connect(ours.address(), "mail.example:25", None).await;
    assert_eq!(answer.status, 502);
    assert!(answer.reason.contains(": it answered 403 goanyway: port 25 is not open"), "{}", answer.reason);
}
