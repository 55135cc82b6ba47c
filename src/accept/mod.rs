//! Sockets in: the accept loop of one worker.
//!
//! A place is taken before `accept`, so that a full house leaves connections in the kernel's queue
//! instead of dropping them; a failed `accept` is told apart by whose fault it is and never ends
//! the loop. What is said on a connection is not this room's concern.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::metrics::{By, Counter, Family, Gauge, Label, Registry};

/// Connections at once, over all workers.
pub const MAX_CONNECTIONS: usize = 16_384;
/// Connections at once of one client, where nothing else is set.
pub const PER_CLIENT: usize = 1024;
/// How long to wait after the system refused us a descriptor: long enough for some connection to end.
const BACK_OFF: Duration = Duration::from_millis(100);

/// One client's connection, just accepted.
pub struct Arrival {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    /// Our end: the address that the client connected to.
    pub local: SocketAddr,
    /// Given back when the connection ends.
    pub place: Place,
}

/// A place in the house.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    _seat: Option<Seat>,
    open: Gauge,
}

/// How many connections each client from elsewhere has: one that leaks them must not keep others
/// out. This host's own are not counted.
#[derive(Clone)]
struct Crowd {
    most: usize,
    // Held for a look-up and never across an await; a client with no connection has no entry.
    seats: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Crowd {
    fn new(most: usize) -> Crowd {
        Crowd { most, seats: Arc::default() }
    }

    /// A seat for one more connection of this client; none where it has as many as it may.
    fn enter(&self, client: IpAddr) -> Option<Seat> {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = seats.get(&client).copied().unwrap_or(0);
        if taken >= self.most {
            return None;
        }
        seats.insert(client, taken + 1);
        Some(Seat { client, crowd: self.clone() })
    }

    fn leave(&self, client: IpAddr) {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        match seats.get_mut(&client) {
            Some(taken) if *taken > 1 => *taken -= 1,
            _ => drop(seats.remove(&client)),
        }
    }
}

/// One of a client's connections.
struct Seat {
    client: IpAddr,
    crowd: Crowd,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crowd.leave(self.client);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// The places, shared by all workers.
#[derive(Clone)]
pub struct House {
    places: Arc<Semaphore>,
    crowd: Crowd,
    open: Gauge,
    accepted: Family<By<Accepted>, Counter>,
    /// Whether the lack of descriptors was said, and has not ended since.
    short: Arc<AtomicBool>,
}

impl House {
    /// An empty house, in which a client from elsewhere may have `per_client` connections at once.
    pub fn new(per_client: usize, registry: &Registry) -> House {
        let house = House {
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            crowd: Crowd::new(per_client),
            open: Gauge::default(),
            accepted: Family::default(),
            short: Arc::default(),
        };
        registry.room("accept", |families| {
            families.register("connections", "Connections open now", house.open.clone());
            families.register("accepted", "Outcomes of accept", house.accepted.clone());
        });
        house
    }

    /// Accepts until `end`, handing each arrival to `serve`, which must not block.
    pub async fn run(&self, listener: TcpListener, end: CancellationToken, serve: impl Fn(Arrival)) {
        loop {
            let arrival = tokio::select! {
                () = end.cancelled() => return,
                arrival = self.next(&listener) => arrival,
            };
            match arrival {
                Ok(Some(arrival)) => serve(arrival),
                Ok(None) => {}
                Err(error) => self.recover(&error).await,
            }
        }
    }

    /// The next connection; nothing where its client has too many and it was closed.
    async fn next(&self, listener: &TcpListener) -> io::Result<Option<Arrival>> {
        let permit = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        self.short.store(false, Ordering::Relaxed);
        let client = peer.ip().to_canonical();
        let seat = if client.is_loopback() || client == local.ip().to_canonical() {
            None
        } else if let Some(seat) = self.crowd.enter(client) {
            Some(seat)
        } else {
            tracing::debug!(%client, most = self.crowd.most, "closed: too many connections; admit.per_client");
            self.accepted.get_or_create(&By(Accepted::TooMany)).inc();
            return Ok(None);
        };
        self.open.inc();
        self.accepted.get_or_create(&By(Accepted::Arrived)).inc();
        let place = Place { _permit: permit, _seat: seat, open: self.open.clone() };
        Ok(Some(Arrival { stream, peer, local, place }))
    }

    async fn recover(&self, error: &io::Error) {
        let whose = Accepted::of(error);
        self.accepted.get_or_create(&By(whose)).inc();
        if whose == Accepted::Exhausted {
            // Once until a connection comes in again: every listener is here ten times a second.
            if !self.short.swap(true, Ordering::Relaxed) {
                tracing::error!(%error, "cannot accept connections; raise the limit of open files (ulimit -n)");
            }
            tokio::time::sleep(BACK_OFF).await;
        } else {
            tracing::debug!(%error, "a client left before it was accepted");
        }
    }
}

/// What came of an `accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Accepted {
    Arrived,
    /// The client has as many connections as it may.
    TooMany,
    /// The client's doing: it reset or left while it waited.
    Gone,
    /// Ours: no descriptors or memory left.
    Exhausted,
}

impl Accepted {
    fn of(error: &io::Error) -> Accepted {
        match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotConnected
            // Linux hands on what the network said of a connection while it waited (accept(2)).
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::TimedOut
            | io::ErrorKind::InvalidInput => Accepted::Gone,
            _ => Accepted::Exhausted,
        }
    }
}

impl Label for Accepted {
    fn label(&self) -> &'static str {
        match self {
            Accepted::Arrived => "arrived",
            Accepted::TooMany => "too_many",
            Accepted::Gone => "gone",
            Accepted::Exhausted => "exhausted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn the_loop_hands_over_arrivals_and_ends_when_told() {
        let house = House::new(1, &Registry::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let end = CancellationToken::new();
        let (arrived, mut arrivals) = mpsc::unbounded_channel();
        let ending = end.clone();
        let running = house.clone();
        let run = tokio::spawn(async move {
            running.run(listener, ending, move |arrival| arrived.send(arrival).unwrap()).await;
        });
        let client = TcpStream::connect(address).await.unwrap();
        let arrival = arrivals.recv().await.unwrap();
        assert_eq!((arrival.peer, arrival.local), (client.local_addr().unwrap(), address));
        assert_eq!(house.open.get(), 1);
        drop(arrival);
        assert_eq!(house.open.get(), 0);
        end.cancel();
        run.await.unwrap();
    }

    #[test]
    fn a_client_has_so_many_places_and_leaves_no_trace() {
        let crowd = Crowd::new(2);
        let (greedy, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let held = [crowd.enter(greedy).unwrap(), crowd.enter(greedy).unwrap()];
        assert!(crowd.enter(greedy).is_none() && crowd.enter(other).is_some());
        drop(held);
        assert!(crowd.seats.lock().unwrap().is_empty());
        assert!(crowd.enter(greedy).is_some());
    }

    #[test]
    fn a_clients_reset_is_no_reason_to_pause() {
        assert_eq!(Accepted::of(&io::ErrorKind::ConnectionAborted.into()), Accepted::Gone);
        assert_eq!(Accepted::of(&io::ErrorKind::HostUnreachable.into()), Accepted::Gone);
        assert_eq!(Accepted::of(&io::Error::from_raw_os_error(24)), Accepted::Exhausted);
    }
}
