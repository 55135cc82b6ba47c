//! Who is asking: networks, and the one credential that a private instance demands.
//!
//! The user of a proxy URL also says whether its client trusts our CA (`ca-1a2b3c4d`, or
//! `alice+ca-1a2b3c4d`); that word is carried along untouched for `intercept` to read, and is no
//! proof of anything.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Config, Refusal, Standing, within};
use crate::target::{Scope, unwrap_mapped};

/// Both ends of an accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

impl Ends {
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

pub(super) fn admit(config: &Config, ends: Ends, authorization: Option<&[u8]>) -> Result<Client, Refusal> {
    let address = unwrap_mapped(ends.peer.ip());
    let local = ends.on_this_host();
    if !local && !within(&config.clients, address) && config.credential.is_none() {
        return Err(Refusal::Client(address));
    }
    let identity = authorization.and_then(Identity::parse);
    if let Some(credential) = &config.credential {
        let fits = identity.as_ref().is_some_and(|identity| credential.fits(&identity.password));
        if !fits {
            return Err(Refusal::Credentials);
        }
    }
    let standing = if local { Standing::Local } else { Standing::Remote };
    Ok(Client { address, standing, user: identity.map(|identity| identity.user.into()) })
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

pub(super) fn admit_origin<'a>(config: &Config, ends: Ends, path: &'a str) -> Result<(Standing, &'a str), Refusal> {
    let Some(credential) = &config.credential else {
        return admit(config, ends, None).map(|client| (client.standing, path));
    };
    let (secret, rest) = split_secret(path);
    let standing = if ends.on_this_host() { Standing::Local } else { Standing::Remote };
    if credential.fits(secret) { Ok((standing, rest)) } else { Err(Refusal::Prefix) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(user: &str, password: &str) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))).into_bytes()
    }

    fn peer(text: &str) -> Ends {
        let local = if text.contains("127") { "127.0.0.1:3128" } else { "10.9.0.1:3128" };
        Ends { peer: SocketAddr::new(text.parse().unwrap(), 40000), local: local.parse().unwrap() }
    }

    #[test]
    fn this_host_may_and_others_only_where_their_network_is_named() {
        let config = Config { clients: vec!["10.7.0.0/16".parse().unwrap()], ..Config::default() };
        let standing = |address| admit(&config, peer(address), None).map(|client| client.standing);
        assert_eq!(standing("127.0.0.1"), Ok(Standing::Local));
        assert_eq!(standing("::ffff:127.0.0.1"), Ok(Standing::Local));
        assert_eq!(standing("10.9.0.1"), Ok(Standing::Local));
        assert_eq!(standing("10.7.3.4"), Ok(Standing::Remote));
        assert_eq!(standing("10.8.0.1"), Err(Refusal::Client("10.8.0.1".parse().unwrap())));
    }

    #[test]
    fn a_password_is_demanded_of_everybody_and_the_user_is_carried_along() {
        let config = Config { credential: Some(Credential::new("s3cret")), ..Config::default() };
        let ask = |field: Option<&[u8]>| admit(&config, peer("127.0.0.1"), field).map(|client| client.user);
        assert_eq!(ask(None), Err(Refusal::Credentials));
        assert_eq!(ask(Some(&basic("ca-1a2b3c4d", "s3creT"))), Err(Refusal::Credentials));
        assert_eq!(ask(Some(&basic("ca-1a2b3c4d", "s3cret"))), Ok(Some("ca-1a2b3c4d".into())));
        assert_eq!(ask(Some(b"Bearer x")), Err(Refusal::Credentials));
        let origin = |path| admit_origin(&config, peer("127.0.0.1"), path).map(|(_, rest)| rest);
        assert_eq!(origin("/s3cret/golang.org/x/net/@v/list"), Ok("/golang.org/x/net/@v/list"));
        assert_eq!(origin("/golang.org/x/net/@v/list"), Err(Refusal::Prefix));
        assert_eq!(origin("/s3cret"), Ok(""));
        let shown = |path| without_secret(&config, path);
        assert_eq!(shown("/s3cret/golang.org/x/net/@v/list"), "/golang.org/x/net/@v/list");
        assert_eq!(shown("/golang.org/x/net/@v/list"), "/golang.org/x/net/@v/list");
    }
}
