//! The program as typed: exit codes, one clear sentence for each mistake, and a quiet end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::binary::{Ended, home, listing};
use crate::support::client::{connect, get};
use crate::support::mirror::Mirror;
use crate::support::origin::echo;

/// The line that begins with `error: `.
fn error(ended: &Ended) -> &str {
    ended.err.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("no error: {ended:?}"))
}

#[test]
fn a_wrong_setting_is_told_with_its_place_and_ends_with_2() {
    let home = home();
    let file = home.at("goanyway.toml");
    let at = file.display().to_string();
    let table: &[(&str, &[&str], &str)] = &[
        ("[cache]\nsise = \"1GiB\"\n", &[], ":2:1: cache.sise is no setting; did you mean cache.size?"),
        ("[cache]\nsize = \"much\"\n", &[], ":2:8: cache.size = \"much\": expected a size such as 20GiB"),
        ("listen = \"here\"\n", &[], ":1:10: listen = \"here\": expected ADDRESS:PORT"),
        ("listen = \n", &[], ":1:"),
        ("", &["--allow-port", "99999"], "--allow-port = \"99999\": expected a port"),
        ("", &["--client", "10.0.0.0/33"], "--client = \"10.0.0.0/33\": expected a network"),
        ("", &["--upstream", "ftp://x"], "--upstream = \"ftp://x\": a URL here starts with http:// or https://"),
        ("", &["--listen", "0.0.0.0:0"], "--client CIDR"),
        ("", &["--parent", "socks5://x"], "--parent = \"socks5://x\": a parent proxy is an http:// or https:// URL"),
        (
            "",
            &["--parent", "a b=http://x"],
            "--parent = \"a b=http://x\": \"a b\" has a space in it; each target wants",
        ),
        ("", &["--parent", "10.0.0.0/99=http://x"], "\"10.0.0.0/99\" is no network; those are written as 10.0.0.0/8"),
        ("", &["--sumdb", "sum..example+1+x"], "\"sum..example\" is no name of a checksum database: a host"),
        ("", &["--host", "a.example"], "--host = \"a.example\": expected NAME=ADDRESS"),
        ("", &["--log-level", "loud"], "--log-level = \"loud\": expected error, warn, info, debug or trace"),
    ];
    for (text, flags, sentence) in table {
        fs::write(&file, text).unwrap();
        let ended = home.run(&[&["serve", "--config", &at], *flags].concat());
        assert_eq!(ended.code, Some(2), "{text}{flags:?}: {ended:?}");
        assert!(error(&ended).contains(sentence), "{}", error(&ended));
    }
    let unreadable = home.run(&["serve", "--config", "/nowhere/goanyway.toml"]);
    assert_eq!(unreadable.code, Some(2));
    assert!(error(&unreadable).contains("cannot read /nowhere/goanyway.toml"));
    assert_eq!(home.run(&["serve", "--nonsense"]).code, Some(2));
}

/// `goanyway man >FILE` ended with 0 on a full disk, and a package had half a manual.
#[cfg(target_os = "linux")]
/// A minimal image: two lines told of stores, and none of what comes of it.
#[test]
fn a_machine_without_roots_is_told_what_to_install() {
    let home = home();
    let mut command = home.goanyway(&["run", "--", "true"]);
    let ended = Ended::of(command.env("SSL_CERT_FILE", home.at("nowhere.pem")).output().unwrap());
    let told: Vec<&str> = ended.err.lines().filter(|line| line.contains("root certificate")).collect();
    assert!(told.len() == 1 && told[0].contains("install ca-certificates"), "{}", ended.err);
}

#[test]
fn a_full_disk_is_told_by_every_command_that_hands_out_data() {
    let home = home();
    assert_eq!(home.run(&["ca", "init"]).code, Some(0));
    let pages = home.at("pages").display().to_string();
    let lines: &[&[&str]] = &[
        &["man"],
        &["man", &pages],
        &["completions", "bash"],
        &["env"],
        &["config", "show"],
        &["config", "check", "--json"],
        &["ca", "show"],
        &["ca", "export"],
        &["ca", "export", "--format", "der"],
        &["gateway", "print", "--transparent", "0.0.0.0:3129", "--subnet", "10.7.0.0/16", "--client", "10.7.0.0/16"],
        &["resolve", "a.example"],
        &["serve", "--help"],
        &["--version"],
    ];
    for line in lines {
        let with = |output: std::process::Stdio| Ended::of(home.goanyway(line).stdout(output).output().unwrap());
        let full = with(fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into());
        assert_eq!(full.code, Some(2), "{line:?}: {full:?}");
        assert!(
            error(&full).starts_with("error: cannot write to standard output: No space left"),
            "{line:?}: {full:?}"
        );
        // `goanyway man | head -1`
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let closed = with(writer.into());
        assert!(!closed.err.contains("cannot write") && !closed.err.contains("panicked"), "{line:?}: {closed:?}");
    }
}

/// A listener on all addresses was told to clients as http://0.0.0.0.
#[test]
fn what_a_client_types_leads_to_us() {
    let home = home();
    let arguments = ["serve", "--listen", "0.0.0.0:0", "--admin", "none", "--client", "127.0.0.0/8"];
    let served = home.spawn(home.goanyway(&arguments));
    assert!(served.said.contains("export GOPROXY=http://127.0.0.1:"), "{}", served.said);
}

/// Complaints end up in logs of CI: the password of a mistyped proxy URL stood in them.
#[test]
fn a_complaint_keeps_passwords_to_itself() {
    let home = home();
    let values = ["http://u:s3cret@proxy.example:99999", "socks5://u:s3cret@proxy.example", "u:s3cret@proxy.example:x"];
    for value in values {
        let ended = home.run(&["serve", "--parent", value]);
        assert_eq!(ended.code, Some(2));
        assert!(error(&ended).contains("***@proxy.example") && !ended.err.contains("s3cret"), "{}", ended.err);
    }
}

#[test]
fn a_mistyped_variable_is_said_and_is_no_reason_to_stop() {
    let home = home();
    let ended = Ended::of(
        home.goanyway(&["run", "--", "true"])
            .env("GOANYWAY_FALBACK", "none")
            .env("GOANYWAY_CONFIG", "")
            .output()
            .unwrap(),
    );
    assert_eq!(ended.code, Some(0));
    assert!(ended.err.contains("did you mean GOANYWAY_FALLBACK?"), "{}", ended.err);
}

#[test]
fn an_address_that_cannot_be_had_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = home().run(&["serve", "--listen", &address]);
    assert_eq!(ended.code, Some(2));
    assert!(error(&ended).contains(&format!("cannot listen on {address}")), "{}", error(&ended));
    assert!(error(&ended).contains("--listen"), "{}", error(&ended));
}

#[test]
fn a_named_folder_must_be_usable_and_a_default_one_need_not() {
    let home = home();
    let file = home.at("a-file");
    fs::write(&file, "not a folder").unwrap();
    let inside = file.join("cache").display().to_string();
    for flag in ["--cache-dir", "--state-dir", "--ca-dir"] {
        let ended = home.run(&["serve", "--listen", "127.0.0.1:0", "--admin", "none", flag, &inside]);
        assert_eq!(ended.code, Some(2), "{flag}: {ended:?}");
        assert!(error(&ended).contains(&inside), "{flag}: {}", error(&ended));
        assert!(flag == "--ca-dir" || error(&ended).contains("there is a file in its place"), "{}", error(&ended));
    }
    let mut command = home.goanyway(&["serve", "--listen", "127.0.0.1:0", "--admin", "none"]);
    for variable in ["XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"] {
        command.env(variable, &inside);
    }
    let served = home.spawn(command);
    assert_eq!(served.said.matches("note").count(), 3, "{}", served.said);
    assert!(served.said.contains("--cache-dir") && served.said.contains("--state-dir"), "{}", served.said);
}

#[test]
fn a_broken_ca_key_stops_the_start_and_is_left_alone() {
    let home = home();
    assert_eq!(home.run(&["ca", "init"]).code, Some(0));
    let dir = home.at("data/goanyway/certs");
    fs::write(dir.join("issuer.key"), "-----BEGIN PRIVATE KEY-----\nbm9uc2Vuc2U=\n-----END PRIVATE KEY-----\n")
        .unwrap();
    let before = listing(&dir);
    let ended = home.run(&["serve", "--listen", "127.0.0.1:0", "--admin", "none"]);
    assert_eq!(ended.code, Some(2));
    assert!(error(&ended).contains("issuer.key"), "{}", error(&ended));
    assert_eq!(listing(&dir), before);
}

#[test]
fn a_cache_from_the_future_is_refused() {
    let home = home();
    drop(home.serve(&[]));
    let layout = home.at("cache/goanyway/layout");
    fs::write(&layout, "99\n").unwrap();
    let ended = home.run(&["serve", "--listen", "127.0.0.1:0", "--admin", "none"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(error(&ended).contains("99"), "{}", error(&ended));
    assert_eq!(fs::read_to_string(&layout).unwrap(), "99\n");
}

#[tokio::test]
async fn told_to_stop_it_finishes_what_is_under_way_and_ends_with_0() {
    let home = home();
    let origin = echo().await;
    let served = home.serve(&["--allow-port", &origin.port().to_string()]);
    let ready = fs::read_to_string(home.at("ready")).unwrap();
    assert!(ready.contains(&format!("listen={}\n", served.address)) && ready.contains("admin=127.0.0.1:"), "{ready}");

    let (_, mut tunnel) = connect(served.address, &origin.to_string(), None).await;
    tunnel.write_all(b"before").await.unwrap();
    tunnel.read_exact(&mut [0; 6]).await.unwrap();
    served.tell_to_stop();
    // The balancer in front is told for as long as somebody is still served.
    let admin = home.listeners("admin")[0];
    while get(admin, "/readyz").await.status != 503 {}
    tunnel.write_all(b"after").await.unwrap();
    let mut heard = [0; 5];
    tunnel.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"after");
    drop(tunnel);
    let (code, _) = tokio::task::spawn_blocking(move || served.ended()).await.unwrap();
    assert_eq!(code, Some(0));
}

#[test]
fn run_passes_on_the_code_of_its_command() {
    let home = home();
    assert_eq!(home.run(&["run", "--", "sh", "-c", "exit 7"]).code, Some(7));
    assert_eq!(home.run(&["run", "--", "sh", "-c", "kill -9 $$"]).code, Some(137));
    let absent = home.run(&["run", "--", "/nowhere/program"]);
    assert_eq!(absent.code, Some(127));
    assert!(error(&absent).contains("/nowhere/program"));
    let said = home.run(&["run", "--", "true"]);
    assert_eq!(said.err.lines().filter(|line| line.starts_with("goanyway: ")).count(), 2, "{}", said.err);
}

#[tokio::test]
async fn run_is_private_to_its_command() {
    let home = home();
    let mirror = Mirror::of("example.com/m", &["v1.0.0"]).await;
    let (url, asking) = (mirror.url(), "printf '%s %s' \"$HTTPS_PROXY\" \"$SSL_CERT_FILE\"");
    let run = move || home.run(&["run", "--upstream", &url, "--", "sh", "-c", asking]);
    let ended = tokio::task::spawn_blocking(run).await.unwrap();
    let (proxy, bundle) = ended.out.split_once(' ').unwrap();
    let (user, rest) = proxy.strip_prefix("http://").unwrap().split_once('@').unwrap();
    assert!(user.starts_with("ca-") && user.len() > "ca-12345678:".len() + 16, "{proxy}");
    assert!(rest.starts_with("127.0.0.1:"), "{proxy}");
    assert!(!bundle.is_empty(), "{ended:?}");
}

#[tokio::test]
async fn env_prints_what_a_shell_can_take() {
    let home = home();
    let served = home.serve(&[]);
    let at = served.address.to_string();
    let ended = home.run(&["env", "--listen", &at]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let script = format!("{}\nprintf '%s|%s|%s' \"$HTTPS_PROXY\" \"$NO_PROXY\" \"$SSL_CERT_FILE\"", ended.out);
    let mut shell = Command::new("sh");
    home.surround(&mut shell);
    let taken = Ended::of(shell.env("NO_PROXY", "corp.example").args(["-c", &script]).output().unwrap());
    let parts: Vec<&str> = taken.out.split('|').collect();
    assert!(parts[0].starts_with("http://ca-") && parts[0].ends_with(&at), "{taken:?}");
    let bundle = fs::read_to_string(parts[2]).unwrap();
    let ca = get(served.address, "/ca.pem").await.text();
    assert!(bundle.contains(ca.trim()), "the bundle has our root");
    assert!(bundle.matches("BEGIN CERTIFICATE").count() > 1, "and the system's");
}

#[test]
fn the_ca_is_made_once_and_shown() {
    let home = home();
    assert_eq!(home.run(&["ca", "show"]).code, Some(1));
    assert_eq!(home.run(&["ca", "init"]).code, Some(0));
    let again = home.run(&["ca", "init"]);
    assert_eq!(again.code, Some(2), "{again:?}");
    let shown = home.run(&["ca", "show"]);
    assert_eq!(shown.code, Some(0));
    assert!(shown.out.contains("ca.pem"), "{}", shown.out);
    let key = fs::metadata(home.at("data/goanyway/certs/issuer.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
}

/// `goanyway resolve NAME... | head -1` ended with 2, wrong usage, and "Broken pipe (os error 32)".
#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let home = home();
    assert_eq!(home.run(&["ca", "init"]).code, Some(0));
    for arguments in [&["resolve", "localhost"][..], &["resolve", "--json", "localhost"], &["ca", "show"], &["--help"]]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = Ended::of(home.goanyway(arguments).stdout(writer).output().unwrap());
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{arguments:?}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ended = Ended::of(home.goanyway(&["env", "--listen", "127.0.0.1:9"]).stdout(writer).output().unwrap());
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// `goanyway help` said of resolve what its type is for: "What is typed after `resolve`".
#[test]
fn help_says_what_each_command_does() {
    let help = home().run(&["help"]).out;
    let said: Vec<String> = help.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for start in ["serve Run ", "run Start ", "resolve Resolve ", "env Print ", "ca The local ", "config The settings "]
    {
        assert!(said.iter().any(|line| line.starts_with(start)), "{start}: {help}");
    }
}
