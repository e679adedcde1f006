//! The Toeplitz hash (xen netif.h; Microsoft, "RSS Hashing Functions").

/// Bytes of a key: as many as the longest input reaches, addresses and ports of IPv6.
pub const KEY: usize = 40;

/// The hash of up to 36 bytes: each bit of them that is set adds, without carries, the 32 bits of the key that begin at
/// its place.
pub fn hash<'a>(key: &[u8; KEY], input: impl IntoIterator<Item = &'a u8>) -> u32 {
    let windows = key.windows(5).map(|bytes| {
        bytes
            .iter()
            .fold(0, |window: u64, &byte| window << 8 | u64::from(byte))
    });
    input.into_iter().zip(windows).fold(0, |hash, (&byte, window)| {
        (0..8)
            .filter(|bit| byte & (0x80 >> bit) != 0)
            .fold(hash, |hash, bit| hash ^ (window >> (8 - bit)) as u32)
    })
}

#[cfg(test)]
pub(super) mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    /// The key of Microsoft's "Verifying the RSS Hash Calculation".
    pub const VERIFICATION: [u8; KEY] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    fn check(addresses: &[u8], ports: [u16; 2], with_ports: u32, without: u32) {
        let ports = ports.map(u16::to_be_bytes);
        assert_eq!(hash(&VERIFICATION, addresses), without);
        let all = [addresses, ports.as_flattened()].concat();
        assert_eq!(hash(&VERIFICATION, &all), with_ports);
    }

    #[test]
    fn hashes_of_the_verification_suite() {
        for (from, to, ports, with_ports, without) in [
            (
                "66.9.149.187",
                "161.142.100.80",
                [2794, 1766],
                0x51cc_c178,
                0x323e_8fc2,
            ),
            (
                "199.92.111.2",
                "65.69.140.83",
                [14230, 4739],
                0xc626_b0ea,
                0xd718_262a,
            ),
            (
                "24.19.198.95",
                "12.22.207.184",
                [12898, 38024],
                0x5c2b_394a,
                0xd2d0_a5de,
            ),
            (
                "38.27.205.30",
                "209.142.163.6",
                [48228, 2217],
                0xafc7_327f,
                0x8298_9176,
            ),
            (
                "153.39.163.191",
                "202.188.127.2",
                [44251, 1303],
                0x10e8_28a2,
                0x5d18_09c5,
            ),
        ] {
            let addresses = [from, to].map(|address| address.parse::<Ipv4Addr>().unwrap().octets());
            check(addresses.as_flattened(), ports, with_ports, without);
        }
        for (from, to, ports, with_ports, without) in [
            (
                "3ffe:2501:200:1fff::7",
                "3ffe:2501:200:3::1",
                [2794, 1766],
                0x4020_7d3d,
                0x2cc1_8cd5,
            ),
            (
                "3ffe:501:8::260:97ff:fe40:efab",
                "ff02::1",
                [14230, 4739],
                0xdde5_1bbf,
                0x0f0c_461c,
            ),
            (
                "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
                "fe80::200:f8ff:fe21:67cf",
                [44251, 38024],
                0x02d1_feef,
                0x4b61_e985,
            ),
        ] {
            let addresses = [from, to].map(|address| address.parse::<Ipv6Addr>().unwrap().octets());
            check(addresses.as_flattened(), ports, with_ports, without);
        }
    }

    proptest! {
        /// As netif.h defines it: key and input are shifted to the left together.
        #[test]
        fn is_the_sum_of_keys_shifted(
            key in prop::collection::vec(any::<u8>(), KEY), input in prop::collection::vec(any::<u8>(), 0..37)
        ) {
            let key: [u8; KEY] = key.try_into().unwrap();
            let bit = |bytes: &[u8], at: usize| u32::from(bytes[at / 8] >> (7 - at % 8) & 1);
            let expected = (0..input.len() * 8)
                .filter(|&at| bit(&input, at) == 1)
                .map(|at| (at..at + 32).fold(0, |word, at| word << 1 | bit(&key, at)))
                .fold(0, |sum, word| sum ^ word);
            prop_assert_eq!(hash(&key, &input), expected);
        }
    }
}
