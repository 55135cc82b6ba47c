//! What go will ask for next, fetched before it does.
//!
//! go asks for `.info` one module at a time, for go.mod files as its module graph unrolls, and for zips
//! last of all, a few at once. Each answer tells what comes next, so that is fetched meanwhile:
//!
//! - go reads the go.mod files that the main module requires before those that they require, and of the
//!   former it will want `.info` and zip. So a go.mod that was not held, and that no go.mod read here
//!   requires, brings both: the zip is a guess, and of those only [`GUESSES`] stand at a time, for
//!   `go list -m all` wants none of them;
//! - whoever asks for an `.info` whose go.mod is there begins what a download ends with: that brings the
//!   zip (a toolchain's excepted: it is huge, and its `.info` alone says nothing);
//! - a go.mod without graph pruning (before go 1.17) brings the go.mod files that it requires, for go reads
//!   them all; one with it does so only where its `.info` was asked for before it, as `go get` and
//!   `go install` do: what it requires is then about to be required by the main module. Requirements of a
//!   pruned go.mod in an ordinary build are versions that nobody ever asks for.
//!
//! Nothing here is in anybody's way. There are [`PLACES`] for it, a client's own fetch takes one of them
//! while it lasts if one is free, and never waits for one; what waits is dropped when clients have been
//! quiet for [`QUIET`], when it is too much, or when every mirror is down. Nothing private is fetched.

use std::collections::HashMap;
use std::io::Read;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use lru::LruCache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::answer::House;
use super::gomod::GoMod;
use super::path::ModuleRequest;
use super::pools::Ground;
use super::tally::Served;
use super::verify;
use crate::cache::Draft;

/// Fetches at once, those of clients included: more than go's own (its cores), less than a mirror minds.
const PLACES: usize = 16;
/// Fetches that wait for a place.
const WAITING: usize = 2048;
/// Without a client's request for so long, nobody is there whom it would help.
const QUIET: Duration = Duration::from_secs(5);
/// How many requirements away from what a client asked for.
const DEPTH: u8 = 12;
/// Things brought that no client has asked for yet, of which we know that they were.
const BROUGHT: NonZeroUsize = NonZeroUsize::new(4096).expect("it is not 0");
/// Zips brought before anything said that they are wanted, of which no client has spoken yet.
const GUESSES: usize = 256;
/// So long a guess stands.
const GUESSED: Duration = Duration::from_secs(60);
/// Zips at once, of the places: they are long, and go waits for go.mod files.
const ZIPS: usize = 8;
/// Requirements remembered, of the go.mod files read last.
const REQUIRED: NonZeroUsize = NonZeroUsize::new(16_384).expect("it is not 0");
/// The module whose zips are whole Go installations (cmd/go/internal/toolchain).
const TOOLCHAIN: &str = "golang.org/toolchain";

/// Who asked for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Client,
    /// Nobody yet; it is so many requirements away from what a client asked for.
    Early(u8),
}

/// The places, and what was brought.
pub struct Early {
    places: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    /// When a client last asked for anything. Std lock, for a look.
    asked: Mutex<Instant>,
    // Looked at where it is not empty, with each answer out of the store; never across an await.
    brought: Mutex<LruCache<String, ()>>,
    any_brought: AtomicUsize,
    zips: Arc<Semaphore>,
    // The same: looked at where there are any.
    guesses: Mutex<HashMap<String, Instant>>,
    any_guess: AtomicUsize,
    // What go.mod files without pruning require. Once for each go.mod that is fetched.
    required: Mutex<LruCache<String, ()>>,
}

impl Default for Early {
    fn default() -> Early {
        Early {
            places: Arc::new(Semaphore::new(PLACES)),
            waiting: Arc::default(),
            asked: Mutex::new(Instant::now()),
            brought: Mutex::new(LruCache::new(BROUGHT)),
            any_brought: AtomicUsize::new(0),
            zips: Arc::new(Semaphore::new(ZIPS)),
            guesses: Mutex::default(),
            any_guess: AtomicUsize::new(0),
            required: Mutex::new(LruCache::new(REQUIRED)),
        }
    }
}

impl Early {
    /// A client's fetch begins: one place less for others while it lasts, if there is one.
    pub fn make_way(&self) -> Option<OwnedSemaphorePermit> {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    fn is_quiet(&self) -> bool {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= QUIET
    }

    fn note_brought(&self, request: &ModuleRequest) {
        let mut brought = self.brought.lock().unwrap_or_else(PoisonError::into_inner);
        brought.put(request.file(), ());
        self.any_brought.store(brought.len(), Ordering::Relaxed);
    }

    /// Whether this is the first time that a client asks for what was brought.
    fn take_brought(&self, request: &ModuleRequest) -> bool {
        if self.any_brought.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut brought = self.brought.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = brought.pop(&request.file()).is_some();
        self.any_brought.store(brought.len(), Ordering::Relaxed);
        if is_first {
            *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        is_first
    }

    fn note_required(&self, requires: &[ModuleRequest]) {
        let mut required = self.required.lock().unwrap_or_else(PoisonError::into_inner);
        for request in requires {
            required.put(request.file(), ());
        }
    }

    /// Whether a go.mod that was read here requires this one.
    fn is_required(&self, go_mod: &ModuleRequest) -> bool {
        self.required.lock().unwrap_or_else(PoisonError::into_inner).contains(&go_mod.file())
    }

    /// Takes it that this zip will be wanted, unless too much is taken so already.
    fn guess(&self, zip: &ModuleRequest, now: Instant) -> bool {
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        if guesses.len() >= GUESSES {
            guesses.retain(|_, since| now.duration_since(*since) < GUESSED);
        }
        let may = guesses.len() < GUESSES;
        if may {
            guesses.insert(zip.file(), now);
        }
        self.any_guess.store(guesses.len(), Ordering::Relaxed);
        may
    }

    /// A client asks for the version or its zip: that guess was right.
    fn settle(&self, request: &ModuleRequest) {
        if self.any_guess.load(Ordering::Relaxed) == 0 {
            return;
        }
        let zip = match request {
            ModuleRequest::Info { .. } => next_of(request),
            ModuleRequest::Zip { .. } => Some(request.clone()),
            _ => None,
        };
        let Some(zip) = zip else { return };
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        guesses.remove(&zip.file());
        self.any_guess.store(guesses.len(), Ordering::Relaxed);
    }

    /// A turn among those who wait, unless there are too many.
    fn queue_up(&self) -> Option<Turn> {
        let turn = Turn(Arc::clone(&self.waiting));
        (turn.0.fetch_add(1, Ordering::Relaxed) < WAITING).then_some(turn)
    }
}

/// One who waits.
struct Turn(Arc<AtomicUsize>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl House {
    /// A client was answered out of the store. Where that had been brought for it, the next thing is, from
    /// its ground, which is otherwise not looked for.
    pub fn follow_hit(
        self: &Arc<Self>,
        request: &ModuleRequest,
        ground: impl FnOnce() -> Option<Ground>,
        now: SystemTime,
    ) {
        self.early.settle(request);
        if !matches!(request, ModuleRequest::Mod { .. } | ModuleRequest::Info { .. })
            || !self.early.take_brought(request)
        {
            return;
        }
        if let (ModuleRequest::Info { .. }, Some(zip)) = (request, next_of(request))
            && let Some(ground) = ground()
        {
            self.bring(zip, &ground, 0, now);
        }
    }

    /// Something is being fetched for a client: what it will ask for next is as well. Whether the `.info` of
    /// a go.mod is held already, is told: then the client wants this very version, and not only what it
    /// requires.
    pub async fn begin_early(
        self: &Arc<Self>,
        request: &ModuleRequest,
        ground: &Ground,
        asked: Asked,
        now: SystemTime,
    ) -> bool {
        if asked != Asked::Client || !self.may_bring(request, ground) {
            return false;
        }
        self.early.settle(request);
        let Some(next) = next_of(request) else { return false };
        match request {
            ModuleRequest::Mod { .. } => {
                if self.is_held(&next, ground).await {
                    return true;
                }
                if !self.early.is_required(request) {
                    let zip = next_of(&next).filter(|zip| self.early.guess(zip, Instant::now()));
                    [Some(next), zip].into_iter().flatten().for_each(|next| self.bring(next, ground, 0, now));
                }
            }
            ModuleRequest::Info { module, version } => {
                let go_mod = ModuleRequest::Mod { module: module.clone(), version: version.clone() };
                if self.is_held(&go_mod, ground).await {
                    self.bring(next, ground, 0, now);
                }
            }
            _ => {}
        }
        false
    }

    /// A go.mod was fetched: what it requires is next, where go will ask for that.
    pub fn follow_requires(
        self: &Arc<Self>,
        draft: &Draft,
        ground: &Ground,
        asked: Asked,
        is_wanted: bool,
        now: SystemTime,
    ) {
        let depth = match asked {
            Asked::Client => 0,
            Asked::Early(depth) => depth,
        };
        if !self.brings_on(ground) || depth >= DEPTH || draft.written() > verify::MAX_GO_MOD {
            return;
        }
        let Ok(mut reader) = draft.reading() else { return };
        let (house, ground) = (Arc::clone(self), ground.clone());
        self.runtime.spawn_blocking(move || {
            let mut text = String::new();
            if reader.read_to_string(&mut text).is_err() {
                return;
            }
            let go_mod = GoMod::read(&text);
            if go_mod.is_pruned && !is_wanted {
                return;
            }
            let requires = go_mod.requires.into_iter();
            let requires: Vec<_> = requires.map(|(module, version)| ModuleRequest::Mod { module, version }).collect();
            house.early.note_required(&requires);
            for go_mod in requires {
                house.bring(go_mod, &ground, depth + 1, now);
            }
        });
    }

    /// Fetches something that nobody asked for yet, when there is a place.
    fn bring(self: &Arc<Self>, request: ModuleRequest, ground: &Ground, depth: u8, now: SystemTime) {
        if !self.may_bring(&request, ground) {
            return;
        }
        let Some(turn) = self.early.queue_up() else { return };
        let (house, ground) = (Arc::clone(self), ground.clone());
        self.runtime.spawn(async move {
            let _long = match &request {
                ModuleRequest::Zip { .. } => Arc::clone(&house.early.zips).acquire_owned().await.ok(),
                _ => None,
            };
            let Ok(_place) = Arc::clone(&house.early.places).acquire_owned().await else { return };
            drop(turn);
            if house.early.is_quiet() || ground.pool.is_dark() || house.is_held(&request, &ground).await {
                return;
            }
            house.early.note_brought(&request);
            if let Err(why) = house.fetch(&request, &ground, now, Served::Miss, Asked::Early(depth)).await {
                tracing::debug!(%request, %why, "not brought early");
            }
        });
    }

    fn may_bring(&self, request: &ModuleRequest, ground: &Ground) -> bool {
        self.brings_on(ground) && !request.module().is_some_and(|module| self.is_private(module))
    }

    /// A curated host is asked for nothing but what its clients ask for.
    fn brings_on(&self, ground: &Ground) -> bool {
        self.config.siblings && ground.is_known() && !ground.pool.is_dark()
    }
}

/// What go asks for after this, of the same version.
fn next_of(request: &ModuleRequest) -> Option<ModuleRequest> {
    match request.clone() {
        ModuleRequest::Mod { module, version } => Some(ModuleRequest::Info { module, version }),
        ModuleRequest::Info { module, version } if version.is_canonical() && module.as_str() != TOOLCHAIN => {
            Some(ModuleRequest::Zip { module, version })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_go_mod_comes_the_info_and_then_the_zip() {
        let next = |path: &str| next_of(&ModuleRequest::parse(path).unwrap()).map(|next| next.file());
        assert_eq!(next("/x.y/z/@v/v1.0.0.mod").as_deref(), Some("x.y/z/@v/v1.0.0.info"));
        assert_eq!(next("/x.y/z/@v/v1.0.0.info").as_deref(), Some("x.y/z/@v/v1.0.0.zip"));
        for last in [
            "/x.y/z/@v/v1.0.0.zip",
            "/x.y/z/@v/main.info",
            "/x.y/z/@v/list",
            "/golang.org/toolchain/@v/v0.0.1-go1.26.0.linux-amd64.info",
        ] {
            assert_eq!(next(last), None, "{last}");
        }
    }
}
