//! The wish behind a table that is in place, as far as its rules still tell it: for whoever wants to know whether
//! it is as it was made, and has not the command line that made it.
//!
//! What cannot be read is left out of the wish. It then differs from what is in place, which is what is asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::plan::{Mode, Servers, Wish};

/// Reads our table as nft lists it.
pub(super) fn recall(listing: &str) -> Wish {
    let rules = |chain: &str| block(listing, &format!("chain {chain} {{")).unwrap_or_default().lines().map(str::trim);
    let elements = |set: &str| [elements(listing, set, "v4"), elements(listing, set, "v6")];
    let chains = ["names", "web", "quic"].into_iter();
    let (web, names): (Vec<&str>, Vec<&str>) = (rules("web").collect(), rules("names").collect());
    let spared = elements("spared");
    let is_spared = |nets: &Vec<IpNet>| nets.iter().any(|net| PRIVATE.contains(&net.to_string().as_str()));
    Wish {
        subnets: elements("clients").concat(),
        interfaces: chains.flat_map(rules).find_map(interfaces).unwrap_or_default(),
        mode: if web.iter().any(|rule| rule.contains(" tproxy ")) { Mode::Tproxy } else { Mode::Redirect },
        transparent: web.iter().filter_map(|rule| listener(rule)).collect(),
        dns: names.iter().filter_map(|rule| listener(rule)).collect(),
        keep_dns: elements("kept_dns").concat().into_iter().map(Servers).collect(),
        include_private: !spared.concat().is_empty() && !spared.iter().any(is_spared),
    }
}

/// Of each family one that a site's own hosts are in.
const PRIVATE: [&str; 2] = ["10.0.0.0/8", "fc00::/7"];

/// What stands between a line that opens and the one that closes.
fn block<'a>(listing: &'a str, opening: &str) -> Option<&'a str> {
    let start = listing.lines().find(|line| line.trim() == opening)?;
    let after = listing.split_once(start)?.1;
    let end = after.lines().find(|line| line.trim() == "}")?;
    after.split_once(&format!("\n{end}\n")).map(|(inside, _)| inside)
}

fn elements(listing: &str, set: &str, family: &str) -> Vec<IpNet> {
    let inside = block(listing, &format!("set {set}_{family} {{")).unwrap_or_default();
    let Some((_, list)) = inside.split_once("elements = {") else { return Vec::new() };
    let list = list.split('}').next().unwrap_or_default();
    list.split(',').filter_map(|text| network(text.trim())).collect()
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// `iifname != "eth1" return`, `iifname != { "eth1", "eth2" } return`.
fn interfaces(rule: &str) -> Option<Vec<String>> {
    let names = rule.strip_prefix("iifname != ")?.split(" return").next()?;
    Some(names.split('"').skip(1).step_by(2).map(str::to_owned).collect())
}

/// `… redirect to :3129`, `… dnat ip to 10.7.0.1:3129`, `… tproxy ip6 to :3129`.
fn listener(rule: &str) -> Option<SocketAddr> {
    let is_six = rule.starts_with("ip6 ");
    let words: Vec<&str> = rule.split_whitespace().collect();
    let at = words.iter().position(|word| matches!(*word, "redirect" | "dnat" | "tproxy"))?;
    let to = words[at..].iter().skip_while(|word| **word != "to").nth(1)?;
    let any = if is_six { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { IpAddr::from(Ipv4Addr::UNSPECIFIED) };
    match to.strip_prefix(':') {
        Some(port) => Some(SocketAddr::new(any, port.parse().ok()?)),
        None => to.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Plan;
    use super::*;

    fn wish(mode: Mode) -> Wish {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Wish {
            subnets: nets(&["10.7.0.0/16", "10.9.0.0/24", "fd07::/64"]),
            interfaces: vec!["eth1".to_owned(), "br-builds".to_owned()],
            mode,
            transparent: addresses(&["0.0.0.0:3129", "[fd07::1]:3129"]),
            dns: addresses(&["10.7.0.1:53", "[::]:53"]),
            keep_dns: vec!["10.7.0.53".parse().unwrap(), "10.8.0.0/24".parse().unwrap()],
            include_private: false,
        }
    }

    /// The ruleset is written as nft lists it, but for its comments.
    fn recalled(wish: &Wish) -> Wish {
        recall(&Plan::new(wish).unwrap().ruleset())
    }

    #[test]
    fn the_same_plan_comes_of_what_its_rules_tell() {
        let one = Wish { interfaces: vec!["eth1".to_owned()], ..wish(Mode::Redirect) };
        let none = Wish { interfaces: Vec::new(), keep_dns: Vec::new(), ..wish(Mode::Redirect) };
        let private = Wish { include_private: true, ..wish(Mode::Redirect) };
        let web = Wish { dns: Vec::new(), keep_dns: Vec::new(), ..one.clone() };
        let names = Wish { transparent: Vec::new(), ..one.clone() };
        for wish in [wish(Mode::Redirect), wish(Mode::Tproxy), one, none, private, web, names] {
            let plan = Plan::new(&wish).unwrap();
            assert_eq!(Plan::new(&recalled(&wish)).unwrap().ruleset(), plan.ruleset());
        }
    }

    #[test]
    fn a_table_that_lost_its_subnets_tells_none() {
        let text = Plan::new(&wish(Mode::Redirect)).unwrap().ruleset().replace("set clients_", "set others_");
        assert_eq!(recall(&text).subnets, Vec::<IpNet>::new());
        assert_eq!(recall("").interfaces, Vec::<String>::new());
    }
}
