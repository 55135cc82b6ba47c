//! What the typed values mean: the sum of the rooms' own `Config`s.
//!
//! Every complaint names the place where the value was typed, the value, and what was expected.
//! What the surroundings add (go's own settings, folders, the memory limit) is read here and
//! nowhere else.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;

use super::typed::{self, Entry, Origin, Typed};
use super::{defaults, folders};
use crate::connect::{Parents, Way};
use crate::service::User;
use crate::target::{Base, Name, Scope};
use crate::{accept, admit, cache, connect, goproxy, intercept, otlp, resolve};

/// The effective settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clients reach us without TLS.
    pub listen: Vec<SocketAddr>,
    /// Where they reach us over it.
    pub listen_tls: Vec<SocketAddr>,
    pub listen_names: Vec<Name>,
    /// Where a gateway redirects the web traffic of the build subnet.
    pub transparent: Vec<SocketAddr>,
    /// Where names are answered for, over UDP and TCP.
    pub dns: Vec<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub admin_hosts: Vec<String>,
    pub cache_dir: Folder,
    pub state_dir: Folder,
    pub cache: cache::Config,
    pub intercept: intercept::Config,
    pub resolve: resolve::Config,
    pub goproxy: goproxy::Config,
    pub connect: connect::Config,
    pub admit: admit::Config,
    pub accept: accept::Config,
    /// Whom to become once the ports are bound.
    pub user: Option<User>,
    /// Who collects traces.
    pub otlp: Option<otlp::Endpoint>,
    pub log: Log,
    /// What was noticed on the way: said at the start.
    pub notices: Vec<String>,
}

/// A folder of ours, and whether the user named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// What is kept there, as a message calls it.
    pub what: &'static str,
    /// The flag that names another.
    pub flag: &'static str,
    /// Nothing where the surroundings give no place at all (no home).
    pub path: Option<PathBuf>,
    /// A named folder must be usable; a default one need not.
    pub named: bool,
}

/// How the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// None where nobody said: each command has a usual one.
    pub level: Option<tracing::level_filters::LevelFilter>,
    pub json: bool,
}

/// Why the settings cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Typed(#[from] typed::Error),
    #[error("{origin} = {value:?}: {why}")]
    Value { origin: Origin, value: String, why: String },
    #[error("{0}")]
    Roots(connect::RootsError),
    #[error(
        "--listen {0} is open to the network, so it must be said who may use it: --client CIDR or --credentials FILE"
    )]
    Open(SocketAddr),
    #[error("TLS to clients wants both --tls-cert FILE and --tls-key FILE")]
    HalfTls,
    #[error(
        "--transparent {0} is open to the network, so it must be said who may use it: --client CIDR (a password is none, redirected clients have no place for it)"
    )]
    OpenTransparent(SocketAddr),
    #[error(
        "--dns {0} is open to the network, so it must be said who may ask: --client CIDR (a password is none, DNS has no place for it)"
    )]
    OpenDns(SocketAddr),
    #[error(
        "--dns with --client {0} would answer the whole Internet and be used against others: name the networks of the builds"
    )]
    EverybodysDns(IpNet),
}

impl Error {
    /// Whether it stands in a file, where there may be more of it.
    pub fn is_of_a_file(&self) -> bool {
        match self {
            Error::Typed(error) => error.place().is_some(),
            Error::Value { origin, .. } => origin.place().is_some(),
            _ => false,
        }
    }

    /// Whether a file that was named cannot be read.
    pub fn is_no_file(&self) -> bool {
        matches!(self, Error::Typed(typed::Error::Unreadable { .. }))
    }

    /// The settings that it is about, but for one value's fault.
    pub(super) fn keys(&self) -> &'static [&'static str] {
        match self {
            Error::Typed(_) | Error::Value { .. } => &[],
            Error::Roots(_) => &["fetch.extra_roots"],
            Error::Open(_) => &["listen", "listen_tls.listen"],
            Error::HalfTls => &["listen_tls.cert", "listen_tls.key", "listen_tls.client_ca", "listen_tls.listen"],
            Error::OpenTransparent(_) => &["transparent.listen"],
            Error::OpenDns(_) | Error::EverybodysDns(_) => &["dns.listen"],
        }
    }

    /// The listener that it is about.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Error::Open(address) | Error::OpenTransparent(address) | Error::OpenDns(address) => Some(*address),
            _ => None,
        }
    }

    /// The settings for want of which it is wrong.
    pub(super) fn rests_on(&self) -> &'static [&'static str] {
        match self {
            Error::Open(_) => &["admit.clients", "admit.credentials", "listen_tls.client_ca", "listen_tls.cert"],
            Error::OpenTransparent(_) | Error::OpenDns(_) => &["admit.clients"],
            Error::HalfTls => &["listen_tls.cert", "listen_tls.key"],
            _ => &[],
        }
    }
}

impl Settings {
    /// Gives meaning to what was typed, in these surroundings.
    pub fn understand(typed: &Typed, around: &dyn Fn(&str) -> Option<String>) -> Result<Settings, Error> {
        let read = Reader { typed };
        let mut notices = Vec::new();
        let admit = understand_admit(&read)?;
        let accept = understand_accept(&read)?;
        let (listen, listen_tls) = understand_listen(&read, accept.tls.is_some())?;
        let upstreams = read.list::<Base>("goproxy.upstreams")?;
        let private = match read.patterns("goproxy.private")? {
            listed if listed.is_empty() => folders::go_private(around),
            listed => folders::GoPrivate { unshared: listed.clone(), unjudged: listed },
        };
        let goproxy = understand_goproxy(&read, upstreams.clone(), private)?;
        let intercept = understand_intercept(&read, around)?;
        let resolve = understand_resolve(&read, &admit, &goproxy, &intercept)?;
        let connect = understand_connect(&read, around, &mut notices)?;
        let settings = Settings {
            listen,
            listen_tls,
            listen_names: read.list("listen_names")?,
            transparent: read.list("transparent.listen")?,
            dns: read.list("dns.listen")?,
            admin: understand_admin(&read)?,
            admin_hosts: read.list("admin.hosts")?,
            cache_dir: read.folder("cache.dir", "the cache", "cache-dir", folders::cache(around))?,
            state_dir: read.folder("state_dir", "the state", "state-dir", folders::state(around))?,
            cache: cache::Config {
                dir: None,
                size: read.parsed::<Bound>("cache.size")?.map_or(defaults::CACHE_SIZE, |bound| bound.0.0),
                memory: read.parsed::<Size>("cache.memory")?.map_or_else(folders::cache_memory, |size| size.0),
                pins: goproxy::pin_modules(&read.patterns("cache.pins")?),
            },
            intercept,
            resolve,
            goproxy,
            connect,
            admit,
            accept,
            user: read.parsed("user")?,
            otlp: understand_otlp(&read, around)?,
            log: Log {
                level: read.parsed("log.level")?,
                json: read.word("log.format", &["text", "json"])?.is_some_and(|word| word == "json"),
            },
            notices,
        };
        settings.check()
    }

    /// A listener beyond this host needs to be told who may use it.
    fn check(self) -> Result<Settings, Error> {
        let admit = &self.admit;
        let guarded = !admit.clients.is_empty() || admit.credential.is_some() || admit.credentials.is_some();
        let certified = self.accept.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let open_to_all = |address: &&SocketAddr| is_open(address) && !guarded;
        if let Some(address) = self.listen.iter().find(open_to_all) {
            return Err(Error::Open(*address));
        }
        if let Some(address) = self.listen_tls.iter().find(open_to_all).filter(|_| !certified) {
            return Err(Error::Open(*address));
        }
        let nobodys = |address: &&SocketAddr| is_open(address) && self.admit.clients.is_empty();
        if let Some(address) = self.transparent.iter().find(nobodys) {
            return Err(Error::OpenTransparent(*address));
        }
        if let Some(address) = self.dns.iter().find(nobodys) {
            return Err(Error::OpenDns(*address));
        }
        match self.admit.clients.iter().find(|network| network.prefix_len() == 0) {
            Some(everybody) if !self.dns.is_empty() => Err(Error::EverybodysDns(*everybody)),
            _ => Ok(self),
        }
    }
}

/// Whether others than this host can reach a listener.
fn is_open(address: &SocketAddr) -> bool {
    Scope::of(address.ip()) != Scope::Loopback || address.ip().is_unspecified()
}

fn understand_admit(read: &Reader<'_>) -> Result<admit::Config, Error> {
    Ok(admit::Config {
        allow: read.networks("admit.allow")?,
        deny: read.networks("admit.deny")?,
        ports: read.list("admit.ports")?,
        clients: read.networks("admit.clients")?,
        credential: None,
        closed: None,
        credentials: read.file("admit.credentials")?,
    })
}

fn understand_accept(read: &Reader<'_>) -> Result<accept::Config, Error> {
    let (cert, key) = (read.file("listen_tls.cert")?, read.file("listen_tls.key")?);
    let client_ca = read.file("listen_tls.client_ca")?;
    let tls = match (cert, key) {
        (Some(cert), Some(key)) => Some(accept::TlsConfig { cert, key, client_ca }),
        (None, None) if client_ca.is_none() && read.typed.all("listen_tls.listen").is_none() => None,
        _ => return Err(Error::HalfTls),
    };
    Ok(accept::Config {
        per_client: read.parsed("admit.per_client")?.unwrap_or(accept::PER_CLIENT),
        tls,
        proxy_protocol: read.networks("accept.proxy_protocol")?,
    })
}

/// The listeners without TLS and those over it. Where none of the latter are named, a certificate is for all.
fn understand_listen(read: &Reader<'_>, tls: bool) -> Result<(Vec<SocketAddr>, Vec<SocketAddr>), Error> {
    let listen = read.list_or("listen", vec![defaults::LISTEN])?;
    let over_tls = read.list("listen_tls.listen")?;
    Ok(if tls && over_tls.is_empty() { (Vec::new(), listen) } else { (listen, over_tls) })
}

fn understand_admin(read: &Reader<'_>) -> Result<Option<SocketAddr>, Error> {
    match read.typed.one("admin.listen") {
        None => Ok(Some(defaults::ADMIN)),
        Some(entry) if entry.text == "none" => Ok(None),
        Some(entry) => parse(entry).map(Some),
    }
}

/// Nobody is told anything unasked: OpenTelemetry's own variables are often meant for somebody else.
fn understand_otlp(
    read: &Reader<'_>,
    around: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<otlp::Endpoint>, Error> {
    match read.typed.one("trace.otlp") {
        None => Ok(None),
        Some(entry) if entry.text == "none" => Ok(None),
        Some(entry) if entry.text == "env" => {
            otlp::Endpoint::from_environment(around).map_err(|why| complain(entry, why))
        }
        Some(entry) => otlp::Endpoint::parse(&entry.text).map(Some).map_err(|why| complain(entry, why)),
    }
}

fn understand_goproxy(
    read: &Reader<'_>,
    upstreams: Vec<Base>,
    private: folders::GoPrivate,
) -> Result<goproxy::Config, Error> {
    let default = goproxy::Config::default();
    let sumdb = match read.typed.all("goproxy.sumdb") {
        None => default.sumdb,
        Some(entries) => {
            let read = |entry: &Entry| goproxy::SumdbConfig::parse(&entry.text).map_err(|why| complain(entry, why));
            entries.iter().map(read).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect()
        }
    };
    Ok(goproxy::Config {
        upstreams,
        sumdb,
        private: private.unshared,
        unjudged: private.unjudged,
        hold: read.parsed::<Size>("goproxy.hold")?.map_or(default.hold, |size| size.0),
        hold_for: read.parsed::<Span>("goproxy.hold_for")?.map_or(default.hold_for, |span| span.0),
        fresh: read.parsed::<Span>("goproxy.fresh")?.map_or(default.fresh, |span| span.0),
        ..default
    })
}

fn understand_intercept(
    read: &Reader<'_>,
    around: &dyn Fn(&str) -> Option<String>,
) -> Result<intercept::Config, Error> {
    let folder = read.folder("intercept.ca_dir", "the CA", "ca-dir", folders::ca(around))?;
    let mut hosts: Vec<intercept::HostPattern> = built_in_hosts().collect();
    hosts.extend(read.list::<intercept::HostPattern>("intercept.hosts")?);
    Ok(intercept::Config {
        // No home, no place for a CA.
        mode: match read.word("intercept.mode", &["auto", "always", "off"])?.as_deref() {
            Some("off") => intercept::Mode::Off,
            _ if folder.path.is_none() => intercept::Mode::Off,
            Some("always") => intercept::Mode::Always,
            _ => intercept::Mode::Auto,
        },
        ca_dir: folder.path.unwrap_or_default(),
        ca_dir_named: folder.named,
        hosts,
        trusted_by: read.networks("intercept.trusted_by")?,
        state_dir: None,
    })
}

fn understand_resolve(
    read: &Reader<'_>,
    admit: &admit::Config,
    goproxy: &goproxy::Config,
    intercept: &intercept::Config,
) -> Result<resolve::Config, Error> {
    let default = resolve::Config::default();
    let fallback = match read.typed.all("resolve.fallback") {
        None => default.fallback,
        Some([only]) if only.text == "none" => Vec::new(),
        Some(entries) => entries.iter().map(parse).collect::<Result<_, _>>()?,
    };
    Ok(resolve::Config {
        nameservers: read.list_or("resolve.nameservers", default.nameservers)?,
        fallback,
        scope: read.parsed("resolve.scope")?.unwrap_or(default.scope),
        private: read.suffixes("resolve.private")?,
        known: read.suffixes("resolve.known")?,
        hosts: read.list::<NamedAddress>("resolve.hosts")?.into_iter().map(|host| (host.name, host.address)).collect(),
        zones: read.list::<Zone>("resolve.zones")?.into_iter().map(|zone| (zone.suffix, zone.server)).collect(),
        allow: admit.allow.clone(),
        configured_hosts: configured_hosts(goproxy, intercept),
        private_hosts: private_hosts(&goproxy.private),
        roots: connect::read_roots(&read.list::<PathBuf>("fetch.extra_roots")?).map_err(Error::Roots)?,
        ..default
    })
}

/// The hosts that serve nothing but modules and records.
fn built_in_hosts() -> impl Iterator<Item = intercept::HostPattern> {
    goproxy::default_hosts().into_iter().filter_map(|host| host.to_string().parse().ok())
}

/// Hosts that the user named, as opposed to those that are built in.
fn configured_hosts(goproxy: &goproxy::Config, intercept: &intercept::Config) -> Vec<Name> {
    let upstreams = goproxy.upstreams.iter().filter_map(|base| base.target.host.name().cloned());
    let built_in: Vec<_> = built_in_hosts().collect();
    let hosts = intercept.hosts.iter().filter(|host| !built_in.contains(host)).map(|host| host.base().clone());
    upstreams.chain(hosts).collect()
}

/// The hosts that private module patterns begin with: `git.corp.example/*` is about git.corp.example,
/// `*.corp.example` about all beneath corp.example.
fn private_hosts(patterns: &[String]) -> Vec<Name> {
    let host = |pattern: &String| {
        let host = pattern.split('/').next().unwrap_or_default();
        resolve::parse_suffix(host.trim_start_matches("*.")).ok()
    };
    patterns.iter().filter_map(host).collect()
}

fn understand_connect(
    read: &Reader<'_>,
    around: &dyn Fn(&str) -> Option<String>,
    notices: &mut Vec<String>,
) -> Result<connect::Config, Error> {
    let (mut all, mut rules) = (Way::Environment, Vec::new());
    for way in read.list("connect.parent")? {
        match way {
            Way::For(rule) => rules.push(rule),
            way => all = way,
        }
    }
    let parents = match all {
        Way::Through(parent) => Parents::all(parent, around),
        Way::Environment | Way::For(_) => {
            let (parents, said) = Parents::from_environment(around);
            notices.extend(said);
            parents
        }
        Way::Directly => Parents::default(),
    };
    Ok(connect::Config { extra_roots: read.list("fetch.extra_roots")?, parents: parents.except(rules) })
}

/// Reads typed values as what they are meant to be.
struct Reader<'a> {
    typed: &'a Typed,
}

impl Reader<'_> {
    fn parsed<T: FromStr<Err: Display>>(&self, key: &'static str) -> Result<Option<T>, Error> {
        self.typed.one(key).map(parse).transpose()
    }

    fn list<T: FromStr<Err: Display>>(&self, key: &'static str) -> Result<Vec<T>, Error> {
        self.typed.all(key).unwrap_or_default().iter().map(parse).collect()
    }

    fn list_or<T: FromStr<Err: Display>>(&self, key: &'static str, default: Vec<T>) -> Result<Vec<T>, Error> {
        let listed = self.list(key)?;
        Ok(if listed.is_empty() { default } else { listed })
    }

    fn patterns(&self, key: &'static str) -> Result<Vec<String>, Error> {
        Ok(self.list::<Patterns>(key)?.into_iter().flat_map(|patterns| patterns.0).collect())
    }

    fn suffixes(&self, key: &'static str) -> Result<Vec<Name>, Error> {
        let suffix = |entry: &Entry| resolve::parse_suffix(&entry.text).map_err(|why| complain(entry, why));
        self.typed.all(key).unwrap_or_default().iter().map(suffix).collect()
    }

    fn networks(&self, key: &'static str) -> Result<Vec<IpNet>, Error> {
        Ok(self.list::<Network>(key)?.into_iter().map(|network| network.0).collect())
    }

    fn file(&self, key: &'static str) -> Result<Option<PathBuf>, Error> {
        let Some(entry) = self.typed.one(key) else { return Ok(None) };
        if entry.text.is_empty() {
            return Err(complain(entry, "expected a file"));
        }
        std::path::absolute(&entry.text).map(Some).map_err(|error| complain(entry, error))
    }

    fn word(&self, key: &'static str, words: &[&str]) -> Result<Option<String>, Error> {
        let Some(entry) = self.typed.one(key) else { return Ok(None) };
        if words.contains(&entry.text.as_str()) {
            return Ok(Some(entry.text.clone()));
        }
        Err(complain(entry, format!("expected {}", words.join(" or "))))
    }

    fn folder(
        &self,
        key: &'static str,
        what: &'static str,
        flag: &'static str,
        default: Option<PathBuf>,
    ) -> Result<Folder, Error> {
        let Some(entry) = self.typed.one(key) else { return Ok(Folder { what, flag, path: default, named: false }) };
        if entry.text.is_empty() {
            return Err(complain(entry, "expected a folder"));
        }
        let path = Path::new(&entry.text);
        let path = std::path::absolute(path).map_err(|error| complain(entry, error))?;
        Ok(Folder { what, flag, path: Some(path), named: true })
    }
}

fn parse<T: FromStr<Err: Display>>(entry: &Entry) -> Result<T, Error> {
    entry.text.parse().map_err(|why: T::Err| complain(entry, expected::<T>().unwrap_or(why.to_string())))
}

/// Better words than the standard library has for what it could not read.
fn expected<T>() -> Option<String> {
    let name = std::any::type_name::<T>();
    let said = if name.ends_with("SocketAddr") {
        "expected ADDRESS:PORT, such as 127.0.0.1:3128 or [::1]:3128"
    } else if name == "usize" {
        "expected a number"
    } else if name == "u16" {
        "expected a port from 1 to 65535"
    } else if name.ends_with("LevelFilter") {
        "expected error, warn, info, debug or trace"
    } else {
        return None;
    };
    Some(said.to_owned())
}

fn complain(entry: &Entry, why: impl Display) -> Error {
    Error::Value { origin: entry.origin.clone(), value: without_secrets(&entry.text), why: why.to_string() }
}

/// What is told ends up in logs: what may be a password or a token in a URL is left out of it.
pub(super) fn without_secrets(text: &str) -> String {
    let (text, token) = match text.split_once('?').filter(|(url, _)| url.contains("://")) {
        Some((url, _)) => (url, "?***"),
        None => (text, ""),
    };
    let Some(at) = text.rfind('@') else { return format!("{text}{token}") };
    let begin = text.find("://").map_or(0, |scheme| scheme + 3).min(at);
    format!("{}***{}{token}", &text[..begin], &text[at..])
}

/// `20GiB`, `64 MB`, `1024`.
struct Size(u64);

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Size, &'static str> {
        text.parse::<ByteSize>().map(|size| Size(size.0)).map_err(|_| "expected a size such as 20GiB, 500MB or 0")
    }
}

/// The same, of a folder that is emptied down to it: `5` was meant for 5 GiB, and read as bytes would take out everything.
struct Bound(Size);

impl FromStr for Bound {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Bound, &'static str> {
        let size: Size = text.parse()?;
        let is_bare = text.trim().bytes().all(|byte| byte.is_ascii_digit());
        match is_bare && (1..LEAST_BARE).contains(&size.0) {
            true => Err("a number without a unit is bytes; expected a size such as 20GiB, 500MB or 0"),
            false => Ok(Bound(size)),
        }
    }
}

/// So many bytes somebody may have counted; nobody writes gigabytes with as many digits.
const LEAST_BARE: u64 = 1 << 20;

/// `5s`, `1m 30s`, `200ms`.
struct Span(Duration);

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Span, &'static str> {
        let span: Result<jiff::SignedDuration, _> = text.parse();
        let span = span.ok().and_then(|span| Duration::try_from(span).ok());
        span.map(Span).ok_or("expected a duration such as 5s, 200ms or 10m")
    }
}

/// A network, or one address.
struct Network(IpNet);

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Network, &'static str> {
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.map(Network).map_err(|_| "expected a network such as 10.7.0.0/16, or one address")
    }
}

/// Comma-separated GOPRIVATE patterns.
struct Patterns(Vec<String>);

impl FromStr for Patterns {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Patterns, std::convert::Infallible> {
        Ok(Patterns(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()))
    }
}

/// `NAME=ADDR`.
struct NamedAddress {
    name: Name,
    address: IpAddr,
}

impl FromStr for NamedAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<NamedAddress, String> {
        let (name, address) = text.split_once('=').ok_or("expected NAME=ADDRESS")?;
        let name = name.trim().parse().map_err(|error| format!("{name:?}: {error}"))?;
        let address = address.trim().parse().map_err(|_| format!("{address:?} is no IP address"))?;
        Ok(NamedAddress { name, address })
    }
}

/// `SUFFIX=SERVER`.
struct Zone {
    suffix: Name,
    server: resolve::Server,
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Zone, String> {
        let (suffix, server) = text.split_once('=').ok_or("expected SUFFIX=SERVER")?;
        let suffix = suffix.trim().parse().map_err(|error| format!("{suffix:?}: {error}"))?;
        let server = server.trim().parse().map_err(|error| format!("{server:?}: {error}"))?;
        Ok(Zone { suffix, server })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn understood(flags: &[(&'static str, &[&str])]) -> Result<Settings, Error> {
        let owned = |values: &&[&str]| values.iter().map(|&value| value.to_owned()).collect();
        let flags: HashMap<_, _> = flags.iter().map(|(key, values)| (*key, owned(values))).collect();
        let around = |name: &str| (name == "HOME").then(|| "/home/u".to_owned());
        Settings::understand(&Typed::gather(&flags, &|_| None, None).unwrap(), &around)
    }

    fn complaint(key: &'static str, value: &str) -> String {
        understood(&[(key, &[value])]).unwrap_err().to_string()
    }

    #[test]
    fn nothing_typed_is_a_safe_proxy_on_loopback() {
        let settings = understood(&[]).unwrap();
        assert_eq!(settings.listen, ["127.0.0.1:3128".parse().unwrap()]);
        assert_eq!(settings.admin, Some("127.0.0.1:3127".parse().unwrap()));
        assert!(settings.admit.allow.is_empty() && settings.admit.clients.is_empty());
        assert_eq!(settings.intercept.mode, intercept::Mode::Auto);
        assert!(!settings.cache_dir.named && settings.cache_dir.path.is_some());
        assert!(!settings.resolve.fallback.is_empty());
    }

    #[test]
    fn some_lists_replace_the_default_and_the_others_add_to_it() {
        let settings = understood(&[
            ("listen", &["127.0.0.1:1", "[::1]:2"]),
            ("resolve.fallback", &["none"]),
            ("intercept.hosts", &["mirror.corp.example"]),
        ])
        .unwrap();
        assert_eq!(settings.listen.len(), 2);
        assert!(settings.resolve.fallback.is_empty());
        let hosts: Vec<String> = settings.intercept.hosts.iter().map(ToString::to_string).collect();
        assert!(hosts.contains(&"mirror.corp.example".to_owned()) && hosts.contains(&"goproxy.cn".to_owned()));
        assert_eq!(settings.resolve.configured_hosts, ["mirror.corp.example".parse().unwrap()]);
    }

    #[test]
    fn a_listener_for_others_must_say_for_whom() {
        for open in ["0.0.0.0:3128", "[::]:3128", "10.7.0.2:3128"] {
            let refused = understood(&[("listen", &[open])]).unwrap_err().to_string();
            assert!(refused.contains(open) && refused.contains("--client CIDR"), "{refused}");
            assert!(understood(&[("listen", &[open]), ("admit.clients", &["10.7.0.0/16"])]).is_ok());
        }
    }

    #[test]
    fn a_listener_for_others_may_be_guarded_by_users_or_by_certificates() {
        let open = ("listen", &["0.0.0.0:3128"][..]);
        let (cert, key) = (("listen_tls.cert", &["c"][..]), ("listen_tls.key", &["k"][..]));
        assert!(understood(&[open, ("admit.credentials", &["users"])]).is_ok());
        assert!(understood(&[open, cert, key]).is_err(), "TLS alone keeps nobody out");
        assert!(understood(&[open, cert, key, ("listen_tls.client_ca", &["ca"])]).is_ok());
        let beside = ("listen_tls.listen", &["127.0.0.1:3129"][..]);
        assert!(understood(&[open, cert, key, beside, ("listen_tls.client_ca", &["ca"])]).is_err());
    }

    #[test]
    fn a_certificate_is_for_every_listener_unless_some_are_named() {
        let (cert, key) = (("listen_tls.cert", &["c"][..]), ("listen_tls.key", &["k"][..]));
        let all = understood(&[cert, key]).unwrap();
        assert_eq!((all.listen.len(), all.listen_tls), (0, vec![defaults::LISTEN]));
        let some = understood(&[cert, key, ("listen_tls.listen", &["127.0.0.1:3129"])]).unwrap();
        assert_eq!((some.listen, some.listen_tls), (vec![defaults::LISTEN], vec!["127.0.0.1:3129".parse().unwrap()]));
        for half in [cert, key, ("listen_tls.client_ca", &["ca"][..]), ("listen_tls.listen", &["127.0.0.1:1"][..])] {
            assert!(understood(&[half]).unwrap_err().to_string().contains("both --tls-cert FILE and --tls-key FILE"));
        }
    }

    #[test]
    fn every_complaint_says_where_what_and_what_was_expected() {
        let table = [
            ("admit.allow", "10.0.0.0/40", "--allow-target = \"10.0.0.0/40\": expected a network"),
            ("goproxy.hold_for", "soon", "--goproxy.hold_for = \"soon\": expected a duration"),
            ("resolve.hosts", "a.example=nowhere", "\"nowhere\" is no IP address"),
            ("resolve.zones", "corp.example", "expected SUFFIX=SERVER"),
            ("intercept.mode", "sometimes", "expected auto or always or off"),
            ("log.format", "xml", "expected text or json"),
        ];
        for (key, value, words) in table {
            assert!(complaint(key, value).contains(words), "{}", complaint(key, value));
        }
    }

    #[test]
    fn private_patterns_make_their_hosts_private() {
        let settings = understood(&[("goproxy.private", &["git.corp.example/*,*.internal.example/team"])]).unwrap();
        assert_eq!(settings.goproxy.private, ["git.corp.example/*", "*.internal.example/team"]);
        let hosts: Vec<String> = settings.resolve.private_hosts.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["git.corp.example", "internal.example"]);
    }
}
