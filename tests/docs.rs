//! What the documents name is there: the tests that `docs/threat-model.md` and `docs/incumbents.md` cite for
//! each promise, and the files and pages that any document points to.
//!
//! A test is cited in backticks by its bare name. Whatever has two underscores or more and is no metric is
//! taken for one, so that a misspelt name is a complaint and not prose.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_test_that_a_promise_cites_is_there() {
    let tests = tests_of(&root());
    for page in ["docs/threat-model.md", "docs/incumbents.md"] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let cited = cited(&text);
        assert!(cited.len() > 50, "{page} cites {} tests: it was not read", cited.len());
        let missing: Vec<_> = cited.difference(&tests).collect();
        assert!(missing.is_empty(), "{page} cites tests that are not there: {missing:#?}");
    }
}

#[test]
fn every_file_that_a_document_points_to_is_there() {
    for page in documents() {
        let text = fs::read_to_string(&page).unwrap();
        let pointed: Vec<PathBuf> = links(&text).map(|link| page.parent().unwrap().join(link)).collect();
        let named: Vec<PathBuf> = paths(&text).map(|path| root().join(path)).collect();
        for place in pointed.iter().chain(&named) {
            assert!(place.exists(), "{} points to {}, which is not there", page.display(), place.display());
        }
    }
}

/// Whoever searches for a message finds it in the words that the program says.
#[test]
fn the_messages_in_the_faq_are_ours() {
    let sources: String =
        files(&root().join("src"), "rs").iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let text = fs::read_to_string(root().join("docs/faq.md")).unwrap();
    let quoted: Vec<&str> =
        ["## What goanyway refuses", "## It does not start"].iter().flat_map(|head| first_cells(&text, head)).collect();
    assert!(quoted.len() > 20, "the tables of docs/faq.md were not read: {quoted:?}");
    for message in quoted {
        let constant = constant_parts(message);
        assert!(!constant.is_empty(), "docs/faq.md: {message} has nothing to be looked for");
        let strange: Vec<_> = constant.iter().filter(|part| !sources.contains(part.as_str())).collect();
        assert!(strange.is_empty(), "docs/faq.md: {message}: nothing in src/ says {strange:?}");
    }
}

#[test]
fn what_is_cited_is_told_from_prose() {
    let text = "`a_test_of_ours`, `goanyway_cache_dropped_total`, `per_client`, a_test_without_ticks, `x`. \
                [one](names.md#kinds), [two](https://a.example/b.md), `deploy/ci/README.md`, `docs/`, `src/lib.rs:3`";
    assert_eq!(cited(text), BTreeSet::from(["a_test_of_ours".to_owned()]));
    assert_eq!(links(text).collect::<Vec<_>>(), ["names.md"]);
    assert_eq!(paths(text).collect::<Vec<_>>(), ["deploy/ci/README.md", "docs/"]);
}

#[test]
fn a_test_is_told_from_another_function() {
    let source =
        "#[test]\nfn one() {}\nfn helper() {}\n#[tokio::test(start_paused = true)]\n#[ignore]\nasync fn two() {}";
    assert_eq!(tests_in(source).collect::<Vec<_>>(), ["one", "two"]);
}

#[test]
fn the_parts_of_a_message_that_never_change_are_found() {
    let message = "10.7.9.3 is a private address; allow: --allow-target 10.7.9.3";
    assert_eq!(constant_parts(message), ["address; allow: --allow-target"]);
    assert_eq!(constant_parts("clients at 10.7.1.2 are not admitted …"), ["are not admitted"]);
    let table = "## A\n| message | x |\n| --- | --- |\n| `one`, `two` (403) | `not` |\n## B\n| `no` | |";
    assert_eq!(first_cells(table, "## A").collect::<Vec<_>>(), ["one", "two"]);
}

/// What is in backticks in the first column of the table below a heading.
fn first_cells<'a>(text: &'a str, heading: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let section = text.split_once(heading).map_or("", |(_, rest)| rest);
    let section = section.split("\n## ").next().unwrap_or_default();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2))
}

/// The runs of three words or more in which no word is a value: a number, an address, a name.
fn constant_parts(message: &str) -> Vec<String> {
    const VALUES: [&str; 5] = ["private", "loopback", "build.corp;", "cache.sise", "cache.size?"];
    let is_value =
        |word: &str| VALUES.contains(&word) || word.starts_with('…') || word.chars().any(|c| c.is_ascii_digit());
    let words: Vec<&str> = message.split_whitespace().collect();
    let runs = words.split(|word| is_value(word)).filter(|run| run.len() >= 3 || run.len() == words.len());
    runs.map(|run| run.join(" ")).collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn documents() -> Vec<PathBuf> {
    let pages = files(&root().join("docs"), "md").into_iter().chain(files(&root().join("deploy"), "md"));
    pages.chain(["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|page| root().join(page))).collect()
}

/// The names of tests that a text cites.
fn cited(text: &str) -> BTreeSet<String> {
    let is_name = |word: &&str| {
        let plain = word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        plain && word.matches('_').count() >= 2 && !word.starts_with("goanyway_")
    };
    ticked(text).filter(is_name).map(str::to_owned).collect()
}

/// Where a text's links lead within this repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let ends = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
    ends.filter(|link| !link.contains("://"))
        .map(|link| link.split('#').next().unwrap_or_default())
        .filter(|link| !link.is_empty())
}

/// The files and folders that a text names from the root on.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    const FOLDERS: [&str; 4] = ["deploy/", "docs/", "src/", "tests/"];
    let is_path = |word: &&str| {
        let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
        plain && FOLDERS.iter().any(|folder| word.starts_with(folder))
    };
    ticked(text).filter(is_path)
}

/// What stands in single backticks.
fn ticked(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

fn tests_of(root: &Path) -> BTreeSet<String> {
    let sources = files(&root.join("src"), "rs").into_iter().chain(files(&root.join("tests"), "rs"));
    let texts = sources.map(|source| fs::read_to_string(source).unwrap());
    texts.flat_map(|text| tests_in(&text).map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// The functions that an attribute calls tests.
fn tests_in(source: &str) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    source.lines().map(str::trim).filter_map(move |line| {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        }
        let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?.split('(').next()?;
        std::mem::take(&mut is_test).then_some(name)
    })
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let below = entries.into_iter().flat_map(|path| match path.is_dir() {
        true if path.ends_with("node_modules") => Vec::new(),
        true => files(&path, extension),
        false => vec![path],
    });
    below.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}
