//! The failure matrix, asked of the DNS listener by programs that people have.
//!
//! The rows are the files under `tests/scenarios`, which the ladder's own tests play under a paused clock. Here
//! their servers stand on real sockets beside a goanyway that reads a resolv.conf, and a client behind a cable
//! asks it: `dig` over UDP and TCP, a resolver of our own, and a Go program, all at once. A file is played as far
//! as a client can see it: what it says of minutes and hours, of a ladder's next rung and of `resolve --json`
//! stays with those other tests.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;

use crate::dns::{addresses, code, over_tcp, over_udp, question, reason, with_edns};
use crate::support::authority::Authority;
use crate::support::binary::{Ended, Home, Served, home};
use crate::support::gopher;
use crate::support::nameserver::{Nameserver, Over, Says, acceptor};
use crate::support::needs::{find, have};
use crate::support::netns::{Hosted, Netns};

// The vocabulary.

const LISTENER: &str = "10.7.0.1";
/// Of the names that a line looks up under a suffix so many are asked for: luck would show.
const ENOUGH: usize = 4;
/// Longer than this nothing passes.
const LONGEST: Duration = Duration::from_secs(3);

/// What a client is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Due {
    /// Addresses; these, where it is said which.
    Addresses(Vec<IpAddr>),
    /// There is no such name: confirmed, or the word of the only one who can be asked.
    NoSuchName,
    /// A failure that passes, and why (RFC 8914).
    Trouble,
    /// Blocked on purpose, and so said.
    Blocked,
}

impl Due {
    /// The word of an expectation; nothing, where it is about what no client sees.
    fn read(expected: &str) -> Due {
        let words: Vec<&str> = expected.split_whitespace().collect();
        match words.as_slice() {
            ["found", rest @ ..] => Due::Addresses(rest.iter().map_while(|word| word.parse().ok()).collect()),
            ["absent", "confirmed" | "final", ..] => Due::NoSuchName,
            ["absent", ..] | ["unknown", ..] => Due::Trouble,
            ["blocked", ..] => Due::Blocked,
            _ => panic!("nobody is told {expected:?}"),
        }
    }

    /// What is wrong with a reply, if anything is.
    fn judge(&self, reply: &Message) -> Option<String> {
        let is_right = match self {
            Due::Addresses(due) => code(reply) == ResponseCode::NoError && are(due, &addresses(reply)),
            Due::NoSuchName => code(reply) == ResponseCode::NXDomain,
            Due::Trouble => code(reply) == ResponseCode::ServFail && reason(reply).is_some(),
            Due::Blocked => code(reply) == ResponseCode::NXDomain && reason(reply) == Some(15),
        };
        (!is_right).then(|| format!("{} {:?}, reason {:?}", code(reply), addresses(reply), reason(reply)))
    }

    /// The same of what dig prints.
    fn judge_dig(&self, printed: &str) -> Option<String> {
        let status = match self {
            Due::Addresses(_) => "status: NOERROR",
            Due::NoSuchName | Due::Blocked => "status: NXDOMAIN",
            Due::Trouble => "status: SERVFAIL",
        };
        let why = matches!(self, Due::Trouble | Due::Blocked);
        let is_right = printed.contains(status) && (!why || printed.contains("EDE: "));
        (!is_right).then(|| format!("dig: {printed}"))
    }

    /// The same of what a Go program prints.
    fn judge_go(&self, printed: &str) -> Option<String> {
        let is_right = match self {
            Due::Addresses(due) => {
                let mut due = due.iter().filter(|address| address.is_ipv4());
                printed.starts_with("no error, dials ") && due.all(|one| printed.contains(&one.to_string()))
            }
            Due::NoSuchName | Due::Blocked => printed.contains("no such host"),
            Due::Trouble => printed.contains("server misbehaving"),
        };
        (!is_right).then(|| format!("go: {printed}"))
    }
}

/// Whether these are the IPv4 addresses among those that are due.
fn are(due: &[IpAddr], came: &[IpAddr]) -> bool {
    let mut wanted: Vec<&IpAddr> = due.iter().filter(|address| address.is_ipv4()).collect();
    let mut came: Vec<&IpAddr> = came.iter().collect();
    wanted.sort();
    came.sort();
    due.is_empty() || wanted == came
}

/// A scenario on real sockets: its servers and goanyway on one machine, a client on another.
struct Play<'a> {
    machine: Netns,
    client: Netns,
    go: Option<&'a Path>,
    home: Home,
    authority: Authority,
    servers: HashMap<IpAddr, Hosted<Nameserver>>,
    system: Vec<String>,
    fallback: Vec<String>,
    settings: Vec<String>,
    scope: Option<String>,
    /// Whose answer is the first is a matter of milliseconds, which real sockets on a busy machine do not keep.
    by_chance: bool,
    /// A busy machine may read a resolv.conf that was rewritten a second late.
    rewritten: bool,
    served: Option<Served>,
    /// Names that a handshake is to vouch for, which no client of a name server makes.
    vouched: HashSet<String>,
    last: String,
    judged: usize,
}

impl<'a> Play<'a> {
    fn new(go: Option<&'a Path>) -> Play<'a> {
        let (machine, client) = (Netns::with_resolv_conf("# nothing yet\n"), Netns::with_resolv_conf(""));
        client.write("resolv.conf", &format!("nameserver {LISTENER}\n"));
        client.connect("eth0", &["10.7.0.2/24"], &machine, "lan0", &["10.7.0.1/24"]);
        let (home, authority) = (home(), Authority::new());
        std::fs::write(home.at("roots.pem"), authority.pem()).unwrap();
        Play {
            machine,
            client,
            go,
            home,
            authority,
            servers: HashMap::new(),
            system: Vec::new(),
            fallback: Vec::new(),
            settings: Vec::new(),
            rewritten: false,
            scope: None,
            by_chance: false,
            served: None,
            vouched: HashSet::new(),
            last: String::new(),
            judged: 0,
        }
    }

    /// Does what the line says; `None`, where the rest is beyond what a client can see.
    fn perform(&mut self, line: &str) -> Option<Vec<String>> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let two = || rest.split_once(' ').unwrap();
        match word {
            "system" | "plain" | "encrypted" => {
                let (address, part) = two();
                self.engage(word, address, part);
            }
            "zone" => {
                let (suffix, rest) = two();
                let (address, part) = rest.split_once(' ').unwrap();
                self.cast(address, part);
                self.set("--zone", &format!("{suffix}=udp://{address}"));
            }
            "resolv.conf" if rest == "missing" => return None,
            "resolv.conf" => {
                self.machine.write("resolv.conf", &(rest.replace(" | ", "\n") + "\n"));
                self.rewritten = true;
            }
            "private" => self.set("--private", rest),
            "known" => self.set("--known", rest),
            "allow" => self.set("--allow-target", rest),
            "host" => {
                let (name, address) = two();
                self.set("--host", &format!("{name}={address}"));
            }
            "scope" => self.scope = Some(rest.to_owned()),
            "look" => {
                self.rewritten = false;
                return Some(self.look_up(rest.strip_prefix("up ").unwrap()));
            }
            "report" if rest.ends_with(" verified") => {
                self.vouched.insert(self.last.clone());
            }
            "restart" => {
                if let Some(served) = self.served.take() {
                    served.tell_to_stop();
                    served.ended();
                }
            }
            "pass" => {
                let (number, unit) = two();
                let passing =
                    Duration::from_millis(number.parse::<u64>().unwrap() * if unit == "ms" { 1 } else { 1000 });
                if !matches!(unit, "ms" | "s") || passing > LONGEST {
                    return None;
                }
                std::thread::sleep(passing + Duration::from_secs(u64::from(self.rewritten) * 2));
            }
            "report" | "next" | "descriptors" => return None,
            _ if line.starts_with("==") => {}
            "asked" | "explain" | "row" | "go" | "advice:" => {}
            address => {
                let part = rest.strip_prefix("now ").unwrap_or_else(|| panic!("no line begins with {address:?}"));
                self.cast(address, part);
            }
        }
        Some(Vec::new())
    }

    fn set(&mut self, flag: &str, value: &str) {
        self.settings.extend([flag.to_owned(), value.to_owned()]);
    }

    fn engage(&mut self, tier: &str, address: &str, part: &str) {
        match tier {
            "system" => {
                self.system.push(format!("nameserver {address}\n"));
                self.machine.write("resolv.conf", &self.system.concat());
            }
            "plain" => self.fallback.push(format!("udp://{address}")),
            _ => self.fallback.push(format!("https://{address}/dns-query#dns.example")),
        }
        match tier {
            "encrypted" => self.cast_encrypted(address, part),
            _ => self.cast(address, part),
        }
    }

    /// Has the server of this address do this from here on.
    fn cast(&mut self, address: &str, part: &str) {
        let at: IpAddr = address.parse().unwrap();
        self.by_chance |= part.starts_with("slow ") || part.starts_with("forged-first ");
        if part == "closed" {
            self.at_home(at);
            self.servers.remove(&at);
            return;
        }
        let says: Says = part.parse().unwrap();
        match self.servers.get(&at) {
            Some(server) => server.change(says),
            None => {
                self.at_home(at);
                let place = format!("{address}:53");
                let server = self.machine.host(move || async move { Nameserver::at(&place, says).await });
                self.servers.insert(at, server);
            }
        }
    }

    fn cast_encrypted(&mut self, address: &str, part: &str) {
        self.at_home(address.parse().unwrap());
        if part == "closed" {
            return;
        }
        let (name, says) = match part {
            "impostor" => ("other.example", Says::Address("6.6.6.6")),
            says => ("dns.example", says.parse().unwrap()),
        };
        let acceptor = acceptor(&self.authority, name, Over::Https);
        let place = format!("{address}:443");
        let serve = move || async move { Nameserver::encrypted_at(&place, says, Over::Https, acceptor).await };
        self.servers.insert(address.parse().unwrap(), self.machine.host(serve));
    }

    /// Gives the machine the address, once.
    fn at_home(&self, address: IpAddr) {
        if !self.machine.has(address) {
            self.machine.add_address(&format!("{address}/32"));
        }
    }

    fn start(&mut self) {
        if self.served.is_some() {
            return;
        }
        let mut command = self.machine.command(env!("CARGO_BIN_EXE_goanyway"));
        self.home.surround(&mut command);
        let usual = format!(
            "serve --listen 127.0.0.1:0 --admin none --parent none --nameserver system --dns {LISTENER}:53 \
             --client 10.7.0.0/24"
        );
        command.args(usual.split_whitespace()).args(&self.settings);
        for server in self.fallback.iter().map(String::as_str).chain(self.fallback.is_empty().then_some("none")) {
            command.args(["--fallback", server]);
        }
        command.envs(self.scope.iter().map(|scope| ("GOANYWAY_RESOLVE_SCOPE", scope)));
        command.env("GOANYWAY_FETCH_EXTRA_ROOTS", self.home.at("roots.pem"));
        self.served = Some(self.home.spawn(command));
    }

    /// Has every client ask, and tells what was said to them otherwise than was due.
    fn look_up(&mut self, line: &str) -> Vec<String> {
        let (what, expected) = line.split_once(" -> ").unwrap();
        let words: Vec<&str> = what.split_whitespace().collect();
        let names: Vec<String> = match words.as_slice() {
            [name] | [_, "times", name] => vec![(*name).to_owned()],
            [many, "names", "under", suffix] => {
                (0..many.parse::<usize>().unwrap().min(ENOUGH)).map(|at| format!("fresh{at}.{suffix}")).collect()
            }
            _ => panic!("{what:?} is nothing to look up"),
        };
        self.start();
        let due = match Due::read(expected) {
            Due::Addresses(_) if self.by_chance => Due::Addresses(Vec::new()),
            due => due,
        };
        let mut complaints = Vec::new();
        for name in names {
            self.last.clone_from(&name);
            if !self.vouched.contains(&name) {
                self.judged += 1;
                complaints
                    .extend(self.ask(&name, &due).into_iter().map(|what| format!("{name}: {due:?} was due: {what}")));
            }
        }
        complaints
    }

    /// All at once, so that they are told of one and the same look-up.
    fn ask(&self, name: &str, due: &Due) -> Vec<String> {
        let listener = format!("{LISTENER}:53").parse().unwrap();
        let packet = with_edns(question(&format!("{name}."), RecordType::A), 1232).to_vec().unwrap();
        let at_listener = format!("@{LISTENER}");
        let dig = |more: &[&str]| {
            let mut dig = self.client.command("dig");
            dig.args([&at_listener, name, "A", "+tries=1", "+time=15"]).args(more);
            Ended::of(dig.output().unwrap()).out
        };
        std::thread::scope(|scope| {
            let mut asking = vec![
                scope.spawn(|| due.judge(&self.client.within(|| over_udp(listener, &packet)))),
                scope.spawn(|| due.judge(&self.client.within(|| over_tcp(listener, &packet)))),
            ];
            if find("dig").is_some() {
                asking.push(scope.spawn(|| due.judge_dig(&dig(&[]))));
                asking.push(scope.spawn(|| due.judge_dig(&dig(&["+tcp"]))));
            }
            if let Some(go) = self.go {
                let mut go = self.client.command(go.to_str().unwrap());
                asking.push(scope.spawn(move || due.judge_go(Ended::of(go.arg(name).output().unwrap()).out.trim())));
            }
            asking.into_iter().filter_map(|asking| asking.join().unwrap()).collect()
        })
    }
}

/// Plays a file as far as it can be, and tells how many names were asked for and what was wrong.
fn play(file: &Path, go: Option<&Path>) -> (usize, Vec<String>) {
    let text = std::fs::read_to_string(file).unwrap();
    let title = file.file_stem().unwrap().to_string_lossy();
    let (mut play, mut complaints) = (Play::new(go), Vec::new());
    let lines = text.lines().map(str::trim).zip(1..);
    for (line, number) in lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')) {
        let Some(told) = play.perform(line) else { break };
        complaints.extend(told.into_iter().map(|what| format!("{title}.scn:{number}: {what}")));
    }
    (play.judged, complaints)
}

/// All of them, or those whose name has what `SCENARIO` says.
fn files() -> Vec<PathBuf> {
    let (folder, only) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios"), only());
    let all = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = all.filter(|file| file.to_string_lossy().contains(&only)).collect();
    files.sort();
    files
}

fn only() -> String {
    std::env::var("SCENARIO").unwrap_or_default()
}

fn is_part() -> bool {
    !only().is_empty()
}

// The promise.

#[test]
fn whatever_fails_nobody_is_told_a_false_no_such_host() {
    const TITLE: &str = "whatever_fails_nobody_is_told_a_false_no_such_host";
    if !have(TITLE, &["root", "ip"]) {
        return;
    }
    have(TITLE, &["dig"]);
    let folder = tempfile::tempdir().unwrap();
    let go = have(TITLE, &["go"]).then(|| gopher::build(folder.path()));
    let files = files();
    // As many at once as do not starve each other.
    let played: Vec<(usize, Vec<String>)> = files
        .chunks(4)
        .flat_map(|files| {
            std::thread::scope(|scope| {
                let playing: Vec<_> = files.iter().map(|file| scope.spawn(|| play(file, go.as_deref()))).collect();
                playing.into_iter().map(|file| file.join().unwrap()).collect::<Vec<_>>()
            })
        })
        .collect();
    let judged: usize = played.iter().map(|(judged, _)| judged).sum();
    let complaints: Vec<String> = played.into_iter().flat_map(|(_, complaints)| complaints).collect();
    assert!(complaints.is_empty(), "{} of {judged} look-ups:\n{}", complaints.len(), complaints.join("\n"));
    assert!(is_part() || judged >= 100, "a scenario was not played: there were only {judged} look-ups");
    println!("{judged} look-ups in {} scenarios", files.len());
}

/// What was wrong with a thousand answers under the faults of a file in which a name is found at first.
fn storm(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let mut play = Play::new(None);
    let lines: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let first = lines.iter().position(|line| line.starts_with("look up "))?;
    if !lines[first].contains(" -> found ") {
        return None;
    }
    for line in &lines[..first] {
        play.perform(line)?;
    }
    play.start();
    let questions: String = (0..20).map(|nth| format!("fresh{nth}.goproxy.cn A\n")).collect();
    std::fs::write(play.home.at("questions"), questions).unwrap();
    let storm = || {
        let mut dnsperf = play.client.command("dnsperf");
        dnsperf.args(["-s", LISTENER, "-n", "50", "-c", "4", "-q", "20", "-d"]).arg(play.home.at("questions"));
        Ended::of(dnsperf.output().unwrap())
    };
    let mut ended = storm();
    for _ in 0..3 {
        let is_lost = !ended.out.contains("Queries lost:         0 ");
        if is_lost || ended.out.contains("NXDOMAIN") || ended.out.contains("NOERROR 1000 (100.00%)") {
            break;
        }
        // On a busy machine an answer may come too late: that is trouble, and it passes.
        std::thread::sleep(Duration::from_secs(5));
        ended = storm();
    }
    let is_right = ended.out.contains("NOERROR 1000 (100.00%)") && ended.out.contains("Queries lost:         0 ");
    (!is_right).then(|| format!("{}: {ended:?}", file.display()))
}

#[test]
fn a_thousand_questions_under_each_fault_are_answered_and_none_denied() {
    const TITLE: &str = "a_thousand_questions_under_each_fault_are_answered_and_none_denied";
    if !have(TITLE, &["root", "ip", "dnsperf"]) {
        return;
    }
    let files = files();
    // The rows in which there is somebody honest to be found.
    let rows: Vec<&PathBuf> = files.iter().take_while(|file| !file.to_string_lossy().contains("/22-")).collect();
    let complaints: Vec<String> = rows
        .chunks(2)
        .flat_map(|rows| {
            std::thread::scope(|scope| {
                let storms: Vec<_> = rows.iter().map(|file| scope.spawn(|| storm(file))).collect();
                storms.into_iter().filter_map(|storm| storm.join().unwrap()).collect::<Vec<_>>()
            })
        })
        .collect();
    assert!(complaints.is_empty(), "{} of {} rows:\n{}", complaints.len(), rows.len(), complaints.join("\n"));
    assert!(is_part() || rows.len() >= 21);
}
