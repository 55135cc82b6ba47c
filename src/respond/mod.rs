//! The only writer of errors, in the two voices that users hear (DESIGN.md section 9).
//!
//! Voice one: of a refused CONNECT, go and npm print the *reason phrase* and nothing else, so the
//! diagnosis stands there, in at most 160 printable bytes. Voice two: of a failed module request go
//! prints a `text/plain` body, up to the first blank line, eight lines and 648 bytes
//! (cmd/go/internal/web/api.go). Both end in an id that the log carries too. `Proxy-Status`
//! (RFC 9209) says the same to machines. What did not fail, `modules` puts into a response;
//! what the log hears of either, `line` says.

mod line;
mod modules;

use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use hyper::ext::ReasonPhrase;

pub use line::{Later, Line};
pub use modules::{Conditions, Modules};

use crate::accept::Unwelcome;
use crate::admit::Refusal;
use crate::fetch::{self, Body};
use crate::target::Name;
use crate::trace::Id;
use crate::{classify, connect, forward, goproxy, resolve};

/// The longest reason phrase: what fits a terminal line or two beside go's own words.
const PHRASE: usize = 160;
/// What go prints of a body: so many lines, so many bytes.
const BODY_LINES: usize = 8;
const BODY_BYTES: usize = 648;

/// Everything that can stand between a request and its answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Trouble {
    #[error("{0}")]
    Request(#[from] classify::Fault),
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("{0}")]
    Connect(#[from] connect::Error),
    #[error("{0}")]
    Forward(#[from] forward::Failure),
    #[error("{0}")]
    Module(#[from] goproxy::Failure),
    /// Origin form that is no module request.
    #[error("{0}")]
    Path(#[from] goproxy::NotOurs),
    /// A request for another host than the one this connection was opened for.
    #[error("this connection leads to another host")]
    Misdirected,
    /// A request in origin form for another host than us.
    #[error("this proxy is not called {0}; if it is, its listen_names want to have it")]
    Foreign(Name),
    /// A connection on which everything is told no.
    #[error("{0}")]
    Unwelcome(Unwelcome),
    /// Whoever asked has left.
    #[error("the client had finished sending, and the answer took too long to believe that it still listens")]
    Left,
    /// Something of ours that is not there, with the reason.
    #[error("{0}")]
    Absent(&'static str),
    /// A method that this path does not have.
    #[error("only GET and HEAD are served here")]
    Method,
}

impl Trouble {
    /// The status: 502 a fault, 504 silence, 403 policy; an upstream's own where it said so.
    pub fn status(&self) -> StatusCode {
        match self {
            Trouble::Request(fault) => fault.status(),
            Trouble::Refused(refusal) => of_refusal(refusal),
            Trouble::Connect(error) => of_connect(error),
            Trouble::Forward(forward::Failure::Loop) => StatusCode::BAD_GATEWAY,
            Trouble::Forward(forward::Failure::Uri(_)) => StatusCode::BAD_REQUEST,
            Trouble::Forward(forward::Failure::Fetch(error)) => of_fetch(error),
            Trouble::Module(failure) => failure.status(),
            Trouble::Path(_) | Trouble::Absent(_) => StatusCode::NOT_FOUND,
            Trouble::Misdirected | Trouble::Foreign(_) => StatusCode::MISDIRECTED_REQUEST,
            Trouble::Left => StatusCode::REQUEST_TIMEOUT,
            Trouble::Unwelcome(Unwelcome::Crowd) => StatusCode::TOO_MANY_REQUESTS,
            Trouble::Unwelcome(Unwelcome::Plain) => StatusCode::BAD_REQUEST,
            Trouble::Method => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// The word that RFC 9209 section 2.3 has for it.
    fn token(&self) -> &'static str {
        match self {
            Trouble::Request(_) | Trouble::Misdirected | Trouble::Foreign(_) | Trouble::Left | Trouble::Method => {
                "http_request_error"
            }
            Trouble::Refused(Refusal::Address { .. } | Refusal::Denied(_) | Refusal::Metadata) => {
                "destination_ip_prohibited"
            }
            Trouble::Refused(_) | Trouble::Unwelcome(Unwelcome::Crowd) => "http_request_denied",
            Trouble::Unwelcome(Unwelcome::Plain) => "http_request_error",
            Trouble::Connect(error) => connect_token(error),
            Trouble::Forward(forward::Failure::Loop) => "proxy_loop_detected",
            Trouble::Forward(forward::Failure::Uri(_)) => "http_request_error",
            Trouble::Forward(forward::Failure::Fetch(error)) => fetch_token(error),
            Trouble::Module(failure) if failure.status() == StatusCode::GATEWAY_TIMEOUT => "http_response_timeout",
            Trouble::Module(_) => "http_protocol_error",
            Trouble::Path(_) | Trouble::Absent(_) => "http_request_denied",
        }
    }

    /// In words for the log and the status page: without the queries that it may quote.
    pub fn told(&self) -> String {
        line::without_queries(&self.to_string())
    }

    /// Whether it is the fault of whoever asked: then the log says it at debug only.
    pub fn is_the_clients(&self) -> bool {
        match self {
            Trouble::Request(_)
            | Trouble::Path(_)
            | Trouble::Misdirected
            | Trouble::Foreign(_)
            | Trouble::Left
            | Trouble::Unwelcome(_)
            | Trouble::Absent(_)
            | Trouble::Method => true,
            Trouble::Forward(forward::Failure::Fetch(fetch::Error::Request(_))) => true,
            Trouble::Module(failure) => failure.status().is_client_error(),
            _ => false,
        }
    }

    /// The rule that speaks against it, however far the request had come.
    fn refusal(&self) -> Option<&Refusal> {
        match self {
            Trouble::Refused(refusal)
            | Trouble::Connect(connect::Error::Refused(refusal))
            | Trouble::Forward(forward::Failure::Fetch(
                fetch::Error::Refused(refusal) | fetch::Error::Connect(connect::Error::Refused(refusal)),
            )) => Some(refusal),
            _ => None,
        }
    }

    /// Whether an operator wants to see it: neither the fault of whoever asked, nor the mere demand for a password.
    pub fn is_news(&self) -> bool {
        !self.is_the_clients() && !matches!(self, Trouble::Refused(Refusal::Credentials | Refusal::Login))
    }

    /// What an operator does next, where there is something.
    pub fn advice(&self) -> Option<String> {
        match self {
            Trouble::Module(failure) => failure.hint().map(str::to_owned),
            _ => self.hint(),
        }
    }

    /// What to type next, where there is something.
    fn hint(&self) -> Option<String> {
        self.unresolved().map(|failure| format!("goanyway resolve {}", failure.name()))
    }

    /// The look-up that failed, if it was one.
    fn unresolved(&self) -> Option<&resolve::Failure> {
        match self {
            Trouble::Connect(connect::Error::Unresolved(failure))
            | Trouble::Forward(forward::Failure::Fetch(fetch::Error::Connect(connect::Error::Unresolved(failure)))) => {
                Some(failure)
            }
            _ => None,
        }
    }

    /// Voice two's lines; a module failure brings its own.
    fn lines(&self) -> Vec<String> {
        match self {
            Trouble::Module(failure) => failure.lines(),
            _ => {
                let mut lines = vec![self.to_string()];
                lines.extend(self.hint().map(|hint| format!("hint: {hint}")));
                lines
            }
        }
    }
}

/// Voice one: the refusal of a CONNECT. It closes the connection (RFC 9931).
pub fn refuse_connect(trouble: &Trouble, id: Id, us: &str) -> Response<Body> {
    // A hint about a very long name would leave no room for the diagnosis.
    let try_next = trouble.hint().map(|hint| format!("; try: {hint}")).filter(|hint| hint.len() <= PHRASE / 2);
    let tail = format!("{} [{id}]", try_next.unwrap_or_default());
    let head = format!("goanyway: {trouble}");
    let phrase = format!("{}{tail}", clip(&printable(&head), PHRASE - tail.len().min(PHRASE)));
    let mut response = answer(trouble, &phrase, id, us);
    if let Ok(phrase) = ReasonPhrase::try_from(phrase.into_bytes()) {
        response.extensions_mut().insert(phrase);
    }
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Voice two: any other request that failed.
pub fn refuse(trouble: &Trouble, id: Id, us: &str) -> Response<Body> {
    // A module failure begins with our name itself, unless the words are an upstream's own.
    let mut text = String::from(if matches!(trouble, Trouble::Module(_)) { "" } else { "goanyway: " });
    let tail = format!(" [{id}]\n");
    let lines: Vec<String> =
        trouble.lines().iter().map(|line| printable(line)).filter(|line| !line.is_empty()).collect();
    let shown = lines.iter().take(BODY_LINES).map(String::as_str).collect::<Vec<_>>().join("\n");
    text.push_str(&clip(&shown, BODY_BYTES - text.len() - tail.len()));
    text.push_str(&tail);
    let mut response = answer(trouble, &text, id, us);
    if matches!(trouble, Trouble::Request(_) | Trouble::Left | Trouble::Unwelcome(_)) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn answer(trouble: &Trouble, text: &str, id: Id, us: &str) -> Response<Body> {
    let mut response = Response::new(fetch::full(text.to_owned()));
    *response.status_mut() = trouble.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(status) = HeaderValue::from_str(&proxy_status(trouble, id, us)) {
        headers.insert(HeaderName::from_static("proxy-status"), status);
    }
    // RFC 9110 section 15.5.6 wants to hear what would be served.
    match trouble {
        Trouble::Method => drop(headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"))),
        Trouble::Request(classify::Fault::Method) => {
            let served = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT");
            headers.insert(header::ALLOW, served);
        }
        _ => {}
    }
    let challenge = HeaderValue::from_static("Basic realm=\"goanyway\"");
    match trouble {
        Trouble::Refused(Refusal::Credentials) => drop(headers.insert(header::PROXY_AUTHENTICATE, challenge)),
        Trouble::Refused(Refusal::Login) => drop(headers.insert(header::WWW_AUTHENTICATE, challenge)),
        _ => {}
    }
    response
}

fn proxy_status(trouble: &Trouble, id: Id, us: &str) -> String {
    let details = trouble.to_string().replace(['"', '\\'], "'");
    let mut status = format!("{us}; error={}; details=\"{} [{id}]\"", trouble.token(), clip(&printable(&details), 200));
    if let Some(rcode) = trouble.unresolved().and_then(resolve::Failure::rcode) {
        status.push_str(&format!("; rcode=\"{rcode}\""));
    }
    status
}

fn of_refusal(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::Credentials => StatusCode::PROXY_AUTHENTICATION_REQUIRED,
        Refusal::Login => StatusCode::UNAUTHORIZED,
        _ => StatusCode::FORBIDDEN,
    }
}

fn of_connect(error: &connect::Error) -> StatusCode {
    match error {
        connect::Error::Refused(refusal) => of_refusal(refusal),
        connect::Error::Unresolved(resolve::Failure::Blocked { .. }) => StatusCode::FORBIDDEN,
        _ if error.is_silence() => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    }
}

fn of_fetch(error: &fetch::Error) -> StatusCode {
    match error {
        fetch::Error::Connect(error) => of_connect(error),
        fetch::Error::Refused(refusal) => of_refusal(refusal),
        fetch::Error::Request(_) => StatusCode::BAD_REQUEST,
        _ if error.is_silence() => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    }
}

fn connect_token(error: &connect::Error) -> &'static str {
    use connect::Miss;
    match error {
        connect::Error::Unresolved(failure) if failure.is_silence() => "dns_timeout",
        connect::Error::Unresolved(_) => "dns_error",
        connect::Error::Refused(_) => "destination_ip_prohibited",
        connect::Error::Unreachable { tried, .. } => match tried.last() {
            Some((_, Miss::Refused)) => "connection_refused",
            Some((_, Miss::NoRoute)) => "destination_ip_unroutable",
            Some((_, Miss::Silent)) => "connection_timeout",
            Some((_, Miss::Tls(_))) => "tls_certificate_error",
            _ => "connection_terminated",
        },
        connect::Error::Deadline { .. } => "connection_timeout",
        connect::Error::Parent { .. } => "connection_terminated",
    }
}

fn fetch_token(error: &fetch::Error) -> &'static str {
    match error {
        fetch::Error::Connect(error) => connect_token(error),
        fetch::Error::Refused(_) => "destination_ip_prohibited",
        fetch::Error::Silent(_) => "http_response_timeout",
        fetch::Error::Stalled(_) | fetch::Error::Broken(_) => "http_response_incomplete",
        fetch::Error::Request(_) => "http_request_error",
        fetch::Error::Redirected(_) | fetch::Error::Circling => "http_protocol_error",
    }
}

/// Printable ASCII alone, on one line: whatever an upstream or a server said must not write our lines.
fn printable(text: &str) -> String {
    text.chars()
        .map(|char| if matches!(char, ' '..='~') { char } else { ' ' })
        .collect::<String>()
        .trim_end()
        .to_owned()
}

fn clip(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    // Line feeds and printable ASCII are all there is, so every byte is a boundary.
    format!("{}...", &text[..limit.saturating_sub(3)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::Miss;
    use crate::target::Target;

    fn unreachable_with(why: &str) -> Trouble {
        let target = Target::parse_connect("goproxy.cn:443").unwrap();
        let tried = vec![("192.0.2.1:443".parse().unwrap(), Miss::Other(why.to_owned()))];
        Trouble::Connect(connect::Error::Unreachable { target, tried })
    }

    fn phrase(trouble: &Trouble) -> String {
        let response = refuse_connect(trouble, Id::of(0x7f3a), "goanyway-1");
        let phrase = response.extensions().get::<ReasonPhrase>().unwrap();
        String::from_utf8(phrase.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_refused_connect_says_why_in_its_phrase_and_closes() {
        let trouble = unreachable_with("refused");
        let text = phrase(&trouble);
        assert_eq!(text, "goanyway: cannot connect to goproxy.cn:443: 192.0.2.1 refused [007f3a]");
        let response = refuse_connect(&trouble, Id::of(0x7f3a), "goanyway-1");
        assert_eq!(response.headers()["connection"], "close");
        let status = response.headers()["proxy-status"].to_str().unwrap();
        assert!(status.starts_with("goanyway-1; error=connection_terminated; details="), "{status}");
    }

    /// Whatever an upstream says ends up in our lines: it must not begin lines, fields or escapes of its own.
    #[test]
    fn nothing_that_others_said_writes_lines_of_its_own() {
        let hostile = unreachable_with("x\r\nSet-Cookie: a=b\r\n\r\n\u{1b}[2J\"quoted\\\" \u{4e2d}\u{6587}");
        let text = phrase(&hostile);
        assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text:?}");
        let response = refuse_connect(&hostile, Id::of(1), "goanyway-1");
        assert!(response.headers().get("set-cookie").is_none());
        assert!(response.headers().contains_key("proxy-status"));
    }

    #[test]
    fn a_phrase_is_short_and_keeps_its_id() {
        let text = phrase(&unreachable_with(&"long ".repeat(100)));
        assert!(text.len() <= PHRASE && text.ends_with("... [007f3a]"), "{text}");
    }

    #[test]
    fn only_credentials_are_asked_for_with_a_challenge() {
        let refused = |refusal| refuse(&Trouble::Refused(refusal), Id::of(1), "goanyway-1");
        let asked = refused(Refusal::Credentials);
        assert_eq!(
            (asked.status().as_u16(), asked.headers()["proxy-authenticate"].to_str().unwrap()),
            (407, "Basic realm=\"goanyway\"")
        );
        let denied = refused(Refusal::Port(25));
        assert_eq!((denied.status().as_u16(), denied.headers().get("proxy-authenticate")), (403, None));
    }

    #[test]
    fn silence_is_504_and_a_fault_502() {
        let target = Target::parse_connect("goproxy.cn:443").unwrap();
        let silent = vec![("192.0.2.1:443".parse().unwrap(), Miss::Silent)];
        let silence = Trouble::Connect(connect::Error::Unreachable { target: target.clone(), tried: silent });
        assert_eq!(silence.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(Trouble::Connect(connect::Error::Deadline { target }).status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(unreachable_with("x").status(), StatusCode::BAD_GATEWAY);
        assert_eq!(Trouble::Forward(forward::Failure::Loop).status(), StatusCode::BAD_GATEWAY);
    }
}
