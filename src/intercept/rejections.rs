//! Who refused our certificate: for an hour, that client is tunnelled to that host.
//!
//! go does not retry a failed handshake, so the second one must not fail. Bounded, in memory, on
//! tokio's clock: the wall clock may jump, the hour does not.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use crate::target::Name;

/// One client at one host: two builds behind one address are told apart by the user of their proxy URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Refuser {
    client: IpAddr,
    user: Box<str>,
    host: Name,
}

/// The refusals of the last hour.
pub(super) struct Rejections {
    // Until when each is tunnelled; locked for one look or one entry.
    until: Mutex<LruCache<Refuser, Instant>>,
}

impl Rejections {
    pub(super) fn remember(&self, client: IpAddr, user: Option<&str>, host: &Name) {
        self.lock().put(refuser(client, user, host), Instant::now() + REMEMBERED);
    }

    pub(super) fn holds(&self, client: IpAddr, user: Option<&str>, host: &Name) -> bool {
        let mut until = self.lock();
        if until.is_empty() {
            return false;
        }
        let refuser = refuser(client, user, host);
        match until.get(&refuser) {
            None => false,
            Some(&end) if Instant::now() < end => true,
            Some(_) => {
                until.pop(&refuser);
                false
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Refuser, Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Rejections {
    fn default() -> Rejections {
        Rejections { until: Mutex::new(LruCache::new(CAPACITY)) }
    }
}

/// The user is a stranger's text: only its beginning is kept. Two that share it share a tunnel.
fn refuser(client: IpAddr, user: Option<&str>, host: &Name) -> Refuser {
    let user = user.unwrap_or("").chars().take(USER_LENGTH).collect::<String>().into();
    Refuser { client, user, host: host.clone() }
}

/// How long a refusal counts (DESIGN.md section 7).
const REMEMBERED: Duration = Duration::from_secs(3600);
/// About 200 bytes each: under 1 MiB in all.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
const USER_LENGTH: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 7, 0, 1));

    fn host(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_counts_for_an_hour() {
        let rejections = Rejections::default();
        rejections.remember(CLIENT, None, &host("goproxy.cn"));
        tokio::time::advance(REMEMBERED - Duration::from_secs(1)).await;
        assert!(rejections.holds(CLIENT, None, &host("goproxy.cn")));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!rejections.holds(CLIENT, None, &host("goproxy.cn")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_of_one_client_one_user_and_one_host() {
        let rejections = Rejections::default();
        rejections.remember(CLIENT, Some("ca"), &host("goproxy.cn"));
        assert!(rejections.holds(CLIENT, Some("ca"), &host("goproxy.cn")));
        assert!(!rejections.holds("10.7.0.2".parse().unwrap(), Some("ca"), &host("goproxy.cn")));
        assert!(!rejections.holds(CLIENT, None, &host("goproxy.cn")));
        assert!(!rejections.holds(CLIENT, Some("ca"), &host("mirror.example")));
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_is_bounded_in_entries_and_in_text() {
        let rejections = Rejections::default();
        rejections.remember(CLIENT, Some(&"x".repeat(60_000)), &host("goproxy.cn"));
        assert!(rejections.lock().iter().all(|(refuser, _)| refuser.user.len() == USER_LENGTH));
        for number in 0..CAPACITY.get() {
            rejections.remember(CLIENT, Some(&number.to_string()), &host("goproxy.cn"));
        }
        assert_eq!(rejections.lock().len(), CAPACITY.get());
        assert!(!rejections.holds(CLIENT, Some(&"x".repeat(60_000)), &host("goproxy.cn")));
    }
}
