//! The clock, compared with what servers say that the time is. Certificates have dates, so a machine
//! whose clock is wrong fails with words about certificates.

use std::time::{Duration, SystemTime};

use super::finding::{Finding, Mend};

/// More than any honest server is off, and more than a slow answer takes.
const OFF: i64 = 5 * 60;
/// From here on certificates that are new, or about to be replaced, are refused.
const FAR_OFF: i64 = 24 * 60 * 60;

/// Judges our clock by how far each server's is ahead of it; `refused`, if a certificate's dates were.
pub(super) fn judge(ahead: &[i64], refused: bool, now: SystemTime) -> Finding {
    let Some(middle) = middle(ahead) else {
        let ask = || Mend::Ask("you: compare date with a clock that is right, and set it".to_owned());
        return match refused {
            true => Finding::fault(
                "clock",
                "",
                format!("it says {}, and certificates are not of that time", spell(now)),
                ask(),
            ),
            false => Finding::ok("clock", "", format!("it says {}; no server answered to compare it with", spell(now))),
        };
    };
    if middle.abs() < OFF {
        return Finding::ok("clock", "", "it says what servers say");
    }
    let right = match u64::try_from(middle) {
        Ok(ahead) => now + Duration::from_secs(ahead),
        Err(_) => now - Duration::from_secs(middle.unsigned_abs()),
    };
    let seconds = right.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let saw = format!("it says {}, and servers say {}", spell(now), spell(right));
    let mend = Mend::Type(format!("date --utc --set=@{seconds}"));
    match refused || middle.abs() >= FAR_OFF {
        true => Finding::fault("clock", "", saw, mend),
        false => Finding::warning("clock", "", saw, mend),
    }
}

/// One liar among several is not believed.
fn middle(ahead: &[i64]) -> Option<i64> {
    let mut sorted = ahead.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

fn spell(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time)
        .map_or_else(|_| "a time that nobody has".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn a_clock_is_judged_by_how_far_it_is_off() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let table: [(&[i64], bool, Verdict); 7] = [
            (&[], false, Verdict::Ok),
            (&[], true, Verdict::Fault),
            (&[2, -1, 0], false, Verdict::Ok),
            (&[0, 0, 90_000], false, Verdict::Ok),
            (&[-3600], false, Verdict::Warning),
            (&[-3600], true, Verdict::Fault),
            (&[90_000, 90_001], false, Verdict::Fault),
        ];
        for (ahead, refused, verdict) in table {
            assert_eq!(judge(ahead, refused, now).verdict, verdict, "{ahead:?} {refused}");
        }
        let slow = judge(&[3600], false, now);
        assert_eq!(slow.mend.unwrap().command().unwrap(), "date --utc --set=@1700003600");
    }
}
