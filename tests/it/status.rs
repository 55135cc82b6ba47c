//! The admin port: what it says of the proxy, to whom, and that it changes nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::{connect, get, get_through, raw, request};
use crate::support::daemon::{Daemon, goanyway};
use crate::support::mirror::{Mirror, Mood};
use crate::support::origin::{Origin, text};

const MODULE: &str = "example.com/m";

async fn status(daemon: &Daemon) -> Value {
    let answer = get(daemon.admin(), "/status.json").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    serde_json::from_slice(&answer.body).unwrap()
}

/// Somebody who looks at the event stream.
struct Watcher {
    stream: TcpStream,
    heard: String,
}

impl Watcher {
    async fn begin(admin: SocketAddr) -> Watcher {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        Watcher { stream, heard: String::new() }
    }

    /// Reads on until something is heard.
    async fn hears(&mut self, what: &str) {
        let begun = Instant::now();
        while !self.heard.contains(what) {
            let mut piece = vec![0; 65_536];
            let read = tokio::time::timeout(Duration::from_secs(20), self.stream.read(&mut piece)).await;
            let read = read.unwrap_or_else(|_| panic!("{what} was not heard")).unwrap();
            assert!(read > 0 && begun.elapsed().as_secs() < 60, "no {what} in {}", self.heard);
            self.heard.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
    }
}

#[tokio::test]
async fn the_admin_port_answers_its_own_names_alone() {
    let proxy = goanyway().start();
    assert_eq!(get(proxy.admin(), "/healthz").await.text(), "ok: the process answers\n");
    assert_eq!(get(proxy.admin(), "/readyz").await.text(), "ready: clients are served\n");
    for path in ["/", "/status.json", "/events", "/metrics"] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
        let rebound = raw(proxy.admin(), head.as_bytes()).await;
        assert!(rebound.starts_with("HTTP/1.1 403") && rebound.contains("admin.hosts"), "{path}: {rebound}");
    }
}

#[tokio::test]
async fn nothing_but_looking_is_served() {
    let proxy = goanyway().start();
    let admin = proxy.admin();
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        let head = format!("{method} /status.json HTTP/1.1\r\nHost: {admin}\r\nContent-Length: 0\r\n\r\n");
        let answer = request(&mut stream, &head).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    for path in ["/", "/status.json", "/events", "/metrics"] {
        let head = format!("HEAD {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
        let answer = raw(admin, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{path}: {answer}");
    }
    let nowhere = get(admin, "/shutdown").await;
    assert_eq!(nowhere.status, 404);
    assert!(nowhere.text().contains("/status.json"), "{}", nowhere.text());
}

#[tokio::test]
async fn the_page_may_do_nothing_but_look_at_this_port() {
    let proxy = goanyway().start();
    let page = get(proxy.admin(), "/").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(page.header(name), Some(value), "{name}");
        assert_eq!(get(proxy.admin(), "/status.json").await.header(name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn what_was_served_is_counted_and_what_came_from_the_cache_is_not_listed() {
    let mirror = Mirror::of(MODULE, &["v1.0.0"]).await;
    let proxy = goanyway().with("goproxy.upstreams", &mirror.url()).start();
    let path = format!("/{MODULE}/@v/v1.0.0.zip");
    for _ in 0..3 {
        assert_eq!(get(proxy.address(), &path).await.status, 200);
    }
    let status = status(&proxy).await;
    assert_eq!((&status["version"], &status["ready"]), (&1.into(), &true.into()));
    let (all, hour) = (&status["since_start"], &status["last_hour"]);
    assert_eq!((&all["from_cache"], &all["from_upstream"]), (&2.into(), &1.into()));
    assert_eq!(all, hour, "all of it was within the hour");
    assert_eq!(status["minutes"]["from_cache"].as_array().unwrap().len(), 60);
    let requests = status["requests"].as_array().unwrap();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!((&requests[0]["what"], &requests[0]["outcome"]), (&"example.com/m@v1.0.0 (zip)".into(), &"miss".into()));
    let mirrors = status["mirrors"].as_array().unwrap();
    assert_eq!((&mirrors[0]["condition"], &mirrors[0]["words"]), (&"up".into(), &"answers".into()));
    assert_eq!(status["verdict"]["state"], "well", "{status}");
}

#[tokio::test]
async fn what_failed_is_told_with_what_to_type_and_without_secrets() {
    let proxy = goanyway().with("goproxy.upstreams", "http://mirror.example:8080").start();
    let url = "http://nowhere.example/repo?token=s3cret";
    assert!(get_through(proxy.address(), url).await.status >= 500);
    assert!(get(proxy.address(), &format!("/{MODULE}/@v/v1.0.0.mod")).await.status >= 500);
    let (refused, _) = connect(proxy.address(), "git.example:25", None).await;
    assert_eq!(refused.status, 403);
    let status = status(&proxy).await;
    let told = |what: &str, key: &str| {
        let list = status["failures"].as_array().unwrap();
        let one = list.iter().find(|one| one["what"].as_str().unwrap().contains(what));
        one.unwrap_or_else(|| panic!("no {what} in {list:?}"))[key].as_str().unwrap().to_owned()
    };
    assert_eq!(told("nowhere.example", "advice"), "goanyway resolve nowhere.example");
    assert_eq!(told("example.com/m/@v/v1.0.0.mod", "advice"), "goanyway resolve mirror.example");
    assert!(told("git.example:25", "words").contains("--allow-port 25"));
    assert!(!status.to_string().contains("s3cret"), "{status}");
    assert_eq!(status["since_start"]["failed"], 2, "what the rules deny has not failed");
    assert_eq!(status["verdict"]["state"], "trouble");
    assert!(status["servers"][0]["words"].as_str().unwrap().contains("in a row"), "{}", status["servers"]);
}

#[tokio::test]
async fn what_a_client_did_wrong_is_no_news() {
    let mirror = Mirror::of(MODULE, &["v1.0.0"]).await;
    let proxy = goanyway().with("goproxy.upstreams", &mirror.url()).start();
    assert_eq!(get(proxy.address(), "/nonsense").await.status, 404);
    assert_eq!(get(proxy.address(), &format!("/{MODULE}/@v/v9.9.9.mod")).await.status, 404);
    let status = status(&proxy).await;
    assert_eq!((&status["failures"], &status["since_start"]["failed"]), (&Value::Array(Vec::new()), &0.into()));
}

#[tokio::test]
async fn a_mirror_that_faults_is_told_of_with_its_reason_and_a_second_try_is_a_rescue() {
    let (ill, well) = (Mirror::of(MODULE, &["v1.0.0"]).await, Mirror::of(MODULE, &["v1.0.0"]).await);
    ill.becomes(Mood::Says(503));
    let proxy = goanyway().with("goproxy.upstreams", &ill.url()).and("goproxy.upstreams", &well.url()).start();
    assert_eq!(get(proxy.address(), &format!("/{MODULE}/@v/v1.0.0.zip")).await.status, 200);
    let status = status(&proxy).await;
    let rescue = &status["rescues"][0];
    assert!(rescue["words"].as_str().unwrap().contains("503"), "{rescue}");
    assert_eq!(rescue["outcome"], "retry");
    let mirror = &status["mirrors"][0];
    assert_ne!(mirror["condition"], "up", "{mirror}");
    assert!(mirror["words"].as_str().unwrap().contains("503"), "{mirror}");
    assert_eq!(status["verdict"]["state"], "strained", "{}", status["verdict"]);
}

#[tokio::test]
async fn who_looks_is_told_what_happens_as_it_happens() {
    let origin = Origin::plain(|_| text(200, "hello")).await;
    let proxy = goanyway().knowing("origin.example", origin.address).start();
    let mut watcher = Watcher::begin(proxy.admin()).await;
    watcher.hears("text/event-stream").await;
    watcher.hears("\"requests\":[]").await;
    let url = format!("http://origin.example:{}/hello?q", origin.address.port());
    assert_eq!(get_through(proxy.address(), &url).await.status, 200);
    watcher.hears("/hello\",\"outcome\":\"forward\"").await;
    assert!(!watcher.heard.contains("hello?q"), "{}", watcher.heard);
}

#[tokio::test]
async fn so_many_may_look_and_a_seat_is_free_again_when_one_leaves() {
    let proxy = goanyway().start();
    let mut watchers = Vec::new();
    for _ in 0..64 {
        let mut watcher = Watcher::begin(proxy.admin()).await;
        watcher.hears("data: ").await;
        watchers.push(watcher);
    }
    assert_eq!(get(proxy.admin(), "/events").await.status, 503);
    assert_eq!(status(&proxy).await["version"], 1, "everything else is answered");
    drop(watchers);
    let begun = Instant::now();
    loop {
        let mut stream = TcpStream::connect(proxy.admin()).await.unwrap();
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        if &head == b"HTTP/1.1 200" {
            return;
        }
        assert!(begun.elapsed().as_secs() < 30, "no seat was given back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
