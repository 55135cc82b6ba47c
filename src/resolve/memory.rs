//! What was answered lately: addresses while they are fresh and for three days after, denials,
//! failures, and addresses that did not answer when they were dialled.
//!
//! Bounded by an LRU order. `now` is an argument; every lock is held for a few lines. A denial or
//! a failure never takes the place of an older answer, it only lies beside it.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use super::{Failure, Found, Freshness, Source};
use crate::target::Name;

const MOST_NAMES: usize = 10_000;
const MOST_PENALTIES: usize = 4096;
const LEAST_TTL: Duration = Duration::from_secs(5);
const MOST_TTL: Duration = Duration::from_secs(60 * 60);
/// RFC 8767 section 5 suggests one to three days.
const STALE_FOR: Duration = Duration::from_secs(3 * 24 * 60 * 60);
const BELIEVED_DENIAL: Duration = Duration::from_secs(60);
const DOUBTED_DENIAL: Duration = Duration::from_secs(5);
/// How often, and over how long, two operators must deny what a handshake vouched for.
const ENOUGH_CHECKS: u32 = 3;
const LONG_ENOUGH: Duration = Duration::from_secs(10 * 60);
/// Denials further apart than this are two stories.
const STREAK_LASTS: Duration = Duration::from_secs(60 * 60);
const FIRST_PENALTY: Duration = Duration::from_secs(30);
const LAST_PENALTY: Duration = Duration::from_secs(10 * 60);
/// Pauses between probes while an older answer serves (RFC 8767 section 5 wants 30 s or more
/// between them; the first is sooner, since most failures are short).
const RECHECKS: [u64; 6] = [5, 30, 60, 120, 240, 300];
/// Pauses before a name that failed, with nothing older at hand, is looked up again.
const FAILURES: [u64; 6] = [1, 2, 4, 8, 16, 30];

/// The memory of one resolver.
pub(super) struct Memory {
    names: Mutex<LruCache<Name, Record>>,
    penalties: Mutex<LruCache<(Name, IpAddr), Penalty>>,
}

#[derive(Default)]
struct Record {
    positive: Option<Kept>,
    denial: Option<(Failure, Instant)>,
    trouble: Option<Trouble>,
    streak: Option<Streak>,
}

struct Kept {
    found: Found,
    until: Instant,
    /// What other servers said a little later: further addresses, each judged as its server's word.
    beside: Vec<Found>,
}

/// Denials that two operators agreed on, one look-up after the other.
#[derive(Clone, Copy)]
struct Streak {
    checks: u32,
    first: Instant,
    last: Instant,
}

struct Trouble {
    failure: Option<Failure>,
    until: Instant,
    step: usize,
}

struct Penalty {
    until: Instant,
    step: u32,
}

/// What is remembered about a name.
#[derive(Debug)]
pub(super) enum Recall {
    Nothing,
    Fresh(Found),
    Denied(Failure),
    /// The last look-up failed. `due`: it is time to try again.
    Troubled {
        failure: Option<Failure>,
        due: bool,
    },
}

impl Default for Memory {
    fn default() -> Memory {
        let room = |most| NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        Memory {
            names: Mutex::new(LruCache::new(room(MOST_NAMES))),
            penalties: Mutex::new(LruCache::new(room(MOST_PENALTIES))),
        }
    }
}

impl Memory {
    pub(super) fn recall(&self, name: &Name, now: Instant) -> Recall {
        let mut names = self.names();
        let Some(record) = names.get(name) else { return Recall::Nothing };
        if let Some(kept) = record.positive.as_ref().filter(|kept| now < kept.until) {
            let ttl = kept.until - now;
            return Recall::Fresh(Found { freshness: Freshness::Cached, ttl, ..kept.found.clone() });
        }
        if let Some((failure, _)) = record.denial.as_ref().filter(|(_, until)| now < *until) {
            return Recall::Denied(failure.clone());
        }
        match &record.trouble {
            Some(trouble) => Recall::Troubled { failure: trouble.failure.clone(), due: now >= trouble.until },
            None => Recall::Nothing,
        }
    }

    /// The answer that is no longer fresh, while it is not too old to be of use.
    pub(super) fn stale(&self, name: &Name, now: Instant) -> Option<Found> {
        let mut names = self.names();
        let kept = names.get(name)?.positive.as_ref()?;
        let usable = now < kept.until + STALE_FOR;
        usable.then(|| Found { freshness: Freshness::Stale, ttl: LEAST_TTL, ..kept.found.clone() })
    }

    pub(super) fn note_found(&self, name: &Name, found: &Found, now: Instant) {
        let until = now + found.ttl.clamp(LEAST_TTL, MOST_TTL);
        let record =
            Record { positive: Some(Kept { found: found.clone(), until, beside: Vec::new() }), ..Record::default() };
        self.names().put(name.clone(), record);
    }

    /// Lays what others said beside the answer of `found`'s server, if it is still the one that counts.
    pub(super) fn note_beside(&self, name: &Name, found: &Found, beside: Vec<Found>) {
        let mut names = self.names();
        let Some(kept) = names.get_mut(name).and_then(|record| record.positive.as_mut()) else { return };
        if kept.found.source == found.source {
            kept.beside = beside;
        }
    }

    /// Everybody's word about a name while it is fresh, the one that counts first.
    pub(super) fn told(&self, name: &Name, now: Instant) -> Vec<Found> {
        let mut names = self.names();
        let kept = names.get(name).and_then(|record| record.positive.as_ref()).filter(|kept| now < kept.until);
        let told = kept.into_iter().flat_map(|kept| std::iter::once(&kept.found).chain(&kept.beside));
        told.cloned().collect()
    }

    /// Two operators deny a name that a handshake vouched for. Whether they have done so long enough
    /// to be right: [`ENOUGH_CHECKS`] times over [`LONG_ENOUGH`].
    pub(super) fn note_check(&self, name: &Name, now: Instant) -> bool {
        let mut names = self.names();
        let record = names.get_or_insert_mut(name.clone(), Record::default);
        let going_on = record.streak.filter(|streak| now.saturating_duration_since(streak.last) <= STREAK_LASTS);
        let Streak { checks, first, .. } = going_on.unwrap_or(Streak { checks: 0, first: now, last: now });
        record.streak = Some(Streak { checks: checks + 1, first, last: now });
        checks + 1 >= ENOUGH_CHECKS && now.saturating_duration_since(first) >= LONG_ENOUGH
    }

    pub(super) fn note_denial(
        &self,
        name: &Name,
        failure: Failure,
        ttl: Option<Duration>,
        believed: bool,
        now: Instant,
    ) {
        let most = if believed { BELIEVED_DENIAL } else { DOUBTED_DENIAL };
        let until = now + ttl.unwrap_or(most).min(most);
        let mut names = self.names();
        let record = names.get_or_insert_mut(name.clone(), Record::default);
        record.denial = Some((failure, until));
        record.trouble = None;
    }

    /// A look-up failed. `spare`: an older answer serves meanwhile, and probes can be rare.
    pub(super) fn note_trouble(&self, name: &Name, failure: Option<Failure>, spare: bool, now: Instant) {
        let mut names = self.names();
        let record = names.get_or_insert_mut(name.clone(), Record::default);
        let step = record.trouble.as_ref().map_or(0, |trouble| trouble.step + 1);
        let pauses = if spare { &RECHECKS } else { &FAILURES };
        let pause = Duration::from_secs(pauses[step.min(pauses.len() - 1)]);
        record.trouble = Some(Trouble { failure, until: now + pause, step });
    }

    /// A server's word turned out to be wrong: not even as a stale one is it of use. What was said
    /// beside it is somebody else's, and takes its place.
    pub(super) fn forget_word(&self, name: &Name, source: Option<&Source>) {
        if let Some(record) = self.names().get_mut(name) {
            record.positive = record.positive.take().and_then(|kept| kept.without(source));
        }
    }

    /// Nobody's word about a name counts any more.
    pub(super) fn forget_answer(&self, name: &Name) {
        if let Some(record) = self.names().get_mut(name) {
            record.positive = None;
        }
    }

    /// Another network: denials and failures heard on the old one say nothing about this one.
    pub(super) fn forget_denials(&self) {
        for (_, record) in self.names().iter_mut() {
            record.denial = None;
            record.trouble = None;
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.names().len()
    }

    /// An address did not answer, or answered as somebody else: it is dialled last for a while.
    pub(super) fn punish(&self, name: &Name, address: IpAddr, now: Instant) {
        let mut penalties = self.penalties();
        let penalty = penalties.get_or_insert_mut((name.clone(), address), || Penalty { until: now, step: 0 });
        let time = (FIRST_PENALTY * 2u32.saturating_pow(penalty.step.min(8))).min(LAST_PENALTY);
        *penalty = Penalty { until: now + time, step: penalty.step + 1 };
    }

    pub(super) fn pardon(&self, name: &Name, address: IpAddr) {
        self.penalties().pop(&(name.clone(), address));
    }

    /// Puts addresses that are being punished last; the order is otherwise kept.
    pub(super) fn order(&self, name: &Name, addresses: &mut [IpAddr], now: Instant) {
        let mut penalties = self.penalties();
        if penalties.is_empty() {
            return;
        }
        addresses
            .sort_by_key(|address| penalties.get(&(name.clone(), *address)).is_some_and(|penalty| now < penalty.until));
    }

    fn names(&self) -> MutexGuard<'_, LruCache<Name, Record>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn penalties(&self) -> MutexGuard<'_, LruCache<(Name, IpAddr), Penalty>> {
        self.penalties.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn without(mut self, source: Option<&Source>) -> Option<Kept> {
        let is_wrong = |found: &Found| found.source.as_deref() == source;
        self.beside.retain(|found| !is_wrong(found));
        if !is_wrong(&self.found) {
            return Some(self);
        }
        let found = if self.beside.is_empty() { return None } else { self.beside.remove(0) };
        Some(Kept { found, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::{Tally, Tier};

    const S: Duration = Duration::from_secs(1);

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn found(ttl: Duration) -> Found {
        let addresses = vec!["1.1.1.9".parse().unwrap()];
        Found { addresses, tier: Tier::System, source: None, freshness: Freshness::Fresh, ttl, doubtful: false }
    }

    fn absent(name: &Name) -> Failure {
        Failure::Absent { name: name.clone(), confirmed: true, last_word: true, by: Vec::new() }
    }

    #[test]
    fn an_answer_is_fresh_then_stale_then_gone() {
        let (memory, name, now) = (Memory::default(), name("goproxy.cn"), Instant::now());
        memory.note_found(&name, &found(S), now);
        assert!(matches!(memory.recall(&name, now + 4 * S), Recall::Fresh(found) if found.ttl == S), "at least 5 s");
        assert!(matches!(memory.recall(&name, now + 5 * S), Recall::Nothing));
        assert_eq!(memory.stale(&name, now + 5 * S).unwrap().freshness, Freshness::Stale);
        assert!(memory.stale(&name, now + STALE_FOR + 6 * S).is_none());
    }

    #[test]
    fn what_two_operators_deny_is_believed_after_three_checks_over_ten_minutes() {
        let (memory, name, start) = (Memory::default(), name("goproxy.cn"), Instant::now());
        let checks = |ats: &[u64]| {
            ats.iter().map(|at| memory.note_check(&name, start + Duration::from_secs(*at))).collect::<Vec<_>>()
        };
        assert_eq!(checks(&[0, 5, 35, 599, 600]), [false, false, false, false, true]);
        assert_eq!(checks(&[700]), [true]);
        memory.note_found(&name, &found(S), start + 800 * S);
        assert_eq!(checks(&[900, 1500, 1501]), [false, false, true], "an answer begins it anew");
        assert_eq!(checks(&[9000, 9001, 9600]), [false, false, true], "so does a long time");
    }

    #[test]
    fn what_was_said_beside_an_answer_takes_its_place_when_it_turns_out_wrong() {
        let (memory, name, now) = (Memory::default(), name("goproxy.cn"), Instant::now());
        let by = |server: &str, address: &str| {
            let source = Source { server: server.parse().unwrap(), transport: crate::resolve::Transport::Udp };
            let addresses = vec![address.parse().unwrap()];
            Found { addresses, source: Some(std::sync::Arc::new(source)), ..found(60 * S) }
        };
        let (first, second) = (by("10.0.0.1", "1.1.1.7"), by("8.8.8.8", "1.1.1.8"));
        let told = || memory.told(&name, now).into_iter().map(|found| found.source).collect::<Vec<_>>();
        memory.note_found(&name, &first, now);
        memory.note_beside(&name, &second, vec![second.clone()]);
        assert_eq!(told(), std::slice::from_ref(&first.source), "said beside an answer that is none any more");
        memory.note_beside(&name, &first, vec![second.clone()]);
        assert_eq!(told(), [first.source.clone(), second.source.clone()]);
        assert!(matches!(memory.recall(&name, now), Recall::Fresh(found) if found.addresses == first.addresses));
        let third = by("8.8.4.4", "1.1.1.9");
        memory.note_beside(&name, &first, vec![third.clone(), second.clone()]);
        memory.forget_word(&name, third.source.as_deref());
        assert_eq!(told(), [first.source.clone(), second.source.clone()]);
        memory.forget_word(&name, first.source.as_deref());
        assert_eq!(told(), std::slice::from_ref(&second.source));
        memory.forget_word(&name, second.source.as_deref());
        assert!(told().is_empty() && matches!(memory.recall(&name, now), Recall::Nothing));
    }

    #[test]
    fn a_denial_lies_beside_the_older_answer() {
        let (memory, name, now) = (Memory::default(), name("goproxy.cn"), Instant::now());
        memory.note_found(&name, &found(S), now);
        memory.note_denial(&name, absent(&name), Some(600 * S), true, now + 6 * S);
        assert!(matches!(memory.recall(&name, now + 60 * S), Recall::Denied(_)));
        assert!(memory.stale(&name, now + 60 * S).is_some());
        assert!(matches!(memory.recall(&name, now + 67 * S), Recall::Nothing), "a minute at most");
    }

    #[test]
    fn failures_are_rechecked_ever_more_rarely() {
        let (memory, name, mut now) = (Memory::default(), name("goproxy.cn"), Instant::now());
        for pause in FAILURES {
            let failure = Failure::Unknown { name: name.clone(), tally: Tally::default() };
            memory.note_trouble(&name, Some(failure), false, now);
            let due = |now| matches!(memory.recall(&name, now), Recall::Troubled { due: true, .. });
            assert!(!due(now + Duration::from_secs(pause) - S / 2));
            now += Duration::from_secs(pause);
            assert!(due(now));
        }
    }

    #[test]
    fn punished_addresses_come_last_until_their_time_is_over() {
        let (memory, name, now) = (Memory::default(), name("goproxy.cn"), Instant::now());
        let [first, second] = ["1.1.1.1", "2.2.2.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let order = |now| {
            let mut addresses = [first, second];
            memory.order(&name, &mut addresses, now);
            addresses
        };
        memory.punish(&name, first, now);
        assert_eq!(order(now), [second, first]);
        assert_eq!(order(now + FIRST_PENALTY), [first, second]);
        memory.punish(&name, first, now);
        memory.pardon(&name, first);
        assert_eq!(order(now), [first, second]);
    }

    #[test]
    fn a_hundred_thousand_names_stay_within_bounds() {
        let (memory, now) = (Memory::default(), Instant::now());
        for number in 0..100_000 {
            memory.note_found(&name(&format!("m{number}.example")), &found(S), now);
        }
        assert_eq!(memory.len(), MOST_NAMES);
    }
}
