//! What is built in: the public servers that are asked when the system's fail, whose they are, and
//! the names that builds need and everybody may know.
//!
//! All of it is data, and the only place in the house where it stands.

use std::net::IpAddr;

use super::server::Server;

/// Asked in this order, plain ones and encrypted ones side by side (`ladder` has the timers). Of
/// each service one address of each family; Google and Cloudflare are out of reach in places where
/// AliDNS is not, and the other way about.
const FALLBACK: [&str; 15] = [
    "8.8.8.8",
    "1.1.1.1",
    "223.5.5.5",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
    "2400:3200::1",
    "https://1.1.1.1/dns-query#cloudflare-dns.com",
    "https://8.8.8.8/dns-query#dns.google",
    "https://223.5.5.5/dns-query#dns.alidns.com",
    // 853 is closed in more places than 443 is.
    "tls://1.1.1.1#cloudflare-dns.com",
    "tls://8.8.8.8#dns.google",
    "tls://223.5.5.5#dns.alidns.com",
    "https://[2606:4700:4700::1111]/dns-query#cloudflare-dns.com",
    "https://[2001:4860:4860::8888]/dns-query#dns.google",
    "https://[2400:3200::1]/dns-query#dns.alidns.com",
];

/// The servers of `resolve.fallback` where nothing else is said.
pub fn fallback() -> Vec<Server> {
    FALLBACK.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Which public service runs the server at an address: all its addresses are one operator.
pub(super) fn service(address: IpAddr) -> Option<&'static str> {
    let text = address.to_string();
    SERVICES.iter().find(|(_, addresses)| addresses.contains(&text.as_str())).map(|(service, _)| *service)
}

const SERVICES: [(&str, &[&str]); 6] = [
    ("google", &["8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"]),
    ("cloudflare", &["1.1.1.1", "1.0.0.1", "2606:4700:4700::1111", "2606:4700:4700::1001"]),
    ("alidns", &["223.5.5.5", "223.6.6.6", "2400:3200::1", "2400:3200:baba::1"]),
    ("quad9", &["9.9.9.9", "9.9.9.10", "149.112.112.112", "149.112.112.10", "2620:fe::fe", "2620:fe::9"]),
    ("dnspod", &["119.29.29.29", "182.254.116.116", "1.12.12.12", "120.53.53.53"]),
    ("114dns", &["114.114.114.114", "114.114.115.115"]),
];

/// Public names that builds ask for, each with all names under it: module mirrors, checksum
/// databases, and the code hosts that `direct` and vanity imports lead to.
pub(super) const KNOWN: [&str; 25] = [
    "proxy.golang.org",
    "sum.golang.org",
    "sum.golang.google.cn",
    "golang.google.cn",
    "goproxy.cn",
    "goproxy.io",
    "proxy.golang.com.cn",
    "mirrors.aliyun.com",
    "mirrors.cloud.tencent.com",
    "golang.org",
    "go.dev",
    "storage.googleapis.com",
    "gopkg.in",
    "go.googlesource.com",
    "googlesource.com",
    "google.golang.org",
    "k8s.io",
    "go.uber.org",
    "github.com",
    "githubusercontent.com",
    "gitlab.com",
    "bitbucket.org",
    "gitee.com",
    "codeberg.org",
    "git.sr.ht",
];

/// Names that are a site's own whatever anybody says (RFC 6761, RFC 6762, RFC 7686, and the TLD that
/// ICANN keeps for inside use); single labels are too. All of `arpa`: `home.arpa` (RFC 8375), reverse names,
/// which tell a site's addresses, and `ipv4only.arpa`, which each network answers for itself (RFC 8880).
pub(super) const PRIVATE: [&str; 5] = ["localhost", "local", "internal", "onion", "arpa"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Name;

    #[test]
    fn every_built_in_server_and_name_is_one() {
        assert_eq!(fallback().len(), FALLBACK.len());
        for server in fallback() {
            let service = service(server.address().unwrap().ip());
            assert!(matches!(service, Some("google" | "cloudflare" | "alidns")), "{server}");
        }
        assert!(KNOWN.iter().chain(&PRIVATE).all(|name| Name::parse(name).is_ok()));
        assert!(SERVICES.iter().flat_map(|(_, addresses)| *addresses).all(|text| text.parse::<IpAddr>().is_ok()));
    }
}
