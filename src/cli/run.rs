//! `goanyway run -- COMMAND`: a private proxy on free ports, one command through it, its exit code,
//! and two lines on what was served. Nothing need be set up, and nothing need be reachable: `--offline` lets
//! nothing out, `--frozen` nothing in that was not there before (docs/run.md).
//!
//! Whoever signals us means the command, and all that it started. Without a terminal it has a process
//! group of its own, which gets what we are told. On a terminal it stays in ours, because a shell stops,
//! continues and interrupts a job by its group, and what the terminal said to all is not said twice.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Arg, Args};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::process::{Child, Command};

use super::signals::{Signals, Told};
use super::summary::{Aside, Fetched, Missing, SCHEMA, Summary, Totals, list_missing, read_frozen};
use super::{Failure, env};
use crate::accept;
use crate::admit::{Closed, Credential};
use crate::config::{self, Settings};
use crate::daemon::{self, Running};
use crate::goproxy::{Fetch, Ledger};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Write down every file that the command was served (docs/run.md)
    #[arg(long, value_name = "FILE.json", env = "GOANYWAY_SUMMARY", hide_env_values = true)]
    summary: Option<PathBuf>,
    /// Let nothing leave: what is not in the cache is missing, and listed at the end
    #[arg(long, env = "GOANYWAY_OFFLINE", hide_env_values = true)]
    offline: bool,
    /// Serve only what that summary holds, by module, version and h1
    #[arg(long, value_name = "FILE.json", env = "GOANYWAY_FROZEN", hide_env_values = true)]
    frozen: Option<PathBuf>,
    /// The command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND",
        value_hint = clap::ValueHint::CommandWithArguments
    )]
    command: Vec<std::ffi::OsString>,
}

/// How long a zip of a frozen run is held: until it is whole.
const FROZEN_HOLD: Duration = Duration::from_secs(24 * 3600);
/// How long a summary waits for files that are on their way to disk.
const SETTLE: Duration = Duration::from_secs(5);

/// What a shell says of a command that is not there.
const NOT_FOUND: u8 = 127;
/// What a shell says of one that is there and cannot be run.
const NOT_RUNNABLE: u8 = 126;
/// What a shell adds to a signal's number.
const SIGNALLED: i32 = 128;

pub(super) fn run(mut settings: Settings, args: &RunArgs) -> Result<ExitCode, Failure> {
    judge_command(args)?;
    let password = secret()?;
    let aside = args.summary.as_deref().map(Aside::begin).transpose()?;
    settings.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    settings.listen_tls.clear();
    settings.transparent.clear();
    settings.dns.clear();
    settings.accept = accept::Config::default();
    settings.admin = None;
    settings.admit.credentials = None;
    settings.admit.credential = Some(Credential::new(&password));
    let ledger = Ledger::default();
    settings.goproxy.ledger = Some(ledger.clone());
    close(&mut settings, args)?;
    let state_dir = settings.state_dir.path.clone();
    let running = daemon::start(settings)?;
    for notice in &running.notices {
        anstream::eprintln!("goanyway: {notice}");
    }
    let (began, begun) = (jiff::Timestamp::now(), Instant::now());
    let variables = surround(&running, password, state_dir.as_deref());
    let exit = running.runtime().block_on(command(args, variables))?;
    let took = begun.elapsed();
    let account = running.runtime().block_on(account(&running, aside.is_some()));
    let (faults, names) = (running.goproxy.totals().faults, running.resolver.totals());
    let fetches: Vec<Fetched> = account.into_iter().filter_map(Fetched::of).collect();
    let totals = Totals::of(&fetches, names, running.resolver.rescues(), faults);
    let missing = missing(&running, &ledger);
    anstream::eprint!("{}", totals.lines(took));
    let (offline, frozen) = (args.offline, args.frozen.is_some());
    if offline || frozen {
        anstream::eprint!("{}", list_missing(&missing));
    }
    let (goanyway, seconds) = (env!("CARGO_PKG_VERSION").to_owned(), took.as_secs_f64());
    let summary = Summary { schema: SCHEMA, goanyway, began, seconds, exit, offline, frozen, totals, fetches, missing };
    let written = aside.map_or(Ok(()), |aside| aside.finish(&summary));
    // The command is done: nothing of ours is worth waiting for.
    running.cutter().cancel();
    running.stop();
    match written {
        // Its own word counts for more than ours.
        Err(failure) if exit != 0 => drop(failure.report()),
        written => written?,
    }
    Ok(ExitCode::from(exit))
}

/// Closes what this run is to do without.
fn close(settings: &mut Settings, args: &RunArgs) -> Result<(), Failure> {
    if let Some(path) = &args.frozen {
        settings.goproxy.frozen = Some(Arc::new(read_frozen(path)?));
        settings.admit.closed = Some(Closed::Frozen);
        // Whole and right before the first byte leaves: what went out could not be taken back.
        (settings.goproxy.hold, settings.goproxy.hold_for) = (u64::MAX, FROZEN_HOLD);
    }
    if args.offline {
        settings.goproxy.offline = true;
        settings.admit.closed = Some(Closed::Offline);
        settings.otlp = None;
    }
    settings.goproxy.siblings &= settings.admit.closed.is_none();
    Ok(())
}

/// What was served. What is still on its way to the disk has its sum only there.
async fn account(running: &Running, with_sums: bool) -> Vec<Fetch> {
    if with_sums {
        let _ = tokio::time::timeout(SETTLE, running.goproxy.settled()).await;
    }
    running.goproxy.account(with_sums).await
}

/// What was asked for and not had: files, and whoever else was not to be reached.
fn missing(running: &Running, ledger: &Ledger) -> Vec<Missing> {
    let files = ledger.missing().into_iter().map(|(what, reason)| Missing { what, reason });
    let refused = |what| Missing { what, reason: "it is no file of a module, so it was not reached".to_owned() };
    files.chain(running.admission.missed().into_iter().map(refused)).collect()
}

/// What the child's environment gets; what a person should know of it is said.
fn surround(running: &Running, password: String, state_dir: Option<&Path>) -> Vec<(&'static str, String)> {
    let environment = env::current();
    let root = running.interceptor.root_pem().and_then(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).ok());
    let folder = state_dir.map_or_else(std::env::temp_dir, Path::to_path_buf);
    let trust = root.and_then(|root| match env::find_trust(&environment, &root, &folder) {
        Ok(trust) => trust,
        Err(why) => {
            anstream::eprintln!("goanyway: {}", env::Warning::NoBundle { dir: folder, why: why.to_string() });
            None
        }
    });
    let facts = env::Facts {
        proxy: running.bound.listen[0],
        listening: true,
        module_path: format!("/{password}"),
        password: Some(password),
        trust,
        sha256: None,
    };
    let settings = env::settings(&environment, &facts);
    for warning in &settings.warnings {
        anstream::eprintln!("goanyway: {warning}");
    }
    settings.variables
}

/// 128 bits that nobody else on this machine can guess; also a valid path component.
pub(super) fn secret() -> Result<String, Failure> {
    use rustls::crypto::SecureRandom;
    let mut bytes = [0u8; 16];
    let random: &dyn SecureRandom = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| std::io::Error::other("the system gives no random bytes"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whatever stands first and is no flag of ours is the command; none begins with a dash.
fn judge_command(args: &RunArgs) -> Result<(), Failure> {
    let first = args.command[0].to_string_lossy();
    if !first.starts_with('-') {
        return Ok(());
    }
    let line = super::command();
    let own = line.find_subcommand("run").into_iter().flat_map(|run| run.get_arguments()).filter_map(Arg::get_long);
    let flags: Vec<String> = own.map(|long| format!("--{long}")).collect();
    let typed = first.split('=').next().unwrap_or_default();
    let hint = config::did_you_mean(config::near(typed, flags.iter().map(String::as_str)));
    Err(Failure::Wanted(format!(
        "{typed} is no flag of run{hint} (after -- stands the command: goanyway run -- go build ./...)"
    )))
}

async fn command(args: &RunArgs, variables: Vec<(&'static str, String)>) -> Result<u8, Failure> {
    let program = &args.command[0];
    let mut command = Command::new(program);
    command.args(&args.command[1..]).envs(variables);
    let mut signals = Signals::listen()?.and_hangup()?.and_meant()?;
    let group = Group::choose();
    let mut child = match group.join(&mut command).spawn() {
        Ok(child) => child,
        Err(error) => {
            let absent = error.kind() == std::io::ErrorKind::NotFound;
            let is_name = Path::new(program).components().count() == 1;
            let why = if absent && is_name { "it is not on the PATH".to_owned() } else { error.to_string() };
            anstream::eprintln!("error: cannot run {}: {why}", program.display());
            return Ok(if absent { NOT_FOUND } else { NOT_RUNNABLE });
        }
    };
    let status = wait(&mut child, group, &mut signals).await?;
    Ok(exit_code(status))
}

/// Waits for the child and passes on what we are told.
async fn wait(child: &mut Child, group: Group, signals: &mut Signals) -> Result<ExitStatus, Failure> {
    let mut echo = None;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status?),
            told = signals.next() => {
                // What we said to our own group comes back to us.
                if echo.take() != Some(told) {
                    echo = group.pass_on(child, told).then_some(told);
                }
            }
        }
    }
}

/// Which process group the command is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    /// One of its own.
    Own,
    /// Ours, which a terminal's shell governs.
    Ours,
}

#[cfg(unix)]
impl Group {
    fn choose() -> Group {
        if terminal_group().is_some() { Group::Ours } else { Group::Own }
    }

    fn join(self, command: &mut Command) -> &mut Command {
        match self {
            Group::Own => command.process_group(0),
            Group::Ours => command,
        }
    }

    /// Says it to the command's group; whether we are in that group, too. What cannot be said any more,
    /// because all of it has ended this very moment, the wait tells.
    fn pass_on(self, child: &Child, told: Told) -> bool {
        use rustix::process::{Pid, Signal, getpgrp, getpid, kill_process, kill_process_group};
        let signal = match told {
            Told::Terminate => Signal::TERM,
            Told::Interrupt => Signal::INT,
            Told::Hangup => Signal::HUP,
            Told::Quit => Signal::QUIT,
            Told::User1 => Signal::USR1,
            Told::User2 => Signal::USR2,
        };
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let Some(pid) = id.and_then(Pid::from_raw) else { return false };
        match self {
            Group::Own => {
                let _ = kill_process_group(pid, signal);
                false
            }
            // From the keyboard: everybody in the foreground has it.
            Group::Ours if told.is_typed() && terminal_group() == Some(getpgrp()) => false,
            // A shell made the group for us alone.
            Group::Ours if getpgrp() == getpid() => kill_process_group(getpgrp(), signal).is_ok(),
            // A script's group, which is not ours to end.
            Group::Ours => {
                let _ = kill_process(pid, signal);
                false
            }
        }
    }
}

#[cfg(not(unix))]
impl Group {
    fn choose() -> Group {
        Group::Ours
    }

    fn join(self, command: &mut Command) -> &mut Command {
        command
    }

    fn pass_on(self, _: &Child, _: Told) -> bool {
        false
    }
}

/// The group in the foreground of the terminal that governs us; nothing, if none does.
#[cfg(unix)]
fn terminal_group() -> Option<rustix::process::Pid> {
    use rustix::termios::tcgetpgrp;
    let (input, output, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    tcgetpgrp(input).or_else(|_| tcgetpgrp(output)).or_else(|_| tcgetpgrp(errors)).ok()
}

fn exit_code(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return u8::try_from(SIGNALLED + signal).unwrap_or(1);
    }
    u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_flag_is_taken_for_one_that_run_has() {
        let said = |first: &str| {
            let command = vec![first.into(), "go".into()];
            judge_command(&RunArgs { summary: None, offline: false, frozen: None, command }).unwrap_err().to_string()
        };
        for (typed, meant) in [
            ("--ofline", "--offline"),
            ("--no-intercpt", "--no-intercept"),
            ("--cache-dirr=/x", "--cache-dir"),
            ("--cnfig", "--config"),
        ] {
            assert!(said(typed).contains(&format!("is no flag of run; did you mean {meant}? (")), "{}", said(typed));
        }
        // They are serve's.
        for foreign in ["--transparent", "--ready-file", "--listen-tls"] {
            assert!(!said(foreign).contains(&format!("did you mean {foreign}?")), "{}", said(foreign));
        }
    }

    #[test]
    fn a_secret_is_long_and_new_each_time() {
        let (one, other) = (secret().unwrap(), secret().unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, other);
    }
}
