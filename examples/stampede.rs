//! One large zip, many clients at once: how much memory it takes, and how often upstream is asked.
//!
//!     cargo build && cargo run --example stampede -- [CLIENTS [MEBIBYTES [PROGRAM]]]
//!
//! A mirror in this process has one module whose zip holds so many MiB of zeros (499, which is all that go
//! allows), stored. So many clients (50) ask a goanyway (`target/debug/goanyway`) for it in the same moment, and
//! count what they get. Meanwhile the anonymous memory of that process is read from /proc. Ends with 1 where
//! it grew by more than `cache.memory` (here 32 MiB) and 64 MiB, somebody got something else, or upstream was
//! asked twice. Nothing but loopback is asked; the zip and the cache lie in a temporary folder.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Response;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

mod support;

use support::{Outcome, Proxy, beside_us, memory};

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, io::Error>;

const ZIP: &str = "/example.com/large/@v/v1.0.0.zip";
/// `cache.memory`, and what may be taken beyond it.
const MEMORY: u64 = 32 << 20;
const BEYOND: u64 = 64 << 20;
const PIECE: u64 = 256 << 10;

fn main() -> Outcome<()> {
    let argument = |nth: usize| std::env::args().nth(nth);
    let clients: usize = argument(1).map_or(Ok(50), |text| text.parse())?;
    let mebibytes: u64 = argument(2).map_or(Ok(499), |text| text.parse())?;
    let program = argument(3).map_or_else(beside_us, PathBuf::from);
    let folder = tempfile::tempdir()?;
    let zip = folder.path().join("large.zip");
    write_zip(&zip, mebibytes)?;
    let length = std::fs::metadata(&zip)?.len();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let asked = Arc::new(AtomicUsize::new(0));
    let mirror = runtime.block_on(serve(zip, Arc::clone(&asked)))?;
    let settings = [("--intercept-mode", "off"), ("--cache-memory", &MEMORY.to_string())];
    let proxy = Proxy::start(&program, mirror, folder.path(), &settings)?;
    let mut is_well = true;
    for round in ["nothing held", "held"] {
        let before = anonymous(&proxy)?;
        let (peak, done) = (Arc::new(AtomicU64::new(before)), Arc::new(AtomicBool::new(false)));
        let watching = watch(&proxy, Arc::clone(&peak), Arc::clone(&done));
        let begun = Instant::now();
        let got = runtime.block_on(stampede(proxy.address, clients));
        let elapsed = begun.elapsed();
        done.store(true, Ordering::Relaxed);
        watching.join().map_err(|_| "the watcher ended early")?;
        let grown = peak.load(Ordering::Relaxed).saturating_sub(before);
        let whole = got.iter().filter(|bytes| **bytes == Some(length)).count();
        let requests = asked.swap(0, Ordering::Relaxed);
        println!(
            "{round}: {whole} of {clients} clients got {length} bytes in {:.1} s; {requests} requests upstream; \
             anonymous memory from {} to {} MiB",
            elapsed.as_secs_f64(),
            before >> 20,
            (before + grown) >> 20,
        );
        is_well &= whole == clients && grown <= MEMORY + BEYOND && requests <= 1;
    }
    drop(proxy);
    if is_well { Ok(()) } else { Err("not as it should be".into()) }
}

fn write_zip(place: &Path, mebibytes: u64) -> Outcome<()> {
    let mut writer = zip::ZipWriter::new(std::fs::File::create(place)?);
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    writer.start_file("example.com/large@v1.0.0/go.mod", stored)?;
    writer.write_all(b"module example.com/large\n")?;
    writer.start_file("example.com/large@v1.0.0/zeros", stored)?;
    for _ in 0..mebibytes {
        writer.write_all(&[0; 1 << 20])?;
    }
    writer.finish()?.sync_all()?;
    Ok(())
}

/// The mirror, on a port of its own: a zip that is read from disk as it goes.
async fn serve(zip: PathBuf, asked: Arc<AtomicUsize>) -> Outcome<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (zip, asked) = (zip.clone(), Arc::clone(&asked));
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (zip, asked, path) = (zip.clone(), Arc::clone(&asked), request.uri().path().to_owned());
                async move { Ok::<_, Infallible>(answer(&zip, &asked, &path).await) }
            });
            let serving = hyper::server::conn::http1::Builder::new();
            tokio::spawn(async move { serving.serve_connection(TokioIo::new(stream), service).await.map_err(drop) });
        }
    });
    Ok(address)
}

async fn answer(zip: &Path, asked: &AtomicUsize, path: &str) -> Response<Body> {
    let text = |status: u16, text: &'static str| {
        let mut response = Response::new(Full::from(text).map_err(|never| match never {}).boxed_unsync());
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
        response
    };
    match path {
        ZIP => {}
        "/example.com/large/@v/v1.0.0.mod" => return text(200, "module example.com/large\n"),
        _ => return text(404, "not found"),
    }
    asked.fetch_add(1, Ordering::Relaxed);
    let Ok(file) = tokio::fs::File::open(zip).await else { return text(500, "no file") };
    let Ok(length) = file.metadata().await.map(|metadata| metadata.len()) else { return text(500, "no file") };
    let pieces = stream::unfold(file, |mut file| async move {
        let mut piece = vec![0; PIECE as usize];
        match file.read(&mut piece).await {
            Ok(0) => None,
            Ok(read) => Some((Ok(Frame::data(Bytes::from(piece).slice(..read))), file)),
            Err(why) => Some((Err(why), file)),
        }
    });
    let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
    response.headers_mut().insert("content-length", length.into());
    response
}

/// How many bytes of a body each client got, if that was a 200.
async fn stampede(proxy: SocketAddr, clients: usize) -> Vec<Option<u64>> {
    let asking = (0..clients).map(|_| async move { download(proxy).await.ok().flatten() });
    stream::iter(asking).buffer_unordered(clients).collect().await
}

async fn download(proxy: SocketAddr) -> io::Result<Option<u64>> {
    let mut stream = tokio::net::TcpStream::connect(proxy).await?;
    stream.write_all(format!("GET {ZIP} HTTP/1.1\r\nHost: {proxy}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let (mut head, mut piece) = (Vec::new(), vec![0; PIECE as usize]);
    let end = loop {
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        match stream.read(&mut piece).await? {
            0 => return Ok(None),
            read => head.extend_from_slice(&piece[..read]),
        }
    };
    let mut got = (head.len() - end) as u64;
    loop {
        match stream.read(&mut piece).await? {
            0 => return Ok(head.starts_with(b"HTTP/1.1 200").then_some(got)),
            read => got += read as u64,
        }
    }
}

fn anonymous(proxy: &Proxy) -> Outcome<u64> {
    Ok(proxy.memory("RssAnon").ok_or("its memory cannot be read from /proc")?)
}

fn watch(proxy: &Proxy, peak: Arc<AtomicU64>, done: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let id = proxy.process.0.id();
    std::thread::spawn(move || {
        while !done.load(Ordering::Relaxed) {
            peak.fetch_max(memory(id, "RssAnon").unwrap_or(0), Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
        }
    })
}
