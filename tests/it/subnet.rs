//! On the build subnet: clients with no setting at all, behind a gateway that redirects them to us.

use std::net::SocketAddr;
use std::time::Duration;

use rustls::RootCertStore;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::authority::Authority;
use crate::support::binary::{Ended, home};
use crate::support::client::{handshake, read_answer, request, roots};
use crate::support::daemon::Daemon;
use crate::support::mirror::Mirror;
use crate::support::nameserver::{Nameserver, Says};
use crate::support::needs::have;
use crate::support::netns::{Hosted, Netns};
use crate::support::origin::{Origin, greeting, text};
use crate::support::subnet::{
    ATTACKER_AT, INSIDE_AT, LIAR_AT, MIRROR, MIRROR_AT, MIRROR_AT_V6, MODULE, NAMESERVER_AT, NOBODY_AT, Rules, Subnet,
    TRANSPARENT,
};

// The vocabulary.

pub const NEEDS: [&str; 3] = ["root", "ip", "nft"];
pub const WEB: &str = "80, 443";

/// `go mod download` in a client that trusts these roots and no others, with an empty module cache.
pub fn go_mod_download(client: &Netns, roots: &str) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let go_mod = format!("module example.com/main\n\ngo 1.20\n\nrequire {MODULE} v1.0.0\n");
    std::fs::write(at("go.mod"), go_mod).unwrap();
    std::fs::write(at("roots.pem"), roots).unwrap();
    let mut go = client.command("go");
    go.args(["mod", "download"]).current_dir(folder.path());
    for (variable, name) in [("HOME", "."), ("GOPATH", "go"), ("GOMODCACHE", "mod"), ("GOCACHE", "cache")] {
        go.env(variable, at(name));
    }
    go.env("SSL_CERT_FILE", at("roots.pem")).env("GOPROXY", format!("https://{MIRROR}"));
    go.env("GOFLAGS", "-mod=mod -modcacherw").env("GOTOOLCHAIN", "local").env("GOSUMDB", "off").env("GOENV", "off");
    Ended::of(go.output().unwrap())
}

pub fn passes(ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// How many redirected connections went on like this.
pub fn went(daemon: &Daemon, how: &str) -> u64 {
    counted(daemon, &format!("goanyway_subnet_connections_total{{outcome=\"{how}\"}} "))
}

pub fn shown(daemon: &Daemon, name: &str) -> u64 {
    counted(daemon, &format!("goanyway_subnet_names_total{{name=\"{name}\"}} "))
}

fn counted(daemon: &Daemon, line: &str) -> u64 {
    let text = daemon.metrics();
    text.lines().find_map(|own| own.strip_prefix(line)).map_or(0, |count| count.parse().unwrap())
}

pub async fn dial(to: &str) -> std::io::Result<TcpStream> {
    let dialing = TcpStream::connect(to.parse::<SocketAddr>().unwrap());
    tokio::time::timeout(Duration::from_secs(20), dialing).await.expect("no gateway took it")
}

/// All that comes back of this; a reset may come before the connection even stands.
async fn told(to: &str, says: &[u8]) -> Vec<u8> {
    let Ok(mut stream) = dial(to).await else { return Vec::new() };
    let _ = stream.write_all(says).await;
    rest(&mut stream).await
}

/// All that comes until the other side is done; a reset ends it too.
pub async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    let reading = stream.read_to_end(&mut heard);
    let _ = tokio::time::timeout(Duration::from_secs(60), reading).await.expect("neither an end nor a reset");
    heard
}

/// Asks for a server at an address, as a client that trusts these roots; what it answers.
pub async fn probe(to: &str, name: &str, path: &str, roots: RootCertStore) -> std::io::Result<String> {
    let mut stream = handshake(dial(to).await?, name, roots, &[b"http/1.1"]).await?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    Ok(request(&mut stream, &head).await.text())
}

/// The usual: a mirror, a name server that knows it, goanyway, rules.
pub struct Usual {
    pub subnet: Subnet,
    pub mirror: Hosted<Mirror>,
    pub daemon: Hosted<Daemon>,
    pub nameserver: Hosted<Nameserver>,
    _folder: TempDir,
}

fn usual(rules: Rules, ports: &str) -> Usual {
    usual_at(MIRROR_AT, rules, ports)
}

/// The same, with the mirror at its address of one family.
fn usual_at(at: &'static str, rules: Rules, ports: &str) -> Usual {
    let usual = unruled(at);
    usual.subnet.bring(rules, ports);
    usual
}

/// The same before there is any rule.
pub fn unruled(at: &'static str) -> Usual {
    let (subnet, folder) = (Subnet::new(), tempfile::tempdir().unwrap());
    let mirror = subnet.mirror(at);
    let nameserver = subnet.nameserver(NAMESERVER_AT, Says::Address(at));
    let daemon = subnet.start(subnet.goanyway(folder.path()));
    Usual { subnet, mirror, daemon, nameserver, _folder: folder }
}

// The promises.

#[test]
fn the_start_says_where_redirected_connections_are_taken() {
    let home = home();
    let served = home.serve(&["--transparent", "127.0.0.1:0"]);
    let address = home.listeners("transparent")[0];
    assert!(served.said.contains(&format!("  subnet    {address} (what a gateway redirects)\n")), "{}", served.said);
    let open = home.run(&["serve", "--transparent", "0.0.0.0:0"]);
    assert_eq!(open.code, Some(2));
    assert!(open.err.contains("--transparent 0.0.0.0:0 is open to the network") && open.err.contains("--client CIDR"));
}

fn builds_pass(rules: Rules, at: &'static str) {
    let usual = usual_at(at, rules, WEB);
    if at.contains(':') {
        // A client is one address to us: it must ask for names over the family that it comes by.
        usual.subnet.trusting.write("resolv.conf", "nameserver fd07::1\n");
    }
    builds_pass_with_the_ca_and_without(&usual);
}

pub fn builds_pass_with_the_ca_and_without(usual: &Usual) {
    let Usual { subnet, mirror, daemon, .. } = usual;
    // Nothing but our CA in its bundle: whatever it accepts came from us.
    passes(&go_mod_download(&subnet.trusting, &daemon.ca_pem()));
    assert!(went(daemon, "intercepted") > 0 && went(daemon, "straight") == 0, "{}", daemon.metrics());
    assert!(shown(daemon, "given") > 0, "our name server gave it that address");
    let asked = mirror.origin.heard().len();
    assert!(asked > 0);
    passes(&go_mod_download(&subnet.trusting, &daemon.ca_pem()));
    assert_eq!(mirror.origin.heard().len(), asked, "the second build is served from the cache");
    passes(&go_mod_download(&subnet.plain, subnet.authority.pem()));
    assert!(mirror.origin.heard().len() > asked, "a tunnel leads to the mirror itself");
    assert!(went(daemon, "straight") > 0, "{}", daemon.metrics());
}

#[test]
fn a_build_with_no_setting_passes_redirected() {
    if have("a_build_with_no_setting_passes_redirected", &[&NEEDS[..], &["go"]].concat()) {
        builds_pass(Rules::Redirect, MIRROR_AT);
    }
}

#[test]
fn a_build_with_no_setting_passes_redirected_over_ipv6() {
    if have("a_build_with_no_setting_passes_redirected_over_ipv6", &[&NEEDS[..], &["go"]].concat()) {
        builds_pass(Rules::Redirect, MIRROR_AT_V6);
    }
}

#[test]
fn a_build_with_no_setting_passes_by_tproxy() {
    if have("a_build_with_no_setting_passes_by_tproxy", &[&NEEDS[..], &["go"]].concat()) {
        builds_pass(Rules::Tproxy, MIRROR_AT);
    }
}

#[test]
fn a_build_with_no_setting_passes_by_tproxy_over_ipv6() {
    if have("a_build_with_no_setting_passes_by_tproxy_over_ipv6", &[&NEEDS[..], &["go"]].concat()) {
        builds_pass(Rules::Tproxy, MIRROR_AT_V6);
    }
}

#[test]
fn a_warm_build_needs_neither_mirror_nor_name_server() {
    if !have("a_warm_build_needs_neither_mirror_nor_name_server", &[&NEEDS[..], &["go"]].concat()) {
        return;
    }
    let Usual { subnet, mirror, daemon, nameserver, _folder } = usual(Rules::Redirect, WEB);
    passes(&go_mod_download(&subnet.trusting, &daemon.ca_pem()));
    drop((mirror, nameserver));
    passes(&go_mod_download(&subnet.trusting, &daemon.ca_pem()));
}

#[test]
fn a_resolver_that_lies_to_the_client_is_made_up_for() {
    if !have("a_resolver_that_lies_to_the_client_is_made_up_for", &[&NEEDS[..], &["go"]].concat()) {
        return;
    }
    let usual = usual(Rules::Redirect, WEB);
    // There the connection is refused, and at the next one nobody answers.
    let liar = usual.subnet.nameserver(LIAR_AT, Says::Address(ATTACKER_AT));
    for client in [&usual.subnet.plain, &usual.subnet.trusting] {
        client.write("resolv.conf", "nameserver 9.9.9.54\n");
    }
    passes(&go_mod_download(&usual.subnet.plain, usual.subnet.authority.pem()));
    let rescued = went(&usual.daemon, "rescued");
    assert!(rescued > 0, "{}", usual.daemon.metrics());
    liar.change(Says::Address(NOBODY_AT));
    passes(&go_mod_download(&usual.subnet.plain, usual.subnet.authority.pem()));
    assert!(went(&usual.daemon, "rescued") > rescued, "{}", usual.daemon.metrics());
    // A rescue is a tunnel, also for a client that would be intercepted.
    passes(&go_mod_download(&usual.subnet.trusting, usual.subnet.authority.pem()));
    assert_eq!(went(&usual.daemon, "intercepted"), 0);
}

#[test]
fn an_attacker_gets_its_own_bytes_told_and_nothing_kept() {
    if !have("an_attacker_gets_its_own_bytes_told_and_nothing_kept", &NEEDS) {
        return;
    }
    for rules in [Rules::Redirect, Rules::Tproxy] {
        let usual = usual(rules, WEB);
        let forger = Authority::new();
        let (tls, theirs) = (forger.server(&[MIRROR]), forger.roots());
        let attacker = usual.subnet.world.host(move || async move {
            let plain = Origin::plain_at("9.9.9.66:80", |_| text(200, "poison")).await;
            (Origin::tls_at("9.9.9.66:443", tls, |_| text(200, "poison")).await, plain)
        });
        let real = usual.subnet.authority.roots();
        let (forged, as_real) = usual.subnet.trusting.within(|| async {
            let to = format!("{ATTACKER_AT}:443");
            (probe(&to, MIRROR, "/probe", theirs).await, probe(&to, MIRROR, "/probe", real).await)
        });
        assert_eq!(forged.unwrap(), "poison", "with the attacker's own certificate");
        assert!(as_real.is_err(), "and nobody vouches for it");
        let path = format!("/{MODULE}/@v/v1.0.0.mod");
        let over_http = usual.subnet.trusting.within(|| async {
            let head = format!("GET {path} HTTP/1.1\r\nHost: {MIRROR}\r\nConnection: close\r\n\r\n");
            request(&mut dial(&format!("{ATTACKER_AT}:80")).await.unwrap(), &head).await.text()
        });
        assert_eq!(over_http, "poison");
        assert_eq!((attacker.0.heard().len(), attacker.1.heard().len()), (1, 1));
        for how in ["intercepted", "served", "rescued"] {
            assert_eq!(went(&usual.daemon, how), 0, "{how}");
        }
        assert!(shown(&usual.daemon, "foreign") >= 2, "{}", usual.daemon.metrics());
        assert_eq!(usual.mirror.origin.heard().len(), 0, "nothing was fetched on the attacker's account");
        // And whoever asks now gets the mirror's words.
        let ours = roots(&usual.daemon.ca_pem());
        let to = format!("{MIRROR_AT}:443");
        let honest = usual.subnet.trusting.within(|| probe(&to, MIRROR, &path, ours)).unwrap();
        assert!(honest.starts_with("module example.com/m"), "{honest}");
        assert_eq!(shown(&usual.daemon, "ours"), 1, "our own answer has that address");
    }
}

#[test]
fn an_internal_name_leads_nowhere_new() {
    if !have("an_internal_name_leads_nowhere_new", &NEEDS) {
        return;
    }
    let (subnet, folder) = (Subnet::new(), tempfile::tempdir().unwrap());
    let inside = subnet.world.host(|| async { Origin::plain_at("10.9.0.5:443", |_| text(200, "secret")).await });
    let inside_says = Box::new(Says::Address(INSIDE_AT));
    let _nameserver =
        subnet.nameserver(NAMESERVER_AT, Says::Split("corp.example", inside_says, Box::new(Says::Address(MIRROR_AT))));
    // A mirror of the site's own is a known name, and stays out of reach all the same.
    let wanted = subnet.goanyway(folder.path()).and("goproxy.upstreams", "https://athens.corp.example");
    let daemon = subnet.start(wanted);
    subnet.bring(Rules::Redirect, WEB);
    for name in ["git.corp.example", "athens.corp.example"] {
        for to in [format!("{ATTACKER_AT}:443"), format!("{NOBODY_AT}:443"), format!("{INSIDE_AT}:443")] {
            let reached = subnet.trusting.within(|| probe(&to, name, "/probe", subnet.authority.roots()));
            assert!(reached.is_err(), "{name} at {to}: {reached:?}");
        }
    }
    assert_eq!(inside.heard().len(), 0);
    assert_eq!(went(&daemon, "refused"), 2, "a private destination is closed to the subnet");
    assert_eq!((went(&daemon, "dead"), went(&daemon, "rescued")), (4, 0), "{}", daemon.metrics());
}

#[test]
fn a_server_that_speaks_first_is_not_kept_waiting() {
    if !have("a_server_that_speaks_first_is_not_kept_waiting", &NEEDS) {
        return;
    }
    let usual = usual(Rules::Redirect, "25, 80, 443, 2222");
    let _servers = usual.subnet.world.host(|| async {
        let mut servers = Vec::new();
        for at in ["9.9.9.66:25", "9.9.9.66:80", "9.9.9.66:443", "9.9.9.66:2222"] {
            servers.push(greeting(at, b"220 hello\r\n").await);
        }
        servers
    });
    for port in [25, 80, 443, 2222] {
        let heard = usual.subnet.plain.within(|| async {
            let mut stream = dial(&format!("{ATTACKER_AT}:{port}")).await.unwrap();
            let mut banner = [0; 11];
            // Not a byte from us until its greeting is here.
            let reading = stream.read_exact(&mut banner);
            tokio::time::timeout(Duration::from_secs(20), reading).await.expect("stalled").unwrap();
            stream.write_all(b"EHLO").await.unwrap();
            stream.shutdown().await.unwrap();
            [&banner[..], &rest(&mut stream).await].concat()
        });
        assert_eq!(heard, b"220 hello\r\nEHLO", "port {port}, and the answer after a half-close");
    }
    assert_eq!((went(&usual.daemon, "straight"), shown(&usual.daemon, "silent")), (4, 2));
}

#[test]
fn who_comes_by_itself_is_turned_away() {
    if !have("who_comes_by_itself_is_turned_away", &NEEDS) {
        return;
    }
    for rules in [Rules::Redirect, Rules::Tproxy] {
        let usual = usual(rules, WEB);
        for to in [format!("10.7.0.1:{TRANSPARENT}"), format!("[fd07::1]:{TRANSPARENT}")] {
            let heard = usual.subnet.trusting.within(|| told(&to, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert_eq!(heard, b"", "{to}");
        }
        assert_eq!(went(&usual.daemon, "direct"), 2, "{rules:?}");
        // From the world, which is no client's network.
        let heard = usual.subnet.world.within(|| told("9.9.9.254:3129", b"hello"));
        assert_eq!((heard, went(&usual.daemon, "stranger")), (Vec::new(), 1));
    }
}

#[test]
fn our_own_connection_that_comes_back_is_a_loop() {
    if !have("our_own_connection_that_comes_back_is_a_loop", &NEEDS) {
        return;
    }
    let usual = usual(Rules::Redirect, WEB);
    usual.subnet.gateway.nft(&format!(
        "table inet wrong {{
            chain outgoing {{
                type nat hook output priority -100
                oifname \"wan\" tcp dport {{ 80, 443 }} redirect to :{TRANSPARENT}
            }}
        }}"
    ));
    for port in [80, 443] {
        let to = format!("{MIRROR_AT}:{port}");
        let heard = usual.subnet.plain.within(|| told(&to, b""));
        assert_eq!(heard, b"");
    }
    assert_eq!(went(&usual.daemon, "loop"), 2, "each is found out the first time: {}", usual.daemon.metrics());
}

#[test]
fn a_hello_in_single_bytes_is_read_and_one_that_never_ends_is_passed_on() {
    if !have("a_hello_in_single_bytes_is_read_and_one_that_never_ends_is_passed_on", &NEEDS) {
        return;
    }
    let usual = usual(Rules::Redirect, WEB);
    let _echo = usual.subnet.world.host(|| greeting("9.9.9.66:443", b""));
    let hello = client_hello(MIRROR);
    let (echoed, answered) = usual.subnet.trusting.within(|| async {
        let mut endless = dial(&format!("{ATTACKER_AT}:443")).await.unwrap();
        endless.write_all(&hello[..hello.len() - 1]).await.unwrap();
        let mut whole = dial(&format!("{MIRROR_AT}:443")).await.unwrap();
        for byte in &hello {
            whole.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut answered = [0; 2];
        whole.read_exact(&mut answered[..1]).await.unwrap();
        // One that comes late is read all the same: meanwhile the mirror was dialled, and did not speak.
        let mut late = dial(&format!("{MIRROR_AT}:443")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        late.write_all(&hello).await.unwrap();
        late.read_exact(&mut answered[1..]).await.unwrap();
        let mut echoed = vec![0; hello.len() - 1];
        endless.read_exact(&mut echoed).await.unwrap();
        (echoed, answered)
    });
    assert_eq!(echoed, &hello[..hello.len() - 1], "every byte, after a while");
    assert_eq!(answered, [0x16, 0x16], "a ServerHello each");
    assert_eq!((shown(&usual.daemon, "unfinished"), shown(&usual.daemon, "ours")), (1, 2), "and it is ours");
}

fn client_hello(name: &str) -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = name.to_owned().try_into().unwrap();
    let mut bytes = Vec::new();
    rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn plain_http_is_judged_request_by_request() {
    if !have("plain_http_is_judged_request_by_request", &NEEDS) {
        return;
    }
    const PLAIN: &str = "mirror.example.com";
    let (subnet, folder) = (Subnet::new(), tempfile::tempdir().unwrap());
    let mirror = subnet.world.host(|| async { Mirror::at("9.9.9.9:80", MODULE, &["v1.0.0"]).await });
    let _nameserver = subnet.nameserver(NAMESERVER_AT, Says::Address(MIRROR_AT));
    let daemon = subnet.start(subnet.goanyway(folder.path()).with("goproxy.upstreams", &format!("http://{PLAIN}")));
    subnet.bring(Rules::Redirect, WEB);
    let path = format!("/{MODULE}/@v/v1.0.0.mod");
    let get = |host: &str, path: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    subnet.plain.within(|| async {
        let mut stream = dial(&format!("{MIRROR_AT}:80")).await.unwrap();
        for _ in 0..2 {
            let answer = request(&mut stream, &get(PLAIN, &path)).await;
            assert!(answer.text().starts_with("module example.com/m"), "{answer:?}");
            assert!(answer.header("cache-status").is_some(), "ours to answer: {answer:?}");
        }
        // One for somebody else goes on as it came, and so does all that follows on that connection.
        let heard = mirror.origin.heard().len();
        let answer = request(&mut stream, &get("other.example.com", &path)).await;
        assert!(answer.header("cache-status").is_none() && answer.header("via").is_none(), "{answer:?}");
        let last = mirror.origin.heard().pop().unwrap();
        assert_eq!(
            (mirror.origin.heard().len(), last.headers["host"].to_str().unwrap()),
            (heard + 1, "other.example.com")
        );
        let answer = request(&mut stream, &get(PLAIN, &path)).await;
        assert_eq!((answer.status, answer.header("cache-status")), (200, None));
        // What is no module request is the origin's, and what is no HTTP too.
        let mut stream = dial(&format!("{MIRROR_AT}:80")).await.unwrap();
        let answer = request(&mut stream, &get(PLAIN, "/index.html")).await;
        assert_eq!((answer.status, answer.header("via")), (404, None));
        let mut stream = dial(&format!("{MIRROR_AT}:80")).await.unwrap();
        stream.write_all(b"nonsense\n\r\n\r\n").await.unwrap();
        let answer = read_answer(&mut stream).await;
        assert_eq!((answer.status, answer.header("proxy-status")), (400, None), "the origin's own refusal");
    });
    assert_eq!((went(&daemon, "served"), went(&daemon, "straight")), (1, 3), "{}", daemon.metrics());
}

#[test]
fn curl_passes_over_both_families() {
    if !have("curl_passes_over_both_families", &[&NEEDS[..], &["curl"]].concat()) {
        return;
    }
    let (subnet, folder) = (Subnet::new(), tempfile::tempdir().unwrap());
    let tls = subnet.authority.server(&["files.example.com"]);
    let _origin = subnet.world.host(move || async move {
        let mut origins = Vec::new();
        for at in ["9.9.9.9", "[2a0a:e5c0:9::9]"] {
            origins.push(Origin::plain_at(&format!("{at}:80"), |_| text(200, "plain")).await);
            origins.push(Origin::tls_at(&format!("{at}:443"), tls.clone(), |_| text(200, "secure")).await);
        }
        origins
    });
    let _nameserver = subnet.nameserver(NAMESERVER_AT, Says::Addresses(&[MIRROR_AT, MIRROR_AT_V6]));
    let daemon = subnet.start(subnet.goanyway(folder.path()));
    subnet.bring(Rules::Redirect, WEB);
    let roots = folder.path().join("real.pem");
    for (family, url, body) in [
        ("-4", "http://files.example.com/", "plain"),
        ("-6", "http://files.example.com/", "plain"),
        ("-4", "https://files.example.com/", "secure"),
        ("-6", "https://files.example.com/", "secure"),
    ] {
        let mut curl = subnet.trusting.command("curl");
        curl.args(["-sS", "-m", "30", family, "--cacert"]).arg(&roots).arg(url);
        let ended = Ended::of(curl.output().unwrap());
        assert_eq!((ended.code, ended.out.as_str()), (Some(0), body), "{family} {url}: {ended:?}");
    }
    assert_eq!(went(&daemon, "straight"), 4);
}
