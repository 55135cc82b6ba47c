//! The chunked coding of a request's body (RFC 9112 section 7.1), followed byte by byte: where it
//! ends, and that nobody can read it in another way.
//!
//! Strict where hyper is not: a size is bare hexadecimal digits, at most 2^63; blanks stand before
//! an extension only; trailers are fields like those of a head, and bounded. What is said in
//! extensions and trailers is not looked at.

use super::head::{Fault, MAX_FIELDS};

/// The largest chunk.
const MAX_SIZE: u64 = 1 << 63;
/// The most digits of a size: what a `u64` has.
const MAX_DIGITS: u8 = 16;
/// All that the extensions of one body may say; hyper gives up at 16 KiB.
const MAX_EXTENSIONS: usize = 8 * 1024;
/// The longest trailer section.
const MAX_TRAILERS: usize = 8 * 1024;

/// How far into a chunked body its reader is.
#[derive(Default)]
pub struct Chunks {
    at: At,
    size: u64,
    digits: u8,
    extensions: usize,
    trailers: usize,
    fields: usize,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    Blank,
    Extension,
    SizeLf,
    Data(u64),
    DataCr,
    DataLf,
    Line,
    Name,
    Value,
    ValueLf,
    LastLf,
    Over,
}

impl Chunks {
    /// Follows the body into these bytes: how many of them are right and belong to it. What is wrong
    /// is said once it comes first, so that it does not matter how the bytes are cut.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let mut passed = 0;
        while passed < bytes.len() && !self.is_over() {
            if let Some(left) = self.data_left() {
                let take = left.min((bytes.len() - passed) as u64);
                self.skip(take);
                passed += take as usize;
                continue;
            }
            match self.step(bytes[passed]) {
                Ok(at) => self.at = at,
                Err(fault) if passed == 0 => return Err(fault),
                Err(_) => break,
            }
            passed += 1;
        }
        Ok(passed)
    }

    /// Whether the last byte of the body has been seen.
    pub fn is_over(&self) -> bool {
        self.at == At::Over
    }

    /// How much of the present chunk is still to come, while it does.
    pub fn data_left(&self) -> Option<u64> {
        if let At::Data(left) = self.at { Some(left) } else { None }
    }

    /// Counts bytes of the present chunk that went by unseen.
    pub fn skip(&mut self, bytes: u64) {
        if let At::Data(left) = self.at {
            self.at = if left > bytes { At::Data(left - bytes) } else { At::DataCr };
        }
    }

    fn step(&mut self, byte: u8) -> Result<At, Fault> {
        let sized = self.digits > 0;
        match (self.at, byte) {
            (At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => self.add_digit(byte),
            (At::Size, b' ' | b'\t') if sized => self.count_extension(At::Blank),
            (At::Blank, b' ' | b'\t') => self.count_extension(At::Blank),
            (At::Size, b';') if sized => self.count_extension(At::Extension),
            (At::Blank, b';') => self.count_extension(At::Extension),
            (At::Size, b'\r') if sized => Ok(At::SizeLf),
            (At::Extension, b'\r') => Ok(At::SizeLf),
            (At::Extension, _) if is_text(byte) => self.count_extension(At::Extension),
            (At::SizeLf, b'\n') => Ok(self.begin_chunk()),
            (At::DataCr, b'\r') => Ok(At::DataLf),
            (At::DataLf, b'\n') => Ok(At::Size),
            (At::Line, b'\r') => Ok(At::LastLf),
            (At::LastLf, b'\n') => Ok(At::Over),
            (At::Line, _) if is_token(byte) => self.begin_field(),
            (At::Name, b':') => self.count_trailer(At::Value),
            (At::Name, _) if is_token(byte) => self.count_trailer(At::Name),
            (At::Value, b'\r') => Ok(At::ValueLf),
            (At::Value, _) if is_text(byte) => self.count_trailer(At::Value),
            (At::ValueLf, b'\n') => Ok(At::Line),
            (At::Line | At::Name | At::Value | At::ValueLf | At::LastLf, _) => Err(Fault::Trailers),
            _ => Err(Fault::Chunk),
        }
    }

    fn add_digit(&mut self, byte: u8) -> Result<At, Fault> {
        let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
        let size = self.size.checked_mul(16).and_then(|size| size.checked_add(digit));
        let size = size.filter(|size| *size <= MAX_SIZE && self.digits < MAX_DIGITS).ok_or(Fault::Chunk)?;
        (self.size, self.digits) = (size, self.digits + 1);
        Ok(At::Size)
    }

    fn begin_chunk(&mut self) -> At {
        let size = std::mem::take(&mut self.size);
        self.digits = 0;
        if size == 0 { At::Line } else { At::Data(size) }
    }

    fn begin_field(&mut self) -> Result<At, Fault> {
        if self.fields == MAX_FIELDS {
            return Err(Fault::Trailers);
        }
        self.fields += 1;
        self.count_trailer(At::Name)
    }

    fn count_extension(&mut self, at: At) -> Result<At, Fault> {
        count(&mut self.extensions, MAX_EXTENSIONS, Fault::Chunk).map(|()| at)
    }

    fn count_trailer(&mut self, at: At) -> Result<At, Fault> {
        count(&mut self.trailers, MAX_TRAILERS, Fault::Trailers).map(|()| at)
    }
}

fn count(so_far: &mut usize, limit: usize, fault: Fault) -> Result<(), Fault> {
    if *so_far == limit {
        return Err(fault);
    }
    *so_far += 1;
    Ok(())
}

/// What a value may hold (RFC 9110 section 5.5).
fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// What a name may hold (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes belong to the body, and what was wrong with it; `None` where it is not over.
    fn read(bytes: &[u8], piece: usize) -> (usize, Option<Result<(), Fault>>) {
        let (mut chunks, mut read) = (Chunks::default(), 0);
        while read < bytes.len() && !chunks.is_over() {
            let end = bytes.len().min(read + piece);
            match chunks.follow(&bytes[read..end]) {
                Ok(passed) => read += passed,
                Err(fault) => return (read, Some(Err(fault))),
            }
        }
        (read, chunks.is_over().then_some(Ok(())))
    }

    fn verdict(text: &str) -> Option<Result<(), Fault>> {
        let whole = read(text.as_bytes(), text.len());
        assert!((1..=text.len()).all(|piece| read(text.as_bytes(), piece) == whole), "{text:?}");
        whole.1
    }

    #[test]
    fn a_body_ends_where_its_last_chunk_does() {
        let table = [
            "0\r\n\r\n",
            "000\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "A;name=value;other=\"x;y\"\r\n0123456789\r\n0\r\n\r\n",
            "1 \t;x\r\n\n\r\n0\r\n\r\n",
            "0\r\nX: y\r\nZ:\r\n\r\n",
            "1\r\nx\r\n0;last\r\nX-Sum: 1\t2\r\n\r\n",
        ];
        for body in table {
            assert_eq!(verdict(body), Some(Ok(())), "{body:?}");
            let followed = format!("{body}GET / HTTP/1.1");
            assert_eq!(read(followed.as_bytes(), 4096).0, body.len(), "{body:?}");
        }
        assert_eq!(verdict("8000000000000000\r\nx"), None);
    }

    #[test]
    fn whatever_somebody_could_read_otherwise_is_refused() {
        let table = [
            ("0x3\r\nabc\r\n", Fault::Chunk),
            ("+3\r\nabc\r\n", Fault::Chunk),
            (" 3\r\nabc\r\n", Fault::Chunk),
            ("3 \r\nabc\r\n", Fault::Chunk),
            ("\r\n", Fault::Chunk),
            (";x\r\n", Fault::Chunk),
            ("3\nabc\r\n", Fault::Chunk),
            ("3\rabc\r\n", Fault::Chunk),
            ("3;a\nb\r\nabc\r\n", Fault::Chunk),
            ("3;a\rb\r\nabc\r\n", Fault::Chunk),
            ("3\r\nabcd\r\n", Fault::Chunk),
            ("3\r\nabc\n0\r\n\r\n", Fault::Chunk),
            ("10000000000000003\r\nabc\r\n", Fault::Chunk),
            ("8000000000000001\r\nabc\r\n", Fault::Chunk),
            ("00000000000000003\r\nabc\r\n", Fault::Chunk),
            ("0\r\n X: y\r\n\r\n", Fault::Trailers),
            ("0\r\nX : y\r\n\r\n", Fault::Trailers),
            ("0\r\nX: y\r\n z\r\n\r\n", Fault::Trailers),
            ("0\r\nX: y\n\r\n", Fault::Trailers),
            ("0\r\nX: \0\r\n\r\n", Fault::Trailers),
            ("0\r\nX\r\n\r\n", Fault::Trailers),
            ("0\r\n: y\r\n\r\n", Fault::Trailers),
            ("0\r\n\n", Fault::Trailers),
            ("0\r\n\rX", Fault::Trailers),
        ];
        for (body, fault) in table {
            assert_eq!(verdict(body), Some(Err(fault)), "{body:?}");
        }
    }

    #[test]
    fn what_is_not_looked_at_is_bounded_all_the_same() {
        let extension = format!("0;{}\r\n\r\n", "x".repeat(MAX_EXTENSIONS));
        assert_eq!(read(extension.as_bytes(), 4096).1, Some(Err(Fault::Chunk)));
        let value = format!("0\r\nX: {}\r\n\r\n", "y".repeat(MAX_TRAILERS));
        assert_eq!(read(value.as_bytes(), 4096).1, Some(Err(Fault::Trailers)));
        let fields = |count| format!("0\r\n{}\r\n", "X: y\r\n".repeat(count));
        assert_eq!(read(fields(MAX_FIELDS).as_bytes(), 4096).1, Some(Ok(())));
        assert_eq!(read(fields(MAX_FIELDS + 1).as_bytes(), 4096).1, Some(Err(Fault::Trailers)));
    }
}
