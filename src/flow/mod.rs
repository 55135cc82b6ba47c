//! The corridor: accept → classify → admit → intercept | tunnel | forward | goproxy → respond.
//!
//! One connection comes in at [`Worker::serve`]; each of its requests walks down `Worker::answer`,
//! which is the program. Every arm is a call into a room, every early return a [`Trouble`] for
//! `respond` to put into words. Rooms do not know each other; they meet here. What a gateway brings
//! goes down a side of it (`subnet`).

mod subnet;
mod turns;

use std::convert::{Infallible, identity};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::{self, Arrival, Unwelcome};
use crate::admit::{Admission, Client, Dialect, Ends, Permit, Standing};
use crate::classify::{self, Guarded, Intent, Keeper, Left};
use crate::connect::{self, Connector};
use crate::fetch::{self, Body};
use crate::forward::{self, Forwarder, Identity};
use crate::goproxy::{Goproxy, Place, Reading, Readings};
use crate::intercept::{Alpn, Interceptor, Replayed, Stance, Terminated};
use crate::metrics::{Event, Recent, Sort};
use crate::resolve::Resolver;
use crate::respond::{self, Conditions, Later, Line, Modules, Trouble};
use crate::socket::{self, Conduit, Cut, Edge};
use crate::target::{Base, Host, Name, Scheme, Target, unwrap_mapped};
use crate::trace::{self, Collector, Id, Restraint, Trace};
use crate::tunnel::{Ending, Tunnels};

pub use subnet::Subnet;
pub use turns::Turns;

/// A client that has finished sending may still listen (`printf … | nc`): so long an answer to it
/// may take before it is taken for gone, as curl, go and browsers are.
const LISTENS: Duration = Duration::from_secs(3);

/// The same between two pieces of an answer's body, as long as a half-open tunnel.
const STILL_LISTENS: Duration = Duration::from_secs(60);

/// How often a quiet HTTP/2 client is asked whether it is still there.
const H2_PING: Duration = Duration::from_secs(60);

/// How many requests of one HTTP/2 connection are answered at once: the least that a server should allow (RFC 9113
/// section 6.5.2). Whoever has more, go above all, opens another connection.
const H2_STREAMS: u32 = 100;

/// What each of them may have queued of its answer, whatever the client's windows allow: four frames, which are sent
/// while the next piece is had. A piece more may be begun, and one waits in hand, each of at most 256 KiB: a client
/// that does not read makes one connection hold 100 × (64 + 2 × 256) KiB, 56 MiB, and of memory that others share.
const H2_QUEUE: usize = 64 << 10;

/// What all workers share.
pub struct Rooms {
    pub admission: Admission,
    pub interceptor: Interceptor,
    pub goproxy: Goproxy,
    pub tunnels: Tunnels,
    pub connector: Connector,
    /// For the names that redirected clients show.
    pub resolver: Resolver,
    pub identity: Identity,
    pub modules: Modules,
    pub ours: Ours,
    /// What happened lately, for the status page.
    pub recent: Recent,
    /// On what the log says of denials.
    pub restraint: Restraint,
    pub subnet: Subnet,
    /// Turns at hashing a password, which takes a core.
    pub hashing: Turns,
    /// Who hears of every request that is over.
    pub collector: Option<Collector>,
}

impl Rooms {
    /// Something was passed on that was begun then.
    fn tell_passed(&self, event: Event, begun: SystemTime) {
        let now = SystemTime::now();
        self.recent.tell(Sort::Passed, event.took(now.duration_since(begun).unwrap_or_default()), now);
    }

    /// Has the log, the collector and the status page hear of a request what they want to know.
    fn record(
        &self,
        line: Line,
        outcome: Result<Response<Body>, Trouble>,
        trace: Option<Trace>,
    ) -> Result<Response<Body>, Trouble> {
        match outcome {
            Ok(response) => Ok(line.answered(response, trace, &self.modules, &self.admission)),
            Err(trouble) => {
                self.tell_trouble(&line, &trouble);
                line.failed(&trouble, trace, &self.admission, &self.restraint);
                Err(trouble)
            }
        }
    }

    fn tell_trouble(&self, line: &Line, trouble: &Trouble) {
        if !trouble.is_news() {
            return;
        }
        let (status, advice, id) = (trouble.status(), trouble.advice(), Some(line.id().to_string()));
        let event = Event::of(line.what(&self.admission), status.as_str()).words(trouble.told());
        let sort = if matches!(trouble, Trouble::Refused(_)) { Sort::Denied } else { Sort::Failed };
        self.recent.tell(sort, Event { advice, id, ..event }, SystemTime::now());
    }
}

/// Which targets are this proxy itself.
pub struct Ours {
    pub listeners: Vec<SocketAddr>,
    /// Other names of ours (`listen_names`).
    pub names: Vec<Name>,
}

impl Ours {
    /// Whether `target` is one of our proxy listeners; `local` is where this client reached us.
    fn are(&self, target: &Target, local: SocketAddr) -> bool {
        let here = Host::Addr(unwrap_mapped(local.ip())) == target.host;
        here && self.listeners.iter().any(|own| own.port() == target.port) || self.lead_to_us(target)
    }

    /// The same whoever asks.
    pub fn lead_to_us(&self, target: &Target) -> bool {
        let at_this_port = |own: &SocketAddr| own.port() == target.port;
        match &target.host {
            Host::Name(name) => {
                self.listeners.iter().any(at_this_port) && (name.as_str() == "localhost" || self.names.contains(name))
            }
            Host::Addr(address) => {
                let there = SocketAddr::new(*address, target.port);
                self.listeners.iter().any(|&own| socket::leads_to(own, there))
            }
        }
    }

    /// Whether a request in origin form is for us. A page whose name was made to resolve to loopback
    /// (DNS rebinding) would read what only this host may: there we answer to addresses, single
    /// labels, `localhost` and names that the operator gave us. Beyond loopback a service has the
    /// names that its network gives it.
    fn answer_to<B>(&self, request: &Request<B>, ends: Ends) -> Result<(), Trouble> {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let is_address = host.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b':'));
        if is_address || !ends.over_loopback() {
            return Ok(());
        }
        match Target::parse_authority(host, 80).map(|target| target.host) {
            Ok(Host::Name(name)) if !self.is_local(&name) => Err(Trouble::Foreign(name)),
            _ => Ok(()),
        }
    }

    fn is_local(&self, name: &Name) -> bool {
        name.is_single_label() || name.is_under("localhost") || self.names.contains(name)
    }
}

/// One worker: the rooms, and connections to origins of its own.
pub struct Worker {
    pub rooms: Arc<Rooms>,
    pub forwarder: Forwarder,
    /// The paths that it read last.
    pub readings: Readings,
    /// Everything that this worker has begun and not finished.
    pub tasks: TaskTracker,
    /// Told when the house closes: connections finish what they are at.
    pub drain: CancellationToken,
}

/// What is known of a connection before its first request.
#[derive(Clone)]
struct Door {
    ends: Ends,
    side: Side,
    /// Why every request on it is told no.
    unwelcome: Option<Unwelcome>,
}

/// What a client's connection can be asked and told while it is served.
#[derive(Clone)]
struct Side {
    /// The hand on its head guard; HTTP/2 needs none.
    keeper: Option<Keeper>,
    /// What ends it in a reset, where nothing else would show that an answer is not whole.
    cut: Option<Cut>,
    /// Kept by whatever the connection turns into: a tunnel takes room, too.
    place: Arc<accept::Place>,
}

impl Side {
    /// What this side was refused for, in a head or in a body.
    fn refused(&self) -> Option<classify::Fault> {
        self.keeper.as_ref().and_then(Keeper::refused)
    }

    /// What came of `answering`, unless the client left before. It is lent: moved, it would take its
    /// room twice, in every connection.
    async fn unless_left<T>(
        &self,
        answering: Pin<&mut impl Future<Output = Result<T, Trouble>>>,
    ) -> Result<T, Trouble> {
        let Some(keeper) = &self.keeper else { return answering.await };
        tokio::select! {
            biased;
            outcome = answering => outcome,
            () = gone(keeper, LISTENS) => Err(Trouble::Left),
        }
    }
}

/// A client that is to be intercepted, answered 200 already.
struct Guest {
    peer: SocketAddr,
    client: Client,
    permit: Permit,
    name: Name,
    id: Id,
    place: Arc<accept::Place>,
}

/// An intercepted connection: whose it is, and the one host that it leads to.
struct Inside {
    peer: SocketAddr,
    standing: Standing,
    base: Base,
    /// That host as clients write it.
    authority: String,
    side: Side,
}

impl Inside {
    fn new(peer: SocketAddr, client: &Client, target: Target, place: Arc<accept::Place>) -> Inside {
        let base = Base { scheme: Scheme::Https, target, path: String::new() };
        let side = Side { keeper: None, cut: None, place };
        Inside { peer, standing: client.standing, authority: base.authority(), base, side }
    }

    /// Whether a request is for the host that was admitted.
    fn is_meant_by<B>(&self, request: &Request<B>) -> bool {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let authority = request.uri().authority().map(|authority| authority.as_str()).or(host);
        let port = self.base.scheme.default_port();
        let is_its = |text| Target::parse_authority(text, port).is_ok_and(|target| target == self.base.target);
        authority.is_some_and(|text| text == self.authority || is_its(text))
    }
}

impl Worker {
    /// Serves one connection to its end.
    pub async fn serve(self: Arc<Self>, arrival: Arrival) {
        let Some(entered) = arrival.enter().await else { return };
        let accept::Entered { stream, peer, local, certified, unwelcome, place } = entered;
        let ends = Ends { peer, local, certified };
        let edge = Edge::new(stream);
        let cut = Some(edge.cut());
        let guarded = Guarded::new(edge);
        let side = Side { keeper: Some(guarded.keeper()), cut, place: Arc::new(place) };
        let door = Door { ends, side, unwelcome };
        let worker = Arc::clone(&self);
        let service = service_fn(move |request| {
            let (worker, door) = (Arc::clone(&worker), door.clone());
            async move { Ok::<_, Infallible>(worker.answer(door, request).await) }
        });
        let serving = http1().serve_connection(TokioIo::new(guarded), service).with_upgrades();
        if let Err(error) = self.until_drained(serving, |serving| serving.graceful_shutdown()).await {
            tracing::debug!(peer = %ends.peer, %error, "connection ended");
        }
    }

    /// Drives a connection; once the house closes, it finishes what it is at and takes nothing new.
    async fn until_drained<C: Future>(&self, serving: C, wind_up: impl FnOnce(Pin<&mut C>)) -> C::Output {
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            ended = &mut serving => ended,
            () = self.drain.cancelled() => {
                wind_up(serving.as_mut());
                serving.await
            }
        }
    }

    /// The corridor itself.
    async fn answer(self: Arc<Self>, door: Door, request: Request<Incoming>) -> Response<Body> {
        let (connect, version) = (request.method() == Method::CONNECT, request.version());
        let line = Line::of(&request, door.ends.peer, self.rooms.collector.as_ref());
        let (id, side) = (line.id(), door.side.clone());
        let answering = std::pin::pin!(Arc::clone(&self).dispatch(door, request, id));
        let (outcome, trace) = trace::within(id, line.trace(), side.unless_left(answering)).await;
        let outcome = outcome.map_err(|trouble| side.refused().map_or(trouble, Trouble::Request));
        let response = self.rooms.record(line, outcome, trace).unwrap_or_else(|trouble| {
            let us = self.rooms.identity.pseudonym();
            if connect { respond::refuse_connect(&trouble, id, us) } else { respond::refuse(&trouble, id, us) }
        });
        match side.cut {
            Some(cut) if version < Version::HTTP_11 => response.map(|body| cutting(body, cut)),
            _ => response,
        }
    }

    async fn dispatch(
        self: Arc<Self>,
        door: Door,
        request: Request<Incoming>,
        id: Id,
    ) -> Result<Response<Body>, Trouble> {
        if let Some(fault) = door.side.refused() {
            return Err(fault.into());
        }
        if let Some(unwelcome) = door.unwelcome {
            return Err(Trouble::Unwelcome(unwelcome));
        }
        let mut intent = classify::intent(&request)?;
        if let Intent::Forward { path, .. } = &mut intent
            && door.side.keeper.as_ref().is_some_and(Keeper::asks_the_server)
        {
            "*".clone_into(path);
        }
        match intent {
            // Boxed, so that a connection has no room for all that a request can become: hyper keeps
            // the largest of them in every connection, and moves it for every request.
            Intent::Connect(target) => Box::pin(self.connect(door, target, request, id)).await,
            Intent::Forward { base, path } if self.rooms.ours.are(&base.target, door.ends.local) => {
                self.own(door, &path, &request).await
            }
            Intent::Forward { base, path } => Box::pin(self.forward(door, base, &path, request)).await,
            Intent::Origin { path } => {
                self.rooms.ours.answer_to(&request, door.ends)?;
                self.own(door, &path, &request).await
            }
        }
    }

    /// CONNECT: an intercepted host is answered at once, a tunnel once it stands.
    async fn connect(
        self: Arc<Self>,
        door: Door,
        target: Target,
        request: Request<Incoming>,
        id: Id,
    ) -> Result<Response<Body>, Trouble> {
        let client = self.admitted(&door, &request).await?;
        if self.rooms.identity.has_seen(request.headers()) {
            return Err(Trouble::Forward(forward::Failure::Loop));
        }
        let permit = self.rooms.admission.target(client.standing, Dialect::Connect, &target)?;
        let now = SystemTime::now();
        let stance = self.rooms.interceptor.stance(client.address, client.user.as_deref(), &target.host, now);
        if let (Stance::Intercept, Host::Name(name)) = (&stance, &target.host) {
            let guest = Guest { peer: door.ends.peer, client, permit, name: name.clone(), id, place: door.side.place };
            let worker = Arc::clone(&self);
            self.tasks.spawn(async move {
                if let Some((stream, early)) = taken_over(hyper::upgrade::on(request)).await {
                    worker.intercept(guest, Replayed::new(early, stream)).await;
                }
            });
            return Ok(Response::new(fetch::empty()));
        }
        self.rooms.admission.pass(&target)?;
        let dialed = self.rooms.connector.dial(&permit, &Identity::before(request.headers())).await?;
        let words = format!("at {}, heard from {}", dialed.peer.address, dialed.peer.heard_from);
        self.rooms.tell_passed(Event::of(target.to_string(), "tunnel").words(words), now);
        let (tunnels, place) = (self.rooms.tunnels.clone(), door.side.place);
        let later = Later::default();
        let mut response = Response::new(fetch::empty());
        response.extensions_mut().insert(later.clone());
        self.tasks.spawn(async move {
            if let Some((stream, early)) = taken_over(hyper::upgrade::on(request)).await {
                let carried = tunnels.relay(stream, dialed.stream, early).await;
                later.over(carried.up, carried.down);
            }
            drop(place);
        });
        Ok(response)
    }

    /// Ends TLS for an admitted host and serves what comes out of it; what cannot be ended is
    /// carried on as a tunnel, its first bytes replayed.
    async fn intercept(self: Arc<Self>, guest: Guest, stream: Replayed<Conduit>) {
        let Guest { peer, client, permit, name, id, place } = guest;
        let (user, now) = (client.user.clone(), SystemTime::now());
        match self.rooms.interceptor.terminate(stream, &name, client.address, user.as_deref(), now).await {
            Ok(Terminated::Tls { stream, alpn }) => {
                let inside = Inside::new(peer, &client, permit.target().clone(), place);
                self.serve_inside(inside, stream, alpn).await;
            }
            Ok(Terminated::Passed { stream, why }) => {
                tracing::debug!(%id, host = %name, ?why, "passed on unread");
                let (early, stream) = whole(stream);
                let leave = self.rooms.admission.pass(permit.target()).map_err(connect::Error::Refused);
                let dialed = match leave {
                    Ok(()) => self.rooms.connector.dial(&permit, "").await,
                    Err(refused) => Err(refused),
                };
                match dialed {
                    Ok(dialed) => drop(self.rooms.tunnels.relay(stream, dialed.stream, early).await),
                    Err(error) => tracing::info!(%id, host = %name, %error, "cannot be passed on"),
                }
            }
            // What an operator wants to know of it is said there.
            Err(error) => tracing::debug!(%id, host = %name, client = %client.address, %error, "interception ended"),
        }
    }

    async fn serve_inside<S>(self: Arc<Self>, mut inside: Inside, stream: S, alpn: Alpn)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let worker = Arc::clone(&self);
        let serve = move |inside: Inside, shape: fn(Body) -> Body| {
            let inside = Arc::new(inside);
            service_fn(move |request| {
                let answering = Arc::clone(&worker).answer_inside(Arc::clone(&inside), request);
                async move { Ok::<_, Infallible>(answering.await.map(shape)) }
            })
        };
        let ended = if alpn == Alpn::Http2 {
            let serving = http2().serve_connection(TokioIo::new(stream), serve(inside, fetch::in_records));
            self.until_drained(serving, |serving| serving.graceful_shutdown()).await
        } else {
            let guarded = Guarded::new(stream);
            inside.side.keeper = Some(guarded.keeper());
            let serving = http1().serve_connection(TokioIo::new(guarded), serve(inside, identity)).with_upgrades();
            self.until_drained(serving, |serving| serving.graceful_shutdown()).await
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "intercepted connection ended");
        }
    }

    async fn answer_inside(self: Arc<Self>, inside: Arc<Inside>, request: Request<Incoming>) -> Response<Body> {
        // None is ever granted here, and what follows one was not checked.
        let connect = request.method() == Method::CONNECT;
        let line = Line::of(&request, inside.peer, self.rooms.collector.as_ref());
        let (id, side) = (line.id(), &inside.side);
        let answering = std::pin::pin!(self.dispatch_inside(&inside, request));
        let (outcome, trace) = trace::within(id, line.trace(), side.unless_left(answering)).await;
        let outcome = outcome.map_err(|trouble| side.refused().map_or(trouble, Trouble::Request));
        let recorded = self.rooms.record(line, outcome, trace);
        let mut response =
            recorded.unwrap_or_else(|trouble| respond::refuse(&trouble, id, self.rooms.identity.pseudonym()));
        if connect && side.keeper.is_some() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn dispatch_inside(&self, inside: &Inside, request: Request<Incoming>) -> Result<Response<Body>, Trouble> {
        if let Some(fault) = inside.side.refused() {
            return Err(fault.into());
        }
        let Intent::Origin { path } = classify::intent(&request)? else { return Err(Trouble::Misdirected) };
        if !inside.is_meant_by(&request) {
            return Err(Trouble::Misdirected);
        }
        let place = Place::Host { base: inside.base.clone(), standing: inside.standing };
        if let Some(wanted) = self.module_request(&request, &place, &path) {
            return self.module(&wanted, &place, &request).await;
        }
        Box::pin(self.pass(inside.standing, &inside.base, &path, request, inside.side.clone())).await
    }

    /// Passes a request on. Where the answer switches protocols, both ends become a tunnel.
    async fn pass(
        &self,
        standing: Standing,
        base: &Base,
        path: &str,
        mut request: Request<Incoming>,
        side: Side,
    ) -> Result<Response<Body>, Trouble> {
        self.rooms.admission.pass(&base.target)?;
        let near = hyper::upgrade::on(&mut request);
        let keeper = side.keeper.clone();
        let (what, begun) = (seen(request.method(), base, path), SystemTime::now());
        let mut response = self.forwarder.pass(standing, base, path, request, keeper.as_ref()).await?;
        self.rooms.tell_passed(Event::of(what, "forward").words(response.status().as_str()), begun);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            keeper.iter().for_each(Keeper::open);
            let far = hyper::upgrade::on(&mut response);
            let later = Later::default();
            response.extensions_mut().insert(later.clone());
            self.tasks.spawn(carry(self.rooms.tunnels.clone(), near, far, side, later));
            return Ok(response);
        }
        Ok(match keeper {
            Some(keeper) => response
                .map(|body| fetch::abandoned(body, async move { still_listens(keeper.left().await, STILL_LISTENS) })),
            None => response,
        })
    }

    /// Absolute form: a module host's requests are recognised, everything else passes through.
    async fn forward(
        &self,
        door: Door,
        base: Base,
        path: &str,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Trouble> {
        let client = self.admitted(&door, &request).await?;
        if let Some((base, rest)) = self.rooms.goproxy.listed(&base, path) {
            let place = Place::Host { base, standing: client.standing };
            if let Some(wanted) = self.module_request(&request, &place, rest) {
                return self.module(&wanted, &place, &request).await;
            }
        }
        self.rooms.admission.target(client.standing, Dialect::Http, &base.target)?;
        self.pass(client.standing, &base, path, request, door.side).await
    }

    /// Origin form: modules, and the few files of our own.
    async fn own(&self, door: Door, path: &str, request: &Request<Incoming>) -> Result<Response<Body>, Trouble> {
        let headers = request.headers();
        let authorization = headers.get(header::PROXY_AUTHORIZATION).or(headers.get(header::AUTHORIZATION));
        let authorization = authorization.map(HeaderValue::as_bytes);
        self.prove(door.ends, authorization).await;
        let (standing, path) = self.rooms.admission.origin(door.ends, path, authorization)?;
        if request.method() == Method::OPTIONS && path == "*" {
            return Ok(forward::own_options());
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return Err(Trouble::Method);
        }
        let no_ca = Trouble::Absent("this proxy has no CA: it was started without interception");
        match path {
            "" | "/" => Err(Trouble::Absent("this is a proxy for Go builds: point GOPROXY or HTTPS_PROXY at it")),
            "/ca.pem" => self.rooms.interceptor.root_pem().map(certificates).ok_or(no_ca),
            "/ca-bundle.pem" => {
                let interceptor = self.rooms.interceptor.clone();
                let bundle = tokio::task::spawn_blocking(move || interceptor.bundle_pem()).await;
                bundle.ok().flatten().map(certificates).ok_or(no_ca)
            }
            _ => {
                let place = Place::Ours { standing };
                let wanted = self.readings.read(&self.rooms.goproxy, &place, path)?;
                self.module(&wanted, &place, request).await
            }
        }
    }

    /// The module request in this one, if it is one that may be answered from what everybody gets:
    /// with credentials or cookies the answer may be for this client alone.
    fn module_request<B>(&self, request: &Request<B>, place: &Place, path: &str) -> Option<Arc<Reading>> {
        let headers = request.headers();
        let readable = request.method() == Method::GET || request.method() == Method::HEAD;
        let personal = headers.contains_key(header::AUTHORIZATION) || headers.contains_key(header::COOKIE);
        if readable && !personal { self.readings.read(&self.rooms.goproxy, place, path).ok() } else { None }
    }

    async fn module<B>(
        &self,
        wanted: &Reading,
        place: &Place,
        request: &Request<B>,
    ) -> Result<Response<Body>, Trouble> {
        let conditions = Conditions::of(request.method(), request.headers());
        let reply = self.rooms.goproxy.serve_read(wanted, place, SystemTime::now()).await?;
        Ok(self.rooms.modules.answer(reply, &conditions))
    }

    async fn admitted<B>(&self, door: &Door, request: &Request<B>) -> Result<Client, Trouble> {
        let authorization = request.headers().get(header::PROXY_AUTHORIZATION).map(HeaderValue::as_bytes);
        self.prove(door.ends, authorization).await;
        Ok(self.rooms.admission.client(door.ends, authorization)?)
    }

    /// Finds out about credentials that were not seen before; hashing has threads of its own, and few.
    async fn prove(&self, ends: Ends, authorization: Option<&[u8]>) {
        let Some(proof) = self.rooms.admission.unproven(ends, authorization) else { return };
        let Some(turn) = self.rooms.hashing.take(unwrap_mapped(ends.peer.ip())).await else { return };
        // Not proven where it fails: then nobody is let in by it.
        let _ = tokio::task::spawn_blocking(move || {
            proof.work();
            drop(turn);
        })
        .await;
    }
}

fn http1() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    // The guard has patience of its own, and says so before it closes; it counts the fields, too.
    builder.timer(TokioTimer::new()).header_read_timeout(None).half_close(true);
    builder
}

fn http2() -> hyper::server::conn::http2::Builder<TokioExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).max_concurrent_streams(H2_STREAMS).max_send_buf_size(H2_QUEUE);
    // A client that went without a word is noticed, and its place is free again.
    builder.keep_alive_interval(H2_PING).keep_alive_timeout(classify::HEAD_PATIENCE);
    builder
}

/// The client's socket after our 200, with what it sent early.
async fn taken_over(switching: OnUpgrade) -> Option<(Conduit, Bytes)> {
    let parts = switching.await.ok()?.downcast::<TokioIo<Guarded<Edge>>>().ok()?;
    let (edge, held) = parts.io.into_inner().into_parts();
    let early = if held.is_empty() { parts.read_buf } else { [parts.read_buf, held].concat().into() };
    Some((edge.into_inner(), early))
}

/// Carries what two sides say that have switched protocols; what either said early comes first.
async fn carry(tunnels: Tunnels, near: OnUpgrade, far: OnUpgrade, side: Side, later: Later) {
    let (Ok(near), Ok(far)) = tokio::join!(near, far) else { return };
    let (mut near, mut far) = (TokioIo::new(near), TokioIo::new(far));
    let carried = tunnels.carry(&mut near, &mut far).await;
    if carried.ending == Ending::Reset {
        side.cut.iter().for_each(Cut::tell);
    }
    later.over(carried.up, carried.down);
}

/// Returns when a client has left; one that has merely finished sending is given so long.
async fn gone(keeper: &Keeper, patience: Duration) {
    tokio::time::sleep(still_listens(keeper.left().await, patience)).await;
}

/// How long one that has left may still listen: not at all, or as one that has merely finished sending.
fn still_listens(left: Left, patience: Duration) -> Duration {
    match left {
        Left::Reset => Duration::ZERO,
        Left::Finished => patience,
    }
}

/// A body for HTTP/1.0, where its end is the connection's: one that breaks off ends in a reset.
fn cutting(body: Body, cut: Cut) -> Body {
    if body.is_end_stream() {
        body
    } else {
        body.map_err(move |error| {
            cut.tell();
            error
        })
        .boxed_unsync()
    }
}

/// What was read of a stream that is passed on, and the stream itself, which a tunnel can splice where it is bare.
fn whole(stream: Replayed<Replayed<Conduit>>) -> (Bytes, Conduit) {
    let (looked_at, stream) = stream.into_parts();
    let (unread, stream) = stream.into_parts();
    let early = if unread.is_empty() { looked_at } else { [looked_at, unread].concat().into() };
    (early, stream)
}

/// A request as the status page shows it: no query string, no credentials.
fn seen(method: &Method, base: &Base, path: &str) -> String {
    format!("{method} {}{}{}", base.authority(), base.path, path.split('?').next().unwrap_or_default())
}

fn certificates(pem: String) -> Response<Body> {
    let mut response = Response::new(fetch::full(pem));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-pem-file"));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use tokio::io::AsyncWriteExt;

    use super::*;

    const PIECE: u64 = 16 << 10;

    /// An answer without end, and how much of it was taken.
    fn endless(taken: Arc<AtomicU64>) -> Body {
        let pieces = stream::repeat_with(move || {
            taken.fetch_add(PIECE, Ordering::Relaxed);
            Ok(Frame::data(Bytes::from_static(&[7; PIECE as usize])))
        });
        StreamBody::new(pieces).boxed_unsync()
    }

    /// HTTP/2 as somebody begins it who allows all windows, and asks so many times (RFC 9113 sections 3.4 and 6;
    /// RFC 7541, appendix A).
    fn greedy(asks: u32) -> Vec<u8> {
        let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
            [&[0, 0, payload.len() as u8, kind, flags][..], &stream.to_be_bytes(), payload].concat()
        };
        let largest = (1u32 << 31) - 1;
        let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        sent.extend(frame(4, 0, 0, &[&[0, 4][..], &largest.to_be_bytes()].concat()));
        sent.extend(frame(8, 0, 0, &(largest - 65_535).to_be_bytes()));
        let get = [&[0x82, 0x84, 0x87, 0x41, 1][..], b"a"].concat();
        sent.extend((0..asks).flat_map(|ask| frame(1, 5, 2 * ask + 1, &get)));
        sent
    }

    /// Windows are the client's to open, and 250 answers had 400 KiB each queued for one that read nothing.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_has_us_hold_little() {
        let (mut far, near) = tokio::io::duplex(64 << 10);
        let (taken, asked) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (giving, counting) = (Arc::clone(&taken), Arc::clone(&asked));
        let service = service_fn(move |_: Request<Incoming>| {
            counting.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Ok::<_, Infallible>(Response::new(endless(Arc::clone(&giving)))))
        });
        tokio::spawn(http2().serve_connection(TokioIo::new(near), service));
        far.write_all(&greedy(400)).await.unwrap();
        // Time passes once nobody has anything left to do.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(asked.load(Ordering::Relaxed), u64::from(H2_STREAMS));
        let most = u64::from(H2_STREAMS) * (H2_QUEUE as u64 + 2 * PIECE);
        let held = taken.load(Ordering::Relaxed);
        assert!((most / 2..=most).contains(&held), "{held} bytes, and {most} at most");
    }
}
