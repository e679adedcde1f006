//! A domain's physical address space: nested page tables, from guest frames to machine frames.
//!
//! The same four-level radix tree is walked by the hardware and by [`P2m::lookup`]. The vendors' entries differ in
//! few bits ([`Encoding`]); in both, bits 52 to 55 are left to software and hold the entry's [`Kind`].
//!
//! Invariants:
//! - Readers take no lock. Entries are single atomic words, and a table page that was ever linked into the tree stays
//!   until the `P2m` is dropped, so a reader may be late, but never astray. It stays where it is, too: what was a table's entry never maps
//!   a page again.
//! - Writers hold `writer`.
//! - [`P2m::generation`] changes after every entry that was removed: who cached a translation along with the generation
//!   read *before* it looked up may use it while the generation is the same. So does [`P2m::own_generation`] with entries of
//!   the domain's [own](Kind::is_own) memory, before that: a back end maps and unmaps others' frames all the time.
//! - The `P2m` counts no references on the frames it maps. Each entry stands for one on every frame; whoever
//!   maps hands one over, whoever unmaps gets it back in [`Removed`] and must see to the flush before he
//!   drops it.
// UNSAFETY: table pages are reached by raw pointers.
#![expect(unsafe_code, reason = "table pages are reached by raw pointers")]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{frames, phys};
use crate::arch::NestedFormat;
use crate::sync::{Mutex, Rank};
use crate::types::{Gfn, Hpa, Mfn};

/// log2 of the small pages in the largest page, 1 GiB.
pub const MAX_ORDER: u32 = 18;
/// Address bits that a tree of four levels translates.
const TREE_BITS: u32 = 48;
const ENTRIES: usize = 512;

/// Bit 7: the entry maps a large page. The same in both formats.
const SUPERPAGE: u64 = 1 << 7;
/// Bits 12 to 51: the frame.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const KIND_SHIFT: u32 = 52;
const KIND_MASK: u64 = 0xf;

/// What a guest frame is backed by, and so what the guest may do with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The domain's memory.
    RamRw = 1,
    /// The domain's memory, which it may only read.
    RamRo = 2,
    /// A device's registers: not cached, never executed, no frame behind it that could be referenced.
    MmioDirect = 3,
    /// Another domain's frame, by a grant.
    GrantRw = 4,
    /// Another domain's frame, by a read-only grant.
    GrantRo = 5,
    /// Another domain's frame, mapped by privilege.
    Foreign = 6,
    /// The APIC-access page: the hardware does for the guest what is accessed there; nothing is behind it.
    ApicAccess = 7,
}

impl Kind {
    fn of(entry: u64) -> Option<Kind> {
        Some(match (entry >> KIND_SHIFT) & KIND_MASK {
            1 => Kind::RamRw,
            2 => Kind::RamRo,
            3 => Kind::MmioDirect,
            4 => Kind::GrantRw,
            5 => Kind::GrantRo,
            6 => Kind::Foreign,
            7 => Kind::ApicAccess,
            _ => return None,
        })
    }

    /// May the guest write?
    pub fn writable(self) -> bool {
        matches!(
            self,
            Kind::RamRw | Kind::MmioDirect | Kind::GrantRw | Kind::Foreign | Kind::ApicAccess
        )
    }

    /// May the guest execute? Only its own memory.
    pub fn executable(self) -> bool {
        self.is_own()
    }

    /// Is it the domain's own memory?
    pub fn is_own(self) -> bool {
        matches!(self, Kind::RamRw | Kind::RamRo)
    }

    /// Is there a frame of RAM behind it, with an owner and a reference count?
    pub fn is_ram(self) -> bool {
        !matches!(self, Kind::MmioDirect | Kind::ApicAccess)
    }
}

/// A translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The machine frame behind the guest frame that was asked for.
    pub mfn: Mfn,
    /// log2 of the small pages in the page that holds it: 0, 9 or 18.
    pub order: u32,
    /// What it is.
    pub kind: Kind,
}

/// What pages nested page tables may have on a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pages {
    /// log2 of the small pages in the largest page: 18 or 9.
    pub largest: u32,
    /// Only small pages are executed; larger ones become such by [`P2m::let_execute`].
    pub small_code: bool,
}

/// Why an entry could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// The guest cannot address the frame.
    OutOfRange,
    /// The frame number is not a multiple of the page's size, or the order is none of 0, 9 and 18.
    Misaligned,
    /// Something is mapped there.
    Occupied,
    /// No frame for a table, or the domain's pool is used up.
    NoMemory,
}

/// Translations that are no longer in the tables may still be cached by CPUs that run the domain.
#[must_use = "CPUs may still use the removed translation"]
#[derive(Debug)]
pub struct Flush(());

impl Flush {
    /// The holder has made every CPU that could use the removed translation drop it, or knows that there is none.
    pub fn done(self) {}
}

/// An entry that was removed. Its reference on the frames belongs to the holder.
#[must_use = "holds the reference on the frames"]
#[derive(Debug)]
pub struct Removed {
    /// First machine frame.
    pub mfn: Mfn,
    /// log2 of the number of frames.
    pub order: u32,
    /// What it was.
    pub kind: Kind,
    /// To be done before the reference is dropped.
    pub flush: Flush,
}

/// How a vendor writes an entry.
#[derive(Clone, Copy)]
struct Encoding {
    /// An entry with none of these bits is not present.
    present: u64,
    /// What an entry that points to a table has besides the address: all permissions.
    table: u64,
    write: u64,
    /// Set when execution is allowed (EPT).
    execute: u64,
    /// Set when execution is not allowed (NPT).
    no_execute: u64,
    cached: u64,
    uncached: u64,
}

/// SDM 3C 29.3.2, tables 29-1 to 29-7. Memory types: 6 = WB, 0 = UC. Bit 6 is "ignore PAT" (29.3.7.2): RAM is cached whatever the guest says, as others
/// have it mapped, cached: the hypervisor, and who it is granted to. A device's registers are combined with the guest's PAT, for write combining.
const EPT: Encoding = Encoding {
    present: 0b111,
    table: 0b111,
    write: 1 << 1,
    execute: 1 << 2,
    no_execute: 0,
    cached: 6 << 3 | 1 << 6,
    uncached: 0,
};

/// APM vol. 2, 15.25.5: all nested accesses are user accesses. PCD without PWT selects UC- in the PAT's reset value.
const NPT: Encoding = Encoding {
    present: 1,
    table: 0b111,
    write: 1 << 1,
    execute: 0,
    no_execute: 1 << 63,
    cached: 0,
    uncached: 1 << 4,
};

impl Encoding {
    fn of(format: NestedFormat) -> Encoding {
        match format {
            NestedFormat::Ept => EPT,
            NestedFormat::Npt => NPT,
        }
    }

    fn leaf(&self, mfn: Mfn, order: u32, kind: Kind) -> u64 {
        // Bit 0 is "read" in EPT and "present" in NPT; bit 2 is "execute" in EPT and "user" in NPT.
        let user = if self.execute == 0 { 1 << 2 } else { 0 };
        let mut entry = (mfn.addr().0 & ADDRESS) | (kind as u64) << KIND_SHIFT | 1 | user;
        if order > 0 {
            entry |= SUPERPAGE;
        }
        if kind.writable() {
            entry |= self.write;
        }
        entry |= if kind.executable() {
            self.execute
        } else {
            self.no_execute
        };
        entry | if kind.is_ram() { self.cached } else { self.uncached }
    }
}

/// How many [`Leaf`]s a `P2m` remembers, each for its part of the regions of 2 MiB.
const LEAVES: usize = 64;

/// Where the table of a region's small pages is, in one word: the table's frame, and in the lower 24 bits which region it is, of those with the same
/// [`Leaf::index`]. True for ever, as no table moves; 0 is of none.
struct Leaf(u64);

impl Leaf {
    #[inline]
    fn index(gfn: Gfn) -> usize {
        (gfn.0 >> 9) as usize % LEAVES
    }

    /// Not 0. Frames of a guest have 36 bits, so these have 21 besides the 24th.
    #[inline]
    fn region(gfn: Gfn) -> u64 {
        (1 << 23) + (gfn.0 >> 9 >> LEAVES.trailing_zeros())
    }

    fn new(gfn: Gfn, table: Hpa) -> Leaf {
        Leaf(table.frame().0 << 24 | Leaf::region(gfn))
    }

    #[inline]
    fn of(self, gfn: Gfn) -> Option<Hpa> {
        (self.0 & 0xff_ffff == Leaf::region(gfn)).then(|| Mfn(self.0 >> 24).addr())
    }
}

/// Gives frames for tables: what a guest sets off by itself takes none that are kept for the hypervisor.
type Alloc = fn(u32) -> Option<Mfn>;

/// A domain's nested page tables.
pub struct P2m {
    root: Hpa,
    encoding: Encoding,
    pages: Pages,
    /// First frame that the guest cannot address.
    limit: Gfn,
    generation: AtomicU64,
    own_generation: AtomicU64,
    /// One past the last frame that was ever mapped; written by writers.
    end: AtomicU64,
    /// Tables of small pages that were looked at: see [`Leaf`].
    leaves: [AtomicU64; LEAVES],
    /// Table pages in use besides the root, and how many there may be.
    tables: AtomicU32,
    pool: AtomicU32,
    writer: Mutex<()>,
}

impl P2m {
    /// Empty tables for a guest with `address_bits` (at most 48) bits of physical address. `pool`: table pages it may use.
    ///
    /// # Errors
    /// No frame for the root.
    pub fn new(format: NestedFormat, address_bits: u32, pages: Pages, pool: u32) -> Result<P2m, MapError> {
        let root = frames::alloc_zeroed(0).ok_or(MapError::NoMemory)?.addr();
        Ok(P2m {
            root,
            encoding: Encoding::of(format),
            pages,
            limit: Gfn(1 << (address_bits.min(TREE_BITS) - 12)),
            generation: AtomicU64::new(0),
            own_generation: AtomicU64::new(0),
            leaves: [const { AtomicU64::new(0) }; LEAVES],
            end: AtomicU64::new(0),
            tables: AtomicU32::new(0),
            pool: AtomicU32::new(pool),
            writer: Mutex::new(Rank::P2m, ()),
        })
    }

    /// What the hardware is told (nested CR3, EPT pointer).
    pub fn root(&self) -> Hpa {
        self.root
    }

    /// First frame that the guest cannot address.
    pub fn limit(&self) -> Gfn {
        self.limit
    }

    /// Changes whenever a translation ceased to hold.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Changes whenever a translation to the domain's own memory ceased to hold.
    #[inline]
    pub fn own_generation(&self) -> u64 {
        self.own_generation.load(Ordering::Acquire)
    }

    /// Table pages that may be used, the root not counted.
    pub fn pool(&self) -> u32 {
        self.pool.load(Ordering::Relaxed)
    }

    /// Change the number of table pages that may be used. Those in use stay.
    pub fn set_pool(&self, pages: u32) {
        self.pool.store(pages, Ordering::Relaxed);
    }

    /// What is behind `gfn`?
    #[inline]
    pub fn lookup(&self, gfn: Gfn) -> Option<Entry> {
        if gfn >= self.limit {
            return None;
        }
        match self.known_table(gfn) {
            Some(table) => self.look_in(table, gfn),
            None => self.look_down(gfn),
        }
    }

    /// [`P2m::lookup`] where that takes no walk. `None` does not say that there is nothing.
    #[inline(always)]
    pub(super) fn lookup_near(&self, gfn: Gfn) -> Option<Entry> {
        if gfn >= self.limit {
            return None;
        }
        self.look_in(self.known_table(gfn)?, gfn)
    }

    /// [`P2m::lookup`] by a walk.
    #[inline(always)]
    pub(super) fn lookup_far(&self, gfn: Gfn) -> Option<Entry> {
        if gfn >= self.limit {
            return None;
        }
        self.look_down(gfn)
    }

    /// What the table of small pages that `gfn` is in says of it.
    #[inline(always)]
    fn look_in(&self, table: Hpa, gfn: Gfn) -> Option<Entry> {
        self.translate(gfn, 0, slot(table, gfn, 0).load(Ordering::Acquire))
    }

    /// [`P2m::lookup`] from the root on.
    #[inline(never)]
    fn look_down(&self, gfn: Gfn) -> Option<Entry> {
        let (_, order, entry) = self.descend(gfn);
        self.translate(gfn, order, entry)
    }

    /// What an entry of `order` says of `gfn`.
    #[inline(always)]
    fn translate(&self, gfn: Gfn, order: u32, entry: u64) -> Option<Entry> {
        if !self.is_present(entry) {
            return None;
        }
        Some(Entry {
            mfn: Mfn((entry & ADDRESS) >> 12 | gfn.0 & ((1 << order) - 1)),
            order,
            kind: Kind::of(entry)?,
        })
    }

    #[inline(always)]
    fn is_present(&self, entry: u64) -> bool {
        entry & self.encoding.present != 0
    }

    /// The table of small pages that `gfn` is in, if it was looked at.
    #[inline(always)]
    fn known_table(&self, gfn: Gfn) -> Option<Hpa> {
        Leaf(self.leaves[Leaf::index(gfn)].load(Ordering::Acquire)).of(gfn)
    }

    /// The first guest frame from `gfn` on that is mapped, with what it is mapped to; the page may begin before it.
    pub fn next_mapped(&self, gfn: Gfn) -> Option<(Gfn, Entry)> {
        let mut gfn = gfn;
        while gfn < self.limit {
            let (_, order, entry) = self.descend(gfn);
            match self.translate(gfn, order, entry) {
                Some(entry) => return Some((gfn, entry)),
                None => gfn = Gfn((gfn.0 | ((1 << order) - 1)) + 1),
            }
        }
        None
    }

    /// One past the last guest frame that was ever mapped. (Which is the last now would take a walk through all tables.)
    pub fn end(&self) -> Gfn {
        Gfn(self.end.load(Ordering::Relaxed))
    }

    /// Map the `1 << order` frames from `gfn` on to those from `mfn` on, in one page or, where the machine has none of that size, in several. Takes
    /// over a reference on each frame.
    ///
    /// # Errors
    /// See [`MapError`]; nothing was mapped and the references are still the caller's.
    pub fn map(&self, gfn: Gfn, mfn: Mfn, order: u32, kind: Kind) -> Result<(), MapError> {
        let mask = (1u64 << order) - 1;
        if !matches!(order, 0 | 9 | 18) || (gfn.0 | mfn.0) & mask != 0 {
            return Err(MapError::Misaligned);
        }
        if gfn >= self.limit {
            return Err(MapError::OutOfRange);
        }
        let _writer = self.writer.lock();
        self.map_locked(gfn, mfn, order, kind)?;
        self.end.fetch_max(gfn.0 + (1 << order), Ordering::Relaxed);
        Ok(())
    }

    /// [`P2m::map`] for who has checked the arguments and holds `writer`.
    fn map_locked(&self, gfn: Gfn, mfn: Mfn, order: u32, kind: Kind) -> Result<(), MapError> {
        let (mut table, mut at) = match self.known_table(gfn) {
            Some(table) if order == 0 => (table, 0),
            _ => (self.root, 27),
        };
        while at > order {
            let slot = slot(table, gfn, at);
            let entry = slot.load(Ordering::Acquire);
            table = if !self.is_present(entry) {
                self.link_table(slot)?
            } else if entry & SUPERPAGE != 0 {
                return Err(MapError::Occupied);
            } else {
                Hpa(entry & ADDRESS)
            };
            at -= 9;
        }
        let slot = slot(table, gfn, order);
        let entry = slot.load(Ordering::Acquire);
        if !self.is_present(entry) {
            let entry = if order > self.pages.largest {
                let table = self.take_table(frames::alloc_zeroed)?;
                self.fill(table, order - 9, mfn, kind)?;
                table.0 | self.encoding.table
            } else {
                self.leaf(mfn, order, kind)
            };
            slot.store(entry, Ordering::Release);
            return Ok(());
        }
        if order == 0 || entry & SUPERPAGE != 0 || !self.is_empty(Hpa(entry & ADDRESS), order - 9) {
            return Err(MapError::Occupied);
        }
        // There was a finer mapping before: its tables stay, and are filled with small pages.
        self.fill(Hpa(entry & ADDRESS), order - 9, mfn, kind)
    }

    /// Map `count` frames with the largest pages that their alignment allows.
    ///
    /// # Errors
    /// As [`P2m::map`]; frames before the one that failed are mapped.
    pub fn map_range(&self, gfn: Gfn, mfn: Mfn, count: u64, kind: Kind) -> Result<(), MapError> {
        let mut done = 0;
        while done < count {
            let (gfn, mfn) = (gfn.offset(done), mfn.offset(done));
            let order = [MAX_ORDER, 9, 0]
                .into_iter()
                .find(|&order| (gfn.0 | mfn.0) & ((1 << order) - 1) == 0 && count - done >= 1 << order)
                .unwrap_or(0);
            self.map(gfn, mfn, order, kind)?;
            done += 1 << order;
        }
        Ok(())
    }

    /// Unmap the page at `gfn`, but no more than `1 << order` frames of it (0, 9 or 18, `gfn` a multiple): a larger page is split before.
    /// `Ok(None)`: nothing is mapped at `gfn`.
    ///
    /// # Errors
    /// [`MapError::NoMemory`]: no table for the split; nothing changed.
    pub fn unmap(&self, gfn: Gfn, order: u32) -> Result<Option<Removed>, MapError> {
        self.unmap_if(gfn, order, |_| true)
    }

    /// The same if what is mapped there is `wanted`; `Ok(None)` otherwise, too.
    ///
    /// # Errors
    /// As [`P2m::unmap`].
    pub fn unmap_if(
        &self,
        gfn: Gfn,
        order: u32,
        wanted: impl Fn(Entry) -> bool,
    ) -> Result<Option<Removed>, MapError> {
        if gfn >= self.limit {
            return Ok(None);
        }
        if !matches!(order, 0 | 9 | 18) || gfn.0 & ((1 << order) - 1) != 0 {
            return Err(MapError::Misaligned);
        }
        let _writer = self.writer.lock();
        loop {
            let (slot, found, entry) = self.descend(gfn);
            let Some(entry) = self.translate(gfn, found, entry).filter(|&entry| wanted(entry)) else {
                return Ok(None);
            };
            if found > order {
                self.split(slot, found, frames::alloc_zeroed)?;
                continue;
            }
            // Entries are written by who holds `writer`, so it is what was found.
            slot.store(0, Ordering::Release);
            if entry.kind.is_own() {
                self.own_generation.fetch_add(1, Ordering::AcqRel);
            }
            self.generation.fetch_add(1, Ordering::AcqRel);
            return Ok(Some(Removed {
                mfn: entry.mfn,
                order: found,
                kind: entry.kind,
                flush: Flush(()),
            }));
        }
    }

    /// Let `gfn` be executed if it is in a larger page that only was not as it is one: small pages take its place. (No flush: what is cached of it allows
    /// less, and a violation drops it (SDM 3C 29.4.3.1).)
    ///
    /// # Errors
    /// [`MapError::NoMemory`]: no table for that.
    pub fn let_execute(&self, gfn: Gfn) -> Result<(), MapError> {
        if !self.pages.small_code || gfn >= self.limit {
            return Ok(());
        }
        let _writer = self.writer.lock();
        loop {
            match self.descend(gfn) {
                (slot, order @ 1.., entry) if self.is_present(entry) => {
                    self.split(slot, order, frames::alloc_zeroed_beside_claims)?;
                }
                _ => return Ok(()),
            }
        }
    }

    fn leaf(&self, mfn: Mfn, order: u32, kind: Kind) -> u64 {
        let entry = self.encoding.leaf(mfn, order, kind);
        if self.pages.small_code && order > 0 {
            entry & !self.encoding.execute
        } else {
            entry
        }
    }

    /// The entry that decides about `gfn`, which must be below the limit: its place, its order, and what it is.
    fn descend(&self, gfn: Gfn) -> (&AtomicU64, u32, u64) {
        let (mut table, mut order) = match self.known_table(gfn) {
            Some(table) => (table, 0),
            None => (self.root, 27),
        };
        loop {
            let slot = slot(table, gfn, order);
            let entry = slot.load(Ordering::Acquire);
            if order == 0 {
                self.leaves[Leaf::index(gfn)].store(Leaf::new(gfn, table).0, Ordering::Release);
                return (slot, order, entry);
            }
            if !self.is_present(entry) || entry & SUPERPAGE != 0 {
                return (slot, order, entry);
            }
            table = Hpa(entry & ADDRESS);
            order -= 9;
        }
    }

    /// Replace a large page by a table that maps the same frames; `alloc` gives the table's.
    fn split(&self, slot: &AtomicU64, order: u32, alloc: Alloc) -> Result<(), MapError> {
        let entry = slot.load(Ordering::Acquire);
        let Some(kind) = Kind::of(entry) else {
            return Err(MapError::NoMemory);
        };
        let table = self.take_table(alloc)?;
        self.fill(table, order - 9, Mfn((entry & ADDRESS) >> 12), kind)?;
        slot.store(table.0 | self.encoding.table, Ordering::Release);
        Ok(())
    }

    /// Map a whole table with pages of `order`, descending into the tables it has.
    fn fill(&self, table: Hpa, order: u32, mfn: Mfn, kind: Kind) -> Result<(), MapError> {
        for index in 0..ENTRIES as u64 {
            let slot = slot(table, Gfn(index << order), order);
            let entry = slot.load(Ordering::Acquire);
            let mfn = mfn.offset(index << order);
            if !self.is_present(entry) {
                slot.store(self.leaf(mfn, order, kind), Ordering::Release);
            } else {
                self.fill(Hpa(entry & ADDRESS), order - 9, mfn, kind)?;
            }
        }
        Ok(())
    }

    fn is_empty(&self, table: Hpa, order: u32) -> bool {
        (0..ENTRIES as u64).all(|index| {
            let entry = slot(table, Gfn(index << order), order).load(Ordering::Acquire);
            !self.is_present(entry)
                || (order > 0 && entry & SUPERPAGE == 0 && self.is_empty(Hpa(entry & ADDRESS), order - 9))
        })
    }

    fn link_table(&self, slot: &AtomicU64) -> Result<Hpa, MapError> {
        let table = self.take_table(frames::alloc_zeroed)?;
        slot.store(table.0 | self.encoding.table, Ordering::Release);
        Ok(table)
    }

    /// A table page out of the domain's pool. The caller holds `writer`.
    fn take_table(&self, alloc: Alloc) -> Result<Hpa, MapError> {
        if self.tables.load(Ordering::Relaxed) >= self.pool.load(Ordering::Relaxed) {
            return Err(MapError::NoMemory);
        }
        let table = alloc(0).map(Mfn::addr).ok_or(MapError::NoMemory)?;
        self.tables.fetch_add(1, Ordering::Relaxed);
        Ok(table)
    }
}

impl Drop for P2m {
    /// The domain has unmapped everything (else the frames' references leak); nobody can look anything up any more.
    fn drop(&mut self) {
        free_tables(&self.encoding, self.root, 27);
    }
}

fn free_tables(encoding: &Encoding, table: Hpa, order: u32) {
    if order > 0 {
        for index in 0..ENTRIES as u64 {
            let entry = slot(table, Gfn(index << order), order).load(Ordering::Acquire);
            if entry & encoding.present != 0 && entry & SUPERPAGE == 0 {
                free_tables(encoding, Hpa(entry & ADDRESS), order - 9);
            }
        }
    }
    frames::free(table.frame(), 0);
}

/// The entry for `gfn` in a table whose entries span `1 << order` frames.
#[inline]
fn slot<'a>(table: Hpa, gfn: Gfn, order: u32) -> &'a AtomicU64 {
    let index = (gfn.0 >> order) as usize & (ENTRIES - 1);
    // SAFETY: `table` is a page of the tree (or about to be linked): 512 words that are only accessed as atomics, by the CPUs
    // too, and freed only when the `P2m` that the callers borrow is dropped. `index` is masked.
    unsafe { &*phys::ptr(table).cast::<AtomicU64>().add(index) }
}

#[cfg(test)]
#[path = "p2m_tests.rs"]
mod tests;
