//! More of the clients that people have, each with one real transfer: what speaks HTTP/2, what is no HTTP
//! at all (git over ssh), package managers, runtimes and a browser. `clients.rs` has the rest.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tokio::net::TcpListener;

use crate::clients::{rig, served, shell};
use crate::support::binary::{Home, home};
use crate::support::daemon::goanyway;
use crate::support::needs::{find, have};
use crate::support::origin::{Origin, text};

/// Runs a script in a home of its own, which must succeed.
fn prepare(home: &Home, script: &str) {
    let ended = home.shell(script, &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_speaks_http_2_through_a_tunnel() {
    if !have("curl_speaks_http_2_through_a_tunnel", &["curl"]) {
        return;
    }
    let rig = rig(HashMap::from([("/hello".to_owned(), "hello over h2".into())])).await;
    let script = format!("curl -sS --http2 -w ' %{{http_version}}' --cacert real.pem {}", rig.url("/hello"));
    let ended = rig.shell(&script, &[]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "hello over h2 2"), "{ended:?}");
}

/// An OpenSSH server for each connection, as inetd would start it.
async fn sshd(home: &Home, program: PathBuf) -> SocketAddr {
    // Its own place to be locked up in, whatever its configuration says.
    std::fs::create_dir_all("/run/sshd").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (key, allowed) = (home.at("host"), home.at("user.pub"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stream = stream.into_std().unwrap();
            stream.set_nonblocking(false).unwrap();
            let (from, to) = (stream.try_clone().unwrap(), stream);
            let mut command = Command::new(&program);
            command.args(["-i", "-e", "-f", "/dev/null", "-h"]).arg(&key).arg("-o");
            command.arg(format!("AuthorizedKeysFile={}", allowed.display()));
            command.args(["-o", "StrictModes=no", "-o", "UsePAM=no", "-o", "PermitRootLogin=yes"]);
            command.stdin(OwnedFd::from(from)).stdout(OwnedFd::from(to)).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            tokio::task::spawn_blocking(move || child.wait());
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn git_clones_over_ssh_through_a_tunnel() {
    if !have("git_clones_over_ssh_through_a_tunnel", &["root", "git", "ssh", "sshd", "ssh-keygen", "nc"]) {
        return;
    }
    let home = home();
    prepare(
        &home,
        "git init -q work && cd work && echo hello > file && git add file \
         && git -c user.name=a -c user.email=a@b commit -qm one && cd .. && git clone -q --bare work repo.git \
         && ssh-keygen -q -t ed25519 -N '' -f host && ssh-keygen -q -t ed25519 -N '' -f user",
    );
    let server = sshd(&home, find("sshd").unwrap()).await;
    let proxy = goanyway().knowing("git.example", server).start();
    let ssh = "ssh -F none -i user -o IdentitiesOnly=yes -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no";
    let by_proxy = format!("-o 'ProxyCommand=nc -X connect -x {} %h %p'", proxy.address());
    let url = format!("ssh://root@git.example:{}{}", server.port(), home.at("repo.git").display());
    let script = format!("GIT_SSH_COMMAND=\"{ssh} {by_proxy}\" git clone -q {url} clone");
    let ended = shell(&home, &proxy, &script, &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(std::fs::read_to_string(home.at("clone/file")).unwrap(), "hello\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn apt_downloads_a_package() {
    if !have("apt_downloads_a_package", &["apt-get", "dpkg-deb", "sha256sum"]) {
        return;
    }
    let home = home();
    prepare(
        &home,
        "mkdir -p hello/DEBIAN srv state/lists/partial cache/archives/partial && cd hello
         printf 'Package: hello-apt\\nVersion: 1.0\\nArchitecture: all\\nMaintainer: a <a@b>\\nDescription: x\\n' \
           > DEBIAN/control
         cd ../srv && dpkg-deb --root-owner-group --build ../hello hello.deb > /dev/null
         { cat ../hello/DEBIAN/control; printf 'Filename: ./hello.deb\\nSize: %s\\nSHA256: %s\\n' \
           $(stat -c %s hello.deb) $(sha256sum hello.deb | cut -d' ' -f1); } > Packages",
    );
    let files = served(&home.at("srv"));
    let package = files["/hello.deb"].clone();
    let origin = Origin::plain(move |heard| match files.get(&heard.uri.replace("/./", "/")) {
        Some(bytes) => text(200, bytes.clone()),
        None => text(404, "not here"),
    })
    .await;
    let proxy = goanyway().knowing("deb.example", origin.address).start();
    std::fs::write(
        home.at("sources"),
        format!("deb [trusted=yes allow-insecure=yes] http://deb.example:{}/ ./\n", origin.address.port()),
    )
    .unwrap();
    let options = "-q -o Dir::Etc::SourceList=$PWD/sources -o Dir::Etc::SourceParts=/dev/null -o Dir::State=$PWD/state \
                   -o Dir::State::Status=/dev/null -o Dir::Cache=$PWD/cache -o APT::Sandbox::User=root";
    let script = format!("apt-get {options} update && apt-get {options} download hello-apt");
    let ended = shell(&home, &proxy, &script, &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(std::fs::read(home.at("hello-apt_1.0_all.deb")).unwrap(), package);
    assert!(origin.heard().iter().all(|heard| heard.headers.contains_key("via")), "all of it by us");
}

/// java.net.http speaks HTTP/2 inside its tunnel; its roots are in a store of its own.
#[tokio::test(flavor = "multi_thread")]
async fn javas_http_client_fetches() {
    if !have("javas_http_client_fetches", &["java", "keytool"]) {
        return;
    }
    let rig = rig(HashMap::from([("/hello".to_owned(), "hello, java".into())])).await;
    std::fs::write(rig.home.at("Fetch.java"), JAVA).unwrap();
    let script = format!(
        "keytool -importcert -noprompt -file real.pem -alias real -keystore roots.p12 -storepass changeit 2> /dev/null
         java -Djavax.net.ssl.trustStore=roots.p12 -Djavax.net.ssl.trustStorePassword=changeit Fetch.java {}",
        rig.url("/hello")
    );
    let ended = rig.shell(&script, &[]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "HTTP_2 200 hello, java"), "{ended:?}");
}

const JAVA: &str = r#"
import java.net.*;
import java.net.http.*;

public class Fetch {
    public static void main(String[] args) throws Exception {
        URI proxy = URI.create(System.getenv("HTTPS_PROXY"));
        HttpClient client = HttpClient.newBuilder()
            .proxy(ProxySelector.of(new InetSocketAddress(proxy.getHost(), proxy.getPort()))).build();
        HttpRequest request = HttpRequest.newBuilder(URI.create(args[0])).build();
        HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
        System.out.print(response.version() + " " + response.statusCode() + " " + response.body());
    }
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn pythons_requests_fetch() {
    if !have("pythons_requests_fetch", &["python3", "python3-requests"]) {
        return;
    }
    let rig = rig(HashMap::from([("/hello".to_owned(), "hello, requests".into())])).await;
    let script = format!("python3 -c \"import requests; print(requests.get('{}').text, end='')\"", rig.url("/hello"));
    let ended = rig.shell(&script, &[("REQUESTS_CA_BUNDLE", rig.pem.to_str().unwrap())]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "hello, requests"), "{ended:?}");
}

/// A browser: it asks for nothing but the page, trusts what NSS trusts, and prefers HTTP/2.
#[tokio::test(flavor = "multi_thread")]
async fn chromium_shows_a_page() {
    if !have("chromium_shows_a_page", &["chromium", "certutil"]) {
        return;
    }
    let rig = rig(HashMap::from([("/page".to_owned(), "<p>hello, chromium</p>".into())])).await;
    let plain = Origin::plain(|_| {
        let mut answer = text(200, "<p>hello, plainly</p>");
        answer.headers_mut().insert("content-type", http::HeaderValue::from_static("text/html"));
        answer
    })
    .await;
    let plainly = goanyway().knowing("origin.example", plain.address).start();
    let browse = |proxy: SocketAddr, url: &str| {
        let script = format!(
            "mkdir -p .pki/nssdb && certutil -d sql:.pki/nssdb -N --empty-password \
             && certutil -d sql:.pki/nssdb -A -n real -t C,, -i real.pem
             timeout -k 5 90 chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage \
               --disable-background-networking --no-first-run --user-data-dir=\"$PWD/chromium\" \
               --proxy-server=http://{proxy} --dump-dom {url} 2> said; rm -rf .pki chromium"
        );
        rig.shell(&script, &[])
    };
    let ended = browse(rig.proxy.address(), &rig.url("/page"));
    assert!(ended.out.contains("hello, chromium"), "{ended:?} {:?}", std::fs::read_to_string(rig.home.at("said")));
    // A URI in full is how HTTP/2 reads at the origin.
    assert!(rig.origin.heard().iter().any(|heard| heard.uri == rig.url("/page")), "{:?}", rig.origin.heard());
    let ended = browse(plainly.address(), &format!("http://origin.example:{}/", plain.address.port()));
    assert!(ended.out.contains("hello, plainly"), "{ended:?} {:?}", std::fs::read_to_string(rig.home.at("said")));
    assert!(plain.heard()[0].headers.contains_key("via"));
}
