//! Builds the rooms, binds, runs the doors, drains.
//!
//! One front worker a core, each a thread with a runtime and listeners of its own; fills and
//! look-ups run on one shared runtime beside them, so that whoever started one may leave. Nothing
//! that takes time (counting the cache, sweeping leftovers) stands between the start and the first
//! `accept`.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::{self, House, Manner};
use crate::admin::{Admin, Sources};
use crate::admit::{self, Admission};
use crate::cache::{self, Cache};
use crate::config::{Folder, Settings};
use crate::connect::{self, Connector};
use crate::dns::Nameserver;
use crate::fetch::{Fetcher, Idle};
use crate::flow::{Ours, Rooms, Subnet, Turns, Worker};
use crate::forward::{Forwarder, Identity};
use crate::goproxy::{self, Goproxy, Readings};
use crate::intercept::{self, Interceptor};
use crate::metrics::Registry;
use crate::otlp::Exporter;
use crate::resolve::{self, Resolver};
use crate::respond::Modules;
use crate::service::{self, Heart, Inherited, Pulse, Purpose};
use crate::socket::{self, Datagrams, Listeners};
use crate::trace::Restraint;
use crate::tunnel::Tunnels;

/// How long a closing house waits for what is under way.
pub const GRACE: Duration = Duration::from_secs(30);

/// How long those who came at the last moment have to say what they came for, where anybody is there.
/// A connection that was accepted and is closed without a word is a failed build: go does not try again.
const LAST_WORD: Duration = Duration::from_secs(1);

/// How long a closed house waits for files that are on their way to disk.
const SETTLE: Duration = Duration::from_secs(5);

/// How often a worker with clients looks up: oftener than any of their timers goes off ([`tick`]).
const TICK: Duration = Duration::from_secs(1);

/// The settings that a daemon takes on while it serves ([`Running::reload`]); the level of the log is
/// whoever's that began it. Files that these name are read again whenever they change, too.
pub const RELOADED: [&str; 14] = [
    "resolve.private",
    "resolve.known",
    "resolve.hosts",
    "resolve.zones",
    "admit.allow",
    "admit.deny",
    "admit.ports",
    "admit.clients",
    "admit.per_client",
    "admit.credentials",
    "listen_tls.cert",
    "listen_tls.key",
    "listen_tls.client_ca",
    "accept.proxy_protocol",
];
/// How long the last traces may take to a collector.
const LAST_TRACES: Duration = Duration::from_secs(2);

/// A daemon that serves until it is told to stop.
pub struct Running {
    pub bound: Bound,
    /// The parent proxy in use.
    pub parent: Option<String>,
    /// What the start has to say: notices of the rooms, in the order of their importance.
    pub notices: Vec<String>,
    pub admission: Admission,
    pub interceptor: Interceptor,
    pub resolver: Resolver,
    pub goproxy: Goproxy,
    pub registry: Registry,
    house: House,
    pulse: Pulse,
    exporter: Option<Exporter>,
    ready: Arc<AtomicBool>,
    ends: Ends,
    workers: Vec<JoinHandle<usize>>,
    // Last: everything above may still use it while it ends.
    shared: Runtime,
}

/// The three ends of a daemon, in the order in which they come.
#[derive(Clone, Default)]
struct Ends {
    /// No further connection is accepted.
    accepting: CancellationToken,
    /// Connections finish what they are at.
    drain: CancellationToken,
    /// What has not finished is dropped.
    cut: CancellationToken,
    /// Nobody is served any more; until then the admin port tells that we are not ready.
    closed: CancellationToken,
}

/// The addresses that were bound.
#[derive(Clone, Debug, Default)]
pub struct Bound {
    /// Of the proxy, those over TLS last.
    pub listen: Vec<SocketAddr>,
    /// Those over TLS again.
    pub tls: Vec<SocketAddr>,
    /// Where a gateway brings connections.
    pub transparent: Vec<SocketAddr>,
    /// UDP and TCP alike.
    pub dns: Vec<SocketAddr>,
    pub admin: Option<SocketAddr>,
}

impl Bound {
    /// The lines of a ready file: `listen=ADDRESS`, `transparent=ADDRESS`, `dns=ADDRESS`, `admin=ADDRESS`.
    pub fn lines(&self) -> String {
        let listen = self.listen.iter().map(|address| format!("listen={address}\n"));
        let transparent = self.transparent.iter().map(|address| format!("transparent={address}\n"));
        let dns = self.dns.iter().map(|address| format!("dns={address}\n"));
        let admin = self.admin.iter().map(|address| format!("admin={address}\n"));
        listen.chain(transparent).chain(dns).chain(admin).collect()
    }
}

/// Every listener, bound before there is anything else of the house: what privileges are for.
pub struct Doors {
    bound: Bound,
    proxy: [(Manner, Vec<Listeners>); 3],
    dns: Vec<DnsListeners>,
    admin: Option<Listeners>,
    workers: usize,
    files: Option<u64>,
    notices: Vec<String>,
}

impl Doors {
    /// Takes what was handed over and binds the rest. No thread is started.
    pub fn open(settings: &Settings, mut inherited: Inherited) -> Result<Doors, Error> {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let files = socket::raise_file_limit();
        let (listen, tls, admin) = (Purpose::Listen, Purpose::ListenTls, Purpose::Admin);
        let plain = Listeners::bind;
        let listeners = bind(plain, &settings.listen, workers, &[listen], &mut inherited)?;
        // With a certificate and nothing else said, every `listen` speaks TLS.
        let over_tls = bind(plain, &settings.listen_tls, workers, &[tls, listen], &mut inherited)?;
        let redirected = Listeners::bind_transparent;
        let transparent = bind(redirected, &settings.transparent, workers, &[Purpose::Transparent], &mut inherited)?;
        let open_dns = |&address| DnsListeners::bind(address, workers, &mut inherited);
        let dns = settings.dns.iter().map(open_dns).collect::<Result<Vec<_>, _>>()?;
        let admin = bind(plain, settings.admin.as_slice(), 1, &[admin], &mut inherited)?.pop();
        let bound = Bound {
            listen: listeners.iter().chain(&over_tls).flat_map(Listeners::addresses).collect(),
            tls: over_tls.iter().flat_map(Listeners::addresses).collect(),
            transparent: transparent.iter().flat_map(Listeners::addresses).collect(),
            dns: dns.iter().flat_map(|listeners| listeners.connections.addresses()).collect(),
            admin: admin.as_ref().map(|listeners| listeners.address),
        };
        let proxy = [(Manner::Bare, listeners), (Manner::Tls, over_tls), (Manner::Redirected, transparent)];
        Ok(Doors { bound, proxy, dns, admin, workers, files, notices: inherited.close() })
    }
}

/// Binds and starts everything. When this returns, clients are being served.
pub fn start(settings: Settings) -> Result<Running, Error> {
    let doors = Doors::open(&settings, Inherited::default())?;
    start_behind(doors, settings)
}

/// Makes the folders of ours that somebody else will own ([`Settings::user`]), while we still can.
pub fn prepare_folders(settings: &Settings) -> Result<(), Error> {
    let Some(user) = &settings.user else { return Ok(()) };
    service::check_user(user)?;
    let certs = (settings.intercept.mode != intercept::Mode::Off).then_some(&settings.intercept.ca_dir);
    let mut folders: Vec<&PathBuf> =
        settings.state_dir.path.iter().chain(&settings.cache_dir.path).chain(certs).collect();
    // A folder that has another of them in it comes first.
    folders.sort();
    folders.into_iter().try_for_each(|folder| service::own_folder(folder, user)).map_err(Error::Privileges)
}

/// Starts everything behind doors that are bound.
pub fn start_behind(doors: Doors, settings: Settings) -> Result<Running, Error> {
    let Doors { bound, proxy, dns, admin, workers: cores, files, notices: unused } = doors;
    let shared = Builder::new_multi_thread()
        .worker_threads(cores)
        .thread_name("goanyway-shared")
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let registry = Registry::default();
    let house = House::open(settings.accept.clone(), files, &registry)?;
    let mut notices = [settings.notices.clone(), unused].concat();
    let idle = files.map(|files| Idle::at_most(accept::kept_beside(files))).unwrap_or_default();
    let rooms = build(settings, &bound, &shared, &idle, &registry, &mut notices)?;

    let ready = Arc::new(AtomicBool::new(false));
    let ends = Ends::default();
    if let Some(socket) = admin.into_iter().flat_map(Listeners::into_sockets).next() {
        let sources = rooms.sources(&bound, &notices, Arc::clone(&ready));
        let door = Admin::new(registry.clone(), rooms.admin_hosts, sources, SystemTime::now());
        let _inside = shared.enter();
        let listener = socket::accepting(socket).map_err(Error::Runtime)?;
        shared.spawn(door.run(listener, ends.closed.clone()));
    }
    let nameserver = Arc::new(Nameserver::new(rooms.rooms.admission.clone(), rooms.resolver.clone(), &registry));
    let fronts = Fronts { rooms: Arc::clone(&rooms.rooms), nameserver, house: house.clone(), idle, ends: ends.clone() };
    let mut pulse = Pulse::default();
    let workers = fronts.spawn(share_out(proxy, dns, cores), &mut pulse)?;
    shared.spawn(pulse.heart("goanyway-shared").beat());
    ready.store(true, Ordering::Release);
    Ok(Running {
        bound,
        parent: rooms.parent,
        notices,
        admission: rooms.rooms.admission.clone(),
        interceptor: rooms.rooms.interceptor.clone(),
        resolver: rooms.resolver,
        goproxy: rooms.rooms.goproxy.clone(),
        registry,
        house,
        pulse,
        exporter: rooms.exporter,
        ready,
        ends,
        workers,
        shared,
    })
}

impl Running {
    /// The runtime of look-ups and fills, for waiting on signals beside them.
    pub fn runtime(&self) -> &Runtime {
        &self.shared
    }

    /// By which one is told whether all that serve still do.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Takes on the settings of [`RELOADED`], all or none; connections that stand go on. The others
    /// must be what they were at the start.
    pub fn reload(&self, settings: Settings) -> Result<(), Error> {
        let rules = self.admission.revise(settings.admit)?;
        let ways = self.house.revise(settings.accept)?;
        // From here on nothing can fail.
        self.house.adopt(ways);
        self.resolver.rewrite(settings.resolve);
        // Last, since connections to origins are made anew from then on.
        self.admission.adopt(rules);
        Ok(())
    }

    /// Cancelled, this cuts a drain short.
    pub fn cutter(&self) -> CancellationToken {
        self.ends.cut.clone()
    }

    /// Stops accepting, lets what is under way finish for at most [`GRACE`], and tells how many
    /// connections and tunnels were cut.
    pub fn stop(self) -> usize {
        self.ready.store(false, Ordering::Release);
        self.ends.accepting.cancel();
        let begun = Instant::now();
        let is_over = |worker: &JoinHandle<usize>| worker.is_finished() || self.ends.cut.is_cancelled();
        while begun.elapsed() < LAST_WORD && !self.workers.iter().all(is_over) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.ends.drain.cancel();
        let cut = self.workers.into_iter().map(|worker| worker.join().unwrap_or(0)).sum();
        self.ends.closed.cancel();
        // What was fetched for somebody is worth keeping; a fill that goes on for ever is not.
        let settled = async { tokio::time::timeout(SETTLE, self.goproxy.settled()).await };
        if self.shared.block_on(settled).is_err() {
            tracing::warn!("some files were still being fetched and are not kept");
        }
        if let Some(exporter) = self.exporter {
            // A collector that is down is no reason to stay.
            let _ = self.shared.block_on(async { tokio::time::timeout(LAST_TRACES, exporter.finish()).await });
        }
        self.resolver.save();
        self.shared.shutdown_timeout(Duration::from_secs(1));
        cut
    }
}

struct Built {
    rooms: Arc<Rooms>,
    resolver: Resolver,
    cache: Cache<goproxy::Failure>,
    cache_dir: Option<PathBuf>,
    admin_hosts: Vec<String>,
    parent: Option<String>,
    exporter: Option<Exporter>,
}

impl Built {
    /// What the admin port tells of.
    fn sources(&self, bound: &Bound, notices: &[String], ready: Arc<AtomicBool>) -> Sources {
        let listen = bound.listen.iter().map(|address| match bound.tls.contains(address) {
            true => format!("https://{address}"),
            false => format!("http://{address}"),
        });
        Sources {
            goproxy: self.rooms.goproxy.clone(),
            cache: self.cache.clone(),
            resolver: self.resolver.clone(),
            interceptor: self.rooms.interceptor.clone(),
            tunnels: self.rooms.tunnels.clone(),
            recent: self.rooms.recent.clone(),
            ready,
            listening: listen.chain(bound.dns.iter().map(|address| format!("dns://{address}"))).collect(),
            cache_dir: self.cache_dir.as_ref().map(|path| path.display().to_string()),
            notices: notices.to_vec(),
        }
    }
}

/// Builds the rooms from the lowest up.
fn build(
    settings: Settings,
    bound: &Bound,
    shared: &Runtime,
    idle: &Idle,
    registry: &Registry,
    notices: &mut Vec<String>,
) -> Result<Built, Error> {
    let handle = shared.handle().clone();
    let admission = Admission::new(settings.admit, registry)?;
    let own = bound.admin.iter().chain(&bound.listen).chain(&bound.transparent).chain(&bound.dns);
    admission.own(own.copied().collect());
    let state_dir = usable(&settings.state_dir, notices)?;
    let learnt_dir = state_dir.clone();
    let resolver = Resolver::new(resolve::Config { state_dir, ..settings.resolve }, handle.clone(), registry)?;
    let mut connect = settings.connect;
    let ours = Ours { listeners: bound.listen.clone(), names: settings.listen_names };
    if connect.parents.without(|target| ours.lead_to_us(target)) {
        notices.push("the parent proxy (--parent, or HTTPS_PROXY around us) is this very proxy: ignored".to_owned());
    }
    let parent = connect.parents.describe();
    let identity = Identity::new(registry);
    let connector = Connector::new(connect, resolver.clone(), identity.pseudonym(), registry)?;
    if !bound.transparent.is_empty() {
        admission.keep_bindings();
        connector.keep_recent();
    }
    let intercept = intercept::Config { state_dir: learnt_dir, ..settings.intercept };
    let (interceptor, said) = Interceptor::open(intercept, SystemTime::now(), registry)?;
    let learning = interceptor.clone();
    connector.on_certificate_wanted(move |host| learning.learn_client_certificates(host, SystemTime::now()));
    notices.extend(said.iter().map(ToString::to_string));
    let dir = usable(&settings.cache_dir, notices)?;
    let cache_dir = dir.clone();
    let cache = Cache::open(cache::Config { dir, ..settings.cache }, handle.clone(), registry)?;
    let upstreams = settings.goproxy.upstreams.iter().map(|base| base.target.clone());
    let fetcher = Fetcher::new(&connector, &admission, idle).knowing(upstreams);
    let goproxy = Goproxy::new(settings.goproxy, cache.clone(), fetcher, handle, registry);
    let tunnels = Tunnels::new(registry);
    let modules = Modules::new(identity.pseudonym());
    let (collector, exporter) = match settings.otlp {
        Some(endpoint) => {
            let fetcher = Fetcher::new(&connector, &admission, idle);
            let (collector, exporter) = Exporter::start(endpoint, fetcher, shared.handle(), registry);
            (Some(collector), Some(exporter))
        }
        None => (None, None),
    };
    let subnet = Subnet::new(registry);
    let rooms = Rooms {
        admission,
        interceptor,
        goproxy,
        tunnels,
        connector,
        resolver: resolver.clone(),
        identity,
        modules,
        ours,
        subnet,
        recent: registry.recent().clone(),
        restraint: Restraint::default(),
        hashing: Turns::default(),
        collector,
    };
    let admin_hosts = settings.admin_hosts;
    Ok(Built { rooms: Arc::new(rooms), resolver, cache, cache_dir, admin_hosts, parent, exporter })
}

/// A folder that can be written. A default one that cannot is no reason to stop; a named one is.
fn usable(folder: &Folder, notices: &mut Vec<String>) -> Result<Option<PathBuf>, Error> {
    let Some(path) = &folder.path else {
        notices.push(format!("no place for {}: going on without; name one with --{}", folder.what, folder.flag));
        return Ok(None);
    };
    match try_write(path) {
        Ok(()) => Ok(Some(path.clone())),
        Err(error) if folder.named => Err(Error::Folder { what: folder.what, path: path.clone(), error }),
        Err(error) => {
            let (what, path, flag, why) = (folder.what, path.display(), folder.flag, obstacle(&error));
            notices
                .push(format!("{what} {path} cannot be written ({why}): going on without; name another with --{flag}"));
            Ok(None)
        }
    }
}

fn try_write(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)?;
    tempfile::Builder::new().prefix(".writable").tempfile_in(path).map(drop)
}

/// Binds each address, where no socket for it was handed over.
fn bind(
    how: fn(SocketAddr, usize) -> io::Result<Listeners>,
    addresses: &[SocketAddr],
    workers: usize,
    purposes: &[Purpose],
    inherited: &mut Inherited,
) -> Result<Vec<Listeners>, Error> {
    let mut bind_one = |&address: &SocketAddr| {
        let bound = match inherited.stream(purposes, address) {
            Some(handed) => Listeners::adopt(handed, workers),
            None => how(address, workers),
        };
        bound.map_err(|error| Error::Listen { address, error })
    };
    addresses.iter().map(&mut bind_one).collect()
}

/// Ports of the kernel's choice that a name server may find taken for TCP. With nine of ten taken, as on a
/// machine full of connections, all are in one start of a thousand (0.9^64).
const MOST_PORTS_TRIED: usize = 64;

/// One address of the name server, bound for each worker over UDP and TCP.
struct DnsListeners {
    address: SocketAddr,
    datagrams: Listeners<std::net::UdpSocket>,
    connections: Listeners,
}

impl DnsListeners {
    /// Where the kernel chose a port, the same one must be free for the other protocol; one that was not is held
    /// until there is one, or the kernel might choose it again. What was handed over for one protocol alone is
    /// bound for the other.
    fn bind(address: SocketAddr, workers: usize, inherited: &mut Inherited) -> Result<DnsListeners, Error> {
        let wrap = |error| Error::Listen { address, error };
        let datagrams = inherited.datagram(&[Purpose::Dns], address);
        let connections = inherited.stream(&[Purpose::Dns], address);
        if datagrams.is_some() || connections.is_some() {
            let datagrams = match datagrams {
                Some(handed) => Listeners::adopt(handed, workers),
                None => Listeners::bind_datagrams(address, workers),
            };
            let connections = match connections {
                Some(handed) => Listeners::adopt(handed, workers),
                None => Listeners::bind(address, workers),
            };
            return Ok(DnsListeners {
                address,
                datagrams: datagrams.map_err(wrap)?,
                connections: connections.map_err(wrap)?,
            });
        }
        let attempts = if address.port() == 0 { MOST_PORTS_TRIED } else { 1 };
        let mut half_free = Vec::new();
        loop {
            let datagrams = Listeners::bind_datagrams(address, workers).map_err(wrap)?;
            match Listeners::bind(datagrams.address, workers) {
                Ok(connections) => return Ok(DnsListeners { address: datagrams.address, datagrams, connections }),
                Err(error) if half_free.len() + 1 >= attempts => return Err(wrap(error)),
                Err(_) => half_free.push(datagrams),
            }
        }
    }
}

/// What one worker listens on.
#[derive(Default)]
struct Share {
    proxy: Vec<(Manner, std::net::TcpListener)>,
    datagrams: Vec<(SocketAddr, std::net::UdpSocket)>,
    dns: Vec<std::net::TcpListener>,
}

/// Gives each worker its part of every listener.
fn share_out(proxy: [(Manner, Vec<Listeners>); 3], dns: Vec<DnsListeners>, workers: usize) -> Vec<Share> {
    let mut shares: Vec<Share> = (0..workers).map(|_| Share::default()).collect();
    let proxy = proxy.into_iter().flat_map(|(manner, listeners)| listeners.into_iter().map(move |one| (manner, one)));
    for (manner, listeners) in proxy {
        let sockets = listeners.into_sockets();
        shares.iter_mut().zip(sockets).for_each(|(share, socket)| share.proxy.push((manner, socket)));
    }
    for DnsListeners { address, datagrams, connections } in dns {
        let sockets = datagrams.into_sockets().into_iter().zip(connections.into_sockets());
        for (share, (datagram, connection)) in shares.iter_mut().zip(sockets) {
            share.datagrams.push((address, datagram));
            share.dns.push(connection);
        }
    }
    shares
}

/// What every front worker is made of.
#[derive(Clone)]
struct Fronts {
    rooms: Arc<Rooms>,
    nameserver: Arc<Nameserver>,
    house: House,
    idle: Idle,
    ends: Ends,
}

impl Fronts {
    /// Starts a worker for each share.
    fn spawn(self, shares: Vec<Share>, pulse: &mut Pulse) -> Result<Vec<JoinHandle<usize>>, Error> {
        let start = |(number, share)| {
            let front = self.clone();
            let name = format!("goanyway-{number}");
            let heart = pulse.heart(&name);
            std::thread::Builder::new().name(name).spawn(move || front.run(share, heart)).map_err(Error::Runtime)
        };
        shares.into_iter().enumerate().map(start).collect()
    }

    /// Serves until the drain is over; tells how many tasks it cut.
    fn run(self, share: Share, heart: Heart) -> usize {
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "a worker has no runtime");
                return 0;
            }
        };
        runtime.block_on(self.serve(share, heart))
    }

    async fn serve(self, share: Share, heart: Heart) -> usize {
        tokio::spawn(heart.beat());
        tokio::spawn(tick(self.house.clone()));
        let fetcher = Fetcher::new(&self.rooms.connector, &self.rooms.admission, &self.idle);
        let worker = Arc::new(Worker {
            forwarder: Forwarder::new(fetcher, self.rooms.identity.clone()),
            rooms: Arc::clone(&self.rooms),
            readings: Readings::default(),
            tasks: TaskTracker::new(),
            // Its own: each of its connections looks at it whenever it is polled.
            drain: self.ends.drain.child_token(),
        });
        let tasks = worker.tasks.clone();
        self.serve_dns(share.datagrams, share.dns, &tasks);
        for (manner, socket) in share.proxy {
            let Ok(listener) = socket::accepting(socket) else { continue };
            let (house, accepting, worker) = (self.house.clone(), self.ends.accepting.clone(), Arc::clone(&worker));
            tasks.spawn(async move {
                let tasks = worker.tasks.clone();
                let serve = move |arrival| {
                    let worker = Arc::clone(&worker);
                    match manner {
                        Manner::Redirected => drop(tasks.spawn(worker.serve_redirected(arrival))),
                        Manner::Bare | Manner::Tls => drop(tasks.spawn(worker.serve(arrival))),
                    }
                };
                house.run(listener, manner, accepting, serve).await;
            });
        }
        self.ends.accepting.cancelled().await;
        tasks.close();
        tokio::select! {
            () = tasks.wait() => return 0,
            () = self.ends.drain.cancelled() => {}
        }
        tokio::select! {
            () = tasks.wait() => {}
            () = tokio::time::sleep(GRACE) => {}
            () = self.ends.cut.cancelled() => {}
        }
        tasks.len()
    }

    fn serve_dns(
        &self,
        datagrams: Vec<(SocketAddr, std::net::UdpSocket)>,
        connections: Vec<std::net::TcpListener>,
        tasks: &TaskTracker,
    ) {
        let (nameserver, end) = (&self.nameserver, &self.ends.accepting);
        for (own, socket) in datagrams {
            let Ok(socket) = Datagrams::receiving(socket) else { continue };
            tasks.spawn(Arc::clone(nameserver).serve_datagrams(socket, own, end.clone(), tasks.clone()));
        }
        for socket in connections {
            let Ok(listener) = socket::accepting(socket) else { continue };
            tasks.spawn(Arc::clone(nameserver).serve_connections(listener, end.clone(), tasks.clone()));
        }
    }
}

/// tokio interrupts its own wait, by two calls of the system, for every timer that is due before all others of its
/// thread. Connections set one at each turn; where another is due sooner, none of them is the first. Nobody is
/// woken in an empty house.
async fn tick(house: House) {
    loop {
        house.occupied().await;
        tokio::time::sleep(TICK).await;
    }
}

/// Why the daemon cannot start: the operator's to mend, each with what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}: {error}{}", port_hint(error))]
    Listen { address: SocketAddr, error: io::Error },
    #[error("{what} {} cannot be written: {}", path.display(), obstacle(error))]
    Folder { what: &'static str, path: PathBuf, error: io::Error },
    #[error("{0}")]
    Privileges(#[from] service::Error),
    #[error("{0}")]
    Accept(#[from] accept::Error),
    #[error("{0}")]
    Admit(#[from] admit::Error),
    #[error("{0}")]
    Resolve(#[from] resolve::Error),
    #[error("{0}")]
    Roots(#[from] connect::RootsError),
    #[error("{0}")]
    Intercept(#[from] intercept::Error),
    #[error("{0}")]
    Cache(#[from] cache::Error),
    #[error("the system gives no thread or socket: {0}")]
    Runtime(io::Error),
}

/// What stands in the way of a folder, in words that say more than the system's.
fn obstacle(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => "there is a file in its place".to_owned(),
        _ => error.to_string(),
    }
}

fn port_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program (another goanyway?) has it, choose one with --listen, --transparent, --dns or --admin"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
        io::ErrorKind::PermissionDenied => "; ports below 1024 want root or CAP_NET_BIND_SERVICE",
        _ => "",
    }
}
