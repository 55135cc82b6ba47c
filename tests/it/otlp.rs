//! Traces, as a collector hears of them: it is started here, and reads protobuf by a reader of its own.

use std::collections::HashMap;

use bytes::Bytes;

use crate::support::client::{connect, raw};
use crate::support::daemon::goanyway;
use crate::support::mirror::Mirror;
use crate::support::origin::{Heard, Origin, closed_port, echo, text};

/// A field of a message.
#[derive(Clone, Debug)]
enum Value {
    Number(u64),
    Bytes(Bytes),
}

/// A message by field number (protobuf.dev, Encoding).
struct Message(Vec<(u64, Value)>);

impl Message {
    fn read(mut bytes: &[u8]) -> Message {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes);
            let value = match tag & 7 {
                0 => Value::Number(varint(&mut bytes)),
                1 => Value::Number(u64::from_le_bytes(take(&mut bytes, 8).try_into().unwrap())),
                2 => {
                    let length = varint(&mut bytes) as usize;
                    Value::Bytes(Bytes::copy_from_slice(take(&mut bytes, length)))
                }
                other => panic!("wire type {other}"),
            };
            fields.push((tag >> 3, value));
        }
        Message(fields)
    }

    fn all(&self, field: u64) -> Vec<Message> {
        self.bytes(field).map(|bytes| Message::read(&bytes)).collect()
    }

    fn bytes(&self, field: u64) -> impl Iterator<Item = Bytes> {
        self.0.iter().filter(move |(known, _)| *known == field).filter_map(|(_, value)| match value {
            Value::Bytes(bytes) => Some(bytes.clone()),
            Value::Number(_) => None,
        })
    }

    fn text(&self, field: u64) -> String {
        self.bytes(field).next().map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).unwrap_or_default()
    }

    fn hex(&self, field: u64) -> String {
        self.bytes(field).next().unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn number(&self, field: u64) -> u64 {
        let number = |(known, value): &(u64, Value)| match value {
            Value::Number(number) if *known == field => Some(*number),
            _ => None,
        };
        self.0.iter().find_map(number).unwrap_or_default()
    }

    /// Field 9 of a span, field 1 of a resource.
    fn attributes(&self, field: u64) -> HashMap<String, String> {
        let pair = |pair: Message| {
            let value = pair.all(2).remove(0);
            let text = if value.text(1).is_empty() { value.number(3).to_string() } else { value.text(1) };
            (pair.text(1), text)
        };
        self.all(field).into_iter().map(pair).collect()
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = take(bytes, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return value;
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(length);
    *bytes = rest;
    taken
}

/// ExportTraceServiceRequest.resource_spans.scope_spans.spans of all that was sent.
fn spans(heard: &[Heard]) -> Vec<Message> {
    let requests = heard.iter().map(|heard| Message::read(&heard.body));
    let scopes = requests.flat_map(|request| request.all(1)).flat_map(|of_resource| of_resource.all(2));
    scopes.flat_map(|of_scope| of_scope.all(2)).collect()
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const SECRET: &str = "s3cret";

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_hears_of_each_request_and_its_phases() {
    let collector = Origin::plain(|_: &Heard| text(200, "")).await;
    let mirror = Mirror::of("example.com/m", &["v1.0.0"]).await;
    let origin = Origin::plain(|_: &Heard| text(200, "x")).await;
    let (tunnelled, dead) = (echo().await, closed_port().await);
    let url = format!("http://localhost:{}", collector.address.port());
    let daemon = goanyway()
        .with("goproxy.upstreams", &mirror.url())
        .with("trace.otlp", &url)
        .knowing("localhost", collector.address)
        .and("admit.ports", &origin.address.port().to_string())
        .and("admit.ports", &tunnelled.port().to_string())
        .and("admit.ports", &dead.port().to_string())
        .start();
    let proxy = daemon.address();
    let ask = |line: String, flags: &str| {
        let parent = format!("traceparent: 00-{TRACE}-{PARENT}-{flags}");
        async move {
            raw(proxy, format!("{line} HTTP/1.1\r\nHost: {proxy}\r\n{parent}\r\nConnection: close\r\n\r\n").as_bytes())
                .await
        }
    };
    for _ in 0..2 {
        assert!(ask("GET /example.com/m/@v/v1.0.0.mod".to_owned(), "01").await.starts_with("HTTP/1.1 200"));
    }
    ask("GET /example.com/m/@v/list".to_owned(), "00").await;
    ask(format!("GET http://{}/p?token={SECRET}", origin.address), "01").await;
    let refused = ask(format!("CONNECT {dead}"), "01").await;
    let (answer, tunnel) = connect(proxy, &tunnelled.to_string(), None).await;
    assert_eq!(answer.status, 200);
    drop(tunnel);
    daemon.stop();

    let heard = collector.heard();
    assert!(heard.iter().all(|heard| (heard.method.as_str(), heard.uri.as_str()) == ("POST", "/v1/traces")));
    assert!(heard.iter().all(|heard| heard.headers["content-type"] == "application/x-protobuf"));
    assert!(heard.iter().all(|heard| !String::from_utf8_lossy(&heard.body).contains(SECRET)));
    let resource = Message::read(&heard[0].body).all(1)[0].all(1).remove(0);
    assert_eq!(resource.attributes(1)["service.name"], "goanyway");
    let spans = spans(&heard);
    let of = |path: &str| -> Vec<&Message> {
        spans.iter().filter(|span| span.attributes(9).get("url.path").is_some_and(|told| told == path)).collect()
    };
    let files = of("/example.com/m/@v/v1.0.0.mod");
    assert_eq!(files.len(), 2, "each request has one span");
    for (span, cache) in files.iter().zip(["miss", "hit"]) {
        assert_eq!((span.hex(1).as_str(), span.hex(4).as_str()), (TRACE, PARENT), "the client's trace goes on");
        assert_eq!((span.text(5).as_str(), span.number(6)), ("GET", 2));
        assert!(span.number(8) >= span.number(7) && span.number(7) > 1_600_000_000_000_000_000);
        assert_eq!(span.attributes(9)["goanyway.cache"], cache);
        assert_eq!(span.attributes(9)["http.response.status_code"], "200");
    }
    let phases = |span: &Message| -> Vec<String> {
        spans.iter().filter(|child| child.hex(4) == span.hex(2)).map(|child| child.text(5)).collect()
    };
    let (miss, hit) = (phases(files[0]), phases(files[1]));
    assert!(miss.iter().any(|phase| phase == "connect") && miss.iter().any(|phase| phase == "first_byte"), "{miss:?}");
    assert_eq!(hit, ["body"], "nobody was asked for a hit");
    assert!(of("/example.com/m/@v/list").is_empty(), "whoever began that trace does not want it");

    let passed = of("/p");
    assert_eq!(passed.len(), 1);
    let told = &origin.heard()[0].headers["traceparent"];
    assert_eq!(told, format!("00-{TRACE}-{PARENT}-01").as_str(), "what goes from end to end is left alone");

    // The same id in the answer and in the trace.
    let connects: Vec<&Message> = spans.iter().filter(|span| span.text(5) == "CONNECT").collect();
    let failed = connects.iter().find(|span| span.attributes(9)["http.response.status_code"] == "502").unwrap();
    let id = &failed.attributes(9)["goanyway.request_id"];
    assert!(refused.lines().next().unwrap().ends_with(&format!("[{id}]")), "{refused}");
    assert_eq!(failed.all(15)[0].number(3), 2, "its status is an error");
    assert!(
        connects.iter().any(|span| span.attributes(9)["http.response.status_code"] == "200"),
        "a tunnel is told when it is over"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_collector_costs_nothing_but_its_traces() {
    let mirror = Mirror::of("example.com/m", &["v1.0.0"]).await;
    let dead = closed_port().await;
    let daemon =
        goanyway().with("goproxy.upstreams", &mirror.url()).with("trace.otlp", &format!("http://{dead}")).start();
    let request =
        format!("GET /example.com/m/@v/v1.0.0.mod HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", daemon.address());
    for _ in 0..3 {
        assert!(raw(daemon.address(), request.as_bytes()).await.starts_with("HTTP/1.1 200"));
    }
    daemon.stop();
}
