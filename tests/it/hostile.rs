//! Requests that no honest client sends: each refused with its status, one sentence, and the end
//! of the connection, and none of them reaches an origin.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::client::{raw, read_head, request};
use crate::support::daemon::goanyway;
use crate::support::origin::{Origin, behaving, text};

/// Against hangs only: far beyond what anything here takes.
const AT_MOST: Duration = Duration::from_secs(60);

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
    let mut stream = TcpStream::connect(to).await.unwrap();
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

/// An origin that says its first words, then these without end, and how many bytes it got rid of.
async fn endless(first: &'static [u8], then: Vec<u8>) -> (SocketAddr, Arc<AtomicUsize>) {
    let said = Arc::new(AtomicUsize::new(0));
    let (counter, then) = (Arc::clone(&said), Arc::new(then));
    let address = behaving("127.0.0.1:0", move |mut stream| {
        let (counter, then) = (Arc::clone(&counter), Arc::clone(&then));
        async move {
            read_head(&mut stream).await.unwrap();
            let _ = stream.write_all(first).await;
            while stream.write_all(&then).await.is_ok() {
                counter.fetch_add(then.len(), Ordering::Relaxed);
            }
        }
    });
    (address.await, said)
}

/// Waits until such an origin is not listened to any more, half a second long; long before all of it was.
async fn is_heard_no_more(said: &AtomicUsize) {
    let (mut before, mut calm) = (0, 0);
    while calm < 10 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = said.load(Ordering::Relaxed);
        calm = if now == before && now > 0 { calm + 1 } else { 0 };
        before = now;
        assert!(before < 256 << 20, "it is heard out");
    }
}

/// All of it was kept for a client that did not read, for as long as the origin went on.
#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_says_too_much_before_its_answer_has_none() {
    const HINT: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n";
    const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    for (interim, reads) in [(HINT, true), (HINT, false), (CONTINUE, true)] {
        let (origin, said) = endless(b"", interim.repeat(100)).await;
        let proxy = goanyway().and("admit.ports", &origin.port().to_string()).start();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let head =
            format!("POST http://{origin}/ HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        if reads {
            let mut heard = Vec::new();
            let answered = |heard: &[u8]| String::from_utf8_lossy(heard).contains("of interim responses");
            while !answered(&heard) {
                let read = timeout(AT_MOST, client.read_buf(&mut heard)).await.expect("an answer").unwrap();
                assert!(read > 0, "{}", String::from_utf8_lossy(&heard));
            }
            assert!(String::from_utf8_lossy(&heard).contains("HTTP/1.1 502"));
        }
        is_heard_no_more(&said).await;
    }
}

/// RFC 9112 section 9.2: what an origin says unasked after its answer is nobody's, least of all the next client's.
#[tokio::test]
async fn an_answer_too_many_is_nobodys() {
    const TWO: &[u8] =
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let origin = behaving("127.0.0.1:0", |mut stream| async move {
        while read_head(&mut stream).await.is_ok() {
            stream.write_all(TWO).await.unwrap();
        }
    })
    .await;
    let proxy = goanyway().and("admit.ports", &origin.port().to_string()).start();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    for number in 0..20 {
        let head = format!("GET http://{origin}/{number} HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = timeout(AT_MOST, request(&mut client, &head)).await.expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "one"), "request {number}");
    }
}

/// What a client takes nothing of is not fetched for it: it stays with the origin.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_not_read_for() {
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n";
    let (origin, said) = endless(HEAD, vec![7; 65_536]).await;
    let proxy = goanyway().and("admit.ports", &origin.port().to_string()).start();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    client.write_all(format!("GET http://{origin}/ HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
    is_heard_no_more(&said).await;
}
