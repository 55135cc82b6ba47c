//! How a question travels: UDP on a connected socket of its own, and TCP, TLS and HTTPS over
//! connections that are kept.
//!
//! Nothing is opened before the first question needs it. A reply is an [`Outcome`] and never an
//! error: what a transport has to say is part of what was learnt about a server. UDP sends again
//! after 300 and 900 ms and listens on past packets that are not the reply; who is asked, for how
//! long, and over what next is `ladder`'s business.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use hickory_net::NetError;
use hickory_net::h2::HttpsClientStream;
use hickory_net::runtime::RuntimeProvider;
use hickory_net::tcp::TcpClientStream;
use hickory_net::tls::tls_exchange;
use hickory_net::xfer::{DnsExchange, DnsHandle};
use hickory_proto::op::{DnsRequest, DnsRequestOptions};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::ladder::Manner;
use super::pace::{Pace, TOO_MUCH};
use super::patience::Patience;
use super::reply::{Outcome, Question, Reply};
#[cfg(test)]
use super::scenarios::{Stage, Staged};
use super::server::{Server, Transport};
use crate::socket::{self, Provider};

/// When a UDP question is sent again: twice, since a third loss is a server that is away.
const SEND_AGAIN: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(900)];
/// What a connection and a reply over it may take together; the look-up ends soon after.
const STREAM_PATIENCE: Duration = Duration::from_millis(2500);
/// What a reply over a kept connection may take before a new one is tried: answers from a server's memory
/// take a tenth of it, and a firewall that forgot the connection says nothing at all.
const KEPT_PATIENCE: Duration = Duration::from_secs(1);
/// Servers exceed what we say that we take (golang/go#51127), so there is room for more.
const DATAGRAM: usize = 4096;
/// Questions under way on one connection; hickory's own bound of 32 is less than a cold build asks.
const PIPELINED: usize = 256;

type Exchange = DnsExchange<Provider>;
/// Held while a connection is made, so that two questions at once make one.
type Line = Arc<tokio::sync::Mutex<Held>>;

/// The connection to one server that is kept, if one is.
#[derive(Default)]
struct Held {
    exchange: Option<Exchange>,
    /// How many were let go before.
    number: u64,
}

impl Held {
    /// Lets a connection go that is no use any more, unless another has taken its place.
    fn hang_up(&mut self, number: u64) {
        if self.number == number {
            *self = Held { exchange: None, number: number + 1 };
        }
    }
}

/// A connection, which of its line it is, and whether it was there already.
struct Connection {
    exchange: Exchange,
    number: u64,
    reused: bool,
}

/// The transports of one resolver.
pub(super) struct Wire {
    // Outlives the exchanges: their background tasks end with its last clone.
    provider: Provider,
    roots: Vec<CertificateDer<'static>>,
    tls: tokio::sync::OnceCell<Arc<ClientConfig>>,
    // One for each server that is asked over connections; bounded by the configuration.
    lines: Mutex<HashMap<(Server, Transport), Line>>,
    pace: Pace,
    // In a scenario, who plays the servers.
    #[cfg(test)]
    stage: Option<Arc<Stage>>,
}

impl Wire {
    /// `roots` are trusted beside the system's.
    pub(super) fn new(roots: Vec<CertificateDer<'static>>) -> Wire {
        Wire {
            provider: Provider::default(),
            roots,
            tls: Default::default(),
            lines: Default::default(),
            pace: Pace::default(),
            #[cfg(test)]
            stage: None,
        }
    }

    /// A wire that leads to a stage.
    #[cfg(test)]
    pub(super) fn on(stage: Arc<Stage>) -> Wire {
        Wire { stage: Some(stage), ..Wire::new(Vec::new()) }
    }

    /// Asks a server over one of its transports. UDP waits until it is dropped; where the manner says
    /// so, it listens on for a second answer that differs, which shows that one of the two is forged.
    pub(super) async fn ask(&self, server: &Server, transport: Transport, question: Question, manner: Manner) -> Reply {
        let Some(address) = server.address() else { return Reply::bare(Outcome::NotAsked) };
        let Some(_turn) = self.pace.take_turn(server, manner.public, Instant::now()) else {
            return Reply::failed(Outcome::Local, TOO_MUCH);
        };
        if transport == Transport::Udp {
            let asked = match self.udp_to(address).await {
                Ok(socket) => ask_udp(&socket, question, manner).await,
                Err(error) => Err(error),
            };
            return asked.unwrap_or_else(|error| judge_io(&error));
        }
        let end = Instant::now() + STREAM_PATIENCE;
        match Patience::default().until(end, self.ask_stream(server, transport, &question)).await {
            Some(Ok(reply)) => reply,
            Some(Err(error)) => judge_error(&error),
            None => Reply::bare(Outcome::Timeout),
        }
    }

    async fn udp_to(&self, server: SocketAddr) -> io::Result<Datagrams> {
        #[cfg(test)]
        if let Some(stage) = &self.stage {
            return stage.open(server).map(Datagrams::Staged);
        }
        socket::udp_to(server).await.map(Datagrams::Socket)
    }

    async fn ask_stream(&self, server: &Server, transport: Transport, question: &Question) -> Result<Reply, NetError> {
        #[cfg(test)]
        if let Some(stage) = &self.stage {
            return stage
                .exchange(server, transport, &question.message(0))
                .await
                .map(|reply| question.judge_message(&reply));
        }
        let line = self.line(server, transport);
        let kept = self.pick_up(&line, server, transport).await?;
        let reused = kept.reused;
        let end = Instant::now() + if reused { KEPT_PATIENCE } else { STREAM_PATIENCE };
        let sent =
            Patience::default().until(end, send(kept.exchange, question)).await.unwrap_or(Err(NetError::Timeout));
        if sent.is_err() {
            line.lock().await.hang_up(kept.number);
        }
        match sent {
            // The server may have closed a connection that lay idle, or a firewall may have forgotten
            // it: once more, on a new one.
            Err(_) if reused => {
                let fresh = self.pick_up(&line, server, transport).await?;
                send(fresh.exchange, question).await
            }
            reply => reply,
        }
    }

    fn line(&self, server: &Server, transport: Transport) -> Line {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lines.entry((server.clone(), transport)).or_default())
    }

    /// The connection that is there, or a new one.
    async fn pick_up(&self, line: &Line, server: &Server, transport: Transport) -> Result<Connection, NetError> {
        let mut held = line.lock().await;
        let number = held.number;
        if let Some(exchange) = held.exchange.clone() {
            return Ok(Connection { exchange, number, reused: true });
        }
        let exchange = self.connect(server, transport).await?;
        held.exchange = Some(exchange.clone());
        Ok(Connection { exchange, number, reused: false })
    }

    async fn connect(&self, server: &Server, transport: Transport) -> Result<Exchange, NetError> {
        let provider = self.provider.clone();
        match server {
            Server::Tls { address, name } if transport == Transport::Tls => {
                let name = ServerName::try_from(name.clone()).map_err(|error| NetError::Msg(error.to_string()))?;
                let tls = (*self.tls().await?).clone();
                tls_exchange(*address, name, tls, STREAM_PATIENCE, Some(PIPELINED), provider).await
            }
            Server::Https { address, path, name } if transport == Transport::Https => {
                let mut builder = HttpsClientStream::builder(self.tls().await?, provider);
                builder.request_timeout(STREAM_PATIENCE);
                builder.exchange(*address, name.as_str().into(), path.as_str().into()).await
            }
            server => {
                let address = server.address().ok_or(NetError::NoConnections)?;
                TcpClientStream::<<Provider as RuntimeProvider>::Tcp>::exchange(
                    address,
                    None,
                    STREAM_PATIENCE,
                    Some(PIPELINED),
                    provider,
                )
                .await
            }
        }
    }

    async fn tls(&self) -> Result<Arc<ClientConfig>, NetError> {
        let roots = self.roots.clone();
        let made = self.tls.get_or_try_init(|| async move {
            // Reads files, the first time an encrypted server is needed.
            let made = tokio::task::spawn_blocking(move || client_config(roots)).await;
            made.map_err(|error| NetError::Msg(error.to_string()))?.map(Arc::new)
        });
        made.await.cloned()
    }
}

fn client_config(extra: Vec<CertificateDer<'static>>) -> Result<ClientConfig, NetError> {
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::debug!("a root certificate of the system cannot be used: {error}");
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs.into_iter().chain(extra));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| NetError::Msg(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

async fn send(exchange: Exchange, question: &Question) -> Result<Reply, NetError> {
    let mut options = DnsRequestOptions::default();
    // The message carries its own EDNS, or none.
    options.use_edns = false;
    let message = question.message(0);
    match exchange.send(DnsRequest::new(message, options)).next().await {
        Some(response) => response.map(|response| question.judge_message(&response)),
        // So hickory says that its own time for a reply is over (xfer/mod.rs, DnsResponseStream).
        None => Err(NetError::Timeout),
    }
}

/// A connected socket, or what stands for one in a scenario.
enum Datagrams {
    Socket(UdpSocket),
    #[cfg(test)]
    Staged(Staged),
}

impl Datagrams {
    async fn send(&self, packet: &[u8]) -> io::Result<usize> {
        match self {
            Datagrams::Socket(socket) => socket.send(packet).await,
            #[cfg(test)]
            Datagrams::Staged(socket) => socket.send(packet),
        }
    }

    async fn recv(&self, packet: &mut [u8]) -> io::Result<usize> {
        match self {
            Datagrams::Socket(socket) => socket.recv(packet).await,
            #[cfg(test)]
            Datagrams::Staged(socket) => socket.recv(packet).await,
        }
    }
}

async fn ask_udp(socket: &Datagrams, question: Question, manner: Manner) -> io::Result<Reply> {
    let id = u16::from_be_bytes(random()?);
    let question = &if manner.mixed { question.mix_case(&random()?) } else { question };
    let query = question.message(id).to_vec().map_err(io::Error::other)?;
    let started = Instant::now();
    socket.send(&query).await?;
    for pause in SEND_AGAIN {
        if let Ok(reply) = tokio::time::timeout_at(started + pause, listen(socket, id, question)).await {
            return check_twice(socket, id, question, reply?, manner).await;
        }
        socket.send(&query).await?;
    }
    let reply = listen(socket, id, question).await?;
    check_twice(socket, id, question, reply, manner).await
}

/// Listens for a second answer that says something else.
async fn check_twice(
    socket: &Datagrams,
    id: u16,
    question: &Question,
    first: Reply,
    manner: Manner,
) -> io::Result<Reply> {
    if manner.listen_on.is_zero() || !(first.outcome == Outcome::Answer || first.outcome.is_negative()) {
        return Ok(first);
    }
    let end = Instant::now() + manner.listen_on;
    while let Ok(Ok(second)) = tokio::time::timeout_at(end, listen(socket, id, question)).await {
        if contradicts(&first, &second) {
            return Ok(Reply::failed(Outcome::Forged, "two answers that differ"));
        }
    }
    Ok(first)
}

/// Whether one of two replies must be forged. The same again is our own retransmission answered.
fn contradicts(first: &Reply, second: &Reply) -> bool {
    match first.outcome {
        // From somebody who did not see the question.
        _ if second.respelt => false,
        Outcome::Answer => !first.addresses.iter().all(|address| second.addresses.contains(address)),
        _ => second.outcome == Outcome::Answer,
    }
}

/// Waits for the reply, past packets that are none.
async fn listen(socket: &Datagrams, id: u16, question: &Question) -> io::Result<Reply> {
    let mut packet = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut packet).await?;
        if let Some(reply) = question.judge_packet(id, &packet[..length]) {
            return Ok(reply);
        }
    }
}

/// Nobody off the path may guess it, so it comes from the TLS provider's generator.
fn random<const LENGTH: usize>() -> io::Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
    Ok(bytes)
}

fn judge_error(error: &NetError) -> Reply {
    match error {
        NetError::Timeout => Reply::bare(Outcome::Timeout),
        NetError::Io(error) => judge_io(error),
        NetError::Proto(error) => Reply::failed(Outcome::Malformed, error),
        error => Reply::failed(Outcome::Unreachable, error),
    }
}

fn judge_io(error: &io::Error) -> Reply {
    let outcome = match error.kind() {
        io::ErrorKind::TimedOut => Outcome::Timeout,
        // How rustls's refusals arrive: a wrong name, an unknown issuer, a clock that is off.
        io::ErrorKind::InvalidData => Outcome::Tls,
        _ if is_ours(error) => Outcome::Local,
        _ => Outcome::Unreachable,
    };
    Reply::failed(outcome, error)
}

/// Whether this machine ran out of something; the server has nothing to do with it
/// (golang/go#18588: a build without file descriptors was told "no such host").
fn is_ours(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let memory = [Errno::NOBUFS, Errno::NOMEM];
    socket::is_short_of_files(error)
        || error.raw_os_error().is_some_and(|code| memory.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Message;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{RData, Record};
    use rustix::io::Errno;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::reply::Family;
    use super::*;
    use crate::target::Name;

    fn inside() -> Manner {
        Manner { public: false, mixed: false, listen_on: Duration::ZERO }
    }

    /// Answers the first question of a connection, and then swallows whatever comes, as a firewall
    /// does that has forgotten the connection.
    async fn answer_once(mut stream: TcpStream) -> io::Result<()> {
        let length = stream.read_u16().await?;
        let mut packet = vec![0; length.into()];
        stream.read_exact(&mut packet).await?;
        let mut message = Message::from_vec(&packet).map_err(io::Error::other)?;
        message.metadata.message_type = hickory_proto::op::MessageType::Response;
        let owner = message.queries[0].name.clone();
        message.add_answer(Record::from_rdata(owner, 60, RData::A(A::new(192, 0, 2, 1))));
        let answer = message.to_vec().map_err(io::Error::other)?;
        stream.write_u16(answer.len() as u16).await?;
        stream.write_all(&answer).await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop)
    }

    /// A kept connection that died without a word (a firewall that forgot it) was asked again and
    /// again, and every question to its server timed out until the kernel gave it up, a quarter of
    /// an hour later.
    #[tokio::test]
    async fn a_kept_connection_that_died_in_silence_is_replaced() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::Tcp(listener.local_addr().unwrap());
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer_once(stream));
            }
        });
        let wire = Wire::new(Vec::new());
        for number in 0..3 {
            let question = Question::new(&Name::parse("goproxy.cn").unwrap(), Family::V4, true).unwrap();
            let reply = wire.ask(&server, Transport::Tcp, question, inside()).await;
            assert_eq!(reply.outcome, Outcome::Answer, "question {number}: {reply:?}");
        }
    }

    /// hickory ends a question's stream where its own clock ran out first, as it does on a busy machine: two names
    /// on one connection to a silent server, and one of them read `unreachable` and counted as a refusal.
    #[tokio::test]
    async fn a_connection_that_lets_a_question_go_unanswered_was_silent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, moment) = (listener.local_addr().unwrap(), Duration::from_millis(1));
        let provider = Provider::default();
        let connect = TcpClientStream::<<Provider as RuntimeProvider>::Tcp>::exchange;
        let exchange = connect(address, None, moment, None, provider.clone()).await.unwrap();
        let question = Question::new(&Name::parse("goproxy.cn").unwrap(), Family::V4, true).unwrap();
        let error = send(exchange, &question).await.unwrap_err();
        assert_eq!(judge_error(&error).outcome, Outcome::Timeout, "{error}");
    }

    /// Asks a server that answers each question with these, made of the question.
    async fn hear(replies: impl Fn(Message) -> Vec<Message>, manner: Manner) -> Reply {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = Server::Plain(socket.local_addr().unwrap());
        let answering = async {
            let mut packet = vec![0; DATAGRAM];
            let (length, from) = socket.recv_from(&mut packet).await.unwrap();
            let mut message = Message::from_vec(&packet[..length]).unwrap();
            message.metadata.message_type = hickory_proto::op::MessageType::Response;
            message.metadata.recursion_available = true;
            for reply in replies(message) {
                socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let wire = Wire::new(Vec::new());
        let question = Question::new(&Name::parse("abcdefghijklmnopqrstuvwxyz.cn").unwrap(), Family::V4, true).unwrap();
        tokio::select! {
            reply = wire.ask(&server, Transport::Udp, question, manner) => reply,
            () = answering => unreachable!("it goes on"),
        }
    }

    fn saying(mut message: Message, last: u8) -> Message {
        let owner = message.queries[0].name.clone();
        message.add_answer(Record::from_rdata(owner, 60, RData::A(A::new(192, 0, 2, last))));
        message
    }

    fn in_lower_case(mut message: Message) -> Message {
        message.queries[0].name = message.queries[0].name.to_lowercase();
        message
    }

    fn exposed() -> Manner {
        Manner { public: true, mixed: true, listen_on: Duration::from_millis(40) }
    }

    #[tokio::test]
    async fn a_name_in_mixed_case_must_come_back_as_it_was_sent() {
        let kept = hear(|asked| vec![saying(asked, 1)], exposed()).await;
        assert_eq!(kept.outcome, Outcome::Answer);
        let respelt = hear(|asked| vec![saying(in_lower_case(asked), 1)], exposed()).await;
        assert!(respelt.respelt && respelt.outcome == Outcome::Forged, "{respelt:?}");
        let inside = hear(|asked| vec![saying(in_lower_case(asked), 1)], inside()).await;
        assert_eq!(inside.outcome, Outcome::Answer, "the site's own servers are asked in plain spelling");
    }

    #[tokio::test]
    async fn a_second_reply_shows_that_one_of_two_is_forged() {
        let denied = |mut asked: Message| {
            asked.metadata.response_code = hickory_proto::op::ResponseCode::NXDomain;
            asked
        };
        let heard = async |replies: &dyn Fn(Message) -> Vec<Message>| hear(replies, exposed()).await.outcome;
        assert_eq!(heard(&|asked| vec![saying(asked.clone(), 1), saying(asked, 2)]).await, Outcome::Forged);
        assert_eq!(heard(&|asked| vec![denied(asked.clone()), saying(asked, 2)]).await, Outcome::Forged);
        assert_eq!(heard(&|asked| vec![saying(asked.clone(), 1), denied(asked)]).await, Outcome::Forged);
        assert_eq!(heard(&|asked| vec![saying(asked.clone(), 1), saying(asked, 1)]).await, Outcome::Answer);
        assert_eq!(heard(&|asked| vec![denied(asked.clone()), denied(asked)]).await, Outcome::Nxdomain);
        let stranger = |asked: Message| vec![saying(asked.clone(), 1), saying(in_lower_case(asked), 2)];
        assert_eq!(heard(&stranger).await, Outcome::Answer, "who did not see the question proves nothing");
        let trusting = hear(|asked| vec![saying(asked.clone(), 1), saying(asked, 2)], inside()).await;
        assert_eq!(trusting.outcome, Outcome::Answer);
    }

    #[tokio::test]
    async fn a_question_that_is_too_many_is_not_sent_and_is_nobodys_fault() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = Server::Plain(silent.local_addr().unwrap());
        let wire = Wire::new(Vec::new());
        let question = || Question::new(&Name::parse("goproxy.cn").unwrap(), Family::V4, true).unwrap();
        let mut asking = (0..65).map(|_| wire.ask(&server, Transport::Udp, question(), inside()));
        let mut asking = asking.by_ref().collect::<futures_util::stream::FuturesUnordered<_>>();
        assert_eq!(asking.next().await.map(|reply| reply.outcome), Some(Outcome::Local));
        let more = tokio::time::timeout(Duration::ZERO, asking.next()).await;
        assert!(more.is_err(), "the others are under way: {more:?}");
    }

    #[test]
    fn running_out_of_descriptors_is_our_failure_and_a_refusal_is_the_servers() {
        let judged = |errno: Errno| judge_io(&io::Error::from_raw_os_error(errno.raw_os_error())).outcome;
        assert_eq!(judged(Errno::MFILE), Outcome::Local);
        assert_eq!(judged(Errno::CONNREFUSED), Outcome::Unreachable);
        assert_eq!(judged(Errno::NETUNREACH), Outcome::Unreachable);
    }
}
