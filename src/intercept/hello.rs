//! Reading a ClientHello whole, and saying what in it speaks against answering in the origin's place.
//!
//! Every byte is kept, so that a connection that is not ours to end goes on as a tunnel and its
//! origin never knows. rustls reassembles and parses; what it does not tell (the versions offered,
//! ECH) is read by [`offer`], which awaits nothing and cannot panic. Nothing is written here.

use rustls::crypto::CryptoProvider;
use rustls::server::{Accepted, Acceptor, ClientHello};
use rustls::{SignatureScheme, SupportedCipherSuite};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use super::{Error, Why};
use crate::target::Name;

/// How a connection opened.
pub(super) enum Opening {
    Hello(Box<Accepted>),
    /// With something that is passed on.
    Other(Why),
}

/// Waits for a hello until `deadline`, and for its first byte only until `silence`; which of them it
/// was, what was `kept` tells.
pub(super) async fn await_hello<S>(
    stream: &mut S,
    kept: &mut Vec<u8>,
    silence: Instant,
    deadline: Instant,
) -> Result<Result<Opening, Error>, Elapsed>
where
    S: AsyncRead + Unpin,
{
    kept.reserve(PIECE);
    match timeout_at(silence, stream.take(PIECE as u64).read_buf(kept)).await? {
        Ok(0) | Err(_) => return Ok(Err(Error::Closed)),
        Ok(_) => {}
    }
    timeout_at(deadline, read(stream, kept)).await
}

/// Reads until the hello is whole or it is clear that none will come. What was read is in `kept`, which may
/// hold its beginning already, also when the caller's deadline ends this.
async fn read<S>(stream: &mut S, kept: &mut Vec<u8>) -> Result<Opening, Error>
where
    S: AsyncRead + Unpin,
{
    let mut acceptor = Acceptor::default();
    let mut start = 0;
    loop {
        if kept.iter().zip(OPENING).any(|(byte, expected)| *byte != expected) {
            return Ok(Opening::Other(Why::NotTls));
        }
        match feed(&mut acceptor, &kept[start..]) {
            Ok(None) => {}
            Ok(Some(accepted)) => return Ok(Opening::Hello(Box::new(accepted))),
            Err(why) => return Ok(Opening::Other(why)),
        }
        start = kept.len();
        if start >= LIMIT {
            return Ok(Opening::Other(Why::BadHello));
        }
        kept.reserve(PIECE);
        let read = (&mut *stream).take(PIECE as u64).read_buf(kept).await.map_err(|_| Error::Closed)?;
        if read == 0 {
            return Err(Error::Closed);
        }
    }
}

/// Gives one piece to rustls. Bytes behind the hello would be lost to it, and nobody sends any:
/// early data needs a ticket, and we give none.
fn feed(acceptor: &mut Acceptor, mut piece: &[u8]) -> Result<Option<Accepted>, Why> {
    while !piece.is_empty() {
        match acceptor.read_tls(&mut piece) {
            Ok(0) | Err(_) => return Err(Why::BadHello),
            Ok(_) => {}
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) if piece.is_empty() => return Ok(Some(accepted)),
            Ok(Some(_)) | Err(_) => return Err(Why::BadHello),
        }
    }
    Ok(None)
}

/// What speaks against ending this TLS for `host`. Asked before a byte is answered: a client that we
/// could not shake hands with still can with its origin.
pub(super) fn object(hello: &ClientHello<'_>, kept: &[u8], host: &Name, provider: &CryptoProvider) -> Option<Why> {
    let Some(offer) = offer(kept) else { return Some(Why::BadHello) };
    match hello.server_name().map(Name::parse) {
        None => return Some(Why::NoName),
        Some(Ok(name)) if name == *host => {}
        Some(_) => return Some(Why::OtherName),
    }
    if offer.ech {
        return Some(Why::Ech);
    }
    let speaks = speaks_http(hello)
        && signs_with_ours(hello)
        && (fits_13(hello, &offer, provider) || fits_12(hello, &offer, provider));
    if speaks { None } else { Some(Why::NothingInCommon) }
}

fn speaks_http(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_none_or(|mut offered| offered.any(|protocol| super::PROTOCOLS.contains(&protocol)))
}

/// Our leaves are P-256 (RFC 8446 section 4.2.3).
fn signs_with_ours(hello: &ClientHello<'_>) -> bool {
    hello.signature_schemes().contains(&OURS)
}

fn fits_13(hello: &ClientHello<'_>, offer: &Offer, provider: &CryptoProvider) -> bool {
    offer.versions.contains(&TLS_13)
        && shares_group(hello, provider)
        && provider.cipher_suites.iter().any(|suite| match suite {
            SupportedCipherSuite::Tls13(_) => hello.cipher_suites().contains(&suite.suite()),
            SupportedCipherSuite::Tls12(_) => false,
        })
}

fn fits_12(hello: &ClientHello<'_>, offer: &Offer, provider: &CryptoProvider) -> bool {
    offer.versions.contains(&TLS_12)
        && shares_group(hello, provider)
        && provider.cipher_suites.iter().any(|suite| match suite {
            SupportedCipherSuite::Tls12(inner) => {
                inner.sign.contains(&OURS) && hello.cipher_suites().contains(&suite.suite())
            }
            SupportedCipherSuite::Tls13(_) => false,
        })
}

/// A TLS 1.2 client may leave its groups unsaid (RFC 8422 section 4).
fn shares_group(hello: &ClientHello<'_>, provider: &CryptoProvider) -> bool {
    hello.named_groups().is_none_or(|offered| provider.kx_groups.iter().any(|group| offered.contains(&group.name())))
}

/// What a hello offers beyond what rustls tells.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    versions: Vec<u32>,
    ech: bool,
}

/// Walks the handshake message (RFC 8446 section 4.1.2) inside its records. Nothing, if it is not whole.
fn offer(records: &[u8]) -> Option<Offer> {
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

/// A handshake record of any TLS since 1.0 (RFC 8446 section 5.1).
const OPENING: [u8; 2] = [0x16, 0x03];
/// As much as is ever kept: four full records. Go's hello is 1,533 bytes.
const LIMIT: usize = 64 * 1024;
/// What rustls takes in one go (`READ_SIZE` in its deframer).
const PIECE: usize = 4096;
const OURS: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
const TLS_12: u32 = 0x0303;
const TLS_13: u32 = 0x0304;
const SUPPORTED_VERSIONS: u32 = 43;
/// RFC 9849 section 5. Browsers send a meaningless one too (GREASE); it cannot be told from a real one.
const ENCRYPTED_CLIENT_HELLO: u32 = 0xfe0d;

#[cfg(test)]
mod tests {
    use super::*;

    /// A hello of TLS 1.2's legacy version with these extensions, cut into records of `size`.
    fn written(legacy: u16, extensions: &[(u16, &[u8])], size: usize) -> Vec<u8> {
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

    #[tokio::test]
    async fn a_hello_of_more_than_64_kib_is_not_ours_and_no_more_than_that_is_read() {
        let padding = vec![0; 65_000];
        let mut huge = written(0x0303, &[(21, &padding), (22, b"")], 16_384);
        huge.extend(huge.clone());
        let (mut kept, mut stream) = (Vec::new(), &huge[..]);
        let opening = read(&mut stream, &mut kept).await.unwrap();
        assert!(matches!(opening, Opening::Other(Why::BadHello)));
        assert!(kept.len() < LIMIT + PIECE);
        assert_eq!([&kept[..], stream].concat(), huge, "every byte is either kept or unread");
    }

    #[tokio::test]
    async fn a_connection_that_ends_within_the_hello_is_closed() {
        let whole = written(0x0303, &[], 16_384);
        for mut cut in [&whole[..0], &whole[..5], &whole[..30]] {
            assert!(matches!(read(&mut cut, &mut Vec::new()).await, Err(Error::Closed)));
        }
    }
}
