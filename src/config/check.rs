//! All that is wrong with settings at once: everything that `serve` would stop at, one after the other.
//!
//! What is wrong is set aside and the rest understood again, until nothing is wrong with that. What is only
//! wrong because something it rests on is, is not told.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use super::settings::{Error, Settings, without_secrets};
use super::table::ROWS;
use super::typed::{self, Entry, Origin, Typed};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it was typed; nothing where it is the lack of something.
    pub origin: Option<Origin>,
    /// The setting that it is about.
    pub key: Option<String>,
    /// What is wrong, and what was expected.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(Origin::File { path, line, column, .. }) => {
                write!(f, "{}:{line}:{column}: {}", path.display(), self.what)
            }
            Some(origin) => write!(f, "{origin}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// Everything that is wrong with what was typed in these places, in the order in which it stands there.
pub fn find_faults(
    flags: &HashMap<&'static str, Vec<String>>,
    around: &dyn Fn(&str) -> Option<String>,
    file: Option<&Path>,
    alone: bool,
) -> Vec<Fault> {
    // A file that is checked for another machine is not to be blamed for the variables of this one.
    let nothing = |_: &str| None;
    let environment: &dyn Fn(&str) -> Option<String> = if alone { &nothing } else { around };
    let (mut typed, wrong) = Typed::gather_all(flags, environment, file);
    let mut doubtful: HashSet<&str> = wrong.iter().filter_map(key_meant).collect();
    let mut faults: Vec<Fault> = wrong.into_iter().map(of_form).collect();
    while let Err(error) = Settings::understand(&typed, around) {
        if !error.rests_on().iter().any(|key| doubtful.contains(key)) {
            faults.push(of_meaning(&error, &typed));
        }
        match set_aside(&mut typed, &error) {
            Some(keys) => doubtful.extend(keys),
            None => break,
        }
    }
    faults.sort_by_key(|fault| fault.origin.as_ref().and_then(Origin::place));
    faults
}

/// The setting that a place is about, or may have been meant for.
fn key_meant(error: &typed::Error) -> Option<&'static str> {
    match error {
        typed::Error::UnknownKey { near, .. } => *near,
        typed::Error::BadType { origin: Origin::File { key, .. }, .. } => {
            ROWS.iter().map(|row| row.key).find(|known| known == key)
        }
        _ => None,
    }
}

fn of_form(error: typed::Error) -> Fault {
    match error {
        typed::Error::UnknownKey { origin, near } => {
            let key = key_of(&origin);
            let what = format!("{} is no setting{}", key.as_deref().unwrap_or_default(), typed::did_you_mean(near));
            Fault { origin: Some(origin), key, what }
        }
        typed::Error::BadType { origin, got, wanted } => {
            let key = key_of(&origin);
            let what = format!("{}: expected {wanted}, not {got}", key.as_deref().unwrap_or_default());
            Fault { origin: Some(origin), key, what }
        }
        typed::Error::Syntax { path, line, column, why } => {
            let origin = Origin::File { path, line, column, key: String::new() };
            Fault { origin: Some(origin), key: None, what: why }
        }
        // Whoever tells it names the file.
        typed::Error::Unreadable { why, .. } => {
            Fault { origin: None, key: None, what: format!("cannot be read: {why}") }
        }
    }
}

fn of_meaning(error: &Error, typed: &Typed) -> Fault {
    match error {
        Error::Value { origin, value, why } => {
            let key = key_of(origin);
            let what = match &key {
                Some(key) => format!("{key} = {value:?}: {why}"),
                None => format!("{value:?}: {why}"),
            };
            Fault { origin: Some(origin.clone()), key, what }
        }
        error => {
            let found = error.keys().iter().find_map(|&key| {
                let is_it = |entry: &&Entry| error.address().is_none_or(|address| entry.text.parse() == Ok(address));
                let entry = typed.all(key)?.iter().find(is_it)?;
                Some((key, entry.origin.clone()))
            });
            let (key, origin) = found.unzip();
            let in_file = matches!(origin, Some(Origin::File { .. }));
            let what = if in_file { in_keys(&error.to_string()) } else { error.to_string() };
            Fault { origin, key: key.map(str::to_owned), what }
        }
    }
}

fn key_of(origin: &Origin) -> Option<String> {
    match origin {
        Origin::File { key, .. } => Some(key.clone()),
        Origin::Flag(_) | Origin::Variable(_) | Origin::Socket(_) => None,
    }
}

/// Flags are what a command line has: a file is told the keys of the same.
fn in_keys(sentence: &str) -> String {
    let word = |word: &str| {
        let flag = word.strip_prefix("--")?;
        ROWS.iter().find(|row| row.flag == Some(flag)).map(|row| row.key.to_owned())
    };
    let words = sentence.split(' ').map(|text| word(text).unwrap_or_else(|| text.to_owned()));
    words.collect::<Vec<_>>().join(" ")
}

/// Takes out what an error is about; the keys of that, or nothing, where nothing is.
fn set_aside(typed: &mut Typed, error: &Error) -> Option<Vec<&'static str>> {
    let keys: Vec<&'static str> = match error {
        Error::Value { .. } => ROWS.iter().map(|row| row.key).collect(),
        error => error.keys().to_vec(),
    };
    let is_wrong = |entry: &Entry| match error {
        Error::Value { origin, value, .. } => entry.origin == *origin && without_secrets(&entry.text) == *value,
        _ => true,
    };
    let taken: Vec<&'static str> = keys.into_iter().filter(|key| typed.set_aside(key, is_wrong)).collect();
    (!taken.is_empty()).then_some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("goanyway.toml");
        std::fs::write(&file, text).unwrap();
        let around = |name: &str| (name == "HOME").then(|| "/home/u".to_owned());
        let faults = find_faults(&HashMap::new(), &around, Some(&file), true);
        let at = format!("{}:", file.display());
        faults.iter().map(|fault| fault.to_string().replace(&at, "")).collect()
    }

    #[test]
    fn a_sound_file_has_no_faults() {
        assert_eq!(told("listen = \"0.0.0.0:3128\"\n[admit]\nclients = [\"10.7.0.0/16\"]\n"), Vec::<String>::new());
        assert_eq!(told(""), Vec::<String>::new());
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_and_in_its_order() {
        let text = "listen = [\"127.0.0.1:3128\", \"here\"]\n\
                    user = 3.5\n\
                    [cache]\n\
                    sise = \"1GiB\"\n  memory = \"much\"\n\
                    [resolve]\n\
                    hosts = [\"a.example=nowhere\", \"b.example=10.0.0.1\", \"c.example\"]\n";
        assert_eq!(
            told(text),
            [
                "1:29: listen = \"here\": expected ADDRESS:PORT, such as 127.0.0.1:3128 or [::1]:3128",
                "2:8: user: expected NAME[:GROUP], not float",
                "4:1: cache.sise is no setting; did you mean cache.size?",
                "5:12: cache.memory = \"much\": expected a size such as 20GiB, 500MB or 0",
                "7:10: resolve.hosts = \"a.example=nowhere\": \"nowhere\" is no IP address",
                "7:53: resolve.hosts = \"c.example\": expected NAME=ADDRESS",
            ]
        );
    }

    #[test]
    fn a_listener_for_everybody_is_told_in_the_words_of_the_file() {
        let open = "listen = [\"127.0.0.1:1\", \"0.0.0.0:3128\"]\n[dns]\nlisten = \"0.0.0.0:53\"\n";
        let told_open = told(open);
        assert_eq!(told_open.len(), 2, "{told_open:?}");
        assert!(told_open[0].starts_with("1:26: listen 0.0.0.0:3128 is open to the network"), "{told_open:?}");
        assert!(told_open[0].ends_with("admit.clients CIDR or admit.credentials FILE"), "{told_open:?}");
        assert!(told_open[1].starts_with("3:10: dns.listen 0.0.0.0:53 is open"), "{told_open:?}");
        assert!(told("[listen_tls]\ncert = \"c\"\n")[0].starts_with("2:8: TLS to clients wants both"));
    }

    /// With the network of the clients mistyped, the listener is not open because somebody left it so.
    #[test]
    fn what_rests_on_something_wrong_is_not_told() {
        let wrong = told("listen = \"0.0.0.0:3128\"\n[admit]\nclients = [\"10.7.0.0/99\"]\n");
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].starts_with("3:12: admit.clients = \"10.7.0.0/99\""), "{wrong:?}");
        let mistyped = told("listen = \"0.0.0.0:3128\"\n[admit]\nclient = [\"10.7.0.0/16\"]\n");
        assert_eq!(mistyped, ["3:1: admit.client is no setting; did you mean admit.clients?"]);
    }

    #[test]
    fn of_a_broken_form_only_that_is_told() {
        let broken = told("listen = \n[cache]\nsize = \"1GiB\nsise = 1\n");
        assert!(broken.len() >= 2 && broken[0].starts_with("1:"), "{broken:?}");
        assert!(!broken.iter().any(|fault| fault.contains("no setting")), "{broken:?}");
    }

    #[test]
    fn variables_are_told_by_their_name_and_no_password_is() {
        let around = |name: &str| match name {
            "GOANYWAY_PARENT" => Some("http://u:s3cret@proxy.example:99999".to_owned()),
            "GOANYWAY_LISTEN" => Some("here,127.0.0.1:1,there".to_owned()),
            _ => None,
        };
        let faults = find_faults(&HashMap::new(), &around, None, false);
        let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told.iter().filter(|fault| fault.starts_with("GOANYWAY_LISTEN: \"")).count() == 2, "{told:?}");
        assert!(told.iter().any(|fault| fault.starts_with("GOANYWAY_PARENT: \"http://***@proxy.example:99999\"")));
        assert_eq!(find_faults(&HashMap::new(), &around, None, true), []);
    }
}
