//! The cache as this room uses it: small things read whole, absences apart, facts by name.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use http::StatusCode;
use http::header::{ETAG, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};

use super::failure::{Complaint, Failure, Said};
use super::path::ModuleRequest;
use super::policy;
use crate::cache::{Cache, Draft, Found, Key, Note, Verdict};
use crate::target::Base;

/// Whether the checksum database vouches for the file: `yes` or `no`.
pub const VERIFIED: &str = "verified";
/// When an unverified file was last put to the database, in milliseconds since 1970.
pub const CHECKED: &str = "checked_ms";
/// That the `.info` of a release was told twice alike: `yes`.
pub const AGREED: &str = "agreed";
/// That an `.info` has another time than its version's name, and every mirror said so: `time`.
pub const DOUBT: &str = "doubt";
/// Which mirror it came from.
pub const MIRROR: &str = "mirror";
/// 404 or 410, of an absence.
const STATUS: &str = "status";
/// A mirror's `ETag` and `Last-Modified`, before its base.
const TAG: &str = "etag";
const CHANGED: &str = "last-modified";
/// Nobody's validator is longer; a note is read often.
const LONGEST_VALIDATOR: usize = 256;

/// What a producer says about what it wrote.
pub type Facts = BTreeMap<String, String>;

/// The cache with this room's failures. Cloning gives another handle.
#[derive(Clone)]
pub struct Store {
    pub cache: Cache<Failure>,
}

/// What is held of an answer that changes, so that a mirror need only say that it has not.
#[derive(Clone, Debug)]
pub struct Known {
    pub bytes: Bytes,
    facts: Facts,
}

impl Known {
    /// What a mirror is to compare, in the words that it gave us itself; none where it gave none.
    pub fn conditions(&self, mirror: &Base) -> HeaderMap {
        let said = |what: &str| HeaderValue::from_str(self.facts.get(&format!("{what} {mirror}"))?).ok();
        let tag = said(TAG).map(|tag| (IF_NONE_MATCH, tag));
        let time = said(CHANGED).map(|time| (IF_MODIFIED_SINCE, time));
        tag.into_iter().chain(time).collect()
    }

    /// What it said then, to be kept on.
    pub fn validators(&self, mirror: &Base) -> Facts {
        let said = |what: &str| self.facts.get_key_value(&format!("{what} {mirror}"));
        let pairs = [said(TAG), said(CHANGED)].into_iter().flatten();
        pairs.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// The validators of a mirror's answer, as facts: each mirror has its own.
pub fn validators_of(mirror: &Base, headers: &HeaderMap) -> Facts {
    let said = |what: &str, name| {
        let value = headers.get(name)?.to_str().ok().filter(|value| value.len() <= LONGEST_VALIDATOR)?;
        Some((format!("{what} {mirror}"), value.to_owned()))
    };
    [said(TAG, ETAG), said(CHANGED, LAST_MODIFIED)].into_iter().flatten().collect()
}

/// An upstream's 404 or 410, kept.
#[derive(Clone, Debug)]
pub struct Absence {
    pub at_ms: u64,
    pub status: StatusCode,
    pub text: Bytes,
    /// The names of the mirrors that said so.
    by: Vec<String>,
}

impl Absence {
    /// The same as what is told of it.
    pub fn as_failure(&self, request: &ModuleRequest) -> Failure {
        let text = String::from_utf8_lossy(&self.text).into_owned();
        let said = |by: &String| Complaint { upstream: by.clone(), said: Said::Status(self.status, text.clone()) };
        Failure::absent(request, self.status, text.clone(), self.by.iter().map(said).collect())
    }
}

impl Store {
    /// A small thing, whole.
    pub async fn small(&self, key: &Key, limit: usize) -> Option<Bytes> {
        read_small(self.cache.get(key).await?, limit).await
    }

    /// The same as another process may have changed it.
    pub async fn small_shared(&self, key: &Key, limit: usize) -> Option<Bytes> {
        read_small(self.cache.get_shared(key).await?, limit).await
    }

    /// The same with what its mirrors are to compare.
    pub async fn known(&self, key: &Key, limit: usize) -> Option<Known> {
        let found = self.cache.get(key).await?;
        let facts = found.note.facts.clone();
        Some(Known { bytes: read_small(found, limit).await?, facts })
    }

    /// Keeps a small thing.
    pub async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), Failure> {
        Ok(self.cache.put(key, bytes, policy::millis(SystemTime::now()), Facts::new()).await?)
    }

    /// The absence kept under its key.
    pub async fn absence(&self, key: &Key) -> Option<Absence> {
        let found = self.cache.get(key).await?;
        let status = found.note.facts.get(STATUS)?.parse().ok()?;
        let by = found.note.facts.get(MIRROR).map(|by| by.split(' ').map(str::to_owned).collect()).unwrap_or_default();
        let at_ms = found.note.at_ms;
        Some(Absence { at_ms, status, text: read_small(found, 64 << 10).await?, by })
    }

    /// Keeps an absence, where it is one; what cannot be kept is asked again, so a full disk is no failure here.
    pub async fn put_absence(&self, key: &Key, absence: &Failure, at_ms: u64) {
        let Some((status, text)) = absence.as_absent() else { return };
        let said_so = |complaint: &&Complaint| matches!(complaint.said, Said::Status(said, _) if said == status);
        let by: Vec<&str> =
            absence.complaints().iter().filter(said_so).map(|complaint| complaint.upstream.as_str()).collect();
        let mut facts = Facts::from([(STATUS.to_owned(), status.as_u16().to_string())]);
        facts.extend(Some((MIRROR.to_owned(), by.join(" "))).filter(|_| !by.is_empty()));
        if let Err(why) = self.cache.put(key, Bytes::copy_from_slice(text.as_bytes()), at_ms, facts).await {
            tracing::debug!(key = key.as_str(), %why, "absence not kept");
        }
    }
}

/// What is held already, for those who wait for it to be fetched.
pub async fn hand_on(mut found: Found, mut draft: Draft) -> Result<(Draft, Verdict), Failure> {
    while let Some(piece) = found.content.next().await {
        draft.write(piece.map_err(|why| Failure::fault(why, ""))?).await?;
    }
    Ok((draft, Verdict::PassOn { facts: found.note.facts.clone() }))
}

/// When what a note is about was last put to somebody else: at the latest when it came.
pub fn checked_ms(note: &Note) -> u64 {
    note.facts.get(CHECKED).and_then(|checked| checked.parse().ok()).unwrap_or(note.at_ms)
}

/// Whether a note says that the checksum database vouches for the file.
pub fn is_verified(note: &Note) -> bool {
    note.facts.get(VERIFIED).is_some_and(|verified| verified == "yes")
}

async fn read_small(found: Found, limit: usize) -> Option<Bytes> {
    found.content.bytes(limit).await.ok()
}
