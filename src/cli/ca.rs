//! `goanyway ca init|show`: making the CA by hand, and saying what there is.
//!
//! Both work on values that are already resolved (folder, hosts, time) and give text for standard
//! output; configuration, printing and exit codes are the caller's.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::intercept::{Authority, Error, Health, HostPattern};

/// The local certificate authority that intercepted hosts are answered with
#[derive(Args, Clone, Debug)]
pub struct CaArgs {
    #[command(subcommand)]
    pub command: CaCommand,
}

/// What to do with the CA.
#[derive(Subcommand, Clone, Debug)]
pub enum CaCommand {
    /// Make a CA (serve does so by itself on its first start)
    Init(InitArgs),
    /// Show what the CA covers, until when, and how a client trusts it
    Show(ShowArgs),
}

/// How to make a CA.
#[derive(Args, Clone, Debug, Default)]
pub struct InitArgs {
    /// Write the root's key to FILE, to be kept offline, instead of destroying it
    #[arg(long, value_name = "FILE")]
    pub keep_root: Option<PathBuf>,
    /// Replace the CA that is there; clients must then trust the new one
    #[arg(long)]
    pub force: bool,
}

/// How to show a CA.
#[derive(Args, Clone, Debug, Default)]
pub struct ShowArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Makes a CA in `dir` for `hosts`, and says what was made.
pub fn init(args: &InitArgs, dir: &Path, hosts: &[HostPattern], now: SystemTime) -> Result<String, Error> {
    let keep_root = args.keep_root.as_deref();
    let make = if args.force { Authority::replace } else { Authority::create };
    let authority = make(dir, hosts, now, keep_root)?;
    let mut text = describe(&Report::new(&authority, dir, now));
    if let Some(path) = keep_root {
        // Writing into a String cannot fail, here and below.
        let _ = writeln!(text, "\nthe root's key is in {}: move it off this machine", path.display());
    }
    Ok(text)
}

/// Says what CA there is in `dir`; nothing, if there is none (exit code 1).
pub fn show(args: &ShowArgs, dir: &Path, now: SystemTime) -> Result<Option<String>, Error> {
    let Some(authority) = Authority::load(dir)? else { return Ok(None) };
    let report = Report::new(&authority, dir, now);
    Ok(Some(if args.json { report.to_json() } else { describe(&report) }))
}

/// What `show` answers where there is no CA.
pub fn describe_absence(dir: &Path) -> String {
    format!(
        "no CA in {}\n\nhint: goanyway serve makes one when it starts; goanyway ca init makes one now",
        dir.display()
    )
}

/// The facts of a CA, as `ca show --json` prints them.
#[derive(Serialize)]
struct Report {
    subject: String,
    fingerprint: String,
    sha256: String,
    covers: Vec<String>,
    state: &'static str,
    begins: String,
    ends: String,
    root_ends: String,
    files: Files,
}

#[derive(Serialize)]
struct Files {
    root: PathBuf,
    issuer: PathBuf,
    key: PathBuf,
}

impl Report {
    fn new(authority: &Authority, dir: &Path, now: SystemTime) -> Report {
        Report {
            subject: authority.subject().to_owned(),
            fingerprint: authority.fingerprint().to_owned(),
            sha256: authority.digest(),
            covers: authority.permitted().to_vec(),
            state: name_health(authority.health(now)),
            begins: write_time(authority.begins()),
            ends: write_time(authority.ends()),
            root_ends: write_time(authority.root_ends()),
            files: Files { root: dir.join("ca.pem"), issuer: dir.join("issuer.pem"), key: dir.join("issuer.key") },
        }
    }

    fn to_json(&self) -> String {
        // Strings, lists of strings and paths: a path that is no text is the only thing that could fail.
        serde_json::to_string(self).unwrap_or_else(|why| format!("{{\"error\":\"{why}\"}}")) + "\n"
    }
}

fn describe(report: &Report) -> String {
    let mut text = String::new();
    let covers = report.covers.join(", ");
    let rows = [
        ("subject", report.subject.as_str()),
        ("fingerprint", &report.fingerprint),
        ("sha256", &report.sha256),
        ("covers", &covers),
        ("state", report.state),
        ("valid from", &report.begins),
        ("valid until", &report.ends),
    ];
    for (label, value) in rows {
        let _ = writeln!(text, "{label:<12} {value}");
    }
    let (root, key) = (report.files.root.display(), report.files.key.display());
    let _ = writeln!(text, "{:<12} {root} (what clients trust)\n{:<12} {key} (the only secret)", "files", "");
    let _ = write!(
        text,
        "\nto trust it in this shell:         eval \"$(goanyway env)\"\n\
         to trust it in a client elsewhere:  curl -o ca.pem http://HOST:3128/ca.pem, and compare the sha256\n\
         to need no trust at all:            GOPROXY=http://HOST:3128,direct\n"
    );
    text
}

fn name_health(health: Health) -> &'static str {
    match health {
        Health::Good => "good",
        Health::NearEnd => "ends within 30 days",
        Health::Expired => "expired: everything is tunnelled",
        Health::ClockBehind => "the clock stands before it: everything is tunnelled",
    }
}

fn write_time(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "unknown".to_owned(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Vec<HostPattern> {
        vec!["goproxy.cn".parse().unwrap(), "*.corp.example".parse().unwrap()]
    }

    fn made(dir: &Path, args: &InitArgs) -> Result<String, Error> {
        init(args, dir, &hosts(), SystemTime::now())
    }

    fn shown(dir: &Path, json: bool) -> Option<String> {
        show(&ShowArgs { json }, dir, SystemTime::now()).unwrap()
    }

    #[test]
    fn init_says_what_show_says() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(shown(dir.path(), false), None);
        let text = made(dir.path(), &InitArgs::default()).unwrap();
        assert_eq!(shown(dir.path(), false), Some(text.clone()));
        assert!(text.contains("covers       corp.example, goproxy.cn\nstate        good\n"), "{text}");
        assert!(text.contains("eval \"$(goanyway env)\""), "{text}");
    }

    #[test]
    fn json_is_one_line_of_facts_and_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        made(dir.path(), &InitArgs::default()).unwrap();
        let text = shown(dir.path(), true).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        let facts: serde_json::Value = serde_json::from_str(&text).unwrap();
        let (sha256, fingerprint) = (facts["sha256"].as_str().unwrap(), facts["fingerprint"].as_str().unwrap());
        assert!(sha256.len() == 64 && sha256.starts_with(fingerprint) && fingerprint.len() == 8);
        assert_eq!(facts["covers"], serde_json::json!(["corp.example", "goproxy.cn"]));
        assert_eq!(facts["files"]["root"], dir.path().join("ca.pem").to_str().unwrap());
        assert!(facts["subject"].as_str().unwrap().contains("goanyway root"));
        assert!(facts["ends"].as_str().unwrap() < facts["root_ends"].as_str().unwrap());
        assert!(!text.contains("PRIVATE"));
    }

    #[test]
    fn a_ca_is_replaced_only_by_force_and_its_root_key_kept_only_on_demand() {
        let dir = tempfile::tempdir().unwrap();
        let first = made(dir.path(), &InitArgs::default()).unwrap();
        let refused = made(dir.path(), &InitArgs::default()).unwrap_err().to_string();
        assert!(refused.contains("holds a CA already") && refused.contains("--force"), "{refused}");
        assert_eq!(shown(dir.path(), false).unwrap(), first);
        let root_key = dir.path().join("root.key");
        let second = made(dir.path(), &InitArgs { keep_root: Some(root_key.clone()), force: true }).unwrap();
        assert!(second.contains("move it off this machine") && !second.contains(&first), "{second}");
        assert!(std::fs::read_to_string(root_key).unwrap().contains("PRIVATE KEY"));
    }
}
