//! smoltcp's parsers, which verify checksums, are the judge.

use proptest::prelude::*;
use smoltcp::wire::{IpAddress, Ipv4Packet, TcpPacket, UdpPacket};

use super::super::packet::Segments;
use super::*;

const FROM: [u8; 4] = [10, 0, 0, 1];
const TO: [u8; 4] = [10, 0, 0, 2];

fn ipv4_frame(protocol: u8, body: &[u8]) -> Vec<u8> {
    let length = (20 + body.len()) as u16;
    let mut header = [0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0].to_vec();
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header.extend([FROM, TO].concat());
    [&[2; 12][..], &[8, 0], &header, body].concat()
}

fn ipv6_frame(protocol: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    let header = [0x60, 0, 0, 0, length[0], length[1], protocol, 64];
    [
        &[2; 12][..],
        &[0x86, 0xdd],
        &header,
        &[0xfe; 16],
        &[0xfd; 16],
        body,
    ]
    .concat()
}

/// FIN, PSH, ACK and CWR, so that the treatment of each shows.
fn tcp(payload: &[u8]) -> Vec<u8> {
    let mut header = [0; 20];
    header[..4].copy_from_slice(&[0x10, 0, 0x20, 0]);
    header[4..8].copy_from_slice(&0xffff_ff00u32.to_be_bytes());
    header[12..14].copy_from_slice(&[0x50, 0x99]);
    [&header[..], payload].concat()
}

fn blank(bytes: Vec<u8>, segments: Option<Segments>) -> Packet {
    Packet {
        bytes,
        checksum: Checksum::Blank,
        segments,
    }
}

fn gso(family: Family, size: u16) -> Option<Segments> {
    Some(Segments { family, size })
}

#[test]
fn a_packet_has_so_many_segments_at_most() {
    let whole = |count: usize| blank(ipv4_frame(TCP, &tcp(&vec![7; count * 100])), gso(Family::V4, 100));
    assert_eq!(complete(&whole(SEGMENTS_MAX)).unwrap().len(), SEGMENTS_MAX);
    assert_eq!(check(&whole(SEGMENTS_MAX + 1)), Err(Malformed));
    assert!(
        u16::MAX / 536 < SEGMENTS_MAX as u16,
        "the largest packet to any host"
    );
    let mut group = whole(2);
    group.bytes[0] = 1;
    assert_eq!(check(&group), Err(Malformed), "it would be cut for each of them");
}

#[test]
fn fills_the_checksums_of_udp_and_tcp() {
    let (from, to) = (IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2));
    let udp = [0x10, 0, 0, 53, 0, 13, 0xaa, 0xaa, 1, 2, 3, 4, 5];
    let mut packet = blank(ipv4_frame(UDP, &udp), None);
    // Padding is not part of it.
    packet.bytes.extend([0xee; 13]);
    fill_checksum(&mut packet).unwrap();
    assert_eq!(packet.checksum, Checksum::Validated);
    let body = &packet.bytes[34..47];
    assert!(UdpPacket::new_checked(body).unwrap().verify_checksum(&from, &to));
    let mut packet = blank(ipv4_frame(TCP, &tcp(&[7; 99])), None);
    packet.bytes.splice(12..12, [0x81, 0, 0, 5]);
    fill_checksum(&mut packet).unwrap();
    assert!(
        TcpPacket::new_checked(&packet.bytes[38..])
            .unwrap()
            .verify_checksum(&from, &to),
        "behind a VLAN tag"
    );
}

#[test]
fn refuses_what_has_no_checksum() {
    let good = ipv4_frame(TCP, &tcp(b"x"));
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        blank(bytes, None)
    };
    assert_eq!(check(&with(23, TCP)), Ok(()));
    assert_eq!(check(&with(23, 1)), Err(Malformed), "ICMP");
    assert_eq!(check(&with(20, 0x20)), Err(Malformed), "a fragment");
    assert_eq!(
        check(&with(14, 0x4f)),
        Err(Malformed),
        "no room for the transport header"
    );
    assert_eq!(check(&with(14, 0x44)), Err(Malformed), "a short header");
    assert_eq!(check(&with(16, 0xff)), Err(Malformed), "longer than the frame");
    assert_eq!(check(&with(13, 6)), Err(Malformed), "ARP");
    assert_eq!(check(&blank(good[..30].to_vec(), None)), Err(Malformed));
    assert_eq!(
        check(&Packet::complete(vec![0; 60])),
        Ok(()),
        "nothing left to do"
    );
}

#[test]
fn cuts_tcp_over_ipv4() {
    let payload: Vec<u8> = (0..2500u32).map(|n| n as u8).collect();
    let packet = blank(ipv4_frame(TCP, &tcp(&payload)), gso(Family::V4, 1000));
    assert_eq!((check(&packet), wire_length(&packet)), (Ok(()), 54 + 1000));
    let segments = complete(&packet).unwrap();
    let (mut data, mut next) = (Vec::new(), 0xffff_ff00u32);
    for (index, segment) in segments.iter().enumerate() {
        let ip = Ipv4Packet::new_checked(&segment.bytes[14..]).unwrap();
        assert!(ip.verify_checksum());
        assert_eq!(
            (ip.ident(), usize::from(ip.total_len())),
            (0x1234 + index as u16, segment.bytes.len() - 14)
        );
        let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
        assert!(tcp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
        assert_eq!(tcp.seq_number().0 as u32, next);
        assert_eq!((tcp.fin(), tcp.psh()), (index == 2, index == 2));
        assert_eq!(ip.payload()[13] & TCP_CWR != 0, index == 0);
        next = next.wrapping_add(tcp.payload().len() as u32);
        data.extend_from_slice(tcp.payload());
    }
    assert_eq!((segments.len(), data), (3, payload));
}

#[test]
fn cuts_tcp_over_ipv6() {
    let packet = blank(ipv6_frame(TCP, &tcp(&[9; 2500])), gso(Family::V6, 1400));
    let segments = complete(&packet).unwrap();
    let lengths: Vec<usize> = segments.iter().map(|segment| segment.bytes.len() - 74).collect();
    assert_eq!(lengths, [1400, 1100]);
    for segment in &segments {
        let (from, to) = (
            IpAddress::v6(0xfefe, 0xfefe, 0xfefe, 0xfefe, 0xfefe, 0xfefe, 0xfefe, 0xfefe),
            0xfdfd,
        );
        let to = IpAddress::v6(to, to, to, to, to, to, to, to);
        assert!(
            TcpPacket::new_checked(&segment.bytes[54..])
                .unwrap()
                .verify_checksum(&from, &to)
        );
        assert_eq!(u16_at(&segment.bytes, 18), Ok((segment.bytes.len() - 54) as u16));
    }
}

#[test]
fn refuses_to_cut_what_is_something_else() {
    let frame = ipv4_frame(TCP, &tcp(&[1; 2000]));
    let result = |bytes: Vec<u8>, segments| complete(&blank(bytes, segments));
    assert!(result(frame.clone(), gso(Family::V4, 500)).is_ok());
    assert_eq!(result(frame.clone(), gso(Family::V6, 500)), Err(Malformed));
    assert_eq!(result(frame.clone(), gso(Family::V4, 0)), Err(Malformed));
    assert_eq!(
        result(frame.clone(), gso(Family::V4, 1)),
        Err(Malformed),
        "too many segments"
    );
    let mut short = frame.clone();
    short[46] = 0x40;
    assert_eq!(
        result(short, gso(Family::V4, 500)),
        Err(Malformed),
        "a TCP header of 16 bytes"
    );
    let udp = ipv4_frame(UDP, &[0; 2000]);
    assert_eq!(result(udp, gso(Family::V4, 500)), Err(Malformed));
}

proptest! {
    #[test]
    fn no_bytes_are_a_danger(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400), version in 0usize..3, protocol in 0usize..3,
        extension in any::<bool>(), family in any::<bool>(), size in any::<u16>(),
    ) {
        // Random bytes alone hardly ever pass for IP.
        if let Some(head) = bytes.get_mut(12..54) {
            let protocol = [TCP, UDP, 43][protocol];
            match version {
                0 => head[..3].copy_from_slice(&[8, 0, 0x45]),
                1 => head[..3].copy_from_slice(&[0x86, 0xdd, 0x60]),
                _ => head[..6].copy_from_slice(&[0x81, 0, 0, 1, 8, 0]),
            }
            if extension {
                head[11] = protocol;
                head[8] = protocol;
            }
        }
        let family = if family { Family::V4 } else { Family::V6 };
        for segments in [None, gso(family, size)] {
            let packet = blank(bytes.clone(), segments);
            let done = complete(&packet);
            prop_assert_eq!(check(&packet).is_ok(), done.is_ok());
            for part in done.unwrap_or_default() {
                prop_assert!(part.bytes.len() <= wire_length(&packet));
            }
        }
    }

    #[test]
    fn sums_are_those_of_words(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let words = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u64::from(low)));
        prop_assert_eq!(fold(sum(&bytes)), fold(words.sum()));
    }
}
