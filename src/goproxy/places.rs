//! What a kept file is, told from where it lies: the reverse of where answers are put.
//!
//! `download/` is the tree of the pool that origin form serves, `hosts/<base>/` another host's,
//! `sumdb/<database>/` records, tiles and the pinned head, `passed/` tiles of databases whose key is not
//! known, `absent/` what an upstream said is not there. Nothing here reads a file.

use std::fmt;

use super::path::{Module, ModuleRequest, Version, encode};
use super::policy::Patterns;
use super::pools::TREE;
use crate::cache::{Key, Pins};

/// A kept file, by what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filed {
    /// What sort of file it is.
    pub sort: Sort,
    /// What it answers, where that is a module request.
    pub request: Option<ModuleRequest>,
}

/// A sort of kept files, as tools count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sort {
    /// The files of module versions.
    Zip,
    /// go.mod files.
    Mod,
    /// What canonical versions are.
    Info,
    /// What changes: lists, latest versions, queries.
    List,
    /// Records, tiles and heads of checksum databases.
    Sumdb,
    /// Anything of a host that is not in the pool of origin form.
    Host,
    /// What is not there.
    Absence,
    /// None of ours.
    Other,
}

impl Sort {
    /// All of them, in the order in which they are told.
    pub const ALL: [Sort; 8] =
        [Sort::Zip, Sort::Mod, Sort::Info, Sort::List, Sort::Sumdb, Sort::Host, Sort::Absence, Sort::Other];

    /// One word for it.
    pub fn word(self) -> &'static str {
        match self {
            Sort::Zip => "zip",
            Sort::Mod => "mod",
            Sort::Info => "info",
            Sort::List => "list",
            Sort::Sumdb => "sumdb",
            Sort::Host => "host",
            Sort::Absence => "absent",
            Sort::Other => "other",
        }
    }
}

impl fmt::Display for Sort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl Filed {
    /// Tells what lies under a key.
    pub fn of(key: &Key) -> Filed {
        let (root, rest) = key.as_str().split_once('/').unwrap_or((key.as_str(), ""));
        let request = match root {
            TREE => read(rest),
            "sumdb" => read(key.as_str()),
            "hosts" => rest.split_once('/').and_then(|(_, rest)| read(rest)),
            "absent" => Key::new(rest).and_then(|about| Filed::of(&about).request),
            _ => None,
        };
        let sort = match (root, &request) {
            ("absent", _) => Sort::Absence,
            ("hosts", _) => Sort::Host,
            ("sumdb" | "passed", _) => Sort::Sumdb,
            (TREE, Some(request)) => sort_of(request),
            _ => Sort::Other,
        };
        Filed { sort, request }
    }

    /// The module that it is about.
    pub fn module(&self) -> Option<&Module> {
        self.request.as_ref()?.module()
    }

    /// The version that it is about.
    pub fn version(&self) -> Option<&Version> {
        match self.request.as_ref()? {
            ModuleRequest::Info { version, .. }
            | ModuleRequest::Mod { version, .. }
            | ModuleRequest::Zip { version, .. }
            | ModuleRequest::SumLookup { version, .. } => Some(version),
            _ => None,
        }
    }
}

/// What never leaves to make room: everything that is about a module of these patterns, its records too.
pub fn pin_modules(patterns: &[String]) -> Pins {
    if patterns.is_empty() {
        return Pins::default();
    }
    let patterns = Patterns::new(patterns);
    Pins::new(move |key| {
        let filed = Filed::of(key);
        filed.sort != Sort::Absence && filed.module().is_some_and(|module| patterns.cover(module))
    })
}

/// A file of a tree that is laid out as `GOMODCACHE/cache/download`.
pub fn read(path: &str) -> Option<ModuleRequest> {
    ModuleRequest::parse(&format!("/{}", encode(path))).ok()
}

fn sort_of(request: &ModuleRequest) -> Sort {
    match request {
        ModuleRequest::Zip { .. } => Sort::Zip,
        ModuleRequest::Mod { .. } => Sort::Mod,
        ModuleRequest::Info { version, .. } if version.is_canonical() => Sort::Info,
        ModuleRequest::Info { .. } | ModuleRequest::List { .. } | ModuleRequest::Latest { .. } => Sort::List,
        _ => Sort::Sumdb,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filed(path: &str) -> (Sort, Option<String>, Option<String>) {
        let filed = Filed::of(&Key::new(path).unwrap());
        let (module, version) = (filed.module().map(Module::to_string), filed.version().map(Version::to_string));
        (filed.sort, module, version)
    }

    fn about(module: &str, version: &str) -> (Option<String>, Option<String>) {
        (Some(module.to_owned()), Some(version.to_owned()).filter(|version| !version.is_empty()))
    }

    #[test]
    fn a_place_tells_what_lies_there() {
        let table = [
            ("download/github.com/!burnt!sushi/toml/@v/v1.2.0.zip", Sort::Zip, "github.com/BurntSushi/toml", "v1.2.0"),
            ("download/a.b/c/@v/v1.0.0.mod", Sort::Mod, "a.b/c", "v1.0.0"),
            ("download/a.b/c/@v/v1.0.0+incompatible.info", Sort::Info, "a.b/c", "v1.0.0+incompatible"),
            ("download/a.b/c/@v/main.info", Sort::List, "a.b/c", "main"),
            ("download/a.b/c/@v/list", Sort::List, "a.b/c", ""),
            ("download/a.b/c/@latest", Sort::List, "a.b/c", ""),
            ("hosts/https-x.example-443/a.b/c/@v/v1.0.0.zip", Sort::Host, "a.b/c", "v1.0.0"),
            ("absent/download/a.b/c/@v/v9.0.0.info", Sort::Absence, "a.b/c", "v9.0.0"),
            ("sumdb/sum.golang.org/lookup/a.b/c@v1.0.0", Sort::Sumdb, "a.b/c", "v1.0.0"),
        ];
        for (path, sort, module, version) in table {
            let (module, version) = about(module, version);
            assert_eq!(filed(path), (sort, module, version), "{path}");
        }
        let nobody = ["sumdb/sum.golang.org/head", "passed/sumdb/a.b/tile/8/0/000", "sumdb/a.b/tile/8/0/000"];
        for path in nobody {
            assert_eq!(filed(path), (Sort::Sumdb, None, None), "{path}");
        }
        assert_eq!(filed("download/a.b/c/@v/v1.0.0.ziphash").0, Sort::Other);
        assert_eq!(filed("else/x").0, Sort::Other);
    }

    #[test]
    fn pins_hold_what_is_about_their_modules() {
        let pins = pin_modules(&["a.b/*".to_owned(), "x.y".to_owned()]);
        let told = format!("{pins:?} {:?}", pin_modules(&[]));
        assert_eq!(told, "Pins(some) Pins(none)");
    }
}
