//! go's own script tests as the bar: `cmd/go/proxy_test.go` is an upstream, and a two-line overlay puts a
//! goanyway between it and the scripts.
//!
//! Three rounds: cold, warm, and with the upstream gone. The scripts are told of a proxy at
//! `FRONT/SCRIPT/mod`, so that those that ask it anything are known by name: they are the ones that
//! count. What follows `mod/` is a module request, or begins with one of the upstream's special
//! prefixes (`403`, `sumdb-wrong`, …), each of which is a server of its own to a go command, and so has
//! a goanyway of its own here: in origin form for mirrors, in absolute form where the prefix is a
//! checksum database's own place.
//!
//! Without more it runs a selection; `GOANYWAY_GO_SCRIPTS=all` runs every script there is (minutes) and
//! holds the counts of issue 5 to those that ask; any other value is a pattern of names.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "it/support/mod.rs"]
#[allow(dead_code, reason = "three test binaries share one vocabulary, and each speaks a part of it")]
mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use support::client::{Answer, get, get_through};
use support::daemon::{Daemon, goanyway};
use support::needs::have;
use support::origin::closed_port;
use tokio::net::TcpListener;

/// The test database of `proxy_test.go`.
const SUMDB: &str = "localhost.localdev/sumdb+00000c67+AcTrnkbUA+TU4heY3hkjiSES/DSQniBqIeQ/YppAUtK6";
/// Those that ask for everything there is: lists, queries, zips, records, faults.
const SELECTION: &str =
    "^(mod_(get_|download|sum|proxy|query|upgrade|list|prefer|retract|tidy_c)|gotoolchain_net|goauth)";
/// Of these the test database has other sums than their zips (it leaves files out), and the scripts bring
/// the right ones in go.sum. What a database disowns we do not serve, so these go
/// unverified.
const DISOWNED: [&str; 2] = ["mod_invalid_path_dotname", "mod_load_badzip"];

#[tokio::test(flavor = "multi_thread")]
async fn gos_own_scripts_pass_through_us_cold_warm_and_with_the_upstream_gone() {
    let Some(scripts) = Scripts::build() else { return };
    let wanted = std::env::var("GOANYWAY_GO_SCRIPTS").ok();
    let upstream = Upstream::start().await;
    let front = Front::start(&upstream).await;

    let cold = scripts.run(names(wanted.as_deref()), &upstream, &front).await;
    let asking: BTreeSet<String> = front.scripts().intersection(&cold.ran()).cloned().collect();
    let (asked_us, asked_it) = (front.asked(), upstream.asked());
    println!("cold: {}, {asked_us} requests, {asked_it} upstream, {} s", cold.of(&asking), cold.seconds);
    assert!(asking.len() > 60, "the scripts did not ask us: {asking:?}");
    assert_eq!(cold.failed(&asking), BTreeSet::new(), "\n{}", cold.words(&asking));

    let those = format!("^({})$", asking.iter().map(String::as_str).collect::<Vec<_>>().join("|"));
    let warm = scripts.run(&those, &upstream, &front).await;
    let (again, more) = (front.asked() - asked_us, upstream.asked() - asked_it);
    println!("warm: {}, {again} requests, {more} upstream, {} s", warm.of(&asking), warm.seconds);
    assert_eq!(warm.failed(&asking), BTreeSet::new(), "\n{}", warm.words(&asking));
    assert!(more < 100, "a warm cache asked its upstream {more} times: {:?}", upstream.since(asked_it));

    upstream.die();
    let dead = scripts.run(&those, &upstream, &front).await;
    println!("dead: {}, {} s; failed: {:?}", dead.of(&asking), dead.seconds, dead.failed(&asking));
    // Three scripts want a fault told anew.
    assert!(dead.failed(&asking).len() <= 3, "\n{}", dead.words(&asking));
    if wanted.as_deref() == Some("all") {
        assert!(asking.len() >= 177, "{} scripts asked, 177 of go 1.26's do", asking.len());
    }
}

fn names(wanted: Option<&str>) -> &str {
    match wanted {
        None => SELECTION,
        Some("all") => "^",
        Some(names) => names,
    }
}

/// The test binary of cmd/go, built to our purpose.
struct Scripts {
    source: PathBuf,
    binary: PathBuf,
}

/// One round: each script that ran, and whether it passed.
struct Round {
    passed: BTreeMap<String, bool>,
    output: String,
    seconds: u64,
}

impl Scripts {
    /// Builds it; nothing where go's own source is not here.
    fn build() -> Option<Scripts> {
        if !have("go_scripts", &["go"]) {
            return None;
        }
        let root = Command::new("go").args(["env", "GOROOT"]).output().unwrap().stdout;
        let source = Path::new(String::from_utf8(root).unwrap().trim()).join("src/cmd/go");
        assert!(source.join("proxy_test.go").is_file(), "go without its source: {}", source.display());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go_scripts");
        std::fs::create_dir_all(&folder).unwrap();
        let overlay = folder.join("overlay.json");
        std::fs::write(&overlay, overlay_of(&source, &folder)).unwrap();
        let binary = folder.join("cmdgo.test");
        let built = Command::new("go")
            .args(["test", "-c", "-overlay"])
            .args([&overlay, Path::new("-o"), &binary, Path::new("cmd/go")])
            .current_dir(&source)
            .envs([("GOTOOLCHAIN", "local"), ("GOPROXY", "off"), ("GOFLAGS", ""), ("GOENV", "off")])
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Some(Scripts { source, binary })
    }

    /// Runs the scripts whose names match, in short mode.
    async fn run(&self, names: &str, upstream: &Upstream, front: &Front) -> Round {
        let mut command = Command::new(&self.binary);
        command
            .args(["-test.short", "-test.v", "-test.timeout=20m", &format!("-test.run=TestScript/{names}")])
            .current_dir(&self.source)
            .env("TESTGO_UPSTREAM", upstream.behind.to_string())
            .env("TESTGO_FRONT", format!("http://{}", front.address))
            .envs([("GOTOOLCHAIN", "local"), ("GOPROXY", "off"), ("GOFLAGS", ""), ("GOENV", "off")]);
        for variable in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "GOSUMDB", "GOPRIVATE"] {
            command.env_remove(variable);
        }
        let begun = Instant::now();
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        Round { passed: results(&output), output, seconds: begun.elapsed().as_secs() }
    }
}

/// The upstream listens where we say, and each script is told of a proxy by its own name.
fn overlay_of(source: &Path, folder: &Path) -> String {
    let lines = [
        ("proxy_test.go", r#"addr = "localhost:0""#, r#"addr = os.Getenv("TESTGO_UPSTREAM")"#),
        (
            "script_test.go",
            "script.NewState(tbContext(ctx, t), workdir, env)",
            r#"script.NewState(tbContext(ctx, t), workdir, append(env[:len(env):len(env)], "GOPROXY="+os.Getenv("TESTGO_FRONT")+"/"+name+"/mod"))"#,
        ),
    ];
    let mut replaced = serde_json::Map::new();
    for (file, from, to) in lines {
        let text = std::fs::read_to_string(source.join(file)).unwrap();
        assert_eq!(text.matches(from).count(), 1, "{file} of this go is another: {from}");
        let ours = folder.join(file);
        std::fs::write(&ours, text.replace(from, to)).unwrap();
        replaced.insert(source.join(file).display().to_string(), ours.display().to_string().into());
    }
    serde_json::json!({ "Replace": replaced }).to_string()
}

/// `    --- PASS: TestScript/NAME (1.2s)`; skipped scripts did not run.
fn results(output: &str) -> BTreeMap<String, bool> {
    let result = |line: &str| {
        let (word, rest) = line.trim_start().strip_prefix("--- ")?.split_once(": TestScript/")?;
        let name = rest.split_whitespace().next()?;
        (word != "SKIP").then(|| (name.to_owned(), word == "PASS"))
    };
    output.lines().filter_map(result).collect()
}

impl Round {
    fn ran(&self) -> BTreeSet<String> {
        self.passed.keys().cloned().collect()
    }

    /// Those of `asking` that failed, or did not even run.
    fn failed(&self, asking: &BTreeSet<String>) -> BTreeSet<String> {
        asking.iter().filter(|name| self.passed.get(*name) != Some(&true)).cloned().collect()
    }

    fn of(&self, asking: &BTreeSet<String>) -> String {
        format!("{} of {} scripts that ask pass", asking.len() - self.failed(asking).len(), asking.len())
    }

    /// What the failed ones said, at the end of it.
    fn words(&self, asking: &BTreeSet<String>) -> String {
        let failed = self.failed(asking);
        let is_about_one = |part: &&str| {
            let name = part.lines().next().and_then(|line| line.split("TestScript/").nth(1)).unwrap_or_default();
            failed.contains(name.trim()) && part.contains("FAIL: ")
        };
        let last = |part: &str| {
            let lines: Vec<&str> = part.lines().collect();
            lines[lines.len().saturating_sub(30)..].join("\n")
        };
        self.output.split("\n=== ").filter(is_about_one).map(last).collect::<Vec<_>>().join("\n\n")
    }
}

/// A counting road to the upstream, which can be closed.
struct Upstream {
    address: SocketAddr,
    /// Where the upstream itself listens, inside the test binary.
    behind: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    accepting: Mutex<Option<tokio::task::JoinHandle<()>>>,
    is_dead: Arc<AtomicBool>,
}

impl Upstream {
    async fn start() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, behind) = (listener.local_addr().unwrap(), closed_port().await);
        let (asked, is_dead) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let (counted, dead) = (Arc::clone(&asked), Arc::clone(&is_dead));
        let accepting = tokio::spawn(serve(listener, move |path: String| {
            counted.lock().unwrap().push(path.clone());
            let dead = dead.load(Ordering::Relaxed);
            async move { if dead { None } else { Some(get(behind, &path).await) } }
        }));
        Upstream { address, behind, asked, accepting: Mutex::new(Some(accepting)), is_dead }
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn since(&self, from: usize) -> Vec<String> {
        self.asked.lock().unwrap()[from..].to_vec()
    }

    /// Refuses from now on; connections that are open already end with their next request.
    fn die(&self) {
        self.is_dead.store(true, Ordering::Relaxed);
        self.accepting.lock().unwrap().take().unwrap().abort();
    }
}

/// What the scripts talk to: finds the goanyway for a request, and asks it.
struct Front {
    address: SocketAddr,
    scripts: Arc<Mutex<BTreeSet<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Front {
    async fn start(upstream: &Upstream) -> Front {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let front = Front { address, scripts: Arc::default(), asked: Arc::default() };
        let (scripts, asked) = (Arc::clone(&front.scripts), Arc::clone(&front.asked));
        let houses = Arc::new(Houses { base: format!("http://{}/mod", upstream.address), open: Mutex::default() });
        tokio::spawn(serve(listener, move |path: String| {
            let (script, rest) = path.split_at(path.find("/mod/").unwrap());
            let rest = &rest["/mod".len()..];
            scripts.lock().unwrap().insert(script[1..].to_owned());
            asked.fetch_add(1, Ordering::Relaxed);
            let is_verified = !rest.ends_with(".zip") || !DISOWNED.contains(&&script[1..]);
            let (houses, rest) = (Arc::clone(&houses), rest.to_owned());
            async move { Some(houses.answer(&rest, is_verified).await) }
        }));
        front
    }

    fn scripts(&self) -> BTreeSet<String> {
        self.scripts.lock().unwrap().clone()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// One goanyway for each server that the upstream pretends to be.
struct Houses {
    base: String,
    open: Mutex<HashMap<(String, bool), Daemon>>,
}

impl Houses {
    async fn answer(self: Arc<Self>, rest: &str, is_verified: bool) -> Answer {
        let (prefix, path) = split_prefix(rest);
        let base = format!("{}{prefix}", self.base);
        let (houses, there, named) = (Arc::clone(&self), base.clone(), prefix.to_owned());
        let address = tokio::task::spawn_blocking(move || houses.address((named, is_verified), &there)).await.unwrap();
        if is_database(prefix) {
            get_through(address, &format!("{base}{path}")).await
        } else {
            get(address, path).await
        }
    }

    fn address(&self, house: (String, bool), base: &str) -> SocketAddr {
        let mut open = self.open.lock().unwrap();
        open.entry(house).or_insert_with_key(|house| start(&house.0, house.1, base, &self.base)).address()
    }
}

/// A goanyway for one base: a mirror, or a database's own place beside a mirror that has nothing.
fn start(prefix: &str, is_verified: bool, base: &str, root: &str) -> Daemon {
    let wanted = goanyway().with("goproxy.fresh", "10m");
    if is_database(prefix) {
        let wanted = wanted.with("goproxy.upstreams", &format!("{root}/404"));
        return wanted.with("goproxy.sumdb", &format!("{SUMDB} {base}")).start();
    }
    wanted.with("goproxy.upstreams", base).with("goproxy.sumdb", if is_verified { SUMDB } else { "off" }).start()
}

/// The special prefix of a path, if it has one: it has no dot in its first component, as module paths do.
fn split_prefix(rest: &str) -> (&str, &str) {
    let slash = |nth: usize| rest.match_indices('/').nth(nth).map_or(rest.len(), |(at, _)| at);
    rest.split_at(match rest.split('/').nth(1).unwrap() {
        "sumdb" => 0,
        "redirect" => slash(2),
        "sumdb-redirect" => rest.find(':').map_or(rest.len(), |at| at + 1),
        module if module.contains('.') => 0,
        _ => slash(1),
    })
}

fn is_database(prefix: &str) -> bool {
    ["/sumdb-direct", "/sumdb-wrong", "/sumdb-redirect"].iter().any(|own| prefix.starts_with(own))
}

/// Serves GETs: each path is put to `answer`, and no answer ends the connection.
async fn serve<A, F>(listener: TcpListener, answer: A)
where
    A: Fn(String) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Option<Answer>> + Send,
{
    while let Ok((stream, _)) = listener.accept().await {
        let answer = answer.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let answering = answer(request.uri().path().to_owned());
            async move { answering.await.map(response).ok_or_else(|| std::io::Error::other("dead")) }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(answer.status);
    for name in ["content-type", "location"] {
        if let Some(value) = answer.header(name) {
            response = response.header(name, value);
        }
    }
    response.body(Full::new(answer.body.into())).unwrap()
}
