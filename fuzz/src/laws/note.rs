//! A lookup's answer is a record and a head and nothing else: both together are what came, and each is
//! read again as what it was. A head that opens is one that the database signed, of a size that the
//! arithmetic of tiles can take.

use std::sync::LazyLock;

use bytes::Bytes;
use signed_note::StandardVerifier;

use crate::goproxy::log::{Head, Record};

static KEY: LazyLock<StandardVerifier> = LazyLock::new(|| {
    StandardVerifier::new("sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8").expect("a key")
});

pub fn hold(bytes: &[u8]) {
    hold_head(bytes);
    let answer = Bytes::copy_from_slice(bytes);
    let Ok((record, note)) = Record::split(&answer) else { return };
    assert_eq!([record.text.as_ref(), note.as_ref()].concat(), bytes);
    assert_eq!(Record::split(&record.text), Ok((record.clone(), Bytes::new())));
    let lines = record.lines();
    assert!(lines.ends_with(b"\n") && !lines.starts_with(b"\n") && std::str::from_utf8(lines).is_ok());
    let number: u64 = record.id;
    let first = record.text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    assert_eq!(std::str::from_utf8(first).ok().and_then(|first| first.parse().ok()), Some(number));
    hold_head(&note);
}

fn hold_head(note: &[u8]) {
    let Ok(head) = Head::open(note, &KEY) else { return };
    assert!(head.size > 0 && head.size < 1 << 40);
    assert_eq!(Head::open(&head.note, &KEY), Ok(head));
}
