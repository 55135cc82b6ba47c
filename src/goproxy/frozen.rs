//! Nothing but what an earlier run was served: `goanyway run --frozen`.
//!
//! A go.mod and a zip must have the h1 sum that they had then, a list or query the very bytes; the `.info` of a
//! version is served with its other files, since all it says of that is a time, which mirrors tell apart. The
//! checksum database is asked as ever, about these modules alone. An upstream's 404 stays one.

use std::collections::{HashMap, HashSet};

use http::StatusCode;

use super::answer::House;
use super::ledger::sum;
use super::path::{Module, ModuleRequest, Version};
use super::{Body, Failure, Reply};
use crate::cache::Key;

const HINT: &str = "hint: goanyway run --summary FILE.json -- COMMAND writes down anew what a command is served";

/// What may be served.
#[derive(Clone, Debug, Default)]
pub struct Frozen {
    /// What it was written down in, for whoever is refused.
    name: String,
    files: HashMap<ModuleRequest, Sums>,
    versions: HashSet<(Module, Version)>,
}

/// What a file must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub h1: Option<String>,
    pub sha256: Option<String>,
}

impl Sums {
    /// What was gone before it could be hashed cannot be told from anything else.
    fn is_nothing(&self) -> bool {
        self.h1.is_none() && self.sha256.is_none()
    }
}

impl Frozen {
    /// What the summary of this name holds.
    pub fn new(name: String, files: impl IntoIterator<Item = (ModuleRequest, Sums)>) -> Frozen {
        let files: HashMap<ModuleRequest, Sums> = files.into_iter().collect();
        let versions = files.keys().filter_map(version).collect();
        Frozen { name, files, versions }
    }

    /// Whether this may be served at all.
    pub(super) fn admit(&self, request: &ModuleRequest) -> Result<(), Failure> {
        let is_known = match request {
            ModuleRequest::SumSupported { .. } | ModuleRequest::SumLatest { .. } | ModuleRequest::SumTile { .. } => {
                true
            }
            ModuleRequest::SumLookup { module, version, .. } => {
                self.versions.contains(&(module.clone(), version.clone()))
            }
            _ => self.files.contains_key(request) || self.goes_with_others(request),
        };
        if self.wanted(request).is_some_and(Sums::is_nothing) {
            return Err(Failure::policy(
                format!("{request} is in {} without a sum, so it could be anything", self.name),
                HINT,
            ));
        }
        let refused =
            || Failure::policy(format!("{request} is not in {}, and --frozen serves nothing else", self.name), HINT);
        is_known.then_some(()).ok_or_else(refused)
    }

    fn goes_with_others(&self, request: &ModuleRequest) -> bool {
        match request {
            ModuleRequest::Info { version: asked, .. } => {
                asked.is_canonical() && version(request).is_some_and(|version| self.versions.contains(&version))
            }
            _ => false,
        }
    }

    /// What it must be; nothing where that does not matter.
    fn wanted(&self, request: &ModuleRequest) -> Option<&Sums> {
        if self.goes_with_others(request) { None } else { self.files.get(request) }
    }

    fn differs(&self, request: &ModuleRequest, is: &str, was: &str) -> Failure {
        Failure::policy(format!("{request}: its sum is {is}, and {} has {was}", self.name), HINT)
    }
}

fn version(request: &ModuleRequest) -> Option<(Module, Version)> {
    match request {
        ModuleRequest::Info { module, version }
        | ModuleRequest::Mod { module, version }
        | ModuleRequest::Zip { module, version } => Some((module.clone(), version.clone())),
        _ => None,
    }
}

impl House {
    /// Whether an answer is what it was; it comes back where it is. What stands in for one whose bytes had to
    /// be read is what is kept under `own`.
    pub(super) async fn thaw(
        &self,
        frozen: &Frozen,
        request: &ModuleRequest,
        own: Option<Key>,
        reply: Reply,
    ) -> Result<Reply, Failure> {
        let Some(wanted) = frozen.wanted(request).filter(|_| reply.status == StatusCode::OK) else { return Ok(reply) };
        let Body::Held(content) = reply.body else { return Ok(reply) };
        let is = content.sha256().map(str::to_owned);
        if is.is_some() && is == wanted.sha256 {
            return Ok(Reply { body: Body::Held(content), ..reply });
        }
        let Some(was) = &wanted.h1 else {
            let was = wanted.sha256.as_deref().unwrap_or("none");
            return Err(frozen.differs(request, is.as_deref().unwrap_or("unknown"), was));
        };
        // Hashing takes the bytes away; what is kept of them is served.
        match sum(content, request).await {
            Some(is) if is == *was => {}
            is => return Err(frozen.differs(request, is.as_deref().unwrap_or("unknown"), was)),
        }
        self.store.cache.settled().await;
        let again = match own {
            Some(key) => self.store.cache.get(&key).await,
            None => None,
        };
        let lost = || {
            Failure::fault(
                format!("{request} is right, but could not be kept to be served"),
                "hint: goanyway cache stat",
            )
        };
        let content = again.ok_or_else(lost)?.content;
        Ok(Reply { body: Body::Held(content), ..reply })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str) -> ModuleRequest {
        ModuleRequest::parse(path).unwrap()
    }

    #[test]
    fn only_what_is_written_down_is_admitted_and_the_info_goes_with_the_rest() {
        let h1 = Sums { h1: Some("h1:a".to_owned()), sha256: None };
        let listed = ["/a.b/c/@v/v1.0.0.zip", "/a.b/c/@v/main.info", "/a.b/c/@v/list"];
        let frozen = Frozen::new("run.json".to_owned(), listed.map(|path| (request(path), h1.clone())));
        let table = [
            ("/a.b/c/@v/v1.0.0.zip", true),
            ("/a.b/c/@v/v1.0.0.info", true),
            ("/a.b/c/@v/v1.0.0.mod", false),
            ("/a.b/c/@v/v1.0.1.info", false),
            ("/a.b/c/@v/main.info", true),
            ("/a.b/c/@v/other.info", false),
            ("/a.b/c/@v/list", true),
            ("/a.b/c/@latest", false),
            ("/sumdb/sum.golang.org/lookup/a.b/c@v1.0.0", true),
            ("/sumdb/sum.golang.org/lookup/a.b/c@v1.0.1", false),
            ("/sumdb/sum.golang.org/latest", true),
        ];
        for (path, is_admitted) in table {
            let told = frozen.admit(&request(path));
            assert_eq!(told.is_ok(), is_admitted, "{path}");
            if let Err(failure) = told {
                assert_eq!(failure.status(), StatusCode::FORBIDDEN);
                assert!(
                    failure.to_string().ends_with("is not in run.json, and --frozen serves nothing else"),
                    "{failure}"
                );
            }
        }
        let unsummed = (request("/a.b/c/@v/v1.0.0.zip"), Sums::default());
        let told = Frozen::new("run.json".to_owned(), [unsummed]).admit(&request("/a.b/c/@v/v1.0.0.zip")).unwrap_err();
        assert!(told.to_string().ends_with("is in run.json without a sum, so it could be anything"), "{told}");
        assert_eq!(frozen.wanted(&request("/a.b/c/@v/v1.0.0.info")), None);
        assert_eq!(frozen.wanted(&request("/a.b/c/@v/main.info")), Some(&h1));
    }
}
