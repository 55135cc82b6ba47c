//! What was answered lately: addresses while they are fresh and for three days after, denials,
//! failures, and addresses that did not answer when they were dialled.
//!
//! Bounded by an LRU order, in shards by name, so that workers seldom wait for each other; each
//! lock is held for a few lines. `now` is an argument. A denial or a failure never takes the place
//! of an older answer, it only lies beside it. An answer that is asked for again and again says
//! when it is time to renew it; one that nobody asks for is let go.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::{DefaultHasher, LruCache};
use tokio::time::Instant;

use super::reply::Family;
use super::{Failure, Found, Freshness, Source, Tier};
use crate::target::Name;

const MOST_NAMES: usize = 10_000;
/// More than any machine of ours has cores.
const SHARDS: usize = 16;
/// Twice the addresses that an answer may have (`reply::MOST_ADDRESSES`).
const MOST_PENALTIES: usize = 64;
const LEAST_TTL: Duration = Duration::from_secs(5);
const MOST_TTL: Duration = Duration::from_secs(60 * 60);
/// RFC 8767 section 5 suggests one to three days.
const STALE_FOR: Duration = Duration::from_secs(3 * 24 * 60 * 60);
/// How long a denial is kept at least: a short name is asked outside only while all that it may be
/// short for lies here denied, and some zones have a negative TTL of zero.
const LEAST_DENIAL: Duration = Duration::from_secs(5);
const BELIEVED_DENIAL: Duration = Duration::from_secs(60);
/// How often, and over how long, two operators must deny what a handshake vouched for.
const ENOUGH_CHECKS: u32 = 3;
const LONG_ENOUGH: Duration = Duration::from_secs(10 * 60);
/// Denials further apart than this are two stories.
const STREAK_LASTS: Duration = Duration::from_secs(60 * 60);
const FIRST_PENALTY: Duration = Duration::from_secs(30);
const LAST_PENALTY: Duration = Duration::from_secs(10 * 60);
/// An answer is renewed early in the last tenth of its life, or its last five seconds, but never
/// in its first half, and only where it was asked for this often in that life.
const RENEW_WITHIN: Duration = Duration::from_secs(5);
const ASKED_OFTEN: u32 = 2;
/// Pauses between probes while an older answer serves (RFC 8767 section 5 wants 30 s or more
/// between them; the first is sooner, since most failures are short).
const RECHECKS: [u64; 6] = [5, 30, 60, 120, 240, 300];
/// How long nobody is asked again for the one family that an answer lacks.
const UNHEARD_FOR: Duration = Duration::from_secs(10);
/// Pauses before a name that failed, with nothing older at hand, is looked up again.
const FAILURES: [u64; 6] = [1, 2, 4, 8, 16, 30];

/// The memory of one resolver.
pub(super) struct Memory {
    shards: [Mutex<LruCache<Name, Record>>; SHARDS],
    hasher: DefaultHasher,
}

#[derive(Default)]
struct Record {
    positive: Option<Kept>,
    denial: Option<(Failure, Instant)>,
    trouble: Option<Trouble>,
    streak: Option<Streak>,
    penalties: Vec<(IpAddr, Penalty)>,
    /// That the family which the answer lacks was asked for in vain.
    unheard: Option<(Failure, Instant)>,
}

struct Kept {
    found: Found,
    life: Duration,
    until: Instant,
    /// How often somebody asked in this life.
    asked: u32,
    /// Somebody was told to renew it.
    renewing: bool,
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
    /// `renew`: many ask, and its life is nearly over. Said once a life.
    Fresh {
        found: Found,
        renew: bool,
    },
    Denied(Failure),
    /// The last look-up failed. `due`: it is time to try again.
    Troubled {
        failure: Option<Failure>,
        due: bool,
    },
}

impl Default for Memory {
    fn default() -> Memory {
        let room = NonZeroUsize::new(MOST_NAMES / SHARDS).unwrap_or(NonZeroUsize::MIN);
        Memory { shards: [(); SHARDS].map(|()| Mutex::new(LruCache::new(room))), hasher: DefaultHasher::default() }
    }
}

impl Memory {
    /// What somebody who asks for the name is to hear. `may_ask`: whether this one may cause a renewal.
    pub(super) fn recall(&self, name: &Name, now: Instant, may_ask: impl Fn() -> bool) -> Recall {
        let mut names = self.shard(name);
        let Some(record) = names.get_mut(name) else { return Recall::Nothing };
        if let Some(mut found) = record.fresh(now) {
            record.put_in_order(&mut found.addresses, now);
            return Recall::Fresh { found, renew: record.is_to_renew(now, may_ask) };
        }
        if let Some((failure, _)) = record.denial.as_ref().filter(|(_, until)| now < *until) {
            return Recall::Denied(failure.clone());
        }
        match &record.trouble {
            Some(trouble) => Recall::Troubled { failure: trouble.failure.clone(), due: now >= trouble.until },
            None => Recall::Nothing,
        }
    }

    /// The answer while it is fresh; does not count as asking for it.
    pub(super) fn fresh(&self, name: &Name, now: Instant) -> Option<Found> {
        self.shard(name).peek(name)?.fresh(now)
    }

    /// Whether the last word about a name is that it does not exist.
    pub(super) fn is_denied(&self, name: &Name, now: Instant) -> bool {
        let names = self.shard(name);
        let denial = names.peek(name).and_then(|record| record.denial.as_ref());
        denial.is_some_and(|(_, until)| now < *until)
    }

    /// Whether the last look-up failed and it is too early for another.
    pub(super) fn is_resting(&self, name: &Name, now: Instant) -> bool {
        let names = self.shard(name);
        let trouble = names.peek(name).and_then(|record| record.trouble.as_ref());
        trouble.is_some_and(|trouble| now < trouble.until)
    }

    /// The answer that is no longer fresh, while it is not too old to be of use.
    pub(super) fn stale(&self, name: &Name, now: Instant) -> Option<Found> {
        let mut names = self.shard(name);
        let kept = names.get(name)?.positive.as_ref()?;
        let usable = now < kept.until + STALE_FOR;
        usable.then(|| Found { freshness: Freshness::Stale, ttl: LEAST_TTL, ..kept.found.clone() })
    }

    pub(super) fn note_found(&self, name: &Name, found: &Found, now: Instant) {
        let life = found.ttl.clamp(LEAST_TTL, MOST_TTL);
        let (until, found) = (now + life, found.clone());
        let kept = Kept { found, life, until, asked: 0, renewing: false, beside: Vec::new() };
        let mut names = self.shard(name);
        let record = names.get_or_insert_mut(name.clone(), Record::default);
        let penalties = std::mem::take(&mut record.penalties);
        *record = Record { positive: Some(kept), penalties, ..Record::default() };
    }

    /// One family was asked for alone, and this is all that there is of it.
    pub(super) fn complete(
        &self,
        name: &Name,
        family: Family,
        addresses: &[IpAddr],
        ttl: Option<Duration>,
        now: Instant,
    ) {
        let mut names = self.shard(name);
        let Some(kept) = names.get_mut(name).and_then(|record| record.positive.as_mut()) else { return };
        if kept.found.unheard != Some(family) {
            return;
        }
        kept.found = kept.found.clone().completed(addresses);
        kept.until = kept.until.min(now + ttl.unwrap_or(BELIEVED_DENIAL).clamp(LEAST_TTL, MOST_TTL));
    }

    /// Nobody said anything about the family that an answer lacks: it is not asked for again at once.
    pub(super) fn note_unheard(&self, name: &Name, failure: Failure, now: Instant) {
        if let Some(record) = self.shard(name).get_mut(name) {
            record.unheard = Some((failure, now + UNHEARD_FOR));
        }
    }

    /// Why nothing was found out about it, while that is remembered.
    pub(super) fn unheard(&self, name: &Name, now: Instant) -> Option<Failure> {
        let names = self.shard(name);
        let (failure, until) = names.peek(name)?.unheard.as_ref()?;
        (now < *until).then(|| failure.clone())
    }

    /// Lays what others said beside the answer of `found`'s server, if it is still the one that counts.
    pub(super) fn note_beside(&self, name: &Name, found: &Found, beside: Vec<Found>) {
        let mut names = self.shard(name);
        let Some(kept) = names.get_mut(name).and_then(|record| record.positive.as_mut()) else { return };
        if kept.found.source == found.source {
            kept.beside = beside;
        }
    }

    /// Everybody's word about a name while it is fresh, the one that counts first.
    pub(super) fn told(&self, name: &Name, now: Instant) -> Vec<Found> {
        let mut names = self.shard(name);
        let kept = names.get(name).and_then(|record| record.positive.as_ref()).filter(|kept| now < kept.until);
        let told = kept.into_iter().flat_map(|kept| std::iter::once(&kept.found).chain(&kept.beside));
        told.cloned().collect()
    }

    /// Two operators deny a name that a handshake vouched for. Whether they have done so long enough
    /// to be right: [`ENOUGH_CHECKS`] times over [`LONG_ENOUGH`].
    pub(super) fn note_check(&self, name: &Name, now: Instant) -> bool {
        let mut names = self.shard(name);
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
        let most = if believed { BELIEVED_DENIAL } else { LEAST_DENIAL };
        let until = now + ttl.unwrap_or(most).clamp(LEAST_DENIAL, most);
        let mut names = self.shard(name);
        let record = names.get_or_insert_mut(name.clone(), Record::default);
        record.denial = Some((failure, until));
        record.trouble = None;
    }

    /// A look-up failed. `spare`: an older answer serves meanwhile, and probes can be rare.
    pub(super) fn note_trouble(&self, name: &Name, failure: Option<Failure>, spare: bool, now: Instant) {
        let mut names = self.shard(name);
        let record = names.get_or_insert_mut(name.clone(), Record::default);
        let step = record.trouble.as_ref().map_or(0, |trouble| trouble.step + 1);
        let pauses = if spare { &RECHECKS } else { &FAILURES };
        let pause = Duration::from_secs(pauses[step.min(pauses.len() - 1)]);
        record.trouble = Some(Trouble { failure, until: now + pause, step });
    }

    /// A server's word turned out to be wrong: not even as a stale one is it of use. What was said
    /// beside it is somebody else's, and takes its place.
    pub(super) fn forget_word(&self, name: &Name, source: Option<&Source>) {
        if let Some(record) = self.shard(name).get_mut(name) {
            let is_wrong = |found: &Found| found.source.as_deref() == source;
            record.positive = record.positive.take().and_then(|kept| kept.without(is_wrong));
        }
    }

    /// The name is the site's own: what others said, however old, is about another place of that name.
    pub(super) fn forget_outside(&self, name: &Name) {
        if let Some(record) = self.shard(name).get_mut(name) {
            let is_outside = |found: &Found| !found.tier.is_inside();
            record.positive = record.positive.take().and_then(|kept| kept.without(is_outside));
        }
    }

    /// Another network: denials, failures and dead addresses of the old one say nothing about this
    /// one, and what its system servers said is to be asked again, and serves meanwhile.
    pub(super) fn move_house(&self, now: Instant) {
        for shard in &self.shards {
            for (_, record) in lock(shard).iter_mut() {
                let positive = record.positive.take().map(|kept| match kept.found.tier {
                    Tier::System => Kept { until: kept.until.min(now), ..kept },
                    _ => kept,
                });
                *record = Record { positive, ..Record::default() };
            }
        }
    }

    /// All names that there is anything about.
    pub(super) fn names(&self) -> Vec<Name> {
        self.shards
            .iter()
            .flat_map(|shard| lock(shard).iter().map(|(name, _)| name.clone()).collect::<Vec<_>>())
            .collect()
    }

    /// An address did not answer, or answered as somebody else: it is dialled last for a while.
    pub(super) fn punish(&self, name: &Name, address: IpAddr, now: Instant) {
        let mut names = self.shard(name);
        let record = names.get_or_insert_mut(name.clone(), Record::default);
        let step = record.penalty(address).map_or(0, |penalty| penalty.step);
        let time = (FIRST_PENALTY * 2u32.saturating_pow(step.min(8))).min(LAST_PENALTY);
        record.penalties.retain(|(punished, _)| *punished != address);
        record.penalties.truncate(MOST_PENALTIES - 1);
        record.penalties.push((address, Penalty { until: now + time, step: step + 1 }));
    }

    pub(super) fn pardon(&self, name: &Name, address: IpAddr) {
        if let Some(record) = self.shard(name).peek_mut(name) {
            record.penalties.retain(|(punished, _)| *punished != address);
        }
    }

    /// Puts addresses that are being punished last; the order is otherwise kept.
    pub(super) fn order(&self, name: &Name, addresses: &mut [IpAddr], now: Instant) {
        if let Some(record) = self.shard(name).peek(name) {
            record.put_in_order(addresses, now);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(&self, name: &Name) -> MutexGuard<'_, LruCache<Name, Record>> {
        // The upper bits: the lower ones choose the place within the shard's own table.
        let hash = self.hasher.hash_one(name) >> 32;
        lock(&self.shards[hash as usize % SHARDS])
    }
}

fn lock(shard: &Mutex<LruCache<Name, Record>>) -> MutexGuard<'_, LruCache<Name, Record>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Record {
    fn fresh(&self, now: Instant) -> Option<Found> {
        let kept = self.positive.as_ref().filter(|kept| now < kept.until)?;
        Some(Found { freshness: Freshness::Cached, ttl: kept.until - now, ..kept.found.clone() })
    }

    /// Counts one who asks.
    fn is_to_renew(&mut self, now: Instant, may_ask: impl Fn() -> bool) -> bool {
        let Some(kept) = &mut self.positive else { return false };
        kept.asked = kept.asked.saturating_add(1);
        let window = (kept.life / 10).max(RENEW_WITHIN).min(kept.life / 2);
        let is_time = !kept.renewing && kept.asked >= ASKED_OFTEN && now + window >= kept.until && may_ask();
        kept.renewing |= is_time;
        is_time
    }

    fn penalty(&self, address: IpAddr) -> Option<&Penalty> {
        self.penalties.iter().find(|(punished, _)| *punished == address).map(|(_, penalty)| penalty)
    }

    fn put_in_order(&self, addresses: &mut [IpAddr], now: Instant) {
        if !self.penalties.is_empty() {
            addresses.sort_by_key(|address| self.penalty(*address).is_some_and(|penalty| now < penalty.until));
        }
    }
}

impl Kept {
    fn without(mut self, is_wrong: impl Fn(&Found) -> bool) -> Option<Kept> {
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
        Found {
            addresses,
            tier: Tier::System,
            source: None,
            freshness: Freshness::Fresh,
            ttl,
            unheard: None,
            doubtful: false,
        }
    }

    fn absent(name: &Name) -> Failure {
        Failure::Absent { name: name.clone(), confirmed: true, last_word: true, exists: false, by: Vec::new() }
    }

    #[test]
    fn an_answer_is_fresh_then_stale_then_gone() {
        let (memory, name, now) = (Memory::default(), name("goproxy.cn"), Instant::now());
        memory.note_found(&name, &found(S), now);
        assert!(
            matches!(memory.recall(&name, now + 4 * S, || true), Recall::Fresh { found, .. } if found.ttl == S),
            "at least 5 s"
        );
        assert!(matches!(memory.recall(&name, now + 5 * S, || true), Recall::Nothing));
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
        assert!(
            matches!(memory.recall(&name, now, || true), Recall::Fresh { found, .. } if found.addresses == first.addresses)
        );
        let third = by("8.8.4.4", "1.1.1.9");
        memory.note_beside(&name, &first, vec![third.clone(), second.clone()]);
        memory.forget_word(&name, third.source.as_deref());
        assert_eq!(told(), [first.source.clone(), second.source.clone()]);
        memory.forget_word(&name, first.source.as_deref());
        assert_eq!(told(), std::slice::from_ref(&second.source));
        memory.forget_word(&name, second.source.as_deref());
        assert!(told().is_empty() && matches!(memory.recall(&name, now, || true), Recall::Nothing));
    }

    #[test]
    fn what_others_said_about_a_name_of_the_sites_own_is_forgotten_however_old() {
        let (memory, name, now) = (Memory::default(), name("mirror.acme.example"), Instant::now());
        let outside = Found { tier: Tier::Plain, ..found(S) };
        memory.note_found(&name, &outside, now);
        memory.forget_outside(&name);
        assert!(memory.stale(&name, now + 6 * S).is_none());
        memory.note_found(&name, &found(60 * S), now);
        memory.note_beside(&name, &found(60 * S), vec![outside.clone()]);
        memory.forget_outside(&name);
        assert_eq!(memory.told(&name, now).len(), 1, "what the site's server said stays");
        memory.note_found(&name, &outside, now);
        memory.note_beside(&name, &outside, vec![found(60 * S)]);
        memory.forget_outside(&name);
        assert_eq!(memory.fresh(&name, now).map(|found| found.tier), Some(Tier::System));
    }

    #[test]
    fn a_denial_lies_beside_the_older_answer() {
        let (memory, name, now) = (Memory::default(), name("goproxy.cn"), Instant::now());
        memory.note_found(&name, &found(S), now);
        memory.note_denial(&name, absent(&name), Some(600 * S), true, now + 6 * S);
        assert!(matches!(memory.recall(&name, now + 60 * S, || true), Recall::Denied(_)));
        assert!(memory.stale(&name, now + 60 * S).is_some());
        assert!(matches!(memory.recall(&name, now + 67 * S, || true), Recall::Nothing), "a minute at most");
    }

    #[test]
    fn failures_are_rechecked_ever_more_rarely() {
        let (memory, name, mut now) = (Memory::default(), name("goproxy.cn"), Instant::now());
        for pause in FAILURES {
            let failure = Failure::Unknown { name: name.clone(), tally: Tally::default() };
            memory.note_trouble(&name, Some(failure), false, now);
            let due = |now| matches!(memory.recall(&name, now, || true), Recall::Troubled { due: true, .. });
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

    /// Whether each of these asks, in seconds of the answer's life, is told to renew it.
    fn renewals(ttl: Duration, asks: &[u32]) -> Vec<bool> {
        let (memory, name, now) = (Memory::default(), name("goproxy.cn"), Instant::now());
        memory.note_found(&name, &found(ttl), now);
        let is_told = |second: &u32| {
            matches!(memory.recall(&name, now + S * *second, || true), Recall::Fresh { renew: true, .. })
        };
        asks.iter().map(is_told).collect()
    }

    #[test]
    fn an_answer_that_many_ask_for_is_renewed_once_before_it_ends() {
        assert_eq!(renewals(100 * S, &[1, 2, 89, 90, 91]), [false, false, false, true, false], "the last tenth");
        assert_eq!(renewals(20 * S, &[1, 14, 15]), [false, false, true], "or five seconds");
        assert_eq!(renewals(5 * S, &[0, 1, 2, 3]), [false, false, false, true], "never in the first half");
        assert_eq!(renewals(100 * S, &[99]), [false], "one alone is not many");
    }

    #[test]
    fn another_network_leaves_of_the_systems_answers_only_a_stale_one() {
        let (memory, now) = (Memory::default(), Instant::now());
        let [inside, outside, denied] = ["a.example", "b.example", "c.example"].map(name);
        memory.note_found(&inside, &found(60 * S), now);
        memory.note_found(&outside, &Found { tier: Tier::Plain, ..found(60 * S) }, now);
        memory.note_denial(&denied, absent(&denied), None, true, now);
        memory.punish(&outside, "1.1.1.9".parse().unwrap(), now);
        memory.move_house(now + S);
        assert!(matches!(memory.recall(&inside, now + S, || true), Recall::Nothing));
        assert!(memory.stale(&inside, now + S).is_some());
        assert!(memory.fresh(&outside, now + S).is_some());
        assert!(matches!(memory.recall(&denied, now + S, || true), Recall::Nothing));
        let record = memory.shard(&outside).pop(&outside).unwrap();
        assert!(record.penalties.is_empty());
    }

    #[test]
    fn a_hundred_thousand_names_stay_within_bounds() {
        let (memory, now) = (Memory::default(), Instant::now());
        for number in 0..100_000 {
            let name = name(&format!("m{number}.example"));
            memory.note_found(&name, &found(S), now);
            for last in 0..=255 {
                memory.punish(&name, [192, 0, 2, last].into(), now);
                if number > 0 {
                    break;
                }
            }
        }
        assert_eq!(memory.len(), MOST_NAMES);
        let most =
            memory.shards.iter().flat_map(|shard| lock(shard).iter().map(|(_, record)| record.penalties.len()).max());
        assert!(most.max().unwrap() <= MOST_PENALTIES);
    }
}
