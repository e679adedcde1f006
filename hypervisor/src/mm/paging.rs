//! The hypervisor's own page tables.
//!
//! | from                    | what                                         | access            |
//! |-------------------------|----------------------------------------------|-------------------|
//! | [`DIRECT_MAP`]          | RAM, in the largest pages; devices on demand | read, write       |
//! | [`STACKS`]              | stacks, a page left out below each           | read, write       |
//! | `IMAGE_BASE`            | the image, by its parts                      | never write + execute |
//!
//! The lower half is empty. All entries are global, since the tables never change with the guest.
// UNSAFETY: page tables, control registers.
#![expect(unsafe_code, reason = "page tables, control registers")]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::phys::{DIRECT_MAP, entry};
use super::{frames, phys};
use crate::sync::{Mutex, Rank};
use crate::types::{Hpa, Mfn, PAGE_SIZE};

/// Where stacks are mapped.
pub const STACKS: u64 = 0xffff_c000_0000_0000;

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What may be done with a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Read only.
    Read,
    /// Read and execute.
    Execute,
    /// Read and write.
    Write,
    /// Device registers: read and write, not cached.
    Device,
}

impl Access {
    const fn bits(self) -> u64 {
        PRESENT
            | GLOBAL
            | match self {
                Access::Read => NO_EXECUTE,
                Access::Execute => 0,
                Access::Write => NO_EXECUTE | WRITE,
                Access::Device => NO_EXECUTE | WRITE | CACHE_DISABLE | WRITE_THROUGH,
            }
    }
}

/// No frame for another page table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

/// A tree of four levels.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    root: Mfn,
    /// Leaves of 1 GiB may be used.
    huge: bool,
}

impl Tables {
    /// An empty tree.
    ///
    /// # Errors
    /// When there is no frame.
    pub fn new(huge: bool) -> Result<Self, OutOfMemory> {
        Ok(Self { root: table()?, huge })
    }

    /// The root, for CR3.
    pub fn root(&self) -> Mfn {
        self.root
    }

    /// Map `len` bytes at `virt` to `phys`, all multiples of 4 KiB, with as large pages as alignment allows. What is mapped already stays
    /// as it is.
    ///
    /// # Errors
    /// When there is no frame for a table; what was mapped until then stays.
    pub fn map(&self, virt: u64, phys: Hpa, len: u64, access: Access) -> Result<(), OutOfMemory> {
        let mut done = 0;
        while done < len {
            let (virt, phys) = (virt + done, phys.0 + done);
            let fits = |shift: u32| (virt | phys).is_multiple_of(1 << shift) && len - done >= 1 << shift;
            let level = match access {
                Access::Device => 0,
                _ if self.huge && fits(30) => 2,
                _ if fits(21) => 1,
                _ => 0,
            };
            done += self.map_one(virt, phys, level, access)?;
        }
        Ok(())
    }

    /// Map one page of a level (0: 4 KiB). Returns the bytes at `virt` that are mapped now.
    fn map_one(&self, virt: u64, phys: u64, leaf: u32, access: Access) -> Result<u64, OutOfMemory> {
        let mut at = self.root;
        for level in (leaf + 1..4).rev() {
            let slot = slot(at, virt, level);
            let value = slot.load(Relaxed);
            if value & PRESENT != 0 && level < 3 && value & LARGE != 0 {
                return Ok((1 << (12 + 9 * level)) - (virt & ((1 << (12 + 9 * level)) - 1)));
            }
            at = if value & PRESENT != 0 {
                Hpa(value & ADDRESS).frame()
            } else {
                let next = table()?;
                slot.store(next.addr().0 | PRESENT | WRITE, Relaxed);
                next
            };
        }
        let slot = slot(at, virt, leaf);
        if slot.load(Relaxed) & PRESENT == 0 {
            slot.store(phys | access.bits() | if leaf > 0 { LARGE } else { 0 }, Relaxed);
        } else if leaf > 0 && slot.load(Relaxed) & LARGE == 0 {
            // Smaller pages are here already: fill in the rest.
            return self.map_one(virt, phys, leaf - 1, access);
        }
        Ok(1 << (12 + 9 * leaf))
    }

    /// What `virt` is mapped to, and the entry's bits.
    pub fn translate(&self, virt: u64) -> Option<(Hpa, u64)> {
        let mut at = self.root;
        for level in (0..4).rev() {
            let value = slot(at, virt, level).load(Relaxed);
            if value & PRESENT == 0 {
                return None;
            }
            if level == 0 || level < 3 && value & LARGE != 0 {
                let within = (1u64 << (12 + 9 * level)) - 1;
                return Some((Hpa((value & ADDRESS & !within) | (virt & within)), value));
            }
            at = Hpa(value & ADDRESS).frame();
        }
        None
    }
}

fn slot<'a>(table: Mfn, virt: u64, level: u32) -> &'a AtomicU64 {
    // SAFETY: `table` is a table of this tree; they are never freed.
    unsafe { entry(table, (virt >> (12 + 9 * level)) as usize % phys::ENTRIES) }
}

/// A frame for a table. Below 4 GiB: the boot page tables reach no further, and a CPU that starts has a 32-bit CR3.
fn table() -> Result<Mfn, OutOfMemory> {
    let frame = frames::alloc_low(0).ok_or(OutOfMemory)?;
    // SAFETY: just allocated.
    unsafe { phys::zero(frame, 1) };
    Ok(frame)
}

/// The tables in use, and the next free place for a stack.
static CURRENT: Mutex<Option<(Tables, u64)>> = Mutex::new(Rank::Paging, None);

/// Take these tables for [`map_mmio`] and [`new_stack`] from now on.
pub fn adopt(tables: Tables) {
    *CURRENT.lock() = Some((tables, STACKS));
}

/// Tables for a CPU that starts: as those in use, and the first 2 MiB at their own addresses, to be executed.
///
/// # Errors
/// When there is no memory.
pub fn startup_tables() -> Result<Tables, OutOfMemory> {
    let current = *CURRENT.lock();
    let (current, _) = current.ok_or(OutOfMemory)?;
    let tables = Tables::new(false)?;
    for index in phys::ENTRIES / 2..phys::ENTRIES {
        // SAFETY: both are roots of trees; tables are never freed.
        let (from, to) = unsafe { (entry(current.root, index), entry(tables.root, index)) };
        to.store(from.load(Relaxed), Relaxed);
    }
    tables.map(0, Hpa(0), 2 << 20, Access::Execute)?;
    Ok(tables)
}

/// Have this CPU use the tables in use, and nothing of those before.
///
/// # Safety
/// Nothing is reached through the lower half.
#[cfg(target_os = "none")]
pub unsafe fn load() {
    use x86_64::PhysAddr;
    use x86_64::registers::control::{Cr3, Cr3Flags};
    use x86_64::structures::paging::PhysFrame;
    if let Some((tables, _)) = *CURRENT.lock() {
        let root = PhysFrame::containing_address(PhysAddr::new(tables.root.addr().0));
        // SAFETY: the upper half is mapped as it is on all CPUs; the caller answers for the lower one.
        unsafe { Cr3::write(root, Cr3Flags::empty()) };
    }
}

/// Map a device's registers, `len` bytes from `at` on; returns a pointer to the first. They stay mapped.
///
/// # Panics
/// If there is no memory for a page table: devices are mapped at boot.
pub fn map_mmio(at: Hpa, len: u64) -> *mut u8 {
    let start = at.0 & !(PAGE_SIZE - 1);
    let end = (at.0 + len).next_multiple_of(PAGE_SIZE);
    if let Some((tables, _)) = *CURRENT.lock() {
        let mapped = tables.map(DIRECT_MAP + start, Hpa(start), end - start, Access::Device);
        assert!(mapped.is_ok(), "no memory to map the device at {at}");
    }
    phys::ptr(at)
}

/// Make a stack of `pages` pages, with unmapped pages around it; returns its end.
///
/// # Errors
/// When there is no memory.
pub fn new_stack(pages: u64) -> Result<u64, OutOfMemory> {
    let mut current = CURRENT.lock();
    let (tables, next) = current.as_mut().ok_or(OutOfMemory)?;
    let bottom = *next + PAGE_SIZE;
    for page in 0..pages {
        let frame = frames::alloc_zeroed(0).ok_or(OutOfMemory)?;
        tables.map(bottom + page * PAGE_SIZE, frame.addr(), PAGE_SIZE, Access::Write)?;
    }
    *next = bottom + pages * PAGE_SIZE;
    Ok(*next)
}

/// Features of the CPU that protect the hypervisor from itself and from guests' data; those that exist are on after this.
#[cfg(target_os = "none")]
pub fn enable_protections() {
    use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags};
    use x86_64::registers::model_specific::Msr;
    /// IA32_PAT as it is after reset, which our tables' bits mean (SDM 3A, 12.12.4); firmware or a boot loader may have changed it.
    const PAT: u32 = 0x277;
    const PAT_AFTER_RESET: u64 = 0x0007_0406_0007_0406;
    let features = raw_cpuid::CpuId::new().get_extended_feature_info();
    let (smep, smap, umip) = features.map_or((false, false, false), |f| {
        (f.has_smep(), f.has_smap(), f.has_umip())
    });
    // SAFETY: every 64-bit CPU has the PAT; the hypervisor has no user mappings, so that SMEP and SMAP forbid nothing it does; its tables honour NX, WP and PGE.
    unsafe {
        Msr::new(PAT).write(PAT_AFTER_RESET);
        Efer::update(|efer| efer.insert(EferFlags::NO_EXECUTE_ENABLE));
        Cr0::update(|cr0| {
            cr0.insert(Cr0Flags::WRITE_PROTECT);
            cr0.insert(Cr0Flags::NUMERIC_ERROR);
        });
        Cr4::update(|cr4| {
            cr4.insert(Cr4Flags::PAGE_GLOBAL);
            // Else an error of the hardware is a shutdown, of which nobody learns (SDM 3B 16.1).
            cr4.insert(Cr4Flags::MACHINE_CHECK_EXCEPTION);
            cr4.set(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, smep);
            cr4.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, smap);
            cr4.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, umip);
        });
    }
}

/// What [`enable_protections`] has turned on, for the boot log.
#[cfg(target_os = "none")]
pub fn protections() -> &'static str {
    use x86_64::registers::control::{Cr4, Cr4Flags};
    let on = |flag| Cr4::read().contains(flag);
    let smep = on(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION);
    let smap = on(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION);
    let umip = on(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION);
    match (smep, smap, umip) {
        (true, true, true) => "NX, WP, SMEP, SMAP, UMIP",
        (true, true, false) => "NX, WP, SMEP, SMAP",
        (true, false, _) => "NX, WP, SMEP",
        _ => "NX, WP",
    }
}

/// Copy the image to `to` and go on there: one block of code, because what is written after the copy would be lost.
///
/// # Safety
/// `from` and `to`, `len` bytes rounded up to eight, do not overlap, are reached through the direct map in the present tables, and nobody has `to`. `tables` map the image's
/// addresses to `to`, and the direct map as the present ones do. No lock is held.
#[cfg(target_os = "none")]
pub unsafe fn move_image(from: Hpa, to: Hpa, len: u64, tables: &Tables) {
    // SAFETY: the caller's promise: the copy has all that is in the original when CR3 is loaded, this code and its stack included,
    // at the same virtual addresses. CR4.PGE is cleared around the switch to drop global entries.
    unsafe {
        core::arch::asm!(
            "pushfq",
            "cli",
            "mov {cr4}, cr4",
            "mov {scratch}, {cr4}",
            "and {scratch}, ~0x80",
            "mov cr4, {scratch}",
            "cld",
            "rep movsq",
            "mov cr3, {root}",
            "mov cr4, {cr4}",
            "popfq",
            cr4 = out(reg) _,
            scratch = out(reg) _,
            root = in(reg) tables.root().addr().0,
            inout("rsi") phys::ptr(from) => _,
            inout("rdi") phys::ptr(to) => _,
            inout("rcx") len.div_ceil(8) => _,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_large_page_is_filled_around_what_is_there() {
        let tables = Tables::new(true).unwrap();
        let base = DIRECT_MAP + (5 << 30);
        tables
            .map(base + 0x3000, Hpa(0xfee0_0000), 0x1000, Access::Device)
            .unwrap();
        tables.map(base, Hpa(5 << 30), 1 << 30, Access::Write).unwrap();
        assert_eq!(tables.translate(base + 0x3010).unwrap().0, Hpa(0xfee0_0010));
        assert_eq!(
            tables.translate(base + 0x4010).unwrap().0,
            Hpa((5 << 30) + 0x4010)
        );
        assert_eq!(
            tables.translate(base + (1 << 30) - 1).unwrap().0,
            Hpa((6 << 30) - 1)
        );
        assert_eq!(tables.translate(base + (1 << 30)), None);
    }

    #[test]
    fn nothing_is_writable_and_executable() {
        for access in [Access::Read, Access::Execute, Access::Write, Access::Device] {
            let bits = access.bits();
            assert!(bits & WRITE == 0 || bits & NO_EXECUTE != 0, "{access:?}");
            assert_eq!(bits & NO_EXECUTE == 0, access == Access::Execute);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Every byte of a mapping goes where it should, and its neighbours nowhere.
        #[test]
        fn maps_exactly_what_is_asked(
            start in 0u64..4096, offset in 0u64..4096, pages in 1u64..2000, huge in any::<bool>(),
            at in 0u64..2000,
        ) {
            let tables = Tables::new(huge).unwrap();
            let virt = STACKS + start * PAGE_SIZE;
            let phys = Hpa((start + offset) * PAGE_SIZE);
            tables.map(virt, phys, pages * PAGE_SIZE, Access::Write).unwrap();
            let at = at % pages * PAGE_SIZE + 7;
            prop_assert_eq!(tables.translate(virt + at).unwrap().0, phys.offset(at));
            prop_assert_eq!(tables.translate(virt + pages * PAGE_SIZE), None);
            prop_assert_eq!(tables.translate(virt.wrapping_sub(1)), None);
        }
    }
}
