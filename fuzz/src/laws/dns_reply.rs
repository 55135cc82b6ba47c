//! Whatever a name server sends, no address is believed that it did not send, none of the other
//! family, and no more than a bounded number; and its words are fit for a terminal.

use super::reply::{Family, MOST_ADDRESSES, Outcome, Question, Reply};
use crate::target::Name;

const ID: u16 = 0x1234;

pub fn hold(bytes: &[u8]) {
    let Some((&flags, rest)) = bytes.split_first() else { return };
    let family = if flags & 1 == 0 { Family::V4 } else { Family::V6 };
    let Ok(name) = Name::parse("goproxy.cn") else { return };
    let Some(mut question) = Question::new(&name, family, flags & 2 == 0) else { return };
    let mixed = flags & 4 != 0;
    if mixed {
        question = question.mix_case(&[flags; 32]);
    }
    let mut packet = rest.to_vec();
    if let Some(id) = packet.get_mut(..2) {
        id.copy_from_slice(&ID.to_be_bytes());
    }
    let reply = question.judge_packet(ID, &packet);
    assert_eq!(reply, question.judge_packet(ID, &packet));
    assert!(question.judge_packet(!ID, &packet).is_none(), "a reply under another id");
    if let Some(reply) = reply {
        hold_reply(&reply, family, &packet);
        assert!(mixed || !reply.respelt);
        // What came back in another spelling is never believed as it stands.
        assert_eq!(reply.respelt, reply.outcome == Outcome::Forged);
    }
}

fn hold_reply(reply: &Reply, family: Family, packet: &[u8]) {
    assert!(reply.respelt || (reply.outcome == Outcome::Answer) != reply.addresses.is_empty(), "{reply:?}");
    assert!(reply.addresses.len() <= MOST_ADDRESSES);
    for address in &reply.addresses {
        assert_eq!(address.is_ipv4(), family == Family::V4);
        let octets = match address {
            std::net::IpAddr::V4(address) => address.octets().to_vec(),
            std::net::IpAddr::V6(address) => address.octets().to_vec(),
        };
        assert!(packet.windows(octets.len()).any(|window| window == octets), "{address} was never sent");
    }
    if let Some(ede) = &reply.ede {
        assert!(ede.text.chars().count() <= 120 && !ede.to_string().contains(char::is_control));
    }
}
