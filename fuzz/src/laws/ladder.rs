//! Whatever servers say, and whenever: nobody is asked but who may be, no address is believed that
//! nobody gave, no denial is called confirmed that one operator alone made, and it ends by the cap
//! without ever spinning.
//!
//! The bytes are a plan (kind, servers, what is known about them) and then what happens, one event
//! after the other: an open question is answered, or time passes.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::Tier;
use super::kind::Kind;
use super::ladder::{Action, Ask, Candidate, Ladder, Marks, Operator, Plan, QUERY_CAP, Verdict};
use super::reply::{Ede, Family, Outcome, Reply};
use super::server::{Server, Transport};
use crate::target::Scope;

/// Five servers, two families, two transports, each with EDNS and without.
const MOST_ATTEMPTS: usize = 40;
const OPERATORS: [Operator; 3] = [Operator::System, Operator::Service("google"), Operator::Service("quad9")];
const OUTCOMES: [Outcome; 16] = [
    Outcome::Answer,
    Outcome::Nxdomain,
    Outcome::Nodata,
    Outcome::Servfail,
    Outcome::Refused,
    Outcome::Notimp,
    Outcome::Formerr,
    Outcome::Timeout,
    Outcome::Unreachable,
    Outcome::Malformed,
    Outcome::Truncated,
    Outcome::Lame,
    Outcome::Forged,
    Outcome::Tls,
    Outcome::Local,
    Outcome::NotAsked,
];
const ADDRESSES: [&str; 6] = ["1.1.1.9", "10.0.0.1", "0.0.0.0", "198.18.0.1", "2606:4700::9", "fd00::1"];

pub fn hold(bytes: &[u8]) {
    let mut bytes = bytes.iter().copied();
    let Some(plan) = read_plan(&mut bytes) else { return };
    let start = Instant::now();
    let mut play =
        Play { ladder: Ladder::new(plan, start), start, now: start, open: Vec::new(), given: HashSet::new() };
    play.perform();
    while play.ladder.verdict().is_none() {
        play.happen(&mut bytes);
        play.perform();
    }
    play.judge();
    // What comes after the verdict changes nothing, also where everybody is asked for the table.
    let verdict = play.ladder.verdict().cloned();
    play.ask_the_rest();
    while let (Some(at), false) = (bytes.next(), play.open.is_empty()) {
        play.answer(at, &mut bytes);
        play.perform();
    }
    assert_eq!(play.ladder.verdict(), verdict.as_ref());
    play.judge_lessons();
}

/// A look-up under way, and what was said in it.
struct Play {
    ladder: Ladder,
    start: Instant,
    now: Instant,
    open: Vec<Ask>,
    given: HashSet<IpAddr>,
}

impl Play {
    /// Does what the ladder wants done, as far as it may.
    fn perform(&mut self) {
        let Plan { kind, spare: has_spare, .. } = *self.ladder.plan();
        while let Some(action) = self.ladder.poll() {
            let ask = match action {
                Action::Ask(ask) => ask,
                Action::Answer(verdict) => {
                    assert!(self.ladder.verdict() == Some(&verdict) || verdict == Verdict::Spare && has_spare);
                    continue;
                }
            };
            let candidate = &self.ladder.plan().candidates[ask.candidate];
            assert!(kind != Kind::Private || candidate.tier == Tier::System, "a private name is told outside");
            let ways: &[Transport] = match candidate.server.transport() {
                Transport::Udp => &[Transport::Udp, Transport::Tcp],
                other => &[other],
            };
            assert!(ways.contains(&ask.transport), "{ask:?} of {}", candidate.server);
            self.open.push(ask);
        }
        assert!(self.ladder.attempts().len() <= MOST_ATTEMPTS, "it asks without end");
    }

    /// An open question is answered, or time passes, as the bytes say; without any it always passes.
    fn happen(&mut self, bytes: &mut impl Iterator<Item = u8>) {
        let deadline = self.ladder.deadline(self.now).expect("a look-up that waits for nothing never ends");
        assert!(deadline > self.now, "it spins");
        assert!(deadline <= self.start + QUERY_CAP, "it goes on past the cap");
        match bytes.next() {
            Some(at) if at < 0xc0 && !self.open.is_empty() => self.answer(at, bytes),
            Some(part) => {
                // Part of the way, or all of it: the driver may be woken too early, and never too late by much.
                self.now += (deadline - self.now).mul_f64(f64::from(part & 0x3f) / 63.0);
                self.ladder.tick(self.now);
            }
            None => {
                self.now = deadline;
                self.ladder.tick(self.now);
            }
        }
    }

    fn answer(&mut self, at: u8, bytes: &mut impl Iterator<Item = u8>) {
        let ask = self.open.swap_remove(usize::from(at) % self.open.len());
        let reply = read_reply(ask.family, bytes);
        self.given.extend(&reply.addresses);
        self.ladder.heard(ask.attempt, reply, self.now);
    }

    /// A name that turned out to be the site's own, or blocked, is not taken outside for a full table.
    fn ask_the_rest(&mut self) {
        if !self.ladder.plan().exhaustive {
            return;
        }
        let stays = match self.ladder.verdict() {
            Some(Verdict::Found(answer)) => answer.inward,
            Some(verdict) => matches!(verdict, Verdict::Blocked { .. }),
            None => false,
        };
        let before = self.ladder.attempts().len();
        self.ladder.ask_the_rest(self.now);
        let mut asked = self.ladder.attempts()[before..].iter().map(|attempt| attempt.candidate);
        assert!(!stays || asked.all(|candidate| self.ladder.plan().candidates[candidate].tier == Tier::System));
        self.perform();
        self.now += QUERY_CAP;
        self.ladder.tick(self.now);
        self.perform();
    }

    fn judge(&self) {
        let Plan { kind, spare: has_spare, .. } = *self.ladder.plan();
        assert!(self.now <= self.start + QUERY_CAP);
        let candidate = |slot: usize| &self.ladder.plan().candidates[slot];
        match self.ladder.verdict() {
            Some(Verdict::Absent { confirmed, by, .. }) => {
                assert!(!by.is_empty(), "somebody must have said so");
                let operators: HashSet<Operator> = by.iter().map(|&slot| candidate(slot).operator).collect();
                assert!(!confirmed || operators.len() >= 2, "{by:?} are one");
                let honest = by.iter().filter(|&&slot| !candidate(slot).marks.liar);
                let honest: HashSet<Operator> = honest.map(|&slot| candidate(slot).operator).collect();
                assert!(!confirmed || honest.len() >= 2 || operators.len() >= 3, "a liar was believed");
            }
            Some(Verdict::Found(answer)) => {
                let tier = candidate(answer.by).tier;
                assert!(!answer.addresses.is_empty());
                assert!(answer.addresses.iter().all(|address| self.given.contains(address)), "nobody gave {answer:?}");
                // A name may have a private address in one family and a public one in the other.
                let may_be_private = answer.inward || answer.doubtful;
                assert!(tier == Tier::System || !may_be_private, "a private word from outside");
                let fits = |address: &IpAddr| is_public(address) || may_be_private && is_private(address);
                assert!(kind == Kind::Private || answer.addresses.iter().all(fits), "{answer:?}");
            }
            Some(Verdict::Spare) => assert!(has_spare),
            Some(Verdict::Blocked { by, .. }) => assert_eq!(candidate(*by).tier, Tier::System),
            Some(Verdict::Unknown) | None => {}
        }
    }

    fn judge_lessons(&self) {
        let tally = self.ladder.tally(self.now);
        assert!(tally.servers() <= self.ladder.plan().candidates.len());
        let Some(Verdict::Found(answer)) = self.ladder.verdict() else {
            assert!(self.ladder.found_beside().is_empty() && self.ladder.late_deniers().is_empty());
            return;
        };
        let private = self.ladder.plan().kind == Kind::Private;
        for beside in self.ladder.found_beside() {
            assert!(beside.by != answer.by && beside.addresses.iter().all(|address| self.given.contains(address)));
            assert!(private || beside.addresses.iter().all(is_public), "{beside:?}");
        }
        assert!(!self.ladder.late_deniers().contains(&answer.by));
    }
}

fn is_public(address: &IpAddr) -> bool {
    Scope::of(*address).is_global()
}

fn is_private(address: &IpAddr) -> bool {
    Scope::of(*address) == Scope::Private
}

fn read_plan(bytes: &mut impl Iterator<Item = u8>) -> Option<Plan> {
    let shape = bytes.next()?;
    let kind = [Kind::Private, Kind::Other, Kind::Known { built_in: true }, Kind::Known { built_in: false }];
    let kind = kind[usize::from(shape & 3)];
    let count = usize::from(shape >> 2 & 7) % 6;
    let mut candidates: Vec<Candidate> =
        (0..count).map(|number| read_candidate(number, bytes)).collect::<Option<_>>()?;
    candidates.sort_by_key(|candidate| candidate.wave);
    let families = match shape >> 5 & 3 {
        0 => vec![Family::V4],
        1 => vec![Family::V6],
        _ => Family::BOTH.to_vec(),
    };
    let pace = bytes.next()?;
    let (hedge, exhaustive) = (Duration::from_millis(50 + u64::from(pace & 0x3f)), pace & 0x80 != 0);
    let spare = shape & 0x80 != 0;
    Some(Plan { kind, families, candidates, hedge, spare, allow: Vec::new(), exhaustive })
}

fn read_candidate(number: usize, bytes: &mut impl Iterator<Item = u8>) -> Option<Candidate> {
    let (what, known) = (bytes.next()?, bytes.next()?);
    let at = ([127, 0, 0, 1], number as u16 + 1).into();
    let (name, path) = ("dns.example".to_owned(), "/dns-query".to_owned());
    let (tier, server) = match what & 7 {
        0..=2 => (Tier::System, Server::Plain(at)),
        3 => (Tier::System, Server::Tcp(at)),
        4 | 5 => (Tier::Plain, Server::Plain(at)),
        6 => (Tier::Encrypted, Server::Tls { address: at, name }),
        _ => (Tier::Encrypted, Server::Https { address: at, path, name }),
    };
    let operator = match tier {
        Tier::System => Operator::System,
        _ => OPERATORS[usize::from(what >> 3) % OPERATORS.len()],
    };
    let bit = |number: u8| known >> number & 1 == 1;
    let marks = Marks {
        liar: bit(0),
        poisoned: bit(1) && tier == Tier::Plain,
        flattens: false,
        edns_proven: bit(2),
        denies_v6: bit(3),
        udp_dead: bit(4) && server.transport() == Transport::Udp,
    };
    let transport = match server.transport() {
        Transport::Udp if bit(4) => Transport::Tcp,
        other => other,
    };
    // Inside comes first, as in every plan that there is.
    let wave = usize::from(what >> 5) + if tier == Tier::System { 0 } else { 4 };
    let (edns, down, trial) = (bit(5), bit(6), bit(7));
    Some(Candidate { server, tier, operator, wave, transport, edns, down, trial, marks })
}

fn read_reply(family: Family, bytes: &mut impl Iterator<Item = u8>) -> Reply {
    let what = bytes.next().unwrap_or_default();
    let outcome = OUTCOMES[usize::from(what) % OUTCOMES.len()];
    let mut reply = Reply { ttl: Some(Duration::from_secs(60)), ..Reply::bare(outcome) };
    if outcome == Outcome::Answer {
        let which = bytes.next().unwrap_or_default();
        let given = ADDRESSES.iter().filter_map(|text| text.parse().ok()).enumerate();
        let given = given.filter(|(number, address)| which >> number & 1 == 1 && Family::of(*address) == family);
        reply.addresses = given.map(|(_, address)| address).collect();
        if reply.addresses.is_empty() {
            reply.outcome = Outcome::Nodata;
        }
    }
    if what >> 4 == 15 {
        reply.ede = Some(Ede { code: 15, text: String::new() });
    }
    reply.respelt = outcome == Outcome::Forged && what >> 4 & 1 == 1;
    reply
}
