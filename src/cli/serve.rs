//! `goanyway serve`: start, say what is where, serve until told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use super::signals::Signals;
use super::{Failure, env, write_aside};
use crate::config::Settings;
use crate::daemon::{self, Running};
use crate::goproxy;

pub(super) fn serve(settings: Settings, ready_file: Option<&PathBuf>) -> Result<ExitCode, Failure> {
    let banner = Banner::of(&settings);
    let running = daemon::start(settings)?;
    // Before anybody is told that we serve, and may tell us to stop.
    let mut signals = running.runtime().block_on(async { Signals::listen() })?;
    if let Some(path) = ready_file {
        write_aside(path, running.bound.lines().as_bytes())?;
    }
    anstream::eprint!("{}", banner.text(&running));
    let cutter = running.cutter();
    let told = running.runtime().block_on(signals.next());
    tracing::info!(?told, "closing: finishing what is under way, {} s at most", daemon::GRACE.as_secs());
    running.runtime().spawn(async move {
        // A second one means now.
        signals.next().await;
        cutter.cancel();
    });
    let cut = running.stop();
    if cut > 0 {
        tracing::warn!(cut, "connections were cut");
    }
    Ok(ExitCode::SUCCESS)
}

/// What only the settings know of what the start says.
struct Banner {
    mirrors: String,
    cache: String,
    ca_file: PathBuf,
}

impl Banner {
    fn of(settings: &Settings) -> Banner {
        let mirrors = match settings.goproxy.upstreams.as_slice() {
            [] => goproxy::describe_default(),
            named => named.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        let cache =
            settings.cache_dir.path.as_ref().map_or("memory alone".to_owned(), |path| path.display().to_string());
        let ca_file = settings.intercept.ca_dir.join("ca.pem");
        Banner { mirrors, cache, ca_file }
    }

    fn text(&self, running: &Running) -> String {
        let bound = &running.bound;
        let is_plain = |address: &&std::net::SocketAddr| !bound.tls.contains(address);
        let listen: Vec<String> = bound.listen.iter().filter(is_plain).map(ToString::to_string).collect();
        let tls: Vec<String> = bound.tls.iter().map(|address| format!("https://{address}")).collect();
        let listen = [listen, tls].concat();
        let mut text = format!("goanyway {}\n", env!("CARGO_PKG_VERSION"));
        let mut row = |what: &str, value: &str| text.push_str(&format!("  {what:<9} {value}\n"));
        row("listening", &format!("{} (CONNECT, http and GOPROXY)", listen.join(", ")));
        if !bound.transparent.is_empty() {
            let transparent: Vec<String> = bound.transparent.iter().map(ToString::to_string).collect();
            row("subnet", &format!("{} (what a gateway redirects)", transparent.join(", ")));
        }
        if !running.bound.dns.is_empty() {
            let dns: Vec<String> = running.bound.dns.iter().map(ToString::to_string).collect();
            row("DNS", &format!("{} (UDP and TCP)", dns.join(", ")));
        }
        if let Some(admin) = running.bound.admin {
            row("admin", &format!("http://{admin}/"));
        }
        row("names", &running.resolver.describe());
        row("mirrors", &self.mirrors);
        if let Some(parent) = &running.parent {
            row("parent", parent);
        }
        row("cache", &self.cache);
        match running.interceptor.fingerprint() {
            Some(print) => row("CA", &format!("{} (fingerprint {print})", self.ca_file.display())),
            None => row("CA", "none: every TLS connection is tunnelled"),
        }
        for notice in &running.notices {
            row("note", notice);
        }
        if let Some(first) = bound.listen.iter().find(is_plain).map(|&first| env::reachable(first)) {
            text.push_str(&format!("\nmodules only:      export GOPROXY=http://{first}\n"));
            let at = if first.port() == 3128 { String::new() } else { format!(" --listen {first}") };
            text.push_str(&format!("everything, safe:  eval \"$(goanyway env{at})\"\n"));
        } else if let Some(first) = bound.tls.first() {
            let port = first.port();
            text.push_str(&format!(
                "\neverything, safe:  export HTTPS_PROXY=https://NAME:{port} (as the certificate says)\n"
            ));
        }
        text
    }
}
