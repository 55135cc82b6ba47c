//! A module proxy in front of many: what go asks for is kept, verified, and had from whichever mirror
//! is well.
//!
//! A request that `flow` found to be a module request ([`ModuleRequest`]) comes here with the place it
//! was made at ([`Place`]), and leaves as a [`Reply`] or a [`Failure`] in voice two. The client makes
//! one try; here many are made: the mirrors of a pool are walked until one gives the right bytes
//! (`mirrors`), what is immutable is kept for ever and what changes for a minute (`policy`), and the
//! checksum database says what is right (`sumdb`). A 404 is said only where an upstream said it.
//!
//! Left out: requests with credentials, which `flow` passes through; HTTP to the client, which is
//! `respond`'s; the order in which files leave the disk, which is `cache`'s.

mod agree;
mod answer;
mod bundle;
mod defaults;
mod examine;
mod early;
mod failure;
mod files;
mod frozen;
mod gomod;
mod gosum;
mod joined;
mod ledger;
mod lines;
mod log;
mod mirrors;
mod odd;
mod path;
mod places;
mod policy;
mod pools;
mod readings;
mod report;
mod store;
mod sumdb;
mod tally;
#[cfg(test)]
mod tests;
mod verify;
mod version;
mod warm;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::StatusCode;
use tokio::runtime::Handle;

pub use bundle::{BadBundle, Exported, Imported, export, import};
pub use defaults::{ASKED, describe as describe_default, hosts as default_hosts, mirrors as default_mirrors};
pub use examine::{Examiner, Finding, is_vouched};
pub use failure::{Complaint, Failure, Kind, Said};
pub use frozen::{Frozen, Sums};
pub use gomod::GoMod;
pub use gosum::GoSum;
pub use joined::is_set_out;
pub use ledger::{Fetch, Ledger};
pub use lines::{BadFile, BadLine};
pub use path::{Database, Module, ModuleRequest, NotOurs, Version, Why};
pub use places::{Filed, Sort, pin_modules};
pub use policy::Patterns;
pub use readings::{Reading, Readings};
pub use report::MirrorReport;
pub use sumdb::{BadSumdb, SumdbConfig};
pub use tally::{Served, Totals};
pub use warm::Warmed;

use crate::admit::Standing;
use crate::cache::{Cache, Content};
use crate::fetch::Fetcher;
use crate::metrics::Registry;
use crate::target::Base;
use answer::House;
use store::Store;

/// What an operator may say about modules.
#[derive(Clone, Debug)]
pub struct Config {
    /// The mirrors to ask, in order; none means the built-in public ones.
    pub upstreams: Vec<Base>,
    /// The checksum databases whose keys are known. The first says what is right; none verifies nothing.
    pub sumdb: Vec<SumdbConfig>,
    /// Modules that no public mirror and no database is told of (GOPRIVATE patterns).
    pub private: Vec<String>,
    /// Modules that no database is told of, whoever has them (GONOSUMDB patterns).
    pub unjudged: Vec<String>,
    /// A zip of at most this many bytes is whole and right before its first byte leaves; 0 for none.
    pub hold: u64,
    /// No zip is held longer than this from its first byte.
    pub hold_for: Duration,
    /// How long a list, a latest version or an absence is taken for true.
    pub fresh: Duration,
    /// Whether what go will ask for next is fetched before it does.
    pub siblings: bool,
    /// Whether no upstream is asked, whatever is missing.
    pub offline: bool,
    /// All that may be served, where that was written down before.
    pub frozen: Option<Arc<Frozen>>,
    /// Where it is put down what was served.
    pub ledger: Option<Ledger>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            upstreams: Vec::new(),
            sumdb: vec![SumdbConfig::default()],
            private: Vec::new(),
            unjudged: Vec::new(),
            hold: 16 << 20,
            hold_for: Duration::from_secs(5),
            fresh: Duration::from_secs(60),
            siblings: true,
            offline: false,
            frozen: None,
            ledger: None,
        }
    }
}

/// Where a request was made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In origin form, on our own port.
    Ours { standing: Standing },
    /// At a module host, through an intercepted connection or in absolute form. The path of the
    /// request is what follows the base.
    Host { base: Base, standing: Standing },
}

impl Place {
    /// On whose account hosts are asked that nobody configured.
    fn standing(&self) -> Standing {
        match self {
            Place::Ours { standing } | Place::Host { standing, .. } => *standing,
        }
    }
}

/// The bytes of an answer.
#[derive(Debug)]
pub enum Body {
    /// Kept, or still coming.
    Held(Content),
    /// At hand.
    Bytes(Bytes),
}

/// An answer for the client.
#[derive(Debug)]
pub struct Reply {
    /// 200, or the 404 or 410 of an upstream.
    pub status: StatusCode,
    /// What the go command expects it to be.
    pub content_type: &'static str,
    /// The bytes.
    pub body: Body,
    /// Whence it came.
    pub served: Served,
    /// How long ago an upstream said so, where that is known.
    pub age: Option<Duration>,
    /// Of an absence, who said so.
    pub absence: Option<Failure>,
}

impl Reply {
    /// How long the body is, if that is known.
    pub fn length(&self) -> Option<u64> {
        match &self.body {
            Body::Held(content) => content.length(),
            Body::Bytes(bytes) => Some(bytes.len() as u64),
        }
    }
}

/// The module proxy. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Goproxy {
    house: Arc<House>,
}

impl Goproxy {
    /// Makes a proxy that keeps in `cache`, asks by `fetcher`, and works on `runtime` where nobody waits.
    pub fn new(
        config: Config,
        cache: Cache<Failure>,
        fetcher: Fetcher,
        runtime: Handle,
        registry: &Registry,
    ) -> Goproxy {
        let goproxy = Goproxy { house: House::new(config, Store { cache }, Arc::new(fetcher), runtime, registry) };
        goproxy.show(registry);
        goproxy
    }

    /// Reads the path of a request made at a place: at a checksum database's own host it stands alone.
    pub fn read(&self, place: &Place, path: &str) -> Result<ModuleRequest, NotOurs> {
        match self.house.database_at(place) {
            Some(database) => ModuleRequest::parse_database(database, path),
            None => ModuleRequest::parse(path),
        }
    }

    /// Whether an absolute-form request is for a mirror that we know by name: its base, and what of
    /// the path follows it.
    pub fn listed<'a>(&self, base: &Base, path: &'a str) -> Option<(Base, &'a str)> {
        self.house.listed(base, path)
    }

    /// Returns when what is being fetched now has been kept.
    pub async fn settled(&self) {
        self.house.settled().await;
    }

    /// What was served since the start.
    pub fn totals(&self) -> Totals {
        self.house.tally.totals()
    }

    /// Every file that was served, where a ledger is kept; with the h1 sums where these are wanted.
    pub async fn account(&self, with_sums: bool) -> Vec<Fetch> {
        self.house.account(with_sums).await
    }

    /// Answers a request whose path was read.
    pub async fn serve_read(&self, reading: &Reading, place: &Place, now: SystemTime) -> Result<Reply, Failure> {
        match self.house.serve_ready(reading, place, now) {
            Some(reply) => self.counted(&reading.request, place, async { Ok(reply) }).await,
            None => self.serve(&reading.request, place, now).await,
        }
    }

    /// Answers a request.
    pub async fn serve(&self, request: &ModuleRequest, place: &Place, now: SystemTime) -> Result<Reply, Failure> {
        let answering = async {
            match &self.house.config.frozen {
                Some(frozen) => Box::pin(self.house.serve_frozen(frozen, request, place, now)).await,
                None => self.house.serve(request, place, now).await,
            }
        };
        self.counted(request, place, answering).await
    }

    async fn counted(
        &self,
        request: &ModuleRequest,
        place: &Place,
        answering: impl Future<Output = Result<Reply, Failure>>,
    ) -> Result<Reply, Failure> {
        let begun = tokio::time::Instant::now();
        let served = answering.await;
        self.house.count(request, place, &served, begun);
        served
    }
}
