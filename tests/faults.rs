//! The fault table: the real go command, two mirrors of which one or both misbehave, and a goanyway in
//! between that no fault gets past as long as any mirror, or any later try, could have served.
//!
//! Each cell is one `go get MODULE@latest` with nothing held: it asks for a list, an `.info`, a go.mod, a
//! zip and the checksum database's records and tiles through its mirrors. A fault concerns one of these
//! kinds, or all. The table is printed as Markdown beside what go alone makes of the best list it
//! knows (`BAD|GOOD`). Without more a representative part runs; `GOANYWAY_FAULTS=all` runs all of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "it/support/mod.rs"]
#[allow(dead_code, reason = "the test binaries share one vocabulary, and each speaks a part of it")]
mod support;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::authority::Authority;
use support::book::{Book, h1};
use support::daemon::{Daemon, goanyway};
use support::needs::have;
use support::origin::closed_port;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A database that nobody can reach but through mirrors: its own place refuses (discard, port 9).
const DATABASE: &str = "127.0.0.1:9/sum";
const MODULE: &str = "example.com/m";
/// go alone waits for ever for a server that says nothing; that long is for ever here.
const FOR_EVER: Duration = Duration::from_secs(8);
/// Longer than anything of ours may take.
const TOO_LONG: Duration = Duration::from_secs(90);
/// Rows at once: most of them wait, go takes a core for a moment.
const AT_ONCE: usize = 12;

/// How a mirror misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Says(u16),
    /// A status, and when to come back, in seconds.
    Later(u16, u32),
    Refuses,
    Silent,
    /// The first byte comes after so many seconds.
    Slow(u64),
    /// Half of the body, then nothing.
    Stalls,
    /// Half of the body under the whole one's length, then the end.
    Cut,
    /// Half of a chunk.
    CutChunk,
    /// Half of the body under its own length.
    Short,
    Flipped,
    Page,
    Empty,
    Redirects,
    Circles,
    /// A list of before the version.
    OldList,
    UnknownCa,
    NoName,
}

/// What a fault concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    All,
    List,
    Info,
    Mod,
    Zip,
    Sumdb,
}

const KINDS: [Kind; 6] = [Kind::All, Kind::List, Kind::Info, Kind::Mod, Kind::Zip, Kind::Sumdb];

impl Fault {
    const ALL: [Fault; 26] = [
        Fault::Says(500),
        Fault::Says(502),
        Fault::Says(503),
        Fault::Says(504),
        Fault::Says(429),
        Fault::Says(403),
        Fault::Says(404),
        Fault::Says(410),
        Fault::Later(503, 1),
        Fault::Later(503, 120),
        Fault::Later(429, 1),
        Fault::Refuses,
        Fault::Silent,
        Fault::Slow(4),
        Fault::Stalls,
        Fault::Cut,
        Fault::CutChunk,
        Fault::Short,
        Fault::Flipped,
        Fault::Page,
        Fault::Empty,
        Fault::Redirects,
        Fault::Circles,
        Fault::OldList,
        Fault::UnknownCa,
        Fault::NoName,
    ];

    fn name(self) -> String {
        match self {
            Fault::Says(404 | 410) => format!("{} that lies", self.status()),
            Fault::Says(status) => status.to_string(),
            Fault::Later(status, wish) => format!("{status}, Retry-After {wish}"),
            Fault::Slow(seconds) => format!("first byte after {seconds} s"),
            Fault::Refuses => "refused".to_owned(),
            Fault::Silent => "accepts, says nothing".to_owned(),
            Fault::Stalls => "stalls in the middle".to_owned(),
            Fault::Cut => "cut".to_owned(),
            Fault::CutChunk => "cut in a chunk".to_owned(),
            Fault::Short => "short, with that length".to_owned(),
            Fault::Flipped => "flipped bits".to_owned(),
            Fault::Page => "a web page, 200".to_owned(),
            Fault::Empty => "empty, 200".to_owned(),
            Fault::Redirects => "redirect".to_owned(),
            Fault::Circles => "redirect loop".to_owned(),
            Fault::OldList => "old list".to_owned(),
            Fault::UnknownCa => "unknown CA".to_owned(),
            Fault::NoName => "name does not resolve".to_owned(),
        }
    }

    fn status(self) -> u16 {
        match self {
            Fault::Says(status) | Fault::Later(status, _) => status,
            _ => 200,
        }
    }

    /// What it may concern. Whole servers refuse; bits are flipped where somebody could see it; an empty
    /// list is a list.
    fn kinds(self) -> &'static [Kind] {
        match self {
            Fault::Refuses | Fault::UnknownCa | Fault::NoName => &[Kind::All],
            Fault::OldList => &[Kind::List],
            Fault::Flipped => &[Kind::Mod, Kind::Zip, Kind::Sumdb],
            Fault::Short => &[Kind::Info, Kind::Mod, Kind::Zip, Kind::Sumdb],
            Fault::Empty => &[Kind::Info, Kind::Mod, Kind::Zip, Kind::Sumdb],
            _ => &KINDS,
        }
    }

    /// Whether the same server, asked a moment later, could have served.
    fn passes(self) -> bool {
        !matches!(
            self,
            Fault::Says(403 | 404 | 410)
                | Fault::Later(_, 120)
                | Fault::Refuses
                | Fault::UnknownCa
                | Fault::NoName
                | Fault::OldList
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_gets_past_while_any_mirror_or_any_later_try_could_serve() {
    if !have("the fault table", &["go"]) {
        return;
    }
    let is_all = std::env::var("GOANYWAY_FAULTS").as_deref() == Ok("all");
    let world = Arc::new(World::new());
    let (turns, mut running) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for (number, (fault, kind)) in cells(is_all).into_iter().enumerate() {
        let (world, turns) = (Arc::clone(&world), Arc::clone(&turns));
        running.spawn(async move {
            let _turn = turns.acquire_owned().await.unwrap();
            (number, row(&world, fault, kind, is_all).await)
        });
    }
    let mut rows = running.join_all().await;
    rows.sort_by_key(|(number, _)| *number);
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    println!("{}", table(&rows));
    let failures: Vec<String> = rows.iter().flat_map(Row::failures).collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n\n"));
}

fn cells(is_all: bool) -> Vec<(Fault, Kind)> {
    let all = Fault::ALL.iter().flat_map(|&fault| fault.kinds().iter().map(move |&kind| (fault, kind)));
    let chosen = [
        (Fault::Says(503), Kind::All),
        (Fault::Says(404), Kind::All),
        (Fault::Later(429, 1), Kind::Zip),
        (Fault::Refuses, Kind::All),
        (Fault::Silent, Kind::Zip),
        (Fault::Stalls, Kind::Sumdb),
        (Fault::Cut, Kind::Zip),
        (Fault::CutChunk, Kind::Mod),
        (Fault::Short, Kind::Zip),
        (Fault::Flipped, Kind::Zip),
        (Fault::Flipped, Kind::Sumdb),
        (Fault::Page, Kind::All),
        (Fault::Circles, Kind::All),
        (Fault::OldList, Kind::List),
        (Fault::UnknownCa, Kind::All),
        (Fault::NoName, Kind::All),
    ];
    if is_all { all.collect() } else { chosen.to_vec() }
}

/// What came of one fault.
struct Row {
    fault: Fault,
    kind: Kind,
    /// go alone, with `BAD|GOOD`.
    alone: Option<Outcome>,
    /// Through us: one bad mirror, named first.
    one: Outcome,
    /// Through us, warm, with both mirrors gone.
    warm: Outcome,
    /// Through us: both bad, each time for the first two requests for a path.
    both_once: Option<Outcome>,
    /// Through us: both bad for ever, and what go then prints.
    both: Outcome,
    mirrors: [String; 2],
}

#[derive(Clone, Debug)]
enum Outcome {
    Built,
    Failed(String),
    Hangs,
}

impl Outcome {
    fn word(&self) -> &'static str {
        match self {
            Outcome::Built => "passes",
            Outcome::Failed(_) => "fails",
            Outcome::Hangs => "hangs",
        }
    }
}

async fn row(world: &Arc<World>, fault: Fault, kind: Kind, is_all: bool) -> Row {
    let good = Bad::mirror(world, None, Kind::All, None).await;
    let bad = Bad::mirror(world, Some(fault), kind, None).await;
    // Where a name would be asked of the machine's own servers, go alone is not tried.
    let alone = match fault {
        Fault::NoName => None,
        _ if !is_all => None,
        _ => Some(world.build(&format!("{}|{}", bad.url, good.url), FOR_EVER).await),
    };
    let proxy = world.goanyway(&[&bad.url, &good.url]);
    let one = world.build_through(&proxy).await;
    // Both gone: the same folder, before two servers that are not there.
    let dead = format!("http://{}", closed_port().await);
    let proxy = world.goanyway_after(proxy.stop(), &[&dead]);
    let warm = world.build_through(&proxy).await;
    drop(proxy);

    let both_once = if fault.passes() {
        let first = Bad::mirror(world, Some(fault), kind, Some(1)).await;
        let second = Bad::mirror(world, Some(fault), kind, Some(1)).await;
        Some(world.build_through(&world.goanyway(&[&first.url, &second.url])).await)
    } else {
        None
    };
    let (first, second) = (&bad, Bad::mirror(world, Some(fault), kind, None).await);
    let both = world.build_through(&world.goanyway(&[&first.url, &second.url])).await;
    let mirrors = [first.name(), second.name()];
    Row { fault, kind, alone, one, warm, both_once, both, mirrors }
}

impl Row {
    /// Whether both mirrors together could never serve.
    fn is_hopeless(&self) -> bool {
        // A mirror that is slow, or sends us elsewhere, serves after all; a pool without the database
        // serves unverified files, but go wants it from somewhere.
        !matches!(self.fault, Fault::Slow(_) | Fault::Redirects)
    }

    fn failures(&self) -> Vec<String> {
        let what = format!("{}, {:?}", self.fault.name(), self.kind);
        let mut found = Vec::new();
        for (which, outcome) in [
            ("one bad mirror", Some(&self.one)),
            ("warm, all gone", Some(&self.warm)),
            ("both bad once", self.both_once.as_ref()),
        ] {
            match outcome {
                Some(Outcome::Failed(said)) => found.push(format!("{what}: {which}: {said}")),
                Some(Outcome::Hangs) => found.push(format!("{what}: {which}: hangs")),
                _ => {}
            }
        }
        match &self.both {
            Outcome::Hangs => found.push(format!("{what}: both bad: hangs")),
            Outcome::Failed(said) if self.is_hopeless() => {
                found.extend(self.judge_message(said).map(|why| format!("{what}: {why}:\n{said}")))
            }
            Outcome::Failed(said) => found.push(format!("{what}: both bad: {said}")),
            Outcome::Built => {}
        }
        found
    }

    /// What is wrong with the message of a build that nobody could have served. An absence is told in the
    /// mirror's words, and so is a status that all of them had.
    fn judge_message(&self, said: &str) -> Option<String> {
        // Without records go goes on to the database itself; what only an old list names is absent; and an
        // `.info` that does not parse is go's to speak of.
        let is_gos = matches!((self.fault, self.kind), (Fault::OldList, _) | (Fault::Short | Fault::Empty, Kind::Info));
        if self.kind == Kind::Sumdb || is_gos {
            return None;
        }
        let Some(at) = said.find("server response:") else { return Some("go printed no answer of ours".to_owned()) };
        if matches!(self.fault, Fault::Says(_)) {
            return None;
        }
        let lines: Vec<&str> = said[at..].lines().skip(1).take_while(|line| line.starts_with('\t')).collect();
        if lines.len() > 8 || lines.iter().map(|line| line.len()).sum::<usize>() > 648 || said.contains("[Truncated") {
            return Some("more than go prints".to_owned());
        }
        let is_named = |mirror: &&String| lines.iter().any(|line| line.contains(mirror.as_str()));
        let unnamed: Vec<&String> = self.mirrors.iter().filter(|mirror| !is_named(mirror)).collect();
        (!unnamed.is_empty()).then(|| format!("{unnamed:?} not named"))
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = "| fault | of | go alone, `bad\\|good` | one bad | warm, all gone | both bad once | both bad |\n\
                    | --- | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    let word = |outcome: &Option<Outcome>| outcome.as_ref().map_or("–", Outcome::word);
    for row in rows {
        let (alone, once) = (word(&row.alone), word(&row.both_once));
        let (one, warm, both) = (row.one.word(), row.warm.word(), row.both.word());
        let kind = format!("{:?}", row.kind).to_lowercase();
        writeln!(text, "| {} | {kind} | {alone} | {one} | {warm} | {once} | {both} |", row.fault.name()).unwrap();
    }
    let count = |outcomes: Vec<&Outcome>| {
        format!("{} of {}", outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Built)).count(), outcomes.len())
    };
    let alone = count(rows.iter().filter_map(|row| row.alone.as_ref()).collect());
    let one = count(rows.iter().map(|row| &row.one).collect());
    let warm = count(rows.iter().map(|row| &row.warm).collect());
    let once = count(rows.iter().filter_map(|row| row.both_once.as_ref()).collect());
    writeln!(text, "| **pass** | | {alone} | {one} | {warm} | {once} | |").unwrap();
    text
}

/// What every mirror has, and the database beside it.
struct World {
    files: HashMap<String, Vec<u8>>,
    book: Book,
}

impl World {
    fn new() -> World {
        let go_mod = format!("module {MODULE}\n\ngo 1.20\n").into_bytes();
        // Not compressed away, so that half of it is something.
        let noise: String = (0..400u64).map(|number| format!("// {:x}\n", number * 7_919_999 % 10_000_019)).collect();
        let source = format!("package m\n\nconst Version = \"v1.0.0\"\n{noise}").into_bytes();
        let entries: Vec<(String, Vec<u8>)> = [("go.mod", go_mod.clone()), ("m.go", source)]
            .map(|(name, text)| (format!("{MODULE}@v1.0.0/{name}"), text))
            .to_vec();
        let mut book = Book::new(DATABASE, 300);
        book.write(MODULE, "v1.0.0", &h1(&entries), &h1(&[("go.mod".to_owned(), go_mod.clone())]));
        let info = br#"{"Version":"v1.0.0","Time":"2024-01-02T03:04:05Z"}"#.to_vec();
        let files = [
            ("list", b"v1.0.0\n".to_vec()),
            ("v1.0.0.info", info),
            ("v1.0.0.mod", go_mod),
            ("v1.0.0.zip", zipped(&entries)),
        ];
        World { files: files.map(|(name, bytes)| (format!("/{MODULE}/@v/{name}"), bytes)).into(), book }
    }

    fn answer(&self, path: &str) -> Option<Vec<u8>> {
        self.files.get(path).cloned().or_else(|| self.book.answer(path))
    }

    fn goanyway(&self, upstreams: &[&str]) -> Daemon {
        self.goanyway_after(tempfile::tempdir().unwrap(), upstreams)
    }

    fn goanyway_after(&self, folder: TempDir, upstreams: &[&str]) -> Daemon {
        let mut wanted = goanyway().after(folder).with("intercept.mode", "off").with("goproxy.sumdb", &self.book.key());
        wanted = wanted.with("goproxy.upstreams", upstreams[0]);
        for upstream in &upstreams[1..] {
            wanted = wanted.and("goproxy.upstreams", upstream);
        }
        wanted.start()
    }

    async fn build_through(&self, proxy: &Daemon) -> Outcome {
        self.build(&format!("http://{}", proxy.address()), TOO_LONG).await
    }

    /// `go get MODULE@latest` in an empty module, with nothing held.
    async fn build(&self, goproxy: &str, patience: Duration) -> Outcome {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("go.mod"), "module example.com/main\n\ngo 1.20\n").unwrap();
        let mut go = tokio::process::Command::new("go");
        go.args(["get", &format!("{MODULE}@latest")]).current_dir(folder.path()).kill_on_drop(true);
        go.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("HOME", folder.path());
        go.envs([("GOTOOLCHAIN", "local"), ("GOENV", "off"), ("GOFLAGS", "-modcacherw"), ("GOPROXY", goproxy)]);
        go.env("GOPATH", at("gopath")).env("GOCACHE", at("gocache")).env("GOSUMDB", self.book.key());
        go.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let Ok(ended) = tokio::time::timeout(patience, go.output()).await else { return Outcome::Hangs };
        let ended = ended.unwrap();
        let has_module = at("gopath/pkg/mod/example.com/m@v1.0.0/m.go").is_file();
        match ended.status.success() && has_module {
            true => Outcome::Built,
            false => Outcome::Failed(String::from_utf8_lossy(&ended.stderr).into_owned()),
        }
    }
}

fn zipped(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, text) in entries {
        writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        std::io::Write::write_all(&mut writer, text).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A mirror, good or bad; it ends with its runtime.
struct Bad {
    url: String,
}

/// How one mirror answers.
struct Manners {
    world: Arc<World>,
    fault: Option<Fault>,
    kind: Kind,
    /// How often each path is misbehaved for; none is for ever.
    times: Option<usize>,
    asked: Mutex<HashMap<String, usize>>,
}

impl Bad {
    async fn mirror(world: &Arc<World>, fault: Option<Fault>, kind: Kind, times: Option<usize>) -> Bad {
        let url = match fault {
            Some(Fault::Refuses) => format!("http://{}", closed_port().await),
            // Of documentation (RFC 2606); the daemon's one name server refuses, so nobody is asked.
            Some(Fault::NoName) => format!("http://mirror-{}.invalid:8080", fastrand::u32(..)),
            _ => Bad::listen(world, fault, kind, times).await,
        };
        Bad { url }
    }

    async fn listen(world: &Arc<World>, fault: Option<Fault>, kind: Kind, times: Option<usize>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let manners = Arc::new(Manners { world: Arc::clone(world), fault, kind, times, asked: Mutex::default() });
        let is_tls = fault == Some(Fault::UnknownCa);
        let tls = is_tls.then(|| TlsAcceptor::from(Authority::new().server(&["localhost"])));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (manners, tls) = (Arc::clone(&manners), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => manners.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                manners.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        format!("{}://{address}", if is_tls { "https" } else { "http" })
    }

    /// As messages call it.
    fn name(&self) -> String {
        self.url.split("://").last().unwrap().to_owned()
    }
}

impl Manners {
    /// One request, one answer, the end.
    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap();
        let path = percent_encoding::percent_decode_str(path).decode_utf8().unwrap();
        // What a redirect led to.
        let (path, is_elsewhere) = match path.strip_prefix("/elsewhere") {
            Some(rest) => (rest, true),
            None => (path.as_ref(), false),
        };
        match self.fault.filter(|_| self.concerns(path) && !is_elsewhere) {
            Some(fault) => self.misbehave(fault, path, &mut stream).await,
            None => self.behave(path, &mut stream).await,
        }
        let _ = stream.shutdown().await;
    }

    fn concerns(&self, path: &str) -> bool {
        let is_kind = match self.kind {
            Kind::All => true,
            Kind::List => path.ends_with("/@v/list"),
            Kind::Info => path.ends_with(".info"),
            Kind::Mod => path.ends_with(".mod"),
            Kind::Zip => path.ends_with(".zip"),
            Kind::Sumdb => path.contains("/lookup/") || path.contains("/tile/"),
        };
        if !is_kind {
            return false;
        }
        let mut asked = self.asked.lock().unwrap();
        let nth = asked.entry(path.to_owned()).or_insert(0);
        *nth += 1;
        self.times.is_none_or(|times| *nth <= times)
    }

    async fn behave(&self, path: &str, stream: &mut (impl AsyncWrite + Unpin)) {
        match self.world.answer(path) {
            Some(bytes) => say(stream, 200, &format!("Content-Length: {}", bytes.len()), &bytes).await,
            None => say(stream, 404, "Content-Type: text/plain", b"not found: no such file\n").await,
        }
    }

    async fn misbehave(&self, fault: Fault, path: &str, stream: &mut (impl AsyncWrite + Unpin)) {
        let Some(bytes) = self.world.answer(path) else { return self.behave(path, stream).await };
        let half = &bytes[..bytes.len() / 2];
        let whole = format!("Content-Length: {}", bytes.len());
        match fault {
            Fault::Says(status) => say(stream, status, "Content-Type: text/plain", b"out of order\n").await,
            Fault::Later(status, wish) => say(stream, status, &format!("Retry-After: {wish}"), b"").await,
            Fault::Silent => std::future::pending().await,
            Fault::Slow(seconds) => {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                self.behave(path, stream).await;
            }
            Fault::Stalls => {
                say(stream, 200, &whole, half).await;
                std::future::pending().await
            }
            Fault::Cut => say(stream, 200, &whole, half).await,
            Fault::CutChunk => {
                let chunk = [format!("{:x}\r\n", bytes.len().max(1)).as_bytes(), half].concat();
                say(stream, 200, "Transfer-Encoding: chunked", &chunk).await;
            }
            Fault::Short => say(stream, 200, &format!("Content-Length: {}", half.len()), half).await,
            Fault::Flipped => say(stream, 200, &whole, &flipped(bytes)).await,
            Fault::Page => say(stream, 200, "Content-Type: text/html", b"<!doctype html>\n<p>please sign in\n").await,
            Fault::Empty => say(stream, 200, "Content-Length: 0", b"").await,
            Fault::Redirects => say(stream, 302, &format!("Location: /elsewhere{path}"), b"").await,
            Fault::Circles => say(stream, 302, &format!("Location: {path}"), b"").await,
            Fault::OldList => say(stream, 200, "Content-Length: 7", b"v0.9.0\n").await,
            Fault::UnknownCa => self.behave(path, stream).await,
            Fault::Refuses | Fault::NoName => unreachable!("nobody listens"),
        }
    }
}

fn flipped(mut bytes: Vec<u8>) -> Vec<u8> {
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 0x15;
    }
    bytes
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), status: u16, field: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status} Said\r\nConnection: close\r\n{field}\r\n\r\n");
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(body).await;
    let _ = stream.flush().await;
}
