//! What this machine says about names: resolv.conf, the hosts file and the network that it is on,
//! followed when they change.
//!
//! All are looked at when a look-up starts, at most once a second, and nobody is woken for it: the
//! files are read again when their date, size or inode is another, and `network` says what the kernel
//! told meanwhile. A file that is missing, empty or full of nonsense is no error: it is said once, and
//! there are no system servers. At most [`LONGEST`] of a file is read.

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::network::Network;
use crate::target::{Name, unwrap_mapped};

/// How often the machine is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// go and glibc read no more (resolv.conf(5), MAXNS); more than that has nothing to say to them.
pub(super) const MOST_SERVERS: usize = 3;
/// glibc reads no more than six, newer ones as many as there are; each one costs a question.
const MOST_SUFFIXES: usize = 32;
/// As much as glibc allows (resolv.conf(5)).
const MOST_DOTS: usize = 15;
/// Lines of nonsense that are told one by one.
const MOST_NONSENSE: usize = 8;
/// The longest hosts files are lists of advertisers, of some 10 MiB.
const LONGEST: u64 = 32 << 20;

/// The machine as it was when last looked at.
pub(super) struct System {
    resolv_conf: PathBuf,
    hosts_file: PathBuf,
    network: Network,
    /// Replaced whole.
    current: ArcSwap<Snapshot>,
    started: Instant,
    // Milliseconds after `started` at which somebody is to look again; whoever moves it on, looks.
    next_look: AtomicU64,
    // Of the two files. Only whoever looks takes it.
    stamps: Mutex<[Option<Stamp>; 2]>,
}

/// What the files said.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub resolv: Arc<Resolv>,
    hosts: Arc<HashMap<Name, Vec<IpAddr>>>,
}

/// What is new since the last look.
#[derive(Debug)]
pub(super) struct News {
    /// Other routes or addresses.
    pub network: bool,
    /// Other servers, search list or options.
    pub resolv: bool,
    /// What was there before.
    pub before: Arc<Snapshot>,
}

/// What concerns us in resolv.conf(5). Our ladder has timers and an order of its own, and each question
/// a socket of its own; what go makes of `timeout`, `rotate` and the like is read in `go.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolv {
    pub servers: Vec<SocketAddr>,
    pub search: Vec<Name>,
    /// Names with fewer dots may be short for one under the search list.
    pub ndots: usize,
    /// `options use-vc`: the system's servers are asked over TCP.
    pub use_vc: bool,
    /// `options no-aaaa`: nobody here wants IPv6 addresses.
    pub no_aaaa: bool,
    /// Lines that say nothing we understand, the first of them.
    pub nonsense: Vec<String>,
    /// How many there are.
    pub nonsense_lines: usize,
}

impl Default for Resolv {
    fn default() -> Resolv {
        Resolv {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            use_vc: false,
            no_aaaa: false,
            nonsense: Vec::new(),
            nonsense_lines: 0,
        }
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
        let resolv = Arc::new(read_resolv(&resolv_conf, None));
        let hosts = Arc::new(read_hosts(&hosts_file));
        System {
            resolv_conf,
            hosts_file,
            network: Network::of_this_machine(&resolv.addresses()),
            current: ArcSwap::from_pointee(Snapshot { resolv, hosts }),
            started: now,
            next_look: AtomicU64::new(millis(LOOK_EVERY)),
            stamps: Mutex::new(stamps),
        }
    }

    #[cfg(test)]
    pub(super) fn move_to(&mut self, network: Network) {
        self.network = network;
    }

    pub(super) fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// What the hosts file says about a name: all addresses, each once.
    pub(super) fn host(&self, name: &Name) -> Option<Vec<IpAddr>> {
        self.current.load().hosts.get(name).cloned()
    }

    /// Whether IPv6 is the only way out of here.
    pub(super) fn is_v6_only(&self) -> bool {
        self.network.is_v6_only()
    }

    /// Looks around if a second has passed, and tells what is new.
    pub(super) fn look(&self, now: Instant) -> Option<News> {
        let elapsed = millis(now.saturating_duration_since(self.started));
        let due = self.next_look.load(Ordering::Relaxed);
        let next = elapsed + millis(LOOK_EVERY);
        if elapsed < due || self.next_look.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return None;
        }
        let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.current();
        let network = self.network.has_changed(&before.resolv.addresses());
        let [resolv_stamp, hosts_stamp] =
            std::mem::replace(&mut *stamps, [stamp(&self.resolv_conf), stamp(&self.hosts_file)]);
        let mut snapshot = Snapshot::clone(&before);
        // On another network an interface that the file names (`fe80::1%eth0`) may be there now.
        if resolv_stamp != stamps[0] || network {
            snapshot.resolv = Arc::new(read_resolv(&self.resolv_conf, Some(&before.resolv)));
        }
        if hosts_stamp != stamps[1] {
            snapshot.hosts = Arc::new(read_hosts(&self.hosts_file));
        }
        let resolv = snapshot.resolv != before.resolv;
        self.current.store(Arc::new(snapshot));
        (network || resolv).then_some(News { network, resolv, before })
    }

    pub(super) fn resolv_conf(&self) -> &Path {
        &self.resolv_conf
    }
}

impl Resolv {
    fn addresses(&self) -> Vec<IpAddr> {
        self.servers.iter().map(SocketAddr::ip).collect()
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
    #[cfg(not(unix))]
    let inode = 0;
    Some(Stamp { modified: metadata.modified().ok(), length: metadata.len(), inode })
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads the file, and says what is wrong with it unless that was said `before`.
fn read_resolv(path: &Path, before: Option<&Resolv>) -> Resolv {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) => {
            if before.is_none_or(|before| *before != Resolv::default()) {
                tracing::warn!("{} cannot be read ({error}): there are no system name servers", path.display());
            }
            return Resolv::default();
        }
    };
    let resolv = parse_resolv(&text);
    if before.is_none_or(|before| before.nonsense != resolv.nonsense) {
        complain(path, &resolv);
    }
    if resolv.servers.is_empty() && before.is_none_or(|before| !before.servers.is_empty()) {
        tracing::warn!("{} names no name server: only the fallback servers will be asked", path.display());
    }
    resolv
}

fn complain(path: &Path, resolv: &Resolv) {
    for line in &resolv.nonsense {
        tracing::warn!("{}: skipped a line that makes no sense: {line:?}", path.display());
    }
    let more = resolv.nonsense_lines - resolv.nonsense.len();
    if more > 0 {
        tracing::warn!("{}: skipped {more} more lines that make no sense", path.display());
    }
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
                None => resolv.note_nonsense(line),
            },
            "search" | "domain" => {
                resolv.search = words.filter_map(|word| Name::parse(word).ok()).take(MOST_SUFFIXES).collect();
            }
            "options" => words.for_each(|word| resolv.read_option(word)),
            "sortlist" | "lookup" | "family" => {}
            _ => resolv.note_nonsense(line),
        }
    }
    resolv
}

impl Resolv {
    /// What is no number says nothing.
    fn read_option(&mut self, word: &str) {
        match (word, word.split_once(':')) {
            (_, Some(("ndots", dots))) => self.ndots = read_number(dots).map_or(self.ndots, |dots| dots.min(MOST_DOTS)),
            ("use-vc" | "usevc" | "tcp", _) => self.use_vc = true,
            ("no-aaaa", _) => self.no_aaaa = true,
            _ => {}
        }
    }

    fn note_nonsense(&mut self, line: &str) {
        self.nonsense_lines += 1;
        if self.nonsense.len() < MOST_NONSENSE {
            self.nonsense.push(excerpt(line));
        }
    }
}

/// A number, however large.
fn read_number(text: &str) -> Option<usize> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(usize::MAX))
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
    if interface.is_empty() || interface.contains(['/', '\0']) || interface.starts_with('.') {
        return None;
    }
    let index = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex")).ok()?;
    index.trim().parse().ok()
}

/// Reads hosts(5). Lines that say nothing are skipped.
fn read_hosts(path: &Path) -> HashMap<Name, Vec<IpAddr>> {
    read_text(path).map(|text| parse_hosts(&text)).unwrap_or_else(|error| {
        tracing::debug!("hosts file {}: {error}", path.display());
        HashMap::new()
    })
}

/// All addresses of each name, each once: IPv4 first, as they stand.
fn parse_hosts(text: &str) -> HashMap<Name, Vec<IpAddr>> {
    let mut hosts: HashMap<Name, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or("").split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()).map(unwrap_mapped) else {
            continue;
        };
        for name in words.filter_map(|word| Name::parse(word).ok()) {
            let addresses = hosts.entry(name).or_default();
            if !addresses.contains(&address) {
                addresses.push(address);
                addresses.sort_by_key(IpAddr::is_ipv6);
            }
        }
    }
    hosts
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
        assert_eq!(resolv.ndots, 5);
        assert_eq!(resolv.nonsense, ["nameserver 1.2.3", "qwerty"]);
    }

    #[test]
    fn hosts_have_all_their_addresses() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "10.0.0.1 Mirror.example mirror # here\n::1 mirror\nx y\n10.0.0.1 mirror\n::ffff:10.0.0.2 mapped\n";
        std::fs::write(&file, text).unwrap();
        let hosts = read_hosts(file.path());
        let addresses = |name: &str| -> Vec<String> {
            let found = hosts.get(&Name::parse(name).unwrap()).into_iter().flatten();
            found.map(ToString::to_string).collect()
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
        assert!(system.look(start + LOOK_EVERY / 2).is_none(), "too early to look again");
        assert!(system.look(start + LOOK_EVERY).unwrap().resolv);
        assert_eq!(system.current().resolv.servers, ["10.0.0.1:53".parse::<SocketAddr>().unwrap()]);
        assert!(system.host(&Name::parse("mirror").unwrap()).is_some());
        assert!(system.look(start + 3 * LOOK_EVERY).is_none(), "nothing changed since");
    }

    #[test]
    fn options_that_concern_us_are_read_and_what_is_no_number_says_nothing() {
        let read = |options: &str| parse_resolv(&format!("options {options}\n"));
        let dots = |options: &str| read(options).ndots;
        let table = ["ndots:5", "ndots:99", "ndots:99999999999999999999", "ndots:0", "ndots:x", "ndots:-3", "ndots:"];
        assert_eq!(table.map(dots), [5, 15, 15, 0, 1, 1, 1]);
        let all = read("use-vc no-aaaa");
        assert!(all.use_vc && all.no_aaaa);
        for nothing in ["", "ndots timeout attempts", "rotate:1 use-vc:", "edns0 trust-ad no-reload rotate qwerty:1 :"]
        {
            assert_eq!(read(nothing), Resolv::default(), "{nothing}");
        }
    }

    #[test]
    fn whatever_is_in_resolv_conf_is_read_to_its_end() {
        let lines = "nameserver 10.0.0.1:53\nnameserver [::1]\nnameserver 1.2.3.4.5\nnameserver\nnameserver fe80::1%no/such\n\
                     nameserver fe80::1%lo\nsearch \0 a..b ok.example\n\0\0\0\n";
        let text = lines.to_owned() + &"search x.example y\nnonsense line\n".repeat(10_000) + "nameserver 10.0.0.9";
        let resolv = parse_resolv(&text);
        let lo = interface_index("lo").map(|scope| SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, scope).into());
        let servers: Vec<SocketAddr> = lo.into_iter().chain(["10.0.0.9:53".parse().unwrap()]).collect();
        assert_eq!(resolv.servers, servers);
        assert_eq!(resolv.search.len(), 2);
        assert_eq!((resolv.nonsense.len(), resolv.nonsense_lines), (MOST_NONSENSE, 10_006 + usize::from(lo.is_none())));
    }

    #[test]
    fn whatever_is_in_a_hosts_file_is_read_to_its_end() {
        let hosts = parse_hosts("\0\0\n10.0.0.1\n10.0.0.300 x\n10.0.0.2 a..b \u{fffd} ok\n::1%lo y\n1.1.1.1 ok");
        assert_eq!(hosts.len(), 1);
        assert_eq!(hosts[&Name::parse("ok").unwrap()].len(), 2);
    }

    #[test]
    fn a_hosts_file_alone_is_no_other_network() {
        let folder = tempfile::tempdir().unwrap();
        let [resolv_conf, hosts] = ["resolv.conf", "hosts"].map(|file| folder.path().join(file));
        let start = Instant::now();
        let system = System::new(resolv_conf, hosts.clone(), start);
        std::fs::write(&hosts, "10.0.0.2 mirror\n").unwrap();
        assert!(system.look(start + LOOK_EVERY).is_none());
        assert!(system.host(&Name::parse("mirror").unwrap()).is_some());
    }
}
