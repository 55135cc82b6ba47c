//! What a ClientHello offers is what was written into it, does not depend on how it was cut into records,
//! and is nothing while it is not whole.

use crate::intercept::offer::{Offer, TLS_12, offer};

/// The rest of a prefix is looked at up to here; beyond, it would take too long.
const LONGEST: usize = 512;

pub fn hold(bytes: &[u8]) {
    hold_as_it_is(bytes);
    hold_as_written(bytes);
}

/// The bytes are a hello, perhaps.
fn hold_as_it_is(bytes: &[u8]) {
    let Some(said) = offer(bytes) else { return };
    let message = message_in(bytes);
    for size in [1, 3, 4, 5, 7, 255, 16_384] {
        assert_eq!(offer(&cut(&message, size)).as_ref(), Some(&said), "records of {size}");
    }
    for end in 0..bytes.len().min(LONGEST) {
        let early = offer(&bytes[..end]);
        assert!(early.is_none() || early.as_ref() == Some(&said), "{end} bytes offer something else");
    }
    let after = [bytes, b"\x16\x03\x01\x00\x01\x02"].concat();
    assert_eq!(offer(&after), Some(said), "what follows changes nothing");
}

/// The bytes say what to write into one: how to cut it, which versions, which other extensions, and ECH.
fn hold_as_written(bytes: &[u8]) {
    let [size, flags, rest @ ..] = bytes else { return };
    let (versions, rest) = rest.split_at(rest.len().min(usize::from(flags >> 4) * 2) & !1);
    let (has_versions, ech) = (flags & 1 != 0 && !versions.is_empty(), flags & 2 != 0);
    let mut extensions = Vec::new();
    // Kinds that are neither of the two; a doubled one is not ours to refuse.
    for (nth, content) in rest.chunks(11).take(200).enumerate() {
        extensions.extend(extension(1000 + nth as u16, content));
    }
    if has_versions {
        extensions.extend(extension(43, &[&[versions.len() as u8], versions].concat()));
    }
    if ech {
        extensions.extend(extension(0xfe0d, rest.get(..9).unwrap_or(rest)));
    }
    let mut body = [&[3, 3], &[*size; 32][..], &[0, 0, 2, 0x13, 0x01, 1, 0]].concat();
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let message = [&[1], &(body.len() as u32).to_be_bytes()[1..], &body].concat();
    let listed = versions.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).collect();
    let wanted = Offer { versions: if has_versions { listed } else { vec![TLS_12] }, ech };
    let records = cut(&message, usize::from(*size) + 1);
    assert_eq!(offer(&records), Some(wanted));
    assert_eq!(offer(&records[..records.len() - 1]), None, "one byte short");
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes(), &(content.len() as u16).to_be_bytes(), content].concat()
}

/// The handshake bytes in whole records, read in another way than the one that is judged.
fn message_in(mut records: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let [_, _, _, high, low, rest @ ..] = records {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(content) = rest.get(..length) else { break };
        message.extend_from_slice(content);
        records = &rest[length..];
    }
    message
}

fn cut(message: &[u8], size: usize) -> Vec<u8> {
    let record = |piece: &[u8]| [&[0x16, 3, 1], &(piece.len() as u16).to_be_bytes()[..], piece].concat();
    message.chunks(size).flat_map(record).collect()
}
