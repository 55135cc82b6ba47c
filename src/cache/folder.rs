//! The cache folder as the tools see it: listed, looked at closely, pruned, added to, while daemons
//! serve from it.
//!
//! Opening it changes nothing there. What is taken out is announced, so that no daemon goes on serving
//! it from its memory for more than a second. What is added is written aside and synced like
//! everything else. Everything here blocks: tools run on threads of their own.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::disk::{Disk, Inspected, Record, since_epoch, spell};
use super::evict::{self, Held, Uses};
use super::growth::Snapshot;
use super::{Error, Key, Note, ReadSeek};

/// A cache folder, open for a tool.
#[derive(Clone)]
pub struct Folder {
    disk: Arc<Disk>,
}

/// A file in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its key.
    pub key: Key,
    /// Its length.
    pub size: u64,
    /// When it was last used, to an hour: milliseconds since 1970.
    pub used_ms: u64,
    /// What is known about it; none for what an interrupted write left.
    pub note: Option<Note>,
}

/// What a close look at a file found.
pub enum Look {
    /// As it was kept, to the last byte.
    Right(Note, Box<dyn ReadSeek>),
    /// Gone since it was listed.
    Gone,
    /// It has no note: nobody is given it.
    Unnoted,
    /// In what way it is not as it was kept.
    Damaged(&'static str),
}

/// The room that the folder's file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that are free.
    pub free: u64,
    /// Bytes that are to stay free.
    pub wanted: u64,
    /// Whether the file system is there for the folder alone.
    pub is_ours: bool,
}

impl Folder {
    /// Opens the folder at `dir`; none if there is none.
    pub fn open(dir: &Path) -> Result<Option<Folder>, Error> {
        Ok(Disk::open_existing(dir)?.map(Folder::of))
    }

    /// Opens the folder at `dir`, making it if need be.
    pub fn make(dir: &Path) -> Result<Folder, Error> {
        Ok(Folder::of(Disk::open(dir)?))
    }

    fn of(disk: Disk) -> Folder {
        Folder::shared(Arc::new(disk))
    }

    /// The folder that a cache serves from.
    pub(super) fn shared(disk: Arc<Disk>) -> Folder {
        Folder { disk }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        self.disk.dir()
    }

    /// Everything that lies in it, in the order of the keys.
    pub fn items(&self) -> io::Result<Vec<Item>> {
        let mut held = Vec::new();
        self.disk.survey(|file| held.push(file))?;
        held.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let item = |held: Held| Item {
            note: self.disk.read_record(&held.key).map(|record| record.note),
            used_ms: held.used / 1_000_000,
            size: held.size,
            key: held.key,
        };
        Ok(held.into_iter().map(item).collect())
    }

    /// What was kept and is not there any more, in the order of the keys.
    pub fn lost(&self) -> Vec<Item> {
        let item =
            |record: Record| Some(Item { key: Key::new(&record.key)?, size: 0, used_ms: 0, note: Some(record.note) });
        let mut lost: Vec<Item> = self.disk.lost().into_iter().filter_map(item).collect();
        lost.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        lost
    }

    /// Of these, the ones that would leave first to make room for `excess` bytes.
    pub fn least_needed<'a>(&self, items: Vec<&'a Item>, excess: u64) -> Vec<&'a Item> {
        let held = |item: &&Item| {
            // What is not there any more has made its room.
            let written = fs::metadata(self.path(&item.key)).and_then(|metadata| metadata.modified()).ok()?;
            let (key, size, used) = (item.key.clone(), item.size, item.used_ms * 1_000_000);
            Some(Held { key, size, used, written: since_epoch(written) })
        };
        let leaving = evict::choose(items.iter().filter_map(held).collect(), excess, &mut Uses::default());
        let leaving: HashSet<Key> = leaving.into_iter().map(|held| held.key).collect();
        items.into_iter().filter(|item| leaving.contains(&item.key)).collect()
    }

    /// Looks at every byte of a file.
    pub fn inspect(&self, key: &Key) -> Look {
        match self.disk.inspect(key) {
            Inspected::Right(kept) => {
                let length = kept.record.note.length;
                Look::Right(kept.record.note, Box::new(Snapshot::of_file(kept.file, length)))
            }
            Inspected::Gone => Look::Gone,
            Inspected::Unnoted => Look::Unnoted,
            Inspected::Damaged(_, damage) => Look::Damaged(damage.describe()),
        }
    }

    /// Reads a small file that is as it was kept.
    pub fn read_small(&self, key: &Key, limit: u64) -> Option<(Note, Vec<u8>)> {
        let Look::Right(note, mut file) = self.inspect(key) else { return None };
        let mut bytes = Vec::new();
        file.by_ref().take(limit + 1).read_to_end(&mut bytes).ok()?;
        (bytes.len() as u64 <= limit).then_some((note, bytes))
    }

    /// Where a file lies, for a copy or a second link.
    pub fn path(&self, key: &Key) -> PathBuf {
        self.disk.dir().join(key.file_path())
    }

    /// Takes files out, and tells those who serve from the folder.
    pub fn remove(&self, keys: &[Key]) -> io::Result<()> {
        let outcomes: Vec<io::Result<()>> = keys.iter().map(|key| self.disk.remove(key)).collect();
        if !keys.is_empty() {
            self.disk.announce_removal()?;
        }
        outcomes.into_iter().collect()
    }

    /// Takes out files that are wrong, if they still are as they were: somebody may have mended one since.
    /// How many went.
    pub fn repair(&self, keys: &[Key]) -> io::Result<usize> {
        let mut gone = 0;
        for key in keys {
            gone += usize::from(match self.disk.inspect(key) {
                Inspected::Damaged(record, damage) => self.disk.drop_damaged(key, &record, damage),
                // It is wrong in what it says, or has no note.
                Inspected::Right(_) | Inspected::Unnoted => self.disk.remove(key).map(|()| true)?,
                Inspected::Gone => false,
            });
        }
        if gone > 0 {
            self.disk.announce_removal()?;
        }
        Ok(gone)
    }

    /// Keeps what is read, if it has that SHA-256 (in hexadecimal).
    pub fn keep(&self, key: &Key, mut bytes: impl Read, note: Note, sha256: &str) -> io::Result<()> {
        let scratch = self.disk.scratch()?;
        let (mut hasher, mut at) = (Sha256::new(), 0);
        let mut piece = vec![0; 256 << 10];
        loop {
            let read = bytes.read(&mut piece)?;
            if read == 0 {
                break;
            }
            self.disk.write_at(&scratch.file, &piece[..read], at)?;
            hasher.update(&piece[..read]);
            at += read as u64;
        }
        let found = spell(hasher.finalize().as_slice());
        if found != sha256 {
            return Err(io::Error::other(format!(
                "it changed while it was read: its SHA-256 is {found}, not {sha256}"
            )));
        }
        self.disk.commit(key, scratch, &Note { length: at, ..note }, found)
    }

    /// Writes a file for others to read that is made of what is kept, and can be made again: it has no note,
    /// nothing waits for it to last, and it is given to nobody from here.
    pub fn set_out(&self, key: &Key, bytes: &[u8]) -> io::Result<()> {
        self.disk.set_out(key, bytes)
    }

    /// The same, of a kept file as it stands.
    pub fn set_out_same(&self, key: &Key, kept: &Key) -> io::Result<()> {
        self.disk.set_out_same(key, kept)
    }

    /// Every file below a folder, with its size, noted or not.
    pub fn files_below(&self, below: &Key) -> Vec<(Key, u64)> {
        self.disk.files_below(below)
    }

    /// Notes something else about a file.
    pub fn annotate(&self, key: &Key, change: impl FnOnce(&mut Note)) -> io::Result<()> {
        self.disk.annotate(key, change)
    }

    /// The room that its file system has.
    pub fn room(&self) -> Option<Room> {
        let space = self.disk.space()?;
        Some(Room { total: space.total, free: space.free, wanted: space.wanted(), is_ours: space.is_ours })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use tempfile::{TempDir, tempdir};

    use super::super::disk::hash;
    use super::*;

    fn key(path: &str) -> Key {
        Key::new(path).unwrap()
    }

    fn made() -> (TempDir, Folder) {
        let dir = tempdir().unwrap();
        let folder = Folder::make(dir.path()).unwrap();
        (dir, folder)
    }

    fn keep(folder: &Folder, path: &str, bytes: &[u8]) {
        folder.keep(&key(path), bytes, Note::default(), &hash(bytes)).unwrap();
    }

    fn keys(folder: &Folder) -> Vec<String> {
        folder.items().unwrap().into_iter().map(|item| item.key.to_string()).collect()
    }

    #[test]
    fn to_open_a_folder_changes_nothing_there() {
        let dir = tempdir().unwrap();
        assert!(Folder::open(&dir.path().join("nowhere")).unwrap().is_none());
        assert!(Folder::open(dir.path()).unwrap().is_none());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_kept_is_listed_and_read() {
        let (_dir, folder) = made();
        keep(&folder, "download/b.mod", b"b");
        keep(&folder, "download/a.mod", b"aa");
        let items = folder.items().unwrap();
        let told: Vec<_> = items.iter().map(|item| (item.key.as_str(), item.size, item.note.is_some())).collect();
        assert_eq!(told, [("download/a.mod", 2, true), ("download/b.mod", 1, true)]);
        assert_eq!(folder.read_small(&key("download/a.mod"), 2).unwrap().1, b"aa");
        assert!(folder.read_small(&key("download/a.mod"), 1).is_none());
    }

    #[test]
    fn what_is_not_what_was_judged_is_not_kept() {
        let (dir, folder) = made();
        let changed = folder.keep(&key("download/a.mod"), &b"changed"[..], Note::default(), &hash(b"judged"));
        assert!(changed.unwrap_err().to_string().contains("changed while it was read"));
        assert_eq!(keys(&folder), [""; 0]);
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn repair_takes_out_what_is_wrong_or_has_no_note_and_nothing_that_was_mended() {
        let (dir, folder) = made();
        for path in ["download/cut.mod", "download/mended.mod", "download/bare.mod", "download/right.mod"] {
            keep(&folder, path, b"bytes");
        }
        fs::write(dir.path().join("download/cut.mod"), "byt").unwrap();
        fs::write(dir.path().join("download/mended.mod"), "by").unwrap();
        assert!(matches!(folder.inspect(&key("download/mended.mod")), Look::Damaged("short")));
        let removals = folder.disk.removals();
        fs::remove_file(dir.path().join("notes/download/bare.mod.json")).unwrap();
        assert!(matches!(folder.inspect(&key("download/bare.mod")), Look::Unnoted));
        folder.remove(&[key("download/mended.mod")]).unwrap();
        let found = ["download/cut.mod", "download/mended.mod", "download/bare.mod"].map(key);
        assert_eq!(folder.repair(&found).unwrap(), 2);
        assert_eq!(keys(&folder), ["download/right.mod"]);
        assert_ne!(folder.disk.removals(), removals, "those who serve are told");
    }

    #[test]
    fn what_was_kept_and_is_not_there_any_more_is_named() {
        let (dir, folder) = made();
        for path in ["download/taken.mod", "download/a.json/folder.mod", "download/right.mod"] {
            keep(&folder, path, b"bytes");
        }
        for path in ["download/taken.mod", "download/a.json/folder.mod"] {
            fs::remove_file(dir.path().join(path)).unwrap();
        }
        fs::create_dir(dir.path().join("download/a.json/folder.mod")).unwrap();
        let lost: Vec<Key> = folder.lost().into_iter().map(|item| item.key).collect();
        assert_eq!(lost, ["download/a.json/folder.mod", "download/taken.mod"].map(key));
        assert!(matches!(folder.inspect(&lost[0]), Look::Damaged("replaced")));
        assert!(matches!(folder.inspect(&lost[1]), Look::Damaged("missing")));
        assert_eq!(folder.repair(&lost).unwrap(), 2);
        assert_eq!((folder.lost().len(), keys(&folder)), (0, vec!["download/right.mod".to_owned()]));
    }

    #[test]
    fn the_least_needed_is_what_would_leave() {
        let (_dir, folder) = made();
        for path in ["download/new.zip", "download/old.zip", "download/x.mod"] {
            keep(&folder, path, &[7; 100]);
        }
        let long_ago = SystemTime::now() - Duration::from_secs(1_000_000);
        for path in [folder.path(&key("download/old.zip")), folder.disk.dir().join("notes/download/old.zip.json")] {
            fs::File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
        }
        let items = folder.items().unwrap();
        let least = |excess| {
            let least = folder.least_needed(items.iter().collect(), excess);
            least.into_iter().map(|item| item.key.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(least(50), ["download/old.zip"]);
        assert_eq!(least(150), ["download/new.zip", "download/old.zip"]);
        assert_eq!(least(250).len(), 3);
    }
}
