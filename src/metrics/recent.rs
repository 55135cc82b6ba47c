//! What happened lately, in words, for a person who looks: the last requests that needed more than
//! memory or disk, the last rescues and the last failures.
//!
//! Rooms tell it what they have just found out. What is told is short and bounded: so many lines of a
//! sort, each cut to so many bytes, the like of an earlier line counted there instead of told anew. A
//! request that was answered from the cache is not told at all, so that this costs nothing where the
//! proxy is fast. Query strings and credentials are the teller's to leave out. Nothing is read back by the
//! rooms, and nothing is written to disk.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// How many lines of a sort are held.
const LINES: usize = 40;
/// The same of denials, which a stranger can cause at will.
const DENIALS: usize = 10;
/// How long a text may be: what voice two says of a failed module request fits.
const TEXT: usize = 700;

/// The latest events of one process. Cloning gives another handle to the same ones.
#[derive(Clone, Default)]
pub struct Recent {
    // Locked to add a line, which somebody waited for the network for, and to copy them.
    rings: Arc<Mutex<Rings>>,
}

#[derive(Default)]
struct Rings {
    requests: VecDeque<Event>,
    rescues: VecDeque<Event>,
    failures: VecDeque<Event>,
    denials: VecDeque<Event>,
    counts: Counts,
}

/// Which list an event is told in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// A module request that was not answered from the cache.
    Module,
    /// A request passed on, or a tunnel: in the list of requests, too.
    Passed,
    /// Something that would have failed without us.
    Rescued,
    /// Something that failed.
    Failed,
    /// Something that the rules do not allow: listed with what failed, and not counted there.
    Denied,
}

/// How often something of each sort was told since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub rescued: u64,
    pub failed: u64,
}

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When it last happened, in milliseconds since 1970.
    pub at_ms: u64,
    /// What it is about: a file, a host, a name.
    pub what: String,
    /// One word: whence it came, what rescued it, or the status that was said.
    pub outcome: String,
    /// The rest, in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub words: String,
    /// What to type next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// What the request is called in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    /// How often the same was told.
    pub times: u32,
}

/// Copies of all lines, the latest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lately {
    pub requests: Vec<Event>,
    pub rescues: Vec<Event>,
    pub failures: Vec<Event>,
}

impl Event {
    /// About this, with this outcome.
    pub fn of(what: impl Into<String>, outcome: impl Into<String>) -> Event {
        Event { what: what.into(), outcome: outcome.into(), ..Event::default() }
    }

    /// And in these words.
    pub fn words(self, words: impl Into<String>) -> Event {
        Event { words: words.into(), ..self }
    }

    /// After so long.
    pub fn took(self, time: Duration) -> Event {
        Event { ms: Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)), ..self }
    }

    fn is_like(&self, other: &Event) -> bool {
        (&self.what, &self.outcome, &self.words) == (&other.what, &other.outcome, &other.words)
    }

    fn clipped(mut self) -> Event {
        [&mut self.what, &mut self.words].into_iter().for_each(clip);
        self.advice.iter_mut().for_each(clip);
        self
    }
}

/// Milliseconds since 1970.
pub fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Recent {
    /// Adds a line.
    pub fn tell(&self, sort: Sort, event: Event, now: SystemTime) {
        let event = Event { at_ms: millis(now), times: 1, ..event.clipped() };
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let Rings { requests, rescues, failures, denials, counts } = &mut *rings;
        let ring = match sort {
            Sort::Denied => return push(denials, event, DENIALS),
            Sort::Module => requests,
            Sort::Passed => {
                counts.passed += 1;
                requests
            }
            Sort::Rescued => {
                counts.rescued += 1;
                rescues
            }
            Sort::Failed => {
                counts.failed += 1;
                failures
            }
        };
        push(ring, event, LINES);
    }

    /// All lines, the latest first.
    pub fn lately(&self) -> Lately {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let copy = |ring: &VecDeque<Event>| ring.iter().cloned().collect();
        let mut failures: Vec<Event> = rings.failures.iter().chain(&rings.denials).cloned().collect();
        failures.sort_by_key(|event| Reverse(event.at_ms));
        Lately { requests: copy(&rings.requests), rescues: copy(&rings.rescues), failures }
    }

    /// How often something was told.
    pub fn counts(&self) -> Counts {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner).counts
    }
}

fn push(ring: &mut VecDeque<Event>, mut event: Event, lines: usize) {
    if let Some(like) = ring.iter().position(|other| other.is_like(&event)).and_then(|at| ring.remove(at)) {
        event.times = like.times.saturating_add(1);
    }
    ring.truncate(lines - 1);
    ring.push_front(event);
}

fn clip(text: &mut String) {
    if text.len() > TEXT {
        let end = (0..=TEXT).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_latest_comes_first_and_only_so_many_are_held() {
        let recent = Recent::default();
        for number in 0..1000 {
            recent.tell(Sort::Failed, Event::of(format!("{number}.example"), "502"), at(number));
        }
        let failures = recent.lately().failures;
        assert_eq!((failures.len(), failures[0].what.as_str(), failures[0].at_ms), (LINES, "999.example", 999_000));
        assert_eq!(recent.counts(), Counts { failed: 1000, ..Counts::default() });
    }

    #[test]
    fn who_is_denied_a_lot_drives_no_failure_out() {
        let recent = Recent::default();
        recent.tell(Sort::Failed, Event::of("mirror.example", "502"), at(1));
        for port in 0..1000 {
            recent.tell(Sort::Denied, Event::of(format!("stranger.example:{port}"), "403"), at(2 + port));
        }
        let failures = recent.lately().failures;
        assert_eq!((failures.len(), failures[0].what.as_str()), (1 + DENIALS, "stranger.example:999"));
        assert_eq!(failures.last().unwrap().what, "mirror.example");
        assert_eq!(recent.counts().failed, 1);
    }

    #[test]
    fn the_like_is_counted_and_comes_to_the_front() {
        let recent = Recent::default();
        let told = |what: &str, second| {
            recent.tell(Sort::Rescued, Event::of(what, "fallback").words("by 1.1.1.1"), at(second))
        };
        told("a.example", 1);
        told("b.example", 2);
        told("a.example", 3);
        let seen: Vec<_> = recent.lately().rescues.into_iter().map(|it| (it.what, it.times, it.at_ms)).collect();
        assert_eq!(seen, [("a.example".to_owned(), 2, 3000), ("b.example".to_owned(), 1, 2000)]);
    }

    #[test]
    fn what_a_stranger_says_at_length_is_cut() {
        let recent = Recent::default();
        let long = "ü".repeat(100_000);
        recent.tell(
            Sort::Passed,
            Event { advice: Some(long.clone()), ..Event::of(&long, "tunnel").words(&long) },
            at(1),
        );
        let event = recent.lately().requests.remove(0);
        let most = TEXT + '…'.len_utf8();
        assert!(event.what.len() <= most && event.words.len() <= most && event.advice.unwrap().len() <= most);
    }
}
