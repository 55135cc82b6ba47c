//! The oracle: `would_go` against the real go, in one namespace, on one resolv.conf, before the same
//! scripted servers. Row by row the words must be the same; where go's hold the address of its own
//! socket, field by field; where chance decides, ours must be `uncertain`.
//!
//! What a machine lacks is skipped by name; `GOANYWAY_TEST_REQUIRE=all` makes that a failure.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "it/support/mod.rs"]
#[allow(dead_code, reason = "three test binaries share one vocabulary, and each speaks a part of it")]
mod support;

use std::net::SocketAddr;
use std::path::Path;

use support::binary::Ended;
use support::gopher;
use support::nameserver::{Nameserver, Says};
use support::needs::have;
use support::netns::Netns;

/// A resolv.conf for rows in which go would wait for long.
const QUICK: &str = "options timeout:1 attempts:1";

/// How the line begins if go finds addresses.
const DIALS: &str = "no error, dials ";

/// One row: a resolv.conf, what the servers at 127.0.0.1, 127.0.0.2 … say (nothing for "closed"), a name.
struct Row {
    title: &'static str,
    resolv_conf: Option<String>,
    hosts: Option<&'static str>,
    servers: Vec<&'static str>,
    name: &'static str,
    /// go waits longer than is good for a test: what it says comes out of the source.
    certain: bool,
}

fn row(title: &'static str, servers: &[&'static str]) -> Row {
    let lines = (1..=servers.len()).map(|number| format!("nameserver 127.0.0.{number}\n"));
    Row {
        title,
        resolv_conf: Some(lines.collect()),
        hosts: None,
        servers: servers.to_vec(),
        name: "goproxy.cn",
        certain: true,
    }
}

impl Row {
    /// Further lines of resolv.conf.
    fn with(mut self, line: &str) -> Row {
        let text = self.resolv_conf.get_or_insert_default();
        text.push_str(line);
        text.push('\n');
        self
    }

    fn of(self, name: &'static str) -> Row {
        Row { name, ..self }
    }

    /// Chance decides what go prints.
    fn by_chance(self) -> Row {
        Row { certain: false, ..self }
    }

    fn conf(self, text: Option<&str>) -> Row {
        Row { resolv_conf: text.map(str::to_owned), ..self }
    }

    fn hosts(self, text: &'static str) -> Row {
        Row { hosts: Some(text), ..self }
    }
}

fn rows() -> Vec<Row> {
    let ok = "answers 1.1.1.9";
    vec![
        row("healthy", &[ok]),
        row("two families", &["answers 1.1.1.9 2606:4700::9"]),
        row("NXDOMAIN, ok", &["nxdomain", ok]),
        row("NODATA, ok", &["nodata", ok]),
        row("SERVFAIL, ok", &["servfail", ok]),
        row("REFUSED, ok", &["refused", ok]),
        row("NOTIMP, ok", &["notimp", ok]),
        row("FORMERR, ok", &["formerr", ok]),
        row("SERVFAIL", &["servfail"]),
        row("REFUSED", &["refused"]),
        row("NOTIMP", &["notimp"]),
        row("FORMERR on EDNS", &["no-edns 1.1.1.9"]),
        row("silent, ok", &["silent", ok]).with(QUICK),
        row("silent", &["silent"]).with(QUICK),
        row("silent, silent, ok", &["silent", "silent", ok]).with(QUICK),
        row("silent, silent", &["silent", "silent"]).with("options timeout:1 attempts:2"),
        row("silent, NXDOMAIN", &["silent", "nxdomain"]).with(QUICK),
        row("NXDOMAIN, silent", &["nxdomain", "silent"]),
        row("silent for five seconds, ok", &["silent", ok]),
        row("closed, ok", &["closed", ok]),
        row("closed", &["closed"]),
        row("slow 400 ms, ok", &["slow 400 answers 1.1.1.8", ok]),
        row("slower than the timeout, ok", &["slow 1300 answers 1.1.1.8", ok]).with(QUICK),
        row("garbage, ok", &["garbage", ok]).with(QUICK),
        row("garbage", &["garbage"]).with(QUICK),
        row("broken, ok", &["broken", ok]),
        row("broken", &["broken"]),
        row("0.0.0.0, ok", &["answers 0.0.0.0", ok]),
        row("a private address", &["answers 10.0.0.7"]),
        row("forged first", &["forged-first 30 1.1.1.9"]),
        row("wrong id first", &["wrong-id-first 1.1.1.9"]),
        row("UDP silent, TCP ok", &["tcp-only 1.1.1.9"]).with(QUICK),
        row("truncated", &["truncated 1.1.1.9"]),
        row("use-vc", &["tcp-only 1.1.1.9"]).with("options use-vc"),
        row("use-vc, closed", &["closed"]).with("options use-vc"),
        row("use-vc, silent", &["silent"]).with("options use-vc timeout:1 attempts:1"),
        // A or AAAA, whichever came first: it is answered only when we send it again, which go does not.
        row("the first packet lost", &["lost 1 answers 1.1.1.9"]).with(QUICK).by_chance(),
        row("AAAA NXDOMAIN", &["aaaa-nxdomain 1.1.1.9"]),
        row("AAAA SERVFAIL", &["aaaa-servfail 1.1.1.9"]),
        row("AAAA silent", &["aaaa-silent 1.1.1.9"]).with(QUICK),
        row("lame, ok", &["lame", ok]),
        row("lame", &["lame"]),
        row("an endless referral", &["referral", "referral"]),
        row("an alias to nowhere", &["alias-nowhere", ok]),
        row("an alias loop", &["alias-loop"]),
        row("a chain of three", &["alias-chain 3 1.1.1.9"]),
        row("blocked, and said so", &["nxdomain because 17 policy", ok]),
        row("SERVFAIL, REFUSED, lame", &["servfail", "refused", "lame"]),
        row("a name denied in one family, failing in the other", &["under cn aaaa-servfail 1.1.1.9 else silent"]),
        row("rotate, the same", &[ok, ok]).with("options rotate"),
        row("rotate, NXDOMAIN and ok", &["nxdomain", ok]).with("options rotate").by_chance(),
        row("single-request", &["aaaa-nxdomain 1.1.1.9"]).with("options single-request"),
        row("single-request, silent", &["silent"]).with("options single-request timeout:1 attempts:1"),
        row("no-aaaa", &["aaaa-nxdomain 1.1.1.9"]).with("options no-aaaa"),
        row("attempts:3", &["servfail"]).with("options attempts:3"),
        row("a search list after the name", &["under corp.example answers 10.6.6.6 else nxdomain"])
            .with("search corp.example"),
        row("ndots:5, a wildcard", &["under corp.example answers 10.6.6.6 else answers 1.1.1.9"])
            .with("search corp.example\noptions ndots:5"),
        row("ndots:5, a failing suffix", &["under corp.example servfail else answers 1.1.1.9"])
            .with("search svc.cluster.local cluster.local corp.example\noptions ndots:5"),
        row("ndots:5, all denied", &["nxdomain"]).with("search svc.cluster.local cluster.local\noptions ndots:5"),
        row("ndots:5, denied and failing", &["under corp.example servfail else nxdomain"])
            .with("search corp.example\noptions ndots:5"),
        row("a single label", &["under tools.example answers 10.0.0.9 else nxdomain"])
            .with("search tools.example")
            .of("athens"),
        row("a single label that nobody knows", &["nxdomain"]).with("search tools.example").of("athens"),
        row("a single label, no search list", &["nxdomain"]).of("athens"),
        row("another name", &["servfail"]).of("example.org"),
        row("a private name", &["nxdomain"]).of("git.corp.internal"),
        row("resolv.conf empty", &[]).conf(Some("# nothing\n")),
        row("resolv.conf empty, a server here", &["nxdomain"]).conf(Some("\n")),
        row("resolv.conf with nonsense", &["nxdomain"]).conf(Some("nameserver 1.2.3\nqwerty\nnameserver 127.0.0.1\n")),
        row("no way there", &[]).conf(Some("nameserver 10.1.2.3\n")),
        row("the hosts file", &["nxdomain"]).hosts("10.0.0.5 goproxy.cn other\n"),
        row("more than three servers", &["servfail", "servfail", "servfail", ok]),
    ]
}

#[test]
fn would_go_is_what_go_prints() {
    if !have("would_go_is_what_go_prints", &["root", "ip", "go"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = gopher::build(folder.path());
    let only = std::env::var("ROW").unwrap_or_default();
    let rows: Vec<Row> = rows().into_iter().filter(|row| row.title.contains(&only)).collect();
    // As many at once as do not starve each other.
    let complaints: Vec<String> = rows
        .chunks(8)
        .flat_map(|rows| {
            std::thread::scope(|scope| {
                let judged: Vec<_> = rows.iter().map(|row| scope.spawn(|| judge(row, &program))).collect();
                judged.into_iter().filter_map(|row| row.join().unwrap()).collect::<Vec<_>>()
            })
        })
        .collect();
    assert!(complaints.is_empty(), "{} of {} rows:\n{}", complaints.len(), rows.len(), complaints.join("\n"));
}

/// What is wrong with the row, if anything is.
fn judge(row: &Row, program: &Path) -> Option<String> {
    let netns = Netns::with_resolv_conf(row.resolv_conf.as_deref().unwrap_or_default());
    if let Some(hosts) = row.hosts {
        netns.write("hosts", hosts);
    }
    let servers = row.servers.clone();
    let _world = netns.serve(move || async move {
        let mut serving = Vec::new();
        for (number, says) in servers.iter().enumerate().filter(|(_, says)| **says != "closed") {
            let says: Says = says.parse().unwrap();
            serving.push(Nameserver::at(&format!("127.0.0.{}:53", number + 1), says).await);
        }
        serving
    });
    let home = tempfile::tempdir().unwrap();
    let go = || Ended::of(netns.command(program.to_str().unwrap()).arg(row.name).output().unwrap());
    let ours = || explain(&netns, home.path(), row.name);
    let (ours, go) = match row.certain {
        true => std::thread::scope(|scope| {
            let go = scope.spawn(go);
            (ours(), go.join().unwrap())
        }),
        // One after the other, so that chance is the servers' alone.
        false => (ours(), go()),
    };
    let go = go.out.trim();
    let explained: serde_json::Value =
        serde_json::from_str(&ours.out).unwrap_or_else(|_| panic!("{}: {ours:?}", row.title));
    let would_go = explained["would_go"].as_str().unwrap();
    let right = if row.certain { is_same(would_go, go) } else { would_go == "uncertain" };
    println!("{}\n  go:   {go}\n  ours: {would_go}", row.title);
    (!right).then(|| format!("{}\n  go:   {go}\n  ours: {would_go}", row.title))
}

fn explain(netns: &Netns, home: &Path, name: &str) -> Ended {
    let mut command = netns.command(env!("CARGO_BIN_EXE_goanyway"));
    command.args(["resolve", "--json", name]).env("GOANYWAY_FALLBACK", "none").env("HOME", home);
    command.env("GOANYWAY_ALLOW_TARGET", "203.0.113.0/24");
    for variable in ["XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
        command.env(variable, home);
    }
    Ended::of(command.output().unwrap())
}

/// The same words, but for the port of go's own socket and the order of the addresses.
fn is_same(ours: &str, gos: &str) -> bool {
    fields(ours) == fields(gos)
}

/// CI met "dials 2606:4700::9, 1.1.1.9" where ours had them the other way round. go sorts by RFC 6724;
/// of two addresses that it cannot reach, as none can be in here, the one stays in front whose reply
/// was the first to come.
fn fields(line: &str) -> Vec<String> {
    let (words, addresses) = match line.strip_prefix(DIALS) {
        Some(addresses) => (DIALS, addresses),
        None => (line, ""),
    };
    let mut dialled: Vec<&str> =
        addresses.split_inclusive(", ").map(|address| address.trim_end_matches(", ")).collect();
    if let Some(last) = dialled.last_mut() {
        let (address, after) = last.split_once(' ').unwrap_or((last, ""));
        *last = address;
        dialled.sort_unstable();
        dialled.push(after);
    }
    words.split(' ').map(field).chain(dialled.into_iter().map(str::to_owned)).collect()
}

#[test]
fn addresses_are_the_same_in_any_order() {
    assert!(is_same("no error, dials 1.1.1.9, 2606:4700::9", "no error, dials 2606:4700::9, 1.1.1.9"));
    assert!(is_same("no error, dials 1.1.1.9, 1.1.1.8 after 1 s", "no error, dials 1.1.1.8, 1.1.1.9 after 1 s"));
    assert!(!is_same("no error, dials 1.1.1.9 after 1 s", "no error, dials 1.1.1.9"));
    assert!(!is_same("no error, dials 1.1.1.9, 1.1.1.8", "no error, dials 1.1.1.9"));
}

/// `127.0.0.1:40527->127.0.0.2:53:` without its first port.
fn field(text: &str) -> String {
    let Some((own, server)) = text.split_once("->") else { return text.to_owned() };
    let own: SocketAddr = own.parse().unwrap_or_else(|_| panic!("{own:?} is no socket of go's"));
    assert_ne!(own.port(), 0, "a socket has a port: {text}");
    format!("{}->{server}", own.ip())
}
