//! Memory in front, disk behind: where a thing is found, and where it goes.
//!
//! Small things go into memory when they are kept or first read, larger ones when they are asked
//! for a second time. A look at the disk is one hop off the worker, whatever it takes there. The
//! hop that keeps something also sees to it that the folder stays below its size.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::runtime::Handle;

use super::content::{Content, Filed};
use super::disk::{self, Damage, Disk, Kept};
use super::draft::Draft;
use super::evict::{self, Uses};
use super::growth::{Budget, Growth, PIECE, SMALL};
use super::memory::{Look, Memory, Ticket};
use super::tally::{Lookup, Tally};
use super::{Config, Error, Found, Key, Note, Stat};

/// All that the handles of one cache share, but for the fills under way.
pub(super) struct Store {
    pub disk: Option<Arc<Disk>>,
    pub memory: Memory,
    pub tally: Tally,
    pub runtime: Handle,
    size: u64,
    budget: Arc<Budget>,
    // Locked for each hit, to write down that there was one.
    uses: Mutex<Uses>,
    /// Held by the thread that evicts.
    evicting: Mutex<()>,
}

/// What memory had to say.
pub(super) enum Recalled {
    Found(Found),
    Forgotten(Option<Ticket>),
}

impl Store {
    pub(super) fn open(config: Config, runtime: Handle, tally: Tally) -> Result<Arc<Store>, Error> {
        let disk = config.dir.as_deref().map(Disk::open).transpose()?.map(Arc::new);
        let store = Arc::new(Store {
            disk,
            memory: Memory::new(config.memory),
            tally,
            runtime,
            size: config.size,
            budget: Arc::new(Budget::new(UNSPILLED)),
            uses: Mutex::default(),
            evicting: Mutex::default(),
        });
        let counting = Arc::clone(&store);
        store.runtime.spawn_blocking(move || counting.count());
        Ok(store)
    }

    /// Looks in memory.
    pub(super) fn recall(self: &Arc<Store>, key: &Key) -> Recalled {
        let (note, bytes) = match self.memory.look(key) {
            Look::Hit(note, bytes) => (note, bytes),
            Look::Miss(ticket) => return Recalled::Forgotten(ticket),
        };
        self.tally.look_up(Lookup::Memory);
        let now = disk::now();
        if let (true, Some(disk)) = (self.uses().mark(key, now).is_due, self.disk.clone()) {
            let key = key.clone();
            self.runtime.spawn_blocking(move || disk.touch(&key, now));
        }
        Recalled::Found(Found { note, content: Content::whole(bytes) })
    }

    /// Looks on the disk.
    pub(super) async fn fetch(self: &Arc<Store>, key: &Key, ticket: Option<Ticket>) -> Option<Found> {
        let found = match self.disk.clone().filter(|_| key.is_keepable()) {
            None => None,
            Some(disk) => {
                let (store, key) = (Arc::clone(self), key.clone());
                // A runtime that goes down has no answers.
                self.runtime.spawn_blocking(move || store.read(&disk, &key, ticket)).await.ok().flatten()
            }
        };
        self.tally.look_up(if found.is_some() { Lookup::Disk } else { Lookup::Miss });
        found
    }

    /// The place where a fill's bytes come together.
    pub(super) fn growth(&self) -> Arc<Growth> {
        Growth::new(Arc::clone(&self.budget), self.runtime.clone(), self.disk.is_some())
    }

    /// Puts a finished draft where the next look finds it; false where there is no such place.
    pub(super) async fn keep(self: &Arc<Store>, key: &Key, note: Note, draft: Draft) -> bool {
        let (store, key) = (Arc::clone(self), key.clone());
        let keeping = self.runtime.spawn_blocking(move || {
            store.keep_on_disk(&key, &note, |_| draft.commit(&key, &note)).is_ok()
                || store.keep_in_memory(&key, note, &draft)
        });
        keeping.await.unwrap_or(false)
    }

    /// Keeps a small thing that is whole.
    pub(super) async fn put(self: &Arc<Store>, key: &Key, note: Note, bytes: Bytes) -> Result<(), Error> {
        let is_held = self.memory.insert(key, note.clone(), bytes.clone());
        let (store, key) = (Arc::clone(self), key.clone());
        let keep = move || store.keep_on_disk(&key, &note, |disk| disk.put(&key, &bytes, &note));
        let keeping = self.runtime.spawn_blocking(keep);
        let kept = keeping.await.unwrap_or(Err(Error::Abandoned));
        self.weigh();
        match kept {
            Err(error) if !is_held => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes a new note for what is held.
    pub(super) async fn annotate<F>(self: &Arc<Store>, key: &Key, change: F) -> Result<(), Error>
    where
        F: FnOnce(&mut Note) + Clone + Send + 'static,
    {
        let (path, on_disk) = (key.clone(), change.clone());
        let written = self.change_disk(move |disk| disk.annotate(&path, on_disk)).await;
        self.memory.annotate(key, change);
        written
    }

    /// Forgets what is held.
    pub(super) async fn remove(self: &Arc<Store>, key: &Key) -> Result<(), Error> {
        let path = key.clone();
        let removed = self.change_disk(move |disk| if path.is_keepable() { disk.remove(&path) } else { Ok(()) }).await;
        self.memory.remove(key);
        self.weigh();
        removed
    }

    /// How much is held, fills aside.
    pub(super) fn stat(&self) -> Stat {
        let (memory_bytes, memory_entries) = self.memory.weigh();
        let disk_bytes = self.disk.as_ref().map_or(0, |disk| disk.total());
        let keeps_on_disk = self.disk.as_ref().is_some_and(|disk| !disk.is_ailing());
        Stat { disk_bytes, memory_bytes, memory_entries, fills: 0, keeps_on_disk }
    }

    async fn change_disk<F>(&self, change: F) -> Result<(), Error>
    where
        F: FnOnce(&Disk) -> std::io::Result<()> + Send + 'static,
    {
        let Some(disk) = self.disk.clone() else { return Ok(()) };
        let changing = self.runtime.spawn_blocking(move || change(&disk).map_err(|error| disk.explain(&error)));
        changing.await.unwrap_or(Err(Error::Abandoned))
    }

    fn read(&self, disk: &Disk, key: &Key, ticket: Option<Ticket>) -> Option<Found> {
        let kept = match disk.look(key) {
            Ok(kept) => kept?,
            Err(damage) => {
                self.tally.drop_damaged(damage);
                return None;
            }
        };
        let usage = self.uses().mark(key, disk::now());
        if usage.is_due {
            disk.touch(key, usage.at);
        }
        let content = self.pick_up(disk, key, &kept, ticket, usage.hits)?;
        Some(Found { note: kept.record.note, content })
    }

    /// Takes a kept file into memory, or opens it to be read in pieces.
    fn pick_up(&self, disk: &Disk, key: &Key, kept: &Kept, ticket: Option<Ticket>, hits: u32) -> Option<Content> {
        let length = kept.record.note.length;
        let is_hot = length <= SMALL || hits >= 2 && length <= LARGE;
        let ticket = ticket.filter(|_| is_hot).and_then(|mut ticket| ticket.reserve(length).then_some(ticket));
        if ticket.is_none() && length > SMALL {
            return self.open_filed(kept);
        }
        let bytes = disk::read_piece(&kept.file, 0, length as usize).ok()?;
        // What is in memory is not looked at again for long, so it is looked at closely now.
        if disk::hash(&bytes) != kept.record.sha256 {
            if disk.drop_damaged(key, &kept.record, Damage::Altered) {
                self.tally.drop_damaged(Damage::Altered);
            }
            return None;
        }
        if let Some(ticket) = ticket {
            ticket.fill(kept.record.note.clone(), bytes.clone());
            self.weigh();
        }
        Some(Content::whole(bytes))
    }

    fn open_filed(&self, kept: &Kept) -> Option<Content> {
        let (file, length) = (Arc::clone(&kept.file), kept.record.note.length);
        let ahead = disk::read_piece(&file, 0, length.min(PIECE) as usize).ok()?;
        Some(Content::filed(Filed { file, length, ahead, at: 0, runtime: self.runtime.clone() }))
    }

    fn keep_on_disk<F>(&self, key: &Key, note: &Note, write: F) -> Result<(), Error>
    where
        F: FnOnce(&Disk) -> std::io::Result<()>,
    {
        let Some(disk) = self.disk.as_deref().filter(|_| key.is_keepable()) else { return Err(Error::Unheld) };
        self.uses().store(key, disk::now());
        let written = write(disk);
        // A look that began before may have read what lay there until now.
        self.memory.spoil(key);
        disk.report(note.length, written.as_ref().map(|_| ()));
        written.map_err(|error| disk.explain(&error))?;
        tracing::debug!(%key, length = note.length, "kept");
        if disk.is_crowded(self.size) {
            self.evict();
        }
        self.weigh();
        Ok(())
    }

    /// The second best place, where there is no disk or it is full.
    fn keep_in_memory(&self, key: &Key, note: Note, draft: &Draft) -> bool {
        let is_held = note.length <= LARGE && draft.gather().is_ok_and(|bytes| self.memory.insert(key, note, bytes));
        self.weigh();
        is_held
    }

    /// Counts what lies in the folder, and sees whether something must go.
    fn count(&self) {
        let Some(disk) = self.disk.as_deref() else { return };
        match disk.survey(|_| ()) {
            Ok(()) if disk.is_crowded(self.size) => self.evict(),
            Ok(()) => self.weigh(),
            Err(error) => tracing::warn!(%error, folder = %disk.dir().display(), "could not count the cache folder"),
        }
    }

    /// Removes what must go, so that the folder is below its size. One thread of one process does.
    fn evict(&self) {
        let Some(disk) = self.disk.as_deref() else { return };
        let Ok(_one_thread) = self.evicting.try_lock() else { return };
        if let Err(error) = self.evict_from(disk) {
            tracing::warn!(%error, folder = %disk.dir().display(), "could not see what may leave the cache folder");
        }
        self.weigh();
    }

    fn evict_from(&self, disk: &Disk) -> std::io::Result<()> {
        let Some(_one_process) = disk.lock_eviction()? else { return Ok(()) };
        let mut held = Vec::new();
        disk.survey(|file| held.push(file))?;
        self.uses().correct(&mut held);
        let leaving = evict::choose(held, self.size);
        let gone: Vec<u64> =
            leaving.iter().filter(|file| disk.remove(&file.key).is_ok()).map(|file| file.size).collect();
        if !gone.is_empty() {
            let bytes = gone.iter().sum();
            self.tally.evict(gone.len() as u64, bytes);
            tracing::info!(files = gone.len(), bytes, left = disk.total(), "made room in the cache folder");
        }
        Ok(())
    }

    /// Brings the gauges up to date.
    fn weigh(&self) {
        let stat = self.stat();
        self.tally.weigh(stat.disk_bytes, stat.memory_bytes);
    }

    fn uses(&self) -> MutexGuard<'_, Uses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much all fills together may hold in memory when no disk takes it.
const UNSPILLED: u64 = 64 << 20;
/// What is longer is never taken into memory.
const LARGE: u64 = 64 << 20;
