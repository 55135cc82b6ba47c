//! Names: what each server makes of a mirror's name and of one that cannot exist, whether go alone
//! would find the mirror, and whether the search list lost what private hosts are found under.
//!
//! Whom to ask is the resolver's to know: its privacy rules hold here as they do for a build.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::finding::{Finding, Mend, quote};
use super::surroundings::Surroundings;
use crate::resolve::{Attempt, Explanation, Family, Inquiry, NO_ERROR, Outcome, Server, Tier, UNCERTAIN};
use crate::target::{Host, Name, Scheme, Target};

/// How long private names are looked for: each takes seconds where nobody answers, and is told of only where found.
const SEARCH: Duration = Duration::from_secs(10);
const _: () = assert!(SEARCH.as_secs() < super::PATIENCE.as_secs());
/// From this on an answer is slow: go asks two questions a name, and names one after the other.
const SLOW_MS: u64 = 1000;

/// All that there is to say about names.
pub(super) async fn check(around: &Surroundings) -> Vec<Finding> {
    let Some(mirror) = around.mirror_name() else { return Vec::new() };
    let impossible = impossible_name();
    let (both, one_family) = (Inquiry::default(), Inquiry { quick: false, families: vec![Family::V4] });
    let (told, invented, search) = tokio::join!(
        around.resolver.explain(&mirror, &both),
        around.resolver.explain(&impossible, &one_family),
        tokio::time::timeout(SEARCH, check_search(around)),
    );
    let servers = servers(&told, &invented);
    let mut findings: Vec<Finding> = servers
        .iter()
        .filter(|server| server.tier == Tier::System)
        .map(|server| server.judge(&servers, &mirror, around))
        .collect();
    if !servers.iter().any(|server| server.tier == Tier::System) {
        let file = around.settings.resolve.resolv_conf.display();
        let mend = match servers.iter().find(|server| server.is_good()) {
            Some(good) => Mend::Type(format!("echo nameserver {} >> {file}", good.address())),
            None => Mend::Ask(format!("whoever runs this network: which name server belongs into {file}?")),
        };
        findings.push(Finding::fault("dns", "", format!("{file} names no server that could be asked"), mend));
    }
    findings.extend(judge_fallback(&servers, around));
    findings.push(judge_go(&told, &servers, around));
    findings.extend(search.unwrap_or_default());
    findings
}

/// A name that nobody has: whoever gives an address for it gives one for everything.
fn impossible_name() -> Name {
    let label: String = std::iter::repeat_with(fastrand::alphanumeric).take(20).collect();
    Name::parse(&format!("goanyway-{label}.com")).unwrap_or_else(|why| unreachable!("letters and digits: {why}"))
}

/// One server and all that it said.
struct Heard<'a> {
    server: &'a str,
    tier: Tier,
    mirror: Vec<&'a Attempt>,
    impossible: Vec<&'a Attempt>,
}

fn servers<'a>(told: &'a Explanation, invented: &'a Explanation) -> Vec<Heard<'a>> {
    let mut heard: Vec<Heard<'a>> = Vec::new();
    for (explanation, is_mirror) in [(told, true), (invented, false)] {
        for attempt in explanation.attempts.iter().filter(|attempt| attempt.outcome != Outcome::NotAsked) {
            let server = attempt.server.as_str();
            let at = heard.iter().position(|heard| heard.server == server).unwrap_or_else(|| {
                heard.push(Heard { server, tier: attempt.tier, mirror: Vec::new(), impossible: Vec::new() });
                heard.len() - 1
            });
            let said = if is_mirror { &mut heard[at].mirror } else { &mut heard[at].impossible };
            said.push(attempt);
        }
    }
    heard
}

impl Heard<'_> {
    /// The word about the mirror that counts: an address, else what says most.
    fn word(&self) -> Outcome {
        let telling = |outcome: &Outcome| matches!(outcome, Outcome::Bogus | Outcome::Forged | Outcome::Blocked);
        // The hosts file may have the mirror, and then nobody was asked for it.
        if self.mirror.is_empty() {
            let is_alive = self.impossible.iter().any(|attempt| attempt.outcome.is_alive());
            return if is_alive { Outcome::Answer } else { Outcome::Timeout };
        }
        let words = || self.mirror.iter().map(|attempt| attempt.outcome);
        words().find(telling).or_else(|| words().min()).unwrap_or(Outcome::Timeout)
    }

    /// The address that it gives for a name that cannot exist.
    fn invents(&self) -> Option<IpAddr> {
        let is_address = |attempt: &&&Attempt| matches!(attempt.outcome, Outcome::Answer | Outcome::Bogus);
        self.impossible.iter().find(is_address).and_then(|attempt| attempt.addresses.first().copied())
    }

    /// Whether go, led by this one, would dial what is not the mirror.
    fn misleads(&self, dials: &str) -> bool {
        let gave = |address: &IpAddr| self.mirror.iter().any(|attempt| attempt.addresses.contains(address));
        let lies = self.invents().is_some() || matches!(self.word(), Outcome::Bogus | Outcome::Forged);
        lies && dials.split(", ").filter_map(|text| text.parse().ok()).any(|address| gave(&address))
    }

    fn is_good(&self) -> bool {
        self.word() == Outcome::Answer && self.invents().is_none()
    }

    fn elapsed(&self) -> u64 {
        let answers = self.mirror.iter().filter(|attempt| attempt.outcome == Outcome::Answer);
        answers.map(|attempt| attempt.elapsed_ms).min().unwrap_or(0)
    }

    fn addresses(&self) -> String {
        let addresses: Vec<String> =
            self.mirror.iter().flat_map(|attempt| &attempt.addresses).map(IpAddr::to_string).collect();
        addresses.join(", ")
    }

    /// Where it is, as resolv.conf writes it.
    fn address(&self) -> String {
        let address = self.server.parse::<Server>().ok().and_then(|server| server.address());
        address.map_or_else(|| self.server.to_owned(), |address| address.ip().to_string())
    }

    fn judge(&self, all: &[Heard<'_>], mirror: &Name, around: &Surroundings) -> Finding {
        let others = all.iter().any(|other| other.server != self.server && other.is_good());
        let mend = || self.mend(all, around);
        if let Some(address) = self.invents() {
            let saw = format!("lies: it answers {address} for a name that does not exist, and so for any");
            return Finding::fault("dns", self.server, saw, mend());
        }
        let saw = match self.word() {
            Outcome::Answer if self.elapsed() >= SLOW_MS => {
                let saw = format!("is slow: {} ms for one answer, and go asks hundreds", self.elapsed());
                return Finding::warning("dns", self.server, saw, mend());
            }
            Outcome::Answer => {
                return Finding::ok("dns", self.server, format!("answers in {} ms", self.elapsed()));
            }
            Outcome::Bogus => format!("lies: it answers {} for {mirror}, which is no public address", self.addresses()),
            Outcome::Forged => format!("two answers came for {mirror}: somebody on the way forges them"),
            Outcome::Blocked => {
                let whoever = format!("whoever runs {}: it blocks {mirror} on purpose", self.server);
                return Finding::fault("dns", self.server, format!("blocks {mirror}"), Mend::Ask(whoever));
            }
            Outcome::Nxdomain | Outcome::Nodata if others => format!("denies {mirror}, which others find"),
            Outcome::Nxdomain | Outcome::Nodata => format!("denies {mirror}"),
            Outcome::Timeout => format!("does not answer (asked for {mirror} over UDP and TCP)"),
            Outcome::Unreachable => "cannot be reached: nothing listens there, or there is no way".to_owned(),
            other => format!("is of no use: it says {other} for {mirror}"),
        };
        Finding::fault("dns", self.server, saw, mend())
    }

    /// Out of resolv.conf with it, if another server there is good; else the best of the public ones takes its place.
    fn mend(&self, all: &[Heard<'_>], around: &Surroundings) -> Mend {
        let config = &around.settings.resolve;
        if !config.nameservers.contains(&Server::System) {
            return Mend::Ask(format!("you: another server than --nameserver {}", self.server));
        }
        let file = &config.resolv_conf;
        let text = std::fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let Some(line) = line_of(&text, &self.address()).filter(|_| !is_generated(&text)) else {
            let who = format!(
                "whoever gives this machine its name servers (router, VPN, systemd-resolved): {} is of no use; \
                 until then builds go through with: goanyway run -- go build ./...",
                self.server
            );
            return Mend::Ask(who);
        };
        let is_other = |other: &&Heard<'_>| other.server != self.server && other.is_good();
        let inside = all.iter().find(|other| is_other(other) && other.tier == Tier::System);
        let outside = all.iter().find(|other| is_other(other) && other.tier == Tier::Plain);
        match (inside, outside) {
            (Some(_), _) => Mend::Type(edit(file, &format!("/^{}$/d", escape(line)))),
            (None, Some(other)) => {
                Mend::Type(edit(file, &format!("s/^{}$/nameserver {}/", escape(line), other.address())))
            }
            (None, None) => Mend::Ask(format!(
                "whoever runs {} or this network: no other server that may be asked answers either",
                self.server
            )),
        }
    }
}

/// Written over and not replaced: in a container the file is a mount of its own.
fn edit(file: &Path, script: &str) -> String {
    let file = quote(&file.display().to_string());
    format!("echo \"$(sed {} {file})\" > {file}", quote(script))
}

fn escape(line: &str) -> String {
    line.chars().flat_map(|char| if ".*[]^$\\/".contains(char) { vec!['\\', char] } else { vec![char] }).collect()
}

fn line_of<'a>(text: &'a str, address: &str) -> Option<&'a str> {
    text.lines().find(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("nameserver") && words.next() == Some(address)
    })
}

/// Whether a program writes the file again and again: most say so in a comment.
fn is_generated(text: &str) -> bool {
    let comments = text.lines().filter(|line| line.starts_with(['#', ';'])).map(str::to_lowercase);
    comments.into_iter().any(|line| line.contains("generated by") || line.contains("do not edit"))
}

fn judge_fallback(servers: &[Heard<'_>], around: &Surroundings) -> Option<Finding> {
    let config = &around.settings.resolve;
    if config.fallback.is_empty() {
        return Some(Finding::ok("dns-fallback", "", "nobody but the system's servers may be asked (--fallback none)"));
    }
    let outside: Vec<&Heard<'_>> = servers.iter().filter(|server| server.tier != Tier::System).collect();
    if outside.is_empty() {
        return Some(Finding::ok("dns-fallback", "", "none was asked: resolve.scope keeps these names inside"));
    }
    let (all, good) = (outside.len(), outside.iter().filter(|server| server.is_good()).count());
    let forged = outside.iter().filter(|server| matches!(server.word(), Outcome::Forged | Outcome::Bogus)).count();
    let encrypted = outside.iter().any(|server| server.tier == Tier::Encrypted && server.is_good());
    Some(match (good, forged) {
        (0, _) => Finding::warning(
            "dns-fallback",
            "",
            format!("none of {all} public servers answers: a dead name server of the site's cannot be made up for"),
            Mend::Ask(
                "whoever runs the firewall: let 53, 853 or 443 through to them, or name others: --fallback".into(),
            ),
        ),
        (_, 1..) if !encrypted => Finding::warning(
            "dns-fallback",
            "",
            format!("{good} of {all} public servers answer, and {forged} answers were forged on the way"),
            Mend::Ask("whoever runs the firewall: let 853 or 443 through to the encrypted ones".into()),
        ),
        _ => Finding::ok("dns-fallback", "", format!("{good} of {all} public servers answer")),
    })
}

/// What go would do without us.
fn judge_go(told: &Explanation, servers: &[Heard<'_>], around: &Surroundings) -> Finding {
    let name = told.name.to_string();
    let said = &told.would_go;
    if around.is_through_us() {
        return Finding::ok("go-lookup", name, format!("go asks goanyway; alone it would say: {said}"));
    }
    let target = Target::new(Host::Name(told.name.clone()), 443);
    if let Some(parent) = around.parents.choose(Scheme::Https, &target) {
        return Finding::ok("go-lookup", name, format!("go leaves it to {parent}; alone it would say: {said}"));
    }
    let run = || Mend::Type("goanyway run -- go build ./...".to_owned());
    match said.strip_prefix(NO_ERROR) {
        Some(dials) if dials.contains(" after ") => {
            Finding::warning("go-lookup", name, format!("go alone is slow to find it: {dials}"), run())
        }
        Some(dials) if servers.iter().any(|server| server.tier == Tier::System && server.misleads(dials)) => {
            Finding::fault("go-lookup", name, format!("go alone is misled: it would dial {dials}"), run())
        }
        Some(dials) => Finding::ok("go-lookup", name, format!("go alone finds it: {dials}")),
        None if said == UNCERTAIN && told.verdict == "resolved" => {
            let saw = "chance decides whether go alone finds it: its servers do not say the same";
            Finding::warning("go-lookup", name, saw, run())
        }
        None if told.verdict == "resolved" => {
            Finding::fault("go-lookup", name, format!("go alone would fail: {said}; goanyway finds it"), run())
        }
        None => {
            let ask = Mend::Ask(format!("as above; what goanyway makes of it: {}", told.advice));
            Finding::fault("go-lookup", name, format!("nobody finds it, and go would say: {said}"), ask)
        }
    }
}

/// A VPN that ended takes its search suffix along, and hosts that are called by their first name with it.
async fn check_search(around: &Surroundings) -> Vec<Finding> {
    let (gone, standing) = around.resolver.search_list();
    let mut findings = Vec::new();
    for host in around.settings.resolve.private_hosts.iter().filter(|host| !gone.is_empty() && is_short(host)) {
        if around.resolver.search(host).next().await.is_ok() {
            continue;
        }
        let names: Vec<String> = gone.iter().map(Name::to_string).collect();
        let saw = format!("it is in GOPRIVATE and not found, and the search list has lost {}", names.join(", "));
        let mend = match find_under(around, host, &gone).await {
            Some(suffix) => {
                let list: Vec<String> = std::iter::once(suffix).chain(&standing).map(Name::to_string).collect();
                let file = around.settings.resolve.resolv_conf.display();
                Mend::Type(format!("echo search {} >> {file}", list.join(" ")))
            }
            None => Mend::Ask("you: connect the VPN, or go back to the network, that gave the suffix".to_owned()),
        };
        findings.push(Finding::fault("dns-search", host.to_string(), saw, mend));
    }
    if findings.is_empty() && !standing.is_empty() {
        let names: Vec<String> = standing.iter().map(Name::to_string).collect();
        findings.push(Finding::ok("dns-search", "", format!("short names are looked for under {}", names.join(", "))));
    }
    findings
}

/// Fewer dots than anybody's own domain needs: what a search list is for.
fn is_short(host: &Name) -> bool {
    host.as_str().matches('.').count() <= 1
}

async fn find_under<'a>(around: &Surroundings, host: &Name, suffixes: &'a [Name]) -> Option<&'a Name> {
    for suffix in suffixes {
        let Ok(longer) = Name::parse(&format!("{host}.{suffix}")) else { continue };
        if around.resolver.look_up(&longer).await.is_ok() {
            return Some(suffix);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_resolv_conf_is_edited_where_the_file_is_a_mount() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        let text = "search corp.example\nnameserver 10.0.0.1\nnameserver\t10.0.0.11\n";
        std::fs::write(&file, text).unwrap();
        let held = std::fs::File::open(&file).unwrap();
        for (address, script, expected) in [
            ("10.0.0.1", "d", "search corp.example\nnameserver\t10.0.0.11\n"),
            ("10.0.0.11", "s", "search corp.example\nnameserver 192.0.2.1\n"),
        ] {
            let text = std::fs::read_to_string(&file).unwrap();
            let line = escape(line_of(&text, address).unwrap());
            let script =
                if script == "d" { format!("/^{line}$/d") } else { format!("s/^{line}$/nameserver 192.0.2.1/") };
            let status = std::process::Command::new("sh").args(["-c", &edit(&file, &script)]).status().unwrap();
            assert!(status.success());
            assert_eq!(std::io::read_to_string(file_again(&held)).unwrap(), expected, "the same file, written over");
        }
    }

    fn file_again(held: &std::fs::File) -> std::fs::File {
        use std::io::Seek;
        let mut again = held.try_clone().unwrap();
        again.rewind().unwrap();
        again
    }

    #[test]
    fn what_a_program_writes_is_not_edited() {
        assert!(is_generated("# Generated by NetworkManager\nnameserver 10.0.0.1\n"));
        assert!(is_generated("; This file is managed. Do not edit.\n"));
        assert!(!is_generated("# mine\nnameserver 10.0.0.1\n"));
    }
}
