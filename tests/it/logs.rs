//! The log: one record a request, the same fields as text and as JSON, the same id everywhere, no secret.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hickory_proto::op::ResponseCode;
use tokio::net::TcpStream;

use crate::admission::{basic, users};
use crate::support::binary::{Home, home};
use crate::support::client::{connect, get, raw, request};
use crate::support::golden;
use crate::support::mirror::Mirror;
use crate::support::nameserver::{Nameserver, Says};
use crate::support::origin::{Heard, Origin, closed_port, echo, text};

/// The password in the file of [`users`].
const SECRET: &str = "s3cret";

/// A busy run of `serve`, in which `SECRET` is wherever a secret may be; what it logged.
async fn busy(home: &Home, format: &str, level: &str) -> String {
    let mirror = Mirror::of("example.com/m", &["v1.0.0"]).await;
    // Refuses what is asked first, so that a request is rescued, and sends elsewhere with a signature.
    let signing = Origin::plain(|heard: &Heard| {
        let mut answer = text(302, "");
        let to = format!("ftp://u:{SECRET}@127.0.0.1/x?X-Signature={SECRET}");
        if heard.uri.ends_with(".mod") {
            *answer.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        } else {
            answer.headers_mut().insert("location", to.parse().unwrap());
        }
        answer
    })
    .await;
    let (origin, tunnelled, dead) =
        (Origin::plain(|_: &Heard| text(200, "x")).await, echo().await, closed_port().await);
    let ports = [origin.address.port(), tunnelled.port(), dead.port()].map(|port| format!("--allow-port={port}"));
    let upstreams = [format!("--upstream=http://{}", signing.address), format!("--upstream={}", mirror.url())];
    let (format, level) = (format!("--log-format={format}"), format!("--log-level={level}"));
    let credentials = format!("--credentials={}", users(home.folder.path()));
    let mut arguments = vec![format.as_str(), &level, &credentials];
    arguments.extend(ports.iter().chain(&upstreams).map(String::as_str));
    let served = tokio::task::block_in_place(|| home.serve(&arguments));
    let proxy = served.address;
    let user = basic("alice", SECRET);
    let (by_proxy, by_server) = (format!("Proxy-Authorization: {user}\r\n"), format!("Authorization: {user}\r\n"));
    let ask = |line: String, field: String| async move {
        raw(proxy, format!("{line} HTTP/1.1\r\nHost: {proxy}\r\n{field}Connection: close\r\n\r\n").as_bytes()).await
    };
    let mut tunnel = TcpStream::connect(proxy).await.unwrap();
    let head = format!("CONNECT {tunnelled} HTTP/1.1\r\nHost: {tunnelled}\r\n{by_proxy}\r\n");
    assert_eq!(request(&mut tunnel, &head).await.status, 200);
    drop(tunnel);
    for file in ["v1.0.0.mod", "v1.0.0.mod", "v1.0.0.info"] {
        let told = ask(format!("GET /example.com/m/@v/{file}"), by_server.clone()).await;
        assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    }
    let odd = ask(format!("GET /example.com/m/@v/v1.0.0.mod?token={SECRET}"), by_server.clone()).await;
    assert!(odd.starts_with("HTTP/1.1 404"), "{odd}");
    let passed = ask(format!("GET http://{}/p?token={SECRET}", origin.address), by_proxy.clone()).await;
    assert!(passed.starts_with("HTTP/1.1 200"), "{passed}");
    ask(format!("GET http://alice:{SECRET}@{}/p", origin.address), by_proxy.clone()).await;
    ask(format!("GET http://{}/p?token={SECRET}", origin.address), format!("Proxy-Authorization: Basic {SECRET}\r\n"))
        .await;
    let failed = ask(format!("CONNECT {dead}"), by_proxy).await;
    let id = failed.lines().next().unwrap().rsplit('[').next().unwrap().trim_end_matches(']').to_owned();
    let proxy_status = failed.lines().find(|line| line.starts_with("proxy-status")).unwrap();
    assert!(proxy_status.contains(&format!("[{id}]")), "{failed}");
    served.tell_to_stop();
    let (code, log) = tokio::task::block_in_place(|| served.ended());
    assert_eq!(code, Some(0));
    assert!(log.lines().any(|line| line.contains("failed") && line.contains(&id)), "{log}");
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_the_log_at_any_level() {
    for (format, level) in [("text", "trace"), ("json", "debug"), ("text", "info")] {
        let log = busy(&home(), format, level).await;
        assert!(log.contains("rescued"), "{log}");
        let secrets = [SECRET.to_owned(), BASE64_STANDARD.encode(format!("alice:{SECRET}"))];
        for line in log.lines() {
            assert!(!secrets.iter().any(|secret| line.contains(secret)), "{format} {level}: {line}");
        }
    }
}

/// Whoever can reach the port could fill the log: a line for each client and reason, and how many there were.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_does_not_fill_the_log() {
    let home = home();
    let served = tokio::task::block_in_place(|| home.serve(&["--log-level", "info"]));
    for _ in 0..200 {
        for target in ["a.example:25", "169.254.169.254:443"] {
            let told = raw(served.address, format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await;
            assert!(told.starts_with("HTTP/1.1 403"), "{told}");
        }
    }
    let metrics = get(home.listeners("admin")[0], "/metrics").await.text();
    served.tell_to_stop();
    let (code, log) = tokio::task::block_in_place(|| served.ended());
    assert_eq!(code, Some(0));
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("status=403")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(lines.iter().any(|line| line.contains("--allow-port 25")), "{log}");
    for decision in ["port", "metadata"] {
        assert!(metrics.contains(&format!("decisions_total{{decision=\"{decision}\"}} 200")), "{metrics}");
    }
}

/// The names of the fields of every record of a request, by its message.
type Fields = BTreeMap<String, BTreeSet<String>>;

const RECORDS: [&str; 4] = ["answered", "rescued", "refused", "failed"];

fn fields_of_json(log: &str) -> Fields {
    let mut fields = Fields::new();
    let records = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    for record in records.filter(|record| record.get("status").is_some()) {
        let message = record["message"].as_str().unwrap().to_owned();
        let names = record.as_object().unwrap().keys().cloned();
        let own = names.filter(|name| !["timestamp", "level", "message", "target"].contains(&name.as_str()));
        fields.entry(message).or_default().extend(own);
    }
    fields
}

fn fields_of_text(log: &str) -> Fields {
    let mut fields = Fields::new();
    for line in log.lines() {
        let mut words = line.split_whitespace().skip(2);
        let Some(message) = words.next().filter(|word| RECORDS.contains(word)) else { continue };
        // What stands in quotes is a value.
        let bare: String = line.split('"').step_by(2).collect();
        let names = bare.split_whitespace().filter_map(|word| word.split_once('=')).map(|(name, _)| name.to_owned());
        fields.entry(message.to_owned()).or_default().extend(names);
    }
    fields
}

#[tokio::test(flavor = "multi_thread")]
async fn text_and_json_have_the_same_fields() {
    let (text, json) = (busy(&home(), "text", "debug").await, busy(&home(), "json", "debug").await);
    let told = fields_of_text(&text);
    assert_eq!(told, fields_of_json(&json));
    let line = |(message, names): (&String, &BTreeSet<String>)| {
        format!("{message}: {}\n", names.iter().map(String::as_str).collect::<Vec<_>>().join(" "))
    };
    golden::keeps("tests/golden/log/fields.txt", &told.iter().map(line).collect::<String>());
    // What every record has lines up.
    let columns: BTreeSet<usize> =
        text.lines().filter(|line| line.contains(" status=")).filter_map(|line| line.find(" ms=")).collect();
    assert_eq!(columns.len(), 1, "{text}");
}

/// A look-up is a task of its own: what was mended there could not be told from what was mended for another request.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_rescued_is_logged_with_the_request_that_asked_for_it() {
    let (home, origin) = (home(), echo().await);
    let (denies, knows) = (
        Nameserver::start(Says::Code(ResponseCode::NXDomain)).await,
        Nameserver::start(Says::Address("127.0.0.1")).await,
    );
    let servers = [format!("--nameserver=udp://{}", denies.address), format!("--fallback=udp://{}", knows.address)];
    let port = format!("--allow-port={}", origin.port());
    let arguments = [servers[0].as_str(), &servers[1], &port, "--log-level=debug"];
    let served = tokio::task::block_in_place(|| home.serve(&arguments));
    let target = format!("code.example:{}", origin.port());
    let (answer, tunnel) = connect(served.address, &target, None).await;
    assert_eq!(answer.status, 200);
    drop(tunnel);
    served.tell_to_stop();
    let (_, log) = tokio::task::block_in_place(|| served.ended());
    let line = |words: &str| log.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}: {log}"));
    let id = |line: &str| line.split_whitespace().find_map(|word| Some(word.strip_prefix("id=")?.to_owned()));
    let (rescue, record) = (line("code.example: "), line(&format!("what=\"{target}\"")));
    assert!(rescue.contains("had denied"), "{rescue}");
    assert_eq!(id(rescue), id(record), "{log}");
    assert!(id(rescue).is_some_and(|id| id.len() == 6), "{rescue}");
}
