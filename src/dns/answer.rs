//! What a client is told: the ladder's result as a message that fits.
//!
//! NXDOMAIN is said only where it is confirmed or final; whoever could not find out says SERVFAIL
//! and why (RFC 8914), so that go prints "server misbehaving", tries again, and nobody is told a
//! false "no such host". What does not fit into a datagram is cut to nothing and marked (TC).

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{RData, Record};

use super::Over;
use super::query::Query;
use crate::resolve::{Failure, Family, Found, Freshness, Relayed};

/// What we take over UDP ourselves.
pub(super) const OUR_PAYLOAD: u16 = 1232;

/// Extended errors that we say (RFC 8914 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Stale = 3,
    Blocked = 15,
    NotReady = 14,
    NotSupported = 21,
    Unreachable = 22,
    Unconfirmed = 0,
}

/// A reply without records.
pub(super) fn bare(query: &Query, code: ResponseCode) -> Message {
    let mut reply = Message::response(query.id, query.opcode);
    reply.metadata.recursion_desired = query.recursion_desired;
    reply.metadata.checking_disabled = query.checking_disabled;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.queries.extend(query.question.clone());
    if query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(OUR_PAYLOAD);
        reply.set_edns(edns);
    }
    reply
}

/// The addresses of one family; none of them is an empty NOERROR.
pub(super) fn addresses(query: &Query, family: Family, found: &Found) -> Message {
    let mut reply = bare(query, ResponseCode::NoError);
    if let Some(question) = &query.question {
        let ttl = seconds(found.ttl);
        let data = found.addresses.iter().filter_map(|address| record_data(family, *address));
        reply.answers.extend(data.map(|data| Record::from_rdata(question.name.clone(), ttl, data)));
    }
    if matches!(found.freshness, Freshness::Stale | Freshness::LastKnownGood) {
        explain(&mut reply, Reason::Stale, "no name server gave a better answer");
    }
    reply
}

/// Records as another server gave them.
pub(super) fn relayed(query: &Query, relayed: Relayed) -> Message {
    let mut reply = bare(query, ResponseCode::NoError);
    reply.answers = relayed.records;
    reply
}

/// Why there is no answer.
pub(super) fn failure(query: &Query, failure: &Failure) -> Message {
    let text = failure.to_string();
    match failure {
        Failure::Absent { exists, .. } if failure.is_settled() => {
            bare(query, if *exists { ResponseCode::NoError } else { ResponseCode::NXDomain })
        }
        Failure::Absent { .. } => explained(query, ResponseCode::ServFail, Reason::Unconfirmed, &text),
        Failure::Blocked { .. } => explained(query, ResponseCode::NXDomain, Reason::Blocked, &text),
        Failure::Unknown { .. } | Failure::Exhausted { .. } => {
            explained(query, ResponseCode::ServFail, Reason::Unreachable, &text)
        }
    }
}

/// A code and why.
pub(super) fn explained(query: &Query, code: ResponseCode, reason: Reason, text: &str) -> Message {
    let mut reply = bare(query, code);
    explain(&mut reply, reason, text);
    reply
}

/// Nothing but the word to come again over TCP: a forged source address never does.
pub(super) fn come_again(query: &Query) -> Message {
    let mut reply = bare(query, ResponseCode::NoError);
    reply.metadata.truncation = true;
    reply
}

/// Writes a reply that its asker can take.
pub(super) fn write(reply: &Message, query: &Query, over: Over) -> Vec<u8> {
    let limit = over.limit(query.payload);
    let fits = |bytes: &Vec<u8>| bytes.len() <= limit;
    let whole = reply.to_vec().ok().filter(fits);
    // A header and a question that were read can be written, and fit.
    whole.or_else(|| come_again(query).to_vec().ok()).unwrap_or_default()
}

fn explain(reply: &mut Message, reason: Reason, text: &str) {
    let Some(edns) = reply.edns.as_mut() else { return };
    let mut option = (reason as u16).to_be_bytes().to_vec();
    option.extend(text.bytes().take(160));
    edns.options_mut().insert(EdnsOption::Unknown(15, option));
}

fn record_data(family: Family, address: IpAddr) -> Option<RData> {
    match (family, address) {
        (Family::V4, IpAddr::V4(address)) => Some(RData::A(A(address))),
        (Family::V6, IpAddr::V6(address)) => Some(RData::AAAA(AAAA(address))),
        _ => None,
    }
}

/// A second at least: 0 would be asked again for every connection.
pub(super) fn seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX).clamp(1, 3600)
}
