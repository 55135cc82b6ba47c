//! The head guard: a stream through which hyper sees only heads that [`check`] has passed.
//!
//! It collects bytes to the empty line, checks the head, and lets exactly that head and its body
//! through, chunked ones too, before it looks at the next. A refused head never reaches hyper: it
//! gets a small one of ours in its place, and the [`Keeper`] beside the stream tells the service
//! why, so that `respond` still writes the answer. A malformed chunk ends the body in an error. A
//! head that does not come in time is refused like a bad one; a connection on which none begins is
//! ended. While an answer is waited for, the guard looks whether its client is still there.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::chunks::Chunks;
use super::head::{Fault, Framing, HEAD_PATIENCE, MAX_HEAD, MAX_LINE, check, is_pathless};
use super::keeper::{Keeper, Left};

/// The head that hyper reads in place of a refused one.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";
/// How much is read at once while a head is collected.
const PIECE: usize = 4 * 1024;
/// How long a connection is kept for its next request: longer than Go's own client keeps it (90 s),
/// so that it is never closed under a request.
const IDLE_PATIENCE: Duration = Duration::from_secs(120);
/// How long a client may take nothing of what it is sent: as long as a tunnel may stand still.
const STUCK_PATIENCE: Duration = Duration::from_secs(600);

/// Says of a head whether it may pass.
type Turnstile = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// A stream whose request heads are checked as they pass.
pub struct Guarded<S> {
    inner: S,
    gate: Gate,
    keeper: Keeper,
    wait: Wait,
    stuck: Stuck,
    /// An interim response that is being written.
    aside: Bytes,
    /// Where some heads are not ours to read: the first of them, or one that is no head at all, ends what
    /// passes, is answered by nothing, and is held with all that follows.
    turnstile: Option<Turnstile>,
}

impl<S> Guarded<S> {
    /// Watches over the heads that come out of `inner`.
    pub fn new(inner: S) -> Guarded<S> {
        Guarded {
            inner,
            gate: Gate::default(),
            keeper: Keeper::default(),
            wait: Wait::default(),
            stuck: Stuck::default(),
            aside: Bytes::new(),
            turnstile: None,
        }
    }

    /// The same for a stream whose heads are ours only where `admits` says so; where they are not, nothing
    /// is refused: the stream ends for its reader, and [`Guarded::into_parts`] has what was read of the rest.
    pub fn behind(inner: S, admits: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Guarded<S> {
        Guarded { turnstile: Some(Box::new(admits)), ..Guarded::new(inner) }
    }

    /// The service's hand on this stream.
    pub fn keeper(&self) -> Keeper {
        self.keeper.clone()
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
    /// Whether no head has passed yet.
    is_first: bool,
    /// Whether the last head asked `OPTIONS` of a server without a path.
    pathless: bool,
}

enum State {
    Head,
    Body(u64),
    Chunked(Chunks),
    Open,
    /// Nothing more is read.
    Ended,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate { held: BytesMut::new(), passing: 0, searched: 0, state: State::Head, is_first: true, pathless: false }
    }
}

impl Gate {
    /// Moves on as far as the held bytes allow; true when something may pass.
    fn advance(&mut self, turnstile: Option<&Turnstile>) -> Result<bool, Fault> {
        if self.passing > 0 {
            return Ok(true);
        }
        match &mut self.state {
            State::Open => self.passing = self.held.len(),
            State::Body(0) => self.state = State::Head,
            State::Body(left) => {
                let take = (self.held.len() as u64).min(*left);
                *left -= take;
                self.passing = take as usize;
            }
            State::Chunked(chunks) if chunks.is_over() => self.state = State::Head,
            State::Chunked(chunks) => self.passing = chunks.follow(&self.held)?,
            State::Head | State::Ended => {}
        }
        if matches!(self.state, State::Head)
            && let Some(end) = self.find_end()?
        {
            let framing = check(&self.held[..end])?;
            if turnstile.is_some_and(|admits| !admits(&self.held[..end])) {
                self.state = State::Ended;
                return Ok(false);
            }
            self.state = match framing {
                Framing::Length(length) => State::Body(length),
                Framing::Chunked => State::Chunked(Chunks::default()),
                Framing::Open => State::Open,
            };
            (self.passing, self.searched, self.is_first) = (end, 0, false);
            self.pathless = is_pathless(&self.held[..end]);
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

    /// Whether hyper has a head, and not yet all of the body that belongs to it.
    fn is_within_a_body(&self) -> bool {
        match &self.state {
            State::Body(left) => *left > 0,
            State::Chunked(chunks) => !chunks.is_over(),
            State::Head | State::Open | State::Ended => false,
        }
    }

    /// Puts the stand-in where the refused head was.
    fn refuse(&mut self) {
        self.held = BytesMut::from(STAND_IN);
        self.passing = STAND_IN.len();
        self.state = State::Ended;
    }

    fn pass(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.passing.min(buf.remaining());
        buf.put_slice(&self.held[..length]);
        self.held.advance(length);
        self.passing -= length;
    }

    /// How much hyper may read straight from the stream: nothing while something is to be looked at.
    fn straight(&self) -> Option<u64> {
        match &self.state {
            State::Open => Some(u64::MAX),
            State::Body(left) if *left > 0 => Some(*left),
            State::Chunked(chunks) => chunks.data_left(),
            _ => None,
        }
    }

    /// Counts what hyper read straight from the stream.
    fn count(&mut self, read: usize) {
        match &mut self.state {
            State::Body(left) => *left -= read as u64,
            State::Chunked(chunks) => chunks.skip(read as u64),
            State::Head | State::Open | State::Ended => {}
        }
    }
}

/// How long the next head is waited for.
#[derive(Default)]
struct Wait {
    // Made at the first wait. Most waits end long before it goes off: it is then only set back.
    timer: Option<Pin<Box<Sleep>>>,
    /// What is waited for, and until when.
    waits: Option<(Stage, Instant)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A connection's first head must come as a whole: whoever connects has something to say.
    First,
    /// The next head need not begin yet.
    Idle,
    /// It has begun.
    Head,
}

impl Wait {
    /// Whether the present wait has lasted too long; the timer wakes the task when it has.
    fn is_over(&mut self, begun: bool, is_first: bool, cx: &mut Context<'_>) -> bool {
        let stage = match (is_first, begun) {
            (true, _) => Stage::First,
            (false, true) => Stage::Head,
            (false, false) => Stage::Idle,
        };
        let due = match self.waits {
            Some((same, due)) if same == stage => due,
            _ => Instant::now() + if stage == Stage::Idle { IDLE_PATIENCE } else { HEAD_PATIENCE },
        };
        self.waits = Some((stage, due));
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() > due {
            timer.as_mut().reset(due);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= due {
                return true;
            }
            timer.as_mut().reset(due);
        }
        false
    }

    fn end(&mut self) {
        self.waits = None;
    }
}

/// How long nothing could be written.
#[derive(Default)]
struct Stuck {
    // Made at the first wait and set anew for each later one.
    timer: Option<Pin<Box<Sleep>>>,
    waits: bool,
}

impl Stuck {
    /// Passes on what came of a write, a flush or a shutdown, and an error in place of a wait that has lasted too long.
    fn watch<T>(&mut self, outcome: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.waits = false;
            return outcome;
        }
        let due = Instant::now() + STUCK_PATIENCE;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if !self.waits {
            self.waits = true;
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.keeper.is_open() {
            this.gate.state = State::Open;
        }
        loop {
            match this.gate.advance(this.turnstile.as_ref()) {
                Ok(true) => {
                    this.wait.end();
                    this.keeper.note_pathless(this.gate.pathless);
                    this.gate.pass(buf);
                    return Poll::Ready(Ok(()));
                }
                Ok(false) => {}
                Err(fault) if this.gate.is_within_a_body() => {
                    this.keeper.refuse(fault);
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault)));
                }
                Err(_) if this.turnstile.is_some() => this.gate.state = State::Ended,
                Err(fault) => {
                    this.keeper.refuse(fault);
                    this.gate.refuse();
                    continue;
                }
            }
            if matches!(this.gate.state, State::Ended) {
                return Poll::Ready(Ok(()));
            }
            if let Some(limit) = this.gate.straight() {
                return this.read_straight(limit, cx, buf);
            }
            if ready!(this.collect(cx))? == 0 {
                // The stream ended within a head or a body, or between two: hyper tells which.
                let is_between = this.gate.held.is_empty() || this.turns_away();
                this.gate.state = if is_between { State::Ended } else { State::Open };
            }
        }
    }
}

impl<S: AsyncRead + Unpin> Guarded<S> {
    /// Whether what is held is a head, or no head, that is not ours to read.
    fn turns_away(&self) -> bool {
        self.turnstile.is_some() && matches!(self.gate.state, State::Head)
    }

    fn read_straight(&mut self, limit: u64, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buf.remaining().min(usize::try_from(limit).unwrap_or(usize::MAX));
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        self.gate.count(read);
        Poll::Ready(Ok(()))
    }

    /// Reads on; a head that does not come in time is as good as the end of the stream, or a fault
    /// where it has begun.
    fn collect(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match read_piece(&mut self.inner, &mut self.gate.held, cx) {
            Poll::Pending if matches!(self.gate.state, State::Head) => {}
            outcome => return outcome,
        }
        let begun = !self.gate.held.is_empty();
        if !self.wait.is_over(begun, self.gate.is_first, cx) {
            return Poll::Pending;
        }
        if begun && self.turnstile.is_none() {
            self.keeper.refuse(Fault::SlowHead);
            self.gate.refuse();
            return Poll::Ready(Ok(STAND_IN.len()));
        }
        Poll::Ready(Ok(0))
    }

    /// Looks whether the client is still there, as far as that can be told without reading past what
    /// may be held.
    fn watch(&mut self, cx: &mut Context<'_>) {
        while self.keeper.is_watched() && self.gate.held.len() < PIECE && !self.gate.is_within_a_body() {
            match read_piece(&mut self.inner, &mut self.gate.held, cx) {
                Poll::Ready(Ok(0)) => self.keeper.has_left(Left::Finished),
                Poll::Ready(Err(_)) => self.keeper.has_left(Left::Reset),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return,
            }
        }
    }
}

fn read_piece<S: AsyncRead + Unpin>(
    inner: &mut S,
    held: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut piece = [const { MaybeUninit::uninit() }; PIECE];
    let mut room = ReadBuf::uninit(&mut piece);
    ready!(Pin::new(inner).poll_read(cx, &mut room))?;
    held.extend_from_slice(room.filled());
    Poll::Ready(Ok(room.filled().len()))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guarded<S> {
    /// Writes the interim response that was begun.
    fn finish_aside(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.aside.has_remaining() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.aside))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.aside.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// What is to be written once the interim response is.
    fn poll_behind<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        ready!(self.finish_aside(cx))?;
        write(Pin::new(&mut self.inner), cx)
    }

    /// All that is left, down to the network: TLS takes some of it before the client has.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.finish_aside(cx))?;
        self.aside = self.keeper.take_aside().into();
        self.poll_behind(cx, |inner, cx| inner.poll_flush(cx))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = this.poll_behind(cx, |inner, cx| inner.poll_write(cx, bytes));
        this.stuck.watch(outcome, cx)
    }

    /// hyper has nothing left to write when it gets here: between two messages there is room for an
    /// interim response, and time for a look at the client.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = this.poll_out(cx);
        ready!(this.stuck.watch(outcome, cx))?;
        this.watch(cx);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.inner).poll_shutdown(cx);
        this.stuck.watch(outcome, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = this.poll_behind(cx, |inner, cx| inner.poll_write_vectored(cx, slices));
        this.stuck.watch(outcome, cx)
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
        let keeper = guarded.keeper();
        for part in bytes.chunks(piece) {
            client.write_all(part).await.unwrap();
        }
        drop(client);
        let mut read = Vec::new();
        // A malformed chunk is an error.
        let _ = guarded.read_to_end(&mut read).await;
        (read, keeper.refused())
    }

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    const CHUNKED: &[u8] =
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\nX: y\r\n\r\n";
    const TWO_LENGTHS: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[tokio::test]
    async fn good_requests_pass_unchanged_however_they_are_cut() {
        let pipelined = [GET, POST, b"\r\n", POST, GET].concat();
        let expected = [GET, POST, POST, GET].concat();
        for piece in [1, 2, 3, 7, 64, 4096] {
            assert_eq!(passed(&pipelined, piece).await, (expected.clone(), None), "pieces of {piece}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_turnstile_what_is_not_ours_stays_whole_and_unanswered() {
        const OTHER: &[u8] = b"GET / HTTP/1.1\r\nHost: b\r\n\r\n";
        let bad: &[u8] = b"GET / HTTP/1.1\nHost: a\n\n";
        let half = &GET[..20];
        let table: [(&[&[u8]], &[u8]); 6] = [
            (&[GET, POST], b""),
            (&[GET, POST], &[OTHER, GET].concat()),
            (&[], OTHER),
            (&[GET], bad),
            (&[GET], b"\x16\x03\x01\x00\n"),
            (&[GET], half),
        ];
        for (ours, rest) in table {
            for piece in [1, 3, 4096] {
                let (mut client, server) = tokio::io::duplex(1 << 20);
                let mut guarded = Guarded::behind(server, |head| head.windows(7).any(|part| part == b"Host: a"));
                for part in [&ours.concat(), rest].concat().chunks(piece) {
                    client.write_all(part).await.unwrap();
                }
                let mut read = Vec::new();
                // The client says no more and stays: a head that is not finished in time is not ours either.
                guarded.read_to_end(&mut read).await.unwrap();
                assert_eq!((read, guarded.keeper().refused()), (ours.concat(), None));
                assert_eq!(&guarded.into_parts().1[..], rest, "pieces of {piece}");
            }
        }
    }

    /// hyper shows `http://a` as `http://a/`, and only one of them is the server itself.
    #[tokio::test]
    async fn options_without_a_path_are_told_apart() {
        let table = [
            ("OPTIONS http://a.example", true),
            ("OPTIONS HTTP://a.example:8080", true),
            ("OPTIONS http://a.example/", false),
            ("OPTIONS http://a.example?x", false),
            ("OPTIONS /x", false),
            ("GET http://a.example", false),
        ];
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let mut guarded = Guarded::new(server);
        for (line, pathless) in table {
            let head = format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            guarded.read_exact(&mut vec![0; head.len()]).await.unwrap();
            assert_eq!(guarded.keeper().asks_the_server(), pathless, "{line}");
        }
    }

    /// After a chunked body the gate stood open, and the connection had to be closed.
    #[tokio::test]
    async fn a_head_after_a_chunked_body_is_checked_again() {
        let good = [CHUNKED, GET, CHUNKED, POST].concat();
        let bad = [CHUNKED, TWO_LENGTHS, GET].concat();
        for piece in [1, 2, 3, 7, 64, 4096] {
            assert_eq!(passed(&good, piece).await, (good.clone(), None), "pieces of {piece}");
            let (read, fault) = passed(&bad, piece).await;
            assert!(read.starts_with(&[CHUNKED, STAND_IN].concat()), "{}", String::from_utf8_lossy(&read));
            assert_eq!(fault, Some(Fault::TransferEncoding));
        }
    }

    #[tokio::test]
    async fn a_malformed_chunk_ends_the_body_and_the_reading() {
        let head: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        for piece in [1, 50, 4096] {
            let read = passed(&[head, b"3\r\nabc\r\n0x3\r\nabc\r\n", GET].concat(), piece).await;
            assert_eq!(read, ([head, b"3\r\nabc\r\n0"].concat(), Some(Fault::Chunk)));
        }
    }

    /// A guarded stream with these bytes read, and its other end.
    async fn waiting(bytes: &[u8]) -> (tokio::io::DuplexStream, Guarded<tokio::io::DuplexStream>) {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        client.write_all(bytes).await.unwrap();
        (client, Guarded::new(server))
    }

    /// It was closed without a word, and a kept connection with it that had nothing to say for so long.
    #[tokio::test(start_paused = true)]
    async fn a_slow_head_is_refused_and_an_idle_connection_ended() {
        let (_client, mut guarded) = waiting(b"GET / HTTP/1.1\r\nHo").await;
        let begun = Instant::now();
        guarded.read_to_end(&mut Vec::new()).await.unwrap_or_default();
        assert_eq!((guarded.keeper().refused(), begun.elapsed()), (Some(Fault::SlowHead), HEAD_PATIENCE));

        let (_client, mut guarded) = waiting(b"").await;
        let begun = Instant::now();
        assert_eq!(guarded.read_to_end(&mut Vec::new()).await.unwrap(), 0);
        assert_eq!((guarded.keeper().refused(), begun.elapsed()), (None, HEAD_PATIENCE));

        let (_client, mut guarded) = waiting(GET).await;
        let begun = Instant::now();
        assert_eq!(guarded.read_to_end(&mut Vec::new()).await.unwrap(), GET.len());
        assert_eq!((guarded.keeper().refused(), begun.elapsed()), (None, IDLE_PATIENCE));

        let (mut client, mut guarded) = waiting(GET).await;
        guarded.read_exact(&mut vec![0; GET.len()]).await.unwrap();
        let late = async {
            tokio::time::sleep(IDLE_PATIENCE / 2).await;
            client.write_all(b"G").await.unwrap();
            std::future::pending::<()>().await;
        };
        let (begun, mut rest) = (Instant::now(), Vec::new());
        tokio::select! {
            _ = guarded.read_to_end(&mut rest) => {}
            () = late => {}
        }
        let waited = IDLE_PATIENCE / 2 + HEAD_PATIENCE;
        assert_eq!((guarded.keeper().refused(), begun.elapsed()), (Some(Fault::SlowHead), waited));
    }

    /// A timer that stands from an earlier wait is no end of a later one, and a long one hides no short one.
    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_own_end() {
        let (mut client, mut guarded) = waiting(b"").await;
        let asking = async {
            for (pause, said) in [(10, GET), (100, GET), (100, GET), (100, &GET[..5])] {
                tokio::time::sleep(Duration::from_secs(pause)).await;
                client.write_all(said).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let begun = Instant::now();
        let reading = async {
            let mut heads = 0;
            while guarded.read_exact(&mut [0; GET.len()]).await.is_ok() && guarded.keeper().refused().is_none() {
                heads += 1;
            }
            heads
        };
        let heads = tokio::select! {
            () = asking => unreachable!("it stays"),
            heads = reading => heads,
        };
        assert_eq!((heads, begun.elapsed()), (3, Duration::from_secs(310) + HEAD_PATIENCE));
        assert_eq!(guarded.keeper().refused(), Some(Fault::SlowHead));
    }

    /// A client that asked, and took nothing of the answer, had its place for ever.
    #[tokio::test(start_paused = true)]
    async fn whoever_takes_nothing_for_long_is_written_to_no_more() {
        let (mut client, server) = tokio::io::duplex(4);
        let mut guarded = Guarded::new(server);
        let begun = Instant::now();
        let writing = async {
            guarded.write_all(b"12345678").await?;
            guarded.write_all(b"never taken").await
        };
        let reading = async {
            tokio::time::sleep(STUCK_PATIENCE - Duration::from_secs(1)).await;
            client.read_exact(&mut [0; 4]).await.unwrap();
        };
        let (written, ()) = tokio::join!(writing, reading);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() > STUCK_PATIENCE, "what it takes begins the wait anew");
    }

    /// The last 64 KiB of an answer over TLS, which takes them before the client has.
    struct Clogged;

    impl AsyncRead for Clogged {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Clogged {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    /// Over TLS such a client still had its place for ever, where the answer's end was all that it did not take.
    #[tokio::test(start_paused = true)]
    async fn whoever_does_not_take_the_end_of_an_answer_has_no_place_for_ever() {
        let mut guarded = Guarded::new(Clogged);
        guarded.write_all(b"the end").await.unwrap();
        let begun = Instant::now();
        assert_eq!(guarded.flush().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), STUCK_PATIENCE);
        assert_eq!(guarded.shutdown().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_leaves_during_a_wait_is_noticed_and_what_it_said_first_is_kept() {
        let (mut client, mut guarded) = waiting(GET).await;
        guarded.read_exact(&mut vec![0; GET.len()]).await.unwrap();
        client.write_all(POST).await.unwrap();
        drop(client);
        let keeper = guarded.keeper();
        let left = tokio::join!(keeper.left(), guarded.flush()).0;
        assert_eq!(left, Left::Finished);
        let mut rest = Vec::new();
        guarded.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, POST);
    }

    #[tokio::test]
    async fn a_word_aside_is_written_between_two_messages() {
        let (mut client, mut guarded) = waiting(b"").await;
        let keeper = guarded.keeper();
        guarded.write_all(b"rest of one answer.").await.unwrap();
        keeper.say_aside(b"hint.");
        guarded.write_all(b"still rest.").await.unwrap();
        guarded.flush().await.unwrap();
        keeper.say_aside(b"too late");
        keeper.hush();
        guarded.write_all(b"answer.").await.unwrap();
        guarded.shutdown().await.unwrap();
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "rest of one answer.still rest.hint.answer.");
    }

    #[tokio::test]
    async fn nothing_is_looked_at_once_protocols_were_switched() {
        let frames: &[u8] = b"\x81\x85\n\n\n";
        let (client, mut guarded) = waiting(&[GET, frames].concat()).await;
        drop(client);
        guarded.read_exact(&mut vec![0; GET.len()]).await.unwrap();
        guarded.keeper().open();
        let mut rest = Vec::new();
        guarded.read_to_end(&mut rest).await.unwrap();
        assert_eq!((rest.as_slice(), guarded.keeper().refused()), (frames, None));
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
