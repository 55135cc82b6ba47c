//! The program itself, as a user starts it: an environment of its own, folders of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// A place for one user's goanyway.
pub struct Home {
    pub folder: TempDir,
}

pub fn home() -> Home {
    Home { folder: tempfile::tempdir().unwrap() }
}

impl Home {
    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program with nothing from our environment but the PATH, and nobody to ask outside.
    pub fn goanyway(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_goanyway"));
        command.args(arguments);
        self.surround(&mut command);
        command
    }

    /// Gives a command the same surroundings.
    pub fn surround(&self, command: &mut Command) {
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        for (variable, name) in [
            ("HOME", "."),
            ("XDG_CACHE_HOME", "cache"),
            ("XDG_STATE_HOME", "state"),
            ("XDG_DATA_HOME", "data"),
            ("XDG_CONFIG_HOME", "config"),
        ] {
            command.env(variable, self.at(name));
        }
        command.env("GOANYWAY_NAMESERVER", "udp://127.0.0.1:9").env("GOANYWAY_FALLBACK", "none");
        command.env("GOANYWAY_ALLOW_TARGET", "127.0.0.0/8").env("GOANYWAY_SUMDB", "off");
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(self.goanyway(arguments).output().unwrap())
    }

    /// Runs a script of a shell in this folder, with these variables set before.
    pub fn shell(&self, script: &str, variables: &[(&str, &str)]) -> Ended {
        let mut command = Command::new("sh");
        self.surround(&mut command);
        command.args(["-ec", script]).current_dir(self.at(".")).envs(variables.iter().copied());
        Ended::of(command.output().unwrap())
    }

    /// The addresses of the listeners of one name, as the ready file of a `serve` has them.
    pub fn listeners(&self, name: &str) -> Vec<SocketAddr> {
        let ready = std::fs::read_to_string(self.at("ready")).unwrap();
        let pairs = ready.lines().map(|line| line.split_once('=').unwrap());
        pairs.filter(|(own, _)| *own == name).map(|(_, address)| address.parse().unwrap()).collect()
    }

    /// Starts `serve` on free ports and returns once it serves.
    pub fn serve(&self, arguments: &[&str]) -> Served {
        let mut all = vec!["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        all.extend(arguments);
        self.spawn(self.goanyway(&all))
    }

    /// Starts a command line of `serve` that is already made.
    pub fn spawn(&self, mut command: Command) -> Served {
        command.stdout(Stdio::null());
        self.spawn_with(command)
    }

    /// The same, with the standard output that the command has.
    pub fn spawn_with(&self, mut command: Command) -> Served {
        let ready = self.at("ready");
        command.arg("--ready-file").arg(&ready).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        // Its last line, said when it serves and the ready file is written.
        while !said.contains("everything, safe") {
            let read = stderr.read_line(&mut said).unwrap();
            assert!(read > 0, "it ended instead of serving: {said}");
        }
        Served { address: address_in(&said), said, child: Beside(child), stderr }
    }
}

fn address_in(said: &str) -> SocketAddr {
    let line = said.lines().find(|line| line.trim_start().starts_with("listening")).unwrap();
    line.split_whitespace().nth(1).unwrap().trim_end_matches(',').parse().unwrap()
}

/// A program beside a test, killed at its end.
pub struct Beside(pub Child);

/// Starts a program whose input stays open, and returns once it has said this line.
pub fn beside(mut command: Command, word: &str) -> Beside {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut beside, mut said) = (Beside(child), String::new());
    BufReader::new(beside.0.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said.trim_end(), word);
    beside
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A `serve` that runs, and is ended with its test.
pub struct Served {
    /// What its start said.
    pub said: String,
    pub address: SocketAddr,
    child: Beside,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Served {
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    pub fn tell_to_stop(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until it says a line with these words in it, and gives the line.
    pub fn hear(&mut self, words: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.stderr.read_line(&mut line).unwrap();
            assert!(read > 0, "it ended before it said {words:?}");
            if line.contains(words) {
                return line;
            }
        }
    }

    /// Waits for its end: the exit code, and the rest of what it said.
    pub fn ended(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        (self.child.0.wait().unwrap().code(), rest)
    }
}

/// A command that ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    pub fn of(output: Output) -> Ended {
        Ended {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Everything under a folder, by name, for seeing that nothing changed.
pub fn listing(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(listing(&path))
        } else {
            found.push((path.clone(), std::fs::read(path).unwrap()))
        }
    }
    found.sort();
    found
}
