//! This process as its operating system sees it, under the names that Prometheus' own clients use, after
//! our prefix. Linux alone has `/proc`; elsewhere the families are there and have no value.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::metrics::{Info, Live, Registry, one};

/// The kernel counts a process's time in these, on every architecture that Go runs on (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// Registers what can be read at any time.
pub fn register(registry: &Registry, started: SystemTime) {
    let started = started.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    registry.house(|families| {
        families.register("build", "Which goanyway this is", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    });
    registry.room("process", |families| {
        let start = "When serving began, in seconds since 1970";
        families.register_collector(Live::gauge("start_time_seconds", start, move || one(Some(started))));
        let memory = "Memory in use (RSS)";
        families.register_collector(Live::gauge("resident_memory_bytes", memory, || one(resident_bytes())));
        let files = "Open files and sockets";
        families.register_collector(Live::gauge("open_fds", files, || one(open_files())));
        let most = "How many there may be (ulimit -n)";
        families.register_collector(Live::gauge("max_fds", most, || one(most_files())));
        let cpu = "Time on processors, in user and kernel mode";
        families.register_collector(Live::counter("cpu_seconds", cpu, || one(cpu_seconds())));
    });
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? * 1024.0)
}

fn open_files() -> Option<f64> {
    // The folder that is being read is one of them.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

fn most_files() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in brackets may have blanks in it; utime and stime are fields 14 and 15 (proc(5)).
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let ticks: f64 = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    Some(ticks / TICKS_PER_SECOND)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_runs_has_all_of_it() {
        let registry = Registry::default();
        register(&registry, UNIX_EPOCH + std::time::Duration::from_secs(7));
        let text = registry.text();
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("goanyway_process_{name} ")));
            line.unwrap_or_else(|| panic!("no {name} in {text}")).rsplit(' ').next().unwrap().parse::<f64>().unwrap()
        };
        assert!(value("resident_memory_bytes") > 1e6 && value("open_fds") >= 3.0);
        assert!(value("max_fds") >= value("open_fds") && value("cpu_seconds_total") >= 0.0);
        assert_eq!(value("start_time_seconds"), 7.0);
    }
}
