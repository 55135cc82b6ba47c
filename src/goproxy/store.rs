//! The cache as this room uses it: small things read whole, absences apart, facts by name.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use http::StatusCode;

use super::failure::Failure;
use super::policy;
use crate::cache::{Cache, Draft, Found, Key, Note, Verdict};

/// Whether the checksum database vouches for the file: `yes` or `no`.
pub const VERIFIED: &str = "verified";
/// When an unverified file was last put to the database, in milliseconds since 1970.
pub const CHECKED: &str = "checked_ms";
/// Which mirror it came from.
pub const MIRROR: &str = "mirror";
/// 404 or 410, of an absence.
const STATUS: &str = "status";

/// What a producer says about what it wrote.
pub type Facts = BTreeMap<String, String>;

/// The cache with this room's failures. Cloning gives another handle.
#[derive(Clone)]
pub struct Store {
    pub cache: Cache<Failure>,
}

/// An upstream's 404 or 410, kept.
#[derive(Clone, Debug)]
pub struct Absence {
    pub at_ms: u64,
    pub status: StatusCode,
    pub text: Bytes,
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

    /// Keeps a small thing.
    pub async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), Failure> {
        Ok(self.cache.put(key, bytes, policy::millis(SystemTime::now()), Facts::new()).await?)
    }

    /// The absence kept under its key.
    pub async fn absence(&self, key: &Key) -> Option<Absence> {
        let found = self.cache.get(key).await?;
        let status = found.note.facts.get(STATUS)?.parse().ok()?;
        let at_ms = found.note.at_ms;
        Some(Absence { at_ms, status, text: read_small(found, 64 << 10).await? })
    }

    /// Keeps an absence; what cannot be kept is asked again, so a full disk is no failure here.
    pub async fn put_absence(&self, key: &Key, status: StatusCode, text: &str, at_ms: u64) {
        let facts = Facts::from([(STATUS.to_owned(), status.as_u16().to_string())]);
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
    Ok((draft, Verdict::PassOn { facts: found.note.facts }))
}

/// Whether a note says that the checksum database vouches for the file.
pub fn is_verified(note: &Note) -> bool {
    note.facts.get(VERIFIED).is_some_and(|verified| verified == "yes")
}

async fn read_small(found: Found, limit: usize) -> Option<Bytes> {
    found.content.bytes(limit).await.ok()
}
