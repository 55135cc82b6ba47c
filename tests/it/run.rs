//! `goanyway run`: whoever signals it means its command and all that the command started, and a
//! terminal's job control goes on as without it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::binary::{Ended, home};
use crate::support::needs::have;

/// A shell that waits for a grandchild, which says who it is.
const FAMILY: &str = "sh -c 'echo $$; exec sleep 30'; exit 3";

fn tell(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn what_it_alone_is_told_reaches_the_whole_family() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
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
