//! Scripted name servers on loopback, over UDP and TCP on one port, TLS and HTTPS.
//!
//! A server does what its script [`Says`], records every name that it is asked, and can be told to
//! do something else at any time. It ends when it is dropped.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::authority::Authority;
pub use super::says::Says;
use super::says::{self, Packet};

/// What a scripted server was asked, over what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub name: String,
    pub kind: RecordType,
    pub over: Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Udp,
    Tcp,
    Tls,
    Https,
}

/// A scripted server.
pub struct Nameserver {
    pub address: SocketAddr,
    script: Script,
    _tasks: JoinSet<()>,
}

#[derive(Clone)]
struct Script {
    says: Arc<Mutex<Says>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    packets: Arc<AtomicUsize>,
}

impl Nameserver {
    /// A server over UDP and TCP.
    pub async fn start(says: Says) -> Nameserver {
        let (socket, listener) = bind_both().await;
        Nameserver::on(socket, listener, says)
    }

    /// The same at an address of the test's choice, such as port 53 in a namespace of its own.
    pub async fn at(address: &str, says: Says) -> Nameserver {
        let (socket, listener) = (UdpSocket::bind(address).await.unwrap(), TcpListener::bind(address).await.unwrap());
        Nameserver::on(socket, listener, says)
    }

    fn on(socket: UdpSocket, listener: TcpListener, says: Says) -> Nameserver {
        let script = Script::new(says);
        let mut tasks = JoinSet::new();
        let address = socket.local_addr().unwrap();
        tasks.spawn(serve_udp(socket, script.clone()));
        let over_tcp = script.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let script = over_tcp.clone();
                connections.spawn(async move { serve_stream(stream, script, Over::Tcp).await });
            }
        });
        Nameserver { address, script, _tasks: tasks }
    }

    /// A server over TLS or HTTPS, whose certificate the authority signs for `name`.
    pub async fn start_encrypted(says: Says, over: Over, authority: &Authority, name: &str) -> Nameserver {
        Nameserver::encrypted_at("127.0.0.1:0", says, over, acceptor(authority, name, over)).await
    }

    /// The same at an address of the test's choice, showing what is shown there.
    pub async fn encrypted_at(address: &str, says: Says, over: Over, acceptor: TlsAcceptor) -> Nameserver {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Script::new(says);
        let served = script.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (script, acceptor) = (served.clone(), acceptor.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    match over {
                        Over::Https => serve_https(stream, script).await,
                        over => serve_stream(stream, script, over).await,
                    }
                });
            }
        });
        Nameserver { address, script, _tasks: tasks }
    }

    /// An address on which nothing listens.
    pub async fn closed() -> SocketAddr {
        let (socket, _listener) = bind_both().await;
        socket.local_addr().unwrap()
    }

    pub fn change(&self, says: Says) {
        *self.script.says.lock().unwrap() = says;
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.script.asked.lock().unwrap().clone()
    }

    /// Every name that ever reached this server.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.asked().into_iter().map(|asked| asked.name).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// What an encrypted server shows: signed for its name, speaking what its transport wants.
pub fn acceptor(authority: &Authority, name: &str, over: Over) -> TlsAcceptor {
    let mut config = rustls::ServerConfig::clone(&authority.server(&[name]));
    config.alpn_protocols = if over == Over::Https { vec![b"h2".to_vec()] } else { Vec::new() };
    TlsAcceptor::from(Arc::new(config))
}

impl Script {
    fn new(says: Says) -> Script {
        Script { says: Arc::new(Mutex::new(says)), asked: Arc::default(), packets: Arc::default() }
    }

    /// The packets to send back, and when.
    fn play(&self, packet: &[u8], over: Over) -> Vec<Packet> {
        let Ok(question) = Message::from_vec(packet) else { return Vec::new() };
        let Some(query) = question.queries.first() else { return Vec::new() };
        let name = query.name().to_ascii().trim_end_matches('.').to_lowercase();
        self.asked.lock().unwrap().push(Asked { name, kind: query.query_type(), over });
        let says = self.says.lock().unwrap().clone();
        let number = self.packets.fetch_add(1, Ordering::Relaxed);
        says::play(&says, &question, over == Over::Udp, number)
    }
}

/// UDP and TCP on the same port, as a name server has them.
pub async fn bind_both() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()).await {
            return (socket, listener);
        }
    }
    panic!("no port is free over UDP and TCP alike");
}

async fn serve_udp(socket: UdpSocket, script: Script) {
    let socket = Arc::new(socket);
    let mut packet = vec![0; 4096];
    let mut later = JoinSet::new();
    while let Ok((length, from)) = socket.recv_from(&mut packet).await {
        for (after, reply) in script.play(&packet[..length], Over::Udp) {
            if after.is_zero() {
                let _ = socket.send_to(&reply, from).await;
                continue;
            }
            let socket = Arc::clone(&socket);
            later.spawn(async move {
                tokio::time::sleep(after).await;
                let _ = socket.send_to(&reply, from).await;
            });
        }
        while later.try_join_next().is_some() {}
    }
}

/// Messages behind their length (RFC 1035 section 4.2.2), until the client leaves.
async fn serve_stream<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, script: Script, over: Over) {
    while let Ok(length) = stream.read_u16().await {
        let mut packet = vec![0; length.into()];
        if stream.read_exact(&mut packet).await.is_err() {
            return;
        }
        for (after, reply) in script.play(&packet, over) {
            tokio::time::sleep(after).await;
            let framed = [&(reply.len() as u16).to_be_bytes()[..], &reply].concat();
            if stream.write_all(&framed).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    }
}

async fn serve_https<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, script: Script) {
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let script = script.clone();
        async move {
            let path = request.uri().path().to_owned();
            let packet = request.into_body().collect().await?.to_bytes();
            let reply = match script.play(&packet, Over::Https).pop() {
                Some((after, reply)) if path == "/dns-query" => {
                    tokio::time::sleep(after).await;
                    reply
                }
                _ => std::future::pending().await,
            };
            let response = http::Response::builder().header("content-type", "application/dns-message");
            Ok::<_, hyper::Error>(response.body(Full::new(Bytes::from(reply))).unwrap())
        }
    });
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}
