//! The summary of a run: every file that a command was served, for programs (docs/run.md), and the lines of
//! it for a person.
//!
//! It is written whole or not at all, and read back by `--frozen`. A file that another version wrote in another
//! form, or that is damaged, is refused with the reason.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::{Destination, Failure, count, draft_beside, folder_of, size};
use crate::goproxy::{Fetch, Frozen, Module, ModuleRequest, Said, Sums, Version};
use crate::resolve;

/// The form below; a change that an old reader would get wrong has the next number.
pub(super) const SCHEMA: u64 = 1;

/// How many missing things are listed for a person; the file has all.
const LISTED: usize = 20;

/// A run, as the file has it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Summary {
    pub schema: u64,
    /// Which version wrote it.
    pub goanyway: String,
    pub began: jiff::Timestamp,
    pub seconds: f64,
    pub exit: u8,
    pub offline: bool,
    pub frozen: bool,
    pub totals: Totals,
    pub fetches: Vec<Fetched>,
    pub missing: Vec<Missing>,
}

/// The sums of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Totals {
    /// Versions of which every file that was served had been there before.
    pub modules_from_cache: u64,
    /// Versions of which something had to be fetched.
    pub modules_from_upstream: u64,
    pub bytes_saved: u64,
    pub bytes_from_upstream: u64,
    pub names_looked_up: u64,
    pub names_rescued: u64,
    /// How, and how many each.
    pub rescues: Vec<Rescue>,
    pub mirror_faults: u64,
}

/// A way in which names were rescued.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Rescue {
    pub how: String,
    pub names: u64,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Fetched {
    pub module: String,
    pub version: Option<String>,
    pub kind: Kind,
    pub status: u16,
    pub h1: Option<String>,
    pub sha256: Option<String>,
    pub size: Option<u64>,
    pub source: Source,
    pub upstream: Option<String>,
    pub cache: String,
    pub verified: bool,
    pub reached: Option<Reached>,
    pub times: u64,
}

/// Which file of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    List,
    Latest,
    Info,
    Mod,
    Zip,
}

/// Where its bytes were when the run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Source {
    Cache,
    Upstream,
}

/// Whom its bytes came from in this run, and how that address was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Reached {
    pub address: String,
    pub resolver: String,
}

/// What was asked for and not had.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Missing {
    pub what: String,
    pub reason: String,
}

impl Fetched {
    /// Of a file that was served; nothing, where it is none of a module.
    pub fn of(fetch: Fetch) -> Option<Fetched> {
        let (kind, module, version) = match &fetch.request {
            ModuleRequest::List { module } => (Kind::List, module, None),
            ModuleRequest::Latest { module } => (Kind::Latest, module, None),
            ModuleRequest::Info { module, version } => (Kind::Info, module, Some(version)),
            ModuleRequest::Mod { module, version } => (Kind::Mod, module, Some(version)),
            ModuleRequest::Zip { module, version } => (Kind::Zip, module, Some(version)),
            _ => return None,
        };
        let reached = fetch.peer.filter(|_| fetch.is_new);
        Some(Fetched {
            module: module.to_string(),
            version: version.map(ToString::to_string),
            kind,
            status: fetch.status.as_u16(),
            h1: fetch.h1,
            sha256: fetch.sha256,
            size: fetch.length,
            source: if fetch.is_new { Source::Upstream } else { Source::Cache },
            upstream: fetch.upstream,
            cache: fetch.served.to_string(),
            verified: fetch.is_verified,
            reached: reached.map(|peer| Reached { address: peer.address.to_string(), resolver: peer.heard_from }),
            times: fetch.times,
        })
    }

    /// The request that it answers.
    fn request(&self) -> Result<ModuleRequest, String> {
        let module = Module::new(&self.module).map_err(|why| why.to_string())?;
        let version = || {
            let version = self.version.as_deref().ok_or_else(|| format!("{} has no version", self.module))?;
            Version::new(version).map_err(|why| why.to_string())
        };
        Ok(match self.kind {
            Kind::List => ModuleRequest::List { module },
            Kind::Latest => ModuleRequest::Latest { module },
            Kind::Info => ModuleRequest::Info { module, version: version()? },
            Kind::Mod => ModuleRequest::Mod { module, version: version()? },
            Kind::Zip => ModuleRequest::Zip { module, version: version()? },
        })
    }
}

impl Totals {
    /// Adds up.
    pub fn of(fetches: &[Fetched], names: resolve::Totals, rescues: resolve::Rescues, mirror_faults: u64) -> Totals {
        let versions = |source: Option<Source>| -> BTreeSet<(&str, &str)> {
            let had = fetches.iter().filter(|fetch| fetch.status == 200);
            let of_source = had.filter(|fetch| source.is_none_or(|source| fetch.source == source));
            of_source.filter_map(|fetch| Some((fetch.module.as_str(), fetch.version.as_deref()?))).collect()
        };
        let (all, new) = (versions(None).len() as u64, versions(Some(Source::Upstream)).len() as u64);
        let size = |fetch: &Fetched| fetch.size.unwrap_or(0);
        // What is asked for again is there by then.
        let saved = |fetch: &Fetched| fetch.times - u64::from(fetch.source == Source::Upstream).min(fetch.times);
        Totals {
            modules_from_cache: all - new,
            modules_from_upstream: new,
            bytes_saved: fetches.iter().map(|fetch| size(fetch) * saved(fetch)).sum(),
            bytes_from_upstream: fetches.iter().filter(|fetch| fetch.source == Source::Upstream).map(size).sum(),
            names_looked_up: names.asked,
            names_rescued: names.rescued,
            rescues: rescues.into_iter().map(|(how, names)| Rescue { how: how.to_owned(), names }).collect(),
            mirror_faults,
        }
    }

    /// Two lines: what was served and saved, what was rescued and how.
    pub fn lines(&self, took: Duration) -> String {
        let how: Vec<String> = self.rescues.iter().map(|rescue| format!("{} {}", rescue.names, rescue.how)).collect();
        let how = if how.is_empty() { String::new() } else { format!(" ({})", how.join(", ")) };
        format!(
            "goanyway: {} from the cache ({} saved), {} from upstream ({}), in {:.1} s\n\
             goanyway: {} looked up, {} rescued{how}; {} of mirrors met\n",
            count(self.modules_from_cache, "module"),
            size(self.bytes_saved),
            self.modules_from_upstream,
            size(self.bytes_from_upstream),
            took.as_secs_f64(),
            count(self.names_looked_up, "name"),
            self.names_rescued,
            count(self.mirror_faults, "fault"),
        )
    }
}

/// What a run that was closed did not get, for a person.
pub(super) fn list_missing(missing: &[Missing]) -> String {
    if missing.is_empty() {
        return String::new();
    }
    let mut lines = format!("goanyway: {} asked for and not served:\n", count(missing.len() as u64, "thing"));
    let asked_nobody = Said::Closed.to_string();
    let mut some_offline = false;
    for Missing { what, reason } in missing.iter().take(LISTED) {
        // Which mirrors were not asked is no news on each line.
        let told = reason.split("; ").filter(|part| !part.ends_with(&asked_nobody)).collect::<Vec<_>>().join("; ");
        some_offline |= told != *reason;
        // The reason often begins with what it is about.
        let told = match told.as_str() {
            "" => what.clone(),
            told if told.starts_with(what.as_str()) => told.to_owned(),
            told => format!("{what}: {told}"),
        };
        lines.push_str(&format!("  {told}\n"));
    }
    if missing.len() > LISTED {
        lines.push_str(&format!("  and {} more; --summary FILE.json has all\n", missing.len() - LISTED));
    }
    if some_offline {
        lines.push_str("nothing may leave (--offline); once without it, or goanyway warm go.sum, brings them in\n");
    }
    lines
}

/// What an earlier run was served, to be served again.
pub(super) fn read_frozen(path: &Path) -> Result<Frozen, Failure> {
    let text = std::fs::read(path).map_err(|error| Failure::Read { path: path.to_owned(), error })?;
    let files = read(&text).map_err(|why| Failure::Wanted(format!("--frozen {}: {why}", path.display())))?;
    let name = path.file_name().unwrap_or(path.as_os_str()).display().to_string();
    Ok(Frozen::new(name, files))
}

/// The files that a summary holds.
fn read(text: &[u8]) -> Result<Vec<(ModuleRequest, Sums)>, String> {
    #[derive(Deserialize)]
    struct Form {
        schema: Option<u64>,
        goanyway: Option<String>,
    }
    let damaged = |why: &dyn std::fmt::Display| format!("no summary of a run, or a damaged one: {why}");
    if text.trim_ascii().is_empty() {
        return Err("no summary of a run: the file is empty".to_owned());
    }
    let form: Form = serde_json::from_slice(text).map_err(|why| damaged(&why))?;
    match form.schema {
        Some(SCHEMA) => {}
        Some(other) => {
            let by = form.goanyway.unwrap_or_else(|| "another version".to_owned());
            return Err(format!(
                "a summary of form {other}, written by goanyway {by}; this one reads form {SCHEMA}: \
                 write it anew with goanyway run --summary"
            ));
        }
        None => return Err(damaged(&"it does not say which form it has (schema)")),
    }
    let summary: Summary = serde_json::from_slice(text).map_err(|why| damaged(&why))?;
    let served = summary.fetches.into_iter().filter(|fetch| fetch.status == 200);
    let file = |fetch: Fetched| {
        let request = fetch.request().map_err(|why| damaged(&why))?;
        Ok((request, Sums { h1: fetch.h1, sha256: fetch.sha256 }))
    };
    served.map(file).collect()
}

/// A file that is there once it is whole. Made before anything is done: what cannot be written should be
/// heard of before the command ran, not after.
pub(super) struct Aside {
    path: PathBuf,
    draft: Draft,
}

enum Draft {
    Beside(NamedTempFile),
    Into(File),
}

impl Aside {
    /// Beside where it will stand.
    pub fn begin(path: &Path) -> Result<Aside, Failure> {
        let failed = |error| Failure::Write { path: path.to_owned(), error };
        // What makes the file would name one that nobody has heard of.
        std::fs::metadata(folder_of(path)).map_err(failed)?;
        if path.is_dir() {
            return Err(failed(std::io::ErrorKind::IsADirectory.into()));
        }
        match Destination::of(path).map_err(failed)? {
            Destination::Into(file) => Ok(Aside { path: path.to_owned(), draft: Draft::Into(file) }),
            Destination::Place(path) => {
                let draft = Draft::Beside(draft_beside(&path).map_err(failed)?);
                Ok(Aside { path, draft })
            }
        }
    }

    /// Writes it.
    pub fn finish(self, summary: &Summary) -> Result<(), Failure> {
        let failed = |error| Failure::Write { path: self.path.clone(), error };
        let mut text = serde_json::to_vec_pretty(summary).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        match self.draft {
            Draft::Into(mut file) => file.write_all(&text).map_err(failed),
            Draft::Beside(mut file) => {
                file.write_all(&text).map_err(failed)?;
                file.as_file().sync_all().map_err(failed)?;
                file.persist(&self.path).map(drop).map_err(|error| failed(error.error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetched(version: &str, kind: Kind, source: Source, size: u64, times: u64) -> Fetched {
        Fetched {
            module: "example.com/m".to_owned(),
            version: Some(version.to_owned()),
            kind,
            status: 200,
            h1: Some(format!("h1:{version}")),
            sha256: None,
            size: Some(size),
            source,
            upstream: None,
            cache: "hit".to_owned(),
            verified: true,
            reached: None,
            times,
        }
    }

    fn summary(fetches: Vec<Fetched>) -> serde_json::Value {
        let summary = Summary {
            schema: SCHEMA,
            goanyway: "0.1.0".to_owned(),
            began: jiff::Timestamp::UNIX_EPOCH,
            seconds: 1.0,
            exit: 0,
            offline: false,
            frozen: false,
            totals: Totals::default(),
            fetches,
            missing: Vec::new(),
        };
        serde_json::to_value(summary).unwrap()
    }

    #[test]
    fn a_version_is_from_upstream_where_anything_of_it_is() {
        let fetches = [
            fetched("v1.0.0", Kind::Mod, Source::Cache, 10, 2),
            fetched("v1.1.0", Kind::Mod, Source::Cache, 100, 1),
            fetched("v1.1.0", Kind::Zip, Source::Upstream, 1000, 3),
        ];
        let names = resolve::Totals { asked: 3, rescued: 3 };
        let totals = Totals::of(&fetches, names, vec![("by an older answer", 2), ("by a fallback server", 1)], 1);
        assert_eq!(
            totals.lines(Duration::from_millis(1250)),
            "goanyway: 1 module from the cache (2.1 kB saved), 1 from upstream (1.0 kB), in 1.2 s\n\
             goanyway: 3 names looked up, 3 rescued (2 by an older answer, 1 by a fallback server); 1 fault of mirrors met\n"
        );
    }

    #[test]
    fn what_was_written_is_read_back() {
        let mut gone = fetched("v1.1.0", Kind::Zip, Source::Cache, 1, 1);
        gone.h1 = None;
        let mut absent = fetched("v1.2.0", Kind::Zip, Source::Cache, 1, 1);
        absent.status = 404;
        let kept = fetched("v1.0.0", Kind::Zip, Source::Cache, 1, 1);
        let files = read(&serde_json::to_vec(&summary(vec![kept, gone, absent])).unwrap()).unwrap();
        let sums = Sums { h1: Some("h1:v1.0.0".to_owned()), sha256: None };
        let zip = |version| ModuleRequest::parse(&format!("/example.com/m/@v/{version}.zip")).unwrap();
        assert_eq!(files, [(zip("v1.0.0"), sums), (zip("v1.1.0"), Sums::default())]);
    }

    #[test]
    fn another_form_and_a_damaged_file_are_refused_with_the_reason() {
        let good = summary(vec![fetched("v1.0.0", Kind::Zip, Source::Cache, 1, 1)]);
        let with = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut changed = good.clone();
            change(&mut changed);
            changed.to_string()
        };
        let table = [
            (with(&|it| it["schema"] = 2.into()), "form 2, written by goanyway 0.1.0; this one reads form 1"),
            (with(&|it| drop(it.as_object_mut().unwrap().remove("schema"))), "(schema)"),
            (with(&|it| drop(it.as_object_mut().unwrap().remove("fetches"))), "damaged one: missing field `fetches`"),
            (with(&|it| it["fetches"][0]["kind"] = "exe".into()), "damaged one: unknown variant `exe`"),
            (with(&|it| it["fetches"][0]["module"] = "../x".into()), "damaged one: "),
            (with(&|it| it["fetches"][0]["version"] = serde_json::Value::Null), "example.com/m has no version"),
            (good.to_string()[..100].to_owned(), "damaged one: EOF"),
            ("[]".to_owned(), "damaged one: "),
            (String::new(), "the file is empty"),
            (" \n".to_owned(), "the file is empty"),
            ("null".to_owned(), "damaged one: "),
            (r#"{"proxies": []}"#.to_owned(), "(schema)"),
        ];
        for (text, reason) in table {
            let told = read(text.as_bytes()).unwrap_err();
            assert!(told.contains(reason), "{text}: {told}");
        }
    }

    #[test]
    fn a_long_list_says_how_many_more_there_are() {
        let missing = |number| Missing { what: format!("m{number}"), reason: format!("m{number}: not kept") };
        assert_eq!(list_missing(&[]), "");
        assert_eq!(list_missing(&[missing(1)]), "goanyway: 1 thing asked for and not served:\n  m1: not kept\n");
        let long = list_missing(&(0..25).map(missing).collect::<Vec<_>>());
        assert!(long.ends_with("  m19: not kept\n  and 5 more; --summary FILE.json has all\n"), "{long}");
    }

    #[test]
    fn that_nobody_was_asked_is_said_once() {
        let closed = |mirror: &str| format!("{mirror}: {}", Said::Closed);
        let missing = |what: &str, first: &str| Missing {
            what: what.to_owned(),
            reason: [first, &closed("one.example"), &closed("other.example")].join("; "),
        };
        let told = list_missing(&[missing("a.b/c@v1 (zip)", "a.b/c@v1 (zip)"), missing("d", "x")]);
        let expected = "goanyway: 2 things asked for and not served:\n  a.b/c@v1 (zip)\n  d: x\n\
                        nothing may leave (--offline); once without it, or goanyway warm go.sum, brings them in\n";
        assert_eq!(told, expected);
    }
}
