//! One request to one server and its answer: HTTP over connections that `connect` makes.
//!
//! Every stage has a deadline of its own (connecting and TLS in `connect`, the first byte and the
//! stall between bytes here); there is no limit on a body that moves. Connections are kept and
//! used again, apart for each standing, so that none ever carries somebody's request further than
//! its own permit would. A kept connection may die as it is used: whatever may have had an effect is
//! never sent twice, what cannot have had one is sent again. Redirects are followed here where asked, without credentials to another
//! host. Which server to ask, and whether to ask again, is `goproxy`'s to decide.

mod body;
mod idle;
mod lanes;
mod wire;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Body as _;

pub use body::{Seen, abandoned, in_records, watched};
pub use idle::Idle;

use crate::admit::{Admission, Refusal, Standing};
use crate::connect::{self, Connector, Offer, Parent};
use crate::target::{BadTarget, Base, Target};
use crate::trace::{self, Peer, Phase};
use lanes::{Lanes, Pool};
use wire::{Past, Wire};

/// A body in either direction.
pub type Body = UnsyncBoxBody<Bytes, Error>;

/// A body of nothing.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is already whole.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// How long a stage may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the request to the head of its answer, connecting included.
    pub first_byte: Duration,
    /// Between two pieces of a body.
    pub stall: Duration,
}

/// How much of their answers servers of HTTP/2 may send ahead over one connection, before it is read: what net/http
/// lets them. Each answer has a window of its own, and one that nobody reads must not hold up the others.
const CONNECTION_WINDOW: u32 = 1 << 30;
/// How long an unused connection is kept: what Go's own transport does (net/http DefaultTransport).
const KEEP: Duration = Duration::from_secs(90);
/// Unused connections kept to one host.
const KEPT: usize = 8;
/// Redirects followed, as in net/http's client.
const HOPS: usize = 10;

/// The client side of HTTP. Cloning gives another handle to the same connections.
#[derive(Clone)]
pub struct Fetcher {
    connector: Connector,
    admission: Admission,
    /// Who may be sent on to as what the configuration names.
    named: Arc<[Target]>,
    idle: Idle,
    configured: Lanes,
    local: Lanes,
    remote: Lanes,
}

impl Fetcher {
    /// A client whose connections are driven by the runtime that requests are sent from, and kept where `idle` has
    /// room for them.
    pub fn new(connector: &Connector, admission: &Admission, idle: &Idle) -> Fetcher {
        let wire = |standing| Wire::new(connector.clone(), admission.clone(), standing, Offer::Any, idle.clone());
        let lanes = |standing| Lanes::new(wire(standing));
        Fetcher {
            connector: connector.clone(),
            admission: admission.clone(),
            named: Arc::default(),
            idle: idle.clone(),
            configured: lanes(Standing::Configured),
            local: lanes(Standing::Local),
            remote: lanes(Standing::Remote),
        }
    }

    /// The same, where a configured server may send on to these, as far as they are.
    pub fn knowing(self, named: impl IntoIterator<Item = Target>) -> Fetcher {
        Fetcher { named: named.into_iter().collect(), ..self }
    }

    /// Sends one request, whose URI is absolute, and returns as soon as the head of the answer is in.
    /// Patience begins anew with each piece of the request's own body.
    pub async fn send(
        &self,
        standing: Standing,
        mut request: Request<Body>,
        patience: Patience,
    ) -> Result<Response<Body>, Error> {
        let parent = self.parent_of(request.uri());
        let authorization = parent.as_ref().and_then(|parent| HeaderValue::from_str(parent.authorization()?).ok());
        if let Some(authorization) = authorization {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization);
        }
        if parent.is_some() && request.uri().path() == "*" {
            // hyper has no absolute form without a path, which would say `*` (RFC 9112 section 3.2.4).
            *request.uri_mut() = with_path(request.uri(), PathAndQuery::from_static("/"));
        }
        let again = repeatable(&request);
        let mut tries = KEPT;
        loop {
            match (self.send_once(standing, request, patience).await, &again) {
                (Ok(response), _) => return heed(response, parent.as_ref()),
                // As many kept connections may have died as are kept; then one is new.
                (Err(Failed { on_a_kept_connection: true, .. }), Some(head)) if tries > 0 => {
                    tries -= 1;
                    request = Request::from_parts(head.clone(), empty());
                }
                (Err(failed), _) => return Err(failed.error),
            }
        }
    }

    async fn send_once(
        &self,
        standing: Standing,
        mut request: Request<Body>,
        patience: Patience,
    ) -> Result<Response<Body>, Failed> {
        let lanes = match standing {
            Standing::Configured => &self.configured,
            Standing::Local => &self.local,
            Standing::Remote => &self.remote,
        };
        // Another protocol is switched to in HTTP/1.1 alone (RFC 9113 section 8.6): what asks for one has a
        // connection of its own, for which the server cannot choose HTTP/2.
        let (is_plain, switches) =
            (request.uri().scheme_str() == Some("http"), request.headers().contains_key(header::UPGRADE));
        let is_alone = switches && !is_plain || is_bound(request.headers());
        let (pool, seat) = if is_alone { (Arc::new(self.apart(standing)), None) } else { lanes.enter(request.uri()) };
        if is_plain && !switches && self.idle.is_full() {
            request.headers_mut().append(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let busy = is_plain.then(|| self.idle.begin());
        let (head, body) = request.into_parts();
        let (body, pace) = body::paced(body);
        let running =
            trace::start(Phase::FirstByte, || head.uri.authority().map(ToString::to_string).unwrap_or_default());
        let outcome = tokio::select! {
            answer = pool.request(Request::from_parts(head, body)) => match answer {
                Ok(response) => {
                    if let Some(past) = response.extensions().get::<Past>() {
                        past.used.store(true, Ordering::Relaxed);
                        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                            past.open.upgrade().iter().for_each(|open| open.leave());
                        }
                        if let Some(trace) = trace::current() {
                            trace.reach(Peer::clone(&past.peer));
                        }
                    }
                    Ok(response.map(|body| body::stalling(body, patience.stall, (busy, seat))))
                }
                Err(error) => {
                    let on_a_kept_connection = died(&error) && was_kept(&error);
                    Err(Failed { error: Error::from_client(&error), on_a_kept_connection })
                }
            },
            () = pace.still_for(patience.first_byte) => {
                Err(Failed { error: Error::Silent(patience.first_byte), on_a_kept_connection: false })
            }
        };
        // What came before on the way there has stretches of its own.
        running.end_since_last(&outcome);
        outcome
    }

    fn apart(&self, standing: Standing) -> Pool {
        let (connector, admission) = (self.connector.clone(), self.admission.clone());
        lanes::pool(Wire::new(connector, admission, standing, Offer::Http1, self.idle.clone()))
    }

    /// The parent proxy that a plain http request goes to; with https it is spoken to in the CONNECT.
    fn parent_of(&self, uri: &Uri) -> Option<Parent> {
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"))?;
        self.connector.http_parent(&Target::parse_authority(authority.as_str(), 80).ok()?)
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
        let mut place = (standing, base.clone(), format!("{}{path}", base.path));
        let mut headers = headers.clone();
        for _ in 0..=HOPS {
            let (standing, base, path) = &place;
            let response = self.send(*standing, request(base, path, &headers)?, patience).await?;
            let Some(next) = redirect(&response, base, path)? else { return Ok(response) };
            if next.0.target != base.target {
                headers.remove(header::AUTHORIZATION);
                headers.remove(header::COOKIE);
                let inside = response.extensions().get::<Past>().is_some_and(|past| past.inside);
                let named = self.named.contains(&next.0.target);
                place = (sent_on(*standing, inside, named), next.0, next.1);
            } else {
                place = (*standing, next.0, next.1);
            }
        }
        Err(Error::Circling)
    }
}

fn with_path(uri: &Uri, path: PathAndQuery) -> Uri {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

/// A request that came to nothing.
struct Failed {
    error: Error,
    /// It may be sent again, if it may be sent twice: the connection had been kept too long.
    on_a_kept_connection: bool,
}

/// A parent that wants credentials wants them of us: our client, told 407, would send us its own.
fn heed(response: Response<Body>, parent: Option<&Parent>) -> Result<Response<Body>, Error> {
    match parent {
        Some(parent) if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            Err(Error::Connect(connect::Error::of_parent(parent, response.status())))
        }
        _ => Ok(response),
    }
}

/// The head of a request that may be sent twice (RFC 9110 section 9.2.2) and has no body to be lost.
fn repeatable(request: &Request<Body>) -> Option<http::request::Parts> {
    let bare = request.body().is_end_stream() && request.method().is_idempotent();
    bare.then(|| {
        let mut head = Request::new(()).into_parts().0;
        head.method = request.method().clone();
        head.uri = request.uri().clone();
        head.version = request.version();
        head.headers = request.headers().clone();
        head.extensions = request.extensions().clone();
        head
    })
}

/// Whether the connection ended without a word, as opposed to saying something strange.
fn died(error: &hyper_util::client::legacy::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        let by_hyper = cause.downcast_ref::<hyper::Error>();
        let by_system = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        let gone = matches!(by_system, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe));
        if gone || by_hyper.is_some_and(|error| error.is_incomplete_message() || error.is_canceled()) {
            return true;
        }
        source = cause.source();
    }
    false
}

fn was_kept(error: &hyper_util::client::legacy::Error) -> bool {
    let mut extensions = http::Extensions::new();
    if let Some(connected) = error.connect_info() {
        connected.get_extras(&mut extensions);
    }
    extensions.get::<Past>().is_some_and(|past| past.used.load(Ordering::Relaxed))
}

/// Whether these credentials may hold for whatever comes over the same connection later (RFC 4559 section 6, NTLM):
/// that connection must then be nobody else's.
fn is_bound(headers: &HeaderMap) -> bool {
    let is_one = |scheme: &[u8]| scheme.eq_ignore_ascii_case(b"Negotiate") || scheme.eq_ignore_ascii_case(b"NTLM");
    let said = headers.get_all(header::AUTHORIZATION).iter();
    said.filter_map(|value| value.as_bytes().split(|byte| *byte == b' ').next()).any(is_one)
}

/// How far a redirect to another host may lead. That host is anybody's, and so gets no more reach
/// than a stranger has; a client on this host could go there itself; and a configured server that is
/// in the operator's own network sends to others there, as an object store beside a mirror, or to
/// another that the configuration names.
fn sent_on(standing: Standing, inside: bool, named: bool) -> Standing {
    match standing {
        Standing::Local => Standing::Local,
        Standing::Configured if named => Standing::Configured,
        Standing::Configured if inside => Standing::Local,
        Standing::Configured | Standing::Remote => Standing::Remote,
    }
}

fn request(base: &Base, path: &str, headers: &HeaderMap) -> Result<Request<Body>, Error> {
    let uri = Uri::builder()
        .scheme(base.scheme.as_str())
        .authority(base.authority())
        .path_and_query(path)
        .build()
        .map_err(|error| Error::Redirected(format!("to {:?}: {error}", shown(path))))?;
    let mut request = Request::new(empty());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers.clone();
    let agent = HeaderValue::from_static(concat!("goanyway/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().entry(header::USER_AGENT).or_insert(agent);
    Ok(request)
}

/// Where a response sends us, if it does (RFC 9110 section 15.4).
fn redirect<B>(response: &Response<B>, base: &Base, path: &str) -> Result<Option<(Base, String)>, Error> {
    let followed = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    if !followed.contains(&response.status()) {
        return Ok(None);
    }
    let to = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
    let to = to.ok_or_else(|| Error::Redirected("to nowhere".to_owned()))?;
    let next = join(base, path, to).map_err(|error| Error::Redirected(format!("to {:?}: {error}", shown(to))))?;
    if base.scheme == crate::target::Scheme::Https && next.0.scheme == crate::target::Scheme::Http {
        return Err(Error::Redirected(format!("from https to {:?}", shown(to))));
    }
    Ok(Some(next))
}

/// A Location without what may be secret in it: the query of a signed URL, a user and password.
fn shown(to: &str) -> String {
    let bare = to.split(['?', '#']).next().unwrap_or_default();
    let after_scheme = bare.find("//").map_or(0, |at| at + 2);
    let authority_end = bare[after_scheme..].find('/').map_or(bare.len(), |at| after_scheme + at);
    match bare[after_scheme..authority_end].rfind('@') {
        Some(at) => format!("{}{}", &bare[..after_scheme], &bare[after_scheme + at + 1..]),
        None => bare.to_owned(),
    }
}

/// Resolves a Location against where it was said (RFC 3986 section 5.2, the forms that servers use).
fn join(base: &Base, path: &str, to: &str) -> Result<(Base, String), BadTarget> {
    let to = to.split('#').next().unwrap_or(to);
    let absolute = if let Some(rest) = to.strip_prefix("//") {
        format!("{}://{rest}", base.scheme.as_str())
    } else if to.contains("://") {
        to.to_owned()
    } else {
        let here = if to.starts_with('/') { "" } else { &path[..path.rfind('/').map_or(0, |at| at + 1)] };
        return Ok((Base { path: String::new(), ..base.clone() }, format!("{here}{to}")));
    };
    let after_scheme = absolute.find("://").map_or(0, |at| at + 3);
    let path_at = absolute[after_scheme..].find(['/', '?']).map_or(absolute.len(), |at| after_scheme + at);
    let (server, rest) = absolute.split_at(path_at);
    let path = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    Ok((Base::parse(server)?, path))
}

/// Why there is no answer, or no whole one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No connection: resolving, connecting or TLS failed.
    #[error("{0}")]
    Connect(connect::Error),
    /// The rules do not let this standing go there.
    #[error("{0}")]
    Refused(Refusal),
    /// Connected, and then nothing came in time.
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// The body stopped moving.
    #[error("no byte for {} s", .0.as_secs())]
    Stalled(Duration),
    /// The connection ended, or spoke nonsense, before the answer was whole.
    #[error("the answer broke off: {0}")]
    Broken(String),
    /// The body that was to be sent broke off: the client's doing.
    #[error("the request broke off: {0}")]
    Request(String),
    /// A redirect to nowhere, or from https to http.
    #[error("redirected {0}")]
    Redirected(String),
    /// More redirects than anybody needs, in the words of net/http's client.
    #[error("stopped after {HOPS} redirects")]
    Circling,
}

impl Error {
    /// Whether nobody answered at all, as opposed to somebody answering badly.
    pub fn is_silence(&self) -> bool {
        match self {
            Error::Connect(error) => error.is_silence(),
            Error::Silent(_) | Error::Stalled(_) => true,
            _ => false,
        }
    }

    /// What the client library wrapped: our own errors come back out of it as themselves.
    fn from_client(error: &hyper_util::client::legacy::Error) -> Error {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
        let mut deepest = error.to_string();
        while let Some(cause) = source {
            if let Some(ours) = cause.downcast_ref::<Error>() {
                return ours.clone();
            }
            deepest = cause.to_string();
            source = cause.source();
        }
        Error::Broken(deepest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_that_hold_for_a_connection_have_one_of_their_own() {
        for (said, alone) in
            [("NTLM TlRM", true), ("negotiate YII", true), ("Basic eDp5", false), ("Bearer NTLM", false)]
        {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(said))]);
            assert_eq!(is_bound(&headers), alone, "{said}");
        }
        assert!(!is_bound(&HeaderMap::new()));
    }

    #[test]
    fn a_location_is_read_against_where_it_was_said() {
        let base = Base::parse("https://goproxy.cn").unwrap();
        let table = [
            ("https://storage.example/a.zip?x=1", "https://storage.example", "/a.zip?x=1"),
            ("//b.example:8443/y", "https://b.example:8443", "/y"),
            ("/z", "https://goproxy.cn", "/z"),
            ("other.zip", "https://goproxy.cn", "/m/@v/other.zip"),
            ("https://b.example", "https://b.example", "/"),
            ("https://b.example?q", "https://b.example", "/?q"),
            ("/z#part", "https://goproxy.cn", "/z"),
        ];
        for (to, server, path) in table {
            let (next, next_path) = join(&base, "/m/@v/v1.0.0.zip", to).unwrap();
            assert_eq!((next.to_string().as_str(), next_path.as_str()), (server, path), "{to}");
        }
    }

    #[test]
    fn a_redirect_leads_no_further_than_whoever_it_was_said_to_could_go() {
        let table = [
            (Standing::Configured, true, false, Standing::Local),
            (Standing::Configured, false, false, Standing::Remote),
            (Standing::Configured, false, true, Standing::Configured),
            (Standing::Local, false, true, Standing::Local),
            (Standing::Remote, true, true, Standing::Remote),
        ];
        for (standing, inside, named, further) in table {
            assert_eq!(
                sent_on(standing, inside, named),
                further,
                "{standing:?}, from inside: {inside}, to one named: {named}"
            );
        }
    }

    /// A complaint about a redirect goes into logs.
    #[test]
    fn what_may_be_secret_in_a_location_is_not_told() {
        let table = [
            ("https://u:p@a.example/x?X-Signature=s#f", "https://a.example/x"),
            ("//u@a.example", "//a.example"),
            ("/x@v1?token=t", "/x@v1"),
            ("ftp://a.example:21/y@z", "ftp://a.example:21/y@z"),
        ];
        for (to, told) in table {
            assert_eq!(shown(to), told);
        }
    }

    #[test]
    fn https_is_never_left_for_http() {
        let base = Base::parse("https://goproxy.cn").unwrap();
        let to = |location| {
            let response = Response::builder().status(302).header("location", location).body(()).unwrap();
            redirect(&response, &base, "/x")
        };
        assert!(to("http://goproxy.cn/x").is_err());
        assert!(to("ftp://goproxy.cn/x").is_err());
        assert!(to("https://goproxy.cn/y").unwrap().is_some());
    }
}
