//! What the examples share: a goanyway that asks nobody but one mirror, in this process or as the program
//! itself, and the real `go mod download` with nothing held.

#![allow(dead_code, reason = "each example needs a part of it")]

pub mod subnet;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use goanyway::config::{Settings, Typed};

/// What can go wrong, as an example tells it.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A goanyway in front of that mirror, which asks nobody else.
pub fn settings(upstream: &str, folder: &Path) -> Outcome<Settings> {
    let at = |name: &str| vec![folder.join(name).display().to_string()];
    let one = |text: &str| vec![text.to_owned()];
    let flags = [
        ("listen", one("127.0.0.1:0")),
        ("admin.listen", one("none")),
        ("cache.dir", at("cache")),
        ("state_dir", at("state")),
        ("intercept.mode", one("off")),
        ("resolve.nameservers", one("udp://127.0.0.1:9")),
        ("resolve.fallback", one("none")),
        ("connect.parent", one("none")),
        ("goproxy.sumdb", one("off")),
        ("goproxy.upstreams", one(upstream)),
    ];
    let typed = Typed::gather(&flags.into_iter().collect(), &|_| None, None)?;
    Ok(Settings::understand(&typed, &|_| None)?)
}

/// `go mod download` of the module in `folder`, which is go's home too: nothing is held.
pub fn download(folder: &Path, goproxy: &str, goflags: &str) -> Outcome<Duration> {
    let begun = Instant::now();
    let ended = Command::new("go")
        .args(["mod", "download"])
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var("PATH")?)
        .envs([("GOMAXPROCS", "4"), ("GOPROXY", goproxy), ("GOSUMDB", "off"), ("GOTOOLCHAIN", "local")])
        .envs([("GOENV", "off"), ("GOFLAGS", goflags)])
        .env("HOME", folder)
        .output()?;
    let elapsed = begun.elapsed();
    if !ended.status.success() {
        return Err(String::from_utf8_lossy(&ended.stderr).into());
    }
    Ok(elapsed)
}

/// A process of ours that ends with this one.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program itself, in front of one upstream.
pub struct Proxy {
    pub process: Process,
    pub address: SocketAddr,
}

impl Proxy {
    /// Starts it with these settings beside, and returns once it serves.
    pub fn start(program: &Path, upstream: SocketAddr, folder: &Path, more: &[(&str, &str)]) -> Outcome<Proxy> {
        let at = |name: &str| folder.join(name).display().to_string();
        let upstream = format!("http://{upstream}");
        let (cache, state, ready) = (at("cache"), at("state"), at("ready"));
        let mut command = Command::new(program);
        command.env_clear().arg("serve");
        let usual = [
            ("--listen", "127.0.0.1:0"),
            ("--admin", "none"),
            ("--fallback", "none"),
            ("--nameserver", "udp://127.0.0.1:9"),
            ("--parent", "none"),
            ("--sumdb", "off"),
            ("--upstream", &upstream),
            ("--cache-dir", &cache),
            ("--state-dir", &state),
            ("--ready-file", &ready),
        ];
        for (flag, value) in usual.iter().chain(more) {
            command.args([flag, value]);
        }
        let process = Process(command.stderr(Stdio::null()).spawn()?);
        for _ in 0..600 {
            let told = std::fs::read_to_string(&ready).unwrap_or_default();
            if let Some(address) = told.lines().find_map(|line| line.strip_prefix("listen=")) {
                return Ok(Proxy { process, address: address.parse()? });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("it did not start within half a minute".into())
    }

    /// A line of its status in /proc, in bytes: `VmRSS`, `RssAnon`.
    pub fn memory(&self, line: &str) -> Option<u64> {
        memory(self.process.0.id(), line)
    }
}

/// The same of any process.
pub fn memory(id: u32, line: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let value = status.lines().find_map(|own| own.strip_prefix(line)?.strip_prefix(':'))?;
    Some(value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

/// The program that was built with this example.
pub fn beside_us() -> PathBuf {
    let us = std::env::current_exe().unwrap_or_default();
    us.ancestors().nth(2).unwrap_or(Path::new("target/debug")).join("goanyway")
}
