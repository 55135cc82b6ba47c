//! How much is asked of one server at once, and how often of a public service: our own retries must
//! not be somebody's attack. A question that is too many is not sent, which is our own failure and
//! nobody else's; the ladder asks again a little later.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::defaults;
use super::server::Server;

/// Questions under way to one server.
const AT_ONCE: usize = 64;
/// Questions a second to one public service, and as many in one burst: far below what any of them
/// begins to limit at, far above what builds need once names are in memory.
const A_SECOND: f64 = 50.0;

/// What a question that was not sent is told.
pub(super) const TOO_MUCH: &str = "it is being asked too much already";

/// The pace of one resolver. One entry for each server that was asked: the configuration bounds them.
#[derive(Default)]
pub(super) struct Pace {
    servers: Mutex<HashMap<Server, Arc<Semaphore>>>,
    services: Mutex<HashMap<Service, Bucket>>,
}

/// Held while a question is under way.
pub(super) struct Turn(#[expect(dead_code, reason = "given back when it goes")] OwnedSemaphorePermit);

/// All addresses of a known service are one.
#[derive(PartialEq, Eq, Hash)]
enum Service {
    Known(&'static str),
    At(Option<IpAddr>),
}

impl Service {
    fn of(server: &Server) -> Service {
        let address = server.address().map(|address| address.ip());
        address.and_then(defaults::service).map_or(Service::At(address), Service::Known)
    }
}

struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        *self = Bucket { left: (self.left + since * A_SECOND).min(A_SECOND), at: now };
        let may = self.left >= 1.0;
        self.left -= f64::from(u8::from(may));
        may
    }
}

impl Pace {
    /// A turn at a server, or none for now. `public`: it owes us nothing.
    pub(super) fn take_turn(&self, server: &Server, public: bool, now: Instant) -> Option<Turn> {
        let turns = {
            let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
            let turns = servers.entry(server.clone()).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE)));
            Arc::clone(turns)
        };
        let turn = turns.try_acquire_owned().ok()?;
        (!public || self.is_in_time(server, now)).then_some(Turn(turn))
    }

    fn is_in_time(&self, server: &Server, now: Instant) -> bool {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.entry(Service::of(server)).or_insert(Bucket { left: A_SECOND, at: now }).take(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn server(text: &str) -> Server {
        text.parse().unwrap()
    }

    #[test]
    fn so_many_questions_are_under_way_to_one_server_and_no_more() {
        let (pace, now) = (Pace::default(), Instant::now());
        let take = |text| pace.take_turn(&server(text), false, now);
        let turns: Vec<Turn> = (0..AT_ONCE).filter_map(|_| take("10.0.0.1")).collect();
        assert_eq!(turns.len(), AT_ONCE);
        assert!(take("10.0.0.1").is_none());
        assert!(take("10.0.0.2").is_some(), "another server has turns of its own");
        drop(turns);
        assert!(take("10.0.0.1").is_some());
    }

    #[test]
    fn a_public_service_is_asked_so_often_a_second_over_all_its_addresses() {
        let (pace, start) = (Pace::default(), Instant::now());
        let count = |after: Duration| {
            let addresses = ["8.8.8.8", "tls://8.8.4.4#dns.google"];
            let take = |&number: &usize| pace.take_turn(&server(addresses[number % 2]), true, start + after).is_some();
            (0..1000).filter(take).count()
        };
        assert_eq!(count(Duration::ZERO), 50);
        assert_eq!(count(Duration::from_millis(100)), 5);
        assert_eq!(count(Duration::from_secs(3600)), 50, "what was not used is not saved up");
        assert!(pace.take_turn(&server("9.8.7.6"), true, start).is_some(), "each service on its own");
        let inside = |_: &usize| pace.take_turn(&server("10.0.0.1"), false, start).is_some();
        assert_eq!((0..1000).filter(inside).count(), 1000, "the site's own server is not counted by the second");
    }
}
