//! The proof that nothing leaks: two public servers that record every name they ever see, ten thousand
//! names of the site's own, every fault, a restart, and the VPN gone.

use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{StreamExt, stream};
use goanyway::metrics::Registry;
use goanyway::resolve::{Config, Inquiry, Resolver, Server};
use goanyway::target::Name;
use hickory_proto::op::ResponseCode;
use tempfile::TempDir;

use crate::support::authority::Authority;
use crate::support::nameserver::{Nameserver, Over, Says};

/// A site: its servers, and two public ones that must hear of none of its names.
struct Site {
    folder: TempDir,
    system: Nameserver,
    plain: Nameserver,
    encrypted: Nameserver,
    authority: Authority,
}

impl Site {
    async fn new() -> Site {
        let authority = Authority::new();
        let answer = Says::Address("1.1.1.9");
        Site {
            folder: tempfile::tempdir().unwrap(),
            system: Nameserver::start(Says::Address("10.0.0.1")).await,
            plain: Nameserver::start(answer.clone()).await,
            encrypted: Nameserver::start_encrypted(answer, Over::Https, &authority, "dns.test").await,
            authority,
        }
    }

    /// A resolver with this search list; what was learnt before is in its state folder.
    fn resolver(&self, search: &str) -> Resolver {
        let resolv_conf = self.folder.path().join("resolv.conf");
        std::fs::write(&resolv_conf, format!("search {search}\n")).unwrap();
        let name = |text: &str| Name::parse(text).unwrap();
        let system = Server::Plain(self.system.address);
        let encrypted = format!("https://{}/dns-query#dns.test", self.encrypted.address);
        let config = Config {
            nameservers: vec![system.clone()],
            fallback: vec![Server::Plain(self.plain.address), encrypted.parse().unwrap()],
            private: vec![name("corp.example")],
            private_hosts: vec![name("git.acme.example"), name("acme.dev")],
            configured_hosts: vec![name("mirror.acme.example")],
            zones: vec![(name("lab.example"), system)],
            resolv_conf,
            hosts_file: Path::new("/nonexistent/hosts").into(),
            state_dir: Some(self.folder.path().to_owned()),
            roots: vec![self.authority.certificate()],
            ..Config::default()
        };
        Resolver::new(config, tokio::runtime::Handle::current(), &Registry::default()).unwrap()
    }

    /// What the public servers ever heard.
    fn leaked(&self) -> Vec<String> {
        [self.plain.names(), self.encrypted.names()].concat()
    }
}

/// A name of the site's own, of every kind in turn.
fn internal(number: usize) -> Name {
    let kinds = [
        "",
        ".local",
        ".internal",
        ".home.arpa",
        ".2.10.in-addr.arpa",
        ".localhost.corp.example",
        ".corp.example",
        ".vpn.example",
        ".svc.cluster.lan",
        ".lab.example",
        ".git.acme.example",
        ".acme.dev",
        ".wiki.site.example",
        ".mirror.acme.example",
    ];
    let host = format!("h{:x}-{number}", fastrand::u64(..));
    Name::parse(&format!("{host}{}", kinds[number % kinds.len()])).unwrap()
}

/// Every fault of the system's server; what takes long has fewer names.
fn faults() -> Vec<(Says, usize)> {
    let quick = [
        Says::Code(ResponseCode::NXDomain),
        Says::Nodata,
        Says::Code(ResponseCode::ServFail),
        Says::Code(ResponseCode::Refused),
        Says::Code(ResponseCode::NotImp),
        Says::Code(ResponseCode::FormErr),
        Says::Lame,
        Says::Referral,
        Says::AliasNowhere,
        Says::AliasLoop,
        Says::Address("0.0.0.0"),
        Says::Address("10.0.0.1"),
        Says::Address("6.6.6.6"),
        Says::CodeBecause(ResponseCode::NXDomain, 15, "policy"),
        Says::WrongIdFirst("6.6.6.6"),
        Says::Garbage,
        Says::Broken,
    ];
    quick.into_iter().map(|says| (says, 575)).chain([(Says::Silent, 250), (Says::Flood, 50)]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_names_of_the_sites_own_are_told_to_nobody() {
    let site = Site::new().await;
    // While the VPN is up, its search list and two private answers are learnt.
    let before = site.resolver("vpn.example svc.cluster.lan com");
    for host in ["wiki.site.example", "mirror.acme.example"] {
        let found = before.search(&Name::parse(host).unwrap()).next().await.unwrap();
        assert_eq!(found.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()], "{host}");
    }
    before.save();
    drop(before);
    // Then it goes down, and the process starts again.
    let after = site.resolver("com");
    let asked = AtomicUsize::new(0);
    for (says, count) in faults() {
        let told = format!("{says:?}");
        site.system.change(says);
        let names = (0..count).map(internal);
        let asking = stream::iter(names).map(|name| {
            let (after, asked) = (after.clone(), &asked);
            async move {
                // As a request, and every fifth as a person asks.
                match asked.fetch_add(1, Ordering::Relaxed) % 5 {
                    0 => drop(after.explain(&name, &Inquiry { quick: true, ..Inquiry::default() }).await),
                    _ => drop(after.search(&name).next().await),
                }
            }
        });
        asking.buffer_unordered(250).collect::<()>().await;
        assert_eq!(site.leaked(), [""; 0], "{told}");
    }
    assert!(asked.into_inner() >= 10_000);
    // The whole table of some, which waits for everybody.
    site.system.change(Says::Code(ResponseCode::NXDomain));
    let tables = (0..26).map(|number| {
        let after = after.clone();
        async move { after.explain(&internal(number), &Inquiry::default()).await }
    });
    futures_util::future::join_all(tables).await;
    assert_eq!(site.leaked(), [""; 0]);
    // Those that listen would have heard: a name that is nobody's own does arrive.
    after.search(&Name::parse("example.org").unwrap()).next().await.unwrap();
    assert!(site.leaked().iter().all(|name| name == "example.org") && !site.leaked().is_empty());
}
