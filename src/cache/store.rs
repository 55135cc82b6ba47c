//! Memory in front, disk behind: where a thing is found, and where it goes.
//!
//! Small things go into memory when they are kept or first read, larger ones when they are asked
//! for a second time. A look at the disk is one hop off the worker, whatever it takes there. The
//! hop that keeps something also sees to it that the folder stays below its size.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::runtime::Handle;

use super::content::{Content, Filed, tag};
use super::disk::{self, Damage, Disk, Kept};
use super::draft::Draft;
use super::evict::{self, Bound, Held, Reason, Uses};
use super::growth::{Budget, Growth, PIECE, SMALL};
use super::memory::{Look, Memory, Ticket};
use super::tally::{Lookup, Tally};
use super::{Config, Error, Found, Key, Note, Pins, Stat};
use crate::metrics::{Live, Registry, one};

/// All that the handles of one cache share, but for the fills under way.
pub(super) struct Store {
    pub disk: Option<Arc<Disk>>,
    pub memory: Memory,
    pub tally: Tally,
    pub runtime: Handle,
    size: u64,
    pins: Pins,
    budget: Arc<Budget>,
    // Locked for each hit, to write down that there was one.
    uses: Mutex<Uses>,
    /// Held by the thread that evicts.
    evicting: Mutex<()>,
    /// How many bytes lay there when no more could leave; 0 when the last eviction reached its goal.
    stuck: AtomicU64,
    // Locked for a look at the clock, and to note what was read.
    removals: Mutex<Removals>,
}

/// What is known of what other processes took out.
struct Removals {
    checked: u64,
    number: Option<String>,
}

/// What the disk had to say.
enum Read {
    Found(Found),
    /// It is to be read in pieces, and was not hashed as it now is.
    Unproven(Kept),
}

/// What memory had to say.
pub(super) enum Recalled {
    Found(Found),
    Forgotten(Option<Ticket>),
}

impl Store {
    pub(super) fn open(config: Config, runtime: Handle, tally: Tally) -> Result<Arc<Store>, Error> {
        let disk = config.dir.as_deref().map(Disk::open).transpose()?.map(Arc::new);
        let removals = Removals { checked: disk::now(), number: disk.as_ref().and_then(|disk| disk.removals()) };
        let store = Arc::new(Store {
            disk,
            memory: Memory::new(config.memory),
            tally,
            runtime,
            size: config.size,
            pins: config.pins,
            budget: Arc::new(Budget::new(UNSPILLED)),
            uses: Mutex::default(),
            evicting: Mutex::default(),
            stuck: AtomicU64::new(0),
            removals: Mutex::new(removals),
        });
        let counting = Arc::clone(&store);
        store.runtime.spawn_blocking(move || counting.count());
        Ok(store)
    }

    /// Forgets what is in memory when another process has taken something out of the folder. Whoever is the
    /// first in a second to look in memory sees to it; so what was taken out is served for a second at most.
    pub(super) async fn heed_removals(self: &Arc<Store>) {
        let now = disk::now();
        {
            let mut removals = self.removals();
            if now.abs_diff(removals.checked) < HEEDED_EVERY {
                return;
            }
            removals.checked = now;
        }
        let Some(disk) = self.disk.clone() else { return };
        let read = self.runtime.spawn_blocking(move || disk.removals()).await;
        let Ok(number) = read else { return };
        let mut removals = self.removals();
        if removals.number != number {
            removals.number = number;
            self.memory.clear();
            tracing::debug!("something was taken out of the cache folder: what is in memory is forgotten");
        }
    }

    /// Whether it is time to see if another process took something out.
    pub(super) fn is_behind(&self) -> bool {
        disk::now().abs_diff(self.removals().checked) >= HEEDED_EVERY
    }

    /// Lets the next look see whether something was taken out.
    #[cfg(test)]
    pub(super) fn forget_when_it_looked(&self) {
        self.removals().checked = 0;
    }

    /// Looks in memory.
    pub(super) fn recall(self: &Arc<Store>, key: &Key) -> Recalled {
        let (note, bytes, tag) = match self.memory.look(key) {
            Look::Hit(note, bytes, tag) => (note, bytes, tag),
            Look::Miss(ticket) => return Recalled::Forgotten(ticket),
        };
        Recalled::Found(self.found_in_memory(key, note, bytes, tag))
    }

    /// Looks in memory for what passes, and leaves everything else to whoever comes next.
    pub(super) fn recall_if(self: &Arc<Store>, key: &Key, passes: impl FnOnce(&Note) -> bool) -> Option<Found> {
        let (note, bytes, tag) = self.memory.held(key)?;
        passes(&note).then(|| self.found_in_memory(key, note, bytes, tag))
    }

    fn found_in_memory(self: &Arc<Store>, key: &Key, note: Arc<Note>, bytes: Bytes, tag: Bytes) -> Found {
        self.tally.look_up(Lookup::Memory);
        let now = disk::now();
        if let (true, Some(disk)) = (self.uses().mark(key, now).is_due, self.disk.clone()) {
            let key = key.clone();
            self.runtime.spawn_blocking(move || disk.touch(&key, now));
        }
        Found { note, content: Content::whole(bytes, tag) }
    }

    /// Looks on the disk.
    pub(super) async fn fetch(self: &Arc<Store>, key: &Key, ticket: Option<Ticket>) -> Option<Found> {
        let found = match self.disk.clone().filter(|_| key.is_keepable()) {
            None => None,
            Some(disk) => self.fetch_from(disk, key, ticket).await,
        };
        self.tally.look_up(if found.is_some() { Lookup::Disk } else { Lookup::Miss });
        found
    }

    async fn fetch_from(self: &Arc<Store>, disk: Arc<Disk>, key: &Key, ticket: Option<Ticket>) -> Option<Found> {
        let (store, reading, path) = (Arc::clone(self), Arc::clone(&disk), key.clone());
        // A runtime that goes down has no answers.
        let read = self.runtime.spawn_blocking(move || store.read(&reading, &path, ticket)).await;
        let kept = match read.ok().flatten()? {
            Read::Found(found) => return Some(found),
            Read::Unproven(kept) => kept,
        };
        let _turn = disk.proven.turn(&kept.record).await;
        let (store, proving, path) = (Arc::clone(self), Arc::clone(&disk), key.clone());
        self.runtime.spawn_blocking(move || store.prove(&proving, &path, kept)).await.ok().flatten()
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
        let take_out = move |disk: &Disk| {
            if path.is_keepable() {
                disk.remove(&path)?;
                // One that is not told serves it from memory until it forgets; the file is gone all the same.
                let _ = disk.announce_removal();
            }
            Ok(())
        };
        let removed = self.change_disk(take_out).await;
        self.memory.remove(key);
        self.weigh();
        removed
    }

    /// How much is held, fills aside.
    pub(super) fn stat(&self) -> Stat {
        let (memory_bytes, memory_entries) = self.memory.weigh();
        let disk_bytes = self.disk.as_ref().map_or(0, |disk| disk.total());
        let keeps_on_disk = self.disk.as_ref().is_some_and(|disk| !disk.is_ailing());
        let (evicted, evicted_bytes) = self.tally.evicted();
        let size = self.size;
        Stat { disk_bytes, memory_bytes, memory_entries, fills: 0, size, evicted, evicted_bytes, keeps_on_disk }
    }

    /// Lets scrapers see what is looked at, not counted.
    pub(super) fn show(self: &Arc<Store>, registry: &Registry) {
        let read = |read: fn(Stat) -> f64| {
            let store = Arc::downgrade(self);
            move || one(store.upgrade().map(|store| read(store.stat())))
        };
        registry.room("cache", |room| {
            let (limit, keeps) = ("What the cache folder may hold", "Whether what is fetched goes to disk");
            room.register_collector(Live::gauge("limit_bytes", limit, read(|stat| stat.size as f64)));
            let read = read(|stat| f64::from(u8::from(stat.keeps_on_disk)));
            room.register_collector(Live::gauge("keeps_on_disk", keeps, read));
        });
    }

    async fn change_disk<F>(&self, change: F) -> Result<(), Error>
    where
        F: FnOnce(&Disk) -> std::io::Result<()> + Send + 'static,
    {
        let Some(disk) = self.disk.clone() else { return Ok(()) };
        let changing = self.runtime.spawn_blocking(move || change(&disk).map_err(|error| disk.explain(&error)));
        changing.await.unwrap_or(Err(Error::Abandoned))
    }

    fn read(&self, disk: &Disk, key: &Key, ticket: Option<Ticket>) -> Option<Read> {
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
        let length = kept.record.note.length;
        let is_hot = length <= SMALL || usage.hits >= 2 && length <= LARGE;
        let ticket = ticket.filter(|_| is_hot).and_then(|mut ticket| ticket.reserve(length).then_some(ticket));
        match ticket {
            None if length > SMALL && disk.is_proven(&kept) => self.open_filed(kept).map(Read::Found),
            None if length > SMALL => Some(Read::Unproven(kept)),
            ticket => self.pick_up(disk, key, kept, ticket).map(Read::Found),
        }
    }

    /// Opens a file to be read in pieces, once it is known to be right.
    fn prove(&self, disk: &Disk, key: &Key, kept: Kept) -> Option<Found> {
        match disk.prove(&kept) {
            Ok(true) => self.open_filed(kept),
            Ok(false) => None,
            Err(damage) => self.drop_damaged(disk, key, &kept, damage),
        }
    }

    /// Reads a file whole, and takes it into memory if there is room for it.
    fn pick_up(&self, disk: &Disk, key: &Key, kept: Kept, ticket: Option<Ticket>) -> Option<Found> {
        let bytes = disk::read_piece(&kept.file, 0, kept.record.note.length as usize).ok()?;
        if disk::hash(&bytes) != kept.record.sha256 {
            return self.drop_damaged(disk, key, &kept, Damage::Altered);
        }
        let (note, tag) = (kept.record.note, tag(&kept.record.sha256));
        if let Some(ticket) = ticket {
            ticket.fill(note.clone(), bytes.clone(), tag.clone());
            self.weigh();
        }
        Some(Found { note: Arc::new(note), content: Content::whole(bytes, tag) })
    }

    /// Drops what is not as recorded, unless somebody has mended it since; there is nothing to give either way.
    fn drop_damaged(&self, disk: &Disk, key: &Key, kept: &Kept, damage: Damage) -> Option<Found> {
        if disk.drop_damaged(key, &kept.record, damage) {
            self.tally.drop_damaged(damage);
        }
        None
    }

    fn open_filed(&self, kept: Kept) -> Option<Found> {
        let Kept { file, record, .. } = kept;
        let length = record.note.length;
        let ahead = disk::read_piece(&file, 0, length.min(PIECE) as usize).ok()?;
        let filed = Filed { file, length, ahead, at: 0, runtime: self.runtime.clone() };
        Some(Found { content: Content::filed(filed, tag(&record.sha256)), note: Arc::new(record.note) })
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
        if self.is_crowded(disk) {
            self.evict();
        }
        self.weigh();
        Ok(())
    }

    /// Whether it is time to see what must go. Where no more could leave the last time (the rest is pinned),
    /// it is tried again after some more has come.
    fn is_crowded(&self, disk: &Disk) -> bool {
        let total = disk.total();
        let stuck = self.stuck.fetch_min(total, Ordering::Relaxed).min(total);
        let is_too_much =
            || total > stuck + stuck.min(PROGRESS) && evict::bound(total, self.size, disk.space()).is_some();
        disk.wants_survey(self.size) || is_too_much()
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
            Ok(()) if self.is_crowded(disk) => self.evict(),
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
        let bound = evict::bound(disk.total(), self.size, disk.space());
        held.retain(|file| !self.pins.cover(&file.key));
        let excess = bound.map_or(0, |bound| disk.total().saturating_sub(bound.goal));
        // Some 20 ms for 100,000 files, once for each tenth of the folder that is written.
        let mut leaving = evict::choose(held, excess, &mut self.uses());
        leaving.retain(|file| disk.remove(&file.key).is_ok());
        self.tell_leaving(disk, &leaving, bound);
        let is_enough = bound.is_none_or(|bound| disk.total() <= bound.goal);
        self.stuck.store(if is_enough { 0 } else { disk.total() }, Ordering::Relaxed);
        Ok(())
    }

    /// Says in one line what went and why.
    fn tell_leaving(&self, disk: &Disk, gone: &[Held], bound: Option<Bound>) {
        let (files, bytes) = (gone.len(), gone.iter().map(|file| file.size).sum::<u64>());
        let reason = bound.map_or(Reason::Absences, |bound| bound.reason).describe();
        if let Some(oldest) = gone.iter().map(|file| file.used).min() {
            self.tally.evict(files as u64, bytes);
            let oldest = spell_time(oldest);
            tracing::info!(reason, files, bytes, %oldest, left = disk.total(), "made room in the cache folder; oldest is the last use of what went");
        }
        if let Some(bound) = bound.filter(|bound| disk.total() > bound.goal) {
            tracing::warn!(
                reason,
                left = disk.total(),
                goal = bound.goal,
                "nothing more may leave the cache folder: the rest is pinned (cache.pins), or cannot be removed"
            );
        }
    }

    /// Brings the gauges up to date.
    fn weigh(&self) {
        let stat = self.stat();
        self.tally.weigh(stat.disk_bytes, stat.memory_bytes);
    }

    fn removals(&self) -> MutexGuard<'_, Removals> {
        self.removals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uses(&self) -> MutexGuard<'_, Uses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spell_time(ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ns)).map_or_else(|_| "unknown".to_owned(), |at| format!("{at:.0}"))
}

/// What must have come after an eviction that could not reach its goal, before the next is tried.
const PROGRESS: u64 = 64 << 20;
/// How often somebody looks whether another process took something out: a second.
const HEEDED_EVERY: u64 = 1_000_000_000;
/// How much all fills together may hold in memory when no disk takes it.
const UNSPILLED: u64 = 64 << 20;
/// What is longer is never taken into memory.
const LARGE: u64 = 64 << 20;
