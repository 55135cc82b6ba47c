//! Go's semantic versions: valid, canonical, in order, and the time inside a pseudo-version.
//!
//! A port of `golang.org/x/mod/semver` and of the parts of `x/mod/module/pseudo.go` that decide
//! what may be kept for ever. Pure text: nothing here knows a server.

use std::cmp::Ordering;

/// A version taken apart. `short` is what a shortened one lacks to be whole.
struct Parts<'a> {
    major: &'a str,
    minor: &'a str,
    patch: &'a str,
    short: &'static str,
    prerelease: &'a str,
    build: &'a str,
}

/// Whether this is a semantic version as go writes it, `v` in front, perhaps shortened (`v1`, `v1.2`).
pub fn is_valid(version: &str) -> bool {
    parse(version).is_some()
}

/// The full form without build metadata, but with `+incompatible` (module.CanonicalVersion).
pub fn canonical(version: &str) -> Option<String> {
    let parts = parse(version)?;
    let bare = &version[..version.len() - parts.build.len()];
    let kept = if parts.build == "+incompatible" { parts.build } else { "" };
    Some(format!("{bare}{}{kept}", parts.short))
}

/// Whether a file of this version never changes: the version is its own canonical form.
pub fn is_canonical(version: &str) -> bool {
    canonical(version).is_some_and(|whole| whole == version)
}

/// Semantic order; an invalid version is below every valid one and equal to any other invalid one.
pub fn compare(one: &str, other: &str) -> Ordering {
    match (parse(one), parse(other)) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(one), Some(other)) => compare_int(one.major, other.major)
            .then_with(|| compare_int(one.minor, other.minor))
            .then_with(|| compare_int(one.patch, other.patch))
            .then_with(|| compare_prerelease(one.prerelease, other.prerelease)),
    }
}

/// The time in a pseudo-version (module.IsPseudoVersion), as RFC 3339 writes it to the second: `2019-05-10T10:41:15Z`.
pub fn pseudo_time(version: &str) -> Option<String> {
    let stamp = pseudo_stamp(version)?;
    let at = |range: std::ops::Range<usize>| &stamp[range];
    Some(format!("{}-{}-{}T{}:{}:{}Z", at(0..4), at(4..6), at(6..8), at(8..10), at(10..12), at(12..14)))
}

/// `v1.0.0-`, `v1.2.3-0.` or `v1.2.3-pre.0.`, then fourteen digits, a hyphen and a revision
/// (pseudoVersionRE of x/mod/module/pseudo.go).
fn pseudo_stamp(version: &str) -> Option<&str> {
    let parts = parse(version)?;
    let (front, revision) = parts.prerelease.strip_prefix('-')?.rsplit_once('-')?;
    if revision.is_empty() || !revision.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let (lead, stamp) = front.split_at_checked(front.len().checked_sub(14)?)?;
    let first_form = lead.is_empty() && parts.minor == "0" && parts.patch == "0";
    let later_form = lead == "0." || lead.ends_with(".0.");
    ((first_form || later_form) && is_number(stamp)).then_some(stamp)
}

fn parse(version: &str) -> Option<Parts<'_>> {
    let (major, rest) = parse_int(version.strip_prefix('v')?)?;
    if rest.is_empty() {
        return Some(Parts { major, minor: "0", patch: "0", short: ".0.0", prerelease: "", build: "" });
    }
    let (minor, rest) = parse_int(rest.strip_prefix('.')?)?;
    if rest.is_empty() {
        return Some(Parts { major, minor, patch: "0", short: ".0", prerelease: "", build: "" });
    }
    let (patch, rest) = parse_int(rest.strip_prefix('.')?)?;
    let (prerelease, build) = rest.split_at(rest.find('+').unwrap_or(rest.len()));
    let sound = (prerelease.is_empty() || is_prerelease(prerelease)) && (build.is_empty() || is_build(build));
    sound.then_some(Parts { major, minor, patch, short: "", prerelease, build })
}

fn parse_int(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    (!digits.is_empty() && (digits.len() == 1 || !digits.starts_with('0'))).then_some((digits, rest))
}

fn is_prerelease(text: &str) -> bool {
    text.strip_prefix('-').is_some_and(|list| list.split('.').all(|part| is_identifier(part) && !is_bad_number(part)))
}

fn is_build(text: &str) -> bool {
    text.strip_prefix('+').is_some_and(|list| list.split('.').all(is_identifier))
}

fn is_identifier(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_bad_number(part: &str) -> bool {
    is_number(part) && part.len() > 1 && part.starts_with('0')
}

fn is_number(part: &str) -> bool {
    part.bytes().all(|byte| byte.is_ascii_digit())
}

fn compare_int(one: &str, other: &str) -> Ordering {
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

/// Semantic Versioning 2.0.0 section 11: no pre-release is above any; else part by part.
fn compare_prerelease(one: &str, other: &str) -> Ordering {
    match (one.strip_prefix('-'), other.strip_prefix('-')) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(one), Some(other)) => compare_parts(one, other),
    }
}

fn compare_parts(one: &str, other: &str) -> Ordering {
    let (mut left, mut right) = (one.split('.'), other.split('.'));
    loop {
        match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(a), Some(b)) if a == b => {}
            (Some(a), Some(b)) => return compare_part(a, b),
        }
    }
}

fn compare_part(one: &str, other: &str) -> Ordering {
    match (is_number(one), is_number(other)) {
        (true, true) => compare_int(one, other),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => one.cmp(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// x/mod/semver/semver_test.go, `tests`: in ascending order, with the canonical form.
    const TESTS: [(&str, &str); 32] = [
        ("bad", ""),
        ("v1-alpha.beta.gamma", ""),
        ("v1-pre", ""),
        ("v1+meta", ""),
        ("v1-pre+meta", ""),
        ("v1.2-pre", ""),
        ("v1.2+meta", ""),
        ("v1.2-pre+meta", ""),
        ("v1.0.0-alpha", "v1.0.0-alpha"),
        ("v1.0.0-alpha.1", "v1.0.0-alpha.1"),
        ("v1.0.0-alpha.beta", "v1.0.0-alpha.beta"),
        ("v1.0.0-beta", "v1.0.0-beta"),
        ("v1.0.0-beta.2", "v1.0.0-beta.2"),
        ("v1.0.0-beta.11", "v1.0.0-beta.11"),
        ("v1.0.0-rc.1", "v1.0.0-rc.1"),
        ("v1", "v1.0.0"),
        ("v1.0", "v1.0.0"),
        ("v1.0.0", "v1.0.0"),
        ("v1.2", "v1.2.0"),
        ("v1.2.0", "v1.2.0"),
        ("v1.2.3-456", "v1.2.3-456"),
        ("v1.2.3-456.789", "v1.2.3-456.789"),
        ("v1.2.3-456-789", "v1.2.3-456-789"),
        ("v1.2.3-456a", "v1.2.3-456a"),
        ("v1.2.3-pre", "v1.2.3-pre"),
        ("v1.2.3-pre+meta", "v1.2.3-pre"),
        ("v1.2.3-pre.1", "v1.2.3-pre.1"),
        ("v1.2.3-zzz", "v1.2.3-zzz"),
        ("v1.2.3", "v1.2.3"),
        ("v1.2.3+meta", "v1.2.3"),
        ("v1.2.3+meta-pre", "v1.2.3"),
        ("v1.2.3+meta-pre.sha.256a", "v1.2.3"),
    ];

    #[test]
    fn valid_and_canonical_as_x_mod_has_them() {
        for (version, whole) in TESTS {
            assert_eq!(is_valid(version), !whole.is_empty(), "{version}");
            assert_eq!(canonical(version).unwrap_or_default(), whole, "{version}");
        }
        for bad in ["", "1.0.0", "v01.0.0", "v1.0.0-", "v1.0.0-01", "v1.0.0-a..b", "v1.0.0+", "v1.0.0+a..b", "v1.0.0 "]
        {
            assert!(!is_valid(bad), "{bad}");
        }
    }

    #[test]
    fn order_is_the_order_of_the_table() {
        for (i, (one, one_whole)) in TESTS.iter().enumerate() {
            for (j, (other, other_whole)) in TESTS.iter().enumerate() {
                let want = if one_whole == other_whole { Ordering::Equal } else { i.cmp(&j) };
                assert_eq!(compare(one, other), want, "{one} {other}");
            }
        }
        assert_eq!(compare("v1.19", "v1.2"), Ordering::Greater);
        assert_eq!(compare("v2", "v1"), Ordering::Greater);
    }

    #[test]
    fn only_a_canonical_version_names_a_file_that_never_changes() {
        for yes in ["v1.0.0", "v2.0.0+incompatible", "v1.0.0-rc.1", "v0.0.0-20190510104115-cbcb75029529"] {
            assert!(is_canonical(yes), "{yes}");
        }
        for no in ["v1", "v1.2", "master", "v1.0.0+meta", "cbcb75029529", "latest"] {
            assert!(!is_canonical(no), "{no}");
        }
    }

    #[test]
    fn pseudo_versions_carry_their_time() {
        // x/mod/module/pseudo_test.go, the five forms.
        let forms = [
            "v1.0.0-20060102150405-hash",
            "v1.0.1-0.20060102150405-hash",
            "v1.2.3-pre.0.20060102150405-hash",
            "v1.2.3-pre.0.20060102150405-hash+incompatible",
            "v1.2.4-0.20060102150405-hash+incompatible",
        ];
        for version in forms {
            assert_eq!(pseudo_time(version).as_deref(), Some("2006-01-02T15:04:05Z"), "{version}");
        }
        for no in ["v1.0.0", "v1.0.0-20060102150405", "v1.2.3-20060102150405-hash", "v1.0.0-2006010215040-hash", "v1"] {
            assert_eq!(pseudo_time(no), None, "{no}");
        }
    }
}
