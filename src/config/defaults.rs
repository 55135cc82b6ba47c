//! What holds where nobody typed anything, for settings that belong to no single room.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The port that squid made usual for proxies.
pub const LISTEN: SocketAddr = loopback(3128);
/// Beside it, and like it on this host alone.
pub const ADMIN: SocketAddr = loopback(3127);
/// The module cache of a busy team for some months.
pub const CACHE_SIZE: u64 = 20 << 30;
/// In memory: enough for all `.mod` and `.info` of many builds, and some zips.
pub const CACHE_MEMORY: u64 = 256 << 20;
/// On small machines: this part of the memory limit.
pub const CACHE_MEMORY_PART: u64 = 8;

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
