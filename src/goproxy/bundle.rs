//! Modules carried from one cache to another: out as a `GOPROXY=file://` tree with its checksum database,
//! in again only after everything in it was looked at.
//!
//! **Out**: files are hashed as they are copied, so nothing damaged leaves. In our own folder records and
//! the tree head lie apart; in the tree each lookup ends in the one pinned head, and the tiles lie beside it
//! that a fresh go command needs to believe them, so it verifies with no network at all.
//!
//! **In**: two walks. The first judges every file: a record must be proven by the tree, a `.mod` or `.zip`
//! must have the sum that the record (or a go.sum) names and the shape of its kind, an `.info` its version. One
//! wrong file, and nothing of the tree is kept. The second walk keeps what is not held yet, if it still is what was
//! judged. A newer tree head is pinned if it contains the one that is held. The download folder of a
//! GOMODCACHE is such a tree too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tlog_tiles::Tile;

use super::examine::{LONGEST, Ledger, Proof, judge_file, judge_text};
use super::log::{Claim, Head, Record, Sums};
use super::path::{Module, ModuleRequest, Version};
use super::places::{Filed, Sort, read};
use super::policy::{self, Patterns};
use super::pools::TREE;
use super::store::{Facts, MIRROR, VERIFIED};
use super::sumdb::SumdbConfig;
use crate::cache::{Folder, Key, Look, Note};

/// The sums of a go.sum file: which module versions a build is made of.
#[derive(Clone, Debug, Default)]
pub struct GoSum(HashMap<(String, String), Vec<String>>);

impl GoSum {
    /// Reads `MODULE VERSION[/go.mod] h1:SUM` lines.
    pub fn parse(text: &str) -> Result<GoSum, String> {
        let mut sums = GoSum::default();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                [module, version, sum] if sum.starts_with("h1:") => {
                    sums.0.entry((module.to_owned(), version.to_owned())).or_default().push(sum.to_owned());
                }
                // go skips what another hash algorithm made (cmd/go/internal/modfetch, readGoSum).
                [_, _, _] => {}
                _ => return Err(format!("line {} is no line of a go.sum: {line:?}", at + 1)),
            }
        }
        Ok(sums)
    }

    fn sums(&self, module: &Module, version: &Version) -> Sums {
        let find = |version: String| self.0.get(&(module.to_string(), version)).cloned().unwrap_or_default();
        Sums { zip: find(version.to_string()), go_mod: find(format!("{version}/go.mod")) }
    }

    /// Whether a build with this go.sum may ask for the file.
    fn names(&self, request: &ModuleRequest) -> bool {
        match request {
            ModuleRequest::Zip { module, version } => !self.sums(module, version).zip.is_empty(),
            ModuleRequest::Mod { module, version } => !self.sums(module, version).go_mod.is_empty(),
            ModuleRequest::Info { module, version } => {
                let sums = self.sums(module, version);
                !(sums.zip.is_empty() && sums.go_mod.is_empty())
            }
            _ => false,
        }
    }
}

/// What was copied out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Files of modules, and their bytes.
    pub files: u64,
    pub bytes: u64,
    /// Module versions with a zip.
    pub zips: u64,
    /// Records of checksum databases.
    pub records: u64,
    /// What could not go along, and why.
    pub left_out: Vec<(String, String)>,
}

/// What was taken in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Files that are kept now and were not, and their bytes.
    pub files: u64,
    pub bytes: u64,
    /// Of those, the ones that a checksum database vouches for.
    pub verified: u64,
    /// Records that are kept now.
    pub records: u64,
    /// Files that were held already.
    pub held: u64,
    /// Records and tiles that nothing proves, and files that are none of ours: left out.
    pub left_out: u64,
}

/// Why a tree was not copied or not taken.
#[derive(Debug, thiserror::Error)]
pub enum BadBundle {
    #[error("{} is not empty; name a folder that is not there yet", .0.display())]
    NotEmpty(PathBuf),
    #[error("{} is no folder laid out as a module proxy: it holds no module file", .0.display())]
    NoTree(PathBuf),
    /// Paths and reasons; nothing was kept.
    #[error("{} of its files are not what they should be", .0.len())]
    Damaged(Vec<(String, String)>),
    #[error("{}: {why}", path.display())]
    Io { path: PathBuf, why: io::Error },
}

/// Copies the modules that `patterns` and `go_sum` name (none: all) into the new folder `to`.
pub fn export(
    folder: &Folder,
    to: &Path,
    patterns: Option<&Patterns>,
    go_sum: Option<&GoSum>,
    databases: &[SumdbConfig],
) -> Result<Exported, BadBundle> {
    let is_empty = fs::read_dir(to).map_or(true, |mut entries| entries.next().is_none());
    if !is_empty {
        return Err(BadBundle::NotEmpty(to.to_owned()));
    }
    let mut exported = Exported::default();
    let mut versions = BTreeSet::new();
    for item in folder.items().map_err(at(folder.dir()))? {
        let Filed { request: Some(request), sort: Sort::Zip | Sort::Mod | Sort::Info | Sort::List } =
            Filed::of(&item.key)
        else {
            continue;
        };
        let is_wanted = request.module().is_some_and(|module| patterns.is_none_or(|patterns| patterns.cover(module)))
            && go_sum.is_none_or(|go_sum| go_sum.names(&request));
        if !is_wanted || item.note.is_none() {
            continue;
        }
        let place = to.join(request.file());
        match folder.inspect(&item.key) {
            Look::Right(note, file) => exported.bytes += copy(file, &place, note.at_ms).map_err(at(&place))?,
            Look::Damaged(how) => {
                exported.left_out.push((request.file(), format!("{how}: not as it was kept")));
                continue;
            }
            Look::Gone | Look::Unnoted => continue,
        }
        exported.files += 1;
        if let ModuleRequest::Zip { module, version } | ModuleRequest::Mod { module, version } = &request {
            exported.zips += u64::from(matches!(request, ModuleRequest::Zip { .. }));
            versions.insert((module.clone(), version.clone()));
        }
    }
    for config in databases {
        export_records(folder, to, &versions, config, &mut exported)?;
    }
    Ok(exported)
}

/// Writes the records of these versions, each with the pinned head, and the tiles that prove them.
fn export_records(
    folder: &Folder,
    to: &Path,
    versions: &BTreeSet<(Module, Version)>,
    config: &SumdbConfig,
    exported: &mut Exported,
) -> Result<(), BadBundle> {
    let Some(ledger) = Ledger::kept(folder, config) else { return Ok(()) };
    let Some(head) = ledger.head.clone() else { return Ok(()) };
    let root = to.join("sumdb").join(config.name.as_str());
    let put = |rest: &str, bytes: &[u8]| {
        let place = root.join(rest);
        write_new(&place, bytes).map_err(at(&place))
    };
    let mut tiles = BTreeMap::new();
    let before = exported.records;
    for (module, version) in versions {
        let Some(record) = ledger.record(module, version) else { continue };
        let what = format!("lookup/{}@{}", module.escaped(), version.escaped());
        match ledger.prove(&head, &Claim::Record(&record)) {
            Proof::Holds(used) => {
                tiles.extend(used.into_iter().map(|(tile, data)| (tile.path(), data)));
                put(&what, &[record.text, head.note.clone()].concat())?;
                exported.records += 1;
            }
            Proof::Lacks(tile) => exported.left_out.push((what, format!("{} is not held", tile.path()))),
            Proof::Refuted => exported.left_out.push((what, "the signed tree does not prove it".to_owned())),
        }
    }
    if exported.records == before {
        return Ok(());
    }
    tiles.iter().try_for_each(|(path, data)| put(path, data))?;
    put("latest", &head.note)?;
    // go asks for this first, and wants no more of it than that it is there.
    put("supported", b"")
}

/// Judges the tree at `from`, and keeps it if all of it is right.
pub fn import(
    folder: &Folder,
    from: &Path,
    go_sum: Option<&GoSum>,
    databases: &[SumdbConfig],
    now: SystemTime,
) -> Result<Imported, BadBundle> {
    let mut paths = Vec::new();
    list(from, "", &mut paths).map_err(at(from))?;
    let (mut imported, mut damaged) = (Imported::default(), Vec::new());
    let read: Vec<(String, Option<ModuleRequest>)> =
        paths.into_iter().map(|path| (path.clone(), read(&path))).collect();
    imported.left_out += read.iter().filter(|(path, request)| request.is_none() && !is_go_s_own(path)).count() as u64;
    let requests: Vec<(String, ModuleRequest)> =
        read.into_iter().filter_map(|(path, request)| Some((path, request?))).collect();
    if requests.is_empty() {
        return Err(BadBundle::NoTree(from.to_owned()));
    }
    let kept: Vec<Ledger<'_>> = databases.iter().filter_map(|config| Ledger::kept(folder, config)).collect();
    let mut books = Vec::new();
    for (config, kept) in databases.iter().zip(&kept) {
        let Some(book) = Book::open(from, config, kept, &requests) else { continue };
        books.push(book);
    }
    for book in &mut books {
        book.prove_all(&requests, &mut damaged, &mut imported);
    }
    let judge = Judge { from, go_sum, books: &books, kept: &kept, folder, now };
    let mut keeping = Vec::new();
    for (path, request) in &requests {
        match judge.judge(path, request) {
            Ok(Some(file)) => keeping.push(file),
            Ok(None) => imported.held += u64::from(request_is_file(request)),
            Err(why) => damaged.push((path.clone(), why)),
        }
    }
    if !damaged.is_empty() {
        return Err(BadBundle::Damaged(damaged));
    }
    for book in &books {
        book.keep(folder, now, &mut imported)?;
    }
    for file in keeping {
        file.keep(folder, &mut imported)?;
    }
    Ok(imported)
}

/// Judges the module files of a tree.
struct Judge<'a> {
    from: &'a Path,
    go_sum: Option<&'a GoSum>,
    books: &'a [Book<'a>],
    kept: &'a [Ledger<'a>],
    folder: &'a Folder,
    now: SystemTime,
}

/// A file that is right and not held yet.
struct Keeping {
    source: PathBuf,
    key: Key,
    note: Note,
    sha256: String,
}

impl Judge<'_> {
    /// Nothing where it is held already, or where it is for the databases to say.
    fn judge(&self, path: &str, request: &ModuleRequest) -> Result<Option<Keeping>, String> {
        if !request_is_file(request) {
            return Ok(None);
        }
        let source = self.from.join(path);
        let mut file = File::open(&source).map_err(|why| why.to_string())?;
        let length = file.metadata().map_err(|why| why.to_string())?.len();
        let mut facts = Facts::from([(MIRROR.to_owned(), format!("file://{}", self.from.display()))]);
        if let ModuleRequest::Mod { module, version } | ModuleRequest::Zip { module, version } = request {
            let is_vouched = self.vouch(request, module, version, &mut file, length)?;
            facts.insert(VERIFIED.to_owned(), if is_vouched { "yes" } else { "no" }.to_owned());
        } else {
            let mut text = Vec::new();
            Read::by_ref(&mut file).take(LONGEST).read_to_end(&mut text).map_err(|why| why.to_string())?;
            judge_text(request, &text)?;
        }
        let key = Key::new(&format!("{TREE}/{}", request.file())).ok_or("it has no place in a cache")?;
        let sha256 = hash(&mut file).map_err(|why| why.to_string())?;
        // What is held and right stays: a list may be newer, a zip another of the same files.
        if matches!(self.folder.inspect(&key), Look::Right(..)) {
            return Ok(None);
        }
        let at_ms = if request.is_immutable() { policy::millis(self.now) } else { changed_ms(&source) };
        Ok(Some(Keeping { source, key, note: Note { at_ms, length, facts }, sha256 }))
    }

    /// Whether a database vouches for a file. A go.sum must agree too, but is not a database.
    fn vouch(
        &self,
        request: &ModuleRequest,
        module: &Module,
        version: &Version,
        file: &mut File,
        length: u64,
    ) -> Result<bool, String> {
        let listed = self.go_sum.map(|go_sum| go_sum.sums(module, version)).unwrap_or_default();
        let recorded = self.books.iter().find_map(|book| book.sums(module, version));
        let recorded = recorded.or_else(|| {
            let record = self.kept.iter().find_map(|ledger| ledger.record(module, version))?;
            Some(record.sums(module, version))
        });
        let recorded = recorded.unwrap_or_default();
        let is_vouched = judge_file(request, &mut *file, length, &recorded).map_err(|why| why.to_string())?;
        if !(listed.zip.is_empty() && listed.go_mod.is_empty()) {
            file.rewind().map_err(|why| why.to_string())?;
            judge_file(request, file, length, &listed).map_err(|why| format!("{why} (go.sum)"))?;
        }
        Ok(is_vouched)
    }
}

impl Keeping {
    fn keep(self, folder: &Folder, imported: &mut Imported) -> Result<(), BadBundle> {
        let file = File::open(&self.source).map_err(at(&self.source))?;
        imported.verified += u64::from(self.note.facts.get(VERIFIED).is_some_and(|verified| verified == "yes"));
        (imported.files, imported.bytes) = (imported.files + 1, imported.bytes + self.note.length);
        folder.keep(&self.key, file, self.note, &self.sha256).map_err(at(&self.source))
    }
}

/// What a tree holds of a checksum database, as far as it is proven.
struct Book<'a> {
    ledger: Ledger<'a>,
    /// The head that everything is proven under: the newer one of the tree's and the folder's.
    head: Head,
    /// Whether that is the tree's.
    is_news: bool,
    records: BTreeMap<(Module, Version), Record>,
    tiles: BTreeMap<String, Vec<u8>>,
}

impl<'a> Book<'a> {
    /// Nothing where neither the tree nor the folder has a head of it.
    fn open(
        from: &'a Path,
        config: &SumdbConfig,
        kept: &'a Ledger<'a>,
        requests: &[(String, ModuleRequest)],
    ) -> Option<Book<'a>> {
        let root = from.join("sumdb").join(config.name.as_str());
        let source = move |rest: &str| {
            let file = File::open(root.join(rest)).ok()?;
            let mut bytes = Vec::new();
            file.take(LONGEST).read_to_end(&mut bytes).ok()?;
            Some(Bytes::from(bytes))
        };
        let ledger = Ledger::new(config, Box::new(source), "latest")?;
        let offered =
            ledger.head.clone().into_iter().chain(heads(from, &ledger, requests)).max_by_key(|head| head.size);
        let pinned = kept.head.clone();
        let ledger = ledger.backed_by(kept);
        let mut tiles = BTreeMap::new();
        let newer = offered.filter(|offered| pinned.as_ref().is_none_or(|pinned| pinned.size < offered.size));
        // Its own tiles make its hash; those of an older tree's right edge make it contain that.
        let contained =
            newer.filter(|newer| match ledger.prove(newer, &Claim::Contains(pinned.as_ref().unwrap_or(newer))) {
                Proof::Holds(used) => {
                    tiles.extend(used.into_iter().map(|(tile, data): (Tile, Vec<u8>)| (tile.path(), data)));
                    true
                }
                _ => false,
            });
        let is_news = contained.is_some();
        let head = contained.or(pinned)?;
        Some(Book { ledger, head, is_news, records: BTreeMap::new(), tiles })
    }

    /// Proves the records of the tree; one that the database refutes is damage, one that cannot be proven stays out.
    fn prove_all(
        &mut self,
        requests: &[(String, ModuleRequest)],
        damaged: &mut Vec<(String, String)>,
        imported: &mut Imported,
    ) {
        for (path, request) in requests {
            let ModuleRequest::SumLookup { database, module, version } = request else { continue };
            if *database != self.ledger.name {
                continue;
            }
            let Some(record) = self.ledger.record(module, version) else {
                damaged.push((path.clone(), format!("no record of {module}@{version}")));
                continue;
            };
            if record.id >= self.head.size {
                imported.left_out += 1;
                continue;
            }
            match self.ledger.prove(&self.head, &Claim::Record(&record)) {
                Proof::Holds(used) => {
                    self.tiles.extend(used.into_iter().map(|(tile, data)| (tile.path(), data)));
                    self.records.insert((module.clone(), version.clone()), record);
                }
                Proof::Lacks(_) => imported.left_out += 1,
                Proof::Refuted => {
                    damaged.push((path.clone(), format!("the signed tree of {database} does not prove it")));
                }
            }
        }
    }

    fn sums(&self, module: &Module, version: &Version) -> Option<Sums> {
        Some(self.records.get(&(module.clone(), version.clone()))?.sums(module, version))
    }

    /// Tiles first, then records, then the head: at any moment what is held can be proven.
    fn keep(&self, folder: &Folder, now: SystemTime, imported: &mut Imported) -> Result<(), BadBundle> {
        let put = |rest: &str, bytes: &[u8]| -> Result<bool, BadBundle> {
            let Some(key) = Key::new(&format!("sumdb/{}/{rest}", self.ledger.name)) else { return Ok(false) };
            if folder.read_small(&key, LONGEST).is_some_and(|(_, held)| held == bytes) {
                return Ok(false);
            }
            let note = Note { at_ms: policy::millis(now), ..Note::default() };
            let sha256 = hash(&mut io::Cursor::new(bytes)).map_err(at(folder.dir()))?;
            folder.keep(&key, bytes, note, &sha256).map_err(at(&folder.path(&key))).map(|()| true)
        };
        for (path, data) in &self.tiles {
            put(path, data)?;
        }
        for ((module, version), record) in &self.records {
            let rest = format!("lookup/{}@{}", module.escaped(), version.escaped());
            imported.records += u64::from(put(&rest, &record.text)?);
        }
        if self.is_news {
            put("head", &self.head.note)?;
        }
        Ok(())
    }
}

/// The heads at the ends of a tree's lookups: the download folder of a GOMODCACHE has no other.
fn heads(from: &Path, ledger: &Ledger<'_>, requests: &[(String, ModuleRequest)]) -> Vec<Head> {
    let lookups = requests.iter().filter(
        |(_, request)| matches!(request, ModuleRequest::SumLookup { database, .. } if *database == ledger.name),
    );
    let head = |(path, _): &(String, ModuleRequest)| {
        let answer = Bytes::from(fs::read(from.join(path)).ok()?);
        Head::open(&Record::split(&answer).ok()?.1, &ledger.key).ok()
    };
    lookups.filter_map(head).collect()
}

fn request_is_file(request: &ModuleRequest) -> bool {
    use ModuleRequest::{Info, Latest, List, Mod, Zip};
    matches!(request, Info { .. } | Latest { .. } | List { .. } | Mod { .. } | Zip { .. })
}

/// What go keeps beside the files in its own download folder.
fn is_go_s_own(path: &str) -> bool {
    [".lock", ".ziphash", ".partial"].iter().any(|ending| path.ends_with(ending)) || path == "lock"
}

/// Every file below a folder, as paths with slashes. Links are not followed: they lead out of the tree.
fn list(root: &Path, below: &str, paths: &mut Vec<String>) -> io::Result<()> {
    let mut entries = fs::read_dir(root.join(below))?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_unstable_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            list(root, &path, paths)?;
        } else if kind.is_file() {
            paths.push(path);
        }
    }
    Ok(())
}

/// Copies to a new file that others may read, with the time at which it was fetched.
fn copy(file: impl Read, place: &Path, at_ms: u64) -> io::Result<u64> {
    let mut new = create(place)?;
    let copied = io::copy(&mut io::BufReader::with_capacity(256 << 10, file), &mut new)?;
    new.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(at_ms))?;
    Ok(copied)
}

fn write_new(place: &Path, bytes: &[u8]) -> io::Result<()> {
    create(place)?.write_all(bytes)
}

fn create(place: &Path) -> io::Result<File> {
    if let Some(folder) = place.parent() {
        DirBuilder::new().recursive(true).create(folder)?;
    }
    File::create_new(place)
}

fn changed_ms(path: &Path) -> u64 {
    fs::metadata(path).and_then(|metadata| metadata.modified()).map_or(0, policy::millis)
}

/// The SHA-256 of a file from its first byte, in hexadecimal.
fn hash(file: &mut (impl Read + Seek)) -> io::Result<String> {
    file.rewind()?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 256 << 10];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => hasher.update(&piece[..read]),
        }
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> BadBundle {
    let path = path.to_owned();
    move |why| BadBundle::Io { path: path.clone(), why }
}
