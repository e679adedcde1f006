//! The guest's memory map, its heap, and a window of unused guest frames for mapping foreign memory.
// UNSAFETY: linker symbols, the global allocator.
#![expect(unsafe_code, reason = "hands a RAM range to the allocator")]

use alloc::alloc::{GlobalAlloc, Layout};
use core::ops::Range;
use core::ptr::NonNull;

use abi::start_info::XEN_HVM_MEMMAP_TYPE_RAM;
use linked_list_allocator::Heap;
use spin::{Mutex, Once};

use crate::hypercall::memory::memory_map;
use crate::start_info::StartInfo;

/// One range of guest-physical addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Addresses.
    pub range: Range<u64>,
    /// E820 type, `XEN_HVM_MEMMAP_TYPE_*`.
    pub kind: u32,
}

impl Region {
    /// Whether it is usable memory.
    pub fn is_ram(&self) -> bool {
        self.kind == XEN_HVM_MEMMAP_TYPE_RAM
    }
}

/// Entries of a memory map that are looked at; E820 maps have never come near.
const REGIONS: usize = 128;

static MAP: Once<([Region; REGIONS], usize)> = Once::new();

/// The memory map, in the loader's order.
pub fn map() -> &'static [Region] {
    MAP.get().map_or(&[], |(regions, used)| &regions[..*used])
}

/// Reads the memory map (from the start info, else by `XENMEM_memory_map`) and gives the largest free range of RAM
/// below 4 GiB to the heap.
pub(crate) fn init(info: &StartInfo) {
    MAP.call_once(|| {
        let mut regions = [const { Region { range: 0..0, kind: 0 } }; REGIONS];
        let mut used = 0;
        let mut add = |start: u64, size: u64, kind: u32| {
            if let Some(slot) = regions.get_mut(used) {
                *slot = Region {
                    range: start..start.saturating_add(size),
                    kind,
                };
                used += 1;
            }
        };
        info.memory_map()
            .iter()
            .for_each(|entry| add(entry.addr, entry.size, entry.type_));
        if info.memory_map().is_empty() {
            memory_map(add).expect("XENMEM_memory_map");
        }
        (regions, used)
    });
    let heap = largest_gap(info);
    assert!(heap.end > heap.start, "no free memory");
    // SAFETY: the range is RAM, mapped by the entry code, and overlaps neither the image nor the loader's data.
    unsafe {
        HEAP.0
            .lock()
            .heap
            .init(heap.start as *mut u8, (heap.end - heap.start) as usize)
    }
}

/// The largest page-aligned range of RAM in [1 MiB, 4 GiB) that nothing uses yet.
fn largest_gap(info: &StartInfo) -> Range<u64> {
    unsafe extern "C" {
        static image_start: u8;
        static image_end: u8;
    }
    let image = &raw const image_start as u64..&raw const image_end as u64;
    let taken = || {
        info.ranges()
            .chain([image.clone()])
            .filter(|range| !range.is_empty())
    };
    let mut best = 0..0;
    for region in map().iter().filter(|region| region.is_ram()) {
        let (low, high) = (region.range.start.max(1 << 20), region.range.end.min(1 << 32));
        // A gap begins where the region or a used range ends.
        for start in taken().map(|range| range.end).chain([low]) {
            let start = start.next_multiple_of(4096);
            if start < low || start >= high || taken().any(|range| range.contains(&start)) {
                continue;
            }
            let end = taken()
                .map(|range| range.start)
                .filter(|&at| at > start)
                .fold(high, u64::min)
                & !4095;
            if end.saturating_sub(start) > best.end - best.start {
                best = start..end;
            }
        }
    }
    best
}

/// The smallest address at or above 4 GiB, aligned to 2 MiB, with `bytes` of nothing in the memory map.
pub fn hole(bytes: u64) -> u64 {
    let mut start = 1 << 32;
    while let Some(region) = map()
        .iter()
        .find(|region| region.range.start < start + bytes && start < region.range.end)
    {
        start = region.range.end.next_multiple_of(2 << 20);
    }
    start
}

/// The heap behind `alloc`. What was freed of small blocks is kept for the next of that size: to find room takes the
/// longer the more holes there are, and to free a block as long.
struct SharedHeap(Mutex<KeepingHeap>);

struct KeepingHeap {
    heap: Heap,
    /// Kept blocks of [`GRAIN`] bytes, of twice as many, and so on.
    kept: [Option<NonNull<Kept>>; SIZES],
    kept_bytes: usize,
}

/// The beginning of a kept block.
struct Kept {
    next: Option<NonNull<Kept>>,
}

/// Sizes of small blocks are multiples of this, and their alignment is.
const GRAIN: usize = 16;
/// How many sizes are small.
const SIZES: usize = 64;

#[global_allocator]
static HEAP: SharedHeap = SharedHeap(Mutex::new(KeepingHeap {
    heap: Heap::empty(),
    kept: [None; SIZES],
    kept_bytes: 0,
}));

// SAFETY: kept blocks are nobody's but the heap's, wherever it goes.
unsafe impl Send for KeepingHeap {}

impl KeepingHeap {
    /// The layout that a block has, and if it is small, the index of its size.
    fn block(layout: Layout) -> (Layout, Option<usize>) {
        let rounded = Layout::from_size_align(layout.size().max(1).next_multiple_of(GRAIN), GRAIN);
        match rounded {
            Ok(block) if layout.align() <= GRAIN && block.size() <= SIZES * GRAIN => {
                (block, Some(block.size() / GRAIN - 1))
            }
            _ => (layout, None),
        }
    }

    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let (layout, size) = Self::block(layout);
        if let Some(block) = size.and_then(|size| self.take(size)) {
            return Some(block);
        }
        let found = self.heap.allocate_first_fit(layout);
        if found.is_err() && layout.size() <= self.heap.free() + self.kept_bytes {
            self.give_up_kept();
            return self.heap.allocate_first_fit(layout).ok();
        }
        found.ok()
    }

    /// A kept block of a size.
    fn take(&mut self, size: usize) -> Option<NonNull<u8>> {
        let block = self.kept[size]?;
        // SAFETY: `free` wrote it there, and nobody has had the block since.
        self.kept[size] = unsafe { block.as_ref() }.next;
        self.kept_bytes -= (size + 1) * GRAIN;
        Some(block.cast())
    }

    /// # Safety
    /// The block is of [`KeepingHeap::allocate`] with the same layout, and no longer in use.
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        let (layout, size) = Self::block(layout);
        let Some(size) = size else {
            // SAFETY: the block is the heap's, with its layout.
            return unsafe { self.heap.deallocate(block, layout) };
        };
        let block = block.cast();
        let next = self.kept[size].replace(block);
        // SAFETY: a small block is aligned for this and large enough, and it is nobody's now.
        unsafe { block.write(Kept { next }) };
        self.kept_bytes += layout.size();
    }

    /// Makes room of what is kept.
    fn give_up_kept(&mut self) {
        for size in 0..SIZES {
            while let Some(block) = self.take(size) {
                // SAFETY: kept blocks of a size have been allocated with this layout.
                unsafe {
                    let layout = Layout::from_size_align_unchecked((size + 1) * GRAIN, GRAIN);
                    self.heap.deallocate(block, layout);
                }
            }
        }
    }
}

// SAFETY: blocks are those of `Heap`, which fit the layout and do not overlap, or kept ones of at least that size; the
// mutex makes calls exclusive (and is never taken in interrupt context, see the crate's invariants).
unsafe impl GlobalAlloc for SharedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0
            .lock()
            .allocate(layout)
            .map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller of `dealloc` passes a block of this allocator with its layout.
            unsafe { self.0.lock().free(block, layout) }
        }
    }
}

/// Free bytes of the heap.
pub fn heap_free() -> usize {
    let heap = HEAP.0.lock();
    heap.heap.free() + heap.kept_bytes
}
