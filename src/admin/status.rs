//! The status as JSON: what the page is drawn from, and what a program may read (docs/status.md).
//!
//! Its keys are a promise: `version` grows when one changes its meaning or goes, not when one is added.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;

use super::history::{Columns, History, MINUTES, Sums};
use super::verdict::{Facts, LATELY, Verdict};
use crate::cache::{self, Cache};
use crate::goproxy::{self, Goproxy, MirrorReport};
use crate::intercept::Interceptor;
use crate::metrics::{Lately, Recent, millis};
use crate::resolve::{Resolver, ServerReport};
use crate::tunnel::Tunnels;

/// The version of the format.
const VERSION: u32 = 1;

/// Whom the status is heard from.
pub struct Sources {
    pub goproxy: Goproxy,
    pub cache: Cache<goproxy::Failure>,
    pub resolver: Resolver,
    pub interceptor: Interceptor,
    pub tunnels: Tunnels,
    pub recent: Recent,
    /// True from the moment all listeners are bound until the drain begins.
    pub ready: Arc<AtomicBool>,
    /// Where clients are served.
    pub listening: Vec<String>,
    /// The cache folder.
    pub cache_dir: Option<String>,
    /// What the start had to say.
    pub notices: Vec<String>,
}

/// The board on which the status is written.
pub struct Board {
    sources: Sources,
    started: SystemTime,
    // Locked to take in the totals, once a second at most for each who looks.
    history: Mutex<History>,
}

#[derive(Serialize)]
struct Status {
    version: u32,
    program: &'static str,
    now_ms: u64,
    started_ms: u64,
    ready: bool,
    verdict: Verdict,
    listening: Vec<String>,
    open: Open,
    since_start: Sums,
    last_hour: Sums,
    minutes: Columns,
    servers: Vec<ServerReport>,
    mirrors: Vec<MirrorReport>,
    cache: CacheStatus,
    ca: Option<CaStatus>,
    notes: Vec<String>,
    #[serde(flatten)]
    lately: Lately,
}

/// What is under way.
#[derive(Serialize)]
struct Open {
    tunnels: u64,
    fills: usize,
}

#[derive(Serialize)]
struct CacheStatus {
    folder: Option<String>,
    keeps_on_disk: bool,
    disk_bytes: u64,
    limit_bytes: u64,
    memory_bytes: u64,
    memory_entries: usize,
    /// What left since the start to make room.
    evicted: u64,
    evicted_bytes: u64,
}

#[derive(Serialize)]
struct CaStatus {
    fingerprint: String,
    ends_ms: u64,
}

impl Board {
    /// An empty board.
    pub fn new(sources: Sources, now: SystemTime) -> Board {
        Board { sources, started: now, history: Mutex::new(History::new(now)) }
    }

    /// Whether clients are being served.
    pub fn is_ready(&self) -> bool {
        self.sources.ready.load(Ordering::Acquire)
    }

    /// Takes in what was done since the last look; the sums since the start.
    pub fn look(&self, now: SystemTime) -> Sums {
        let totals = self.totals();
        self.history.lock().unwrap_or_else(PoisonError::into_inner).look(totals, now);
        totals
    }

    /// The status as it is now.
    pub fn write(&self, now: SystemTime) -> String {
        let since_start = self.look(now);
        serde_json::to_string(&self.status(since_start, now)).unwrap_or_default()
    }

    fn totals(&self) -> Sums {
        let Sources { goproxy, tunnels, recent, .. } = &self.sources;
        let (modules, counts, (_, carried_bytes)) = (goproxy.totals(), recent.counts(), tunnels.totals());
        Sums {
            from_cache: modules.from_cache,
            saved_bytes: modules.bytes_from_cache,
            from_upstream: modules.from_upstream,
            fetched_bytes: modules.bytes_from_upstream,
            passed: counts.passed,
            carried_bytes,
            rescued: counts.rescued,
            failed: counts.failed,
        }
    }

    fn status(&self, since_start: Sums, now: SystemTime) -> Status {
        let Sources { goproxy, cache, resolver, interceptor, tunnels, recent, .. } = &self.sources;
        let (last_hour, lately, minutes) = {
            let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
            (history.latest(MINUTES), history.latest(LATELY), history.columns())
        };
        let (servers, mirrors, stat, report) =
            (resolver.report(), goproxy.report(), cache.stat(), interceptor.report(now));
        let troubles = report.notices.iter().filter(|notice| notice.is_trouble());
        let ca: Vec<String> = troubles.map(ToString::to_string).collect();
        let ready = self.is_ready();
        let facts = Facts { ready, servers: &servers, mirrors: &mirrors, cache: &stat, ca, lately };
        Status {
            version: VERSION,
            program: concat!("goanyway ", env!("CARGO_PKG_VERSION")),
            now_ms: millis(now),
            started_ms: millis(self.started),
            ready,
            verdict: Verdict::of(&facts),
            listening: self.sources.listening.clone(),
            open: Open { tunnels: tunnels.totals().0, fills: stat.fills },
            since_start,
            last_hour,
            minutes,
            servers,
            mirrors,
            cache: CacheStatus::of(&stat, self.sources.cache_dir.clone()),
            ca: report.ca.map(|ca| CaStatus { fingerprint: ca.fingerprint, ends_ms: millis(ca.ends) }),
            notes: self.sources.notices.clone(),
            lately: recent.lately(),
        }
    }
}

impl CacheStatus {
    fn of(stat: &cache::Stat, folder: Option<String>) -> CacheStatus {
        CacheStatus {
            folder,
            keeps_on_disk: stat.keeps_on_disk,
            disk_bytes: stat.disk_bytes,
            limit_bytes: stat.size,
            memory_bytes: stat.memory_bytes,
            memory_entries: stat.memory_entries,
            evicted: stat.evicted,
            evicted_bytes: stat.evicted_bytes,
        }
    }
}
