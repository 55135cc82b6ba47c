//! SIGHUP: the settings are read again, and what can hold at once does.
//!
//! All or nothing. What cannot be read or understood, in whatever setting, changes nothing. What can
//! only hold from a start on is named each time until there is one.

use super::Failure;
use super::log::Begun;
use super::sources::{self, Sources};
use crate::config::Typed;
use crate::daemon::{RELOADED, Running};

/// The settings that hold, and where they came from.
pub(super) struct Held {
    sources: Sources,
    typed: Typed,
    log: Begun,
    /// There are listeners over TLS; where there are none, a certificate makes none.
    over_tls: bool,
}

/// What came of reading them again, by key.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    changed: Vec<&'static str>,
    waiting: Vec<&'static str>,
}

impl Held {
    pub(super) fn new(sources: Sources, typed: Typed, log: Begun, over_tls: bool) -> Held {
        Held { sources, typed, log, over_tls }
    }

    /// Reads the settings again and has the daemon take on what it can.
    pub(super) fn renew(&mut self, running: &Running) -> Result<News, Failure> {
        let fresh = self.sources.read()?;
        let is_tls = sources::understand(&fresh)?.accept.tls.is_some();
        let news = sort(self.typed.changes(&fresh), self.over_tls && is_tls);
        let mut typed = self.typed.clone();
        typed.adopt(&news.changed, &fresh);
        let settings = sources::understand(&typed)?;
        let log = settings.log;
        running.reload(settings)?;
        if news.changed.contains(&"log.level") {
            self.log.set_level(log);
        }
        self.typed = typed;
        Ok(news)
    }
}

fn sort(differing: Vec<&'static str>, over_tls: bool) -> News {
    let is_certificate = |key: &str| key.starts_with("listen_tls.");
    let can = |key: &&'static str| *key == "log.level" || RELOADED.contains(key) && (over_tls || !is_certificate(key));
    let (changed, waiting) = differing.into_iter().partition(can);
    News { changed, waiting }
}

impl std::fmt::Display for News {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.changed.as_slice() {
            [] => f.write_str("nothing that holds at once is different")?,
            changed => write!(f, "now as the settings say: {}", changed.join(", "))?,
        }
        match self.waiting.as_slice() {
            [] => Ok(()),
            waiting => write!(f, "; a restart is needed for: {}", waiting.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_named_as_what_can_be_done_about_it() {
        let table = [
            (vec![], false, "nothing that holds at once is different"),
            (vec!["log.level", "admit.clients"], false, "now as the settings say: log.level, admit.clients"),
            (vec!["listen"], false, "nothing that holds at once is different; a restart is needed for: listen"),
            (
                vec!["cache.size", "admit.ports"],
                false,
                "now as the settings say: admit.ports; a restart is needed for: cache.size",
            ),
            (vec!["listen_tls.cert"], true, "now as the settings say: listen_tls.cert"),
            (
                vec!["listen_tls.cert"],
                false,
                "nothing that holds at once is different; a restart is needed for: listen_tls.cert",
            ),
        ];
        for (keys, over_tls, said) in table {
            assert_eq!(sort(keys, over_tls).to_string(), said);
        }
    }

    #[test]
    fn what_a_daemon_takes_on_is_a_setting() {
        for key in RELOADED {
            assert!(crate::config::ROWS.iter().any(|row| row.key == key), "{key}");
        }
    }
}
