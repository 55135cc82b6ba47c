//! One look-up, however many ask: a ladder driven on the shared runtime, its result remembered and
//! handed to all who wait.
//!
//! Everything that the ladder must not do is done here: questions are sent, health is noted,
//! memory and metrics are fed. A flight goes on a second past its verdict, so that a server that
//! said nothing is known to have said nothing; those who wait have left by then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::Instant;

use super::counts::Rescue;
use super::kind::{self, Kind};
use super::ladder::{Action, Answer, Ask, Candidate, Ladder, Plan, Verdict};
use super::patience::Patience;
use super::plan::{Start, take_turns};
use super::reply::{Family, Outcome, Question, Reply};
use super::server::{Server, Transport};
use super::shared::{Shared, wall};
use super::{Failure, Found, Freshness, Source, Tier};
use crate::target::Name;
use crate::trace::{self, Id};

/// How long a flight listens past its verdict; who is silent until then was silent.
const LINGER: Duration = Duration::from_secs(1);
/// The same when a person wants to see what everybody says.
const LONG_LINGER: Duration = Duration::from_millis(2500);

/// The flights under way.
pub(super) type Flights = Mutex<HashMap<(Name, Start), watch::Receiver<Progress>>>;

/// What those who wait can see of a flight.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// An older answer, for those who would rather not wait.
    interim: Option<Found>,
    last: Option<Result<Found, Failure>>,
}

/// What somebody who asks gets: an answer that landed a moment ago, or a flight to wait for.
pub(super) enum Joined {
    Landed(Found),
    Flying(watch::Receiver<Progress>),
}

impl Shared {
    /// Joins the flight that is under way, or starts one.
    pub(super) fn join(self: &Arc<Self>, name: &Name, start: Start) -> Joined {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.clone(), start);
        if let Some(progress) = flights.get(&key) {
            return Joined::Flying(progress.clone());
        }
        // One may have landed since we looked: it left its answer before it left the map.
        if start == Start::Bottom
            && let Some(found) = self.memory.fresh(name, Instant::now())
        {
            return Joined::Landed(found);
        }
        Joined::Flying(self.take_off(&mut flights, key, trace::id()))
    }

    /// Looks a name up again whose answer is still fresh. Nobody waits for it.
    pub(super) fn renew(self: &Arc<Self>, name: &Name) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.clone(), Start::Bottom);
        if !flights.contains_key(&key) {
            self.take_off(&mut flights, key, None);
        }
    }

    fn take_off(
        self: &Arc<Self>,
        flights: &mut HashMap<(Name, Start), watch::Receiver<Progress>>,
        key: (Name, Start),
        cause: Option<Id>,
    ) -> watch::Receiver<Progress> {
        let (sender, progress) = watch::channel(Progress::default());
        flights.insert(key.clone(), progress.clone());
        let (name, start) = key;
        let flight = Flight { shared: Arc::clone(self), name, start, sender, cause };
        self.runtime.spawn(flight.run());
        progress
    }

    pub(super) fn is_flying(&self, name: &Name) -> bool {
        let flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.contains_key(&(name.clone(), Start::Bottom))
    }

    /// Drives a ladder to its end. `hand_on` is called with each verdict.
    pub(super) async fn drive(
        self: &Arc<Self>,
        name: &Name,
        plan: Plan,
        mut hand_on: impl FnMut(&Verdict, &Ladder),
    ) -> Ladder {
        let mut ladder = Ladder::new(plan, Instant::now());
        let mut open = FuturesUnordered::new();
        let (mut end, mut patience): (Option<Instant>, _) = (None, Patience::default());
        loop {
            while let Some(action) = ladder.poll() {
                match action {
                    Action::Ask(ask) => open.push(self.perform(name, ladder.plan(), ask)),
                    Action::Answer(verdict) => hand_on(&verdict, &ladder),
                }
            }
            let now = Instant::now();
            if ladder.verdict().is_some() && end.is_none() {
                end = Some(now + if ladder.plan().exhaustive { LONG_LINGER } else { LINGER });
                // Nobody is asked about a name that an answer has just shown to be the site's own.
                let is_given_away = ladder.plan().kind != Kind::Private && self.kind(name) == Kind::Private;
                let is_inward = matches!(ladder.verdict(), Some(Verdict::Found(answer)) if answer.inward);
                if ladder.plan().exhaustive && (is_inward || !is_given_away) {
                    ladder.ask_the_rest(now);
                    continue;
                }
            }
            // Somebody who wants to see all of it also waits for what could not be sent yet.
            if end.is_some() && open.is_empty() && ladder.deadline(now).is_none() {
                break;
            }
            let wake = [ladder.deadline(now), end].into_iter().flatten().min().unwrap_or(now + LINGER);
            let next = async {
                match open.next().await {
                    Some(heard) => heard,
                    None => std::future::pending().await,
                }
            };
            match patience.until(wake, next).await {
                Some((ask, reply)) => self.take_reply(name, &mut ladder, ask, reply),
                None if end.is_some_and(|end| Instant::now() >= end) => break,
                None => ladder.tick(Instant::now()),
            }
        }
        self.note_silence(&ladder);
        self.note_stragglers(name, &ladder);
        ladder
    }

    fn perform(&self, name: &Name, plan: &Plan, ask: Ask) -> impl Future<Output = (Ask, Reply)> + use<'_> {
        let Candidate { server, tier, .. } = plan.candidates[ask.candidate].clone();
        if plan.kind == Kind::Other && tier != Tier::System {
            self.say_once(name, &server);
        }
        let question = Question::new(name, ask.family, ask.edns);
        let manner = plan.candidates[ask.candidate].manner(ask.transport);
        async move {
            let reply = match question {
                Some(question) => self.wire.ask(&server, ask.transport, question, manner).await,
                None => Reply::failed(Outcome::NotAsked, "the name does not fit the wire"),
            };
            (ask, reply)
        }
    }

    fn say_once(&self, name: &Name, server: &Server) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.put(name.clone(), ()).is_none() {
            tracing::info!("{name} is asked outside, of {server}: the system servers did not find it");
        }
    }

    fn take_reply(self: &Arc<Self>, name: &Name, ladder: &mut Ladder, ask: Ask, reply: Reply) {
        let now = Instant::now();
        let candidate = &ladder.plan().candidates[ask.candidate];
        let elapsed = now - ladder.attempts()[ask.attempt].asked_at;
        self.health.observe(&candidate.server, ask.transport, reply.outcome, elapsed, now);
        let tier = candidate.tier;
        if tier == Tier::System {
            self.note_inward(name, &reply.addresses);
        }
        ladder.heard(ask.attempt, reply, now);
        // As the ladder judges it: an impossible address is bogus.
        let outcome = ladder.attempts()[ask.attempt].reply.as_ref().map_or(Outcome::Timeout, |reply| reply.outcome);
        self.counts.attempt(tier, ask.transport, outcome);
        self.note_quirks(ladder, ask, outcome, now);
        self.note_lie(name, ladder, ask, now);
    }

    /// What a reply shows about the server's ways.
    fn note_quirks(&self, ladder: &Ladder, ask: Ask, outcome: Outcome, now: Instant) {
        let server = &ladder.plan().candidates[ask.candidate].server;
        let is_trouble = matches!(outcome, Outcome::Formerr | Outcome::Notimp);
        if ask.edns && is_trouble || ladder.succeeds_without_edns(ask.attempt) {
            self.health.note_edns_trouble(server, now);
        }
        if ask.edns && (outcome == Outcome::Answer || outcome.is_negative()) {
            self.health.note_edns_fine(server);
        }
        if ladder.confirms_spelling(ask.attempt) {
            self.health.note_flattens(server, now);
        }
    }

    /// An impossible address, or two answers that differ, count against the server once a look-up, and
    /// over UDP against the way to it.
    fn note_lie(&self, name: &Name, ladder: &Ladder, ask: Ask, now: Instant) {
        let candidate = &ladder.plan().candidates[ask.candidate];
        if !ladder.is_first_lie(ask.attempt) {
            return;
        }
        self.health.note_lie(&candidate.server, kind::domain(name), 1, now);
        if candidate.tier == Tier::Plain && ask.transport == Transport::Udp {
            tracing::info!("{name}: what {} says over udp cannot be right: tcp for ten minutes", candidate.server);
            self.health.note_poison(&candidate.server, kind::domain(name), now);
        }
    }

    /// What came in after the verdict.
    fn note_stragglers(&self, name: &Name, ladder: &Ladder) {
        let now = Instant::now();
        let server = |slot: usize| &ladder.plan().candidates[slot].server;
        for slot in ladder.late_deniers() {
            self.health.note_lie(server(slot), kind::domain(name), 1, now);
        }
        for slot in ladder.v6_deniers() {
            self.health.note_denies_v6(server(slot), now);
        }
    }

    fn note_silence(&self, ladder: &Ladder) {
        let now = Instant::now();
        for attempt in ladder.attempts().iter().filter(|attempt| attempt.reply.is_none()) {
            let candidate = &ladder.plan().candidates[attempt.candidate];
            let elapsed = now - attempt.asked_at;
            self.health.observe(&candidate.server, attempt.transport, Outcome::Timeout, elapsed, now);
            self.counts.attempt(candidate.tier, attempt.transport, Outcome::Timeout);
        }
    }

    /// A ladder's answer, as those who wait get it.
    pub(super) fn found(&self, name: &Name, plan: &Plan, answer: &Answer) -> Found {
        let now = Instant::now();
        let candidate = &plan.candidates[answer.by];
        let mut addresses = take_turns(&answer.addresses);
        let good = self.keep.good(name, wall());
        addresses.sort_by_key(|address| !good.contains(address));
        self.memory.order(name, &mut addresses, now);
        Found {
            addresses,
            tier: candidate.tier,
            source: Some(Arc::new(Source { server: candidate.server.clone(), transport: answer.transport })),
            freshness: Freshness::Fresh,
            ttl: answer.ttl,
            unheard: answer.unheard,
            doubtful: answer.doubtful,
        }
    }

    /// A verdict without an address, in words.
    pub(super) fn failure(name: &Name, verdict: &Verdict, ladder: &Ladder) -> Failure {
        let name = name.clone();
        let server = |by: usize| ladder.plan().candidates[by].server.to_string();
        match verdict {
            Verdict::Absent { confirmed, last_word, by, .. } => {
                let deniers = ladder.attempts().iter().filter(|attempt| by.contains(&attempt.candidate));
                let exists =
                    deniers.filter_map(|attempt| attempt.reply.as_ref()).any(|reply| reply.outcome == Outcome::Nodata);
                let by = by.iter().map(|&by| server(by)).collect();
                Failure::Absent { name, confirmed: *confirmed, last_word: *last_word, exists, by }
            }
            Verdict::Blocked { by, ede } => Failure::Blocked { name, server: server(*by), why: ede.to_string() },
            Verdict::Found(_) | Verdict::Spare | Verdict::Unknown => {
                Failure::Unknown { name, tally: ladder.tally(Instant::now()) }
            }
        }
    }
}

/// One flight: the task that all who ask for a name wait for.
struct Flight {
    shared: Arc<Shared>,
    name: Name,
    start: Start,
    sender: watch::Sender<Progress>,
    /// The request that asked first, for the log; none where nobody waits, or a client asked us as a name server.
    cause: Option<Id>,
}

impl Flight {
    async fn run(self) {
        let shared = &self.shared;
        let kind = shared.kind(&self.name);
        let plan = shared.plan(&self.name, kind, self.start, Instant::now());
        let ladder = shared.drive(&self.name, plan, |verdict, ladder| self.hand_on(verdict, ladder)).await;
        self.keep_beside(&ladder);
    }

    /// Lays what other servers found beside the answer: more addresses to try, each as its server's word.
    fn keep_beside(&self, ladder: &Ladder) {
        let Flight { shared, name, .. } = self;
        let Some(Verdict::Found(answer)) = ladder.verdict() else { return };
        if self.start != Start::Bottom {
            return;
        }
        let found = |answer: &Answer| shared.found(name, ladder.plan(), answer);
        let beside = ladder.found_beside();
        let beside = beside.iter().map(found).filter(|found| !shared.is_strange(name, found.tier));
        let beside: Vec<Found> = beside.collect();
        if !beside.is_empty() {
            shared.memory.note_beside(name, &found(answer), beside);
        }
    }

    fn hand_on(&self, verdict: &Verdict, ladder: &Ladder) {
        let result = match (self.start, verdict) {
            (Start::Only(family), verdict) => self.take_side(family, verdict, ladder),
            (_, Verdict::Found(answer)) => Ok(self.take_answer(answer, ladder)),
            (_, Verdict::Spare) => self.take_spare(ladder),
            (_, Verdict::Absent { confirmed: true, .. }) if self.withstands() => self.take_spare(ladder),
            (_, verdict) => Err(self.take_failure(verdict, ladder)),
        };
        if ladder.verdict().is_none() {
            // An older answer for now; the flight goes on.
            self.sender.send_modify(|progress| progress.interim = result.ok());
            return;
        }
        self.shared.counts.ended(&result);
        self.land();
        self.sender.send_modify(|progress| progress.last = Some(result));
    }

    fn take_answer(&self, answer: &Answer, ladder: &Ladder) -> Found {
        let Flight { shared, name, .. } = self;
        let now = Instant::now();
        let found = shared.found(name, ladder.plan(), answer);
        if self.start == Start::Bottom && !answer.doubtful && !shared.is_strange(name, found.tier) {
            shared.memory.note_found(name, &found, now);
        }
        self.note_rescue(answer, &found, ladder);
        found
    }

    /// What was found out about one family alone, which the answer for both had said nothing about.
    fn take_side(&self, family: Family, verdict: &Verdict, ladder: &Ladder) -> Result<Found, Failure> {
        let Flight { shared, name, .. } = self;
        let now = Instant::now();
        if let Verdict::Found(answer) = verdict
            && !answer.doubtful
        {
            let found = shared.found(name, ladder.plan(), answer);
            shared.memory.complete(name, family, &found.addresses, Some(found.ttl), now);
            return Ok(found);
        }
        let failure = Shared::failure(name, verdict, ladder);
        match verdict {
            Verdict::Absent { ttl, .. } if failure.is_settled() => {
                shared.memory.complete(name, family, &[], *ttl, now);
            }
            _ => shared.memory.note_unheard(name, failure.clone(), now),
        }
        Err(failure)
    }

    fn note_rescue(&self, answer: &Answer, found: &Found, ladder: &Ladder) {
        let Flight { shared, name, start, .. } = self;
        let id = self.cause.map(tracing::field::display);
        let Some(source) = &found.source else { return };
        for &liar in &answer.overruled {
            let server = &ladder.plan().candidates[liar].server;
            let words = format!("{} found it over {}, which {server} had denied", source.server, source.transport);
            tracing::info!(id, "{name}: {words}");
            shared.counts.rescued(Rescue::Overruled, name, words);
            if !ladder.has_lied(liar) {
                shared.health.note_lie(server, kind::domain(name), 1, Instant::now());
            }
        }
        if found.tier > Tier::System && *start == Start::Bottom && answer.overruled.is_empty() {
            let words = format!("{} answered over {}, the system servers did not", source.server, source.transport);
            tracing::debug!(id, "{name}: {words}");
            shared.counts.rescued(Rescue::Fallback, name, words);
        }
    }

    /// Whether a handshake vouched for the name, and two operators have not denied it for long enough
    /// to be right about it: a lie on the path has both of them say so at once.
    fn withstands(&self) -> bool {
        let Flight { shared, name, start, .. } = self;
        let vouched = *start == Start::Bottom && !shared.keep.good(name, wall()).is_empty();
        let withstands = vouched && !shared.memory.note_check(name, Instant::now());
        if withstands {
            let words = "two operators denied it, and a handshake vouched for it not long ago";
            shared.counts.rescued(Rescue::Withstood, name, words);
        }
        withstands
    }

    fn take_spare(&self, ladder: &Ladder) -> Result<Found, Failure> {
        let Flight { shared, name, .. } = self;
        if ladder.verdict().is_some() {
            shared.memory.note_trouble(name, None, true, Instant::now());
        }
        let Some(spare) = shared.spare(name) else { return Err(Shared::failure(name, &Verdict::Unknown, ladder)) };
        if shared.memory.fresh(name, Instant::now()).is_some() {
            // It was to be renewed before its time, and nobody had to be served.
            return Ok(spare);
        }
        shared.counts.served(spare.freshness, name);
        let id = self.cause.map(tracing::field::display);
        tracing::info!(id, "{name}: no server gave an answer that counts; an older one serves");
        Ok(spare)
    }

    fn take_failure(&self, verdict: &Verdict, ladder: &Ladder) -> Failure {
        let Flight { shared, name, start, .. } = self;
        let now = Instant::now();
        let failure = Shared::failure(name, verdict, ladder);
        if *start != Start::Bottom {
            return failure;
        }
        match verdict {
            Verdict::Absent { confirmed, ttl, .. } => {
                let believed = *confirmed || ladder.plan().kind == Kind::Private;
                shared.memory.note_denial(name, failure.clone(), *ttl, believed, now);
            }
            Verdict::Blocked { .. } => shared.memory.note_denial(name, failure.clone(), None, true, now),
            _ => shared.memory.note_trouble(name, Some(failure.clone()), false, now),
        }
        failure
    }

    /// Leaves the map: who asks from now on finds the answer in memory.
    fn land(&self) {
        let mut flights = self.shared.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.remove(&(self.name.clone(), self.start));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        // Also when the task was cut short: a flight that nobody flies must not be waited for. One
        // of the same name that started meanwhile is another's.
        if self.sender.borrow().last.is_none() {
            self.land();
        }
    }
}

/// Waits for a flight: for its last word, or where any age will do, for an older answer too.
pub(super) async fn wait(
    mut progress: watch::Receiver<Progress>,
    name: &Name,
    any_age: bool,
) -> Result<Found, Failure> {
    let done = |progress: &Progress| progress.last.is_some() || any_age && progress.interim.is_some();
    let unknown = || Failure::Unknown { name: name.clone(), tally: Default::default() };
    let Ok(progress) = progress.wait_for(done).await else { return Err(unknown()) };
    let interim = || progress.interim.clone().map(Ok);
    progress.last.clone().or_else(interim).unwrap_or_else(|| Err(unknown()))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::path::Path;

    use hickory_proto::op::{Message, MessageType, ResponseCode};
    use hickory_proto::rr::{RData, Record, RecordType};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream, UdpSocket};
    use tokio::runtime::Handle;
    use tokio::task::JoinSet;

    use super::super::explain::{Inquiry, explain};
    use super::super::memory::Recall;
    use super::super::reply::Family;
    use super::*;
    use crate::metrics::Registry;
    use crate::resolve::Config;
    use crate::resolve::ladder::Marks;

    // The vocabulary.

    type Script = fn(Message, Transport) -> Vec<Message>;

    /// A name server that does as scripted, over UDP and TCP.
    struct Peer {
        server: Server,
        _serving: JoinSet<std::io::Result<()>>,
    }

    impl Peer {
        async fn start(script: Script) -> Peer {
            let (udp, tcp) = bind_both().await;
            let address = udp.local_addr().unwrap();
            let mut serving = JoinSet::new();
            serving.spawn(async move {
                let mut packet = vec![0; 4096];
                loop {
                    let (length, from) = udp.recv_from(&mut packet).await?;
                    for reply in script(read(&packet[..length])?, Transport::Udp) {
                        udp.send_to(&reply.to_vec().map_err(std::io::Error::other)?, from).await?;
                    }
                }
            });
            serving.spawn(async move {
                let mut streams = JoinSet::new();
                loop {
                    let (stream, _) = tcp.accept().await?;
                    streams.spawn(serve(stream, script));
                }
            });
            Peer { server: Server::Plain(address), _serving: serving }
        }
    }

    /// One port of both kinds; that it is free of one kind says nothing about the other.
    async fn bind_both() -> (UdpSocket, TcpListener) {
        for _ in 0..100 {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                return (udp, tcp);
            }
        }
        panic!("no port is free of both kinds")
    }

    async fn serve(mut stream: TcpStream, script: Script) -> std::io::Result<()> {
        loop {
            let mut packet = vec![0; stream.read_u16().await?.into()];
            stream.read_exact(&mut packet).await?;
            for reply in script(read(&packet)?, Transport::Tcp) {
                let reply = reply.to_vec().map_err(std::io::Error::other)?;
                stream.write_u16(reply.len() as u16).await?;
                stream.write_all(&reply).await?;
            }
        }
    }

    fn read(packet: &[u8]) -> std::io::Result<Message> {
        let mut message = Message::from_vec(packet).map_err(std::io::Error::other)?;
        message.metadata.message_type = MessageType::Response;
        message.metadata.recursion_available = true;
        Ok(message)
    }

    /// This address to A, nothing to AAAA.
    fn saying(mut asked: Message, address: &str) -> Message {
        let owner = asked.queries[0].name.clone();
        if let (IpAddr::V4(address), RecordType::A) = (address.parse().unwrap(), asked.queries[0].query_type) {
            asked.add_answer(Record::from_rdata(owner, 60, RData::A(address.into())));
        }
        asked
    }

    fn coded(mut asked: Message, code: ResponseCode) -> Vec<Message> {
        asked.metadata.response_code = code;
        vec![asked]
    }

    fn denies(asked: Message, _: Transport) -> Vec<Message> {
        coded(asked, ResponseCode::NXDomain)
    }

    fn fails(asked: Message, _: Transport) -> Vec<Message> {
        coded(asked, ResponseCode::Refused)
    }

    /// A resolver with a system server and a public one.
    fn between(system: &Peer, public: &Peer) -> Arc<Shared> {
        among(&[system], &[public])
    }

    fn among(system: &[&Peer], public: &[&Peer]) -> Arc<Shared> {
        let servers = |peers: &[&Peer]| peers.iter().map(|peer| peer.server.clone()).collect();
        let nowhere = Path::new("/nonexistent");
        let config = Config {
            nameservers: servers(system),
            fallback: servers(public),
            resolv_conf: nowhere.join("resolv.conf"),
            hosts_file: nowhere.join("hosts"),
            ..Config::default()
        };
        Arc::new(Shared::new(config, Handle::current(), &Registry::default()).unwrap())
    }

    /// Two system servers, asked at the same time: all are, where all are known to be down.
    fn raced(one: &Peer, other: &Peer) -> Arc<Shared> {
        let shared = among(&[one, other], &[]);
        for server in [&one.server, &other.server] {
            for _ in 0..2 {
                shared.health.observe(server, Transport::Udp, Outcome::Unreachable, Duration::ZERO, Instant::now());
            }
        }
        shared
    }

    /// Of so many letters that some are raised in any random spelling.
    fn name() -> Name {
        Name::parse("a-name-of-very-many-letters.goproxy.cn").unwrap()
    }

    /// A whole flight, to its very end.
    async fn fly(shared: &Arc<Shared>) -> Result<Found, Failure> {
        let (sender, progress) = watch::channel(Progress::default());
        let flight = Flight { shared: Arc::clone(shared), name: name(), start: Start::Bottom, sender, cause: None };
        flight.run().await;
        let landed = progress.borrow().last.clone();
        landed.expect("a flight that ends has landed")
    }

    fn marks(shared: &Shared, peer: &Peer) -> (Marks, Transport) {
        let plan = shared.plan(&name(), shared.kind(&name()), Start::Bottom, Instant::now());
        let theirs = plan.candidates.iter().find(|candidate| candidate.server == peer.server).unwrap();
        (theirs.marks, theirs.transport)
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    // The sentences.

    #[tokio::test]
    async fn a_server_that_spells_names_its_own_way_is_asked_over_tcp_once_and_then_in_plain_spelling() {
        let lowers: Script = |mut asked, _| {
            asked.queries[0].name = asked.queries[0].name.to_lowercase();
            vec![saying(asked, "1.1.1.9")]
        };
        let (system, public) = (Peer::start(fails).await, Peer::start(lowers).await);
        let shared = between(&system, &public);
        for expected in [Transport::Tcp, Transport::Udp] {
            assert_eq!(fly(&shared).await.unwrap().source.unwrap().transport, expected);
            assert!(marks(&shared, &public).0.flattens);
        }
        assert_eq!(marks(&shared, &public).1, Transport::Udp, "nobody on the path did that");
    }

    #[tokio::test]
    async fn a_forged_answer_is_found_out_and_udp_is_left_alone_from_then_on() {
        let injected: Script = |asked, over| match over {
            Transport::Udp => vec![saying(asked.clone(), "1.1.1.66"), saying(asked, "1.1.1.9")],
            _ => vec![saying(asked, "1.1.1.9")],
        };
        let (system, public) = (Peer::start(fails).await, Peer::start(injected).await);
        let shared = between(&system, &public);
        let found = fly(&shared).await.unwrap();
        assert_eq!((found.addresses, found.source.unwrap().transport), (ips(&["1.1.1.9"]), Transport::Tcp));
        let (after, transport) = marks(&shared, &public);
        assert!(after.poisoned && transport == Transport::Tcp, "{after:?}");
    }

    #[tokio::test]
    async fn an_impossible_address_counts_against_the_server_and_the_way_to_it() {
        let sinkhole: Script = |asked, _| vec![saying(asked, "0.0.0.0")];
        let (system, public) = (Peer::start(sinkhole).await, Peer::start(sinkhole).await);
        let shared = between(&system, &public);
        for _ in 0..2 {
            assert!(fly(&shared).await.is_err());
            assert!(!marks(&shared, &system).0.liar);
        }
        assert!(fly(&shared).await.is_err());
        assert!(marks(&shared, &system).0.liar && marks(&shared, &public).0.liar);
        assert!(marks(&shared, &public).0.poisoned && !marks(&shared, &system).0.poisoned);
    }

    #[tokio::test]
    async fn a_server_that_fails_over_edns_is_asked_without() {
        let chokes: Script = |asked, _| match asked.edns {
            Some(_) => coded(asked, ResponseCode::ServFail),
            None => vec![saying(asked, "1.1.1.9")],
        };
        let (system, public) = (Peer::start(chokes).await, Peer::start(denies).await);
        let shared = between(&system, &public);
        assert_eq!(fly(&shared).await.unwrap().addresses, ips(&["1.1.1.9"]));
        assert!(!shared.health.takes_edns(&system.server, Instant::now()));
        let fails: Script = |asked, _| coded(asked, ResponseCode::ServFail);
        let (system, public) = (Peer::start(fails).await, Peer::start(fails).await);
        let shared = between(&system, &public);
        assert!(fly(&shared).await.is_err());
        assert!(shared.health.takes_edns(&system.server, Instant::now()), "edns had nothing to do with it");
    }

    #[tokio::test]
    async fn what_a_handshake_vouched_for_withstands_two_operators_until_they_insist() {
        let (system, public) = (Peer::start(denies).await, Peer::start(denies).await);
        let shared = between(&system, &public);
        shared.keep.note_good(&name(), "1.1.1.9".parse().unwrap(), wall());
        let found = fly(&shared).await.unwrap();
        assert_eq!((found.addresses, found.freshness), (ips(&["1.1.1.9"]), Freshness::LastKnownGood));
        let recall = shared.memory.recall(&name(), Instant::now(), || true);
        assert!(matches!(recall, Recall::Troubled { due: false, .. }), "the next check has its time: {recall:?}");
        // As if ten minutes had passed.
        let shared = between(&system, &public);
        shared.keep.note_good(&name(), "1.1.1.9".parse().unwrap(), wall());
        let check = |ago: u64| shared.memory.note_check(&name(), Instant::now() - Duration::from_secs(ago));
        assert!(!check(601) && !check(300));
        assert!(matches!(fly(&shared).await, Err(Failure::Absent { confirmed: true, .. })));
    }

    /// The tool said "absent, confirmed" while the proxy beside it went on serving the name.
    #[tokio::test]
    async fn an_explanation_says_both_that_a_name_is_denied_and_that_it_is_served() {
        let (system, public) = (Peer::start(denies).await, Peer::start(denies).await);
        let shared = between(&system, &public);
        let (name, inquiry) = (name(), Inquiry::default());
        assert!(!explain(&shared, &name, &inquiry).await.reason.contains("serving"));
        shared.keep.note_good(&name, "1.1.1.9".parse().unwrap(), wall());
        let explained = explain(&shared, &name, &inquiry).await;
        assert_eq!((explained.verdict, explained.confirmed), ("absent", true));
        assert!(explained.reason.contains("goes on serving 1.1.1.9"), "{}", explained.reason);
    }

    /// Somebody who asked for IPv6 addresses alone was told to replace a name server that had none to give.
    #[tokio::test]
    async fn a_name_without_addresses_of_the_family_asked_for_needs_no_advice() {
        let answers: Script = |asked, _| vec![saying(asked, "1.1.1.9")];
        let (system, public) = (Peer::start(answers).await, Peer::start(answers).await);
        let shared = between(&system, &public);
        let inquiry = Inquiry { families: vec![Family::V6], ..Inquiry::default() };
        let explained = explain(&shared, &name(), &inquiry).await;
        assert_eq!(explained.verdict, "absent");
        assert_eq!(explained.advice, "nothing to do: the name has addresses of the other family (1.1.1.9)");
    }

    /// Sixty names at once are more than we ask of one public server in a second; whoever looked them up was told
    /// to raise the limit of open files, and a part of the table was never asked for.
    #[tokio::test]
    async fn what_is_too_much_at_once_is_asked_a_little_later_and_is_no_want_of_descriptors() {
        let answers: Script = |asked, _| vec![saying(asked, "1.1.1.9")];
        let (system, public) = (Peer::start(denies).await, Peer::start(answers).await);
        let shared = between(&system, &public);
        let names: Vec<Name> = (0..30).map(|n| Name::parse(&format!("m{n}.goproxy.cn")).unwrap()).collect();
        let inquiry = Inquiry::default();
        let explained = futures_util::future::join_all(names.iter().map(|name| explain(&shared, name, &inquiry)));
        for explanation in explained.await {
            assert_eq!(explanation.verdict, "resolved");
            let unsent = explanation.attempts.iter().filter(|attempt| attempt.outcome == Outcome::Local).count();
            assert_eq!(unsent, 0, "{}: {}", explanation.name, explanation.advice);
        }
    }

    #[tokio::test]
    async fn a_name_that_nobody_vouched_for_is_absent_when_two_operators_say_so() {
        let (system, public) = (Peer::start(denies).await, Peer::start(denies).await);
        let denied = fly(&between(&system, &public)).await;
        assert!(matches!(denied, Err(Failure::Absent { confirmed: true, .. })), "{denied:?}");
    }

    #[tokio::test]
    async fn a_private_address_makes_a_name_private_also_when_another_was_quicker() {
        let (public, private): (Script, Script) =
            (|asked, _| vec![saying(asked, "1.1.1.7")], |asked, _| vec![saying(asked, "10.0.0.1")]);
        let (one, other) = (Peer::start(public).await, Peer::start(private).await);
        let shared = raced(&one, &other);
        let (sender, _) = watch::channel(Progress::default());
        let name = Name::parse("git.corp.example.com").unwrap();
        assert_eq!(shared.kind(&name), Kind::Other);
        Flight { shared: Arc::clone(&shared), name: name.clone(), start: Start::Bottom, sender, cause: None }
            .run()
            .await;
        assert_eq!(shared.kind(&name), Kind::Private);
    }

    #[tokio::test]
    async fn what_the_slower_one_of_two_found_lies_beside_the_answer() {
        let (seven, eight): (Script, Script) =
            (|asked, _| vec![saying(asked, "1.1.1.7")], |asked, _| vec![saying(asked, "1.1.1.8")]);
        let (one, other) = (Peer::start(seven).await, Peer::start(eight).await);
        let shared = raced(&one, &other);
        fly(&shared).await.unwrap();
        let mut told = shared.memory.told(&name(), Instant::now());
        told.sort_by_key(|found| found.addresses.clone());
        let told = told.iter().map(|found| (&found.source.as_ref().unwrap().server, &found.addresses));
        let expected = [(&one.server, &ips(&["1.1.1.7"])), (&other.server, &ips(&["1.1.1.8"]))];
        assert_eq!(told.collect::<Vec<_>>(), expected, "each as its own word");
    }
}
