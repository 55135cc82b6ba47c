//! Which hosts an operator wants intercepted, as typed: a name, or `*.` and a name for all beneath it.
//!
//! A pattern that parsed is fit to stand in a certificate's name constraints: a public suffix or an
//! address never is.

use std::fmt;
use std::str::FromStr;

use crate::target::{BadTarget, Host, Name};

/// A host, or all hosts beneath one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPattern {
    base: Name,
    beneath: bool,
}

impl HostPattern {
    /// Reads `goproxy.cn` or `*.corp.example`.
    pub fn parse(text: &str) -> Result<HostPattern, BadPattern> {
        let (base, beneath) = match text.strip_prefix("*.") {
            Some(base) => (base, true),
            None => (text, false),
        };
        let host = Host::parse(base).map_err(|why| BadPattern::NotAHost { text: text.to_owned(), why })?;
        let Host::Name(base) = host else { return Err(BadPattern::Address(text.to_owned())) };
        if is_public_suffix(&base) {
            return Err(BadPattern::PublicSuffix(text.to_owned()));
        }
        Ok(HostPattern { base, beneath })
    }

    /// Whether this host is meant.
    pub fn matches(&self, host: &Name) -> bool {
        if self.beneath { host != &self.base && host.is_under(self.base.as_str()) } else { host == &self.base }
    }

    /// The name without its `*.`: what a name constraint says, which always covers what is beneath (RFC 5280
    /// section 4.2.1.10).
    pub fn base(&self) -> &Name {
        &self.base
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.beneath { "*." } else { "" })?;
        self.base.fmt(f)
    }
}

impl FromStr for HostPattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<HostPattern, BadPattern> {
        HostPattern::parse(text)
    }
}

/// Why a piece of text names no host to intercept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    #[error("{text:?} is no host to intercept (a name, or *. and a name): {why}")]
    NotAHost { text: String, why: BadTarget },
    #[error("{0} is an address; only names are intercepted")]
    Address(String),
    #[error("{0} is a public suffix, under which anybody may own names; name the hosts one by one")]
    PublicSuffix(String),
}

/// Whether the name is on the public suffix list. Single labels that are on no list (`goproxy` in a
/// container network) are somebody's own.
fn is_public_suffix(name: &Name) -> bool {
    psl::suffix(name.as_str().as_bytes())
        .is_some_and(|suffix| suffix.is_known() && suffix.as_bytes() == name.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> BadPattern {
        HostPattern::parse(text).unwrap_err()
    }

    #[test]
    fn a_name_means_itself_and_a_star_all_beneath() {
        let matches =
            |pattern: &str, host: &str| HostPattern::parse(pattern).unwrap().matches(&Name::parse(host).unwrap());
        assert!(matches("GoProxy.CN", "goproxy.cn"));
        assert!(!matches("goproxy.cn", "www.goproxy.cn"));
        assert!(matches("*.corp.example", "go.corp.example") && matches("*.corp.example", "a.go.corp.example"));
        assert!(!matches("*.corp.example", "corp.example") && !matches("*.corp.example", "evilcorp.example"));
    }

    #[test]
    fn nothing_that_anybody_may_register_under_is_a_pattern() {
        for text in ["com", "*.com", "co.uk", "github.io", "*.github.io", "com.cn"] {
            assert_eq!(refusal(text), BadPattern::PublicSuffix(text.to_owned()));
        }
        assert!(HostPattern::parse("goproxy").is_ok(), "a single label of a private network");
    }

    #[test]
    fn addresses_and_nonsense_are_refused() {
        assert_eq!(refusal("127.1"), BadPattern::Address("127.1".into()));
        for text in ["", "*.", "*", "a.*.example", "https://goproxy.cn", "goproxy.cn:443", "goproxy.cn/x"] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_pattern_is_written_as_it_is_read() {
        for text in ["goproxy.cn", "*.corp.example"] {
            assert_eq!(HostPattern::parse(text).unwrap().to_string(), text);
        }
    }
}
