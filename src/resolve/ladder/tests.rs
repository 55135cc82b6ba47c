//! The failure matrix of `dns-resilience.md` section 9 against the state machine: scripted servers,
//! simulated time, and laws that hold whatever the servers do.

use ipnet::IpNet;

use super::nouns::{LISTEN_LONG, LISTEN_ON};
use super::*;
use crate::resolve::server::Server;

// The vocabulary.

/// What a scripted server does, and after how many milliseconds.
#[derive(Clone, Copy, Debug)]
enum Says {
    Good(u64),
    /// An IPv4 address, and silence about AAAA.
    V4Only(u64),
    /// An IPv4 address, and this about AAAA.
    V4And(Outcome),
    Address(&'static str),
    Code(Outcome, u64),
    Silent,
    /// Silence over UDP, an answer over TCP.
    OverTcp,
    /// TC over UDP, an answer over TCP.
    Cut,
    /// An answer only to questions without EDNS; to others this.
    NoEdns(Outcome),
    /// Two answers over UDP that differ, or one in another spelling; this over TCP.
    Forged(Tcp),
    Policy,
    /// Our own sockets fail a few times.
    Exhausted(usize),
}

/// What a server does over TCP.
#[derive(Clone, Copy, Debug)]
enum Tcp {
    Answers,
    Refuses,
    Swallows,
}

use Says::*;

struct Run {
    said: Vec<(u64, Verdict)>,
    ms: u64,
    /// Every question: when, to whom, over what.
    asked: Vec<(u64, usize, Transport)>,
    tally: String,
}

struct Case {
    kind: Kind,
    spare: bool,
    servers: Vec<(Tier, Operator, Says)>,
    allow: Vec<IpNet>,
}

const KNOWN: Kind = Kind::Known { built_in: true };
const CONFIGURED: Kind = Kind::Known { built_in: false };

/// System servers, and public ones of an operator each.
fn case(kind: Kind, system: &[Says], public: &[Says]) -> Case {
    let operators = ["google", "cloudflare", "alidns", "quad9"];
    let inside = system.iter().map(|says| (Tier::System, Operator::System, *says));
    let outside = public.iter().zip(operators).map(|(says, name)| (Tier::Plain, Operator::Service(name), *says));
    Case { kind, spare: false, servers: inside.chain(outside).collect(), allow: Vec::new() }
}

fn good() -> IpAddr {
    "1.1.1.9".parse().unwrap()
}

fn answer(family: Family, v4: &str) -> Reply {
    match family {
        Family::V4 => Reply {
            addresses: vec![v4.parse().unwrap()],
            ttl: Some(Duration::from_secs(60)),
            ..Reply::bare(Outcome::Answer)
        },
        Family::V6 => Reply::bare(Outcome::Nodata),
    }
}

impl Says {
    fn reply(self, ask: &Ask, before: usize) -> Option<(u64, Reply)> {
        let udp = ask.transport == Transport::Udp;
        match self {
            Good(ms) => Some((ms, answer(ask.family, "1.1.1.9"))),
            V4Only(ms) => (ask.family == Family::V4).then(|| (ms, answer(ask.family, "1.1.1.9"))),
            V4And(outcome) if ask.family == Family::V6 => Some((1, Reply::bare(outcome))),
            V4And(_) => Some((20, answer(ask.family, "1.1.1.9"))),
            Address(text) => Some((1, answer(ask.family, text))),
            Code(outcome, ms) => Some((ms, Reply::bare(outcome))),
            Silent => None,
            OverTcp => (!udp).then(|| (5, answer(ask.family, "1.1.1.9"))),
            Cut if udp => Some((1, Reply::bare(Outcome::Truncated))),
            Cut => Some((5, answer(ask.family, "1.1.1.9"))),
            NoEdns(outcome) if ask.edns => Some((1, Reply::bare(outcome))),
            NoEdns(_) => Some((1, answer(ask.family, "1.1.1.9"))),
            Forged(_) if udp => Some((1, Reply::bare(Outcome::Forged))),
            Forged(Tcp::Answers) => Some((5, answer(ask.family, "1.1.1.9"))),
            Forged(Tcp::Refuses) => Some((1, Reply::bare(Outcome::Unreachable))),
            Forged(Tcp::Swallows) => None,
            Policy => {
                Some((1, Reply { ede: Some(Ede { code: 15, text: "no".into() }), ..Reply::bare(Outcome::Nxdomain) }))
            }
            Exhausted(times) if before < 2 * times => Some((0, Reply::bare(Outcome::Local))),
            Exhausted(_) => Some((1, answer(ask.family, "1.1.1.9"))),
        }
    }
}

impl Case {
    fn with_spare(self) -> Case {
        Case { spare: true, ..self }
    }

    fn plan(&self) -> Plan {
        let candidates = self.servers.iter().enumerate().map(|(wave, (tier, operator, _))| Candidate {
            server: Server::Plain(([127, 0, 0, 1], wave as u16 + 1).into()),
            tier: *tier,
            operator: *operator,
            wave,
            transport: Transport::Udp,
            edns: true,
            down: false,
            trial: false,
            marks: Marks::default(),
        });
        Plan {
            kind: self.kind,
            families: Family::BOTH.to_vec(),
            candidates: candidates.collect(),
            hedge: Duration::from_millis(150),
            spare: self.spare,
            allow: self.allow.clone(),
            exhaustive: false,
        }
    }

    /// Plays the case through to the verdict.
    fn run(&self) -> Run {
        self.play(self.plan())
    }

    /// The same where something is known about the servers beforehand.
    fn run_with(&self, marks: &[Marks]) -> Run {
        let mut plan = self.plan();
        for (candidate, marks) in plan.candidates.iter_mut().zip(marks) {
            let starts_over_tcp = marks.poisoned && candidate.tier == Tier::Plain;
            candidate.transport = if starts_over_tcp { Transport::Tcp } else { Transport::Udp };
            candidate.marks = *marks;
        }
        self.play(plan)
    }

    fn play(&self, plan: Plan) -> Run {
        let start = Instant::now();
        let mut now = start;
        let since = |now: Instant| u64::try_from((now - start).as_millis()).unwrap();
        let mut ladder = Ladder::new(plan, now);
        let mut coming: Vec<(Instant, usize, Reply)> = Vec::new();
        let mut run = Run { said: Vec::new(), ms: 0, asked: Vec::new(), tally: String::new() };
        for _ in 0..10_000 {
            while let Some(action) = ladder.poll() {
                match action {
                    Action::Answer(verdict) => run.said.push((since(now), verdict)),
                    Action::Ask(ask) => {
                        let before = run.asked.iter().filter(|(_, to, _)| *to == ask.candidate).count();
                        run.asked.push((since(now), ask.candidate, ask.transport));
                        if let Some((ms, reply)) = self.servers[ask.candidate].2.reply(&ask, before) {
                            coming.push((now + Duration::from_millis(ms), ask.attempt, reply));
                        }
                    }
                }
            }
            if ladder.verdict().is_some() {
                run.ms = since(now);
                run.tally = ladder.tally(now).to_string();
                return run;
            }
            let next = (0..coming.len()).min_by_key(|&index| coming[index].0);
            let deadline = ladder.deadline(now).expect("a look-up that waits for nothing never ends");
            match next {
                Some(index) if coming[index].0 <= deadline => {
                    let (at, attempt, reply) = coming.remove(index);
                    now = at.max(now);
                    ladder.heard(attempt, reply, now);
                }
                _ => {
                    now = deadline;
                    ladder.tick(now);
                }
            }
        }
        panic!("the look-up spins");
    }
}

impl Run {
    fn verdict(&self) -> &Verdict {
        &self.said.last().unwrap().1
    }

    fn found(&self) -> &Answer {
        match self.verdict() {
            Verdict::Found(answer) => answer,
            other => panic!("expected an answer, got {other:?}"),
        }
    }

    fn asked_of(&self, candidate: usize) -> Option<u64> {
        self.asked.iter().find(|(_, to, _)| *to == candidate).map(|(at, _, _)| *at)
    }
}

// The sentences.

#[test]
fn any_honest_server_within_reach_is_enough() {
    use Outcome::*;
    // What the servers do (the last one is honest), and the most milliseconds it may take for a
    // known name: single faults 700, double ones 1,200.
    let table: &[(&str, &[Says], u64)] = &[
        ("healthy", &[], 50),
        ("nxdomain", &[Code(Nxdomain, 1)], 60),
        ("nodata", &[Code(Nodata, 1)], 60),
        ("servfail", &[Code(Servfail, 1)], 60),
        ("refused", &[Code(Refused, 1)], 60),
        ("notimp", &[Code(Notimp, 1)], 60),
        ("formerr", &[Code(Formerr, 1)], 60),
        ("lame", &[Code(Lame, 1)], 60),
        ("malformed", &[Code(Malformed, 1)], 60),
        ("closed port", &[Code(Unreachable, 1)], 60),
        ("silent", &[Silent], 250),
        ("silent twice", &[Silent, Silent], 500),
        ("slow, 400 ms", &[Good(400)], 250),
        ("slow, 3 s", &[Good(3000)], 250),
        ("sinkhole", &[Address("0.0.0.0")], 60),
        ("private address", &[Address("10.0.0.1")], 60),
        ("benchmark address", &[Address("198.18.0.1")], 60),
        ("nxdomain, silent", &[Code(Nxdomain, 1), Silent], 500),
        ("servfail, silent", &[Code(Servfail, 1), Silent], 500),
    ];
    for (fault, faulty, most) in table {
        let honest = Good(20);
        let outside =
            case(KNOWN, &faulty[..faulty.len().min(1)], &[&faulty[faulty.len().min(1)..], &[honest]].concat());
        let inside = case(KNOWN, &[*faulty, &[honest]].concat(), &[Silent]);
        for (place, case) in [("outside", outside), ("inside", inside)] {
            let run = case.run();
            assert_eq!(run.found().addresses, [good()], "{fault}, honest {place}");
            assert!(run.ms <= *most, "{fault}, honest {place}: {} ms", run.ms);
        }
    }
}

#[test]
fn one_server_with_one_quirk_still_answers() {
    let table = [
        ("udp silent, tcp fine", OverTcp, 650),
        ("truncated", Cut, 10),
        ("formerr on edns", NoEdns(Outcome::Formerr), 10),
        ("notimp on edns", NoEdns(Outcome::Notimp), 10),
        ("servfail on edns", NoEdns(Outcome::Servfail), 10),
        ("forged over udp, tcp fine", Forged(Tcp::Answers), 10),
        ("aaaa silent", V4Only(20), 80),
        ("aaaa nxdomain", V4And(Outcome::Nxdomain), 30),
        ("aaaa servfail", V4And(Outcome::Servfail), 30),
        ("aaaa refused", V4And(Outcome::Refused), 30),
        ("out of descriptors three times", Exhausted(3), 100),
    ];
    for (quirk, says, most) in table {
        let run = case(Kind::Other, &[says], &[]).run();
        assert_eq!(run.found().addresses, [good()], "{quirk}");
        assert!(run.ms <= most, "{quirk}: {} ms", run.ms);
    }
}

#[test]
fn trouble_with_aaaa_alone_sends_no_name_outside() {
    for says in [V4And(Outcome::Servfail), V4And(Outcome::Nxdomain), V4And(Outcome::Notimp), V4Only(20)] {
        let run = case(Kind::Other, &[says], &[Good(1)]).run();
        assert_eq!(run.asked_of(1), None, "{says:?}");
    }
}

#[test]
fn other_names_go_outside_only_after_the_system_had_its_chance() {
    use Outcome::*;
    let outside_at = |system: &[Says]| case(Kind::Other, system, &[Good(20)]).run().asked_of(system.len());
    assert_eq!(outside_at(&[Good(1400)]), None, "slow is not silent");
    assert_eq!(outside_at(&[Silent]), Some(1500));
    assert_eq!(outside_at(&[Code(Servfail, 10)]), Some(10));
    assert_eq!(outside_at(&[Code(Nxdomain, 10)]), Some(10));
    assert_eq!(outside_at(&[Code(Nxdomain, 10), Good(400)]), None, "the other system server may know it");
    assert_eq!(outside_at(&[Code(Refused, 10), Silent]), Some(1500));
}

#[test]
fn known_names_are_hedged() {
    let run = case(KNOWN, &[Silent, Silent], &[Silent, Good(20)]).run();
    let asked = (0..4).map(|candidate| run.asked_of(candidate)).collect::<Vec<_>>();
    assert_eq!(asked, [Some(0), Some(150), Some(400), Some(650)]);
    let healthy = case(KNOWN, &[Good(20)], &[Good(1)]).run();
    assert_eq!(healthy.asked_of(1), None, "nothing is sent outside on a healthy day");
}

#[test]
fn a_denial_needs_a_second_operator() {
    use Outcome::*;
    let denied = Code(Nxdomain, 1);
    let absent = |run: &Run| match run.verdict() {
        Verdict::Absent { confirmed, last_word, .. } => (*confirmed, *last_word, run.ms),
        other => panic!("expected a denial, got {other:?}"),
    };
    assert_eq!(absent(&case(KNOWN, &[denied], &[Code(Nxdomain, 5)]).run()), (true, true, 6));
    assert_eq!(absent(&case(KNOWN, &[denied], &[Code(Nodata, 5)]).run()), (true, true, 6));
    // All system servers are one operator.
    let (confirmed, last_word, _) = absent(&case(KNOWN, &[denied, denied], &[Silent]).run());
    assert!(!confirmed && !last_word);
    // Silence of those who could confirm leaves it open.
    let (confirmed, last_word, ms) = absent(&case(KNOWN, &[denied], &[Silent, Silent]).run());
    assert!(!confirmed && !last_word && (1500..1600).contains(&ms), "{ms}");
    // Where nobody else may be asked it is final at once.
    assert_eq!(absent(&case(KNOWN, &[denied], &[]).run()), (false, true, 1));
    assert_eq!(absent(&case(Kind::Private, &[denied], &[]).run()), (false, true, 1));
    // A server that fails confirms nothing.
    let (confirmed, ..) = absent(&case(KNOWN, &[denied], &[Code(Servfail, 1)]).run());
    assert!(!confirmed);
}

#[test]
fn servers_that_are_known_to_be_down_confirm_nothing_and_are_not_waited_for() {
    let case = case(KNOWN, &[Code(Outcome::Nxdomain, 1)], &[Silent]);
    let mut plan = case.plan();
    plan.candidates[1].down = true;
    let now = Instant::now();
    let mut ladder = Ladder::new(plan, now);
    for attempt in 0..2 {
        ladder.heard(attempt, Reply::bare(Outcome::Nxdomain), now);
    }
    assert!(matches!(ladder.verdict(), Some(Verdict::Absent { confirmed: false, last_word: true, .. })));
}

#[test]
fn an_older_answer_is_served_when_waiting_is_worse() {
    let silent = case(KNOWN, &[Silent], &[Silent]).with_spare().run();
    assert_eq!(silent.said[0], (1150, Verdict::Spare));
    assert_eq!((silent.said.len(), silent.ms), (2, 3000));
    let failed = case(KNOWN, &[Code(Outcome::Servfail, 1)], &[Code(Outcome::Servfail, 1)]).with_spare().run();
    assert_eq!((failed.verdict(), failed.ms), (&Verdict::Spare, 3));
    let denied = case(KNOWN, &[Code(Outcome::Nxdomain, 1)], &[]).with_spare().run();
    assert_eq!(denied.verdict(), &Verdict::Spare, "it beats a denial that nobody confirms");
    let confirmed = case(KNOWN, &[Code(Outcome::Nxdomain, 1)], &[Code(Outcome::Nxdomain, 1)]).with_spare().run();
    assert!(matches!(confirmed.verdict(), Verdict::Absent { confirmed: true, .. }));
    let private = case(Kind::Private, &[Code(Outcome::Nxdomain, 1)], &[]).with_spare().run();
    assert!(matches!(private.verdict(), Verdict::Absent { .. }), "a private name's servers know best");
}

#[test]
fn a_private_address_from_inside_makes_a_name_private_unless_it_is_built_in() {
    for kind in [Kind::Other, CONFIGURED] {
        let run = case(kind, &[Address("10.0.0.1")], &[Good(1)]).run();
        assert!(run.found().inward, "{kind:?}");
        assert_eq!(run.asked_of(1), None, "{kind:?}");
    }
    let lied = case(KNOWN, &[Address("10.0.0.1")], &[Good(20)]).run();
    assert_eq!((lied.found().by, &lied.found().overruled[..]), (1, &[0][..]));
    let alone = case(KNOWN, &[Address("10.0.0.1")], &[Code(Outcome::Servfail, 1)]).run();
    assert!(alone.found().doubtful, "all there is; TLS judges");
    let outside = case(Kind::Other, &[Code(Outcome::Servfail, 1)], &[Address("10.0.0.1")]).run();
    assert_eq!(outside.verdict(), &Verdict::Unknown, "a public server has no say about private addresses");
}

#[test]
fn a_private_name_is_told_to_nobody_outside_whatever_the_plan_says() {
    for says in [Silent, Code(Outcome::Servfail, 1), Code(Outcome::Nxdomain, 1)] {
        let run = case(Kind::Private, &[says], &[Good(1), Good(1)]).run();
        assert!(run.asked.iter().all(|(_, to, _)| *to == 0), "{says:?}: {:?}", run.asked);
    }
}

#[test]
fn of_a_private_answer_only_the_private_addresses_count() {
    let case = case(Kind::Other, &[Silent], &[]);
    let start = Instant::now();
    let mut ladder = Ladder::new(case.plan(), start);
    let addresses = ["0.0.0.0", "10.0.0.1", "169.254.169.254"].map(|text| text.parse().unwrap()).to_vec();
    ladder.heard(0, Reply { addresses, ..answer(Family::V4, "1.1.1.9") }, start);
    ladder.heard(1, answer(Family::V6, ""), start);
    let Some(Verdict::Found(found)) = ladder.verdict() else { panic!("{:?}", ladder.verdict()) };
    assert!(found.inward);
    assert_eq!(found.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
}

/// A configured mirror has an address inside and another one outside. The one outside came first, and then, while
/// its IPv6 side was waited for, the site's own: the one outside was handed out, and kept for an hour.
#[test]
fn the_sites_own_address_comes_before_one_that_was_a_little_quicker() {
    let case = case(CONFIGURED, &[Silent], &[Silent]);
    let start = Instant::now();
    let mut ladder = Ladder::new(case.plan(), start);
    let later = start + Duration::from_millis(200);
    ladder.tick(later);
    ladder.heard(2, answer(Family::V4, "1.1.1.9"), later);
    let soon = later + RESOLUTION_DELAY / 2;
    ladder.heard(0, answer(Family::V4, "10.0.0.1"), soon);
    ladder.heard(1, answer(Family::V6, ""), soon);
    let Some(Verdict::Found(found)) = ladder.verdict() else { panic!("{:?}", ladder.verdict()) };
    assert!(found.by == 0 && found.inward, "{found:?}");
}

#[test]
fn an_address_that_was_allowed_is_as_good_as_a_public_one() {
    let mut case = case(KNOWN, &[Address("198.18.0.1")], &[Good(20)]);
    case.allow = vec!["198.18.0.0/15".parse().unwrap()];
    assert_eq!(case.run().found().by, 0);
}

#[test]
fn blocked_on_purpose_stays_blocked() {
    let run = case(KNOWN, &[Policy], &[Good(1)]).run();
    assert!(matches!(run.verdict(), Verdict::Blocked { by: 0, .. }));
    assert_eq!(run.asked_of(1), None);
    let policy =
        Policy.reply(&Ask { attempt: 0, candidate: 0, transport: Transport::Udp, family: Family::V4, edns: true }, 0);
    let respelt = Reply { outcome: Outcome::Forged, respelt: true, ..policy.unwrap().1 };
    let (open, now) = (case(KNOWN, &[], &[Silent]), Instant::now());
    let mut ladder = Ladder::new(open.plan(), now);
    ladder.heard(0, respelt, now);
    assert_eq!(ladder.attempts()[2].transport, Transport::Tcp, "nobody's policy in a spelling that is not ours");
    let filtering = case(KNOWN, &[Code(Outcome::Servfail, 1)], &[Policy, Good(1)]).run();
    assert_eq!(filtering.found().by, 2, "a public service's filter is no policy of this site");
}

/// dnsmasq that leaves AAAA out (filter-AAAA) gives "Filtered" as the reason, and the whole name was blocked.
#[test]
fn a_family_that_is_filtered_leaves_the_other() {
    let filtered = Reply { ede: Some(Ede { code: 17, text: String::new() }), ..Reply::bare(Outcome::Nodata) };
    for order in [[0, 1], [1, 0]] {
        let start = Instant::now();
        let mut ladder = Ladder::new(case(KNOWN, &[Silent], &[]).plan(), start);
        for attempt in order {
            let reply = if attempt == 0 { answer(Family::V4, "1.1.1.9") } else { filtered.clone() };
            ladder.heard(attempt, reply, start + Duration::from_millis(attempt as u64));
        }
        assert!(matches!(ladder.verdict(), Some(Verdict::Found(_))), "{order:?}: {:?}", ladder.verdict());
    }
}

/// A server was asked over TCP since its UDP was dead; then it was the other way round, and nobody tried.
#[test]
fn where_tcp_stood_in_for_a_dead_udp_and_dies_too_udp_is_tried_again() {
    let start = Instant::now();
    let mut plan = case(KNOWN, &[Silent], &[]).plan();
    plan.candidates[0].transport = Transport::Tcp;
    plan.candidates[0].marks.udp_dead = true;
    for (trouble, wait) in [(Some(Reply::bare(Outcome::Unreachable)), Duration::ZERO), (None, TCP_AFTER)] {
        let mut ladder = Ladder::new(plan.clone(), start);
        for attempt in 0..2 {
            if let Some(trouble) = &trouble {
                ladder.heard(attempt, trouble.clone(), start);
            }
        }
        ladder.tick(start + wait);
        assert!(ladder.attempts()[2..].iter().all(|attempt| attempt.transport == Transport::Udp));
        ladder.heard(2, answer(Family::V4, "1.1.1.9"), start + wait);
        ladder.heard(3, answer(Family::V6, ""), start + wait);
        assert!(matches!(ladder.verdict(), Some(Verdict::Found(_))), "{trouble:?}: {:?}", ladder.verdict());
    }
}

/// A question that could not be sent for want of descriptors was sent again after the verdict, by a flight on the
/// point of ending, which then took down that the server had been silent.
#[test]
fn nobody_is_asked_after_the_verdict() {
    let start = Instant::now();
    let mut ladder = Ladder::new(case(KNOWN, &[Silent, Silent], &[]).plan(), start);
    let later = start + Duration::from_millis(200);
    ladder.tick(later);
    ladder.heard(0, Reply::bare(Outcome::Local), later);
    ladder.heard(2, answer(Family::V4, "1.1.1.9"), later);
    ladder.heard(3, answer(Family::V6, ""), later);
    assert!(matches!(ladder.verdict(), Some(Verdict::Found(_))));
    while ladder.poll().is_some() {}
    ladder.tick(later + Duration::from_secs(1));
    assert_eq!(ladder.poll(), None);
}

#[test]
fn nothing_takes_longer_than_the_cap_and_says_how_many_said_what() {
    let run = case(KNOWN, &[Silent, Silent], &[Silent, Silent]).run();
    assert_eq!((run.verdict(), run.ms), (&Verdict::Unknown, 3000));
    assert_eq!(run.tally, "4 servers (4 timeout)");
    let mixed = case(KNOWN, &[Code(Outcome::Refused, 1)], &[Code(Outcome::Servfail, 1)]).run();
    assert_eq!((mixed.ms, mixed.tally.as_str()), (3, "2 servers (1 refused, 1 servfail)"));
    assert_eq!(case(KNOWN, &[], &[]).run().verdict(), &Verdict::Unknown);
}

#[test]
fn every_server_is_heard_where_a_person_wants_to_see_the_table() {
    let case = case(KNOWN, &[Good(1)], &[Code(Outcome::Nxdomain, 1), Silent]);
    let now = Instant::now();
    let mut ladder = Ladder::new(Plan { exhaustive: true, ..case.plan() }, now);
    ladder.heard(0, answer(Family::V4, "1.1.1.9"), now);
    ladder.heard(1, answer(Family::V6, "1.1.1.9"), now);
    assert!(ladder.verdict().is_some());
    ladder.ask_the_rest(now);
    assert_eq!(ladder.attempts().len(), 6);
    ladder.tick(now + TCP_AFTER);
    assert!(ladder.attempts()[6..].iter().all(|attempt| attempt.transport == Transport::Tcp));
}

#[test]
fn two_answers_that_differ_are_both_dropped_and_tcp_is_asked_at_once() {
    let run = case(KNOWN, &[Code(Outcome::Servfail, 1)], &[Forged(Tcp::Answers)]).run();
    assert_eq!((run.found().by, run.found().transport), (1, Transport::Tcp));
    let over_tcp = |run: &Run| run.asked.iter().find(|(_, to, over)| (*to, *over) == (1, Transport::Tcp)).unwrap().0;
    assert_eq!((over_tcp(&run), run.ms), (2, 7));
    // Where that does not do either, the next one is asked at once.
    let refused = case(KNOWN, &[Code(Outcome::Refused, 1)], &[Forged(Tcp::Refuses), Good(20)]).run();
    assert_eq!((refused.found().by, refused.asked_of(2)), (2, Some(3)));
    let swallowed = case(KNOWN, &[Code(Outcome::Refused, 1)], &[Forged(Tcp::Swallows), Good(20)]).run();
    assert_eq!((swallowed.found().by, swallowed.asked_of(2)), (2, Some(251)));
}

#[test]
fn on_a_poisoned_path_tcp_comes_first_and_udp_only_where_tcp_does_not_do() {
    let poisoned = Marks { poisoned: true, ..Marks::default() };
    let ways = |says: Says| {
        let run = case(KNOWN, &[], &[says]).run_with(&[poisoned]);
        let of_v4 = run.asked.iter().step_by(2).map(|(at, _, over)| (*at, *over)).collect::<Vec<_>>();
        (of_v4, matches!(run.verdict(), Verdict::Found(_)))
    };
    use Transport::{Tcp as OTcp, Udp};
    assert_eq!(ways(Good(20)), (vec![(0, OTcp)], true));
    assert_eq!(ways(Forged(Tcp::Swallows)), (vec![(0, OTcp), (600, Udp)], false), "and each way once");
    assert_eq!(ways(Forged(Tcp::Refuses)), (vec![(0, OTcp), (1, Udp)], false));
}

#[test]
fn only_what_comes_over_an_open_path_is_held_and_mixed_in_case() {
    let ms = |listen_on: Duration| listen_on.as_millis();
    let table = [
        (Tier::System, Transport::Udp, false, false, 0),
        (Tier::System, Transport::Tcp, false, false, 0),
        (Tier::Plain, Transport::Udp, false, true, ms(LISTEN_ON)),
        (Tier::Plain, Transport::Udp, true, true, ms(LISTEN_LONG)),
        (Tier::Plain, Transport::Tcp, true, false, 0),
        (Tier::Encrypted, Transport::Tls, true, false, 0),
        (Tier::Encrypted, Transport::Https, false, false, 0),
    ];
    let candidate = case(KNOWN, &[], &[Silent]).plan().candidates.remove(0);
    for (tier, transport, poisoned, mixed, listen_on) in table {
        let marks = Marks { poisoned, ..Marks::default() };
        let manner = Candidate { tier, marks, ..candidate.clone() }.manner(transport);
        assert_eq!((manner.mixed, ms(manner.listen_on)), (mixed, listen_on), "{tier:?} over {transport}");
        assert_eq!(manner.public, tier != Tier::System);
    }
    let flattens = Candidate { marks: Marks { flattens: true, ..Marks::default() }, ..candidate };
    assert!(!flattens.manner(Transport::Udp).mixed, "it would only show what is known");
}

#[test]
fn a_failure_with_edns_is_tried_without_once_and_the_next_server_does_not_wait_for_it() {
    let servfail = Code(Outcome::Servfail, 1);
    let run = case(KNOWN, &[servfail, Good(20)], &[]).run();
    assert_eq!(
        run.asked.iter().map(|(at, to, _)| (*at, *to)).collect::<Vec<_>>()[2..],
        [(1, 0), (1, 0), (1, 1), (1, 1)]
    );
    let proven = Marks { edns_proven: true, ..Marks::default() };
    let asked = case(KNOWN, &[servfail, Good(20)], &[]).run_with(&[proven]).asked;
    assert_eq!(asked.iter().filter(|(_, to, _)| *to == 0).count(), 2, "edns is not what it fails over");
    assert_eq!(case(KNOWN, &[servfail], &[servfail]).run().tally, "2 servers (2 servfail)");
}

#[test]
fn a_server_that_says_nothing_to_the_second_try_is_not_waited_for() {
    let case = case(KNOWN, &[Silent], &[]);
    let start = Instant::now();
    let mut ladder = Ladder::new(case.plan(), start);
    ladder.heard(0, Reply::bare(Outcome::Servfail), start);
    ladder.heard(1, Reply::bare(Outcome::Servfail), start);
    assert_eq!(ladder.attempts().len(), 4);
    assert_eq!(ladder.verdict(), None);
    ladder.tick(start + SECOND_TRY);
    assert_eq!(ladder.verdict(), Some(&Verdict::Unknown));
}

#[test]
fn the_denial_of_a_known_liar_needs_two_others() {
    let (liar, honest) = (Marks { liar: true, ..Marks::default() }, Marks::default());
    let denied = Code(Outcome::Nxdomain, 1);
    let confirmed = |public: &[Says], marks: &[Marks]| {
        let run = case(KNOWN, &[denied], public).run_with(marks);
        assert!(matches!(run.verdict(), Verdict::Absent { .. }), "{:?}", run.verdict());
        matches!(run.verdict(), Verdict::Absent { confirmed: true, .. })
    };
    assert!(confirmed(&[denied], &[honest, honest]));
    assert!(!confirmed(&[denied], &[liar, honest]));
    assert!(!confirmed(&[denied], &[honest, liar]));
    assert!(confirmed(&[denied, denied], &[liar, honest, honest]));
    assert!(confirmed(&[denied, denied], &[liar, liar, honest]));
    assert!(!confirmed(&[denied, Silent], &[liar, honest, honest]));
}

#[test]
fn a_server_that_is_known_to_deny_ipv6_names_is_given_time_for_the_other_family() {
    let late_v4 = [(1, answer(Family::V6, "")), (0, answer(Family::V4, "1.1.1.9"))];
    let verdict = |marks: Marks| {
        let case = case(Kind::Other, &[Silent], &[Silent]);
        let mut plan = case.plan();
        plan.candidates[0].marks = marks;
        let start = Instant::now();
        let mut ladder = Ladder::new(plan, start);
        ladder.heard(late_v4[0].0, Reply::bare(Outcome::Nxdomain), start);
        ladder.tick(start + 2 * RESOLUTION_DELAY);
        let asked_outside = ladder.attempts().len() > 2;
        ladder.heard(late_v4[1].0, late_v4[1].1.clone(), start + 3 * RESOLUTION_DELAY);
        assert!(matches!(ladder.verdict(), Some(Verdict::Found(answer)) if answer.by == 0));
        assert_eq!(ladder.v6_deniers(), [0]);
        asked_outside
    };
    assert!(verdict(Marks::default()));
    assert!(!verdict(Marks { denies_v6: true, ..Marks::default() }));
}

#[test]
fn what_others_find_a_little_later_is_their_own_word() {
    let mut case = case(KNOWN, &[Silent, Silent], &[Silent, Silent]);
    case.servers[3].0 = Tier::Encrypted;
    let start = Instant::now();
    let ms = |ms: u64| start + Duration::from_millis(ms);
    let mut ladder = Ladder::new(case.plan(), start);
    ladder.tick(ms(150));
    ladder.tick(ms(400));
    ladder.tick(ms(650));
    let attempts_of = |slot: usize, ladder: &Ladder| {
        let theirs = |&attempt: &usize| ladder.attempts()[attempt].candidate == slot;
        (0..ladder.attempts().len()).filter(theirs).collect::<Vec<_>>()
    };
    let say = |ladder: &mut Ladder, slot: usize, address: &str, at: u64| {
        let attempt = attempts_of(slot, ladder)[0];
        ladder.heard(attempt, answer(Family::V4, address), ms(at));
    };
    say(&mut ladder, 2, "1.1.1.9", 660);
    ladder.tick(ms(710));
    assert_eq!(ladder.verdict().map(|verdict| matches!(verdict, Verdict::Found(_))), Some(true));
    say(&mut ladder, 3, "1.1.1.7", 900);
    say(&mut ladder, 1, "1.1.1.8", 1005);
    say(&mut ladder, 0, "10.0.0.1", 800);
    let beside = ladder.found_beside().into_iter().map(|answer| (answer.by, answer.addresses)).collect::<Vec<_>>();
    let v4 = |text: &str| vec![text.parse::<IpAddr>().unwrap()];
    assert_eq!(beside, [(1, v4("1.1.1.8")), (3, v4("1.1.1.7"))], "the site's first, and no private address");
    say(&mut ladder, 1, "1.1.1.8", 1011);
    assert_eq!(ladder.found_beside().len(), 1, "not for ever");
}

#[test]
fn who_denies_what_was_found_is_noted_however_late() {
    let case = case(KNOWN, &[Silent, Silent], &[]);
    let start = Instant::now();
    let mut ladder = Ladder::new(case.plan(), start);
    ladder.tick(start + Duration::from_millis(150));
    let later = start + Duration::from_millis(200);
    ladder.heard(2, answer(Family::V4, "1.1.1.9"), later);
    ladder.heard(3, answer(Family::V6, ""), later);
    assert!(matches!(ladder.verdict(), Some(Verdict::Found(_))));
    ladder.heard(1, Reply::bare(Outcome::Nodata), later);
    assert!(ladder.late_deniers().is_empty(), "no ipv6 address was found");
    ladder.heard(0, Reply::bare(Outcome::Nodata), later);
    assert_eq!(ladder.late_deniers(), [0]);
}

#[test]
fn a_lie_is_one_a_look_up_and_a_spelling_of_its_own_is_none() {
    let case = case(KNOWN, &[], &[Silent]);
    let start = Instant::now();
    let mut ladder = Ladder::new(case.plan(), start);
    let respelt = Reply { respelt: true, ..answer(Family::V4, "1.1.1.9") };
    ladder.heard(0, Reply { outcome: Outcome::Forged, ..respelt }, start);
    assert!(!ladder.has_lied(0) && !ladder.confirms_spelling(0));
    ladder.heard(1, Reply::bare(Outcome::Forged), start);
    assert!(ladder.is_first_lie(1));
    let over_tcp = ladder.attempts().iter().map(|attempt| attempt.transport == Transport::Tcp).collect::<Vec<_>>();
    assert_eq!(over_tcp, [false, false, true, true]);
    ladder.heard(3, Reply::bare(Outcome::Forged), start);
    assert!(!ladder.is_first_lie(3));
    ladder.heard(2, answer(Family::V4, "1.1.1.9"), start);
    assert!(ladder.confirms_spelling(2), "it said the same over tcp");
}

#[test]
fn our_own_failure_is_nobodys_word() {
    let run = case(KNOWN, &[Exhausted(1000)], &[]).run();
    assert_eq!((run.verdict(), run.ms, run.tally.as_str()), (&Verdict::Unknown, 3000, "1 server (1 local)"));
    let rescued = case(Kind::Other, &[Exhausted(1000)], &[Good(20)]).run();
    assert_eq!((rescued.found().by, rescued.ms), (1, 1520));
    let patient = case(KNOWN, &[Exhausted(3)], &[]);
    let start = Instant::now();
    let mut ladder = Ladder::new(patient.plan(), start);
    ladder.heard(0, Reply::bare(Outcome::Local), start);
    ladder.tick(start + LOCAL_PAUSE);
    assert_eq!(ladder.attempts().len(), 2, "the same question, not another one");
    assert_eq!((ladder.attempts()[0].asked_at, ladder.attempts()[0].reply.is_none()), (start + LOCAL_PAUSE, true));
}

#[test]
fn whatever_the_servers_do_the_laws_hold() {
    use Outcome::*;
    let outcomes = [
        Nxdomain,
        Nodata,
        Servfail,
        Refused,
        Notimp,
        Formerr,
        Malformed,
        Unreachable,
        Lame,
        Tls,
        Truncated,
        Outcome::Forged,
    ];
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..20_000 {
        let mut says = || match random.u8(..15) {
            0..=4 => Code(outcomes[random.usize(..outcomes.len())], random.u64(..2000)),
            5 => Good(random.u64(..3500)),
            6 => V4Only(random.u64(..3500)),
            7 => V4And(outcomes[random.usize(..outcomes.len())]),
            8 => Address("10.0.0.1"),
            9 => Address("0.0.0.0"),
            10 => [OverTcp, Cut, NoEdns(Formerr), NoEdns(Servfail), Policy][random.usize(..5)],
            11 => Exhausted(random.usize(..12)),
            12 => Says::Forged([Tcp::Answers, Tcp::Refuses, Tcp::Swallows][random.usize(..3)]),
            _ => Silent,
        };
        let system: Vec<Says> = (0..round % 4).map(|_| says()).collect();
        let public: Vec<Says> = (0..round / 4 % 4).map(|_| says()).collect();
        let kind = [Kind::Other, KNOWN, CONFIGURED, Kind::Private][round / 16 % 4];
        let public = if kind == Kind::Private { Vec::new() } else { public };
        let case = Case { spare: round % 3 == 0, ..case(kind, &system, &public) };
        let run = case.run();
        let told = || format!("{kind:?} {system:?} {public:?}: {:?} after {} ms", run.verdict(), run.ms);
        assert!(run.ms <= 3000, "ends by the cap: {}", told());
        match run.verdict() {
            Verdict::Absent { confirmed: true, by, .. } => {
                let operators = by.iter().map(|&slot| case.servers[slot].1).collect::<Vec<_>>();
                assert!(operators.iter().any(|operator| *operator != operators[0]), "two operators: {}", told());
            }
            Verdict::Found(answer) => {
                let given = ["1.1.1.9", "10.0.0.1", "0.0.0.0"].map(|text| text.parse::<IpAddr>().unwrap());
                assert!(answer.addresses.iter().all(|address| given.contains(address)), "{}", told());
                let outside = case.servers[answer.by].0 != Tier::System;
                assert!(!outside || answer.addresses == [good()], "no private word from outside: {}", told());
                assert!(!answer.addresses.is_empty(), "{}", told());
            }
            Verdict::Spare => assert!(case.spare, "{}", told()),
            _ => {}
        }
    }
}
