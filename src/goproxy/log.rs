//! The checksum database's log, in pure code: signed tree heads, records, and proofs over tiles.
//!
//! signed_note and tlog_tiles do the cryptography and the tree; here is what Go's client does with
//! them (x/mod/sumdb/client.go): a record or an older tree is believed where the tiles of a signed
//! head prove it. A proof is tried with the tiles at hand; what is missing is told, to be fetched,
//! and the proof is tried again.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use bytes::Bytes;
use signed_note::{Note, NoteError, StandardVerifier, VerifierList};
use tlog_tiles::{
    Checkpoint, Error as ProofError, Hash, HashReader, Tile, TileHashReader, TileReader, record_hash,
    stored_hash_index, tree_hash,
};

use super::path::{Module, Version};

/// The height of the tiles that Go's client asks for (sumdb.Client, tileHeight).
pub const HEIGHT: u8 = 8;
/// The first line of a head's text (tlog.ParseTree).
const ORIGIN: &str = "go.sum database tree";
/// No log has this many records; beyond, the arithmetic of tiles would have to be checked.
const MOST_RECORDS: u64 = 1 << 40;

/// A tree head whose signature was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The signed note, byte for byte.
    pub note: Bytes,
    pub size: u64,
    pub hash: Hash,
}

/// What a head or a record had to be and was not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// The one that is worth an alarm: somebody signed in the database's name.
    #[error("a tree head whose signature is not the database's")]
    Forged,
    #[error("no signed tree head of this database")]
    NoHead,
    #[error("not a record: a number, go.sum lines, a blank line")]
    NoRecord,
    #[error("a record without a sum for {0}")]
    OtherModule(String),
}

impl Head {
    /// Opens a signed note.
    pub fn open(note: &[u8], key: &StandardVerifier) -> Result<Head, Bad> {
        let signed = Note::from_bytes(note).map_err(|_| Bad::NoHead)?;
        signed.verify(&VerifierList::new(vec![Box::new(key.clone())])).map_err(|why| match why {
            NoteError::InvalidSignature { .. } | NoteError::UnverifiedNote => Bad::Forged,
            _ => Bad::NoHead,
        })?;
        let tree = Checkpoint::from_bytes(signed.text()).map_err(|_| Bad::NoHead)?;
        if tree.origin() != ORIGIN || !(1..MOST_RECORDS).contains(&tree.size()) {
            return Err(Bad::NoHead);
        }
        Ok(Head { note: Bytes::copy_from_slice(note), size: tree.size(), hash: *tree.hash() })
    }
}

/// One record of the log: a number, and the go.sum lines of one module version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// As a lookup answers it, up to and with the blank line.
    pub text: Bytes,
    pub id: u64,
    /// Where the lines begin.
    lines: usize,
}

impl Record {
    /// Splits a lookup's answer into record and head (tlog.ParseRecord).
    pub fn split(answer: &Bytes) -> Result<(Record, Bytes), Bad> {
        let first = answer.iter().position(|&byte| byte == b'\n').ok_or(Bad::NoRecord)?;
        let id = std::str::from_utf8(&answer[..first]).ok().and_then(|id| id.parse().ok()).ok_or(Bad::NoRecord)?;
        let end = answer.windows(2).position(|two| two == b"\n\n").ok_or(Bad::NoRecord)? + 2;
        if first + 1 >= end - 1 || !is_text(&answer[first + 1..end - 1]) {
            return Err(Bad::NoRecord);
        }
        Ok((Record { text: answer.slice(..end), id, lines: first + 1 }, answer.slice(end..)))
    }

    /// The go.sum lines, which are what the log's hash covers.
    pub fn lines(&self) -> &[u8] {
        &self.text[self.lines..self.text.len() - 1]
    }

    /// The sum of the zip and of the go.mod, if the record has them for this module and version.
    pub fn sums(&self, module: &Module, version: &Version) -> Sums {
        let find = |version: String| {
            let wanted = format!("{module} {version} ");
            let text = std::str::from_utf8(self.lines()).unwrap_or_default();
            text.lines().filter_map(|line| line.strip_prefix(&wanted)).map(str::to_owned).collect()
        };
        Sums { zip: find(version.to_string()), go_mod: find(format!("{version}/go.mod")) }
    }

    /// Whether it is about this module version at all.
    pub fn judge(&self, module: &Module, version: &Version) -> Result<(), Bad> {
        let sums = self.sums(module, version);
        let none = sums.zip.is_empty() && sums.go_mod.is_empty();
        if none { Err(Bad::OtherModule(format!("{module}@{version}"))) } else { Ok(()) }
    }
}

/// What the database says that the files of a module version hash to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub zip: Vec<String>,
    pub go_mod: Vec<String>,
}

/// Tiles at hand for a proof, and what the proof still misses.
#[derive(Default)]
pub struct Tiles {
    held: HashMap<Tile, Vec<u8>>,
    missing: RefCell<Vec<Tile>>,
    proven: RefCell<Vec<Tile>>,
    /// The size of the tree that is being proven with.
    size: Cell<u64>,
    /// Some whole tile is not what its parent says.
    is_forged: Cell<bool>,
}

/// How a proof went.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds; these tiles were part of it.
    Proven(Vec<Tile>),
    /// It needs these tiles.
    Missing(Vec<Tile>),
    /// The tiles at hand are not those of this head.
    WrongTiles,
    /// The tiles are right, and the claim is not.
    Refuted,
}

/// What is to be proven under a head.
#[derive(Clone, Debug)]
pub enum Claim<'a> {
    /// This record is in the log.
    Record(&'a Record),
    /// This older tree is a beginning of it, and whatever could be proven under it still can: the
    /// tiles on its right edge are those that grew since.
    Contains(&'a Head),
    /// This tile belongs to it.
    Tile(Tile),
}

impl Tiles {
    pub(super) fn add(&mut self, tile: Tile, data: Vec<u8>) {
        self.held.insert(tile, data);
    }

    pub(super) fn data(&self, tile: &Tile) -> Option<&Vec<u8>> {
        self.held.get(tile)
    }

    /// Tries to prove a claim.
    pub fn prove(&self, head: &Head, claim: &Claim<'_>) -> Outcome {
        self.missing.take();
        self.proven.take();
        self.size.set(head.size);
        self.is_forged.set(false);
        let reader = TileHashReader::new(head.size, head.hash, self);
        match check(&reader, head, claim) {
            Ok(_) if self.is_forged.get() => Outcome::WrongTiles,
            Ok(true) => Outcome::Proven(self.proven.take()),
            Ok(false) => Outcome::Refuted,
            Err(_) if !self.missing.borrow().is_empty() => Outcome::Missing(self.missing.take()),
            Err(ProofError::IndexesNotInTree) => Outcome::Refuted,
            Err(_) => Outcome::WrongTiles,
        }
    }
}

fn check(reader: &TileHashReader<'_>, head: &Head, claim: &Claim<'_>) -> Result<bool, ProofError> {
    let leaf = |id: u64| reader.read_hashes(&[stored_hash_index(0, id)]);
    match claim {
        Claim::Record(record) if record.id >= head.size => Ok(false),
        Claim::Record(record) => Ok(leaf(record.id)?.first() == Some(&record_hash(record.lines()))),
        Claim::Contains(older) if older.size > head.size => Ok(false),
        Claim::Contains(older) => {
            // The last record's tiles, up to the root, are the right edge of the older tree: with them
            // every record of it that could be proven before can be proven again.
            leaf(older.size - 1)?;
            Ok(tree_hash(older.size, reader)? == older.hash)
        }
        Claim::Tile(tile) => {
            let first = stored_hash_index(tile.level() * HEIGHT, tile.level_index() << HEIGHT);
            reader.read_hashes(&[first]).map(|_| true)
        }
    }
}

impl TileReader for Tiles {
    fn height(&self) -> u8 {
        HEIGHT
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, ProofError> {
        let missing = tiles.iter().filter(|tile| !self.held.contains_key(tile));
        self.missing.borrow_mut().extend(missing);
        if !self.missing.borrow().is_empty() {
            return Err(ProofError::InvalidTile);
        }
        Ok(tiles.iter().filter_map(|tile| self.held.get(tile).cloned()).collect())
    }

    fn save_tiles(&self, tiles: &[Tile], data: &[Vec<u8>]) {
        let is_sound = |(at, tile): (usize, &Tile)| *tile != whole(tile) || self.fits_parent(tile, &data[at]);
        if tiles.iter().enumerate().all(is_sound) {
            self.proven.borrow_mut().extend(tiles);
        } else {
            self.is_forged.set(true);
        }
    }
}

impl Tiles {
    /// Whether the parent of a whole tile, which was part of the same proof, has its hash. A tile that is
    /// not whole is part of the head's own hash.
    fn fits_parent(&self, tile: &Tile, data: &[u8]) -> bool {
        let Some(parent) = tile.parent(1, self.size.get()) else { return false };
        let Some(above) = self.held.get(&parent) else { return false };
        let index = stored_hash_index(parent.level() * HEIGHT, tile.level_index());
        parent.hash_at_index(above, index).is_ok_and(|hash| hash == Tile::subtree_hash(data))
    }
}

/// The tile of the same place as wide as it is under a head; none where the head has no such place.
pub fn widen(tile: &Tile, head: &Head) -> Option<Tile> {
    let level = tile.level();
    if tile.height() != HEIGHT || tile.is_data() || level > 4 {
        return None;
    }
    let first = tile.level_index().checked_mul(1 << HEIGHT)?;
    let there = (head.size >> (level * HEIGHT)).checked_sub(first)?;
    let width = there.min(1 << HEIGHT) as u32;
    (width >= tile.width()).then(|| Tile::new(HEIGHT, level, tile.level_index(), width, false))
}

/// The whole tile at a place.
pub fn whole(tile: &Tile) -> Tile {
    Tile::new(tile.height(), tile.level(), tile.level_index(), 1 << tile.height(), tile.is_data())
}

/// tlog.isValidRecordText: UTF-8 without control characters but line ends, no blank line, a line end last.
fn is_text(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    text.ends_with('\n') && !text.contains("\n\n") && !text.chars().any(|c| c < ' ' && c != '\n')
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use signed_note::{Signer, StandardSigner};
    use tlog_tiles::{stored_hash_count, stored_hashes};

    use super::*;

    /// The key pair in the documentation of x/mod/sumdb/note.
    const SECRET: &str = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const PUBLIC: &str = "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";

    /// A checksum database with a log that grows, as a test serves it.
    #[derive(Clone)]
    pub(crate) struct Book {
        pub(crate) name: String,
        pages: Arc<Mutex<Pages>>,
    }

    #[derive(Default)]
    struct Pages {
        records: Vec<(String, String)>,
        hashes: Vec<Hash>,
    }

    struct Stored<'a>(&'a [Hash]);

    impl HashReader for Stored<'_> {
        fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, ProofError> {
            Ok(indexes.iter().map(|&index| self.0[index as usize]).collect())
        }
    }

    impl Book {
        pub(crate) fn new(name: &str) -> Book {
            Book { name: name.to_owned(), pages: Arc::default() }
        }

        fn id(&self) -> String {
            use base64::Engine;
            let public = base64::prelude::BASE64_STANDARD.decode(PUBLIC).unwrap();
            format!("{:08x}", signed_note::key_id(&self.name, &public))
        }

        /// `NAME+ID+KEY`, as GOSUMDB has it.
        pub(crate) fn key(&self) -> String {
            format!("{}+{}+{PUBLIC}", self.name, self.id())
        }

        pub(crate) fn verifier(&self) -> StandardVerifier {
            StandardVerifier::new(&self.key()).unwrap()
        }

        fn signer(&self) -> StandardSigner {
            StandardSigner::new(&format!("PRIVATE+KEY+{}+{}+{SECRET}", self.name, self.id())).unwrap()
        }

        /// Writes a record and says its number.
        pub(crate) fn write(&self, module: &str, version: &str, zip: &str, go_mod: &str) -> u64 {
            let lines = format!("{module} {version} {zip}\n{module} {version}/go.mod {go_mod}\n");
            let mut pages = self.pages.lock().unwrap();
            let id = pages.records.len() as u64;
            let hashes = stored_hashes(id, lines.as_bytes(), &Stored(&pages.hashes)).unwrap();
            pages.hashes.extend(hashes);
            pages.records.push((format!("{module}@{version}"), lines));
            assert_eq!(pages.hashes.len() as u64, stored_hash_count(id + 1));
            id
        }

        /// Writes this many records of modules that nobody asks for.
        pub(crate) fn grow(&self, count: usize) {
            let from = self.size();
            for number in from..from + count as u64 {
                self.write(&format!("filler.example/m{number}"), "v1.0.0", "h1:zip", "h1:mod");
            }
        }

        pub(crate) fn size(&self) -> u64 {
            self.pages.lock().unwrap().records.len() as u64
        }

        /// The signed head of the first `size` records.
        pub(crate) fn head_at(&self, size: u64) -> Bytes {
            let hash = tree_hash(size, &Stored(&self.pages.lock().unwrap().hashes)).unwrap();
            self.sign(&format!("{ORIGIN}\n{size}\n{hash}\n"))
        }

        pub(crate) fn head(&self) -> Bytes {
            self.head_at(self.size())
        }

        pub(crate) fn sign(&self, text: &str) -> Bytes {
            let mut note = Note::new(text.as_bytes(), &[]).unwrap();
            note.add_sigs(&[&self.signer() as &dyn Signer]).unwrap();
            note.to_bytes().into()
        }

        pub(crate) fn record(&self, name: &str) -> Option<Bytes> {
            let pages = self.pages.lock().unwrap();
            let id = pages.records.iter().position(|(other, _)| other == name)?;
            Some(format!("{id}\n{}\n", pages.records[id].1).into())
        }

        pub(crate) fn tile(&self, tile: &Tile) -> Option<Bytes> {
            let pages = self.pages.lock().unwrap();
            let last = ((tile.level_index() << HEIGHT) + u64::from(tile.width())) << (tile.level() * HEIGHT);
            (last <= pages.records.len() as u64).then(|| tile.read_data(&Stored(&pages.hashes)).unwrap().into())
        }

        /// Answers a path below the database's root, with this head at the end of lookups.
        pub(crate) fn answer(&self, path: &str, head: &Bytes) -> Option<Bytes> {
            if path == "/latest" {
                return Some(head.clone());
            }
            if let Some(name) = path.strip_prefix("/lookup/") {
                return Some([self.record(name)?, head.clone()].concat().into());
            }
            self.tile(&Tile::from_path(path.strip_prefix('/')?).ok()?)
        }
    }

    fn book(records: usize) -> Book {
        let book = Book::new("sum.test");
        book.grow(records);
        book
    }

    fn open(book: &Book, note: &Bytes) -> Head {
        Head::open(note, &book.verifier()).unwrap()
    }

    fn record(book: &Book, number: u64) -> Record {
        Record::split(&book.record(&format!("filler.example/m{number}@v1.0.0")).unwrap()).unwrap().0
    }

    /// Proves with whatever tiles the book has; how many it took.
    fn prove(book: &Book, head: &Head, claim: &Claim<'_>) -> Result<usize, Outcome> {
        let mut tiles = Tiles::default();
        loop {
            match tiles.prove(head, claim) {
                Outcome::Proven(used) => return Ok(used.len()),
                Outcome::Missing(missing) => {
                    for tile in missing {
                        tiles.add(tile, book.tile(&tile).unwrap().to_vec());
                    }
                }
                other => return Err(other),
            }
        }
    }

    #[test]
    fn a_head_counts_where_the_database_signed_it() {
        let book = book(5);
        let head = open(&book, &book.head());
        assert_eq!(head.size, 5);
        let text = String::from_utf8(book.head().to_vec()).unwrap();
        let bad = |text: String| Head::open(text.as_bytes(), &book.verifier()).unwrap_err();
        assert_eq!(bad(text.replace("\n5\n", "\n6\n")), Bad::Forged);
        assert_eq!(Head::open(&book.head(), &Book::new("other.test").verifier()), Err(Bad::Forged));
        assert_eq!(bad("<html>".to_owned()), Bad::NoHead);
        assert_eq!(bad(String::new()), Bad::NoHead);
        let other_text = String::from_utf8(book.sign("something else\n5\nAAAA\n").to_vec()).unwrap();
        assert_eq!(bad(other_text), Bad::NoHead);
    }

    #[test]
    fn a_lookup_is_a_record_and_a_head() {
        let book = book(3);
        let answer = book.answer("/lookup/filler.example/m1@v1.0.0", &book.head()).unwrap();
        let (record, head) = Record::split(&answer).unwrap();
        assert_eq!((record.id, head), (1, book.head()));
        let (module, v1) = (Module::new("filler.example/m1").unwrap(), Version::new("v1.0.0").unwrap());
        assert_eq!(record.sums(&module, &v1), Sums { zip: vec!["h1:zip".into()], go_mod: vec!["h1:mod".into()] });
        assert!(record.judge(&Module::new("filler.example/m").unwrap(), &v1).is_err());
        for bad in ["", "1", "1\n", "x\na v1 h1:x\n\n", "1\n\n\n", "1\na\tb\n\n", "-1\na\n\n", "1\nno end"] {
            assert_eq!(Record::split(&Bytes::from(bad)), Err(Bad::NoRecord), "{bad:?}");
        }
    }

    #[test]
    fn no_answer_makes_the_reader_panic() {
        let book = book(40);
        let answer = book.answer("/lookup/filler.example/m7@v1.0.0", &book.head()).unwrap();
        let (whole, _) = Record::split(&answer).unwrap();
        let head = open(&book, &book.head());
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..5_000 {
            let mut bent = answer.to_vec();
            let at = random.usize(..bent.len());
            bent[at] = random.u8(..);
            bent.truncate(random.usize(..=bent.len()));
            let Ok((record, note)) = Record::split(&bent.into()) else { continue };
            let _ = Head::open(&note, &book.verifier());
            let proven = prove(&book, &head, &Claim::Record(&record)).is_ok();
            assert_eq!(proven, record.id == whole.id && record.lines() == whole.lines());
        }
    }

    #[test]
    fn records_and_older_trees_are_proven_or_refuted() {
        let book = book(700);
        let head = open(&book, &book.head());
        assert!(prove(&book, &head, &Claim::Record(&record(&book, 0))).unwrap() >= 2);
        for size in [1, 255, 256, 257, 699, 700] {
            let older = open(&book, &book.head_at(size));
            assert!(prove(&book, &head, &Claim::Contains(&older)).is_ok(), "{size}");
        }
        let fork = Book::new("sum.test");
        fork.write("evil.example/m", "v1.0.0", "h1:evil", "h1:evil");
        fork.grow(800);
        let older = open(&fork, &fork.head_at(300));
        assert_eq!(prove(&book, &head, &Claim::Contains(&older)), Err(Outcome::Refuted));
        let evil = Record::split(&fork.record("evil.example/m@v1.0.0").unwrap()).unwrap().0;
        assert_eq!(prove(&book, &head, &Claim::Record(&evil)), Err(Outcome::Refuted));
        let early = open(&book, &book.head_at(300));
        assert_eq!(prove(&book, &early, &Claim::Record(&record(&book, 300))), Err(Outcome::Refuted));
        assert_eq!(prove(&fork, &head, &Claim::Record(&record(&book, 5))), Err(Outcome::WrongTiles));
    }

    #[test]
    fn no_tile_of_a_proof_goes_unchecked() {
        // 600 is 512 + 64 + 16 + 8: four subtrees in two tiles, where tlog_tiles alone checks nothing more.
        for size in [257, 300, 512, 600, 767] {
            let book = book(size);
            let head = open(&book, &book.head());
            let claim = Claim::Record(&record(&book, 77));
            let mut tiles = Tiles::default();
            while let Outcome::Missing(missing) = tiles.prove(&head, &claim) {
                missing.iter().for_each(|tile| tiles.add(*tile, book.tile(tile).unwrap().to_vec()));
            }
            for tile in tiles.held.keys().copied().collect::<Vec<_>>() {
                let right = tiles.held[&tile].clone();
                for at in [0, right.len() / 2, right.len() - 1] {
                    let mut bent = right.clone();
                    bent[at] ^= 1;
                    tiles.add(tile, bent);
                    assert_eq!(tiles.prove(&head, &claim), Outcome::WrongTiles, "{size} {} {at}", tile.path());
                }
                tiles.add(tile, right);
            }
        }
    }

    /// The same for every claim in a tree of three levels of tiles, where a tile's parent is itself whole
    /// and must fit its own.
    #[test]
    fn no_tile_of_any_claim_goes_unchecked_in_a_deep_tree() {
        let book = book(65_536 + 700);
        let (head, older) = (open(&book, &book.head()), open(&book, &book.head_at(300)));
        let (early, late) = (record(&book, 77), record(&book, 65_600));
        let inner = Tile::new(HEIGHT, 0, 3, 1 << HEIGHT, false);
        for claim in [Claim::Record(&early), Claim::Record(&late), Claim::Contains(&older), Claim::Tile(inner)] {
            let mut tiles = Tiles::default();
            let proven = loop {
                match tiles.prove(&head, &claim) {
                    Outcome::Missing(missing) => {
                        missing.iter().for_each(|tile| tiles.add(*tile, book.tile(tile).unwrap().to_vec()));
                    }
                    Outcome::Proven(proven) => break proven,
                    other => panic!("{claim:?}: {other:?}"),
                }
            };
            for tile in proven {
                let right = tiles.held[&tile].clone();
                for at in [0, right.len() / 2, right.len() - 1] {
                    let mut bent = right.clone();
                    bent[at] ^= 1;
                    tiles.add(tile, bent);
                    assert_eq!(tiles.prove(&head, &claim), Outcome::WrongTiles, "{claim:?} {} {at}", tile.path());
                }
                tiles.add(tile, right);
            }
        }
    }

    #[test]
    fn what_contains_an_older_tree_proves_all_that_it_proved() {
        // The law behind priming: with the tiles of each record under the old head, and those of
        // `Contains` under the new one, every record's proof under the new head is complete.
        let book = book(1_000);
        for (old, new) in [(1, 2), (200, 256), (250, 300), (256, 999), (700, 768), (767, 1_000)] {
            let (older, newer) = (open(&book, &book.head_at(old)), open(&book, &book.head_at(new)));
            let mut tiles = Tiles::default();
            let mut fill = |head: &Head, claim: &Claim<'_>| loop {
                match tiles.prove(head, claim) {
                    Outcome::Missing(missing) => {
                        missing.iter().for_each(|tile| tiles.add(*tile, book.tile(tile).unwrap().to_vec()));
                    }
                    outcome => return outcome,
                }
            };
            let asked: Vec<u64> = (0..old).step_by(37).chain([old - 1]).collect();
            for &number in &asked {
                assert!(matches!(fill(&older, &Claim::Record(&record(&book, number))), Outcome::Proven(_)));
            }
            assert!(matches!(fill(&newer, &Claim::Contains(&older)), Outcome::Proven(_)));
            for number in asked {
                let outcome = tiles.prove(&newer, &Claim::Record(&record(&book, number)));
                assert!(matches!(outcome, Outcome::Proven(_)), "{old} {new} {number}: {outcome:?}");
            }
        }
    }

    #[test]
    fn a_tile_is_as_wide_as_its_tree() {
        let book = book(700);
        let head = open(&book, &book.head());
        let widened = |path: &str| widen(&Tile::from_path(path).unwrap(), &head).map(|tile| tile.path());
        assert_eq!(widened("tile/8/0/000.p/7").as_deref(), Some("tile/8/0/000"));
        assert_eq!(widened("tile/8/0/002.p/7").as_deref(), Some("tile/8/0/002.p/188"));
        assert_eq!(widened("tile/8/1/000.p/2").as_deref(), Some("tile/8/1/000.p/2"));
        for beyond in [
            "tile/8/0/002",
            "tile/8/0/003.p/1",
            "tile/8/1/000.p/3",
            "tile/8/2/000.p/1",
            "tile/8/data/000",
            "tile/4/0/000",
            "tile/8/63/000",
            "tile/8/0/x018/x446/x744/x073/x709/x551/615",
        ] {
            assert_eq!(widened(beyond), None, "{beyond}");
        }
    }
}
