//! What go would hear: the questions of the go command put to the servers that it would ask.
//!
//! What a look-up's own ladder has asked already is not asked again; the names of the search list,
//! TCP where resolv.conf wants it, and this host where resolv.conf names nobody are asked for here,
//! of servers inside alone and at once. What to make of it is `go`'s.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::Tier;
use super::go::{self, Heard, Hearing, Heeded, Said, Settings};
use super::kind::Kind;
use super::ladder::{self, Ladder, Plan};
use super::plan::Start;
use super::reply::Family;
use super::server::{Server, Transport};
use super::shared::Shared;
use crate::socket;
use crate::target::Name;

/// Silence for less than this says nothing yet.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

/// One name, as go would ask for it here.
#[derive(Clone)]
pub(super) struct Ear {
    shared: Arc<Shared>,
    name: Name,
    settings: Settings,
    // Where a socket of go's to each server would be; none where there is no way to the server.
    own: HashMap<SocketAddr, SocketAddr>,
    // A question that may be asked in go's place; a zone's names are not told to the system's servers.
    may_ask: bool,
}

impl Ear {
    pub(super) async fn new(shared: &Arc<Shared>, name: &Name) -> Ear {
        let settings = read_settings(shared);
        let mut own = HashMap::new();
        for server in &settings.servers {
            if let Ok(address) = socket::udp_to(*server).await.and_then(|socket| socket.local_addr()) {
                own.insert(*server, address);
            }
        }
        // Servers that are all asked over something else than go's UDP say nothing about go.
        let is_known = shared.config.nameservers.iter().any(|one| matches!(one, Server::System | Server::Plain(_)));
        let may_ask = is_known && shared.written().rules.zone(name).is_none();
        Ear { shared: Arc::clone(shared), name: name.clone(), settings, own, may_ask }
    }

    /// What go would print, as far as can be told from this.
    pub(super) fn print(&self, hearings: &[Hearing]) -> String {
        go::would_print(&self.name, &self.settings, hearings, &self.own)
    }

    /// What go hears before it asks for the name as it stands.
    pub(super) async fn hear_first(&self) -> Vec<Hearing> {
        let names = self.settings.names(&self.name);
        let longer = names.iter().take_while(|name| *name != self.name.as_str());
        self.hear(longer).await
    }

    /// Whatever of go's questions was not asked yet.
    pub(super) async fn hear_the_rest(&self, hearings: &mut Vec<Hearing>) {
        let is_known = |name: &str| hearings.iter().any(|hearing| hearing.name == name && hearing.is_whole());
        let names = self.settings.names(&self.name);
        let rest: Vec<&String> = names.iter().filter(|name| !is_known(name)).collect();
        let heard = self.hear(rest.into_iter()).await;
        hearings.retain(|hearing| !heard.iter().any(|new| new.name == hearing.name));
        hearings.extend(heard);
    }

    async fn hear(&self, names: impl Iterator<Item = &String>) -> Vec<Hearing> {
        if !self.may_ask {
            return Vec::new();
        }
        let names = names.filter_map(|name| Name::parse(name).ok());
        let tasks = names.map(|name| self.shared.runtime.spawn(hear_one(self.clone(), name)));
        join_all(tasks).await.into_iter().filter_map(Result::ok).flatten().collect()
    }

    /// What the ladder heard, as go would have.
    pub(super) fn heed(&self, name: &Name, ladder: &Ladder) -> Option<Hearing> {
        let over = if self.settings.use_tcp { Transport::Tcp } else { Transport::Udp };
        let said = self.settings.servers.iter().map(|&server| Said {
            server,
            a: self.heed_one(server, over, Family::V4, ladder),
            aaaa: self.heed_one(server, over, Family::V6, ladder),
        });
        (*name == self.name || ladder.plan().exhaustive)
            .then(|| Hearing { name: name.to_string(), said: said.collect() })
    }

    fn heed_one(&self, server: SocketAddr, over: Transport, family: Family, ladder: &Ladder) -> Heard {
        let candidates = &ladder.plan().candidates;
        let is_theirs = |attempt: &&ladder::Attempt| {
            candidates[attempt.candidate].server == Server::Plain(server) && attempt.family == family
        };
        let theirs = ladder.attempts().iter().filter(is_theirs).skip_while(|attempt| attempt.transport != over);
        let theirs: Vec<&ladder::Attempt> = theirs.collect();
        let is_open = |attempt: &&ladder::Attempt| attempt.said.is_none() && attempt.asked_at.elapsed() < LONG_ENOUGH;
        if theirs.first().is_some_and(is_open) {
            return Heard::unknown();
        }
        let heeded = theirs.iter().map(|attempt| Heeded {
            transport: attempt.transport,
            reply: attempt.said.as_ref(),
            after: attempt.elapsed,
        });
        Heard::of(&heeded.collect::<Vec<_>>(), self.settings.timeout)
    }
}

async fn hear_one(ear: Ear, name: Name) -> Option<Hearing> {
    let (shared, now) = (&ear.shared, Instant::now());
    let servers: Vec<Server> = ear.settings.servers.iter().map(|server| Server::Plain(*server)).collect();
    let mut plan = Plan {
        families: Family::BOTH.to_vec(),
        candidates: shared.candidates(&servers, |_| Tier::System, &servers, (false, true), now),
        ..shared.plan_of_all(&name, Kind::Private, Start::Inside, now)
    };
    if ear.settings.use_tcp {
        plan.candidates.iter_mut().for_each(|candidate| candidate.transport = Transport::Tcp);
    }
    let ladder = shared.drive(&name, plan, |_, _| {}).await;
    ear.heed(&name, &ladder)
}

fn read_settings(shared: &Shared) -> Settings {
    let text = std::fs::read(shared.system.resolv_conf()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    // Where other servers were configured, those over UDP stand in for those of resolv.conf.
    let servers = match shared.config.nameservers.contains(&Server::System) {
        true => shared.system.current().resolv.servers.clone(),
        false => {
            let plain = shared.config.nameservers.iter().filter(|one| matches!(one, Server::Plain(_)));
            plain.filter_map(Server::address).collect()
        }
    };
    Settings::read(&text, servers, &hostname())
}

/// The name of this machine, whose domain is a search list where there is no other.
fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default()
}
