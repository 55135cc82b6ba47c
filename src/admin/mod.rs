//! The third corridor: health, readiness, metrics and the status page, for operators and their machines.
//!
//! It answers only a `Host` that is its own address, `localhost` or a name that was given to it, so
//! that no web page can read it through a rebound name; it changes nothing, whatever the method. A
//! listener on loopback answers nobody from elsewhere, also where the kernel lets them reach it
//! (`route_localnet`, CVE-2020-8558).
//!
//! The page lives by an event stream: while somebody looks, the status is written once a second, for
//! all of them together; while nobody does, once a minute, so that the last hour is known.

mod history;
mod page;
mod process;
mod status;
mod verdict;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::metrics::{CONTENT_TYPE, PLAIN_CONTENT_TYPE, Registry};
use crate::target::{Host, Scope, Target, unwrap_mapped};
use status::Board;

pub use status::Sources;

/// How often the status is written while somebody looks.
const BEAT: Duration = Duration::from_secs(1);
/// How often a stream on which nothing happens says that it is alive: proxies cut what is quiet for longer.
const ALIVE: Duration = Duration::from_secs(15);
/// How many may look at once. Each costs a connection; the status is written once for all.
const WATCHERS: usize = 64;
const PATHS: &str = "there are / (the status page), /status.json, /events, /metrics, /healthz and /readyz\n";

type Body = BoxBody<Bytes, Infallible>;

/// What the admin port knows.
pub struct Admin {
    registry: Registry,
    /// Further names that its `Host` may be.
    hosts: Vec<String>,
    board: Board,
    // The status as it was last written for those who look.
    latest: watch::Sender<Bytes>,
    /// Somebody has begun to look.
    woken: Notify,
    seats: Arc<Semaphore>,
}

impl Admin {
    /// A port that tells what these sources say. `hosts` are further names that its `Host` may be.
    pub fn new(registry: Registry, hosts: Vec<String>, sources: Sources, now: SystemTime) -> Admin {
        process::register(&registry, now);
        Admin {
            registry,
            hosts,
            board: Board::new(sources, now),
            latest: watch::Sender::new(Bytes::new()),
            woken: Notify::new(),
            seats: Arc::new(Semaphore::new(WATCHERS)),
        }
    }

    /// Serves until `end`.
    pub async fn run(self, listener: TcpListener, end: CancellationToken) {
        let admin = Arc::new(self);
        tokio::select! {
            () = end.cancelled() => {}
            () = admin.beat() => {}
            () = Arc::clone(&admin).accept(listener, &end) => {}
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, end: &CancellationToken) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let (admin, end) = (Arc::clone(&self), end.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = admin.serve(stream, peer) => {}
                            () = end.cancelled() => {}
                        }
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let Ok(local) = stream.local_addr() else { return };
        if !may_come(local, peer) {
            return;
        }
        let service = service_fn(move |request| {
            let response = self.answer(local, &request);
            async move { Ok::<_, Infallible>(response) }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(15));
        // How it ended is the client's business.
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    }

    /// Writes the status for those who look, and keeps the hour for those who will.
    async fn beat(&self) {
        loop {
            let now = SystemTime::now();
            if self.latest.receiver_count() == 0 {
                self.board.look(now);
                tokio::select! {
                    () = tokio::time::sleep(history::until_next_minute(now)) => {}
                    () = self.woken.notified() => {}
                }
            } else {
                let status = Bytes::from(self.board.write(now));
                if matter(&status) != matter(&self.latest.borrow()) {
                    self.latest.send_replace(status);
                }
                tokio::time::sleep(BEAT).await;
            }
        }
    }

    fn answer<B>(&self, local: SocketAddr, request: &Request<B>) -> Response<Body> {
        let mut response = self.answer_plainly(local, request);
        let headers = response.headers_mut();
        let fixed = [
            // By which `goanyway doctor` knows who serves here.
            (header::SERVER, concat!("goanyway/", env!("CARGO_PKG_VERSION"))),
            (header::CACHE_CONTROL, "no-store"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        ];
        headers.extend(fixed.map(|(name, value)| (name, HeaderValue::from_static(value))));
        response
    }

    fn answer_plainly<B>(&self, local: SocketAddr, request: &Request<B>) -> Response<Body> {
        if !is_meant(&self.hosts, local, request) {
            return text(StatusCode::FORBIDDEN, "this Host is not the admin port's; allow it: admin.hosts\n");
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "the admin port changes nothing\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/" => {
                let mut response = of_type("text/html; charset=utf-8", page::PAGE);
                let policy = HeaderValue::from_static(page::policy());
                response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
                response
            }
            "/status.json" => of_type("application/json", self.board.write(SystemTime::now())),
            "/events" if request.method() == Method::HEAD => of_type("text/event-stream", ""),
            "/events" => match Arc::clone(&self.seats).try_acquire_owned() {
                Ok(seat) => self.events(seat),
                Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "too many look already\n"),
            },
            "/metrics" if wants_open_metrics(request) => of_type(CONTENT_TYPE, self.registry.text()),
            "/metrics" => of_type(PLAIN_CONTENT_TYPE, self.registry.plain_text()),
            "/healthz" => text(StatusCode::OK, "ok: the process answers\n"),
            "/readyz" if self.board.is_ready() => text(StatusCode::OK, "ready: clients are served\n"),
            "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: starting or closing\n"),
            _ => text(StatusCode::NOT_FOUND, PATHS),
        }
    }

    /// The status now, and again whenever it is another.
    fn events(&self, seat: OwnedSemaphorePermit) -> Response<Body> {
        let (seen, first) = (self.latest.subscribe(), self.board.write(SystemTime::now()));
        self.woken.notify_one();
        let opening = stream::once(async move { event(first.as_bytes()) });
        let later = stream::unfold((seen, seat), |(mut seen, seat)| async move {
            let piece = match timeout(ALIVE, seen.changed()).await {
                Ok(Ok(())) => event(&seen.borrow_and_update()),
                Ok(Err(_)) => return None,
                Err(_) => Bytes::from_static(b": alive\n\n"),
            };
            Some((piece, (seen, seat)))
        });
        let pieces = opening.chain(later).map(|piece| Ok(Frame::data(piece)));
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(pieces)));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response
    }
}

/// Whether somebody from there may speak to this end.
fn may_come(local: SocketAddr, peer: SocketAddr) -> bool {
    let is_loopback = |address: SocketAddr| Scope::of(unwrap_mapped(address.ip())) == Scope::Loopback;
    !is_loopback(local) || is_loopback(peer)
}

/// Whether the Host names this port and not somebody's web page.
fn is_meant<B>(hosts: &[String], local: SocketAddr, request: &Request<B>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(Ok(target)) = host.map(|host| Target::parse_authority(host, local.port())) else { return false };
    match &target.host {
        Host::Addr(address) => *address == unwrap_mapped(local.ip()) || Scope::of(*address) == Scope::Loopback,
        Host::Name(name) => name.as_str() == "localhost" || hosts.iter().any(|own| own == name.as_str()),
    }
}

fn wants_open_metrics<B>(request: &Request<B>) -> bool {
    let accepted = request.headers().get_all(header::ACCEPT);
    accepted.iter().any(|value| value.to_str().is_ok_and(|value| value.contains("application/openmetrics-text")))
}

/// A status without the clock that it begins with: where nothing else has changed, nothing is sent.
fn matter(status: &[u8]) -> &[u8] {
    const CLOCK_ENDS: &[u8] = b"\"started_ms\"";
    let at = status.windows(CLOCK_ENDS.len()).position(|window| window == CLOCK_ENDS);
    &status[at.unwrap_or(0)..]
}

/// One event of a stream. JSON has no line feeds of its own.
fn event(status: &[u8]) -> Bytes {
    [b"retry: 1000\ndata: ", status, b"\n\n"].concat().into()
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = of_type("text/plain; charset=utf-8", text);
    *response.status_mut() = status;
    response
}

fn of_type(content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(host: &str) -> bool {
        let request = Request::builder().header("host", host).body(()).unwrap();
        is_meant(&["status.corp.example".to_owned()], "127.0.0.1:3127".parse().unwrap(), &request)
    }

    #[test]
    fn only_its_own_names_are_answered() {
        for host in ["127.0.0.1:3127", "localhost", "[::1]:3127", "status.corp.example"] {
            assert!(meant(host), "{host}");
        }
        for host in ["evil.example", "10.0.0.1", "localhost.evil.example", "a b"] {
            assert!(!meant(host), "{host}");
        }
    }

    #[test]
    fn loopback_is_for_this_host_alone() {
        let may = |local: &str, peer: &str| may_come(local.parse().unwrap(), peer.parse().unwrap());
        assert!(may("127.0.0.1:3127", "127.0.0.1:50000") && may("[::1]:3127", "[::1]:50000"));
        assert!(!may("127.0.0.1:3127", "192.0.2.7:50000") && !may("[::ffff:127.0.0.1]:3127", "192.0.2.7:50000"));
        assert!(may("10.0.0.1:3127", "192.0.2.7:50000"), "a listener that was put there on purpose");
    }

    #[test]
    fn open_metrics_is_for_who_asks_for_it() {
        let wants = |accept: &str| wants_open_metrics(&Request::builder().header("accept", accept).body(()).unwrap());
        assert!(wants("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"));
        assert!(!wants("*/*") && !wants("text/plain"));
    }
}
