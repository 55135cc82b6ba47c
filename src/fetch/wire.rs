//! Where hyper's pooled client gets its connections: from `connect`, with a permit of the standing
//! that the pool belongs to.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use super::Error;
use super::idle::{Idle, Open};
use super::lanes::{Overheard, Widths};
use crate::admit::{Admission, Dialect, Permit, Standing};
use crate::connect::{Connector, Offer, speaks_h2};
use crate::socket::Conduit;
use crate::target::{Base, Scheme, Scope};
use crate::trace::Peer;

#[derive(Clone)]
pub(super) struct Wire {
    connector: Connector,
    admission: Admission,
    standing: Standing,
    offer: Offer,
    idle: Idle,
    widths: Widths,
}

impl Wire {
    pub(super) fn new(
        connector: Connector,
        admission: Admission,
        standing: Standing,
        offer: Offer,
        idle: Idle,
    ) -> Wire {
        Wire { connector, admission, standing, offer, idle, widths: Widths::default() }
    }

    /// What its servers said of themselves.
    pub(super) fn widths(&self) -> &Widths {
        &self.widths
    }

    /// By which rules connections are made at this moment.
    pub(super) fn revision(&self) -> u64 {
        self.admission.revision()
    }

    fn permit(&self, base: &Base) -> Result<Permit, Error> {
        let dialect = match base.scheme {
            Scheme::Http => Dialect::Http,
            Scheme::Https => Dialect::Connect,
        };
        self.admission.target(self.standing, dialect, &base.target).map_err(Error::Refused)
    }

    async fn connect(self, uri: Uri) -> Result<Conn, Error> {
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let scheme = uri.scheme_str().unwrap_or("http");
        let base = Base::parse(&format!("{scheme}://{authority}"))
            .map_err(|error| Error::Redirected(format!("to {scheme}://{authority}: {error}")))?;
        let permit = self.permit(&base)?;
        let direct = self.connector.is_direct(base.scheme, &base.target);
        let (stream, peer) = match base.scheme {
            Scheme::Https => {
                let dialed = self.connector.dial_tls(&permit, self.offer).await.map_err(Error::Connect)?;
                let stream = match uri.authority().filter(|_| speaks_h2(&dialed.stream)) {
                    Some(server) => Overheard::new(dialed.stream, server.clone(), self.widths.clone()),
                    None => Overheard::deaf(dialed.stream),
                };
                (Stream::Tls(Box::new(TokioIo::new(stream))), dialed.peer)
            }
            Scheme::Http => {
                let dialed = self.connector.dial_http(&permit).await.map_err(Error::Connect)?;
                (Stream::Plain(TokioIo::new(dialed.stream)), dialed.peer)
            }
        };
        let inside = direct && matches!(Scope::of(peer.address.ip()), Scope::Private | Scope::Loopback);
        let is_plain = base.scheme == Scheme::Http;
        let open = is_plain.then(|| Arc::new(self.idle.open()));
        let counted = open.as_ref().map(Arc::downgrade).unwrap_or_default();
        let past = Past { inside, used: Arc::default(), peer: Arc::new(peer), open: counted };
        Ok(Conn { stream, to_parent: is_plain && !direct, past, _open: open })
    }
}

impl Service<Uri> for Wire {
    type Response = Conn;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Conn, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// What is known of the connection that a request went over; beside every answer.
#[derive(Clone)]
pub(super) struct Past {
    /// Whether the server is in the operator's own network.
    pub inside: bool,
    /// Whether an answer came over it before.
    pub used: Arc<AtomicBool>,
    /// Who is at its other end.
    pub peer: Arc<Peer>,
    /// Its part in the count of idle ones, where it has one.
    pub open: Weak<Open>,
}

/// A connection as hyper wants it.
pub(super) struct Conn {
    stream: Stream,
    to_parent: bool,
    past: Past,
    _open: Option<Arc<Open>>,
}

enum Stream {
    Plain(TokioIo<Conduit>),
    Tls(Box<TokioIo<Overheard<TlsStream<Conduit>>>>),
}

impl Connection for Conn {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.past.clone());
        match &self.stream {
            // A parent is spoken to in absolute form.
            Stream::Plain(_) => connected.proxy(self.to_parent),
            Stream::Tls(stream) if speaks_h2(stream.inner().get_ref()) => connected.negotiated_h2(),
            Stream::Tls(_) => connected,
        }
    }
}

impl Read for Conn {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Stream::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl Write for Conn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(io) => Pin::new(io).poll_write(cx, bytes),
            Stream::Tls(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(io) => Pin::new(io).poll_flush(cx),
            Stream::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Stream::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(io) => Pin::new(io).poll_write_vectored(cx, slices),
            Stream::Tls(io) => Pin::new(io).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(io) => io.is_write_vectored(),
            Stream::Tls(io) => io.is_write_vectored(),
        }
    }
}
