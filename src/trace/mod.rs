//! What one request went through: its id, the phases of its way, who was reached, what was mended.
//!
//! A request's [`Trace`] goes along with its task, so that a room far down the corridor can put down how
//! long it resolved or shook hands without being handed anything; [`along`] takes it into a task of
//! its own. It begins when somebody first has something to put down, or at once where somebody is sure to
//! read it: an answer out of memory, with no debug log and no collector, costs one look at a thread's slot.
//!
//! What strangers could have the log say again and again is held back ([`Restraint`]).
//!
//! Left out: the words of the log, which are `respond`'s, and how a trace leaves the house, which is
//! `otlp`'s.

mod context;
#[cfg(test)]
mod journal;
mod restraint;

use std::cell::OnceCell;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::Either;

pub use context::Context;
#[cfg(test)]
pub(crate) use journal::Journal;
pub use restraint::Restraint;

/// What a request is called in answers, in the log and in traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(u32);

impl Id {
    /// A new one: random, so that two daemons' logs can be told apart.
    pub fn draw() -> Id {
        Id::of(fastrand::u32(..))
    }

    /// The one that the last 24 bits of a number make.
    pub const fn of(number: u32) -> Id {
        Id(number & 0xff_ffff)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06x}", self.0)
    }
}

/// A stretch of a request's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// A name becomes addresses.
    Resolve,
    /// An address becomes a connection.
    Connect,
    /// Hands are shaken with whoever is there.
    Tls,
    /// From the request to the head of its answer.
    FirstByte,
    /// The bytes of an answer, from upstream and to the client.
    Body,
}

impl Phase {
    /// Its name in logs and traces.
    pub fn label(self) -> &'static str {
        match self {
            Phase::Resolve => "resolve",
            Phase::Connect => "connect",
            Phase::Tls => "tls",
            Phase::FirstByte => "first_byte",
            Phase::Body => "body",
        }
    }
}

/// How a stretch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Done,
    Failed,
    /// Somebody else was quicker, or nobody waited any more.
    Abandoned,
}

/// One stretch of the way, as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub phase: Phase,
    /// Host, address or mirror.
    pub what: String,
    pub begun: Instant,
    pub ended: Instant,
    pub ending: Ending,
}

/// Who was reached at last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub address: SocketAddr,
    /// Who gave the address, and how fresh its word was.
    pub heard_from: String,
}

/// One request's way. Cloning gives another handle to the same one.
#[derive(Clone, Debug)]
pub struct Trace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: Id,
    context: Context,
    at: SystemTime,
    begun: Instant,
    // Locked to put something down or to read it all, never across an await.
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    stretches: Vec<Stretch>,
    peer: Option<Peer>,
    /// What went wrong on the way and was mended.
    mended: Vec<String>,
    /// It was told: who has more to say must say it alone.
    is_told: bool,
}

/// A request that is over, for whoever collects traces.
#[derive(Debug)]
pub struct Finished {
    /// What was done: the method.
    pub name: String,
    pub trace: Trace,
    pub ended: Instant,
    pub attributes: Vec<(&'static str, Attribute)>,
    /// Why it came to nothing.
    pub trouble: Option<String>,
    pub stretches: Vec<Stretch>,
}

/// What is said of a request beside its phases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    Text(String),
    Number(u64),
}

/// Where requests that are over are handed in; whoever takes them never makes anybody wait.
#[derive(Clone)]
pub struct Collector(Arc<dyn Fn(Finished) + Send + Sync>);

impl Collector {
    /// One that has this done with each.
    pub fn new(take: impl Fn(Finished) + Send + Sync + 'static) -> Collector {
        Collector(Arc::new(take))
    }

    /// Hands one in.
    pub fn take(&self, finished: Finished) {
        (self.0)(finished);
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collector")
    }
}

/// More stretches than any request has whose walk is bounded; a guard for memory.
const MOST: usize = 256;

impl Trace {
    /// Begins one, as a part of what the client does.
    pub fn begin(id: Id, context: Context) -> Trace {
        let (at, begun) = (SystemTime::now(), Instant::now());
        Trace(Arc::new(Inner { id, context, at, begun, notes: Mutex::default() }))
    }

    /// The request's id.
    pub fn id(&self) -> Id {
        self.0.id
    }

    /// Which larger trace it belongs to.
    pub fn context(&self) -> &Context {
        &self.0.context
    }

    /// When it began, by the clock on the wall and by the one that only goes forward.
    pub fn begun(&self) -> (SystemTime, Instant) {
        (self.0.at, self.0.begun)
    }

    /// Puts down who was reached.
    pub fn reach(&self, peer: Peer) {
        self.notes().peer = Some(peer);
    }

    /// Who was reached last.
    pub fn peer(&self) -> Option<Peer> {
        self.notes().peer.clone()
    }

    /// Puts down what went wrong and was mended; false where nobody reads it any more.
    pub fn mend(&self, what: &str) -> bool {
        let mut notes = self.notes();
        if !notes.is_told {
            notes.mended.push(what.to_owned());
        }
        !notes.is_told
    }

    /// What went wrong and was mended.
    pub fn mended(&self) -> Option<String> {
        let notes = self.notes();
        (!notes.mended.is_empty()).then(|| notes.mended.join("; "))
    }

    /// Nobody reads it any more. What went wrong and was mended until now.
    pub fn close(&self) -> Option<String> {
        self.notes().is_told = true;
        self.mended()
    }

    /// The same, unless something was mended, which somebody is then to read; whether it is closed now.
    pub fn close_unmended(&self) -> bool {
        let mut notes = self.notes();
        notes.is_told |= notes.mended.is_empty();
        notes.is_told
    }

    /// All of its stretches so far. Nothing is put down after that.
    pub fn tell(&self) -> Vec<Stretch> {
        let mut notes = self.notes();
        notes.is_told = true;
        notes.stretches.clone()
    }

    /// How long the request spent in a phase: attempts at the same time count once.
    pub fn spent(&self, phase: Phase) -> Option<Duration> {
        spent(&self.notes().stretches, phase)
    }

    /// Begins a stretch of this very trace.
    pub fn start(&self, phase: Phase, what: String) -> Running {
        Running(Some((self.clone(), phase, what, Instant::now())))
    }

    /// The end of the last stretch that is put down, if it came after `begun`, else `begun`.
    fn since(&self, begun: Instant) -> Instant {
        self.notes().stretches.iter().map(|stretch| stretch.ended).fold(begun, Instant::max)
    }

    fn put_down(&self, stretch: Stretch) {
        let mut notes = self.notes();
        if !notes.is_told && notes.stretches.len() < MOST {
            notes.stretches.push(stretch);
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spent(stretches: &[Stretch], phase: Phase) -> Option<Duration> {
    let mut spans: Vec<_> = stretches
        .iter()
        .filter(|stretch| stretch.phase == phase)
        .map(|stretch| (stretch.begun, stretch.ended))
        .collect();
    spans.sort();
    let mut reached = spans.first()?.0;
    let mut sum = Duration::ZERO;
    for (begun, ended) in spans {
        sum += ended.saturating_duration_since(begun.max(reached));
        reached = reached.max(ended);
    }
    Some(sum)
}

tokio::task_local! {
    static CURRENT: Slot;
}

/// What goes along with a request's task.
struct Slot {
    id: Id,
    trace: OnceCell<Trace>,
}

impl Slot {
    fn trace(&self) -> &Trace {
        self.trace.get_or_init(|| Trace::begin(self.id, Context::root()))
    }
}

/// Does a request's work, with its trace: the one that was begun already, or one that begins when there is
/// something to put down. Gives that back, too.
pub async fn within<F: Future>(id: Id, begun: Option<Trace>, work: F) -> (F::Output, Option<Trace>) {
    let slot = Slot { id, trace: begun.map(OnceCell::from).unwrap_or_default() };
    let mut scoped = pin!(CURRENT.scope(slot, work));
    let outcome = scoped.as_mut().await;
    let trace = scoped.take_value().and_then(|slot| slot.trace.into_inner());
    (outcome, trace)
}

/// Does work of a request elsewhere, in a task of its own.
pub fn along<F: Future>(trace: Option<Trace>, work: F) -> impl Future<Output = F::Output> {
    match trace {
        Some(trace) => Either::Left(CURRENT.scope(Slot { id: trace.id(), trace: OnceCell::from(trace) }, work)),
        None => Either::Right(work),
    }
}

/// The trace of the request at hand, begun if need be; none where no request is.
pub fn current() -> Option<Trace> {
    CURRENT.try_with(|slot| slot.trace().clone()).ok()
}

/// The id of the request at hand, without beginning a trace; none where no request is.
pub fn id() -> Option<Id> {
    CURRENT.try_with(|slot| slot.id).ok()
}

/// A stretch that has begun. Dropped before it has an end, it was abandoned.
#[derive(Debug)]
#[must_use = "a stretch lasts as long as this"]
pub struct Running(Option<(Trace, Phase, String, Instant)>);

/// Begins a stretch of the request at hand; nothing, where there is none.
pub fn start(phase: Phase, what: impl FnOnce() -> String) -> Running {
    Running(current().map(|trace| (trace, phase, what(), Instant::now())))
}

impl Running {
    /// It came to this.
    pub fn end<T, E>(mut self, outcome: &Result<T, E>) {
        self.close(if outcome.is_ok() { Ending::Done } else { Ending::Failed });
    }

    /// The same for a stretch that began when the one before it was over.
    pub fn end_since_last<T, E>(mut self, outcome: &Result<T, E>) {
        if let Some((trace, _, _, begun)) = &mut self.0 {
            *begun = trace.since(*begun);
        }
        self.close(if outcome.is_ok() { Ending::Done } else { Ending::Failed });
    }

    fn close(&mut self, ending: Ending) {
        if let Some((trace, phase, what, begun)) = self.0.take() {
            trace.put_down(Stretch { phase, what, begun, ended: Instant::now(), ending });
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.close(Ending::Abandoned);
    }
}

/// Times a piece of work that may fail.
pub async fn timed<T, E>(
    phase: Phase,
    what: impl FnOnce() -> String,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let running = start(phase, what);
    let outcome = work.await;
    running.end(&outcome);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Id = Id::of(0x7f3a);

    fn stretch(begun: Instant, from: u64, to: u64) -> Stretch {
        let at = |ms| begun + Duration::from_millis(ms);
        Stretch { phase: Phase::Connect, what: String::new(), begun: at(from), ended: at(to), ending: Ending::Done }
    }

    #[test]
    fn attempts_at_the_same_time_count_once() {
        let now = Instant::now();
        let ms = |stretches: &[Stretch]| spent(stretches, Phase::Connect).map(|spent| spent.as_millis());
        assert_eq!(ms(&[]), None);
        assert_eq!(ms(&[stretch(now, 0, 10), stretch(now, 5, 20), stretch(now, 30, 40)]), Some(30));
        assert_eq!(ms(&[stretch(now, 0, 50), stretch(now, 5, 20)]), Some(50));
        assert_eq!(spent(&[stretch(now, 0, 10)], Phase::Tls), None);
    }

    #[tokio::test]
    async fn who_has_nothing_to_put_down_begins_no_trace() {
        let (outcome, trace) = within(ID, None, async { id() }).await;
        assert_eq!((outcome, trace.is_none()), (Some(ID), true));
        let noted = async { timed(Phase::Resolve, || "a.example".to_owned(), async { Ok::<_, ()>(2) }).await };
        let (outcome, trace) = within(ID, None, noted).await;
        let (trace, told) = (trace.unwrap(), outcome);
        assert_eq!((told, trace.id()), (Ok(2), ID));
        let told = trace.tell();
        assert_eq!((told.len(), told[0].what.as_str(), told[0].ending), (1, "a.example", Ending::Done));
    }

    #[tokio::test]
    async fn a_task_of_its_own_puts_down_to_the_same_trace() {
        let ((), trace) = within(ID, None, async {
            let stalls = async {
                let _running = start(Phase::Tls, || "b.example".to_owned());
                std::future::pending::<()>().await;
            };
            let task = tokio::spawn(along(current(), stalls));
            tokio::task::yield_now().await;
            task.abort();
            let _ = task.await;
        })
        .await;
        let told = trace.unwrap().tell();
        assert_eq!((told.len(), told[0].phase, told[0].ending), (1, Phase::Tls, Ending::Abandoned));
    }

    #[tokio::test]
    async fn outside_of_a_request_nothing_is_put_down() {
        assert!(current().is_none() && id().is_none());
        along(current(), async { assert!(current().is_none()) }).await;
        drop(start(Phase::Body, || unreachable!("nobody asks what it is")));
    }

    #[test]
    fn what_was_told_takes_no_more() {
        let trace = Trace::begin(ID, Context::root());
        assert!(trace.mend("first"));
        trace.tell();
        assert!(!trace.mend("second"));
        assert_eq!(trace.mended().as_deref(), Some("first"));
    }

    /// A zip was mended while it streamed, its request answered and forgotten: nobody said so.
    #[test]
    fn what_is_mended_after_the_end_is_for_whoever_mends_it_to_tell() {
        let [unread, read] = [1, 2].map(|id| Trace::begin(Id::of(id), Context::root()));
        assert!(unread.close_unmended() && !unread.mend("a: 503"));
        assert!(read.mend("a: 503") && !read.close_unmended());
        assert_eq!(read.close().as_deref(), Some("a: 503"));
        assert!(!read.mend("b: 503"));
    }
}
