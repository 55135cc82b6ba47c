//! Reading a ClientHello whole, and saying what in it speaks against answering in the origin's place.
//!
//! Every byte is kept, so that a connection that is not ours to end goes on as a tunnel and its
//! origin never knows. rustls reassembles and parses; what it does not tell (the versions offered,
//! ECH) is read by [`offer`], which awaits nothing. Nothing is written here.

use rustls::crypto::CryptoProvider;
use rustls::server::{Accepted, Acceptor, ClientHello};
use rustls::{SignatureScheme, SupportedCipherSuite};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use super::offer::{Offer, TLS_12, TLS_13, offer};
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

/// A handshake record of any TLS since 1.0 (RFC 8446 section 5.1).
const OPENING: [u8; 2] = [0x16, 0x03];
/// As much as is ever kept: four full records. Go's hello is 1,533 bytes.
const LIMIT: usize = 64 * 1024;
/// What rustls takes in one go (`READ_SIZE` in its deframer).
const PIECE: usize = 4096;
const OURS: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

#[cfg(test)]
mod tests {
    use super::super::offer::tests::written;
    use super::*;

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
