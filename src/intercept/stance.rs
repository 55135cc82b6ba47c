//! What is decided about a connection's TLS, and why: the words of logs and metrics.

use super::{Error, Terminated};
use crate::metrics::Label;

/// What becomes of a client's TLS to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stance {
    Intercept,
    Tunnel(Why),
}

/// Why a connection is tunnelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// The mode is `off`.
    ModeOff,
    /// The target is an address.
    IpTarget,
    /// The host is not in `intercept.hosts`.
    NotListed,
    /// There is no CA: its folder cannot be written.
    NoCa,
    /// The CA's time is over.
    Expired,
    /// The clock stands before the CA was made.
    ClockBehind,
    /// The CA's constraints do not cover the host.
    NotCovered,
    /// The client says nothing about trust.
    SaysNothing,
    /// The client trusts another CA.
    OtherCa,
    /// The client refused our certificate within the last hour.
    Rejected,
    /// The host asks its clients for certificates.
    ClientCertificate,
    /// The client sent nothing: its protocol may be one where the server speaks first.
    Silent,
    /// The hello was never whole.
    Unfinished,
    /// It is not TLS.
    NotTls,
    /// The hello is malformed, or larger than 64 KiB.
    BadHello,
    /// The hello names no host.
    NoName,
    /// The hello names another host than the one that was admitted.
    OtherName,
    /// The hello is encrypted (ECH), or pretends to be.
    Ech,
    /// The client and we have no version, suite, group, signature or protocol in common.
    NothingInCommon,
}

/// How an attempt to intercept went, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    Done,
    Passed(Why),
    Rejected,
    Wordless,
    Spare,
    Failed,
    Slow,
    Closed,
}

impl Outcome {
    pub(super) fn of<S>(ended: &Result<Terminated<S>, Error>) -> Outcome {
        match ended {
            Ok(Terminated::Tls { .. }) => Outcome::Done,
            Ok(Terminated::Passed { why, .. }) => Outcome::Passed(*why),
            Err(Error::Rejected { .. }) => Outcome::Rejected,
            Err(Error::Wordless { .. }) => Outcome::Wordless,
            Err(Error::Spare { .. }) => Outcome::Spare,
            Err(Error::Slow) => Outcome::Slow,
            Err(Error::Closed) => Outcome::Closed,
            Err(_) => Outcome::Failed,
        }
    }
}

impl Label for Outcome {
    fn label(&self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Passed(why) => why.label(),
            Outcome::Rejected => "refused",
            Outcome::Wordless => "wordless",
            Outcome::Spare => "spare",
            Outcome::Failed => "failed",
            Outcome::Slow => "slow",
            Outcome::Closed => "closed",
        }
    }
}

impl Label for Stance {
    const KEY: &'static str = "stance";

    fn label(&self) -> &'static str {
        match self {
            Stance::Intercept => "intercept",
            Stance::Tunnel(why) => why.label(),
        }
    }
}

impl Label for Why {
    const KEY: &'static str = "why";

    fn label(&self) -> &'static str {
        match self {
            Why::ModeOff => "mode-off",
            Why::IpTarget => "ip-target",
            Why::NotListed => "not-listed",
            Why::NoCa => "no-ca",
            Why::Expired => "ca-expired",
            Why::ClockBehind => "clock-behind",
            Why::NotCovered => "not-covered",
            Why::SaysNothing => "says-nothing",
            Why::OtherCa => "other-ca",
            Why::Rejected => "rejected",
            Why::ClientCertificate => "client-certificate",
            Why::Silent => "silent",
            Why::Unfinished => "unfinished",
            Why::NotTls => "not-tls",
            Why::BadHello => "bad-hello",
            Why::NoName => "no-name",
            Why::OtherName => "other-name",
            Why::Ech => "ech",
            Why::NothingInCommon => "nothing-in-common",
        }
    }
}
