//! What a forward proxy owes, as tables of raw bytes: what a client sends and what an origin says,
//! each row with the rule that it stands for.
//!
//! The same tables judge another proxy where `GOANYWAY_TEST_PROXY=127.0.0.1:3129` names one: then
//! nothing is asserted. Each row is printed as a row of Markdown with what was seen
//! (`cargo test --test it proxy:: -- --nocapture`); docs/matrix.md has them side by side.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::daemon::{Daemon, goanyway};
use crate::support::origin::closed_port;

/// How long anybody's answer may take; ours takes none of it.
const PATIENCE: Duration = Duration::from_secs(5);

/// One thing that a client may send.
struct Row {
    /// What it is called in the matrix.
    what: &'static str,
    /// The rule, by RFC and section.
    rule: &'static str,
    /// `{origin}` is an origin that may be reached, `{closed}` an address that refuses.
    sends: &'static str,
    /// The statuses that answer it.
    answers: &'static [u16],
    /// Whether the connection is over with that answer; a tunnel is not asked.
    closes: Option<bool>,
    /// What the origin hears and does not hear, in lower case; `None`: nothing reaches it.
    hears: Option<(&'static [&'static str], &'static [&'static str])>,
}

const fn refused(what: &'static str, rule: &'static str, sends: &'static str, answers: &'static [u16]) -> Row {
    Row { what, rule, sends, answers, closes: Some(true), hears: None }
}

const fn passed(
    what: &'static str,
    rule: &'static str,
    sends: &'static str,
    has: &'static [&'static str],
    lacks: &'static [&'static str],
) -> Row {
    Row { what, rule, sends, answers: &[200], closes: Some(false), hears: Some((has, lacks)) }
}

/// A body that breaks a rule: its head may be on its way already, its end must never arrive.
const fn broken_off(what: &'static str, rule: &'static str, sends: &'static str) -> Row {
    Row { what, rule, sends, answers: &[400], closes: Some(true), hears: Some((&[], &["\r\n0\r\n\r\n"])) }
}

const REQUESTS: &[Row] = &[
    passed(
        "fields named by Connection",
        "9110 7.6.1",
        "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nConnection: keep-alive, X-Foo\r\nX-Foo: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nX-Kept: 1\r\n\r\n",
        &["x-kept: 1"],
        &["x-foo", "keep-alive: ", "proxy-connection"],
    ),
    passed(
        "Proxy-Authorization",
        "9110 11.7.2",
        "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nProxy-Authorization: Basic eDp5\r\n\r\n",
        &[],
        &["proxy-authorization"],
    ),
    passed(
        "Via",
        "9110 7.6.3",
        "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nVia: 1.0 fred\r\n\r\n",
        &["via: 1.0 fred", "1.1 "],
        &[],
    ),
    Row {
        what: "OPTIONS, Max-Forwards: 0",
        rule: "9110 7.6.2",
        sends: "OPTIONS http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nMax-Forwards: 0\r\n\r\n",
        answers: &[200, 204],
        closes: Some(false),
        hears: None,
    },
    passed(
        "OPTIONS, Max-Forwards: 5",
        "9110 7.6.2",
        "OPTIONS http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nMax-Forwards: 5\r\n\r\n",
        &["max-forwards: 4"],
        &[],
    ),
    Row {
        what: "TRACE (refused by choice)",
        rule: "9110 9.3.8",
        sends: "TRACE http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n\r\n",
        answers: &[405, 501],
        closes: None,
        hears: None,
    },
    passed(
        "absolute form beside another Host",
        "9112 3.2.2",
        "GET http://{origin}/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        &["host: 127.0.0.1"],
        &["evil.example"],
    ),
    refused("no Host", "9112 3.2", "GET http://{origin}/ HTTP/1.1\r\n\r\n", &[400]),
    refused(
        "two Hosts",
        "9112 3.2",
        "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nHost: evil.example\r\n\r\n",
        &[400],
    ),
    refused(
        "Content-Length, then chunked",
        "9112 6.3",
        "POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    refused(
        "chunked, then Content-Length",
        "9112 6.3",
        "POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    refused(
        "Transfer-Encoding: xchunked",
        "9112 6.1",
        "POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    refused(
        "Transfer-Encoding: identity, chunked",
        "9112 7",
        "POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    refused(
        "Transfer-Encoding: chunked, chunked",
        "9112 6.1",
        "POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    refused(
        "HTTP/1.0 with Transfer-Encoding",
        "9112 6.1",
        "POST http://{origin}/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    refused(
        "Content-Length: +3",
        "9112 6.3",
        "POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nContent-Length: +3\r\n\r\nabc",
        &[400],
    ),
    refused(
        "Content-Length 3 and 5",
        "9112 6.3",
        "POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
        &[400],
    ),
    refused(
        "`Content-Length : 3`",
        "9112 5.1",
        "POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nContent-Length : 3\r\n\r\nabc",
        &[400],
    ),
    refused("obs-fold", "9112 5.2", "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nX: a\r\n b\r\n\r\n", &[400]),
    refused(
        "bare CR in a value",
        "9112 2.2",
        "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nX: a\rb\r\n\r\n",
        &[400],
    ),
    refused(
        "NUL in a value",
        "9110 5.5",
        "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nX: a\u{0}b\r\n\r\n",
        &[400],
    ),
    refused("bare LF", "9112 2.2", "GET http://{origin}/ HTTP/1.1\nHost: {origin}\n\n", &[400]),
    broken_off(
        "chunk of 2^64 + 3",
        "9112 7.1",
        "POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
    ),
    broken_off(
        "chunk of 0x3",
        "9112 7.1",
        "POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
    ),
    broken_off(
        "LF in a chunk's extension",
        "9112 7.1.1",
        "POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nTransfer-Encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n",
    ),
    broken_off(
        "a chunk longer than it says",
        "9112 7.1",
        "POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    ),
    broken_off(
        "obs-fold in a trailer",
        "9112 7.1.2",
        "POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n z\r\n\r\n",
    ),
    passed(
        "chunked, and the connection goes on",
        "9112 9.3",
        "POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n",
        &["hello"],
        &["x=y"],
    ),
    passed(
        "trailers of a request",
        "9110 6.5",
        "POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
        &["trailer: x-sum", "\r\n0\r\nx-sum: 1\r\n\r\n"],
        &[],
    ),
    passed(
        "Connection: content-length",
        "9110 7.6.1",
        "POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\nhello",
        &["content-length: 5", "hello"],
        &[],
    ),
    passed(
        "TE: trailers, deflate",
        "9110 10.1.4",
        "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nConnection: TE\r\nTE: trailers, deflate\r\n\r\n",
        &[],
        &["deflate"],
    ),
    passed(
        "Upgrade: h2c",
        "9110 7.8",
        "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        &[],
        &["h2c", "http2-settings"],
    ),
    refused(
        "Expect: 200-maybe",
        "9110 10.1.1",
        "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nExpect: 200-maybe\r\nConnection: close\r\n\r\n",
        &[417],
    ),
    refused("userinfo", "9110 4.2.4", "GET http://good.example:x@{origin}/ HTTP/1.1\r\nHost: {origin}\r\n\r\n", &[400]),
    refused("HTTP/2.0 in a line", "9112 2.3", "GET http://{origin}/ HTTP/2.0\r\nHost: {origin}\r\n\r\n", &[400, 505]),
    refused("two spaces in the line", "9112 3", "GET  http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n\r\n", &[400]),
    Row {
        what: "bytes sent with the CONNECT",
        rule: "9110 9.3.6",
        sends: "CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n\r\nearly",
        answers: &[200],
        closes: None,
        hears: Some((&["early"], &["connect"])),
    },
    Row {
        what: "CONNECT of HTTP/1.0 without Host",
        rule: "9110 9.3.6",
        sends: "CONNECT {origin} HTTP/1.0\r\n\r\nearly",
        answers: &[200],
        closes: None,
        hears: Some((&["early"], &["connect"])),
    },
    refused(
        "CONNECT with Content-Length",
        "9110 9.3.6",
        "CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\nContent-Length: 5\r\n\r\nhello",
        &[400],
    ),
    refused(
        "CONNECT with chunks",
        "9110 9.3.6",
        "CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    refused("CONNECT without a port", "9110 9.3.6", "CONNECT 127.0.0.1 HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    refused("CONNECT to an empty port", "9110 9.3.6", "CONNECT 127.0.0.1: HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    refused("CONNECT to port 443x", "9110 9.3.6", "CONNECT 127.0.0.1:443x HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    refused("CONNECT to port +443", "9110 9.3.6", "CONNECT 127.0.0.1:+443 HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    refused("CONNECT to port 65616", "9110 9.3.6", "CONNECT 127.0.0.1:65616 HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    refused("CONNECT to two targets", "9112 3", "CONNECT {origin} {origin} HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    refused("CONNECT with userinfo", "9112 3.2.3", "CONNECT u@{origin} HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    refused(
        "CONNECT to a port that refuses",
        "9110 15.6.3",
        "CONNECT {closed} HTTP/1.1\r\nHost: {closed}\r\n\r\n",
        &[502, 503],
    ),
    refused(
        "a request after a refused CONNECT",
        "9931 4",
        "CONNECT {closed} HTTP/1.1\r\nHost: {closed}\r\n\r\nGET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n\r\n",
        &[502, 503],
    ),
];

#[tokio::test]
async fn requests_are_framed_in_one_way_or_refused() {
    let closed = closed_port().await;
    let mut origins = Vec::new();
    for _ in REQUESTS {
        origins.push(Recorder::start(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false).await);
    }
    let judge = Judge::reaching(origins.iter().map(|origin| origin.address.port()).chain([closed.port()]));
    for (row, origin) in REQUESTS.iter().zip(&origins) {
        let sends = row.sends.replace("{origin}", &origin.address.to_string());
        let sends = sends.replace("{closed}", &closed.to_string());
        let mut client = TcpStream::connect(judge.proxy).await.unwrap();
        client.write_all(sends.as_bytes()).await.unwrap();
        let status = read_one(&mut client).await;
        let (has, lacks) = row.hears.unwrap_or_default();
        origin.has_heard(has).await;
        let closed = if row.closes.is_some() { Some(is_over(&mut client).await) } else { None };
        let heard = origin.heard();
        let told = has.iter().all(|part| heard.contains(part)) && !lacks.iter().any(|part| heard.contains(part));
        let reached = if row.hears.is_none() { heard.is_empty() } else { told };
        // Others may close more than they must.
        let ended = closed == row.closes || judge.ours.is_none() && closed == Some(true);
        let right = row.answers.contains(&status) && ended && reached;
        let end = closed.map_or("", |closed| if closed { ", closed" } else { ", kept" });
        let how = match (heard.is_empty(), reached) {
            (true, _) => "",
            (false, true) => ", passed on",
            (false, false) => ", passed on as it should not be",
        };
        judge.note(row.what, row.rule, right, &format!("{status}{end}{how}"), &heard);
    }
}

/// One thing that an origin may say.
struct Reply {
    what: &'static str,
    rule: &'static str,
    asks: &'static str,
    says: &'static [u8],
    /// What the client hears and does not hear, in lower case.
    has: &'static [&'static str],
    lacks: &'static [&'static str],
    end: End,
}

/// How a connection ends for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Clean,
    Reset,
    Never,
}

const GET: &str = "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nConnection: close\r\n\r\n";
const HEAD: &str = "HEAD http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nConnection: close\r\n\r\n";

const OLD: &str = "GET http://{origin}/ HTTP/1.0\r\n\r\n";
const TRAILERS: &str =
    "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nConnection: close, TE\r\nTE: trailers\r\n\r\n";
const UPGRADE: &str =
    "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

const fn said(what: &'static str, rule: &'static str, asks: &'static str, says: &'static [u8]) -> Reply {
    Reply { what, rule, asks, says, has: &[], lacks: &[], end: End::Clean }
}

const REPLIES: &[Reply] = &[
    Reply {
        has: &["x-kept: 1", "via: 1.1 "],
        lacks: &["x-hop", "keep-alive: ", "proxy-connection"],
        ..said("a reply's own fields and Via", "9110 7.6", GET,
            b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nok")
    },
    Reply { has: &["103 early hints", "link: </a>", "200 ok"], ..said("103 Early Hints", "9110 15.2", GET,
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") },
    Reply { has: &["200 ok"], lacks: &["103"], ..said("103 to HTTP/1.0", "9110 15.2", OLD,
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") },
    Reply { has: &["2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n"], ..said("trailers", "9112 7.1.2", TRAILERS,
        b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n") },
    Reply { has: &["content-length: 100\r\n"], ..said("HEAD", "9110 9.3.2", HEAD,
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n") },
    Reply { has: &["204"], lacks: &["transfer-encoding", "content-length"], ..said("204", "9112 6.3", GET,
        b"HTTP/1.1 204 No Content\r\n\r\n") },
    Reply { has: &["304", "etag"], lacks: &["transfer-encoding"], ..said("304", "9112 6.3", GET,
        b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n") },
    Reply { has: &["\r\n\r\nokay"], lacks: &["transfer-encoding"], ..said("chunked, to HTTP/1.0", "9112 6.1", OLD,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nokay\r\n0\r\n\r\n") },
    Reply { has: &["okay"], lacks: &["content-length: 2"], ..said("Content-Length beside chunked", "9112 6.3", GET,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nokay\r\n0\r\n\r\n") },
    Reply { has: &["http/1.1 502"], ..said("a coding that nobody asked for", "9112 6.1", GET,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n4\r\nokay\r\n0\r\n\r\n") },
    Reply { has: &["http/1.1 502"], ..said("two lengths", "9112 6.3", GET,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 4\r\n\r\nokay") },
    Reply { has: &["http/1.1 502"], ..said("a length of +4", "9112 6.3", GET,
        b"HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nokay") },
    Reply { has: &["http/1.1 502"], ..said("no answer at all", "9110 15.6.3", GET, b"") },
    Reply { has: &["http/1.1 502"], ..said("no HTTP", "9110 15.6.3", GET, b"SSH-2.0-OpenSSH_9.2\r\n") },
    Reply { has: &["http/1.1 502"], ..said("101 that nobody asked for", "9110 7.8", GET,
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n") },
    Reply { has: &["200 ok", "okay"], lacks: &["101"], ..said("200 to an Upgrade", "9110 7.8", UPGRADE,
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nokay") },
    Reply { has: &["content-length: 100", "part"], ..said("a length cut short", "9112 8", GET,
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart") },
    Reply { has: &["part"], lacks: &["\r\n0\r\n"], ..said("chunks cut short", "9112 8", GET,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n") },
    Reply { has: &[], end: End::Reset, ..said("chunks cut short, to HTTP/1.0", "9112 8", OLD,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n") },
];

#[tokio::test]
async fn replies_are_framed_anew_and_cut_where_they_were_cut() {
    let mut origins = Vec::new();
    for row in REPLIES {
        origins.push(Recorder::start(row.says, true).await);
    }
    let judge = Judge::reaching(origins.iter().map(|origin| origin.address.port()));
    for (row, origin) in REPLIES.iter().zip(&origins) {
        // An upgrade that is not granted leaves a connection that is kept: the next request ends it.
        let asks = if row.asks == UPGRADE { [UPGRADE, GET].concat() } else { row.asks.to_owned() };
        let asks = asks.replace("{origin}", &origin.address.to_string());
        let (heard, end) = read_all(judge.proxy, asks.as_bytes()).await;
        let heard = heard.to_lowercase();
        let has = |part: &&str| heard.contains(part);
        let told = row.has.iter().all(has) && !row.lacks.iter().any(has);
        let status = heard.split(' ').nth(1).unwrap_or("nothing").to_owned();
        let said = if told { "" } else { ", not as it should be" };
        judge.note(row.what, row.rule, told && end == row.end, &format!("{status}, {end:?}{said}"), &heard);
    }
}

/// The proxy that is judged: ours, or the one that the variable names.
struct Judge {
    proxy: SocketAddr,
    ours: Option<Daemon>,
}

impl Judge {
    /// A proxy through which these ports may be reached.
    fn reaching(ports: impl Iterator<Item = u16>) -> Judge {
        if let Ok(other) = std::env::var("GOANYWAY_TEST_PROXY") {
            return Judge { proxy: other.parse().unwrap(), ours: None };
        }
        let daemon = ports.fold(goanyway(), |wanted, port| wanted.and("admit.ports", &port.to_string())).start();
        Judge { proxy: daemon.address(), ours: Some(daemon) }
    }

    fn note(&self, what: &str, rule: &str, right: bool, seen: &str, heard: &str) {
        let mark = if right { "✓" } else { "**✗**" };
        println!("| {what} | {rule} | {mark} {seen} |");
        assert!(right || self.ours.is_none(), "{what} (RFC {rule}): {seen}\n{heard}");
    }
}

/// An origin that says the same to each request and remembers every byte that it heard.
struct Recorder {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
    more: Arc<tokio::sync::Notify>,
}

impl Recorder {
    async fn start(says: &'static [u8], closes: bool) -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let recorder =
            Recorder { address: listener.local_addr().unwrap(), heard: Arc::default(), more: Arc::default() };
        let (heard, more) = (Arc::clone(&recorder.heard), Arc::clone(&recorder.more));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(record(stream, says, closes, Arc::clone(&heard), Arc::clone(&more)));
            }
        });
        recorder
    }

    fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).to_lowercase()
    }

    /// Returns once all of this was heard, or patience ended.
    async fn has_heard(&self, parts: &[&str]) {
        let all = async {
            while !parts.iter().all(|part| self.heard().contains(part)) {
                self.more.notified().await;
            }
        };
        let _ = timeout(PATIENCE, all).await;
    }
}

async fn record(
    mut stream: TcpStream,
    says: &'static [u8],
    closes: bool,
    heard: Arc<Mutex<Vec<u8>>>,
    more: Arc<tokio::sync::Notify>,
) {
    let (mut own, mut answered) = (Vec::new(), 0);
    let mut piece = vec![0; 4096];
    while let Ok(read) = stream.read(&mut piece).await {
        if read == 0 {
            return;
        }
        own.extend_from_slice(&piece[..read]);
        heard.lock().unwrap().extend_from_slice(&piece[..read]);
        more.notify_one();
        let whole = own.windows(4).filter(|four| *four == b"\r\n\r\n").count();
        let posts_chunks = String::from_utf8_lossy(&own).to_lowercase().contains("transfer-encoding: chunked");
        // A chunked body ends like a head.
        let requests = if posts_chunks { whole.saturating_sub(1) } else { whole };
        while answered < requests {
            answered += 1;
            if stream.write_all(says).await.is_err() || closes {
                let _ = stream.shutdown().await;
                return;
            }
        }
    }
}

/// Reads one answer with its body; 0 where there was none.
async fn read_one(stream: &mut TcpStream) -> u16 {
    let reading = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.and_then(|length| length.trim().parse().ok()).unwrap_or(0)];
        let _ = stream.read_exact(&mut body).await;
        Some(status)
    };
    timeout(PATIENCE, reading).await.ok().flatten().unwrap_or(0)
}

/// Whether nothing more is answered on this connection.
async fn is_over(stream: &mut TcpStream) -> bool {
    let probe = b"OPTIONS http://127.0.0.1:9/ HTTP/1.1\r\nHost: probe\r\nMax-Forwards: 0\r\n\r\n";
    if stream.write_all(probe).await.is_err() {
        return true;
    }
    read_one(stream).await == 0
}

async fn read_all(proxy: SocketAddr, bytes: &[u8]) -> (String, End) {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut heard = Vec::new();
    let end = match timeout(PATIENCE, stream.read_to_end(&mut heard)).await {
        Ok(Ok(_)) => End::Clean,
        Ok(Err(_)) => End::Reset,
        Err(_) => End::Never,
    };
    (String::from_utf8_lossy(&heard).into_owned(), end)
}
