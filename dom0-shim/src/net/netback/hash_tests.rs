use proptest::prelude::*;

use super::*;
use crate::net::packet::ETHERNET_HEADER;
use crate::net::toeplitz;

/// A packet of Microsoft's "Verifying the RSS Hash Calculation": 66.9.149.187:2794 to 161.142.100.80:1766.
pub const VERIFICATION: [u8; 54] = [
    2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 66, 9, 149, 187, 161,
    142, 100, 80, 0x0a, 0xea, 0x06, 0xe6, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0,
];
const WITH_PORTS: Hash = Hash {
    kind: XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP,
    value: 0x51cc_c178,
};
const WITHOUT: Hash = Hash {
    kind: XEN_NETIF_CTRL_HASH_TYPE_IPV4,
    value: 0x323e_8fc2,
};

fn hashing(types: u32) -> Hashing {
    let mut hashing = Hashing::new(4);
    hashing
        .set_algorithm(XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ)
        .unwrap();
    hashing.set_types(types).unwrap();
    hashing.set_key(&toeplitz::tests::VERIFICATION).unwrap();
    hashing
}

fn hash(types: u32, frame: &[u8]) -> Option<Hash> {
    hashing(types).steer(frame).and_then(|(_, hash)| hash)
}

/// The packet with another byte.
fn with(at: usize, byte: u8) -> Vec<u8> {
    let mut frame = VERIFICATION.to_vec();
    frame[at] = byte;
    frame
}

#[test]
fn a_hash_is_of_the_longest_kind_that_is_wanted() {
    let [plain, tcp] = [WITHOUT.kind, WITH_PORTS.kind];
    assert_eq!(hash(plain | tcp, &VERIFICATION), Some(WITH_PORTS));
    assert_eq!(hash(tcp, &VERIFICATION), Some(WITH_PORTS));
    assert_eq!(hash(plain, &VERIFICATION), Some(WITHOUT));
    let others = XEN_NETIF_CTRL_HASH_TYPE_IPV6 | XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP;
    assert_eq!(hash(others, &VERIFICATION), None);
    let tagged = [&VERIFICATION[..12], &[0x81, 0, 0, 1], &VERIFICATION[12..]].concat();
    assert_eq!(hash(TYPES, &tagged), Some(WITH_PORTS));
    for (what, frame) in [
        ("UDP", with(23, 17)),
        ("a fragment", with(20, 0x20)),
        ("longer than it is", with(17, 200)),
    ] {
        assert_eq!(hash(TYPES, &frame), Some(WITHOUT), "{what}");
        assert_eq!(hash(tcp, &frame), None, "{what}");
    }
    assert_eq!(hash(TYPES, &with(13, 6)), None, "ARP");
    assert_eq!(hash(TYPES, &VERIFICATION[..33]), None);
}

#[test]
fn ipv6_has_hashes_behind_other_headers_too() {
    let addresses = ["3ffe:2501:200:1fff::7", "3ffe:2501:200:3::1"];
    let addresses = addresses.map(|address| address.parse::<core::net::Ipv6Addr>().unwrap().octets());
    let frame = |next: u8, extension: &[u8]| {
        let length = (20 + extension.len()) as u8;
        let tcp = &VERIFICATION[34..];
        let header = [0x60, 0, 0, 0, 0, length, next, 64];
        [
            &[2; 12],
            &[0x86, 0xdd][..],
            &header,
            addresses.as_flattened(),
            extension,
            tcp,
        ]
        .concat()
    };
    let with_ports = Some(Hash {
        kind: XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP,
        value: 0x4020_7d3d,
    });
    let without = Some(Hash {
        kind: XEN_NETIF_CTRL_HASH_TYPE_IPV6,
        value: 0x2cc1_8cd5,
    });
    assert_eq!(hash(TYPES, &frame(6, &[])), with_ports);
    assert_eq!(hash(TYPES, &frame(60, &[6, 0, 0, 0, 0, 0, 0, 0])), with_ports);
    assert_eq!(
        hash(TYPES, &frame(44, &[6, 0, 0, 1, 0, 0, 0, 0])),
        without,
        "a fragment"
    );
    assert_eq!(hash(XEN_NETIF_CTRL_HASH_TYPE_IPV6, &frame(6, &[])), without);
}

#[test]
fn queues_are_chosen_by_hash_and_mapping() {
    let mut hashing = hashing(TYPES);
    let arp = with(13, 6);
    assert_eq!(
        hashing.steer(&VERIFICATION),
        Some((WITH_PORTS.value, Some(WITH_PORTS)))
    );
    assert_eq!(hashing.steer(&arp), Some((0, None)));
    // The hash is 3 modulo 5.
    hashing.set_mapping_size(5).unwrap();
    hashing.set_mapping(0, &[3, 0]).unwrap();
    hashing.set_mapping(3, &[2]).unwrap();
    assert_eq!(WITH_PORTS.value % 5, 3);
    assert_eq!(hashing.steer(&VERIFICATION), Some((2, Some(WITH_PORTS))));
    assert_eq!(hashing.steer(&arp), Some((3, None)), "as hash 0");
    hashing.set_types(0).unwrap();
    assert_eq!(hashing.steer(&VERIFICATION), None);
}

proptest! {
    #[test]
    fn stands_any_frame(ip in any::<bool>(), rest in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut frame = rest;
        if ip && frame.len() > ETHERNET_HEADER {
            let version = frame[ETHERNET_HEADER] >> 7;
            frame[12..ETHERNET_HEADER].copy_from_slice(&[[8, 0], [0x86, 0xdd]][usize::from(version)]);
        }
        hash(TYPES, &frame);
    }
}
