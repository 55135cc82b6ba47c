//! One request to one server by our own way out, and how far it came: name, connection, TLS, HTTP.
//!
//! Nothing is sent again and no redirect is followed: what stands between is what is looked for.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use rustls::CertificateError;

use crate::admit::Standing;
use crate::connect::{self, Miss, RootsError as TlsError};
use crate::fetch::{self, Fetcher, Patience};
use crate::target::{Base, Target};

/// How long nothing may come of a body.
const STALL: Duration = Duration::from_secs(3);
/// What is looked at of an answer: enough to tell a page from a list.
const MOST: usize = 64 * 1024;

/// How a request went.
#[derive(Clone, Debug)]
pub(super) enum Went {
    Answered(Answer),
    /// The name has no address.
    NoName(String),
    /// No connection to any of its addresses.
    NoWay(String),
    /// The certificate is none for this name, by these roots, at this time.
    Untrusted {
        why: String,
        doubt: Doubt,
    },
    /// The proxy between us did not let it through.
    Parent {
        why: String,
        wants_credentials: bool,
    },
    /// Connected, and nothing of use came.
    Broken(String),
    /// Our own rules keep us from it.
    Forbidden(String),
}

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    Dates,
    Issuer,
    Name,
    Other,
}

/// An answer's head, and the beginning of its body.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub location: Option<String>,
    pub body: Bytes,
    pub is_page: bool,
    /// By how many seconds the server's clock is ahead of ours.
    pub ahead: Option<i64>,
    pub elapsed: Duration,
}

/// GETs `base` + `path`, with so much patience for all of it.
pub(super) async fn ask(fetcher: &Fetcher, base: &Base, path: &str, patience: Duration) -> Went {
    let uri = format!("{base}{path}");
    let agent = concat!("goanyway/", env!("CARGO_PKG_VERSION"));
    let request = Request::get(&uri).header(header::USER_AGENT, agent).body(fetch::empty());
    let Ok(request) = request else { return Went::Broken(format!("{uri} is no URL")) };
    let begun = Instant::now();
    let send = fetcher.send(Standing::Configured, request, Patience { first_byte: patience, stall: STALL });
    match tokio::time::timeout(patience, send).await {
        Ok(Ok(response)) => Went::Answered(read(response, begun, patience).await),
        Ok(Err(error)) => went(error, &base.target),
        Err(_) => Went::NoWay(format!("no answer within {} s", patience.as_secs())),
    }
}

async fn read(response: http::Response<fetch::Body>, begun: Instant, patience: Duration) -> Answer {
    let elapsed = begun.elapsed();
    let (head, body) = response.into_parts();
    let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    let ahead = text(header::DATE).and_then(|date| ahead(date, SystemTime::now()));
    let (kind, location) = (text(header::CONTENT_TYPE).unwrap_or_default(), text(header::LOCATION));
    let (is_html, location) = (kind.starts_with("text/html"), location.map(str::to_owned));
    // A longer one is a page as well as a short one, and one that drips is not waited for.
    let collecting = Limited::new(body, MOST).collect();
    let body = tokio::time::timeout(patience.saturating_sub(elapsed), collecting).await;
    let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
    let is_page = is_html || body.trim_ascii_start().starts_with(b"<");
    Answer { status: head.status, location, body, is_page, ahead, elapsed }
}

/// An IMF-fixdate (RFC 9110 section 5.6.7) against our clock.
fn ahead(date: &str, now: SystemTime) -> Option<i64> {
    let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    let ours = jiff::Timestamp::try_from(now).ok()?;
    Some(theirs.as_second() - ours.as_second())
}

fn went(error: fetch::Error, target: &Target) -> Went {
    let error = match error {
        fetch::Error::Connect(error) => error,
        fetch::Error::Refused(refusal) => return Went::Forbidden(refusal.to_string()),
        fetch::Error::Silent(_) => return Went::NoWay(error.to_string()),
        other => return Went::Broken(other.to_string()),
    };
    let why = error.to_string();
    match error {
        connect::Error::Unresolved(_) => Went::NoName(why),
        connect::Error::Refused(_) => Went::Forbidden(why),
        connect::Error::Parent { error, .. } => Went::Parent { why, wants_credentials: error.wants_credentials() },
        connect::Error::Unreachable { target: at, .. } if at != *target => {
            Went::Parent { why, wants_credentials: false }
        }
        connect::Error::Deadline { .. } => Went::NoWay(why),
        connect::Error::Unreachable { tried, .. } => {
            let untrusted = tried.iter().find_map(|(_, miss)| match miss {
                Miss::Tls(TlsError::Untrusted(error)) => Some(error),
                _ => None,
            });
            match untrusted {
                Some(error) => Went::Untrusted { doubt: doubt(error), why: error.to_string() },
                None if tried.iter().any(|(_, miss)| matches!(miss, Miss::Tls(_))) => Went::Broken(why),
                None => Went::NoWay(why),
            }
        }
    }
}

fn doubt(error: &CertificateError) -> Doubt {
    use CertificateError as Of;
    match error {
        Of::Expired | Of::ExpiredContext { .. } | Of::NotValidYet | Of::NotValidYetContext { .. } => Doubt::Dates,
        Of::UnknownIssuer | Of::BadSignature => Doubt::Issuer,
        Of::NotValidForName | Of::NotValidForNameContext { .. } => Doubt::Name,
        _ => Doubt::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rustls_says_of_a_certificate_is_understood() {
        use rustls::pki_types::UnixTime;
        let (then, now) = (UnixTime::since_unix_epoch(Duration::ZERO), UnixTime::now());
        let table = [
            (CertificateError::Expired, Doubt::Dates),
            (CertificateError::NotValidYet, Doubt::Dates),
            (CertificateError::ExpiredContext { time: now, not_after: then }, Doubt::Dates),
            (CertificateError::NotValidYetContext { time: then, not_before: now }, Doubt::Dates),
            (CertificateError::UnknownIssuer, Doubt::Issuer),
            (CertificateError::NotValidForName, Doubt::Name),
            (CertificateError::Revoked, Doubt::Other),
        ];
        for (error, expected) in table {
            assert_eq!(doubt(&error), expected, "{error}");
        }
    }

    #[test]
    fn a_servers_date_is_compared_with_ours() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(ahead("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(0));
        assert_eq!(ahead("Sun, 06 Nov 1994 09:49:37 GMT", now), Some(3600));
        assert_eq!(ahead("yesterday", now), None);
    }
}
