//! What may be kept and for how long, whose word counts, and when to try again. Decided here, in
//! pure code, and carried out elsewhere.
//!
//! The rules are DESIGN.md section 6: an absence is believed only from an upstream that said 404 or
//! 410, a fault never becomes one; what changes is fresh for a minute, served at once and asked for
//! again for five, and after that only when the upstreams do not answer in time.

use std::time::{Duration, SystemTime};

use http::StatusCode;

use super::path::Module;
pub use crate::metrics::millis;

/// Served at once while it is asked for again, up to this age.
pub const SOON: Duration = Duration::from_secs(5 * 60);
/// What is older than that gives the upstreams this long before it is served all the same.
pub const GRACE: Duration = Duration::from_secs(1);
/// How long a 404 or 410 is replayed while no upstream answers.
pub const ABSENT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long any other answer is replayed while no upstream answers.
pub const STALE_FOR: Duration = Duration::from_secs(90 * 24 * 3600);
/// How often an unverified file is verified again, and an `.info` on which mirrors agree compared again.
pub const RECHECK: Duration = Duration::from_secs(24 * 3600);
/// How long the other configured mirrors have to contradict a 404.
pub const CONTRADICT: Duration = Duration::from_secs(2);
/// Tries on one mirror within one request of a client.
pub const TRIES: u32 = 6;
/// The same, where it was silent: whoever waits has waited long by then.
pub const SILENT_TRIES: u32 = 4;
/// The same, where it has been down for `DOWN` when the request comes.
pub const TRIES_AT_REST: u32 = 2;
/// What is shorter than that is a restart or a hiccup, and waited out; whoever is away for longer is down.
pub const DOWN: Duration = Duration::from_secs(10);
/// Tries on one mirror that answers with the wrong bytes: a flipped bit is worth one more.
pub const WRONG_TRIES: u32 = 2;

const FIRST_PAUSE: Duration = Duration::from_millis(150);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A Retry-After beyond this is not waited for; other mirrors are asked, or the fault is told.
const LONGEST_WISH: Duration = Duration::from_secs(10);

/// How a kept answer of a changing kind may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// As it stands.
    Fresh,
    /// At once, while the upstreams are asked again behind it.
    Soon,
    /// After the upstreams had their chance.
    Old,
    /// Not at all.
    Gone,
}

/// Judges an answer of this age. `absent` says that it is a 404 or 410.
pub fn judge_age(age: Duration, fresh: Duration, absent: bool) -> Freshness {
    let last = if absent { ABSENT_FOR } else { STALE_FOR };
    match age {
        _ if age <= fresh => Freshness::Fresh,
        _ if age <= SOON => Freshness::Soon,
        _ if age <= last => Freshness::Old,
        _ => Freshness::Gone,
    }
}

/// How old something is. What comes from a moment ahead is new, since clocks are set and differ; what
/// comes from further ahead was kept under a clock that was wrong, and nobody knows how old it is.
pub fn age(at_ms: u64, now: SystemTime) -> Duration {
    let ahead = Duration::from_millis(at_ms.saturating_sub(millis(now)));
    if ahead > SOON {
        return SOON + Duration::from_secs(1);
    }
    Duration::from_millis(millis(now).saturating_sub(at_ms))
}

/// What a status says about the file and about the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    Here,
    /// The file does not exist, as far as this mirror knows.
    Absent,
    /// This path is refused; the mirror is well, and asking it again is no use.
    Refused,
    /// The mirror is unwell; it may be well in a moment.
    Fault,
}

/// Reads a status. A 403 concerns a path, not the mirror.
pub fn read_status(status: StatusCode) -> Meaning {
    match status.as_u16() {
        200 => Meaning::Here,
        404 | 410 => Meaning::Absent,
        408 | 425 | 429 | 500 | 502 | 503 | 504 | 520..=529 => Meaning::Fault,
        // Anything else in the 2xx or 3xx is no answer to a plain GET whose redirects were followed.
        100..=399 => Meaning::Fault,
        _ => Meaning::Refused,
    }
}

/// How long to wait before a mirror's next try, by full jitter: anything up to a doubling bound, so
/// that many waiting clients do not come back together.
pub fn pause(tries: u32) -> Duration {
    let bound = FIRST_PAUSE.saturating_mul(1 << tries.min(6)).min(LONGEST_PAUSE);
    bound.mul_f64(fastrand::f64())
}

/// What a `Retry-After` in seconds asks for, where it is short enough to be heeded.
pub fn read_retry_after(value: Option<&str>) -> Option<Duration> {
    let wish = Duration::from_secs(value?.trim().parse().ok()?);
    Some(wish.min(LONGEST_WISH + Duration::from_secs(1)))
}

/// Whether a mirror's wish to be left alone is worth waiting out.
pub fn heeds(wish: Duration) -> bool {
    wish <= LONGEST_WISH
}

/// Module path patterns as GOPRIVATE writes them.
#[derive(Clone, Debug, Default)]
pub struct Patterns(Vec<String>);

impl Patterns {
    /// Takes patterns, each perhaps a list by comma.
    pub fn new<S: AsRef<str>>(lists: &[S]) -> Patterns {
        let globs = lists.iter().flat_map(|list| list.as_ref().split(','));
        // A trailing slash on a pattern is ignored, an empty pattern too (module.MatchPrefixPatterns).
        let globs = globs.map(|glob| glob.strip_suffix('/').unwrap_or(glob).to_owned());
        Patterns(globs.filter(|glob| !glob.is_empty()).collect())
    }

    /// Whether some leading components of the module's path match a pattern.
    pub fn cover(&self, module: &Module) -> bool {
        self.0.iter().any(|glob| matches_prefix(glob, module.as_str()))
    }
}

/// A pattern of N components is matched against the first N of the path.
fn matches_prefix(glob: &str, path: &str) -> bool {
    let slashes = glob.matches('/').count();
    let end = path.match_indices('/').nth(slashes).map_or(path.len(), |(at, _)| at);
    let prefix = &path[..end];
    prefix.matches('/').count() == slashes && matches_glob(glob.as_bytes(), prefix.as_bytes())
}

/// Go's path.Match: `*` and `?` stop at slashes, `[…]` with `^` and ranges, `\` quotes; a malformed
/// pattern matches nothing. Module paths are ASCII, so bytes are characters.
fn matches_glob(glob: &[u8], text: &[u8]) -> bool {
    match glob.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => {
            let reach = text.iter().position(|&byte| byte == b'/').unwrap_or(text.len());
            (0..=reach).any(|skipped| matches_glob(rest, &text[skipped..]))
        }
        Some(_) => match (match_one(glob, text.first().copied()), text.split_first()) {
            (Some(rest), Some((_, text))) => matches_glob(rest, text),
            _ => false,
        },
    }
}

/// Matches one character; what is left of the pattern, if it did.
fn match_one(glob: &[u8], byte: Option<u8>) -> Option<&[u8]> {
    let byte = byte?;
    match glob.split_first()? {
        (b'?', rest) => (byte != b'/').then_some(rest),
        (b'\\', rest) => rest.split_first().and_then(|(quoted, rest)| (*quoted == byte).then_some(rest)),
        (b'[', rest) => match_class(rest, byte),
        (plain, rest) => (*plain == byte).then_some(rest),
    }
}

fn match_class(mut class: &[u8], byte: u8) -> Option<&[u8]> {
    let negated = class.first() == Some(&b'^');
    if negated {
        class = &class[1..];
    }
    let mut found = false;
    let mut ranges = 0;
    loop {
        if class.first() == Some(&b']') && ranges > 0 {
            return (found != negated).then_some(&class[1..]);
        }
        let low;
        (low, class) = class_byte(class)?;
        let mut high = low;
        if class.first() == Some(&b'-') {
            (high, class) = class_byte(&class[1..])?;
        }
        found |= (low..=high).contains(&byte);
        ranges += 1;
    }
}

/// path.getEsc
fn class_byte(class: &[u8]) -> Option<(u8, &[u8])> {
    match class.split_first()? {
        (b'-' | b']', _) => None,
        (b'\\', rest) => rest.split_first().map(|(byte, rest)| (*byte, rest)),
        (byte, rest) => Some((*byte, rest)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const FRESH: Duration = Duration::from_secs(60);

    #[test]
    fn an_answer_ages() {
        let seconds = Duration::from_secs;
        let table = [
            (seconds(0), false, Freshness::Fresh),
            (seconds(60), false, Freshness::Fresh),
            (seconds(61), false, Freshness::Soon),
            (seconds(300), true, Freshness::Soon),
            (seconds(301), true, Freshness::Old),
            (seconds(86_400), true, Freshness::Old),
            (ABSENT_FOR + seconds(1), true, Freshness::Gone),
            (ABSENT_FOR + seconds(1), false, Freshness::Old),
            (STALE_FOR + seconds(1), false, Freshness::Gone),
        ];
        for (age, absent, want) in table {
            assert_eq!(judge_age(age, FRESH, absent), want, "{age:?} absent={absent}");
        }
    }

    #[test]
    fn a_longer_fresh_life_wins_over_soon() {
        assert_eq!(judge_age(Duration::from_secs(500), Duration::from_secs(600), false), Freshness::Fresh);
    }

    #[test]
    fn a_clock_that_went_back_makes_nothing_old() {
        assert_eq!(age(10_000, UNIX_EPOCH + Duration::from_secs(5)), Duration::ZERO);
        assert_eq!(age(10_000, UNIX_EPOCH + Duration::from_secs(15)), Duration::from_secs(5));
    }

    #[test]
    fn only_404_and_410_mean_absent() {
        let meaning = |code| read_status(StatusCode::from_u16(code).unwrap());
        assert_eq!(meaning(200), Meaning::Here);
        for code in [404, 410] {
            assert_eq!(meaning(code), Meaning::Absent, "{code}");
        }
        for code in [204, 206, 302, 304, 408, 429, 500, 502, 503, 504, 522] {
            assert_eq!(meaning(code), Meaning::Fault, "{code}");
        }
        for code in [400, 401, 403, 451, 501] {
            assert_eq!(meaning(code), Meaning::Refused, "{code}");
        }
    }

    #[test]
    fn pauses_grow_within_a_bound() {
        for tries in 0..40 {
            assert!(pause(tries) <= LONGEST_PAUSE);
        }
        assert!(pause(0) <= FIRST_PAUSE);
    }

    #[test]
    fn a_short_retry_after_is_heeded() {
        assert_eq!(read_retry_after(Some(" 3 ")), Some(Duration::from_secs(3)));
        assert!(heeds(read_retry_after(Some("10")).unwrap()));
        assert!(!heeds(read_retry_after(Some("86400")).unwrap()));
        assert_eq!(read_retry_after(Some("Wed, 21 Oct 2015 07:28:00 GMT")), None);
        assert_eq!(read_retry_after(None), None);
    }

    #[test]
    fn patterns_match_as_goprivate_does() {
        // x/mod/module/module_test.go, TestMatchPrefixPatterns
        let table = [
            ("*/quote", "rsc.io/quote", true),
            ("*/quo", "rsc.io/quote", false),
            ("*/quo??", "rsc.io/quote", true),
            ("*/quo*", "rsc.io/quote", true),
            ("*quo*", "rsc.io/quote", false),
            ("rsc.io", "rsc.io/quote", true),
            ("*.io", "rsc.io/quote", true),
            ("rsc.io/", "rsc.io/quote", true),
            ("rsc", "rsc.io/quote", false),
            ("rsc*", "rsc.io/quote", true),
            ("rsc.io", "rsc.io/quote/v3", true),
            ("*/quote", "rsc.io/quote/v3", true),
            ("*/quote/*", "rsc.io/quote/v3", true),
            ("*/v3", "rsc.io/quote/v3", false),
            ("*/*/v3", "rsc.io/quote/v3", true),
            ("*/*/*", "rsc.io/quote/v3", true),
            ("*/*/*", "rsc.io/quote", false),
            ("*/*/*,,", "rsc.io/quote", false),
            ("*/*/*,,*/quote", "rsc.io/quote", true),
            (",,*/quote", "rsc.io/quote", true),
            ("rsc.[a-j]o", "rsc.io/quote", true),
            ("rsc.[^a-j]o", "rsc.io/quote", false),
            ("rsc.[", "rsc.io/quote", false),
            ("rsc.[]o", "rsc.io/quote", false),
            ("rsc\\.io", "rsc.io/quote", true),
        ];
        for (globs, target, want) in table {
            assert_eq!(Patterns::new(&[globs]).cover(&Module::new(target).unwrap()), want, "{globs} {target}");
        }
    }
}
