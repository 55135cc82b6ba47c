//! What one run was served, file by file: for the two lines and the summary of `goanyway run`.
//!
//! Put down as it happens, with what is known then; what is known later (whose it was, its sum) is read from
//! what is kept when somebody wants to hear of it. It grows with the files that one command asks for, so a
//! daemon has none.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use futures_util::stream;
use http::StatusCode;

use super::answer::{House, tree_key};
use super::files::check;
use super::path::ModuleRequest;
use super::store::{MIRROR, is_verified};
use super::tally::Served;
use super::{Body, Failure, Reply};
use crate::cache::{Content, Found, Key};
use crate::trace::{self, Peer};

/// How many zips are hashed at once.
const HASHING: usize = 4;

/// The book of one run. Cloning gives another handle to the same one.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    /// What was fetched, by file, and from whom.
    fetched: HashMap<String, Option<Peer>>,
    served: BTreeMap<String, Entry>,
    missing: BTreeMap<String, String>,
}

/// One file as it was served.
#[derive(Clone, Debug)]
struct Entry {
    request: ModuleRequest,
    own: Option<Key>,
    status: StatusCode,
    served: Served,
    length: Option<u64>,
    sha256: Option<String>,
    times: u64,
}

/// One file that was served, with all that is known of it.
#[derive(Clone, Debug)]
pub struct Fetch {
    pub request: ModuleRequest,
    /// 200, or an upstream's 404 or 410.
    pub status: StatusCode,
    /// How the cache stood to it when it was first asked for.
    pub served: Served,
    /// Whether its bytes came from upstream within this run.
    pub is_new: bool,
    /// The mirror that they once came from.
    pub upstream: Option<String>,
    /// Who was reached for it in this run.
    pub peer: Option<Peer>,
    pub length: Option<u64>,
    /// Of a go.mod or zip, as go.sum has it; asked for by [`super::Goproxy::account`] alone.
    pub h1: Option<String>,
    pub sha256: Option<String>,
    /// Whether the checksum database vouches for it.
    pub is_verified: bool,
    pub times: u64,
}

impl Ledger {
    /// A file has been fetched.
    pub(super) fn fetched(&self, request: &ModuleRequest, peer: Option<Peer>) {
        self.book().fetched.insert(request.file(), peer);
    }

    /// A client was answered, or was not.
    pub(super) fn served(&self, request: &ModuleRequest, own: Option<Key>, outcome: &Result<Reply, Failure>) {
        let mut book = self.book();
        let reply = match outcome {
            Ok(reply) => reply,
            Err(failure) => {
                book.missing.entry(request.to_string()).or_insert_with(|| failure.to_string());
                return;
            }
        };
        book.missing.remove(&request.to_string());
        if request.database().is_some() {
            return;
        }
        let sha256 = match &reply.body {
            Body::Held(content) => content.sha256().map(str::to_owned),
            Body::Bytes(_) => None,
        };
        let (status, served, length) = (reply.status, reply.served, reply.length());
        let entry = Entry { request: request.clone(), own, status, served, length, sha256, times: 1 };
        book.served.entry(request.file()).and_modify(|known| known.times += 1).or_insert(entry);
    }

    /// What was asked for and not had, each with the reason.
    pub fn missing(&self) -> Vec<(String, String)> {
        self.book().missing.clone().into_iter().collect()
    }

    fn entries(&self) -> Vec<(Entry, Option<Option<Peer>>)> {
        let book = self.book();
        book.served.iter().map(|(file, entry)| (entry.clone(), book.fetched.get(file).cloned())).collect()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl House {
    /// Produces by `work`, and puts down that it was fetched and from whom.
    pub(super) async fn booked<T>(
        &self,
        request: &ModuleRequest,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let outcome = work.await;
        if let (Some(ledger), Ok(_)) = (&self.config.ledger, &outcome) {
            ledger.fetched(request, trace::current().and_then(|trace| trace.peer()));
        }
        outcome
    }

    /// Every file that was served, with its sums where these are wanted.
    pub(super) async fn account(&self, with_sums: bool) -> Vec<Fetch> {
        let Some(ledger) = &self.config.ledger else { return Vec::new() };
        let entries = ledger.entries().into_iter();
        stream::iter(entries.map(|(entry, fetched)| self.complete(entry, fetched, with_sums)))
            .buffered(HASHING)
            .collect()
            .await
    }

    async fn complete(&self, entry: Entry, fetched: Option<Option<Peer>>, with_sums: bool) -> Fetch {
        let Entry { request, own, status, served, length, sha256, times } = entry;
        let found = if status == StatusCode::OK { self.kept(&request, own).await } else { None };
        let note = found.as_ref().map(|found| &found.note);
        let upstream = note.and_then(|note| note.facts.get(MIRROR).cloned());
        let (is_new, is_verified) = (fetched.is_some(), note.is_some_and(|note| is_verified(note)));
        let length = length.or(note.map(|note| note.length));
        let h1 = match found {
            Some(found) if with_sums => sum(found.content, &request).await,
            _ => None,
        };
        let peer = fetched.flatten();
        Fetch { request, status, served, is_new, upstream, peer, length, h1, sha256, is_verified, times }
    }

    async fn kept(&self, request: &ModuleRequest, own: Option<Key>) -> Option<Found> {
        for key in own.into_iter().chain(tree_key(request)) {
            if let Some(found) = self.store.cache.get(&key).await {
                return Some(found);
            }
        }
        None
    }
}

/// The h1 sum of a go.mod or zip.
pub(super) async fn sum(content: Content, request: &ModuleRequest) -> Option<String> {
    if !matches!(request, ModuleRequest::Mod { .. } | ModuleRequest::Zip { .. }) {
        return None;
    }
    let (length, request) = (content.length()?, request.clone());
    let reading = content.reading()?;
    tokio::task::spawn_blocking(move || check(reading, length, &request)).await.ok()??.sum
}
