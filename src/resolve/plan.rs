//! Whom to ask about a name, in which order: the site's servers, the public ones, who of them is
//! alive, who lied lately, and whose word counts as a second one.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::Tier;
use super::defaults;
use super::health;
use super::kind::{self, Kind};
use super::ladder::{Candidate, Marks, Operator, Plan};
use super::reply::Family;
use super::server::{Server, Transport};
use super::shared::Shared;
use crate::target::Name;

/// Where on the ladder a look-up begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Start {
    Bottom,
    /// This tier's answer was tried and did not do.
    Above(Tier),
    /// The site's own servers, which had not been waited for.
    Inside,
    /// For one family, about which the answer for both said nothing.
    Only(Family),
}

impl Start {
    /// Whether servers of this tier are asked.
    fn includes(self, tier: Tier) -> bool {
        match self {
            Start::Bottom | Start::Only(_) => true,
            Start::Above(lowest) => tier > lowest,
            Start::Inside => tier == Tier::System,
        }
    }
}

impl Shared {
    /// The servers of the site: the zone's, else those of the configuration and of resolv.conf.
    pub(super) fn inside(&self, name: Option<&Name>) -> Vec<Server> {
        if let Some(zone) = name.and_then(|name| self.written().rules.zone(name).cloned()) {
            return vec![zone];
        }
        let system = self.system.current();
        let mut servers = Vec::new();
        for server in &self.config.nameservers {
            match server {
                Server::System => servers.extend(system.resolv.servers.iter().map(|address| Server::Plain(*address))),
                server => servers.push(server.clone()),
            }
        }
        dedup(&mut servers);
        servers
    }

    /// The servers that are asked when those do not do; one that is a system server too is not a second opinion.
    pub(super) fn outside(&self, inside: &[Server]) -> Vec<Server> {
        let is_inside = |server: &Server| inside.iter().any(|own| own.address() == server.address());
        self.config.fallback.iter().filter(|server| **server != Server::System && !is_inside(server)).cloned().collect()
    }

    pub(super) fn plan(&self, name: &Name, kind: Kind, start: Start, now: Instant) -> Plan {
        self.plan_among(false, name, kind, start, now)
    }

    /// The same for who wants to hear everybody: those that are down are asked too, as in a trial, so that the
    /// look-up is otherwise as it would be.
    pub(super) fn plan_of_all(&self, name: &Name, kind: Kind, start: Start, now: Instant) -> Plan {
        Plan { exhaustive: true, ..self.plan_among(true, name, kind, start, now) }
    }

    fn plan_among(&self, everybody: bool, name: &Name, kind: Kind, start: Start, now: Instant) -> Plan {
        let servers = self.inside(Some(name));
        let mut outside = Vec::new();
        if self.config.scope.may_ask_outside(kind) {
            outside = self.outside(&servers);
        }
        outside.retain(|server| start.includes(server.outside_tier()));
        let outside = self.candidates(&outside, Server::outside_tier, &servers, (false, everybody), now);
        let somebody_else = outside.iter().any(|candidate| !candidate.down);
        let inside = match start.includes(Tier::System) {
            true => self.candidates(&servers, |_| Tier::System, &servers, (somebody_else, everybody), now),
            false => Vec::new(),
        };
        let (mut inside, mut outside) = (inside, outside);
        let domain = kind::domain(name);
        inside.iter_mut().chain(&mut outside).for_each(|candidate| self.health.mark(candidate, &domain, now));
        let candidates = arrange(inside, outside, kind);
        let hedge =
            candidates.first().map_or(Duration::ZERO, |first| self.health.hedge(&first.server, first.transport));
        let families = match start {
            Start::Only(family) => vec![family],
            _ if self.system.current().resolv.no_aaaa => vec![Family::V4],
            _ => Family::BOTH.to_vec(),
        };
        Plan {
            kind,
            families,
            candidates,
            hedge,
            spare: start == Start::Bottom && self.spare(name).is_some(),
            allow: self.written().allow.clone(),
            exhaustive: false,
        }
    }

    /// The servers of one side with what is known about them. Those that are down are left out
    /// until their trial, unless all are and there is nobody else: then all are raced. Where everybody is to be
    /// heard, it is their trial in any case.
    pub(super) fn candidates(
        &self,
        servers: &[Server],
        tier: impl Fn(&Server) -> Tier,
        inside: &[Server],
        (somebody_else, everybody): (bool, bool),
        now: Instant,
    ) -> Vec<Candidate> {
        // resolv.conf(5): use-vc.
        let over_tcp = self.system.current().resolv.use_vc;
        let mut candidates: Vec<(health::State, Candidate)> = servers
            .iter()
            .map(|server| {
                let (tier, operator) = (tier(server), operator(server, tier(server), inside));
                let (state, transport) = self.condition(server, over_tcp && tier == Tier::System, now);
                let edns = self.health.takes_edns(server, now);
                let (down, trial) = (state >= health::State::HalfOpen, false);
                let (server, marks) = (server.clone(), Marks::default());
                (state, Candidate { server, tier, operator, wave: 0, transport, edns, down, trial, marks })
            })
            .collect();
        let all_down = candidates.iter().all(|(state, _)| *state >= health::State::HalfOpen);
        if !all_down || somebody_else {
            candidates.retain(|(state, _)| everybody || *state != health::State::Down);
            for (state, candidate) in candidates.iter_mut().filter(|(_, candidate)| candidate.down) {
                if *state == health::State::HalfOpen {
                    self.health.note_trial(&candidate.server, candidate.transport, now);
                }
                candidate.trial = true;
            }
        }
        candidates.sort_by_key(|(state, _)| *state);
        candidates.into_iter().map(|(_, candidate)| candidate).collect()
    }

    /// How a server is, and over what to ask it: TCP where it is to be (`over_tcp`), or where UDP is dead and
    /// TCP is not.
    fn condition(&self, server: &Server, over_tcp: bool, now: Instant) -> (health::State, Transport) {
        let transport = match server.transport() {
            Transport::Udp if over_tcp => Transport::Tcp,
            transport => transport,
        };
        let state = self.health.state(server, transport, now);
        let rescued = transport == Transport::Udp && self.health.is_proven(server, Transport::Tcp);
        if state >= health::State::HalfOpen && rescued {
            (health::State::Healthy, Transport::Tcp)
        } else {
            (state, transport)
        }
    }
}

fn operator(server: &Server, tier: Tier, inside: &[Server]) -> Operator {
    let service = |server: &Server| server.address().and_then(|address| defaults::service(address.ip()));
    let ours = service(server);
    // A public service that the system uses too is no second opinion on what the system said.
    let is_systems = ours.is_some() && inside.iter().any(|own| service(own) == ours);
    match (tier, ours, server.address()) {
        (Tier::System | Tier::Static, _, _) | (_, _, None) => Operator::System,
        _ if is_systems => Operator::System,
        (_, Some(service), _) => Operator::Service(service),
        (_, None, Some(address)) => Operator::Own(address),
    }
}

/// Puts candidates in waves: the system's one by one, then the plain ones one by one with an
/// encrypted one beside each but the first. A liar comes last among its own, and last of all about a
/// known name.
fn arrange(inside: Vec<Candidate>, mut outside: Vec<Candidate>, kind: Kind) -> Vec<Candidate> {
    outside.sort_by_key(|candidate| candidate.marks.liar);
    let (liars, mut inside): (Vec<_>, Vec<_>) = inside.into_iter().partition(|candidate| candidate.marks.liar);
    let liars_last = kind.is_known() && !outside.is_empty();
    if !liars_last {
        inside.extend(liars.iter().cloned());
    }
    let (encrypted, plain): (Vec<_>, Vec<_>) = outside.into_iter().partition(|one| one.tier == Tier::Encrypted);
    let mut waves = 0..;
    let mut next = || waves.next().unwrap_or(usize::MAX);
    let mut arranged = line_up(inside, &mut next);
    let first_outside = next();
    let mut lane = |candidates: Vec<Candidate>, first: usize| {
        let raced = candidates.iter().all(|candidate| candidate.down);
        let mut wave = first;
        for candidate in candidates {
            arranged.push(Candidate { wave, ..candidate.clone() });
            wave += usize::from(!raced && !candidate.trial);
        }
        wave
    };
    let after_plain = lane(plain, first_outside);
    let beside = if after_plain > first_outside { first_outside + 1 } else { first_outside };
    let last = lane(encrypted, beside).max(after_plain);
    if liars_last {
        lane(liars, last);
    }
    arranged.sort_by_key(|candidate| candidate.wave);
    arranged
}

fn line_up(candidates: Vec<Candidate>, next: &mut impl FnMut() -> usize) -> Vec<Candidate> {
    let raced = !candidates.is_empty() && candidates.iter().all(|candidate| candidate.down);
    let first = if candidates.is_empty() { 0 } else { next() };
    let mut wave = first;
    let mut arranged = Vec::new();
    for (number, candidate) in candidates.into_iter().enumerate() {
        let alone = number > 0 && !raced && !candidate.trial;
        if alone {
            wave = next();
        }
        // A trial goes beside the first, so that the question is asked in any case.
        arranged.push(Candidate { wave: if candidate.trial { first } else { wave }, ..candidate });
    }
    arranged
}

/// IPv6 first, then by turns (RFC 8305 section 4).
pub(super) fn take_turns(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let (v6, v4): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|address| address.is_ipv6());
    let longest = v6.len().max(v4.len());
    let mut turns: Vec<IpAddr> =
        (0..longest).flat_map(|turn| [v6.get(turn), v4.get(turn)]).flatten().copied().collect();
    dedup(&mut turns);
    turns
}

pub(super) fn dedup<T: PartialEq + Clone>(list: &mut Vec<T>) {
    let mut seen: Vec<T> = Vec::with_capacity(list.len());
    list.retain(|one| {
        let is_new = !seen.contains(one);
        if is_new {
            seen.push(one.clone());
        }
        is_new
    });
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use tokio::runtime::Handle;

    use super::*;
    use crate::metrics::Registry;
    use crate::resolve::Config;
    use crate::resolve::health::LIES_TOO_MANY;
    use crate::resolve::reply::Outcome;

    fn servers(texts: &[&str]) -> Vec<Server> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn shared(inside: &[&str], fallback: Vec<Server>) -> Shared {
        let nowhere = Path::new("/nonexistent");
        let config = Config {
            nameservers: servers(inside),
            fallback,
            resolv_conf: nowhere.join("resolv.conf"),
            hosts_file: nowhere.join("hosts"),
            ..Config::default()
        };
        Shared::new(config, Handle::current(), &Registry::default()).unwrap()
    }

    /// `wave: server` for each candidate, in order.
    fn waves(shared: &Shared, host: &str, start: Start) -> Vec<String> {
        let name = Name::parse(host).unwrap();
        let plan = shared.plan(&name, shared.kind(&name), start, Instant::now());
        let line = |one: &Candidate| {
            let mark = if one.trial { " (trial)" } else { "" };
            format!("{}: {} {}{mark}", one.wave, one.server, one.transport)
        };
        plan.candidates.iter().map(line).collect()
    }

    fn bury(shared: &Shared, server: &str) {
        for _ in 0..2 {
            let server = server.parse().unwrap();
            shared.health.observe(&server, Transport::Udp, Outcome::Unreachable, Duration::ZERO, Instant::now());
        }
    }

    const PUBLIC: [&str; 4] = ["8.8.8.8", "1.1.1.1", "tls://1.1.1.1#cloudflare-dns.com", "tls://8.8.8.8#dns.google"];

    #[tokio::test]
    async fn the_systems_come_first_then_plain_and_encrypted_side_by_side() {
        let shared = shared(&["10.0.0.1", "10.0.0.2"], servers(&PUBLIC));
        let expected = [
            "0: 10.0.0.1 udp",
            "1: 10.0.0.2 udp",
            "2: 8.8.8.8 udp",
            "3: 1.1.1.1 udp",
            "3: tls://1.1.1.1#cloudflare-dns.com tls",
            "4: tls://8.8.8.8#dns.google tls",
        ];
        assert_eq!(waves(&shared, "goproxy.cn", Start::Bottom), expected);
        assert_eq!(waves(&shared, "goproxy.cn", Start::Above(Tier::Plain)).len(), 2);
        assert_eq!(waves(&shared, "goproxy.cn", Start::Inside), &expected[..2]);
        assert_eq!(waves(&shared, "athens", Start::Bottom), &expected[..2]);
        assert!(waves(&shared, "athens", Start::Above(Tier::System)).is_empty());
    }

    #[tokio::test]
    async fn the_dead_are_left_out_unless_there_is_nobody_else() {
        let two = shared(&["10.0.0.1", "10.0.0.2"], Vec::new());
        bury(&two, "10.0.0.1");
        assert_eq!(waves(&two, "goproxy.cn", Start::Bottom), ["0: 10.0.0.2 udp"]);
        bury(&two, "10.0.0.2");
        assert_eq!(waves(&two, "goproxy.cn", Start::Bottom), ["0: 10.0.0.1 udp", "0: 10.0.0.2 udp"], "a race");
        let rescued = shared(&["10.0.0.1"], servers(&["8.8.8.8"]));
        bury(&rescued, "10.0.0.1");
        assert_eq!(waves(&rescued, "example.org", Start::Bottom), ["0: 8.8.8.8 udp"], "its silence is known");
        assert_eq!(waves(&rescued, "athens", Start::Bottom), ["0: 10.0.0.1 udp"], "private names have nobody else");
    }

    #[tokio::test(start_paused = true)]
    async fn the_dead_are_tried_again_beside_the_living() {
        let shared = shared(&["10.0.0.1", "10.0.0.2"], Vec::new());
        bury(&shared, "10.0.0.1");
        tokio::time::advance(Duration::from_secs(1)).await;
        let expected = ["0: 10.0.0.2 udp", "0: 10.0.0.1 udp (trial)"];
        assert_eq!(waves(&shared, "goproxy.cn", Start::Bottom), expected);
        assert_eq!(waves(&shared, "goproxy.cn", Start::Bottom), &expected[..1], "one trial at a time");
    }

    /// In a process that has run for long the table of servers lacked those that somebody wanted to know about.
    #[tokio::test]
    async fn who_wants_to_hear_everybody_hears_the_dead_too() {
        let shared = shared(&["10.0.0.1", "10.0.0.2"], servers(&["8.8.8.8"]));
        bury(&shared, "10.0.0.1");
        let name = Name::parse("goproxy.cn").unwrap();
        let asked = || {
            let plan = shared.plan_of_all(&name, shared.kind(&name), Start::Bottom, Instant::now());
            let line = |one: &Candidate| format!("{}: {}{}", one.wave, one.server, if one.trial { " too" } else { "" });
            plan.candidates.iter().map(line).collect::<Vec<_>>()
        };
        assert_eq!(asked(), ["0: 10.0.0.2", "0: 10.0.0.1 too", "1: 8.8.8.8"]);
        bury(&shared, "10.0.0.2");
        assert_eq!(asked(), ["0: 10.0.0.1 too", "0: 10.0.0.2 too", "1: 8.8.8.8"]);
    }

    #[tokio::test]
    async fn a_server_whose_udp_is_dead_is_asked_over_tcp() {
        let shared = shared(&["10.0.0.1"], Vec::new());
        bury(&shared, "10.0.0.1");
        let server = "10.0.0.1".parse().unwrap();
        shared.health.observe(&server, Transport::Tcp, Outcome::Answer, Duration::ZERO, Instant::now());
        assert_eq!(waves(&shared, "goproxy.cn", Start::Bottom), ["0: 10.0.0.1 tcp"]);
        let name = Name::parse("goproxy.cn").unwrap();
        let plan = shared.plan(&name, shared.kind(&name), Start::Bottom, Instant::now());
        assert!(plan.candidates[0].marks.udp_dead, "and over UDP where TCP fails");
    }

    #[tokio::test]
    async fn a_liar_about_a_known_name_is_asked_last() {
        let shared = shared(&["10.0.0.1"], servers(&["8.8.8.8"]));
        let now = Instant::now();
        shared.health.note_lie(&"10.0.0.1".parse().unwrap(), "goproxy.cn".to_owned(), LIES_TOO_MANY, now);
        assert_eq!(waves(&shared, "goproxy.cn", Start::Bottom), ["0: 8.8.8.8 udp", "1: 10.0.0.1 udp"]);
        assert_eq!(waves(&shared, "github.com", Start::Bottom)[0], "0: 10.0.0.1 udp");
    }

    #[tokio::test]
    async fn a_public_service_that_the_system_uses_is_no_second_opinion() {
        let shared =
            shared(&["8.8.4.4"], servers(&["8.8.8.8", "tls://1.1.1.1#cloudflare-dns.com", "9.8.7.6", "8.8.4.4"]));
        let name = Name::parse("goproxy.cn").unwrap();
        let plan = shared.plan(&name, shared.kind(&name), Start::Bottom, Instant::now());
        let operators: Vec<Operator> = plan.candidates.iter().map(|candidate| candidate.operator).collect();
        let own = Operator::Own(([9, 8, 7, 6], 53).into());
        assert_eq!(operators, [Operator::System, Operator::System, own, Operator::Service("cloudflare")]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_resolv_conf_is_followed_and_its_search_list_stays_private() {
        let folder = tempfile::tempdir().unwrap();
        let resolv_conf = folder.path().join("resolv.conf");
        std::fs::write(&resolv_conf, "nameserver 10.0.0.1\nsearch vpn.example\n").unwrap();
        let config = Config {
            resolv_conf: resolv_conf.clone(),
            hosts_file: folder.path().join("hosts"),
            fallback: servers(&["8.8.8.8"]),
            ..Config::default()
        };
        let shared = Arc::new(Shared::new(config, Handle::current(), &Registry::default()).unwrap());
        assert_eq!(shared.describe(), "asks 10.0.0.1; where those fail or deny, also 8.8.8.8 and 0 more");
        bury(&shared, "10.0.0.1");
        std::fs::write(&resolv_conf, "nameserver 10.0.0.2\nnameserver 10.0.0.1\n").unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        shared.look_around(Instant::now());
        let followed = waves(&shared, "example.org", Start::Bottom);
        assert_eq!(followed, ["0: 10.0.0.2 udp", "1: 10.0.0.1 udp", "2: 8.8.8.8 udp"]);
        assert_eq!(shared.kind(&Name::parse("git.vpn.example").unwrap()), Kind::Private);
    }

    /// Ten thousand names of every kind that stays inside, at every start, with the site's server in good
    /// health and down, and again by a resolver that starts afresh when the search list is gone: no plan holds
    /// a server that is not the site's, and nothing is asked that no plan holds.
    #[tokio::test(start_paused = true)]
    async fn no_plan_for_a_private_name_leads_outside() {
        let folder = tempfile::tempdir().unwrap();
        let resolv_conf = folder.path().join("resolv.conf");
        std::fs::write(&resolv_conf, "search vpn.example svc.cluster.local com\noptions ndots:5\n").unwrap();
        let names = |texts: &[&str]| texts.iter().map(|text| Name::parse(text).unwrap()).collect::<Vec<_>>();
        let config = |resolv_conf: &Path| Config {
            nameservers: servers(&["10.0.0.1", "system"]),
            fallback: servers(&PUBLIC),
            private: names(&["corp.example"]),
            private_hosts: names(&["git.acme.example"]),
            configured_hosts: names(&["mirror.acme.example"]),
            known: names(&["vpn.example", "acme.example"]),
            zones: vec![(names(&["lab.example"]).remove(0), "10.0.0.3".parse().unwrap())],
            state_dir: Some(folder.path().to_owned()),
            hosts_file: folder.path().join("hosts"),
            resolv_conf: resolv_conf.to_owned(),
            ..Config::default()
        };
        let make = |resolv_conf: &Path| {
            Arc::new(Shared::new(config(resolv_conf), Handle::current(), &Registry::default()).unwrap())
        };
        let starts = [Start::Bottom, Start::Inside, Start::Above(Tier::System), Start::Above(Tier::Plain)];
        let lasting = [
            "",
            ".local",
            ".internal",
            ".home.arpa",
            ".2.10.in-addr.arpa",
            ".corp.example",
            ".git.acme.example",
            ".lab.example",
            ".vpn.example",
            ".mirror.acme.example",
            ".wiki.site.example",
        ];
        let check = |shared: &Shared, under: &[&str]| {
            for number in 0..10_000 / 4 {
                let host = format!("h{:x}{}", fastrand::u64(..), under[number % under.len()]);
                let name = Name::parse(&host).unwrap();
                let start = starts[number % starts.len()];
                let plan = shared.plan(&name, shared.kind(&name), start, Instant::now());
                assert!(plan.candidates.iter().all(|candidate| candidate.tier == Tier::System), "{host} {start:?}");
            }
        };
        let first = make(&resolv_conf);
        for host in names(&["mirror.acme.example", "wiki.site.example"]) {
            first.note_inward(&host, &["10.0.0.9".parse().unwrap()]);
        }
        // While the search list stands, short names too: `x.prod.svc`, and `x.ci` until it was denied.
        let short: Vec<&str> = lasting.iter().copied().chain([".prod.svc", ".ci", ".dev"]).collect();
        check(&first, &short);
        bury(&first, "10.0.0.1");
        check(&first, &short);
        drop(first);
        let next = make(&folder.path().join("gone.conf"));
        check(&next, &lasting);
        bury(&next, "10.0.0.1");
        check(&next, &lasting);
    }

    #[tokio::test]
    async fn options_of_resolv_conf_bind_the_systems_servers_alone() {
        let folder = tempfile::tempdir().unwrap();
        let resolv_conf = folder.path().join("resolv.conf");
        std::fs::write(&resolv_conf, "nameserver 10.0.0.1\noptions use-vc no-aaaa\n").unwrap();
        let config = Config { resolv_conf, fallback: servers(&["8.8.8.8"]), ..Config::default() };
        let shared = Shared::new(config, Handle::current(), &Registry::default()).unwrap();
        assert_eq!(waves(&shared, "example.org", Start::Bottom), ["0: 10.0.0.1 tcp", "1: 8.8.8.8 udp"]);
        let name = Name::parse("example.org").unwrap();
        assert_eq!(shared.plan(&name, Kind::Other, Start::Bottom, Instant::now()).families, [Family::V4]);
    }

    #[test]
    fn families_take_turns_and_ipv6_begins() {
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let mixed = ips(&["1.1.1.1", "1.1.1.2", "1.1.1.1", "2606::1"]);
        assert_eq!(take_turns(&mixed), ips(&["2606::1", "1.1.1.1", "1.1.1.2"]));
    }
}
