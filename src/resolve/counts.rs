//! What this room counts: attempts, verdicts, rescues.

use std::time::SystemTime;

use prometheus_client::encoding::EncodeLabelSet;

use super::reply::Outcome;
use super::server::Transport;
use super::{Failure, Found, Freshness, Tier};
use crate::metrics::{By, Counter, Event, Family, Label, Recent, Registry, Sort, begin_at_zero};
use crate::target::Name;

/// The families of this room.
#[derive(Clone, Default)]
pub(super) struct Counts {
    attempts: Family<Attempts, Counter>,
    lookups: Family<By<Ending>, Counter>,
    rescues: Family<By<Rescue>, Counter>,
    recent: Recent,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempts {
    tier: &'static str,
    transport: &'static str,
    outcome: &'static str,
}

/// What was looked up since the start, for a person.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Look-ups that had to ask somebody.
    pub asked: u64,
    /// Names that were found in spite of a fault.
    pub rescued: u64,
}

/// How names were rescued, in words, and how many each.
pub type Rescues = Vec<(&'static str, u64)>;

/// How a look-up that had to ask somebody ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ending {
    Resolved,
    Absent,
    AbsentUnconfirmed,
    Blocked,
    Unknown,
}

impl Label for Ending {
    const KEY: &'static str = "verdict";

    fn label(&self) -> &'static str {
        match self {
            Ending::Resolved => "resolved",
            Ending::Absent => "absent",
            Ending::AbsentUnconfirmed => "absent-unconfirmed",
            Ending::Blocked => "blocked",
            Ending::Unknown => "unknown",
        }
    }
}

/// What would have been a failed build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Rescue {
    /// A denial, or an impossible address, that another server overruled.
    Overruled,
    /// The system servers failed and another one answered.
    Fallback,
    Stale,
    LastKnownGood,
    /// Two operators denied what a handshake vouched for, but not yet for long enough.
    Withstood,
    /// An answer whose addresses all failed the certificate check.
    Forged,
}

impl Rescue {
    const ALL: [Rescue; 6] =
        [Rescue::Overruled, Rescue::Fallback, Rescue::Stale, Rescue::LastKnownGood, Rescue::Withstood, Rescue::Forged];
}

impl Label for Rescue {
    const KEY: &'static str = "by";

    fn label(&self) -> &'static str {
        match self {
            Rescue::Overruled => "overruled-negative",
            Rescue::Fallback => "fallback",
            Rescue::Stale => "stale",
            Rescue::LastKnownGood => "last-known-good",
            Rescue::Withstood => "withstood-denial",
            Rescue::Forged => "forged-answer",
        }
    }
}

impl Rescue {
    /// Whether it counts as one for a person: a denial withstood is followed by another of them.
    fn is_told(self) -> bool {
        self != Rescue::Withstood
    }

    /// How it was done, for a person.
    fn words(self) -> &'static str {
        match self {
            Rescue::Overruled => "by overruling a denial",
            Rescue::Fallback => "by a fallback server",
            Rescue::Stale => "by an older answer",
            Rescue::LastKnownGood => "by the last known good address",
            Rescue::Withstood => "by withstanding a denial",
            Rescue::Forged => "by seeing through a forged answer",
        }
    }
}

impl Counts {
    pub(super) fn new(registry: &Registry) -> Counts {
        let counts = Counts { recent: registry.recent().clone(), ..Counts::default() };
        begin_at_zero(&counts.rescues, &Rescue::ALL);
        registry.room("resolve", |families| {
            families.register("attempts", "Questions to name servers, by what they came to", counts.attempts.clone());
            families.register("lookups", "Look-ups that had to ask, by verdict", counts.lookups.clone());
            families.register("rescues", "Names found in spite of a fault, by what found them", counts.rescues.clone());
        });
        counts
    }

    pub(super) fn attempt(&self, tier: Tier, transport: Transport, outcome: Outcome) {
        let labels = Attempts { tier: tier.label(), transport: transport.label(), outcome: outcome.label() };
        self.attempts.get_or_create(&labels).inc();
    }

    pub(super) fn ended(&self, result: &Result<Found, Failure>) {
        let ending = match result {
            Ok(_) => Ending::Resolved,
            Err(Failure::Absent { confirmed: true, .. }) => Ending::Absent,
            Err(Failure::Absent { .. }) => Ending::AbsentUnconfirmed,
            Err(Failure::Blocked { .. }) => Ending::Blocked,
            Err(_) => Ending::Unknown,
        };
        self.lookups.get_or_create(&By(ending)).inc();
    }

    pub(super) fn totals(&self) -> Totals {
        let asked = [Ending::Resolved, Ending::Absent, Ending::AbsentUnconfirmed, Ending::Blocked, Ending::Unknown];
        Totals {
            asked: asked.iter().map(|&ending| self.lookups.get_or_create(&By(ending)).get()).sum(),
            rescued: self.rescues().iter().map(|(_, times)| times).sum(),
        }
    }

    pub(super) fn rescues(&self) -> Rescues {
        let count = |rescue: Rescue| (rescue.words(), self.rescues.get_or_create(&By(rescue)).get());
        let told = Rescue::ALL.into_iter().filter(|rescue| rescue.is_told());
        told.map(count).filter(|(_, times)| *times > 0).collect()
    }

    /// A name was found in spite of a fault; how, in words.
    pub(super) fn rescued(&self, rescue: Rescue, name: &Name, words: impl Into<String>) {
        self.rescues.get_or_create(&By(rescue)).inc();
        if !rescue.is_told() {
            return;
        }
        self.recent.tell(Sort::Rescued, Event::of(name.as_str(), rescue.label()).words(words), SystemTime::now());
    }

    /// An older answer is handed out.
    pub(super) fn served(&self, freshness: Freshness, name: &Name) {
        const WORDS: &str = "no server gave an answer that counts; an older one served";
        match freshness {
            Freshness::Stale => self.rescued(Rescue::Stale, name, WORDS),
            Freshness::LastKnownGood => self.rescued(Rescue::LastKnownGood, name, WORDS),
            Freshness::Fresh | Freshness::Cached | Freshness::Static => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A denial withstood was told beside the rescue that followed it: one name counted as two.
    #[test]
    fn a_name_is_told_as_rescued_once() {
        let registry = Registry::default();
        let counts = Counts::new(&registry);
        let name = Name::parse("goproxy.cn").unwrap();
        counts.rescued(Rescue::Withstood, &name, "two operators denied it");
        counts.rescued(Rescue::LastKnownGood, &name, "no server gave an answer that counts");
        assert_eq!((registry.recent().counts().rescued, counts.totals().rescued), (1, 1));
    }
}
