//! A proxy that this machine's other programs are set to use, where go is told of none: each place is
//! read, and what is found there is tried, all at once.

use std::collections::HashSet;
use std::process::{Command, Stdio};

use futures_util::stream::{FuturesOrdered, StreamExt};

use super::finding::Mend;
use super::mirrors::THEN;
use super::probe::{self, Went};
use super::surroundings::Surroundings;
use crate::connect::{Parent, Parents};
use crate::target::Base;

/// A proxy that somebody wrote down.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    url: String,
    place: String,
    /// What sets it for this shell without showing a password.
    command: String,
}

/// A proxy by which a server can be reached, and how to set it.
pub(super) struct Found {
    pub address: String,
    pub place: String,
    pub mend: Mend,
}

/// The first candidate by which this server answers.
pub(super) async fn find(around: &Surroundings, base: &Base, path: &str) -> Option<Found> {
    let tries: FuturesOrdered<_> =
        gather(around).into_iter().map(|candidate| attempt(candidate, around, base, path)).collect();
    std::pin::pin!(tries.filter_map(std::future::ready)).next().await
}

async fn attempt(candidate: Candidate, around: &Surroundings, base: &Base, path: &str) -> Option<Found> {
    let Candidate { url, place, command } = candidate;
    let parent: Parent = url.parse().ok()?;
    let address = parent.to_string();
    let fetcher = around.by_parent(Parents::all(parent, |_| None))?;
    let is_way = matches!(probe::ask(&fetcher, base, path, THEN).await, Went::Answered(_));
    is_way.then_some(Found { address, place, mend: Mend::Type(command) })
}

fn gather(around: &Surroundings) -> Vec<Candidate> {
    let mut found = Vec::new();
    // go reads neither of these for https.
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        found.extend(around.variable(name).map(|url| Candidate {
            url: url.to_owned(),
            place: format!("{name}, which go does not use for https"),
            command: format!("export HTTPS_PROXY=\"${name}\""),
        }));
    }
    found.extend(ask_git());
    let read = |path: &str| std::fs::read_to_string(around.root.join(path)).unwrap_or_default();
    found.extend(read_environment(&read("etc/environment")));
    let folder = std::fs::read_dir(around.root.join("etc/apt/apt.conf.d")).into_iter().flatten().flatten();
    let parts = folder.map(|entry| std::fs::read_to_string(entry.path()).unwrap_or_default());
    found.extend(std::iter::once(read("etc/apt/apt.conf")).chain(parts).filter_map(|text| read_apt(&text)));
    each_once(found)
}

/// Of places that name the same proxy, the first.
fn each_once(mut found: Vec<Candidate>) -> Vec<Candidate> {
    let mut seen = HashSet::new();
    found.retain(|candidate| seen.insert(candidate.url.clone()));
    found
}

fn ask_git() -> Option<Candidate> {
    let mut git = Command::new("git");
    let output = git.args(["config", "--get", "http.proxy"]).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let url = String::from_utf8(output.ok()?.stdout).ok()?.trim().to_owned();
    let command = "export HTTPS_PROXY=\"$(git config --get http.proxy)\"".to_owned();
    (!url.is_empty()).then(|| Candidate { url, place: "git's http.proxy".to_owned(), command })
}

/// pam_env's file: what a login gets, and a service or a container does not.
fn read_environment(text: &str) -> Option<Candidate> {
    let line = |line: &str| {
        let line = line.trim();
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        let is_proxy = matches!(name.trim().to_ascii_lowercase().as_str(), "https_proxy" | "http_proxy");
        is_proxy.then(|| (name.trim().to_owned(), value.trim().trim_matches(['"', '\'']).to_owned()))
    };
    let (name, url) = text.lines().find_map(line).filter(|(_, url)| !url.is_empty())?;
    let command = format!("export HTTPS_PROXY=\"$(. /etc/environment; echo \"${name}\")\"");
    Some(Candidate { url, place: "/etc/environment".to_owned(), command })
}

/// `Acquire::http::Proxy "http://…";` (apt.conf(5)).
fn read_apt(text: &str) -> Option<Candidate> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    let url = lines.into_iter().find_map(|line| {
        let rest = line.strip_prefix("Acquire::https::Proxy").or_else(|| line.strip_prefix("Acquire::http::Proxy"))?;
        Some(rest.trim().trim_end_matches(';').trim().trim_matches('"').to_owned())
    })?;
    let is_usable = url.contains("://") && !url.contains('@');
    let command = format!("export HTTPS_PROXY={url}");
    is_usable.then(|| Candidate { url, place: "apt's settings".to_owned(), command })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_two_places_name_is_tried_once() {
        let named = |url: &str, place: &str| Candidate { url: url.into(), place: place.into(), command: String::new() };
        let found =
            each_once(vec![named("http://a:1", "git"), named("http://b:1", "login"), named("http://a:1", "apt")]);
        assert_eq!(found.iter().map(|one| one.place.as_str()).collect::<Vec<_>>(), ["git", "login"]);
    }

    #[test]
    fn files_that_name_a_proxy_are_read() {
        let found = read_environment("PATH=\"/bin\"\nhttps_proxy=\"http://proxy.corp.example:8080\"\n").unwrap();
        assert_eq!(found.url, "http://proxy.corp.example:8080");
        assert!(found.command.contains("$https_proxy"), "{}", found.command);
        assert_eq!(read_environment("PATH=/bin\nhttp_proxy=\n"), None);
        let apt = read_apt("// Acquire::http::Proxy \"http://old:1\";\nAcquire::http::Proxy \"http://proxy:3128/\";\n");
        assert_eq!(apt.unwrap().command, "export HTTPS_PROXY=http://proxy:3128/");
        assert_eq!(read_apt("Acquire::http::Proxy \"http://user:secret@proxy:3128/\";"), None, "no password is shown");
        assert_eq!(read_apt("Acquire::http::Proxy \"DIRECT\";"), None);
    }
}
