//! Parent proxies: a company's own way out, given by `--parent` or found in goanyway's environment.
//!
//! A parent gets the *name* at once, since it may be the only one who can resolve it; only where it
//! says that it cannot does the ladder look up, and the CONNECT goes to the address. `NO_PROXY` is
//! read as Go reads it (golang.org/x/net/http/httpproxy): names with what is beneath them, `.name`
//! beneath only, networks, ports, `*`; loopback is never proxied. In the same notation some targets
//! have a parent of their own, or none.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::patterns::{BadPattern, Patterns};
use crate::socket::Conduit;
use crate::target::{BadTarget, Base, Host, Scheme, Scope, Target};

/// The parents, by the scheme of what is asked, and who goes around them.
#[derive(Clone, Debug, Default)]
pub struct Parents {
    http: Option<Parent>,
    https: Option<Parent>,
    /// What NO_PROXY says: these go directly.
    exempt: Patterns,
    /// What has a way of its own, NO_PROXY or not. The first that fits counts.
    rules: Vec<Rule>,
}

impl Parents {
    /// One parent for everything but loopback and what NO_PROXY exempts; `read` is the environment.
    pub fn all(parent: Parent, read: impl Fn(&str) -> Option<String>) -> Parents {
        let exempt = Patterns::parse(&either(&read, "NO_PROXY").unwrap_or_default());
        Parents { http: Some(parent.clone()), https: Some(parent), exempt, rules: Vec::new() }
    }

    /// What the usual variables say; `read` is the environment. Unusable ones come back as sentences.
    pub fn from_environment(read: impl Fn(&str) -> Option<String>) -> (Parents, Vec<String>) {
        let mut said = Vec::new();
        let mut parent = |name: &str| {
            let text = either(&read, name)?;
            text.parse().map_err(|error| said.push(format!("{name} is not used: {error}"))).ok()
        };
        let (http, https) = (parent("HTTP_PROXY"), parent("HTTPS_PROXY"));
        let exempt = Patterns::parse(&either(&read, "NO_PROXY").unwrap_or_default());
        (Parents { http, https, exempt, rules: Vec::new() }, said)
    }

    /// The same, with ways of their own for some.
    pub fn except(self, rules: Vec<Rule>) -> Parents {
        Parents { rules, ..self }
    }

    /// Takes out whatever is one of our own listeners; tells whether there was one.
    pub fn without(&mut self, is_ours: impl Fn(&Target) -> bool) -> bool {
        let mut found = false;
        for slot in [&mut self.http, &mut self.https].into_iter().chain(self.rules.iter_mut().map(|rule| &mut rule.way))
        {
            if slot.as_ref().is_some_and(|parent| is_ours(&parent.base.target)) {
                *slot = None;
                found = true;
            }
        }
        found
    }

    /// The parent for a target of this scheme; a CONNECT counts as https.
    pub fn choose(&self, scheme: Scheme, target: &Target) -> Option<&Parent> {
        if is_loopback(target) {
            return None;
        }
        if let Some(rule) = self.rules.iter().find(|rule| rule.whose.cover(target)) {
            return rule.way.as_ref();
        }
        let parent = match scheme {
            Scheme::Http => &self.http,
            Scheme::Https => &self.https,
        };
        parent.as_ref().filter(|_| !self.exempt.cover(target))
    }

    /// The parents in use, for the start to say.
    pub fn describe(&self) -> Option<String> {
        let all = self.https.as_ref().or(self.http.as_ref()).map(Parent::to_string);
        let said: Vec<String> = all.into_iter().chain(self.rules.iter().map(Rule::to_string)).collect();
        (!said.is_empty()).then(|| said.join(", "))
    }
}

/// What the operator says of parents: one value of `connect.parent`.
#[derive(Clone, Debug)]
pub enum Way {
    /// `none`: all goes directly.
    Directly,
    /// `env`: what the environment says.
    Environment,
    /// All goes through this one.
    Through(Parent),
    /// Some have a way of their own.
    For(Rule),
}

impl std::str::FromStr for Way {
    type Err = BadParent;

    fn from_str(text: &str) -> Result<Way, BadParent> {
        // A URL may have a `=`, too: in a rule it is followed by one.
        let rule = text.split_once('=').filter(|(whose, way)| {
            !whose.contains("://") && (way.trim() == "none" || way.trim_start().starts_with("http"))
        });
        match (text, rule) {
            ("none", _) => Ok(Way::Directly),
            ("env", _) => Ok(Way::Environment),
            (_, None) => text.parse().map(Way::Through),
            (_, Some((whose, way))) => {
                let said = whose.trim().to_owned();
                let whose = Patterns::parse_strictly(&said)?;
                let way = Some(way.trim()).filter(|way| *way != "none").map(str::parse).transpose()?;
                Ok(Way::For(Rule { said, whose, way }))
            }
        }
    }
}

/// Targets, and the parent that they have instead of the others' (none at all: they go directly).
#[derive(Clone, Debug)]
pub struct Rule {
    said: String,
    whose: Patterns,
    way: Option<Parent>,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.way {
            Some(parent) => write!(f, "{} for {}", parent, self.said),
            None => write!(f, "none for {}", self.said),
        }
    }
}

/// This host is never reached by way of another.
fn is_loopback(target: &Target) -> bool {
    match &target.host {
        Host::Addr(address) => Scope::of(*address) == Scope::Loopback,
        Host::Name(name) => name.is_under("localhost"),
    }
}

/// A variable in either case, unless it is empty.
fn either(read: impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    read(name).or_else(|| read(&name.to_lowercase())).filter(|value| !value.is_empty())
}

/// One parent: where it is, and what it wants to hear.
#[derive(Clone, PartialEq, Eq)]
pub struct Parent {
    pub base: Base,
    /// The whole value of Proxy-Authorization, if the URL had user information.
    authorization: Option<String>,
}

impl Parent {
    /// The value of `Proxy-Authorization` that it wants, if its URL had a user.
    pub fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }

    /// Asks the parent, over a connection to it, for a tunnel to `target`. `via` tells it who the
    /// request has been through, so that parents of each other notice. Not a byte beyond its
    /// answer's head is read, so a server that speaks first is heard.
    pub async fn open(&self, mut stream: Conduit, target: &str, via: &str) -> Result<Conduit, Error> {
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nVia: {via}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
        }
        request.push_str("\r\n");
        let failed = |error: std::io::Error| Error::Broken(error.to_string());
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        let head = read_head(&mut stream).await?;
        let (status, reason) = status_line(&head).ok_or_else(|| Error::Broken("no HTTP answer".to_owned()))?;
        if (200..300).contains(&status) { Ok(stream) } else { Err(Error::Refused { status, reason }) }
    }
}

impl std::str::FromStr for Parent {
    type Err = BadParent;

    fn from_str(text: &str) -> Result<Parent, BadParent> {
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", &text));
        if scheme != "http" && scheme != "https" {
            return Err(BadParent::Scheme(scheme.to_owned()));
        }
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        let base = Base::parse(&format!("{scheme}://{rest}"))?;
        let authorization = user.map(|user| {
            let decoded = percent_decode_str(user).decode_utf8_lossy().into_owned();
            let pair = if decoded.contains(':') { decoded } else { decoded + ":" };
            format!("Basic {}", STANDARD.encode(pair))
        });
        Ok(Parent { base, authorization })
    }
}

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.base.fmt(f)
    }
}

impl fmt::Debug for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.base.fmt(f)
    }
}

/// Why a text is no parent proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadParent {
    #[error("a parent proxy is an http:// or https:// URL; {0}:// is not spoken to parents")]
    Scheme(String),
    #[error(transparent)]
    Pattern(#[from] BadPattern),
    #[error(transparent)]
    Target(#[from] BadTarget),
}

/// Why a parent did not open a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("it answered {status} {reason}{}", advice(*status))]
    Refused { status: u16, reason: String },
    #[error("{0}")]
    Broken(String),
}

/// What the operator can do about a parent's refusal.
fn advice(status: u16) -> &'static str {
    match status {
        407 => "; name one: --parent http://USER:PASSWORD@HOST",
        _ => "",
    }
}

impl Error {
    /// Whether it wants a user and a password, or others than it was given.
    pub fn wants_credentials(&self) -> bool {
        matches!(self, Error::Refused { status: 407, .. })
    }

    /// Whether it may be that the parent could not resolve the name: then an address may help.
    pub fn may_be_about_the_name(&self) -> bool {
        matches!(self, Error::Refused { status: 500 | 502 | 503 | 504, .. })
    }
}

/// The longest head that a parent may answer with.
const MAX_ANSWER: usize = 16 * 1024;

/// Reads the answer's head. Not a byte more: what follows is the other side's.
async fn read_head(stream: &mut Conduit) -> Result<Vec<u8>, Error> {
    match stream {
        Conduit::Bare(stream) => peek_head(stream).await,
        Conduit::Tls(stream) => pick_head(stream).await,
    }
}

/// From a bare socket, by looking at what is there before it is taken.
async fn peek_head(stream: &mut TcpStream) -> Result<Vec<u8>, Error> {
    let failed = |error: std::io::Error| Error::Broken(error.to_string());
    let mut head = Vec::new();
    let mut seen = [0u8; 2048];
    while head.len() < MAX_ANSWER {
        let peeked = stream.peek(&mut seen).await.map_err(failed)?;
        if peeked == 0 {
            return Err(Error::Broken("it closed the connection".to_owned()));
        }
        let before = head.len();
        head.extend_from_slice(&seen[..peeked]);
        let end = head.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        let take = end.map_or(peeked, |end| end - before);
        stream.read_exact(&mut seen[..take]).await.map_err(failed)?;
        head.truncate(before + take);
        if end.is_some() {
            return Ok(head);
        }
    }
    Err(Error::Broken("its answer's head does not end".to_owned()))
}

/// From TLS, a byte at a time: its plaintext is in memory already.
async fn pick_head(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, Error> {
    let mut head = Vec::new();
    while head.len() < MAX_ANSWER {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Err(Error::Broken("it closed the connection".to_owned()));
            }
            Err(error) => return Err(Error::Broken(error.to_string())),
        }
        if head.ends_with(b"\r\n\r\n") {
            return Ok(head);
        }
    }
    Err(Error::Broken("its answer's head does not end".to_owned()))
}

fn status_line(head: &[u8]) -> Option<(u16, String)> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    response.parse(head).ok()?;
    Some((response.code?, response.reason.unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(no_proxy: &str, target: &str) -> bool {
        let (parents, said) = Parents::from_environment(|name| match name {
            "https_proxy" => Some("http://proxy.corp.example:8080".to_owned()),
            "NO_PROXY" => Some(no_proxy.to_owned()),
            _ => None,
        });
        assert!(said.is_empty());
        parents.choose(Scheme::Https, &Target::parse_connect(target).unwrap()).is_some()
    }

    #[test]
    fn no_proxy_is_read_as_go_reads_it() {
        let table = [
            ("", "goproxy.cn:443", true),
            ("", "localhost:443", false),
            ("", "127.0.0.9:443", false),
            ("corp.example", "corp.example:443", false),
            ("corp.example", "git.corp.example:443", false),
            ("corp.example", "evilcorp.example:443", true),
            (".corp.example", "corp.example:443", true),
            ("*.corp.example", "git.corp.example:443", false),
            ("corp.example:8443", "git.corp.example:443", true),
            ("10.0.0.0/8, 192.0.2.7", "10.9.9.9:443", false),
            ("10.0.0.0/8, 192.0.2.7", "192.0.2.7:443", false),
            ("192.0.2.7:443, [2001:db8::7]:443", "192.0.2.7:443", false),
            ("192.0.2.7:443, [2001:db8::7]:443", "192.0.2.7:8443", true),
            ("192.0.2.7:443, [2001:db8::7]:443", "[2001:db8::7]:443", false),
            ("*", "goproxy.cn:443", false),
        ];
        for (no_proxy, target, through) in table {
            assert_eq!(chosen(no_proxy, target), through, "{no_proxy} {target}");
        }
    }

    #[test]
    fn a_parent_is_an_http_url_perhaps_with_a_user() {
        let parent: Parent = "http://us%20er:p%40ss@proxy.corp.example:8080".parse().unwrap();
        assert_eq!(parent.to_string(), "http://proxy.corp.example:8080");
        assert_eq!(parent.authorization(), Some("Basic dXMgZXI6cEBzcw=="));
        assert_eq!("proxy:3128".parse::<Parent>().unwrap().base.target.port, 3128);
        assert_eq!("socks5://a".parse::<Parent>(), Err(BadParent::Scheme("socks5".to_owned())));
    }

    #[test]
    fn some_have_a_parent_of_their_own_or_none() {
        let rule = |text: &str| match text.parse().unwrap() {
            Way::For(rule) => rule,
            way => panic!("{text} is {way:?}"),
        };
        let rules = ["open.lab.example=none", "lab.example=http://u:p=q@lab:3128", "192.0.2.0/24=https://edge:443"];
        let read = |name: &str| (name == "NO_PROXY").then(|| "in.lab.example,corp.example".to_owned());
        let parents = Parents::all("http://us:3128".parse().unwrap(), read).except(rules.map(rule).into());
        let table = [
            ("goproxy.cn:443", Some("http://us:3128")),
            ("git.corp.example:443", None),
            ("lab.example:443", Some("http://lab:3128")),
            ("a.in.lab.example:443", Some("http://lab:3128")),
            ("a.open.lab.example:443", None),
            ("192.0.2.9:443", Some("https://edge")),
            ("127.0.0.1:443", None),
        ];
        for (target, way) in table {
            for scheme in [Scheme::Http, Scheme::Https] {
                let chosen = parents.choose(scheme, &Target::parse_connect(target).unwrap());
                assert_eq!(chosen.map(Parent::to_string).as_deref(), way, "{target}");
            }
        }
        let said = parents.describe().unwrap();
        assert!(
            said.starts_with("http://us:3128, none for open.lab.example, http://lab:3128 for lab.example"),
            "{said}"
        );
    }

    #[test]
    fn what_stands_before_a_parents_url_is_a_pattern() {
        assert!(matches!("none".parse(), Ok(Way::Directly)));
        assert!(matches!("http://u:p=q@proxy:3128".parse(), Ok(Way::Through(_))));
        assert!(matches!("u:p=q@proxy:3128".parse(), Ok(Way::Through(_))));
        assert!(matches!("*=http://proxy:3128".parse(), Ok(Way::For(_))));
        assert_eq!("a=http+unix://x".parse::<Way>().unwrap_err(), BadParent::Scheme("http+unix".to_owned()));
    }

    /// `a b=…` and `10.0.0.0/99=…` were taken, and nothing was ever under them.
    #[test]
    fn a_target_that_nothing_would_fit_is_refused_with_what_to_write() {
        let table = [
            ("a b=http://p:1", "\"a b\" has a space in it; each target wants a TO=URL of its own"),
            ("10.0.0.0/99=none", "\"10.0.0.0/99\" is no network; those are written as 10.0.0.0/8"),
            ("fd00::/129=none", "\"fd00::/129\" is no network"),
            ("10.0.0=none", "\"10.0.0\" is 10.0.0.0; write that"),
            ("*.10.0.0.1=none", "\"*.10.0.0.1\" is 10.0.0.1; write that"),
            ("lab.example.=none", "\"lab.example.\" is lab.example; write that"),
            ("b\u{fc}cher.example=none", "is xn--bcher-kva.example; write that"),
            ("a:x=none", "a port is a decimal number from 1 to 65535"),
            ("a:0=none", "a port is a decimal number from 1 to 65535"),
            ("a..b=none", "\"a..b\" is no target"),
            ("*x.example=none", "\"*x.example\" is no target"),
            ("lab.example,a b=none", "\"a b\" has a space"),
            (" = none", "nothing stands before the ="),
        ];
        for (text, words) in table {
            let said = text.parse::<Way>().expect_err(text).to_string();
            assert!(said.contains(words), "{text}: {said}");
        }
        let targets = [
            "*",
            "lab.example",
            "Lab.Example:8443",
            ".lab.example",
            "*.lab.example:80",
            "a_b.example",
            "10.0.0.0/8, 192.0.2.7",
            "192.0.2.7:443",
            "[2001:db8::7]:443",
            "2001:db8::7",
            "[2001:db8::7]",
            "xn--bcher-kva.example",
        ];
        for target in targets {
            assert!(matches!(format!("{target}=none").parse(), Ok(Way::For(_))), "{target}");
        }
    }

    #[test]
    fn our_own_listener_is_no_parent_of_ours() {
        let mut parents = Parents::all("http://127.0.0.1:3128".parse().unwrap(), |_| None);
        assert!(parents.without(|target| target.port == 3128));
        assert_eq!(parents.describe(), None);
    }

    #[tokio::test]
    async fn nothing_beyond_the_parents_head_is_swallowed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let parent: Parent = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0u8; 24];
            stream.read_exact(&mut asked).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 Fine\r\nX: y\r\n\r\nSSH-2.0-first").await.unwrap();
            asked
        });
        let stream = TcpStream::connect(parent.base.target.to_string()).await.unwrap();
        let mut tunnel = parent.open(stream.into(), "git.example:22", "1.1 us").await.unwrap();
        let mut first = [0u8; 13];
        tunnel.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"SSH-2.0-first");
        assert_eq!(&serving.await.unwrap(), b"CONNECT git.example:22 H");
    }
}
