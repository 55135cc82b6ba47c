//! One error of each kind, made as the house makes them where that is short, and put together where it is not.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use goanyway::goproxy::{BadBundle, Database, GoMod, GoSum, Module, ModuleRequest, Said, SumdbConfig, Version};
use goanyway::target::{BadTarget, Base, Host, Name, Scope, Target};
use goanyway::{
    accept, admit, cache, classify, config, connect, daemon, fetch, forward, gateway, intercept, resolve, service,
};

/// By room, what each of its errors says.
pub fn all() -> Vec<(&'static str, Vec<String>)> {
    vec![
        ("target", target()),
        ("accept", accept()),
        ("admit", admit()),
        ("classify", classify()),
        ("resolve", resolve()),
        ("cache", cache()),
        ("connect", connect()),
        ("fetch", fetch()),
        ("forward", forward()),
        ("goproxy", goproxy()),
        ("intercept", intercept()),
        ("gateway", gateway()),
        ("service", service()),
        ("config", config()),
        ("daemon", daemon()),
    ]
}

fn told(errors: &[&dyn std::fmt::Display]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn denied() -> io::Error {
    ErrorKind::PermissionDenied.into()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn path(text: &str) -> PathBuf {
    PathBuf::from(text)
}

#[track_caller]
fn refused<T, E: std::fmt::Display>(read: Result<T, E>) -> String {
    match read {
        Ok(_) => panic!("it was taken"),
        Err(error) => error.to_string(),
    }
}

fn target() -> Vec<String> {
    vec![
        refused(Target::parse_connect("")),
        refused(Target::parse_connect("a.example")),
        refused(Target::parse_connect("a.example:99999")),
        refused(Base::parse("ftp://a.example")),
        refused(Base::parse("https://a.example/?q")),
        refused(Target::parse_connect("u:p@a.example:443")),
        refused(Target::parse_connect("[::1%eth0]:443")),
        refused(Host::parse("a.b.1")),
        refused(Name::parse("a..example")),
        BadTarget::Empty.to_string(),
    ]
}

fn accept() -> Vec<String> {
    told(&[&accept::Unwelcome::Crowd, &accept::Unwelcome::Plain, &{
        let config =
            accept::TlsConfig { cert: path("/nowhere/cert.pem"), key: path("/nowhere/key.pem"), client_ca: None };
        missing_certificate(config)
    }])
}

/// Found out when a daemon begins; here by the same reader.
fn missing_certificate(config: accept::TlsConfig) -> String {
    let mut flags = std::collections::HashMap::new();
    flags.insert("listen", vec!["127.0.0.1:0".to_owned()]);
    flags.insert("admin.listen", vec!["none".to_owned()]);
    flags.insert("listen_tls.cert", vec![config.cert.display().to_string()]);
    flags.insert("listen_tls.key", vec![config.key.display().to_string()]);
    let folder = tempfile::tempdir().unwrap();
    for key in ["cache.dir", "state_dir", "intercept.ca_dir"] {
        flags.insert(key, vec![folder.path().join(key).display().to_string()]);
    }
    let typed = config::Typed::gather(&flags, &|_| None, None).unwrap();
    refused(daemon::start(config::Settings::understand(&typed, &|_| None).unwrap()).map(drop))
}

fn admit() -> Vec<String> {
    use admit::Refusal;
    let address = "10.0.0.7".parse().unwrap();
    let file = || path("/etc/goanyway/users");
    told(&[
        &Refusal::Client(address),
        &Refusal::Credentials,
        &Refusal::Login,
        &Refusal::Prefix,
        &Refusal::Port(25),
        &Refusal::Address { address, scope: Scope::Private },
        &Refusal::Denied(address),
        &Refusal::Metadata,
        &Refusal::Ourselves,
        &Refusal::Closed(admit::Closed::Offline),
        &Refusal::Closed(admit::Closed::Frozen),
        &admit::Error::Read { path: file(), error: Arc::new(denied()) },
        &admit::Error::Open { path: file(), mode: 0o644 },
        &admit::Error::Large { path: file() },
        &admit::Error::Empty { path: file() },
        &admit::Error::Line { path: file(), number: 3, why: "a user has a name, a colon and a hash" },
        &admit::Error::Random,
    ])
}

fn classify() -> Vec<String> {
    use classify::Fault;
    told(&[
        &Fault::Line,
        &Fault::LongLine,
        &Fault::LongHead,
        &Fault::LineEnd,
        &Fault::Field,
        &Fault::Host,
        &Fault::ContentLength,
        &Fault::TransferEncoding,
        &Fault::Chunk,
        &Fault::Trailers,
        &Fault::SlowHead,
        &Fault::ConnectBody,
        &Fault::ConnectForm,
        &Fault::AuthorityForm,
        &Fault::HttpsForm,
        &Fault::Expectation,
        &Fault::Method,
        &Fault::Target(BadTarget::BadPort),
    ])
}

pub fn unknown() -> resolve::Failure {
    resolve::Failure::Unknown { name: name("goproxy.cn"), tally: resolve::Tally::default() }
}

fn resolve() -> Vec<String> {
    use resolve::Failure;
    let (name, by) = (name("goproxy.cn"), vec!["10.0.0.53".to_owned()]);
    let absent =
        |confirmed| Failure::Absent { name: name.clone(), confirmed, last_word: false, exists: false, by: by.clone() };
    let bad = |text: &str| refused(text.parse::<resolve::Server>());
    told(&[
        &resolve::Error::Layout { path: path("/var/lib/goanyway/names.json"), layout: 2 },
        &resolve::Error::NoServers,
        &absent(true),
        &absent(false),
        &unknown(),
        &Failure::Blocked { name: name.clone(), server: "10.0.0.53".to_owned(), why: "Filtered".to_owned() },
        &Failure::Exhausted { name: name.clone() },
        &bad("8.8.8"),
        &bad("8.8.8.8,1.1.1.1"),
        &bad("tls://8.8.8"),
        &bad("https://dns.example/dns-query"),
        &bad("quic://1.1.1.1"),
    ])
}

fn cache() -> Vec<String> {
    use cache::Error;
    let folder = || path("/var/cache/goanyway");
    told(&[
        &Error::Folder { path: folder(), why: "Permission denied".to_owned() },
        &Error::Layout { path: folder(), known: 1, found: "99".to_owned() },
        &Error::Full(folder()),
        &Error::Unheld,
        &Error::Unread,
        &Error::Abandoned,
        &Error::Length { promised: 100, came: 60 },
        &Error::Released,
    ])
}

pub fn unreachable(miss: connect::Miss) -> connect::Error {
    let target = Target::parse_connect("goproxy.cn:443").unwrap();
    connect::Error::Unreachable { target, tried: vec![("198.51.100.7:443".parse().unwrap(), miss)] }
}

fn connect() -> Vec<String> {
    use connect::{Error, Miss, RootsError};
    let target = Target::parse_connect("goproxy.cn:443").unwrap();
    let untrusted = RootsError::Untrusted(rustls::CertificateError::UnknownIssuer);
    told(&[
        &unreachable(Miss::Refused),
        &unreachable(Miss::NoRoute),
        &unreachable(Miss::Silent),
        &unreachable(Miss::NoFiles),
        &unreachable(Miss::Tls(untrusted)),
        &unreachable(Miss::Tls(RootsError::Broken("received fatal alert: HandshakeFailure".to_owned()))),
        &unreachable(Miss::Tls(RootsError::Name)),
        &RootsError::Roots { path: path("/etc/goanyway/corp.pem"), why: "no certificate is in it".to_owned() },
        &Error::Unresolved(unknown()),
        &Error::Deadline { target },
        &refused("socks5://proxy.example".parse::<connect::Parent>()),
        &refused("=http://proxy.example:3128".parse::<connect::Way>()),
        &refused("a b=http://proxy.example:3128".parse::<connect::Way>()),
        &refused("10.0.0.0/99=none".parse::<connect::Way>()),
        &refused("10.0.0=none".parse::<connect::Way>()),
        &refused("a..b=none".parse::<connect::Way>()),
    ])
}

fn fetch() -> Vec<String> {
    use fetch::Error;
    let after = Duration::from_secs(10);
    told(&[
        &Error::Silent(after),
        &Error::Stalled(after),
        &Error::Broken("connection reset".to_owned()),
        &Error::Request("connection reset".to_owned()),
        &Error::Redirected("to ftp://a.example, which is no http".to_owned()),
        &Error::Circling,
    ])
}

fn forward() -> Vec<String> {
    use forward::Failure;
    told(&[&Failure::Loop, &Failure::Uri("invalid uri character".to_owned())])
}

/// What is wrong with a line, and what to do about it.
fn files_of_go() -> Vec<String> {
    let go_sums = ["<<<<<<< HEAD\n", "<html>\n", "nonsense\n", "a.b/c v1.0.0 h1:AAAA\n", "c v1.0.0 h1:AAAA\n"];
    let go_mods = [
        "module x\nrequire a.b/c latest\n",
        "module x\nnonsense {\n",
        "module x\nrequire (\n",
        "module x\nmodule y\n",
        "",
    ];
    let bad = go_sums.into_iter().filter_map(|text| GoSum::parse(text).err());
    let bad = bad.chain(go_mods.into_iter().filter_map(|text| GoMod::read_whole(text).err()));
    bad.map(|bad| format!("FILE:{bad} | {}", bad.why.hint())).collect()
}

fn goproxy() -> Vec<String> {
    let paths = [
        "/golang.org/x/net%2f/@v/list",
        "/golang.org//net/@v/list",
        "/favicon.ico",
        "/GitHub.com/x/y/@v/list",
        "/a.b/c/@v/V1.0.0.info",
        "/a.b/c/@v/main.zip",
        "/sumdb/sum.golang.org/tile/8/0/x",
    ];
    let requests = paths.into_iter().map(|path| refused(ModuleRequest::parse(path)));
    let modules =
        ["", "-a.b/c", "a.b//c", "a.b/.../c", "a.b/.c", "a.b/c.", "a.b/c d", "a.b/con", "a.b/c~1", "ab/c", "a.b/c/v1"];
    let modules = modules.into_iter().map(|path| refused(Module::new(path)));
    let others = [
        refused(Version::new("v1/0")),
        refused(Database::new("a b")),
        refused(SumdbConfig::parse("a b c")),
        refused(SumdbConfig::parse("sum.corp.example")),
        refused(SumdbConfig::parse("sum.corp.example+1+x")),
        refused(SumdbConfig::parse("sum..corp.example+1+x")),
        refused(SumdbConfig::parse("sum.golang.org ftp://x")),
        Said::Status(http::StatusCode::FORBIDDEN, "not for you".to_owned()).to_string(),
        Said::Wrong("the zip has no go.mod".to_owned()).to_string(),
        Said::Refuted.to_string(),
        Said::Closed.to_string(),
        BadBundle::NotEmpty(path("modules")).to_string(),
        BadBundle::NoTree { path: path("modules"), below: None }.to_string(),
        BadBundle::NoTree { path: path("/go/pkg/mod"), below: Some(path("/go/pkg/mod/cache/download")) }.to_string(),
        BadBundle::Damaged(vec![("a.b/c/@v/v1.0.0.zip".to_owned(), "its sum is another".to_owned())]).to_string(),
    ];
    requests.chain(modules).chain(others).chain(files_of_go()).collect()
}

fn intercept() -> Vec<String> {
    use intercept::Error;
    let (dir, file, host) =
        (path("/var/lib/goanyway/certs"), path("/var/lib/goanyway/certs/issuer.key"), name("goproxy.cn"));
    told(&[
        &Error::Folder { path: file.clone(), why: denied() },
        &Error::RootKey { path: path("root.key"), why: ErrorKind::AlreadyExists.into() },
        &Error::Incomplete { dir: dir.clone(), missing: "issuer.key" },
        &Error::Broken { path: file, what: "it is no key".to_owned() },
        &Error::Newer { dir: dir.clone(), version: 9, known: 1 },
        &Error::Exists { dir: dir.clone(), fingerprint: "1a2b3c4d".to_owned() },
        &Error::Absent { dir },
        &Error::ClockBehind { clock: "1970-01-01".to_owned(), released: "2026-11-01".to_owned() },
        &Error::NoHosts,
        &Error::Sign("no entropy".to_owned()),
        &Error::Closed,
        &Error::Slow,
        &Error::Rejected { host: host.clone(), said: "unknown CA".to_owned() },
        &Error::Wordless { host: host.clone() },
        &Error::Spare { host: host.clone() },
        &Error::Handshake { host, said: "no cipher suite in common".to_owned() },
        &refused("a b".parse::<intercept::HostPattern>()),
        &refused("10.0.0.1".parse::<intercept::HostPattern>()),
        &refused("*.co.uk".parse::<intercept::HostPattern>()),
    ])
}

fn gateway() -> Vec<String> {
    use gateway::{Error, Family, Plan, Unfit, Wish};
    let wish = |subnets: &[&str]| Wish {
        subnets: subnets.iter().map(|text| text.parse().unwrap()).collect(),
        transparent: vec!["0.0.0.0:3129".parse().unwrap()],
        ..Wish::default()
    };
    let unfit = |wish: Wish| refused(Plan::new(&wish));
    let (listener, subnet) = (["127.0.0.1:3129".parse().unwrap()], &["10.7.0.0/16"][..]);
    told(&[
        &Unfit::NoListener,
        &unfit(wish(&["10.7.0.5/16"])),
        &unfit(wish(&["0.0.0.0/0"])),
        &unfit(wish(&["::ffff:10.7.0.0/112"])),
        &unfit(wish(&["10.7.0.0/16", "10.7.3.0/24"])),
        &unfit(wish(&["fd07::/64"])),
        &unfit(Wish { interfaces: vec!["lo".to_owned()], ..wish(subnet) }),
        &unfit(Wish { transparent: vec!["0.0.0.0:0".parse().unwrap()], ..wish(subnet) }),
        &unfit(Wish { transparent: listener.to_vec(), ..wish(subnet) }),
        &Unfit::Unserved {
            flag: "dns",
            family: Family::V6,
            subnet: "fd07::/64".parse().unwrap(),
            suggestion: "[::]:53".to_owned(),
        },
        &Error::NoProgram { program: "nft".to_owned() },
        &Error::NotPermitted { line: "nft -f -".to_owned() },
        &Error::NoInterface { name: "eth9".to_owned(), there: "lo, eth0".to_owned() },
        &Error::Failed { line: "nft -f -".to_owned(), why: "Error: syntax error".to_owned() },
    ])
}

fn service() -> Vec<String> {
    use service::Error;
    let (user, folder) = (|| "goanyway".to_owned(), || path("/var/cache/goanyway"));
    told(&[
        &Error::Become { user: user(), error: denied() },
        &Error::Keep(denied()),
        &Error::Threads(3),
        &Error::Foreign { path: folder(), owner: 1000, user: user() },
        &Error::Folder { path: folder(), user: user(), error: denied() },
    ])
}

fn config() -> Vec<String> {
    let understood = |flags: &[(&'static str, &str)]| {
        let flags = flags.iter().map(|(key, value)| (*key, vec![(*value).to_owned()])).collect();
        let typed = config::Typed::gather(&flags, &|_| None, None).unwrap();
        refused(config::Settings::understand(&typed, &|_| None))
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("goanyway.toml");
    let read = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let told = refused(config::Typed::gather(&Default::default(), &|_| None, Some(&file)));
        told.replace(&folder.path().display().to_string(), "/etc/goanyway")
    };
    let (listen, open) = ("listen", "0.0.0.0:3128");
    vec![
        understood(&[("cache.size", "much")]),
        understood(&[("cache.size", "5")]),
        understood(&[(listen, open)]),
        understood(&[("listen_tls.cert", "cert.pem")]),
        understood(&[("transparent.listen", "0.0.0.0:3129")]),
        understood(&[("dns.listen", "0.0.0.0:53")]),
        understood(&[("dns.listen", "127.0.0.1:53"), ("admit.clients", "0.0.0.0/0")]),
        understood(&[("fetch.extra_roots", "/nowhere/corp.pem")]),
        refused(config::Typed::gather(&Default::default(), &|_| None, Some(&path("/nowhere/goanyway.toml")))),
        read("[cache]\nsise = \"1GiB\"\n"),
        read("user = 3.5\n"),
        read("listen = \n"),
    ]
}

fn daemon() -> Vec<String> {
    use daemon::Error;
    let address = |text: &str| text.parse().unwrap();
    told(&[
        &Error::Listen { address: address("127.0.0.1:3128"), error: ErrorKind::AddrInUse.into() },
        &Error::Listen { address: address("127.0.0.1:53"), error: denied() },
        &Error::Listen { address: address("192.0.2.7:3128"), error: ErrorKind::AddrNotAvailable.into() },
        &Error::Folder { what: "the cache", path: path("/var/cache/goanyway"), error: denied() },
        &Error::Folder { what: "the state", path: path("/etc/hosts/state"), error: ErrorKind::NotADirectory.into() },
        &Error::Runtime(io::Error::other("Resource temporarily unavailable")),
    ])
}
