//! `goanyway doctor` against broken set-ups: each is named rightly, and the command that it names is
//! typed into a shell and mends it: asked again, the same line is well.
//!
//! Each set-up is a machine of its own: a network namespace with a resolv.conf, name servers and
//! mirrors on the ports that the world knows them by.

#[cfg(target_os = "linux")]
mod gateway;
mod machine;
mod names;
mod trust;
mod way_out;

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
