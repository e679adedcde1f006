//! Access to physical memory: the only module that knows how a machine address becomes a pointer.
//!
//! On bare metal all RAM is mapped at [`DIRECT_MAP`], never executable. On the host, where the logic is tested, an arena of
//! [`ARENA_SIZE`] zeroed bytes stands for machine addresses from 0.
//!
//! Rules for callers: memory that a guest can reach is never borrowed (`&[u8]`) but copied, or accessed through atomics;
//! memory that the hypervisor keeps to itself may be borrowed by whoever allocated the frame.
// UNSAFETY: turns machine addresses into pointers and dereferences them.
#![expect(unsafe_code, reason = "turns machine addresses into pointers")]

use core::sync::atomic::AtomicU64;

use crate::types::{Hpa, Mfn, PAGE_SIZE};

/// Virtual address at which machine address 0 is mapped; the start of the upper half.
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// RAM from this address on is not used: 16 TiB.
pub const RAM_END: u64 = 16 << 40;
/// How far the direct map may reach: RAM, and devices behind it.
pub const DIRECT_MAP_SIZE: u64 = 32 << 40;
/// Size of the memory that stands for the machine's when tests run on the host.
pub const ARENA_SIZE: u64 = 64 << 20;

/// Entries in a page table of any level.
pub const ENTRIES: usize = 512;

/// Where the byte at machine address `at` is mapped. Dereferencing is sound if there is RAM at `at` and the frame belongs to
/// the caller.
#[cfg(target_os = "none")]
#[inline]
pub fn ptr(at: Hpa) -> *mut u8 {
    debug_assert!(at.0 < DIRECT_MAP_SIZE);
    (DIRECT_MAP + at.0) as *mut u8
}

/// Where the byte at machine address `at` is. Dereferencing is sound if the frame belongs to the caller.
///
/// # Panics
/// If `at` is outside of the arena.
#[cfg(not(target_os = "none"))]
pub fn ptr(at: Hpa) -> *mut u8 {
    assert!(
        at.0 < ARENA_SIZE,
        "machine address {at:?} is outside of the arena"
    );
    // SAFETY: `at` is within the allocation that starts at the arena's base.
    unsafe { arena().0.add(at.0 as usize) }
}

#[cfg(not(target_os = "none"))]
struct Arena(*mut u8);

#[cfg(not(target_os = "none"))]
// SAFETY: the pointer is only a base address; who may access what is settled by the frame allocator.
unsafe impl Send for Arena {}
#[cfg(not(target_os = "none"))]
// SAFETY: as above.
unsafe impl Sync for Arena {}

#[cfg(not(target_os = "none"))]
fn arena() -> &'static Arena {
    static ARENA: crate::sync::Once<Arena> = crate::sync::Once::new();
    ARENA.call_once(|| {
        let layout =
            core::alloc::Layout::from_size_align(ARENA_SIZE as usize, 2 << 20).expect("a valid layout");
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc::alloc::alloc_zeroed(layout) };
        assert!(!base.is_null(), "no memory for the arena");
        Arena(base)
    })
}

/// Fill `count` frames with zeroes.
///
/// # Safety
/// There is RAM at all of them, and it belongs to the caller.
pub unsafe fn zero(first: Mfn, count: u64) {
    let words = count * (PAGE_SIZE / 8);
    // SAFETY: whole frames, mapped and aligned; the caller has them to himself. By words, since the byte form is what an emulator does byte by byte.
    unsafe {
        core::arch::asm!("rep stosq", inout("rcx") words => _, inout("rdi") ptr(first.addr()) => _, in("rax") 0u64,
            options(nostack, preserves_flags));
    }
}

/// Is there nothing but zeroes in `count` frames?
///
/// # Safety
/// As for [`zero`].
pub unsafe fn is_zero(first: Mfn, count: u64) -> bool {
    let word = ptr(first.addr()).cast::<u64>();
    // SAFETY: whole frames, mapped and aligned; the caller has them to himself.
    (0..(count * (PAGE_SIZE / 8)) as usize).all(|index| unsafe { word.add(index).read() } == 0)
}

/// Entry `index` of the page table in `table`.
///
/// # Safety
/// `table` is a frame that was allocated as a page table and stays one as long as the reference is used.
///
/// # Panics
/// If `index` is not below [`ENTRIES`].
pub unsafe fn entry<'a>(table: Mfn, index: usize) -> &'a AtomicU64 {
    assert!(index < ENTRIES);
    // SAFETY: aligned and within the frame, which is a table as long as `'a` lasts; all access to it is atomic.
    unsafe { &*ptr(table.addr()).cast::<AtomicU64>().add(index) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_where_they_were_written() {
        let frame = crate::mm::frames::alloc(0).unwrap();
        // SAFETY: the frame was just allocated.
        unsafe {
            zero(frame, 1);
            entry(frame, 511).store(0x1122_3344_5566_7788, core::sync::atomic::Ordering::Relaxed);
            assert_eq!(*ptr(frame.addr().offset(4088)), 0x88);
            assert_eq!(*ptr(frame.addr().offset(4087)), 0);
        }
        crate::mm::frames::free(frame, 0);
    }

    #[test]
    #[should_panic(expected = "outside of the arena")]
    fn nothing_is_beyond_the_arena() {
        ptr(Hpa(ARENA_SIZE));
    }
}
