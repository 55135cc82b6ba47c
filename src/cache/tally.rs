//! What this room counts.

use crate::metrics::{By, Counter, Every, Family, Gauge, Label, Registry, Unit, begin_at_zero};

use super::disk::Damage;

/// The counters of one cache.
#[derive(Clone)]
pub(super) struct Tally {
    lookups: Every<Lookup>,
    fills: Family<By<Filled>, Counter>,
    dropped: Family<By<Damage>, Counter>,
    evicted: Counter,
    evicted_bytes: Counter,
    disk_bytes: Gauge,
    memory_bytes: Gauge,
}

impl Tally {
    pub(super) fn new(registry: &Registry) -> Tally {
        let tally = Tally {
            lookups: Every::of(&Lookup::ALL),
            fills: Family::default(),
            dropped: Family::default(),
            evicted: Counter::default(),
            evicted_bytes: Counter::default(),
            disk_bytes: Gauge::default(),
            memory_bytes: Gauge::default(),
        };
        begin_at_zero(&tally.dropped, &Damage::ALL);
        let families = tally.clone();
        registry.room("cache", |room| {
            room.register("lookups", "Looks for a key, by where it was found", families.lookups.family());
            room.register("fills", "Fills, by what became of them", families.fills);
            room.register("dropped", "Kept files that were not as recorded, by what was wrong", families.dropped);
            room.register("evicted", "Files that left to make room", families.evicted);
            room.register_with_unit("evicted", "Bytes that left to make room", Unit::Bytes, families.evicted_bytes);
            let disk = "Bytes in the cache folder, as of the last change";
            room.register_with_unit("disk", disk, Unit::Bytes, families.disk_bytes);
            let memory = "Bytes held in memory, as of the last change";
            room.register_with_unit("memory", memory, Unit::Bytes, families.memory_bytes);
        });
        tally
    }

    pub(super) fn look_up(&self, lookup: Lookup) {
        self.lookups.add(&lookup, 1);
    }

    pub(super) fn fill(&self, filled: Filled) {
        self.fills.get_or_create(&By(filled)).inc();
    }

    pub(super) fn drop_damaged(&self, damage: Damage) {
        self.dropped.get_or_create(&By(damage)).inc();
    }

    pub(super) fn evict(&self, files: u64, bytes: u64) {
        self.evicted.inc_by(files);
        self.evicted_bytes.inc_by(bytes);
    }

    /// Files and bytes that left to make room since the start.
    pub(super) fn evicted(&self) -> (u64, u64) {
        (self.evicted.get(), self.evicted_bytes.get())
    }

    #[cfg(test)]
    pub(super) fn looked_up(&self, lookup: Lookup) -> u64 {
        self.lookups.get(&lookup)
    }

    #[cfg(test)]
    pub(super) fn filled(&self, filled: Filled) -> u64 {
        self.fills.get_or_create(&By(filled)).get()
    }

    pub(super) fn weigh(&self, disk: u64, memory: u64) {
        self.disk_bytes.set(i64::try_from(disk).unwrap_or(i64::MAX));
        self.memory_bytes.set(i64::try_from(memory).unwrap_or(i64::MAX));
    }
}

/// Where a key was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lookup {
    Memory,
    /// Filled, and on its way to the disk.
    Landing,
    Disk,
    Miss,
}

impl Lookup {
    const ALL: [Lookup; 4] = [Lookup::Memory, Lookup::Landing, Lookup::Disk, Lookup::Miss];
}

impl Label for Lookup {
    fn label(&self) -> &'static str {
        match self {
            Lookup::Memory => "memory",
            Lookup::Landing => "landing",
            Lookup::Disk => "disk",
            Lookup::Miss => "miss",
        }
    }
}

/// What became of somebody's wish for a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Filled {
    /// There was one under way already.
    Joined,
    Kept,
    /// Given out and not to be kept.
    Passed,
    /// To be kept, but there was no place.
    Unkept,
    Failed,
    /// The producer ended without a word.
    Abandoned,
}

impl Label for Filled {
    fn label(&self) -> &'static str {
        match self {
            Filled::Joined => "joined",
            Filled::Kept => "kept",
            Filled::Passed => "passed",
            Filled::Unkept => "unkept",
            Filled::Failed => "failed",
            Filled::Abandoned => "abandoned",
        }
    }
}

impl Label for Damage {
    const KEY: &'static str = "damage";

    fn label(&self) -> &'static str {
        self.describe()
    }
}
