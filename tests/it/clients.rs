//! The clients that people have, with the settings that `goanyway env` prints: nothing is intercepted
//! but module hosts, and nothing notices us. What a machine lacks is skipped by name.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::authority::Authority;
use crate::support::binary::{Ended, Home, home, listing};
use crate::support::client::{connect, read_answer, read_head};
use crate::support::daemon::{Daemon, goanyway};
use crate::support::mirror::Mirror;
use crate::support::needs::have;
use crate::support::origin::{Origin, text};

/// A TLS origin under its own root that serves files by path, and a daemon that knows where it is.
pub struct Rig {
    pub origin: Origin,
    pub proxy: Daemon,
    pub home: Home,
    pub pem: PathBuf,
}

pub async fn rig(files: HashMap<String, Bytes>) -> Rig {
    let (authority, home) = (Authority::new(), home());
    let pem = home.at("real.pem");
    std::fs::write(&pem, authority.pem()).unwrap();
    let origin = Origin::tls_at("127.0.0.1:0", authority.server(&["origin.example"]), move |heard| {
        let path = heard.uri.trim_start_matches("https://");
        let path = path[path.find('/').unwrap_or(0)..].split('?').next().unwrap();
        let mut answer = files.get(path).map_or_else(|| text(404, "not here"), |bytes| text(200, bytes.clone()));
        // pip reads an index of no other type.
        answer.headers_mut().insert("content-type", http::HeaderValue::from_static("text/html"));
        answer
    })
    .await;
    let proxy = goanyway().knowing("origin.example", origin.address).start();
    Rig { origin, proxy, home, pem }
}

impl Rig {
    pub fn url(&self, path: &str) -> String {
        format!("https://origin.example:{}{path}", self.origin.address.port())
    }

    pub fn shell(&self, script: &str, variables: &[(&str, &str)]) -> Ended {
        shell(&self.home, &self.proxy, script, variables)
    }
}

/// A shell script after `eval "$(goanyway env)"`, in the user's folder, with these variables set before.
pub fn shell(home: &Home, proxy: &Daemon, script: &str, variables: &[(&str, &str)]) -> Ended {
    let listen = proxy.address().to_string();
    let env =
        format!("eval \"$('{}' env --listen {listen} --intercept mirror.example)\"", env!("CARGO_BIN_EXE_goanyway"));
    home.shell(&format!("{env}\n{script}"), variables)
}

/// Every file of a folder, at the path that a server of it has.
pub fn served(folder: &Path) -> HashMap<String, Bytes> {
    let path = |file: &Path| format!("/{}", file.strip_prefix(folder).unwrap().display());
    listing(folder).into_iter().map(|(file, bytes)| (path(&file), bytes.into())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_reaches_an_http_and_an_https_origin() {
    if !have("curl_reaches_an_http_and_an_https_origin", &["curl"]) {
        return;
    }
    let rig = rig(HashMap::from([("/hello".to_owned(), "hello over tls".into())])).await;
    let script = format!("curl -sS -x \"$HTTPS_PROXY\" {}", rig.url("/hello"));
    let ended = rig.shell(&script, &[("SSL_CERT_FILE", rig.pem.to_str().unwrap())]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "hello over tls"), "{ended:?}");
    // It speaks to the origin itself: our root alone is no reason to trust it.
    let ended = rig.shell(&format!("{script} --cacert ca.pem"), &[]);
    assert_ne!(ended.code, Some(0));

    let plain = Origin::plain(|_| text(200, "hello")).await;
    let proxy = goanyway().knowing("origin.example", plain.address).start();
    let script = format!("curl -sS http://origin.example:{}/", plain.address.port());
    let ended = shell(&rig.home, &proxy, &script, &[]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "hello"), "{ended:?}");
    let heard = plain.heard();
    assert!(heard[0].headers.contains_key("via") && !heard[0].headers.contains_key("proxy-authorization"), "{heard:?}");
}

/// `/repo.git`, with one file in it.
pub fn repository() -> HashMap<String, Bytes> {
    let made = home();
    let script = "git init -q work && cd work && echo hello > file && git add file \
                  && git -c user.name=a -c user.email=a@b commit -qm one \
                  && git clone -q --bare . ../srv/repo.git && git -C ../srv/repo.git update-server-info";
    let ended = made.shell(script, &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    served(&made.at("srv"))
}

#[tokio::test(flavor = "multi_thread")]
async fn git_clones_over_https() {
    if !have("git_clones_over_https", &["git"]) {
        return;
    }
    let rig = rig(repository()).await;
    // git's libcurl may be of any TLS library; this variable all of them follow.
    let pem = rig.pem.to_str().unwrap();
    let ended = rig.shell(&format!("git clone -q {} clone", rig.url("/repo.git")), &[("GIT_SSL_CAINFO", pem)]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(std::fs::read_to_string(rig.home.at("clone/file")).unwrap(), "hello\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn pip_downloads_from_an_index() {
    if !have("pip_downloads_from_an_index", &["pip"]) {
        return;
    }
    let rig = rig(index()).await;
    let script =
        format!("pip download -q --no-deps --no-cache-dir -d got --index-url {} hello==1.0", rig.url("/simple"));
    let variables = [("PIP_CERT", rig.pem.to_str().unwrap()), ("PIP_DISABLE_PIP_VERSION_CHECK", "1")];
    let ended = rig.shell(&script, &variables);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(std::fs::read(rig.home.at("got/hello-1.0-py3-none-any.whl")).unwrap(), wheel());
}

/// `/simple`, with one wheel.
pub fn index() -> HashMap<String, Bytes> {
    let page = "<!DOCTYPE html><html><body><a href=\"hello-1.0-py3-none-any.whl\">hello</a></body></html>";
    let files = [("/simple/hello/", page.into()), ("/simple/hello/hello-1.0-py3-none-any.whl", wheel().into())];
    files.map(|(path, bytes)| (path.to_owned(), bytes)).into()
}

fn wheel() -> Vec<u8> {
    use std::io::Write;
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, text) in [
        ("hello.py", ""),
        ("hello-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: hello\nVersion: 1.0\n"),
        ("hello-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
        ("hello-1.0.dist-info/RECORD", ""),
    ] {
        writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A registry at the root of its host, with one package.
pub fn registry() -> HashMap<String, Bytes> {
    let made = home();
    std::fs::create_dir(made.at("package")).unwrap();
    std::fs::write(made.at("package/package.json"), r#"{"name":"hello","version":"1.0.0"}"#).unwrap();
    let packed = Command::new("tar").args(["-czf", "hello.tgz", "package"]).current_dir(made.at(".")).status();
    assert!(packed.unwrap().success());
    let tarball = std::fs::read(made.at("hello.tgz")).unwrap();
    let url = "https://elsewhere.example/hello.tgz";
    let version = serde_json::json!({ "name": "hello", "version": "1.0.0", "dist": { "tarball": url } });
    let packument = serde_json::json!({
        "name": "hello", "dist-tags": { "latest": "1.0.0" }, "versions": { "1.0.0": version }
    });
    let files = [("/hello", packument.to_string().into()), ("/hello.tgz", tarball.into())];
    files.map(|(path, bytes)| (path.to_owned(), bytes)).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn npm_installs_from_a_registry() {
    if !have("npm_installs_from_a_registry", &["npm", "node", "tar"]) {
        return;
    }
    let rig = rig(registry()).await;
    let script = format!(
        "echo '{{}}' > package.json; npm install --no-audit --no-fund --no-update-notifier --fetch-retries 0 \
         --replace-registry-host always --cafile real.pem --registry {} hello@1.0.0",
        rig.url("/")
    );
    let ended = rig.shell(&script, &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(rig.home.at("node_modules/hello/package.json").is_file());
}

/// Who trusts what `env` and `/ca.pem` give meets our certificate on a module host, and takes it.
#[tokio::test(flavor = "multi_thread")]
async fn everybodys_tls_takes_our_leaf() {
    const MODULE: &str = "example.com/m";
    let authority = Authority::new();
    let mirror = Mirror::tls(authority.server(&["mirror.example"]), MODULE, &["v1.0.0"]).await;
    let home = home();
    std::fs::write(home.at("real.pem"), authority.pem()).unwrap();
    let target = format!("mirror.example:{}", mirror.origin.address.port());
    let proxy = goanyway()
        .with("goproxy.upstreams", &format!("https://{target}"))
        .with("fetch.extra_roots", home.at("real.pem").to_str().unwrap())
        .with("intercept.hosts", "mirror.example")
        .knowing("mirror.example", mirror.origin.address)
        .start();
    std::fs::write(home.at("ours.pem"), proxy.ca_pem()).unwrap();
    let url = format!("https://{target}/{MODULE}/@v/v1.0.0.mod");
    let python = format!("import urllib.request as r; print(r.urlopen('{url}').read().decode())");
    let clients = [
        ("curl", format!("curl -sS {url}")),
        ("python3", format!("python3 -c \"{python}\"")),
        ("node", format!("NODE_EXTRA_CA_CERTS=ours.pem node -e \"{}\"", node(&target, "/example.com/m/@v/v1.0.0.mod"))),
    ];
    for (client, script) in clients {
        if !have("everybodys_tls_takes_our_leaf", &[client]) {
            continue;
        }
        let ended = shell(&home, &proxy, &script, &[]);
        assert!(ended.code == Some(0) && ended.out.contains("module example.com/m"), "{client}: {ended:?}");
    }
    // All of them were served by us: none was tunnelled.
    assert!(mirror.asked("v1.0.0.mod") <= 1);
}

/// A CONNECT and a GET inside, as node programs with an agent do it.
fn node(target: &str, path: &str) -> String {
    format!(
        "const u = new URL(process.env.HTTPS_PROXY), auth = Buffer.from(u.username + ':' + u.password).toString('base64'); \
         require('http').request({{ host: u.hostname, port: u.port, method: 'CONNECT', path: '{target}', \
           headers: {{ 'Proxy-Authorization': 'Basic ' + auth }} }}).on('connect', (_, socket) => \
           require('https').get({{ socket, agent: false, servername: 'mirror.example', host: 'mirror.example', \
             path: '{path}', headers: {{ Host: '{target}' }} }}, answer => answer.pipe(process.stdout))).end()"
    )
}

/// RFC 6455, section 1.3: its own example of a handshake; then a frame each way, an echo and a close.
#[tokio::test]
async fn a_websocket_echoes_through_a_tunnel() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.starts_with("GET /chat HTTP/1.1\r\n"));
        let accept = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        stream.write_all(accept.as_bytes()).await.unwrap();
        loop {
            let (opcode, payload) = read_frame(&mut stream).await;
            stream.write_all(&[&[0x80 | opcode, payload.len() as u8], payload.as_slice()].concat()).await.unwrap();
            if opcode == CLOSE {
                return;
            }
        }
    });
    let proxy = goanyway().knowing("chat.example", address).start();
    let (answer, mut stream) = connect(proxy.address(), &format!("chat.example:{}", address.port()), None).await;
    assert_eq!(answer.status, 200, "{}", answer.reason);
    let hello = "GET /chat HTTP/1.1\r\nHost: chat.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    stream.write_all(hello.as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.status, 101);
    for (opcode, payload) in [(TEXT, b"hello".as_slice()), (TEXT, b""), (PING, b"are you there"), (CLOSE, &[3, 232])] {
        stream.write_all(&masked(opcode, payload)).await.unwrap();
        assert_eq!(read_frame(&mut stream).await, (opcode, payload.to_vec()));
    }
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "and both ends close");
}

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let body = payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    [0x80 | opcode, 0x80 | payload.len() as u8].into_iter().chain(MASK).chain(body).collect()
}

async fn read_frame(stream: &mut tokio::net::TcpStream) -> (u8, Vec<u8>) {
    let (first, length) = (stream.read_u8().await.unwrap(), stream.read_u8().await.unwrap());
    let mut mask = [0; 4];
    if length & 0x80 != 0 {
        stream.read_exact(&mut mask).await.unwrap();
    }
    let mut payload = vec![0; usize::from(length & 0x7f)];
    stream.read_exact(&mut payload).await.unwrap();
    (first & 0x0f, payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect())
}

/// 256 blocks of about 1 MiB each way at once, every one numbered: none is lost, doubled or out of place.
#[tokio::test(flavor = "multi_thread")]
async fn a_quarter_of_a_gigabyte_passes_whole_both_ways() {
    const BLOCKS: u64 = 256;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move { exchange(listener.accept().await.unwrap().0, BLOCKS).await });
    let proxy = goanyway().knowing("bulk.example", address).start();
    let (answer, stream) = connect(proxy.address(), &format!("bulk.example:{}", address.port()), None).await;
    assert_eq!(answer.status, 200, "{}", answer.reason);
    exchange(stream, BLOCKS).await;
    serving.await.unwrap();
}

/// Sends all blocks and checks those that come, at the same time; then there is an end.
async fn exchange(mut stream: tokio::net::TcpStream, blocks: u64) {
    // A prime, so that no buffer's size divides it.
    let mut filler = vec![0u8; 1_048_573];
    fastrand::Rng::with_seed(7).fill(&mut filler);
    let (mut from, mut to) = stream.split();
    let send = async {
        for number in 0..blocks {
            to.write_u64(number).await.unwrap();
            to.write_all(&filler).await.unwrap();
        }
        to.shutdown().await.unwrap();
    };
    let receive = async {
        let mut block = vec![0; filler.len()];
        for number in 0..blocks {
            assert_eq!(from.read_u64().await.unwrap(), number);
            from.read_exact(&mut block).await.unwrap();
            assert!(block == filler, "block {number} is not what was sent");
        }
        assert_eq!(from.read(&mut block).await.unwrap(), 0);
    };
    tokio::join!(send, receive);
}
