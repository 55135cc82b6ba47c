//! What an idle tunnel costs in memory: `cargo run --release --example idle [TUNNELS]`.
//!
//! A proxy and an origin in this process, so many tunnels opened through the one to the other and left alone; the
//! growth of the resident set, divided by their number; and what the two test ends of each take of it. Needs four descriptors a tunnel: `ulimit -n 65536` for 10,000. Bar: 12 KiB.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use goanyway::config::{Settings, Typed};
use goanyway::daemon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let tunnels: usize = std::env::args().nth(1).map_or(Ok(10_000), |text| text.parse())?;
    let origin = TcpListener::bind("127.0.0.1:0").await?;
    let target = origin.local_addr()?;
    let far: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let accepted = Arc::clone(&far);
    tokio::spawn(async move {
        while let Ok((stream, _)) = origin.accept().await {
            accepted.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        }
    });
    let one = |text: String| vec![text];
    let flags = HashMap::from([
        ("listen", one("127.0.0.1:0".to_owned())),
        ("admin.listen", one("none".to_owned())),
        ("intercept.mode", one("off".to_owned())),
        ("connect.parent", one("none".to_owned())),
        ("resolve.fallback", one("none".to_owned())),
        ("admit.allow", one("127.0.0.0/8".to_owned())),
        ("admit.ports", one(target.port().to_string())),
    ]);
    let settings = Settings::understand(&Typed::gather(&flags, &|_| None, None)?, &|_| None)?;
    let running = std::thread::spawn(|| daemon::start(settings)).join().map_err(|_| "the daemon panicked")??;
    let proxy = running.bound.listen[0];

    // Everything that is made once is made.
    let warmed = open(64, proxy, Some(target.to_string())).await?;
    let before = resident()?;
    let direct = open(tunnels, target, None).await?;
    let ends = resident()? - before;
    drop(direct);
    far.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let before = resident()?;
    let held = open(tunnels, proxy, Some(target.to_string())).await?;
    let grown = resident()? - before;
    let each = |kib: i64| kib as f64 / tunnels as f64;
    println!("{tunnels} tunnels: {grown} KiB resident, {:.2} KiB each", each(grown));
    println!("of that the two ends in this process: at most {:.2} KiB each", each(ends));
    drop((held, warmed));
    running.cutter().cancel();
    tokio::task::spawn_blocking(move || running.stop()).await?;
    Ok(())
}

async fn open(count: usize, to: std::net::SocketAddr, tunnel: Option<String>) -> Outcome<Vec<TcpStream>> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(to).await?;
        if let Some(target) = &tunnel {
            stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            if !head.starts_with(b"HTTP/1.1 200") {
                return Err(String::from_utf8_lossy(&head).into());
            }
        }
        held.push(stream);
    }
    Ok(held)
}

/// This process's resident set, in KiB.
fn resident() -> Outcome<i64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
