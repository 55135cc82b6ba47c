//! What this machine says about names: resolv.conf and the hosts file, followed when they change.
//!
//! Both are looked at when a look-up starts, at most once a second, and read again when their
//! date, size or inode is another. A file that is missing, empty or full of nonsense is no error:
//! it is said once, and there are no system servers.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use hickory_proto::op::Query;
use hickory_proto::rr::RecordType;
use hickory_resolver::Hosts;
use tokio::time::Instant;

use crate::target::{Name, unwrap_mapped};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// go and glibc read no more (resolv.conf(5), MAXNS); more than that has nothing to say to them.
pub(super) const MOST_SERVERS: usize = 3;

/// The two files, as they were when last looked at.
pub(super) struct System {
    resolv_conf: PathBuf,
    hosts_file: PathBuf,
    // Replaced whole; readers take the Arc and leave.
    current: RwLock<Arc<Snapshot>>,
    // When the files were last looked at. `try_lock`: whoever looks, looks for all.
    looked: Mutex<(Instant, [Option<Stamp>; 2])>,
}

/// What the files said.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub resolv: Resolv,
    pub hosts: Arc<Hosts>,
}

/// What concerns us in resolv.conf(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolv {
    pub servers: Vec<SocketAddr>,
    pub search: Vec<Name>,
    /// Names with fewer dots may be short for one under the search list.
    pub ndots: usize,
    /// `options rotate`: which server go asks first is chance.
    pub rotate: bool,
    /// Lines that say nothing we understand.
    pub nonsense: Vec<String>,
}

impl Default for Resolv {
    fn default() -> Resolv {
        Resolv { servers: Vec::new(), search: Vec::new(), ndots: 1, rotate: false, nonsense: Vec::new() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl System {
    pub(super) fn new(resolv_conf: PathBuf, hosts_file: PathBuf, now: Instant) -> System {
        let stamps = [stamp(&resolv_conf), stamp(&hosts_file)];
        let resolv = read_resolv(&resolv_conf);
        let hosts = Arc::new(read_hosts(&hosts_file));
        System {
            resolv_conf,
            hosts_file,
            current: RwLock::new(Arc::new(Snapshot { resolv, hosts })),
            looked: Mutex::new((now, stamps)),
        }
    }

    pub(super) fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the hosts file says about a name.
    pub(super) fn host(&self, name: &Name) -> Option<Vec<IpAddr>> {
        look_up(&self.current().hosts, name)
    }

    /// Looks at the files if a second has passed. True if resolv.conf says something else now.
    pub(super) fn look(&self, now: Instant) -> bool {
        let Ok(mut looked) = self.looked.try_lock() else { return false };
        if now.saturating_duration_since(looked.0) < LOOK_EVERY {
            return false;
        }
        let stamps = [stamp(&self.resolv_conf), stamp(&self.hosts_file)];
        let changed = stamps != looked.1;
        *looked = (now, stamps);
        changed && self.read_again()
    }

    fn read_again(&self) -> bool {
        let before = self.current();
        let resolv = read_resolv(&self.resolv_conf);
        let other = resolv.servers != before.resolv.servers || resolv.search != before.resolv.search;
        let hosts = Arc::new(read_hosts(&self.hosts_file));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Snapshot { resolv, hosts });
        other
    }

    pub(super) fn resolv_conf(&self) -> &Path {
        &self.resolv_conf
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
    #[cfg(not(unix))]
    let inode = 0;
    Some(Stamp { modified: metadata.modified().ok(), length: metadata.len(), inode })
}

fn read_resolv(path: &Path) -> Resolv {
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            tracing::warn!("{} cannot be read ({error}): there are no system name servers", path.display());
            return Resolv::default();
        }
    };
    let resolv = parse_resolv(&text);
    for line in &resolv.nonsense {
        tracing::warn!("{}: skipped a line that makes no sense: {line:?}", path.display());
    }
    if resolv.servers.is_empty() {
        tracing::warn!("{} names no name server: only the fallback servers will be asked", path.display());
    }
    resolv
}

/// Reads resolv.conf(5). The last `search` or `domain` counts.
pub(super) fn parse_resolv(text: &str) -> Resolv {
    let mut resolv = Resolv::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or("").trim();
        let mut words = line.split_whitespace();
        let Some(keyword) = words.next() else { continue };
        match keyword {
            "nameserver" => match words.next().and_then(parse_server) {
                Some(server) if resolv.servers.len() < MOST_SERVERS => resolv.servers.push(server),
                Some(_) => {}
                None => resolv.nonsense.push(excerpt(line)),
            },
            "search" | "domain" => resolv.search = words.filter_map(|word| Name::parse(word).ok()).collect(),
            "options" => words.for_each(|word| read_option(&mut resolv, word)),
            "sortlist" | "lookup" | "family" => {}
            _ => resolv.nonsense.push(excerpt(line)),
        }
    }
    resolv
}

fn read_option(resolv: &mut Resolv, word: &str) {
    match word.split_once(':') {
        None if word == "rotate" => resolv.rotate = true,
        // resolv.conf(5): silently capped to 15.
        Some(("ndots", dots)) => resolv.ndots = dots.parse().unwrap_or(resolv.ndots).min(15),
        _ => {}
    }
}

fn excerpt(line: &str) -> String {
    line.chars().filter(|character| !character.is_control()).take(80).collect()
}

/// An address, and for a link-local one the interface that it is reached through.
fn parse_server(word: &str) -> Option<SocketAddr> {
    match word.split_once('%') {
        None => word.parse::<IpAddr>().ok().map(|address| SocketAddr::new(unwrap_mapped(address), 53)),
        Some((address, zone)) => {
            let scope = zone.parse().ok().or_else(|| interface_index(zone))?;
            Some(SocketAddrV6::new(address.parse().ok()?, 53, 0, scope).into())
        }
    }
}

fn interface_index(interface: &str) -> Option<u32> {
    if interface.contains('/') {
        return None;
    }
    let index = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex")).ok()?;
    index.trim().parse().ok()
}

/// Reads hosts(5). Lines that say nothing are skipped.
fn read_hosts(path: &Path) -> Hosts {
    let mut hosts = Hosts::default();
    let read = std::fs::File::open(path).and_then(|file| hosts.read_hosts_conf(file));
    if let Err(error) = read {
        tracing::debug!("hosts file {}: {error}", path.display());
    }
    hosts
}

/// All addresses of a name in the hosts file, each once.
fn look_up(hosts: &Hosts, name: &Name) -> Option<Vec<IpAddr>> {
    let name = hickory_proto::rr::Name::from_ascii(name.as_str()).ok()?;
    let mut addresses = Vec::new();
    for kind in [RecordType::A, RecordType::AAAA] {
        let Some(found) = hosts.lookup_static_host(&Query::query(name.clone(), kind)) else { continue };
        for address in found.answers().iter().filter_map(|record| record.data.ip_addr()).map(unwrap_mapped) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    (!addresses.is_empty()).then_some(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_and_nonsense_is_kept_apart() {
        let resolv = parse_resolv(
            "# made by hand\nnameserver 192.168.1.1\nnameserver fd00::1 ; inside\nnameserver 1.2.3\n\
             domain old.example\nsearch corp.example. ../x com\noptions ndots:5 rotate\nqwerty\n\
             nameserver fe80::1%3\nnameserver 9.9.9.9\n",
        );
        let servers = ["192.168.1.1:53", "[fd00::1]:53", "[fe80::1%3]:53"];
        assert_eq!(resolv.servers, servers.map(|text| text.parse::<SocketAddr>().unwrap()));
        assert_eq!(resolv.search, [Name::parse("corp.example").unwrap(), Name::parse("com").unwrap()]);
        assert!(resolv.rotate && resolv.ndots == 5);
        assert_eq!(resolv.nonsense, ["nameserver 1.2.3", "qwerty"]);
    }

    #[test]
    fn hosts_have_all_their_addresses() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "10.0.0.1 Mirror.example mirror # here\n::1 mirror\nx y\n10.0.0.1 mirror\n::ffff:10.0.0.2 mapped\n";
        std::fs::write(&file, text).unwrap();
        let hosts = read_hosts(file.path());
        let addresses = |name: &str| -> Vec<String> {
            let found = look_up(&hosts, &Name::parse(name).unwrap()).unwrap_or_default();
            found.iter().map(ToString::to_string).collect()
        };
        assert_eq!(addresses("mirror"), ["10.0.0.1", "::1"]);
        assert_eq!(
            (addresses("mirror.example"), addresses("mapped")),
            (vec!["10.0.0.1".into()], vec!["10.0.0.2".into()])
        );
        assert!(addresses("y").is_empty());
    }

    #[test]
    fn a_changed_file_is_seen_after_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let [resolv_conf, hosts] = ["resolv.conf", "hosts"].map(|file| folder.path().join(file));
        let start = Instant::now();
        let system = System::new(resolv_conf.clone(), hosts.clone(), start);
        assert!(system.current().resolv.servers.is_empty());
        std::fs::write(&resolv_conf, "nameserver 10.0.0.1\n").unwrap();
        std::fs::write(&hosts, "10.0.0.2 mirror\n").unwrap();
        assert!(!system.look(start + LOOK_EVERY / 2), "too early to look again");
        assert!(system.look(start + LOOK_EVERY));
        assert_eq!(system.current().resolv.servers, ["10.0.0.1:53".parse::<SocketAddr>().unwrap()]);
        assert!(system.host(&Name::parse("mirror").unwrap()).is_some());
        assert!(!system.look(start + 3 * LOOK_EVERY), "nothing changed since");
    }
}
