//! The cache folder: what lies where, and in which order it gets there.
//!
//! ```text
//! layout               the version of all this, a number and a newline
//! download/…           a GOMODCACHE/cache/download tree, and nothing else: go may read it by file://
//! hosts/…, sumdb/…     other pools of files; a pool is any folder that has notes
//! notes/<key>.json     a record for each kept file: key, note, SHA-256
//! tmp/…                files being written, each locked by its writer
//! evict.lock           locked by the process that evicts
//! removals             a number, another one whenever something was taken out on purpose
//! ```
//!
//! **Keeping** is: write aside, sync, take away the old record, rename the file into place, sync its
//! folder, then put the new record beside in the same manner. Whatever moment a crash chooses leaves
//! nothing, or a file without a record (which nobody is given, and the next fill overwrites), or
//! both. Should a power cut or another process mix an old record with a new file all the same, the
//! record's length and hash do not fit, and the pair is dropped.
//!
//! **Looking** finds a file as long as recorded; whoever gives it out holds it against the hash. What goes out
//! whole, or into memory, is hashed each time; what is read in pieces is hashed once, and again when the file
//! system says that anything about it has changed ([`Proven`]). What is not as recorded is dropped.
//!
//! Everything here blocks, and belongs on threads that may.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tempfile::TempPath;

use super::evict::{Held, Space, is_absence};
use super::growth::SMALL;
use super::key::{EVICTING, LAYOUT, NOTES, REMOVALS, SCRATCH, shield};
use super::proven::{Proven, Stamp};
use super::{Error, Key, Note};

/// The cache folder of one process, perhaps shared with others.
pub(super) struct Disk {
    dir: PathBuf,
    /// Bytes in the pools, as far as this process knows; put right by every survey.
    total: AtomicU64,
    /// Bytes kept since the last survey.
    added: AtomicU64,
    /// One of them is held while a key's file or record changes, so that within this process the
    /// two always change together.
    writers: [Mutex<()>; 64],
    pub(super) proven: Proven,
    /// The least that the folder had no room for, until it takes as much again; `u64::MAX` while it
    /// is well. A nearly full disk takes small files in between, which is no recovery.
    refused: AtomicU64,
    /// Something else is mounted above: this file system is there for us alone.
    is_own_mount: bool,
    #[cfg(test)]
    pub(super) room: AtomicU64,
    /// What a test says of the file system, given how much of it is ours, in place of what it says itself.
    #[cfg(test)]
    pub(super) pretended: Mutex<Option<Pretence>>,
}

#[cfg(test)]
pub(super) type Pretence = fn(u64) -> Space;

/// What lies beside a kept file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Record {
    /// Told again, because some file systems have one place for several spellings.
    pub key: String,
    pub note: Note,
    pub sha256: String,
}

/// A kept file, open and as recorded.
pub(super) struct Kept {
    pub file: Arc<File>,
    pub record: Record,
    stamp: Stamp,
}

/// In what way a kept file was not as recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Damage {
    Missing,
    /// Something else lies in its place: a folder, a pipe.
    Replaced,
    Short,
    Altered,
}

impl Damage {
    pub(super) const ALL: [Damage; 4] = [Damage::Missing, Damage::Replaced, Damage::Short, Damage::Altered];

    pub(super) fn describe(self) -> &'static str {
        match self {
            Damage::Missing => "missing",
            Damage::Replaced => "replaced",
            Damage::Short => "short",
            Damage::Altered => "altered",
        }
    }
}

/// What a close look at a kept file found.
pub(super) enum Inspected {
    /// As recorded, to the last byte.
    Right(Kept),
    /// There is neither file nor record.
    Gone,
    /// A file without a record: nobody is given it. An interrupted write leaves such, for a moment also
    /// one that goes on.
    Unnoted,
    Damaged(Record, Damage),
}

/// A file being written. Unless it is committed it goes when this does.
pub(super) struct Scratch {
    pub file: Arc<File>,
    path: TempPath,
}

impl Disk {
    /// Opens a folder, makes what is missing of it, and sweeps what dead writers left.
    pub(super) fn open(dir: &Path) -> Result<Disk, Error> {
        let refuse = |error: io::Error| Error::Folder { path: dir.to_owned(), why: error.to_string() };
        let has_layout = check_layout(dir)?;
        for folder in [dir.to_owned(), dir.join(NOTES), dir.join(SCRATCH)] {
            make_folder(&folder).map_err(refuse)?;
        }
        let disk = Disk::new(dir);
        disk.sweep().map_err(refuse)?;
        disk.scratch().map_err(refuse)?;
        if !has_layout {
            disk.write_layout().map_err(refuse)?;
        }
        Ok(disk)
    }

    /// Opens a folder that is there already, and changes nothing; none where there is none.
    pub(super) fn open_existing(dir: &Path) -> Result<Option<Disk>, Error> {
        Ok(check_layout(dir)?.then(|| Disk::new(dir)))
    }

    fn new(dir: &Path) -> Disk {
        Disk {
            dir: dir.to_owned(),
            total: AtomicU64::new(0),
            added: AtomicU64::new(0),
            writers: std::array::from_fn(|_| Mutex::new(())),
            proven: Proven::default(),
            refused: AtomicU64::new(u64::MAX),
            is_own_mount: is_mount(dir),
            #[cfg(test)]
            room: AtomicU64::new(u64::MAX),
            #[cfg(test)]
            pretended: Mutex::new(None),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens what is kept under `key`. A file that is not as recorded is dropped.
    pub(super) fn look(&self, key: &Key) -> Result<Option<Kept>, Damage> {
        for _ in 0..LOOKS {
            let Some(record) = self.read_record(key) else { return Ok(None) };
            match self.open_recorded(key, &record) {
                Ok(found) => return Ok(found.map(|(file, stamp)| Kept { file: Arc::new(file), record, stamp })),
                Err(damage) if self.drop_damaged(key, &record, damage) => return Err(damage),
                // The record is another by now: a writer was at work between our two steps.
                Err(_) => (),
            }
        }
        Ok(None)
    }

    /// Looks closely at what is kept under `key`: every byte is hashed, and nothing is dropped.
    pub(super) fn inspect(&self, key: &Key) -> Inspected {
        for _ in 0..LOOKS {
            let Some(record) = self.read_record(key) else {
                let is_there = self.dir.join(key.file_path()).is_file();
                return if is_there { Inspected::Unnoted } else { Inspected::Gone };
            };
            let damage = match self.open_recorded(key, &record) {
                Ok(Some((file, stamp))) if hash_file(&file).ok().as_ref() == Some(&record.sha256) => {
                    return Inspected::Right(Kept { file: Arc::new(file), record, stamp });
                }
                Ok(_) => Damage::Altered,
                Err(damage) => damage,
            };
            if self.read_record(key).is_some_and(|now| now == record) {
                return Inspected::Damaged(record, damage);
            }
        }
        Inspected::Gone
    }

    /// Drops a file that is not as recorded, unless the record has changed since it was read.
    pub(super) fn drop_damaged(&self, key: &Key, record: &Record, damage: Damage) -> bool {
        let _writer = self.lock_writer(key);
        if self.read_record(key).is_none_or(|now| now != *record) {
            return false;
        }
        tracing::warn!(%key, damage = damage.describe(), "cached file is not as it was kept: dropped, to be fetched again");
        // What cannot be removed cannot be believed either: the next look comes to the same end.
        let _ = self.remove_both(key);
        true
    }

    /// Opens a file to write into, locked so that no process sweeps it away.
    pub(super) fn scratch(&self) -> io::Result<Scratch> {
        let made = self.make_scratch();
        // A folder of ours that is none is no quarrel between two keys.
        made.map_err(|error| if is_misplaced(&error) { io::Error::other(error) } else { error })
    }

    /// Writes into a file of ours.
    pub(super) fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        #[cfg(test)]
        self.spend_room(bytes.len() as u64)?;
        write_all_at(file, bytes, at)
    }

    /// Puts a written file and its record into place.
    pub(super) fn commit(&self, key: &Key, scratch: Scratch, note: &Note, sha256: String) -> io::Result<()> {
        scratch.file.sync_data()?;
        let record = Record { key: key.to_string(), note: note.clone(), sha256 };
        let _writer = self.lock_writer(key);
        let place = self.dir.join(key.file_path());
        let before = file_length(&place);
        remove_if_there(&self.dir.join(key.note_path()))?;
        rename(scratch.path, &place)?;
        // Windows lets nobody read what another has locked.
        let _ = scratch.file.unlock();
        // It was hashed on its way here; a small one will be again.
        if note.length > SMALL
            && let Ok(metadata) = scratch.file.metadata()
        {
            self.proven.note(&record, Stamp::of(&metadata));
        }
        self.account(before, note.length);
        if is_absence(key) {
            // So many of them are to be counted that their bytes would never say.
            self.added.fetch_add(ABSENCE, Ordering::Relaxed);
        }
        let recorded = sync_folder(&place).and_then(|()| self.write_record(key, &record));
        if recorded.is_err() {
            // Without a record it would only take up room.
            let _ = self.remove_both(key);
        }
        recorded
    }

    /// Keeps a small thing that is whole.
    pub(super) fn put(&self, key: &Key, bytes: &[u8], note: &Note) -> io::Result<()> {
        let scratch = self.scratch()?;
        self.write_at(&scratch.file, bytes, 0)?;
        self.commit(key, scratch, note, hash(bytes))
    }

    /// Writes a file for others to read, made of what is kept. It has no record, is given to nobody by us, and
    /// is not synced: what a power cut takes of it is made again.
    pub(super) fn set_out(&self, key: &Key, bytes: &[u8]) -> io::Result<()> {
        let place = self.dir.join(key.file_path());
        let before = file_length(&place);
        self.write_aside(&place, bytes)?;
        self.account(before, bytes.len() as u64);
        Ok(())
    }

    /// The same, where it is a kept file as it stands: a second name for that, or a copy where there is none.
    pub(super) fn set_out_same(&self, key: &Key, kept: &Key) -> io::Result<()> {
        let (from, place) = (self.dir.join(kept.file_path()), self.dir.join(key.file_path()));
        if let Some(folder) = place.parent() {
            make_folder(folder)?;
        }
        match fs::hard_link(&from, &place) {
            Ok(()) => self.account(0, file_length(&place)),
            Err(_) => self.set_out(key, &fs::read(&from)?)?,
        }
        Ok(())
    }

    /// Every file below a folder of a pool, with its size, whatever is known about it.
    pub(super) fn files_below(&self, below: &Key) -> Vec<(Key, u64)> {
        let (mut folders, mut found) = (vec![self.dir.join(below.file_path())], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                    Ok(_) => found.extend(self.measure(&entry.path()).map(|held| (held.key, held.size))),
                    Err(_) => {}
                }
            }
        }
        found
    }

    /// Every record whose file is not there any more, or is no file.
    pub(super) fn lost(&self) -> Vec<Record> {
        let (mut folders, mut lost) = (vec![self.dir.join(NOTES)], Vec::new());
        let is_there = |key: &Key| fs::metadata(self.dir.join(key.file_path())).is_ok_and(|place| place.is_file());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                    continue;
                }
                let record = read_record(&entry.path());
                lost.extend(record.filter(|record| Key::new(&record.key).is_some_and(|key| !is_there(&key))));
            }
        }
        lost
    }

    /// Writes a new note for a kept file, if there is one.
    pub(super) fn annotate(&self, key: &Key, change: impl FnOnce(&mut Note)) -> io::Result<()> {
        let _writer = self.lock_writer(key);
        let Some(mut record) = self.read_record(key) else { return Ok(()) };
        change(&mut record.note);
        self.write_record(key, &record)
    }

    /// Writes down that a file is used.
    pub(super) fn touch(&self, key: &Key, now: u64) {
        let record = File::options().write(true).open(self.dir.join(key.note_path()));
        // A use that is not written down makes the file leave a little early, and no more.
        let _ = record.and_then(|record| record.set_modified(UNIX_EPOCH + Duration::from_nanos(now)));
    }

    /// The number that says what was taken out on purpose; it says nothing until something was.
    pub(super) fn removals(&self) -> Option<String> {
        fs::read_to_string(self.dir.join(REMOVALS)).ok()
    }

    /// Tells other processes that something was taken out, so that they forget what they have in memory.
    pub(super) fn announce_removal(&self) -> io::Result<()> {
        self.write_aside(&self.dir.join(REMOVALS), format!("{:016x}\n", fastrand::u64(..)).as_bytes())
    }

    /// The file system under the folder, where it can be asked.
    pub(super) fn space(&self) -> Option<Space> {
        #[cfg(test)]
        if let Some(pretended) = *self.pretended.lock().unwrap_or_else(PoisonError::into_inner) {
            return Some(pretended(self.total()));
        }
        let (total, free) = measure_space(&self.dir)?;
        Some(Space { total, free, is_ours: self.is_own_mount })
    }

    /// Removes a file and its record.
    pub(super) fn remove(&self, key: &Key) -> io::Result<()> {
        let _writer = self.lock_writer(key);
        self.remove_both(key)
    }

    /// Becomes the one process that evicts; none while another does.
    pub(super) fn lock_eviction(&self) -> io::Result<Option<File>> {
        let lock = File::options().create(true).append(true).open(self.dir.join(EVICTING))?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(None),
            // Where there are no locks, two who evict remove a little too much, and nothing wrong.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Some(lock)),
        }
    }

    /// Shows every file in the pools, with its size and its last use, and corrects the total.
    pub(super) fn survey(&self, mut show: impl FnMut(Held)) -> io::Result<()> {
        self.added.store(0, Ordering::Relaxed);
        let mut total = 0;
        let mut folders = self.pools()?;
        while let Some(folder) = folders.pop() {
            // A folder may go while we walk.
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                    Ok(kind) if kind.is_file() => {
                        let Some(held) = self.measure(&entry.path()) else { continue };
                        total += held.size;
                        show(held);
                    }
                    _ => (),
                }
            }
        }
        self.total.store(total, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes in the pools, as far as is known.
    pub(super) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Whether so much was added since the last survey that what other processes added may matter.
    pub(super) fn wants_survey(&self, size: u64) -> bool {
        self.added.load(Ordering::Relaxed) > size / 8
    }

    /// Says that the folder does not take `length` bytes, or that it takes as much again: each once.
    pub(super) fn report(&self, length: u64, outcome: Result<(), &io::Error>) {
        let refused = self.refused.load(Ordering::Relaxed);
        match outcome {
            Err(error) if is_misplaced(error) => {
                tracing::debug!(%error, "not kept: a folder is needed where a file lies, or the other way round");
            }
            Err(error) => {
                self.refused.store(refused.min(length), Ordering::Relaxed);
                if refused == u64::MAX {
                    tracing::error!(
                        folder = %self.dir.display(), %error,
                        "the cache folder takes no more: serving on without keeping; make room, or name another with --cache-dir"
                    );
                }
            }
            Ok(()) if refused <= length => {
                self.refused.store(u64::MAX, Ordering::Relaxed);
                tracing::info!(folder = %self.dir.display(), "the cache folder can be written again");
            }
            Ok(()) => (),
        }
    }

    /// Whether the folder last refused something.
    pub(super) fn is_ailing(&self) -> bool {
        self.refused.load(Ordering::Relaxed) < u64::MAX
    }

    /// What an error of this folder is to a producer.
    pub(super) fn explain(&self, error: &io::Error) -> Error {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::Full(self.dir.clone()),
            _ => Error::Folder { path: self.dir.clone(), why: error.to_string() },
        }
    }

    /// Writes the layout's version, where there is none, to last.
    fn write_layout(&self) -> io::Result<()> {
        let scratch = self.scratch()?;
        self.write_at(&scratch.file, format!("{VERSION}\n").as_bytes(), 0)?;
        scratch.file.sync_data()?;
        rename(scratch.path, &self.dir.join(LAYOUT))
    }

    /// Removes files that no living process writes: those that can be locked.
    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.dir.join(SCRATCH))?.flatten() {
            let Ok(file) = File::open(entry.path()) else { continue };
            if file.try_lock().is_ok() {
                tracing::debug!(file = %entry.path().display(), "removing what an interrupted write left");
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    fn make_scratch(&self) -> io::Result<Scratch> {
        let folder = self.dir.join(SCRATCH);
        for _ in 0..LOOKS {
            let scratch = match tempfile::Builder::new().prefix("").tempfile_in(&folder) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    make_folder(&folder)?;
                    continue;
                }
                made => made?,
            };
            let (file, path) = scratch.into_parts();
            match file.try_lock() {
                // A sweeper may have had it between our making and our locking it.
                Ok(()) if path.exists() => return Ok(Scratch { file: Arc::new(file), path }),
                // Where there are no locks, nobody can take one to sweep.
                Err(TryLockError::Error(_)) => return Ok(Scratch { file: Arc::new(file), path }),
                Ok(()) | Err(TryLockError::WouldBlock) => (),
            }
        }
        Err(io::Error::new(ErrorKind::WouldBlock, "new files are swept away as fast as they are made"))
    }

    pub(super) fn read_record(&self, key: &Key) -> Option<Record> {
        let record = read_record(&self.dir.join(key.note_path()))?;
        (record.key == key.as_str()).then_some(record)
    }

    fn write_record(&self, key: &Key, record: &Record) -> io::Result<()> {
        let text = serde_json::to_vec(record)?;
        self.write_aside(&self.dir.join(key.note_path()), &text)
    }

    /// Writes a small file of our own whole or, unless the power fails, not at all. It is not synced:
    /// a torn record is none, and each sync makes a build's own writes wait.
    fn write_aside(&self, place: &Path, bytes: &[u8]) -> io::Result<()> {
        let scratch = self.scratch()?;
        self.write_at(&scratch.file, bytes, 0)?;
        rename(scratch.path, place)
    }

    /// A file as long as recorded. None where it is there but cannot be opened now (too many are open, say): no
    /// damage.
    fn open_recorded(&self, key: &Key, record: &Record) -> Result<Option<(File, Stamp)>, Damage> {
        let place = self.dir.join(key.file_path());
        let file = match open_at_once(&place) {
            Ok(file) => file,
            Err(error) if is_no_such_file(&error) => return Err(Damage::Missing),
            // Not everywhere can a folder be opened.
            Err(_) if place.is_dir() => return Err(Damage::Replaced),
            Err(_) => return Ok(None),
        };
        match file.metadata() {
            Ok(metadata) if !metadata.is_file() => Err(Damage::Replaced),
            Ok(metadata) if metadata.len() != record.note.length => Err(Damage::Short),
            Ok(metadata) => Ok(Some((file, Stamp::of(&metadata)))),
            Err(_) => Err(Damage::Altered),
        }
    }

    /// Whether a file was hashed as it now is.
    pub(super) fn is_proven(&self, kept: &Kept) -> bool {
        self.proven.holds(&kept.record, kept.stamp)
    }

    /// Hashes a file, unless it was as it now is; false where it cannot be read now, which is no damage.
    pub(super) fn prove(&self, kept: &Kept) -> Result<bool, Damage> {
        if self.is_proven(kept) {
            return Ok(true);
        }
        let is_fresh = kept.stamp.is_fresh();
        match hash_file(&kept.file) {
            Ok(sha256) if sha256 != kept.record.sha256 => return Err(Damage::Altered),
            Ok(_) if !is_fresh => self.proven.note(&kept.record, kept.stamp),
            Ok(_) => {}
            Err(_) => return Ok(false),
        }
        Ok(true)
    }

    /// The record goes first: a file without one is nothing, a record without its file an alarm.
    fn remove_both(&self, key: &Key) -> io::Result<()> {
        let place = self.dir.join(key.file_path());
        let before = file_length(&place);
        let record = self.dir.join(key.note_path());
        remove_if_there(&record)?;
        // An empty folder in its place would keep the next one out.
        if fs::remove_dir(&place).is_err() {
            remove_if_there(&place)?;
        }
        self.account(before, 0);
        self.remove_empty(&place, 1);
        self.remove_empty(&record, 2);
        Ok(())
    }

    /// Removes the folders that a file was the last one of, up to those at a depth that stay. A writer
    /// that needs one again makes it again.
    fn remove_empty(&self, file: &Path, staying: usize) {
        let depth = |folder: &Path| folder.strip_prefix(&self.dir).map_or(0, |below| below.iter().count());
        for folder in file.ancestors().skip(1).take_while(|folder| depth(folder) > staying) {
            if fs::remove_dir(folder).is_err() {
                return;
            }
        }
    }

    fn pools(&self) -> io::Result<Vec<PathBuf>> {
        let notes = self.dir.join(NOTES);
        let is_pool = |name: &str| Key::new(name).is_some() && notes.join(shield(name)).is_dir();
        let entries = fs::read_dir(&self.dir)?.flatten();
        Ok(entries.filter(|entry| entry.file_name().to_str().is_some_and(is_pool)).map(|entry| entry.path()).collect())
    }

    fn measure(&self, path: &Path) -> Option<Held> {
        let metadata = fs::metadata(path).ok()?;
        let relative = path.strip_prefix(&self.dir).ok()?;
        let components: Option<Vec<&str>> = relative.iter().map(|component| component.to_str()).collect();
        let key = Key::new(&components?.join("/"))?;
        let note = fs::metadata(self.dir.join(key.note_path()));
        let used = note.as_ref().unwrap_or(&metadata).modified().map_or(0, since_epoch);
        let written = metadata.modified().map_or(0, since_epoch);
        Some(Held { key, size: metadata.len(), used, written })
    }

    fn account(&self, before: u64, after: u64) {
        let change = |total: u64| Some((total + after).saturating_sub(before));
        let _ = self.total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
        self.added.fetch_add(after, Ordering::Relaxed);
    }

    fn lock_writer(&self, key: &Key) -> MutexGuard<'_, ()> {
        self.writer(key).lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self, key: &Key) -> &Mutex<()> {
        let stripe = key.as_str().bytes().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        &self.writers[stripe % self.writers.len()]
    }

    #[cfg(test)]
    fn spend_room(&self, bytes: u64) -> io::Result<()> {
        let spent = self.room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |room| room.checked_sub(bytes));
        spent.map(|_| ()).map_err(|_| ErrorKind::StorageFull.into())
    }
}

/// Whether a folder says what its layout is; an error where it is none that we know.
fn check_layout(dir: &Path) -> Result<bool, Error> {
    let found = match fs::read_to_string(dir.join(LAYOUT)) {
        Ok(found) => found,
        Err(error) if is_no_such_file(&error) => return Ok(false),
        Err(error) => return Err(Error::Folder { path: dir.join(LAYOUT), why: error.to_string() }),
    };
    // Version 1 is the first, so there is no older one to migrate yet.
    match found.trim().parse() {
        Ok(VERSION) => Ok(true),
        _ => {
            Err(Error::Layout { path: dir.to_owned(), known: VERSION, found: found.trim().chars().take(20).collect() })
        }
    }
}

/// Whether something is mounted at a folder. Two mounts of one device look like one.
#[cfg(unix)]
fn is_mount(dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let above = fs::canonicalize(dir).ok().and_then(|dir| dir.parent().map(Path::to_owned));
    above.is_some_and(|above| device(dir) != device(&above))
}

#[cfg(not(unix))]
fn is_mount(_dir: &Path) -> bool {
    false
}

/// How many bytes anybody but root may use in all, and how many of them are free: what `df` shows.
#[cfg(unix)]
fn measure_space(dir: &Path) -> Option<(u64, u64)> {
    let found = rustix::fs::statvfs(dir).ok()?;
    let usable = found.f_blocks.saturating_sub(found.f_bfree).saturating_add(found.f_bavail);
    Some((usable.saturating_mul(found.f_frsize), found.f_bavail.saturating_mul(found.f_frsize)))
}

#[cfg(not(unix))]
fn measure_space(_dir: &Path) -> Option<(u64, u64)> {
    None
}

/// Reads a piece of a kept file; an error where the file ends before it.
pub(super) fn read_piece(file: &File, at: u64, length: usize) -> io::Result<Bytes> {
    let mut piece = vec![0; length];
    read_exact_at(file, &mut piece, at)?;
    Ok(piece.into())
}

/// The hash that a record holds.
pub(super) fn hash(bytes: &[u8]) -> String {
    spell(Sha256::digest(bytes).as_slice())
}

/// Spells out a hash.
pub(super) fn spell(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Now, as the folder knows it.
pub(super) fn now() -> u64 {
    since_epoch(SystemTime::now())
}

/// A time as the folder knows it: nanoseconds since 1970.
pub(super) fn since_epoch(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// A record that cannot be read is none: a power cut empties files that were not synced.
fn read_record(place: &Path) -> Option<Record> {
    let mut text = Vec::new();
    open_at_once(place).ok()?.read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Opens what lies there to be read; not even a pipe that nobody writes to is waited for.
fn open_at_once(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    options.read(true).open(path)
}

fn hash_file(file: &File) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 256 << 10];
    let mut reader = file;
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return Ok(spell(hasher.finalize().as_slice())),
            Ok(length) => hasher.update(&piece[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Renames a file into place, making the folder if it is missing or goes meanwhile.
fn rename(mut from: TempPath, place: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        tries += 1;
        let failed = match from.persist(place) {
            Ok(()) => return Ok(()),
            Err(failed) => failed,
        };
        if failed.error.kind() != ErrorKind::NotFound || tries > LOOKS {
            return Err(failed.error);
        }
        if let Some(folder) = place.parent() {
            // It may go again while it is made, with what was the last file in it.
            make_folder(folder)
                .or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        }
        from = failed.path;
    }
}

/// Makes a rename last through a power cut. Windows has no such thing to ask for.
fn sync_folder(place: &Path) -> io::Result<()> {
    match place.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// Removes a file; nothing to remove, or no place where it could be, is as good.
fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if !is_no_such_file(&error) => Err(error),
        _ => Ok(()),
    }
}

fn file_length(path: &Path) -> u64 {
    fs::metadata(path).ok().filter(fs::Metadata::is_file).map_or(0, |file| file.len())
}

/// One key is a file where another needs a folder: nothing is wrong with the disk.
fn is_misplaced(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::AlreadyExists)
}

/// A folder of that name is no file of that name.
fn is_no_such_file(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(unix)]
pub(super) fn read_exact_at(file: &File, piece: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, piece, at)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, at)? {
            0 => return Err(ErrorKind::WriteZero.into()),
            written => (bytes, at) = (&bytes[written..], at + written as u64),
        }
    }
    Ok(())
}

#[cfg(windows)]
pub(super) fn read_exact_at(file: &File, mut piece: &mut [u8], mut at: u64) -> io::Result<()> {
    while !piece.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, piece, at)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            read => (piece, at) = (&mut piece[read..], at + read as u64),
        }
    }
    Ok(())
}

/// The layout that is described above.
const VERSION: u32 = 1;
/// What an absence takes up, its record with it: two blocks.
const ABSENCE: u64 = 8 << 10;
/// How often a step is tried again that another process or thread can come in between of.
const LOOKS: u32 = 5;
