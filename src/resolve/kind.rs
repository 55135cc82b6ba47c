//! Whose name is it? Private names never leave the site, known ones may be asked of anybody at
//! once, all others only after the site's own servers had their chance.
//!
//! The first rule that fits decides: named private, built-in known, learnt private, configured
//! known, other. An entry covers the names under it too.

use psl::Psl;

use super::defaults;
use super::server::Server;
use crate::metrics::Label;
use crate::target::{BadTarget, Name};

/// Who may be asked about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The system servers, or those of its zone, and nobody else, ever.
    Private,
    /// Everybody, by the timers.
    Known {
        /// Built in, so that a private address for it is a lie; a host that an operator configured
        /// may well be inside.
        built_in: bool,
    },
    /// The public servers only once the system's failed, stayed silent or denied.
    Other,
}

impl Kind {
    /// Whether everybody may be asked at once.
    pub fn is_known(self) -> bool {
        matches!(self, Kind::Known { .. })
    }

    /// Whether a private address from a system server makes the name private.
    pub(super) fn may_turn_private(self) -> bool {
        matches!(self, Kind::Other | Kind::Known { built_in: false })
    }
}

impl Label for Kind {
    const KEY: &'static str = "kind";

    fn label(&self) -> &'static str {
        match self {
            Kind::Private => "private",
            Kind::Known { .. } => "known",
            Kind::Other => "other",
        }
    }
}

/// Which public names may be asked of public servers (`resolve.scope`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    #[default]
    Public,
    Known,
    Off,
}

impl Scope {
    pub(super) fn may_ask_outside(self, kind: Kind) -> bool {
        match (self, kind) {
            (_, Kind::Private) | (Scope::Off, _) => false,
            (Scope::Known, kind) => kind.is_known(),
            (Scope::Public, _) => true,
        }
    }
}

impl std::str::FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Scope, String> {
        match text {
            "public" => Ok(Scope::Public),
            "known" => Ok(Scope::Known),
            "off" => Ok(Scope::Off),
            _ => Err(format!("{text:?} is none of public, known, off")),
        }
    }
}

/// Reads a suffix as people write it: `corp.example`, `.corp.example` and `*.corp.example` are one.
pub fn parse_suffix(text: &str) -> Result<Name, BadTarget> {
    Name::parse(text.trim_start_matches("*.").trim_start_matches('.'))
}

/// The rules that the configuration gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rules {
    pub private: Vec<Name>,
    /// Hosts of `goproxy.private`. A built-in known host among them stays known: GOPRIVATE names
    /// paths on it, and that somebody uses a public code host is no secret.
    pub private_hosts: Vec<Name>,
    pub known: Vec<Name>,
    pub zones: Vec<(Name, Server)>,
}

impl Rules {
    /// The kind of a name, given whether it was learnt to be private.
    pub(super) fn kind(&self, name: &Name, is_learnt: impl FnOnce() -> bool) -> Kind {
        let built_in = defaults::KNOWN.iter().any(|suffix| name.is_under(suffix));
        if self.is_named_private(name) || !built_in && covers(&self.private_hosts, name) {
            return Kind::Private;
        }
        if built_in {
            return Kind::Known { built_in: true };
        }
        if is_learnt() {
            return Kind::Private;
        }
        if covers(&self.known, name) { Kind::Known { built_in: false } } else { Kind::Other }
    }

    /// The server of the narrowest zone that covers the name.
    pub(super) fn zone(&self, name: &Name) -> Option<&Server> {
        let covering = self.zones.iter().filter(|(suffix, _)| name.is_under(suffix.as_str()));
        covering.max_by_key(|(suffix, _)| suffix.as_str().len()).map(|(_, server)| server)
    }

    fn is_named_private(&self, name: &Name) -> bool {
        name.is_single_label()
            || defaults::PRIVATE.iter().any(|suffix| name.is_under(suffix))
            || covers(&self.private, name)
            || self.zone(name).is_some()
    }
}

fn covers(suffixes: &[Name], name: &Name) -> bool {
    suffixes.iter().any(|suffix| name.is_under(suffix.as_str()))
}

/// Whether a search suffix says that names under it are the site's: everything but the root and
/// what the public suffix list holds (a search list with `com` in it makes nothing private).
pub(super) fn is_sites_own(suffix: &Name) -> bool {
    let listed = psl::List.suffix(suffix.as_str().as_bytes());
    !listed.is_some_and(|listed| listed.is_known() && listed.as_bytes() == suffix.as_str().as_bytes())
}

/// Whether the public suffix list knows what a name ends in.
pub(super) fn is_listed(name: &Name) -> bool {
    psl::List.suffix(name.as_str().as_bytes()).is_some_and(|suffix| suffix.is_known())
}

/// What a lie about a name is held against: its registrable domain, else itself.
pub(super) fn domain(name: &Name) -> String {
    psl::domain_str(name.as_str()).unwrap_or(name.as_str()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn rules() -> Rules {
        Rules {
            private: vec![name("corp.example"), name("internal.github.com")],
            private_hosts: vec![name("git.acme.example"), name("github.com")],
            known: vec![name("mirror.acme.example"), name("learnt.example")],
            zones: vec![
                (name("lab.example"), "10.0.0.1".parse().unwrap()),
                (name("deep.lab.example"), "10.0.0.2".parse().unwrap()),
            ],
        }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let table = [
            ("goproxy.cn", Kind::Known { built_in: true }),
            ("edge.goproxy.cn", Kind::Known { built_in: true }),
            ("evilgoproxy.cn", Kind::Other),
            ("github.com", Kind::Known { built_in: true }),
            ("internal.github.com", Kind::Private),
            ("git.acme.example", Kind::Private),
            ("mirror.acme.example", Kind::Known { built_in: false }),
            ("learnt.example", Kind::Private),
            ("athens", Kind::Private),
            ("printer.local", Kind::Private),
            ("router.home.arpa", Kind::Private),
            ("7.3.2.10.in-addr.arpa", Kind::Private),
            ("1.0.0.0.d.f.ip6.arpa", Kind::Private),
            ("ipv4only.arpa", Kind::Private),
            ("facade.onion", Kind::Private),
            ("x.corp.example", Kind::Private),
            ("x.lab.example", Kind::Private),
            ("example.org", Kind::Other),
        ];
        for (text, kind) in table {
            let learnt = || ["learnt.example", "goproxy.cn"].contains(&text);
            assert_eq!(rules().kind(&name(text), learnt), kind, "{text}");
        }
    }

    #[test]
    fn the_narrowest_zone_is_asked() {
        assert_eq!(rules().zone(&name("a.deep.lab.example")).unwrap().to_string(), "10.0.0.2");
        assert_eq!(rules().zone(&name("a.lab.example")).unwrap().to_string(), "10.0.0.1");
        assert_eq!(rules().zone(&name("example.org")), None);
    }

    #[test]
    fn scope_narrows_who_may_be_asked_outside() {
        let known = Kind::Known { built_in: true };
        assert!(Scope::Public.may_ask_outside(Kind::Other) && Scope::Known.may_ask_outside(known));
        assert!(!Scope::Known.may_ask_outside(Kind::Other) && !Scope::Off.may_ask_outside(known));
        assert!(!Scope::Public.may_ask_outside(Kind::Private));
    }

    #[test]
    fn a_search_suffix_is_the_sites_own_unless_it_is_a_public_one() {
        for (suffix, own) in [("com", false), ("co.uk", false), ("acme.com", true), ("corp", true), ("lan", true)] {
            assert_eq!(is_sites_own(&name(suffix)), own, "{suffix}");
        }
        assert_eq!(parse_suffix("*.corp.example").unwrap(), name("corp.example"));
    }
}
