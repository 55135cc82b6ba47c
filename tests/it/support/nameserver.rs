//! Scripted name servers on loopback, over UDP and TCP on one port, TLS and HTTPS.
//!
//! A server does what its script [`Says`], records every name that it is asked, and can be told to
//! do something else at any time. It ends when it is dropped.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::authority::Authority;

/// What a server does with a question.
#[derive(Clone, Debug)]
pub enum Says {
    /// This address to A, nothing to AAAA.
    Address(&'static str),
    Code(ResponseCode),
    /// A code, and why (RFC 8914).
    CodeBecause(ResponseCode, u16, &'static str),
    Nodata,
    /// NOERROR, nothing in it, and no recursion.
    Lame,
    Silent,
    /// This address over TCP; over UDP nothing, or TC.
    OverTcp(&'static str),
    Cut(&'static str),
    /// First a packet with another id and another address.
    WrongIdFirst(&'static str),
    /// Over UDP another address first, as somebody on the path would.
    ForgedFirst(&'static str),
    /// This address for names under the suffix, NXDOMAIN for all others.
    Under(&'static str, &'static str),
    /// FORMERR while there is EDNS in the question.
    NoEdns(&'static str),
    /// This address to A, silence to AAAA.
    SilentAaaa(&'static str),
    Garbage,
    AliasLoop,
    /// TC, and over TCP as many records as fit.
    Flood,
}

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
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = acceptor(authority, name, over);
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
fn acceptor(authority: &Authority, name: &str, over: Over) -> TlsAcceptor {
    let mut config = rustls::ServerConfig::clone(&authority.server(&[name]));
    config.alpn_protocols = if over == Over::Https { vec![b"h2".to_vec()] } else { Vec::new() };
    TlsAcceptor::from(Arc::new(config))
}

impl Script {
    fn new(says: Says) -> Script {
        Script { says: Arc::new(Mutex::new(says)), asked: Arc::default() }
    }

    /// The packets to send back, in order.
    fn play(&self, packet: &[u8], over: Over) -> Vec<Vec<u8>> {
        let Ok(question) = Message::from_vec(packet) else { return Vec::new() };
        let query = question.queries[0].clone();
        let name = query.name().to_ascii().trim_end_matches('.').to_lowercase();
        self.asked.lock().unwrap().push(Asked { name, kind: query.query_type(), over });
        let says = self.says.lock().unwrap().clone();
        replies(says, &question, &query, over == Over::Udp)
    }
}

fn replies(says: Says, question: &Message, query: &Query, udp: bool) -> Vec<Vec<u8>> {
    let bytes = |message: Message| message.to_vec().unwrap();
    let address = |text: &str| vec![bytes(with_address(question, query, text))];
    match says {
        Says::Address(text) => address(text),
        Says::Code(code) => vec![bytes(with_code(question, query, code))],
        Says::CodeBecause(code, ede, text) => {
            let mut reply = with_code(question, query, code);
            let mut edns = Edns::new();
            let reason = [&ede.to_be_bytes()[..], text.as_bytes()].concat();
            edns.options_mut().insert(EdnsOption::Unknown(15, reason));
            reply.set_edns(edns);
            vec![bytes(reply)]
        }
        Says::Nodata => vec![bytes(with_code(question, query, ResponseCode::NoError))],
        Says::Lame => {
            let mut reply = with_code(question, query, ResponseCode::NoError);
            reply.metadata.recursion_available = false;
            vec![bytes(reply)]
        }
        Says::Silent => Vec::new(),
        Says::OverTcp(_) if udp => Vec::new(),
        Says::Cut(_) | Says::Flood if udp => {
            let mut reply = with_code(question, query, ResponseCode::NoError);
            reply.metadata.truncation = true;
            vec![bytes(reply)]
        }
        Says::OverTcp(text) | Says::Cut(text) => address(text),
        Says::WrongIdFirst(text) => {
            let mut forged = with_address(question, query, "6.6.6.6");
            forged.metadata.id = question.metadata.id.wrapping_add(1);
            vec![bytes(forged), bytes(with_address(question, query, text))]
        }
        Says::ForgedFirst(text) if udp => {
            vec![bytes(with_address(question, query, "6.6.6.6")), bytes(with_address(question, query, text))]
        }
        Says::ForgedFirst(text) => address(text),
        Says::Under(suffix, text) if query.name().to_ascii().trim_end_matches('.').ends_with(suffix) => address(text),
        Says::Under(..) => vec![bytes(with_code(question, query, ResponseCode::NXDomain))],
        Says::NoEdns(_) if question.edns.is_some() => vec![bytes(with_code(question, query, ResponseCode::FormErr))],
        Says::NoEdns(text) => address(text),
        Says::SilentAaaa(_) if query.query_type() == RecordType::AAAA => Vec::new(),
        Says::SilentAaaa(text) => address(text),
        Says::Garbage => vec![[&question.metadata.id.to_be_bytes()[..], &[0x81, 0x80], &[0xff; 40]].concat()],
        Says::AliasLoop => {
            let mut reply = with_code(question, query, ResponseCode::NoError);
            let other = Name::from_ascii("loop.example.").unwrap();
            for (from, to) in [(query.name().clone(), other.clone()), (other, query.name().clone())] {
                reply.add_answer(Record::from_rdata(from, 60, RData::CNAME(CNAME(to))));
            }
            vec![bytes(reply)]
        }
        Says::Flood => {
            let mut reply = with_code(question, query, ResponseCode::NoError);
            for number in 0..2000u32 {
                let data = RData::A(A::new(1, 1, (number / 250) as u8, (number % 250) as u8));
                reply.add_answer(Record::from_rdata(query.name().clone(), 60, data));
            }
            vec![bytes(reply)]
        }
    }
}

fn with_code(question: &Message, query: &Query, code: ResponseCode) -> Message {
    let mut reply = Message::response(question.metadata.id, OpCode::Query);
    reply.metadata.recursion_desired = true;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.add_query(query.clone());
    reply
}

fn with_address(question: &Message, query: &Query, text: &str) -> Message {
    let mut reply = with_code(question, query, ResponseCode::NoError);
    let data = match (text.parse().unwrap(), query.query_type()) {
        (IpAddr::V4(address), RecordType::A) => Some(RData::A(A(address))),
        (IpAddr::V6(address), RecordType::AAAA) => Some(RData::AAAA(AAAA(address))),
        _ => None,
    };
    if let Some(data) = data {
        reply.add_answer(Record::from_rdata(query.name().clone(), 60, data));
    }
    reply
}

/// UDP and TCP on the same port, as a name server has them.
async fn bind_both() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()).await {
            return (socket, listener);
        }
    }
    panic!("no port is free over UDP and TCP alike");
}

async fn serve_udp(socket: UdpSocket, script: Script) {
    let mut packet = vec![0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut packet).await {
        for reply in script.play(&packet[..length], Over::Udp) {
            let _ = socket.send_to(&reply, from).await;
        }
    }
}

/// Messages behind their length (RFC 1035 section 4.2.2), until the client leaves.
async fn serve_stream<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, script: Script, over: Over) {
    while let Ok(length) = stream.read_u16().await {
        let mut packet = vec![0; length.into()];
        if stream.read_exact(&mut packet).await.is_err() {
            return;
        }
        for reply in script.play(&packet, over) {
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
                Some(reply) if path == "/dns-query" => reply,
                _ => std::future::pending().await,
            };
            let response = http::Response::builder().header("content-type", "application/dns-message");
            Ok::<_, hyper::Error>(response.body(Full::new(Bytes::from(reply))).unwrap())
        }
    });
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}
