//! `goanyway config`: the settings that hold and where each comes from; what is wrong with a file of settings.
//!
//! `show` is itself a file of settings: what was typed stands in it as it was typed, and what holds by default as
//! a comment, so that a copy of it pins nothing that nobody chose. No password is in it. `check` says all that is
//! wrong at once, as `serve` would say it one by one; it looks at no folder, port or certificate.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgMatches, Args, FromArgMatches, Subcommand};
use serde::Serialize;

use super::Failure;
use super::output::print;
use super::readers::pretty;
use super::sources::{self, Sources, around};
use crate::config::{self, Fault, Origin, Shown, Value};
use crate::service::Inherited;

/// The settings that hold, and where each comes from; what is wrong with a file of them
#[derive(Args, Clone, Debug)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum ConfigCommand {
    /// Print the settings that hold here, and where each comes from
    Show(Show),
    /// Say all that is wrong with files of settings, with line and column
    Check(Check),
}

#[derive(Args, Clone, Debug)]
struct Show {
    /// Print one JSON object (docs/json.md)
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct Check {
    /// Files of settings, each judged alone [default: what serve would read here, variables too]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print one JSON object (docs/json.md)
    #[arg(long)]
    json: bool,
}

pub(super) fn tend(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let args = ConfigArgs::from_arg_matches(matches)?;
    match (&args.command, matches.subcommand()) {
        (ConfigCommand::Show(args), Some((_, matches))) => show(args, matches),
        (ConfigCommand::Check(args), _) => check(args),
        (ConfigCommand::Show(_), None) => unreachable!("clap gives what follows a subcommand with it"),
    }
}

fn show(args: &Show, matches: &ArgMatches) -> Result<ExitCode, Failure> {
    super::say_strangers();
    let sources = Sources::of(matches, &Inherited::default());
    let typed = sources.read()?;
    let settings = sources::understand(&typed)?;
    let shown = config::show(&typed, &settings);
    let file = sources.file();
    print(&if args.json { pretty(&Report::of(&shown, file)) + "\n" } else { write(&shown, file) })
}

/// The settings as a file of them.
fn write(shown: &[Shown], file: Option<&Path>) -> String {
    let read = file.map_or("no file was read".to_owned(), |file| format!("the file is {}", told(&file.display())));
    let mut text = format!(
        "# The settings of goanyway {} that hold here; {read}.\n\
         # Lines that begin with # are defaults. Behind each stands where it comes from.\n",
        env!("CARGO_PKG_VERSION")
    );
    let table = |one: &Shown| one.row.key.split_once('.').map_or("", |(table, _)| table);
    let mut tables: Vec<&str> = vec![""];
    for one in shown {
        if !tables.contains(&table(one)) {
            tables.push(table(one));
        }
    }
    for name in tables {
        text += &if name.is_empty() { "\n".to_owned() } else { format!("\n[{name}]\n") };
        shown.iter().filter(|one| table(one) == name).for_each(|one| text += &line(one));
    }
    text
}

/// How far to the right it is said where a setting comes from.
const MARGIN: usize = 44;

fn line(shown: &Shown) -> String {
    let key = shown.row.key.rsplit('.').next().unwrap_or_default();
    let quoted = |text: &String| toml::Value::String(text.clone()).to_string();
    let value = match &shown.value {
        Value::One(text) => quoted(text),
        Value::List(texts) => format!("[{}]", texts.iter().map(quoted).collect::<Vec<_>>().join(", ")),
        Value::Words => shown.row.value.to_owned(),
    };
    let (mark, mut from) = match &shown.origin {
        None => ("# ", format!("default: {}", shown.row.default)),
        Some(origin) => ("", told(&place(origin))),
    };
    if shown.is_veiled {
        from += "; *** stands for what is secret in it";
    }
    if shown.origin.is_some() && adds(shown) {
        from += &format!("; beside {}", shown.row.default);
    }
    let set = format!("{mark}{key} = {value}");
    format!("{set:<MARGIN$}  # {from}\n")
}

/// Whether what was typed is added to something.
fn adds(shown: &Shown) -> bool {
    shown.row.many == config::Many::Add && shown.row.default != "none" && !REPLACED.contains(&shown.row.key)
}

/// Their defaults are what somebody else set, and hold where nothing is typed here.
const REPLACED: [&str; 2] = ["goproxy.private", "connect.parent"];

/// A comment ends with its line, whatever is in a path.
fn told(text: &impl ToString) -> String {
    text.to_string().replace(char::is_control, "?")
}

fn place(origin: &Origin) -> String {
    match origin {
        Origin::File { path, line, .. } => format!("{}:{line}", path.display()),
        origin => origin.to_string(),
    }
}

/// `config show --json`.
#[derive(Serialize)]
struct Report<'a> {
    /// Of this form. Fields may be added to it; none is renamed, removed or given another meaning.
    version: u32,
    goanyway: &'static str,
    file: Option<&'a Path>,
    settings: Vec<Setting<'a>>,
}

#[derive(Serialize)]
struct Setting<'a> {
    key: &'static str,
    /// A text, a list of texts, or null where there is nothing that could be typed.
    value: Option<serde_json::Value>,
    source: &'static str,
    place: Option<String>,
    flag: Option<String>,
    variable: String,
    about: &'static str,
    default: &'a str,
    /// `***` stands for something in it.
    secret: bool,
}

impl<'a> Report<'a> {
    fn of(shown: &'a [Shown], file: Option<&'a Path>) -> Report<'a> {
        let setting = |one: &'a Shown| Setting {
            key: one.row.key,
            value: match &one.value {
                Value::One(text) => Some(text.as_str().into()),
                Value::List(texts) => Some(texts.clone().into()),
                Value::Words => None,
            },
            source: one.origin.as_ref().map_or("default", source),
            place: one.origin.as_ref().map(place),
            flag: one.row.flag.map(|flag| format!("--{flag}")),
            variable: one.row.variable(),
            about: one.row.about,
            default: one.row.default,
            secret: one.is_veiled,
        };
        let settings = shown.iter().map(setting).collect();
        Report { version: 1, goanyway: env!("CARGO_PKG_VERSION"), file, settings }
    }
}

fn source(origin: &Origin) -> &'static str {
    match origin {
        Origin::Flag(_) => "flag",
        Origin::Variable(_) => "variable",
        Origin::File { .. } => "file",
        Origin::Socket(_) => "socket",
    }
}

/// `config check --json`.
#[derive(Serialize)]
struct Judgement {
    /// Of this form, as above.
    version: u32,
    goanyway: &'static str,
    sound: bool,
    files: Vec<Judged>,
}

#[derive(Serialize)]
struct Judged {
    /// None where no file was named, and there is none here.
    file: Option<PathBuf>,
    faults: Vec<Told>,
}

#[derive(Serialize)]
struct Told {
    place: Option<String>,
    line: Option<usize>,
    column: Option<usize>,
    key: Option<String>,
    what: String,
}

impl From<Fault> for Told {
    fn from(fault: Fault) -> Told {
        let (line, column) = fault.origin.as_ref().and_then(Origin::place).unzip();
        Told { place: fault.origin.as_ref().map(place), line, column, key: fault.key, what: fault.what }
    }
}

fn check(args: &Check) -> Result<ExitCode, Failure> {
    let judged: Vec<(Option<PathBuf>, Vec<Fault>)> = match args.files.as_slice() {
        [] => {
            super::say_strangers();
            let file = sources::usual_file();
            let faults = config::find_faults(&HashMap::new(), &around, file.as_deref(), false);
            vec![(file, faults)]
        }
        files => {
            let judge = |file: &PathBuf| {
                let faults = config::find_faults(&HashMap::new(), &around, Some(file), true);
                (Some(file.clone()), faults)
            };
            files.iter().map(judge).collect()
        }
    };
    let sound = judged.iter().all(|(_, faults)| faults.is_empty());
    let text = if args.json {
        let files = judged
            .into_iter()
            .map(|(file, faults)| Judged { file, faults: faults.into_iter().map(Told::from).collect() });
        let goanyway = env!("CARGO_PKG_VERSION");
        pretty(&Judgement { version: 1, goanyway, sound, files: files.collect() }) + "\n"
    } else {
        judged.iter().map(|(file, faults)| judgement(file.as_deref(), faults)).collect()
    };
    print(&text)?;
    Ok(ExitCode::from(if sound { 0 } else { 2 }))
}

/// What is wrong with one, a line each, and how many that are.
fn judgement(file: Option<&Path>, faults: &[Fault]) -> String {
    let name = file.map_or("the settings here".to_owned(), |file| file.display().to_string());
    // The lack of something has no line.
    let line = |fault: &Fault| match &fault.origin {
        Some(_) => format!("{fault}\n"),
        None => format!("{name}: {fault}\n"),
    };
    let lines: String = faults.iter().map(line).collect();
    match faults.len() {
        0 => format!("{name}: sound\n"),
        number => format!("{lines}{name}: {}\n", super::count(number as u64, "fault")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::golden;
    use super::*;
    use crate::config::{Settings, Typed};

    fn shown() -> (Typed, Vec<Shown>) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("goanyway.toml");
        let text = "listen_names = [\"goanyway\"]\n\n[cache]\nsize = \"50GiB\"\npins = [\"golang.org/x/*\"]\n\
                    [intercept]\nhosts = [\"mirror.corp.example\"]\n";
        std::fs::write(&file, text).unwrap();
        let flags = HashMap::from([("connect.parent", vec!["http://u:s3cret@proxy.example:3128".to_owned()])]);
        let environment = |name: &str| (name == "GOANYWAY_FALLBACK").then(|| "8.8.8.8,1.1.1.1".to_owned());
        let around = |name: &str| match name {
            "XDG_CACHE_HOME" | "XDG_STATE_HOME" | "XDG_DATA_HOME" => Some("/home/u".to_owned()),
            "GOANYWAY_CACHE_MEMORY" => Some("256MiB".to_owned()),
            _ => None,
        };
        let both = |name: &str| environment(name).or_else(|| around(name));
        let typed = Typed::gather(&flags, &both, Some(&file)).unwrap();
        let settings = Settings::understand(&typed, &around).unwrap();
        let at = folder.path().to_owned();
        let mut shown = config::show(&typed, &settings);
        for one in &mut shown {
            if let Some(Origin::File { path, .. }) = &mut one.origin {
                *path = Path::new("/etc/goanyway").join(path.strip_prefix(&at).unwrap());
            }
        }
        (typed, shown)
    }

    #[test]
    fn the_settings_are_told_as_a_file_of_them() {
        let (typed, shown) = shown();
        let text = write(&shown, Some(Path::new("/etc/goanyway/goanyway.toml")));
        golden::keeps("config/show.txt", &text);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, &text).unwrap();
        let again = Typed::gather(&HashMap::new(), &|_| None, Some(file.path())).unwrap();
        let mut changes = typed.changes(&again);
        changes.retain(|key| *key != "connect.parent");
        assert_eq!(changes, Vec::<&str>::new(), "but for the password");
    }

    #[test]
    fn a_program_is_told_the_same() {
        let (_, shown) = shown();
        golden::keeps(
            "config/show.json",
            &(pretty(&Report::of(&shown, Some(Path::new("/etc/goanyway/goanyway.toml")))) + "\n"),
        );
    }
}
