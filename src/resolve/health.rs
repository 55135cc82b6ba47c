//! How the servers fare: alive or down by (address, transport), how long they take, whether they
//! choke on EDNS, and who lied about what.
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

use super::reply::Outcome;
use super::server::{Server, Transport};

/// Silence in a row before a server is suspected, and before it counts as down.
const SUSPECT_AFTER: u32 = 2;
const DOWN_AFTER: u32 = 4;
/// Refused connections in a row before a server counts as down.
const REFUSALS: u32 = 2;
const FIRST_TRIAL: Duration = Duration::from_secs(1);
const LAST_TRIAL: Duration = Duration::from_secs(30);
/// How long a server that choked on EDNS is asked without.
const WITHOUT_EDNS: Duration = Duration::from_secs(15 * 60);
/// Lies within this time add up, and this many put a server last.
const LIES_COUNT_FOR: Duration = Duration::from_secs(10 * 60);
pub(super) const LIES_TOO_MANY: u32 = 3;
const MOST_LIARS: usize = 1024;
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
    liars: Mutex<Liars>,
}

/// How many lies a server told about a domain, and when the last one.
struct Liars(LruCache<(Server, String), (u32, Instant)>);

impl Default for Liars {
    fn default() -> Liars {
        Liars(LruCache::new(NonZeroUsize::new(MOST_LIARS).unwrap_or(NonZeroUsize::MIN)))
    }
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
    without_edns: Option<Instant>,
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
        let without_edns = self.without_edns;
        let (mean, deviation) = match self.mean {
            None => (elapsed, elapsed / 2),
            Some(mean) => ((mean * 7 + elapsed) / 8, (self.deviation * 3 + mean.abs_diff(elapsed)) / 4),
        };
        *self = Record { mean: Some(mean), deviation, without_edns, ..Record::default() };
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

    pub(super) fn note_edns_trouble(&self, server: &Server, now: Instant) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.entry((server.clone(), server.transport())).or_default().without_edns = Some(now + WITHOUT_EDNS);
    }

    pub(super) fn takes_edns(&self, server: &Server, now: Instant) -> bool {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let record = servers.get(&(server.clone(), server.transport()));
        record.and_then(|record| record.without_edns).is_none_or(|until| now >= until)
    }

    /// Another network: what was learnt about the servers is worth nothing there.
    pub(super) fn reset(&self) {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A server's word about a name of this domain was shown to be wrong.
    pub(super) fn note_lie(&self, server: &Server, domain: String, weight: u32, now: Instant) {
        let mut liars = self.liars.lock().unwrap_or_else(PoisonError::into_inner);
        let score = liars.0.get_or_insert_mut((server.clone(), domain), || (0, now));
        if now.saturating_duration_since(score.1) > LIES_COUNT_FOR {
            score.0 = 0;
        }
        *score = (score.0 + weight, now);
    }

    pub(super) fn is_liar(&self, server: &Server, domain: &str, now: Instant) -> bool {
        let mut liars = self.liars.lock().unwrap_or_else(PoisonError::into_inner);
        if liars.0.is_empty() {
            return false;
        }
        let score = liars.0.get(&(server.clone(), domain.to_owned())).copied();
        score.is_some_and(|(lies, last)| lies >= LIES_TOO_MANY && now.saturating_duration_since(last) <= LIES_COUNT_FOR)
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

#[cfg(test)]
mod tests {
    use super::*;

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
        for _ in 0..2 {
            case.health.note_lie(&case.server, "goproxy.cn".to_owned(), 1, case.now);
        }
        assert!(!is_liar(case.now));
        case.health.note_lie(&case.server, "goproxy.cn".to_owned(), 1, case.now);
        assert!(is_liar(case.now) && !is_liar(case.now + 2 * LIES_COUNT_FOR));
        assert!(!case.health.is_liar(&case.server, "github.com", case.now));
        case.health.absolve(&case.server);
        assert!(!is_liar(case.now));
    }

    #[test]
    fn edns_trouble_is_remembered_for_a_while() {
        let case = Case::new();
        case.health.note_edns_trouble(&case.server, case.now);
        assert!(!case.health.takes_edns(&case.server, case.now));
        case.hear(1, Outcome::Answer);
        assert!(!case.health.takes_edns(&case.server, case.now));
        assert!(case.health.takes_edns(&case.server, case.now + WITHOUT_EDNS));
    }
}
