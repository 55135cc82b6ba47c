//! What the go command would have printed without us: its resolver's rules applied to what the
//! system servers said (net/dnsclient_unix.go of go 1.27).
//!
//! go asks A and AAAA at once and the servers of resolv.conf in order, twice around. NXDOMAIN and
//! an empty answer end it; silence costs five seconds and, like every other code, brings the next
//! server on; the error of the A question is the one that is printed. Compared with the real go in
//! a namespace of its own, code by code; only the address of go's own socket, which it prints with
//! a timeout and a refusal (`read udp 127.0.0.1:40527->…`), is left out. Pure.

use std::net::{IpAddr, SocketAddr};

use super::reply::{Outcome, Reply};
use crate::target::Name;

/// go's own words where it finds no server in resolv.conf: it asks this host, over both families.
const LAST_RESORT: &str = "[::1]:53";
/// Seconds that go waits for a server, and how often it goes around (resolv.conf(5) defaults).
const TIMEOUT: u64 = 5;
const ROUNDS: usize = 2;

/// What one server said to go, to both questions.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub server: SocketAddr,
    pub a: Word,
    pub aaaa: Word,
}

/// A reply as go reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Addresses(Vec<IpAddr>),
    NoSuchHost,
    Misbehaving,
    Lame,
    Silence,
    Refused,
    /// Not known: chance, or our own failure.
    Unknown,
}

impl Word {
    /// Reads the replies of one server to one question, in order: the first one counts, but for
    /// a truncated one, after which go asks over TCP too.
    pub(super) fn of(replies: &[Option<&Reply>]) -> Word {
        let Some(first) = replies.first() else { return Word::Unknown };
        let Some(reply) = first else { return Word::Silence };
        match reply.outcome {
            Outcome::Answer | Outcome::Bogus => Word::Addresses(reply.addresses.clone()),
            Outcome::Nxdomain | Outcome::Nodata => Word::NoSuchHost,
            Outcome::Servfail | Outcome::Refused | Outcome::Notimp | Outcome::Formerr => Word::Misbehaving,
            Outcome::Lame => Word::Lame,
            // go takes what it cannot read for a forgery, and waits on.
            Outcome::Timeout | Outcome::Malformed => Word::Silence,
            Outcome::Unreachable => Word::Refused,
            Outcome::Truncated => Word::of(&replies[1..]),
            Outcome::Forged | Outcome::Blocked | Outcome::Tls | Outcome::Local | Outcome::NotAsked => Word::Unknown,
        }
    }

    fn text(&self) -> &'static str {
        match self {
            Word::NoSuchHost => "no such host",
            Word::Misbehaving => "server misbehaving",
            Word::Lame => "lame referral",
            Word::Silence => "i/o timeout",
            Word::Refused => "connection refused",
            Word::Addresses(_) | Word::Unknown => "",
        }
    }
}

/// One line: go's error, or the addresses that it would dial, or `uncertain`.
pub(super) fn would_print(name: &Name, servers: &[Said], rotate: bool) -> String {
    if servers.is_empty() {
        return format!("lookup {name} on {LAST_RESORT}: connection refused");
    }
    if rotate && servers.len() > 1 {
        return "uncertain".to_owned();
    }
    let a = ask(servers, |said| &said.a);
    let aaaa = ask(servers, |said| &said.aaaa);
    let seconds = a.seconds.max(aaaa.seconds);
    match (&a.word, &aaaa.word) {
        (Word::Unknown, _) | (Word::Addresses(_), Word::Unknown) => "uncertain".to_owned(),
        (Word::Addresses(v4), Word::Addresses(v6)) if v4 == v6 => dials(v4.iter(), seconds),
        (Word::Addresses(v4), Word::Addresses(v6)) => dials(v4.iter().chain(v6), seconds),
        (Word::Addresses(addresses), _) | (_, Word::Addresses(addresses)) => dials(addresses.iter(), seconds),
        (error, _) => format!("lookup {name} on {}: {}", a.server, error.text()),
    }
}

struct Answered {
    server: SocketAddr,
    word: Word,
    seconds: u64,
}

fn ask(servers: &[Said], word: impl Fn(&Said) -> &Word) -> Answered {
    let mut last = Answered { server: servers[0].server, word: Word::Unknown, seconds: 0 };
    for said in std::iter::repeat_n(servers, ROUNDS).flatten() {
        let word = word(said).clone();
        last.server = said.server;
        last.seconds += if word == Word::Silence { TIMEOUT } else { 0 };
        last.word = word;
        if matches!(last.word, Word::Addresses(_) | Word::NoSuchHost | Word::Unknown) {
            break;
        }
    }
    last
}

fn dials<'a>(addresses: impl Iterator<Item = &'a IpAddr>, seconds: u64) -> String {
    let addresses: Vec<String> = addresses.map(IpAddr::to_string).collect();
    let after = if seconds > 0 { format!(" after {seconds} s") } else { String::new() };
    format!("no error, dials {}{after}", addresses.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(port: u16, a: Word, aaaa: Word) -> Said {
        Said { server: ([127, 0, 0, 1], port).into(), a, aaaa }
    }

    fn ok() -> Word {
        Word::Addresses(vec!["1.1.1.9".parse().unwrap()])
    }

    fn both(port: u16, word: Word) -> Said {
        said(port, word.clone(), word)
    }

    #[test]
    fn go_takes_the_first_denial_and_waits_for_the_silent() {
        let good = said(2, ok(), Word::NoSuchHost);
        let table = [
            (vec![good.clone()], "no error, dials 1.1.1.9"),
            (vec![both(1, Word::NoSuchHost), good.clone()], "lookup goproxy.cn on 127.0.0.1:1: no such host"),
            (vec![both(1, Word::Misbehaving), good.clone()], "no error, dials 1.1.1.9"),
            (vec![both(1, Word::Misbehaving)], "lookup goproxy.cn on 127.0.0.1:1: server misbehaving"),
            (vec![both(1, Word::Silence), good.clone()], "no error, dials 1.1.1.9 after 5 s"),
            (vec![both(1, Word::Silence), both(2, Word::Silence)], "lookup goproxy.cn on 127.0.0.1:2: i/o timeout"),
            (vec![both(1, Word::Silence), both(2, Word::NoSuchHost)], "lookup goproxy.cn on 127.0.0.1:2: no such host"),
            (vec![said(1, ok(), Word::Silence)], "no error, dials 1.1.1.9 after 10 s"),
            (vec![both(1, Word::Refused)], "lookup goproxy.cn on 127.0.0.1:1: connection refused"),
            (vec![both(1, Word::Unknown), good.clone()], "uncertain"),
            (vec![], "lookup goproxy.cn on [::1]:53: connection refused"),
        ];
        let name = Name::parse("goproxy.cn").unwrap();
        for (servers, printed) in table {
            assert_eq!(would_print(&name, &servers, false), printed);
        }
        assert_eq!(would_print(&name, &[both(1, Word::NoSuchHost), good], true), "uncertain");
    }

    #[test]
    fn a_truncated_reply_is_asked_again_over_tcp_and_formerr_is_not() {
        let [truncated, formerr] = [Outcome::Truncated, Outcome::Formerr].map(Reply::bare);
        let answer = Reply { addresses: vec!["1.1.1.9".parse().unwrap()], ..Reply::bare(Outcome::Answer) };
        assert_eq!(Word::of(&[Some(&truncated), Some(&answer)]), ok());
        assert_eq!(Word::of(&[Some(&formerr), Some(&answer)]), Word::Misbehaving);
        assert_eq!(Word::of(&[None, Some(&answer)]), Word::Silence);
    }
}
