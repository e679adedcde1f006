//! Packets to the front end.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;

use abi::io::netif::*;

use super::Broken;
use super::grants::{Grants, Target};
use crate::backend::ring::{BackRing, Shared};
use crate::net::offload;
use crate::net::packet::{Checksum, Family, Packet};

/// Bytes of a slot.
pub const SLOT: usize = size_of::<NetifRxResponse>();
/// Bytes that may wait for the front end to give buffers; what comes then is lost.
const WAITING_MAX: usize = 1 << 20;
/// Packets that may wait.
const WAITING_PACKETS_MAX: usize = 1024;
/// Packets put into the ring at once: their grants are copied in one hypercall.
const BATCH: usize = 64;
const PAGE: usize = 4096;

/// What a front end takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Packets in several slots.
    pub scatter_gather: bool,
    /// TCP over IPv4 to be segmented.
    pub segments_v4: bool,
    /// TCP over IPv6 to be segmented.
    pub segments_v6: bool,
    /// Missing checksums over IPv4.
    pub blank_v4: bool,
    /// Missing checksums over IPv6.
    pub blank_v6: bool,
}

impl Features {
    fn takes(&self, packet: &Packet) -> bool {
        let segments = match packet.segments {
            None => true,
            Some(segments) => {
                self.scatter_gather
                    && match segments.family {
                        Family::V4 => self.segments_v4,
                        Family::V6 => self.segments_v6,
                    }
            }
        };
        let checksum = packet.checksum != Checksum::Blank
            || match offload::family(&packet.bytes) {
                Some(Family::V4) => self.blank_v4,
                Some(Family::V6) => self.blank_v6,
                None => false,
            };
        segments && checksum
    }
}

/// What an attempt to fill the ring brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The front end wants an event.
    pub notify: bool,
    /// There is more to do right now.
    pub more: bool,
}

/// A packet waits, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// It waits for [`Rx::put`].
    Waiting,
    /// It is lost: too much waits already, or the front end cannot take it.
    Lost,
}

/// The ring, and what waits for it.
pub struct Rx<M> {
    ring: BackRing<M>,
    features: Features,
    waiting: VecDeque<Rc<Packet>>,
    bytes: usize,
}

/// A packet while its slots are being filled.
struct Filled {
    packet: Rc<Packet>,
    requests: Vec<NetifRxRequest>,
}

impl<M: Shared> Rx<M> {
    /// A ring whose front end takes `features`.
    ///
    /// # Errors
    /// The ring cannot be one.
    pub fn attach(memory: M, features: Features) -> Result<Self, Broken> {
        Ok(Self {
            ring: BackRing::attach(memory, SLOT)?,
            features,
            waiting: VecDeque::new(),
            bytes: 0,
        })
    }

    /// Queues a packet, in the form that the front end takes.
    pub fn queue(&mut self, packet: Rc<Packet>) -> Queued {
        if self.features.takes(&packet) {
            return self.append(packet);
        }
        let Ok(parts) = offload::complete(&packet) else {
            return Queued::Lost;
        };
        let lost = parts
            .into_iter()
            .filter(|part| self.append(Rc::new(part.clone())) == Queued::Lost)
            .count();
        if lost == 0 { Queued::Waiting } else { Queued::Lost }
    }

    /// Whether packets wait for buffers.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn append(&mut self, packet: Rc<Packet>) -> Queued {
        let length = packet.bytes.len();
        let fits = self.features.scatter_gather || length <= PAGE;
        if !fits || self.bytes + length > WAITING_MAX || self.waiting.len() >= WAITING_PACKETS_MAX {
            return Queued::Lost;
        }
        self.bytes += length;
        self.waiting.push_back(packet);
        Queued::Waiting
    }

    /// Puts what waits into the ring, as far as the front end has given buffers.
    ///
    /// # Errors
    /// The ring holds what no front end would write; nothing more must be done with it.
    pub fn put(&mut self, grants: &impl Grants) -> Result<Outcome, Broken> {
        let mut filled = Vec::new();
        while filled.len() < BATCH {
            let Some(packet) = self.waiting.front() else { break };
            let wanted = slots(packet);
            if (self.ring.waiting()? as usize) < wanted && !self.ring.ask_for_event_at(wanted as u32)? {
                break;
            }
            let requests = (0..wanted as u32).map(|index| self.ring.peek(index)).collect();
            self.ring.skip(wanted as u32);
            if let Some(packet) = self.waiting.pop_front() {
                self.bytes -= packet.bytes.len();
                filled.push(Filled { packet, requests });
            }
        }
        let more = filled.len() == BATCH;
        let done = deliver(grants, &filled);
        let mut done = done.into_iter();
        for filled in filled {
            self.respond(&filled, &mut done);
        }
        Ok(Outcome {
            notify: self.ring.publish(),
            more,
        })
    }

    /// Answers the slots of a packet. The extra information takes the place of the second one's answer.
    fn respond(&mut self, filled: &Filled, done: &mut impl Iterator<Item = bool>) {
        let packet = &filled.packet;
        let gso = packet.segments.is_some();
        let mut requests = filled.requests.iter();
        let mut parts = chunks(packet).enumerate().peekable();
        while let Some((index, part)) = parts.next() {
            let mut flags = match packet.checksum {
                Checksum::Validated if index == 0 => NETRXF_DATA_VALIDATED,
                Checksum::Blank if index == 0 => NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED,
                _ => 0,
            };
            if parts.peek().is_some() {
                flags |= NETRXF_MORE_DATA;
            }
            if index == 0 && gso {
                flags |= NETRXF_EXTRA_INFO;
            }
            let status = match done.next() {
                Some(true) => part.len() as i16,
                _ => NETIF_RSP_ERROR,
            };
            let response = NetifRxResponse {
                id: requests.next().map_or(0, |request| request.id),
                offset: 0,
                flags,
                status,
            };
            self.ring.answer(&response);
            if index == 0 && gso {
                requests.next();
                self.ring.answer(&extra(packet));
            }
        }
    }
}

/// The parts of a packet, each of which takes a slot. There is at least one: no packet is empty.
fn chunks(packet: &Packet) -> impl Iterator<Item = &[u8]> {
    packet.bytes.chunks(PAGE)
}

fn slots(packet: &Packet) -> usize {
    chunks(packet).count() + usize::from(packet.segments.is_some())
}

fn extra(packet: &Packet) -> NetifExtraInfo {
    let (size, kind) = match packet.segments {
        Some(segments) => match segments.family {
            Family::V4 => (segments.size, XEN_NETIF_GSO_TYPE_TCPV4),
            Family::V6 => (segments.size, XEN_NETIF_GSO_TYPE_TCPV6),
        },
        None => (0, XEN_NETIF_GSO_TYPE_NONE),
    };
    let [low, high] = size.to_le_bytes();
    NetifExtraInfo {
        type_: XEN_NETIF_EXTRA_TYPE_GSO,
        flags: 0,
        u: [low, high, kind, 0, 0, 0],
    }
}

/// Copies packets into the front end's pages; whether each part got there.
fn deliver(grants: &impl Grants, filled: &[Filled]) -> Vec<bool> {
    let mut targets = Vec::new();
    for Filled { packet, requests } in filled {
        let gso = packet.segments.is_some();
        // The buffer of the slot that the extra information takes stays empty.
        let buffers = requests
            .iter()
            .enumerate()
            .filter(|(index, _)| !(gso && *index == 1));
        targets.extend(chunks(packet).zip(buffers).map(|(from, (_, request))| Target {
            gref: request.gref,
            offset: 0,
            from,
            done: false,
        }));
    }
    grants.copy_to(&mut targets);
    targets.into_iter().map(|target| target.done).collect()
}

#[cfg(test)]
#[path = "rx_tests.rs"]
mod tests;
