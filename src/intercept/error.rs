//! What can go wrong with a CA or a handshake, each with what was wanted and what came.

use std::io;
use std::path::PathBuf;

use crate::target::Name;

/// The faults of this room. Those of a CA are its operator's to mend and say how; those of a
/// handshake are the client's doing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "CA file {path}: {why}; name a folder that can be used with --ca-dir, or switch interception off with --no-intercept"
    )]
    Folder { path: PathBuf, why: io::Error },
    #[error("cannot keep the root's key in {path}: {why}; name a file that is not there yet")]
    RootKey { path: PathBuf, why: io::Error },
    #[error(
        "the CA in {dir} is not whole: ca.pem is there and {missing} is not; put {missing} back, or move ca.pem away and a new CA is made"
    )]
    Incomplete { dir: PathBuf, missing: &'static str },
    #[error(
        "CA file {path}: {what}; put the right file back, or move the folder away and a new CA is made (nothing was changed)"
    )]
    Broken { path: PathBuf, what: String },
    #[error(
        "the CA folder {dir} has layout {version}, made by a newer goanyway; this one knows {known}: upgrade, or name another folder with --ca-dir"
    )]
    Newer { dir: PathBuf, version: u32, known: u32 },
    #[error(
        "{dir} holds a CA already (fingerprint {fingerprint}); `goanyway ca rotate` makes the next one and serves both for a while, `goanyway ca init --force` replaces it at once"
    )]
    Exists { dir: PathBuf, fingerprint: String },
    #[error("there is no CA in {dir} to rotate; `goanyway ca init` makes one")]
    Absent { dir: PathBuf },
    #[error(
        "the clock says {clock}, before this program was released ({released}); a CA made now would not be valid: set the clock first"
    )]
    ClockBehind { clock: String, released: String },
    #[error("a CA is made for named hosts, and none is named; name one with --intercept HOST")]
    NoHosts,
    #[error("cannot sign a certificate: {0}")]
    Sign(String),
    #[error("the client ended the connection before its TLS hello was whole")]
    Closed,
    #[error("no TLS handshake within 10 s")]
    Slow,
    #[error("the client refused our certificate for {host} ({said}); it is tunnelled to {host} for the next hour")]
    Rejected { host: Name, said: String },
    #[error(
        "the client left without a word once it had our certificate for {host}, as one does that refuses it late; it is tunnelled to {host} for the next hour"
    )]
    Wordless { host: Name },
    #[error("the client had no use for this connection to {host}: it speaks on another")]
    Spare { host: Name },
    #[error("the TLS handshake for {host} failed before a certificate was shown: {said}")]
    Handshake { host: Name, said: String },
}

impl Error {
    /// Whether the folder itself cannot be read or written, which is no reason to stop where nobody named it.
    pub fn is_folder(&self) -> bool {
        matches!(self, Error::Folder { .. })
    }

    /// Whether it has a client tunnelled from now on, which an operator wants to know.
    pub(super) fn is_learnt(&self) -> bool {
        matches!(self, Error::Rejected { .. } | Error::Wordless { .. } | Error::Handshake { .. })
    }
}
