//! Sockets in: the accept loop of one worker.
//!
//! A place is taken before `accept`, so that a full house leaves connections in the kernel's queue
//! instead of dropping them; a failed `accept` is told apart by whose fault it is and never ends
//! the loop. What is said on a connection is not this room's concern.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::metrics::{By, Counter, Family, Gauge, Label, Registry};

/// Connections at once, over all workers.
pub const MAX_CONNECTIONS: usize = 16_384;
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
    open: Gauge,
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
    open: Gauge,
    accepted: Family<By<Accepted>, Counter>,
}

impl House {
    /// An empty house.
    pub fn new(registry: &Registry) -> House {
        let house = House {
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            open: Gauge::default(),
            accepted: Family::default(),
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
                Ok(arrival) => serve(arrival),
                Err(error) => self.recover(&error).await,
            }
        }
    }

    async fn next(&self, listener: &TcpListener) -> io::Result<Arrival> {
        let permit = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        self.open.inc();
        self.accepted.get_or_create(&By(Accepted::Arrived)).inc();
        Ok(Arrival { stream, peer, local, place: Place { _permit: permit, open: self.open.clone() } })
    }

    async fn recover(&self, error: &io::Error) {
        let whose = Accepted::of(error);
        self.accepted.get_or_create(&By(whose)).inc();
        if whose == Accepted::Exhausted {
            tracing::error!(%error, "cannot accept connections; raise the limit of open files (ulimit -n)");
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
        let house = House::new(&Registry::default());
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
    fn a_clients_reset_is_no_reason_to_pause() {
        assert_eq!(Accepted::of(&io::ErrorKind::ConnectionAborted.into()), Accepted::Gone);
        assert_eq!(Accepted::of(&io::ErrorKind::HostUnreachable.into()), Accepted::Gone);
        assert_eq!(Accepted::of(&io::Error::from_raw_os_error(24)), Accepted::Exhausted);
    }
}
