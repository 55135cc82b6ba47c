//! One look-up laid open: what every server said, what was believed and why, what go alone would
//! have printed, and what to do about it. The material of `goanyway resolve`.
//!
//! The same ladder as a request's, but nothing is taken from memory except what a handshake
//! vouched for, and unless the inquiry is quick everybody is heard before the table is closed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::go::{self, Said, Word};
use super::kind::Kind;
use super::ladder::{self, Ladder, Verdict};
use super::plan::Start;
use super::reply::{Family, Outcome, Reply};
use super::server::{Server, Transport};
use super::shared::Shared;
use super::{Failure, Found, Freshness, Tier};
use crate::metrics::Label;
use crate::target::Name;

/// How to ask.
#[derive(Clone, Debug)]
pub struct Inquiry {
    /// Stop as the proxy would.
    pub quick: bool,
    pub families: Vec<Family>,
}

impl Default for Inquiry {
    fn default() -> Inquiry {
        Inquiry { quick: false, families: Family::BOTH.to_vec() }
    }
}

/// What there is to say about one name. Serialised, it is the line that `--json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    pub name: Name,
    #[serde(serialize_with = "as_label")]
    pub kind: Kind,
    /// `resolved`, `absent`, `unknown` or `blocked`.
    pub verdict: &'static str,
    pub confirmed: bool,
    pub addresses: Vec<IpAddr>,
    #[serde(serialize_with = "as_optional_label")]
    pub freshness: Option<Freshness>,
    pub ttl_s: Option<u64>,
    pub source: Option<Source>,
    pub reason: String,
    pub elapsed_ms: u64,
    pub attempts: Vec<Attempt>,
    pub would_go: String,
    pub advice: String,
}

/// Whose answer was believed.
#[derive(Clone, Debug, Serialize)]
pub struct Source {
    pub server: String,
    #[serde(serialize_with = "as_label")]
    pub tier: Tier,
    #[serde(serialize_with = "as_label")]
    pub transport: Transport,
}

/// One question to one server and what it came to.
#[derive(Clone, Debug, Serialize)]
pub struct Attempt {
    pub server: String,
    #[serde(serialize_with = "as_label")]
    pub tier: Tier,
    #[serde(serialize_with = "as_label")]
    pub transport: Transport,
    #[serde(serialize_with = "as_label")]
    pub family: Family,
    #[serde(serialize_with = "as_label")]
    pub outcome: Outcome,
    pub addresses: Vec<IpAddr>,
    pub ttl_s: Option<u64>,
    /// The server's reason, or else what the transport said.
    pub ede: Option<String>,
    pub elapsed_ms: u64,
}

fn as_label<L: Label, S: Serializer>(label: &L, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(label.label())
}

fn as_optional_label<L: Label, S: Serializer>(label: &Option<L>, serializer: S) -> Result<S::Ok, S::Error> {
    label.as_ref().map(L::label).serialize(serializer)
}

/// Looks a name up and explains it; a short name that does not exist, also under the search list.
pub(super) async fn explain(shared: &Arc<Shared>, name: &Name, inquiry: &Inquiry) -> Explanation {
    if shared.is_likely_short(name)
        && let Some(found) = explain_longer(shared, name, inquiry).await
    {
        return found;
    }
    let as_is = explain_exactly(shared, name, inquiry).await;
    let is_open = as_is.verdict == "absent" || as_is.verdict == "unknown" && shared.may_be_service(name);
    if !is_open {
        return as_is;
    }
    if let Some(found) = explain_longer(shared, name, inquiry).await {
        return found;
    }
    // A short name that all the site's servers denied may be asked outside now.
    if as_is.kind == shared.kind(name) { as_is } else { explain_exactly(shared, name, inquiry).await }
}

async fn explain_longer(shared: &Arc<Shared>, name: &Name, inquiry: &Inquiry) -> Option<Explanation> {
    for longer in shared.longer_names(name) {
        let found = explain_exactly(shared, &longer, inquiry).await;
        if found.verdict == "resolved" {
            let reason = format!("as {longer}: {}", found.reason);
            return Some(Explanation { name: name.clone(), reason, ..found });
        }
    }
    None
}

async fn explain_exactly(shared: &Arc<Shared>, name: &Name, inquiry: &Inquiry) -> Explanation {
    let started = Instant::now();
    let kind = shared.kind(name);
    if let Some(found) = shared.written_down(name) {
        return explain_static(shared, name, kind, found);
    }
    let (sender, told) = oneshot::channel();
    shared.runtime.spawn(inquire(Arc::clone(shared), name.clone(), kind, inquiry.clone(), sender));
    match told.await {
        Ok(explanation) => explanation,
        // The runtime is going away.
        Err(_) => {
            let failure = Failure::Unknown { name: name.clone(), tally: Default::default() };
            Explanation { elapsed_ms: millis(started.elapsed()), ..unresolved(name, kind, &failure) }
        }
    }
}

async fn inquire(shared: Arc<Shared>, name: Name, kind: Kind, inquiry: Inquiry, told: oneshot::Sender<Explanation>) {
    let started = Instant::now();
    let mut plan = shared.plan(&name, kind, Start::Bottom, started);
    plan.families = inquiry.families;
    plan.exhaustive = !inquiry.quick;
    let mut told = Some(told);
    let mut decided = None;
    let ladder = shared
        .drive(&name, plan, |verdict, ladder| {
            if ladder.verdict().is_none() {
                return;
            }
            if let (Kind::Private, Verdict::Absent { ttl, .. }) = (kind, verdict) {
                // Known from now on, as after a request: a short name depends on it.
                shared.memory.note_denial(&name, Shared::failure(&name, verdict, ladder), *ttl, true, Instant::now());
            }
            let elapsed = started.elapsed();
            decided = Some((verdict.clone(), elapsed));
            if inquiry.quick
                && let Some(told) = told.take()
            {
                // Whoever asked may have left.
                let _ = told.send(compose(&shared, &name, ladder, verdict, elapsed));
            }
        })
        .await;
    if let (Some(told), Some((verdict, elapsed))) = (told, decided) {
        let _ = told.send(compose(&shared, &name, &ladder, &verdict, elapsed));
    }
}

fn compose(shared: &Arc<Shared>, name: &Name, ladder: &Ladder, verdict: &Verdict, elapsed: Duration) -> Explanation {
    let kind = ladder.plan().kind;
    let mut explanation = match verdict {
        Verdict::Found(answer) => {
            let found = shared.found(name, ladder.plan(), answer);
            let reason = reason_found(&found, answer, ladder);
            resolved(name, if answer.inward { Kind::Private } else { kind }, &found, reason)
        }
        Verdict::Spare => match shared.spare(name) {
            Some(found) => resolved(name, kind, &found, reason_spare(ladder)),
            None => unresolved(name, kind, &Shared::failure(name, &Verdict::Unknown, ladder)),
        },
        verdict => unresolved(name, kind, &Shared::failure(name, verdict, ladder)),
    };
    explanation.elapsed_ms = millis(elapsed);
    explanation.attempts = attempts(shared, name, ladder);
    explanation.would_go = would_go(shared, name, ladder);
    explanation.advice = advise(shared, &explanation, ladder);
    explanation
}

fn resolved(name: &Name, kind: Kind, found: &Found, reason: String) -> Explanation {
    let source = found.source.as_ref().map(|source| Source {
        server: source.server.to_string(),
        tier: found.tier,
        transport: source.transport,
    });
    Explanation {
        name: name.clone(),
        kind,
        verdict: "resolved",
        confirmed: matches!(found.freshness, Freshness::Fresh | Freshness::Static) && !found.doubtful,
        addresses: found.addresses.clone(),
        freshness: Some(found.freshness),
        ttl_s: Some(found.ttl.as_secs()),
        source,
        reason,
        elapsed_ms: 0,
        attempts: Vec::new(),
        would_go: String::new(),
        advice: String::new(),
    }
}

fn unresolved(name: &Name, kind: Kind, failure: &Failure) -> Explanation {
    Explanation {
        name: name.clone(),
        kind,
        verdict: match failure {
            Failure::Exhausted { .. } => "unknown",
            failure => failure.label(),
        },
        confirmed: matches!(failure, Failure::Absent { confirmed: true, .. } | Failure::Blocked { .. }),
        addresses: Vec::new(),
        freshness: None,
        ttl_s: None,
        source: None,
        reason: failure.to_string(),
        elapsed_ms: 0,
        attempts: Vec::new(),
        would_go: "uncertain".to_owned(),
        advice: String::new(),
    }
}

fn explain_static(shared: &Shared, name: &Name, kind: Kind, found: Found) -> Explanation {
    let by_hand = shared.config.hosts.iter().any(|(host, _)| host == name);
    let (place, would_go) = match () {
        () if name.is_under("localhost") => ("localhost is this machine".to_owned(), None),
        () if by_hand => (format!("--host gives {name} by hand"), Some("uncertain".to_owned())),
        () => (format!("{} gives {name} by hand", shared.config.hosts_file.display()), None),
    };
    Explanation {
        would_go: would_go.unwrap_or_else(|| format!("no error, dials {}", join(&found.addresses))),
        advice: "nothing to do; no server was asked".to_owned(),
        ..resolved(name, kind, &found, place)
    }
}

fn reason_found(found: &Found, answer: &ladder::Answer, ladder: &Ladder) -> String {
    let Some(source) = &found.source else { return String::new() };
    let (server, transport) = (&source.server, source.transport);
    if found.doubtful {
        return format!("{server} gave private addresses for a public name, and nobody gave others: TLS will judge");
    }
    let overruled = answer
        .overruled
        .iter()
        .map(|&slot| format!("{} ({})", ladder.plan().candidates[slot].server, first_word(ladder, slot)));
    let overruled: Vec<String> = overruled.collect();
    if !overruled.is_empty() {
        return format!("{server} found it over {transport} and overrules {}", overruled.join(", "));
    }
    match found.tier {
        _ if answer.inward => {
            format!("the system server {server} gave a private address, so the name is the site's own from now on")
        }
        Tier::System | Tier::Static => format!("the system server {server} found it over {transport}"),
        tier => format!("{server} ({}) found it over {transport}; the system servers gave no answer", tier.label()),
    }
}

fn reason_spare(ladder: &Ladder) -> String {
    let tally = ladder.tally(Instant::now());
    format!("no answer that counts from {tally}; a verified handshake vouched for this address before")
}

fn first_word(ladder: &Ladder, slot: usize) -> Outcome {
    let replies = ladder.attempts().iter().filter(|attempt| attempt.candidate == slot);
    let outcomes = replies.filter_map(|attempt| attempt.reply.as_ref().map(|reply| reply.outcome));
    outcomes.min().unwrap_or(Outcome::Timeout)
}

fn attempts(shared: &Shared, name: &Name, ladder: &Ladder) -> Vec<Attempt> {
    let asked = ladder.attempts().iter().map(|attempt| row(attempt, ladder));
    let candidates = &ladder.plan().candidates;
    let outside = shared.outside(&shared.inside(Some(name)));
    let is_asked =
        |server: &Server| ladder.attempts().iter().any(|attempt| candidates[attempt.candidate].server == *server);
    let left_out = outside.iter().filter(|server| !is_asked(server));
    let families = &ladder.plan().families;
    let not_asked = left_out.flat_map(|server| families.iter().map(|&family| row_not_asked(server, family)));
    asked.chain(not_asked).collect()
}

fn row(attempt: &ladder::Attempt, ladder: &Ladder) -> Attempt {
    let candidate = &ladder.plan().candidates[attempt.candidate];
    let silence = Reply::bare(Outcome::Timeout);
    let reply = attempt.reply.as_ref().unwrap_or(&silence);
    let elapsed = if attempt.reply.is_some() { attempt.elapsed } else { attempt.asked_at.elapsed() };
    Attempt {
        server: candidate.server.to_string(),
        tier: candidate.tier,
        transport: attempt.transport,
        family: attempt.family,
        outcome: reply.outcome,
        addresses: reply.addresses.clone(),
        ttl_s: reply.ttl.map(|ttl| ttl.as_secs()),
        ede: reply.ede.as_ref().map(ToString::to_string).or_else(|| reply.note.clone()),
        elapsed_ms: millis(elapsed),
    }
}

fn row_not_asked(server: &Server, family: Family) -> Attempt {
    Attempt {
        server: server.to_string(),
        tier: if server.is_encrypted() { Tier::Encrypted } else { Tier::Plain },
        transport: server.transport(),
        family,
        outcome: Outcome::NotAsked,
        addresses: Vec::new(),
        ttl_s: None,
        ede: None,
        elapsed_ms: 0,
    }
}

/// What go would have heard from the servers that it would have asked.
fn would_go(shared: &Shared, name: &Name, ladder: &Ladder) -> String {
    let resolv = &shared.system.current().resolv;
    // Where other servers were configured, those over UDP stand in for resolv.conf.
    let from_file = shared.config.nameservers.contains(&Server::System);
    let servers: Vec<Server> = match from_file {
        true => resolv.servers.iter().map(|address| Server::Plain(*address)).collect(),
        false => shared.config.nameservers.iter().filter(|one| matches!(one, Server::Plain(_))).cloned().collect(),
    };
    if servers.is_empty() && !from_file {
        return "uncertain".to_owned();
    }
    let said = servers.iter().filter_map(|server| {
        let word = |family| word(server, family, ladder);
        Some(Said { server: server.address()?, a: word(Family::V4), aaaa: word(Family::V6) })
    });
    go::would_print(name, &said.collect::<Vec<_>>(), resolv.rotate && from_file)
}

fn word(server: &Server, family: Family, ladder: &Ladder) -> Word {
    // Where one family was asked for, it stands for both.
    let families = &ladder.plan().families;
    let family = if families.contains(&family) { family } else { families[0] };
    let candidates = &ladder.plan().candidates;
    let theirs = ladder
        .attempts()
        .iter()
        .filter(|attempt| candidates[attempt.candidate].server == *server && attempt.family == family);
    let theirs: Vec<&ladder::Attempt> = theirs.collect();
    let still_open = |attempt: &&ladder::Attempt| attempt.reply.is_none() && attempt.asked_at.elapsed() < LONG_ENOUGH;
    if theirs.first().is_some_and(still_open) {
        return Word::Unknown;
    }
    Word::of(&theirs.iter().map(|attempt| attempt.said.as_ref()).collect::<Vec<_>>())
}

/// Silence for less than this says nothing yet.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

/// One concrete thing to do.
fn advise(shared: &Shared, explanation: &Explanation, ladder: &Ladder) -> String {
    let file = shared.system.resolv_conf().display();
    let now = |slot: usize| first_word(ladder, slot);
    let candidates = &ladder.plan().candidates;
    let mut inside = (0..candidates.len()).filter(|&slot| candidates[slot].tier == Tier::System);
    let place = |slot: usize| match shared.config.nameservers.contains(&Server::System) {
        true => format!("the line \"nameserver {}\" in {file}", candidates[slot].server),
        false => format!("--nameserver {}", candidates[slot].server),
    };
    if explanation.verdict == "blocked" {
        return "somebody blocks this name on purpose: ask whoever runs that server".to_owned();
    }
    if shared.inside(Some(&explanation.name)).is_empty() {
        return format!("add a line \"nameserver ADDRESS\" to {file}: it names none");
    }
    if explanation.attempts.iter().any(|attempt| attempt.outcome == Outcome::Local) {
        return "this machine ran out of something: raise the limit of open files (ulimit -n)".to_owned();
    }
    if explanation.attempts.iter().any(|attempt| attempt.tier == Tier::System && attempt.outcome == Outcome::Tls) {
        return "a certificate was refused: is the clock right, and does somebody intercept TLS here?".to_owned();
    }
    let Some(bad) = inside.find(|&slot| now(slot) != Outcome::Answer) else {
        return "nothing to do".to_owned();
    };
    let impossible = explanation.attempts.iter().find(|attempt| attempt.outcome == Outcome::Bogus);
    if let (Some(attempt), true) = (impossible, explanation.verdict != "resolved") {
        let (server, address) = (&attempt.server, join(&attempt.addresses));
        return format!("if {address} from {server} is meant (a mirror inside, a fake-IP proxy), --allow-target it");
    }
    let over_tcp = |attempt: &Attempt| attempt.transport == Transport::Tcp && attempt.outcome == Outcome::Answer;
    let theirs = candidates[bad].server.to_string();
    if explanation.attempts.iter().any(|attempt| attempt.server == theirs && over_tcp(attempt)) {
        return format!("UDP port 53 to {theirs} is blocked and TCP is not: add \"options use-vc\" to {file}");
    }
    match (explanation.verdict, now(bad), explanation.kind) {
        ("resolved", word, _) => {
            format!("replace {} (it says {word}), or let builds go through goanyway", place(bad))
        }
        (_, word, Kind::Private) if word.is_negative() => format!(
            "the name is private, so nobody but {theirs} may know it: add it there, or say --host {}=ADDRESS",
            explanation.name
        ),
        (_, Outcome::Timeout | Outcome::Unreachable, _) => {
            format!("no server can be reached; is the network up, and {} still right?", place(bad))
        }
        ("absent", _, _) if explanation.confirmed => "check the spelling: the name does not exist".to_owned(),
        ("absent", _, _) => format!("nobody else could be asked; if the name should exist, replace {}", place(bad)),
        (_, word, _) => format!("replace {} (it says {word})", place(bad)),
    }
}

fn join(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

fn millis(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
