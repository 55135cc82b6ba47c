//! `goanyway ca`: making the CA, saying what there is, rotating it, and having programs trust it.
//!
//! The verbs work on values that are already resolved (folder, hosts, time) and give text for standard
//! output; [`tend`] joins them to the settings, prints, and knows the exit codes. What is done to a
//! trust store is `stores`' to know; it is printed before it is done, and `--dry-run` does nothing else.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::output::{Steps, print, print_bytes};
use super::stores::{self, Anchor, Keystore, Machine, System, Wish};
use super::{Failure, write_aside};
use crate::config::Settings;
use crate::intercept::{self, Authority, Earlier, Error, Health, HostPattern, IfThere, Making};

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
    /// Make the next CA; clients of the one before are served for a while
    Rotate(RotateArgs),
    /// Print the root certificate, or a bundle with the system's roots
    Export(ExportArgs),
    /// Have the programs of this machine trust the CA
    Install(StoreArgs),
    /// Undo install
    Uninstall(StoreArgs),
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

/// How to rotate a CA.
#[derive(Args, Clone, Debug)]
pub struct RotateArgs {
    /// For how long clients of the CA before are served (0: no more from now on)
    #[arg(long, value_name = "DAYS", default_value_t = OVERLAP_DAYS, value_parser = clap::value_parser!(u16).range(..=730))]
    pub overlap: u16,
    /// Write the root's key to FILE, to be kept offline, instead of destroying it
    #[arg(long, value_name = "FILE")]
    pub keep_root: Option<PathBuf>,
}

/// How to give out the root.
#[derive(Args, Clone, Debug, Default)]
pub struct ExportArgs {
    /// As text, or as bytes for programs that want those
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// The system's roots with it: what SSL_CERT_FILE and REQUESTS_CA_BUNDLE want
    #[arg(long, conflicts_with = "format")]
    pub bundle: bool,
    /// Write to FILE instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// How a certificate is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text (RFC 7468); during a rotation both roots, the new one first
    #[default]
    Pem,
    /// Bytes (X.690): the root in use alone
    Der,
}

/// Whose trust stores to change.
#[derive(Args, Clone, Debug, Default)]
pub struct StoreArgs {
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The system's way, if not the one that is found; none leaves it out
    #[arg(long, value_enum)]
    pub system: Option<System>,
    /// The system below DIR (an image, a chroot) instead of this one
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Java too: the keystore of the java on the PATH, or the one in FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    #[allow(clippy::option_option, reason = "clap's way to tell a flag without a value from none")]
    pub java: Option<Option<PathBuf>>,
}

/// `goanyway ca`: exit code 1 where there is no CA.
pub(super) fn tend(args: &CaArgs, settings: &Settings) -> Result<ExitCode, Failure> {
    let (dir, hosts, now) = (&settings.intercept.ca_dir, &settings.intercept.hosts, SystemTime::now());
    let text = match &args.command {
        CaCommand::Init(args) => Some(init(args, dir, hosts, now)?),
        CaCommand::Show(args) => show(args, dir, now)?,
        CaCommand::Rotate(args) if Authority::load(dir)?.is_some() => Some(rotate(args, dir, hosts, now)?),
        CaCommand::Rotate(_) => None,
        CaCommand::Export(args) => return give_out(args, dir, now),
        CaCommand::Install(args) => tend_stores(args, Wish::Install, dir, now)?,
        CaCommand::Uninstall(args) => tend_stores(args, Wish::Uninstall, dir, now)?,
    };
    let Some(text) = text else { return Ok(say_absence(dir)) };
    print(&text)
}

/// Makes a CA in `dir` for `hosts`, and says what was made.
pub fn init(args: &InitArgs, dir: &Path, hosts: &[HostPattern], now: SystemTime) -> Result<String, Error> {
    let if_there = if args.force { IfThere::SetAside } else { IfThere::Refuse };
    make(dir, hosts, now, Making { if_there, keep_root: args.keep_root.as_deref() })
}

/// Makes the next CA in `dir`, for `hosts` and for what the one before covers, and says what was made.
pub fn rotate(args: &RotateArgs, dir: &Path, hosts: &[HostPattern], now: SystemTime) -> Result<String, Error> {
    let if_there = IfThere::Overlap(DAY * u32::from(args.overlap));
    make(dir, hosts, now, Making { if_there, keep_root: args.keep_root.as_deref() })
}

fn make(dir: &Path, hosts: &[HostPattern], now: SystemTime, making: Making<'_>) -> Result<String, Error> {
    let authority = Authority::create(dir, hosts, now, making)?;
    let mut text = describe(&Report::new(&authority, &Authority::earlier(dir, now)?, dir, now));
    if let Some(path) = making.keep_root {
        // Writing into a String cannot fail, here and below.
        let _ = writeln!(text, "\nthe root's key is in {}: move it off this machine", path.display());
    }
    Ok(text)
}

/// Says what CA there is in `dir`; nothing, if there is none (exit code 1).
pub fn show(args: &ShowArgs, dir: &Path, now: SystemTime) -> Result<Option<String>, Error> {
    let Some(authority) = Authority::load(dir)? else { return Ok(None) };
    let report = Report::new(&authority, &Authority::earlier(dir, now)?, dir, now);
    Ok(Some(if args.json { report.to_json() } else { describe(&report) }))
}

/// The root in `dir` as the arguments want it; nothing, if there is none or, for a bundle, if the system
/// has no roots that could stand beside it.
pub fn export(args: &ExportArgs, dir: &Path, now: SystemTime) -> Result<Option<Vec<u8>>, Error> {
    let Some(authority) = Authority::load(dir)? else { return Ok(None) };
    if args.format == Format::Der {
        return Ok(Some(authority.root().to_vec()));
    }
    let earlier = Authority::earlier(dir, now)?;
    let all: Vec<&Authority> = [&authority].into_iter().chain(earlier.iter().map(|one| &one.authority)).collect();
    if args.bundle {
        let roots: Vec<_> = all.iter().map(|authority| authority.root().clone()).collect();
        return Ok(intercept::system_bundle(&roots).map(String::into_bytes));
    }
    Ok(Some(all.iter().map(|authority| authority.root_pem()).collect::<String>().into_bytes()))
}

fn give_out(args: &ExportArgs, dir: &Path, now: SystemTime) -> Result<ExitCode, Failure> {
    let Some(bytes) = export(args, dir, now)? else {
        if Authority::load(dir)?.is_none() {
            return Ok(say_absence(dir));
        }
        anstream::eprintln!("error: the system has no roots, and a bundle of ours alone would break every other TLS");
        return Ok(ExitCode::from(1));
    };
    match &args.out {
        Some(path) => write_aside(path, &bytes).map(|()| ExitCode::SUCCESS),
        None => print_bytes(&bytes),
    }
}

/// Changes trust stores, and says what is done; nothing, if there is no CA.
fn tend_stores(args: &StoreArgs, wish: Wish, dir: &Path, now: SystemTime) -> Result<Option<String>, Failure> {
    let Some(authority) = Authority::load(dir)? else { return Ok(None) };
    let mut roots = vec![anchor(&authority, dir.join("ca.pem"))];
    if wish == Wish::Uninstall {
        let earlier = Authority::earlier(dir, now)?;
        roots.extend(earlier.iter().map(|one| anchor(&one.authority, dir.join("ca.pem"))));
    }
    let machine = find_machine(args);
    let plan = stores::plan(&machine, &roots, wish, &stores::Line::holds);
    if plan.0.is_empty() {
        return Ok(Some(describe_idleness(&machine, wish, authority.fingerprint())));
    }
    if args.dry_run {
        return Ok(Some(plan.0.iter().map(|step| format!("{step}\n")).collect()));
    }
    let mut steps = Steps::default();
    plan.carry_out(&mut |step| steps.say(step))?;
    steps.end()?;
    Ok(Some(String::new()))
}

fn anchor(authority: &Authority, file: PathBuf) -> Anchor {
    let subject = authority.subject();
    let common_name = subject.split("CN=").nth(1).unwrap_or(subject);
    Anchor {
        fingerprint: authority.fingerprint().to_owned(),
        common_name: common_name.split(',').next().unwrap_or(common_name).to_owned(),
        pem: authority.root_pem().to_owned(),
        file,
    }
}

/// Where this user's programs look. Who changes an image has nothing to do with our browsers.
fn find_machine(args: &StoreArgs) -> Machine {
    let root = args.root.clone().unwrap_or_else(|| PathBuf::from("/"));
    let home = std::env::var_os("HOME").filter(|_| args.root.is_none());
    let mut nss = home.map_or_else(Vec::new, |home| stores::find_nss(Path::new(&home)));
    if !nss.is_empty() && !stores::is_here(&std::env::var_os("PATH").unwrap_or_default(), NSS_TOOL) {
        anstream::eprintln!("goanyway: browsers are left out, because their {NSS_TOOL} is not here (libnss3-tools)");
        nss.clear();
    }
    let system = args.system.unwrap_or_else(|| stores::detect(&root));
    if system == System::None && args.system.is_none() {
        anstream::eprintln!("goanyway: this system's way to trust a root is not known; name one with --system");
    }
    let java = args.java.clone().map(|file| file.map_or(Keystore::Own, Keystore::File));
    Machine { system, root, nss, java }
}

fn describe_idleness(machine: &Machine, wish: Wish, fingerprint: &str) -> String {
    let nowhere = machine.system == System::None && machine.nss.is_empty() && machine.java.is_none();
    match wish {
        _ if nowhere => "there is no trust store to change\n".to_owned(),
        Wish::Install => format!("{fingerprint} is trusted already: nothing to do\n"),
        Wish::Uninstall => format!("{fingerprint} is in no trust store: nothing to do\n"),
    }
}

fn say_absence(dir: &Path) -> ExitCode {
    anstream::eprintln!("error: {}", describe_absence(dir));
    ExitCode::from(1)
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
    /// One word, for programs.
    state: &'static str,
    #[serde(skip)]
    state_words: &'static str,
    begins: String,
    ends: String,
    root_ends: String,
    earlier: Vec<Before>,
    files: Files,
}

/// A CA before this one, during a rotation.
#[derive(Serialize)]
struct Before {
    fingerprint: String,
    served_until: String,
}

#[derive(Serialize)]
struct Files {
    root: PathBuf,
    issuer: PathBuf,
    key: PathBuf,
}

impl Report {
    fn new(authority: &Authority, earlier: &[Earlier], dir: &Path, now: SystemTime) -> Report {
        let before = |one: &Earlier| Before {
            fingerprint: one.authority.fingerprint().to_owned(),
            served_until: write_time(one.until),
        };
        let (state, state_words) = name_health(authority.health(now));
        Report {
            subject: authority.subject().to_owned(),
            fingerprint: authority.fingerprint().to_owned(),
            sha256: authority.digest(),
            covers: authority.permitted().to_vec(),
            state,
            state_words,
            begins: write_time(authority.begins()),
            ends: write_time(authority.ends()),
            root_ends: write_time(authority.root_ends()),
            earlier: earlier.iter().map(before).collect(),
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
        ("state", report.state_words),
        ("valid from", &report.begins),
        ("valid until", &report.ends),
    ];
    for (label, value) in rows {
        let _ = writeln!(text, "{label:<12} {value}");
    }
    for Before { fingerprint, served_until } in &report.earlier {
        let _ = writeln!(text, "{:<12} {fingerprint}, whose clients are served until {served_until}", "before it");
    }
    let (root, key) = (report.files.root.display(), report.files.key.display());
    let _ = writeln!(text, "{:<12} {root} (what clients trust)\n{:<12} {key} (the only secret)", "files", "");
    let _ = write!(
        text,
        "\nto trust it in this shell:         eval \"$(goanyway env)\"\n\
         to trust it on this machine:       goanyway ca install (--dry-run says what it would do)\n\
         to trust it in a client elsewhere:  curl -o ca.pem http://HOST:3128/ca.pem, and compare the sha256\n\
         to need no trust at all:            GOPROXY=http://HOST:3128,direct\n"
    );
    text
}

/// The same for a program and for a person.
fn name_health(health: Health) -> (&'static str, &'static str) {
    match health {
        Health::Good => ("good", "good"),
        Health::NearEnd => ("near-end", "ends within 30 days"),
        Health::Expired => ("expired", "expired: everything is tunnelled"),
        Health::ClockBehind => ("clock-behind", "the clock stands before it: everything is tunnelled"),
    }
}

fn write_time(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time)
        .map_or_else(|_| "unknown".to_owned(), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// A month: as long as the start says beforehand that a CA ends.
const OVERLAP_DAYS: u16 = 30;
const DAY: Duration = Duration::from_secs(86_400);
const NSS_TOOL: &str = "certutil";

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

    #[test]
    fn a_rotation_names_both_and_the_end_of_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        made(dir.path(), &InitArgs::default()).unwrap();
        let fact = |name: &str| {
            let facts: serde_json::Value = serde_json::from_str(&shown(dir.path(), true).unwrap()).unwrap();
            facts[name].clone()
        };
        let old = fact("fingerprint");
        let args = RotateArgs { overlap: 7, keep_root: None };
        let further = ["athens.example".parse().unwrap()];
        let text = rotate(&args, dir.path(), &further, SystemTime::now()).unwrap();
        assert!(text.contains("covers       athens.example, corp.example, goproxy.cn\n"), "{text}");
        assert!(text.contains(&format!("before it    {}, whose clients are served until 20", old.as_str().unwrap())));
        assert_ne!(fact("fingerprint"), old);
        assert_eq!(fact("earlier")[0]["fingerprint"], old);
        let none = RotateArgs { overlap: 0, keep_root: None };
        rotate(&none, dir.path(), &[], SystemTime::now()).unwrap();
        assert_eq!(fact("earlier").as_array().unwrap().len(), 1, "the second one is served no more");
    }

    #[test]
    fn a_root_is_exported_as_text_as_bytes_and_among_the_systems() {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject;
        let dir = tempfile::tempdir().unwrap();
        let exported = |args: &ExportArgs| export(args, dir.path(), SystemTime::now()).unwrap();
        assert_eq!(exported(&ExportArgs::default()), None);
        made(dir.path(), &InitArgs::default()).unwrap();
        let pem = exported(&ExportArgs::default()).unwrap();
        assert_eq!(pem, std::fs::read(dir.path().join("ca.pem")).unwrap());
        let der = exported(&ExportArgs { format: Format::Der, ..ExportArgs::default() }).unwrap();
        assert_eq!(CertificateDer::from_pem_slice(&pem).unwrap().as_ref(), der);
        let system = rustls_native_certs::load_native_certs().certs.len();
        let bundle = exported(&ExportArgs { bundle: true, ..ExportArgs::default() });
        assert_eq!(bundle.is_some(), system > 0);
        assert!(bundle.is_none_or(|bundle| bundle.ends_with(&pem) && bundle.len() > pem.len()));
        rotate(&RotateArgs { overlap: 7, keep_root: None }, dir.path(), &[], SystemTime::now()).unwrap();
        let both = exported(&ExportArgs::default()).unwrap();
        let new = std::fs::read(dir.path().join("ca.pem")).unwrap();
        assert_eq!(both, [new, pem].concat(), "the new one first");
    }
}
