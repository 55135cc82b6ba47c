//! HTTP/2 as no honest client speaks it, frame by frame, inside an intercepted connection: floods that cost us
//! more than their sender, heads that would be another request in HTTP/1.1, and answers that nobody reads.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::support::authority::Authority;
use crate::support::client::{connect, handshake, request, roots};
use crate::support::daemon::{Daemon, goanyway};
use crate::support::origin::{Heard, Origin, text};

/// Against hangs only: far beyond what anything here takes.
const AT_MOST: Duration = Duration::from_secs(60);
const HOST: &str = "mirror.example";

// Kinds and flags of frames (RFC 9113 section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;
const PROTOCOL_ERROR: u32 = 1;

/// A module host that is intercepted, and answers what it is told to.
struct Rig {
    origin: Origin,
    proxy: Daemon,
    target: String,
}

async fn rig(answer: impl Fn(&Heard) -> Response<Full<Bytes>> + Send + Sync + 'static) -> Rig {
    let authority = Authority::new();
    let origin = Origin::tls_at("127.0.0.1:0", authority.server(&[HOST]), answer).await;
    before(&authority, origin)
}

/// The same before this origin.
fn before(authority: &Authority, origin: Origin) -> Rig {
    let proxy = goanyway().trusting(authority).with("intercept.hosts", HOST).knowing(HOST, origin.address).start();
    let target = format!("{HOST}:{}", origin.address.port());
    Rig { origin, proxy, target }
}

impl Rig {
    async fn tls(&self, alpn: &[u8]) -> TlsStream<TcpStream> {
        let (answer, stream) = connect(self.proxy.address(), &self.target, Some("ca")).await;
        assert_eq!(answer.status, 200, "{}", answer.reason);
        handshake(stream, HOST, roots(&self.proxy.ca_pem()), &[alpn]).await.unwrap()
    }

    /// A connection that has said hello, and will say what it likes.
    async fn rude(&self) -> Rude {
        let mut stream = self.tls(b"h2").await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, b"")).await.unwrap();
        Rude { stream }
    }

    /// Whether somebody else is served.
    async fn serves(&self) -> bool {
        let mut tls = self.tls(b"http/1.1").await;
        let head = format!("GET /small HTTP/1.1\r\nHost: {}\r\n\r\n", self.target);
        let answer = timeout(AT_MOST, request(&mut tls, &head)).await.expect("an answer");
        answer.status == 200
    }

    /// A head for this host, with these fields after the usual ones.
    fn head(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
        let usual = [(":method", method), (":scheme", "https"), (":authority", self.target.as_str()), (":path", path)];
        usual.iter().chain(fields).flat_map(|(name, value)| literal(name, value)).collect()
    }
}

struct Rude {
    stream: TlsStream<TcpStream>,
}

impl Rude {
    /// Whether it could be sent: not where the other side has hung up.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        timeout(AT_MOST, async { self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok() })
            .await
            .expect("it is read, or closed")
    }

    /// Reads on until the other side says why it hangs up, or does.
    async fn ends_with(&mut self) -> Option<u32> {
        while let Some((kind, _, payload)) = self.read().await {
            if kind == GOAWAY {
                return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
        None
    }

    async fn read(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let reading = async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.stream.read_exact(&mut payload).await.ok()?;
            Some((head[3], u32::from_be_bytes(head[5..9].try_into().unwrap()), payload))
        };
        timeout(AT_MOST, reading).await.expect("a frame, or an end")
    }

    /// What becomes of a stream: a status, in the static table or spelled out, or the code of a reset.
    async fn outcome(&mut self, stream: u32) -> Outcome {
        loop {
            match self.read().await {
                Some((HEADERS, of, payload)) if of == stream => return Outcome::Status(status(&payload)),
                Some((RST_STREAM, of, payload)) if of == stream => {
                    return Outcome::Reset(u32::from_be_bytes(payload[..4].try_into().unwrap()));
                }
                Some((GOAWAY, _, payload)) => {
                    return Outcome::Gone(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
                }
                Some(_) => {}
                None => return Outcome::Closed,
            }
        }
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Status(u16),
    Reset(u32),
    Gone(u32),
    Closed,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field that is written out, and not indexed (RFC 7541 section 6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let mut coded = vec![];
        match u8::try_from(text.len()) {
            Ok(length @ 0..127) => coded.push(length),
            _ => {
                // An integer of more than seven bits (section 5.1).
                let mut left = text.len() - 127;
                coded.push(127);
                while left >= 128 {
                    coded.push((left % 128) as u8 | 128);
                    left /= 128;
                }
                coded.push(left as u8);
            }
        }
        coded.extend(text.bytes());
        coded
    };
    [vec![0], text(name), text(value)].concat()
}

/// The status that a block of fields begins with (RFC 7541, appendix A and section 6.2).
fn status(block: &[u8]) -> u16 {
    // Changes of the table's size stand before all fields.
    let first = block.iter().position(|byte| byte >> 5 != 1).unwrap();
    match block[first] {
        indexed @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        // The name is one of those entries; the value has no Huffman coding where it is three digits of few bits.
        _ if block[first + 1] == 3 => std::str::from_utf8(&block[first + 2..first + 5]).unwrap().parse().unwrap(),
        _ => unpack(&block[first + 2..first + 2 + usize::from(block[first + 1] & 0x7f)]),
    }
}

/// Three digits in Huffman's code (RFC 7541, appendix B): `0`, `1` and `2` have five bits, the others six.
fn unpack(coded: &[u8]) -> u16 {
    let bits: Vec<u8> = coded.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let take = |length: usize| bits[at..at + length].iter().fold(0u16, |value, bit| value << 1 | u16::from(*bit));
        let (digit, length) = match take(5) {
            short @ 0..=2 => (short, 5),
            _ => (take(6) - 0x19 + 3, 6),
        };
        (at, number) = (at + length, number * 10 + digit);
    }
    number
}

fn small(heard: &Heard) -> Response<Full<Bytes>> {
    static LARGE: LazyLock<Bytes> = LazyLock::new(|| vec![7; 32 << 20].into());
    if heard.uri.ends_with("/large") { text(200, LARGE.clone()) } else { text(200, "small") }
}

/// CVE-2023-44487: streams that are begun and given up in one breath.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_given_up_at_once_cost_nobody_else() {
    let rig = rig(small).await;
    let mut rude = rig.rude().await;
    let head = rig.head("GET", "/index?since=1", &[]);
    for batch in 0..100u32 {
        let pair = |number: u32| {
            let stream = 1 + 2 * (batch * 100 + number);
            [frame(HEADERS, END_HEADERS | END_STREAM, stream, &head), frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())]
                .concat()
        };
        if !rude.send(&(0..100).flat_map(pair).collect::<Vec<u8>>()).await {
            break;
        }
    }
    assert_eq!(rude.ends_with().await, Some(ENHANCE_YOUR_CALM));
    assert!(rig.serves().await);
    let heard = rig.origin.heard().len();
    assert!(heard < 1000, "{heard} of 10,000 reached the origin");
}

/// CVE-2024-27316 and its kin: a head that never ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_end_ends_the_connection() {
    let rig = rig(small).await;
    let mut rude = rig.rude().await;
    rude.send(&frame(HEADERS, END_STREAM, 1, &rig.head("GET", "/small", &[]))).await;
    let more = frame(CONTINUATION, 0, 1, &literal("x-more", &"y".repeat(1000)));
    for _ in 0..10_000 {
        if !rude.send(&more).await {
            break;
        }
    }
    assert!(matches!(rude.ends_with().await, Some(ENHANCE_YOUR_CALM | PROTOCOL_ERROR) | None));
    assert!(rig.serves().await);
    assert_eq!(rig.origin.heard().len(), 1, "the one that was served");
}

/// CVE-2019-9518: pieces of a body without a byte in them, which no window bounds.
#[tokio::test(flavor = "multi_thread")]
async fn empty_pieces_of_a_body_end_the_connection() {
    let rig = rig(small).await;
    let mut rude = rig.rude().await;
    rude.send(&frame(HEADERS, END_HEADERS, 1, &rig.head("POST", "/small", &[]))).await;
    let empty = frame(DATA, 0, 1, b"").repeat(1000);
    let mut batches = 0;
    while rude.send(&empty).await {
        batches += 1;
        assert!(batches < 10_000, "ten million of them");
    }
    assert!(rig.serves().await);
}

/// CVE-2019-9512 and -9515: pings and settings, whose answers nobody reads. They are read no further than what may
/// be held of the answers.
#[tokio::test(flavor = "multi_thread")]
async fn what_wants_an_answer_is_read_no_faster_than_its_answers_are() {
    let rig = rig(small).await;
    for flood in [frame(PING, 0, 0, b"12345678"), frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])] {
        let rude = rig.rude().await;
        let (_unread, mut to) = tokio::io::split(rude.stream);
        let batch = flood.repeat(1000);
        let mut sent = 0;
        // Nothing is read here: it stands still once all buffers in between are full.
        while let Ok(Ok(())) = timeout(Duration::from_secs(2), to.write_all(&batch)).await {
            sent += batch.len();
            assert!(sent < 256 << 20, "a quarter of a gigabyte was read");
        }
        assert!(rig.serves().await);
    }
}

/// What HTTP/2 can carry and HTTP/1.1 would read as something else (RFC 9113 sections 8.2 and 10.3).
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_would_be_another_request_in_http_1_reaches_an_origin() {
    let rig = rig(small).await;
    let table: [(&str, &[(&str, &str)]); 10] = [
        ("a line end in a value", &[("x-a", "1\r\nx-b: 2")]),
        ("a NUL in a value", &[("x-a", "1\u{0}2")]),
        ("a line end in a name", &[("x-a: 1\r\nx-b", "2")]),
        ("a colon in a name", &[("x-a:b", "1")]),
        ("capitals", &[("X-A", "1")]),
        ("a transfer coding", &[("transfer-encoding", "chunked")]),
        ("a connection's own field", &[("connection", "x-a"), ("x-a", "1")]),
        ("an upgrade", &[("upgrade", "websocket")]),
        ("two lengths", &[("content-length", "0"), ("content-length", "3")]),
        ("a pseudo-field at the end", &[("x-a", "1"), (":path", "/other")]),
    ];
    for (what, fields) in table {
        let mut rude = rig.rude().await;
        rude.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &rig.head("GET", "/small", fields))).await;
        let outcome = rude.outcome(1).await;
        assert!(!matches!(outcome, Outcome::Status(200..400)), "{what}: {outcome:?}");
    }
    // A length that lies, both ways: its request must not be whole for anybody.
    for (length, body) in [("5", "abc"), ("3", "abcde")] {
        let mut rude = rig.rude().await;
        rude.send(&frame(HEADERS, END_HEADERS, 1, &rig.head("POST", "/small", &[("content-length", length)]))).await;
        rude.send(&frame(DATA, END_STREAM, 1, body.as_bytes())).await;
        let outcome = rude.outcome(1).await;
        assert!(!matches!(outcome, Outcome::Status(200..400)), "{length} for {body}: {outcome:?}");
    }
    let whole: Vec<_> = rig.origin.heard().into_iter().filter(|heard| heard.method == "GET").collect();
    assert!(whole.is_empty(), "{whole:?}");
    assert!(rig.origin.heard().iter().all(|heard| heard.body.is_empty()), "{:?}", rig.origin.heard());
}

/// One connection leads to one host, however that is spelled.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_another_host_is_misdirected() {
    let rig = rig(small).await;
    let port = rig.origin.address.port();
    let pseudo = |method: &str, scheme: &str, authority: &str, path: &str| {
        [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path)]
            .iter()
            .flat_map(|(name, value)| literal(name, value))
            .collect::<Vec<u8>>()
    };
    let here = rig.target.as_str();
    let table = [
        ("another host", pseudo("GET", "https", "other.example", "/small")),
        ("another port", pseudo("GET", "https", HOST, "/small")),
        ("userinfo", pseudo("GET", "https", &format!("u@{here}"), "/small")),
        ("another scheme", pseudo("GET", "http", here, "/small")),
        ("no path", pseudo("GET", "https", here, "")),
        ("another host in the path", pseudo("GET", "https", here, &format!("http://other.example:{port}/small"))),
    ];
    for (what, head) in table {
        let mut rude = rig.rude().await;
        rude.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)).await;
        let outcome = rude.outcome(1).await;
        assert!(!matches!(outcome, Outcome::Status(200..400)), "{what}: {outcome:?}");
    }
    assert!(rig.origin.heard().is_empty(), "{:?}", rig.origin.heard());
    // Host beside the authority is somebody else's word for it, and is not passed on.
    let mut rude = rig.rude().await;
    let head = rig.head("GET", "/small", &[("host", "other.example")]);
    rude.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)).await;
    let outcome = rude.outcome(1).await;
    let heard = rig.origin.heard();
    let told = |heard: &Heard| format!("{:?} {}", heard.headers.get("host"), heard.uri);
    assert!(heard.iter().all(|heard| !told(heard).contains("other.example")), "{outcome:?}: {heard:?}");
}

/// RFC 9113 section 8.2.3: crumbs of a cookie are one line for whoever does not speak HTTP/2.
#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_in_crumbs_arrives_as_one() {
    let rig = rig(small).await;
    let mut rude = rig.rude().await;
    let head = rig.head("GET", "/index", &[("cookie", "a=1"), ("cookie", "b=2")]);
    rude.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)).await;
    assert_eq!(rude.outcome(1).await, Outcome::Status(200));
    let heard = rig.origin.heard();
    assert_eq!(heard[0].headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
}

/// Answers share one connection to their origin. Three that nobody read filled its window, and all others waited.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_hold_up_no_others() {
    let rig = rig(small).await;
    let unread = unread(&rig, 12).await;
    // Until what lies between is full.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..8 {
        assert!(rig.serves().await);
    }
    drop(unread);
}

/// A server answers so many requests at once on one connection. As many answers that nobody read stopped whoever came
/// next.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_do_not_use_up_a_connection() {
    let authority = Authority::new();
    let rig = before(&authority, Origin::narrow(authority.server(&[HOST]), 3, small).await);
    let unread = unread(&rig, 12).await;
    for _ in 0..8 {
        assert!(rig.serves().await);
    }
    drop(unread);
}

/// Connections with answers, of which the first line was read.
async fn unread(rig: &Rig, count: usize) -> Vec<TlsStream<TcpStream>> {
    let mut unread = Vec::new();
    for _ in 0..count {
        let mut tls = rig.tls(b"http/1.1").await;
        let head = format!("GET /large HTTP/1.1\r\nHost: {}\r\n\r\n", rig.target);
        tls.write_all(head.as_bytes()).await.unwrap();
        let mut first = [0; 15];
        timeout(AT_MOST, tls.read_exact(&mut first)).await.expect("an answer").unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        unread.push(tls);
    }
    unread
}
