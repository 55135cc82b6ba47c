//! Sockets in: the accept loop of one worker, and what is said on a connection before the first request.
//!
//! A place is taken before `accept`, so that a full house leaves connections in the kernel's queue
//! instead of dropping them; a failed `accept` is told apart by whose fault it is and never ends
//! the loop. [`Arrival::enter`] then reads what a load balancer announces (PROXY protocol) and shakes
//! hands where the listener speaks TLS; what is said after that is not this room's concern.

mod announce;
mod tls;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

pub use tls::{Error, TlsConfig};

use announce::Progress;
use tls::{Certificates, Greeted};

use crate::metrics::{By, Counter, Family, Gauge, Label, Registry};
use crate::socket::{self, Conduit};
use crate::trace::Restraint;

/// Connections at once, over all workers, where the limit of open files allows as many.
pub const MAX_CONNECTIONS: usize = 16_384;
/// Connections at once of one client, where nothing else is set.
pub const PER_CLIENT: usize = 1024;
/// How long to wait after the system refused us a descriptor: long enough for some connection to end.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How often the lack of descriptors is said.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// How long a load balancer may take to say for whom it speaks, and a client for its first byte of TLS.
const PATIENCE: Duration = Duration::from_secs(10);
/// Descriptors that are not clients': listeners, name servers, files of the cache, connections that are kept, the
/// pipes of bulky tunnels. So many, or one in so many where there are more.
const RESERVED_FILES: u64 = 128;
const RESERVED_SHARE: u64 = 100;
/// What one proxied connection takes: its two ends.
const FILES_EACH: u64 = 2;

/// What an operator may say about who comes in, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// Connections at once of one client beside this host (`admit.per_client`).
    pub per_client: usize,
    /// What the listeners over TLS show.
    pub tls: Option<TlsConfig>,
    /// Networks of load balancers, which say for whom they speak (`accept.proxy_protocol`).
    pub proxy_protocol: Vec<IpNet>,
}

impl Default for Config {
    fn default() -> Config {
        Config { per_client: PER_CLIENT, tls: None, proxy_protocol: Vec::new() }
    }
}

/// One client's connection, just accepted.
pub struct Arrival {
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    destination: SocketAddr,
    place: Place,
    house: House,
    manner: Manner,
    unwelcome: Option<Unwelcome>,
}

/// One client's connection, ready for its first request.
pub struct Entered {
    pub stream: Conduit,
    /// The client, as whoever stands between says.
    pub peer: SocketAddr,
    /// Our end: the address that the connection came to.
    pub local: SocketAddr,
    /// Whether the client showed a certificate that the listener's authority for clients signed.
    pub certified: bool,
    /// Why it is to be told no, whatever it asks.
    pub unwelcome: Option<Unwelcome>,
    /// Given back when the connection ends.
    pub place: Place,
}

/// Why a connection is answered, and not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwelcome {
    #[error("this client has as many connections as one may have; more: admit.per_client")]
    Crowd,
    #[error("this port speaks TLS: its proxy URL begins with https://")]
    Plain,
}

/// One client's connection that a gateway brought here, as it came.
pub struct Redirected {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    /// Our end, as it tells who is on this host.
    pub local: SocketAddr,
    /// Where the client was going.
    pub destination: SocketAddr,
    /// Given back when the connection ends.
    pub place: Place,
}

/// How a listener is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Bare,
    Tls,
    /// Not at all: its clients speak to somebody else.
    Redirected,
}

/// A place in the house.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    _seat: Option<Seat>,
    open: Gauge,
}

/// How many connections each client from elsewhere has: one that leaks them must not keep others
/// out. This host's own are not counted.
#[derive(Clone, Default)]
struct Crowd {
    // Held for a look-up and never across an await; a client with no connection has no entry.
    seats: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Crowd {
    /// A seat for one more connection of this client. Beyond what it may have there are a few from
    /// which it is told so; none after those.
    fn enter(&self, client: IpAddr, most: usize) -> Option<Seat> {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = seats.get(&client).copied().unwrap_or(0);
        if taken >= most + most.div_ceil(16) {
            return None;
        }
        seats.insert(client, taken + 1);
        Some(Seat { client, beyond: taken >= most, crowd: self.clone() })
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
    /// One more than the client may have.
    beyond: bool,
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

/// What a configuration says of who comes in, and how.
pub struct Ways {
    config: Config,
    certificates: Option<Certificates>,
}

impl Ways {
    fn open(config: Config) -> Result<Ways, Error> {
        let certificates = config.tls.clone().map(Certificates::open).transpose()?;
        Ok(Ways { config, certificates })
    }

    /// Whether whoever is at this address says for whom it speaks.
    fn announces(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.config.proxy_protocol.iter().any(|network| network.contains(&peer))
    }
}

/// The places, shared by all workers.
#[derive(Clone)]
pub struct House {
    places: Arc<Semaphore>,
    crowd: Crowd,
    ways: Arc<ArcSwap<Ways>>,
    open: Gauge,
    /// Told when the first one comes into an empty house.
    entered: Arc<Notify>,
    accepted: Family<By<Accepted>, Counter>,
    /// When the lack of descriptors was last said.
    said_short: Arc<Mutex<Option<Instant>>>,
    /// On what is said of load balancers.
    restraint: Restraint,
}

impl House {
    /// An empty house. Where no more than `files` may be open, there are fewer places: a client that
    /// waits in the kernel's queue is better off than one for whom no connection can be opened.
    pub fn open(config: Config, files: Option<u64>, registry: &Registry) -> Result<House, Error> {
        let house = House {
            places: Arc::new(Semaphore::new(places(files))),
            crowd: Crowd::default(),
            ways: Arc::new(ArcSwap::from_pointee(Ways::open(config)?)),
            open: Gauge::default(),
            entered: Arc::default(),
            accepted: Family::default(),
            said_short: Arc::default(),
            restraint: Restraint::default(),
        };
        registry.room("accept", |families| {
            families.register("connections", "Connections open now", house.open.clone());
            families.register("accepted", "Outcomes of accept", house.accepted.clone());
        });
        Ok(house)
    }

    /// Makes what another configuration wants; certificates are read.
    pub fn revise(&self, config: Config) -> Result<Ways, Error> {
        Ways::open(config)
    }

    /// From now on this holds, for whoever comes next.
    pub fn adopt(&self, ways: Ways) {
        self.ways.store(Arc::new(ways));
    }

    /// Returns when somebody is here.
    pub async fn occupied(&self) {
        let entered = self.entered.notified();
        if self.open.get() == 0 {
            entered.await;
        }
    }

    /// Accepts until `end`, handing each arrival to `serve`, which must not block.
    pub async fn run(&self, listener: TcpListener, manner: Manner, end: CancellationToken, serve: impl Fn(Arrival)) {
        // Bound to one address, it is what every client connects to.
        let own = listener.local_addr().ok().filter(|own| manner != Manner::Redirected && !own.ip().is_unspecified());
        loop {
            let arrival = tokio::select! {
                // Whoever is in the queue at the end is let in first: the queue goes with the socket. It is
                // bounded by how long tokio lets a task go on.
                biased;
                arrival = self.next(&listener, own, manner) => arrival,
                () = end.cancelled() => return,
            };
            match arrival {
                Ok(Some(arrival)) => serve(arrival),
                Ok(None) => {}
                Err(error) => self.recover(&error).await,
            }
        }
    }

    /// The next connection; nothing where its client has far too many and it was closed.
    async fn next(
        &self,
        listener: &TcpListener,
        own: Option<SocketAddr>,
        manner: Manner,
    ) -> io::Result<Option<Arrival>> {
        let permit = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, peer) = listener.accept().await?;
        let mut local = own.map_or_else(|| stream.local_addr(), Ok)?;
        let mut destination = local;
        if manner == Manner::Redirected {
            destination = socket::destination(&stream)?;
            if destination == local {
                // Its own end is what the client chose to write there: nobody becomes a client on this host by it.
                local = listener.local_addr()?;
            }
        }
        if self.open.inc() == 0 {
            self.entered.notify_waiters();
        }
        let mut place = Place { _permit: permit, _seat: None, open: self.open.clone() };
        let mut unwelcome = None;
        if manner == Manner::Redirected || !self.ways.load().announces(peer.ip()) {
            let Ok(verdict) = self.seat(&mut place, peer, local) else { return Ok(None) };
            unwelcome = verdict;
        }
        self.accepted.get_or_create(&By(Accepted::Arrived)).inc();
        Ok(Some(Arrival { stream, peer, local, destination, place, house: self.clone(), manner, unwelcome }))
    }

    /// Counts one more connection of this client.
    fn seat(&self, place: &mut Place, peer: SocketAddr, local: SocketAddr) -> Result<Option<Unwelcome>, TooMany> {
        if is_beside_us(peer, local) {
            return Ok(None);
        }
        let client = peer.ip().to_canonical();
        let most = self.ways.load().config.per_client;
        let seat = self.crowd.enter(client, most);
        if seat.as_ref().is_none_or(|seat| seat.beyond) {
            tracing::debug!(%client, most, "too many connections; admit.per_client");
            self.accepted.get_or_create(&By(Accepted::TooMany)).inc();
        }
        let seat = seat.ok_or(TooMany)?;
        let unwelcome = seat.beyond.then_some(Unwelcome::Crowd);
        place._seat = Some(seat);
        Ok(unwelcome)
    }

    /// Every listener is short ten times a second: once a minute is enough.
    fn may_say_short(&self, now: Instant) -> bool {
        let mut said = self.said_short.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = said.is_none_or(|at| now.duration_since(at) >= SAY_AGAIN);
        if is_due {
            *said = Some(now);
        }
        is_due
    }

    async fn recover(&self, error: &io::Error) {
        let whose = Accepted::of(error);
        self.accepted.get_or_create(&By(whose)).inc();
        if whose == Accepted::Exhausted {
            if self.may_say_short(Instant::now()) {
                tracing::error!(%error, "cannot accept connections; raise the limit of open files (ulimit -n)");
            }
            tokio::time::sleep(BACK_OFF).await;
        } else {
            tracing::debug!(%error, "a client left before it was accepted");
        }
    }
}

/// So many that it is not even told.
struct TooMany;

/// Whether a client sits on this host: by loopback, or from the very address it connected to.
fn is_beside_us(peer: SocketAddr, local: SocketAddr) -> bool {
    let client = peer.ip().to_canonical();
    client.is_loopback() || client == local.ip().to_canonical()
}

/// What is not for clients; where there are few files at all, clients have a quarter of them.
fn reserved(files: u64) -> u64 {
    RESERVED_FILES.max(files / RESERVED_SHARE).min(files - files / 4)
}

/// How many idle connections may be kept to servers, where no more than `files` may be open: half of what is not for
/// clients.
pub fn kept_beside(files: u64) -> usize {
    usize::try_from(reserved(files) / 2).unwrap_or(usize::MAX)
}

fn places(files: Option<u64>) -> usize {
    let afforded = files.map(|files| (files - reserved(files)) / FILES_EACH);
    afforded.and_then(|afforded| usize::try_from(afforded).ok()).unwrap_or(MAX_CONNECTIONS).clamp(8, MAX_CONNECTIONS)
}

impl Arrival {
    /// A connection that a gateway brought here; nothing where it is not to be served: it cannot be told so.
    pub fn redirected(self) -> Option<Redirected> {
        let Arrival { stream, peer, local, destination, place, unwelcome, .. } = self;
        if unwelcome.is_some() {
            socket::reset_on_close(&stream);
            return None;
        }
        Some(Redirected { stream, peer, local, destination, place })
    }

    /// Hears out what comes before the first request; nothing where the connection is of no use.
    pub async fn enter(self) -> Option<Entered> {
        let Arrival { mut stream, mut peer, local, mut place, house, manner, mut unwelcome, .. } = self;
        let ways = house.ways.load_full();
        if ways.announces(peer.ip()) {
            let announced = house.heed(&mut stream, peer).await?;
            // Another machine's loopback is that machine: nobody becomes a client on this host by what a
            // load balancer elsewhere says.
            let believed = |client: &SocketAddr| is_beside_us(peer, local) || !is_beside_us(*client, local);
            peer = announced.filter(believed).unwrap_or(peer);
            unwelcome = house.seat(&mut place, peer, local).ok()?;
        }
        let Some(certificates) = ways.certificates.as_ref().filter(|_| manner == Manner::Tls) else {
            return Some(Entered { stream: stream.into(), peer, local, certified: false, unwelcome, place });
        };
        // Boxed: the handshake's room is needed for a moment, the connection's for hours.
        match Box::pin(certificates.greet(stream)).await {
            Ok(Greeted::Tls(stream)) => {
                let certified = certificates.asks;
                Some(Entered { stream: stream.into(), peer, local, certified, unwelcome, place })
            }
            Ok(Greeted::Plain(stream)) => {
                let unwelcome = Some(Unwelcome::Plain);
                Some(Entered { stream: stream.into(), peer, local, certified: false, unwelcome, place })
            }
            Err(error) => {
                tracing::debug!(%peer, error, "no TLS with a client");
                house.accepted.get_or_create(&By(Accepted::Unshaken)).inc();
                None
            }
        }
    }
}

/// Why nothing is known of whom a load balancer speaks for.
#[derive(Debug, thiserror::Error)]
enum Unannounced {
    #[error("{0}")]
    Bad(#[from] announce::Bad),
    #[error("no PROXY header within {} s", PATIENCE.as_secs())]
    Late,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl House {
    /// What a load balancer says; `None` within where it speaks for itself. Nothing at all where it does
    /// not say it properly.
    async fn heed(&self, stream: &mut TcpStream, peer: SocketAddr) -> Option<Option<SocketAddr>> {
        match timeout(PATIENCE, read_announcement(stream)).await.unwrap_or(Err(Unannounced::Late)) {
            Ok(announced) => Some(announced),
            Err(error) => {
                if self.restraint.may_say(peer.ip(), "no PROXY header") {
                    tracing::info!(%peer, %error, "closed: --proxy-protocol wants a header from there");
                }
                self.accepted.get_or_create(&By(Accepted::Unannounced)).inc();
                None
            }
        }
    }
}

async fn read_announcement(stream: &mut TcpStream) -> Result<Option<SocketAddr>, Unannounced> {
    let mut header = vec![0; announce::LEAST];
    stream.read_exact(&mut header).await?;
    loop {
        match announce::read(&header)? {
            Progress::Whole { client, .. } => return Ok(client),
            Progress::More(more) => {
                let read = header.len();
                header.resize(read + more, 0);
                stream.read_exact(&mut header[read..]).await?;
            }
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
    /// A load balancer did not say for whom it speaks.
    Unannounced,
    /// A client did not come through its TLS handshake.
    Unshaken,
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
            Accepted::Unannounced => "unannounced",
            Accepted::Unshaken => "unshaken",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn the_loop_hands_over_arrivals_and_ends_when_told() {
        let house = House::open(Config { per_client: 1, ..Config::default() }, None, &Registry::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let end = CancellationToken::new();
        let (arrived, mut arrivals) = mpsc::unbounded_channel();
        let ending = end.clone();
        let running = house.clone();
        let run = tokio::spawn(async move {
            running.run(listener, Manner::Bare, ending, move |arrival| arrived.send(arrival).unwrap()).await;
        });
        let client = TcpStream::connect(address).await.unwrap();
        let arrival = arrivals.recv().await.unwrap();
        let entered = arrival.enter().await.unwrap();
        assert_eq!((entered.peer, entered.local), (client.local_addr().unwrap(), address));
        assert_eq!(house.open.get(), 1);
        house.occupied().await;
        drop(entered);
        assert_eq!(house.open.get(), 0);
        let mut next = std::pin::pin!(house.occupied());
        assert!(futures_util::poll!(next.as_mut()).is_pending(), "nobody is here");
        let _second = TcpStream::connect(address).await.unwrap();
        next.await;
        end.cancel();
        run.await.unwrap();
    }

    #[test]
    fn a_client_has_so_many_places_and_leaves_no_trace() {
        let crowd = Crowd::default();
        let (greedy, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let held = [crowd.enter(greedy, 2).unwrap(), crowd.enter(greedy, 2).unwrap()];
        let told = crowd.enter(greedy, 2).unwrap();
        assert!(!held[1].beyond && told.beyond, "one more is answered, and not served");
        assert!(crowd.enter(greedy, 2).is_none() && crowd.enter(other, 2).is_some());
        drop((held, told));
        assert!(crowd.seats.lock().unwrap().is_empty());
        assert!(crowd.enter(greedy, 2).is_some_and(|seat| !seat.beyond));
    }

    #[test]
    fn there_are_as_many_places_as_files_can_be_opened_for() {
        let table = [
            (None, 16_384),
            (Some(1_048_576), 16_384),
            (Some(20_000), 9_900),
            (Some(1024), 448),
            (Some(64), 8),
            (Some(0), 8),
        ];
        for (files, count) in table {
            assert_eq!(places(files), count, "{files:?}");
        }
        for files in [256, 1024, 20_000] {
            let clients = places(Some(files)) as u64 * FILES_EACH;
            let left = files - clients;
            assert!(kept_beside(files) as u64 * 2 <= left, "half of what clients leave, of {files}");
        }
    }

    async fn announced(bytes: &[u8]) -> Option<Entered> {
        let config = Config { proxy_protocol: vec!["127.0.0.0/8".parse().unwrap()], ..Config::default() };
        let house = House::open(config, None, &Registry::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        house.next(&listener, None, Manner::Bare).await.unwrap().unwrap().enter().await
    }

    #[tokio::test]
    async fn a_balancer_says_for_whom_it_speaks_and_the_rest_is_the_clients() {
        let mut entered = announced(b"PROXY TCP4 10.7.0.3 10.7.0.1 4711 3128\r\nGET").await.unwrap();
        assert_eq!(entered.peer, "10.7.0.3:4711".parse().unwrap());
        let mut rest = Vec::new();
        entered.stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"GET");
        assert!(entered.place._seat.is_some(), "it counts among that client's");
        let itself = announced(b"PROXY UNKNOWN\r\n").await.unwrap();
        assert!(itself.peer.ip().is_loopback());
        assert!(announced(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.is_none(), "it must say so");
        assert!(announced(b"PROXY TCP4 10.7.0.3").await.is_none());
    }

    #[test]
    fn a_clients_reset_is_no_reason_to_pause() {
        assert_eq!(Accepted::of(&io::ErrorKind::ConnectionAborted.into()), Accepted::Gone);
        assert_eq!(Accepted::of(&io::ErrorKind::HostUnreachable.into()), Accepted::Gone);
        assert_eq!(Accepted::of(&io::Error::from_raw_os_error(24)), Accepted::Exhausted);
    }
}
