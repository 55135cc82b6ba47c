//! Addresses to a stream: the only place where sockets are opened on a client's behalf, and only
//! with its [`Permit`].
//!
//! [`Connector::dial`] gives a bare connection (for tunnels), [`Connector::dial_tls`] one that has
//! shaken hands as the right host. Both drive a `resolve::Search`: each batch of addresses is
//! judged by the permit, raced, and how it fared is reported back, so an answer whose addresses are
//! dead or show somebody else's certificate sends the look-up to its next tier within the same
//! call. A parent proxy, where there is one, is given the name instead.

mod parent;
mod patterns;
mod race;
mod recent;
mod tls;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::client::TlsStream;

pub use parent::{BadParent, Parent, Parents, Way};
use recent::Recent;
pub use tls::{Error as RootsError, Offer, Tls, read_roots, speaks_h2};

use crate::admit::{Heard, Judged, Permit, Refusal};
use crate::metrics::{By, Counter, Family, Label, Registry};
use crate::resolve::{self, Fate, Found, Resolver};
use crate::socket::{self, Conduit};
use crate::target::{Host, Name, Scheme, Target};
use crate::trace::{self, Peer, Phase};

/// All of resolving, connecting and shaking hands: go waits 60 s for the answer to a CONNECT.
const BUDGET: Duration = Duration::from_secs(50);

/// How long a server may take over TLS: less than the 10 s that go gives one (net/http, transport.go,
/// TLSHandshakeTimeout), so that whoever waits in its place has something to tell.
const HANDSHAKE: Duration = Duration::from_secs(8);

/// How long to wait for a file to become free before the next try: some connection ends meanwhile.
const NO_FILES: Duration = Duration::from_millis(50);

/// What an operator may say about the way out.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Files of roots to trust beside the platform's (`fetch.extra_roots`).
    pub extra_roots: Vec<PathBuf>,
    pub parents: Parents,
}

/// The way out. Cloning gives another handle.
#[derive(Clone)]
pub struct Connector {
    inner: Arc<Inner>,
}

struct Inner {
    resolver: Resolver,
    tls: Tls,
    parents: Parents,
    /// Our entry in `Via`, for parents.
    via: String,
    attempts: Family<By<Attempt>, Counter>,
    recent: Recent,
}

/// A stream to where the permit allows.
#[derive(Debug)]
pub struct Dialed<S> {
    pub stream: S,
    /// Who is at the other end; the parent, where one stands between.
    pub peer: Peer,
}

impl<S> Dialed<S> {
    fn map<T>(self, change: impl FnOnce(S) -> T) -> Dialed<T> {
        Dialed { stream: change(self.stream), peer: self.peer }
    }
}

impl Dialed<TcpStream> {
    fn bare(self) -> Dialed<Conduit> {
        self.map(Conduit::from)
    }
}

impl Dialed<TlsStream<TcpStream>> {
    fn wrapped(self) -> Dialed<Conduit> {
        self.map(|stream| Box::new(stream).into())
    }
}

impl Connector {
    /// Loads the roots; dials nothing yet. `pseudonym` is what parents know us by.
    pub fn new(
        config: Config,
        resolver: Resolver,
        pseudonym: &str,
        registry: &Registry,
    ) -> Result<Connector, tls::Error> {
        let tls = Tls::new(&config.extra_roots)?;
        let attempts = Family::default();
        registry.room("connect", |families| {
            families.register("attempts", "Connection attempts, by outcome", Family::clone(&attempts));
        });
        let via = format!("1.1 {pseudonym}");
        Ok(Connector {
            inner: Arc::new(Inner { resolver, tls, parents: config.parents, via, attempts, recent: Recent::default() }),
        })
    }

    /// Has somebody told of each host that asks for a client certificate in a handshake of ours. We show
    /// none.
    pub fn on_certificate_wanted(&self, tell: impl Fn(&Name) + Send + Sync + 'static) {
        self.inner.tls.on_certificate_wanted(Arc::new(tell));
    }

    /// The parent that plain http to this target goes to, for `fetch` to speak absolute form with.
    pub fn http_parent(&self, target: &Target) -> Option<Parent> {
        self.inner.parents.choose(Scheme::Http, target).cloned()
    }

    /// Whether this target is connected to by ourselves, and not by a parent.
    pub fn is_direct(&self, scheme: Scheme, target: &Target) -> bool {
        self.inner.parents.choose(scheme, target).is_none()
    }

    /// Connects, for a tunnel. `before` is the `Via` that the request for it came with: a parent is
    /// told, since only whoever finds its own name there can end a loop of proxies.
    pub async fn dial(&self, permit: &Permit, before: &str) -> Result<Dialed<Conduit>, Error> {
        within_budget(permit, async {
            match self.inner.parents.choose(Scheme::Https, permit.target()) {
                Some(parent) => self.dial_through(parent, permit, before).await,
                None => self.dial_straight(permit).await.map(Dialed::bare),
            }
        })
        .await
    }

    /// Connects for plain http: to the target, or to the parent that such requests go to.
    pub async fn dial_http(&self, permit: &Permit) -> Result<Dialed<Conduit>, Error> {
        within_budget(permit, async {
            match self.inner.parents.choose(Scheme::Http, permit.target()) {
                Some(parent) => self.reach_parent(parent, permit).await,
                None => self.dial_straight(permit).await.map(Dialed::bare),
            }
        })
        .await
    }

    async fn dial_straight(&self, permit: &Permit) -> Result<Dialed<TcpStream>, Error> {
        self.race(permit, |judged| self.connect(judged)).await
    }

    /// Connects and shakes hands as the target's host.
    pub async fn dial_tls(&self, permit: &Permit, offer: Offer) -> Result<Dialed<TlsStream<Conduit>>, Error> {
        within_budget(permit, async {
            let host = &permit.target().host;
            let Some(parent) = self.inner.parents.choose(Scheme::Https, permit.target()) else {
                return self.race(permit, |judged| self.connect_tls(judged, host, offer)).await;
            };
            let dialed = self.dial_through(parent, permit, "").await?;
            let Dialed { stream, peer } = dialed;
            match shake(host, self.inner.tls.handshake(stream, host, offer)).await {
                Ok(stream) => Ok(Dialed { stream, peer }),
                Err(miss) => Err(Error::unreachable(permit, vec![(peer.address, miss)])),
            }
        })
        .await
    }

    /// From now on it is known which connections were just made.
    pub fn keep_recent(&self) {
        self.inner.recent.keep();
    }

    /// Whether what comes from here is a connection that we have just made ourselves.
    pub fn has_just_dialled_from(&self, peer: SocketAddr) -> bool {
        self.inner.recent.has(peer, Instant::now())
    }

    async fn connect(&self, judged: Judged) -> Result<TcpStream, Miss> {
        let running = trace::start(Phase::Connect, || judged.address().to_string());
        let outcome = connect_when_able(judged.address()).await;
        running.end(&outcome);
        if let Ok(stream) = &outcome {
            self.inner.recent.note(|| stream.local_addr().ok(), Instant::now());
        }
        self.count(outcome.as_ref().map_or_else(Miss::attempt, |_| Attempt::Connected));
        outcome
    }

    async fn connect_tls(&self, judged: Judged, host: &Host, offer: Offer) -> Result<TlsStream<Conduit>, Miss> {
        let stream = self.connect(judged).await?;
        let outcome = shake(host, self.inner.tls.handshake(stream.into(), host, offer)).await;
        self.count(outcome.as_ref().map_or_else(Miss::attempt, |_| Attempt::Verified));
        outcome
    }

    fn count(&self, attempt: Attempt) {
        self.inner.attempts.get_or_create(&By(attempt)).inc();
    }

    /// Races attempts over batch after batch of the target's addresses.
    async fn race<S, F>(&self, permit: &Permit, attempt: impl Fn(Judged) -> F) -> Result<Dialed<S>, Error>
    where
        S: Secured,
        F: Future<Output = Result<S, Miss>>,
    {
        let name = match &permit.target().host {
            Host::Addr(address) => {
                // Through the network's NAT64 it leads to what it embeds, wherever that is.
                permit.judge(self.inner.resolver.behind(*address).await, Heard::Literal)?;
                let judged = permit.judge(*address, Heard::Literal)?;
                let race = race::race(vec![judged], attempt).await;
                return finish(permit, race, "its own text");
            }
            Host::Name(name) => name,
        };
        let mut search = self.inner.resolver.search(name);
        let mut tried = Vec::new();
        let mut refused = None;
        loop {
            let found = match trace::timed(Phase::Resolve, || name.to_string(), search.next()).await {
                Ok(found) => found,
                Err(_) if !tried.is_empty() => return Err(Error::unreachable(permit, tried)),
                Err(failure) => return Err(refused.map_or(Error::Unresolved(failure), Error::Refused)),
            };
            let judged = judge_all(permit, &found, &mut refused);
            let race = race::race(judged, &attempt).await;
            for (judged, miss) in race.losers.iter().filter(|(_, miss)| !miss.is_ours()) {
                search.report(judged.address().ip(), miss.fate());
            }
            if let Some((judged, stream)) = race.winner {
                search.report(judged.address().ip(), S::FATE);
                return Ok(Dialed { stream, peer: Peer { address: judged.address(), heard_from: heard_from(&found) } });
            }
            tried.extend(race.losers.into_iter().map(|(judged, miss)| (judged.address(), miss)));
        }
    }

    async fn dial_through(&self, parent: &Parent, permit: &Permit, before: &str) -> Result<Dialed<Conduit>, Error> {
        let by_name = self.ask_parent(parent, permit, &permit.target().to_string(), before).await;
        let Host::Name(name) = &permit.target().host else { return by_name };
        match by_name {
            Err(Error::Parent { error, .. }) if error.may_be_about_the_name() => {
                let by_parent = Error::Parent { parent: parent.to_string(), error };
                let mut refused = None;
                // Where we know no better, what the parent said is what is to be told.
                let mut search = self.inner.resolver.search(name);
                let found = trace::timed(Phase::Resolve, || name.to_string(), search.next()).await;
                let Ok(found) = found else { return Err(by_parent) };
                let judged = judge_all(permit, &found, &mut refused);
                let Some(first) = judged.first() else { return Err(refused.map_or(by_parent, Error::Refused)) };
                self.ask_parent(parent, permit, &first.address().to_string(), before).await
            }
            outcome => outcome,
        }
    }

    async fn ask_parent(
        &self,
        parent: &Parent,
        permit: &Permit,
        target: &str,
        before: &str,
    ) -> Result<Dialed<Conduit>, Error> {
        let own = &self.inner.via;
        let via = if before.is_empty() { own.clone() } else { format!("{before}, {own}") };
        let dialed = self.reach_parent(parent, permit).await?;
        let Dialed { stream, peer } = dialed;
        let opening = timeout(BUDGET, parent.open(stream, target, &via));
        let opened = trace::timed(Phase::Connect, || format!("{target} by {parent}"), opening).await;
        let failed = |error| Error::Parent { parent: parent.to_string(), error };
        let stream = opened.map_err(|_| failed(parent::Error::Broken("no answer".to_owned())))?.map_err(failed)?;
        Ok(Dialed { stream, peer })
    }

    /// A connection to a parent, within TLS where its URL says so.
    async fn reach_parent(&self, parent: &Parent, permit: &Permit) -> Result<Dialed<Conduit>, Error> {
        let way = permit.to_parent(&parent.base.target);
        let host = &parent.base.target.host;
        // Boxed: a parent is dialled by the same code that is asking for it.
        let dialed = match parent.base.scheme {
            Scheme::Http => Box::pin(self.dial_straight(&way)).await.map(Dialed::bare),
            Scheme::Https => {
                let attempt = |judged| async move {
                    let stream = self.connect(judged).await?;
                    shake(host, self.inner.tls.handshake_with_parent(stream, host)).await
                };
                Box::pin(self.race(&way, attempt)).await.map(Dialed::wrapped)
            }
        }?;
        let peer = Peer { heard_from: format!("the parent {parent}"), ..dialed.peer };
        Ok(Dialed { stream: dialed.stream, peer })
    }
}

/// Connects to one address. Where no file is left to open, which is no address's fault, one is waited for.
async fn connect_when_able(address: SocketAddr) -> Result<TcpStream, Miss> {
    let end = Instant::now() + race::ATTEMPT;
    loop {
        match timeout_at(end, socket::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if socket::is_short_of_files(&error) => match end - Instant::now() {
                Duration::ZERO => return Err(Miss::NoFiles),
                left => sleep(left.min(NO_FILES)).await,
            },
            Ok(Err(error)) => return Err(Miss::from_io(&error)),
            Err(_) => return Err(Miss::Silent),
        }
    }
}

/// Shakes hands, and no longer than anybody should take over it.
async fn shake<S>(host: &Host, handshake: impl Future<Output = Result<S, tls::Error>>) -> Result<S, Miss> {
    let bounded = async {
        let shaken = timeout(HANDSHAKE, handshake).await;
        shaken.map_err(|_| Miss::Silent).and_then(|outcome| outcome.map_err(Miss::Tls))
    };
    trace::timed(Phase::Tls, || host.to_string(), bounded).await
}

async fn within_budget<S>(
    permit: &Permit,
    dialing: impl Future<Output = Result<Dialed<S>, Error>>,
) -> Result<Dialed<S>, Error> {
    permit.leave()?;
    match timeout(BUDGET, dialing).await {
        Ok(outcome) => outcome.inspect(|dialed| {
            if let Some(trace) = trace::current() {
                trace.reach(dialed.peer.clone());
            }
        }),
        Err(_) => Err(Error::Deadline { target: permit.target().clone() }),
    }
}

fn finish<S>(permit: &Permit, race: race::Race<S, Miss>, heard_from: &str) -> Result<Dialed<S>, Error> {
    match race.winner {
        Some((judged, stream)) => {
            Ok(Dialed { stream, peer: Peer { address: judged.address(), heard_from: heard_from.to_owned() } })
        }
        None => {
            let tried = race.losers.into_iter().map(|(judged, miss)| (judged.address(), miss)).collect();
            Err(Error::unreachable(permit, tried))
        }
    }
}

fn judge_all(permit: &Permit, found: &Found, refused: &mut Option<Refusal>) -> Vec<Judged> {
    let heard = if found.tier.is_inside() { Heard::Inside } else { Heard::Outside };
    let judge = |address: &_| permit.judge(*address, heard).map_err(|refusal| *refused = Some(refusal)).ok();
    found.addresses.iter().filter_map(judge).collect()
}

fn heard_from(found: &Found) -> String {
    let tier = found.tier.label();
    match &found.source {
        Some(source) => format!("{} ({tier}, {})", source.server, found.freshness.label()),
        None => format!("{tier}, {}", found.freshness.label()),
    }
}

/// What a won race proves about the address.
trait Secured {
    const FATE: Fate;
}

impl Secured for TcpStream {
    const FATE: Fate = Fate::Connected;
}

impl<S> Secured for TlsStream<S> {
    const FATE: Fate = Fate::Verified;
}

/// Why one address gave no stream.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Miss {
    #[error("refused")]
    Refused,
    #[error("no route")]
    NoRoute,
    #[error("no answer")]
    Silent,
    #[error("no open file is left to goanyway: raise its limit (ulimit -n)")]
    NoFiles,
    #[error("{0}")]
    Tls(tls::Error),
    #[error("{0}")]
    Other(String),
}

impl Miss {
    fn from_io(error: &io::Error) -> Miss {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Miss::Refused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Miss::NoRoute,
            io::ErrorKind::TimedOut => Miss::Silent,
            _ => Miss::Other(error.to_string()),
        }
    }

    /// Whether it says nothing about the address.
    fn is_ours(&self) -> bool {
        matches!(self, Miss::NoFiles)
    }

    fn fate(&self) -> Fate {
        match self {
            Miss::Tls(tls::Error::Untrusted(_)) => Fate::Distrusted,
            _ => Fate::Unreachable,
        }
    }

    fn attempt(&self) -> Attempt {
        match self {
            Miss::Refused => Attempt::Refused,
            Miss::NoRoute => Attempt::NoRoute,
            Miss::Silent => Attempt::Silent,
            Miss::Tls(tls::Error::Untrusted(_)) => Attempt::Untrusted,
            Miss::NoFiles => Attempt::NoFiles,
            Miss::Tls(_) | Miss::Other(_) => Attempt::Broken,
        }
    }
}

/// What came of one attempt, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attempt {
    Connected,
    Verified,
    Refused,
    NoRoute,
    Silent,
    Untrusted,
    NoFiles,
    Broken,
}

impl Label for Attempt {
    fn label(&self) -> &'static str {
        match self {
            Attempt::Connected => "connected",
            Attempt::Verified => "verified",
            Attempt::Refused => "refused",
            Attempt::NoRoute => "no_route",
            Attempt::Silent => "silent",
            Attempt::Untrusted => "untrusted",
            Attempt::NoFiles => "no_files",
            Attempt::Broken => "broken",
        }
    }
}

/// Why there is no stream.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The ladder found no address.
    #[error("{0}")]
    Unresolved(resolve::Failure),
    /// Addresses there were, but none that this client may reach.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// Every address was tried in vain; the first few with what they did.
    #[error("cannot connect to {target}: {}", list(tried))]
    Unreachable { target: Target, tried: Vec<(SocketAddr, Miss)> },
    #[error("cannot connect to {target}: not done within {} s", BUDGET.as_secs())]
    Deadline { target: Target },
    #[error("the parent proxy {parent}: {error}")]
    Parent { parent: String, error: parent::Error },
}

impl Error {
    fn unreachable(permit: &Permit, tried: Vec<(SocketAddr, Miss)>) -> Error {
        Error::Unreachable { target: permit.target().clone(), tried }
    }

    /// What a parent said to a plain http request that was for ourselves to hear.
    pub fn of_parent(parent: &Parent, status: http::StatusCode) -> Error {
        let reason = status.canonical_reason().unwrap_or_default().to_owned();
        Error::Parent { parent: parent.to_string(), error: parent::Error::Refused { status: status.as_u16(), reason } }
    }

    /// Whether nobody answered at all, as opposed to somebody answering badly.
    pub fn is_silence(&self) -> bool {
        match self {
            Error::Unresolved(failure) => failure.is_silence(),
            Error::Unreachable { tried, .. } => tried.iter().all(|(_, miss)| matches!(miss, Miss::Silent)),
            Error::Deadline { .. } => true,
            Error::Refused(_) | Error::Parent { .. } => false,
        }
    }
}

fn list(tried: &[(SocketAddr, Miss)]) -> String {
    const SHOWN: usize = 3;
    let mut parts: Vec<_> = tried.iter().take(SHOWN).map(|(at, miss)| format!("{} {miss}", at.ip())).collect();
    if tried.len() > SHOWN {
        parts.push(format!("and {} more", tried.len() - SHOWN));
    }
    parts.join(", ")
}
