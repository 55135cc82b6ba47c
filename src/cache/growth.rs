//! The bytes of one fill: written by one producer, read by many while they come, each at its own
//! pace.
//!
//! What was written is first a tail of pieces in memory, then, spilled from the front, a file. While
//! the disk takes it the tail stays short. When it does not, the tail grows within a [`Budget`]
//! that all fills share; beyond that, what every reader has passed is given up, and the writer waits
//! for the slowest ([`Growth::make_room`]). Then nobody new can begin, and nothing is kept.
//!
//! The end is told once: whole, or cut. A reader gets all bytes before the cut, and then an error.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::{Error, Note, disk};

/// What one producer has written so far.
pub(super) struct Growth {
    // Locked to add, spill or find a piece; never while one is written or read.
    state: Mutex<State>,
    /// Sent whenever there is something new to read or to know.
    news: watch::Sender<()>,
    /// A reader has moved on or left, so that there may be room.
    moved: Notify,
    budget: Arc<Budget>,
    /// Where files are read, off the workers.
    pub(super) runtime: Handle,
}

struct State {
    /// Counts the times that the producer started over.
    generation: u64,
    file: Option<Arc<File>>,
    /// How many bytes the file holds.
    filed: u64,
    /// How many after those were given up.
    gap: u64,
    tail: VecDeque<Bytes>,
    tail_length: u64,
    /// Whether the disk takes what comes.
    can_spill: bool,
    release: Option<Note>,
    /// The length that readers were told at release.
    promised: Option<u64>,
    end: Option<End>,
    /// Where each reader is.
    seats: HashMap<u64, u64>,
    next_seat: u64,
}

/// How it ended.
#[derive(Clone, Debug)]
enum End {
    /// Right to the last byte; small things are at hand in one piece.
    Whole(Note, Option<Bytes>),
    Cut,
}

impl Growth {
    pub(super) fn new(budget: Arc<Budget>, runtime: Handle, can_spill: bool) -> Arc<Growth> {
        let state = State {
            generation: 0,
            file: None,
            filed: 0,
            gap: 0,
            tail: VecDeque::new(),
            tail_length: 0,
            can_spill,
            release: None,
            promised: None,
            end: None,
            seats: HashMap::new(),
            next_seat: 0,
        };
        let news = watch::Sender::new(());
        Arc::new(Growth { state: Mutex::new(state), news, moved: Notify::new(), budget, runtime })
    }

    /// A place among the readers, at the first byte; none once that cannot be had any more.
    pub(super) fn take_seat(self: &Arc<Growth>) -> Option<Seat> {
        let mut state = self.lock();
        if state.gap > 0 || matches!(state.end, Some(End::Cut)) {
            return None;
        }
        Some(self.seat(&mut state))
    }

    /// The place of whoever starts it.
    pub(super) fn first_seat(self: &Arc<Growth>) -> Seat {
        self.seat(&mut self.lock())
    }

    /// Adds a piece. An error where it is more than was promised.
    pub(super) fn push(&self, piece: Bytes) -> Result<(), Error> {
        let mut state = self.lock();
        let written = state.written() + piece.len() as u64;
        if let Some(promised) = state.promised.filter(|promised| written > *promised) {
            return Err(Error::Length { promised, came: written });
        }
        self.budget.charge(piece.len() as u64);
        state.tail_length += piece.len() as u64;
        state.tail.push_back(piece);
        drop(state);
        self.news.send_replace(());
        Ok(())
    }

    /// Whether so much lies in memory that the disk should have it.
    pub(super) fn wants_spill(&self) -> bool {
        let state = self.lock();
        state.can_spill && state.tail_length > SMALL
    }

    /// Whether more lies in memory than may.
    pub(super) fn is_crowded(&self) -> bool {
        self.lock().tail_length > SMALL && self.budget.is_over()
    }

    /// The piece that is to be spilled next.
    pub(super) fn front(&self, generation: u64) -> Option<Bytes> {
        let state = self.lock();
        if state.generation == generation && state.gap == 0 { state.tail.front().cloned() } else { None }
    }

    /// The front piece is in the file now.
    pub(super) fn spilled(&self, generation: u64, file: &Arc<File>) {
        let mut state = self.lock();
        if state.generation != generation {
            return;
        }
        let length = state.drop_front(&self.budget);
        state.filed += length;
        state.file.get_or_insert_with(|| Arc::clone(file));
    }

    /// The disk does not take it; the tail stays in memory from now on.
    pub(super) fn stop_spilling(&self) {
        self.lock().can_spill = false;
    }

    /// Gives up what all readers have passed, waiting for the slowest where need be. One that does
    /// not move for half a minute loses its place.
    pub(super) async fn make_room(&self) -> Result<(), Error> {
        let moved = self.moved.notified();
        tokio::pin!(moved);
        moved.as_mut().enable();
        {
            let mut state = self.lock();
            if state.seats.is_empty() {
                return Err(Error::Unread);
            }
            if state.trim(&self.budget) {
                return Ok(());
            }
        }
        if tokio::time::timeout(PATIENCE, moved).await.is_err() {
            self.lock().unseat_slowest();
        }
        Ok(())
    }

    /// Forgets everything and says under which generation to go on; none once readers are in.
    pub(super) fn restart(&self, can_spill: bool) -> Option<u64> {
        let mut state = self.lock();
        if state.release.is_some() {
            return None;
        }
        state.generation += 1;
        state.can_spill = can_spill;
        (state.file, state.filed) = (None, 0);
        while state.drop_front(&self.budget) > 0 {}
        Some(state.generation)
    }

    /// Lets the readers in.
    pub(super) fn release(&self, length: Option<u64>, note: Note) {
        let mut state = self.lock();
        if state.release.is_none() {
            state.promised = length;
            state.release = Some(note);
        }
        drop(state);
        self.news.send_replace(());
    }

    pub(super) fn is_released(&self) -> bool {
        self.lock().release.is_some()
    }

    pub(super) fn written(&self) -> u64 {
        self.lock().written()
    }

    pub(super) fn promised(&self) -> Option<u64> {
        self.lock().promised
    }

    /// Whether as many came as were promised.
    pub(super) fn check_length(&self) -> Result<(), Error> {
        let state = self.lock();
        match state.promised {
            Some(promised) if promised != state.written() => Err(Error::Length { promised, came: state.written() }),
            _ => Ok(()),
        }
    }

    /// Ends it well. Ends after the first are not heard.
    pub(super) fn finish(&self, note: Note, whole: Option<Bytes>) {
        self.end(End::Whole(note, whole));
    }

    /// Ends it badly.
    pub(super) fn cut(&self) {
        self.end(End::Cut);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().end.is_some()
    }

    /// Whether it ended well.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.lock().end, Some(End::Whole(..)))
    }

    /// What was written so far, for blocking reading.
    pub(super) fn snapshot(&self) -> Option<Snapshot> {
        let state = self.lock();
        let tail = state.tail.iter().cloned().collect();
        let snapshot = Snapshot { file: state.file.clone(), filed: state.filed, tail, at: 0, length: state.written() };
        (state.gap == 0).then_some(snapshot)
    }

    fn seat(self: &Arc<Growth>, state: &mut State) -> Seat {
        let number = state.next_seat;
        state.next_seat += 1;
        state.seats.insert(number, 0);
        Seat { growth: Arc::clone(self), number, at: 0, news: self.news.subscribe() }
    }

    fn end(&self, end: End) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        drop(state);
        self.news.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        while state.drop_front(&self.budget) > 0 {}
    }
}

impl State {
    fn written(&self) -> u64 {
        self.filed + self.gap + self.tail_length
    }

    /// Lets go of the front piece and says how long it was.
    fn drop_front(&mut self, budget: &Budget) -> u64 {
        let length = self.tail.pop_front().map_or(0, |piece| piece.len() as u64);
        self.tail_length -= length;
        budget.give_back(length);
        length
    }

    /// Gives up the pieces that every reader has passed; false where there are none.
    fn trim(&mut self, budget: &Budget) -> bool {
        let passed = self.seats.values().min().copied().unwrap_or(0);
        let before = self.gap;
        while let Some(front) = self.tail.front()
            && self.filed + self.gap + front.len() as u64 <= passed
        {
            self.gap += self.drop_front(budget);
        }
        self.gap > before
    }

    fn unseat_slowest(&mut self) {
        let slowest = self.seats.iter().min_by_key(|(_, at)| **at).map(|(number, _)| *number);
        if let Some(number) = slowest {
            self.seats.remove(&number);
            tracing::debug!("a reader that did not move is given up: there is no disk to hold its bytes");
        }
    }

    fn step(&self, at: u64) -> Step {
        if let Some(End::Whole(_, Some(whole))) = &self.end {
            let rest = whole.get(at as usize..).unwrap_or_default();
            return if rest.is_empty() { Step::Done } else { Step::Piece(whole.slice_ref(rest)) };
        }
        match &self.file {
            Some(file) if at < self.filed => {
                return Step::Read(Arc::clone(file), (self.filed - at).min(PIECE) as usize);
            }
            _ => (),
        }
        let mut start = self.filed + self.gap;
        if at < start {
            return Step::Lost;
        }
        for piece in &self.tail {
            let end = start + piece.len() as u64;
            if at < end {
                return Step::Piece(piece.slice((at - start) as usize..));
            }
            start = end;
        }
        match &self.end {
            None => Step::Wait,
            Some(End::Whole(..)) => Step::Done,
            Some(End::Cut) => Step::Lost,
        }
    }
}

/// What a reader is to do next.
enum Step {
    Piece(Bytes),
    Read(Arc<File>, usize),
    Wait,
    Done,
    Lost,
}

/// One reader's place.
pub(super) struct Seat {
    growth: Arc<Growth>,
    number: u64,
    at: u64,
    news: watch::Receiver<()>,
}

impl Seat {
    /// Waits until one may read: the release, or the end.
    pub(super) async fn admitted(&mut self) {
        loop {
            self.news.mark_unchanged();
            {
                let state = self.growth.lock();
                if state.release.is_some() || state.end.is_some() {
                    return;
                }
            }
            self.wait().await;
        }
    }

    /// What is known about the bytes: the last word, or what was said at release.
    pub(super) fn note(&self) -> Note {
        let state = self.growth.lock();
        match (&state.end, &state.release) {
            (Some(End::Whole(note, _)), _) | (_, Some(note)) => note.clone(),
            _ => Note::default(),
        }
    }

    /// The length, if it is known yet.
    pub(super) fn length(&self) -> Option<u64> {
        let state = self.growth.lock();
        match state.end {
            Some(End::Whole(..)) => Some(state.written()),
            _ => state.promised,
        }
    }

    /// All of it, if it is small and whole.
    pub(super) fn whole(&self) -> Option<Bytes> {
        match &self.growth.lock().end {
            Some(End::Whole(_, whole)) => whole.clone(),
            _ => None,
        }
    }

    /// What is whole, for blocking reading.
    pub(super) fn snapshot(&self) -> Option<Snapshot> {
        if self.growth.is_whole() { self.growth.snapshot() } else { None }
    }

    /// The next piece.
    pub(super) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            self.news.mark_unchanged();
            let step = self.growth.lock().step(self.at);
            match step {
                Step::Piece(piece) => return Some(Ok(self.advance(piece))),
                Step::Read(file, length) => {
                    let read = read_off_worker(&self.growth.runtime, file, self.at, length).await;
                    return Some(read.map(|piece| self.advance(piece)));
                }
                Step::Wait => self.wait().await,
                Step::Done => return None,
                Step::Lost => {
                    let why = format!("the fill broke off; {} bytes came before", self.at);
                    return Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, why)));
                }
            }
        }
    }

    fn advance(&mut self, piece: Bytes) -> Bytes {
        self.at += piece.len() as u64;
        if let Some(at) = self.growth.lock().seats.get_mut(&self.number) {
            *at = self.at;
        }
        self.growth.moved.notify_one();
        piece
    }

    async fn wait(&mut self) {
        // The sender lives in the growth that we hold, so there is no end of news.
        let _ = self.news.changed().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.growth.lock().seats.remove(&self.number);
        self.growth.moved.notify_one();
    }
}

/// Reads a piece of a file where blocking is allowed.
pub(super) async fn read_off_worker(runtime: &Handle, file: Arc<File>, at: u64, length: usize) -> io::Result<Bytes> {
    let read = runtime.spawn_blocking(move || disk::read_piece(&file, at, length));
    read.await.unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
}

/// What was written up to a moment, to be read and sought in on a thread that may block.
pub(super) struct Snapshot {
    file: Option<Arc<File>>,
    filed: u64,
    tail: Vec<Bytes>,
    at: u64,
    length: u64,
}

impl Read for Snapshot {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let piece = match &self.file {
            Some(file) if self.at < self.filed => {
                let length = (self.filed - self.at).min(into.len() as u64) as usize;
                disk::read_exact_at(file, &mut into[..length], self.at)?;
                self.at += length as u64;
                return Ok(length);
            }
            _ => self.piece_at_hand(),
        };
        let length = piece.len().min(into.len());
        into[..length].copy_from_slice(&piece[..length]);
        self.at += length as u64;
        Ok(length)
    }
}

impl Snapshot {
    pub(super) fn of_bytes(bytes: Bytes) -> Snapshot {
        Snapshot { file: None, filed: 0, length: bytes.len() as u64, tail: vec![bytes], at: 0 }
    }

    pub(super) fn of_file(file: Arc<File>, length: u64) -> Snapshot {
        Snapshot { file: Some(file), filed: length, tail: Vec::new(), at: 0, length }
    }

    fn piece_at_hand(&self) -> Bytes {
        let mut start = self.filed;
        for piece in &self.tail {
            let end = start + piece.len() as u64;
            if self.at < end && self.at >= start {
                return piece.slice((self.at - start) as usize..);
            }
            start = end;
        }
        Bytes::new()
    }
}

impl Seek for Snapshot {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(by) => (self.at, by),
            SeekFrom::End(by) => (self.length, by),
        };
        let at = base.checked_add_signed(by);
        self.at = at.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a seek before the first byte"))?;
        Ok(self.at)
    }
}

/// How much all fills together may hold in memory beyond what is small.
pub(super) struct Budget {
    limit: u64,
    held: AtomicU64,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Budget {
        Budget { limit, held: AtomicU64::new(0) }
    }

    fn charge(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.held.load(Ordering::Relaxed) > self.limit
    }
}

/// What is at most this long stays in memory until it is whole: nearly every answer but a zip.
pub(super) const SMALL: u64 = 64 << 10;
/// How much of a file is read at once: larger buffers gain nothing (measured), smaller ones lose.
pub(super) const PIECE: u64 = 256 << 10;
/// How long a writer without a disk waits for a reader that does not move.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn growth() -> Arc<Growth> {
        Growth::new(Arc::new(Budget::new(0)), Handle::current(), true)
    }

    fn file(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, bytes).unwrap();
        Arc::new(file)
    }

    fn push(growth: &Growth, pieces: &[&'static str]) {
        pieces.iter().for_each(|piece| growth.push(Bytes::from_static(piece.as_bytes())).unwrap());
    }

    async fn drain(seat: &mut Seat) -> String {
        let mut all = String::new();
        while let Some(Ok(piece)) = seat.next().await {
            all.push_str(std::str::from_utf8(&piece).unwrap());
        }
        all
    }

    #[tokio::test]
    async fn readers_do_not_notice_where_the_bytes_lie() {
        for spilled in 0..=3 {
            let growth = growth();
            push(&growth, &["one", "two", "three"]);
            (0..spilled).for_each(|_| growth.spilled(0, &file(b"onetwothree")));
            growth.finish(Note::default(), None);
            assert_eq!(drain(&mut growth.first_seat()).await, "onetwothree", "{spilled} in the file");
            let mut snapshot = String::new();
            growth.snapshot().unwrap().read_to_string(&mut snapshot).unwrap();
            assert_eq!(snapshot, "onetwothree", "{spilled} in the file");
        }
    }

    #[tokio::test]
    async fn a_reader_waits_for_news_and_hears_the_end() {
        let growth = growth();
        let mut seat = growth.first_seat();
        let writing = async {
            for piece in ["one", "two"] {
                tokio::task::yield_now().await;
                push(&growth, &[piece]);
            }
            tokio::task::yield_now().await;
            growth.finish(Note::default(), None);
            growth.cut();
        };
        let (read, ()) = tokio::join!(drain(&mut seat), writing);
        assert_eq!(read, "onetwo");
        assert!(seat.next().await.is_none(), "only the first end counts");
    }

    #[tokio::test]
    async fn a_spill_from_before_a_restart_moves_nothing() {
        let growth = growth();
        push(&growth, &["stale"]);
        let generation = growth.restart(true).unwrap();
        push(&growth, &["fresh"]);
        assert_eq!(growth.front(generation - 1), None);
        growth.spilled(generation - 1, &file(b"stale"));
        assert_eq!((growth.front(generation).unwrap(), growth.written()), (Bytes::from_static(b"fresh"), 5));
        growth.finish(Note::default(), None);
        assert_eq!(drain(&mut growth.first_seat()).await, "fresh");
    }

    #[tokio::test]
    async fn what_is_held_counts_until_it_is_let_go() {
        let budget = Arc::new(Budget::new(10));
        let grow = || Growth::new(Arc::clone(&budget), Handle::current(), true);
        let (one, other) = (grow(), grow());
        push(&one, &["123456"]);
        push(&other, &["123456"]);
        assert!(budget.is_over());
        one.spilled(0, &file(b"123456"));
        assert!(!budget.is_over());
        push(&one, &["123456"]);
        other.restart(true).unwrap();
        assert!(!budget.is_over());
        drop((one, other));
        assert_eq!(budget.held.load(Ordering::Relaxed), 0);
    }
}
