//! The frames of a domain's grant table, and how often each entry is in use.
//!
//! Frames come and stay: slots are filled once, so finding an entry takes no lock, and being at one takes that entry's only. Two domains that
//! use different grants of a third have no lock in common.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use abi::Errno;
use abi::grant::{
    GNTST_BAD_GNTREF, GNTST_EAGAIN, GNTTAB_NR_RESERVED_ENTRIES, GTF_PERMIT_ACCESS, GTF_READING,
    GTF_TRANSITIVE, GTF_TYPE_MASK, GTF_WRITING, GrantEntryV1, GrantEntryV2,
};

use super::Status;
use super::entry::{Entry, Use};
use super::version::{Current, Version};
use crate::mm::fallible;
use crate::mm::guest::{Access, GuestFrame};
use crate::sync::{Mutex, MutexGuard, Once, Rank};
use crate::types::{DomId, Gfn, Mfn, PAGE_SIZE};

/// Entries in a frame: version 1, version 2, and status words of version 2.
const ENTRIES_V1: u32 = PAGE_SIZE as u32 / size_of::<GrantEntryV1>() as u32;
const ENTRIES_V2: u32 = PAGE_SIZE as u32 / size_of::<GrantEntryV2>() as u32;
const STATUS_WORDS: u32 = PAGE_SIZE as u32 / 2;
/// Frames of entries for which a frame of status words is enough.
const FRAMES_PER_STATUS: u32 = STATUS_WORDS / ENTRIES_V2;
/// Entries that keep their meaning when the version changes: the toolstack's.
const RESERVED: u32 = GNTTAB_NR_RESERVED_ENTRIES;
/// In place of a frame number: not mapped.
const NOWHERE: u64 = u64::MAX;

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
    mapped_at: AtomicU64,
}

/// Uses of as many entries as a frame of version 1 has.
type Uses = Box<[Mutex<Use>; ENTRIES_V1 as usize]>;

/// The granting half of a domain's grants.
pub struct Table {
    owner: DomId,
    version: Current,
    /// Frames of entries there are, and who may make it more or change the version.
    count: Mutex<u32>,
    shared: Box<[Once<Frame>]>,
    status: Box<[Once<Frame>]>,
    /// Uses of each entry, by frame of version 1.
    uses: Box<[Once<Uses>]>,
}

/// `count` empty slots.
fn slots<T>(count: u32) -> Result<Box<[Once<T>]>, Errno> {
    Ok(fallible::slice(count as usize, |_| Once::new())?)
}

/// Fill slot `index`, if it is empty.
fn fill<T>(slots: &[Once<T>], index: u32, make: impl FnOnce() -> Result<T, Errno>) -> Result<(), Errno> {
    let slot = slots.get(index as usize).ok_or(Errno::EINVAL)?;
    slot.try_call_once(make).map(drop)
}

fn filled<T>(slots: &[Once<T>], index: u32) -> Option<&T> {
    slots.get(index as usize)?.get()
}

fn new_frame(owner: DomId) -> Result<Frame, Errno> {
    Ok(Frame {
        frame: GuestFrame::new(owner)?,
        mapped_at: AtomicU64::new(NOWHERE),
    })
}

impl Table {
    /// Without a frame; there may be `max_frames`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new(owner: DomId, max_frames: u32) -> Result<Self, Errno> {
        Ok(Self {
            owner,
            version: Current::new(Version::V1),
            count: Mutex::new(Rank::GrantTable, 0),
            shared: slots(max_frames)?,
            status: slots(max_frames.div_ceil(FRAMES_PER_STATUS))?,
            uses: slots(max_frames)?,
        })
    }

    /// Form of the entries.
    pub fn version(&self) -> Version {
        self.version.get()
    }

    // ---- size ----

    /// Frames of entries that there are, and that there may be.
    pub fn size(&self) -> (u32, u32) {
        (*self.count.lock(), self.max_len(Part::Shared))
    }

    /// How many frames of status words there are.
    pub fn status_len(&self) -> u32 {
        let count = self.count.lock();
        match self.version() {
            Version::V1 => 0,
            Version::V2 => count.div_ceil(FRAMES_PER_STATUS),
        }
    }

    /// How many frames of a part there may be.
    pub fn max_len(&self, part: Part) -> u32 {
        self.part(part).len() as u32
    }

    fn part(&self, part: Part) -> &[Once<Frame>] {
        match part {
            Part::Shared => &self.shared,
            Part::Status => &self.status,
        }
    }

    /// Make it `wanted` frames large, at least.
    ///
    /// # Errors
    /// `EINVAL`: larger than it may be. `ENOMEM`.
    pub fn grow_to(&self, wanted: u32) -> Result<(), Errno> {
        let mut count = self.count.lock();
        self.grow(&mut count, wanted)
    }

    fn grow(&self, count: &mut u32, wanted: u32) -> Result<(), Errno> {
        if wanted > self.shared.len() as u32 {
            return Err(Errno::EINVAL);
        }
        if self.version() == Version::V2 {
            self.grow_status(wanted)?;
        }
        while *count < wanted {
            fill(&self.uses, *count, || {
                let unused = |_| Mutex::new(Rank::Grant, Use::default());
                let uses = fallible::slice(ENTRIES_V1 as usize, unused)?;
                uses.try_into().map_err(|_| Errno::ENOMEM)
            })?;
            fill(&self.shared, *count, || new_frame(self.owner))?;
            *count += 1;
        }
        Ok(())
    }

    /// Status words for `count` frames of entries.
    fn grow_status(&self, count: u32) -> Result<(), Errno> {
        (0..count.div_ceil(FRAMES_PER_STATUS))
            .try_for_each(|index| fill(&self.status, index, || new_frame(self.owner)))
    }

    /// Frame number `index` of a part; the table grows to have it.
    ///
    /// # Errors
    /// `EINVAL`: the table cannot have it. `ENOMEM`.
    pub fn frame(&self, part: Part, index: u32) -> Result<GuestFrame, Errno> {
        let mut count = self.count.lock();
        let shared = match part {
            Part::Shared => index.checked_add(1),
            Part::Status if self.version() == Version::V1 => None,
            Part::Status => index
                .checked_mul(FRAMES_PER_STATUS)
                .and_then(|first| first.checked_add(1)),
        };
        self.grow(&mut count, shared.ok_or(Errno::EINVAL)?)?;
        let frame = filled(self.part(part), index).ok_or(Errno::EINVAL)?;
        frame.frame.share().map_err(|_| Errno::ENOMEM)
    }

    /// The domain has mapped frame `index` of a part at `gfn`. Returns where it was mapped before.
    pub fn note_mapped(&self, part: Part, index: u32, gfn: Gfn) -> Option<Gfn> {
        let frame = filled(self.part(part), index)?;
        Some(frame.mapped_at.swap(gfn.0, SeqCst))
            .filter(|&old| old != NOWHERE)
            .map(Gfn)
    }

    /// Where the domain has mapped frame `index` of a part.
    pub fn mapped_at(&self, part: Part, index: u32) -> Option<Gfn> {
        let frame = filled(self.part(part), index)?;
        Some(frame.mapped_at.load(SeqCst))
            .filter(|&at| at != NOWHERE)
            .map(Gfn)
    }

    // ---- entries ----

    fn uses(&self, reference: u32) -> Result<&Mutex<Use>, Status> {
        filled(&self.uses, reference / ENTRIES_V1)
            .and_then(|uses| uses.get((reference % ENTRIES_V1) as usize))
            .ok_or(Status(GNTST_BAD_GNTREF))
    }

    /// Entry `reference` in the form of `version`, for who holds its lock.
    #[inline(always)]
    pub(super) fn entry<'a>(
        &'a self,
        version: Version,
        reference: u32,
        uses: &'a mut Use,
    ) -> Result<Entry<'a>, Status> {
        const NONE: Status = Status(GNTST_BAD_GNTREF);
        let (frame, at, status) = match version {
            Version::V1 => {
                let at = u64::from(reference % ENTRIES_V1) * size_of::<GrantEntryV1>() as u64;
                (reference / ENTRIES_V1, at, None)
            }
            Version::V2 => {
                let frame = filled(&self.status, reference / STATUS_WORDS).ok_or(NONE)?;
                let status = frame.frame.u16_at(u64::from(reference % STATUS_WORDS) * 2);
                let at = u64::from(reference % ENTRIES_V2) * size_of::<GrantEntryV2>() as u64;
                (reference / ENTRIES_V2, at, Some(status))
            }
        };
        Ok(Entry {
            table: &filled(&self.shared, frame).ok_or(NONE)?.frame,
            at,
            status,
            uses,
        })
    }

    /// Be at entry `reference`, alone.
    ///
    /// # Errors
    /// Those of [`Table::lock_entry`].
    #[inline(always)]
    pub(super) fn with_entry<R>(
        &self,
        reference: u32,
        work: impl FnOnce(&mut Entry<'_>) -> R,
    ) -> Result<R, Status> {
        let (mut uses, version) = self.lock_entry(reference)?;
        Ok(work(&mut self.entry(version, reference, &mut uses)?))
    }

    /// For [`Table::entry`].
    ///
    /// # Errors
    /// `GNTST_BAD_GNTREF`: there is no such entry. `GNTST_EAGAIN`: the version is being changed.
    #[inline(always)]
    pub(super) fn lock_entry(&self, reference: u32) -> Result<(MutexGuard<'_, Use>, Version), Status> {
        let uses = self.uses(reference)?;
        self.version.lock(uses).ok_or(Status(GNTST_EAGAIN))
    }

    /// End a use of entry `reference`, for `access`. While the version is being changed the entry is not shown to be unused:
    /// [`Table::set_version`] does that in the end.
    ///
    /// # Errors
    /// `GNTST_BAD_GNTREF`: there is no such entry.
    #[inline]
    pub(super) fn end_use(&self, reference: u32, access: Access) -> Result<(), Status> {
        let mut uses = self.uses(reference)?.lock();
        match self.version.settled() {
            Some(version) => self.entry(version, reference, &mut uses)?.end(access),
            None => uses.end(access),
        }
        Ok(())
    }

    /// Exchange two entries.
    ///
    /// # Errors
    /// `GNTST_BAD_GNTREF`: no such entry. `GNTST_EAGAIN`: one is in use, or the version is being changed.
    pub fn swap(&self, a: u32, b: u32) -> Result<(), Status> {
        if a == b {
            return self.with_entry(a, |_| ());
        }
        // The lower one first, as everybody who takes two does.
        let (low, high) = (a.min(b), a.max(b));
        let (mut low_uses, version) = self.lock_entry(low)?;
        // The version cannot change while the first one's lock is held.
        let mut high_uses = self.uses(high)?.lock();
        let low = self.entry(version, low, &mut low_uses)?;
        let high = self.entry(version, high, &mut high_uses)?;
        if low.uses.any() || high.uses.any() {
            return Err(Status(GNTST_EAGAIN));
        }
        let words = match version {
            Version::V1 => 1,
            Version::V2 => 2,
        };
        for offset in [0, 8].into_iter().take(words) {
            let (low, high) = (
                low.table.u64_at(low.at + offset),
                high.table.u64_at(high.at + offset),
            );
            high.store(low.swap(high.load(SeqCst), SeqCst), SeqCst);
        }
        Ok(())
    }

    // ---- version ----

    /// Choose the form of the entries. All but the first 8 are cleared.
    ///
    /// # Errors
    /// `EBUSY`: an entry behind the first 8 is in use. `ERANGE`: one of the first 8 has no equivalent. `ENOMEM`.
    pub(super) fn set_version(&self, version: Version) -> Result<(), Errno> {
        let count = self.count.lock();
        if self.version() == version {
            return Ok(());
        }
        // Not while everybody waits.
        if version == Version::V2 {
            self.grow_status(*count)?;
        }
        let all = || {
            let frames = self.uses.iter().filter_map(Once::get);
            frames.flat_map(|uses| uses.iter())
        };
        let refused = |index, uses: &Use| match uses.any() && index >= RESERVED as usize {
            true => Err(Errno::EBUSY),
            false => Ok(()),
        };
        // Who uses a grant is not to notice a change that is refused.
        all()
            .enumerate()
            .try_for_each(|(index, uses)| refused(index, &uses.lock()))?;
        let result = self.version.change(all(), refused, |old| {
            self.convert(old, version)?;
            Ok(version)
        });
        // What has ended meanwhile; of a change that was made, the entries that were kept may show it.
        let shown = match result {
            Ok(()) => RESERVED,
            Err(_) => *count * ENTRIES_V1,
        };
        for reference in 0..shown {
            // In version 2, a frame has fewer entries.
            let _ = self.with_entry(reference, |entry| entry.show());
        }
        result
    }

    /// Where the domain has mapped which frames of status words; they are there no more, as far as this table knows.
    pub(super) fn forget_status(&self) -> impl Iterator<Item = (Gfn, Mfn)> {
        self.status.iter().filter_map(Once::get).filter_map(|frame| {
            let at = frame.mapped_at.swap(NOWHERE, SeqCst);
            (at != NOWHERE).then(|| (Gfn(at), frame.frame.mfn()))
        })
    }

    /// Write the first 8 entries again in another form, and nothing into all others.
    fn convert(&self, from: Version, to: Version) -> Result<(), Errno> {
        let mut kept = [(0, 0); RESERVED as usize];
        for (reference, kept) in (0..RESERVED).zip(&mut kept) {
            let Ok(uses) = self.uses(reference) else { continue };
            if let Ok(entry) = self.entry(from, reference, &mut uses.lock()) {
                *kept = represent(&entry)?;
            }
        }
        let cleared = self.shared.iter().chain(&self.status).filter_map(Once::get);
        cleared.for_each(|frame| frame.frame.copy_in(0, &[0; PAGE_SIZE as usize]));
        for (reference, (header, frame)) in (0..RESERVED).zip(kept) {
            let Ok(uses) = self.uses(reference) else { continue };
            if let Ok(entry) = self.entry(to, reference, &mut uses.lock()) {
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
        Ok(())
    }
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
        (Some(_), GTF_TRANSITIVE) => Err(Errno::ERANGE),
        (Some(_), _) => Ok((0, 0)),
    }
}
