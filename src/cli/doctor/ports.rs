//! The addresses that `serve` would listen on: free, ours already, another user's, or another program's.
//!
//! Who listens is read in the kernel's tables (proc(5)), as far as they may be read.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;

use super::finding::{Finding, Mend};
use super::surroundings::Surroundings;
use crate::cli::env::{self, Listening};

const CHECK: &str = "port";
/// Users of people, as opposed to those of services (login.defs(5), UID_MIN).
const PEOPLE: u32 = 1000;

/// All that there is to say about the listeners.
pub(super) fn check(around: &Surroundings) -> Vec<Finding> {
    let settings = &around.settings;
    let listeners = settings.listen.iter().map(|at| (*at, "listen", "GOANYWAY_LISTEN"));
    let admin = settings.admin.iter().map(|at| (*at, "admin.listen", "GOANYWAY_ADMIN"));
    let mut findings: Vec<Finding> =
        listeners.chain(admin).map(|(at, key, variable)| judge(at, key, variable, around)).collect();
    for at in settings.listen_tls.iter().chain(&settings.transparent).chain(&settings.dns) {
        findings.push(judge_other(*at));
    }
    findings
}

/// Whether anybody could listen there now. Nothing that was there a moment ago stands in the way.
pub(super) fn is_free(at: SocketAddr) -> std::io::Result<()> {
    TcpListener::bind(at).map(drop)
}

/// Listeners that speak first to nobody: free or not is all that can be said.
fn judge_other(at: SocketAddr) -> Finding {
    match is_free(at) {
        Ok(()) => Finding::ok(CHECK, at.to_string(), "is free"),
        Err(error) => Finding::ok(CHECK, at.to_string(), format!("is taken ({error}), by goanyway if it serves")),
    }
}

fn judge(at: SocketAddr, key: &'static str, variable: &str, around: &Surroundings) -> Finding {
    let subject = at.to_string();
    let error = match is_free(at) {
        Ok(()) => return Finding::ok(CHECK, subject, "is free"),
        Err(error) => error,
    };
    let elsewhere = || elsewhere(at, key, variable, around);
    if error.kind() != std::io::ErrorKind::AddrInUse {
        return Finding::fault(CHECK, subject, format!("cannot be listened on: {error}"), elsewhere());
    }
    let owner = Owner::find(&around.root, at);
    match ask(at, key) {
        Some(version) => judge_goanyway(subject, &version, owner.as_ref(), elsewhere),
        None => {
            let who = owner.map_or_else(|| "another program".to_owned(), |owner| owner.describe());
            Finding::fault(CHECK, subject, format!("is taken by {who}, which is no goanyway"), elsewhere())
        }
    }
}

fn judge_goanyway(subject: String, version: &str, owner: Option<&Owner>, elsewhere: impl Fn() -> Mend) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    if let Some(owner) = owner.filter(|owner| owner.user != own_user() && owner.user >= PEOPLE) {
        let saw = format!(
            "is taken by another user's goanyway ({}): its CA and its passwords are not yours",
            owner.describe()
        );
        return Finding::fault(CHECK, subject, saw, elsewhere());
    }
    let pid = owner.and_then(|owner| owner.pid);
    match version {
        "" => Finding::ok(CHECK, subject, "goanyway serves there"),
        version if version == own => Finding::ok(CHECK, subject, format!("goanyway {version} serves there")),
        version => {
            let saw = format!("goanyway {version} serves there, and this is {own}");
            let mend = match pid {
                Some(pid) => Mend::Ask(format!("you: start it anew (process {pid})")),
                None => Mend::Ask("whoever started it: start it anew".to_owned()),
            };
            Finding::warning(CHECK, subject, saw, mend)
        }
    }
}

#[cfg(unix)]
fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(not(unix))]
fn own_user() -> u32 {
    0
}

/// The next port that is free, for this variable or, where it was typed as a flag, for that.
fn elsewhere(at: SocketAddr, key: &'static str, variable: &str, around: &Surroundings) -> Mend {
    let taken: Vec<u16> = around.settings.listen.iter().chain(&around.settings.admin).map(SocketAddr::port).collect();
    let ports = (at.port().max(1023)..u16::MAX).skip(1).filter(|port| !taken.contains(port));
    // Listeners each get a port of their own, also where two of them look for one at once.
    let mut ports = ports.skip(if key == "listen" { 0 } else { 10 });
    let Some(port) = ports.find(|port| is_free(SocketAddr::new(at.ip(), *port)).is_ok()) else {
        return Mend::Ask("you: end something that listens there".to_owned());
    };
    let place = SocketAddr::new(at.ip(), port);
    match around.typed.has(key) {
        true => Mend::Ask(format!("you: another address than {at}, such as {place}")),
        false => Mend::Type(format!("export {variable}={place}")),
    }
}

/// The version of the goanyway that answers, empty where it does not say; none if it is none.
fn ask(at: SocketAddr, key: &str) -> Option<String> {
    let at = env::reachable(at);
    if key == "listen" {
        return matches!(env::ask_listener(at), Listening::Serves(_)).then(String::new);
    }
    let answer = env::ask(at, "/healthz").ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let version = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_server = name.eq_ignore_ascii_case("server");
        is_server.then(|| value.trim().strip_prefix("goanyway/")).flatten()
    });
    (version.is_some() || body == "ok\n").then(|| version.unwrap_or_default().to_owned())
}

/// Who listens.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    user: u32,
    /// Only its own user, or root, is told.
    pid: Option<u32>,
    program: Option<String>,
}

impl Owner {
    fn find(root: &Path, at: SocketAddr) -> Option<Owner> {
        let tables = ["proc/net/tcp", "proc/net/tcp6"];
        let text: String =
            tables.iter().map(|table| fs::read_to_string(root.join(table)).unwrap_or_default()).collect();
        let (user, inode) = text.lines().find_map(|line| read_listener(line, at))?;
        let pid = find_process(root, inode);
        let comm = pid.and_then(|pid| fs::read_to_string(root.join(format!("proc/{pid}/comm"))).ok());
        Some(Owner { user, pid, program: comm.map(|comm| comm.trim().to_owned()) })
    }

    fn describe(&self) -> String {
        match (&self.program, self.pid) {
            (Some(program), Some(pid)) => format!("{program}, process {pid}, of user {}", self.user),
            _ => format!("a program of user {}", self.user),
        }
    }
}

/// A line of /proc/net/tcp, if somebody listens in it where `at` is taken: the user and the inode.
fn read_listener(line: &str, at: SocketAddr) -> Option<(u32, u64)> {
    const LISTEN: &str = "0A";
    let words: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = words.get(1)?.split_once(':')?;
    if *words.get(3)? != LISTEN || u16::from_str_radix(port, 16).ok()? != at.port() {
        return None;
    }
    let address = read_address(address)?;
    let takes = address == at.ip() || address.is_unspecified() || at.ip().is_unspecified();
    takes.then_some(())?;
    Some((words.get(7)?.parse().ok()?, words.get(9)?.parse().ok()?))
}

/// Words of 32 bits, each as this machine keeps one.
fn read_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok();
    match text.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?.to_ne_bytes()))),
        32 => {
            let mut bytes = [0; 16];
            for (at, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?.to_ne_bytes());
            }
            Some(IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical())
        }
        _ => None,
    }
}

fn find_process(root: &Path, inode: u64) -> Option<u32> {
    let wanted = format!("socket:[{inode}]");
    let holds = |pid: &u32| {
        let links = fs::read_dir(root.join(format!("proc/{pid}/fd"))).into_iter().flatten().flatten();
        links.filter_map(|link| fs::read_link(link.path()).ok()).any(|to| to.as_os_str() == wanted.as_str())
    };
    let names =
        fs::read_dir(root.join("proc")).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.parse().ok()).find(holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn who_listens_is_found_in_the_kernels_tables() {
        for bind in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let Ok(listener) = TcpListener::bind(bind) else { continue };
            let at = listener.local_addr().unwrap();
            let owner = Owner::find(Path::new("/"), at).unwrap_or_else(|| panic!("{at}"));
            assert_eq!((owner.user, owner.pid), (own_user(), Some(std::process::id())), "{at}");
            drop(listener);
            assert_eq!(Owner::find(Path::new("/"), at), None, "nobody any more");
        }
    }

    #[test]
    fn a_line_of_the_table_is_read() {
        let line =
            "   0: 0100007F:0C38 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 4242 1 0";
        assert_eq!(read_listener(line, "127.0.0.1:3128".parse().unwrap()), Some((1001, 4242)));
        assert_eq!(read_listener(line, "127.0.0.2:3128".parse().unwrap()), None);
        assert_eq!(read_listener(line, "0.0.0.0:3128".parse().unwrap()), Some((1001, 4242)));
        assert_eq!(read_listener(&line.replace(" 0A ", " 01 "), "127.0.0.1:3128".parse().unwrap()), None);
    }
}
