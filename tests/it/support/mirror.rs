//! A module mirror with a few modules in it, which can be made to misbehave, and counts what it is
//! asked.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use rustls::ServerConfig;

use super::origin::{Heard, Origin, text};

/// What a mirror does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Healthy,
    /// Answers everything with this status.
    Says(u16),
}

pub struct Mirror {
    pub origin: Origin,
    mood: Arc<Mutex<Mood>>,
}

impl Mirror {
    /// A mirror of `module` at these versions.
    pub async fn of(module: &str, versions: &[&str]) -> Mirror {
        Mirror::at("127.0.0.1:0", module, versions).await
    }

    pub async fn at(address: &str, module: &str, versions: &[&str]) -> Mirror {
        Mirror::start(address, None, module, versions).await
    }

    pub async fn tls(config: Arc<ServerConfig>, module: &str, versions: &[&str]) -> Mirror {
        Mirror::tls_at("127.0.0.1:0", config, module, versions).await
    }

    pub async fn tls_at(address: &str, config: Arc<ServerConfig>, module: &str, versions: &[&str]) -> Mirror {
        Mirror::start(address, Some(config), module, versions).await
    }

    /// A mirror of these files, by path.
    pub async fn with(files: HashMap<String, Bytes>) -> Mirror {
        Mirror::serve("127.0.0.1:0", None, files).await
    }

    async fn start(address: &str, tls: Option<Arc<ServerConfig>>, module: &str, versions: &[&str]) -> Mirror {
        Mirror::serve(address, tls, files(module, versions)).await
    }

    async fn serve(address: &str, tls: Option<Arc<ServerConfig>>, files: HashMap<String, Bytes>) -> Mirror {
        let files = Arc::new(files);
        let mood = Arc::new(Mutex::new(Mood::Healthy));
        let answering = Arc::clone(&mood);
        let answer = move |heard: &Heard| respond(&files, *answering.lock().unwrap(), heard);
        let origin = match tls {
            None => Origin::plain_at(address, answer).await,
            Some(config) => Origin::tls_at(address, config, answer).await,
        };
        Mirror { origin, mood }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.origin.address)
    }

    pub fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// How often a path ending in this was asked for.
    pub fn asked(&self, ending: &str) -> usize {
        self.origin.heard().iter().filter(|heard| heard.uri.ends_with(ending)).count()
    }
}

fn respond(files: &HashMap<String, Bytes>, mood: Mood, heard: &Heard) -> Response<Full<Bytes>> {
    match mood {
        Mood::Says(status) => text(status, format!("the mirror says {status}")),
        Mood::Healthy => {
            let path = heard.uri.split("://").last().unwrap();
            let path = &path[path.find('/').unwrap_or(0)..];
            match files.get(path) {
                Some(bytes) => text(200, bytes.clone()),
                None => text(404, format!("not found: {path}")),
            }
        }
    }
}

/// The files of a module, by path.
pub fn files(module: &str, versions: &[&str]) -> HashMap<String, Bytes> {
    let mut files = HashMap::new();
    let base = format!("/{module}/@v");
    files.insert(format!("{base}/list"), versions.join("\n").into());
    for version in versions {
        let go_mod = format!("module {module}\n\ngo 1.20\n");
        let info = format!("{{\"Version\":\"{version}\",\"Time\":\"2024-01-02T03:04:05Z\"}}");
        files.insert(format!("{base}/{version}.info"), info.clone().into());
        files.insert(format!("/{module}/@latest"), info.into());
        files.insert(format!("{base}/{version}.mod"), go_mod.clone().into());
        files.insert(format!("{base}/{version}.zip"), zip(module, version, &go_mod).into());
    }
    files
}

fn zip(module: &str, version: &str, go_mod: &str) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    let package = module.rsplit('/').next().unwrap();
    let source = format!("package {package}\n\n// Version tells which one was built.\nconst Version = \"{version}\"\n");
    for (name, text) in [("go.mod", go_mod), (&format!("{package}.go"), &source)] {
        writer.start_file(format!("{module}@{version}/{name}"), options).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}
