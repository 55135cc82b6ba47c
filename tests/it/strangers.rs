//! The name server of a build subnet, under what anybody on a network can send: floods from forged addresses,
//! reflections, nonsense and hoarded connections. Silence or a short word is all that it says to them, what it
//! asks others does not grow, and its clients are served meanwhile and afterwards.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::dns::{addresses, code, over_tcp, question, read_framed, send_framed};
use crate::support::daemon::{Daemon, goanyway};
use crate::support::nameserver::{Nameserver, Says};
use crate::support::needs::have;
use crate::support::netns::{Hosted, Netns};

// The vocabulary.

const NEEDS: [&str; 2] = ["root", "ip"];
const LISTENER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 7, 0, 1)), 53);
/// Asked of memory alone.
const KNOWN: &str = "here.corp.example.";
/// Against hangs alone.
const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway with a name server, and beside it a machine that has whatever address it likes: its own, 10.7.0.2,
/// those of all other clients (10.7.0.0/16), and those of a network whose questions are none of ours (10.8.0.0/16).
struct Rig {
    outside: Netns,
    _gateway: Netns,
    above: Hosted<Nameserver>,
    daemon: Hosted<Daemon>,
}

fn rig(says: Says) -> Rig {
    let (outside, gateway) = (Netns::with_resolv_conf(""), Netns::with_resolv_conf(""));
    outside.connect("eth0", &["10.7.0.2/16"], &gateway, "lan0", &["10.7.0.1/16"]);
    gateway.add_address("10.66.0.53/32");
    gateway.ip(&["route", "add", "10.8.0.0/16", "via", "10.7.0.2"]);
    for all in ["10.7.128.0/17", "10.8.0.0/16"] {
        outside.ip(&["route", "add", "local", all, "dev", "lo"]);
    }
    let above = gateway.host(move || async move { Nameserver::at("10.66.0.53:5353", says).await });
    let wanted = goanyway()
        .with("dns.listen", "0.0.0.0:53")
        .with("admit.clients", "10.7.0.0/16")
        .with("resolve.nameservers", "udp://10.66.0.53:5353")
        .and("resolve.hosts", "here.corp.example=10.7.9.9");
    let daemon = gateway.host(move || async move { wanted.start() });
    Rig { outside, _gateway: gateway, above, daemon }
}

impl Rig {
    /// A socket of the outside with this address as its own.
    fn socket(&self, from: impl Into<SocketAddr>) -> UdpSocket {
        let from = from.into();
        let socket = self.outside.visit(|| UdpSocket::bind(from).unwrap_or_else(|error| panic!("{from}: {error}")));
        socket.connect(LISTENER).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    /// Waits until all that was sent has been dealt with: questions behind it are answered. Each worker has a queue
    /// of its own, and an asker's port says which; so many go into all of them.
    fn settle(&self) {
        for _ in 0..16 {
            let reply = self.told(KNOWN);
            assert_eq!(addresses(&reply), ["10.7.9.9".parse::<IpAddr>().unwrap()]);
        }
    }

    /// What the outside's own address is told of a name. It asks again, as a stub resolver does: a flood may
    /// have filled the queue before the daemon came to read it.
    fn told(&self, name: &str) -> Message {
        let socket = self.socket((Ipv4Addr::new(10, 7, 0, 2), 0));
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut reply = [0; 1500];
        for _ in 0..10 {
            socket.send(&asking(name)).unwrap();
            if let Ok(length) = socket.recv(&mut reply) {
                return Message::from_vec(&reply[..length]).unwrap();
            }
        }
        panic!("nobody is answered any more");
    }

    /// The same over TCP.
    fn told_over_tcp(&self, name: &str) -> Message {
        let packet = asking(name);
        self.outside.within(|| over_tcp(LISTENER, &packet))
    }

    /// Its clients are answered, over UDP and TCP, also with what must be asked for.
    fn serves(&self, name: &str) {
        for reply in [self.told(name), self.told_over_tcp(name)] {
            assert_eq!((code(&reply), addresses(&reply).len()), (ResponseCode::NoError, 1), "{name}");
        }
    }

    /// Nobody above heard of any of it, and its clients are served.
    fn is_unmoved(&self) {
        assert!(self.above.asked().is_empty(), "{:?}", self.above.asked());
        self.serves("goproxy.cn.");
        assert_eq!(self.above.names(), ["goproxy.cn"], "also what was still on its way");
    }

    /// How many packets were dealt with like this.
    fn dealt(&self, how: &str) -> u64 {
        let line = format!("goanyway_dns_queries_total{{outcome=\"{how}\"}} ");
        let text = self.daemon.metrics();
        text.lines().find_map(|own| own.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }

    /// Waits until just so many were: each worker has a queue of its own.
    fn comes_to(&self, how: &str, count: u64) {
        let begun = Instant::now();
        while self.dealt(how) < count {
            assert!(begun.elapsed() < PATIENCE, "{} of {count} {how}", self.dealt(how));
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(self.dealt(how), count, "{how}");
    }
}

/// Whether nothing came.
fn hears_nothing(socket: &UdpSocket) -> bool {
    socket.recv(&mut [0; 1500]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

fn asking(name: &str) -> Vec<u8> {
    question(name, RecordType::A).to_vec().unwrap()
}

fn answering(name: &str) -> Vec<u8> {
    let mut message = question(name, RecordType::A);
    message.metadata.message_type = MessageType::Response;
    message.to_vec().unwrap()
}

// The promises.

#[test]
fn a_flood_from_addresses_that_are_no_clients_is_met_with_silence() {
    if !have("a_flood_from_addresses_that_are_no_clients_is_met_with_silence", &NEEDS) {
        return;
    }
    let rig = rig(Says::Address("1.1.1.9"));
    let mut sent = 0;
    let sockets: Vec<UdpSocket> = (0..256u16)
        .map(|nth| {
            // Ports at which those sit who answer whatever they hear, too.
            let port = [0, 7, 19, 53, 123, 5353][usize::from(nth % 6)];
            rig.socket((Ipv4Addr::from([10, 8, (nth >> 4) as u8, (nth & 15) as u8 + 1]), port))
        })
        .collect();
    for round in 0..40 {
        for (nth, socket) in sockets.iter().enumerate() {
            // Before the queue of the socket is full, so that nothing is dropped before it is judged.
            if nth % 64 == 0 {
                rig.settle();
            }
            let fresh = format!("fresh{round}x{nth}.goproxy.cn.");
            let packet = if nth % 8 == 7 { answering(&fresh) } else { asking(&fresh) };
            socket.send(&packet).unwrap();
            sent += 1;
        }
    }
    assert!(sockets.iter().all(hears_nothing), "not a packet, whatever was asked and from whatever port");
    rig.comes_to("stranger", sent);
    rig.is_unmoved();
}

#[test]
fn who_forges_its_clients_addresses_moves_no_more_than_they_might() {
    if !have("who_forges_its_clients_addresses_moves_no_more_than_they_might", &NEEDS) {
        return;
    }
    let rig = rig(Says::Address("1.1.1.9"));
    let socket = rig.socket((Ipv4Addr::new(10, 7, 200, 1), 0));
    let begun = Instant::now();
    let mut replies = 0;
    for nth in 0..4000 {
        socket.send(&asking(&format!("fresh{nth}.example.com."))).unwrap();
        if nth % 64 == 63 {
            rig.settle();
        }
        while socket.recv(&mut [0; 1500]).is_ok() {
            replies += 1;
        }
    }
    rig.settle();
    // A burst of 500, and 100 a second (`src/dns/crowd.rs`); of those, as many as one server is asked at once.
    let most = 500 + 100 * (begun.elapsed().as_secs() as usize + 1);
    let names = rig.above.names().len();
    assert!((1..=most).contains(&names), "{names} names were asked for on its account, {most} at most");
    assert!(rig.dealt("limited") > 1000, "{}", rig.daemon.metrics());
    assert!(replies < 4000, "and not every one of its packets is worth another");
    // Whoever really has that address comes by TCP; its neighbours notice nothing.
    let known = rig.told_over_tcp(KNOWN);
    assert_eq!(addresses(&known).len(), 1);
    rig.serves("goproxy.cn.");
}

#[test]
fn many_forged_clients_fill_the_room_for_look_ups_and_what_is_known_is_said_all_the_same() {
    const TITLE: &str = "many_forged_clients_fill_the_room_for_look_ups_and_what_is_known_is_said_all_the_same";
    if !have(TITLE, &NEEDS) {
        return;
    }
    let rig = rig(Says::Address("1.1.1.9"));
    rig.serves("kept.example.com.");
    rig.above.change(Says::Silent);
    let sockets: Vec<UdpSocket> = (0..64u8).map(|nth| rig.socket((Ipv4Addr::new(10, 7, 200, nth + 1), 0))).collect();
    let before = rig.above.names().len();
    let begun = Instant::now();
    for nth in 0..100 {
        for (who, socket) in sockets.iter().enumerate() {
            socket.send(&asking(&format!("fresh{nth}x{who}.example.com."))).unwrap();
        }
        rig.settle();
    }
    // As many as there is room for (4,096), again and again as they end after 3 s (`query_cap`).
    let most = 4096 * (1 + begun.elapsed().as_secs() as usize / 3);
    let names = rig.above.names().len() - before;
    assert!(names <= most.min(6400), "{names} names were asked for, {most} at most");
    let kept = rig.told("kept.example.com.");
    assert_eq!(addresses(&kept).len(), 1);
    rig.above.change(Says::Address("1.1.1.9"));
    let later = Instant::now();
    // Whatever is under way ends by itself, and then all is as before.
    loop {
        let name = format!("after{}.example.com.", later.elapsed().as_millis());
        let reply = rig.told(&name);
        if code(&reply) == ResponseCode::NoError {
            break;
        }
        assert!(later.elapsed() < Duration::from_secs(60), "it did not recover: {reply:?}");
    }
}

fn noise(random: &mut fastrand::Rng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; random.usize(0..=most)];
    random.fill(&mut bytes);
    bytes
}

/// Each packet that is no query in some way; those that could be read as a question after all are left out.
fn nonsense() -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(7);
    let good = asking("name.under.example.com.");
    let mut packets: Vec<Vec<u8>> = (0..good.len()).map(|length| good[..length].to_vec()).collect();
    for _ in 0..4000 {
        let mut packet = match random.u8(0..3) {
            0 => noise(&mut random, 1400),
            // Counts of records that are not there.
            1 => [&good[..4], &noise(&mut random, 8), &good[12..]].concat(),
            // Names that point at each other, or out of the packet.
            _ => [&good[..12], &[0xc0, random.u8(..), 0xc0, random.u8(..), 0, 1, 0, 1]].concat(),
        };
        if random.bool() && packet.len() > 2 {
            // Not an answer, so that it is read further.
            packet[2] &= 0x7f;
        }
        packets.push(packet);
    }
    packets.retain(|packet| Message::from_vec(packet).is_err() || packet.get(2).is_some_and(|flags| flags & 0x80 != 0));
    packets
}

#[test]
fn nonsense_is_not_passed_on_and_no_answer_to_it_is_longer_than_it_was() {
    if !have("nonsense_is_not_passed_on_and_no_answer_to_it_is_longer_than_it_was", &NEEDS) {
        return;
    }
    let rig = rig(Says::Address("1.1.1.9"));
    let socket = rig.socket((Ipv4Addr::new(10, 7, 0, 2), 0));
    let packets = nonsense();
    assert!(packets.len() > 2000);
    let mut heard = 0;
    for (nth, packet) in packets.iter().enumerate() {
        socket.send(packet).unwrap();
        if nth % 16 == 15 {
            rig.settle();
        }
        let mut reply = [0; 1500];
        while let Ok(length) = socket.recv(&mut reply) {
            heard += 1;
            assert_eq!((length, reply[3] & 0x0f), (12, 1), "a header that says FORMERR, which a packet had to have");
        }
    }
    rig.settle();
    assert!(heard > 0 && heard <= packets.len());
    rig.is_unmoved();
}

/// An answer of ours that comes back is no question, from whatever port: two servers never talk to each other for ever.
#[test]
fn our_own_answers_sent_back_to_us_end_there() {
    if !have("our_own_answers_sent_back_to_us_end_there", &NEEDS) {
        return;
    }
    let rig = rig(Says::Address("1.1.1.9"));
    for port in [0, 7, 19, 53] {
        let socket = rig.socket((Ipv4Addr::new(10, 7, 0, 2), port));
        for packet in [asking(KNOWN), asking("asked.example.com."), asking(KNOWN)[..20].to_vec()] {
            socket.send(&packet).unwrap();
            let begun = Instant::now();
            let mut answer = [0; 1500];
            let length = loop {
                match socket.recv(&mut answer) {
                    Ok(length) => break length,
                    Err(_) => assert!(begun.elapsed() < PATIENCE, "a client is answered at whatever port it asks from"),
                }
            };
            let noise = rig.dealt("noise");
            for _ in 0..10 {
                socket.send(&answer[..length]).unwrap();
            }
            rig.comes_to("noise", noise + 10);
            assert!(hears_nothing(&socket), "port {port}");
        }
    }
    assert_eq!(rig.above.names(), ["asked.example.com"]);
}

/// As much as a length can announce, and lengths that are never kept.
#[test]
fn the_longest_messages_over_tcp_and_half_ones_keep_nobody_out() {
    if !have("the_longest_messages_over_tcp_and_half_ones_keep_nobody_out", &NEEDS) {
        return;
    }
    let rig = rig(Says::Address("1.1.1.9"));
    rig.outside.within(|| async {
        let mut half = Vec::new();
        for _ in 0..32 {
            let mut stream = TcpStream::connect(LISTENER).await.unwrap();
            stream.write_all(&[0xff, 0xff, 0x12, 0x34, 0x01]).await.unwrap();
            half.push(stream);
        }
        for _ in 0..16 {
            let mut stream = TcpStream::connect(LISTENER).await.unwrap();
            for _ in 0..16 {
                send_framed(&mut stream, &[0x2a; 65_535]).await;
                assert_eq!(code(&read_framed(&mut stream).await), ResponseCode::FormErr);
            }
            // And it is good for a question yet.
            send_framed(&mut stream, &asking(KNOWN)).await;
            assert_eq!(addresses(&read_framed(&mut stream).await).len(), 1);
            // A frame of nothing, and one that is cut by the end.
            stream.write_all(&[0, 0, 0xff, 0xff, 1, 2, 3]).await.unwrap();
            stream.shutdown().await.unwrap();
            let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.expect("no end");
        }
        drop(half);
    });
    rig.is_unmoved();
}

/// One client could take all 512 places over TCP, and keep them with a question now and then.
#[test]
fn one_client_does_not_have_all_connections() {
    if !have("one_client_does_not_have_all_connections", &NEEDS) {
        return;
    }
    let rig = rig(Says::Address("1.1.1.9"));
    let neighbour = rig.outside.within(|| async {
        let mut hoard = Vec::new();
        for _ in 0..600 {
            hoard.push(TcpStream::connect(LISTENER).await.unwrap());
        }
        // Those that it may have answer; the others end.
        let mut standing = 0;
        for stream in &mut hoard {
            let framed = [&[0, asking(KNOWN).len() as u8][..], &asking(KNOWN)].concat();
            let asked = stream.write_all(&framed).await;
            let answered = tokio::time::timeout(PATIENCE, stream.read_u16()).await.expect("neither answer nor end");
            standing += usize::from(asked.is_ok() && answered.is_ok());
        }
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("10.7.200.1:0".parse().unwrap()).unwrap();
        let mut neighbour = socket.connect(LISTENER).await.unwrap();
        send_framed(&mut neighbour, &asking(KNOWN)).await;
        let answer = tokio::time::timeout(PATIENCE, read_framed(&mut neighbour)).await.expect("kept out");
        (standing, addresses(&answer).len())
    });
    assert_eq!(neighbour, (64, 1), "one has an eighth of the places, and others have theirs");
    rig.comes_to("limited", 600 - 64);
}
