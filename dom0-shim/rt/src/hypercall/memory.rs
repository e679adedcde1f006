//! `memory_op`.
// UNSAFETY: hypercalls that read and write lists.
#![expect(unsafe_code, reason = "hypercalls with lists")]

use abi::domid::DOMID_SELF;
use abi::hypercall::HYPERVISOR_MEMORY_OP;
use abi::memory::{
    AddToPhysmap, AddToPhysmapBatch, E820Entry, ForeignMemoryMap, MemAcquireResource, MemoryMap,
    MemoryReservation, RemoveFromPhysmap, XENMAPSPACE_GMFN_FOREIGN, XENMAPSPACE_SHARED_INFO,
    XENMEM_ACQUIRE_RESOURCE, XENMEM_ADD_TO_PHYSMAP, XENMEM_ADD_TO_PHYSMAP_BATCH, XENMEM_CLAIM_PAGES,
    XENMEM_MEMORY_MAP, XENMEM_POPULATE_PHYSMAP, XENMEM_REMOVE_FROM_PHYSMAP, XENMEM_RESOURCE_GRANT_TABLE,
    XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED, XENMEM_SET_MEMORY_MAP,
};
use abi::{Domid, Errno};

use super::{handle, handle_mut, op};

/// Calls `entry(start, size, type)` for this domain's memory map.
pub fn memory_map(mut entry: impl FnMut(u64, u64, u32)) -> Result<(), Errno> {
    let mut entries = [E820Entry::default(); 128];
    let buffer = handle_mut(&mut entries);
    let mut argument = MemoryMap {
        nr_entries: entries.len() as u32,
        pad: 0,
        buffer,
    };
    // SAFETY: the hypervisor writes at most `nr_entries` entries.
    unsafe { op(HYPERVISOR_MEMORY_OP, XENMEM_MEMORY_MAP, &mut argument) }?;
    entries
        .iter()
        .take(argument.nr_entries as usize)
        .for_each(|e| entry(e.addr, e.size, e.type_));
    Ok(())
}

/// Gives `domain` its memory map.
pub fn set_memory_map(domain: Domid, entries: &[E820Entry]) -> Result<(), Errno> {
    let map = MemoryMap {
        nr_entries: entries.len() as u32,
        pad: 0,
        buffer: handle(entries),
    };
    let mut argument = ForeignMemoryMap {
        domid: domain,
        pad: [0; 3],
        map,
    };
    // SAFETY: the hypervisor reads `entries`.
    unsafe { op(HYPERVISOR_MEMORY_OP, XENMEM_SET_MEMORY_MAP, &mut argument) }.map(|_| ())
}

/// Replaces this domain's frame `gfn` with its shared info page.
pub(crate) fn map_shared_info(gfn: u64) -> Result<(), Errno> {
    let mut argument = AddToPhysmap {
        domid: DOMID_SELF,
        size: 0,
        space: XENMAPSPACE_SHARED_INFO,
        idx: 0,
        gpfn: gfn,
    };
    // SAFETY: the only caller passes the frame of the static made for it.
    unsafe { op(HYPERVISOR_MEMORY_OP, XENMEM_ADD_TO_PHYSMAP, &mut argument) }.map(|_| ())
}

/// Puts memory behind frames of `domain`: blocks of `1 << order` frames at `gfns`. Returns how many blocks, counted
/// from the first, were done; fewer than asked when memory ran out.
pub fn populate_physmap(domain: Domid, order: u32, gfns: &mut [u64]) -> Result<usize, Errno> {
    let nr_extents = gfns.len() as u64;
    let mut argument = MemoryReservation {
        extent_start: handle_mut(gfns).cast(),
        nr_extents,
        extent_order: order,
        mem_flags: 0,
        domid: domain,
        pad: [0; 3],
    };
    // SAFETY: the hypervisor reads (for a PV caller also writes) `gfns`.
    unsafe { op(HYPERVISOR_MEMORY_OP, XENMEM_POPULATE_PHYSMAP, &mut argument) }.map(|done| done as usize)
}

/// Sets pages aside for `domain`; 0 gives the rest of an earlier claim back.
pub fn claim_pages(domain: Domid, pages: u64) -> Result<(), Errno> {
    let mut argument = MemoryReservation {
        nr_extents: pages,
        domid: domain,
        ..Default::default()
    };
    // SAFETY: the argument holds no address.
    unsafe { op(HYPERVISOR_MEMORY_OP, XENMEM_CLAIM_PAGES, &mut argument) }.map(|_| ())
}

/// Maps frames of `domain` at this domain's frames; used by [`crate::foreign`] on frames that are its own to use.
pub(crate) fn map_foreign(domain: Domid, theirs: &[u64], ours: &[u64]) -> Result<(), Errno> {
    const BATCH: usize = 256;
    for (theirs, ours) in theirs.chunks(BATCH).zip(ours.chunks(BATCH)) {
        let mut errors = [0i32; BATCH];
        let mut argument = AddToPhysmapBatch {
            domid: DOMID_SELF,
            space: XENMAPSPACE_GMFN_FOREIGN as u16,
            size: theirs.len() as u16,
            foreign_domid: domain,
            idxs: handle(theirs).cast(),
            gpfns: handle(ours).cast(),
            errs: handle_mut(&mut errors),
        };
        // SAFETY: the hypervisor reads both lists and writes as many errors.
        unsafe { op(HYPERVISOR_MEMORY_OP, XENMEM_ADD_TO_PHYSMAP_BATCH, &mut argument) }?;
        if let Some(&error) = errors.iter().find(|&&error| error != 0) {
            return Err(Errno::decode(i64::from(error) as u64)
                .err()
                .unwrap_or(Errno::EINVAL));
        }
    }
    Ok(())
}

/// Removes what is mapped at this domain's frame `gfn`.
pub(crate) fn unmap(gfn: u64) -> Result<(), Errno> {
    let mut argument = RemoveFromPhysmap {
        domid: DOMID_SELF,
        pad: [0; 3],
        gpfn: gfn,
    };
    // SAFETY: callers pass frames of the foreign window, where nothing of Rust's lives.
    unsafe { op(HYPERVISOR_MEMORY_OP, XENMEM_REMOVE_FROM_PHYSMAP, &mut argument) }.map(|_| ())
}

/// Maps the first frame of `domain`'s grant table at this domain's frame `gfn`.
pub(crate) fn map_grant_table(domain: Domid, gfn: u64) -> Result<(), Errno> {
    let mut frames = [gfn];
    let mut argument = MemAcquireResource {
        domid: domain,
        type_: XENMEM_RESOURCE_GRANT_TABLE,
        id: XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED,
        nr_frames: 1,
        pad: 0,
        frame: 0,
        frame_list: handle_mut(&mut frames).cast(),
    };
    // SAFETY: the hypervisor reads the one-entry list; the frame is one of the foreign window.
    unsafe { op(HYPERVISOR_MEMORY_OP, XENMEM_ACQUIRE_RESOURCE, &mut argument) }.map(|_| ())
}
