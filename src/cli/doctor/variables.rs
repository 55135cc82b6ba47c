//! The proxy variables, as go reads them (golang.org/x/net/http/httpproxy) and as curl and others do: who
//! is asked, who is passed by, and what only some of them understand.

use super::finding::{Finding, Mend, quote};
use super::place;
use super::surroundings::{Proxy, Surroundings};
use crate::cli::env::{Environment, Listening, entries, is_odd};
use crate::cli::readers::INSIDE;
use crate::connect::{Parent, Parents};
use crate::goproxy;
use crate::intercept::{self, Word};
use crate::target::{Base, Scheme};

const CHECK: &str = "proxy";

/// All that there is to say about the variables.
pub(super) fn check(around: &Surroundings) -> Vec<Finding> {
    let environment = &around.environment;
    let mut findings: Vec<Finding> = [("HTTPS_PROXY", "https_proxy"), ("NO_PROXY", "no_proxy")]
        .into_iter()
        .filter_map(|(upper, lower)| judge_spellings(environment, upper, lower))
        .collect();
    match &around.proxy {
        None => findings.push(judge_absence(environment)),
        Some(proxy) => {
            findings.push(judge_proxy(proxy, around));
            findings.extend(judge_exemptions(environment, &around.mirrors()));
        }
    }
    findings
}

fn value<'a>(environment: &'a Environment, name: &str) -> Option<&'a str> {
    environment.get(name).map(String::as_str).filter(|value| !value.trim().is_empty())
}

/// Go takes the upper case first, curl, wget and pip the lower.
fn judge_spellings(environment: &Environment, upper: &str, lower: &str) -> Option<Finding> {
    let (one, other) = (value(environment, upper)?, value(environment, lower)?);
    let saw = format!("{upper} and {lower} differ: go takes {upper}, curl and pip take {lower}");
    (one != other).then(|| Finding::warning(CHECK, lower, saw, Mend::Type(format!("export {lower}=\"${upper}\""))))
}

fn judge_absence(environment: &Environment) -> Finding {
    let other = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    match other.into_iter().find(|name| value(environment, name).is_some()) {
        Some(name) => {
            let saw = format!("{name} is set and HTTPS_PROXY is not: go goes to every https:// server by itself");
            Finding::warning(CHECK, "HTTPS_PROXY", saw, Mend::Type(format!("export HTTPS_PROXY=\"${name}\"")))
        }
        None => Finding::ok(CHECK, "HTTPS_PROXY", "none is set: go connects by itself"),
    }
}

fn judge_proxy(proxy: &Proxy, around: &Surroundings) -> Finding {
    let environment = &around.environment;
    let (name, url) = match value(environment, "HTTPS_PROXY") {
        Some(url) => ("HTTPS_PROXY", url),
        None => ("https_proxy", value(environment, "https_proxy").unwrap_or_default()),
    };
    if let Some(odd) = odd_character(url) {
        let saw = format!("its user or password has a bare {odd:?}, so go cannot read it and goes past the proxy");
        return Finding::fault(CHECK, name, saw, encode(name, odd));
    }
    if let Err(why) = url.trim().parse::<Parent>() {
        let saw = format!("go or goanyway cannot use it: {why}");
        return Finding::fault(CHECK, name, saw, Mend::Ask(format!("you: export {name}=http://PROXY:PORT")));
    }
    match &proxy.listening {
        Listening::Serves(_) if url.starts_with("https://") => {
            let saw = format!("it says https://, and {} speaks plain http to its clients", proxy.address);
            Finding::fault(CHECK, name, saw, Mend::Type(format!("export {name}=\"http://${{{name}#https://}}\"")))
        }
        Listening::Serves(root) => judge_word(name, proxy, root.as_ref().map(intercept::fingerprint), around),
        Listening::Stranger => Finding::ok(CHECK, name, format!("it leads to {}, which is no goanyway", proxy.address)),
        Listening::Nobody => judge_silence(name, proxy, around),
    }
}

/// Whether the CA that the user's name speaks of is the one that is served.
fn judge_word(name: &str, proxy: &Proxy, serves: Option<String>, around: &Surroundings) -> Finding {
    match serves.and_then(|serves| names_another(proxy, &serves)) {
        Some(saw) => Finding::warning(CHECK, name, saw, around.take_env()),
        None => Finding::ok(CHECK, name, format!("it leads to goanyway at {}", proxy.address)),
    }
}

fn names_another(proxy: &Proxy, serves: &str) -> Option<String> {
    let Word::Named(said) = Word::of(proxy.user.as_deref()) else { return None };
    let saw = || format!("it names the CA {said}, and goanyway at {} has {serves}: all is tunnelled", proxy.address);
    (!said.eq_ignore_ascii_case(serves)).then(saw)
}

fn judge_silence(name: &str, proxy: &Proxy, around: &Surroundings) -> Finding {
    let unset = || Mend::Type("unset HTTPS_PROXY https_proxy HTTP_PROXY http_proxy".to_owned());
    let Some(at) = proxy.at.filter(|at| at.ip().is_loopback()) else {
        // A name, or another machine: the requests to the mirrors tell whether it serves.
        return Finding::ok(CHECK, name, format!("it leads to {}", proxy.address));
    };
    if place::container(&around.root, &around.environment).is_some() {
        let saw = format!("it leads to {at}, and in a container that is the container itself, where nobody listens");
        // Where the host has a name in here, that is who was meant.
        let hosts = std::fs::read_to_string(around.root.join("etc/hosts")).unwrap_or_default();
        let meant = hosts.contains(INSIDE).then(|| Mend::Type(format!("export {name}=http://{INSIDE}:{}", at.port())));
        return Finding::fault(CHECK, name, saw, meant.unwrap_or_else(unset));
    }
    Finding::fault(CHECK, name, format!("nobody listens at {at}, where it leads to"), unset())
}

/// What may not stand bare in the user of a URL (net/url, validUserinfo), or ends it early.
fn odd_character(url: &str) -> Option<char> {
    let (_, rest) = url.split_once("://")?;
    let (user, _) = rest.rsplit_once('@')?;
    let is_fine = |(at, char): &(usize, char)| match char {
        '%' => user.as_bytes().get(at + 1..at + 3).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit)),
        char => char.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=@".contains(*char),
    };
    user.char_indices().find(|one| !is_fine(one)).map(|(_, char)| char)
}

/// The password is not shown: the shell has it.
fn encode(name: &str, odd: char) -> Mend {
    let code: String = odd.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
    if odd == '/' {
        return Mend::Ask(format!("you: write each / of the password in {name} as {code}"));
    }
    let pattern = if odd == '%' { "%\\([^0-9A-Fa-f]\\|.[^0-9A-Fa-f]\\)".to_owned() } else { format!("[{odd}]") };
    let by = if odd == '%' { "%25\\1".to_owned() } else { code };
    Mend::Type(format!("export {name}=\"$(printf %s \"${name}\" | sed {})\"", quote(&format!("s/{pattern}/{by}/g"))))
}

/// NO_PROXY: who goes past the proxy that should not, and what is understood by some alone.
fn judge_exemptions(environment: &Environment, mirrors: &[Base]) -> Vec<Finding> {
    let Some(text) = value(environment, "NO_PROXY").or_else(|| value(environment, "no_proxy")) else {
        return Vec::new();
    };
    let entries: Vec<&str> = entries(text).collect();
    let targets = || mirrors.iter().cloned().chain(goproxy::default_mirrors());
    let covered = |entry: &str| targets().find(|base| passes_by(entry, base)).map(|base| base.target.host.to_string());
    let without = |is_bad: &dyn Fn(&str) -> bool| {
        let kept: Vec<&str> = entries.iter().copied().filter(|entry| !is_bad(entry)).collect();
        let list = quote(&kept.join(","));
        Mend::Type(format!("export NO_PROXY={list} no_proxy={list}"))
    };
    if let Some((entry, host)) = entries.iter().find_map(|entry| Some((entry, covered(entry)?))) {
        let saw = format!("its {entry:?} lets {host} go past the proxy, so nothing is rescued or kept");
        return vec![Finding::fault(CHECK, "NO_PROXY", saw, without(&|entry| covered(entry).is_some()))];
    }
    if let Some(spaced) = entries.iter().find(|entry| entry.contains(char::is_whitespace)) {
        let list: Vec<&str> = text.split([',', ' ', '\t']).filter(|entry| !entry.is_empty()).collect();
        let list = quote(&list.join(","));
        let saw = format!("go knows commas alone, so {spaced:?} is one entry to it, of no host");
        return vec![Finding::warning(
            CHECK,
            "NO_PROXY",
            saw,
            Mend::Type(format!("export NO_PROXY={list} no_proxy={list}")),
        )];
    }
    if let Some(odd) = entries.iter().find(|entry| is_odd(entry)) {
        let saw = format!("{odd:?} means nothing to go and curl: a star stands alone, or in front of a dot");
        return vec![Finding::warning(CHECK, "NO_PROXY", saw, without(&is_odd))];
    }
    let networks = entries.iter().filter(|entry| entry.contains('/')).count();
    let note = if networks > 0 { "; its networks are understood by go and new curls alone" } else { "" };
    vec![Finding::ok(CHECK, "NO_PROXY", format!("no mirror goes past the proxy{note}"))]
}

/// As go reads one entry.
fn passes_by(entry: &str, base: &Base) -> bool {
    // One with a space in it is none to go.
    if entry.contains(char::is_whitespace) {
        return false;
    }
    let read = |name: &str| match name {
        "HTTPS_PROXY" | "HTTP_PROXY" => Some("http://192.0.2.1:1".to_owned()),
        "NO_PROXY" => Some(entry.to_owned()),
        _ => None,
    };
    // Loopback is never proxied, whatever stands in NO_PROXY.
    let bare = |name: &str| read(name).filter(|_| name != "NO_PROXY");
    let exempt = |parents: Parents| parents.choose(Scheme::Https, &base.target).is_none();
    exempt(Parents::from_environment(read).0) && !exempt(Parents::from_environment(bare).0)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;
    use std::process::Command;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn exemptions(no_proxy: &str) -> Finding {
        let environment = environment(&[("NO_PROXY", no_proxy)]);
        judge_exemptions(&environment, &[]).pop().unwrap()
    }

    #[test]
    fn what_go_passes_by_is_named_and_the_rest_of_the_list_stays() {
        let table = [
            ("*", Verdict::Fault, "export NO_PROXY='' no_proxy=''"),
            ("corp.example,.cn", Verdict::Fault, "export NO_PROXY=corp.example no_proxy=corp.example"),
            ("goproxy.cn,10.0.0.0/8", Verdict::Fault, "export NO_PROXY=10.0.0.0/8 no_proxy=10.0.0.0/8"),
            (
                "a.example b.example",
                Verdict::Warning,
                "export NO_PROXY=a.example,b.example no_proxy=a.example,b.example",
            ),
            ("192.168.*,a.example", Verdict::Warning, "export NO_PROXY=a.example no_proxy=a.example"),
        ];
        for (no_proxy, verdict, command) in table {
            let finding = exemptions(no_proxy);
            let typed = finding.mend.and_then(|mend| mend.command());
            assert_eq!((finding.verdict, typed.as_deref()), (verdict, Some(command)), "{no_proxy}");
        }
        for fine in ["localhost, 127.0.0.1,::1", "*.corp.example", ".notgoproxy.cn"] {
            assert_eq!(exemptions(fine).verdict, Verdict::Ok, "{fine}");
        }
        assert!(exemptions("10.0.0.0/8").saw.contains("networks"));
    }

    #[test]
    fn a_password_is_mended_without_being_shown() {
        let table = [
            ("http://user:p#ss@proxy:1", "http://user:p%23ss@proxy:1"),
            ("http://user:p?s?@proxy:1", "http://user:p%3Fs%3F@proxy:1"),
            ("http://user:50%@proxy:1", "http://user:50%25@proxy:1"),
            ("http://user:5%zz@proxy:1", "http://user:5%25zz@proxy:1"),
            ("http://user:p ss@proxy:1", "http://user:p%20ss@proxy:1"),
        ];
        for (url, mended) in table {
            let odd = odd_character(url).unwrap_or_else(|| panic!("{url}"));
            let line = encode("HTTPS_PROXY", odd).command().unwrap();
            assert!(!line.contains("proxy:1"), "{line}");
            let script = format!("{line}; printf %s \"$HTTPS_PROXY\"");
            let output = Command::new("sh").args(["-c", &script]).env("HTTPS_PROXY", url).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), mended);
            assert_eq!(odd_character(mended), None);
        }
        for fine in ["http://ca-1a2b3c4d:x@127.0.0.1:3128", "http://u%20r:p%40@h:1", "http://proxy:1", "proxy:1"] {
            assert_eq!(odd_character(fine), None, "{fine}");
        }
        assert!(encode("HTTPS_PROXY", '/').command().is_none());
    }

    #[test]
    fn a_user_called_ca_team_lead_names_no_ca() {
        let names_another = |user: &str| {
            let (user, address) = (Some(user.to_owned()), "127.0.0.1:3128".to_owned());
            let proxy = Proxy { address, user, listening: Listening::Serves(None), at: None };
            names_another(&proxy, "1a2b3c4d")
        };
        for fine in ["ca-team-lead", "alice", "ca", "ca-1A2B3C4D", "alice+ca-1a2b3c4d"] {
            assert_eq!(names_another(fine), None, "{fine}");
        }
        let said = names_another("alice+ca-00000000").unwrap();
        assert!(said.starts_with("it names the CA 00000000, and goanyway at 127.0.0.1:3128 has 1a2b3c4d"), "{said}");
    }

    #[test]
    fn two_spellings_that_differ_are_said() {
        let both = environment(&[("HTTPS_PROXY", "http://a:1"), ("https_proxy", "http://b:1")]);
        let finding = judge_spellings(&both, "HTTPS_PROXY", "https_proxy").unwrap();
        assert_eq!(finding.mend.unwrap().command().unwrap(), "export https_proxy=\"$HTTPS_PROXY\"");
        assert_eq!(judge_spellings(&environment(&[("HTTPS_PROXY", "x")]), "HTTPS_PROXY", "https_proxy"), None);
    }

    #[test]
    fn a_proxy_for_http_alone_is_none_for_modules() {
        let finding = judge_absence(&environment(&[("http_proxy", "http://proxy:1")]));
        assert_eq!(finding.verdict, Verdict::Warning);
        assert_eq!(finding.mend.unwrap().command().unwrap(), "export HTTPS_PROXY=\"$http_proxy\"");
        assert_eq!(judge_absence(&Environment::new()).verdict, Verdict::Ok);
    }
}
