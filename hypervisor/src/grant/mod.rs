//! Grant tables: a domain lets others at single frames of its memory.
//!
//! The table is in frames that the granting domain writes; an [`entry`] says who may use which frame and how, in the form of version 1 or 2.
//! Beside it stands what the hypervisor knows: how often each entry is in use ([`Use`]). While it is, the entry's "reading" and "writing"
//! flags are set, so that a guest can end a grant only when nobody uses it.
//!
//! The other half is the using domain's: [`map`] and [`copy`]. The two halves have locks of their own, never held together.
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

pub mod copy;
mod entry;
pub mod map;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::SeqCst;

use abi::Errno;
use abi::grant::{
    GNTST_BAD_DOMAIN, GNTST_BAD_GNTREF, GNTST_BAD_PAGE, GNTST_EAGAIN, GNTST_GENERAL_ERROR,
    GNTTAB_NR_RESERVED_ENTRIES, GTF_PERMIT_ACCESS, GTF_READING, GTF_TYPE_MASK, GTF_WRITING, GrantEntryV1,
    GrantEntryV2,
};

use crate::domain::{Domain, table};
use crate::mm::guest::{Access, GuestFrame};
use crate::mm::page_info::OutOfMemory;
use crate::sync::Mutex;
use crate::types::{DomId, Gfn, PAGE_SIZE};
pub use entry::Purpose;
use entry::{Entry, Granted, Use};
use map::Mappings;

/// A `GNTST_*` other than "okay".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(pub i16);

/// Entries in a frame: version 1, version 2, and status words of version 2.
const ENTRIES_V1: u32 = PAGE_SIZE as u32 / size_of::<GrantEntryV1>() as u32;
const ENTRIES_V2: u32 = PAGE_SIZE as u32 / size_of::<GrantEntryV2>() as u32;
const STATUS_WORDS: u32 = PAGE_SIZE as u32 / 2;
/// Frames of entries for which a frame of status words is enough.
const FRAMES_PER_STATUS: u32 = STATUS_WORDS / ENTRIES_V2;
/// Mappings that a "maptrack frame" of the configuration stands for (Xen's are 16 bytes).
const MAPPINGS_PER_FRAME: u32 = 256;

/// Form of the entries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Version {
    /// 8 bytes, with the flags that say "in use" among the guest's.
    V1 = 1,
    /// 16 bytes, with those flags elsewhere.
    V2 = 2,
}

/// Frames of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The entries.
    Shared,
    /// The status words, which only version 2 has.
    Status,
}

struct Frame {
    frame: GuestFrame,
    /// Where the domain has mapped it last.
    mapped_at: Option<Gfn>,
}

/// The granting half of a domain's grants.
struct Table {
    version: Version,
    shared: Vec<Frame>,
    status: Vec<Frame>,
    /// Uses of each entry, by frame of version 1.
    uses: Vec<Vec<Use>>,
}

/// Both halves of a domain's grants.
pub struct GrantTable {
    owner: DomId,
    max_frames: u32,
    max_version: Version,
    table: Mutex<Table>,
    mappings: Mutex<Mappings>,
}

/// A use of an entry, which [`Pinned::release`] ends. (The frame is a matter of its own reference.)
#[must_use = "the entry stays in use"]
pub struct Pinned {
    /// The granted frame.
    pub frame: GuestFrame,
    /// Granted are so many bytes from the first number on.
    pub range: (u16, u16),
    reference: u32,
    access: Access,
    /// The entry that this one, transitive, led to.
    through: Option<(Arc<Domain>, u32)>,
}

impl Pinned {
    /// End the use of `granter`'s entry; the frame remains.
    #[inline]
    pub fn release(self, granter: &Domain) -> GuestFrame {
        if let Some((other, reference)) = &self.through {
            other.grants.unpin(*reference, self.access);
        }
        granter.grants.unpin(self.reference, self.access);
        self.frame
    }
}

impl Table {
    /// Entry `reference`.
    #[inline]
    fn entry(&mut self, reference: u32) -> Result<Entry<'_>, Status> {
        const NONE: Status = Status(GNTST_BAD_GNTREF);
        let (frame, at, status) = match self.version {
            Version::V1 => {
                let at = u64::from(reference % ENTRIES_V1) * size_of::<GrantEntryV1>() as u64;
                (reference / ENTRIES_V1, at, None)
            }
            Version::V2 => {
                let frame = self.status.get((reference / STATUS_WORDS) as usize).ok_or(NONE)?;
                let status = frame.frame.u16_at(u64::from(reference % STATUS_WORDS) * 2);
                let at = u64::from(reference % ENTRIES_V2) * size_of::<GrantEntryV2>() as u64;
                (reference / ENTRIES_V2, at, Some(status))
            }
        };
        let frame = self.shared.get(frame as usize).ok_or(NONE)?;
        let uses = self.uses.get_mut((reference / ENTRIES_V1) as usize).ok_or(NONE)?;
        Ok(Entry {
            table: &frame.frame,
            at,
            status,
            uses: uses.get_mut((reference % ENTRIES_V1) as usize).ok_or(NONE)?,
        })
    }

    fn part(&mut self, part: Part) -> &mut Vec<Frame> {
        match part {
            Part::Shared => &mut self.shared,
            Part::Status => &mut self.status,
        }
    }
}

/// One more frame of a table.
fn push(frames: &mut Vec<Frame>, owner: DomId) -> Result<(), Errno> {
    frames.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    frames.push(Frame {
        frame: GuestFrame::new(owner)?,
        mapped_at: None,
    });
    Ok(())
}

impl GrantTable {
    /// A table of one frame, which may grow to `max_frames`, with entries of version 1; the domain may choose others up to `max_version`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(
        owner: DomId,
        max_frames: u32,
        max_maptrack_frames: u32,
        max_version: Version,
    ) -> Result<Self, OutOfMemory> {
        let mappings = Mappings::new(max_maptrack_frames.saturating_mul(MAPPINGS_PER_FRAME));
        let table = Self {
            owner,
            max_frames,
            max_version,
            table: Mutex::new(Table {
                version: Version::V1,
                shared: Vec::new(),
                status: Vec::new(),
                uses: Vec::new(),
            }),
            mappings: Mutex::new(mappings),
        };
        if max_frames > 0 {
            table.grow_to(1).map_err(|_| OutOfMemory)?;
        }
        Ok(table)
    }

    // ---- size ----

    /// Frames that it has, and may have.
    pub fn size(&self) -> (u32, u32) {
        (self.table.lock().shared.len() as u32, self.max_frames)
    }

    /// How many frames of status words there are.
    pub fn status_frames(&self) -> u32 {
        self.table.lock().status.len() as u32
    }

    /// How many frames of a part there may be.
    pub fn max_frames(&self, part: Part) -> u32 {
        match part {
            Part::Shared => self.max_frames,
            Part::Status => self.max_frames.div_ceil(FRAMES_PER_STATUS),
        }
    }

    fn grow(&self, table: &mut Table, count: u32) -> Result<(), Errno> {
        if count > self.max_frames {
            return Err(Errno::EINVAL);
        }
        self.grow_status(table, count)?;
        while (table.shared.len() as u32) < count {
            if table.uses.len() == table.shared.len() {
                let mut uses = Vec::new();
                uses.try_reserve_exact(ENTRIES_V1 as usize)
                    .map_err(|_| Errno::ENOMEM)?;
                uses.resize(ENTRIES_V1 as usize, Use::default());
                table.uses.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                table.uses.push(uses);
            }
            push(&mut table.shared, self.owner)?;
        }
        Ok(())
    }

    /// Status words for `count` frames of entries, if the version has them.
    fn grow_status(&self, table: &mut Table, count: u32) -> Result<(), Errno> {
        while table.version == Version::V2 && (table.status.len() as u32) < count.div_ceil(FRAMES_PER_STATUS)
        {
            push(&mut table.status, self.owner)?;
        }
        Ok(())
    }

    /// Make the table `count` frames large, at least.
    ///
    /// # Errors
    /// `EINVAL`: larger than it may be. `ENOMEM`.
    pub fn grow_to(&self, count: u32) -> Result<(), Errno> {
        self.grow(&mut self.table.lock(), count)
    }

    /// Frame number `index` of a part; the table grows to have it.
    ///
    /// # Errors
    /// `EINVAL`: the table cannot have it. `ENOMEM`.
    pub fn frame(&self, part: Part, index: u32) -> Result<GuestFrame, Errno> {
        let mut table = self.table.lock();
        let shared = match part {
            Part::Shared => index.checked_add(1),
            Part::Status if table.version == Version::V1 => None,
            Part::Status => index
                .checked_mul(FRAMES_PER_STATUS)
                .and_then(|first| first.checked_add(1)),
        };
        self.grow(&mut table, shared.ok_or(Errno::EINVAL)?)?;
        let frame = table.part(part).get(index as usize).ok_or(Errno::EINVAL)?;
        frame.frame.share().map_err(|_| Errno::ENOMEM)
    }

    /// The domain has mapped frame `index` of a part at `gfn`. Returns where it was mapped before.
    pub fn note_mapped(&self, part: Part, index: u32, gfn: Gfn) -> Option<Gfn> {
        let mut table = self.table.lock();
        table.part(part).get_mut(index as usize)?.mapped_at.replace(gfn)
    }

    /// Where the domain has mapped frame `index` of a part.
    pub fn mapped_at(&self, part: Part, index: u32) -> Option<Gfn> {
        self.table.lock().part(part).get(index as usize)?.mapped_at
    }

    // ---- version ----

    /// Form of the entries.
    pub fn version(&self) -> Version {
        self.table.lock().version
    }

    // ---- uses ----

    /// Begin to use entry `reference` of `granter`, on behalf of `user`.
    ///
    /// # Errors
    /// `GNTST_BAD_GNTREF`: the table has no such entry. `GNTST_GENERAL_ERROR`: it does not grant `access` to `user`, or is transitive
    /// and leads to its own domain. `GNTST_BAD_DOMAIN`: it leads to one that is not there. `GNTST_BAD_PAGE`: it names memory that `granter` does not own.
    #[inline]
    pub fn pin(
        granter: &Domain,
        reference: u32,
        user: DomId,
        access: Access,
        purpose: Purpose,
    ) -> Result<Pinned, Status> {
        let granted = granter
            .grants
            .table
            .lock()
            .entry(reference)?
            .begin(user, access, purpose)?;
        let status = match granted {
            Granted::Memory { gfn, offset, length } => match granter.pin_own(gfn, access) {
                Ok(frame) => {
                    return Ok(Pinned {
                        frame,
                        range: (offset, length),
                        reference,
                        access,
                        through: None,
                    });
                }
                Err(_) => Status(GNTST_BAD_PAGE),
            },
            Granted::Transitive {
                domain,
                reference: further,
            } => match through(granter, domain, further, access) {
                Ok((domain, pinned)) => {
                    return Ok(Pinned {
                        frame: pinned.frame,
                        range: pinned.range,
                        reference,
                        access,
                        through: Some((domain, further)),
                    });
                }
                Err(status) => status,
            },
        };
        granter.grants.unpin(reference, access);
        Err(status)
    }

    /// End a use that [`GrantTable::pin`] began.
    #[inline]
    fn unpin(&self, reference: u32, access: Access) {
        if let Ok(mut entry) = self.table.lock().entry(reference) {
            entry.end(access);
        }
    }

    /// Exchange two entries.
    ///
    /// # Errors
    /// `GNTST_BAD_GNTREF`: no such entry. `GNTST_EAGAIN`: one is in use.
    pub fn swap(&self, a: u32, b: u32) -> Result<(), Status> {
        let mut table = self.table.lock();
        let mut read = |reference| {
            let entry = table.entry(reference)?;
            let words = [0, 8].map(|offset| entry.table.u64_at(entry.at + offset).load(SeqCst));
            Ok((words, entry.uses.any()))
        };
        let ((first, first_used), (second, second_used)) = (read(a)?, read(b)?);
        if a == b {
            return Ok(());
        }
        if first_used || second_used {
            return Err(Status(GNTST_EAGAIN));
        }
        let words = match table.version {
            Version::V1 => 1,
            Version::V2 => 2,
        };
        for (reference, value) in [(a, second), (b, first)] {
            let entry = table.entry(reference)?;
            for (word, offset) in value.iter().zip([0, 8]).take(words) {
                entry.table.u64_at(entry.at + offset).store(*word, SeqCst);
            }
        }
        Ok(())
    }

    /// Write an entry that grants `frame` to `user`, on the domain's behalf (the toolstack's console and xenstore entries).
    ///
    /// # Errors
    /// `GNTST_BAD_GNTREF`: the table has no such entry.
    pub fn seed(&self, reference: u32, user: DomId, frame: u32) -> Result<(), Status> {
        let mut table = self.table.lock();
        let header = u32::from(GTF_PERMIT_ACCESS) | u32::from(user.0) << 16;
        table.entry(reference)?.write(header, frame);
        Ok(())
    }
}

/// What a transitive entry of `granter` leads to: not to another of its own, nor to another transitive one.
#[inline(never)]
fn through(
    granter: &Domain,
    domain: DomId,
    reference: u32,
    access: Access,
) -> Result<(Arc<Domain>, Pinned), Status> {
    if domain == granter.id {
        return Err(Status(GNTST_GENERAL_ERROR));
    }
    let domain = table::get(domain).ok_or(Status(GNTST_BAD_DOMAIN))?;
    let pinned = GrantTable::pin(&domain, reference, granter.id, access, Purpose::CopyThrough)?;
    Ok((domain, pinned))
}

/// Entries that keep their meaning when the version changes: the toolstack's.
const RESERVED: u32 = GNTTAB_NR_RESERVED_ENTRIES;

/// Choose the form of a domain's entries. All but the first 8 are cleared.
///
/// # Errors
/// `ENOSYS`: the domain may not have it. `EBUSY`: an entry behind the first 8 is in use. `ERANGE`: one of the first 8 has no equivalent. `ENOMEM`.
pub fn set_version(domain: &Domain, version: Version) -> Result<(), Errno> {
    let grants = &domain.grants;
    if version > grants.max_version {
        return Err(Errno::ENOSYS);
    }
    let mut guard = grants.table.lock();
    let table = &mut *guard;
    if table.version == version {
        return Ok(());
    }
    let used = table
        .uses
        .iter()
        .flatten()
        .skip(RESERVED as usize)
        .any(|uses| uses.any());
    if used {
        return Err(Errno::EBUSY);
    }
    let mut kept = [(0, 0); RESERVED as usize];
    for (reference, kept) in (0..RESERVED).zip(&mut kept) {
        if let Ok(entry) = table.entry(reference) {
            *kept = represent(&entry)?;
        }
    }
    let old = core::mem::replace(&mut table.version, version);
    let count = table.shared.len() as u32;
    if let Err(error) = grants.grow_status(table, count) {
        table.version = old;
        table.status.clear();
        return Err(error);
    }
    for frame in &table.shared {
        frame.frame.copy_in(0, &[0; PAGE_SIZE as usize]);
    }
    for (reference, (header, frame)) in (0..RESERVED).zip(kept) {
        if let Ok(entry) = table.entry(reference) {
            let in_use = entry.uses.flags();
            match entry.status {
                None => entry.write(header | u32::from(in_use), frame),
                Some(status) => {
                    status.store(in_use, SeqCst);
                    entry.write(header, frame);
                }
            }
        }
    }
    let dropped = match version {
        Version::V1 => core::mem::take(&mut table.status),
        Version::V2 => Vec::new(),
    };
    drop(guard);
    for frame in dropped {
        if let Some(gfn) = frame.mapped_at {
            domain.unmap_frame(gfn, frame.frame.mfn())?;
        }
    }
    Ok(())
}

/// An entry as header (without the flags that say that it is in use) and frame, which is what both versions have.
fn represent(entry: &Entry<'_>) -> Result<(u32, u32), Errno> {
    let header = entry.table.u32_at(entry.at).load(SeqCst) & !u32::from(GTF_READING | GTF_WRITING);
    match (entry.status, header as u16 & GTF_TYPE_MASK) {
        (None, _) => Ok((header, entry.table.u32_at(entry.at + 4).load(SeqCst))),
        (Some(_), GTF_PERMIT_ACCESS) => {
            let frame = entry.table.u64_at(entry.at + 8).load(SeqCst);
            Ok((header, u32::try_from(frame).map_err(|_| Errno::ERANGE)?))
        }
        (Some(_), abi::grant::GTF_TRANSITIVE) => Err(Errno::ERANGE),
        (Some(_), _) => Ok((0, 0)),
    }
}

#[cfg(test)]
mod tests;
