//! `goanyway serve`: bind, lay privileges down, start, say what is where, serve until told to stop.
//!
//! SIGHUP has the settings read again, except where it says that the terminal went on which we were
//! started. Whoever supervises us hears when we are ready, reload and stop, and, where it wants a
//! sign of life, gets one for as long as every thread that serves gives one.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ArgMatches;
use tokio::time::MissedTickBehavior;
use tracing::level_filters::LevelFilter;

use super::reload::Held;
use super::signals::{Signals, Terminal, Told};
use super::sources::{self, Sources, around};
use super::{Failure, env, log, say_strangers, write_aside};
use crate::config::Settings;
use crate::daemon::{self, Doors, Running};
use crate::goproxy;
use crate::service::{self, Inherited, Pulse, Supervisor};

pub(super) fn serve(matches: &ArgMatches, ready_file: Option<&PathBuf>) -> Result<ExitCode, Failure> {
    say_strangers();
    let inherited = Inherited::take(&around);
    let sources = Sources::of(matches, &inherited);
    let typed = sources.read()?;
    let mut settings = sources::understand(&typed)?;
    let log = log::begin(settings.log, LevelFilter::INFO, log::Times::Told);
    let (supervisor, unheard) = Supervisor::find(&around);
    settings.notices.extend(unheard);
    let mut held = Held::new(sources, typed, log, settings.accept.tls.is_some());

    let banner = Banner::of(&settings);
    daemon::prepare_folders(&settings)?;
    let doors = Doors::open(&settings, inherited)?;
    service::drop_privileges(settings.user.as_ref()).map_err(daemon::Error::from)?;
    let running = daemon::start_behind(doors, settings)?;
    // Before anybody is told that we serve, and may tell us to stop.
    let terminal = Terminal::ours();
    let mut signals = running.runtime().block_on(async { Signals::listen()?.and_reload() })?;
    if let Some(path) = ready_file {
        write_aside(path, running.bound.lines().as_bytes())?;
    }
    anstream::eprint!("{}", banner.text(&running));
    let serving = format!("serving on {}", addresses(&running).join(", "));
    supervisor.ready(&serving);

    let told = running.runtime().block_on(async {
        let mut attesting = std::pin::pin!(attest(running.pulse(), &supervisor));
        loop {
            tokio::select! {
                told = signals.next() => match told {
                    Told::Hangup if !terminal.is_gone() => renew(&mut held, &running, &supervisor, &serving),
                    told => return told,
                },
                () = &mut attesting => unreachable!("signs of life are given for as long as anybody lives"),
            }
        }
    });
    tracing::info!(?told, "closing: finishing what is under way, {} s at most", daemon::GRACE.as_secs());
    supervisor.stopping("finishing what is under way");
    let cutter = running.cutter();
    running.runtime().spawn(async move {
        // A second one means now.
        while signals.next().await == Told::Hangup {}
        cutter.cancel();
    });
    let cut = running.stop();
    if cut > 0 {
        tracing::warn!(cut, "connections were cut");
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the settings again. Whatever is wrong with them, we go on.
fn renew(held: &mut Held, running: &Running, supervisor: &Supervisor, serving: &str) {
    supervisor.reloading();
    match held.renew(running) {
        Ok(news) => {
            tracing::info!("settings read again: {news}");
            supervisor.ready(&format!("{serving}; {news}"));
        }
        Err(failure) => {
            tracing::error!("settings cannot be read again, and those from before stand: {failure}");
            supervisor.ready(&format!("{serving}; the settings cannot be read again: {failure}"));
        }
    }
}

/// Gives the signs of life that a supervisor wants, while everybody who serves gives them to us. Does
/// not end.
async fn attest(pulse: &Pulse, supervisor: &Supervisor) {
    let Some(every) = supervisor.beat_every() else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match pulse.feel(every).await.as_slice() {
            [] => supervisor.alive(),
            silent => tracing::error!("no answer within {every:?} from {}: it hangs", silent.join(", ")),
        }
    }
}

/// Where clients reach us, as a URL or an address.
fn addresses(running: &Running) -> Vec<String> {
    let bound = &running.bound;
    let plain = bound.listen.iter().filter(|address| !bound.tls.contains(address)).map(ToString::to_string);
    plain.chain(bound.tls.iter().map(|address| format!("https://{address}"))).collect()
}

/// What only the settings know of what the start says.
struct Banner {
    mirrors: String,
    cache: String,
    ca_file: PathBuf,
    user: Option<String>,
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
        let user = settings.user.as_ref().map(|user| format!("{} (uid {}, gid {})", user.name, user.uid, user.gid));
        Banner { mirrors, cache, ca_file, user }
    }

    fn text(&self, running: &Running) -> String {
        let bound = &running.bound;
        let is_plain = |address: &&std::net::SocketAddr| !bound.tls.contains(address);
        let mut text = format!("goanyway {}\n", env!("CARGO_PKG_VERSION"));
        let mut row = |what: &str, value: &str| text.push_str(&format!("  {what:<9} {value}\n"));
        row("listening", &format!("{} (CONNECT, http and GOPROXY)", addresses(running).join(", ")));
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
        if let Some(user) = &self.user {
            row("user", user);
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
