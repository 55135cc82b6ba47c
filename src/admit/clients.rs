//! Who is asking: networks, users of a file, and the one credential that a private instance demands.
//!
//! The user of a proxy URL also says whether its client trusts our CA (`ca-1a2b3c4d`, or
//! `alice+ca-1a2b3c4d`); that word is carried along untouched for `intercept` to read, and is no
//! proof of anything.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Config, Refusal, Rules, Standing, within};
use crate::target::{Scope, unwrap_mapped};

/// Both ends of an accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// Whether the client showed a certificate that our operator's authority for clients signed.
    pub certified: bool,
}

impl Ends {
    /// Whether nothing but this host lies between: the browser of somebody here may be made to ask.
    pub fn over_loopback(&self) -> bool {
        unwrap_mapped(self.peer.ip()).is_loopback() && unwrap_mapped(self.local.ip()).is_loopback()
    }

    /// Whether the client sits on this host: by loopback, or from the very address it connected to.
    fn on_this_host(&self) -> bool {
        let (peer, local) = (unwrap_mapped(self.peer.ip()), unwrap_mapped(self.local.ip()));
        Scope::of(peer) == Scope::Loopback || peer == local
    }
}

/// A client that may use us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub address: IpAddr,
    pub standing: Standing,
    /// The user of its proxy URL, as sent.
    pub user: Option<Arc<str>>,
}

/// A password that every client must present, whatever user it names.
#[derive(Clone)]
pub struct Credential {
    password: Arc<str>,
}

impl Credential {
    /// What a client must present: this password, under any user.
    pub fn new(password: &str) -> Credential {
        Credential { password: password.into() }
    }

    /// Compares without telling by the time taken how much was right.
    fn fits(&self, presented: &str) -> bool {
        let (ours, theirs) = (self.password.as_bytes(), presented.as_bytes());
        let differing = ours.iter().zip(theirs).fold(0u8, |seen, (a, b)| seen | (a ^ b));
        ours.len() == theirs.len() && differing == 0
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// What a `Proxy-Authorization: Basic` field says (RFC 7617).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub password: String,
}

impl Identity {
    /// Reads a `Proxy-Authorization` field of the Basic scheme (RFC 7617); none where it is no such thing.
    pub fn parse(field: &[u8]) -> Option<Identity> {
        let (scheme, encoded) = std::str::from_utf8(field).ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        Some(Identity { user: user.to_owned(), password: password.to_owned() })
    }
}

pub(super) fn is_neighbour(config: &Config, ends: Ends) -> bool {
    ends.on_this_host() || within(&config.clients, unwrap_mapped(ends.peer.ip()))
}

pub(super) fn admit_neighbour(config: &Config, ends: Ends) -> Result<Client, Refusal> {
    let address = unwrap_mapped(ends.peer.ip());
    if !is_neighbour(config, ends) {
        return Err(Refusal::Client(address));
    }
    Ok(Client { address, standing: standing(ends), user: None })
}

/// Whether whoever is at the other end may try: it is on this host, or its network is named, or it showed a
/// certificate. Where credentials are all that is named, anybody may try those.
pub(super) fn may_try(config: &Config, ends: Ends) -> bool {
    let by_secret = config.credential.is_some() || config.credentials.is_some() && config.clients.is_empty();
    is_neighbour(config, ends) || ends.certified || by_secret
}

pub(super) fn admit(rules: &Rules, ends: Ends, authorization: Option<&[u8]>) -> Result<Client, Refusal> {
    let address = unwrap_mapped(ends.peer.ip());
    if !may_try(&rules.config, ends) {
        return Err(Refusal::Client(address));
    }
    let identity = authorization.and_then(Identity::parse);
    let fits = |identity: &Identity| {
        let password = rules.config.credential.as_ref().is_none_or(|own| own.fits(&identity.password));
        // Whoever was not found out about yet is nobody.
        password && rules.users.as_ref().is_none_or(|users| users.recall(identity) == Some(true))
    };
    let demanding = rules.config.credential.is_some() || rules.users.is_some();
    if demanding && !identity.as_ref().is_some_and(fits) {
        return Err(Refusal::Credentials);
    }
    Ok(Client { address, standing: standing(ends), user: identity.map(|identity| identity.user.into()) })
}

fn standing(ends: Ends) -> Standing {
    if ends.on_this_host() { Standing::Local } else { Standing::Remote }
}

pub(super) fn without_secret<'a>(config: &Config, path: &'a str) -> &'a str {
    let (secret, rest) = split_secret(path);
    if config.credential.as_ref().is_some_and(|credential| credential.fits(secret)) { rest } else { path }
}

/// The first component of a path, and what follows it.
fn split_secret(path: &str) -> (&str, &str) {
    let inside = path.strip_prefix('/').unwrap_or(path);
    inside.split_at(inside.find('/').unwrap_or(inside.len()))
}

pub(super) fn admit_origin<'a>(
    rules: &Rules,
    ends: Ends,
    path: &'a str,
    authorization: Option<&[u8]>,
) -> Result<(Standing, &'a str), Refusal> {
    let Some(credential) = &rules.config.credential else {
        return match admit(rules, ends, authorization) {
            Ok(client) => Ok((client.standing, path)),
            Err(Refusal::Credentials) => Err(Refusal::Login),
            Err(refusal) => Err(refusal),
        };
    };
    let (secret, rest) = split_secret(path);
    if credential.fits(secret) { Ok((standing(ends), rest)) } else { Err(Refusal::Prefix) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(config: Config) -> Rules {
        Rules { config, users: None, ours: Arc::default(), missed: Arc::default() }
    }

    fn basic(user: &str, password: &str) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))).into_bytes()
    }

    fn peer(text: &str) -> Ends {
        let local = if text.contains("127") { "127.0.0.1:3128" } else { "10.9.0.1:3128" };
        Ends { peer: SocketAddr::new(text.parse().unwrap(), 40000), local: local.parse().unwrap(), certified: false }
    }

    #[test]
    fn this_host_may_and_others_only_where_their_network_is_named() {
        let rules = rules(Config { clients: vec!["10.7.0.0/16".parse().unwrap()], ..Config::default() });
        let standing = |address| admit(&rules, peer(address), None).map(|client| client.standing);
        assert_eq!(standing("127.0.0.1"), Ok(Standing::Local));
        assert_eq!(standing("::ffff:127.0.0.1"), Ok(Standing::Local));
        assert_eq!(standing("10.9.0.1"), Ok(Standing::Local));
        assert_eq!(standing("10.7.3.4"), Ok(Standing::Remote));
        assert_eq!(standing("10.8.0.1"), Err(Refusal::Client("10.8.0.1".parse().unwrap())));
        let certified = Ends { certified: true, ..peer("10.8.0.1") };
        assert_eq!(admit(&rules, certified, None).map(|client| client.standing), Ok(Standing::Remote));
    }

    #[test]
    fn a_password_is_demanded_of_everybody_and_the_user_is_carried_along() {
        let rules = rules(Config { credential: Some(Credential::new("s3cret")), ..Config::default() });
        let ask = |field: Option<&[u8]>| admit(&rules, peer("127.0.0.1"), field).map(|client| client.user);
        assert_eq!(ask(None), Err(Refusal::Credentials));
        assert_eq!(ask(Some(&basic("ca-1a2b3c4d", "s3creT"))), Err(Refusal::Credentials));
        assert_eq!(ask(Some(&basic("ca-1a2b3c4d", "s3cret"))), Ok(Some("ca-1a2b3c4d".into())));
        assert_eq!(ask(Some(b"Bearer x")), Err(Refusal::Credentials));
        let origin = |path| admit_origin(&rules, peer("127.0.0.1"), path, None).map(|(_, rest)| rest);
        assert_eq!(origin("/s3cret/golang.org/x/net/@v/list"), Ok("/golang.org/x/net/@v/list"));
        assert_eq!(origin("/golang.org/x/net/@v/list"), Err(Refusal::Prefix));
        assert_eq!(origin("/s3cret"), Ok(""));
        let shown = |path| without_secret(&rules.config, path);
        assert_eq!(shown("/s3cret/golang.org/x/net/@v/list"), "/golang.org/x/net/@v/list");
        assert_eq!(shown("/golang.org/x/net/@v/list"), "/golang.org/x/net/@v/list");
    }
}
