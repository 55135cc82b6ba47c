//! Modules carried from one cache to another: out as a `GOPROXY=file://` tree with its checksum database,
//! in again only after everything in it was looked at.
//!
//! **Out**: files are hashed as they are copied, so nothing damaged leaves. In our own folder records and
//! the tree head lie apart; in the tree each lookup ends in the one pinned head, and the tiles lie beside it
//! that a fresh go command needs to believe them, so it verifies with no network at all.
//!
//! **In**: two walks. The first judges every file: a head must be signed and made by its tiles, a record and a tile
//! be proven by it, a `.mod` or `.zip` must have the sum that the record (or a go.sum) names and the shape of its
//! kind, an `.info` its version. One wrong file, and nothing of the tree is kept. The second walk keeps what is not held yet, if it still is what was
//! judged. A newer tree head is pinned if it contains the one that is held. The download folder of a
//! GOMODCACHE is such a tree too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tlog_tiles::Tile;

use super::examine::{Finding, HASH, LONGEST, Ledger, Proof, judge_file, judge_text};
use super::gosum::GoSum;
use super::joined;
use super::log::{Claim, HEIGHT, Head, Record, Sums};
use super::path::{Module, ModuleRequest, Version};
use super::places::{Filed, Sort, read};
use super::policy::{self, Patterns};
use super::pools::TREE;
use super::store::{DOUBT, Facts, MIRROR, VERIFIED};
use super::sumdb::SumdbConfig;
use super::verify;
use crate::cache::{Folder, Key, Look, Note};

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
    #[error("{} is no folder laid out as a module proxy: it holds no module file{}", path.display(), or_below(below))]
    NoTree { path: PathBuf, below: Option<PathBuf> },
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
    match list(from, "", &mut paths) {
        Err(why) if why.kind() == io::ErrorKind::NotADirectory => return Err(no_tree(from)),
        listed => listed.map_err(at(from))?,
    }
    let (mut imported, mut damaged) = (Imported::default(), Vec::new());
    let read: Vec<(String, Option<ModuleRequest>)> =
        paths.into_iter().map(|path| (path.clone(), read(&path))).collect();
    imported.left_out += read.iter().filter(|(path, request)| request.is_none() && !is_go_s_own(path)).count() as u64;
    let requests: Vec<(String, ModuleRequest)> =
        read.into_iter().filter_map(|(path, request)| Some((path, request?))).collect();
    // Our own folder has records of databases beside the tree that is meant.
    let has_files = requests.iter().any(|(_, request)| request_is_file(request));
    if requests.is_empty() || !has_files && tree_below(from).is_some() {
        return Err(no_tree(from));
    }
    let kept: Vec<Ledger<'_>> = databases.iter().filter_map(|config| Ledger::kept(folder, config)).collect();
    let mut books = Vec::new();
    for (config, kept) in databases.iter().zip(&kept) {
        books.extend(Book::open(from, config, kept, &requests, &mut damaged));
    }
    for book in &mut books {
        book.prove_all(&mut damaged, &mut imported);
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
    for config in databases {
        joined::catch_up(folder, config).map_err(at(folder.dir()))?;
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
            if matches!(request, ModuleRequest::Info { version, .. } if verify::judge_info(&text, Some(version)).is_err())
            {
                facts.insert(DOUBT.to_owned(), "time".to_owned());
            }
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

    /// Whether a database vouches for a file. A go.sum must agree too, but is not a database; nor is a record that
    /// nothing proves.
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
        let told = self.books.iter().find_map(|book| book.told.get(&(module.clone(), version.clone())));
        let told = told.map(|record| record.sums(module, version)).unwrap_or_default();
        for (sums, whose) in [(listed, "go.sum"), (told, "the record beside it")] {
            if !(sums.zip.is_empty() && sums.go_mod.is_empty()) {
                file.rewind().map_err(|why| why.to_string())?;
                judge_file(request, &mut *file, length, &sums).map_err(|why| format!("{why} ({whose})"))?;
            }
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
    /// What it offers, before it is proven.
    offered: Offered,
    /// The head that everything is kept under: the newer one of the tree's and the folder's.
    head: Option<Head>,
    /// Whether that is the tree's.
    is_news: bool,
    records: BTreeMap<(Module, Version), Record>,
    tiles: BTreeMap<String, Vec<u8>>,
    /// Records of the tree that cannot be kept. They vouch for no file, and one that is another is not right.
    told: BTreeMap<(Module, Version), Record>,
}

/// The tiles by which a proof holds.
type Used = Vec<(Tile, Vec<u8>)>;

/// The files of a database that can be what they are called.
#[derive(Default)]
struct Offered {
    /// By the path that it has; whether a head lies there for itself, as in an export.
    newest: Option<(String, Head)>,
    has_latest: bool,
    records: Vec<(String, (Module, Version), Record, Head)>,
    tiles: Vec<(String, Tile, Bytes)>,
}

impl Offered {
    fn take(&mut self, path: &str, request: &ModuleRequest, bytes: &Bytes, ledger: &Ledger<'_>) -> Result<(), String> {
        let head = match request {
            ModuleRequest::SumLatest { .. } => {
                self.has_latest = true;
                Head::open(bytes, &ledger.key).map_err(|why| why.to_string())?
            }
            ModuleRequest::SumLookup { module, version, .. } => {
                let none = |why| format!("no record of {module}@{version}: {why}");
                let (record, note) = Record::split(bytes).map_err(none)?;
                record.judge(module, version).map_err(none)?;
                let head = Head::open(&note, &ledger.key).map_err(|why| why.to_string())?;
                self.records.push((path.to_owned(), (module.clone(), version.clone()), record, head.clone()));
                head
            }
            ModuleRequest::SumTile { tile, .. } if tile.height() == HEIGHT && !tile.is_data() => {
                let wanted = tile.width() as usize * HASH;
                if bytes.len() != wanted {
                    return Err(format!("{} bytes instead of {wanted}", bytes.len()));
                }
                self.tiles.push((path.to_owned(), *tile, bytes.clone()));
                return Ok(());
            }
            _ => return Ok(()),
        };
        if self.newest.as_ref().is_none_or(|(_, newest)| newest.size < head.size) {
            self.newest = Some((path.to_owned(), head));
        }
        Ok(())
    }
}

impl<'a> Book<'a> {
    /// Opens what the tree has of a database; what cannot be what it is called is damage.
    fn open(
        from: &'a Path,
        config: &SumdbConfig,
        kept: &'a Ledger<'a>,
        requests: &[(String, ModuleRequest)],
        damaged: &mut Vec<(String, String)>,
    ) -> Option<Book<'a>> {
        let root = from.join("sumdb").join(config.name.as_str());
        let source = move |rest: &str| read_short(&root.join(rest)).ok();
        let ledger = Ledger::new(config, Box::new(source), "latest")?;
        let mut offered = Offered::default();
        for (path, request) in requests.iter().filter(|(_, request)| request.database() == Some(&config.name)) {
            let taken = read_short(&from.join(path)).map_err(|why| why.to_string());
            if let Err(why) = taken.and_then(|bytes| offered.take(path, request, &bytes, &ledger)) {
                damaged.push((path.clone(), why));
            }
        }
        let (head, is_news) = (kept.head.clone(), false);
        let (records, tiles, told) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Some(Book { ledger: ledger.backed_by(kept), offered, head, is_news, records, tiles, told })
    }

    /// Proves all that is offered: the newest head by its tiles, each tile and each record by that head.
    fn prove_all(&mut self, damaged: &mut Vec<(String, String)>, imported: &mut Imported) {
        let records = std::mem::take(&mut self.offered.records);
        if let Err(why) = self.prove_head() {
            damaged.push(why);
            self.told.extend(records.into_iter().map(|(_, version, record, _)| (version, record)));
            return;
        }
        for (path, tile, data) in &self.offered.tiles {
            let head = self.offered.newest.as_ref().map(|(_, head)| head);
            if let Finding::Wrong(why) = self.ledger.judge_tile_under(head, data, tile) {
                damaged.push((path.clone(), why));
            }
        }
        for (path, version, record, head) in records {
            match self.prove_record(&record, &head) {
                Ok(Some(used)) => {
                    self.tiles.extend(used.into_iter().map(|(tile, data)| (tile.path(), data)));
                    self.records.insert(version, record);
                }
                Ok(None) => {
                    imported.left_out += 1;
                    self.told.insert(version, record);
                }
                Err(why) => {
                    damaged.push((path, why));
                    self.told.insert(version, record);
                }
            }
        }
    }

    /// Makes the tree's newest head the one that is kept, if it is newer than the folder's and contains that.
    fn prove_head(&mut self) -> Result<(), (String, String)> {
        let Some((path, newest)) = &self.offered.newest else { return Ok(()) };
        if matches!(self.ledger.prove(newest, &Claim::Contains(newest)), Proof::Refuted) {
            let why = "the tiles beside it do not make the tree that it signs: one of them is damaged";
            return Err((path.clone(), why.to_owned()));
        }
        let pinned = self.head.as_ref();
        if pinned.is_some_and(|pinned| pinned.size >= newest.size) {
            return Ok(());
        }
        // Its own tiles make its hash; those of an older tree's right edge make it contain that.
        match self.ledger.prove(newest, &Claim::Contains(pinned.unwrap_or(newest))) {
            Proof::Holds(used) => {
                self.tiles.extend(used.into_iter().map(|(tile, data)| (tile.path(), data)));
                (self.head, self.is_news) = (Some(newest.clone()), true);
                Ok(())
            }
            Proof::Lacks(_) => Ok(()),
            Proof::Refuted => {
                Err((path.clone(), "the tree that it signs does not contain the one held here".to_owned()))
            }
        }
    }

    /// The tiles that prove a record under the head that is kept; nothing where only the tree's own heads prove it.
    fn prove_record(&self, record: &Record, beside: &Head) -> Result<Option<Used>, String> {
        let refuted = || format!("the signed tree of {} does not prove it", self.ledger.name);
        if let Some(head) = self.head.as_ref().filter(|head| record.id < head.size) {
            match self.ledger.prove(head, &Claim::Record(record)) {
                Proof::Holds(used) => return Ok(Some(used)),
                Proof::Refuted => return Err(refuted()),
                Proof::Lacks(_) => {}
            }
        }
        let newest = self.offered.newest.as_ref().map(|(_, head)| head);
        let mut lacking = String::new();
        for head in newest.into_iter().chain([beside]) {
            match self.ledger.prove(head, &Claim::Record(record)) {
                Proof::Holds(_) => return Ok(None),
                Proof::Refuted => return Err(refuted()),
                Proof::Lacks(tile) => lacking = tile.path(),
            }
        }
        // go's own folder has tiles of a tree whose head lies elsewhere (GOPATH/pkg/sumdb).
        if self.offered.has_latest { Err(format!("{lacking}, which proves it, is missing or cut")) } else { Ok(None) }
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
        if let Some(head) = self.head.as_ref().filter(|_| self.is_news) {
            put("head", &head.note)?;
        }
        Ok(())
    }
}

fn read_short(path: &Path) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes.into())
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

/// Whoever names go's module cache, or our own folder, means what lies below.
fn no_tree(from: &Path) -> BadBundle {
    BadBundle::NoTree { path: from.to_owned(), below: tree_below(from) }
}

fn tree_below(from: &Path) -> Option<PathBuf> {
    [from.join("cache").join(TREE), from.join(TREE)].into_iter().find(|place| place.is_dir())
}

fn or_below(below: &Option<PathBuf>) -> String {
    below.as_ref().map(|place| format!("; did you mean {}?", place.display())).unwrap_or_default()
}

fn at(path: &Path) -> impl Fn(io::Error) -> BadBundle {
    let path = path.to_owned();
    move |why| BadBundle::Io { path: path.clone(), why }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use tempfile::{TempDir, tempdir};

    use super::super::examine::Examiner;
    use super::super::log::tests::Book;
    use super::super::verify;
    use super::super::verify::tests::zipped;
    use super::*;

    const MODULE: &str = "a.example/M";
    const GO_MOD: &str = "module a.example/M\n\ngo 1.20\n";
    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    /// A tree with two versions of a module, as a mirror that passes the database on would serve it.
    struct Tree {
        dir: TempDir,
        book: Book,
        databases: Vec<SumdbConfig>,
    }

    fn tree() -> Tree {
        let book = Book::new("sum.test");
        book.grow(300);
        let tree = Tree { dir: tempdir().unwrap(), databases: Vec::new(), book };
        for version in ["v1.0.0", "v1.1.0"] {
            let zip = module_zip(version);
            let (module, parsed) = (Module::new(MODULE).unwrap(), Version::new(version).unwrap());
            let sum = verify::check_zip(io::Cursor::new(&zip), zip.len() as u64, &module, &parsed).sum.unwrap();
            tree.book.write(MODULE, version, &sum, &verify::hash_mod(GO_MOD.as_bytes()));
            tree.put(&format!("a.example/!m/@v/{version}.zip"), &zip);
            tree.put(&format!("a.example/!m/@v/{version}.mod"), GO_MOD.as_bytes());
            tree.put(&format!("a.example/!m/@v/{version}.info"), info(version).as_bytes());
        }
        tree.put("a.example/!m/@v/list", b"v1.0.0\nv1.1.0\n");
        let databases = vec![SumdbConfig::parse(&tree.book.key()).unwrap().unwrap()];
        let tree = Tree { databases, ..tree };
        tree.write_database();
        tree
    }

    fn module_zip(version: &str) -> Vec<u8> {
        let (go_mod, source) = (format!("{MODULE}@{version}/go.mod"), format!("{MODULE}@{version}/m.go"));
        zipped(&[(&go_mod, GO_MOD), (&source, &format!("package M\n\nconst Version = \"{version}\"\n"))])
    }

    fn info(version: &str) -> String {
        format!("{{\"Version\":\"{version}\",\"Time\":\"2024-01-02T03:04:05Z\"}}")
    }

    impl Tree {
        fn put(&self, path: &str, bytes: &[u8]) {
            let place = self.dir.path().join(path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, bytes).unwrap();
        }

        /// Records, the head of now, and every tile of it.
        fn write_database(&self) {
            let (head, size) = (self.book.head(), self.book.size());
            self.put("sumdb/sum.test/latest", &head);
            for version in ["v1.0.0", "v1.1.0"] {
                let record = self.book.record(&format!("{MODULE}@{version}")).unwrap();
                self.put(&format!("sumdb/sum.test/lookup/a.example/!m@{version}"), &[record, head.clone()].concat());
            }
            for level in 0..2u8 {
                let there = size >> (8 * level);
                for at in 0..there.div_ceil(256) {
                    let width = (there - at * 256).min(256) as u32;
                    let tile = Tile::new(8, level, at, width, false);
                    self.put(&format!("sumdb/sum.test/{}", tile.path()), &self.book.tile(&tile).unwrap());
                }
            }
        }

        fn import(&self, folder: &Folder) -> Result<Imported, BadBundle> {
            import(folder, self.dir.path(), None, &self.databases, NOW)
        }

        /// What every file of a folder is worth, but for those that are right.
        fn faults(&self, folder: &Folder) -> Vec<(String, Finding)> {
            let examiner = Examiner::new(folder, &self.databases);
            let look = |item: crate::cache::Item| (item.key.to_string(), examiner.examine(&item.key));
            folder.items().unwrap().into_iter().map(look).filter(|(_, finding)| *finding != Finding::Right).collect()
        }
    }

    fn cache() -> (TempDir, Folder) {
        let dir = tempdir().unwrap();
        let folder = Folder::make(dir.path()).unwrap();
        (dir, folder)
    }

    fn paths(folder: &Folder) -> Vec<String> {
        folder.items().unwrap().into_iter().map(|item| item.key.to_string()).collect()
    }

    #[test]
    fn what_is_carried_in_is_verified_and_what_is_carried_out_is_the_same() {
        let (tree, (_dir, folder)) = (tree(), cache());
        let imported = tree.import(&folder).unwrap();
        assert_eq!((imported.files, imported.verified, imported.records, imported.left_out), (7, 4, 2, 0));
        assert_eq!(tree.faults(&folder), []);
        let again = tree.import(&folder).unwrap();
        assert_eq!((again.files, again.records, again.held), (0, 0, 7));

        let out = tempdir().unwrap();
        let exported = export(&folder, out.path(), None, None, &tree.databases).unwrap();
        assert_eq!((exported.files, exported.zips, exported.records, exported.left_out), (7, 2, 2, vec![]));
        for path in ["a.example/!m/@v/v1.0.0.zip", "a.example/!m/@v/list", "sumdb/sum.test/lookup/a.example/!m@v1.1.0"]
        {
            let (there, here) = (fs::read(tree.dir.path().join(path)), fs::read(out.path().join(path)));
            assert_eq!(there.unwrap(), here.unwrap(), "{path}");
        }
        let (_other, elsewhere) = cache();
        let carried = import(&elsewhere, out.path(), None, &tree.databases, NOW).unwrap();
        assert_eq!((carried.files, carried.verified, carried.records), (7, 4, 2));
        assert_eq!(tree.faults(&elsewhere), []);
        assert!(matches!(
            export(&folder, out.path(), None, None, &tree.databases),
            Err(BadBundle::NotEmpty(path)) if path == out.path()
        ));
    }

    #[test]
    fn a_tree_with_one_wrong_file_is_refused_whole() {
        type Harm = fn(&Tree);
        let zip = "a.example/!m/@v/v1.0.0.zip";
        let table: [(&str, Harm, &str, &str); 7] = [
            (
                "a zip of another version",
                |tree| tree.put("a.example/!m/@v/v1.0.0.zip", &module_zip("v1.1.0")),
                zip,
                "its sum is",
            ),
            ("a cut zip", |tree| tree.put("a.example/!m/@v/v1.0.0.zip", &module_zip("v1.0.0")[..90]), zip, "not a zip"),
            ("no zip", |tree| tree.put("a.example/!m/@v/v1.0.0.zip", b""), zip, "not a zip"),
            (
                "an altered go.mod",
                |tree| tree.put("a.example/!m/@v/v1.0.0.mod", b"module a.example/M\n"),
                "a.example/!m/@v/v1.0.0.mod",
                "its sum is",
            ),
            (
                "an .info of another version",
                |tree| tree.put("a.example/!m/@v/v1.0.0.info", info("v1.1.0").as_bytes()),
                "a.example/!m/@v/v1.0.0.info",
                "not v1.0.0",
            ),
            (
                "a list that is a web page",
                |tree| tree.put("a.example/!m/@v/list", b"<html>"),
                "a.example/!m/@v/list",
                "it is a web page",
            ),
            (
                "a forged record",
                |tree| {
                    let record = String::from_utf8(tree.book.record("a.example/M@v1.0.0").unwrap().to_vec()).unwrap();
                    let forged =
                        format!("{}{}", record.replace("h1:", "h1:f"), String::from_utf8_lossy(&tree.book.head()));
                    tree.put("sumdb/sum.test/lookup/a.example/!m@v1.0.0", forged.as_bytes());
                },
                "sumdb/sum.test/lookup/a.example/!m@v1.0.0",
                "does not prove it",
            ),
        ];
        for (what, harm, path, why) in table {
            let (tree, (_dir, folder)) = (tree(), cache());
            harm(&tree);
            let Err(BadBundle::Damaged(files)) = tree.import(&folder) else { panic!("{what} was taken") };
            assert!(files.iter().any(|(at, said)| at == path && said.contains(why)), "{what}: {files:?}");
            assert_eq!(paths(&folder), [""; 0], "{what}");
        }
    }

    /// One flipped bit in a tile made the records unproven, so that nothing was compared with them: an evil zip was
    /// taken, "0 of them verified".
    #[test]
    fn a_tree_whose_records_its_tiles_do_not_prove_is_refused_whole() {
        type Harm = fn(&mut Vec<u8>);
        const ROOT: &str = "sumdb/sum.test";
        let edit = |tree: &Tree, path: &str, edit: fn(&mut Vec<u8>)| {
            let path = format!("{ROOT}/{path}");
            let mut bytes = fs::read(tree.dir.path().join(&path)).unwrap();
            edit(&mut bytes);
            tree.put(&path, &bytes);
        };
        let flip = |bytes: &mut Vec<u8>| bytes[0] ^= 1;
        let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 5);
        let junk = |bytes: &mut Vec<u8>| *bytes = b"junk".to_vec();
        let forge = |bytes: &mut Vec<u8>| *bytes.iter_mut().rev().nth(5).unwrap() ^= 1;
        let (edge, lookup) = ("tile/8/0/001.p/46", "lookup/a.example/!m@v1.0.0");
        let table: [(&str, &str, Harm, &str, &str); 9] = [
            ("a flipped bit at the edge", edge, flip, "latest", "one of them is damaged"),
            ("a flipped bit above", "tile/8/1/000.p/1", flip, "latest", "one of them is damaged"),
            ("a flipped bit within", "tile/8/0/000", flip, "tile/8/0/000", "does not prove it"),
            ("a cut tile", edge, cut, edge, "1467 bytes instead of 1472"),
            ("an empty tile", edge, Vec::clear, edge, "0 bytes instead of 1472"),
            ("junk for a head", "latest", junk, "latest", "no signed tree head"),
            ("a forged head", "latest", forge, "latest", "signature is not the database's"),
            ("a cut record", lookup, |bytes| bytes.truncate(20), lookup, "not a record"),
            ("a forged head after a record", lookup, forge, lookup, "signature is not the database's"),
        ];
        for with_evil_zip in [false, true] {
            for (what, path, harm, at, why) in table {
                let (tree, (_dir, folder)) = (tree(), cache());
                edit(&tree, path, harm);
                if with_evil_zip {
                    tree.put("a.example/!m/@v/v1.1.0.zip", &evil_zip());
                }
                let Err(BadBundle::Damaged(files)) = tree.import(&folder) else { panic!("{what} was taken") };
                let at = format!("{ROOT}/{at}");
                assert!(files.iter().any(|(path, said)| *path == at && said.contains(why)), "{what}: {files:?}");
                assert_eq!(paths(&folder), [""; 0], "{what}");
            }
        }
        let (tree, (_dir, folder)) = (tree(), cache());
        fs::remove_file(tree.dir.path().join(format!("{ROOT}/{edge}"))).unwrap();
        let Err(BadBundle::Damaged(files)) = tree.import(&folder) else { panic!("a tree without a tile was taken") };
        assert!(files.iter().all(|(_, why)| why.contains("001.p/46, which proves it, is missing or cut")), "{files:?}");
    }

    fn evil_zip() -> Vec<u8> {
        zipped(&[
            (&format!("{MODULE}@v1.1.0/go.mod"), GO_MOD),
            (&format!("{MODULE}@v1.1.0/m.go"), "package M // EVIL\n"),
        ])
    }

    /// go's own folder may have tiles of a tree whose head it keeps elsewhere: its records are left out then, but what
    /// they say of a file counts.
    #[test]
    fn a_record_that_nothing_proves_vouches_for_nothing_and_still_counts() {
        let unproven = || {
            let tree = tree();
            let database = tree.dir.path().join("sumdb/sum.test");
            fs::remove_file(database.join("latest")).unwrap();
            fs::remove_dir_all(database.join("tile")).unwrap();
            tree
        };
        let (tree, (_dir, folder)) = (unproven(), cache());
        let imported = tree.import(&folder).unwrap();
        assert_eq!((imported.files, imported.verified, imported.records, imported.left_out), (7, 0, 0, 2));
        let (tree, (_dir, folder)) = (unproven(), cache());
        tree.put("a.example/!m/@v/v1.1.0.zip", &evil_zip());
        let Err(BadBundle::Damaged(files)) = tree.import(&folder) else { panic!("an evil zip was taken") };
        assert_eq!(files.len(), 1, "{files:?}");
        assert!(files[0].1.ends_with("(the record beside it)"), "{files:?}");
        assert_eq!(paths(&folder), [""; 0]);
    }

    /// A log that has forked is the one thing that a signed tree must never do.
    #[test]
    fn a_tree_that_does_not_contain_the_pinned_one_is_refused() {
        let (one, (_dir, folder)) = (tree(), cache());
        one.import(&folder).unwrap();
        let held = paths(&folder);
        let mut other = tree();
        other.book = Book::new("sum.test");
        other.book.grow(500);
        for version in ["v1.0.0", "v1.1.0"] {
            other.book.write(MODULE, version, "h1:other", "h1:other");
        }
        other.write_database();
        let Err(BadBundle::Damaged(files)) = other.import(&folder) else { panic!("a fork was taken") };
        assert!(files.iter().any(|(path, _)| path == "sumdb/sum.test/latest"), "{files:?}");
        assert_eq!(paths(&folder), held);
    }

    #[test]
    fn whoever_names_the_folder_above_or_a_file_is_told_what_is_meant() {
        let (tree, (dir, folder)) = (tree(), cache());
        tree.import(&folder).unwrap();
        let above = tempdir().unwrap();
        fs::create_dir(above.path().join("cache")).unwrap();
        fs::rename(tree.dir.path(), above.path().join("cache/download")).unwrap();
        let told = |from: &Path| import(&folder, from, None, &[], NOW).unwrap_err().to_string();
        let meant = above.path().join("cache/download").display().to_string();
        assert!(told(above.path()).ends_with(&format!("; did you mean {meant}?")), "{}", told(above.path()));
        let own = dir.path().join("download").display().to_string();
        assert!(told(dir.path()).ends_with(&format!("; did you mean {own}?")), "{}", told(dir.path()));
        let file = above.path().join("modules.tar");
        fs::write(&file, "a file").unwrap();
        assert!(told(&file).ends_with("it holds no module file"), "{}", told(&file));
    }

    #[test]
    fn without_a_database_shape_and_go_sum_decide() {
        let (mut tree, (_dir, folder)) = (tree(), cache());
        tree.databases.clear();
        let go_sum = GoSum::parse(&format!("{MODULE} v1.0.0 h1:{}=\n", "A".repeat(43))).unwrap();
        let refused = import(&folder, tree.dir.path(), Some(&go_sum), &[], NOW);
        assert!(matches!(refused, Err(BadBundle::Damaged(files)) if files[0].1.ends_with("(go.sum)")));
        let imported = tree.import(&folder).unwrap();
        assert_eq!((imported.files, imported.verified), (7, 0));
    }

    #[test]
    fn a_newer_head_is_pinned_and_an_older_one_is_not() {
        let (tree, (_dir, folder)) = (tree(), cache());
        let pinned = |folder: &Folder| Ledger::kept(folder, &tree.databases[0]).unwrap().head.unwrap().size;
        tree.import(&folder).unwrap();
        assert_eq!(pinned(&folder), 302);
        tree.book.grow(300);
        tree.write_database();
        tree.import(&folder).unwrap();
        assert_eq!(pinned(&folder), 602);
        let wrong: Vec<_> =
            tree.faults(&folder).into_iter().filter(|(_, what)| matches!(what, Finding::Wrong(_))).collect();
        assert_eq!(wrong, []);
        tree.put("sumdb/sum.test/latest", &tree.book.head_at(302));
        for version in ["v1.0.0", "v1.1.0"] {
            fs::remove_file(tree.dir.path().join(format!("sumdb/sum.test/lookup/a.example/!m@{version}"))).unwrap();
        }
        tree.import(&folder).unwrap();
        assert_eq!(pinned(&folder), 602);
    }

    #[test]
    fn what_is_altered_behind_our_back_is_found() {
        let (tree, (dir, folder)) = (tree(), cache());
        tree.import(&folder).unwrap();
        let table: [(&str, &[u8]); 4] = [
            ("download/a.example/!m/@v/v1.0.0.zip", b"short"),
            ("download/a.example/!m/@v/v1.1.0.mod", b"module a.example/N\n\ngo 1.20\n"),
            ("sumdb/sum.test/lookup/a.example/!m@v1.0.0", b""),
            ("sumdb/sum.test/head", b"nothing"),
        ];
        for (path, bytes) in table {
            fs::write(dir.path().join(path), bytes).unwrap();
        }
        let faults = tree.faults(&folder);
        for (path, _) in table {
            let found = faults.iter().find(|(at, _)| at == path);
            assert!(matches!(found, Some((_, Finding::Wrong(_)))), "{path}: {found:?}");
        }
    }

    #[test]
    fn only_what_is_asked_for_goes_along() {
        let (tree, (_dir, folder)) = (tree(), cache());
        tree.import(&folder).unwrap();
        let exported = |patterns: Option<&str>, go_sum: Option<&str>| {
            let out = tempdir().unwrap();
            let patterns = patterns.map(|pattern| Patterns::new(&[pattern]));
            let sum = format!("h1:{}=", "A".repeat(43));
            let go_sum = go_sum.map(|text| GoSum::parse(&text.replace("h1:x", &sum)).unwrap());
            let exported = export(&folder, out.path(), patterns.as_ref(), go_sum.as_ref(), &tree.databases).unwrap();
            (exported.files, exported.records)
        };
        assert_eq!(exported(Some("a.example"), None), (7, 2));
        assert_eq!(exported(Some("b.example"), None), (0, 0));
        assert_eq!(exported(None, Some("a.example/M v1.0.0/go.mod h1:x\n")), (2, 1));
        assert_eq!(exported(None, Some("a.example/M v1.0.0/go.mod h1:x\na.example/M v1.0.0 h1:x\n")), (3, 1));
        assert_eq!(exported(None, Some("")), (0, 0));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed() {
        let (tree, (_dir, folder)) = (tree(), cache());
        let secret = tempdir().unwrap();
        fs::write(secret.path().join("secret"), "module a.example/s\n").unwrap();
        fs::create_dir_all(tree.dir.path().join("a.example/s/@v")).unwrap();
        let link = tree.dir.path().join("a.example/s/@v/v1.0.0.mod");
        std::os::unix::fs::symlink(secret.path().join("secret"), link).unwrap();
        assert_eq!(tree.import(&folder).unwrap().files, 7);
    }

    /// The real go command, an export, no server and no network at all.
    #[test]
    fn go_builds_and_verifies_from_what_was_carried_out() {
        let is_here = Command::new("go").arg("version").output().is_ok_and(|done| done.status.success());
        if !is_here {
            assert!(std::env::var("GOANYWAY_TEST_REQUIRE").as_deref() != Ok("all"), "this test needs go");
            return eprintln!("skipped: go_builds_and_verifies_from_what_was_carried_out needs go");
        }
        let (tree, (_dir, folder)) = (tree(), cache());
        tree.import(&folder).unwrap();
        let (out, build) = (tempdir().unwrap(), tempdir().unwrap());
        export(&folder, out.path(), None, None, &tree.databases).unwrap();
        let at = |name: &str| build.path().join(name);
        fs::write(at("go.mod"), format!("module a.example/main\n\ngo 1.20\n\nrequire {MODULE} v1.1.0\n")).unwrap();
        let download = |database: &str| {
            let mut go = Command::new("go");
            go.args(["mod", "download", "-x", "all"]).current_dir(build.path()).env_clear();
            go.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", build.path());
            go.env("GOPATH", at("gopath")).env("GOCACHE", at("gocache")).env("GOENV", "off");
            go.env("GOFLAGS", "-mod=mod -modcacherw").env("GOTOOLCHAIN", "local");
            go.env("GOPROXY", format!("file://{}", out.path().display())).env("GOSUMDB", database);
            // Whoever is asked beyond the tree does not answer: port 9 of loopback is closed.
            go.env("HTTPS_PROXY", "http://127.0.0.1:9").env("HTTP_PROXY", "http://127.0.0.1:9");
            let done = go.output().unwrap();
            (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
        };
        let (is_done, said) = download(&tree.book.key());
        assert!(is_done, "{said}");
        let sums = fs::read_to_string(at("go.sum")).unwrap();
        assert!(sums.contains("a.example/M v1.1.0 h1:"), "{sums}");
        // The same under another database's name: it is not in the tree, and nobody else is to be had.
        fs::remove_file(at("go.sum")).unwrap();
        let (is_done, said) = download(&Book::new("sum.other.test").key());
        assert!(!is_done && said.contains("sum.other.test"), "{said}");
    }
}
