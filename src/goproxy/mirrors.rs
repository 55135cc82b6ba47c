//! Mirrors in pools: whom to ask, whom next, and how long to wait for whom.
//!
//! One request of a client is a [`Walk`] over a pool. The best mirror is asked first; the next one
//! joins when it faults, or is slow to its first byte; a mirror that faulted is asked again after
//! a jittered pause, up to a few times and within one budget. Whoever gives a 200 first is handed
//! out, and its body is the caller's to judge: a body that breaks off or is wrong sends the walk
//! on. A 404 or 410 stands when nobody who must be heard contradicts it in time.
//!
//! A breaker per mirror remembers faults across requests: an open one is asked last, until a trial
//! finds it well. Built-in second mirrors are asked on faults only, so that names which are not
//! listed are not told to a third party.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::header::{CONTENT_LENGTH, IF_MODIFIED_SINCE, IF_NONE_MATCH, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep_until};

use super::failure::{Complaint, Failure, Said};
use super::policy::{self, Meaning};
use super::store::{Facts, Known, validators_of};
use super::tally::Tally;
use super::verify;
use crate::admit::Standing;
use crate::fetch::{self, Body, Fetcher, Patience};
use crate::target::{Base, Scheme};
use crate::trace::{self, Phase};

/// How long a body may stand still.
pub const STALL: Duration = Duration::from_secs(10);
/// The same for what is small enough to be read in one go: each further try waits that much longer.
const SHORT_STALL: Duration = Duration::from_secs(3);
/// A small answer that still comes after this long, and slower than so many bytes a second, never ends.
const SLOW: Duration = Duration::from_secs(5);
const SLOWEST: f64 = 1024.0;
/// The first try's wait for a first byte; every further try on that mirror waits that much longer,
/// because a mirror that meets a version for the first time has to fetch it itself.
const FIRST_BYTE: Duration = Duration::from_secs(10);
/// All tries of one request: 10 + 20 + 30 s on a silent mirror.
const BUDGET: Duration = Duration::from_secs(60);
/// Faults in a row before a mirror's breaker opens.
const FAULTS: u32 = 3;
const SHORTEST_REST: Duration = Duration::from_secs(5);
const LONGEST_REST: Duration = Duration::from_secs(60);
/// An error's text, of which go prints 648 bytes.
const TEXT: usize = 4 << 10;

/// The seam to the network: one GET, redirects followed.
#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// One request to one mirror, and the head of its answer.
    async fn ask(
        &self,
        standing: Standing,
        base: &Base,
        path: &str,
        headers: &HeaderMap,
        patience: Patience,
    ) -> Result<Response<Body>, fetch::Error>;
}

#[async_trait]
impl Upstream for Fetcher {
    async fn ask(
        &self,
        standing: Standing,
        base: &Base,
        path: &str,
        headers: &HeaderMap,
        patience: Patience,
    ) -> Result<Response<Body>, fetch::Error> {
        self.get(standing, base, path, headers, patience).await
    }
}

/// Whom walks ask by, and where they count.
#[derive(Clone)]
pub struct Asker {
    pub upstream: Arc<dyn Upstream>,
    pub tally: Tally,
    /// Nobody is asked: `--offline`.
    pub is_closed: bool,
}

/// One server of a pool.
#[derive(Debug)]
pub struct Mirror {
    pub base: Base,
    pub standing: Standing,
    // What is known of its health; locked for a look or a note, never across an await.
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    /// Faults since it last did well.
    faults: u32,
    /// How often the breaker opened since then, and when it first did.
    rests: u32,
    since: Option<Instant>,
    /// Asked only when there is nobody else, until then.
    rests_until: Option<Instant>,
    /// That is how long its one trial may take.
    on_trial: bool,
    /// What it last did wrong when it did answer, for whoever wonders later.
    last: Option<String>,
    /// What it last did wrong, whatever that was, for whoever looks now.
    why: Option<String>,
    /// It has done well since the start.
    was_well: bool,
    /// It gave bytes that were not what they should be: asked last from then on.
    lied: bool,
    /// Its 404 means nothing: it may not know at all of what it is asked for.
    is_unproven: bool,
}

/// A mirror's health, for whoever reports it.
#[derive(Clone, Debug)]
pub struct Vital {
    /// It was never heard and never missed.
    pub is_unused: bool,
    pub faults: u32,
    /// How much longer its breaker is open; nothing left where its trial is due.
    pub rests_for: Option<Duration>,
    pub why: Option<String>,
    pub lied: bool,
}

impl Mirror {
    pub(super) fn new(base: Base, standing: Standing) -> Mirror {
        Mirror { base, standing, health: Mutex::default() }
    }

    /// One whose 404 counts only once it has given a 200: not every mirror passes a database on.
    pub fn unproven(base: Base, standing: Standing) -> Mirror {
        let health = Health { is_unproven: true, ..Health::default() };
        Mirror { base, standing, health: Mutex::new(health) }
    }

    /// Whether its 404 counts.
    pub fn is_proven(&self) -> bool {
        self.with(|health| !health.is_unproven)
    }

    /// Its URL as people read it, without the scheme where that is https.
    pub fn name(&self) -> String {
        match self.base.scheme {
            Scheme::Https => format!("{}{}", self.base.authority(), self.base.path),
            Scheme::Http => self.base.to_string(),
        }
    }

    /// Whether its breaker is open.
    pub fn rests(&self) -> bool {
        self.with(|health| health.rests_until.is_some_and(|until| Instant::now() < until))
    }

    /// Whether it has not been well for long.
    fn is_down(&self) -> bool {
        self.with(|health| health.since.is_some_and(|since| since.elapsed() >= policy::DOWN))
    }

    /// Whether its rest is over and it has not been well since.
    fn recovers(&self) -> bool {
        self.with(|health| health.rests_until.is_some_and(|until| until <= Instant::now()))
    }

    /// Takes the one trial that a breaker allows when its rest is over; nobody else gets one before
    /// this one could have failed.
    fn take_trial(&self) {
        self.with(|health| {
            if health.rests_until.is_some_and(|until| until <= Instant::now()) {
                health.rests_until = Some(Instant::now() + FIRST_BYTE);
                health.on_trial = true;
            }
        });
    }

    /// It answered, whatever it said.
    fn note_well(&self) {
        self.with(|health| {
            let Health { lied, is_unproven, .. } = *health;
            *health = Health { lied, is_unproven, was_well: true, ..Health::default() }
        });
    }

    /// It gave what it was asked for.
    fn note_good(&self) {
        self.note_well();
        self.with(|health| health.is_unproven = false);
    }

    /// Silence costs whoever waits for it more than any other fault, so it counts twice.
    fn note_fault(&self, said: &Said) {
        let opened = self.with(|health| {
            if matches!(said, Said::Status(..) | Said::Wrong(_)) {
                health.last = Some(said.to_string());
            }
            health.why = Some(said.to_string());
            health.faults += if matches!(said, Said::Silent(_)) { 2 } else { 1 };
            let is_resting = health.rests_until.is_some_and(|until| Instant::now() < until) && !health.on_trial;
            if is_resting || health.faults < FAULTS && health.rests_until.is_none() {
                return false;
            }
            health.on_trial = false;
            health.since.get_or_insert_with(Instant::now);
            let rest = SHORTEST_REST.saturating_mul(1 << health.rests.min(8)).min(LONGEST_REST);
            // Between three quarters and the whole, so that many mirrors do not come back together.
            health.rests_until = Some(Instant::now() + rest.mul_f64(0.75 + fastrand::f64() / 4.0));
            health.rests += 1;
            health.rests == 1
        });
        if opened {
            tracing::info!(mirror = %self.name(), "mirror faulted {FAULTS} times in a row; asked last until it is well");
        }
    }

    /// It gave what cannot be right: asked last from then on.
    pub fn note_lie(&self) {
        self.with(|health| health.lied = true);
    }

    /// That nobody is there, and what it said while somebody was.
    fn recall(&self, said: Said) -> Said {
        match (said, self.with(|health| health.last.clone())) {
            (Said::Unreachable(now), Some(before)) => Said::Unreachable(format!("{now}; before that: {before}")),
            (said, _) => said,
        }
    }

    /// How it is.
    pub fn vital(&self) -> Vital {
        self.with(|health| Vital {
            is_unused: !health.was_well && health.faults == 0,
            faults: health.faults,
            rests_for: health.rests_until.map(|until| until.saturating_duration_since(Instant::now())),
            why: health.why.clone(),
            lied: health.lied,
        })
    }

    fn lied(&self) -> bool {
        self.with(|health| health.lied)
    }

    fn with<T>(&self, look: impl FnOnce(&mut Health) -> T) -> T {
        look(&mut self.health.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whom else one may ask, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// All were named by the operator: a 404 is put to the others as well.
    Named,
    /// Those after the first are asked on faults only; a 404 stands as it is.
    OnFault,
}

/// Mirrors of which any may answer.
#[derive(Clone, Debug)]
pub struct Pool {
    pub mirrors: Vec<Arc<Mirror>>,
    pub manner: Manner,
    /// How long a first byte may take before the next mirror joins.
    pub hedge: Duration,
}

impl Pool {
    /// Whether every mirror's breaker is open, so that waiting for one is no use.
    pub fn is_dark(&self) -> bool {
        self.mirrors.iter().all(|mirror| mirror.rests())
    }

    /// Whether every mirror's breaker was open and none has been well since.
    pub fn is_unwell(&self) -> bool {
        self.mirrors.iter().all(|mirror| mirror.rests() || mirror.recovers())
    }
}

/// A 200: whose, and its head and body.
pub struct Found {
    seat: usize,
    pub response: Response<Body>,
}

/// Why a walk ended without an answer.
#[derive(Debug)]
pub struct Trouble {
    pub complaints: Vec<Complaint>,
    /// A 404 or 410 that stands.
    pub absent: Option<(StatusCode, String)>,
}

impl Trouble {
    /// The failure of `what`.
    pub fn of(self, what: impl std::fmt::Display) -> Failure {
        match self.absent {
            Some((status, text)) => Failure::absent(what, status, text, self.complaints),
            None => Failure::asked(what, self.complaints),
        }
    }
}

/// A small answer, whole and right.
#[derive(Debug)]
pub struct Small {
    pub bytes: Bytes,
    pub mirror: Arc<Mirror>,
    /// What the mirror wants to compare the next time, as facts.
    pub validators: Facts,
    /// These are the bytes that are held already.
    pub is_same: bool,
}

/// One request on its way through a pool.
pub struct Walk {
    asker: Asker,
    path: String,
    headers: HeaderMap,
    manner: Manner,
    hedge: Duration,
    /// What is held already: whoever gave it is asked whether it has changed.
    known: Option<Known>,
    /// What is asked for is small: it has no reason to stand still.
    is_small: bool,
    deadline: Instant,
    seats: Vec<Seat>,
    flights: FuturesUnordered<BoxFuture<'static, (usize, Answer)>>,
    /// When anybody was last asked.
    launched: Instant,
    /// The first 404 or 410, and when the others must have contradicted it.
    absent: Option<Absent>,
    /// The one that a 200 has contradicted, until that proves to be no answer.
    contradicted: Option<Absent>,
}

type Absent = (StatusCode, String, Instant);

/// A mirror's place in one walk.
struct Seat {
    mirror: Arc<Mirror>,
    tries: u32,
    /// How often it is asked at most: less often where it is known to be down.
    most: u32,
    wrong: u32,
    ready: Instant,
    since: Option<Instant>,
    /// It has said all that it will say.
    done: bool,
    said: Option<Said>,
}

enum Answer {
    Head(Response<Body>),
    Status { status: StatusCode, text: String, retry_after: Option<Duration> },
    Failed(fetch::Error),
}

impl Walk {
    pub(super) fn new(asker: &Asker, pool: &Pool, path: String) -> Walk {
        let now = Instant::now();
        let seat = |mirror: &Arc<Mirror>| Seat {
            mirror: Arc::clone(mirror),
            tries: 0,
            most: if mirror.is_down() { policy::TRIES_AT_REST } else { policy::TRIES },
            wrong: 0,
            ready: now,
            since: None,
            done: false,
            said: None,
        };
        Walk {
            asker: asker.clone(),
            path,
            headers: HeaderMap::new(),
            known: None,
            manner: pool.manner,
            hedge: pool.hedge,
            is_small: false,
            deadline: now + BUDGET,
            seats: pool.mirrors.iter().map(seat).collect(),
            flights: FuturesUnordered::new(),
            launched: now,
            absent: None,
            contradicted: None,
        }
    }

    /// A walk for something small.
    pub fn for_small(mut self) -> Walk {
        self.is_small = true;
        self
    }

    /// A walk for something of which a form is held; a 304 is then as good as a 200.
    pub fn knowing(mut self, known: Option<Known>) -> Walk {
        self.known = known;
        self
    }

    /// The next 200 that a mirror gives, or why there will be none.
    pub async fn next(&mut self) -> Result<Found, Trouble> {
        if self.asker.is_closed {
            let unasked = |seat: &Seat| Complaint { upstream: seat.mirror.name(), said: Said::Closed };
            return Err(Trouble { complaints: self.seats.iter().map(unasked).collect(), absent: None });
        }
        loop {
            self.launch_due();
            if self.is_over() {
                return Err(self.conclude());
            }
            let wake = self.wake();
            tokio::select! {
                Some((seat, answer)) = self.flights.next(), if !self.flights.is_empty() => {
                    if let Some(response) = self.hear(seat, answer) {
                        self.land(seat);
                        return Ok(Found { seat, response });
                    }
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    /// A whole small answer that `judge` finds right. One that is wrong everywhere comes back too, in
    /// the error's place, for the go command has its own words about it.
    pub async fn small(
        self,
        limit: usize,
        judge: impl Fn(&Bytes) -> Result<(), String>,
    ) -> Result<Small, (Trouble, Option<Bytes>)> {
        let (mut walk, mut odd) = (self.for_small(), None);
        loop {
            let found = match walk.next().await {
                Ok(found) => found,
                Err(trouble) => return Err((trouble, odd)),
            };
            let seat = found.seat;
            if let Some(known) = walk.known.clone().filter(|_| found.response.status() == StatusCode::NOT_MODIFIED) {
                let mirror = walk.praise(seat);
                let validators = known.validators(&mirror.base);
                return Ok(Small { bytes: known.bytes, mirror, validators, is_same: true });
            }
            let validators = validators_of(&walk.seats[seat].mirror.base, found.response.headers());
            let bytes = match read_all(found.response, limit).await {
                Ok(bytes) => bytes,
                Err(said) => {
                    walk.complain(seat, said);
                    continue;
                }
            };
            match judge(&bytes) {
                Ok(()) => return Ok(Small { bytes, mirror: walk.praise(seat), validators, is_same: false }),
                Err(why) => {
                    walk.complain(seat, Said::Wrong(why));
                    // A portal's page is no mirror's word; who gave it is worth more to whoever asked.
                    odd = if verify::is_page(&bytes) { odd } else { Some(bytes) };
                }
            }
        }
    }

    /// Says that what was found was good to the end.
    pub fn praise_found(&self, found: &Seated) {
        self.praise(found.0);
    }

    /// Says that what was found was not.
    pub fn complain_of(&mut self, found: &Seated, said: Said) {
        self.complain(found.0, said);
        // A long body may have used the budget up; the next try gets one of its own, the tries are counted.
        self.deadline = self.deadline.max(Instant::now() + BUDGET / 2);
    }

    /// Says that what was found is of no use here, which is no fault of whoever gave it.
    pub fn set_aside(&mut self, found: &Seated, said: Said) {
        let seat = &mut self.seats[found.0];
        (seat.done, seat.said) = (true, Some(said));
    }

    /// The mirror that gave it.
    pub fn mirror(&self, found: &Seated) -> Arc<Mirror> {
        Arc::clone(&self.seats[found.0].mirror)
    }

    fn praise(&self, seat: usize) -> Arc<Mirror> {
        let faults: Vec<String> = self.seats.iter().filter_map(Seat::complaint).collect();
        if !faults.is_empty() {
            let by = self.seats[seat].mirror.name();
            // The record of the request tells it, where there is one.
            if !trace::current().is_some_and(|trace| trace.mend(&faults.join("; "))) {
                tracing::info!(path = %self.path, %by, "rescued: {}", faults.join("; "));
            }
            self.asker.tally.rescue(&self.path, &by, &faults);
        }
        self.seats[seat].mirror.note_good();
        Arc::clone(&self.seats[seat].mirror)
    }

    fn complain(&mut self, index: usize, said: Said) {
        self.asker.tally.fault(&said);
        if let Some(contradicted) = self.contradicted.take()
            && matches!(said, Said::Wrong(_))
        {
            // A portal says 200 to everything. One that broke off does have the file.
            self.absent = Some(contradicted);
        }
        let seat = &mut self.seats[index];
        tracing::debug!(mirror = %seat.mirror.name(), path = %self.path, %said, "mirror complained of");
        if matches!(said, Said::Silent(_)) {
            seat.most = seat.most.min(policy::SILENT_TRIES);
        }
        if matches!(said, Said::Wrong(_)) {
            seat.wrong += 1;
            seat.done |= seat.wrong >= policy::WRONG_TRIES;
        }
        seat.mirror.note_fault(&said);
        seat.said = Some(said);
        seat.done |= seat.tries >= seat.most;
        seat.ready = Instant::now() + policy::pause(seat.tries);
    }

    /// Asks whoever is to be asked now.
    fn launch_due(&mut self) {
        let now = Instant::now();
        if self.absent.is_some() {
            // Everyone who may contradict is asked at once.
            while let Some(seat) = self.best(now, |seat| seat.may_contradict()) {
                self.launch(seat);
            }
            return;
        }
        let slow = now >= self.launched + self.hedge;
        if (self.flights.is_empty() || slow)
            && let Some(seat) = self.best(now, |_| true)
        {
            let is_trial = self.seats[seat].mirror.recovers();
            self.launch(seat);
            // Nobody waits for a trial: somebody who is well is asked at the same time.
            if is_trial && let Some(other) = self.best(now, |seat| !seat.mirror.rests()) {
                self.launch(other);
            }
        }
    }

    /// The seat to ask next among those that are ready: few tries, no open breaker, never lied, first named.
    fn best(&self, now: Instant, may: impl Fn(&Seat) -> bool) -> Option<usize> {
        let free = |seat: &Seat| !seat.done && seat.since.is_none() && seat.ready <= now && may(seat);
        let rank = |seat: &Seat| seat.tries + 2 * u32::from(seat.mirror.rests()) + u32::from(seat.mirror.lied());
        (0..self.seats.len()).filter(|&at| free(&self.seats[at])).min_by_key(|&at| (rank(&self.seats[at]), at))
    }

    fn launch(&mut self, index: usize) {
        let now = Instant::now();
        let seat = &mut self.seats[index];
        seat.tries += 1;
        seat.since = Some(now);
        seat.mirror.take_trial();
        self.launched = now;
        let first_byte = (FIRST_BYTE * seat.tries).min(self.deadline - now);
        let stall = if self.is_small { (SHORT_STALL * seat.tries).min(STALL) } else { STALL };
        let patience = Patience { first_byte, stall };
        let (upstream, mirror) = (Arc::clone(&self.asker.upstream), Arc::clone(&seat.mirror));
        let path = self.path.clone();
        let mut headers = self.headers.clone();
        headers.extend(self.known.iter().flat_map(|known| known.conditions(&mirror.base)));
        self.flights
            .push(Box::pin(async move { (index, ask_once(&*upstream, &mirror, &path, &headers, patience).await) }));
    }

    /// Takes in one answer; a 200 comes back.
    fn hear(&mut self, index: usize, answer: Answer) -> Option<Response<Body>> {
        self.seats[index].since = None;
        match answer {
            Answer::Head(response) => {
                self.contradicted = self.absent.take();
                return Some(response);
            }
            Answer::Failed(why) => self.complain(index, read_error(why)),
            Answer::Status { status, text, retry_after } => self.hear_status(index, status, text, retry_after),
        }
        None
    }

    fn hear_status(&mut self, index: usize, status: StatusCode, text: String, retry_after: Option<Duration>) {
        let said = Said::Status(status, text.clone());
        if policy::read_status(status) == Meaning::Fault {
            self.complain(index, said);
            let seat = &mut self.seats[index];
            if let Some(wish) = retry_after {
                seat.done |= !policy::heeds(wish);
                seat.ready = seat.ready.max(Instant::now() + wish);
            }
            return;
        }
        let seat = &mut self.seats[index];
        seat.mirror.note_well();
        seat.done = true;
        seat.said = Some(said);
        let counts = seat.mirror.is_proven();
        if policy::read_status(status) == Meaning::Absent && counts && self.absent.is_none() {
            self.absent = Some((status, text, Instant::now() + policy::CONTRADICT));
        }
    }

    /// Ends what is still under way. Who was asked long enough ago for another to join was too slow.
    fn land(&mut self, winner: usize) {
        let now = Instant::now();
        for (index, seat) in self.seats.iter_mut().enumerate() {
            if let Some(since) = seat.since.take()
                && index != winner
                && now >= since + self.hedge
            {
                let said = Said::Silent(format!("no answer within {:?}", now - since));
                self.asker.tally.fault(&said);
                seat.mirror.note_fault(&said);
                seat.said = Some(said);
            }
        }
        self.flights.clear();
    }

    fn is_over(&self) -> bool {
        let now = Instant::now();
        if now >= self.deadline {
            return true;
        }
        if !self.flights.is_empty() {
            return self.absent.as_ref().is_some_and(|(_, _, until)| self.manner == Manner::OnFault || now >= *until);
        }
        match &self.absent {
            Some((_, _, until)) => {
                self.manner == Manner::OnFault || now >= *until || !self.seats.iter().any(Seat::may_contradict)
            }
            None => self.seats.iter().all(|seat| seat.done),
        }
    }

    /// When there is something to do although nobody answered.
    fn wake(&self) -> Instant {
        let mut wake = self.deadline;
        if let Some((_, _, until)) = &self.absent {
            wake = wake.min(*until);
        }
        let waiting = self.seats.iter().filter(|seat| !seat.done && seat.since.is_none());
        let waiting = waiting.filter(|seat| self.absent.is_none() || seat.may_contradict());
        let ready = waiting.map(|seat| seat.ready).min();
        match ready {
            Some(ready) if self.flights.is_empty() || self.absent.is_some() => wake.min(ready.max(Instant::now())),
            Some(ready) => wake.min(ready.max(self.launched + self.hedge)),
            None => wake,
        }
    }

    fn conclude(&mut self) -> Trouble {
        self.flights.clear();
        let now = Instant::now();
        let complaint = |seat: &mut Seat| {
            if let Some(since) = seat.since.take() {
                let silent = Said::Silent(format!("no answer within {:?}", now - since));
                if now >= since + self.hedge {
                    seat.mirror.note_fault(&silent);
                }
                seat.said.get_or_insert(silent);
            }
            Some(Complaint { upstream: seat.mirror.name(), said: seat.mirror.recall(seat.said.clone()?) })
        };
        let complaints = self.seats.iter_mut().filter_map(complaint).collect();
        Trouble { complaints, absent: self.absent.take().map(|(status, text, _)| (status, text)) }
    }
}

/// A walk that nobody waits for any more has still learnt who was silent for long.
impl Drop for Walk {
    fn drop(&mut self) {
        let now = Instant::now();
        for seat in &mut self.seats {
            if let Some(since) = seat.since.take().filter(|since| now >= *since + self.hedge) {
                seat.mirror.note_fault(&Said::Silent(format!("no answer within {:?}", now - since)));
            }
        }
    }
}

impl Seat {
    fn complaint(&self) -> Option<String> {
        self.said.as_ref().map(|said| format!("{}: {said}", self.mirror.name()))
    }

    /// Whether a 404 waits for this one: not said its last word, not known to be down, not faulted twice.
    fn may_contradict(&self) -> bool {
        !self.done && self.tries < 2 && !self.mirror.rests()
    }
}

/// Which seat of a walk something came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seated(usize);

impl Found {
    pub(super) fn seated(&self) -> Seated {
        Seated(self.seat)
    }

    /// The length that its head promises.
    pub fn length(&self) -> Option<u64> {
        promised_length(&self.response)
    }
}

fn promised_length(response: &Response<Body>) -> Option<u64> {
    response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a body whole, if it is no longer than `limit`.
pub async fn read_all(response: Response<Body>, limit: usize) -> Result<Bytes, Said> {
    let promised = promised_length(&response);
    let running = trace::start(Phase::Body, String::new);
    let outcome = read_pieces(response, promised, limit).await;
    running.end(&outcome);
    outcome
}

async fn read_pieces(response: Response<Body>, promised: Option<u64>, limit: usize) -> Result<Bytes, Said> {
    let (mut body, begun) = (response.into_body(), Instant::now());
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(read_error)?.into_data() else { continue };
        if whole.len() + piece.len() > limit {
            return Err(Said::Wrong(format!("longer than {limit} bytes")));
        }
        whole.extend_from_slice(&piece);
        if begun.elapsed() >= SLOW && whole.len() as f64 <= SLOWEST * begun.elapsed().as_secs_f64() {
            return Err(Said::Silent(format!("{} bytes in {:?}", whole.len(), begun.elapsed())));
        }
    }
    match promised {
        Some(length) if whole.len() as u64 != length => {
            Err(Said::Broke(format!("{} of {length} bytes came", whole.len())))
        }
        _ => Ok(whole.freeze()),
    }
}

/// What an error of `fetch` says about the mirror.
pub fn read_error(why: fetch::Error) -> Said {
    match why {
        _ if why.is_silence() => Said::Silent(why.to_string()),
        fetch::Error::Connect(_) | fetch::Error::Refused(_) => Said::Unreachable(why.to_string()),
        // The same again a moment later, more often than not.
        fetch::Error::Redirected(_) | fetch::Error::Circling => Said::Wrong(why.to_string()),
        _ => Said::Broke(why.to_string()),
    }
}

async fn ask_once(
    upstream: &dyn Upstream,
    mirror: &Mirror,
    path: &str,
    headers: &HeaderMap,
    patience: Patience,
) -> Answer {
    let asked = upstream.ask(mirror.standing, &mirror.base, path, headers, patience);
    // fetch keeps its own deadlines; this one holds where it cannot.
    let response = match tokio::time::timeout(patience.first_byte, asked).await {
        Err(_) => return Answer::Failed(fetch::Error::Silent(patience.first_byte)),
        Ok(Err(why)) => return Answer::Failed(why),
        Ok(Ok(response)) => response,
    };
    let status = response.status();
    let is_conditional = headers.contains_key(IF_NONE_MATCH) || headers.contains_key(IF_MODIFIED_SINCE);
    if status == StatusCode::OK || status == StatusCode::NOT_MODIFIED && is_conditional {
        return Answer::Head(response);
    }
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = policy::read_retry_after(retry_after);
    let text = read_text(response).await;
    Answer::Status { status, text, retry_after }
}

/// The beginning of an error's text; how it ends is of no account.
async fn read_text(response: Response<Body>) -> String {
    let mut body = response.into_body();
    let mut text = Vec::new();
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(piece) = frame.into_data() {
                text.extend_from_slice(&piece[..piece.len().min(TEXT - text.len())]);
            }
            if text.len() == TEXT {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), read).await;
    String::from_utf8_lossy(&text).into_owned()
}
