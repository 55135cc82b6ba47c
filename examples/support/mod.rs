//! What the examples that measure a download share: a goanyway that asks nobody but one mirror, and the
//! real `go mod download` with nothing held.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use goanyway::config::{Settings, Typed};

/// What can go wrong, as an example tells it.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

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
