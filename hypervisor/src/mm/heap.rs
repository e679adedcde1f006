//! The heap: small objects from one arena, large ones (a kernel that is being unpacked) straight from the frames, to which they return.
//!
//! For what is made when domains are made, and, once for each, what a domain's hypercalls want kept ([`super::fallible`]).
//!
//! An arena of which nothing is used is the reserve: domains may have taken all frames when the hypervisor wants memory where it cannot fail.
//! Whatever may fail, and each step of making a domain, is refused while there is none ([`has_reserve`]); so an arena's worth is for the
//! rest, which is a few lists of dom0's calls and of the scheduler's.
// UNSAFETY: implements an allocator.
#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "implements an allocator"))]
#![cfg(target_os = "none")]

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use linked_list_allocator::Heap as List;

use super::{frames, phys};
use crate::sync::{Mutex, Rank};
use crate::types::{Hpa, PAGE_SIZE};

/// From this size on, allocations are frames of their own.
const LARGE: usize = 256 << 10;
/// log2 of the frames of an arena: 4 MiB.
const ARENA_ORDER: u32 = 10;
/// Arenas at most: 256 MiB of small objects.
const ARENAS: usize = 64;

struct Heap(Mutex<[Option<List>; ARENAS]>);

#[global_allocator]
static HEAP: Heap = Heap(Mutex::new(Rank::Heap, [const { None }; ARENAS]));

fn order_of(size: usize) -> u32 {
    size.div_ceil(PAGE_SIZE as usize)
        .next_power_of_two()
        .trailing_zeros()
}

fn new_arena() -> Option<List> {
    let mfn = frames::alloc(ARENA_ORDER)?;
    let mut list = List::empty();
    // SAFETY: frames that were just allocated and are never given back.
    unsafe { list.init(phys::ptr(mfn.addr()), (PAGE_SIZE as usize) << ARENA_ORDER) };
    Some(list)
}

/// Is there an arena of which nothing is used? A new one if need be and there are frames for it.
fn reserve(arenas: &mut [Option<List>]) -> bool {
    for arena in arenas {
        match arena {
            Some(list) if list.used() == 0 => return true,
            Some(_) => {}
            None => {
                *arena = new_arena();
                return arena.is_some();
            }
        }
    }
    false
}

/// Has the heap a reserve for what cannot fail?
pub fn has_reserve() -> bool {
    reserve(&mut *HEAP.0.lock())
}

// SAFETY: memory comes from frames that nobody else has, each piece to one owner at a time: the list allocator keeps them apart within an arena.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE || layout.align() > PAGE_SIZE as usize {
            let order = order_of(layout.size().max(layout.align()));
            return frames::alloc(order).map_or(core::ptr::null_mut(), |mfn| phys::ptr(mfn.addr()));
        }
        let mut arenas = self.0.lock();
        for arena in arenas.iter_mut() {
            if arena.is_none() {
                *arena = new_arena();
            }
            let Some(list) = arena else { break };
            let was_reserve = list.used() == 0;
            if let Ok(piece) = list.allocate_first_fit(layout) {
                if was_reserve {
                    reserve(&mut *arenas);
                }
                return piece.as_ptr();
            }
        }
        core::ptr::null_mut()
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if layout.size() >= LARGE || layout.align() > PAGE_SIZE as usize {
            let hpa = Hpa(at as u64 - phys::DIRECT_MAP);
            frames::free(hpa.frame(), order_of(layout.size().max(layout.align())));
            return;
        }
        let Some(piece) = NonNull::new(at) else { return };
        let mut arenas = self.0.lock();
        if let Some(list) = arenas
            .iter_mut()
            .flatten()
            .find(|list| (list.bottom()..list.top()).contains(&at))
        {
            // SAFETY: the caller got it from this arena with this layout.
            unsafe { list.deallocate(piece, layout) };
        }
    }
}
