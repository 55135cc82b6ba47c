//! Which of several connections to a server a request goes over, where one of them carries many (HTTP/2).
//!
//! A server says how many requests it answers at once on one connection, and what is beyond that waits there. An answer
//! that its client does not read is under way for as long as it likes, so as many of those would stop whoever comes
//! next. net/http makes another connection then, and so do we: hyper's pool has one to each server, so there are as
//! many pools as are wanted, and a request goes to the first in which there is room.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::{io, mem};

use http::Uri;
use http::uri::Authority;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use lru::LruCache;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::wire::Wire;
use super::{Body, CONNECTION_WINDOW, KEEP, KEPT};

/// Requests at once on one connection to a server that names no lower number: what it should allow at least (RFC 9113
/// section 6.5.2). With a window of 2 MiB each, unread, they leave most of [`CONNECTION_WINDOW`].
const WIDTH: usize = 100;
/// Servers whose number is remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// One pool of connections.
pub(super) type Pool = Client<Wire, Body>;

/// A pool whose connections come from `wire`.
pub(super) fn pool(wire: Wire) -> Pool {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(KEEP)
        .pool_max_idle_per_host(KEPT)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        // Only what was never written to a kept connection that had just died is sent again; a
        // request that may have had an effect never is.
        .retry_canceled_requests(true)
        .build(wire)
}

/// The pools of one standing. Cloning gives another handle to the same.
#[derive(Clone)]
pub(super) struct Lanes {
    wire: Wire,
    // Held to find a lane.
    state: Arc<Mutex<State>>,
}

struct State {
    pools: Vec<Arc<Pool>>,
    /// The rules by which their connections were made.
    revision: u64,
    /// How many requests to a server are under way in each.
    under_way: HashMap<Authority, Vec<usize>>,
}

impl Lanes {
    pub(super) fn new(wire: Wire) -> Lanes {
        let (pools, revision) = (vec![Arc::new(pool(wire.clone()))], wire.revision());
        Lanes { wire, state: Arc::new(Mutex::new(State { pools, revision, under_way: HashMap::new() })) }
    }

    /// The pool for a request there. Over plain http a connection carries one at a time, and the first will do.
    pub(super) fn enter(&self, uri: &Uri) -> (Arc<Pool>, Option<Seat>) {
        let mut state = lock(&self.state);
        let revision = self.wire.revision();
        if state.revision != revision {
            // By other rules now: what is under way goes on, and nobody else is carried to where they may not go.
            state.revision = revision;
            state.pools.iter_mut().for_each(|lane| *lane = Arc::new(pool(self.wire.clone())));
        }
        let Some(server) = uri.authority().filter(|_| uri.scheme_str() != Some("http")) else {
            return (Arc::clone(&state.pools[0]), None);
        };
        let lane = state.enter(server, self.wire.widths().of(server));
        if lane == state.pools.len() {
            state.pools.push(Arc::new(pool(self.wire.clone())));
        }
        let seat = Seat { server: server.clone(), lane, state: Arc::clone(&self.state) };
        (Arc::clone(&state.pools[lane]), Some(seat))
    }
}

impl State {
    /// The first lane to this server in which fewer are under way than `width`.
    fn enter(&mut self, server: &Authority, width: usize) -> usize {
        let lanes = self.under_way.entry(server.clone()).or_default();
        let free = lanes.iter().position(|under_way| *under_way < width);
        let lane = free.unwrap_or_else(|| {
            lanes.push(0);
            lanes.len() - 1
        });
        lanes[lane] += 1;
        lane
    }

    fn leave(&mut self, server: &Authority, lane: usize) {
        let Some(lanes) = self.under_way.get_mut(server) else { return };
        lanes[lane] -= 1;
        while lanes.pop_if(|under_way| *under_way == 0).is_some() {}
        if lanes.is_empty() {
            self.under_way.remove(server);
        }
    }
}

/// A request under way, until the end of its answer.
pub(super) struct Seat {
    server: Authority,
    lane: usize,
    state: Arc<Mutex<State>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.state).leave(&self.server, self.lane);
    }
}

/// How many requests at once servers have said that they answer on one connection. Cloning gives another handle.
#[derive(Clone)]
pub(super) struct Widths {
    // Held for a look.
    said: Arc<Mutex<LruCache<Authority, usize>>>,
}

impl Default for Widths {
    fn default() -> Widths {
        Widths { said: Arc::new(Mutex::new(LruCache::new(REMEMBERED))) }
    }
}

impl Widths {
    fn of(&self, server: &Authority) -> usize {
        lock(&self.said).get(server).copied().unwrap_or(WIDTH)
    }

    fn note(&self, server: Authority, said: Option<u32>) {
        let width = said.and_then(|most| usize::try_from(most).ok()).map_or(WIDTH, |most| most.clamp(1, WIDTH));
        if width < WIDTH {
            lock(&self.said).put(server, width);
        } else {
            lock(&self.said).pop(&server);
        }
    }
}

/// Std locks, for a look each.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection that speaks HTTP/2, whose server's settings are read in passing.
pub(super) struct Overheard<S> {
    stream: S,
    listening: Option<Listening>,
}

struct Listening {
    server: Authority,
    widths: Widths,
    heard: Vec<u8>,
}

impl<S> Overheard<S> {
    /// Listens to the settings with which `server` begins.
    pub(super) fn new(stream: S, server: Authority, widths: Widths) -> Overheard<S> {
        Overheard { stream, listening: Some(Listening { server, widths, heard: Vec::new() }) }
    }

    /// Listens to nothing.
    pub(super) fn deaf(stream: S) -> Overheard<S> {
        Overheard { stream, listening: None }
    }

    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }

    fn hear(&mut self, bytes: &[u8]) {
        let Some(listening) = &mut self.listening else { return };
        listening.heard.extend_from_slice(bytes);
        if let Some(said) = most_streams(&listening.heard)
            && let Some(Listening { server, widths, .. }) = mem::take(&mut self.listening)
        {
            widths.note(server, said);
        }
    }
}

/// SETTINGS_MAX_CONCURRENT_STREAMS, if it is set, in the frame of settings that a server begins with (RFC 9113
/// sections 3.4, 6.5.1 and 6.5.2); none before that is whole.
fn most_streams(heard: &[u8]) -> Option<Option<u32>> {
    let (&[a, b, c, kind, _flags, _, _, _, _], payload) = heard.split_first_chunk::<9>()?;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    if kind != SETTINGS || length > LONGEST {
        return Some(None);
    }
    let mut settings = payload.get(..length)?.chunks_exact(6);
    let is_it = |setting: &&[u8]| setting[..2] == MAX_CONCURRENT_STREAMS;
    let last = settings.rfind(is_it);
    Some(last.map(|setting| u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]])))
}

const SETTINGS: u8 = 4;
const MAX_CONCURRENT_STREAMS: [u8; 2] = [0, 3];
/// The longest frame of settings that is listened to; there are a dozen of six bytes each.
const LONGEST: usize = 1024;

impl<S: AsyncRead + Unpin> AsyncRead for Overheard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if this.listening.is_some() {
            this.hear(&buf.filled()[before..]);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Overheard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn server(text: &'static str) -> Authority {
        Authority::from_static(text)
    }

    #[test]
    fn a_full_lane_is_followed_by_another_and_a_free_seat_is_taken_first() {
        let mut state = State { pools: Vec::new(), revision: 0, under_way: HashMap::new() };
        let (a, b) = (server("a.example"), server("b.example"));
        let taken: Vec<usize> = (0..5).map(|_| state.enter(&a, 2)).collect();
        assert_eq!((taken, state.enter(&b, 2)), (vec![0, 0, 1, 1, 2], 0));
        state.leave(&a, 1);
        assert_eq!((state.enter(&a, 2), state.enter(&a, 2)), (1, 2));
        for lane in [0, 0, 1, 1, 2, 2] {
            state.leave(&a, lane);
        }
        state.leave(&b, 0);
        assert!(state.under_way.is_empty());
    }

    /// A frame of settings.
    fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
        let payload: Vec<u8> =
            pairs.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        [&[0, 0, payload.len() as u8, SETTINGS, 0, 0, 0, 0, 0][..], &payload].concat()
    }

    #[tokio::test]
    async fn what_a_server_says_of_itself_is_heard_in_passing() {
        let widths = Widths::default();
        let table = [
            (settings(&[(4, 65_535), (3, 8)]), 8),
            (settings(&[(3, 8), (3, 32)]), 32),
            (settings(&[(3, 0)]), 1),
            (settings(&[(3, u32::MAX)]), WIDTH),
            (settings(&[]), WIDTH),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), WIDTH),
            (vec![0xff; 4096], WIDTH),
        ];
        for (sent, width) in table {
            let whole = [&sent[..], b"and more"].concat();
            let mut pieces = in_pieces(&whole);
            let mut stream = Overheard::new(&mut pieces, server("a.example"), widths.clone());
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await.unwrap();
            assert!(heard == whole);
            assert_eq!(widths.of(&server("A.example")), width, "{sent:?}");
        }
    }

    /// A stream that gives seven bytes at a time.
    fn in_pieces(bytes: &[u8]) -> impl AsyncRead + Unpin {
        let pieces: Vec<_> =
            bytes.chunks(7).map(|piece| Ok::<_, io::Error>(bytes::Bytes::copy_from_slice(piece))).collect();
        tokio_util::io::StreamReader::new(futures_util::stream::iter(pieces))
    }
}
