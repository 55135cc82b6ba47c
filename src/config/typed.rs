//! What was typed: values as text, each with the place it came from, flag over variable over file.
//!
//! Nothing is understood here beyond keys and lists; what a value means is [`super::settings`]'
//! business, and its complaints name the place that this file remembers.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::table::{self, Many, ROWS, Row};

/// Where a value was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Flag(&'static str),
    Variable(String),
    File {
        path: PathBuf,
        line: usize,
        column: usize,
        key: String,
    },
    /// A supervisor bound it and handed it over under this name.
    Socket(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(flag) => write!(f, "--{flag}"),
            Origin::Variable(name) => f.write_str(name),
            Origin::Socket(name) => write!(f, "the socket {name} that was handed over"),
            Origin::File { path, line, column, key } => write!(f, "{}:{line}:{column}: {key}", path.display()),
        }
    }
}

impl Origin {
    /// Line and column, if it is in a file.
    pub fn place(&self) -> Option<(usize, usize)> {
        match self {
            Origin::File { line, column, .. } => Some((*line, *column)),
            Origin::Flag(_) | Origin::Variable(_) | Origin::Socket(_) => None,
        }
    }
}

/// One value as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub text: String,
    pub origin: Origin,
}

/// Everything that was typed, by key.
#[derive(Clone, Debug, Default)]
pub struct Typed(HashMap<&'static str, Vec<Entry>>);

impl Typed {
    /// Gathers from all three sources; for each key the highest that has it wins.
    pub fn gather(
        flags: &HashMap<&'static str, Vec<String>>,
        environment: &dyn Fn(&str) -> Option<String>,
        file: Option<&Path>,
    ) -> Result<Typed, Error> {
        let (typed, mut wrong) = Typed::gather_all(flags, environment, file);
        if wrong.is_empty() { Ok(typed) } else { Err(wrong.swap_remove(0)) }
    }

    /// The same, as far as it can be read, and all that is wrong with it, as it stands in the file.
    pub(super) fn gather_all(
        flags: &HashMap<&'static str, Vec<String>>,
        environment: &dyn Fn(&str) -> Option<String>,
        file: Option<&Path>,
    ) -> (Typed, Vec<Error>) {
        let (mut typed, wrong) = file.map(read_file).unwrap_or_default();
        for row in ROWS {
            let variable = row.variable();
            if let Some(text) = environment(&variable).filter(|text| !text.is_empty()) {
                let origin = Origin::Variable(variable);
                let entry = |text: &str| Entry { text: text.trim().to_owned(), origin: origin.clone() };
                typed.0.insert(row.key, split(row, &text).map(entry).collect());
            }
            if let Some(values) = flags.get(row.key).filter(|values| !values.is_empty()) {
                let origin = Origin::Flag(row.flag.unwrap_or(row.key));
                let entry = |text: &String| Entry { text: text.clone(), origin: origin.clone() };
                typed.0.insert(row.key, values.iter().map(entry).collect());
            }
        }
        (typed, wrong)
    }

    /// Takes out the values of a key that this is true of; whether there were any.
    pub(super) fn set_aside(&mut self, key: &str, is_wrong: impl Fn(&Entry) -> bool) -> bool {
        let Some(entries) = self.0.get_mut(key) else { return false };
        let all = entries.len();
        entries.retain(|entry| !is_wrong(entry));
        let fewer = entries.len() < all;
        if entries.is_empty() {
            self.0.remove(key);
        }
        fewer
    }

    /// Adds the address of a socket that was handed over under this name: it is as good as typed.
    pub fn hand_over(&mut self, key: &'static str, name: &'static str, address: SocketAddr) {
        let entries = self.0.entry(key).or_default();
        let text = address.to_string();
        if entries.iter().all(|entry| entry.text != text) {
            entries.push(Entry { text, origin: Origin::Socket(name) });
        }
    }

    /// The keys whose values differ, in the order of the table.
    pub fn changes(&self, other: &Typed) -> Vec<&'static str> {
        let texts = |typed: &Typed, key| {
            typed.all(key).map(|entries| entries.iter().map(|entry| entry.text.clone()).collect::<Vec<_>>())
        };
        ROWS.iter().map(|row| row.key).filter(|key| texts(self, key) != texts(other, key)).collect()
    }

    /// Takes these keys' values from another.
    pub fn adopt(&mut self, keys: &[&'static str], other: &Typed) {
        for &key in keys {
            match other.0.get(key) {
                Some(entries) => drop(self.0.insert(key, entries.clone())),
                None => drop(self.0.remove(key)),
            }
        }
    }

    /// The values of a key, none if nobody typed any.
    pub fn all(&self, key: &'static str) -> Option<&[Entry]> {
        debug_assert!(table::find(key).is_some(), "no row for {key}");
        self.0.get(key).map(Vec::as_slice)
    }

    /// The one value of a key.
    pub fn one(&self, key: &'static str) -> Option<&Entry> {
        self.all(key)?.last()
    }
}

fn split<'a>(row: &Row, text: &'a str) -> Box<dyn Iterator<Item = &'a str> + 'a> {
    match row.many {
        Many::One => Box::new(std::iter::once(text)),
        Many::Replace | Many::Add => Box::new(text.split(',').filter(|part| !part.trim().is_empty())),
    }
}

/// What a file says, and all that is wrong with it, in the order of its lines.
fn read_file(path: &Path) -> (Typed, Vec<Error>) {
    match std::fs::read_to_string(path) {
        Ok(text) => parse_file(path, &text),
        Err(error) => (Typed::default(), vec![Error::Unreadable { path: path.to_owned(), why: error.to_string() }]),
    }
}

fn parse_file(path: &Path, text: &str) -> (Typed, Vec<Error>) {
    let mut file = File { path, text, typed: Typed::default(), wrong: Vec::new() };
    let (table, broken) = DeTable::parse_recoverable(text);
    if broken.is_empty() {
        file.collect("", table.get_ref());
        file.wrong.sort_by_key(Error::place);
    }
    // Where the form is broken, keys and values are guesses.
    for error in broken {
        let (line, column) = place_of(text, error.span().map_or(0, |span| span.start));
        let why = error.message().to_owned();
        file.wrong.push(Error::Syntax { path: path.to_owned(), line, column, why });
    }
    (file.typed, file.wrong)
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
    typed: Typed,
    wrong: Vec<Error>,
}

impl File<'_> {
    fn collect(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            match (table::find(&key), value.get_ref()) {
                (Some(row), _) => {
                    let entries = self.entries(row, value);
                    self.typed.0.insert(row.key, entries);
                }
                (None, DeValue::Table(inner)) if ROWS.iter().any(|row| row.key.starts_with(&format!("{key}."))) => {
                    self.collect(&format!("{key}."), inner);
                }
                (None, _) => {
                    let origin = self.origin(name.span().start, &key);
                    self.wrong.push(Error::UnknownKey { near: nearest(&key), origin });
                }
            }
        }
    }

    fn entries(&mut self, row: &Row, value: &Spanned<DeValue<'_>>) -> Vec<Entry> {
        match value.get_ref() {
            DeValue::Array(items) if row.many != Many::One => {
                items.iter().filter_map(|item| self.entry(row, item)).collect()
            }
            _ => self.entry(row, value).into_iter().collect(),
        }
    }

    fn entry(&mut self, row: &Row, value: &Spanned<DeValue<'_>>) -> Option<Entry> {
        let origin = self.origin(value.span().start, row.key);
        match scalar(value.get_ref()) {
            Some(text) => Some(Entry { text, origin }),
            None => {
                self.wrong.push(Error::BadType { origin, got: value.get_ref().type_str(), wanted: row.value });
                None
            }
        }
    }

    fn origin(&self, at: usize, key: &str) -> Origin {
        let (line, column) = place_of(self.text, at);
        Origin::File { path: self.path.to_owned(), line, column, key: key.to_owned() }
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// Line and column, from 1 on, the columns in letters.
fn place_of(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

/// The known key that a mistyped one is closest to, if any is close.
fn nearest(key: &str) -> Option<&'static str> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let far = |known: &str| distance(key, known).min(distance(&last(key), &last(known)) + 1);
    closest(ROWS.iter().map(|row| row.key), far)
}

/// Which of the known words somebody may have meant who typed this one.
pub fn near<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    closest(known, |known| distance(given, known))
}

/// A hint at it for the end of a sentence.
pub fn did_you_mean(near: Option<&str>) -> String {
    near.map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}

fn closest<'a>(known: impl IntoIterator<Item = &'a str>, far: impl Fn(&str) -> usize) -> Option<&'a str> {
    known
        .into_iter()
        .map(|known| (far(known), known))
        .min_by_key(|(far, _)| *far)
        .filter(|(far, _)| *far <= 3)
        .map(|(_, known)| known)
}

/// What to say of variables that look like ours and are none: a mistyped one is otherwise as good as
/// not set, and with GOANYWAY_FALLBACK that would mean asking outside.
pub fn strangers(names: impl Iterator<Item = String>) -> Vec<String> {
    let known: Vec<String> =
        ROWS.iter().map(Row::variable).chain(ELSEWHERE.iter().map(|&name| name.to_owned())).collect();
    let stranger = |name: &String| name.starts_with("GOANYWAY_") && !known.contains(name);
    let say = |name: String| {
        let hint = did_you_mean(near(&name, known.iter().map(String::as_str)));
        format!("{name} is no setting and is not used{hint}")
    };
    names.filter(stranger).map(say).collect()
}

/// Variables of ours that are no settings of the table.
const ELSEWHERE: [&str; 5] =
    ["GOANYWAY_CONFIG", "GOANYWAY_READY_FILE", "GOANYWAY_SUMMARY", "GOANYWAY_OFFLINE", "GOANYWAY_FROZEN"];

/// How far two spellings are apart: Levenshtein's distance.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &b) in to.iter().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

/// What is wrong with the places, before anything is understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}: {why}", path.display())]
    Unreadable { path: PathBuf, why: String },
    #[error("{}:{line}:{column}: {why}", path.display())]
    Syntax { path: PathBuf, line: usize, column: usize, why: String },
    #[error("{origin} is no setting{}", did_you_mean(*near))]
    UnknownKey { origin: Origin, near: Option<&'static str> },
    #[error("{origin}: expected {wanted}, not {got}")]
    BadType { origin: Origin, got: &'static str, wanted: &'static str },
}

impl Error {
    /// Its line and column, if it is at a place of a file.
    pub(super) fn place(&self) -> Option<(usize, usize)> {
        match self {
            Error::Syntax { line, column, .. } => Some((*line, *column)),
            Error::UnknownKey { origin, .. } | Error::BadType { origin, .. } => origin.place(),
            Error::Unreadable { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Typed, Error> {
        let (typed, mut wrong) = parse_file(Path::new("goanyway.toml"), text);
        if wrong.is_empty() { Ok(typed) } else { Err(wrong.remove(0)) }
    }

    fn texts(typed: &Typed, key: &'static str) -> Vec<String> {
        typed.all(key).unwrap_or_default().iter().map(|entry| entry.text.clone()).collect()
    }

    #[test]
    fn flag_beats_variable_beats_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "[cache]\nsize = \"1GiB\"\nmemory = \"2MiB\"\ndir = \"/file\"\n").unwrap();
        let flags = HashMap::from([("cache.size", vec!["3GiB".to_owned()])]);
        let environment = |name: &str| match name {
            "GOANYWAY_CACHE_SIZE" => Some("4GiB".to_owned()),
            "GOANYWAY_CACHE_MEMORY" => Some("5MiB".to_owned()),
            "GOANYWAY_FALLBACK" => Some("8.8.8.8, tls://1.1.1.1#one.one".to_owned()),
            _ => None,
        };
        let typed = Typed::gather(&flags, &environment, Some(file.path())).unwrap();
        let one = |key| typed.one(key).unwrap().text.as_str();
        assert_eq!((one("cache.size"), one("cache.memory"), one("cache.dir")), ("3GiB", "5MiB", "/file"));
        assert_eq!(texts(&typed, "resolve.fallback"), ["8.8.8.8", "tls://1.1.1.1#one.one"]);
        assert_eq!(typed.one("cache.size").unwrap().origin.to_string(), "--cache-size");
    }

    #[test]
    fn a_mistyped_variable_is_said() {
        let names = ["GOANYWAY_FALBACK", "GOANYWAY_FALLBACK", "GOANYWAY_CONFIG", "PATH", "GOANYWAY_XYZZY_PLUGH"];
        let said = strangers(names.into_iter().map(str::to_owned));
        assert_eq!(
            said,
            [
                "GOANYWAY_FALBACK is no setting and is not used; did you mean GOANYWAY_FALLBACK?",
                "GOANYWAY_XYZZY_PLUGH is no setting and is not used",
            ]
        );
    }

    #[test]
    fn lists_may_be_lists_or_one_value() {
        let typed = parsed("listen = [\"127.0.0.1:1\", \"[::1]:1\"]\n[admit]\nports = 8444\n").unwrap();
        assert_eq!(texts(&typed, "listen"), ["127.0.0.1:1", "[::1]:1"]);
        assert_eq!(texts(&typed, "admit.ports"), ["8444"]);
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let table = [
            ("[cache]\nsise = 1\n", "goanyway.toml:2:1: cache.sise is no setting; did you mean cache.size?"),
            ("nameservers = 1\n", "goanyway.toml:1:1: nameservers is no setting; did you mean resolve.nameservers?"),
            ("[nonsense]\nx = 1\n", "goanyway.toml:1:2: nonsense is no setting"),
            ("\n\nlisten = [[1]]\n", "goanyway.toml:3:11: listen: expected ADDR, not array"),
            ("[cache]\nsize = [1]\n", "goanyway.toml:2:8: cache.size: expected SIZE, not array"),
        ];
        for (text, said) in table {
            assert_eq!(parsed(text).unwrap_err().to_string(), said);
        }
        assert!(parsed("a = \n").unwrap_err().to_string().starts_with("goanyway.toml:1:"));
    }
}
