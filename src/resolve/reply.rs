//! What a server said: the question as it goes over the wire, and the judgement of what comes back.
//!
//! Pure, and fed with strangers' bytes: the answer parser is one of the fuzzed cores. Only records
//! on the CNAME chain of the question count (nothing from other sections is ever believed), chains
//! are followed a bounded way, and at most [`MOST_ADDRESSES`] addresses are kept.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name as WireName, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use crate::metrics::Label;
use crate::target::Name;

/// More than any name needs; a reply with more is cut.
pub(super) const MOST_ADDRESSES: usize = 32;
/// Links of a CNAME chain that are followed; public resolvers stop between 8 and 16.
const MOST_LINKS: usize = 16;
/// What we say that we can take over UDP (DNS flag day 2020).
const PAYLOAD: u16 = 1232;

/// How the note begins of a reply whose question can be read, and no more: go looks at it, and past it.
pub(super) const PAST_QUESTION: &str = "what follows the question cannot be read";
/// The note of a lame reply that has records in its additional section; go does not call that lame.
pub(super) const HAS_ADDITIONAL: &str = "with additional records";

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Both, in the order in which go asks.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// Which one an address is of.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    fn record(self) -> RecordType {
        match self {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        }
    }
}

impl Label for Family {
    const KEY: &'static str = "family";

    fn label(&self) -> &'static str {
        match self {
            Family::V4 => "a",
            Family::V6 => "aaaa",
        }
    }
}

/// What one attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    Answer,
    Nxdomain,
    Nodata,
    Servfail,
    Refused,
    Notimp,
    Formerr,
    Timeout,
    Unreachable,
    Malformed,
    Truncated,
    Lame,
    Bogus,
    Forged,
    Blocked,
    Tls,
    Local,
    NotAsked,
}

impl Outcome {
    /// Whether a server that says this is alive, whatever its word is worth.
    pub fn is_alive(self) -> bool {
        use Outcome::*;
        !matches!(self, Timeout | Unreachable | Malformed | Tls | Local | NotAsked)
    }

    /// Whether this says that the name has no such address.
    pub fn is_negative(self) -> bool {
        matches!(self, Outcome::Nxdomain | Outcome::Nodata)
    }
}

impl Label for Outcome {
    fn label(&self) -> &'static str {
        match self {
            Outcome::Answer => "answer",
            Outcome::Nxdomain => "nxdomain",
            Outcome::Nodata => "nodata",
            Outcome::Servfail => "servfail",
            Outcome::Refused => "refused",
            Outcome::Notimp => "notimp",
            Outcome::Formerr => "formerr",
            Outcome::Timeout => "timeout",
            Outcome::Unreachable => "unreachable",
            Outcome::Malformed => "malformed",
            Outcome::Truncated => "truncated",
            Outcome::Lame => "lame",
            Outcome::Bogus => "bogus",
            Outcome::Forged => "forged",
            Outcome::Blocked => "blocked",
            Outcome::Tls => "tls",
            Outcome::Local => "local",
            Outcome::NotAsked => "not-asked",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// An extended DNS error (RFC 8914): why, in the server's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ede {
    pub code: u16,
    pub text: String,
}

impl Ede {
    /// Whether this is somebody's policy and not a fault: blocked, censored, filtered, prohibited.
    pub fn is_policy(&self) -> bool {
        (15..=18).contains(&self.code)
    }

    fn title(&self) -> &'static str {
        let titles = [
            "Other Error",
            "Unsupported DNSKEY Algorithm",
            "Unsupported DS Digest Type",
            "Stale Answer",
            "Forged Answer",
            "DNSSEC Indeterminate",
            "DNSSEC Bogus",
            "Signature Expired",
            "Signature Not Yet Valid",
            "DNSKEY Missing",
            "RRSIGs Missing",
            "No Zone Key Bit Set",
            "NSEC Missing",
            "Cached Error",
            "Not Ready",
            "Blocked",
            "Censored",
            "Filtered",
            "Prohibited",
            "Stale NXDOMAIN Answer",
            "Not Authoritative",
            "Not Supported",
            "No Reachable Authority",
            "Network Error",
            "Invalid Data",
        ];
        titles.get(usize::from(self.code)).copied().unwrap_or("Unknown Error")
    }
}

impl fmt::Display for Ede {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.title(), self.code)?;
        if self.text.is_empty() { Ok(()) } else { write!(f, ": {}", self.text) }
    }
}

/// One attempt's outcome and what came with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub outcome: Outcome,
    pub addresses: Vec<IpAddr>,
    /// How long the answer, or the denial, may be believed.
    pub ttl: Option<Duration>,
    pub ede: Option<Ede>,
    /// What a transport had to say about its failure.
    pub note: Option<String>,
    /// The name came back in another spelling than we gave it: forged off the path, or by a server
    /// that spells names its own way.
    pub respelt: bool,
    /// The records themselves, where they were asked for to be passed on.
    pub records: Vec<Record>,
}

impl Reply {
    /// An outcome with nothing else to it.
    pub fn bare(outcome: Outcome) -> Reply {
        let (addresses, records) = (Vec::new(), Vec::new());
        Reply { outcome, addresses, ttl: None, ede: None, note: None, respelt: false, records }
    }

    /// An outcome and the words of whatever failed.
    pub fn failed(outcome: Outcome, note: impl fmt::Display) -> Reply {
        Reply { note: Some(note.to_string()), ..Reply::bare(outcome) }
    }
}

/// One question, ready to be sent over any transport.
#[derive(Clone, Debug)]
pub(super) struct Question {
    name: WireName,
    record: RecordType,
    edns: bool,
    mixed: bool,
    /// The message itself is wanted, whatever is in it.
    whole: bool,
}

impl Question {
    /// None where the name does not fit the wire; a [`Name`] always does.
    pub(super) fn new(name: &Name, family: Family, edns: bool) -> Option<Question> {
        let mut wire = WireName::from_labels(name.as_str().split('.').map(str::as_bytes)).ok()?;
        wire.set_fqdn(true);
        Some(Question { name: wire, record: family.record(), edns, mixed: false, whole: false })
    }

    /// A question for records of any kind, whose answer is passed on as it is.
    pub(super) fn relayed(query: &Query, edns: bool) -> Question {
        Question { name: query.name().clone(), record: query.query_type(), edns, mixed: false, whole: true }
    }

    /// The same question with its name in mixed case, a bit of `bits` a letter: a reply must repeat it
    /// letter by letter, which who did not see the question cannot.
    pub(super) fn mix_case(self, bits: &[u8; 32]) -> Question {
        let is_set = |at: usize| bits[at / 8 % bits.len()] >> (at % 8) & 1 == 1;
        let mut at = 0..;
        let mut mix = |byte: &u8| match at.next().is_some_and(is_set) {
            true => byte.to_ascii_uppercase(),
            false => byte.to_ascii_lowercase(),
        };
        let labels: Vec<Vec<u8>> = self.name.iter().map(|label| label.iter().map(&mut mix).collect()).collect();
        let Ok(mut name) = WireName::from_labels(labels.iter().map(Vec::as_slice)) else { return self };
        name.set_fqdn(true);
        Question { name, mixed: true, ..self }
    }

    /// The message, under an id.
    pub(super) fn message(&self, id: u16) -> Message {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(self.name.clone(), self.record));
        if self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(PAYLOAD);
            message.set_edns(edns);
        }
        message
    }

    /// Judges a datagram. None where it is not the reply to this question, so that the caller
    /// listens on: a wrong id or another question is a stranger's packet, not a server's answer.
    pub(super) fn judge_packet(&self, id: u16, packet: &[u8]) -> Option<Reply> {
        let header = packet.get(..12)?;
        let answers_us = header[..2] == id.to_be_bytes() && header[2] & 0x80 != 0;
        if !answers_us {
            return None;
        }
        match Message::from_vec(packet) {
            Ok(message) => self.answers(&message).then(|| self.judge_spelling(&message, self.judge(&message))),
            // A truncated packet may well end in the middle of a record.
            Err(_) if header[2] & 0x02 != 0 => Some(Reply::bare(Outcome::Truncated)),
            Err(error) => Some(self.judge_fragment(packet, &error)),
        }
    }

    /// A packet that is no message: how far it can be read.
    fn judge_fragment(&self, packet: &[u8], error: &impl fmt::Display) -> Reply {
        let mut decoder = BinDecoder::new(packet);
        let header = Header::read(&mut decoder).ok().filter(|header| header.counts.queries == 1);
        let question = header.and_then(|_| Query::read(&mut decoder).ok());
        let is_ours =
            question.is_some_and(|query| query.query_type == self.record && query.name.eq_ignore_root(&self.name));
        let note = if is_ours { format!("{PAST_QUESTION}: {error}") } else { error.to_string() };
        Reply::failed(Outcome::Malformed, note)
    }

    /// Judges a message that came over a connection of ours.
    pub(super) fn judge_message(&self, message: &Message) -> Reply {
        if self.answers(message) {
            return self.judge(message);
        }
        Reply::failed(Outcome::Malformed, "the reply is to another question")
    }

    /// Whether the message repeats our question. Some servers leave it out of an error.
    fn answers(&self, message: &Message) -> bool {
        match message.queries.as_slice() {
            [] => !matches!(message.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain),
            [query] => query.query_type == self.record && query.name.eq_ignore_root(&self.name),
            _ => false,
        }
    }

    /// What came in another spelling is not believed as it stands. An error may leave the question out.
    fn judge_spelling(&self, message: &Message, reply: Reply) -> Reply {
        let is_kept = |query: &Query| query.name.eq_ignore_root_case(&self.name);
        if !self.mixed || message.queries.iter().all(is_kept) {
            return reply;
        }
        let note = Some("the reply spells the name otherwise than we did".to_owned());
        Reply { outcome: Outcome::Forged, note, respelt: true, ..reply }
    }

    fn judge(&self, message: &Message) -> Reply {
        let ede = read_ede(message);
        if message.metadata.truncation {
            return Reply { ede, ..Reply::bare(Outcome::Truncated) };
        }
        let is_fine = message.metadata.response_code == ResponseCode::NoError;
        let (addresses, ttl) = if is_fine && !self.whole { self.follow(message) } else { (Vec::new(), None) };
        let records = if is_fine && self.whole { self.chain(message) } else { Vec::new() };
        let ttl = ttl.or_else(|| records.iter().map(|record| Duration::from_secs(record.ttl.into())).min());
        let outcome = match message.metadata.response_code {
            ResponseCode::NoError if !addresses.is_empty() || !records.is_empty() => Outcome::Answer,
            ResponseCode::NoError if is_lame(message) => Outcome::Lame,
            ResponseCode::NoError => Outcome::Nodata,
            ResponseCode::NXDomain => Outcome::Nxdomain,
            ResponseCode::ServFail => Outcome::Servfail,
            ResponseCode::NotImp => Outcome::Notimp,
            ResponseCode::FormErr | ResponseCode::BADVERS => Outcome::Formerr,
            ResponseCode::Refused => Outcome::Refused,
            _ => Outcome::Servfail,
        };
        let ttl = if outcome.is_negative() { negative_ttl(message) } else { ttl };
        let has_additional = !message.additionals.is_empty() || message.edns.is_some();
        let note = (outcome == Outcome::Lame && has_additional).then(|| HAS_ADDITIONAL.to_owned());
        Reply { outcome, addresses, ttl, ede, note, respelt: false, records }
    }

    /// The records of the question's CNAME chain: nothing else in the answer is believed.
    fn chain(&self, message: &Message) -> Vec<Record> {
        let mut owner = &self.name;
        let mut records: Vec<Record> = Vec::new();
        for _ in 0..MOST_LINKS {
            let of_owner = message.answers.iter().filter(|record| record.name.eq_ignore_root(owner));
            let (wanted, links): (Vec<_>, Vec<_>) = of_owner
                .filter(|record| [self.record, RecordType::CNAME].contains(&record.record_type()))
                .partition(|record| record.record_type() == self.record);
            records.extend(wanted.into_iter().cloned());
            let Some((link, RData::CNAME(alias))) = links.first().map(|link| (link, &link.data)) else { break };
            records.push((*link).clone());
            owner = &alias.0;
        }
        records
    }

    /// The addresses at the end of the question's CNAME chain, and the least TTL on the way.
    fn follow(&self, message: &Message) -> (Vec<IpAddr>, Option<Duration>) {
        let mut owner = &self.name;
        let mut ttl = u32::MAX;
        for _ in 0..MOST_LINKS {
            let of_owner = || message.answers.iter().filter(|record| record.name.eq_ignore_root(owner));
            let mut addresses = Vec::new();
            for record in of_owner().filter(|record| record.record_type() == self.record) {
                if let (Some(address), true) = (record.data.ip_addr(), addresses.len() < MOST_ADDRESSES) {
                    ttl = ttl.min(record.ttl);
                    addresses.push(address);
                }
            }
            if !addresses.is_empty() {
                addresses.dedup();
                return (addresses, Some(Duration::from_secs(ttl.into())));
            }
            let alias = of_owner().find_map(|record| match &record.data {
                RData::CNAME(alias) => Some((&alias.0, record.ttl)),
                _ => None,
            });
            let Some((next, link_ttl)) = alias else { break };
            ttl = ttl.min(link_ttl);
            owner = next;
        }
        (Vec::new(), None)
    }
}

/// An empty NOERROR from a server that neither knows nor asks on: go's rule for a lame referral
/// (net/dnsclient_unix.go, checkHeader).
fn is_lame(message: &Message) -> bool {
    !message.metadata.authoritative && !message.metadata.recursion_available && message.answers.is_empty()
}

/// RFC 2308 section 5: the lesser of the SOA's own TTL and its MINIMUM field.
fn negative_ttl(message: &Message) -> Option<Duration> {
    message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(Duration::from_secs(record.ttl.min(soa.minimum).into())),
        _ => None,
    })
}

fn read_ede(message: &Message) -> Option<Ede> {
    match message.edns.as_ref()?.option(EdnsCode::Unknown(15))? {
        EdnsOption::Unknown(_, bytes) if bytes.len() >= 2 => Some(Ede {
            code: u16::from_be_bytes([bytes[0], bytes[1]]),
            text: printable(&String::from_utf8_lossy(&bytes[2..])),
        }),
        _ => None,
    }
}

/// A server's text ends up on terminals and in logs.
fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::rdata::{A, CNAME};

    fn question() -> Question {
        Question::new(&Name::parse("goproxy.cn").unwrap(), Family::V4, true).unwrap()
    }

    fn wire(name: &str) -> WireName {
        WireName::from_ascii(name).unwrap()
    }

    fn reply_to(question: &Question) -> Message {
        let mut message = Message::response(7, OpCode::Query);
        message.metadata.recursion_available = true;
        message.add_query(Query::query(question.name.clone(), question.record));
        message
    }

    fn address(owner: &str, ttl: u32, last: u8) -> Record {
        Record::from_rdata(wire(owner), ttl, RData::A(A::new(1, 1, 1, last)))
    }

    fn alias(owner: &str, ttl: u32, to: &str) -> Record {
        Record::from_rdata(wire(owner), ttl, RData::CNAME(CNAME(wire(to))))
    }

    fn judged(change: impl FnOnce(&mut Message)) -> Reply {
        let question = question();
        let mut message = reply_to(&question);
        change(&mut message);
        question.judge_packet(7, &message.to_vec().unwrap()).unwrap()
    }

    #[test]
    fn addresses_come_from_the_end_of_the_alias_chain_alone() {
        let reply = judged(|message| {
            message.add_answer(alias("GoProxy.cn.", 300, "edge.example."));
            message.add_answer(address("edge.example.", 60, 9));
            message.add_answer(address("stranger.example.", 60, 66));
            message.add_additional(address("goproxy.cn.", 60, 67));
        });
        assert_eq!(reply.outcome, Outcome::Answer);
        assert_eq!(reply.addresses, ["1.1.1.9".parse::<IpAddr>().unwrap()]);
        assert_eq!(reply.ttl, Some(Duration::from_secs(60)));
    }

    #[test]
    fn an_alias_loop_ends() {
        let reply = judged(|message| {
            message.add_answer(alias("goproxy.cn.", 1, "b.example."));
            message.add_answer(alias("b.example.", 1, "goproxy.cn."));
        });
        assert_eq!(reply.outcome, Outcome::Nodata);
    }

    #[test]
    fn records_without_end_are_cut() {
        let reply = judged(|message| {
            for number in 0..2000u32 {
                message.add_answer(address("goproxy.cn.", number + 1, (number % 250) as u8));
            }
        });
        assert_eq!((reply.outcome, reply.addresses.len()), (Outcome::Answer, MOST_ADDRESSES));
    }

    #[test]
    fn codes_become_outcomes() {
        let table = [
            (ResponseCode::NoError, Outcome::Nodata),
            (ResponseCode::NXDomain, Outcome::Nxdomain),
            (ResponseCode::ServFail, Outcome::Servfail),
            (ResponseCode::Refused, Outcome::Refused),
            (ResponseCode::NotImp, Outcome::Notimp),
            (ResponseCode::FormErr, Outcome::Formerr),
        ];
        for (code, outcome) in table {
            assert_eq!(judged(|message| message.metadata.response_code = code).outcome, outcome);
        }
        assert_eq!(judged(|message| message.metadata.truncation = true).outcome, Outcome::Truncated);
        assert_eq!(judged(|message| message.metadata.recursion_available = false).outcome, Outcome::Lame);
    }

    #[test]
    fn strangers_packets_are_no_reply() {
        let question = question();
        let message = reply_to(&question);
        assert!(question.judge_packet(8, &message.to_vec().unwrap()).is_none(), "wrong id");
        assert!(question.judge_packet(7, &question.message(7).to_vec().unwrap()).is_none(), "a query");
        let other = Question::new(&Name::parse("other.example").unwrap(), Family::V4, true).unwrap();
        assert!(question.judge_packet(7, &reply_to(&other).to_vec().unwrap()).is_none(), "another question");
        assert!(question.judge_packet(7, b"short").is_none());
    }

    #[test]
    fn a_reply_in_another_spelling_is_not_believed_where_the_case_was_mixed() {
        let mixed = question().mix_case(&[0b0101_0101; 32]);
        let sent = mixed.message(7).to_vec().unwrap();
        let spelt = b"\x07GoPrOxY\x02cN";
        assert!(sent.windows(spelt.len()).any(|window| window == spelt), "{sent:?}");
        let answer = |asked: &Question| {
            let mut message = reply_to(asked);
            message.add_answer(address("goproxy.cn.", 60, 9));
            message.to_vec().unwrap()
        };
        assert_eq!(mixed.judge_packet(7, &answer(&mixed)).unwrap().outcome, Outcome::Answer);
        let respelt = mixed.judge_packet(7, &answer(&question())).unwrap();
        assert!(respelt.outcome == Outcome::Forged && respelt.respelt && respelt.addresses.len() == 1);
        assert_eq!(question().judge_packet(7, &answer(&mixed)).unwrap().outcome, Outcome::Answer, "we did not mix");
        let mut failed = reply_to(&mixed);
        failed.queries.clear();
        failed.metadata.response_code = ResponseCode::ServFail;
        let failed = mixed.judge_packet(7, &failed.to_vec().unwrap()).unwrap();
        assert_eq!(failed.outcome, Outcome::Servfail, "an error may leave the question out");
    }

    #[test]
    fn a_reply_that_cannot_be_read_is_malformed_and_never_a_panic() {
        let question = question();
        let mut message = reply_to(&question);
        message.add_answer(address("goproxy.cn.", 60, 9));
        let whole = message.to_vec().unwrap();
        for end in 12..whole.len() {
            let reply = question.judge_packet(7, &whole[..end]);
            assert!(reply.is_none_or(|reply| reply.outcome == Outcome::Malformed), "cut at {end}");
        }
    }

    #[test]
    fn a_servers_reason_is_read_and_made_printable() {
        let reply = judged(|message| {
            message.metadata.response_code = ResponseCode::NXDomain;
            let mut edns = Edns::new();
            edns.options_mut().insert(EdnsOption::Unknown(15, b"\x00\x11by \x1b[31mpolicy".to_vec()));
            message.set_edns(edns);
        });
        let ede = reply.ede.unwrap();
        assert!(ede.is_policy());
        assert_eq!(ede.to_string(), "Filtered (17): by [31mpolicy");
    }
}
