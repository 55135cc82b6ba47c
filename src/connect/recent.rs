//! Which connections we have just made, by our end: one of them that comes back as a client's was
//! redirected to ourselves, and answering it would be a loop.
//!
//! Kept only where connections are redirected to us, for seconds, and bounded: a loop closes at once or
//! never, and our end's port may soon be somebody else's.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

/// How long a connection may be on its way back to us.
const WAY_BACK: Duration = Duration::from_secs(2);
/// As many as a busy gateway makes in that time.
const MOST: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// Our ends of connections. Empty, and free of cost, until somebody wants them kept.
#[derive(Default)]
pub(super) struct Recent {
    // Held for one entry, and never across an await.
    made: OnceLock<Mutex<LruCache<SocketAddr, Instant>>>,
}

impl Recent {
    /// From now on connections are noted.
    pub(super) fn keep(&self) {
        self.made.get_or_init(|| Mutex::new(LruCache::new(MOST)));
    }

    /// A connection of ours begins here.
    pub(super) fn note(&self, local: impl FnOnce() -> Option<SocketAddr>, now: Instant) {
        if let Some(made) = self.made.get()
            && let Some(local) = local()
        {
            made.lock().unwrap_or_else(PoisonError::into_inner).put(local, now);
        }
    }

    /// Whether this is where one of ours began just now.
    pub(super) fn has(&self, peer: SocketAddr, now: Instant) -> bool {
        let Some(made) = self.made.get() else { return false };
        let made = made.lock().unwrap_or_else(PoisonError::into_inner);
        made.peek(&peer).is_some_and(|at| now.duration_since(*at) < WAY_BACK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_of_ours_is_known_for_as_long_as_it_may_come_back() {
        let (recent, now) = (Recent::default(), Instant::now());
        let (ours, other) = ("10.7.0.1:4711".parse().unwrap(), "10.7.0.1:4712".parse().unwrap());
        recent.note(|| unreachable!("nobody asked"), now);
        assert!(!recent.has(ours, now), "nobody wanted it kept");
        recent.keep();
        recent.note(|| Some(ours), now);
        assert!(recent.has(ours, now) && !recent.has(other, now) && !recent.has(ours, now + WAY_BACK));
    }
}
