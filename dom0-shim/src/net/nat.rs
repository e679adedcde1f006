//! Network address and port translation (RFC 2663): many hosts inside share one address outside.
//!
//! A session is opened by the first packet from inside, and named by its two ends; packets from outside get in only as part of one. TCP, UDP
//! and ICMP echo are translated, and ICMP errors about them (RFC 5508); everything else is dropped. Fragments go where the first one of their packet went. Each host
//! inside has sessions of its own: when it has as many as it may, the one of them that would end first makes room. Checksums are adjusted for what was
//! changed (RFC 1624), not made anew, so that damage stays visible.
//!
//! Packets are IPv4 packets without the Ethernet header, complete: offloads are done before.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use super::fragments::{Change, Fragments, Name, Part, Way};
use super::offload::{self, fold};
use super::packet::Mac;

const SECOND: u64 = 1_000_000_000;
/// How long a session without traffic lasts, in ns: at least what RFC 5382 (TCP), RFC 4787 (UDP) and RFC 5508 (ICMP) ask for.
const TCP_OPEN: u64 = 7440 * SECOND;
const TCP_OPENING_OR_CLOSING: u64 = 240 * SECOND;
const UDP: u64 = 300 * SECOND;
const ECHO: u64 = 60 * SECOND;

/// Sessions of one host.
pub const SESSIONS_MAX: usize = 512;
/// Ports outside, or echo identifiers, that are given to hosts: none that a service of our own has.
const PORTS: core::ops::RangeInclusive<u16> = 1024..=49151;
/// Ports that are tried before a packet is dropped: more than one host can have in a row.
const TRIES: usize = SESSIONS_MAX + 1;

const ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

const TCP_FIN_OR_RST: u8 = 0b101;
const TCP_SYN: u8 = 0b10;

/// Offsets in an IPv4 header.
const ID: usize = 4;
const FRAGMENT: usize = 6;
const TTL: usize = 8;
const HEADER_SUM: usize = 10;
const SOURCE: usize = 12;
const DESTINATION: usize = 16;

/// What is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Protocol {
    Tcp,
    Udp,
    /// The "port" is the identifier, on the side that asks; the other side has none.
    Echo,
}

/// An address and a port (in host order).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Endpoint {
    address: Ipv4Addr,
    port: u16,
}

/// A session as the host inside sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    protocol: Protocol,
    own: Endpoint,
    peer: Endpoint,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    /// Our port outside.
    outer: u16,
    /// Whom the host really talks to.
    peer: Endpoint,
    state: State,
    expires: u64,
}

/// How far a TCP connection has come; other sessions stay as they began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening,
    /// Both have spoken.
    Open,
    /// One has ended it.
    Closing,
}

/// Sessions, and our address outside.
#[derive(Debug)]
pub struct Nat {
    address: Ipv4Addr,
    hosts: BTreeMap<Mac, BTreeMap<Key, Session>>,
    /// Who has a port outside.
    outer: BTreeMap<(Protocol, u16), (Mac, Key)>,
    /// Where the search for a free port begins.
    next: u16,
    fragments: Fragments,
    /// Number of the next packet that goes out in fragments: hosts count alike, and share an address outside.
    next_id: u16,
}

impl Nat {
    /// Without sessions, behind `address`.
    pub fn new(address: Ipv4Addr) -> Self {
        Self {
            address,
            hosts: BTreeMap::new(),
            outer: BTreeMap::new(),
            next: *PORTS.start(),
            fragments: Fragments::default(),
            next_id: 0,
        }
    }

    /// The address outside.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The host has gone, and its sessions with it.
    pub fn forget(&mut self, host: Mac) {
        self.fragments.forget(host);
        for session in self.hosts.remove(&host).into_iter().flatten() {
            self.outer.remove(&(session.0.protocol, session.1.outer));
        }
    }

    /// Translates a packet that the host `from` sends to somebody outside; with `instead`, it goes to that address in place of the one
    /// that the host knows. `None`: it is not to be sent.
    pub fn outbound(
        &mut self,
        from: Mac,
        packet: &mut Vec<u8>,
        instead: Option<Ipv4Addr>,
        now: u64,
    ) -> Option<()> {
        let parts = parse(packet)?;
        let name = parts.name(packet, Way::From(from))?;
        if parts.part == Part::Later {
            return self.later(packet, &name, now).map(|_| ());
        }
        if parts.is_error(packet) {
            return self.error_outbound(from, packet, &parts);
        }
        let key = parts.key(packet, Side::Source)?;
        let flags = parts.tcp_flags(packet);
        if key.peer.address == self.address {
            return None;
        }
        if self.find(from, &key, now).is_none() {
            self.open(from, key, instead, now)?;
        }
        let session = self.hosts.get_mut(&from)?.get_mut(&key)?;
        session.touch(&key, Side::Source, flags, now);
        let (outer, peer) = (session.outer, session.peer);
        let own = Endpoint {
            address: self.address,
            port: outer,
        };
        parts.rewrite(packet, Side::Source, End::Own(own))?;
        parts.rewrite(packet, Side::Destination, End::Peer(peer))?;
        if parts.part == Part::First {
            self.next_id = self.next_id.wrapping_add(1);
            put(packet, ID, self.next_id, &[HEADER_SUM])?;
            self.begin(packet, name, from, now)?;
        }
        route(packet)
    }

    /// Translates a packet from outside. The host that it is for, `None` if it is for none.
    pub fn inbound(&mut self, packet: &mut Vec<u8>, now: u64) -> Option<Mac> {
        let parts = parse(packet)?;
        if address_at(packet, DESTINATION)? != self.address {
            return None;
        }
        let name = parts.name(packet, Way::In)?;
        if parts.part == Part::Later {
            return self.later(packet, &name, now);
        }
        if parts.is_error(packet) {
            return self.error_inbound(packet, &parts);
        }
        let found = parts.key(packet, Side::Destination)?;
        let &(host, key) = self.outer.get(&(found.protocol, found.own.port))?;
        let flags = parts.tcp_flags(packet);
        let session = self.find(host, &key, now)?;
        if session.peer != found.peer {
            return None;
        }
        session.touch(&key, Side::Destination, flags, now);
        parts.rewrite(packet, Side::Source, End::Peer(key.peer))?;
        parts.rewrite(packet, Side::Destination, End::Own(key.own))?;
        if parts.part == Part::First {
            self.begin(packet, name, host, now)?;
        }
        route(packet)?;
        Some(host)
    }

    /// The first fragment of a packet, which is `packet` by now: others follow.
    fn begin(&mut self, packet: &[u8], name: Name, host: Mac, now: u64) -> Option<()> {
        let change = Change {
            host,
            source: address_at(packet, SOURCE)?,
            destination: address_at(packet, DESTINATION)?,
            id: u16_at(packet, ID)?,
        };
        self.fragments.begin(name, change, now);
        Some(())
    }

    /// A later fragment. The host inside.
    fn later(&mut self, packet: &mut [u8], name: &Name, now: u64) -> Option<Mac> {
        let change = self.fragments.follow(name, now)?;
        put_address(packet, SOURCE, change.source, &[HEADER_SUM])?;
        put_address(packet, DESTINATION, change.destination, &[HEADER_SUM])?;
        put(packet, ID, change.id, &[HEADER_SUM])?;
        route(packet)?;
        Some(change.host)
    }

    fn find(&mut self, host: Mac, key: &Key, now: u64) -> Option<&mut Session> {
        let sessions = self.hosts.get_mut(&host)?;
        if sessions.get(key)?.expires <= now {
            let ended = sessions.remove(key)?;
            self.outer.remove(&(key.protocol, ended.outer));
            return None;
        }
        self.hosts.get_mut(&host)?.get_mut(key)
    }

    fn open(&mut self, host: Mac, key: Key, instead: Option<Ipv4Addr>, now: u64) -> Option<()> {
        let sessions = self.hosts.entry(host).or_default();
        if sessions.len() >= SESSIONS_MAX {
            let first = sessions.iter().min_by_key(|(_, session)| session.expires);
            let first = first.map(|(&key, _)| key)?;
            let ended = sessions.remove(&first)?;
            self.outer.remove(&(first.protocol, ended.outer));
        }
        let outer = self.free_port(key.protocol, key.own.port)?;
        self.outer.insert((key.protocol, outer), (host, key));
        let session = Session {
            outer,
            peer: Endpoint {
                address: instead.unwrap_or(key.peer.address),
                ..key.peer
            },
            state: State::Opening,
            expires: now,
        };
        self.hosts.get_mut(&host)?.insert(key, session);
        Some(())
    }

    /// A port outside that nobody has: the host's own if possible. Only the search moves `next`, also when it fails: no host can hold it
    /// where all ports are taken.
    fn free_port(&mut self, protocol: Protocol, wanted: u16) -> Option<u16> {
        if PORTS.contains(&wanted) && !self.outer.contains_key(&(protocol, wanted)) {
            return Some(wanted);
        }
        for _ in 0..TRIES {
            let port = self.next;
            self.next = if port < *PORTS.end() {
                port + 1
            } else {
                *PORTS.start()
            };
            if !self.outer.contains_key(&(protocol, port)) {
                return Some(port);
            }
        }
        None
    }

    /// An error that somebody outside reports of a packet that we have sent.
    fn error_inbound(&mut self, packet: &mut [u8], parts: &Parts) -> Option<Mac> {
        let about = parts.about(packet)?;
        let found = about.parts.key(packet.get(about.at..)?, Side::Source)?;
        let &(host, key) = self.outer.get(&(found.protocol, found.own.port))?;
        let session = self.hosts.get(&host)?.get(&key)?;
        if found.own.address != self.address || found.peer != session.peer {
            return None;
        }
        let inner = packet.get_mut(about.at..)?;
        about.parts.rewrite(inner, Side::Source, End::Own(key.own))?;
        about
            .parts
            .rewrite(inner, Side::Destination, End::Peer(key.peer))?;
        // Whoever reports it may be any router on the way; if it is the peer, the host knows it by another address.
        let reporter = address_at(packet, SOURCE)?;
        let reporter = if reporter == session.peer.address {
            key.peer.address
        } else {
            reporter
        };
        put_address(packet, SOURCE, reporter, &[HEADER_SUM])?;
        put_address(packet, DESTINATION, key.own.address, &[HEADER_SUM])?;
        parts.seal_icmp(packet)?;
        route(packet)?;
        Some(host)
    }

    /// An error that a host inside reports of a packet that it has got.
    fn error_outbound(&mut self, from: Mac, packet: &mut [u8], parts: &Parts) -> Option<()> {
        let about = parts.about(packet)?;
        let key = about.parts.key(packet.get(about.at..)?, Side::Destination)?;
        let session = *self.hosts.get(&from)?.get(&key)?;
        let own = Endpoint {
            address: self.address,
            port: session.outer,
        };
        let inner = packet.get_mut(about.at..)?;
        about.parts.rewrite(inner, Side::Destination, End::Own(own))?;
        about
            .parts
            .rewrite(inner, Side::Source, End::Peer(session.peer))?;
        put_address(packet, SOURCE, self.address, &[HEADER_SUM])?;
        put_address(packet, DESTINATION, session.peer.address, &[HEADER_SUM])?;
        parts.seal_icmp(packet)?;
        route(packet)
    }
}

impl Session {
    /// A packet from the host (`Source`), or to it.
    fn touch(&mut self, key: &Key, host: Side, tcp_flags: u8, now: u64) {
        self.state = match (self.state, host) {
            (_, _) if tcp_flags & TCP_FIN_OR_RST != 0 => State::Closing,
            (_, Side::Source) if tcp_flags & TCP_SYN != 0 => State::Opening,
            (State::Opening, Side::Destination) if tcp_flags & TCP_SYN == 0 => State::Open,
            (state, _) => state,
        };
        let time = match key.protocol {
            Protocol::Tcp if self.state == State::Open => TCP_OPEN,
            Protocol::Tcp => TCP_OPENING_OR_CLOSING,
            Protocol::Udp => UDP,
            Protocol::Echo => ECHO,
        };
        self.expires = now.saturating_add(time);
    }
}

/// One of the ends of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

/// One of the ends of a session.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The host's, inside or as it looks outside.
    Own(Endpoint),
    /// The other.
    Peer(Endpoint),
}

impl End {
    fn endpoint(self) -> Endpoint {
        match self {
            End::Own(endpoint) | End::Peer(endpoint) => endpoint,
        }
    }
}

/// Where things are in a packet.
#[derive(Clone, Copy, Debug)]
struct Parts {
    /// Bytes of the IP header.
    header: usize,
    protocol: u8,
    part: Part,
}

/// The packet that an ICMP error is about.
struct About {
    /// Where it begins.
    at: usize,
    parts: Parts,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn address_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = *bytes.get(at..)?.first_chunk()?;
    Some(octets.into())
}

/// Puts a word in place of another, and into the checksums at `sums` (RFC 1624, equation 3).
fn put(bytes: &mut [u8], at: usize, new: u16, sums: &[usize]) -> Option<()> {
    let old = u16_at(bytes, at)?;
    bytes.get_mut(at..at + 2)?.copy_from_slice(&new.to_be_bytes());
    for &sum in sums {
        let was = u16_at(bytes, sum)?;
        let total = u64::from(!was) + u64::from(!old) + u64::from(new);
        let now = !fold(total);
        bytes.get_mut(sum..sum + 2)?.copy_from_slice(&now.to_be_bytes());
    }
    Some(())
}

fn put_address(bytes: &mut [u8], at: usize, new: Ipv4Addr, sums: &[usize]) -> Option<()> {
    let [a, b, c, d] = new.octets();
    put(bytes, at, u16::from_be_bytes([a, b]), sums)?;
    put(bytes, at + 2, u16::from_be_bytes([c, d]), sums)
}

/// The sum of a checksum: 0xffff, over bytes that have a right one among them.
fn sum(bytes: &[u8]) -> u16 {
    fold(offload::sum(bytes))
}

/// An IPv4 header.
fn header(packet: &[u8]) -> Option<Parts> {
    let first = *packet.first()?;
    let length = usize::from(first & 0xf) * 4;
    let parts = Parts {
        header: length,
        protocol: *packet.get(9)?,
        part: Part::of(u16_at(packet, FRAGMENT)?),
    };
    (first >> 4 == 4 && length >= 20 && packet.len() >= length).then_some(parts)
}

/// A packet or fragment with all that is looked at; padding behind it is cut off.
fn parse(packet: &mut Vec<u8>) -> Option<Parts> {
    let parts = header(packet)?;
    let length = usize::from(u16_at(packet, 2)?);
    let least = match (parts.part, parts.protocol) {
        (Part::Later, _) => 0,
        (_, PROTOCOL_TCP) => 20,
        _ => 8,
    };
    if length > packet.len() || length < parts.header + least {
        return None;
    }
    packet.truncate(length);
    Some(parts)
}

/// A router's part: one hop less to go. `None`: this was the last.
fn route(packet: &mut [u8]) -> Option<()> {
    let ttl = *packet.get(TTL)?;
    if ttl <= 1 {
        return None;
    }
    let word = u16_at(packet, TTL)?;
    put(packet, TTL, word - 0x100, &[HEADER_SUM])
}

impl Parts {
    /// What it has in common with other fragments.
    fn name(&self, packet: &[u8], way: Way) -> Option<Name> {
        Some(Name {
            way,
            source: address_at(packet, SOURCE)?,
            destination: address_at(packet, DESTINATION)?,
            id: u16_at(packet, ID)?,
            protocol: self.protocol,
        })
    }

    /// Is it an ICMP error about another packet: unreachable, time exceeded, parameter problem?
    fn is_error(&self, packet: &[u8]) -> bool {
        self.protocol == ICMP && matches!(packet.get(self.header), Some(3 | 11 | 12))
    }

    fn protocol(&self, packet: &[u8], own: Side) -> Option<Protocol> {
        match self.protocol {
            PROTOCOL_TCP => Some(Protocol::Tcp),
            PROTOCOL_UDP => Some(Protocol::Udp),
            ICMP => {
                let asks = match own {
                    Side::Source => ECHO_REQUEST,
                    Side::Destination => ECHO_REPLY,
                };
                (*packet.get(self.header)? == asks).then_some(Protocol::Echo)
            }
            _ => None,
        }
    }

    fn endpoint(&self, packet: &[u8], side: Side, protocol: Protocol, own: bool) -> Option<Endpoint> {
        let (address, port) = match side {
            Side::Source => (SOURCE, self.header),
            Side::Destination => (DESTINATION, self.header + 2),
        };
        let port = match (protocol, own) {
            (Protocol::Echo, true) => u16_at(packet, self.header + 4)?,
            (Protocol::Echo, false) => 0,
            (Protocol::Tcp | Protocol::Udp, _) => u16_at(packet, port)?,
        };
        Some(Endpoint {
            address: address_at(packet, address)?,
            port,
        })
    }

    /// The session that it belongs to, seen from its `own` end.
    fn key(&self, packet: &[u8], own: Side) -> Option<Key> {
        let protocol = self.protocol(packet, own)?;
        let peer = match own {
            Side::Source => Side::Destination,
            Side::Destination => Side::Source,
        };
        Some(Key {
            protocol,
            own: self.endpoint(packet, own, protocol, true)?,
            peer: self.endpoint(packet, peer, protocol, false)?,
        })
    }

    fn tcp_flags(&self, packet: &[u8]) -> u8 {
        if self.protocol != PROTOCOL_TCP {
            return 0;
        }
        packet.get(self.header + 13).copied().unwrap_or(0)
    }

    /// Where the protocol's checksum is, if it is there and counts the addresses.
    fn transport_sum(&self, packet: &[u8]) -> Option<usize> {
        let at = match self.protocol {
            PROTOCOL_TCP => self.header + 16,
            PROTOCOL_UDP => self.header + 6,
            _ => return None,
        };
        let value = u16_at(packet, at)?;
        // UDP: 0 is none (RFC 768).
        (self.protocol == PROTOCOL_TCP || value != 0).then_some(at)
    }

    /// Puts another end in, the asking one or its peer.
    fn rewrite(&self, packet: &mut [u8], side: Side, end: End) -> Option<()> {
        let to = end.endpoint();
        let (address, port) = match side {
            Side::Source => (SOURCE, self.header),
            Side::Destination => (DESTINATION, self.header + 2),
        };
        match self.transport_sum(packet) {
            Some(sum) => {
                put_address(packet, address, to.address, &[HEADER_SUM, sum])?;
                put(packet, port, to.port, &[sum])?;
                if self.protocol == PROTOCOL_UDP && u16_at(packet, sum)? == 0 {
                    packet.get_mut(sum..sum + 2)?.fill(0xff);
                }
            }
            None => {
                put_address(packet, address, to.address, &[HEADER_SUM])?;
                match (self.protocol, end) {
                    (ICMP, End::Own(_)) => put(packet, self.header + 4, to.port, &[self.header + 2])?,
                    (ICMP, End::Peer(_)) => {}
                    _ => put(packet, port, to.port, &[])?,
                }
            }
        }
        Some(())
    }

    /// What an ICMP error is about, if its checksum is right.
    fn about(&self, packet: &[u8]) -> Option<About> {
        let message = packet.get(self.header..)?;
        let at = self.header + 8;
        let inner = packet.get(at..)?;
        // Of the packet that it is about there may be 8 bytes only behind the header.
        let parts =
            header(inner).filter(|parts| parts.part != Part::Later && inner.len() >= parts.header + 8)?;
        (self.part == Part::Whole && sum(message) == 0xffff).then_some(About { at, parts })
    }

    /// Makes the checksum of an ICMP message anew.
    fn seal_icmp(&self, packet: &mut [u8]) -> Option<()> {
        let message = packet.get_mut(self.header..)?;
        message.get_mut(2..4)?.fill(0);
        let value = !sum(message);
        message.get_mut(2..4)?.copy_from_slice(&value.to_be_bytes());
        Some(())
    }
}

#[cfg(test)]
#[path = "nat_tests.rs"]
mod tests;
