//! The log of a command: standard error, our own lines at the level asked for, libraries' warnings.
//!
//! As text or as JSON, with the same names of fields. Text lines up: what a record begins with is padded to
//! its usual width. Whatever somebody else said stays on its line.

use std::fmt::Write as _;

use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::fmt::{FormatEvent, FormatFields, MakeWriter, SubscriberBuilder};
use tracing_subscriber::{EnvFilter, Registry};

use crate::config;

/// How wide the fields at the front of a record are, with their names.
const WIDTHS: [(&str, usize); 9] = [
    ("message", 8),
    ("method", 14),
    ("cache", 17),
    ("ms", 8),
    ("resolve_ms", 15),
    ("connect_ms", 15),
    ("tls_ms", 11),
    ("first_byte_ms", 18),
    ("body_ms", 12),
];

/// A log that was begun, and whose level may change.
pub(super) struct Begun {
    usual: LevelFilter,
    swap: Box<dyn Fn(EnvFilter) -> bool + Send + Sync>,
}

/// Whether records say when they were: a daemon's are read later, a command's as they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Times {
    Told,
    Untold,
}

/// Begins the log. A second one in one process (tests) is the first.
pub(super) fn begin(log: config::Log, usual: LevelFilter, times: Times) -> Begun {
    // As for all else that is printed: a terminal that has colours, and nobody who wants none.
    let ansi = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(log.level.unwrap_or(usual)))
        .with_writer(std::io::stderr)
        // It would say so on the same standard error, by a macro that panics where nobody reads that any more.
        .log_internal_errors(false)
        .with_ansi(ansi);
    if log.json {
        return install(builder.json().flatten_event(true), usual);
    }
    let builder = builder.with_target(false).fmt_fields(debug_fn(write_field).delimited(" "));
    // Whoever asks for details compares times.
    if times == Times::Untold && log.level.unwrap_or(usual) <= LevelFilter::INFO {
        return install(builder.without_time(), usual);
    }
    install(builder, usual)
}

/// Makes it the log of this process.
fn install<N, E, W>(builder: SubscriberBuilder<N, E, EnvFilter, W>, usual: LevelFilter) -> Begun
where
    N: for<'w> FormatFields<'w> + Send + Sync + 'static,
    E: FormatEvent<Registry, N> + Send + Sync + 'static,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let builder = builder.with_filter_reloading();
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

fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn std::fmt::Debug) -> std::fmt::Result {
    writer.write_str(&shown(field.name(), &format!("{value:?}")))
}

/// One field: the message stands for itself, the others have their names.
fn shown(name: &str, value: &str) -> String {
    let mut text = if name == "message" { String::new() } else { format!("{name}=") };
    for char in value.chars() {
        let _ = if char.is_control() { write!(text, "{}", char.escape_default()) } else { write!(text, "{char}") };
    }
    let width = WIDTHS.iter().find(|(known, _)| *known == name).map_or(0, |(_, width)| *width);
    format!("{text:<width$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_record_begins_with_is_padded_and_nothing_else() {
        assert_eq!(shown("message", "failed"), "failed  ");
        assert_eq!(shown("ms", "12"), "ms=12   ");
        assert_eq!(shown("what", "\"a.example\""), "what=\"a.example\"");
    }

    /// An upstream's words are told, and must not write lines or colours of their own.
    #[test]
    fn nobody_writes_a_line_of_their_own() {
        assert_eq!(shown("trouble", "x\r\nINFO forged\u{1b}[2J"), "trouble=x\\r\\nINFO forged\\u{1b}[2J");
    }
}
