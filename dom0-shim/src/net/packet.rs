//! Ethernet addresses, and packets as they travel between devices.

use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_HEADER: usize = 14;
/// Bytes of a VLAN tag, which come on top of the MTU.
pub const VLAN_TAG: usize = 4;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everybody.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// A group of hosts, or everybody.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The address of one host.
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self.0 != [0; 6]
    }

    /// An address from Xen's range 00:16:3e.
    pub fn of_xen(random: [u8; 3]) -> Self {
        let [a, b, c] = random;
        // Addresses made up by libxl have this bit clear too.
        Self([0x00, 0x16, 0x3e, a & 0x7f, b, c])
    }

    fn at(bytes: &[u8], offset: usize) -> Option<Self> {
        let bytes = bytes.get(offset..)?.first_chunk()?;
        Some(Self(*bytes))
    }

    /// Whom a frame is for.
    pub fn destination(frame: &[u8]) -> Option<Self> {
        Self::at(frame, 0)
    }

    /// Whom a frame is from.
    pub fn source(frame: &[u8]) -> Option<Self> {
        Self::at(frame, 6)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A text is not six hexadecimal numbers with colons between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAMac;

impl FromStr for Mac {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(NotAMac)?;
            // A sign would be taken by the parser too.
            if !matches!(part.len(), 1..=2) || !part.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(NotAMac);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| NotAMac)?;
        }
        match parts.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(NotAMac),
        }
    }
}

/// What is known of the TCP or UDP checksum of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// It is there; nobody has looked at it.
    Present,
    /// It is there, or need not be looked at: the packet never was on a wire.
    Validated,
    /// It is missing: the field has the sum of the pseudo header only.
    Blank,
}

/// Internet Protocol, by version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Version 4.
    V4,
    /// Version 6.
    V6,
}

/// A TCP packet that is to be cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// Under which protocol.
    pub family: Family,
    /// Most bytes of TCP payload in each.
    pub size: u16,
}

/// An Ethernet frame without its check sequence, and what its sender left to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The frame.
    pub bytes: Vec<u8>,
    /// State of the checksum.
    pub checksum: Checksum,
    /// Whether, and how, it is to be cut.
    pub segments: Option<Segments>,
}

impl Packet {
    /// A complete frame.
    pub fn complete(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            checksum: Checksum::Present,
            segments: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_text() {
        let mac: Mac = "00:16:3E:0a:b:ff".parse().unwrap();
        assert_eq!(mac, Mac([0, 0x16, 0x3e, 0x0a, 0x0b, 0xff]));
        assert_eq!(mac.to_string(), "00:16:3e:0a:0b:ff");
        for bad in [
            "",
            "00:16:3e:0a:0b",
            "00:16:3e:0a:0b:ff:00",
            "00:16:3e:0a:0b:+1",
            "00:16:3e:0a:0b:100",
            "001:6:3e:0a:0b:c",
        ] {
            assert_eq!(bad.parse::<Mac>(), Err(NotAMac), "{bad}");
        }
    }

    #[test]
    fn kinds_of_addresses() {
        assert!(Mac::BROADCAST.is_multicast() && !Mac::BROADCAST.is_unicast());
        assert!(!Mac([0; 6]).is_unicast() && Mac::of_xen([0xff; 3]).is_unicast());
        assert_eq!(Mac::of_xen([0xff, 1, 2]).to_string(), "00:16:3e:7f:01:02");
        assert_eq!(
            (Mac::source(&[1; 11]), Mac::source(&[1; 12])),
            (None, Some(Mac([1; 6])))
        );
    }
}
