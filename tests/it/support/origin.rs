//! Origins: a hyper one that answers what a closure says, over TLS where a test wants it, and a
//! raw one that plays a script byte by byte. Both remember what they were asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::client::read_head;

/// What an origin heard of one request.
#[derive(Clone, Debug)]
pub struct Heard {
    pub method: String,
    pub uri: String,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

type Answer = dyn Fn(&Heard) -> Response<Full<Bytes>> + Send + Sync;

/// An HTTP origin. It ends with the runtime of its test.
pub struct Origin {
    pub address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Origin {
    pub async fn plain(answer: impl Fn(&Heard) -> Response<Full<Bytes>> + Send + Sync + 'static) -> Origin {
        Origin::plain_at("127.0.0.1:0", answer).await
    }

    pub async fn plain_at(
        address: &str,
        answer: impl Fn(&Heard) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Origin {
        Origin::start(address, None, None, Arc::new(answer)).await
    }

    pub async fn tls_at(
        address: &str,
        config: Arc<ServerConfig>,
        answer: impl Fn(&Heard) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Origin {
        Origin::start(address, Some(TlsAcceptor::from(config)), None, Arc::new(answer)).await
    }

    /// One that answers at most so many requests at once on one connection of HTTP/2.
    pub async fn narrow(
        config: Arc<ServerConfig>,
        streams: u32,
        answer: impl Fn(&Heard) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Origin {
        Origin::start("127.0.0.1:0", Some(TlsAcceptor::from(config)), Some(streams), Arc::new(answer)).await
    }

    async fn start(address: &str, tls: Option<TlsAcceptor>, streams: Option<u32>, answer: Arc<Answer>) -> Origin {
        let mut bound = TcpListener::bind(address).await;
        // A program that another test starts in this moment has a copy of whoever listened here before.
        for _ in 0..100 {
            if bound.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            bound = TcpListener::bind(address).await;
        }
        let listener = bound.unwrap();
        let origin = Origin { address: listener.local_addr().unwrap(), heard: Arc::default() };
        let heard = Arc::clone(&origin.heard);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, answer, heard) = (tls.clone(), Arc::clone(&answer), Arc::clone(&heard));
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, streams, answer, heard).await,
                        Some(tls) => {
                            // A handshake that fails is the client's to notice.
                            let Ok(stream) = tls.accept(stream).await else { return };
                            serve(stream, streams, answer, heard).await;
                        }
                    }
                });
            }
        });
        origin
    }

    /// Everything asked so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }
}

async fn serve<S>(stream: S, streams: Option<u32>, answer: Arc<Answer>, heard: Arc<Mutex<Vec<Heard>>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (answer, heard) = (Arc::clone(&answer), Arc::clone(&heard));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let entry =
                Heard { method: head.method.to_string(), uri: head.uri.to_string(), headers: head.headers, body };
            let response = answer(&entry);
            heard.lock().unwrap().push(entry);
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(streams.unwrap_or(200));
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// A response with a text.
pub fn text(status: u16, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::new(text.into())).unwrap()
}

/// Sends back whatever it hears, and finishes when its peer has.
pub async fn echo() -> SocketAddr {
    greeting("127.0.0.1:0", b"").await
}

/// Says this first, and then sends back whatever it hears.
pub async fn greeting(at: &'static str, banner: &'static [u8]) -> SocketAddr {
    behaving(at, move |mut stream| async move {
        stream.write_all(banner).await.unwrap();
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
    })
    .await
}

/// For each connection: reads a request head, writes `answer`, closes.
pub async fn scripted(answer: &'static [u8]) -> SocketAddr {
    behaving("127.0.0.1:0", move |stream| play(stream, answer)).await
}

/// Does this with each connection, side by side.
pub async fn behaving<F>(at: &str, does: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(at).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(does(stream));
        }
    });
    address
}

async fn play(mut stream: TcpStream, answer: &'static [u8]) {
    if read_head(&mut stream).await.is_err() {
        return;
    }
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}

/// An address that refuses: it was bound a moment ago, and is not any more.
pub async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
