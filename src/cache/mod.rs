//! Bytes by key: a store on disk with a memory in front, filled once however many ask.
//!
//! This room knows neither HTTP nor Go. What may be kept, for how long, and whether it is right is
//! the producer's verdict; that a reader never gets a file that is short, torn or somebody else's
//! is this room's promise.
//!
//! A look goes through memory, what is on its way to the disk, and the disk. A fill hands out its
//! bytes at the producer's release or verdict and makes them last afterwards: nobody waits for a
//! sync, and until it is done they are found where they are. Where nothing can be kept (no folder,
//! a full disk), bytes are held in memory within bounds and passed on beyond them.
//!
//! [`Folder`] is the same folder as the tools see it, whoever serves from it meanwhile.
//!
//! Left out: who may have what, and how fresh it is (`goproxy`).

mod content;
mod disk;
mod draft;
mod evict;
mod flight;
mod folder;
mod growth;
mod key;
mod memory;
mod proven;
mod store;
mod tally;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

pub use content::Content;
pub use draft::Draft;
pub use folder::{Folder, Item, Look, Room};
pub use key::Key;

use crate::metrics::Registry;
use flight::{Boarding, Flights, Pilot};
use store::{Recalled, Store};
use tally::{Lookup, Tally};

/// What an operator may say about the store.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder; none for a cache in memory alone.
    pub dir: Option<PathBuf>,
    /// Bytes on disk before the least needed leave.
    pub size: u64,
    /// Bytes in memory.
    pub memory: u64,
    /// What never leaves to make room.
    pub pins: Pins,
}

/// Which keys never leave to make room. What a key is about only those know who keep things.
#[derive(Clone, Default)]
pub struct Pins(Option<Arc<Covers>>);

type Covers = dyn Fn(&Key) -> bool + Send + Sync;

impl Pins {
    /// Those that `covers` says.
    pub fn new(covers: impl Fn(&Key) -> bool + Send + Sync + 'static) -> Pins {
        Pins(Some(Arc::new(covers)))
    }

    /// Whether a key is one of them.
    pub fn cover(&self, key: &Key) -> bool {
        self.0.as_ref().is_some_and(|covers| covers(key))
    }
}

impl std::fmt::Debug for Pins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Pins(some)" } else { "Pins(none)" })
    }
}

/// What is known about a kept file; lies beside the tree, never in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Note {
    /// When the bytes were fetched, or last found to be still right: milliseconds since 1970.
    pub at_ms: u64,
    /// How many bytes; 0 while more are coming and nobody knows (`Content::length` says so).
    pub length: u64,
    /// The producer's own facts, untouched ("verified", "etag", "status", ...).
    pub facts: BTreeMap<String, String>,
}

/// Something held, ready to be read.
#[derive(Debug)]
pub struct Found {
    /// What is known about it.
    pub note: Arc<Note>,
    /// Its bytes.
    pub content: Content,
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

/// How much is held, for those who watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Bytes on disk, as far as this process knows.
    pub disk_bytes: u64,
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Things in memory.
    pub memory_entries: usize,
    /// Fills under way, or on their way to the disk.
    pub fills: usize,
    /// How much the folder may hold.
    pub size: u64,
    /// Files and bytes that left since the start to make room.
    pub evicted: u64,
    pub evicted_bytes: u64,
    /// Whether what is filled goes to disk: false without a folder, and while it cannot be written.
    pub keeps_on_disk: bool,
}

/// The cache. `E` is what producers fail with; all who wait for a failed fill get a clone of it.
pub struct Cache<E> {
    store: Arc<Store>,
    flights: Arc<Flights<E>>,
}

impl<E> Clone for Cache<E> {
    fn clone(&self) -> Self {
        Cache { store: Arc::clone(&self.store), flights: Arc::clone(&self.flights) }
    }
}

impl<E: Clone + Send + Sync + From<Error> + 'static> Cache<E> {
    /// Opens the folder of `config`, making it if need be. What lies there is counted in the
    /// background. Fills run on `runtime`, and whatever blocks beside it.
    pub fn open(config: Config, runtime: Handle, registry: &Registry) -> Result<Cache<E>, Error> {
        let tally = Tally::new(registry);
        let store = Store::open(config, runtime, tally.clone())?;
        let cache = Cache { store, flights: Flights::new(tally) };
        cache.store.show(registry);
        Ok(cache)
    }

    /// What is held under `key`: from memory, else from disk; nothing if the file is not as noted.
    pub async fn get(&self, key: &Key) -> Option<Found> {
        self.store.heed_removals().await;
        let ticket = match self.store.recall(key) {
            Recalled::Found(found) => return Some(found),
            Recalled::Forgotten(ticket) => ticket,
        };
        if let Some(found) = self.flights.landing(key) {
            self.store.tally.look_up(Lookup::Landing);
            return Some(found);
        }
        self.store.fetch(key, ticket).await
    }

    /// As `get`, of what is in memory and passes. Nothing where another process took files out, until `get`
    /// has heeded that.
    pub fn at_hand(&self, key: &Key, passes: impl FnOnce(&Note) -> bool) -> Option<Found> {
        if self.store.is_behind() {
            return None;
        }
        self.store.recall_if(key, passes)
    }

    /// As `get`, but what lies on the disk counts before what is in memory: another process that shares
    /// the folder may have written it since.
    pub async fn get_shared(&self, key: &Key) -> Option<Found> {
        self.flights.landed(key).await;
        match self.store.fetch(key, None).await {
            Some(found) => Some(found),
            None => self.get(key).await,
        }
    }

    /// Joins the fill of `key` that is under way, or starts one on the shared runtime. Returns when
    /// readers may read: at `release`, or at the end. The caller may leave; the fill goes on.
    pub async fn fill<P, F>(&self, key: &Key, produce: P) -> Result<Found, E>
    where
        P: FnOnce(Draft) -> F + Send + 'static,
        F: Future<Output = Result<(Draft, Verdict), E>> + Send + 'static,
    {
        let (flight, seat) = match self.flights.board(key, || self.store.growth()) {
            Boarding::Joined(flight, seat) => (flight, seat),
            Boarding::Leads(flight, seat, pilot) => {
                self.store.runtime.spawn(fly(Arc::clone(&self.store), pilot, produce));
                (flight, seat)
            }
        };
        flight.admit(seat).await
    }

    /// Keeps a small thing that is already whole. Held in memory alone where the disk fails.
    pub async fn put(&self, key: &Key, bytes: Bytes, at_ms: u64, facts: BTreeMap<String, String>) -> Result<(), Error> {
        self.flights.landed(key).await;
        let note = Note { at_ms, length: bytes.len() as u64, facts };
        // A copy: a piece of somebody's read buffer would hold on to the rest of that.
        self.store.put(key, note, Bytes::copy_from_slice(&bytes)).await
    }

    /// Writes a new note for what is held (a revalidation that found it unchanged, a late verification).
    pub async fn annotate(&self, key: &Key, at_ms: u64, facts: BTreeMap<String, String>) -> Result<(), Error> {
        self.flights.landed(key).await;
        let change = move |note: &mut Note| (note.at_ms, note.facts) = (at_ms, facts);
        self.store.annotate(key, change).await
    }

    /// Forgets what is held under `key`. Whoever is reading it goes on reading.
    pub async fn remove(&self, key: &Key) -> Result<(), Error> {
        self.flights.landed(key).await;
        self.store.remove(key).await
    }

    /// The folder as tools see it, for whoever may block; none where there is none.
    pub fn folder(&self) -> Option<Folder> {
        self.store.disk.clone().map(Folder::shared)
    }

    /// Waits until the fills that are under way have ended, and what is to be kept is kept: for a
    /// process that is about to end.
    pub async fn settled(&self) {
        self.flights.all_landed().await;
    }

    /// How much is held now.
    pub fn stat(&self) -> Stat {
        Stat { fills: self.flights.count(), ..self.store.stat() }
    }
}

/// One fill from its start to the disk.
async fn fly<E, P, F>(store: Arc<Store>, pilot: Pilot<E>, produce: P)
where
    E: Clone + Send + Sync + From<Error> + 'static,
    P: FnOnce(Draft) -> F + Send + 'static,
    F: Future<Output = Result<(Draft, Verdict), E>> + Send + 'static,
{
    let draft = Draft::new(Arc::clone(pilot.growth()), store.disk.clone());
    let produced = produce(draft).await.and_then(|(draft, verdict)| {
        draft.check(pilot.growth())?;
        Ok((draft, verdict))
    });
    match produced {
        Ok((draft, verdict)) => land(&store, pilot, draft, verdict).await,
        Err(failure) => pilot.fail(failure),
    }
}

/// Gives out what came, and then keeps it if it is to be kept.
async fn land<E>(store: &Arc<Store>, pilot: Pilot<E>, draft: Draft, verdict: Verdict)
where
    E: Clone + Send + Sync + From<Error> + 'static,
{
    let (length, whole) = (draft.written(), draft.gather_small());
    let (at_ms, facts) = match verdict {
        Verdict::Keep { at_ms, facts } => (at_ms, facts),
        Verdict::PassOn { facts } => {
            return pilot.pass_on(Note { at_ms: disk::now() / 1_000_000, length, facts }, whole);
        }
    };
    let note = Note { at_ms, length, facts };
    match &whole {
        Some(bytes) => _ = store.memory.insert(pilot.key(), note.clone(), bytes.clone()),
        None => store.memory.remove(pilot.key()),
    }
    pilot.hand_out(note.clone(), whole);
    let is_kept = store.keep(pilot.key(), note, draft).await;
    pilot.land(is_kept);
}

/// What can go wrong with the store itself.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be used.
    #[error("cache folder {path}: {why}")]
    Folder { path: PathBuf, why: String },
    /// The folder belongs to a newer goanyway, or to something else.
    #[error(
        "cache folder {path}: its layout is {found:?}, and this goanyway knows {known}; name another with --cache-dir"
    )]
    Layout { path: PathBuf, known: u32, found: String },
    /// No room on disk, nor in the memory that stands in for it.
    #[error("the disk under {0} is full")]
    Full(PathBuf),
    /// There is no folder, and no room in memory.
    #[error("no cache folder, and more is being filled than memory may hold")]
    Unheld,
    /// Nothing can be kept, and nobody reads any more.
    #[error("nobody reads what cannot be kept")]
    Unread,
    /// The producer panicked, was dropped, or gave back a draft that was not its own.
    #[error("the producer ended without a verdict")]
    Abandoned,
    /// The bytes are not as many as readers were told.
    #[error("{promised} bytes were promised at release, {came} came")]
    Length { promised: u64, came: u64 },
    /// The producer started over too late.
    #[error("a draft was started over after readers had been let in")]
    Released,
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tempfile::{TempDir, tempdir};
    use tokio::sync::{Semaphore, oneshot};

    use super::tally::Filled;
    use super::*;

    const ZIP: &str = "download/a.example/m/@v/v1.0.0.zip";
    const MOD: &str = "download/a.example/m/@v/v1.0.0.mod";

    #[derive(Clone, Debug)]
    enum Fault {
        Upstream,
        Cache(Error),
    }

    impl From<Error> for Fault {
        fn from(error: Error) -> Fault {
            Fault::Cache(error)
        }
    }

    type Outcome = Result<(Draft, Verdict), Fault>;

    fn folder() -> TempDir {
        tempdir().unwrap()
    }

    fn config(dir: &TempDir) -> Config {
        Config { dir: Some(dir.path().to_owned()), size: 1 << 30, memory: 1 << 20, pins: Pins::default() }
    }

    fn open_with(config: Config) -> Cache<Fault> {
        Cache::open(config, Handle::current(), &Registry::default()).unwrap()
    }

    fn open(dir: &TempDir) -> Cache<Fault> {
        open_with(config(dir))
    }

    fn in_memory(memory: u64) -> Cache<Fault> {
        open_with(Config { dir: None, size: 0, memory, pins: Pins::default() })
    }

    fn key(path: &str) -> Key {
        Key::new(path).unwrap()
    }

    fn bytes(length: usize) -> Bytes {
        (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    fn facts(word: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("says".to_owned(), word.to_owned())])
    }

    fn keep(draft: Draft) -> Outcome {
        Ok((draft, Verdict::Keep { at_ms: 7, facts: facts("kept") }))
    }

    async fn write_all(draft: &mut Draft, bytes: &Bytes) -> Result<(), Fault> {
        for piece in bytes.chunks(10_000) {
            draft.write(bytes.slice_ref(piece)).await?;
        }
        Ok(())
    }

    async fn fill(cache: &Cache<Fault>, path: &str, bytes: &Bytes) -> Result<Found, Fault> {
        let bytes = bytes.clone();
        let produce = move |mut draft: Draft| async move {
            write_all(&mut draft, &bytes).await?;
            keep(draft)
        };
        cache.fill(&key(path), produce).await
    }

    async fn fill_and_settle(cache: &Cache<Fault>, path: &str, bytes: &Bytes) {
        assert_eq!(read(fill(cache, path, bytes).await.unwrap()).await, Ok(bytes.clone()));
        cache.settled().await;
    }

    /// Everything a reader gets, or what it got before an error.
    async fn read(mut found: Found) -> Result<Bytes, Bytes> {
        let mut all = Vec::new();
        while let Some(piece) = found.content.next().await {
            match piece {
                Ok(piece) => all.extend_from_slice(&piece),
                Err(_) => return Err(all.into()),
            }
        }
        Ok(all.into())
    }

    async fn held(cache: &Cache<Fault>, path: &str) -> Option<Bytes> {
        match cache.get(&key(path)).await {
            Some(found) => Some(read(found).await.expect("what is held is whole")),
            None => None,
        }
    }

    /// Every file under a folder, by its path.
    fn files(dir: &Path) -> Vec<String> {
        let mut folders = vec![dir.to_owned()];
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false => found.push(entry.path().strip_prefix(dir).unwrap().to_str().unwrap().to_owned()),
                }
            }
        }
        found.sort();
        found
    }

    fn kept_files(dir: &TempDir) -> Vec<String> {
        let ours = ["layout", "evict.lock", "removals"];
        files(dir.path()).into_iter().filter(|path| !ours.contains(&path.as_str())).collect()
    }

    #[tokio::test]
    async fn fifty_ask_and_one_producer_runs() {
        let dir = folder();
        let cache = open(&dir);
        let (runs, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let asking = (0..50).map(|_| {
            let (runs, gate) = (Arc::clone(&runs), Arc::clone(&gate));
            let produce = move |mut draft: Draft| async move {
                runs.fetch_add(1, Ordering::SeqCst);
                let _open = gate.acquire().await.unwrap();
                write_all(&mut draft, &bytes(300_000)).await?;
                keep(draft)
            };
            let cache = cache.clone();
            tokio::spawn(async move { cache.fill(&key(ZIP), produce).await })
        });
        let asking: Vec<_> = asking.collect();
        while cache.store.tally.filled(Filled::Joined) < 49 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(1);
        for found in join_all(asking).await {
            let found = found.unwrap().unwrap();
            assert_eq!((found.note.at_ms, &found.note.facts), (7, &facts("kept")));
            assert_eq!(read(found).await.unwrap(), bytes(300_000));
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn readers_stream_while_it_grows_and_all_get_the_same_bytes() {
        let dir = folder();
        let cache = open(&dir);
        for (beginning, length) in [(5, 20), (5, 300_000), (200_000, 900_000)] {
            cache.remove(&key(ZIP)).await.unwrap();
            let (has_begun, beginnings) = oneshot::channel::<()>();
            let produce = move |mut draft: Draft| async move {
                let all = bytes(length);
                write_all(&mut draft, &all.slice(..beginning)).await?;
                draft.release(Some(length as u64), facts("released"));
                assert!(draft.is_released());
                beginnings.await.unwrap();
                write_all(&mut draft, &all.slice(beginning..)).await?;
                keep(draft)
            };
            let leader = cache.fill(&key(ZIP), produce).await.unwrap();
            let mut readers = vec![leader];
            for _ in 0..20 {
                readers.push(fill(&cache, ZIP, &bytes(1)).await.unwrap());
            }
            let mut begun = Vec::new();
            for reader in &mut readers {
                assert_eq!((reader.content.length(), &reader.note.facts), (Some(length as u64), &facts("released")));
                begun.push(reader.content.next().await.unwrap().unwrap());
            }
            has_begun.send(()).unwrap();
            for (reader, first) in readers.into_iter().zip(begun) {
                let rest = read(reader).await.unwrap();
                assert_eq!([first, rest].concat(), bytes(length));
            }
            cache.settled().await;
            assert_eq!(held(&cache, ZIP).await.unwrap(), bytes(length));
        }
    }

    #[tokio::test]
    async fn the_leader_leaves_and_the_fill_goes_on() {
        let dir = folder();
        let cache = open(&dir);
        let (started, has_started) = oneshot::channel();
        let (go_on, waiting) = oneshot::channel::<()>();
        let produce = move |mut draft: Draft| async move {
            started.send(()).unwrap();
            waiting.await.unwrap();
            write_all(&mut draft, &bytes(100_000)).await?;
            keep(draft)
        };
        let leaving = cache.clone();
        let leader = tokio::spawn(async move { leaving.fill(&key(ZIP), produce).await });
        has_started.await.unwrap();
        leader.abort();
        assert!(leader.await.unwrap_err().is_cancelled());
        go_on.send(()).unwrap();
        cache.settled().await;
        assert_eq!(held(&cache, ZIP).await.unwrap(), bytes(100_000));
    }

    #[tokio::test]
    async fn a_producer_that_fails_is_heard_by_all_who_wait_and_the_next_starts_anew() {
        let dir = folder();
        let cache = open(&dir);
        let gate = Arc::new(Semaphore::new(0));
        let asking: Vec<_> = (0..5)
            .map(|_| {
                let gate = Arc::clone(&gate);
                let produce = move |mut draft: Draft| async move {
                    write_all(&mut draft, &bytes(200_000)).await?;
                    let _open = gate.acquire().await.unwrap();
                    Err(Fault::Upstream)
                };
                let cache = cache.clone();
                async move { cache.fill(&key(ZIP), produce).await }
            })
            .collect();
        let opened = async { gate.add_permits(1) };
        let (failures, ()) = tokio::join!(join_all(asking), opened);
        assert!(failures.iter().all(|failure| matches!(failure, Err(Fault::Upstream))), "{failures:?}");
        assert_eq!((held(&cache, ZIP).await, kept_files(&dir)), (None, vec![]));
        fill_and_settle(&cache, ZIP, &bytes(10)).await;
        assert_eq!(held(&cache, ZIP).await.unwrap(), bytes(10));
    }

    #[tokio::test]
    async fn a_producer_that_fails_after_release_breaks_its_readers_off_and_keeps_nothing() {
        let dir = folder();
        for (cache, length) in [(open(&dir), 10), (open(&dir), 300_000), (in_memory(1 << 20), 300_000)] {
            let (entered, has_entered) = oneshot::channel();
            let produce = move |mut draft: Draft| async move {
                draft.release(None, facts("hopeful"));
                write_all(&mut draft, &bytes(length)).await?;
                has_entered.await.unwrap();
                Err(Fault::Upstream)
            };
            let mut found = cache.fill(&key(ZIP), produce).await.unwrap();
            entered.send(()).unwrap();
            let mut came = Vec::new();
            while let Some(Ok(piece)) = found.content.next().await {
                came.extend_from_slice(&piece);
            }
            assert_eq!(came, bytes(length));
            assert!(found.content.next().await.unwrap().is_err(), "asking again is no clean end either");
            cache.settled().await;
            assert_eq!((held(&cache, ZIP).await, kept_files(&dir)), (None, vec![]));
        }
    }

    #[tokio::test]
    async fn a_producer_that_ends_without_a_verdict_is_told_as_abandoned() {
        let dir = folder();
        let cache = open(&dir);
        let panics = cache.fill(&key(ZIP), |_| async { panic!("a producer's defect") }).await;
        assert!(matches!(panics, Err(Fault::Cache(Error::Abandoned))), "{panics:?}");
        let starts =
            cache.fill(&key(ZIP), |_| -> std::future::Ready<Outcome> { panic!("before its first await") }).await;
        assert!(matches!(starts, Err(Fault::Cache(Error::Abandoned))), "{starts:?}");
        fill_and_settle(&cache, ZIP, &bytes(10)).await;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let cache: Cache<Fault> =
            Cache::open(config(&folder()), runtime.handle().clone(), &Registry::default()).unwrap();
        let waiting = cache.clone();
        let waiting = tokio::spawn(async move { waiting.fill(&key(ZIP), |_| std::future::pending::<Outcome>()).await });
        while cache.stat().fills == 0 {
            tokio::task::yield_now().await;
        }
        runtime.shutdown_background();
        assert!(matches!(waiting.await.unwrap(), Err(Fault::Cache(Error::Abandoned))));
    }

    #[tokio::test]
    async fn starting_over_before_release_is_seen_by_nobody() {
        let dir = folder();
        for (cache, length) in [(open(&dir), 10), (open(&dir), 300_000), (in_memory(1 << 20), 300_000)] {
            let produce = move |mut draft: Draft| async move {
                write_all(&mut draft, &Bytes::from(vec![9; 400_000])).await?;
                draft.restart();
                assert_eq!(draft.written(), 0);
                write_all(&mut draft, &bytes(length)).await?;
                assert_eq!(draft.written(), length as u64);
                keep(draft)
            };
            let found = cache.fill(&key(ZIP), produce).await.unwrap();
            assert_eq!(read(found).await.unwrap(), bytes(length));
            cache.settled().await;
            assert_eq!(held(&cache, ZIP).await.unwrap(), bytes(length));
        }
        assert_eq!(kept_files(&dir), [ZIP, &format!("notes/{ZIP}.json")]);
    }

    #[tokio::test]
    async fn starting_over_after_release_is_a_failure() {
        let dir = folder();
        let cache = open(&dir);
        let (refused, was_refused) = oneshot::channel();
        let (entered, has_entered) = oneshot::channel();
        let produce = move |mut draft: Draft| async move {
            draft.write(bytes(10)).await?;
            draft.release(None, facts(""));
            has_entered.await.unwrap();
            draft.restart();
            refused.send(draft.write(bytes(10)).await).unwrap();
            keep(draft)
        };
        let found = cache.fill(&key(ZIP), produce).await.unwrap();
        entered.send(()).unwrap();
        assert!(matches!(was_refused.await.unwrap(), Err(Error::Released)));
        assert_eq!(read(found).await.unwrap_err(), bytes(10));
        assert_eq!((held(&cache, ZIP).await, kept_files(&dir)), (None, vec![]));
    }

    #[tokio::test]
    async fn the_new_replaces_the_old_whatever_their_sizes() {
        let dir = folder();
        let cache = open(&dir);
        for length in [10, 300_000, 20, 400_000, 500_000, 30] {
            fill(&cache, ZIP, &bytes(length)).await.unwrap();
            assert_eq!(held(&cache, ZIP).await.unwrap(), bytes(length), "on its way to the disk");
            cache.settled().await;
            assert_eq!(held(&cache, ZIP).await.unwrap(), bytes(length));
            assert_eq!(held(&open(&dir), ZIP).await.unwrap(), bytes(length));
            assert_eq!(cache.stat().disk_bytes, length as u64);
        }
    }

    #[tokio::test]
    async fn a_note_speaks_for_its_own_key_alone() {
        let dir = folder();
        let cache = open(&dir);
        fill_and_settle(&cache, "download/one", &bytes(10)).await;
        for tree in ["notes/download", "download"] {
            let name = |key: &str| {
                dir.path().join(tree).join(if tree == "download" { key.into() } else { format!("{key}.json") })
            };
            fs::copy(name("one"), name("other")).unwrap();
        }
        assert_eq!(held(&cache, "download/other").await, None);
    }

    #[tokio::test]
    async fn another_length_than_promised_is_a_failure() {
        let dir = folder();
        let cache = open(&dir);
        for promised in [99_999, 100_001] {
            let produce = move |mut draft: Draft| async move {
                draft.release(Some(promised), facts(""));
                // A producer that does not listen is not believed either.
                let _ = write_all(&mut draft, &bytes(100_000)).await;
                keep(draft)
            };
            if let Ok(found) = cache.fill(&key(ZIP), produce).await {
                assert!(read(found).await.is_err());
            }
            assert_eq!((held(&cache, ZIP).await, kept_files(&dir)), (None, vec![]), "{promised}");
        }
    }

    #[tokio::test]
    async fn hits_never_wait_behind_fills() {
        let dir = folder();
        let cache = open(&dir);
        fill_and_settle(&cache, MOD, &bytes(10)).await;
        let stuck = cache.clone();
        let stuck = tokio::spawn(async move { stuck.fill(&key(MOD), |_| std::future::pending::<Outcome>()).await });
        while cache.stat().fills == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(held(&cache, MOD).await.unwrap(), bytes(10));
        cache.put(&key(MOD), bytes(11), 8, facts("put")).await.unwrap();
        assert_eq!(held(&cache, MOD).await.unwrap(), bytes(11));
        stuck.abort();
    }

    #[tokio::test]
    async fn what_is_passed_on_is_not_kept() {
        let dir = folder();
        let cache = open(&dir);
        for length in [10, 300_000] {
            let produce = move |mut draft: Draft| async move {
                write_all(&mut draft, &bytes(length)).await?;
                Ok((draft, Verdict::PassOn { facts: facts("odd") }))
            };
            let found = cache.fill(&key(ZIP), produce).await.unwrap();
            assert_eq!((found.content.length(), &found.note.facts), (Some(length as u64), &facts("odd")));
            assert_eq!(read(found).await.unwrap(), bytes(length));
            cache.settled().await;
            assert_eq!(held(&cache, ZIP).await, None);
        }
        assert_eq!(kept_files(&dir), [""; 0]);
    }

    #[tokio::test]
    async fn a_producer_reads_and_seeks_what_it_wrote() {
        use std::io::{Read, Seek, SeekFrom};
        let dir = folder();
        for (cache, length) in [(open(&dir), 10), (open(&dir), 300_000), (in_memory(1 << 20), 300_000)] {
            let produce = move |mut draft: Draft| async move {
                write_all(&mut draft, &bytes(length)).await?;
                let mut reading = draft.reading()?;
                let checked = tokio::task::spawn_blocking(move || {
                    let mut all = Vec::new();
                    reading.read_to_end(&mut all).unwrap();
                    assert_eq!(all, bytes(length));
                    assert_eq!(reading.seek(SeekFrom::End(-3)).unwrap(), length as u64 - 3);
                    all.clear();
                    reading.read_to_end(&mut all).unwrap();
                    assert_eq!(all, bytes(length).slice(length - 3..));
                    assert_eq!(reading.seek(SeekFrom::Start(5)).unwrap(), 5);
                    let mut two = [0; 2];
                    reading.read_exact(&mut two).unwrap();
                    assert_eq!(two, bytes(length)[5..7]);
                    assert!(reading.seek(SeekFrom::Current(-8)).is_err());
                });
                checked.await.unwrap();
                keep(draft)
            };
            let found = cache.fill(&key(ZIP), produce).await.unwrap();
            assert_eq!(read(found).await.unwrap(), bytes(length));
            cache.settled().await;
        }
    }

    #[tokio::test]
    async fn what_was_kept_is_there_after_a_restart_of_ours_as_a_tree_that_go_reads() {
        let dir = folder();
        let cache = open(&dir);
        fill_and_settle(&cache, ZIP, &bytes(300_000)).await;
        fill_and_settle(&cache, MOD, &bytes(10)).await;
        fill_and_settle(&cache, "download/a.example/m/@v/empty", &bytes(0)).await;
        assert_eq!(files(&dir.path().join("download/a.example/m/@v")), ["empty", "v1.0.0.mod", "v1.0.0.zip"]);
        drop(cache);
        let cache = open(&dir);
        for (path, length) in [(ZIP, 300_000), (MOD, 10), ("download/a.example/m/@v/empty", 0)] {
            let found = cache.get(&key(path)).await.unwrap();
            let told = Note { at_ms: 7, length: length as u64, facts: facts("kept") };
            assert_eq!((&*found.note, found.content.length()), (&told, Some(length as u64)), "{path}");
            assert_eq!(read(found).await.unwrap(), bytes(length), "{path}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn nobody_else_looks_into_the_folder() {
        use std::os::unix::fs::PermissionsExt;
        let parent = folder();
        let cache = open_with(Config {
            dir: Some(parent.path().join("x/cache")),
            size: 1 << 30,
            memory: 0,
            pins: Pins::default(),
        });
        fill_and_settle(&cache, MOD, &bytes(1)).await;
        for path in ["x/cache", "x/cache/notes", "x/cache/tmp", "x/cache/download", "x/cache/download/a.example/m/@v"] {
            let mode = fs::metadata(parent.path().join(path)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{path}");
        }
    }

    #[tokio::test]
    async fn a_file_that_was_cut_emptied_altered_or_taken_behind_our_back_is_not_served() {
        type Meddle = fn(&Path);
        let alter: Meddle = |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[3] ^= 1;
            fs::write(path, bytes).unwrap();
            let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
            fs::File::options().write(true).open(path).unwrap().set_modified(later).unwrap();
        };
        let meddlers: [(&str, Meddle); 6] = [
            ("short", |path| fs::File::options().write(true).open(path).unwrap().set_len(5).unwrap()),
            ("short", |path| fs::write(path, "").unwrap()),
            ("short", |path| fs::write(path, vec![0; 400_000]).unwrap()),
            ("missing", |path| fs::remove_file(path).unwrap()),
            ("replaced", |path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            }),
            ("altered", alter),
        ];
        for length in [10, 300_000] {
            for (damage, meddle) in meddlers {
                let dir = folder();
                fill_and_settle(&open(&dir), ZIP, &bytes(length)).await;
                meddle(&dir.path().join(ZIP));
                let registry = Registry::default();
                let cache = Cache::<Fault>::open(config(&dir), Handle::current(), &registry).unwrap();
                assert_eq!(held(&cache, ZIP).await, None, "{damage} {length}");
                let told = format!("goanyway_cache_dropped_total{{damage=\"{damage}\"}} 1");
                assert!(registry.text().contains(&told), "{told} in {}", registry.text());
                assert_eq!(kept_files(&dir), [""; 0]);
                fill_and_settle(&cache, ZIP, &bytes(length)).await;
                assert_eq!(held(&cache, ZIP).await.unwrap(), bytes(length));
            }
        }
    }

    /// Alters a file and sets its time back, as rot or a meddler may.
    #[cfg(unix)]
    fn alter_unseen(path: &Path) {
        use std::os::unix::fs::MetadataExt;
        let before = fs::metadata(path).unwrap();
        let mut altered = fs::read(path).unwrap();
        altered[3] ^= 1;
        // File systems count their times in steps of milliseconds.
        while fs::metadata(path).unwrap().ctime_nsec() == before.ctime_nsec() {
            fs::write(path, &altered).unwrap();
        }
        fs::File::options().write(true).open(path).unwrap().set_modified(before.modified().unwrap()).unwrap();
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_file_altered_with_its_time_set_back_is_not_served() {
        for length in [10, 300_000, 3_000_000] {
            let dir = folder();
            let cache = open(&dir);
            fill_and_settle(&cache, ZIP, &bytes(length)).await;
            alter_unseen(&dir.path().join(ZIP));
            assert_eq!(held(&open(&dir), ZIP).await, None, "{length} bytes, a process that never saw it");
            fill_and_settle(&cache, ZIP, &bytes(length)).await;
            assert_eq!(held(&cache, ZIP).await, Some(bytes(length)));
            alter_unseen(&dir.path().join(ZIP));
            let in_memory = (length as u64 <= growth::SMALL).then(|| bytes(length));
            assert_eq!(held(&cache, ZIP).await, in_memory, "{length} bytes, the process that served it");
        }
    }

    #[tokio::test]
    async fn a_file_whose_time_alone_changed_is_no_damage() {
        let dir = folder();
        fill_and_settle(&open(&dir), ZIP, &bytes(300_000)).await;
        let long_ago = std::time::UNIX_EPOCH;
        fs::File::options().write(true).open(dir.path().join(ZIP)).unwrap().set_modified(long_ago).unwrap();
        let cache = open(&dir);
        for _ in 0..2 {
            assert_eq!(held(&cache, ZIP).await, Some(bytes(300_000)), "another time alone is no damage");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_pipe_or_a_folder_in_the_place_of_a_file_holds_nobody_up() {
        let pipe = |path: &Path| {
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap()
        };
        let bare = |path: &Path| fs::create_dir(path).unwrap();
        for (put_there, place) in [(&pipe as &dyn Fn(&Path), ZIP), (&bare, ZIP), (&pipe, &format!("notes/{ZIP}.json"))]
        {
            let dir = folder();
            fill_and_settle(&open(&dir), ZIP, &bytes(300_000)).await;
            fs::remove_file(dir.path().join(place)).unwrap();
            put_there(&dir.path().join(place));
            let cache = open(&dir);
            assert_eq!(held(&cache, ZIP).await, None);
            fill_and_settle(&cache, ZIP, &bytes(300_000)).await;
            assert_eq!(held(&open(&dir), ZIP).await, Some(bytes(300_000)));
        }
    }

    #[tokio::test]
    async fn a_crash_between_file_and_note_leaves_nothing_that_is_served() {
        let dir = folder();
        fill_and_settle(&open(&dir), ZIP, &bytes(300_000)).await;
        let note = dir.path().join(format!("notes/{ZIP}.json"));
        for left in [None, Some(&b""[..]), Some(&[0; 200]), Some(b"{\"key\":")] {
            match left {
                None => fs::remove_file(&note).unwrap(),
                Some(torn) => fs::write(&note, torn).unwrap(),
            }
            let cache = open(&dir);
            assert_eq!(held(&cache, ZIP).await, None, "{left:?}");
            fill_and_settle(&cache, ZIP, &bytes(300_000)).await;
            assert_eq!(held(&open(&dir), ZIP).await.unwrap(), bytes(300_000));
        }
    }

    #[tokio::test]
    async fn an_old_note_never_speaks_for_a_new_file() {
        let dir = folder();
        let cache = open(&dir);
        fill_and_settle(&cache, MOD, &bytes(10)).await;
        let note = dir.path().join(format!("notes/{MOD}.json"));
        let old = fs::read(&note).unwrap();
        cache.put(&key(MOD), Bytes::from_static(b"0123456789"), 8, facts("new")).await.unwrap();
        fs::write(&note, old).unwrap();
        assert_eq!(held(&open(&dir), MOD).await, None);
    }

    #[tokio::test]
    async fn leftovers_of_the_dead_are_swept_and_those_of_the_living_are_not() {
        let dir = folder();
        let cache = open(&dir);
        fs::write(dir.path().join("tmp/dead"), "half").unwrap();
        let (written, is_written) = oneshot::channel();
        let (go_on, waiting) = oneshot::channel::<()>();
        let produce = move |mut draft: Draft| async move {
            write_all(&mut draft, &bytes(300_000)).await?;
            written.send(()).unwrap();
            waiting.await.unwrap();
            keep(draft)
        };
        let filling = cache.clone();
        let filling = tokio::spawn(async move { filling.fill(&key(ZIP), produce).await });
        is_written.await.unwrap();
        let second = open(&dir);
        let left = files(&dir.path().join("tmp"));
        assert!(left.len() == 1 && left[0] != "dead", "{left:?}");
        go_on.send(()).unwrap();
        assert_eq!(read(filling.await.unwrap().unwrap()).await.unwrap(), bytes(300_000));
        cache.settled().await;
        assert_eq!(held(&second, ZIP).await.unwrap(), bytes(300_000));
    }

    #[tokio::test]
    async fn two_caches_share_a_folder() {
        let dir = folder();
        let (one, other) =
            (open_with(Config { memory: 0, ..config(&dir) }), open_with(Config { memory: 0, ..config(&dir) }));
        for round in 0..20 {
            let (short, long) = (bytes(100 + round), bytes(200_000 + round));
            let (a, b) = tokio::join!(fill(&one, ZIP, &short), fill(&other, ZIP, &long));
            assert_eq!(read(a.unwrap()).await.unwrap(), short);
            assert_eq!(read(b.unwrap()).await.unwrap(), long);
            one.settled().await;
            other.settled().await;
            for cache in [&one, &other] {
                let held = held(cache, ZIP).await;
                assert!(
                    held.is_none() || held.as_ref() == Some(&short) || held.as_ref() == Some(&long),
                    "round {round}"
                );
            }
        }
        fill_and_settle(&one, MOD, &bytes(10)).await;
        assert_eq!(held(&other, MOD).await.unwrap(), bytes(10));
        other.remove(&key(MOD)).await.unwrap();
        assert_eq!(held(&one, MOD).await, None);
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_is_refused() {
        let dir = folder();
        fs::write(dir.path().join("file"), "").unwrap();
        let path = dir.path().join("file/cache");
        let refused = Cache::<Fault>::open(
            Config { dir: Some(path.clone()), size: 0, memory: 0, pins: Pins::default() },
            Handle::current(),
            &Registry::default(),
        );
        assert!(matches!(refused.err().unwrap(), Error::Folder { path: named, .. } if named == path));
    }

    #[tokio::test]
    async fn a_layout_from_the_future_is_refused_and_ours_is_written_where_there_is_none() {
        let dir = folder();
        drop(open(&dir));
        assert_eq!(fs::read_to_string(dir.path().join("layout")).unwrap(), "1\n");
        drop(open(&dir));
        for found in ["2\n", "99", "not a number", ""] {
            fs::write(dir.path().join("layout"), found).unwrap();
            let refused = Cache::<Fault>::open(config(&dir), Handle::current(), &Registry::default());
            let said = refused.err().unwrap().to_string();
            assert!(said.contains(&format!("its layout is {:?}", found.trim())) && said.contains("knows 1"), "{said}");
        }
        let strange = folder();
        fs::write(strange.path().join("layout"), "2\n").unwrap();
        assert!(Cache::<Fault>::open(config(&strange), Handle::current(), &Registry::default()).is_err());
        assert_eq!(fs::read_dir(strange.path()).unwrap().count(), 1, "it was left as it was found");
    }

    #[tokio::test]
    async fn a_folder_that_can_no_longer_be_written_is_done_without_until_it_can() {
        let dir = folder();
        let cache = open(&dir);
        fill_and_settle(&cache, "download/before.zip", &bytes(100_000)).await;
        fs::remove_dir_all(dir.path().join("tmp")).unwrap();
        fs::write(dir.path().join("tmp"), "no folder").unwrap();
        fs::remove_dir_all(dir.path().join("notes/download")).unwrap();
        fs::write(dir.path().join("notes/download"), "no folder").unwrap();
        fill_and_settle(&cache, MOD, &bytes(10)).await;
        fill_and_settle(&cache, ZIP, &bytes(300_000)).await;
        cache.put(&key("download/put"), bytes(20), 1, facts("")).await.unwrap();
        for (path, length) in [(MOD, 10), (ZIP, 300_000), ("download/put", 20)] {
            assert_eq!(held(&cache, path).await.unwrap(), bytes(length), "held in memory: {path}");
        }
        assert!(!cache.stat().keeps_on_disk);
        fill_and_settle(&cache, "download/long.zip", &bytes(3_000_000)).await;
        assert_eq!(held(&cache, "download/long.zip").await, None, "more than memory may hold");
        fs::remove_file(dir.path().join("tmp")).unwrap();
        fs::remove_file(dir.path().join("notes/download")).unwrap();
        fill_and_settle(&cache, ZIP, &bytes(300_000)).await;
        assert_eq!(held(&open(&dir), ZIP).await.unwrap(), bytes(300_000));
    }

    #[tokio::test]
    async fn a_folder_that_is_swept_away_is_made_again() {
        let dir = folder();
        let cache = open(&dir);
        fill_and_settle(&cache, ZIP, &bytes(300_000)).await;
        fs::remove_dir_all(dir.path()).unwrap();
        assert_eq!(held(&cache, ZIP).await, None);
        fill_and_settle(&cache, ZIP, &bytes(300_000)).await;
        fill_and_settle(&cache, MOD, &bytes(10)).await;
        assert!(cache.stat().keeps_on_disk);
        let fresh = open(&dir);
        assert_eq!((held(&fresh, ZIP).await, held(&fresh, MOD).await), (Some(bytes(300_000)), Some(bytes(10))));
    }

    #[tokio::test]
    async fn a_full_disk_is_done_without_and_nothing_short_is_kept() {
        for room in [0, 1, 65_536, 150_000, 299_999, 300_000, 300_001] {
            let dir = folder();
            let cache = open(&dir);
            let disk = cache.store.disk.as_ref().unwrap();
            disk.room.store(room, Ordering::SeqCst);
            fill_and_settle(&cache, ZIP, &bytes(300_000)).await;
            fill_and_settle(&cache, MOD, &bytes(10)).await;
            assert!(!cache.stat().keeps_on_disk, "{room}");
            for (path, length) in [(ZIP, 300_000), (MOD, 10)] {
                assert_eq!(held(&cache, path).await.unwrap(), bytes(length), "held in memory: {path} {room}");
            }
            let kept = files(&dir.path().join("download"));
            assert!(kept.iter().all(|path| path.ends_with(".mod")), "{kept:?} {room}");
            let fresh = held(&open(&dir), MOD).await;
            assert!(fresh.is_none() || fresh == Some(bytes(10)), "{room}");
            disk.room.store(u64::MAX, Ordering::SeqCst);
            fill_and_settle(&cache, ZIP, &bytes(300_000)).await;
            assert!(cache.stat().keeps_on_disk, "{room}");
            assert_eq!(held(&open(&dir), ZIP).await.unwrap(), bytes(300_000), "{room}");
        }
    }

    #[cfg(target_os = "linux")]
    /// Says what is lacking here, past the harness; where CI requires everything, that is a failure.
    fn skip(test: &str, lacking: &str) {
        assert!(std::env::var("GOANYWAY_TEST_REQUIRE").as_deref() != Ok("all"), "{test} needs {lacking}");
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("skipped: {test} needs {lacking}\n"));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_small_tmpfs_that_fills_up_keeps_nothing_short() {
        let dir = folder();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=512k", "goanyway-test"])
            .arg(dir.path())
            .output();
        if !mounted.is_ok_and(|done| done.status.success()) {
            return skip("a_small_tmpfs_that_fills_up_keeps_nothing_short", "leave to mount");
        }
        let cache = open_with(Config { memory: 0, ..config(&dir) });
        for number in 0..20 {
            fill_and_settle(&cache, &format!("download/{number}.zip"), &bytes(90_000)).await;
        }
        let kept: Vec<_> = kept_files(&dir).into_iter().filter(|path| path.starts_with("download/")).collect();
        let held_now = join_all((0..20).map(|number| {
            let cache = &cache;
            async move { held(cache, &format!("download/{number}.zip")).await }
        }))
        .await;
        let whole = held_now.iter().flatten().filter(|held| **held == bytes(90_000)).count();
        let short = kept.iter().filter(|path| fs::metadata(dir.path().join(path)).unwrap().len() != 90_000).count();
        drop(cache);
        let unmounted = std::process::Command::new("umount").arg(dir.path()).status().unwrap();
        assert!(unmounted.success());
        assert_eq!((whole, kept.len(), short), (held_now.iter().flatten().count(), whole, 0));
        assert!((1..=5).contains(&whole), "{whole} of 90 kB fit in 512 KiB");
    }

    #[tokio::test]
    async fn a_cache_without_a_folder_keeps_in_memory_what_fits() {
        let cache = in_memory(500_000);
        fill_and_settle(&cache, MOD, &bytes(10)).await;
        fill_and_settle(&cache, ZIP, &bytes(300_000)).await;
        cache.put(&key("download/put"), bytes(20), 9, facts("put")).await.unwrap();
        assert_eq!(held(&cache, ZIP).await.unwrap(), bytes(300_000));
        assert_eq!(cache.get(&key("download/put")).await.unwrap().note.at_ms, 9);
        fill_and_settle(&cache, "download/large.zip", &bytes(600_000)).await;
        assert_eq!(held(&cache, "download/large.zip").await, None);
        assert!(matches!(cache.put(&key(MOD), bytes(600_000), 1, facts("")).await, Err(Error::Unheld)));
        cache.remove(&key(ZIP)).await.unwrap();
        assert_eq!((held(&cache, ZIP).await, held(&cache, MOD).await), (None, None));
        assert!(!cache.stat().keeps_on_disk);
    }

    #[tokio::test]
    async fn small_things_are_in_memory_at_once_and_larger_ones_from_the_second_hit() {
        let dir = folder();
        let registry = Registry::default();
        let cache = Cache::<Fault>::open(config(&dir), Handle::current(), &registry).unwrap();
        fill_and_settle(&cache, MOD, &bytes(10)).await;
        fill_and_settle(&cache, ZIP, &bytes(300_000)).await;
        let looks = async |path: &str| {
            held(&cache, path).await.unwrap();
            (cache.store.tally.looked_up(Lookup::Memory), cache.store.tally.looked_up(Lookup::Disk))
        };
        assert_eq!(looks(MOD).await, (1, 0));
        assert_eq!(looks(ZIP).await, (1, 1));
        assert_eq!(looks(ZIP).await, (1, 2));
        assert_eq!(looks(ZIP).await, (2, 2));
        let fresh = open(&dir);
        for hits in [(0, 1), (1, 1)] {
            held(&fresh, MOD).await.unwrap();
            assert_eq!((fresh.store.tally.looked_up(Lookup::Memory), fresh.store.tally.looked_up(Lookup::Disk)), hits);
        }
        let stat = cache.stat();
        assert!(stat.memory_entries == 2 && stat.memory_bytes > 300_010 && stat.disk_bytes == 300_010, "{stat:?}");
        assert!(registry.text().contains("goanyway_cache_disk_bytes 300010"), "{}", registry.text());
    }

    #[tokio::test]
    async fn a_new_note_replaces_the_old_one_and_leaves_the_bytes() {
        let dir = folder();
        let cache = open(&dir);
        for (path, length) in [(MOD, 10), (ZIP, 300_000)] {
            fill(&cache, path, &bytes(length)).await.unwrap();
            cache.annotate(&key(path), 99, facts("verified")).await.unwrap();
            for cache in [&cache, &open(&dir)] {
                let found = cache.get(&key(path)).await.unwrap();
                assert_eq!(*found.note, Note { at_ms: 99, length: length as u64, facts: facts("verified") });
                assert_eq!(read(found).await.unwrap(), bytes(length));
            }
        }
        cache.annotate(&key("download/none"), 1, facts("")).await.unwrap();
        assert!(cache.get(&key("download/none")).await.is_none());
    }

    #[tokio::test]
    async fn what_is_removed_is_gone_but_for_those_who_read_it() {
        let dir = folder();
        let cache = open(&dir);
        fill_and_settle(&cache, ZIP, &bytes(900_000)).await;
        let reader = cache.get(&key(ZIP)).await.unwrap();
        cache.remove(&key(ZIP)).await.unwrap();
        assert_eq!((held(&cache, ZIP).await, kept_files(&dir)), (None, vec![]));
        assert_eq!(read(reader).await.unwrap(), bytes(900_000));
        cache.remove(&key(ZIP)).await.unwrap();
    }

    /// Folders stayed behind for ever, two for each module that anybody had asked for.
    #[tokio::test]
    async fn the_last_file_of_a_folder_takes_the_folder_with_it() {
        let dir = folder();
        let cache = open(&dir);
        for path in ["absent/download/a.b/c/@v/list", "absent/download/a.b/d/@v/list"] {
            cache.put(&key(path), bytes(10), 1, facts("")).await.unwrap();
        }
        cache.remove(&key("absent/download/a.b/c/@v/list")).await.unwrap();
        let is_there = |path: &str| dir.path().join(path).exists();
        assert!(!is_there("absent/download/a.b/c") && !is_there("notes/absent/download/a.b/c"));
        assert!(is_there("absent/download/a.b/d/@v/list") && is_there("notes/absent/download/a.b/d/@v/list.json"));
        cache.remove(&key("absent/download/a.b/d/@v/list")).await.unwrap();
        assert!(is_there("absent") && !is_there("absent/download") && is_there("notes/absent"));
        fill_and_settle(&cache, "absent/download/a.b/c/@v/list", &bytes(10)).await;
        assert_eq!(held(&open(&dir), "absent/download/a.b/c/@v/list").await, Some(bytes(10)));
    }

    #[tokio::test]
    async fn a_file_and_a_folder_of_one_name_are_two_things() {
        let (file, under) = ("hosts/a/@v/v1.info", "hosts/a/@v/v1.info/x");
        for (first, second) in [(file, under), (under, file)] {
            let dir = folder();
            let cache = open(&dir);
            fill_and_settle(&cache, first, &bytes(10)).await;
            fill_and_settle(&cache, second, &bytes(20)).await;
            assert_eq!((held(&cache, first).await, held(&cache, second).await), (Some(bytes(10)), Some(bytes(20))));
            assert!(cache.stat().keeps_on_disk, "that is no fault of the disk");
            let fresh = open(&dir);
            assert_eq!((held(&fresh, first).await, held(&fresh, second).await), (Some(bytes(10)), None));
            fresh.remove(&key(second)).await.unwrap();
            assert_eq!(held(&fresh, first).await, Some(bytes(10)));
        }
    }

    #[tokio::test]
    async fn a_name_too_long_for_a_disk_is_filled_and_passed_on() {
        let dir = folder();
        let cache = open(&dir);
        let path = format!("download/{}/x.zip", "n".repeat(300));
        fill_and_settle(&cache, &path, &bytes(100_000)).await;
        cache.put(&key(&path), bytes(10), 1, facts("")).await.unwrap();
        cache.annotate(&key(&path), 1, facts("")).await.unwrap();
        cache.remove(&key(&path)).await.unwrap();
        assert_eq!(held(&cache, &path).await, None);
        assert!(cache.stat().keeps_on_disk && kept_files(&dir).is_empty());
    }

    #[tokio::test]
    async fn zips_that_nobody_uses_leave_and_texts_stay() {
        let dir = folder();
        let cache = open_with(Config { dir: Some(dir.path().to_owned()), size: 500_000, memory: 0, ..config(&dir) });
        let zip = |number: u32| format!("download/m/@v/v{number}.zip");
        for number in 0..4 {
            fill_and_settle(&cache, &format!("download/m/@v/v{number}.mod"), &bytes(1_000)).await;
            fill_and_settle(&cache, &zip(number), &bytes(120_000)).await;
        }
        for used in [zip(0), zip(1), zip(0), zip(1)] {
            held(&cache, &used).await.unwrap();
        }
        fill_and_settle(&cache, &zip(4), &bytes(120_000)).await;
        let zips: Vec<_> = files(dir.path()).into_iter().filter(|path| path.ends_with(".zip")).collect();
        assert_eq!(zips, [zip(0), zip(1), zip(4)], "2 and 3 were not used since they came");
        for number in 0..4 {
            assert_eq!(held(&cache, &format!("download/m/@v/v{number}.mod")).await.unwrap(), bytes(1_000));
        }
        assert_eq!(cache.stat().disk_bytes, 364_000);
        let reader = cache.get(&key(&zip(4))).await.unwrap();
        for number in [5, 6] {
            fill_and_settle(&cache, &zip(number), &bytes(120_000)).await;
        }
        assert_eq!(held(&cache, &zip(4)).await, None);
        assert_eq!(read(reader).await.unwrap(), bytes(120_000), "whoever reads it goes on reading");
    }

    #[tokio::test]
    async fn what_lies_there_is_counted_at_the_start_and_leaves_if_it_is_too_much() {
        let dir = folder();
        let cache = open(&dir);
        for number in 0..3 {
            fill_and_settle(&cache, &format!("download/{number}.zip"), &bytes(100_000)).await;
        }
        let reopened = open_with(Config { size: 250_000, ..config(&dir) });
        while reopened.stat().disk_bytes != 200_000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(files(&dir.path().join("download")).len(), 2);
    }

    #[tokio::test]
    async fn only_one_process_evicts() {
        let dir = folder();
        let cache = open_with(Config { size: 250_000, ..config(&dir) });
        let other = fs::File::options().create(true).append(true).open(dir.path().join("evict.lock")).unwrap();
        other.lock().unwrap();
        for number in 0..4 {
            fill_and_settle(&cache, &format!("download/{number}.zip"), &bytes(100_000)).await;
        }
        assert_eq!(files(&dir.path().join("download")).len(), 4);
        other.unlock().unwrap();
        fill_and_settle(&cache, "download/5.zip", &bytes(100_000)).await;
        assert_eq!(files(&dir.path().join("download")).len(), 2);
    }

    #[tokio::test]
    async fn what_is_pinned_stays_when_all_else_has_left() {
        let dir = folder();
        let pins = Pins::new(|key| key.as_str().contains("pinned"));
        let cache = open_with(Config { size: 250_000, pins, ..config(&dir) });
        for number in 0..3 {
            fill_and_settle(&cache, &format!("download/pinned{number}.zip"), &bytes(100_000)).await;
        }
        fill_and_settle(&cache, "download/other.zip", &bytes(40_000)).await;
        let zips = files(&dir.path().join("download"));
        assert!(zips.len() >= 3 && (0..3).all(|number| zips.contains(&format!("pinned{number}.zip"))), "{zips:?}");
    }

    /// A disk that others fill: the cache gives way, down to its last GiB.
    #[tokio::test]
    async fn a_disk_that_runs_full_is_given_room() {
        const GIB: u64 = 1 << 30;
        let dir = folder();
        let cache = open_with(Config { size: 20 * GIB, ..config(&dir) });
        let disk = cache.store.disk.clone().unwrap();
        let lay = |name: &str, size: u64| {
            // Empty as far as the disk is concerned: what counts is how long it says that it is.
            fs::create_dir_all(dir.path().join("download")).unwrap();
            fs::create_dir_all(dir.path().join("notes/download")).unwrap();
            fs::File::create(dir.path().join(format!("download/{name}.zip"))).unwrap().set_len(size).unwrap();
        };
        (0..5).for_each(|number| lay(&number.to_string(), GIB));
        let others_fill = |filled: disk::Pretence| *disk.pretended.lock().unwrap() = Some(filled);
        others_fill(|ours| evict::Space { total: 100 * GIB, free: 8 * GIB - ours, is_ours: false });
        disk.survey(|_| ()).unwrap();
        fill_and_settle(&cache, "download/new.zip", &bytes(100_000)).await;
        // 2 GiB are lacking, and half a GiB more makes it last.
        assert_eq!(files(&dir.path().join("download")).len(), 3);
        others_fill(|_| evict::Space { total: 100 * GIB, free: 0, is_ours: false });
        fill_and_settle(&cache, "download/newer.zip", &bytes(100_000)).await;
        let left: u64 = cache.stat().disk_bytes;
        assert!(left <= GIB + 200_000, "{left}");
        fill_and_settle(&cache, "download/newest.zip", &bytes(100_000)).await;
        assert!(held(&cache, "download/newest.zip").await.is_some(), "the last GiB is ours");
    }

    /// Memory went on serving what another process, or a tool, had taken out.
    #[tokio::test]
    async fn what_is_taken_out_by_somebody_else_is_forgotten_within_a_second() {
        let dir = folder();
        let (cache, other) = (open(&dir), open(&dir));
        fill_and_settle(&cache, MOD, &bytes(10)).await;
        assert_eq!(held(&cache, MOD).await.unwrap(), bytes(10));
        let gone = async || {
            // A second is over: what is asked now is looked at again.
            cache.store.forget_when_it_looked();
            held(&cache, MOD).await
        };
        other.remove(&key(MOD)).await.unwrap();
        assert_eq!(gone().await, None);
        fill_and_settle(&cache, MOD, &bytes(20)).await;
        let tool = Folder::open(dir.path()).unwrap().unwrap();
        tool.remove(&[key(MOD)]).unwrap();
        assert_eq!(gone().await, None);
    }

    const KEYS: u32 = 12;

    fn numbered(number: u32) -> String {
        format!("download/m/@v/v{number}.zip")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "runs until it is killed, by a_process_killed_at_any_moment_leaves_nothing_short"]
    async fn a_writer_that_waits_to_be_killed() {
        // Not a test of its own: without a folder there is nothing to do.
        let Some(dir) = std::env::var_os("GOANYWAY_TEST_DIR") else { return };
        let cache =
            open_with(Config { dir: Some(dir.into()), size: 1_500_000, memory: 100_000, pins: Pins::default() });
        for turn in 0.. {
            let (one, other) = (numbered(turn % KEYS), numbered((turn + 5) % KEYS));
            let (long, short) = (bytes(90_000 + 1_000 * (turn as usize % 97)), bytes(100 + turn as usize % 97));
            let (a, b) = tokio::join!(fill(&cache, &one, &long), fill(&cache, &other, &short));
            drop((a.unwrap(), b.unwrap()));
            println!("turn {turn}");
        }
    }

    /// Two writers share the folder, so that one dies while the other goes on.
    #[tokio::test]
    async fn a_process_killed_at_any_moment_leaves_nothing_short() {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};
        let dir = folder();
        let write = || {
            let writer = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "cache::tests::a_writer_that_waits_to_be_killed", "--ignored", "--nocapture"])
                .env("GOANYWAY_TEST_DIR", dir.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn();
            let mut writer = writer.unwrap();
            let turns = BufReader::new(writer.stdout.take().unwrap()).lines();
            (writer, turns.map_while(Result::ok).filter(|line| line.starts_with("turn ")))
        };
        let mut seen = 0;
        for round in 0..12 {
            let (mut one, mut turns) = write();
            let (mut other, mut others) = write();
            assert!(others.next().is_some() && turns.nth(round % 7).is_some(), "both write");
            one.kill().unwrap();
            one.wait().unwrap();
            let cache = open_with(Config { memory: 0, ..config(&dir) });
            for _ in 0..2 {
                for number in 0..KEYS {
                    let Some(found) = cache.get(&key(&numbered(number))).await else { continue };
                    let length = found.note.length as usize;
                    assert!(read(found).await.is_ok_and(|held| held == bytes(length)), "{round}");
                    seen += 1;
                }
                other.kill().unwrap();
                other.wait().unwrap();
            }
            drop(cache);
            open(&dir);
            assert_eq!(files(&dir.path().join("tmp")), [""; 0]);
        }
        assert!(seen > 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_fills_reads_and_changes_at_once_never_give_a_reader_a_mixture() {
        let dir = folder();
        let cache = open_with(Config { size: 3_000_000, memory: 300_000, ..config(&dir) });
        let turns = Arc::new(AtomicU64::new(0));
        let workers = (0..8).map(|_| {
            let (cache, turns) = (cache.clone(), Arc::clone(&turns));
            tokio::spawn(async move {
                for _ in 0..40 {
                    let turn = turns.fetch_add(1, Ordering::SeqCst);
                    let path = format!("download/{}.zip", turn % 5);
                    let version = bytes(50_000 + 20_000 * (turn % 4) as usize);
                    match turn % 7 {
                        0 => cache.remove(&key(&path)).await.unwrap(),
                        1 => cache.put(&key(&path), version, turn, facts("put")).await.unwrap(),
                        2 => cache.annotate(&key(&path), turn, facts("noted")).await.unwrap(),
                        3 | 4 => assert!(
                            (50_000..=110_000)
                                .contains(&read(fill(&cache, &path, &version).await.unwrap()).await.unwrap().len())
                        ),
                        _ => match cache.get(&key(&path)).await {
                            None => (),
                            Some(found) => {
                                let length = found.note.length as usize;
                                assert_eq!(read(found).await.unwrap(), bytes(length));
                            }
                        },
                    }
                }
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await.unwrap();
        }
        cache.settled().await;
        assert_eq!(cache.stat().fills, 0);
    }
}
