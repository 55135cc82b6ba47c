//! Ending TLS in an origin's place, for the few hosts that serve modules, and only for clients that
//! said that they trust our CA.
//!
//! The promise is *never worse than without*: go does not retry, so one handshake that fails on an
//! unknown CA is a failed build. [`Interceptor::stance`] says before anything is answered whether a
//! client is intercepted at a host or tunnelled, and why; [`Interceptor::terminate`] reads the
//! ClientHello, and whatever is not plainly ours to answer comes back with its bytes, to be tunnelled
//! after all. Who refuses our certificate nevertheless, in the handshake or right after it, is tunnelled there for
//! an hour.
//!
//! The CA cannot hurt ([`Authority`]). While it is rotated, the client's word chooses between the
//! chains; another process may rotate it, and we hear of that. Nothing is inferred about a client, of
//! origins we are told one thing ([`Interceptor::learn_client_certificates`]), and nothing is dialled.

mod authority;
mod chains;
mod error;
mod folder;
mod hello;
mod hosts;
mod leaves;
mod look;
mod notice;
mod offer;
mod rejections;
mod replay;
mod sheet;
mod stance;
mod word;

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use lru::LruCache;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{Accepted, ClientHello, NoServerSessionStorage, ResolvesServerCert, ResolvesServerCertUsingSni};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

pub use authority::{Authority, Earlier, Health, IfThere, Making, digest, fingerprint, is_bounded_to, write_date};
pub use error::Error;
pub use hosts::{BadPattern, HostPattern};
pub use look::{Look, look};
pub use notice::Notice;
pub use replay::Replayed;
pub use stance::{Stance, Why};
pub use word::Word;

use crate::metrics::{By, Counter, Family, Live, Registry, one};
use crate::target::{Host, Name, unwrap_mapped};
use crate::trace::Restraint;
use chains::{Chain, Chains};
use hello::Opening;
use rejections::Rejections;
use stance::Outcome;

/// Who is to be served, and where.
struct Guest<'a> {
    host: &'a Name,
    client: IpAddr,
    user: Option<&'a str>,
    now: SystemTime,
}

/// What an operator may say about interception.
#[derive(Clone, Debug)]
pub struct Config {
    /// The CA's folder (`intercept.ca_dir`).
    pub ca_dir: PathBuf,
    /// Whether the operator named it: then it must be usable, while a default folder need not.
    pub ca_dir_named: bool,
    /// Whose TLS is ended (`intercept.hosts`).
    pub hosts: Vec<HostPattern>,
    /// For which clients (`intercept.mode`).
    pub mode: Mode,
    /// Networks whose operator says that its clients trust our CA (`intercept.trusted_by`).
    pub trusted_by: Vec<IpNet>,
    /// Where what was learnt is kept (`state_dir`); nowhere, if it cannot be written.
    pub state_dir: Option<PathBuf>,
}

/// Which clients are intercepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Those that say that they trust our CA, or whose network's operator does.
    #[default]
    Auto,
    /// All of them.
    Always,
    /// None.
    Off,
}

/// A connection whose TLS was looked at.
#[derive(Debug)]
pub enum Terminated<S> {
    /// Ended here: what the client says in it, in this protocol.
    Tls { stream: Box<TlsStream<S>>, alpn: Alpn },
    /// Not ours to end: a tunnel, whose first bytes are given again.
    Passed { stream: Replayed<S>, why: Why },
}

/// The HTTP that was agreed upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    Http1,
    Http2,
}

/// What is to be said of the CA at some time.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// None where nobody is intercepted.
    pub ca: Option<Ca>,
    pub notices: Vec<Notice>,
}

/// The CA in use.
#[derive(Clone, Debug)]
pub struct Ca {
    pub fingerprint: String,
    pub ends: SystemTime,
}

/// Decides who is intercepted, and does it. Cloning gives another handle to the same memory.
#[derive(Clone)]
pub struct Interceptor {
    room: Arc<Room>,
}

struct Room {
    config: Config,
    // Replaced whole when the CA was rotated; locked to take a handle.
    chains: RwLock<Option<Arc<Chains>>>,
    // When the CA's folder was looked at last, and what it was like.
    looked: Mutex<(Instant, Option<folder::Stamp>)>,
    // What all handshakes share; each gets a copy that knows its own leaf.
    tls: ServerConfig,
    rejections: Rejections,
    /// On what is said of clients.
    restraint: Restraint,
    signed: Counter,
    // Foreign fingerprints that were logged; bounded, because a stranger picks them.
    said: Mutex<LruCache<String, ()>>,
    stances: Family<By<Stance>, Counter>,
    handshakes: Family<By<Outcome>, Counter>,
}

impl Interceptor {
    /// Loads the CA, or makes one where there is none. What the operator should be told comes with it.
    /// Reads and writes files: for the start, not for a worker.
    pub fn open(config: Config, now: SystemTime, registry: &Registry) -> Result<(Interceptor, Vec<Notice>), Error> {
        let (signed, stances, handshakes) = (Counter::default(), Family::default(), Family::default());
        let mut notices = Vec::new();
        let stamp = folder::stamp(&config.ca_dir);
        let chains = find_chains(&config, now, &signed, &mut notices)?;
        if let Some(chains) = &chains {
            notice::inspect(chains, &config, now, &mut notices);
        }
        registry.room("intercept", |families| {
            families.register("leaves_signed", "Leaf certificates signed", signed.clone());
            families.register("stances", "Connections by what was decided about their TLS", Family::clone(&stances));
            families.register("handshakes", "Connections to intercept, by how it went", Family::clone(&handshakes));
        });
        let room = Room {
            rejections: Rejections::open(config.state_dir.as_deref(), now),
            restraint: Restraint::default(),
            config,
            // A CA that was made just now is looked at once more, which costs nothing.
            looked: Mutex::new((Instant::now(), stamp)),
            chains: RwLock::new(chains.map(Arc::new)),
            tls: common_tls()?,
            signed,
            said: Mutex::new(LruCache::new(SAID)),
            stances,
            handshakes,
        };
        let interceptor = Interceptor { room: Arc::new(room) };
        interceptor.show(registry);
        Ok((interceptor, notices))
    }

    /// What to do with TLS to `host` from this client, whose proxy URL has this user.
    pub fn stance(&self, client: IpAddr, user: Option<&str>, host: &Host, now: SystemTime) -> Stance {
        self.look_again();
        let stance = self.room.object(unwrap_mapped(client), user, host, now).map_or(Stance::Intercept, Stance::Tunnel);
        self.room.stances.get_or_create(&By(stance)).inc();
        stance
    }

    /// Reads the ClientHello and ends the TLS in `host`'s place, or gives everything back. Not
    /// a byte is answered on a connection that is passed on.
    pub async fn terminate<S>(
        &self,
        stream: S,
        host: &Name,
        client: IpAddr,
        user: Option<&str>,
        now: SystemTime,
    ) -> Result<Terminated<S>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let ended = self.end_tls(stream, &Guest { host, client: unwrap_mapped(client), user, now }).await;
        match &ended {
            Err(learnt) if learnt.is_learnt() && self.room.restraint.may_say(client, "refused our certificate") => {
                tracing::info!(%client, user, "{learnt}");
            }
            Err(ours @ Error::Sign(_)) => tracing::error!(%host, error = %ours, "cannot intercept"),
            _ => {}
        }
        self.room.handshakes.get_or_create(&By(Outcome::of(&ended))).inc();
        ended
    }

    /// This host asked us for a client certificate, which only a client of its own can show: it is
    /// tunnelled from now on.
    pub fn learn_client_certificates(&self, host: &Name, now: SystemTime) {
        if self.room.config.hosts.iter().any(|pattern| pattern.matches(host)) {
            tracing::info!(%host, "it asks for client certificates, so it is tunnelled from now on");
            self.room.rejections.remember_host(host, now);
        }
    }

    /// The root certificate, as `/ca.pem` gives it; during a rotation the new one, then those before it.
    pub fn root_pem(&self) -> Option<String> {
        self.look_again();
        Some(self.room.chains()?.roots().map(Authority::root_pem).collect())
    }

    /// The system's roots and ours, as `/ca-bundle.pem` gives them. Nothing where either is missing: a
    /// bundle *replaces* a client's roots, so one with ours alone would break everything else. Reads
    /// files: not for a worker.
    pub fn bundle_pem(&self) -> Option<String> {
        let chains = self.room.chains()?;
        system_bundle(&chains.roots().map(|authority| authority.root().clone()).collect::<Vec<_>>())
    }

    /// The first eight hexadecimal digits of the root's SHA-256.
    pub fn fingerprint(&self) -> Option<String> {
        Some(self.room.chains()?.current().fingerprint().to_owned())
    }

    /// The CA as it is now, and what an operator should know of it.
    pub fn report(&self, now: SystemTime) -> Report {
        self.look_again();
        let Some(chains) = self.room.chains() else { return Report::default() };
        let mut notices = Vec::new();
        notice::inspect(&chains, &self.room.config, now, &mut notices);
        let authority = chains.current();
        let ca = Ca { fingerprint: authority.fingerprint().to_owned(), ends: authority.ends() };
        Report { ca: Some(ca), notices }
    }

    /// Lets scrapers see when the CA ends.
    fn show(&self, registry: &Registry) {
        let room = Arc::downgrade(&self.room);
        let read = move || {
            let ends = room.upgrade().and_then(|room| Some(room.chains()?.current().ends()));
            let seconds = ends.and_then(|ends| ends.duration_since(SystemTime::UNIX_EPOCH).ok());
            one(seconds.map(|since| since.as_secs() as f64))
        };
        let help = "When the first certificate of the CA in use ends, in seconds since 1970";
        registry.room("intercept", |families| {
            families.register_collector(Live::gauge("ca_not_after_timestamp_seconds", help, read));
        });
    }

    /// Has the CA's folder looked at, off the worker: another process may have rotated the CA.
    fn look_again(&self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.room.is_time_to_look() {
            let room = Arc::clone(&self.room);
            runtime.spawn_blocking(move || room.look(SystemTime::now()));
        }
    }

    async fn end_tls<S>(&self, mut stream: S, guest: &Guest<'_>) -> Result<Terminated<S>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let deadline = Instant::now() + PATIENCE;
        let mut kept = Vec::new();
        let opening = match hello::await_hello(&mut stream, &mut kept, Instant::now() + SILENCE, deadline).await {
            Ok(opening) => opening?,
            Err(_) if kept.is_empty() => Opening::Other(Why::Silent),
            Err(_) => return Err(Error::Slow),
        };
        let passed = |kept, stream, why| Ok(Terminated::Passed { stream: Replayed::new(kept, stream), why });
        let accepted = match opening {
            Opening::Hello(accepted) => accepted,
            Opening::Other(why) => return passed(kept, stream, why),
        };
        let chain = match self.room.choose(&Word::of(guest.user), guest.host, guest.now) {
            Ok(chain) => chain,
            Err(why) => return passed(kept, stream, why),
        };
        if let Some(why) = hello::object(&accepted.client_hello(), &kept, guest.host, self.provider()) {
            return passed(kept, stream, why);
        }
        drop(kept);
        let leaf = chain.leaves.find(&chain.authority, guest.host, guest.now)?;
        self.shake_hands(*accepted, stream, leaf, guest, deadline).await
    }

    async fn shake_hands<S>(
        &self,
        accepted: Accepted,
        stream: S,
        leaf: Arc<CertifiedKey>,
        guest: &Guest<'_>,
        deadline: Instant,
    ) -> Result<Terminated<S>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let showing = Arc::new(OneLeaf { leaf, shown: AtomicBool::new(false) });
        let mut tls = self.room.tls.clone();
        tls.cert_resolver = Arc::clone(&showing) as Arc<dyn ResolvesServerCert>;
        let shaking = StartHandshake::from_parts(accepted, stream).into_stream(Arc::new(tls)).into_fallible();
        match timeout_at(deadline, shaking).await {
            Err(_) => Err(Error::Slow),
            Ok(Ok(stream)) => self.hear(Box::new(stream), guest).await,
            Ok(Err((failed, stream))) => {
                let why = self.room.learn(showing.explain(guest.host, &failed), is_said(&failed), guest);
                // Only now: a client that sees the end and comes back at once must be known already.
                drop(stream);
                Err(why)
            }
        }
    }

    /// Waits for the client's first word, which is left to be read. Some look at a certificate only when the
    /// handshake is over (GnuTLS leaves that to its user), and leave then; and in TLS 1.3 whoever has a
    /// certificate to refuse may say so after its Finished.
    async fn hear<S>(&self, mut stream: Box<TlsStream<S>>, guest: &Guest<'_>) -> Result<Terminated<S>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let host = || guest.host.clone();
        let first = timeout(FIRST_WORD, stream.fill_buf()).await.map(|first| first.map(<[u8]>::is_empty));
        let (why, is_said) = match first {
            // Whoever takes its time has something to say.
            Err(_) | Ok(Ok(false)) => {
                self.room.rejections.trust(guest.client, guest.user, guest.host, guest.now);
                let alpn = Alpn::of(stream.get_ref().1.alpn_protocol());
                return Ok(Terminated::Tls { stream, alpn });
            }
            Ok(Err(failed)) if is_said(&failed) => (Error::Rejected { host: host(), said: failed.to_string() }, true),
            Ok(Ok(true) | Err(_)) => (Error::Wordless { host: host() }, false),
        };
        let why = self.room.learn(why, is_said, guest);
        drop(stream);
        Err(why)
    }

    fn provider(&self) -> &CryptoProvider {
        self.room.tls.crypto_provider()
    }
}

impl Room {
    /// Remembers who refused our certificate. One that left without a word, `is_said` knows, did so as well, unless
    /// it speaks elsewhere: go dials as often as it has requests, and closes all but one once that one has HTTP/2.
    fn learn(&self, why: Error, is_said: bool, guest: &Guest<'_>) -> Error {
        let Guest { host, client, user, now } = *guest;
        match why {
            Error::Rejected { .. } | Error::Wordless { .. } if !is_said => {
                let is_refusal = self.rejections.suspect(client, user, host, now);
                if is_refusal { why } else { Error::Spare { host: host.clone() } }
            }
            Error::Rejected { .. } | Error::Handshake { .. } => {
                self.rejections.remember(client, user, host, now);
                why
            }
            why => why,
        }
    }

    /// What speaks against intercepting, in the order of what is known first.
    fn object(&self, client: IpAddr, user: Option<&str>, host: &Host, now: SystemTime) -> Option<Why> {
        if self.config.mode == Mode::Off {
            return Some(Why::ModeOff);
        }
        let Host::Name(host) = host else { return Some(Why::IpTarget) };
        if !self.config.hosts.iter().any(|pattern| pattern.matches(host)) {
            return Some(Why::NotListed);
        }
        let word = Word::of(user);
        if word == Word::Nothing && !self.speaks_for(client) {
            return Some(Why::SaysNothing);
        }
        if let Err(why) = self.choose(&word, host, now) {
            if let (Why::OtherCa, Word::Named(fingerprint)) = (why, &word) {
                self.say_other(client, fingerprint);
            }
            return Some(why);
        }
        self.rejections.object(client, user, host)
    }

    /// Whether an operator says of a client without a word that it trusts our CA.
    fn speaks_for(&self, client: IpAddr) -> bool {
        self.config.mode == Mode::Always || self.config.trusted_by.iter().any(|net| net.contains(&client))
    }

    fn choose(&self, word: &Word<'_>, host: &Name, now: SystemTime) -> Result<Arc<Chain>, Why> {
        self.chains().ok_or(Why::NoCa)?.choose(word, host, now).map(Arc::clone)
    }

    fn chains(&self) -> Option<Arc<Chains>> {
        self.chains.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_time_to_look(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = looked.0.elapsed() >= LOOK_EVERY;
        if due {
            looked.0 = Instant::now();
        }
        due
    }

    /// Takes over a CA that another process made. What is not in order there is said, and what we have stays.
    fn look(&self, now: SystemTime) {
        let Some(before) = self.chains() else { return };
        let stamp = folder::stamp(&self.config.ca_dir);
        {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if stamp.is_none() || looked.1 == stamp {
                return;
            }
            looked.1 = stamp;
        }
        match Chains::load(&self.config.ca_dir, now, &self.signed) {
            Ok(Some((chains, broken))) => {
                let (ours, earlier) = (chains.current().fingerprint().to_owned(), chains.earlier().len());
                if ours != before.current().fingerprint() {
                    tracing::info!(earlier, "the CA was rotated, its fingerprint is {ours} now");
                }
                if let Some(error) = broken {
                    tracing::warn!(%error, "an earlier CA is not in order: its clients are tunnelled");
                }
                *self.chains.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(chains));
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the CA in the folder is not in order: the one before serves on"),
        }
    }

    fn say_other(&self, client: IpAddr, fingerprint: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let fingerprint = fingerprint.to_ascii_lowercase();
        if said.get(&fingerprint).is_none() && self.restraint.may_say(client, "trusts another CA") {
            let ours = self.chains().map_or_else(String::new, |chains| chains.current().fingerprint().to_owned());
            said.put(fingerprint.clone(), ());
            tracing::info!(%client, "a client trusts the CA {fingerprint}, and ours is {ours}: tunnelled; `goanyway env` prints its new settings");
        }
    }
}

/// Shows one leaf, and knows whether it did.
#[derive(Debug)]
struct OneLeaf {
    leaf: Arc<CertifiedKey>,
    shown: AtomicBool,
}

impl ResolvesServerCert for OneLeaf {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.shown.store(true, Ordering::Relaxed);
        Some(Arc::clone(&self.leaf))
    }
}

impl OneLeaf {
    /// Any end after the certificate and before Finished is a refusal of it: clients say so with an
    /// alert, a FIN or a reset, each in its own way.
    fn explain(&self, host: &Name, failed: &std::io::Error) -> Error {
        let (host, said) = (host.clone(), failed.to_string());
        if self.shown.load(Ordering::Relaxed) {
            return Error::Rejected { host, said };
        }
        match failed.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(_) => Error::Handshake { host, said },
            None => Error::Closed,
        }
    }
}

/// Whether an end came with a word on TLS, an alert above all; a FIN and a reset have none.
fn is_said(failed: &std::io::Error) -> bool {
    failed.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

impl Alpn {
    fn of(agreed: Option<&[u8]>) -> Alpn {
        if agreed == Some(b"h2") { Alpn::Http2 } else { Alpn::Http1 }
    }
}

/// Roots as one PEM text, each once, ours last.
pub fn bundle(roots: &[CertificateDer<'_>], ours: &[CertificateDer<'_>]) -> String {
    let mut others: Vec<&[u8]> = roots.iter().filter(|root| !ours.contains(root)).map(AsRef::as_ref).collect();
    others.sort_unstable();
    others.dedup();
    others.into_iter().chain(ours.iter().map(AsRef::as_ref)).map(authority::write_pem).collect()
}

/// The system's roots and ours as one PEM text; nothing, if the system has none. Reads files.
pub fn system_bundle(ours: &[CertificateDer<'_>]) -> Option<String> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!("system roots: {error}");
    }
    if found.certs.is_empty() { None } else { Some(bundle(&found.certs, ours)) }
}

fn find_chains(
    config: &Config,
    now: SystemTime,
    signed: &Counter,
    notices: &mut Vec<Notice>,
) -> Result<Option<Chains>, Error> {
    if config.mode == Mode::Off || config.hosts.is_empty() {
        return Ok(None);
    }
    let notice = match load_or_make(config, now, signed, notices) {
        Ok(chains) => return Ok(Some(chains)),
        Err(why @ Error::ClockBehind { .. }) => Notice::ClockBehind { why: why.to_string() },
        Err(why) if why.is_folder() && !config.ca_dir_named => Notice::Unusable { why: why.to_string() },
        Err(why) => return Err(why),
    };
    notices.push(notice);
    Ok(None)
}

fn load_or_make(
    config: &Config,
    now: SystemTime,
    signed: &Counter,
    notices: &mut Vec<Notice>,
) -> Result<Chains, Error> {
    let dir = &config.ca_dir;
    if let Err(error) = Authority::forget_earlier(dir, now) {
        // A folder that only can be read serves; nobody is served with what is over.
        tracing::debug!(%error, "an earlier CA could not be removed");
    }
    let load = |notices: &mut Vec<Notice>| {
        let loaded = Chains::load(dir, now, signed)?;
        Ok(loaded.map(|(chains, broken)| {
            notices.extend(broken.map(|why| Notice::NoOverlap { why: why.to_string() }));
            chains
        }))
    };
    if let Some(chains) = load(notices)? {
        return Ok(chains);
    }
    match Authority::create(dir, &config.hosts, now, Making::default()) {
        Ok(authority) => {
            notices.push(Notice::Made { dir: dir.clone(), fingerprint: authority.fingerprint().to_owned() });
            Ok(Chains::of(authority, Vec::new(), signed))
        }
        // Another process was faster; what it made is ours too.
        Err(exists @ Error::Exists { .. }) => load(notices)?.ok_or(exists),
        Err(why) => Err(why),
    }
}

/// TLS 1.2 and 1.3, h2 and http/1.1, no session that could be resumed for another host. go never resumes.
fn common_tls() -> Result<ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|why| Error::Sign(why.to_string()))?
        .with_no_client_auth()
        // Replaced for each connection.
        .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
    tls.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    Ok(tls)
}

/// From the first byte awaited to the client's Finished; go itself gives up after 10 s.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who says nothing for so long waits for the server to speak. A TLS client that was only slow is
/// tunnelled, which breaks nothing.
const SILENCE: Duration = Duration::from_secs(3);
/// A client that leaves without a word leaves within so long; a browser that dials ahead keeps its connection for
/// longer.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// How long a rotation by another process may go unnoticed.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
const SAID: NonZeroUsize = NonZeroUsize::new(64).unwrap();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Journal;
    use futures_util::FutureExt;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::client::{ClientConfig, EchGreaseConfig, EchMode, Resumption, WebPkiServerVerifier};
    use rustls::crypto::aws_lc_rs::{default_provider, hpke};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore};
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
    use tokio::task::JoinHandle;
    use tokio_rustls::TlsConnector;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 7, 0, 1));
    const HOST: &str = "goproxy.cn";

    type Serving = JoinHandle<Result<Terminated<DuplexStream>, Error>>;

    struct House {
        interceptor: Interceptor,
        notices: Vec<Notice>,
        registry: Registry,
        dir: tempfile::TempDir,
    }

    fn settings(dir: &std::path::Path, mode: Mode) -> Config {
        let hosts = vec![HOST.parse().unwrap(), "*.corp.example".parse().unwrap()];
        let trusted_by = vec!["10.9.0.0/16".parse().unwrap()];
        Config { ca_dir: dir.join("certs"), ca_dir_named: false, hosts, mode, trusted_by, state_dir: None }
    }

    fn house(mode: Mode) -> House {
        let (dir, registry) = (tempfile::tempdir().unwrap(), Registry::default());
        let (interceptor, notices) =
            Interceptor::open(settings(dir.path(), mode), SystemTime::now(), &registry).unwrap();
        House { interceptor, notices, registry, dir }
    }

    impl House {
        fn stance(&self, client: &str, user: Option<&str>, host: &str) -> Stance {
            let host = Host::parse(host).unwrap();
            self.interceptor.stance(client.parse().unwrap(), user, &host, SystemTime::now())
        }

        fn trusting(&self) -> ClientConfig {
            client(&self.interceptor.root_pem().unwrap())
        }

        /// Ends the TLS of `HOST` at this end of a pipe, in the background.
        fn serve<S>(&self, near: S) -> JoinHandle<Result<Terminated<S>, Error>>
        where
            S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        {
            let interceptor = self.interceptor.clone();
            tokio::spawn(async move { interceptor.terminate(near, &name(HOST), CLIENT, None, SystemTime::now()).await })
        }

        /// Which of our roots vouches for what a client with this user is shown.
        async fn root_shown_to(&self, user: Option<&str>) -> String {
            let (far, near) = duplex(65_536);
            let (interceptor, user) = (self.interceptor.clone(), user.map(str::to_owned));
            let serving = tokio::spawn(async move {
                interceptor.terminate(near, &name(HOST), CLIENT, user.as_deref(), SystemTime::now()).await
            });
            let roots = self.interceptor.root_pem().unwrap();
            let server = || ServerName::try_from(HOST).unwrap();
            let mut stream = TlsConnector::from(Arc::new(client(&roots))).connect(server(), far).await.unwrap();
            stream.write_all(b"word").await.unwrap();
            let _served = serving.await.unwrap().unwrap();
            let chain = stream.get_ref().1.peer_certificates().unwrap();
            let vouches = |pem: &&str| {
                let root = verifier(pem);
                root.verify_server_cert(&chain[0], &chain[1..], &server(), &[], UnixTime::now()).is_ok()
            };
            roots.split_inclusive("-----END CERTIFICATE-----\n").find(vouches).unwrap().to_owned()
        }

        /// Why a connection on which a client sends these bytes, and waits, comes back; all of it must.
        async fn passes(&self, sent: &[u8]) -> Why {
            let (mut far, near) = duplex(65_536);
            far.write_all(sent).await.unwrap();
            let Terminated::Passed { stream, why } = self.serve(near).await.unwrap().unwrap() else {
                panic!("answered")
            };
            let mut answer = [0];
            assert!(far.read(&mut answer).now_or_never().is_none(), "not a byte was answered");
            assert_eq!(stream.into_parts().0, sent);
            why
        }
    }

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn roots_in(pem: &str) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(root.unwrap()).unwrap();
        }
        roots
    }

    fn verifier(pem: &str) -> Arc<WebPkiServerVerifier> {
        let provider = Arc::new(default_provider());
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots_in(pem)), provider).build().unwrap()
    }

    fn client(root_pem: &str) -> ClientConfig {
        let roots = roots_in(root_pem);
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }

    fn hello_of(config: ClientConfig, server: &str) -> Vec<u8> {
        let server = ServerName::try_from(server.to_owned()).unwrap();
        let mut connection = ClientConnection::new(Arc::new(config), server).unwrap();
        let mut hello = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut hello).unwrap();
        }
        hello
    }

    /// A stream that gives one byte at a time.
    #[derive(Debug)]
    struct Dribble(DuplexStream);

    impl AsyncRead for Dribble {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            let mut one = [0];
            let mut small = ReadBuf::new(&mut one);
            std::task::ready!(Pin::new(&mut self.0).poll_read(cx, &mut small))?;
            buf.put_slice(small.filled());
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Dribble {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    /// Shakes hands as the client, speaks a word each way, and says what was agreed upon.
    async fn talk(house: &House, config: &Arc<ClientConfig>) -> (Alpn, ProtocolVersion, HandshakeKind) {
        let (far, near) = duplex(65_536);
        talk_over(house, config, far, near).await
    }

    async fn talk_over<S>(
        house: &House,
        config: &Arc<ClientConfig>,
        far: DuplexStream,
        near: S,
    ) -> (Alpn, ProtocolVersion, HandshakeKind)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let serving = house.serve(near);
        let server = ServerName::try_from(HOST).unwrap();
        let mut theirs = TlsConnector::from(Arc::clone(config)).connect(server, far).await.unwrap();
        theirs.write_all(b"word").await.unwrap();
        let Terminated::Tls { mut stream, alpn } = serving.await.unwrap().unwrap() else { panic!("passed on") };
        let echoing = tokio::spawn(async move {
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.unwrap();
            stream.write_all(&word).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let mut heard = String::new();
        theirs.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "word");
        echoing.await.unwrap();
        let connection = theirs.get_ref().1;
        (alpn, connection.protocol_version().unwrap(), connection.handshake_kind().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_trusts_us_speaks_h2_or_http_1_in_tls_1_3_or_1_2() {
        let house = house(Mode::Auto);
        let (alpn, version, _) = talk(&house, &Arc::new(house.trusting())).await;
        assert_eq!((alpn, version), (Alpn::Http2, ProtocolVersion::TLSv1_3));
        let mut old = house.trusting();
        old.alpn_protocols = Vec::new();
        let (alpn, ..) = talk(&house, &Arc::new(old)).await;
        assert_eq!(alpn, Alpn::Http1);
        assert!(house.registry.text().contains("goanyway_intercept_handshakes_total{outcome=\"done\"} 2"));
        assert!(house.registry.text().contains("goanyway_intercept_leaves_signed_total 1"));
    }

    #[tokio::test(start_paused = true)]
    async fn tls_1_2_is_spoken_and_nothing_is_ever_resumed() {
        let house = house(Mode::Auto);
        let pem = house.interceptor.root_pem().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS12]).unwrap();
        let mut old = builder.with_root_certificates(roots).with_no_client_auth();
        old.resumption = Resumption::in_memory_sessions(8);
        for config in [Arc::new(old), Arc::new(house.trusting())] {
            for _ in 0..2 {
                assert_eq!(talk(&house, &config).await.2, HandshakeKind::Full);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hello_in_one_byte_pieces_and_one_over_16_kib_are_read_whole() {
        let house = house(Mode::Auto);
        let (far, near) = duplex(65_536);
        let (alpn, ..) = talk_over(&house, &Arc::new(house.trusting()), far, Dribble(near)).await;
        assert_eq!(alpn, Alpn::Http2);
        let mut large = house.trusting();
        large.alpn_protocols.extend((0u8..100).map(|number| vec![number; 255]));
        assert!(hello_of(large.clone(), HOST).len() > 20_000);
        let (alpn, ..) = talk(&house, &Arc::new(large)).await;
        assert_eq!(alpn, Alpn::Http2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_refuses_our_certificate_is_tunnelled_for_an_hour() {
        let (house, other) = (house(Mode::Always), house(Mode::Always));
        let (far, near) = duplex(65_536);
        let serving = house.serve(near);
        let server = ServerName::try_from(HOST).unwrap();
        assert!(TlsConnector::from(Arc::new(other.trusting())).connect(server, far).await.is_err());
        let refused = serving.await.unwrap().unwrap_err();
        assert!(matches!(&refused, Error::Rejected { .. }), "{refused}");
        assert!(refused.to_string().contains("UnknownCA"), "{refused}");
        let stance = |user, host| house.stance("10.7.0.1", user, host);
        assert_eq!(stance(None, HOST), Stance::Tunnel(Why::Rejected));
        assert_eq!(house.stance("::ffff:10.7.0.1", None, HOST), Stance::Tunnel(Why::Rejected));
        assert_eq!(stance(Some("ca"), HOST), Stance::Intercept, "another build at that address");
        assert_eq!(stance(None, "a.corp.example"), Stance::Intercept);
        tokio::time::advance(Duration::from_secs(3599)).await;
        assert_eq!(stance(None, HOST), Stance::Tunnel(Why::Rejected));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(stance(None, HOST), Stance::Intercept);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_hangs_up_on_our_certificate_refused_it() {
        let house = house(Mode::Always);
        let (mut far, near) = duplex(65_536);
        let serving = house.serve(near);
        far.write_all(&hello_of(house.trusting(), HOST)).await.unwrap();
        far.read_exact(&mut [0; 5]).await.unwrap();
        drop(far);
        assert!(matches!(serving.await.unwrap(), Err(Error::Rejected { .. })));
        assert_eq!(house.stance("10.7.0.1", None, HOST), Stance::Tunnel(Why::Rejected));
    }

    /// A client that finishes the handshake, before it has looked at our certificate.
    async fn finish(house: &House) -> (tokio_rustls::client::TlsStream<DuplexStream>, Serving) {
        let (far, near) = duplex(65_536);
        let serving = house.serve(near);
        let server = ServerName::try_from(HOST).unwrap();
        (TlsConnector::from(Arc::new(house.trusting())).connect(server, far).await.unwrap(), serving)
    }

    /// git on Debian is of GnuTLS: it went unnoticed, and was intercepted, and refused, every time.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_without_a_word_after_the_handshake_refused_our_certificate() {
        for is_orderly in [true, false] {
            let house = house(Mode::Always);
            let (mut theirs, serving) = finish(&house).await;
            if is_orderly {
                theirs.shutdown().await.unwrap();
            }
            drop(theirs);
            assert!(matches!(serving.await.unwrap(), Err(Error::Wordless { .. })), "with a close_notify: {is_orderly}");
            assert_eq!(house.stance("10.7.0.1", None, HOST), Stance::Tunnel(Why::Rejected));
            assert!(house.registry.text().contains("handshakes_total{outcome=\"wordless\"} 1"));
        }
    }

    /// RFC 8446 section 6.2: an alert may come whenever its sender finds out.
    #[tokio::test(start_paused = true)]
    async fn an_alert_after_finished_is_a_refusal_though_others_speak() {
        let house = house(Mode::Always);
        talk(&house, &Arc::new(house.trusting())).await;
        let (mut far, near) = duplex(65_536);
        let serving = house.serve(near);
        let server = ServerName::try_from(HOST).unwrap();
        let mut client = ClientConnection::new(Arc::new(house.trusting()), server).unwrap();
        while client.is_handshaking() || client.wants_write() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            far.write_all(&bytes).await.unwrap();
            if client.is_handshaking() {
                let mut piece = vec![0; 65_536];
                let length = far.read(&mut piece).await.unwrap();
                let mut heard = &piece[..length];
                while !heard.is_empty() {
                    client.read_tls(&mut heard).unwrap();
                    client.process_new_packets().unwrap();
                }
            }
        }
        // What cannot be deciphered makes this client complain, as another would of our certificate.
        client.read_tls(&mut &b"\x17\x03\x03\x00\x22nonsense that nobody can decipher!"[..]).unwrap();
        assert!(client.process_new_packets().is_err());
        let mut alert = Vec::new();
        client.write_tls(&mut alert).unwrap();
        far.write_all(&alert).await.unwrap();
        assert!(matches!(serving.await.unwrap(), Err(Error::Rejected { .. })));
        assert_eq!(house.stance("10.7.0.1", None, HOST), Stance::Tunnel(Why::Rejected));
    }

    /// go dials for every request that it has, and keeps one connection where that speaks HTTP/2.
    #[tokio::test(start_paused = true)]
    async fn a_connection_that_its_client_had_no_use_for_is_no_refusal() {
        let house = house(Mode::Always);
        let (spare, serving_spare) = finish(&house).await;
        let (late, serving_late) = finish(&house).await;
        let (mut used, serving) = finish(&house).await;
        drop(spare);
        assert!(matches!(serving_spare.await.unwrap(), Err(Error::Wordless { .. })), "nobody has spoken yet");
        used.write_all(b"PRI").await.unwrap();
        let _used = serving.await.unwrap().unwrap();
        assert_eq!(house.stance("10.7.0.1", None, HOST), Stance::Intercept, "withdrawn");
        drop(late);
        assert!(matches!(serving_late.await.unwrap(), Err(Error::Spare { .. })));
        assert_eq!(house.stance("10.7.0.1", None, HOST), Stance::Intercept);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_thinks_about_its_first_word_is_served() {
        let house = house(Mode::Always);
        let (mut theirs, serving) = finish(&house).await;
        let Terminated::Tls { mut stream, .. } = serving.await.unwrap().unwrap() else { panic!("passed on") };
        theirs.write_all(b"word").await.unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        drop(stream);
        assert_eq!((&word, house.stance("10.7.0.1", None, HOST)), (b"word", Stance::Intercept));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stalls_or_leaves_before_refused_nothing() {
        let house = house(Mode::Always);
        let hello = hello_of(house.trusting(), HOST);
        let (mut far, near) = duplex(65_536);
        far.write_all(&hello[..hello.len() - 1]).await.unwrap();
        assert!(matches!(house.serve(near).await.unwrap(), Err(Error::Slow)), "a hello that is never whole");
        let (mut far, near) = duplex(65_536);
        far.write_all(&hello).await.unwrap();
        assert!(matches!(house.serve(near).await.unwrap(), Err(Error::Slow)), "a Finished that never comes");
        let (mut far, near) = duplex(65_536);
        far.write_all(&hello[..40]).await.unwrap();
        drop(far);
        assert!(matches!(house.serve(near).await.unwrap(), Err(Error::Closed)));
        assert_eq!(house.stance("10.7.0.1", None, HOST), Stance::Intercept);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_ours_to_answer_comes_back_whole() {
        let house = house(Mode::Always);
        let mut odd = house.trusting();
        odd.alpn_protocols = vec![b"acme-tls/1".to_vec()];
        let table: [(&[u8], Why); 8] = [
            (b"GET / HTTP/1.1\r\n\r\n", Why::NotTls),
            (b"SSH-2.0-x\r\n", Why::NotTls),
            (&[0x16, 0x02, 0x00], Why::NotTls),
            (&[0x16, 0x03, 0x01, 0x00, 0x04, 0x02, 0, 0, 0], Why::BadHello),
            (&hello_of(house.trusting(), "github.com"), Why::OtherName),
            (&hello_of(house.trusting(), "www.goproxy.cn"), Why::OtherName),
            (&hello_of(house.trusting(), "127.0.0.1"), Why::NoName),
            (&hello_of(odd, HOST), Why::NothingInCommon),
        ];
        for (sent, why) in table {
            assert_eq!(house.passes(sent).await, why, "{}", String::from_utf8_lossy(sent));
        }
        assert!(house.registry.text().contains("handshakes_total{outcome=\"other-name\"} 2"));
        assert_eq!(house.stance("10.7.0.1", None, HOST), Stance::Intercept, "and nobody refused anything");
    }

    #[tokio::test(start_paused = true)]
    async fn encrypted_hellos_are_passed_on() {
        let house = house(Mode::Always);
        let suite = hpke::ALL_SUPPORTED_SUITES[0];
        let (public, _) = suite.generate_key_pair().unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_ech(EchMode::Grease(EchGreaseConfig::new(suite, public)))
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        assert_eq!(house.passes(&hello_of(config, HOST)).await, Why::Ech);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_waits_for_the_server_to_speak_is_passed_on() {
        assert_eq!(house(Mode::Always).passes(b"").await, Why::Silent);
    }

    #[tokio::test]
    async fn the_stance_is_never_worse_than_without() {
        let (auto, always, off) = (house(Mode::Auto), house(Mode::Always), house(Mode::Off));
        let this = format!("ca-{}", auto.interceptor.fingerprint().unwrap());
        let alice = format!("alice+{}", this.to_ascii_uppercase().replace("CA-", "ca-"));
        let table = [
            (&auto, "10.7.0.1", None, HOST, Stance::Tunnel(Why::SaysNothing)),
            (&auto, "10.7.0.1", Some("alice"), HOST, Stance::Tunnel(Why::SaysNothing)),
            (&auto, "10.7.0.1", Some("ca"), HOST, Stance::Intercept),
            (&auto, "10.7.0.1", Some(this.as_str()), HOST, Stance::Intercept),
            (&auto, "10.7.0.1", Some(alice.as_str()), HOST, Stance::Intercept),
            (&auto, "10.7.0.1", Some("ca-00000000"), HOST, Stance::Tunnel(Why::OtherCa)),
            (&auto, "10.9.3.4", None, HOST, Stance::Intercept),
            (&auto, "::ffff:10.9.3.4", None, HOST, Stance::Intercept),
            (&auto, "10.9.3.4", Some("ca-00000000"), HOST, Stance::Tunnel(Why::OtherCa)),
            (&auto, "10.7.0.1", Some("ca"), "github.com", Stance::Tunnel(Why::NotListed)),
            (&auto, "10.7.0.1", Some("ca"), "www.goproxy.cn", Stance::Tunnel(Why::NotListed)),
            (&auto, "10.7.0.1", Some("ca"), "go.corp.example", Stance::Intercept),
            (&auto, "10.7.0.1", Some("ca"), "10.0.0.1", Stance::Tunnel(Why::IpTarget)),
            (&always, "10.7.0.1", None, HOST, Stance::Intercept),
            (&always, "10.7.0.1", Some("ca-00000000"), HOST, Stance::Tunnel(Why::OtherCa)),
            (&always, "10.7.0.1", None, "[::1]", Stance::Tunnel(Why::IpTarget)),
            (&off, "10.7.0.1", Some("ca"), HOST, Stance::Tunnel(Why::ModeOff)),
        ];
        for (house, client, user, host, stance) in table {
            assert_eq!(house.stance(client, user, host), stance, "{client} {user:?} {host}");
        }
        let text = auto.registry.text();
        assert!(text.contains("goanyway_intercept_stances_total{stance=\"intercept\"} 6"), "{text}");
        assert!(text.contains("goanyway_intercept_stances_total{stance=\"other-ca\"} 2"), "{text}");
    }

    #[test]
    fn another_fingerprint_is_said_once() {
        let house = house(Mode::Auto);
        let journal = Journal::default();
        let open = journal.open();
        for user in ["ca-0000000a", "ca-0000000A", "alice+ca-0000000a", "ca-0000000b"] {
            house.stance("10.7.0.1", Some(user), HOST);
        }
        // One client may name as many as it likes: another is heard.
        house.stance("10.7.0.2", Some("ca-0000000b"), HOST);
        drop(open);
        let text = journal.lines().join("\n");
        assert_eq!(text.matches("0000000a, and ours is").count(), 1, "{text}");
        assert_eq!(text.matches("0000000b, and ours is").count(), 1, "{text}");
    }

    #[test]
    fn an_expired_ca_tunnels_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (now, year) = (SystemTime::now(), Duration::from_secs(365 * 86_400));
        let open = |at| Interceptor::open(settings(dir.path(), Mode::Always), at, &Registry::default()).unwrap();
        let (interceptor, made) = open(now);
        assert!(matches!(&made[..], [Notice::Made { .. }]) && !made[0].is_trouble());
        let stance = |at| interceptor.stance(CLIENT, None, &Host::parse(HOST).unwrap(), at);
        assert_eq!(stance(now + year), Stance::Tunnel(Why::Expired));
        assert_eq!(stance(now - Duration::from_secs(3 * 86_400)), Stance::Tunnel(Why::ClockBehind));
        assert_eq!(open(now).1, []);
        assert!(matches!(&open(now + year - Duration::from_secs(86_400)).1[..], [Notice::NearEnd { .. }]));
        assert!(matches!(&open(now + year).1[..], [Notice::Expired { .. }]));
        assert!(matches!(&open(now - Duration::from_secs(3 * 86_400)).1[..], [Notice::ClockBehind { .. }]));
    }

    fn rotate(dir: &std::path::Path, overlap: Duration) -> Authority {
        let making = Making { if_there: IfThere::Overlap(overlap), keep_root: None };
        Authority::create(&dir.join("certs"), &[HOST.parse().unwrap()], SystemTime::now(), making).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_rotation_by_another_process_is_heard_of_and_the_word_chooses() {
        let house = house(Mode::Auto);
        let old = house.interceptor.fingerprint().unwrap();
        let old_root = house.interceptor.root_pem().unwrap();
        let new = rotate(house.dir.path(), Duration::from_secs(86_400)).fingerprint().to_owned();
        assert_eq!(house.stance("10.7.0.1", Some(&format!("ca-{new}")), HOST), Stance::Tunnel(Why::OtherCa));
        tokio::time::advance(LOOK_EVERY).await;
        while house.interceptor.fingerprint().as_ref() != Some(&new) {
            house.stance("10.7.0.1", None, HOST);
            tokio::task::yield_now().await;
        }
        let roots = house.interceptor.root_pem().unwrap();
        assert!(roots.ends_with(&old_root) && roots.matches("BEGIN").count() == 2, "the new one first");
        for (word, root) in [(&old, &old_root), (&new, &roots.replace(&old_root, ""))] {
            let user = format!("ca-{word}");
            assert_eq!(house.stance("10.7.0.1", Some(&user), HOST), Stance::Intercept);
            assert_eq!(house.root_shown_to(Some(&user)).await, *root, "{word}");
        }
        assert_eq!(house.root_shown_to(Some("ca")).await, old_root, "who names none was set up before");
    }

    #[test]
    fn an_overlap_is_said_and_what_is_over_is_destroyed() {
        let dir = tempfile::tempdir().unwrap();
        let open = |at| Interceptor::open(settings(dir.path(), Mode::Auto), at, &Registry::default()).unwrap();
        let (now, day) = (SystemTime::now(), Duration::from_secs(86_400));
        let old = open(now).0.fingerprint().unwrap();
        rotate(dir.path(), day);
        let said = |at| open(at).1.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(
            said(now)[0].starts_with(&format!("clients that trust the CA before this one ({old}) are served until"))
        );
        assert!(!open(now).1[0].is_trouble());
        assert_eq!(said(now + 2 * day), [""; 0]);
        assert!(!dir.path().join("certs/earlier").join(&old).exists());
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_asks_for_client_certificates_is_tunnelled() {
        let house = house(Mode::Always);
        house.interceptor.learn_client_certificates(&name(HOST), SystemTime::now());
        assert_eq!(house.stance("10.7.0.1", None, HOST), Stance::Tunnel(Why::ClientCertificate));
        assert_eq!(house.stance("10.7.0.1", None, "a.corp.example"), Stance::Intercept);
    }

    #[test]
    fn a_host_that_the_ca_does_not_cover_is_tunnelled_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let open = |config| Interceptor::open(config, SystemTime::now(), &Registry::default()).unwrap();
        open(settings(dir.path(), Mode::Always));
        let mut config = settings(dir.path(), Mode::Always);
        config.hosts.push("athens.example".parse().unwrap());
        let (interceptor, notices) = open(config);
        assert_eq!(
            notices.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "athens.example is tunnelled, because the CA does not cover it; `goanyway ca rotate --intercept athens.example` makes one that does"
            ]
        );
        let stance = interceptor.stance(CLIENT, None, &Host::parse("athens.example").unwrap(), SystemTime::now());
        assert_eq!(stance, Stance::Tunnel(Why::NotCovered));
    }

    #[test]
    fn a_default_folder_that_cannot_be_written_is_no_reason_to_stop_and_a_named_one_is() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("certs"), "a file in the way").unwrap();
        let open = |named| {
            let config = Config { ca_dir_named: named, ..settings(dir.path(), Mode::Always) };
            Interceptor::open(config, SystemTime::now(), &Registry::default())
        };
        let (interceptor, notices) = open(false).unwrap();
        assert!(matches!(&notices[..], [Notice::Unusable { .. }]), "{notices:?}");
        assert_eq!((interceptor.root_pem(), interceptor.bundle_pem()), (None, None));
        let stance = interceptor.stance(CLIENT, None, &Host::parse(HOST).unwrap(), SystemTime::now());
        assert_eq!(stance, Stance::Tunnel(Why::NoCa));
        assert!(open(true).err().unwrap().is_folder());
    }

    #[test]
    fn of_many_that_start_at_once_one_makes_the_ca_and_all_have_it() {
        let dir = tempfile::tempdir().unwrap();
        let open =
            || Interceptor::open(settings(dir.path(), Mode::Auto), SystemTime::now(), &Registry::default()).unwrap();
        let opened = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..6).map(|_| scope.spawn(open)).collect();
            starting.into_iter().map(|start| start.join().unwrap()).collect::<Vec<_>>()
        });
        let first = opened[0].0.fingerprint().unwrap();
        assert!(opened.iter().all(|(interceptor, _)| interceptor.fingerprint() == Some(first.clone())));
        assert_eq!(opened.iter().flat_map(|(_, notices)| notices).count(), 1, "one says that it made it");
    }

    #[test]
    fn a_broken_ca_stops_the_start_even_in_the_default_folder() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Interceptor::open(settings(dir.path(), Mode::Auto), SystemTime::now(), &Registry::default());
        open().unwrap();
        std::fs::write(dir.path().join("certs/issuer.key"), "broken").unwrap();
        assert!(matches!(open().err().unwrap(), Error::Broken { .. }));
    }

    #[test]
    fn mode_off_makes_no_ca_and_a_clock_that_is_behind_makes_none_either() {
        let dir = tempfile::tempdir().unwrap();
        let open = |mode, now| Interceptor::open(settings(dir.path(), mode), now, &Registry::default()).unwrap().1;
        assert_eq!(open(Mode::Off, SystemTime::now()), []);
        assert!(matches!(&open(Mode::Auto, SystemTime::UNIX_EPOCH)[..], [Notice::ClockBehind { .. }]));
        assert!(!dir.path().join("certs").exists());
    }

    #[test]
    fn a_bundle_holds_every_root_once_and_ours() {
        let (one, two) = (house(Mode::Auto), house(Mode::Auto));
        let root =
            |house: &House| CertificateDer::from_pem_slice(house.interceptor.root_pem().unwrap().as_bytes()).unwrap();
        let (ours, other) = (root(&one), root(&two));
        let text = bundle(&[other.clone(), ours.clone(), other.clone()], std::slice::from_ref(&ours));
        let read: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes()).map(Result::unwrap).collect();
        assert_eq!(read, [other, ours]);
        assert!(matches!(&one.notices[..], [Notice::Made { .. }]));
    }
}
