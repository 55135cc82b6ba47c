//! `goanyway doctor`: looks at everything that a build's way out depends on, says what is wrong with
//! it and the one command that mends it, or who can.
//!
//! Each check is a function from [`Surroundings`] to [`Finding`]s, in a file of its own; all run side by
//! side, each for [`PATIENCE`] at most. Nothing is changed without `--fix`, which runs the commands that
//! findings name as safe, each printed before, and then looks again.
//!
//! Exit code 0 if there is no fault, else 1: also where the settings cannot be read.

mod cache;
mod candidates;
mod clients;
mod clock;
mod dns;
mod finding;
mod gateway;
mod go;
mod mirrors;
mod place;
mod ports;
mod probe;
mod report;
mod roots;
mod surroundings;
mod trust;
mod variables;

use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgMatches, Args};

use super::Failure;
use super::output::print;
use crate::config::Settings;
use finding::{Finding, Mend, Verdict};
use report::{Fixed, Report};
use surroundings::{Surroundings, Typed};

/// How long one check may take; all of them run at once.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Run the commands that are safe to run, each printed before, and look again
    #[arg(long)]
    fix: bool,
    /// Print one JSON object (docs/doctor.md)
    #[arg(long)]
    json: bool,
}

/// Looks, mends where it may, and says what it saw.
pub(super) fn doctor(
    settings: Result<Settings, Failure>,
    matches: &ArgMatches,
    args: &DoctorArgs,
) -> Result<ExitCode, Failure> {
    let typed = Typed::of(matches);
    let look = || match &settings {
        Ok(settings) => examine(settings.clone(), typed.clone()),
        Err(failure) => Ok(vec![refuse(failure)]),
    };
    let mut findings = look()?;
    let mut fixed = Vec::new();
    if args.fix {
        fixed = mend(&findings);
        if !fixed.is_empty() {
            findings = look()?;
        }
    }
    let report = Report::of(&findings, &fixed);
    print(&if args.json { report.json() } else { report.text(true) })?;
    Ok(ExitCode::from(u8::from(!report.is_healthy())))
}

fn refuse(failure: &Failure) -> Finding {
    let ask = Mend::Ask("you: goanyway serve --help lists every setting, its default and its flag".to_owned());
    Finding::fault("settings", "", format!("they cannot be used: {failure}"), ask)
}

/// Runs every check, in the order in which a person reads them.
fn examine(settings: Settings, typed: Typed) -> Result<Vec<Finding>, Failure> {
    let runtime = tokio::runtime::Runtime::new()?;
    let around = Arc::new(Surroundings::gather(settings, typed, runtime.handle().clone())?);
    let findings = runtime.block_on(run_all(&around));
    // What did not end in its time is left behind, the program ends anyway.
    runtime.shutdown_background();
    Ok(findings)
}

async fn run_all(around: &Arc<Surroundings>) -> Vec<Finding> {
    let blocking = |name, check: fn(&Surroundings) -> Vec<Finding>| {
        let around = Arc::clone(around);
        within(name, async move {
            let looked = tokio::task::spawn_blocking(move || check(&around)).await;
            looked.unwrap_or_else(|_| vec![unfinished(name, "the check itself failed, which is a defect of ours")])
        })
    };
    let (names, way_out, trust, go, cache, ports, gateway) = tokio::join!(
        within("dns", dns::check(around)),
        within("mirror", mirrors::check(around)),
        within("trust", trust::check(around)),
        blocking("go", go::check),
        blocking("cache", cache::check),
        blocking("port", ports::check),
        blocking("gateway", gateway::check),
    );
    let local = [place::check(around), trust::check_ca(around), variables::check(around)];
    let [place, mut ca, variables] = local;
    trust::heed_clock(&mut ca, &way_out);
    [place, names, way_out, ca, trust, variables, go, cache, ports, gateway].concat()
}

async fn within(name: &'static str, check: impl Future<Output = Vec<Finding>>) -> Vec<Finding> {
    match tokio::time::timeout(PATIENCE, check).await {
        Ok(findings) => findings,
        Err(_) => vec![unfinished(name, &format!("it was not done within {} s", PATIENCE.as_secs()))],
    }
}

fn unfinished(name: &'static str, why: &str) -> Finding {
    Finding::warning(name, "", why, Mend::Ask("you: run goanyway doctor again".to_owned()))
}

/// Runs what findings name as safe, each once and in their order, and says so before.
fn mend(findings: &[Finding]) -> Vec<Fixed> {
    let mut fixed: Vec<Fixed> = Vec::new();
    for finding in findings.iter().filter(|finding| finding.verdict != Verdict::Ok) {
        let Some(mend @ Mend::Run(words)) = &finding.mend else { continue };
        let line = mend.command().unwrap_or_default();
        if fixed.iter().any(|one| one.command == line) {
            continue;
        }
        anstream::eprintln!("goanyway: {finding}\n$ {line}");
        let code = run(words);
        if code != Some(0) {
            anstream::eprintln!("goanyway: that failed");
        }
        fixed.push(Fixed { command: line, code });
    }
    fixed
}

/// Standard output is for the report alone; our own name means this very program.
fn run(words: &[String]) -> Option<i32> {
    let (program, arguments) = words.split_first()?;
    let own = std::env::current_exe().ok().filter(|_| program == "goanyway");
    let mut command = own.map_or_else(|| Command::new(program), Command::new);
    let output = command.args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    match output {
        Ok(output) => {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), &output.stdout);
            output.status.code()
        }
        Err(error) => {
            anstream::eprintln!("goanyway: cannot run {program}: {error}");
            None
        }
    }
}
