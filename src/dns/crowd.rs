//! How much work one client may cause upstream.
//!
//! Answers from memory are free; what has to be asked for is paid from a bucket per client, refilled
//! by the second. Who may ask at all is `admit`'s business. `now` is an argument.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use tokio::time::Instant;

use crate::target::subscriber;

/// Look-ups a second that a client may cause for long, and at once.
const RATE: f64 = 100.0;
const BURST: f64 = 500.0;
/// Clients that are remembered; an older one starts with a full bucket again.
const MOST_CLIENTS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// The buckets of all clients.
pub(super) struct Crowd {
    // Held for one look-up, and only where a question has to be asked upstream.
    buckets: Mutex<LruCache<IpAddr, Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Default for Crowd {
    fn default() -> Crowd {
        Crowd { buckets: Mutex::new(LruCache::new(MOST_CLIENTS)) }
    }
}

impl Crowd {
    /// Whether this client may cause one more look-up.
    pub(super) fn may_ask(&self, client: IpAddr, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.get_or_insert_mut(subscriber(client), || Bucket { left: BURST, at: now });
        let refilled = bucket.left + RATE * now.saturating_duration_since(bucket.at).as_secs_f64();
        *bucket = Bucket { left: refilled.min(BURST), at: now };
        if bucket.left < 1.0 {
            return false;
        }
        bucket.left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// When a client that was refused may ask again.
    const REFILL: Duration = Duration::from_millis(10);

    fn spend(crowd: &Crowd, client: &str, now: Instant) -> usize {
        (0..2000).filter(|_| crowd.may_ask(client.parse().unwrap(), now)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_has_a_burst_and_then_a_rate_and_its_neighbour_their_own() {
        let crowd = Crowd::default();
        let start = Instant::now();
        assert_eq!(spend(&crowd, "10.7.0.1", start), 500);
        assert!(crowd.may_ask("10.7.0.1".parse().unwrap(), start + REFILL));
        assert_eq!(spend(&crowd, "10.7.0.1", start + Duration::from_secs(1)), 99);
        assert_eq!(spend(&crowd, "10.7.0.2", start), 500);
        assert_eq!(spend(&crowd, "10.7.0.1", start + Duration::from_secs(3600)), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn all_of_a_hosts_ipv6_addresses_share_one_bucket() {
        let crowd = Crowd::default();
        let now = Instant::now();
        assert_eq!(spend(&crowd, "fd00:1:2:3::1", now) + spend(&crowd, "fd00:1:2:3:ffff::9", now), 500);
    }
}
