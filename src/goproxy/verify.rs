//! Is it what it should be? The sums of go.mod files and zips, the shape of a module zip, and
//! whether `.info`, `@latest` and `list` say what such answers say.
//!
//! [`check_zip`] reads hundreds of megabytes and inflates them: it belongs on `spawn_blocking`.
//! What the right sum is, the checksum database says (`sumdb.rs`); here is only arithmetic.

use std::collections::HashMap;
use std::io::{BufReader, Read, Seek, SeekFrom};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use super::path::{Module, Version, check_file_element};
use super::version;

/// The go command refuses a zip that is larger, packed or unpacked (x/mod/zip, MaxZipFile).
pub const MAX_ZIP: u64 = 500 << 20;
/// A go.mod or LICENSE inside a zip may be this long (x/mod/zip, MaxGoMod and MaxLICENSE).
pub const MAX_GO_MOD: u64 = 16 << 20;

/// What a zip may hold in entries, each of which takes some 500 bytes of memory while it is read: ten
/// times what the largest modules have.
const MOST_ENTRIES: u64 = 1 << 19;
/// The least that an entry takes in a zip's directory, which begins with this.
const ENTRY: u64 = 46;
const ENTRY_MARK: [u8; 4] = *b"PK\x01\x02";
/// How much of a file is read at once.
const AHEAD: usize = 256 << 10;

/// What was found out about a zip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Its h1 sum, if it could be read to the end.
    pub sum: Option<String>,
    /// What is wrong with its shape, first thing first.
    pub fault: Option<String>,
}

/// The h1 sum of a go.mod file, as go.sum has it under `VERSION/go.mod` (modfetch.goModSum).
pub fn hash_mod(text: &[u8]) -> String {
    let mut sum = Sha256::new();
    add_line(&mut sum, &Sha256::digest(text), b"go.mod");
    finish(sum)
}

/// Reads a module zip to its end: shape by x/mod/zip (checkZip), CRCs, and dirhash.Hash1.
pub fn check_zip(reader: impl Read + Seek, length: u64, module: &Module, version: &Version) -> Checked {
    let unreadable = |fault: String| Checked { sum: None, fault: Some(fault) };
    if length > MAX_ZIP {
        return unreadable(format!("the zip has {length} bytes; the limit is {MAX_ZIP}"));
    }
    let mut reader = Near::new(reader);
    match begins_as_page(&mut reader) {
        Ok(false) => {}
        Ok(true) => return unreadable(PAGE.to_owned()),
        Err(why) => return unreadable(why.to_string()),
    }
    match has_too_many(&mut reader, length) {
        Ok(false) => {}
        Ok(true) => return unreadable(format!("the zip has more than {MOST_ENTRIES} entries")),
        Err(why) => return unreadable(why.to_string()),
    }
    let mut archive = match zip::ZipArchive::new(reader) {
        Ok(archive) => archive,
        Err(why) => return unreadable(format!("not a zip: {why}")),
    };
    if archive.has_duplicate_names() {
        return unreadable("two entries have the same name".to_owned());
    }
    let entries = match list_entries(&archive) {
        Ok(entries) => entries,
        Err(why) => return unreadable(why),
    };
    let fault = judge_shape(&entries, &format!("{module}@{version}/")).err();
    match hash_entries(&mut archive, entries) {
        Ok(sum) => Checked { sum: Some(sum), fault },
        Err(why) => unreadable(fault.unwrap_or(why)),
    }
}

/// Whether an `.info` says what such a file says: JSON, and of the version that was asked for where
/// that was a canonical one. A pseudo-version names its own time, which must agree.
pub fn judge_info(text: &[u8], asked: Option<&Version>) -> Result<(), String> {
    #[derive(serde::Deserialize)]
    struct Info {
        #[serde(rename = "Version")]
        version: String,
        #[serde(rename = "Time")]
        time: Option<String>,
    }
    if is_page(text) {
        return Err(PAGE.to_owned());
    }
    let info: Info = serde_json::from_slice(text).map_err(|why| format!("not a version in JSON: {why}"))?;
    if !version::is_valid(&info.version) {
        return Err(format!("its version {:?} is none", info.version));
    }
    let Some(asked) = asked.filter(|asked| asked.is_canonical()) else { return Ok(()) };
    if info.version != asked.as_str() {
        return Err(format!("it is about {}, not {asked}", info.version));
    }
    match (version::pseudo_time(asked.as_str()), info.time) {
        (Some(named), Some(time)) if !same_second(&named, &time) => Err(format!("its time {time} is not {named}")),
        _ => Ok(()),
    }
}

/// The same but for the time: a mirror may well say another one than the name, and go does not mind.
pub fn judge_info_loosely(text: &[u8], asked: &Version) -> Result<(), String> {
    judge_info(text, None)?;
    let info: serde_json::Value = serde_json::from_slice(text).map_err(|why| why.to_string())?;
    match info.get("Version").and_then(serde_json::Value::as_str) {
        Some(version) if asked.is_canonical() && version != asked.as_str() => {
            Err(format!("it is about {version}, not {asked}"))
        }
        _ => Ok(()),
    }
}

/// Whether this may be a list: text, and if there is anything in it, at least one version.
pub fn judge_list(text: &[u8]) -> Result<(), String> {
    if is_page(text) {
        return Err(PAGE.to_owned());
    }
    let text = std::str::from_utf8(text).map_err(|_| "not text".to_owned())?;
    let mut lines = text.lines().filter(|line| !line.trim().is_empty()).peekable();
    if lines.peek().is_none() || lines.any(|line| listed_version(line).is_some()) {
        Ok(())
    } else {
        Err("no line of it is a version".to_owned())
    }
}

/// The version that a line of a list names; a time may follow it.
pub fn listed_version(line: &str) -> Option<&str> {
    line.split_whitespace().next().filter(|first| version::is_valid(first))
}

/// What is wrong with the answer of a portal, which says 200 to everything.
pub const PAGE: &str = "it is a web page";

/// Whether this is a web page: nothing that go asks for begins as one.
pub fn is_page(text: &[u8]) -> bool {
    text.trim_ascii_start().first() == Some(&b'<')
}

/// Whether this may be a go.mod. None need parse, go has its own words for that; but a web page or
/// nothing at all is some server's accident.
pub fn judge_mod(text: &[u8]) -> Result<(), String> {
    match text.trim_ascii() {
        b"" => Err("it is empty".to_owned()),
        page if is_page(page) => Err(PAGE.to_owned()),
        _ => Ok(()),
    }
}

fn begins_as_page(reader: &mut (impl Read + Seek)) -> std::io::Result<bool> {
    let mut first = Vec::new();
    reader.by_ref().take(64).read_to_end(&mut first)?;
    reader.rewind()?;
    Ok(is_page(&first))
}

/// Whether there are more entries than may be held in memory, before anybody holds them: as many as there
/// are marks of one, whatever the zip says.
fn has_too_many(reader: &mut (impl Read + Seek), length: u64) -> std::io::Result<bool> {
    if length < MOST_ENTRIES * ENTRY {
        return Ok(false);
    }
    let (mut marks, mut last) = (0, [0; 4]);
    let mut piece = vec![0; AHEAD];
    loop {
        let read = reader.read(&mut piece)?;
        for &byte in &piece[..read] {
            last = [last[1], last[2], last[3], byte];
            marks += u64::from(last == ENTRY_MARK);
        }
        if read == 0 || marks > MOST_ENTRIES {
            break;
        }
    }
    reader.rewind()?;
    Ok(marks > MOST_ENTRIES)
}

/// A buffered reader that keeps what it has read ahead when the next seek is a short one. The entries of
/// a zip lie side by side, and each is sought; std's own buffer begins anew with every seek.
struct Near<R> {
    inner: BufReader<R>,
    at: u64,
}

impl<R: Read + Seek> Near<R> {
    fn new(reader: R) -> Near<R> {
        Near { inner: BufReader::with_capacity(AHEAD, reader), at: 0 }
    }
}

impl<R: Read + Seek> Read for Near<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(into)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl<R: Read + Seek> Seek for Near<R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let by = match to {
            SeekFrom::Start(to) => i64::try_from(i128::from(to) - i128::from(self.at)).ok(),
            SeekFrom::Current(by) => Some(by),
            SeekFrom::End(_) => None,
        };
        match by.and_then(|by| Some((by, self.at.checked_add_signed(by)?))) {
            Some((by, at)) => {
                self.inner.seek_relative(by)?;
                self.at = at;
            }
            None => self.at = self.inner.seek(to)?,
        }
        Ok(self.at)
    }
}

struct Entry {
    name: Vec<u8>,
    size: u64,
    index: usize,
}

fn list_entries<R: Read + Seek>(archive: &zip::ZipArchive<R>) -> Result<Vec<Entry>, String> {
    let entry = |index| {
        let entry = archive.by_index_data(index).map_err(|why| format!("entry {index}: {why}"))?;
        Ok(Entry { name: entry.name_raw().to_vec(), size: entry.size(), index })
    };
    (0..archive.len()).map(entry).collect()
}

/// x/mod/zip, checkZip: names below the prefix, clean, portable and without collisions; sizes.
fn judge_shape(entries: &[Entry], prefix: &str) -> Result<(), String> {
    let mut seen = HashMap::new();
    let mut room = MAX_ZIP;
    for entry in entries {
        let full = std::str::from_utf8(&entry.name).map_err(|_| "a name is not UTF-8".to_owned())?;
        let name = full.strip_prefix(prefix).ok_or_else(|| format!("{full:?} is not below {prefix}"))?;
        if name.is_empty() {
            continue;
        }
        let (path, is_dir) = name.strip_suffix('/').map_or((name, false), |dir| (dir, true));
        path.split('/').try_for_each(check_file_element).map_err(|why| format!("{full:?}: {why}"))?;
        note_name(&mut seen, path, is_dir)?;
        if is_dir {
            continue;
        }
        judge_go_mod_place(path)?;
        room = room.checked_sub(entry.size).ok_or_else(|| format!("it unpacks to more than {MAX_ZIP} bytes"))?;
        if matches!(path, "go.mod" | "LICENSE") && entry.size > MAX_GO_MOD {
            return Err(format!("{path} has {} bytes; the limit is {MAX_GO_MOD}", entry.size));
        }
    }
    Ok(())
}

fn judge_go_mod_place(path: &str) -> Result<(), String> {
    let base = path.rsplit('/').next().unwrap_or(path);
    if base.eq_ignore_ascii_case("go.mod") && path != "go.mod" {
        return Err(format!("{path:?}: a go.mod lies at the top, in lower case"));
    }
    Ok(())
}

/// x/mod/zip, collisionChecker: no two names that fold to one, no file that is also a folder.
fn note_name<'a>(seen: &mut HashMap<String, (&'a str, bool)>, path: &'a str, is_dir: bool) -> Result<(), String> {
    let parents = path.match_indices('/').map(|(at, _)| (&path[..at], true));
    for (name, is_dir) in parents.chain([(path, is_dir)]) {
        match seen.insert(name.to_lowercase(), (name, is_dir)) {
            Some((other, _)) if other != name => return Err(format!("{name:?} and {other:?} differ in case alone")),
            Some((_, other_dir)) if other_dir != is_dir => return Err(format!("{name:?} is a file and a folder")),
            Some((_, false)) => return Err(format!("{name:?} is there twice")),
            _ => {}
        }
    }
    Ok(())
}

/// dirhash.Hash1 over all entries, in the order of their names as bytes.
fn hash_entries<R: Read + Seek>(archive: &mut zip::ZipArchive<R>, mut entries: Vec<Entry>) -> Result<String, String> {
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    let mut sum = Sha256::new();
    let mut room = MAX_ZIP;
    let mut piece = vec![0; 64 << 10];
    for entry in entries {
        if entry.name.contains(&b'\n') {
            return Err("a name has a line break in it".to_owned());
        }
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        let file = archive.by_index(entry.index).map_err(|why| format!("{name:?}: {why}"))?;
        let digest = hash_file(file, &mut piece, &mut room).map_err(|why| format!("{name:?}: {why}"))?;
        add_line(&mut sum, &digest, &entry.name);
    }
    Ok(finish(sum))
}

/// The digest of one entry; its CRC is checked at its end. What is unpacked counts against `room`,
/// since a declared size may lie.
fn hash_file(mut file: impl Read, piece: &mut [u8], room: &mut u64) -> Result<[u8; 32], std::io::Error> {
    let mut digest = Sha256::new();
    loop {
        let read = file.read(piece)?;
        if read == 0 {
            return Ok(digest.finalize().into());
        }
        *room = room
            .checked_sub(read as u64)
            .ok_or_else(|| std::io::Error::other(format!("it unpacks to more than {MAX_ZIP} bytes")))?;
        digest.update(&piece[..read]);
    }
}

/// One line of what h1 is the hash of: the digest in hexadecimal, two spaces, the name.
fn add_line(sum: &mut Sha256, digest: &(impl AsRef<[u8]> + ?Sized), name: &[u8]) {
    for byte in digest.as_ref() {
        sum.update(format!("{byte:02x}"));
    }
    sum.update(b"  ");
    sum.update(name);
    sum.update(b"\n");
}

fn finish(sum: Sha256) -> String {
    format!("h1:{}", BASE64_STANDARD.encode(sum.finalize()))
}

/// Whether an RFC 3339 time is that second in UTC.
fn same_second(named: &str, time: &str) -> bool {
    match (named.parse::<jiff::Timestamp>(), time.parse::<jiff::Timestamp>()) {
        (Ok(named), Ok(time)) => named.as_second() == time.as_second(),
        // A time that is none is go's to complain about.
        _ => true,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Cursor, Write};

    use super::*;

    fn module() -> Module {
        Module::new("example.com/m").unwrap()
    }

    fn v1() -> Version {
        Version::new("v1.0.0").unwrap()
    }

    /// A zip of these entries; a name that ends in a slash is a folder.
    pub(crate) fn zipped(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, text) in entries {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(text.as_bytes()).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn checked(bytes: &[u8]) -> Checked {
        check_zip(Cursor::new(bytes), bytes.len() as u64, &module(), &v1())
    }

    #[test]
    fn sums_are_those_of_go() {
        // As go.sum of many a project has it.
        let go_mod = b"module \"rsc.io/quote\"\n\nrequire \"rsc.io/sampler\" v1.3.0\n";
        assert_eq!(hash_mod(go_mod), "h1:LzX7hefJvL54yjefDEDHNONDjII0t9xZLPXsUe+TKr0=");
        assert_eq!(hash_mod(b"module example.com/m\n"), sum_by_hand(&[("go.mod", "module example.com/m\n")]));
        let entries = [("example.com/m@v1.0.0/b.go", "package b\n"), ("example.com/m@v1.0.0/a.go", "package a\n")];
        assert_eq!(checked(&zipped(&entries)), Checked { sum: Some(sum_by_hand(&entries)), fault: None });
    }

    fn sum_by_hand(files: &[(&str, &str)]) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut lines: Vec<(&str, String)> =
            files.iter().map(|(name, text)| (*name, hex(&Sha256::digest(text)))).collect();
        lines.sort();
        let text: String = lines.iter().map(|(name, digest)| format!("{digest}  {name}\n")).collect();
        format!("h1:{}", BASE64_STANDARD.encode(Sha256::digest(text)))
    }

    #[test]
    fn a_zip_of_another_shape_is_found_out() {
        let table: [(&[(&str, &str)], &str); 9] = [
            (&[("example.com/m@v1.0.1/a.go", "")], "is not below"),
            (&[("example.com/m@v1.0.0/../a.go", "")], "dots"),
            (&[("/etc/passwd", "")], "is not below"),
            (&[("example.com/m@v1.0.0/a.go", ""), ("example.com/m@v1.0.0/A.go", "")], "case alone"),
            (&[("example.com/m@v1.0.0/a", ""), ("example.com/m@v1.0.0/a/b", "")], "a file and a folder"),
            (&[("example.com/m@v1.0.0/sub/go.mod", "")], "lies at the top"),
            (&[("example.com/m@v1.0.0/GO.MOD", "")], "lies at the top"),
            (&[("example.com/m@v1.0.0/aux.go", "")], "reserved"),
            (&[("example.com/m@v1.0.0/a//b", "")], "empty component"),
        ];
        for (entries, want) in table {
            let found = checked(&zipped(entries));
            assert!(found.fault.as_deref().is_some_and(|fault| fault.contains(want)), "{entries:?}: {found:?}");
        }
    }

    #[test]
    fn a_malformed_zip_still_has_a_sum_if_it_can_be_read() {
        let entries = [("elsewhere/a.go", "package a\n")];
        let found = checked(&zipped(&entries));
        assert_eq!(found.sum, Some(sum_by_hand(&entries)));
        assert!(found.fault.is_some());
    }

    #[test]
    fn what_is_no_zip_has_neither_shape_nor_sum() {
        for bytes in [&b""[..], b"<html>busy</html>", &zipped(&[("example.com/m@v1.0.0/a.go", "x")])[..40]] {
            assert!(matches!(checked(bytes), Checked { sum: None, fault: Some(_) }));
        }
    }

    #[test]
    fn a_flipped_bit_is_found_by_the_crc() {
        let text = "package a // and some more text to be packed\n".repeat(20);
        let whole = zipped(&[("example.com/m@v1.0.0/a.go", &text)]);
        let right = checked(&whole);
        let data = 30 + "example.com/m@v1.0.0/a.go".len();
        let directory = whole.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
        assert!(directory > data + 20);
        let mut found = 0;
        for at in data..directory {
            let mut bent = whole.clone();
            bent[at] ^= 0x10;
            let bent = checked(&bent);
            // The last bits of a deflate stream are padding: what is unpacked is then the same.
            assert!(bent == right || bent.sum.is_none(), "byte {at}");
            found += usize::from(bent.sum.is_none());
        }
        assert!(found + 2 >= directory - data, "{found} of {}", directory - data);
    }

    #[test]
    fn no_bytes_make_the_reader_panic_or_run_away() {
        let whole =
            zipped(&[("example.com/m@v1.0.0/a.go", "package a\n"), ("example.com/m@v1.0.0/b.go", "package b\n")]);
        let right = checked(&whole).sum;
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..3_000 {
            let mut bent = whole.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bent.len());
                bent[at] = random.u8(..);
            }
            bent.truncate(random.usize(bent.len() / 2..=bent.len()));
            let found = checked(&bent);
            assert!(found.sum.is_some() || found.fault.is_some());
            assert!(found.sum == right || found.sum.is_none() || bent.len() == whole.len(), "cut, and yet a sum");
        }
    }

    /// Forty bytes of a hostile zip became 500 of memory: 500 MiB of entries without content took 1.9 GB.
    #[test]
    fn more_entries_than_memory_may_hold_are_refused_before_they_are_read() {
        let count = MOST_ENTRIES as usize + 1;
        let mut bytes = Vec::with_capacity((count + 1) * ENTRY as usize);
        for _ in 0..count {
            bytes.extend_from_slice(&ENTRY_MARK);
            bytes.resize(bytes.len() + ENTRY as usize - 4, 0);
        }
        assert!(checked(&bytes).fault.unwrap().contains("more than"));
        bytes.truncate(bytes.len() - ENTRY as usize);
        bytes.extend_from_slice(&[0; ENTRY as usize]);
        assert!(checked(&bytes).fault.unwrap().contains("not a zip"));
    }

    /// Every entry is sought, and every seek read a quarter of a megabyte anew: a zip of 20,000 small files
    /// read 5 GB to be hashed.
    #[test]
    fn a_zip_of_many_files_is_read_about_once() {
        struct Counted<'a>(Cursor<&'a [u8]>, &'a std::cell::Cell<u64>);
        impl Read for Counted<'_> {
            fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
                let read = self.0.read(into)?;
                self.1.set(self.1.get() + read as u64);
                Ok(read)
            }
        }
        impl Seek for Counted<'_> {
            fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
                self.0.seek(to)
            }
        }
        let names: Vec<String> = (0..3_000).map(|number| format!("example.com/m@v1.0.0/f{number:04}.go")).collect();
        let text = "package m // the same again\n".repeat(20);
        let entries: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), text.as_str())).collect();
        let bytes = zipped(&entries);
        let (length, read) = (bytes.len() as u64, std::cell::Cell::new(0));
        let found = check_zip(Counted(Cursor::new(&bytes), &read), length, &module(), &v1());
        assert_eq!(found, Checked { sum: Some(sum_by_hand(&entries)), fault: None });
        assert!(read.get() < 4 * length + 8 * AHEAD as u64, "{} of {length}", read.get());
    }

    #[test]
    fn a_duplicate_is_found_although_the_last_one_wins() {
        // The writer refuses duplicates, so two names of one length are made the same afterwards.
        let bytes = zipped(&[("example.com/m@v1.0.0/a1.go", "x"), ("example.com/m@v1.0.0/a2.go", "y")]);
        let bytes = replace_all(bytes, b"a2.go", b"a1.go");
        assert_eq!(checked(&bytes).fault.as_deref(), Some("two entries have the same name"));
    }

    fn replace_all(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
        for at in 0..bytes.len() - from.len() {
            if bytes[at..].starts_with(from) {
                bytes[at..at + to.len()].copy_from_slice(to);
            }
        }
        bytes
    }

    #[test]
    fn info_is_about_the_version_asked_for() {
        let judge = |text: &str, asked: &str| judge_info(text.as_bytes(), Some(&Version::new(asked).unwrap()));
        assert!(judge(r#"{"Version":"v1.0.0","Time":"2019-01-01T00:00:00Z"}"#, "v1.0.0").is_ok());
        assert!(judge(r#"{"Version":"v1.0.0"}"#, "v1.0.0").is_ok());
        assert!(judge(r#"{"Version":"v1.0.1"}"#, "v1.0.0").is_err());
        assert!(judge(r#"{"Version":"v1.0.1"}"#, "master").is_ok());
        assert!(judge(r#"{"Version":"master"}"#, "master").is_err());
        assert!(judge("<html>", "v1.0.0").is_err());
        assert!(judge("", "v1.0.0").is_err());
    }

    #[test]
    fn a_pseudo_version_has_the_time_that_it_says() {
        let asked = Version::new("v0.0.0-20190510104115-cbcb75029529").unwrap();
        let judge = |time: &str| {
            judge_info(format!(r#"{{"Version":"{asked}","Time":"{time}"}}"#).as_bytes(), Some(&asked)).is_ok()
        };
        assert!(judge("2019-05-10T10:41:15Z"));
        assert!(judge("2019-05-10T12:41:15+02:00"));
        assert!(!judge("2019-05-10T10:41:16Z"));
    }

    #[test]
    fn a_list_has_versions_in_it_or_nothing() {
        for good in ["", "\n", "v1.0.0\nv1.1.0\n", "v1.0.0 2019-01-01T00:00:00Z\n", "odd\nv1.0.0\n"] {
            assert!(judge_list(good.as_bytes()).is_ok(), "{good:?}");
        }
        for bad in [&b"<!doctype html>"[..], b"not found", b"\xff\xfe"] {
            assert!(judge_list(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_web_page_is_no_go_mod() {
        assert!(judge_mod(b"module x\n").is_ok());
        assert!(judge_mod(b"// no directive at all\n").is_ok());
        assert!(judge_mod(b"\n<html>").is_err());
        assert!(judge_mod(b"").is_err());
    }
}
