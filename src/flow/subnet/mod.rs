//! The corridor of the build subnet: destination → client → the name it shows → intercept | serve | tunnel.
//!
//! A gateway brings connections here whose clients know nothing of us, so that nothing may be worse than
//! without: what cannot be read, is not ours or does not fit goes on to where it was going, byte for byte.
//! A name is honoured only where we gave its client that address for it, or our own answer for it has that
//! address; then a module host is answered as in any other position, before anything is dialled. Where the
//! destination of a known name is dead, the ladder's addresses are tried in its place: the client, already
//! accepted, cannot try the next one itself. docs/subnet.md says how each is decided.

mod plain;
mod tally;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

pub use tally::Subnet;

use super::{Inside, Worker, whole};
use crate::accept::{self, Arrival, Redirected};
use crate::admit::{Client, Dialect, Ends, Permit, Refusal};
use crate::connect::{self, Dialed, Miss};
use crate::intercept::{self, Look, Replayed, Stance, Terminated, Why};
use crate::metrics::Label;
use crate::socket::{self, Conduit};
use crate::target::{Host, Name, Target, unwrap_mapped};
use crate::trace::{Id, Peer};
use tally::{Shown, Went};

/// Who says nothing for so long may be waiting for its server to speak, which is dialled then. Most TLS
/// clients' hello is on its way when their connection stands; pip, say, reads its roots first.
const SILENCE: Duration = Duration::from_millis(300);
/// How long after that either side may take to speak, before both are joined unread.
const HUSH: Duration = Duration::from_secs(10);
/// The same for a client whose destination is dead: what it says may yet be a name to be rescued by.
const LAST_WORD: Duration = Duration::from_secs(3);
/// How long our own answer for a shown name may take, of the 10 s that go gives a TLS handshake.
const ASKING: Duration = Duration::from_secs(2);
/// How long the destination of a known name has for itself: SYNs at 0 and 1 s, and time for their answers.
const FIRST: Duration = Duration::from_secs(3);
/// When the ladder is asked beside it, so that addresses are at hand by then.
const PREPARE: Duration = Duration::from_secs(1);
/// How long the ladder's addresses have after it. 3 + 5 leaves go 2 s for the handshake itself.
const RESCUE: Duration = Duration::from_secs(5);
/// How long a connection of our own that was redirected back to us may be here before the worker that made
/// it knows that it stands.
const WAY_BACK: Duration = Duration::from_millis(20);

/// A redirected connection that may go on.
struct Caller {
    id: Id,
    peer: SocketAddr,
    client: Client,
    destination: SocketAddr,
    /// To its destination.
    permit: Permit,
    place: Arc<accept::Place>,
}

/// Where a tunnel leads, and whether that is where it was going.
type Reached = Result<(Dialed<Conduit>, Went), connect::Error>;

/// Both ends of a tunnel, and what its client said before it stood.
struct Tunnel {
    id: Id,
    client: Conduit,
    early: Bytes,
    origin: Conduit,
    place: Arc<accept::Place>,
}

impl Worker {
    /// Serves one connection that a gateway brought here, to its end.
    pub async fn serve_redirected(self: Arc<Self>, arrival: Arrival) {
        let Some(redirected) = arrival.redirected() else { return self.rooms.subnet.count(Went::TooMany) };
        // Boxed: its room is needed until the tunnel stands, and that for hours.
        let Some(tunnel) = Box::pin(Arc::clone(&self).lead(redirected)).await else { return };
        let carried = self.rooms.tunnels.relay(tunnel.client, tunnel.origin, tunnel.early).await;
        tracing::debug!(id = %tunnel.id, up = carried.up, down = carried.down, ending = ?carried.ending, "tunnel ended");
        drop(tunnel.place);
    }

    /// The corridor itself: to a tunnel, or to an end.
    async fn lead(self: Arc<Self>, redirected: Redirected) -> Option<Tunnel> {
        let id = Id::draw();
        let (client, permit) = match self.welcome(&redirected, id).await {
            Ok(welcome) => welcome,
            Err(closed) => {
                self.rooms.subnet.count(closed);
                socket::reset_on_close(&redirected.stream);
                return None;
            }
        };
        let Redirected { stream, peer, destination, place, .. } = redirected;
        let caller = Caller { id, peer, client, destination, permit, place: Arc::new(place) };
        match destination.port() {
            443 => self.read_tls(caller, stream).await,
            80 => self.read_http(caller, stream).await,
            _ => self.tunnel(caller, Bytes::new(), stream.into(), None).await,
        }
    }

    /// Whether it may go on.
    async fn welcome(&self, redirected: &Redirected, id: Id) -> Result<(Client, Permit), Went> {
        let Redirected { peer, local, destination, .. } = *redirected;
        if socket::is_here(peer.ip()) {
            sleep(WAY_BACK).await;
            if self.rooms.connector.has_just_dialled_from(peer) {
                tracing::warn!(%destination, "our own connection was redirected to us: rules belong into prerouting, for the subnet's interface");
                return Err(Went::Loop);
            }
        }
        let client = self.rooms.admission.redirected(Ends { peer, local, certified: false }).map_err(|refusal| {
            tracing::debug!(%id, %peer, %refusal, "closed");
            Went::Stranger
        })?;
        let target = Target::new(Host::Addr(unwrap_mapped(destination.ip())), destination.port());
        match self.rooms.admission.target(client.standing, Dialect::Redirected, &target) {
            Ok(permit) => Ok((client, permit)),
            Err(Refusal::Ourselves) => {
                tracing::debug!(%id, %peer, "closed: it came by itself, and where it is going nobody knows");
                Err(Went::Direct)
            }
            Err(refusal) => {
                if self.rooms.restraint.may_say(peer.ip(), refusal.decision().label()) {
                    tracing::info!(%id, %peer, %destination, %refusal, "closed");
                }
                Err(Went::Refused)
            }
        }
    }

    /// 443: what its ClientHello says decides.
    async fn read_tls(self: Arc<Self>, caller: Caller, stream: TcpStream) -> Option<Tunnel> {
        if let Some(dialed) = self.unless_spoken_to(&caller, &stream).await {
            self.rooms.subnet.count_shown(Shown::Unread(Why::Silent));
            return self.join(caller, Bytes::new(), stream.into(), None, dialed);
        }
        let Look { stream, shown } = intercept::look(Conduit::from(stream), SILENCE).await;
        let name = match shown {
            Ok(name) => name,
            Err(why) => {
                self.rooms.subnet.count_shown(Shown::Unread(why));
                let (early, stream) = stream.into_parts();
                return self.tunnel(caller, early, stream, None).await;
            }
        };
        let host = Host::Name(name.clone());
        let stance = self.rooms.interceptor.stance(caller.client.address, None, &host, SystemTime::now());
        tracing::debug!(id = %caller.id, peer = %caller.peer, destination = %caller.destination, %name, ?stance, "redirected");
        if stance != Stance::Intercept {
            self.rooms.subnet.count_shown(Shown::Unasked);
        } else if self.is_honoured(&caller, &name).await {
            return self.intercept_redirected(caller, name, stream).await;
        }
        let (early, stream) = stream.into_parts();
        self.tunnel(caller, early, stream, Some(name)).await
    }

    /// The destination, where it spoke before its client did, or neither of them speaks, or it is dead. Nothing
    /// where the client said something: that is to be read, and nothing was sent anywhere yet.
    async fn unless_spoken_to(&self, caller: &Caller, client: &TcpStream) -> Option<Reached> {
        let spoken = async {
            // An end or a reset is for whoever reads on to find.
            let _ = client.peek(&mut [0]).await;
        };
        let dialing = async {
            sleep(SILENCE).await;
            let dialed = self.rooms.connector.dial(&caller.permit, "").await;
            match &dialed {
                Ok(dialed) => drop(timeout(HUSH, dialed.stream.socket().peek(&mut [0])).await),
                Err(_) => sleep(LAST_WORD).await,
            }
            dialed.map(|dialed| (dialed, Went::Straight))
        };
        tokio::select! {
            biased;
            () = spoken => None,
            dialed = dialing => Some(dialed),
        }
    }

    async fn intercept_redirected(
        self: Arc<Self>,
        caller: Caller,
        name: Name,
        stream: Replayed<Conduit>,
    ) -> Option<Tunnel> {
        let now = SystemTime::now();
        match self.rooms.interceptor.terminate(stream, &name, caller.client.address, None, now).await {
            Ok(Terminated::Tls { stream, alpn }) => {
                self.rooms.subnet.count(Went::Intercepted);
                let target = Target::new(Host::Name(name), caller.destination.port());
                let inside = Inside::new(caller.peer, &caller.client, target, caller.place);
                self.serve_inside(inside, stream, alpn).await;
                None
            }
            Ok(Terminated::Passed { stream, why }) => {
                tracing::debug!(id = %caller.id, %name, ?why, "passed on unread");
                let (early, stream) = whole(stream);
                self.tunnel(caller, early, stream, Some(name)).await
            }
            Err(error) => {
                self.rooms.subnet.count(Went::Broken);
                tracing::debug!(id = %caller.id, %name, client = %caller.client.address, %error, "interception ended");
                None
            }
        }
    }

    /// Whether the name that a client shows is that of where it was going.
    async fn is_honoured(&self, caller: &Caller, name: &Name) -> bool {
        let address = unwrap_mapped(caller.destination.ip());
        let shown = if self.rooms.admission.is_bound(caller.client.address, name, address, Instant::now()) {
            Shown::Given
        } else {
            match timeout(ASKING, self.rooms.resolver.look_up(name)).await {
                Ok(Ok(found)) if found.addresses.contains(&address) && !found.doubtful => Shown::Ours,
                Ok(Ok(_)) => Shown::Foreign,
                Ok(Err(_)) | Err(_) => Shown::Unsure,
            }
        };
        self.rooms.subnet.count_shown(shown);
        if matches!(shown, Shown::Foreign | Shown::Unsure) {
            let destination = caller.destination;
            tracing::debug!(id = %caller.id, %name, %destination, ?shown, "the name does not fit where it is going");
        }
        matches!(shown, Shown::Given | Shown::Ours)
    }

    /// To where it was going; `name` is what its client showed, if anything.
    async fn tunnel(&self, caller: Caller, early: Bytes, client: Conduit, name: Option<Name>) -> Option<Tunnel> {
        let reached = self.reach(&caller, name.as_ref()).await;
        self.join(caller, early, client, name, reached)
    }

    fn join(
        &self,
        caller: Caller,
        early: Bytes,
        client: Conduit,
        name: Option<Name>,
        reached: Reached,
    ) -> Option<Tunnel> {
        let (id, destination) = (caller.id, caller.destination);
        match reached {
            Ok((dialed, went)) => {
                self.rooms.subnet.count(went);
                tracing::debug!(%id, peer = %caller.peer, %destination, address = %dialed.peer.address, "tunnel stands");
                Some(Tunnel { id, client, early, origin: dialed.stream, place: caller.place })
            }
            Err(error) => {
                self.rooms.subnet.count(Went::Dead);
                let name = name.as_ref().map(Name::as_str);
                tracing::info!(%id, peer = %caller.peer, %destination, name, %error, "closed");
                // As the destination would have refused it.
                socket::reset_on_close(client.socket());
                None
            }
        }
    }

    async fn reach(&self, caller: &Caller, name: Option<&Name>) -> Reached {
        let dialing = self.rooms.connector.dial(&caller.permit, "");
        let Some(name) = name.filter(|name| self.rooms.resolver.kind(name).is_known()) else {
            return dialing.await.map(|dialed| (dialed, Went::Straight));
        };
        let preparing = async {
            sleep(PREPARE).await;
            // Whatever comes of it, the dial below asks again and is answered at once.
            let _ = self.rooms.resolver.look_up(name).await;
            std::future::pending::<()>().await;
        };
        let first = tokio::select! {
            first = timeout(FIRST, dialing) => first,
            () = preparing => Ok(Err(unanswered(caller))),
        };
        let failed = match first {
            Ok(Ok(dialed)) => return Ok((dialed, Went::Straight)),
            Ok(Err(refused @ connect::Error::Refused(_))) => return Err(refused),
            Ok(Err(failed)) => failed,
            Err(_) => unanswered(caller),
        };
        self.rescue(caller, name, failed).await.map(|dialed| (dialed, Went::Rescued))
    }

    /// The ladder's addresses for a known name in place of one that is dead; where those do not do
    /// either, why the first did not is what is told.
    async fn rescue(
        &self,
        caller: &Caller,
        name: &Name,
        failed: connect::Error,
    ) -> Result<Dialed<Conduit>, connect::Error> {
        let destination = caller.destination;
        let target = Target::new(Host::Name(name.clone()), destination.port());
        let permit = self.rooms.admission.target(caller.client.standing, Dialect::Redirected, &target);
        let Ok(permit) = permit else { return Err(failed) };
        match timeout(RESCUE, self.rooms.connector.dial(&permit, "")).await {
            Ok(Ok(dialed)) => {
                let (id, peer, Peer { address, heard_from }) = (caller.id, caller.peer, &dialed.peer);
                tracing::info!(%id, %peer, %name, %destination, %address, %heard_from, "rescued: where it was going is dead");
                Ok(dialed)
            }
            Ok(Err(error)) => {
                tracing::debug!(id = %caller.id, %name, %error, "not rescued");
                Err(failed)
            }
            Err(_) => Err(failed),
        }
    }
}

/// Why a destination that had its time counts as dead.
fn unanswered(caller: &Caller) -> connect::Error {
    let tried = vec![(caller.destination, Miss::Silent)];
    connect::Error::Unreachable { target: caller.permit.target().clone(), tried }
}
