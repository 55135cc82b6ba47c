//! Filling the store ahead of a build: one file, fetched and kept for nobody in particular.

use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use http::StatusCode;

use super::answer::tree_key;
use super::files::check;
use super::path::ModuleRequest;
use super::store::is_verified;
use super::{Body, Failure, Goproxy, Place, Reply, Served};
use crate::admit::Standing;

/// A file that is held now.
#[derive(Clone, Debug)]
pub struct Warmed {
    /// Whence it came.
    pub served: Served,
    /// How many bytes it has.
    pub length: u64,
    /// The file itself, where it is not a zip.
    pub text: Bytes,
}

impl Goproxy {
    /// Has a file in the store, as a client of origin form would find it there. An absence is a failure
    /// ([`Failure::as_absent`]).
    pub async fn warm(&self, request: &ModuleRequest, now: SystemTime) -> Result<Warmed, Failure> {
        let reply = self.serve(request, &Place::Ours { standing: Standing::Local }, now).await?;
        let (served, status, absence) = (reply.served, reply.status, reply.absence.clone());
        let is_zip = matches!(request, ModuleRequest::Zip { .. });
        let (length, text) =
            drain(reply, is_zip).await.map_err(|why| Failure::fault(format!("{request}: {why}"), ""))?;
        if status != StatusCode::OK {
            let text = String::from_utf8_lossy(&text).into_owned();
            return Err(absence.unwrap_or_else(|| Failure::absent(request, status, text, Vec::new())));
        }
        Ok(Warmed { served, length, text })
    }

    /// Whether the checksum database vouches for a `.mod` or zip that is held. What has just been fetched is
    /// put down a moment after its last byte was read ([`Goproxy::settled`]).
    pub async fn is_vouched_for(&self, request: &ModuleRequest) -> bool {
        let Some(key) = tree_key(request) else { return false };
        self.house.store.cache.get(&key).await.is_some_and(|found| is_verified(&found.note))
    }

    /// Whether it lies on the disk, where another process finds it: what memory holds ends with this one.
    pub async fn is_kept(&self, request: &ModuleRequest) -> bool {
        let (Some(folder), Some(key)) = (self.house.store.cache.folder(), tree_key(request)) else { return false };
        tokio::task::spawn_blocking(move || folder.path(&key).is_file()).await.unwrap_or(false)
    }

    /// The h1 sum of a `.mod` or zip that is held, as a go.sum has it; none if it is not held, or cannot be read.
    pub async fn sum_of(&self, request: &ModuleRequest) -> Option<String> {
        let content = self.house.store.cache.get(&tree_key(request)?).await?.content;
        let (length, reading, request) = (content.length()?, content.reading()?, request.clone());
        tokio::task::spawn_blocking(move || check(reading, length, &request)).await.ok()??.sum
    }
}

/// Reads an answer to its end; what it was, unless that is too much to hold.
async fn drain(reply: Reply, is_large: bool) -> std::io::Result<(u64, Bytes)> {
    let mut content = match reply.body {
        Body::Bytes(bytes) => return Ok((bytes.len() as u64, bytes)),
        Body::Held(content) => content,
    };
    let (mut length, mut text) = (0, BytesMut::new());
    while let Some(piece) = content.next().await {
        let piece = piece?;
        length += piece.len() as u64;
        if !is_large {
            text.extend_from_slice(&piece);
        }
    }
    Ok((length, text.freeze()))
}
