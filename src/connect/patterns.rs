//! Targets as NO_PROXY writes them, read as Go reads it (golang.org/x/net/http/httpproxy): names with what
//! is beneath them, `.name` for what is beneath alone, networks, addresses, ports, `*`. What is none of
//! these covers nothing. Whose way it is that they tell is `parent`'s business.

use std::net::SocketAddr;

use ipnet::IpNet;

use crate::target::{Host, Target};

/// Targets in the notation of NO_PROXY.
#[derive(Clone, Debug, Default)]
pub(super) struct Patterns {
    everybody: bool,
    names: Vec<NamePattern>,
    nets: Vec<IpNet>,
    sockets: Vec<SocketAddr>,
}

#[derive(Clone, Debug)]
struct NamePattern {
    suffix: String,
    /// `.foo.com` means what is beneath foo.com, and not foo.com.
    beneath_only: bool,
    port: Option<u16>,
}

impl Patterns {
    pub(super) fn parse(text: &str) -> Patterns {
        let mut patterns = Patterns::default();
        for entry in text.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()) {
            if entry == "*" {
                patterns.everybody = true;
            } else if let Ok(net) = entry.parse::<IpNet>() {
                patterns.nets.push(net);
            } else if let Ok(socket) = entry.parse() {
                patterns.sockets.push(socket);
            } else if let Ok(address) = entry.trim_matches(['[', ']']).parse::<std::net::IpAddr>() {
                patterns.nets.push(address.into());
            } else {
                patterns.names.extend(NamePattern::parse(entry));
            }
        }
        patterns
    }

    pub(super) fn are_none(&self) -> bool {
        !self.everybody && self.names.is_empty() && self.nets.is_empty() && self.sockets.is_empty()
    }

    pub(super) fn cover(&self, target: &Target) -> bool {
        if self.everybody {
            return true;
        }
        match &target.host {
            Host::Addr(address) => {
                self.nets.iter().any(|net| net.contains(address))
                    || self.sockets.contains(&SocketAddr::new(*address, target.port))
            }
            Host::Name(name) => self.names.iter().any(|entry| entry.covers(name.as_str(), target.port)),
        }
    }
}

impl NamePattern {
    fn parse(entry: &str) -> Option<NamePattern> {
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (entry, None),
        };
        let host = host.to_ascii_lowercase();
        let (suffix, beneath_only) = match host.strip_prefix("*.").or_else(|| host.strip_prefix('.')) {
            Some(rest) => (rest.to_owned(), true),
            None => (host, false),
        };
        Some(NamePattern { suffix, beneath_only, port })
    }

    fn covers(&self, name: &str, port: u16) -> bool {
        let fits = match name.strip_suffix(&self.suffix) {
            Some("") => !self.beneath_only,
            Some(rest) => rest.ends_with('.'),
            None => false,
        };
        fits && self.port.is_none_or(|own| own == port)
    }
}
