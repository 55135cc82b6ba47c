//! One look-up, however many ask: a ladder driven on the shared runtime, its result remembered and
//! handed to all who wait.
//!
//! Everything that the ladder must not do is done here: questions are sent, health is noted,
//! memory and metrics are fed. A flight goes on a second past its verdict, so that a server that
//! said nothing is known to have said nothing; those who wait have left by then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::Instant;

use super::counts::Rescue;
use super::kind::{self, Kind};
use super::ladder::{Action, Answer, Ask, Candidate, Ladder, Plan, Verdict};
use super::plan::{Start, take_turns};
use super::reply::{Outcome, Question, Reply};
use super::server::Server;
use super::shared::{Shared, wall};
use super::{Failure, Found, Freshness, Source, Tier};
use crate::target::Name;

/// How long a flight listens past its verdict; who is silent until then was silent.
const LINGER: Duration = Duration::from_secs(1);
/// The same when a person wants to see what everybody says.
const LONG_LINGER: Duration = Duration::from_millis(2500);

/// The flights under way.
pub(super) type Flights = Mutex<HashMap<(Name, Start), watch::Receiver<Progress>>>;

/// What those who wait can see of a flight.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// An older answer, for those who would rather not wait.
    interim: Option<Found>,
    last: Option<Result<Found, Failure>>,
}

/// What somebody who asks gets: an answer that landed a moment ago, or a flight to wait for.
pub(super) enum Joined {
    Landed(Found),
    Flying(watch::Receiver<Progress>),
}

impl Shared {
    /// Joins the flight that is under way, or starts one.
    pub(super) fn join(self: &Arc<Self>, name: &Name, start: Start) -> Joined {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.clone(), start);
        if let Some(progress) = flights.get(&key) {
            return Joined::Flying(progress.clone());
        }
        // One may have landed since we looked: it left its answer before it left the map.
        if start == Start::Bottom
            && let Some(found) = self.memory.fresh(name, Instant::now())
        {
            return Joined::Landed(found);
        }
        Joined::Flying(self.take_off(&mut flights, key))
    }

    /// Looks a name up again whose answer is still fresh. Nobody waits for it.
    pub(super) fn renew(self: &Arc<Self>, name: &Name) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.clone(), Start::Bottom);
        if !flights.contains_key(&key) {
            self.take_off(&mut flights, key);
        }
    }

    fn take_off(
        self: &Arc<Self>,
        flights: &mut HashMap<(Name, Start), watch::Receiver<Progress>>,
        key: (Name, Start),
    ) -> watch::Receiver<Progress> {
        let (sender, progress) = watch::channel(Progress::default());
        flights.insert(key.clone(), progress.clone());
        let (name, start) = key;
        let flight = Flight { shared: Arc::clone(self), name, start, sender };
        self.runtime.spawn(flight.run());
        progress
    }

    pub(super) fn is_flying(&self, name: &Name) -> bool {
        let flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.contains_key(&(name.clone(), Start::Bottom))
    }

    /// Drives a ladder to its end. `hand_on` is called with each verdict.
    pub(super) async fn drive(
        self: &Arc<Self>,
        name: &Name,
        plan: Plan,
        mut hand_on: impl FnMut(&Verdict, &Ladder),
    ) -> Ladder {
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
                // Nobody is asked about a name that an answer has just shown to be the site's own.
                let is_given_away = ladder.plan().kind != Kind::Private && self.kind(name) == Kind::Private;
                let is_inward = matches!(ladder.verdict(), Some(Verdict::Found(answer)) if answer.inward);
                if ladder.plan().exhaustive && (is_inward || !is_given_away) {
                    ladder.ask_the_rest(now);
                    continue;
                }
            }
            if end.is_some_and(|end| open.is_empty() || now >= end) {
                break;
            }
            let wake = [ladder.deadline(now), end].into_iter().flatten().min().unwrap_or(now + LINGER);
            tokio::select! {
                Some((ask, reply)) = open.next() => self.take_reply(name, &mut ladder, ask, reply),
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

    fn take_reply(self: &Arc<Self>, name: &Name, ladder: &mut Ladder, ask: Ask, reply: Reply) {
        let now = Instant::now();
        let candidate = &ladder.plan().candidates[ask.candidate];
        let elapsed = now - ladder.attempts()[ask.attempt].asked_at;
        self.health.observe(&candidate.server, ask.transport, reply.outcome, elapsed, now);
        if ask.edns && matches!(reply.outcome, Outcome::Formerr | Outcome::Notimp) {
            self.health.note_edns_trouble(&candidate.server, now);
        }
        let tier = candidate.tier;
        if tier == Tier::System {
            self.note_inward(name, &reply.addresses);
        }
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
        if shared.memory.fresh(name, Instant::now()).is_some() {
            // It was to be renewed before its time, and nobody had to be served.
            return Ok(spare);
        }
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

/// Waits for a flight: for its last word, or where any age will do, for an older answer too.
pub(super) async fn wait(
    mut progress: watch::Receiver<Progress>,
    name: &Name,
    any_age: bool,
) -> Result<Found, Failure> {
    let done = |progress: &Progress| progress.last.is_some() || any_age && progress.interim.is_some();
    let unknown = || Failure::Unknown { name: name.clone(), tally: Default::default() };
    let Ok(progress) = progress.wait_for(done).await else { return Err(unknown()) };
    let interim = || progress.interim.clone().map(Ok);
    progress.last.clone().or_else(interim).unwrap_or_else(|| Err(unknown()))
}
