//! Every setting there is, one row each. Flags, variables, file keys, help and the example file all
//! come from here, so that none of them can know a setting that the others do not.

/// How several values of one setting go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Many {
    /// One value; the highest source wins.
    One,
    /// A list that stands in place of the default.
    Replace,
    /// A list that is added to the default.
    Add,
}

/// One setting.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// Its key in the file, dots for tables.
    pub key: &'static str,
    /// Its flag, without the dashes.
    pub flag: Option<&'static str>,
    /// What a value is called in the help.
    pub value: &'static str,
    pub many: Many,
    pub about: &'static str,
    /// What holds without it, in words.
    pub default: &'static str,
}

impl Row {
    /// The environment variable: `GOANYWAY_` and the flag's name, or the key's where there is no flag.
    pub fn variable(&self) -> String {
        let name = self.flag.unwrap_or(self.key);
        format!("GOANYWAY_{}", name.replace(['-', '.'], "_").to_ascii_uppercase())
    }
}

const fn row(
    key: &'static str,
    flag: &'static str,
    value: &'static str,
    many: Many,
    about: &'static str,
    default: &'static str,
) -> Row {
    let flag = if flag.is_empty() { None } else { Some(flag) };
    Row { key, flag, value, many, about, default }
}

use Many::{Add, One, Replace};

/// The settings, in the order of DESIGN.md section 3.
#[rustfmt::skip]
pub static ROWS: &[Row] = &[
    row("listen", "listen", "ADDR", Replace, "where clients reach us", "127.0.0.1:3128"),
    row("listen_names", "", "NAME", Add, "other names of ours: a service name, a virtual address", "none"),
    row("transparent.listen", "transparent", "ADDR", Replace, "where a gateway redirects the subnet's 80 and 443", "none"),
    row("dns.listen", "dns", "ADDR", Replace, "where we are a name server, over UDP and TCP", "none"),
    row("admin.listen", "admin", "ADDR", One, "health and metrics, or none", "127.0.0.1:3127"),
    row("admin.hosts", "", "NAME", Add, "further names that the admin port's Host may be", "none"),
    row("cache.dir", "cache-dir", "DIR", One, "where modules are kept", "goanyway in the cache folder"),
    row("cache.size", "cache-size", "SIZE", One, "the most that is kept on disk", "20GiB"),
    row("cache.memory", "cache-memory", "SIZE", One, "the most that is kept in memory", "256MiB or an eighth of the memory limit"),
    row("cache.pins", "", "PATTERNS", Add, "modules that never leave the cache to make room", "none"),
    row("state_dir", "state-dir", "DIR", One, "what is learnt: names, health", "goanyway in the state folder"),
    row("intercept.ca_dir", "ca-dir", "DIR", One, "the local CA", "goanyway/certs in the data folder"),
    row("intercept.hosts", "intercept", "HOST", Add, "hosts whose TLS is ended here", "the known mirrors and checksum databases"),
    row("intercept.mode", "intercept-mode", "MODE", One, "for which clients: auto, always or off", "auto"),
    row("intercept.trusted_by", "trusted-by", "CIDR", Add, "client networks that trust our CA", "none"),
    row("resolve.nameservers", "nameserver", "SERVER", Replace, "name servers asked first", "system"),
    row("resolve.fallback", "fallback", "SERVER", Replace, "name servers asked when those fail, or none", "8.8.8.8, 1.1.1.1, 223.5.5.5 and their encrypted forms"),
    row("resolve.scope", "", "SCOPE", One, "which names may be asked outside: public, known or off", "public"),
    row("resolve.private", "private", "SUFFIX", Add, "names that never leave", "localhost, local, internal, onion, arpa, single labels"),
    row("resolve.known", "known", "SUFFIX", Add, "public names that may be asked outside at once", "module mirrors and code hosts"),
    row("resolve.hosts", "host", "NAME=ADDR", Add, "names with fixed addresses", "/etc/hosts"),
    row("resolve.zones", "zone", "SUFFIX=SERVER", Add, "private names with a server of their own", "none"),
    row("goproxy.upstreams", "upstream", "URL", Replace, "module mirrors", "the go command's own; goproxy.cn after it, on faults only"),
    row("goproxy.sumdb", "sumdb", "DATABASE", Replace, "checksum databases: NAME[+KEY] [URL], or off", "the go command's own"),
    row("goproxy.private", "goprivate", "PATTERNS", Add, "modules never asked of public mirrors", "GOPRIVATE or GONOPROXY of go's settings"),
    row("goproxy.hold", "hold", "SIZE", One, "zips up to this are whole and right before the first byte (0: off)", "16MiB"),
    row("goproxy.hold_for", "", "DURATION", One, "the longest that a zip is held", "5s"),
    row("goproxy.fresh", "", "DURATION", One, "how long a list or a query is fresh", "60s"),
    row("connect.parent", "parent", "[TO=]URL", Add, "a proxy between us and the world, env or none; TO=URL or TO=none for some targets", "env: HTTPS_PROXY, HTTP_PROXY, NO_PROXY"),
    row("fetch.extra_roots", "", "FILE", Add, "root certificates trusted beside the platform's", "none"),
    row("admit.allow", "allow-target", "CIDR", Add, "destinations opened in spite of what they are", "none"),
    row("admit.deny", "deny-target", "CIDR", Add, "destinations closed to everybody", "none"),
    row("admit.ports", "allow-port", "PORT", Add, "ports opened beside the usual ones", "443 8443 22 9418; http 80 8080 8081"),
    row("admit.clients", "client", "CIDR", Add, "client networks admitted beside this host", "none"),
    row("admit.per_client", "", "NUMBER", One, "connections at once of one client beside this host", "1024"),
    row("admit.credentials", "credentials", "FILE", One, "users that every client must be one of: NAME:HASH, as htpasswd -B writes", "none"),
    row("listen_tls.cert", "tls-cert", "FILE", One, "the certificate of listeners over TLS (https:// proxy URLs)", "none"),
    row("listen_tls.key", "tls-key", "FILE", One, "its key", "none"),
    row("listen_tls.client_ca", "client-ca", "FILE", One, "who must have signed a client's certificate there", "none: none is asked for"),
    row("listen_tls.listen", "", "ADDR", Replace, "which listeners those are, beside listen", "every listen, once there is a certificate"),
    row("accept.proxy_protocol", "proxy-protocol", "CIDR", Add, "load balancers, which must say for whom they speak", "none"),
    row("user", "user", "NAME[:GROUP]", One, "whom to become once the ports are bound", "whoever starts it, without capabilities"),
    row("trace.otlp", "otlp", "URL", One, "a collector of traces (OTLP over http), env (OTEL_ variables) or none", "none"),
    row("log.level", "log-level", "LEVEL", One, "error, warn, info, debug or trace", "info; resolve: warn"),
    row("log.format", "log-format", "FORMAT", One, "text or json", "text"),
];

/// The row of a key.
pub fn find(key: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_named_for_the_flag_and_else_for_the_key() {
        let variable = |key| find(key).unwrap().variable();
        assert_eq!(variable("admit.allow"), "GOANYWAY_ALLOW_TARGET");
        assert_eq!(variable("resolve.fallback"), "GOANYWAY_FALLBACK");
        assert_eq!(variable("goproxy.hold_for"), "GOANYWAY_GOPROXY_HOLD_FOR");
        assert_eq!(variable("state_dir"), "GOANYWAY_STATE_DIR");
    }

    #[test]
    fn no_name_is_given_twice() {
        let mut names: Vec<_> =
            ROWS.iter().map(Row::variable).chain(ROWS.iter().map(|row| row.key.to_owned())).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
