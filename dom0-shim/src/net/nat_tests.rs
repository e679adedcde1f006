//! Translation there and back, what does not get in, what a host may not do to others.

use alloc::vec;

use proptest::prelude::*;

use super::*;

const OUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const HOST: Mac = Mac([2, 0, 0, 0, 0, 1]);
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);
const SYN: u8 = 0b10;
const ACK: u8 = 0b1_0000;
const FIN: u8 = 0b1;

fn inside(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 88, 0, host)
}

fn end(address: Ipv4Addr, port: u16) -> Endpoint {
    Endpoint { address, port }
}

/// An IPv4 packet with right checksums.
fn ip(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, transport: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(transport);
    let length = (packet.len() as u16).to_be_bytes();
    packet[2..4].copy_from_slice(&length);
    let header = !sum(&packet[..20]);
    packet[10..12].copy_from_slice(&header.to_be_bytes());
    packet
}

/// Sum of a transport's bytes and the pseudo header: 0xffff if its checksum is right.
fn pseudo_sum(packet: &[u8]) -> u16 {
    let transport = &packet[20..];
    let pseudo = [
        &packet[12..20],
        &[0, packet[9]],
        &(transport.len() as u16).to_be_bytes(),
        transport,
    ]
    .concat();
    sum(&pseudo)
}

fn sealed(mut packet: Vec<u8>, at: usize) -> Vec<u8> {
    // 0 would say that there is none (RFC 768); both are zero in ones' complement.
    let value = match !pseudo_sum(&packet) {
        0 => 0xffff,
        value => value,
    };
    packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
    packet
}

fn tcp(from: Endpoint, to: Endpoint, flags: u8) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[..2].copy_from_slice(&from.port.to_be_bytes());
    segment[2..4].copy_from_slice(&to.port.to_be_bytes());
    segment[12..14].copy_from_slice(&[0x50, flags]);
    segment.extend(b"data");
    sealed(ip(PROTOCOL_TCP, from.address, to.address, &segment), 36)
}

fn udp(from: Endpoint, to: Endpoint) -> Vec<u8> {
    let mut datagram = vec![0; 8];
    datagram[..2].copy_from_slice(&from.port.to_be_bytes());
    datagram[2..4].copy_from_slice(&to.port.to_be_bytes());
    datagram[4..6].copy_from_slice(&13u16.to_be_bytes());
    datagram.extend(b"hello");
    sealed(ip(PROTOCOL_UDP, from.address, to.address, &datagram), 26)
}

fn icmp(kind: u8, from: Ipv4Addr, to: Ipv4Addr, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(rest);
    let value = !sum(&message);
    message[2..4].copy_from_slice(&value.to_be_bytes());
    ip(ICMP, from, to, &message)
}

fn echo(kind: u8, from: Ipv4Addr, to: Ipv4Addr, identifier: u16) -> Vec<u8> {
    let mut rest = identifier.to_be_bytes().to_vec();
    rest.extend([0, 1, 0xaa, 0xbb]);
    icmp(kind, from, to, &rest)
}

/// The ends of a packet, after a look at its checksums.
fn ends(packet: &[u8]) -> (Endpoint, Endpoint) {
    assert_eq!(sum(&packet[..20]), 0xffff, "header: {packet:x?}");
    let address = |at| address_at(packet, at).unwrap();
    let port = |at| u16_at(packet, at).unwrap();
    if packet[9] == ICMP {
        assert_eq!(sum(&packet[20..]), 0xffff, "message: {packet:x?}");
        let identifier = port(24);
        return (end(address(12), identifier), end(address(16), identifier));
    }
    assert_eq!(pseudo_sum(packet), 0xffff, "transport: {packet:x?}");
    (end(address(12), port(20)), end(address(16), port(22)))
}

#[test]
fn a_connection_there_and_back() {
    let mut nat = Nat::new(OUTER);
    let (own, peer) = (end(inside(7), 40_000), end(PEER, 80));
    let mut packet = tcp(own, peer, SYN);
    assert_eq!(nat.outbound(HOST, &mut packet, None, 0), Some(()));
    assert_eq!(ends(&packet), (end(OUTER, 40_000), peer));
    assert_eq!(packet[8], 63, "one hop");
    let mut answer = tcp(peer, end(OUTER, 40_000), SYN | ACK);
    assert_eq!(nat.inbound(&mut answer, 1), Some(HOST));
    assert_eq!(ends(&answer), (peer, own));
    // From the peer's other port, from somebody else, to another port: nothing.
    for mut stray in [
        tcp(end(PEER, 81), end(OUTER, 40_000), ACK),
        tcp(end(ROUTER, 80), end(OUTER, 40_000), ACK),
        tcp(peer, end(OUTER, 40_001), ACK),
        tcp(peer, end(inside(7), 40_000), ACK),
        udp(peer, end(OUTER, 40_000)),
    ] {
        assert_eq!(nat.inbound(&mut stray, 1), None);
    }
    // Another host with the same port gets another one.
    let mut packet = tcp(end(inside(8), 40_000), peer, SYN);
    assert_eq!(nat.outbound(OTHER, &mut packet, None, 2), Some(()));
    assert_eq!(ends(&packet), (end(OUTER, 1024), peer));
}

#[test]
fn sessions_end() {
    let mut nat = Nat::new(OUTER);
    let (own, peer) = (end(inside(7), 40_000), end(PEER, 80));
    let alive = |nat: &mut Nat, now| {
        nat.inbound(&mut tcp(peer, end(OUTER, 40_000), ACK), now)
            .is_some()
    };
    let out = |nat: &mut Nat, flags, now| nat.outbound(HOST, &mut tcp(own, peer, flags), None, now);
    out(&mut nat, SYN, 0).unwrap();
    assert!(!alive(&mut nat, TCP_OPENING_OR_CLOSING), "never answered");
    out(&mut nat, SYN, 0).unwrap();
    assert!(alive(&mut nat, 1));
    assert!(alive(&mut nat, TCP_OPEN));
    out(&mut nat, FIN | ACK, TCP_OPEN).unwrap();
    assert!(alive(&mut nat, TCP_OPEN + 1));
    assert!(!alive(&mut nat, TCP_OPEN + 1 + TCP_OPENING_OR_CLOSING), "closed");
    assert!(nat.outer.is_empty());
    out(&mut nat, SYN, 0).unwrap();
    nat.forget(HOST);
    assert!(nat.outer.is_empty() && nat.hosts.is_empty());
}

#[test]
fn pings_keep_their_identifiers() {
    let mut nat = Nat::new(OUTER);
    for identifier in [0, 7, 2000] {
        let mut packet = echo(ECHO_REQUEST, inside(7), PEER, identifier);
        nat.outbound(HOST, &mut packet, None, 0).unwrap();
        let (from, to) = ends(&packet);
        assert_eq!((from.address, to.address), (OUTER, PEER));
        let mut reply = echo(ECHO_REPLY, PEER, OUTER, from.port);
        assert_eq!(nat.inbound(&mut reply, 1), Some(HOST));
        let (from, to) = ends(&reply);
        assert_eq!((from.address, to), (PEER, end(inside(7), identifier)));
    }
    // Nobody outside may ask.
    assert_eq!(nat.inbound(&mut echo(ECHO_REQUEST, PEER, OUTER, 2000), 1), None);
}

#[test]
fn a_name_server_in_place_of_the_gateway() {
    let mut nat = Nat::new(OUTER);
    let (own, gateway, server) = (end(inside(7), 5000), end(inside(1), 53), end(ROUTER, 53));
    let mut packet = udp(own, gateway);
    nat.outbound(HOST, &mut packet, Some(ROUTER), 0).unwrap();
    assert_eq!(ends(&packet), (end(OUTER, 5000), server));
    let mut answer = udp(server, end(OUTER, 5000));
    assert_eq!(nat.inbound(&mut answer, 0), Some(HOST));
    assert_eq!(ends(&answer), (gateway, own));
}

#[test]
fn errors_reach_whom_they_are_about() {
    let mut nat = Nat::new(OUTER);
    let (own, peer) = (end(inside(7), 5000), end(PEER, 80));
    let mut sent = udp(own, peer);
    nat.outbound(HOST, &mut sent, None, 0).unwrap();
    let about = |packet: &[u8]| [&[0; 4][..], &packet[..28]].concat();
    let mut error = icmp(3, ROUTER, OUTER, &about(&sent));
    assert_eq!(nat.inbound(&mut error, 0), Some(HOST));
    assert_eq!(
        (address_at(&error, 12), address_at(&error, 16)),
        (Some(ROUTER), Some(own.address))
    );
    assert_eq!((sum(&error[..20]), sum(&error[20..])), (0xffff, 0xffff));
    let inner = &error[28..];
    assert_eq!(sum(&inner[..20]), 0xffff);
    assert_eq!(
        (address_at(inner, 12), u16_at(inner, 20), address_at(inner, 16)),
        (Some(own.address), Some(5000), Some(PEER))
    );
    // About what was never sent, and damaged.
    let stray = udp(end(OUTER, 5000), end(ROUTER, 80));
    assert_eq!(nat.inbound(&mut icmp(3, ROUTER, OUTER, &about(&stray)), 0), None);
    let mut damaged = icmp(3, ROUTER, OUTER, &about(&sent));
    damaged[50] ^= 1;
    assert_eq!(nat.inbound(&mut damaged, 0), None);

    // The host reports of an answer.
    let mut answer = udp(peer, end(OUTER, 5000));
    nat.inbound(&mut answer, 0).unwrap();
    let mut error = icmp(3, own.address, PEER, &about(&answer));
    nat.outbound(HOST, &mut error, None, 0).unwrap();
    assert_eq!(address_at(&error, 12), Some(OUTER));
    let inner = &error[28..];
    assert_eq!(
        (address_at(inner, 16), u16_at(inner, 22)),
        (Some(OUTER), Some(5000))
    );
    assert_eq!((sum(&error[20..]), sum(&inner[..20])), (0xffff, 0xffff));
    assert_eq!(
        nat.outbound(OTHER, &mut icmp(3, own.address, PEER, &about(&answer)), None, 0),
        None,
        "not its session"
    );
}

#[test]
fn a_host_takes_nothing_from_others() {
    let mut nat = Nat::new(OUTER);
    nat.outbound(OTHER, &mut udp(end(inside(8), 9), end(PEER, 9)), None, 0)
        .unwrap();
    for port in 1..=3 * SESSIONS_MAX as u16 {
        let time = u64::from(port);
        nat.outbound(HOST, &mut udp(end(inside(7), port), end(PEER, 9)), None, time)
            .unwrap();
    }
    assert_eq!(nat.hosts[&HOST].len(), SESSIONS_MAX);
    assert_eq!(nat.outer.len(), SESSIONS_MAX + 1);
    assert_eq!(nat.hosts[&OTHER].len(), 1);
    let last = nat.hosts[&HOST].keys().map(|key| key.own.port).min();
    assert_eq!(last, Some(2 * SESSIONS_MAX as u16 + 1), "the oldest made room");
}

#[test]
fn a_host_cannot_keep_the_free_ports_from_others() {
    let mut nat = Nat::new(OUTER);
    let begin = 2000;
    for port in begin..begin + SESSIONS_MAX as u16 {
        nat.outbound(HOST, &mut udp(end(inside(7), port), end(PEER, 9)), None, 0)
            .unwrap();
    }
    assert_eq!(nat.next, *PORTS.start(), "not where the host wants it");
    // Come there by chance, the search gets past them.
    nat.next = begin;
    let mut packet = udp(end(inside(8), 60_000), end(PEER, 9));
    assert_eq!(nat.outbound(OTHER, &mut packet, None, 0), Some(()));
}

#[test]
fn what_is_not_translated_is_dropped() {
    let mut nat = Nat::new(OUTER);
    let whole = udp(end(inside(7), 1), end(PEER, 2));
    let mut out = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = whole.clone();
        change(&mut packet);
        nat.outbound(HOST, &mut packet, None, 0)
    };
    assert_eq!(out(&|_| ()), Some(()));
    assert_eq!(out(&|packet| packet.extend([0; 9])), Some(()), "padding");
    assert_eq!(out(&|packet| packet[7] = 1), None, "a fragment without a first");
    assert_eq!(out(&|packet| packet[8] = 1), None, "the last hop");
    assert_eq!(out(&|packet| packet[9] = 47), None, "GRE");
    assert_eq!(out(&|packet| packet[0] = 0x65), None, "version 6");
    assert_eq!(out(&|packet| packet[0] = 0x44), None, "a short header");
    assert_eq!(out(&|packet| packet[3] = 27), None, "a short packet");
    assert_eq!(out(&|packet| packet.truncate(30)), None, "a truncated one");
    assert_eq!(
        out(&|packet| packet[16..20].copy_from_slice(&OUTER.octets())),
        None
    );
}

/// A packet cut behind so many bytes of its payload, with right checksums.
fn cut(packet: &[u8], at: usize, id: u16) -> [Vec<u8>; 2] {
    let (first, rest) = packet[20..].split_at(at);
    [(first, 0x2000), (rest, at as u16 / 8)].map(|(part, fragment)| {
        let mut cut = ip(packet[9], ends_of(packet).0, ends_of(packet).1, part);
        cut[4..6].copy_from_slice(&id.to_be_bytes());
        cut[6..8].copy_from_slice(&u16::to_be_bytes(fragment));
        cut[10..12].fill(0);
        let header = !sum(&cut[..20]);
        cut[10..12].copy_from_slice(&header.to_be_bytes());
        cut
    })
}

fn ends_of(packet: &[u8]) -> (Ipv4Addr, Ipv4Addr) {
    let at = |at| address_at(packet, at).unwrap();
    (at(SOURCE), at(DESTINATION))
}

/// What the receiver makes of two fragments.
fn joined([first, second]: &[Vec<u8>; 2]) -> Vec<u8> {
    for part in [first, second] {
        assert_eq!(sum(&part[..20]), 0xffff);
    }
    assert_eq!(first[4..6], second[4..6]);
    assert_eq!((first[9], ends_of(first)), (second[9], ends_of(second)));
    let (from, to) = ends_of(first);
    ip(first[9], from, to, &[&first[20..], &second[20..]].concat())
}

#[test]
fn fragments_follow_the_first() {
    let mut nat = Nat::new(OUTER);
    let out = |nat: &mut Nat, mac, parts: &mut [Vec<u8>; 2]| {
        parts.each_mut().map(|part| nat.outbound(mac, part, None, 0))
    };
    // Two hosts with the same port that count their packets alike.
    let mut sent = Vec::new();
    for (mac, host) in [(HOST, 7), (OTHER, 8)] {
        let mut parts = cut(&udp(end(inside(host), 5000), end(PEER, 9)), 8, 1);
        assert_eq!(out(&mut nat, mac, &mut parts), [Some(()); 2]);
        let whole = joined(&parts);
        assert_eq!(pseudo_sum(&whole), 0xffff);
        assert_eq!((ends(&whole).0.address, ends(&whole).1), (OUTER, end(PEER, 9)));
        sent.push((ends(&whole).0, parts[0][4..6].to_vec()));
    }
    assert!(sent[0].0 != sent[1].0 && sent[0].1 != sent[1].1, "{sent:?}");
    // The answers, mixed.
    let [mut one, mut two] = [0, 1].map(|host| cut(&udp(end(PEER, 9), sent[host].0), 8, host as u16));
    for part in 0..2 {
        assert_eq!(nat.inbound(&mut one[part], 0), Some(HOST));
        assert_eq!(nat.inbound(&mut two[part], 0), Some(OTHER));
    }
    for (host, parts) in [(7, one), (8, two)] {
        let whole = joined(&parts);
        assert_eq!(pseudo_sum(&whole), 0xffff);
        assert_eq!(ends(&whole), (end(PEER, 9), end(inside(host), 5000)));
    }
    // What follows nothing, comes too late, or is of a host that has gone.
    let [mut first, second] = cut(&udp(end(PEER, 9), sent[0].0), 8, 77);
    assert_eq!(nat.inbound(&mut second.clone(), 0), None);
    assert_eq!(nat.inbound(&mut first, 0), Some(HOST));
    assert_eq!(nat.inbound(&mut second.clone(), 0), Some(HOST));
    assert_eq!(nat.inbound(&mut second.clone(), 60 * SECOND), None);
    nat.forget(HOST);
    assert_eq!(nat.inbound(&mut second.clone(), 0), None);
    // TCP's flags are looked at.
    let mut parts = cut(&tcp(end(inside(7), 5000), end(PEER, 9), SYN), 16, 2);
    assert_eq!(out(&mut nat, HOST, &mut parts), [None; 2]);
}

proptest! {
    #[test]
    fn every_answer_finds_its_host(
        packets in prop::collection::vec((1u8..5, any::<u16>(), 0u16..3, any::<bool>(), 0u64..100), 1..200),
    ) {
        let mut nat = Nat::new(OUTER);
        let mut now = 0;
        for (host, port, service, over_tcp, pause) in packets {
            now += pause * SECOND;
            let mac = Mac([2, 0, 0, 0, 0, host]);
            let (own, peer) = (end(inside(host), port), end(PEER, service));
            let make = |from, to| if over_tcp { tcp(from, to, ACK) } else { udp(from, to) };
            let mut packet = make(own, peer);
            prop_assert_eq!(nat.outbound(mac, &mut packet, None, now), Some(()));
            let (outer, to) = ends(&packet);
            prop_assert_eq!((outer.address, to), (OUTER, peer));
            let mut answer = make(peer, outer);
            prop_assert_eq!(nat.inbound(&mut answer, now), Some(mac));
            prop_assert_eq!(ends(&answer), (peer, own));
            let sessions: usize = nat.hosts.values().map(BTreeMap::len).sum();
            prop_assert_eq!(sessions, nat.outer.len());
        }
    }

    #[test]
    fn any_bytes_do(mut bytes in prop::collection::vec(any::<u8>(), 0..100), like_ip in any::<bool>(), kind in any::<u8>()) {
        let mut nat = Nat::new(OUTER);
        if like_ip && bytes.len() > 24 {
            bytes[0] = 0x40 | kind & 7;
            bytes[2..4].copy_from_slice(&[0, kind]);
            bytes[6..8].copy_from_slice(&[[0, 0], [0x20, 0], [0, 1]][usize::from(kind / 3 % 3)]);
            bytes[9] = [ICMP, PROTOCOL_TCP, PROTOCOL_UDP][usize::from(kind % 3)];
            bytes[16..20].copy_from_slice(&OUTER.octets());
        }
        let mut copy = bytes.clone();
        let _ = nat.outbound(HOST, &mut bytes, None, 0);
        let _ = nat.inbound(&mut copy, 0);
    }
}
