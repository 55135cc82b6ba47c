//! Questions that are not for addresses, passed on: MX, TXT, SRV, HTTPS and whatever else a client of the
//! name server asks.
//!
//! The servers are those of the name's plan, wave by wave as for addresses, and private names stay
//! inside; but there is nothing that TLS could judge and nothing that outlives its TTL. An answer
//! counts as it comes; that there is no such record is believed of whoever says it, since most names
//! have none. That there is no such *name* is not: the ladder knows better, and is asked.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_proto::op::Query;
use hickory_proto::rr::Record;
use lru::LruCache;
use tokio::time::Instant;

use super::kind::Kind;
use super::ladder::{Candidate, HEDGE, PATIENCE, Plan, QUERY_CAP, TCP_AFTER};
use super::plan::Start;
use super::reply::{Outcome, Question, Reply};
use super::server::Transport;
use super::shared::Shared;
use super::{Failure, Tally, Tier};
use crate::target::Name;

/// Answers that are remembered, and for how long.
const MOST_ANSWERS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
const LEAST_TTL: Duration = Duration::from_secs(5);
const MOST_TTL: Duration = Duration::from_secs(60 * 60);
const DENIAL_TTL: Duration = Duration::from_secs(60);

/// What came of a question that was passed on.
#[derive(Clone, Debug, PartialEq)]
pub struct Relayed {
    /// The records of the question's CNAME chain; none where the name is there and such records are not.
    pub records: Vec<Record>,
}

/// Answers of the last hour.
pub(super) struct Answers {
    // Held for one look; keyed by the question in lower case, and by whom it was put to: a name that turned
    // out to be the site's own is asked for anew.
    kept: Mutex<LruCache<(Query, Kind), (Relayed, Instant)>>,
}

impl Default for Answers {
    fn default() -> Answers {
        Answers { kept: Mutex::new(LruCache::new(MOST_ANSWERS)) }
    }
}

impl Answers {
    /// The answer with what is left of its life.
    fn recall(&self, key: &(Query, Kind), now: Instant) -> Option<Relayed> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (relayed, until) = kept.get(key)?;
        let left = until.checked_duration_since(now)?.as_secs() as u32;
        let mut relayed = relayed.clone();
        relayed.records.iter_mut().for_each(|record| record.ttl = record.ttl.min(left.max(1)));
        Some(relayed)
    }

    /// Other rules or another network: what was heard may be another place's word.
    pub(super) fn forget(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn keep(&self, key: (Query, Kind), relayed: &Relayed, ttl: Duration, now: Instant) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.put(key, (relayed.clone(), now + ttl.clamp(LEAST_TTL, MOST_TTL)));
    }
}

impl Shared {
    pub(super) async fn relay(self: &Arc<Self>, name: &Name, asked: &Query) -> Result<Relayed, Failure> {
        let mut query = asked.clone();
        query.name = query.name.to_lowercase();
        let now = Instant::now();
        self.look_around(now);
        let key = (query, self.kind(name));
        if let Some(relayed) = self.answers.recall(&key, now) {
            return Ok(relayed);
        }
        let plan = self.plan(name, key.1, Start::Bottom, now);
        let reply =
            self.pass_on(&key.0, &plan).await.map_err(|tally| Failure::Unknown { name: name.clone(), tally })?;
        if reply.outcome == Outcome::Nxdomain {
            match self.look_up_exactly(name).await {
                Ok(_) | Err(Failure::Absent { exists: true, .. }) => {}
                Err(failure) => return Err(failure),
            }
        }
        let ttl = reply.ttl.unwrap_or(DENIAL_TTL);
        let ttl = if reply.outcome == Outcome::Answer { ttl } else { ttl.min(DENIAL_TTL) };
        let relayed = Relayed { records: reply.records };
        self.answers.keep(key, &relayed, ttl, Instant::now());
        Ok(relayed)
    }

    /// Asks the plan's servers until one has something to say.
    async fn pass_on(&self, query: &Query, plan: &Plan) -> Result<Reply, Tally> {
        let started = Instant::now();
        let mut open = FuturesUnordered::new();
        let mut waves = plan.candidates.chunk_by(|one, next| one.wave == next.wave).peekable();
        let (mut tally, mut next_at) = (Tally::default(), started);
        let mut inside_open = 0usize;
        loop {
            let is_outside = |wave: &[Candidate]| wave.iter().any(|candidate| candidate.tier != Tier::System);
            let may_go = |wave: &[Candidate], now: Instant, inside_open: usize| {
                !is_outside(wave) || plan.kind.is_known() || inside_open == 0 || now >= started + PATIENCE
            };
            let now = Instant::now();
            let due = |wave: &&[Candidate]| (now >= next_at || open.is_empty()) && may_go(wave, now, inside_open);
            if let Some(wave) = waves.next_if(due) {
                for candidate in wave.iter().filter(|candidate| !candidate.trial) {
                    inside_open += usize::from(candidate.tier == Tier::System);
                    open.push(self.question(query, candidate));
                }
                next_at = now + if now == started { plan.hedge } else { HEDGE };
                continue;
            }
            if open.is_empty() || now >= started + QUERY_CAP {
                return Err(tally);
            }
            let wake = match waves.peek() {
                Some(wave) if may_go(wave, now, inside_open) => next_at,
                Some(_) => (started + PATIENCE).max(next_at),
                None => started + QUERY_CAP,
            };
            tokio::select! {
                Some((candidate, reply)) = open.next() => {
                    let candidate: &Candidate = candidate;
                    inside_open -= usize::from(candidate.tier == Tier::System);
                    match reply.outcome {
                        Outcome::Answer | Outcome::Nodata | Outcome::Nxdomain => return Ok(reply),
                        outcome => tally.add(outcome),
                    }
                    next_at = Instant::now();
                }
                () = tokio::time::sleep_until(wake.min(started + QUERY_CAP)) => {}
            }
        }
    }

    /// One server's word, over TCP too where UDP does not do.
    async fn question<'a>(&self, query: &Query, candidate: &'a Candidate) -> (&'a Candidate, Reply) {
        let over_tcp = || self.question_over(query, candidate, Transport::Tcp);
        if candidate.transport != Transport::Udp {
            return (candidate, self.question_over(query, candidate, candidate.transport).await);
        }
        let over_udp = self.question_over(query, candidate, Transport::Udp);
        let mut over_udp = std::pin::pin!(over_udp);
        let reply = match tokio::time::timeout(TCP_AFTER, &mut over_udp).await {
            Ok(reply) if matches!(reply.outcome, Outcome::Truncated | Outcome::Forged) => over_tcp().await,
            Ok(reply) => reply,
            Err(_) => tokio::select! {
                reply = over_udp => reply,
                reply = over_tcp() => reply,
            },
        };
        (candidate, reply)
    }

    async fn question_over(&self, query: &Query, candidate: &Candidate, transport: Transport) -> Reply {
        let asked_at = Instant::now();
        let mut edns = candidate.edns;
        loop {
            let question = Question::relayed(query, edns);
            let reply = self.wire.ask(&candidate.server, transport, question, candidate.manner(transport)).await;
            let now = Instant::now();
            self.health.observe(&candidate.server, transport, reply.outcome, now - asked_at, now);
            self.counts.attempt(candidate.tier, transport, reply.outcome);
            if !(edns && matches!(reply.outcome, Outcome::Formerr | Outcome::Notimp)) {
                return reply;
            }
            edns = false;
        }
    }
}
