//! What the go command would have printed without us: its resolver's rules applied to what the
//! system servers said (net/dnsclient_unix.go and dnsconfig_unix.go of go 1.26 and 1.27).
//!
//! go asks A and AAAA at once, for each name of its search list in turn, and the servers of
//! resolv.conf in order, as often as `attempts` says. NXDOMAIN and an empty answer end a question;
//! silence costs `timeout` and, like every other code, brings the next server on. Of two errors about
//! the name as it stands the one that comes last is printed; where chance decides which, or which
//! server is asked first, the word is `uncertain`. The port of go's own socket, which it prints with a
//! timeout and a refusal, is another one each time. Compared with the real go in namespaces
//! of their own (`tests/oracle.rs`). Pure.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::reply::{HAS_ADDITIONAL, Outcome, PAST_QUESTION, Reply};
use super::server::Transport;
use crate::target::Name;

/// What go says where it finds addresses, which follow.
pub const NO_ERROR: &str = "no error, dials ";
/// What go says where it cannot tell.
pub const UNCERTAIN: &str = "uncertain";
/// go's defaults (dnsReadConfig).
const TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPTS: usize = 2;
/// A reply that takes this long is waited for; what takes less is this machine's mood.
const SLOW: Duration = Duration::from_secs(1);
/// After this we have asked again over UDP, which go does not: the answer may be to our second packet.
const SENT_AGAIN: Duration = Duration::from_millis(300);
/// Two answers of a server that is only slow are no further apart.
const APART: Duration = Duration::from_millis(150);
/// The most that go takes for a name (nameList).
const LONGEST: usize = 253;

/// What go reads in resolv.conf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub servers: Vec<SocketAddr>,
    pub search: Vec<String>,
    pub ndots: usize,
    pub timeout: Duration,
    pub attempts: usize,
    pub rotate: bool,
    pub single_request: bool,
    pub use_tcp: bool,
}

impl Settings {
    /// Reads the text as go does: its options, its comments, its defaults. Without a search list the
    /// domain of the machine is one. `servers` are those that the text names.
    pub(super) fn read(text: &str, servers: Vec<SocketAddr>, hostname: &str) -> Settings {
        let mut settings = Settings {
            servers,
            search: Vec::new(),
            ndots: 1,
            timeout: TIMEOUT,
            attempts: ATTEMPTS,
            rotate: false,
            single_request: false,
            use_tcp: false,
        };
        for line in text.lines().filter(|line| !line.starts_with([';', '#'])) {
            let mut words = line.split([' ', '\t', '\r']).filter(|word| !word.is_empty());
            match words.next() {
                Some("domain") => settings.search = words.take(1).filter_map(suffix).collect(),
                Some("search") => settings.search = words.filter_map(suffix).collect(),
                Some("options") => words.for_each(|word| settings.read_option(word)),
                _ => {}
            }
        }
        if settings.search.is_empty() {
            settings.search = hostname.split_once('.').and_then(|(_, domain)| suffix(domain)).into_iter().collect();
        }
        if settings.servers.is_empty() {
            // defaultNS
            settings.servers = vec![([127, 0, 0, 1], 53).into(), (std::net::Ipv6Addr::LOCALHOST, 53).into()];
        }
        settings
    }

    fn read_option(&mut self, word: &str) {
        match word.split_once(':') {
            Some(("ndots", number)) => self.ndots = leading_number(number).min(15),
            Some(("timeout", number)) => self.timeout = Duration::from_secs(leading_number(number).max(1) as u64),
            Some(("attempts", number)) => self.attempts = leading_number(number).max(1),
            _ => match word {
                "rotate" => self.rotate = true,
                "single-request" | "single-request-reopen" => self.single_request = true,
                "use-vc" | "usevc" | "tcp" => self.use_tcp = true,
                // no-aaaa and the others are glibc's alone.
                _ => {}
            },
        }
    }

    /// The names that go asks for, in order (nameList).
    pub(super) fn names(&self, name: &Name) -> Vec<String> {
        let is_whole = name.as_str().matches('.').count() >= self.ndots;
        let longer = self.search.iter().map(|suffix| format!("{name}.{suffix}"));
        let longer = longer.filter(|longer| longer.len() <= LONGEST);
        let mut names: Vec<String> = longer.collect();
        names.insert(if is_whole { 0 } else { names.len() }, name.to_string());
        // avoidDNS, RFC 7686.
        names.retain(|name| !name.ends_with(".onion"));
        names
    }
}

fn suffix(word: &str) -> Option<String> {
    let word = word.trim_end_matches('.').to_lowercase();
    (!word.is_empty()).then_some(word)
}

/// As go's dtoi: the digits that it begins with, none are 0.
fn leading_number(text: &str) -> usize {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text[..digits].parse().unwrap_or(if digits == 0 { 0 } else { usize::MAX })
}

/// What the servers said about one of the names.
#[derive(Clone, Debug)]
pub(super) struct Hearing {
    pub name: String,
    pub said: Vec<Said>,
}

impl Hearing {
    /// Whether every server was heard on both questions.
    pub(super) fn is_whole(&self) -> bool {
        self.said.iter().all(|said| said.a.word != Word::Unknown && said.aaaa.word != Word::Unknown)
    }
}

/// What one server said to both questions.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub server: SocketAddr,
    pub a: Heard,
    pub aaaa: Heard,
}

/// A word, and when it was here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub word: Word,
    pub after: Duration,
    /// Silent over UDP, it answered over TCP.
    pub rescued: bool,
}

impl Heard {
    /// Nothing that is of use.
    pub(super) fn unknown() -> Heard {
        Heard { word: Word::Unknown, after: Duration::ZERO, rescued: false }
    }
}

/// A reply as go reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Addresses(Vec<IpAddr>),
    NoSuchHost,
    Misbehaving,
    Lame,
    Unreadable,
    Silence(Transport),
    /// What the system said, in its words.
    Fault(Transport, String),
    /// Not known: chance, or our own failure.
    Unknown,
}

/// A reply of ours, for go to read.
pub(super) struct Heeded<'a> {
    pub transport: Transport,
    pub reply: Option<&'a Reply>,
    pub after: Duration,
}

impl Heard {
    /// Reads the replies of one server to one question, in order: the first one counts, but for
    /// a truncated one, after which go asks over TCP too.
    pub(super) fn of(replies: &[Heeded<'_>], timeout: Duration) -> Heard {
        let Some(Heeded { transport, reply, after }) = replies.first() else { return Heard::unknown() };
        let rescued = replies.iter().any(|later| later.reply.is_some_and(|reply| reply.outcome.is_alive()));
        let silence = Heard { word: Word::Silence(*transport), after: timeout, rescued };
        let Some(reply) = reply else { return silence };
        if *after >= timeout {
            return silence;
        }
        if reply.outcome == Outcome::Truncated && *transport == Transport::Udp {
            let over_tcp = replies[1..].iter().position(|later| later.transport == Transport::Tcp);
            let later = over_tcp.map_or_else(Heard::unknown, |at| Heard::of(&replies[at + 1..], timeout));
            return Heard { after: later.after + *after, ..later };
        }
        match Word::of(reply, *transport) {
            Word::Silence(_) => silence,
            word => Heard { word, after: *after, rescued: false },
        }
    }

    /// Where one question was answered, and the other over UDP only after we had sent it again, markedly
    /// later, or over TCP alone, a packet was lost; go sends one.
    fn is_chance(&self, other: &Heard) -> bool {
        let is_answer = |heard: &Heard| !matches!(heard.word, Word::Silence(_) | Word::Fault(..) | Word::Unknown);
        let late = is_answer(self) && self.after >= SENT_AGAIN && self.after > other.after + APART;
        is_answer(other) && (late || self.rescued)
    }
}

impl Word {
    fn of(reply: &Reply, transport: Transport) -> Word {
        let notes = |wanted: &str| reply.note.as_deref().is_some_and(|note| note.starts_with(wanted));
        match reply.outcome {
            Outcome::Answer | Outcome::Bogus => Word::Addresses(reply.addresses.clone()),
            Outcome::Nxdomain | Outcome::Nodata | Outcome::Truncated => Word::NoSuchHost,
            Outcome::Servfail | Outcome::Refused | Outcome::Notimp | Outcome::Formerr => Word::Misbehaving,
            // checkHeader: something in the additional section makes it an empty answer.
            Outcome::Lame if notes(HAS_ADDITIONAL) => Word::NoSuchHost,
            Outcome::Lame => Word::Lame,
            Outcome::Malformed if notes(PAST_QUESTION) => Word::Unreadable,
            Outcome::Malformed if transport != Transport::Udp => Word::Unreadable,
            // go takes what it cannot read for a forgery, and waits on.
            Outcome::Timeout | Outcome::Malformed => Word::Silence(transport),
            Outcome::Unreachable => Word::Fault(transport, in_gos_words(reply.note.as_deref().unwrap_or_default())),
            Outcome::Forged | Outcome::Blocked | Outcome::Tls | Outcome::Local | Outcome::NotAsked => Word::Unknown,
        }
    }

    fn text(&self, server: SocketAddr, own: &HashMap<SocketAddr, SocketAddr>) -> String {
        // Any free port; go has another one each time.
        let own = |transport: &Transport| match own.get(&server) {
            Some(own) => format!("{transport} {own}->{server}"),
            None => format!("{transport} {server}"),
        };
        match self {
            Word::NoSuchHost => "no such host".to_owned(),
            Word::Misbehaving => "server misbehaving".to_owned(),
            Word::Lame => "lame referral".to_owned(),
            Word::Unreadable => "cannot unmarshal DNS message".to_owned(),
            Word::Silence(transport) => format!("read {}: i/o timeout", own(transport)),
            Word::Fault(transport, words) => match (words.as_str(), transport) {
                ("connection refused" | "no route to host", Transport::Udp) => {
                    format!("read {}: read: {words}", own(transport))
                }
                ("connection reset by peer", _) => format!("read {}: read: {words}", own(transport)),
                ("operation not permitted", Transport::Udp) => format!("write {}: write: {words}", own(transport)),
                _ => format!("dial {transport} {server}: connect: {words}"),
            },
            Word::Addresses(_) | Word::Unknown => String::new(),
        }
    }
}

/// The system's words as syscall.Errno has them: no capital, no number.
fn in_gos_words(note: &str) -> String {
    let words = note.split(" (os error").next().unwrap_or_default();
    let words = words.rsplit(": ").next().unwrap_or_default();
    let mut letters = words.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// One line: go's error, or the addresses that it would dial, or `uncertain`. `own` is where go's
/// sockets would be.
pub(super) fn would_print(
    name: &Name,
    settings: &Settings,
    hearings: &[Hearing],
    own: &HashMap<SocketAddr, SocketAddr>,
) -> String {
    let starts = if settings.rotate { settings.servers.len() } else { 1 };
    let turns = (0..starts).flat_map(|a| (0..starts).map(move |aaaa| (a, aaaa)));
    let mut printed: Vec<String> = turns.map(|turn| print_once(name, settings, hearings, own, turn)).collect();
    printed.dedup();
    match printed.as_slice() {
        [only] => only.clone(),
        _ => UNCERTAIN.to_owned(),
    }
}

/// What it prints if the two questions begin at these servers.
fn print_once(
    name: &Name,
    settings: &Settings,
    hearings: &[Hearing],
    own: &HashMap<SocketAddr, SocketAddr>,
    turn: (usize, usize),
) -> String {
    let mut error = None;
    let mut silence = Duration::ZERO;
    for wanted in settings.names(name) {
        let Some(hearing) = hearings.iter().find(|hearing| hearing.name == wanted) else { return UNCERTAIN.to_owned() };
        let a = ask(&hearing.said, settings, turn.0, |said| (&said.a, &said.aaaa));
        let aaaa = ask(&hearing.said, settings, turn.1, |said| (&said.aaaa, &said.a));
        silence += if settings.single_request { a.silence + aaaa.silence } else { a.silence.max(aaaa.silence) };
        match (&a.word, &aaaa.word) {
            (Word::Unknown, _) | (_, Word::Unknown) => return UNCERTAIN.to_owned(),
            (Word::Addresses(v4), Word::Addresses(v6)) => return dials(v4.iter().chain(v6), silence),
            (Word::Addresses(addresses), _) | (_, Word::Addresses(addresses)) => {
                return dials(addresses.iter(), silence);
            }
            _ => {}
        }
        let texts = [&a, &aaaa]
            .map(|asked| format!("lookup {name} on {}: {}", asked.server, asked.word.text(asked.server, own)));
        let last = usize::from(aaaa.time >= a.time || settings.single_request);
        let is_chance = !settings.single_request && texts[0] != texts[1] && a.time.abs_diff(aaaa.time) < SLOW;
        // The error about the name as it stands is preferred.
        if error.is_none() || wanted == name.as_str() {
            error = Some(if is_chance { UNCERTAIN.to_owned() } else { texts[last].clone() });
        }
    }
    error.unwrap_or_else(|| UNCERTAIN.to_owned())
}

struct Asked {
    server: SocketAddr,
    word: Word,
    /// What go waited, slow replies and silence.
    time: Duration,
    silence: Duration,
}

/// tryOneName: the servers in turn, `attempts` times around.
fn ask(said: &[Said], settings: &Settings, start: usize, heard: impl Fn(&Said) -> (&Heard, &Heard)) -> Asked {
    let unknown = |server| Asked { server, word: Word::Unknown, time: Duration::ZERO, silence: Duration::ZERO };
    let Some(first) = said.first() else { return unknown(settings.servers[0]) };
    let mut last = unknown(first.server);
    let order = (0..said.len()).map(|at| &said[(at + start) % said.len()]);
    for said in std::iter::repeat_n(order, settings.attempts).flatten() {
        let (this, other) = heard(said);
        if this.is_chance(other) {
            return unknown(said.server);
        }
        let slow = if this.after >= SLOW { this.after } else { Duration::ZERO };
        let silent = if matches!(this.word, Word::Silence(_)) { this.after } else { Duration::ZERO };
        last = Asked {
            server: said.server,
            word: this.word.clone(),
            time: last.time + slow,
            silence: last.silence + silent,
        };
        if matches!(last.word, Word::Addresses(_) | Word::NoSuchHost | Word::Unknown) {
            break;
        }
    }
    last
}

/// In no order that means anything: go sorts by RFC 6724, that is by the routes of the moment, and where
/// those do not tell, the reply that came first is in front.
fn dials<'a>(addresses: impl Iterator<Item = &'a IpAddr>, silence: Duration) -> String {
    let mut addresses: Vec<String> = addresses.map(IpAddr::to_string).collect();
    addresses.dedup();
    let after = if silence.is_zero() { String::new() } else { format!(" after {} s", silence.as_secs()) };
    format!("{NO_ERROR}{}{after}", addresses.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn said(last: u8, a: Word, aaaa: Word) -> Said {
        let heard = |word: Word| match word {
            Word::Silence(_) => Heard { word, after: TIMEOUT, rescued: false },
            word => Heard { word, after: MS, rescued: false },
        };
        Said { server: ([127, 0, 0, last], 53).into(), a: heard(a), aaaa: heard(aaaa) }
    }

    fn both(last: u8, word: Word) -> Said {
        said(last, word.clone(), word)
    }

    fn ok() -> Word {
        Word::Addresses(vec!["1.1.1.9".parse().unwrap()])
    }

    fn silence() -> Word {
        Word::Silence(Transport::Udp)
    }

    fn settings(text: &str, said: &[Said]) -> Settings {
        Settings::read(text, said.iter().map(|said| said.server).collect(), "builder")
    }

    /// What go prints of goproxy.cn under this resolv.conf.
    fn printed(text: &str, said: Vec<Said>) -> String {
        let own = |server: SocketAddr| (server, "127.0.0.1:40527".parse().unwrap());
        let own = said.iter().map(|said| own(said.server)).collect();
        let name = Name::parse("goproxy.cn").unwrap();
        let settings = settings(text, &said);
        let hearings = settings.names(&name).into_iter().map(|name| Hearing { name, said: said.clone() });
        would_print(&name, &settings, &hearings.collect::<Vec<_>>(), &own)
    }

    #[test]
    fn go_takes_the_first_denial_and_waits_for_the_silent() {
        let good = said(2, ok(), Word::NoSuchHost);
        let timeout = "read udp 127.0.0.1:40527->127.0.0.2:53: i/o timeout";
        let refused = Word::Fault(Transport::Udp, in_gos_words("Connection refused (os error 111)"));
        let unreachable = Word::Fault(Transport::Udp, in_gos_words("Network is unreachable (os error 101)"));
        let table = [
            (vec![good.clone()], "no error, dials 1.1.1.9".to_owned()),
            (vec![both(1, Word::NoSuchHost), good.clone()], on(1, "no such host")),
            (vec![both(1, Word::Misbehaving), good.clone()], "no error, dials 1.1.1.9".to_owned()),
            (vec![both(1, Word::Misbehaving)], on(1, "server misbehaving")),
            (vec![both(1, Word::Unreadable)], on(1, "cannot unmarshal DNS message")),
            (vec![both(1, silence()), good.clone()], "no error, dials 1.1.1.9 after 5 s".to_owned()),
            (vec![both(1, silence()), both(2, silence())], on(2, timeout)),
            (vec![both(1, silence()), both(2, Word::NoSuchHost)], on(2, "no such host")),
            (vec![said(1, ok(), silence())], "no error, dials 1.1.1.9 after 10 s".to_owned()),
            (vec![both(1, refused)], on(1, "read udp 127.0.0.1:40527->127.0.0.1:53: read: connection refused")),
            (vec![both(1, unreachable)], on(1, "dial udp 127.0.0.1:53: connect: network is unreachable")),
            (vec![both(1, Word::Unknown), good], UNCERTAIN.to_owned()),
            // The error that comes last is printed, and of two that come together chance chooses.
            (vec![said(2, Word::NoSuchHost, silence())], on(2, timeout)),
            (vec![said(1, Word::NoSuchHost, Word::Misbehaving)], UNCERTAIN.to_owned()),
        ];
        for (servers, expected) in table {
            assert_eq!(printed("", servers), expected);
        }
    }

    fn on(last: u8, words: &str) -> String {
        format!("lookup goproxy.cn on 127.0.0.{last}:53: {words}")
    }

    #[test]
    fn the_options_of_resolv_conf_are_honoured() {
        let silent_first = || vec![both(1, silence()), said(2, ok(), Word::NoSuchHost)];
        assert_eq!(printed("options rotate\n", silent_first()), UNCERTAIN);
        assert_eq!(printed("options rotate\n", vec![both(1, ok()), both(2, ok())]), "no error, dials 1.1.1.9");
        let mixed = || vec![said(1, Word::Misbehaving, Word::NoSuchHost)];
        assert_eq!(printed("options single-request\n", mixed()), on(1, "no such host"));
        assert_eq!(printed("# options single-request\n", mixed()), UNCERTAIN);
        let read = settings("options timeout:0 attempts:7 ndots:99 use-vc no-aaaa\ndomain a.\nsearch b c.d. .\n", &[]);
        assert_eq!((read.timeout, read.attempts, read.ndots), (Duration::from_secs(1), 7, 15));
        assert!(read.use_tcp && !read.rotate);
        assert_eq!(read.search, ["b", "c.d"]);
        assert_eq!(read.servers, ["127.0.0.1:53", "[::1]:53"].map(|text| text.parse::<SocketAddr>().unwrap()));
        assert_eq!(Settings::read("", Vec::new(), "b.corp.example").search, ["corp.example"]);
    }

    #[test]
    fn the_search_list_comes_before_a_name_with_few_dots_and_after_one_with_many() {
        let names = |text: &str, name: &str| settings(text, &[]).names(&Name::parse(name).unwrap());
        assert_eq!(names("search a b\n", "goproxy.cn"), ["goproxy.cn", "goproxy.cn.a", "goproxy.cn.b"]);
        assert_eq!(
            names("search a b\noptions ndots:2\n", "goproxy.cn"),
            ["goproxy.cn.a", "goproxy.cn.b", "goproxy.cn"]
        );
        assert_eq!(names("search a\n", "athens"), ["athens.a", "athens"]);
        assert_eq!(names("", "x.onion"), [""; 0]);
    }

    #[test]
    fn a_truncated_reply_is_asked_again_over_tcp_and_formerr_is_not() {
        let [truncated, formerr] = [Outcome::Truncated, Outcome::Formerr].map(Reply::bare);
        let answer = Reply { addresses: vec!["1.1.1.9".parse().unwrap()], ..Reply::bare(Outcome::Answer) };
        let heard = |replies: &[(Transport, Option<&Reply>, u64)]| {
            let heeded = |(transport, reply, millis): &(Transport, _, u64)| Heeded {
                transport: *transport,
                reply: *reply,
                after: MS * u32::try_from(*millis).unwrap(),
            };
            Heard::of(&replies.iter().map(heeded).collect::<Vec<_>>(), TIMEOUT).word
        };
        let (udp, tcp) = (Transport::Udp, Transport::Tcp);
        assert_eq!(heard(&[(udp, Some(&truncated), 1), (tcp, Some(&answer), 1)]), ok());
        assert_eq!(heard(&[(udp, Some(&truncated), 1), (tcp, None, 0)]), Word::Silence(tcp));
        assert_eq!(heard(&[(udp, Some(&formerr), 1), (udp, Some(&answer), 1)]), Word::Misbehaving);
        assert_eq!(heard(&[(udp, None, 0), (tcp, Some(&answer), 1)]), silence());
        assert_eq!(heard(&[(udp, Some(&answer), 6000)]), silence());
    }

    /// Our second packet was answered; whether go's only one is, is chance.
    #[test]
    fn an_answer_to_our_second_packet_says_nothing_about_gos_first() {
        let late = |word| Heard { word, after: 301 * MS, rescued: false };
        let lossy = Said { a: late(ok()), ..said(1, ok(), Word::NoSuchHost) };
        assert_eq!(printed("", vec![lossy]), UNCERTAIN);
        let slow = Said { a: late(ok()), aaaa: late(Word::NoSuchHost), ..said(1, ok(), ok()) };
        assert_eq!(printed("", vec![slow]), "no error, dials 1.1.1.9");
    }
}
