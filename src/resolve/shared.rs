//! All that the clones of a resolver share, and what a request does with it: take what is known,
//! join the flight that finds out the rest, tell what was learnt.
//!
//! Every lock in here is a std one, held for a few lines and never across an await.
//!
//! What a request meets first is what it needs most: a name that is by hand or fresh costs a look at
//! the clock, two maps and no task. A name that may be short for one of the site's own goes on from
//! there by the rules of [`Shared::look_up`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use lru::LruCache;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, oneshot};
use tokio::time::Instant;

use super::counts::{Counts, Rescue, Totals};
use super::flight::{Flights, Joined, wait};
use super::health::{Health, LIES_TOO_MANY};
use super::keep::{Keep, Wall};
use super::kind::{self, Kind, Rules};
use super::ladder::Verdict;
use super::memory::{Memory, Recall};
use super::nat64::Prefix;
use super::plan::{Start, dedup};
use super::relay::Answers;
use super::reply::Family;
use super::server::{Server, Transport};
use super::system::System;
use super::wire::Wire;
use super::{Config, Error, Failure, Fate, Found, Freshness, Tally, Tier};
use crate::metrics::Registry;
use crate::target::{Name, Scope};

/// The file of what was learnt is written at most this often.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// What a client is told about an older answer's life (RFC 8767 section 5.2).
const SPARE_TTL: Duration = Duration::from_secs(30);
/// The same while a look-up for a newer one is under way.
const RENEWING_TTL: Duration = Duration::from_secs(10);
/// How long somebody who wants IPv6 alone waits for a second look at it. Many servers never answer for AAAA
/// (RFC 4074), and whoever asks for both families would wait for them each time.
const SIDE_PATIENCE: Duration = Duration::from_secs(1);
/// How long an answer waits for the prefix of a NAT64, and how long one that had to be guessed is good.
const PREFIX_PATIENCE: Duration = Duration::from_secs(1);
const GUESS_HOLDS: Duration = Duration::from_secs(60);
/// Names that are said once when they are first asked outside.
const MOST_SAID: usize = 10_000;

/// All that the clones of a resolver share.
pub(super) struct Shared {
    pub(super) config: Config,
    written: ArcSwap<Written>,
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
    pub(super) answers: Answers,
    // Found once a network, and only where IPv6 is the only way out; replaced on another network.
    nat64: Mutex<Arc<Discovery>>,
}

/// The prefix of this network's NAT64, once it is known; none where there is no NAT64.
#[derive(Default)]
struct Discovery {
    prefix: OnceCell<Option<Prefix>>,
    /// Until when a guess is good; none for what the network's own servers said.
    guessed: OnceCell<Instant>,
}

/// An address that was found, and under which name, where it is not the one that was asked for.
pub(super) struct Located {
    pub found: Found,
    pub longer: Option<Name>,
}

/// What the configuration says of names, which may be rewritten while we serve.
#[derive(PartialEq)]
pub(super) struct Written {
    pub rules: Rules,
    /// `--host`, by name.
    pub by_hand: HashMap<Name, Vec<IpAddr>>,
    /// Addresses that are as good as public ones.
    pub allow: Vec<IpNet>,
}

impl Written {
    fn read(config: &Config) -> Written {
        let mut known = config.known.clone();
        known.extend(config.configured_hosts.iter().cloned());
        let rules = Rules {
            private: config.private.clone(),
            private_hosts: config.private_hosts.clone(),
            known,
            zones: config.zones.clone(),
        };
        let mut by_hand: HashMap<Name, Vec<IpAddr>> = HashMap::new();
        for (name, address) in &config.hosts {
            by_hand.entry(name.clone()).or_default().push(*address);
        }
        Written { rules, by_hand, allow: config.allow.clone() }
    }
}

impl From<Found> for Located {
    fn from(found: Found) -> Located {
        Located { found, longer: None }
    }
}

impl Shared {
    pub(super) fn new(config: Config, runtime: Handle, registry: &Registry) -> Result<Shared, Error> {
        let shared = Shared {
            written: ArcSwap::from_pointee(Written::read(&config)),
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
            answers: Answers::default(),
            nat64: Mutex::default(),
            config,
        };
        shared.learn_search_list(&shared.system.current().resolv.search);
        Ok(shared)
    }

    pub(super) fn written(&self) -> Arc<Written> {
        self.written.load_full()
    }

    /// Another configuration's word on names holds from now on: what strangers said of those that have
    /// become the site's own is forgotten, and denials and failures are asked anew.
    pub(super) fn rewrite(&self, config: &Config, now: Instant) {
        let fresh = Written::read(config);
        if *self.written() == fresh {
            return;
        }
        self.written.store(Arc::new(fresh));
        for name in self.memory.names() {
            if self.kind(&name) == Kind::Private {
                self.memory.forget_outside(&name);
            }
        }
        self.move_house(now);
    }

    /// What was heard may be another place's word.
    fn move_house(&self, now: Instant) {
        self.memory.move_house(now);
        self.answers.forget();
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
        let kind = self.written_kind(name);
        if kind == Kind::Other && self.stays_inside(name) { Kind::Private } else { kind }
    }

    /// The same by the name alone, whatever it may be short for.
    fn written_kind(&self, name: &Name) -> Kind {
        self.written().rules.kind(name, || self.keep.is_private(name, wall()) || self.is_in_search_list(name))
    }

    /// A list that stands is the site's however long ago it was read.
    fn is_in_search_list(&self, name: &Name) -> bool {
        let resolv = &self.system.current().resolv;
        resolv.search.iter().any(|suffix| name.is_under(suffix.as_str()) && kind::is_sites_own(suffix))
    }

    /// Whether a name may be short for one of the site's own and must not be told outside: always, if
    /// it ends in nothing that is public (`db.prod.svc`), since nobody out there can know it; and if
    /// it is two labels (`athens.ci`, which is SERVICE.NAMESPACE in a cluster), until the site's own
    /// servers have denied all that it may be short for; that they are silent is no denial. Longer ones with a public ending are taken as they
    /// stand: with the ndots of a cluster almost every name is short.
    fn stays_inside(&self, name: &Name) -> bool {
        let longer = self.longer_names(name);
        if longer.is_empty() {
            return false;
        }
        let now = Instant::now();
        !kind::is_listed(name) || is_two_labels(name) && !longer.iter().all(|longer| self.memory.is_denied(longer, now))
    }

    /// Whether a name stays inside only until the search list is through, and there is an outside.
    pub(super) fn may_be_service(&self, name: &Name) -> bool {
        let has_others = !self.config.fallback.is_empty() && self.config.scope.may_ask_outside(Kind::Other);
        has_others
            && is_two_labels(name)
            && kind::is_listed(name)
            && self.written_kind(name) == Kind::Other
            && !self.longer_names(name).is_empty()
    }

    // The way of a request.

    /// The first addresses of a name, or of one that it is short for.
    ///
    /// What is known is taken. A name that ends in nothing public is looked for under the search list
    /// first; any other as it stands first, so that a wildcard of the site's does not catch it. What is denied
    /// as it stands is looked for under the search list, all of it inside; and so is what the site's servers
    /// alone were asked for and did not know (a cluster's servers often know the cluster and cannot reach the
    /// world). If that is denied, others may be asked.
    pub(super) async fn look_up(self: &Arc<Self>, name: &Name) -> Result<Located, Failure> {
        let known = self.recall(name);
        if let Some(Ok(found)) = known {
            return Ok(found.into());
        }
        let mut searched = false;
        if self.is_likely_short(name) {
            searched = true;
            if let Some(located) = self.look_up_longer(name).await {
                return Ok(located);
            }
        }
        let as_is = match known {
            Some(denied) => denied,
            None => self.ask(name).await,
        };
        let may_be_service = as_is.is_err() && self.may_be_service(name);
        let is_open = match as_is {
            Err(Failure::Absent { .. }) => true,
            Err(Failure::Unknown { .. }) => may_be_service,
            _ => false,
        };
        if !is_open {
            return as_is.map(Located::from);
        }
        if !searched && let Some(located) = self.look_up_longer(name).await {
            return Ok(located);
        }
        if !may_be_service || self.stays_inside(name) {
            return as_is.map(Located::from);
        }
        // So far it was the word of the site's own servers alone, and now others may be asked.
        let asked_outside = match as_is {
            Err(Failure::Absent { confirmed: false, last_word: true, .. }) => self.ask(name).await,
            Err(Failure::Unknown { .. }) => self.fly(name, Start::Above(Tier::System)).await,
            known => known,
        };
        asked_outside.map(Located::from)
    }

    async fn look_up_longer(self: &Arc<Self>, name: &Name) -> Option<Located> {
        for longer in self.longer_names(name) {
            match self.look_up_exactly(&longer).await {
                Ok(found) => return Some(Located { found, longer: Some(longer) }),
                // Nobody answers, and so nobody will for the next suffix.
                Err(failure) if failure.is_silence() => return None,
                Err(_) => {}
            }
        }
        None
    }

    /// Whether a name is looked for under the search list before it is asked as it stands:
    /// `db.prod.svc` of a cluster ends in nothing that is public, so nobody can know it as it stands.
    pub(super) fn is_likely_short(&self, name: &Name) -> bool {
        !kind::is_listed(name) && self.written_kind(name) == Kind::Other
    }

    /// What a short name may be short for (resolv.conf(5), search and ndots): the site's own names, and
    /// no others, since nobody else is to hear of a short name. A known name is whole.
    pub(super) fn longer_names(&self, name: &Name) -> Vec<Name> {
        let resolv = &self.system.current().resolv;
        let is_short = name.as_str().matches('.').count() < resolv.ndots && !self.written_kind(name).is_known();
        if !is_short {
            return Vec::new();
        }
        let longer = resolv.search.iter().filter_map(|suffix| Name::parse(&format!("{name}.{suffix}")).ok());
        longer.filter(|longer| self.written_kind(longer) == Kind::Private).collect()
    }

    /// At once where the addresses are known, else from a flight.
    pub(super) async fn look_up_exactly(self: &Arc<Self>, name: &Name) -> Result<Found, Failure> {
        match self.recall(name) {
            Some(known) => known,
            None => self.ask(name).await,
        }
    }

    /// From a flight; while that is under way an older answer is told not to live long.
    async fn ask(self: &Arc<Self>, name: &Name) -> Result<Found, Failure> {
        let found = match self.join(name, Start::Bottom) {
            Joined::Landed(found) => found,
            Joined::Flying(progress) => wait(progress, name, true).await?,
        };
        let is_interim = matches!(found.freshness, Freshness::Stale | Freshness::LastKnownGood) && self.is_flying(name);
        Ok(if is_interim { Found { ttl: RENEWING_TTL, ..found } } else { found })
    }

    /// The answer of the flight behind an older answer that was handed out.
    /// Between two probes there is none, and none is made for those whose dial failed.
    pub(super) async fn renewed(self: &Arc<Self>, name: &Name) -> Result<Found, Failure> {
        if self.memory.is_resting(name, Instant::now()) && !self.is_flying(name) {
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

    /// What is known of one family without asking anybody: an answer that says nothing about it is none.
    pub(super) fn recall_side(
        self: &Arc<Self>,
        name: &Name,
        family: Family,
        may_ask: impl Fn() -> bool,
    ) -> Option<Result<Found, Failure>> {
        match self.recall_for(name, may_ask)? {
            Ok(found) if found.lacks(family) => {
                let failure = self.memory.unheard(name, Instant::now())?;
                Some(without_side(found, family, failure))
            }
            known => Some(known),
        }
    }

    /// The answer for both families, and for this one alone where that says nothing about it.
    pub(super) async fn look_up_side(self: &Arc<Self>, name: &Name, family: Family) -> Result<Found, Failure> {
        let found = self.look_up_exactly(name).await?;
        if !found.lacks(family) {
            return Ok(found);
        }
        let asked = match self.memory.unheard(name, Instant::now()) {
            Some(failure) => Err(failure),
            None => self.fly_for(name, family).await,
        };
        match asked {
            Ok(side) => Ok(Found { ttl: found.ttl.min(side.ttl), ..found.completed(&side.addresses) }),
            Err(failure) => without_side(found, family, failure),
        }
    }

    async fn fly_for(self: &Arc<Self>, name: &Name, family: Family) -> Result<Found, Failure> {
        let asking = self.fly(name, Start::Only(family));
        match family {
            Family::V4 => asking.await,
            Family::V6 => {
                let unknown = |_| Err(Failure::Unknown { name: name.clone(), tally: Tally::default() });
                tokio::time::timeout(SIDE_PATIENCE, asking).await.unwrap_or_else(unknown)
            }
        }
    }

    /// What is known without asking anybody.
    pub(super) fn recall(self: &Arc<Self>, name: &Name) -> Option<Result<Found, Failure>> {
        self.recall_for(name, || true)
    }

    /// The same for somebody who may or may not cause a question that keeps the answer fresh.
    fn recall_for(self: &Arc<Self>, name: &Name, may_ask: impl Fn() -> bool) -> Option<Result<Found, Failure>> {
        let now = Instant::now();
        self.look_around(now);
        if let Some(found) = self.written_down(name) {
            return Some(Ok(found));
        }
        match self.memory.recall(name, now, &may_ask) {
            Recall::Nothing => None,
            Recall::Fresh { found, renew } => {
                if renew {
                    self.renew(name);
                }
                Some(Ok(found))
            }
            Recall::Denied(failure) => Some(Err(failure)),
            Recall::Troubled { failure, due } => match (self.spare(name), failure) {
                (Some(spare), _) => {
                    self.counts.served(spare.freshness, name);
                    if !due || !may_ask() {
                        return Some(Ok(spare));
                    }
                    // The probe; nobody waits for it.
                    let _ = self.join(name, Start::Bottom);
                    Some(Ok(Found { ttl: RENEWING_TTL, ..spare }))
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
            self.written().by_hand.get(name).cloned().or_else(|| self.system.host(name))?
        };
        let freshness = Freshness::Static;
        Some(Found {
            addresses,
            tier: Tier::Static,
            source: None,
            freshness,
            ttl: SPARE_TTL,
            unheard: None,
            doubtful: false,
        })
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
                // One address is as much as a handshake vouches for. That of IPv6 is no reason to say that
                // there is none of IPv4, which may be all that a client can reach.
                unheard: Some(Family::V4),
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
        self.memory.forget_word(name, found.source.as_deref());
        let by = found.source.as_ref().map_or("a server".to_owned(), |source| source.server.to_string());
        let words = format!("every address that {by} gave failed the certificate check; others are tried");
        self.counts.rescued(Rescue::Forged, name, words);
        if let Some(source) = &found.source {
            tracing::info!("{name}: every address that {} gave failed the certificate check", source.server);
            self.health.note_lie(&source.server, kind::domain(name), LIES_TOO_MANY, Instant::now());
            if (found.tier, source.transport) == (Tier::Plain, Transport::Udp) {
                self.health.note_poison(&source.server, kind::domain(name), Instant::now());
            }
        }
    }

    /// A system server gave a private address: the name is the site's own. Noted from whatever it said
    /// and whenever, also if another server's answer counted, and again each time, since what is not
    /// seen for long lapses.
    pub(super) fn note_inward(self: &Arc<Self>, name: &Name, addresses: &[IpAddr]) {
        let inward = addresses.iter().any(|address| Scope::of(*address) == Scope::Private);
        if !inward || !self.written().rules.kind(name, || false).may_turn_private() {
            return;
        }
        self.keep.note_private(name, wall());
        self.memory.forget_outside(name);
        self.save_later();
    }

    /// Whether a word from this tier is a stranger's, about a name that has turned out to be the site's own.
    pub(super) fn is_strange(&self, name: &Name, tier: Tier) -> bool {
        !tier.is_inside() && self.kind(name) == Kind::Private
    }

    /// An answer from further up did, or one that was in doubt is proven: it is the one to begin
    /// with next time.
    fn adopt(&self, name: &Name, found: &Found, fate: Fate, now: Instant) {
        let is_proven = found.doubtful && fate == Fate::Verified;
        let is_new = found.freshness == Freshness::Fresh && (found.tier > Tier::System || is_proven);
        if self.is_strange(name, found.tier) {
            return;
        }
        if is_new && self.memory.fresh(name, now).is_none_or(|kept| kept.source != found.source) {
            self.memory.note_found(
                name,
                &Found { doubtful: false, ttl: found.ttl.max(SPARE_TTL), ..found.clone() },
                now,
            );
        }
    }

    // The network around.

    /// Looks whether resolv.conf, the hosts file or the network changed.
    pub(super) fn look_around(self: &Arc<Self>, now: Instant) {
        let Some(news) = self.system.look(now) else { return };
        let resolv = &self.system.current().resolv;
        let file = self.system.resolv_conf().display();
        match news.resolv {
            true => tracing::info!("{file} changed: {} name servers now", resolv.servers.len()),
            false => tracing::info!("the network changed: its name servers are asked anew"),
        }
        if news.network || news.before.resolv.servers != resolv.servers {
            self.health.reset();
            *self.nat64.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
        }
        self.move_house(now);
        // The one before was in use until now, however long ago it was read.
        self.learn_search_list(&news.before.resolv.search);
        self.learn_search_list(&resolv.search);
        self.save_later();
    }

    /// The suffixes that the search list lost, and those that stand in it.
    pub(super) fn search_list(&self) -> (Vec<Name>, Vec<Name>) {
        let standing = self.system.current().resolv.search.clone();
        let mut gone = self.keep.suffixes(wall());
        gone.retain(|suffix| !standing.contains(suffix));
        (gone, standing)
    }

    /// What is in the search list is the site's own, also when the list is another one later.
    fn learn_search_list(&self, search: &[Name]) {
        for suffix in search.iter().filter(|suffix| kind::is_sites_own(suffix)) {
            self.keep.note_suffix(suffix, wall());
        }
    }

    /// The addresses as they are reached from here: as they are, but for a network without IPv4.
    pub(super) async fn reach(self: &Arc<Self>, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        if !self.system.is_v6_only() {
            return addresses;
        }
        match self.nat64().await {
            Some(prefix) => prefix.translate(&addresses),
            None => addresses,
        }
    }

    /// The address that was found, of one that was handed out.
    pub(super) fn unreach(&self, address: IpAddr) -> IpAddr {
        if !self.system.is_v6_only() {
            return address;
        }
        let discovery = self.discovery();
        let prefix = discovery.prefix.get().copied().flatten();
        prefix.map_or(address, |prefix| prefix.undo(address))
    }

    /// Where an address leads that nobody had to find: where it lies in the NAT64's prefix, to another.
    pub(super) async fn behind(self: &Arc<Self>, address: IpAddr) -> IpAddr {
        if address.is_ipv4() || !self.system.is_v6_only() {
            return address;
        }
        self.nat64().await.map_or(address, |prefix| prefix.undo(address))
    }

    fn discovery(&self) -> Arc<Discovery> {
        Arc::clone(&self.nat64.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The prefix of this network's NAT64. Whoever needs it first asks for all.
    async fn nat64(self: &Arc<Self>) -> Option<Prefix> {
        let mut discovery = self.discovery();
        if discovery.guessed.get().is_some_and(|until| Instant::now() >= *until) {
            discovery = Arc::default();
            *self.nat64.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&discovery);
        }
        let found = discovery.prefix.get_or_init(|| async {
            let shared = Arc::clone(self);
            let asking = self.runtime.spawn(async move { shared.ask_prefix().await });
            match tokio::time::timeout(PREFIX_PATIENCE, asking).await {
                Ok(Ok(Some(said))) => said,
                _ => {
                    let _ = discovery.guessed.set(Instant::now() + GUESS_HOLDS);
                    Some(Prefix::WELL_KNOWN)
                }
            }
        });
        *found.await
    }

    /// Asks the network's own servers, and nobody else (RFC 7050 section 3). None where nobody answers.
    async fn ask_prefix(self: Arc<Self>) -> Option<Option<Prefix>> {
        let name = Prefix::known_name()?;
        let mut plan = self.plan(&name, Kind::Private, Start::Inside, Instant::now());
        plan.families = vec![Family::V6];
        let (sender, mut told) = oneshot::channel();
        let mut sender = Some(sender);
        let listening = self.drive(&name, plan, |verdict, _| {
            if let Some(sender) = sender.take() {
                // Whoever waited may have gone on with a guess.
                let _ = sender.send(read_prefix(verdict));
            }
        });
        let said = tokio::select! {
            said = &mut told => said.ok(),
            _ = listening => told.try_recv().ok(),
        };
        let said = said.flatten();
        if let Some(Some(prefix)) = said {
            tracing::info!("no IPv4 here: addresses are reached through the NAT64 at {prefix}");
        }
        said
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
        self.learn_search_list(&self.system.current().resolv.search);
        self.save();
    }
}

/// An answer that says nothing about one family, after that was asked for alone. That there is none is said where
/// somebody said so; and of IPv6 also where nobody did, since a failure to say it is most often all that its server
/// can do (RFC 4074 section 4), and clients that are told so take the whole name to fail.
fn without_side(found: Found, family: Family, failure: Failure) -> Result<Found, Failure> {
    if failure.is_settled() || family == Family::V6 { Ok(Found { unheard: None, ..found }) } else { Err(failure) }
}

fn is_two_labels(name: &Name) -> bool {
    name.as_str().matches('.').count() == 1
}

/// What the network's servers say about the prefix of its NAT64; none if they do not say.
fn read_prefix(verdict: &Verdict) -> Option<Option<Prefix>> {
    match verdict {
        Verdict::Found(answer) => Some(Prefix::read(&answer.addresses)),
        Verdict::Absent { .. } => Some(None),
        _ => None,
    }
}

/// What the wall clock says.
pub(super) fn wall() -> Wall {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::Path;

    use hickory_proto::op::{Message, MessageType, ResponseCode};
    use hickory_proto::rr::{RData, Record, RecordType};
    use tokio::net::UdpSocket;
    use tokio::task::JoinSet;

    use super::super::network::tests::Scripted;
    use super::super::{Resolver, Search};
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const HOUR: u64 = 3600;

    /// What a scripted server does with a question.
    #[derive(Clone, Debug)]
    enum Says {
        Addresses(u32, &'static [&'static str]),
        Code(ResponseCode),
        Silence,
        /// Addresses, but late.
        Late(Duration, &'static [&'static str]),
        /// One thing to who asks for IPv4, another to everybody else.
        ByFamily(&'static Says, &'static Says),
    }

    use Says::{Addresses, ByFamily, Code, Late, Silence};

    const DENIED: Says = Code(ResponseCode::NXDomain);
    const FAILS: Says = Code(ResponseCode::ServFail);

    type Script = Box<dyn Fn(&str) -> Says + Send>;

    /// A question that reached a server.
    #[derive(Clone, Debug)]
    struct Heard {
        id: u16,
        name: String,
        kind: RecordType,
    }

    /// A name server on loopback, over UDP.
    struct Nameserver {
        address: SocketAddr,
        script: Arc<Mutex<Script>>,
        heard: Arc<Mutex<Vec<Heard>>>,
        _task: JoinSet<()>,
    }

    impl Nameserver {
        async fn start(script: impl Fn(&str) -> Says + Send + 'static) -> Nameserver {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            let (script, heard) =
                (Arc::new(Mutex::new(Box::new(script) as Script)), Arc::<Mutex<Vec<Heard>>>::default());
            let mut task = JoinSet::new();
            task.spawn(serve(socket, Arc::clone(&script), Arc::clone(&heard)));
            Nameserver { address, script, heard, _task: task }
        }

        async fn saying(says: Says) -> Nameserver {
            Nameserver::start(move |_| says.clone()).await
        }

        fn change(&self, says: Says) {
            *self.script.lock().unwrap() = Box::new(move |_| says.clone());
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<String> = self.heard.lock().unwrap().iter().map(|heard| heard.name.clone()).collect();
            names.sort();
            names.dedup();
            names
        }

        /// How many look-ups of a name there were, however often each question was sent.
        fn look_ups(&self, name: &str, kind: RecordType) -> usize {
            let heard = self.heard.lock().unwrap();
            let mut ids: Vec<u16> =
                heard.iter().filter(|heard| heard.name == name && heard.kind == kind).map(|heard| heard.id).collect();
            ids.dedup();
            ids.len()
        }
    }

    async fn serve(socket: UdpSocket, script: Arc<Mutex<Script>>, heard: Arc<Mutex<Vec<Heard>>>) {
        let socket = Arc::new(socket);
        let mut late = JoinSet::new();
        let mut packet = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut packet).await {
            let Ok(mut message) = Message::from_vec(&packet[..length]) else { continue };
            let query = message.queries[0].clone();
            // Public servers are asked in mixed case.
            let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
            heard.lock().unwrap().push(Heard { id: message.metadata.id, name: name.clone(), kind: query.query_type() });
            let says = match (script.lock().unwrap())(&name) {
                ByFamily(v4, _) if query.query_type() == RecordType::A => v4.clone(),
                ByFamily(_, others) => others.clone(),
                says => says,
            };
            message.metadata.message_type = MessageType::Response;
            message.metadata.recursion_available = true;
            message.edns = None;
            let mut wait = Duration::ZERO;
            match says {
                Silence | ByFamily(..) => continue,
                Code(code) => message.metadata.response_code = code,
                Addresses(ttl, texts) => add_addresses(&mut message, ttl, texts),
                Late(time, texts) => {
                    wait = time;
                    add_addresses(&mut message, 60, texts);
                }
            }
            let (socket, reply) = (Arc::clone(&socket), message.to_vec().unwrap());
            late.spawn(async move {
                tokio::time::sleep(wait).await;
                let _ = socket.send_to(&reply, peer).await;
            });
        }
    }

    /// Those of the family that was asked for.
    fn add_addresses(message: &mut Message, ttl: u32, texts: &[&str]) {
        let query = message.queries[0].clone();
        for address in texts.iter().map(|text| text.parse::<IpAddr>().unwrap()) {
            let data = match address {
                IpAddr::V4(v4) => RData::A(v4.into()),
                IpAddr::V6(v6) => RData::AAAA(v6.into()),
            };
            if data.record_type() == query.query_type() {
                message.add_answer(Record::from_rdata(query.name().clone(), ttl, data));
            }
        }
    }

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// A configuration that touches nothing of this machine's.
    fn config(system: &Nameserver, public: Option<&Nameserver>) -> Config {
        let nowhere = Path::new("/nonexistent");
        Config {
            nameservers: vec![Server::Plain(system.address)],
            fallback: public.map(|public| Server::Plain(public.address)).into_iter().collect(),
            resolv_conf: nowhere.join("resolv.conf"),
            hosts_file: nowhere.join("hosts"),
            ..Config::default()
        }
    }

    fn resolver(config: Config) -> Resolver {
        Resolver::new(config, Handle::current(), &Registry::default()).unwrap()
    }

    /// The same on a network that the test can change.
    fn resolver_on(scripted: &Scripted, config: Config) -> Resolver {
        let mut shared = Shared::new(config, Handle::current(), &Registry::default()).unwrap();
        shared.system.move_to(scripted.network());
        Resolver { shared: Arc::new(shared) }
    }

    async fn find(resolver: &Resolver, text: &str) -> Result<Found, Failure> {
        resolver.search(&name(text)).next().await
    }

    async fn take_all(mut search: Search) -> Vec<IpAddr> {
        let mut all = Vec::new();
        while let Ok(found) = search.next().await {
            for address in found.addresses {
                search.report(address, Fate::Unreachable);
                all.push(address);
            }
        }
        all
    }

    // One family of two.

    const BOTH: [&str; 2] = ["2606:4700::9", "1.1.1.9"];
    const V6: Says = Addresses(60, &["2606:4700::9"]);
    const V4: Says = Addresses(60, &["1.1.1.9"]);

    /// Of a name that one server told about IPv6 at once, and about IPv4 a moment later, a client that asked for IPv4
    /// was told for as long as that lived that there is no such address: "no such host", where it could reach no other.
    #[tokio::test(start_paused = true)]
    async fn an_address_that_came_late_is_not_said_to_be_none() {
        const LATE: Says = Late(Duration::from_millis(200), &["1.1.1.9"]);
        let system = Nameserver::saying(ByFamily(&LATE, &V6)).await;
        let resolver = resolver(config(&system, None));
        let goproxy = name("goproxy.cn");
        let first = find(&resolver, "goproxy.cn").await.unwrap();
        assert_eq!(first.addresses, ips(&["2606:4700::9"]), "who can take either does not wait");
        assert!(resolver.recall(&goproxy, Family::V4, || true).is_none(), "that there is none is not known");
        assert!(resolver.recall(&goproxy, Family::V6, || true).is_some());
        let found = resolver.look_up_family(&goproxy, Family::V4).await.unwrap();
        assert_eq!(found.addresses, ips(&BOTH));
        let known = resolver.recall(&goproxy, Family::V4, || true).unwrap().unwrap();
        assert_eq!(known.addresses, ips(&BOTH), "and everybody knows it from now on");
    }

    #[tokio::test(start_paused = true)]
    async fn that_nobody_could_tell_is_not_that_there_is_none_and_is_tried_again() {
        let system = Nameserver::saying(ByFamily(&FAILS, &V6)).await;
        let resolver = resolver(config(&system, None));
        let goproxy = name("goproxy.cn");
        let told = resolver.look_up_family(&goproxy, Family::V4).await;
        assert!(matches!(told, Err(Failure::Unknown { .. })), "{told:?}");
        let asked = system.look_ups("goproxy.cn", RecordType::A);
        let told = resolver.recall(&goproxy, Family::V4, || true);
        assert!(matches!(told, Some(Err(Failure::Unknown { .. }))), "not by every question: {told:?}");
        assert_eq!(resolver.look_up_family(&goproxy, Family::V6).await.unwrap().addresses, ips(&["2606:4700::9"]));
        assert_eq!(system.look_ups("goproxy.cn", RecordType::A), asked);
        system.change(ByFamily(&V4, &V6));
        tokio::time::sleep(11 * S).await;
        assert_eq!(resolver.look_up_family(&goproxy, Family::V4).await.unwrap().addresses, ips(&BOTH));
    }

    /// Many servers never answer for AAAA (RFC 4074), and getaddrinfo waits for both.
    #[tokio::test(start_paused = true)]
    async fn silence_about_ipv6_is_waited_for_once_and_then_taken_for_none() {
        let system = Nameserver::saying(ByFamily(&V4, &Silence)).await;
        let resolver = resolver(config(&system, None));
        let goproxy = name("goproxy.cn");
        let started = Instant::now();
        let found = resolver.look_up_family(&goproxy, Family::V6).await.unwrap();
        assert_eq!((found.addresses, found.unheard), (ips(&["1.1.1.9"]), None));
        assert!(started.elapsed() < 1200 * Duration::from_millis(1), "{:?}", started.elapsed());
        tokio::time::sleep(3 * S).await;
        let asked = system.look_ups("goproxy.cn", RecordType::AAAA);
        assert!(resolver.recall(&goproxy, Family::V6, || true).is_some_and(|known| known.is_ok()));
        assert_eq!(system.look_ups("goproxy.cn", RecordType::AAAA), asked);
    }

    #[tokio::test(start_paused = true)]
    async fn that_there_is_none_of_a_family_is_known_where_it_was_said() {
        let system = Nameserver::saying(V6).await;
        let resolver = resolver(config(&system, None));
        let goproxy = name("goproxy.cn");
        let found = resolver.look_up_family(&goproxy, Family::V4).await.unwrap();
        assert_eq!((found.addresses, found.unheard), (ips(&["2606:4700::9"]), None));
        assert_eq!(system.look_ups("goproxy.cn", RecordType::A), 1);
    }

    // What is passed on.

    /// The answers to other questions were kept whatever happened: a name that had turned out to be the site's own
    /// was for an hour what a stranger had said.
    #[tokio::test(start_paused = true)]
    async fn what_others_said_is_forgotten_where_the_name_becomes_the_sites_own() {
        let (system, public) = (Nameserver::saying(FAILS).await, Nameserver::saying(V4).await);
        let of_public = config(&system, Some(&public));
        let resolver = resolver(of_public.clone());
        let mail = hickory_proto::op::Query::query("git.corp.example.com.".parse().unwrap(), RecordType::MX);
        let git = name("git.corp.example.com");
        resolver.relay(&git, &mail).await.unwrap();
        resolver.relay(&git, &mail).await.unwrap();
        assert_eq!(public.look_ups("git.corp.example.com", RecordType::MX), 1);
        resolver.rewrite(Config { private: vec![name("corp.example.com")], ..of_public });
        assert!(resolver.relay(&git, &mail).await.is_err(), "the site's own servers know best, and do not know");
        assert_eq!(public.look_ups("git.corp.example.com", RecordType::MX), 1);
    }

    // Older answers.

    #[tokio::test(start_paused = true)]
    async fn who_may_not_ask_does_not_keep_an_answer_fresh_either() {
        let system = Nameserver::saying(Addresses(100, &["1.1.1.9"])).await;
        let resolver = resolver(config(&system, None));
        find(&resolver, "goproxy.cn").await.unwrap();
        tokio::time::sleep(95 * S).await;
        let recall = |may_ask: bool| resolver.recall(&name("goproxy.cn"), Family::V4, move || may_ask);
        for _ in 0..3 {
            assert!(recall(false).is_some_and(|known| known.is_ok()), "what is known is free");
        }
        tokio::time::sleep(S).await;
        assert_eq!(system.look_ups("goproxy.cn", RecordType::A), 1);
        recall(true);
        tokio::time::sleep(S).await;
        assert_eq!(system.look_ups("goproxy.cn", RecordType::A), 2);
    }

    /// Dead servers and a warm memory: the first who asks waits as long as a client waits for anything, and nobody
    /// does after that; the servers are asked again once a period, and the periods grow.
    #[tokio::test(start_paused = true)]
    async fn while_the_servers_are_dead_one_look_up_a_period_finds_it_out() {
        let system = Nameserver::saying(Addresses(60, &["1.1.1.9"])).await;
        let resolver = resolver(config(&system, None));
        find(&resolver, "goproxy.cn").await.unwrap();
        tokio::time::advance(120 * S).await;
        system.change(Silence);
        let started = Instant::now();
        let first = find(&resolver, "goproxy.cn").await.unwrap();
        assert_eq!((first.freshness, first.ttl), (Freshness::Stale, RENEWING_TTL));
        assert!(started.elapsed() <= Duration::from_millis(1201), "{:?}", started.elapsed());
        while started.elapsed() < HOUR as u32 * S {
            tokio::time::sleep(S).await;
            let asked = Instant::now();
            let next = find(&resolver, "goproxy.cn").await.unwrap();
            assert_eq!((next.freshness, asked.elapsed()), (Freshness::Stale, Duration::ZERO));
            assert!(next.ttl <= SPARE_TTL);
        }
        // Each takes the 3 s of its cap; between them are 5, 30, 60, 120 and 240 s, and then 300.
        let expected = 1 + 5 + (HOUR as usize - 3 * 6 - 5 - 30 - 60 - 120 - 240) / 303;
        assert_eq!(system.look_ups("goproxy.cn", RecordType::A), 1 + expected, "one of them filled the memory");
        system.change(Addresses(60, &["1.1.1.10"]));
        tokio::time::sleep(301 * S).await;
        find(&resolver, "goproxy.cn").await.unwrap();
        tokio::time::sleep(S).await;
        let back = find(&resolver, "goproxy.cn").await.unwrap();
        assert_eq!((back.freshness, back.addresses), (Freshness::Cached, ips(&["1.1.1.10"])));
    }

    #[tokio::test(start_paused = true)]
    async fn what_many_ask_for_is_renewed_before_it_ends_and_nothing_else_is() {
        let system = Nameserver::saying(Addresses(100, &["1.1.1.9"])).await;
        let resolver = resolver(config(&system, None));
        for _ in 0..3 {
            find(&resolver, "goproxy.cn").await.unwrap();
        }
        find(&resolver, "github.com").await.unwrap();
        tokio::time::sleep(95 * S).await;
        let found = find(&resolver, "goproxy.cn").await.unwrap();
        assert_eq!(found.freshness, Freshness::Cached, "nobody waits");
        tokio::time::sleep(S).await;
        assert_eq!(system.look_ups("goproxy.cn", RecordType::A), 2);
        tokio::time::sleep(50 * S).await;
        assert_eq!(find(&resolver, "goproxy.cn").await.unwrap().freshness, Freshness::Cached, "of the new answer");
        tokio::time::sleep(HOUR as u32 * S).await;
        let look_ups = ["goproxy.cn", "github.com"].map(|name| system.look_ups(name, RecordType::A));
        assert_eq!(look_ups, [2, 1], "nobody asks, nobody is woken");
    }

    /// On a machine with too much to do 17 of 20 names, which one server denied and the other was about to find, were
    /// "unconfirmed" for five seconds: the deadline was looked at before what had come.
    #[tokio::test(start_paused = true)]
    async fn what_comes_while_this_process_sleeps_is_heard_before_the_clock_and_nobody_is_dead_for_it() {
        let system = Nameserver::saying(DENIED).await;
        let public = Nameserver::saying(Late(Duration::from_millis(1400), &["1.1.1.9"])).await;
        let resolver = resolver(config(&system, Some(&public)));
        let hosts: Vec<String> = (0..20).map(|nth| format!("fresh{nth}.goproxy.cn")).collect();
        let finding = futures_util::future::join_all(hosts.iter().map(|host| find(&resolver, host)));
        let sleeping = async {
            while public.names().len() < hosts.len() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::advance(2 * S).await;
        };
        let (found, ()) = tokio::join!(finding, sleeping);
        for (host, found) in hosts.iter().zip(found) {
            assert_eq!(found.map(|found| found.addresses), Ok(ips(&["1.1.1.9"])), "{host}");
        }
        tokio::time::sleep(5 * S).await;
        let udp = |server: &Nameserver| {
            let vital = resolver.shared.health.vital(&Server::Plain(server.address), Transport::Udp, Instant::now());
            vital.map(|vital| vital.timeouts)
        };
        assert_eq!((udp(&system), udp(&public)), (Some(0), Some(0)));
    }

    // Other networks.

    #[tokio::test(start_paused = true)]
    async fn on_another_network_the_systems_servers_are_asked_again() {
        let scripted = Scripted::default();
        scripted.change(Some("192.168.1.5"), None);
        let system = Nameserver::saying(Addresses(3000, &["1.1.1.9"])).await;
        let resolver = resolver_on(&scripted, config(&system, None));
        find(&resolver, "goproxy.cn").await.unwrap();
        system.change(Addresses(3000, &["1.1.1.10"]));
        tokio::time::sleep(2 * S).await;
        assert_eq!(find(&resolver, "goproxy.cn").await.unwrap().freshness, Freshness::Cached);
        scripted.change(Some("10.0.0.5"), None);
        tokio::time::sleep(S).await;
        assert_eq!(find(&resolver, "goproxy.cn").await.unwrap().addresses, ips(&["1.1.1.10"]));
    }

    const TOLD: Says = Addresses(60, &["2606:db8:64::192.0.0.170"]);

    fn tell_prefix(name: &str) -> Says {
        match name {
            "ipv4only.arpa" => TOLD,
            "translated.example.org" => {
                Addresses(60, &["2606:db8:64::8.1.2.3", "2606:db8:64::8.1.2.4", "2606:db8:64::10.0.0.1"])
            }
            _ => FAILS,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_ipv4_public_addresses_go_through_the_networks_nat64() {
        let scripted = Scripted::default();
        scripted.change(None, Some("2606::5"));
        let system = Nameserver::start(tell_prefix).await;
        let public = Nameserver::saying(Addresses(60, &["8.1.2.3", "8.1.2.4"])).await;
        let resolver = resolver_on(&scripted, config(&system, Some(&public)));
        let mapped = ips(&["2606:db8:64::8.1.2.3", "2606:db8:64::8.1.2.4"]);
        for host in ["goproxy.cn", "example.org"] {
            assert_eq!(find(&resolver, host).await.unwrap().addresses, mapped, "{host}");
        }
        let explained = resolver.explain(&name("goproxy.cn"), &Default::default()).await;
        assert_eq!(explained.addresses, mapped);
        assert_eq!(system.look_ups("ipv4only.arpa", RecordType::AAAA), 1, "once a network");
        // What becomes of it is noted of the address that it stands for.
        let mut search = resolver.search(&name("goproxy.cn"));
        search.next().await.unwrap();
        search.report(mapped[0], Fate::Unreachable);
        assert_eq!(find(&resolver, "goproxy.cn").await.unwrap().addresses, [mapped[1], mapped[0]]);
        // What the network's servers have translated themselves is what it is, but for private addresses.
        let mut search = resolver.search(&name("translated.example.org"));
        let given = search.next().await.unwrap().addresses;
        assert_eq!((&given[..2], given[2]), (&mapped[..], "10.0.0.1".parse().unwrap()));
        search.report(given[0], Fate::Unreachable);
        assert_eq!(find(&resolver, "translated.example.org").await.unwrap().addresses[0], mapped[1]);
        // Back where there is IPv4.
        scripted.change(Some("192.168.1.5"), Some("2606::5"));
        tokio::time::sleep(S).await;
        assert_eq!(find(&resolver, "goproxy.cn").await.unwrap().addresses.len(), 2);
        assert!(find(&resolver, "goproxy.cn").await.unwrap().addresses.iter().all(IpAddr::is_ipv4));
        assert_eq!(public.names(), ["example.org", "goproxy.cn"], "the prefix is asked of nobody outside");
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_tells_the_prefix_the_usual_one_is_tried_for_a_while() {
        let scripted = Scripted::default();
        scripted.change(None, Some("2606::5"));
        let system = Nameserver::saying(Silence).await;
        let public = Nameserver::saying(Addresses(60, &["8.1.2.3"])).await;
        let resolver = resolver_on(&scripted, config(&system, Some(&public)));
        assert_eq!(find(&resolver, "goproxy.cn").await.unwrap().addresses, ips(&["64:ff9b::8.1.2.3"]));
        *system.script.lock().unwrap() = Box::new(tell_prefix);
        tokio::time::sleep(GUESS_HOLDS).await;
        assert_eq!(find(&resolver, "goproxy.cn").await.unwrap().addresses, ips(&["2606:db8:64::8.1.2.3"]));
        system.change(DENIED);
        scripted.change(None, Some("2606::6"));
        tokio::time::sleep(S).await;
        assert_eq!(find(&resolver, "goproxy.cn").await.unwrap().addresses, ips(&["8.1.2.3"]), "there is no NAT64");
    }

    // Whose name it is.

    /// A site whose search list makes names of few dots short.
    fn cluster(system: &Nameserver, public: &Nameserver, folder: &Path) -> Config {
        let resolv_conf = folder.join("resolv.conf");
        std::fs::write(&resolv_conf, "search ci.svc.cluster.local corp.example com github.com\noptions ndots:5\n")
            .unwrap();
        Config { resolv_conf, ..config(system, Some(public)) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_name_is_told_outside_only_once_the_site_denied_all_that_it_may_be_short_for() {
        let folder = tempfile::tempdir().unwrap();
        let system = Nameserver::saying(Silence).await;
        let public = Nameserver::saying(Addresses(60, &["1.1.1.9"])).await;
        let short = ["athens", "athens.ci", "db.prod.svc"];
        for fault in [Silence, FAILS] {
            system.change(fault);
            let resolver = resolver(cluster(&system, &public, folder.path()));
            for host in short {
                assert!(find(&resolver, host).await.is_err(), "{host}");
            }
        }
        assert_eq!(public.names(), [""; 0]);
        system.change(DENIED);
        let resolver = resolver(cluster(&system, &public, folder.path()));
        assert!(find(&resolver, "athens").await.is_err() && find(&resolver, "db.prod.svc").await.is_err());
        assert_eq!(find(&resolver, "athens.ci").await.unwrap().tier, Tier::Plain);
        assert_eq!(public.names(), ["athens.ci"], "and nothing under the search list");
        // A cluster's server that knows the cluster, and of the world nothing.
        let halves = ["athens.dev", "athens.app"];
        *system.script.lock().unwrap() = Box::new(move |name| if halves.contains(&name) { FAILS } else { DENIED });
        for _ in 0..2 {
            assert_eq!(find(&resolver, halves[0]).await.unwrap().tier, Tier::Plain);
        }
        let mut asked = system.names();
        asked.retain(|name| name.ends_with(".com"));
        assert_eq!(asked, [""; 0], "what is short for a public name is no name of the site's");
        // Whoever wants it explained wants to know what go would hear, too, and go asks for such names.
        for host in ["athens.build", halves[1]] {
            let explained = resolver.explain(&name(host), &Default::default()).await;
            assert_eq!(explained.verdict, "resolved", "{host}");
        }
        assert!(public.names().iter().all(|name| !name.contains(".com")), "and nobody outside hears of them");
    }

    /// What was found under the search list, and could not be dialled, was asked for outside as it stands.
    #[tokio::test(start_paused = true)]
    async fn what_a_short_name_is_short_for_is_what_the_next_tiers_are_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let inside = |name: &str| if name.ends_with(".corp.example") { Addresses(60, &["10.0.0.9"]) } else { DENIED };
        let system = Nameserver::start(inside).await;
        let public = Nameserver::saying(Addresses(60, &["1.1.1.9"])).await;
        let resolver = resolver(cluster(&system, &public, folder.path()));
        for host in ["athens", "athens.ci", "db.prod.svc", "www.acme.example"] {
            assert_eq!(take_all(resolver.search(&name(host))).await, ips(&["10.0.0.9"]), "{host}");
        }
        assert_eq!(public.names(), [""; 0]);
    }

    /// A system server that was slower than a public one was not listened to any more: what it said made
    /// no name private, and the name was told outside again and again.
    #[tokio::test(start_paused = true)]
    async fn a_private_address_makes_a_name_private_however_late_it_comes() {
        let system = Nameserver::saying(Late(Duration::from_millis(400), &["10.0.0.9"])).await;
        let public = Nameserver::saying(Addresses(60, &["1.1.1.9"])).await;
        let host = name("mirror.acme.example");
        let resolver = resolver(Config { configured_hosts: vec![host.clone()], ..config(&system, Some(&public)) });
        assert_eq!(find(&resolver, host.as_str()).await.unwrap().tier, Tier::Plain);
        tokio::time::sleep(S).await;
        assert_eq!(resolver.kind(&host), Kind::Private);
        assert_eq!(find(&resolver, host.as_str()).await.unwrap().addresses, ips(&["10.0.0.9"]));
    }
}
