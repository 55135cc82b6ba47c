//! Paths that were read before, and what they were found to ask for.
//!
//! A build farm asks for the same few thousand files over and over. To read a path again, escape it, and judge
//! its place in the store costs more than to find what lies there, so the last ones are remembered, each for
//! the host that it was asked of: a path means the same whoever asks, and not the same everywhere. Whether
//! something is there, and still right, is not remembered here.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::path::{ModuleRequest, NotOurs};
use super::{Goproxy, Place};
use crate::cache::Key;

/// How many are remembered, by each who keeps such a book.
const PATHS: NonZeroUsize = NonZeroUsize::new(4096).expect("it is not 0");
/// A longer path is read each time.
const LONGEST: usize = 512;

/// A path that was read.
#[derive(Debug)]
pub struct Reading {
    /// What it asks for.
    pub request: ModuleRequest,
    /// Where the answer lies that everybody gets, of a file that never changes and is nobody's own.
    pub(super) key: Option<Key>,
    place: Place,
    path: Box<str>,
}

impl Reading {
    fn is_of(&self, place: &Place, path: &str) -> bool {
        *self.path == *path && self.place == *place
    }
}

/// The paths read last. Each front worker has one of its own.
pub struct Readings {
    // By the hash of place and path, so that a look makes no key; what is found is compared.
    // Std lock, for a look; only its own worker comes here.
    known: Mutex<LruCache<u64, Arc<Reading>>>,
    marks: RandomState,
}

impl Default for Readings {
    fn default() -> Readings {
        Readings { known: Mutex::new(LruCache::new(PATHS)), marks: RandomState::new() }
    }
}

impl Readings {
    /// Reads the path of a request made at a place.
    pub fn read(&self, goproxy: &Goproxy, place: &Place, path: &str) -> Result<Arc<Reading>, NotOurs> {
        let mark = self.marks.hash_one((place, path));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reading) = known.get(&mark).filter(|reading| reading.is_of(place, path)) {
            return Ok(Arc::clone(reading));
        }
        let request = goproxy.read(place, path)?;
        let is_private = request.module().is_some_and(|module| goproxy.house.is_private(module));
        let is_everybodys = request.is_immutable() && !is_private;
        let key = if is_everybodys { goproxy.house.own_key(&request, place) } else { None };
        let reading = Arc::new(Reading { request, key, place: place.clone(), path: path.into() });
        if path.len() <= LONGEST {
            known.put(mark, Arc::clone(&reading));
        }
        Ok(reading)
    }
}
