//! The ladder over real sockets: scripted name servers on loopback, one fault a sentence.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use futures_util::StreamExt;
use goanyway::metrics::Registry;
use goanyway::resolve::{
    Config, Explanation, Failure, Fate, Found, Freshness, Inquiry, Kind, Outcome, Resolver, Scope, Server, Tier,
};
use goanyway::target::Name;
use hickory_proto::op::ResponseCode;

use crate::support::authority::Authority;
use crate::support::nameserver::{Nameserver, Over, Says};

// The vocabulary.

const GOOD: &str = "1.1.1.9";

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn plain(server: &Nameserver) -> Server {
    Server::Plain(server.address)
}

/// A configuration that touches nothing of this machine's.
fn config(system: Vec<Server>, fallback: Vec<Server>) -> Config {
    let nowhere = Path::new("/nonexistent");
    Config {
        nameservers: system,
        fallback,
        resolv_conf: nowhere.join("resolv.conf"),
        hosts_file: nowhere.join("hosts"),
        ..Config::default()
    }
}

fn resolver(config: Config) -> Resolver {
    Resolver::new(config, tokio::runtime::Handle::current(), &Registry::default()).unwrap()
}

async fn find(resolver: &Resolver, text: &str) -> Result<Found, Failure> {
    resolver.search(&name(text)).next().await
}

/// A system server that does this, a public one that is honest.
async fn rescued_from(says: Says) -> (Found, Nameserver, Nameserver) {
    let (system, public) = (Nameserver::start(says).await, Nameserver::start(Says::Address(GOOD)).await);
    let resolver = resolver(config(vec![plain(&system)], vec![plain(&public)]));
    let found = find(&resolver, "goproxy.cn").await.unwrap();
    (found, system, public)
}

fn row(explanation: &Explanation, server: &SocketAddr, outcome: Outcome) -> bool {
    explanation.attempts.iter().any(|row| row.server == server.to_string() && row.outcome == outcome)
}

// The sentences.

#[tokio::test]
async fn a_healthy_system_server_is_all_that_is_asked() {
    let (found, system, public) = rescued_from(Says::Address("1.1.1.1")).await;
    assert_eq!((found.addresses, found.tier), (vec![ip("1.1.1.1")], Tier::System));
    assert_eq!(system.names(), ["goproxy.cn"]);
    assert!(public.asked().is_empty());
}

#[tokio::test]
async fn whatever_the_system_server_does_an_honest_one_is_found() {
    let faults = [
        Says::Code(ResponseCode::NXDomain),
        Says::Nodata,
        Says::Code(ResponseCode::ServFail),
        Says::Code(ResponseCode::Refused),
        Says::Code(ResponseCode::NotImp),
        Says::Code(ResponseCode::FormErr),
        Says::Lame,
        Says::Silent,
        Says::Garbage,
        Says::AliasLoop,
        Says::Address("0.0.0.0"),
        Says::Address("10.0.0.1"),
    ];
    for fault in faults {
        let told = format!("{fault:?}");
        let (found, ..) = rescued_from(fault).await;
        assert_eq!((found.addresses, found.tier), (vec![ip(GOOD)], Tier::Plain), "{told}");
    }
}

#[tokio::test]
async fn a_closed_port_is_no_reason_to_wait() {
    let public = Nameserver::start(Says::Address(GOOD)).await;
    let resolver = resolver(config(vec![Server::Plain(Nameserver::closed().await)], vec![plain(&public)]));
    assert_eq!(find(&resolver, "goproxy.cn").await.unwrap().addresses, [ip(GOOD)]);
}

#[tokio::test]
async fn one_server_with_a_quirk_is_enough() {
    let quirks =
        [Says::OverTcp(GOOD), Says::Cut(GOOD), Says::WrongIdFirst(GOOD), Says::NoEdns(GOOD), Says::SilentAaaa(GOOD)];
    for quirk in quirks {
        let told = format!("{quirk:?}");
        let system = Nameserver::start(quirk).await;
        let resolver = resolver(config(vec![plain(&system)], vec![]));
        assert_eq!(find(&resolver, "example.org").await.unwrap().addresses, [ip(GOOD)], "{told}");
    }
}

#[tokio::test]
async fn sixty_four_kilobytes_of_records_are_cut() {
    let system = Nameserver::start(Says::Flood).await;
    let found = find(&resolver(config(vec![plain(&system)], vec![])), "example.org").await.unwrap();
    assert_eq!(found.addresses.len(), 32);
}

#[tokio::test]
async fn encrypted_servers_are_verified_by_the_name_they_are_pinned_with() {
    let authority = Authority::new();
    for over in [Over::Tls, Over::Https] {
        let honest = Nameserver::start_encrypted(Says::Address(GOOD), over, &authority, "dns.test").await;
        let server = |address: SocketAddr, name: &str| match over {
            Over::Tls => format!("tls://{address}#{name}").parse::<Server>().unwrap(),
            _ => format!("https://{address}/dns-query#{name}").parse::<Server>().unwrap(),
        };
        let ask = |server: Server| {
            let roots = vec![authority.certificate()];
            let closed = Server::Tcp(([127, 0, 0, 1], 1).into());
            resolver(Config { roots, ..config(vec![closed], vec![server]) })
        };
        let verified = ask(server(honest.address, "dns.test"));
        let found = find(&verified, "goproxy.cn").await.unwrap();
        assert_eq!((found.addresses, found.tier), (vec![ip(GOOD)], Tier::Encrypted), "{over:?}");
        assert_eq!(find(&verified, "github.com").await.unwrap().addresses, [ip(GOOD)], "the connection is kept");
        let before = honest.asked().len();
        let impostor = ask(server(honest.address, "other.test"));
        let explanation = impostor.explain(&name("goproxy.cn"), &Inquiry::default()).await;
        assert_eq!(explanation.verdict, "unknown", "{over:?}");
        assert!(explanation.attempts.iter().any(|row| row.outcome == Outcome::Tls), "{:?}", explanation.attempts);
        assert_eq!(honest.asked().len(), before, "no question goes to somebody who is not who he should be");
    }
}

#[tokio::test]
async fn a_public_servers_lie_is_mended_by_the_system() {
    // The system server is slow enough that the hedge wins, and right.
    let (system, public) =
        (Nameserver::start(Says::OverTcp(GOOD)).await, Nameserver::start(Says::Address("6.6.6.6")).await);
    let resolver = resolver(config(vec![plain(&system)], vec![plain(&public)]));
    let mut search = resolver.search(&name("goproxy.cn"));
    assert_eq!(search.next().await.unwrap().tier, Tier::Plain);
    search.report(ip("6.6.6.6"), Fate::Distrusted);
    let truth = search.next().await.unwrap();
    assert_eq!((&truth.addresses[..], truth.tier), (&[ip(GOOD)][..], Tier::System));
    assert!(matches!(search.next().await, Err(Failure::Exhausted { .. })));
}

#[tokio::test]
async fn an_answer_that_tls_refutes_sends_the_look_up_to_the_next_tier() {
    let system = Nameserver::start(Says::Address("6.6.6.6")).await;
    let public = Nameserver::start(Says::Address(GOOD)).await;
    let resolver = resolver(config(vec![plain(&system)], vec![plain(&public)]));
    let mut search = resolver.search(&name("goproxy.cn"));
    let lie = search.next().await.unwrap();
    assert_eq!((&lie.addresses[..], lie.tier), (&[ip("6.6.6.6")][..], Tier::System));
    search.report(ip("6.6.6.6"), Fate::Distrusted);
    let truth = search.next().await.unwrap();
    assert_eq!((&truth.addresses[..], truth.tier), (&[ip(GOOD)][..], Tier::Plain));
    search.report(ip(GOOD), Fate::Verified);
    assert!(matches!(search.next().await, Err(Failure::Exhausted { .. })));
    let next = find(&resolver, "goproxy.cn").await.unwrap();
    assert_eq!(
        (next.addresses, next.freshness),
        (vec![ip(GOOD)], Freshness::Cached),
        "and the next request starts there"
    );
}

#[tokio::test]
async fn a_name_with_a_verified_handshake_outlives_all_name_servers_and_a_restart() {
    let state = tempfile::tempdir().unwrap();
    let system = Nameserver::start(Says::Address(GOOD)).await;
    let kept = |servers| Config { state_dir: Some(state.path().to_owned()), ..config(servers, vec![]) };
    let before = resolver(kept(vec![plain(&system)]));
    let mut search = before.search(&name("goproxy.cn"));
    search.next().await.unwrap();
    search.report(ip(GOOD), Fate::Verified);
    before.save();
    for says in [Says::Code(ResponseCode::ServFail), Says::Code(ResponseCode::NXDomain), Says::Silent] {
        let told = format!("{says:?}");
        system.change(says);
        let after = resolver(kept(vec![plain(&system)]));
        let found = find(&after, "goproxy.cn").await.unwrap();
        assert_eq!((found.addresses, found.freshness), (vec![ip(GOOD)], Freshness::LastKnownGood), "{told}");
        let explanation = after.explain(&name("goproxy.cn"), &Inquiry { quick: true, ..Inquiry::default() }).await;
        assert_eq!(
            (explanation.verdict, explanation.freshness),
            ("resolved", Some(Freshness::LastKnownGood)),
            "{told}"
        );
        let unseen = find(&after, "github.com").await;
        assert!(unseen.is_err(), "{told}");
    }
}

#[tokio::test]
async fn while_an_older_answer_serves_the_servers_are_left_in_peace() {
    let state = tempfile::tempdir().unwrap();
    let system = Nameserver::start(Says::Address(GOOD)).await;
    let kept = || Config { state_dir: Some(state.path().to_owned()), ..config(vec![plain(&system)], vec![]) };
    let before = resolver(kept());
    let mut search = before.search(&name("goproxy.cn"));
    search.next().await.unwrap();
    search.report(ip(GOOD), Fate::Verified);
    before.save();
    system.change(Says::Code(ResponseCode::ServFail));
    let after = resolver(kept());
    find(&after, "goproxy.cn").await.unwrap();
    let asked = system.asked().len();
    for _ in 0..1000 {
        let mut search = after.search(&name("goproxy.cn"));
        search.next().await.unwrap();
        search.report(ip(GOOD), Fate::Unreachable);
        assert!(matches!(search.next().await, Err(Failure::Exhausted { .. })));
    }
    assert_eq!(system.asked().len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_ask_one_question_is_sent() {
    let system = Nameserver::start(Says::Address(GOOD)).await;
    let resolver = resolver(config(vec![plain(&system)], vec![]));
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let resolver = resolver.clone();
        asking.spawn(async move { find(&resolver, "goproxy.cn").await });
    }
    for found in asking.join_all().await {
        assert_eq!(found.unwrap().addresses, [ip(GOOD)]);
    }
    assert_eq!(system.asked().len(), 2, "one question for each family");
}

#[tokio::test]
async fn private_names_never_reach_a_public_server() {
    let folder = tempfile::tempdir().unwrap();
    let resolv_conf = folder.path().join("resolv.conf");
    std::fs::write(&resolv_conf, "search vpn.example com\n").unwrap();
    let public = Nameserver::start(Says::Address(GOOD)).await;
    let system = Nameserver::start(Says::Address("10.0.0.1")).await;
    let make = |resolv_conf: &Path| Config {
        state_dir: Some(folder.path().to_owned()),
        private: vec![name("corp.example")],
        private_hosts: vec![name("git.acme.example")],
        configured_hosts: vec![name("mirror.acme.example")],
        zones: vec![(name("lab.example"), plain(&system))],
        resolv_conf: resolv_conf.to_owned(),
        ..config(vec![plain(&system)], vec![plain(&public)])
    };
    let first = resolver(make(&resolv_conf));
    let learnt = ["wiki.site.example", "mirror.acme.example"];
    for host in learnt {
        assert_eq!(find(&first, host).await.unwrap().addresses, [ip("10.0.0.1")], "{host}");
    }
    first.save();
    // After a restart, with the VPN and its search list gone, under one fault after the other.
    let second_conf = folder.path().join("gone.conf");
    let hosts = ["athens", "printer.local", "db.internal", "x.corp.example", "git.acme.example", "x.lab.example"];
    let hosts = hosts.into_iter().chain(["x.vpn.example"]).chain(learnt);
    let hosts: Vec<&str> = hosts.collect();
    let faults = [Says::Code(ResponseCode::NXDomain), Says::Nodata, Says::Code(ResponseCode::ServFail), Says::Silent];
    for fault in faults {
        system.change(fault);
        let second = resolver(make(&second_conf));
        let all = hosts.iter().map(|host| find(&second, host));
        for result in futures_util::future::join_all(all).await {
            assert!(result.is_err(), "{result:?}");
        }
    }
    // And a thousand at random, by request and by explanation.
    system.change(Says::Code(ResponseCode::NXDomain));
    let third = resolver(make(&second_conf));
    let random = (0..1000).map(|number| {
        let under = ["", ".local", ".internal", ".corp.example", ".vpn.example", ".wiki.site.example", ".lab.example"];
        name(&format!("h{:x}{}", fastrand::u64(..), under[number % under.len()]))
    });
    let asking = futures_util::stream::iter(random).map(|host| {
        let third = third.clone();
        async move { assert!(third.search(&host).next().await.is_err(), "{host}") }
    });
    asking.buffer_unordered(50).collect::<()>().await;
    let explanation = third.explain(&name("athens"), &Inquiry::default()).await;
    assert!(row(&explanation, &public.address, Outcome::NotAsked));
    assert_eq!(public.names(), Vec::<String>::new());
}

#[tokio::test]
async fn a_built_in_name_with_a_private_address_alone_is_for_tls_to_judge() {
    let system = Nameserver::start(Says::Address("10.0.0.1")).await;
    let public = Nameserver::start(Says::Code(ResponseCode::ServFail)).await;
    let resolver = resolver(config(vec![plain(&system)], vec![plain(&public)]));
    let mut search = resolver.search(&name("goproxy.cn"));
    let found = search.next().await.unwrap();
    assert_eq!((&found.addresses[..], found.doubtful, found.tier), (&[ip("10.0.0.1")][..], true, Tier::System));
    search.report(ip("10.0.0.1"), Fate::Verified);
    let again = find(&resolver, "goproxy.cn").await.unwrap();
    assert_eq!((again.freshness, again.doubtful), (Freshness::Cached, false), "a site that serves its own mirror");
}

#[tokio::test]
async fn scope_decides_who_may_be_asked_outside() {
    let public = Nameserver::start(Says::Address(GOOD)).await;
    let system = Nameserver::start(Says::Code(ResponseCode::NXDomain)).await;
    let known = Config { scope: Scope::Known, ..config(vec![plain(&system)], vec![plain(&public)]) };
    let known = resolver(known);
    assert!(matches!(
        find(&known, "example.org").await,
        Err(Failure::Absent { confirmed: false, last_word: true, .. })
    ));
    assert_eq!(find(&known, "goproxy.cn").await.unwrap().addresses, [ip(GOOD)]);
    assert_eq!(public.names(), ["goproxy.cn"]);
}

#[tokio::test]
async fn a_forged_reply_that_comes_first_is_found_out_and_asked_again_over_tcp() {
    let system = Server::Plain(Nameserver::closed().await);
    let public = Nameserver::start(Says::ForgedFirst(GOOD, 0)).await;
    let found = find(&resolver(config(vec![system], vec![plain(&public)])), "goproxy.cn").await.unwrap();
    assert_eq!(found.addresses, [ip(GOOD)]);
    assert!(public.asked().iter().any(|asked| asked.over == Over::Tcp));
}

#[tokio::test]
async fn a_short_name_is_found_under_the_search_list() {
    let folder = tempfile::tempdir().unwrap();
    let resolv_conf = folder.path().join("resolv.conf");
    std::fs::write(&resolv_conf, "search void.example tools.example\noptions ndots:2\n").unwrap();
    let system = Nameserver::start(Says::Under("tools.example", "10.0.0.9")).await;
    let public = Nameserver::start(Says::Code(ResponseCode::NXDomain)).await;
    let resolver = resolver(Config { resolv_conf, ..config(vec![plain(&system)], vec![plain(&public)]) });
    assert_eq!(find(&resolver, "athens").await.unwrap().addresses, [ip("10.0.0.9")]);
    assert_eq!(find(&resolver, "athens.ci").await.unwrap().addresses, [ip("10.0.0.9")]);
    assert!(find(&resolver, "a.b.example").await.is_err(), "two dots are enough");
    assert_eq!(public.names(), ["a.b.example"], "nothing from under the search list");
    let explanation = resolver.explain(&name("athens"), &Inquiry::default()).await;
    assert_eq!((explanation.name.as_str(), explanation.verdict), ("athens", "resolved"));
    assert!(explanation.reason.starts_with("as athens.tools.example: "), "{}", explanation.reason);
}

/// A cluster's own names are short for names under its search list. They were asked as they stand first,
/// denied by the cluster, and so told to a public server.
#[tokio::test]
async fn a_clusters_short_names_are_told_to_nobody_outside() {
    let folder = tempfile::tempdir().unwrap();
    let resolv_conf = folder.path().join("resolv.conf");
    std::fs::write(&resolv_conf, "search ci.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n")
        .unwrap();
    let system = Nameserver::start(Says::Under("cluster.local", "10.0.0.9")).await;
    let public = Nameserver::start(Says::Code(ResponseCode::NXDomain)).await;
    let of = |resolv_conf: &Path| Config {
        resolv_conf: resolv_conf.to_owned(),
        ..config(vec![plain(&system)], vec![plain(&public)])
    };
    let found = find(&resolver(of(&resolv_conf)), "athens.prod.svc").await.unwrap();
    assert_eq!(found.addresses, [ip("10.0.0.9")]);
    let explained = resolver(of(&resolv_conf)).explain(&name("athens.prod.svc"), &Inquiry::default()).await;
    assert_eq!(explained.verdict, "resolved");
    assert_eq!(public.names(), [""; 0]);
}

#[tokio::test]
async fn hosts_given_by_hand_need_no_server() {
    let resolver = resolver(Config {
        hosts: vec![(name("mirror.example"), ip("10.0.0.7"))],
        ..config(vec![Server::Plain(Nameserver::closed().await)], vec![])
    });
    for (host, address) in [("mirror.example", "10.0.0.7"), ("localhost", "127.0.0.1"), ("a.localhost", "127.0.0.1")] {
        let found = find(&resolver, host).await.unwrap();
        assert_eq!((found.addresses[0], found.tier), (ip(address), Tier::Static), "{host}");
    }
}

#[tokio::test]
async fn an_explanation_has_everybodys_word_the_reason_and_what_go_would_have_said() {
    let system = Nameserver::start(Says::Code(ResponseCode::NXDomain)).await;
    let [honest, failing] = [Says::Address(GOOD), Says::Code(ResponseCode::ServFail)];
    let (honest, failing) = (Nameserver::start(honest).await, Nameserver::start(failing).await);
    let resolver = resolver(config(vec![plain(&system)], vec![plain(&honest), plain(&failing)]));
    let explanation = resolver.explain(&name("goproxy.cn"), &Inquiry::default()).await;
    assert_eq!((explanation.verdict, &explanation.addresses[..]), ("resolved", &[ip(GOOD)][..]));
    assert!(row(&explanation, &system.address, Outcome::Nxdomain));
    assert!(row(&explanation, &honest.address, Outcome::Answer));
    assert!(row(&explanation, &failing.address, Outcome::Servfail));
    assert_eq!(explanation.would_go, format!("lookup goproxy.cn on {}: no such host", system.address));
    assert!(explanation.reason.contains("overrules"), "{}", explanation.reason);
    assert!(explanation.advice.contains(&system.address.to_string()), "{}", explanation.advice);
}

#[tokio::test]
async fn explaining_a_name_that_turns_out_to_be_private_does_not_give_it_away() {
    let system = Nameserver::start(Says::Address("10.0.0.1")).await;
    let public = Nameserver::start(Says::Address(GOOD)).await;
    let resolver = resolver(config(vec![plain(&system)], vec![plain(&public)]));
    let explanation = resolver.explain(&name("wiki.site.example"), &Inquiry::default()).await;
    assert_eq!((explanation.kind, &explanation.addresses[..]), (Kind::Private, &[ip("10.0.0.1")][..]));
    assert!(row(&explanation, &public.address, Outcome::NotAsked));
    assert!(public.asked().is_empty());
    assert_eq!(resolver.kind(&name("wiki.site.example")), Kind::Private, "and it is known from now on");
}

#[tokio::test]
async fn verdicts_without_an_address_are_told_apart() {
    let policy = Says::CodeBecause(ResponseCode::NXDomain, 17, "by policy");
    let table = [
        (Says::Code(ResponseCode::NXDomain), Says::Code(ResponseCode::NXDomain), "absent", true),
        (Says::Code(ResponseCode::NXDomain), Says::Code(ResponseCode::ServFail), "absent", false),
        (Says::Code(ResponseCode::Refused), Says::Code(ResponseCode::ServFail), "unknown", false),
        (policy, Says::Address(GOOD), "blocked", true),
    ];
    for (inside, outside, verdict, confirmed) in table {
        let told = format!("{inside:?}, {outside:?}");
        let (system, public) = (Nameserver::start(inside).await, Nameserver::start(outside).await);
        let resolver = resolver(config(vec![plain(&system)], vec![plain(&public)]));
        let explanation = resolver.explain(&name("goproxy.cn"), &Inquiry { quick: true, ..Inquiry::default() }).await;
        assert_eq!((explanation.verdict, explanation.confirmed), (verdict, confirmed), "{told}");
        let failure = find(&resolver, "goproxy.cn").await.unwrap_err();
        assert_eq!(failure.label(), verdict, "{told}");
    }
}

#[tokio::test]
async fn what_was_asked_and_rescued_is_counted() {
    let system = Nameserver::start(Says::Code(ResponseCode::NXDomain)).await;
    let public = Nameserver::start(Says::Address(GOOD)).await;
    let registry = Registry::default();
    let config = config(vec![plain(&system)], vec![plain(&public)]);
    let resolver = Resolver::new(config, tokio::runtime::Handle::current(), &registry).unwrap();
    find(&resolver, "goproxy.cn").await.unwrap();
    let text = registry.text();
    for line in [
        "goanyway_resolve_attempts_total{tier=\"system\",transport=\"udp\",outcome=\"nxdomain\"} 2",
        "goanyway_resolve_lookups_total{verdict=\"resolved\"} 1",
        "goanyway_resolve_rescues_total{by=\"overruled-negative\"} 1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}
