//! How it stands, in one word and a few sentences: what an operator reads first.
//!
//! *Well*: whatever was asked answers. *Strained*: something is wrong, and builds go through. *Trouble*:
//! builds fail, or will. Decided in pure code from what the rooms report.

use serde::Serialize;

use super::history::Sums;
use crate::cache;
use crate::goproxy::MirrorReport;
use crate::metrics::Condition;
use crate::resolve::ServerReport;

/// So many minutes are "lately".
pub const LATELY: usize = 5;

/// How it stands, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub state: State,
    pub words: Vec<String>,
}

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Well,
    Strained,
    Trouble,
}

/// What the verdict is made of.
pub struct Facts<'a> {
    pub ready: bool,
    pub servers: &'a [ServerReport],
    pub mirrors: &'a [MirrorReport],
    pub cache: &'a cache::Stat,
    /// What is wrong with the CA.
    pub ca: Vec<String>,
    /// What was done in the last [`LATELY`] minutes.
    pub lately: Sums,
}

impl Verdict {
    /// Judges.
    pub fn of(facts: &Facts<'_>) -> Verdict {
        let mut findings = Vec::new();
        if !facts.ready {
            findings.push((State::Strained, "it is closing: no new connection is taken".to_owned()));
        }
        findings.extend(judge_servers(facts.servers));
        findings.extend(judge_mirrors(facts.mirrors));
        if facts.lately.failed > 0 {
            let (count, s) = (facts.lately.failed, plural(facts.lately.failed));
            findings.push((State::Trouble, format!("{count} request{s} failed in the last {LATELY} minutes")));
        }
        if facts.lately.rescued > 0 {
            let (count, s) = (facts.lately.rescued, plural(facts.lately.rescued));
            findings.push((State::Strained, format!("{count} rescue{s} in the last {LATELY} minutes")));
        }
        if !facts.cache.keeps_on_disk {
            findings.push((State::Strained, "nothing is kept on disk, so a restart begins with nothing".to_owned()));
        }
        findings.extend(facts.ca.iter().map(|notice| (State::Strained, notice.clone())));
        // The worst first.
        findings.sort_by_key(|(state, _)| std::cmp::Reverse(*state));
        let state = findings.first().map_or(State::Well, |(state, _)| *state);
        Verdict { state, words: findings.into_iter().map(|(_, words)| words).collect() }
    }
}

fn judge_servers(servers: &[ServerReport]) -> Option<(State, String)> {
    let asked: Vec<&ServerReport> = servers.iter().filter(|one| one.condition != Condition::Unused).collect();
    let down = |tier: Option<&str>| {
        let of_tier = asked.iter().filter(|one| tier.is_none_or(|tier| one.tier == tier));
        (of_tier.clone().filter(|one| one.condition == Condition::Down).count(), of_tier.count())
    };
    match (down(None), down(Some("system"))) {
        ((0, _), _) => None,
        ((gone, all), _) if gone == all => {
            Some((State::Trouble, "no name server answers: only names that were found before are known".to_owned()))
        }
        (_, (gone, all)) if gone == all => {
            Some((State::Strained, "the site's own name servers do not answer; others stand in".to_owned()))
        }
        ((gone, all), _) => Some((State::Strained, format!("{gone} of {all} name servers asked {} down", is(gone)))),
    }
}

fn judge_mirrors(mirrors: &[MirrorReport]) -> Option<(State, String)> {
    let asked: Vec<&MirrorReport> =
        mirrors.iter().filter(|one| one.condition != Condition::Unused && one.role != "checksums").collect();
    let gone = asked.iter().filter(|one| one.condition == Condition::Down).count();
    match (gone, asked.len()) {
        (0, _) => None,
        (gone, all) if gone == all => {
            Some((State::Trouble, "no mirror answers: what is kept is served, and nothing new".to_owned()))
        }
        (gone, all) => Some((State::Strained, format!("{gone} of {all} mirrors asked {} down", is(gone)))),
    }
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn is(count: usize) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(tier: &'static str, condition: Condition) -> ServerReport {
        ServerReport { server: "10.0.0.1".to_owned(), tier, condition, mean_ms: None, words: String::new() }
    }

    fn mirror(role: &'static str, condition: Condition) -> MirrorReport {
        MirrorReport { mirror: "m.example".to_owned(), role, condition, words: String::new() }
    }

    fn judged(servers: &[ServerReport], mirrors: &[MirrorReport], lately: Sums) -> (State, String) {
        let cache = cache::Stat { keeps_on_disk: true, ..cache::Stat::default() };
        let verdict = Verdict::of(&Facts { ready: true, servers, mirrors, cache: &cache, ca: Vec::new(), lately });
        (verdict.state, verdict.words.join("; "))
    }

    #[test]
    fn what_answers_is_well_and_what_was_not_needed_too() {
        let servers = [server("system", Condition::Up), server("plain", Condition::Unused)];
        let mirrors = [mirror("first", Condition::Suspect), mirror("on faults", Condition::Unused)];
        assert_eq!(judged(&servers, &mirrors, Sums::default()), (State::Well, String::new()));
    }

    #[test]
    fn somebody_stands_in() {
        let servers = [server("system", Condition::Down), server("plain", Condition::Up)];
        let mirrors = [mirror("first", Condition::Down), mirror("on faults", Condition::Up)];
        let words = "the site's own name servers do not answer; others stand in; 1 of 2 mirrors asked is down";
        assert_eq!(judged(&servers, &mirrors, Sums::default()), (State::Strained, words.to_owned()));
    }

    #[test]
    fn nobody_is_left_or_builds_failed() {
        let (state, words) = judged(&[server("system", Condition::Down)], &[], Sums::default());
        assert!(state == State::Trouble && words.starts_with("no name server answers"), "{words}");
        let (state, words) = judged(&[], &[mirror("first", Condition::Down)], Sums::default());
        assert!(state == State::Trouble && words.starts_with("no mirror answers"), "{words}");
        let lately = Sums { failed: 1, rescued: 2, ..Sums::default() };
        let words = "1 request failed in the last 5 minutes; 2 rescues in the last 5 minutes";
        assert_eq!(judged(&[], &[], lately), (State::Trouble, words.to_owned()));
    }

    #[test]
    fn a_database_alone_is_no_mirror() {
        let mirrors = [mirror("checksums", Condition::Down)];
        assert_eq!(judged(&[], &mirrors, Sums::default()).0, State::Well);
    }
}
