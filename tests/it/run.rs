//! `goanyway run`: whoever signals it means its command and all that the command started, and a
//! terminal's job control goes on as without it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::binary::{Ended, Home, home};
use crate::support::mirror::{Mirror, files};
use crate::support::nameserver::{Nameserver, Says};
use crate::support::needs::have;

/// A shell that waits for a grandchild, which says who it is.
const FAMILY: &str = "sh -c 'echo $$; exec sleep 30'; exit 3";

fn tell(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn what_it_alone_is_told_reaches_the_whole_family() {
    for (signal, code) in
        [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129), (Signal::QUIT, 131), (Signal::USR1, 138)]
    {
        let home = home();
        let mut command = home.goanyway(&["run", "--", "sh", "-c", FAMILY]);
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut run = piped.spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(run.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert!(line.trim().parse::<u32>().is_ok(), "the grandchild is up: {line}");
        tell(&run, signal);
        // It ends when nobody holds its other end: no process of the family is left.
        assert_eq!(output.read_line(&mut line).unwrap(), 0, "{signal:?}: {line}");
        assert_eq!(run.wait().unwrap().code(), Some(code), "{signal:?}");
    }
}

#[test]
fn a_command_that_ends_well_when_told_to_is_believed() {
    let home = home();
    let mut command =
        home.goanyway(&["run", "--", "sh", "-c", "trap 'exit 4' TERM; echo up; while :; do sleep 1 & wait $!; done"]);
    let mut run = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(run.stdout.take().unwrap()).read_line(&mut line).unwrap();
    tell(&run, Signal::TERM);
    assert_eq!(run.wait().unwrap().code(), Some(4));
}

/// nohup means that the end of a terminal is nobody's end.
#[test]
fn nohup_is_respected() {
    let home = home();
    let script = "trap '' HUP; exec \"$0\" run -- sh -c 'echo $PPID; read x; exit 6'";
    let mut command = Command::new("sh");
    home.surround(&mut command);
    command.args(["-c", script, env!("CARGO_BIN_EXE_goanyway")]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut run = command.stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(run.stdout.take().unwrap()).read_line(&mut line).unwrap();
    tell(&run, Signal::HUP);
    drop(run.stdin.take());
    assert_eq!(run.wait().unwrap().code(), Some(6));
}

#[test]
fn a_command_that_is_there_and_cannot_be_run_is_told_from_one_that_is_not() {
    let home = home();
    let file = home.at("text");
    std::fs::write(&file, "no program").unwrap();
    assert_eq!(home.run(&["run", "--", file.to_str().unwrap()]).code, Some(126));
    assert_eq!(home.run(&["run", "--", "no-such-program"]).code, Some(127));
}

/// The summary took the place of /dev/full, for the whole machine.
#[test]
fn what_is_no_file_is_written_into_and_stays() {
    use std::os::unix::fs::FileTypeExt;
    let home = home();
    let (pipe, link, file) = (home.at("pipe"), home.at("link.json"), home.at("file.json"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::fs::write(&file, "").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read_to_string(pipe).unwrap()
    });
    assert_eq!(home.run(&["run", "--summary", pipe.to_str().unwrap(), "--", "true"]).code, Some(0));
    assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
    assert!(reader.join().unwrap().contains("\"schema\": 1"));
    assert_eq!(home.run(&["run", "--summary", link.to_str().unwrap(), "--", "true"]).code, Some(0));
    assert!(link.is_symlink() && std::fs::read_to_string(&file).unwrap().contains("\"schema\": 1"));
    // Not /dev/stdout: were this broken, the machine would lose it.
    let output = "/proc/self/fd/1";
    let told = home.run(&["run", "--summary", output, "--", "true"]);
    assert!(told.code == Some(0) && told.out.contains("\"schema\": 1"), "{told:?}");
    let told = home.run(&["ca", "export", "--out", output]);
    assert!(told.code == Some(0) && told.out.contains("BEGIN CERTIFICATE"), "{told:?}");
}

#[test]
fn a_mistyped_flag_is_no_command() {
    let ended = home().run(&["run", "--ofline", "--", "true"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("--ofline is no flag of run; did you mean --offline?"), "{}", ended.err);
}

/// Asks for files of example.com/m, as whatever `run` set up for its command says.
const ASK: &str =
    "for file; do curl -fsS --noproxy '' -x \"$http_proxy\" -o /dev/null $MIRROR/example.com/m/@v/$file || exit; done";

async fn run_asking(home: &Home, mirror: &Mirror, flags: &[&str], files: &[&str]) -> Ended {
    let url = mirror.url();
    let arguments = [&["run", "--upstream", &url], flags, &["--", "sh", "-c", ASK, "sh"], files].concat();
    let mut command = home.goanyway(&arguments);
    command.env("MIRROR", &url);
    tokio::task::block_in_place(|| Ended::of(command.output().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_run_was_served_is_all_that_a_frozen_one_gets() {
    if !have("what_one_run_was_served_is_all_that_a_frozen_one_gets", &["curl"]) {
        return;
    }
    let (home, mirror) = (home(), Mirror::of("example.com/m", &["v1.0.0", "v1.1.0"]).await);
    let file = home.at("run.json");
    let (at, all) = (file.to_str().unwrap().to_owned(), ["v1.0.0.info", "v1.0.0.mod", "v1.0.0.zip"]);
    let ended = run_asking(&home, &mirror, &["--summary", &at], &all).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.contains("0 modules from the cache (0 B saved), 1 from upstream ("), "{}", ended.err);
    let text = std::fs::read_to_string(&file).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&summary["schema"], &summary["exit"]), (&1.into(), &0.into()));
    let fetches = summary["fetches"].as_array().unwrap();
    assert_eq!(fetches.len(), 3);
    let zip = fetches.iter().find(|fetch| fetch["kind"] == "zip").unwrap();
    assert_eq!((&zip["module"], &zip["version"]), (&"example.com/m".into(), &"v1.0.0".into()));
    assert!(zip["h1"].as_str().unwrap().starts_with("h1:") && zip["size"].as_u64().unwrap() > 100, "{zip}");
    assert_eq!((&zip["source"], &zip["upstream"]), (&"upstream".into(), &mirror.url().into()));
    assert_eq!(zip["reached"]["address"], mirror.origin.address.to_string());

    let again = home.at("again.json");
    run_asking(&home, &mirror, &["--summary", again.to_str().unwrap()], &all).await;
    let second: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&again).unwrap()).unwrap();
    assert!(second["fetches"].as_array().unwrap().iter().all(|fetch| fetch["source"] == "cache"), "{second}");

    let frozen = run_asking(&home, &mirror, &["--frozen", &at], &all).await;
    assert_eq!(frozen.code, Some(0), "{frozen:?}");
    let beyond = run_asking(&home, &mirror, &["--frozen", &at], &["v1.1.0.mod"]).await;
    assert_eq!(beyond.code, Some(22), "curl's word for a 403: {beyond:?}");
    assert!(beyond.err.contains("example.com/m@v1.1.0 (go.mod) is not in run.json"), "{}", beyond.err);
    assert_eq!(mirror.asked("v1.1.0.mod"), 0);

    // Other bytes under the same name; cached or not.
    std::fs::write(
        &file,
        text.replace(zip["h1"].as_str().unwrap(), "h1:other").replace(zip["sha256"].as_str().unwrap_or("none"), "0"),
    )
    .unwrap();
    let other = run_asking(&home, &mirror, &["--frozen", &at], &["v1.0.0.zip"]).await;
    assert_eq!(other.code, Some(22), "{other:?}");
    assert!(other.err.contains("and run.json has h1:other"), "{}", other.err);

    std::fs::write(&file, text.replace("\"schema\": 1", "\"schema\": 9")).unwrap();
    let later = run_asking(&home, &mirror, &["--frozen", &at], &["v1.0.0.zip"]).await;
    assert_eq!(later.code, Some(2), "{later:?}");
    assert!(later.err.contains("a summary of form 9"), "{}", later.err);
    let nowhere = run_asking(&home, &mirror, &["--summary", "/nowhere/run.json"], &["v1.0.0.zip"]).await;
    assert_eq!(nowhere.code, Some(2), "before the command runs: {nowhere:?}");
}

/// What a frozen run cannot serve is refused, each with its own reason; what it cannot read, before the command runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_run_says_what_its_summary_lacks() {
    if !have("a_frozen_run_says_what_its_summary_lacks", &["curl"]) {
        return;
    }
    let (home, mirror) = (home(), Mirror::of("example.com/m", &["v1.0.0"]).await);
    let file = home.at("run.json");
    let (at, all) = (file.to_str().unwrap().to_owned(), ["v1.0.0.info", "v1.0.0.mod", "v1.0.0.zip"]);
    assert_eq!(run_asking(&home, &mirror, &["--summary", &at], &all).await.code, Some(0));
    let text = std::fs::read_to_string(&file).unwrap();
    let with = |change: &dyn Fn(&mut Vec<serde_json::Value>)| {
        let mut summary: serde_json::Value = serde_json::from_str(&text).unwrap();
        change(summary["fetches"].as_array_mut().unwrap());
        std::fs::write(&file, summary.to_string()).unwrap();
    };

    with(&|fetches| {
        for fetch in fetches.iter_mut().filter_map(|fetch| fetch.as_object_mut()) {
            fetch.retain(|key, _| key != "h1" && key != "sha256");
        }
    });
    let unsummed = run_asking(&home, &mirror, &["--frozen", &at], &["v1.0.0.zip"]).await;
    assert_eq!(unsummed.code, Some(22), "{unsummed:?}");
    assert!(unsummed.err.contains("(zip) is in run.json without a sum, so it could be anything"), "{}", unsummed.err);
    assert_eq!(run_asking(&home, &mirror, &["--frozen", &at], &["v1.0.0.info"]).await.code, Some(0), "it says a time");

    with(&|fetches| fetches.clear());
    let nothing = run_asking(&home, &mirror, &["--frozen", &at], &["v1.0.0.info"]).await;
    assert_eq!(nothing.code, Some(22), "{nothing:?}");
    assert!(nothing.err.contains("is not in run.json, and --frozen serves nothing else"), "{}", nothing.err);

    // The mirror has other bytes under the same name, and nothing is cached here.
    std::fs::write(&file, &text).unwrap();
    let mut other = files("example.com/m", &["v1.0.0"]);
    other.insert("/example.com/m/@v/v1.0.0.mod".to_owned(), "module example.com/m\n\ngo 1.21\n".into());
    let swapped = Mirror::with(other).await;
    let differing = run_asking(&self::home(), &swapped, &["--frozen", &at], &["v1.0.0.mod"]).await;
    assert_eq!(differing.code, Some(22), "{differing:?}");
    let told = &differing.err;
    assert!(told.contains("(go.mod): its sum is h1:") && told.contains("and run.json has h1:"), "{told}");

    let asked = mirror.origin.heard().len();
    for (text, reason) in [
        (String::new(), "no summary of a run: the file is empty"),
        ("[]".to_owned(), "no summary of a run, or a damaged one: "),
        (text[..text.len() / 2].to_owned(), "no summary of a run, or a damaged one: EOF"),
        (text.replace("\"schema\": 1", "\"schema\": 0"), "a summary of form 0, written by goanyway "),
    ] {
        std::fs::write(&file, text).unwrap();
        let refused = run_asking(&home, &mirror, &["--frozen", &at], &["v1.0.0.zip"]).await;
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.err.contains(&format!("--frozen {at}: {reason}")), "{}", refused.err);
    }
    assert_eq!(mirror.origin.heard().len(), asked, "the command did not run");
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_nothing_leaves_and_what_was_missing_is_listed() {
    if !have("offline_nothing_leaves_and_what_was_missing_is_listed", &["curl"]) {
        return;
    }
    let (home, mirror) = (home(), Mirror::of("example.com/m", &["v1.0.0", "v1.1.0"]).await);
    assert_eq!(run_asking(&home, &mirror, &[], &["v1.0.0.zip", "list"]).await.code, Some(0));
    let (asked, nameserver) = (mirror.origin.heard().len(), Nameserver::start(Says::Address("127.0.0.1")).await);
    let server = format!("udp://{}", nameserver.address);
    let flags = ["--offline", "--nameserver", &server];
    let held = run_asking(&home, &mirror, &flags, &["v1.0.0.zip", "list"]).await;
    assert_eq!(held.code, Some(0), "{held:?}");
    assert!(!held.err.contains("not served"), "{}", held.err);
    let beyond = run_asking(&home, &mirror, &flags, &["v1.1.0.zip"]).await;
    assert_eq!(beyond.code, Some(22), "{beyond:?}");
    assert!(beyond.err.contains("1 thing asked for and not served:\n  example.com/m@v1.1.0 (zip)"), "{}", beyond.err);

    // The command succeeds, and what it did without is listed all the same.
    let script = "curl -s -x \"$http_proxy\" http://a.example/; curl -s -x \"$https_proxy\" https://b.example/; exit 0";
    let arguments = [&["run"], &flags[..], &["--", "sh", "-c", script]].concat();
    let elsewhere = tokio::task::block_in_place(|| home.run(&arguments));
    assert_eq!(elsewhere.code, Some(0), "{elsewhere:?}");
    for target in ["a.example:80", "b.example:443"] {
        assert!(elsewhere.err.contains(&format!("  {target}: ")), "{}", elsewhere.err);
    }
    assert_eq!(mirror.origin.heard().len(), asked, "no mirror was asked");
    assert_eq!(nameserver.names(), Vec::<String>::new(), "no name was asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_side_by_side_share_the_cache_and_no_password() {
    if !have("runs_side_by_side_share_the_cache_and_no_password", &["curl"]) {
        return;
    }
    let (home, mirror) = (home(), Mirror::of("example.com/m", &["v1.0.0"]).await);
    let start = || {
        let url = mirror.url();
        let script = format!("echo $http_proxy; {ASK}");
        let asking = ["run", "--upstream", &url, "--", "sh", "-c", &script, "sh"];
        let mut command = home.goanyway(&[&asking[..], &["v1.0.0.zip"; 5]].concat());
        command.env("MIRROR", &url).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let running: Vec<Child> = (0..3).map(|_| start()).collect();
    let wait = |run: Child| Ended::of(run.wait_with_output().unwrap());
    let ended: Vec<Ended> = tokio::task::block_in_place(|| running.into_iter().map(wait).collect());
    assert!(ended.iter().all(|ended| ended.code == Some(0)), "{ended:?}");
    let passwords: std::collections::HashSet<&str> =
        ended.iter().map(|ended| ended.out.split('@').next().unwrap()).collect();
    assert_eq!(passwords.len(), 3);
}

/// What a person at a terminal does, typed by python, which can make one: interrupts, stops, continues.
#[test]
fn on_a_terminal_keys_do_what_they_did() {
    if !have("on_a_terminal_keys_do_what_they_did", &["python3", "bash", "ps"]) {
        return;
    }
    let home = home();
    let mut command = Command::new("python3");
    home.surround(&mut command);
    command.args(["-c", TYPIST, env!("CARGO_BIN_EXE_goanyway")]);
    let ended = Ended::of(command.output().unwrap());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.ends_with("all went well\n"), "{ended:?}");
}

const TYPIST: &str = r#"
import os, pty, select, subprocess, sys
binary = sys.argv[1]
pid, terminal = pty.fork()
if pid == 0:
    os.environ['PS1'] = 'ready> '
    os.execvp('bash', ['bash', '--norc', '--noprofile', '-i'])
heard = ''
def until(text, again=None):
    global heard
    patience = 12
    while text not in heard:
        if not select.select([terminal], [], [], 5)[0]:
            patience -= 1
            assert patience, 'waited for %r, heard %r' % (text, heard)
            if again: type_in(again)
            continue
        heard += os.read(terminal, 4096).decode(errors='replace')
    before, heard = heard.split(text, 1)
    return before
def type_in(text):
    os.write(terminal, text.encode())
until('ready> ')
type_in("stty -echo; PS1='next''> '\n")
until('next> ')
# One interrupt from the keyboard is one interrupt.
type_in("'%s' run -- sh -c 'trap \"echo caught\" INT; echo up; until [ \"$x\" = q ]; do read x; done; echo end; exit 5'\n" % binary)
until('up')
type_in('\x03')
until('caught')
type_in('q\n')
assert 'caught' not in until('end'), 'interrupted twice'
until('next> ')
type_in('echo code $?\n')
until('code 5')
until('next> ')
# Stopped, and continued, as a job.
type_in("'%s' run -- cat\n" % binary)
type_in('one\n')
until('one')
type_in('\x1a')
until('Stopped')
until('next> ')
# What is typed while a terminal changes hands may be lost: it is typed again.
type_in('fg\n')
until('run -- cat', 'fg\n')
type_in('two\n')
until('two', 'two\n')
type_in('\x04')
until('next> ')
# Told alone, from elsewhere.
type_in("'%s' run -- sh -c 'echo up; exec sleep 30' & wait $!; echo code $?\n" % binary)
until('up')
children = subprocess.run(['ps', '-o', 'pid=,args=', '--ppid', str(pid)], capture_output=True, text=True).stdout
own = [line.split()[0] for line in children.splitlines() if 'run -- sh' in line]
assert len(own) == 1, children
os.kill(int(own[0]), 15)
until('code 143')
print('all went well')
"#;
