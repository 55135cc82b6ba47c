//! The status page before a real browser's eyes: Debian's Chromium, headless, driven by
//! `tests/browser/reader.mjs`.
//!
//! It loads, is brought up to date while a build goes on, says what is wrong and what to type, survives the
//! daemon's restart, asks nobody else, is free of console errors and of what axe-core complains of, in
//! light and dark and at 360 px. `npm ci --prefix tests/browser` fetches what drives it. With
//! `SHOTS=FOLDER` every look is kept as a picture.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "it/support/mod.rs"]
#[allow(dead_code, reason = "each test binary speaks a part of one vocabulary")]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use hickory_proto::op::ResponseCode;
use support::binary::{Beside, Home, Served, home};
use support::client::{connect, get, get_through};
use support::mirror::{Mirror, Mood};
use support::nameserver::{Nameserver, Says};
use support::needs::{find, have};
use support::origin::{Origin, text};

/// Somebody who looks at a page.
struct Reader {
    _child: Beside,
    tell: ChildStdin,
    hear: BufReader<ChildStdout>,
}

impl Reader {
    fn start() -> Reader {
        let mut command = Command::new("node");
        command.arg("reader.mjs").arg(find("chromium").unwrap());
        command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (tell, hear) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Reader { _child: Beside(child), tell, hear }
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.tell, "{line}").unwrap();
        let mut answer = String::new();
        assert!(self.hear.read_line(&mut answer).unwrap() > 0, "the reader ended at {line:?}");
        answer.trim_end().to_owned()
    }

    fn must(&mut self, line: &str) {
        assert_eq!(self.ask(line), "ok", "{line}");
    }

    /// Each of them is to be seen.
    fn sees(&mut self, lines: &[(&str, &str)]) {
        lines.iter().for_each(|(selector, text)| self.must(&format!("see {selector} {text}")));
    }
}

const MODULE: &str = "example.com/m";

/// A site whose name server denies the mirror, a second server that knows it, and the mirror.
struct Site {
    liar: Nameserver,
    honest: Nameserver,
    mirror: Mirror,
    git: Origin,
}

impl Site {
    async fn open() -> Site {
        let versions: Vec<String> = (0..12).map(|minor| format!("v1.{minor}.0")).collect();
        let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
        Site {
            liar: Nameserver::start(Says::Code(ResponseCode::NXDomain)).await,
            honest: Nameserver::start(Says::Address("127.0.0.1")).await,
            mirror: Mirror::of(MODULE, &versions).await,
            git: Origin::plain(|_| text(200, "hello")).await,
        }
    }

    fn serve(&self, home: &Home, admin: &str) -> Served {
        let port = self.mirror.origin.address.port();
        let (inside, outside) = (format!("udp://{}", self.liar.address), format!("udp://{}", self.honest.address));
        let upstream = format!("http://mirror.example:{port}");
        let (open, open_too) = (port.to_string(), self.git.address.port().to_string());
        home.spawn(home.goanyway(&[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            admin,
            "--nameserver",
            &inside,
            "--fallback",
            &outside,
            "--upstream",
            &upstream,
            "--allow-port",
            &open,
            "--allow-port",
            &open_too,
        ]))
    }
}

/// What a build of some versions asks of its proxy.
async fn build(proxy: SocketAddr, minors: std::ops::Range<u32>) {
    for minor in minors {
        for file in ["info", "mod", "zip"] {
            let answer = get(proxy, &format!("/{MODULE}/@v/v1.{minor}.0.{file}")).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_page_is_read_while_builds_come_and_go_and_things_break() {
    if !have("the_status_page", &["node", "chromium", "tests/browser/node_modules"]) {
        return;
    }
    let (site, home) = (Site::open().await, home());
    let served = site.serve(&home, "127.0.0.1:0");
    let admin = home.listeners("admin")[0].to_string();
    let mut reader = Reader::start();

    reader.must(&format!("open http://{admin}/"));
    reader.sees(&[
        ("#live", "live"),
        ("#verdict", "All is well"),
        ("#failures", "Nothing has failed"),
        ("#servers", "unused"),
    ]);
    reader.must("look idle");

    // A build goes on, through a lie: it is seen without a reload.
    build(served.address, 0..4).await;
    build(served.address, 0..4).await;
    let git = format!("git.example:{}", site.git.address.port());
    assert_eq!(connect(served.address, &git, None).await.0.status, 200);
    reader.sees(&[
        ("#requests", "example.com/m@v1.3.0 (zip)"),
        ("#requests", &git),
        ("#served", "from cache"),
        ("#rescues", "mirror.example"),
        ("#rescues", "had denied"),
        ("#mirrors", "up"),
        ("#verdict", "holding"),
    ]);
    reader.must("not #failures mirror.example");
    reader.must("look busy");

    // Nothing answers any more: what failed is told with what to type.
    site.mirror.becomes(Mood::Says(503));
    site.liar.change(Says::Silent);
    site.honest.change(Says::Silent);
    assert_eq!(get(served.address, &format!("/{MODULE}/@v/v1.9.0.zip")).await.status, 503);
    let (answer, _) = connect(served.address, "nowhere.example:443", None).await;
    assert!(answer.status >= 500, "{answer:?}");
    let (answer, _) = connect(served.address, "127.0.0.1:1", None).await;
    assert_eq!(answer.status, 403);
    let secret = format!("http://{git}/private/repo?token=s3cret");
    assert!(get_through(served.address, &secret).await.status >= 200);
    build(served.address, 0..2).await;
    reader.sees(&[
        ("#verdict", "In trouble"),
        ("#failures", "nowhere.example"),
        ("#failures", "503"),
        ("#servers", "no answer"),
        ("#mirrors", "down"),
    ]);
    assert_eq!(reader.ask("type #failures .do code"), "> goanyway resolve nowhere.example");
    reader.must("not body s3cret");
    reader.must("look trouble");

    // A restart at the same port: the page says that it is alone, and finds the new one by itself.
    reader.must("outage on");
    let address = served.address;
    drop(served);
    reader.must("see #live not reachable");
    reader.must("look lost");
    site.mirror.becomes(Mood::Healthy);
    site.liar.change(Says::Address("127.0.0.1"));
    let served = site.serve(&home, &admin);
    assert_ne!(served.address, address);
    build(served.address, 0..1).await;
    reader.sees(&[
        ("#live", "live"),
        ("#failures", "Nothing has failed"),
        ("#verdict", "All is well"),
        ("#house", &served.address.to_string()),
    ]);
    reader.must("outage off");
    reader.must("look restarted");
    reader.must("end");
}
