//! The host at the inner end of a network: answers ARP, ping, DHCP, and DNS for the names of the domains; and leads out, by [`Outside`].

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpCidr, IpProtocol, Ipv4Cidr, Ipv4Packet, UdpPacket,
};

use super::dhcp::{self, Server};
use super::dns::{self, Answer};
use super::outside::Outside;
use super::packet::Mac;
use super::wire::{End, Wire, datagram, ethernet, instant, nanoseconds};

/// Address of the gateway.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// Bits of the network's part of an address.
pub const PREFIX: u8 = 24;
/// The gateway's Ethernet address: locally administered, so that no device has it by chance.
pub const MAC: Mac = Mac([0x02, 0x00, 0x0a, 0x58, 0x00, 0x01]);
/// The domain that the names of the network are in; reserved for such use.
pub const DOMAIN: &str = "internal";
/// The gateway's own name.
const NAME: &str = "gateway";

/// Where it is asked for names.
const NAME_SERVER: End = End {
    mac: MAC,
    address: ADDRESS,
    port: 53,
};

/// The gateway.
pub struct Gateway {
    interface: Interface,
    wire: Wire,
    /// None; the interface wants a set of them.
    sockets: SocketSet<'static>,
    dhcp: Server,
    /// Names of the domains, by the addresses of their devices.
    names: BTreeMap<Mac, String>,
    /// Its other end, if it has one.
    outside: Option<Outside>,
}

impl Gateway {
    /// A gateway that leads out by `outside`, if anywhere.
    pub fn new(outside: Option<Outside>) -> Self {
        let mut wire = Wire::default();
        let config = Config::new(EthernetAddress(MAC.0).into());
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        let network = Ipv4Cidr::new(ADDRESS, PREFIX);
        interface.update_ip_addrs(|addresses| {
            // The list is empty and has room for one.
            let _ = addresses.push(IpCidr::Ipv4(network));
        });
        let dhcp = Server::new(dhcp::Settings {
            mac: MAC,
            address: ADDRESS,
            mask: network.netmask(),
            pool: 2..=254,
            domain: DOMAIN,
        });
        Self {
            interface,
            wire,
            sockets: SocketSet::new(Vec::new()),
            dhcp,
            names: BTreeMap::new(),
            outside,
        }
    }

    /// Gives the host with address `mac` a name.
    pub fn name(&mut self, mac: Mac, name: &str) {
        self.names.insert(mac, name.to_ascii_lowercase());
    }

    /// A host has gone: its name and its address are free.
    pub fn forget(&mut self, mac: Mac, now: u64) {
        self.names.remove(&mac);
        self.dhcp.release(mac, now);
        if let Some(outside) = &mut self.outside {
            outside.forget(mac);
        }
    }

    /// As [`Server::is_short`].
    pub fn is_short(&self) -> bool {
        self.dhcp.is_short()
    }

    /// As [`Server::take_shortage`].
    pub fn take_shortage(&mut self, now: u64) -> bool {
        self.dhcp.take_shortage(now)
    }

    /// Takes a complete frame from outside; what it is for hosts inside is added to the output.
    pub fn receive_outside(&mut self, frame: Vec<u8>, now: u64) {
        let inward = self
            .outside
            .as_mut()
            .and_then(|outside| outside.receive(frame, now));
        if let Some((host, packet)) = inward {
            self.wire
                .send(ethernet(MAC, host, EthernetProtocol::Ipv4, &packet));
        }
    }

    /// The next frame to send outside.
    pub fn take_output_outside(&mut self) -> Option<Vec<u8>> {
        self.outside.as_mut()?.take_output()
    }

    /// Leads a frame out if that is where it wants to go.
    fn lead_out(&mut self, frame: &[u8], now: u64) -> Option<()> {
        let outside = self.outside.as_mut()?;
        let parsed = EthernetFrame::new_checked(frame).ok()?;
        if parsed.ethertype() != EthernetProtocol::Ipv4 || parsed.dst_addr().0 != MAC.0 {
            return None;
        }
        let from = Mac(parsed.src_addr().0);
        let ip = Ipv4Packet::new_checked(parsed.payload()).ok()?;
        let network = Ipv4Cidr::new(ADDRESS, PREFIX);
        let to = ip.dst_addr();
        if !network.contains_addr(&ip.src_addr()) || network.contains_addr(&to) {
            return None;
        }
        if !(to.is_multicast() || to.is_broadcast() || to.is_loopback() || to.is_unspecified()) {
            outside.send(from, parsed.payload().to_vec(), None, now);
        }
        Some(())
    }

    /// Takes a complete frame; answers are added to the output.
    pub fn receive(&mut self, frame: Vec<u8>, now: u64) {
        if let Some(query) = Query::parse(&frame) {
            return self.resolve(&query, now);
        }
        if self.lead_out(&frame, now).is_some() {
            return;
        }
        match self.dhcp.receive(&frame, now) {
            Some(reply) => self.wire.send(reply),
            None => {
                self.wire.input = Some(frame);
                self.poll(now);
            }
        }
    }

    /// Does what has become due.
    pub fn poll(&mut self, now: u64) {
        self.interface
            .poll(instant(now), &mut self.wire, &mut self.sockets);
        if let Some(outside) = &mut self.outside {
            outside.poll(now);
        }
    }

    /// When to call [`Self::poll`] next, if ever.
    pub fn next_poll(&mut self, now: u64) -> Option<u64> {
        let inside = self
            .interface
            .poll_at(instant(now), &self.sockets)
            .map(nanoseconds);
        let outside = self.outside.as_mut().and_then(|outside| outside.next_poll(now));
        inside.into_iter().chain(outside).min()
    }

    /// The next frame to send.
    pub fn take_output(&mut self) -> Option<Vec<u8>> {
        self.wire.output.pop_front()
    }

    /// Answers a query, or leads it out if it is for a name that is none of ours. The answer goes to where the query
    /// came from, as DHCP's does: nobody need answer ARP first.
    fn resolve(&mut self, query: &Query<'_>, now: u64) {
        if !Ipv4Cidr::new(ADDRESS, PREFIX).contains_addr(&query.from.address) {
            return;
        }
        let mut unknown = false;
        let answer = dns::answer(query.message, |name| {
            let answer = find(&self.names, &self.dhcp, name, now);
            unknown = answer == Answer::Unknown;
            answer
        });
        if unknown
            && let Some(outside) = &mut self.outside
            && let Some(server) = outside.name_server()
        {
            outside.send(query.from.mac, query.packet.to_vec(), Some(server), now);
        } else if let Some(answer) = answer {
            self.wire.send(datagram(NAME_SERVER, query.from, &answer));
        }
    }
}

/// A query to us.
struct Query<'a> {
    from: End,
    /// The whole packet.
    packet: &'a [u8],
    message: &'a [u8],
}

impl<'a> Query<'a> {
    /// `None`: a frame with something else, or damaged.
    fn parse(frame: &'a [u8]) -> Option<Self> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        if ethernet.ethertype() != EthernetProtocol::Ipv4 || ethernet.dst_addr().0 != MAC.0 {
            return None;
        }
        let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
        let whole = ip.frag_offset() == 0 && !ip.more_frags();
        if ip.dst_addr() != ADDRESS || ip.next_header() != IpProtocol::Udp || !whole {
            return None;
        }
        let udp = UdpPacket::new_checked(ip.payload()).ok()?;
        let intact =
            ip.verify_checksum() && udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into());
        if udp.dst_port() != NAME_SERVER.port || !intact {
            return None;
        }
        Some(Self {
            from: End {
                mac: Mac(ethernet.src_addr().0),
                address: ip.src_addr(),
                port: udp.src_port(),
            },
            packet: ethernet.payload(),
            message: udp.payload(),
        })
    }
}

/// `NAME` and `NAME.internal` alike: a resolver without a search list asks for the former.
fn find(names: &BTreeMap<Mac, String>, dhcp: &Server, name: &str, now: u64) -> Answer {
    let inner = name.strip_suffix(DOMAIN).and_then(|head| head.strip_suffix('.'));
    let host = inner.unwrap_or(name);
    if host == NAME {
        return Answer::Address(ADDRESS);
    }
    let mut devices = names
        .iter()
        .filter(|(_, known)| *known == host)
        .map(|(&mac, _)| mac)
        .peekable();
    if devices.peek().is_none() {
        return if inner.is_some() {
            Answer::Nonexistent
        } else {
            Answer::Unknown
        };
    }
    let address = devices.find_map(|mac| dhcp.address_of(mac, now));
    address.map_or(Answer::NoAddress, Answer::Address)
}
