//! What is read when somebody scrapes: state that has a value at any time, and labels that come and go
//! with the configuration (a name server, a mirror). A counter is counted; this is looked at.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;

/// The labels of a reading: keys that are always the same, and their values.
pub type Labels = Vec<(&'static str, String)>;

/// The reading of what has one value and no labels; none where it cannot be told.
pub fn one(value: Option<f64>) -> Vec<(Labels, f64)> {
    value.map(|value| (Labels::new(), value)).into_iter().collect()
}

/// Whether a server of somebody else's is worth asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Not asked since the start.
    Unused,
    Up,
    /// It faulted, and is asked on.
    Suspect,
    /// Asked only where there is nobody else.
    Down,
}

impl Condition {
    /// Up or down as a scraper has it; nothing of one that was not asked.
    pub fn reading(self) -> Option<f64> {
        (self != Condition::Unused).then(|| f64::from(u8::from(self != Condition::Down)))
    }
}

/// One family that is read at each scrape.
pub struct Live<R> {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    read: R,
}

impl<R: Fn() -> Vec<(Labels, f64)> + Send + Sync + 'static> Live<R> {
    /// A value that goes up and down.
    pub fn gauge(name: &'static str, help: &'static str, read: R) -> Box<Live<R>> {
        Box::new(Live { name, help, kind: MetricType::Gauge, read })
    }

    /// A value that somebody else counts, and that never goes down.
    pub fn counter(name: &'static str, help: &'static str, read: R) -> Box<Live<R>> {
        Box::new(Live { name, help, kind: MetricType::Counter, read })
    }
}

impl<R> fmt::Debug for Live<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl<R: Fn() -> Vec<(Labels, f64)> + Send + Sync + 'static> Collector for Live<R> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // As `Registry::register` ends a help text.
        let help = format!("{}.", self.help);
        let mut family = encoder.encode_descriptor(self.name, &help, None, self.kind)?;
        for (labels, value) in (self.read)() {
            // Without labels there is one value, and no empty braces behind its name.
            if labels.is_empty() {
                return self.write(value, family);
            }
            self.write(value, family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl<R> Live<R> {
    fn write(&self, value: f64, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match self.kind {
            MetricType::Counter => ConstCounter::new(value).encode(encoder),
            _ => ConstGauge::new(value).encode(encoder),
        }
    }
}
