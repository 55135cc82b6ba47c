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

use super::reply::{Outcome, Question, Reply};
use super::server::{Server, Transport};
use crate::socket::{self, Provider};

/// When a UDP question is sent again: twice, since a third loss is a server that is away.
const SEND_AGAIN: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(900)];
/// How long a plain public server's answer is held to see whether another one follows: what is
/// injected on the path comes first, and the real answer after it.
pub(super) const LISTEN_ON: Duration = Duration::from_millis(40);
/// What a connection and a reply over it may take together; the look-up ends soon after.
const STREAM_PATIENCE: Duration = Duration::from_millis(2500);
/// Servers exceed what we say that we take (golang/go#51127), so there is room for more.
const DATAGRAM: usize = 4096;
/// Questions under way on one connection; hickory's own bound of 32 is less than a cold build asks.
const PIPELINED: usize = 256;

type Exchange = DnsExchange<Provider>;
/// Held while a connection is made, so that two questions at once make one.
type Line = Arc<tokio::sync::Mutex<Option<Exchange>>>;

/// The transports of one resolver.
pub(super) struct Wire {
    // Outlives the exchanges: their background tasks end with its last clone.
    provider: Provider,
    roots: Vec<CertificateDer<'static>>,
    tls: tokio::sync::OnceCell<Arc<ClientConfig>>,
    // One for each server that is asked over connections; bounded by the configuration.
    lines: Mutex<HashMap<(Server, Transport), Line>>,
}

impl Wire {
    /// `roots` are trusted beside the system's.
    pub(super) fn new(roots: Vec<CertificateDer<'static>>) -> Wire {
        Wire { provider: Provider::default(), roots, tls: Default::default(), lines: Default::default() }
    }

    /// Asks a server over one of its transports. UDP waits until it is dropped; where `wary`, it
    /// listens on for a second answer that differs, which shows that one of the two is forged.
    pub(super) async fn ask(&self, server: &Server, transport: Transport, question: Question, wary: bool) -> Reply {
        let Some(address) = server.address() else { return Reply::bare(Outcome::NotAsked) };
        if transport == Transport::Udp {
            return ask_udp(address, &question, wary).await.unwrap_or_else(|error| judge_io(&error));
        }
        match tokio::time::timeout(STREAM_PATIENCE, self.ask_stream(server, transport, &question)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => judge_error(&error),
            Err(_) => Reply::bare(Outcome::Timeout),
        }
    }

    async fn ask_stream(&self, server: &Server, transport: Transport, question: &Question) -> Result<Reply, NetError> {
        let line = self.line(server, transport);
        let (exchange, reused) = self.pick_up(&line, server, transport).await?;
        match send(exchange, question).await {
            // The server may have closed a connection that lay idle: once more, on a new one.
            Err(_) if reused => {
                *line.lock().await = None;
                let (exchange, _) = self.pick_up(&line, server, transport).await?;
                send(exchange, question).await
            }
            Err(error) => {
                *line.lock().await = None;
                Err(error)
            }
            reply => reply,
        }
    }

    fn line(&self, server: &Server, transport: Transport) -> Line {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lines.entry((server.clone(), transport)).or_default())
    }

    /// The connection that is there, or a new one; and whether it was there.
    async fn pick_up(&self, line: &Line, server: &Server, transport: Transport) -> Result<(Exchange, bool), NetError> {
        let mut held = line.lock().await;
        if let Some(exchange) = held.as_ref() {
            return Ok((exchange.clone(), true));
        }
        let exchange = self.connect(server, transport).await?;
        *held = Some(exchange.clone());
        Ok((exchange, false))
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
        None => Err(NetError::NoConnections),
    }
}

async fn ask_udp(server: SocketAddr, question: &Question, wary: bool) -> io::Result<Reply> {
    let socket = socket::udp_to(server).await?;
    let id = random_id()?;
    let query = question.message(id).to_vec().map_err(io::Error::other)?;
    let started = Instant::now();
    socket.send(&query).await?;
    for pause in SEND_AGAIN {
        if let Ok(reply) = tokio::time::timeout_at(started + pause, listen(&socket, id, question)).await {
            return check_twice(&socket, id, question, reply?, wary).await;
        }
        socket.send(&query).await?;
    }
    let reply = listen(&socket, id, question).await?;
    check_twice(&socket, id, question, reply, wary).await
}

/// Listens for a second answer that says something else.
async fn check_twice(socket: &UdpSocket, id: u16, question: &Question, first: Reply, wary: bool) -> io::Result<Reply> {
    if !wary || first.outcome != Outcome::Answer {
        return Ok(first);
    }
    let end = Instant::now() + LISTEN_ON;
    while let Ok(Ok(second)) = tokio::time::timeout_at(end, listen(socket, id, question)).await {
        // The same again is our own retransmission answered.
        let same = first.addresses.iter().all(|address| second.addresses.contains(address));
        if !same {
            return Ok(Reply::failed(Outcome::Forged, "two answers that differ"));
        }
    }
    Ok(first)
}

/// Waits for the reply, past packets that are none.
async fn listen(socket: &UdpSocket, id: u16, question: &Question) -> io::Result<Reply> {
    let mut packet = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut packet).await?;
        if let Some(reply) = question.judge_packet(id, &packet[..length]) {
            return Ok(reply);
        }
    }
}

/// Nobody off the path may guess it, so it comes from the TLS provider's generator.
fn random_id() -> io::Result<u16> {
    let mut bytes = [0; 2];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
    Ok(u16::from_be_bytes(bytes))
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
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| ours.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn running_out_of_descriptors_is_our_failure_and_a_refusal_is_the_servers() {
        let judged = |errno: Errno| judge_io(&io::Error::from_raw_os_error(errno.raw_os_error())).outcome;
        assert_eq!(judged(Errno::MFILE), Outcome::Local);
        assert_eq!(judged(Errno::CONNREFUSED), Outcome::Unreachable);
        assert_eq!(judged(Errno::NETUNREACH), Outcome::Unreachable);
    }
}
