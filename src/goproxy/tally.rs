//! Counting what was served and what went wrong, by outcome.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::metrics::{
    By, Counter, Event, Every, Family, Histogram, Label, Recent, Registry, Sort, Unit, begin_at_zero,
    exponential_buckets,
};

use super::failure::{Failure, Kind, Said};
use super::path::ModuleRequest;

/// Whence an answer came: a metric's label, and what `Cache-Status` says (RFC 9211).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Served {
    /// Held, and fresh or never to change.
    Hit,
    /// Held and no longer fresh; upstreams are asked behind it, or do not answer.
    Stale,
    /// Had from upstream for this request.
    Miss,
    /// Had from upstream by another request that came before.
    Collapsed,
    /// Had from upstream in place of something older that was held.
    Revalidated,
    /// Passed on and not kept.
    Passed,
}

impl Served {
    /// All of them.
    pub const ALL: [Served; 6] =
        [Served::Hit, Served::Stale, Served::Miss, Served::Collapsed, Served::Revalidated, Served::Passed];

    /// Answered without an upstream.
    const KEPT: [Served; 3] = [Served::Hit, Served::Stale, Served::Collapsed];
    /// Had from an upstream.
    const HAD: [Served; 3] = [Served::Miss, Served::Revalidated, Served::Passed];

    /// The parameters after the cache's name in a `Cache-Status` field.
    pub fn cache_status(self) -> &'static str {
        match self {
            Served::Hit => "hit",
            Served::Stale => "hit; detail=stale",
            Served::Miss => "fwd=uri-miss; stored",
            Served::Collapsed => "fwd=uri-miss; collapsed",
            Served::Revalidated => "fwd=stale; stored",
            Served::Passed => "fwd=miss",
        }
    }
}

impl Label for Served {
    fn label(&self) -> &'static str {
        match self {
            Served::Hit => "hit",
            Served::Stale => "stale",
            Served::Miss => "miss",
            Served::Collapsed => "collapsed",
            Served::Revalidated => "revalidated",
            Served::Passed => "passed",
        }
    }
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Why a request was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Refused {
    Fault,
    Silence,
    Policy,
    Said,
}

impl Refused {
    const ALL: [Refused; 4] = [Refused::Fault, Refused::Silence, Refused::Policy, Refused::Said];
}

/// What stood in for a mirror that faulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Rescue {
    /// Another mirror, or the same one when it was asked again.
    Retried,
    /// An older answer that was held.
    Older,
}

impl Rescue {
    const ALL: [Rescue; 2] = [Rescue::Retried, Rescue::Older];
}

impl Label for Rescue {
    const KEY: &'static str = "by";
    fn label(&self) -> &'static str {
        match self {
            Rescue::Retried => "retry",
            Rescue::Older => "older-answer",
        }
    }
}

impl Label for Refused {
    fn label(&self) -> &'static str {
        match self {
            Refused::Fault => "fault",
            Refused::Silence => "silence",
            Refused::Policy => "policy",
            Refused::Said => "said",
        }
    }
}

/// What a mirror did that made us ask again or elsewhere, within requests that were answered or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    Status,
    Silent,
    Unreachable,
    Broke,
    Wrong,
}

impl Fault {
    const ALL: [Fault; 5] = [Fault::Status, Fault::Silent, Fault::Unreachable, Fault::Broke, Fault::Wrong];

    pub(super) fn of(said: &Said) -> Fault {
        match said {
            Said::Status(..) => Fault::Status,
            Said::Silent(_) => Fault::Silent,
            Said::Unreachable(_) => Fault::Unreachable,
            Said::Broke(_) => Fault::Broke,
            Said::Wrong(_) | Said::Refuted => Fault::Wrong,
            Said::Closed => Fault::Unreachable,
        }
    }
}

impl Label for Fault {
    const KEY: &'static str = "fault";
    fn label(&self) -> &'static str {
        match self {
            Fault::Status => "status",
            Fault::Silent => "silent",
            Fault::Unreachable => "unreachable",
            Fault::Broke => "broke",
            Fault::Wrong => "wrong",
        }
    }
}

/// How files stood before the checksum database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verified {
    /// It vouches for the bytes.
    Right,
    /// It names another sum; the bytes were not kept.
    Wrong,
    /// It could not be asked, or is not asked for this module.
    Unverified,
}

impl Verified {
    const ALL: [Verified; 3] = [Verified::Right, Verified::Wrong, Verified::Unverified];
}

impl Label for Verified {
    const KEY: &'static str = "verdict";
    fn label(&self) -> &'static str {
        match self {
            Verified::Right => "right",
            Verified::Wrong => "wrong",
            Verified::Unverified => "unverified",
        }
    }
}

/// What was served since the start, for a person.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Answers without an upstream of their own, and their bytes where the length was known.
    pub from_cache: u64,
    pub bytes_from_cache: u64,
    /// Answers that an upstream was asked for.
    pub from_upstream: u64,
    pub bytes_from_upstream: u64,
    /// What mirrors did wrong and no client noticed, or that a request failed of.
    pub faults: u64,
}

/// The counters of this room.
#[derive(Clone)]
pub struct Tally {
    served: Every<Served>,
    bytes: Every<Served>,
    refused: Family<By<Refused>, Counter>,
    faults: Family<By<Fault>, Counter>,
    verified: Family<By<Verified>, Counter>,
    rescues: Family<By<Rescue>, Counter>,
    // What upstreams were waited for; hits are not timed.
    upstream: Histogram,
    recent: Recent,
}

impl Tally {
    pub(super) fn new(registry: &Registry) -> Tally {
        let tally = Tally {
            served: Every::of(&Served::ALL),
            bytes: Every::of(&Served::ALL),
            refused: Family::default(),
            faults: Family::default(),
            verified: Family::default(),
            rescues: Family::default(),
            // From what a mirror next door takes to the budget of a request.
            upstream: Histogram::new(exponential_buckets(0.005, 2.0, 14)),
            recent: registry.recent().clone(),
        };
        tally.begin_at_zero();
        registry.room("goproxy", |families| {
            families.register("served", "Module requests answered, by whence the answer came", tally.served.family());
            let bytes = "Bytes of answers of known length, by whence they came";
            families.register_with_unit("served", bytes, Unit::Bytes, tally.bytes.family());
            families.register("refused", "Module requests not answered, by reason", tally.refused.clone());
            families.register("faults", "What mirrors did that made us ask again or elsewhere", tally.faults.clone());
            families.register("verified", "Files put to the checksum database, by its verdict", tally.verified.clone());
            families.register(
                "rescues",
                "Answers had in spite of a mirror's fault, by what they were had by",
                tally.rescues.clone(),
            );
            let upstream = "How long requests that an upstream was asked for waited for it";
            families.register_with_unit("upstream", upstream, Unit::Seconds, tally.upstream.clone());
        });
        tally
    }

    fn begin_at_zero(&self) {
        begin_at_zero(&self.refused, &Refused::ALL);
        begin_at_zero(&self.faults, &Fault::ALL);
        begin_at_zero(&self.verified, &Verified::ALL);
        begin_at_zero(&self.rescues, &Rescue::ALL);
    }

    /// An upstream was asked for this, or another request's answer waited for.
    pub(super) fn tell(&self, request: &ModuleRequest, served: Served, bytes: Option<u64>, took: Duration) {
        self.upstream.observe(took.as_secs_f64());
        let event = Event { bytes, ..Event::of(request.to_string(), served.label()).took(took) };
        self.recent.tell(Sort::Module, event, SystemTime::now());
    }

    /// A mirror gave what it, or another one, had failed to give before.
    pub(super) fn rescue(&self, path: &str, by: &str, faults: &[String]) {
        self.rescued(Rescue::Retried, path.trim_start_matches('/'), format!("{by} gave it; {}", faults.join("; ")));
    }

    /// An answer was served that is older than any is while a mirror answers.
    pub(super) fn outlive(&self, request: &ModuleRequest, age: Option<Duration>) {
        let age = age.unwrap_or_default().as_secs();
        let age = if age < 3600 { format!("{} min", age / 60) } else { format!("{} h", age / 3600) };
        self.rescued(
            Rescue::Older,
            &request.to_string(),
            format!("no mirror answered in time; an answer of {age} ago served"),
        );
    }

    fn rescued(&self, rescue: Rescue, what: &str, words: String) {
        self.rescues.get_or_create(&By(rescue)).inc();
        self.recent.tell(Sort::Rescued, Event::of(what, rescue.label()).words(words), SystemTime::now());
    }

    pub(super) fn serve(&self, served: Served, length: Option<u64>) {
        self.served.add(&served, 1);
        self.bytes.add(&served, length.unwrap_or(0));
    }

    pub(super) fn totals(&self) -> Totals {
        let sum = |every: &Every<Served>, kinds: &[Served]| kinds.iter().map(|kind| every.get(kind)).sum();
        Totals {
            from_cache: sum(&self.served, &Served::KEPT),
            bytes_from_cache: sum(&self.bytes, &Served::KEPT),
            from_upstream: sum(&self.served, &Served::HAD),
            bytes_from_upstream: sum(&self.bytes, &Served::HAD),
            faults: Fault::ALL.iter().map(|&fault| self.faults.get_or_create(&By(fault)).get()).sum(),
        }
    }

    pub(super) fn refuse(&self, failure: &Failure) {
        let refused = match failure.kind() {
            Kind::Fault => Refused::Fault,
            Kind::Silence => Refused::Silence,
            Kind::Policy => Refused::Policy,
            Kind::Said { .. } => Refused::Said,
        };
        self.refused.get_or_create(&By(refused)).inc();
    }

    pub(super) fn fault(&self, said: &Said) {
        self.faults.get_or_create(&By(Fault::of(said))).inc();
    }

    pub(super) fn verify(&self, verified: Verified) {
        self.verified.get_or_create(&By(verified)).inc();
    }
}
