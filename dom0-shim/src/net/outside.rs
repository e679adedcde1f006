//! The outer end of a gateway: a host of the network outside, which has its address by DHCP and sends for the hosts inside.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::dhcpv4;
use smoltcp::time::Instant;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, IpCidr, Ipv4Cidr,
};

use super::nat::Nat;
use super::packet::Mac;
use super::wire::{Wire, ethernet, instant, nanoseconds};

const SECOND: u64 = 1_000_000_000;
/// How long (ns) an answer to ARP counts, and how long one is waited for before it is asked again.
const NEIGHBOUR_AGE: u64 = 60 * SECOND;
const ASK_AGAIN: u64 = SECOND;
/// Neighbours known or asked for.
const NEIGHBOURS_MAX: usize = 64;
/// Packets that wait for a neighbour's address.
const WAITING_MAX: usize = 8;

/// A host on the network outside, or what may be one.
#[derive(Debug, Default)]
struct Neighbour {
    mac: Option<Mac>,
    /// When it answered, or was asked.
    since: u64,
    waiting: Vec<Vec<u8>>,
}

/// What DHCP has given.
#[derive(Debug)]
struct Lease {
    network: Ipv4Cidr,
    router: Option<Ipv4Addr>,
    name_server: Option<Ipv4Addr>,
    nat: Nat,
}

/// The outer end.
pub struct Outside {
    mac: Mac,
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    dhcp: SocketHandle,
    lease: Option<Lease>,
    neighbours: BTreeMap<Ipv4Addr, Neighbour>,
}

impl Outside {
    /// A host with Ethernet address `mac`, which looks for an address.
    pub fn new(mac: Mac) -> Self {
        let mut wire = Wire::default();
        let interface = Interface::new(
            Config::new(EthernetAddress(mac.0).into()),
            &mut wire,
            Instant::ZERO,
        );
        let mut sockets = SocketSet::new(Vec::new());
        let dhcp = sockets.add(dhcpv4::Socket::new());
        Self {
            mac,
            interface,
            wire,
            sockets,
            dhcp,
            lease: None,
            neighbours: BTreeMap::new(),
        }
    }

    /// The address, once there is one.
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.lease.as_ref().map(|lease| lease.nat.address())
    }

    /// Who knows other names.
    pub fn name_server(&self) -> Option<Ipv4Addr> {
        self.lease.as_ref()?.name_server
    }

    /// A host inside has gone.
    pub fn forget(&mut self, host: Mac) {
        if let Some(lease) = &mut self.lease {
            lease.nat.forget(host);
        }
    }

    /// The next frame to send.
    pub fn take_output(&mut self) -> Option<Vec<u8>> {
        self.wire.output.pop_front()
    }

    /// Does what has become due.
    pub fn poll(&mut self, now: u64) {
        self.interface
            .poll(instant(now), &mut self.wire, &mut self.sockets);
        let event = self.sockets.get_mut::<dhcpv4::Socket<'_>>(self.dhcp).poll();
        match event {
            None => {}
            Some(dhcpv4::Event::Deconfigured) => {
                self.lease = None;
                self.interface.update_ip_addrs(|addresses| addresses.clear());
            }
            Some(dhcpv4::Event::Configured(config)) => {
                let (network, router) = (config.address, config.router);
                let name_server = config.dns_servers.first().copied();
                self.interface.update_ip_addrs(|addresses| {
                    addresses.clear();
                    // The list is empty and has room for one.
                    let _ = addresses.push(IpCidr::Ipv4(network));
                });
                // Who had sessions keeps them, if the address is the same.
                let same = self
                    .lease
                    .take()
                    .filter(|lease| lease.nat.address() == network.address());
                self.lease = Some(Lease {
                    network,
                    router,
                    name_server,
                    nat: same.map_or_else(|| Nat::new(network.address()), |lease| lease.nat),
                });
            }
        }
    }

    /// When to call [`Self::poll`] next, if ever.
    pub fn next_poll(&mut self, now: u64) -> Option<u64> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        Some(nanoseconds(at))
    }

    /// Takes a complete frame. Returns a packet that is for a host inside, and the host.
    pub fn receive(&mut self, frame: Vec<u8>, now: u64) -> Option<(Mac, Vec<u8>)> {
        let parsed = EthernetFrame::new_checked(&frame[..]).ok()?;
        match parsed.ethertype() {
            EthernetProtocol::Arp => self.learn(parsed.payload(), now),
            EthernetProtocol::Ipv4 if parsed.dst_addr().0 == self.mac.0 => {
                let mut packet = parsed.payload().to_vec();
                let lease = self.lease.as_mut();
                if let Some(host) = lease.and_then(|lease| lease.nat.inbound(&mut packet, now)) {
                    return Some((host, packet));
                }
            }
            _ => {}
        }
        self.wire.input = Some(frame);
        self.poll(now);
        None
    }

    /// Sends a packet of the host `from`; to `instead`, if that is given, and not to whom it is addressed.
    pub fn send(&mut self, from: Mac, mut packet: Vec<u8>, instead: Option<Ipv4Addr>, now: u64) {
        let sent = self.lease.as_mut().and_then(|lease| {
            lease.nat.outbound(from, &mut packet, instead, now)?;
            let to: [u8; 4] = *packet.get(16..)?.first_chunk()?;
            let to = Ipv4Addr::from(to);
            if lease.network.contains_addr(&to) {
                Some(to)
            } else {
                lease.router
            }
        });
        if let Some(hop) = sent {
            self.send_to(hop, packet, now);
        }
    }

    /// Sends a packet to a neighbour, or asks for the neighbour first.
    fn send_to(&mut self, hop: Ipv4Addr, packet: Vec<u8>, now: u64) {
        self.make_room(hop);
        let neighbour = self.neighbours.entry(hop).or_default();
        let age = now.saturating_sub(neighbour.since);
        match neighbour.mac {
            Some(mac) if age < NEIGHBOUR_AGE => {
                self.wire
                    .send(ethernet(self.mac, mac, EthernetProtocol::Ipv4, &packet));
                return;
            }
            Some(_) => neighbour.mac = None,
            None if !neighbour.waiting.is_empty() && age < ASK_AGAIN => {
                if neighbour.waiting.len() < WAITING_MAX {
                    neighbour.waiting.push(packet);
                }
                return;
            }
            None => {}
        }
        neighbour.since = now;
        // What has waited in vain is lost.
        neighbour.waiting = vec![packet];
        self.ask(hop);
    }

    /// A place for one more neighbour: that of one that does not answer, else of the one heard of longest ago; never the router's.
    fn make_room(&mut self, hop: Ipv4Addr) {
        if self.neighbours.len() < NEIGHBOURS_MAX || self.neighbours.contains_key(&hop) {
            return;
        }
        let router = self.lease.as_ref().and_then(|lease| lease.router);
        let others = self.neighbours.iter().filter(|(at, _)| Some(**at) != router);
        let least = others.min_by_key(|(_, neighbour)| (neighbour.mac.is_some(), neighbour.since));
        if let Some(at) = least.map(|(&at, _)| at) {
            self.neighbours.remove(&at);
        }
    }

    fn ask(&mut self, hop: Ipv4Addr) {
        let Some(address) = self.address() else { return };
        let repr = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress(self.mac.0),
            source_protocol_addr: address,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: hop,
        };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut ArpPacket::new_unchecked(&mut bytes));
        self.wire
            .send(ethernet(self.mac, Mac::BROADCAST, EthernetProtocol::Arp, &bytes));
    }

    /// An answer to what was asked: whatever else is said about addresses is not believed.
    fn learn(&mut self, payload: &[u8], now: u64) {
        let packet = ArpPacket::new_checked(payload);
        let Ok(Ok(ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr,
            source_protocol_addr,
            ..
        })) = packet.map(|packet| ArpRepr::parse(&packet))
        else {
            return;
        };
        let mac = Mac(source_hardware_addr.0);
        let Some(neighbour) = self.neighbours.get_mut(&source_protocol_addr) else {
            return;
        };
        if neighbour.waiting.is_empty() || !mac.is_unicast() {
            return;
        }
        neighbour.mac = Some(mac);
        neighbour.since = now;
        for packet in core::mem::take(&mut neighbour.waiting) {
            self.wire
                .send(ethernet(self.mac, mac, EthernetProtocol::Ipv4, &packet));
        }
    }
}

#[cfg(test)]
#[path = "outside_tests.rs"]
mod tests;
