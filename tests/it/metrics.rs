//! The metrics as a promise: every family with its type, unit, help and label names stands in a golden file,
//! a real Prometheus knows them all, and what `deploy/` draws and alerts on is there. The one that is missing,
//! `goanyway_subnet_names`, wants a connection that was redirected, and is read in `subnet.rs`.
//!
//! `GOANYWAY_BLESS=1` writes the golden file anew, for its difference to be read.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::dns::{over_udp, question};
use crate::support::binary::Beside;
use crate::support::client::{connect, get, get_through, raw};
use crate::support::daemon::{Daemon, goanyway};
use crate::support::golden::{self, is_blessing};
use crate::support::mirror::Mirror;
use crate::support::nameserver::{Nameserver, Says};
use crate::support::needs::have;
use crate::support::origin::{Origin, text};

/// One family, as a scraper reads it.
#[derive(Clone, Debug, Default)]
struct Family {
    kind: String,
    unit: String,
    help: String,
    labels: BTreeSet<String>,
}

impl Family {
    /// The names that its series go by.
    fn series(&self, name: &str) -> Vec<String> {
        let endings: &[&str] = match self.kind.as_str() {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            _ => &[""],
        };
        endings.iter().map(|ending| format!("{name}{ending}")).collect()
    }
}

/// The families of an OpenMetrics text, by name.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut found: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some((what, rest)) = line.strip_prefix("# ").and_then(|line| line.split_once(' ')) {
            let (name, value) = rest.split_once(' ').unwrap();
            name.clone_into(&mut current);
            let family = found.entry(current.clone()).or_default();
            match what {
                "HELP" => value.clone_into(&mut family.help),
                "TYPE" => value.clone_into(&mut family.kind),
                "UNIT" => value.clone_into(&mut family.unit),
                other => panic!("{other} in {line:?}"),
            }
        } else if !line.starts_with('#') {
            let family = found.get_mut(&current).unwrap();
            if let Some((_, labels)) = line.rsplit_once(' ').unwrap().0.split_once('{') {
                let keys = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0));
                // Every histogram has this one.
                family.labels.extend(keys.filter(|key| *key != "le").map(str::to_owned));
            }
        }
    }
    found
}

const GOLDEN: &str = "tests/golden/metrics.txt";

/// `name type [unit] {labels}: help`, a line each.
fn written(families: &BTreeMap<String, Family>) -> String {
    let line = |(name, family): (&String, &Family)| {
        let labels = family.labels.iter().cloned().collect::<Vec<_>>().join(", ");
        let unit = if family.unit.is_empty() { String::new() } else { format!(" [{}]", family.unit) };
        format!("{name} {}{unit} {{{labels}}}: {}\n", family.kind, family.help)
    };
    families.iter().map(line).collect()
}

/// The golden file, read back.
fn promised() -> BTreeMap<String, Family> {
    let text = golden::promised(GOLDEN);
    let read = |line: &str| {
        let (head, help) = line.split_once(": ").unwrap();
        let (words, labels) = head.split_once(" {").unwrap();
        let (name, kind) = words.split_once(' ').unwrap();
        let labels = labels.trim_end_matches('}').split(", ").filter(|label| !label.is_empty()).map(str::to_owned);
        let kind = kind.split(' ').next().unwrap().to_owned();
        (name.to_owned(), Family { kind, help: help.to_owned(), labels: labels.collect(), ..Family::default() })
    };
    text.lines().map(read).collect()
}

/// A daemon through which something of every kind has gone, and what must live as long as it.
struct Busy {
    daemon: Daemon,
    _servers: (Nameserver, Mirror, Origin, Origin),
}

async fn busy() -> Busy {
    let server = Nameserver::start(Says::Address("127.0.0.1")).await;
    let mirror = Mirror::of("example.com/m", &["v1.0.0"]).await;
    let origin = Origin::plain(|_| text(200, "hello")).await;
    let collector = Origin::plain(|_| text(200, "")).await;
    let (mirror_port, origin_port) = (mirror.origin.address.port(), origin.address.port());
    let daemon = goanyway()
        .with("resolve.nameservers", &format!("udp://{}", server.address))
        .with("goproxy.upstreams", &format!("http://mirror.example:{mirror_port}"))
        .with("intercept.hosts", "mirror.example")
        .with("dns.listen", "127.0.0.1:0")
        .with("transparent.listen", "127.0.0.1:0")
        .with("trace.otlp", &format!("http://{}", collector.address))
        .and("admit.ports", &mirror_port.to_string())
        .and("admit.ports", &origin_port.to_string())
        .start();
    assert_eq!(get(daemon.address(), "/example.com/m/@v/v1.0.0.zip").await.status, 200);
    assert_eq!(get_through(daemon.address(), &format!("http://origin.example:{origin_port}/")).await.status, 200);
    // A tunnel that ends, and an interception that finds no TLS.
    let (answer, mut tunnel) = connect(daemon.address(), &format!("origin.example:{origin_port}"), None).await;
    assert_eq!(answer.status, 200);
    tunnel.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut tunnel, &mut heard).await.unwrap();
    drop(tunnel);
    let word = format!("ca-{}", daemon.fingerprint());
    let (answer, mut stream) = connect(daemon.address(), &format!("mirror.example:{mirror_port}"), Some(&word)).await;
    assert_eq!(answer.status, 200);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut heard).await.unwrap();
    over_udp(daemon.dns(), &question("origin.example.", RecordType::A).to_vec().unwrap()).await;
    // Made to us, and not brought by a gateway.
    assert_eq!(raw(daemon.transparent(), b"").await, "");
    Busy { daemon, _servers: (server, mirror, origin, collector) }
}

/// Both texts, once everything that went through has been counted.
async fn scraped(busy: &Busy) -> (String, String) {
    let admin = busy.daemon.admin();
    let begun = Instant::now();
    loop {
        let head = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: application/openmetrics-text\r\n\r\n";
        let open = raw(admin, head.as_bytes()).await;
        let (head, open) = open.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
        let found = families(open);
        let absent: Vec<String> = promised().into_keys().filter(|name| !found.contains_key(name)).collect();
        let is_settled = is_blessing() && begun.elapsed().as_secs() >= 8 || !is_blessing() && absent.is_empty();
        if is_settled {
            return (open.to_owned(), get(admin, "/metrics").await.text());
        }
        // A family is told once something was counted in it; that a file was kept, or a tunnel ended, is counted a
        // moment after the client has seen it, and what a collector is told 5 s later.
        assert!(begun.elapsed().as_secs() < 20, "nothing was counted in {absent:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_family_is_what_the_golden_file_says() {
    let busy = busy().await;
    let (open, plain) = scraped(&busy).await;
    golden::keeps(GOLDEN, &written(&families(&open)));
    assert!(open.ends_with("# EOF\n") && !plain.contains("# EOF"), "each format has its own end");
    assert!(plain.contains("# TYPE goanyway_goproxy_served_total counter\n"), "{plain}");
    assert_eq!(promised().len(), families(&open).len());
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_nothing_to_say() {
    if !have("promtool_finds_nothing_to_say", &["promtool"]) {
        return;
    }
    let busy = busy().await;
    let (_, plain) = scraped(&busy).await;
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(plain.as_bytes()).unwrap();
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
    assert!(ended.status.success() && said.is_empty(), "{said}");
    let mut check = Command::new("promtool");
    let checked = check.args(["check", "config", "prometheus.yml"]).current_dir(deploy("prometheus")).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()));
}

/// A Prometheus of the test's own, that watches one goanyway.
struct Prometheus {
    address: SocketAddr,
    _child: Beside,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn watch(admin: SocketAddr) -> Prometheus {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: goanyway, static_configs: [{{targets: ['{admin}']}}]}}]\n"
        );
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        // It cannot be told to choose a port and say which.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={address}"))
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Prometheus { address, _child: Beside(child), _folder: folder }
    }

    /// What an API path gives, once `enough` is satisfied with it.
    async fn ask(&self, path: &str, enough: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let mut last = Value::Null;
            if tokio::net::TcpStream::connect(self.address).await.is_ok() {
                let answer = get(self.address, path).await;
                last = serde_json::from_slice(&answer.body).unwrap_or_default();
                if enough(&last["data"]) {
                    return last["data"].take();
                }
            }
            assert!(begun.elapsed().as_secs() < 60, "{path}: {last}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_scrapes_us_and_knows_every_family() {
    if !have("a_real_prometheus", &["prometheus"]) {
        return;
    }
    let busy = busy().await;
    scraped(&busy).await;
    let prometheus = Prometheus::watch(busy.daemon.admin());
    let targets = prometheus.ask("/api/v1/targets", |data| data["activeTargets"][0]["health"] == "up").await;
    assert_eq!(targets["activeTargets"][0]["lastError"], "", "{targets}");
    let metadata = prometheus.ask("/api/v1/metadata", |data| !data["goanyway_build"].is_null()).await;
    let names = prometheus.ask("/api/v1/label/__name__/values", |data| data.to_string().contains("goanyway_")).await;
    let names: BTreeSet<&str> = names.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for (name, family) in promised() {
        let known = &metadata[&name][0];
        assert_eq!(
            (&known["type"], &known["help"]),
            (&family.kind.as_str().into(), &family.help.as_str().into()),
            "{name}"
        );
        for series in family.series(&name) {
            assert!(names.contains(series.as_str()), "{series} has no value in {names:?}");
        }
    }
}

fn deploy(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(folder)
}

/// Every series that an expression names, with the labels that it picks by.
fn mentioned(expression: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find("goanyway_") {
        rest = &rest[at..];
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_').unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let picked = after.strip_prefix('{').map_or("", |labels| labels.split('}').next().unwrap());
        let label = |one: &str| one.split(['=', '!']).next().unwrap().trim().to_owned();
        found.push((name.to_owned(), picked.split(',').map(label).filter(|label| !label.is_empty()).collect()));
        rest = after;
    }
    found
}

/// What is wrong with an expression.
fn objections(expression: &str, promised: &BTreeMap<String, Family>) -> Vec<String> {
    let mut objections = Vec::new();
    for (series, labels) in mentioned(expression) {
        let family = promised.iter().find(|(name, family)| family.series(name).contains(&series));
        let Some((_, family)) = family else {
            objections.push(format!("there is no {series}"));
            continue;
        };
        let is_there = |label: &String| family.labels.contains(label) || ["instance", "job"].contains(&label.as_str());
        let wrong = labels.iter().filter(|label| !is_there(label));
        objections.extend(wrong.map(|label| format!("{series} has no label {label}")));
    }
    objections
}

/// Every string under a key, wherever it stands.
fn strings<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Array(list) => list.iter().for_each(|one| strings(one, key, found)),
        Value::Object(map) => {
            found.extend(map.get(key).and_then(Value::as_str));
            map.values().for_each(|one| strings(one, key, found));
        }
        _ => {}
    }
}

#[test]
fn the_dashboard_draws_only_what_is_there() {
    let text = std::fs::read_to_string(deploy("grafana").join("goanyway.json")).unwrap();
    let board: Value = serde_json::from_str(&text).unwrap();
    let mut expressions = Vec::new();
    strings(&board, "expr", &mut expressions);
    strings(&board, "definition", &mut expressions);
    assert!(expressions.len() > 20, "the dashboard was not read");
    let promised = promised();
    let wrong: Vec<String> = expressions.iter().flat_map(|expression| objections(expression, &promised)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    // Whoever reads the board sees all of it: what is counted for nobody to look at is not worth counting.
    let drawn: BTreeSet<String> = expressions.iter().flat_map(|one| mentioned(one)).map(|(series, _)| series).collect();
    let forgotten = promised.iter().filter(|(name, family)| !family.series(name).iter().any(|it| drawn.contains(it)));
    let forgotten: Vec<&str> = forgotten.map(|(name, _)| name.as_str()).collect();
    assert!(forgotten.len() * 3 < promised.len(), "most of it is drawn; not {forgotten:?}");
}

#[test]
fn every_alert_watches_what_is_there_and_says_what_to_type() {
    let text = std::fs::read_to_string(deploy("prometheus").join("alerts.yml")).unwrap();
    let alerts = text.matches("- alert: Goanyway").count();
    assert!(alerts > 10, "the alerts were not read");
    for key in ["expr:", "severity:", "summary:", "description:", "run:"] {
        assert_eq!(text.matches(key).count(), alerts, "each alert has one {key}");
    }
    assert_eq!(objections(&text, &promised()), Vec::<String>::new());
}

#[test]
fn what_is_not_there_is_objected_to() {
    let text = "sum(rate(goanyway_goproxy_served_total{colour=\"red\",instance=\"x\"}[5m])) / goanyway_nonsense_total";
    let expected = ["goanyway_goproxy_served_total has no label colour", "there is no goanyway_nonsense_total"];
    assert_eq!(objections(text, &promised()), expected);
}
