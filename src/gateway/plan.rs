//! What is wished for, judged: which networks, which destinations, which listener a family is sent to.
//!
//! Everything that can be known without looking at the machine is refused here, with what to type instead:
//! a listener that a redirected packet cannot reach is the commonest mistake, and a silent one.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

use crate::target::{Scope, special_ranges};

/// How packets come to a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// With the destination rewritten; stopped, goanyway's clients are refused
    ///
    /// The listener asks the kernel for the original one.
    #[default]
    Redirect,
    /// With the destination as it was; stopped, they are forwarded past it
    ///
    /// The listener's socket has it as its own address.
    Tproxy,
}

impl Mode {
    /// As a user types it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Redirect => "redirect",
            Mode::Tproxy => "tproxy",
        }
    }
}

/// What is wished for, as typed.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The networks of the builds.
    pub subnets: Vec<IpNet>,
    /// Where they come in; none: anywhere.
    pub interfaces: Vec<String>,
    pub mode: Mode,
    /// The listeners for 80 and 443.
    pub transparent: Vec<SocketAddr>,
    /// The listeners for 53.
    pub dns: Vec<SocketAddr>,
    /// Name servers that clients may still ask themselves.
    pub keep_dns: Vec<Servers>,
    /// Whether connections to private destinations are taken, too.
    pub include_private: bool,
}

/// Name servers: an address, or a network of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Servers(pub IpNet);

impl FromStr for Servers {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Servers, Self::Err> {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        let network = address.or_else(|_| text.parse::<IpNet>().map(|network| network.trunc()));
        network.map(Servers).map_err(|_| "expected an address such as 10.7.0.53, or a network of such")
    }
}

/// One of the two Internets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Family; 2] = [Family::V4, Family::V6];

    pub(super) fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// What ends the names of its sets.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Family::V4 => "v4",
            Family::V6 => "v6",
        }
    }

    fn any(self) -> &'static str {
        match self {
            Family::V4 => "0.0.0.0",
            Family::V6 => "[::]",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// The rules of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) family: Family,
    pub(super) clients: Vec<IpNet>,
    /// Where 80 and 443 go.
    pub(super) web: Option<SocketAddr>,
    /// Where 53 goes.
    pub(super) names: Option<SocketAddr>,
    pub(super) kept: Vec<IpNet>,
    pub(super) spared: Vec<IpNet>,
}

/// What will be done: a wish that can be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub(super) mode: Mode,
    pub(super) interfaces: Vec<String>,
    pub(super) include_private: bool,
    /// Those that the subnets have.
    pub(super) sides: Vec<Side>,
}

impl Plan {
    /// Judges a wish.
    pub fn new(wish: &Wish) -> Result<Plan, Unfit> {
        judge_subnets(&wish.subnets)?;
        wish.interfaces.iter().try_for_each(|name| judge_interface(name))?;
        if wish.transparent.is_empty() && wish.dns.is_empty() {
            return Err(Unfit::NoListener);
        }
        let sides = Family::BOTH.into_iter().filter_map(|family| take_side(wish, family).transpose());
        Ok(Plan {
            mode: wish.mode,
            interfaces: wish.interfaces.clone(),
            include_private: wish.include_private,
            sides: sides.collect::<Result<_, _>>()?,
        })
    }

    /// The networks whose traffic is taken.
    pub fn clients(&self) -> impl Iterator<Item = &IpNet> {
        self.sides.iter().flat_map(|side| &side.clients)
    }

    /// Where its traffic is sent, by the flag that names such a listener.
    pub fn listeners(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let of = |side: &Side| {
            let (web, names) = (side.web.map(|at| ("transparent", at)), side.names.map(|at| ("dns", at)));
            web.into_iter().chain(names)
        };
        self.sides.iter().flat_map(of)
    }

    /// Whether 80 and 443 are taken.
    pub fn takes_web(&self) -> bool {
        self.sides.iter().any(|side| side.web.is_some())
    }

    /// Whether 53 is taken.
    pub fn takes_names(&self) -> bool {
        self.sides.iter().any(|side| side.names.is_some())
    }
}

/// Why a wish cannot be granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error(
        "there is nothing to redirect to: --transparent ADDR names the listener for 80 and 443, --dns ADDR the one for 53"
    )]
    NoListener,
    #[error("--subnet {given}: the network of that address is {network}")]
    HostBits { given: IpNet, network: IpNet },
    #[error("--subnet {0} is everybody: name the networks of the builds")]
    Everybody(IpNet),
    #[error("--subnet {0} is IPv4 in IPv6 clothes, which no packet has as its source: write it as IPv4")]
    Mapped(IpNet),
    #[error("--subnet {outer} holds --subnet {inner}: name one of them")]
    Overlap { outer: IpNet, inner: IpNet },
    #[error("--interface {name:?}: {why}")]
    Interface { name: String, why: &'static str },
    #[error("--{flag} {address}: a rule needs a port that is known beforehand")]
    NoPort { flag: &'static str, address: SocketAddr },
    #[error(
        "--subnet {subnet} is {family}, and no --{flag} listener is: add --{flag} {suggestion}, or leave the subnet out"
    )]
    Unserved { flag: &'static str, family: Family, subnet: IpNet, suggestion: String },
    #[error("--{flag} {address} {why}: listen on {suggestion}, or on the incoming interface's own {family} address")]
    OutOfReach { flag: &'static str, family: Family, address: SocketAddr, why: &'static str, suggestion: String },
}

fn judge_subnets(subnets: &[IpNet]) -> Result<(), Unfit> {
    for &given in subnets {
        if given.trunc() != given {
            return Err(Unfit::HostBits { given, network: given.trunc() });
        }
        if given.prefix_len() == 0 {
            return Err(Unfit::Everybody(given));
        }
        if matches!(given, IpNet::V6(net) if net.addr().to_ipv4_mapped().is_some()) {
            return Err(Unfit::Mapped(given));
        }
        if let Some(&inner) = subnets.iter().find(|&other| *other != given && given.contains(other)) {
            return Err(Unfit::Overlap { outer: given, inner });
        }
    }
    Ok(())
}

/// The kernel's own rule (`dev_valid_name`), and what nft would read as something else.
fn judge_interface(name: &str) -> Result<(), Unfit> {
    let why = match name {
        "lo" => "this machine's own traffic is never redirected",
        "" | "." | ".." => "no interface has such a name",
        _ if name.len() > 15 => "an interface's name has 15 letters at most",
        _ if !name.bytes().all(|byte| byte.is_ascii_graphic() && !br#"/:"\*"#.contains(&byte)) => {
            "no letters but those of one interface's name: give --interface again for another"
        }
        _ => return Ok(()),
    };
    Err(Unfit::Interface { name: name.to_owned(), why })
}

fn take_side(wish: &Wish, family: Family) -> Result<Option<Side>, Unfit> {
    let ours = |net: &&IpNet| Family::of(net.addr()) == family;
    let mut clients: Vec<IpNet> = wish.subnets.iter().filter(ours).copied().collect();
    clients.sort();
    clients.dedup();
    let Some(&subnet) = clients.first() else { return Ok(None) };
    let choose = |flag, listeners: &[SocketAddr], mode| choose_listener(flag, listeners, mode, family, subnet);
    let kept: Vec<IpNet> = wish.keep_dns.iter().map(|servers| servers.0).filter(|net| ours(&net)).collect();
    Ok(Some(Side {
        family,
        clients,
        web: choose("transparent", &wish.transparent, wish.mode)?,
        // An answer must come from where the question went; only the address translation sees to that.
        names: choose("dns", &wish.dns, Mode::Redirect)?,
        kept: IpNet::aggregate(&kept),
        spared: spare(family, wish.include_private),
    }))
}

/// The first listener of this family that packets of this mode can reach.
fn choose_listener(
    flag: &'static str,
    listeners: &[SocketAddr],
    mode: Mode,
    family: Family,
    subnet: IpNet,
) -> Result<Option<SocketAddr>, Unfit> {
    let Some(first) = listeners.first() else { return Ok(None) };
    let suggest = |port| format!("{}:{port}", family.any());
    let mut same = listeners.iter().filter(|address| Family::of(address.ip()) == family).peekable();
    let Some(&&unreached) = same.peek() else {
        return Err(Unfit::Unserved { flag, family, subnet, suggestion: suggest(first.port()) });
    };
    let Some(&address) = same.find(|address| obstacle(address.ip(), mode).is_none()) else {
        let why = obstacle(unreached.ip(), mode).unwrap_or_default();
        return Err(Unfit::OutOfReach { flag, family, address: unreached, why, suggestion: suggest(unreached.port()) });
    };
    if address.port() == 0 { Err(Unfit::NoPort { flag, address }) } else { Ok(Some(address)) }
}

/// Why packets cannot be sent to a listener there.
fn obstacle(address: IpAddr, mode: Mode) -> Option<&'static str> {
    match Scope::of(address) {
        _ if address.is_unspecified() => None,
        Scope::LinkLocal => Some("is of one link, which a rule has no word for"),
        // A martian (RFC 1812 section 5.3.7) after the rewriting; tproxy rewrites nothing.
        Scope::Loopback if mode == Mode::Redirect => {
            Some("never sees a redirected packet, which arrives at an address of the interface that it came in by")
        }
        _ => None,
    }
}

/// The destinations that are left alone. Those for documentation are not among them: nobody has them, and
/// rigs are built of them.
fn spare(family: Family, include_private: bool) -> Vec<IpNet> {
    let documentation: Vec<IpNet> = DOCUMENTATION.iter().filter_map(|net| net.parse().ok()).collect();
    let is_site = |net: &IpNet, scope| scope == Scope::Private || net.to_string() == SHARED;
    let wanted = |(net, scope): &(IpNet, Scope)| {
        Family::of(net.addr()) == family && !documentation.contains(net) && !(include_private && is_site(net, *scope))
    };
    let ranges: Vec<IpNet> = special_ranges().filter(wanted).map(|(net, _)| net).collect();
    let is_inside = |net: &IpNet| ranges.iter().any(|other| other != net && other.contains(net));
    let mut spared: Vec<IpNet> = ranges.iter().filter(|net| !is_inside(net)).copied().collect();
    spared.sort();
    spared
}

/// RFC 5737, RFC 3849, RFC 9637.
const DOCUMENTATION: [&str; 5] = ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"];
/// RFC 6598: a provider's or a cloud's own.
const SHARED: &str = "100.64.0.0/10";

#[cfg(test)]
mod tests {
    use super::*;

    /// A wish that can be granted.
    fn wish() -> Wish {
        Wish {
            subnets: nets(&["10.7.0.0/16", "fd07::/64"]),
            interfaces: vec!["eth1".to_owned()],
            transparent: addresses(&["0.0.0.0:3129", "[::]:3129"]),
            dns: addresses(&["0.0.0.0:53", "[::]:53"]),
            ..Wish::default()
        }
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn refusal(change: impl FnOnce(&mut Wish)) -> String {
        let mut wish = wish();
        change(&mut wish);
        Plan::new(&wish).unwrap_err().to_string()
    }

    #[test]
    fn subnets_are_networks_of_somebody_and_stand_apart() {
        let table: [(&[&str], &str); 6] = [
            (&["10.7.0.5/16"], "--subnet 10.7.0.5/16: the network of that address is 10.7.0.0/16"),
            (&["fd07::1/64"], "--subnet fd07::1/64: the network of that address is fd07::/64"),
            (&["0.0.0.0/0"], "is everybody"),
            (&["::ffff:10.7.0.0/112"], "write it as IPv4"),
            (&["10.7.3.0/24", "10.7.0.0/16"], "--subnet 10.7.0.0/16 holds --subnet 10.7.3.0/24"),
            (&["10.7.0.0/16", "10.7.0.0/17"], "--subnet 10.7.0.0/16 holds --subnet 10.7.0.0/17"),
        ];
        for (subnets, words) in table {
            let said = refusal(|wish| wish.subnets = nets(subnets));
            assert!(said.contains(words), "{said}");
        }
        let twice = Wish { subnets: nets(&["10.7.0.0/16", "10.7.0.0/16"]), ..wish() };
        assert_eq!(Plan::new(&twice).unwrap().clients().count(), 1, "the same one twice is no contradiction");
    }

    #[test]
    fn a_family_without_a_listener_is_told_which_one_to_add() {
        let said = refusal(|wish| wish.transparent = addresses(&["0.0.0.0:3129"]));
        assert!(said.starts_with("--subnet fd07::/64 is IPv6, and no --transparent listener is"), "{said}");
        assert!(said.contains("add --transparent [::]:3129"), "{said}");
        let said = refusal(|wish| wish.dns = addresses(&["[::]:5300"]));
        assert!(said.contains("10.7.0.0/16 is IPv4") && said.contains("add --dns 0.0.0.0:5300"), "{said}");
        let one = Wish { subnets: nets(&["10.7.0.0/16"]), dns: addresses(&["0.0.0.0:53"]), ..wish() };
        assert_eq!(Plan::new(&one).unwrap().sides.len(), 1, "a listener more does no harm");
    }

    #[test]
    fn a_listener_that_no_rewritten_packet_reaches_is_refused() {
        let said = refusal(|wish| wish.transparent[0] = "127.0.0.1:3129".parse().unwrap());
        assert!(said.starts_with("--transparent 127.0.0.1:3129 never sees a redirected packet"), "{said}");
        assert!(said.contains("listen on 0.0.0.0:3129, or on the incoming interface's own IPv4 address"), "{said}");
        for unreached in ["[::1]:53", "[fe80::1]:53"] {
            let said = refusal(|wish| wish.dns[1] = unreached.parse().unwrap());
            assert!(said.contains("listen on [::]:53"), "{said}");
        }
        let beside = Wish { dns: addresses(&["127.0.0.1:53", "10.7.0.1:53", "[::]:53"]), ..wish() };
        let plan = Plan::new(&beside).unwrap();
        assert_eq!(plan.sides[0].names, Some("10.7.0.1:53".parse().unwrap()), "the one that is reached");
        let loopback = addresses(&["127.0.0.1:3129", "[::1]:3129"]);
        let tproxy = Wish { mode: Mode::Tproxy, transparent: loopback, ..wish() };
        assert!(Plan::new(&tproxy).is_ok(), "tproxy leaves the packet as it is");
        let names = Wish { dns: addresses(&["127.0.0.1:53", "[::1]:53"]), ..tproxy };
        assert!(Plan::new(&names).is_err(), "but names are redirected in either mode");
    }

    #[test]
    fn what_no_rule_can_be_made_of_is_refused() {
        assert!(refusal(|wish| (wish.transparent, wish.dns) = Default::default()).contains("nothing to redirect to"));
        let said = refusal(|wish| wish.dns[0] = "0.0.0.0:0".parse().unwrap());
        assert_eq!(said, "--dns 0.0.0.0:0: a rule needs a port that is known beforehand");
        for name in ["lo", "", "eth0\" accept", "br-*", "a-name-too-long-", "eth0 eth1"] {
            assert!(refusal(|wish| wish.interfaces = vec![name.to_owned()]).starts_with("--interface"), "{name}");
        }
        assert!("10.7.0".parse::<Servers>().is_err());
    }

    #[test]
    fn private_destinations_are_spared_unless_included_and_others_always() {
        let spared = |include_private| {
            let plan = Plan::new(&Wish { include_private, ..wish() }).unwrap();
            plan.sides.into_iter().flat_map(|side| side.spared).collect::<Vec<_>>()
        };
        let holds = |nets: &[IpNet], address: &str| {
            let address: IpAddr = address.parse().unwrap();
            nets.iter().any(|net| net.contains(&address))
        };
        let (usual, included) = (spared(false), spared(true));
        for private in ["10.1.2.3", "192.168.1.1", "172.31.0.1", "100.64.0.1", "fd12::1"] {
            assert!(holds(&usual, private) && !holds(&included, private), "{private}");
        }
        for never in ["169.254.169.254", "100.100.100.200", "fd00:ec2::254", "127.0.0.1", "224.0.0.251", "fe80::1"] {
            assert!(holds(&usual, never) && holds(&included, never), "{never}");
        }
        for taken in ["1.1.1.1", "203.0.113.9", "2606:4700::1111", "2001:db8::1", "64:ff9b::808:808"] {
            assert!(!holds(&usual, taken) && !holds(&included, taken), "{taken}");
        }
        for (index, net) in usual.iter().enumerate() {
            assert!(usual[index + 1..].iter().all(|other| !net.contains(other)), "nft refuses overlaps: {net}");
        }
    }
}
