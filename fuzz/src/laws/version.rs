//! Versions, one a line: their order is total, the canonical form is its own, and it stands where
//! the version stood.

use std::cmp::Ordering;

use crate::goproxy::version::{canonical, compare, is_canonical, is_valid, pseudo_time};

/// Triples are compared, so that more would only be slow.
const MOST: usize = 6;

pub fn hold(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let versions: Vec<&str> = text.split('\n').take(MOST).collect();
    for version in &versions {
        hold_one(version);
        for other in &versions {
            assert_eq!(compare(version, other), compare(other, version).reverse(), "{version:?} {other:?}");
            for third in &versions {
                hold_order(version, other, third);
            }
        }
    }
}

fn hold_one(version: &str) {
    assert_eq!(compare(version, version), Ordering::Equal);
    let whole = canonical(version);
    assert_eq!(whole.is_some(), is_valid(version));
    let Some(whole) = whole else { return assert!(pseudo_time(version).is_none()) };
    assert_eq!(canonical(&whole).as_ref(), Some(&whole));
    assert!(is_canonical(&whole));
    assert_eq!(compare(version, &whole), Ordering::Equal, "{version:?} {whole:?}");
}

fn hold_order(one: &str, two: &str, three: &str) {
    let (first, second) = (compare(one, two), compare(two, three));
    if first == second || second == Ordering::Equal {
        assert_eq!(compare(one, three), first, "{one:?} {two:?} {three:?}");
    }
}
