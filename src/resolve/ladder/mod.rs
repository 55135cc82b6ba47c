//! The ladder: one look-up of one name, both families, as a state machine that never awaits.
//!
//! Events and `now` go in ([`Ladder::heard`], [`Ladder::tick`]), actions come out
//! ([`Ladder::poll`]): ask this server, hand this verdict on. `flight` performs them.
//!
//! The algorithm. Servers are asked in waves: the system's one by one, then the public ones, plain
//! and encrypted side by side. The next wave starts when its hedge is due, at once when a server
//! failed or denied, but for a name that is not known to be public only after every system server
//! failed or denied, or [`PATIENCE`] passed. An address ends the look-up; the other family gets
//! [`RESOLUTION_DELAY`] more. A denial of a public name counts when a second operator repeats it;
//! an address that no public name can have is a denial that never counts. A server that is silent
//! over UDP is asked over TCP. Whatever happens, it ends by [`QUERY_CAP`].

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use super::kind::Kind;
use super::reply::{Ede, Family, Outcome, Reply};
use super::server::{Server, Transport};
use super::{Tally, Tier};
use crate::target::Scope;

/// A silent UDP server is asked over TCP too.
const TCP_AFTER: Duration = Duration::from_millis(600);
/// From the second server on, one wave after the other.
const HEDGE: Duration = Duration::from_millis(250);
/// How long the system servers may be silent about a name that is not known to be public.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long a denial waits for a second operator.
const CONFIRM: Duration = Duration::from_millis(1500);
/// How long a denial that nobody can confirm waits for the other servers of the system.
const RIVALS: Duration = Duration::from_millis(500);
/// What the other family gets once one has answered (RFC 8305 section 3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// When a stale answer is better than waiting on.
const CLIENT_RESPONSE: Duration = Duration::from_millis(1200);
/// When every look-up has ended.
pub(super) const QUERY_CAP: Duration = Duration::from_millis(3000);
/// The first pause after a failure of our own (no file descriptors); doubled each time.
const LOCAL_PAUSE: Duration = Duration::from_millis(10);

/// Who runs a server: two denials count only if they come from two of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Operator {
    System,
    Service(&'static str),
    Own(SocketAddr),
}

/// A server as this look-up sees it.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub server: Server,
    pub tier: Tier,
    pub operator: Operator,
    /// Servers of one wave are asked together.
    pub wave: usize,
    /// The transport to begin with: TCP where UDP is known to be dead.
    pub transport: Transport,
    pub edns: bool,
    /// Known to be down; asked because all are.
    pub down: bool,
    /// Known to be down; asked beside the others to find out whether it still is.
    pub trial: bool,
}

/// Whom to ask about a name, and what to know about it beforehand.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub kind: Kind,
    pub families: Vec<Family>,
    /// Sorted by wave.
    pub candidates: Vec<Candidate>,
    /// When the second server is asked: twice what the first usually takes, 50 to 150 ms.
    pub hedge: Duration,
    /// Whether an older answer is at hand.
    pub spare: bool,
    /// Networks that are as good as public ones here.
    pub allow: Vec<IpNet>,
    /// Ask everybody once the verdict stands, so that a person sees what each says.
    pub exhaustive: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Ask(Ask),
    /// Hand this on to whoever waits. Only [`Verdict::Spare`] may be followed by another.
    Answer(Verdict),
}

/// One question to one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub attempt: usize,
    pub candidate: usize,
    pub transport: Transport,
    pub family: Family,
    pub edns: bool,
}

/// What a look-up comes to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    Found(Answer),
    /// Use the older answer. Before the end it means: for now.
    Spare,
    Absent {
        confirmed: bool,
        /// Nobody else may be asked, so this word is final.
        last_word: bool,
        ttl: Option<Duration>,
        by: Vec<usize>,
    },
    Blocked {
        by: usize,
        ede: Ede,
    },
    Unknown,
}

/// The addresses, and whose word they are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub by: usize,
    pub transport: Transport,
    pub addresses: Vec<IpAddr>,
    pub ttl: Duration,
    /// A system server gave an address of the site's own: the name is private.
    pub inward: bool,
    /// Not believed, but all there is.
    pub doubtful: bool,
    /// Servers whose denial, or whose impossible address, this overrules.
    pub overruled: Vec<usize>,
}

/// One question that was asked, for the trace.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub candidate: usize,
    pub transport: Transport,
    pub family: Family,
    pub asked_at: Instant,
    pub reply: Option<Reply>,
    /// What the server said before it was judged; go would take it at its word.
    pub said: Option<Reply>,
    pub elapsed: Duration,
    edns: bool,
}

/// One look-up under way.
pub(super) struct Ladder {
    plan: Plan,
    started: Instant,
    slots: Vec<Slot>,
    attempts: Vec<Attempt>,
    actions: std::collections::VecDeque<Action>,
    retries: Vec<(Instant, Ask)>,
    local_pause: Duration,
    next_wave: usize,
    next_hedge: Instant,
    urgent_starts: usize,
    rival_since: Option<Instant>,
    responded: bool,
    verdict: Option<Verdict>,
}

/// What one server has said so far, a cell a family.
struct Slot {
    started: bool,
    edns: bool,
    cells: Vec<Cell>,
}

struct Cell {
    state: State,
    open: usize,
    heard_at: Instant,
    rescue_at: Option<Instant>,
}

#[derive(Clone, Debug)]
enum State {
    Waiting,
    Positive { addresses: Vec<IpAddr>, ttl: Duration, transport: Transport, inward: bool },
    Negative { outcome: Outcome, ttl: Option<Duration> },
    Bogus { addresses: Vec<IpAddr>, transport: Transport },
    Failed(Outcome),
}

/// What a server's word amounts to at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Idle,
    Waiting,
    Positive,
    Negative,
    Bogus,
    Failed,
}

impl Ladder {
    pub(super) fn new(plan: Plan, now: Instant) -> Ladder {
        let cell = || Cell { state: State::Waiting, open: 0, heard_at: now, rescue_at: None };
        let slots = plan.candidates.iter().map(|candidate| Slot {
            started: false,
            edns: candidate.edns,
            cells: plan.families.iter().map(|_| cell()).collect(),
        });
        let mut ladder = Ladder {
            slots: slots.collect(),
            plan,
            started: now,
            attempts: Vec::new(),
            actions: Default::default(),
            retries: Vec::new(),
            local_pause: LOCAL_PAUSE,
            next_wave: 0,
            next_hedge: now,
            urgent_starts: 0,
            rival_since: None,
            responded: false,
            verdict: None,
        };
        ladder.settle(now);
        ladder
    }

    /// The next thing to do.
    pub(super) fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A server's reply, or what became of the attempt instead.
    pub(super) fn heard(&mut self, attempt: usize, reply: Reply, now: Instant) {
        let Attempt { candidate, transport, family, asked_at, edns, .. } = self.attempts[attempt];
        self.attempts[attempt].said = Some(reply.clone());
        let reply = self.judge_addresses(candidate, reply);
        let record = &mut self.attempts[attempt];
        record.elapsed = now - asked_at;
        record.reply = Some(reply.clone());
        if self.verdict.is_some() && !self.plan.exhaustive {
            return;
        }
        let ask = Ask { attempt, candidate, transport, family, edns };
        self.take_in(ask, reply, now);
        self.tick(now);
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) {
        self.send_retries(now);
        self.send_rescues(now);
        self.settle(now);
    }

    /// When to call [`Ladder::tick`], if nothing is heard before.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let retries = self.retries.iter().map(|(at, _)| *at);
        let rescues = self.cells().filter_map(|cell| cell.rescue_at);
        if self.verdict.is_some() {
            return if self.plan.exhaustive { retries.chain(rescues).filter(|at| *at > now).min() } else { None };
        }
        let graces = self.cells().map(|cell| cell.heard_at + RESOLUTION_DELAY);
        let ends = [self.started + QUERY_CAP, self.started + CLIENT_RESPONSE, self.started + PATIENCE, self.next_hedge];
        let negative = self.negative_since();
        let denials = [negative.map(|since| since + RIVALS), self.confirm_by()].into_iter().flatten();
        retries.chain(rescues).chain(graces).chain(ends).chain(denials).filter(|at| *at > now).min()
    }

    /// The last word, once there is one.
    pub(super) fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Everything that was asked, in order.
    pub(super) fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// What the servers that were asked came to, one word each; one that said nothing timed out.
    pub(super) fn tally(&self, now: Instant) -> Tally {
        let asked = (0..self.slots.len()).filter(|&slot| self.slots[slot].started && !self.plan.candidates[slot].trial);
        let mut tally = Tally::default();
        for slot in asked {
            let outcome = match self.standing(slot, now) {
                Standing::Positive => Outcome::Answer,
                Standing::Bogus => Outcome::Bogus,
                Standing::Idle | Standing::Waiting => Outcome::Timeout,
                Standing::Negative | Standing::Failed => self.worst_word(slot),
            };
            tally.add(outcome);
        }
        tally
    }

    fn worst_word(&self, slot: usize) -> Outcome {
        let words = self.slots[slot].cells.iter().filter_map(|cell| match &cell.state {
            State::Negative { outcome, .. } | State::Failed(outcome) => Some(*outcome),
            _ => None,
        });
        words.min().unwrap_or(Outcome::Timeout)
    }

    fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.slots.iter().flat_map(|slot| &slot.cells)
    }

    fn family_index(&self, family: Family) -> usize {
        self.plan.families.iter().position(|&asked| asked == family).unwrap_or(0)
    }

    // What came in.

    /// Addresses that a public name cannot have are taken out; a reply with no other is bogus.
    fn judge_addresses(&self, candidate: usize, mut reply: Reply) -> Reply {
        let tier = self.plan.candidates[candidate].tier;
        if reply.ede.as_ref().is_some_and(Ede::is_policy) {
            return Reply { outcome: Outcome::Blocked, addresses: Vec::new(), ..reply };
        }
        if reply.outcome != Outcome::Answer || self.plan.kind == Kind::Private {
            return reply;
        }
        let kept: Vec<IpAddr> = reply.addresses.iter().copied().filter(|address| self.is_open(*address)).collect();
        let inward = reply.addresses.iter().any(|address| Scope::of(*address) == Scope::Private);
        if !kept.is_empty() {
            reply.addresses = kept;
        } else if !(tier == Tier::System && self.plan.kind.may_turn_private() && inward) {
            reply.outcome = Outcome::Bogus;
        }
        reply
    }

    fn is_open(&self, address: IpAddr) -> bool {
        Scope::of(address).is_global() || self.plan.allow.iter().any(|net| net.contains(&address))
    }

    fn take_in(&mut self, ask: Ask, reply: Reply, now: Instant) {
        let family = self.family_index(ask.family);
        let tier = self.plan.candidates[ask.candidate].tier;
        let slot = &mut self.slots[ask.candidate];
        slot.cells[family].open = slot.cells[family].open.saturating_sub(1);
        if !matches!(slot.cells[family].state, State::Waiting | State::Failed(_)) {
            return;
        }
        let plain = ask.transport == Transport::Udp;
        match reply.outcome {
            Outcome::Blocked if tier == Tier::System => {
                if let Some(ede) = reply.ede {
                    self.finish(Verdict::Blocked { by: ask.candidate, ede });
                }
            }
            Outcome::Formerr | Outcome::Notimp if ask.edns && slot.edns => {
                slot.edns = false;
                self.ask(Ask { edns: false, ..ask }, now);
            }
            Outcome::Formerr | Outcome::Notimp if ask.edns => self.ask(Ask { edns: false, ..ask }, now),
            Outcome::Truncated | Outcome::Forged if plain => self.ask(Ask { transport: Transport::Tcp, ..ask }, now),
            Outcome::Local => self.retry_later(ask, now),
            outcome => self.close_cell(ask, family, outcome, reply, now),
        }
    }

    fn close_cell(&mut self, ask: Ask, family: usize, outcome: Outcome, reply: Reply, now: Instant) {
        let global = |addresses: &[IpAddr]| addresses.iter().all(|address| Scope::of(*address).is_global());
        let inward = self.plan.candidates[ask.candidate].tier == Tier::System
            && self.plan.kind.may_turn_private()
            && !global(&reply.addresses);
        let cell = &mut self.slots[ask.candidate].cells[family];
        let state = match outcome {
            Outcome::Answer => State::Positive {
                addresses: reply.addresses,
                ttl: reply.ttl.unwrap_or_default(),
                transport: ask.transport,
                inward,
            },
            Outcome::Nxdomain | Outcome::Nodata => State::Negative { outcome, ttl: reply.ttl },
            Outcome::Bogus => State::Bogus { addresses: reply.addresses, transport: ask.transport },
            // The same question is still open over another transport.
            _ if cell.open > 0 => return,
            failure => State::Failed(failure),
        };
        *cell = Cell { state, open: cell.open, heard_at: now, rescue_at: None };
    }

    // What goes out.

    fn ask(&mut self, ask: Ask, now: Instant) {
        let attempt = self.attempts.len();
        let Ask { candidate, transport, family, edns, .. } = ask;
        self.attempts.push(Attempt {
            candidate,
            transport,
            family,
            asked_at: now,
            reply: None,
            said: None,
            elapsed: Duration::ZERO,
            edns,
        });
        let index = self.family_index(family);
        let cell = &mut self.slots[candidate].cells[index];
        cell.open += 1;
        cell.rescue_at = (transport == Transport::Udp).then_some(now + TCP_AFTER);
        self.actions.push_back(Action::Ask(Ask { attempt, ..ask }));
    }

    fn retry_later(&mut self, ask: Ask, now: Instant) {
        self.retries.push((now + self.local_pause, ask));
    }

    fn send_retries(&mut self, now: Instant) {
        let due = |(at, _): &mut (Instant, Ask)| *at <= now;
        let due = self.retries.extract_if(.., due).collect::<Vec<_>>();
        if !due.is_empty() {
            self.local_pause *= 2;
        }
        for (_, ask) in due {
            self.ask(ask, now);
        }
    }

    fn send_rescues(&mut self, now: Instant) {
        for candidate in 0..self.slots.len() {
            for index in 0..self.plan.families.len() {
                let slot = &mut self.slots[candidate];
                let cell = &mut slot.cells[index];
                let due = matches!(cell.state, State::Waiting) && cell.rescue_at.is_some_and(|at| at <= now);
                if due {
                    cell.rescue_at = None;
                    let (family, edns) = (self.plan.families[index], slot.edns);
                    self.ask(Ask { attempt: 0, candidate, transport: Transport::Tcp, family, edns }, now);
                }
            }
        }
    }

    fn start_wave(&mut self, wave: usize, now: Instant) {
        let members = (0..self.slots.len()).filter(|&slot| self.plan.candidates[slot].wave == wave).collect::<Vec<_>>();
        for candidate in members {
            self.start(candidate, now);
        }
        let first = self.next_wave == 0;
        self.next_wave = wave + 1;
        self.next_hedge = now + if first { self.plan.hedge } else { HEDGE };
    }

    fn start(&mut self, candidate: usize, now: Instant) {
        self.slots[candidate].started = true;
        let Candidate { transport, edns, .. } = self.plan.candidates[candidate];
        for family in self.plan.families.clone() {
            self.ask(Ask { attempt: 0, candidate, transport, family, edns }, now);
        }
    }

    // What it comes to.

    fn settle(&mut self, now: Instant) {
        if self.verdict.is_some() {
            return;
        }
        if let Some(answer) = self.answer(now) {
            return self.finish(Verdict::Found(answer));
        }
        if self.any(now, Standing::Positive) {
            return;
        }
        self.climb(now);
        self.note_rivals(now);
        if let Some(verdict) = self.denial(now) {
            return self.finish(verdict);
        }
        let exhausted = self.wave_to_come().is_none() && !self.anything_open(now);
        if exhausted || now >= self.started + QUERY_CAP {
            let verdict = self.second_best(now);
            return self.finish(verdict);
        }
        if self.plan.spare && !self.responded && now >= self.started + CLIENT_RESPONSE {
            self.responded = true;
            self.actions.push_back(Action::Answer(Verdict::Spare));
        }
    }

    fn finish(&mut self, verdict: Verdict) {
        if self.verdict.is_some() {
            return;
        }
        self.actions.push_back(Action::Answer(verdict.clone()));
        self.verdict = Some(verdict);
    }

    /// Asks whoever has not been asked, after the verdict, for a full table. A name that turned out
    /// to be private, or blocked, is not taken outside for that.
    pub(super) fn ask_the_rest(&mut self, now: Instant) {
        let stays = match &self.verdict {
            Some(Verdict::Found(answer)) => answer.inward,
            Some(Verdict::Blocked { .. }) => true,
            _ => false,
        };
        for candidate in 0..self.slots.len() {
            let may = !stays || self.plan.candidates[candidate].tier == Tier::System;
            if may && !self.slots[candidate].started {
                self.start(candidate, now);
            }
        }
    }

    fn standing(&self, slot: usize, now: Instant) -> Standing {
        let Slot { started, cells, .. } = &self.slots[slot];
        if !started {
            return Standing::Idle;
        }
        let any = |wanted: fn(&State) -> bool| cells.iter().any(|cell| wanted(&cell.state));
        let waiting = any(|state| matches!(state, State::Waiting));
        let denied = cells.iter().find(|cell| matches!(cell.state, State::Negative { outcome: Outcome::Nxdomain, .. }));
        if any(|state| matches!(state, State::Positive { .. })) {
            return Standing::Positive;
        }
        if any(|state| matches!(state, State::Bogus { .. })) && !waiting {
            return Standing::Bogus;
        }
        if denied.is_some_and(|cell| !waiting || now >= cell.heard_at + RESOLUTION_DELAY) {
            return Standing::Negative;
        }
        let failed = cells.iter().find(|cell| matches!(cell.state, State::Failed(_)));
        match failed {
            // A server that chokes on AAAA alone is common, and no reason to go on to the next.
            Some(cell) if !waiting || now >= cell.heard_at + RESOLUTION_DELAY => Standing::Failed,
            _ if waiting => Standing::Waiting,
            _ => Standing::Negative,
        }
    }

    fn with(&self, now: Instant, standing: Standing) -> impl Iterator<Item = usize> {
        (0..self.slots.len()).filter(move |&slot| self.standing(slot, now) == standing)
    }

    fn any(&self, now: Instant, standing: Standing) -> bool {
        self.with(now, standing).next().is_some()
    }

    /// The answer, once both families are in or the second had its time.
    fn answer(&self, now: Instant) -> Option<Answer> {
        let heard = |slot: usize| {
            let positive = self.slots[slot].cells.iter().filter(|cell| matches!(cell.state, State::Positive { .. }));
            positive.map(|cell| cell.heard_at).min()
        };
        let by = self.with(now, Standing::Positive).min_by_key(|&slot| heard(slot))?;
        let cells = &self.slots[by].cells;
        let complete = cells.iter().all(|cell| !matches!(cell.state, State::Waiting));
        let waited = heard(by).is_some_and(|at| now >= at + RESOLUTION_DELAY || now >= self.started + QUERY_CAP);
        (complete || waited).then(|| self.compose(by, now))
    }

    fn compose(&self, by: usize, now: Instant) -> Answer {
        let mut answer = Answer {
            by,
            transport: self.plan.candidates[by].transport,
            addresses: Vec::new(),
            ttl: Duration::MAX,
            inward: false,
            doubtful: false,
            overruled: self.with(now, Standing::Negative).chain(self.with(now, Standing::Bogus)).collect(),
        };
        for cell in &self.slots[by].cells {
            if let State::Positive { addresses, ttl, transport, inward } = &cell.state {
                answer.addresses.extend(addresses);
                answer.ttl = answer.ttl.min(*ttl);
                answer.inward |= inward;
                answer.transport = *transport;
            }
        }
        answer
    }

    /// Starts as many waves as are due.
    fn climb(&mut self, now: Instant) {
        while let Some(wave) = self.wave_to_come() {
            let outside = self.is_outside(wave);
            if outside && !self.may_go_outside(now) {
                return;
            }
            let setbacks = self.setbacks(now);
            let denied = self.any(now, Standing::Negative) || self.any(now, Standing::Bogus);
            let urgent = setbacks > self.urgent_starts
                || !self.anything_open(now)
                || denied && (!outside || self.rival_is_missing(now));
            if !urgent && now < self.next_hedge {
                return;
            }
            if setbacks > self.urgent_starts {
                self.urgent_starts += 1;
            }
            self.start_wave(wave, now);
        }
    }

    fn wave_to_come(&self) -> Option<usize> {
        self.plan.candidates.iter().map(|candidate| candidate.wave).filter(|&wave| wave >= self.next_wave).min()
    }

    fn is_outside(&self, wave: usize) -> bool {
        self.plan.candidates.iter().any(|candidate| candidate.wave == wave && candidate.tier != Tier::System)
    }

    fn regular(&self) -> impl Iterator<Item = usize> {
        (0..self.slots.len()).filter(|&slot| !self.plan.candidates[slot].trial)
    }

    fn may_go_outside(&self, now: Instant) -> bool {
        self.plan.kind.is_known() || now >= self.started + PATIENCE || self.system_is_through(now)
    }

    fn system_is_through(&self, now: Instant) -> bool {
        self.regular()
            .filter(|&slot| self.plan.candidates[slot].tier == Tier::System)
            .all(|slot| !matches!(self.standing(slot, now), Standing::Idle | Standing::Waiting))
    }

    /// Servers that did not do: each brings the next one on at once.
    fn setbacks(&self, now: Instant) -> usize {
        use Standing::*;
        self.regular().filter(|&slot| matches!(self.standing(slot, now), Negative | Bogus | Failed)).count()
    }

    fn anything_open(&self, now: Instant) -> bool {
        !self.retries.is_empty() || self.regular().any(|slot| self.is_open_slot(slot, now))
    }

    fn is_open_slot(&self, slot: usize, now: Instant) -> bool {
        self.standing(slot, now) == Standing::Waiting || self.slots[slot].cells.iter().any(|cell| cell.open > 0)
    }

    /// Whether somebody denied and nobody of another operator is being asked.
    fn rival_is_missing(&self, now: Instant) -> bool {
        let denier = self.with(now, Standing::Negative).chain(self.with(now, Standing::Bogus)).next();
        let Some(denier) = denier else { return false };
        let operator = self.plan.candidates[denier].operator;
        !self.regular().any(|slot| {
            self.plan.candidates[slot].operator != operator && self.standing(slot, now) == Standing::Waiting
        })
    }

    fn deniers(&self, now: Instant) -> Vec<usize> {
        self.with(now, Standing::Negative).collect()
    }

    fn note_rivals(&mut self, now: Instant) {
        let Some(&denier) = self.deniers(now).first() else { return };
        let operator = self.plan.candidates[denier].operator;
        let asked = (0..self.slots.len())
            .any(|slot| self.slots[slot].started && self.plan.candidates[slot].operator != operator);
        if asked && self.rival_since.is_none() {
            self.rival_since = Some(now);
        }
    }

    fn negative_since(&self) -> Option<Instant> {
        let negative = |cell: &&Cell| matches!(cell.state, State::Negative { .. });
        self.cells().filter(negative).map(|cell| cell.heard_at).min()
    }

    fn confirm_by(&self) -> Option<Instant> {
        Some(self.negative_since()?.max(self.rival_since?) + CONFIRM)
    }

    /// Whether the denials so far are the last word.
    fn denial(&self, now: Instant) -> Option<Verdict> {
        let by = self.deniers(now);
        let (&first, since) = (by.first()?, self.negative_since()?);
        let operator = |slot: usize| self.plan.candidates[slot].operator;
        if self.plan.kind != Kind::Private && by.iter().any(|&slot| operator(slot) != operator(first)) {
            return Some(Verdict::Absent { confirmed: true, last_word: true, ttl: self.denial_ttl(&by), by });
        }
        let others =
            |candidate: &Candidate| !candidate.down && !candidate.trial && candidate.operator != operator(first);
        let confirmable = self.plan.kind != Kind::Private && self.plan.candidates.iter().any(others);
        if !confirmable && (self.system_is_through(now) || now >= since + RIVALS) {
            let final_word = Verdict::Absent { confirmed: false, last_word: true, ttl: self.denial_ttl(&by), by };
            return Some(if self.prefers_spare() { Verdict::Spare } else { final_word });
        }
        self.confirm_by().is_some_and(|at| now >= at).then(|| self.second_best(now))
    }

    fn denial_ttl(&self, by: &[usize]) -> Option<Duration> {
        let cells = by.iter().flat_map(|&slot| &self.slots[slot].cells);
        cells.filter_map(|cell| if let State::Negative { ttl, .. } = &cell.state { *ttl } else { None }).min()
    }

    /// An older answer beats a denial that nobody repeats, but a private name's servers know best.
    fn prefers_spare(&self) -> bool {
        self.plan.spare && self.plan.kind != Kind::Private
    }

    /// The verdict when no server has given a good one.
    fn second_best(&self, now: Instant) -> Verdict {
        if self.prefers_spare() {
            return Verdict::Spare;
        }
        if let Some(answer) = self.doubtful_answer() {
            return Verdict::Found(answer);
        }
        let by = self.deniers(now);
        if !by.is_empty() {
            return Verdict::Absent { confirmed: false, last_word: false, ttl: self.denial_ttl(&by), by };
        }
        if self.plan.spare { Verdict::Spare } else { Verdict::Unknown }
    }

    /// A private address that a system server gave for a name that is public: a lie, or a site that
    /// serves its own mirror under the public name. TLS judges.
    fn doubtful_answer(&self) -> Option<Answer> {
        let inside = self.regular().filter(|&slot| self.plan.candidates[slot].tier == Tier::System);
        let private = |addresses: &[IpAddr]| {
            let of_site = addresses.iter().copied().filter(|address| Scope::of(*address) == Scope::Private);
            of_site.collect::<Vec<_>>()
        };
        let mut heard = inside.flat_map(|slot| self.slots[slot].cells.iter().map(move |cell| (slot, cell)));
        heard.find_map(|(by, cell)| match &cell.state {
            State::Bogus { addresses, transport } if !private(addresses).is_empty() => Some(Answer {
                by,
                transport: *transport,
                addresses: private(addresses),
                ttl: Duration::ZERO,
                inward: false,
                doubtful: true,
                overruled: Vec::new(),
            }),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests;
