//! A query as it comes off the wire: read, judged, and never a panic. Pure, and fed by strangers.
//!
//! What is no query gets silence (a reply to a reply is a loop), what cannot be read gets FORMERR,
//! what this server is not for gets NOTIMP or REFUSED; the rest is asked.

use hickory_proto::op::{Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};

use crate::resolve::Family;
use crate::target::Name;

/// What a client without EDNS can take over UDP (RFC 1035 section 4.2.1).
pub(super) const PLAIN_PAYLOAD: usize = 512;
/// The most that we send over UDP, whatever the client could take (DNS flag day 2020).
pub(super) const MOST_PAYLOAD: usize = 1232;

/// What is to be done about a packet.
#[derive(Debug)]
pub(super) enum Heard {
    /// Nothing: it is no query.
    Noise,
    /// This code, at once.
    Refused(Query, ResponseCode),
    Asked(Query),
}

/// One question and what its asker can take.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub id: u16,
    pub opcode: OpCode,
    pub recursion_desired: bool,
    pub checking_disabled: bool,
    /// None where not even the question could be read.
    pub question: Option<Question>,
    /// Whether it came with EDNS, and so may get it.
    pub edns: bool,
    /// What fits into a datagram to this client, in bytes.
    pub payload: usize,
}

impl Query {
    /// Reads a packet.
    pub(super) fn read(packet: &[u8]) -> Heard {
        let Some(header) = packet.get(..12) else { return Heard::Noise };
        if header[2] & 0x80 != 0 {
            return Heard::Noise;
        }
        let Ok(message) = Message::from_vec(packet) else {
            return Heard::Refused(Query::unreadable(header), ResponseCode::FormErr);
        };
        let query = Query::of(&message);
        match refusal(&message) {
            Some(code) => Heard::Refused(query, code),
            None => Heard::Asked(query),
        }
    }

    fn unreadable(header: &[u8]) -> Query {
        Query {
            id: u16::from_be_bytes([header[0], header[1]]),
            opcode: OpCode::from_u8(header[2] >> 3 & 0x0f),
            recursion_desired: header[2] & 0x01 != 0,
            checking_disabled: false,
            question: None,
            edns: false,
            payload: PLAIN_PAYLOAD,
        }
    }

    fn of(message: &Message) -> Query {
        let can_take = |edns: &hickory_proto::op::Edns| usize::from(edns.max_payload());
        let payload = message.edns.as_ref().map_or(PLAIN_PAYLOAD, can_take);
        Query {
            id: message.metadata.id,
            opcode: message.metadata.op_code,
            recursion_desired: message.metadata.recursion_desired,
            checking_disabled: message.metadata.checking_disabled,
            question: message.queries.first().cloned(),
            edns: message.edns.is_some(),
            payload: payload.clamp(PLAIN_PAYLOAD, MOST_PAYLOAD),
        }
    }

    /// The family, where addresses are asked for.
    pub(super) fn family(&self) -> Option<Family> {
        match self.question.as_ref()?.query_type {
            RecordType::A => Some(Family::V4),
            RecordType::AAAA => Some(Family::V6),
            _ => None,
        }
    }

    /// The name, where it is one that a host can have.
    pub(super) fn name(&self) -> Option<Name> {
        let text = self.question.as_ref()?.name().to_ascii();
        Name::parse(text.strip_suffix('.').unwrap_or(&text)).ok()
    }
}

/// What this server is not for.
fn refusal(message: &Message) -> Option<ResponseCode> {
    if message.metadata.message_type != MessageType::Query || message.metadata.op_code != OpCode::Query {
        return Some(ResponseCode::NotImp);
    }
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Some(ResponseCode::BADVERS);
    }
    let [question] = message.queries.as_slice() else { return Some(ResponseCode::FormErr) };
    // ANY is how reflections are made large (RFC 8482), a zone transfer is for its secondaries.
    let refused = [RecordType::ANY, RecordType::AXFR, RecordType::IXFR];
    (question.query_class != DNSClass::IN || refused.contains(&question.query_type)).then_some(ResponseCode::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Edns;
    use hickory_proto::rr::Name as WireName;

    fn question(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Question::query(WireName::from_ascii(name).unwrap(), kind));
        message
    }

    fn read(message: &Message) -> Heard {
        Query::read(&message.to_vec().unwrap())
    }

    fn refused(message: &Message) -> Option<ResponseCode> {
        match read(message) {
            Heard::Refused(_, code) => Some(code),
            _ => None,
        }
    }

    #[test]
    fn a_question_for_addresses_is_read_with_what_its_asker_can_take() {
        let Heard::Asked(query) = read(&question("GoProxy.CN.", RecordType::AAAA)) else { panic!("not read") };
        assert_eq!((query.name(), query.family()), (Name::parse("goproxy.cn").ok(), Some(Family::V6)));
        assert_eq!((query.id, query.payload, query.edns), (7, 512, false));
        for (said, taken) in [(0, 512), (512, 512), (1000, 1000), (4096, 1232)] {
            let mut message = question("goproxy.cn.", RecordType::A);
            let mut edns = Edns::new();
            edns.set_max_payload(said);
            message.set_edns(edns);
            let Heard::Asked(query) = read(&message) else { panic!("not read") };
            assert_eq!((query.payload, query.edns), (taken, true), "{said}");
        }
    }

    #[test]
    fn what_this_server_is_not_for_is_refused_by_its_code() {
        let change = |change: fn(&mut Message)| {
            let mut message = question("goproxy.cn.", RecordType::A);
            change(&mut message);
            message
        };
        let table: [(Message, ResponseCode); 7] = [
            (question(".", RecordType::AXFR), ResponseCode::Refused),
            (question("goproxy.cn.", RecordType::ANY), ResponseCode::Refused),
            (change(|message| message.queries[0].query_class = DNSClass::CH), ResponseCode::Refused),
            (change(|message| message.metadata.op_code = OpCode::Update), ResponseCode::NotImp),
            (change(|message| message.queries.clear()), ResponseCode::FormErr),
            (change(|message| message.queries.push(message.queries[0].clone())), ResponseCode::FormErr),
            (
                change(|message| {
                    let mut edns = Edns::new();
                    edns.set_version(1);
                    message.set_edns(edns);
                }),
                ResponseCode::BADVERS,
            ),
        ];
        for (message, code) in table {
            assert_eq!(refused(&message), Some(code), "{message:?}");
        }
    }

    #[test]
    fn what_is_no_query_gets_silence_and_what_cannot_be_read_formerr() {
        let mut reply = question("goproxy.cn.", RecordType::A);
        reply.metadata.message_type = MessageType::Response;
        for noise in [reply.to_vec().unwrap(), Vec::new(), vec![0; 11], vec![0xff; 600]] {
            assert!(matches!(Query::read(&noise), Heard::Noise), "{noise:?}");
        }
        let whole = question("goproxy.cn.", RecordType::A).to_vec().unwrap();
        for end in 12..whole.len() {
            let Heard::Refused(query, code) = Query::read(&whole[..end]) else { panic!("cut at {end}") };
            assert_eq!((query.id, code), (7, ResponseCode::FormErr), "cut at {end}");
        }
    }
}
