//! The listener: over TLS, behind a load balancer, and for clients that want too much of it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::authority::Authority;
use crate::support::binary::{Home, home};
use crate::support::client::{get, handshake, raw, read_answer, request};
use crate::support::daemon::{Daemon, Wanted, goanyway};
use crate::support::mirror::Mirror;
use crate::support::needs::have;
use crate::support::origin::{Origin, echo, text};

/// A daemon whose listener speaks TLS, as `proxy.example`.
struct Rig {
    authority: Authority,
    proxy: Daemon,
    home: Home,
}

fn rig(change: impl FnOnce(Wanted, &dyn Fn(&str) -> String) -> Wanted) -> Rig {
    let (authority, home) = (Authority::new(), home());
    let at = |name: &str| home.at(name).display().to_string();
    show(&authority, &home.at("."));
    std::fs::write(home.at("root.pem"), authority.pem()).unwrap();
    let wanted = goanyway().with("listen_tls.cert", &at("cert.pem")).with("listen_tls.key", &at("key.pem"));
    let proxy = change(wanted, &at).start();
    Rig { authority, proxy, home }
}

/// Writes a new certificate of this authority where the listener reads its own.
fn show(authority: &Authority, folder: &Path) {
    let (chain, key) = authority.issue(&["proxy.example", "127.0.0.1"]);
    std::fs::write(folder.join("cert.pem"), chain).unwrap();
    std::fs::write(folder.join("key.pem"), key).unwrap();
}

impl Rig {
    async fn shake(&self, alpn: &[&[u8]]) -> tokio_rustls::client::TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.proxy.address()).await.unwrap();
        handshake(stream, "proxy.example", self.authority.roots(), alpn).await.unwrap()
    }
}

async fn connect_over<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, target: &str) -> u16 {
    request(stream, &format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await.status
}

/// Go offers h2 to the proxy and then speaks HTTP/1.1 whatever was chosen.
#[tokio::test]
async fn over_tls_a_tunnel_carries_both_ways_and_http_1_is_all_that_is_spoken() {
    let echo = echo().await;
    let rig = rig(|wanted, _| wanted.knowing("echo.example", echo));
    let mut stream = rig.shake(&[b"h2", b"http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(connect_over(&mut stream, &format!("echo.example:{}", echo.port())).await, 200);
    let sent = vec![7; 1 << 20];
    let (mut from, mut to) = tokio::io::split(stream);
    let mut heard = Vec::new();
    let sending = async {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    };
    tokio::join!(sending, async { from.read_to_end(&mut heard).await.unwrap() });
    assert!(heard == sent, "{} bytes of {}", heard.len(), sent.len());
}

#[tokio::test]
async fn plain_http_to_a_tls_port_is_told_so() {
    let rig = rig(|wanted, _| wanted);
    let heard = raw(rig.proxy.address(), b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    assert!(
        heard.starts_with("HTTP/1.1 400 goanyway: this port speaks TLS: its proxy URL begins with https://"),
        "{heard}"
    );
}

#[tokio::test]
async fn an_intercepted_host_is_served_within_two_layers_of_tls() {
    let mirrors = Authority::new();
    let mirror = Mirror::tls(mirrors.server(&["mirror.example"]), "example.com/m", &["v1.0.0"]).await;
    let target = format!("mirror.example:{}", mirror.origin.address.port());
    let rig = rig(|wanted, _| {
        wanted
            .with("goproxy.upstreams", &format!("https://{target}"))
            .trusting(&mirrors)
            .with("intercept.hosts", "mirror.example")
            .with("intercept.mode", "always")
            .knowing("mirror.example", mirror.origin.address)
    });
    let mut outer = rig.shake(&[]).await;
    assert_eq!(connect_over(&mut outer, &target).await, 200);
    let roots = crate::support::client::roots(&rig.proxy.ca_pem());
    let name = ServerName::try_from("mirror.example").unwrap();
    let mut inner =
        TlsConnector::from(Arc::new(trusting(roots).with_no_client_auth())).connect(name, outer).await.unwrap();
    let head = format!("GET /example.com/m/@v/v1.0.0.mod HTTP/1.1\r\nHost: {target}\r\n\r\n");
    assert_eq!(request(&mut inner, &head).await.status, 200);
}

fn trusting(roots: RootCertStore) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_root_certificates(roots)
}

#[tokio::test]
async fn where_clients_need_a_certificate_nobody_comes_in_without() {
    let rig = rig(|wanted, at| wanted.with("listen_tls.client_ca", &at("root.pem")));
    let name = || ServerName::try_from("proxy.example").unwrap();
    let stream = TcpStream::connect(rig.proxy.address()).await.unwrap();
    let without = trusting(rig.authority.roots()).with_no_client_auth();
    let refused = match TlsConnector::from(Arc::new(without)).connect(name(), stream).await {
        // In TLS 1.3 a client has finished before it is refused.
        Ok(mut stream) => stream.read(&mut [0]).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(refused.to_string().contains("CertificateRequired"), "{refused}");
    let (certificate, key) = rig.authority.client("a build");
    let with =
        trusting(rig.authority.roots()).with_client_auth_cert(vec![certificate], PrivateKeyDer::Pkcs8(key)).unwrap();
    let stream = TcpStream::connect(rig.proxy.address()).await.unwrap();
    let mut stream = TlsConnector::from(Arc::new(with)).connect(name(), stream).await.unwrap();
    assert_eq!(request(&mut stream, "GET /ca.pem HTTP/1.1\r\nHost: localhost\r\n\r\n").await.status, 200);
    assert!(rig.proxy.metrics().contains("accept_accepted_total{outcome=\"unshaken\"} 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_and_standing_connections_stay() {
    let rig = rig(|wanted, _| wanted);
    let shown = |stream: &tokio_rustls::client::TlsStream<TcpStream>| {
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let mut before = rig.shake(&[]).await;
    let first = shown(&before);
    // Half replaced: the key is not that certificate's. What stood before stands.
    let (chain, key) = rig.authority.issue(&["proxy.example"]);
    std::fs::write(rig.home.at("cert.pem"), chain).unwrap();
    std::fs::write(rig.home.at("key.pem"), key).unwrap();
    let begun = std::time::Instant::now();
    // Files are looked at once a second; the clock of the listener is the real one.
    while shown(&rig.shake(&[]).await) == first {
        assert!(begun.elapsed().as_secs() < 20, "never read again");
        tokio::task::yield_now().await;
    }
    let answer = request(&mut before, "GET /ca.pem HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(answer.status, 200);
}

#[test]
fn a_start_with_files_that_do_not_fit_says_which_and_why() {
    let home = home();
    std::fs::write(home.at("cert.pem"), "nothing").unwrap();
    let cert = home.at("cert.pem");
    let cert = cert.to_str().unwrap();
    let ended =
        home.run(&["serve", "--listen", "127.0.0.1:0", "--admin", "none", "--tls-cert", cert, "--tls-key", cert]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.err.contains("cert.pem was to be a private key in PEM"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_goes_through_an_https_proxy_url() {
    if !have("curl_goes_through_an_https_proxy_url", &["curl"]) {
        return;
    }
    let origin = Origin::plain(|_| text(200, "hello")).await;
    let rig = rig(|wanted, _| wanted.knowing("origin.example", origin.address));
    let url = format!("http://origin.example:{}/", origin.address.port());
    let proxy = format!("--proxy-cacert root.pem -x https://{}", rig.proxy.address());
    // Absolute form, then a tunnel.
    let ended = rig.home.shell(&format!("curl -sS {proxy} {url} && curl -sS -p {proxy} {url}"), &[]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "hellohello"), "{ended:?}");
    let ended = rig.home.shell(&format!("curl -sS {} {url}", proxy.replace("https:", "http:")), &[]);
    assert!(ended.out.contains("its proxy URL begins with https://"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn go_goes_through_an_https_proxy_url() {
    if !have("go_goes_through_an_https_proxy_url", &["go"]) {
        return;
    }
    let mirrors = Authority::new();
    let mirror = Mirror::tls(mirrors.server(&["mirror.example"]), "example.com/m", &["v1.0.0"]).await;
    let rig = rig(|wanted, _| wanted.knowing("mirror.example", mirror.origin.address));
    let both = format!("{}{}", rig.authority.pem(), mirrors.pem());
    std::fs::write(rig.home.at("both.pem"), both).unwrap();
    let proxy = format!("https://{}", rig.proxy.address());
    let goproxy = format!("https://mirror.example:{}", mirror.origin.address.port());
    let roots = rig.home.at("both.pem").display().to_string();
    let variables = [
        ("HTTPS_PROXY", proxy.as_str()),
        ("GOPROXY", &goproxy),
        ("SSL_CERT_FILE", &roots),
        ("GOSUMDB", "off"),
        ("GOTOOLCHAIN", "local"),
        ("GOFLAGS", "-modcacherw"),
    ];
    let ended = rig.home.shell("go mod download -json example.com/m@v1.0.0", &variables);
    assert!(ended.code == Some(0) && ended.out.contains("v1.0.0"), "{ended:?}");
    assert!(mirror.asked("v1.0.0.zip") > 0 && rig.proxy.metrics().contains("decision=\"admitted\"}"));
}

/// Announces a client to a listener, as a load balancer does.
async fn announced(proxy: SocketAddr, header: &[u8], request: &str) -> String {
    raw(proxy, &[header, request.as_bytes()].concat()).await
}

#[tokio::test]
async fn behind_a_load_balancer_the_client_that_it_names_is_judged() {
    let proxy = goanyway().with("accept.proxy_protocol", "127.0.0.1").with("admit.clients", "10.7.0.0/16").start();
    let head = "GET /ca.pem HTTP/1.1\r\nHost: proxy.corp.example\r\nConnection: close\r\n\r\n";
    let heard = announced(proxy.address(), b"PROXY TCP4 10.7.0.3 10.7.0.1 4711 3128\r\n", head).await;
    assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
    let heard = announced(proxy.address(), b"PROXY TCP4 10.8.0.3 10.7.0.1 4711 3128\r\n", head).await;
    assert!(heard.starts_with("HTTP/1.1 403") && heard.contains("--client 10.8.0.3"), "{heard}");
    let v2 = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[10, 7, 0, 3, 10, 7, 0, 1, 1, 1, 2, 2]].concat();
    assert!(announced(proxy.address(), &v2, head).await.starts_with("HTTP/1.1 200"));
    let heard =
        announced(proxy.address(), b"PROXY UNKNOWN\r\n", &head.replace("proxy.corp.example", "localhost")).await;
    assert!(heard.starts_with("HTTP/1.1 200"), "the balancer itself: {heard}");
    assert_eq!(announced(proxy.address(), b"", head).await, "", "it must say for whom it speaks");
    assert!(proxy.metrics().contains("accept_accepted_total{outcome=\"unannounced\"} 1"));
}

/// What anybody could write must not make a client of them.
#[tokio::test]
async fn nobody_else_is_believed_about_whom_they_speak_for() {
    let proxy = goanyway().with("accept.proxy_protocol", "10.7.0.1").start();
    let head = "GET /ca.pem HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(announced(proxy.address(), b"", head).await.starts_with("HTTP/1.1 200"));
    let heard = announced(proxy.address(), b"PROXY TCP4 127.0.0.1 10.7.0.1 4711 3128\r\n", head).await;
    assert!(heard.starts_with("HTTP/1.1 400"), "{heard}");
}

#[tokio::test]
async fn a_client_with_too_many_connections_is_told_so() {
    let proxy = goanyway()
        .with("accept.proxy_protocol", "127.0.0.1")
        .with("admit.clients", "10.7.0.0/16")
        .with("admit.per_client", "2")
        .start();
    let announce = async |client: &str| {
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(format!("PROXY TCP4 {client} 10.7.0.1 4711 3128\r\n").as_bytes()).await.unwrap();
        stream.write_all(b"GET /ca.pem HTTP/1.1\r\nHost: proxy\r\n\r\n").await.unwrap();
        let answer = read_answer(&mut stream).await;
        (answer, stream)
    };
    let held = [announce("10.7.0.3").await, announce("10.7.0.3").await];
    assert!(held.iter().all(|(answer, _)| answer.status == 200));
    let (answer, _) = announce("10.7.0.3").await;
    assert_eq!((answer.status, answer.header("connection")), (429, Some("close")));
    assert!(answer.text().contains("admit.per_client"), "{}", answer.text());
    assert_eq!(announce("10.7.0.4").await.0.status, 200, "others come in");
}

/// The limit is lowered under a daemon that runs, to what it has open and a little.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn out_of_files_it_waits_and_recovers() {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let home = home();
    let served = home.serve(&["--parent", "none"]);
    let pid = Pid::from_raw(served.pid().try_into().unwrap()).unwrap();
    // Every worker has answered, so all that it opens at its start is open.
    for _ in 0..32 {
        assert_eq!(get(served.address, "/ca.pem").await.status, 200);
    }
    let limit = |most: u64| Rlimit { current: Some(most), maximum: getrlimit(Resource::Nofile).maximum };
    let open = || std::fs::read_dir(format!("/proc/{}/fd", served.pid())).unwrap().count() as u64;
    let raised = prlimit(Some(pid), Resource::Nofile, limit(open() + 6)).unwrap();
    assert_eq!(raised.current, raised.maximum, "the soft limit was raised to the hard one");
    let held = futures_util::future::join_all((0..40).map(|_| TcpStream::connect(served.address))).await;
    assert!(held.iter().all(Result::is_ok), "the others wait in the kernel");
    // Nothing is left for this one until those leave.
    let waiting = tokio::spawn({
        let address = served.address;
        async move { get(address, "/ca.pem").await }
    });
    drop(held);
    let got = waiting.await;
    served.tell_to_stop();
    let (code, said) = served.ended();
    assert_eq!(got.map(|answer| answer.status).ok(), Some(200), "{said}");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("raise the limit of open files").count(), 1, "{said}");
}
