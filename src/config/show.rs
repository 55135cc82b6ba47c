//! The settings that hold, each with where it comes from.
//!
//! What was typed is told as it was typed, but for passwords and tokens. Of the rest, what holds without it is
//! told in the same form, so that typing just that would change nothing; where there is no such form, in words.

use std::time::Duration;

use super::defaults;
use super::settings::{Settings, without_secrets};
use super::table::{Many, ROWS, Row};
use super::typed::{Entry, Origin, Typed};
use crate::{accept, intercept, resolve};

/// One setting as it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub row: &'static Row,
    pub value: Value,
    /// Where it was typed; nothing where it is the default.
    pub origin: Option<Origin>,
    /// Whether a password or a token was left out of it.
    pub is_veiled: bool,
}

/// What a setting is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    One(String),
    List(Vec<String>),
    /// Nothing that could be typed; the row has words for it.
    Words,
}

/// Every setting, in the order of the table.
pub fn show(typed: &Typed, settings: &Settings) -> Vec<Shown> {
    let shown = |row: &'static Row| match typed.all(row.key) {
        Some(entries) if !entries.is_empty() => of_entries(row, entries),
        _ => Shown { row, value: default(settings, row), origin: None, is_veiled: false },
    };
    ROWS.iter().map(shown).collect()
}

fn of_entries(row: &'static Row, entries: &[Entry]) -> Shown {
    let texts: Vec<String> = entries.iter().map(|entry| without_secrets(&entry.text)).collect();
    let is_veiled = texts.iter().zip(entries).any(|(shown, entry)| *shown != entry.text);
    let origin = entries.first().map(|entry| entry.origin.clone());
    let value = match row.many {
        Many::One => Value::One(texts.last().cloned().unwrap_or_default()),
        Many::Replace | Many::Add => Value::List(texts),
    };
    Shown { row, value, origin, is_veiled }
}

/// What holds where nobody typed it.
fn default(settings: &Settings, row: &Row) -> Value {
    let one = |value: &dyn ToString| Value::One(value.to_string());
    let path = |path: Option<&std::path::PathBuf>| path.map_or(Value::Words, |path| one(&path.display()));
    match row.key {
        "listen" => list([defaults::LISTEN]),
        "admin.listen" => one(&defaults::ADMIN),
        "cache.dir" => path(settings.cache_dir.path.as_ref()),
        "cache.size" => Value::One(size(settings.cache.size)),
        "cache.memory" => Value::One(size(settings.cache.memory)),
        "state_dir" => path(settings.state_dir.path.as_ref()),
        // Without a home there is no folder for it.
        "intercept.ca_dir" => path(Some(&settings.intercept.ca_dir).filter(|dir| !dir.as_os_str().is_empty())),
        "intercept.mode" => one(match settings.intercept.mode {
            intercept::Mode::Auto => &"auto",
            intercept::Mode::Always => &"always",
            intercept::Mode::Off => &"off",
        }),
        "resolve.nameservers" => list(&settings.resolve.nameservers),
        "resolve.fallback" => list(&settings.resolve.fallback),
        "resolve.scope" => one(match settings.resolve.scope {
            resolve::Scope::Public => &"public",
            resolve::Scope::Known => &"known",
            resolve::Scope::Off => &"off",
        }),
        "goproxy.sumdb" => list(settings.goproxy.sumdb.iter().map(|database| &database.name)),
        "goproxy.private" => list(&settings.goproxy.private),
        "goproxy.hold" => Value::One(size(settings.goproxy.hold)),
        "goproxy.hold_for" => Value::One(span(settings.goproxy.hold_for)),
        "goproxy.fresh" => Value::One(span(settings.goproxy.fresh)),
        "connect.parent" => list(["env"]),
        "admit.per_client" => one(&accept::PER_CLIENT),
        "trace.otlp" => one(&"none"),
        "log.level" => one(&"info"),
        "log.format" => one(&"text"),
        _ if row.many == Many::Add => Value::List(Vec::new()),
        _ => Value::Words,
    }
}

fn list<T: ToString>(values: impl IntoIterator<Item = T>) -> Value {
    Value::List(values.into_iter().map(|value| value.to_string()).collect())
}

/// As one would type it.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    unit.map_or_else(|| bytes.to_string(), |(shift, name)| format!("{}{name}", bytes >> shift))
}

fn span(span: Duration) -> String {
    match span.subsec_millis() {
        0 => format!("{}s", span.as_secs()),
        _ => format!("{}ms", span.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn around(name: &str) -> Option<String> {
        match name {
            "HOME" => Some("/home/u".to_owned()),
            "GOPRIVATE" => Some("git.corp.example/*,*.internal.example".to_owned()),
            _ => None,
        }
    }

    fn understood(flags: HashMap<&'static str, Vec<String>>) -> (Typed, Settings) {
        let typed = Typed::gather(&flags, &|_| None, None).unwrap();
        let settings = Settings::understand(&typed, &around).unwrap();
        (typed, settings)
    }

    /// Whoever types what is shown has what they had.
    #[test]
    fn defaults_are_told_in_a_form_that_means_the_same() {
        let (typed, settings) = understood(HashMap::new());
        let shown = show(&typed, &settings);
        let values = |shown: &Shown| match &shown.value {
            Value::One(text) => vec![text.clone()],
            Value::List(texts) => texts.clone(),
            Value::Words => Vec::new(),
        };
        // Who sets them to nothing sets nothing; the level is each command's own.
        let typable = shown.iter().filter(|one| !values(one).is_empty() && one.row.key != "log.level");
        let flags: HashMap<_, _> = typable.map(|one| (one.row.key, values(one))).collect();
        assert!(flags.len() > 15, "{flags:?}");
        let (_, again) = understood(flags);
        let text = |settings: &Settings| format!("{settings:#?}").replace("named: true", "named: false");
        let (before, after) = (text(&settings), text(&again));
        for (one, other) in before.lines().zip(after.lines()) {
            assert_eq!(one, other);
        }
    }

    #[test]
    fn what_was_typed_is_told_with_its_place_and_without_its_passwords() {
        let flags = HashMap::from([
            ("connect.parent", vec!["http://u:s3cret@proxy.example:3128".to_owned(), "a.example=none".to_owned()]),
            ("cache.size", vec!["1GiB".to_owned()]),
        ]);
        let (typed, settings) = understood(flags);
        let shown = show(&typed, &settings);
        let of = |key| shown.iter().find(|one| one.row.key == key).unwrap();
        let parent = of("connect.parent");
        let values = vec!["http://***@proxy.example:3128".to_owned(), "a.example=none".to_owned()];
        assert_eq!((&parent.value, parent.is_veiled), (&Value::List(values), true));
        assert_eq!(without_secrets("https://collector.example/?token=s3cret"), "https://collector.example/?***");
        assert_eq!(of("cache.size").origin, Some(Origin::Flag("cache-size")));
        assert_eq!((of("user").origin.clone(), &of("user").value), (None, &Value::Words));
        assert!(!format!("{shown:?}").contains("s3cret"));
    }

    #[test]
    fn sizes_and_spans_are_told_as_they_are_typed() {
        let sizes = [(20 << 30, "20GiB"), (256 << 20, "256MiB"), (1024, "1KiB"), (1025, "1025"), (0, "0")];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(span(Duration::from_millis(1500)), "1500ms");
        assert_eq!(span(Duration::from_secs(60)), "60s");
    }
}
