//! The log of a command: standard error, our own lines at the level asked for, libraries' warnings.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::config;

/// A log that was begun, and whose level may change.
pub(super) struct Begun {
    usual: LevelFilter,
    swap: Box<dyn Fn(EnvFilter) -> bool + Send + Sync>,
}

/// Begins the log. A second one in one process (tests) is the first.
pub(super) fn begin(log: config::Log, usual: LevelFilter) -> Begun {
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(log.level.unwrap_or(usual)))
        .with_writer(std::io::stderr)
        // It would say so on the same standard error, by a macro that panics where nobody reads that any more.
        .log_internal_errors(false)
        .with_ansi(ansi);
    if log.json {
        let builder = builder.json().with_filter_reloading();
        let handle = builder.reload_handle();
        let _ = builder.try_init();
        return Begun { usual, swap: Box::new(move |filter| handle.reload(filter).is_ok()) };
    }
    let builder = builder.with_target(false).with_filter_reloading();
    let handle = builder.reload_handle();
    let _ = builder.try_init();
    Begun { usual, swap: Box::new(move |filter| handle.reload(filter).is_ok()) }
}

impl Begun {
    /// From now on this is the level.
    pub(super) fn set_level(&self, log: config::Log) {
        let level = log.level.unwrap_or(self.usual);
        if !(self.swap)(filter(level)) {
            tracing::warn!(%level, "the level of the log stays as it was: this log is somebody else's");
        }
    }
}

fn filter(level: LevelFilter) -> EnvFilter {
    format!("warn,goanyway={level}").parse().unwrap_or_else(|_| EnvFilter::new("warn"))
}
