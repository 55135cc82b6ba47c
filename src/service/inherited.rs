//! Sockets that were bound before we began (`LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`:
//! sd_listen_fds(3)). While we are restarted they stay, and clients wait in them instead of being
//! refused.
//!
//! A socket is for what its name says. One without a name of ours is for whoever is configured to
//! listen at its very address; one that is for nobody is said, and not served.

use std::net::{SocketAddr, TcpListener, UdpSocket};

#[cfg(unix)]
use listenfd::ListenFd;

/// No supervisor hands over more; a number beyond is a mistake.
#[cfg(unix)]
const MOST: usize = 1024;

/// What a socket is for, as its name says (`FileDescriptorName=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Listen,
    ListenTls,
    Transparent,
    Dns,
    Admin,
}

impl Purpose {
    /// Every name there is.
    pub const ALL: [Purpose; 5] =
        [Purpose::Listen, Purpose::ListenTls, Purpose::Transparent, Purpose::Dns, Purpose::Admin];

    /// The name of the socket: the first word of its key.
    pub fn name(self) -> &'static str {
        self.key().split_once('.').map_or(self.key(), |(first, _)| first)
    }

    fn named(name: &str) -> Option<Purpose> {
        Purpose::ALL.into_iter().find(|purpose| purpose.name() == name)
    }

    /// The key of the setting that a socket of this name is as good as.
    pub fn key(self) -> &'static str {
        match self {
            Purpose::Listen => "listen",
            Purpose::ListenTls => "listen_tls.listen",
            Purpose::Transparent => "transparent.listen",
            Purpose::Dns => "dns.listen",
            Purpose::Admin => "admin.listen",
        }
    }
}

/// What was handed over and is not in use yet.
#[derive(Debug, Default)]
pub struct Inherited {
    streams: Vec<Handed<TcpListener>>,
    datagrams: Vec<Handed<UdpSocket>>,
    /// What came and is no socket of the Internet that listens.
    strange: Vec<String>,
}

#[derive(Debug)]
struct Handed<S> {
    name: String,
    address: SocketAddr,
    socket: S,
}

/// Elsewhere nobody hands anything over.
#[cfg(not(unix))]
impl Inherited {
    /// Takes nothing.
    pub fn take(_: &dyn Fn(&str) -> Option<String>) -> Inherited {
        Inherited::default()
    }
}

#[cfg(unix)]
impl Inherited {
    /// Takes what the environment says was handed to this process; a second call takes nothing.
    /// To be called before there is another thread, since it takes the variables away.
    pub fn take(around: &dyn Fn(&str) -> Option<String>) -> Inherited {
        let mut inherited = Inherited::default();
        let number = |name| around(name).and_then(|text| text.parse::<usize>().ok());
        // Meant for somebody else: a parent of ours, say.
        if number("LISTEN_PID") != usize::try_from(std::process::id()).ok() {
            return inherited;
        }
        match number("LISTEN_FDS") {
            None | Some(0) => return inherited,
            Some(count) if count > MOST => {
                inherited.strange.push(format!("LISTEN_FDS={count} is no number of sockets that anybody hands over"));
                return inherited;
            }
            Some(_) => {}
        }
        let names = around("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut fds = ListenFd::from_env();
        for index in 0..fds.len() {
            inherited.enter(&mut fds, index, names.next().unwrap_or_default().to_owned());
        }
        inherited
    }

    fn enter(&mut self, fds: &mut ListenFd, index: usize, name: String) {
        if let Ok(Some(socket)) = fds.take_udp_socket(index) {
            return match socket.local_addr() {
                Ok(address) => self.datagrams.push(Handed { name, address, socket }),
                Err(error) => self.strange.push(format!("the socket {name:?} that was handed over: {error}")),
            };
        }
        let listening = match fds.take_tcp_listener(index) {
            Ok(Some(socket)) if socket2::SockRef::from(&socket).is_listener().unwrap_or(false) => Some(socket),
            _ => None,
        };
        match listening.map(|socket| (socket.local_addr(), socket)) {
            Some((Ok(address), socket)) => self.streams.push(Handed { name, address, socket }),
            _ => self.strange.push(format!(
                "what was handed over as {name:?} is no socket of TCP that listens and none of UDP: it is not used"
            )),
        }
    }
}

impl Inherited {
    /// Where sockets for this purpose listen, each address once.
    pub fn addresses(&self, purpose: Purpose) -> Vec<SocketAddr> {
        let streams = self.streams.iter().map(|handed| (&handed.name, handed.address));
        let datagrams = self.datagrams.iter().map(|handed| (&handed.name, handed.address));
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for (name, address) in streams.chain(datagrams) {
            if name == purpose.name() && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// The TCP socket at this address, if one was handed over for one of these purposes or for none that we know.
    pub fn stream(&mut self, purposes: &[Purpose], address: SocketAddr) -> Option<TcpListener> {
        take_from(&mut self.streams, purposes, address)
    }

    /// The same over UDP.
    pub fn datagram(&mut self, purposes: &[Purpose], address: SocketAddr) -> Option<UdpSocket> {
        take_from(&mut self.datagrams, purposes, address)
    }

    /// Closes what nobody took, and says so, a sentence each.
    pub fn close(self) -> Vec<String> {
        let streams = self.streams.iter().map(|handed| (&handed.name, handed.address, "TCP"));
        let datagrams = self.datagrams.iter().map(|handed| (&handed.name, handed.address, "UDP"));
        let say = |(name, address, protocol): (&String, SocketAddr, &str)| {
            let names = Purpose::ALL.map(Purpose::name).join(", ");
            match Purpose::named(name) {
                Some(Purpose::Dns) | None => format!(
                    "the {protocol} socket {name:?} at {address} that was handed over is for nobody here and is not used; \
                     name it (FileDescriptorName=) one of {names}"
                ),
                Some(purpose) => format!(
                    "the {protocol} socket {name:?} at {address} that was handed over is one too many for {}: it is not used",
                    purpose.key()
                ),
            }
        };
        let unused: Vec<String> = streams.chain(datagrams).map(say).collect();
        self.strange.into_iter().chain(unused).collect()
    }
}

fn take_from<S>(handed: &mut Vec<Handed<S>>, purposes: &[Purpose], address: SocketAddr) -> Option<S> {
    let is_theirs = |name: &str| Purpose::named(name).is_none_or(|purpose| purposes.contains(&purpose));
    let fits = |one: &Handed<S>| one.address == address && is_theirs(&one.name);
    let found = handed.iter().position(fits)?;
    Some(handed.swap_remove(found).socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed(names: &[&str]) -> (Inherited, Vec<SocketAddr>) {
        let streams: Vec<Handed<TcpListener>> = names
            .iter()
            .map(|name| {
                let socket = TcpListener::bind("127.0.0.1:0").unwrap();
                Handed { name: (*name).to_owned(), address: socket.local_addr().unwrap(), socket }
            })
            .collect();
        let addresses = streams.iter().map(|handed| handed.address).collect();
        (Inherited { streams, ..Inherited::default() }, addresses)
    }

    #[test]
    fn a_name_says_what_a_socket_is_for_and_an_address_whose_it_is() {
        let (mut inherited, addresses) = handed(&["admin", "goanyway.socket", "listen"]);
        assert_eq!(inherited.addresses(Purpose::Listen), [addresses[2]]);
        assert!(inherited.stream(&[Purpose::Listen], addresses[0]).is_none(), "it is the admin port's");
        assert!(inherited.stream(&[Purpose::Admin], addresses[0]).is_some());
        assert!(inherited.stream(&[Purpose::Admin], addresses[0]).is_none(), "and it is taken once");
        assert!(inherited.stream(&[Purpose::Listen], addresses[1]).is_some());
        let said = inherited.close().join("\n");
        assert!(
            said.contains(&format!("\"listen\" at {} that was handed over is one too many", addresses[2])),
            "{said}"
        );
    }

    #[test]
    fn what_is_meant_for_another_process_is_left_alone() {
        let table = [(None, "1"), (Some(1), "1"), (Some(std::process::id()), "0"), (Some(std::process::id()), "x")];
        for (pid, count) in table {
            let around = |name: &str| match name {
                "LISTEN_PID" => pid.map(|pid| pid.to_string()),
                "LISTEN_FDS" => Some(count.to_owned()),
                _ => None,
            };
            assert!(Inherited::take(&around).close().is_empty(), "{pid:?} {count}");
        }
        let around = |name: &str| match name {
            "LISTEN_PID" => Some(std::process::id().to_string()),
            _ => Some("4000000000".to_owned()),
        };
        assert!(Inherited::take(&around).close()[0].contains("no number of sockets"));
    }
}
