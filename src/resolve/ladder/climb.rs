//! Who is asked next, and when: wave by wave, by hedge, by setback, and outside only where that may be.

use tokio::time::Instant;

use super::verdict::Standing;
use super::{Ask, Candidate, Cell, HEDGE, Ladder, PATIENCE, State};
use crate::resolve::Tier;

impl Ladder {
    /// Starts as many waves as are due.
    pub(super) fn climb(&mut self, now: Instant) {
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

    pub(super) fn wave_to_come(&self) -> Option<usize> {
        self.plan.candidates.iter().map(|candidate| candidate.wave).filter(|&wave| wave >= self.next_wave).min()
    }

    pub(super) fn start_wave(&mut self, wave: usize, now: Instant) {
        let members = (0..self.slots.len()).filter(|&slot| self.plan.candidates[slot].wave == wave).collect::<Vec<_>>();
        for candidate in members {
            self.start(candidate, now);
        }
        let first = self.next_wave == 0;
        self.next_wave = wave + 1;
        self.next_hedge = now + if first { self.plan.hedge } else { HEDGE };
    }

    pub(super) fn start(&mut self, candidate: usize, now: Instant) {
        self.slots[candidate].started = true;
        let Candidate { transport, edns, .. } = self.plan.candidates[candidate];
        for family in self.plan.families.clone() {
            self.ask(Ask { attempt: 0, candidate, transport, family, edns }, now);
        }
    }

    pub(super) fn is_outside(&self, wave: usize) -> bool {
        self.plan.candidates.iter().any(|candidate| candidate.wave == wave && candidate.tier != Tier::System)
    }

    pub(super) fn regular(&self) -> impl Iterator<Item = usize> {
        (0..self.slots.len()).filter(|&slot| !self.plan.candidates[slot].trial)
    }

    pub(super) fn may_go_outside(&self, now: Instant) -> bool {
        self.plan.kind.is_known() || now >= self.started + PATIENCE || self.system_is_through(now)
    }

    pub(super) fn system_is_through(&self, now: Instant) -> bool {
        self.regular()
            .filter(|&slot| self.plan.candidates[slot].tier == Tier::System)
            .all(|slot| !matches!(self.standing(slot, now), Standing::Idle | Standing::Waiting))
    }

    /// Servers that did not do: each brings the next one on at once.
    pub(super) fn setbacks(&self, now: Instant) -> usize {
        use Standing::*;
        self.regular().filter(|&slot| matches!(self.standing(slot, now), Negative | Bogus | Failed)).count()
    }

    pub(super) fn anything_open(&self, now: Instant) -> bool {
        !self.retries.is_empty() || self.regular().any(|slot| self.is_open_slot(slot, now))
    }

    pub(super) fn is_open_slot(&self, slot: usize, now: Instant) -> bool {
        let is_open = |cell: &Cell| match cell.state {
            State::Failed(_) => cell.second_try().is_some_and(|end| now < end),
            _ => cell.open > 0,
        };
        self.standing(slot, now) == Standing::Waiting || self.slots[slot].cells.iter().any(is_open)
    }

    /// Whether somebody denied and nobody of another operator is being asked.
    pub(super) fn rival_is_missing(&self, now: Instant) -> bool {
        let denier = self.with(now, Standing::Negative).chain(self.with(now, Standing::Bogus)).next();
        let Some(denier) = denier else { return false };
        let operator = self.plan.candidates[denier].operator;
        !self.regular().any(|slot| {
            self.plan.candidates[slot].operator != operator && self.standing(slot, now) == Standing::Waiting
        })
    }

    pub(super) fn note_rivals(&mut self, now: Instant) {
        let Some(&denier) = self.deniers(now).first() else { return };
        let operator = self.plan.candidates[denier].operator;
        let asked = (0..self.slots.len())
            .any(|slot| self.slots[slot].started && self.plan.candidates[slot].operator != operator);
        if asked && self.rival_since.is_none() {
            self.rival_since = Some(now);
        }
    }
}
