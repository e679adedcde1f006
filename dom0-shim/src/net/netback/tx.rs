//! Packets from the front end.

use alloc::vec::Vec;

use abi::grant::GrantRef;
use abi::io::netif::*;

use super::Broken;
use super::grants::{Grants, Source};
use crate::backend::ring::{BackRing, Shared};
use crate::net::offload;
use crate::net::packet::{Checksum, ETHERNET_HEADER, Family, Mac, Packet, Segments};

/// Bytes of a slot.
pub const SLOT: usize = size_of::<NetifTxRequest>();
/// Slots of a packet that are accepted; extra information is not counted.
const SLOTS_MAX: usize = XEN_NETIF_NR_SLOTS_MIN;
/// So many are an error that ends the ring, as in Linux.
const SLOTS_FATAL: usize = 20;
/// Packets and the like taken at once: their grants are copied in one hypercall.
const BATCH: usize = 64;
/// With so many bytes, or so many frames when they are cut, a batch has enough: others wait for their turn. The last
/// packet may exceed it.
const BYTES_MAX: usize = 128 << 10;
const FRAMES_MAX: usize = 256;
const PAGE: usize = 4096;

/// What a look into the ring brought.
#[derive(Debug, Default)]
pub struct Batch {
    /// Packets, checked as far as [`offload::check`] does.
    pub packets: Vec<Packet>,
    /// Multicast groups that the front end enters and leaves, in order.
    pub groups: Vec<(Membership, Mac)>,
    /// Packets that were answered with an error.
    pub errors: u64,
    /// The rate limit held packets back: when (ns) to come again.
    pub wait_until: Option<u64>,
    /// There may be more right now.
    pub more: bool,
    /// The front end wants an event.
    pub notify: bool,
}

/// What a front end wants with a multicast group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// To hear it.
    Enter,
    /// To hear it no more.
    Leave,
}

/// A packet in the ring.
struct Draft {
    /// Id of every fragment.
    ids: Vec<u16>,
    /// Where the fragments are.
    pieces: Vec<Piece>,
    /// Slots of extra information behind the first fragment.
    extras: usize,
    packet: Packet,
    /// Wrong in itself: to be answered with an error.
    wrong: bool,
}

struct Piece {
    gref: GrantRef,
    offset: u16,
    size: u16,
}

/// Extra information of a packet.
#[derive(Default)]
struct Extras {
    slots: usize,
    segments: Option<Segments>,
    group: Option<(Membership, Mac)>,
}

/// The ring.
pub struct Tx<M> {
    ring: BackRing<M>,
}

impl<M: Shared> Tx<M> {
    /// Begins with what is in the ring.
    ///
    /// # Errors
    /// The ring cannot be one.
    pub fn attach(memory: M) -> Result<Self, Broken> {
        let ring = BackRing::attach(memory, SLOT)?;
        Ok(Self { ring })
    }

    /// Takes packets out of the ring, as long as `pay` agrees to their size (it may answer when to come again), and
    /// answers them.
    ///
    /// # Errors
    /// The ring holds what no front end would write; nothing more must be done with it.
    pub fn take(
        &mut self,
        grants: &impl Grants,
        mut pay: impl FnMut(usize) -> Result<(), u64>,
    ) -> Result<Batch, Broken> {
        let mut batch = Batch::default();
        let mut drafts = Vec::new();
        let (mut bytes, mut frames) = (0, 0);
        batch.more = true;
        for _ in 0..BATCH {
            if bytes >= BYTES_MAX || frames >= FRAMES_MAX {
                break;
            }
            let available = self.ring.waiting()? as usize;
            if available == 0 {
                if self.ring.ask_for_event()? {
                    continue;
                }
                batch.more = false;
                break;
            }
            let first: NetifTxRequest = self.ring.peek(0);
            let extras = self.extras(&first, available)?;
            if let Some(group) = extras.group {
                batch.groups.push(group);
                self.ring.skip(1 + extras.slots as u32);
                self.respond(first.id, NETIF_RSP_OKAY, extras.slots);
                continue;
            }
            if let Err(when) = pay(first.size.into()) {
                batch.wait_until = Some(when);
                batch.more = false;
                break;
            }
            let length = usize::from(first.size);
            bytes += length;
            frames += extras
                .segments
                .map_or(1, |segments| length.div_ceil(segments.size.into()));
            let draft = self.fragments(first, &extras, available)?;
            self.ring.skip((draft.ids.len() + draft.extras) as u32);
            drafts.push(draft);
        }
        fetch(grants, &mut drafts);
        for draft in drafts {
            self.finish(draft, &mut batch);
        }
        batch.notify = self.ring.publish();
        Ok(batch)
    }

    fn extras(&self, first: &NetifTxRequest, available: usize) -> Result<Extras, Broken> {
        let mut extras = Extras::default();
        let mut more = first.flags & NETTXF_EXTRA_INFO != 0;
        while more {
            extras.slots += 1;
            if extras.slots >= available {
                return Err(Broken("extra information is missing"));
            }
            let info: NetifExtraInfo = self.ring.peek(extras.slots as u32);
            match info.type_ {
                XEN_NETIF_EXTRA_TYPE_GSO => extras.segments = Some(segments(&info)?),
                XEN_NETIF_EXTRA_TYPE_MCAST_ADD => extras.group = Some((Membership::Enter, Mac(info.u))),
                XEN_NETIF_EXTRA_TYPE_MCAST_DEL => extras.group = Some((Membership::Leave, Mac(info.u))),
                // The hash is for hosts that balance load by it.
                XEN_NETIF_EXTRA_TYPE_HASH => {}
                _ => return Err(Broken("extra information of unknown type")),
            }
            more = info.flags & XEN_NETIF_EXTRA_FLAG_MORE != 0;
        }
        Ok(extras)
    }

    /// Reads the fragments of a packet. The first one's size is that of the packet; its own is what the others leave.
    fn fragments(&self, first: NetifTxRequest, extras: &Extras, available: usize) -> Result<Draft, Broken> {
        let mut wrong = usize::from(first.size) < ETHERNET_HEADER;
        let (mut ids, mut rest) = ([first.id].to_vec(), Vec::new());
        let (mut left, mut more) = (first.size, first.flags & NETTXF_MORE_DATA != 0);
        while more {
            let index = ids.len() + extras.slots;
            if index >= available {
                return Err(Broken("a fragment is missing"));
            }
            if ids.len() >= SLOTS_FATAL {
                return Err(Broken("a packet of too many fragments"));
            }
            let next: NetifTxRequest = self.ring.peek(index as u32);
            let piece = within_a_page(&next, next.size)?;
            more = next.flags & NETTXF_MORE_DATA != 0;
            ids.push(next.id);
            match left.checked_sub(next.size) {
                Some(less) => left = less,
                None => wrong = true,
            }
            rest.push(piece);
        }
        wrong |= ids.len() > SLOTS_MAX;
        let mut pieces = Vec::new();
        if !wrong {
            pieces.push(within_a_page(&first, left)?);
            pieces.append(&mut rest);
        }
        let checksum = match (first.flags, extras.segments) {
            (_, Some(_)) => Checksum::Blank,
            (flags, None) if flags & NETTXF_CSUM_BLANK != 0 => Checksum::Blank,
            (flags, None) if flags & NETTXF_DATA_VALIDATED != 0 => Checksum::Validated,
            _ => Checksum::Present,
        };
        let length = if wrong { 0 } else { usize::from(first.size) };
        Ok(Draft {
            ids,
            pieces,
            extras: extras.slots,
            packet: Packet {
                bytes: alloc::vec![0; length],
                checksum,
                segments: extras.segments,
            },
            wrong,
        })
    }

    /// Answers every slot of a packet.
    fn finish(&mut self, draft: Draft, batch: &mut Batch) {
        let good = !draft.wrong && offload::check(&draft.packet).is_ok();
        let status = if good { NETIF_RSP_OKAY } else { NETIF_RSP_ERROR };
        for (index, id) in draft.ids.into_iter().enumerate() {
            self.respond(id, status, if index == 0 { draft.extras } else { 0 });
        }
        if good {
            batch.packets.push(draft.packet);
        } else {
            batch.errors += 1;
        }
    }

    fn respond(&mut self, id: u16, status: i16, extras: usize) {
        let mut answer = |id, status| {
            let response = NetifTxResponse { id, status };
            self.ring.answer(&response);
        };
        answer(id, status);
        (0..extras).for_each(|_| answer(0, NETIF_RSP_NULL));
    }
}

/// A fragment of which `size` bytes are its own.
fn within_a_page(request: &NetifTxRequest, size: u16) -> Result<Piece, Broken> {
    if usize::from(request.offset) + usize::from(size) > PAGE {
        return Err(Broken("a fragment leaves its page"));
    }
    Ok(Piece {
        gref: request.gref,
        offset: request.offset,
        size,
    })
}

fn segments(info: &NetifExtraInfo) -> Result<Segments, Broken> {
    let [low, high, kind, ..] = info.u;
    let size = u16::from_le_bytes([low, high]);
    let family = match kind {
        XEN_NETIF_GSO_TYPE_TCPV4 => Family::V4,
        XEN_NETIF_GSO_TYPE_TCPV6 => Family::V6,
        _ => return Err(Broken("segmentation of unknown type")),
    };
    if size == 0 {
        return Err(Broken("segments of no size"));
    }
    Ok(Segments { family, size })
}

/// Copies all packets from the front end's pages; one that cannot be is wrong.
fn fetch(grants: &impl Grants, drafts: &mut [Draft]) {
    let mut sources = Vec::new();
    let mut owners = Vec::new();
    for (owner, draft) in drafts.iter_mut().enumerate() {
        let mut room = &mut draft.packet.bytes[..];
        for piece in &draft.pieces {
            // The sizes of the pieces add up to the packet's.
            let Some((into, after)) = room.split_at_mut_checked(piece.size.into()) else {
                break;
            };
            room = after;
            if !into.is_empty() {
                owners.push(owner);
                sources.push(Source {
                    gref: piece.gref,
                    offset: piece.offset,
                    into,
                    done: false,
                });
            }
        }
    }
    grants.copy_from(&mut sources);
    let failed: Vec<usize> = owners
        .into_iter()
        .zip(&sources)
        .filter(|(_, source)| !source.done)
        .map(|(owner, _)| owner)
        .collect();
    for owner in failed {
        drafts[owner].wrong = true;
    }
}

#[cfg(test)]
#[path = "tx_tests.rs"]
mod tests;
