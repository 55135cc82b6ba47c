//! May this client reach this target? The only maker of a [`Permit`], without which no socket is
//! opened on a client's behalf.
//!
//! Two questions, asked at different times. Before anything is resolved: may this client use us at
//! all ([`Admission::client`]), and may it name this host and port ([`Admission::target`])? After:
//! may this *address* be dialled ([`Permit::judge`])? The address that was judged is the one that
//! is dialled, so a name that resolves inwards is caught however it came to.
//!
//! Safe with no configuration: loopback, link-local, metadata and other special-purpose addresses
//! are out of reach, private ones are open to this host alone, ports are the usual ones. Every
//! denial knows the flag that would allow it. Nothing here awaits.

mod bindings;
mod clients;
mod users;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::time::Instant;

pub use clients::{Client, Credential, Ends, Identity};
pub use users::{Error, Proof};

use bindings::Bindings;
use users::Users;

use crate::metrics::{By, Counter, Family, Label, Registry};
use crate::socket;
use crate::target::{Host, Name, Scope, Target, embedded, unwrap_mapped};

/// What an operator may change about admission.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Destination networks opened in spite of what they are (`admit.allow`).
    pub allow: Vec<IpNet>,
    /// Destination networks closed to everybody (`admit.deny`).
    pub deny: Vec<IpNet>,
    /// Ports opened beside the usual ones (`admit.ports`).
    pub ports: Vec<u16>,
    /// Client networks that may use us (`admit.clients`); this host always may.
    pub clients: Vec<IpNet>,
    /// What a client must present to a private instance.
    pub credential: Option<Credential>,
    /// What of the way out is closed to everybody.
    pub closed: Option<Closed>,
    /// The file of users (`admit.credentials`): every client must be one of them, this host's too. Networks
    /// that are named beside it say who may try.
    pub credentials: Option<PathBuf>,
}

/// A way out that one run does without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Closed {
    /// All of it: nothing may leave.
    Offline,
    /// All but what is verified on its way in: only what an earlier run was served may come.
    Frozen,
}

/// On whose account a connection is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Ours: a mirror, a checksum database or a parent proxy that the configuration names.
    Configured,
    /// A client on this host.
    Local,
    /// Any other client.
    Remote,
}

/// How a target was named: each has ports of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    Connect,
    Http,
    /// Not named at all: a gateway brought the connection here. Which ports it brings is its operator's
    /// choice, and the client reached them before.
    Redirected,
}

/// Ports that a CONNECT may name: TLS, and what go and git need for `direct` (ssh, git).
const CONNECT_PORTS: [u16; 4] = [443, 8443, 22, 9418];
/// Ports that a plain http request may name.
const HTTP_PORTS: [u16; 3] = [80, 8080, 8081];

/// Names under which clouds hand out credentials: wherever they lead, nobody is taken there.
const METADATA_NAMES: [&str; 4] =
    ["metadata.google.internal", "metadata.goog", "instance-data.ec2.internal", "metadata.tencentyun.com"];

/// The rules, shared by all workers.
#[derive(Clone)]
pub struct Admission {
    /// A permit keeps the rules by which it was given.
    rules: Arc<ArcSwap<Rules>>,
    /// How often there were others.
    revisions: Arc<AtomicU64>,
    bindings: Arc<Bindings>,
    decisions: Family<By<Decision>, Counter>,
}

struct Rules {
    config: Config,
    users: Option<Arc<Users>>,
    // Set once, when the daemon has bound its listeners; never dialled on anybody's behalf.
    ours: Arc<OnceLock<Vec<SocketAddr>>>,
    // Who was not reached because the way out is closed. Std lock, for a note.
    missed: Arc<Mutex<BTreeSet<String>>>,
}

/// How many of those are remembered.
const MISSED: usize = 1024;

/// Rules that were made and do not hold yet.
pub struct Revision(Rules);

impl Admission {
    /// The rules that a configuration makes, counting in `registry`.
    pub fn new(config: Config, registry: &Registry) -> Result<Admission, Error> {
        let users = config.credentials.clone().map(Users::open).transpose()?.map(Arc::new);
        let decisions = Family::default();
        registry.room("admit", |families| {
            families.register("decisions", "Targets admitted and refused, by reason", Family::clone(&decisions));
        });
        let rules = Rules { config, users, ours: Arc::default(), missed: Arc::default() };
        Ok(Admission {
            rules: Arc::new(ArcSwap::from_pointee(rules)),
            revisions: Arc::default(),
            bindings: Arc::default(),
            decisions,
        })
    }

    /// Makes the rules of another configuration. A file of users that stays the same is kept with all that
    /// was proven; it is read again when it changes.
    pub fn revise(&self, config: Config) -> Result<Revision, Error> {
        let rules = self.rules.load();
        let fresh = config.credentials.clone().map(Users::open).transpose()?.map(Arc::new);
        let is_same = config.credentials == rules.config.credentials;
        let users = if is_same { rules.users.clone() } else { fresh };
        // The password of a private instance is no setting.
        let config = Config { credential: rules.config.credential.clone(), closed: rules.config.closed, ..config };
        let (ours, missed) = (Arc::clone(&rules.ours), Arc::clone(&rules.missed));
        Ok(Revision(Rules { config, users, ours, missed }))
    }

    /// From now on these rules hold, for whoever asks next.
    pub fn adopt(&self, Revision(rules): Revision) {
        self.rules.store(Arc::new(rules));
        self.revisions.fetch_add(1, Ordering::Release);
    }

    /// Another number each time that rules were adopted: what was permitted before is to be asked for anew.
    pub fn revision(&self) -> u64 {
        self.revisions.load(Ordering::Acquire)
    }

    /// Tells which addresses are our own listeners, once they are bound.
    pub fn own(&self, listeners: Vec<SocketAddr>) {
        // A second call would be a second daemon in one process; its listeners have an Admission of their own.
        let _ = self.rules.load().ours.set(listeners);
    }

    /// The work that must be done before [`Admission::client`] or [`Admission::origin`] can judge these
    /// credentials; none for whoever is refused anyway, and for those who were judged before.
    pub fn unproven(&self, ends: Ends, authorization: Option<&[u8]>) -> Option<Proof> {
        let rules = self.rules.load();
        let users = rules.users.as_ref().filter(|_| clients::may_try(&rules.config, ends))?;
        users.unproven(&Identity::parse(authorization?)?)
    }

    /// Whether a client may use us, and what it is to us.
    pub fn client(&self, ends: Ends, authorization: Option<&[u8]>) -> Result<Client, Refusal> {
        clients::admit(&self.rules.load(), ends, authorization).inspect_err(|refusal| self.count(refusal.decision()))
    }

    /// Whether whoever is at the other end may ask for names: DNS has no password to present, so its
    /// network must be one of ours.
    pub fn is_neighbour(&self, ends: Ends) -> bool {
        clients::is_neighbour(&self.rules.load().config, ends)
    }

    /// Whether a client whose connection a gateway brought here may be served, and what it is to us. It
    /// has nothing to present, so its network must be one of ours.
    pub fn redirected(&self, ends: Ends) -> Result<Client, Refusal> {
        clients::admit_neighbour(&self.rules.load().config, ends).inspect_err(|refusal| self.count(refusal.decision()))
    }

    /// From now on it is kept which addresses clients were given for which names.
    pub fn keep_bindings(&self) {
        self.bindings.keep();
    }

    /// This client was told by our name server that the name has these addresses.
    pub fn bind(&self, client: IpAddr, name: &Name, addresses: &[IpAddr], ttl: Duration, now: Instant) {
        self.bindings.note(client, name, addresses, ttl, now);
    }

    /// Whether our name server told this client so.
    pub fn is_bound(&self, client: IpAddr, name: &Name, address: IpAddr, now: Instant) -> bool {
        self.bindings.hold(client, name, address, now)
    }

    /// Whether a client may ask in origin form, and what it asks for. go refuses to send a password
    /// over plain http, so where a private instance demands one the path begins with it instead. A user
    /// of the file is named as to any server: by `Authorization`, or by what it sends to proxies.
    pub fn origin<'a>(
        &self,
        ends: Ends,
        path: &'a str,
        authorization: Option<&[u8]>,
    ) -> Result<(Standing, &'a str), Refusal> {
        clients::admit_origin(&self.rules.load(), ends, path, authorization)
            .inspect_err(|refusal| self.count(refusal.decision()))
    }

    /// A path as a log may show it: without the secret that it begins with.
    pub fn shown<'a>(&self, path: &'a str) -> &'a str {
        clients::without_secret(&self.rules.load().config, path)
    }

    /// Whether somebody of this standing may name this target.
    pub fn target(&self, standing: Standing, dialect: Dialect, target: &Target) -> Result<Permit, Refusal> {
        let permit = self.judge_target(standing, dialect, target);
        self.count(permit.as_ref().map_or_else(Refusal::decision, |_| Decision::Admitted));
        permit
    }

    /// Whether bytes that nobody here looks into may go to this target and come back from it.
    pub fn pass(&self, target: &Target) -> Result<(), Refusal> {
        let rules = self.rules.load();
        let Some(closed) = rules.config.closed else { return Ok(()) };
        let mut missed = rules.missed.lock().unwrap_or_else(PoisonError::into_inner);
        if missed.len() < MISSED {
            missed.insert(target.to_string());
        }
        self.count(Decision::Closed);
        Err(Refusal::Closed(closed))
    }

    /// Who was not reached because the way out is closed.
    pub fn missed(&self) -> Vec<String> {
        self.rules.load().missed.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The permit of a mirror, database or parent that the configuration names.
    pub fn configured(&self, target: &Target) -> Permit {
        Permit { target: target.clone(), standing: Standing::Configured, rules: self.rules.load_full() }
    }

    fn judge_target(&self, standing: Standing, dialect: Dialect, target: &Target) -> Result<Permit, Refusal> {
        let rules = self.rules.load_full();
        let is_usual = match dialect {
            Dialect::Connect => CONNECT_PORTS.contains(&target.port),
            Dialect::Http => HTTP_PORTS.contains(&target.port),
            Dialect::Redirected => true,
        };
        let open = standing == Standing::Configured || is_usual || rules.config.ports.contains(&target.port);
        if !open {
            return Err(Refusal::Port(target.port));
        }
        if target.host.name().is_some_and(|name| METADATA_NAMES.contains(&name.as_str())) {
            return Err(Refusal::Metadata);
        }
        let permit = Permit { target: target.clone(), standing, rules };
        if let Host::Addr(address) = target.host {
            permit.judge(address, Heard::Literal)?;
        }
        Ok(permit)
    }

    fn count(&self, decision: Decision) {
        self.decisions.get_or_create(&By(decision)).inc();
    }
}

/// Leave to open sockets to one target. Only this room makes one.
#[derive(Clone)]
pub struct Permit {
    target: Target,
    standing: Standing,
    rules: Arc<Rules>,
}

impl Permit {
    /// Where this permit leads.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// On whose account it was given.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// The way to a parent proxy that stands between us and the target: the configuration names it.
    pub fn to_parent(&self, parent: &Target) -> Permit {
        Permit { target: parent.clone(), standing: Standing::Configured, rules: Arc::clone(&self.rules) }
    }

    /// Whether anything may leave at all: asked before anybody is looked up.
    pub fn leave(&self) -> Result<(), Refusal> {
        match self.rules.config.closed {
            Some(Closed::Offline) => Err(Refusal::Closed(Closed::Offline)),
            Some(Closed::Frozen) | None => Ok(()),
        }
    }

    /// Judges one address of the target: what comes back is what may be dialled.
    pub fn judge(&self, address: IpAddr, heard: Heard) -> Result<Judged, Refusal> {
        let address = unwrap_mapped(address);
        let judged = Judged(SocketAddr::new(address, self.target.port));
        let scope = Scope::of(address);
        if scope == Scope::Metadata {
            return Err(Refusal::Metadata);
        }
        // Through a NAT64, its embedded address is reached.
        let inside = carried(address).map(|inside| SocketAddr::new(inside, self.target.port));
        if self.is_ours(judged.0) || inside.is_some_and(|inside| self.is_ours(inside)) {
            return Err(Refusal::Ourselves);
        }
        if covers(&self.rules.config.deny, address) {
            return Err(Refusal::Denied(address));
        }
        if scope.is_global() || covers(&self.rules.config.allow, address) || self.reaches(scope, heard) {
            Ok(judged)
        } else {
            Err(Refusal::Address { address, scope })
        }
    }

    /// Whether an address that is not public is open to this standing.
    fn reaches(&self, scope: Scope, heard: Heard) -> bool {
        match (scope, self.standing) {
            (Scope::Private, Standing::Configured | Standing::Local) => heard != Heard::Outside,
            // A mirror beside us is named on purpose; a public name that points here is a lie.
            (Scope::Loopback, Standing::Configured) => match &self.target.host {
                Host::Addr(_) => true,
                Host::Name(name) => name.is_single_label() || name.is_under("localhost"),
            },
            _ => false,
        }
    }

    fn is_ours(&self, address: SocketAddr) -> bool {
        self.rules.ours.get().is_some_and(|ours| ours.iter().any(|&own| socket::leads_to(own, address)))
    }
}

/// Whether a destination is in one of these networks; one that carries an IPv4 address in it (NAT64)
/// is where that address is, too. Not for clients: who comes from such an address is not there.
fn covers(nets: &[IpNet], address: IpAddr) -> bool {
    within(nets, address) || carried(address).is_some_and(|inside| within(nets, inside))
}

/// The IPv4 address that this one carries, if it is one that does.
fn carried(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => embedded(address).map(IpAddr::V4),
    }
}

fn within(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

/// An address that was judged and may be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Judged(SocketAddr);

impl Judged {
    /// The address to dial.
    pub fn address(self) -> SocketAddr {
        self.0
    }
}

/// From whom an address was heard: a public server's word about a private address counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Heard {
    /// The client or the configuration wrote the address itself.
    Literal,
    /// A system server, a hosts file, or `--host`.
    Inside,
    /// A fallback server on the Internet.
    Outside,
}

/// Why somebody was turned away: the client's doing or the policy's, never worth trying again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("clients at {0} are not admitted; allow: --client {0}")]
    Client(IpAddr),
    #[error("this proxy wants a user and password: http://USER:PASSWORD@HOST:PORT")]
    Credentials,
    /// The same in origin form.
    #[error("this server wants a user and password; go sends them over https:// alone, or to a proxy (HTTPS_PROXY)")]
    Login,
    #[error("this proxy is private: its paths begin with a secret")]
    Prefix,
    #[error("port {0} is not open through this proxy; allow: --allow-port {0}")]
    Port(u16),
    #[error("{address} is a {} address; allow: --allow-target {address}", scope.describe())]
    Address { address: IpAddr, scope: Scope },
    #[error("{0} is in a network that the operator closed (--deny-target)")]
    Denied(IpAddr),
    #[error("cloud metadata addresses are never reached through this proxy")]
    Metadata,
    #[error("this proxy does not connect to itself")]
    Ourselves,
    #[error("{}", match .0 {
        Closed::Offline => "nothing may leave this machine (--offline)",
        Closed::Frozen => "only what the summary holds may come in (--frozen)",
    })]
    Closed(Closed),
}

impl Refusal {
    /// The outcome as counters know it.
    pub fn decision(&self) -> Decision {
        match self {
            Refusal::Client(_) => Decision::Client,
            Refusal::Credentials | Refusal::Login | Refusal::Prefix => Decision::Credentials,
            Refusal::Port(_) => Decision::Port,
            Refusal::Address { .. } => Decision::Address,
            Refusal::Denied(_) => Decision::Denied,
            Refusal::Metadata => Decision::Metadata,
            Refusal::Ourselves => Decision::Ourselves,
            Refusal::Closed(_) => Decision::Closed,
        }
    }
}

/// What was decided, for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    Admitted,
    Client,
    Credentials,
    Port,
    Address,
    Denied,
    Metadata,
    Ourselves,
    Closed,
}

impl Label for Decision {
    const KEY: &'static str = "decision";

    fn label(&self) -> &'static str {
        match self {
            Decision::Admitted => "admitted",
            Decision::Client => "client",
            Decision::Credentials => "credentials",
            Decision::Port => "port",
            Decision::Address => "address",
            Decision::Denied => "denied",
            Decision::Metadata => "metadata",
            Decision::Ourselves => "ourselves",
            Decision::Closed => "closed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(config: Config) -> Admission {
        Admission::new(config, &Registry::default()).unwrap()
    }

    fn target(text: &str) -> Target {
        Target::parse_connect(text).unwrap()
    }

    fn judged(
        admission: &Admission,
        standing: Standing,
        name: &str,
        address: &str,
        heard: Heard,
    ) -> Result<Judged, Refusal> {
        let permit = match standing {
            Standing::Configured => admission.configured(&target(name)),
            _ => admission.target(standing, Dialect::Connect, &target(name)).unwrap(),
        };
        permit.judge(address.parse().unwrap(), heard)
    }

    #[test]
    fn ports_are_the_usual_ones_and_those_that_were_opened() {
        let closed = admission(Config::default());
        let ask =
            |admission: &Admission, dialect, text| admission.target(Standing::Local, dialect, &target(text)).is_ok();
        assert!(ask(&closed, Dialect::Connect, "a.example:443") && ask(&closed, Dialect::Connect, "a.example:22"));
        assert!(!ask(&closed, Dialect::Connect, "a.example:25") && !ask(&closed, Dialect::Connect, "a.example:80"));
        assert!(ask(&closed, Dialect::Http, "a.example:8080") && !ask(&closed, Dialect::Http, "a.example:443"));
        let opened = admission(Config { ports: vec![25], ..Config::default() });
        assert!(ask(&opened, Dialect::Connect, "a.example:25"));
    }

    /// `--deny-target 10.0.0.0/8` kept nobody from `64:ff9b::10.1.2.3` where the network has a NAT64.
    #[test]
    fn networks_hold_the_ipv4_addresses_that_nat64_carries() {
        let net = |text: &str| vec![text.parse().unwrap()];
        let rules = admission(Config { deny: net("8.8.8.0/24"), allow: net("10.1.0.0/16"), ..Config::default() });
        let ask = |address| judged(&rules, Standing::Remote, "a.example:443", address, Heard::Inside).map(drop);
        let denied = "64:ff9b::808:808";
        assert_eq!(ask(denied), Err(Refusal::Denied(denied.parse().unwrap())));
        assert_eq!(ask("64:ff9b::a01:203"), Ok(()));
        assert!(ask("64:ff9b::a02:203").is_err());
    }

    /// Connecting to 0.0.0.0 reaches a listener on 127.0.0.1, which no rule of reach may open.
    #[test]
    fn no_address_in_particular_is_this_host() {
        let rules = admission(Config { allow: vec!["0.0.0.0/0".parse().unwrap()], ..Config::default() });
        rules.own(vec!["127.0.0.1:443".parse().unwrap(), "[::]:8443".parse().unwrap()]);
        for own in ["127.0.0.1:443", "0.0.0.0:443", "[::]:8443", "[::1]:8443"] {
            assert_eq!(
                rules.target(Standing::Local, Dialect::Connect, &target(own)).map(drop),
                Err(Refusal::Ourselves),
                "{own}"
            );
        }
    }

    /// A NAT64 leads back to the machine that it was asked from.
    #[test]
    fn no_way_through_a_nat64_leads_to_ourselves() {
        let rules = admission(Config { allow: vec!["203.0.113.0/24".parse().unwrap()], ..Config::default() });
        rules.own(vec!["203.0.113.7:443".parse().unwrap()]);
        let ask = |text| rules.target(Standing::Remote, Dialect::Connect, &target(text)).map(drop);
        assert_eq!(ask("[64:ff9b::cb00:7107]:443"), Err(Refusal::Ourselves));
        assert_eq!(ask("[64:ff9b::cb00:7108]:443"), Ok(()));
        assert_eq!(ask("[64:ff9b::cb00:7107]:8443"), Ok(()));
    }

    #[test]
    fn no_client_gains_reach_by_us() {
        let rules = admission(Config::default());
        let table = [
            (Standing::Local, "10.0.0.1", Heard::Inside, true),
            (Standing::Local, "10.0.0.1", Heard::Outside, false),
            (Standing::Remote, "10.0.0.1", Heard::Inside, false),
            (Standing::Configured, "10.0.0.1", Heard::Inside, true),
            (Standing::Remote, "8.8.8.8", Heard::Outside, true),
            (Standing::Local, "127.0.0.1", Heard::Inside, false),
            (Standing::Configured, "127.0.0.1", Heard::Inside, false),
            (Standing::Local, "169.254.1.1", Heard::Inside, false),
            (Standing::Configured, "198.18.0.1", Heard::Inside, false),
            (Standing::Configured, "169.254.169.254", Heard::Inside, false),
        ];
        for (standing, address, heard, open) in table {
            let outcome = judged(&rules, standing, "git.corp.example:443", address, heard);
            assert_eq!(outcome.is_ok(), open, "{standing:?} {address} {heard:?}: {outcome:?}");
        }
        assert!(judged(&rules, Standing::Configured, "localhost:8081", "127.0.0.1", Heard::Inside).is_ok());
    }

    #[test]
    fn a_literal_address_is_judged_before_anything_is_dialled() {
        let rules = admission(Config::default());
        let refusal = rules.target(Standing::Local, Dialect::Connect, &target("127.1:443")).err().unwrap();
        assert_eq!(refusal.to_string(), "127.0.0.1 is a loopback address; allow: --allow-target 127.0.0.1");
    }

    #[test]
    fn allow_opens_deny_closes_and_metadata_stays_closed() {
        let rules = admission(Config {
            allow: vec!["203.0.113.0/24".parse().unwrap(), "169.254.0.0/16".parse().unwrap()],
            deny: vec!["203.0.113.9/32".parse().unwrap()],
            ..Config::default()
        });
        let judge = |address| judged(&rules, Standing::Remote, "a.example:443", address, Heard::Inside);
        assert!(judge("203.0.113.8").is_ok());
        assert_eq!(judge("203.0.113.9").unwrap_err().decision(), Decision::Denied);
        assert_eq!(judge("169.254.169.254").unwrap_err(), Refusal::Metadata);
    }

    #[test]
    fn a_gateway_brings_whatever_port_its_rules_say_and_no_address_more() {
        let rules = admission(Config::default());
        rules.own(vec!["0.0.0.0:3129".parse().unwrap()]);
        let ask = |text| rules.target(Standing::Remote, Dialect::Redirected, &target(text)).map(drop);
        assert_eq!(ask("9.9.9.9:25"), Ok(()));
        assert!(matches!(ask("10.1.2.3:443"), Err(Refusal::Address { .. })));
        assert_eq!(ask("169.254.169.254:80"), Err(Refusal::Metadata));
        assert_eq!(ask("127.0.0.1:3129"), Err(Refusal::Ourselves));
    }

    #[test]
    fn we_never_dial_ourselves() {
        let rules = admission(Config { allow: vec!["127.0.0.0/8".parse().unwrap()], ..Config::default() });
        rules.own(vec!["127.0.0.1:8443".parse().unwrap()]);
        let permit = |text| rules.target(Standing::Local, Dialect::Connect, &target(text));
        assert_eq!(permit("127.0.0.1:8443").err().unwrap(), Refusal::Ourselves);
        assert!(permit("127.0.0.1:443").is_ok());
    }
}
