//! What leaves when the folder is full: absences, then zips, then texts, proofs last.
//!
//! Pure: given what lies there, how much room there is and what was used, this says what goes; the
//! caller removes it. A `.info` or `.mod` costs a build a question to a mirror and is a thousandth of
//! a zip, so they leave only when no zip is left; records and tiles of a checksum database, without
//! which a build cannot verify, after those, and before them what was set out of them for readers of the folder. Absences are a few bytes each and named by whoever asks,
//! so they are bounded by their number too. Within these kinds the least recently used goes first,
//! but for zips.
//!
//! **Zips** leave in the order of S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need
//! for cache eviction", SOSP 2023, algorithm 1), because a job that walks ten thousand modules once must
//! not push out the hundred that every build wants. What is new joins the *small* queue, a tenth of the
//! bytes. At its head, what was used twice or more since goes on to the *main* queue, everything else
//! leaves and is remembered as a *ghost*; a ghost that comes back joins the main queue at once. At the
//! head of the main queue, what was used since its last turn gets another, the rest leaves. The queues
//! are numbers in memory; what another process or an earlier one kept is seated by its file times.
//!
//! **How much** may lie there: the bytes that were set, and so much that the disk keeps some room
//! ([`bound`]). Nothing here awaits or touches a file.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;

use lru::LruCache;

use super::Key;

/// A file in one of the pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub key: Key,
    pub size: u64,
    /// When it was last used: nanoseconds since 1970.
    pub used: u64,
    /// When its bytes were written, likewise.
    pub written: u64,
}

/// The file system that the folder lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    /// Bytes that anybody but root may fill, those in use included.
    pub total: u64,
    /// Those of them that are free.
    pub free: u64,
    /// The folder is where it is mounted: it is there for us alone.
    pub is_ours: bool,
}

/// How far the folder must shrink, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub goal: u64,
    pub reason: Reason,
}

/// Why files leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// More lies there than was set.
    Size,
    /// The disk is too full.
    Space,
    /// So many absences are kept that their number counts, whatever their bytes.
    Absences,
}

impl Reason {
    pub(super) fn describe(self) -> &'static str {
        match self {
            Reason::Size => "more than cache.size",
            Reason::Space => "the disk is too full",
            Reason::Absences => "too many absences",
        }
    }
}

/// How far `total` bytes of ours must shrink; none while they may all stay. The free-space rule never
/// asks for the last GiB: who fills a disk to that point must look for room elsewhere.
pub(super) fn bound(total: u64, size: u64, space: Option<Space>) -> Option<Bound> {
    let by_size = (total > size).then(|| Bound { goal: size / WATERMARK * (WATERMARK - 1), reason: Reason::Size });
    let by_space = space.and_then(|space| {
        let wanted = space.wanted();
        let lacking = wanted.checked_sub(space.free).filter(|lacking| *lacking > 0)?;
        // A little more than is lacking, so that the next file does not ask again.
        let goal = total.saturating_sub(lacking + wanted / WATERMARK).max(FLOOR);
        (goal < total).then_some(Bound { goal, reason: Reason::Space })
    });
    [by_size, by_space].into_iter().flatten().min_by_key(|bound| bound.goal)
}

impl Space {
    /// How much of it should be free.
    pub(super) fn wanted(&self) -> u64 {
        if self.is_ours { self.total / 5 } else { MOST_FREE.max(self.total / 20) }
    }
}

/// The files that must go so that `excess` bytes are gone, and the absences that are too many.
pub(super) fn choose(held: Vec<Held>, excess: u64, uses: &mut Uses) -> Vec<Held> {
    let mut kinds: [Vec<Held>; 5] = Default::default();
    for mut file in held {
        file.used = uses.last_used(&file.key, file.used);
        kinds[worth(&file.key) as usize].push(file);
    }
    let [absences, zips, texts, copies, proofs] = kinds;
    uses.order.settle(&zips);
    let too_many = absences.len().saturating_sub(MOST_ABSENCES);
    let lacking = |leaving: &[Held]| excess.saturating_sub(leaving.iter().map(|file| file.size).sum());
    let mut leaving = oldest_first(absences, excess, too_many);
    leaving.extend(uses.order.leave(&zips, lacking(&leaving)));
    leaving.extend(oldest_first(texts, lacking(&leaving), 0));
    leaving.extend(oldest_first(copies, lacking(&leaving), 0));
    leaving.extend(oldest_first(proofs, lacking(&leaving), 0));
    leaving
}

/// The least recently used of one kind, until `excess` bytes and `too_many` files are gone.
fn oldest_first(mut files: Vec<Held>, mut excess: u64, too_many: usize) -> Vec<Held> {
    files.sort_unstable_by(|a, b| (a.used, &a.key).cmp(&(b.used, &b.key)));
    let leaving = files.iter().enumerate().take_while(|(at, file)| {
        let goes = excess > 0 || *at < too_many;
        excess = excess.saturating_sub(file.size);
        goes
    });
    let count = leaving.count();
    files.truncate(count);
    files
}

/// The order in which zips leave.
#[derive(Default)]
struct Order {
    /// By the hash of the key: where it stands. As many as there are zips in the folder.
    seats: HashMap<u64, Seat>,
    /// What left the small queue unused, oldest first.
    ghosts: VecDeque<u64>,
    ghostly: HashSet<u64>,
    /// The last number given out.
    turn: u64,
}

/// Where one zip stands.
#[derive(Clone, Copy)]
struct Seat {
    is_main: bool,
    /// Its place in the queue: lower ones are nearer to the head.
    turn: u64,
    /// How often it was used since it came there, to three.
    uses: u8,
    /// The last use that we know of.
    seen: u64,
}

impl Order {
    /// It was kept.
    fn store(&mut self, key: &Key, now: u64) {
        let at = spot(key);
        let is_main = self.ghostly.remove(&at) || self.seats.get(&at).is_some_and(|seat| seat.is_main);
        let turn = self.next_turn();
        self.seats.insert(at, Seat { is_main, turn, uses: 0, seen: now });
    }

    /// It was used.
    fn mark(&mut self, key: &Key, now: u64) {
        if let Some(seat) = self.seats.get_mut(&spot(key)) {
            (seat.uses, seat.seen) = ((seat.uses + 1).min(MOST_USES), seat.seen.max(now));
        }
    }

    /// Seats what others kept, counts what others used, and forgets what is gone. A stranger that was
    /// used after it was written is believed to be wanted: that is coarse, and once in the life of a process.
    fn settle(&mut self, zips: &[Held]) {
        let there: HashSet<u64> = zips.iter().map(|file| spot(&file.key)).collect();
        self.seats.retain(|at, _| there.contains(at));
        let mut strangers = Vec::new();
        for file in zips {
            match self.seats.get_mut(&spot(&file.key)) {
                Some(seat) if file.used > seat.seen + SLACK => {
                    (seat.uses, seat.seen) = ((seat.uses + 1).min(MOST_USES), file.used);
                }
                Some(_) => {}
                None => strangers.push(file),
            }
        }
        // They were there before us: in front of all that we have seen come.
        strangers.sort_unstable_by(|a, b| (b.written, &b.key).cmp(&(a.written, &a.key)));
        let mut turn = self.seats.values().map(|seat| seat.turn).min().unwrap_or(FIRST_TURN).min(FIRST_TURN);
        for file in strangers {
            turn = turn.saturating_sub(1);
            let was_used = file.used > file.written + SLACK;
            let seat = Seat { is_main: was_used, turn, uses: u8::from(was_used), seen: file.used };
            self.seats.insert(spot(&file.key), seat);
        }
    }

    /// S3-FIFO's eviction, until `excess` bytes have left.
    fn leave(&mut self, zips: &[Held], excess: u64) -> Vec<Held> {
        let (mut small, mut main) = self.line_up(zips);
        let mut small_bytes: u64 = small.iter().map(|file| file.size).sum();
        let all: u64 = zips.iter().map(|file| file.size).sum();
        let (mut leaving, mut gone) = (Vec::new(), 0);
        while gone < excess {
            let is_small = small_bytes > all / SMALL_SHARE || main.is_empty();
            let Some(file) = (if is_small { small.pop_front() } else { main.pop_front() }) else { break };
            let (at, turn) = (spot(&file.key), self.next_turn());
            let Some(seat) = self.seats.get_mut(&at) else { continue };
            let stays = if is_small { seat.uses > 1 } else { seat.uses > 0 };
            if is_small {
                small_bytes -= file.size;
            }
            if stays {
                // On the way to the main queue the uses are forgotten, there one is spent for each turn.
                let uses = if is_small { 0 } else { seat.uses - 1 };
                *seat = Seat { is_main: true, turn, uses, ..*seat };
                main.push_back(file);
                continue;
            }
            self.seats.remove(&at);
            if is_small {
                self.haunt(at, zips.len());
            }
            gone += file.size;
            leaving.push(file.clone());
        }
        leaving
    }

    /// Both queues, heads first.
    fn line_up<'a>(&self, zips: &'a [Held]) -> (VecDeque<&'a Held>, VecDeque<&'a Held>) {
        let seated = zips.iter().filter_map(|file| Some((self.seats.get(&spot(&file.key))?, file)));
        let mut seated: Vec<(&Seat, &Held)> = seated.collect();
        seated.sort_unstable_by_key(|(seat, _)| seat.turn);
        let queue = |is_main| seated.iter().filter(move |(seat, _)| seat.is_main == is_main).map(|(_, file)| *file);
        (queue(false).collect(), queue(true).collect())
    }

    /// Remembers that it was here. As many ghosts as there are zips, and some even in a small folder.
    fn haunt(&mut self, at: u64, zips: usize) {
        self.ghosts.push_back(at);
        self.ghostly.insert(at);
        while self.ghosts.len() > zips.max(FEWEST_GHOSTS) {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.ghostly.remove(&oldest);
            }
        }
    }

    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        FIRST_TURN + self.turn
    }
}

/// Two zips that share one number share a seat, which harms neither much.
fn spot(key: &Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// How dearly a build would miss it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Worth {
    Absence,
    Zip,
    Text,
    /// What was set out for others, of what is kept elsewhere.
    Copy,
    Proof,
}

fn worth(key: &Key) -> Worth {
    let path = key.as_str();
    if is_absence(key) {
        Worth::Absence
    } else if path.ends_with(".zip") {
        Worth::Zip
    } else if path.starts_with("download/sumdb/") {
        Worth::Copy
    } else if path.starts_with("sumdb/") {
        Worth::Proof
    } else {
        Worth::Text
    }
}

/// Whether it says that something is not there.
pub(super) fn is_absence(key: &Key) -> bool {
    key.as_str().starts_with("absent/")
}

/// When what was used, as far as this process knows. The notes' own times on disk say the same to
/// an hour, for the next process.
pub(super) struct Uses {
    recent: LruCache<Key, Use>,
    order: Order,
    /// The last time given out; two uses never get the same.
    last: u64,
}

/// What is known about the uses of one key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    pub at: u64,
    /// How often it was asked for since it was stored, or since it was last forgotten here.
    pub hits: u32,
    /// Whether the time on disk is so old that it must be written anew.
    pub is_due: bool,
    /// The time that is on disk, as far as this process wrote it.
    written: u64,
}

impl Default for Uses {
    fn default() -> Uses {
        Uses { recent: LruCache::new(REMEMBERED), order: Order::default(), last: 0 }
    }
}

impl Uses {
    /// Somebody asked for it.
    pub(super) fn mark(&mut self, key: &Key, now: u64) -> Use {
        let at = self.tick(now);
        self.order.mark(key, at);
        let entry = self.recent.get_or_insert_mut_ref(key, || Use { at, hits: 0, is_due: false, written: 0 });
        entry.at = at;
        entry.hits = entry.hits.saturating_add(1);
        entry.is_due = at.saturating_sub(entry.written) > WRITTEN_EVERY;
        if entry.is_due {
            entry.written = at;
        }
        *entry
    }

    /// It was stored, and its note with it.
    pub(super) fn store(&mut self, key: &Key, now: u64) {
        let at = self.tick(now);
        self.recent.put(key.clone(), Use { at, hits: 0, is_due: false, written: at });
        if worth(key) == Worth::Zip {
            self.order.store(key, at);
        }
    }

    /// When it was last used, given what the disk says.
    fn last_used(&self, key: &Key, on_disk: u64) -> u64 {
        self.recent.peek(key).map_or(on_disk, |recent| recent.at.max(on_disk))
    }

    fn tick(&mut self, now: u64) -> u64 {
        self.last = now.max(self.last + 1);
        self.last
    }
}

/// One part in ten is freed at once, so that not every file that comes asks for room.
const WATERMARK: u64 = 10;
/// What stays free on a disk that others use too, and a twentieth of it where that is more.
const MOST_FREE: u64 = 2 << 30;
/// What we keep however full the disk is.
const FLOOR: u64 = 1 << 30;
/// The small queue's part of the bytes (section 4.1 of the paper: a tenth).
const SMALL_SHARE: u64 = 10;
/// Uses are counted in two bits there.
const MOST_USES: u8 = 3;
/// Ghosts in a folder that holds few zips; 16 bytes each and their share of a table.
const FEWEST_GHOSTS: usize = 4_096;
/// Turns begin here; those that came before are numbered downwards.
const FIRST_TURN: u64 = 1 << 40;
/// A note is written a moment after its file, and a use in that time is none.
const SLACK: u64 = 60_000_000_000;
/// More than any build meets in a week; 512 MiB of disk, since each takes two blocks and some folders.
const MOST_ABSENCES: usize = 65_536;
/// Some 10 MB, all told.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();
/// An hour: exact enough for files that live for weeks, and no load for a disk.
const WRITTEN_EVERY: u64 = 3_600_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn held(path: &str, size: u64, used: u64) -> Held {
        Held { key: Key::new(path).unwrap(), size, used, written: used }
    }

    fn leaving(held: &[Held], excess: u64) -> Vec<String> {
        let gone = choose(held.to_vec(), excess, &mut Uses::default());
        gone.into_iter().map(|file| file.key.to_string()).collect()
    }

    #[test]
    fn nothing_leaves_while_all_of_it_fits() {
        assert_eq!(bound(100, 100, None), None);
        assert_eq!(leaving(&[held("d/a.zip", 60, 1), held("d/a.mod", 40, 1)], 0), [""; 0]);
        assert_eq!(leaving(&[], 10), [""; 0]);
    }

    #[test]
    fn how_much_may_lie_there() {
        let shared = |total, free| Some(Space { total, free, is_ours: false });
        let own = |total, free| Some(Space { total, free, is_ours: true });
        let goal = |goal, reason| Some(Bound { goal, reason });
        let table = [
            ("below both", 10 * GIB, 20 * GIB, shared(100 * GIB, 6 * GIB), None),
            ("more than was set", 30 * GIB, 20 * GIB, shared(100 * GIB, 6 * GIB), goal(18 * GIB, Reason::Size)),
            (
                "5 % are not free",
                10 * GIB,
                20 * GIB,
                shared(100 * GIB, 4 * GIB),
                goal(9 * GIB - GIB / 2, Reason::Space),
            ),
            ("2 GiB are not free", 10 * GIB, 20 * GIB, shared(10 * GIB, GIB), goal(9 * GIB - GIB / 5, Reason::Space)),
            ("a mount of its own at 80 %", 80 * GIB, 200 * GIB, own(100 * GIB, 20 * GIB), None),
            ("and at 85 %", 85 * GIB, 200 * GIB, own(100 * GIB, 15 * GIB), goal(78 * GIB, Reason::Space)),
            ("others fill it: the last GiB stays", 3 * GIB, 20 * GIB, shared(100 * GIB, 0), goal(GIB, Reason::Space)),
            ("and is not asked for", GIB, 20 * GIB, shared(100 * GIB, 0), None),
            ("but less may be set", GIB, GIB / 2, shared(100 * GIB, 0), goal(GIB / 2 / 10 * 9, Reason::Size)),
            ("a disk of which nothing is known", 10 * GIB, 20 * GIB, None, None),
        ];
        for (what, total, size, space, want) in table {
            assert_eq!(bound(total, size, space), want, "{what}");
        }
    }

    #[test]
    fn zips_leave_in_order_of_coming_and_no_more_than_needed() {
        let files =
            [held("d/new.zip", 50, 9), held("d/old.mod", 1, 0), held("d/old.zip", 50, 1), held("d/mid.zip", 50, 5)];
        assert_eq!(leaving(&files, 40), ["d/old.zip"]);
        assert_eq!(leaving(&files, 51), ["d/old.zip", "d/mid.zip"]);
    }

    #[test]
    fn the_rest_follows_only_when_no_zip_is_left_and_proofs_last() {
        let files = [
            held("download/sumdb/sum.golang.org/tile/8/0/000", 40, 0),
            held("sumdb/sum.golang.org/latest", 40, 0),
            held("d/new.zip", 40, 9),
            held("d/old.info", 40, 1),
            held("d/new.mod", 40, 2),
        ];
        assert_eq!(leaving(&files, 60), ["d/new.zip", "d/old.info"]);
        assert_eq!(leaving(&files, 119), ["d/new.zip", "d/old.info", "d/new.mod"]);
        assert_eq!(leaving(&files, 200).len(), 5);
    }

    /// Whoever asked for names that do not exist pushed the zips of everybody else out, and was never
    /// stopped by a bound in bytes, since an absence is some fifty of them.
    #[test]
    fn absences_leave_before_anything_of_use_and_are_bounded_by_number() {
        let files = [held("d/old.zip", 50, 1), held("absent/d/new.zip", 30, 9), held("absent/d/old.info", 30, 2)];
        assert_eq!(leaving(&files, 20), ["absent/d/old.info"]);
        assert_eq!(leaving(&files, 47), ["absent/d/old.info", "absent/d/new.zip"]);
        let many = (0..MOST_ABSENCES as u64 + 2).map(|number| held(&format!("absent/d/{number}"), 1, number));
        let many: Vec<Held> = many.chain([held("d/old.zip", 50, 0)]).collect();
        assert_eq!(leaving(&many, 0), ["absent/d/0", "absent/d/1"]);
    }

    /// A folder of zips of one size that is asked for some, as a daemon is: what is missing is kept, and
    /// when there is no more room for it, a tenth leaves.
    struct Folder {
        uses: Uses,
        there: HashMap<Key, Held>,
        room: usize,
        now: u64,
    }

    impl Folder {
        fn of(room: usize) -> Folder {
            Folder { uses: Uses::default(), there: HashMap::new(), room, now: 0 }
        }

        /// Whether it was there.
        fn asks(&mut self, name: &str) -> bool {
            let key = Key::new(&format!("d/{name}.zip")).unwrap();
            self.now += 1_000_000;
            if self.there.contains_key(&key) {
                self.uses.mark(&key, self.now);
                return true;
            }
            self.uses.store(&key, self.now);
            self.there.insert(key.clone(), Held { key, size: 1, used: self.now, written: self.now });
            if self.there.len() > self.room {
                let excess = (self.room / 10) as u64;
                let held = self.there.values().cloned().collect();
                for gone in choose(held, excess, &mut self.uses) {
                    self.there.remove(&gone.key);
                }
            }
            false
        }

        fn holds(&self, names: impl Iterator<Item = String>) -> usize {
            names.filter(|name| self.there.contains_key(&Key::new(&format!("d/{name}.zip")).unwrap())).count()
        }
    }

    fn hot() -> impl Iterator<Item = String> {
        (0..100).map(|number| format!("hot{number}"))
    }

    #[test]
    fn ten_thousand_that_are_wanted_once_push_out_none_of_a_hundred_that_are_wanted() {
        let mut folder = Folder::of(1_000);
        for _ in 0..4 {
            hot().for_each(|name| _ = folder.asks(&name));
        }
        (0..10_000).for_each(|number| _ = folder.asks(&format!("once{number}")));
        assert_eq!(folder.holds(hot()), 100);
        assert!(folder.there.len() <= 1_000);
    }

    #[test]
    fn what_was_wanted_last_year_makes_room_for_what_is_wanted_now() {
        let mut folder = Folder::of(1_000);
        for _ in 0..4 {
            hot().for_each(|name| _ = folder.asks(&name));
        }
        for round in 0..40 {
            for number in 0..950 {
                folder.asks(&format!("new{number}"));
            }
            if round == 39 {
                assert!(folder.holds((0..950).map(|number| format!("new{number}"))) > 850);
            }
        }
        assert!(folder.holds(hot()) <= 50, "{}", folder.holds(hot()));
    }

    #[test]
    fn who_comes_back_soon_after_leaving_is_wanted() {
        let mut folder = Folder::of(100);
        folder.asks("ghost");
        (0..150).for_each(|number| _ = folder.asks(&format!("a{number}")));
        assert_eq!(folder.holds(["ghost".to_owned()].into_iter()), 0);
        folder.asks("ghost");
        (0..400).for_each(|number| _ = folder.asks(&format!("b{number}")));
        assert_eq!(folder.holds(["ghost".to_owned()].into_iter()), 1);
    }

    #[test]
    fn after_a_restart_file_times_say_what_was_wanted() {
        let hour = 3_600_000_000_000;
        let stranger = |path: &str, written: u64, used: u64| Held { written, ..held(path, 10, used) };
        let files = [
            stranger("d/once.zip", 3 * hour, 3 * hour),
            stranger("d/wanted.zip", hour, 2 * hour),
            stranger("d/older.zip", 2 * hour, 2 * hour),
        ];
        assert_eq!(leaving(&files, 10), ["d/older.zip"]);
        assert_eq!(leaving(&files, 20), ["d/older.zip", "d/once.zip"]);
        assert_eq!(leaving(&files, 30).len(), 3);
    }

    #[test]
    fn another_process_uses_count() {
        let (mine, theirs) = (Key::new("d/mine.zip").unwrap(), Key::new("d/theirs.zip").unwrap());
        let mut uses = Uses::default();
        uses.store(&theirs, 1);
        uses.store(&mine, 2);
        let file = |key: &Key, used| Held { key: key.clone(), size: 10, used, written: 1 };
        for used in [2 * SLACK, 4 * SLACK] {
            choose(vec![file(&mine, 1), file(&theirs, used)], 0, &mut uses);
        }
        let gone = choose(vec![file(&mine, 1), file(&theirs, 4 * SLACK)], 10, &mut uses);
        assert_eq!(gone[0].key, mine);
    }

    #[test]
    fn a_use_is_newer_than_every_one_before_it_whatever_the_clock_says() {
        let (a, b) = (Key::new("a").unwrap(), Key::new("b").unwrap());
        let mut uses = Uses::default();
        uses.store(&a, 100);
        uses.store(&b, 100);
        assert!(uses.last_used(&b, 0) > uses.last_used(&a, 0));
        uses.mark(&a, 50);
        assert!(uses.last_used(&a, 0) > uses.last_used(&b, 0));
        assert_eq!(uses.last_used(&a, 1_000), 1_000, "another process used it later");
    }

    #[test]
    fn a_use_is_written_to_disk_once_an_hour() {
        let key = Key::new("a").unwrap();
        let start = 1_000 * WRITTEN_EVERY;
        let mut uses = Uses::default();
        uses.store(&key, start);
        let due =
            [start + 1, start + WRITTEN_EVERY + 1, start + WRITTEN_EVERY + 2].map(|now| uses.mark(&key, now).is_due);
        assert_eq!(due, [false, true, false]);
        let unknown = Key::new("b").unwrap();
        assert!(uses.mark(&unknown, start).is_due, "stored before this process began");
        assert_eq!(uses.mark(&unknown, start).hits, 2);
    }
}
