//! The usual question and its answer, byte by byte: nearly all that a name server hears is one name, whose
//! addresses are wanted, and nearly all of that is known.
//!
//! What is odd in any way (another type, options, a name that no host has) is left to `query`; what takes
//! more than addresses to say is left to `answer`. Where both can do it, they do the same, byte for byte: the tests
//! hold them against each other. Pure, and fed by strangers.

use std::net::IpAddr;

use super::answer::{OUR_PAYLOAD, seconds};
use super::query::{MOST_PAYLOAD, PLAIN_PAYLOAD};
use crate::resolve::{Family, Found, Freshness};
use crate::target::Name;

/// Where the question stands (RFC 1035 section 4.1.1).
const HEADER: usize = 12;
/// The longest name, in text (RFC 1035 section 2.3.4).
const LONGEST_NAME: usize = 253;

const RESPONSE: u8 = 0x80;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;
const AUTHENTIC_DATA: u8 = 0x20;
const CHECKING_DISABLED: u8 = 0x10;

/// A question for the addresses of a name.
#[derive(Clone, Debug)]
pub(super) struct Usual<'a> {
    pub name: Name,
    pub family: Family,
    /// The packet, to the end of its question.
    asked: &'a [u8],
    edns: bool,
    /// What fits into a datagram to this client, in bytes.
    pub payload: usize,
}

impl<'a> Usual<'a> {
    /// Reads a packet, if it is that and nothing else.
    pub(super) fn read(packet: &'a [u8]) -> Option<Usual<'a>> {
        let (header, rest) = packet.split_at_checked(HEADER)?;
        let is_plain = header[2] & !RECURSION_DESIRED == 0 && header[3] & !(AUTHENTIC_DATA | CHECKING_DISABLED) == 0;
        let edns = match header[4..] {
            [0, 1, 0, 0, 0, 0, 0, more @ (0 | 1)] if is_plain => more == 1,
            _ => return None,
        };
        let (name, rest) = read_name(rest)?;
        let (question, options) = rest.split_at_checked(4)?;
        let family = match question {
            [0, 1, 0, 1] => Family::V4,
            [0, 28, 0, 1] => Family::V6,
            _ => return None,
        };
        let payload = if edns { read_options(options)? } else { PLAIN_PAYLOAD };
        let asked = &packet[..packet.len() - options.len()];
        (edns || options.is_empty()).then_some(Usual { name, family, asked, edns, payload })
    }

    /// The answer; none where it does not fit into `limit` or takes more than addresses to say.
    pub(super) fn answer(&self, found: &Found, limit: usize) -> Option<Vec<u8>> {
        if matches!(found.freshness, Freshness::Stale | Freshness::LastKnownGood) {
            return None;
        }
        let mut reply = Vec::with_capacity(MOST_PAYLOAD);
        reply.extend(self.asked);
        let [a, b, c, d] = seconds(found.ttl).to_be_bytes();
        let mut count = 0u16;
        for address in &found.addresses {
            let (kind, length): (u8, u8) = match (self.family, address) {
                (Family::V4, IpAddr::V4(_)) => (1, 4),
                (Family::V6, IpAddr::V6(_)) => (28, 16),
                _ => continue,
            };
            // A pointer to the question's name, the type, class IN, the TTL and the address's length.
            reply.extend([0xc0, HEADER as u8, 0, kind, 0, 1, a, b, c, d, 0, length]);
            match address {
                IpAddr::V4(address) => reply.extend(address.octets()),
                IpAddr::V6(address) => reply.extend(address.octets()),
            }
            count += 1;
        }
        if self.edns {
            let [high, low] = OUR_PAYLOAD.to_be_bytes();
            reply.extend([0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]);
        }
        reply[2] |= RESPONSE;
        reply[3] = reply[3] & CHECKING_DISABLED | RECURSION_AVAILABLE;
        reply[6..8].copy_from_slice(&count.to_be_bytes());
        (reply.len() <= limit).then_some(reply)
    }
}

/// A name without compression whose labels are those of a host, and what follows it.
fn read_name(bytes: &[u8]) -> Option<(Name, &[u8])> {
    let mut text = [0; LONGEST_NAME + 1];
    let (mut length, mut rest) = (0, bytes);
    loop {
        let (&size, after) = rest.split_first()?;
        if size == 0 {
            // Without the dot behind the last label.
            let text = std::str::from_utf8(&text[..length]).ok()?.strip_suffix('.')?;
            return Some((Name::parse(text).ok()?, after));
        }
        let (label, after) = after.split_at_checked(size.into())?;
        let is_hosts = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if size > 63 || !label.iter().all(is_hosts) {
            return None;
        }
        let (here, dot) = text.get_mut(length..=length + label.len())?.split_at_mut(label.len());
        here.copy_from_slice(label);
        here.make_ascii_lowercase();
        dot[0] = b'.';
        (length, rest) = (length + label.len() + 1, after);
    }
}

/// What a client can take that sends EDNS of version 0 without a single option, and nothing behind it.
fn read_options(bytes: &[u8]) -> Option<usize> {
    match *bytes {
        [0, 0, 41, high, low, 0, 0, flags, 0, 0, 0] if flags & 0x7f == 0 => {
            Some(usize::from(u16::from_be_bytes([high, low])).clamp(PLAIN_PAYLOAD, MOST_PAYLOAD))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question};
    use hickory_proto::rr::{Name as WireName, RecordType};

    use super::*;
    use crate::dns::query::{Heard, Query};
    use crate::dns::{Over, answer};
    use crate::resolve::Tier;

    fn found(addresses: &[&str]) -> Found {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let (tier, freshness) = (Tier::System, Freshness::Cached);
        Found { addresses, tier, source: None, freshness, ttl: Duration::from_secs(77), unheard: None, doubtful: false }
    }

    fn question(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
        let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Question::query(WireName::from_ascii(name).unwrap(), kind));
        message.edns = payload.map(|payload| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            edns
        });
        message.to_vec().unwrap()
    }

    /// What a datagram with the question is answered by `query` and `answer`.
    fn the_long_way(packet: &[u8], found: &Found) -> Option<(Name, Vec<u8>)> {
        let Heard::Asked(query) = Query::read(packet) else { return None };
        let message = answer::addresses(&query, query.family()?, found);
        Some((query.name()?, answer::write(&message, &query, Over::Datagram)))
    }

    /// The same here. None where it is left to the others.
    fn the_short_way(packet: &[u8], found: &Found) -> Option<(Name, Vec<u8>)> {
        let usual = Usual::read(packet)?;
        let answer = usual.answer(found, usual.payload)?;
        Some((usual.name, answer))
    }

    #[test]
    fn what_is_usual_is_answered_as_it_would_be_the_long_way() {
        let (label, both) = ("l".repeat(63), ["1.1.1.9", "2606:4700::9", "1.1.1.10", "2606:4700::10"]);
        let longest = format!("{label}.{label}.{label}.{}.", &label[..61]);
        for name in ["goproxy.cn.", "GoProxy.CN.", "one.", "_a-b_9.x1.", "1.2.example.", &longest] {
            for kind in [RecordType::A, RecordType::AAAA] {
                for payload in [None, Some(0), Some(512), Some(1232), Some(4096)] {
                    for addresses in [&both[..], &both[..1], &[]] {
                        for flags in [[0, 0], [1, 0], [1, 0x10], [0, 0x20], [1, 0x30]] {
                            let (mut packet, found) = (question(name, kind, payload), found(addresses));
                            packet[2..4].copy_from_slice(&flags);
                            let told = the_short_way(&packet, &found);
                            assert!(told.is_some(), "{name} {kind} {payload:?} {flags:?}");
                            assert_eq!(told, the_long_way(&packet, &found), "{name} {kind} {payload:?} {flags:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_odd_or_does_not_fit_is_left_to_the_others() {
        let found = found(&["1.1.1.9"]);
        for (name, kind) in [("goproxy.cn.", RecordType::TXT), (".", RecordType::A), ("*.cn.", RecordType::A)] {
            assert_eq!(the_short_way(&question(name, kind, None), &found), None, "{name} {kind}");
        }
        let many = Found { addresses: vec![[1, 1, 1, 9].into(); 40], ..found.clone() };
        let packet = question("goproxy.cn.", RecordType::A, None);
        assert_eq!(the_short_way(&packet, &many), None, "512 bytes are not enough");
        assert!(Usual::read(&packet).unwrap().answer(&many, 4096).is_some(), "and more are");
        for freshness in [Freshness::Stale, Freshness::LastKnownGood] {
            assert_eq!(the_short_way(&packet, &Found { freshness, ..found.clone() }), None, "that is explained");
        }
        for end in 0..packet.len() {
            assert_eq!(the_short_way(&packet[..end], &found), None, "cut at {end}");
        }
        assert_eq!(the_short_way(&[&packet[..], &[0]].concat(), &found), None, "something is left over");
    }

    /// Whatever is made of a question on its way.
    #[test]
    fn no_packet_is_answered_otherwise_than_the_long_way() {
        let (mut random, found) = (fastrand::Rng::with_seed(7), found(&["1.1.1.9", "2606:4700::9"]));
        let kinds = [(RecordType::A, None), (RecordType::AAAA, Some(1232)), (RecordType::A, Some(4096))];
        let whole = kinds.map(|(kind, payload)| question("name.Under.goproxy.cn.", kind, payload));
        let mut answered = 0;
        for nth in 0..200_000 {
            let mut packet = whole[nth % whole.len()].clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..packet.len());
                packet[at] = if random.bool() { random.u8(..) } else { packet[at] ^ 1 << random.u8(..8) };
            }
            if let Some(told) = the_short_way(&packet, &found) {
                assert_eq!(Some(told), the_long_way(&packet, &found), "{packet:?}");
                answered += 1;
            }
        }
        assert!(answered > 20_000, "{answered}");
    }
}
