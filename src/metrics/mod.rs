//! Counting and telling: the registry that every room puts its own families into, the text that a
//! scraper reads (OpenMetrics 1.0), and the few lines that a person reads (`recent`).
//!
//! Rooms own their counters and register them through [`Registry::room`]; label values come from
//! outcome enums by way of [`Label`], so the set of series is bounded by the types. Nothing here
//! knows what is counted, and there are no globals: tests make a registry each.

mod live;
mod plain;
mod recent;

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelSetEncoder, LabelValueEncoder};
use prometheus_client::registry::Registry as Families;

pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
pub use prometheus_client::metrics::info::Info;
pub use prometheus_client::registry::Unit;

pub use live::{Condition, Labels, Live, one};
pub use plain::CONTENT_TYPE as PLAIN_CONTENT_TYPE;
pub use recent::{Counts, Event, Lately, Recent, Sort, millis};

/// The content type of [`Registry::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All families of one process. Cloning gives another handle to the same registry.
#[derive(Clone)]
pub struct Registry {
    // Locked while a room registers (at start) and while a scrape is written; never on a request.
    families: Arc<Mutex<Families>>,
    recent: Recent,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry { families: Arc::new(Mutex::new(Families::with_prefix("goanyway"))), recent: Recent::default() }
    }
}

impl Registry {
    /// Lets a room register its families under `goanyway_<room>_`.
    pub fn room(&self, room: &str, register: impl FnOnce(&mut Families)) {
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        register(families.sub_registry_with_prefix(room));
    }

    /// Lets the house as a whole register families under `goanyway_`.
    pub fn house(&self, register: impl FnOnce(&mut Families)) {
        register(&mut self.families.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Where a room tells in words what has just happened.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// Everything, as Prometheus read it before OpenMetrics ([`PLAIN_CONTENT_TYPE`]).
    pub fn plain_text(&self) -> String {
        plain::rewrite(&self.text())
    }

    /// Everything, as OpenMetrics text.
    pub fn text(&self) -> String {
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        // Writing into a String cannot fail; a family that could not encode itself is left out.
        let _ = encode(&mut text, &families);
        text
    }
}

/// An outcome that names itself in logs and metrics: one word, from a closed set.
pub trait Label: Clone + Eq + std::hash::Hash + std::fmt::Debug + Send + Sync + 'static {
    /// The label's key, `outcome` unless the type says better.
    const KEY: &'static str = "outcome";
    /// The word.
    fn label(&self) -> &'static str;
}

/// A label set of one outcome, for a [`Family`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct By<L>(pub L);

impl<L: Label> EncodeLabelSet for By<L> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        write_pair(encoder, L::KEY, self.0.label())
    }
}

/// A label set of two outcomes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct By2<A, B>(pub A, pub B);

impl<A: Label, B: Label> EncodeLabelSet for By2<A, B> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        write_pair(encoder, A::KEY, self.0.label())?;
        write_pair(encoder, B::KEY, self.1.label())
    }
}

/// A family whose series are all at hand: what is counted with every request is looked up in no map that others lock.
#[derive(Clone, Debug)]
pub struct Every<L> {
    family: Family<By<L>, Counter>,
    series: Arc<[(L, Counter)]>,
}

impl<L: Label> Every<L> {
    /// One that begins at zero for all of these.
    pub fn of(all: &[L]) -> Every<L> {
        let family = Family::<By<L>, Counter>::default();
        let series = all.iter().map(|label| (label.clone(), family.get_or_create_owned(&By(label.clone()))));
        Every { series: series.collect(), family }
    }

    /// The family, to be registered.
    pub fn family(&self) -> Family<By<L>, Counter> {
        self.family.clone()
    }

    /// Counts so many more.
    pub fn add(&self, label: &L, count: u64) {
        match self.find(label) {
            Some(counter) => counter.inc_by(count),
            None => self.family.get_or_create(&By(label.clone())).inc_by(count),
        };
    }

    /// How many there were.
    pub fn get(&self, label: &L) -> u64 {
        self.find(label).map_or_else(|| self.family.get_or_create(&By(label.clone())).get(), Counter::get)
    }

    fn find(&self, label: &L) -> Option<&Counter> {
        self.series.iter().find(|(known, _)| known == label).map(|(_, counter)| counter)
    }
}

/// Lets a family have all its series before the first of them is counted: whoever watches for the first fault
/// needs to see that there was none before.
pub fn begin_at_zero<L: Label>(family: &Family<By<L>, Counter>, all: &[L]) {
    all.iter().for_each(|label| drop(family.get_or_create(&By(label.clone()))));
}

fn write_pair(
    encoder: &mut LabelSetEncoder<'_>,
    key: &'static str,
    value: &'static str,
) -> Result<(), std::fmt::Error> {
    use prometheus_client::encoding::EncodeLabelKey;
    let mut label = encoder.encode_label();
    let mut written = label.encode_label_key()?;
    EncodeLabelKey::encode(&key, &mut written)?;
    let mut written: LabelValueEncoder<'_> = written.encode_label_value()?;
    EncodeLabelValue::encode(&value, &mut written)?;
    written.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    enum Weather {
        Fair,
    }

    impl Label for Weather {
        const KEY: &'static str = "weather";
        fn label(&self) -> &'static str {
            match self {
                Weather::Fair => "fair",
            }
        }
    }

    #[test]
    fn what_is_at_hand_is_counted_like_any_other() {
        let registry = Registry::default();
        let (days, nights) = (Every::of(&[Weather::Fair]), Every::of(&[]));
        registry.room("garden", |families| {
            families.register("days", "Days seen", days.family());
            families.register("nights", "Nights seen", nights.family());
        });
        assert!(registry.text().contains("goanyway_garden_days_total{weather=\"fair\"} 0"));
        days.add(&Weather::Fair, 3);
        nights.add(&Weather::Fair, 2);
        assert_eq!((days.get(&Weather::Fair), nights.get(&Weather::Fair)), (3, 2));
        for line in ["days_total{weather=\"fair\"} 3", "nights_total{weather=\"fair\"} 2"] {
            assert!(registry.text().contains(line), "{line}");
        }
    }

    #[test]
    fn a_room_counts_by_outcome_under_its_own_name() {
        let registry = Registry::default();
        let days: Family<By<Weather>, Counter> = Family::default();
        registry.room("garden", |families| families.register("days", "Days seen", days.clone()));
        days.get_or_create(&By(Weather::Fair)).inc();
        let text = registry.text();
        assert!(text.contains("goanyway_garden_days_total{weather=\"fair\"} 1"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
