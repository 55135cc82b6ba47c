//! The name server of a build subnet, asked over real sockets.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::support::daemon::{Daemon, Wanted, goanyway};
use crate::support::nameserver::{Nameserver, Says};
use crate::support::needs::have;
use crate::support::netns::Netns;

// The vocabulary.

const GOOD: &str = "1.1.1.9";

/// A name server of ours above these two, the public one optional.
fn above(system: &Nameserver, public: Option<&Nameserver>) -> Daemon {
    let fallback = public.map_or("none".to_owned(), |public| format!("udp://{}", public.address));
    serving()
        .with("resolve.nameservers", &format!("udp://{}", system.address))
        .with("resolve.fallback", &fallback)
        .start()
}

fn serving() -> Wanted {
    goanyway().with("dns.listen", "127.0.0.1:0")
}

pub fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

pub fn with_edns(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

pub async fn over_udp(server: SocketAddr, packet: &[u8]) -> Message {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(packet).await.unwrap();
    let mut reply = [0; 4096];
    let length = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut reply)).await.unwrap().unwrap();
    assert!(length <= 1232, "no datagram is longer than what every path carries");
    Message::from_vec(&reply[..length]).unwrap()
}

pub async fn send_framed(stream: &mut TcpStream, packet: &[u8]) {
    stream.write_u16(packet.len() as u16).await.unwrap();
    stream.write_all(packet).await.unwrap();
}

pub async fn read_framed(stream: &mut TcpStream) -> Message {
    let mut reply = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut reply).await.unwrap();
    Message::from_vec(&reply).unwrap()
}

pub async fn over_tcp(server: SocketAddr, packet: &[u8]) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    send_framed(&mut stream, packet).await;
    read_framed(&mut stream).await
}

async fn ask(daemon: &Daemon, name: &str, kind: RecordType) -> Message {
    over_udp(daemon.dns(), &with_edns(question(name, kind), 1232).to_vec().unwrap()).await
}

pub fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

pub fn addresses(message: &Message) -> Vec<IpAddr> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

pub fn reason(message: &Message) -> Option<u16> {
    match message.edns.as_ref()?.option(EdnsCode::Unknown(15))? {
        EdnsOption::Unknown(_, bytes) => Some(u16::from_be_bytes([bytes[0], bytes[1]])),
        _ => None,
    }
}

// The promises.

#[tokio::test]
async fn a_client_gets_what_the_ladder_finds_over_udp_and_tcp() {
    let (system, public) =
        (Nameserver::start(Says::Code(ResponseCode::NXDomain)).await, Nameserver::start(Says::Address(GOOD)).await);
    let daemon = above(&system, Some(&public));
    let packet = question("GoProxy.cn.", RecordType::A).to_vec().unwrap();
    for reply in [over_udp(daemon.dns(), &packet).await, over_tcp(daemon.dns(), &packet).await] {
        assert_eq!((code(&reply), addresses(&reply)), (ResponseCode::NoError, vec![GOOD.parse().unwrap()]));
        assert_eq!((reply.metadata.id, reply.metadata.recursion_available), (4711, true));
        assert_eq!(reply.answers[0].name.to_ascii(), "GoProxy.cn.", "in the client's own spelling");
        assert_eq!(reply.queries, question("GoProxy.cn.", RecordType::A).queries);
    }
    let v6 = ask(&daemon, "goproxy.cn.", RecordType::AAAA).await;
    assert_eq!((code(&v6), addresses(&v6)), (ResponseCode::NoError, vec![]), "the name exists, without such addresses");
    assert_eq!(public.asked().len(), 2, "asked once for each family, and then known");
}

#[tokio::test]
async fn nxdomain_is_said_only_where_it_is_confirmed_or_final() {
    let nxdomain = || Says::Code(ResponseCode::NXDomain);
    let system = Nameserver::start(nxdomain()).await;
    let second = Nameserver::start(nxdomain()).await;
    let confirmed = ask(&above(&system, Some(&second)), "goproxy.cn.", RecordType::A).await;
    assert_eq!(code(&confirmed), ResponseCode::NXDomain);
    let alone = ask(&above(&system, None), "goproxy.cn.", RecordType::A).await;
    assert_eq!(code(&alone), ResponseCode::NXDomain, "nobody else may be asked");
    second.change(Says::Silent);
    let unconfirmed = ask(&above(&system, Some(&second)), "goproxy.cn.", RecordType::A).await;
    assert_eq!((code(&unconfirmed), reason(&unconfirmed)), (ResponseCode::ServFail, Some(0)));
    system.change(Says::Code(ResponseCode::NoError));
    let unconfirmed = ask(&above(&system, Some(&second)), "goproxy.cn.", RecordType::A).await;
    let told = (code(&unconfirmed), reason(&unconfirmed));
    assert_eq!(told, (ResponseCode::ServFail, Some(0)), "go makes `no such host` of an empty answer, too");
    system.change(Says::Code(ResponseCode::Refused));
    let nobody = ask(&above(&system, None), "goproxy.cn.", RecordType::A).await;
    assert_eq!((code(&nobody), reason(&nobody)), (ResponseCode::ServFail, Some(22)));
}

#[tokio::test]
async fn what_does_not_fit_is_cut_and_comes_whole_over_tcp() {
    let wanted =
        (1..=32).fold(serving(), |wanted, last| wanted.and("resolve.hosts", &format!("many.test=10.0.0.{last}")));
    let daemon = wanted.start();
    let plain = question("many.test.", RecordType::A).to_vec().unwrap();
    let cut = over_udp(daemon.dns(), &plain).await;
    assert!(cut.metadata.truncation && cut.answers.is_empty(), "512 bytes are not enough");
    assert_eq!(addresses(&over_tcp(daemon.dns(), &plain).await).len(), 32);
    let roomy = ask(&daemon, "many.test.", RecordType::A).await;
    assert_eq!((roomy.metadata.truncation, addresses(&roomy).len()), (false, 32));
}

#[tokio::test]
async fn questions_on_one_connection_are_answered_as_they_are_known() {
    let slow = Nameserver::start(Says::OverTcp(GOOD)).await;
    let daemon = serving()
        .with("resolve.nameservers", &format!("udp://{}", slow.address))
        .and("resolve.hosts", "quick.test=10.0.0.1")
        .start();
    let mut stream = TcpStream::connect(daemon.dns()).await.unwrap();
    let mut first = question("slow.example.com.", RecordType::A);
    first.metadata.id = 1;
    let mut second = question("quick.test.", RecordType::A);
    second.metadata.id = 2;
    for message in [&first, &second] {
        send_framed(&mut stream, &message.to_vec().unwrap()).await;
    }
    // The client has no more to say, and still gets both.
    stream.shutdown().await.unwrap();
    let order = [read_framed(&mut stream).await, read_framed(&mut stream).await].map(|reply| reply.metadata.id);
    assert_eq!(order, [2, 1]);
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "and then the end");
}

#[tokio::test]
async fn nonsense_is_answered_shortly_or_not_at_all_and_does_no_harm() {
    let daemon = serving().and("resolve.hosts", "here.test=10.0.0.1").start();
    let good = question("here.test.", RecordType::A).to_vec().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut response = question("here.test.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    for noise in [vec![], vec![0; 5], vec![0xff; 1400], response.to_vec().unwrap()] {
        socket.send_to(&noise, daemon.dns()).await.unwrap();
    }
    let cut = over_udp(daemon.dns(), &good[..good.len() - 3]).await;
    assert_eq!((code(&cut), cut.metadata.id), (ResponseCode::FormErr, 4711));
    for kind in [RecordType::ANY, RecordType::AXFR] {
        let refused = over_udp(daemon.dns(), &question("here.test.", kind).to_vec().unwrap()).await;
        assert_eq!((code(&refused), refused.answers.len()), (ResponseCode::Refused, 0), "{kind}");
    }
    let mut stream = TcpStream::connect(daemon.dns()).await.unwrap();
    send_framed(&mut stream, &vec![0x2a; 65_535]).await;
    assert_eq!(code(&read_framed(&mut stream).await), ResponseCode::FormErr);
    send_framed(&mut stream, &good).await;
    assert_eq!(addresses(&read_framed(&mut stream).await).len(), 1);
    // Silence to all that was no query: the next thing on the first socket is this answer.
    socket.send_to(&good, daemon.dns()).await.unwrap();
    let mut reply = [0; 512];
    let (length, _) = socket.recv_from(&mut reply).await.unwrap();
    assert_eq!(addresses(&Message::from_vec(&reply[..length]).unwrap()).len(), 1);
}

#[tokio::test]
async fn other_questions_are_passed_on_and_a_denied_name_is_asked_of_the_ladder() {
    let (system, public) =
        (Nameserver::start(Says::Text("v=spf1 -all")).await, Nameserver::start(Says::Address(GOOD)).await);
    let daemon = above(&system, Some(&public));
    let text = ask(&daemon, "Mail.example.com.", RecordType::TXT).await;
    assert_eq!((code(&text), text.answers.len()), (ResponseCode::NoError, 1));
    assert_eq!(text.answers[0].data.to_string(), "v=spf1 -all");
    assert_eq!(ask(&daemon, "mail.example.com.", RecordType::TXT).await.answers.len(), 1);
    let asked = system.asked().iter().filter(|asked| asked.kind == RecordType::TXT).count();
    assert_eq!(asked, 1, "remembered, in whatever spelling");
    // The system's server denies the name, and is wrong: the name is there, such records are not.
    system.change(Says::Code(ResponseCode::NXDomain));
    let there = ask(&daemon, "goproxy.cn.", RecordType::HTTPS).await;
    assert_eq!((code(&there), there.answers.len()), (ResponseCode::NoError, 0));
    public.change(Says::Code(ResponseCode::NXDomain));
    let gone = ask(&daemon, "nowhere.example.com.", RecordType::MX).await;
    assert_eq!(code(&gone), ResponseCode::NXDomain);
    // Nobody answers.
    system.change(Says::Code(ResponseCode::ServFail));
    public.change(Says::Code(ResponseCode::Refused));
    let failed = ask(&daemon, "silent.example.com.", RecordType::SRV).await;
    assert_eq!((code(&failed), reason(&failed)), (ResponseCode::ServFail, Some(22)));
    let odd = ask(&daemon, ".", RecordType::NS).await;
    assert_eq!((code(&odd), reason(&odd)), (ResponseCode::Refused, Some(21)));
}

#[tokio::test]
async fn a_name_that_has_other_records_is_not_denied() {
    let (system, public) = (Nameserver::start(Says::Nodata).await, Nameserver::start(Says::Nodata).await);
    let daemon = above(&system, Some(&public));
    let empty = ask(&daemon, "mail.example.com.", RecordType::A).await;
    assert_eq!((code(&empty), empty.answers.len()), (ResponseCode::NoError, 0));
}

#[tokio::test]
async fn questions_about_private_names_stay_inside_whatever_they_ask() {
    let (system, public) =
        (Nameserver::start(Says::Code(ResponseCode::ServFail)).await, Nameserver::start(Says::Text("x")).await);
    let daemon = above(&system, Some(&public));
    for (name, kind) in
        [("printer.local.", RecordType::SRV), ("db.", RecordType::TXT), ("wiki.internal.", RecordType::MX)]
    {
        assert_eq!(code(&ask(&daemon, name, kind).await), ResponseCode::ServFail, "{name}");
    }
    assert_eq!(public.names(), [""; 0]);
}

/// It gave up after sixteen ports that were free for UDP and taken for TCP; the kernel may choose one again and again.
#[test]
fn a_port_of_the_kernels_choice_is_one_that_is_free_over_tcp_too() {
    if !have("a_port_of_the_kernels_choice_is_one_that_is_free_over_tcp_too", &["root", "ip"]) {
        return;
    }
    let machine = Netns::with_resolv_conf("");
    machine.set("net.ipv4.ip_local_port_range", "40000 40063");
    let served = machine.visit(|| {
        let _taken: Vec<TcpListener> =
            (40000..40063).map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap()).collect();
        // All but the last of them; listeners over TCP alone are none of this test's.
        let wanted = serving().with("listen", "127.0.0.1:3128").with("admin.listen", "127.0.0.1:3127");
        wanted.and("resolve.hosts", "here.test=10.0.0.1").start().dns()
    });
    assert_eq!(served, "127.0.0.1:40063".parse().unwrap());
}
