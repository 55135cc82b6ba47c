//! How many connections are kept for a next request, of all that kept ones take files from: those in use have a
//! client's place in `accept`, the idle ones have none, and must not have the files that clients come in by.
//!
//! Counted are those to plain http servers, which may be as many as clients can name; hosts that are asked over TLS
//! are few. Where as many are idle as may be, whoever is asked next is told that the connection ends with its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The idle connections of one process. Cloning gives another handle to the same count.
#[derive(Clone, Default)]
pub struct Idle {
    counts: Arc<Counts>,
}

struct Counts {
    most: usize,
    open: AtomicUsize,
    busy: AtomicUsize,
}

/// As many as there may be.
impl Default for Counts {
    fn default() -> Counts {
        Counts { most: usize::MAX, open: AtomicUsize::new(0), busy: AtomicUsize::new(0) }
    }
}

impl Idle {
    /// At most so many.
    pub fn at_most(most: usize) -> Idle {
        Idle { counts: Arc::new(Counts { most, ..Counts::default() }) }
    }

    /// Whether no more may be kept.
    pub(super) fn is_full(&self) -> bool {
        let busy = self.counts.busy.load(Ordering::Relaxed);
        self.counts.open.load(Ordering::Relaxed).saturating_sub(busy) >= self.counts.most
    }

    /// A connection was made.
    pub(super) fn open(&self) -> Open {
        self.counts.open.fetch_add(1, Ordering::Relaxed);
        Open { counts: Arc::clone(&self.counts), is_ours: AtomicBool::new(true) }
    }

    /// A request is under way, on one connection or on its way to one.
    pub(super) fn begin(&self) -> Busy {
        self.counts.busy.fetch_add(1, Ordering::Relaxed);
        Busy { counts: Arc::clone(&self.counts) }
    }
}

/// A connection, for as long as it is there.
pub(super) struct Open {
    counts: Arc<Counts>,
    is_ours: AtomicBool,
}

impl Open {
    /// It is no connection for requests any more, and will never be idle: it switched protocols.
    pub(super) fn leave(&self) {
        if self.is_ours.swap(false, Ordering::Relaxed) {
            self.counts.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A request, from its beginning to the end of its answer's body.
pub(super) struct Busy {
    counts: Arc<Counts>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.counts.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_and_not_in_use_counts() {
        let idle = Idle::at_most(2);
        let (first, second) = (idle.open(), idle.open());
        assert!(idle.is_full());
        let busy = idle.begin();
        assert!(!idle.is_full(), "one is in use");
        drop(busy);
        second.leave();
        drop(second);
        assert!(!idle.is_full(), "and gone once");
        let _third = idle.open();
        assert!(idle.is_full());
        drop(first);
        assert!(!idle.is_full());
        assert!(!Idle::default().is_full());
    }
}
