//! Taking over the machine's memory from the boot loader, once, before anything else.
//!
//! dom0's memory is mapped gfn == mfn, so low memory must be free: image and modules move as high below 4 GiB as they can, the image while it
//! runs ([`paging::move_image`]). What is left is given to the frame allocator, and the boot page tables are replaced by the hypervisor's own.
//! Destinations lie in memory that the loader left free, so nothing is overwritten that is still to be moved.

use core::ops::Range;

use arrayvec::ArrayVec;
use boot::Module;
use boot::found::MAX_MODULES;
use bootloader_api::info::{MemoryRegion, MemoryRegionKind};

use crate::mm::phys::RAM_END;
use crate::types::{Mfn, PAGE_SHIFT, PAGE_SIZE};

/// Memory below this is not given out: the BIOS data area, and room for the first instructions of other CPUs.
pub const LOW_KEPT: u64 = 0x1_0000;
/// What the boot page tables map.
const REACH: u64 = 1 << 32;
/// Alignment of the image.
const IMAGE_ALIGN: u64 = 2 << 20;
/// Runs of RAM that are used; RAM beyond is left alone.
pub const MAX_RUNS: usize = 128;

/// Ranges of machine addresses.
pub type Runs = ArrayVec<Range<u64>, MAX_RUNS>;

/// Where image and modules go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The image, in bytes.
    pub image: Range<u64>,
    /// The modules, in their order.
    pub modules: ArrayVec<Module, MAX_MODULES>,
}

/// All RAM of the map below `end`, whoever holds it now; neighbours are joined.
pub fn ram(map: &[MemoryRegion], end: u64) -> Runs {
    let mut runs = Runs::new();
    for region in map {
        let region_end = region.end.min(end);
        let is_ram = matches!(
            region.kind,
            MemoryRegionKind::Usable | MemoryRegionKind::Bootloader
        );
        if !is_ram || region.start >= region_end {
            continue;
        }
        match runs.last_mut() {
            Some(last) if last.end == region.start => last.end = region_end,
            // What has no room is not used, which is safe.
            _ => drop(runs.try_push(region.start..region_end)),
        }
    }
    runs
}

/// Where RAM ends that is used, when it is to end at `wanted`: a page's end, behind all that the boot loader has brought, and not beyond what is mapped.
pub fn ram_end(wanted: u64, image: &Range<u64>, modules: &[Module]) -> u64 {
    let brought = modules.iter().map(|module| module.start + module.len);
    let least = brought.fold(image.end, u64::max).next_multiple_of(PAGE_SIZE);
    (wanted.min(RAM_END) & !(PAGE_SIZE - 1)).max(least)
}

/// Take `hole` out of `runs`.
pub fn remove(runs: &mut Runs, hole: &Range<u64>) {
    let old = core::mem::take(runs);
    for run in old {
        let before = run.start..run.end.min(hole.start).max(run.start);
        let after = run.start.max(hole.end).min(run.end)..run.end;
        for part in [before, after] {
            if !part.is_empty() {
                let _ = runs.try_push(part);
            }
        }
    }
}

/// Take `len` bytes from the highest place of `free` below [`REACH`].
fn take_highest(free: &mut Runs, len: u64, align: u64) -> Option<Range<u64>> {
    let start = free
        .iter()
        .filter_map(|run| {
            let start = run.end.min(REACH).checked_sub(len)? & !(align - 1);
            (start >= run.start && start >= LOW_KEPT).then_some(start)
        })
        .max()?;
    let place = start..start + len;
    remove(free, &place);
    Some(place)
}

/// Where everything should go: up, but below `end`, or nowhere.
pub fn plan(map: &[MemoryRegion], image: &Range<u64>, modules: &[Module], end: u64) -> Plan {
    let mut free = Runs::new();
    for region in map
        .iter()
        .filter(|region| region.kind == MemoryRegionKind::Usable && region.start < end)
    {
        let _ = free.try_push(region.start..region.end.min(end));
    }
    let mut move_up = |from: Range<u64>, align: u64| {
        let len = (from.end - from.start).next_multiple_of(PAGE_SIZE);
        let mut rest = free.clone();
        match take_highest(&mut rest, len, align) {
            Some(place) if place.start > from.start => {
                free = rest;
                place.start
            }
            _ => from.start,
        }
    };
    let start = move_up(image.clone(), IMAGE_ALIGN);
    let image = start..start + (image.end - image.start);
    let modules = modules
        .iter()
        .map(|module| Module {
            start: move_up(module.start..module.start + module.len, PAGE_SIZE),
            ..*module
        })
        .collect();
    Plan { image, modules }
}

/// RAM that nobody holds once the plan is carried out, below and above `limit`.
pub fn free_frames(ram: &Runs, plan: &Plan, range: Range<u64>) -> ArrayVec<Range<Mfn>, MAX_RUNS> {
    let mut free = ram.clone();
    remove(&mut free, &(0..range.start.max(LOW_KEPT)));
    remove(&mut free, &(range.end..u64::MAX));
    let pages = |start: u64, end: u64| start & !(PAGE_SIZE - 1)..end.next_multiple_of(PAGE_SIZE);
    remove(&mut free, &pages(plan.image.start, plan.image.end));
    for module in &plan.modules {
        remove(&mut free, &pages(module.start, module.start + module.len));
    }
    free.iter()
        .map(|run| Mfn(run.start.div_ceil(PAGE_SIZE))..Mfn(run.end >> PAGE_SHIFT))
        .filter(|run| run.start < run.end)
        .collect()
}

/// The pages that `module` does not share.
pub fn whole_pages(module: &Module) -> Range<Mfn> {
    let end = Mfn((module.start + module.len) >> PAGE_SHIFT);
    Mfn(module.start.div_ceil(PAGE_SIZE)).min(end)..end
}

#[cfg(target_os = "none")]
pub use machine::take_over;

#[cfg(target_os = "none")]
mod machine {
    // UNSAFETY: moves memory, replaces the page tables.
    #![expect(unsafe_code, reason = "moves memory, replaces the page tables")]

    use arrayvec::ArrayVec;
    use boot::Handover;
    use boot::entry::layout;
    use boot::layout::IMAGE_BASE;
    use bootloader_api::info::{MemoryRegion, MemoryRegionKind};

    use super::{
        MAX_MODULES, PAGE_SHIFT, PAGE_SIZE, Plan, REACH, Runs, free_frames, plan, ram, ram_end, remove,
        whole_pages,
    };
    use crate::mm::paging::{self, Access, OutOfMemory, Tables};
    use crate::mm::{frames, phys};
    use crate::types::Hpa;

    /// Firmware's table of contents for ACPI lies here on a BIOS (ACPI 6.5, 5.2.5.1).
    const BIOS: core::ops::Range<u64> = 0xe_0000..0x10_0000;

    /// Carry it all out. `handover` names the new places then. RAM from `end` on is not used.
    ///
    /// # Errors
    /// When there is not even memory for page tables.
    ///
    /// # Safety
    /// Called once, first thing, on the boot page tables, with the loader's true map; nobody holds pointers into modules.
    pub unsafe fn take_over(
        map: &[MemoryRegion],
        handover: &Handover,
        end: u64,
    ) -> Result<(Plan, Runs), OutOfMemory> {
        let end = ram_end(end, &handover.image, handover.modules);
        let plan = plan(map, &handover.image, handover.modules, end);
        let ram = ram(map, end);
        for (old, new) in handover.modules.iter().zip(&plan.modules) {
            // SAFETY: the new place is free memory below 4 GiB, or the old one.
            unsafe {
                core::ptr::copy(
                    phys::ptr(Hpa(old.start)),
                    phys::ptr(Hpa(new.start)),
                    old.len as usize,
                )
            };
        }
        let old = handover.image.start & !(PAGE_SIZE - 1)..handover.image.end.next_multiple_of(PAGE_SIZE);
        let moves = plan.image.start != handover.image.start;
        let mut still_free = ram.clone();
        if moves {
            remove(&mut still_free, &old);
        }
        let low = free_frames(&still_free, &plan, 0..REACH);
        let old_image = Hpa(old.start).frame()..Hpa(old.end).frame();
        let later: ArrayVec<_, { MAX_MODULES + 1 }> =
            plan.modules.iter().map(whole_pages).chain([old_image]).collect();
        // SAFETY: RAM that holds nothing any more; the image where it still runs is not part of it.
        unsafe { frames::init(&low, &later) };
        let tables = build(map, &ram, plan.image.start)?;
        paging::enable_protections();
        let len = if moves {
            plan.image.end - plan.image.start
        } else {
            0
        };
        // SAFETY: the tables map the image at the new place, and the direct map at least as far as now but for devices, of which
        // none is in use. The console's lock is not held.
        unsafe { paging::move_image(Hpa(handover.image.start), Hpa(plan.image.start), len, &tables) };
        if moves {
            let count = (old.end - old.start) >> PAGE_SHIFT;
            // SAFETY: nothing runs there any more. (Where it does not belong to any zone it is not worth one.)
            let _ = unsafe { frames::add(Hpa(old.start).frame(), count) };
        }
        paging::adopt(tables);
        let high = free_frames(&ram, &plan, REACH..u64::MAX);
        // SAFETY: RAM above 4 GiB, which is mapped now and was nobody's.
        unsafe { frames::init(&high, &[]) };
        Ok((plan, ram))
    }

    /// The hypervisor's page tables, for an image at `image`.
    fn build(map: &[MemoryRegion], ram: &Runs, image: u64) -> Result<Tables, OutOfMemory> {
        let huge = raw_cpuid::CpuId::new()
            .get_extended_processor_and_feature_identifiers()
            .is_some_and(|features| features.has_1gib_pages());
        let tables = Tables::new(huge)?;
        let direct = |range: core::ops::Range<u64>, access| {
            tables.map(
                phys::DIRECT_MAP + range.start,
                Hpa(range.start),
                range.end - range.start,
                access,
            )
        };
        for run in ram {
            direct(run.clone(), Access::Write)?;
        }
        // Firmware's tables, to be read.
        for region in map.iter().filter(|region| {
            use boot::memory::e820::{ACPI, NVS};
            matches!(region.kind, MemoryRegionKind::UnknownBios(ACPI | NVS))
        }) {
            direct(region.start..region.end, Access::Read)?;
        }
        direct(BIOS, Access::Read)?;
        let layout = layout();
        let part = |range: core::ops::Range<u64>, access| {
            let len = range.end.saturating_sub(range.start).next_multiple_of(PAGE_SIZE);
            tables.map(range.start, Hpa(image + (range.start - IMAGE_BASE)), len, access)
        };
        part(layout.boot.clone(), Access::Read)?;
        part(layout.text.clone(), Access::Execute)?;
        part(layout.rodata.clone(), Access::Read)?;
        part(layout.data.start..layout.stack_guard.start, Access::Write)?;
        part(layout.stack_guard.end..layout.data.end, Access::Write)?;
        part(layout.symbols.clone(), Access::Read)?;
        Ok(tables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn region(start: u64, end: u64, kind: MemoryRegionKind) -> MemoryRegion {
        MemoryRegion { start, end, kind }
    }

    fn module(start: u64, len: u64) -> Module {
        Module {
            start,
            len,
            command_line: "",
        }
    }

    #[test]
    fn everything_moves_to_the_top_of_low_memory() {
        use MemoryRegionKind::{Bootloader, UnknownBios, Usable};
        let map = [
            region(0x1000, 0x9_f000, Usable),
            region(0x10_0000, 0x20_0000, Usable),
            region(0x20_0000, 0x40_0000, Bootloader),
            region(0x40_0000, 0x3000_0000, Usable),
            region(0x3000_0000, 0x3100_0000, UnknownBios(2)),
            region(1 << 32, 2 << 32, Usable),
        ];
        let modules = [module(0x30_0000, 0x8_0001)];
        let plan = plan(&map, &(0x20_0000..0x2f_f123), &modules, u64::MAX);
        assert_eq!(plan.image, 0x2fe0_0000..0x2fef_f123);
        // In the 3 pages short of a MiB between the image and the end of memory.
        assert_eq!(plan.modules[0].start, 0x3000_0000 - 0x8_1000);
        let ram = ram(&map, u64::MAX);
        assert_eq!(
            ram.as_slice(),
            [0x1000..0x9_f000, 0x10_0000..0x3000_0000, 1 << 32..2 << 32]
        );
        let low = free_frames(&ram, &plan, 0..REACH);
        assert_eq!(low[0], Mfn(0x10)..Mfn(0x9f));
        assert_eq!(low[1], Mfn(0x100)..Mfn(0x2fe00));
        let high = free_frames(&ram, &plan, REACH..u64::MAX);
        assert_eq!(high.as_slice(), [Mfn(1 << 20)..Mfn(2 << 20)]);
        assert_eq!(whole_pages(&plan.modules[0]), Mfn(0x2_ff7f)..Mfn(0x2_ffff));
        assert!(whole_pages(&module(0x1234, 0x1000)).is_empty());
    }

    #[test]
    fn memory_can_end_earlier() {
        use MemoryRegionKind::{Bootloader, Usable};
        let map = [
            region(0x10_0000, 0x20_0000, Bootloader),
            region(0x20_0000, 0x3000_0000, Usable),
            region(1 << 32, 2 << 32, Usable),
        ];
        let image = 0x10_0000..0x18_0000;
        let end = ram_end(0x1000_0800, &image, &[]);
        let runs = ram(&map, end);
        assert_eq!((runs.len(), &runs[0]), (1, &(0x10_0000..0x1000_0000)));
        assert_eq!(plan(&map, &image, &[], end).image, 0xfe0_0000..0xfe8_0000);
        let modules = [module(0x1_0000_0000, 0x1001)];
        assert_eq!(
            ram_end(4096, &image, &modules),
            0x1_0000_2000,
            "not before what was loaded"
        );
        assert_eq!(ram_end(u64::MAX, &image, &modules), RAM_END);
    }

    #[test]
    fn what_is_high_already_stays() {
        use MemoryRegionKind::{Bootloader, Usable};
        let map = [
            region(0x10_0000, 0x7e0_0000, Usable),
            region(0x7e0_0000, 0x800_0000, Bootloader),
        ];
        let image = 0x7e0_0000..0x7f0_0000;
        assert_eq!(plan(&map, &image, &[], u64::MAX).image, image);
    }

    proptest! {
        /// Nothing is planned onto anything else, new or old, and all of it is in RAM; the free frames are the rest.
        #[test]
        fn plans_do_not_collide(sizes in prop::collection::vec(1u64..0x40_0000, 0..6), holes in prop::collection::vec(1u64..0x100, 6)) {
            let mut map = Vec::new();
            let (mut at, mut modules) = (0x10_0000u64, Vec::new());
            let mut occupied = Vec::new();
            for (index, (size, hole)) in sizes.iter().chain([&0x12_3456]).zip(holes.iter().chain([&9])).enumerate() {
                map.push(region(at, at + hole * PAGE_SIZE, MemoryRegionKind::Usable));
                at += hole * PAGE_SIZE;
                let end = (at + size).next_multiple_of(PAGE_SIZE);
                map.push(region(at, end, MemoryRegionKind::Bootloader));
                occupied.push(at..end);
                if index < sizes.len() {
                    modules.push(module(at, *size));
                }
                at = end;
            }
            map.push(region(at, at + 0x200_0000, MemoryRegionKind::Usable));
            let image = occupied.last().unwrap().clone();
            let plan = plan(&map, &image, &modules, u64::MAX);
            let mut places: Vec<_> = plan.modules.iter().map(|m| (m.start, m.start + m.len)).collect();
            places.push((plan.image.start, plan.image.end));
            let old: Vec<_> = modules.iter().map(|m| m.start).chain([image.start]).collect();
            for (index, &(start, end)) in places.iter().enumerate() {
                prop_assert!(start >= old[index]);
                for (other, taken) in occupied.iter().enumerate() {
                    prop_assert!(start == old[index] && other == index || end <= taken.start || start >= taken.end);
                }
                for &(s, e) in &places[..index] {
                    prop_assert!(end <= s || start >= e);
                }
                for run in free_frames(&ram(&map, u64::MAX), &plan, 0..REACH) {
                    prop_assert!(run.end.addr().0 <= start || run.start.addr().0 >= end);
                }
            }
        }
    }
}
