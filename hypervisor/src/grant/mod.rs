//! Grant tables, version 1: a domain lets others at single frames of its memory.
//!
//! The table is in frames that the granting domain writes ([`GrantTable::frame`]); an entry says who may use which frame and how. Beside
//! it stands what the hypervisor knows: how often each entry is in use ([`Use`]). While it is, the entry's "reading" and "writing" flags are
//! set, in one exchange with the check of what the guest wrote, so that a guest can end a grant only when nobody uses it.
//!
//! The other half is the mapping domain's ([`map`]). The two halves have locks of their own, never held together.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

pub mod map;

use alloc::vec::Vec;
use core::sync::atomic::Ordering::SeqCst;

use abi::Errno;
use abi::grant::{
    GNTST_BAD_GNTREF, GNTST_BAD_PAGE, GNTST_EAGAIN, GNTST_GENERAL_ERROR, GTF_PERMIT_ACCESS, GTF_READING,
    GTF_READONLY, GTF_TYPE_MASK, GTF_WRITING,
};

use crate::domain::Domain;
use crate::mm::guest::{Access, GuestFrame};
use crate::mm::page_info::OutOfMemory;
use crate::sync::Mutex;
use crate::types::{DomId, Gfn, PAGE_SIZE};
use map::Mappings;

/// A `GNTST_*` other than "okay".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(pub i16);

const ENTRY_SIZE: u64 = 8;
const ENTRIES_PER_FRAME: u32 = (PAGE_SIZE / ENTRY_SIZE) as u32;
/// Mappings that a "maptrack frame" of the configuration stands for (Xen's are 16 bytes).
const MAPPINGS_PER_FRAME: u32 = 256;

/// How often an entry is in use.
#[derive(Clone, Copy, Default)]
struct Use {
    all: u32,
    writing: u32,
}

struct Frame {
    frame: GuestFrame,
    /// Where the domain has mapped it last.
    mapped_at: Option<Gfn>,
    uses: Vec<Use>,
}

/// Both halves of a domain's grants.
pub struct GrantTable {
    owner: DomId,
    max_frames: u32,
    frames: Mutex<Vec<Frame>>,
    mappings: Mutex<Mappings>,
}

/// A use of an entry: the frame, and what must be undone.
#[must_use = "the entry stays in use"]
pub struct Pinned {
    /// The granted frame.
    pub frame: GuestFrame,
}

impl GrantTable {
    /// A table of one frame, which may grow to `max_frames`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(owner: DomId, max_frames: u32, max_maptrack_frames: u32) -> Result<Self, OutOfMemory> {
        let mappings = Mappings::new(max_maptrack_frames.saturating_mul(MAPPINGS_PER_FRAME));
        let table = Self {
            owner,
            max_frames,
            frames: Mutex::new(Vec::new()),
            mappings: Mutex::new(mappings),
        };
        if max_frames > 0 {
            table.grow(&mut table.frames.lock(), 1).map_err(|_| OutOfMemory)?;
        }
        Ok(table)
    }

    /// Frames that it has, and may have.
    pub fn size(&self) -> (u32, u32) {
        (self.frames.lock().len() as u32, self.max_frames)
    }

    fn grow(&self, frames: &mut Vec<Frame>, count: u32) -> Result<(), Errno> {
        if count > self.max_frames {
            return Err(Errno::EINVAL);
        }
        while (frames.len() as u32) < count {
            let uses = alloc::vec![Use::default(); ENTRIES_PER_FRAME as usize];
            frames.push(Frame {
                frame: GuestFrame::new(self.owner)?,
                mapped_at: None,
                uses,
            });
        }
        Ok(())
    }

    /// Make the table `count` frames large, at least.
    ///
    /// # Errors
    /// `EINVAL`: larger than it may be. `ENOMEM`.
    pub fn grow_to(&self, count: u32) -> Result<(), Errno> {
        self.grow(&mut self.frames.lock(), count)
    }

    /// The table's frame number `index`; the table grows to have it.
    ///
    /// # Errors
    /// `EINVAL`: the table cannot have it. `ENOMEM`.
    pub fn frame(&self, index: u32) -> Result<GuestFrame, Errno> {
        let mut frames = self.frames.lock();
        self.grow(&mut frames, index.checked_add(1).ok_or(Errno::EINVAL)?)?;
        let frame = frames.get(index as usize).ok_or(Errno::EINVAL)?;
        frame.frame.share().map_err(|_| Errno::ENOMEM)
    }

    /// The domain has mapped frame `index` at `gfn`. Returns where it was mapped before.
    pub fn note_mapped(&self, index: u32, gfn: Gfn) -> Option<Gfn> {
        self.frames.lock().get_mut(index as usize)?.mapped_at.replace(gfn)
    }

    /// Where the domain has mapped frame `index`.
    pub fn mapped_at(&self, index: u32) -> Option<Gfn> {
        self.frames.lock().get(index as usize)?.mapped_at
    }

    /// Begin to use entry `reference` of `granter`, on behalf of `user`.
    ///
    /// # Errors
    /// `GNTST_BAD_GNTREF`: the table has no such entry. `GNTST_GENERAL_ERROR`: it does not grant `access` to `user`.
    /// `GNTST_BAD_PAGE`: it names memory that `granter` does not have.
    pub fn pin(granter: &Domain, reference: u32, user: DomId, access: Access) -> Result<Pinned, Status> {
        let mut frames = granter.grants.frames.lock();
        let (shared, at, uses) = entry(&mut frames, reference)?;
        let header = shared.u32_at(at);
        let mut seen = header.load(SeqCst);
        loop {
            let (flags, domain) = (seen as u16, (seen >> 16) as u16);
            if flags & GTF_TYPE_MASK != GTF_PERMIT_ACCESS
                || domain != user.0
                || (access == Access::Write && flags & GTF_READONLY != 0)
            {
                return Err(Status(GNTST_GENERAL_ERROR));
            }
            let used = GTF_READING | if access == Access::Write { GTF_WRITING } else { 0 };
            match header.compare_exchange(seen, seen | u32::from(used), SeqCst, SeqCst) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        uses.all += 1;
        uses.writing += u32::from(access == Access::Write);
        let gfn = Gfn(u64::from(shared.u32_at(at + 4).load(SeqCst)));
        match granter.pin(gfn, access) {
            Ok(frame) => Ok(Pinned { frame }),
            Err(_) => {
                end_use(shared, at, uses, access);
                Err(Status(GNTST_BAD_PAGE))
            }
        }
    }

    /// End a use that [`GrantTable::pin`] began. (The frame is a matter of its own reference.)
    pub fn unpin(&self, reference: u32, access: Access) {
        let mut frames = self.frames.lock();
        if let Ok((shared, at, uses)) = entry(&mut frames, reference) {
            end_use(shared, at, uses, access);
        }
    }

    /// Exchange two entries.
    ///
    /// # Errors
    /// `GNTST_BAD_GNTREF`: no such entry. `GNTST_EAGAIN`: one is in use.
    pub fn swap(&self, a: u32, b: u32) -> Result<(), Status> {
        let mut frames = self.frames.lock();
        let mut read = |reference| {
            let (shared, at, uses) = entry(&mut frames, reference)?;
            if uses.all != 0 {
                Err(Status(GNTST_EAGAIN))
            } else {
                Ok(shared.u64_at(at).load(SeqCst))
            }
        };
        let (first, second) = (read(a)?, read(b)?);
        for (reference, value) in [(a, second), (b, first)] {
            let (shared, at, _) = entry(&mut frames, reference)?;
            shared.u64_at(at).store(value, SeqCst);
        }
        Ok(())
    }

    /// Write an entry that grants `frame` to `user`, on the domain's behalf (the toolstack's console and xenstore entries).
    ///
    /// # Errors
    /// `GNTST_BAD_GNTREF`: the table has no such entry.
    pub fn seed(&self, reference: u32, user: DomId, frame: u32) -> Result<(), Status> {
        let mut frames = self.frames.lock();
        let (shared, at, _) = entry(&mut frames, reference)?;
        shared.u32_at(at + 4).store(frame, SeqCst);
        shared
            .u32_at(at)
            .store(u32::from(GTF_PERMIT_ACCESS) | u32::from(user.0) << 16, SeqCst);
        Ok(())
    }
}

/// An entry: its frame, its offset there, and how it is used.
fn entry(frames: &mut [Frame], reference: u32) -> Result<(&GuestFrame, u64, &mut Use), Status> {
    let index = reference % ENTRIES_PER_FRAME;
    let frame = frames
        .get_mut((reference / ENTRIES_PER_FRAME) as usize)
        .ok_or(Status(GNTST_BAD_GNTREF))?;
    let uses = frame
        .uses
        .get_mut(index as usize)
        .ok_or(Status(GNTST_BAD_GNTREF))?;
    Ok((&frame.frame, u64::from(index) * ENTRY_SIZE, uses))
}

fn end_use(shared: &GuestFrame, at: u64, uses: &mut Use, access: Access) {
    uses.all = uses.all.saturating_sub(1);
    uses.writing = uses.writing.saturating_sub(u32::from(access == Access::Write));
    let mut unused = 0;
    if uses.writing == 0 {
        unused |= GTF_WRITING;
    }
    if uses.all == 0 {
        unused |= GTF_READING;
    }
    shared.u32_at(at).fetch_and(!u32::from(unused), SeqCst);
}
