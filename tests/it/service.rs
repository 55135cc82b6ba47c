//! Run by a supervisor: sockets that were there before, a word about how it goes, settings read again,
//! and privileges that are gone once the ports are bound.

use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use goanyway::config::{Settings, Typed};
use hickory_proto::rr::RecordType;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::admission::users;
use crate::dns::{addresses, over_tcp, over_udp, question};
use crate::support::authority::Authority;
use crate::support::binary::{Beside, Ended, Home, Served, beside, home};
use crate::support::client::{connect, get, handshake, read_answer, request};
use crate::support::nameserver::bind_both;
use crate::support::needs::have;
use crate::support::origin::{Origin, echo, text};

/// A `serve` that these sockets are handed to as a supervisor does it: from descriptor 3 on, the number
/// of the process that is meant beside them. Two at most: they are carried in by standard input and output.
pub fn hand_over(home: &Home, sockets: Vec<(&str, OwnedFd)>, arguments: &[&str]) -> Command {
    let (names, fds): (Vec<&str>, Vec<OwnedFd>) = sockets.into_iter().unzip();
    let mut command = Command::new("sh");
    home.surround(&mut command);
    let carried = ["", "3<&0", "3<&0 4>&1"][fds.len()];
    let script = format!("exec {carried} </dev/null >/dev/null; LISTEN_PID=$$ exec \"$@\"");
    command.env("LISTEN_FDS", fds.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_goanyway"), "serve"]).args(arguments);
    let mut fds = fds.into_iter();
    command.stdin(fds.next().map_or_else(Stdio::null, Stdio::from));
    command.stdout(fds.next().map_or_else(Stdio::null, Stdio::from));
    command
}

fn bound() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub fn owned(socket: impl Into<OwnedFd>) -> OwnedFd {
    socket.into()
}

#[tokio::test]
async fn sockets_that_were_handed_over_are_served_in_place_of_our_own() {
    let home = home();
    let ((listen, at), (admin, admin_at)) = (bound(), bound());
    let handed = vec![("listen", owned(listen)), ("admin", owned(admin))];
    let served = home.spawn_with(hand_over(&home, handed, &[]));
    assert_eq!(std::fs::read_to_string(home.at("ready")).unwrap(), format!("listen={at}\nadmin={admin_at}\n"));
    assert!(get(at, "/ca.pem").await.text().contains("BEGIN CERTIFICATE"));
    assert_eq!(get(admin_at, "/readyz").await.status, 200);
    assert!(!served.said.contains("that was handed over"), "{}", served.said);
}

#[tokio::test]
async fn a_name_server_takes_both_of_its_sockets() {
    let home = home();
    let (datagrams, connections) = bind_both().await;
    let (datagrams, connections) = (datagrams.into_std().unwrap(), connections.into_std().unwrap());
    // As a supervisor hands them over.
    datagrams.set_nonblocking(false).unwrap();
    connections.set_nonblocking(false).unwrap();
    let at = datagrams.local_addr().unwrap();
    let handed = vec![("dns", owned(datagrams)), ("dns", owned(connections))];
    let arguments = ["--listen", "127.0.0.1:0", "--admin", "none", "--host", "here.corp.example=10.7.0.9"];
    let _served = home.spawn_with(hand_over(&home, handed, &arguments));
    let packet = question("here.corp.example.", RecordType::A).to_vec().unwrap();
    for reply in [over_udp(at, &packet).await, over_tcp(at, &packet).await] {
        assert_eq!(reply.answers.len(), 1);
    }
}

#[tokio::test]
async fn a_socket_without_a_name_of_ours_is_for_whoever_listens_there_and_else_for_nobody() {
    let home = home();
    let ((listen, at), (stray, stray_at)) = (bound(), bound());
    let handed = vec![("goanyway.socket", owned(listen)), ("smtp", owned(stray))];
    let arguments = ["--listen", &at.to_string(), "--admin", "none"];
    let served = home.spawn_with(hand_over(&home, handed, &arguments));
    assert_eq!(get(at, "/ca.pem").await.status, 200);
    let words = format!("the TCP socket \"smtp\" at {stray_at} that was handed over is for nobody here");
    assert!(served.said.contains(&words), "{}", served.said);
}

#[test]
fn a_socket_open_to_the_network_needs_to_be_told_who_may_come() {
    let home = home();
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let output = hand_over(&home, vec![("listen", owned(listener))], &["--admin", "none"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("open to the network, so it must be said who may use it"), "{said}");
}

/// The socket stays while the process is replaced, again and again; whoever connects meanwhile waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_under_load_refuses_nobody() {
    let home = home();
    let (listen, at) = bound();
    let start = || {
        let handed = vec![("listen", owned(listen.try_clone().unwrap()))];
        home.spawn_with(hand_over(&home, handed, &["--admin", "none"]))
    };
    let mut served = start();
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let client = |over: Arc<AtomicBool>, answered: Arc<AtomicUsize>| async move {
        while !over.load(Ordering::Relaxed) {
            let answer = get(at, "/ca.pem").await;
            assert!(answer.status == 200 && !answer.cut, "{answer:?}");
            answered.fetch_add(1, Ordering::Relaxed);
        }
    };
    let clients: Vec<_> = (0..8).map(|_| tokio::spawn(client(Arc::clone(&over), Arc::clone(&answered)))).collect();
    for _ in 0..5 {
        let before = answered.load(Ordering::Relaxed);
        while answered.load(Ordering::Relaxed) < before + 50 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        served.tell_to_stop();
        let (code, said) = served.ended();
        assert!(code == Some(0) && !said.contains("were cut"), "{said}");
        served = start();
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("somebody was refused, or got half an answer");
    }
    assert!(answered.load(Ordering::Relaxed) >= 250);
}

/// A supervisor's ear, and what `serve` needs to know of it.
struct Ear(UnixDatagram);

impl Ear {
    fn at(home: &Home) -> Ear {
        let ear = UnixDatagram::bind(home.at("notify")).unwrap();
        // A bound against hanging, nothing that is measured.
        ear.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Ear(ear)
    }

    fn hear(&self) -> String {
        let mut bytes = [0; 4096];
        let read = self.0.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..read].to_vec()).unwrap()
    }

    /// What came and was not heard yet.
    fn rest(&self) -> Vec<String> {
        self.0.set_nonblocking(true).unwrap();
        let rest = std::iter::from_fn(|| {
            let mut bytes = [0; 4096];
            self.0.recv(&mut bytes).ok().map(|read| String::from_utf8_lossy(&bytes[..read]).into_owned())
        });
        let rest = rest.collect();
        self.0.set_nonblocking(false).unwrap();
        rest
    }
}

fn supervised(home: &Home, arguments: &[&str], variables: &[(&str, &str)]) -> Served {
    let all = [&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], arguments].concat();
    let mut command = home.goanyway(&all);
    command.env("NOTIFY_SOCKET", home.at("notify")).envs(variables.iter().copied());
    home.spawn(command)
}

#[tokio::test]
async fn a_supervisor_hears_of_the_start_a_reload_and_the_end() {
    let home = home();
    let ear = Ear::at(&home);
    let served = supervised(&home, &[], &[]);
    assert_eq!(ear.hear(), format!("READY=1\nSTATUS=serving on {}", served.address));
    served.signal(Signal::HUP);
    let reloading = ear.hear();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    let ready = ear.hear();
    assert!(ready.starts_with("READY=1\n") && ready.contains("nothing that holds at once is different"), "{ready}");
    served.tell_to_stop();
    assert!(ear.hear().starts_with("STOPPING=1\n"));
    assert_eq!(served.ended().0, Some(0));
    assert_eq!(ear.rest(), Vec::<String>::new(), "no sign of life was asked for");
}

/// One thread of a process, held still by a debugger until its input ends.
struct Stalled(Beside);

impl Stalled {
    fn thread_named(pid: u32, name: &str) -> Stalled {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|entry| entry.unwrap().path());
        let is_it = |task: &std::path::PathBuf| std::fs::read_to_string(task.join("comm")).unwrap().trim() == name;
        let task = tasks.into_iter().find(is_it).unwrap();
        let tid = task.file_name().unwrap().to_str().unwrap();
        // PTRACE_ATTACH, wait with __WALL, PTRACE_DETACH.
        let script = "import ctypes, sys\nlibc = ctypes.CDLL(None, use_errno=True)\ntid = int(sys.argv[1])\n\
                      assert libc.ptrace(16, tid, None, None) == 0, ctypes.get_errno()\n\
                      assert libc.waitpid(tid, None, 0x40000000) == tid\nprint('held', flush=True)\n\
                      sys.stdin.read()\nassert libc.ptrace(17, tid, None, None) == 0\n";
        let mut command = Command::new("python3");
        command.args(["-c", script, tid]);
        Stalled(beside(command, "held"))
    }

    fn release(mut self) {
        drop(self.0.0.stdin.take());
        assert!(self.0.0.wait().unwrap().success());
    }
}

#[tokio::test]
async fn the_sign_of_life_stops_while_a_worker_hangs() {
    if !have("the_sign_of_life_stops_while_a_worker_hangs", &["python3", "ptrace"]) {
        return;
    }
    let home = home();
    let ear = Ear::at(&home);
    let mut served = supervised(&home, &[], &[("WATCHDOG_USEC", "400000")]);
    assert!(ear.hear().starts_with("READY=1"));
    assert_eq!((ear.hear(), ear.hear()), ("WATCHDOG=1".to_owned(), "WATCHDOG=1".to_owned()));
    let stalled = Stalled::thread_named(served.pid(), "goanyway-0");
    served.hear("no answer within 200ms from goanyway-0: it hangs");
    // Two rounds of asking, and nobody says that all is well.
    ear.rest();
    served.hear("it hangs");
    served.hear("it hangs");
    assert_eq!(ear.rest(), Vec::<String>::new());
    stalled.release();
    assert_eq!(ear.hear(), "WATCHDOG=1");
}

#[tokio::test]
async fn what_can_hold_at_once_does_and_the_rest_is_named() {
    let home = home();
    let echo = echo().await;
    let target = format!("echo.example:{}", echo.port());
    let file = home.at("goanyway.toml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    let hosts = "[resolve]\nhosts = [\"echo.example=127.0.0.1\"]\n";
    write(hosts);
    let config = file.display().to_string();
    let mut served = home.serve(&["--config", &config]);
    let (refused, _) = connect(served.address, &target, None).await;
    assert!(refused.reason.contains("--allow-port"), "{refused:?}");

    write(&format!(
        "listen_names = [\"proxy.corp.example\"]\n{hosts}[admit]\nports = [{}]\n[log]\nlevel = \"debug\"\n",
        echo.port()
    ));
    served.signal(Signal::HUP);
    let said = served.hear("settings read again");
    assert!(
        said.contains("now as the settings say: admit.ports, log.level; a restart is needed for: listen_names"),
        "{said}"
    );
    assert_eq!(get(served.address, "/nonsense").await.status, 404);
    served.hear("DEBUG");
    let (admitted, mut tunnel) = connect(served.address, &target, None).await;
    assert_eq!(admitted.status, 200, "{admitted:?}");

    // A broken file changes nothing, and a good one does not touch what stands.
    write("[admit]\nports = [\"all\"]\n");
    served.signal(Signal::HUP);
    let said = served.hear("cannot be read again");
    assert!(said.contains("goanyway.toml:2:10: admit.ports = \"all\": expected a port from 1 to 65535"), "{said}");
    assert_eq!(connect(served.address, &target, None).await.0.status, 200);
    write(&format!("{hosts}[admit]\ncredentials = {:?}\n", users(home.folder.path())));
    served.signal(Signal::HUP);
    let said = served.hear("settings read again");
    assert!(said.contains("admit.ports, admit.credentials, log.level") && !said.contains("restart"), "{said}");
    assert_eq!(connect(served.address, &target, None).await.0.status, 407);
    tunnel.write_all(b"still there").await.unwrap();
    let mut heard = [0; 11];
    tunnel.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still there");
}

#[tokio::test]
async fn a_name_can_be_moved_while_we_serve() {
    let home = home();
    let echo = echo().await;
    let target = format!("echo.example:{}", echo.port());
    let write = |address: &str| {
        let text = format!("[resolve]\nhosts = [\"echo.example={address}\"]\n[admit]\nports = [{}]\n", echo.port());
        std::fs::write(home.at("goanyway.toml"), text).unwrap();
    };
    write("127.99.99.99");
    let mut served = home.serve(&["--config", &home.at("goanyway.toml").display().to_string()]);
    assert_eq!(connect(served.address, &target, None).await.0.status, 502);
    write("127.0.0.1");
    served.signal(Signal::HUP);
    served.hear("now as the settings say: resolve.hosts");
    assert_eq!(connect(served.address, &target, None).await.0.status, 200);
}

/// A connection to an origin that somebody had used was kept for whoever came next, whatever rules held by then.
#[tokio::test]
async fn nobody_is_carried_on_to_where_other_rules_had_led() {
    let home = home();
    let origin = Origin::plain(|_| text(200, "first")).await;
    let port = origin.address.port();
    let write = |address: &str| {
        let text = format!("[resolve]\nhosts = [\"origin.example={address}\"]\n[admit]\nports = [{port}]\n");
        std::fs::write(home.at("goanyway.toml"), text).unwrap();
    };
    write("127.0.0.1");
    let mut served = home.serve(&["--config", &home.at("goanyway.toml").display().to_string()]);
    let head = format!("GET http://origin.example:{port}/ HTTP/1.1\r\nHost: origin.example:{port}\r\n\r\n");
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    assert_eq!(request(&mut stream, &head).await.status, 200);
    write("127.99.99.99");
    served.signal(Signal::HUP);
    served.hear("now as the settings say: resolve.hosts");
    assert_eq!(request(&mut stream, &head).await.status, 502, "the name leads elsewhere now");
}

#[tokio::test]
async fn another_certificate_is_shown_from_the_next_handshake_on() {
    let (home, authority) = (home(), Authority::new());
    let choose = |name: &str| {
        let (chain, key) = authority.issue(&[name]);
        let at = |kind: &str| home.at(&format!("{name}.{kind}"));
        std::fs::write(at("pem"), chain).unwrap();
        std::fs::write(at("key"), key).unwrap();
        let tls = format!("[listen_tls]\nlisten = [\"127.0.0.1:0\"]\ncert = {:?}\nkey = {:?}\n", at("pem"), at("key"));
        std::fs::write(home.at("goanyway.toml"), tls).unwrap();
    };
    choose("first.example");
    let mut served = home.serve(&["--config", &home.at("goanyway.toml").display().to_string()]);
    let over_tls = home.listeners("listen")[1];
    let shake = async |name| handshake(TcpStream::connect(over_tls).await.unwrap(), name, authority.roots(), &[]).await;
    let mut standing = shake("first.example").await.unwrap();
    choose("second.example");
    served.signal(Signal::HUP);
    served.hear("now as the settings say: listen_tls.cert, listen_tls.key");
    assert!(shake("first.example").await.is_err() && shake("second.example").await.is_ok());
    let head = format!("GET /ca.pem HTTP/1.1\r\nHost: {over_tls}\r\n\r\n");
    assert_eq!(request(&mut standing, &head).await.status, 200, "what stands goes on");
}

/// Every file of settings that is shipped, the cluster's inside its manifest.
#[test]
fn what_is_shipped_is_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let manifest = std::fs::read_to_string(root.join("container/kubernetes/goanyway.yaml")).unwrap();
    let (_, block) = manifest.split_once("  goanyway.toml: |\n").unwrap();
    let block = block.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    let inside: String = block.map(|line| format!("{}\n", line.trim_start())).collect();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("inside.toml"), inside).unwrap();
    let files = [
        (root.join("systemd/goanyway.toml"), "127.0.0.1:3128"),
        (root.join("container/goanyway.toml"), "0.0.0.0:3128"),
        (folder.path().join("inside.toml"), "0.0.0.0:3128"),
    ];
    for (file, listen) in files {
        let typed = Typed::gather(&HashMap::new(), &|_| None, Some(&file)).unwrap_or_else(|error| panic!("{error}"));
        let settings = Settings::understand(&typed, &|_| None).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(settings.listen, [listen.parse().unwrap()], "{}", file.display());
        assert!(!settings.admit.clients.is_empty(), "{}", file.display());
    }
}

/// The lines of a thread's status that say what it may do.
fn credentials(status: &str) -> Vec<(&str, Vec<&str>)> {
    let wanted = ["Uid", "Gid", "Groups", "NoNewPrivs", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    let line = |line| {
        let (name, values): (&str, &str) = str::split_once(line, ':')?;
        wanted.contains(&name).then(|| (name, values.split_whitespace().collect()))
    };
    status.lines().filter_map(line).collect()
}

fn each_thread(pid: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap()).collect()
}

/// A port below 1024 that nobody else has: an address of loopback for each process that tests.
fn privileged() -> String {
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    format!("127.{}.{low}.1:443", 64 + high % 128)
}

#[tokio::test]
async fn after_binding_every_thread_is_the_user_that_was_named_and_may_nothing() {
    if !have("after_binding_every_thread_is_the_user_that_was_named_and_may_nothing", &["root"]) {
        return;
    }
    const NONE: &str = "0000000000000000";
    let home = home();
    std::fs::set_permissions(home.at("."), std::fs::Permissions::from_mode(0o777)).unwrap();
    let at = privileged();
    let command = home.goanyway(&["serve", "--listen", &at, "--admin", "127.0.0.1:0", "--user", "4711:4712"]);
    let served = home.spawn(command);
    assert!(served.said.contains("user      4711:4712 (uid 4711, gid 4712)"), "{}", served.said);
    // Folders were made for it while they could be, and it uses them.
    for folder in ["cache/goanyway", "state/goanyway", "data/goanyway/certs"] {
        assert_eq!(std::fs::metadata(home.at(folder)).unwrap().uid(), 4711, "{folder}");
    }
    assert_eq!(std::fs::metadata(home.at("data/goanyway/certs/issuer.key")).unwrap().uid(), 4711);
    assert_eq!(get(served.address, "/ca.pem").await.status, 200);
    let threads = each_thread(served.pid());
    assert!(threads.len() > 2);
    for status in &threads {
        let expected = [
            ("Uid", vec!["4711"; 4]),
            ("Gid", vec!["4712"; 4]),
            ("Groups", vec![]),
            ("CapInh", vec![NONE]),
            ("CapPrm", vec![NONE]),
            ("CapEff", vec![NONE]),
            ("CapBnd", vec![NONE]),
            ("CapAmb", vec![NONE]),
            ("NoNewPrivs", vec!["1"]),
        ];
        let mut found = credentials(status);
        found.sort_by_key(|(name, _)| expected.iter().position(|(known, _)| known == name));
        assert_eq!(found, expected);
    }
    served.tell_to_stop();
    assert_eq!(served.ended().0, Some(0));
    // What is another's is not taken from them.
    let output = home.goanyway(&["serve", "--listen", &at, "--user", "4713:4713"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(2) && said.contains("belongs to uid 4711") && said.contains("chown -R"),
        "{said}"
    );
}

#[tokio::test]
async fn whoever_starts_it_stays_and_keeps_no_capability() {
    let home = home();
    let served = home.serve(&[]);
    for status in each_thread(served.pid()) {
        let found = credentials(&status);
        let of = |wanted| found.iter().find(|(name, _)| *name == wanted).unwrap().1.clone();
        assert_eq!(of("Uid")[0], rustix::process::getuid().as_raw().to_string());
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(of(set), ["0000000000000000"], "{set}");
        }
        assert_eq!(of("NoNewPrivs"), ["1"]);
    }
    assert_eq!(get(served.address, "/ca.pem").await.status, 200);
}

#[test]
fn only_root_can_become_somebody_else() {
    if !have("only_root_can_become_somebody_else", &["root", "setpriv"]) {
        return;
    }
    let home = home();
    std::fs::set_permissions(home.at("."), std::fs::Permissions::from_mode(0o777)).unwrap();
    let program = home.at("goanyway");
    std::fs::copy(env!("CARGO_BIN_EXE_goanyway"), &program).unwrap();
    let mut command = Command::new("setpriv");
    home.surround(&mut command);
    command.args(["--reuid", "4711", "--regid", "4711", "--clear-groups"]).arg(program);
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "none", "--user", "0:0"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("only root can become somebody else"), "{said}");
}

/// Without either capability a gateway's connections are taken as REDIRECT brings them, and names are answered.
#[tokio::test]
async fn without_privileges_a_subnet_is_served_at_high_ports_and_low_ones_are_refused_in_words() {
    const TITLE: &str = "without_privileges_a_subnet_is_served_at_high_ports_and_low_ones_are_refused_in_words";
    if !have(TITLE, &["root", "setpriv", "unshare", "ip"]) {
        return;
    }
    let home = home();
    let powerless = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        home.surround(&mut command);
        let program = env!("CARGO_BIN_EXE_goanyway");
        command.args(["--bounding-set=-all", program, "serve", "--listen", "127.0.0.1:0", "--admin", "none"]);
        command.args(arguments);
        command
    };
    let _served = home.spawn(powerless(&["--transparent", "127.0.0.1:0", "--dns", "127.0.0.1:0"]));
    let (transparent, dns) = (home.listeners("transparent")[0], home.listeners("dns")[0]);
    let told = over_udp(dns, &question("localhost.", RecordType::A).to_vec().unwrap()).await;
    assert_eq!(addresses(&told), [IpAddr::from([127, 0, 0, 1])]);
    // Whoever comes by itself, and not redirected, is heard and let go.
    let mut direct = TcpStream::connect(transparent).await.unwrap();
    assert_eq!(direct.read(&mut [0]).await.unwrap_or(0), 0);
    let low = privileged();
    for flag in ["--transparent", "--dns"] {
        // A machine may have said that such ports are anybody's; a network of its own says nothing yet.
        let mut apart = Command::new("unshare");
        home.surround(&mut apart);
        let script = "echo 1024 >/proc/sys/net/ipv4/ip_unprivileged_port_start; ip link set lo up; exec \"$@\"";
        let powerless = powerless(&[flag, &low]);
        apart.args(["--net", "sh", "-c", script, "sh"]).arg(powerless.get_program()).args(powerless.get_args());
        let ended = Ended::of(apart.output().unwrap());
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.err.contains("ports below 1024 want root or CAP_NET_BIND_SERVICE"), "{ended:?}");
    }
}

/// A connection that was accepted at the last moment is asked what it came for before it is closed.
#[tokio::test]
async fn whoever_came_before_the_end_is_still_answered() {
    let home = home();
    let (listen, at) = bound();
    let served = home.spawn_with(hand_over(&home, vec![("listen", owned(listen))], &["--admin", "none"]));
    let mut early = TcpStream::connect(at).await.unwrap();
    // Another one's answer: all workers take from one queue, so by then the early one is accepted, too.
    assert_eq!(get(served.address, "/ca.pem").await.status, 200);
    served.tell_to_stop();
    let head = format!("GET /ca.pem HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", served.address);
    early.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut early).await.status, 200);
    assert_eq!(served.ended().0, Some(0));
}

/// Closing the terminal ends it, as it ends any other program; a word of the operator's does not.
#[test]
fn the_end_of_its_terminal_is_its_end() {
    if !have("the_end_of_its_terminal_is_its_end", &["python3"]) {
        return;
    }
    let home = home();
    let script = "import os, pty, sys, time\npid, terminal = pty.fork()\nif pid == 0:\n    os.execv(sys.argv[1], sys.argv[1:])\n\
                  seen = b''\nwhile b'everything, safe' not in seen:\n    seen += os.read(terminal, 4096)\n\
                  os.kill(pid, 1)\nwhile b'settings read again' not in seen:\n    seen += os.read(terminal, 4096)\n\
                  os.close(terminal)\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n";
    let mut command = Command::new("python3");
    home.surround(&mut command);
    command.args(["-c", script, env!("CARGO_BIN_EXE_goanyway"), "serve", "--listen", "127.0.0.1:0", "--admin", "none"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let _ = std::io::stderr().write_all(&output.stderr);
    assert_eq!(said.trim(), "0");
}
