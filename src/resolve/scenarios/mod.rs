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
