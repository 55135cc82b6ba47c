//! The way out: a real request to each mirror and checksum database, and where one does not come
//! through, what stands between: a portal, a proxy that is needed, a clock, roots, an IPv6 that swallows.
//!
//! Only the servers that a build would ask are asked, for what every build may ask for.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;

use super::finding::{Finding, Mend, Verdict, quote};
use super::probe::{self, Answer, Doubt, Went};
use super::surroundings::Surroundings;
use super::{candidates, clock, roots};
use crate::target::{Base, Host, Scheme, Target};

/// A module that every public mirror has; that another one has it not is an answer as well.
const LIST: &str = "/golang.org/x/mod/@v/list";
/// A checksum database's signed head.
const LATEST: &str = "/latest";
/// For a server on the other side of the world, behind a slow line.
const FIRST: Duration = Duration::from_secs(7);
/// What is asked after that, of whoever is nearer or was heard of before.
pub(super) const THEN: Duration = Duration::from_secs(5);
const _: () = assert!(FIRST.as_secs() + THEN.as_secs() < super::PATIENCE.as_secs(), "both are to be told of in time");
/// Longer than any ocean, shorter than a person's patience.
const SWALLOWED: Duration = Duration::from_secs(3);

/// One server that a build asks.
struct Asked {
    check: &'static str,
    base: Base,
    path: &'static str,
}

/// What was found to stand between.
#[derive(Default)]
struct Between {
    portal: Option<Finding>,
    parent: Option<Finding>,
    clock: Option<Mend>,
    roots: Option<Mend>,
}

/// All that there is to say about the way out.
pub(super) async fn check(around: &Surroundings) -> Vec<Finding> {
    let asked = wanted(around);
    let probing = asked.iter().map(|one| probe::ask(&around.fetcher, &one.base, one.path, FIRST));
    let (went, ipv6) = tokio::join!(join_all(probing), check_ipv6(around));
    let (plain, parent, roots) = tokio::join!(
        ask_plainly(around, &asked, &went),
        find_parent(around, &asked, &went),
        judge_roots(&asked, &went, around),
    );
    let clock = judge_clock(&went, plain.as_ref(), around);
    let between = Between {
        portal: find_portal(&asked, &went, plain.as_ref()),
        parent,
        clock: clock.mend.clone().filter(|_| clock.verdict != Verdict::Ok),
        roots: roots.mend.clone(),
    };
    let is_well = |check| asked.iter().zip(&went).any(|(one, went)| one.check == check && is_good(went));
    let mirrors = asked.iter().zip(&went).map(|(one, went)| {
        let finding = one.judge(went, &between, &asked, around);
        // Where another mirror answers, or carries the database, builds go through.
        if is_well("mirror") { finding.at_most(Verdict::Warning) } else { finding }
    });
    let mirrors: Vec<Finding> = mirrors.collect();
    let Between { portal, parent, .. } = between;
    mirrors.into_iter().chain(portal).chain(parent).chain([clock, roots]).chain(ipv6).collect()
}

fn wanted(around: &Surroundings) -> Vec<Asked> {
    let mirror = |base| Asked { check: "mirror", base, path: LIST };
    let databases = around.settings.goproxy.sumdb.iter().filter_map(|database| database.own_base());
    let database = |base| Asked { check: "sumdb", base, path: LATEST };
    around.mirrors().into_iter().map(mirror).chain(databases.map(database)).collect()
}

/// Whether a module server answered as one.
fn is_good(went: &Went) -> bool {
    matches!(went, Went::Answered(answer) if !answer.is_page && matches!(answer.status.as_u16(), 200 | 404 | 410))
}

impl Asked {
    fn judge(&self, went: &Went, between: &Between, all: &[Asked], around: &Surroundings) -> Finding {
        let (check, subject) = (self.check, self.base.to_string());
        let ask = |who: String| Mend::Ask(who);
        let obstacle = || {
            let found = between.portal.as_ref().or(between.parent.as_ref());
            found.and_then(|finding| finding.mend.clone())
        };
        let network = || {
            ask("whoever runs this network or its firewall; if there is a proxy: export HTTPS_PROXY=http://PROXY:PORT"
                .into())
        };
        let (saw, mend) = match went {
            Went::Answered(answer) => return self.judge_answer(answer, between, all, around),
            Went::NoName(why) => {
                let who = format!(
                    "whoever runs the name servers; goanyway resolve {} shows each one's word",
                    self.base.target.host
                );
                (format!("no name: {why}"), obstacle().unwrap_or_else(|| ask(who)))
            }
            Went::NoWay(why) => (format!("no connection: {why}"), obstacle().unwrap_or_else(network)),
            Went::Untrusted { why, doubt } => {
                let by_doubt = match doubt {
                    Doubt::Dates => between.clock.clone(),
                    Doubt::Issuer => between.roots.clone(),
                    Doubt::Name | Doubt::Other => None,
                };
                let who = format!(
                    "whoever runs this network: somebody else answers in the place of {}",
                    self.base.target.host
                );
                let portal = between.portal.as_ref().and_then(|portal| portal.mend.clone());
                (format!("TLS: {why}"), portal.or(by_doubt).unwrap_or_else(|| ask(who)))
            }
            Went::Parent { why, wants_credentials: true } => {
                let who =
                    "you, with the user and password that it wants: export HTTPS_PROXY=http://USER:PASSWORD@PROXY:PORT";
                (why.clone(), ask(who.to_owned()))
            }
            Went::Parent { why, .. } => (
                format!("by the proxy that is set: {why}"),
                ask("whoever runs that proxy; or, if there is none here: unset HTTPS_PROXY https_proxy".into()),
            ),
            Went::Broken(why) => (format!("HTTP: {why}"), obstacle().unwrap_or_else(network)),
            Went::Forbidden(why) => {
                (why.clone(), ask("you, if it is meant, with that flag; else whoever runs the name servers".into()))
            }
        };
        Finding::fault(check, subject, saw, mend)
    }

    fn judge_answer(&self, answer: &Answer, between: &Between, all: &[Asked], around: &Surroundings) -> Finding {
        let (check, subject, status) = (self.check, self.base.to_string(), answer.status);
        let whoever = || Mend::Ask(format!("whoever runs {}", self.base.target.host));
        if answer.is_page || status == StatusCode::NETWORK_AUTHENTICATION_REQUIRED {
            let saw = format!("{status}: a web page where a list was asked for");
            let mend = between.portal.as_ref().and_then(|portal| portal.mend.clone());
            return Finding::fault(check, subject, saw, mend.unwrap_or_else(whoever));
        }
        match status.as_u16() {
            200 | 404 | 410 => {
                Finding::ok(check, subject, format!("answers {} in {} ms", status.as_u16(), answer.elapsed.as_millis()))
            }
            401 | 403 | 407 | 451 => {
                let saw = format!("{status}: it was reached, and does not want to serve us{}", quoted(answer));
                Finding::fault(check, subject, saw, self.elsewhere(all, around).unwrap_or_else(whoever))
            }
            300..=399 => {
                let to = answer.location.as_deref().unwrap_or("nowhere");
                let mend = between.portal.as_ref().and_then(|portal| portal.mend.clone());
                match mend {
                    Some(mend) => Finding::fault(check, subject, format!("{status} to {to}"), mend),
                    None => {
                        Finding::ok(check, subject, format!("sends us on to {to} in {} ms", answer.elapsed.as_millis()))
                    }
                }
            }
            _ => Finding::warning(check, subject, format!("{status}: it is in trouble{}", quoted(answer)), whoever()),
        }
    }

    /// The other mirrors that were named, without this one.
    fn elsewhere(&self, all: &[Asked], around: &Surroundings) -> Option<Mend> {
        let others: Vec<String> = all
            .iter()
            .filter(|other| other.check == "mirror" && other.base != self.base)
            .map(|other| other.base.to_string())
            .collect();
        let may = self.check == "mirror" && !others.is_empty() && !around.typed.has("goproxy.upstreams");
        may.then(|| Mend::Type(format!("export GOANYWAY_UPSTREAM={}", quote(&others.join(",")))))
    }
}

/// What a server says of its refusal, in its first line.
fn quoted(answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    let line: String =
        text.lines().next().unwrap_or_default().chars().filter(|char| !char.is_control()).take(80).collect();
    if line.is_empty() { String::new() } else { format!(" (\"{line}\")") }
}

/// Where https fails, plain http may tell why: a portal answers there, and any server tells the time.
async fn ask_plainly(around: &Surroundings, asked: &[Asked], went: &[Went]) -> Option<(Base, Went)> {
    let failed = asked.iter().zip(went).find(|(one, went)| one.base.scheme == Scheme::Https && !is_good(went))?;
    let target = Target::new(failed.0.base.target.host.clone(), Scheme::Http.default_port());
    let base = Base { scheme: Scheme::Http, target, path: String::new() };
    let went = probe::ask(&around.fetcher, &base, "/", THEN).await;
    Some((base, went))
}

fn judge_clock(went: &[Went], plain: Option<&(Base, Went)>, around: &Surroundings) -> Finding {
    let ahead = |went: &Went| if let Went::Answered(answer) = went { answer.ahead } else { None };
    let told: Vec<i64> = went.iter().chain(plain.map(|(_, went)| went)).filter_map(ahead).collect();
    let refused = went.iter().any(|went| matches!(went, Went::Untrusted { doubt: Doubt::Dates, .. }));
    clock::judge(&told, refused, around.now)
}

async fn judge_roots(asked: &[Asked], went: &[Went], around: &Surroundings) -> Finding {
    let roots = roots::find(around);
    let is_unknown = |went: &Went| matches!(went, Went::Untrusted { doubt: Doubt::Issuer, .. });
    let unknown = asked.iter().zip(went).find(|(_, went)| is_unknown(went)).map(|(one, _)| one);
    let mut known_to_system = false;
    if let (Some(one), Some(_), Some(bundle)) = (unknown, &roots.named_by, roots::system_bundle(around))
        && let Some(fetcher) = around.trusting(&bundle)
    {
        known_to_system = !is_unknown(&probe::ask(&fetcher, &one.base, one.path, THEN).await);
    }
    let host = unknown.map(|one| one.base.target.host.to_string());
    roots.judge(host.as_deref(), known_to_system, around)
}

/// A portal answers for everybody, and sends to itself.
fn find_portal(asked: &[Asked], went: &[Went], plain: Option<&(Base, Went)>) -> Option<Finding> {
    let directly = asked.iter().zip(went).filter(|(one, _)| one.base.scheme == Scheme::Http);
    let answers = directly.map(|(one, went)| (&one.base, went)).chain(plain.map(|(base, went)| (base, went)));
    answers.into_iter().find_map(|(base, went)| {
        let Went::Answered(answer) = went else { return None };
        let host = &base.target.host;
        let foreign = answer.location.as_deref().filter(|to| is_foreign(to, host) && answer.status.is_redirection());
        let at = match foreign {
            Some(to) => to.to_owned(),
            None if answer.is_page && answer.status.is_success() => format!("http://{}/", base.authority()),
            None if answer.status == StatusCode::NETWORK_AUTHENTICATION_REQUIRED => {
                format!("http://{}/", base.authority())
            }
            None => return None,
        };
        let saw = format!(
            "whoever asks for http://{} gets a page of somebody else's: this network wants a login",
            base.authority()
        );
        Some(Finding::fault("portal", "", saw, Mend::Ask(format!("you, in a browser: {at}"))))
    })
}

/// A redirect to another site: a mirror sends plain http to itself.
fn is_foreign(to: &str, host: &Host) -> bool {
    let Some((_, rest)) = to.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let Ok(there) = Target::parse_authority(authority, 80) else { return false };
    match (&there.host, host) {
        (Host::Name(there), Host::Name(host)) => {
            let site = |name: &str| psl::domain_str(name).unwrap_or(name).to_owned();
            site(there.as_str()) != site(host.as_str())
        }
        (there, host) => there != host,
    }
}

/// A proxy that other programs of this machine know of, where nothing can be reached without.
async fn find_parent(around: &Surroundings, asked: &[Asked], went: &[Went]) -> Option<Finding> {
    let is_shut_in = |went: &Went| matches!(went, Went::NoWay(_) | Went::NoName(_));
    let one = asked.iter().zip(went).find(|(one, _)| one.base.scheme == Scheme::Https)?.0;
    let has_parent = around.parents.choose(one.base.scheme, &one.base.target).is_some();
    if has_parent || !went.iter().all(is_shut_in) {
        return None;
    }
    let found = candidates::find(around, &one.base, one.path).await?;
    let saw = format!("nothing outside is reached directly, and by {} it is (named by {})", found.address, found.place);
    Some(Finding::fault("parent", "", saw, found.mend))
}

/// An address that swallows costs every program that tries it first a wait.
async fn check_ipv6(around: &Surroundings) -> Option<Finding> {
    let base = around.mirrors().into_iter().find(|base| base.target.host.name().is_some())?;
    let name = base.target.host.name()?;
    if around.parents.choose(base.scheme, &base.target).is_some() {
        return None;
    }
    let addresses = around.resolver.search(name).next().await.ok()?.addresses;
    let six = addresses.iter().find(|address| address.is_ipv6())?;
    let four = addresses.iter().find(|address| address.is_ipv4())?;
    let port = base.target.port;
    let (by_six, by_four) = tokio::join!(connects(around, *six, port), connects(around, *four, port));
    let at = SocketAddr::new(*six, port);
    match (by_six, by_four) {
        (Reach::Swallowed, Reach::Connected) => {
            let saw =
                format!("{at} ({name}) swallows connections while IPv4 works: each program waits before it tries that");
            let line = "ip -6 route add unreachable default metric 1".to_owned();
            Some(Finding::warning("ipv6", "", saw, Mend::Type(line)))
        }
        (Reach::Connected, _) => Some(Finding::ok("ipv6", "", format!("{name} is reached over IPv6"))),
        (Reach::Refused, _) => Some(Finding::ok("ipv6", "", "there is no way out over IPv6, and that is said at once")),
        (Reach::Swallowed, _) => None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Connected,
    Refused,
    Swallowed,
}

async fn connects(around: &Surroundings, address: IpAddr, port: u16) -> Reach {
    let permit = around.admission.configured(&Target::new(Host::Addr(address), port));
    match tokio::time::timeout(SWALLOWED, around.connector.dial(&permit, "")).await {
        Ok(Ok(_)) => Reach::Connected,
        Ok(Err(_)) => Reach::Refused,
        Err(_) => Reach::Swallowed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_sends_to_itself_and_a_portal_to_somebody_else() {
        let host = Host::parse("goproxy.cn").unwrap();
        let table = [
            ("https://goproxy.cn/", false),
            ("https://www.goproxy.cn/x?y", false),
            ("/login", false),
            ("http://portal.hotel.example/login", true),
            ("http://10.0.0.1/", true),
            ("http://notgoproxy.cn/", true),
        ];
        for (to, foreign) in table {
            assert_eq!(is_foreign(to, &host), foreign, "{to}");
        }
    }
}
