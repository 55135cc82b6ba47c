//! The head guard: a stream through which hyper sees only heads that [`check`] has passed.
//!
//! It collects bytes to the empty line, checks the head, and lets exactly that head and its body
//! through before it looks at the next. After a chunked request, a CONNECT or an upgrade the gate
//! stands open for good, so those answers close the connection or take it over. A refused head
//! never reaches hyper: it gets a small one of ours in its place, and the [`Verdict`] beside the
//! stream tells the service why, so that `respond` still writes the answer.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::head::{Fault, Framing, MAX_HEAD, MAX_LINE, check};

/// The head that hyper reads in place of a refused one.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";
/// How much is read at once while a head is collected.
const PIECE: usize = 4 * 1024;

/// Why a connection's next request was refused, once one was.
#[derive(Clone, Default)]
pub struct Verdict(Arc<OnceLock<Fault>>);

impl Verdict {
    /// The fault, once there was one.
    pub fn refused(&self) -> Option<Fault> {
        self.0.get().copied()
    }
}

/// A stream whose request heads are checked as they pass.
pub struct Guarded<S> {
    inner: S,
    gate: Gate,
    verdict: Verdict,
}

impl<S> Guarded<S> {
    /// Watches over the heads that come out of `inner`.
    pub fn new(inner: S) -> Guarded<S> {
        Guarded { inner, gate: Gate::default(), verdict: Verdict::default() }
    }

    /// What this stream was refused for, to be looked at by the service.
    pub fn verdict(&self) -> Verdict {
        self.verdict.clone()
    }

    /// The stream, and what was read from it but not yet passed on.
    pub fn into_parts(self) -> (S, Bytes) {
        (self.inner, self.gate.held.freeze())
    }
}

/// What may pass, and what is still to be looked at.
struct Gate {
    /// Read but not yet passed on.
    held: BytesMut,
    /// How much of `held` may pass.
    passing: usize,
    /// How much of `held` was searched for the end of the head.
    searched: usize,
    state: State,
}

enum State {
    Head,
    Body(u64),
    Open,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate { held: BytesMut::new(), passing: 0, searched: 0, state: State::Head }
    }
}

impl Gate {
    /// Moves on as far as the held bytes allow; true when something may pass.
    fn advance(&mut self) -> Result<bool, Fault> {
        if self.passing > 0 {
            return Ok(true);
        }
        match self.state {
            State::Open => self.passing = self.held.len(),
            State::Body(0) => self.state = State::Head,
            State::Body(ref mut left) => {
                let take = (self.held.len() as u64).min(*left);
                *left -= take;
                self.passing = take as usize;
            }
            State::Head => {}
        }
        if matches!(self.state, State::Head)
            && let Some(end) = self.find_end()?
        {
            self.state = match check(&self.held[..end])? {
                Framing::Length(length) => State::Body(length),
                Framing::Open => State::Open,
            };
            self.passing = end;
            self.searched = 0;
        }
        Ok(self.passing > 0)
    }

    /// Where the head ends, once its empty line is there. Line ends are looked at on the way, so
    /// that a client that writes bare LF is answered at once and not after a time-out.
    fn find_end(&mut self) -> Result<Option<usize>, Fault> {
        while self.searched == 0 && self.held.starts_with(b"\r\n") {
            // An empty line before the request line is ignored (RFC 9112 section 2.2).
            self.held.advance(2);
        }
        let mut from = self.searched;
        while let Some(offset) = self.held[from..].iter().position(|&byte| byte == b'\n') {
            let at = from + offset;
            if at == 0 || self.held[at - 1] != b'\r' {
                return Err(Fault::LineEnd);
            }
            if at >= 3 && self.held[at - 3..at - 1] == *b"\r\n" {
                return if at < MAX_HEAD { Ok(Some(at + 1)) } else { Err(Fault::LongHead) };
            }
            from = at + 1;
        }
        self.searched = from;
        match self.held.len() {
            length if from == 0 && length > MAX_LINE => Err(Fault::LongLine),
            length if length > MAX_HEAD => Err(Fault::LongHead),
            _ => Ok(None),
        }
    }

    fn refuse(&mut self) {
        self.held = BytesMut::from(STAND_IN);
        self.passing = STAND_IN.len();
        self.state = State::Open;
    }

    fn pass(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.passing.min(buf.remaining());
        buf.put_slice(&self.held[..length]);
        self.held.advance(length);
        self.passing -= length;
    }

    /// How much hyper may read straight from the stream: nothing while a head is collected.
    fn straight(&self) -> Option<u64> {
        match self.state {
            State::Open => Some(u64::MAX),
            State::Body(left) if left > 0 => Some(left),
            _ => None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match this.gate.advance() {
                Ok(true) => {
                    this.gate.pass(buf);
                    return Poll::Ready(Ok(()));
                }
                Ok(false) => {}
                Err(fault) => {
                    // Set once: the first refusal ends the connection.
                    let _ = this.verdict.0.set(fault);
                    this.gate.refuse();
                    continue;
                }
            }
            if let Some(limit) = this.gate.straight() {
                return read_straight(this, limit, cx, buf);
            }
            if ready!(collect(&mut this.inner, &mut this.gate.held, cx))? == 0 {
                // The stream ended within a head, or between two: hyper tells which.
                this.gate.state = State::Open;
                if this.gate.held.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

fn read_straight<S: AsyncRead + Unpin>(
    this: &mut Guarded<S>,
    limit: u64,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let State::Body(left) = &mut this.gate.state else {
        return Pin::new(&mut this.inner).poll_read(cx, buf);
    };
    let room = buf.remaining().min(usize::try_from(limit).unwrap_or(usize::MAX));
    let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
    ready!(Pin::new(&mut this.inner).poll_read(cx, &mut part))?;
    let read = part.filled().len();
    buf.advance(read);
    *left -= read as u64;
    Poll::Ready(Ok(()))
}

fn collect<S: AsyncRead + Unpin>(inner: &mut S, held: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut piece = [0u8; PIECE];
    let mut room = ReadBuf::new(&mut piece);
    ready!(Pin::new(inner).poll_read(cx, &mut room))?;
    held.extend_from_slice(room.filled());
    Poll::Ready(Ok(room.filled().len()))
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// What hyper would read of these bytes, sent in pieces of `piece`, and the verdict.
    async fn passed(bytes: &[u8], piece: usize) -> (Vec<u8>, Option<Fault>) {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut guarded = Guarded::new(server);
        let verdict = guarded.verdict();
        for part in bytes.chunks(piece) {
            client.write_all(part).await.unwrap();
        }
        drop(client);
        let mut read = Vec::new();
        guarded.read_to_end(&mut read).await.unwrap();
        (read, verdict.refused())
    }

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    const TWO_LENGTHS: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[tokio::test]
    async fn good_requests_pass_unchanged_however_they_are_cut() {
        let pipelined = [GET, POST, b"\r\n", POST, GET].concat();
        let expected = [GET, POST, POST, GET].concat();
        for piece in [1, 2, 3, 7, 64, 4096] {
            assert_eq!(passed(&pipelined, piece).await, (expected.clone(), None), "pieces of {piece}");
        }
    }

    #[tokio::test]
    async fn a_bad_head_is_replaced_and_nothing_after_it_is_read_as_a_request() {
        for piece in [1, 50, 4096] {
            let (read, verdict) = passed(&[POST, TWO_LENGTHS, GET].concat(), piece).await;
            assert!(read.starts_with(&[POST, STAND_IN].concat()), "{}", String::from_utf8_lossy(&read));
            assert_eq!(verdict, Some(Fault::TransferEncoding));
        }
    }

    #[tokio::test]
    async fn a_head_inside_a_body_is_a_body() {
        let smuggled = [b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ".as_slice(), b"112\r\n\r\n"].concat();
        let body = [TWO_LENGTHS, &b"x".repeat(112 - TWO_LENGTHS.len())].concat();
        let whole = [smuggled, body].concat();
        assert_eq!(passed(&whole, 4096).await, (whole.clone(), None));
    }

    #[tokio::test]
    async fn what_follows_a_connect_passes_unread() {
        let whole = [b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".as_slice(), b"\x16\x03\x01\n\n\n"].concat();
        assert_eq!(passed(&whole, 1).await, (whole.clone(), None));
    }

    #[tokio::test]
    async fn endless_heads_and_lines_are_refused_while_they_come() {
        let long_line = [b"GET /".as_slice(), &b"a".repeat(MAX_LINE)].concat();
        assert_eq!(passed(&long_line, 4096).await.1, Some(Fault::LongLine));
        let long_head = [b"GET / HTTP/1.1\r\n".as_slice(), &b"X: y\r\n".repeat(MAX_HEAD / 6 + 1)].concat();
        assert_eq!(passed(&long_head, 4096).await.1, Some(Fault::LongHead));
        assert_eq!(passed(b"GET / HTTP/1.1\nHost: a\n", 4096).await.1, Some(Fault::LineEnd));
    }

    #[tokio::test]
    async fn a_client_that_leaves_in_mid_head_is_heard_to_the_end() {
        assert_eq!(passed(b"GET / HT", 4096).await, (b"GET / HT".to_vec(), None));
    }
}
