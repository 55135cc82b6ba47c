//! The last hour, minute by minute, out of counters that only grow.
//!
//! Nothing is noted where it happens: whoever looks hands over the totals, and the difference since the
//! last look belongs to the minute of that look. So a request costs nothing here, and an hour is sixty
//! sums, whatever went through.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// How many minutes are remembered, the current one included.
pub const MINUTES: usize = 60;

/// What was done in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// Module requests answered without an upstream, and the bytes that nobody had to send again.
    pub from_cache: u64,
    pub saved_bytes: u64,
    /// Module requests that an upstream was asked for, and its bytes.
    pub from_upstream: u64,
    pub fetched_bytes: u64,
    /// Requests passed on and tunnels, and the bytes that ended tunnels carried.
    pub passed: u64,
    pub carried_bytes: u64,
    /// What would have failed without us.
    pub rescued: u64,
    /// What failed.
    pub failed: u64,
}

/// The last hour in columns, the oldest minute first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Columns {
    /// When the first minute began, in milliseconds since 1970.
    pub from_ms: u64,
    pub from_cache: Vec<u64>,
    pub from_upstream: Vec<u64>,
    pub passed: Vec<u64>,
    pub saved_bytes: Vec<u64>,
    pub rescued: Vec<u64>,
    pub failed: Vec<u64>,
}

/// Totals, and what they were.
#[derive(Debug)]
pub struct History {
    last: Sums,
    /// The minute of the latest look, as minutes since 1970.
    minute: u64,
    /// The latest minute last.
    minutes: VecDeque<Sums>,
}

impl Sums {
    fn each(self, other: Sums, join: impl Fn(u64, u64) -> u64) -> Sums {
        Sums {
            from_cache: join(self.from_cache, other.from_cache),
            saved_bytes: join(self.saved_bytes, other.saved_bytes),
            from_upstream: join(self.from_upstream, other.from_upstream),
            fetched_bytes: join(self.fetched_bytes, other.fetched_bytes),
            passed: join(self.passed, other.passed),
            carried_bytes: join(self.carried_bytes, other.carried_bytes),
            rescued: join(self.rescued, other.rescued),
            failed: join(self.failed, other.failed),
        }
    }

    fn plus(self, other: Sums) -> Sums {
        self.each(other, u64::saturating_add)
    }

    fn since(self, other: Sums) -> Sums {
        self.each(other, u64::saturating_sub)
    }
}

impl History {
    /// Nothing yet.
    pub fn new(now: SystemTime) -> History {
        History { last: Sums::default(), minute: minute(now), minutes: VecDeque::from([Sums::default()]) }
    }

    /// Takes in the totals of now.
    pub fn look(&mut self, totals: Sums, now: SystemTime) {
        let gained = totals.since(self.last);
        if let Some(current) = self.minutes.back_mut() {
            *current = current.plus(gained);
        }
        self.last = totals;
        // A clock that went back stays in the minute that it knows.
        let passed = minute(now).saturating_sub(self.minute);
        for _ in 0..passed.min(MINUTES as u64) {
            self.minutes.push_back(Sums::default());
        }
        self.minute += passed;
        let over = self.minutes.len().saturating_sub(MINUTES);
        self.minutes.drain(..over);
    }

    /// What was done in the last so many minutes, the current one included.
    pub fn latest(&self, minutes: usize) -> Sums {
        self.minutes.iter().rev().take(minutes).fold(Sums::default(), |sum, &minute| sum.plus(minute))
    }

    /// All of it, always sixty minutes long.
    pub fn columns(&self) -> Columns {
        let absent = MINUTES - self.minutes.len();
        let column = |of: fn(&Sums) -> u64| {
            std::iter::repeat_n(0, absent).chain(self.minutes.iter().map(of)).collect::<Vec<_>>()
        };
        Columns {
            from_ms: (self.minute + 1).saturating_sub(MINUTES as u64) * 60_000,
            from_cache: column(|sums| sums.from_cache),
            from_upstream: column(|sums| sums.from_upstream),
            passed: column(|sums| sums.passed),
            saved_bytes: column(|sums| sums.saved_bytes),
            rescued: column(|sums| sums.rescued),
            failed: column(|sums| sums.failed),
        }
    }
}

/// How long until the next minute begins.
pub fn until_next_minute(now: SystemTime) -> Duration {
    let into = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64 % 60_000);
    Duration::from_millis(60_000 - into)
}

fn minute(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(6000 + seconds)
    }

    fn served(from_cache: u64) -> Sums {
        Sums { from_cache, ..Sums::default() }
    }

    #[test]
    fn what_came_since_the_last_look_belongs_to_its_minute() {
        let mut history = History::new(at(0));
        history.look(served(3), at(30));
        history.look(served(10), at(60));
        history.look(served(11), at(61));
        assert_eq!(history.columns().from_cache[MINUTES - 2..], [10, 1]);
        assert_eq!(history.columns().from_ms, (6000 + 60 - 59 * 60) * 1000);
        assert_eq!((history.latest(1), history.latest(60)), (served(1), served(11)));
    }

    #[test]
    fn an_hour_is_remembered_and_no_more() {
        let mut history = History::new(at(0));
        for minute in 1..200 {
            history.look(served(minute), at(minute * 60));
        }
        assert_eq!(history.columns().from_cache.len(), MINUTES);
        // The current minute has had nothing yet.
        assert_eq!(history.latest(1000), served(MINUTES as u64 - 1));
        history.look(served(500), at(199 * 60 + 30));
        history.look(served(500), at(1_000_000));
        assert_eq!(history.latest(1000), served(0), "that was long ago");
    }

    #[test]
    fn a_clock_that_goes_back_loses_nothing() {
        let mut history = History::new(at(600));
        history.look(served(5), at(0));
        history.look(served(9), at(601));
        assert_eq!(history.latest(1), served(9));
    }

    #[test]
    fn the_next_minute_is_never_now() {
        assert_eq!(until_next_minute(at(0)), Duration::from_secs(60));
        assert_eq!(until_next_minute(at(59)), Duration::from_secs(1));
    }
}
