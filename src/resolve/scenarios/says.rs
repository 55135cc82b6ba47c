//! What a scripted name server says: one vocabulary of faults for the scenarios under a paused clock,
//! for the servers on real sockets of the integration tests (`tests/it/support/nameserver.rs`) and for
//! `examples/matrix.rs`, which take it from here.
//!
//! Pure: a question goes in, packets and their delays come out. [`Says`] is also read from text, as
//! scenario files write it.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// What a server does with a question.
#[derive(Clone, Debug)]
pub enum Says {
    /// This address to A, nothing to AAAA; or the other way round.
    Address(&'static str),
    /// These addresses, each to the question that fits.
    Addresses(&'static [&'static str]),
    Code(ResponseCode),
    /// A code, and why (RFC 8914).
    CodeBecause(ResponseCode, u16, &'static str),
    Nodata,
    /// NOERROR, nothing in it, and no recursion.
    Lame,
    /// The same with somebody else to ask, who says the same.
    Referral,
    Silent,
    /// This address over TCP; over UDP nothing, or TC.
    OverTcp(&'static str),
    Cut(&'static str),
    /// First a packet with another id and another address.
    WrongIdFirst(&'static str),
    /// Over UDP another address first, as somebody on the path would, and so many milliseconds later this one.
    ForgedFirst(&'static str, u64),
    /// This address for names under the suffix, NXDOMAIN for all others.
    Under(&'static str, &'static str),
    /// One thing for names under the suffix, the other for all others.
    Split(&'static str, Box<Says>, Box<Says>),
    /// FORMERR while there is EDNS in the question.
    NoEdns(&'static str),
    /// This address to A; silence, or another code, to AAAA.
    SilentAaaa(&'static str),
    CodeAaaa(&'static str, ResponseCode),
    /// This address to A; to AAAA nothing, with "Filtered" as the reason.
    FilteredAaaa(&'static str),
    /// A header, and nonsense after it.
    Garbage,
    /// A question that can be read, and nonsense after it.
    Broken,
    /// An alias for which there is no address.
    AliasNowhere,
    AliasLoop,
    /// So many aliases before the address.
    AliasChain(usize, &'static str),
    /// TC, and over TCP as many records as fit.
    Flood,
    /// So many milliseconds later.
    Slow(u64, Box<Says>),
    /// The first, third, fifth … packet is lost.
    EveryOther(Box<Says>),
    /// This to a question for text, nothing to any other.
    Text(&'static str),
    /// So many packets are lost before one arrives.
    Lost(usize, Box<Says>),
}

/// One packet to send back, and when.
pub type Packet = (Duration, Vec<u8>);

impl Says {
    /// The packets to send back for the `number`th one that came (from 0).
    pub fn replies(&self, question: &Message, udp: bool, number: usize) -> Vec<Packet> {
        let Some(query) = question.queries.first().cloned() else { return Vec::new() };
        match self {
            Says::Slow(millis, says) => delayed(says.replies(question, udp, number), *millis),
            Says::EveryOther(_) if udp && number.is_multiple_of(2) => Vec::new(),
            Says::Lost(most, _) if udp && number < *most => Vec::new(),
            Says::EveryOther(says) | Says::Lost(_, says) => says.replies(question, udp, number),
            Says::Split(suffix, under, others) => {
                let says = if is_under(&query, suffix) { under } else { others };
                says.replies(question, udp, number)
            }
            Says::ForgedFirst(text, millis) if udp => {
                let forged = now(with_address(question, &query, "6.6.6.6"));
                let real = delayed(vec![now(with_address(question, &query, text))], *millis);
                std::iter::once(forged).chain(real).collect()
            }
            says => says.at_once(question, &query, udp).into_iter().map(now).collect(),
        }
    }

    fn at_once(&self, question: &Message, query: &Query, udp: bool) -> Vec<Message> {
        let code = |code| vec![with_code(question, query, code)];
        let address = |text: &str| vec![with_address(question, query, text)];
        let is_aaaa = query.query_type() == RecordType::AAAA;
        match self {
            Says::Silent => Vec::new(),
            Says::OverTcp(_) if udp => Vec::new(),
            Says::SilentAaaa(_) if is_aaaa => Vec::new(),
            Says::CodeAaaa(_, other) if is_aaaa => code(*other),
            Says::FilteredAaaa(_) if is_aaaa => vec![with_reason(question, query, ResponseCode::NoError, 17, "")],
            Says::NoEdns(_) if question.edns.is_some() => code(ResponseCode::FormErr),
            Says::Cut(_) | Says::Flood if udp => vec![truncated(question, query)],
            Says::Address(text)
            | Says::OverTcp(text)
            | Says::Cut(text)
            | Says::NoEdns(text)
            | Says::SilentAaaa(text)
            | Says::CodeAaaa(text, _)
            | Says::FilteredAaaa(text)
            | Says::ForgedFirst(text, _) => address(text),
            Says::Under(suffix, text) if is_under(query, suffix) => address(text),
            Says::Under(..) => code(ResponseCode::NXDomain),
            Says::Addresses(texts) => vec![with_addresses(question, query, texts)],
            Says::Text(text) if query.query_type() == RecordType::TXT => vec![with_text(question, query, text)],
            Says::Text(_) => code(ResponseCode::NoError),
            Says::Code(other) => code(*other),
            Says::CodeBecause(other, ede, text) => vec![with_reason(question, query, *other, *ede, text)],
            Says::Nodata => code(ResponseCode::NoError),
            Says::Lame => vec![lame(question, query)],
            Says::Referral => vec![referral(question, query)],
            Says::WrongIdFirst(text) => {
                let mut forged = with_address(question, query, "6.6.6.6");
                forged.metadata.id = question.metadata.id.wrapping_add(1);
                vec![forged, with_address(question, query, text)]
            }
            Says::AliasNowhere => vec![with_aliases(question, query, 1)],
            Says::AliasLoop => vec![alias_loop(question, query)],
            Says::AliasChain(links, text) => {
                let mut reply = with_aliases(question, query, *links);
                let last = Name::from_ascii(link(*links)).unwrap();
                reply.answers.extend(records(&last, query.query_type(), &[text]));
                vec![reply]
            }
            Says::Flood => vec![flood(question, query)],
            Says::Garbage | Says::Broken | Says::Slow(..) | Says::EveryOther(_) | Says::Lost(..) | Says::Split(..) => {
                Vec::new()
            }
        }
    }

    /// What is not a message, and so not made as one.
    pub fn nonsense(&self, question: &Message) -> Option<Vec<u8>> {
        let id = question.metadata.id.to_be_bytes();
        match self {
            Says::Garbage => Some([&id[..], &[0x81, 0x80], &[0xff; 40]].concat()),
            Says::Broken => {
                let mut reply = with_code(question, question.queries.first()?, ResponseCode::NoError);
                reply.metadata.message_type = hickory_proto::op::MessageType::Response;
                let mut bytes = reply.to_vec().unwrap();
                // One answer is announced, and its name is a label of a kind that does not exist.
                bytes[7] = 1;
                bytes.extend([0xbf; 20]);
                Some(bytes)
            }
            _ => None,
        }
    }
}

/// All packets, nonsense included.
pub fn play(says: &Says, question: &Message, udp: bool, number: usize) -> Vec<Packet> {
    match says.nonsense(question) {
        Some(bytes) => vec![(Duration::ZERO, bytes)],
        None => says.replies(question, udp, number),
    }
}

fn now(message: Message) -> Packet {
    (Duration::ZERO, message.to_vec().unwrap())
}

fn delayed(packets: Vec<Packet>, millis: u64) -> Vec<Packet> {
    packets.into_iter().map(|(after, packet)| (after + Duration::from_millis(millis), packet)).collect()
}

fn is_under(query: &Query, suffix: &str) -> bool {
    query.name().to_ascii().trim_end_matches('.').to_lowercase().ends_with(suffix)
}

fn with_code(question: &Message, query: &Query, code: ResponseCode) -> Message {
    let mut reply = Message::response(question.metadata.id, OpCode::Query);
    reply.metadata.recursion_desired = true;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.add_query(query.clone());
    reply
}

fn with_address(question: &Message, query: &Query, text: &str) -> Message {
    with_addresses(question, query, &[text])
}

fn with_addresses(question: &Message, query: &Query, texts: &[&str]) -> Message {
    let mut reply = with_code(question, query, ResponseCode::NoError);
    reply.answers.extend(records(query.name(), query.query_type(), texts));
    reply
}

fn records(owner: &Name, kind: RecordType, texts: &[&str]) -> Vec<Record> {
    let fitting = texts.iter().filter_map(|text| match (text.parse().unwrap(), kind) {
        (IpAddr::V4(address), RecordType::A) => Some(RData::A(A(address))),
        (IpAddr::V6(address), RecordType::AAAA) => Some(RData::AAAA(AAAA(address))),
        _ => None,
    });
    fitting.map(|data| Record::from_rdata(owner.clone(), 60, data)).collect()
}

fn with_reason(question: &Message, query: &Query, code: ResponseCode, ede: u16, text: &str) -> Message {
    let mut reply = with_code(question, query, code);
    let mut edns = Edns::new();
    edns.options_mut().insert(EdnsOption::Unknown(15, [&ede.to_be_bytes()[..], text.as_bytes()].concat()));
    reply.set_edns(edns);
    reply
}

fn truncated(question: &Message, query: &Query) -> Message {
    let mut reply = with_code(question, query, ResponseCode::NoError);
    reply.metadata.truncation = true;
    reply
}

fn lame(question: &Message, query: &Query) -> Message {
    let mut reply = with_code(question, query, ResponseCode::NoError);
    reply.metadata.recursion_available = false;
    reply
}

fn referral(question: &Message, query: &Query) -> Message {
    let mut reply = lame(question, query);
    let server = Name::from_ascii("ns.referral.example.").unwrap();
    reply.authorities.push(Record::from_rdata(query.name().clone(), 60, RData::NS(NS(server))));
    reply
}

fn link(number: usize) -> String {
    format!("link{number}.example.")
}

fn alias(from: Name, to: Name) -> Record {
    Record::from_rdata(from, 60, RData::CNAME(CNAME(to)))
}

fn with_text(question: &Message, query: &Query, text: &str) -> Message {
    let mut reply = with_code(question, query, ResponseCode::NoError);
    let data = RData::TXT(TXT::new(vec![text.to_owned()]));
    reply.add_answer(Record::from_rdata(query.name().clone(), 60, data));
    reply
}

fn with_aliases(question: &Message, query: &Query, links: usize) -> Message {
    let mut reply = with_code(question, query, ResponseCode::NoError);
    let mut owner = query.name().clone();
    for number in 1..=links {
        let next = Name::from_ascii(link(number)).unwrap();
        reply.answers.push(alias(owner, next.clone()));
        owner = next;
    }
    reply
}

fn alias_loop(question: &Message, query: &Query) -> Message {
    let mut reply = with_code(question, query, ResponseCode::NoError);
    let other = Name::from_ascii("loop.example.").unwrap();
    reply.answers.push(alias(query.name().clone(), other.clone()));
    reply.answers.push(alias(other, query.name().clone()));
    reply
}

fn flood(question: &Message, query: &Query) -> Message {
    let mut reply = with_code(question, query, ResponseCode::NoError);
    for number in 0..2000u32 {
        let data = RData::A(A::new(1, 1, (number / 250) as u8, (number % 250) as u8));
        reply.add_answer(Record::from_rdata(query.name().clone(), 60, data));
    }
    reply
}

/// As scenario files write it: `answers 1.1.1.9`, `nxdomain`, `slow 400 answers 1.1.1.9`.
impl FromStr for Says {
    type Err = String;

    fn from_str(text: &str) -> Result<Says, String> {
        // A script lives as long as its test.
        let (word, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let rest: &'static str = rest.trim().to_owned().leak();
        let inner = |text: &str| text.parse::<Says>().map(Box::new);
        let first = || rest.split_once(' ').ok_or_else(|| format!("{word} wants more than {rest:?}"));
        if let Some(code) = code(word) {
            return match rest.strip_prefix("because ").and_then(|reason| reason.split_once(' ')) {
                Some((ede, why)) => Ok(Says::CodeBecause(code, ede.parse().map_err(|_| text.to_owned())?, why)),
                None if rest.is_empty() => Ok(Says::Code(code)),
                None => Err(format!("{word} is followed by nothing or by \"because CODE TEXT\"")),
            };
        }
        Ok(match word {
            "answers" => Says::Addresses(rest.split_whitespace().collect::<Vec<_>>().leak()),
            "nodata" => Says::Nodata,
            "lame" => Says::Lame,
            "referral" => Says::Referral,
            "silent" => Says::Silent,
            "tcp-only" => Says::OverTcp(rest),
            "truncated" => Says::Cut(rest),
            "wrong-id-first" => Says::WrongIdFirst(rest),
            "forged-first" => {
                let (millis, address) = first()?;
                Says::ForgedFirst(address, millis.parse().map_err(|_| text.to_owned())?)
            }
            "no-edns" => Says::NoEdns(rest),
            "aaaa-silent" => Says::SilentAaaa(rest),
            "aaaa-nxdomain" => Says::CodeAaaa(rest, ResponseCode::NXDomain),
            "aaaa-servfail" => Says::CodeAaaa(rest, ResponseCode::ServFail),
            "aaaa-filtered" => Says::FilteredAaaa(rest),
            "garbage" => Says::Garbage,
            "broken" => Says::Broken,
            "alias-nowhere" => Says::AliasNowhere,
            "alias-loop" => Says::AliasLoop,
            "alias-chain" => {
                let (links, address) = first()?;
                Says::AliasChain(links.parse().map_err(|_| text.to_owned())?, address)
            }
            "flood" => Says::Flood,
            "slow" => {
                let (millis, says) = first()?;
                Says::Slow(millis.parse().map_err(|_| text.to_owned())?, inner(says)?)
            }
            "every-other" => Says::EveryOther(inner(rest)?),
            "lost" => {
                let (most, says) = first()?;
                Says::Lost(most.parse().map_err(|_| text.to_owned())?, inner(says)?)
            }
            "under" => {
                let (suffix, says) = first()?;
                let (under, others) = says.split_once(" else ").ok_or("under SUFFIX … wants an else")?;
                Says::Split(suffix, inner(under)?, inner(others)?)
            }
            _ => return Err(format!("no server says {word:?}")),
        })
    }
}

fn code(word: &str) -> Option<ResponseCode> {
    match word {
        "nxdomain" => Some(ResponseCode::NXDomain),
        "servfail" => Some(ResponseCode::ServFail),
        "refused" => Some(ResponseCode::Refused),
        "notimp" => Some(ResponseCode::NotImp),
        "formerr" => Some(ResponseCode::FormErr),
        _ => None,
    }
}
