//! Plain http in absolute form: passed on as RFC 9110 wants it, cut where the origin cut it.

use tokio::net::TcpStream;

use crate::support::client::{connect, get, get_through, raw, request};
use crate::support::daemon::goanyway;
use crate::support::mirror::Mirror;
use crate::support::origin::{Origin, closed_port, scripted, text};

#[tokio::test]
async fn a_request_goes_on_without_what_was_meant_for_us() {
    let origin = Origin::plain(|_| {
        let mut response = text(200, "fine");
        response.headers_mut().insert("connection", "x-hop".parse().unwrap());
        response.headers_mut().insert("x-hop", "1".parse().unwrap());
        response
    })
    .await;
    let proxy = goanyway().knowing("origin.example", origin.address).start();
    let authority = format!("origin.example:{}", origin.address.port());
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let head = format!(
        "GET http://{authority}/a?b=c HTTP/1.1\r\nHost: evil.example\r\nConnection: close, X-Foo\r\nX-Foo: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nTE: trailers\r\n\
         X-Kept: yes\r\n\r\n"
    );
    let answer = request(&mut stream, &head).await;
    assert_eq!((answer.status, answer.text().as_str(), answer.header("x-hop")), (200, "fine", None));
    assert!(answer.header("via").unwrap().starts_with("1.1 goanyway-"));

    let heard = origin.heard().remove(0);
    assert_eq!(heard.uri, "/a?b=c");
    assert_eq!(heard.headers["host"], authority);
    assert_eq!(heard.headers["x-kept"], "yes");
    assert!(heard.headers["via"].to_str().unwrap().starts_with("1.1 goanyway-"));
    for gone in ["x-foo", "keep-alive", "proxy-connection", "proxy-authorization", "te"] {
        assert!(!heard.headers.contains_key(gone), "{gone} was passed on");
    }
}

#[tokio::test]
async fn bodies_go_both_ways() {
    let origin = Origin::plain(|heard| text(200, heard.body.clone())).await;
    let proxy = goanyway().and("admit.ports", &origin.address.port().to_string()).start();
    let url = format!("http://{}/", origin.address);
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let sized = format!("POST {url} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nsized");
    assert_eq!(request(&mut stream, &sized).await.text(), "sized");
    let chunked = format!(
        "POST {url} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nchu\r\n4\r\nnked\r\n0\r\n\r\n"
    );
    assert_eq!(request(&mut stream, &chunked).await.text(), "chunked");
}

#[tokio::test]
async fn a_body_that_the_origin_cuts_is_cut_to_the_client() {
    let origin = scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this").await;
    let proxy = goanyway().and("admit.ports", &origin.port().to_string()).start();
    let answer = get_through(proxy.address(), &format!("http://{origin}/")).await;
    assert!(answer.status == 200 && answer.cut, "{answer:?}");

    let origin = scripted(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nonly\r\n").await;
    let proxy = goanyway().and("admit.ports", &origin.port().to_string()).start();
    let answer = get_through(proxy.address(), &format!("http://{origin}/")).await;
    assert!(answer.status == 200 && answer.cut, "{answer:?}");
}

#[tokio::test]
async fn a_request_that_comes_round_again_is_a_loop() {
    // Two proxies, each the other's parent: the request must not circle.
    let first = goanyway().start();
    let second = goanyway().with("connect.parent", &format!("http://{}", first.address())).start();
    let address = first.address();
    let folder = first.stop();
    let first = goanyway()
        .after(folder)
        .with("listen", &address.to_string())
        .with("connect.parent", &format!("http://{}", second.address()))
        .start();
    let answer = get_through(first.address(), "http://origin.example/").await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("loop"), "{}", answer.text());
}

/// A CONNECT had no `Via`: it went round until the second proxy or the first had no descriptors left
/// (20,000 of them within two seconds, by one request).
#[tokio::test]
async fn a_connect_that_comes_round_again_is_a_loop_too() {
    let first = goanyway().start();
    let second = goanyway().with("connect.parent", &format!("http://{}", first.address())).start();
    let address = first.address();
    let folder = first.stop();
    let first = goanyway()
        .after(folder)
        .with("listen", &address.to_string())
        .with("connect.parent", &format!("http://{}", second.address()))
        .start();
    let (answer, _) = connect(first.address(), "origin.example:443", None).await;
    assert_eq!(answer.status, 502);
    assert!(answer.reason.contains("opened no tunnel: it answered 502"), "{}", answer.reason);
    // Once round: each connected to the other, and the first knew its own name.
    for proxy in [&first, &second] {
        let metrics = proxy.metrics();
        let connected = metrics.lines().find(|line| line.contains("connect_attempts") && line.contains("connected"));
        assert!(connected.is_some_and(|line| line.ends_with(" 1")), "{connected:?}");
    }
}

/// What the request has been through is told to the parent: a loop is ended by whoever began it.
#[tokio::test]
async fn a_parent_is_told_who_the_connect_has_been_through() {
    let parent = Origin::plain(|_| text(403, "no")).await;
    let proxy = goanyway().with("connect.parent", &format!("http://{}", parent.address)).start();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let head = "CONNECT origin.example:443 HTTP/1.1\r\nHost: origin.example:443\r\nVia: 1.1 fred\r\n\r\n";
    assert_eq!(request(&mut stream, head).await.status, 502);
    let heard = parent.heard().remove(0);
    assert!(heard.headers["via"].to_str().unwrap().starts_with("1.1 fred, 1.1 goanyway-"), "{heard:?}");
}

/// A listener on all addresses is at each of this machine's. One that is named as our parent (the
/// machine of a company's proxy has the company's HTTPS_PROXY set, too) is ignored as any other.
#[tokio::test]
async fn a_listener_on_all_addresses_is_known_by_each_of_them() {
    let Some(own) = own_address() else { return };
    let mirror = Mirror::of("example.com/m", &["v1.0.0"]).await;
    let proxy = goanyway()
        .with("listen", "0.0.0.0:0")
        .with("admit.clients", "127.0.0.0/8")
        .with("goproxy.upstreams", &mirror.url())
        .start();
    let (address, folder) = (proxy.address(), proxy.stop());
    let at = format!("{own}:{}", address.port());
    let _serving = goanyway()
        .after(folder)
        .with("listen", &address.to_string())
        .with("admit.clients", "127.0.0.0/8")
        .with("goproxy.upstreams", &mirror.url())
        .with("connect.parent", &format!("http://{at}"))
        .with("admit.allow", "0.0.0.0/0")
        .and("admit.ports", &address.port().to_string())
        .start();
    let local = std::net::SocketAddr::from(([127, 0, 0, 1], address.port()));
    let absolute = get_through(local, &format!("http://{at}/example.com/m/@v/list")).await;
    assert_eq!((absolute.status, absolute.text().trim()), (200, "v1.0.0"));
    let (answer, _) = connect(local, &at, None).await;
    assert_eq!(answer.status, 403);
    assert!(answer.reason.contains("does not connect to itself"), "{}", answer.reason);
}

/// An address of this machine beside loopback, if it has one. Nothing is sent to find out.
fn own_address() -> Option<std::net::Ipv4Addr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    match socket.local_addr().ok()?.ip() {
        std::net::IpAddr::V4(own) if !own.is_loopback() && !own.is_unspecified() => Some(own),
        _ => None,
    }
}

/// A 101 that nobody asked for was passed on, and the client waited for a protocol that never came.
#[tokio::test]
async fn an_origin_cannot_switch_protocols_unasked() {
    let origin = scripted(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n").await;
    let proxy = goanyway().and("admit.ports", &origin.port().to_string()).start();
    assert_eq!(get_through(proxy.address(), &format!("http://{origin}/")).await.status, 502);
}

#[tokio::test]
async fn failures_are_told_in_a_body_that_go_prints() {
    let closed = closed_port().await;
    let proxy = goanyway().and("admit.ports", &closed.port().to_string()).start();
    let answer = get_through(proxy.address(), &format!("http://{closed}/")).await;
    assert_eq!((answer.status, answer.header("content-type")), (502, Some("text/plain; charset=utf-8")));
    assert!(answer.text().starts_with("goanyway: cannot connect to"), "{}", answer.text());

    let answer = get_through(proxy.address(), "http://nowhere.example/").await;
    assert!(answer.text().contains("hint: goanyway resolve nowhere.example"), "{}", answer.text());
    let answer = get(proxy.address(), "/").await;
    assert!(answer.status == 404 && answer.text().contains("GOPROXY"), "{answer:?}");
}

/// With HTTP_PROXY and GOPROXY at the same address of ours, go sends absolute form that names us.
#[tokio::test]
async fn absolute_form_that_names_ourselves_is_served() {
    let mirror = Mirror::of("example.com/m", &["v1.0.0"]).await;
    let proxy = goanyway().with("goproxy.upstreams", &mirror.url()).start();
    let direct = get(proxy.address(), "/example.com/m/@v/list").await;
    let absolute = get_through(proxy.address(), &format!("http://{}/example.com/m/@v/list", proxy.address())).await;
    assert_eq!((direct.status, direct.text().trim()), (200, "v1.0.0"));
    assert_eq!((absolute.status, absolute.text()), (200, direct.text()));
}

#[tokio::test]
async fn the_admin_port_answers_its_own_names_alone() {
    let proxy = goanyway().start();
    assert_eq!(get(proxy.admin(), "/healthz").await.text(), "ok\n");
    assert_eq!(get(proxy.admin(), "/readyz").await.status, 200);
    let metrics = get(proxy.admin(), "/metrics").await;
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(metrics.text().contains("goanyway_accept_connections") && metrics.text().ends_with("# EOF\n"));
    let rebound = raw(proxy.admin(), b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await;
    assert!(rebound.starts_with("HTTP/1.1 403"), "{rebound}");
}

/// Plain http goes to a parent in absolute form, and the parent hears the password that its URL has.
#[tokio::test]
async fn a_parent_is_spoken_to_in_absolute_form() {
    let parent = Origin::plain(|_| text(200, "from the parent")).await;
    let ours = goanyway().with("connect.parent", &format!("http://us%65r:secret@{}", parent.address)).start();
    let answer = get_through(ours.address(), "http://inside.example/a?b").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "from the parent"), "{answer:?}");
    let heard = parent.heard().remove(0);
    assert_eq!(heard.uri, "http://inside.example/a?b");
    assert_eq!(heard.headers["proxy-authorization"], "Basic dXNlcjpzZWNyZXQ=");
    assert_eq!(heard.headers["host"], "inside.example");
}
