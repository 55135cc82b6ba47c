//! How the servers fare: alive or down by (address, transport), how long they take, what their
//! quirks are, who lied about what, and where somebody on the path forges answers.
//!
//! Any well-formed reply counts as alive, whatever its word is worth; the worth is a score of its
//! own, per server and domain. A server that is down is left out and tried again, beside the
//! others, after 1, 2, 4 … 30 s. All of it is judged against a `now` that is given.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use super::defaults;
use super::ladder::{Candidate, Marks, Operator};
use super::reply::Outcome;
use super::server::{Server, Transport};

/// Silence in a row before a server is suspected, and before it counts as down.
const SUSPECT_AFTER: u32 = 2;
const DOWN_AFTER: u32 = 4;
/// Refused connections in a row before a server counts as down.
const REFUSALS: u32 = 2;
const FIRST_TRIAL: Duration = Duration::from_secs(1);
const LAST_TRIAL: Duration = Duration::from_secs(30);
/// How long a server is asked as its quirks want it.
const QUIRKS_LAST: Duration = Duration::from_secs(15 * 60);
/// Lies within this time add up, and this many put a server last.
const LIES_COUNT_FOR: Duration = Duration::from_secs(10 * 60);
pub(super) const LIES_TOO_MANY: usize = 3;
const MOST_REMEMBERED: usize = 1024;
/// How long UDP is kept away from a path on which somebody was caught.
const POISON_LASTS: Duration = Duration::from_secs(10 * 60);
/// The first hedge is twice what a server usually takes, within these.
const LEAST_HEDGE: Duration = Duration::from_millis(50);
const MOST_HEDGE: Duration = Duration::from_millis(150);

/// Whether it is worth asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Healthy,
    Suspect,
    /// Down, but its time for a trial has come.
    HalfOpen,
    Down,
}

#[derive(Default)]
pub(super) struct Health {
    // Locked for a few lines when a look-up starts and when a reply is in.
    servers: Mutex<HashMap<(Server, Transport), Record>>,
    quirks: Mutex<HashMap<Server, Quirks>>,
    // When a server told its latest lies about a domain, LIES_TOO_MANY at most.
    liars: Mutex<Lately<(Server, String), Vec<Instant>>>,
    // Until when the way to an operator counts as poisoned for a domain.
    poisoned: Mutex<Lately<(Operator, String), Instant>>,
}

/// What strangers can make us remember, bounded.
struct Lately<K: std::hash::Hash + Eq, V>(LruCache<K, V>);

impl<K: std::hash::Hash + Eq, V> Default for Lately<K, V> {
    fn default() -> Self {
        Lately(LruCache::new(NonZeroUsize::new(MOST_REMEMBERED).unwrap_or(NonZeroUsize::MIN)))
    }
}

/// What a server does oddly, and until when we go by it.
#[derive(Clone, Copy, Default)]
struct Quirks {
    without_edns: Option<Instant>,
    flattens: Option<Instant>,
    denies_v6: Option<Instant>,
    edns_proven: bool,
}

#[derive(Clone, Copy, Default)]
struct Record {
    timeouts: u32,
    refusals: u32,
    trials: u32,
    next_trial: Option<Instant>,
    /// Moving mean of the time to a reply, and of its deviation (as TCP does, RFC 6298 section 2).
    mean: Option<Duration>,
    deviation: Duration,
    /// What its latest attempt came to.
    last: Option<Outcome>,
}

/// What is known of a server over one transport, for whoever reports it.
pub(super) struct Vital {
    pub state: State,
    pub mean: Option<Duration>,
    pub trial_in: Option<Duration>,
    pub timeouts: u32,
    pub refusals: u32,
    pub last: Option<Outcome>,
}

impl Record {
    fn is_down(&self) -> bool {
        self.timeouts >= DOWN_AFTER || self.refusals >= REFUSALS
    }

    fn state(&self, now: Instant) -> State {
        match self.next_trial {
            Some(at) if self.is_down() && now < at => State::Down,
            _ if self.is_down() => State::HalfOpen,
            _ if self.timeouts >= SUSPECT_AFTER => State::Suspect,
            _ => State::Healthy,
        }
    }

    fn note_alive(&mut self, elapsed: Duration) {
        let (mean, deviation) = match self.mean {
            None => (elapsed, elapsed / 2),
            Some(mean) => ((mean * 7 + elapsed) / 8, (self.deviation * 3 + mean.abs_diff(elapsed)) / 4),
        };
        *self = Record { mean: Some(mean), deviation, ..Record::default() };
    }

    fn note_dead(&mut self, refused: bool, now: Instant) {
        if refused {
            self.refusals += 1
        } else {
            self.timeouts += 1
        }
        if self.is_down() {
            let wait = (FIRST_TRIAL * 2u32.saturating_pow(self.trials.min(5))).min(LAST_TRIAL);
            self.trials += 1;
            self.next_trial = Some(now + wait);
        }
    }
}

impl Health {
    /// What an attempt says about the server.
    pub(super) fn observe(
        &self,
        server: &Server,
        transport: Transport,
        outcome: Outcome,
        elapsed: Duration,
        now: Instant,
    ) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let record = servers.entry((server.clone(), transport)).or_default();
        match outcome {
            // Ours, not the server's.
            Outcome::Local | Outcome::NotAsked => {}
            outcome if outcome.is_alive() => record.note_alive(elapsed),
            outcome => record.note_dead(matches!(outcome, Outcome::Unreachable | Outcome::Tls), now),
        }
        if !matches!(outcome, Outcome::Local | Outcome::NotAsked) {
            record.last = Some(outcome);
        }
    }

    /// What is known of a server over a transport; nothing, where it never was heard or missed.
    pub(super) fn vital(&self, server: &Server, transport: Transport, now: Instant) -> Option<Vital> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let record = servers.get(&(server.clone(), transport))?;
        record.last?;
        let Record { timeouts, refusals, mean, last, .. } = *record;
        let trial_in = record.next_trial.map(|at| at.saturating_duration_since(now));
        Some(Vital { state: record.state(now), mean, trial_in, timeouts, refusals, last })
    }

    /// The domains about which a server told too many lies lately, a few of them.
    pub(super) fn lied_about(&self, server: &Server, now: Instant) -> Vec<String> {
        let liars = self.liars.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = liars.0.iter().filter(|((liar, _), lies)| liar == server && are_too_many(lies, now));
        theirs.map(|((_, domain), _)| domain.clone()).take(3).collect()
    }

    pub(super) fn state(&self, server: &Server, transport: Transport, now: Instant) -> State {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.get(&(server.clone(), transport)).map_or(State::Healthy, |record| record.state(now))
    }

    /// Whether the server has answered over this transport and is not known to have stopped.
    pub(super) fn is_proven(&self, server: &Server, transport: Transport) -> bool {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.get(&(server.clone(), transport)).is_some_and(|record| record.mean.is_some() && !record.is_down())
    }

    /// A trial was started: the next one is not before its time, however this one ends.
    pub(super) fn note_trial(&self, server: &Server, transport: Transport, now: Instant) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = servers.get_mut(&(server.clone(), transport)) {
            record.next_trial = Some(now + FIRST_TRIAL);
        }
    }

    /// How long to wait for this server before the next one is asked too.
    pub(super) fn hedge(&self, server: &Server, transport: Transport) -> Duration {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        match servers.get(&(server.clone(), transport)).and_then(|record| Some((record.mean?, record.deviation))) {
            // Mean and two deviations stand for the 95th percentile.
            Some((mean, deviation)) => ((mean + deviation * 2) * 2).clamp(LEAST_HEDGE, MOST_HEDGE),
            None => MOST_HEDGE,
        }
    }

    /// Puts on a candidate what is known about it: its marks, and the transport to begin with where
    /// somebody forges what UDP says.
    pub(super) fn mark(&self, candidate: &mut Candidate, domain: &str, now: Instant) {
        let Quirks { flattens, denies_v6, edns_proven, .. } = self.quirks_of(&candidate.server);
        let lasts = |until: Option<Instant>| until.is_some_and(|until| now < until);
        candidate.marks = Marks {
            liar: self.is_liar(&candidate.server, domain, now),
            poisoned: candidate.is_exposed() && self.is_poisoned(&candidate.server, domain, now),
            udp_dead: candidate.transport == Transport::Tcp
                && self.state(&candidate.server, Transport::Udp, now) >= State::HalfOpen,
            flattens: lasts(flattens),
            edns_proven,
            denies_v6: lasts(denies_v6),
        };
        let tcp_may_do = self.state(&candidate.server, Transport::Tcp, now) < State::HalfOpen;
        if candidate.marks.poisoned && tcp_may_do {
            candidate.transport = Transport::Tcp;
        }
    }

    /// It failed over EDNS.
    pub(super) fn note_edns_trouble(&self, server: &Server, now: Instant) {
        self.note_quirk(server, |quirks| quirks.without_edns = Some(now + QUIRKS_LAST));
    }

    /// It answered well with EDNS: what it fails over later is something else.
    pub(super) fn note_edns_fine(&self, server: &Server) {
        self.note_quirk(server, |quirks| quirks.edns_proven = true);
    }

    /// It spelt a name its own way, and was asked again over TCP.
    pub(super) fn note_flattens(&self, server: &Server, now: Instant) {
        self.note_quirk(server, |quirks| quirks.flattens = Some(now + QUIRKS_LAST));
    }

    /// It denied the IPv6 side of a name that has an IPv4 one.
    pub(super) fn note_denies_v6(&self, server: &Server, now: Instant) {
        self.note_quirk(server, |quirks| quirks.denies_v6 = Some(now + QUIRKS_LAST));
    }

    pub(super) fn takes_edns(&self, server: &Server, now: Instant) -> bool {
        self.quirks_of(server).without_edns.is_none_or(|until| now >= until)
    }

    fn note_quirk(&self, server: &Server, note: impl FnOnce(&mut Quirks)) {
        let mut quirks = self.quirks.lock().unwrap_or_else(PoisonError::into_inner);
        note(quirks.entry(server.clone()).or_default());
    }

    fn quirks_of(&self, server: &Server) -> Quirks {
        let quirks = self.quirks.lock().unwrap_or_else(PoisonError::into_inner);
        quirks.get(server).copied().unwrap_or_default()
    }

    /// Another network: what was learnt about the servers, and the way to them, is worth nothing there.
    pub(super) fn reset(&self) {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.quirks.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.liars.lock().unwrap_or_else(PoisonError::into_inner).0.clear();
        self.poisoned.lock().unwrap_or_else(PoisonError::into_inner).0.clear();
    }

    /// A server's word about a name of this domain was shown to be wrong; `weight` times over.
    pub(super) fn note_lie(&self, server: &Server, domain: String, weight: usize, now: Instant) {
        let mut liars = self.liars.lock().unwrap_or_else(PoisonError::into_inner);
        let lies = liars.0.get_or_insert_mut((server.clone(), domain), Vec::new);
        lies.extend(std::iter::repeat_n(now, weight));
        lies.drain(..lies.len().saturating_sub(LIES_TOO_MANY));
    }

    fn is_liar(&self, server: &Server, domain: &str, now: Instant) -> bool {
        let mut liars = self.liars.lock().unwrap_or_else(PoisonError::into_inner);
        if liars.0.is_empty() {
            return false;
        }
        let lies = liars.0.get(&(server.clone(), domain.to_owned()));
        lies.is_some_and(|lies| are_too_many(lies, now))
    }

    /// Somebody on the way to a server forges what UDP says about a domain.
    pub(super) fn note_poison(&self, server: &Server, domain: String, now: Instant) {
        let Some(operator) = operator(server) else { return };
        let mut poisoned = self.poisoned.lock().unwrap_or_else(PoisonError::into_inner);
        poisoned.0.put((operator, domain), now + POISON_LASTS);
    }

    fn is_poisoned(&self, server: &Server, domain: &str, now: Instant) -> bool {
        let mut poisoned = self.poisoned.lock().unwrap_or_else(PoisonError::into_inner);
        if poisoned.0.is_empty() {
            return false;
        }
        let key = operator(server).map(|operator| (operator, domain.to_owned()));
        key.and_then(|key| poisoned.0.get(&key).copied()).is_some_and(|until| now < until)
    }

    /// One verified handshake through a server's answer clears its name (a captive portal that was
    /// signed in to).
    pub(super) fn absolve(&self, server: &Server) {
        let mut liars = self.liars.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = liars.0.iter().filter(|((liar, _), _)| liar == server).map(|(key, _)| key.clone());
        for key in theirs.collect::<Vec<_>>() {
            liars.0.pop(&key);
        }
    }
}

/// The way to all addresses of a service is one way.
fn operator(server: &Server) -> Option<Operator> {
    let address = server.address()?;
    Some(defaults::service(address.ip()).map_or(Operator::Own(address), Operator::Service))
}

fn are_too_many(lies: &[Instant], now: Instant) -> bool {
    let lately = |lie: &&Instant| now.saturating_duration_since(**lie) <= LIES_COUNT_FOR;
    lies.iter().filter(lately).count() >= LIES_TOO_MANY
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::Tier;

    const MS: Duration = Duration::from_millis(1);

    struct Case {
        health: Health,
        server: Server,
        now: Instant,
    }

    impl Case {
        fn new() -> Case {
            Case { health: Health::default(), server: "10.0.0.1".parse().unwrap(), now: Instant::now() }
        }

        fn hear(&self, times: u32, outcome: Outcome) {
            for _ in 0..times {
                self.health.observe(&self.server, Transport::Udp, outcome, 10 * MS, self.now);
            }
        }

        fn state(&self) -> State {
            self.health.state(&self.server, Transport::Udp, self.now)
        }
    }

    #[test]
    fn silence_is_suspected_then_down_then_tried_again() {
        let mut case = Case::new();
        case.hear(2, Outcome::Timeout);
        assert_eq!(case.state(), State::Suspect);
        case.hear(2, Outcome::Timeout);
        assert_eq!(case.state(), State::Down);
        case.now += FIRST_TRIAL;
        assert_eq!(case.state(), State::HalfOpen);
        case.hear(1, Outcome::Timeout);
        case.now += FIRST_TRIAL;
        assert_eq!(case.state(), State::Down, "the second trial is two seconds off");
        case.now += FIRST_TRIAL;
        assert_eq!(case.state(), State::HalfOpen);
        case.hear(1, Outcome::Servfail);
        assert_eq!(case.state(), State::Healthy, "any well-formed reply is alive");
    }

    #[test]
    fn two_refusals_are_enough_and_our_own_failures_are_none() {
        let case = Case::new();
        case.hear(9, Outcome::Local);
        assert_eq!(case.state(), State::Healthy);
        case.hear(2, Outcome::Unreachable);
        assert_eq!(case.state(), State::Down);
        case.health.reset();
        assert_eq!(case.state(), State::Healthy);
    }

    #[test]
    fn the_hedge_follows_the_server_within_bounds() {
        let case = Case::new();
        let hedge = || case.health.hedge(&case.server, Transport::Udp);
        assert_eq!(hedge(), MOST_HEDGE);
        case.hear(20, Outcome::Nxdomain);
        assert_eq!(hedge(), LEAST_HEDGE);
    }

    #[test]
    fn three_lies_about_a_domain_put_a_server_last_and_a_handshake_clears_it() {
        let case = Case::new();
        let is_liar = |now| case.health.is_liar(&case.server, "goproxy.cn", now);
        let lie = |now| case.health.note_lie(&case.server, "goproxy.cn".to_owned(), 1, now);
        // Three in a quarter of an hour are none too many.
        for ago in [LIES_COUNT_FOR * 3 / 4, LIES_COUNT_FOR * 3 / 8, Duration::ZERO] {
            lie(case.now - ago);
        }
        lie(case.now);
        assert!(is_liar(case.now));
        let case = Case { now: case.now + 3 * LIES_COUNT_FOR, ..case };
        let is_liar = |now| case.health.is_liar(&case.server, "goproxy.cn", now);
        let lie = |now| case.health.note_lie(&case.server, "goproxy.cn".to_owned(), 1, now);
        for ago in [LIES_COUNT_FOR * 3 / 2, LIES_COUNT_FOR * 3 / 4, Duration::ZERO] {
            lie(case.now - ago);
        }
        assert!(!is_liar(case.now), "too far apart");
        lie(case.now);
        assert!(is_liar(case.now) && !is_liar(case.now + 2 * LIES_COUNT_FOR));
        assert!(!case.health.is_liar(&case.server, "github.com", case.now));
        case.health.absolve(&case.server);
        assert!(!is_liar(case.now));
    }

    fn candidate(text: &str, tier: Tier) -> Candidate {
        let server: Server = text.parse().unwrap();
        Candidate {
            tier,
            operator: Operator::System,
            wave: 0,
            transport: server.transport(),
            edns: true,
            down: false,
            trial: false,
            marks: Marks::default(),
            server,
        }
    }

    fn marked(case: &Case, text: &str, tier: Tier, domain: &str) -> Candidate {
        let mut candidate = candidate(text, tier);
        case.health.mark(&mut candidate, domain, case.now);
        candidate
    }

    #[test]
    fn udp_is_kept_away_from_a_poisoned_path_for_that_domain_and_a_while() {
        let mut case = Case::new();
        case.health.note_poison(&"8.8.8.8".parse().unwrap(), "goproxy.cn".to_owned(), case.now);
        let way = |case: &Case, text, tier, domain| {
            let candidate = marked(case, text, tier, domain);
            (candidate.marks.poisoned, candidate.transport)
        };
        let (tcp, udp) = ((true, Transport::Tcp), (false, Transport::Udp));
        assert_eq!(way(&case, "8.8.8.8", Tier::Plain, "goproxy.cn"), tcp);
        assert_eq!(way(&case, "8.8.4.4", Tier::Plain, "goproxy.cn"), tcp, "the same operator");
        assert_eq!(way(&case, "1.1.1.1", Tier::Plain, "goproxy.cn"), udp);
        assert_eq!(way(&case, "8.8.8.8", Tier::Plain, "github.com"), udp);
        assert_eq!(way(&case, "8.8.8.8", Tier::System, "goproxy.cn"), udp, "the site's own choice of servers");
        for _ in 0..REFUSALS {
            let server = "8.8.8.8".parse().unwrap();
            case.health.observe(&server, Transport::Tcp, Outcome::Unreachable, MS, case.now);
        }
        let only_udp = (true, Transport::Udp);
        assert_eq!(way(&case, "8.8.8.8", Tier::Plain, "goproxy.cn"), only_udp, "with a long ear");
        case.now += POISON_LASTS;
        assert_eq!(way(&case, "8.8.8.8", Tier::Plain, "goproxy.cn"), udp);
    }

    #[test]
    fn what_strangers_can_make_us_remember_is_bounded() {
        let case = Case::new();
        for number in 0..3 * MOST_REMEMBERED {
            case.health.note_poison(&case.server, format!("{number}.example"), case.now);
            case.health.note_lie(&case.server, format!("{number}.example"), 100, case.now);
        }
        assert_eq!(case.health.poisoned.lock().unwrap().0.len(), MOST_REMEMBERED);
        let liars = case.health.liars.lock().unwrap();
        assert!(liars.0.len() == MOST_REMEMBERED && liars.0.iter().all(|(_, lies)| lies.len() == LIES_TOO_MANY));
    }

    #[test]
    fn quirks_are_remembered_for_a_while_and_over_all_that_is_heard() {
        let mut case = Case::new();
        case.health.note_edns_trouble(&case.server, case.now);
        case.health.note_edns_fine(&case.server);
        case.health.note_flattens(&case.server, case.now);
        case.health.note_denies_v6(&case.server, case.now);
        case.hear(1, Outcome::Answer);
        case.hear(DOWN_AFTER, Outcome::Timeout);
        let marks = |case: &Case| marked(case, "10.0.0.1", Tier::System, "goproxy.cn").marks;
        let all = Marks { flattens: true, denies_v6: true, edns_proven: true, ..Marks::default() };
        assert_eq!(marks(&case), all);
        assert!(!case.health.takes_edns(&case.server, case.now));
        case.now += QUIRKS_LAST;
        assert_eq!(marks(&case), Marks { edns_proven: true, ..Marks::default() });
        assert!(case.health.takes_edns(&case.server, case.now));
    }

    #[test]
    fn another_network_has_other_servers_under_the_same_addresses() {
        let case = Case::new();
        case.health.note_flattens(&case.server, case.now);
        case.health.note_lie(&case.server, "goproxy.cn".to_owned(), LIES_TOO_MANY, case.now);
        case.health.note_poison(&case.server, "goproxy.cn".to_owned(), case.now);
        let marks = || marked(&case, "10.0.0.1", Tier::Plain, "goproxy.cn").marks;
        assert_eq!(marks(), Marks { liar: true, poisoned: true, flattens: true, ..Marks::default() });
        case.health.reset();
        assert_eq!(marks(), Marks::default());
    }
}
