//! `goanyway doctor` against broken set-ups: each is named rightly, and the command that it names is
//! typed into a shell and mends it: asked again, the same line is well.
//!
//! Each set-up is a machine of its own: a network namespace with a resolv.conf, name servers and
//! mirrors on the ports that the world knows them by.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::support::authority::Authority;
use crate::support::binary::{Beside, Ended, Home, Served, beside, home};
use crate::support::client::read_head;
use crate::support::mirror::{Mirror, Mood, files};
use crate::support::nameserver::{Nameserver, Says};
use crate::support::needs::{find, have};
use crate::support::netns::{Netns, Serving};
use crate::support::origin::{Heard, Origin, text};

/// Where the mirror is, and what honest servers say.
const HERE: &str = "127.0.0.80";
const HONEST: &str = "under mirror.example answers 127.0.0.80 else nxdomain";
const ONE_SERVER: &str = "nameserver 127.0.0.1\n";

/// A machine, its user, and whom its TLS is signed by.
struct Machine {
    netns: Netns,
    home: Home,
    authority: Authority,
    /// What its user's shell has set.
    set: Vec<(&'static str, String)>,
}

fn machine(resolv_conf: &str) -> Machine {
    let (netns, home, authority) = (Netns::with_resolv_conf(resolv_conf), home(), Authority::new());
    let roots = home.at("world.pem");
    std::fs::write(&roots, authority.pem()).unwrap();
    let set = vec![
        ("GOANYWAY_NAMESERVER", "system".to_owned()),
        ("GOANYWAY_UPSTREAM", "https://mirror.example".to_owned()),
        ("GOANYWAY_FETCH_EXTRA_ROOTS", roots.display().to_string()),
        ("GOTOOLCHAIN", "local".to_owned()),
        ("TZ", "UTC".to_owned()),
    ];
    Machine { netns, home, authority, set }
}

impl Machine {
    fn set(mut self, name: &'static str, value: &str) -> Machine {
        self.set.retain(|(there, _)| *there != name);
        self.set.push((name, value.to_owned()));
        self
    }

    /// A program inside, as its user starts it.
    fn command(&self, program: &str) -> Command {
        let mut command = self.netns.command(program);
        self.home.surround(&mut command);
        let own = Path::new(env!("CARGO_BIN_EXE_goanyway")).parent().unwrap();
        let path = std::env::join_paths(
            [self.home.at("bin"), own.to_owned()]
                .into_iter()
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
        );
        command.env("PATH", path.unwrap()).current_dir(self.home.at("."));
        command.envs(self.set.iter().map(|(name, value)| (name, value)));
        command
    }

    fn type_in(&self, line: &str) -> Ended {
        Ended::of(self.command("sh").args(["-c", line]).output().unwrap())
    }

    fn doctor(&self) -> Told {
        Told::of(self.type_in("goanyway doctor --json"))
    }

    /// What it says in the shell into which this line was typed.
    fn doctor_after(&self, line: &str) -> Told {
        // In braces: what it redirects itself goes where it says.
        Told::of(self.type_in(&format!("{{ {line}\n}} >/dev/null || exit 99; goanyway doctor --json")))
    }

    /// Types the command that a finding names, and sees that it mends it.
    #[track_caller]
    fn mends(&self, bad: &Line) {
        let told = self.doctor_after(&bad.command());
        told.is_well(&bad.check, &bad.subject);
    }

    fn at(&self, name: &str) -> PathBuf {
        self.home.at(name)
    }

    /// Name servers inside, at these addresses.
    fn names(&self, servers: &[(&'static str, &'static str)]) -> Serving {
        let servers = servers.to_vec();
        self.netns.serve(move || async move {
            let mut serving = Vec::new();
            for (address, says) in servers {
                serving.push(Nameserver::at(&format!("{address}:53"), says.parse::<Says>().unwrap()).await);
            }
            serving
        })
    }

    /// A mirror inside, at 443 of this address and under this name.
    fn mirror(&self, address: &'static str, name: &'static str, mood: Mood) -> Serving {
        let config = self.authority.server(&[name]);
        self.netns.serve(move || async move {
            let mirror = Mirror::tls_at(&format!("{address}:443"), config, "golang.org/x/mod", &["v0.1.0"]).await;
            mirror.becomes(mood);
            mirror
        })
    }

    /// A goanyway that serves inside.
    fn serve(&self) -> Served {
        let mut command = self.command("goanyway");
        command.arg("serve");
        self.home.spawn(command)
    }
}

/// What the doctor told.
struct Told {
    ended: Ended,
    report: Value,
}

/// One finding that is not well.
struct Line {
    check: String,
    subject: String,
    saw: String,
    mend: Value,
}

impl Told {
    #[track_caller]
    fn of(ended: Ended) -> Told {
        let report: Value = serde_json::from_str(&ended.out).unwrap_or_else(|why| panic!("{why}: {ended:?}"));
        let healthy = report["healthy"].as_bool().unwrap();
        assert_eq!(ended.code, Some(i32::from(!healthy)), "{ended:?}");
        Told { ended, report }
    }

    fn find(&self, check: &str, subject: &str) -> Option<&Value> {
        let findings = self.report["findings"].as_array().unwrap();
        findings.iter().find(|one| one["check"] == check && one["subject"] == subject)
    }

    #[track_caller]
    fn is_bad(&self, verdict: &str, check: &str, subject: &str) -> Line {
        let one = self.find(check, subject).unwrap_or_else(|| panic!("no {check} {subject}: {}", self.ended.out));
        assert_eq!(one["verdict"], verdict, "{one}");
        let word = |field: &str| one[field].as_str().unwrap().to_owned();
        Line { check: word("check"), subject: word("subject"), saw: word("saw"), mend: one["mend"].clone() }
    }

    /// A line that is well, or that is about something that is not there any more.
    #[track_caller]
    fn is_well(&self, check: &str, subject: &str) {
        if let Some(one) = self.find(check, subject) {
            assert_eq!(one["verdict"], "ok", "{one}\n{}", self.ended.err);
        }
    }
}

impl Line {
    #[track_caller]
    fn command(&self) -> String {
        self.mend["command"].as_str().unwrap_or_else(|| panic!("no command: {} {}", self.saw, self.mend)).to_owned()
    }

    #[track_caller]
    fn who(&self) -> String {
        self.mend["who"].as_str().unwrap_or_else(|| panic!("nobody: {} {}", self.saw, self.mend)).to_owned()
    }

    #[track_caller]
    fn saw(self, words: &str) -> Line {
        assert!(self.saw.contains(words), "{words:?} is not in {:?}", self.saw);
        self
    }
}

const NEEDED: [&str; 2] = ["root", "ip"];

#[test]
fn a_healthy_machine_is_well_and_nothing_on_it_is_changed() {
    if !have("a_healthy_machine_is_well_and_nothing_on_it_is_changed", &NEEDED) {
        return;
    }
    let machine = machine(ONE_SERVER);
    let _world = (machine.names(&[("127.0.0.1", HONEST)]), machine.mirror(HERE, "mirror.example", Mood::Healthy));
    let told = machine.doctor();
    assert_eq!(told.report["faults"], 0, "{}", told.ended.out);
    for (check, subject) in [
        ("dns", "127.0.0.1"),
        ("go-lookup", "mirror.example"),
        ("mirror", "https://mirror.example"),
        ("clock", ""),
        ("roots", ""),
        ("proxy", "HTTPS_PROXY"),
        ("port", "127.0.0.1:3128"),
        ("port", "127.0.0.1:3127"),
    ] {
        assert!(told.find(check, subject).is_some(), "{check} {subject}: {}", told.ended.out);
        told.is_well(check, subject);
    }
    for folder in ["cache", "state", "data"] {
        assert!(!machine.at(folder).exists(), "{folder} was made");
    }
    let text = machine.type_in("goanyway doctor");
    assert_eq!(text.code, Some(0), "{text:?}");
    assert!(text.out.contains("\nok       mirror https://mirror.example: answers 200 in "), "{}", text.out);
    assert!(!text.out.contains('\u{1b}'), "no colour where no terminal is");
    // What may be mended is mended once, and named before.
    let fixed = Told::of(machine.type_in("goanyway doctor --fix --json"));
    assert_eq!(fixed.report["fixed"], serde_json::json!([{"command": "goanyway ca init", "code": 0}]));
    assert!(fixed.ended.err.contains("$ goanyway ca init\n"), "{}", fixed.ended.err);
    fixed.is_well("ca", "");
}

#[test]
fn a_dead_name_server_goes_where_another_one_answers() {
    if !have("a_dead_name_server_goes_where_another_one_answers", &NEEDED) {
        return;
    }
    let machine = machine("nameserver 127.0.0.2\nnameserver 127.0.0.1\n");
    let _world = machine.names(&[("127.0.0.2", "silent"), ("127.0.0.1", HONEST)]);
    let told = machine.doctor();
    told.is_bad("warning", "go-lookup", "mirror.example").saw("after 5 s");
    let dead = told.is_bad("fault", "dns", "127.0.0.2").saw("does not answer");
    machine.mends(&dead);
    machine.doctor().is_well("go-lookup", "mirror.example");
}

#[test]
fn a_lying_name_server_is_replaced_by_one_that_does_not_lie() {
    if !have("a_lying_name_server_is_replaced_by_one_that_does_not_lie", &NEEDED) {
        return;
    }
    let machine = machine("search corp.example\nnameserver 127.0.0.2\n").set("GOANYWAY_FALLBACK", "127.0.0.3");
    // A public address: whoever gives an inner one makes the name the site's own, and nobody else is asked.
    let _world = machine.names(&[("127.0.0.2", "answers 45.0.0.66"), ("127.0.0.3", HONEST)]);
    let lying = machine.doctor().is_bad("fault", "dns", "127.0.0.2").saw("45.0.0.66 for a name that does not exist");
    machine.mends(&lying);
    let told = machine.doctor();
    told.is_well("dns", "127.0.0.3");
    assert!(told.find("dns", "127.0.0.3").is_some());
    told.is_well("go-lookup", "mirror.example");
}

#[test]
fn a_name_server_that_denies_is_a_fault_of_go_alone() {
    if !have("a_name_server_that_denies_is_a_fault_of_go_alone", &NEEDED) {
        return;
    }
    let machine = machine(ONE_SERVER).set("GOANYWAY_FALLBACK", "127.0.0.3,127.0.0.4");
    let servers = [("127.0.0.1", "nxdomain"), ("127.0.0.3", HONEST), ("127.0.0.4", HONEST)];
    let _world = (machine.names(&servers), machine.mirror(HERE, "mirror.example", Mood::Healthy));
    let told = machine.doctor();
    told.is_well("mirror", "https://mirror.example");
    let alone = told.is_bad("fault", "go-lookup", "mirror.example").saw("no such host");
    assert_eq!(alone.command(), "goanyway run -- go build ./...");
    let denying = told.is_bad("fault", "dns", "127.0.0.1").saw("denies mirror.example, which others find");
    machine.mends(&denying);
    machine.doctor().is_well("go-lookup", "mirror.example");
}

#[test]
fn a_ca_that_go_does_not_trust_is_a_fault_where_the_environment_says_it_does() {
    if !have("a_ca_that_go_does_not_trust_is_a_fault_where_the_environment_says_it_does", &["root", "ip", "go"]) {
        return;
    }
    let machine = machine(ONE_SERVER);
    let _names = machine.names(&[("127.0.0.1", HONEST)]);
    let _served = machine.serve();
    let shown: Value = serde_json::from_str(&machine.type_in("goanyway ca show --json").out).unwrap();
    let proxy = format!("http://ca-{}:x@127.0.0.1:3128", shown["fingerprint"].as_str().unwrap());
    let machine = machine.set("HTTPS_PROXY", &proxy).set("https_proxy", &proxy);
    let before = machine.doctor();
    let untrusted = before.is_bad("fault", "trust", "go").saw("refuses the CA");
    assert_eq!(untrusted.command(), "eval \"$(goanyway env)\"");
    machine.mends(&untrusted);
    let told = machine.doctor_after(&untrusted.command());
    let made = |told: &Told, program: &str| {
        told.find("trust", program).unwrap()["saw"].as_str().unwrap().contains("a handshake was made")
    };
    assert!(made(&told, "go"), "{}", told.ended.out);
    // GnuTLS goes through the handshake, and looks at certificates afterwards: that is no trust.
    for program in ["git", "curl", "python3", "node", "java"].into_iter().filter(|program| find(program).is_some()) {
        told.is_well("trust", program);
        assert!(!made(&before, program), "{program}: {}", before.ended.out);
    }
}

#[test]
fn an_exemption_that_leads_past_the_proxy_is_taken_out() {
    if !have("an_exemption_that_leads_past_the_proxy_is_taken_out", &NEEDED) {
        return;
    }
    let machine = machine(ONE_SERVER).set("HTTPS_PROXY", "http://127.0.0.1:3128").set("NO_PROXY", "localhost,.example");
    let _names = machine.names(&[("127.0.0.1", HONEST)]);
    let told = machine.doctor();
    let silent = told.is_bad("fault", "proxy", "HTTPS_PROXY").saw("127.0.0.1:3128").saw("nobody listens");
    machine.mends(&silent);
    let _served = machine.serve();
    let told = machine.doctor();
    told.is_well("proxy", "HTTPS_PROXY");
    let past = told.is_bad("fault", "proxy", "NO_PROXY").saw("lets mirror.example go past the proxy");
    assert_eq!(past.command(), "export NO_PROXY=localhost no_proxy=localhost");
    machine.mends(&past);
}

#[test]
fn gos_settings_are_mended_where_they_stand() {
    if !have("gos_settings_are_mended_where_they_stand", &["root", "ip", "go"]) {
        return;
    }
    let machine = machine(ONE_SERVER).set("GOFLAGS", "-mod=vendor -v").set("GOPROXY", "off");
    let _names = machine.names(&[("127.0.0.1", HONEST)]);
    let told = machine.doctor();
    machine.mends(&told.is_bad("fault", "go", "GOFLAGS").saw("-mod=vendor"));
    machine.mends(&told.is_bad("fault", "go", "GOPROXY").saw("off"));
    // The same in go's own file, which --fix may write.
    let machine = machine.set("GOFLAGS", "").set("GOPROXY", "");
    assert_eq!(machine.type_in("go env -w GOFLAGS=-mod=vendor GOPROXY=off").code, Some(0));
    let told = machine.doctor();
    assert_eq!(told.is_bad("fault", "go", "GOFLAGS").command(), "go env -u GOFLAGS");
    assert_eq!(told.is_bad("fault", "go", "GOPROXY").command(), "go env -u GOPROXY");
    let fixed = Told::of(machine.type_in("goanyway doctor --fix --json"));
    fixed.is_well("go", "GOFLAGS");
    fixed.is_well("go", "GOPROXY");
    assert!(fixed.report["fixed"].as_array().unwrap().iter().all(|one| one["code"] == 0), "{}", fixed.ended.out);
}

/// A mount namespace that lives as long as its keeper, and the small disk that is mounted in it alone.
struct Disk {
    keeper: Beside,
}

impl Disk {
    fn mount(machine: &Machine, place: &Path) -> Disk {
        let script = format!("mount -t tmpfs -o size=8m none {} && echo ready && cat", place.display());
        let mut command = machine.command("unshare");
        command.args(["-m", "sh", "-c", &script]);
        Disk { keeper: beside(command, "ready") }
    }

    fn type_in(&self, machine: &Machine, line: &str) -> Ended {
        let mut command = machine.command("nsenter");
        command.args(["-m", "-t", &self.keeper.0.id().to_string(), "sh", "-c", line]);
        Ended::of(command.output().unwrap())
    }
}

/// A module with 3 MiB in it.
fn large_zip() -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, text) in [("go.mod", "module example.com/m\n\ngo 1.20\n".to_owned()), ("notes", "x".repeat(3 << 20))] {
        writer.start_file(format!("example.com/m@v1.0.0/{name}"), options).unwrap();
        std::io::Write::write_all(&mut writer, text.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn a_full_disk_is_told_and_the_cache_gives_way() {
    if !have("a_full_disk_is_told_and_the_cache_gives_way", &["root", "ip", "unshare", "nsenter"]) {
        return;
    }
    let machine = machine(ONE_SERVER);
    let _names = machine.names(&[("127.0.0.1", HONEST)]);
    let tree = machine.at("tree");
    for (path, bytes) in files("example.com/m", &["v1.0.0"]) {
        let file = tree.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, if path.ends_with(".zip") { large_zip() } else { bytes.to_vec() }).unwrap();
    }
    let place = machine.at("disk");
    std::fs::create_dir(&place).unwrap();
    let machine = machine.set("GOANYWAY_CACHE_DIR", place.to_str().unwrap());
    let disk = Disk::mount(&machine, &place);
    let fill = format!(
        "goanyway cache import {} >&2; dd if=/dev/zero of={}/other bs=64k 2>/dev/null; true",
        tree.display(),
        place.display()
    );
    let filled = disk.type_in(&machine, &fill);
    assert_eq!(filled.code, Some(0), "{filled:?}");
    let told = Told::of(disk.type_in(&machine, "goanyway doctor --json"));
    let full = told.is_bad("fault", "cache", place.to_str().unwrap()).saw("the disk is full");
    assert!(full.command().starts_with("goanyway cache prune --to "), "{}", full.command());
    let line = format!("{} >&2 || exit 99; goanyway doctor --json", full.command());
    Told::of(disk.type_in(&machine, &line)).is_well("cache", place.to_str().unwrap());
}

#[test]
fn an_expired_ca_is_followed_by_the_next_one() {
    if !have("an_expired_ca_is_followed_by_the_next_one", &["root", "ip", "faketime"]) {
        return;
    }
    let machine = machine(ONE_SERVER).set("FAKETIME_DONT_FAKE_MONOTONIC", "1").set("DONT_FAKE_MONOTONIC", "1");
    let _names = machine.names(&[("127.0.0.1", HONEST)]);
    assert_eq!(machine.type_in("goanyway ca init").code, Some(0));
    let later = |line: &str| Told::of(machine.type_in(&format!("faketime -f +400d sh -c '{line}'")));
    let expired = later("goanyway doctor --json").is_bad("fault", "ca", "").saw("ended on ");
    assert_eq!((expired.command().as_str(), &expired.mend["fixable"]), ("goanyway ca rotate", &Value::Bool(true)));
    later("goanyway doctor --fix --json").is_well("ca", "");
}

#[test]
fn a_wrong_clock_is_told_with_the_right_time() {
    if !have("a_wrong_clock_is_told_with_the_right_time", &["root", "ip", "faketime"]) {
        return;
    }
    let machine = machine(ONE_SERVER).set("FAKETIME_DONT_FAKE_MONOTONIC", "1").set("DONT_FAKE_MONOTONIC", "1");
    let _world = (machine.names(&[("127.0.0.1", HONEST)]), machine.mirror(HERE, "mirror.example", Mood::Healthy));
    for (by, verdict) in [("-2h", "warning"), ("-900d", "fault"), ("+900d", "fault")] {
        let told = Told::of(machine.type_in(&format!("faketime -f {by} goanyway doctor --json")));
        let wrong = told.is_bad(verdict, "clock", "").saw("and servers say ");
        // This machine's clock is nobody's to set: a process's own is.
        let command = wrong.command();
        let right = command.strip_prefix("date --utc --set=").unwrap_or_else(|| panic!("{command}"));
        let told = machine.type_in(&format!("faketime \"$(date --utc -d {right} '+%F %T')\" goanyway doctor --json"));
        Told::of(told).is_well("clock", "");
    }
    machine.doctor().is_well("clock", "");
}

#[test]
fn a_port_that_another_program_has_is_told_with_a_free_one() {
    if !have("a_port_that_another_program_has_is_told_with_a_free_one", &["root", "ip", "python3"]) {
        return;
    }
    let machine = machine(ONE_SERVER);
    let _names = machine.names(&[("127.0.0.1", HONEST)]);
    let script =
        "import socket, sys; s = socket.create_server(('127.0.0.1', 3128)); print('up', flush=True); sys.stdin.read()";
    let mut command = machine.command("python3");
    command.args(["-c", script]);
    let squatter = beside(command, "up");
    let taken = machine.doctor().is_bad("fault", "port", "127.0.0.1:3128");
    assert!(
        taken.saw.contains("python") && taken.saw.contains(&format!("process {}", squatter.0.id())),
        "{}",
        taken.saw
    );
    let line = taken.command();
    let told = machine.doctor_after(&line);
    let place = line.strip_prefix("export GOANYWAY_LISTEN=").unwrap();
    assert!(told.find("port", place).is_some(), "{line}: {}", told.ended.out);
    told.is_well("port", place);
}

#[test]
fn another_users_goanyway_on_the_port_is_not_ours() {
    if !have("another_users_goanyway_on_the_port_is_not_ours", &["root", "ip", "setpriv"]) {
        return;
    }
    let (ours, theirs) = (machine(ONE_SERVER), home());
    let _names = ours.names(&[("127.0.0.1", HONEST)]);
    for place in [theirs.folder.path(), ours.home.folder.path()] {
        use std::os::unix::fs::{PermissionsExt, chown};
        std::fs::set_permissions(place, std::fs::Permissions::from_mode(0o755)).unwrap();
        if place == theirs.folder.path() {
            chown(place, Some(4242), Some(4242)).unwrap();
        }
    }
    let program = ours.at("their-goanyway");
    std::fs::copy(env!("CARGO_BIN_EXE_goanyway"), &program).unwrap();
    let mut command = ours.netns.command("setpriv");
    theirs.surround(&mut command);
    command.args(["--reuid", "4242", "--regid", "4242", "--clear-groups"]).arg(&program).arg("serve");
    let _served = theirs.spawn(command);
    let told = ours.doctor();
    for (port, variable) in [("127.0.0.1:3128", "GOANYWAY_LISTEN"), ("127.0.0.1:3127", "GOANYWAY_ADMIN")] {
        let taken = told.is_bad("fault", "port", port).saw("another user's goanyway").saw("of user 4242");
        let line = taken.command();
        let place = line.strip_prefix(&format!("export {variable}=")).unwrap_or_else(|| panic!("{line}"));
        let after = ours.doctor_after(&line);
        assert!(after.find("port", place).is_some(), "{line}: {}", after.ended.out);
        after.is_well("port", place);
    }
}

#[test]
fn our_own_goanyway_on_the_port_is_well() {
    if !have("our_own_goanyway_on_the_port_is_well", &NEEDED) {
        return;
    }
    let machine = machine(ONE_SERVER);
    let _names = machine.names(&[("127.0.0.1", HONEST)]);
    let _served = machine.serve();
    let told = machine.doctor();
    told.is_well("port", "127.0.0.1:3128");
    let admin = told.find("port", "127.0.0.1:3127").unwrap();
    assert_eq!(admin["saw"], format!("goanyway {} serves there", env!("CARGO_PKG_VERSION")), "{admin}");
}

#[test]
fn a_mirror_that_refuses_gives_way_to_another_one_that_was_named() {
    if !have("a_mirror_that_refuses_gives_way_to_another_one_that_was_named", &NEEDED) {
        return;
    }
    let machine = machine(ONE_SERVER).set("GOANYWAY_UPSTREAM", "https://mirror.example,https://second.example");
    let both = "under mirror.example answers 127.0.0.80 else under second.example answers 127.0.0.81 else nxdomain";
    let refusing = machine.mirror(HERE, "mirror.example", Mood::Says(403));
    let _world = (machine.names(&[("127.0.0.1", both)]), machine.mirror("127.0.0.81", "second.example", Mood::Healthy));
    let told = machine.doctor();
    told.is_well("mirror", "https://second.example");
    let refused =
        told.is_bad("warning", "mirror", "https://mirror.example").saw("403 Forbidden").saw("the mirror says 403");
    assert_eq!(refused.command(), "export GOANYWAY_UPSTREAM=https://second.example");
    machine.mends(&refused);
    // Where there is no other one, builds fail, and who can mend it is said.
    let machine = machine.set("GOANYWAY_UPSTREAM", "https://mirror.example");
    assert!(machine.doctor().is_bad("fault", "mirror", "https://mirror.example").who().contains("mirror.example"));
    drop(refusing);
}

#[test]
fn ipv6_that_swallows_is_made_to_fail_at_once() {
    if !have("ipv6_that_swallows_is_made_to_fail_at_once", &NEEDED) {
        return;
    }
    let machine = machine(ONE_SERVER).set("GOANYWAY_ALLOW_TARGET", "127.0.0.0/8,2001:db8::/32");
    let hole = "ip link add hole type veth peer name pit && ip link set hole up && ip link set pit up && \
                ip -6 address add 2001:db8:1::1/64 dev hole nodad && ip -6 route add default dev hole && \
                ip -6 neighbour add 2001:db8:2::80 lladdr 02:00:00:00:00:01 dev hole";
    let dug = machine.type_in(hole);
    assert_eq!(dug.code, Some(0), "{dug:?}");
    let both = "under mirror.example answers 127.0.0.80 2001:db8:2::80 else nxdomain";
    let _world = (machine.names(&[("127.0.0.1", both)]), machine.mirror(HERE, "mirror.example", Mood::Healthy));
    let told = machine.doctor();
    told.is_well("mirror", "https://mirror.example");
    let swallowing = told.is_bad("warning", "ipv6", "").saw("2001:db8:2::80").saw("swallows connections");
    machine.mends(&swallowing);
    assert!(machine.doctor().find("ipv6", "").unwrap()["saw"].as_str().unwrap().contains("said at once"));
}

#[test]
fn a_captive_portal_is_told_with_its_address() {
    if !have("a_captive_portal_is_told_with_its_address", &NEEDED) {
        return;
    }
    let machine = machine(ONE_SERVER);
    let foreign = Authority::new().server(&["portal.hotel.example"]);
    let _portal = machine.netns.serve(move || async move {
        let page = |_: &Heard| {
            let mut answer = text(302, "<html>Welcome</html>");
            answer.headers_mut().insert("location", "http://portal.hotel.example/login".parse().unwrap());
            answer
        };
        (Origin::plain_at("127.0.0.80:80", page).await, Origin::tls_at("127.0.0.80:443", foreign, page).await)
    });
    let _names = machine.names(&[("127.0.0.1", HONEST)]);
    let told = machine.doctor();
    let portal = told.is_bad("fault", "portal", "").saw("this network wants a login");
    assert_eq!(portal.who(), "you, in a browser: http://portal.hotel.example/login");
    let mirror = told.is_bad("fault", "mirror", "https://mirror.example").saw("TLS: ");
    assert_eq!(mirror.who(), portal.who());
    // Logged in, the network is as any other.
    drop(_portal);
    let _mirror = machine.mirror(HERE, "mirror.example", Mood::Healthy);
    let told = machine.doctor();
    told.is_well("portal", "");
    told.is_well("mirror", "https://mirror.example");
}

/// A proxy that knows the way, as a company has one.
async fn company_proxy(at: &str, to: &'static str) {
    let listener = TcpListener::bind(at).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let head = read_head(&mut client).await?;
                if !head.starts_with("CONNECT ") {
                    return client.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
                }
                let mut server = TcpStream::connect(to).await?;
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                copy_bidirectional(&mut client, &mut server).await.map(drop)
            });
        }
    });
}

#[test]
fn a_proxy_that_is_needed_is_found_where_git_has_it() {
    if !have("a_proxy_that_is_needed_is_found_where_git_has_it", &["root", "ip", "git"]) {
        return;
    }
    let machine = machine(ONE_SERVER);
    let _world =
        (machine.names(&[("127.0.0.1", HONEST)]), machine.mirror("127.0.0.81", "mirror.example", Mood::Healthy));
    let _proxy = machine.netns.serve(|| company_proxy("127.0.0.9:8080", "127.0.0.81:443"));
    let alone = machine.doctor().is_bad("fault", "mirror", "https://mirror.example").saw("no connection");
    assert!(alone.who().contains("whoever runs this network"), "{}", alone.who());
    assert_eq!(machine.type_in("git config --global http.proxy http://127.0.0.9:8080").code, Some(0));
    let told = machine.doctor();
    let needed = told.is_bad("fault", "parent", "").saw("git's http.proxy");
    assert_eq!(needed.command(), "export HTTPS_PROXY=\"$(git config --get http.proxy)\"");
    machine.mends(&needed);
    machine.doctor_after(&needed.command()).is_well("mirror", "https://mirror.example");
}

#[test]
fn a_search_suffix_that_went_with_the_vpn_is_missed() {
    if !have("a_search_suffix_that_went_with_the_vpn_is_missed", &NEEDED) {
        return;
    }
    let machine = machine("search corp.example\nnameserver 127.0.0.1\n").set("GOPRIVATE", "git/*");
    let says = "under git.corp.example answers 127.0.0.7 else under mirror.example answers 127.0.0.80 else nxdomain";
    let inside = machine.names(&[("127.0.0.1", says)]);
    std::fs::create_dir_all(machine.at("state/goanyway")).unwrap();
    let looked = machine.type_in("goanyway resolve git");
    assert_eq!(looked.code, Some(0), "{looked:?}");
    machine.doctor().is_well("dns-search", "git");
    machine.netns.write("resolv.conf", ONE_SERVER);
    let gone = machine.doctor().is_bad("fault", "dns-search", "git").saw("has lost corp.example");
    assert_eq!(gone.command(), "echo search corp.example >> /etc/resolv.conf");
    machine.mends(&gone);
    // With the VPN its servers went, too: only its user can bring them back.
    machine.netns.write("resolv.conf", ONE_SERVER);
    drop(inside);
    let _outside = machine.names(&[("127.0.0.1", HONEST)]);
    assert!(machine.doctor().is_bad("fault", "dns-search", "git").who().contains("connect the VPN"));
}

#[test]
fn an_old_bundle_in_an_image_is_replaced_by_its_package() {
    if !have("an_old_bundle_in_an_image_is_replaced_by_its_package", &["root", "ip", "apt-get"]) {
        return;
    }
    let mut machine = machine(ONE_SERVER);
    machine.set.retain(|(name, _)| *name != "GOANYWAY_FETCH_EXTRA_ROOTS");
    // The image's own: what its system had when it was built.
    let certs = machine.netns.folder("ssl/certs");
    std::fs::write(certs.join("ca-certificates.crt"), Authority::new().pem()).unwrap();
    let _world = (machine.names(&[("127.0.0.1", HONEST)]), machine.mirror(HERE, "mirror.example", Mood::Healthy));
    let told = machine.doctor();
    let old = told.is_bad("fault", "roots", "").saw("none of the 1 roots").saw("vouches for mirror.example");
    assert_eq!(told.is_bad("fault", "mirror", "https://mirror.example").command(), old.command());
    assert_eq!(old.command(), "apt-get update && apt-get install -y ca-certificates");
    // What the package would do, for there is no archive of packages in here.
    std::fs::create_dir(machine.at("bin")).unwrap();
    let script =
        "#!/bin/sh\n[ \"$1\" = install ] && cat \"$HOME/world.pem\" >> /etc/ssl/certs/ca-certificates.crt || :\n";
    std::fs::write(machine.at("bin/apt-get"), script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(machine.at("bin/apt-get"), mode).unwrap();
    machine.mends(&old);
    machine.doctor().is_well("mirror", "https://mirror.example");
    // A variable that names an old one is simply taken back.
    let stale = machine.at("stale.pem");
    std::fs::write(&stale, Authority::new().pem()).unwrap();
    let machine = machine.set("SSL_CERT_FILE", stale.to_str().unwrap());
    let named = machine.doctor().is_bad("fault", "roots", "").saw("SSL_CERT_FILE=");
    assert_eq!(named.command(), "unset SSL_CERT_FILE SSL_CERT_DIR");
    machine.mends(&named);
}

#[test]
fn settings_that_cannot_be_used_are_a_finding_and_no_crash() {
    let home = home();
    let ended = Ended::of(home.goanyway(&["doctor", "--json"]).env("GOANYWAY_LISTEN", "nonsense").output().unwrap());
    let settings = Told::of(ended).is_bad("fault", "settings", "").saw("GOANYWAY_LISTEN");
    assert!(settings.who().contains("goanyway serve --help"));
}
