//! Happy Eyeballs over judged addresses (RFC 8305 section 5): the next attempt starts when the
//! last one failed, or 250 ms after it began; the first to succeed wins and the rest are dropped.

use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::admit::Judged;

/// Connection Attempt Delay of RFC 8305 section 8.
pub const STAGGER: Duration = Duration::from_millis(250);
/// How long one address may take: a SYN is sent at 0, 1, 3 and 7 s, and a fourth unanswered one means no.
pub const ATTEMPT: Duration = Duration::from_secs(10);

/// How a race over one batch of addresses ended.
#[derive(Debug)]
pub struct Race<T, E> {
    pub winner: Option<(Judged, T)>,
    /// Those that failed before there was a winner, in the order in which they did.
    pub losers: Vec<(Judged, E)>,
}

/// Races `attempt` over `addresses`, which come best first.
pub async fn race<T, E, F>(addresses: Vec<Judged>, attempt: impl Fn(Judged) -> F) -> Race<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = addresses.into_iter();
    let mut running = FuturesUnordered::new();
    let mut losers = Vec::new();
    let begin = |address: Judged| {
        let outcome = attempt(address);
        async move { (address, outcome.await) }
    };
    if let Some(first) = waiting.next() {
        running.push(begin(first));
    }
    loop {
        let next = tokio::time::sleep(STAGGER);
        tokio::select! {
            ended = running.next() => match ended {
                None => return Race { winner: None, losers },
                Some((address, Ok(won))) => return Race { winner: Some((address, won)), losers },
                Some((address, Err(error))) => losers.push((address, error)),
            },
            () = next, if waiting.len() > 0 => {}
        }
        if let Some(address) = waiting.next() {
            running.push(begin(address));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::{Admission, Config, Dialect, Heard, Standing};
    use crate::metrics::Registry;
    use crate::target::Target;
    use tokio::time::Instant;

    /// Four addresses, told apart by their last octet.
    fn addresses() -> Vec<Judged> {
        let admission = Admission::new(Config::default(), &Registry::default()).unwrap();
        let target = Target::parse_connect("a.example:443").unwrap();
        let permit = admission.target(Standing::Remote, Dialect::Connect, &target).unwrap();
        (1..=4).map(|last| permit.judge([9, 9, 9, last].into(), Heard::Inside).unwrap()).collect()
    }

    fn last(address: Judged) -> u8 {
        match address.address().ip() {
            std::net::IpAddr::V4(address) => address.octets()[3],
            std::net::IpAddr::V6(_) => unreachable!("only IPv4 here"),
        }
    }

    /// What each address does: after so many ms it answers (`true`) or refuses.
    async fn run(script: [(u64, bool); 4]) -> (Option<u8>, Vec<u8>, u128) {
        let begun = Instant::now();
        let race = race(addresses(), |address| async move {
            let (delay, good) = script[usize::from(last(address)) - 1];
            tokio::time::sleep(Duration::from_millis(delay)).await;
            if good { Ok(()) } else { Err(()) }
        })
        .await;
        let losers = race.losers.into_iter().map(|(address, ())| last(address)).collect();
        (race.winner.map(|(address, ())| last(address)), losers, begun.elapsed().as_millis())
    }

    const NEVER: (u64, bool) = (100_000, false);

    #[tokio::test(start_paused = true)]
    async fn the_first_address_wins_when_it_answers() {
        assert_eq!(run([(20, true), (0, true), NEVER, NEVER]).await, (Some(1), vec![], 20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_is_joined_by_the_next_after_a_quarter_second() {
        assert_eq!(run([NEVER, (20, true), NEVER, NEVER]).await, (Some(2), vec![], 270));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_starts_the_next_at_once() {
        assert_eq!(run([(1, false), (1, false), (5, true), NEVER]).await, (Some(3), vec![1, 2], 7));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_wins_when_all_refuse() {
        assert_eq!(run([(1, false); 4]).await, (None, vec![1, 2, 3, 4], 4));
    }
}
