//! How much one client may take: of the work upstream, and of the places over TCP.
//!
//! Answers from memory are free; what has to be asked for is paid from a bucket per client, refilled
//! by the second. Who may ask at all is `admit`'s business. `now` is an argument.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use tokio::time::Instant;

use crate::target::subscriber;

/// Look-ups a second that a client may cause for long, and at once.
const RATE: f64 = 100.0;
const BURST: f64 = 500.0;
/// Connections of one client at once: an eighth of all that there is room for, so that one alone never has all.
const MOST_SEATS: usize = 64;
/// Clients that are remembered; an older one starts with a full bucket again.
const MOST_CLIENTS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// The buckets of all clients.
pub(super) struct Crowd {
    // Held for one look-up, and only where a question has to be asked upstream.
    buckets: Mutex<LruCache<IpAddr, Bucket>>,
    // Held for one count, when a connection comes and when it ends. Who has none is not in it.
    seats: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection's place among its client's, given back when it is dropped.
pub(super) struct Seat {
    client: IpAddr,
    seats: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = seats.get_mut(&self.client) {
            *taken -= 1;
            if *taken == 0 {
                seats.remove(&self.client);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Default for Crowd {
    fn default() -> Crowd {
        Crowd { buckets: Mutex::new(LruCache::new(MOST_CLIENTS)), seats: Arc::default() }
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

    /// A place for one more connection of this client, if it has not as many as one may have.
    pub(super) fn seat(&self, client: IpAddr) -> Option<Seat> {
        let client = subscriber(client);
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = seats.entry(client).or_default();
        // A new entry is never at the limit, so none is left behind empty.
        if *taken >= MOST_SEATS {
            return None;
        }
        *taken += 1;
        Some(Seat { client, seats: Arc::clone(&self.seats) })
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

    /// On a socket of both protocols every IPv4 client had one bucket with all others.
    #[tokio::test(start_paused = true)]
    async fn a_client_of_ipv4_is_itself_on_a_socket_of_both_protocols() {
        let crowd = Crowd::default();
        let now = Instant::now();
        assert_eq!(spend(&crowd, "::ffff:10.7.0.1", now), 500);
        assert_eq!(spend(&crowd, "::ffff:10.7.0.2", now), 500);
        assert_eq!(spend(&crowd, "10.7.0.2", now), 0, "however it comes");
    }

    #[test]
    fn a_client_has_its_share_of_places_and_gives_each_back() {
        let crowd = Crowd::default();
        let (client, neighbour) = ("10.7.0.1".parse().unwrap(), "10.7.0.2".parse().unwrap());
        let mut taken: Vec<Seat> = std::iter::from_fn(|| crowd.seat(client)).take(1000).collect();
        assert_eq!(taken.len(), 64);
        assert!(crowd.seat(neighbour).is_some(), "others have theirs");
        taken.pop();
        assert!(crowd.seat(client).is_some());
        drop(taken);
        assert!(crowd.seats.lock().unwrap().is_empty(), "who has none is not remembered");
    }
}
