//! Whom to ask: a name server as a person types it, and as it is spoken to.
//!
//! A SERVER is `system`, `8.8.8.8`, `udp://…`, `tcp://…`, `tls://1.1.1.1#cloudflare-dns.com` or
//! `https://1.1.1.1/dns-query#cloudflare-dns.com`; a port may follow the address. Servers are
//! pinned by address: a resolver that had to resolve its resolvers would fail with them. What is
//! written wrongly is named part by part. Nothing here opens a socket.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::Tier;
use crate::metrics::Label;
use crate::target::Name;

/// One name server of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Server {
    /// Those of resolv.conf, followed when it changes.
    System,
    /// UDP, and TCP where UDP does not do (`8.8.8.8` and `udp://8.8.8.8` are the same).
    Plain(SocketAddr),
    /// TCP alone.
    Tcp(SocketAddr),
    /// DNS over TLS (RFC 7858); the certificate must name `name`.
    Tls { address: SocketAddr, name: String },
    /// DNS over HTTPS (RFC 8484).
    Https { address: SocketAddr, path: String, name: String },
}

impl Server {
    /// Where it is; none for `system`, which is wherever resolv.conf says.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Server::System => None,
            Server::Plain(address) | Server::Tcp(address) => Some(*address),
            Server::Tls { address, .. } | Server::Https { address, .. } => Some(*address),
        }
    }

    /// The transport that it is asked over first.
    pub fn transport(&self) -> Transport {
        match self {
            Server::System | Server::Plain(_) => Transport::Udp,
            Server::Tcp(_) => Transport::Tcp,
            Server::Tls { .. } => Transport::Tls,
            Server::Https { .. } => Transport::Https,
        }
    }

    /// Whether nobody between us and it can read or forge what it says.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.transport(), Transport::Tls | Transport::Https)
    }

    /// What it counts as where it is not one of the site's own.
    pub(super) fn outside_tier(&self) -> Tier {
        if self.is_encrypted() { Tier::Encrypted } else { Tier::Plain }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Server::System => f.write_str("system"),
            Server::Plain(address) => f.write_str(&written(*address, 53)),
            Server::Tcp(address) => write!(f, "tcp://{}", bracketed(*address, 53)),
            Server::Tls { address, name } => write!(f, "tls://{}#{name}", bracketed(*address, 853)),
            Server::Https { address, path, name } => write!(f, "https://{}{path}#{name}", bracketed(*address, 443)),
        }
    }
}

impl FromStr for Server {
    type Err = BadServer;

    fn from_str(text: &str) -> Result<Server, BadServer> {
        parse(text.trim()).map_err(|why| BadServer { text: text.to_owned(), why })
    }
}

/// A SERVER that cannot be one, and which part of it is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no name server: {why}; one is written like {}", example(text))]
pub struct BadServer {
    text: String,
    why: String,
}

/// A right one of the kind that was meant.
fn example(text: &str) -> &'static str {
    match text.split_once("://").map(|(scheme, _)| scheme) {
        Some("tcp") => "tcp://8.8.8.8 or tcp://8.8.8.8:53",
        Some("tls") => "tls://1.1.1.1#cloudflare-dns.com",
        Some("https") => "https://1.1.1.1/dns-query#cloudflare-dns.com",
        Some("udp") | None => "8.8.8.8, 8.8.8.8:53, [2001:4860:4860::8888]:53 or system",
        Some(_) => {
            "udp://8.8.8.8, tcp://8.8.8.8, tls://1.1.1.1#cloudflare-dns.com or \
                    https://1.1.1.1/dns-query#cloudflare-dns.com"
        }
    }
}

fn parse(text: &str) -> Result<Server, String> {
    if text == "system" {
        return Ok(Server::System);
    }
    if text.contains(',') {
        return Err("there is a comma in it, and a flag takes one server: say the flag again for the next".to_owned());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Ok(Server::Plain(parse_address(text, 53)?));
    };
    let (rest, name) = match rest.split_once('#') {
        Some((rest, name)) => (rest, Some(parse_name(name)?)),
        None => (rest, None),
    };
    let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match scheme {
        "udp" | "tcp" if name.is_some() => Err(format!("{scheme}:// verifies no certificate, so #name has no place")),
        "udp" | "tcp" | "tls" if !path.is_empty() => Err(format!("{scheme}:// has no path, and {path:?} is one")),
        "udp" => Ok(Server::Plain(parse_address(place, 53)?)),
        "tcp" => Ok(Server::Tcp(parse_address(place, 53)?)),
        "tls" => {
            let address = parse_address(place, 853)?;
            Ok(Server::Tls { address, name: name.unwrap_or_else(|| address.ip().to_string()) })
        }
        "https" => {
            let address = parse_address(place, 443)?;
            if !path.bytes().all(|byte| byte.is_ascii_graphic()) || path.contains(['?', '{', '}']) {
                return Err(format!("the path {path:?} is none of a URL, or has a query"));
            }
            let path = if path.len() > 1 { path.to_owned() } else { "/dns-query".to_owned() };
            Ok(Server::Https { address, path, name: name.unwrap_or_else(|| address.ip().to_string()) })
        }
        _ => Err(format!("the scheme {scheme:?} is none of udp, tcp, tls, https")),
    }
}

fn parse_name(name: &str) -> Result<String, String> {
    if name.parse::<IpAddr>().is_ok() {
        return Ok(name.to_owned());
    }
    match Name::parse(name) {
        Ok(name) => Ok(name.to_string()),
        Err(why) => Err(format!("the name {name:?} after # is no host name ({why})")),
    }
}

fn parse_address(text: &str, default_port: u16) -> Result<SocketAddr, String> {
    if text.is_empty() {
        return Err("the address is missing".to_owned());
    }
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Ok((address, default_port).into());
    }
    let (host, port) = match (text.strip_prefix('['), text.rsplit_once(':')) {
        (Some(inner), _) => match inner.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(|| no_port(rest))?)),
            None => return Err(format!("the bracket of {text:?} is never closed")),
        },
        (None, Some((host, port))) => (host, Some(port)),
        (None, None) => (text, None),
    };
    let ip = host.parse::<IpAddr>().map_err(|_| no_address(host))?;
    let port = match port {
        None => default_port,
        // Port 0 is allowed everywhere (DESIGN.md section 3): nobody is there, which is a server that is down.
        Some(port) => port.parse::<u16>().map_err(|_| no_port(port))?,
    };
    Ok(SocketAddr::new(ip, port))
}

fn no_port(port: &str) -> String {
    format!("the port {port:?} is no number up to 65535")
}

fn no_address(host: &str) -> String {
    match Name::parse(host) {
        Ok(_) if host.bytes().any(|byte| byte.is_ascii_alphabetic()) => format!(
            "{host:?} is a name, and a name server is given by its address (its name may follow: tls://1.1.1.1#{host})"
        ),
        _ => format!("the address {host:?} is no IP address"),
    }
}

/// The address, with its port where that is not the usual one.
pub(super) fn written(address: SocketAddr, usual: u16) -> String {
    if address.port() == usual { address.ip().to_string() } else { address.to_string() }
}

fn bracketed(address: SocketAddr, usual: u16) -> String {
    match address {
        SocketAddr::V6(v6) if v6.port() == usual => format!("[{}]", v6.ip()),
        address => written(address, usual),
    }
}

/// How a question travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
    Https,
}

impl Transport {
    /// Where a server listens for it if nothing else is said.
    pub fn port(self) -> u16 {
        match self {
            Transport::Udp | Transport::Tcp => 53,
            Transport::Tls => 853,
            Transport::Https => 443,
        }
    }
}

impl Label for Transport {
    const KEY: &'static str = "transport";

    fn label(&self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Https => "https",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_written_as_it_is_read() {
        let table = [
            ("system", "system"),
            ("8.8.8.8", "8.8.8.8"),
            ("8.8.8.8:5353", "8.8.8.8:5353"),
            ("udp://8.8.8.8", "8.8.8.8"),
            ("udp://[2001:db8::1]:54", "[2001:db8::1]:54"),
            ("2400:3200::1", "2400:3200::1"),
            ("tcp://8.8.8.8:53", "tcp://8.8.8.8"),
            ("tcp://[2400:3200::1]", "tcp://[2400:3200::1]"),
            ("tls://1.1.1.1#cloudflare-dns.com", "tls://1.1.1.1#cloudflare-dns.com"),
            ("tls://1.1.1.1:8853", "tls://1.1.1.1:8853#1.1.1.1"),
            ("https://1.1.1.1/dns-query#Cloudflare-DNS.com", "https://1.1.1.1/dns-query#cloudflare-dns.com"),
            ("https://[2400:3200::1]:444/q#dns.alidns.com", "https://[2400:3200::1]:444/q#dns.alidns.com"),
            ("https://1.1.1.1", "https://1.1.1.1/dns-query#1.1.1.1"),
        ];
        for (typed, shown) in table {
            let server: Server = typed.parse().unwrap();
            assert_eq!(server.to_string(), shown, "{typed}");
            assert_eq!(server.to_string().parse::<Server>().unwrap(), server, "{typed}");
        }
    }

    #[test]
    fn a_typo_is_told_by_the_part_that_is_wrong() {
        let table = [
            ("", "the address is missing"),
            ("8.8.8", "the address \"8.8.8\""),
            ("8.8.8.8:", "the port \"\""),
            ("8.8.8.8:dns", "the port \"dns\""),
            ("8.8.8.8:-1", "the port \"-1\""),
            ("[2001:db8::1", "never closed"),
            ("[2001:db8::1]53", "the port \"53\""),
            ("quic://1.1.1.1", "the scheme \"quic\""),
            ("tls://dns.google", "\"dns.google\" is a name"),
            ("tls://1.1.1.1#a b", "the name \"a b\" after #"),
            ("tls://1.1.1.1/x#a", "has no path"),
            ("https://1.1.1.1/dns query#a", "the path \"/dns query\""),
            ("https://1.1.1.1/dns-query?dns=#a", "the path \"/dns-query?dns=\""),
            ("https://1.1.1.1:https/dns-query", "the port \"https\""),
            ("https://dns.google/dns-query", "like https://1.1.1.1/dns-query#cloudflare-dns.com"),
            ("tls://1.1.1.1#", "after #"),
            ("8.8.8.8,1.1.1.1", "there is a comma in it"),
            ("udp://1.1.1.1#dns.google", "verifies no certificate"),
            ("System", "\"System\" is a name"),
        ];
        for (typed, part) in table {
            let error = typed.parse::<Server>().unwrap_err().to_string();
            assert!(error.contains(part), "{typed}: {error}");
        }
    }
}
