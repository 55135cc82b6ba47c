//! Where hyper's pooled client gets its connections: from `connect`, with a permit of the standing
//! that the pool belongs to.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use super::Error;
use crate::admit::{Admission, Dialect, Permit, Standing};
use crate::connect::{Connector, speaks_h2};
use crate::target::{Base, Scheme};

#[derive(Clone)]
pub(super) struct Wire {
    connector: Connector,
    admission: Admission,
    standing: Standing,
}

impl Wire {
    pub(super) fn new(connector: Connector, admission: Admission, standing: Standing) -> Wire {
        Wire { connector, admission, standing }
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
            .map_err(|error| Error::Redirected(format!("to {uri}: {error}")))?;
        let permit = self.permit(&base)?;
        match base.scheme {
            Scheme::Https => {
                let dialed = self.connector.dial_tls(&permit).await.map_err(Error::Connect)?;
                Ok(Conn::Tls(Box::new(TokioIo::new(dialed.stream))))
            }
            Scheme::Http => self.connect_plain(&permit).await,
        }
    }

    async fn connect_plain(&self, permit: &Permit) -> Result<Conn, Error> {
        let parent = self.connector.http_parent(permit.target());
        let way = parent.as_ref().map_or_else(|| permit.clone(), |parent| permit.to_parent(&parent.base.target));
        let dialed = self.connector.dial_straight(&way).await.map_err(Error::Connect)?;
        Ok(Conn::Plain { io: TokioIo::new(dialed.stream), to_parent: parent.is_some() })
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

/// A connection as hyper wants it.
pub(super) enum Conn {
    Plain { io: TokioIo<TcpStream>, to_parent: bool },
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for Conn {
    fn connected(&self) -> Connected {
        match self {
            // A parent is spoken to in absolute form.
            Conn::Plain { to_parent, .. } => Connected::new().proxy(*to_parent),
            Conn::Tls(stream) if speaks_h2(stream.inner()) => Connected::new().negotiated_h2(),
            Conn::Tls(_) => Connected::new(),
        }
    }
}

impl Read for Conn {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Conn::Plain { io, .. } => Pin::new(io).poll_read(cx, buf),
            Conn::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl Write for Conn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Conn::Plain { io, .. } => Pin::new(io).poll_write(cx, bytes),
            Conn::Tls(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Conn::Plain { io, .. } => Pin::new(io).poll_flush(cx),
            Conn::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Conn::Plain { io, .. } => Pin::new(io).poll_shutdown(cx),
            Conn::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Conn::Plain { io, .. } => Pin::new(io).poll_write_vectored(cx, slices),
            Conn::Tls(io) => Pin::new(io).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Conn::Plain { io, .. } => io.is_write_vectored(),
            Conn::Tls(io) => io.is_write_vectored(),
        }
    }
}
