//! A checksum database with a signed log, answered from memory, and a mirror that passes it on.

use super::mirror::files;
use super::origin::{Origin, text};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};
use signed_note::{Note, Signer, StandardSigner};
use std::io::Read;

use tlog_tiles::{Error, Hash, HashReader, Tile, stored_hash_count, stored_hashes, tree_hash};

/// The key pair in the documentation of x/mod/sumdb/note.
const SECRET: &str = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
const PUBLIC: &str = "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";

pub struct Book {
    name: String,
    records: Vec<(String, String)>,
    hashes: Vec<Hash>,
}

struct Stored<'a>(&'a [Hash]);

impl HashReader for Stored<'_> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, Error> {
        Ok(indexes.iter().map(|&index| self.0[index as usize]).collect())
    }
}

impl Book {
    /// A log of that many records that nobody asks for.
    pub fn new(name: &str, fillers: usize) -> Book {
        let mut book = Book { name: name.to_owned(), records: Vec::new(), hashes: Vec::new() };
        for number in 0..fillers {
            book.write(&format!("filler.example/m{number}"), "v1.0.0", "h1:zip", "h1:mod");
        }
        book
    }

    pub fn write(&mut self, module: &str, version: &str, zip: &str, go_mod: &str) {
        let lines = format!("{module} {version} {zip}\n{module} {version}/go.mod {go_mod}\n");
        let id = self.records.len() as u64;
        let hashes = stored_hashes(id, lines.as_bytes(), &Stored(&self.hashes)).unwrap();
        self.hashes.extend(hashes);
        self.records.push((format!("{module}@{version}"), lines));
        assert_eq!(self.hashes.len() as u64, stored_hash_count(id + 1));
    }

    fn id(&self) -> String {
        format!("{:08x}", signed_note::key_id(&self.name, &BASE64_STANDARD.decode(PUBLIC).unwrap()))
    }

    /// `NAME+ID+KEY`, as GOSUMDB has it.
    pub fn key(&self) -> String {
        format!("{}+{}+{PUBLIC}", self.name, self.id())
    }

    fn head(&self) -> Vec<u8> {
        let size = self.records.len() as u64;
        let hash = tree_hash(size, &Stored(&self.hashes)).unwrap();
        let mut note = Note::new(format!("go.sum database tree\n{size}\n{hash}\n").as_bytes(), &[]).unwrap();
        let secret = format!("PRIVATE+KEY+{}+{}+{SECRET}", self.name, self.id());
        note.add_sigs(&[&StandardSigner::new(&secret).unwrap() as &dyn Signer]).unwrap();
        note.to_bytes()
    }

    /// Answers a path below a mirror: `/sumdb/NAME/…`.
    pub fn answer(&self, path: &str) -> Option<Vec<u8>> {
        let rest = path.strip_prefix(&format!("/sumdb/{}/", self.name))?;
        match rest {
            "supported" => return Some(Vec::new()),
            "latest" => return Some(self.head()),
            _ => {}
        }
        if let Some(name) = rest.strip_prefix("lookup/") {
            let id = self.records.iter().position(|(other, _)| other == name)?;
            return Some([format!("{id}\n{}\n", self.records[id].1).into_bytes(), self.head()].concat());
        }
        let tile = Tile::from_path(rest).ok()?;
        let last = ((tile.level_index() << 8) + u64::from(tile.width())) << (tile.level() * 8);
        (last <= self.records.len() as u64).then(|| tile.read_data(&Stored(&self.hashes)).unwrap())
    }
}

/// dirhash.Hash1 of these files.
pub fn h1(files: &[(String, Vec<u8>)]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut lines: Vec<(&String, String)> =
        files.iter().map(|(name, text)| (name, hex(&Sha256::digest(text)))).collect();
    lines.sort();
    let text: String = lines.iter().map(|(name, digest)| format!("{digest}  {name}\n")).collect();
    format!("h1:{}", BASE64_STANDARD.encode(Sha256::digest(text)))
}

/// The same of a zip's entries.
pub fn h1_of_zip(zip: &[u8]) -> String {
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(zip)).unwrap();
    let entries = (0..archive.len()).map(|index| {
        let mut entry = archive.by_index(index).unwrap();
        let mut text = Vec::new();
        entry.read_to_end(&mut text).unwrap();
        (String::from_utf8(entry.name_raw().to_vec()).unwrap(), text)
    });
    h1(&entries.collect::<Vec<_>>())
}

/// A mirror of one version, and the key of the database of that name that it passes on. The database's own
/// place refuses (discard, port 9).
pub async fn recorded(module: &str, version: &str) -> (Origin, String) {
    let files = files(module, &[version]);
    let file = |kind: &str| files[&format!("/{module}/@v/{version}.{kind}")].to_vec();
    let mut book = Book::new("127.0.0.1:9/sum", 300);
    book.write(module, version, &h1_of_zip(&file("zip")), &h1(&[("go.mod".to_owned(), file("mod"))]));
    let key = book.key();
    let mirror = Origin::plain(move |heard| match files.get(heard.uri.as_str()) {
        Some(bytes) => text(200, bytes.clone()),
        None => book.answer(&heard.uri).map_or_else(|| text(404, "not found"), |bytes| text(200, bytes)),
    });
    (mirror.await, key)
}
