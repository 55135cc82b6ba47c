//! Bytes to read, wherever they are: in memory, in a kept file, or still coming.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;

use super::growth::{PIECE, Seat, Snapshot, read_off_worker};
use super::{ReadSeek, disk};

/// Bytes to read, wherever they are. `Growing` ones are still being written by a producer.
pub struct Content {
    source: Source,
    tag: Option<Bytes>,
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
    /// Bytes that are at hand.
    pub fn of(bytes: Bytes) -> Content {
        let tag = tag(&disk::hash(&bytes));
        Content::whole(bytes, tag)
    }

    pub(super) fn whole(bytes: Bytes, tag: Bytes) -> Content {
        Content { source: Source::Whole { length: bytes.len() as u64, rest: bytes }, tag: Some(tag) }
    }

    pub(super) fn filed(filed: Filed, tag: Bytes) -> Content {
        Content { source: Source::Filed(filed), tag: Some(tag) }
    }

    pub(super) fn growing(seat: Seat) -> Content {
        match seat.whole() {
            Some(bytes) => Content::of(bytes),
            None => Content { source: Source::Growing(seat), tag: None },
        }
    }

    /// The length, where it is known before the end.
    pub fn length(&self) -> Option<u64> {
        match &self.source {
            Source::Whole { length, .. } => Some(*length),
            Source::Filed(filed) => Some(filed.length - filed.at),
            Source::Growing(seat) => seat.length(),
        }
    }

    /// A name for these very bytes, in quotes, as a header wants it: their SHA-256. None while more is coming.
    pub fn tag(&self) -> Option<&Bytes> {
        self.tag.as_ref()
    }

    /// The SHA-256 of these very bytes, in hex. None while more is coming.
    pub fn sha256(&self) -> Option<&str> {
        std::str::from_utf8(self.tag()?).ok().map(|tag| tag.trim_matches('"'))
    }

    /// Reads on from `from`, and no more than `length` bytes, both within what there is. False where that
    /// cannot be done, because more is still coming.
    pub fn narrow(&mut self, from: u64, length: u64) -> bool {
        match &mut self.source {
            Source::Whole { length: all, rest } => {
                *rest = rest.slice(from as usize..(from + length) as usize);
                *all = length;
            }
            Source::Filed(filed) => {
                let end = (from + length).min(filed.ahead.len() as u64);
                filed.ahead = if from < end { filed.ahead.slice(from as usize..end as usize) } else { Bytes::new() };
                (filed.at, filed.length) = (from, from + length);
            }
            Source::Growing(_) => return false,
        }
        true
    }

    /// All of it, where it is at hand in memory.
    pub fn at_hand(&self) -> Option<&Bytes> {
        match &self.source {
            Source::Whole { rest, .. } => Some(rest),
            _ => None,
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

    /// All of it for blocking reading and seeking (to hash it, off the workers), from its first byte and
    /// without a copy. None while more is coming, or where some of it was given up.
    pub fn reading(self) -> Option<Box<dyn ReadSeek>> {
        let snapshot = match self.source {
            Source::Whole { rest, .. } => Snapshot::of_bytes(rest),
            Source::Filed(filed) => Snapshot::of_file(filed.file, filed.length),
            Source::Growing(seat) => seat.snapshot()?,
        };
        Some(Box::new(snapshot))
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

/// A SHA-256 in hexadecimal, as a tag.
pub(super) fn tag(sha256: &str) -> Bytes {
    format!("\"{sha256}\"").into()
}

fn too_long(limit: usize) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {limit} bytes"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn filed(length: usize) -> (Content, tempfile::NamedTempFile) {
        let kept = tempfile::NamedTempFile::new().unwrap();
        fs::write(kept.path(), vec![7; length]).unwrap();
        let file = Arc::new(kept.reopen().unwrap());
        let content = Filed { file, length: length as u64, ahead: Bytes::new(), at: 0, runtime: Handle::current() };
        (Content::filed(content, Bytes::new()), kept)
    }

    #[tokio::test]
    async fn a_file_is_read_in_pieces_and_what_was_read_ahead_is_not_read_twice() {
        let (content, _kept) = filed(600_000);
        assert_eq!(content.bytes(600_000).await.unwrap(), vec![7; 600_000]);
        let (mut content, _kept) = filed(600_000);
        if let Source::Filed(filed) = &mut content.source {
            filed.ahead = Bytes::from(vec![9; 100_000]);
        }
        let expected = [vec![9; 100_000], vec![7; 500_000]].concat();
        assert_eq!(content.bytes(600_000).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn more_than_the_limit_is_an_error_and_no_beginning() {
        let too_long = |outcome: io::Result<Bytes>| outcome.unwrap_err().kind() == io::ErrorKind::FileTooLarge;
        assert!(too_long(Content::of(Bytes::from_static(b"abc")).bytes(2).await));
        assert!(too_long(filed(600_000).0.bytes(599_999).await));
        assert_eq!(Content::of(Bytes::from_static(b"abc")).bytes(3).await.unwrap(), "abc");
        assert_eq!(Content::of(Bytes::new()).bytes(0).await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_part_is_read_and_no_more() {
        let all: Bytes = (0..600_000u32).map(|at| (at % 251) as u8).collect();
        for ahead in [0, 100_000, 600_000] {
            for (from, length) in
                [(0, 600_000), (0, 1), (50_000, 100), (50_000, 100_000), (300_000, 300_000), (599_999, 1)]
            {
                let (mut content, kept) = filed(600_000);
                fs::write(kept.path(), &all).unwrap();
                if let Source::Filed(filed) = &mut content.source {
                    filed.ahead = all.slice(..ahead);
                }
                let whole = Content::of(all.clone());
                for mut content in [content, whole] {
                    assert!(content.narrow(from, length));
                    assert_eq!(content.length(), Some(length), "{ahead} {from} {length}");
                    let part = all.slice(from as usize..(from + length) as usize);
                    assert!(content.bytes(600_000).await.unwrap() == part, "{ahead} {from} {length}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_is_cut_while_it_is_read_does_not_end_cleanly() {
        let (mut content, kept) = filed(600_000);
        assert_eq!(content.next().await.unwrap().unwrap().len() as u64, PIECE);
        kept.as_file().set_len(300_000).unwrap();
        for _ in 0..2 {
            assert!(content.next().await.unwrap().is_err());
        }
    }
}
