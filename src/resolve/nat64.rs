//! Addresses as they are reached from a network without IPv4: through a NAT64 (RFC 6146), whose
//! prefix the network's own name servers tell (RFC 7050), by the mapping of RFC 6052.
//!
//! Pure. Who asks for the prefix, and when, is `shared`'s business. An address is translated only
//! if it is a public one, and one that the network's servers had translated already is judged by
//! what it embeds: where that is not public, it is handed out as it is, so that no rule for
//! private addresses is passed by in disguise.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::target::{Name, Scope};

/// The name whose IPv4 addresses everybody knows (RFC 7050 section 2.2).
const KNOWN_NAME: &str = "ipv4only.arpa";
const KNOWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];
/// Where a prefix may end, the usual one first (RFC 6052 section 2.2).
const LENGTHS: [usize; 6] = [96, 64, 56, 48, 40, 32];
/// Bits 64 to 71 are zero in every mapping.
const RESERVED: usize = 8;

/// A NAT64 prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    octets: [u8; 16],
    length: usize,
}

impl Prefix {
    /// What most networks use (RFC 6052 section 2.1): worth a try where no server can be asked.
    pub(super) const WELL_KNOWN: Prefix =
        Prefix { octets: [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], length: 96 };

    /// The name to ask AAAA of.
    pub(super) fn known_name() -> Option<Name> {
        Name::parse(KNOWN_NAME).ok()
    }

    /// Reads the prefix out of the addresses that [`Prefix::known_name`] has here (RFC 7050 section 3).
    pub(super) fn read(addresses: &[IpAddr]) -> Option<Prefix> {
        let v6 = addresses.iter().filter_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        });
        v6.into_iter().find_map(|address| LENGTHS.iter().find_map(|&length| Prefix::ending(address, length)))
    }

    /// The prefix of this length, if it maps one of the known addresses to this one.
    fn ending(address: Ipv6Addr, length: usize) -> Option<Prefix> {
        let mut octets = address.octets();
        octets[length / 8..].fill(0);
        let prefix = Prefix { octets, length };
        KNOWN.iter().any(|known| prefix.embed(*known) == address).then_some(prefix)
    }

    /// All addresses as they are reached through this prefix, each once.
    pub(super) fn translate(self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let mut translated = Vec::with_capacity(addresses.len());
        for address in addresses {
            let address = self.through(*address);
            if !translated.contains(&address) {
                translated.push(address);
            }
        }
        translated
    }

    fn through(self, address: IpAddr) -> IpAddr {
        let is_public = |address: Ipv4Addr| Scope::of(address.into()).is_global();
        match address {
            IpAddr::V4(v4) if is_public(v4) => self.embed(v4).into(),
            IpAddr::V6(v6) => match self.extract(v6) {
                Some(v4) if !is_public(v4) => v4.into(),
                _ => address,
            },
            address => address,
        }
    }

    /// The address that was translated, or itself.
    pub(super) fn undo(self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V6(v6) => self.extract(v6).map_or(address, IpAddr::V4),
            address => address,
        }
    }

    fn embed(self, address: Ipv4Addr) -> Ipv6Addr {
        let mut octets = self.octets;
        for (place, octet) in self.places().zip(address.octets()) {
            octets[place] = octet;
        }
        octets.into()
    }

    fn extract(self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let octets = address.octets();
        let end = self.length / 8;
        let mut inside = [0; 4];
        for (octet, place) in inside.iter_mut().zip(self.places()) {
            *octet = octets[place];
        }
        (octets[..end] == self.octets[..end]).then(|| inside.into())
    }

    /// Where the four octets stand: after the prefix, around the reserved one.
    fn places(self) -> impl Iterator<Item = usize> {
        (self.length / 8..16).filter(|&place| place != RESERVED).take(4)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv6Addr::from(self.octets), self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str, length: usize) -> Prefix {
        Prefix { octets: text.parse::<Ipv6Addr>().unwrap().octets(), length }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The table of RFC 6052 section 2.4, with another address: documentation is not public.
    #[test]
    fn every_length_of_prefix_maps_as_the_standard_says() {
        let table = [
            ("2606:db8::", 32, "2606:db8:801:203::"),
            ("2606:db8:100::", 40, "2606:db8:108:102:3::"),
            ("2606:db8:122::", 48, "2606:db8:122:801:2:300::"),
            ("2606:db8:122:300::", 56, "2606:db8:122:308:1:203::"),
            ("2606:db8:122:344::", 64, "2606:db8:122:344:8:102:300::"),
            ("2606:db8:122:344::", 96, "2606:db8:122:344::8.1.2.3"),
            ("64:ff9b::", 96, "64:ff9b::8.1.2.3"),
        ];
        for (network, length, mapped) in table {
            let prefix = prefix(network, length);
            assert_eq!(prefix.translate(&[ip("8.1.2.3")]), [ip(mapped)], "{network}/{length}");
            assert_eq!(prefix.undo(ip(mapped)), ip("8.1.2.3"), "{network}/{length}");
            let told = KNOWN.map(|known| IpAddr::V6(prefix.embed(known)));
            assert_eq!(Prefix::read(&told), Some(prefix), "{network}/{length}");
        }
    }

    #[test]
    fn what_is_no_mapping_tells_no_prefix() {
        let table: [&[&str]; 4] = [&[], &["192.0.0.170"], &["2606::1"], &["64:ff9b::8.8.8.8"]];
        for told in table {
            let told: Vec<IpAddr> = told.iter().map(|text| ip(text)).collect();
            assert_eq!(Prefix::read(&told), None, "{told:?}");
        }
    }

    #[test]
    fn only_public_addresses_go_through_and_private_ones_are_shown_for_what_they_are() {
        let own = prefix("2606:db8:122:344::", 96);
        let table = [
            ("8.8.8.8", "2606:db8:122:344::8.8.8.8"),
            ("10.0.0.1", "10.0.0.1"),
            ("169.254.169.254", "169.254.169.254"),
            ("2606:db8:122:344::10.0.0.1", "10.0.0.1"),
            ("2606:db8:122:344::169.254.169.254", "169.254.169.254"),
            ("2606:4700::1", "2606:4700::1"),
        ];
        for (address, handed_out) in table {
            assert_eq!(own.translate(&[ip(address)]), [ip(handed_out)], "{address}");
        }
        assert_eq!(own.translate(&[ip("2606:db8:122:344::8.8.8.8"), ip("8.8.8.8")]).len(), 1, "each once");
    }
}
