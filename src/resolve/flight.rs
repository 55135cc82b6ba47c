//! One look-up, however many ask: planned from what is known, driven on the shared runtime, its
//! result remembered and handed to all who wait.
//!
//! Everything that the ladder must not do is done here: questions are sent, health is noted,
//! memory and metrics are fed. A flight goes on a second past its verdict, so that a server that
//! said nothing is known to have said nothing; those who wait have left by then.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lru::LruCache;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use super::counts::{Counts, Rescue};
use super::defaults;
use super::health::{self, Health, LIES_TOO_MANY};
use super::keep::{Keep, Wall};
use super::kind::{self, Kind, Rules};
use super::ladder::{Action, Answer, Ask, Candidate, Ladder, Operator, Plan, Verdict};
use super::memory::{Memory, Recall};
use super::reply::{Family, Outcome, Question, Reply};
use super::server::{Server, Transport};
use super::system::System;
use super::wire::Wire;
use super::{Config, Error, Failure, Fate, Found, Freshness, Source, Tier};
use crate::metrics::Registry;
use crate::target::Name;

/// How long a flight listens past its verdict; who is silent until then was silent.
const LINGER: Duration = Duration::from_secs(1);
/// The same when a person wants to see what everybody says.
const LONG_LINGER: Duration = Duration::from_millis(2500);
/// The file of what was learnt is written at most this often.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// What a client is told about an older answer's life (RFC 8767 section 5.2).
const SPARE_TTL: Duration = Duration::from_secs(30);
/// Names that are said once when they are first asked outside.
const MOST_SAID: usize = 10_000;

/// All that the clones of a resolver share.
pub(super) struct Shared {
    pub(super) config: Config,
    rules: Rules,
    pub(super) system: System,
    memory: Memory,
    keep: Keep,
    health: Health,
    wire: Wire,
    counts: Counts,
    pub(super) runtime: Handle,
    // One entry a look-up under way; locked to join or to start one.
    flights: Mutex<HashMap<(Name, Start), watch::Receiver<Progress>>>,
    // Other names that went outside before, so that each is said once.
    said: Mutex<LruCache<Name, ()>>,
    // A writer is waiting for its time.
    saving: AtomicBool,
}

/// Where on the ladder a look-up begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Start {
    Bottom,
    /// This tier's answer was tried and did not do.
    Above(Tier),
    /// The site's own servers, which had not been waited for.
    Inside,
}

impl Start {
    fn includes(self, tier: Tier) -> bool {
        match self {
            Start::Bottom => true,
            Start::Above(lowest) => tier > lowest,
            Start::Inside => tier == Tier::System,
        }
    }
}

/// What those who wait can see of a flight.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// An older answer, for those who would rather not wait.
    interim: Option<Found>,
    last: Option<Result<Found, Failure>>,
}

enum Joined {
    Landed(Found),
    Flying(watch::Receiver<Progress>),
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

    /// Who may be asked about a name.
    pub(super) fn kind(&self, name: &Name) -> Kind {
        self.rules.kind(name, || self.keep.is_private(name, wall()))
    }

    // The way of a request.

    /// The first addresses of a name, or of a short name under the search list.
    pub(super) async fn look_up(self: &Arc<Self>, name: &Name) -> Result<Found, Failure> {
        let as_is = self.look_up_exactly(name).await;
        if !matches!(as_is, Err(Failure::Absent { .. })) {
            return as_is;
        }
        for longer in self.longer_names(name) {
            if let Ok(found) = self.look_up_exactly(&longer).await {
                return Ok(found);
            }
        }
        as_is
    }

    /// What a short name may be short for (resolv.conf(5), search and ndots). It is asked as it
    /// stands first: with the ndots of a cluster almost every name is short. A known name is whole.
    pub(super) fn longer_names(&self, name: &Name) -> Vec<Name> {
        let resolv = &self.system.current().resolv;
        let is_short = name.as_str().matches('.').count() < resolv.ndots && !self.kind(name).is_known();
        if !is_short {
            return Vec::new();
        }
        resolv.search.iter().filter_map(|suffix| Name::parse(&format!("{name}.{suffix}")).ok()).collect()
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
    pub(super) async fn renewed(self: &Arc<Self>, name: &Name) -> Result<Found, Failure> {
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
                self.keep.forget_good(name, address);
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
    fn look_around(self: &Arc<Self>, now: Instant) {
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

    fn save_later(self: &Arc<Self>) {
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

    // Whom to ask.

    /// The servers of the site: the zone's, else those of the configuration and of resolv.conf.
    pub(super) fn inside(&self, name: Option<&Name>) -> Vec<Server> {
        if let Some(zone) = name.and_then(|name| self.rules.zone(name)) {
            return vec![zone.clone()];
        }
        let system = self.system.current();
        let mut servers = Vec::new();
        for server in &self.config.nameservers {
            match server {
                Server::System => servers.extend(system.resolv.servers.iter().map(|address| Server::Plain(*address))),
                server => servers.push(server.clone()),
            }
        }
        dedup(&mut servers);
        servers
    }

    /// The servers that are asked when those do not do; one that is a system server too is not a second opinion.
    pub(super) fn outside(&self, inside: &[Server]) -> Vec<Server> {
        let is_inside = |server: &Server| inside.iter().any(|own| own.address() == server.address());
        self.config.fallback.iter().filter(|server| **server != Server::System && !is_inside(server)).cloned().collect()
    }

    pub(super) fn plan(&self, name: &Name, kind: Kind, start: Start, now: Instant) -> Plan {
        let servers = self.inside(Some(name));
        let mut outside = Vec::new();
        if self.config.scope.may_ask_outside(kind) {
            outside = self.outside(&servers);
        }
        let tier = |server: &Server| if server.is_encrypted() { Tier::Encrypted } else { Tier::Plain };
        outside.retain(|server| start.includes(tier(server)));
        let outside = self.candidates(&outside, tier, &servers, false, now);
        let somebody_else = outside.iter().any(|candidate| !candidate.down);
        let inside = match start.includes(Tier::System) {
            true => self.candidates(&servers, |_| Tier::System, &servers, somebody_else, now),
            false => Vec::new(),
        };
        let domain = kind::domain(name);
        let is_liar = |candidate: &Candidate| self.health.is_liar(&candidate.server, &domain, now);
        let candidates = arrange(inside, outside, kind, is_liar);
        let hedge =
            candidates.first().map_or(Duration::ZERO, |first| self.health.hedge(&first.server, first.transport));
        Plan {
            kind,
            families: Family::BOTH.to_vec(),
            candidates,
            hedge,
            spare: start == Start::Bottom && self.spare(name).is_some(),
            allow: self.config.allow.clone(),
            exhaustive: false,
        }
    }

    /// The servers of one side with what is known about them. Those that are down are left out
    /// until their trial, unless all are and there is nobody else: then all are raced.
    fn candidates(
        &self,
        servers: &[Server],
        tier: impl Fn(&Server) -> Tier,
        inside: &[Server],
        somebody_else: bool,
        now: Instant,
    ) -> Vec<Candidate> {
        let mut candidates: Vec<(health::State, Candidate)> = servers
            .iter()
            .map(|server| {
                let (state, transport) = self.condition(server, now);
                let (tier, operator) = (tier(server), operator(server, tier(server), inside));
                let edns = self.health.takes_edns(server, now);
                let (down, trial) = (state >= health::State::HalfOpen, false);
                (state, Candidate { server: server.clone(), tier, operator, wave: 0, transport, edns, down, trial })
            })
            .collect();
        let all_down = candidates.iter().all(|(state, _)| *state >= health::State::HalfOpen);
        if !all_down || somebody_else {
            candidates.retain(|(state, _)| *state != health::State::Down);
            for (_, candidate) in candidates.iter_mut().filter(|(state, _)| *state == health::State::HalfOpen) {
                self.health.note_trial(&candidate.server, candidate.transport, now);
                candidate.trial = true;
            }
        }
        candidates.sort_by_key(|(state, _)| *state);
        candidates.into_iter().map(|(_, candidate)| candidate).collect()
    }

    /// How a server is, and over what to ask it: TCP where UDP is dead and TCP is not.
    fn condition(&self, server: &Server, now: Instant) -> (health::State, Transport) {
        let transport = server.transport();
        let state = self.health.state(server, transport, now);
        let over_tcp = transport == Transport::Udp && self.health.is_proven(server, Transport::Tcp);
        if state >= health::State::HalfOpen && over_tcp {
            (health::State::Healthy, Transport::Tcp)
        } else {
            (state, transport)
        }
    }

    // Flights.

    fn join(self: &Arc<Self>, name: &Name, start: Start) -> Joined {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.clone(), start);
        if let Some(progress) = flights.get(&key) {
            return Joined::Flying(progress.clone());
        }
        // One may have landed since we looked: it left its answer before it left the map.
        if let (Start::Bottom, Recall::Fresh(found)) = (start, self.memory.recall(name, Instant::now())) {
            return Joined::Landed(found);
        }
        let (sender, progress) = watch::channel(Progress::default());
        flights.insert(key, progress.clone());
        let flight = Flight { shared: Arc::clone(self), name: name.clone(), start, sender };
        self.runtime.spawn(flight.run());
        Joined::Flying(progress)
    }

    /// Drives a ladder to its end. `hand_on` is called with each verdict.
    pub(super) async fn drive(&self, name: &Name, plan: Plan, mut hand_on: impl FnMut(&Verdict, &Ladder)) -> Ladder {
        let mut ladder = Ladder::new(plan, Instant::now());
        let mut open = FuturesUnordered::new();
        let mut end: Option<Instant> = None;
        loop {
            while let Some(action) = ladder.poll() {
                match action {
                    Action::Ask(ask) => open.push(self.perform(name, ladder.plan(), ask)),
                    Action::Answer(verdict) => hand_on(&verdict, &ladder),
                }
            }
            let now = Instant::now();
            if ladder.verdict().is_some() && end.is_none() {
                end = Some(now + if ladder.plan().exhaustive { LONG_LINGER } else { LINGER });
                if ladder.plan().exhaustive {
                    ladder.ask_the_rest(now);
                    continue;
                }
            }
            if end.is_some_and(|end| open.is_empty() || now >= end) {
                break;
            }
            let wake = [ladder.deadline(now), end].into_iter().flatten().min().unwrap_or(now + LINGER);
            tokio::select! {
                Some((ask, reply)) = open.next() => self.take_reply(&mut ladder, ask, reply),
                () = tokio::time::sleep_until(wake) => ladder.tick(Instant::now()),
            }
        }
        self.note_silence(&ladder);
        ladder
    }

    fn perform(&self, name: &Name, plan: &Plan, ask: Ask) -> impl Future<Output = (Ask, Reply)> + use<'_> {
        let Candidate { server, tier, .. } = plan.candidates[ask.candidate].clone();
        if plan.kind == Kind::Other && tier != Tier::System {
            self.say_once(name, &server);
        }
        let question = Question::new(name, ask.family, ask.edns);
        let wary = tier == Tier::Plain;
        async move {
            let reply = match question {
                Some(question) => self.wire.ask(&server, ask.transport, question, wary).await,
                None => Reply::failed(Outcome::NotAsked, "the name does not fit the wire"),
            };
            (ask, reply)
        }
    }

    fn say_once(&self, name: &Name, server: &Server) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.put(name.clone(), ()).is_none() {
            tracing::info!("{name} is asked outside, of {server}: the system servers did not find it");
        }
    }

    fn take_reply(&self, ladder: &mut Ladder, ask: Ask, reply: Reply) {
        let now = Instant::now();
        let candidate = &ladder.plan().candidates[ask.candidate];
        let elapsed = now - ladder.attempts()[ask.attempt].asked_at;
        self.health.observe(&candidate.server, ask.transport, reply.outcome, elapsed, now);
        if ask.edns && matches!(reply.outcome, Outcome::Formerr | Outcome::Notimp) {
            self.health.note_edns_trouble(&candidate.server, now);
        }
        let tier = candidate.tier;
        ladder.heard(ask.attempt, reply, now);
        // As the ladder judges it: an impossible address is bogus.
        let outcome = ladder.attempts()[ask.attempt].reply.as_ref().map_or(Outcome::Timeout, |reply| reply.outcome);
        self.counts.attempt(tier, ask.transport, outcome);
    }

    fn note_silence(&self, ladder: &Ladder) {
        let now = Instant::now();
        for attempt in ladder.attempts().iter().filter(|attempt| attempt.reply.is_none()) {
            let candidate = &ladder.plan().candidates[attempt.candidate];
            let elapsed = now - attempt.asked_at;
            self.health.observe(&candidate.server, attempt.transport, Outcome::Timeout, elapsed, now);
            self.counts.attempt(candidate.tier, attempt.transport, Outcome::Timeout);
        }
    }

    /// A ladder's answer, as those who wait get it.
    pub(super) fn found(&self, name: &Name, plan: &Plan, answer: &Answer) -> Found {
        let now = Instant::now();
        let candidate = &plan.candidates[answer.by];
        let mut addresses = take_turns(&answer.addresses);
        let good = self.keep.good(name, wall());
        addresses.sort_by_key(|address| !good.contains(address));
        self.memory.order(name, &mut addresses, now);
        Found {
            addresses,
            tier: candidate.tier,
            source: Some(Arc::new(Source { server: candidate.server.clone(), transport: answer.transport })),
            freshness: Freshness::Fresh,
            ttl: answer.ttl,
            doubtful: answer.doubtful,
        }
    }

    /// A verdict without an address, in words.
    pub(super) fn failure(name: &Name, verdict: &Verdict, ladder: &Ladder) -> Failure {
        let name = name.clone();
        let server = |by: usize| ladder.plan().candidates[by].server.to_string();
        match verdict {
            Verdict::Absent { confirmed, last_word, by, .. } => {
                let by = by.iter().map(|&by| server(by)).collect();
                Failure::Absent { name, confirmed: *confirmed, last_word: *last_word, by }
            }
            Verdict::Blocked { by, ede } => Failure::Blocked { name, server: server(*by), why: ede.to_string() },
            Verdict::Found(_) | Verdict::Spare | Verdict::Unknown => {
                Failure::Unknown { name, tally: ladder.tally(Instant::now()) }
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.save();
    }
}

/// One flight: the task that all who ask for a name wait for.
struct Flight {
    shared: Arc<Shared>,
    name: Name,
    start: Start,
    sender: watch::Sender<Progress>,
}

impl Flight {
    async fn run(self) {
        let shared = &self.shared;
        let kind = shared.kind(&self.name);
        let plan = shared.plan(&self.name, kind, self.start, Instant::now());
        shared.drive(&self.name, plan, |verdict, ladder| self.hand_on(verdict, ladder)).await;
    }

    fn hand_on(&self, verdict: &Verdict, ladder: &Ladder) {
        let result = match verdict {
            Verdict::Found(answer) => Ok(self.take_answer(answer, ladder)),
            Verdict::Spare => self.take_spare(ladder),
            verdict => Err(self.take_failure(verdict, ladder)),
        };
        if ladder.verdict().is_none() {
            // An older answer for now; the flight goes on.
            self.sender.send_modify(|progress| progress.interim = result.ok());
            return;
        }
        self.shared.counts.ended(&result);
        self.land();
        self.sender.send_modify(|progress| progress.last = Some(result));
    }

    fn take_answer(&self, answer: &Answer, ladder: &Ladder) -> Found {
        let Flight { shared, name, .. } = self;
        let now = Instant::now();
        let found = shared.found(name, ladder.plan(), answer);
        shared.note_inward(name, answer);
        if self.start == Start::Bottom && !answer.doubtful {
            shared.memory.note_found(name, &found, now);
        }
        self.note_rescue(answer, &found, ladder);
        found
    }

    fn note_rescue(&self, answer: &Answer, found: &Found, ladder: &Ladder) {
        let Flight { shared, name, start, .. } = self;
        let Some(source) = &found.source else { return };
        for &liar in &answer.overruled {
            let server = &ladder.plan().candidates[liar].server;
            shared.counts.rescued(Rescue::Overruled);
            shared.health.note_lie(server, kind::domain(name), 1, Instant::now());
            tracing::info!("{name}: {} found it over {}, which {server} had denied", source.server, source.transport);
        }
        if found.tier > Tier::System && *start == Start::Bottom && answer.overruled.is_empty() {
            shared.counts.rescued(Rescue::Fallback);
            tracing::debug!("{name}: {} answered over {}, the system servers did not", source.server, source.transport);
        }
    }

    fn take_spare(&self, ladder: &Ladder) -> Result<Found, Failure> {
        let Flight { shared, name, .. } = self;
        if ladder.verdict().is_some() {
            shared.memory.note_trouble(name, None, true, Instant::now());
        }
        let Some(spare) = shared.spare(name) else { return Err(Shared::failure(name, &Verdict::Unknown, ladder)) };
        shared.counts.served(spare.freshness);
        tracing::info!("{name}: no server gave an answer that counts; an older one serves");
        Ok(spare)
    }

    fn take_failure(&self, verdict: &Verdict, ladder: &Ladder) -> Failure {
        let Flight { shared, name, start, .. } = self;
        let now = Instant::now();
        let failure = Shared::failure(name, verdict, ladder);
        if *start != Start::Bottom {
            return failure;
        }
        match verdict {
            Verdict::Absent { confirmed, ttl, .. } => {
                let believed = *confirmed || ladder.plan().kind == Kind::Private;
                shared.memory.note_denial(name, failure.clone(), *ttl, believed, now);
            }
            Verdict::Blocked { .. } => shared.memory.note_denial(name, failure.clone(), None, true, now),
            _ => shared.memory.note_trouble(name, Some(failure.clone()), false, now),
        }
        failure
    }

    /// Leaves the map: who asks from now on finds the answer in memory.
    fn land(&self) {
        let mut flights = self.shared.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.remove(&(self.name.clone(), self.start));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        // Also when the task was cut short: a flight that nobody flies must not be waited for. One
        // of the same name that started meanwhile is another's.
        if self.sender.borrow().last.is_none() {
            self.land();
        }
    }
}

async fn wait(mut progress: watch::Receiver<Progress>, name: &Name, any_age: bool) -> Result<Found, Failure> {
    let done = |progress: &Progress| progress.last.is_some() || any_age && progress.interim.is_some();
    let unknown = || Failure::Unknown { name: name.clone(), tally: Default::default() };
    let Ok(progress) = progress.wait_for(done).await else { return Err(unknown()) };
    let interim = || progress.interim.clone().map(Ok);
    progress.last.clone().or_else(interim).unwrap_or_else(|| Err(unknown()))
}

fn operator(server: &Server, tier: Tier, inside: &[Server]) -> Operator {
    let service = |server: &Server| server.address().and_then(|address| defaults::service(address.ip()));
    let ours = service(server);
    // A public service that the system uses too is no second opinion on what the system said.
    let is_systems = ours.is_some() && inside.iter().any(|own| service(own) == ours);
    match (tier, ours, server.address()) {
        (Tier::System | Tier::Static, _, _) | (_, _, None) => Operator::System,
        _ if is_systems => Operator::System,
        (_, Some(service), _) => Operator::Service(service),
        (_, None, Some(address)) => Operator::Own(address),
    }
}

/// Puts candidates in waves: the system's one by one, then the plain ones one by one with an
/// encrypted one beside each but the first. A liar about a known name comes last.
fn arrange(
    inside: Vec<Candidate>,
    outside: Vec<Candidate>,
    kind: Kind,
    is_liar: impl Fn(&Candidate) -> bool,
) -> Vec<Candidate> {
    let (liars, mut inside): (Vec<_>, Vec<_>) = inside.into_iter().partition(|candidate| is_liar(candidate));
    let liars_last = kind.is_known() && !outside.is_empty();
    if !liars_last {
        inside.extend(liars.iter().cloned());
    }
    let (encrypted, plain): (Vec<_>, Vec<_>) = outside.into_iter().partition(|one| one.tier == Tier::Encrypted);
    let mut waves = 0..;
    let mut next = || waves.next().unwrap_or(usize::MAX);
    let mut arranged = line_up(inside, &mut next);
    let first_outside = next();
    let mut lane = |candidates: Vec<Candidate>, first: usize| {
        let raced = candidates.iter().all(|candidate| candidate.down);
        let mut wave = first;
        for candidate in candidates {
            arranged.push(Candidate { wave, ..candidate.clone() });
            wave += usize::from(!raced && !candidate.trial);
        }
        wave
    };
    let after_plain = lane(plain, first_outside);
    let beside = if after_plain > first_outside { first_outside + 1 } else { first_outside };
    let last = lane(encrypted, beside).max(after_plain);
    if liars_last {
        lane(liars, last);
    }
    arranged.sort_by_key(|candidate| candidate.wave);
    arranged
}

fn line_up(candidates: Vec<Candidate>, next: &mut impl FnMut() -> usize) -> Vec<Candidate> {
    let raced = !candidates.is_empty() && candidates.iter().all(|candidate| candidate.down);
    let first = if candidates.is_empty() { 0 } else { next() };
    let mut wave = first;
    let mut arranged = Vec::new();
    for (number, candidate) in candidates.into_iter().enumerate() {
        let alone = number > 0 && !raced && !candidate.trial;
        if alone {
            wave = next();
        }
        // A trial goes beside the first, so that the question is asked in any case.
        arranged.push(Candidate { wave: if candidate.trial { first } else { wave }, ..candidate });
    }
    arranged
}

/// IPv6 first, then by turns (RFC 8305 section 4).
fn take_turns(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let (v6, v4): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|address| address.is_ipv6());
    let longest = v6.len().max(v4.len());
    let mut turns: Vec<IpAddr> =
        (0..longest).flat_map(|turn| [v6.get(turn), v4.get(turn)]).flatten().copied().collect();
    dedup(&mut turns);
    turns
}

fn dedup<T: PartialEq + Clone>(list: &mut Vec<T>) {
    let mut seen: Vec<T> = Vec::with_capacity(list.len());
    list.retain(|one| {
        let is_new = !seen.contains(one);
        if is_new {
            seen.push(one.clone());
        }
        is_new
    });
}

pub(super) fn wall() -> Wall {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn servers(texts: &[&str]) -> Vec<Server> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn shared(inside: &[&str], fallback: Vec<Server>) -> Shared {
        let nowhere = Path::new("/nonexistent");
        let config = Config {
            nameservers: servers(inside),
            fallback,
            resolv_conf: nowhere.join("resolv.conf"),
            hosts_file: nowhere.join("hosts"),
            ..Config::default()
        };
        Shared::new(config, Handle::current(), &Registry::default()).unwrap()
    }

    /// `wave: server` for each candidate, in order.
    fn waves(shared: &Shared, host: &str, start: Start) -> Vec<String> {
        let name = Name::parse(host).unwrap();
        let plan = shared.plan(&name, shared.kind(&name), start, Instant::now());
        let line = |one: &Candidate| {
            let mark = if one.trial { " (trial)" } else { "" };
            format!("{}: {} {}{mark}", one.wave, one.server, one.transport)
        };
        plan.candidates.iter().map(line).collect()
    }

    fn bury(shared: &Shared, server: &str) {
        for _ in 0..2 {
            let server = server.parse().unwrap();
            shared.health.observe(&server, Transport::Udp, Outcome::Unreachable, Duration::ZERO, Instant::now());
        }
    }

    const PUBLIC: [&str; 4] = ["8.8.8.8", "1.1.1.1", "tls://1.1.1.1#cloudflare-dns.com", "tls://8.8.8.8#dns.google"];

    #[tokio::test]
    async fn the_systems_come_first_then_plain_and_encrypted_side_by_side() {
        let shared = shared(&["10.0.0.1", "10.0.0.2"], servers(&PUBLIC));
        let expected = [
            "0: 10.0.0.1 udp",
            "1: 10.0.0.2 udp",
            "2: 8.8.8.8 udp",
            "3: 1.1.1.1 udp",
            "3: tls://1.1.1.1#cloudflare-dns.com tls",
            "4: tls://8.8.8.8#dns.google tls",
        ];
        assert_eq!(waves(&shared, "goproxy.cn", Start::Bottom), expected);
        assert_eq!(waves(&shared, "goproxy.cn", Start::Above(Tier::Plain)).len(), 2);
        assert_eq!(waves(&shared, "goproxy.cn", Start::Inside), &expected[..2]);
        assert_eq!(waves(&shared, "athens", Start::Bottom), &expected[..2]);
        assert!(waves(&shared, "athens", Start::Above(Tier::System)).is_empty());
    }

    #[tokio::test]
    async fn the_dead_are_left_out_unless_there_is_nobody_else() {
        let two = shared(&["10.0.0.1", "10.0.0.2"], Vec::new());
        bury(&two, "10.0.0.1");
        assert_eq!(waves(&two, "goproxy.cn", Start::Bottom), ["0: 10.0.0.2 udp"]);
        bury(&two, "10.0.0.2");
        assert_eq!(waves(&two, "goproxy.cn", Start::Bottom), ["0: 10.0.0.1 udp", "0: 10.0.0.2 udp"], "a race");
        let rescued = shared(&["10.0.0.1"], servers(&["8.8.8.8"]));
        bury(&rescued, "10.0.0.1");
        assert_eq!(waves(&rescued, "example.org", Start::Bottom), ["0: 8.8.8.8 udp"], "its silence is known");
        assert_eq!(waves(&rescued, "athens", Start::Bottom), ["0: 10.0.0.1 udp"], "private names have nobody else");
    }

    #[tokio::test(start_paused = true)]
    async fn the_dead_are_tried_again_beside_the_living() {
        let shared = shared(&["10.0.0.1", "10.0.0.2"], Vec::new());
        bury(&shared, "10.0.0.1");
        tokio::time::advance(Duration::from_secs(1)).await;
        let expected = ["0: 10.0.0.2 udp", "0: 10.0.0.1 udp (trial)"];
        assert_eq!(waves(&shared, "goproxy.cn", Start::Bottom), expected);
        assert_eq!(waves(&shared, "goproxy.cn", Start::Bottom), &expected[..1], "one trial at a time");
    }

    #[tokio::test]
    async fn a_server_whose_udp_is_dead_is_asked_over_tcp() {
        let shared = shared(&["10.0.0.1"], Vec::new());
        bury(&shared, "10.0.0.1");
        let server = "10.0.0.1".parse().unwrap();
        shared.health.observe(&server, Transport::Tcp, Outcome::Answer, Duration::ZERO, Instant::now());
        assert_eq!(waves(&shared, "goproxy.cn", Start::Bottom), ["0: 10.0.0.1 tcp"]);
    }

    #[tokio::test]
    async fn a_liar_about_a_known_name_is_asked_last() {
        let shared = shared(&["10.0.0.1"], servers(&["8.8.8.8"]));
        let now = Instant::now();
        shared.health.note_lie(&"10.0.0.1".parse().unwrap(), "goproxy.cn".to_owned(), LIES_TOO_MANY, now);
        assert_eq!(waves(&shared, "goproxy.cn", Start::Bottom), ["0: 8.8.8.8 udp", "1: 10.0.0.1 udp"]);
        assert_eq!(waves(&shared, "github.com", Start::Bottom)[0], "0: 10.0.0.1 udp");
    }

    #[tokio::test]
    async fn a_public_service_that_the_system_uses_is_no_second_opinion() {
        let shared =
            shared(&["8.8.4.4"], servers(&["8.8.8.8", "tls://1.1.1.1#cloudflare-dns.com", "9.8.7.6", "8.8.4.4"]));
        let name = Name::parse("goproxy.cn").unwrap();
        let plan = shared.plan(&name, shared.kind(&name), Start::Bottom, Instant::now());
        let operators: Vec<Operator> = plan.candidates.iter().map(|candidate| candidate.operator).collect();
        let own = Operator::Own(([9, 8, 7, 6], 53).into());
        assert_eq!(operators, [Operator::System, Operator::System, own, Operator::Service("cloudflare")]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_resolv_conf_is_followed_and_its_search_list_stays_private() {
        let folder = tempfile::tempdir().unwrap();
        let resolv_conf = folder.path().join("resolv.conf");
        std::fs::write(&resolv_conf, "nameserver 10.0.0.1\nsearch vpn.example\n").unwrap();
        let config = Config {
            resolv_conf: resolv_conf.clone(),
            hosts_file: folder.path().join("hosts"),
            fallback: servers(&["8.8.8.8"]),
            ..Config::default()
        };
        let shared = Arc::new(Shared::new(config, Handle::current(), &Registry::default()).unwrap());
        assert_eq!(shared.describe(), "asks 10.0.0.1; where those fail or deny, also 8.8.8.8 and 0 more");
        bury(&shared, "10.0.0.1");
        std::fs::write(&resolv_conf, "nameserver 10.0.0.2\nnameserver 10.0.0.1\n").unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        shared.look_around(Instant::now());
        let followed = waves(&shared, "example.org", Start::Bottom);
        assert_eq!(followed, ["0: 10.0.0.2 udp", "1: 10.0.0.1 udp", "2: 8.8.8.8 udp"]);
        assert_eq!(shared.kind(&Name::parse("git.vpn.example").unwrap()), Kind::Private);
    }

    #[test]
    fn families_take_turns_and_ipv6_begins() {
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let mixed = ips(&["1.1.1.1", "1.1.1.2", "1.1.1.1", "2606::1"]);
        assert_eq!(take_turns(&mixed), ips(&["2606::1", "1.1.1.1", "1.1.1.2"]));
    }
}
