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
    /// Started over after readers were let in: a producer's mistake that must not mix bytes.
    is_spoilt: bool,
}

impl Draft {
    pub(super) fn new(growth: Arc<Growth>, disk: Option<Arc<Disk>>) -> Draft {
        let sink = disk.clone().map(|disk| Sink::new(disk, 0));
        Draft { growth, disk, sink, is_spoilt: false }
    }

    /// Adds a piece. Fails where there is no room for it, or where it is more than was promised.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), Error> {
        if self.is_spoilt {
            return Err(Error::Released);
        }
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

    /// Forgets what was written. Only before `release`; afterwards the draft is lost.
    pub fn restart(&mut self) {
        let Some(generation) = self.growth.restart(self.disk.is_some()) else {
            self.is_spoilt = true;
            return;
        };
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
        if self.is_spoilt {
            return Err(Error::Released);
        }
        self.growth.check_length()
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

    async fn spill(&self) {
        let Some(sink) = self.sink.clone() else { return };
        let growth = Arc::clone(&self.growth);
        let spilling = self.growth.runtime.spawn_blocking(move || {
            let mut sink = lock(&sink);
            if let Err(error) = sink.spill(&growth) {
                sink.disk.report(Err(&error));
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
