//! Requests passed on: plain http in absolute form, and whatever an intercepted host is asked that
//! is no module request.
//!
//! What belongs to one connection is taken off both ways, `Via` is added and watched for loops, the
//! Host is made anew from the target. Bodies stream through untouched, trailers with them; one that
//! the origin cuts is cut to the client. Interim responses go through, and a switch to another
//! protocol where the client asked for that one. Nothing is kept here.

mod hops;
mod interim;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming};

use crate::admit::Standing;
use crate::classify::Keeper;
use crate::fetch::{self, Body, Fetcher, Patience};
use crate::metrics::{By, Counter, Family, Label, Registry};
use crate::target::Base;
use hops::Asked;
use interim::Interim;

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

    /// Passes a request on to `base` as `path` and brings the answer back. An answer of 101 has the
    /// origin's end of the connection in it (`hyper::upgrade::on`). `keeper` is the hand on the
    /// client's connection, where that can hear more than the answer.
    pub async fn pass(
        &self,
        standing: Standing,
        base: &Base,
        path: &str,
        request: Request<Incoming>,
        keeper: Option<&Keeper>,
    ) -> Result<Response<Body>, Failure> {
        let outcome = self.exchange(standing, base, path, request, keeper).await;
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
        keeper: Option<&Keeper>,
    ) -> Result<Response<Body>, Failure> {
        if self.identity.has_seen(request.headers()) {
            return Err(Failure::Loop);
        }
        if request.method() == Method::OPTIONS && hops::count_down(request.headers_mut()).is_none() {
            return Ok(own_options());
        }
        let asked = Asked::of(request.headers(), request.version());
        // HTTP/1.0 knows no interim responses (RFC 9110 section 15.2).
        let keeper = keeper.filter(|_| request.version() == Version::HTTP_11);
        let (outgoing, mut interim) = Interim::listen(self.outgoing(base, path, request, &asked)?);
        // Boxed: every connection has room for its largest future, in use or not.
        let answer = Box::pin(self.fetcher.send(standing, outgoing, PATIENCE));
        let answer = interim.until(answer, keeper, &self.identity.pseudonym).await.map_err(Failure::Fetch)?;
        let mut response = self.incoming(answer, &asked)?;
        if let Some(gate) = interim.unopened() {
            // Whatever the client sends now may be the body or not: nobody could tell.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response = response.map(|body| held(body, gate));
        }
        Ok(response)
    }

    fn incoming(&self, mut response: Response<Body>, asked: &Asked) -> Result<Response<Body>, Failure> {
        let broken = |why: &str| Failure::Fetch(fetch::Error::Broken(why.to_owned()));
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let granted = asked.granted(response.headers()).filter(|_| switched);
        if switched && granted.is_none() {
            // The client could not follow.
            return Err(broken("it switched protocols unasked"));
        }
        let codings = response.headers().get_all(header::TRANSFER_ENCODING);
        if codings.iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
            // None was asked for (`TE` names none), and without its name the body could not be read.
            return Err(broken("it has a transfer coding that nobody asked for"));
        }
        if response.headers().contains_key(header::TRANSFER_ENCODING) {
            // Chunks say where the body ends (RFC 9112 section 6.3).
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        let version = response.version();
        let headers = response.headers_mut();
        hops::strip(headers);
        hops::add_via(headers, version, &self.identity.pseudonym);
        if let Some(protocol) = granted {
            headers.insert(header::UPGRADE, protocol);
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
        *response.version_mut() = Version::HTTP_11;
        Ok(response.map(with_clean_trailers))
    }

    fn outgoing(
        &self,
        base: &Base,
        path: &str,
        request: Request<Incoming>,
        asked: &Asked,
    ) -> Result<Request<Body>, Failure> {
        let (mut head, body) = request.into_parts();
        head.uri = Uri::builder()
            .scheme(base.scheme.as_str())
            .authority(base.authority())
            .path_and_query(path)
            .build()
            .map_err(|error| Failure::Uri(error.to_string()))?;
        hops::strip(&mut head.headers);
        hops::add_via(&mut head.headers, head.version, &self.identity.pseudonym);
        asked.put_on(&mut head.headers, base.scheme);
        if head.version == Version::HTTP_2 {
            hops::unpack(&mut head.headers);
        }
        if head.version != Version::HTTP_11 {
            // HTTP/1.0 has no expectations (RFC 9110 section 10.1.1), and over HTTP/2 we could not
            // tell the client that its body may come.
            head.headers.remove(header::EXPECT);
        }
        // hyper writes Host from the URI: the target of the request wins over what the client put there.
        head.headers.remove(header::HOST);
        head.version = Version::HTTP_11;
        head.extensions.clear();
        let body = body.map_err(|error| fetch::Error::Request(error.to_string())).boxed_unsync();
        Ok(Request::from_parts(head, with_clean_trailers(body)))
    }
}

/// A body whose trailers say nothing that only a head may.
fn with_clean_trailers(body: Body) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let cleaned = body.map_frame(|frame| match frame.into_trailers() {
        Ok(mut trailers) => {
            hops::strip_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    });
    cleaned.boxed_unsync()
}

/// A body that has something with it for as long as it lasts.
fn held<T: Send + 'static>(body: Body, what: T) -> Body {
    if body.is_end_stream() {
        return body;
    }
    body.map_frame(move |frame| {
        let _held = &what;
        frame
    })
    .boxed_unsync()
}

/// The answer to an OPTIONS that was to go no further than us.
pub fn own_options() -> Response<Body> {
    let mut response = Response::new(fetch::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT"));
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
