//! `goanyway warm go.sum|go.mod|MODULE@VERSION...`: fills the cache ahead of a build.
//!
//! It works in this process, over the cache folder, by a proxy of its own that nobody else can use; a
//! daemon that shares the folder finds the files there. What a build asks for is fetched: of every
//! version in a go.sum, the go.mod, and the zip where go.sum has its sum; of a go.mod, what it requires
//! and, as far as go reads it, what that requires; of MODULE@VERSION, itself and the same. Everything is
//! verified as the proxy does it; what a go.sum lists is also compared with that, and what differs is named.
//!
//! A file that cannot be read to its end names the line and fetches nothing: what is missing from it would be missing
//! from the build.
//!
//! Exit code 0 if all of it is held, 1 if something does not exist or is not what the checksum database or
//! the go.sum says, 2 if a file cannot be read, 3 if something could not be found out, or not be kept; the highest
//! counts.

use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use clap::Args;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::output::print;
use super::{Failure, count, run, size};
use crate::accept;
use crate::admit::Credential;
use crate::config::Settings;
use crate::daemon;
use crate::goproxy::{
    self, Database, GoMod, GoSum, Goproxy, Kind, Module, ModuleRequest, Said, Served, Version, Warmed,
};
use crate::intercept::Mode;

/// Versions at once: as many as go has cores on a large machine.
const AT_ONCE: usize = 16;
/// The module that Go itself comes as (cmd/go/internal/toolchain, gotoolchainModule).
const TOOLCHAIN: &str = "golang.org/toolchain";
/// Wide enough to be seen, and short enough for 80 columns with a name beside it.
const BAR: usize = 24;

#[derive(Debug, Args)]
pub(super) struct WarmArgs {
    /// go.sum or go.mod files, or MODULE@VERSION (latest, a branch, v1.2.3)
    #[arg(required_unless_present = "toolchains", value_name = "WHAT")]
    wanted: Vec<String>,
    /// Go itself as well, for GOTOOLCHAIN: 1.26.0,1.25.4
    #[arg(long, value_name = "VERSION", value_delimiter = ',')]
    toolchains: Vec<String>,
    /// The platforms that toolchains are for: linux/amd64,darwin/arm64 [default: this one]
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    platforms: Vec<String>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// What is wanted of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// Its go.mod alone, to see what it requires.
    Mod,
    /// All of it.
    All,
}

type Wanted = (Module, Version);

/// One thing that was typed, read.
#[derive(Debug)]
enum Typed {
    Sums(GoSum),
    Requires(GoMod),
    Version(Module, Version),
    Toolchains(Vec<(Wanted, Need)>),
}

/// How one version fared.
struct Done {
    module: Module,
    version: Version,
    files: Vec<(ModuleRequest, Warmed)>,
    /// Of how many of them the checksum database has no word.
    unverified: usize,
    /// How many of them no disk took.
    unkept: usize,
    failure: Option<goproxy::Failure>,
    /// What of it is not what the go.sum says.
    differing: Vec<String>,
    go_mod: Option<GoMod>,
}

pub(super) fn warm(mut settings: Settings, args: &WarmArgs) -> Result<ExitCode, Failure> {
    let mut typed: Vec<Typed> = args.wanted.iter().map(|text| read_typed(text)).collect::<Result<_, _>>()?;
    for (text, _) in args.wanted.iter().zip(&typed).filter(|(_, typed)| typed.is_empty()) {
        anstream::eprintln!("goanyway: {text}: nothing to fetch, it names no module");
    }
    typed.push(Typed::Toolchains(toolchains(args)?));
    if typed.iter().all(Typed::is_empty) {
        return Ok(ExitCode::SUCCESS);
    }
    // Bound, for a daemon has a door, and closed to everybody.
    settings.listen = vec![std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0))];
    settings.listen_tls.clear();
    settings.accept = accept::Config::default();
    settings.admin = None;
    settings.admit.credentials = None;
    settings.admit.credential = Some(Credential::new(&run::secret()?));
    settings.intercept.mode = Mode::Off;
    // What is needed is known here, and nobody asks for more.
    settings.goproxy.siblings = false;
    let database = settings.goproxy.sumdb.first().map(|sumdb| sumdb.name.clone());
    let running = daemon::start(settings)?;
    for notice in &running.notices {
        anstream::eprintln!("goanyway: {notice}");
    }
    let begun = Instant::now();
    let mut walk = Walk::new(running.goproxy.clone(), database);
    let done = running.runtime().block_on(walk.all(typed));
    let lines: String = done.iter().filter(|_| args.json).map(|done| format!("{}\n", done.json())).collect();
    let told = print(&lines);
    walk.summary(&done, begun);
    running.cutter().cancel();
    running.stop();
    told?;
    Ok(ExitCode::from(done.iter().map(Done::exit_code).max().unwrap_or(0)))
}

fn read_typed(text: &str) -> Result<Typed, Failure> {
    let path = Path::new(text);
    if let Some((module, version)) = text.split_once('@').filter(|_| !path.exists()) {
        let read = Module::new(module).and_then(|module| Ok(Typed::Version(module, Version::new(version)?)));
        return read.map_err(|why| Failure::Wanted(format!("{text}: {why}")));
    }
    let read = || std::fs::read_to_string(path).map_err(|error| Failure::Read { path: PathBuf::from(path), error });
    let bad = |bad| Failure::Line { path: PathBuf::from(path), bad };
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("sum") => GoSum::parse(&read()?).map(Typed::Sums).map_err(bad),
        Some("mod") => GoMod::read_whole(&read()?).map(Typed::Requires).map_err(bad),
        _ => Err(Failure::Wanted(format!("{text:?} is no go.sum, no go.mod and no MODULE@VERSION"))),
    }
}

/// Go itself comes as versions of one module: `v0.0.1-go1.26.0.linux-amd64`.
fn toolchains(args: &WarmArgs) -> Result<Vec<(Wanted, Need)>, Failure> {
    let here = format!("{}/{}", go_os(), go_arch());
    let platforms: Vec<&str> =
        if args.platforms.is_empty() { vec![&here] } else { args.platforms.iter().map(String::as_str).collect() };
    let mut wanted = Vec::new();
    for version in &args.toolchains {
        for platform in &platforms {
            let (os, arch) = platform.split_once('/').ok_or_else(|| {
                Failure::Wanted(format!("a platform is OS/ARCH, as in linux/amd64; {platform:?} is not"))
            })?;
            let name = format!("v0.0.1-go{}.{os}-{arch}", version.trim_start_matches("go"));
            let read = Module::new(TOOLCHAIN).and_then(|module| Ok((module, Version::new(&name)?)));
            let toolchain = read.map_err(|why| Failure::Wanted(format!("toolchain {version}: {why}")))?;
            wanted.push((toolchain, Need::All));
        }
    }
    Ok(wanted)
}

fn go_os() -> &'static str {
    if std::env::consts::OS == "macos" { "darwin" } else { std::env::consts::OS }
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// A walk through all that is wanted, a few versions at a time.
struct Walk {
    goproxy: Goproxy,
    /// What verifies, if anything does.
    database: Option<Database>,
    /// What was asked for already, and how much of it.
    seen: HashMap<Wanted, Need>,
    done: Vec<Done>,
    bytes: u64,
    /// What the go.sum files say.
    sums: GoSum,
}

impl Typed {
    /// As of a module that requires nothing.
    fn is_empty(&self) -> bool {
        match self {
            Typed::Sums(sums) => sums.versions().next().is_none(),
            Typed::Requires(go_mod) => go_mod.requires.is_empty(),
            Typed::Toolchains(wanted) => wanted.is_empty(),
            Typed::Version(..) => false,
        }
    }
}

impl Walk {
    fn new(goproxy: Goproxy, database: Option<Database>) -> Walk {
        Walk { goproxy, database, seen: HashMap::new(), done: Vec::new(), bytes: 0, sums: GoSum::default() }
    }

    async fn all(&mut self, typed: Vec<Typed>) -> Vec<Done> {
        if let Some(database) = self.database.clone() {
            // Its head, so that a build finds it supported with the database away.
            let supported = ModuleRequest::SumSupported { database };
            if let Err(why) = self.goproxy.warm(&supported, SystemTime::now()).await {
                anstream::eprintln!("goanyway: {why}");
            }
        }
        for typed in typed {
            match typed {
                Typed::Sums(sums) => {
                    let need = |has_zip: bool| if has_zip { Need::All } else { Need::Mod };
                    let wanted = sums.versions().map(|(wanted, has_zip)| (wanted.clone(), need(has_zip))).collect();
                    self.sums.extend(sums);
                    self.fetch(wanted, None).await;
                }
                Typed::Toolchains(wanted) => drop(self.fetch(wanted, None).await),
                Typed::Requires(go_mod) => self.graph(&go_mod).await,
                Typed::Version(module, version) => {
                    if let Some((module, version)) = self.query(module, version).await
                        && let Some(go_mod) =
                            self.fetch(vec![((module.clone(), version.clone()), Need::All)], None).await.remove(&module)
                    {
                        self.graph(&go_mod).await;
                    }
                }
            }
        }
        self.clear_bar();
        self.goproxy.settled().await;
        let mut done = std::mem::take(&mut self.done);
        for done in &mut done {
            done.unverified = done.count_unverified(&self.goproxy).await;
            done.unkept = done.count_unkept(&self.goproxy).await;
            done.differing = done.compare(&self.goproxy, &self.sums).await;
            for differing in &done.differing {
                anstream::eprintln!("error: {}@{}: {differing}", done.module, done.version);
            }
        }
        done
    }

    /// What a build of this main module asks for.
    async fn graph(&mut self, main: &GoMod) {
        let stand_in = |(module, version): &Wanted| main.stand_in(module, version);
        let wanted: Vec<(Wanted, Need)> =
            main.requires.iter().filter_map(stand_in).map(|wanted| (wanted, Need::All)).collect();
        self.fetch(wanted, Some(main)).await;
        if main.is_pruned {
            return;
        }
        // Of all versions of a module that the graph names, the highest is built (minimal version selection).
        let mut highest: BTreeMap<Module, Version> = BTreeMap::new();
        for (module, version) in self.seen.keys() {
            match highest.get(module) {
                Some(other) if !version.is_after(other) => {}
                _ => drop(highest.insert(module.clone(), version.clone())),
            }
        }
        self.fetch(highest.into_iter().map(|wanted| (wanted, Need::All)).collect(), None).await;
    }

    /// Fetches versions, and with a main module also what go reads beyond them. Returns the go.mod files.
    async fn fetch(&mut self, wanted: Vec<(Wanted, Need)>, main: Option<&GoMod>) -> HashMap<Module, GoMod> {
        let mut waiting = wanted;
        let mut running: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
        let mut found = HashMap::new();
        loop {
            while running.len() < AT_ONCE
                && let Some((wanted, need)) = waiting.pop()
            {
                if self.is_new(&wanted, need) {
                    running.push(Box::pin(fetch_version(self.goproxy.clone(), wanted, need)));
                }
            }
            self.show_bar(running.len() + waiting.len());
            let Some(done) = running.next().await else { return found };
            if let Some(go_mod) = &done.go_mod {
                if let Some(main) = main.filter(|main| !main.is_pruned || !go_mod.is_pruned) {
                    let next = go_mod.requires.iter().filter_map(|(module, version)| main.stand_in(module, version));
                    waiting.extend(next.map(|wanted| (wanted, Need::Mod)));
                }
                found.insert(done.module.clone(), go_mod.clone());
            }
            self.take(done);
        }
    }

    fn is_new(&mut self, wanted: &Wanted, need: Need) -> bool {
        let before = self.seen.insert(wanted.clone(), need.max(self.seen.get(wanted).copied().unwrap_or(Need::Mod)));
        before.is_none_or(|before| before < need)
    }

    /// The version that a query means; a canonical one means itself.
    async fn query(&mut self, module: Module, query: Version) -> Option<Wanted> {
        if query.is_canonical() {
            return Some((module, query));
        }
        match find_version(&self.goproxy, &module, &query).await {
            Ok(version) => Some((module, version)),
            Err(failure) => {
                self.take(Done { failure: Some(failure), ..Done::new(module, query) });
                None
            }
        }
    }

    fn take(&mut self, done: Done) {
        self.bytes += done.bytes();
        self.clear_bar();
        if let Some(failure) = &done.failure {
            let version = format!("{}@{}", done.module, done.version);
            match failure.to_string() {
                // Most tell of which file of the version it is.
                why if why.starts_with(&format!("{version} ")) => anstream::eprintln!("error: {why}"),
                why => anstream::eprintln!("error: {version}: {why}"),
            }
        }
        self.done.push(done);
    }

    fn show_bar(&self, left: usize) {
        if left == 0 || !std::io::stderr().is_terminal() {
            return;
        }
        let (done, all) = (self.done.len(), self.done.len() + left);
        let full = BAR * done / all;
        let bar = format!("{}{}", "#".repeat(full), ".".repeat(BAR - full));
        let bytes = size(self.bytes);
        let _ = write!(std::io::stderr(), "\r[{bar}] {done} of {all} versions, {bytes}  ");
    }

    fn clear_bar(&self) {
        if std::io::stderr().is_terminal() {
            let _ = write!(std::io::stderr(), "\r{:78}\r", "");
        }
    }

    fn summary(&self, done: &[Done], begun: Instant) {
        let (files, fetched): (usize, usize) =
            (done.iter().map(|done| done.files.len()).sum(), done.iter().map(Done::fetched).sum());
        let unverified: usize = done.iter().map(|done| done.unverified).sum();
        let failed = done.iter().filter(|done| done.failure.is_some()).count();
        let unkept: usize = done.iter().map(|done| done.unkept).sum();
        let bytes = size(self.bytes);
        let are = if unkept > 0 { "came" } else { "are held" };
        anstream::eprintln!(
            "goanyway: {}, {} ({bytes}) {are}, {fetched} of them fetched now, in {:.1} s",
            count((done.len() - failed) as u64, "version"),
            count(files as u64, "file"),
            begun.elapsed().as_secs_f64(),
        );
        if unkept > 0 {
            anstream::eprintln!(
                "goanyway: {} could not be kept on the disk, so no build will find them; goanyway doctor says what is \
                 wrong with the folder",
                count(unkept as u64, "file"),
            );
        }
        if unverified > 0 && self.database.is_some() {
            anstream::eprintln!(
                "goanyway: {} unverified: the checksum database has no word on {}",
                if unverified == 1 { "1 file is".to_owned() } else { format!("{unverified} files are") },
                if unverified == 1 { "it" } else { "them" },
            );
        }
        let differing = done.iter().filter(|done| !done.differing.is_empty()).count();
        if differing > 0 {
            anstream::eprintln!("goanyway: {differing} versions are not what go.sum says");
        }
        if failed > 0 {
            anstream::eprintln!("goanyway: {} could not be had", count(failed as u64, "version"));
        }
    }
}

impl Done {
    fn new(module: Module, version: Version) -> Done {
        let files = Vec::new();
        Done { module, version, files, unverified: 0, unkept: 0, failure: None, differing: Vec::new(), go_mod: None }
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, file)| file.length).sum()
    }

    fn fetched(&self) -> usize {
        self.files.iter().filter(|(_, file)| !matches!(file.served, Served::Hit | Served::Stale)).count()
    }

    async fn count_unverified(&self, goproxy: &Goproxy) -> usize {
        let mut unverified = 0;
        for (request, _) in &self.files {
            let is_file = matches!(request, ModuleRequest::Mod { .. } | ModuleRequest::Zip { .. });
            unverified += usize::from(is_file && !goproxy.is_vouched_for(request).await);
        }
        unverified
    }

    async fn count_unkept(&self, goproxy: &Goproxy) -> usize {
        let mut unkept = 0;
        for (request, _) in &self.files {
            unkept += usize::from(!goproxy.is_kept(request).await);
        }
        unkept
    }

    /// What is held and is not what the go.sum says.
    async fn compare(&self, goproxy: &Goproxy, sums: &GoSum) -> Vec<String> {
        let mut differing = Vec::new();
        for (request, _) in &self.files {
            let wanted = sums.sums_of(request);
            if wanted.is_empty() {
                continue;
            }
            let what = if matches!(request, ModuleRequest::Zip { .. }) { "zip" } else { "go.mod" };
            match goproxy.sum_of(request).await {
                Some(sum) if wanted.contains(&sum) => {}
                Some(sum) => differing.push(format!("its {what} has {sum}, and go.sum has {}", wanted.join(" or "))),
                None => differing.push(format!("its {what} could not be kept, so that nobody compared it with go.sum")),
            }
        }
        differing
    }

    fn exit_code(&self) -> u8 {
        let Some(failure) = &self.failure else {
            return if self.unkept > 0 { 3 } else { u8::from(!self.differing.is_empty()) };
        };
        let is_wrong = |said: &Said| matches!(said, Said::Wrong(_) | Said::Refuted);
        let complaints = failure.complaints();
        let is_no = failure.as_absent().is_some()
            || *failure.kind() == Kind::Policy
            || !complaints.is_empty() && complaints.iter().all(|complaint| is_wrong(&complaint.said));
        if is_no { 1 } else { 3 }
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "module": self.module.as_str(),
            "version": self.version.as_str(),
            "held": self.failure.is_none(),
            "files": self.files.len(),
            "fetched": self.fetched(),
            "bytes": self.bytes(),
            "verified": self.failure.is_none() && self.unverified == 0,
            "differs": self.differing,
            "reason": self.failure.as_ref().map(ToString::to_string),
        })
    }
}

/// The files of one version, in the order in which go asks for them.
async fn fetch_version(goproxy: Goproxy, (module, version): Wanted, need: Need) -> Done {
    let of = |module: &Module, version: &Version| (module.clone(), version.clone());
    let go_mod = of(&module, &version);
    let mut requests = vec![ModuleRequest::Mod { module: go_mod.0, version: go_mod.1 }];
    if need == Need::All {
        let (info, zip) = (of(&module, &version), of(&module, &version));
        requests.push(ModuleRequest::Info { module: info.0, version: info.1 });
        requests.push(ModuleRequest::Zip { module: zip.0, version: zip.1 });
    }
    let mut done = Done::new(module, version);
    for request in requests {
        match goproxy.warm(&request, SystemTime::now()).await {
            Ok(warmed) => {
                if matches!(request, ModuleRequest::Mod { .. }) {
                    done.go_mod = Some(GoMod::read(&String::from_utf8_lossy(&warmed.text)));
                }
                done.files.push((request, warmed));
            }
            Err(failure) => {
                done.failure = Some(failure);
                break;
            }
        }
    }
    done
}

/// `latest`: the highest release that is listed, else the highest version, else what `@latest` says; any
/// other query: what its `.info` says.
async fn find_version(goproxy: &Goproxy, module: &Module, query: &Version) -> Result<Version, goproxy::Failure> {
    let now = SystemTime::now();
    let module = || module.clone();
    let mut request = ModuleRequest::Info { module: module(), version: query.clone() };
    if query.as_str() == "latest" {
        let list = goproxy.warm(&ModuleRequest::List { module: module() }, now).await?;
        if let Some(version) = highest(&String::from_utf8_lossy(&list.text)) {
            return Ok(version);
        }
        request = ModuleRequest::Latest { module: module() };
    }
    let info = goproxy.warm(&request, now).await?;
    let named = serde_json::from_slice::<serde_json::Value>(&info.text).ok();
    let named = named.and_then(|info| Version::new(info.get("Version")?.as_str()?).ok());
    named.ok_or_else(|| goproxy::Failure::fault(format!("{request} names no version"), ""))
}

fn highest(list: &str) -> Option<Version> {
    let versions = list.lines().filter_map(|line| Version::new(line.split_whitespace().next()?).ok());
    let versions: Vec<Version> = versions.filter(Version::is_canonical).collect();
    let max = |one: Version, other: Version| if other.is_after(&one) { other } else { one };
    versions
        .iter()
        .filter(|version| version.is_release())
        .cloned()
        .reduce(max)
        .or_else(|| versions.into_iter().reduce(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wanted: &[(Wanted, Need)]) -> Vec<String> {
        wanted.iter().map(|((module, version), need)| format!("{module}@{version} {need:?}")).collect()
    }

    #[test]
    fn latest_is_the_highest_release_or_else_the_highest_version() {
        let highest = |list: &str| highest(list).map(|version| version.to_string());
        assert_eq!(highest("v1.9.0\nv1.10.0 2024-01-01T00:00:00Z\nv2.0.0-rc.1\nmaster\n").as_deref(), Some("v1.10.0"));
        assert_eq!(highest("v0.1.0-a\nv0.1.0-b\n").as_deref(), Some("v0.1.0-b"));
        assert_eq!(highest(""), None);
    }

    #[test]
    fn toolchains_are_versions_of_a_module() {
        let args = |toolchains: &[&str], platforms: &[&str]| WarmArgs {
            wanted: Vec::new(),
            toolchains: toolchains.iter().map(|&text| text.to_owned()).collect(),
            platforms: platforms.iter().map(|&text| text.to_owned()).collect(),
            json: false,
        };
        let found = toolchains(&args(&["1.26.0", "go1.25.4"], &["linux/amd64", "darwin/arm64"])).unwrap();
        assert_eq!(names(&found)[0], "golang.org/toolchain@v0.0.1-go1.26.0.linux-amd64 All");
        assert_eq!(found.len(), 4);
        assert!(toolchains(&args(&["1.26.0"], &["linux"])).is_err());
        assert_eq!(toolchains(&args(&["1.26.0"], &[])).unwrap().len(), 1);
    }

    #[test]
    fn what_was_typed_is_a_file_or_a_version() {
        assert!(matches!(read_typed("a.b/c@v1.0.0"), Ok(Typed::Version(..))));
        assert!(matches!(read_typed("a.b/c@latest"), Ok(Typed::Version(..))));
        assert!(matches!(read_typed("Cargo.toml"), Err(Failure::Wanted(_))));
        assert!(matches!(read_typed("nowhere/go.sum"), Err(Failure::Read { .. })));
        assert!(matches!(read_typed("..@v1"), Err(Failure::Wanted(_))));
    }
}
