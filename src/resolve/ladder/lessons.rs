//! What a look-up teaches beside its verdict: who lied, who has which quirk, and what the stragglers
//! found. Read off the attempts; nothing is decided here.

use std::net::IpAddr;
use std::time::Duration;

use super::{Answer, Attempt, Ladder, Verdict};
use crate::resolve::kind::Kind;
use crate::resolve::reply::{Family, Outcome, Reply};

/// How long after an answer what others found is still taken in.
const STRAGGLERS: Duration = Duration::from_millis(300);

impl Ladder {
    /// Whether the server showed an impossible address, or another one was shown in its name.
    pub fn has_lied(&self, slot: usize) -> bool {
        self.replies_of(slot).any(|(_, reply)| is_lie(reply))
    }

    /// Whether this attempt is the first that shows it.
    pub fn is_first_lie(&self, attempt: usize) -> bool {
        let slot = self.attempts[attempt].candidate;
        let mut lies = self
            .attempts
            .iter()
            .enumerate()
            .filter(|(_, other)| other.candidate == slot && other.reply.as_ref().is_some_and(is_lie));
        lies.next().is_some_and(|(first, _)| first == attempt) && lies.next().is_none()
    }

    /// Whether this attempt repeats what the server said before in another spelling: it is the server
    /// that spells names its own way, and nobody on the path.
    pub fn confirms_spelling(&self, attempt: usize) -> bool {
        let Attempt { candidate, family, reply: Some(reply), .. } = &self.attempts[attempt] else { return false };
        let mut respelt =
            self.replies_of(*candidate).filter(|(other, before)| other.family == *family && before.respelt);
        respelt.any(|(_, before)| match reply.outcome {
            Outcome::Answer => reply.addresses.iter().any(|address| before.addresses.contains(address)),
            outcome => outcome.is_negative() && before.addresses.is_empty(),
        })
    }

    /// Whether this attempt does without EDNS what failed with it.
    pub fn succeeds_without_edns(&self, attempt: usize) -> bool {
        let Attempt { candidate, family, edns: false, reply: Some(reply), .. } = &self.attempts[attempt] else {
            return false;
        };
        let is_good = reply.outcome == Outcome::Answer || reply.outcome.is_negative();
        is_good && self.replies_of(*candidate).any(|(other, _)| other.edns && other.family == *family)
    }

    /// Servers that denied what was found, too late to be overruled by it.
    pub fn late_deniers(&self) -> Vec<usize> {
        let Some(Verdict::Found(answer)) = &self.verdict else { return Vec::new() };
        let found = |family: Family| answer.addresses.iter().any(|address| Family::of(*address) == family);
        let denies = |(attempt, reply): (&Attempt, &Reply)| {
            reply.outcome == Outcome::Nxdomain || reply.outcome == Outcome::Nodata && found(attempt.family)
        };
        let is_one = |slot: &usize| {
            *slot != answer.by && self.replies_of(*slot).any(denies) && !self.replies_of(*slot).any(has_addresses)
        };
        (0..self.slots.len()).filter(|slot| !answer.overruled.contains(slot)).filter(is_one).collect()
    }

    /// Servers that denied the IPv6 side of a name whose IPv4 side they gave.
    pub fn v6_deniers(&self) -> Vec<usize> {
        let said = |slot: usize, family: Family, outcome: Outcome| {
            self.replies_of(slot).any(|(attempt, reply)| attempt.family == family && reply.outcome == outcome)
        };
        let is_one =
            |&slot: &usize| said(slot, Family::V6, Outcome::Nxdomain) && said(slot, Family::V4, Outcome::Answer);
        (0..self.slots.len()).filter(is_one).collect()
    }

    /// What other servers found until a little after the answer: each one's own word, the site's
    /// servers' first.
    pub fn found_beside(&self) -> Vec<Answer> {
        let Some(Verdict::Found(answer)) = &self.verdict else { return Vec::new() };
        if answer.inward || answer.doubtful {
            return Vec::new();
        }
        let mut others: Vec<usize> = (0..self.slots.len()).filter(|&slot| slot != answer.by).collect();
        others.sort_by_key(|&slot| self.plan.candidates[slot].tier);
        others.into_iter().filter_map(|slot| self.word_of(slot)).collect()
    }

    fn word_of(&self, by: usize) -> Option<Answer> {
        let in_time = |attempt: &Attempt| attempt.asked_at + attempt.elapsed <= self.decided_at + STRAGGLERS;
        let answers =
            self.replies_of(by).filter(|(attempt, reply)| reply.outcome == Outcome::Answer && in_time(attempt));
        let answers: Vec<(&Attempt, &Reply)> = answers.collect();
        let addresses = answers.iter().flat_map(|(_, reply)| reply.addresses.iter().copied());
        let addresses: Vec<IpAddr> = addresses.filter(|address| self.is_believable(*address)).collect();
        let ttl = answers.iter().filter_map(|(_, reply)| reply.ttl).min()?;
        let (attempt, _) = answers.last()?;
        let (inward, doubtful) = (false, false);
        (!addresses.is_empty()).then(|| Answer {
            by,
            transport: attempt.transport,
            addresses,
            ttl,
            unheard: self.unheard(by),
            inward,
            doubtful,
            overruled: Vec::new(),
        })
    }

    /// The family that a server was asked for and said nothing about that counts: it was late, it failed, or it
    /// showed what cannot be.
    pub(super) fn unheard(&self, by: usize) -> Option<Family> {
        let counts = |outcome: Outcome| matches!(outcome, Outcome::Answer | Outcome::Blocked) || outcome.is_negative();
        let is_heard = |family: Family| {
            self.replies_of(by).any(|(attempt, reply)| attempt.family == family && counts(reply.outcome))
        };
        self.plan.families.iter().copied().find(|&family| !is_heard(family))
    }

    fn is_believable(&self, address: IpAddr) -> bool {
        self.plan.kind == Kind::Private || self.is_open(address)
    }

    fn replies_of(&self, slot: usize) -> impl Iterator<Item = (&Attempt, &Reply)> {
        let theirs = self.attempts.iter().filter(move |attempt| attempt.candidate == slot);
        theirs.filter_map(|attempt| Some((attempt, attempt.reply.as_ref()?)))
    }
}

fn is_lie(reply: &Reply) -> bool {
    reply.outcome == Outcome::Bogus || reply.outcome == Outcome::Forged && !reply.respelt
}

fn has_addresses((_, reply): (&Attempt, &Reply)) -> bool {
    matches!(reply.outcome, Outcome::Answer | Outcome::Bogus)
}
