//! Targets as NO_PROXY writes them, read as Go reads it (golang.org/x/net/http/httpproxy): names with what
//! is beneath them, `.name` for what is beneath alone, networks, addresses, ports, `*`. What is none of
//! these covers nothing. Whose way it is that they tell is `parent`'s business.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::target::{BadTarget, Host, Target};

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
            } else if let Ok(address) = entry.trim_matches(['[', ']']).parse::<IpAddr>() {
                patterns.nets.push(address.into());
            } else {
                patterns.names.extend(NamePattern::parse(entry));
            }
        }
        patterns
    }

    /// The same from somebody who can be told where this covers nothing: `lab example`, `10.0.0.0/99`.
    pub(super) fn parse_strictly(text: &str) -> Result<Patterns, BadPattern> {
        let mut entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).peekable();
        if entries.peek().is_none() {
            return Err(BadPattern::Empty);
        }
        entries.try_for_each(inspect)?;
        Ok(Patterns::parse(text))
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

/// Why an entry covers nothing, or not what it says.
fn inspect(entry: &str) -> Result<(), BadPattern> {
    if entry.contains(char::is_whitespace) {
        return Err(BadPattern::Space(entry.to_owned()));
    }
    let is_socket = entry.parse::<SocketAddr>().is_ok_and(|socket| socket.port() > 0);
    if entry == "*"
        || is_socket
        || entry.parse::<IpNet>().is_ok()
        || entry.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
    {
        return Ok(());
    }
    if entry.contains('/') {
        return Err(BadPattern::Net(entry.to_owned()));
    }
    let bare = entry.strip_prefix("*.").or_else(|| entry.strip_prefix('.')).unwrap_or(entry);
    let bad = |why| BadPattern::Name(entry.to_owned(), why);
    let has_port = bare.contains(':');
    let target =
        if has_port { Target::parse_connect(bare) } else { Target::parse_authority(bare, 443) }.map_err(bad)?;
    // What is spelled otherwise than a target is would never be the same.
    let meant = if has_port { target.to_string() } else { target.host.to_string() };
    let is_it = bare.eq_ignore_ascii_case(&meant) && (bare == entry || target.host.name().is_some());
    if is_it { Ok(()) } else { Err(BadPattern::Spelling(entry.to_owned(), meant)) }
}

/// Why a text is no target that could have a parent of its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    #[error("nothing stands before the =; what is for all is written without one")]
    Empty,
    #[error("{0:?} has a space in it; each target wants a TO=URL of its own")]
    Space(String),
    #[error("{0:?} is no network; those are written as 10.0.0.0/8 or fd00::/8")]
    Net(String),
    #[error("{0:?} is {1}; write that")]
    Spelling(String, String),
    #[error(
        "{0:?} is no target, which is NAME, .NAME for what is beneath it alone, either with :PORT, ADDRESS, NETWORK or *: {1}"
    )]
    Name(String, BadTarget),
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
