//! Frames of a PVH domU that are given memory, and the special ones among them (as libxl lays them out; the rest of
//! the layout is in `pvh::layout`).

use core::ops::Range;

use abi::start_info::{HvmMemmapTableEntry, XEN_HVM_MEMMAP_TYPE_UNUSABLE};
use pvh::layout::{SPECIAL_END, SPECIAL_START};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Frames of the special pages, from the paging ring to the console.
pub const SPECIAL: Range<u64> = SPECIAL_START / PAGE..SPECIAL_END / PAGE;
/// Memory-event rings, which the hypervisor is told of and nobody uses.
pub const PAGING_RING: u64 = SPECIAL.start;
/// See [`PAGING_RING`].
pub const MONITOR_RING: u64 = SPECIAL.start + 1;
/// See [`PAGING_RING`].
pub const SHARING_RING: u64 = SPECIAL.start + 2;
/// Buffered I/O requests.
pub const BUFFERED_IOREQ: u64 = SPECIAL.start + 3;
/// I/O requests.
pub const IOREQ: u64 = SPECIAL.start + 5;

/// The frames that every entry of a domU's memory map needs memory behind: RAM, ACPI tables, special pages.
pub fn populated(map: &[HvmMemmapTableEntry]) -> impl Iterator<Item = Range<u64>> {
    map.iter()
        .filter(|entry| entry.type_ != XEN_HVM_MEMMAP_TYPE_UNUSABLE)
        .map(|entry| entry.addr / PAGE..(entry.addr + entry.size).div_ceil(PAGE))
}

/// The largest blocks that cover frames `start..end`: `(first frame, order)` with the orders of 1 GiB, 2 MiB and
/// 4 KiB pages.
pub fn blocks(frames: Range<u64>) -> impl Iterator<Item = (u64, u32)> {
    let mut at = frames.start;
    core::iter::from_fn(move || {
        let left = frames.end.checked_sub(at).filter(|&left| left > 0)?;
        let fits = |order: &u32| at.is_multiple_of(1 << order) && left >= 1 << order;
        let order = [18, 9].into_iter().find(fits).unwrap_or(0);
        let block = (at, order);
        at += 1 << order;
        Some(block)
    })
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_and_large_guests() {
        let orders: Vec<_> = blocks(0..0x4_0201).map(|(_, order)| order).collect();
        assert_eq!(orders, [18, 9, 0]);
        let map = pvh::layout::domu_memory_map(5 << 30);
        let frames: u64 = populated(&map).map(|range| range.end - range.start).sum();
        assert_eq!(frames, (5 << 18) + 8 + 17);
        assert!(populated(&map).any(|range| range == SPECIAL));
        assert_eq!(pvh::layout::STORE_GFN, SPECIAL.start + 4);
    }

    proptest! {
        #[test]
        fn blocks_cover_the_range_once(start in 0u64..1 << 20, length in 0u64..1 << 12) {
            let mut at = start;
            for (frame, order) in blocks(start..start + length) {
                prop_assert_eq!(frame, at);
                prop_assert!(frame.is_multiple_of(1 << order));
                at += 1 << order;
            }
            prop_assert_eq!(at, start + length);
        }
    }
}
