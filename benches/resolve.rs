//! What a look-up costs that needs to ask nobody: a fresh name, an older answer while the servers are
//! dead, a name of the hosts file, a denial, and a hundred thousand names in memory.
//!
//! `cargo bench --bench resolve`. The goal is 1 µs for a fresh name, with any number of threads. The
//! servers are sockets of ours on loopback, and nothing else is asked.

use std::future::Future;
use std::hint::black_box;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use divan::Bencher;
use goanyway::metrics::Registry;
use goanyway::resolve::{Config, Resolver, Server};
use goanyway::target::Name;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::runtime::Runtime;

/// As many threads as small machines have cores, and twice that.
const THREADS: [usize; 3] = [1, 2, 4];

static SHARED: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
/// Whether the server has stopped answering.
static DEAD: AtomicBool = AtomicBool::new(false);
static BENCH: LazyLock<Bench> = LazyLock::new(Bench::warm);

fn main() {
    weigh_memory();
    divan::main();
}

struct Bench {
    fresh: Resolver,
    stale: Resolver,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// Two resolvers: one with fresh answers and denials, one whose answers ended and whose servers died.
    fn warm() -> Bench {
        let folder = tempfile::tempdir().expect("a folder");
        let hosts = folder.path().join("hosts");
        std::fs::write(&hosts, "10.0.0.1 mirror.example\n").expect("a hosts file");
        let [fresh, stale] = [Answers::ForAnHour, Answers::ForFiveSeconds].map(|answers| {
            let config = Config { hosts_file: hosts.clone(), ..config(start_server(answers)) };
            Resolver::new(config, SHARED.handle().clone(), &Registry::default()).expect("a resolver")
        });
        let names = (0..1000).map(|number| name(&format!("m{number}.proxy.golang.org")));
        for name in names.chain([name("goproxy.cn"), name("denied.internal")]) {
            let _ = SHARED.block_on(fresh.search(&name).next());
        }
        let host = name("goproxy.cn");
        let _ = SHARED.block_on(stale.search(&host).next());
        std::thread::sleep(Duration::from_secs(6));
        DEAD.store(true, Ordering::Relaxed);
        // The first one waits; those that are measured come after it.
        let _ = SHARED.block_on(stale.search(&host).next());
        std::thread::sleep(Duration::from_secs(3));
        Bench { fresh, stale, _folder: folder }
    }
}

#[divan::bench(threads = THREADS)]
fn a_fresh_name(bencher: Bencher) {
    look_up(bencher, &BENCH.fresh, "goproxy.cn");
}

#[divan::bench(threads = THREADS)]
fn a_thousand_fresh_names(bencher: Bencher) {
    let names: Vec<Name> = (0..1000).map(|number| name(&format!("m{number}.proxy.golang.org"))).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    bencher.bench(|| ask(&BENCH.fresh, &names[next.fetch_add(1, Ordering::Relaxed) % names.len()]));
}

#[divan::bench(threads = THREADS)]
fn an_older_answer_while_the_servers_are_dead(bencher: Bencher) {
    look_up(bencher, &BENCH.stale, "goproxy.cn");
}

#[divan::bench]
fn a_name_of_the_hosts_file(bencher: Bencher) {
    look_up(bencher, &BENCH.fresh, "mirror.example");
}

#[divan::bench]
fn a_denied_name(bencher: Bencher) {
    look_up(bencher, &BENCH.fresh, "denied.internal");
}

/// What the shared runtime would add: a channel hop there and back.
#[divan::bench]
fn a_hop_to_the_shared_runtime(bencher: Bencher) {
    let worker = worker();
    bencher.bench_local(|| worker.block_on(async { SHARED.spawn(async { black_box(1) }).await }));
}

fn look_up(bencher: Bencher, resolver: &Resolver, host: &str) {
    let host = name(host);
    bencher.bench(|| ask(resolver, &host));
}

/// One poll: whatever does not end in it had to wait, and is no look-up of this bench.
fn ask(resolver: &Resolver, host: &Name) {
    let mut search = resolver.search(black_box(host));
    let mut next = std::pin::pin!(search.next());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(black_box(next.as_mut().poll(&mut context)).is_ready(), "{host} was not known");
}

/// Prints by how much a hundred thousand names make the process grow.
fn weigh_memory() {
    let server = start_server(Answers::ForAnHour);
    let resolver = Resolver::new(config(server), SHARED.handle().clone(), &Registry::default()).expect("a resolver");
    let before = resident();
    for number in 0..100_000 {
        let host = name(&format!("m{number}.a-name-of-the-usual-length.golang.org"));
        // Failures are remembered too, and none of these is waited for long: the server answers at once.
        let _ = SHARED.block_on(resolver.search(&host).next());
    }
    println!("100,000 names: the process grew by {} KiB", resident().saturating_sub(before));
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

#[derive(Clone, Copy)]
enum Answers {
    ForAnHour,
    ForFiveSeconds,
}

/// A name server on a thread of its own: two addresses for every name but those that are denied.
fn start_server(answers: Answers) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("its address");
    std::thread::spawn(move || {
        let mut packet = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut packet) {
            if matches!(answers, Answers::ForFiveSeconds) && DEAD.load(Ordering::Relaxed) {
                continue;
            }
            if let Some(reply) = reply(&packet[..length], answers) {
                let _ = socket.send_to(&reply, peer);
            }
        }
    });
    address
}

fn reply(packet: &[u8], answers: Answers) -> Option<Vec<u8>> {
    let mut message = Message::from_vec(packet).ok()?;
    let query = message.queries.first()?.clone();
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    message.edns = None;
    let ttl = if matches!(answers, Answers::ForAnHour) { 3600 } else { 5 };
    if query.name().to_ascii().starts_with("denied") {
        message.metadata.response_code = ResponseCode::NXDomain;
    } else if query.query_type() == RecordType::A {
        for last in [9, 10] {
            message.add_answer(Record::from_rdata(query.name().clone(), ttl, RData::A(A::new(1, 1, 1, last))));
        }
    }
    message.to_vec().ok()
}

fn config(server: SocketAddr) -> Config {
    let nowhere = Path::new("/nonexistent");
    Config {
        nameservers: vec![Server::Plain(server)],
        fallback: Vec::new(),
        resolv_conf: nowhere.join("resolv.conf"),
        hosts_file: nowhere.join("hosts"),
        ..Config::default()
    }
}

fn worker() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}
