//! The whole of a deployment: rules that `goanyway gateway apply` laid lead to listeners of ours, and clients
//! behind them have nothing set, not even a name server that is alive.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use rustix::process::Signal;
use rustls::RootCertStore;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::clients::{index, registry, repository};
use crate::dns::{addresses, question};
use crate::service::{hand_over, owned};
use crate::subnet::{
    NEEDS, Usual, builds_pass_with_the_ca_and_without, dial, go_mod_download, passes, probe, rest, shown, unruled, went,
};
use crate::support::binary::{Ended, Home, Served, home};
use crate::support::client::{handshake, roots};
use crate::support::mirror::Mood;
use crate::support::nameserver::Says;
use crate::support::needs::have;
use crate::support::netns::{Hosted, Netns};
use crate::support::origin::{Heard, Origin, greeting, text};
use crate::support::subnet::{
    ATTACKER_AT, MIRROR, MIRROR_AT, MIRROR_AT_V6, MODULE, NAMESERVER_AT, Rules, Subnet, TRANSPARENT,
};

// The vocabulary.

/// The name servers that the clients have: nobody is there, at either address.
const DEAD: &str = "nameserver 9.9.9.55\n";
const DEAD_V6: &str = "nameserver 2a0a:e5c0:9::55\n";
const BOTH: [Rules; 2] = [Rules::Redirect, Rules::Tproxy];

/// The usual, deployed as docs/gateway.md says, and the place from which it was.
fn deployed(rules: Rules, at: &'static str) -> (Usual, Home) {
    let (usual, home) = (unruled(at), home());
    for client in [&usual.subnet.trusting, &usual.subnet.plain] {
        client.write("resolv.conf", if at.contains(':') { DEAD_V6 } else { DEAD });
    }
    usual.subnet.apply(rules, &home);
    (usual, home)
}

/// All rules and routes, but for what the kernel adds by itself and when it likes.
fn settled(router: &Netns) -> String {
    router.rules().lines().filter(|line| !line.contains("fe80")).map(|line| format!("{line}\n")).collect()
}

/// An origin of these files, by path, at both addresses of the world.
fn origin(subnet: &Subnet, name: &str, files: HashMap<String, Bytes>) -> Hosted<Vec<Origin>> {
    let tls = subnet.authority.server(&[name]);
    subnet.world.host(move || async move {
        let mut origins = Vec::new();
        for at in ["9.9.9.66:443", "[2a0a:e5c0:9::9]:443"] {
            let files = files.clone();
            let answer = move |heard: &Heard| {
                let path = heard.uri.split("://").last().unwrap();
                let path = path[path.find('/').unwrap_or(0)..].split('?').next().unwrap();
                let mut answer =
                    files.get(path).map_or_else(|| text(404, "not here"), |bytes| text(200, bytes.clone()));
                // pip reads an index of no other type.
                answer.headers_mut().insert("content-type", http::HeaderValue::from_static("text/html"));
                answer
            };
            origins.push(Origin::tls_at(at, tls.clone(), answer).await);
        }
        origins
    })
}

// The promises.

fn a_build_passes(rules: Rules, at: &'static str) {
    let (usual, home) = deployed(rules, at);
    builds_pass_with_the_ca_and_without(&usual);
    // What was fetched is enough from here on, with the mirror and the name server gone.
    let Usual { subnet, mirror, daemon, nameserver, .. } = &usual;
    assert!(nameserver.asked().iter().any(|asked| asked.name == MIRROR), "asked by us: the clients' own is dead");
    mirror.becomes(Mood::Says(503));
    nameserver.change(Says::Silent);
    passes(&go_mod_download(&subnet.trusting, &daemon.ca_pem()));
    subnet.remove(&home);
}

#[test]
fn a_build_passes_redirected_by_what_was_applied() {
    if have("a_build_passes_redirected_by_what_was_applied", &[&NEEDS[..], &["go"]].concat()) {
        a_build_passes(Rules::Redirect, MIRROR_AT);
    }
}

#[test]
fn a_build_passes_redirected_by_what_was_applied_over_ipv6() {
    if have("a_build_passes_redirected_by_what_was_applied_over_ipv6", &[&NEEDS[..], &["go"]].concat()) {
        a_build_passes(Rules::Redirect, MIRROR_AT_V6);
    }
}

#[test]
fn a_build_passes_by_tproxy_as_it_was_applied() {
    if have("a_build_passes_by_tproxy_as_it_was_applied", &[&NEEDS[..], &["go"]].concat()) {
        a_build_passes(Rules::Tproxy, MIRROR_AT);
    }
}

#[test]
fn a_build_passes_by_tproxy_as_it_was_applied_over_ipv6() {
    if have("a_build_passes_by_tproxy_as_it_was_applied_over_ipv6", &[&NEEDS[..], &["go"]].concat()) {
        a_build_passes(Rules::Tproxy, MIRROR_AT_V6);
    }
}

/// Each is told which root to trust, where others trust a public one, and nothing else.
const PROGRAMS: [(&str, &[&str], &str); 5] = [
    ("curl over IPv4", &["curl"], "curl -sS -4 --cacert real.pem https://files.example.com/hello"),
    ("curl over IPv6", &["curl"], "curl -sS -6 --cacert real.pem https://files.example.com/hello"),
    ("git", &["git"], "GIT_SSL_CAINFO=real.pem git clone -q https://files.example.com/repo.git got && cat got/file"),
    (
        "pip",
        &["pip"],
        "PIP_CERT=real.pem PIP_DISABLE_PIP_VERSION_CHECK=1 pip download -q --no-deps --no-cache-dir -d got \
         --index-url https://files.example.com/simple hello==1.0 && ls got",
    ),
    (
        "npm",
        &["npm", "node", "tar"],
        "echo '{}' > package.json; npm install --no-audit --no-fund --no-update-notifier --fetch-retries 0 \
         --replace-registry-host always --cafile real.pem --registry https://files.example.com/ hello@1.0.0 \
         && cat node_modules/hello/package.json",
    ),
];

/// A program in a folder of its own in this client.
fn type_in(client: &Netns, roots: &str, script: &str) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("real.pem"), roots).unwrap();
    let mut shell = client.command("sh");
    shell.args(["-ec", script]).current_dir(folder.path()).env("HOME", folder.path());
    Ended::of(shell.output().unwrap())
}

#[test]
fn curl_git_pip_and_npm_need_no_setting() {
    if !have("curl_git_pip_and_npm_need_no_setting", &NEEDS) {
        return;
    }
    let mut files = HashMap::from([("/hello".to_owned(), Bytes::from("hello"))]);
    for (needed, make) in [
        (&["git"][..], repository as fn() -> HashMap<String, Bytes>),
        (&["pip"], index),
        (&["npm", "node", "tar"], registry),
    ] {
        if have("curl_git_pip_and_npm_need_no_setting", needed) {
            files.extend(make());
        }
    }
    for rules in BOTH {
        let (usual, _home) = deployed(rules, MIRROR_AT);
        let Usual { subnet, daemon, nameserver, .. } = &usual;
        nameserver.change(Says::Addresses(&[ATTACKER_AT, MIRROR_AT_V6]));
        let origins = origin(subnet, "files.example.com", files.clone());
        for (program, needed, script) in PROGRAMS {
            if !have("curl_git_pip_and_npm_need_no_setting", needed) {
                continue;
            }
            for client in [&subnet.trusting, &subnet.plain] {
                let heard = || origins.iter().map(|origin| origin.heard().len()).sum::<usize>();
                let (before, straight) = (heard(), went(daemon, "straight"));
                let ended = type_in(client, subnet.authority.pem(), script);
                assert!(ended.code == Some(0) && ended.out.contains("hello"), "{rules:?}: {program}: {ended:?}");
                assert!(heard() > before, "{rules:?}: {program} was answered by the origin itself");
                assert!(went(daemon, "straight") > straight, "{rules:?}: {program} came through us");
            }
        }
        assert_eq!(went(daemon, "intercepted"), 0, "no module host is among them");
    }
}

#[test]
fn banners_on_odd_ports_never_pass_us_and_on_ours_are_not_waited_out() {
    if !have("banners_on_odd_ports_never_pass_us_and_on_ours_are_not_waited_out", &NEEDS) {
        return;
    }
    const SSH: &[u8] = b"SSH-2.0-here\r\n";
    const SMTP: &[u8] = b"220 here ESMTP\r\n";
    for rules in BOTH {
        let (usual, _home) = deployed(rules, MIRROR_AT);
        let Usual { subnet, daemon, .. } = &usual;
        let _servers = subnet.world.host(|| async {
            for (at, banner) in [
                ("9.9.9.66:22", SSH),
                ("9.9.9.66:2222", SSH),
                ("9.9.9.66:25", SMTP),
                ("9.9.9.66:587", SMTP),
                ("9.9.9.66:80", SMTP),
                ("9.9.9.66:443", SSH),
            ] {
                greeting(at, banner).await;
            }
        });
        for (port, banner) in [(22, SSH), (2222, SSH), (25, SMTP), (587, SMTP), (80, SMTP), (443, SSH)] {
            let heard = subnet.plain.within(|| async {
                let mut stream = dial(&format!("{ATTACKER_AT}:{port}")).await.unwrap();
                let mut heard = vec![0; banner.len()];
                // Not a byte from us until its greeting is here.
                let reading = stream.read_exact(&mut heard);
                tokio::time::timeout(Duration::from_secs(20), reading).await.expect("stalled").unwrap();
                stream.write_all(b"EHLO").await.unwrap();
                stream.shutdown().await.unwrap();
                heard.extend(rest(&mut stream).await);
                heard
            });
            assert_eq!(heard, [banner, b"EHLO"].concat(), "{rules:?}: port {port}");
            let through_us = if matches!(port, 80 | 443) { 1 } else { 0 };
            let already = if port == 443 { 1 } else { 0 };
            assert_eq!(went(daemon, "straight"), through_us + already, "{rules:?}: port {port}");
        }
        assert_eq!(shown(daemon, "silent"), 2, "{rules:?}: what the two were joined as");
    }
}

/// What a datagram to there meets.
fn datagram(to: &str) -> std::io::Result<usize> {
    let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    socket.connect(to)?;
    socket.send(b"a first flight")?;
    socket.recv(&mut [0; 64])
}

#[test]
fn quic_is_refused_while_it_is_applied_and_passes_before_and_after() {
    if !have("quic_is_refused_while_it_is_applied_and_passes_before_and_after", &NEEDS) {
        return;
    }
    for rules in BOTH {
        let (usual, home) = (unruled(MIRROR_AT), home());
        let subnet = &usual.subnet;
        for at in ["9.9.9.66:443", "[2a0a:e5c0:9::9]:443"] {
            let socket = subnet.world.visit(|| UdpSocket::bind(at).unwrap());
            // It lives until the test's process ends.
            std::thread::spawn(move || {
                let mut packet = [0; 64];
                while let Ok((length, from)) = socket.recv_from(&mut packet) {
                    let _ = socket.send_to(&packet[..length], from);
                }
            });
            let knock = || subnet.plain.visit(|| datagram(at)).map_err(|error| error.kind());
            assert_eq!(knock(), Ok(14), "{rules:?}: {at}: before");
            subnet.apply(rules, &home);
            assert_eq!(knock(), Err(ErrorKind::ConnectionRefused), "{rules:?}: {at}: at once, and not silence");
            subnet.remove(&home);
            assert_eq!(knock(), Ok(14), "{rules:?}: {at}: after");
        }
    }
}

#[test]
fn what_was_applied_and_used_is_removed_without_a_trace() {
    if !have("what_was_applied_and_used_is_removed_without_a_trace", &NEEDS) {
        return;
    }
    for rules in BOTH {
        let (usual, home) = (unruled(MIRROR_AT), home());
        let Usual { subnet, daemon, .. } = &usual;
        let untouched = settled(&subnet.gateway);
        let reach = |port: u16| {
            let (to, path) = (format!("{MIRROR_AT}:{port}"), format!("/{MODULE}/@v/list"));
            let roots = subnet.authority.roots();
            subnet.plain.within(|| probe(&to, MIRROR, &path, roots)).unwrap()
        };
        subnet.apply(rules, &home);
        assert_ne!(settled(&subnet.gateway), untouched);
        assert_eq!((reach(443).as_str(), went(daemon, "straight")), ("v1.0.0", 1), "{rules:?}: through us");
        subnet.remove(&home);
        assert_eq!(settled(&subnet.gateway), untouched, "{rules:?}");
        assert_eq!((reach(443).as_str(), went(daemon, "straight")), ("v1.0.0", 1), "{rules:?}: and past us");
    }
}

// Under load, killed and restarted.

/// Where all of one family is: the mirror, the name server that clients ask, our own sockets.
#[derive(Clone, Copy)]
struct Place {
    mirror: &'static str,
    nameserver: &'static str,
    ours: &'static str,
    kind: RecordType,
}

const V4: Place = Place { mirror: MIRROR_AT, nameserver: "9.9.9.55:53", ours: "0.0.0.0", kind: RecordType::A };
const V6: Place =
    Place { mirror: MIRROR_AT_V6, nameserver: "[2a0a:e5c0:9::55]:53", ours: "::", kind: RecordType::AAAA };

impl Place {
    fn at(self, port: u16) -> SocketAddr {
        (self.ours.parse::<IpAddr>().unwrap(), port).into()
    }

    /// A socket of this family alone, as `BindIPv6Only=ipv6-only` in deploy/systemd.
    fn socket(self, kind: Type, port: u16) -> Socket {
        let socket = Socket::new(Domain::for_address(self.at(port)), kind, None).unwrap();
        if self.at(port).is_ipv6() {
            socket.set_only_v6(true).unwrap();
        }
        socket.bind(&self.at(port).into()).unwrap();
        socket
    }
}

/// What became of the visits of clients that do not stop.
struct Load {
    over: CancellationToken,
    at: Place,
    served: AtomicUsize,
    /// The connection was not taken.
    refused: AtomicUsize,
    /// It was, and ended before its answer was whole.
    cut: AtomicUsize,
    /// Questions that had to be asked again.
    repeated: AtomicUsize,
}

impl Load {
    fn new(at: Place) -> Load {
        let none = AtomicUsize::default;
        Load { over: CancellationToken::new(), at, served: none(), refused: none(), cut: none(), repeated: none() }
    }

    /// Asks for the mirror and takes a file from there, again and again.
    async fn visit(&self, ours: RootCertStore) {
        while !self.over.is_cancelled() {
            self.ask().await;
            let to = SocketAddr::new(self.at.mirror.parse().unwrap(), 443);
            let Ok(stream) = dial(&to.to_string()).await else {
                self.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let outcome = match take(stream, ours.clone()).await {
                Ok(answer) if answer.ends_with("module example.com/m\n\ngo 1.20\n") => &self.served,
                _ => &self.cut,
            };
            outcome.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// As a stub resolver asks: again, where no answer comes, or none that is of use.
    async fn ask(&self) {
        let socket = tokio::net::UdpSocket::bind(self.at.at(0)).await.unwrap();
        socket.connect(self.at.nameserver).await.unwrap();
        let packet = question(&format!("{MIRROR}."), self.at.kind).to_vec().unwrap();
        let mut reply = [0; 512];
        loop {
            let asked = socket.send(&packet).await;
            let answer = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut reply)).await;
            if let (Ok(_), Ok(Ok(length))) = (asked, answer) {
                let told = Message::from_vec(&reply[..length]).unwrap();
                if addresses(&told) == [self.at.mirror.parse::<IpAddr>().unwrap()] {
                    return;
                }
            }
            self.repeated.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    /// Returns once so many more were served.
    fn goes_on(&self, more: usize) {
        let wanted = self.served() + more;
        let begun = std::time::Instant::now();
        while self.served() < wanted {
            assert!(begun.elapsed() < Duration::from_secs(120), "nobody is served any more: {self}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [refused, cut, repeated] =
            [&self.refused, &self.cut, &self.repeated].map(|count| count.load(Ordering::Relaxed));
        write!(f, "{} served, {refused} refused, {cut} cut, {repeated} questions repeated", self.served())
    }
}

async fn take(stream: tokio::net::TcpStream, ours: RootCertStore) -> std::io::Result<String> {
    let mut stream = handshake(stream, MIRROR, ours, &[b"http/1.1"]).await?;
    let path = format!("/{MODULE}/@v/v1.0.0.mod");
    let head = format!("GET {path} HTTP/1.1\r\nHost: {MIRROR}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The sockets that a supervisor holds for the gateway's goanyway, and what it needs to be started again.
struct Supervisor<'a> {
    subnet: &'a Subnet,
    home: &'a Home,
    connections: Socket,
    datagrams: Socket,
}

impl<'a> Supervisor<'a> {
    fn new(subnet: &'a Subnet, home: &'a Home, rules: Rules, at: Place) -> Supervisor<'a> {
        std::fs::write(home.at("real.pem"), subnet.authority.pem()).unwrap();
        let bind = || (at.socket(Type::STREAM, TRANSPARENT), at.socket(Type::DGRAM, 53));
        let (connections, datagrams) = subnet.gateway.visit(bind);
        connections.listen(1024).unwrap();
        if rules == Rules::Tproxy {
            // As `Transparent=yes` in deploy/systemd/goanyway-transparent.socket.
            let set = if at.at(0).is_ipv4() { Socket::set_ip_transparent_v4 } else { Socket::set_ip_transparent_v6 };
            set(&connections, true).unwrap();
        }
        Supervisor { subnet, home, connections, datagrams }
    }

    fn start(&self) -> Served {
        let (connections, datagrams) = (self.connections.try_clone().unwrap(), self.datagrams.try_clone().unwrap());
        let handed = vec![("transparent", owned(connections)), ("dns", owned(datagrams))];
        let above = format!("udp://{NAMESERVER_AT}");
        let upstream = format!("https://{MIRROR}");
        let arguments = ["--listen", "127.0.0.1:0", "--admin", "none", "--nameserver", &above, "--upstream", &upstream];
        let clients = "--client 10.7.0.0/16 --client fd07::/16 --trusted-by 10.7.0.0/24 --trusted-by fd07::/64";
        let clients: Vec<&str> = clients.split(' ').collect();
        let mut command = hand_over(self.home, handed, &[&arguments[..], &clients].concat());
        command.env("GOANYWAY_FETCH_EXTRA_ROOTS", self.home.at("real.pem"));
        self.subnet.gateway.visit(|| self.home.spawn_with(command))
    }
}

fn restarts_refuse_nobody(rules: Rules, at: Place) {
    let (subnet, home) = (Subnet::new(), home());
    let _mirror = subnet.mirror(at.mirror);
    let nameserver = subnet.nameserver(NAMESERVER_AT, Says::Address(at.mirror));
    let _echo = subnet.world.host(|| greeting("9.9.9.66:2222", b""));
    let untouched = settled(&subnet.gateway);
    let supervisor = Supervisor::new(&subnet, &home, rules, at);
    let mut served = supervisor.start();
    subnet.apply(rules, &home);
    let ours = roots(&std::fs::read_to_string(home.at("data/goanyway/certs/ca.pem")).unwrap());
    let to: SocketAddr = format!("{ATTACKER_AT}:2222").parse().unwrap();
    let mut standing = subnet.plain.visit(|| std::net::TcpStream::connect(to).unwrap());
    let load = Load::new(at);
    let served = std::thread::scope(|scope| {
        // However this ends, the clients do.
        let _over = load.over.clone().drop_guard();
        scope.spawn(|| {
            let visits = || futures_util::future::join_all((0..8).map(|_| load.visit(ours.clone())));
            subnet.trusting.within(visits)
        });
        load.goes_on(50);
        for signal in [Signal::TERM, Signal::TERM, Signal::TERM] {
            served.signal(signal);
            let (code, said) = served.ended();
            assert!(code == Some(0) && !said.contains("were cut"), "{said}");
            served = supervisor.start();
            load.goes_on(50);
        }
        let after = load.to_string();
        assert!(after.ends_with("served, 0 refused, 0 cut, 0 questions repeated"), "{rules:?}: stopped: {after}");
        for _ in 0..3 {
            served.signal(Signal::KILL);
            assert_eq!(served.ended().0, None);
            served = supervisor.start();
            load.goes_on(50);
        }
        // What it had accepted when it was killed went with it; nobody was turned away, and all were served again.
        assert_eq!(load.refused.load(Ordering::Relaxed), 0, "{rules:?}: killed: {load}");
        served
    });
    assert!(load.served() >= 350, "{load}");
    assert_eq!(nameserver.names(), [MIRROR]);
    standing.write_all(b"still here").unwrap();
    let mut heard = [0; 10];
    standing.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still here", "what never passed us noticed nothing");
    drop(served);
    subnet.remove(&home);
    assert_eq!(settled(&subnet.gateway), untouched, "{rules:?}");
}

#[test]
fn restarts_and_kills_under_load_refuse_nobody_who_is_redirected() {
    if have("restarts_and_kills_under_load_refuse_nobody_who_is_redirected", &NEEDS) {
        restarts_refuse_nobody(Rules::Redirect, V4);
    }
}

#[test]
fn restarts_and_kills_under_load_refuse_nobody_who_is_redirected_over_ipv6() {
    if have("restarts_and_kills_under_load_refuse_nobody_who_is_redirected_over_ipv6", &NEEDS) {
        restarts_refuse_nobody(Rules::Redirect, V6);
    }
}

#[test]
fn restarts_and_kills_under_load_refuse_nobody_who_comes_by_tproxy() {
    if have("restarts_and_kills_under_load_refuse_nobody_who_comes_by_tproxy", &NEEDS) {
        restarts_refuse_nobody(Rules::Tproxy, V4);
    }
}

#[test]
fn restarts_and_kills_under_load_refuse_nobody_who_comes_by_tproxy_over_ipv6() {
    if have("restarts_and_kills_under_load_refuse_nobody_who_comes_by_tproxy_over_ipv6", &NEEDS) {
        restarts_refuse_nobody(Rules::Tproxy, V6);
    }
}

/// Without a supervisor: what it lost it finds again in its folders, and the rules still lead to it.
#[test]
fn killed_and_started_again_it_serves_from_what_it_kept() {
    if !have("killed_and_started_again_it_serves_from_what_it_kept", &NEEDS) {
        return;
    }
    let (subnet, home) = (Subnet::new(), home());
    let mirror = subnet.mirror(MIRROR_AT);
    let nameserver = subnet.nameserver(NAMESERVER_AT, Says::Address(MIRROR_AT));
    std::fs::write(home.at("real.pem"), subnet.authority.pem()).unwrap();
    let start = || {
        let line = format!(
            "serve --listen 127.0.0.1:0 --admin none --transparent 0.0.0.0:{TRANSPARENT} --dns 0.0.0.0:53 \
             --client 10.7.0.0/16 --trusted-by 10.7.0.0/24 --nameserver udp://{NAMESERVER_AT} --upstream https://{MIRROR}"
        );
        let mut command = home.goanyway(&line.split_whitespace().collect::<Vec<_>>());
        command.env("GOANYWAY_FETCH_EXTRA_ROOTS", home.at("real.pem"));
        subnet.gateway.visit(|| home.spawn(command))
    };
    let served = start();
    subnet.apply(Rules::Redirect, &home);
    let ours = std::fs::read_to_string(home.at("data/goanyway/certs/ca.pem")).unwrap();
    let visit = |to: &str| {
        let path = format!("/{MODULE}/@v/v1.0.0.mod");
        subnet.trusting.within(|| probe(to, MIRROR, &path, roots(&ours))).map_err(|error| error.kind())
    };
    let to = format!("{MIRROR_AT}:443");
    assert!(visit(&to).unwrap().starts_with("module example.com/m"));
    // So that nothing else is left than what it kept.
    served.signal(Signal::TERM);
    assert_eq!(served.ended().0, Some(0));
    drop((mirror, nameserver));
    for _ in 0..2 {
        let served = start();
        assert!(visit(&to).unwrap().starts_with("module example.com/m"), "with neither mirror nor name server");
        served.signal(Signal::KILL);
        assert_eq!(served.ended().0, None);
        assert_eq!(visit(&to), Err(ErrorKind::ConnectionRefused), "the rules stand, and say that nobody is there");
    }
}
