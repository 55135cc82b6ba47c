//! What a ClientHello offers that rustls does not tell: its versions, and whether there is an encrypted
//! one inside. Pure: bytes in, an [`Offer`] or nothing out, however they are cut into records; cannot
//! panic. A law of `fuzz/` holds it.

/// What a hello offers beyond what rustls tells.
#[derive(Debug, PartialEq, Eq)]
pub struct Offer {
    /// Those of `supported_versions`, or the legacy one where that is TLS 1.2.
    pub versions: Vec<u32>,
    pub ech: bool,
}

/// Walks the handshake message (RFC 8446 section 4.1.2) inside its records. Nothing, if it is not whole.
pub fn offer(records: &[u8]) -> Option<Offer> {
    let message = join_records(records)?;
    let mut body = Reader(&message);
    let legacy = body.number(2)?;
    body.take(32)?;
    body.vector(1)?;
    body.vector(2)?;
    body.vector(1)?;
    let versions = if legacy >= TLS_12 { vec![TLS_12] } else { Vec::new() };
    let mut offer = Offer { versions, ech: false };
    if body.0.is_empty() {
        return Some(offer);
    }
    let mut extensions = Reader(body.vector(2)?);
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let content = extensions.vector(2)?;
        match kind {
            SUPPORTED_VERSIONS => offer.versions = read_versions(content)?,
            ENCRYPTED_CLIENT_HELLO => offer.ech = true,
            _ => {}
        }
    }
    Some(offer)
}

/// The body of the first handshake message, out of as many records as it was cut into (RFC 8446 section 5.1).
fn join_records(records: &[u8]) -> Option<Vec<u8>> {
    let mut records = Reader(records);
    let mut joined = Vec::new();
    loop {
        if let Some((header, body)) = joined.split_at_checked(4) {
            let length = Reader(&header[1..]).number(3)? as usize;
            if let Some(whole) = body.get(..length) {
                return Some(whole.to_vec());
            }
        }
        records.take(3)?;
        joined.extend_from_slice(records.vector(2)?);
    }
}

fn read_versions(content: &[u8]) -> Option<Vec<u32>> {
    let mut listed = Reader(Reader(content).vector(1)?);
    let mut versions = Vec::new();
    while !listed.0.is_empty() {
        versions.push(listed.number(2)?);
    }
    Some(versions)
}

/// Takes bytes off the front, and never more than there are.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, width: usize) -> Option<u32> {
        Some(self.take(width)?.iter().fold(0, |number, &byte| number << 8 | u32::from(byte)))
    }

    /// A vector behind its length (RFC 8446 section 3.4).
    fn vector(&mut self, width: usize) -> Option<&'a [u8]> {
        let length = self.number(width)? as usize;
        self.take(length)
    }
}

/// TLS 1.2, as a hello writes it.
pub const TLS_12: u32 = 0x0303;
/// TLS 1.3.
pub const TLS_13: u32 = 0x0304;
const SUPPORTED_VERSIONS: u32 = 43;
/// RFC 9849 section 5. Browsers send a meaningless one too (GREASE); it cannot be told from a real one.
const ENCRYPTED_CLIENT_HELLO: u32 = 0xfe0d;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A hello of TLS 1.2's legacy version with these extensions, cut into records of `size`.
    pub fn written(legacy: u16, extensions: &[(u16, &[u8])], size: usize) -> Vec<u8> {
        let mut listed = Vec::new();
        for (kind, content) in extensions {
            listed.extend(kind.to_be_bytes());
            listed.extend((content.len() as u16).to_be_bytes());
            listed.extend(*content);
        }
        let mut body = legacy.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend((listed.len() as u16).to_be_bytes());
        body.extend(listed);
        let mut message = vec![1];
        message.extend(&(body.len() as u32).to_be_bytes()[1..]);
        message.extend(body);
        let record = |piece: &[u8]| [&[0x16, 3, 1], &(piece.len() as u16).to_be_bytes()[..], piece].concat();
        message.chunks(size).flat_map(record).collect()
    }

    #[test]
    fn versions_and_ech_are_read_however_the_hello_is_cut() {
        let hello = |size| written(0x0303, &[(43, &[4, 3, 4, 3, 3]), (0xfe0d, b"\0x")], size);
        for size in [1, 3, 4, 5, 40, 16_384] {
            assert_eq!(offer(&hello(size)), Some(Offer { versions: vec![TLS_13, TLS_12], ech: true }), "{size}");
        }
    }

    #[test]
    fn an_old_hello_says_its_version_in_the_old_place() {
        let versions = |legacy| offer(&written(legacy, &[(0, b"")], 16_384)).unwrap().versions;
        assert_eq!((versions(0x0301), versions(0x0303), versions(0x0304)), (vec![], vec![TLS_12], vec![TLS_12]));
    }

    #[test]
    fn what_is_cut_short_anywhere_is_no_offer_and_no_panic() {
        let whole = written(0x0303, &[(43, &[4, 3, 4, 3, 3]), (0xfe0d, b"x")], 50);
        for length in 0..whole.len() {
            assert_eq!(offer(&whole[..length]), None, "{length}");
        }
        for position in 0..whole.len() {
            let mut bent = whole.clone();
            bent[position] ^= 0xff;
            let _ = offer(&bent);
        }
    }
}
