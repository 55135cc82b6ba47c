//! One concrete thing to do about a name: which line of which file to change, or which flag to give.

use std::net::IpAddr;

use super::explain::{Attempt, Explanation, list};
use super::go::NO_ERROR;
use super::kind::{Kind, Scope};
use super::pace::TOO_MUCH;
use super::reply::Outcome;
use super::server::{Server, Transport};
use super::shared::Shared;
use super::{Freshness, Tier};
use crate::metrics::Label;

/// One concrete thing to do.
pub(super) fn advise(shared: &Shared, explanation: &Explanation) -> String {
    let file = shared.system.resolv_conf().display();
    let resolved = explanation.verdict == "resolved";
    if explanation.freshness == Some(Freshness::Static) {
        return "nothing to do; no server was asked".to_owned();
    }
    if explanation.verdict == "blocked" {
        return "somebody blocks this name on purpose: ask whoever runs that server".to_owned();
    }
    if let Some(advice) = advise_sender(explanation) {
        return advice;
    }
    if shared.inside(Some(&explanation.name)).is_empty() {
        return format!("add a line \"nameserver ADDRESS\" to {file}: it names none");
    }
    if explanation.attempts.iter().any(|attempt| attempt.tier == Tier::System && attempt.outcome == Outcome::Tls) {
        return "a certificate was refused: is the clock right, and does somebody intercept TLS here?".to_owned();
    }
    if let Some(family) = other_family(explanation) {
        return format!("nothing to do: the name has addresses of the other family ({family})");
    }
    let Some(bad) = worst_inside(explanation) else { return advise_healthy(shared, explanation) };
    let place = place(shared, &bad.server);
    let impossible = explanation.attempts.iter().find(|attempt| attempt.outcome == Outcome::Bogus);
    if let (Some(attempt), false) = (impossible, resolved && explanation.confirmed) {
        return advise_impossible(attempt, &place);
    }
    if answers_over_tcp(explanation, &bad.server) {
        let remedy = match shared.config.nameservers.contains(&Server::System) {
            true => format!("add \"options use-vc\" to {file}"),
            false => format!("say --nameserver tcp://{}", bad.server),
        };
        return format!("UDP to {} is blocked and TCP is not: {remedy}", bad.server);
    }
    let (outcome, word) = (bad.outcome, word(bad.outcome));
    match (explanation.verdict, outcome, explanation.kind) {
        ("resolved", ..) => format!("replace {place} (it says {word}), or let builds go through goanyway"),
        (_, outcome, Kind::Private) if outcome.is_negative() => format!(
            "the name is private, so nobody but {} may know it: add it there, or say --host {}=ADDRESS",
            bad.server, explanation.name
        ),
        (_, _, kind) if may_widen(shared, kind) => match shared.config.fallback.is_empty() {
            true => format!("replace {place} (it says {word}), or let public servers be asked: --fallback 8.8.8.8"),
            false => {
                format!("replace {place} (it says {word}), or let public servers be asked: resolve.scope = \"public\"")
            }
        },
        (_, Outcome::Timeout | Outcome::Unreachable, _) => {
            format!("no server can be reached; is the network up, and {place} still right?")
        }
        ("absent", ..) if explanation.confirmed => "check the spelling: the name does not exist".to_owned(),
        ("absent", ..) => format!("nobody else could be asked; if the name should exist, replace {place}"),
        _ => format!("replace {place} (it says {word})"),
    }
}

/// What a server says, as a sentence goes on after "it says".
fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Timeout => "nothing",
        outcome => outcome.label(),
    }
}

/// What kept us from asking, if anything of our own did.
fn advise_sender(explanation: &Explanation) -> Option<String> {
    let mut unsent = explanation.attempts.iter().filter(|attempt| attempt.outcome == Outcome::Local).peekable();
    unsent.peek()?;
    if unsent.any(|attempt| attempt.ede.as_deref() != Some(TOO_MUCH)) {
        return Some("this machine ran out of something: raise the limit of open files (ulimit -n)".to_owned());
    }
    (explanation.verdict == "unknown").then(|| "too much was asked at once: ask again for fewer names".to_owned())
}

/// What go dials instead, where only one family was asked for and the name has none of it.
fn other_family(explanation: &Explanation) -> Option<&str> {
    let mut families = explanation.attempts.iter().map(|attempt| attempt.family);
    let first = families.next()?;
    let is_one = families.all(|family| family == first);
    let dialled = explanation.would_go.strip_prefix(NO_ERROR)?;
    (is_one && explanation.verdict == "absent").then_some(dialled)
}

/// An address that a public name cannot have: a site's own, or none at all, as blockers give.
fn advise_impossible(attempt: &Attempt, place: &str) -> String {
    let (server, address) = (&attempt.server, list(&attempt.addresses));
    let is_blocker = attempt.addresses.iter().all(|address| address.is_unspecified() || address.is_loopback());
    match is_blocker {
        true => format!("{server} answers {address}, as blockers do: ask whoever runs it, or replace {place}"),
        false => format!("if {address} from {server} is meant (a mirror inside, a fake-IP proxy), --allow-target it"),
    }
}

/// The system's servers are well; go may still be led astray by the search list.
fn advise_healthy(shared: &Shared, explanation: &Explanation) -> String {
    let file = shared.system.resolv_conf().display();
    let Some(dialled) = explanation.would_go.strip_prefix(NO_ERROR) else { return "nothing to do".to_owned() };
    let dialled = dialled.split(" after ").next().unwrap_or_default();
    let everybodys: Vec<IpAddr> = explanation.attempts.iter().flat_map(|attempt| attempt.addresses.clone()).collect();
    let is_strange = dialled.split(", ").any(|text| text.parse().is_ok_and(|address| !everybodys.contains(&address)));
    if is_strange && explanation.kind != Kind::Private {
        return format!(
            "go asks under the search list first and dials {dialled}: take the wildcard's suffix out of \"search\" in \
             {file}, or say \"options ndots:1\""
        );
    }
    "nothing to do".to_owned()
}

/// The first of the system's servers that gave no address at all, by its best word.
fn worst_inside(explanation: &Explanation) -> Option<&Attempt> {
    let inside =
        || explanation.attempts.iter().filter(|row| row.tier == Tier::System && row.outcome != Outcome::NotAsked);
    // An impossible address in one family says more than none in the other.
    let rank = |row: &&Attempt| (!matches!(row.outcome, Outcome::Answer | Outcome::Bogus), row.outcome);
    let best = |server: &str| inside().filter(|row| row.server == server).min_by_key(rank);
    let is_good = |row: &&Attempt| row.outcome == Outcome::Answer && over_first_transport(explanation, row);
    inside().filter_map(|row| best(&row.server)).find(|row| !is_good(row))
}

/// Whether the answer came over the transport that the server was asked over first.
fn over_first_transport(explanation: &Explanation, answer: &Attempt) -> bool {
    let mut theirs =
        explanation.attempts.iter().filter(|row| row.server == answer.server && row.family == answer.family);
    theirs.next().is_some_and(|first| first.transport == answer.transport || first.outcome != Outcome::Timeout)
}

fn answers_over_tcp(explanation: &Explanation, server: &str) -> bool {
    let theirs = explanation.attempts.iter().filter(|row| row.server == server);
    theirs.into_iter().any(|row| row.transport == Transport::Tcp && row.outcome == Outcome::Answer)
}

/// Whether more servers would be asked if the operator let them.
fn may_widen(shared: &Shared, kind: Kind) -> bool {
    let narrow = shared.config.fallback.is_empty() || !shared.config.scope.may_ask_outside(kind);
    kind != Kind::Private && narrow && (shared.config.scope != Scope::Off || shared.config.fallback.is_empty())
}

/// Where a server is named: a line of resolv.conf, or a flag.
fn place(shared: &Shared, server: &str) -> String {
    if !shared.config.nameservers.contains(&Server::System) {
        return format!("--nameserver {server}");
    }
    let path = shared.system.resolv_conf();
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let address = server.parse::<Server>().ok().and_then(|server| server.address());
    let names_it = |line: &str| {
        let mut words = line.split_whitespace();
        words.next() == Some("nameserver")
            && words.next().and_then(|word| word.parse().ok()) == address.map(|at| at.ip())
    };
    let number = text.lines().position(names_it);
    let generated = if is_generated(&text) { " (generated: change it at its source)" } else { "" };
    match number {
        Some(number) => format!("line {} of {}{generated}, \"nameserver {server}\"", number + 1, path.display()),
        None => format!("\"nameserver {server}\" in {}", path.display()),
    }
}

/// Whether a program writes the file again and again: most say so in a comment.
fn is_generated(text: &str) -> bool {
    let comments = text.lines().filter(|line| line.starts_with(['#', ';']));
    comments.map(str::to_lowercase).any(|line| line.contains("generated by") || line.contains("do not edit"))
}
