//! Requests passed on: plain http in absolute form, and whatever an intercepted host is asked that
//! is no module request.
//!
//! What belongs to one connection is taken off both ways, `Via` is added and watched for loops, the
//! Host is made anew from the target. Bodies stream through untouched; one that the origin cuts is
//! cut to the client. Nothing is kept here.

mod hops;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::admit::Standing;
use crate::fetch::{self, Body, Fetcher, Patience};
use crate::metrics::{By, Counter, Family, Label, Registry};
use crate::target::Base;

/// A client decides for itself how long it waits; this only ends what nobody waits for any more.
const PATIENCE: Patience = Patience { first_byte: Duration::from_secs(300), stall: Duration::from_secs(600) };

/// The forwarding side. Each worker has its own, with connections of its own.
#[derive(Clone)]
pub struct Forwarder {
    fetcher: Fetcher,
    identity: Identity,
}

/// Who we are to other proxies: one name for all workers.
#[derive(Clone)]
pub struct Identity {
    /// In `Via`: random, so that two goanyways in a row are told apart.
    pseudonym: Arc<str>,
    passed: Family<By<Passed>, Counter>,
}

impl Identity {
    /// Draws a pseudonym.
    pub fn new(registry: &Registry) -> Identity {
        let pseudonym = format!("goanyway-{:08x}", fastrand::u32(..)).into();
        let passed = Family::default();
        registry.room("forward", |families| {
            families.register("requests", "Requests passed on, by outcome", Family::clone(&passed));
        });
        Identity { pseudonym, passed }
    }

    /// Whether a request has been through this proxy before.
    pub fn has_seen(&self, headers: &HeaderMap) -> bool {
        hops::has_passed(headers, &self.pseudonym)
    }

    /// Who a request has been through so far, as one field.
    pub fn before(headers: &HeaderMap) -> String {
        let entries = headers.get_all(header::VIA).iter().filter_map(|value| value.to_str().ok());
        entries.collect::<Vec<_>>().join(", ")
    }

    /// The name in `Via`, `Proxy-Status` and `Cache-Status`.
    pub fn pseudonym(&self) -> &str {
        &self.pseudonym
    }
}

impl Forwarder {
    /// Passes requests on by this fetcher.
    pub fn new(fetcher: Fetcher, identity: Identity) -> Forwarder {
        Forwarder { fetcher, identity }
    }

    /// Passes a request on to `base` as `path` and brings the answer back.
    pub async fn pass(
        &self,
        standing: Standing,
        base: &Base,
        path: &str,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Failure> {
        let outcome = self.exchange(standing, base, path, request).await;
        let passed = outcome.as_ref().map_or_else(Failure::passed, |_| Passed::Answered);
        self.identity.passed.get_or_create(&By(passed)).inc();
        outcome
    }

    async fn exchange(
        &self,
        standing: Standing,
        base: &Base,
        path: &str,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, Failure> {
        if self.identity.has_seen(request.headers()) {
            return Err(Failure::Loop);
        }
        if request.method() == Method::OPTIONS && hops::count_down(request.headers_mut()).is_none() {
            return Ok(own_options());
        }
        let outgoing = self.outgoing(base, path, request)?;
        let mut response = self.fetcher.send(standing, outgoing, PATIENCE).await.map_err(Failure::Fetch)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked it to (`Upgrade` was taken off), and the client could not follow.
            return Err(Failure::Fetch(fetch::Error::Broken("it switched protocols unasked".to_owned())));
        }
        let version = response.version();
        hops::strip(response.headers_mut());
        hops::add_via(response.headers_mut(), version, &self.identity.pseudonym);
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }

    fn outgoing(&self, base: &Base, path: &str, request: Request<Incoming>) -> Result<Request<Body>, Failure> {
        let (mut head, body) = request.into_parts();
        head.uri = Uri::builder()
            .scheme(base.scheme.as_str())
            .authority(base.authority())
            .path_and_query(path)
            .build()
            .map_err(|error| Failure::Uri(error.to_string()))?;
        hops::strip(&mut head.headers);
        hops::add_via(&mut head.headers, head.version, &self.identity.pseudonym);
        // hyper writes Host from the URI: the target of the request wins over what the client put there.
        head.headers.remove(header::HOST);
        head.version = Version::HTTP_11;
        head.extensions.clear();
        let body = body.map_err(|error| fetch::Error::Request(error.to_string())).boxed_unsync();
        Ok(Request::from_parts(head, body))
    }
}

/// The answer to an OPTIONS that was to go no further than us.
fn own_options() -> Response<Body> {
    let mut response = Response::new(fetch::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD, POST, OPTIONS, CONNECT"));
    response
}

/// Why a request could not be passed on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    #[error("this request has been through this proxy before: a proxy loop")]
    Loop,
    #[error("the path cannot be sent on: {0}")]
    Uri(String),
    #[error("{0}")]
    Fetch(fetch::Error),
}

impl Failure {
    fn passed(&self) -> Passed {
        match self {
            Failure::Loop => Passed::Loop,
            Failure::Uri(_) => Passed::Bad,
            Failure::Fetch(error) if error.is_silence() => Passed::Silent,
            Failure::Fetch(_) => Passed::Failed,
        }
    }
}

/// What came of passing a request on, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Passed {
    Answered,
    Failed,
    Silent,
    Loop,
    Bad,
}

impl Label for Passed {
    fn label(&self) -> &'static str {
        match self {
            Passed::Answered => "answered",
            Passed::Failed => "failed",
            Passed::Silent => "silent",
            Passed::Loop => "loop",
            Passed::Bad => "bad",
        }
    }
}
