//! Whatever head the guard lets through, a lenient reader and a strict one read the same in it; the
//! guard lets exactly heads and their bodies through, however the bytes are cut; and a chunked body
//! ends where a lenient reader of chunks says that it does.
//!
//! The first byte says how the rest is cut.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, ReadBuf};

use crate::classify::chunks::Chunks;
use crate::classify::guard::Guarded;
use crate::classify::head::{Framing, check};

pub fn hold(bytes: &[u8]) {
    let Some((&cut, sent)) = bytes.split_first() else { return };
    let wanted = wanted(sent);
    for (piece, room) in [(usize::from(cut % 16) + 1, usize::from(cut / 16) + 1), (sent.len().max(1), 8192)] {
        let (passed, refused) = pass(sent, piece, room);
        assert_eq!(refused, wanted.refused.is_some(), "cut in {piece}: {:?}", String::from_utf8_lossy(sent));
        let stand_in = &b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n"[..];
        let instead = if wanted.refused == Some(Part::Head) { stand_in } else { b"" };
        assert_eq!(passed, [&wanted.passed, instead].concat(), "cut in {piece}");
    }
}

struct Wanted {
    passed: Vec<u8>,
    refused: Option<Part>,
}

#[derive(PartialEq)]
enum Part {
    Head,
    Body,
}

/// What may pass, said once more: heads that are one thing to everybody, each with its body.
fn wanted(mut rest: &[u8]) -> Wanted {
    let mut passed = Vec::new();
    loop {
        while let Some(after) = rest.strip_prefix(b"\r\n") {
            rest = after;
        }
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        let head = &rest[..end.unwrap_or(rest.len())];
        if has_bare_lf(head) {
            return Wanted { passed, refused: Some(Part::Head) };
        }
        // An end in the midst of a head is for hyper to complain of.
        let framing = if end.is_some() { check(head) } else { Ok(Framing::Open) };
        let Ok(framing) = framing else { return Wanted { passed, refused: Some(Part::Head) } };
        if end.is_some() {
            read_both_ways(head, framing);
        }
        let after = rest.len() - head.len();
        let body = match framing {
            Framing::Length(length) => usize::try_from(length).unwrap_or(usize::MAX).min(after),
            Framing::Chunked => match follow(&rest[head.len()..]) {
                (length, true) => length,
                (length, false) => {
                    passed.extend_from_slice(&rest[..head.len() + length]);
                    return Wanted { passed, refused: Some(Part::Body) };
                }
            },
            Framing::Open => after,
        };
        let (through, after) = rest.split_at(head.len() + body);
        passed.extend_from_slice(through);
        rest = after;
        if framing == Framing::Open {
            return Wanted { passed, refused: None };
        }
    }
}

/// How much of these bytes is a chunked body, and whether that is all right. Where it ends, a reader
/// that takes everything after the digits for an extension, as hyper does, ends it, too.
fn follow(bytes: &[u8]) -> (usize, bool) {
    let mut chunks = Chunks::default();
    let passed = chunks.follow(bytes).unwrap_or(0);
    if chunks.is_over() {
        assert_eq!(lenient_end(bytes), Some(passed), "{:?}", String::from_utf8_lossy(bytes));
    }
    (passed, chunks.is_over() || passed == bytes.len())
}

fn lenient_end(bytes: &[u8]) -> Option<usize> {
    let line = |from: usize| bytes[from..].windows(2).position(|two| two == b"\r\n").map(|at| from + at);
    let mut at = 0;
    loop {
        let end = line(at)?;
        let digits = bytes[at..end].iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = std::str::from_utf8(&bytes[at..at + digits]).ok()?;
        let size = usize::try_from(u64::from_str_radix(size, 16).ok()?).ok()?;
        at = end + 2;
        if size == 0 {
            break;
        }
        at = at.checked_add(size)?;
        at = bytes.get(at..at + 2).filter(|two| two == b"\r\n").map(|_| at + 2)?;
    }
    loop {
        let end = line(at)?;
        if end == at {
            return Some(end + 2);
        }
        at = end + 2;
    }
}

fn has_bare_lf(head: &[u8]) -> bool {
    head.iter().enumerate().any(|(at, &byte)| byte == b'\n' && (at == 0 || head[at - 1] != b'\r'))
}

/// A reader that takes every LF, or CR, for a line's end and one that wants both see the same lines, and
/// no two fields fight over where the body ends.
fn read_both_ways(head: &[u8], framing: Framing) {
    assert!(!head.contains(&0));
    let text = &head[..head.len() - 4];
    let strict: Vec<&[u8]> = split_lines(text);
    let lenient: Vec<&[u8]> =
        text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
    assert_eq!(strict, lenient);
    assert!(strict.iter().all(|line| !line.contains(&b'\r')), "a bare CR");
    let Some((line, fields)) = strict.split_first() else { panic!("no request line") };
    assert_eq!(line.split(|byte| *byte == b' ').count(), 3, "{:?}", String::from_utf8_lossy(line));
    let fields: Vec<(Vec<u8>, &[u8])> = fields.iter().map(|field| read_field(field)).collect();
    let all =
        |name: &[u8]| fields.iter().filter(|(other, _)| other == name).map(|(_, value)| *value).collect::<Vec<_>>();
    let (hosts, lengths, codings) = (all(b"host"), all(b"content-length"), all(b"transfer-encoding"));
    assert!(hosts.len() <= 1 && lengths.len() <= 1 && codings.len() <= 1 && lengths.len() + codings.len() <= 1);
    assert!(hosts.len() == 1 || line.ends_with(b"HTTP/1.0"));
    assert!(lengths.iter().all(|value| !value.is_empty() && value.iter().all(u8::is_ascii_digit)));
    assert!(codings.iter().all(|value| value.eq_ignore_ascii_case(b"chunked")));
    assert_eq!(framing == Framing::Chunked, codings.len() == 1);
    if let Framing::Length(length) = framing {
        assert!(codings.is_empty() && !line.starts_with(b"CONNECT "));
        let said = lengths.first().and_then(|value| std::str::from_utf8(value).ok()).map_or(Ok(0), str::parse);
        assert_eq!(said, Ok(length));
    }
}

fn split_lines(mut text: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    while let Some(at) = text.windows(2).position(|two| two == b"\r\n") {
        lines.push(&text[..at]);
        text = &text[at + 2..];
    }
    lines.push(text);
    lines
}

/// The name in lower case and the value, of a line that neither continues another nor hides its name.
fn read_field(line: &[u8]) -> (Vec<u8>, &[u8]) {
    let at = line.iter().position(|byte| *byte == b':').expect("a field has a colon");
    let (name, value) = (&line[..at], &line[at + 1..]);
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    assert!(!name.is_empty() && name.iter().all(is_token), "{:?}", String::from_utf8_lossy(name));
    (name.to_ascii_lowercase(), value.trim_ascii())
}

/// What comes through the guard, and whether it refused something.
fn pass(sent: &[u8], piece: usize, room: usize) -> (Vec<u8>, bool) {
    let mut guarded = Guarded::new(Pieces { rest: sent, piece });
    let mut context = Context::from_waker(Waker::noop());
    let mut passed = Vec::new();
    let mut space = vec![0; room];
    loop {
        let mut buffer = ReadBuf::new(&mut space);
        match Pin::new(&mut guarded).poll_read(&mut context, &mut buffer) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => break,
            Poll::Ready(Ok(())) => passed.extend_from_slice(buffer.filled()),
            // A malformed body; hyper reads no further.
            Poll::Ready(Err(_)) => break,
            Poll::Pending => panic!("the bytes are all there"),
        }
    }
    (passed, guarded.keeper().refused().is_some())
}

/// A stream that gives so many bytes at once, and ends.
struct Pieces<'a> {
    rest: &'a [u8],
    piece: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let (given, rest) = self.rest.split_at(self.piece.min(self.rest.len()).min(buf.remaining()));
        buf.put_slice(given);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}
