//! A gateway's outer end on a network whose DHCP server, router and name server is another gateway of ours.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr};

use super::*;
use crate::net::bridge::{Bridge, Delivery};
use crate::net::gateway;
use crate::net::packet::Packet;
use crate::net::switch::PortId;

const OUTER_END: Mac = Mac([2, 0, 0, 0, 1, 1]);
const HOST: Mac = Mac([2, 0, 0, 0, 0, 7]);
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 7);
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// Two networks: a domain's, and the one that its gateway leads to.
struct Networks {
    inner: Bridge,
    host: PortId,
    outer: Bridge,
    outer_end: PortId,
    now: u64,
    /// Frames that the outer end has sent.
    sent: Vec<Vec<u8>>,
}

impl Networks {
    /// With a lease.
    fn new() -> Self {
        let mut inner = Bridge::with_gateway(Some(OUTER_END));
        let mut outer = Bridge::with_gateway(None);
        let mut networks = Self {
            host: inner.connect(HOST, 1500, "host"),
            outer_end: outer.connect(OUTER_END, 1500, "gateway-of-hosts"),
            inner,
            outer,
            now: 0,
            sent: Vec::new(),
        };
        for _ in 0..10 {
            networks.inner.poll(networks.now);
            networks.carry();
            networks.now += SECOND;
        }
        networks.sent.clear();
        networks
    }

    /// Carries frames between the two until none is left. What the hosts inside get.
    fn carry(&mut self) -> Vec<Delivery> {
        let mut inside = Vec::new();
        while let Some(frame) = self.inner.take_outside() {
            self.sent.push(frame.clone());
            for (port, packet) in self.outer.send(self.outer_end, Packet::complete(frame), self.now) {
                assert_eq!(port, self.outer_end);
                inside.extend(self.inner.receive_outside(packet.bytes.clone(), self.now));
            }
        }
        inside
    }

    /// The host sends a datagram.
    fn send(&mut self, to: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<Delivery> {
        let frame = ipv4(HOST, gateway::MAC, &datagram(INSIDE, 5000, to, port, payload));
        let mut inside = self.inner.send(self.host, Packet::complete(frame), self.now);
        inside.extend(self.carry());
        inside
    }

    /// The IPv4 packets that the outer end has sent.
    fn sent_packets(&mut self) -> Vec<Vec<u8>> {
        let frames = core::mem::take(&mut self.sent).into_iter();
        frames
            .filter(|frame| frame[12..14] == [8, 0])
            .map(|frame| frame[14..].to_vec())
            .collect()
    }
}

fn ipv4(from: Mac, to: Mac, packet: &[u8]) -> Vec<u8> {
    ethernet(from, to, EthernetProtocol::Ipv4, packet)
}

fn datagram(from: Ipv4Addr, from_port: u16, to: Ipv4Addr, to_port: u16, payload: &[u8]) -> Vec<u8> {
    let udp = UdpRepr {
        src_port: from_port,
        dst_port: to_port,
    };
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + payload.len(),
        hop_limit: 64,
    };
    let checksums = ChecksumCapabilities::default();
    let mut bytes = vec![0; ip.buffer_len() + ip.payload_len];
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
    ip.emit(&mut packet, &checksums);
    udp.emit(
        &mut UdpPacket::new_unchecked(packet.payload_mut()),
        &from.into(),
        &to.into(),
        payload.len(),
        |place| place.copy_from_slice(payload),
        &checksums,
    );
    bytes
}

/// Source and destination of a datagram, whose checksum is right.
fn ends(bytes: &[u8]) -> ((Ipv4Addr, u16), (Ipv4Addr, u16)) {
    let packet = Ipv4Packet::new_checked(bytes).unwrap();
    let udp = UdpPacket::new_checked(packet.payload()).unwrap();
    let (from, to) = (packet.src_addr(), packet.dst_addr());
    assert!(packet.verify_checksum() && udp.verify_checksum(&from.into(), &to.into()));
    ((from, udp.src_port()), (to, udp.dst_port()))
}

#[test]
fn hosts_reach_out_and_are_answered() {
    let mut networks = Networks::new();
    assert!(networks.send(FAR, 7, b"hello").is_empty());
    let sent = networks.sent_packets();
    assert_eq!(sent.len(), 1, "once the router's address was known");
    let ((address, port), to) = ends(&sent[0]);
    assert_eq!(to, (FAR, 7));
    assert!(address.octets().starts_with(&[10, 88, 0]) && address != INSIDE);
    let answer = ipv4(
        gateway::MAC,
        OUTER_END,
        &datagram(FAR, 7, address, port, b"and back"),
    );
    let inside = networks.inner.receive_outside(answer, networks.now);
    let [(to, packet)] = &inside[..] else {
        panic!("{inside:?}")
    };
    assert_eq!(*to, networks.host);
    assert_eq!(Mac::destination(&packet.bytes), Some(HOST));
    assert_eq!(ends(&packet.bytes[14..]), ((FAR, 7), (INSIDE, 5000)));
    // With nobody's session: it is for the outer end itself, which has no such port.
    let stray = ipv4(gateway::MAC, OUTER_END, &datagram(FAR, 8, address, port, b"?"));
    assert!(networks.inner.receive_outside(stray, networks.now).is_empty());
    networks.inner.disconnect(networks.host, HOST, networks.now);
    let late = ipv4(gateway::MAC, OUTER_END, &datagram(FAR, 7, address, port, b"late"));
    assert!(networks.inner.receive_outside(late, networks.now).is_empty());
}

#[test]
fn names_of_others_are_asked_for_outside() {
    let mut networks = Networks::new();
    let query = |name: &[u8]| [&[0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name, &[0, 0, 1, 0, 1]].concat();
    // Ours: answered here.
    let answers = networks.send(gateway::ADDRESS, 53, &query(b"\x04host\x08internal"));
    assert_eq!((answers.len(), networks.sent_packets().len()), (1, 0));
    // The name server outside, a gateway of ours too, knows nobody of that name, and says so.
    let answers = networks.send(gateway::ADDRESS, 53, &query(b"\x07example\x03org"));
    assert_eq!(networks.sent_packets().len(), 1);
    let [(_, answer)] = &answers[..] else {
        panic!("{answers:?}")
    };
    let ip = &answer.bytes[14..];
    assert_eq!(ends(ip), ((gateway::ADDRESS, 53), (INSIDE, 5000)));
    assert_eq!(ip[28 + 3] & 0xf, 2, "server failure");
}

#[test]
fn a_neighbour_that_does_not_answer_holds_nobody_up() {
    let mut outside = Outside::new(OUTER_END);
    // It says first that it has no lease.
    outside.poll(0);
    outside.wire.output.clear();
    let router = Ipv4Addr::new(192, 0, 2, 1);
    outside.lease = Some(Lease {
        network: Ipv4Cidr::new(Ipv4Addr::new(192, 0, 2, 9), 24),
        router: Some(router),
        name_server: None,
        nat: Nat::new(Ipv4Addr::new(192, 0, 2, 9)),
    });
    let answer = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(gateway::MAC.0),
        source_protocol_addr: router,
        target_hardware_addr: EthernetAddress(OUTER_END.0),
        target_protocol_addr: Ipv4Addr::new(192, 0, 2, 9),
    };
    let mut bytes = vec![0; answer.buffer_len()];
    answer.emit(&mut ArpPacket::new_unchecked(&mut bytes));
    let answer = ethernet(gateway::MAC, OUTER_END, EthernetProtocol::Arp, &bytes);
    outside.receive(answer.clone(), 0);
    assert!(outside.neighbours.is_empty(), "nobody had asked");
    let far = |port| datagram(INSIDE, port, FAR, 7, b"");
    for port in 0..2 * WAITING_MAX as u16 {
        outside.send(HOST, far(2000 + port), None, 0);
    }
    assert_eq!(outside.neighbours[&router].waiting.len(), WAITING_MAX);
    outside.receive(answer, 0);
    assert_eq!(
        outside.wire.output.len(),
        1 + WAITING_MAX,
        "the question, and what waited"
    );
    for host in 10..250 {
        outside.send(
            HOST,
            datagram(INSIDE, 2000, Ipv4Addr::new(192, 0, 2, host), 7, b""),
            None,
            1,
        );
        assert!(outside.neighbours.len() <= NEIGHBOURS_MAX);
    }
    outside.wire.output.clear();
    outside.send(HOST, far(2000), None, 2);
    assert_eq!(outside.wire.output.len(), 1);
    assert_eq!(Mac::destination(&outside.wire.output[0]), Some(gateway::MAC));
}

#[test]
fn what_should_not_be_routed_is_not() {
    let mut networks = Networks::new();
    for to in [
        Ipv4Addr::BROADCAST,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::new(224, 0, 0, 1),
    ] {
        networks.send(to, 7, b"hello");
        assert!(networks.sent_packets().is_empty(), "{to}");
    }
    // Not from an address of the network.
    let foreign = ipv4(
        HOST,
        gateway::MAC,
        &datagram(FAR, 1, Ipv4Addr::new(8, 8, 8, 8), 2, b""),
    );
    networks
        .inner
        .send(networks.host, Packet::complete(foreign), networks.now);
    networks.carry();
    assert!(networks.sent_packets().is_empty());
}
