//! Every error that the house has words for is seen by a golden file: `tests/golden/errors.txt` has one of each kind
//! as a person reads it, `tests/golden/voices.txt` what a client is answered, and `tests/golden/typed.txt` what the
//! command line says to mistakes.
//!
//! The sources are read for what there is: a new error without a line in a golden file fails here, and so does a
//! line whose words have changed, until somebody has read it and blessed it (`GOANYWAY_BLESS=1`).

mod samples;
mod sources;
mod typed;
mod voices;

use std::fmt::Write as _;

use crate::support::golden;
use sources::Words;

const GOLDEN: [&str; 3] = ["tests/golden/errors.txt", "tests/golden/voices.txt", "tests/golden/typed.txt"];

/// Errors that no test can name, or that only pass from room to room, and the test that sees their words.
const ELSEWHERE: &[(&str, &str)] = &[
    ("src/accept/announce.rs Bad::Missing", "src/accept/announce.rs"),
    ("src/accept/announce.rs Bad::Long", "src/accept/announce.rs"),
    ("src/accept/announce.rs Bad::Malformed", "src/accept/announce.rs"),
    ("src/accept/mod.rs Unannounced::Late", "src/accept/mod.rs"),
    ("src/connect/mod.rs Error::Parent", "tests/it/parents.rs"),
    ("src/connect/parent.rs Error::Refused", "tests/it/parents.rs"),
    ("src/cli/mod.rs Failure::Output", "tests/it/cli.rs"),
    ("src/cli/stores.rs Error::File", "src/cli/stores.rs"),
    ("src/goproxy/log.rs Bad::Forged", "src/goproxy/log.rs"),
    ("src/goproxy/log.rs Bad::NoHead", "src/goproxy/log.rs"),
    ("src/goproxy/log.rs Bad::NoRecord", "src/goproxy/log.rs"),
    ("src/goproxy/log.rs Bad::OtherModule", "src/goproxy/log.rs"),
];

#[test]
fn an_error_of_each_kind_is_read_before_its_words_change() {
    let mut text = String::new();
    for (room, errors) in samples::all() {
        let _ = writeln!(text, "== {room}");
        errors.iter().for_each(|error| _ = writeln!(text, "{error}"));
    }
    golden::keeps(GOLDEN[0], &text);
}

#[tokio::test]
async fn what_a_client_is_answered_is_read_before_it_changes() {
    golden::keeps(GOLDEN[1], &voices::all().await);
}

#[test]
fn what_the_command_line_says_to_mistakes_is_read_before_it_changes() {
    golden::keeps(GOLDEN[2], &typed::all());
}

#[test]
fn no_error_is_without_a_golden_file_that_has_seen_it() {
    let seen: String = GOLDEN.iter().map(|name| golden::promised(name)).collect();
    let all = sources::all();
    assert!(all.len() > 180, "the sources were not read: {}", all.len());
    let unseen: Vec<String> =
        all.iter().filter(|error| !error.is_seen_in(&seen) && !is_elsewhere(error)).map(Words::to_string).collect();
    assert!(unseen.is_empty(), "no golden file has these (tests/it/errors/samples.rs):\n{}", unseen.join("\n"));
}

fn is_elsewhere(error: &Words) -> bool {
    ELSEWHERE.iter().any(|(name, _)| *name == error.name)
}

/// An exception that is none any more, or whose test is gone.
#[test]
fn what_is_seen_elsewhere_is_there() {
    let all = sources::all();
    for (name, test) in ELSEWHERE {
        let error =
            all.iter().find(|error| error.name == *name).unwrap_or_else(|| panic!("{name} is no error any more"));
        let variant = name.rsplit(' ').next().unwrap();
        let text = golden::promised(test);
        // A file that has the words because it says them is asked for the name.
        let is_quoted = !name.starts_with(test) && error.is_quoted_in(&text);
        assert!(is_quoted || text.contains(variant), "{test} knows nothing of {name}");
    }
}
