//! What is kept of a checksum database, as files: looked through, and written out as go reads it from a
//! `GOPROXY=file://` tree.
//!
//! Records and the head lie apart in the store (`sumdb.rs` says why); a client of files wants each record
//! with a head under it. Here both are done without any network, on a folder that lies still or that a
//! daemon works on: files are only ever replaced whole. Everything blocks, so it belongs on
//! `spawn_blocking` or a thread of a command.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use signed_note::StandardVerifier;
use tlog_tiles::Tile;

use super::log::{Claim, HEIGHT, Head, Outcome, Record, Tiles, whole, widen};
use super::path::{Database, ModuleRequest, parse_kept_tile};
use super::sumdb::SumdbConfig;

/// One database's files below a cache folder.
pub struct Ledger {
    name: Database,
    folder: PathBuf,
    head: Head,
}

/// What a look through a ledger found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Records of the tree that its pinned head covers.
    pub size: u64,
    /// Records and tiles that are proven.
    pub proven: usize,
    /// Tiles that nothing held here proves; they are whatever they are, and never used unproven.
    pub unproven: usize,
    /// Files that are not what the signed tree says, and why. They may go: what is right is fetched again.
    pub wrong: Vec<(PathBuf, String)>,
}

impl Ledger {
    /// Opens what `cache_dir` holds of a database; nothing where that is no head. A head that the database
    /// did not sign is an error: nothing below it means anything.
    pub fn open(config: &SumdbConfig, cache_dir: &Path) -> io::Result<Option<Ledger>> {
        let folder = cache_dir.join("sumdb").join(config.name.as_str());
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", folder.display()));
        let note = match fs::read(folder.join("head")) {
            Ok(note) => note,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(why),
        };
        let key = StandardVerifier::new(&config.key).map_err(|why| invalid(why.to_string()))?;
        let head = Head::open(&note, &key).map_err(|why| invalid(why.to_string()))?;
        Ok(Some(Ledger { name: config.name.clone(), folder, head }))
    }

    /// Proves every record and tile under the pinned head.
    pub fn audit(&self) -> io::Result<Audit> {
        let mut audit = Audit { size: self.head.size, ..Audit::default() };
        for path in files_below(&self.folder.join("lookup"))? {
            match self.judge_record(&path)? {
                Ok(()) => audit.proven += 1,
                Err(why) => audit.wrong.push((path, why)),
            }
        }
        for path in files_below(&self.folder.join("tile"))? {
            match self.judge_tile(&path)? {
                Some(Ok(())) => audit.proven += 1,
                Some(Err(why)) => audit.wrong.push((path, why)),
                None => audit.unproven += 1,
            }
        }
        Ok(audit)
    }

    /// Writes it below `tree` as `sumdb/NAME/…`, in the form of a module mirror's answers: each record with
    /// the head, and the tiles that prove it. Returns how many records; what is wrong is left out.
    pub fn write_out(&self, tree: &Path) -> io::Result<usize> {
        let into = tree.join("sumdb").join(self.name.as_str());
        write(&into.join("supported"), b"")?;
        write(&into.join("latest"), &self.head.note)?;
        let mut records = 0;
        for path in files_below(&self.folder.join("lookup"))? {
            if self.judge_record(&path)?.is_ok() {
                let joined = [fs::read(&path)?, self.head.note.to_vec()].concat();
                write(&into.join(self.rest(&path)), &joined)?;
                records += 1;
            }
        }
        for path in files_below(&self.folder.join("tile"))? {
            if matches!(self.judge_tile(&path)?, Some(Ok(()))) {
                write(&into.join(self.rest(&path)), &fs::read(&path)?)?;
            }
        }
        Ok(records)
    }

    fn rest<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.folder).unwrap_or(path)
    }

    fn judge_record(&self, path: &Path) -> io::Result<Result<(), String>> {
        let name = self.rest(path).display().to_string();
        let request = ModuleRequest::parse_database(&self.name, &format!("/{name}"));
        let Ok(ModuleRequest::SumLookup { module, version, .. }) = request else {
            return Ok(Err(format!("{name} is no name of a record")));
        };
        let text = Bytes::from(fs::read(path)?);
        let judged = Record::split(&text).and_then(|(record, _)| record.judge(&module, &version).map(|()| record));
        match judged {
            Err(why) => Ok(Err(why.to_string())),
            Ok(record) => self.prove(&Claim::Record(&record)),
        }
    }

    /// Nothing where it cannot be said.
    fn judge_tile(&self, path: &Path) -> io::Result<Option<Result<(), String>>> {
        let name = self.rest(path).display().to_string();
        let Some(tile) = parse_kept_tile(&name).filter(|tile| !tile.is_data() && tile.height() == HEIGHT) else {
            return Ok(Some(Err(format!("{name} is no name of a tile"))));
        };
        let data = fs::read(path)?;
        if data.len() != tile.width() as usize * 32 {
            return Ok(Some(Err(format!("a tile of {} hashes has {} bytes", tile.width(), data.len()))));
        }
        // As wide as the tree has it now; a narrower one must begin it.
        let Some(wide) = widen(&tile, &self.head) else { return Ok(None) };
        let Some(held) = self.read_tile(&wide)? else { return Ok(None) };
        if !held.starts_with(&data) {
            return Ok(Some(Err("another tile of the same place begins otherwise".to_owned())));
        }
        self.prove(&Claim::Tile(wide)).map(|proven| match proven {
            Err(why) if why == MISSING => None,
            proven => Some(proven),
        })
    }

    fn prove(&self, claim: &Claim<'_>) -> io::Result<Result<(), String>> {
        let mut tiles = Tiles::default();
        loop {
            match tiles.prove(&self.head, claim) {
                Outcome::Proven(_) => return Ok(Ok(())),
                Outcome::Refuted => return Ok(Err("the signed tree does not prove it".to_owned())),
                Outcome::WrongTiles => return Ok(Err("its tiles are not those of the signed tree".to_owned())),
                Outcome::Missing(missing) => {
                    for tile in missing {
                        let Some(data) = self.read_tile(&tile)? else { return Ok(Err(MISSING.to_owned())) };
                        tiles.add(tile, data);
                    }
                }
            }
        }
    }

    /// A tile, cut from the whole one if need be.
    fn read_tile(&self, tile: &Tile) -> io::Result<Option<Vec<u8>>> {
        for place in [*tile, whole(tile)] {
            match fs::read(self.folder.join(place.path())) {
                Ok(mut data) if data.len() == place.width() as usize * 32 => {
                    data.truncate(tile.width() as usize * 32);
                    return Ok(Some(data));
                }
                Ok(_) => {}
                Err(why) if why.kind() == io::ErrorKind::NotFound => {}
                Err(why) => return Err(why),
            }
        }
        Ok(None)
    }
}

const MISSING: &str = "a tile that it needs is not held";

/// Every file below a folder, in order; none where there is no folder.
fn files_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(why) if why.kind() == io::ErrorKind::NotFound => continue,
            Err(why) => return Err(why),
        };
        for entry in entries {
            let entry = entry?;
            let is_folder = entry.file_type()?.is_dir();
            if is_folder { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort();
    Ok(found)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes)
}

#[cfg(test)]
mod tests {
    use super::super::log::tests::Book;
    use super::*;

    /// A cache folder that holds some records of a book and what proves them.
    fn kept(book: &Book, numbers: &[u64]) -> (tempfile::TempDir, SumdbConfig) {
        let folder = tempfile::tempdir().unwrap();
        let config = SumdbConfig::parse(&book.key()).unwrap().unwrap();
        let root = folder.path().join("sumdb").join(&book.name);
        write(&root.join("head"), &book.head()).unwrap();
        let head = Head::open(&book.head(), &book.verifier()).unwrap();
        for number in numbers {
            let name = format!("filler.example/m{number}@v1.0.0");
            let text = book.record(&name).unwrap();
            write(&root.join("lookup").join(&name), &text).unwrap();
            let (record, _) = Record::split(&text).unwrap();
            let mut tiles = Tiles::default();
            while let Outcome::Missing(missing) = tiles.prove(&head, &Claim::Record(&record)) {
                for tile in missing {
                    let data = book.tile(&tile).unwrap();
                    write(&root.join(tile.path()), &data).unwrap();
                    tiles.add(tile, data.to_vec());
                }
            }
        }
        (folder, config)
    }

    fn open(folder: &tempfile::TempDir, config: &SumdbConfig) -> Ledger {
        Ledger::open(config, folder.path()).unwrap().unwrap()
    }

    fn book() -> Book {
        let book = Book::new("sum.test/db");
        book.grow(700);
        book
    }

    #[test]
    fn what_is_right_is_proven_and_what_was_altered_is_found() {
        let (folder, config) = kept(&book(), &[3, 300, 699]);
        let audit = open(&folder, &config).audit().unwrap();
        assert_eq!((audit.size, audit.unproven, audit.wrong.len()), (700, 0, 0));
        for path in files_below(&folder.path().join("sumdb/sum.test/db")).unwrap() {
            let right = fs::read(&path).unwrap();
            for at in [0, right.len() / 2, right.len() - 1] {
                let mut bent = right.clone();
                bent[at] ^= 1;
                fs::write(&path, &bent).unwrap();
                let found = Ledger::open(&config, folder.path()).and_then(|ledger| ledger.unwrap().audit());
                assert!(found.is_err() || !found.unwrap().wrong.is_empty(), "{} {at}", path.display());
            }
            fs::write(&path, right).unwrap();
        }
        assert_eq!(open(&folder, &config).audit().unwrap(), audit);
    }

    #[test]
    fn a_narrow_tile_of_an_older_tree_begins_the_one_of_now() {
        let book = book();
        let (folder, config) = kept(&book, &[699]);
        let older = Tile::new(HEIGHT, 0, 2, 10, false);
        let path = folder.path().join("sumdb/sum.test/db").join(older.path());
        let data = book.tile(&older).unwrap().to_vec();
        write(&path, &data).unwrap();
        let audit = open(&folder, &config).audit().unwrap();
        assert_eq!((audit.wrong.len(), audit.unproven), (0, 0));
        write(&path, &[&data[..288], &[7; 32]].concat()).unwrap();
        assert_eq!(open(&folder, &config).audit().unwrap().wrong.len(), 1);
    }

    #[test]
    fn without_a_head_there_is_no_ledger_and_a_forged_one_is_an_error() {
        let (folder, config) = kept(&book(), &[]);
        assert!(Ledger::open(&config, tempfile::tempdir().unwrap().path()).unwrap().is_none());
        let other = SumdbConfig { key: Book::new("other.test").key(), ..config.clone() };
        assert!(Ledger::open(&other, folder.path()).is_err());
    }

    #[test]
    fn written_out_it_answers_as_a_mirror_does() {
        let book = book();
        let (folder, config) = kept(&book, &[3, 300]);
        let tree = tempfile::tempdir().unwrap();
        assert_eq!(open(&folder, &config).write_out(tree.path()).unwrap(), 2);
        let root = tree.path().join("sumdb/sum.test/db");
        assert_eq!(fs::read(root.join("supported")).unwrap(), b"");
        let joined = fs::read(root.join("lookup/filler.example/m300@v1.0.0")).unwrap();
        assert_eq!(joined, book.answer("/lookup/filler.example/m300@v1.0.0", &book.head()).unwrap());
        assert_eq!(fs::read(root.join("tile/8/0/000")).unwrap(), book.answer("/tile/8/0/000", &book.head()).unwrap());
    }
}
