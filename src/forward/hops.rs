//! What a proxy takes off a message and puts on it (RFC 9110 section 7.6): hop-by-hop fields, those
//! that `Connection` names, and `Via`.

use http::Version;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Fields that mean one connection only, whether `Connection` names them or not.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Takes off everything that was meant for this connection alone.
pub fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // Framing is hyper's; a `Connection: content-length` must not unframe a body.
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Adds our name to `Via`, with the version in which the message came.
pub fn add_via(headers: &mut HeaderMap, version: Version, pseudonym: &str) {
    let version = match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        Version::HTTP_3 => "3.0",
        _ => "1.1",
    };
    let Ok(own) = HeaderValue::from_str(&format!("{version} {pseudonym}")) else { return };
    headers.append(header::VIA, own);
}

/// Whether a message has been here before.
pub fn has_passed(headers: &HeaderMap, pseudonym: &str) -> bool {
    let entries = headers.get_all(header::VIA).iter().filter_map(|value| value.to_str().ok());
    entries.flat_map(|value| value.split(',')).any(|entry| entry.split_whitespace().nth(1) == Some(pseudonym))
}

/// One step less to go, for the methods that count (RFC 9110 section 7.6.2); `None` where the
/// request ends here.
pub fn count_down(headers: &mut HeaderMap) -> Option<()> {
    let Some(value) = headers.get(header::MAX_FORWARDS) else { return Some(()) };
    let left: u64 = value.to_str().ok()?.trim().parse().ok()?;
    let fewer = left.checked_sub(1)?;
    headers.insert(header::MAX_FORWARDS, HeaderValue::from(fewer));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_was_meant_for_one_connection_stays_on_it() {
        let mut headers = fields(&[
            ("connection", "keep-alive, X-Foo, content-length"),
            ("x-foo", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic eA=="),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("content-length", "5"),
            ("accept", "*/*"),
        ]);
        strip(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-length"]);
    }

    #[test]
    fn via_grows_by_our_name_and_shows_a_loop() {
        let mut headers = fields(&[("via", "1.0 fred, 1.1 p.example (x)")]);
        assert!(!has_passed(&headers, "goanyway-1"));
        add_via(&mut headers, Version::HTTP_11, "goanyway-1");
        assert_eq!(headers.get_all("via").iter().count(), 2);
        assert!(has_passed(&headers, "goanyway-1") && has_passed(&headers, "p.example"));
    }

    #[test]
    fn max_forwards_counts_down_and_ends() {
        let mut headers = fields(&[("max-forwards", "1")]);
        assert_eq!(count_down(&mut headers), Some(()));
        assert_eq!(headers["max-forwards"], "0");
        assert_eq!(count_down(&mut headers), None);
        assert_eq!(count_down(&mut fields(&[])), Some(()));
    }
}
