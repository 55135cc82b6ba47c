//! Names to addresses, in spite of name servers that lie, fail, or say nothing.
//!
//! The promise: a name is found if any honest server within reach knows it, a name of the site's
//! own never leaves the site, and a denial is told as what it is: confirmed, final, or one
//! server's word. The door is [`Resolver::search`]: a [`Search`] hands out addresses, best first,
//! and is told how they fared ([`Search::report`]), so that an answer that TLS shows to be wrong
//! sends the look-up to the next tier within the same request.
//!
//! Inside: `plan` says whom to ask; `ladder` decides and never awaits; `flight` performs what it
//! says, once however many ask; `shared` is what they have in common; `wire` is the transports; `memory` and `keep` are what is known
//! from before; `health` is who can be relied on; `pace` is how much is asked of one server, `patience` how long is
//! waited for it; `kind` is who may be asked; `system`, `network` and `nat64` are the machine and where it stands. A fresh answer
//! from memory costs no task and no channel. Whether an address may be dialled is not judged here but in
//! `admit`; [`Found::tier`] says from whom it was heard.

mod advice;
mod counts;
mod defaults;
mod explain;
mod flight;
mod go;
mod health;
mod keep;
mod kind;
mod ladder;
mod listen;
mod memory;
mod nat64;
mod network;
mod pace;
mod patience;
mod plan;
mod relay;
mod reply;
mod report;
#[cfg(test)]
mod scenarios;
mod server;
mod shared;
mod system;
mod wire;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Query;
use ipnet::IpNet;
use rustls::pki_types::CertificateDer;
use tokio::runtime::Handle;

pub use counts::{Rescues, Totals};
pub use defaults::fallback as default_fallback;
pub use explain::{Attempt, Explanation, Inquiry, Source as ExplainedSource};
pub use go::{NO_ERROR, UNCERTAIN};
pub use kind::{Kind, Scope, parse_suffix};
pub use relay::Relayed;
pub use reply::{Ede, Family, Outcome};
pub use report::ServerReport;
pub use server::{BadServer, Server, Transport};

use crate::metrics::{Label, Registry};
use crate::target::Name;
use plan::Start;
use shared::Shared;

/// What an operator may say about resolving.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whom to ask first (`resolve.nameservers`).
    pub nameservers: Vec<Server>,
    /// Whom to ask when those do not do (`resolve.fallback`); empty for nobody.
    pub fallback: Vec<Server>,
    /// Suffixes that never leave (`resolve.private`).
    pub private: Vec<Name>,
    /// Hosts of `goproxy.private`: as private, unless they are public code hosts.
    pub private_hosts: Vec<Name>,
    /// Suffixes that anybody may be asked about at once (`resolve.known`).
    pub known: Vec<Name>,
    /// Hosts of upstreams, checksum databases and interception, as configured.
    pub configured_hosts: Vec<Name>,
    /// Addresses given by hand (`--host`).
    pub hosts: Vec<(Name, IpAddr)>,
    /// Suffixes with a server of their own (`--zone`); they are private.
    pub zones: Vec<(Name, Server)>,
    /// Which public names may be asked outside (`resolve.scope`).
    pub scope: Scope,
    /// `admit.allow`: addresses in here are as good as public ones.
    pub allow: Vec<IpNet>,
    pub resolv_conf: PathBuf,
    pub hosts_file: PathBuf,
    /// Where what was learnt is kept; none for nowhere.
    pub state_dir: Option<PathBuf>,
    /// Roots that encrypted servers may chain to beside the system's (`fetch.extra_roots`).
    pub roots: Vec<CertificateDer<'static>>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            nameservers: vec![Server::System],
            fallback: default_fallback(),
            private: Vec::new(),
            private_hosts: Vec::new(),
            known: Vec::new(),
            configured_hosts: Vec::new(),
            hosts: Vec::new(),
            zones: Vec::new(),
            scope: Scope::Public,
            allow: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            hosts_file: "/etc/hosts".into(),
            state_dir: None,
            roots: Vec::new(),
        }
    }
}

/// Why there can be no resolver.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{path} has layout {layout}, and this goanyway knows none after 1: use the newer one, or another --state-dir"
    )]
    Layout { path: PathBuf, layout: u32 },
    #[error("no name server at all: --nameserver and --fallback are both empty")]
    NoServers,
}

/// From whom an answer was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// Nobody: the hosts file, `--host`, `localhost`.
    Static,
    /// The site's own servers.
    System,
    /// A public server, over a path that anybody on it can write to.
    Plain,
    /// A public server whose certificate was verified.
    Encrypted,
}

impl Tier {
    /// Whether the answer comes from inside: only then may a private address be dialled.
    pub fn is_inside(self) -> bool {
        matches!(self, Tier::Static | Tier::System)
    }
}

impl Label for Tier {
    const KEY: &'static str = "tier";

    fn label(&self) -> &'static str {
        match self {
            Tier::Static => "static",
            Tier::System => "system",
            Tier::Plain => "plain",
            Tier::Encrypted => "encrypted",
        }
    }
}

/// How old an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Freshness {
    Fresh,
    Cached,
    Stale,
    LastKnownGood,
    Static,
}

impl Label for Freshness {
    const KEY: &'static str = "freshness";

    fn label(&self) -> &'static str {
        match self {
            Freshness::Fresh => "fresh",
            Freshness::Cached => "cached",
            Freshness::Stale => "stale",
            Freshness::LastKnownGood => "last-known-good",
            Freshness::Static => "static",
        }
    }
}

/// The server that gave an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub server: Server,
    pub transport: Transport,
}

/// Addresses to try, best first, the families taking turns.
#[derive(Clone, Debug)]
pub struct Found {
    pub addresses: Vec<IpAddr>,
    pub tier: Tier,
    /// None where no server gave it, or it is not known any more which.
    pub source: Option<Arc<Source>>,
    pub freshness: Freshness,
    pub ttl: Duration,
    /// The family about which nobody has said anything that counts: that there is no such address is not known.
    pub unheard: Option<Family>,
    /// Private addresses that a system server gave for a public name: all there is, and only a
    /// verified handshake makes them right.
    pub doubtful: bool,
}

impl Found {
    /// Whether it cannot be said yet if there are addresses of a family.
    pub fn lacks(&self, family: Family) -> bool {
        self.unheard == Some(family) && !self.addresses.iter().any(|address| Family::of(*address) == family)
    }

    /// With all that there is of the family that was unheard.
    fn completed(mut self, addresses: &[IpAddr]) -> Found {
        self.addresses.extend(addresses);
        Found { addresses: plan::take_turns(&self.addresses), unheard: None, ..self }
    }
}

/// How an address fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// TCP was accepted; who it is was not checked.
    Connected,
    /// A certificate for the name was verified.
    Verified,
    /// No TCP, or no TLS at all.
    Unreachable,
    /// A certificate that is not the name's.
    Distrusted,
}

/// How many of the servers that were asked said what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(Vec<(Outcome, usize)>);

impl Tally {
    fn add(&mut self, outcome: Outcome) {
        match self.0.iter_mut().find(|(counted, _)| *counted == outcome) {
            Some((_, count)) => *count += 1,
            None => self.0.push((outcome, 1)),
        }
    }

    /// How many servers were asked.
    pub fn servers(&self) -> usize {
        self.0.iter().map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = self.servers();
        if servers == 0 {
            return f.write_str("anybody: there is no server that may be asked");
        }
        write!(f, "{servers} {}", if servers == 1 { "server" } else { "servers" })?;
        let words: Vec<String> = self.0.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        write!(f, " ({})", words.join(", "))
    }
}

/// Why there is no address, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The name does not exist, or has no address.
    #[error("{name} has no address, says {}{}", list(by), if *confirmed || *last_word { "" } else { " alone (unconfirmed)" })]
    Absent {
        name: Name,
        /// Two operators say so.
        confirmed: bool,
        /// Nobody else may be asked: this is as sure as it gets.
        last_word: bool,
        /// The name is there, with records of other kinds.
        exists: bool,
        by: Vec<String>,
    },
    /// Nobody gave an answer that is of use.
    #[error("no answer for {name} from {tally}")]
    Unknown { name: Name, tally: Tally },
    /// Somebody's policy, and therefore final.
    #[error("{name} is blocked by {server}: {why}")]
    Blocked { name: Name, server: String, why: String },
    /// Every address that anybody gave was handed out.
    #[error("no further address for {name}")]
    Exhausted { name: Name },
}

impl Failure {
    /// Whose addresses were wanted.
    pub fn name(&self) -> &Name {
        match self {
            Failure::Absent { name, .. }
            | Failure::Unknown { name, .. }
            | Failure::Blocked { name, .. }
            | Failure::Exhausted { name } => name,
        }
    }

    /// Whether somebody whose word counts says that there is no address: it is no failure to find out.
    pub fn is_settled(&self) -> bool {
        match self {
            Failure::Absent { confirmed, last_word, .. } => *confirmed || *last_word,
            Failure::Blocked { .. } => true,
            Failure::Unknown { .. } | Failure::Exhausted { .. } => false,
        }
    }

    /// Whether nobody answered at all, as opposed to somebody answering badly.
    pub fn is_silence(&self) -> bool {
        let silent = |(outcome, _): &(Outcome, usize)| *outcome == Outcome::Timeout;
        matches!(self, Failure::Unknown { tally, .. } if tally.servers() > 0 && tally.0.iter().all(silent))
    }

    /// The response code that says it best (RFC 9209 section 2.3.2), if a server gave one.
    pub fn rcode(&self) -> Option<&'static str> {
        let said = |tally: &Tally, wanted| tally.0.iter().any(|(outcome, _)| *outcome == wanted);
        match self {
            Failure::Absent { .. } => Some("NXDOMAIN"),
            Failure::Unknown { tally, .. } if said(tally, Outcome::Servfail) => Some("SERVFAIL"),
            Failure::Unknown { tally, .. } if said(tally, Outcome::Refused) => Some("REFUSED"),
            _ => None,
        }
    }
}

fn list(servers: &[String]) -> String {
    match servers {
        [] => "nobody".to_owned(),
        [only] => only.clone(),
        [heads @ .., last] => format!("{} and {last}", heads.join(", ")),
    }
}

impl Failure {
    /// One word, for metrics and for the verdict of `goanyway resolve`.
    pub fn label(&self) -> &'static str {
        match self {
            Failure::Absent { .. } => "absent",
            Failure::Unknown { .. } => "unknown",
            Failure::Blocked { .. } => "blocked",
            Failure::Exhausted { .. } => "exhausted",
        }
    }
}

/// The resolver. Clones share everything.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
}

impl Resolver {
    /// Look-ups run on `runtime`, so that whoever asked may leave. Nothing is sent before one asks.
    pub fn new(config: Config, runtime: Handle, registry: &Registry) -> Result<Resolver, Error> {
        if config.nameservers.is_empty() && config.fallback.is_empty() && config.zones.is_empty() {
            return Err(Error::NoServers);
        }
        let shared = Arc::new(Shared::new(config, runtime, registry)?);
        // The search list is the site's own, also if this process is killed soon.
        shared.save_later();
        shared.show(registry);
        Ok(Resolver { shared })
    }

    /// Where an address leads that a client wrote itself: on a network without IPv4, through its NAT64 to
    /// the one that it embeds.
    pub async fn behind(&self, address: IpAddr) -> IpAddr {
        self.shared.behind(address).await
    }

    /// Starts to look for the addresses of a name.
    pub fn search(&self, name: &Name) -> Search {
        Search {
            shared: Arc::clone(&self.shared),
            asked: name.clone(),
            name: name.clone(),
            stage: Some(Stage::First),
            given: Vec::new(),
            fates: Vec::new(),
        }
    }

    /// What is known about one family of a name as it stands, without asking anybody. Where a server should be
    /// asked nevertheless, so that the answer stays fresh, `may_ask` says whether whoever wants to know may cause that.
    pub fn recall(&self, name: &Name, family: Family, may_ask: impl Fn() -> bool) -> Option<Result<Found, Failure>> {
        self.shared.recall_side(name, family, may_ask)
    }

    /// The addresses of a name as it stands: whoever asks has a search list of its own.
    pub async fn look_up(&self, name: &Name) -> Result<Found, Failure> {
        self.shared.look_up_exactly(name).await
    }

    /// The same for somebody who wants one family, which is asked for alone where the answer for both lacks it.
    pub async fn look_up_family(&self, name: &Name, family: Family) -> Result<Found, Failure> {
        self.shared.look_up_side(name, family).await
    }

    /// The answer to a question that is not for addresses, as the server gave it that knows best.
    pub async fn relay(&self, name: &Name, query: &Query) -> Result<Relayed, Failure> {
        self.shared.relay(name, query).await
    }

    /// Asks every server that the name's kind allows, and says what each said and what was believed.
    pub async fn explain(&self, name: &Name, inquiry: &Inquiry) -> Explanation {
        let mut explanation = explain::explain(&self.shared, name, inquiry).await;
        // Whoever asks for one family wants to see its records.
        let is_whole = inquiry.families.len() == Family::BOTH.len();
        if is_whole && explanation.freshness.is_some_and(|freshness| freshness != Freshness::Static) {
            explanation.addresses = self.shared.reach(explanation.addresses).await;
        }
        explanation
    }

    /// Who may be asked about a name.
    pub fn kind(&self, name: &Name) -> Kind {
        self.shared.kind(name)
    }

    /// The suffixes that the search list lost within the time that is remembered, and those that stand in it.
    pub fn search_list(&self) -> (Vec<Name>, Vec<Name>) {
        self.shared.search_list()
    }

    /// Whom it asks, in words.
    pub fn describe(&self) -> String {
        self.shared.describe()
    }

    /// How the servers are.
    pub fn report(&self) -> Vec<ServerReport> {
        self.shared.report(tokio::time::Instant::now())
    }

    /// What was looked up since the start.
    pub fn totals(&self) -> Totals {
        self.shared.totals()
    }

    /// From now on names are what another configuration says ([`Config::private`], `known`, `hosts`, `zones`
    /// and `allow`, no more); whom to ask stays as it was.
    pub fn rewrite(&self, config: Config) {
        self.shared.rewrite(&config, tokio::time::Instant::now());
    }

    /// How names were rescued since the start.
    pub fn rescues(&self) -> Rescues {
        self.shared.counts.rescues()
    }

    /// Writes what was learnt, if anything was. Blocks; also done when the last clone goes.
    pub fn save(&self) {
        self.shared.save();
    }
}

/// One request's way through the addresses of a name.
pub struct Search {
    shared: Arc<Shared>,
    asked: Name,
    // What it turned out to be short for, else the same: nobody is to be asked for the short one then.
    name: Name,
    // None once everything was handed out.
    stage: Option<Stage>,
    // As they were found, which is not how they are reached on a network without IPv4.
    given: Vec<Found>,
    fates: Vec<(IpAddr, Fate)>,
}

/// Where the next addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    First,
    /// An older answer was handed out; the look-up behind it may have found a newer one.
    Renewed,
    /// Other servers' words, which came a little after the one of this tier.
    Beside(Tier),
    Above(Tier),
    /// The public servers were quicker and their answer did not do.
    Inside,
    Spare,
}

impl Search {
    /// The next addresses that were not handed out yet; waits as the ladder's timers say.
    pub async fn next(&mut self) -> Result<Found, Failure> {
        while let Some(stage) = self.stage {
            match self.consult(stage).await {
                Ok(found) => {
                    self.stage = self.stage_after(&found);
                    if let Some(found) = self.unseen(found) {
                        self.given.push(found.clone());
                        return Ok(self.as_reached(found).await);
                    }
                }
                Err(failure) if stage == Stage::First => {
                    self.stage = None;
                    return Err(failure);
                }
                Err(_) => self.stage = self.stage_without(stage),
            }
        }
        Err(Failure::Exhausted { name: self.asked.clone() })
    }

    /// What TCP or TLS learnt about an address: judges the answer that gave it once more.
    pub fn report(&mut self, address: IpAddr, fate: Fate) {
        self.note(address, fate);
        // Through a NAT64 it stands for another one, and a server may have given both.
        let meant = self.shared.unreach(address);
        if meant != address {
            self.note(meant, fate);
        }
    }

    fn note(&mut self, address: IpAddr, fate: Fate) {
        self.fates.push((address, fate));
        let Some(found) = self.given.iter().find(|found| found.addresses.contains(&address)) else { return };
        self.shared.note_fate(&self.name, found, address, fate);
        let distrusted = |address: &IpAddr| self.fates.contains(&(*address, Fate::Distrusted));
        if fate == Fate::Distrusted && found.addresses.iter().all(distrusted) {
            self.shared.convict(&self.name, found);
        }
    }

    async fn consult(&mut self, stage: Stage) -> Result<Found, Failure> {
        match stage {
            Stage::First => {
                let located = self.shared.look_up(&self.asked).await?;
                self.name = located.longer.unwrap_or_else(|| self.name.clone());
                Ok(located.found)
            }
            Stage::Renewed => self.shared.renewed(&self.name).await,
            Stage::Beside(_) => self.beside().ok_or_else(|| Failure::Exhausted { name: self.name.clone() }),
            Stage::Above(tier) => self.shared.fly(&self.name, Start::Above(tier)).await,
            Stage::Inside => self.shared.fly(&self.name, Start::Inside).await,
            Stage::Spare => {
                self.shared.spare(&self.name).ok_or_else(|| Failure::Exhausted { name: self.asked.clone() })
            }
        }
    }

    fn beside(&self) -> Option<Found> {
        let told = self.shared.memory.told(&self.name, tokio::time::Instant::now());
        told.into_iter().find(|found| self.unseen(found.clone()).is_some())
    }

    /// What is by hand is meant as it stands.
    async fn as_reached(&self, mut found: Found) -> Found {
        if found.tier != Tier::Static {
            found.addresses = self.shared.reach(found.addresses).await;
        }
        found
    }

    fn stage_after(&self, found: &Found) -> Option<Stage> {
        let is_old = matches!(found.freshness, Freshness::Stale | Freshness::LastKnownGood);
        match found.tier {
            Tier::Static => None,
            _ if is_old => (self.stage == Some(Stage::First)).then_some(Stage::Renewed),
            _ if found.doubtful => None,
            tier => match self.stage {
                Some(Stage::Beside(_)) => self.stage,
                Some(Stage::First | Stage::Renewed) => Some(Stage::Beside(tier)),
                Some(Stage::Inside) if tier == Tier::System => Some(Stage::Spare),
                _ => Some(self.stage_above(tier)),
            },
        }
    }

    fn stage_above(&self, tier: Tier) -> Stage {
        if tier == Tier::Encrypted { self.stage_at_top() } else { Stage::Above(tier) }
    }

    fn stage_without(&self, stage: Stage) -> Option<Stage> {
        match stage {
            Stage::First | Stage::Spare => None,
            Stage::Beside(tier) => Some(self.stage_above(tier)),
            Stage::Above(_) => Some(self.stage_at_top()),
            Stage::Renewed | Stage::Inside => Some(Stage::Spare),
        }
    }

    fn stage_at_top(&self) -> Stage {
        if self.given.iter().any(|found| found.tier == Tier::System) { Stage::Spare } else { Stage::Inside }
    }

    fn unseen(&self, mut found: Found) -> Option<Found> {
        found.addresses.retain(|address| !self.given.iter().any(|given| given.addresses.contains(address)));
        (!found.addresses.is_empty()).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_others_said_is_handed_out_one_after_the_other_and_judged_as_their_word() {
        let nowhere = PathBuf::from("/nonexistent");
        let config = Config {
            nameservers: vec!["127.0.0.1:1".parse().unwrap()],
            fallback: vec!["127.0.0.1:3".parse().unwrap()],
            resolv_conf: nowhere.join("resolv.conf"),
            hosts_file: nowhere.join("hosts"),
            ..Config::default()
        };
        let resolver = Resolver::new(config, Handle::current(), &Registry::default()).unwrap();
        let name = Name::parse("goproxy.cn").unwrap();
        let by = |server: &str, tier, address: &str| Found {
            addresses: vec![address.parse().unwrap()],
            tier,
            source: Some(Arc::new(Source { server: server.parse().unwrap(), transport: Transport::Udp })),
            freshness: Freshness::Fresh,
            ttl: Duration::from_secs(60),
            unheard: None,
            doubtful: false,
        };
        let first = by("127.0.0.1:1", Tier::System, "1.1.1.7");
        let now = tokio::time::Instant::now();
        resolver.shared.memory.note_found(&name, &first, now);
        let beside = vec![by("127.0.0.1:2", Tier::System, "1.1.1.8"), by("127.0.0.1:3", Tier::Plain, "1.1.1.9")];
        resolver.shared.memory.note_beside(&name, &first, beside);
        let mut search = resolver.search(&name);
        let mut given = Vec::new();
        while let Ok(found) = search.next().await {
            // A wrong certificate everywhere: each server is convicted for what it said itself.
            found.addresses.iter().for_each(|address| search.report(*address, Fate::Distrusted));
            given.push((found.source.unwrap().server.to_string(), found.tier));
        }
        let expected = [("127.0.0.1:1", Tier::System), ("127.0.0.1:2", Tier::System), ("127.0.0.1:3", Tier::Plain)];
        assert_eq!(given, expected.map(|(server, tier)| (server.to_owned(), tier)));
        // A certificate that is not the name's: the last of them said that over UDP, out there.
        let shared = &resolver.shared;
        let plan = shared.plan(&name, shared.kind(&name), Start::Bottom, tokio::time::Instant::now());
        let marks =
            plan.candidates.iter().map(|candidate| (candidate.tier, candidate.marks.liar, candidate.marks.poisoned));
        let expected = [(Tier::Plain, true, true), (Tier::System, true, false)];
        assert!(expected.iter().all(|one| marks.clone().any(|marks| marks == *one)), "{:?}", plan.candidates);
    }

    #[test]
    fn a_failure_is_a_diagnosis_in_one_line() {
        let name = Name::parse("goproxy.cn").unwrap();
        let mut tally = Tally::default();
        let said = [Outcome::Timeout, Outcome::Timeout, Outcome::Refused, Outcome::Refused, Outcome::Refused];
        said.into_iter().for_each(|outcome| tally.add(outcome));
        let unknown = Failure::Unknown { name: name.clone(), tally };
        assert_eq!(unknown.to_string(), "no answer for goproxy.cn from 5 servers (2 timeout, 3 refused)");
        let nobody = Failure::Unknown { name: name.clone(), tally: Tally::default() };
        assert_eq!(nobody.to_string(), "no answer for goproxy.cn from anybody: there is no server that may be asked");
        let absent = |confirmed, by: &[&str]| {
            let by = by.iter().map(|server| server.to_string()).collect();
            Failure::Absent { name: name.clone(), confirmed, last_word: false, exists: false, by }.to_string()
        };
        assert_eq!(absent(true, &["10.0.0.1", "8.8.8.8"]), "goproxy.cn has no address, says 10.0.0.1 and 8.8.8.8");
        assert_eq!(absent(false, &["10.0.0.1"]), "goproxy.cn has no address, says 10.0.0.1 alone (unconfirmed)");
    }
}
