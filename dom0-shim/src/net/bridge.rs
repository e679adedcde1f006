//! A switch, and the gateway behind one of its ports if it has one.

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::gateway::{self, Gateway};
use super::offload;
use super::outside::Outside;
use super::packet::{Mac, Packet};
use super::switch::{Counters, PortId, Switch};
use super::wire;

/// Frames of the gateway's that are forwarded after one of a device: an answer, and what had waited.
const ANSWERS_MAX: usize = 512;

/// A packet for a port.
pub type Delivery = (PortId, Rc<Packet>);

/// The bridge.
#[derive(Default)]
pub struct Bridge {
    switch: Switch,
    gateway: Option<(PortId, Gateway)>,
}

impl Bridge {
    /// A bridge with a gateway: a network on which hosts get addresses. The gateway has another end on some other network, with the Ethernet
    /// address `outside`, if it leads anywhere.
    pub fn with_gateway(outside: Option<Mac>) -> Self {
        let mut switch = Switch::default();
        let port = switch.add(Some(gateway::MAC), wire::MTU);
        Self {
            switch,
            gateway: Some((port, Gateway::new(outside.map(Outside::new)))),
        }
    }

    /// Connects the device with address `mac` of the domain `name`.
    pub fn connect(&mut self, mac: Mac, mtu: u16, name: &str) -> PortId {
        if let Some((_, gateway)) = &mut self.gateway {
            gateway.name(mac, name);
        }
        self.switch.add(Some(mac), mtu)
    }

    /// The domain whose device has address `mac` has another name.
    pub fn rename(&mut self, mac: Mac, name: &str) {
        if let Some((_, gateway)) = &mut self.gateway {
            gateway.name(mac, name);
        }
    }

    /// Connects a network outside, with hosts of its own.
    pub fn connect_uplink(&mut self, mtu: u16) -> PortId {
        self.switch.add(None, mtu)
    }

    /// Disconnects a device.
    pub fn disconnect(&mut self, port: PortId, mac: Mac, now: u64) {
        self.switch.remove(port);
        if let Some((_, gateway)) = &mut self.gateway
            && !self.switch.has(mac)
        {
            gateway.forget(mac, now);
        }
    }

    /// What has passed a port.
    pub fn counters(&self, port: PortId) -> Option<Counters> {
        self.switch.counters(port)
    }

    /// Takes a packet from a port. Returns what goes to which devices, answers of the gateway included.
    pub fn send(&mut self, from: PortId, packet: Packet, now: u64) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        self.forward(from, packet, now, &mut deliveries);
        self.flush(now, &mut deliveries);
        deliveries
    }

    /// Does what has become due for the gateway. Returns what goes to which devices.
    pub fn poll(&mut self, now: u64) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        if let Some((_, gateway)) = &mut self.gateway {
            gateway.poll(now);
        }
        self.flush(now, &mut deliveries);
        deliveries
    }

    /// Takes a complete frame that has come to the gateway's other end. Returns what goes to which devices.
    pub fn receive_outside(&mut self, frame: Vec<u8>, now: u64) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        if let Some((_, gateway)) = &mut self.gateway {
            gateway.receive_outside(frame, now);
        }
        self.flush(now, &mut deliveries);
        deliveries
    }

    /// Has the gateway had no address for a host since the last [`Self::take_shortage`]?
    pub fn is_short(&self) -> bool {
        self.gateway
            .as_ref()
            .is_some_and(|(_, gateway)| gateway.is_short())
    }

    /// Is it time to say that the gateway had no address for a host?
    pub fn take_shortage(&mut self, now: u64) -> bool {
        self.gateway
            .as_mut()
            .is_some_and(|(_, gateway)| gateway.take_shortage(now))
    }

    /// The next frame that the gateway sends from its other end.
    pub fn take_outside(&mut self) -> Option<Vec<u8>> {
        self.gateway.as_mut()?.1.take_output_outside()
    }

    /// When to call [`Self::poll`] next, if ever.
    pub fn next_poll(&mut self, now: u64) -> Option<u64> {
        self.gateway
            .as_mut()
            .and_then(|(_, gateway)| gateway.next_poll(now))
    }

    fn forward(&mut self, from: PortId, packet: Packet, now: u64, deliveries: &mut Vec<Delivery>) {
        let length = offload::wire_length(&packet);
        let targets = self.switch.forward(from, &packet.bytes, length, now);
        let packet = Rc::new(packet);
        for target in targets {
            match &mut self.gateway {
                // The gateway knows nothing of offloads.
                Some((port, gateway)) if *port == target => {
                    for frame in offload::complete(&packet).unwrap_or_default() {
                        gateway.receive(frame.bytes, now);
                    }
                }
                _ => deliveries.push((target, packet.clone())),
            }
        }
    }

    fn flush(&mut self, now: u64, deliveries: &mut Vec<Delivery>) {
        for _ in 0..ANSWERS_MAX {
            let Some((port, frame)) = self
                .gateway
                .as_mut()
                .and_then(|(port, gateway)| Some((*port, gateway.take_output()?)))
            else {
                return;
            };
            self.forward(port, Packet::complete(frame), now, deliveries);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::packet::Checksum;
    use crate::net::wire::ethernet;
    use smoltcp::wire::{
        ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Packet,
        Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
    };
    use smoltcp::{phy::ChecksumCapabilities, wire::Ipv4Address};

    const A: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 0xb]);
    const HOST: Ipv4Address = Ipv4Address::new(10, 88, 0, 77);

    fn arp_request(from: Mac) -> Vec<u8> {
        let repr = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress(from.0),
            source_protocol_addr: HOST,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: gateway::ADDRESS,
        };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut ArpPacket::new_unchecked(&mut bytes));
        ethernet(from, Mac::BROADCAST, EthernetProtocol::Arp, &bytes)
    }

    /// An IPv4 packet from A to the gateway.
    fn ipv4(from: Ipv4Address, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
        let repr = Ipv4Repr {
            src_addr: from,
            dst_addr: gateway::ADDRESS,
            next_header: protocol,
            payload_len: payload.len(),
            hop_limit: 64,
        };
        let mut bytes = vec![0; repr.buffer_len() + payload.len()];
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
        repr.emit(&mut packet, &ChecksumCapabilities::default());
        packet.payload_mut().copy_from_slice(payload);
        ethernet(A, gateway::MAC, EthernetProtocol::Ipv4, &bytes)
    }

    #[test]
    fn the_gateway_answers_arp_and_ping() {
        let mut bridge = Bridge::with_gateway(None);
        let (a, b) = (bridge.connect(A, 1500, "a"), bridge.connect(B, 1500, "b"));
        let deliveries = bridge.send(a, Packet::complete(arp_request(A)), 0);
        let targets: Vec<_> = deliveries.iter().map(|(port, _)| *port).collect();
        assert_eq!(targets, [b, a], "everybody hears the question, A the answer");
        let answer = EthernetFrame::new_checked(&deliveries[1].1.bytes).unwrap();
        assert_eq!((answer.src_addr().0, answer.dst_addr().0), (gateway::MAC.0, A.0));

        let echo = Icmpv4Repr::EchoRequest {
            ident: 7,
            seq_no: 1,
            data: &[5; 56],
        };
        let mut bytes = vec![0; echo.buffer_len()];
        echo.emit(
            &mut Icmpv4Packet::new_unchecked(&mut bytes),
            &ChecksumCapabilities::default(),
        );
        let deliveries = bridge.send(a, Packet::complete(ipv4(HOST, IpProtocol::Icmp, &bytes)), 1);
        let [(port, reply)] = &deliveries[..] else {
            panic!("{deliveries:?}")
        };
        assert_eq!(*port, a);
        let ip = Ipv4Packet::new_checked(&reply.bytes[14..]).unwrap();
        let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
        let parsed = Icmpv4Repr::parse(&icmp, &ChecksumCapabilities::default()).unwrap();
        let wanted = Icmpv4Repr::EchoReply {
            ident: 7,
            seq_no: 1,
            data: &[5; 56],
        };
        assert_eq!(parsed, wanted);
    }

    /// A query for a name, with a blank checksum.
    fn query(from: Ipv4Address, name: &[u8]) -> Packet {
        let query = [&[0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name, &[0, 0, 1, 0, 1]].concat();
        let repr = UdpRepr {
            src_port: 4000,
            dst_port: 53,
        };
        let mut bytes = vec![0; repr.header_len() + query.len()];
        let mut datagram = UdpPacket::new_unchecked(&mut bytes);
        let copy = |payload: &mut [u8]| payload.copy_from_slice(&query);
        repr.emit(
            &mut datagram,
            &from.into(),
            &gateway::ADDRESS.into(),
            query.len(),
            copy,
            &ChecksumCapabilities::ignored(),
        );
        datagram.set_checksum(0x1234);
        Packet {
            checksum: Checksum::Blank,
            ..Packet::complete(ipv4(from, IpProtocol::Udp, &bytes))
        }
    }

    #[test]
    fn the_gateway_knows_names_also_of_packets_with_blank_checksums() {
        let mut bridge = Bridge::with_gateway(None);
        let a = bridge.connect(A, 1500, "Alpha");
        let mut ask = |name: &[u8]| {
            let deliveries = bridge.send(a, query(HOST, name), 1);
            assert_eq!(deliveries.len(), 1);
            let frame = &deliveries[0].1.bytes;
            let ip = Ipv4Packet::new_checked(&frame[14..]).unwrap();
            let datagram = UdpPacket::new_checked(ip.payload()).unwrap();
            assert_eq!((datagram.src_port(), datagram.dst_port()), (53, 4000));
            assert!(ip.verify_checksum());
            assert!(datagram.verify_checksum(&gateway::ADDRESS.into(), &HOST.into()));
            let reply = datagram.payload();
            (reply[3] & 0xf, reply[reply.len() - 4..].to_vec())
        };
        assert_eq!(
            ask(b"\x07gateway\x08internal"),
            (0, gateway::ADDRESS.octets().to_vec())
        );
        assert_eq!(ask(b"\x07gateway"), (0, gateway::ADDRESS.octets().to_vec()));
        assert_eq!(ask(b"\x05alpha\x08internal").0, 0, "there, without an address");
        assert_eq!(ask(b"\x04beta\x08internal").0, 3);
    }

    #[test]
    fn the_gateway_knows_the_name_that_a_domain_has_now() {
        let mut bridge = Bridge::with_gateway(None);
        let a = bridge.connect(A, 1500, "alpha");
        bridge.rename(A, "Beta");
        let mut code = |name: &[u8]| {
            let deliveries = bridge.send(a, query(HOST, name), 1);
            // Behind the headers of Ethernet, IPv4 and UDP.
            deliveries[0].1.bytes[14 + 20 + 8 + 3] & 0xf
        };
        assert_eq!(code(b"\x04beta\x08internal"), 0);
        assert_eq!(code(b"\x05alpha\x08internal"), 3);
    }

    #[test]
    fn who_does_not_hear_the_answer_keeps_nobody_from_theirs() {
        let mut bridge = Bridge::with_gateway(None);
        let a = bridge.connect(A, 1500, "alpha");
        let elsewhere = Ipv4Address::new(192, 0, 2, 1);
        assert!(bridge.send(a, query(elsewhere, b"\x07gateway"), 1).is_empty());
        let silent = Ipv4Address::new(10, 88, 0, 99);
        for from in [silent, HOST] {
            let deliveries = bridge.send(a, query(from, b"\x07gateway"), 2);
            let [(port, reply)] = &deliveries[..] else {
                panic!("{deliveries:?}")
            };
            assert_eq!((*port, Mac::destination(&reply.bytes)), (a, Some(A)));
            let ip = Ipv4Packet::new_checked(&reply.bytes[14..]).unwrap();
            assert_eq!((ip.dst_addr(), ip.next_header()), (from, IpProtocol::Udp));
        }
        assert_eq!(bridge.next_poll(2), None);
    }

    #[test]
    fn a_bridge_without_gateway_only_switches() {
        let mut bridge = Bridge::default();
        let (a, b) = (bridge.connect(A, 1500, "a"), bridge.connect(B, 1500, "b"));
        let deliveries = bridge.send(a, Packet::complete(arp_request(A)), 0);
        assert_eq!(
            (deliveries.len(), deliveries[0].0, bridge.next_poll(0)),
            (1, b, None)
        );
        assert_eq!(bridge.counters(a).unwrap().sent.packets, 1);
        bridge.disconnect(b, B, 0);
        assert!(bridge.send(a, Packet::complete(arp_request(A)), 0).is_empty());
    }
}
