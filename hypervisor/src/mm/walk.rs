//! A walk of a guest's own page tables, as its CPU would make it for a supervisor-level data access.
//!
//! Formats: paging off, 32-bit (with PSE and PSE-36), PAE, 4-level and 5-level (SDM 3A chapter 5). Accessed and dirty bits are set as
//! hardware sets them: a guest that evicts or writes back pages by these bits must see what hypercalls did. Protection
//! keys are not looked at.
//!
//! A walk reads table entries without holding references; its caller compares the p2m's generation afterwards (see
//! [`super::guest`]).
// UNSAFETY: guest page tables are read by raw pointer.
#![expect(unsafe_code, reason = "guest page tables are read by raw pointers")]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::guest::{Access, Fault, GuestFrame, ram};
use super::p2m::P2m;
use super::phys;
use crate::arch::Translation;
use crate::types::{Gpa, Gva, Hpa, Mfn};

const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const CR4_SMAP: u64 = 1 << 21;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
const RFLAGS_AC: u64 = 1 << 18;

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Most levels that a walk has.
const MAX_LEVELS: usize = 5;

/// One entry that a walk read: where it is, and what it was (with the bits that the walk set).
#[derive(Clone, Copy)]
struct Read {
    at: Hpa,
    value: u64,
}

/// The result of a walk, with all that is needed to see whether it still holds.
pub(super) struct Walk {
    /// Page number of the guest-virtual address; `u64::MAX`: no walk.
    page: u64,
    cr3: u64,
    mode: u64,
    /// The p2m's [`own_generation`](P2m::own_generation) from before.
    generation: u64,
    frame: Mfn,
    /// Writing is allowed and needs no further bit set.
    writable: bool,
    levels: u8,
    read: [Read; MAX_LEVELS],
}

impl Walk {
    /// Answers nothing.
    pub(super) const NONE: Walk = Walk {
        page: u64::MAX,
        cr3: 0,
        mode: 0,
        generation: 0,
        frame: Mfn(0),
        writable: false,
        levels: 0,
        read: [Read { at: Hpa(0), value: 0 }; MAX_LEVELS],
    };

    /// The machine frame at the walk's end.
    #[inline]
    pub(super) fn frame(&self) -> Mfn {
        self.frame
    }

    /// Would a walk for this access, made now with these registers at `generation` (of the guest's own memory), be this one?
    #[inline(always)]
    pub(super) fn answers(&self, by: Translation, gva: Gva, access: Access, generation: u64) -> bool {
        self.page == gva.0 >> 12
            && self.cr3 == by.cr3
            && self.generation == generation
            && self.mode == by.mode
            && (access == Access::Read || self.writable)
            && self.still_holds()
    }

    /// It led through memory that others can take away.
    fn forget(&mut self) {
        self.page = Walk::NONE.page;
    }

    /// Are the entries what they were?
    #[inline(always)]
    fn still_holds(&self) -> bool {
        let read = self.read.iter().take(self.levels.into());
        if self.mode & CR4_PAE != 0 {
            read.fold(0, |changed, read| changed | load_64(read.at) ^ read.value) == 0
        } else {
            read.fold(0, |changed, read| changed | load_32(read.at) ^ read.value) == 0
        }
    }
}

/// The entry at `at`, of the size that the mode has.
#[inline]
fn load(at: Hpa, mode: u64) -> u64 {
    if mode & CR4_PAE != 0 {
        load_64(at)
    } else {
        load_32(at)
    }
}

#[inline]
fn load_64(at: Hpa) -> u64 {
    // SAFETY: `at` was within the guest's RAM when the walk looked it up, and is aligned to the entry's size. All RAM is mapped; a
    // stale value does no harm, as the generation tells.
    unsafe { &*phys::ptr(at).cast::<AtomicU64>() }.load(Ordering::Acquire)
}

#[inline]
fn load_32(at: Hpa) -> u64 {
    // SAFETY: as in `load_64`.
    u64::from(unsafe { &*phys::ptr(at).cast::<AtomicU32>() }.load(Ordering::Acquire))
}

/// Shape of the tables in a mode.
struct Shape {
    /// Lowest address bit that selects an entry of the top table.
    top: u32,
    /// Address bits that select an entry of the lower tables.
    index_bits: u32,
    /// Bits of CR3 that are the top table's address.
    root_mask: u64,
}

impl Shape {
    fn of(mode: u64) -> Shape {
        let long = mode & EFER_LMA != 0;
        match (long, mode & CR4_PAE != 0) {
            (true, _) if mode & CR4_LA57 != 0 => Shape {
                top: 48,
                index_bits: 9,
                root_mask: ADDRESS,
            },
            (true, _) => Shape {
                top: 39,
                index_bits: 9,
                root_mask: ADDRESS,
            },
            (false, true) => Shape {
                top: 30,
                index_bits: 9,
                root_mask: 0xffff_ffe0,
            },
            (false, false) => Shape {
                top: 22,
                index_bits: 10,
                root_mask: 0xffff_f000,
            },
        }
    }
}

/// How often a walk is made again because the guest changed an entry under it.
const MAX_TRIES: u32 = 64;

/// Translate `gva`.
///
/// # Errors
/// The guest's tables do not allow the access, or lead to what is not RAM of the guest.
pub(super) fn walk(p2m: &P2m, by: Translation, gva: Gva, access: Access) -> Result<Walk, Fault> {
    for _ in 0..MAX_TRIES {
        if let Some(walk) = try_walk(p2m, by, gva, access)? {
            return Ok(walk);
        }
    }
    Err(Fault)
}

/// [`walk`]; `None`: the guest changed an entry between our reading it and setting bits in it.
fn try_walk(p2m: &P2m, by: Translation, gva: Gva, access: Access) -> Result<Option<Walk>, Fault> {
    let Translation { cr3, mode } = by;
    let mut walk = Walk {
        page: gva.0 >> 12,
        cr3,
        mode,
        generation: p2m.own_generation(),
        ..Walk::NONE
    };
    let linear = if mode & EFER_LMA != 0 {
        canonical(gva, mode)?
    } else {
        gva.0 & 0xffff_ffff
    };
    if mode & CR0_PG == 0 {
        return finish(p2m, walk, Gpa(linear), access).map(Some);
    }
    let shape = Shape::of(mode);
    let mut table = Gpa(cr3 & shape.root_mask);
    let mut shift = shape.top;
    let mut rights = WRITE | USER;
    loop {
        let entry_size = if mode & CR4_PAE != 0 { 8 } else { 4 };
        let index = (linear >> shift) & ((1 << shape.index_bits) - 1);
        let at = table.offset(index * entry_size);
        let backing = ram(p2m, at.frame(), Access::Read)?;
        if !backing.kind.is_own() {
            walk.forget();
        }
        let hpa = backing.mfn.addr().offset(at.page_offset());
        let entry = load(hpa, mode);
        if entry & PRESENT == 0 {
            return Err(Fault);
        }
        let pae_root = mode & EFER_LMA == 0 && shift == 30;
        let leaf = shift == 12 || (entry & LARGE != 0 && !pae_root);
        if !pae_root {
            rights &= entry;
        }
        if leaf {
            check_leaf(entry, shift, mode)?;
            check_rights(rights, mode, access)?;
        } else if mode & CR4_PAE != 0 && mode & EFER_NXE == 0 && entry & NO_EXECUTE != 0 {
            return Err(Fault);
        }
        let wanted = match (pae_root, leaf && access == Access::Write) {
            (true, _) => entry,
            (false, false) => entry | ACCESSED,
            (false, true) => entry | ACCESSED | DIRTY,
        };
        if wanted != entry && !replace(p2m, at, entry, wanted, mode)? {
            return Ok(None);
        }
        let slot = walk.read.get_mut(usize::from(walk.levels)).ok_or(Fault)?;
        *slot = Read {
            at: hpa,
            value: wanted,
        };
        walk.levels += 1;
        if leaf {
            walk.writable = wanted & DIRTY != 0 && check_rights(rights, mode, Access::Write).is_ok();
            let base = page_base(entry, shift, mode);
            return finish(p2m, walk, Gpa(base | linear & ((1 << shift) - 1)), access).map(Some);
        }
        table = Gpa(entry & if mode & CR4_PAE != 0 { ADDRESS } else { 0xffff_f000 });
        shift -= shape.index_bits;
    }
}

/// The last step: from the guest's frame to the machine's.
fn finish(p2m: &P2m, mut walk: Walk, gpa: Gpa, access: Access) -> Result<Walk, Fault> {
    let backing = ram(p2m, gpa.frame(), access)?;
    if !backing.kind.is_own() {
        walk.forget();
    }
    walk.frame = backing.mfn;
    let paged = walk.mode & CR0_PG != 0;
    walk.writable = (walk.writable || !paged) && backing.kind.writable();
    Ok(walk)
}

/// For logs: the entries on the way to an address, from the top table down, as they are in memory, each with the machine frame that it is in. A
/// guest that died of a page fault, or of a translation that went wrong, is explained by them.
pub struct Trace<'a> {
    /// The guest's memory.
    pub p2m: &'a P2m,
    /// How its addresses translate.
    pub translation: Translation,
    /// Which address is asked about.
    pub gva: Gva,
}

impl core::fmt::Display for Trace<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Translation { cr3, mode } = self.translation;
        write!(f, "walk to {:x}:", self.gva.0)?;
        if mode & CR0_PG == 0 {
            return f.write_str(" paging is off");
        }
        let shape = Shape::of(mode);
        let entry_size = if mode & CR4_PAE != 0 { 8 } else { 4 };
        let mut table = Gpa(cr3 & shape.root_mask);
        let mut shift = shape.top;
        loop {
            let index = (self.gva.0 >> shift) & ((1 << shape.index_bits) - 1);
            let at = table.offset(index * entry_size);
            let Ok(backing) = ram(self.p2m, at.frame(), Access::Read) else {
                return write!(f, " {:x} is not RAM", at.0);
            };
            let hpa = backing.mfn.addr().offset(at.page_offset());
            let entry = load(hpa, mode);
            write!(f, " {:x} (mfn {:x}) = {entry:x}", at.0, hpa.frame().0)?;
            let pae_root = mode & EFER_LMA == 0 && shift == 30;
            if entry & PRESENT == 0 || shift == 12 || (entry & LARGE != 0 && !pae_root) {
                return Ok(());
            }
            f.write_str(",")?;
            table = Gpa(entry & if mode & CR4_PAE != 0 { ADDRESS } else { 0xffff_f000 });
            shift -= shape.index_bits;
        }
    }
}

/// Bits above the linear address's width must repeat its highest bit (SDM 1 3.3.7.1).
fn canonical(gva: Gva, mode: u64) -> Result<u64, Fault> {
    let unused = if mode & CR4_LA57 != 0 { 7 } else { 16 };
    let extended = ((gva.0 << unused) as i64 >> unused) as u64;
    if extended == gva.0 { Ok(gva.0) } else { Err(Fault) }
}

/// Reserved bits of an entry that maps a page, and whether the mode has such pages at all.
fn check_leaf(entry: u64, shift: u32, mode: u64) -> Result<(), Fault> {
    if mode & CR4_PAE == 0 {
        return if shift == 12 || mode & CR4_PSE != 0 {
            Ok(())
        } else {
            Err(Fault)
        };
    }
    // Between the PAT bit (12) and the page's address.
    let low = ((1u64 << shift) - 1) & !0x1fff;
    let reserved = if shift > 12 { low } else { 0 } | if mode & EFER_NXE == 0 { NO_EXECUTE } else { 0 };
    if entry & reserved != 0 || shift > 30 {
        Err(Fault)
    } else {
        Ok(())
    }
}

/// SDM 3A 5.6.1; `rights` are the ones that all levels give.
fn check_rights(rights: u64, mode: u64, access: Access) -> Result<(), Fault> {
    let forbidden = if rights & USER != 0 {
        mode & CR4_SMAP != 0 && mode & RFLAGS_AC == 0
    } else {
        mode & Translation::BY_USER != 0
    };
    if forbidden {
        return Err(Fault);
    }
    if access == Access::Write && rights & WRITE == 0 && mode & CR0_WP != 0 {
        return Err(Fault);
    }
    Ok(())
}

/// Guest-physical address of the page that a leaf maps.
fn page_base(entry: u64, shift: u32, mode: u64) -> u64 {
    if mode & CR4_PAE != 0 {
        entry & ADDRESS & !((1 << shift) - 1)
    } else if shift == 22 {
        // PSE-36: bits 13 to 20 are the address's bits 32 to 39.
        entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32
    } else {
        entry & 0xffff_f000
    }
}

/// Set bits in an entry. `false`: it is not what it was.
fn replace(p2m: &P2m, at: Gpa, old: u64, new: u64, mode: u64) -> Result<bool, Fault> {
    let frame = GuestFrame::pin(p2m, at.frame(), Access::Write)?;
    let offset = at.page_offset();
    Ok(if mode & CR4_PAE != 0 {
        frame
            .u64_at(offset)
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    } else {
        frame
            .u32_at(offset)
            .compare_exchange(old as u32, new as u32, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    })
}
