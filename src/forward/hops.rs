//! What a proxy takes off a message and puts on it (RFC 9110 section 7.6): hop-by-hop fields, those
//! that `Connection` names, and `Via`. Of the former two are asked for anew on the next hop, where
//! the client asked: trailers, and another protocol.

use http::Version;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::target::Scheme;

/// Fields that mean one connection only, whether `Connection` names them or not.
const HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("proxy-authentication-info"),
    HeaderName::from_static("http2-settings"),
];

/// What a client asked of this hop that the next one is to be asked for, too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The protocols that may be switched to.
    pub protocols: Vec<String>,
    /// Whether trailers are of use.
    pub trailers: bool,
}

impl Asked {
    /// Reads it off a request. A switch is asked for in HTTP/1.1 alone, by both fields (RFC 9110
    /// section 7.8); trailers want to be named twice, too, where there is a `Connection` (10.1.4).
    pub fn of(headers: &HeaderMap, version: Version) -> Asked {
        let nominated = |name| tokens(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case(name));
        let switches = version == Version::HTTP_11 && nominated("upgrade");
        let protocols = tokens(headers, &header::UPGRADE).filter(|name| switches && is_carried(name));
        let protocols = protocols.map(str::to_owned).collect();
        let trailers = tokens(headers, &header::TE).any(|token| token.eq_ignore_ascii_case("trailers"));
        let trailers = trailers && (version == Version::HTTP_2 || nominated("te"));
        Asked { protocols, trailers }
    }

    /// Asks the next hop, which is spoken to by `scheme`.
    pub fn put_on(&self, headers: &mut HeaderMap, scheme: Scheme) {
        if self.trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
            // Over TLS the hop may turn out to be HTTP/2, where hyper takes off what `Connection` names.
            if scheme == Scheme::Http {
                headers.append(header::CONNECTION, HeaderValue::from_static("te"));
            }
        }
        if let Ok(protocols) = HeaderValue::from_str(&self.protocols.join(", "))
            && !self.protocols.is_empty()
        {
            headers.insert(header::UPGRADE, protocols);
            headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
    }

    /// The protocol that an answer switches to, if it is one of those that were asked for.
    pub fn granted(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let mut granted = tokens(headers, &header::UPGRADE);
        let first = granted.next()?;
        let asked = self.protocols.iter().any(|protocol| protocol.eq_ignore_ascii_case(first));
        (asked && granted.next().is_none()).then(|| HeaderValue::from_str(first).ok())?
    }
}

/// Not another HTTP or TLS: requests in it would pass us unread (h2c smuggling).
fn is_carried(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or_default().to_ascii_lowercase();
    !["h2c", "h2", "http", "tls"].contains(&name.as_str())
}

/// The members of a list in all lines of a field, without parameters.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let members = lines.flat_map(|line| line.split(','));
    members.map(|member| member.split(';').next().unwrap_or_default().trim()).filter(|member| !member.is_empty())
}

/// Takes off a trailer section what belongs to a head (RFC 9110 section 6.5.1): fields of framing,
/// routing and this connection.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    strip(trailers);
    for name in [header::CONTENT_LENGTH, header::HOST, header::TRAILER, header::MAX_FORWARDS, header::VIA] {
        trailers.remove(name);
    }
}

/// Makes of a head in HTTP/2 what HTTP/1.1 can say: one line of a cookie in crumbs (RFC 9113 section 8.2.3), and one of a
/// length that was said twice. Lengths that contradict each other come no further than h2.
pub fn unpack(headers: &mut HeaderMap) {
    if let Some(length) = headers.get(header::CONTENT_LENGTH).cloned() {
        headers.insert(header::CONTENT_LENGTH, length);
    }
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, whole);
    }
}

/// Takes off everything that was meant for this connection alone.
pub fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
        .filter_map(|name| name.parse().ok())
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
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
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
    fn what_http_2_says_in_many_lines_is_said_in_one() {
        let mut headers = fields(&[("cookie", "a=1"), ("content-length", "3"), ("cookie", "b=2"), ("cookie", "c=3")]);
        headers.append("content-length", "3".parse().unwrap());
        unpack(&mut headers);
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
        assert_eq!(headers.get_all("content-length").iter().collect::<Vec<_>>(), ["3"]);
        let mut headers = fields(&[("accept", "*/*")]);
        unpack(&mut headers);
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn another_protocol_is_asked_for_by_both_fields_and_is_never_http() {
        let asked = |connection, upgrade, version| {
            Asked::of(&fields(&[("connection", connection), ("upgrade", upgrade)]), version).protocols.join(" ")
        };
        let table = [
            ("Upgrade", "websocket", Version::HTTP_11, "websocket"),
            ("keep-alive, upgrade", "websocket, irc/6.9", Version::HTTP_11, "websocket irc/6.9"),
            ("keep-alive", "websocket", Version::HTTP_11, ""),
            ("upgrade", "websocket", Version::HTTP_10, ""),
            ("upgrade, http2-settings", "h2c, websocket", Version::HTTP_11, "websocket"),
            ("upgrade", "HTTP/2.0, TLS/1.0, H2C", Version::HTTP_11, ""),
        ];
        for (connection, upgrade, version, wanted) in table {
            assert_eq!(asked(connection, upgrade, version), wanted, "{connection}: {upgrade}");
        }
    }

    #[test]
    fn a_switch_is_granted_to_what_was_asked_for_alone() {
        let asked = Asked { protocols: vec!["websocket".to_owned()], trailers: false };
        assert_eq!(asked.granted(&fields(&[("upgrade", "WebSocket")])).unwrap(), "WebSocket");
        for other in ["irc", "websocket, irc", ""] {
            assert_eq!(asked.granted(&fields(&[("upgrade", other)])), None, "{other:?}");
        }
    }

    #[test]
    fn what_was_asked_for_is_asked_for_again() {
        let mut headers = HeaderMap::new();
        Asked { protocols: vec!["websocket".to_owned()], trailers: true }.put_on(&mut headers, Scheme::Http);
        assert_eq!(
            (&headers["te"], &headers["upgrade"]),
            (&"trailers".parse().unwrap(), &"websocket".parse().unwrap())
        );
        assert_eq!(tokens(&headers, &header::CONNECTION).collect::<Vec<_>>(), ["te", "upgrade"]);
        let mut headers = HeaderMap::new();
        Asked { protocols: Vec::new(), trailers: true }.put_on(&mut headers, Scheme::Https);
        assert_eq!((&headers["te"], headers.get("connection")), (&"trailers".parse().unwrap(), None));
        let asked = Asked::of(&fields(&[("te", "deflate, Trailers;q=0.5")]), Version::HTTP_2);
        assert!(asked.trailers && asked.protocols.is_empty());
    }

    #[test]
    fn trailers_frame_and_route_nothing() {
        let mut trailers = fields(&[
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("host", "a"),
            ("connection", "x-sum"),
            ("x-kept", "1"),
            ("x-sum", "2"),
        ]);
        strip_trailers(&mut trailers);
        assert_eq!(trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-kept"]);
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
