//! What strangers and tired people write: packets, names, servers, resolv.conf and a state file that are
//! none. Nothing of it panics, hangs past the cap, or is remembered.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use goanyway::metrics::Registry;
use goanyway::resolve::{Config, Freshness, Inquiry, Resolver, Server};
use goanyway::target::Name;
use hickory_proto::op::ResponseCode;

use crate::support::binary::home;
use crate::support::nameserver::{Nameserver, Says};

const GOOD: &str = "1.1.1.9";
/// The cap of a look-up, and what a busy machine may add to it.
const CAP: Duration = Duration::from_secs(8);

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn config(folder: &Path, system: Vec<Server>) -> Config {
    Config {
        nameservers: system,
        fallback: Vec::new(),
        resolv_conf: folder.join("resolv.conf"),
        hosts_file: folder.join("hosts"),
        state_dir: Some(folder.to_owned()),
        ..Config::default()
    }
}

fn resolver(config: Config) -> Resolver {
    Resolver::new(config, tokio::runtime::Handle::current(), &Registry::default()).unwrap()
}

#[tokio::test]
async fn no_reply_is_too_strange_to_end_with_the_cap_and_none_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let server = Nameserver::start(Says::Garbage).await;
    let replies = [
        Says::Garbage,
        Says::Broken,
        Says::Referral,
        Says::AliasLoop,
        Says::AliasNowhere,
        Says::AliasChain(100, GOOD),
        Says::Code(ResponseCode::Unknown(3841)),
        Says::ForgedFirst("0.0.0.0", 0),
    ];
    for (number, says) in replies.into_iter().enumerate() {
        let told = format!("{says:?}");
        let resolver = resolver(config(folder.path(), vec![Server::Plain(server.address)]));
        let host = name(&format!("strange{number}.example"));
        server.change(says);
        let came = tokio::time::timeout(CAP, resolver.search(&host).next()).await.expect(&told);
        let explained = tokio::time::timeout(2 * CAP, resolver.explain(&host, &Inquiry::default())).await.expect(&told);
        if !told.starts_with("ForgedFirst") {
            assert!(came.is_err() && explained.verdict != "resolved", "{told}: {came:?}, {explained:?}");
        }
        // Whatever it was, the truth is found as soon as it is said.
        server.change(Says::Address(GOOD));
        let truth = resolver.explain(&host, &Inquiry::default()).await;
        assert_eq!(truth.addresses, [GOOD.parse::<IpAddr>().unwrap()], "{told}");
    }
}

#[tokio::test]
async fn sixty_four_kilobytes_and_short_chains_are_read_to_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    let server = Nameserver::start(Says::Flood).await;
    let resolver = resolver(config(folder.path(), vec![Server::Plain(server.address)]));
    let flood = resolver.search(&name("flood.example")).next().await.unwrap();
    assert_eq!(flood.addresses.len(), 32);
    server.change(Says::AliasChain(8, GOOD));
    let chain = resolver.search(&name("chain.example")).next().await.unwrap();
    assert_eq!(chain.addresses, [GOOD.parse::<IpAddr>().unwrap()]);
}

#[test]
fn names_that_are_none_are_refused_and_others_are_read_as_they_are_meant() {
    let home = home();
    let long_label = "a".repeat(64);
    let long_name = "abcdefgh.".repeat(34) + "example";
    let bad =
        ["a..b", ".", "..", "a b", "a_b.example ", &long_label, &long_name, "1.2.3.4", "::1", "", "xn--", "a\u{7f}b"];
    for text in bad {
        let ended = home.run(&["resolve", "--quick", text]);
        assert_eq!(ended.code, Some(2), "{text:?}: {ended:?}");
        assert!(ended.err.starts_with("error: ") && ended.out.is_empty(), "{text:?}: {ended:?}");
    }
    // A name of 253 octets, a trailing dot, capitals, Unicode.
    let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
    let good = [
        (longest.as_str(), longest.as_str()),
        ("GoProxy.CN.", "goproxy.cn"),
        ("b\u{fc}cher.example", "xn--bcher-kva.example"),
    ];
    for (text, meant) in good {
        let ended = home.run(&["resolve", "--json", "--quick", text]);
        let line: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
        assert_eq!(line["name"], meant);
        assert_eq!(ended.code, Some(3), "nobody listens at the only server: {ended:?}");
    }
}

#[test]
fn a_mistyped_server_is_told_which_part_and_what_a_right_one_looks_like() {
    let home = home();
    let table = [
        ("8.8.8", "the address \"8.8.8\" is no IP address"),
        ("dns.google", "\"dns.google\" is a name"),
        ("8.8.8.8:dns", "the port \"dns\" is no number"),
        ("8.8.8.8:70000", "the port \"70000\" is no number"),
        ("[2001:db8::1", "never closed"),
        ("htps://1.1.1.1/dns-query", "the scheme \"htps\" is none of udp, tcp, tls, https"),
        ("tls://1.1.1.1#not a name", "the name \"not a name\" after # is no host name"),
        ("tls://1.1.1.1/dns-query", "tls:// has no path"),
        ("https://1.1.1.1/dns query#a", "the path \"/dns query\""),
        ("udp://8.8.8.8#dns.google", "udp:// verifies no certificate"),
    ];
    for flag in ["--nameserver", "--fallback"] {
        for (typed, part) in table {
            let ended = home.run(&["resolve", "--quick", flag, typed, "goproxy.cn"]);
            assert_eq!(ended.code, Some(2), "{typed}: {ended:?}");
            let said = ended.err.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(said.contains(part) && said.contains("is written like"), "{typed}: {}", ended.err);
        }
    }
}

/// Nonsense is skipped and what makes sense is used.
#[tokio::test]
async fn resolv_conf_full_of_nonsense_is_read_for_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut text =
        b"nameserver\nnameserver 1.2.3\nnameserver fe80::1%none\nsearch\noptions\noptions ndots:x timeout:-1\n"
            .to_vec();
    text.extend(b"\xff\xfe\0\0 garbage\nsearch corp.example\n".iter());
    text.extend(std::iter::repeat_n(b'x', 100_000));
    std::fs::write(folder.path().join("resolv.conf"), text).unwrap();
    let server = Nameserver::start(Says::Under("corp.example", "10.0.0.9")).await;
    let resolver = resolver(config(folder.path(), vec![Server::System, Server::Plain(server.address)]));
    let found = resolver.search(&name("athens")).next().await.unwrap();
    assert_eq!(found.addresses, ["10.0.0.9".parse::<IpAddr>().unwrap()]);
}

/// A state file that ends in the middle: what stands before serves, also with every server dead.
#[tokio::test]
async fn a_state_file_cut_in_half_still_knows_its_first_half() {
    let folder = tempfile::tempdir().unwrap();
    let server = Nameserver::start(Says::Address(GOOD)).await;
    let system = || vec![Server::Plain(server.address)];
    let before = resolver(config(folder.path(), system()));
    for host in ["goproxy.cn", "github.com", "gopkg.in"] {
        let mut search = before.search(&name(host));
        search.next().await.unwrap();
        search.report(GOOD.parse().unwrap(), goanyway::resolve::Fate::Verified);
    }
    before.save();
    drop(before);
    let path = folder.path().join("names.jsonl");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() * 2 / 3]).unwrap();
    server.change(Says::Code(ResponseCode::ServFail));
    let after = resolver(config(folder.path(), system()));
    let mut known = 0;
    for host in ["goproxy.cn", "github.com", "gopkg.in"] {
        if let Ok(found) = after.search(&name(host)).next().await {
            assert_eq!(found.freshness, Freshness::LastKnownGood, "{host}");
            known += 1;
        }
    }
    assert!((1..3).contains(&known), "{known} of 3 in two thirds of the file");
    assert!(folder.path().join("names.jsonl.damaged").exists());
}
