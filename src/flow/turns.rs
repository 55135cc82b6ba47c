//! Turns at hashing passwords, which takes a core each time: few at once, and one of them for one client.
//!
//! A client is an address, or a /64 of IPv6. Whoever guesses waits behind its own guesses, and at most one of those is ever before
//! anybody else; within one address it is first come, first served.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as Queue, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::target::subscriber;

/// How many passwords are hashed at once: whoever guesses must not take the machine.
const AT_ONCE: usize = 2;

/// Who may hash, and who waits.
pub struct Turns {
    all: Arc<Semaphore>,
    // Locked to find a queue, never while one is waited in.
    queues: Mutex<HashMap<IpAddr, Weak<Queue<()>>>>,
}

/// Somebody's turn, for as long as it is held. The next of the same client stands behind all who wait by then.
pub struct Turn {
    _of_all: OwnedSemaphorePermit,
    _own: OwnedMutexGuard<()>,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns { all: Arc::new(Semaphore::new(AT_ONCE)), queues: Mutex::default() }
    }
}

impl Turns {
    /// Waits for a turn of this client.
    pub(super) async fn take(&self, client: IpAddr) -> Option<Turn> {
        let own = self.queue_of(subscriber(client)).lock_owned().await;
        let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Turn { _of_all: of_all, _own: own })
    }

    fn queue_of(&self, client: IpAddr) -> Arc<Queue<()>> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(&client).and_then(Weak::upgrade) {
            return queue;
        }
        // There are no more than clients that wait, and to look at them all is nothing beside a hash.
        queues.retain(|_, queue| queue.strong_count() > 0);
        let queue = Arc::default();
        queues.insert(client, Arc::downgrade(&queue));
        queue
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

    use super::*;

    const GUESSER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 7, 0, 1));
    const USER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 7, 0, 2));

    /// Whoever comes to the door waits for a turn, and says whose it is.
    struct Door {
        turns: Arc<Turns>,
        told: UnboundedSender<(IpAddr, Turn)>,
        heard: UnboundedReceiver<(IpAddr, Turn)>,
    }

    impl Door {
        fn open() -> Door {
            let (told, heard) = unbounded_channel();
            Door { turns: Arc::default(), told, heard }
        }

        async fn come(&self, client: IpAddr) {
            let (turns, told) = (Arc::clone(&self.turns), self.told.clone());
            tokio::spawn(async move { told.send((client, turns.take(client).await.unwrap())) });
            // It stands in its queue before the next one comes.
            tokio::task::yield_now().await;
        }

        async fn settle(&mut self) -> Vec<(IpAddr, Turn)> {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            std::iter::from_fn(|| self.heard.try_recv().ok()).collect()
        }
    }

    fn whose(turns: &[(IpAddr, Turn)]) -> Vec<IpAddr> {
        turns.iter().map(|(client, _)| *client).collect()
    }

    /// All stood in one queue: a client that guessed on a hundred connections kept everybody else waiting for them.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_guesses_waits_for_itself_and_nobody_waits_for_it() {
        let mut door = Door::open();
        for _ in 0..100 {
            door.come(GUESSER).await;
        }
        let first = door.settle().await;
        assert_eq!(whose(&first), [GUESSER], "and no second core");
        door.come(USER).await;
        let user = door.settle().await;
        assert_eq!(whose(&user), [USER], "beside the guess");
        drop((first, user));
        let next = door.settle().await;
        assert_eq!(whose(&next), [GUESSER]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_guess_stands_behind_whoever_came_during_the_first() {
        let mut door = Door::open();
        let others: Vec<IpAddr> = (10..13).map(|last| IpAddr::from([10, 7, 0, last])).collect();
        for client in [GUESSER, GUESSER].iter().chain(&others) {
            door.come(*client).await;
        }
        let mut order = Vec::new();
        let mut held = door.settle().await;
        while let Some((client, turn)) = (!held.is_empty()).then(|| held.remove(0)) {
            order.push(client);
            drop(turn);
            held.extend(door.settle().await);
        }
        assert_eq!(order, [&[GUESSER], &others[..], &[GUESSER]].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_of_clients_that_are_gone() {
        let turns = Turns::default();
        for last in 0..=255 {
            drop(turns.take(IpAddr::from([10, 7, 1, last])).await);
        }
        assert_eq!(turns.queues.lock().unwrap().len(), 1);
    }
}
