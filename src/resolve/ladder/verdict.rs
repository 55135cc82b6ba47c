//! What the servers' words come to: an answer, a denial that counts, or one that does not.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::{
    Answer, Attempt, CONFIRM, Candidate, Cell, Ladder, QUERY_CAP, RESOLUTION_DELAY, RIVALS, Slot, State, Verdict,
};
use crate::resolve::kind::Kind;
use crate::resolve::reply::{Family, Outcome};
use crate::resolve::{Tally, Tier};
use crate::target::Scope;

/// What a server's word amounts to at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Idle,
    Waiting,
    Positive,
    Negative,
    Bogus,
    Blocked,
    Failed,
}

impl Ladder {
    /// What the servers that were asked came to, one word each; one that said nothing timed out.
    pub fn tally(&self, now: Instant) -> Tally {
        let asked = (0..self.slots.len()).filter(|&slot| self.slots[slot].started && !self.plan.candidates[slot].trial);
        let mut tally = Tally::default();
        for slot in asked {
            let outcome = match self.standing(slot, now) {
                Standing::Positive => Outcome::Answer,
                Standing::Bogus => Outcome::Bogus,
                Standing::Blocked => Outcome::Blocked,
                Standing::Idle | Standing::Waiting => self.silent_word(slot),
                Standing::Negative | Standing::Failed => self.worst_word(slot),
            };
            tally.add(outcome);
        }
        tally
    }

    /// Silence, unless it was we who never asked.
    fn silent_word(&self, slot: usize) -> Outcome {
        let mut theirs = self.attempts.iter().filter(|attempt| attempt.candidate == slot).peekable();
        let is_ours = |attempt: &Attempt| attempt.reply.as_ref().is_some_and(|reply| reply.outcome == Outcome::Local);
        if theirs.peek().is_some() && theirs.all(is_ours) { Outcome::Local } else { Outcome::Timeout }
    }

    fn worst_word(&self, slot: usize) -> Outcome {
        let words = self.slots[slot].cells.iter().filter_map(|cell| match &cell.state {
            State::Negative { outcome, .. } | State::Failed(outcome) => Some(*outcome),
            _ => None,
        });
        words.min().unwrap_or(Outcome::Timeout)
    }

    pub(super) fn standing(&self, slot: usize, now: Instant) -> Standing {
        let Slot { started, cells, .. } = &self.slots[slot];
        if !started {
            return Standing::Idle;
        }
        let any = |wanted: fn(&State) -> bool| cells.iter().any(|cell| wanted(&cell.state));
        let waiting = any(|state| matches!(state, State::Waiting));
        let is_nxdomain = |cell: &Cell| matches!(cell.state, State::Negative { outcome: Outcome::Nxdomain, .. });
        let says_so_of_v6 = |family: &Family| *family == Family::V6 && self.plan.candidates[slot].marks.denies_v6;
        // What is known to deny one family of everything is believed once the other is in.
        let denied = cells
            .iter()
            .zip(&self.plan.families)
            .find(|(cell, family)| is_nxdomain(cell) && !(waiting && says_so_of_v6(family)))
            .map(|(cell, _)| cell);
        if any(|state| matches!(state, State::Positive { .. })) {
            return Standing::Positive;
        }
        // Where one family is filtered (dnsmasq says so of AAAA with a policy's code), the other may be had.
        let block = cells.iter().find(|cell| matches!(cell.state, State::Blocked(_)));
        if block.is_some_and(|cell| !waiting || now >= cell.heard_at + RESOLUTION_DELAY) {
            return Standing::Blocked;
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

    pub(super) fn with(&self, now: Instant, standing: Standing) -> impl Iterator<Item = usize> {
        (0..self.slots.len()).filter(move |&slot| self.standing(slot, now) == standing)
    }

    pub(super) fn any(&self, now: Instant, standing: Standing) -> bool {
        self.with(now, standing).next().is_some()
    }

    /// The answer, once both families are in or the second had its time: the quickest, but that of the site
    /// where it shows that the name is the site's own.
    pub(super) fn answer(&self, now: Instant) -> Option<Answer> {
        let heard = |slot: usize| {
            let positive = self.slots[slot].cells.iter().filter(|cell| matches!(cell.state, State::Positive { .. }));
            positive.map(|cell| cell.heard_at).min()
        };
        let is_inward = |slot: usize| {
            self.slots[slot].cells.iter().any(|cell| matches!(cell.state, State::Positive { inward: true, .. }))
        };
        let by = self.with(now, Standing::Positive).min_by_key(|&slot| (!is_inward(slot), heard(slot)))?;
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
            unheard: self.unheard(by),
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

    /// A system server's policy, which is final.
    pub(super) fn block(&self, now: Instant) -> Option<Verdict> {
        let by = self.with(now, Standing::Blocked).next()?;
        let ede = self.slots[by].cells.iter().find_map(|cell| match &cell.state {
            State::Blocked(ede) => Some(ede.clone()),
            _ => None,
        })?;
        Some(Verdict::Blocked { by, ede })
    }

    /// Whether the denials so far are the last word.
    pub(super) fn denial(&self, now: Instant) -> Option<Verdict> {
        let by = self.deniers(now);
        let (&first, since) = (by.first()?, self.negative_since()?);
        let operator = |slot: usize| self.plan.candidates[slot].operator;
        if self.plan.kind != Kind::Private && self.is_quorum(&by) {
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

    /// Whether a second operator repeats it, or two more where one of them is a known liar.
    fn is_quorum(&self, deniers: &[usize]) -> bool {
        let operators = |honest_alone: bool| {
            let counted = deniers.iter().map(|&slot| &self.plan.candidates[slot]);
            let counted = counted.filter(|candidate| !(honest_alone && candidate.marks.liar));
            counted.map(|candidate| candidate.operator).collect::<HashSet<_>>().len()
        };
        operators(true) >= 2 || operators(false) >= 3
    }

    fn denial_ttl(&self, by: &[usize]) -> Option<Duration> {
        let cells = by.iter().flat_map(|&slot| &self.slots[slot].cells);
        cells.filter_map(|cell| if let State::Negative { ttl, .. } = &cell.state { *ttl } else { None }).min()
    }

    pub(super) fn deniers(&self, now: Instant) -> Vec<usize> {
        self.with(now, Standing::Negative).collect()
    }

    pub(super) fn negative_since(&self) -> Option<Instant> {
        let negative = |cell: &&Cell| matches!(cell.state, State::Negative { .. });
        self.cells().filter(negative).map(|cell| cell.heard_at).min()
    }

    pub(super) fn confirm_by(&self) -> Option<Instant> {
        Some(self.negative_since()?.max(self.rival_since?) + CONFIRM)
    }

    /// An older answer beats a denial that nobody repeats, but a private name's servers know best.
    pub(super) fn prefers_spare(&self) -> bool {
        self.plan.spare && self.plan.kind != Kind::Private
    }

    /// The verdict when no server has given a good one.
    pub(super) fn second_best(&self, now: Instant) -> Verdict {
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
                unheard: None,
                inward: false,
                doubtful: true,
                overruled: Vec::new(),
            }),
            _ => None,
        })
    }
}
