//! What outlives the process: addresses that a verified handshake vouched for, and names that were
//! learnt to be private. Both for 30 days since they were last seen.
//!
//! One file of JSON lines in the state folder, written aside and renamed, at most every ten
//! seconds and when the resolver ends. Several processes may share the folder: what the file holds
//! is joined before it is replaced. A damaged file is set aside and said; what could be read of it
//! is used. A file of a newer layout is refused, and left as it is.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::target::Name;

/// The version of the file that we write.
const LAYOUT: u32 = 1;
const FILE: &str = "names.jsonl";
const KEPT_FOR: u64 = 30 * 24 * 60 * 60;
const MOST_NAMES: usize = 10_000;
const MOST_ADDRESSES: usize = 16;
/// Sites have more names than anybody vouches for, and one that is forgotten may be told outside.
const MOST_PRIVATE: usize = 65_536;
/// Search lists are short, and one that is forgotten gives a whole site away.
const MOST_SUFFIXES: usize = 1024;
/// Twice what all of it takes: 10,000 names of 253 bytes with 16 addresses of some 80, and 66,560
/// private names with some 50 bytes more.
const LONGEST: u64 = 72 << 20;
/// September 2020, before there was a goanyway.
const CLOCK_IS_SET: Wall = 1_600_000_000;
/// What is learnt again within this time is not worth a write.
const FINE_ENOUGH: u64 = 60 * 60;

/// Seconds since 1970.
pub(super) type Wall = u64;

/// The lasting memory of one resolver.
pub(super) struct Keep {
    path: Option<PathBuf>,
    // Locked for a few lines; the file is written from a copy.
    book: Mutex<Book>,
    dirty: AtomicBool,
}

struct Book {
    good: LruCache<Name, Vec<Vouched>>,
    /// Names that a system server gave a private address.
    private: LruCache<Name, Wall>,
    /// What stood in a search list; apart, so that no number of names makes these forgotten.
    suffixes: LruCache<Name, Wall>,
    /// Addresses that were refuted, and when: whatever the file has of them from before goes.
    refuted: LruCache<(Name, IpAddr), Wall>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Vouched {
    address: IpAddr,
    at: Wall,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Layout(u32),
    Good {
        name: Name,
        addresses: Vec<Vouched>,
    },
    Private {
        name: Name,
        at: Wall,
        /// It stood in a search list.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        suffix: bool,
    },
}

impl Default for Book {
    fn default() -> Book {
        let room = |most| NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        Book {
            good: LruCache::new(room(MOST_NAMES)),
            private: LruCache::new(room(MOST_PRIVATE)),
            suffixes: LruCache::new(room(MOST_SUFFIXES)),
            refuted: LruCache::new(room(MOST_NAMES)),
        }
    }
}

impl Book {
    /// The entry that makes a name private: its own, or that of a name that it is under.
    fn covering(&self, name: &Name, wall: Wall) -> Option<(Name, bool)> {
        if self.private.is_empty() && self.suffixes.is_empty() {
            return None;
        }
        let is_live =
            |book: &LruCache<Name, Wall>, parent: &str| book.peek(parent).is_some_and(|at| is_live(*at, wall));
        let mut parents = std::iter::successors(Some(name.as_str()), |rest| rest.split_once('.').map(|(_, rest)| rest));
        parents.find_map(|parent| {
            let suffix = is_live(&self.suffixes, parent);
            let entry = (suffix || is_live(&self.private, parent)).then(|| Name::parse(parent).ok())?;
            Some((entry?, suffix))
        })
    }

    fn private(&mut self, suffix: bool) -> &mut LruCache<Name, Wall> {
        if suffix { &mut self.suffixes } else { &mut self.private }
    }
}

impl Keep {
    /// Reads what an earlier process left in the folder.
    pub(super) fn open(folder: Option<&Path>) -> Result<Keep, Error> {
        let mut book = Book::default();
        let path = folder.map(|folder| folder.join(FILE));
        let mut is_damaged = false;
        if let Some(path) = &path {
            is_damaged = load(path, &mut book)?;
        }
        // What could be read of a damaged file is in no file now.
        Ok(Keep { path, book: Mutex::new(book), dirty: AtomicBool::new(is_damaged) })
    }

    /// The addresses of a name that a handshake vouched for, the latest first.
    pub(super) fn good(&self, name: &Name, wall: Wall) -> Vec<IpAddr> {
        let mut book = self.book();
        let Some(vouched) = book.good.get(name) else { return Vec::new() };
        let mut live: Vec<Vouched> = vouched.iter().copied().filter(|one| is_live(one.at, wall)).collect();
        live.sort_by_key(|one| std::cmp::Reverse(one.at));
        live.into_iter().map(|one| one.address).collect()
    }

    /// A handshake vouched for this address of this name.
    pub(super) fn note_good(&self, name: &Name, address: IpAddr, wall: Wall) {
        let mut book = self.book();
        if let Some(vouched) = book.good.get_mut(name) {
            vouched.retain(|one| is_live(one.at, wall));
        }
        if add_good(&mut book, name, Vouched { address, at: wall }) {
            self.dirty.store(true, Ordering::Relaxed);
        }
    }

    /// An address turned out to be somebody else's.
    pub(super) fn forget_good(&self, name: &Name, address: IpAddr, wall: Wall) {
        let mut book = self.book();
        if let Some(vouched) = book.good.get_mut(name) {
            vouched.retain(|one| one.address != address);
            book.refuted.put((name.clone(), address), wall);
            self.dirty.store(true, Ordering::Relaxed);
        }
    }

    /// A name, and with it all names under it, turned out to be the site's own.
    pub(super) fn note_private(&self, name: &Name, wall: Wall) {
        let mut book = self.book();
        // Seen again is what covers it already, so that a site of any size takes few entries.
        let (entry, suffix) = book.covering(name, wall).unwrap_or_else(|| (name.clone(), false));
        self.see_private(&mut book, &entry, suffix, wall);
    }

    /// All names under what stands in a search list are the site's own.
    pub(super) fn note_suffix(&self, suffix: &Name, wall: Wall) {
        self.see_private(&mut self.book(), suffix, true, wall);
    }

    /// What stood in a search list within the time that is remembered.
    pub(super) fn suffixes(&self, wall: Wall) -> Vec<Name> {
        let book = self.book();
        book.suffixes.iter().filter(|(_, at)| is_live(**at, wall)).map(|(suffix, _)| suffix.clone()).collect()
    }

    fn see_private(&self, book: &mut Book, name: &Name, suffix: bool, wall: Wall) {
        let lapsed = book.private(suffix).peek(name).is_some_and(|at| !is_live(*at, wall));
        if lapsed {
            book.private(suffix).pop(name);
        }
        if add_private(book.private(suffix), name, wall) {
            self.dirty.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the name, or one that it is under, was learnt to be private.
    pub(super) fn is_private(&self, name: &Name, wall: Wall) -> bool {
        self.book().covering(name, wall).is_some()
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.path.is_some() && self.dirty.load(Ordering::Relaxed)
    }

    /// Writes the file if anything changed. Blocks.
    pub(super) fn save(&self, wall: Wall) {
        let Some(path) = &self.path else { return };
        if !self.dirty.swap(false, Ordering::Relaxed) {
            return;
        }
        let mut book = Book::default();
        // What another process wrote meanwhile is kept; what it damaged is set aside by the next start.
        let joined = load(path, &mut book).map(|_| {
            drop_dead(&mut book, wall);
            join(&mut book, &self.book(), wall);
            lines(&book, wall)
        });
        let written = joined
            .map_err(|error| error.to_string())
            .and_then(|lines| write_aside(path, &lines).map_err(|error| error.to_string()));
        if let Err(why) = written {
            tracing::error!(
                "{}: what was learnt about names is not kept ({why}); is the folder writable?",
                path.display()
            );
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Neither too long ago nor, by a clock that was wrong, further ahead than that. By a clock that nobody
/// has set yet nothing has lapsed: a private name is not to leave because a machine has just started.
fn is_live(at: Wall, wall: Wall) -> bool {
    wall < CLOCK_IS_SET || wall.abs_diff(at) < KEPT_FOR
}

/// True if the file should know.
fn add_good(book: &mut Book, name: &Name, new: Vouched) -> bool {
    let vouched = book.good.get_or_insert_mut(name.clone(), Vec::new);
    match vouched.iter_mut().find(|one| one.address == new.address) {
        Some(one) => {
            let (before, at) = (one.at, one.at.max(new.at));
            one.at = at;
            before.abs_diff(at) > FINE_ENOUGH
        }
        None => {
            vouched.push(new);
            vouched.sort_by_key(|one| std::cmp::Reverse(one.at));
            vouched.truncate(MOST_ADDRESSES);
            true
        }
    }
}

/// True if the file should know.
fn add_private(private: &mut LruCache<Name, Wall>, name: &Name, wall: Wall) -> bool {
    let before = private.peek(name).copied();
    let at = before.map_or(wall, |before| before.max(wall));
    private.put(name.clone(), at);
    before.is_none_or(|before| before.abs_diff(at) > FINE_ENOUGH)
}

/// Forgets what has lapsed, so that it stands in nobody's way.
fn drop_dead(book: &mut Book, wall: Wall) {
    for (_, vouched) in &mut book.good {
        vouched.retain(|one| is_live(one.at, wall));
    }
    for private in [&mut book.private, &mut book.suffixes] {
        let dead: Vec<Name> =
            private.iter().filter(|(_, at)| !is_live(**at, wall)).map(|(name, _)| name.clone()).collect();
        for name in dead {
            private.pop(&name);
        }
    }
}

fn join(book: &mut Book, other: &Book, wall: Wall) {
    for ((name, address), at) in &other.refuted {
        if let Some(vouched) = book.good.get_mut(name) {
            vouched.retain(|one| one.address != *address || one.at > *at);
        }
    }
    for (name, vouched) in other.good.iter().rev() {
        for one in vouched.iter().filter(|one| is_live(one.at, wall)) {
            add_good(book, name, *one);
        }
    }
    for (ours, theirs) in [(&mut book.private, &other.private), (&mut book.suffixes, &other.suffixes)] {
        for (name, at) in theirs.iter().rev().filter(|(_, at)| is_live(**at, wall)) {
            add_private(ours, name, *at);
        }
    }
}

fn lines(book: &Book, wall: Wall) -> Vec<Line> {
    let good = book.good.iter().rev().filter_map(|(name, vouched)| {
        let addresses: Vec<Vouched> = vouched.iter().copied().filter(|one| is_live(one.at, wall)).collect();
        (!addresses.is_empty()).then(|| Line::Good { name: name.clone(), addresses })
    });
    let live = |private: &LruCache<Name, Wall>, suffix| {
        let live = private.iter().rev().filter(|(_, at)| is_live(**at, wall));
        live.map(|(name, at)| Line::Private { name: name.clone(), at: *at, suffix }).collect::<Vec<_>>()
    };
    let private = live(&book.private, false).into_iter().chain(live(&book.suffixes, true));
    std::iter::once(Line::Layout(LAYOUT)).chain(good).chain(private).collect()
}

fn write_aside(path: &Path, lines: &[Line]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut aside = tempfile::NamedTempFile::new_in(folder)?;
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
    }
    aside.write_all(&text)?;
    aside.as_file().sync_data()?;
    aside.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Reads the file into the book, and says whether it was damaged. A missing file is an empty one.
fn load(path: &Path, book: &mut Book) -> Result<bool, Error> {
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => {
            tracing::error!("{} cannot be read ({error}): names that resolved before are not known", path.display());
            return Ok(false);
        }
    };
    let mut damaged = bytes.is_empty().then_some(1);
    for (number, line) in bytes.strip_suffix(b"\n").unwrap_or(&bytes).split(|byte| *byte == b'\n').enumerate() {
        match serde_json::from_slice(line) {
            Ok(Line::Layout(layout)) if layout > LAYOUT => return Err(Error::Layout { path: path.into(), layout }),
            Ok(Line::Layout(_)) => {}
            Ok(Line::Good { name, addresses }) => addresses.into_iter().for_each(|one| {
                add_good(book, &name, one);
            }),
            Ok(Line::Private { name, at, suffix }) => {
                add_private(book.private(suffix), &name, at);
            }
            Err(_) => damaged = damaged.or(Some(number + 1)),
        }
    }
    if let Some(line) = damaged {
        set_aside(path, line);
    }
    Ok(damaged.is_some())
}

/// The file, or as much of it as we could have written ourselves.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn set_aside(path: &Path, line: usize) {
    let aside = path.with_extension("jsonl.damaged");
    let moved = std::fs::rename(path, &aside);
    tracing::error!(
        "{}: damaged at line {line}; {}, and what could be read is used",
        path.display(),
        moved.map_or_else(|error| format!("it stays ({error})"), |()| format!("set aside as {}", aside.display()))
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Wall = 24 * 60 * 60;
    const NOW: Wall = 1_700_000_000;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_was_vouched_for_outlives_the_process_for_thirty_days() {
        let folder = tempfile::tempdir().unwrap();
        let keep = Keep::open(Some(folder.path())).unwrap();
        keep.note_good(&name("goproxy.cn"), ip("1.1.1.1"), NOW);
        keep.note_good(&name("goproxy.cn"), ip("2.2.2.2"), NOW + 5);
        keep.note_private(&name("corp.example"), NOW);
        keep.save(NOW + 5);
        let keep = Keep::open(Some(folder.path())).unwrap();
        assert_eq!(keep.good(&name("goproxy.cn"), NOW + DAY), [ip("2.2.2.2"), ip("1.1.1.1")]);
        assert!(keep.is_private(&name("git.corp.example"), NOW + DAY));
        assert!(keep.good(&name("goproxy.cn"), NOW + 31 * DAY).is_empty());
        assert!(!keep.is_private(&name("git.corp.example"), NOW + 31 * DAY));
        assert!(!keep.is_private(&name("evilcorp.example"), NOW));
        assert!(keep.is_private(&name("git.corp.example"), 60), "a minute after a start without a clock");
    }

    #[test]
    fn processes_that_share_a_folder_keep_each_others_names() {
        let folder = tempfile::tempdir().unwrap();
        let [ours, theirs] = [(); 2].map(|()| Keep::open(Some(folder.path())).unwrap());
        ours.note_good(&name("a.example"), ip("1.1.1.1"), NOW);
        theirs.note_good(&name("b.example"), ip("2.2.2.2"), NOW);
        ours.save(NOW);
        theirs.save(NOW);
        let both = Keep::open(Some(folder.path())).unwrap();
        assert!(!both.good(&name("a.example"), NOW).is_empty() && !both.good(&name("b.example"), NOW).is_empty());
    }

    #[test]
    fn a_file_cut_in_half_is_set_aside_and_its_first_half_used() {
        let folder = tempfile::tempdir().unwrap();
        let keep = Keep::open(Some(folder.path())).unwrap();
        for host in ["a.example", "b.example"] {
            keep.note_good(&name(host), ip("1.1.1.1"), NOW);
        }
        keep.save(NOW);
        let path = folder.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 20]).unwrap();
        let keep = Keep::open(Some(folder.path())).unwrap();
        assert!(!keep.good(&name("a.example"), NOW).is_empty() && keep.good(&name("b.example"), NOW).is_empty());
        assert!(!path.exists() && folder.path().join("names.jsonl.damaged").exists());
    }

    /// What was read of a damaged file was used, but written only if something new was learnt: a process
    /// that ended before that left the next one with nothing, and private names were asked outside.
    #[test]
    fn what_was_read_of_a_damaged_file_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let line = format!("{{\"private\":{{\"name\":\"corp.example\",\"at\":{NOW}}}}}\n");
        std::fs::write(&path, format!("{{\"layout\":1}}\n{line}{{\"good\":{{\"na")).unwrap();
        let keep = Keep::open(Some(folder.path())).unwrap();
        assert!(keep.is_dirty());
        keep.save(NOW);
        let next = Keep::open(Some(folder.path())).unwrap();
        assert!(next.is_private(&name("git.corp.example"), NOW) && !next.is_dirty());
    }

    /// An address that a certificate had refuted was forgotten in memory, joined from the file at the
    /// next save, and first again after a restart.
    #[test]
    fn what_was_refuted_is_forgotten_in_the_file_too() {
        let folder = tempfile::tempdir().unwrap();
        let host = name("goproxy.cn");
        let keep = Keep::open(Some(folder.path())).unwrap();
        keep.note_good(&host, ip("1.1.1.1"), NOW);
        keep.note_good(&host, ip("2.2.2.2"), NOW);
        keep.save(NOW);
        keep.forget_good(&host, ip("1.1.1.1"), NOW + 5);
        keep.save(NOW + 5);
        assert_eq!(Keep::open(Some(folder.path())).unwrap().good(&host, NOW + 5), [ip("2.2.2.2")]);
        // Another process found it well later: that counts.
        let other = Keep::open(Some(folder.path())).unwrap();
        other.note_good(&host, ip("1.1.1.1"), NOW + 10);
        other.save(NOW + 10);
        keep.note_good(&host, ip("3.3.3.3"), NOW + 10);
        keep.save(NOW + 10);
        assert_eq!(Keep::open(Some(folder.path())).unwrap().good(&host, NOW + 10).len(), 3);
    }

    /// A clock that was decades ahead, or a damaged number: such a time is none, and sums with it must
    /// not overflow.
    #[test]
    fn what_was_seen_in_the_far_future_was_not_seen() {
        let folder = tempfile::tempdir().unwrap();
        let most = u64::MAX;
        let good = format!(
            "{{\"good\":{{\"name\":\"a.example\",\"addresses\":[{{\"address\":\"1.1.1.1\",\"at\":{most}}}]}}}}\n"
        );
        let private = format!("{{\"private\":{{\"name\":\"b.example\",\"at\":{most}}}}}\n");
        std::fs::write(folder.path().join(FILE), [good.as_str(), &good, &private, &private].concat()).unwrap();
        let keep = Keep::open(Some(folder.path())).unwrap();
        assert!(keep.good(&name("a.example"), NOW).is_empty() && !keep.is_private(&name("b.example"), NOW));
        keep.note_good(&name("a.example"), ip("1.1.1.1"), NOW);
        keep.note_private(&name("b.example"), NOW);
        assert_eq!(keep.good(&name("a.example"), NOW), [ip("1.1.1.1")]);
        assert!(keep.is_private(&name("b.example"), NOW));
        assert!(keep.good(&name("a.example"), NOW + 31 * DAY).is_empty());
    }

    /// A file of any size was read whole.
    #[test]
    fn a_huge_file_is_read_to_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let line = format!("{{\"private\":{{\"name\":\"corp.example\",\"at\":{NOW}}}}}\n");
        std::fs::write(&path, &line).unwrap();
        // A sparse file: nothing but zeros from there on.
        std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        let keep = Keep::open(Some(folder.path())).unwrap();
        assert!(keep.is_private(&name("corp.example"), NOW));
        assert!(folder.path().join("names.jsonl.damaged").exists());
    }

    /// All private names shared one bound, so that a site with many names made the search list forgotten,
    /// and the rest of the site was asked outside.
    #[test]
    fn no_number_of_private_names_makes_a_search_list_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let keep = Keep::open(Some(folder.path())).unwrap();
        keep.note_suffix(&name("corp.example"), NOW);
        for number in 0..MOST_PRIVATE + 10 {
            keep.note_private(&name(&format!("m{number}.site.example")), NOW);
        }
        assert!(keep.is_private(&name("git.corp.example"), NOW) && !keep.is_private(&name("m0.site.example"), NOW));
        keep.save(NOW);
        assert!(std::fs::metadata(folder.path().join(FILE)).unwrap().len() < LONGEST);
        let next = Keep::open(Some(folder.path())).unwrap();
        assert!(next.is_private(&name("git.corp.example"), NOW) && next.is_private(&name("m9999.site.example"), NOW));
    }

    #[test]
    fn a_name_that_is_covered_keeps_what_covers_it_alive() {
        let keep = Keep::open(None).unwrap();
        keep.note_suffix(&name("corp.example"), NOW);
        keep.note_private(&name("git.corp.example"), NOW + 20 * DAY);
        assert_eq!(keep.book().private.len(), 0);
        assert!(keep.is_private(&name("wiki.corp.example"), NOW + 40 * DAY));
    }

    #[test]
    fn whatever_the_file_holds_is_set_aside_and_said() {
        let good = format!("{{\"private\":{{\"name\":\"corp.example\",\"at\":{NOW}}}}}\n");
        let junk: [&[u8]; 6] = [
            b"",
            b"\n",
            b"\xff\xfe\0\0",
            b"{\"layout\":\"x\"}\n",
            b"[1,2",
            b"{\"good\":{\"name\":\"a..b\",\"addresses\":[]}}",
        ];
        for junk in junk {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(FILE);
            let text = if junk.is_empty() { Vec::new() } else { [good.as_bytes(), junk].concat() };
            std::fs::write(&path, text).unwrap();
            let keep = Keep::open(Some(folder.path())).unwrap();
            assert_eq!(keep.is_private(&name("corp.example"), NOW), !junk.is_empty(), "{junk:?}");
            assert!(folder.path().join("names.jsonl.damaged").exists(), "{junk:?}");
        }
    }

    #[test]
    fn a_newer_layout_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "{\"layout\":2}\n").unwrap();
        let refused = Keep::open(Some(folder.path())).err().unwrap().to_string();
        assert!(refused.contains("layout 2"), "{refused}");
    }

    #[test]
    fn without_a_folder_nothing_is_written() {
        let keep = Keep::open(None).unwrap();
        keep.note_good(&name("a.example"), ip("1.1.1.1"), NOW);
        assert!(!keep.is_dirty());
        assert!(!keep.good(&name("a.example"), NOW).is_empty());
    }
}
