//! Under attack, in small: what is slow or idle keeps nobody waiting, and a want of open files is waited out.
//! `examples/siege.rs` is the same in large, with the times.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::binary::home;
use crate::support::client::{connect, get, get_through, request};
use crate::support::daemon::goanyway;
use crate::support::origin::{Origin, echo, text};

/// Against hangs only: far beyond what anything here takes.
const AT_MOST: Duration = Duration::from_secs(60);

/// Sends these bytes at the pace of one in 50 ms, for as long as the other side listens.
async fn dribble(mut stream: TcpStream, bytes: Vec<u8>) {
    for byte in bytes {
        if stream.write_all(&[byte]).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// 100 tunnels that say nothing; 66 heads, 66 bodies and 66 hellos that come by the byte.
#[tokio::test(flavor = "multi_thread")]
async fn the_slow_and_the_idle_keep_nobody_waiting() {
    let (echo, page) = (echo().await, Origin::plain(|_| text(200, "served")).await);
    let proxy = goanyway()
        .with("intercept.hosts", "mirror.example")
        .knowing("mirror.example", page.address)
        .and("admit.ports", &echo.port().to_string())
        .start();
    let (to, url) = (proxy.address(), format!("http://{}/", page.address));
    let mut idle = Vec::new();
    for _ in 0..100 {
        let (answer, stream) = connect(to, &echo.to_string(), None).await;
        assert_eq!(answer.status, 200, "{}", answer.reason);
        idle.push(stream);
    }
    let mut slow = tokio::task::JoinSet::new();
    let filler = vec![b'x'; 2000];
    for _ in 0..66 {
        let head = format!("GET {url} HTTP/1.1\r\nHost: a\r\nX: ").into_bytes();
        slow.spawn(dribble(TcpStream::connect(to).await.unwrap(), [head, filler.clone()].concat()));
        let mut body = TcpStream::connect(to).await.unwrap();
        body.write_all(format!("POST {url} HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n").as_bytes())
            .await
            .unwrap();
        slow.spawn(dribble(body, filler.clone()));
        let target = format!("mirror.example:{}", page.address.port());
        let (answer, hello) = connect(to, &target, Some("ca")).await;
        assert_eq!(answer.status, 200, "{}", answer.reason);
        slow.spawn(dribble(hello, [b"\x16\x03\x01\x08\x00\x01\x00\x07\xfc".to_vec(), filler.clone()].concat()));
    }
    for _ in 0..50 {
        let answer = timeout(AT_MOST, get_through(to, &url)).await.expect("it is served");
        assert_eq!((answer.status, answer.text().as_str()), (200, "served"));
    }
    for stream in &mut idle {
        stream.write_all(b"x").await.unwrap();
        assert_eq!(timeout(AT_MOST, stream.read_u8()).await.expect("the idle are there").unwrap(), b'x');
    }
    slow.shutdown().await;
    let metrics = proxy.metrics();
    assert!(!metrics.contains("outcome=\"exhausted\""), "{metrics}");
}

/// With no file left to open, others wait in the kernel's queue. It is said once, nothing spins, and
/// whoever waited is served when there are files again.
#[tokio::test(flavor = "multi_thread")]
async fn a_want_of_files_is_waited_out() {
    let page = Origin::plain(|_| text(200, "served")).await;
    let (home, port) = (home(), page.address.port().to_string());
    let mut served = home.serve(&["--allow-port", &port, "--intercept-mode", "off"]);
    let pid = Pid::from_raw(served.pid().try_into().unwrap()).unwrap();
    let files = || std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap().count() as u64;
    // Only the soft limit: what is the hard one could not be raised again.
    let usual = getrlimit(Resource::Nofile);
    let limit = |current| prlimit(Some(pid), Resource::Nofile, Rlimit { current, ..usual }).unwrap();
    let url = format!("http://{}/", page.address);
    assert_eq!(get_through(served.address, &url).await.status, 200);
    limit(Some(files() + 4));
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.push(TcpStream::connect(served.address).await.unwrap());
    }
    tokio::task::block_in_place(|| served.hear("cannot accept connections"));
    let begun = std::time::Instant::now();
    let waiting = tokio::spawn(async move { get_through(served.address, &url).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished(), "nobody can be served yet");
    drop(crowd);
    let answer = timeout(AT_MOST, waiting).await.expect("whoever waited is served").unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    limit(usual.maximum);
    let elapsed = begun.elapsed();

    let metrics = get(home.listeners("admin")[0], "/metrics").await.text();
    let failed =
        metrics.lines().find_map(|line| line.strip_prefix("goanyway_accept_accepted_total{outcome=\"exhausted\"} "));
    let failed: u128 = failed.unwrap().parse().unwrap();
    // One in 100 ms for each listener, one for each at the start, and what came before the clock was read.
    let listeners = std::thread::available_parallelism().unwrap().get() as u128;
    assert!(failed <= (elapsed.as_millis() / 100 + 10) * listeners, "{failed} in {elapsed:?}: it spins");
    served.tell_to_stop();
    let (code, rest) = served.ended();
    assert_eq!(code, Some(0), "{rest}");
    assert!(!rest.contains("cannot accept connections"), "said once a minute: {rest}");
}

/// Connections that were kept to servers had no place in the house, and took the files that clients come in by.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_kept_leave_the_files_to_clients() {
    const FILES: u64 = 256;
    let page = Origin::plain_at("0.0.0.0:0", |_| text(200, "served")).await;
    let (home, port) = (home(), page.address.port());
    let command = home.goanyway(&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--parent", "none"]);
    let (program, arguments) = (command.get_program().to_owned(), command.get_args().map(ToOwned::to_owned));
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", &format!("ulimit -n {FILES}; exec \"$@\""), "sh"]).arg(program).args(arguments);
    home.surround(&mut limited);
    limited.args(["--allow-port", &port.to_string(), "--intercept-mode", "off"]);
    let served = tokio::task::block_in_place(|| home.spawn(limited));
    let mut client = TcpStream::connect(served.address).await.unwrap();
    // More hosts than there are files, and each of them would keep its connection.
    for number in 0..FILES + 64 {
        let host = format!("127.0.{}.{}:{port}", 1 + number / 200, 1 + number % 200);
        let head = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = timeout(AT_MOST, request(&mut client, &head)).await.expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "served"), "host {number}");
    }
    let url = format!("http://127.0.0.1:{port}/");
    let crowd = (0..40).map(|_| timeout(AT_MOST, get_through(served.address, &url)));
    for answer in futures_util::future::join_all(crowd).await {
        assert_eq!(answer.expect("all are served").status, 200);
    }
    let metrics = get(home.listeners("admin")[0], "/metrics").await.text();
    assert!(!metrics.contains("outcome=\"exhausted\""), "{metrics}");
    served.tell_to_stop();
    let (code, rest) = served.ended();
    assert!(code == Some(0) && !rest.contains("open file"), "{rest}");
}
