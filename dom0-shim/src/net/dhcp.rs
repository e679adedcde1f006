//! A DHCP server (RFC 2131) for the hosts of one network.
//!
//! A lease belongs to an Ethernet address, and a request counts only if that is the address that it came from: a
//! domain, which cannot send from any other, holds one lease for each of its devices.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::ops::RangeInclusive;

use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetFrame,
    EthernetProtocol, IpProtocol, Ipv4Packet, UdpPacket,
};

use super::packet::Mac;
use super::wire::{End, datagram};

const SECOND: u64 = 1_000_000_000;
/// How long a lease lasts, in seconds.
const LEASE: u32 = 12 * 3600;
/// How long (s) an address is kept for a host that has been offered it.
const OFFER: u64 = 60;
/// How often (s) it may be said that there is no address: who asks is a domain.
const SHORTAGE: u64 = 3600;
const OPTION_DOMAIN_NAME: u8 = 15;

/// What the server tells its clients.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Ethernet address of the server.
    pub mac: Mac,
    /// Address of the server, which is router and name server too.
    pub address: Ipv4Addr,
    /// Mask of the network.
    pub mask: Ipv4Addr,
    /// Last bytes of the addresses to lease.
    pub pool: RangeInclusive<u8>,
    /// Domain that names are looked up in.
    pub domain: &'static str,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    /// Last byte of the address.
    host: u8,
    /// System time (ns).
    expires: u64,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    leases: BTreeMap<Mac, Lease>,
    /// The address given out last; the search for a free one begins behind it.
    last: u8,
    /// A host was left without an address.
    short: bool,
    /// When that was said last.
    short_said: Option<u64>,
}

impl Server {
    /// A server without leases.
    pub fn new(settings: Settings) -> Self {
        let last = *settings.pool.end();
        Self {
            settings,
            leases: BTreeMap::new(),
            last,
            short: false,
            short_said: None,
        }
    }

    /// The address that a host has leased.
    pub fn address_of(&self, mac: Mac, now: u64) -> Option<Ipv4Addr> {
        let lease = self.leases.get(&mac).filter(|lease| lease.expires > now)?;
        Some(self.address(lease.host))
    }

    /// Ends the lease of a host. If nobody needs the address meanwhile, the host gets it again.
    pub fn release(&mut self, mac: Mac, now: u64) {
        if let Some(lease) = self.leases.get_mut(&mac) {
            lease.expires = lease.expires.min(now);
        }
    }

    /// Has a host asked in vain since the last [`Self::take_shortage`]?
    pub fn is_short(&self) -> bool {
        self.short
    }

    /// Is it time to say that all addresses are leased and a host got none? However many ask, once an hour.
    pub fn take_shortage(&mut self, now: u64) -> bool {
        let recent = |said| now < said + SHORTAGE * SECOND;
        if !core::mem::take(&mut self.short) || self.short_said.is_some_and(recent) {
            return false;
        }
        self.short_said = Some(now);
        true
    }

    fn address(&self, host: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.settings.address.octets();
        Ipv4Addr::new(a, b, c, host)
    }

    /// Answers a frame if it is a request to a DHCP server. `None`: it is something else, or calls for no answer.
    pub fn receive(&mut self, frame: &[u8], now: u64) -> Option<Vec<u8>> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        if ethernet.ethertype() != EthernetProtocol::Ipv4 {
            return None;
        }
        let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
        if ip.next_header() != IpProtocol::Udp || ip.frag_offset() != 0 || ip.more_frags() {
            return None;
        }
        let udp = UdpPacket::new_checked(ip.payload()).ok()?;
        if udp.dst_port() != DHCP_SERVER_PORT {
            return None;
        }
        let packet = DhcpPacket::new_checked(udp.payload()).ok()?;
        let request = DhcpRepr::parse(&packet).ok()?;
        let mac = Mac(request.client_hardware_address.0);
        if ethernet.src_addr().0 != mac.0 {
            return None;
        }
        let (kind, host) = self.decide(mac, &request, now)?;
        self.reply(&request, kind, host)
    }

    /// The kind of the answer, and the address in it, if any.
    fn decide(
        &mut self,
        mac: Mac,
        request: &DhcpRepr<'_>,
        now: u64,
    ) -> Option<(DhcpMessageType, Option<u8>)> {
        let for_us = request
            .server_identifier
            .is_none_or(|server| server == self.settings.address);
        match request.message_type {
            DhcpMessageType::Discover => {
                let host = self.choose(mac, request.requested_ip, now);
                self.short |= host.is_none();
                let host = host?;
                let expires = now + OFFER * SECOND;
                let lease = self.leases.entry(mac).or_insert(Lease { host, expires });
                lease.expires = lease.expires.max(expires);
                self.last = host;
                Some((DhcpMessageType::Offer, Some(lease.host)))
            }
            DhcpMessageType::Request if for_us => {
                let wanted = request.requested_ip.unwrap_or(request.client_ip);
                match self.choose(mac, Some(wanted), now) {
                    Some(host) if self.address(host) == wanted => {
                        let expires = now + u64::from(LEASE) * SECOND;
                        self.leases.insert(mac, Lease { host, expires });
                        Some((DhcpMessageType::Ack, Some(host)))
                    }
                    _ => Some((DhcpMessageType::Nak, None)),
                }
            }
            // It goes elsewhere, or has found that somebody uses the address.
            DhcpMessageType::Request | DhcpMessageType::Decline => {
                self.leases.remove(&mac);
                None
            }
            DhcpMessageType::Release => {
                self.release(mac, now);
                None
            }
            DhcpMessageType::Inform => Some((DhcpMessageType::Ack, None)),
            _ => None,
        }
    }

    /// The address for a host: the one it has, else the one it wants, else the next free one, else the one whose lease
    /// expired first.
    fn choose(&mut self, mac: Mac, wanted: Option<Ipv4Addr>, now: u64) -> Option<u8> {
        if let Some(lease) = self.leases.get(&mac) {
            return Some(lease.host);
        }
        let pool = &self.settings.pool;
        let wanted = wanted.filter(|wanted| *wanted == self.address(wanted.octets()[3]));
        let behind = self.last.wrapping_add(1)..=*pool.end();
        let rest = wanted.map(|wanted| wanted.octets()[3]).into_iter();
        let free = rest
            .chain(behind)
            .chain(pool.clone())
            .find(|host| pool.contains(host) && !self.leases.values().any(|lease| lease.host == *host));
        if free.is_some() {
            return free;
        }
        let expired = self.leases.iter().filter(|(_, lease)| lease.expires <= now);
        let (&owner, lease) = expired.min_by_key(|(_, lease)| lease.expires)?;
        let host = lease.host;
        self.leases.remove(&owner);
        Some(host)
    }

    fn reply(&self, request: &DhcpRepr<'_>, kind: DhcpMessageType, host: Option<u8>) -> Option<Vec<u8>> {
        let us = &self.settings;
        let useful = kind != DhcpMessageType::Nak;
        let domain = [DhcpOption {
            kind: OPTION_DOMAIN_NAME,
            data: us.domain.as_bytes(),
        }];
        let address = host.map_or(Ipv4Addr::UNSPECIFIED, |host| self.address(host));
        let reply = DhcpRepr {
            message_type: kind,
            transaction_id: request.transaction_id,
            secs: 0,
            client_hardware_address: request.client_hardware_address,
            client_ip: if useful {
                request.client_ip
            } else {
                Ipv4Addr::UNSPECIFIED
            },
            your_ip: address,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: useful.then_some(us.address),
            subnet_mask: useful.then_some(us.mask),
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: request.broadcast,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(us.address),
            parameter_request_list: None,
            dns_servers: useful.then(|| list_of(us.address)),
            max_size: None,
            lease_duration: host.map(|_| LEASE),
            renew_duration: None,
            rebind_duration: None,
            additional_options: if useful { &domain } else { &[] },
        };
        // Whoever has no address yet cannot be asked for it by ARP: the frame is addressed here.
        let to = match (kind, host) {
            _ if useful && !request.client_ip.is_unspecified() => request.client_ip,
            (_, Some(_)) if !request.broadcast => address,
            _ => Ipv4Addr::BROADCAST,
        };
        emit(us, Mac(request.client_hardware_address.0), to, &reply)
    }
}

/// The list type of [`DhcpRepr::dns_servers`], which has no public name.
fn list_of<L: Extend<Ipv4Addr> + Default>(address: Ipv4Addr) -> L {
    let mut list = L::default();
    list.extend([address]);
    list
}

fn emit(us: &Settings, client: Mac, to: Ipv4Addr, reply: &DhcpRepr<'_>) -> Option<Vec<u8>> {
    let mut payload = alloc::vec![0; reply.buffer_len()];
    reply
        .emit(&mut DhcpPacket::new_unchecked(&mut payload[..]))
        .ok()?;
    let server = End {
        mac: us.mac,
        address: us.address,
        port: DHCP_SERVER_PORT,
    };
    let client = End {
        mac: client,
        address: to,
        port: DHCP_CLIENT_PORT,
    };
    Some(datagram(server, client, &payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smoltcp::wire::EthernetAddress;

    const US: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 1);
    const SERVER: Mac = Mac([2, 0, 0, 0, 0, 0]);

    fn server(pool: RangeInclusive<u8>) -> Server {
        Server::new(Settings {
            mac: SERVER,
            address: US,
            mask: Ipv4Addr::new(255, 255, 255, 0),
            pool,
            domain: "internal",
        })
    }

    fn client(host: u8) -> Mac {
        Mac([2, 0, 0, 0, 1, host])
    }

    fn ip(host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 1, 2, host)
    }

    /// A message of a client that has no address yet.
    fn message(kind: DhcpMessageType, mac: Mac, requested: Option<Ipv4Addr>) -> DhcpRepr<'static> {
        DhcpRepr {
            message_type: kind,
            transaction_id: 0x1234_5678,
            secs: 0,
            client_hardware_address: EthernetAddress(mac.0),
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: false,
            requested_ip: requested,
            client_identifier: None,
            server_identifier: None,
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        }
    }

    /// Sends a message from `from`; the answer's kind and the address in it.
    fn ask(
        server: &mut Server,
        from: Mac,
        message: &DhcpRepr<'_>,
        now: u64,
    ) -> Option<(DhcpMessageType, Ipv4Addr)> {
        // Built as a reply is, but for the ports and addresses.
        let mut sender = server.settings.clone();
        sender.mac = from;
        let mut frame = emit(&sender, Mac::BROADCAST, Ipv4Addr::BROADCAST, message).unwrap();
        frame[34..38].copy_from_slice(&[0, 68, 0, 67]);
        let reply = server.receive(&frame, now)?;
        let ethernet = EthernetFrame::new_checked(&reply).unwrap();
        assert_eq!((ethernet.dst_addr().0, ethernet.src_addr().0), (from.0, SERVER.0));
        let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
        let udp = UdpPacket::new_checked(ip.payload()).unwrap();
        assert!(ip.verify_checksum() && udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
        let packet = DhcpPacket::new_checked(udp.payload()).unwrap();
        let repr = DhcpRepr::parse(&packet).unwrap();
        assert_eq!(
            (repr.transaction_id, repr.server_identifier),
            (0x1234_5678, Some(US))
        );
        if repr.message_type != DhcpMessageType::Nak {
            assert_eq!(
                (repr.router, repr.subnet_mask.unwrap().octets()),
                (Some(US), [255, 255, 255, 0])
            );
            assert_eq!(repr.dns_servers.as_deref(), Some(&[US][..]));
        }
        Some((repr.message_type, repr.your_ip))
    }

    use DhcpMessageType::{Ack, Decline, Discover, Inform, Nak, Offer, Release, Request};

    #[test]
    fn a_host_gets_a_lease_and_keeps_it() {
        let mut server = server(2..=9);
        let (a, b) = (client(1), client(2));
        assert_eq!(
            ask(&mut server, a, &message(Discover, a, None), 0),
            Some((Offer, ip(2)))
        );
        assert_eq!(
            ask(&mut server, b, &message(Discover, b, None), 0),
            Some((Offer, ip(3)))
        );
        assert_eq!(
            ask(&mut server, a, &message(Request, a, Some(ip(2))), 0),
            Some((Ack, ip(2)))
        );
        assert_eq!(server.address_of(a, 100), Some(ip(2)));
        assert_eq!(server.address_of(a, u64::from(LEASE) * SECOND), None);
        let renewal = DhcpRepr {
            client_ip: ip(2),
            ..message(Request, a, None)
        };
        assert_eq!(ask(&mut server, a, &renewal, 5 * SECOND), Some((Ack, ip(2))));
        assert_eq!(ask(&mut server, a, &message(Release, a, None), 6 * SECOND), None);
        assert_eq!(server.address_of(a, 6 * SECOND), None);
        assert_eq!(
            ask(&mut server, a, &message(Discover, a, Some(ip(7))), 7 * SECOND),
            Some((Offer, ip(2)))
        );
        assert_eq!(
            ask(&mut server, a, &message(Inform, a, None), 7 * SECOND).map(|answer| answer.0),
            Some(Ack)
        );
    }

    #[test]
    fn what_a_host_wants_counts_if_it_is_free() {
        let mut server = server(2..=9);
        let (a, b) = (client(1), client(2));
        assert_eq!(
            ask(&mut server, a, &message(Discover, a, Some(ip(7))), 0),
            Some((Offer, ip(7)))
        );
        assert_eq!(
            ask(&mut server, b, &message(Request, b, Some(ip(7))), 0),
            Some((Nak, Ipv4Addr::UNSPECIFIED))
        );
        assert_eq!(
            ask(&mut server, b, &message(Request, b, Some(ip(99))), 0).map(|answer| answer.0),
            Some(Nak)
        );
        let elsewhere = Ipv4Addr::new(192, 168, 0, 5);
        assert_eq!(
            ask(&mut server, b, &message(Request, b, Some(elsewhere)), 0).map(|answer| answer.0),
            Some(Nak)
        );
        assert_eq!(
            ask(&mut server, b, &message(Request, b, Some(ip(5))), 0),
            Some((Ack, ip(5))),
            "it had it before"
        );
        let other = DhcpRepr {
            server_identifier: Some(ip(200)),
            ..message(Request, b, Some(ip(5)))
        };
        assert_eq!(
            (ask(&mut server, b, &other, 0), server.address_of(b, 0)),
            (None, None)
        );
        assert_eq!(ask(&mut server, a, &message(Decline, a, Some(ip(7))), 0), None);
        assert_eq!(
            ask(&mut server, a, &message(Discover, a, None), 0),
            Some((Offer, ip(8))),
            "not the same again"
        );
    }

    #[test]
    fn a_full_pool_gives_what_has_expired() {
        let mut server = server(2..=3);
        for host in 1..=2 {
            ask(
                &mut server,
                client(host),
                &message(Discover, client(host), None),
                u64::from(host),
            )
            .unwrap();
        }
        let third = message(Discover, client(3), None);
        assert!(!server.take_shortage(9));
        assert_eq!(ask(&mut server, client(3), &third, 10), None);
        assert!(server.take_shortage(10) && !server.take_shortage(10));
        assert_eq!(ask(&mut server, client(3), &third, 11), None);
        assert!(!server.take_shortage(3600 * SECOND), "it has been said");
        assert_eq!(
            ask(&mut server, client(3), &third, 61 * SECOND),
            Some((Offer, ip(2)))
        );
        assert_eq!(server.leases.len(), 2);
        let fourth = message(Discover, client(4), None);
        assert_eq!(
            ask(&mut server, client(4), &fourth, 62 * SECOND),
            Some((Offer, ip(3)))
        );
        assert!(!server.take_shortage(7200 * SECOND), "nobody has asked in vain");
        assert_eq!(
            ask(&mut server, client(3), &third, 62 * SECOND).map(|(kind, _)| kind),
            Some(Offer)
        );
    }

    #[test]
    fn nobody_speaks_for_another() {
        let mut server = server(2..=3);
        assert_eq!(
            ask(&mut server, client(1), &message(Discover, client(2), None), 0),
            None
        );
        assert!(server.leases.is_empty());
    }

    proptest! {
        #[test]
        fn no_frame_is_a_danger(mut bytes in prop::collection::vec(any::<u8>(), 0..600), at in 0usize..300, value: u8) {
            let mut server = server(2..=3);
            server.receive(&bytes, 0);
            let message = message(Discover, client(1), None);
            let mut sender = server.settings.clone();
            sender.mac = client(1);
            let mut frame = emit(&sender, Mac::BROADCAST, Ipv4Addr::BROADCAST, &message).unwrap();
            frame[34..38].copy_from_slice(&[0, 68, 0, 67]);
            // The fixed part is left as it is: what comes behind is random.
            frame.truncate(14 + 20 + 8 + 240);
            frame.append(&mut bytes);
            let length = (frame.len() - 14) as u16;
            frame[16..18].copy_from_slice(&length.to_be_bytes());
            frame[38..40].copy_from_slice(&(length - 20).to_be_bytes());
            server.receive(&frame, 0);
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
            server.receive(&frame, 0);
            prop_assert!(server.leases.len() <= 1);
        }
    }
}
