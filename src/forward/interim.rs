//! What an origin says before its answer (RFC 9110 section 15.2): early hints are passed on, and
//! `100 Continue` is the origin's word, not ours, on whether the body that waits for it may come.
//!
//! hyper's server sends `100 Continue` when a body that was announced with an expectation is first
//! asked for, and no other interim response (hyper 1.12, proto/h1/role.rs, `Server::encode`): so
//! the body is not asked for before the origin said so, and hints are written past hyper. An origin
//! that knows nothing of expectations says nothing, and gets the body after a second (section 10.1.1).
//!
//! An origin that says more before its answer than a head may hold has none: a client that does not read
//! would have us keep all of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::{Request, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use super::hops;
use crate::classify::Keeper;
use crate::fetch::{Body, Error};

/// All that may be said before an answer: as much as a request's head, which is far beyond what hints need.
const MOST: usize = 64 << 10;

/// How long an origin may think about an expectation: as long as curl waits for the same.
const EXPECTED_WITHIN: Duration = Duration::from_secs(1);

/// The ear for interim responses of one request.
pub(super) struct Interim {
    // Not bounded by the channel, but by [`MOST`].
    said: mpsc::UnboundedReceiver<(StatusCode, HeaderMap)>,
    /// How much was said, in bytes.
    told: Arc<AtomicUsize>,
    gate: Option<Gate>,
}

/// The hand on a body that waits.
pub(super) struct Gate {
    words: mpsc::UnboundedSender<Word>,
    opened: Arc<AtomicBool>,
}

enum Word {
    Come,
    /// The answer is here; while it lasts the body is neither asked for nor given up.
    Wait,
}

impl Interim {
    /// Listens to what is said about this request, and holds its body back where it expects a word.
    pub(super) fn listen(mut request: Request<Body>) -> (Request<Body>, Interim) {
        let (saying, said) = mpsc::unbounded_channel();
        let told = Arc::<AtomicUsize>::default();
        let telling = Arc::clone(&told);
        hyper::ext::on_informational(&mut request, move |response| {
            if telling.fetch_add(length(response.headers()), Ordering::Relaxed) <= MOST {
                // Nobody listens once the answer is here.
                let _ = saying.send((response.status(), response.headers().clone()));
            }
        });
        let expects = request.headers().contains_key(header::EXPECT);
        if !expects {
            return (request, Interim { said, told, gate: None });
        }
        if request.body().is_end_stream() {
            // There is nothing to wait for (RFC 9110 section 10.1.1).
            request.headers_mut().remove(header::EXPECT);
            return (request, Interim { said, told, gate: None });
        }
        let (words, heard) = mpsc::unbounded_channel();
        let gate = Gate { words, opened: Arc::default() };
        let opened = Arc::clone(&gate.opened);
        let timer = Some(Box::pin(tokio::time::sleep_until(Instant::now() + EXPECTED_WITHIN)));
        let request = request.map(|inner| Waiting { inner, heard, timer, opened }.boxed_unsync());
        (request, Interim { said, told, gate: Some(gate) })
    }

    /// Waits for the answer, and says meanwhile what is to be said, by `keeper`'s hand.
    pub(super) async fn until<T>(
        &mut self,
        answer: impl Future<Output = Result<T, Error>>,
        keeper: Option<&Keeper>,
        pseudonym: &str,
    ) -> Result<T, Error> {
        let mut answer = std::pin::pin!(answer);
        let outcome = loop {
            tokio::select! {
                biased;
                Some((status, headers)) = self.said.recv() => {
                    // Looked at first: whoever is flooded must not pass on what came before, turn by turn.
                    if self.told.load(Ordering::Relaxed) > MOST {
                        break Err(Error::Broken(format!("more than {} KiB of interim responses", MOST >> 10)));
                    }
                    if status == StatusCode::CONTINUE {
                        self.gate.iter().for_each(|gate| gate.say(Word::Come));
                    } else if let Some(keeper) = keeper {
                        keeper.say_aside(&written(status, headers, pseudonym));
                        // hyper flushes while nothing else is to be done.
                        tokio::task::yield_now().await;
                    }
                }
                outcome = &mut answer => break outcome,
            }
        };
        keeper.into_iter().for_each(Keeper::hush);
        outcome
    }

    /// What holds the body back, where it was never asked for: to be kept until the answer is over,
    /// since the connection ends with it.
    pub(super) fn unopened(self) -> Option<Gate> {
        let gate = self.gate.filter(|gate| !gate.opened.load(Ordering::Relaxed))?;
        gate.say(Word::Wait);
        Some(gate)
    }
}

impl Gate {
    fn say(&self, word: Word) {
        // A body that is gone hears nothing, and need not.
        let _ = self.words.send(word);
    }
}

/// What a response's head takes, about.
fn length(headers: &HeaderMap) -> usize {
    const LINE: usize = "HTTP/1.1 103 Early Hints\r\n\r\n".len();
    LINE + headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum::<usize>()
}

/// An interim response as it goes on the wire.
fn written(status: StatusCode, mut headers: HeaderMap, pseudonym: &str) -> Vec<u8> {
    hops::strip(&mut headers);
    hops::add_via(&mut headers, Version::HTTP_11, pseudonym);
    let reason = status.canonical_reason().unwrap_or("Interim");
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
    for (name, value) in &headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// A body that is not asked for until somebody says so.
struct Waiting {
    inner: Body,
    heard: mpsc::UnboundedReceiver<Word>,
    timer: Option<Pin<Box<Sleep>>>,
    opened: Arc<AtomicBool>,
}

impl Waiting {
    fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.opened.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        loop {
            match self.heard.poll_recv(cx) {
                Poll::Ready(Some(Word::Come)) => break,
                Poll::Ready(Some(Word::Wait)) => self.timer = None,
                Poll::Ready(None) => {
                    return Poll::Ready(Err(Error::Request("it was answered before its body came".to_owned())));
                }
                Poll::Pending => {
                    let waited = self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
                    if !waited {
                        return Poll::Pending;
                    }
                    break;
                }
            }
        }
        self.opened.store(true, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl HttpBody for Waiting {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        match this.poll_opened(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut this.inner).poll_frame(cx),
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::full;

    fn expecting(body: Body) -> Request<Body> {
        Request::builder().header("expect", "100-continue").body(body).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_comes_when_the_origin_says_so_or_says_nothing() {
        let (request, interim) = Interim::listen(expecting(full("body")));
        interim.gate.as_ref().unwrap().say(Word::Come);
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "body");
        assert!(interim.unopened().is_none());

        let (request, _interim) = Interim::listen(expecting(full("body")));
        let begun = Instant::now();
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "body");
        assert_eq!(begun.elapsed(), EXPECTED_WITHIN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_not_wanted_any_more_never_comes() {
        let (request, interim) = Interim::listen(expecting(full("body")));
        let gate = interim.unopened().unwrap();
        let body = tokio::spawn(request.into_body().collect());
        tokio::time::sleep(EXPECTED_WITHIN * 9).await;
        assert!(!body.is_finished());
        drop(gate);
        assert!(matches!(body.await.unwrap(), Err(Error::Request(_))));
    }

    #[test]
    fn hints_go_on_without_what_was_meant_for_us() {
        let mut headers = HeaderMap::new();
        headers.append("link", "</a.css>; rel=preload".parse().unwrap());
        headers.append("connection", "x-hop".parse().unwrap());
        headers.append("x-hop", "1".parse().unwrap());
        let text = String::from_utf8(written(StatusCode::EARLY_HINTS, headers, "goanyway-1")).unwrap();
        assert_eq!(text, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nvia: 1.1 goanyway-1\r\n\r\n");
    }
}
