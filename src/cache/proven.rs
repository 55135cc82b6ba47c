//! Which large files were found to be as recorded since this process began, so that each is hashed once and not for
//! every reader.
//!
//! A file counts as proven for as long as the file system says that nothing about it has changed. What this cannot
//! see is a disk that loses bytes after they were hashed. Small files need none of this: they are hashed whenever they are read.

use std::collections::HashMap;
use std::fs::Metadata;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use super::disk::{Record, now, since_epoch};

#[derive(Default)]
pub(super) struct Proven {
    salt: RandomState,
    // Locked for a look, or to note what was hashed.
    stamps: Mutex<HashMap<u64, Stamp>>,
    // Locked to find a turn, never while one is waited for.
    turns: Mutex<HashMap<u64, Weak<Turn<()>>>>,
}

/// What the file system says of a file: whoever changes a byte of it makes that another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    number: u64,
    /// When its bytes changed, as programs may set it; nanoseconds since 1970.
    modified: u64,
    /// When anything about it changed, as nobody may set it; nanoseconds since 1970.
    changed: u64,
}

impl Proven {
    pub(super) fn holds(&self, record: &Record, stamp: Stamp) -> bool {
        let stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        stamps.get(&self.number(record)) == Some(&stamp)
    }

    pub(super) fn note(&self, record: &Record, stamp: Stamp) {
        let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.number(record);
        if stamps.len() >= STAMPS && !stamps.contains_key(&number) {
            // What is forgotten is hashed once more, no worse.
            stamps.clear();
        }
        stamps.insert(number, stamp);
    }

    /// A turn at hashing a file: many who want it wait for one, and take up no thread meanwhile.
    pub(super) async fn turn(&self, record: &Record) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let slot = turns.entry(self.number(record)).or_default();
            slot.upgrade().unwrap_or_else(|| {
                let turn = Arc::default();
                *slot = Arc::downgrade(&turn);
                turn
            })
        };
        turn.lock_owned().await
    }

    fn number(&self, record: &Record) -> u64 {
        self.salt.hash_one((&record.key, &record.sha256))
    }
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Stamp {
        let modified = metadata.modified().map_or(0, since_epoch);
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let seconds = u64::try_from(metadata.ctime()).unwrap_or(0);
            let changed = seconds.saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec().unsigned_abs());
            Stamp { number: metadata.ino(), modified, changed }
        }
        #[cfg(not(unix))]
        Stamp { number: 0, modified, changed: modified }
    }

    /// Whether another change could still go by the same time: file systems count in steps.
    pub(super) fn is_fresh(self) -> bool {
        now().abs_diff(self.changed) < STEP
    }
}

/// How many files are remembered; some 50 bytes each.
const STAMPS: usize = 1 << 16;
/// No file system counts its times in longer steps: FAT's are of two seconds.
const STEP: u64 = 2_000_000_000;
