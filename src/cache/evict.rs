//! What leaves when the folder is full: absences, then zips, the least recently used first.
//!
//! Pure: given what lies there and when it was used, [`choose`] says what goes; the caller removes
//! it. A `.info` or `.mod` costs a build a question to a mirror and is a thousandth of a zip, so
//! they leave only when no zip is left; records and tiles of a checksum database, without which a
//! build cannot verify, after those. Absences are a few bytes each and named by whoever asks, so they are
//! bounded by their number too. Nothing here awaits or touches a file.

use std::num::NonZeroUsize;

use lru::LruCache;

use super::Key;

/// A file in one of the pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub key: Key,
    pub size: u64,
    /// When it was last used: nanoseconds since 1970.
    pub used: u64,
}

/// The files that must go so that what stays is well below `size`, and the absences that are too many;
/// none while all of it fits.
pub(super) fn choose(mut held: Vec<Held>, size: u64) -> Vec<Held> {
    let mut total: u64 = held.iter().map(|file| file.size).sum();
    let mut excess = held.iter().filter(|file| is_absence(&file.key)).count().saturating_sub(MOST_ABSENCES);
    if total <= size && excess == 0 {
        return Vec::new();
    }
    let enough = if total <= size { size } else { size / 10 * 9 };
    held.sort_unstable_by(|a, b| (worth(&a.key), a.used, &a.key).cmp(&(worth(&b.key), b.used, &b.key)));
    let leaving = held.iter().take_while(|file| {
        // Absences come first in this order.
        let goes = total > enough || excess > 0;
        excess = excess.saturating_sub(1);
        total = total.saturating_sub(file.size);
        goes
    });
    let count = leaving.count();
    held.truncate(count);
    held
}

/// How dearly a build would miss it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    Absence,
    Zip,
    Text,
    Proof,
}

fn worth(key: &Key) -> Worth {
    let path = key.as_str();
    if is_absence(key) {
        Worth::Absence
    } else if path.ends_with(".zip") {
        Worth::Zip
    } else if path.starts_with("sumdb/") || path.starts_with("download/sumdb/") {
        Worth::Proof
    } else {
        Worth::Text
    }
}

/// Whether it says that something is not there.
pub(super) fn is_absence(key: &Key) -> bool {
    key.as_str().starts_with("absent/")
}

/// When what was used, as far as this process knows. The notes' own times on disk say the same to
/// an hour, for the next process.
pub(super) struct Uses {
    recent: LruCache<Key, Use>,
    /// The last time given out; two uses never get the same.
    last: u64,
}

/// What is known about the uses of one key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    pub at: u64,
    /// How often it was asked for since it was stored, or since it was last forgotten here.
    pub hits: u32,
    /// Whether the time on disk is so old that it must be written anew.
    pub is_due: bool,
    /// The time that is on disk, as far as this process wrote it.
    written: u64,
}

impl Default for Uses {
    fn default() -> Uses {
        Uses { recent: LruCache::new(REMEMBERED), last: 0 }
    }
}

impl Uses {
    /// Somebody asked for it.
    pub(super) fn mark(&mut self, key: &Key, now: u64) -> Use {
        let at = self.tick(now);
        let entry = self.recent.get_or_insert_mut_ref(key, || Use { at, hits: 0, is_due: false, written: 0 });
        entry.at = at;
        entry.hits = entry.hits.saturating_add(1);
        entry.is_due = at.saturating_sub(entry.written) > WRITTEN_EVERY;
        if entry.is_due {
            entry.written = at;
        }
        *entry
    }

    /// It was stored, and its note with it.
    pub(super) fn store(&mut self, key: &Key, now: u64) {
        let at = self.tick(now);
        self.recent.put(key.clone(), Use { at, hits: 0, is_due: false, written: at });
    }

    /// When it was last used, given what the disk says.
    fn last_used(&self, key: &Key, on_disk: u64) -> u64 {
        self.recent.peek(key).map_or(on_disk, |recent| recent.at.max(on_disk))
    }

    /// Corrects what the disk says about last uses by what is known here.
    pub(super) fn correct(&self, held: &mut [Held]) {
        held.iter_mut().for_each(|file| file.used = self.last_used(&file.key, file.used));
    }

    fn tick(&mut self, now: u64) -> u64 {
        self.last = now.max(self.last + 1);
        self.last
    }
}

/// More than any build meets in a week; 512 MiB of disk, since each takes two blocks and some folders.
const MOST_ABSENCES: usize = 65_536;
/// Some 10 MB, all told.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();
/// An hour: exact enough for files that live for weeks, and no load for a disk.
const WRITTEN_EVERY: u64 = 3_600_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn held(path: &str, size: u64, used: u64) -> Held {
        Held { key: Key::new(path).unwrap(), size, used }
    }

    fn leaving(held: &[Held], size: u64) -> Vec<String> {
        choose(held.to_vec(), size).into_iter().map(|file| file.key.to_string()).collect()
    }

    #[test]
    fn nothing_leaves_while_all_of_it_fits() {
        let files = [held("d/a.zip", 60, 1), held("d/a.mod", 40, 1)];
        assert_eq!(leaving(&files, 100), [""; 0]);
        assert_eq!(leaving(&[], 0), [""; 0]);
    }

    #[test]
    fn zips_leave_in_order_of_use_and_no_more_than_needed() {
        let files =
            [held("d/new.zip", 50, 9), held("d/old.mod", 1, 0), held("d/old.zip", 50, 1), held("d/mid.zip", 50, 5)];
        assert_eq!(leaving(&files, 120), ["d/old.zip"]);
        assert_eq!(leaving(&files, 100), ["d/old.zip", "d/mid.zip"]);
    }

    #[test]
    fn the_rest_follows_only_when_no_zip_is_left_and_proofs_last() {
        let files = [
            held("download/sumdb/sum.golang.org/tile/8/0/000", 40, 0),
            held("sumdb/sum.golang.org/latest", 40, 0),
            held("d/new.zip", 40, 9),
            held("d/old.info", 40, 1),
            held("d/new.mod", 40, 2),
        ];
        assert_eq!(leaving(&files, 160), ["d/new.zip", "d/old.info"]);
        assert_eq!(leaving(&files, 90), ["d/new.zip", "d/old.info", "d/new.mod"]);
        assert_eq!(leaving(&files, 0).len(), 5);
    }

    /// Whoever asked for names that do not exist pushed the zips of everybody else out, and was never
    /// stopped by a bound in bytes, since an absence is some fifty of them.
    #[test]
    fn absences_leave_before_anything_of_use_and_are_bounded_by_number() {
        let files = [held("d/old.zip", 50, 1), held("absent/d/new.zip", 30, 9), held("absent/d/old.info", 30, 2)];
        assert_eq!(leaving(&files, 100), ["absent/d/old.info"]);
        assert_eq!(leaving(&files, 70), ["absent/d/old.info", "absent/d/new.zip"]);
        let many = (0..MOST_ABSENCES as u64 + 2).map(|number| held(&format!("absent/d/{number}"), 1, number));
        let many: Vec<Held> = many.chain([held("d/old.zip", 50, 0)]).collect();
        assert_eq!(leaving(&many, 1 << 40), ["absent/d/0", "absent/d/1"]);
    }

    #[test]
    fn a_use_is_newer_than_every_one_before_it_whatever_the_clock_says() {
        let (a, b) = (Key::new("a").unwrap(), Key::new("b").unwrap());
        let mut uses = Uses::default();
        uses.store(&a, 100);
        uses.store(&b, 100);
        assert!(uses.last_used(&b, 0) > uses.last_used(&a, 0));
        uses.mark(&a, 50);
        assert!(uses.last_used(&a, 0) > uses.last_used(&b, 0));
        assert_eq!(uses.last_used(&a, 1_000), 1_000, "another process used it later");
    }

    #[test]
    fn a_use_is_written_to_disk_once_an_hour() {
        let key = Key::new("a").unwrap();
        let start = 1_000 * WRITTEN_EVERY;
        let mut uses = Uses::default();
        uses.store(&key, start);
        let due =
            [start + 1, start + WRITTEN_EVERY + 1, start + WRITTEN_EVERY + 2].map(|now| uses.mark(&key, now).is_due);
        assert_eq!(due, [false, true, false]);
        let unknown = Key::new("b").unwrap();
        assert!(uses.mark(&unknown, start).is_due, "stored before this process began");
        assert_eq!(uses.mark(&unknown, start).hits, 2);
    }
}
