//! Bodies that may move slowly but may not stand still: a response's that is watched piece by piece,
//! and a request's that puts off the deadline for its answer while it moves.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::idle::Busy;
use super::lanes::Seat;
use super::{Body, Error};

/// What a request takes while it is under way.
type UnderWay = (Option<Busy>, Option<Seat>);

/// Wraps what hyper received: a silence of `limit` between two pieces is an error. The request is under way
/// until then, or until it has ended.
pub(super) fn stalling(inner: Incoming, limit: Duration, under_way: UnderWay) -> Body {
    let under_way = (!inner.is_end_stream()).then_some(under_way);
    Stalling { under_way, inner, still: Still::within(limit) }.boxed_unsync()
}

struct Stalling {
    under_way: Option<UnderWay>,
    inner: Incoming,
    still: Still,
}

/// How long a body may stand still between two pieces.
struct Still {
    limit: Duration,
    // Armed only while a piece is waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Still {
    fn within(limit: Duration) -> Still {
        Still { limit, timer: None }
    }

    /// A piece came.
    fn end(&mut self) {
        self.timer = None;
    }

    /// Ready when it has stood still for too long.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit))).as_mut().poll(cx)
    }
}

impl HttpBody for Stalling {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            this.still.end();
            if !matches!(frame, Some(Ok(_))) || this.inner.is_end_stream() {
                this.under_way = None;
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| Error::Broken(describe(&error)))));
        }
        ready!(this.still.poll_over(cx));
        Poll::Ready(Some(Err(Error::Stalled(this.still.limit))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A body that breaks off where it stands still after its reader has `left`, for as long as that says: nobody listens
/// any more.
pub fn abandoned(inner: Body, left: impl Future<Output = Duration> + Send + 'static) -> Body {
    let reader = Reader::There(Box::pin(left));
    if inner.is_end_stream() { inner } else { Abandoned { inner, reader }.boxed_unsync() }
}

struct Abandoned {
    inner: Body,
    reader: Reader,
}

enum Reader {
    There(Pin<Box<dyn Future<Output = Duration> + Send>>),
    /// May listen still, while it is not kept waiting.
    Left(Still),
}

impl HttpBody for Abandoned {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            if let Reader::Left(still) = &mut this.reader {
                still.end();
            }
            return Poll::Ready(frame);
        }
        if let Reader::There(left) = &mut this.reader {
            this.reader = Reader::Left(Still::within(ready!(left.as_mut().poll(cx))));
        }
        if let Reader::Left(still) = &mut this.reader {
            ready!(still.poll_over(cx));
        }
        Poll::Ready(Some(Err(Error::Broken("nobody listens any more".to_owned()))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A request's body, and when it last moved: an upload may take longer than its answer may.
pub(super) fn paced(inner: Body) -> (Body, Pace) {
    let pace = Pace { start: Instant::now(), last: Arc::default() };
    let moving = pace.clone();
    (watched(inner, move |_| moving.touch()), pace)
}

/// When a body last moved.
#[derive(Clone)]
pub(super) struct Pace {
    start: Instant,
    /// Milliseconds from `start`; shared with the body.
    last: Arc<AtomicU64>,
}

impl Pace {
    fn touch(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// Returns when the body has stood still, or has been over, for `limit`.
    pub(super) async fn still_for(&self, limit: Duration) {
        loop {
            let due = self.start + Duration::from_millis(self.last.load(Ordering::Relaxed)) + limit;
            if Instant::now() >= due {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

/// A body, each of whose pieces is seen before it is handed on; `seen` goes when the body has gone.
pub fn watched(inner: Body, seen: impl FnMut(&Seen) + Send + Unpin + 'static) -> Body {
    Watched { inner, seen }.boxed_unsync()
}

/// A piece of a body, its end, or why there will be no more.
pub type Seen = Option<Result<Frame<Bytes>, Error>>;

struct Watched<F> {
    inner: Body,
    seen: F,
}

impl<F: FnMut(&Seen) + Unpin> HttpBody for Watched<F> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.inner).poll_frame(cx);
        if let Poll::Ready(frame) = &frame {
            (this.seen)(frame);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A body for HTTP/2 over TLS, in pieces of which each fills one record with its frame's head before it. One of
/// 16 KiB, which is what most clients take, needs a second record for its last nine bytes.
pub fn in_records(inner: Body) -> Body {
    let is_small = inner.size_hint().upper().is_some_and(|most| most <= PIECE as u64);
    if is_small { inner } else { InRecords { inner, rest: Bytes::new() }.boxed_unsync() }
}

struct InRecords {
    inner: Body,
    /// What is left of the piece that came last.
    rest: Bytes,
}

/// A TLS record (RFC 8446 section 5.1), less a frame's head (RFC 9113 section 4.1).
const PIECE: usize = (16 << 10) - 9;

impl HttpBody for InRecords {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            let frame = std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(piece))) => this.rest = piece,
                Some(Ok(Err(frame))) => return Poll::Ready(Some(Ok(frame))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut whole = SizeHint::new();
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper + rest);
        }
        whole.set_lower(hint.lower() + rest);
        whole
    }
}

/// hyper's own words end at "error reading a body"; the cause beneath says what happened.
fn describe(error: &hyper::Error) -> String {
    let cause = std::error::Error::source(error);
    cause.map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::full;
    use futures_util::stream;
    use http_body_util::StreamBody;

    const LIMIT: Duration = Duration::from_secs(300);

    /// An upload that took longer than five minutes was ended with "no answer within 300 s" while it
    /// moved.
    #[tokio::test(start_paused = true)]
    async fn an_upload_that_moves_puts_off_the_deadline_of_its_answer() {
        let pieces = stream::unfold(0, |sent| async move {
            tokio::time::sleep(Duration::from_secs(200)).await;
            (sent < 5).then(|| (Ok(Frame::data(Bytes::from_static(b"x"))), sent + 1))
        });
        let (body, pace) = paced(StreamBody::new(pieces).boxed_unsync());
        tokio::select! {
            whole = body.collect() => assert_eq!(whole.unwrap().to_bytes(), "xxxxx"),
            () = pace.still_for(LIMIT) => panic!("it moved"),
        }
        let over = Instant::now();
        pace.still_for(LIMIT).await;
        assert_eq!(over.elapsed(), LIMIT);
    }

    /// One piece now, and the others this far apart.
    fn dripping(pieces: usize, apart: Duration) -> Body {
        let pieces = stream::unfold(0, move |sent| async move {
            if sent > 0 {
                tokio::time::sleep(apart).await;
            }
            (sent < pieces).then(|| (Ok(Frame::data(Bytes::from_static(b"x"))), sent + 1))
        });
        StreamBody::new(pieces).boxed_unsync()
    }

    /// A download that moved all the time was cut a minute after its client had said that it had nothing more to ask.
    #[tokio::test(start_paused = true)]
    async fn whoever_still_listens_gets_what_moves_and_no_more_than_that() {
        let listens = Duration::from_secs(60);
        let ready = std::future::ready;
        let moving = abandoned(dripping(10, Duration::from_secs(50)), ready(listens));
        assert_eq!(moving.collect().await.unwrap().to_bytes().len(), 10);
        let begun = Instant::now();
        let stalled = abandoned(dripping(10, Duration::from_secs(3600)), ready(listens));
        assert!(stalled.collect().await.is_err());
        assert_eq!(begun.elapsed(), listens);
        let begun = Instant::now();
        assert!(abandoned(dripping(10, listens), ready(Duration::ZERO)).collect().await.is_err());
        assert!(begun.elapsed() < Duration::from_secs(1), "one that has gone hears nothing");
    }

    fn large() -> Bytes {
        (0..100_000u32).map(|at| at as u8).collect()
    }

    #[tokio::test]
    async fn a_body_in_records_is_the_same_body_in_pieces_that_fill_one_each() {
        let mut body = in_records(full(large()));
        let (mut whole, mut left) = (Vec::new(), 100_000);
        while let Some(frame) = body.frame().await {
            let piece = frame.unwrap().into_data().unwrap();
            assert_eq!(piece.len(), PIECE.min(left));
            whole.extend_from_slice(&piece);
            left -= piece.len();
            assert_eq!(body.size_hint().exact(), Some(left as u64));
        }
        assert!(body.is_end_stream() && whole == large());
    }

    #[tokio::test]
    async fn a_body_in_records_breaks_off_and_trails_as_it_did() {
        let trailers = || Frame::trailers([("a".parse().unwrap(), "b".parse().unwrap())].into_iter().collect());
        let with = |last| in_records(StreamBody::new(stream::iter([Ok(Frame::data(large())), last])).boxed_unsync());
        let trailed = with(Ok(trailers())).collect().await.unwrap();
        assert_eq!(trailed.trailers().unwrap()["a"], "b");
        assert_eq!(trailed.to_bytes(), large());
        let mut broken = with(Err(Error::Broken("cut".to_owned())));
        let mut came = 0;
        let error = loop {
            match broken.frame().await.unwrap() {
                Ok(frame) => came += frame.into_data().unwrap().len(),
                Err(error) => break error,
            }
        };
        assert!(came == 100_000 && matches!(error, Error::Broken(_)), "{came} {error}");
    }

    #[test]
    fn a_watched_body_is_framed_as_before() {
        let (body, _) =
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async { paced(full("abc")) });
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(3), false));
    }
}
