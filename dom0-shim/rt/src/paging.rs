//! The identity map: 2 MiB pages, the first 4 GiB built by the entry code, the rest on demand.
// UNSAFETY: edits live page tables.
#![expect(unsafe_code, reason = "page tables")]

use alloc::alloc::{Layout, alloc_zeroed};
use core::cell::UnsafeCell;
use core::ops::Range;

use crate::memory;

const PRESENT_WRITABLE: u64 = 0x3;
const LARGE: u64 = 0x80;
const GIB: u64 = 1 << 30;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// One PML4 entry is used: 512 GiB.
const LIMIT: u64 = 512 * GIB;

/// One page table, shared with the hardware and the entry code.
#[repr(C, align(4096))]
struct Table<const N: usize>(UnsafeCell<[u64; N]>);

// SAFETY: one vCPU, and only `map` (not reentrant: no interrupt handler calls it) touches it after entry.
unsafe impl<const N: usize> Sync for Table<N> {}

#[unsafe(no_mangle)]
static IDENTITY_PML4: Table<512> = Table(UnsafeCell::new([0; 512]));
#[unsafe(no_mangle)]
static IDENTITY_PDPT: Table<512> = Table(UnsafeCell::new([0; 512]));
#[unsafe(no_mangle)]
static IDENTITY_PDS: Table<2048> = Table(UnsafeCell::new([0; 2048]));

/// Makes `range` of guest-physical addresses reachable at the same virtual addresses.
///
/// Mapping an address does not put memory behind it; addresses at or above 512 GiB are left out.
///
/// # Panics
/// When the heap has no page left for a table.
pub fn map(range: Range<u64>) {
    let mut gib = range.start & !(GIB - 1);
    while gib < range.end.min(LIMIT) {
        let slot = (gib / GIB) as usize;
        // SAFETY: slot < 512 because gib < LIMIT; nobody else holds a reference into the table (see `Sync`).
        let entry = unsafe { &mut (*IDENTITY_PDPT.0.get())[slot] };
        if *entry == 0 {
            *entry = new_directory(gib) | PRESENT_WRITABLE;
        }
        gib += GIB;
    }
}

/// A page directory of 2 MiB pages for the GiB at `base`. A not-present entry becoming present needs no TLB flush
/// (SDM 3A 4.10.4.3).
fn new_directory(base: u64) -> u64 {
    let layout = Layout::new::<[u64; 512]>()
        .align_to(4096)
        .expect("4096 is a power of two");
    // SAFETY: the layout has a size; the zeroed result is a valid [u64; 512] owned by nobody else, never freed.
    let directory = unsafe {
        let page = alloc_zeroed(layout).cast::<[u64; 512]>();
        assert!(!page.is_null(), "no memory for a page table");
        &mut *page
    };
    for (index, entry) in directory.iter_mut().enumerate() {
        *entry = (base + ((index as u64) << 21)) | PRESENT_WRITABLE | LARGE;
    }
    (directory.as_ptr() as u64) & ADDRESS
}

/// Maps all RAM of the memory map.
pub(crate) fn map_ram() {
    for region in memory::map().iter().filter(|region| region.is_ram()) {
        map(region.range.clone());
    }
}
