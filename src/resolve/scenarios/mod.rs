//! The failure matrix as scenario files: `tests/scenarios/*.scn`, played under a paused clock against
//! the whole resolver (memory, keep, health, flights, [`Search`]), on a wire that leads to a [`Stage`].
//!
//! A file is read line by line; `#` begins a comment, the first of which are its story. A line that
//! begins with `==` is a heading: `asked` counts from there. What else a line may say is in [`Line`].
//! A file whose line `open: WHY` says so must fail, and complains when it no longer does.

mod play;
#[allow(dead_code, reason = "the integration tests speak the rest of this vocabulary")]
mod says;
mod script;
mod stage;

pub(super) use stage::{Stage, Staged};

use std::path::{Path, PathBuf};

/// Reads and plays every file, and tells what went otherwise, a sentence each.
#[test]
fn every_row_of_the_failure_matrix() {
    let only = std::env::var("SCENARIO").ok();
    let mut complaints = Vec::new();
    let mut played = 0;
    for path in files() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        played += 1;
        complaints.extend(judge(&name, &std::fs::read_to_string(&path).unwrap()));
    }
    assert!(complaints.is_empty(), "{played} scenarios played:\n{}", complaints.join("\n"));
    assert!(only.is_some() || played >= 34, "a scenario is missing: there are only {played}");
}

/// A scenario that could not fail would be a defect: each expectation, mutated, must be noticed.
#[test]
fn a_scenario_whose_expectation_is_changed_fails() {
    let mut unnoticed = Vec::new();
    for path in files() {
        let text = std::fs::read_to_string(&path).unwrap();
        if script::is_open(&text).is_some() {
            continue;
        }
        for (number, mutant) in script::mutants(&text) {
            if play::complaints(&mutant).is_empty() {
                unnoticed.push(format!("{}:{number}: nobody noticed that it was changed", path.display()));
            }
        }
    }
    assert!(unnoticed.is_empty(), "{}", unnoticed.join("\n"));
}

/// The promise itself: beside any two faults, an honest server in any place is found, by the cap, unless
/// two operators deny the name, which is as much as a name can be denied.
#[test]
fn an_honest_server_is_found_beside_any_two_faults() {
    let mut complaints = Vec::new();
    for (system, plain) in FAULTS.iter().flat_map(|system| FAULTS.map(|plain| (*system, plain))) {
        let denied = DENIALS.contains(&system) && DENIALS.contains(&plain);
        for honest in ["system 10.0.0.2", "plain 192.0.2.2", "encrypted 192.0.2.9"] {
            let servers = format!("system 10.0.0.1 {system}\nplain 192.0.2.1 {plain}\n{honest} answers 1.1.1.9\n");
            for name in ["goproxy.cn", "other.example"] {
                let text = format!("{servers}look up {name} -> found 1.1.1.9 within 3050 ms\n");
                let told = if denied { Vec::new() } else { play::complaints(&text) };
                complaints.extend(told.into_iter().map(|(_, what)| format!("{servers}{what}")));
            }
        }
    }
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

/// What a server may do that leaves the truth to another one.
const FAULTS: [&str; 14] = [
    "nxdomain",
    "nodata",
    "alias-loop",
    "servfail",
    "refused",
    "notimp",
    "formerr",
    "lame",
    "silent",
    "closed",
    "garbage",
    "broken",
    "answers 0.0.0.0",
    "slow 5000 answers 6.6.6.6",
];
const DENIALS: [&str; 3] = ["nxdomain", "nodata", "alias-loop"];

fn judge(name: &str, text: &str) -> Vec<String> {
    let told = play::complaints(text).into_iter().map(|(line, what)| format!("{name}.scn:{line}: {what}"));
    let told: Vec<String> = told.collect();
    match (script::is_open(text), told.is_empty()) {
        (None, _) => told,
        (Some(_), false) => Vec::new(),
        (Some(why), true) => vec![format!("{name}.scn: it holds now, so take out the line \"open: {why}\"")],
    }
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "scn")).collect();
    files.sort();
    files
}
