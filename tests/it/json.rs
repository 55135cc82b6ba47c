//! What `--json` prints, for programs: every command's keys are in `tests/golden/json.txt` and on a page of `docs/`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use crate::support::binary::{Ended, Home, home};
use crate::support::golden;
use crate::support::mirror::Mirror;
use crate::support::needs::have;

/// Where each command's keys are described.
const PAGES: [(&str, &str); 13] = [
    ("resolve", "docs/json.md"),
    ("doctor", "docs/doctor.md"),
    ("run --summary", "docs/run.md"),
    ("warm", "docs/json.md"),
    ("cache stat", "docs/json.md"),
    ("cache list", "docs/json.md"),
    ("cache verify", "docs/json.md"),
    ("cache prune", "docs/json.md"),
    ("cache export", "docs/json.md"),
    ("cache import", "docs/json.md"),
    ("ca show", "docs/json.md"),
    ("config show", "docs/json.md"),
    ("config check", "docs/json.md"),
];

/// The paths of all keys, `[]` for what is in a list.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            let own = format!("{path}{}{key}", if path.is_empty() { "" } else { "." });
            keys(value, &own, found);
            found.insert(own);
        }),
        Value::Array(items) => items.iter().for_each(|item| keys(item, &format!("{path}[]"), found)),
        _ => {}
    }
}

fn keys_of(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        keys(&value.unwrap_or_else(|why| panic!("{why}: {text}")), "", &mut found);
    }
    found
}

fn run(home: &Home, line: &str) -> Ended {
    let mut command = home.goanyway(&line.split_whitespace().collect::<Vec<_>>());
    command.current_dir(home.at("."));
    tokio::task::block_in_place(|| Ended::of(command.output().unwrap()))
}

/// What each command prints in a home where there is something to tell.
async fn printed(home: &Home) -> Vec<(&'static str, String)> {
    let mirror = Mirror::of("example.com/m", &["v1.0.0"]).await;
    let url = mirror.url();
    let out = |line: String| run(home, &line).out;
    assert_eq!(run(home, "ca init").code, Some(0));
    assert_eq!(run(home, "ca rotate").code, Some(0));
    std::fs::write(home.at("wrong.toml"), "listen = \"here\"\n[admit]\nclient = 1\n").unwrap();
    let warm = out(format!("warm --json --upstream {url} example.com/m@v1.0.0 example.com/m@v9.9.9"));
    let summary = |flags: &[&str], file: &str| {
        let fetch = "curl -fsS --noproxy x -x $http_proxy -o got $MIRROR/example.com/m/@v/$FILE; exit 0";
        let line = [&["run", "--summary", "run.json", "--upstream", &url], flags, &["--", "sh", "-c", fetch]].concat();
        let mut asking = home.goanyway(&line);
        asking.current_dir(home.at(".")).env("MIRROR", &url).env("FILE", file);
        let ended = tokio::task::block_in_place(|| Ended::of(asking.output().unwrap()));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        std::fs::read_to_string(home.at("run.json")).unwrap()
    };
    let summaries = summary(&[], "v1.0.0.zip") + &summary(&["--offline"], "v9.9.9.zip");
    let mut told = vec![
        ("resolve", out("resolve --json localhost goproxy.cn".to_owned())),
        // All that it looks at changes from machine to machine.
        ("doctor", out("doctor --json --listen nonsense".to_owned())),
        ("run --summary", summaries),
        ("warm", warm),
        ("cache stat", out("cache stat --json".to_owned())),
        ("cache list", out("cache list --json".to_owned())),
        ("cache export", out("cache export --json out".to_owned())),
        ("cache import", out("cache import --json out".to_owned())),
        ("ca show", out("ca show --json".to_owned())),
        ("config show", out("config show --json".to_owned())),
        ("config check", out("config check --json wrong.toml missing.toml".to_owned())),
    ];
    // One byte behind our back.
    let zip = home.at("cache/goanyway/download/example.com/m/@v/v1.0.0.zip");
    let mut bytes = std::fs::read(&zip).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&zip, bytes).unwrap();
    told.push(("cache verify", out("cache verify --json".to_owned())));
    told.push(("cache prune", out("cache prune --json example.com/m@v1.0.0".to_owned())));
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_that_programs_read_are_promised_and_described() {
    if !have("the_keys_that_programs_read_are_promised_and_described", &["curl"]) {
        return;
    }
    let home = home();
    let mut text = String::new();
    let printed = printed(&home).await;
    for (command, page) in PAGES {
        let (_, json) = printed.iter().find(|(own, _)| *own == command).unwrap();
        let found = keys_of(json);
        assert!(!found.is_empty(), "{command} printed {json:?}");
        let described = golden::promised(page);
        let _ = writeln!(text, "== {command} ({page})");
        for path in found {
            // What is kept, and which way names were rescued, are no keys of ours.
            if path.starts_with("kinds.") && !path.ends_with("s") {
                continue;
            }
            let key = path.rsplit('.').next().unwrap();
            let is_told = described.contains(&format!("`{key}`")) || described.contains(&format!("\"{key}\""));
            assert!(is_told, "{page} does not describe {path} of {command}");
            let _ = writeln!(text, "{path}");
        }
    }
    golden::keeps("tests/golden/json.txt", &text);
}

/// Data alone is on standard output, and nothing of it in colour.
#[test]
fn what_is_no_data_is_not_on_standard_output() {
    let home = home();
    for line in ["ca show --json", "cache stat --json", "config check --json missing.toml", "resolve --json 1.1.1.1"] {
        let ended = home.run(&line.split_whitespace().collect::<Vec<_>>());
        assert_ne!(ended.code, Some(0), "{line}");
        let is_data = ended.out.is_empty() || serde_json::from_str::<Value>(&ended.out).is_ok();
        // Errors alone are in words.
        assert!(is_data && !ended.out.contains('\u{1b}'), "{line}: {}", ended.out);
    }
}
