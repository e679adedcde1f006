//! `memory_op`: a domain's memory, its own or another's.
//!
//! The command word is the operation, and above it how many elements of a list are done.

use alloc::sync::Arc;

use abi::memory::{
    AddToPhysmap, AddToPhysmapBatch, E820Entry, ForeignMemoryMap, MEMOP_CMD_MASK, MEMOP_EXTENT_SHIFT,
    MemAcquireResource, MemoryDomain, MemoryExchange, MemoryMap, MemoryReservation, PodTarget,
    RemoveFromPhysmap, ReservedDeviceMemoryMap, VnumaTopologyInfo, XENMAPIDX_GRANT_TABLE_STATUS,
    XENMAPSPACE_DEV_MMIO, XENMAPSPACE_GMFN, XENMAPSPACE_GMFN_FOREIGN, XENMAPSPACE_GMFN_RANGE,
    XENMAPSPACE_GRANT_TABLE, XENMAPSPACE_SHARED_INFO, XENMEM_ACQUIRE_RESOURCE, XENMEM_ADD_TO_PHYSMAP,
    XENMEM_ADD_TO_PHYSMAP_BATCH, XENMEM_CLAIM_PAGES, XENMEM_CURRENT_RESERVATION, XENMEM_DECREASE_RESERVATION,
    XENMEM_EXCHANGE, XENMEM_GET_POD_TARGET, XENMEM_GET_SHARING_FREED_PAGES, XENMEM_GET_SHARING_SHARED_PAGES,
    XENMEM_GET_VNUMAINFO, XENMEM_INCREASE_RESERVATION, XENMEM_MAXIMUM_GPFN, XENMEM_MAXIMUM_RAM_PAGE,
    XENMEM_MAXIMUM_RESERVATION, XENMEM_MEMORY_MAP, XENMEM_POPULATE_PHYSMAP, XENMEM_RDM_ALL,
    XENMEM_REMOVE_FROM_PHYSMAP, XENMEM_RESERVED_DEVICE_MEMORY_MAP, XENMEM_RESOURCE_GRANT_TABLE,
    XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED, XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS,
    XENMEM_RESOURCE_IOREQ_SERVER, XENMEM_SET_MEMORY_MAP, XENMEM_SET_POD_TARGET, XENMEMF_POPULATE_ON_DEMAND,
};
use abi::{Domid, Errno, Ulong};
use arrayvec::ArrayVec;

use core::sync::atomic::Ordering::SeqCst;

use super::{Caller, Outcome, Stop};
use crate::domain::Domain;
use crate::domain::memory::Unmapping;
use crate::grant::Part;
use crate::mm::frames;
use crate::mm::guest::Access;
use crate::mm::p2m::Kind;
use crate::types::Gfn;

/// Small pages' worth of work in a slice; one element is always done.
const SLICE: u64 = 512;
/// Extents of a list that are read at once.
const BATCH: usize = 32;
/// Elements that a command word can count.
const MAX_EXTENTS: u64 = (u32::MAX >> MEMOP_EXTENT_SHIFT) as u64;
/// Largest extents: for a domain, and for a privileged one (Xen's defaults).
const DOMU_MAX_ORDER: u32 = 9;
const DOM0_MAX_ORDER: u32 = 18;
/// Most entries of a memory map (Xen's E820MAX for a guest).
const MAX_MEMORY_MAP: u32 = 128;

pub(super) fn memory_op(caller: &mut Caller<'_>, command: u64, at: u64) -> Outcome {
    let operation = (command & MEMOP_CMD_MASK) as u32;
    let done = command >> MEMOP_EXTENT_SHIFT;
    match operation {
        XENMEM_INCREASE_RESERVATION | XENMEM_DECREASE_RESERVATION | XENMEM_POPULATE_PHYSMAP => {
            reservation(caller, operation, done, at)
        }
        XENMEM_ADD_TO_PHYSMAP => add_to_physmap(caller, done, at),
        XENMEM_ADD_TO_PHYSMAP_BATCH => add_to_physmap_batch(caller, done, at),
        XENMEM_ACQUIRE_RESOURCE => acquire_resource(caller, done, at),
        _ if done != 0 => Err(Errno::EINVAL.into()),
        XENMEM_MAXIMUM_RAM_PAGE => Ok(frames::highest().0),
        XENMEM_CURRENT_RESERVATION => Ok(stat_target(caller, at)?.total_pages()),
        XENMEM_MAXIMUM_RESERVATION => Ok(stat_target(caller, at)?.max_pages()),
        // As Xen: the highest that there ever was.
        XENMEM_MAXIMUM_GPFN => Ok(stat_target(caller, at)?.p2m.end().0.saturating_sub(1)),
        XENMEM_REMOVE_FROM_PHYSMAP => remove_from_physmap(caller, at),
        XENMEM_MEMORY_MAP => memory_map(caller, at),
        XENMEM_SET_MEMORY_MAP => set_memory_map(caller, at),
        XENMEM_CLAIM_PAGES => claim_pages(caller, at),
        XENMEM_SET_POD_TARGET | XENMEM_GET_POD_TARGET => pod_target(caller, operation, at),
        XENMEM_GET_SHARING_FREED_PAGES | XENMEM_GET_SHARING_SHARED_PAGES => Ok(0),
        XENMEM_GET_VNUMAINFO => vnuma_info(caller, at),
        XENMEM_RESERVED_DEVICE_MEMORY_MAP => reserved_device_memory(caller, at),
        XENMEM_EXCHANGE => exchange(caller, at),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// The call, with `done` elements done.
fn go_on(caller: &mut Caller<'_>, operation: u32, done: u64) -> Stop {
    caller.again(&[u64::from(operation) | done << MEMOP_EXTENT_SHIFT])
}

fn stat_target(caller: &mut Caller<'_>, at: u64) -> Result<Arc<Domain>, Errno> {
    let MemoryDomain { domid } = caller.read(at)?;
    caller.target(domid)
}

// ---- populate, decrease ----

/// Returns how many extents are done; errors only end the list early.
fn reservation(caller: &mut Caller<'_>, operation: u32, start: u64, at: u64) -> Outcome {
    let Ok(request) = caller.read::<MemoryReservation>(at) else {
        return Ok(start);
    };
    if request.nr_extents > MAX_EXTENTS || start >= request.nr_extents {
        return Ok(start);
    }
    let Ok(domain) = caller.target(request.domid) else {
        return Ok(start);
    };
    let on_demand = request.mem_flags & XENMEMF_POPULATE_ON_DEMAND != 0;
    // Memory always has a place in a domain with nested paging: increase_reservation, which gives none, has nothing to do.
    if request.extent_order > max_order(caller) || operation == XENMEM_INCREASE_RESERVATION {
        return Ok(start);
    }
    if operation == XENMEM_POPULATE_PHYSMAP && on_demand && domain.id == caller.domain.id {
        return Ok(start);
    }
    let (mut budget, mut done) = (SLICE, start);
    while done < request.nr_extents {
        let read = read_extents(caller, &request, done);
        if read.is_empty() {
            break;
        }
        let mut unmapping = Unmapping::of(&domain);
        for gfn in read {
            if budget == 0 {
                return Err(go_on(caller, operation, done));
            }
            let result = if operation == XENMEM_POPULATE_PHYSMAP {
                populate(&domain, gfn, request.extent_order)
            } else {
                release(&mut unmapping, gfn, 1 << request.extent_order)
            };
            if result.is_err() {
                return Ok(done);
            }
            budget = budget.saturating_sub(1 << request.extent_order);
            done += 1;
        }
    }
    Ok(done)
}

/// The next extents of a list, some of them, up to one that cannot be read.
fn read_extents(caller: &mut Caller<'_>, request: &MemoryReservation, from: u64) -> ArrayVec<Gfn, BATCH> {
    let read: ArrayVec<Ulong, BATCH> = caller
        .read_elements(request.extent_start, from..request.nr_extents)
        .unwrap_or_default();
    read.into_iter().map(|Ulong(gfn)| Gfn(gfn)).collect()
}

/// An extent of any order, in the pages that there are.
fn populate(domain: &Domain, gfn: Gfn, order: u32) -> Result<(), Errno> {
    let aligned = |order: u32| gfn.0 & ((1 << order) - 1) == 0;
    let page = [18, 9, 0]
        .into_iter()
        .find(|&page| page <= order && aligned(page))
        .unwrap_or(0);
    if gfn.0 >= domain.p2m.limit().0 {
        return Err(Errno::EINVAL);
    }
    for index in 0..1u64 << (order - page) {
        populate_page(domain, gfn.offset(index << page), page)
            .inspect_err(|_| take_back(domain, gfn, index << page))?;
    }
    Ok(())
}

/// A page, or smaller ones in its place.
fn populate_page(domain: &Domain, gfn: Gfn, page: u32) -> Result<(), Errno> {
    match domain.populate(gfn, page) {
        // No block that large is free, or a table has to be kept: pages of the next size do as well.
        Err(Errno::ENOMEM) if page > 0 => {}
        result => return result,
    }
    if domain.total_pages() + (1 << page) > domain.max_pages() {
        return Err(Errno::ENOMEM);
    }
    let smaller = page - 9;
    for index in 0..1u64 << 9 {
        populate_page(domain, gfn.offset(index << smaller), smaller)
            .inspect_err(|_| take_back(domain, gfn, index << smaller))?;
    }
    Ok(())
}

/// An extent is populated as a whole, or not at all. That the domain itself takes pages away meanwhile is its own affair.
fn take_back(domain: &Domain, gfn: Gfn, count: u64) {
    let _ = release(&mut Unmapping::of(domain), gfn, count);
}

/// Machine frames mean nothing to a domain with nested paging, so that it has none to exchange: Xen looks at the request, and at the first frame,
/// and says so. The request tells how much was done.
fn exchange(caller: &mut Caller<'_>, at: u64) -> Outcome {
    let request: MemoryExchange = caller.read(at)?;
    let (given, wanted) = (&request.in_, &request.out);
    if given.extent_order.max(wanted.extent_order) > max_order(caller) {
        return Err(Errno::EPERM.into());
    }
    let pages = |list: &MemoryReservation| {
        1u64.checked_shl(list.extent_order)
            .and_then(|extent| list.nr_extents.checked_mul(extent))
    };
    if request.nr_exchanged > given.nr_extents
        || given.domid != wanted.domid
        || pages(given).is_none()
        || pages(given) != pages(wanted)
    {
        return Err(Errno::EINVAL.into());
    }
    if request.nr_exchanged == given.nr_extents {
        return Ok(0);
    }
    let domain = caller.any_domain(given.domid)?;
    caller.target(given.domid)?;
    let Ulong(first) = caller.read_element(given.extent_start, request.nr_exchanged)?;
    domain.p2m.lookup(Gfn(first)).ok_or(Errno::EINVAL)?;
    Err(Errno::EOPNOTSUPP.into())
}

/// Largest extents that the caller may name.
fn max_order(caller: &Caller<'_>) -> u32 {
    if caller.domain.is_privileged() {
        DOM0_MAX_ORDER
    } else {
        DOMU_MAX_ORDER
    }
}

/// Take `count` pages of RAM from a domain.
fn release(unmapping: &mut Unmapping<'_>, gfn: Gfn, count: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < count {
        let at = gfn.offset(done);
        let largest = [18, 9, 0]
            .into_iter()
            .find(|&page| at.0 & ((1 << page) - 1) == 0 && 1 << page <= count - done)
            .unwrap_or(0);
        // Only memory of its own is given back by a reservation.
        done += 1
            << unmapping
                .unmap_if(at, largest, |entry| entry.kind.is_own())?
                .ok_or(Errno::EINVAL)?;
    }
    Ok(())
}

// ---- add to and remove from the physical address space ----

/// Whether the caller may put things of `space` into `domain`.
fn check_space(caller: &Caller<'_>, domain: &Domain, space: u32) -> Result<(), Errno> {
    let own = domain.id == caller.domain.id;
    if space == XENMAPSPACE_DEV_MMIO && !(own && caller.domain.is_privileged()) {
        return Err(Errno::EACCES);
    }
    if own || caller.domain.is_privileged() {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

fn add_to_physmap(caller: &mut Caller<'_>, start: u64, at: u64) -> Outcome {
    let start = u16::try_from(start).map_err(|_| Errno::EDOM)?;
    let request: AddToPhysmap = caller.read(at)?;
    if request.space == XENMAPSPACE_GMFN_FOREIGN {
        return Err(Errno::ENOSYS.into());
    }
    let domain = caller.any_domain(request.domid)?;
    check_space(caller, &domain, request.space)?;
    if request.gpfn == u64::MAX {
        return Err(Errno::EINVAL.into());
    }
    if request.space != XENMAPSPACE_GMFN_RANGE {
        add_one(
            caller,
            &domain,
            request.space,
            None,
            request.idx,
            Gfn(request.gpfn),
        )?;
        return Ok(0);
    }
    if request.size < start {
        return Err(Errno::EILSEQ.into());
    }
    let size = u64::from(request.size);
    if request.gpfn.checked_add(size).is_none() || request.idx.checked_add(size).is_none() {
        return Err(Errno::EOVERFLOW.into());
    }
    let start = u64::from(start);
    for done in start..size {
        if done - start == SLICE {
            return Err(go_on(caller, XENMEM_ADD_TO_PHYSMAP, done));
        }
        add_one(
            caller,
            &domain,
            XENMAPSPACE_GMFN,
            None,
            request.idx + done,
            Gfn(request.gpfn + done),
        )?;
    }
    Ok(0)
}

fn add_to_physmap_batch(caller: &mut Caller<'_>, start: u64, at: u64) -> Outcome {
    let start = u16::try_from(start).map_err(|_| Errno::EDOM)?;
    let request: AddToPhysmapBatch = caller.read(at)?;
    let space = u32::from(request.space);
    if space == XENMAPSPACE_GMFN_RANGE {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let domain = caller.any_domain(request.domid)?;
    check_space(caller, &domain, space)?;
    if request.size < start || (request.size == start && start != 0) {
        return Err(Errno::EILSEQ.into());
    }
    if space == XENMAPSPACE_DEV_MMIO && request.foreign_domid != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let foreign = (space == XENMAPSPACE_GMFN_FOREIGN).then_some(request.foreign_domid);
    for done in start..request.size {
        if u64::from(done - start) == SLICE {
            return Err(go_on(caller, XENMEM_ADD_TO_PHYSMAP_BATCH, u64::from(done)));
        }
        let done = u64::from(done);
        let Ulong(index) = caller.read_element(request.idxs, done)?;
        let Ulong(gpfn) = caller.read_element(request.gpfns, done)?;
        if gpfn == u64::MAX {
            return Err(Errno::EINVAL.into());
        }
        let result = add_one(caller, &domain, space, foreign, index, Gfn(gpfn));
        let code = result.map_or_else(|errno| -i32::from(errno.code()), |()| 0);
        caller.write_element(request.errs, done, &code)?;
    }
    Ok(0)
}

/// Put frame `index` of `space` at `gfn` of `domain`.
fn add_one(
    caller: &Caller<'_>,
    domain: &Domain,
    space: u32,
    foreign: Option<Domid>,
    index: u64,
    gfn: Gfn,
) -> Result<(), Errno> {
    if gfn >= domain.p2m.limit() {
        return Err(Errno::EINVAL);
    }
    match space {
        XENMAPSPACE_SHARED_INFO if index == 0 => {
            let shared = domain.shared_info.mfn();
            domain.place(gfn, domain.shared_info.share()?, Kind::RamRw)?;
            // It is in one place at a time.
            match Gfn(domain.shared_info_at.swap(gfn.0, SeqCst)) {
                old if old != gfn => domain.unmap_frame(old, shared),
                _ => Ok(()),
            }
        }
        XENMAPSPACE_GRANT_TABLE => {
            let part = if index & XENMAPIDX_GRANT_TABLE_STATUS == 0 {
                Part::Shared
            } else {
                Part::Status
            };
            let index = u32::try_from(index & !XENMAPIDX_GRANT_TABLE_STATUS).map_err(|_| Errno::EINVAL)?;
            let frame = domain.grants.table.frame(part, index)?;
            let mfn = frame.mfn();
            domain.place(gfn, frame, Kind::RamRw)?;
            // A frame of the table is in one place at a time.
            match domain.grants.table.note_mapped(part, index, gfn) {
                Some(old) if old != gfn => domain.unmap_frame(old, mfn),
                _ => Ok(()),
            }
        }
        XENMAPSPACE_GMFN => move_page(domain, Gfn(index), gfn),
        XENMAPSPACE_GMFN_FOREIGN => {
            let owner = caller.target(foreign.ok_or(Errno::ENOSYS)?)?;
            if owner.id == domain.id {
                return Err(Errno::EINVAL);
            }
            let frame = owner.pin(Gfn(index), Access::Write).map_err(|_| Errno::EINVAL)?;
            domain.place(gfn, frame, Kind::Foreign)
        }
        // A privileged domain has the machine's device memory where the machine has it.
        XENMAPSPACE_DEV_MMIO if index == gfn.0 => match domain.p2m.lookup(gfn) {
            Some(entry) if entry.kind == Kind::MmioDirect => Ok(()),
            _ => Err(Errno::EPERM),
        },
        XENMAPSPACE_SHARED_INFO | XENMAPSPACE_DEV_MMIO => Err(Errno::EINVAL),
        _ => Err(Errno::ENOSYS),
    }
}

/// The domain's page at `from` is to be at `to`.
fn move_page(domain: &Domain, from: Gfn, to: Gfn) -> Result<(), Errno> {
    let entry = domain.p2m.lookup(from).ok_or(Errno::EINVAL)?;
    if entry.kind != Kind::RamRw {
        return Err(Errno::EINVAL);
    }
    if from == to {
        return Ok(());
    }
    // Its own: by now a grant may be mapped there.
    let frame = domain.pin_own(from, Access::Write)?;
    domain.unmap(from, 0)?;
    domain.place(to, frame, Kind::RamRw)
}

fn remove_from_physmap(caller: &mut Caller<'_>, at: u64) -> Outcome {
    let request: RemoveFromPhysmap = caller.read(at)?;
    let domain = caller.target(request.domid)?;
    match domain.p2m.lookup(Gfn(request.gpfn)).map(|entry| entry.kind) {
        Some(Kind::RamRw | Kind::RamRo | Kind::Foreign) => {}
        Some(_) => return Err(Errno::EINVAL.into()),
        None => return Err(Errno::ENOENT.into()),
    }
    domain.unmap(Gfn(request.gpfn), 0)?;
    crate::domain::lifecycle::reap();
    Ok(0)
}

// ---- memory map ----

fn memory_map(caller: &mut Caller<'_>, at: u64) -> Outcome {
    let mut request: MemoryMap = caller.read(at)?;
    let map = caller.domain.memory_map.lock().clone();
    if map.is_empty() {
        return Err(Errno::ENOSYS.into());
    }
    let count = map.len().min(request.nr_entries as usize);
    for (index, entry) in map.iter().take(count).enumerate() {
        caller.write_element(request.buffer, index as u64, entry)?;
    }
    request.nr_entries = count as u32;
    caller.write(at, &request)?;
    Ok(0)
}

fn set_memory_map(caller: &mut Caller<'_>, at: u64) -> Outcome {
    let request: ForeignMemoryMap = caller.read(at)?;
    if request.map.nr_entries > MAX_MEMORY_MAP {
        return Err(Errno::EINVAL.into());
    }
    let domain = caller.any_domain(request.domid)?;
    caller.require_privilege()?;
    let entries: Result<Arc<[E820Entry]>, Errno> = (0..u64::from(request.map.nr_entries))
        .map(|index| caller.read_element(request.map.buffer, index))
        .collect();
    *domain.memory_map.lock() = entries?;
    Ok(0)
}

// ---- what the toolstack asks for ----

/// Set memory aside for a domain that is being made, until it has so many pages in all; 0 ends that.
fn claim_pages(caller: &mut Caller<'_>, at: u64) -> Outcome {
    let request: MemoryReservation = caller.read(at)?;
    if !request.extent_start.is_null() || request.extent_order != 0 || request.mem_flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    let domain = caller.any_domain(request.domid).map_err(|_| Errno::EINVAL)?;
    caller.require_privilege()?;
    let wanted = request.nr_extents;
    if wanted == 0 {
        frames::unclaim(&domain.claim);
        return Ok(0);
    }
    let has = domain.total_pages();
    if wanted <= has || wanted > domain.max_pages() {
        return Err(Errno::EINVAL.into());
    }
    frames::claim(&domain.claim, wanted - has).map_err(|refused| match refused {
        frames::Refused::Claimed => Errno::EINVAL,
        frames::Refused::TooMany => Errno::ENOMEM,
    })?;
    // Whoever destroys it meanwhile may have been here before.
    if domain.is_dying() {
        frames::unclaim(&domain.claim);
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}

/// There is no memory that is populated on demand, so a target changes nothing.
fn pod_target(caller: &mut Caller<'_>, operation: u32, at: u64) -> Outcome {
    let mut target: PodTarget = caller.read(at)?;
    let domain = caller.any_domain(target.domid)?;
    caller.require_privilege()?;
    if operation == XENMEM_SET_POD_TARGET && target.target_pages > domain.max_pages() {
        return Err(Errno::EINVAL.into());
    }
    target.tot_pages = domain.total_pages();
    target.pod_cache_pages = 0;
    target.pod_entries = 0;
    caller.write(at, &target)?;
    Ok(0)
}

fn vnuma_info(caller: &mut Caller<'_>, at: u64) -> Outcome {
    let request: VnumaTopologyInfo = caller.read(at)?;
    if request.pad != 0 {
        return Err(Errno::EINVAL.into());
    }
    caller.target(request.domid)?;
    Err(Errno::EOPNOTSUPP.into())
}

/// Without an IOMMU there is none.
fn reserved_device_memory(caller: &mut Caller<'_>, at: u64) -> Outcome {
    let mut request: ReservedDeviceMemoryMap = caller.read(at)?;
    if request.flags & !XENMEM_RDM_ALL != 0 {
        return Err(Errno::EINVAL.into());
    }
    request.nr_entries = 0;
    caller.write(at, &request)?;
    Ok(0)
}

/// Frames of an I/O request server: one for its buffered ring, the others for a slot of 32 bytes for each vCPU.
fn ioreq_frames(domain: &Domain) -> u32 {
    1 + domain.config.max_vcpus.div_ceil(4096 / 32)
}

/// Frames that the hypervisor keeps for a domain.
enum Resource {
    Grants(Part),
    /// Of a server of I/O requests. There are none, as nothing makes one.
    IoreqServer,
}

/// Map frames that the hypervisor keeps for a domain: its grant table. The list names frames of the caller's to map them at.
fn acquire_resource(caller: &mut Caller<'_>, start: u64, at: u64) -> Outcome {
    if !caller.domain.is_privileged() {
        return Err(Errno::EACCES.into());
    }
    let mut request: MemAcquireResource = caller.read(at)?;
    let end = request.frame.checked_add(u64::from(request.nr_frames));
    if request.pad != 0 || end.is_none_or(|end| end > u64::from(u32::MAX)) {
        return Err(Errno::EINVAL.into());
    }
    let domain = caller.any_domain(request.domid)?;
    if domain.id == caller.domain.id {
        return Err(Errno::EPERM.into());
    }
    let resource = match (request.type_, request.id) {
        (XENMEM_RESOURCE_GRANT_TABLE, XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED) => {
            Resource::Grants(Part::Shared)
        }
        (XENMEM_RESOURCE_GRANT_TABLE, XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS) => {
            Resource::Grants(Part::Status)
        }
        (XENMEM_RESOURCE_IOREQ_SERVER, _) => Resource::IoreqServer,
        // Traces of vCPUs among them: no domain has any.
        _ => return Err(Errno::EINVAL.into()),
    };
    if request.frame_list.is_null() {
        if request.nr_frames != 0 || start != 0 {
            return Err(Errno::EINVAL.into());
        }
        request.nr_frames = match resource {
            Resource::Grants(part) => domain.grants.table.max_len(part),
            Resource::IoreqServer => ioreq_frames(&domain),
        };
        caller.write(at, &request)?;
        return Ok(0);
    }
    let count = u64::from(request.nr_frames);
    if start >= count || count > MAX_EXTENTS {
        return Err(Errno::EINVAL.into());
    }
    let part = match resource {
        Resource::Grants(part) => part,
        Resource::IoreqServer if request.id > u32::from(u16::MAX) => return Err(Errno::EINVAL.into()),
        Resource::IoreqServer => return Err(Errno::ENOENT.into()),
    };
    for done in start..count {
        if done - start == SLICE {
            return Err(go_on(caller, XENMEM_ACQUIRE_RESOURCE, done));
        }
        let frame = u32::try_from(request.frame + done).map_err(|_| Errno::EINVAL)?;
        let frame = domain.grants.table.frame(part, frame)?;
        let Ulong(gfn) = caller.read_element(request.frame_list, done)?;
        let gfn = Gfn(gfn);
        caller.domain.place(gfn, frame, Kind::Foreign)?;
    }
    Ok(0)
}
