//! Packets to the front end.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;

use abi::io::netif::*;

use super::grants::{Grants, Target};
use super::hash::Hash;
use super::{Broken, Outcome};
use crate::backend::ring::{BackRing, Shared};
use crate::net::offload;
use crate::net::packet::{Checksum, Family, Packet};
use crate::net::room::Room;

/// Bytes of a slot.
pub const SLOT: usize = size_of::<NetifRxResponse>();
/// Bytes that may wait for the front end to give buffers; what comes then is lost.
const WAITING_MAX: usize = 1 << 20;
/// Bytes that a packet takes while it waits, beside its own.
const OVERHEAD: usize = 128;
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
    waiting: VecDeque<Parcel>,
    /// Bytes that what waits takes.
    bytes: usize,
    room: Room,
}

impl<M> Drop for Rx<M> {
    fn drop(&mut self) {
        self.room.give_back(self.bytes);
    }
}

/// A packet, and what else the front end is told of it.
struct Parcel {
    packet: Rc<Packet>,
    hash: Option<Hash>,
}

impl Parcel {
    /// The parts of the packet, each of which takes a slot. There is at least one: no packet is empty.
    fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.packet.bytes.chunks(PAGE)
    }

    /// Bytes that it takes while it waits.
    fn bytes(&self) -> usize {
        self.packet.bytes.len() + OVERHEAD
    }

    /// Slots of extra information behind the first part.
    fn extras(&self) -> usize {
        usize::from(self.packet.segments.is_some()) + usize::from(self.hash.is_some())
    }

    fn slots(&self) -> usize {
        self.chunks().count() + self.extras()
    }
}

/// A packet while its slots are being filled.
struct Filled {
    parcel: Parcel,
    requests: Vec<NetifRxRequest>,
}

impl<M: Shared> Rx<M> {
    /// A ring whose front end takes `features`, and what waits for it `room`.
    ///
    /// # Errors
    /// The ring cannot be one.
    pub fn attach(memory: M, features: Features, room: Room) -> Result<Self, Broken> {
        Ok(Self {
            ring: BackRing::attach(memory, SLOT)?,
            features,
            waiting: VecDeque::new(),
            bytes: 0,
            room,
        })
    }

    /// Queues a packet, in the form that the front end takes, with the hash that it is to be told.
    pub fn queue(&mut self, packet: Rc<Packet>, hash: Option<Hash>) -> Queued {
        if self.features.takes(&packet) {
            return self.append(packet, hash);
        }
        let Ok(parts) = offload::complete(&packet) else {
            return Queued::Lost;
        };
        let lost = parts
            .into_iter()
            .filter(|part| self.append(Rc::new(part.clone()), hash) == Queued::Lost)
            .count();
        if lost == 0 { Queued::Waiting } else { Queued::Lost }
    }

    /// Whether packets wait for buffers.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn append(&mut self, packet: Rc<Packet>, hash: Option<Hash>) -> Queued {
        let takes = self.features.scatter_gather || packet.bytes.len() <= PAGE;
        let parcel = Parcel { packet, hash };
        let bytes = parcel.bytes();
        let fits = self.bytes + bytes <= WAITING_MAX && self.waiting.len() < WAITING_PACKETS_MAX;
        if !takes || !fits || !self.room.take(bytes, self.bytes) {
            return Queued::Lost;
        }
        self.bytes += bytes;
        self.waiting.push_back(parcel);
        Queued::Waiting
    }

    /// Puts what waits into the ring, as far as the front end has given buffers.
    ///
    /// # Errors
    /// The ring holds what no front end would write; nothing more must be done with it.
    pub fn put(&mut self, grants: &impl Grants) -> Result<Outcome, Broken> {
        let mut filled = Vec::new();
        while filled.len() < BATCH {
            let Some(parcel) = self.waiting.front() else { break };
            let wanted = parcel.slots();
            if (self.ring.waiting()? as usize) < wanted && !self.ring.ask_for_event_at(wanted as u32)? {
                break;
            }
            let requests = (0..wanted as u32).map(|index| self.ring.peek(index)).collect();
            self.ring.skip(wanted as u32);
            if let Some(parcel) = self.waiting.pop_front() {
                self.bytes -= parcel.bytes();
                self.room.give_back(parcel.bytes());
                filled.push(Filled { parcel, requests });
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

    /// Answers the slots of a packet. Extra information takes the place of the answers behind the first.
    fn respond(&mut self, filled: &Filled, done: &mut impl Iterator<Item = bool>) {
        let parcel = &filled.parcel;
        let mut requests = filled.requests.iter();
        let mut parts = parcel.chunks().enumerate().peekable();
        while let Some((index, part)) = parts.next() {
            let mut flags = match parcel.packet.checksum {
                Checksum::Validated if index == 0 => NETRXF_DATA_VALIDATED,
                Checksum::Blank if index == 0 => NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED,
                _ => 0,
            };
            if parts.peek().is_some() {
                flags |= NETRXF_MORE_DATA;
            }
            if index == 0 && parcel.extras() > 0 {
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
            if index == 0 {
                for info in [segments(parcel), hash(parcel)].iter().flatten() {
                    requests.next();
                    self.ring.answer(info);
                }
            }
        }
    }
}

/// Extra information: the packet is to be cut.
fn segments(parcel: &Parcel) -> Option<NetifExtraInfo> {
    let segments = parcel.packet.segments?;
    let kind = match segments.family {
        Family::V4 => XEN_NETIF_GSO_TYPE_TCPV4,
        Family::V6 => XEN_NETIF_GSO_TYPE_TCPV6,
    };
    let [low, high] = segments.size.to_le_bytes();
    Some(NetifExtraInfo {
        type_: XEN_NETIF_EXTRA_TYPE_GSO,
        flags: match parcel.hash {
            Some(_) => XEN_NETIF_EXTRA_FLAG_MORE,
            None => 0,
        },
        u: [low, high, kind, 0, 0, 0],
    })
}

/// Extra information, the last: the packet's hash.
fn hash(parcel: &Parcel) -> Option<NetifExtraInfo> {
    let Hash { kind, value } = parcel.hash?;
    let [a, b, c, d] = value.to_le_bytes();
    Some(NetifExtraInfo {
        type_: XEN_NETIF_EXTRA_TYPE_HASH,
        flags: 0,
        // A type is told by the number of its bit.
        u: [
            kind.trailing_zeros() as u8,
            XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ as u8,
            a,
            b,
            c,
            d,
        ],
    })
}

/// Copies packets into the front end's pages; whether each part got there.
fn deliver(grants: &impl Grants, filled: &[Filled]) -> Vec<bool> {
    let mut targets = Vec::new();
    for Filled { parcel, requests } in filled {
        // The buffers of the slots that extra information takes stay empty.
        let buffers = requests
            .iter()
            .take(1)
            .chain(requests.iter().skip(1 + parcel.extras()));
        targets.extend(parcel.chunks().zip(buffers).map(|(from, request)| Target {
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
