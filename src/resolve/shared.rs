//! All that the clones of a resolver share, and what a request does with it: take what is known,
//! join the flight that finds out the rest, tell what was learnt.
//!
//! Every lock in here is a std one, held for a few lines and never across an await.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lru::LruCache;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::counts::{Counts, Rescue, Totals};
use super::flight::{Flights, Joined, wait};
use super::health::{Health, LIES_TOO_MANY};
use super::keep::{Keep, Wall};
use super::kind::{self, Kind, Rules};
use super::ladder::Answer;
use super::memory::{Memory, Recall};
use super::plan::{Start, dedup};
use super::server::Server;
use super::system::System;
use super::wire::Wire;
use super::{Config, Error, Failure, Fate, Found, Freshness, Tier};
use crate::metrics::Registry;
use crate::target::Name;

/// The file of what was learnt is written at most this often.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// What a client is told about an older answer's life (RFC 8767 section 5.2).
const SPARE_TTL: Duration = Duration::from_secs(30);
/// Names that are said once when they are first asked outside.
const MOST_SAID: usize = 10_000;

/// All that the clones of a resolver share.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) rules: Rules,
    pub(super) system: System,
    pub(super) memory: Memory,
    pub(super) keep: Keep,
    pub(super) health: Health,
    pub(super) wire: Wire,
    pub(super) counts: Counts,
    pub(super) runtime: Handle,
    // One entry a look-up under way; locked to join or to start one.
    pub(super) flights: Flights,
    // Other names that went outside before, so that each is said once.
    pub(super) said: Mutex<LruCache<Name, ()>>,
    // A writer is waiting for its time.
    pub(super) saving: AtomicBool,
}

impl Shared {
    pub(super) fn new(config: Config, runtime: Handle, registry: &Registry) -> Result<Shared, Error> {
        let mut known = config.known.clone();
        known.extend(config.configured_hosts.iter().cloned());
        let rules = Rules {
            private: config.private.clone(),
            private_hosts: config.private_hosts.clone(),
            known,
            zones: config.zones.clone(),
        };
        let shared = Shared {
            rules,
            system: System::new(config.resolv_conf.clone(), config.hosts_file.clone(), Instant::now()),
            memory: Memory::default(),
            keep: Keep::open(config.state_dir.as_deref())?,
            health: Health::default(),
            wire: Wire::new(config.roots.clone()),
            counts: Counts::new(registry),
            runtime,
            flights: Mutex::default(),
            said: Mutex::new(LruCache::new(NonZeroUsize::new(MOST_SAID).unwrap_or(NonZeroUsize::MIN))),
            saving: AtomicBool::new(false),
            config,
        };
        shared.learn_search_list();
        Ok(shared)
    }

    pub(super) fn describe(&self) -> String {
        let inside = self.inside(None).iter().map(Server::to_string).collect::<Vec<_>>();
        let inside = if inside.is_empty() { "no system server".to_owned() } else { inside.join(", ") };
        match self.config.fallback.len() {
            0 => format!("asks {inside}, and nobody else"),
            more => {
                let first = &self.config.fallback[0];
                format!("asks {inside}; where those fail or deny, also {first} and {} more", more - 1)
            }
        }
    }

    pub(super) fn totals(&self) -> Totals {
        self.counts.totals()
    }

    /// Who may be asked about a name.
    pub(super) fn kind(&self, name: &Name) -> Kind {
        self.rules.kind(name, || self.keep.is_private(name, wall()))
    }

    // The way of a request.

    /// The first addresses of a name, or of a short name under the search list.
    pub(super) async fn look_up(self: &Arc<Self>, name: &Name) -> Result<Found, Failure> {
        if self.is_likely_short(name)
            && let Some(found) = self.look_up_longer(name).await
        {
            return Ok(found);
        }
        let as_is = self.look_up_exactly(name).await;
        if !matches!(as_is, Err(Failure::Absent { .. })) {
            return as_is;
        }
        self.look_up_longer(name).await.map_or(as_is, Ok)
    }

    async fn look_up_longer(self: &Arc<Self>, name: &Name) -> Option<Found> {
        for longer in self.longer_names(name) {
            match self.look_up_exactly(&longer).await {
                Ok(found) => return Some(found),
                // Nobody answers, and so nobody will for the next suffix.
                Err(failure) if failure.is_silence() => return None,
                Err(_) => {}
            }
        }
        None
    }

    /// Whether a name is looked for under the search list before it is asked as it stands, which may
    /// take it outside: `db.prod.svc` of a cluster ends in nothing that is public, so nobody out there
    /// can know it, and nobody should hear of it.
    pub(super) fn is_likely_short(&self, name: &Name) -> bool {
        self.kind(name) == Kind::Other && !kind::is_listed(name)
    }

    /// What a short name may be short for (resolv.conf(5), search and ndots). It is asked as it
    /// stands first: with the ndots of a cluster almost every name is short. A known name is whole.
    pub(super) fn longer_names(&self, name: &Name) -> Vec<Name> {
        let resolv = &self.system.current().resolv;
        let is_short = name.as_str().matches('.').count() < resolv.ndots && !self.kind(name).is_known();
        if !is_short {
            return Vec::new();
        }
        // `athens.com` is nobody's idea of the site's own athens, and would be asked outside.
        let own = resolv.search.iter().filter(|suffix| kind::is_sites_own(suffix));
        own.filter_map(|suffix| Name::parse(&format!("{name}.{suffix}")).ok()).collect()
    }

    /// At once where the addresses are known, else from a flight.
    async fn look_up_exactly(self: &Arc<Self>, name: &Name) -> Result<Found, Failure> {
        if let Some(known) = self.recall(name) {
            return known;
        }
        match self.join(name, Start::Bottom) {
            Joined::Landed(found) => Ok(found),
            Joined::Flying(progress) => wait(progress, name, true).await,
        }
    }

    /// The answer of the flight behind an older answer that was handed out.
    /// Between two probes there is none, and none is made for those whose dial failed.
    pub(super) async fn renewed(self: &Arc<Self>, name: &Name) -> Result<Found, Failure> {
        let rests = matches!(self.memory.recall(name, Instant::now()), Recall::Troubled { due: false, .. });
        if rests && !self.is_flying(name) {
            return Err(Failure::Exhausted { name: name.clone() });
        }
        match self.join(name, Start::Bottom) {
            Joined::Landed(found) => Ok(found),
            Joined::Flying(progress) => wait(progress, name, false).await,
        }
    }

    /// An answer from the tiers above one whose answer did not do.
    pub(super) async fn fly(self: &Arc<Self>, name: &Name, start: Start) -> Result<Found, Failure> {
        match self.join(name, start) {
            Joined::Landed(found) => Ok(found),
            Joined::Flying(progress) => wait(progress, name, false).await,
        }
    }

    /// What is known without asking anybody.
    fn recall(self: &Arc<Self>, name: &Name) -> Option<Result<Found, Failure>> {
        let now = Instant::now();
        self.look_around(now);
        if let Some(found) = self.written_down(name) {
            return Some(Ok(found));
        }
        match self.memory.recall(name, now) {
            Recall::Nothing => None,
            Recall::Fresh(mut found) => {
                self.memory.order(name, &mut found.addresses, now);
                Some(Ok(found))
            }
            Recall::Denied(failure) => Some(Err(failure)),
            Recall::Troubled { failure, due } => match (self.spare(name), failure) {
                (Some(spare), _) => {
                    self.counts.served(spare.freshness);
                    if due {
                        // The probe; nobody waits for it.
                        let _ = self.join(name, Start::Bottom);
                    }
                    Some(Ok(spare))
                }
                (None, Some(failure)) if !due => Some(Err(failure)),
                (None, _) => None,
            },
        }
    }

    /// Addresses that no server is needed for.
    pub(super) fn written_down(&self, name: &Name) -> Option<Found> {
        let addresses = if name.is_under("localhost") {
            vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
        } else {
            let given = self.config.hosts.iter().filter(|(host, _)| host == name).map(|(_, address)| *address);
            let given: Vec<IpAddr> = given.collect();
            if given.is_empty() { self.system.host(name)? } else { given }
        };
        let freshness = Freshness::Static;
        Some(Found { addresses, tier: Tier::Static, source: None, freshness, ttl: SPARE_TTL, doubtful: false })
    }

    /// An older answer: what a handshake vouched for, then what is stale.
    pub(super) fn spare(&self, name: &Name) -> Option<Found> {
        let now = Instant::now();
        let good = if self.kind(name) == Kind::Private { Vec::new() } else { self.keep.good(name, wall()) };
        let mut found = match self.memory.stale(name, now) {
            Some(mut stale) => {
                let mut addresses = good;
                addresses.extend(stale.addresses.iter().copied());
                dedup(&mut addresses);
                stale.addresses = addresses;
                stale
            }
            None if good.is_empty() => return None,
            None => Found {
                addresses: good,
                // A handshake vouched for it, so that it does not matter who gave it; that private
                // addresses are not dialled is what "outside" means.
                tier: Tier::Encrypted,
                source: None,
                freshness: Freshness::LastKnownGood,
                ttl: SPARE_TTL,
                doubtful: false,
            },
        };
        found.ttl = SPARE_TTL;
        self.memory.order(name, &mut found.addresses, now);
        Some(found)
    }

    // What requests learn.

    pub(super) fn note_fate(self: &Arc<Self>, name: &Name, found: &Found, address: IpAddr, fate: Fate) {
        let now = Instant::now();
        match fate {
            Fate::Unreachable => self.memory.punish(name, address, now),
            Fate::Distrusted => {
                self.memory.punish(name, address, now);
                self.keep.forget_good(name, address, wall());
            }
            Fate::Connected => {
                self.memory.pardon(name, address);
                self.adopt(name, found, fate, now);
            }
            Fate::Verified => {
                self.memory.pardon(name, address);
                self.adopt(name, found, fate, now);
                if let Some(source) = &found.source {
                    self.health.absolve(&source.server);
                }
                let may_outlive = found.tier != Tier::Static && !found.doubtful;
                if may_outlive && self.kind(name) != Kind::Private {
                    self.keep.note_good(name, address, wall());
                }
            }
        }
        self.save_later();
    }

    /// All addresses of an answer were somebody else's: it was forged.
    pub(super) fn convict(&self, name: &Name, found: &Found) {
        self.memory.forget_answer(name);
        self.counts.rescued(Rescue::Forged);
        if let Some(source) = &found.source {
            tracing::info!("{name}: every address that {} gave failed the certificate check", source.server);
            self.health.note_lie(&source.server, kind::domain(name), LIES_TOO_MANY, Instant::now());
        }
    }

    /// A system server gave a private address: the name is the site's own.
    pub(super) fn note_inward(self: &Arc<Self>, name: &Name, answer: &Answer) {
        if answer.inward {
            self.keep.note_private(name, wall());
            self.save_later();
        }
    }

    /// An answer from further up did, or one that was in doubt is proven: it is the one to begin
    /// with next time.
    fn adopt(&self, name: &Name, found: &Found, fate: Fate, now: Instant) {
        let is_proven = found.doubtful && fate == Fate::Verified;
        let is_new = found.freshness == Freshness::Fresh && (found.tier > Tier::System || is_proven);
        if is_new && !matches!(self.memory.recall(name, now), Recall::Fresh(kept) if kept.source == found.source) {
            self.memory.note_found(
                name,
                &Found { doubtful: false, ttl: found.ttl.max(SPARE_TTL), ..found.clone() },
                now,
            );
        }
    }

    // The network around.

    /// Looks whether resolv.conf or the hosts file changed.
    pub(super) fn look_around(self: &Arc<Self>, now: Instant) {
        if !self.system.look(now) {
            return;
        }
        let resolv = &self.system.current().resolv;
        tracing::info!("{} changed: {} name servers now", self.system.resolv_conf().display(), resolv.servers.len());
        self.health.reset();
        self.memory.forget_denials();
        self.learn_search_list();
        self.save_later();
    }

    /// What is in the search list is the site's own, also when the list is another one later.
    fn learn_search_list(&self) {
        let current = self.system.current();
        for suffix in current.resolv.search.iter().filter(|suffix| kind::is_sites_own(suffix)) {
            self.keep.note_private(suffix, wall());
        }
    }

    pub(super) fn save(&self) {
        self.keep.save(wall());
    }

    pub(super) fn save_later(self: &Arc<Self>) {
        if !self.keep.is_dirty() || self.saving.swap(true, Ordering::Relaxed) {
            return;
        }
        let shared = Arc::downgrade(self);
        self.runtime.spawn(async move {
            tokio::time::sleep(SAVE_EVERY).await;
            let Some(shared) = shared.upgrade() else { return };
            shared.saving.store(false, Ordering::Relaxed);
            // A panic in there was said by the runtime, and the next change saves again.
            let _ = tokio::task::spawn_blocking(move || shared.save()).await;
        });
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.save();
    }
}

/// What the wall clock says.
pub(super) fn wall() -> Wall {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
