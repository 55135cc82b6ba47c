//! Is a kept file what it should be? Asked without a network, of a folder that daemons may serve from.
//!
//! Each file is first hashed whole against its note. Then what it says is looked at: the h1 sum of a
//! `.mod` or `.zip` against the database's record where one is held, the shape of a zip, the version in an
//! `.info`; a record or a tile must be proven by the pinned head and the tiles that are held. What cannot
//! be proven because a tile is not held is no fault: whoever serves fetches it.

use std::io::Read;

use bytes::Bytes;
use signed_note::StandardVerifier;
use tlog_tiles::Tile;

use super::joined::is_set_out;
use super::log::{Claim, Head, Outcome, Record, Sums, Tiles, whole, widen};
use super::path::{Database, Module, ModuleRequest, Version};
use super::places::Filed;
use super::pools::TREE;
use super::store::is_verified;
use super::sumdb::SumdbConfig;
use super::verify;
use crate::cache::{Folder, Item, Key, Look, Note, ReadSeek};

/// What was found out about a kept file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is right.
    Right,
    /// It is as it was kept, but nothing here proves that it is right.
    Unproven(String),
    /// It is wrong.
    Wrong(String),
    /// It has no note, so nobody is given it.
    Unnoted,
    /// It is gone by now.
    Gone,
}

/// Looks at the files of one folder.
pub struct Examiner<'a> {
    folder: &'a Folder,
    ledgers: Vec<Ledger<'a>>,
}

impl<'a> Examiner<'a> {
    /// Looks at `folder`, with the keys of these databases.
    pub fn new(folder: &'a Folder, databases: &[SumdbConfig]) -> Examiner<'a> {
        Examiner { folder, ledgers: databases.iter().filter_map(|config| Ledger::kept(folder, config)).collect() }
    }

    /// Looks at one file.
    pub fn examine(&self, key: &Key) -> Finding {
        match self.folder.inspect(key) {
            Look::Gone => Finding::Gone,
            Look::Unnoted if is_set_out(key) => self.judge_set_out(key),
            Look::Unnoted => Finding::Unnoted,
            Look::Damaged(how) => Finding::Wrong(format!("{how}: not as it was kept")),
            Look::Right(note, file) => self.judge(key, &note, file),
        }
    }

    /// What the database says about a module version, as far as it is held.
    pub fn sums(&self, module: &Module, version: &Version) -> Option<Sums> {
        self.ledgers.iter().find_map(|ledger| Some(ledger.record(module, version)?.sums(module, version)))
    }

    fn judge(&self, key: &Key, note: &Note, file: Box<dyn ReadSeek>) -> Finding {
        let Filed { request, sort } = Filed::of(key);
        if sort == super::Sort::Absence {
            return Finding::Right;
        }
        let Some(request) = request else { return self.judge_head(key, file) };
        match &request {
            ModuleRequest::SumLookup { database, module, version } => {
                let Some(ledger) = self.ledger(database) else { return unknown(database) };
                ledger.judge_record(&read_all(file), module, version)
            }
            ModuleRequest::SumTile { database, tile } => {
                let Some(ledger) = self.ledger(database) else { return unknown(database) };
                ledger.judge_tile(&read_all(file), tile)
            }
            ModuleRequest::Mod { module, version } | ModuleRequest::Zip { module, version } => {
                let sums = self.sums(module, version).unwrap_or_default();
                match judge_file(&request, file, note.length, &sums) {
                    Ok(_) => Finding::Right,
                    // As long as the hash is right, the database vouched for these very bytes.
                    Err(Fault::Shape(_)) if is_verified(note) => Finding::Right,
                    Err(why) => Finding::Wrong(why.to_string()),
                }
            }
            _ => judge_text(&request, &read_all(file)).map_or_else(Finding::Wrong, |()| Finding::Right),
        }
    }

    /// Looks at a file as a go command reads it that has nothing but the folder: a record is proven by the head
    /// it is joined with and the tiles that lie beside it.
    fn judge_set_out(&self, key: &Key) -> Finding {
        let request = Filed::of(key).request;
        let Some(database) = request.as_ref().and_then(ModuleRequest::database) else { return Finding::Unnoted };
        let Some(kept) = self.ledger(database) else { return unknown(database) };
        let source = |rest: &str| {
            let key = Key::new(&format!("{TREE}/sumdb/{database}/{rest}"))?;
            std::fs::read(self.folder.path(&key)).ok().map(Bytes::from)
        };
        let Some(text) = std::fs::read(self.folder.path(key)).ok() else { return Finding::Gone };
        let ledger = Ledger { head: kept.head.clone(), ..kept.elsewhere(Box::new(source)) };
        match &request {
            Some(ModuleRequest::SumLookup { module, version, .. }) => {
                ledger.judge_answer(&Bytes::from(text), module, version)
            }
            Some(ModuleRequest::SumTile { tile, .. }) => ledger.judge_tile(&text, tile),
            Some(ModuleRequest::SumLatest { .. }) => {
                Head::open(&text, &ledger.key).map_or_else(|why| Finding::Wrong(why.to_string()), |_| Finding::Right)
            }
            _ => Finding::Right,
        }
    }

    fn judge_head(&self, key: &Key, file: Box<dyn ReadSeek>) -> Finding {
        let name = key.as_str().strip_prefix("sumdb/").and_then(|rest| rest.strip_suffix("/head"));
        let Some(ledger) = name.and_then(|name| self.ledgers.iter().find(|ledger| ledger.name.as_str() == name)) else {
            return Finding::Unproven("nothing is known about such files".to_owned());
        };
        Head::open(&read_all(file), &ledger.key).map_or_else(|why| Finding::Wrong(why.to_string()), |_| Finding::Right)
    }

    fn ledger(&self, database: &Database) -> Option<&Ledger<'a>> {
        self.ledgers.iter().find(|ledger| ledger.name == *database)
    }
}

/// What was wrong with a go.mod or a zip.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("its sum is {found}, and should be {wanted}")]
    Sum { found: String, wanted: String },
    #[error("{0}")]
    Shape(String),
}

/// Judges a go.mod or a zip; whether a sum vouches for it.
pub(super) fn judge_file(
    request: &ModuleRequest,
    mut file: impl Read + std::io::Seek,
    length: u64,
    sums: &Sums,
) -> Result<bool, Fault> {
    let (sum, fault, wanted) = match request {
        ModuleRequest::Zip { module, version } => {
            let checked = verify::check_zip(file, length, module, version);
            (checked.sum, checked.fault, &sums.zip)
        }
        _ => {
            let mut text = Vec::new();
            file.by_ref()
                .take(verify::MAX_GO_MOD)
                .read_to_end(&mut text)
                .map_err(|why| Fault::Shape(why.to_string()))?;
            (Some(verify::hash_mod(&text)), verify::judge_mod(&text).err(), &sums.go_mod)
        }
    };
    match (&sum, &fault) {
        (Some(sum), _) if wanted.contains(sum) => Ok(true),
        (Some(sum), _) if !wanted.is_empty() => Err(Fault::Sum { found: sum.clone(), wanted: wanted.join(" or ") }),
        (_, Some(fault)) => Err(Fault::Shape(fault.clone())),
        (None, None) => Err(Fault::Shape("it cannot be read".to_owned())),
        (Some(_), None) => Ok(false),
    }
}

/// Judges an answer that no database vouches for.
pub(super) fn judge_text(request: &ModuleRequest, text: &[u8]) -> Result<(), String> {
    match request {
        ModuleRequest::Info { version, .. } => verify::judge_info_loosely(text, version),
        ModuleRequest::Latest { .. } => verify::judge_info(text, None),
        ModuleRequest::List { .. } => verify::judge_list(text),
        _ => Ok(()),
    }
}

/// How a proof went with what is at hand.
pub(super) enum Proof {
    /// It holds by these tiles.
    Holds(Vec<(Tile, Vec<u8>)>),
    /// This tile is not at hand.
    Lacks(Tile),
    /// It does not hold.
    Refuted,
}

/// Reads what lies at `lookup/…`, `tile/…` or where the head is.
type Source<'a> = Box<dyn Fn(&str) -> Option<Bytes> + Send + Sync + 'a>;

/// One checksum database whose key is known, as far as a place holds it.
pub(super) struct Ledger<'a> {
    pub name: Database,
    pub key: StandardVerifier,
    pub head: Option<Head>,
    source: Source<'a>,
}

impl<'a> Ledger<'a> {
    /// What a cache folder holds of it.
    pub(super) fn kept(folder: &'a Folder, config: &SumdbConfig) -> Option<Ledger<'a>> {
        let root = format!("sumdb/{}", config.name);
        let source = move |rest: &str| {
            let key = Key::new(&format!("{root}/{rest}"))?;
            folder.read_small(&key, LONGEST).map(|(_, bytes)| Bytes::from(bytes))
        };
        Ledger::new(config, Box::new(source), "head")
    }

    /// What a place holds of it, whose newest head lies at `head`.
    pub(super) fn new(config: &SumdbConfig, source: Source<'a>, head: &str) -> Option<Ledger<'a>> {
        let key = StandardVerifier::new(&config.key).ok()?;
        let head = source(head).and_then(|note| Head::open(&note, &key).ok());
        Some(Ledger { name: config.name.clone(), key, head, source })
    }

    /// The same database, as another place holds it.
    fn elsewhere<'b>(&self, source: Source<'b>) -> Ledger<'b> {
        Ledger { name: self.name.clone(), key: self.key.clone(), head: None, source }
    }

    /// Adds another place to look at when this one has not got something.
    pub(super) fn backed_by(self, other: &'a Ledger<'a>) -> Ledger<'a> {
        let own = self.source;
        Ledger { source: Box::new(move |rest| own(rest).or_else(|| (other.source)(rest))), ..self }
    }

    /// The record of a module version.
    pub(super) fn record(&self, module: &Module, version: &Version) -> Option<Record> {
        let answer = (self.source)(&format!("lookup/{}@{}", module.escaped(), version.escaped()))?;
        let (record, _) = Record::split(&answer).ok()?;
        record.judge(module, version).is_ok().then_some(record)
    }

    /// Proves a claim under a head with the tiles at hand.
    pub(super) fn prove(&self, head: &Head, claim: &Claim<'_>) -> Proof {
        let mut tiles = Tiles::default();
        for _ in 0..ROUNDS {
            match tiles.prove(head, claim) {
                Outcome::Proven(used) => {
                    let data = |tile: Tile| Some((tile, tiles.data(&tile)?.clone()));
                    return Proof::Holds(used.into_iter().filter_map(data).collect());
                }
                Outcome::Missing(missing) => {
                    for tile in missing {
                        match self.tile(&tile) {
                            Some(data) => tiles.add(tile, data),
                            None => return Proof::Lacks(tile),
                        }
                    }
                }
                Outcome::Refuted | Outcome::WrongTiles => return Proof::Refuted,
            }
        }
        Proof::Refuted
    }

    /// A tile, cut from the whole one if need be: the bytes of a partial tile begin it.
    fn tile(&self, tile: &Tile) -> Option<Vec<u8>> {
        let wanted = tile.width() as usize * HASH;
        [*tile, whole(tile)].iter().find_map(|place| {
            let data = (self.source)(&place.path())?;
            (data.len() == place.width() as usize * HASH).then(|| data[..wanted].to_vec())
        })
    }

    fn judge_record(&self, text: &[u8], module: &Module, version: &Version) -> Finding {
        let wrong = |why: super::log::Bad| Finding::Wrong(why.to_string());
        let record = match Record::split(&Bytes::copy_from_slice(text)) {
            Ok((record, _)) => record,
            Err(why) => return wrong(why),
        };
        if let Err(why) = record.judge(module, version) {
            return wrong(why);
        }
        let Some(head) = self.head.as_ref().filter(|head| record.id < head.size) else {
            return Finding::Unproven("no tree head that covers it is held".to_owned());
        };
        self.tell(self.prove(head, &Claim::Record(&record)))
    }

    /// A lookup's answer: a record, proven by the head that follows it.
    fn judge_answer(&self, text: &Bytes, module: &Module, version: &Version) -> Finding {
        let opened = Record::split(text).and_then(|(record, note)| {
            record.judge(module, version)?;
            Ok((record, Head::open(&note, &self.key)?))
        });
        match opened {
            Ok((record, head)) => self.tell(self.prove(&head, &Claim::Record(&record))),
            Err(why) => Finding::Wrong(why.to_string()),
        }
    }

    /// A tile that is as wide as the tree now is proven; an older, narrower one need only begin it.
    fn judge_tile(&self, data: &[u8], tile: &Tile) -> Finding {
        self.judge_tile_under(self.head.as_ref(), data, tile)
    }

    pub(super) fn judge_tile_under(&self, head: Option<&Head>, data: &[u8], tile: &Tile) -> Finding {
        if data.len() != tile.width() as usize * HASH {
            return Finding::Wrong(format!("{} bytes instead of {}", data.len(), tile.width() as usize * HASH));
        }
        let Some((head, wide)) = head.and_then(|head| Some((head, widen(tile, head)?))) else {
            return Finding::Unproven("no tree head that covers it is held".to_owned());
        };
        if wide == *tile {
            return self.tell(self.prove(head, &Claim::Tile(wide)));
        }
        match self.tile(&wide) {
            Some(wider) if !wider.starts_with(data) => Finding::Wrong("the tree has grown from another one".to_owned()),
            Some(_) => self.tell(self.prove(head, &Claim::Tile(wide))),
            None => Finding::Unproven("the tile has grown since".to_owned()),
        }
    }

    fn tell(&self, proof: Proof) -> Finding {
        match proof {
            Proof::Holds(_) => Finding::Right,
            Proof::Lacks(tile) => Finding::Unproven(format!("{} is not held", tile.path())),
            Proof::Refuted => Finding::Wrong(format!("the signed tree of {} does not prove it", self.name)),
        }
    }
}

/// Whether the checksum database vouches for a file of the tree.
pub fn is_vouched(item: &Item) -> bool {
    item.note.as_ref().is_some_and(is_verified)
}

fn unknown(database: &Database) -> Finding {
    Finding::Unproven(format!("the key of {database} is not known"))
}

fn read_all(mut file: Box<dyn ReadSeek>) -> Vec<u8> {
    let mut text = Vec::new();
    // It was read a moment ago to be hashed; what is short now is wrong in whatever it says.
    let _ = file.by_ref().take(LONGEST).read_to_end(&mut text);
    text
}

/// No list, record or tile that is kept is longer.
pub(super) const LONGEST: u64 = 64 << 20;
/// The bytes of a hash in a tile.
pub(super) const HASH: usize = 32;
/// A proof misses tiles at most once for each level of the tree, and once more.
const ROUNDS: usize = 8;
