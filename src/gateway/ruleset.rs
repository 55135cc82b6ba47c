//! A plan as text: an nftables ruleset that loads itself in one transaction, each rule with its reason.
//!
//! Reasons of rules are nft's own comments, so that `nft list table inet goanyway` explains itself on a
//! machine where nobody has heard of us; reasons of sets and chains are in the text alone.
//!
//! Every chain hooks before routing and ahead of the destination translation of others (Docker's,
//! a port forwarding's), and ends with `accept`, which lets the packet go on to the chains of others.

use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;

use super::plan::{Family, Mode, Plan, Side};
use super::routing::{self, MARK};

/// The table, and nothing else of the machine's rules, is ours.
pub(super) const TABLE: &str = "inet goanyway";

impl Plan {
    /// The ruleset, for `nft -f`.
    pub fn ruleset(&self) -> String {
        let mut text = format!(
            "# A build subnet, sent to goanyway on this machine. Written by, and to be changed by:\n\
             #   goanyway gateway print{}{}\n\
             # (apply instead of print loads it, check compares, remove takes it out again.)\n",
            self.flags(),
            self.admitting()
        );
        for line in Family::BOTH.into_iter().flat_map(|family| routing::wanted(self, family).lines("add")) {
            if !text.contains("Marked packets") {
                text += "#\n# Marked packets find this machine's sockets by these, which nft has no word for:\n";
            }
            text += &format!("#   {line}\n");
        }
        text += &format!(
            "\n# One transaction: the first line is for the second, which fails where there is no table.\n\
             table {TABLE}\ndelete table {TABLE}\n\ntable {TABLE} {{\n"
        );
        let parts: Vec<String> = self.sides.iter().flat_map(sets).chain(self.chains()).collect();
        text + &parts.join("\n") + "}\n"
    }

    /// What makes this plan again, as typed.
    pub fn flags(&self) -> String {
        let mut flags = format!(" --mode {}", self.mode.name());
        let sides = || self.sides.iter();
        let mut add = |name: &str, values: Vec<String>| {
            values.iter().for_each(|value| flags += &format!(" --{name} {value}"));
        };
        add("subnet", self.clients().map(ToString::to_string).collect());
        add("interface", self.interfaces.clone());
        add("transparent", sides().filter_map(|side| side.web).map(|address| address.to_string()).collect());
        add("dns", sides().filter_map(|side| side.names).map(|address| address.to_string()).collect());
        add("keep-dns", sides().flat_map(|side| &side.kept).map(shorten).collect());
        if self.include_private {
            flags += " --include-private";
        }
        flags
    }

    /// What settings that name no clients would lack: a listener for others wants to be told for whom.
    pub fn admitting(&self) -> String {
        self.clients().map(|subnet| format!(" --client {subnet}")).collect()
    }

    fn chains(&self) -> Vec<String> {
        let mut chains = Vec::new();
        if self.takes_names() {
            chains.push(self.chain_names().to_string());
        }
        if self.takes_web() {
            chains.push(self.chain_web().to_string());
            chains.push(self.chain_quic().to_string());
        }
        chains
    }

    /// Names are redirected in either mode: an answer over UDP must come from where the question went.
    fn chain_names(&self) -> Chain {
        let mut chain = Chain {
            name: "names",
            about: "Names: every question of the subnet, whomever it was for, goes to the DNS listener.",
            hook: REWRITING,
            rules: vec![self.keep_out()],
        };
        for side in self.sides.iter().filter(|side| !side.kept.is_empty()) {
            let rule = format!("{} daddr @kept_dns_{} return", word(side.family), side.family.suffix());
            chain.rules.push(Rule::new(rule, "--keep-dns: these are asked as before"));
        }
        for side in &self.sides {
            let Some(listener) = side.names else { continue };
            let rule = format!("{} meta l4proto {{ tcp, udp }} th dport 53 {}", from(side), rewrite(side, listener));
            chain.rules.push(Rule::new(rule, format!("questions over {} are answered by --dns", side.family)));
        }
        chain
    }

    fn chain_web(&self) -> Chain {
        let (hook, about, bring): (_, _, fn(&Side, SocketAddr) -> String) = match self.mode {
            Mode::Redirect => (
                REWRITING,
                "Web: new connections come to the transparent listener; those that stand stay as they are.",
                rewrite,
            ),
            Mode::Tproxy => (
                MARKING,
                "Web: connections come to the transparent listener's sockets with their addresses unchanged.",
                intercept,
            ),
        };
        let mut chain = Chain { name: "web", about, hook, rules: vec![self.keep_out()] };
        chain.rules.extend(self.spare());
        for side in &self.sides {
            let Some(listener) = side.web else { continue };
            let rule = format!("{} tcp dport {{ 80, 443 }} {OPENING} {}", from(side), bring(side, listener));
            chain.rules.push(Rule::new(rule, format!("new http and https over {} go to --transparent", side.family)));
        }
        if self.mode == Mode::Tproxy {
            let rule = format!("tcp dport {{ 80, 443 }} socket transparent 1 {} accept", mark());
            chain.rules.push(Rule::new(rule, "and what follows on them; connections from before pass untouched"));
        }
        chain
    }

    /// Said at once, where silence would cost a client seconds before it tries TCP.
    fn chain_quic(&self) -> Chain {
        let mut chain = Chain {
            name: "quic",
            about: "QUIC carries what cannot be redirected: it is refused at once, so that clients take TCP.",
            hook: MARKING,
            rules: vec![self.keep_out()],
        };
        chain.rules.extend(self.spare());
        for side in self.sides.iter().filter(|side| side.web.is_some()) {
            let rule = format!("{} udp dport 443 reject with icmpx port-unreachable", from(side));
            chain.rules.push(Rule::new(rule, format!("HTTP/3 over {} falls back to TCP", side.family)));
        }
        chain
    }

    /// The first rule of each chain.
    fn keep_out(&self) -> Rule {
        let quoted: Vec<String> = self.interfaces.iter().map(|name| format!("\"{name}\"")).collect();
        match quoted.as_slice() {
            [] => Rule::new("iifname \"lo\" return", "this machine's own traffic"),
            [one] => Rule::new(format!("iifname != {one} return"), "not from the subnet's side"),
            more => Rule::new(format!("iifname != {{ {} }} return", more.join(", ")), "not from the subnet's side"),
        }
    }

    fn spare(&self) -> Vec<Rule> {
        let mut rules = vec![Rule::new("fib daddr type local return", "this machine's own services")];
        for side in self.sides.iter().filter(|side| side.web.is_some()) {
            let rule = format!("{} daddr @spared_{} return", word(side.family), side.family.suffix());
            let kinds =
                if self.include_private { "of the link, of this host, or nobody's" } else { "private or special" };
            rules.push(Rule::new(rule, format!("{} destinations that are {kinds}", side.family)));
        }
        rules
    }
}

fn sets(side: &Side) -> Vec<String> {
    let family = side.family;
    let mut sets = vec![set("clients", &format!("--subnet, {family}."), family, &side.clients)];
    if side.names.is_some() && !side.kept.is_empty() {
        sets.push(set("kept_dns", &format!("--keep-dns, {family}."), family, &side.kept));
    }
    if side.web.is_some() {
        let about = format!("{family} destinations that are never redirected (the IANA's special-purpose registry).");
        sets.push(set("spared", &about, family, &side.spared));
    }
    sets
}

fn set(name: &str, about: &str, family: Family, networks: &[IpNet]) -> String {
    let kind = match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    };
    let elements: Vec<String> = networks.iter().map(shorten).collect();
    format!(
        "\t# {about}\n\tset {name}_{} {{\n\t\ttype {kind}\n\t\tflags interval\n\t\telements = {{ {} }}\n\t}}\n",
        family.suffix(),
        elements.join(",\n\t\t\t     "),
    )
}

/// As nft writes a network: one address without its length.
fn shorten(network: &IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() { network.addr().to_string() } else { network.to_string() }
}

/// As nft calls a family in a rule.
fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn from(side: &Side) -> String {
    format!("{} saddr @clients_{}", word(side.family), side.family.suffix())
}

/// To the listener's own address where it has one: `redirect` takes the interface's first, which may be another.
fn rewrite(side: &Side, listener: SocketAddr) -> String {
    if listener.ip().is_unspecified() {
        return format!("redirect to :{}", listener.port());
    }
    format!("dnat {} to {listener}", word(side.family))
}

fn intercept(side: &Side, listener: SocketAddr) -> String {
    let to = if listener.ip().is_unspecified() { format!(":{}", listener.port()) } else { listener.to_string() };
    format!("tproxy {} to {to} {} accept", word(side.family), mark())
}

/// One bit: the others may be somebody else's.
fn mark() -> String {
    format!("meta mark set meta mark or {MARK:#x}")
}

struct Chain {
    name: &'static str,
    about: &'static str,
    hook: &'static str,
    rules: Vec<Rule>,
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Chain { name, about, hook, rules } = self;
        write!(f, "\t# {about}\n\tchain {name} {{\n\t\ttype {hook}; policy accept;\n")?;
        for Rule { rule, why } in rules {
            writeln!(f, "\t\t{rule} comment \"{why}\"")?;
        }
        f.write_str("\t}\n")
    }
}

struct Rule {
    rule: String,
    /// At most 127 bytes (libnftnl, `NFTNL_UDATA_COMMENT_MAXLEN`).
    why: String,
}

impl Rule {
    fn new(rule: impl Into<String>, why: impl Into<String>) -> Rule {
        Rule { rule: rule.into(), why: why.into() }
    }
}

/// Before the translations of others, which stand at `dstnat`; the first to translate a connection wins.
const REWRITING: &str = "nat hook prerouting priority dstnat - 5";
/// Before routing, so that the mark is seen there.
const MARKING: &str = "filter hook prerouting priority mangle";
/// The first packet of a connection. To conntrack, where nobody needed it before, all others are first ones, too.
const OPENING: &str = "tcp flags & (fin | syn | rst | ack) == syn";

#[cfg(test)]
mod tests {
    use super::super::plan::Wish;
    use super::*;

    fn plan(mode: Mode, listeners: &[&str]) -> Plan {
        let listeners: Vec<SocketAddr> = listeners.iter().map(|text| text.parse().unwrap()).collect();
        let subnets = vec!["10.7.0.0/16".parse().unwrap(), "fd07::/64".parse().unwrap()];
        let wish = Wish { subnets, mode, transparent: listeners.clone(), dns: listeners, ..Wish::default() };
        Plan::new(&wish).unwrap()
    }

    #[test]
    fn a_listener_with_an_address_is_sent_to_that_address() {
        let text = plan(Mode::Redirect, &["10.7.0.1:3129", "[fd07::1]:3129"]).ruleset();
        assert!(text.contains("== syn dnat ip to 10.7.0.1:3129 comment"), "{text}");
        assert!(text.contains("== syn dnat ip6 to [fd07::1]:3129 comment"), "{text}");
        assert!(!text.contains("redirect to"), "{text}");
        let text = plan(Mode::Tproxy, &["10.7.0.1:3129", "[fd07::1]:3129"]).ruleset();
        assert!(text.contains("== syn tproxy ip6 to [fd07::1]:3129 meta mark set"), "{text}");
    }

    #[test]
    fn without_an_interface_this_machines_own_traffic_stays_out() {
        let text = plan(Mode::Redirect, &["0.0.0.0:3129", "[::]:3129"]).ruleset();
        assert_eq!(text.matches("iifname \"lo\" return").count(), text.matches("policy accept").count(), "{text}");
    }

    #[test]
    fn only_what_has_a_listener_is_taken() {
        let mut wish = Wish { subnets: vec!["10.7.0.0/16".parse().unwrap()], ..Wish::default() };
        wish.dns = vec!["0.0.0.0:53".parse().unwrap()];
        let text = Plan::new(&wish).unwrap().ruleset();
        assert!(text.contains("chain names") && !text.contains("443") && !text.contains("spared"), "{text}");
        std::mem::swap(&mut wish.dns, &mut wish.transparent);
        let text = Plan::new(&wish).unwrap().ruleset();
        assert!(!text.contains("dport 53") && text.contains("chain quic") && !text.contains("ip6"), "{text}");
    }

    /// What nft refuses, and tells only when it loads.
    #[test]
    fn no_comment_is_longer_than_nft_takes() {
        for mode in [Mode::Redirect, Mode::Tproxy] {
            for line in plan(mode, &["0.0.0.0:3129", "[::]:3129"]).ruleset().lines() {
                let comment = line.split(" comment \"").nth(1).unwrap_or_default();
                assert!(comment.len() < 128 && comment.matches('"').count() <= 1, "{line}");
            }
        }
    }
}
