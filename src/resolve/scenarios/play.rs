//! A scenario played: each line is done, and what was expected compared with what came.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::super::shared::Shared;
use super::super::wire::Wire;
use super::script::{self, Asked, Expectation, Line};
use super::stage::{Part, Stage};
use crate::metrics::{Label, Registry};
use crate::resolve::{Config, Explanation, Failure, Found, Inquiry, Resolver, Search, Server, Tier};
use crate::target::Name;

/// What a process takes to end its look-ups and start again.
const RESTART: Duration = Duration::from_secs(5);

/// What went otherwise than the text says, a sentence for a line.
pub(super) fn complaints(text: &str) -> Vec<(usize, String)> {
    let paused = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    paused.expect("a runtime can be built").block_on(async {
        let mut play = Play::new();
        let mut complaints = Vec::new();
        for (number, line) in script::lines(text) {
            let done = match line.parse::<Line>() {
                Ok(said) => play.perform(said).await.map_err(|came| format!("{line}\n    came: {came}")),
                Err(why) => Err(format!("{line}\n    cannot be read: {why}")),
            };
            complaints.extend(done.err().map(|what| (number, what)));
        }
        complaints
    })
}

struct Play {
    stage: Arc<Stage>,
    folder: TempDir,
    config: Config,
    system: Vec<IpAddr>,
    resolv_conf: Option<String>,
    // Made by the first line that needs it: settings come before.
    resolver: Option<Resolver>,
    search: Option<Search>,
    explanation: Option<Explanation>,
}

impl Play {
    fn new() -> Play {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let config = Config {
            fallback: Vec::new(),
            resolv_conf: folder.path().join("resolv.conf"),
            hosts_file: folder.path().join("hosts"),
            state_dir: Some(folder.path().to_owned()),
            ..Config::default()
        };
        Play {
            stage: Arc::default(),
            folder,
            config,
            system: Vec::new(),
            resolv_conf: Some(String::new()),
            resolver: None,
            search: None,
            explanation: None,
        }
    }

    /// Does what the line says; the error is what came instead.
    async fn perform(&mut self, line: Line) -> Result<(), String> {
        match line {
            Line::Server(tier, address, part) => self.engage(tier, address, part),
            Line::Zone(suffix, address, part) => {
                self.stage.cast(script::at(address, Tier::System), part);
                self.config.zones.push((suffix, Server::Plain(script::at(address, Tier::System))));
            }
            Line::Change(address, part) => self.recast(address, part),
            Line::ResolvConf(text) => self.write_resolv_conf(text),
            Line::Private(suffix) => self.config.private.push(suffix),
            Line::Known(suffix) => self.config.known.push(suffix),
            Line::Host(host, address) => self.config.hosts.push((host, address)),
            Line::Allow(network) => self.config.allow.push(network),
            Line::Scope(scope) => self.config.scope = scope,
            Line::LookUp(names, expected) => return self.look_up(&names, &expected).await,
            Line::Next(expected) => return self.next(&expected).await,
            Line::Report(address, fate) => self.search.as_mut().ok_or("nothing was looked up")?.report(address, fate),
            Line::Asked(address, expected) => return self.check_asked(address, &expected),
            Line::Pass(time) => tokio::time::sleep(time).await,
            Line::Restart => {
                self.search = None;
                tokio::time::sleep(RESTART).await;
                self.resolver = None;
            }
            Line::Descriptors(gone) => self.stage.set_exhausted(gone),
            Line::Explain(name, expected) => return self.explain(&name, &expected).await,
            Line::Row(address, outcome) => return self.check_row(address, &outcome),
            Line::Go(words) => return same(&words, &without_own(&self.explained()?.would_go)),
            Line::Advice(words) => return contains(&words, &self.explained()?.advice),
            Line::Heading => self.stage.forget_questions(),
        }
        Ok(())
    }

    fn engage(&mut self, tier: Tier, address: IpAddr, part: Part) {
        let place = script::at(address, tier);
        self.stage.cast(place, part);
        match tier {
            Tier::Encrypted => {
                self.config.fallback.push(Server::Https {
                    address: place,
                    path: "/dns-query".to_owned(),
                    name: "dns.example".to_owned(),
                });
            }
            Tier::Plain => self.config.fallback.push(Server::Plain(place)),
            Tier::System | Tier::Static => {
                self.system.push(address);
                let lines = self.system.iter().map(|address| format!("nameserver {address}\n"));
                let lines = lines.collect();
                self.write_resolv_conf(Some(lines));
            }
        }
    }

    fn recast(&self, address: IpAddr, part: Part) {
        let is_encrypted =
            |server: &Server| server.is_encrypted() && server.address().is_some_and(|at| at.ip() == address);
        let tier = if self.config.fallback.iter().any(is_encrypted) { Tier::Encrypted } else { Tier::Plain };
        self.stage.cast(script::at(address, tier), part);
    }

    fn write_resolv_conf(&mut self, text: Option<String>) {
        let path: PathBuf = self.config.resolv_conf.clone();
        let aside = self.folder.path().join("aside");
        match &text {
            // Renamed into place, as programs do that write it: another inode is another file.
            Some(text) => std::fs::write(&aside, text).and_then(|()| std::fs::rename(&aside, &path)),
            None => std::fs::remove_file(&path).or(Ok(())),
        }
        .expect("the folder is ours");
        self.resolv_conf = text;
    }

    fn resolver(&mut self) -> Resolver {
        let stage = Arc::clone(&self.stage);
        let make = || {
            let mut shared =
                Shared::new(self.config.clone(), Handle::current(), &Registry::default()).expect("no state is newer");
            shared.wire = Wire::on(stage);
            Resolver { shared: Arc::new(shared) }
        };
        self.resolver.get_or_insert_with(make).clone()
    }

    async fn look_up(&mut self, names: &[Name], expected: &Expectation) -> Result<(), String> {
        for name in names {
            self.search = Some(self.resolver().search(name));
            self.next(expected).await.map_err(|came| if names.len() > 1 { format!("{name}: {came}") } else { came })?;
        }
        Ok(())
    }

    async fn next(&mut self, expected: &Expectation) -> Result<(), String> {
        let search = self.search.as_mut().ok_or("nothing was looked up")?;
        let started = Instant::now();
        let came = search.next().await;
        let elapsed = started.elapsed();
        expected.check(&Came::of(&came, elapsed))
    }

    async fn explain(&mut self, name: &Name, expected: &Expectation) -> Result<(), String> {
        let explanation = self.resolver().explain(name, &Inquiry::default()).await;
        let came = Came::explained(&explanation);
        self.explanation = Some(explanation);
        expected.check(&came)
    }

    fn explained(&self) -> Result<&Explanation, String> {
        self.explanation.as_ref().ok_or_else(|| "nothing was explained".to_owned())
    }

    fn check_asked(&self, address: IpAddr, expected: &Asked) -> Result<(), String> {
        let is_encrypted = |server: &&Server| server.is_encrypted();
        let encrypted = self.config.fallback.iter().filter(is_encrypted).filter_map(Server::address);
        let place = encrypted.into_iter().find(|at| at.ip() == address).unwrap_or(script::at(address, Tier::Plain));
        let mut asked = self.stage.asked(place);
        let came = format!("{} questions: {}", asked.len(), asked.join(" "));
        let right = match expected {
            Asked::Questions(count) => asked.len() == *count,
            Asked::Names(names) => {
                asked.sort();
                asked.dedup();
                let mut names = names.clone();
                names.sort();
                asked == names
            }
        };
        if right { Ok(()) } else { Err(came) }
    }

    fn check_row(&self, address: IpAddr, outcome: &str) -> Result<(), String> {
        let of_server = |server: &str| server.parse::<Server>().ok().and_then(|server| server.address());
        let rows = self.explained()?.attempts.iter();
        let theirs = rows.filter(|row| of_server(&row.server).is_some_and(|at| at.ip() == address));
        let words: Vec<String> = theirs.map(|row| row.outcome.to_string()).collect();
        if words.iter().any(|word| word == outcome) { Ok(()) } else { Err(format!("{address}: {}", words.join(" "))) }
    }
}

/// What a look-up came to, in the words of an expectation.
struct Came {
    verdict: String,
    addresses: Vec<IpAddr>,
    freshness: Option<&'static str>,
    from: Option<IpAddr>,
    over: Option<String>,
    elapsed: Duration,
    words: String,
}

impl Came {
    fn of(result: &Result<Found, Failure>, elapsed: Duration) -> Came {
        let (verdict, words) = match result {
            Ok(found) if found.doubtful => ("found doubtful", String::new()),
            Ok(_) => ("found", String::new()),
            Err(failure) => (verdict_of(failure), failure.to_string()),
        };
        let found = result.as_ref().ok();
        let source = found.and_then(|found| found.source.as_ref());
        Came {
            verdict: verdict.to_owned(),
            addresses: found.map(|found| found.addresses.clone()).unwrap_or_default(),
            freshness: found.map(|found| found.freshness.label()),
            from: source.and_then(|source| source.server.address()).map(|at| at.ip()),
            over: source.map(|source| source.transport.to_string()),
            elapsed,
            words,
        }
    }

    fn explained(explanation: &Explanation) -> Came {
        let verdict = match (explanation.verdict, explanation.confirmed) {
            ("resolved", _) => "found",
            ("absent", true) => "absent confirmed",
            ("absent", false) => "absent unconfirmed",
            (verdict, _) => verdict,
        };
        let source = explanation.source.as_ref();
        Came {
            verdict: verdict.to_owned(),
            addresses: explanation.addresses.clone(),
            freshness: explanation.freshness.map(|freshness| freshness.label()),
            from: source.and_then(|source| source.server.parse::<Server>().ok()?.address()).map(|at| at.ip()),
            over: source.map(|source| source.transport.to_string()),
            elapsed: Duration::from_millis(explanation.elapsed_ms),
            words: explanation.reason.clone(),
        }
    }
}

fn verdict_of(failure: &Failure) -> &'static str {
    match failure {
        Failure::Absent { confirmed: true, .. } => "absent confirmed",
        Failure::Absent { last_word: true, .. } => "absent final",
        Failure::Absent { .. } => "absent unconfirmed",
        failure => failure.label(),
    }
}

impl std::fmt::Display for Came {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.verdict)?;
        for address in &self.addresses {
            write!(f, " {address}")?;
        }
        if let Some(freshness) = self.freshness {
            write!(f, " {freshness}")?;
        }
        if let (Some(from), Some(over)) = (self.from, &self.over) {
            write!(f, " from {from} over {over}")?;
        }
        write!(f, " after {} ms", self.elapsed.as_millis())?;
        if self.words.is_empty() { Ok(()) } else { write!(f, " ({})", self.words) }
    }
}

impl Expectation {
    fn check(&self, came: &Came) -> Result<(), String> {
        let right = self.verdict == came.verdict
            && (self.addresses.is_empty() || self.addresses == came.addresses)
            && self.freshness.is_none_or(|freshness| came.freshness == Some(freshness.label()))
            && self.from.is_none_or(|from| came.from == Some(from))
            && self.over.as_ref().is_none_or(|over| came.over.as_ref() == Some(over))
            && self.not_before.is_none_or(|time| came.elapsed >= time)
            && self.within.is_none_or(|time| came.elapsed <= time);
        if right { Ok(()) } else { Err(came.to_string()) }
    }
}

/// go's words without the address of its own socket.
fn without_own(words: &str) -> String {
    match words.split_once("->") {
        Some((before, after)) => {
            let before = before.rsplit_once(' ').map_or("", |(before, _)| before);
            format!("{before} OWN->{after}")
        }
        None => words.to_owned(),
    }
}

fn same(expected: &str, came: &str) -> Result<(), String> {
    if expected == came { Ok(()) } else { Err(came.to_owned()) }
}

fn contains(expected: &str, came: &str) -> Result<(), String> {
    if came.contains(expected) { Ok(()) } else { Err(came.to_owned()) }
}
