//! How the mirrors are, for a person and for a scraper: one row a mirror, with the reason.

use serde::Serialize;

use super::Goproxy;
use super::answer::House;
use super::mirrors::{Manner, Mirror, Vital};
use crate::metrics::{Condition, Labels, Live, Registry};

/// One mirror or checksum database, as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MirrorReport {
    pub mirror: String,
    /// When it is asked.
    pub role: &'static str,
    pub condition: Condition,
    /// Why it is said to be so.
    pub words: String,
}

impl House {
    pub(super) fn report(&self) -> Vec<MirrorReport> {
        let pool = self.origin();
        let role = |at: usize| match (at, pool.manner) {
            (0, _) => "first",
            (_, Manner::Named) => "beside it",
            (_, Manner::OnFault) => "on faults",
        };
        let rows = pool.mirrors.iter().enumerate().map(|(at, mirror)| describe(mirror, role(at)));
        let databases = self.databases().iter().flat_map(|database| database.own_source());
        // Mirrors pass the databases on, and stand above.
        let own =
            databases.filter(|source| !pool.mirrors.iter().any(|mirror| mirror.base.target == source.base.target));
        rows.chain(own.map(|source| describe(source, "checksums"))).collect()
    }
}

impl Goproxy {
    /// How the mirrors of origin form are, and the checksum databases.
    pub fn report(&self) -> Vec<MirrorReport> {
        self.house.report()
    }

    /// Lets scrapers see which mirrors are up. The label is bounded by the configuration.
    pub(super) fn show(&self, registry: &Registry) {
        let house = std::sync::Arc::downgrade(&self.house);
        let read = move || {
            let report = house.upgrade().map(|house| house.report()).unwrap_or_default();
            report.into_iter().filter_map(|row| Some((labels(&row), row.condition.reading()?))).collect()
        };
        let help = "Whether a mirror that was asked is worth asking (1) or its breaker is open (0)";
        registry.room("goproxy", |families| families.register_collector(Live::gauge("mirror_up", help, read)));
    }
}

fn labels(row: &MirrorReport) -> Labels {
    vec![("mirror", row.mirror.clone()), ("role", row.role.to_owned())]
}

fn describe(mirror: &Mirror, role: &'static str) -> MirrorReport {
    let vital = mirror.vital();
    let (condition, mut words) = judge(&vital);
    if vital.lied {
        words.push_str("; it gave bytes that were not what they should be, so it is asked last");
    }
    MirrorReport { mirror: mirror.name(), role, condition, words }
}

fn judge(vital: &Vital) -> (Condition, String) {
    let why = vital.why.clone().unwrap_or_else(|| "it faulted".to_owned());
    match (vital.rests_for, vital.faults) {
        (Some(left), _) if left.is_zero() => (Condition::Down, format!("{why}; its next trial is due")),
        (Some(left), _) => {
            let again = left.as_secs() + 1;
            (Condition::Down, format!("{why}; asked only if nobody else can be, for {again} s"))
        }
        (None, 0) if vital.is_unused => (Condition::Unused, "not needed yet".to_owned()),
        (None, 0) => (Condition::Up, "answers".to_owned()),
        (None, faults) => (Condition::Suspect, format!("{why}; {faults} in a row, asked on")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_condition_has_its_reason() {
        let well = Vital { is_unused: false, faults: 0, rests_for: None, why: None, lied: false };
        let said = |vital: &Vital| judge(vital).1;
        assert_eq!(said(&Vital { is_unused: true, ..well.clone() }), "not needed yet");
        assert_eq!(said(&well), "answers");
        let ill = Vital { faults: 2, why: Some("503 Service Unavailable".to_owned()), ..well };
        assert_eq!(said(&ill), "503 Service Unavailable; 2 in a row, asked on");
        let down = Vital { rests_for: Some(Duration::from_millis(4200)), ..ill };
        assert_eq!(judge(&down).0, Condition::Down);
        assert_eq!(said(&down), "503 Service Unavailable; asked only if nobody else can be, for 5 s");
    }
}
