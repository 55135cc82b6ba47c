//! One fill per key, however many ask.
//!
//! Whoever comes first leads: its producer runs as a task of its own, so that the leader may leave.
//! All others join. A flight that fails leaves the map before anybody hears of it, so that whoever
//! asks again starts anew; one that succeeds stays until its bytes are on disk, so that there is
//! always somewhere to find them. One that ends without a word (a panic, a runtime that goes down)
//! is told as [`Error::Abandoned`]: a [`Pilot`] cannot be dropped silently.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::content::Content;
use super::growth::{Growth, Seat};
use super::tally::{Filled, Tally};
use super::{Error, Found, Key, Note};

/// The fills under way.
pub(super) struct Flights<E> {
    tally: Tally,
    // Locked to join, start or end one; never while one runs.
    under_way: Mutex<HashMap<Key, Arc<Flight<E>>>>,
}

/// One fill.
pub(super) struct Flight<E> {
    growth: Arc<Growth>,
    /// Why it failed; set before the growth is cut.
    failure: OnceLock<E>,
    /// Whether it has left the map.
    has_landed: watch::Sender<bool>,
}

/// What became of somebody who asks for a fill.
pub(super) enum Boarding<E: From<Error> + Clone> {
    Joined(Arc<Flight<E>>, Seat),
    Leads(Arc<Flight<E>>, Seat, Pilot<E>),
}

impl<E: Clone + Send + Sync + From<Error> + 'static> Flights<E> {
    pub(super) fn new(tally: Tally) -> Arc<Flights<E>> {
        Arc::new(Flights { tally, under_way: Mutex::new(HashMap::new()) })
    }

    /// Joins the fill of `key`, or starts one.
    pub(super) fn board(self: &Arc<Self>, key: &Key, growth: impl Fn() -> Arc<Growth>) -> Boarding<E> {
        let mut under_way = self.lock();
        if let Some(flight) = under_way.get(key)
            && let Some(seat) = flight.growth.take_seat()
        {
            self.tally.fill(Filled::Joined);
            return Boarding::Joined(Arc::clone(flight), seat);
        }
        let growth = growth();
        let seat = growth.first_seat();
        let flight = Arc::new(Flight { growth, failure: OnceLock::new(), has_landed: watch::Sender::new(false) });
        under_way.insert(key.clone(), Arc::clone(&flight));
        let pilot = Pilot { flights: Arc::clone(self), key: key.clone(), flight: Arc::clone(&flight) };
        Boarding::Leads(flight, seat, pilot)
    }

    /// What was filled and is on its way to the disk.
    pub(super) fn landing(&self, key: &Key) -> Option<Found> {
        let flight = self.lock().get(key).filter(|flight| flight.growth.is_whole()).cloned()?;
        flight.growth.take_seat().map(found)
    }

    /// Waits until nothing that was filled under `key` is still on its way to the disk.
    pub(super) async fn landed(&self, key: &Key) {
        let landing = self.lock().get(key).filter(|flight| flight.growth.is_whole()).cloned();
        if let Some(flight) = landing {
            flight.wait_until_landed().await;
        }
    }

    /// Waits until every fill that is under way now has ended and is kept.
    pub(super) async fn all_landed(&self) {
        let flights: Vec<_> = self.lock().values().cloned().collect();
        for flight in flights {
            flight.wait_until_landed().await;
        }
    }

    /// How many fills are under way.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Flight<E>>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Clone> Flight<E> {
    /// Waits for the release or the end, and gives what may be read then.
    pub(super) async fn admit(&self, mut seat: Seat) -> Result<Found, E> {
        seat.admitted().await;
        match self.failure.get() {
            Some(failure) => Err(failure.clone()),
            None => Ok(found(seat)),
        }
    }

    async fn wait_until_landed(&self) {
        // The sender lives in the flight that we hold.
        let _ = self.has_landed.subscribe().wait_for(|landed| *landed).await;
    }
}

fn found(seat: Seat) -> Found {
    Found { note: Arc::new(seat.note()), content: Content::growing(seat) }
}

/// The one who must say how a flight ends. Dropped, it leaves the map.
pub(super) struct Pilot<E: From<Error> + Clone> {
    flights: Arc<Flights<E>>,
    key: Key,
    flight: Arc<Flight<E>>,
}

impl<E: From<Error> + Clone> Pilot<E> {
    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    pub(super) fn growth(&self) -> &Arc<Growth> {
        &self.flight.growth
    }

    /// Lets everybody have what came, but lets nobody new join.
    pub(super) fn pass_on(self, note: Note, whole: Option<Bytes>) {
        self.flights.tally.fill(Filled::Passed);
        self.leave();
        self.flight.growth.finish(note, whole);
    }

    /// Lets everybody have what came; those who come later too, until it has landed.
    pub(super) fn hand_out(&self, note: Note, whole: Option<Bytes>) {
        self.flight.growth.finish(note, whole);
    }

    /// Makes way for the next, now that what was handed out lies where it stays, or nowhere.
    pub(super) fn land(self, is_kept: bool) {
        self.flights.tally.fill(if is_kept { Filled::Kept } else { Filled::Unkept });
    }

    /// Tells everybody that it failed, and why.
    pub(super) fn fail(self, failure: E) {
        self.flights.tally.fill(Filled::Failed);
        self.break_off(failure);
    }

    fn break_off(&self, failure: E) {
        self.leave();
        // Only ever set here, once: whoever breaks off a second time has nothing to add.
        let _ = self.flight.failure.set(failure);
        self.flight.growth.cut();
    }

    /// Another flight may have taken the place of one that nobody could join any more.
    fn leave(&self) {
        let mut under_way = self.flights.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            under_way.remove(&self.key);
        }
        drop(under_way);
        self.flight.has_landed.send_replace(true);
    }
}

impl<E: From<Error> + Clone> Drop for Pilot<E> {
    fn drop(&mut self) {
        if self.flight.growth.has_ended() {
            self.leave();
        } else {
            self.flights.tally.fill(Filled::Abandoned);
            self.break_off(Error::Abandoned.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Handle;

    use super::super::draft::Draft;
    use super::super::growth::Budget;
    use super::*;

    fn flights() -> (Arc<Flights<Error>>, impl Fn() -> Arc<Growth>) {
        let grow = || Growth::new(Arc::new(Budget::new(0)), Handle::current(), false);
        (Flights::new(Tally::new(&crate::metrics::Registry::default())), grow)
    }

    fn lead(boarding: Boarding<Error>) -> (Seat, Pilot<Error>) {
        match boarding {
            Boarding::Leads(_, seat, pilot) => (seat, pilot),
            Boarding::Joined(..) => panic!("joined another's flight"),
        }
    }

    fn join(boarding: Boarding<Error>) -> (Arc<Flight<Error>>, Seat) {
        match boarding {
            Boarding::Joined(flight, seat) => (flight, seat),
            Boarding::Leads(..) => panic!("leads a flight of its own"),
        }
    }

    #[tokio::test]
    async fn what_nobody_can_join_any_more_gives_way_to_a_new_flight() {
        let (flights, grow) = flights();
        let key = Key::new("download/x.zip").unwrap();
        let (mut seat, first) = lead(flights.board(&key, &grow));
        let mut draft = Draft::new(Arc::clone(first.growth()), None);
        draft.release(None, Default::default());
        for _ in 0..4 {
            let (written, _) = tokio::join!(draft.write(Bytes::from(vec![0; 40_000])), seat.next());
            written.unwrap();
        }
        let (_, second) = lead(flights.board(&key, &grow));
        first.hand_out(Note::default(), None);
        first.land(false);
        assert_eq!(flights.count(), 1, "the first does not take the second with it");
        let (joined, waiting) = join(flights.board(&key, &grow));
        second.fail(Error::Unheld);
        assert!(matches!(joined.admit(waiting).await, Err(Error::Unheld)));
        lead(flights.board(&key, &grow));
    }

    #[tokio::test]
    async fn a_flight_is_found_until_it_has_landed_and_no_longer() {
        let (flights, grow) = flights();
        let key = Key::new("download/x.zip").unwrap();
        let (_seat, pilot) = lead(flights.board(&key, &grow));
        assert!(flights.landing(&key).is_none(), "nothing is whole yet");
        pilot.hand_out(Note { at_ms: 3, ..Note::default() }, Some(Bytes::from_static(b"x")));
        let found = flights.landing(&key).unwrap();
        assert_eq!((found.note.at_ms, found.content.bytes(9).await.unwrap()), (3, Bytes::from_static(b"x")));
        let ((), ()) = tokio::join!(flights.landed(&key), async { pilot.land(true) });
        assert!(flights.landing(&key).is_none() && flights.count() == 0);
    }

    #[tokio::test]
    async fn what_is_passed_on_is_for_those_who_came_before() {
        let (flights, grow) = flights();
        let key = Key::new("download/x.zip").unwrap();
        let (_seat, pilot) = lead(flights.board(&key, &grow));
        let (flight, waiting) = join(flights.board(&key, &grow));
        pilot.pass_on(Note::default(), Some(Bytes::from_static(b"x")));
        assert_eq!(flight.admit(waiting).await.unwrap().content.bytes(9).await.unwrap(), "x");
        lead(flights.board(&key, &grow));
    }
}
