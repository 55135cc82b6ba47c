//! Trust stores: what makes the programs of a machine trust a root, and what undoes it.
//!
//! [`plan`] is the rule, pure but for its probes: a machine, roots and a wish give steps, each a file or
//! a program of the system's own, never an edit of a store by ourselves. What is there already gives no
//! step, so that twice is as good as once. [`Plan::carry_out`] says each step before it takes it.
//!
//! Java's store is left alone unless somebody asks: it is a file of one Java, and an update of that
//! Java replaces it. A store whose program is lacking is said, not guessed at.

use std::ffi::OsStr;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;

/// Whose way of trusting a root for all programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum System {
    /// Debian, Ubuntu, Alpine: update-ca-certificates
    Debian,
    /// Fedora, RHEL: update-ca-trust
    Fedora,
    /// Arch: update-ca-trust
    Arch,
    /// The system keychain: security
    Macos,
    /// The machine's root store: certutil
    Windows,
    /// Not at all
    None,
}

/// Where roots are to be trusted.
#[derive(Clone, Debug)]
pub struct Machine {
    pub system: System,
    /// Before the system's paths: an image or a chroot. `/` for this machine.
    pub root: PathBuf,
    /// Databases of NSS: browsers.
    pub nss: Vec<PathBuf>,
    /// A Java keystore.
    pub java: Option<Keystore>,
}

/// A Java keystore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keystore {
    /// That of the Java on the PATH.
    Own,
    File(PathBuf),
}

/// A root to be trusted.
#[derive(Clone, Debug)]
pub struct Anchor {
    pub fingerprint: String,
    pub common_name: String,
    pub pem: String,
    /// Where it lies, for programs that want a file.
    pub file: PathBuf,
}

/// What is wished for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Install,
    Uninstall,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Write { path: PathBuf, text: String },
    Remove(PathBuf),
    Run(Line),
}

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line(Vec<String>);

/// The steps to take, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan(pub Vec<Step>);

/// Whose way this machine has, by the folders that its packages own.
pub fn detect(root: &Path) -> System {
    if cfg!(target_os = "macos") {
        return System::Macos;
    }
    if cfg!(windows) {
        return System::Windows;
    }
    let known = [System::Fedora, System::Debian, System::Arch];
    known
        .into_iter()
        .find(|system| anchors(*system).is_some_and(|(folder, _)| under(root, folder).is_dir()))
        .unwrap_or(System::None)
}

/// The databases of browsers in a home: Chromium's one, and one a Firefox profile.
pub fn find_nss(home: &Path) -> Vec<PathBuf> {
    let profiles = [".mozilla/firefox", "snap/firefox/common/.mozilla/firefox"].map(|folder| home.join(folder));
    let inside = profiles.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let mut found: Vec<PathBuf> = inside.map(|entry| entry.path()).chain([home.join(".pki/nssdb")]).collect();
    found.retain(|folder| folder.join("cert9.db").is_file());
    found.sort();
    found
}

/// Whether a program is on this PATH.
pub fn is_here(path: &OsStr, program: &str) -> bool {
    std::env::split_paths(path).any(|folder| folder.join(program).is_file())
}

/// What is to be done. `holds` answers whether a program of the system says yes.
pub fn plan(machine: &Machine, anchors: &[Anchor], wish: Wish, holds: &dyn Fn(&Line) -> bool) -> Plan {
    let mut steps = Vec::new();
    for anchor in anchors {
        if matches!(machine.system, System::Macos | System::Windows) {
            steps.extend(ask_platform(machine.system, anchor, wish, holds));
        }
        steps.extend(machine.nss.iter().filter_map(|folder| ask_nss(folder, anchor, wish, holds)));
        steps.extend(machine.java.as_ref().and_then(|store| ask_java(store, anchor, wish, holds)));
    }
    steps.splice(0..0, tend_folder(machine, anchors, wish));
    Plan(steps)
}

impl Plan {
    /// Takes the steps, each said first.
    pub fn carry_out(&self, say: &mut dyn FnMut(&Step)) -> Result<(), Error> {
        for step in &self.0 {
            say(step);
            step.take()?;
        }
        Ok(())
    }
}

impl Step {
    fn take(&self) -> Result<(), Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |why| Error::File { path, why }
        };
        match self {
            Step::Write { path, text } => write_whole(path, text).map_err(failed(path)),
            Step::Remove(path) => std::fs::remove_file(path).map_err(failed(path)),
            Step::Run(line) => line.run(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Write { path, .. } => write!(f, "write {}", path.display()),
            Step::Remove(path) => write!(f, "remove {}", path.display()),
            Step::Run(line) => write!(f, "run {line}"),
        }
    }
}

impl Line {
    fn of(words: &[&str]) -> Line {
        Line(words.iter().map(|&word| word.to_owned()).collect())
    }

    /// Whether the program says yes. Nothing of what it prints is shown.
    pub fn holds(&self) -> bool {
        let quiet = || Stdio::null();
        let status = self.command().stdin(quiet()).stdout(quiet()).stderr(quiet()).status();
        status.is_ok_and(|status| status.success())
    }

    fn run(&self) -> Result<(), Error> {
        let output = self.command().stdin(Stdio::null()).output();
        let failed = |why: String| Error::Program { line: self.clone(), why };
        let output = output.map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        // keytool complains on standard output.
        let said = [output.stderr, output.stdout].concat();
        let said = String::from_utf8_lossy(&said);
        Err(failed(
            said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why").trim().to_owned(),
        ))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.0[0]);
        command.args(&self.0[1..]);
        command
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |word: &String| if word.contains([' ', '"']) { format!("'{word}'") } else { word.clone() };
        f.write_str(&self.0.iter().map(quoted).collect::<Vec<_>>().join(" "))
    }
}

/// Why a store was not changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot change {}: {why}", path.display())]
    File { path: PathBuf, why: std::io::Error },
    #[error("`{line}` failed: {why}")]
    Program { line: Line, why: String },
}

/// Where a Linux keeps what its administrator trusts, and what a file there ends in.
fn anchors(system: System) -> Option<(&'static str, &'static str)> {
    match system {
        System::Debian => Some(("usr/local/share/ca-certificates", "crt")),
        System::Fedora => Some(("etc/pki/ca-trust/source/anchors", "pem")),
        System::Arch => Some(("etc/ca-certificates/trust-source/anchors", "crt")),
        System::Macos | System::Windows | System::None => None,
    }
}

/// A file for each root, then the system's program once.
fn tend_folder(machine: &Machine, roots: &[Anchor], wish: Wish) -> Vec<Step> {
    let Some((folder, ending)) = anchors(machine.system) else { return Vec::new() };
    let folder = under(&machine.root, folder);
    let mut steps: Vec<Step> = roots
        .iter()
        .filter_map(|anchor| {
            let path = folder.join(format!("goanyway-{}.{ending}", anchor.fingerprint));
            let there = std::fs::read_to_string(&path).ok();
            match wish {
                Wish::Install if there.as_ref() == Some(&anchor.pem) => None,
                Wish::Install => Some(Step::Write { path, text: anchor.pem.clone() }),
                Wish::Uninstall => there.map(|_| Step::Remove(path)),
            }
        })
        .collect();
    // A file that nobody took in, because the program failed the last time, is as good as none.
    if !steps.is_empty() || (wish == Wish::Install && !is_taken_in(machine, roots)) {
        steps.push(Step::Run(refresh(machine, wish)));
    }
    steps
}

/// Whether the bundle that the system's program makes has these roots; where it makes another kind, it
/// is taken at its word.
fn is_taken_in(machine: &Machine, roots: &[Anchor]) -> bool {
    let bundle = match machine.system {
        System::Debian => "etc/ssl/certs/ca-certificates.crt",
        System::Fedora => "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        _ => return true,
    };
    let text = std::fs::read_to_string(under(&machine.root, bundle)).unwrap_or_default();
    roots.iter().all(|anchor| text.contains(anchor.pem.trim()))
}

fn refresh(machine: &Machine, wish: Wish) -> Line {
    let mut words = match machine.system {
        // Without --fresh the link of a file that went stays (update-ca-certificates, remove).
        System::Debian if wish == Wish::Uninstall => Line::of(&["update-ca-certificates", "--fresh"]),
        System::Debian => Line::of(&["update-ca-certificates"]),
        System::Fedora => Line::of(&["update-ca-trust", "extract"]),
        _ => Line::of(&["update-ca-trust"]),
    };
    if machine.system == System::Debian && machine.root != Path::new("/") {
        for (flag, path) in [
            ("--certsconf", "etc/ca-certificates.conf"),
            ("--certsdir", "usr/share/ca-certificates"),
            ("--localcertsdir", "usr/local/share/ca-certificates"),
            ("--etccertsdir", "etc/ssl/certs"),
            ("--hooksdir", "etc/ca-certificates/update.d"),
        ] {
            words.0.extend([flag.to_owned(), under(&machine.root, path).display().to_string()]);
        }
    } else if machine.root != Path::new("/") {
        words = Line([vec!["chroot".to_owned(), machine.root.display().to_string()], words.0].concat());
    }
    words
}

fn ask_platform(system: System, anchor: &Anchor, wish: Wish, holds: &dyn Fn(&Line) -> bool) -> Option<Step> {
    let (file, name) = (anchor.file.display().to_string(), anchor.common_name.as_str());
    let (probe, add, remove) = if system == System::Macos {
        (
            Line::of(&["security", "find-certificate", "-c", name, KEYCHAIN]),
            Line::of(&["security", "add-trusted-cert", "-d", "-r", "trustRoot", "-k", KEYCHAIN, &file]),
            // -t takes the trust settings along.
            Line::of(&["security", "delete-certificate", "-t", "-c", name, KEYCHAIN]),
        )
    } else {
        (
            Line::of(&["certutil", "-store", "Root", name]),
            Line::of(&["certutil", "-addstore", "-f", "Root", &file]),
            Line::of(&["certutil", "-delstore", "Root", name]),
        )
    };
    choose(wish, holds(&probe), add, remove)
}

fn ask_nss(folder: &Path, anchor: &Anchor, wish: Wish, holds: &dyn Fn(&Line) -> bool) -> Option<Step> {
    let (database, name) = (format!("sql:{}", folder.display()), format!("goanyway {}", anchor.fingerprint));
    let (file, of) = (anchor.file.display().to_string(), ["certutil", "-d", database.as_str()]);
    let line = |rest: &[&str]| Line::of(&[&of[..], rest].concat());
    let probe = line(&["-L", "-n", &name]);
    choose(wish, holds(&probe), line(&["-A", "-t", "C,,", "-n", &name, "-i", &file]), line(&["-D", "-n", &name]))
}

fn ask_java(store: &Keystore, anchor: &Anchor, wish: Wish, holds: &dyn Fn(&Line) -> bool) -> Option<Step> {
    let (alias, file) = (format!("goanyway-{}", anchor.fingerprint), anchor.file.display().to_string());
    let place = match store {
        Keystore::Own => vec!["-cacerts".to_owned()],
        Keystore::File(path) => vec!["-keystore".to_owned(), path.display().to_string()],
    };
    let line = |rest: &[&str]| {
        // The password that every Java's store has: it guards nothing, the file's mode does.
        let mut words = Line::of(&[&["keytool"], rest, &["-alias", &alias, "-storepass", "changeit"]].concat());
        words.0.extend(place.iter().cloned());
        words
    };
    let probe = line(&["-list"]);
    choose(wish, holds(&probe), line(&["-importcert", "-noprompt", "-file", &file]), line(&["-delete"]))
}

fn choose(wish: Wish, there: bool, add: Line, remove: Line) -> Option<Step> {
    match (wish, there) {
        (Wish::Install, false) => Some(Step::Run(add)),
        (Wish::Uninstall, true) => Some(Step::Run(remove)),
        _ => None,
    }
}

fn under(root: &Path, path: &str) -> PathBuf {
    root.join(path)
}

fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut aside = tempfile::NamedTempFile::new_in(folder)?;
    aside.write_all(text.as_bytes())?;
    // Everybody reads what everybody is to trust; tempfile makes it its owner's alone.
    #[cfg(unix)]
    aside.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    aside.persist(path).map(drop).map_err(|failed| failed.error)
}

const KEYCHAIN: &str = "/Library/Keychains/System.keychain";

#[cfg(test)]
mod tests {
    use super::*;

    fn anchor() -> Anchor {
        Anchor {
            fingerprint: "1a2b3c4d".into(),
            common_name: "goanyway root 2026-11-24 4a5b6c".into(),
            pem: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(),
            file: "/ca/ca.pem".into(),
        }
    }

    fn machine(system: System, root: &Path) -> Machine {
        Machine { system, root: root.to_owned(), nss: Vec::new(), java: None }
    }

    /// The steps on a machine where nothing is there yet, or everything.
    fn steps(machine: &Machine, wish: Wish, there: bool) -> Vec<String> {
        plan(machine, &[anchor()], wish, &|_| there).0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_system_is_asked_in_its_own_words() {
        let nowhere = Path::new("/nowhere");
        let all = Machine {
            nss: vec!["/home/me/.pki/nssdb".into()],
            java: Some(Keystore::Own),
            ..machine(System::None, nowhere)
        };
        let cases = [
            ("debian", machine(System::Debian, Path::new("/"))),
            ("debian in an image", machine(System::Debian, nowhere)),
            ("fedora", machine(System::Fedora, Path::new("/"))),
            ("fedora in an image", machine(System::Fedora, nowhere)),
            ("arch", machine(System::Arch, Path::new("/"))),
            ("macos", machine(System::Macos, Path::new("/"))),
            ("windows", machine(System::Windows, Path::new("/"))),
            ("browsers and java", all),
        ];
        let mut text = String::new();
        for (name, machine) in &cases {
            text += &format!("# {name}: install\n");
            steps(machine, Wish::Install, false).iter().for_each(|step| text += &format!("{step}\n"));
            text += &format!("# {name}: uninstall\n");
            steps(machine, Wish::Uninstall, true).iter().for_each(|step| text += &format!("{step}\n"));
        }
        super::super::golden::compare("stores.txt", &text);
    }

    #[test]
    fn what_is_there_is_not_installed_again_and_what_is_not_is_not_removed() {
        for system in [System::Macos, System::Windows] {
            assert_eq!(steps(&machine(system, Path::new("/")), Wish::Install, true), [""; 0]);
            assert_eq!(steps(&machine(system, Path::new("/")), Wish::Uninstall, false), [""; 0]);
        }
        let dir = tempfile::tempdir().unwrap();
        let image = machine(System::Debian, dir.path());
        for folder in ["usr/local/share/ca-certificates", "etc/ssl/certs"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        assert_eq!(detect(dir.path()), System::Debian);
        assert_eq!(steps(&image, Wish::Uninstall, true), [""; 0]);
        let file = dir.path().join("usr/local/share/ca-certificates/goanyway-1a2b3c4d.crt");
        std::fs::write(&file, anchor().pem).unwrap();
        assert_eq!(steps(&image, Wish::Install, true).len(), 1, "the file is there, and nobody took it in");
        std::fs::write(dir.path().join("etc/ssl/certs/ca-certificates.crt"), anchor().pem).unwrap();
        assert_eq!(steps(&image, Wish::Install, true), [""; 0]);
        assert_eq!(steps(&image, Wish::Uninstall, true).len(), 2);
    }

    #[test]
    fn a_program_that_fails_is_named_with_what_it_said() {
        let line = Line::of(&["sh", "-c", "echo; echo no way >&2; exit 3"]);
        let mut said = Vec::new();
        let failed = Plan(vec![Step::Run(line), Step::Remove("/nowhere/never".into())])
            .carry_out(&mut |step| said.push(step.to_string()))
            .unwrap_err();
        assert_eq!(failed.to_string(), "`sh -c 'echo; echo no way >&2; exit 3'` failed: no way");
        assert_eq!(said.len(), 1, "and nothing is done after it");
        assert!(Line::of(&["/nowhere/program"]).run().is_err());
    }

    #[test]
    fn browsers_are_found_by_their_databases() {
        let home = tempfile::tempdir().unwrap();
        for profile in [".pki/nssdb", ".mozilla/firefox/ab.default", ".mozilla/firefox/empty"] {
            std::fs::create_dir_all(home.path().join(profile)).unwrap();
        }
        for profile in [".pki/nssdb", ".mozilla/firefox/ab.default"] {
            std::fs::write(home.path().join(profile).join("cert9.db"), "").unwrap();
        }
        let found = find_nss(home.path());
        assert_eq!(found, [home.path().join(".mozilla/firefox/ab.default"), home.path().join(".pki/nssdb")]);
    }
}
