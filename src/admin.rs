//! The third corridor: health, readiness and metrics, for operators and their machines.
//!
//! It answers only a `Host` that is its own address, `localhost` or a name that was given to it, so
//! that no web page can read it through a rebound name; it changes nothing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::{CONTENT_TYPE, Registry};
use crate::target::{Host, Scope, Target, unwrap_mapped};

/// What the admin port knows.
pub struct Admin {
    pub registry: Registry,
    /// Further names that its `Host` may be.
    pub hosts: Vec<String>,
    /// True from the moment all listeners are bound until the drain begins.
    pub ready: Arc<AtomicBool>,
}

impl Admin {
    /// Serves until `end`.
    pub async fn run(self, listener: TcpListener, end: CancellationToken) {
        let admin = Arc::new(self);
        loop {
            let accepted = tokio::select! {
                () = end.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let Ok(local) = stream.local_addr() else { continue };
                    let (admin, end) = (Arc::clone(&admin), end.clone());
                    tokio::spawn(async move {
                        let service = service_fn(move |request| {
                            let response = admin.answer(local, &request);
                            async move { Ok::<_, Infallible>(response) }
                        });
                        let mut builder = hyper::server::conn::http1::Builder::new();
                        builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(15));
                        tokio::select! {
                            _ = builder.serve_connection(TokioIo::new(stream), service) => {}
                            () = end.cancelled() => {}
                        }
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn answer<B>(&self, local: SocketAddr, request: &Request<B>) -> Response<Full<Bytes>> {
        if !self.is_meant(local, request) {
            return text(StatusCode::FORBIDDEN, "this Host is not the admin port's; allow it: admin.hosts\n");
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "the admin port changes nothing\n");
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" if self.ready.load(Ordering::Acquire) => text(StatusCode::OK, "ready\n"),
            "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            "/metrics" => {
                let mut response = text(StatusCode::OK, "");
                *response.body_mut() = Full::new(self.registry.text().into());
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
                response
            }
            _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n"),
        }
    }

    /// Whether the Host names this port and not somebody's web page.
    fn is_meant<B>(&self, local: SocketAddr, request: &Request<B>) -> bool {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let Some(Ok(target)) = host.map(|host| Target::parse_authority(host, local.port())) else { return false };
        match &target.host {
            Host::Addr(address) => *address == unwrap_mapped(local.ip()) || Scope::of(*address) == Scope::Loopback,
            Host::Name(name) => name.as_str() == "localhost" || self.hosts.iter().any(|own| own == name.as_str()),
        }
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    // By which `goanyway doctor` knows who serves here.
    headers.insert(header::SERVER, HeaderValue::from_static(concat!("goanyway/", env!("CARGO_PKG_VERSION"))));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(path: &str, host: &str, ready: bool) -> StatusCode {
        let admin = Admin {
            registry: Registry::default(),
            hosts: vec!["status.corp.example".to_owned()],
            ready: Arc::new(AtomicBool::new(ready)),
        };
        let request = Request::builder().uri(path).header("host", host).body(()).unwrap();
        admin.answer("127.0.0.1:3127".parse().unwrap(), &request).status()
    }

    #[test]
    fn only_its_own_names_are_answered() {
        for host in ["127.0.0.1:3127", "localhost", "[::1]:3127", "status.corp.example"] {
            assert_eq!(asked("/healthz", host, true), StatusCode::OK, "{host}");
        }
        for host in ["evil.example", "10.0.0.1", "localhost.evil.example", "a b"] {
            assert_eq!(asked("/healthz", host, true), StatusCode::FORBIDDEN, "{host}");
        }
    }

    #[test]
    fn ready_is_said_only_while_it_is_true() {
        assert_eq!(asked("/readyz", "localhost", false), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(asked("/readyz", "localhost", true), StatusCode::OK);
        assert_eq!(asked("/metrics", "localhost", true), StatusCode::OK);
    }
}
