//! Why a module request was not answered: whom we asked, what each said, and whose fault it is.
//!
//! The text is voice two of DESIGN.md section 9: what the go command prints of an error, which is
//! at most eight lines and 648 bytes, up to the first blank line (cmd/go/internal/web, HTTPError).
//! Turning it into a response is `respond`'s work.

use std::fmt;
use std::sync::Arc;

use http::StatusCode;

use crate::cache;

/// A request that failed. Cloning is cheap: all who wait for one fill get the same failure.
#[derive(Clone, Debug)]
pub struct Failure(Arc<Story>);

#[derive(Debug)]
struct Story {
    kind: Kind,
    what: String,
    asked: Vec<Complaint>,
    hint: String,
}

/// Whose fault it is, and so which status it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something went wrong between us and the mirrors, or with us: 502.
    Fault,
    /// Nobody answered in time: 504.
    Silence,
    /// We will not: 403.
    Policy,
    /// Every upstream said the same, or one said 404 or 410 and it stands.
    Said { status: StatusCode, text: String },
}

/// One upstream, and what it said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The upstream's URL without its scheme.
    pub upstream: String,
    pub said: Said,
}

/// What an upstream said, or did.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Said {
    /// An answer with a status that is not 200.
    #[error("{0}{remark}", remark = after(.1))]
    Status(StatusCode, String),
    /// No answer in time.
    #[error("{0}")]
    Silent(String),
    /// No connection.
    #[error("{0}")]
    Unreachable(String),
    /// An answer that broke off.
    #[error("{0}")]
    Broke(String),
    /// A whole answer that is not what it should be.
    #[error("wrong content: {0}")]
    Wrong(String),
    /// What its database's signed tree does not prove: a fork, or a forgery.
    #[error("wrong content: the signed tree does not prove it")]
    Refuted,
    /// Nothing: it was not asked, because nothing may leave.
    #[error("not asked, nothing may leave (--offline)")]
    Closed,
}

impl Failure {
    /// What failed, and what everyone who was asked said. The kind follows from what they said.
    pub fn asked(what: impl fmt::Display, asked: Vec<Complaint>) -> Failure {
        let (kind, hint) = (read_kind(&asked), advise(&asked));
        Failure(Arc::new(Story { kind, what: what.to_string(), asked, hint }))
    }

    /// An absence that stands, with the upstream's own words.
    pub fn absent(what: impl fmt::Display, status: StatusCode, text: String, asked: Vec<Complaint>) -> Failure {
        Failure(Arc::new(Story {
            kind: Kind::Said { status, text },
            what: what.to_string(),
            asked,
            hint: String::new(),
        }))
    }

    /// Something that we do not do, and what to change.
    pub fn policy(what: impl fmt::Display, hint: &'static str) -> Failure {
        Failure(Arc::new(Story {
            kind: Kind::Policy,
            what: what.to_string(),
            asked: Vec::new(),
            hint: hint.to_owned(),
        }))
    }

    /// A fault of no upstream's.
    pub fn fault(what: impl fmt::Display, hint: &'static str) -> Failure {
        Failure(Arc::new(Story { kind: Kind::Fault, what: what.to_string(), asked: Vec::new(), hint: hint.to_owned() }))
    }

    /// Whose fault it is.
    pub fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// What to do next, if there is something.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.strip_prefix("hint: ").filter(|hint| !hint.is_empty())
    }

    /// Whom we asked, and what each said.
    pub fn complaints(&self) -> &[Complaint] {
        &self.0.asked
    }

    /// Whether upstreams were asked and none of them answered anything to its end.
    pub fn is_unanswered(&self) -> bool {
        let is_nothing = |complaint: &Complaint| {
            matches!(complaint.said, Said::Unreachable(_) | Said::Silent(_) | Said::Broke(_) | Said::Closed)
        };
        !self.0.asked.is_empty() && self.0.asked.iter().all(is_nothing) && self.as_absent().is_none()
    }

    /// Whether somebody answered what a checksum database's signed tree does not prove.
    pub fn is_refuted(&self) -> bool {
        self.0.asked.iter().any(|complaint| complaint.said == Said::Refuted)
    }

    /// The status of the answer to the client.
    pub fn status(&self) -> StatusCode {
        match self.kind() {
            Kind::Fault => StatusCode::BAD_GATEWAY,
            Kind::Silence => StatusCode::GATEWAY_TIMEOUT,
            Kind::Policy => StatusCode::FORBIDDEN,
            Kind::Said { status, .. } => *status,
        }
    }

    /// The 404 or 410 that stands, and its text.
    pub fn as_absent(&self) -> Option<(StatusCode, &str)> {
        match self.kind() {
            Kind::Said { status, text } if matches!(status.as_u16(), 404 | 410) => Some((*status, text)),
            _ => None,
        }
    }

    /// The same as the one status, if it is one, that all said who answered at all; no absence is one.
    pub fn told_alike(&self) -> Option<Failure> {
        let is_answer = |complaint: &&Complaint| matches!(complaint.said, Said::Status(..));
        let answered: Vec<Complaint> = self.0.asked.iter().filter(is_answer).cloned().collect();
        match read_kind(&answered) {
            kind @ Kind::Said { .. } => {
                let (what, asked, hint) = (self.0.what.clone(), self.0.asked.clone(), self.0.hint.clone());
                Some(Failure(Arc::new(Story { kind, what, asked, hint })))
            }
            _ => None,
        }
    }

    /// The lines of the answer: at most 8, of at most 648 bytes in all, none blank. An upstream's own
    /// words stand alone where its status is passed on.
    pub fn lines(&self) -> Vec<String> {
        if let Kind::Said { text, .. } = self.kind()
            && !text.trim().is_empty()
        {
            return fit(text.lines().map(str::to_owned).collect());
        }
        let mut lines = vec![format!("goanyway: {}", self.0.what)];
        // Eight lines, less the first, the hint, and one to say how many were left out.
        const SHOWN: usize = 5;
        lines.extend(self.0.asked.iter().take(SHOWN).map(|complaint| format!("  {complaint}")));
        if self.0.asked.len() > SHOWN {
            lines.push(format!("  and {} more", self.0.asked.len() - SHOWN));
        }
        lines.push(self.0.hint.clone());
        fit(lines)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        for complaint in &self.0.asked {
            write!(f, "; {complaint}")?;
        }
        match &self.0.kind {
            Kind::Said { status, text } if self.0.asked.is_empty() => write!(f, "; {status}{}", after(text)),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<cache::Error> for Failure {
    fn from(why: cache::Error) -> Failure {
        Failure::fault(why, "hint: goanyway cache stat shows the store; --cache-dir names another")
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.upstream, self.said)
    }
}

/// The same status from everyone is passed on; silence from everyone is silence.
fn read_kind(asked: &[Complaint]) -> Kind {
    let status = |complaint: &Complaint| match &complaint.said {
        Said::Status(status, _) => Some(*status),
        _ => None,
    };
    if let Some(Complaint { said: Said::Status(first, text), .. }) = asked.first()
        && (first.is_client_error() || first.is_server_error())
        && !matches!(first.as_u16(), 404 | 410)
        && asked.iter().all(|complaint| status(complaint) == Some(*first))
    {
        return Kind::Said { status: *first, text: text.clone() };
    }
    if is_closed(asked) {
        return Kind::Policy;
    }
    let silent = |complaint: &Complaint| matches!(complaint.said, Said::Silent(_));
    if !asked.is_empty() && asked.iter().all(silent) { Kind::Silence } else { Kind::Fault }
}

fn is_closed(asked: &[Complaint]) -> bool {
    !asked.is_empty() && asked.iter().all(|complaint| complaint.said == Said::Closed)
}

/// The first line of an upstream's text, as a remark after its status.
fn after(text: &str) -> String {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    match first {
        "" => String::new(),
        page if page.starts_with('<') => String::new(),
        line => format!(": {}", line.chars().take(120).collect::<String>()),
    }
}

/// Cuts lines to what go prints: printable characters, no blank line, 8 lines, 648 bytes with their ends.
fn fit(lines: Vec<String>) -> Vec<String> {
    const LINES: usize = 8;
    const BYTES: usize = 648;
    let printable = |line: &String| line.chars().filter(|c| !c.is_control()).collect::<String>();
    let lines: Vec<String> = lines.iter().map(printable).filter(|line| !line.trim().is_empty()).take(LINES).collect();
    // What does not fit is taken from the longest lines, so that every upstream keeps its say.
    let mut longest = BYTES;
    while lines.iter().map(|line| line.len().min(longest) + 1).sum::<usize>() > BYTES {
        longest -= 1;
    }
    lines.into_iter().map(|line| cut(line, longest)).collect()
}

fn cut(mut line: String, longest: usize) -> String {
    let mut end = longest.min(line.len());
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.truncate(end);
    line
}

/// What to type next: a mirror that could not be reached is looked up first.
fn advise(asked: &[Complaint]) -> String {
    if is_closed(asked) {
        return "hint: run it once without --offline, or fill the cache before: goanyway warm go.sum".to_owned();
    }
    let far = asked.iter().find(|complaint| matches!(complaint.said, Said::Unreachable(_) | Said::Silent(_)));
    // One over plain http is written with its scheme.
    let authority = far.map(|far| far.upstream.split_once("://").map_or(far.upstream.as_str(), |(_, rest)| rest));
    let host = authority.and_then(|authority| authority.split(['/', ':']).next());
    match host.filter(|host| host.parse::<std::net::IpAddr>().is_err()) {
        Some(host) => format!("hint: goanyway resolve {host}"),
        None => "hint: another mirror may have it: goanyway serve --upstream URL, once for each".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(upstream: &str, said: Said) -> Complaint {
        Complaint { upstream: upstream.to_owned(), said }
    }

    fn status(code: u16, text: &str) -> Said {
        Said::Status(StatusCode::from_u16(code).unwrap(), text.to_owned())
    }

    fn silent() -> Said {
        Said::Silent("no answer within 10s".to_owned())
    }

    #[test]
    fn the_hint_names_the_host_that_could_not_be_reached() {
        for upstream in ["m.example", "m.example:8443/path", "http://m.example:8080"] {
            let failure = Failure::asked("x", vec![complaint(upstream, silent())]);
            assert_eq!(failure.hint(), Some("goanyway resolve m.example"), "{upstream}");
        }
    }

    #[test]
    fn the_kind_follows_from_what_was_said() {
        let kind = |said: &[Said]| {
            Failure::asked("x", said.iter().map(|said| complaint("m.example", said.clone())).collect())
                .status()
                .as_u16()
        };
        assert_eq!(kind(&[status(403, ""), status(403, "")]), 403, "all the same");
        assert_eq!(kind(&[status(503, "")]), 503);
        assert_eq!(kind(&[status(503, ""), status(500, "")]), 502);
        assert_eq!(kind(&[status(404, ""), status(404, "")]), 502, "an absence is told by `absent` alone");
        assert_eq!(kind(&[silent(), silent()]), 504);
        assert_eq!(kind(&[silent(), status(503, "")]), 502);
        assert_eq!(kind(&[]), 502);
        assert_eq!(kind(&[Said::Closed, Said::Closed]), 403, "nobody's fault: our own policy");
    }

    #[test]
    fn everyone_asked_has_a_line() {
        let asked = vec![
            complaint(
                "proxy.golang.org",
                Said::Unreachable("no answer for proxy.golang.org from 5 servers".to_owned()),
            ),
            complaint("goproxy.cn", status(503, "<html>busy</html>")),
        ];
        assert_eq!(
            Failure::asked("example.com/m@v1.0.0 (zip): no mirror could serve it", asked).lines(),
            [
                "goanyway: example.com/m@v1.0.0 (zip): no mirror could serve it",
                "  proxy.golang.org: no answer for proxy.golang.org from 5 servers",
                "  goproxy.cn: 503 Service Unavailable",
                "hint: goanyway resolve proxy.golang.org",
            ]
        );
    }

    #[test]
    fn an_absence_tells_in_one_line_what_was_said() {
        let absent = |asked| Failure::absent("x", StatusCode::NOT_FOUND, "not found: gone\n".to_owned(), asked);
        assert_eq!(absent(vec![]).to_string(), "x; 404 Not Found: not found: gone");
        let asked = vec![complaint("m.example", status(404, "not found: gone"))];
        assert_eq!(absent(asked).to_string(), "x; m.example: 404 Not Found: not found: gone");
    }

    #[test]
    fn an_upstreams_own_words_are_passed_on() {
        let failure = Failure::absent("x", StatusCode::NOT_FOUND, "not found: unknown revision\n".to_owned(), vec![]);
        assert_eq!(failure.lines(), ["not found: unknown revision"]);
        assert_eq!(failure.as_absent().map(|(status, _)| status.as_u16()), Some(404));
    }

    #[test]
    fn no_text_is_more_than_go_prints() {
        let long = "é".repeat(400);
        let asked: Vec<Complaint> = (0..20).map(|_| complaint("mirror.example", Said::Broke(long.clone()))).collect();
        for failure in [
            Failure::asked(&long, asked),
            Failure::absent("x", StatusCode::GONE, format!("{long}\n\n\r\n\u{7}").repeat(20), vec![]),
        ] {
            let lines = failure.lines();
            assert!(lines.len() <= 8);
            assert!(lines.iter().map(|line| line.len() + 1).sum::<usize>() <= 648);
            assert!(lines.iter().all(|line| !line.trim().is_empty() && !line.contains('\r')));
        }
    }
}
