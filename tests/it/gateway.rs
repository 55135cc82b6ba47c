//! `goanyway gateway` on a network of its own: a client, a router with the rules, and a world behind it.
//!
//! Everybody says who answered and for which destination, so that a test reads as a table of where packets
//! end. Behind the router, 203.0.113.10 and 2001:db8:1::10 stand for the public Internet (documentation
//! addresses are redirected like public ones), 192.168.50.10 and fd99::10 for a site's own hosts.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::support::binary::{Ended, Home, home};
use crate::support::golden;
use crate::support::needs::have;
use crate::support::netns::Netns;

const NEEDED: [&str; 5] = ["root", "nft", "ip", "setpriv", "unshare"];

/// What both modes are told; the listeners are those of [`Rig::new`].
const SUBNET: &str = "--subnet 10.7.0.0/16 --subnet fd07::/64 --interface eth1 --client 10.7.0.0/16 --client fd07::/64 \
    --transparent 0.0.0.0:3129 --transparent [::]:3129 --dns 0.0.0.0:5300 --dns [::]:5300 \
    --keep-dns 203.0.113.53 --keep-dns 2001:db8:1::53";

/// Two that are public, two name servers, two of a site.
const WORLD: [&str; 6] =
    ["203.0.113.10", "2001:db8:1::10", "203.0.113.53", "2001:db8:1::53", "192.168.50.10", "fd99::10"];

struct Rig {
    client: Netns,
    router: Netns,
    _world: Netns,
    home: Home,
}

impl Rig {
    fn new() -> Rig {
        let [client, router, world] = [(); 3].map(|()| Netns::with_resolv_conf(""));
        connect(&client, "eth0", &router, "eth1");
        connect(&router, "eth2", &world, "eth0");
        // 10.9.0.0/24 is on the same link, and no subnet of the builds.
        client.give("eth0", &["10.7.0.2/16", "10.9.0.2/24", "fd07::2/64"]);
        router.give("eth1", &["fe80::1/64", "10.7.0.1/16", "10.9.0.1/24", "fd07::1/64"]);
        router.give("eth2", &["fe80::2/64", "203.0.113.1/24", "192.168.50.1/24", "2001:db8:1::1/64", "fd99::1/64"]);
        for address in WORLD {
            let length = if address.contains(':') { 64 } else { 24 };
            world.give("eth0", &[&format!("{address}/{length}")]);
        }
        for (netns, gateways) in [(&client, ["10.7.0.1", "fd07::1"]), (&world, ["203.0.113.1", "2001:db8:1::1"])] {
            gateways.iter().for_each(|gateway| netns.ip(&["route", "add", "default", "via", gateway]));
        }
        router.forward();
        router.visit(|| {
            for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
                answer_tcp("transparent", SocketAddr::new(any, 3129), true);
                answer_tcp("dns", SocketAddr::new(any, 5300), false);
                answer_tcp("router", SocketAddr::new(any, 443), false);
            }
            ["10.7.0.1", "10.9.0.1", "fd07::1", "fd99::1"].iter().for_each(|address| answer_udp("dns", address, 5300));
        });
        world.visit(|| {
            for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
                [53, 80, 443, 8443].into_iter().for_each(|port| answer_tcp("world", SocketAddr::new(any, port), false));
            }
            for address in WORLD {
                [53, 443].into_iter().for_each(|port| answer_udp("world", address, port));
            }
        });
        Rig { client, router, _world: world, home: home() }
    }

    /// `goanyway gateway` on the router.
    fn gateway(&self, verb: &str, more: &str) -> Ended {
        self.router.visit(|| self.home.run(&words(verb, more)))
    }

    fn apply(&self, more: &str) -> Ended {
        let ended = self.gateway("apply", more);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended
    }

    fn check(&self, more: &str) -> Ended {
        self.gateway("check", more)
    }

    fn tcp(&self, to: &str) -> String {
        self.client.visit(|| ask_tcp(None, to))
    }

    fn udp(&self, to: &str) -> String {
        self.client.visit(|| ask_udp(to))
    }

    /// All that there is of rules and routes on the router.
    fn state(&self) -> String {
        self.router.rules()
    }
}

fn words<'a>(verb: &'a str, more: &'a str) -> Vec<&'a str> {
    let common = if verb == "remove" { "" } else { SUBNET };
    ["gateway", verb].into_iter().chain(common.split_whitespace()).chain(more.split_whitespace()).collect()
}

/// Runs a line of a shell, which must succeed.
fn inside(netns: &Netns, line: &str) {
    let status = netns.visit(|| Command::new("sh").args(["-c", line]).status().unwrap());
    assert!(status.success(), "{line}: {status}");
}

fn connect(one: &Netns, name: &str, other: &Netns, peer: &str) {
    one.plug(name, other, peer);
    for (netns, interface) in [(one, name), (other, peer)] {
        // Without link-local addresses, which appear when they like.
        netns.ip(&["link", "set", interface, "addrgenmode", "none"]);
        netns.ip(&["link", "set", interface, "up"]);
    }
}

/// Says who accepted, and for which destination; then says again what it hears.
fn answer_tcp(who: &'static str, address: SocketAddr, transparent: bool) {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    if transparent {
        let set = if address.is_ipv4() { Socket::set_ip_transparent_v4 } else { Socket::set_ip_transparent_v6 };
        set(&socket, true).unwrap();
    }
    socket.bind(&address.into()).unwrap();
    socket.listen(64).unwrap();
    let listener = TcpListener::from(socket);
    // It lives until the test's process ends.
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let destination =
                    if transparent { original_destination(&stream) } else { stream.local_addr().unwrap() };
                writeln!(stream, "{who} {destination}")?;
                std::io::copy(&mut stream.try_clone()?, &mut stream)
            });
        }
    });
}

fn original_destination(stream: &TcpStream) -> SocketAddr {
    let socket = SockRef::from(stream);
    let local = stream.local_addr().unwrap();
    if local.port() != 3129 {
        return local; // TPROXY
    }
    let asked = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    asked.ok().and_then(|address| address.as_socket()).unwrap_or(local)
}

/// At one address, so that the answer comes from where the question went.
fn answer_udp(who: &'static str, address: &str, port: u16) {
    let address = SocketAddr::new(address.parse().unwrap(), port);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP)).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.bind(&address.into()).unwrap();
    let socket = UdpSocket::from(socket);
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(who.as_bytes(), client);
        }
    });
}

/// Only against hangs.
const PATIENCE: Duration = Duration::from_secs(20);

fn open(source: Option<&str>, to: &str) -> std::io::Result<TcpStream> {
    let to: SocketAddr = to.parse().unwrap();
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source.parse().unwrap(), 0).into())?;
    }
    socket.connect_timeout(&to.into(), PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

fn hear(stream: &TcpStream) -> std::io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

fn ask_tcp(source: Option<&str>, to: &str) -> String {
    open(source, to).and_then(|stream| hear(&stream)).unwrap_or_else(|error| error.kind().to_string())
}

fn ask_udp(to: &str) -> String {
    let to: SocketAddr = to.parse().unwrap();
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(to).unwrap();
    let mut buffer = [0; 64];
    let heard = socket.send(b"?").and_then(|_| socket.recv(&mut buffer));
    heard
        .map_or_else(|error| error.kind().to_string(), |length| String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn refused() -> String {
    ErrorKind::ConnectionRefused.to_string()
}

fn everything_goes_where_it_belongs(mode: &str) {
    let rig = Rig::new();
    let before = rig.client.visit(|| open(None, "203.0.113.10:443").unwrap());
    assert_eq!(hear(&before).unwrap(), "world 203.0.113.10:443", "no rules yet");
    rig.apply(mode);
    for to in ["203.0.113.10:443", "203.0.113.10:80", "[2001:db8:1::10]:443", "[2001:db8:1::10]:80"] {
        assert_eq!(rig.tcp(to), format!("transparent {to}"));
    }
    for to in ["203.0.113.10:8443", "192.168.50.10:443", "192.168.50.10:80", "[fd99::10]:443"] {
        assert_eq!(rig.tcp(to), format!("world {to}"), "another port, or a site's own host");
    }
    for to in ["10.7.0.1:443", "203.0.113.1:443", "[fd07::1]:443"] {
        assert_eq!(rig.tcp(to), format!("router {to}"), "the router's own service");
    }
    for to in ["203.0.113.10:443", "[2001:db8:1::10]:443"] {
        assert_eq!(rig.udp(to), refused(), "QUIC is refused, and at once");
        assert_eq!(rig.router.visit(|| ask_udp(to)), "world", "but not the router's own");
        assert_eq!(rig.router.visit(|| ask_tcp(None, to)), format!("world {to}"));
    }
    assert_eq!(rig.udp("192.168.50.10:443"), "world", "nor what goes to a site's own host");
    for to in ["203.0.113.10:53", "192.168.50.10:53", "10.7.0.1:53", "[2001:db8:1::10]:53", "[fd99::10]:53"] {
        assert_eq!(rig.udp(to), "dns", "{to}");
        assert!(rig.tcp(to).starts_with("dns "), "{to}");
    }
    for to in ["203.0.113.53:53", "[2001:db8:1::53]:53"] {
        assert_eq!((rig.udp(to), rig.tcp(to)), ("world".to_owned(), format!("world {to}")), "--keep-dns");
    }
    assert_eq!(rig.router.visit(|| ask_udp("203.0.113.10:53")), "world", "the router asks whom it likes");
    let outside = rig.client.visit(|| ask_tcp(Some("10.9.0.2"), "203.0.113.10:443"));
    assert_eq!(outside, "world 203.0.113.10:443", "another network on the same link");
    (&before).write_all(b"still here\n").unwrap();
    assert_eq!(hear(&before).unwrap(), "still here", "what stood before stands");
    let through = rig.client.visit(|| open(None, "203.0.113.10:443").unwrap());
    assert!(hear(&through).unwrap().starts_with("transparent"));
    rig.apply(mode);
    (&through).write_all(b"still here\n").unwrap();
    assert_eq!(hear(&through).unwrap(), "still here", "and so does what was redirected");
}

#[test]
fn redirect_brings_a_subnets_web_and_names_here_and_nothing_else() {
    if have("redirect_brings_a_subnets_web_and_names_here_and_nothing_else", &NEEDED) {
        everything_goes_where_it_belongs("--mode redirect");
    }
}

#[test]
fn tproxy_brings_a_subnets_web_and_names_here_and_nothing_else() {
    if have("tproxy_brings_a_subnets_web_and_names_here_and_nothing_else", &NEEDED) {
        everything_goes_where_it_belongs("--mode tproxy");
    }
}

/// Listeners with addresses of their own, which `redirect` might not have chosen.
#[test]
fn a_listener_with_an_address_gets_what_is_sent_to_it() {
    if !have("a_listener_with_an_address_gets_what_is_sent_to_it", &NEEDED) {
        return;
    }
    let rig = Rig::new();
    let listeners = "--subnet 10.7.0.0/16 --subnet fd07::/64 --client 10.7.0.0/16 --client fd07::/64 \
        --transparent 203.0.113.1:3129 --transparent [2001:db8:1::1]:3129 --dns 10.9.0.1:5300 --dns [fd99::1]:5300";
    for mode in ["redirect", "tproxy"] {
        let line = format!("gateway apply --mode {mode} {listeners}");
        let line: Vec<&str> = line.split_whitespace().collect();
        let ended = rig.router.visit(|| rig.home.run(&line));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        for to in ["203.0.113.10:443", "[2001:db8:1::10]:443"] {
            assert_eq!(rig.tcp(to), format!("transparent {to}"), "{mode}");
            assert_eq!(rig.udp(&to.replace("443", "53")), "dns", "{mode}");
        }
    }
}

#[test]
fn private_destinations_are_taken_where_that_was_said() {
    if !have("private_destinations_are_taken_where_that_was_said", &NEEDED) {
        return;
    }
    let rig = Rig::new();
    rig.apply("--include-private");
    for to in ["192.168.50.10:443", "[fd99::10]:443"] {
        assert_eq!(rig.tcp(to), format!("transparent {to}"));
        assert_eq!(rig.udp(to), refused());
    }
    assert_eq!(rig.tcp("10.7.0.1:443"), "router 10.7.0.1:443", "the router's own services never");
}

#[test]
fn applied_twice_is_applied_once_and_removed_is_as_if_never_applied() {
    if !have("applied_twice_is_applied_once_and_removed_is_as_if_never_applied", &NEEDED) {
        return;
    }
    let rig = Rig::new();
    inside(&rig.router, "nft add table inet mine && ip rule add priority 676 from 10.99.0.0/16 lookup 99");
    let untouched = rig.state();
    for mode in ["--mode redirect", "--mode tproxy"] {
        rig.apply(mode);
        let once = rig.state();
        assert!(once.contains("table inet goanyway") && once.contains("table inet mine"));
        rig.apply(mode);
        assert_eq!(rig.state(), once);
        let removed = rig.gateway("remove", "");
        assert_eq!((removed.code, rig.state().as_str()), (Some(0), untouched.as_str()), "{removed:?}");
    }
    let nothing = rig.gateway("remove", "");
    assert_eq!((nothing.code, nothing.err.as_str()), (Some(0), "nothing of goanyway is in place\n"), "{nothing:?}");
    rig.apply("--mode tproxy");
    rig.apply("--mode redirect");
    assert!(!rig.state().contains("26479"), "what only the other mode needs is taken out");
    for half in ["nft delete table inet goanyway", "ip -6 rule del lookup 26479", "ip -4 route flush table 26479"] {
        rig.apply("--mode tproxy");
        inside(&rig.router, half);
        assert_eq!(rig.gateway("remove", "").code, Some(0), "{half}");
        assert_eq!(rig.state(), untouched, "{half}");
    }
}

#[test]
fn whatever_is_changed_by_hand_is_seen_and_put_right() {
    if !have("whatever_is_changed_by_hand_is_seen_and_put_right", &NEEDED) {
        return;
    }
    let rig = Rig::new();
    let table = [
        ("redirect", "true", ""),
        ("redirect", "nft flush chain inet goanyway quic", "missing in chain quic: fib daddr type local return"),
        ("redirect", "nft insert rule inet goanyway web accept", "foreign in chain web: accept\n"),
        ("redirect", "nft add element inet goanyway clients_v4 '{ 10.99.0.0/16 }'", "foreign in set clients_v4: "),
        (
            "redirect",
            "nft delete element inet goanyway spared_v6 '{ fc00::/7 }'",
            "missing in set spared_v6: fc00::/7,\n",
        ),
        ("redirect", "nft add chain inet goanyway mine", "foreign in the table: chain mine\n"),
        (
            "redirect",
            "nft add table inet goanyway '{ flags dormant; }'",
            "foreign in table inet goanyway: flags dormant",
        ),
        ("redirect", "nft flush ruleset", "missing: table inet goanyway\n"),
        (
            "redirect",
            "ip -6 rule add priority 9 lookup 26479",
            "foreign in the rules of ip: ip -6 rule add priority 9 ",
        ),
        ("tproxy", "true", ""),
        ("tproxy", "ip -4 route del local default dev lo table 26479", "missing in the routes of ip: ip -4 route add"),
        ("tproxy", "ip -6 rule del priority 676", "missing in the rules of ip: ip -6 rule add priority 676 from all"),
        ("tproxy", "ip -4 route add 10.1.0.0/16 via 10.7.0.9 table 26479", "foreign in the routes of ip: ip -4 "),
    ];
    for (mode, change, words) in table {
        let mode = format!("--mode {mode}");
        rig.apply(&mode);
        inside(&rig.router, change);
        let checked = rig.check(&mode);
        assert_eq!(checked.code, Some(i32::from(!words.is_empty())), "{change}: {checked:?}");
        assert!(checked.out.contains(words), "{change}: {checked:?}");
        rig.apply(&mode);
        let again = rig.check(&mode);
        assert_eq!((again.code, again.out.as_str()), (Some(0), "what is in place is what would be\n"), "{change}");
    }
    let other = rig.check("--mode tproxy --keep-dns 203.0.113.54 --json");
    let told: serde_json::Value = serde_json::from_str(&other.out).unwrap();
    assert_eq!((other.code, &told["same"]), (Some(1), &serde_json::json!(false)));
    let places: Vec<&str> =
        told["differences"].as_array().unwrap().iter().map(|one| one["place"].as_str().unwrap()).collect();
    assert_eq!(places, ["set kept_dns_v4", "set kept_dns_v4"], "{told}");
}

#[test]
fn what_cannot_be_done_is_refused_in_words_and_changes_nothing() {
    if !have("what_cannot_be_done_is_refused_in_words_and_changes_nothing", &NEEDED) {
        return;
    }
    let rig = Rig::new();
    let untouched = rig.state();
    let run = |prefix: &[&str], verb: &str, more: &str| {
        let program = env!("CARGO_BIN_EXE_goanyway");
        let line = [prefix, &[program], &words(verb, more)[..]].concat();
        let mut command = Command::new(line[0]);
        rig.home.surround(&mut command);
        rig.router.visit(move || Ended::of(command.args(&line[1..]).output().unwrap()))
    };
    let powerless = ["setpriv", "--bounding-set=-net_admin"];
    let without_nft = ["env", "PATH=/nowhere"];
    let cases: [(&[&str], &str, &str, i32, &str); 8] = [
        (&powerless, "apply", "", 2, "hint: as root, or with CAP_NET_ADMIN"),
        (&powerless, "check", "", 3, "hint: as root, or with CAP_NET_ADMIN"),
        (&powerless, "remove", "", 2, "hint: as root, or with CAP_NET_ADMIN"),
        (&without_nft, "apply", "", 2, "error: nft is not on the PATH\n\nhint: install nftables"),
        (&without_nft, "check", "", 3, "error: nft is not on the PATH"),
        (&without_nft, "remove", "", 2, "error: nft is not on the PATH"),
        (&[], "apply", "--interface eth9", 2, "there is no interface \"eth9\" here: there are "),
        (&[], "apply", "--subnet 10.7.1.0/24", 2, "--subnet 10.7.0.0/16 holds --subnet 10.7.1.0/24"),
    ];
    for (prefix, verb, more, code, words) in cases {
        let ended = run(prefix, verb, more);
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(ended.err.contains(words), "{words}: {ended:?}");
    }
    let printed = run(&["setpriv", "--bounding-set=-all", "env", "PATH=/nowhere"], "print", "");
    assert!(printed.code == Some(0) && printed.out.contains("chain web"), "{printed:?}");
    let shown = run(&[], "apply", "--mode tproxy --dry-run");
    assert_eq!(shown.out.lines().count(), 5, "two rules, two routes, one table: {shown:?}");
    assert!(shown.out.starts_with("ip -4 rule add priority 676 "), "{shown:?}");
    assert_eq!(rig.state(), untouched);
}

#[test]
fn what_will_disappoint_is_said_beforehand() {
    if !have("what_will_disappoint_is_said_beforehand", &NEEDED) {
        return;
    }
    let rig = Rig::new();
    assert_eq!(rig.apply("").err, "", "all is well");
    rig.router.set("net.ipv4.ip_forward", "0");
    let said = rig.apply("").err;
    assert!(said.contains("net.ipv4.ip_forward is 0") && !said.contains("ipv6"), "{said}");
    assert_eq!(rig.tcp("203.0.113.10:443"), "transparent 203.0.113.10:443", "it is redirected all the same");
    assert_eq!(rig.udp("203.0.113.10:443"), refused(), "and QUIC still refused at once");
    let said = rig.apply("--subnet 10.9.0.0/24").err;
    assert!(said.contains("goanyway itself will refuse 10.9.0.0/24: serve with --client 10.9.0.0/24, too"), "{said}");
    let said = rig.apply("--include-private").err;
    assert!(said.contains("serve with --allow-target"), "{said}");
}

/// As WireGuard's scripts leave a machine. That the warning is true is part of the test.
#[test]
fn a_kernel_that_would_drop_marked_packets_is_told_of() {
    if !have("a_kernel_that_would_drop_marked_packets_is_told_of", &NEEDED) {
        return;
    }
    let rig = Rig::new();
    rig.router.set("net.ipv4.conf.all.src_valid_mark", "1");
    let said = rig.apply("--mode tproxy").err;
    assert!(said.contains("net.ipv4.conf.all.src_valid_mark is 1"), "{said}");
    let dropped = rig.client.visit(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let to: SocketAddr = "203.0.113.10:443".parse().unwrap();
        socket.connect_timeout(&to.into(), Duration::from_millis(300)).is_err()
    });
    assert!(dropped);
    assert_eq!(rig.apply("--mode redirect").err, "");
    assert_eq!(rig.tcp("203.0.113.10:443"), "transparent 203.0.113.10:443");
}

/// `deploy/systemd/goanyway-gateway.service`, with the options that its head suggests and the settings beside it.
#[test]
fn the_unit_that_is_shipped_lays_its_rules_and_takes_them_away() {
    if !have("the_unit_that_is_shipped_lays_its_rules_and_takes_them_away", &NEEDED) {
        return;
    }
    let (rig, folder) = (Rig::new(), Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd"));
    let (untouched, settings) = (rig.state(), folder.join("goanyway.toml").display().to_string());
    let unit = std::fs::read_to_string(folder.join("goanyway-gateway.service")).unwrap();
    let options = unit.lines().find_map(|line| line.strip_prefix("# OPTIONS=")).unwrap();
    let execute = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(&format!("{key}=/usr/bin/goanyway "))).unwrap();
        let line = line.replace("$OPTIONS", options);
        let words: Vec<&str> = line.split_whitespace().chain(["--config", &settings]).collect();
        let ended = rig.router.visit(|| rig.home.run(&words));
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{line}: {ended:?}");
    };
    for key in ["ExecStart", "ExecReload"] {
        execute(key);
        assert_eq!(rig.tcp("203.0.113.10:443"), "transparent 203.0.113.10:443", "{key}");
        assert!(rig.state().contains("dnat ip to 10.7.0.1:53"), "{key}: {}", rig.state());
    }
    execute("ExecStop");
    assert_eq!(rig.state(), untouched);
}

/// The command that a ruleset says it was written by.
fn head_of(ruleset: &str) -> Vec<&str> {
    let line = ruleset.lines().find_map(|line| line.strip_prefix("#   goanyway ")).unwrap();
    line.split_whitespace().collect()
}

/// It left the clients out, and was refused wherever no settings name them.
#[test]
fn the_command_in_the_head_of_a_ruleset_prints_it_again() {
    let home = home();
    let clients = "[admit]\nclients = [\"10.7.0.0/16\", \"fd07::/64\"]\n";
    std::fs::write(home.at("clients.toml"), clients).unwrap();
    let settings = home.at("clients.toml").display().to_string();
    let unadmitted = SUBNET.replace(" --client 10.7.0.0/16 --client fd07::/64", "");
    for mode in ["redirect", "tproxy"] {
        let line = format!("gateway print --mode {mode} --config {settings} {unadmitted}");
        let line: Vec<&str> = line.split_whitespace().collect();
        let printed = home.run(&line);
        assert_eq!((printed.code, printed.err.as_str()), (Some(0), ""), "{printed:?}");
        let again = home.run(&head_of(&printed.out));
        assert_eq!((again.code, again.err.as_str()), (Some(0), ""), "{again:?}");
        assert_eq!(again.out, printed.out, "{mode}");
    }
}

/// The samples under `deploy/nftables` say in their head how they were made; `GOANYWAY_BLESS=1` makes them anew.
#[test]
fn the_samples_are_what_print_prints() {
    let home = home();
    for sample in ["deploy/nftables/redirect.nft", "deploy/nftables/tproxy.nft"] {
        let kept = golden::promised(sample);
        let printed = home.run(&head_of(&kept));
        assert_eq!((printed.code, printed.err.as_str()), (Some(0), ""), "{printed:?}");
        golden::keeps(sample, &printed.out);
    }
}
