//! Requests that no honest client sends: each refused with its status, one sentence, and the end
//! of the connection, and none of them reaches an origin.

use crate::support::client::raw;
use crate::support::daemon::goanyway;
use crate::support::origin::{Origin, text};

/// What is sent (`{origin}` is an origin that may be reached), and the status that answers it.
const TABLE: &[(&str, u16)] = &[
    ("GET http://{origin}/ HTTP/1.1\nHost: a\n\n", 400),
    ("GET http://{origin}/ HTTP/1.1\r\nHost: a\r\nX: a\nY: b\r\n\r\n", 400),
    ("GET http://{origin}/ HTTP/1.1\r\n\r\n", 400),
    ("GET http://{origin}/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ("GET http://{origin}/ HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    (
        "POST http://{origin}/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("POST http://{origin}/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n", 400),
    ("POST http://{origin}/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    ("POST http://{origin}/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    ("POST http://{origin}/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("POST http://{origin}/ HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", 400),
    ("POST http://{origin}/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde", 400),
    ("POST http://{origin}/ HTTP/1.1\r\nHost: a\r\nContent-Length : 3\r\n\r\nabc", 400),
    ("GET http://{origin}/ HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
    ("GET http://{origin}/ HTTP/1.1\r\nHost: a\r\nX: a\u{0}b\r\n\r\n", 400),
    ("GET http://u:p@{origin}/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET ftp://{origin}/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET http://{origin}/ HTTP/1.1\r\nHost: a\r\nExpect: 200-maybe\r\n\r\n", 417),
    ("GET  http://{origin}/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET http://{origin}/ HTTP/3.0\r\nHost: a\r\n\r\n", 400),
    ("TRACE http://{origin}/ HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    ("nonsense\r\n\r\n", 400),
    ("CONNECT {origin} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 400),
    ("CONNECT {origin} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("CONNECT 127.0.0.1 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("CONNECT 127.0.0.1: HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("CONNECT 127.0.0.1:443x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("CONNECT 127.0.0.1:+443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("CONNECT 127.0.0.1:65616 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("CONNECT u@127.0.0.1:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("CONNECT a..b:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("CONNECT http://{origin}/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /golang.org/x/../y/@v/list HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    ("GET /golang.org/x%2f..%2fy/@v/list HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    ("GET /github.com/BurntSushi/toml/@v/list HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    ("GET /golang.org/x/net/@v/nonsense.zip HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    ("POST /golang.org/x/net/@v/list HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 405),
];

#[tokio::test]
async fn each_is_refused_in_one_sentence_and_nothing_reaches_the_origin() {
    let origin = Origin::plain(|_| text(200, "reached")).await;
    let proxy = goanyway().and("admit.ports", &origin.address.port().to_string()).start();
    for (request, status) in TABLE {
        let request = request.replace("{origin}", &origin.address.to_string());
        // The client has no more to say: an answer that keeps the connection then ends it too.
        let heard = finished(proxy.address(), request.as_bytes()).await;
        let first = heard.lines().next().unwrap_or_default();
        assert!(first.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}\n{heard}");
        assert!(heard.contains("goanyway: "), "{request:?}\n{heard}");
        assert_eq!(heard.contains("\r\nallow: "), *status == 405, "{request:?}\n{heard}");
    }
    assert!(origin.heard().is_empty(), "{:?}", origin.heard());
}

async fn finished(to: std::net::SocketAddr, bytes: &[u8]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard).await;
    String::from_utf8_lossy(&heard).into_owned()
}

#[tokio::test]
async fn a_request_after_a_refused_one_is_not_executed() {
    let origin = Origin::plain(|_| text(200, "reached")).await;
    let proxy = goanyway().and("admit.ports", &origin.address.port().to_string()).start();
    let good = format!("GET http://{}/ HTTP/1.1\r\nHost: a\r\n\r\n", origin.address);
    let bad = format!("GET http://{}/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", origin.address);
    let heard = raw(proxy.address(), format!("{good}{bad}{good}").as_bytes()).await;
    assert_eq!(heard.matches("HTTP/1.1 200").count(), 1, "{heard}");
    assert_eq!(heard.matches("HTTP/1.1 400").count(), 1, "{heard}");
    assert_eq!(origin.heard().len(), 1);
}

#[tokio::test]
async fn heads_without_end_are_refused_while_they_come() {
    let proxy = goanyway().start();
    let line = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(40_000));
    assert!(raw(proxy.address(), line.as_bytes()).await.starts_with("HTTP/1.1 414"));
    let fields = "X: y\r\n".repeat(12_000);
    let head = format!("GET /golang.org/x/net/@v/list HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    assert!(raw(proxy.address(), head.as_bytes()).await.starts_with("HTTP/1.1 431"));
}
