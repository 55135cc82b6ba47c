//! `goanyway run -- COMMAND`: a private proxy on free ports, one command through it, its exit code,
//! and two lines on what was served.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::time::Instant;

use clap::Args;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::process::{Child, Command};

use super::signals::{Signals, Told};
use super::{Failure, env};
use crate::admit::Credential;
use crate::config::Settings;
use crate::daemon::{self, Running};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<std::ffi::OsString>,
}

/// What a shell says of a command that is not there.
const NOT_FOUND: u8 = 127;
/// What a shell adds to a signal's number.
const SIGNALLED: i32 = 128;

pub(super) fn run(mut settings: Settings, args: &RunArgs) -> Result<ExitCode, Failure> {
    let password = secret()?;
    settings.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    settings.admin = None;
    settings.admit.credential = Some(Credential::new(&password));
    let state_dir = settings.state_dir.path.clone();
    let running = daemon::start(settings)?;
    for notice in &running.notices {
        anstream::eprintln!("goanyway: {notice}");
    }
    let begun = Instant::now();
    let variables = surround(&running, password, state_dir.as_deref());
    let code = running.runtime().block_on(command(args, variables))?;
    anstream::eprint!("{}", summary(&running, begun));
    // The command is done: nothing of ours is worth waiting for.
    running.cutter().cancel();
    running.stop();
    Ok(code)
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

async fn command(args: &RunArgs, variables: Vec<(&'static str, String)>) -> Result<ExitCode, Failure> {
    let program = &args.command[0];
    let mut command = Command::new(program);
    command.args(&args.command[1..]).envs(variables);
    let mut signals = Signals::listen()?;
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            anstream::eprintln!("error: cannot run {}: {error}", program.display());
            return Ok(ExitCode::from(NOT_FOUND));
        }
    };
    let status = wait(&mut child, &mut signals).await?;
    Ok(ExitCode::from(exit_code(status)))
}

/// Waits for the child and passes on what we are told: a terminal's Ctrl-C reaches it without us,
/// a SIGTERM does not.
async fn wait(child: &mut Child, signals: &mut Signals) -> Result<ExitStatus, Failure> {
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status?),
            told = signals.next() => if told == Told::Terminate { terminate(child) },
        }
    }
}

#[cfg(unix)]
fn terminate(child: &Child) {
    use rustix::process::{Pid, Signal, kill_process};
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = id.and_then(Pid::from_raw) {
        // It may have ended this very moment; then the wait says so.
        let _ = kill_process(pid, Signal::TERM);
    }
}

#[cfg(not(unix))]
fn terminate(_: &Child) {}

fn exit_code(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return u8::try_from(SIGNALLED + signal).unwrap_or(1);
    }
    u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)
}

/// Two lines: what was served and saved, what was rescued.
fn summary(running: &Running, begun: Instant) -> String {
    let (served, names) = (running.goproxy.totals(), running.resolver.totals());
    let size = |bytes| bytesize::ByteSize(bytes).display().si();
    format!(
        "goanyway: {} from the cache ({} saved), {} from upstream ({}), in {:.1} s\n\
         goanyway: {} looked up, {} of them rescued; {} of mirrors met\n",
        count(served.from_cache, "file"),
        size(served.bytes_from_cache),
        served.from_upstream,
        size(served.bytes_from_upstream),
        begun.elapsed().as_secs_f64(),
        count(names.asked, "name"),
        names.rescued,
        count(served.faults, "fault"),
    )
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_long_and_new_each_time() {
        let (one, other) = (secret().unwrap(), secret().unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, other);
    }
}
