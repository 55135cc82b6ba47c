//! One HTTP/1 request head as bytes: is there exactly one way to read it, and how long is its body?
//!
//! Strict where RFC 9112 lets a server be lenient and where hyper is (the table is in
//! docs/architecture.md): bare LF, both lengths at once, a transfer coding other than `chunked`
//! alone, doubled Host or Content-Length, a CONNECT with a body. Each is a 400 and the end of the
//! connection, since the next request could begin anywhere.

use std::mem::MaybeUninit;
use std::time::Duration;

use http::StatusCode;

use crate::target::{BadTarget, Target};

/// The longest head that is read; RFC 9110 section 5.4 leaves the number to us.
pub const MAX_HEAD: usize = 64 * 1024;
/// The longest request line: twice what RFC 9112 section 3 asks everybody to support.
pub const MAX_LINE: usize = 16 * 1024;
/// The most fields in a head.
pub const MAX_FIELDS: usize = 100;

/// How long a head may take from its first byte on.
pub const HEAD_PATIENCE: Duration = Duration::from_secs(15);

/// Where the body of a request ends, for the guard to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes.
    Length(u64),
    /// With its last chunk.
    Chunked,
    /// No further request follows a CONNECT: the answer takes the connection over or closes it.
    Open,
}

/// What was wrong with a request: always the client's fault, never worth trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the request line is not METHOD TARGET HTTP/1.1")]
    Line,
    #[error("the request line is longer than {MAX_LINE} bytes")]
    LongLine,
    #[error("the head is longer than {MAX_HEAD} bytes or {MAX_FIELDS} fields")]
    LongHead,
    #[error("a line of the head ends in a bare LF, or holds a bare CR or NUL")]
    LineEnd,
    #[error("a field of the head is malformed")]
    Field,
    #[error("HTTP/1.1 wants exactly one Host, naming a host and perhaps a port")]
    Host,
    #[error("Content-Length must be given once, as a plain decimal number")]
    ContentLength,
    #[error("Transfer-Encoding must be `chunked`, once, alone, in HTTP/1.1 and without Content-Length")]
    TransferEncoding,
    #[error("a chunk of the body is malformed")]
    Chunk,
    #[error("a trailer of the body is malformed, or the trailers are too many")]
    Trailers,
    #[error("the head did not come within {} s", HEAD_PATIENCE.as_secs())]
    SlowHead,
    #[error("a CONNECT has no body")]
    ConnectBody,
    #[error("a CONNECT names a bare host and port")]
    ConnectForm,
    #[error("only CONNECT names a bare host and port")]
    AuthorityForm,
    #[error("https is asked for by CONNECT, not by an https:// request to a proxy")]
    HttpsForm,
    #[error("expectations other than 100-continue cannot be met")]
    Expectation,
    #[error("this method is not served here")]
    Method,
    #[error("bad target: {0}")]
    Target(#[from] BadTarget),
}

impl Fault {
    /// The status of the refusal.
    pub fn status(self) -> StatusCode {
        match self {
            Fault::LongLine => StatusCode::URI_TOO_LONG,
            Fault::LongHead => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Fault::SlowHead => StatusCode::REQUEST_TIMEOUT,
            Fault::Expectation => StatusCode::EXPECTATION_FAILED,
            Fault::Method => StatusCode::METHOD_NOT_ALLOWED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// Whether a head that was passed asks `OPTIONS` of a server in absolute form, without a path.
pub fn is_pathless(head: &[u8]) -> bool {
    let target = head.strip_prefix(b"OPTIONS ").and_then(|rest| rest.split(|&byte| byte == b' ').next());
    let authority = target.and_then(|target| Some(&target[target.windows(3).position(|three| three == b"://")? + 3..]));
    authority.is_some_and(|authority| !authority.iter().any(|byte| b"/?#".contains(byte)))
}

/// Checks a whole head, its empty line included.
pub fn check(head: &[u8]) -> Result<Framing, Fault> {
    if !lines_are_clean(head) {
        return Err(Fault::LineEnd);
    }
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut fields) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Fault::Line),
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::LongHead),
        Err(httparse::Error::HeaderName | httparse::Error::HeaderValue) => return Err(Fault::Field),
        Err(httparse::Error::NewLine) => return Err(Fault::LineEnd),
        Err(_) => return Err(Fault::Line),
    }
    let modern = request.version == Some(1);
    let fields = Fields(request.headers);
    check_host(&fields, modern)?;
    let length = content_length(&fields)?;
    let chunked = is_chunked(&fields, modern, length.is_some())?;
    let connect = request.method == Some("CONNECT");
    if connect && (chunked || length.is_some_and(|length| length > 0)) {
        return Err(Fault::ConnectBody);
    }
    Ok(match (connect, chunked) {
        (true, _) => Framing::Open,
        (false, true) => Framing::Chunked,
        (false, false) => Framing::Length(length.unwrap_or(0)),
    })
}

/// Every LF follows a CR, every CR precedes an LF, and there is no NUL.
fn lines_are_clean(head: &[u8]) -> bool {
    let pairs = head.iter().zip(head.get(1..).unwrap_or_default());
    // To the end in any case: so many bytes are compared at once.
    let are_paired = pairs.fold(true, |clean, (&one, &next)| clean & ((one == b'\r') == (next == b'\n')));
    are_paired && head.first() != Some(&b'\n') && !head.contains(&0)
}

struct Fields<'a, 'b>(&'a [httparse::Header<'b>]);

impl<'b> Fields<'_, 'b> {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &'b [u8]> {
        self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }

    /// The value of a field that may stand once.
    fn once(&self, name: &'static str, fault: Fault) -> Result<Option<&'b [u8]>, Fault> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(fault),
            (value, None) => Ok(value),
        }
    }
}

fn check_host(fields: &Fields<'_, '_>, modern: bool) -> Result<(), Fault> {
    match fields.once("host", Fault::Host)? {
        None if modern => Err(Fault::Host),
        None | Some(b"") => Ok(()),
        Some(value) => {
            let text = std::str::from_utf8(value).map_err(|_| Fault::Host)?;
            Target::parse_authority(text, 1).map(drop).map_err(|_| Fault::Host)
        }
    }
}

fn content_length(fields: &Fields<'_, '_>) -> Result<Option<u64>, Fault> {
    let Some(value) = fields.once("content-length", Fault::ContentLength)? else { return Ok(None) };
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Fault::ContentLength);
    }
    let text = std::str::from_utf8(value).map_err(|_| Fault::ContentLength)?;
    text.parse().map(Some).map_err(|_| Fault::ContentLength)
}

fn is_chunked(fields: &Fields<'_, '_>, modern: bool, with_length: bool) -> Result<bool, Fault> {
    match fields.once("transfer-encoding", Fault::TransferEncoding)? {
        None => Ok(false),
        Some(value) if modern && !with_length && value.eq_ignore_ascii_case(b"chunked") => Ok(true),
        Some(_) => Err(Fault::TransferEncoding),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(head: &str) -> Result<Framing, Fault> {
        check(head.as_bytes())
    }

    fn with(fields: &str) -> Result<Framing, Fault> {
        checked(&format!("POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n"))
    }

    #[test]
    fn ordinary_heads_pass_and_tell_where_the_body_ends() {
        assert_eq!(checked("GET / HTTP/1.1\r\nHost: a.example:8080\r\n\r\n"), Ok(Framing::Length(0)));
        assert_eq!(checked("GET / HTTP/1.0\r\n\r\n"), Ok(Framing::Length(0)));
        assert_eq!(with("Content-Length: 5\r\n"), Ok(Framing::Length(5)));
        assert_eq!(with("Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
        assert_eq!(with("Connection: upgrade\r\nUpgrade: websocket\r\n"), Ok(Framing::Length(0)));
        assert_eq!(checked("CONNECT a.example:443 HTTP/1.0\r\n\r\n"), Ok(Framing::Open));
        assert_eq!(
            checked("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nContent-Length: 0\r\n\r\n"),
            Ok(Framing::Open)
        );
    }

    #[test]
    fn whatever_can_be_read_in_two_ways_is_refused() {
        let table = [
            ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", Fault::TransferEncoding),
            ("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", Fault::TransferEncoding),
            ("Transfer-Encoding: gzip, chunked\r\n", Fault::TransferEncoding),
            ("Transfer-Encoding: ,chunked\r\n", Fault::TransferEncoding),
            ("Transfer-Encoding: xchunked\r\n", Fault::TransferEncoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Fault::TransferEncoding),
            ("Content-Length: 3\r\nContent-Length: 3\r\n", Fault::ContentLength),
            ("Content-Length: 3, 3\r\n", Fault::ContentLength),
            ("Content-Length: +3\r\n", Fault::ContentLength),
            ("Content-Length: 0x3\r\n", Fault::ContentLength),
            ("Content-Length:\r\n", Fault::ContentLength),
            ("Content-Length: 99999999999999999999\r\n", Fault::ContentLength),
            ("Host: b.example\r\n", Fault::Host),
            ("X: a\nY: b\r\n", Fault::LineEnd),
            ("X: a\rb\r\n", Fault::LineEnd),
            ("X: a\0b\r\n", Fault::LineEnd),
            ("X : a\r\n", Fault::Field),
            ("X: a\r\n b\r\n", Fault::Field),
            (": a\r\n", Fault::Field),
        ];
        for (fields, fault) in table {
            assert_eq!(with(fields), Err(fault), "{fields:?}");
        }
    }

    #[test]
    fn the_request_line_and_the_host_are_strict_too() {
        let table = [
            ("GET / HTTP/1.1\r\n\r\n", Fault::Host),
            ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Fault::Host),
            ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Fault::Host),
            ("GET / HTTP/1.1\r\nHost: a/x\r\n\r\n", Fault::Host),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Line),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Fault::Line),
            ("GET /\r\n\r\n", Fault::Line),
            ("GET / HTTP/1.1\nHost: a\n\n", Fault::LineEnd),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::TransferEncoding),
            ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 5\r\n\r\n", Fault::ConnectBody),
            ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::ConnectBody),
        ];
        for (head, fault) in table {
            assert_eq!(checked(head), Err(fault), "{head:?}");
        }
        let many = "X: y\r\n".repeat(MAX_FIELDS + 1);
        assert_eq!(with(&many), Err(Fault::LongHead));
    }
}
