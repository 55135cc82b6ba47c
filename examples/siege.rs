//! What an attack costs those who are served meanwhile.
//!
//!     cargo build --release && cargo run --release --example siege -- [TUNNELS [SLOW [SECONDS [PROGRAM]]]]
//!
//! A goanyway (`target/release/goanyway`) in front of an origin in a process of its own. A few clients ask for a
//! module that is kept, for a page that is passed on, and through tunnels, each time over a new connection, for so
//! many seconds (10). Then so many tunnels (10,000) are opened and left alone, and so many connections (1,000) send
//! heads, bodies and TLS handshakes one byte a second and come back when they are closed; the same clients
//! ask again; and once more when all is over. Ends with 1 where a request failed, or where the 99th percentile of
//! one kind under the siege is more than twice what it was without. A tunnel takes one open file here, one in the
//! origin and two in the proxy; where its limit is lower there are fewer tunnels, and it says so. Loopback only.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use goanyway::socket::raise_file_limit;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

mod support;

use support::{Outcome, Process, Proxy, beside_us};

const MODULE: &str = "/example.com/m/@v/v1.0.0.mod";
/// Clients that want to be served, and how long each waits before it asks again.
const CLIENTS: usize = 6;
const PAUSE: Duration = Duration::from_millis(10);
/// Slower than this, and a request counts as one that failed.
const LIMIT: Duration = Duration::from_secs(10);
/// How many times slower the 99th percentile may be. Below the floor, the machine's own hiccups are measured.
const BAR: f64 = 2.0;
const FLOOR: Duration = Duration::from_millis(5);
/// Places of the house for those who are served meanwhile.
const SPARE: u64 = 50;
/// The house has a place for every two files, but for one in a hundred (`src/accept`).
const FILES_EACH: u64 = 2;
const RESERVED_SHARE: u64 = 100;

#[tokio::main]
async fn main() -> Outcome<()> {
    let argument = |nth: usize| std::env::args().nth(nth);
    if argument(1).as_deref() == Some("origin") {
        return origin().await;
    }
    let number = |nth, default| argument(nth).map_or(Ok(default), |text| text.parse::<u64>());
    let (wanted, slow, seconds) = (number(1, 10_000)?, number(2, 1_000)?, number(3, 10)?);
    let program = argument(4).map_or_else(beside_us, PathBuf::from);
    let places = |files: u64| (files - files / RESERVED_SHARE) / FILES_EACH;
    let afforded = raise_file_limit().map_or(wanted, |files| places(files).saturating_sub(slow + SPARE));
    let tunnels = wanted.min(afforded);
    if tunnels < wanted {
        println!("the limit of open files allows for {tunnels} tunnels, not {wanted}");
    }
    let folder = tempfile::tempdir()?;
    let (origin, target) = start_origin()?;
    let settings = [
        ("--intercept", "mirror.example"),
        ("--host", "mirror.example=127.0.0.1"),
        ("--allow-target", "127.0.0.0/8"),
        ("--allow-port", &target.port().to_string()),
        ("--log-level", "error"),
        ("--ca-dir", &folder.path().join("ca").display().to_string()),
    ];
    let proxy = Proxy::start(&program, target, folder.path(), &settings)?;
    let ask = || serve_for(proxy.address, target, Duration::from_secs(seconds));

    let _warm = serve_for(proxy.address, target, Duration::from_secs(1)).await;
    let before = ask().await;
    let (files, room) = (files(&proxy), proxy.memory("VmRSS").unwrap_or(0));
    let mut held = Vec::new();
    for _ in 0..tunnels {
        held.push(open(proxy.address, target).await?);
    }
    let each = |grown: u64| grown as f64 / tunnels.max(1) as f64;
    let grown = (self::files(&proxy).saturating_sub(files), proxy.memory("VmRSS").unwrap_or(0).saturating_sub(room));
    println!("an idle tunnel: {:.2} files and {:.2} KiB in the proxy", each(grown.0), each(grown.1) / 1024.0);
    let closed = Arc::new(AtomicU64::new(0));
    let mut attack = JoinSet::new();
    for nth in 0..slow {
        attack.spawn(dribble(proxy.address, target, nth, Arc::clone(&closed)));
    }
    // The first heads run into their deadline (15 s) while others are served.
    sleep(Duration::from_secs(8)).await;
    let begun = cpu(&proxy);
    let during = ask().await;
    let took = cpu(&proxy).saturating_sub(begun);
    let memory = resident(&proxy);
    attack.shutdown().await;
    drop(held);
    sleep(Duration::from_secs(2)).await;
    let after = ask().await;

    println!(
        "{tunnels} idle tunnels, {slow} slow connections ({} closed by us meanwhile)",
        closed.load(Ordering::Relaxed)
    );
    println!("the proxy under siege: {memory} MiB resident, {took} ms of CPU in {seconds} s");
    println!("{:<8} {:>22} {:>22} {:>22} {:>7}", "what", "before p50/p99 ms", "during", "after", "ratio");
    let mut is_well = true;
    for (kind, calm) in &before.kinds {
        let (siege, again) = (&during.kinds[kind], &after.kinds[kind]);
        // The calmer of two, so that a hiccup of the machine does not raise the bar.
        let usual = calm.percentile(99).min(again.percentile(99)).max(FLOOR);
        let ratio = siege.percentile(99).max(FLOOR).as_secs_f64() / usual.as_secs_f64();
        println!("{kind:<8} {:>22} {:>22} {:>22} {ratio:>7.2}", calm.told(), siege.told(), again.told());
        is_well &= ratio <= BAR;
    }
    let failed = before.failed + during.failed + after.failed;
    println!("{failed} requests failed");
    drop(origin);
    if is_well && failed == 0 { Ok(()) } else { Err("not as it should be".into()) }
}

/// How long the requests of one kind took.
#[derive(Default)]
struct Took(Vec<Duration>);

impl Took {
    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(LIMIT)
    }

    fn told(&self) -> String {
        let ms = |percent| self.percentile(percent).as_secs_f64() * 1e3;
        format!("{:.2}/{:.2} ({})", ms(50), ms(99), self.0.len())
    }
}

#[derive(Default)]
struct Served {
    kinds: BTreeMap<&'static str, Took>,
    failed: usize,
}

/// Honest clients for so long: each kind in turn, every request over a new connection.
async fn serve_for(proxy: SocketAddr, target: SocketAddr, length: Duration) -> Served {
    let mut clients = JoinSet::new();
    for nth in 0..CLIENTS {
        clients.spawn(async move {
            let (mut took, end) = (Vec::new(), Instant::now() + length);
            sleep(PAUSE * nth as u32 / CLIENTS as u32).await;
            for kind in ["kept", "passed", "tunnel"].into_iter().cycle() {
                let begun = Instant::now();
                if begun >= end {
                    break;
                }
                let whole =
                    timeout(LIMIT, ask(kind, proxy, target)).await.is_ok_and(|outcome| outcome.unwrap_or(false));
                took.push((kind, whole.then(|| begun.elapsed())));
                sleep(PAUSE).await;
            }
            took
        });
    }
    let mut served = Served::default();
    for (kind, took) in clients.join_all().await.into_iter().flatten() {
        match took {
            Some(took) => served.kinds.entry(kind).or_default().0.push(took),
            None => served.failed += 1,
        }
    }
    served
}

/// One request, and whether the answer to it was right.
async fn ask(kind: &str, proxy: SocketAddr, target: SocketAddr) -> Outcome<bool> {
    let mut stream = if kind == "tunnel" { open(proxy, target).await? } else { TcpStream::connect(proxy).await? };
    let path = match kind {
        "kept" => MODULE.to_owned(),
        "passed" => format!("http://{target}/page"),
        _ => "/page".to_owned(),
    };
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(PAGE.as_bytes()))
}

/// A tunnel that stands.
async fn open(proxy: SocketAddr, target: SocketAddr) -> Outcome<TcpStream> {
    connect(proxy, &target.to_string(), "").await
}

async fn connect(proxy: SocketAddr, target: &str, more: &str) -> Outcome<TcpStream> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{more}\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    if head.starts_with(b"HTTP/1.1 200") { Ok(stream) } else { Err(String::from_utf8_lossy(&head).into()) }
}

/// Sends one byte a second, and begins anew whenever it is closed.
async fn dribble(proxy: SocketAddr, target: SocketAddr, nth: u64, closed: Arc<AtomicU64>) {
    sleep(Duration::from_millis(nth % 1000)).await;
    loop {
        let _ = dribble_once(proxy, target, nth).await;
        closed.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(100)).await;
    }
}

async fn dribble_once(proxy: SocketAddr, target: SocketAddr, nth: u64) -> Outcome<()> {
    let filler = "x".repeat(4096);
    let (mut stream, bytes) = match nth % 3 {
        0 => (
            TcpStream::connect(proxy).await?,
            format!("GET http://{target}/page HTTP/1.1\r\nHost: {target}\r\nX: {filler}"),
        ),
        1 => {
            let mut stream = TcpStream::connect(proxy).await?;
            let head = format!("POST http://{target}/page HTTP/1.1\r\nHost: {target}\r\nContent-Length: 4096\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            (stream, filler)
        }
        // "ca:x": the user that says it trusts our CA.
        _ => {
            let stream = connect(proxy, "mirror.example:443", "Proxy-Authorization: Basic Y2E6eA==\r\n").await?;
            (stream, format!("\x16\x03\x01\x04\x00\x01\x00\x03\x7c{filler}"))
        }
    };
    stream.set_nodelay(true)?;
    for byte in bytes.bytes() {
        stream.write_all(&[byte]).await?;
        if timeout(Duration::from_secs(1), stream.read_u8()).await.is_ok() {
            break;
        }
    }
    Ok(())
}

const PAGE: &str = "module example.com/m\n";

/// The origin, until its standard input ends: a page whatever it is asked, and silence to whoever asks nothing.
async fn origin() -> Outcome<()> {
    raise_file_limit();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(answer(stream))),
                Err(_) => sleep(PAUSE).await,
            }
        }
    });
    tokio::task::spawn_blocking(|| std::io::Read::read(&mut std::io::stdin(), &mut [0])).await??;
    Ok(())
}

async fn answer(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(512, stream);
    loop {
        let (mut line, mut length, mut closes) = (String::new(), 0, false);
        while line != "\r\n" {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            closes |= lower.starts_with("connection: close");
        }
        tokio::io::copy(&mut (&mut stream).take(length), &mut tokio::io::sink()).await?;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{PAGE}", PAGE.len());
        stream.get_mut().write_all(head.as_bytes()).await?;
        if closes {
            return Ok(());
        }
    }
}

fn start_origin() -> Outcome<(Process, SocketAddr)> {
    let us = std::env::current_exe()?;
    let mut child = Command::new(us).arg("origin").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let out = child.stdout.take().ok_or("the origin has no output")?;
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line)?;
    Ok((Process(child), line.trim().parse()?))
}

/// Its resident set, in MiB.
fn resident(proxy: &Proxy) -> u64 {
    proxy.memory("VmRSS").unwrap_or(0) >> 20
}

/// How many files it has open.
fn files(proxy: &Proxy) -> u64 {
    std::fs::read_dir(format!("/proc/{}/fd", proxy.process.0.id())).map_or(0, |files| files.count() as u64)
}

/// The CPU time it has taken, in ms: fields 14 and 15 of proc(5)'s stat, in ticks of 10 ms.
fn cpu(proxy: &Proxy) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", proxy.process.0.id())).unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after.split_whitespace().skip(11).take(2);
    ticks.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * 10
}
