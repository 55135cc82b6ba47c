//! A real project before mirrors that take their time: go alone, through a goanyway, through an nginx cache.
//!
//!     cargo run --release --example replay -- DOWNLOAD PROJECT [MILLISECONDS]
//!
//! DOWNLOAD is the `cache/download` of a GOMODCACHE that has all that the project needs, PROJECT a folder with
//! its go.mod and go.sum. A mirror in this process answers each request from DOWNLOAD after so long (40 ms);
//! `go mod download` runs with nothing held, with GOMAXPROCS=4. Where there is no nginx, it is left out. Checksums
//! are go.sum's alone. Nothing but loopback is asked.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use goanyway::daemon;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

mod support;

use support::{Outcome, settings};

fn main() -> Outcome<()> {
    let argument = |nth: usize| std::env::args().nth(nth);
    let (Some(tree), Some(project)) = (argument(1), argument(2)) else {
        return Err("usage: replay DOWNLOAD PROJECT [MILLISECONDS]".into());
    };
    let pause = Duration::from_millis(argument(3).map_or(Ok(40), |text| text.parse())?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mirror =
        Arc::new(Mirror { tree: tree.into(), pause, asked: Mutex::default(), is_dead: AtomicBool::new(false) });
    let upstream = runtime.block_on(serve(Arc::clone(&mirror)))?;
    let project = PathBuf::from(project);
    let measure = |who: &str, goproxy: String| -> Outcome<()> {
        let elapsed = download(&project, &goproxy)?;
        let asked = std::mem::take(&mut *mirror.asked.lock().unwrap_or_else(PoisonError::into_inner));
        let modules: HashSet<&str> =
            asked.iter().filter_map(|path| path.split_once("/@v/").map(|(it, _)| it)).collect();
        let each = asked.len() as f64 / modules.len().max(1) as f64;
        println!(
            "{who}: {:.2} s; {} requests upstream, {each:.2} for each of {} modules",
            elapsed.as_secs_f64(),
            asked.len(),
            modules.len()
        );
        Ok(())
    };
    measure("go alone", format!("http://{upstream}"))?;
    let folder = tempfile::tempdir()?;
    let running = daemon::start(settings(&format!("http://{upstream}"), folder.path())?)?;
    let proxy = format!("http://{}", running.bound.listen[0]);
    measure("goanyway, cold", proxy.clone())?;
    measure("goanyway, warm", proxy.clone())?;
    if let Some(nginx) = Nginx::start(upstream, folder.path())? {
        let cached = format!("http://{}", nginx.address);
        measure("nginx, cold", cached.clone())?;
        measure("nginx, warm", cached)?;
    }
    mirror.is_dead.store(true, Ordering::Relaxed);
    measure("goanyway, warm, every mirror failing", proxy)?;
    running.cutter().cancel();
    running.stop();
    Ok(())
}

/// A module mirror that is slow to answer.
struct Mirror {
    tree: PathBuf,
    pause: Duration,
    asked: Mutex<Vec<String>>,
    is_dead: AtomicBool,
}

impl Mirror {
    async fn answer(&self, path: &str) -> Response<Full<Bytes>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
        tokio::time::sleep(self.pause).await;
        let file = if path.contains("..") { None } else { tokio::fs::read(self.tree.join(&path[1..])).await.ok() };
        let (status, body) = match file {
            _ if self.is_dead.load(Ordering::Relaxed) => (503, Bytes::new()),
            Some(file) => (200, file.into()),
            None => (404, Bytes::from_static(b"not found")),
        };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
        // As the mirrors say it, so that nginx keeps it.
        response.headers_mut().insert("cache-control", http::HeaderValue::from_static("public, max-age=10800"));
        response
    }
}

async fn serve(mirror: Arc<Mirror>) -> Outcome<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mirror = Arc::clone(&mirror);
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let mirror = Arc::clone(&mirror);
                async move {
                    let path = percent_encoding::percent_decode_str(request.uri().path()).decode_utf8_lossy();
                    Ok::<_, Infallible>(mirror.answer(&path).await)
                }
            });
            let serving = hyper::server::conn::http1::Builder::new();
            tokio::spawn(async move { serving.serve_connection(TokioIo::new(stream), service).await.map_err(drop) });
        }
    });
    Ok(address)
}

/// An nginx that keeps what it fetched, as such a cache is usually set up.
struct Nginx {
    child: Child,
    address: SocketAddr,
}

impl Nginx {
    fn start(upstream: SocketAddr, folder: &Path) -> Outcome<Option<Nginx>> {
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let at = |name: &str| folder.join(name).display().to_string();
        let text = format!(
            "daemon off; worker_processes 2; pid {pid}; error_log /dev/null;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; proxy_temp_path {temp}; client_body_temp_path {temp}; fastcgi_temp_path {temp};\n\
             uwsgi_temp_path {temp}; scgi_temp_path {temp};\n\
             proxy_cache_path {cache} levels=1:2 keys_zone=go:64m max_size=20g inactive=7d use_temp_path=off;\n\
             upstream mirror {{ server {upstream}; keepalive 64; }}\n\
             server {{ listen {address}; sendfile on; tcp_nopush on;\n\
             location / {{ proxy_pass http://mirror; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
             proxy_cache go; proxy_cache_lock on; proxy_cache_valid 200 7d; proxy_cache_valid 404 410 1m; }} }} }}\n",
            pid = at("nginx.pid"),
            temp = at("nginx-temp"),
            cache = at("nginx-cache"),
        );
        std::fs::write(folder.join("nginx.conf"), text)?;
        let started =
            Command::new("nginx").args(["-p", &at(""), "-c", &at("nginx.conf")]).stderr(Stdio::null()).spawn();
        let Ok(child) = started else { return Ok(None) };
        for _ in 0..100 {
            if std::net::TcpStream::connect(address).is_ok() {
                return Ok(Some(Nginx { child, address }));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("nginx did not start".into())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its workers when it is told to, not when it is killed.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

/// `go mod download` of the project, with nothing held.
fn download(project: &Path, goproxy: &str) -> Outcome<Duration> {
    let folder = tempfile::tempdir()?;
    for name in ["go.mod", "go.sum"] {
        std::fs::copy(project.join(name), folder.path().join(name))?;
    }
    support::download(folder.path(), goproxy, "-modcacherw")
}
