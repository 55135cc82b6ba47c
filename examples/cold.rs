//! How long a cold download takes where every answer is slow: go alone, and through a goanyway.
//!
//!     cargo run --release --example cold -- [MODULES [MILLISECONDS]]
//!
//! A mirror in this process has so many modules (40) and answers each request after so long (200 ms).
//! `go mod download` with GOMAXPROCS=4 asks it itself, then through an empty goanyway, then through the
//! same one with another empty module cache. Nothing but loopback is asked.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use goanyway::daemon;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

mod support;

use support::{Outcome, settings};

fn main() -> Outcome<()> {
    let number = |nth: usize, default: u64| std::env::args().nth(nth).map_or(Ok(default), |text| text.parse());
    let (modules, pause) = (number(1, 40)?, Duration::from_millis(number(2, 200)?));
    let runtime = tokio::runtime::Runtime::new()?;
    let asked = Arc::new(AtomicUsize::new(0));
    let mirror = runtime.block_on(serve(modules, pause, Arc::clone(&asked)))?;
    let upstream = format!("http://{mirror}");

    let report = |who: &str, elapsed: Duration| {
        println!("{who}: {:.2} s, {} requests upstream", elapsed.as_secs_f64(), asked.swap(0, Ordering::Relaxed));
    };
    report("go alone", download(modules, &upstream)?);
    let folder = tempfile::tempdir()?;
    let running = daemon::start(settings(&upstream, folder.path())?)?;
    let proxy = format!("http://{}", running.bound.listen[0]);
    report("through goanyway, cold", download(modules, &proxy)?);
    report("through goanyway, warm", download(modules, &proxy)?);
    running.cutter().cancel();
    running.stop();
    Ok(())
}

/// `go mod download` of a module that requires all of them, with nothing held.
fn download(modules: u64, goproxy: &str) -> Outcome<Duration> {
    let folder = tempfile::tempdir()?;
    let requires: String = (0..modules).map(|number| format!("\texample.com/m{number} v1.0.0\n")).collect();
    std::fs::write(folder.path().join("go.mod"), format!("module x.y/main\n\ngo 1.20\n\nrequire (\n{requires})\n"))?;
    support::download(folder.path(), goproxy, "-mod=mod -modcacherw")
}

/// The mirror, on a port of its own.
async fn serve(modules: u64, pause: Duration, asked: Arc<AtomicUsize>) -> Outcome<SocketAddr> {
    let files: Vec<[Bytes; 3]> = (0..modules).map(files).collect::<Outcome<_>>()?;
    let (files, listener) = (Arc::new(files), tokio::net::TcpListener::bind("127.0.0.1:0").await?);
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (files, asked) = (Arc::clone(&files), Arc::clone(&asked));
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                asked.fetch_add(1, Ordering::Relaxed);
                let found = find(&files, request.uri().path());
                async move {
                    tokio::time::sleep(pause).await;
                    let status = if found.is_some() { 200 } else { 404 };
                    let mut response = Response::new(Full::new(found.unwrap_or_default()));
                    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
                    Ok::<_, Infallible>(response)
                }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { builder.serve_connection(TokioIo::new(stream), service).await.map_err(drop) });
        }
    });
    Ok(address)
}

/// `/example.com/m7/@v/v1.0.0.mod`
fn find(files: &[[Bytes; 3]], path: &str) -> Option<Bytes> {
    let rest = path.strip_prefix("/example.com/m")?;
    let (number, file) = rest.split_once("/@v/v1.0.0.")?;
    let kind = ["mod", "info", "zip"].iter().position(|kind| *kind == file)?;
    Some(files.get(number.parse::<usize>().ok()?)?[kind].clone())
}

/// The go.mod, the `.info` and the zip of one module.
fn files(number: u64) -> Outcome<[Bytes; 3]> {
    let go_mod = format!("module example.com/m{number}\n\ngo 1.20\n");
    let info = r#"{"Version":"v1.0.0","Time":"2024-01-02T03:04:05Z"}"#;
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, text) in [("go.mod", go_mod.as_str()), ("m.go", "package m\n")] {
        writer.start_file(format!("example.com/m{number}@v1.0.0/{name}"), zip::write::SimpleFileOptions::default())?;
        writer.write_all(text.as_bytes())?;
    }
    let zip = writer.finish()?.into_inner();
    Ok([go_mod.into(), info.into(), zip.into()])
}
