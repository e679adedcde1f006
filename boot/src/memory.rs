//! The machine's memory map: from the loader's raw list to sorted regions without overlaps, on page boundaries.

use arrayvec::ArrayVec;
use bootloader_api::info::{MemoryRegion, MemoryRegionKind};

use crate::found::{BootError, Physical};

/// Room for the raw list and for the result.
pub const MAX_REGIONS: usize = 512;
/// Size of a page; regions are rounded to it.
pub const PAGE: u64 = 4096;

/// E820 types (ACPI 6.5, table 15.9), used as `MemoryRegionKind::UnknownBios` on UEFI as well.
pub mod e820 {
    /// Ordinary memory.
    pub const RAM: u32 = 1;
    /// Not for us.
    pub const RESERVED: u32 = 2;
    /// ACPI tables.
    pub const ACPI: u32 = 3;
    /// To be kept over sleep.
    pub const NVS: u32 = 4;
    /// Broken memory.
    pub const UNUSABLE: u32 = 5;
}

/// The raw list while it is collected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionList(ArrayVec<MemoryRegion, MAX_REGIONS>);

impl RegionList {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds `len` bytes from `start` of an E820 type.
    ///
    /// # Errors
    /// When the list is full.
    pub fn add_e820(&mut self, start: u64, len: u64, e820_type: u32) -> Result<(), BootError> {
        let kind = match e820_type {
            e820::RAM => MemoryRegionKind::Usable,
            other => MemoryRegionKind::UnknownBios(other),
        };
        self.add(start, len, kind)
    }

    /// Adds memory that is occupied, if it is usable memory at all.
    ///
    /// # Errors
    /// When the list is full.
    pub fn occupy(&mut self, start: u64, len: u64) -> Result<(), BootError> {
        self.add(start, len, MemoryRegionKind::Bootloader)
    }

    fn add(&mut self, start: u64, len: u64, kind: MemoryRegionKind) -> Result<(), BootError> {
        let end = start.saturating_add(len);
        // Usable memory shrinks to whole pages, everything else grows.
        let (start, end) = if kind == MemoryRegionKind::Usable {
            (
                start.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX),
                end & !(PAGE - 1),
            )
        } else {
            (
                start & !(PAGE - 1),
                end.checked_next_multiple_of(PAGE).unwrap_or(!(PAGE - 1)),
            )
        };
        if start >= end {
            return Ok(());
        }
        // UEFI reports hundreds of neighbours of one kind.
        if let Some(last) = self
            .0
            .last_mut()
            .filter(|last| last.kind == kind && last.end == start)
        {
            last.end = end;
            return Ok(());
        }
        self.0
            .try_push(MemoryRegion { start, end, kind })
            .map_err(|_| BootError::TooManyRegions)
    }

    /// Writes the final map to `out`: sorted, no overlaps, neighbours of one kind joined. Where the loader
    /// contradicts itself the less useful kind wins.
    ///
    /// # Errors
    /// When `out` is full.
    pub fn resolve(&self, out: &mut ArrayVec<MemoryRegion, MAX_REGIONS>) -> Result<(), BootError> {
        let mut edges = ArrayVec::<u64, { 2 * MAX_REGIONS }>::new();
        edges.extend(self.0.iter().flat_map(|region| [region.start, region.end]));
        edges.sort_unstable();
        out.clear();
        for (&start, &end) in edges.iter().zip(edges.iter().skip(1)) {
            let Some(kind) = self.kind_between(start, end) else {
                continue;
            };
            match out.last_mut() {
                Some(last) if last.end == start && last.kind == kind => last.end = end,
                _ => out
                    .try_push(MemoryRegion { start, end, kind })
                    .map_err(|_| BootError::TooManyRegions)?,
            }
        }
        Ok(())
    }

    /// The kind of an interval that no region's edge divides.
    fn kind_between(&self, start: u64, end: u64) -> Option<MemoryRegionKind> {
        if start == end {
            return None;
        }
        let covering = || {
            self.0
                .iter()
                .filter(move |r| r.start <= start && end <= r.end)
                .map(|r| r.kind)
        };
        let foreign = covering().filter_map(|kind| match kind {
            MemoryRegionKind::UnknownBios(e820_type) => Some(e820_type),
            _ => None,
        });
        if let Some(e820_type) = foreign.max() {
            return Some(MemoryRegionKind::UnknownBios(e820_type));
        }
        let usable = covering().any(|kind| kind == MemoryRegionKind::Usable);
        let occupied = covering().any(|kind| kind == MemoryRegionKind::Bootloader);
        match (usable, occupied) {
            (true, true) => Some(MemoryRegionKind::Bootloader),
            (true, false) => Some(MemoryRegionKind::Usable),
            (false, _) => None,
        }
    }
}

/// Looks for ACPI's root pointer where BIOSes put it: the first KiB of the extended BIOS data area and
/// 0xE0000..0x100000 (ACPI 6.5, 5.2.5.1). There may be an old one beside it. Yields their physical addresses.
pub fn find_rsdps(memory: &impl Physical) -> impl Iterator<Item = u64> {
    let ebda = memory
        .bytes(0x40e, 2)
        .and_then(|bytes| <[u8; 2]>::try_from(bytes).ok())
        .map(|segment| u64::from(u16::from_le_bytes(segment)) << 4)
        .filter(|&at| (0x400..0xa_0000).contains(&at));
    let in_ebda = ebda.into_iter().flat_map(|at| (at..at + 1024).step_by(16));
    in_ebda.chain((0xe_0000..0x10_0000).step_by(16)).filter(|&at| {
        memory.bytes(at, 20).is_some_and(|rsdp| {
            rsdp.starts_with(b"RSD PTR ") && rsdp.iter().fold(0u8, |sum, &b| sum.wrapping_add(b)) == 0
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::tests::Pieces;
    use MemoryRegionKind::{Bootloader, UnknownBios, Usable};
    use proptest::prelude::*;

    fn resolved(list: &RegionList) -> Vec<(u64, u64, MemoryRegionKind)> {
        let mut out = ArrayVec::new();
        list.resolve(&mut out).unwrap();
        out.iter().map(|r| (r.start, r.end, r.kind)).collect()
    }

    #[test]
    fn image_and_modules_are_cut_out_of_usable_memory_only() {
        let mut list = RegionList::new();
        list.add_e820(0x10_0000, 0x70_0000, e820::RAM).unwrap();
        list.add_e820(0, 0x9_fc00, e820::RAM).unwrap();
        list.add_e820(0x9_fc00, 0x400, e820::RESERVED).unwrap();
        list.occupy(0x20_0000, 0x1001).unwrap();
        list.occupy(0x7f_f000, 0x2000).unwrap();
        assert_eq!(
            resolved(&list),
            [
                (0, 0x9_f000, Usable),
                (0x9_f000, 0xa_0000, UnknownBios(e820::RESERVED)),
                (0x10_0000, 0x20_0000, Usable),
                (0x20_0000, 0x20_2000, Bootloader),
                (0x20_2000, 0x7f_f000, Usable),
                (0x7f_f000, 0x80_0000, Bootloader),
            ]
        );
    }

    #[test]
    fn root_pointer_needs_its_checksum() {
        let mut rsdp = b"RSD PTR \0OXEN  \0\0\0\0\0".to_vec();
        let sum = rsdp.iter().fold(0u8, |sum, &b| sum.wrapping_add(b));
        rsdp[8] = 0u8.wrapping_sub(sum);
        let mut bios = vec![0; 0x2_0000];
        bios[0x1230..0x1230 + 20].copy_from_slice(&rsdp);
        bios[0x1_0000..0x1_0000 + 20].copy_from_slice(&rsdp);
        let found =
            |bios: &[u8]| -> Vec<u64> { find_rsdps(&Pieces(vec![(0xe_0000, bios.to_vec())])).collect() };
        assert_eq!(found(&bios), [0xe_1230, 0xf_0000]);
        bios[0x1239] ^= 1;
        assert_eq!(found(&bios), [0xf_0000]);
    }

    proptest! {
        #[test]
        fn maps_are_sorted_disjoint_and_honest(
            raw in proptest::collection::vec((0u64..64, 0u64..16, 1u32..6), 1..40),
            holes in proptest::collection::vec((0u64..64, 0u64..8), 0..8),
        ) {
            let mut list = RegionList::new();
            for &(start, len, kind) in &raw {
                list.add_e820(start * PAGE, len * PAGE, kind).unwrap();
            }
            for &(start, len) in &holes {
                list.occupy(start * PAGE, len * PAGE).unwrap();
            }
            let map = resolved(&list);
            for pair in map.windows(2) {
                prop_assert!(pair[0].1 <= pair[1].0);
                prop_assert!(pair[0].1 < pair[1].0 || pair[0].2 != pair[1].2);
            }
            for page in 0..80 {
                let in_page = |start: u64, len: u64| (start..start + len).contains(&page);
                let kinds: Vec<u32> = raw.iter().filter(|r| in_page(r.0, r.1)).map(|r| r.2).collect();
                let occupied = holes.iter().any(|h| in_page(h.0, h.1));
                let expected = match kinds.iter().max() {
                    None => None,
                    Some(&e820::RAM) if occupied => Some(Bootloader),
                    Some(&e820::RAM) => Some(Usable),
                    Some(&worst) => Some(UnknownBios(worst)),
                };
                let at = page * PAGE;
                let found = map.iter().find(|r| (r.0..r.1).contains(&at)).map(|r| r.2);
                prop_assert_eq!(found, expected);
            }
        }
    }
}
