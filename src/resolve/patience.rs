//! Waiting by a clock that is fair. A process that slept through a deadline (on a machine with too much to do, or
//! one whose lid was closed) heard nothing meanwhile: what lay there is heard before the clock is looked at, and
//! what was slept is not counted against whoever is waited for.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

/// A timer may be late by this without anybody having slept.
const USUAL: Duration = Duration::from_millis(50);
/// The most that is given again, all in all: whoever asked us waits, too.
const MOST: Duration = Duration::from_millis(500);

/// What of it is left for one look-up.
pub(super) struct Patience(Duration);

impl Default for Patience {
    fn default() -> Patience {
        Patience(MOST)
    }
}

impl Patience {
    /// What comes of it by the deadline, and where we were late for that, by as much more.
    pub(super) async fn until<F: Future>(&mut self, deadline: Instant, what: F) -> Option<F::Output> {
        let mut what = std::pin::pin!(what);
        if let Ok(come) = timeout_at(deadline, &mut what).await {
            return Some(come);
        }
        let late = Instant::now().saturating_duration_since(deadline);
        if late <= USUAL {
            return None;
        }
        let given = late.min(self.0);
        self.0 -= given;
        timeout(given, what).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Waits 100 ms for a word that is said after so many, and tells whether it was heard.
    fn waiting(says_after: u32) -> JoinHandle<bool> {
        let (says, hears) = oneshot::channel();
        tokio::spawn(async move {
            tokio::time::sleep(says_after * MS).await;
            says.send(())
        });
        let deadline = Instant::now() + 100 * MS;
        tokio::spawn(async move { Patience::default().until(deadline, hears).await.is_some() })
    }

    #[tokio::test(start_paused = true)]
    async fn who_sleeps_through_a_deadline_waits_as_long_again_and_nobody_else_does() {
        for (says_after, slept, is_heard) in
            [(99, 0, true), (101, 0, false), (250, 300, true), (450, 300, true), (550, 300, false), (3000, 2000, false)]
        {
            let waiting = waiting(says_after);
            tokio::task::yield_now().await;
            tokio::time::advance(slept * MS).await;
            assert_eq!(waiting.await.unwrap(), is_heard, "said after {says_after} ms, and {slept} ms were slept");
        }
    }

    /// On a machine where every deadline is slept through a look-up took twice its time, and its client had left.
    #[tokio::test(start_paused = true)]
    async fn whoever_sleeps_through_every_deadline_waits_no_longer_for_that_than_once() {
        let (mut patience, mut waited) = (Patience::default(), Duration::ZERO);
        for _ in 0..10 {
            let deadline = Instant::now();
            tokio::time::advance(200 * MS).await;
            let late = Instant::now();
            assert!(patience.until(deadline, std::future::pending::<()>()).await.is_none());
            waited += late.elapsed();
        }
        assert!((MOST..MOST + 10 * MS).contains(&waited), "{waited:?}");
    }
}
