//! The names that are built in: public mirrors, and the checksum databases whose keys we know.
//!
//! The one place where they stand. They are what the go command itself asks when nothing is set
//! (cmd/go/internal/cfg, GOPROXY and GOSUMDB) and the public mirrors beside it.

use crate::target::{Base, Host};

/// Public mirrors of the one public pool. The first is the go command's own default, the second is
/// asked after it, on faults only; the others are asked where a client names them.
pub const MIRRORS: [&str; 4] =
    ["https://proxy.golang.org", "https://goproxy.cn", "https://goproxy.io", "https://proxy.golang.com.cn"];

/// How many of the built-in mirrors are asked for a client that named none of them.
pub const ASKED: usize = 2;

/// The database that the go command asks by default, with its key (cmd/go/internal/modfetch/key.go).
pub const SUMDB: &str = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";

/// Hosts that serve the default database's paths at their root, under another name or its own.
pub const SUMDB_HOSTS: [&str; 2] = ["sum.golang.org", "sum.golang.google.cn"];

/// The name of the default database.
pub fn sumdb_name() -> &'static str {
    SUMDB.split('+').next().unwrap_or(SUMDB)
}

/// The built-in mirrors as bases.
pub fn mirrors() -> Vec<Base> {
    MIRRORS.iter().filter_map(|text| Base::parse(text).ok()).collect()
}

/// Whom a client that named no mirror is served from, in words.
pub fn describe() -> String {
    match &MIRRORS[..ASKED] {
        [first] => (*first).to_owned(),
        [first, rest @ ..] => format!("{first}; on faults {}", rest.join(", ")),
        [] => "none".to_owned(),
    }
}

/// Whether this is one of the public mirrors: they are told nothing private.
pub fn is_public(base: &Base) -> bool {
    mirrors().iter().any(|mirror| mirror.target.host == base.target.host)
}

/// Every host that is intercepted by default: those that serve nothing but modules and records.
pub fn hosts() -> Vec<Host> {
    let mirrors = mirrors().into_iter().map(|base| base.target.host);
    mirrors.chain(SUMDB_HOSTS.iter().filter_map(|name| Host::parse(name).ok())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_name_parses() {
        assert_eq!(mirrors().len(), MIRRORS.len());
        assert_eq!(hosts().len(), MIRRORS.len() + SUMDB_HOSTS.len());
        assert_eq!(sumdb_name(), "sum.golang.org");
        assert_eq!(describe(), "https://proxy.golang.org; on faults https://goproxy.cn");
        assert!(signed_note::StandardVerifier::new(SUMDB).is_ok());
    }

    #[test]
    fn a_public_mirror_is_known_under_any_prefix() {
        assert!(is_public(&Base::parse("https://goproxy.cn/some/prefix").unwrap()));
        assert!(!is_public(&Base::parse("https://athens.corp.example").unwrap()));
    }
}
