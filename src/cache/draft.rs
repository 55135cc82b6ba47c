//! What a producer writes into: memory first, then a file aside, hashed as it goes.
//!
//! A draft that is dropped leaves nothing. One that the disk has no room for is held in memory
//! within a budget; beyond that it fails, or, once its readers are in, passes bytes on to them and
//! keeps none. Writing may be cancelled at any await: what was handed over stays in order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};

use super::disk::{Disk, Scratch, spell};
use super::growth::{Growth, SMALL};
use super::{Error, Key, Note, ReadSeek, disk};

/// What a producer writes into. Until it is released nobody reads, so it may start over.
pub struct Draft {
    growth: Arc<Growth>,
    /// None in a cache without a folder.
    disk: Option<Arc<Disk>>,
    // Locked by what writes to the file, off the workers.
    sink: Option<Arc<Mutex<Sink>>>,
    /// What went wrong; a draft that failed once cannot be kept, whatever its producer says.
    failure: Option<Error>,
}

impl Draft {
    pub(super) fn new(growth: Arc<Growth>, disk: Option<Arc<Disk>>) -> Draft {
        let sink = disk.clone().map(|disk| Sink::new(disk, 0));
        Draft { growth, disk, sink, failure: None }
    }

    /// Adds a piece. Fails where there is no room for it, or where it is more than was promised.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), Error> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let added = self.add(piece).await;
        self.failure = added.as_ref().err().cloned();
        added
    }

    /// Forgets what was written. Only before `release`; afterwards the draft is lost.
    pub fn restart(&mut self) {
        let Some(generation) = self.growth.restart(self.disk.is_some()) else {
            self.failure = Some(Error::Released);
            return;
        };
        self.failure = None;
        self.sink = self.disk.clone().map(|disk| Sink::new(disk, generation));
    }

    /// Lets the readers in while the rest is still being written. `length` is told to them if known;
    /// a draft that ends with any other length has failed.
    pub fn release(&mut self, length: Option<u64>, facts: BTreeMap<String, String>) {
        let note = Note { at_ms: disk::now() / 1_000_000, length: length.unwrap_or(0), facts };
        self.growth.release(length, note);
    }

    /// Whether readers were let in.
    pub fn is_released(&self) -> bool {
        self.growth.is_released()
    }

    /// The length that readers were told, if it was known.
    pub fn promised(&self) -> Option<u64> {
        self.growth.promised()
    }

    /// How many bytes were written since the last start.
    pub fn written(&self) -> u64 {
        self.growth.written()
    }

    /// Opens what was written so far for blocking reading and seeking (to hash it, off the workers).
    /// Fails where some of it was passed on without being held.
    pub fn reading(&self) -> Result<Box<dyn ReadSeek>, Error> {
        let snapshot = self.growth.snapshot().ok_or_else(|| self.no_room())?;
        Ok(Box::new(snapshot))
    }

    /// Whether this is a draft of that growth, and as long as was promised.
    pub(super) fn check(&self, growth: &Arc<Growth>) -> Result<(), Error> {
        if !Arc::ptr_eq(&self.growth, growth) {
            return Err(Error::Abandoned);
        }
        match &self.failure {
            Some(failure) => Err(failure.clone()),
            None => self.growth.check_length(),
        }
    }

    /// All of it in a buffer of its own, if it is small: a piece of somebody's read buffer would
    /// hold on to the rest of that.
    pub(super) fn gather_small(&self) -> Option<Bytes> {
        if self.written() > SMALL { None } else { self.gather().ok() }
    }

    /// All of it in one buffer. Blocks where it is in a file.
    pub(super) fn gather(&self) -> io::Result<Bytes> {
        let mut whole = BytesMut::zeroed(self.written() as usize);
        let mut reading = self.growth.snapshot().ok_or(io::ErrorKind::UnexpectedEof)?;
        io::Read::read_exact(&mut reading, &mut whole)?;
        Ok(whole.freeze())
    }

    /// Puts it into place. Blocks.
    pub(super) fn commit(&self, key: &Key, note: &Note) -> io::Result<()> {
        let Some(sink) = &self.sink else { return Err(io::ErrorKind::Unsupported.into()) };
        lock(sink).commit(&self.growth, key, note)
    }

    async fn add(&self, piece: Bytes) -> Result<(), Error> {
        if piece.is_empty() {
            return Ok(());
        }
        self.growth.push(piece)?;
        if self.growth.wants_spill() {
            self.spill().await;
        }
        while self.growth.is_crowded() {
            if !self.is_released() {
                return Err(self.no_room());
            }
            self.growth.make_room().await?;
        }
        Ok(())
    }

    async fn spill(&self) {
        let Some(sink) = self.sink.clone() else { return };
        let growth = Arc::clone(&self.growth);
        let spilling = self.growth.runtime.spawn_blocking(move || {
            let mut sink = lock(&sink);
            if let Err(error) = sink.spill(&growth) {
                sink.disk.report(growth.written(), Err(&error));
                growth.stop_spilling();
            }
        });
        // Only a runtime that is going down does not run it, and then there is no next piece either.
        let _ = spilling.await;
    }

    fn no_room(&self) -> Error {
        self.disk.as_ref().map_or(Error::Unheld, |disk| Error::Full(disk.dir().to_owned()))
    }
}

/// The file that a draft is spilled into. Made with the first byte that goes there.
struct Sink {
    disk: Arc<Disk>,
    generation: u64,
    scratch: Option<Scratch>,
    hasher: Sha256,
    length: u64,
}

impl Sink {
    fn new(disk: Arc<Disk>, generation: u64) -> Arc<Mutex<Sink>> {
        Arc::new(Mutex::new(Sink { disk, generation, scratch: None, hasher: Sha256::new(), length: 0 }))
    }

    /// Moves everything that is in memory into the file.
    fn spill(&mut self, growth: &Growth) -> io::Result<()> {
        while let Some(piece) = growth.front(self.generation) {
            let file = self.file()?;
            self.disk.write_at(&file, &piece, self.length)?;
            self.hasher.update(&piece);
            self.length += piece.len() as u64;
            growth.spilled(self.generation, &file);
        }
        Ok(())
    }

    fn commit(&mut self, growth: &Growth, key: &Key, note: &Note) -> io::Result<()> {
        self.spill(growth)?;
        if self.length != note.length {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "some of it was passed on without being held"));
        }
        // A write that failed half-way may have left more than it was credited with.
        self.file()?.set_len(self.length)?;
        let scratch = self.scratch.take().ok_or(io::ErrorKind::NotFound)?;
        self.disk.commit(key, scratch, note, spell(self.hasher.finalize_reset().as_slice()))
    }

    fn file(&mut self) -> io::Result<Arc<File>> {
        let scratch = match self.scratch.take() {
            Some(scratch) => scratch,
            None => self.disk.scratch()?,
        };
        Ok(Arc::clone(&self.scratch.insert(scratch).file))
    }
}

fn lock(sink: &Mutex<Sink>) -> MutexGuard<'_, Sink> {
    sink.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use tempfile::{TempDir, tempdir};
    use tokio::runtime::Handle;

    use super::super::growth::{Budget, Seat};
    use super::*;

    const KIB: u64 = 1024;

    fn piece(mark: u8) -> Bytes {
        Bytes::from(vec![mark; 32 << 10])
    }

    fn without_disk(budget: u64) -> (Draft, Arc<Growth>) {
        let growth = Growth::new(Arc::new(Budget::new(budget)), Handle::current(), false);
        (Draft::new(Arc::clone(&growth), None), growth)
    }

    fn with_room(room: u64, budget: u64) -> (Draft, Arc<Growth>, TempDir) {
        let dir = tempdir().unwrap();
        let disk = Arc::new(Disk::open(dir.path()).unwrap());
        disk.room.store(room, Ordering::SeqCst);
        let growth = Growth::new(Arc::new(Budget::new(budget)), Handle::current(), true);
        (Draft::new(Arc::clone(&growth), Some(disk)), growth, dir)
    }

    fn release(draft: &mut Draft) {
        draft.release(None, BTreeMap::new());
    }

    async fn take(seat: &mut Seat) -> Option<u8> {
        let piece = seat.next().await?.ok()?;
        assert_eq!(piece, self::piece(piece[0]));
        Some(piece[0])
    }

    #[tokio::test]
    async fn without_room_anywhere_an_unreleased_draft_fails_and_gives_its_memory_back() {
        let (mut draft, growth) = without_disk(200 * KIB);
        for mark in 0..6 {
            draft.write(piece(mark)).await.unwrap();
        }
        assert!(matches!(draft.write(piece(6)).await, Err(Error::Unheld)));
        draft.restart();
        for mark in 0..6 {
            draft.write(piece(mark)).await.unwrap();
        }
        drop((draft, growth));
    }

    #[tokio::test]
    async fn a_full_disk_names_itself() {
        let (mut draft, _growth, dir) = with_room(100 * KIB, 100 * KIB);
        let mut outcome = Ok(());
        for mark in 0..20 {
            outcome = outcome.and(draft.write(piece(mark)).await);
        }
        assert!(matches!(outcome, Err(Error::Full(path)) if path == dir.path()));
    }

    #[tokio::test]
    async fn a_draft_that_ends_in_memory_begins_in_its_file() {
        let (mut draft, growth, _dir) = with_room(100 * KIB, 1 << 20);
        for mark in 0..10 {
            draft.write(piece(mark)).await.unwrap();
        }
        let all: Vec<u8> = (0..10).flat_map(piece).collect();
        assert_eq!(draft.gather().unwrap(), all);
        let mut seat = growth.first_seat();
        let mut read = Vec::new();
        while read.len() < all.len() {
            read.extend_from_slice(&seat.next().await.unwrap().unwrap());
        }
        assert_eq!(read, all);
        let note = Note { length: draft.written(), ..Note::default() };
        let key = Key::new("download/x.zip").unwrap();
        assert!(draft.commit(&key, &note).is_err(), "the disk is still full");
    }

    #[tokio::test]
    async fn a_released_draft_without_room_passes_everything_on_and_waits_for_its_readers() {
        let (mut draft, growth) = without_disk(100 * KIB);
        let (quick, slow) = (growth.first_seat(), growth.first_seat());
        release(&mut draft);
        let writing = async {
            for mark in 0..100 {
                draft.write(piece(mark)).await.unwrap();
            }
            growth.finish(Note::default(), None);
        };
        let reading = async |mut seat: Seat, pauses: u32| {
            for mark in 0..100 {
                assert_eq!(take(&mut seat).await, Some(mark));
                for _ in 0..pauses {
                    tokio::task::yield_now().await;
                }
            }
            assert!(seat.next().await.is_none());
        };
        tokio::join!(writing, reading(quick, 0), reading(slow, 7));
    }

    #[tokio::test]
    async fn once_bytes_were_given_up_nobody_new_may_begin_and_nothing_is_kept() {
        let (mut draft, growth, _dir) = with_room(0, 100 * KIB);
        let mut seat = growth.first_seat();
        release(&mut draft);
        let writing = async {
            for mark in 0..20 {
                draft.write(piece(mark)).await.unwrap();
            }
        };
        let reading = async {
            for mark in 0..20 {
                assert_eq!(take(&mut seat).await, Some(mark));
            }
        };
        tokio::join!(writing, reading);
        assert!(growth.take_seat().is_none());
        assert!(matches!(draft.reading(), Err(Error::Full(_))));
        draft.disk.as_ref().unwrap().room.store(u64::MAX, Ordering::SeqCst);
        let note = Note { length: draft.written(), ..Note::default() };
        assert!(draft.commit(&Key::new("download/x.zip").unwrap(), &note).is_err());
        assert!(draft.gather().is_err());
    }

    #[tokio::test]
    async fn without_readers_there_is_nobody_to_pass_it_on_to() {
        let (mut draft, growth) = without_disk(100 * KIB);
        drop(growth.first_seat());
        release(&mut draft);
        let mut outcome = Ok(());
        for mark in 0..20 {
            outcome = outcome.and(draft.write(piece(mark)).await);
        }
        assert!(matches!(outcome, Err(Error::Unread)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_does_not_move_is_given_up_for_the_others() {
        let (mut draft, growth) = without_disk(100 * KIB);
        let (mut quick, mut stuck) = (growth.first_seat(), growth.first_seat());
        release(&mut draft);
        let writing = async {
            for mark in 0..20 {
                draft.write(piece(mark)).await.unwrap();
            }
            growth.finish(Note::default(), None);
        };
        let reading = async {
            for mark in 0..20 {
                assert_eq!(take(&mut quick).await, Some(mark));
            }
            assert!(quick.next().await.is_none());
        };
        tokio::join!(writing, reading);
        assert!(stuck.next().await.unwrap().is_err(), "and told so, not ended cleanly");
    }

    #[tokio::test]
    async fn a_small_answer_always_finds_room() {
        let budget = Arc::new(Budget::new(0));
        let growth = Growth::new(budget, Handle::current(), false);
        let mut draft = Draft::new(growth, None);
        draft.write(piece(1)).await.unwrap();
        draft.write(piece(2)).await.unwrap();
        assert_eq!(draft.gather_small().unwrap().len(), 64 << 10);
    }

    #[tokio::test]
    async fn a_write_that_was_given_up_half_way_keeps_the_order() {
        use futures_util::FutureExt;
        let (mut draft, _growth, _dir) = with_room(u64::MAX, 1 << 20);
        for mark in 0..30 {
            // Polled once: the spill has begun, and goes on without us.
            let _ = draft.write(piece(mark)).now_or_never();
        }
        draft.write(piece(30)).await.unwrap();
        let all: Vec<u8> = (0..31).flat_map(piece).collect();
        assert_eq!(draft.gather().unwrap(), all);
        let note = Note { length: draft.written(), ..Note::default() };
        let key = Key::new("download/x.zip").unwrap();
        draft.commit(&key, &note).unwrap();
        let kept = draft.disk.as_ref().unwrap().look(&key).unwrap().unwrap();
        assert_eq!(kept.record.sha256, super::super::disk::hash(&all));
    }
}
