//! `goanyway env`: the settings that a client needs, for a shell to read.
//!
//! [`settings`] is the rule, pure: an environment and some facts give variables and warnings. `run`
//! uses it for its child, too, and `readers` has the words of each shell for it. What it needs to know is found out by [`ask_listener`] (is anybody
//! there, and with which CA) and [`write_bundle`] (the client's own roots and ours in one file).
//!
//! No variable of git, pip, npm or curl names our CA: they never meet it, only module hosts are
//! intercepted. Whatever was set before stays in force: NO_PROXY is appended to, SSL_CERT_FILE
//! merged, `,direct` kept.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use super::readers::{Shell, goproxy_inside};
use crate::intercept::{self, Authority};

/// Print the settings that a client needs: eval "$(goanyway env)"
#[derive(Args, Clone, Debug)]
pub struct EnvArgs {
    /// Whose syntax to print
    #[arg(long, value_enum, default_value_t)]
    pub shell: Shell,
}

/// The variables of an environment.
pub type Environment = BTreeMap<String, String>;

/// Our own environment, as far as it is text.
pub fn current() -> Environment {
    std::env::vars_os().filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok())).collect()
}

/// What there is to tell a client.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Where clients reach the proxy.
    pub proxy: SocketAddr,
    /// Whether anybody listens there.
    pub listening: bool,
    /// The password that the proxy demands. git wants one in every proxy URL with a user.
    pub password: Option<String>,
    /// By what a client trusts our CA; nothing where it cannot.
    pub trust: Option<Trust>,
    /// What stands before the path of origin-form requests: empty, or `/` and a secret.
    pub module_path: String,
    /// The SHA-256 of the CA's root, for whoever fetches it.
    pub sha256: Option<String>,
}

/// A CA, and the file by which a client trusts it beside its own roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    pub fingerprint: String,
    pub bundle: PathBuf,
}

/// What a client's environment gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// In the order to print them.
    pub variables: Vec<(&'static str, String)>,
    /// For standard error.
    pub warnings: Vec<Warning>,
    /// Where clients on this host reach the proxy.
    pub proxy: SocketAddr,
    /// The GOPROXY of a client that cannot trust the CA.
    pub without_tls: String,
    /// What goes past the proxy.
    pub exempt: Vec<String>,
    /// The SHA-256 of the CA's root.
    pub sha256: Option<String>,
}

/// What a person should know about the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    NobodyListens(SocketAddr),
    /// Somebody listens, who does not answer as we do.
    Stranger(SocketAddr),
    /// Another proxy was set, which is asked by nobody but perhaps the listener from now on.
    Replaced {
        variable: &'static str,
        address: String,
    },
    /// Everything is tunnelled; module requests go in origin form.
    NoTrust(String),
    /// The bundle could not be written.
    NoBundle {
        dir: PathBuf,
        why: String,
    },
    /// The CA that the listener hands out is good for more than module hosts.
    Unbounded(SocketAddr),
    /// NO_PROXY keeps everything from us.
    NothingProxied,
    /// GOPROXY asks no mirror, so there is nothing to cache.
    NoMirror(String),
    /// An entry of NO_PROXY that next to no client understands.
    OddExemption(String),
    /// Containers have a loopback of their own.
    Unreachable(SocketAddr),
    /// What to compare a root with that was fetched, where that can be said nowhere else.
    Digest {
        sha256: String,
        goproxy: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::NobodyListens(address) => {
                write!(f, "nothing listens at {address}; start it with: goanyway serve")
            }
            Warning::Stranger(address) => {
                write!(
                    f,
                    "what listens at {address} does not answer as goanyway does; choose the right one with --listen"
                )
            }
            Warning::Replaced { variable, address } => {
                write!(
                    f,
                    "{variable} led to {address} and now leads to goanyway, which goes on to {address} only if it was \
                     started with that variable or with --parent http://{address}"
                )
            }
            Warning::NoTrust(goproxy) => {
                write!(f, "no CA that this client could trust, so modules are asked for without TLS: GOPROXY={goproxy}")
            }
            Warning::NoBundle { dir, why } => {
                write!(f, "cannot write the roots into {} ({why}); name another folder with --state-dir", dir.display())
            }
            Warning::Unbounded(address) => write!(
                f,
                "the CA of {address} is not bounded to the hosts that are intercepted here, so it is not trusted; \
                 name its further hosts with --intercept HOST"
            ),
            Warning::NothingProxied => f.write_str("NO_PROXY contains *, so nothing goes through the proxy"),
            Warning::OddExemption(entry) => {
                write!(f, "NO_PROXY: {entry} means nothing to go, curl and most others; name a domain or a network")
            }
            Warning::Unreachable(address) => write!(
                f,
                "containers cannot reach {address}; serve for them with: goanyway serve --listen 0.0.0.0:{} \
                 --client 172.16.0.0/12 --client 127.0.0.0/8",
                address.port()
            ),
            Warning::Digest { sha256, goproxy } => write!(
                f,
                "for containers GOPROXY={goproxy} needs no CA; the SHA-256 of the CA's root, should one fetch it: {sha256}"
            ),
            Warning::NoMirror(goproxy) => {
                write!(f, "GOPROXY={goproxy} asks no module mirror, so nothing is cached; unset it to change that")
            }
        }
    }
}

/// The rule.
pub fn settings(environment: &Environment, facts: &Facts) -> Settings {
    let proxy = proxy_url(facts);
    let exempt = extend_no_proxy(environment);
    let mut warnings: Vec<Warning> =
        exempt.iter().filter(|entry| is_odd(entry)).cloned().map(Warning::OddExemption).collect();
    if !facts.listening {
        warnings.push(Warning::NobodyListens(facts.proxy));
    }
    if exempt.iter().any(|entry| entry == "*") {
        warnings.push(Warning::NothingProxied);
    }
    let mut variables: Vec<_> = PROXY_VARIABLES.iter().map(|variable| (*variable, proxy.clone())).collect();
    variables.extend(NO_PROXY_VARIABLES.iter().map(|variable| (*variable, exempt.join(","))));
    let asked = environment.get("GOPROXY").map_or("", String::as_str).trim();
    if matches!(asked, "direct" | "off") {
        warnings.push(Warning::NoMirror(asked.to_owned()));
    }
    let without_tls = replace_mirrors(asked, &format!("http://{}{}", facts.proxy, facts.module_path));
    match &facts.trust {
        Some(trust) => variables.push(("SSL_CERT_FILE", trust.bundle.display().to_string())),
        None if matches!(asked, "direct" | "off") => {}
        None => {
            // A secret in front of the paths is for the client, and not for the log that this is read in.
            let hidden = if facts.module_path.is_empty() { "" } else { "/SECRET" };
            warnings.push(Warning::NoTrust(replace_mirrors(asked, &format!("http://{}{hidden}", facts.proxy))));
            variables.push(("GOPROXY", without_tls.clone()));
        }
    }
    Settings { variables, warnings, proxy: facts.proxy, without_tls, exempt, sha256: facts.sha256.clone() }
}

/// What a person should know beside what that reader gets.
pub fn advise(shell: Shell, settings: &Settings) -> Vec<Warning> {
    let mut warnings = settings.warnings.clone();
    if shell.is_contained() {
        // A container has no use for our bundle, and what it gets goes without TLS anyway.
        warnings.retain(|warning| !matches!(warning, Warning::NoTrust(_) | Warning::NoBundle { .. }));
        warnings.extend(settings.proxy.ip().is_loopback().then_some(Warning::Unreachable(settings.proxy)));
    }
    let digest = settings.sha256.clone().filter(|_| shell.leaves_no_comments());
    warnings.extend(digest.map(|sha256| Warning::Digest { sha256, goproxy: goproxy_inside(settings) }));
    warnings
}

/// What `goanyway env` finds out and prints: the CA is the listener's, or where nobody listens yet
/// the one in `ca_dir`. Blocks for a few seconds at most.
pub fn gather(
    environment: &Environment,
    listener: SocketAddr,
    config: &intercept::Config,
    state_dir: &Path,
) -> Settings {
    let proxy = reachable(listener);
    let answer = ask_listener(proxy);
    let listening = answer != Listening::Nobody;
    let stranger = (answer == Listening::Stranger).then_some(Warning::Stranger(proxy));
    let root = match answer {
        Listening::Serves(root) => root,
        Listening::Stranger => None,
        Listening::Nobody => own_root(config),
    };
    let bounded = root.as_ref().is_none_or(|root| is_expected(root, config));
    let unbounded = (!bounded).then_some(Warning::Unbounded(proxy));
    let sha256 = root.as_ref().filter(|_| bounded).map(intercept::digest);
    let found = match root.filter(|_| bounded && READS_CERT_FILE) {
        Some(root) => find_trust(environment, &root, state_dir),
        None => Ok(None),
    };
    let (trust, unwritable) = match found {
        Ok(trust) => (trust, None),
        Err(why) => (None, Some(Warning::NoBundle { dir: state_dir.to_owned(), why: why.to_string() })),
    };
    let facts = Facts { proxy, listening, password: None, trust, module_path: String::new(), sha256 };
    let mut settings = settings(environment, &facts);
    settings.warnings.splice(0..0, unwritable.into_iter().chain(stranger).chain(unbounded));
    settings.warnings.extend(find_replaced(environment, proxy));
    settings
}

/// The first proxy that these settings put out of use, without what its URL says of a user.
fn find_replaced(environment: &Environment, ours: SocketAddr) -> Option<Warning> {
    PROXY_VARIABLES.iter().find_map(|variable| {
        let url = environment.get(*variable)?.trim();
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let address = authority.rsplit('@').next().unwrap_or(authority).to_owned();
        let own = address.is_empty() || address == ours.to_string();
        (!own).then_some(Warning::Replaced { variable, address })
    })
}

/// The root in our own folder. A CA that is not in order is `serve`'s to complain about.
fn own_root(config: &intercept::Config) -> Option<CertificateDer<'static>> {
    Authority::load(&config.ca_dir).ok().flatten().and_then(|authority| read_root(authority.root_pem()))
}

/// Whether a root is our own, or at least can do no harm beyond the hosts that are intercepted.
fn is_expected(root: &CertificateDer<'static>, config: &intercept::Config) -> bool {
    intercept::is_bounded_to(root, &config.hosts) || own_root(config).as_ref() == Some(root)
}

/// Who answers at the proxy's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listening {
    Nobody,
    /// One of us, with this CA or with none.
    Serves(Option<CertificateDer<'static>>),
    /// Somebody else: 3128 is the port of many a proxy.
    Stranger,
}

/// Asks a proxy for its root certificate.
pub fn ask_listener(proxy: SocketAddr) -> Listening {
    let Ok(answer) = ask(proxy, "/ca.pem") else { return Listening::Nobody };
    let root = Some(&answer).filter(|answer| answer.starts_with("HTTP/1.1 200 ")).and_then(|pem| read_root(pem));
    // A refusal of ours begins with our name (`respond`).
    if root.is_some() || answer.contains("\ngoanyway: ") { Listening::Serves(root) } else { Listening::Stranger }
}

/// Asks whoever listens there for one page, and gives the answer, head and all; nothing of it if that is
/// what came. An error is that nobody listens.
pub(super) fn ask(at: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut answer = Vec::new();
    // One that keeps the connection open in spite of us runs into the deadline with its answer given.
    let _ = write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")
        .and_then(|()| stream.take(ANSWER).read_to_end(&mut answer));
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Writes the client's own roots and `root` into one file and says how a client trusts it; nothing, if the
/// client has no roots: a bundle replaces them, and one with ours alone would break everything else.
pub fn find_trust(
    environment: &Environment,
    root: &CertificateDer<'static>,
    state_dir: &Path,
) -> io::Result<Option<Trust>> {
    let roots = find_roots(environment);
    if roots.is_empty() {
        return Ok(None);
    }
    let bundle = write_bundle(state_dir, &intercept::bundle(&roots, std::slice::from_ref(root)))?;
    Ok(Some(Trust { fingerprint: intercept::fingerprint(root), bundle }))
}

/// The address by which a client on this host reaches a listener.
pub fn reachable(listener: SocketAddr) -> SocketAddr {
    let address = match listener.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        address => address,
    };
    SocketAddr::new(address, listener.port())
}

/// The user says which CA the client trusts; the password is the one demanded, or anything.
fn proxy_url(facts: &Facts) -> String {
    let user = facts.trust.as_ref().map(|trust| format!("ca-{}", trust.fingerprint));
    match (user, &facts.password) {
        (None, None) => format!("http://{}", facts.proxy),
        (user, password) => {
            let (user, password) = (user.as_deref().unwrap_or("go"), password.as_deref().unwrap_or("x"));
            format!("http://{user}:{password}@{}", facts.proxy)
        }
    }
}

/// What both spellings said, then the names of this host. `*.corp.example` is go's spelling; behind it
/// comes `.corp.example`, which every client takes for the same.
fn extend_no_proxy(environment: &Environment) -> Vec<String> {
    let before = NO_PROXY_VARIABLES.iter().filter_map(|variable| environment.get(*variable));
    let mut list: Vec<String> = Vec::new();
    for entry in before.flat_map(|value| entries(value)).chain(OURSELVES) {
        let suffix = entry.strip_prefix('*').filter(|rest| rest.starts_with('.'));
        for spelling in [Some(entry), suffix].into_iter().flatten() {
            if !list.iter().any(|there| there == spelling) {
                list.push(spelling.to_owned());
            }
        }
    }
    list
}

/// A star anywhere but in front (`172.17.*`, moby#37946).
pub(super) fn is_odd(entry: &str) -> bool {
    entry != "*" && entry.strip_prefix("*.").unwrap_or(entry).contains('*')
}

/// As go divides a list of NO_PROXY.
pub(super) fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

/// Puts us in the mirrors' place, and keeps what came after them: `direct`, or `off`, or nothing
/// (cmd/go/internal/modfetch/proxy.go, proxyList; unset, go's own list ends in `,direct`).
fn replace_mirrors(asked: &str, ours: &str) -> String {
    if asked.is_empty() {
        return format!("{ours},direct");
    }
    match asked.rfind([',', '|']) {
        Some(comma) if matches!(asked[comma + 1..].trim(), "direct" | "off") => {
            format!("{ours}{}{}", &asked[comma..=comma], asked[comma + 1..].trim())
        }
        _ => ours.to_owned(),
    }
}

/// The roots that a client with this environment has. Either variable replaces one half of go's defaults
/// (crypto/x509, root_unix.go); the half that we replace must go into the bundle.
fn find_roots(environment: &Environment) -> Vec<CertificateDer<'static>> {
    let value = |variable| environment.get(variable).map_or("", String::as_str);
    let (file, dirs) = (value("SSL_CERT_FILE"), value("SSL_CERT_DIR"));
    if file.is_empty() && dirs.is_empty() {
        return take_found(rustls_native_certs::load_native_certs());
    }
    let system = || SYSTEM_FILES.iter().map(Path::new).find(|path| path.exists());
    let file = if file.is_empty() { system() } else { Some(Path::new(file)) };
    let mut roots = file.map_or_else(Vec::new, |file| load_roots(Some(file), None));
    for dir in dirs.split(':').filter(|dir| !dir.is_empty()) {
        roots.extend(load_roots(None, Some(Path::new(dir))));
    }
    roots
}

fn load_roots(file: Option<&Path>, dir: Option<&Path>) -> Vec<CertificateDer<'static>> {
    take_found(rustls_native_certs::load_certs_from_paths(file, dir))
}

fn take_found(found: rustls_native_certs::CertificateResult) -> Vec<CertificateDer<'static>> {
    for error in &found.errors {
        tracing::warn!("roots: {error}");
    }
    found.certs
}

/// The file is named for what is in it: two shells with different roots do not write over each
/// other, and one that runs on keeps what it was given.
fn write_bundle(state_dir: &Path, bundle: &str) -> io::Result<PathBuf> {
    let digest: String = Sha256::digest(bundle).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let path = state_dir.join(format!("ca-bundle-{digest}.pem"));
    if std::fs::read_to_string(&path).is_ok_and(|there| there == bundle) {
        return Ok(path);
    }
    std::fs::create_dir_all(state_dir)?;
    let mut aside = tempfile::NamedTempFile::new_in(state_dir)?;
    aside.write_all(bundle.as_bytes())?;
    aside.as_file().sync_all()?;
    aside.persist(&path)?;
    Ok(path)
}

fn read_root(pem: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).ok()
}

/// curl reads http_proxy in lower case alone, and lower case wins with curl and pip: both are set.
const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"];
const NO_PROXY_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];
const OURSELVES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// For connecting, and for each read: the proxy is on this host or near it.
const PATIENCE: Duration = Duration::from_secs(2);
const ANSWER: u64 = 64 * 1024;
/// Where Linux distributions keep their roots (crypto/x509, root_linux.go).
pub(super) const SYSTEM_FILES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// go asks the platform's own verifier there, which reads no SSL_CERT_FILE (crypto/x509, root_darwin.go and
/// root_windows.go): GOPROXY without TLS instead.
const READS_CERT_FILE: bool = cfg!(not(any(target_os = "macos", windows)));

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::time::SystemTime;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn trusted() -> Facts {
        let trust = Trust { fingerprint: "1a2b3c4d".into(), bundle: "/state/ca-bundle-0a.pem".into() };
        Facts { trust: Some(trust), ..untrusted() }
    }

    fn untrusted() -> Facts {
        let proxy = "127.0.0.1:3128".parse().unwrap();
        Facts { proxy, listening: true, password: None, trust: None, module_path: String::new(), sha256: None }
    }

    fn value(settings: &Settings, name: &str) -> Option<String> {
        settings.variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| value.clone())
    }

    fn root(dir: &Path) -> CertificateDer<'static> {
        let hosts = ["goproxy.cn".parse().unwrap()];
        read_root(Authority::create(dir, &hosts, SystemTime::now(), intercept::Making::default()).unwrap().root_pem())
            .unwrap()
    }

    fn read_all(path: &Path) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn a_bare_environment_gets_the_proxy_the_exemptions_and_the_bundle() {
        let settings = settings(&environment(&[]), &trusted());
        assert_eq!(
            super::super::readers::print(Shell::Sh, &settings),
            "export HTTPS_PROXY=http://ca-1a2b3c4d:x@127.0.0.1:3128\n\
             export HTTP_PROXY=http://ca-1a2b3c4d:x@127.0.0.1:3128\n\
             export https_proxy=http://ca-1a2b3c4d:x@127.0.0.1:3128\n\
             export http_proxy=http://ca-1a2b3c4d:x@127.0.0.1:3128\n\
             export NO_PROXY=localhost,127.0.0.1,::1\n\
             export no_proxy=localhost,127.0.0.1,::1\n\
             export SSL_CERT_FILE=/state/ca-bundle-0a.pem\n"
        );
        assert_eq!(settings.warnings, []);
    }

    #[test]
    fn no_proxy_is_appended_to() {
        let table: [(&[(&str, &str)], &str); 8] = [
            (&[], "localhost,127.0.0.1,::1"),
            (&[("NO_PROXY", "")], "localhost,127.0.0.1,::1"),
            (&[("NO_PROXY", ".corp.example, 10.0.0.0/8,")], ".corp.example,10.0.0.0/8,localhost,127.0.0.1,::1"),
            (&[("no_proxy", "a.example")], "a.example,localhost,127.0.0.1,::1"),
            (&[("NO_PROXY", "a"), ("no_proxy", "a,b")], "a,b,localhost,127.0.0.1,::1"),
            (&[("NO_PROXY", "::1,x,localhost")], "::1,x,localhost,127.0.0.1"),
            (&[("NO_PROXY", "*.corp.example")], "*.corp.example,.corp.example,localhost,127.0.0.1,::1"),
            (&[("NO_PROXY", "172.17.*")], "172.17.*,localhost,127.0.0.1,::1"),
        ];
        for (before, after) in table {
            let settings = settings(&environment(before), &trusted());
            assert_eq!(value(&settings, "NO_PROXY").as_deref(), Some(after), "{before:?}");
            assert_eq!(value(&settings, "no_proxy").as_deref(), Some(after), "{before:?}");
        }
    }

    #[test]
    fn without_trust_modules_are_asked_for_without_tls_and_the_end_of_goproxy_stays() {
        let ours = "http://127.0.0.1:3128";
        let table = [
            ("", format!("{ours},direct")),
            ("https://goproxy.cn,direct", format!("{ours},direct")),
            ("https://goproxy.cn|direct", format!("{ours}|direct")),
            ("https://goproxy.cn, direct", format!("{ours},direct")),
            ("https://goproxy.cn,https://mirror.example", ours.to_owned()),
            ("https://athens.corp.example", ours.to_owned()),
            ("https://goproxy.cn,off", format!("{ours},off")),
        ];
        for (before, after) in table {
            let settings = settings(&environment(&[("GOPROXY", before)]), &untrusted());
            assert_eq!(value(&settings, "GOPROXY"), Some(after.clone()), "{before}");
            assert_eq!(value(&settings, "SSL_CERT_FILE"), None);
            assert_eq!(value(&settings, "HTTPS_PROXY").as_deref(), Some(ours));
            assert_eq!(settings.warnings, [Warning::NoTrust(after)]);
        }
        assert_eq!(value(&settings(&environment(&[]), &trusted()), "GOPROXY"), None);
    }

    #[test]
    fn what_makes_the_settings_useless_is_said() {
        let warned = |pairs: &[(&str, &str)], facts| settings(&environment(pairs), &facts).warnings;
        let nobody = Facts { listening: false, ..trusted() };
        assert_eq!(warned(&[], nobody.clone()), [Warning::NobodyListens(nobody.proxy)]);
        assert_eq!(
            Warning::NobodyListens(nobody.proxy).to_string(),
            "nothing listens at 127.0.0.1:3128; start it with: goanyway serve"
        );
        assert_eq!(warned(&[("no_proxy", "a, *")], trusted()), [Warning::NothingProxied]);
        assert_eq!(warned(&[("no_proxy", "172.17.*,*.a,.b")], trusted()), [Warning::OddExemption("172.17.*".into())]);
        for goproxy in ["direct", "off"] {
            assert_eq!(warned(&[("GOPROXY", goproxy)], trusted()), [Warning::NoMirror(goproxy.into())]);
            let settings = settings(&environment(&[("GOPROXY", goproxy)]), &untrusted());
            assert_eq!(value(&settings, "GOPROXY"), None, "what was chosen on purpose stays");
        }
    }

    #[test]
    fn who_reads_it_decides_what_a_person_is_told() {
        let about = Facts { sha256: Some("1a2b".into()), ..untrusted() };
        let settings = settings(&environment(&[]), &about);
        let goproxy = "http://127.0.0.1:3128,direct".to_owned();
        assert_eq!(advise(Shell::Fish, &settings), [Warning::NoTrust(goproxy.clone())]);
        assert_eq!(advise(Shell::Docker, &settings), [Warning::Unreachable(about.proxy)]);
        let inside = "http://host.docker.internal:3128,direct".into();
        let digest = Warning::Digest { sha256: "1a2b".into(), goproxy: inside };
        assert_eq!(advise(Shell::Github, &settings), [Warning::NoTrust(goproxy), digest]);
    }

    #[test]
    fn a_private_instance_has_its_password_and_its_secret_path() {
        let private = |facts| Facts { password: Some("s3cret".into()), module_path: "/5ecret".into(), ..facts };
        let settings = |facts| settings(&environment(&[]), &private(facts));
        assert_eq!(
            value(&settings(trusted()), "HTTPS_PROXY").as_deref(),
            Some("http://ca-1a2b3c4d:s3cret@127.0.0.1:3128")
        );
        assert_eq!(value(&settings(untrusted()), "HTTPS_PROXY").as_deref(), Some("http://go:s3cret@127.0.0.1:3128"));
        assert_eq!(value(&settings(untrusted()), "GOPROXY").as_deref(), Some("http://127.0.0.1:3128/5ecret,direct"));
        // What a person is told lands in logs.
        let told = settings(untrusted()).warnings;
        assert_eq!(told, [Warning::NoTrust("http://127.0.0.1:3128/SECRET,direct".into())]);
    }

    #[test]
    fn an_existing_ssl_cert_file_is_merged_and_merging_again_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, company) = (root(&dir.path().join("ours")), root(&dir.path().join("company")));
        let company_file = dir.path().join("company/ca.pem");
        let state = dir.path().join("state");
        let merge = |file: &Path| {
            let environment = environment(&[("SSL_CERT_FILE", file.to_str().unwrap())]);
            find_trust(&environment, &ours, &state).unwrap().unwrap()
        };
        let trust = merge(&company_file);
        assert_eq!(read_all(&trust.bundle), [company, ours.clone()]);
        assert_eq!(trust.fingerprint, intercept::fingerprint(&ours));
        assert_eq!(merge(&trust.bundle), trust);
        assert_ne!(merge(&dir.path().join("ours/ca.pem")).bundle, trust.bundle, "another set, another file");
    }

    #[test]
    fn a_bundle_of_our_root_alone_is_never_written() {
        let dir = tempfile::tempdir().unwrap();
        let ours = root(&dir.path().join("ours"));
        std::fs::write(dir.path().join("empty.pem"), "").unwrap();
        for file in ["empty.pem", "absent.pem"] {
            let environment = environment(&[("SSL_CERT_FILE", dir.path().join(file).to_str().unwrap())]);
            assert_eq!(find_trust(&environment, &ours, &dir.path().join("state")).unwrap(), None);
        }
        assert!(!dir.path().join("state").exists());
    }

    #[test]
    fn ssl_cert_dir_alone_replaces_only_half_of_the_systems_roots() {
        let dir = tempfile::tempdir().unwrap();
        let company = root(&dir.path().join("company"));
        std::fs::create_dir(dir.path().join("roots")).unwrap();
        std::fs::copy(dir.path().join("company/ca.pem"), dir.path().join("roots/company.pem")).unwrap();
        let roots = |pairs: &[(&str, &str)]| find_roots(&environment(pairs));
        let given = dir.path().join("roots").to_str().unwrap().to_owned();
        let found = roots(&[("SSL_CERT_DIR", &format!("/nowhere:{given}"))]);
        assert!(found.contains(&company));
        let system = SYSTEM_FILES.iter().find(|path| Path::new(path).exists());
        assert_eq!(found.len() > 1, system.is_some());
    }

    #[test]
    fn a_listener_on_every_address_is_reached_on_this_host() {
        let reached = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(reached("0.0.0.0:3128"), "127.0.0.1:3128");
        assert_eq!(reached("[::]:3128"), "[::1]:3128");
        assert_eq!(reached("10.0.0.5:3128"), "10.0.0.5:3128");
    }

    /// Interception of the hosts that [`root`] covers, with a CA folder of our own.
    fn about(ca_dir: &Path) -> intercept::Config {
        intercept::Config {
            ca_dir: ca_dir.to_owned(),
            ca_dir_named: true,
            hosts: vec!["goproxy.cn".parse().unwrap()],
            mode: intercept::Mode::Auto,
            trusted_by: Vec::new(),
            state_dir: None,
        }
    }

    /// Whoever takes our port first could hand out a CA that is good for the whole world.
    #[test]
    fn a_ca_that_is_good_for_more_than_module_hosts_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = vec!["goproxy.cn".parse().unwrap(), "bank.example".parse().unwrap()];
        Authority::create(
            &dir.path().join("theirs"),
            &elsewhere,
            std::time::SystemTime::now(),
            intercept::Making::default(),
        )
        .unwrap();
        let bounded_elsewhere = std::fs::read_to_string(dir.path().join("theirs/ca.pem")).unwrap();
        let mut boundless = rcgen::CertificateParams::default();
        boundless.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let boundless = boundless.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
        for pem in [bounded_elsewhere, boundless] {
            let (address, serving) = listener(format!("HTTP/1.1 200 OK\r\n\r\n{pem}"));
            let settings = gather(&environment(&[]), address, &about(dir.path()), dir.path());
            serving.join().unwrap();
            assert_eq!(value(&settings, "SSL_CERT_FILE"), None);
            assert_eq!(settings.warnings[0], Warning::Unbounded(address));
        }
    }

    /// A proxy that gives one client this answer.
    fn listener(answer: String) -> (SocketAddr, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            assert!(head.starts_with(b"GET /ca.pem HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        (address, serving)
    }

    #[test]
    fn the_listeners_ca_counts_and_not_the_one_in_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (theirs, _local) = (root(&dir.path().join("theirs")), root(&dir.path().join("local")));
        let pem = std::fs::read_to_string(dir.path().join("theirs/ca.pem")).unwrap();
        let company = environment(&[("SSL_CERT_FILE", dir.path().join("theirs/ca.pem").to_str().unwrap())]);
        let (address, serving) = listener(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{pem}", pem.len()));
        let settings = gather(&company, address, &about(&dir.path().join("local")), &dir.path().join("state"));
        serving.join().unwrap();
        let user = format!("http://ca-{}:x@{address}", intercept::fingerprint(&theirs));
        assert_eq!(value(&settings, "HTTPS_PROXY"), Some(user));
        assert_eq!(settings.warnings, []);
    }

    #[test]
    fn a_listener_without_a_ca_is_used_without_trust() {
        let dir = tempfile::tempdir().unwrap();
        root(&dir.path().join("local"));
        let (address, serving) = listener("HTTP/1.1 404 Not Found\r\n\r\ngoanyway: this proxy has no CA\n".to_owned());
        let settings = gather(&environment(&[]), address, &about(&dir.path().join("local")), dir.path());
        serving.join().unwrap();
        assert_eq!(value(&settings, "GOPROXY"), Some(format!("http://{address},direct")));
        assert!(matches!(&settings.warnings[..], [Warning::NoTrust(_)]));
    }

    /// Port 3128 is squid's, too: its answer was taken for that of a goanyway without a CA.
    #[test]
    fn another_program_at_our_port_is_told_from_us() {
        let dir = tempfile::tempdir().unwrap();
        let answers = [
            "HTTP/1.1 400 Bad Request\r\nserver: squid\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n<html>",
            "SSH-2.0-x\r\n",
            "",
        ];
        for answer in answers {
            let (address, serving) = listener(answer.to_owned());
            let settings = gather(&environment(&[]), address, &about(dir.path()), dir.path());
            serving.join().unwrap();
            assert_eq!(settings.warnings[0], Warning::Stranger(address), "{answer}");
        }
    }

    /// A company's proxy went out of use without a word. Neither its password nor our own URL is repeated.
    #[test]
    fn a_proxy_that_is_replaced_is_said() {
        let ours = "127.0.0.1:3128".parse().unwrap();
        let table = [
            (environment(&[]), None),
            (environment(&[("HTTPS_PROXY", "")]), None),
            (environment(&[("HTTPS_PROXY", "http://ca-1a2b3c4d:x@127.0.0.1:3128")]), None),
            (environment(&[("https_proxy", "http://me:secret@proxy.corp:8080/")]), Some("https_proxy")),
            (environment(&[("HTTP_PROXY", "proxy.corp:8080")]), Some("HTTP_PROXY")),
        ];
        for (environment, expected) in table {
            let variable = find_replaced(&environment, ours).map(|warning| match warning {
                Warning::Replaced { variable, address } => (variable, address),
                other => panic!("{other}"),
            });
            assert_eq!(variable, expected.map(|variable| (variable, "proxy.corp:8080".to_owned())), "{environment:?}");
        }
    }

    #[test]
    fn where_nobody_listens_yet_the_folders_ca_counts_and_an_unwritable_state_folder_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let ours = root(&dir.path().join("local"));
        // Bound and never listening: nobody else can take the port meanwhile.
        let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let free = bound.local_addr().unwrap().as_socket().unwrap();
        let company = environment(&[("SSL_CERT_FILE", dir.path().join("local/ca.pem").to_str().unwrap())]);
        let gathered = |state: &str| gather(&company, free, &about(&dir.path().join("local")), &dir.path().join(state));
        let settings = gathered("state");
        let user = format!("http://ca-{}:x@{free}", intercept::fingerprint(&ours));
        assert_eq!(value(&settings, "HTTPS_PROXY"), Some(user));
        assert_eq!(settings.warnings, [Warning::NobodyListens(free)]);
        std::fs::write(dir.path().join("file"), "in the way").unwrap();
        let settings = gathered("file");
        assert_eq!(value(&settings, "SSL_CERT_FILE"), None);
        assert!(matches!(&settings.warnings[0], Warning::NoBundle { .. }), "{:?}", settings.warnings);
    }
}
