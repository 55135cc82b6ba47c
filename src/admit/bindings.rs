//! Which addresses our name server gave out for a name, and to whom: what makes a name believable
//! that a redirected client shows.
//!
//! Kept only where connections are redirected to us, for as long as the answer was good and a while
//! beyond, since a client may hold on to an address longer than its TTL says. Bounded in entries and in
//! addresses each; what is forgotten costs a look-up, nothing else. Nothing here awaits.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use crate::target::{Name, unwrap_mapped};

/// How long beyond its TTL an address counts as given: programs that look a name up once and connect
/// for as long as they run are common, and what we gave once harms nobody later.
const GRACE: Duration = Duration::from_secs(600);
/// Locks, so that front workers seldom wait for each other.
const SHARDS: usize = 16;
/// Pairs of client and name in one shard: 65,536 in all, some 12 MB if all are taken.
const EACH: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Addresses of one name: names that answer with others each time have as many at once.
const ADDRESSES: usize = 16;

/// What each client was given for each name, and until when each address counts.
type Given = LruCache<(IpAddr, Name), Vec<(IpAddr, Instant)>>;

/// What was given out. Empty, and free of cost, until somebody wants it kept.
#[derive(Default)]
pub(super) struct Bindings {
    // Each held for one entry, and never across an await.
    shards: OnceLock<Vec<Mutex<Given>>>,
}

impl Bindings {
    /// From now on what is given is noted.
    pub(super) fn keep(&self) {
        self.shards.get_or_init(|| (0..SHARDS).map(|_| Mutex::new(LruCache::new(EACH))).collect());
    }

    /// This client was told that the name has these addresses.
    pub(super) fn note(&self, client: IpAddr, name: &Name, addresses: &[IpAddr], ttl: Duration, now: Instant) {
        let client = unwrap_mapped(client);
        let Some(mut shard) = self.shard(client) else { return };
        let until = now + ttl + GRACE;
        let given = shard.get_or_insert_mut((client, name.clone()), Vec::new);
        given.retain(|(address, until)| *until > now && !addresses.contains(address));
        let room = ADDRESSES.saturating_sub(addresses.len());
        let over = given.len().saturating_sub(room);
        given.drain(..over);
        given.extend(addresses.iter().take(ADDRESSES).map(|address| (*address, until)));
    }

    /// Whether this client was told that the name has this address, and it may still go by that.
    pub(super) fn hold(&self, client: IpAddr, name: &Name, address: IpAddr, now: Instant) -> bool {
        let client = unwrap_mapped(client);
        let Some(mut shard) = self.shard(client) else { return false };
        let given = shard.get(&(client, name.clone()));
        given.is_some_and(|given| given.iter().any(|(own, until)| *own == address && *until > now))
    }

    fn shard(&self, client: IpAddr) -> Option<MutexGuard<'_, Given>> {
        let shards = self.shards.get()?;
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(client);
        let shard = shards.get(usize::try_from(hash % SHARDS as u64).unwrap_or(0))?;
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 7, 0, 2));

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn address(last: u8) -> IpAddr {
        [9, 9, 9, last].into()
    }

    fn kept() -> Bindings {
        let bindings = Bindings::default();
        bindings.keep();
        bindings
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_bound_to_the_name_and_the_client_that_it_was_given_for() {
        let (bindings, now) = (kept(), Instant::now());
        bindings.note(CLIENT, &name("goproxy.cn"), &[address(1), address(2)], Duration::from_secs(60), now);
        let held = |client, host, last| bindings.hold(client, &name(host), address(last), now);
        assert!(held(CLIENT, "goproxy.cn", 1) && held(CLIENT, "goproxy.cn", 2));
        assert!(held("::ffff:10.7.0.2".parse().unwrap(), "goproxy.cn", 1), "the same client in another spelling");
        assert!(!held(CLIENT, "goproxy.cn", 3) && !held(CLIENT, "goproxy.io", 1));
        assert!(!held([10, 7, 0, 3].into(), "goproxy.cn", 1), "what one client was told is no word to another");
    }

    #[tokio::test(start_paused = true)]
    async fn a_binding_outlives_its_ttl_by_the_grace_and_no_longer() {
        let (bindings, now) = (kept(), Instant::now());
        let ttl = Duration::from_secs(60);
        bindings.note(CLIENT, &name("goproxy.cn"), &[address(1)], ttl, now);
        let held = |at| bindings.hold(CLIENT, &name("goproxy.cn"), address(1), at);
        assert!(held(now + ttl + GRACE - Duration::from_secs(1)) && !held(now + ttl + GRACE));
        bindings.note(CLIENT, &name("goproxy.cn"), &[address(1)], ttl, now + ttl);
        assert!(held(now + ttl + GRACE), "given again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_answers_with_others_each_time_keeps_the_latest() {
        let (bindings, now) = (kept(), Instant::now());
        for last in 0..40 {
            bindings.note(CLIENT, &name("goproxy.cn"), &[address(last)], Duration::from_secs(60), now);
        }
        let held = |last| bindings.hold(CLIENT, &name("goproxy.cn"), address(last), now);
        assert!((24..40).all(held) && !(0..24).any(held));
    }

    #[tokio::test]
    async fn nothing_is_noted_where_nobody_asks() {
        let bindings = Bindings::default();
        bindings.note(CLIENT, &name("goproxy.cn"), &[address(1)], Duration::from_secs(60), Instant::now());
        assert!(!bindings.hold(CLIENT, &name("goproxy.cn"), address(1), Instant::now()));
    }
}
