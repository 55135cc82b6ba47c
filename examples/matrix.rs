//! The failure matrix over real sockets in real time: every row of it that can be resolved, a fresh
//! resolver each, and twenty fresh names for each of five faults; prints a table in Markdown.
//!
//!     cargo run --example matrix
//!
//! Scripted servers on loopback alone. A single fault may take 700 ms and a double one 1.2 s; names that
//! are not known to be public wait 1.5 s more for a silent system server.

#![allow(clippy::unwrap_used, reason = "an example that cannot go on should say where")]

#[path = "../tests/it/support/authority.rs"]
#[allow(dead_code, reason = "the tests speak the rest of this vocabulary")]
mod authority;
#[path = "../tests/it/support/nameserver.rs"]
#[allow(dead_code, reason = "the tests speak the rest of this vocabulary")]
mod nameserver;
#[path = "../src/resolve/scenarios/says.rs"]
#[allow(dead_code, reason = "the tests speak the rest of this vocabulary")]
mod says;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use goanyway::metrics::Registry;
use goanyway::resolve::{Config, Resolver, Server};
use goanyway::target::Name;
use nameserver::{Nameserver, Says};

const GOOD: &str = "1.1.1.9";
const SINGLE: Duration = Duration::from_millis(700);
const DOUBLE: Duration = Duration::from_millis(1200);
const PATIENCE: Duration = Duration::from_millis(1500);

/// The rows: what the system's server does, what the public ones do, and how long it may take. The first
/// address of a slow server is honest too.
const ROWS: [(&str, &str, &[&str], Duration, bool); 21] = [
    ("healthy", "answers 1.1.1.9", &[], SINGLE, false),
    ("NXDOMAIN, ok", "nxdomain", &["answers 1.1.1.9"], SINGLE, false),
    ("NODATA, ok", "nodata", &["answers 1.1.1.9"], SINGLE, false),
    ("SERVFAIL, ok", "servfail", &["answers 1.1.1.9"], SINGLE, false),
    ("REFUSED, ok", "refused", &["answers 1.1.1.9"], SINGLE, false),
    ("NOTIMP, ok", "notimp", &["answers 1.1.1.9"], SINGLE, false),
    ("silent, ok", "silent", &["answers 1.1.1.9"], SINGLE, true),
    ("closed port, ok", "closed", &["answers 1.1.1.9"], SINGLE, false),
    ("silent, silent, ok", "silent", &["silent", "answers 1.1.1.9"], DOUBLE, true),
    ("slow 400 ms, ok", "slow 400 answers 1.1.1.9", &["answers 1.1.1.9"], SINGLE, false),
    ("slow 3 s, ok", "slow 3000 answers 1.1.1.9", &["answers 1.1.1.9"], SINGLE, true),
    ("malformed, ok", "garbage", &["answers 1.1.1.9"], SINGLE, true),
    ("0.0.0.0 sinkhole, ok", "answers 0.0.0.0", &["answers 1.1.1.9"], SINGLE, false),
    ("forged first, real 30 ms later", "servfail", &["forged-first 30 1.1.1.9"], DOUBLE, false),
    ("wrong id first", "wrong-id-first 1.1.1.9", &[], SINGLE, false),
    ("UDP silent, TCP ok", "tcp-only 1.1.1.9", &[], SINGLE, false),
    ("TC, then TCP", "truncated 1.1.1.9", &[], SINGLE, false),
    ("FORMERR on EDNS", "no-edns 1.1.1.9", &[], SINGLE, false),
    ("every second packet lost", "every-other answers 1.1.1.9", &[], SINGLE, false),
    ("AAAA NXDOMAIN, A ok", "aaaa-nxdomain 1.1.1.9", &[], SINGLE, false),
    ("AAAA silent, A ok", "aaaa-silent 1.1.1.9", &[], SINGLE, false),
];

/// Faults that twenty fresh names each must survive.
const FRESH: [&str; 5] = ["nxdomain", "servfail", "refused", "nodata", "answers 0.0.0.0"];

/// What became of one look-up.
struct Outcome {
    right: bool,
    words: String,
    elapsed: Duration,
}

#[tokio::main]
async fn main() {
    println!("| row | known: answer | ms | bar | other: answer | ms | bar |");
    println!("|---|---|---|---|---|---|---|");
    let mut all = Vec::new();
    for (title, system, public, bar, is_silent) in ROWS {
        let known = look_up(system, public, "goproxy.cn").await;
        let other = look_up(system, public, "other.example").await;
        let other_bar = if is_silent { bar + PATIENCE } else { bar };
        let cells = |outcome: &Outcome, bar: Duration| {
            let late = if outcome.elapsed > bar { " **late**" } else { "" };
            format!("{} | {}{late} | {}", outcome.words, outcome.elapsed.as_millis(), bar.as_millis())
        };
        println!("| {title} | {} | {} |", cells(&known, bar), cells(&other, other_bar));
        all.push((known, bar));
        all.push((other, other_bar));
    }
    sum_up("known", all.iter().step_by(2));
    sum_up("other", all.iter().skip(1).step_by(2));
    println!("\n| 20 fresh names | known: right | worst ms | other: right | worst ms |");
    println!("|---|---|---|---|---|");
    for fault in FRESH {
        let known = twenty(fault, "goproxy.cn").await;
        let other = twenty(fault, "other.example").await;
        println!("| {fault}, ok | {}/20 | {} | {}/20 | {} |", known.0, known.1, other.0, other.1);
    }
}

fn sum_up<'a>(kind: &str, outcomes: impl Iterator<Item = &'a (Outcome, Duration)> + Clone) {
    let total = outcomes.clone().count();
    let right = outcomes.clone().filter(|(outcome, _)| outcome.right).count();
    let in_time = outcomes.clone().filter(|(outcome, bar)| outcome.right && outcome.elapsed <= *bar).count();
    let worst = outcomes.map(|(outcome, _)| outcome.elapsed).max().unwrap_or_default();
    println!("\n{kind} names: {right} of {total} right, {in_time} within the bar, worst {} ms", worst.as_millis());
}

async fn twenty(fault: &str, suffix: &str) -> (usize, u128) {
    let mut right = 0;
    let mut worst = 0;
    for number in 0..20 {
        let outcome = look_up(fault, &["answers 1.1.1.9"], &format!("fresh{number}.{suffix}")).await;
        right += usize::from(outcome.right);
        worst = worst.max(outcome.elapsed.as_millis());
    }
    (right, worst)
}

/// A fresh resolver before fresh servers.
async fn look_up(system: &str, public: &[&str], host: &str) -> Outcome {
    let inside = Actor::start(system).await;
    let mut outside = Vec::new();
    for says in public {
        outside.push(Actor::start(says).await);
    }
    let nowhere = Path::new("/nonexistent");
    let config = Config {
        nameservers: vec![Server::Plain(inside.address)],
        fallback: outside.iter().map(|actor| Server::Plain(actor.address)).collect(),
        resolv_conf: nowhere.join("resolv.conf"),
        hosts_file: nowhere.join("hosts"),
        ..Config::default()
    };
    let resolver = Resolver::new(config, tokio::runtime::Handle::current(), &Registry::default()).unwrap();
    let started = Instant::now();
    let found = resolver.search(&Name::parse(host).unwrap()).next().await;
    let elapsed = started.elapsed();
    let good: IpAddr = GOOD.parse().unwrap();
    match found {
        Ok(found) => {
            let words = found.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ");
            Outcome { right: found.addresses == [good], words, elapsed }
        }
        Err(failure) => Outcome { right: false, words: failure.to_string(), elapsed },
    }
}

/// A server that runs, or an address where none does.
struct Actor {
    address: SocketAddr,
    _server: Option<Nameserver>,
}

impl Actor {
    async fn start(says: &str) -> Actor {
        if says == "closed" {
            return Actor { address: Nameserver::closed().await, _server: None };
        }
        let server = Nameserver::start(says.parse::<Says>().unwrap()).await;
        Actor { address: server.address, _server: Some(server) }
    }
}
