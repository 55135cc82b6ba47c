//! Bytes to read, wherever they are: in memory, in a kept file, or still coming.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;

use super::growth::{PIECE, Seat, read_off_worker};

/// Bytes to read, wherever they are. `Growing` ones are still being written by a producer.
pub struct Content {
    source: Source,
}

enum Source {
    Whole { length: u64, rest: Bytes },
    Filed(Filed),
    Growing(Seat),
}

/// A kept file, open: it stays readable when it is evicted meanwhile.
pub(super) struct Filed {
    pub file: Arc<File>,
    pub length: u64,
    /// What was read ahead when the file was opened.
    pub ahead: Bytes,
    pub at: u64,
    pub runtime: Handle,
}

impl Content {
    pub(super) fn whole(bytes: Bytes) -> Content {
        Content { source: Source::Whole { length: bytes.len() as u64, rest: bytes } }
    }

    pub(super) fn filed(filed: Filed) -> Content {
        Content { source: Source::Filed(filed) }
    }

    pub(super) fn growing(seat: Seat) -> Content {
        match seat.whole() {
            Some(bytes) => Content::whole(bytes),
            None => Content { source: Source::Growing(seat) },
        }
    }

    /// The length, where it is known before the end.
    pub fn length(&self) -> Option<u64> {
        match &self.source {
            Source::Whole { length, .. } => Some(*length),
            Source::Filed(filed) => Some(filed.length),
            Source::Growing(seat) => seat.length(),
        }
    }

    /// The next piece; `None` at the end. An error means that the rest will never come: the
    /// reader must not end its own output cleanly.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        match &mut self.source {
            Source::Whole { rest, .. } if rest.is_empty() => None,
            Source::Whole { rest, .. } => Some(Ok(std::mem::take(rest))),
            Source::Filed(filed) => filed.next().await,
            Source::Growing(seat) => seat.next().await,
        }
    }

    /// All of it, if it is no longer than `limit`.
    pub async fn bytes(mut self, limit: usize) -> io::Result<Bytes> {
        if self.length().is_some_and(|length| length > limit as u64) {
            return Err(too_long(limit));
        }
        if let Source::Whole { rest, .. } = self.source {
            return Ok(rest);
        }
        let mut all = BytesMut::new();
        while let Some(piece) = self.next().await {
            all.extend_from_slice(&piece?);
            if all.len() > limit {
                return Err(too_long(limit));
            }
        }
        Ok(all.freeze())
    }
}

impl Filed {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let ahead = std::mem::take(&mut self.ahead);
        if !ahead.is_empty() {
            self.at += ahead.len() as u64;
            return Some(Ok(ahead));
        }
        let length = (self.length - self.at).min(PIECE) as usize;
        if length == 0 {
            return None;
        }
        let read = read_off_worker(&self.runtime, Arc::clone(&self.file), self.at, length).await;
        Some(read.inspect(|piece| self.at += piece.len() as u64))
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.source {
            Source::Whole { .. } => "in memory",
            Source::Filed(_) => "in a file",
            Source::Growing(_) => "still coming",
        };
        f.debug_struct("Content").field("place", &place).field("length", &self.length()).finish()
    }
}

fn too_long(limit: usize) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {limit} bytes"))
}
