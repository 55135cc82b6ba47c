//! The machine: what is there, what is done to it, by its own `nft` and `ip`.
//!
//! A plan becomes [`Step`]s, which can be shown instead of taken. The ruleset is tried (`nft --check`) before
//! anything is changed, and replaces the one before it in one transaction of the kernel's.
//!
//! To compare, the ruleset is loaded into a network namespace that nobody else is in, and both are listed by
//! the same nft: so a rule that somebody changed by hand is seen, and one that nft only spells otherwise is not.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use super::compare::{Comparison, Difference};
use super::plan::{Family, Mode, Plan, Wish};
use super::recall::recall;
use super::routing::{self, Routing};
use super::ruleset::TABLE;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make our table anew.
    Load(String),
    /// A command; none of its words has a blank in it.
    Run(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Load(_) => write!(f, "{LOAD} # table {TABLE}, as goanyway gateway print shows it"),
            Step::Run(line) => f.write_str(line),
        }
    }
}

impl Step {
    fn take(&self) -> Result<(), Error> {
        match self {
            Step::Load(ruleset) => run(LOAD, ruleset),
            Step::Run(line) => run(line, ""),
        }
        .map(drop)
    }
}

/// Why the machine was not changed, or not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{program} is not on the PATH")]
    NoProgram { program: String },
    #[error("`{line}` is not permitted to this user")]
    NotPermitted { line: String },
    #[error("there is no interface {name:?} here: there are {there}")]
    NoInterface { name: String, there: String },
    #[error("`{line}` failed: {why}")]
    Failed { line: String, why: String },
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::NoProgram { program } if program == "ip" => Some("install iproute2 (apt-get install iproute2)"),
            Error::NoProgram { program } if program == "nft" => Some(
                "install nftables (apt-get install nftables; it is in /usr/sbin); goanyway gateway print needs none",
            ),
            Error::NotPermitted { line } if line.starts_with("unshare") => Some(
                "the rules are loaded into a namespace of their own to be compared: as root with CAP_SYS_ADMIN, too",
            ),
            Error::NotPermitted { .. } => Some("as root, or with CAP_NET_ADMIN; goanyway gateway print needs neither"),
            Error::Failed { why, .. } if why.contains("not supported") || why.contains("No such file") => {
                Some("the rules want Linux 5.9 with its nf_tables, nat, fib, reject, and tproxy and socket modules")
            }
            _ => None,
        }
    }
}

/// What there is to do, so that all is as planned; told before, and once more for who only asks.
pub fn plan_apply(plan: &Plan) -> Result<Vec<Step>, Error> {
    let there = interfaces();
    if let Some(name) = plan.interfaces.iter().find(|name| !there.contains(name)) {
        return Err(Error::NoInterface { name: name.clone(), there: there.join(", ") });
    }
    let mut steps = Vec::new();
    for (wanted, found) in routings(plan)? {
        steps.extend(found.without(&wanted).lines("del").into_iter().map(Step::Run));
        steps.extend(wanted.without(&found).lines("add").into_iter().map(Step::Run));
    }
    steps.push(Step::Load(plan.ruleset()));
    Ok(steps)
}

/// Does it, saying each step first.
pub fn apply(plan: &Plan, say: &mut dyn FnMut(&Step)) -> Result<(), Error> {
    run("nft --check -f -", &plan.ruleset())?;
    carry_out(&plan_apply(plan)?, say)
}

/// What there is to undo, whatever plan it was of, and however much of it is left.
pub fn plan_removal() -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    if run("nft list tables", "")?.lines().any(|line| line.trim() == format!("table {TABLE}")) {
        steps.push(Step::Run(format!("nft delete table {TABLE}")));
    }
    for family in Family::BOTH {
        steps.extend(found(family, false)?.lines("del").into_iter().map(Step::Run));
    }
    Ok(steps)
}

/// Takes these steps, saying each one first.
pub fn carry_out(steps: &[Step], say: &mut dyn FnMut(&Step)) -> Result<(), Error> {
    for step in steps {
        say(step);
        step.take()?;
    }
    Ok(())
}

/// What was wished for by whoever put our table in place, as far as it still tells; nothing, where there is none.
pub fn in_place() -> Result<Option<Wish>, Error> {
    Ok(list_table()?.map(|listing| recall(&listing)))
}

/// Compares what is there with what would be.
pub fn check(plan: &Plan) -> Result<Comparison, Error> {
    let mut comparison = match list_table()? {
        None => Comparison { differences: vec![Difference::NoTable] },
        Some(found) => Comparison::tables(&load_aside(plan)?, &found),
    };
    for (wanted, found) in routings(plan)? {
        comparison.add_routing(&wanted, &found);
    }
    Ok(comparison)
}

/// What of this machine's settings will disappoint, in sentences.
pub fn advise(plan: &Plan) -> Vec<String> {
    let off = |file: &str| setting(file).is_some_and(|value| value == "0");
    let mut advice = Vec::new();
    for side in &plan.sides {
        let (file, name) = match side.family {
            Family::V4 => ("ipv4/ip_forward", "net.ipv4.ip_forward"),
            Family::V6 => ("ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
        };
        if off(file) {
            advice.push(format!(
                "{name} is 0: of the subnet's {} traffic only what is redirected goes anywhere",
                side.family
            ));
        }
    }
    let marks = |name: &str| setting(&format!("ipv4/conf/{name}/src_valid_mark")).is_some_and(|value| value == "1");
    let names = plan.interfaces.iter().map(String::as_str).chain(["all"]);
    if let Some(name) = names.into_iter().find(|name| plan.mode == Mode::Tproxy && marks(name)) {
        advice.push(format!(
            "net.ipv4.conf.{name}.src_valid_mark is 1 (WireGuard's wg-quick sets it): the kernel takes packets \
             that tproxy has marked for forged and drops them; set it to 0, or take --mode redirect"
        ));
    }
    advice
}

/// What is wanted and what is there, of both families.
fn routings(plan: &Plan) -> Result<Vec<(Routing, Routing)>, Error> {
    let pair = |family| {
        let wanted = routing::wanted(plan, family);
        let found = found(family, !wanted.is_nothing())?;
        Ok((wanted, found))
    };
    Family::BOTH.into_iter().map(pair).collect()
}

/// What is there of a family. Where it is not needed and there is no `ip`, or no such family, there is nothing.
fn found(family: Family, needed: bool) -> Result<Routing, Error> {
    let flag = routing::flag(family);
    let rules = match run(&format!("ip -j {flag} rule show"), "") {
        Err(Error::NoProgram { .. }) if !needed => return Ok(Routing::none(family)),
        Err(Error::Failed { why, .. }) if why.contains("not supported") && !needed => return Ok(Routing::none(family)),
        rules => rules?,
    };
    let line = format!("ip -j {flag} route show table {}", routing::TABLE);
    let routes = match run(&line, "") {
        // As the kernel says that a table is empty.
        Err(Error::Failed { why, .. }) if why.contains("FIB table does not exist") => String::new(),
        routes => routes?,
    };
    Routing::read(family, &rules, &routes).map_err(|why| Error::Failed { line, why: why.to_string() })
}

/// Our table as nft lists it, without counters.
fn list_table() -> Result<Option<String>, Error> {
    match run(&format!("nft -s list table {TABLE}"), "") {
        Err(Error::Failed { why, .. }) if why.contains("No such file or directory") => Ok(None),
        listed => listed.map(Some),
    }
}

/// The table that would be, as nft lists it.
fn load_aside(plan: &Plan) -> Result<String, Error> {
    let script = format!("{LOAD} && nft -s list table {TABLE}");
    execute("unshare", &["-n", "sh", "-c", &script], &plan.ruleset())
}

/// The names of this network namespace's interfaces; `/sys` may show another's.
fn interfaces() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

fn setting(file: &str) -> Option<String> {
    Some(std::fs::read_to_string(format!("/proc/sys/net/{file}")).ok()?.trim().to_owned())
}

fn run(line: &str, input: &str) -> Result<String, Error> {
    let words: Vec<&str> = line.split(' ').collect();
    execute(words[0], &words[1..], input)
}

fn execute(program: &str, arguments: &[&str], input: &str) -> Result<String, Error> {
    let line = || [&[program], arguments].concat().join(" ");
    let failed = |why: &dyn fmt::Display| Error::Failed { line: line(), why: why.to_string() };
    let mut command = Command::new(program);
    // Their words are read.
    command.args(arguments).env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|why| match why.kind() {
        ErrorKind::NotFound => Error::NoProgram { program: program.to_owned() },
        _ => failed(&why),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read it says why itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|why| failed(&why))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("Operation not permitted") || said.contains("Permission denied") {
        return Err(Error::NotPermitted { line: line() });
    }
    let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(failed(&if said.is_empty() { "it does not say why".to_owned() } else { said.join("; ") }))
}

/// Our ruleset comes on standard input.
const LOAD: &str = "nft -f -";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_named_and_one_that_fails_says_why() {
        let lacking = execute("/nowhere/nft", &["list"], "").unwrap_err();
        assert_eq!(lacking.to_string(), "/nowhere/nft is not on the PATH");
        let failed = execute("sh", &["-c", "cat >&2; exit 1"], "one\n\n  two\n").unwrap_err();
        assert_eq!(failed.to_string(), "`sh -c cat >&2; exit 1` failed: one; two");
        let refused = execute("sh", &["-c", "echo x: Operation not permitted >&2; exit 1"], "").unwrap_err();
        assert!(matches!(&refused, Error::NotPermitted { .. }) && refused.hint().unwrap().contains("as root"));
    }
}
