//! Plain http in absolute form: passed on as RFC 9110 wants it, cut where the origin cut it.

use std::sync::{Arc, Mutex};

use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::authority::Authority;
use crate::support::client::{connect, get, get_through, handshake, raw, read_answer, read_head, request, roots};
use crate::support::daemon::{Daemon, goanyway};
use crate::support::mirror::Mirror;
use crate::support::origin::{Origin, behaving, closed_port, scripted, text};

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

/// After a chunked request the connection was closed: its next head could not have been checked.
#[tokio::test]
async fn a_connection_goes_on_after_a_chunked_request() {
    let origin = Origin::plain(|heard| text(200, heard.body.clone())).await;
    let proxy = goanyway().and("admit.ports", &origin.address.port().to_string()).start();
    let url = format!("http://{}/", origin.address);
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    for body in ["one", "two", "six"] {
        let head = format!("POST {url} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        let answer = request(&mut stream, &format!("{head}3\r\n{body}\r\n0\r\n\r\n")).await;
        assert_eq!((answer.text().as_str(), answer.header("connection")), (body, None));
    }
    let smuggled = format!("POST {url} HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n");
    assert_eq!(request(&mut stream, &smuggled).await.status, 400);
}

/// RFC 9112, section 3.2.4: without a path it is the server's options that are asked for. A parent is asked
/// in absolute form, with the path that hyper gives it.
#[tokio::test]
async fn the_options_of_a_server_are_asked_of_it_with_an_asterisk() {
    let origin = Origin::plain(|_| text(200, "")).await;
    let url = format!("http://{}", origin.address);
    let parent = Origin::plain(|_| text(200, "")).await;
    let straight = goanyway().and("admit.ports", &origin.address.port().to_string()).start();
    let by_parent = goanyway().with("connect.parent", &format!("http://{}", parent.address)).start();
    for path in ["", "/", "/x"] {
        assert_eq!(options(straight.address(), &format!("{url}{path}")).await, 200);
    }
    assert_eq!(options(by_parent.address(), "http://far.example").await, 200);
    let heard = |origin: &Origin| origin.heard().into_iter().map(|heard| heard.uri).collect::<Vec<_>>();
    assert_eq!(heard(&origin), ["*", "/", "/x"]);
    assert_eq!(heard(&parent), ["http://far.example/"]);
}

async fn options(proxy: std::net::SocketAddr, url: &str) -> u16 {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    request(&mut stream, &format!("OPTIONS {url} HTTP/1.1\r\nHost: x\r\n\r\n")).await.status
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::plain(|heard| text(200, format!("<{}>", heard.uri))).await;
    let proxy = goanyway().and("admit.ports", &origin.address.port().to_string()).start();
    let ask = |path: &str, more: &str| format!("GET http://{}{path} HTTP/1.1\r\nHost: x\r\n{more}\r\n", origin.address);
    let all = [ask("/1", ""), ask("/2", ""), ask("/3", "Connection: close\r\n")].concat();
    let heard = raw(proxy.address(), all.as_bytes()).await;
    let places: Vec<_> = ["</1>", "</2>", "</3>"].iter().map(|part| heard.find(part)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{heard}");
}

/// CVE-2025-4366: what is left of a body was taken for the next request.
#[tokio::test]
async fn a_body_that_nobody_reads_is_not_the_next_request() {
    let origin = Origin::plain(|_| text(200, "reached")).await;
    let proxy = goanyway().and("admit.ports", &origin.address.port().to_string()).start();
    let smuggled = format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address);
    let length = smuggled.len();
    let own = format!("GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{smuggled}");
    let last = "GET /ca.pem HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let heard = raw(proxy.address(), format!("{own}{last}").as_bytes()).await;
    assert!(heard.starts_with("HTTP/1.1 404") && !heard.contains("reached"), "{heard}");
    assert!(origin.heard().is_empty());
}

/// The whole of a WebSocket handshake, with bytes sent early at either end.
#[tokio::test]
async fn protocols_are_switched_where_the_origin_agrees() {
    const AGREED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x05first";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await.unwrap();
        stream.write_all(AGREED).await.unwrap();
        let mut frames = Vec::new();
        stream.read_to_end(&mut frames).await.unwrap();
        stream.write_all(b"\x88\x00").await.unwrap();
        (head.to_lowercase(), frames)
    });
    let proxy = goanyway().and("admit.ports", &origin.port().to_string()).start();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let asked = format!(
        "GET http://{origin}/chat HTTP/1.1\r\nHost: {origin}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nearly\n\n"
    );
    client.write_all(asked.as_bytes()).await.unwrap();
    let agreed = read_head(&mut client).await.unwrap().to_lowercase();
    assert!(agreed.starts_with("http/1.1 101"), "{agreed}");
    for field in ["connection: upgrade", "upgrade: websocket", "sec-websocket-accept: s3pp", "via: 1.1 goanyway-"] {
        assert!(agreed.contains(field), "{field}: {agreed}");
    }
    client.write_all(b"late").await.unwrap();
    client.shutdown().await.unwrap();
    let mut frames = Vec::new();
    client.read_to_end(&mut frames).await.unwrap();
    assert_eq!(frames, b"\x81\x05first\x88\x00");
    let (head, frames) = serving.await.unwrap();
    assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
    assert_eq!(frames, b"early\n\nlate");
}

/// The same on an intercepted host: what is no module request passes through, switches too. The origin would
/// rather speak HTTP/2, which knows no switching: it got the request over that, and nothing came of it.
#[tokio::test]
async fn protocols_are_switched_on_intercepted_hosts_too() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = listener.local_addr().unwrap();
    let config = authority.server(&["mirror.example"]);
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = tokio_rustls::TlsAcceptor::from(config).accept(stream).await.unwrap();
        read_head(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 101 Over\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\nfirst").await.unwrap();
        let mut heard = [0; 9];
        stream.read_exact(&mut heard).await.unwrap();
        stream.write_all(b"last").await.unwrap();
        stream.shutdown().await.unwrap();
        heard
    });
    let proxy = goanyway()
        .trusting(&authority)
        .with("intercept.hosts", "mirror.example")
        .knowing("mirror.example", origin)
        .start();
    let user = format!("ca-{}", proxy.fingerprint());
    let target = format!("mirror.example:{}", origin.port());
    let (answer, stream) = connect(proxy.address(), &target, Some(&user)).await;
    assert_eq!(answer.status, 200, "{}", answer.reason);
    let mut client = handshake(stream, "mirror.example", roots(&proxy.ca_pem()), &[b"http/1.1"]).await.unwrap();
    let head = format!("GET /chat HTTP/1.1\r\nHost: {target}\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\nearly");
    client.write_all(head.as_bytes()).await.unwrap();
    assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 101"));
    client.write_all(b"late").await.unwrap();
    let mut heard = [0; 9];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!((&heard, &serving.await.unwrap()), (b"firstlast", b"earlylate"));
}

/// What gRPC lives on: trailers of both sides, over HTTP/2 at both ends.
#[tokio::test]
async fn trailers_go_both_ways_over_http_2() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = listener.local_addr().unwrap();
    let tls = tokio_rustls::TlsAcceptor::from(authority.server(&["mirror.example"]));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = tls.accept(stream).await.unwrap();
        let service = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
            let te = request.headers().get("te").is_some_and(|te| te == "trailers");
            let asked = request.into_body().collect().await.unwrap();
            let sum = asked.trailers().and_then(|trailers| trailers.get("x-sum")).cloned().unwrap();
            Ok::<_, std::convert::Infallible>(http::Response::new(with_trailers(if te { "te" } else { "" }, sum)))
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    });
    let proxy = goanyway()
        .trusting(&authority)
        .with("intercept.hosts", "mirror.example")
        .knowing("mirror.example", origin)
        .start();
    let (user, target) = (format!("ca-{}", proxy.fingerprint()), format!("mirror.example:{}", origin.port()));
    let (_, stream) = connect(proxy.address(), &target, Some(&user)).await;
    let stream = handshake(stream, "mirror.example", roots(&proxy.ca_pem()), &[b"h2"]).await.unwrap();
    let (mut sending, driving) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(driving);
    let request = http::Request::post(format!("https://{target}/grpc")).header("te", "trailers");
    let request = request.body(with_trailers("body", "7".parse().unwrap())).unwrap();
    let answer = sending.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.trailers().unwrap()["x-sum"], "7");
    assert_eq!(answer.to_bytes(), "te");
}

type Framed = http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, std::convert::Infallible>;

fn with_trailers(text: &'static str, sum: http::HeaderValue) -> Framed {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", sum);
    let data = http_body::Frame::data(bytes::Bytes::from_static(text.as_bytes()));
    let frames = futures_util::stream::iter([Ok(data), Ok(http_body::Frame::trailers(trailers))]);
    http_body_util::StreamBody::new(frames).boxed_unsync()
}

/// The client was told to go on before the origin had said a word.
#[tokio::test]
async fn whether_a_body_may_come_is_the_origins_word() {
    let refusing = scripted(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig").await;
    let proxy = goanyway().and("admit.ports", &refusing.port().to_string()).start();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let answer = request(&mut client, &expecting(refusing)).await;
    assert_eq!((answer.status, answer.text().as_str(), answer.header("connection")), (413, "big", Some("close")));

    // One agrees, and one knows nothing of expectations: a client that waits is not stuck.
    for agrees in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_head(&mut stream).await.unwrap();
            if agrees {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            }
            let mut body = [0; 4];
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nthat").await.unwrap();
            assert!(head.to_lowercase().contains("expect: 100-continue"), "{head}");
            body
        });
        let proxy = goanyway().and("admit.ports", &origin.port().to_string()).start();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        client.write_all(expecting(origin).as_bytes()).await.unwrap();
        assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 100"));
        client.write_all(b"this").await.unwrap();
        assert_eq!(read_answer(&mut client).await.text(), "that");
        assert_eq!(&serving.await.unwrap(), b"this");
    }
}

fn expecting(origin: std::net::SocketAddr) -> String {
    format!("PUT http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
}

/// An origin that answers the first request of each connection and ends it at the second, unanswered.
async fn forgetful() -> (std::net::SocketAddr, Arc<Mutex<Vec<String>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hearing = Arc::clone(&heard);
    let address = behaving("127.0.0.1:0", move |mut stream| {
        let heard = Arc::clone(&hearing);
        async move {
            for answers in [true, false] {
                let line = read_head(&mut stream).await.unwrap().lines().next().unwrap().to_owned();
                heard.lock().unwrap().push(line);
                if answers {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                }
            }
        }
    });
    (address.await, heard)
}

/// Seen in peers: a POST sent twice when the kept connection died under it.
#[tokio::test]
async fn what_may_have_had_an_effect_is_never_sent_twice() {
    let (origin, heard) = forgetful().await;
    let proxy = goanyway().and("admit.ports", &origin.port().to_string()).start();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let table = [
        ("GET", 200, vec!["GET / HTTP/1.1"]),
        ("GET", 200, vec!["GET / HTTP/1.1", "GET / HTTP/1.1"]),
        ("POST", 502, vec!["POST / HTTP/1.1"]),
    ];
    for (method, status, lines) in table {
        let ask = format!("{method} http://{origin}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(request(&mut client, &ask).await.status, status, "{method}");
        assert_eq!(std::mem::take(&mut *heard.lock().unwrap()), lines, "{method}");
    }
}

/// The same while a tunnel is dialled: an address that swallows what it is sent was waited for, and
/// the place in the house with it.
#[tokio::test]
async fn a_dial_ends_when_its_client_leaves() {
    let swallowing = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    swallowing.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    swallowing.listen(0).unwrap();
    let silent = swallowing.local_addr().unwrap().as_socket().unwrap();
    // Its queue is full, and the kernel drops what comes.
    let _filling = TcpStream::connect(silent).await.unwrap();
    let proxy = goanyway().and("admit.ports", &silent.port().to_string()).start();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    client.write_all(format!("CONNECT {silent} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    // An attempt alone would be given ten seconds.
    let answer = tokio::time::timeout(std::time::Duration::from_secs(8), read_answer(&mut client)).await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
}

/// Nobody looked whether the client was still there: the origin worked for nobody until it was done.
#[tokio::test]
async fn the_work_stops_when_the_client_leaves() {
    for resets in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = listener.local_addr().unwrap();
        let proxy = goanyway().and("admit.ports", &origin.port().to_string()).start();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        client.write_all(format!("GET http://{origin}/ HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await.unwrap();
        if resets {
            goanyway::socket::reset_on_close(&client);
        }
        drop(client);
        // The wait for an answer would be five minutes.
        let ended = tokio::time::timeout(std::time::Duration::from_secs(30), stream.read(&mut [0])).await;
        assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
    }
}

#[tokio::test]
async fn a_client_that_has_merely_finished_sending_is_answered() {
    let origin = Origin::plain(|_| text(200, "still there")).await;
    let proxy = goanyway().and("admit.ports", &origin.address.port().to_string()).start();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    client.write_all(format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address).as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_answer(&mut client).await.text(), "still there");
}

/// DNS rebinding: a page of evil.example whose name leads to loopback read what only this host may.
#[tokio::test]
async fn origin_form_over_loopback_is_for_names_of_ours() {
    let mirror = Mirror::of("example.com/m", &["v1.0.0"]).await;
    let proxy = goanyway().with("goproxy.upstreams", &mirror.url()).with("listen_names", "mods.corp.example").start();
    let port = proxy.address().port();
    let hosts = [
        (format!("127.0.0.1:{port}"), 200),
        (format!("localhost:{port}"), 200),
        ("goanyway".to_owned(), 200),
        ("mods.corp.example".to_owned(), 200),
        (format!("evil.example:{port}"), 421),
    ];
    for (host, status) in hosts {
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let answer =
            request(&mut client, &format!("GET /example.com/m/@v/list HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(answer.status, status, "{host}");
        assert_eq!(answer.text().contains("listen_names"), status == 421, "{host}");
    }
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

/// Two proxies, each the other's parent: nothing may go round.
fn a_circle() -> (Daemon, Daemon) {
    let first = goanyway().start();
    let second = goanyway().with("connect.parent", &format!("http://{}", first.address())).start();
    let address = first.address();
    let folder = first.stop();
    let first = goanyway()
        .after(folder)
        .with("listen", &address.to_string())
        .with("connect.parent", &format!("http://{}", second.address()))
        .start();
    (first, second)
}

#[tokio::test]
async fn a_request_that_comes_round_again_is_a_loop() {
    let (first, _second) = a_circle();
    let answer = get_through(first.address(), "http://origin.example/").await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("loop"), "{}", answer.text());
}

/// A CONNECT had no `Via`: it went round until the second proxy or the first had no descriptors left
/// (20,000 of them within two seconds, by one request).
#[tokio::test]
async fn a_connect_that_comes_round_again_is_a_loop_too() {
    let (first, second) = a_circle();
    let (answer, _) = connect(first.address(), "origin.example:443", None).await;
    assert_eq!(answer.status, 502);
    assert!(answer.reason.contains(": it answered 502"), "{}", answer.reason);
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
    assert!(answer.header("proxy-status").unwrap().contains("error=dns_"), "{answer:?}");
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
