//! Bytes by key: a store on disk with a memory in front, filled once however many ask.
//!
//! This room knows neither HTTP nor Go. What may be kept, for how long, and whether it is right is
//! the producer's verdict; that a reader never gets a file that is short, torn or somebody else's
//! is this room's promise.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;

use bytes::Bytes;

/// What an operator may say about the store.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder; none for a cache in memory alone.
    pub dir: Option<PathBuf>,
    /// Bytes on disk before the least needed leave.
    pub size: u64,
    /// Bytes in memory.
    pub memory: u64,
}

/// Where a file lies under the cache folder: `download/golang.org/x/net/@v/v0.1.0.zip`. Relative,
/// no `.` or `..`, no empty component, no control characters, no component that could be mistaken
/// for one of ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// The key of a relative path; none where it breaks a rule above.
    pub fn new(path: &str) -> Option<Key> {
        Some(Key(path.to_owned()))
    }
    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is known about a kept file; lies beside the tree, never in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Note {
    /// When the bytes were fetched, or last found to be still right: milliseconds since 1970.
    pub at_ms: u64,
    pub length: u64,
    /// The producer's own facts, untouched ("verified", "etag", "status", ...).
    pub facts: BTreeMap<String, String>,
}

/// Something held, ready to be read.
#[derive(Debug)]
pub struct Found {
    pub note: Note,
    pub content: Content,
}

/// Bytes to read, wherever they are. `Growing` ones are still being written by a producer.
#[derive(Debug)]
pub struct Content {
    _todo: (),
}

impl Content {
    /// The length, where it is known before the end.
    pub fn length(&self) -> Option<u64> {
        unimplemented!()
    }
    /// The next piece; `None` at the end. An error means that the rest will never come: the
    /// reader must not end its own output cleanly.
    pub async fn next(&mut self) -> Option<std::io::Result<Bytes>> {
        unimplemented!()
    }
    /// All of it, if it is no longer than `limit`.
    pub async fn bytes(self, limit: usize) -> std::io::Result<Bytes> {
        let _ = limit;
        unimplemented!()
    }
}

/// What a producer writes into. Until it is released nobody reads, so it may start over.
pub struct Draft {
    _todo: (),
}

impl Draft {
    /// Appends a piece.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), Error> {
        let _ = piece;
        unimplemented!()
    }
    /// Forgets what was written. Only before `release`.
    pub fn restart(&mut self) {
        unimplemented!()
    }
    /// Lets the readers in while the rest is still being written. `length` is told to them if known.
    pub fn release(&mut self, length: Option<u64>, facts: BTreeMap<String, String>) {
        let _ = (length, facts);
        unimplemented!()
    }
    /// Whether readers may have what was written before the verdict.
    pub fn is_released(&self) -> bool {
        unimplemented!()
    }
    /// How many bytes were written.
    pub fn written(&self) -> u64 {
        unimplemented!()
    }
    /// Opens what was written so far for blocking reading and seeking (to hash it, off the workers).
    pub fn reading(&self) -> Result<Box<dyn ReadSeek>, Error> {
        unimplemented!()
    }
}

/// `Read + Seek`, for zip readers and hashers.
pub trait ReadSeek: std::io::Read + std::io::Seek + Send {}
impl<T: std::io::Read + std::io::Seek + Send> ReadSeek for T {}

/// A producer's last word on what it wrote.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Right: keep it under its key, with these facts, as of `at_ms`.
    Keep { at_ms: u64, facts: BTreeMap<String, String> },
    /// Give it to those who wait, but do not keep it.
    PassOn { facts: BTreeMap<String, String> },
}

/// The cache. `E` is what producers fail with; all who wait for a failed fill get a clone of it.
pub struct Cache<E> {
    _todo: std::marker::PhantomData<E>,
}

impl<E> Clone for Cache<E> {
    fn clone(&self) -> Self {
        Cache { _todo: std::marker::PhantomData }
    }
}

impl<E: Clone + Send + Sync + From<Error> + 'static> Cache<E> {
    /// What is held under `key`: from memory, else from disk; nothing if the file is not as noted.
    pub async fn get(&self, key: &Key) -> Option<Found> {
        let _ = key;
        unimplemented!()
    }
    /// Joins the fill of `key` that is under way, or starts one on the shared runtime. Returns when
    /// readers may read: at `release`, or at the end. The caller may leave; the fill goes on.
    pub async fn fill<P, F>(&self, key: &Key, produce: P) -> Result<Found, E>
    where
        P: FnOnce(Draft) -> F + Send + 'static,
        F: Future<Output = Result<(Draft, Verdict), E>> + Send + 'static,
    {
        let _ = (key, produce);
        unimplemented!()
    }
    /// Keeps a small thing that is already whole.
    pub async fn put(&self, key: &Key, bytes: Bytes, at_ms: u64, facts: BTreeMap<String, String>) -> Result<(), Error> {
        let _ = (key, bytes, at_ms, facts);
        unimplemented!()
    }
    /// Writes a new note for what is held (a revalidation that found it unchanged, a late verification).
    pub async fn annotate(&self, key: &Key, at_ms: u64, facts: BTreeMap<String, String>) -> Result<(), Error> {
        let _ = (key, at_ms, facts);
        unimplemented!()
    }
    /// Takes a file out, with its note.
    pub async fn remove(&self, key: &Key) -> Result<(), Error> {
        let _ = key;
        unimplemented!()
    }
}

/// What can go wrong with the store itself.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("cache folder {path}: {why}")]
    Folder { path: PathBuf, why: String },
    #[error("the disk under {0} is full")]
    Full(PathBuf),
    #[error("the producer ended without a verdict")]
    Abandoned,
}
