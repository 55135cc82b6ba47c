//! The checksum database as a go command reads it from `GOPROXY=file://<cache.dir>/download`.
//!
//! In our own pool records and the tree head lie apart, so that any record goes with the newest head
//! (`sumdb`). A file that go reads is an answer as it stands, so each record is set out joined with the head
//! that was pinned at that time, with the tiles beside it as second names of ours. Heads of several ages may
//! stand at the ends of these answers: every head that was ever pinned contains the one before it, proven by
//! tiles that are held, and whatever could be proven under the older one can be proven under the newer.
//!
//! These files are made of what is kept, so they have no note and are not synced. A power cut may empty or
//! lose some; nobody is served from them, `cache verify` finds them, and the next start sets out anew what is
//! missing or too short ([`catch_up`], which also takes in what an older goanyway or an import left apart).

use std::collections::HashMap;
use std::io;

use bytes::Bytes;

use super::examine::Ledger;
use super::log::{Head, Record};
use super::path::{Database, Module, Version};
use super::pools::TREE;
use super::sumdb::SumdbConfig;
use crate::cache::{Folder, Key};

/// Where one database is set out.
#[derive(Clone)]
pub struct Joined {
    folder: Folder,
    database: Database,
}

impl Joined {
    /// In this folder.
    pub fn new(folder: Folder, database: Database) -> Joined {
        Joined { folder, database }
    }

    /// Sets out a record, with a head that covers it and is pinned or was.
    pub fn set_record(&self, module: &Module, version: &Version, record: &Record, head: &Head) -> io::Result<()> {
        let rest = format!("lookup/{}@{}", module.escaped(), version.escaped());
        self.put(&rest, &[record.text.clone(), head.note.clone()].concat())
    }

    /// Sets out a tile that is kept.
    pub fn set_tile(&self, path: &str) -> io::Result<()> {
        match (self.place(path), Key::new(&format!("sumdb/{}/{path}", self.database))) {
            (Some(place), Some(kept)) => self.folder.set_out_same(&place, &kept),
            _ => Ok(()),
        }
    }

    /// Sets out the pinned head. go asks for `supported` first, and wants no more of it than that it is there.
    pub fn set_head(&self, note: &Bytes) -> io::Result<()> {
        self.put("latest", note)?;
        self.put("supported", b"")
    }

    fn put(&self, rest: &str, bytes: &[u8]) -> io::Result<()> {
        self.place(rest).map_or(Ok(()), |place| self.folder.set_out(&place, bytes))
    }

    fn place(&self, rest: &str) -> Option<Key> {
        Key::new(&format!("{TREE}/sumdb/{}/{rest}", self.database))
    }
}

/// Whether a file is one of those that are set out here.
pub fn is_set_out(key: &Key) -> bool {
    key.as_str().strip_prefix(TREE).is_some_and(|rest| rest.starts_with("/sumdb/"))
}

/// Sets out what is kept of a database and is not there yet, or not whole. Tiles come first: whoever finds a
/// record finds what proves it. How many files it was.
pub fn catch_up(folder: &Folder, config: &SumdbConfig) -> io::Result<u64> {
    let Some(ledger) = Ledger::kept(folder, config) else { return Ok(0) };
    let Some(head) = ledger.head.clone() else { return Ok(0) };
    let joined = Joined::new(folder.clone(), config.name.clone());
    let below = |root: &str| Key::new(root).map(|key| folder.files_below(&key)).unwrap_or_default();
    let (kept, out) = (format!("sumdb/{}", config.name), format!("{TREE}/sumdb/{}", config.name));
    let strip = |key: &Key, root: &str| key.as_str().strip_prefix(root).map(|rest| rest[1..].to_owned());
    let there: HashMap<String, u64> =
        below(&out).into_iter().filter_map(|(key, size)| Some((strip(&key, &out)?, size))).collect();
    let (mut tiles, mut records) = (Vec::new(), Vec::new());
    for (key, size) in below(&kept) {
        let Some(rest) = strip(&key, &kept) else { continue };
        match there.get(&rest) {
            Some(set_out) if rest.starts_with("tile/") && *set_out == size => {}
            _ if rest.starts_with("tile/") => tiles.push(rest),
            // Joined with a head it is longer than the record.
            Some(set_out) if *set_out > size => {}
            _ if rest.starts_with("lookup/") => records.push(key),
            _ => {}
        }
    }
    let mut done = 0;
    for tile in tiles {
        joined.set_tile(&tile)?;
        done += 1;
    }
    for key in records {
        let Some((module, version)) = about(&key) else { continue };
        let Some(record) = ledger.record(&module, &version).filter(|record| record.id < head.size) else { continue };
        joined.set_record(&module, &version, &record, &head)?;
        done += 1;
    }
    if there.get("latest").is_none_or(|size| *size == 0) || !there.contains_key("supported") {
        joined.set_head(&head.note)?;
    }
    Ok(done)
}

fn about(key: &Key) -> Option<(Module, Version)> {
    match super::places::read(key.as_str())? {
        super::path::ModuleRequest::SumLookup { module, version, .. } => Some((module, version)),
        _ => None,
    }
}
