//! What tproxy needs beside the ruleset: a rule and a route of each family, by which a marked packet, whose
//! destination is anywhere, is brought to this machine's own sockets.
//!
//! A rule of ours is known by its table, which nobody else has; so is found, and taken out, what an earlier
//! plan put there, or half of it.

use serde::Deserialize;

use super::plan::{Family, Mode, Plan};

/// The bit that says so. Others use lower ones (Cilium, kube-proxy, CNI's port mapping) and higher ones
/// (Weave, Tailscale, Calico).
pub(super) const MARK: u32 = 0x1000;
/// "go" in ASCII: a number that nobody has in `rt_tables`.
pub(super) const TABLE: u32 = 0x676f;
/// Before the tables of VPNs and of the main one.
const PRIORITY: u32 = 676;

/// The rule and the route of a family, or what is there of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Routing {
    pub(super) family: Family,
    /// As arguments of `ip rule add`.
    pub(super) rules: Vec<String>,
    /// As arguments of `ip route add`, the table left out.
    pub(super) routes: Vec<String>,
}

/// What this plan needs of a family.
pub(super) fn wanted(plan: &Plan, family: Family) -> Routing {
    let takes_web = plan.sides.iter().any(|side| side.family == family && side.web.is_some());
    if plan.mode == Mode::Tproxy && takes_web { Routing::whole(family) } else { Routing::none(family) }
}

impl Routing {
    /// Nothing of it.
    pub(super) fn none(family: Family) -> Routing {
        Routing { family, rules: Vec::new(), routes: Vec::new() }
    }

    fn whole(family: Family) -> Routing {
        Routing {
            family,
            rules: vec![format!("priority {PRIORITY} from all fwmark {MARK:#x}/{MARK:#x} lookup {TABLE}")],
            routes: vec!["local default dev lo".to_owned()],
        }
    }

    /// What `ip -j rule show` and `ip -j route show table` say, ours alone.
    pub(super) fn read(family: Family, rules: &str, routes: &str) -> Result<Routing, serde_json::Error> {
        let rules: Vec<FoundRule> = parse(rules)?;
        let routes: Vec<FoundRoute> = parse(routes)?;
        let ours = |rule: &FoundRule| rule.table == TABLE.to_string();
        Ok(Routing {
            family,
            rules: rules.iter().filter(|rule| ours(rule)).map(FoundRule::write).collect(),
            routes: routes.iter().map(FoundRoute::write).collect(),
        })
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.rules.is_empty() && self.routes.is_empty()
    }

    /// The lines that make all of it (`add`), or undo it (`del`).
    pub(super) fn lines(&self, verb: &str) -> Vec<String> {
        let flag = flag(self.family);
        let rules = self.rules.iter().map(|rule| format!("ip {flag} rule {verb} {rule}"));
        let routes = self.routes.iter().map(|route| format!("ip {flag} route {verb} {route} table {TABLE}"));
        rules.chain(routes).collect()
    }

    /// What is here and not in another.
    pub(super) fn without(&self, other: &Routing) -> Routing {
        let rest = |ours: &[String], others: &[String]| {
            let mut others = others.to_vec();
            let mut left = ours.to_vec();
            // One of each: a rule that is there twice is once too many.
            left.retain(|line| match others.iter().position(|other| other == line) {
                Some(at) => {
                    others.remove(at);
                    false
                }
                None => true,
            });
            left
        };
        Routing {
            family: self.family,
            rules: rest(&self.rules, &other.rules),
            routes: rest(&self.routes, &other.routes),
        }
    }
}

/// By which `ip` is told which family.
pub(super) fn flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

/// `ip -j` prints nothing at all where there is nothing.
fn parse<T: for<'a> Deserialize<'a>>(text: &str) -> Result<Vec<T>, serde_json::Error> {
    if text.trim().is_empty() { Ok(Vec::new()) } else { serde_json::from_str(text) }
}

#[derive(Deserialize)]
struct FoundRule {
    priority: u32,
    #[serde(default)]
    not: Option<serde_json::Value>,
    #[serde(default)]
    src: String,
    #[serde(default)]
    srclen: Option<u8>,
    #[serde(default)]
    iif: Option<String>,
    #[serde(default)]
    fwmark: Option<String>,
    #[serde(default)]
    fwmask: Option<String>,
    #[serde(default)]
    table: String,
}

impl FoundRule {
    /// As it is typed, so that it can be deleted as it was found.
    fn write(&self) -> String {
        let not = if self.not.is_some() { " not" } else { "" };
        let length = self.srclen.map(|length| format!("/{length}")).unwrap_or_default();
        let mut text = format!("priority {}{not} from {}{length}", self.priority, self.src);
        if let Some(iif) = &self.iif {
            text += &format!(" iif {iif}");
        }
        if let Some(mark) = &self.fwmark {
            text += &format!(" fwmark {mark}/{}", self.fwmask.as_deref().unwrap_or("0xffffffff"));
        }
        if !self.table.is_empty() {
            text += &format!(" lookup {}", self.table);
        }
        text
    }
}

#[derive(Deserialize)]
struct FoundRoute {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    dst: String,
    #[serde(default)]
    gateway: Option<String>,
    #[serde(default)]
    dev: Option<String>,
}

impl FoundRoute {
    fn write(&self) -> String {
        let kind = self.kind.as_ref().map(|kind| format!("{kind} ")).unwrap_or_default();
        let mut text = format!("{kind}{}", self.dst);
        if let Some(gateway) = &self.gateway {
            text += &format!(" via {gateway}");
        }
        if let Some(device) = &self.dev {
            text += &format!(" dev {device}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From iproute2 6.1.
    const RULES: &str = r#"[{"priority":0,"src":"all","table":"local"},{"priority":676,"src":"all","fwmark":"0x1000","fwmask":"0x1000","table":"26479"},{"priority":32766,"src":"all","table":"main"}]"#;
    const ROUTES: &str = r#"[{"type":"local","dst":"default","dev":"lo","scope":"host","flags":[]}]"#;
    const ROUTES_V6: &str = r#"[{"type":"local","dst":"default","dev":"lo","metric":1024,"flags":[],"pref":"medium"}]"#;

    #[test]
    fn what_was_added_is_read_back_as_it_was_typed() {
        for (family, routes) in [(Family::V4, ROUTES), (Family::V6, ROUTES_V6)] {
            let found = Routing::read(family, RULES, routes).unwrap();
            assert_eq!(found, Routing::whole(family));
            assert_eq!(Routing::whole(family).without(&found), Routing::none(family));
        }
        let lines = Routing::whole(Family::V6).lines("add");
        let expected = [
            "ip -6 rule add priority 676 from all fwmark 0x1000/0x1000 lookup 26479",
            "ip -6 route add local default dev lo table 26479",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn nothing_is_read_from_nothing_and_others_rules_are_not_ours() {
        assert_eq!(Routing::read(Family::V4, "", "").unwrap(), Routing::none(Family::V4));
        let others = r#"[{"priority":100,"src":"10.0.0.0","srclen":8,"table":"main"}]"#;
        assert_eq!(Routing::read(Family::V4, others, "[]").unwrap(), Routing::none(Family::V4));
        assert!(Routing::read(Family::V4, "<html>", "").is_err());
    }

    #[test]
    fn half_of_it_another_one_and_one_too_many_are_told_apart() {
        let whole = Routing::whole(Family::V4);
        let half = Routing::read(Family::V4, RULES, "").unwrap();
        assert_eq!(whole.without(&half).lines("add"), ["ip -4 route add local default dev lo table 26479"]);
        let changed = RULES.replace("\"fwmask\":\"0x1000\"", "\"fwmask\":\"0xffff\"");
        let found = Routing::read(Family::V4, &changed, ROUTES).unwrap();
        let expected = ["ip -4 rule del priority 676 from all fwmark 0x1000/0xffff lookup 26479"];
        assert_eq!(found.without(&whole).lines("del"), expected);
        let twice = Routing { rules: [whole.rules.clone(), whole.rules.clone()].concat(), ..whole.clone() };
        assert_eq!(twice.without(&whole).lines("del").len(), 1);
        let other = r#"[{"dst":"10.1.0.0/16","gateway":"10.7.0.9","dev":"eth1"}]"#;
        let found = Routing::read(Family::V4, RULES, other).unwrap();
        assert_eq!(
            found.without(&whole).lines("del"),
            ["ip -4 route del 10.1.0.0/16 via 10.7.0.9 dev eth1 table 26479"]
        );
    }
}
