//! A learning switch: to which ports a frame goes.
//!
//! A port whose address is known (a domain's device) sends from that address only, and always receives what is sent
//! there. Any other port teaches the switch where hosts are, by the sources of its frames: a bounded number of them,
//! and each is forgotten after a while of silence.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::packet::{ETHERNET_HEADER, Mac, VLAN_TAG};

/// Names a port of a switch.
pub type PortId = u32;

/// Addresses learned behind one port.
pub const LEARNED_MAX: usize = 64;
/// A host that has been silent for so long (ns) is forgotten.
pub const AGE_MAX: u64 = 300 * 1_000_000_000;

/// Frames and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl Traffic {
    fn count(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// What has passed a port, seen from its device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sent by the device.
    pub sent: Traffic,
    /// Given to the device.
    pub received: Traffic,
    /// Sent by the device and not forwarded: not from its own address, or to an address that is not forwarded.
    pub refused: u64,
    /// For the device, but larger than it takes.
    pub too_large: u64,
}

/// One port.
#[derive(Debug)]
struct Port {
    /// The only address that it sends from, if there is one.
    own: Option<Mac>,
    /// Bytes of a frame after its header.
    mtu: u16,
    /// Hosts behind it, and when each was heard last.
    learned: BTreeMap<Mac, u64>,
    counters: Counters,
}

/// The switch.
#[derive(Debug, Default)]
pub struct Switch {
    ports: BTreeMap<PortId, Port>,
    /// Ports of their own addresses.
    own: BTreeMap<Mac, PortId>,
    /// Ports of learned addresses.
    learned: BTreeMap<Mac, PortId>,
    next: PortId,
}

impl Switch {
    /// Adds a port: that of a device with an address of its own, or one with hosts behind it.
    ///
    /// Of several ports with the same own address, the newest receives what is sent there.
    pub fn add(&mut self, own: Option<Mac>, mtu: u16) -> PortId {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        if let Some(mac) = own {
            self.own.insert(mac, id);
            self.forget(mac);
        }
        self.ports.insert(
            id,
            Port {
                own,
                mtu,
                learned: BTreeMap::new(),
                counters: Counters::default(),
            },
        );
        id
    }

    /// Removes a port.
    pub fn remove(&mut self, id: PortId) {
        let Some(port) = self.ports.remove(&id) else {
            return;
        };
        for mac in port.learned.keys() {
            self.learned.remove(mac);
        }
        if let Some(mac) = port.own
            && self.own.get(&mac) == Some(&id)
        {
            self.own.remove(&mac);
            let other = self.ports.iter().rfind(|(_, other)| other.own == Some(mac));
            if let Some((&other, _)) = other {
                self.own.insert(mac, other);
            }
        }
    }

    /// Whether a port has this address of its own.
    pub fn has(&self, mac: Mac) -> bool {
        self.own.contains_key(&mac)
    }

    /// Counters of a port.
    pub fn counters(&self, id: PortId) -> Option<Counters> {
        self.ports.get(&id).map(|port| port.counters)
    }

    /// The ports that a frame from port `from` goes to. `length` is that of the frame on a wire, where each segment of
    /// a frame to be segmented is one.
    pub fn forward(&mut self, from: PortId, frame: &[u8], length: usize, now: u64) -> Vec<PortId> {
        let Some(targets) = self.route(from, frame, now) else {
            if let Some(port) = self.ports.get_mut(&from) {
                port.counters.refused += 1;
            }
            return Vec::new();
        };
        if let Some(port) = self.ports.get_mut(&from) {
            port.counters.sent.count(frame.len());
        }
        let mut taken = targets;
        taken.retain(|id| {
            self.ports
                .get_mut(id)
                .is_some_and(|port| port.accept(frame.len(), length))
        });
        taken
    }

    /// `None`: the frame must not be forwarded.
    fn route(&mut self, from: PortId, frame: &[u8], now: u64) -> Option<Vec<PortId>> {
        let (to, source) = (Mac::destination(frame)?, Mac::source(frame)?);
        let port = self.ports.get(&from)?;
        if frame.len() < ETHERNET_HEADER || !source.is_unicast() || is_link_local(to) {
            return None;
        }
        match port.own {
            Some(own) if own != source => return None,
            Some(_) => {}
            // A host elsewhere cannot be one of the devices here.
            None if self.own.contains_key(&source) => return None,
            None => self.learn(from, source, now),
        }
        if to.is_unicast()
            && let Some(target) = self.find(to, now)
        {
            return Some(Vec::from_iter((target != from).then_some(target)));
        }
        // Nobody is behind a port of a known address but that address.
        let everyone = self
            .ports
            .iter()
            .filter(|(id, port)| **id != from && (to.is_multicast() || port.own.is_none()));
        Some(everyone.map(|(&id, _)| id).collect())
    }

    fn find(&mut self, mac: Mac, now: u64) -> Option<PortId> {
        if let Some(&port) = self.own.get(&mac) {
            return Some(port);
        }
        let &id = self.learned.get(&mac)?;
        let heard = self.ports.get(&id)?.learned.get(&mac)?;
        if now.saturating_sub(*heard) > AGE_MAX {
            self.forget(mac);
            return None;
        }
        Some(id)
    }

    fn learn(&mut self, id: PortId, mac: Mac, now: u64) {
        if self.learned.get(&mac).is_some_and(|&known| known != id) {
            self.forget(mac);
        }
        let Some(port) = self.ports.get_mut(&id) else {
            return;
        };
        if port.learned.len() >= LEARNED_MAX && !port.learned.contains_key(&mac) {
            let oldest = port
                .learned
                .iter()
                .min_by_key(|(_, heard)| **heard)
                .map(|(&mac, _)| mac);
            if let Some(oldest) = oldest {
                port.learned.remove(&oldest);
                self.learned.remove(&oldest);
            }
        }
        port.learned.insert(mac, now);
        self.learned.insert(mac, id);
    }

    fn forget(&mut self, mac: Mac) {
        if let Some(id) = self.learned.remove(&mac)
            && let Some(port) = self.ports.get_mut(&id)
        {
            port.learned.remove(&mac);
        }
    }
}

impl Port {
    fn accept(&mut self, bytes: usize, length: usize) -> bool {
        let fits = length <= usize::from(self.mtu) + ETHERNET_HEADER + VLAN_TAG;
        if fits {
            self.counters.received.count(bytes);
        } else {
            self.counters.too_large += 1;
        }
        fits
    }
}

/// 01:80:c2:00:00:00 to 0f: between neighbours only, never forwarded (IEEE 802.1D, 7.12.6).
fn is_link_local(mac: Mac) -> bool {
    matches!(mac.0, [0x01, 0x80, 0xc2, 0, 0, 0..=0x0f])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const C: Mac = Mac([2, 0, 0, 0, 0, 3]);
    const GROUP: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
    const MTU: u16 = 1500;

    fn frame(from: Mac, to: Mac) -> Vec<u8> {
        [&to.0[..], &from.0, &[0x08, 0x00], &[0; 46]].concat()
    }

    fn send(switch: &mut Switch, port: PortId, from: Mac, to: Mac, now: u64) -> Vec<PortId> {
        let frame = frame(from, to);
        switch.forward(port, &frame, frame.len(), now)
    }

    #[test]
    fn devices_are_reached_at_once_and_cannot_pretend() {
        let mut switch = Switch::default();
        let (a, b) = (switch.add(Some(A), MTU), switch.add(Some(B), MTU));
        assert_eq!(send(&mut switch, a, A, B, 0), [b]);
        assert_eq!(send(&mut switch, a, A, A, 0), []);
        assert_eq!(send(&mut switch, a, A, Mac::BROADCAST, 0), [b]);
        assert_eq!(send(&mut switch, a, A, C, 0), [], "nobody has that address");
        assert_eq!(switch.counters(a).unwrap().refused, 0);
        assert_eq!(send(&mut switch, a, B, Mac::BROADCAST, 0), []);
        assert_eq!(send(&mut switch, a, GROUP, B, 0), []);
        assert_eq!(send(&mut switch, a, A, Mac([1, 0x80, 0xc2, 0, 0, 3]), 0), []);
        assert_eq!(switch.forward(a, &[0; 13], 13, 0), []);
        let counters = switch.counters(a).unwrap();
        assert_eq!(
            (counters.refused, counters.sent.packets, counters.sent.bytes),
            (4, 4, 240)
        );
        assert_eq!(
            switch.counters(b).unwrap().received,
            Traffic {
                packets: 2,
                bytes: 120
            }
        );
    }

    #[test]
    fn hosts_behind_a_port_are_learned_and_forgotten() {
        let mut switch = Switch::default();
        let (a, up, other) = (
            switch.add(Some(A), MTU),
            switch.add(None, MTU),
            switch.add(None, MTU),
        );
        assert_eq!(send(&mut switch, a, A, B, 0), [up, other]);
        assert_eq!(send(&mut switch, up, B, A, 10), [a]);
        assert_eq!(send(&mut switch, a, A, B, AGE_MAX + 10), [up]);
        assert_eq!(send(&mut switch, a, A, B, AGE_MAX + 11), [up, other]);
        assert_eq!(
            send(&mut switch, up, A, Mac::BROADCAST, 20),
            [],
            "the address of a device here"
        );
        send(&mut switch, up, C, A, 30);
        send(&mut switch, other, C, A, 40);
        assert_eq!(send(&mut switch, a, A, C, 50), [other], "it has moved");
        switch.remove(other);
        assert_eq!(send(&mut switch, a, A, C, 50), [up]);
        assert!(switch.learned.is_empty());
    }

    #[test]
    fn the_newest_of_two_devices_with_one_address_gets_it() {
        let mut switch = Switch::default();
        let (b, old, new) = (
            switch.add(Some(B), MTU),
            switch.add(Some(A), MTU),
            switch.add(Some(A), MTU),
        );
        assert_eq!(send(&mut switch, b, B, A, 0), [new]);
        switch.remove(new);
        assert_eq!(send(&mut switch, b, B, A, 0), [old]);
        switch.remove(old);
        assert!(send(&mut switch, b, B, A, 0).is_empty() && switch.own.len() == 1);
    }

    #[test]
    fn large_frames_go_where_they_fit() {
        let mut switch = Switch::default();
        let (a, small, large) = (
            switch.add(Some(A), 9000),
            switch.add(Some(B), MTU),
            switch.add(Some(C), 9000),
        );
        let mut jumbo = frame(A, Mac::BROADCAST);
        jumbo.resize(1519, 0);
        assert_eq!(switch.forward(a, &jumbo, jumbo.len(), 0), [large]);
        assert_eq!(
            switch.forward(a, &jumbo, 1518, 0),
            [small, large],
            "its segments fit"
        );
        assert_eq!(switch.counters(small).unwrap().too_large, 1);
    }

    proptest! {
        #[test]
        fn the_table_stays_bounded_and_consistent(
            steps in prop::collection::vec((0u32..5, any::<[u8; 2]>(), any::<[u8; 2]>(), 0u64..AGE_MAX / 4), 1..400)
        ) {
            let mut switch = Switch::default();
            switch.add(Some(A), MTU);
            switch.add(Some(B), MTU);
            switch.add(None, MTU);
            switch.add(None, MTU);
            let mut now = 0;
            for (port, from, to, pause) in steps {
                now += pause;
                let mac = |[x, y]: [u8; 2]| Mac([x & 3, 0, 0, 0, 0, y & 0x7f]);
                let frame = frame(mac(from), mac(to));
                let targets = switch.forward(port, &frame, frame.len(), now);
                prop_assert!(!targets.contains(&port));
                let mut count = 0;
                for (id, port) in &switch.ports {
                    prop_assert!(port.learned.len() <= LEARNED_MAX);
                    count += port.learned.len();
                    for mac in port.learned.keys() {
                        prop_assert_eq!(switch.learned.get(mac), Some(id));
                    }
                }
                prop_assert_eq!(count, switch.learned.len());
            }
        }
    }
}
