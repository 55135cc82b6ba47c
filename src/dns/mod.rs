//! The second corridor: the name server of a build subnet (`--dns`).
//!
//! A packet walks down `Nameserver::hear`: whose is it (a stranger's gets silence), what does it
//! ask (`query`), what does memory say, and where memory says nothing, may this client cause a
//! look-up (`crowd`) and what does the ladder say. `answer` writes it. The usual question is read and answered
//! by `usual`, which does the same for less. The address of every query
//! is judged, not the one that we are bound to: a name server on a router hears strangers too.
//!
//! What is known is answered by the worker that heard the question, without a task and without a
//! word to any other. What has to be asked is asked once, however many want to know (`resolve`).

mod answer;
mod crowd;
mod query;
mod usual;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{Sink, SinkExt, StreamExt};
use hickory_proto::op::{Message, ResponseCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admit::{Admission, Ends};
use crate::metrics::{By, Counter, Family, Label, Registry};
use crate::resolve::{self, Failure, Found, Resolver};
use crate::socket::{Batch, Datagram, Datagrams};
use crate::target::Name;
use answer::Reason;
use crowd::Crowd;
use query::{Heard, Query};
use usual::Usual;

/// Look-ups under way for all clients together.
const MOST_ASKED: usize = 4096;
/// Connections open at once; DNS over TCP is the exception.
const MOST_CONNECTIONS: usize = 512;
/// Questions of one connection that are worked on at once (RFC 7766 section 6.2.1.1).
const MOST_PIPELINED: usize = 32;
/// A connection on which nothing is asked for so long is closed (RFC 7766 section 6.2.3).
const IDLE: Duration = Duration::from_secs(10);
/// The longest message that DNS has.
const LONGEST: usize = u16::MAX as usize;

/// The name server, shared by all workers.
pub struct Nameserver {
    admission: Admission,
    resolver: Resolver,
    crowd: Crowd,
    // Taken by each question that has to be asked, given back with its answer.
    room: Semaphore,
    connections: Arc<Semaphore>,
    replies: Family<By<Said>, Counter>,
    known: Counter,
}

/// How a packet was dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Said {
    /// Known, and said at once.
    Known,
    /// Asked for, and found.
    Found,
    /// There is no such address.
    Absent,
    /// Nobody could say.
    Failed,
    /// Not what this server is for, or not readable.
    Refused,
    /// More than this client may cause.
    Limited,
    /// Silence: the client is none of ours.
    Stranger,
    /// Silence: no query.
    Noise,
}

impl Said {
    fn of<T>(result: &Result<T, Failure>) -> Said {
        match result {
            Ok(_) => Said::Found,
            Err(Failure::Absent { .. }) => Said::Absent,
            Err(_) => Said::Failed,
        }
    }
}

impl Label for Said {
    fn label(&self) -> &'static str {
        match self {
            Said::Known => "known",
            Said::Found => "found",
            Said::Absent => "absent",
            Said::Failed => "failed",
            Said::Refused => "refused",
            Said::Limited => "limited",
            Said::Stranger => "stranger",
            Said::Noise => "noise",
        }
    }
}

/// What comes of a packet.
enum Next {
    Silence,
    Reply(Vec<u8>),
    Ask(Query, Name),
}

/// How a client reached us, and what fits into a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Datagram,
    Stream,
}

impl Over {
    /// The most bytes of a reply to whoever can take `payload` in a datagram.
    fn limit(self, payload: usize) -> usize {
        match self {
            Over::Datagram => payload,
            Over::Stream => LONGEST,
        }
    }
}

impl Nameserver {
    /// A name server that answers the clients of `admission` out of `resolver`.
    pub fn new(admission: Admission, resolver: Resolver, registry: &Registry) -> Nameserver {
        let replies = Family::<By<Said>, Counter>::default();
        registry.room("dns", |families| {
            families.register("queries", "DNS queries, by what was said to them", replies.clone());
        });
        let known = replies.get_or_create(&By(Said::Known)).clone();
        Nameserver {
            admission,
            resolver,
            crowd: Crowd::default(),
            room: Semaphore::new(MOST_ASKED),
            connections: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
            replies,
            known,
        }
    }

    /// Answers datagrams until `end`; what has to be asked becomes one of `tasks`.
    pub async fn serve_datagrams(
        self: Arc<Self>,
        socket: Datagrams,
        own: SocketAddr,
        end: CancellationToken,
        tasks: TaskTracker,
    ) {
        let socket = Arc::new(socket);
        let mut batch = Batch::default();
        let take = |datagram: Datagram<'_>| {
            let Datagram { peer, local, bytes } = datagram;
            let ends = Ends { peer, local: local_end(own, local), certified: false };
            match self.hear(ends, bytes, Over::Datagram) {
                Next::Silence => {}
                Next::Reply(reply) => send(&socket, peer, local, &reply),
                Next::Ask(query, name) => {
                    let (nameserver, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    tasks.spawn(async move {
                        let reply = nameserver.ask(peer.ip(), &query, &name, Over::Datagram).await;
                        send(&socket, peer, local, &reply);
                    });
                }
            }
        };
        loop {
            let error = tokio::select! {
                () = end.cancelled() => return,
                error = socket.receive(&mut batch, take) => error,
            };
            // An unreachable client of a moment ago, or memory that is short: neither is a reason to end.
            tracing::debug!(%error, "no datagram");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Answers over TCP until `end`.
    pub async fn serve_connections(self: Arc<Self>, listener: TcpListener, end: CancellationToken, tasks: TaskTracker) {
        loop {
            let Ok(place) = Arc::clone(&self.connections).acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = end.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, peer)) = accepted else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (nameserver, end) = (Arc::clone(&self), end.clone());
            tasks.spawn(async move {
                let _place = place;
                let serving = nameserver.serve_stream(stream, peer);
                tokio::select! {
                    () = end.cancelled() => {}
                    ended = serving => if let Err(error) = ended {
                        tracing::debug!(%peer, %error, "a DNS connection ended");
                    }
                }
            });
        }
    }

    async fn serve_stream(&self, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let ends = Ends { peer, local: stream.local_addr()?, certified: false };
        if !self.admission.is_neighbour(ends) {
            self.count(Said::Stranger);
            return Ok(());
        }
        let Some(_seat) = self.crowd.seat(peer.ip()) else {
            self.count(Said::Limited);
            return Ok(());
        };
        stream.set_nodelay(true)?;
        let codec = LengthDelimitedCodec::builder().length_field_length(2).max_frame_length(LONGEST).new_codec();
        let (mut replies, mut queries) = Framed::new(stream, codec).split();
        let mut asked = FuturesUnordered::new();
        loop {
            let reply = tokio::select! {
                Some(reply) = asked.next() => reply,
                packet = tokio::time::timeout(IDLE, queries.next()), if asked.len() < MOST_PIPELINED => {
                    let packet = match packet {
                        Ok(Some(packet)) => packet?,
                        Ok(None) | Err(_) if asked.is_empty() => return Ok(()),
                        // The client has said all; what it asked is still answered.
                        Ok(None) => {
                            while let Some(reply) = asked.next().await {
                                give(&mut replies, reply).await?;
                            }
                            return Ok(());
                        }
                        Err(_) => continue,
                    };
                    match self.hear(ends, &packet, Over::Stream) {
                        Next::Silence => continue,
                        Next::Reply(reply) => reply,
                        Next::Ask(query, name) => {
                            asked.push(async move { self.ask(peer.ip(), &query, &name, Over::Stream).await });
                            continue;
                        }
                    }
                }
            };
            give(&mut replies, reply).await?;
        }
    }

    /// What is to be done about a packet, as far as that can be said at once.
    fn hear(&self, ends: Ends, packet: &[u8], over: Over) -> Next {
        let client = ends.peer.ip();
        if ends.peer.port() == 0 || !self.admission.is_neighbour(ends) {
            self.count(Said::Stranger);
            return Next::Silence;
        }
        let Some(usual) = Usual::read(packet) else { return self.hear_out(client, packet, over, None) };
        let known = self.recall(client, &usual.name, usual.family);
        let found = known.as_ref().and_then(|known| known.as_ref().ok());
        match found.and_then(|found| usual.answer(found, over.limit(usual.payload))) {
            Some(reply) => Next::Reply(reply),
            None => self.hear_out(client, packet, over, known),
        }
    }

    /// The same for whatever it is, and of what may be `known` already.
    fn hear_out(&self, client: IpAddr, packet: &[u8], over: Over, known: Option<Result<Found, Failure>>) -> Next {
        let query = match Query::read(packet) {
            Heard::Noise => {
                self.count(Said::Noise);
                return Next::Silence;
            }
            Heard::Refused(query, code) => {
                self.count(Said::Refused);
                return Next::Reply(answer::write(&answer::bare(&query, code), &query, over));
            }
            Heard::Asked(query) => query,
        };
        let Some(name) = query.name() else {
            self.count(Said::Refused);
            let text = "no host has such a name";
            let message = answer::explained(&query, ResponseCode::Refused, Reason::NotSupported, text);
            return Next::Reply(answer::write(&message, &query, over));
        };
        if let Some(family) = query.family()
            && let Some(known) = known.or_else(|| self.recall(client, &name, family))
        {
            return Next::Reply(answer::write(&compose(&query, family, &known), &query, over));
        }
        if self.crowd.may_ask(client, Instant::now()) {
            return Next::Ask(query, name);
        }
        self.count(Said::Limited);
        let message = match over {
            // Whoever is real comes again over TCP, where an address cannot be forged.
            Over::Datagram if self.is_spared() => return Next::Silence,
            Over::Datagram => answer::come_again(&query),
            Over::Stream => answer::explained(&query, ResponseCode::ServFail, Reason::NotReady, "too many look-ups"),
        };
        Next::Reply(answer::write(&message, &query, over))
    }

    /// What is known of a name's addresses of one family without asking anybody, which this client is told now. It
    /// pays for what is asked to keep that fresh.
    fn recall(&self, client: IpAddr, name: &Name, family: resolve::Family) -> Option<Result<Found, Failure>> {
        let known = self.resolver.recall(name, family, || self.crowd.may_ask(client, Instant::now()))?;
        self.known.inc();
        self.bind(client, name, &known);
        Some(known)
    }

    /// Every second one of those that are over their limit gets nothing at all.
    fn is_spared(&self) -> bool {
        self.replies.get_or_create(&By(Said::Limited)).get().is_multiple_of(2)
    }

    /// Notes what this client is about to be told: a connection of its own may come to us, redirected,
    /// and is believed by this.
    fn bind(&self, client: IpAddr, name: &Name, result: &Result<Found, Failure>) {
        if let Ok(found) = result {
            self.admission.bind(client, name, &found.addresses, found.ttl, Instant::now());
        }
    }

    async fn ask(&self, client: IpAddr, query: &Query, name: &Name, over: Over) -> Vec<u8> {
        let Ok(_place) = self.room.try_acquire() else {
            self.count(Said::Limited);
            let text = "too many look-ups under way";
            let message = answer::explained(query, ResponseCode::ServFail, Reason::NotReady, text);
            return answer::write(&message, query, over);
        };
        let (said, message) = match (query.family(), &query.question) {
            (Some(family), _) => {
                let result = self.resolver.look_up_family(name, family).await;
                self.bind(client, name, &result);
                (Said::of(&result), compose(query, family, &result))
            }
            (None, Some(question)) => {
                let result = self.resolver.relay(name, question).await;
                let said = Said::of(&result);
                (
                    said,
                    result.map_or_else(|why| answer::failure(query, &why), |relayed| answer::relayed(query, relayed)),
                )
            }
            // `hear` asks nothing without a question.
            (None, None) => (Said::Refused, answer::bare(query, ResponseCode::FormErr)),
        };
        self.count(said);
        answer::write(&message, query, over)
    }

    fn count(&self, said: Said) {
        self.replies.get_or_create(&By(said)).inc();
    }
}

/// Hands a reply over TCP to a client that takes it; one that reads nothing does not keep its place.
async fn give(replies: &mut (impl Sink<Bytes, Error = io::Error> + Unpin), reply: Vec<u8>) -> io::Result<()> {
    tokio::time::timeout(IDLE, replies.send(Bytes::from(reply))).await?
}

fn compose(query: &Query, family: resolve::Family, result: &Result<Found, Failure>) -> Message {
    match result {
        Ok(found) => answer::addresses(query, family, found),
        Err(failure) => answer::failure(query, failure),
    }
}

/// Our end of a datagram: where the kernel does not tell, what we are bound to.
fn local_end(own: SocketAddr, told: Option<IpAddr>) -> SocketAddr {
    SocketAddr::new(told.unwrap_or(own.ip()), own.port())
}

fn send(socket: &Datagrams, peer: SocketAddr, local: Option<IpAddr>, reply: &[u8]) {
    if let Err(error) = socket.reply(peer, local, reply) {
        tracing::debug!(%peer, %error, "a DNS reply was not sent");
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, MessageType, OpCode, Query as Question};
    use hickory_proto::rr::{Name as WireName, RecordType};

    use super::*;
    use crate::admit;

    /// A name server for the clients of 10.7.0.0/16, whose look-ups nobody would answer.
    fn nameserver() -> Nameserver {
        let registry = Registry::default();
        let clients = vec!["10.7.0.0/16".parse().unwrap()];
        let admission = Admission::new(admit::Config { clients, ..Default::default() }, &registry).unwrap();
        let config = resolve::Config {
            nameservers: vec!["udp://127.0.0.1:9".parse().unwrap()],
            fallback: Vec::new(),
            hosts: vec![(Name::parse("here.test").unwrap(), "10.0.0.1".parse().unwrap())],
            resolv_conf: "/nonexistent".into(),
            hosts_file: "/nonexistent".into(),
            ..Default::default()
        };
        let resolver = Resolver::new(config, tokio::runtime::Handle::current(), &registry).unwrap();
        Nameserver::new(admission, resolver, &registry)
    }

    fn from(peer: &str) -> Ends {
        Ends { peer: peer.parse().unwrap(), local: "10.7.0.1:53".parse().unwrap(), certified: false }
    }

    fn question(name: &str) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Question::query(WireName::from_ascii(name).unwrap(), RecordType::A));
        message.to_vec().unwrap()
    }

    #[tokio::test]
    async fn a_stranger_gets_silence_wherever_we_are_bound() {
        let ours = nameserver();
        let hear = |peer| ours.hear(from(peer), &question("here.test."), Over::Datagram);
        assert!(matches!(hear("10.7.3.4:4000"), Next::Reply(..)));
        assert!(matches!(hear("10.7.0.1:4000"), Next::Reply(..)), "this host");
        for stranger in ["10.8.0.1:4000", "192.0.2.1:53", "[2001:db8::1]:4000", "10.7.3.4:0"] {
            assert!(matches!(hear(stranger), Next::Silence), "{stranger}");
        }
    }

    /// Eight clients that never read had all places over TCP, for ever.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_does_not_keep_its_place() {
        let ours = nameserver();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let packet = question("here.test.");
        let framed = [&(packet.len() as u16).to_be_bytes()[..], &packet].concat().repeat(10_000);
        let asking = async {
            // What is asked without an end, and the end of it: our reset, when we have had enough.
            loop {
                client.writable().await?;
                match client.try_write(&framed) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    written => drop(written?),
                }
            }
        };
        let (served, _): (_, io::Result<()>) = tokio::join!(ours.serve_stream(stream, peer), asking);
        assert_eq!(served.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    /// A flood of names that nobody knows would make us flood the site's own servers.
    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_free_and_what_must_be_asked_is_counted() {
        let ours = nameserver();
        let hear = |name: &str| ours.hear(from("10.7.3.4:4000"), &question(name), Over::Datagram);
        let asked = (0..2000).filter(|number| matches!(hear(&format!("n{number}.example.com.")), Next::Ask(..)));
        assert_eq!(asked.count(), 500);
        let beyond: Vec<Next> = (0..100).map(|number| hear(&format!("m{number}.example.com."))).collect();
        let told = beyond.iter().filter(|next| matches!(next, Next::Reply(reply) if reply[2] & 0x02 != 0));
        assert_eq!(told.count(), 50, "every second one is told to come by TCP, the others nothing");
        assert!(!beyond.iter().any(|next| matches!(next, Next::Ask(..))));
        assert!(matches!(hear("here.test."), Next::Reply(reply) if reply.ends_with(&[10, 0, 0, 1])));
    }
}
