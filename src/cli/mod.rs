//! What a user types. One file a command; this one parses, gathers the settings, and turns
//! outcomes into exit codes: 0 done, 1 the answer is no, 2 wrong usage or configuration, 3 could
//! not find out.
//!
//! Data goes to standard output, everything else to standard error. An error is one line; what to
//! do follows after an empty one.

mod ca;
mod cache;
mod completions;
mod config;
mod doctor;
mod env;
mod examples;
mod gateway;
#[cfg(test)]
mod golden;
mod log;
mod man;
mod output;
mod readers;
mod reload;
mod resolve;
mod run;
mod serve;
mod signals;
mod sources;
mod stores;
mod summary;
mod warm;

pub use resolve::render as render_explanation;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytesize::ByteSize;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueHint};
use tracing::level_filters::LevelFilter;

use crate::config::{Many, ROWS, Row, Settings};
use crate::daemon;
use crate::goproxy::BadFile;
use crate::metrics::Registry;
use crate::resolve::Resolver;
use crate::service::Inherited;
use sources::Sources;

/// Does what was typed.
pub fn execute(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version end here too, with 0.
            let code = ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
            return match output::settle(error.print()) {
                Err(failure) if !error.use_stderr() => failure.report(),
                _ => code,
            };
        }
    };
    match dispatch(&matches) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn dispatch(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    match matches.subcommand() {
        Some(("serve", matches)) => serve::serve(matches, matches.get_one::<PathBuf>("ready-file")),
        Some(("run", matches)) => run::run(settings(matches)?, &run::RunArgs::from_arg_matches(matches)?),
        Some(("warm", matches)) => warm::warm(settings(matches)?, &warm::WarmArgs::from_arg_matches(matches)?),
        Some(("resolve", matches)) => resolve_names(quiet(matches)?, &resolve::Args::from_arg_matches(matches)?),
        Some(("doctor", matches)) => {
            doctor::doctor(quiet(matches), matches, &doctor::DoctorArgs::from_arg_matches(matches)?)
        }
        Some(("env", matches)) => print_env(&settings(matches)?, &env::EnvArgs::from_arg_matches(matches)?),
        Some(("ca", matches)) => ca::tend(&ca::CaArgs::from_arg_matches(matches)?, &settings(matches)?),
        Some(("cache", matches)) => cache::tend(&settings(matches)?, &cache::CacheArgs::from_arg_matches(matches)?),
        Some(("gateway", matches)) => {
            gateway::tend(&settings(matches)?, &gateway::GatewayArgs::from_arg_matches(matches)?)
        }
        Some(("config", matches)) => config::tend(matches),
        Some(("completions", matches)) => completions::print(&completions::CompletionsArgs::from_arg_matches(matches)?),
        Some(("man", matches)) => man::write(&man::ManArgs::from_arg_matches(matches)?),
        _ => unreachable!("clap wants one of the commands above"),
    }
}

/// `goanyway resolve`: the ladder alone, with what is kept of earlier look-ups.
fn resolve_names(settings: Settings, args: &resolve::Args) -> Result<ExitCode, Failure> {
    let state_dir = settings.state_dir.path.filter(|path| path.is_dir());
    let config = crate::resolve::Config { state_dir, ..settings.resolve };
    let runtime = tokio::runtime::Runtime::new()?;
    let resolver = Resolver::new(config, runtime.handle().clone(), &Registry::default())?;
    let code = runtime.block_on(resolve::run(args, &resolver, &mut anstream::stdout())).map_err(Failure::Output)?;
    Ok(ExitCode::from(code))
}

/// `goanyway env`: data for a shell, warnings for a person.
fn print_env(settings: &Settings, args: &env::EnvArgs) -> Result<ExitCode, Failure> {
    let Some(&listener) = settings.listen.first() else {
        let over_tls =
            "every listener speaks TLS: a client is told HTTPS_PROXY=https://NAME:PORT, NAME as in its certificate";
        return Err(Failure::Wanted(over_tls.to_owned()));
    };
    let state_dir = settings.state_dir.path.clone().unwrap_or_else(std::env::temp_dir);
    let gathered = env::gather(&env::current(), listener, &settings.intercept, &state_dir);
    output::print(&readers::print(args.shell, &gathered))?;
    for warning in env::advise(args.shell, &gathered) {
        anstream::eprintln!("goanyway: {warning}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The whole command line.
fn command() -> Command {
    let line = examples::add(bare());
    line.mut_subcommand("serve", |serve| {
        let examples = serve.get_after_help().map(ToString::to_string).unwrap_or_default();
        serve.after_long_help(format!("{}\n{examples}", flagless()))
    })
}

/// The settings that have no flag, for the help that has all of them.
fn flagless() -> String {
    let row = |row: &Row| {
        let (about, variable) = (capital(row.about), row.variable());
        format!("  {}\n          {about} [{}]\n          Variable {variable}\n\n", row.key, row.default)
    };
    let rows: String = ROWS.iter().filter(|row| row.flag.is_none()).map(row).collect();
    format!("Settings without a flag, by their keys in goanyway.toml:\n{rows}")
}

/// The same without its examples.
fn bare() -> Command {
    let everything: &[&str] = &[""];
    Command::new("goanyway")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Go builds go through, anyway: a DNS-resilient forward proxy and module cache")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .max_term_width(WIDEST)
        .subcommand(
            with_settings(Command::new("serve").about("Run the proxy (defaults need no file and no flag)"), everything)
                .arg(
                    Arg::new("ready-file")
                        .long("ready-file")
                        .value_name("FILE")
                        .value_parser(clap::value_parser!(PathBuf))
                        .env("GOANYWAY_READY_FILE")
                        .help("Written when serving: one listen= or admin=ADDRESS a line"),
                ),
        )
        .subcommand(with_settings(
            run::RunArgs::augment_args(
                Command::new("run")
                    .about("Start a private proxy and run one command through it")
                    .override_usage("goanyway run [OPTIONS] -- COMMAND [ARGUMENT]..."),
            ),
            &["cache", "state_dir", "intercept", "resolve", "goproxy", "connect", "fetch", "admit", "trace", "log"],
        ))
        .subcommand(with_settings(
            warm::WarmArgs::augment_args(Command::new("warm").about("Fill the cache ahead of a build")),
            &["cache", "state_dir", "resolve", "goproxy", "connect", "fetch", "admit.allow", "admit.ports", "log"],
        ))
        .subcommand(with_settings(
            resolve::Args::augment_args(
                Command::new("resolve").about("Resolve as the proxy would, and show every server's answer"),
            ),
            &["resolve", "state_dir", "admit.allow", "goproxy.private", "log"],
        ))
        .subcommand(with_settings(
            doctor::DoctorArgs::augment_args(
                Command::new("doctor")
                    .about("Check DNS, mirrors, trust, go's settings and the cache; name what mends it"),
            ),
            &[
                "listen",
                "admin.listen",
                "cache",
                "state_dir",
                "intercept",
                "resolve",
                "goproxy",
                "connect",
                "admit.allow",
                "admit.clients",
                "transparent",
                "dns",
            ],
        ))
        .subcommand(with_settings(
            env::EnvArgs::augment_args(Command::new("env").about("Print the settings that a client needs")),
            &["listen", "intercept", "state_dir", "log"],
        ))
        .subcommand(
            with_settings(
                ca::CaArgs::augment_args(Command::new("ca").about("Make, show, rotate and hand out the local CA")),
                &["intercept", "state_dir", "log"],
            )
            // Typed after the verb: goanyway ca rotate --intercept HOST
            .mut_args(|arg| arg.global(true)),
        )
        .subcommand(
            with_settings(
                cache::CacheArgs::augment_args(Command::new("cache").about("Look at what is kept, check it, carry it")),
                &["cache", "goproxy.sumdb", "log"],
            )
            // They may follow the name of what is to be done.
            .mut_args(|arg| arg.global(true)),
        )
        .subcommand(
            with_settings(
                gateway::GatewayArgs::augment_args(
                    Command::new("gateway").about("Send a build subnet here: the nftables rules of a gateway"),
                ),
                &["transparent", "dns", "admit.clients", "admit.allow", "log"],
            )
            .mut_args(|arg| arg.global(true)),
        )
        .subcommand(
            config::ConfigArgs::augment_args(Command::new("config"))
                .mut_subcommand("show", |show| with_settings(show, everything)),
        )
        .subcommand(completions::CompletionsArgs::augment_args(Command::new("completions")))
        .subcommand(man::ManArgs::augment_args(Command::new("man")))
}

/// Adds the flags of all settings under these keys.
fn with_settings(command: Command, keys: &[&str]) -> Command {
    let concerns = |row: &&Row| keys.iter().any(|key| row.key.starts_with(key));
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help_heading("Settings")
        .help("The file of settings, instead of the usual ones");
    let mut command = command.arg(file);
    let are_many = ROWS.iter().filter(concerns).count() > FEW;
    for row in ROWS.iter().filter(concerns) {
        let Some(flag) = row.flag else { continue };
        let action = if row.many == Many::One { ArgAction::Set } else { ArgAction::Append };
        let arg = Arg::new(row.key)
            .long(flag)
            .value_name(row.value)
            .action(action)
            .help(capital(row.about))
            .long_help(format!(
                "{} [{}]\n\nVariable {}, key {}",
                capital(row.about),
                row.default,
                row.variable(),
                row.key
            ))
            .value_hint(hint(row))
            .hide_short_help(are_many && !OFTEN.contains(&row.key))
            .help_heading("Settings");
        command = command.arg(arg);
        if flag == "intercept-mode" {
            let off = Arg::new("no-intercept").long("no-intercept").action(ArgAction::SetTrue).help_heading("Settings");
            let off = off.hide_short_help(are_many).conflicts_with(row.key);
            command = command.arg(off.help("The same as --intercept-mode off"));
        }
    }
    command
}

/// By what a shell completes a value.
fn hint(row: &Row) -> ValueHint {
    match row.value {
        "FILE" => ValueHint::FilePath,
        "DIR" => ValueHint::DirPath,
        _ => ValueHint::Other,
    }
}

/// The widest that help is.
const WIDEST: usize = 100;

/// A command with more settings than these has only those in its short help that many people need.
const FEW: usize = 12;
const OFTEN: [&str; 16] = [
    "listen",
    "transparent.listen",
    "dns.listen",
    "admin.listen",
    "cache.dir",
    "cache.size",
    "intercept.hosts",
    "intercept.mode",
    "resolve.nameservers",
    "resolve.fallback",
    "resolve.private",
    "goproxy.upstreams",
    "goproxy.private",
    "connect.parent",
    "admit.allow",
    "admit.clients",
];

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// The settings of a command, and its log begun.
fn settings(matches: &ArgMatches) -> Result<Settings, Failure> {
    begin(matches, LevelFilter::INFO)
}

/// The same for a command whose output tells all that its log would.
fn quiet(matches: &ArgMatches) -> Result<Settings, Failure> {
    begin(matches, LevelFilter::WARN)
}

/// Reads its settings, and begins its log.
fn begin(matches: &ArgMatches, usual: LevelFilter) -> Result<Settings, Failure> {
    say_strangers();
    let typed = Sources::of(matches, &Inherited::default()).read()?;
    let settings = sources::understand(&typed)?;
    log::begin(settings.log, usual, log::Times::Untold);
    Ok(settings)
}

/// A mistyped variable is otherwise as good as not set.
fn say_strangers() {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for sentence in crate::config::strangers(names) {
        anstream::eprintln!("goanyway: {sentence}");
    }
}

/// Why a command ends without having done what it was for.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Settings(#[from] crate::config::Error),
    #[error("{0}")]
    Usage(#[from] clap::Error),
    #[error("{0}")]
    Start(#[from] daemon::Error),
    #[error("{0}")]
    Resolve(#[from] crate::resolve::Error),
    #[error("{0}")]
    Authority(#[from] crate::intercept::Error),
    #[error("{0}")]
    Store(#[from] stores::Error),
    #[error("{0}")]
    Folder(#[from] crate::cache::Error),
    #[error("{0}")]
    Unfit(#[from] crate::gateway::Unfit),
    #[error("{0}")]
    Gateway(#[from] crate::gateway::Error),
    #[error("{0}")]
    Wanted(String),
    #[error("cannot read {path}: {error}", path = path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path}:{bad}", path = path.display())]
    Line { path: PathBuf, bad: BadFile },
    #[error("cannot write {path}: {error}", path = path.display())]
    Write { path: PathBuf, error: std::io::Error },
    #[error("cannot write to standard output: {0}")]
    Output(std::io::Error),
    #[error("{0}")]
    System(#[from] std::io::Error),
}

impl Failure {
    fn report(&self) -> ExitCode {
        anstream::eprintln!("error: {self}");
        if let Some(hint) = self.hint() {
            anstream::eprintln!("\nhint: {hint}");
        }
        ExitCode::from(2)
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Failure::Settings(error) if error.is_of_a_file() => {
                Some("goanyway config check FILE says all that is wrong with a file at once")
            }
            Failure::Settings(error) if error.is_no_file() => {
                Some("goanyway config show > goanyway.toml makes one of what holds now; none is needed")
            }
            Failure::Settings(_) => Some("goanyway serve --help lists every setting, its default and its flag"),
            Failure::Store(_) => Some(
                "a system's store is root's to change: as root, with --ca-dir for the CA's folder; or --system none",
            ),
            Failure::Gateway(error) => error.hint(),
            Failure::Line { bad, .. } => Some(bad.why.hint()),
            _ => None,
        }
    }
}

/// So many of something, in words.
fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Bytes as networks and disks count them: a kB is 1000.
fn size(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}

/// Whether what stands there is written into, as by a shell's `>`: a device, a pipe, an output of ours. A file that is
/// renamed would take its place, for everybody on this machine.
fn is_written_into(path: &Path) -> bool {
    let is_output = ["/dev/stdout", "/dev/stderr"].map(Path::new).contains(&path);
    let is_open = ["/dev/fd", "/proc"].iter().any(|folder| path.starts_with(folder));
    let is_other = || std::fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir());
    is_output || is_open || is_other()
}

/// Where an output goes.
enum Destination {
    /// What is no file cannot be replaced by one.
    Into(std::fs::File),
    /// This file's place, once all of it is written.
    Place(PathBuf),
}

impl Destination {
    fn of(path: &Path) -> std::io::Result<Destination> {
        if is_written_into(path) {
            return std::fs::OpenOptions::new().append(true).open(path).map(Destination::Into);
        }
        Ok(Destination::Place(behind_links(path)))
    }
}

/// Not in the place of a link, but of what it leads to, which need not be there yet.
fn behind_links(path: &Path) -> PathBuf {
    let mut place = path.to_owned();
    // As many as Linux follows (path_resolution(7)); what is beyond is no way to anywhere.
    for _ in 0..40 {
        match std::fs::read_link(&place) {
            Ok(next) => place = folder_of(&place).join(next),
            Err(_) => break,
        }
    }
    place
}

/// A draft beside a file that will take its place, with the rights that any other file of the user's would have
/// there: those of the one before it, or what the umask leaves.
fn draft_beside(place: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".goanyway-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let draft = builder.tempfile_in(folder_of(place))?;
    #[cfg(unix)]
    if let Ok(before) = std::fs::metadata(place) {
        draft.as_file().set_permissions(before.permissions())?;
    }
    Ok(draft)
}

/// The folder that a file lies in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a small file whole or not at all.
fn write_aside(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let failed = |error| Failure::Write { path: path.to_owned(), error };
    let place = match Destination::of(path).map_err(failed)? {
        Destination::Into(mut file) => return std::io::Write::write_all(&mut file, content).map_err(failed),
        Destination::Place(place) => place,
    };
    let mut file = draft_beside(&place).map_err(failed)?;
    std::io::Write::write_all(&mut file, content).map_err(failed)?;
    file.persist(place).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }
}
