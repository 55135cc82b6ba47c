//! A module's answer as HTTP: with a validator, in parts, or as the news that there is none.
//!
//! Whatever is whole has a strong `ETag`, the SHA-256 of its bytes, so a second goanyway, a CDN or curl may ask
//! `If-None-Match` and gets 304. A zip may be had in parts (`Range`, RFC 9110 section 14): one range of bytes, for
//! GET, guarded by `If-Range`; everything else that a `Range` may say is answered whole, as the RFC
//! allows. What is still coming has neither. Headers that are the same for all answers are made once.

use futures_util::stream;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use crate::cache::Content;
use crate::fetch::{self, Body};
use crate::goproxy::{self, Reply, Served};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What a request says about when, and of what, it wants to hear.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    none_match: Option<HeaderValue>,
    range: Option<HeaderValue>,
    if_range: Option<HeaderValue>,
}

impl Conditions {
    /// Reads a request's head. Ranges are defined for GET alone (RFC 9110 section 14.2).
    pub fn of(method: &Method, headers: &HeaderMap) -> Conditions {
        let range = headers.get(header::RANGE).filter(|_| method == Method::GET);
        Conditions {
            none_match: headers.get(header::IF_NONE_MATCH).cloned(),
            range: range.cloned(),
            if_range: headers.get(header::IF_RANGE).cloned(),
        }
    }

    /// Whether the client has these bytes. The comparison is the weak one (RFC 9110 section 13.1.2).
    fn is_known(&self, tag: &[u8]) -> bool {
        let Some(known) = self.none_match.as_ref().and_then(|known| known.to_str().ok()) else { return false };
        let is_it = |one: &str| one == "*" || one.strip_prefix("W/").unwrap_or(one).as_bytes() == tag;
        known.split(',').map(str::trim).any(is_it)
    }

    /// The part that is wanted of so many bytes: none if all of it is; an error if there is no such part.
    fn part(&self, length: u64, tag: &[u8]) -> Result<Option<(u64, u64)>, OutOfRange> {
        let Some(range) = self.range.as_ref().and_then(|range| range.to_str().ok()) else { return Ok(None) };
        // A date never matches: nothing here says when it was last changed.
        if self.if_range.as_ref().is_some_and(|known| known.as_bytes() != tag) {
            return Ok(None);
        }
        read_range(range, length)
    }
}

/// The asked part begins beyond the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OutOfRange;

/// `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-COUNT`, as offset and length. Anything else is no range
/// that we know, and is answered whole.
fn read_range(text: &str, length: u64) -> Result<Option<(u64, u64)>, OutOfRange> {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Ok(None);
    };
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u64>().ok(),
        false => None,
    };
    match (number(first.trim()), number(last.trim()), first.trim().is_empty(), last.trim().is_empty()) {
        (_, Some(0), true, _) => Err(OutOfRange),
        (_, Some(_), true, _) if length == 0 => Err(OutOfRange),
        (_, Some(count), true, _) => Ok(Some((length - count.min(length), count.min(length)))),
        (Some(first), Some(last), ..) if last < first => Ok(None),
        (Some(first), Some(_), ..) | (Some(first), _, _, true) if first >= length => Err(OutOfRange),
        (Some(first), Some(last), ..) => Ok(Some((first, last.min(length - 1) - first + 1))),
        (Some(first), _, _, true) => Ok(Some((first, length - first))),
        _ => Ok(None),
    }
}

/// Makes responses of replies.
pub struct Modules {
    /// `Cache-Status` (RFC 9211) for each way in which something was served.
    statuses: [HeaderValue; Served::ALL.len()],
}

impl Modules {
    /// Under this name of ours.
    pub fn new(us: &str) -> Modules {
        let status = |served: Served| HeaderValue::from_str(&format!("{us}; {}", served.cache_status()));
        Modules { statuses: Served::ALL.map(|served| status(served).unwrap_or(HeaderValue::from_static("goanyway"))) }
    }

    /// Whence a response of ours came, by what it says itself.
    pub fn served(&self, response: &Response<Body>) -> Option<Served> {
        let said = response.headers().get(CACHE_STATUS)?;
        Served::ALL.into_iter().zip(&self.statuses).find(|(_, status)| *status == said).map(|(served, _)| served)
    }

    /// The response, as far as the request wants it.
    pub fn answer(&self, reply: Reply, conditions: &Conditions) -> Response<Body> {
        let (status, age, served, content_type) = (reply.status, reply.age, reply.served, reply.content_type);
        let mut response = match reply.body {
            goproxy::Body::Bytes(bytes) => {
                let length = bytes.len() as u64;
                whole(status, fetch::full(bytes), Some(length), content_type)
            }
            goproxy::Body::Held(content) => held(status, content, conditions, content_type),
        };
        let headers = response.headers_mut();
        if let Some(age) = age {
            headers.insert(header::AGE, HeaderValue::from(age.as_secs()));
        }
        let known = Served::ALL.iter().position(|other| *other == served);
        headers.extend(known.map(|at| (CACHE_STATUS, self.statuses[at].clone())));
        response
    }
}

fn held(status: StatusCode, mut content: Content, conditions: &Conditions, kind: &'static str) -> Response<Body> {
    let length = content.length();
    let tag = content.tag().cloned().filter(|_| status == StatusCode::OK);
    let (Some(length), Some(tag)) = (length, tag) else { return whole(status, body_of(content), length, kind) };
    let mut response = if conditions.is_known(&tag) {
        of_status(StatusCode::NOT_MODIFIED)
    } else {
        match conditions.part(length, &tag) {
            Ok(Some((from, part))) if content.narrow(from, part) => {
                let mut response = whole(StatusCode::PARTIAL_CONTENT, body_of(content), Some(part), kind);
                let range = format!("bytes {from}-{}/{length}", from + part - 1);
                response.headers_mut().extend(HeaderValue::try_from(range).ok().map(|it| (header::CONTENT_RANGE, it)));
                response
            }
            Ok(_) => whole(status, body_of(content), Some(length), kind),
            Err(OutOfRange) => {
                let mut response = of_status(StatusCode::RANGE_NOT_SATISFIABLE);
                let range = HeaderValue::try_from(format!("bytes */{length}")).ok();
                response.headers_mut().extend(range.map(|it| (header::CONTENT_RANGE, it)));
                response
            }
        }
    };
    let headers = response.headers_mut();
    headers.extend(HeaderValue::from_maybe_shared(tag).ok().map(|tag| (header::ETAG, tag)));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

fn of_status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(fetch::empty());
    *response.status_mut() = status;
    response
}

fn whole(status: StatusCode, body: Body, length: Option<u64>, kind: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    response
}

fn body_of(content: Content) -> Body {
    if let Some(bytes) = content.at_hand() {
        return fetch::full(bytes.clone());
    }
    let pieces = stream::unfold(content, |mut content| async move {
        let piece = content.next().await?;
        Some((piece.map(Frame::data).map_err(|error| fetch::Error::Broken(error.to_string())), content))
    });
    StreamBody::new(pieces).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const TEXT: &[u8] = b"0123456789";

    fn reply(status: u16) -> Reply {
        let body = goproxy::Body::Held(Content::of(Bytes::from_static(TEXT)));
        let status = StatusCode::from_u16(status).unwrap();
        Reply { status, content_type: "application/zip", body, served: Served::Hit, age: None, absence: None }
    }

    /// Status, `Content-Range`, `Content-Length` and body of what comes of such a request.
    async fn ask(method: Method, asked: &[(&str, &str)]) -> (u16, String, String, String) {
        let mut headers = HeaderMap::new();
        for (name, value) in asked {
            headers.insert(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        let response = Modules::new("us").answer(reply(200), &Conditions::of(&method, &headers));
        assert_eq!(response.headers()["cache-status"], "us; hit");
        assert_eq!(response.headers()["etag"], tag().as_str());
        let text = |name: &str| {
            let value = response.headers().get(name);
            value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        let (status, range, length) = (response.status().as_u16(), text("content-range"), text("content-length"));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, range, length, String::from_utf8(body.to_vec()).unwrap())
    }

    fn tag() -> String {
        let tag = Content::of(Bytes::from_static(TEXT)).tag().unwrap().clone();
        String::from_utf8(tag.to_vec()).unwrap()
    }

    fn told(status: u16, range: &str, length: &str, body: &str) -> (u16, String, String, String) {
        (status, range.to_owned(), length.to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn who_has_the_bytes_is_told_so() {
        let same = told(304, "", "", "");
        let all = told(200, "", "10", "0123456789");
        for known in [tag(), format!("W/{}", tag()), format!("\"x\", {}", tag()), "*".to_owned()] {
            assert_eq!(ask(Method::GET, &[("if-none-match", &known)]).await, same, "{known}");
            // What is known need not be sent in part either.
            assert_eq!(ask(Method::GET, &[("if-none-match", &known), ("range", "bytes=0-1")]).await, same, "{known}");
        }
        assert_eq!(ask(Method::GET, &[("if-none-match", "\"other\"")]).await, all);
        assert_eq!(ask(Method::HEAD, &[("if-none-match", &tag())]).await, same);
    }

    #[tokio::test]
    async fn a_part_is_given_where_one_is_asked_for() {
        let all = told(200, "", "10", "0123456789");
        let table = [
            ("bytes=0-3", told(206, "bytes 0-3/10", "4", "0123")),
            ("bytes=7-", told(206, "bytes 7-9/10", "3", "789")),
            ("bytes=-2", told(206, "bytes 8-9/10", "2", "89")),
            ("bytes=-99", told(206, "bytes 0-9/10", "10", "0123456789")),
            ("bytes=5-99", told(206, "bytes 5-9/10", "5", "56789")),
            ("bytes=10-", told(416, "bytes */10", "", "")),
            ("bytes=99-100", told(416, "bytes */10", "", "")),
            ("bytes=-0", told(416, "bytes */10", "", "")),
            ("bytes=3-1", all.clone()),
            ("bytes=0-1,3-4", all.clone()),
            ("bytes=x-", all.clone()),
            ("bytes=-", all.clone()),
            ("bytes=+1-2", all.clone()),
            ("lines=0-1", all.clone()),
            ("bytes=99999999999999999999999-", all.clone()),
        ];
        for (range, want) in table {
            assert_eq!(ask(Method::GET, &[("range", range)]).await, want, "{range}");
        }
        assert_eq!(ask(Method::HEAD, &[("range", "bytes=0-3")]).await, all);
        let guarded = [("range", "bytes=0-3"), ("if-range", "\"other\"")];
        assert_eq!(ask(Method::GET, &guarded).await, all);
        let dated = [("range", "bytes=0-3"), ("if-range", "Wed, 21 Oct 2015 07:28:00 GMT")];
        assert_eq!(ask(Method::GET, &dated).await, all);
        let fits = [("range", "bytes=0-3"), ("if-range", &tag())];
        assert_eq!(ask(Method::GET, &fits).await.0, 206);
    }

    #[tokio::test]
    async fn an_absence_has_no_validator() {
        let conditions = Conditions { none_match: Some(HeaderValue::from_static("*")), ..Conditions::default() };
        let response = Modules::new("us").answer(reply(404), &conditions);
        assert_eq!((response.status().as_u16(), response.headers().get("etag")), (404, None));
    }
}
