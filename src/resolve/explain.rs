//! One look-up laid open: what every server said, what was believed and why, what go alone would
//! have printed, and what to do about it. The material of `goanyway resolve`.
//!
//! The same ladder as a request's, but nothing is taken from memory except what a handshake
//! vouched for, and unless the inquiry is quick everybody is heard before the table is closed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use serde::{Serialize, Serializer};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::advice::advise;
use super::go::{Hearing, NO_ERROR, UNCERTAIN};
use super::kind::{Kind, Scope};
use super::ladder::{self, Ladder, Plan, Verdict};
use super::listen::Ear;
use super::plan::Start;
use super::reply::{Family, Outcome, Reply};
use super::server::{Server, Transport};
use super::shared::{Shared, wall};
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
    /// The server's reason, or else what the transport said; why it was not asked.
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
    let ear = Ear::new(shared, name).await;
    // Where go begins under the search list, what it hears there is heard meanwhile.
    let early = async { if inquiry.quick { Vec::new() } else { ear.hear_first().await } };
    let (looked, mut hearings) = join(look(shared, name, inquiry, &ear), early).await;
    hearings.extend(looked.hearing);
    let mut explanation = looked.explanation;
    if explanation.freshness != Some(Freshness::Static) {
        if !inquiry.quick && ear.print(&hearings) == UNCERTAIN {
            ear.hear_the_rest(&mut hearings).await;
        }
        explanation.would_go = ear.print(&hearings);
    }
    explanation.advice = advise(shared, &explanation);
    explanation
}

/// What was found out, and what go would have heard about the name as it stands.
struct Looked {
    explanation: Explanation,
    hearing: Option<Hearing>,
}

async fn look(shared: &Arc<Shared>, name: &Name, inquiry: &Inquiry, ear: &Ear) -> Looked {
    if shared.is_likely_short(name)
        && let Some(explanation) = look_longer(shared, name, inquiry, ear).await
    {
        return Looked { explanation, hearing: None };
    }
    let as_is = look_exactly(shared, name, inquiry, ear).await;
    let verdict = as_is.explanation.verdict;
    if verdict != "absent" && !(verdict == "unknown" && shared.may_be_service(name)) {
        return as_is;
    }
    if let Some(explanation) = look_longer(shared, name, inquiry, ear).await {
        return Looked { explanation, ..as_is };
    }
    // A short name that all the site's servers denied may be asked outside now.
    if as_is.explanation.kind == shared.kind(name) { as_is } else { look_exactly(shared, name, inquiry, ear).await }
}

async fn look_longer(shared: &Arc<Shared>, name: &Name, inquiry: &Inquiry, ear: &Ear) -> Option<Explanation> {
    for longer in shared.longer_names(name) {
        let found = look_exactly(shared, &longer, inquiry, ear).await.explanation;
        if found.verdict == "resolved" {
            let reason = format!("as {longer}: {}", found.reason);
            return Some(Explanation { name: name.clone(), reason, ..found });
        }
    }
    None
}

async fn look_exactly(shared: &Arc<Shared>, name: &Name, inquiry: &Inquiry, ear: &Ear) -> Looked {
    let started = Instant::now();
    let kind = shared.kind(name);
    if let Some(found) = shared.written_down(name) {
        return Looked { explanation: explain_static(shared, name, kind, found), hearing: None };
    }
    let (sender, told) = oneshot::channel();
    let inquire = inquire(Arc::clone(shared), name.clone(), kind, inquiry.clone(), ear.clone(), sender);
    shared.runtime.spawn(inquire);
    match told.await {
        Ok(looked) => looked,
        // The runtime is going away.
        Err(_) => {
            let failure = Failure::Unknown { name: name.clone(), tally: Default::default() };
            let unresolved = unresolved(name, kind, &failure);
            Looked { explanation: Explanation { elapsed_ms: millis(started.elapsed()), ..unresolved }, hearing: None }
        }
    }
}

async fn inquire(
    shared: Arc<Shared>,
    name: Name,
    kind: Kind,
    inquiry: Inquiry,
    ear: Ear,
    told: oneshot::Sender<Looked>,
) {
    let started = Instant::now();
    let plan = match inquiry.quick {
        true => shared.plan(&name, kind, Start::Bottom, started),
        false => shared.plan_of_all(&name, kind, Start::Bottom, started),
    };
    let is_whole = inquiry.families.len() == Family::BOTH.len();
    let plan = Plan { families: inquiry.families, ..plan };
    let mut told = Some(told);
    let mut decided = None;
    let look = |ladder: &Ladder, verdict: &Verdict, elapsed| Looked {
        explanation: compose(&shared, &name, ladder, verdict, elapsed),
        hearing: ear.heed(&name, ladder),
    };
    let ladder = shared
        .drive(&name, plan, |verdict, ladder| {
            if ladder.verdict().is_none() {
                return;
            }
            if let (Kind::Private, Verdict::Absent { ttl, .. }, true) = (kind, verdict, is_whole) {
                // Known from now on, as after a request: a short name depends on it.
                shared.memory.note_denial(&name, Shared::failure(&name, verdict, ladder), *ttl, true, Instant::now());
            }
            let elapsed = started.elapsed();
            decided = Some((verdict.clone(), elapsed));
            if inquiry.quick
                && let Some(told) = told.take()
            {
                // Whoever asked may have left.
                let _ = told.send(look(ladder, verdict, elapsed));
            }
        })
        .await;
    if let (Some(told), Some((verdict, elapsed))) = (told, decided) {
        let _ = told.send(look(&ladder, &verdict, elapsed));
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
            Some(found) => resolved(name, kind, &found, reason_spare(&found, ladder)),
            None => unresolved(name, kind, &Shared::failure(name, &Verdict::Unknown, ladder)),
        },
        verdict => unresolved(name, kind, &Shared::failure(name, verdict, ladder)),
    };
    let good = shared.keep.good(name, wall());
    if matches!(verdict, Verdict::Absent { confirmed: true, .. }) && !good.is_empty() {
        // How often a proxy that runs was told so before is not known here.
        explanation.reason += &format!("; the proxy goes on serving {}, which a verified handshake ", list(&good));
        explanation.reason += "vouched for, until that was said three times over ten minutes";
    }
    explanation.elapsed_ms = millis(elapsed);
    explanation.attempts = attempts(shared, name, ladder);
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
        would_go: UNCERTAIN.to_owned(),
        advice: String::new(),
    }
}

fn explain_static(shared: &Shared, name: &Name, kind: Kind, found: Found) -> Explanation {
    let by_hand = shared.written().by_hand.contains_key(name);
    let reason = match () {
        () if name.is_under("localhost") => "localhost is this machine".to_owned(),
        () if by_hand => format!("--host gives {name} by hand"),
        () => format!("{} gives {name} by hand", shared.config.hosts_file.display()),
    };
    // go reads the same hosts file, and knows of nothing else that stands anywhere.
    let would_go = match shared.system.host(name) {
        Some(addresses) => format!("{NO_ERROR}{}", list(&addresses)),
        None => UNCERTAIN.to_owned(),
    };
    Explanation { would_go, ..resolved(name, kind, &found, reason) }
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

fn reason_spare(found: &Found, ladder: &Ladder) -> String {
    let tally = ladder.tally(Instant::now());
    let why = match found.freshness {
        Freshness::Stale => "an older answer serves",
        _ => "a verified handshake vouched for this address before",
    };
    format!("no answer that counts from {tally}; {why}")
}

fn first_word(ladder: &Ladder, slot: usize) -> Outcome {
    let replies = ladder.attempts().iter().filter(|attempt| attempt.candidate == slot);
    let outcomes = replies.filter_map(|attempt| attempt.reply.as_ref().map(|reply| reply.outcome));
    outcomes.min().unwrap_or(Outcome::Timeout)
}

fn attempts(shared: &Shared, name: &Name, ladder: &Ladder) -> Vec<Attempt> {
    let asked = ladder.attempts().iter().map(|attempt| row(attempt, ladder));
    let candidates = &ladder.plan().candidates;
    let is_asked =
        |server: &Server| ladder.attempts().iter().any(|attempt| candidates[attempt.candidate].server == *server);
    let inside = shared.inside(Some(name));
    let outside = shared.outside(&inside);
    let inside = inside.iter().map(|server| (server, Tier::System));
    let everybody = inside.chain(outside.iter().map(|server| (server, server.outside_tier())));
    let left_out = everybody.filter(|(server, _)| !is_asked(server));
    let families = &ladder.plan().families;
    let not_asked = left_out.flat_map(|(server, tier)| {
        let why = why_not_asked(shared, tier, ladder);
        families.iter().map(move |&family| row_not_asked(server, tier, family, why))
    });
    asked.chain(not_asked).collect()
}

fn why_not_asked(shared: &Shared, tier: Tier, ladder: &Ladder) -> &'static str {
    let kind = ladder.plan().kind;
    match ladder.verdict() {
        _ if tier != Tier::System && kind == Kind::Private => "private names stay inside",
        _ if tier != Tier::System && shared.config.scope == Scope::Off => "resolve.scope is off",
        _ if tier != Tier::System && !shared.config.scope.may_ask_outside(kind) => "resolve.scope is known",
        Some(Verdict::Found(answer)) if answer.inward => "the name turned out to be the site's own",
        Some(Verdict::Blocked { .. }) => "the name is blocked on purpose",
        _ if !ladder.plan().exhaustive => "not needed",
        _ => "down a moment ago",
    }
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

fn row_not_asked(server: &Server, tier: Tier, family: Family, why: &str) -> Attempt {
    Attempt {
        server: server.to_string(),
        tier,
        transport: server.transport(),
        family,
        outcome: Outcome::NotAsked,
        addresses: Vec::new(),
        ttl_s: None,
        ede: Some(why.to_owned()),
        elapsed_ms: 0,
    }
}

pub(super) fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

fn millis(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
