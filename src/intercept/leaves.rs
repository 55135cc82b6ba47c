//! The leaves in use: one for each host, signed when first asked for, renewed after two thirds of its
//! life, in memory alone.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use lru::LruCache;
use rustls::sign::CertifiedKey;

use super::Error;
use super::authority::{Authority, Leaf};
use crate::metrics::Counter;
use crate::target::Name;

/// Leaves by host.
pub(super) struct Leaves {
    // Locked for one look or one entry, never while signing.
    held: Mutex<LruCache<Name, Leaf>>,
    signed: Counter,
}

impl Leaves {
    pub(super) fn new(signed: Counter) -> Leaves {
        Leaves { held: Mutex::new(LruCache::new(CAPACITY)), signed }
    }

    /// The leaf to show for a host. Two that ask at once may each sign one, which costs less (86 µs)
    /// than having either wait.
    pub(super) fn find(&self, authority: &Authority, host: &Name, now: SystemTime) -> Result<Arc<CertifiedKey>, Error> {
        if let Some(key) = self.fresh(host, now) {
            return Ok(key);
        }
        let leaf = authority.sign_leaf(host, now)?;
        self.signed.inc();
        let key = Arc::clone(&leaf.key);
        self.held.lock().unwrap_or_else(PoisonError::into_inner).put(host.clone(), leaf);
        Ok(key)
    }

    fn fresh(&self, host: &Name, now: SystemTime) -> Option<Arc<CertifiedKey>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let leaf = held.get(host)?;
        leaf.shown.contains(&now).then(|| Arc::clone(&leaf.key))
    }
}

/// About 4 KiB each: at most 1 MiB, however many hosts lie beneath a `*.` pattern.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(256).unwrap();

#[cfg(test)]
mod tests {
    use super::super::authority::Making;
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_leaf_is_shown_for_two_thirds_of_its_week_and_never_before_it_is_valid() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let authority =
            Authority::create(dir.path(), &["goproxy.cn".parse().unwrap()], now, Making::default()).unwrap();
        let leaves = Leaves::new(Counter::default());
        let host = Name::parse("goproxy.cn").unwrap();
        let serve = |at| {
            leaves.find(&authority, &host, at).unwrap();
            leaves.signed.get()
        };
        let hour = Duration::from_secs(3600);
        assert_eq!((serve(now), serve(now + 111 * hour)), (1, 1));
        assert_eq!(serve(now + 112 * hour), 2, "two thirds of 168 hours");
        assert_eq!(
            (serve(now + 65 * hour), serve(now + 63 * hour)),
            (2, 3),
            "the clock was set back by more than 48 h"
        );
    }

    #[test]
    fn hosts_have_leaves_of_their_own_and_the_oldest_leave_first() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let authority =
            Authority::create(dir.path(), &["*.corp.example".parse().unwrap()], now, Making::default()).unwrap();
        let leaves = Leaves::new(Counter::default());
        for number in 0..=CAPACITY.get() {
            leaves.find(&authority, &Name::parse(&format!("h{number}.corp.example")).unwrap(), now).unwrap();
        }
        let held = leaves.held.lock().unwrap();
        assert_eq!(held.len(), CAPACITY.get());
        assert!(!held.contains(&Name::parse("h0.corp.example").unwrap()));
    }
}
