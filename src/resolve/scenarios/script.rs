//! The language of scenario files: what a line may say, and how an expectation is worded.

use std::net::{IpAddr, SocketAddr};
use std::str::{FromStr, SplitWhitespace};
use std::time::Duration;

use super::super::{Fate, Freshness, Scope};
use super::stage::Part;
use crate::metrics::Label;
use crate::resolve::Tier;
use crate::target::Name;

/// One line of a scenario.
#[derive(Clone, Debug)]
pub(super) enum Line {
    /// `system|plain|encrypted ADDRESS PART`: a server and what it does.
    Server(Tier, IpAddr, Part),
    /// `zone SUFFIX ADDRESS PART`
    Zone(Name, IpAddr, Part),
    /// `ADDRESS now PART`: it does something else from here on.
    Change(IpAddr, Part),
    /// `resolv.conf missing`, or its lines, `|` between them; without it, it names the system's servers.
    ResolvConf(Option<String>),
    /// `private|known|host|allow|scope …`
    Private(Name),
    Known(Name),
    Host(Name, IpAddr),
    Allow(ipnet::IpNet),
    Scope(Scope),
    /// `look up NAME -> …`, `look up 1000 times NAME -> …`, `look up 20 names under SUFFIX -> …`
    LookUp(Vec<Name>, Expectation),
    /// `next -> …`: the next addresses of the same look-up.
    Next(Expectation),
    /// `report ADDRESS verified|connected|distrusted|unreachable`
    Report(IpAddr, Fate),
    /// `asked ADDRESS: NAME…`, `asked ADDRESS: nothing`, `asked ADDRESS: 2 questions`
    Asked(IpAddr, Asked),
    /// `pass 9 min`
    Pass(Duration),
    /// `restart`: another process with the same state folder and the same settings.
    Restart,
    /// `descriptors gone`, `descriptors back`
    Descriptors(bool),
    /// `explain NAME -> …`, and after it `row ADDRESS OUTCOME`, `go alone: …`, `advice: …`
    Explain(Name, Expectation),
    Row(IpAddr, String),
    Go(String),
    Advice(String),
    /// `== WORDS`: questions are counted from here.
    Heading,
}

/// What a server was asked since the last heading.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Names(Vec<String>),
    Questions(usize),
}

/// What a look-up is to come to. What is not said may be anything.
#[derive(Clone, Debug, Default)]
pub(super) struct Expectation {
    pub verdict: String,
    pub addresses: Vec<IpAddr>,
    pub freshness: Option<Freshness>,
    pub from: Option<IpAddr>,
    pub over: Option<String>,
    pub not_before: Option<Duration>,
    pub within: Option<Duration>,
}

/// Why the file is expected to fail, if it is.
pub(super) fn is_open(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("open: "))
}

/// The lines that say something, with their numbers.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let said = |line: &&str| !line.is_empty() && !line.starts_with('#') && !line.starts_with("open: ");
    text.lines().map(str::trim).enumerate().map(|(number, line)| (number + 1, line)).filter(move |(_, line)| said(line))
}

/// The text again and again, each time with one expectation turned into another.
pub(super) fn mutants(text: &str) -> Vec<(usize, String)> {
    let turned = lines(text).filter_map(|(number, line)| Some((number, turn(line)?)));
    let mutant = |(number, other): (usize, String)| {
        let lines = text.lines().enumerate().map(|(at, line)| if at + 1 == number { other.as_str() } else { line });
        (number, lines.collect::<Vec<_>>().join("\n"))
    };
    turned.map(mutant).collect()
}

fn turn(line: &str) -> Option<String> {
    if let Some((question, expected)) = line.split_once(" -> ") {
        let other = if expected.starts_with("found") { "absent confirmed" } else { "found 1.1.1.9" };
        return Some(format!("{question} -> {other}"));
    }
    if let Some((server, names)) = line.strip_prefix("asked ").and_then(|rest| rest.split_once(": ")) {
        let other = if names == "nothing" { "1 questions" } else { "nothing" };
        return Some(format!("asked {server}: {other}"));
    }
    let said = ["row ", "go alone: ", "advice: "].iter().any(|word| line.starts_with(word));
    said.then(|| format!("{line} and then some"))
}

impl FromStr for Line {
    type Err = String;

    fn from_str(line: &str) -> Result<Line, String> {
        if line.starts_with("==") {
            return Ok(Line::Heading);
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let part = |text: &str| text.parse::<Part>();
        match word {
            "system" | "plain" | "encrypted" => {
                let (address, says) = two(rest)?;
                Ok(Line::Server(tier(word), ip(address)?, part(says)?))
            }
            "zone" => {
                let (suffix, rest) = two(rest)?;
                let (address, says) = two(rest)?;
                Ok(Line::Zone(name(suffix)?, ip(address)?, part(says)?))
            }
            "resolv.conf" if rest == "missing" => Ok(Line::ResolvConf(None)),
            "resolv.conf" => Ok(Line::ResolvConf(Some(rest.replace(" | ", "\n") + "\n"))),
            "private" => Ok(Line::Private(name(rest)?)),
            "known" => Ok(Line::Known(name(rest)?)),
            "host" => two(rest).and_then(|(host, address)| Ok(Line::Host(name(host)?, ip(address)?))),
            "allow" => rest.parse().map(Line::Allow).map_err(|_| format!("{rest:?} is no network")),
            "scope" => rest.parse().map(Line::Scope),
            "look" => look_up(rest.strip_prefix("up ").ok_or("look up what?")?),
            "next" => Ok(Line::Next(rest.strip_prefix("-> ").unwrap_or_default().parse()?)),
            "report" => two(rest).and_then(|(address, fate)| Ok(Line::Report(ip(address)?, read_fate(fate)?))),
            "asked" => asked(rest),
            "pass" => Ok(Line::Pass(duration(&mut rest.split_whitespace())?)),
            "restart" => Ok(Line::Restart),
            "descriptors" => Ok(Line::Descriptors(rest == "gone")),
            "explain" => {
                let (host, expected) = rest.split_once(" -> ").ok_or("explain NAME -> what?")?;
                Ok(Line::Explain(name(host)?, expected.parse()?))
            }
            "row" => two(rest).and_then(|(address, outcome)| Ok(Line::Row(ip(address)?, outcome.to_owned()))),
            "go" => Ok(Line::Go(rest.strip_prefix("alone: ").ok_or("go alone: what?")?.to_owned())),
            "advice:" => Ok(Line::Advice(rest.to_owned())),
            address => {
                let says = rest.strip_prefix("now ").ok_or_else(|| format!("no line begins with {word:?}"))?;
                Ok(Line::Change(ip(address)?, part(says)?))
            }
        }
    }
}

fn look_up(rest: &str) -> Result<Line, String> {
    let (what, expected) = rest.split_once(" -> ").ok_or("look up NAME -> what?")?;
    let words: Vec<&str> = what.split_whitespace().collect();
    let number = |text: &str| text.parse::<usize>().map_err(|_| format!("{text:?} is no number"));
    let names = match words.as_slice() {
        [host] => vec![name(host)?],
        [times, "times", host] => vec![name(host)?; number(times)?],
        [many, "names", "under", suffix] => {
            (0..number(many)?).map(|at| name(&format!("fresh{at}.{suffix}"))).collect::<Result<_, _>>()?
        }
        _ => return Err(format!("{what:?} is nothing to look up")),
    };
    Ok(Line::LookUp(names, expected.parse()?))
}

fn asked(rest: &str) -> Result<Line, String> {
    let (server, what) = rest.split_once(": ").ok_or("asked SERVER: what?")?;
    let words: Vec<&str> = what.split_whitespace().collect();
    let asked = match words.as_slice() {
        ["nothing"] => Asked::Questions(0),
        [count, "questions"] => Asked::Questions(count.parse().map_err(|_| format!("{count:?} is no number"))?),
        names => Asked::Names(names.iter().map(ToString::to_string).collect()),
    };
    Ok(Line::Asked(ip(server)?, asked))
}

impl FromStr for Expectation {
    type Err = String;

    fn from_str(text: &str) -> Result<Expectation, String> {
        let mut words = text.split_whitespace();
        let verdict = words.next().ok_or("nothing is expected")?.to_owned();
        let mut expected = Expectation { verdict, ..Expectation::default() };
        while let Some(word) = words.next() {
            match word {
                "confirmed" | "final" | "unconfirmed" | "doubtful" => {
                    expected.verdict = format!("{} {word}", expected.verdict)
                }
                "from" => expected.from = Some(ip(words.next().unwrap_or_default())?),
                "over" => expected.over = words.next().map(str::to_owned),
                "after" => expected.not_before = Some(duration(&mut words)?),
                "within" => expected.within = Some(duration(&mut words)?),
                word => match freshness(word) {
                    Some(freshness) => expected.freshness = Some(freshness),
                    None => expected.addresses.push(ip(word)?),
                },
            }
        }
        Ok(expected)
    }
}

fn duration(words: &mut SplitWhitespace<'_>) -> Result<Duration, String> {
    let (Some(number), Some(unit)) = (words.next(), words.next()) else { return Err("how long?".to_owned()) };
    let number: u64 = number.parse().map_err(|_| format!("{number:?} is no number"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "min" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        _ => Err(format!("{unit:?} is none of ms, s, min, h")),
    }
}

fn tier(word: &str) -> Tier {
    match word {
        "system" => Tier::System,
        "plain" => Tier::Plain,
        _ => Tier::Encrypted,
    }
}

fn freshness(word: &str) -> Option<Freshness> {
    use Freshness::*;
    [Fresh, Cached, Stale, LastKnownGood, Static].into_iter().find(|freshness| freshness.label() == word)
}

fn read_fate(word: &str) -> Result<Fate, String> {
    match word {
        "verified" => Ok(Fate::Verified),
        "connected" => Ok(Fate::Connected),
        "distrusted" => Ok(Fate::Distrusted),
        "unreachable" => Ok(Fate::Unreachable),
        _ => Err(format!("an address does not fare {word:?}")),
    }
}

fn two(text: &str) -> Result<(&str, &str), String> {
    text.split_once(' ').ok_or_else(|| format!("something is missing after {text:?}"))
}

fn name(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|why| format!("{text:?}: {why}"))
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no address"))
}

/// Where a server of a scenario listens.
pub(super) fn at(address: IpAddr, tier: Tier) -> SocketAddr {
    SocketAddr::new(address, if tier == Tier::Encrypted { 443 } else { 53 })
}
