//! The memory in front of the disk: hot answers ready to write, the least recently used leaving.
//!
//! Bounded by bytes, those that are just being read from disk included. What is loaded from disk
//! never replaces what was stored since the load began: a load holds a [`Ticket`], and storing,
//! noting or removing takes it away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lru::LruCache;

use super::{Key, Note, content, disk};

/// What was found on looking.
pub(super) enum Look {
    /// What is held, and its tag.
    Hit(Arc<Note>, Bytes, Bytes),
    /// Not here. Who holds the ticket may load it; none is given while another does.
    Miss(Option<Ticket>),
}

/// Bytes by key, in memory alone.
#[derive(Clone)]
pub(super) struct Memory {
    // Locked for a look-up or a change, by every worker; never while bytes are read or copied.
    shelf: Arc<Mutex<Shelf>>,
}

struct Shelf {
    limit: u64,
    /// Notes, bytes, and the tags of these.
    entries: LruCache<Key, (Arc<Note>, Bytes, Bytes)>,
    /// What the entries weigh.
    held: u64,
    /// What is promised to loads under way.
    promised: u64,
    /// The loads under way, by the number of their ticket.
    loading: HashMap<Key, u64>,
    tickets: u64,
}

impl Memory {
    pub(super) fn new(limit: u64) -> Memory {
        let entries = LruCache::unbounded();
        let shelf = Shelf { limit, entries, held: 0, promised: 0, loading: HashMap::new(), tickets: 0 };
        Memory { shelf: Arc::new(Mutex::new(shelf)) }
    }

    /// What is held under `key`, or the leave to load it.
    pub(super) fn look(&self, key: &Key) -> Look {
        let mut shelf = self.lock();
        if let Some((note, bytes, tag)) = shelf.entries.get(key) {
            return Look::Hit(note.clone(), bytes.clone(), tag.clone());
        }
        if shelf.loading.contains_key(key) {
            return Look::Miss(None);
        }
        shelf.tickets += 1;
        let number = shelf.tickets;
        shelf.loading.insert(key.clone(), number);
        Look::Miss(Some(Ticket { memory: self.clone(), key: key.clone(), number, promised: 0 }))
    }

    /// What is held under `key`.
    pub(super) fn held(&self, key: &Key) -> Option<(Arc<Note>, Bytes, Bytes)> {
        self.lock().entries.get(key).cloned()
    }

    /// Holds something new. False where it does not fit; then nothing is held under `key`.
    pub(super) fn insert(&self, key: &Key, note: Note, bytes: Bytes) -> bool {
        let tag = content::tag(&disk::hash(&bytes));
        let mut shelf = self.lock();
        shelf.loading.remove(key);
        shelf.insert(key, note, bytes, tag)
    }

    /// Writes a new note for what is held, if it is.
    pub(super) fn annotate(&self, key: &Key, change: impl FnOnce(&mut Note)) -> bool {
        let mut shelf = self.lock();
        shelf.loading.remove(key);
        shelf.entries.peek_mut(key).map(|(note, ..)| change(Arc::make_mut(note))).is_some()
    }

    /// Lets go of what is held, and of what is being loaded.
    pub(super) fn remove(&self, key: &Key) {
        let mut shelf = self.lock();
        shelf.loading.remove(key);
        shelf.take(key);
    }

    /// Lets go of everything, and of what is being loaded.
    pub(super) fn clear(&self) {
        let mut shelf = self.lock();
        shelf.loading.clear();
        shelf.entries.clear();
        shelf.held = 0;
    }

    /// Lets no load that began before now put anything here.
    pub(super) fn spoil(&self, key: &Key) {
        self.lock().loading.remove(key);
    }

    /// How many bytes are held, in how many entries.
    pub(super) fn weigh(&self) -> (u64, usize) {
        let shelf = self.lock();
        (shelf.held, shelf.entries.len())
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn insert(&mut self, key: &Key, note: Note, bytes: Bytes, tag: Bytes) -> bool {
        self.take(key);
        let weight = weigh(key, bytes.len() as u64);
        if !self.make_room(weight) {
            return false;
        }
        self.held += weight;
        self.entries.put(key.clone(), (Arc::new(note), bytes, tag));
        true
    }

    fn take(&mut self, key: &Key) {
        if let Some((_, bytes, _)) = self.entries.pop(key) {
            self.held -= weigh(key, bytes.len() as u64);
        }
    }

    /// Pushes out the least recently used until `weight` fits; false, with nothing pushed out, where it cannot.
    fn make_room(&mut self, weight: u64) -> bool {
        if self.promised.saturating_add(weight) > self.limit {
            return false;
        }
        while self.held + self.promised + weight > self.limit {
            let Some((key, (_, bytes, _))) = self.entries.pop_lru() else { break };
            self.held -= weigh(&key, bytes.len() as u64);
        }
        true
    }
}

/// The leave to load one key from disk.
pub(super) struct Ticket {
    memory: Memory,
    key: Key,
    number: u64,
    promised: u64,
}

impl Ticket {
    /// Asks for room before bytes are read. False where they do not fit.
    pub(super) fn reserve(&mut self, length: u64) -> bool {
        let weight = weigh(&self.key, length);
        let mut shelf = self.memory.lock();
        if !shelf.make_room(weight) {
            return false;
        }
        shelf.promised += weight;
        self.promised += weight;
        true
    }

    /// Puts what was read where the next look finds it, unless something was stored since.
    pub(super) fn fill(mut self, note: Note, bytes: Bytes, tag: Bytes) {
        let mut shelf = self.memory.lock();
        shelf.promised -= std::mem::take(&mut self.promised);
        if shelf.loading.get(&self.key) == Some(&self.number) {
            shelf.insert(&self.key, note, bytes, tag);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut shelf = self.memory.lock();
        shelf.promised -= self.promised;
        if shelf.loading.get(&self.key) == Some(&self.number) {
            shelf.loading.remove(&self.key);
        }
    }
}

/// What an entry costs: its bytes, its key twice (map and list), and a note of a few facts.
fn weigh(key: &Key, length: u64) -> u64 {
    length + key.as_str().len() as u64 + 512
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> Key {
        Key::new(path).unwrap()
    }

    fn ticket(memory: &Memory, path: &str) -> Ticket {
        match memory.look(&key(path)) {
            Look::Miss(Some(ticket)) => ticket,
            Look::Miss(None) => panic!("{path} is being loaded"),
            Look::Hit(..) => panic!("{path} is held"),
        }
    }

    fn holds(memory: &Memory, path: &str) -> bool {
        matches!(memory.look(&key(path)), Look::Hit(..))
    }

    fn keep(memory: &Memory, path: &str, length: usize) -> bool {
        memory.insert(&key(path), Note::default(), Bytes::from(vec![7; length]))
    }

    #[test]
    fn the_least_recently_used_leaves_and_bytes_are_what_counts() {
        let memory = Memory::new(4_000);
        assert!(keep(&memory, "a", 1_000) && keep(&memory, "b", 1_000));
        assert!(holds(&memory, "a"));
        assert!(keep(&memory, "c", 1_000));
        assert_eq!((holds(&memory, "a"), holds(&memory, "b"), holds(&memory, "c")), (true, false, true));
        assert!(memory.weigh().0 <= 4_000);
    }

    #[test]
    fn what_never_fits_pushes_nothing_out_but_its_own_predecessor() {
        let memory = Memory::new(4_000);
        keep(&memory, "a", 1_000);
        keep(&memory, "b", 1_000);
        assert!(!keep(&memory, "b", 10_000));
        assert_eq!((holds(&memory, "a"), holds(&memory, "b")), (true, false));
        memory.remove(&key("a"));
        assert_eq!(memory.weigh(), (0, 0));
    }

    #[test]
    fn one_loads_and_the_others_do_not() {
        let memory = Memory::new(4_000);
        let mut loading = ticket(&memory, "a");
        assert!(matches!(memory.look(&key("a")), Look::Miss(None)));
        assert!(loading.reserve(1_000));
        loading.fill(Note::default(), Bytes::from_static(b"x"), Bytes::new());
        assert!(holds(&memory, "a"));
        drop(ticket(&memory, "b"));
        drop(ticket(&memory, "b"));
    }

    #[test]
    fn loads_under_way_count() {
        let memory = Memory::new(4_000);
        keep(&memory, "old", 1_000);
        let mut first = ticket(&memory, "a");
        assert!(first.reserve(2_500));
        assert!(!holds(&memory, "old"));
        assert!(!ticket(&memory, "b").reserve(1_000));
        drop(first);
        assert!(ticket(&memory, "b").reserve(1_000));
    }

    #[test]
    fn a_load_never_replaces_what_was_stored_since() {
        type Change = fn(&Memory);
        let changes: [(&str, Change, Option<&[u8]>); 4] = [
            ("stored", |memory| assert!(keep(memory, "a", 1)), Some(&[7])),
            ("removed", |memory| memory.remove(&key("a")), None),
            ("noted", |memory| assert!(!memory.annotate(&key("a"), |_| ())), None),
            ("written", |memory| memory.spoil(&key("a")), None),
        ];
        for (what, change, held) in changes {
            let memory = Memory::new(4_000);
            let mut loading = ticket(&memory, "a");
            assert!(loading.reserve(3));
            change(&memory);
            loading.fill(Note::default(), Bytes::from_static(b"old"), Bytes::new());
            match (memory.look(&key("a")), held) {
                (Look::Hit(_, bytes, _), Some(expected)) => assert_eq!(bytes, expected, "{what}"),
                (Look::Miss(_), None) => (),
                _ => panic!("{what}"),
            }
        }
    }

    #[test]
    fn what_is_cleared_is_gone_and_so_is_what_was_being_loaded() {
        let memory = Memory::new(4_000);
        keep(&memory, "a", 1_000);
        let mut loading = ticket(&memory, "b");
        assert!(loading.reserve(1_000));
        memory.clear();
        loading.fill(Note::default(), Bytes::from_static(b"old"), Bytes::new());
        assert_eq!((holds(&memory, "a"), holds(&memory, "b")), (false, false));
        assert_eq!(memory.weigh(), (0, 0));
    }

    #[test]
    fn a_new_note_is_told_with_the_next_look() {
        let memory = Memory::new(4_000);
        keep(&memory, "a", 1);
        assert!(memory.annotate(&key("a"), |note| note.at_ms = 5));
        assert!(matches!(memory.look(&key("a")), Look::Hit(note, ..) if note.at_ms == 5));
    }
}
