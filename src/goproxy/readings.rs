//! Paths that were read before, and what they were found to ask for.
//!
//! A build farm asks for the same few thousand files over and over. To read a path again, escape it, and judge
//! its place in the store costs more than to find what lies there, so the last ones are remembered: for
//! origin form alone, where a path means the same whoever asks. Whether something is there, and still right,
//! is not remembered here.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::Goproxy;
use super::answer::tree_key;
use super::path::{ModuleRequest, NotOurs};
use crate::cache::Key;

/// How many are remembered, by each who keeps such a book.
const PATHS: NonZeroUsize = NonZeroUsize::new(4096).expect("it is not 0");
/// A longer path is read each time.
const LONGEST: usize = 512;

/// A path in origin form that was read.
#[derive(Debug)]
pub struct Reading {
    /// What it asks for.
    pub request: ModuleRequest,
    /// Where the answer lies that everybody gets, of a file that never changes and is nobody's own.
    pub(super) key: Option<Key>,
}

/// The paths read last. Each front worker has one of its own.
pub struct Readings {
    // Std lock, for a look; only its own worker comes here.
    known: Mutex<LruCache<Box<str>, Arc<Reading>>>,
}

impl Default for Readings {
    fn default() -> Readings {
        Readings { known: Mutex::new(LruCache::new(PATHS)) }
    }
}

impl Readings {
    /// Reads a path of a request in origin form.
    pub fn read(&self, goproxy: &Goproxy, path: &str) -> Result<Arc<Reading>, NotOurs> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reading) = known.get(path) {
            return Ok(Arc::clone(reading));
        }
        let request = ModuleRequest::parse(path)?;
        let is_private = request.module().is_some_and(|module| goproxy.house.is_private(module));
        let key = if request.is_immutable() && !is_private { tree_key(&request) } else { None };
        let reading = Arc::new(Reading { request, key });
        if path.len() <= LONGEST {
            known.put(path.into(), Arc::clone(&reading));
        }
        Ok(reading)
    }
}
