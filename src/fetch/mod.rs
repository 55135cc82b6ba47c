//! One request to one server and its answer: HTTP over connections that `connect` makes.
//!
//! Every stage has a deadline of its own (connect and TLS in `connect`, the first byte and the
//! stall between bytes here); there is no limit on a body that moves. Connections are kept and
//! used again, apart for each standing, so that none ever carries somebody's request further than
//! its own permit would. Redirects are followed here where asked, without credentials to another
//! host. Which server to ask, and whether to ask again, is `goproxy`'s to decide.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;

use crate::admit::Standing;
use crate::target::Base;

/// A body in either direction.
pub type Body = UnsyncBoxBody<Bytes, Error>;

/// How long a stage may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the request to the head of its answer, connecting included.
    pub first_byte: Duration,
    /// Between two pieces of a body.
    pub stall: Duration,
}

/// The client side of HTTP. Cloning gives another handle to the same connections.
#[derive(Clone)]
pub struct Fetcher {
    _todo: (),
}

impl Fetcher {
    /// Sends one request, whose URI is absolute, and returns as soon as the head of the answer is in.
    pub async fn send(
        &self,
        standing: Standing,
        request: Request<Body>,
        patience: Patience,
    ) -> Result<Response<Body>, Error> {
        let _ = (standing, request, patience);
        unimplemented!()
    }

    /// GETs `base.path` + `path` (a path as it goes on the wire, starting with `/`), following at
    /// most ten redirects.
    pub async fn get(
        &self,
        standing: Standing,
        base: &Base,
        path: &str,
        headers: &HeaderMap,
        patience: Patience,
    ) -> Result<Response<Body>, Error> {
        let _ = (standing, base, path, headers, patience);
        unimplemented!()
    }
}

/// Why there is no answer, or no whole one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No connection: resolving, connecting or TLS failed. The text is `connect`'s own diagnosis.
    #[error("{0}")]
    Connect(String),
    /// Connected, and then nothing came in time.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// The body stopped moving.
    #[error("no byte for {0:?}")]
    Stalled(Duration),
    /// The connection ended, or spoke nonsense, before the answer was whole.
    #[error("the answer broke off: {0}")]
    Broken(String),
    /// More redirects than anybody needs, or one to nowhere.
    #[error("redirected {0}")]
    Redirected(String),
}
