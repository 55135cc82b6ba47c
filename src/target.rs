//! Where a request wants to go: names, hosts, ports, and what kind of place an address is.
//!
//! Everything a stranger may spell is parsed here once, into one canonical form, so that no rule
//! further on ever sees a second spelling: names are lower-case A-labels without a trailing dot,
//! IPv4 addresses written as `127.1`, `0x7f000001` or `0177.0.0.1` are the address they mean, and
//! IPv4 inside IPv6 is unwrapped. Whether a target may be *reached* is `admit`'s to say; this file
//! imports nothing from the house.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A host and a port: what a CONNECT, an absolute-form request or a mirror's URL points at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub host: Host,
    pub port: u16,
}

impl Target {
    /// Joins the two.
    pub fn new(host: Host, port: u16) -> Target {
        Target { host, port }
    }

    /// Reads the authority of a CONNECT (RFC 9110 section 9.3.6): host, colon, port, nothing else.
    pub fn parse_connect(text: &str) -> Result<Target, BadTarget> {
        let (host, port) = split_port(text)?;
        let port = port.ok_or(BadTarget::NoPort)?;
        Ok(Target::new(Host::parse(host)?, parse_port(port)?))
    }

    /// Reads the authority of a URL, whose scheme gives the port where none is written.
    pub fn parse_authority(text: &str, default_port: u16) -> Result<Target, BadTarget> {
        let (host, port) = split_port(text)?;
        let port = match port {
            None | Some("") => default_port,
            Some(port) => parse_port(port)?,
        };
        Ok(Target::new(Host::parse(host)?, port))
    }

    /// The authority as a URL of a scheme with this default port writes it.
    pub fn authority(&self, default_port: u16) -> String {
        if self.port == default_port { self.host.to_string() } else { self.to_string() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// The port where a URL writes none.
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }

    /// As a URL writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// The URL of a server that requests are made to: scheme, target and a path prefix, with no query,
/// no fragment and no user information.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Base {
    pub scheme: Scheme,
    pub target: Target,
    /// Empty, or `/` and more, never with a slash at its end.
    pub path: String,
}

impl Base {
    /// Reads `http://host[:port][/path]` or `https://…`; a bare `host…` means https, as go reads a
    /// GOPROXY entry (cmd/go/internal/modfetch/proxy.go, newProxyRepo).
    pub fn parse(text: &str) -> Result<Base, BadTarget> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(_) => return Err(BadTarget::BadScheme),
            None => (Scheme::Https, text),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if path.contains(['?', '#', ' ']) || authority.contains(['?', '#']) {
            return Err(BadTarget::NotABase);
        }
        let (host, port) = split_port(authority)?;
        // Port 0 is nobody's: an upstream that is down from the start, which an operator may want to say.
        let port = port.filter(|port| !port.is_empty()).map_or(Ok(scheme.default_port()), read_port)?;
        let target = Target::new(Host::parse(host)?, port);
        Ok(Base { scheme, target, path: path.trim_end_matches('/').to_owned() })
    }

    /// The authority as a Host field writes it.
    pub fn authority(&self) -> String {
        self.target.authority(self.scheme.default_port())
    }
}

impl FromStr for Base {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Base, BadTarget> {
        Base::parse(text)
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.as_str(), self.authority(), self.path)
    }
}

/// A name still to be resolved, or an address as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    Name(Name),
    Addr(IpAddr),
}

impl Host {
    /// Reads a host as URLs write it: a name, an IPv4 address in any spelling, or `[IPv6]`.
    pub fn parse(text: &str) -> Result<Host, BadTarget> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(BadTarget::Brackets)?;
            let address = inner.parse::<Ipv6Addr>().map_err(|_| BadTarget::Brackets)?;
            return Ok(Host::Addr(unwrap_mapped(IpAddr::V6(address))));
        }
        if text.bytes().any(|byte| byte == b':') {
            return Err(BadTarget::Brackets);
        }
        let name = Name::parse(text)?;
        // Judged after the mapping, which makes digits of other characters: `①` is `1`, `。` is a dot.
        if !ends_in_number(name.as_str()) {
            return Ok(Host::Name(name));
        }
        let address = parse_ipv4(name.as_str()).ok_or(BadTarget::NotIpv4)?;
        Ok(Host::Addr(IpAddr::V4(address)))
    }

    /// The name, where it is one.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Host::Name(name) => Some(name),
            Host::Addr(_) => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => name.fmt(f),
            Host::Addr(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Host::Addr(address) => address.fmt(f),
        }
    }
}

/// A domain name in its one canonical spelling: lower-case A-labels, no trailing dot, at most 253
/// octets (RFC 1035 section 2.3.4, RFC 5891).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// Reads a name in any spelling: case, a trailing dot, Unicode.
    pub fn parse(text: &str) -> Result<Name, BadTarget> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(BadTarget::Empty);
        }
        let ascii = if is_plain(text) {
            Cow::Borrowed(text)
        } else if text.is_ascii() {
            Cow::Owned(text.to_ascii_lowercase())
        } else {
            Cow::Owned(idna::domain_to_ascii(text).map_err(|_| BadTarget::NotAName)?)
        };
        let fits = ascii.len() <= 253 && ascii.as_bytes().split(|&byte| byte == b'.').all(is_label);
        if fits { Ok(Name(ascii.into())) } else { Err(BadTarget::NotAName) }
    }

    /// The canonical spelling.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `suffix` itself or a name beneath it.
    pub fn is_under(&self, suffix: &str) -> bool {
        match self.0.strip_suffix(suffix) {
            Some("") => true,
            Some(rest) => rest.ends_with('.'),
            None => false,
        }
    }

    /// Whether no dot is in it: a name that only a search list or the own network knows.
    pub fn is_single_label(&self) -> bool {
        !self.0.contains('.')
    }
}

/// So that a map of names can be asked for a part of one.
impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Name, BadTarget> {
        Name::parse(text)
    }
}

impl serde::Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Name::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Why a piece of text is no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    #[error("the host is empty")]
    Empty,
    #[error("a CONNECT needs HOST:PORT, and the port is missing")]
    NoPort,
    #[error("a port is a decimal number from 1 to 65535")]
    BadPort,
    #[error("a URL here starts with http:// or https://")]
    BadScheme,
    #[error("a URL here has a host and perhaps a path, but no query and no fragment")]
    NotABase,
    #[error("user information has no place in a target")]
    UserInfo,
    #[error("an IPv6 address stands in brackets, whole and without a zone: [2001:db8::1]")]
    Brackets,
    #[error("a host that ends in a number must be an IPv4 address")]
    NotIpv4,
    #[error("not a host name: letters, digits, hyphens and underscores in labels of at most 63, at most 253 in all")]
    NotAName,
}

fn split_port(text: &str) -> Result<(&str, Option<&str>), BadTarget> {
    // By bytes: a search for a char costs more than these short texts.
    let colons = || text.bytes().filter(|&byte| byte == b':');
    if text.bytes().any(|byte| byte == b'@') {
        return Err(BadTarget::UserInfo);
    }
    let host_end = match text.strip_prefix('[') {
        Some(rest) => rest.find(']').ok_or(BadTarget::Brackets)? + 2,
        None if colons().count() > 1 => return Err(BadTarget::Brackets),
        None => text.bytes().position(|byte| byte == b':').unwrap_or(text.len()),
    };
    match text[host_end..].strip_prefix(':') {
        Some(port) => Ok((&text[..host_end], Some(port))),
        None if host_end == text.len() => Ok((text, None)),
        None => Err(BadTarget::Brackets),
    }
}

fn parse_port(text: &str) -> Result<u16, BadTarget> {
    read_port(text).and_then(|port| if port == 0 { Err(BadTarget::BadPort) } else { Ok(port) })
}

fn read_port(text: &str) -> Result<u16, BadTarget> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadTarget::BadPort);
    }
    text.parse().map_err(|_| BadTarget::BadPort)
}

fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_'))
}

fn is_label(label: &[u8]) -> bool {
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-' || *byte == b'_';
    let (first, last) = (label.first(), label.last());
    !label.is_empty() && label.len() <= 63 && label.iter().all(inner) && first != Some(&b'-') && last != Some(&b'-')
}

/// Whether the last label is a number, so that the whole can only be an IPv4 address (the rule of
/// the WHATWG URL standard, section 3.5 "ends in a number").
fn ends_in_number(text: &str) -> bool {
    let last = text.bytes().rposition(|byte| byte == b'.').map_or(text, |dot| &text[dot + 1..]);
    let digits = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    digits || parse_part(last).is_some()
}

/// IPv4 as `inet_aton` reads it: one to four parts, each decimal, octal or hexadecimal, the last
/// one filling what is left.
fn parse_ipv4(text: &str) -> Option<Ipv4Addr> {
    let parts = text.split('.').map(parse_part).collect::<Option<Vec<u32>>>()?;
    let (&last, heads) = parts.split_last()?;
    if heads.len() > 3 || heads.iter().any(|&part| part > 255) {
        return None;
    }
    let room = 32 - 8 * heads.len() as u32;
    if room < 32 && last >> room != 0 {
        return None;
    }
    let high = heads.iter().fold(0u32, |whole, &part| whole << 8 | part);
    let high = if heads.is_empty() { 0 } else { high << room };
    Some(Ipv4Addr::from(high | last))
}

fn parse_part(part: &str) -> Option<u32> {
    let (digits, radix) = match part.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&part[2..], 16),
        [b'0', _, ..] => (&part[1..], 8),
        _ => (part, 10),
    };
    if digits.is_empty() {
        return (radix == 16).then_some(0);
    }
    if !digits.bytes().all(|byte| (byte as char).is_digit(radix)) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

/// An IPv4 address inside an IPv4-mapped one is that IPv4 address; anything else stays.
pub fn unwrap_mapped(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Whose address it is: a host has a whole /64 of IPv6 to send from (RFC 8981).
pub fn subscriber(address: IpAddr) -> IpAddr {
    match unwrap_mapped(address) {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// What kind of place an address is, for the rules of admission and for what a resolver may say
/// (IANA special-purpose address registries, RFC 6890).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Reached over the public Internet.
    Global,
    /// A site's own: RFC 1918 and unique local addresses (RFC 4193).
    Private,
    /// This host.
    Loopback,
    /// This link (RFC 3927, RFC 4291 section 2.5.6).
    LinkLocal,
    /// Where clouds hand out credentials to whoever asks.
    Metadata,
    /// Anything else that is no ordinary destination: documentation, benchmarking, multicast,
    /// reserved, shared address space.
    Special,
}

impl Scope {
    /// What this address is good for. An address that carries an IPv4 address in it (NAT64, 6to4,
    /// Teredo, IPv4-compatible) is judged by the one it carries.
    pub fn of(address: IpAddr) -> Scope {
        match unwrap_mapped(address) {
            IpAddr::V4(address) => scope_v4(address),
            IpAddr::V6(address) => match (find(&V6_TABLE, &IpAddr::V6(address)), embedded(address)) {
                (Some(scope), _) => scope,
                (None, Some(inside)) => scope_v4(inside),
                (None, None) => Scope::Global,
            },
        }
    }

    /// Whether it is reached over the public Internet.
    pub fn is_global(self) -> bool {
        self == Scope::Global
    }

    /// The word that a denial uses.
    pub fn describe(self) -> &'static str {
        match self {
            Scope::Global => "public",
            Scope::Private => "private",
            Scope::Loopback => "loopback",
            Scope::LinkLocal => "link-local",
            Scope::Metadata => "cloud metadata",
            Scope::Special => "special-purpose",
        }
    }
}

/// The ranges that are no ordinary destinations, single addresses before the ranges that hold them.
pub fn special_ranges() -> impl Iterator<Item = (IpNet, Scope)> {
    V4_TABLE.iter().chain(&V6_TABLE).copied()
}

fn scope_v4(address: Ipv4Addr) -> Scope {
    find(&V4_TABLE, &IpAddr::V4(address)).unwrap_or(Scope::Global)
}

fn find(table: &[(IpNet, Scope)], address: &IpAddr) -> Option<Scope> {
    table.iter().find(|(net, _)| net.contains(address)).map(|(_, scope)| *scope)
}

/// The IPv4 address that a transition mechanism carries inside this IPv6 address.
pub fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = address.octets();
    let at = |start: usize| Ipv4Addr::new(octets[start], octets[start + 1], octets[start + 2], octets[start + 3]);
    match address.segments() {
        // NAT64 well-known prefix (RFC 6052 section 2.1).
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(at(12)),
        // 6to4 (RFC 3056 section 2).
        [0x2002, ..] => Some(at(2)),
        // Teredo: the client's address, inverted (RFC 4380 section 4).
        [0x2001, 0, ..] => Some(Ipv4Addr::from(!u32::from(at(12)))),
        // IPv4-compatible (RFC 4291 section 2.5.5.1).
        [0, 0, 0, 0, 0, 0, high, low] if (high, low) > (0, 1) => Some(at(12)),
        _ => None,
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

const fn v6(segments: [u16; 8], prefix: u8) -> IpNet {
    let [a, b, c, d, e, f, g, h] = segments;
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix))
}

/// First match counts: single addresses stand before the ranges that hold them.
static V4_TABLE: [(IpNet, Scope); 22] = [
    (v4(169, 254, 169, 254, 32), Scope::Metadata),
    (v4(169, 254, 170, 2, 32), Scope::Metadata),
    (v4(169, 254, 170, 23, 32), Scope::Metadata),
    (v4(168, 63, 129, 16, 32), Scope::Metadata),
    (v4(100, 100, 100, 200, 32), Scope::Metadata),
    (v4(192, 0, 0, 192, 32), Scope::Metadata),
    (v4(127, 0, 0, 0, 8), Scope::Loopback),
    (v4(0, 0, 0, 0, 32), Scope::Loopback),
    (v4(0, 0, 0, 0, 8), Scope::Special),
    (v4(10, 0, 0, 0, 8), Scope::Private),
    (v4(172, 16, 0, 0, 12), Scope::Private),
    (v4(192, 168, 0, 0, 16), Scope::Private),
    (v4(169, 254, 0, 0, 16), Scope::LinkLocal),
    (v4(100, 64, 0, 0, 10), Scope::Special),
    (v4(192, 0, 0, 0, 24), Scope::Special),
    (v4(192, 0, 2, 0, 24), Scope::Special),
    (v4(192, 88, 99, 0, 24), Scope::Special),
    (v4(198, 18, 0, 0, 15), Scope::Special),
    (v4(198, 51, 100, 0, 24), Scope::Special),
    (v4(203, 0, 113, 0, 24), Scope::Special),
    (v4(224, 0, 0, 0, 4), Scope::Special),
    (v4(240, 0, 0, 0, 4), Scope::Special),
];

static V6_TABLE: [(IpNet, Scope); 17] = [
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128), Scope::Metadata),
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23], 128), Scope::Metadata),
    (v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), Scope::Metadata),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), Scope::Loopback),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), Scope::Loopback),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), Scope::Private),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), Scope::LinkLocal),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), Scope::Special),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), Scope::Special),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), Scope::Special),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), Scope::Special),
    (v6([0x2001, 0x2, 0, 0, 0, 0, 0, 0], 48), Scope::Special),
    (v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28), Scope::Special),
    (v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28), Scope::Special),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), Scope::Special),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), Scope::Special),
    (v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16), Scope::Special),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connect_names_a_host_and_a_port_and_nothing_else() {
        let refused = [
            ("goproxy.cn", BadTarget::NoPort),
            ("goproxy.cn:", BadTarget::BadPort),
            (":443", BadTarget::Empty),
            ("goproxy.cn:443x", BadTarget::BadPort),
            ("goproxy.cn:+443", BadTarget::BadPort),
            ("goproxy.cn:0", BadTarget::BadPort),
            ("goproxy.cn:65616", BadTarget::BadPort),
            ("goproxy.cn:99999999999", BadTarget::BadPort),
            ("user@goproxy.cn:443", BadTarget::UserInfo),
            ("a..b:443", BadTarget::NotAName),
            ("-a.b:443", BadTarget::NotAName),
            ("a b:443", BadTarget::NotAName),
            ("::1:443", BadTarget::Brackets),
            ("[::1:443", BadTarget::Brackets),
            ("[fe80::1%eth0]:443", BadTarget::Brackets),
            ("[goproxy.cn]:443", BadTarget::Brackets),
            ("[::1]443", BadTarget::Brackets),
            ("1.2.3.4.5:443", BadTarget::NotIpv4),
            ("256.1.1.1:443", BadTarget::NotIpv4),
        ];
        for (text, why) in refused {
            assert_eq!(Target::parse_connect(text).unwrap_err(), why, "{text}");
        }
        assert!(Target::parse_connect("/x:443").is_err());
        assert!(Target::parse_connect("http://h/x").is_err());
    }

    #[test]
    fn every_spelling_of_a_host_becomes_the_same_host() {
        let same = [
            ("GoProxy.CN.:443", "goproxy.cn:443"),
            ("127.1:443", "127.0.0.1:443"),
            ("0x7f000001:443", "127.0.0.1:443"),
            ("2130706433:443", "127.0.0.1:443"),
            ("0177.0.0.1:443", "127.0.0.1:443"),
            ("127.0.0.1.:443", "127.0.0.1:443"),
            ("0:443", "0.0.0.0:443"),
            ("[::ffff:127.0.0.1]:443", "127.0.0.1:443"),
            ("[2001:DB8::1]:443", "[2001:db8::1]:443"),
            ("bücher.example:80", "xn--bcher-kva.example:80"),
            // Found by fuzz/: digits and dots of other scripts made a name out of an address.
            ("²1:80", "0.0.0.21:80"),
            ("127。0。0。1:80", "127.0.0.1:80"),
            ("１２７.0.0.１:80", "127.0.0.1:80"),
        ];
        for (text, canonical) in same {
            assert_eq!(Target::parse_connect(text).unwrap().to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn a_url_gives_the_port_where_none_is_written() {
        let port = |text| Target::parse_authority(text, 80).unwrap().port;
        assert_eq!((port("a.example"), port("a.example:"), port("a.example:8080"), port("[::1]")), (80, 80, 8080, 80));
        assert!(Target::parse_authority("a.example:0", 80).is_err(), "no client names port 0");
        assert_eq!(Base::parse("http://127.0.0.1:0").unwrap().target.port, 0, "an operator may");
        assert_eq!(Target::parse_authority("a.example:443", 443).unwrap().authority(443), "a.example");
    }

    #[test]
    fn a_base_is_a_server_and_a_path_prefix() {
        let written = |text| Base::parse(text).unwrap().to_string();
        assert_eq!(written("http://127.0.0.1:8081/mod/"), "http://127.0.0.1:8081/mod");
        assert_eq!(written("https://GoProxy.cn:443"), "https://goproxy.cn");
        assert_eq!(written("goproxy.cn"), "https://goproxy.cn");
        assert_eq!(Base::parse("ftp://a.example"), Err(BadTarget::BadScheme));
        assert_eq!(Base::parse("http://u:p@a.example"), Err(BadTarget::UserInfo));
        assert_eq!(Base::parse("http://a.example/x?y"), Err(BadTarget::NotABase));
    }

    #[test]
    fn addresses_are_judged_by_what_they_reach() {
        let table = [
            ("8.8.8.8", Scope::Global),
            ("2606:4700:4700::1111", Scope::Global),
            ("10.1.2.3", Scope::Private),
            ("172.31.255.255", Scope::Private),
            ("172.32.0.1", Scope::Global),
            ("fd12::1", Scope::Private),
            ("127.255.0.1", Scope::Loopback),
            ("0.0.0.0", Scope::Loopback),
            ("::", Scope::Loopback),
            ("::1", Scope::Loopback),
            ("169.254.169.254", Scope::Metadata),
            ("fd00:ec2::254", Scope::Metadata),
            ("fd00:ec2::23", Scope::Metadata),
            ("169.254.170.23", Scope::Metadata),
            ("168.63.129.16", Scope::Metadata),
            ("100.100.100.200", Scope::Metadata),
            ("169.254.1.1", Scope::LinkLocal),
            ("fe80::1", Scope::LinkLocal),
            ("100.64.0.1", Scope::Special),
            ("198.18.0.1", Scope::Special),
            ("198.19.255.255", Scope::Special),
            ("240.0.0.1", Scope::Special),
            ("255.255.255.255", Scope::Special),
            ("203.0.113.9", Scope::Special),
            ("2001:db8::1", Scope::Special),
            ("::ffff:10.0.0.1", Scope::Private),
            ("::127.0.0.1", Scope::Loopback),
            ("64:ff9b::7f00:1", Scope::Loopback),
            ("64:ff9b::a9fe:a9fe", Scope::Metadata),
            ("64:ff9b::808:808", Scope::Global),
            ("64:ff9b:1::808:808", Scope::Special),
            ("2002:7f00:1::", Scope::Loopback),
            ("2002:808:808::1", Scope::Global),
            ("2001:0:4136:e378:8000:63bf:80ff:fffe", Scope::Loopback),
        ];
        for (text, scope) in table {
            assert_eq!(Scope::of(text.parse().unwrap()), scope, "{text}");
        }
    }

    #[test]
    fn a_suffix_covers_itself_and_what_is_beneath() {
        let name = Name::parse("proxy.goproxy.cn").unwrap();
        assert!(name.is_under("goproxy.cn") && name.is_under("proxy.goproxy.cn"));
        assert!(!Name::parse("evilgoproxy.cn").unwrap().is_under("goproxy.cn"));
    }
}
