//! What a check found: a verdict, one sentence, and the one command that mends it, or who can.
//!
//! A command is either safe for `--fix` to run as it stands ([`Mend::Run`]: it changes what is this
//! user's own and can be undone), or one for a person to type ([`Mend::Type`]: it concerns their own
//! shell, or something that is not ours to change unasked).

use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeMap};

pub(super) use crate::cli::readers::quote_sh as quote;

/// How bad it is. Faults alone make the exit code 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    /// Builds go through, but slower, or with less than they could have.
    Warning,
    /// Builds fail, or will.
    Fault,
}

impl Verdict {
    pub(super) fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Fault => "fault",
        }
    }
}

/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// Which check: a word from a closed set, for programs.
    pub check: &'static str,
    /// What of: a server, a host, a program, a variable; empty where there is but one.
    pub subject: String,
    pub verdict: Verdict,
    /// What was seen, in one sentence.
    pub saw: String,
    pub mend: Option<Mend>,
}

/// What mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mend {
    /// A program and its arguments, which `--fix` may run.
    Run(Vec<String>),
    /// A line for a shell, which a person types.
    Type(String),
    /// Nothing can be typed here: who can do something, and what.
    Ask(String),
}

impl Mend {
    /// A command of ours, which `--fix` may run.
    pub(super) fn ours(words: &[&str], flags: Vec<String>) -> Mend {
        let words = std::iter::once("goanyway").chain(words.iter().copied()).map(str::to_owned);
        Mend::Run(words.chain(flags).collect())
    }

    /// The command as a person types it; none where there is none.
    pub(super) fn command(&self) -> Option<String> {
        match self {
            Mend::Run(words) => Some(words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")),
            Mend::Type(line) => Some(line.clone()),
            Mend::Ask(_) => None,
        }
    }
}

impl Serialize for Mend {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Mend::Ask(who) => map.serialize_entry("who", who)?,
            _ => {
                map.serialize_entry("command", &self.command())?;
                map.serialize_entry("fixable", &matches!(self, Mend::Run(_)))?;
            }
        }
        map.end()
    }
}

impl Finding {
    pub(super) fn ok(check: &'static str, subject: impl Into<String>, saw: impl Into<String>) -> Finding {
        Finding { check, subject: subject.into(), verdict: Verdict::Ok, saw: saw.into(), mend: None }
    }

    pub(super) fn warning(
        check: &'static str,
        subject: impl Into<String>,
        saw: impl Into<String>,
        mend: Mend,
    ) -> Finding {
        Finding { verdict: Verdict::Warning, mend: Some(mend), ..Finding::ok(check, subject, saw) }
    }

    pub(super) fn fault(
        check: &'static str,
        subject: impl Into<String>,
        saw: impl Into<String>,
        mend: Mend,
    ) -> Finding {
        Finding { verdict: Verdict::Fault, mend: Some(mend), ..Finding::ok(check, subject, saw) }
    }

    /// Whether both are well, and alike but for their subjects: a person reads that once.
    pub(super) fn is_well_like(&self, other: &Finding) -> bool {
        let told = |finding: &Finding| (finding.verdict, finding.check);
        self.verdict == Verdict::Ok && told(self) == told(other) && self.saw == other.saw
    }

    /// The same, no worse than this.
    pub(super) fn at_most(mut self, verdict: Verdict) -> Finding {
        self.verdict = self.verdict.min(verdict);
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subject.as_str() {
            "" => write!(f, "{}: {}", self.check, self.saw),
            subject => write!(f, "{} {subject}: {}", self.check, self.saw),
        }
    }
}
