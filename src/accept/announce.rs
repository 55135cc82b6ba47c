//! The PROXY protocol, versions 1 and 2: what a load balancer says about the client that it speaks
//! for, before the client's first byte (haproxy's proxy-protocol.txt, sections 2.1 and 2.2).
//!
//! Pure: bytes in, verdict out. It says how many more bytes are certain to belong to the header, so
//! that whoever reads never takes one that does not. Additions (TLVs) are passed over unread.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The least that a header of either version has.
pub const LEAST: usize = 15;
/// The longest of version 1, with its line end (section 2.1).
const MOST_V1: usize = 107;
/// The longest of version 2 that we read: addresses and a good deal of additions.
const MOST_V2: usize = 4096;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED_V2: usize = 16;

/// How far the header has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It goes on for at least so many bytes.
    More(usize),
    /// It is whole.
    Whole {
        /// For whom the connection is; the balancer itself (a health check) or nobody it can name: none.
        client: Option<SocketAddr>,
        /// How long it was.
        length: usize,
    },
}

/// Why something is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    #[error("it does not begin with a PROXY header")]
    Missing,
    #[error("its PROXY header is too long")]
    Long,
    #[error("its PROXY header cannot be read")]
    Malformed,
}

/// Reads the beginning of a connection.
pub fn read(bytes: &[u8]) -> Result<Progress, Bad> {
    let known = bytes.len().min(SIGNATURE.len());
    // Of nothing at all, the shorter version may follow.
    if known > 0 && bytes[..known] == SIGNATURE[..known] {
        return read_v2(bytes);
    }
    let known = bytes.len().min(6);
    if bytes[..known] == b"PROXY "[..known] { read_v1(bytes) } else { Err(Bad::Missing) }
}

fn read_v1(bytes: &[u8]) -> Result<Progress, Bad> {
    if bytes.len() < LEAST {
        return Ok(Progress::More(LEAST - bytes.len()));
    }
    let within = &bytes[..bytes.len().min(MOST_V1)];
    let Some(end) = within.iter().position(|&byte| byte == b'\n') else {
        return if within.len() == MOST_V1 { Err(Bad::Long) } else { Ok(Progress::More(v1_left(within))) };
    };
    let line = within[..end].strip_suffix(b"\r").ok_or(Bad::Malformed)?;
    let line = std::str::from_utf8(line).map_err(|_| Bad::Malformed)?;
    Ok(Progress::Whole { client: v1_client(line)?, length: end + 1 })
}

/// What is still to come of a line without its end, at least.
fn v1_left(line: &[u8]) -> usize {
    if line.ends_with(b"\r") {
        return 1;
    }
    let spaces = line.iter().filter(|&&byte| byte == b' ').count();
    // A blank and something after it for each field, then the line end; UNKNOWN may end anywhere.
    let fields = if line.starts_with(b"PROXY TCP") { 5usize.saturating_sub(spaces) } else { 0 };
    (2 * fields + 2).min(MOST_V1 - line.len())
}

fn v1_client(line: &str) -> Result<Option<SocketAddr>, Bad> {
    let fields: Vec<&str> = line.split(' ').collect();
    match fields.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", "TCP4", from, to, port, to_port] => {
            let (from, _): (Ipv4Addr, Ipv4Addr) = (address(from)?, address(to)?);
            port_of(to_port)?;
            Ok(Some(SocketAddr::new(from.into(), port_of(port)?)))
        }
        ["PROXY", "TCP6", from, to, port, to_port] => {
            let (from, _): (Ipv6Addr, Ipv6Addr) = (address(from)?, address(to)?);
            port_of(to_port)?;
            Ok(Some(SocketAddr::new(IpAddr::from(from).to_canonical(), port_of(port)?)))
        }
        _ => Err(Bad::Malformed),
    }
}

fn address<A: std::str::FromStr>(text: &str) -> Result<A, Bad> {
    text.parse().map_err(|_| Bad::Malformed)
}

fn port_of(text: &str) -> Result<u16, Bad> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain).ok_or(Bad::Malformed)
}

fn read_v2(bytes: &[u8]) -> Result<Progress, Bad> {
    if bytes.len() < FIXED_V2 {
        return Ok(Progress::More(FIXED_V2 - bytes.len()));
    }
    let length = FIXED_V2 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if length > MOST_V2 {
        return Err(Bad::Long);
    }
    if bytes.len() < length {
        return Ok(Progress::More(length - bytes.len()));
    }
    let said = &bytes[FIXED_V2..length];
    let client = match (bytes[12], bytes[13]) {
        // LOCAL: the balancer on its own account. UNSPEC and UNIX: nobody with an address.
        (0x20, _) | (0x21, 0x00 | 0x31) => None,
        (0x21, 0x11) => Some(v4_client(said)?),
        (0x21, 0x21) => Some(v6_client(said)?),
        // Datagrams, and what a later version may bring.
        _ => return Err(Bad::Malformed),
    };
    Ok(Progress::Whole { client, length })
}

fn v4_client(said: &[u8]) -> Result<SocketAddr, Bad> {
    let [a, b, c, d, _, _, _, _, high, low, _, _, ..] = *said else { return Err(Bad::Malformed) };
    Ok(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low])))
}

fn v6_client(said: &[u8]) -> Result<SocketAddr, Bad> {
    let (Some(from), Some(&[high, low])) = (said.first_chunk::<16>(), said.get(32..34)) else {
        return Err(Bad::Malformed);
    };
    if said.len() < 36 {
        return Err(Bad::Malformed);
    }
    Ok(SocketAddr::new(IpAddr::from(*from).to_canonical(), u16::from_be_bytes([high, low])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8]) -> Option<SocketAddr> {
        match read(bytes) {
            Ok(Progress::Whole { client, length }) if length == bytes.len() => client,
            other => panic!("{other:?}"),
        }
    }

    fn v2(command: u8, family: u8, said: &[u8]) -> Vec<u8> {
        let length = u16::try_from(said.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, said].concat()
    }

    #[test]
    fn version_one_is_a_line() {
        assert_eq!(whole(b"PROXY TCP4 10.7.0.3 10.7.0.1 4711 3128\r\n"), Some("10.7.0.3:4711".parse().unwrap()));
        assert_eq!(whole(b"PROXY TCP6 2001:db8::3 ::1 4711 3128\r\n"), Some("[2001:db8::3]:4711".parse().unwrap()));
        assert_eq!(whole(b"PROXY TCP6 ::ffff:10.7.0.3 ::1 1 2\r\n"), Some("10.7.0.3:1".parse().unwrap()));
        assert_eq!(whole(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(whole(b"PROXY UNKNOWN ff:: ff:: 1 2\r\n"), None);
    }

    #[test]
    fn version_two_is_counted_bytes() {
        let v4 = [10, 7, 0, 3, 10, 7, 0, 1, 0x12, 0x67, 12, 56];
        assert_eq!(whole(&v2(0x21, 0x11, &v4)), Some("10.7.0.3:4711".parse().unwrap()));
        let with_additions = [&v4[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        assert_eq!(whole(&v2(0x21, 0x11, &with_additions)), Some("10.7.0.3:4711".parse().unwrap()));
        let mut v6 = [0; 36];
        (v6[0], v6[15], v6[33]) = (0xfd, 3, 7);
        assert_eq!(whole(&v2(0x21, 0x21, &v6)), Some("[fd00::3]:7".parse().unwrap()));
        assert_eq!(whole(&v2(0x20, 0x00, b"")), None, "LOCAL");
        assert_eq!(whole(&v2(0x20, 0x11, &v4)), None, "LOCAL, whatever else it says");
        assert_eq!(whole(&v2(0x21, 0x31, &[0; 216])), None, "UNIX");
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let table: [(&[u8], Bad); 12] = [
            (b"GET / HTTP/1.1\r\n", Bad::Missing),
            (b"\x16\x03\x01", Bad::Missing),
            (b"PROXY TCP4 10.7.0.3 10.7.0.1 4711\r\n", Bad::Malformed),
            (b"PROXY TCP4 10.7.0.3 10.7.0.1 4711 3128 x\r\n", Bad::Malformed),
            (b"PROXY TCP4  10.7.0.3 10.7.0.1 4711 3128\r\n", Bad::Malformed),
            (b"PROXY TCP4 010.7.0.3 10.7.0.1 4711 3128\r\n", Bad::Malformed),
            (b"PROXY TCP4 10.7.0.3 10.7.0.1 +4711 3128\r\n", Bad::Malformed),
            (b"PROXY TCP4 10.7.0.3 10.7.0.1 65536 3128\r\n", Bad::Malformed),
            (b"PROXY TCP6 10.7.0.3 10.7.0.1 4711 3128\r\n", Bad::Malformed),
            (b"PROXY TCP4 10.7.0.3 10.7.0.1 4711 3128\n", Bad::Malformed),
            (&[b'P', b'R', b'O', b'X', b'Y', b' ', 0xff, b'\r', b'\n', 0, 0, 0, 0, 0, 0], Bad::Malformed),
            (&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat(), Bad::Long),
        ];
        for (bytes, bad) in table {
            assert_eq!(read(bytes), Err(bad), "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(read(&v2(0x21, 0x12, &[0; 12])), Err(Bad::Malformed), "datagrams");
        assert_eq!(read(&v2(0x21, 0x11, &[0; 11])), Err(Bad::Malformed), "too short for its family");
        assert_eq!(read(&v2(0x31, 0x11, &[0; 12])), Err(Bad::Malformed), "version 3");
        assert_eq!(read(&v2(0x21, 0x11, &[0; 5000])[..20]), Err(Bad::Long));
    }

    /// The reader takes what it is told to: one byte too many is a byte of the client's.
    #[test]
    fn no_byte_after_the_header_is_asked_for() {
        for header in [
            b"PROXY TCP4 1.1.1.1 1.1.1.2 1 2\r\n".to_vec(),
            b"PROXY UNKNOWN\r\n".to_vec(),
            v2(0x21, 0x11, &[1; 30]),
            v2(0x20, 0, b""),
        ] {
            for seen in 0..header.len() {
                let Ok(Progress::More(more)) = read(&header[..seen]) else { panic!("{seen} of {header:?}") };
                assert!(more > 0 && seen + more <= header.len(), "{more} after {seen} of {header:?}");
            }
            let followed = [&header[..], b"GET"].concat();
            assert_eq!(read(&followed), read(&header));
        }
    }
}
