//! Where a command's settings come from, so that they can be read more than once: its flags, the
//! environment, the file, and the sockets that a supervisor handed over.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::ArgMatches;

use crate::config::{self, ROWS, Settings, Typed};
use crate::service::{Inherited, Purpose};

/// What was typed at the start, and the file that was found then.
pub(super) struct Sources {
    flags: HashMap<&'static str, Vec<String>>,
    // Found once: with privileges laid down, a home of theirs looks as if nothing were in it.
    file: Option<PathBuf>,
    handed: Vec<(Purpose, SocketAddr)>,
}

impl Sources {
    /// The sources of a command, given what was handed over.
    pub(super) fn of(matches: &ArgMatches, inherited: &Inherited) -> Sources {
        let file = matches.get_one::<PathBuf>("config").cloned().or_else(usual_file);
        let of = |purpose| inherited.addresses(purpose).into_iter().map(move |address| (purpose, address));
        Sources { flags: flags(matches), file, handed: Purpose::ALL.into_iter().flat_map(of).collect() }
    }

    /// The file among them.
    pub(super) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Reads them, flags over the environment over the file.
    pub(super) fn read(&self) -> Result<Typed, config::Error> {
        let file = self.file.clone().or_else(|| config::config_file(&around));
        let mut typed = Typed::gather(&self.flags, &around, file.as_deref())?;
        for &(purpose, address) in &self.handed {
            typed.hand_over(purpose.key(), purpose.name(), address);
        }
        Ok(typed)
    }
}

/// The file that is read where no flag names one.
pub(super) fn usual_file() -> Option<PathBuf> {
    // Empty is unset, as with every other variable.
    let named = around("GOANYWAY_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    named.or_else(|| config::config_file(&around))
}

/// The settings that were typed as flags, each by its key.
pub(super) fn flags(matches: &ArgMatches) -> HashMap<&'static str, Vec<String>> {
    let values = |key| Some(matches.try_get_many::<String>(key).ok()??.cloned().collect());
    let mut flags: HashMap<&'static str, Vec<String>> =
        ROWS.iter().filter_map(|row| Some((row.key, values(row.key)?))).collect();
    if matches.try_get_one::<bool>("no-intercept").ok().flatten() == Some(&true) {
        flags.insert("intercept.mode", vec!["off".to_owned()]);
    }
    flags
}

/// What they mean here.
pub(super) fn understand(typed: &Typed) -> Result<Settings, config::Error> {
    Settings::understand(typed, &around)
}

/// Our environment.
pub(super) fn around(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
