//! `goanyway cache`: what is kept, whether it is right, taking out, carrying out and in.
//!
//! Every command works on the folder itself, while daemons serve from it. Data goes to standard output,
//! as a table for people or as JSON; what happened goes to standard error. 1 says that something is wrong
//! with what is kept and still there, or that there is no cache.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::output::print;
use super::{Failure, count};
use crate::cache::{Folder, Item, Key, Pins};
use crate::config::Settings;
use crate::goproxy::{
    self, BadBundle, Examiner, Filed, Finding, GoSum, Module, Patterns, Sort, SumdbConfig, Version, is_set_out,
    is_vouched,
};

/// What is kept: look at it, check it, take some out, carry it elsewhere
#[derive(Args, Clone, Debug)]
pub struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum CacheCommand {
    /// How much is kept, of what, and how much room there is
    Stat(Stat),
    /// Which module versions are kept
    List(List),
    /// Hash everything that is kept, and check what it says
    Verify(Verify),
    /// Take files out; a daemon that serves from the folder notices within a second
    Prune(Prune),
    /// Copy modules and their checksum records to a new folder: a GOPROXY=file:// tree
    Export(Export),
    /// Check such a tree, or go's own cache/download, and keep what is in it
    Import(Import),
}

#[derive(Args, Clone, Debug)]
struct Stat {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct List {
    /// Only these modules: GOPRIVATE patterns, @VERSION may follow
    #[arg(value_name = "PATTERN")]
    patterns: Vec<Selector>,
    /// Print a JSON object for each version
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct Verify {
    /// Only these modules: GOPRIVATE patterns, @VERSION may follow
    #[arg(value_name = "PATTERN")]
    patterns: Vec<Selector>,
    /// Take out what is wrong; it is fetched again when somebody asks for it
    #[arg(long)]
    repair: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct Prune {
    /// Modules, by path or by pattern (*, ?, [a-z]); @VERSION may follow
    #[arg(value_name = "MODULE[@VERSION]")]
    modules: Vec<Selector>,
    /// What was not used for so long: 30d, 12h
    #[arg(long, value_name = "DURATION")]
    older_than: Option<Age>,
    /// The least needed, until no more than this is left
    #[arg(long, value_name = "SIZE", value_parser = read_size)]
    to: Option<ByteSize>,
    /// go.mod files and zips that no checksum database vouches for
    #[arg(long)]
    unverified: bool,
    /// Say what would go, and take nothing out
    #[arg(long)]
    dry_run: bool,
    /// Print a JSON object for each file
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct Export {
    /// A folder that is not there yet, or empty
    #[arg(value_name = "DIR")]
    to: PathBuf,
    /// Only these modules (GOPRIVATE patterns)
    #[arg(long, value_name = "PATTERN")]
    module: Vec<String>,
    /// Only what a build with this go.sum asks for
    #[arg(long, value_name = "FILE")]
    go_sum: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct Import {
    /// A tree laid out as a module proxy
    #[arg(value_name = "DIR")]
    from: PathBuf,
    /// Sums that the files must have, beside what the checksum database says
    #[arg(long, value_name = "FILE")]
    go_sum: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn read_size(text: &str) -> Result<ByteSize, &'static str> {
    text.parse().map_err(|_| "expected a size such as 10GiB or 500MB")
}

pub(super) fn tend(settings: &Settings, args: &CacheArgs) -> Result<ExitCode, Failure> {
    let Some(dir) = settings.cache_dir.path.as_deref() else { return Ok(say_absent(Path::new("(no home)"))) };
    let databases = &settings.goproxy.sumdb;
    if let CacheCommand::Import(args) = &args.command {
        return import(&Folder::make(dir)?, args, databases);
    }
    let Some(folder) = Folder::open(dir)? else { return Ok(say_absent(dir)) };
    match &args.command {
        CacheCommand::Stat(args) => stat(&folder, args, settings.cache.size),
        CacheCommand::List(args) => list(&folder, args),
        CacheCommand::Verify(args) => verify(&folder, args, databases),
        CacheCommand::Prune(args) => prune(&folder, args, &settings.cache.pins),
        CacheCommand::Export(args) => export(&folder, args, databases),
        CacheCommand::Import(_) => unreachable!("it makes the folder that it needs, above"),
    }
}

fn say_absent(dir: &Path) -> ExitCode {
    anstream::eprintln!(
        "error: no cache in {}\n\nhint: goanyway serve makes one when it starts; --cache-dir names another",
        dir.display()
    );
    ExitCode::from(1)
}

/// `cache stat --json`.
#[derive(Serialize)]
struct Totals {
    folder: PathBuf,
    files: u64,
    bytes: u64,
    /// `cache.size`.
    limit: u64,
    kinds: BTreeMap<&'static str, Kind>,
    verified: u64,
    unverified: u64,
    unnoted: u64,
    oldest_use: Option<String>,
    newest_use: Option<String>,
    disk: Option<DiskRoom>,
}

#[derive(Default, Serialize)]
struct Kind {
    files: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct DiskRoom {
    total: u64,
    free: u64,
    /// What the free-space rule keeps free.
    stays_free: u64,
    is_own_mount: bool,
}

fn stat(folder: &Folder, args: &Stat, limit: u64) -> Result<ExitCode, Failure> {
    let totals = add_up(folder, limit)?;
    print(&if args.json { json(&totals) } else { totals.table() })
}

fn add_up(folder: &Folder, limit: u64) -> Result<Totals, Failure> {
    let items = folder.items()?;
    let mut kinds: BTreeMap<&'static str, Kind> = BTreeMap::new();
    let (mut verified, mut unverified) = (0, 0);
    for item in &items {
        let sort = Filed::of(&item.key).sort;
        let kind = kinds.entry(sort.word()).or_default();
        (kind.files, kind.bytes) = (kind.files + 1, kind.bytes + item.size);
        if matches!(sort, Sort::Zip | Sort::Mod) && item.note.is_some() {
            *(if is_vouched(item) { &mut verified } else { &mut unverified }) += 1;
        }
    }
    let uses = || items.iter().map(|item| item.used_ms);
    let disk = folder.room().map(|room| DiskRoom {
        total: room.total,
        free: room.free,
        stays_free: room.wanted,
        is_own_mount: room.is_ours,
    });
    Ok(Totals {
        folder: folder.dir().to_owned(),
        files: items.len() as u64,
        bytes: items.iter().map(|item| item.size).sum(),
        limit,
        kinds,
        verified,
        unverified,
        unnoted: items.iter().filter(|item| item.note.is_none() && !is_set_out(&item.key)).count() as u64,
        oldest_use: uses().min().map(spell_time),
        newest_use: uses().max().map(spell_time),
        disk,
    })
}

impl Totals {
    fn table(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail, here and below.
        let mut row = |label: &str, value: String| _ = writeln!(text, "{label:<9} {value}");
        row("folder", self.folder.display().to_string());
        row("kept", format!("{} in {} of at most {}", size(self.bytes), count(self.files, "file"), size(self.limit)));
        for sort in Sort::ALL {
            let Some(kind) = self.kinds.get(sort.word()) else { continue };
            row("", format!("{:<7} {:>8} {:>11}", sort.word(), kind.files, size(kind.bytes)));
        }
        row("verified", format!("{} go.mod files and zips; {} not", self.verified, self.unverified));
        if self.unnoted > 0 {
            row("unnoted", format!("{}: nobody is given them", count(self.unnoted, "file")));
        }
        if let (Some(oldest), Some(newest)) = (&self.oldest_use, &self.newest_use) {
            row("used", format!("between {oldest} and {newest}"));
        }
        if let Some(disk) = &self.disk {
            let rule = if disk.is_own_mount { "a fifth of a mount of its own" } else { "a twentieth, 2 GiB at least" };
            let (free, total, stays) = (size(disk.free), size(disk.total), size(disk.stays_free));
            row("disk", format!("{free} of {total} free; {stays} stay free ({rule})"));
        }
        text
    }
}

/// One module version that is kept, as `cache list --json` prints it.
#[derive(Serialize)]
struct Kept {
    module: String,
    /// None for what is about all versions.
    version: Option<String>,
    /// `download`, or the folder of another host.
    place: String,
    kinds: BTreeSet<&'static str>,
    bytes: u64,
    /// Whether the checksum database vouches for what is kept of go.mod and zip.
    verified: bool,
    last_use: String,
    #[serde(skip)]
    used_ms: u64,
}

fn list(folder: &Folder, args: &List) -> Result<ExitCode, Failure> {
    let rows = gather(&folder.items()?, &args.patterns);
    let mut text = String::new();
    if args.json {
        rows.iter().for_each(|row| text.push_str(&json(row)));
        return print(&text);
    }
    for row in &rows {
        let version = row.version.as_ref().map_or(String::new(), |version| format!("@{version}"));
        let place = if row.place == TREE { String::new() } else { format!("  ({})", row.place) };
        let kinds = row.kinds.iter().copied().collect::<Vec<_>>().join(",");
        let verified = if row.verified { "verified" } else { "-" };
        let name = format!("{}{version}", row.module);
        let _ =
            writeln!(text, "{name:<56} {kinds:<12} {:>11}  {verified:<8}  {}{place}", size(row.bytes), row.last_use);
    }
    print(&text)
}

fn gather(items: &[Item], patterns: &[Selector]) -> Vec<Kept> {
    let mut rows: BTreeMap<(String, Option<String>, String), Kept> = BTreeMap::new();
    let mut unvouched = BTreeSet::new();
    for item in items {
        let filed = Filed::of(&item.key);
        let Some(module) = filed.module().filter(|_| !matches!(filed.sort, Sort::Absence | Sort::Sumdb)) else {
            continue;
        };
        if !patterns.is_empty() && !patterns.iter().any(|pattern| pattern.covers(module, filed.version())) {
            continue;
        }
        let place = place_of(&item.key);
        let version = filed.version().map(Version::to_string);
        let at = (module.to_string(), version.clone(), place.clone());
        let fresh = || Kept {
            module: module.to_string(),
            version,
            place,
            kinds: BTreeSet::new(),
            bytes: 0,
            verified: false,
            last_use: String::new(),
            used_ms: 0,
        };
        let kind = kind_word(&item.key);
        let row = rows.entry(at.clone()).or_insert_with(fresh);
        row.bytes += item.size;
        row.used_ms = row.used_ms.max(item.used_ms);
        row.kinds.insert(kind);
        if matches!(kind, "zip" | "mod") {
            row.verified = true;
            if !is_vouched(item) {
                unvouched.insert(at);
            }
        }
    }
    let finish = |(at, mut row): ((String, Option<String>, String), Kept)| {
        row.verified &= !unvouched.contains(&at);
        row.last_use = spell_time(row.used_ms);
        row
    };
    rows.into_iter().map(finish).collect()
}

/// `zip`, `mod`, `info` or `list`, wherever it lies.
fn kind_word(key: &Key) -> &'static str {
    let ending = key.as_str().rsplit('.').next().unwrap_or_default();
    ["zip", "mod", "info"].into_iter().find(|kind| *kind == ending).unwrap_or("list")
}

/// `download`, or `hosts/<base>`.
fn place_of(key: &Key) -> String {
    let components = if key.as_str().starts_with("hosts/") { 2 } else { 1 };
    key.as_str().split('/').take(components).collect::<Vec<_>>().join("/")
}

/// `cache verify --json`.
#[derive(Default, Serialize)]
struct Report {
    checked: usize,
    right: usize,
    wrong: Vec<Wrong>,
    /// As they were kept, and nothing here proves them.
    unproven: usize,
    unnoted: usize,
    /// How many of the wrong and the unnoted were taken out.
    repaired: usize,
}

#[derive(Clone, Serialize)]
struct Wrong {
    path: String,
    why: String,
}

fn verify(folder: &Folder, args: &Verify, databases: &[SumdbConfig]) -> Result<ExitCode, Failure> {
    let wanted = |item: &Item| {
        let filed = Filed::of(&item.key);
        args.patterns.is_empty()
            || filed.module().is_some_and(|module| args.patterns.iter().any(|one| one.covers(module, filed.version())))
    };
    let items: Vec<Item> = folder.items()?.into_iter().chain(folder.lost()).filter(wanted).collect();
    let findings = examine_all(folder, &items, databases);
    let mut report = Report { checked: items.len(), ..Report::default() };
    let (mut wrong, mut unnoted) = (Vec::new(), Vec::new());
    for (item, finding) in items.iter().zip(findings) {
        match finding {
            Finding::Right => report.right += 1,
            Finding::Unproven(why) => {
                report.unproven += 1;
                tracing::debug!(key = %item.key, "not proven: {why}");
            }
            Finding::Wrong(why) => {
                report.wrong.push(Wrong { path: item.key.to_string(), why });
                wrong.push(item.key.clone());
            }
            Finding::Unnoted => unnoted.push(item),
            Finding::Gone => {}
        }
    }
    report.unnoted = unnoted.len();
    let is_left = SystemTime::now() - LEFT_AFTER;
    let left = unnoted.iter().filter(|item| UNIX_EPOCH + Duration::from_millis(item.used_ms) < is_left);
    if args.repair {
        // A daemon may have mended some meanwhile.
        let examiner = Examiner::new(folder, databases);
        let is_still_wrong = |key: &&Key| matches!(examiner.examine(key), Finding::Wrong(_));
        let wrong = wrong.iter().filter(is_still_wrong).cloned();
        let going: Vec<Key> = wrong.chain(left.map(|item| item.key.clone())).collect();
        report.repaired = folder.repair(&going)?;
    }
    let is_well = wrong.is_empty() || args.repair;
    print(&if args.json { json(&report) } else { report.text(args.repair) })?;
    Ok(ExitCode::from(u8::from(!is_well)))
}

impl Report {
    fn text(&self, is_repair: bool) -> String {
        let mut text = String::new();
        for wrong in &self.wrong {
            let _ = writeln!(text, "{}: {}", wrong.path, wrong.why);
        }
        let _ = writeln!(text, "{} checked, {} wrong", count(self.checked as u64, "file"), self.wrong.len());
        if self.unproven > 0 {
            let _ = writeln!(text, "{} as they were kept, with nothing here to prove them", self.unproven);
        }
        if self.unnoted > 0 {
            let _ = writeln!(text, "{} that an interrupted write left, and nobody is given", self.unnoted);
        }
        if is_repair {
            let _ = writeln!(text, "{} taken out", count(self.repaired as u64, "file"));
        } else if !self.wrong.is_empty() {
            text.push_str("goanyway cache verify --repair takes out what is wrong\n");
        }
        text
    }
}

/// Looks at every file, on all cores, and says on a terminal how far it is.
fn examine_all(folder: &Folder, items: &[Item], databases: &[SumdbConfig]) -> Vec<Finding> {
    let examiner = Examiner::new(folder, databases);
    let findings = Mutex::new(vec![Finding::Gone; items.len()]);
    let (next, is_done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let work = || {
            while let Some((at, item)) =
                Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, items.get(at)?)))
            {
                let finding = examiner.examine(&item.key);
                findings.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[at] = finding;
            }
        };
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        if std::io::stderr().is_terminal() {
            scope.spawn(|| show_progress(&next, items.len(), &is_done));
        }
        workers.into_iter().for_each(|worker| _ = worker.join());
        is_done.store(true, Ordering::Relaxed);
    });
    findings.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn show_progress(next: &AtomicUsize, all: usize, is_done: &AtomicBool) {
    while !is_done.load(Ordering::Relaxed) {
        // A terminal that is gone is told nothing.
        let _ = write!(std::io::stderr(), "\r{} of {all} files\x1b[K", next.load(Ordering::Relaxed).min(all));
        std::thread::sleep(Duration::from_millis(100));
    }
    let _ = write!(std::io::stderr(), "\r\x1b[K");
}

/// One file that goes, as `cache prune --json` prints it.
#[derive(Serialize)]
struct Going {
    path: String,
    bytes: u64,
    last_use: String,
}

fn prune(folder: &Folder, args: &Prune, pins: &Pins) -> Result<ExitCode, Failure> {
    if args.modules.is_empty() && args.older_than.is_none() && args.to.is_none() && !args.unverified {
        return Err(Failure::Wanted(
            "say what to take out: MODULE[@VERSION], --older-than, --to or --unverified".into(),
        ));
    }
    let items = folder.items()?;
    let going = choose(folder, &items, args, pins, SystemTime::now());
    let mut text = String::new();
    for item in &going {
        let (path, bytes, last_use) = (item.key.to_string(), item.size, spell_time(item.used_ms));
        if args.json {
            text.push_str(&json(&Going { path, bytes, last_use }));
        } else {
            let _ = writeln!(text, "{path}  {}", size(bytes));
        }
    }
    if !args.dry_run {
        let keys: Vec<Key> = going.iter().map(|item| item.key.clone()).collect();
        folder.remove(&keys)?;
    }
    print(&text)?;
    let bytes = going.iter().map(|item| item.size).sum();
    let verb = if args.dry_run { "would be taken out" } else { "taken out" };
    anstream::eprintln!("goanyway: {} ({}) {verb}", count(going.len() as u64, "file"), size(bytes));
    Ok(ExitCode::SUCCESS)
}

/// What goes: whatever fits all conditions, and then the least needed until it is little enough. Pinned
/// modules go only by name. Records and tiles of a checksum database are of use to all of its modules,
/// so they go only when nothing else is left.
fn choose<'a>(folder: &Folder, items: &'a [Item], args: &Prune, pins: &Pins, now: SystemTime) -> Vec<&'a Item> {
    let before_ms = args.older_than.map(|age| millis(now).saturating_sub(age.0.as_millis() as u64));
    let goes = |item: &&Item| {
        let filed = Filed::of(&item.key);
        let is_named =
            filed.module().is_some_and(|module| args.modules.iter().any(|one| one.names(module, filed.version())));
        let is_unverified = matches!(kind_word(&item.key), "mod" | "zip") && !is_vouched(item);
        filed.sort != Sort::Sumdb
            && (args.modules.is_empty() || is_named)
            && (is_named || !pins.cover(&item.key))
            && before_ms.is_none_or(|before| item.used_ms < before)
            && (!args.unverified || is_unverified)
    };
    let has_conditions = !args.modules.is_empty() || args.older_than.is_some() || args.unverified;
    let mut going: Vec<&Item> = if has_conditions { items.iter().filter(goes).collect() } else { Vec::new() };
    if let Some(ByteSize(to)) = args.to {
        let gone: BTreeSet<&Key> = going.iter().map(|item| &item.key).collect();
        let rest: Vec<&Item> = items.iter().filter(|item| !gone.contains(&item.key)).collect();
        let excess = rest.iter().map(|item| item.size).sum::<u64>().saturating_sub(to);
        let free = rest.into_iter().filter(|item| !pins.cover(&item.key));
        going.extend(folder.least_needed(free.collect(), excess));
    }
    going
}

fn export(folder: &Folder, args: &Export, databases: &[SumdbConfig]) -> Result<ExitCode, Failure> {
    let patterns = (!args.module.is_empty()).then(|| Patterns::new(&args.module));
    let go_sum = args.go_sum.as_deref().map(read_go_sum).transpose()?;
    let exported = goproxy::export(folder, &args.to, patterns.as_ref(), go_sum.as_ref(), databases)
        .map_err(|why| Failure::Wanted(why.to_string()))?;
    for (path, why) in &exported.left_out {
        anstream::eprintln!("goanyway: left out {path}: {why}");
    }
    let url = format!("file://{}", std::path::absolute(&args.to).unwrap_or_else(|_| args.to.clone()).display());
    print(&if args.json {
        json(&serde_json::json!({
            "goproxy": url, "files": exported.files, "bytes": exported.bytes, "zips": exported.zips,
            "records": exported.records, "left_out": exported.left_out.len(),
        }))
    } else {
        format!(
            "{} ({}), {}, {}\nGOPROXY={url}\n",
            count(exported.files, "file"),
            size(exported.bytes),
            count(exported.zips, "zip"),
            count(exported.records, "checksum record"),
        )
    })
}

fn import(folder: &Folder, args: &Import, databases: &[SumdbConfig]) -> Result<ExitCode, Failure> {
    let go_sum = args.go_sum.as_deref().map(read_go_sum).transpose()?;
    let imported = match goproxy::import(folder, &args.from, go_sum.as_ref(), databases, SystemTime::now()) {
        Ok(imported) => imported,
        Err(BadBundle::Damaged(files)) => return Ok(refuse(&args.from, &files)),
        Err(why) => return Err(Failure::Wanted(why.to_string())),
    };
    print(&if args.json {
        json(&serde_json::json!({
            "files": imported.files, "bytes": imported.bytes, "verified": imported.verified,
            "records": imported.records, "held": imported.held, "left_out": imported.left_out,
        }))
    } else {
        format!(
            "{} ({}) kept, {} of them verified, and {}; {} held already, {} left out\n",
            count(imported.files, "file"),
            size(imported.bytes),
            imported.verified,
            count(imported.records, "checksum record"),
            imported.held,
            imported.left_out,
        )
    })
}

fn refuse(from: &Path, files: &[(String, String)]) -> ExitCode {
    anstream::eprintln!("error: {} is damaged, and nothing of it is kept", from.display());
    for (path, why) in files.iter().take(MOST_TOLD) {
        anstream::eprintln!("  {path}: {why}");
    }
    if files.len() > MOST_TOLD {
        anstream::eprintln!("  and {} more", files.len() - MOST_TOLD);
    }
    ExitCode::from(1)
}

fn read_go_sum(path: &Path) -> Result<GoSum, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::Read { path: path.to_owned(), error })?;
    GoSum::parse(&text).map_err(|bad| Failure::Line { path: path.to_owned(), bad })
}

/// Modules that somebody means, and perhaps one version.
#[derive(Clone, Debug)]
struct Selector {
    text: String,
    patterns: Patterns,
    version: Option<String>,
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Selector, String> {
        let (module, version) = text.split_once('@').map_or((text, None), |(module, version)| (module, Some(version)));
        if module.is_empty() || version.is_some_and(str::is_empty) {
            return Err("expected MODULE or MODULE@VERSION".to_owned());
        }
        Ok(Selector {
            text: module.to_owned(),
            patterns: Patterns::new(&[module]),
            version: version.map(str::to_owned),
        })
    }
}

impl Selector {
    /// As GOPRIVATE means it: the modules below it too.
    fn covers(&self, module: &Module, version: Option<&Version>) -> bool {
        self.patterns.cover(module) && self.has(version)
    }

    /// A path is that module alone.
    fn names(&self, module: &Module, version: Option<&Version>) -> bool {
        let is_pattern = self.text.contains(['*', '?', '[', '\\']);
        let is_it = if is_pattern { self.patterns.cover(module) } else { module.as_str() == self.text };
        is_it && self.has(version)
    }

    fn has(&self, version: Option<&Version>) -> bool {
        self.version.as_ref().is_none_or(|wanted| version.is_some_and(|version| version.as_str() == wanted))
    }
}

/// `30d`, `12h`, `1w 2d`.
#[derive(Clone, Copy, Debug)]
struct Age(Duration);

impl FromStr for Age {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Age, &'static str> {
        let wrong = "expected a duration such as 30d, 12h or 2w";
        let span: jiff::Span = text.parse().map_err(|_| wrong)?;
        // Days of 24 hours: nobody's cache knows of summer time.
        let span = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong)?;
        Duration::try_from(span).map(Age).map_err(|_| wrong)
    }
}

fn json(value: &impl Serialize) -> String {
    // Numbers, texts and paths: a path that is no text is the only thing that could fail.
    serde_json::to_string(value).unwrap_or_else(|why| format!("{{\"error\":\"{why}\"}}")) + "\n"
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn spell_time(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_second(ms / 1000).ok());
    at.map_or_else(|| "unknown".to_owned(), |at| at.to_string())
}

const UNIX_EPOCH: SystemTime = SystemTime::UNIX_EPOCH;
/// The tree that origin form serves.
const TREE: &str = "download";
/// A file that is still without a note after so long was left by a write that was interrupted.
const LEFT_AFTER: Duration = Duration::from_secs(60);
/// So many wrong files of a tree are told; whoever sees them knows.
const MOST_TOLD: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_means_modules_and_perhaps_one_version() {
        let table = [
            // selector, module, version, covers, names
            ("a.b/c", "a.b/c", "v1.0.0", true, true),
            ("a.b/c", "a.b/c/v2", "v2.0.0", true, false),
            ("a.b", "a.b/c", "v1.0.0", true, false),
            ("a.b/*", "a.b/c", "v1.0.0", true, true),
            ("a.b/c@v1.0.0", "a.b/c", "v1.0.0", true, true),
            ("a.b/c@v1.0.0", "a.b/c", "v1.0.1", false, false),
            ("*.b/c@v1.0.0", "a.b/c", "v1.0.0", true, true),
            ("a.b/d", "a.b/c", "v1.0.0", false, false),
        ];
        for (text, module, version, covers, names) in table {
            let selector: Selector = text.parse().unwrap();
            let (module, version) = (Module::new(module).unwrap(), Version::new(version).unwrap());
            let found = (selector.covers(&module, Some(&version)), selector.names(&module, Some(&version)));
            assert_eq!(found, (covers, names), "{text} {module}@{version}");
        }
        let one: Selector = "a.b/c@v1.0.0".parse().unwrap();
        assert!(!one.covers(&Module::new("a.b/c").unwrap(), None), "a list is about no version");
        for wrong in ["", "@v1.0.0", "a.b/c@"] {
            assert!(wrong.parse::<Selector>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn ages_are_spans() {
        let hours = |text: &str| text.parse::<Age>().map(|age| age.0.as_secs() / 3600);
        assert_eq!((hours("30d"), hours("12h"), hours("1w 2d")), (Ok(720), Ok(12), Ok(216)));
        for wrong in ["", "soon", "30", "-1d"] {
            assert!(hours(wrong).is_err(), "{wrong:?}");
        }
    }
}
