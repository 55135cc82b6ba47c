//! What a check looks at: the environment, the settings and what of them was typed, the resolver and
//! the way out as `serve` would have them. Nothing is asked of anybody here.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::ArgMatches;
use tokio::runtime::Handle;

use super::super::Failure;
use super::super::env::{self, Environment, Listening};
use super::super::readers::quote_sh;
use super::super::sources;
use super::finding::Mend;
use crate::admit::{self, Admission};
use crate::config::{ROWS, Settings};
use crate::connect::{self, Connector, Parents};
use crate::fetch::{Fetcher, Idle};
use crate::flow::Ours;
use crate::goproxy;
use crate::metrics::Registry;
use crate::resolve::{self, Resolver};
use crate::target::{Base, Host, Name, Target};

/// Everything that a check may look at.
pub(super) struct Surroundings {
    pub environment: Environment,
    pub settings: Settings,
    pub typed: Typed,
    pub now: SystemTime,
    /// Before the paths of the machine.
    pub root: PathBuf,
    /// Where builds are started.
    pub here: PathBuf,
    pub resolver: Resolver,
    pub connector: Connector,
    pub fetcher: Fetcher,
    pub admission: Admission,
    /// The parents that our own requests go to: those that are goanyway itself are left out.
    pub parents: Parents,
    /// The proxy that this environment names, and who answers there.
    pub proxy: Option<Proxy>,
}

/// A proxy that the environment names for https.
#[derive(Clone, Debug)]
pub(super) struct Proxy {
    /// As it is written in the variable, without its user.
    pub address: String,
    pub user: Option<String>,
    pub listening: Listening,
    /// Its address, if it is written as one.
    pub at: Option<SocketAddr>,
}

impl Surroundings {
    pub(super) fn gather(settings: Settings, typed: Typed, runtime: Handle) -> Result<Surroundings, Failure> {
        let environment = env::current();
        let proxy = find_proxy(&environment);
        let registry = Registry::default();
        let state_dir = settings.state_dir.path.clone().filter(|path| path.is_dir());
        let resolver = Resolver::new(resolve::Config { state_dir, ..settings.resolve.clone() }, runtime, &registry)?;
        let mut connect = settings.connect.clone();
        let ours = Ours { listeners: settings.listen.clone(), names: settings.listen_names.clone() };
        let is_goanyway = |target: &Target| {
            let at = proxy.as_ref().filter(|proxy| matches!(proxy.listening, Listening::Serves(_)));
            // One elsewhere is a parent like any other.
            let here = at.and_then(|proxy| proxy.at).filter(|at| at.ip().is_loopback());
            here.is_some_and(|at| target == &Target::new(Host::Addr(at.ip()), at.port()))
        };
        connect.parents.without(|target| ours.lead_to_us(target) || is_goanyway(target));
        let parents = connect.parents.clone();
        let connector = way_out(connect, &resolver)?;
        let admission = admission(&settings.admit)?;
        let fetcher = Fetcher::new(&connector, &admission, &Idle::default());
        Ok(Surroundings {
            environment,
            typed,
            now: SystemTime::now(),
            root: PathBuf::from("/"),
            here: std::env::current_dir().unwrap_or_default(),
            resolver,
            connector,
            fetcher,
            admission,
            parents,
            proxy,
            settings,
        })
    }

    /// A variable, unless it is empty.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The same way out by another parent.
    pub(super) fn by_parent(&self, parents: Parents) -> Option<Fetcher> {
        let connector = way_out(connect::Config { parents, ..self.settings.connect.clone() }, &self.resolver).ok()?;
        Some(Fetcher::new(&connector, &self.admission, &Idle::default()))
    }

    /// The same way out trusting these roots as well.
    pub(super) fn trusting(&self, file: &Path) -> Option<Fetcher> {
        let mut extra_roots = self.settings.connect.extra_roots.clone();
        extra_roots.push(file.to_owned());
        let config = connect::Config { extra_roots, parents: self.parents.clone() };
        Some(Fetcher::new(&way_out(config, &self.resolver).ok()?, &self.admission, &Idle::default()))
    }

    /// The mirrors that `serve` would ask, those that were named or the built-in ones.
    pub(super) fn mirrors(&self) -> Vec<Base> {
        match &self.settings.goproxy.upstreams[..] {
            [] => goproxy::default_mirrors().into_iter().take(goproxy::ASKED).collect(),
            named => named.to_vec(),
        }
    }

    /// A mirror that is reached by name, for questions about names.
    pub(super) fn mirror_name(&self) -> Option<Name> {
        let names = |bases: Vec<Base>| bases.into_iter().find_map(|base| base.target.host.name().cloned());
        names(self.mirrors()).or_else(|| names(goproxy::default_mirrors()))
    }

    /// What makes this shell's settings those of the listener.
    pub(super) fn take_env(&self) -> Mend {
        let words = self.typed.again(FOR_ENV).iter().map(|word| format!(" {}", quote_sh(word))).collect::<String>();
        Mend::Type(format!("eval \"$(goanyway env{words})\""))
    }

    /// Whether what this environment's builds ask for goes through goanyway.
    pub(super) fn is_through_us(&self) -> bool {
        self.proxy.as_ref().is_some_and(|proxy| matches!(proxy.listening, Listening::Serves(_)))
    }
}

fn way_out(config: connect::Config, resolver: &Resolver) -> Result<Connector, Failure> {
    let connector = Connector::new(config, resolver.clone(), "goanyway-doctor", &Registry::default());
    connector.map_err(|error| Failure::Wanted(error.to_string()))
}

fn admission(rules: &admit::Config) -> Result<Admission, Failure> {
    // Who may use a listener is no concern of ours, and the file of users may not be ours to read.
    let rules = admit::Config { credentials: None, ..rules.clone() };
    Admission::new(rules, &Registry::default()).map_err(|error| Failure::Wanted(error.to_string()))
}

/// go takes the upper case first (x/net/http/httpproxy, FromEnvironment).
fn find_proxy(environment: &Environment) -> Option<Proxy> {
    let value = |name: &str| environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    let url = value("HTTPS_PROXY").or_else(|| value("https_proxy"))?;
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    let (user, address) = authority.rsplit_once('@').map_or((None, authority), |(user, at)| (Some(user), at));
    let user = user.map(|user| user.split(':').next().unwrap_or(user).to_owned());
    let at = address.replace("localhost", "127.0.0.1").parse().ok();
    let listening = at.map_or(Listening::Nobody, env::ask_listener);
    Some(Proxy { address: address.to_owned(), user, listening, at })
}

/// The settings that were typed as flags, so that a command that is named says them again.
#[derive(Clone, Debug, Default)]
pub(super) struct Typed {
    config: Option<String>,
    flags: HashMap<&'static str, Vec<String>>,
}

/// What the commands of ours that findings name take (`cli::command`).
pub(super) const FOR_CA: &[&str] = &["intercept", "state_dir"];
pub(super) const FOR_CACHE: &[&str] = &["cache", "goproxy.sumdb"];
const FOR_ENV: &[&str] = &["listen", "intercept", "state_dir"];

impl Typed {
    pub(super) fn of(matches: &ArgMatches) -> Typed {
        let config = matches.get_one::<PathBuf>("config").map(|path| path.display().to_string());
        Typed { config, flags: sources::flags(matches) }
    }

    /// The words to say again to a command that takes the settings under these keys.
    pub(super) fn again(&self, keys: &[&str]) -> Vec<String> {
        let config = self.config.iter().flat_map(|path| ["--config".to_owned(), path.clone()]);
        let concerned = ROWS.iter().filter(|row| keys.iter().any(|prefix| row.key.starts_with(prefix)));
        let values = concerned.filter_map(|row| Some((row.flag?, self.flags.get(row.key)?)));
        let flags =
            values.flat_map(|(flag, values)| values.iter().flat_map(move |value| [format!("--{flag}"), value.clone()]));
        config.chain(flags).collect()
    }

    /// Whether a key was typed as a flag, which beats any variable.
    pub(super) fn has(&self, key: &str) -> bool {
        self.flags.contains_key(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_said_again_to_the_commands_that_take_them() {
        let again = |words: &[&str], keys| {
            let line = ["goanyway", "doctor"].iter().chain(words);
            let matches = crate::cli::command().try_get_matches_from(line).unwrap();
            Typed::of(matches.subcommand().unwrap().1).again(keys).join(" ")
        };
        let words = ["--cache-dir", "/c", "--no-intercept", "--ca-dir", "/my certs", "--config", "/f"];
        assert_eq!(again(&words, FOR_CA), "--config /f --ca-dir /my certs --intercept-mode off");
        assert_eq!(again(&words, FOR_CACHE), "--config /f --cache-dir /c");
        assert_eq!(again(&[], FOR_ENV), "");
    }
}
