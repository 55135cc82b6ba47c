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
//! an address that no public name can have is a denial that never counts, and the denial of a known
//! liar needs two others. A server that is silent over UDP, or whose UDP answers are forged on the
//! way, is asked over TCP; one that fails with EDNS is asked once without. Whatever happens, it ends
//! by [`QUERY_CAP`].
//!
//! In here is what comes in and what goes out; `climb` says who is asked next, `verdict` what the
//! words come to, `lessons` what is learnt beside, `nouns` what all of it is called.

mod climb;
mod lessons;
mod nouns;
mod verdict;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

pub(super) use nouns::{Action, Answer, Ask, Attempt, Candidate, Manner, Marks, Operator, Plan, Verdict};

use verdict::Standing;

use super::Tier;
use super::kind::Kind;
use super::reply::{Ede, Family, Outcome, Reply};
use super::server::Transport;
use crate::target::Scope;

/// A silent UDP server is asked over TCP too.
pub(super) const TCP_AFTER: Duration = Duration::from_millis(600);
/// From the second server on, one wave after the other.
pub(super) const HEDGE: Duration = Duration::from_millis(250);
/// How long the system servers may be silent about a name that is not known to be public.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);
/// How long a denial waits for a second operator.
const CONFIRM: Duration = Duration::from_millis(1500);
/// How long a denial that nobody can confirm waits for the other servers of the system.
const RIVALS: Duration = Duration::from_millis(500);
/// What the other family gets once one has answered (RFC 8305 section 3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// When a stale answer is better than waiting on: whoever asked has it within 1.2 s, with the way there and back.
const CLIENT_RESPONSE: Duration = Duration::from_millis(1150);
/// How long one that failed with EDNS may take without.
const SECOND_TRY: Duration = Duration::from_millis(300);
/// When every look-up has ended.
pub(super) const QUERY_CAP: Duration = Duration::from_millis(3000);
/// The first pause after a failure of our own (no file descriptors); doubled each time.
const LOCAL_PAUSE: Duration = Duration::from_millis(10);

/// One look-up under way.
pub(super) struct Ladder {
    plan: Plan,
    started: Instant,
    slots: Vec<Slot>,
    attempts: Vec<Attempt>,
    actions: VecDeque<Action>,
    retries: Vec<(Instant, Ask)>,
    local_pause: Duration,
    next_wave: usize,
    next_hedge: Instant,
    urgent_starts: usize,
    rival_since: Option<Instant>,
    responded: bool,
    verdict: Option<Verdict>,
    decided_at: Instant,
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
    /// When the other transport of the server is tried too.
    rescue_at: Option<Instant>,
}

impl Cell {
    /// Until when one that failed is given for being asked again in another way.
    fn second_try(&self) -> Option<Instant> {
        let asked_again = matches!(self.state, State::Failed(_)) && self.open > 0;
        asked_again.then(|| self.heard_at + SECOND_TRY)
    }
}

#[derive(Clone, Debug)]
enum State {
    Waiting,
    Positive {
        addresses: Vec<IpAddr>,
        ttl: Duration,
        transport: Transport,
        inward: bool,
    },
    Negative {
        outcome: Outcome,
        ttl: Option<Duration>,
    },
    Bogus {
        addresses: Vec<IpAddr>,
        transport: Transport,
    },
    /// By a system server's policy.
    Blocked(Ede),
    Failed(Outcome),
}

impl Ladder {
    pub(super) fn new(mut plan: Plan, now: Instant) -> Ladder {
        if plan.kind == Kind::Private {
            // No plan has others; if one ever does, they are not told.
            plan.candidates.retain(|candidate| candidate.tier == Tier::System);
        }
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
            decided_at: now,
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
        if self.verdict.is_some() && !self.plan.exhaustive {
            return;
        }
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
        let second_tries = self.cells().filter_map(Cell::second_try);
        retries.chain(rescues).chain(second_tries).chain(graces).chain(ends).chain(denials).filter(|at| *at > now).min()
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
        if reply.ede.as_ref().is_some_and(Ede::is_policy) && !reply.respelt {
            return Reply { outcome: Outcome::Blocked, addresses: Vec::new(), ..reply };
        }
        if reply.outcome != Outcome::Answer || self.plan.kind == Kind::Private {
            return reply;
        }
        let kept: Vec<IpAddr> = reply.addresses.iter().copied().filter(|address| self.is_open(*address)).collect();
        let inward = reply.addresses.iter().any(|address| Scope::of(*address) == Scope::Private);
        if !kept.is_empty() {
            reply.addresses = kept;
        } else if tier == Tier::System && self.plan.kind.may_turn_private() && inward {
            reply.addresses.retain(|address| Scope::of(*address) == Scope::Private);
        } else {
            reply.outcome = Outcome::Bogus;
        }
        reply
    }

    fn is_open(&self, address: IpAddr) -> bool {
        Scope::of(address).is_global() || self.plan.allow.iter().any(|net| net.contains(&address))
    }

    fn take_in(&mut self, ask: Ask, reply: Reply, now: Instant) {
        let family = self.family_index(ask.family);
        let marks = self.plan.candidates[ask.candidate].marks;
        let cell = &mut self.slots[ask.candidate].cells[family];
        cell.open = cell.open.saturating_sub(1);
        if !matches!(cell.state, State::Waiting | State::Failed(_)) {
            return;
        }
        if let Some(transport) = self.detour(&ask, reply.outcome) {
            return self.ask(Ask { transport, ..ask }, now);
        }
        let over_tcp = Ask { transport: Transport::Tcp, ..ask };
        match reply.outcome {
            Outcome::Formerr | Outcome::Notimp if ask.edns => self.ask_without_edns(ask, now),
            Outcome::Servfail if ask.edns && !marks.edns_proven => {
                // Most often it is about something else, so nobody waits for the second try.
                let cell = &mut self.slots[ask.candidate].cells[family];
                (cell.state, cell.heard_at) = (State::Failed(Outcome::Servfail), now);
                self.ask_without_edns(ask, now);
            }
            Outcome::Truncated | Outcome::Forged if ask.transport == Transport::Udp && !self.was_asked(&over_tcp) => {
                self.ask(over_tcp, now);
            }
            Outcome::Local => self.retry_later(ask, now),
            outcome => self.close_cell(ask, family, outcome, reply, now),
        }
    }

    fn close_cell(&mut self, ask: Ask, family: usize, outcome: Outcome, reply: Reply, now: Instant) {
        let global = |addresses: &[IpAddr]| addresses.iter().all(|address| Scope::of(*address).is_global());
        let inside = self.plan.candidates[ask.candidate].tier == Tier::System;
        let inward = inside && self.plan.kind.may_turn_private() && !global(&reply.addresses);
        let cell = &mut self.slots[ask.candidate].cells[family];
        let state = match (outcome, reply.ede) {
            (Outcome::Answer, _) => State::Positive {
                addresses: reply.addresses,
                ttl: reply.ttl.unwrap_or_default(),
                transport: ask.transport,
                inward,
            },
            (Outcome::Nxdomain | Outcome::Nodata, _) => State::Negative { outcome, ttl: reply.ttl },
            (Outcome::Bogus, _) => State::Bogus { addresses: reply.addresses, transport: ask.transport },
            (Outcome::Blocked, Some(ede)) if inside => State::Blocked(ede),
            // The same question is still open over another transport.
            _ if cell.open > 0 => return,
            (failure, _) => State::Failed(failure),
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
        self.send(Ask { attempt, ..ask }, now);
    }

    /// The same question again, which never left because of us.
    fn ask_again(&mut self, ask: Ask, now: Instant) {
        let record = &mut self.attempts[ask.attempt];
        (record.asked_at, record.reply, record.said) = (now, None, None);
        self.send(ask, now);
    }

    fn send(&mut self, ask: Ask, now: Instant) {
        let index = self.family_index(ask.family);
        let rescue_at = self.other_way(&ask).map(|_| now + TCP_AFTER);
        let cell = &mut self.slots[ask.candidate].cells[index];
        cell.open += 1;
        cell.rescue_at = rescue_at;
        self.actions.push_back(Action::Ask(ask));
    }

    fn ask_without_edns(&mut self, ask: Ask, now: Instant) {
        self.slots[ask.candidate].edns = false;
        self.ask(Ask { edns: false, ..ask }, now);
    }

    /// The transport that a silent server is tried over next: TCP after UDP, and UDP where TCP came
    /// first because the path is poisoned, or because UDP was dead.
    fn other_way(&self, ask: &Ask) -> Option<Transport> {
        let Candidate { server, marks, .. } = &self.plan.candidates[ask.candidate];
        let both = server.transport() == Transport::Udp;
        let transport = match ask.transport {
            Transport::Udp => Transport::Tcp,
            Transport::Tcp if both && (marks.poisoned || marks.udp_dead) => Transport::Udp,
            _ => return None,
        };
        (!self.was_asked(&Ask { transport, ..*ask })).then_some(transport)
    }

    /// The same for one that cannot be reached: a refusal over UDP is the host's, one over TCP may
    /// be a filter's.
    fn detour(&self, ask: &Ask, outcome: Outcome) -> Option<Transport> {
        let is_dead_end = matches!(outcome, Outcome::Unreachable | Outcome::Timeout);
        self.other_way(ask).filter(|&transport| is_dead_end && transport == Transport::Udp)
    }

    fn was_asked(&self, ask: &Ask) -> bool {
        let Ask { candidate, transport, family, .. } = *ask;
        let same = |attempt: &Attempt| {
            (attempt.candidate, attempt.transport, attempt.family) == (candidate, transport, family)
        };
        self.attempts.iter().any(same)
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
            self.ask_again(ask, now);
        }
    }

    fn send_rescues(&mut self, now: Instant) {
        for candidate in 0..self.slots.len() {
            for index in 0..self.plan.families.len() {
                let cell = &mut self.slots[candidate].cells[index];
                if matches!(cell.state, State::Waiting) && cell.rescue_at.is_some_and(|at| at <= now) {
                    cell.rescue_at = None;
                    self.rescue(candidate, self.plan.families[index], now);
                }
            }
        }
    }

    fn rescue(&mut self, candidate: usize, family: Family, now: Instant) {
        let theirs = |attempt: &&Attempt| attempt.candidate == candidate && attempt.family == family;
        let Some(last) = self.attempts.iter().rev().find(theirs) else { return };
        let ask = Ask { attempt: 0, candidate, transport: last.transport, family, edns: self.slots[candidate].edns };
        if let Some(transport) = self.other_way(&ask) {
            self.ask(Ask { transport, ..ask }, now);
        }
    }

    // What it comes to.

    fn settle(&mut self, now: Instant) {
        if self.verdict.is_some() {
            return;
        }
        if let Some(answer) = self.answer(now) {
            return self.finish(Verdict::Found(answer), now);
        }
        if let Some(verdict) = self.block(now) {
            return self.finish(verdict, now);
        }
        if self.any(now, Standing::Positive) {
            return;
        }
        self.climb(now);
        self.note_rivals(now);
        if let Some(verdict) = self.denial(now) {
            return self.finish(verdict, now);
        }
        let exhausted = self.wave_to_come().is_none() && !self.anything_open(now);
        if exhausted || now >= self.started + QUERY_CAP {
            let verdict = self.second_best(now);
            return self.finish(verdict, now);
        }
        if self.plan.spare && !self.responded && now >= self.started + CLIENT_RESPONSE {
            self.responded = true;
            self.actions.push_back(Action::Answer(Verdict::Spare));
        }
    }

    fn finish(&mut self, verdict: Verdict, now: Instant) {
        if self.verdict.is_some() {
            return;
        }
        self.actions.push_back(Action::Answer(verdict.clone()));
        self.verdict = Some(verdict);
        self.decided_at = now;
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
}

#[cfg(test)]
mod tests;
