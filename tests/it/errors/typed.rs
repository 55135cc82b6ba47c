//! What the command line says to mistakes: each line as it is typed, what comes of it on both outputs, and the exit code.
//!
//! Nothing here needs root, a network or a terminal, and nothing that is printed changes from run to run.

use std::fs;

use crate::support::binary::{Ended, Home, home};

/// What is typed, in the order in which it is, in a folder of its own.
const LINES: &[&str] = &[
    // Words and flags that are none.
    "",
    "srve",
    "serve --listn 127.0.0.1:3128",
    "cache stats",
    "cache list --jsno",
    "ca shwo",
    "gateway aply",
    "config shw",
    "env --shell tcsh",
    "completions tcsh",
    "resolve --type mx goproxy.cn",
    "ca export --bundle --format der",
    "gateway print",
    // Before anybody has made one.
    "ca show",
    "ca rotate",
    "ca export",
    "ca install --dry-run",
    // Values that are none.
    "serve --config missing.toml",
    "serve --config wrong.toml",
    "serve --cache-size 5",
    "serve --log-level loud",
    "serve --log-format xml",
    "serve --intercept-mode sometimes",
    "serve --listen 0.0.0.0:3128",
    "serve --transparent 0.0.0.0:3129",
    "serve --dns 0.0.0.0:53",
    "serve --dns 127.0.0.1:53 --client 0.0.0.0/0",
    "serve --tls-cert cert.pem",
    "serve --user nobody-at-all",
    "serve --parent socks5://u:s3cret@proxy.example",
    "serve --otlp ftp://collector.example",
    "serve --sumdb sum.corp.example",
    "serve --nameserver 8.8.8",
    "serve --zone corp.example",
    "serve --host a.example",
    "serve --intercept 10.0.0.1",
    "serve --upstream https://u:s3cret@mirror.example",
    "serve --listen 127.0.0.1:0 --admin none --cache-dir text/cache",
    "serve --listen 127.0.0.1:0 --admin none --credentials missing",
    "config check missing.toml wrong.toml text sound.toml",
    "config check --json wrong.toml",
    "config show --config wrong.toml",
    "man text",
    // What is not there.
    "ca init --keep-root text --ca-dir other",
    "ca export --bundle --ca-dir made",
    "cache stat",
    "cache verify",
    "cache import text",
    "cache import --go-sum go.sum tree",
    "cache import --go-sum text tree",
    "cache prune",
    "cache prune --older-than soon",
    "cache prune --to much",
    "cache list a.b/c@",
    "resolve https://goproxy.cn/x",
    "resolve 1.1.1.1",
    "resolve a..example",
    "warm",
    "warm text",
    "warm missing/go.sum",
    "warm conflict/go.sum",
    "warm conflict/go.mod",
    "warm a.b/c@v1/0",
    "warm --toolchains 1.26.0 --platforms amiga",
    "warm --toolchains 1/26",
    "env --tls-cert cert.pem --tls-key key.pem",
    "gateway print --subnet 10.7.0.5/16 --transparent 0.0.0.0:3129 --client 10.7.0.0/16",
    "gateway print --subnet 10.7.0.0/16",
    "gateway print --subnet here",
    "gateway print --subnet 10.7.0.0/16 --transparent 0.0.0.0:3129 --client 10.7.0.0/16 --interface lo",
    "gateway print --subnet 10.7.0.0/16 --keep-dns x",
    // Commands of run's, and what it is told to read.
    "run",
    "run --ofline -- true",
    "run -- no-such-program",
    "run -- ./text",
    "run --frozen missing.json -- true",
    "run --frozen text -- true",
    "run --frozen empty.json -- true",
    "run --frozen later.json -- true",
    "run --summary missing/run.json -- true",
    "run --summary folder -- true",
];

/// All of it, as a session of a terminal.
pub fn all() -> String {
    let home = home();
    fs::write(home.at("text"), "no program, no folder, no settings\n").unwrap();
    fs::write(home.at("empty.json"), "").unwrap();
    fs::write(home.at("later.json"), r#"{"schema": 9, "goanyway": "3.0.0", "fetches": []}"#).unwrap();
    fs::write(home.at("wrong.toml"), "listen = \"here\"\n[cache]\nsise = \"1GiB\"\nmemory = \"much\"\n").unwrap();
    fs::write(home.at("sound.toml"), "[cache]\nsize = \"1GiB\"\n").unwrap();
    fs::create_dir(home.at("folder")).unwrap();
    fs::create_dir(home.at("conflict")).unwrap();
    fs::write(home.at("conflict/go.sum"), "<<<<<<< HEAD\n=======\n>>>>>>> other\n").unwrap();
    fs::write(home.at("conflict/go.mod"), "module x\n\nrequire a.b/c latest\n").unwrap();
    let tree = home.at("tree/example.com/m/@v");
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("v1.0.0.mod"), "module example.com/m\n").unwrap();
    fs::write(home.at("go.sum"), format!("example.com/m v1.0.0/go.mod h1:{}=\n", "A".repeat(43))).unwrap();
    let made = home.goanyway(&["ca", "init", "--ca-dir", "made"]).current_dir(home.at(".")).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    LINES.iter().map(|line| typed(&home, line)).collect()
}

fn typed(home: &Home, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut command = home.goanyway(&words);
    command.current_dir(home.at(".")).env_remove("GOANYWAY_SUMDB");
    if line.contains("--bundle --ca-dir") {
        // An image without roots.
        command.env("SSL_CERT_FILE", home.at("empty.json")).env("SSL_CERT_DIR", home.at("folder"));
    }
    let ended = Ended::of(command.output().unwrap());
    let at = home.folder.path().display().to_string();
    let plain = |text: &str| -> String {
        // How long it took is another time each time.
        let lines = text.lines().filter(|line| !line.starts_with("goanyway: 0 "));
        lines.map(|line| format!("{}\n", line.replace(&at, "~").trim_end())).collect()
    };
    let (out, err) = (plain(&ended.out), plain(&ended.err));
    assert!(!err.contains("s3cret") && !out.contains("s3cret"), "{err}");
    assert_ne!(ended.code, Some(0), "no mistake: {line}");
    format!("$ goanyway {line}\n{out}{err}[{}]\n\n", ended.code.map_or("signal".to_owned(), |code| code.to_string()))
}
