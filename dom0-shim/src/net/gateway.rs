//! The host at the inner end of a network: answers ARP, ping, DHCP, and DNS for the names of the domains.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::udp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Cidr};

use super::dhcp::{self, Server};
use super::dns::{self, Answer};
use super::packet::{ETHERNET_HEADER, Mac};

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

/// Largest IP packet.
pub const MTU: u16 = 1500;
const DNS_PORT: u16 = 53;
/// Queries and answers that may wait.
const DNS_QUEUE: usize = 32;
/// Frames that the gateway may have ready to send; what is more is lost, as on any wire.
const OUTPUT_MAX: usize = 256;

/// The gateway.
pub struct Gateway {
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    dns: SocketHandle,
    dhcp: Server,
    /// Names of the domains, by the addresses of their devices.
    names: BTreeMap<Mac, String>,
}

impl Default for Gateway {
    fn default() -> Self {
        let mut wire = Wire::default();
        let config = Config::new(EthernetAddress(MAC.0).into());
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        let network = Ipv4Cidr::new(ADDRESS, PREFIX);
        interface.update_ip_addrs(|addresses| {
            // The list is empty and has room for one.
            let _ = addresses.push(IpCidr::Ipv4(network));
        });
        let buffer = || {
            let metadata = vec![udp::PacketMetadata::EMPTY; DNS_QUEUE];
            udp::PacketBuffer::new(metadata, vec![0; DNS_QUEUE * 512])
        };
        let mut sockets = SocketSet::new(Vec::new());
        let mut socket = udp::Socket::new(buffer(), buffer());
        // Fails only for port 0 or a socket in use.
        let _ = socket.bind(DNS_PORT);
        let dns = sockets.add(socket);
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
            sockets,
            dns,
            dhcp,
            names: BTreeMap::new(),
        }
    }
}

impl Gateway {
    /// Gives the host with address `mac` a name.
    pub fn name(&mut self, mac: Mac, name: &str) {
        self.names.insert(mac, name.to_ascii_lowercase());
    }

    /// A host has gone: its name and its address are free.
    pub fn forget(&mut self, mac: Mac, now: u64) {
        self.names.remove(&mac);
        self.dhcp.release(mac, now);
    }

    /// Takes a complete frame; answers are added to the output.
    pub fn receive(&mut self, frame: Vec<u8>, now: u64) {
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
        let instant = instant(now);
        self.interface.poll(instant, &mut self.wire, &mut self.sockets);
        self.serve_names(now);
        self.interface.poll(instant, &mut self.wire, &mut self.sockets);
    }

    /// When to call [`Self::poll`] next, if ever.
    pub fn next_poll(&mut self, now: u64) -> Option<u64> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        Some(u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000))
    }

    /// The next frame to send.
    pub fn take_output(&mut self) -> Option<Vec<u8>> {
        self.wire.output.pop_front()
    }

    fn serve_names(&mut self, now: u64) {
        let socket = self.sockets.get_mut::<udp::Socket>(self.dns);
        while let Ok((query, from)) = socket.recv() {
            let answer = dns::answer(query, |name| find(&self.names, &self.dhcp, name, now));
            if let Some(answer) = answer {
                // A full queue loses answers, as a wire may.
                let _ = socket.send_slice(&answer, from.endpoint);
            }
        }
    }
}

fn instant(now: u64) -> Instant {
    Instant::from_micros(i64::try_from(now / 1000).unwrap_or(i64::MAX))
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

/// The interface's end of the wire: one frame in, several out.
#[derive(Default)]
struct Wire {
    input: Option<Vec<u8>>,
    output: VecDeque<Vec<u8>>,
}

impl Wire {
    fn send(&mut self, frame: Vec<u8>) {
        if self.output.len() < OUTPUT_MAX {
            self.output.push_back(frame);
        }
    }
}

impl Device for Wire {
    type RxToken<'a> = Input;
    type TxToken<'a> = Output<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Input, Output<'_>)> {
        let frame = self.input.take()?;
        Some((Input(frame), Output(self)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Output<'_>> {
        (self.output.len() < OUTPUT_MAX).then_some(Output(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(MTU) + ETHERNET_HEADER;
        capabilities
    }
}

/// The frame that has come in.
struct Input(Vec<u8>);

impl RxToken for Input {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, use_it: F) -> R {
        use_it(&self.0)
    }
}

/// Room for one frame.
struct Output<'a>(&'a mut Wire);

impl TxToken for Output<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.0.send(frame);
        result
    }
}
