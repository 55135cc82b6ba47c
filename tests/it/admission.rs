//! Who may use the proxy and where it goes for them: DESIGN.md section 8, row by row.

use std::net::SocketAddr;

use base64::Engine;

use crate::support::client::{get, raw, request};
use crate::support::daemon::{Daemon, Wanted, goanyway};
#[cfg(target_os = "linux")]
use crate::support::nameserver::{Nameserver, Says};
#[cfg(target_os = "linux")]
use crate::support::needs::have;
#[cfg(target_os = "linux")]
use crate::support::netns::Netns;
use crate::support::origin::{Origin, echo, text};

/// A daemon with the rules of nobody's making.
fn strict() -> Wanted {
    goanyway().with("admit.allow", "203.0.113.0/24")
}

async fn refusal(proxy: &Daemon, target: &str) -> String {
    let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    let heard = raw(proxy.address(), head.as_bytes()).await;
    heard.lines().next().unwrap_or_default().trim_start_matches("HTTP/1.1 ").to_owned()
}

#[tokio::test]
async fn special_addresses_are_refused_in_every_spelling_with_the_flag_that_would_open_them() {
    let proxy = strict().start();
    let table = [
        ("127.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("0X7F.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("0", "0.0.0.0"),
        ("[::1]", "::1"),
        ("[::]", "::"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("[::ffff:127.0.0.1]", "127.0.0.1"),
        ("[::FFFF:7F00:1]", "127.0.0.1"),
        ("[::127.0.0.1]", "::7f00:1"),
        ("[64:ff9b::7f00:1]", "64:ff9b::7f00:1"),
        ("[64:ff9b:1::7f00:1]", "64:ff9b:1::7f00:1"),
        ("[2002:7f00:1::]", "2002:7f00:1::"),
        ("[2001:0:4136:e378:8000:63bf:80ff:fffe]", "2001:0:4136:e378:8000:63bf:80ff:fffe"),
        ("169.254.1.1", "169.254.1.1"),
        ("[fe80::1]", "fe80::1"),
        ("[fec0::1]", "fec0::1"),
        ("[ff02::1]", "ff02::1"),
        ("100.64.0.1", "100.64.0.1"),
        ("192.0.0.1", "192.0.0.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("198.18.0.1", "198.18.0.1"),
        ("198.51.100.1", "198.51.100.1"),
        ("224.0.0.1", "224.0.0.1"),
        ("240.0.0.1", "240.0.0.1"),
        ("255.255.255.255", "255.255.255.255"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[100::1]", "100::1"),
    ];
    for (spelling, address) in table {
        let said = refusal(&proxy, &format!("{spelling}:443")).await;
        assert!(said.starts_with("403 goanyway: "), "{spelling}: {said}");
        assert!(said.contains(&format!("--allow-target {address} [")), "{spelling}: {said}");
    }
}

#[tokio::test]
async fn metadata_is_out_of_reach_even_where_everything_is_opened() {
    let proxy = strict().with("admit.allow", "0.0.0.0/0").and("admit.allow", "::/0").start();
    for target in [
        "169.254.169.254",
        "0xa9fea9fe",
        "2852039166",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "[fd00:ec2::254]",
        "metadata.google.internal",
        "METADATA.google.internal.",
        "metadata.goog",
    ] {
        let said = refusal(&proxy, &format!("{target}:443")).await;
        assert!(said.starts_with("403 goanyway: cloud metadata"), "{target}: {said}");
    }
}

/// RFC 7050: where a network has IPv6 alone, what lies in the prefix of its NAT64 is where that leads.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_the_prefix_of_this_networks_nat64_is_judged_by_what_it_carries() {
    if !have("an_address_in_the_prefix_of_this_networks_nat64_is_judged_by_what_it_carries", &["root", "ip"]) {
        return;
    }
    let (network, router) = (Netns::with_resolv_conf(""), Netns::with_resolv_conf(""));
    network.connect("eth0", &["2a0a:e5c0:9::2/64"], &router, "eth0", &["2a0a:e5c0:9::1/64"]);
    network.ip(&["-6", "route", "add", "default", "via", "2a0a:e5c0:9::1"]);
    // Nobody is there; that is known at once.
    network.ip(&["-6", "route", "add", "unreachable", "2a0a:e5c0:64::/96"]);
    let says = Says::Under("ipv4only.arpa", "2a0a:e5c0:64::c000:aa");
    let _nameserver = network.host(move || async move { Nameserver::at("[::1]:53", says).await });
    let wanted = strict().with("resolve.nameservers", "udp://[::1]:53");
    let proxy = network.host(move || async move { wanted.start() });
    let ask = |target: &'static str| network.within(|| refusal(&proxy, target));
    for (target, said) in [
        ("[2a0a:e5c0:64::7f00:1]:443", "403 goanyway: 127.0.0.1 is a loopback address"),
        ("[2a0a:e5c0:64::a9fe:a9fe]:443", "403 goanyway: cloud metadata"),
        ("[2a0a:e5c0:64::a9fe:101]:443", "403 goanyway: 169.254.1.1 is a link-local address"),
        ("[2a0a:e5c0:64::808:808]:443", "502 goanyway: cannot connect to [2a0a:e5c0:64::808:808]:443"),
        // Another prefix is nobody's but its own.
        ("[2a0a:e5c0:65::7f00:1]:443", "50"),
    ] {
        let heard = ask(target);
        assert!(heard.starts_with(said), "{target}: {heard}");
    }
}

/// Rebinding: the name is judged by each address that it has now, and that address is dialled.
#[tokio::test]
async fn a_name_that_leads_inwards_is_refused_as_its_address_is() {
    let proxy = strict()
        .with("resolve.hosts", "inward.example=127.0.0.1")
        .and("resolve.hosts", "cloud.example=169.254.169.254")
        .start();
    let said = refusal(&proxy, "inward.example:443").await;
    assert!(said.starts_with("403 ") && said.contains("--allow-target 127.0.0.1"), "{said}");
    let said = refusal(&proxy, "cloud.example:443").await;
    assert!(said.starts_with("403 goanyway: cloud metadata"), "{said}");
    let heard = raw(
        proxy.address(),
        b"GET http://inward.example/ HTTP/1.1\r\nHost: inward.example\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(heard.starts_with("HTTP/1.1 403"), "{heard}");
}

#[tokio::test]
async fn ports_are_the_usual_ones_and_are_written_in_one_way() {
    let proxy = strict().start();
    for (target, words) in [
        ("a.example:25", "403 goanyway: port 25 is not open through this proxy; allow: --allow-port 25"),
        ("a.example:80", "403 goanyway: port 80 is not open"),
        ("a.example:65616", "400 "),
        ("a.example:+443", "400 "),
        ("a.example:443x", "400 "),
        ("a.example:", "400 "),
        ("a.example:0", "400 "),
        ("a.example", "400 "),
        ("u@a.example:443", "400 "),
        ("[fe80::1%25eth0]:443", "400 "),
    ] {
        let said = refusal(&proxy, target).await;
        assert!(said.starts_with(words), "{target}: {said}");
    }
    for port in [443, 25] {
        let head =
            format!("GET http://a.example:{port}/ HTTP/1.1\r\nHost: a.example:{port}\r\nConnection: close\r\n\r\n");
        let heard = raw(proxy.address(), head.as_bytes()).await;
        assert!(heard.starts_with("HTTP/1.1 403") && heard.contains(&format!("--allow-port {port}")), "{heard}");
    }
}

/// Opened in every way that there is, they stay closed.
#[tokio::test]
async fn our_own_listeners_are_never_dialled() {
    let free = |address: &str| std::net::TcpListener::bind(address).unwrap().local_addr().unwrap().port();
    let (listen, admin) = (free("0.0.0.0:0"), free("127.0.0.1:0"));
    let proxy = goanyway()
        .with("listen", &format!("0.0.0.0:{listen}"))
        .with("admin.listen", &format!("127.0.0.1:{admin}"))
        .with("admit.clients", "10.7.0.0/16")
        .with("admit.ports", &listen.to_string())
        .and("admit.ports", &admin.to_string())
        .with("admit.allow", "0.0.0.0/0")
        .with("resolve.hosts", "inward.example=127.0.0.1")
        .start();
    for host in ["127.0.0.1", "0.0.0.0", "127.1", "0", "[::ffff:127.0.0.1]", "inward.example"] {
        for port in [listen, admin] {
            let said = refusal(&proxy, &format!("{host}:{port}")).await;
            assert!(said.starts_with("403 goanyway: this proxy does not connect to itself"), "{host}:{port}: {said}");
        }
    }
    // The proxy is on all addresses, the admin port on one.
    let said = refusal(&proxy, &format!("127.0.0.9:{listen}")).await;
    assert!(said.starts_with("403 goanyway: this proxy does not connect to itself"), "{said}");
}

/// A file of users: alice, whose password is s3cret.
pub fn users(folder: &std::path::Path) -> String {
    users_of_cost(folder, 4)
}

/// The same, where each guess costs so much (bcrypt).
fn users_of_cost(folder: &std::path::Path, cost: u32) -> String {
    let hash = bcrypt::hash_with_salt("s3cret", cost, [7; 16]).unwrap().format_for_version(bcrypt::Version::TwoY);
    let path = folder.join("users");
    std::fs::write(&path, format!("alice:{hash}\n")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, mode).unwrap();
    path.display().to_string()
}

pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

async fn connect_as(proxy: SocketAddr, target: &str, authorization: Option<&str>) -> crate::support::client::Answer {
    let mut stream = tokio::net::TcpStream::connect(proxy).await.unwrap();
    let field = authorization.map(|value| format!("Proxy-Authorization: {value}\r\n")).unwrap_or_default();
    request(&mut stream, &format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{field}\r\n")).await
}

#[tokio::test]
async fn whoever_is_no_user_is_challenged_and_a_user_is_let_in() {
    let (echo, folder) = (echo().await, tempfile::tempdir().unwrap());
    let proxy = goanyway().with("admit.credentials", &users(folder.path())).knowing("echo.example", echo).start();
    let target = format!("echo.example:{}", echo.port());
    for wrong in [None, Some("Bearer x".to_owned()), Some(basic("alice", "wrong")), Some(basic("bob", "s3cret"))] {
        let answer = connect_as(proxy.address(), &target, wrong.as_deref()).await;
        assert_eq!((answer.status, answer.header("connection")), (407, Some("close")), "{wrong:?}");
        assert_eq!(answer.header("proxy-authenticate"), Some("Basic realm=\"goanyway\""));
    }
    // Twice: worked out, then remembered.
    for user in ["alice", "alice", "alice+ca-1a2b3c4d"] {
        assert_eq!(connect_as(proxy.address(), &target, Some(&basic(user, "s3cret"))).await.status, 200, "{user}");
    }
}

/// Passwords were hashed first come, first served: on a client's many connections guesses stood in a row, and whoever
/// had the right one behind them.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_guesses_passwords_keeps_nobody_else_waiting() {
    const GUESSES: usize = 24;
    let (echo, folder) = (echo().await, tempfile::tempdir().unwrap());
    let users = users_of_cost(folder.path(), 8);
    let proxy = goanyway().with("admit.credentials", &users).knowing("echo.example", echo).start();
    let (address, target) = (proxy.address(), format!("echo.example:{}", echo.port()));
    let (told, mut answers) = tokio::sync::mpsc::unbounded_channel();
    for guess in 0..GUESSES {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let field = format!("Proxy-Authorization: {}\r\n", basic("alice", &guess.to_string()));
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{field}\r\n");
        let told = told.clone();
        tokio::spawn(async move { told.send(request(&mut stream, &head).await.status) });
    }
    // One was found wrong; the others stand in a row.
    assert_eq!(answers.recv().await, Some(407));
    assert_eq!(connect_as(address, &target, Some(&basic("alice", "s3cret"))).await.status, 200);
    let before = 1 + std::iter::from_fn(|| answers.try_recv().ok()).count();
    assert!(before < GUESSES / 2, "{before} guesses came before the right one");
}

#[tokio::test]
async fn in_origin_form_a_user_is_named_as_to_any_server() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = goanyway().with("admit.credentials", &users(folder.path())).start();
    let answer = get(proxy.address(), "/ca.pem").await;
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Basic realm=\"goanyway\"")));
    for field in ["Authorization", "Proxy-Authorization"] {
        let mut stream = tokio::net::TcpStream::connect(proxy.address()).await.unwrap();
        let head = format!("GET /ca.pem HTTP/1.1\r\nHost: localhost\r\n{field}: {}\r\n\r\n", basic("alice", "s3cret"));
        stream.writable().await.unwrap();
        assert_eq!(request(&mut stream, &head).await.status, 200, "{field}");
    }
}

#[tokio::test]
async fn what_a_client_says_to_us_no_origin_hears() {
    let (origin, folder) = (Origin::plain(|_| text(200, "hello")).await, tempfile::tempdir().unwrap());
    let proxy =
        goanyway().with("admit.credentials", &users(folder.path())).knowing("origin.example", origin.address).start();
    let mut stream = tokio::net::TcpStream::connect(proxy.address()).await.unwrap();
    let authority = format!("origin.example:{}", origin.address.port());
    let head = format!(
        "GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: {}\r\n\r\n",
        basic("alice", "s3cret")
    );
    assert_eq!(request(&mut stream, &head).await.status, 200);
    assert!(!origin.heard()[0].headers.contains_key("proxy-authorization"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_is_taken_out_of_the_file_is_out() {
    let (echo, folder) = (echo().await, tempfile::tempdir().unwrap());
    let path = users(folder.path());
    let proxy = goanyway().with("admit.credentials", &path).knowing("echo.example", echo).start();
    let target = format!("echo.example:{}", echo.port());
    let alice = basic("alice", "s3cret");
    assert_eq!(connect_as(proxy.address(), &target, Some(&alice)).await.status, 200);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("alice", "robert")).unwrap();
    let begun = std::time::Instant::now();
    while connect_as(proxy.address(), &target, Some(&alice)).await.status == 200 {
        assert!(begun.elapsed().as_secs() < 20, "never read again");
    }
    assert_eq!(connect_as(proxy.address(), &target, Some(&basic("robert", "s3cret"))).await.status, 200);
}
