//! Which network this machine is on, and whether it is still the same one.
//!
//! A network is known by its ways out: the addresses that packets to each name server, and to the
//! rest of the world over IPv4 and IPv6, would start from. The routing table is asked for them and
//! nothing is sent. On Linux the kernel tells of changed addresses and routes over a netlink socket
//! (rtnetlink(7)), which is read when somebody looks, so that an idle process stays idle; elsewhere,
//! or where such a socket is refused, the ways are compared at each look. Containers that come and
//! go change addresses and routes, but not the ways out, and are no other network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::socket;
use crate::target::Scope;

/// Stand for the rest of the world: nobody's (RFC 5737, RFC 3849), and routed as all that has no
/// route of its own.
const ANYWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// From which address the way to another one starts, if there is a way.
type Compass = Box<dyn Fn(IpAddr) -> Option<IpAddr> + Send + Sync>;

/// The network as it was when last looked at.
pub(super) struct Network {
    compass: Compass,
    news: Option<News>,
    ways: Mutex<Ways>,
    // What the ways come to, for those who ask at every look-up.
    v6_only: AtomicBool,
}

/// Where packets would start from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ways {
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
    /// To each name server.
    servers: Vec<(IpAddr, Option<IpAddr>)>,
}

impl Network {
    /// This machine's; `servers` are the name servers that it was told of.
    pub(super) fn of_this_machine(servers: &[IpAddr]) -> Network {
        let news = News::subscribe();
        if let Err(error) = &news {
            tracing::debug!("the kernel does not tell of changes of the network ({error}): its routes are compared");
        }
        Network::new(Box::new(|address| socket::source_to(address).ok()), news.ok(), servers)
    }

    fn new(compass: Compass, news: Option<News>, servers: &[IpAddr]) -> Network {
        let ways = explore(&compass, servers);
        let v6_only = AtomicBool::new(ways.are_v6_only());
        Network { compass, news, ways: Mutex::new(ways), v6_only }
    }

    /// Whether it is another network than at the last look.
    pub(super) fn has_changed(&self, servers: &[IpAddr]) -> bool {
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = self.news.as_ref().map_or(Heard::Something, |news| news.hear(&ways));
        if heard == Heard::Nothing && ways.servers.iter().map(|(server, _)| server).eq(servers) {
            return false;
        }
        let before = std::mem::replace(&mut *ways, explore(&self.compass, servers));
        self.v6_only.store(ways.are_v6_only(), Ordering::Relaxed);
        heard == Heard::Upheaval || ways.differ_from(&before)
    }

    /// Whether IPv6 is the only way out.
    pub(super) fn is_v6_only(&self) -> bool {
        self.v6_only.load(Ordering::Relaxed)
    }
}

impl Ways {
    fn are_v6_only(&self) -> bool {
        self.v4.is_none() && self.v6.is_some()
    }

    /// Other name servers alone are no other network.
    fn differ_from(&self, before: &Ways) -> bool {
        let moved = |(server, start): &(IpAddr, Option<IpAddr>)| {
            before.servers.iter().any(|(known, before)| known == server && before != start)
        };
        (self.v4, self.v6) != (before.v4, before.v6) || self.servers.iter().any(moved)
    }
}

fn explore(compass: &Compass, servers: &[IpAddr]) -> Ways {
    let leads_out = |source: &IpAddr| !matches!(Scope::of(*source), Scope::Loopback | Scope::LinkLocal);
    let [v4, v6] = ANYWHERE.map(|address| compass(address).filter(leads_out));
    Ways { v4, v6, servers: servers.iter().map(|server| (*server, compass(*server))).collect() }
}

/// What the kernel told since the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Heard {
    Nothing,
    /// The ways out may be others now.
    Something,
    /// An address that we started from is gone, or the default route is another, even if all looks
    /// the same again: many networks give the same addresses.
    Upheaval,
}

#[cfg(target_os = "linux")]
use linux::News;

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::net::IpAddr;
    use std::os::fd::OwnedFd;

    use rustix::io::Errno;
    use rustix::net::netlink::SocketAddrNetlink;
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

    use super::{Heard, Ways};

    /// RTMGRP_IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR and _IPV6_ROUTE (linux/rtnetlink.h).
    const GROUPS: u32 = 0x10 | 0x40 | 0x100 | 0x400;
    const NEW_ADDRESS: u16 = 20;
    const OLD_ADDRESS: u16 = 21;
    const NEW_ROUTE: u16 = 24;
    const OLD_ROUTE: u16 = 25;
    /// RT_TABLE_MAIN and RTN_UNICAST.
    const MAIN_TABLE: u8 = 254;
    const UNICAST: u8 = 1;
    /// The kernel fills no more in one go (NLMSG_GOODSIZE).
    const PACKET: usize = 8192;

    /// A netlink socket that hears of addresses and routes.
    pub(super) struct News(OwnedFd);

    impl News {
        pub(super) fn subscribe() -> io::Result<News> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            // NETLINK_ROUTE is protocol 0.
            let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
            Ok(News(socket))
        }

        /// Reads all that lies there; never waits.
        pub(super) fn hear(&self, ways: &Ways) -> Heard {
            let mut heard = Heard::Nothing;
            let mut packet = [0; PACKET];
            loop {
                match rustix::net::recv(&self.0, &mut packet[..], RecvFlags::DONTWAIT) {
                    Ok((length, _)) => heard = heard.max(read_packet(&packet[..length.min(PACKET)], ways)),
                    Err(Errno::INTR) => {}
                    // More came than there was room for.
                    Err(Errno::NOBUFS) => heard = Heard::Upheaval,
                    Err(_) => return heard,
                }
            }
        }
    }

    /// Reads netlink messages (struct nlmsghdr: length, type, 10 bytes more; aligned to four).
    pub(super) fn read_packet(mut packet: &[u8], ways: &Ways) -> Heard {
        let mut heard = Heard::Nothing;
        while let Some((head, _)) = packet.split_first_chunk::<16>() {
            let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let Some(body) = packet.get(16..length) else { break };
            heard = heard.max(read_message(u16::from_ne_bytes([head[4], head[5]]), body, ways));
            packet = packet.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        }
        heard
    }

    fn read_message(kind: u16, body: &[u8], ways: &Ways) -> Heard {
        match kind {
            OLD_ADDRESS if is_our_start(body, ways) => Heard::Upheaval,
            NEW_ROUTE | OLD_ROUTE if is_default_route(body) => Heard::Upheaval,
            NEW_ADDRESS | OLD_ADDRESS | NEW_ROUTE | OLD_ROUTE => Heard::Something,
            _ => Heard::Nothing,
        }
    }

    /// struct rtmsg: family, length of the destination's prefix, …, table (4), protocol, scope, type (7).
    fn is_default_route(body: &[u8]) -> bool {
        body.len() >= 12 && body[1] == 0 && body[4] == MAIN_TABLE && body[7] == UNICAST
    }

    /// struct ifaddrmsg of 8 bytes, then attributes: length, type, value; aligned to four.
    fn is_our_start(body: &[u8], ways: &Ways) -> bool {
        let mut attributes = body.get(8..).unwrap_or(&[]);
        while let Some((head, _)) = attributes.split_first_chunk::<4>() {
            let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
            let Some(value) = attributes.get(4..length) else { return false };
            if read_address(value).is_some_and(|address| ways.start_from(address)) {
                return true;
            }
            attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        }
        false
    }

    fn read_address(value: &[u8]) -> Option<IpAddr> {
        let v4 = || <[u8; 4]>::try_from(value).map(IpAddr::from).ok();
        v4().or_else(|| <[u8; 16]>::try_from(value).map(IpAddr::from).ok())
    }

    impl Ways {
        fn start_from(&self, address: IpAddr) -> bool {
            let to_servers = self.servers.iter().map(|(_, start)| *start);
            [self.v4, self.v6].into_iter().chain(to_servers).any(|start| start == Some(address))
        }
    }
}

/// No kernel that tells: the ways are compared.
#[cfg(not(target_os = "linux"))]
enum News {}

#[cfg(not(target_os = "linux"))]
impl News {
    fn subscribe() -> std::io::Result<News> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn hear(&self, _ways: &Ways) -> Heard {
        match *self {}
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;

    /// A network that a test can change: where IPv4 and IPv6 start from.
    #[derive(Clone, Default)]
    pub(in super::super) struct Scripted(Arc<Mutex<[Option<IpAddr>; 2]>>);

    impl Scripted {
        pub(in super::super) fn change(&self, v4: Option<&str>, v6: Option<&str>) {
            *self.0.lock().unwrap() = [v4, v6].map(|text| text.map(|text| text.parse().unwrap()));
        }

        pub(in super::super) fn network(&self) -> Network {
            let starts = Arc::clone(&self.0);
            let compass = move |address: IpAddr| starts.lock().unwrap()[usize::from(address.is_ipv6())];
            Network::new(Box::new(compass), None, &[])
        }
    }

    #[test]
    fn other_ways_out_are_another_network() {
        let scripted = Scripted::default();
        scripted.change(Some("192.168.1.5"), None);
        let network = scripted.network();
        assert!(!network.has_changed(&[]) && !network.is_v6_only());
        scripted.change(Some("10.0.0.5"), None);
        assert!(network.has_changed(&[]) && !network.has_changed(&[]));
        scripted.change(None, Some("2606::5"));
        assert!(network.has_changed(&[]) && network.is_v6_only());
        scripted.change(Some("169.254.3.3"), Some("fe80::5"));
        assert!(network.has_changed(&[]) && !network.is_v6_only(), "a link leads nowhere");
        let server = [[10, 0, 0, 1].into()];
        assert!(!network.has_changed(&server), "another name server is no other network");
        scripted.change(Some("169.254.3.4"), Some("fe80::5"));
        assert!(network.has_changed(&server), "another way to it is");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernels_news_are_weighed() {
        let ways = Ways { v4: Some([192, 168, 1, 5].into()), ..Ways::default() };
        let message = |kind: u16, body: &[u8]| {
            let length = (16 + body.len()) as u32;
            [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], body].concat()
        };
        let gone = |address: [u8; 4]| {
            let attribute = [&8u16.to_ne_bytes()[..], &2u16.to_ne_bytes(), &address].concat();
            message(21, &[&[2, 24, 0, 0, 1, 0, 0, 0][..], &attribute].concat())
        };
        let route = |prefix: u8, table: u8| message(24, &[2, prefix, 0, 0, table, 3, 0, 1, 0, 0, 0, 0]);
        let table = [
            ("our own address", gone([192, 168, 1, 5]), Heard::Upheaval),
            ("a container's", gone([172, 17, 0, 1]), Heard::Something),
            ("the default route", route(0, 254), Heard::Upheaval),
            ("a container's", route(16, 254), Heard::Something),
            ("a table of somebody's own", route(0, 100), Heard::Something),
            ("another message", message(16, &[]), Heard::Nothing),
            ("two messages", [message(16, &[]), route(0, 254)].concat(), Heard::Upheaval),
            ("cut short", route(0, 254)[..20].to_vec(), Heard::Nothing),
            ("no length", vec![0; 64], Heard::Nothing),
            ("nothing", Vec::new(), Heard::Nothing),
        ];
        for (what, packet, heard) in table {
            assert_eq!(linux::read_packet(&packet, &ways), heard, "{what}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machines_network_can_be_listened_to() {
        let Ok(news) = News::subscribe() else { return };
        // Whatever comes is read without waiting.
        news.hear(&Ways::default());
        let network = Network::of_this_machine(&["127.0.0.1".parse().unwrap()]);
        let ways = network.ways.lock().unwrap().clone();
        assert_eq!(ways.servers, [([127, 0, 0, 1].into(), Some([127, 0, 0, 1].into()))]);
    }
}
