//! The service's hand on the head guard: why a head was refused, whether the client is still there,
//! a word to it before the answer, and the end of all checks once protocols were switched.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Poll, Waker};

use super::head::Fault;

/// A handle on one guarded connection.
#[derive(Clone, Default)]
pub struct Keeper(Arc<Shared>);

#[derive(Default)]
struct Shared {
    fault: OnceLock<Fault>,
    /// Whether the present request is `OPTIONS http://host`, which hyper shows as `http://host/`.
    pathless: AtomicBool,
    // Held for a few instructions; guard and service run in one task.
    talk: Mutex<Talk>,
}

#[derive(Default)]
struct Talk {
    /// To be written before the answer.
    aside: Vec<u8>,
    /// No request follows any more: every byte passes.
    open: bool,
    /// Whether somebody waits to hear that the client left.
    watched: bool,
    left: Option<Left>,
    waiting: Option<Waker>,
}

/// How a client left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It has finished sending; perhaps it still listens.
    Finished,
    /// It is gone.
    Reset,
}

impl Keeper {
    /// The fault, once a head or a body was refused.
    pub fn refused(&self) -> Option<Fault> {
        self.0.fault.get().copied()
    }

    /// Whether the present request asks for the options of a server, and not of anything on it (RFC 9112
    /// section 3.2.4).
    pub fn asks_the_server(&self) -> bool {
        self.0.pathless.load(Ordering::Relaxed)
    }

    /// Returns when the client has left while an answer was waited for.
    pub async fn left(&self) -> Left {
        poll_fn(|cx| {
            let mut talk = self.talk();
            talk.watched = true;
            match talk.left {
                Some(left) => Poll::Ready(left),
                None => {
                    talk.waiting = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Has these bytes written before anything else of the present answer: an interim response. It is
    /// on its way once the task has yielded.
    pub fn say_aside(&self, bytes: &[u8]) {
        self.talk().aside.extend_from_slice(bytes);
    }

    /// Takes back what could not be said in time: the answer is here.
    pub fn hush(&self) {
        self.talk().aside.clear();
    }

    /// Lets everything pass from now on: the protocol was switched.
    pub fn open(&self) {
        self.talk().open = true;
    }

    pub(super) fn refuse(&self, fault: Fault) {
        // Set once: the first refusal ends the connection.
        let _ = self.0.fault.set(fault);
    }

    pub(super) fn note_pathless(&self, pathless: bool) {
        self.0.pathless.store(pathless, Ordering::Relaxed);
    }

    pub(super) fn is_open(&self) -> bool {
        self.talk().open
    }

    pub(super) fn is_watched(&self) -> bool {
        let talk = self.talk();
        talk.watched && talk.left.is_none()
    }

    pub(super) fn has_left(&self, left: Left) {
        let mut talk = self.talk();
        talk.left = Some(left);
        if let Some(waker) = talk.waiting.take() {
            waker.wake();
        }
    }

    pub(super) fn take_aside(&self) -> Vec<u8> {
        std::mem::take(&mut self.talk().aside)
    }

    fn talk(&self) -> std::sync::MutexGuard<'_, Talk> {
        self.0.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
