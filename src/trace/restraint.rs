//! Restraint in what is logged of clients: lines that a stranger can cause at will are said once for each client
//! and reason in a minute. The others are counted, and how many there were is said when the minute is over.
//!
//! Bounded, whoever asks: so many clients and reasons in a minute have lines of their own; what is beyond them is
//! one count. A client of IPv6 is its network of 64 bits, of which it may take any address.

use std::collections::HashMap;
use std::mem;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};

/// How long one line stands for all that are like it.
const STANDS: Duration = Duration::from_secs(60);
/// Clients and reasons with lines of their own in that time: 256 lines and as many counts.
const MOST: usize = 256;

/// What may be said, shared by all who say it. Cloning gives another handle.
#[derive(Clone, Default)]
pub struct Restraint {
    // Held for one look-up, and to take a minute's counts.
    minute: Arc<Mutex<Minute>>,
}

#[derive(Default)]
struct Minute {
    ends: Option<Instant>,
    /// How often it was held back, of each that was said.
    held_back: HashMap<(IpAddr, &'static str), u64>,
    /// Of all others.
    beyond: u64,
}

impl Restraint {
    /// Whether a line about this client may be said; where not, it is counted.
    pub fn may_say(&self, client: IpAddr, reason: &'static str) -> bool {
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let over = if minute.ends.is_none_or(|ends| ends <= now) {
            let ends = now + STANDS;
            self.close_at(ends);
            mem::replace(&mut *minute, Minute { ends: Some(ends), ..Minute::default() })
        } else {
            Minute::default()
        };
        let may = minute.count(network(client), reason);
        drop(minute);
        over.tell();
        may
    }

    /// Has the counts told when the minute is over, though nobody comes any more. Outside of a runtime, whoever
    /// comes next tells them.
    fn close_at(&self, ends: Instant) {
        let Ok(runtime) = Handle::try_current() else { return };
        let minute = Arc::downgrade(&self.minute);
        runtime.spawn(async move {
            sleep_until(ends).await;
            let Some(minute) = minute.upgrade() else { return };
            let over = {
                let mut minute = minute.lock().unwrap_or_else(PoisonError::into_inner);
                if minute.ends == Some(ends) { mem::take(&mut *minute) } else { Minute::default() }
            };
            over.tell();
        });
    }
}

impl Minute {
    fn count(&mut self, client: IpAddr, reason: &'static str) -> bool {
        if let Some(times) = self.held_back.get_mut(&(client, reason)) {
            *times += 1;
            return false;
        }
        if self.held_back.len() >= MOST {
            self.beyond += 1;
            return false;
        }
        self.held_back.insert((client, reason), 0);
        true
    }

    fn tell(self) {
        for ((client, reason), times) in self.held_back.into_iter().filter(|(_, times)| *times > 0) {
            tracing::info!(%client, reason, times, "more of the like, left out for a minute");
        }
        if self.beyond > 0 {
            tracing::info!(times = self.beyond, "more of the like by other clients, left out for a minute");
        }
    }
}

/// Whoever may take one of its addresses may take any.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Journal;
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 7, 0, 1));

    /// Lets the minute's own task run.
    async fn pass(time: Duration) {
        tokio::time::sleep(time + Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_is_said_and_the_rest_is_counted_and_told_when_the_minute_is_over() {
        let (restraint, journal) = (Restraint::default(), Journal::default());
        let _open = journal.open();
        assert!(restraint.may_say(CLIENT, "port"));
        assert!((0..1000).all(|_| !restraint.may_say(CLIENT, "port")));
        assert!(restraint.may_say(CLIENT, "client"), "another reason");
        assert!(restraint.may_say("10.7.0.2".parse().unwrap(), "port"), "another client");
        assert!(journal.lines().is_empty());
        pass(STANDS).await;
        let lines = journal.lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("client=10.7.0.1 reason=\"port\" times=1000"), "{lines:?}");
        assert!(restraint.may_say(CLIENT, "port"), "and it begins anew");
        pass(STANDS).await;
        assert_eq!(journal.lines().len(), 1, "nothing was left out");
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_there_are_the_lines_of_a_minute_are_bounded() {
        let (restraint, journal) = (Restraint::default(), Journal::default());
        let _open = journal.open();
        let said = (0..100_000u32).filter(|number| restraint.may_say(IpAddr::from(number.to_be_bytes()), "client"));
        assert_eq!(said.count(), MOST);
        pass(STANDS).await;
        let lines = journal.lines();
        assert!(lines.len() == 1 && lines[0].contains(&format!("times={}", 100_000 - MOST)), "{lines:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_64_bits_is_one_client() {
        let restraint = Restraint::default();
        let may = |address: &str| restraint.may_say(address.parse().unwrap(), "port");
        assert!(may("2001:db8::1") && !may("2001:db8::ffff:2") && may("2001:db8:0:1::1"));
        assert!(may("10.7.0.1") && !may("::ffff:10.7.0.1"));
    }

    #[test]
    fn outside_of_a_runtime_whoever_comes_next_tells() {
        let (restraint, journal) = (Restraint::default(), Journal::default());
        let _open = journal.open();
        assert!(restraint.may_say(CLIENT, "port") && !restraint.may_say(CLIENT, "port"));
        restraint.minute.lock().unwrap().ends = Some(Instant::now());
        assert!(restraint.may_say(CLIENT, "port"));
        assert!(journal.lines()[0].ends_with("times=1"), "{:?}", journal.lines());
    }
}
