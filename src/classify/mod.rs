//! What is this request? Pure functions over bytes and heads; nothing here awaits or allows.
//!
//! Two looks at every request. First the *head guard* ([`Guarded`]) reads each HTTP/1 head as
//! bytes and refuses whatever two readers could frame differently, before hyper, which is lenient,
//! sees it. Then [`intent`] tells from the parsed head which of the three dialects is spoken.

mod chunks;
mod glance;
mod guard;
mod head;
mod keeper;

use http::{Method, Request, Version, header};

pub use glance::read_head;
pub use guard::Guarded;
pub use head::{Fault, Framing, HEAD_PATIENCE, check};
pub use keeper::{Keeper, Left};

use crate::target::{BadTarget, Base, Scheme, Target};

/// What a client wants, by the form of its request target (RFC 9112 section 3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Authority form: a tunnel, or the start of an interception.
    Connect(Target),
    /// Absolute form: plain http on the client's behalf. `path` is the path and query as sent.
    Forward { base: Base, path: String },
    /// Origin form: something of our own, a module first of all.
    Origin { path: String },
}

/// Reads the intent off a request head. Inside an intercepted connection origin form belongs to
/// the host that was admitted; that is `flow`'s to know.
pub fn intent<B>(request: &Request<B>) -> Result<Intent, Fault> {
    let expected = request.headers().get(header::EXPECT).map(|value| value.as_bytes());
    if expected.is_some_and(|value| !value.eq_ignore_ascii_case(b"100-continue")) {
        return Err(Fault::Expectation);
    }
    if request.method() == Method::CONNECT {
        let uri = request.uri();
        if uri.scheme().is_some() || uri.path_and_query().is_some() {
            return Err(Fault::ConnectForm);
        }
        let authority = uri.authority().ok_or(Fault::Target(BadTarget::NoPort))?;
        return Ok(Intent::Connect(Target::parse_connect(authority.as_str())?));
    }
    if request.method() == Method::TRACE {
        return Err(Fault::Method);
    }
    let uri = request.uri();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(authority)) => {
            let target = Target::parse_authority(authority.as_str(), 80)?;
            let base = Base { scheme: Scheme::Http, target, path: String::new() };
            Ok(Intent::Forward { base, path: path.to_owned() })
        }
        // Over HTTP/2 every request carries scheme and authority; it is origin form all the same.
        (Some("https"), Some(_)) if request.version() == Version::HTTP_2 => {
            Ok(Intent::Origin { path: path.to_owned() })
        }
        (Some("https"), Some(_)) => Err(Fault::HttpsForm),
        (Some(_), _) => Err(Fault::Target(BadTarget::BadScheme)),
        (None, Some(_)) => Err(Fault::AuthorityForm),
        (None, None) => Ok(Intent::Origin { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &str, uri: &str) -> Result<Intent, Fault> {
        intent(&Request::builder().method(method).uri(uri).body(()).unwrap())
    }

    #[test]
    fn the_form_of_the_target_tells_the_dialect() {
        let target = Target::parse_connect("goproxy.cn:443").unwrap();
        assert_eq!(asked("CONNECT", "goproxy.cn:443"), Ok(Intent::Connect(target)));
        let base = Base::parse("http://a.example:8080").unwrap();
        assert_eq!(
            asked("GET", "http://A.example:8080/x?y=1"),
            Ok(Intent::Forward { base, path: "/x?y=1".to_owned() })
        );
        assert_eq!(
            asked("GET", "/golang.org/x/net/@v/list"),
            Ok(Intent::Origin { path: "/golang.org/x/net/@v/list".to_owned() })
        );
    }

    #[test]
    fn what_fits_no_form_is_refused() {
        assert_eq!(asked("CONNECT", "goproxy.cn"), Err(Fault::Target(BadTarget::NoPort)));
        assert_eq!(asked("CONNECT", "http://goproxy.cn:443/"), Err(Fault::ConnectForm));
        assert_eq!(asked("CONNECT", "u@goproxy.cn:443"), Err(Fault::Target(BadTarget::UserInfo)));
        assert_eq!(asked("GET", "goproxy.cn:443"), Err(Fault::AuthorityForm));
        assert_eq!(asked("GET", "ftp://a.example/x"), Err(Fault::Target(BadTarget::BadScheme)));
        assert_eq!(asked("GET", "https://a.example/x"), Err(Fault::HttpsForm));
        assert_eq!(asked("GET", "http://u:p@a.example/"), Err(Fault::Target(BadTarget::UserInfo)));
        assert_eq!(asked("TRACE", "http://a.example/"), Err(Fault::Method));
    }
}
