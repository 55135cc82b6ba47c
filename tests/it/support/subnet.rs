//! A build subnet: two clients behind a gateway, and the world behind that, each a namespace of its own.
//!
//! ```text
//! trusting 10.7.0.2 fd07::2 ──┐
//!                             ├─ gateway (goanyway, nft) ── world 9.9.9.0/24 2a0a:e5c0:9::/64
//! plain    10.7.1.2 fd07:1::2 ┘
//! ```
//!
//! The trusting client is one whose operator says that it trusts our CA. Addresses of the world are public
//! ones, and lead nowhere beyond it.

use std::path::Path;
use std::sync::Arc;

use super::authority::Authority;
use super::binary::{Ended, Home};
use super::daemon::{Daemon, Wanted, goanyway};
use super::mirror::Mirror;
use super::nameserver::{Nameserver, Says};
use super::netns::{Hosted, Netns};

/// The mirror, by a name that goanyway knows, and where it is.
pub const MIRROR: &str = "goproxy.cn";
pub const MODULE: &str = "example.com/m";
pub const MIRROR_AT: &str = "9.9.9.9";
pub const MIRROR_AT_V6: &str = "2a0a:e5c0:9::9";
/// Where whoever means harm sits.
pub const ATTACKER_AT: &str = "9.9.9.66";
/// Where packets vanish.
pub const NOBODY_AT: &str = "9.9.8.1";
/// In the world, and private.
pub const INSIDE_AT: &str = "10.9.0.5";
/// The name server above goanyway.
pub const NAMESERVER_AT: &str = "9.9.9.53:53";
/// One that clients ask themselves, past goanyway.
pub const LIAR_AT: &str = "9.9.9.54:53";
/// Where goanyway takes redirected connections.
pub const TRANSPARENT: u16 = 3129;

/// How the gateway brings connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    Redirect,
    Tproxy,
}

pub struct Subnet {
    pub trusting: Netns,
    pub plain: Netns,
    pub gateway: Netns,
    pub world: Netns,
    pub authority: Authority,
}

impl Subnet {
    /// All cables plugged in, no rule yet, nobody serving.
    pub fn new() -> Subnet {
        let by_us = |gateway: &str| Netns::with_resolv_conf(&format!("nameserver {gateway}\n"));
        let (trusting, plain) = (by_us("10.7.0.1"), by_us("10.7.1.1"));
        let (gateway, world) = (Netns::with_resolv_conf(""), Netns::with_resolv_conf(""));
        trusting.connect("eth0", &["10.7.0.2/24", "fd07::2/64"], &gateway, "lan0", &["10.7.0.1/24", "fd07::1/64"]);
        plain.connect("eth0", &["10.7.1.2/24", "fd07:1::2/64"], &gateway, "lan1", &["10.7.1.1/24", "fd07:1::1/64"]);
        let outside = ["9.9.9.254/24", "2a0a:e5c0:9::fe/64"];
        let there: Vec<String> = [9, 53, 54, 66].iter().map(|last| format!("9.9.9.{last}/24")).collect();
        let there: Vec<&str> = there.iter().map(String::as_str).chain(["2a0a:e5c0:9::9/64"]).collect();
        gateway.connect("wan", &outside, &world, "eth0", &there);
        world.add_address(&format!("{INSIDE_AT}/32"));
        for (client, via, via_v6) in [(&trusting, "10.7.0.1", "fd07::1"), (&plain, "10.7.1.1", "fd07:1::1")] {
            client.ip(&["route", "add", "default", "via", via]);
            client.ip(&["-6", "route", "add", "default", "via", via_v6]);
        }
        gateway.ip(&["route", "add", "default", "via", "9.9.9.9"]);
        gateway.ip(&["-6", "route", "add", "default", "via", MIRROR_AT_V6]);
        world.ip(&["route", "add", "default", "via", "9.9.9.254"]);
        world.ip(&["-6", "route", "add", "default", "via", "2a0a:e5c0:9::fe"]);
        world.ip(&["route", "add", "blackhole", &format!("{NOBODY_AT}/32")]);
        for netns in [&gateway, &world] {
            netns.forward();
        }
        Subnet { trusting, plain, gateway, world, authority: Authority::new() }
    }

    /// Has the gateway bring these ports to goanyway.
    pub fn bring(&self, rules: Rules, ports: &str) {
        let to = TRANSPARENT;
        let lan = "iifname { \"lan0\", \"lan1\" }";
        match rules {
            Rules::Redirect => self.gateway.nft(&format!(
                "table inet brought {{
                    chain incoming {{
                        type nat hook prerouting priority dstnat
                        {lan} tcp dport {{ {ports} }} redirect to :{to}
                    }}
                }}"
            )),
            Rules::Tproxy => {
                self.gateway.nft(&format!(
                    "table inet brought {{
                        chain incoming {{
                            type filter hook prerouting priority mangle
                            {lan} meta nfproto ipv4 tcp dport {{ {ports} }} tproxy ip to :{to} meta mark set 1 accept
                            {lan} meta nfproto ipv6 tcp dport {{ {ports} }} tproxy ip6 to :{to} meta mark set 1 accept
                        }}
                    }}"
                ));
                for (family, all) in [("-4", "0.0.0.0/0"), ("-6", "::/0")] {
                    self.gateway.ip(&[family, "rule", "add", "fwmark", "1", "lookup", "100"]);
                    self.gateway.ip(&[family, "route", "add", "local", all, "dev", "lo", "table", "100"]);
                }
            }
        }
    }

    /// Has `goanyway gateway` lay its rules, for all clients and all that it takes.
    pub fn apply(&self, rules: Rules, home: &Home) {
        let (mode, at) = (if rules == Rules::Redirect { "redirect" } else { "tproxy" }, TRANSPARENT);
        let line = format!(
            "gateway apply --mode {mode} --subnet 10.7.0.0/16 --subnet fd07::/16 --interface lan0 --interface lan1 \
             --client 10.7.0.0/16 --client fd07::/16 --transparent 0.0.0.0:{at} --transparent [::]:{at} \
             --dns 0.0.0.0:53 --dns [::]:53"
        );
        self.gateway_runs(home, &line);
    }

    /// Has `goanyway gateway` take them away.
    pub fn remove(&self, home: &Home) {
        self.gateway_runs(home, "gateway remove");
    }

    fn gateway_runs(&self, home: &Home, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ended: Ended = self.gateway.visit(|| home.run(&words));
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{line}: {ended:?}");
    }

    /// A goanyway for the gateway: name server of the subnet, and taking what is redirected.
    pub fn goanyway(&self, folder: &Path) -> Wanted {
        let pem = folder.join("real.pem");
        std::fs::write(&pem, self.authority.pem()).unwrap();
        goanyway()
            .with("transparent.listen", &format!("0.0.0.0:{TRANSPARENT}"))
            .and("transparent.listen", &format!("[::]:{TRANSPARENT}"))
            .with("dns.listen", "0.0.0.0:53")
            .and("dns.listen", "[::]:53")
            .with("admit.clients", "10.7.0.0/16")
            .and("admit.clients", "fd07::/16")
            .with("intercept.trusted_by", "10.7.0.0/24")
            .and("intercept.trusted_by", "fd07::/64")
            .with("resolve.nameservers", &format!("udp://{NAMESERVER_AT}"))
            .with("goproxy.upstreams", &format!("https://{MIRROR}"))
            .with("fetch.extra_roots", &pem.display().to_string())
    }

    /// Starts it there.
    pub fn start(&self, wanted: Wanted) -> Hosted<Daemon> {
        self.gateway.host(move || async move { wanted.start() })
    }

    /// The mirror, at its address of one family.
    pub fn mirror(&self, at: &'static str) -> Hosted<Mirror> {
        let tls = self.authority.server(&[MIRROR]);
        let at = if at.contains(':') { format!("[{at}]:443") } else { format!("{at}:443") };
        self.world.host(move || async move { Mirror::tls_at(&at, Arc::clone(&tls), MODULE, &["v1.0.0"]).await })
    }

    /// A name server in the world.
    pub fn nameserver(&self, at: &'static str, says: Says) -> Hosted<Nameserver> {
        self.world.host(move || async move { Nameserver::at(at, says).await })
    }
}
