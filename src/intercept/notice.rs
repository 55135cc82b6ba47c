//! What an operator is told about the CA, in sentences that say what to do.

use std::fmt;
use std::path::PathBuf;
use std::time::SystemTime;

use super::authority::{Health, write_date};
use super::chains::Chains;
use super::{Config, HostPattern, folder};

/// What an operator should be told about the CA at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// There was none, and one was made.
    Made { dir: PathBuf, fingerprint: String },
    /// The default folder cannot be used; everything is tunnelled.
    Unusable { why: String },
    /// It ends soon.
    NearEnd { ends: SystemTime },
    /// It ended; everything is tunnelled.
    Expired { ended: SystemTime },
    /// The clock stands before the CA, or before this program; everything is tunnelled.
    ClockBehind { why: String },
    /// Others than its owner can read the key. Served all the same: what a container mounts as a secret is
    /// readable by its group by design, a refusal would stop builds that work, and the constraints bound the harm.
    KeyOpen { path: PathBuf },
    /// The CA was rotated; clients of one before are served for a while.
    Overlap { fingerprint: String, until: SystemTime },
    /// What is left of a rotation cannot be read; its clients are tunnelled.
    NoOverlap { why: String },
    /// A host that is to be intercepted is outside the CA's constraints.
    NotCovered { host: HostPattern },
}

impl Notice {
    /// Whether something should be done about it.
    pub fn is_trouble(&self) -> bool {
        !matches!(self, Notice::Made { .. } | Notice::Overlap { .. })
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = |time: &SystemTime| write_date(*time);
        match self {
            Notice::Made { dir, fingerprint } => {
                // How a client trusts it depends on the listener: whoever knows that says so.
                write!(f, "made a CA for the hosts of modules alone, in {} (fingerprint {fingerprint})", dir.display())
            }
            Notice::Unusable { why } => write!(f, "no CA, so all TLS is tunnelled: {why}"),
            Notice::NearEnd { ends } => {
                write!(
                    f,
                    "the CA ends on {}; `goanyway ca rotate` makes the next one and serves both for a while",
                    date(ends)
                )
            }
            Notice::Expired { ended } => {
                write!(
                    f,
                    "the CA ended on {}, so all TLS is tunnelled; `goanyway ca rotate` makes the next one",
                    date(ended)
                )
            }
            Notice::ClockBehind { why } => write!(f, "all TLS is tunnelled: {why}"),
            Notice::KeyOpen { path } => {
                write!(f, "others can read the CA's key; close it: chmod 600 {}", path.display())
            }
            Notice::Overlap { fingerprint, until } => {
                write!(f, "clients that trust the CA before this one ({fingerprint}) are served until {}", date(until))
            }
            Notice::NoOverlap { why } => {
                write!(f, "clients that trust an earlier CA are tunnelled: {why}")
            }
            Notice::NotCovered { host } => {
                write!(
                    f,
                    "{host} is tunnelled, because the CA does not cover it; `goanyway ca rotate --intercept {host}` makes one that does"
                )
            }
        }
    }
}

/// Looks a loaded CA over, and those before it.
pub(super) fn inspect(chains: &Chains, config: &Config, now: SystemTime, notices: &mut Vec<Notice>) {
    let authority = chains.current();
    match authority.health(now) {
        Health::Good => {}
        Health::NearEnd => notices.push(Notice::NearEnd { ends: authority.ends() }),
        Health::Expired => notices.push(Notice::Expired { ended: authority.ends() }),
        Health::ClockBehind => {
            let (clock, begins) = (write_date(now), write_date(authority.begins()));
            let why = format!("the clock says {clock}, and the CA is valid from {begins}: set the clock");
            notices.push(Notice::ClockBehind { why });
        }
    }
    if authority.key_is_open() {
        notices.push(Notice::KeyOpen { path: config.ca_dir.join(folder::KEY) });
    }
    let uncovered = config.hosts.iter().filter(|host| !authority.covers(host.base()));
    notices.extend(uncovered.map(|host| Notice::NotCovered { host: host.clone() }));
    let earlier = chains.earlier().iter().filter_map(|chain| Some((chain.authority.fingerprint(), chain.until?)));
    notices.extend(earlier.map(|(print, until)| Notice::Overlap { fingerprint: print.to_owned(), until }));
}
