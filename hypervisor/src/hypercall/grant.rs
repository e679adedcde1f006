//! `grant_table_op`. Lists of operations are done one by one, each with a status of its own.
//!
//! Transfers, dumps and cache maintenance are not there, as Xen 4.17 has none of them for domains with nested paging.

use abi::domid::DOMID_SELF;
use abi::grant::{
    GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTST_ADDRESS_TOO_BIG, GNTST_BAD_DOMAIN, GNTST_BAD_VIRT_ADDR,
    GNTST_GENERAL_ERROR, GNTST_OKAY, GNTST_PERMISSION_DENIED, GNTTABOP_COPY, GNTTABOP_GET_STATUS_FRAMES,
    GNTTABOP_GET_VERSION, GNTTABOP_MAP_GRANT_REF, GNTTABOP_QUERY_SIZE, GNTTABOP_SET_VERSION,
    GNTTABOP_SETUP_TABLE, GNTTABOP_SWAP_GRANT_REF, GNTTABOP_UNMAP_AND_REPLACE, GNTTABOP_UNMAP_GRANT_REF,
    GnttabCopy, GnttabCopyPtr, GnttabGetStatusFrames, GnttabGetVersion, GnttabMapGrantRef, GnttabQuerySize,
    GnttabSetVersion, GnttabSetupTable, GnttabSwapGrantRef, GnttabUnmapAndReplace, GnttabUnmapGrantRef,
};
use abi::{Compat, Domid, Errno, GuestHandle};

use super::{Caller, Outcome};
use crate::domain::{Domain, table};
use crate::grant::copy::{CopyEnd, copy};
use crate::grant::{self, Part, Status, Version, map};
use crate::types::{DomId, Gfn, Gpa};

/// Operations done in a slice.
const SLICE: u32 = 64;

pub(super) fn grant_table_op(caller: &mut Caller<'_>, command: u64, list: u64, count: u64) -> Outcome {
    let count = count as u32;
    if count as i32 <= -1 {
        return Err(Errno::EINVAL.into());
    }
    match command as u32 {
        GNTTABOP_MAP_GRANT_REF => each::<GnttabMapGrantRef>(caller, command, list, count, map_one),
        GNTTABOP_UNMAP_GRANT_REF => each::<GnttabUnmapGrantRef>(caller, command, list, count, unmap_one),
        GNTTABOP_COPY => each::<GnttabCopy>(caller, command, list, count, copy_one),
        _ => less_frequent(caller, command, list, count),
    }
}

#[inline(never)]
fn less_frequent(caller: &mut Caller<'_>, command: u64, list: u64, count: u32) -> Outcome {
    match command as u32 {
        GNTTABOP_SWAP_GRANT_REF => each::<GnttabSwapGrantRef>(caller, command, list, count, |caller, op| {
            op.status = status(caller.domain.grants.table.swap(op.ref_a, op.ref_b));
        }),
        GNTTABOP_UNMAP_AND_REPLACE => {
            each::<GnttabUnmapAndReplace>(caller, command, list, count, unmap_and_replace_one)
        }
        GNTTABOP_GET_STATUS_FRAMES => get_status_frames(caller, list, count),
        GNTTABOP_SETUP_TABLE => setup_table(caller, list, count),
        GNTTABOP_QUERY_SIZE => query_size(caller, list, count),
        GNTTABOP_SET_VERSION => set_version(caller, list),
        GNTTABOP_GET_VERSION => get_version(caller, list),
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn status<T>(result: Result<T, Status>) -> i16 {
    match result {
        Ok(_) => GNTST_OKAY,
        Err(Status(status)) => status,
    }
}

/// Do each operation of the list, writing back what became of it.
#[inline(never)]
fn each<T: Compat>(
    caller: &mut Caller<'_>,
    command: u64,
    at: u64,
    count: u32,
    operate: impl Fn(&Caller<'_>, &mut T),
) -> Outcome {
    let list = GuestHandle::<T>::new(at);
    for index in 0..count.min(SLICE) {
        caller.with_element(list, u64::from(index), &operate)?;
    }
    crate::domain::lifecycle::reap();
    if count <= SLICE {
        return Ok(0);
    }
    let rest = caller.element(list, u64::from(SLICE));
    Err(caller.again(&[command, rest, u64::from(count - SLICE)]))
}

fn named(caller: &Caller<'_>, id: Domid) -> DomId {
    if id == DOMID_SELF {
        caller.domain.id
    } else {
        DomId(id)
    }
}

fn map_one(caller: &Caller<'_>, op: &mut GnttabMapGrantRef) {
    let mapped = map::map(
        caller.domain,
        named(caller, op.dom),
        op.ref_,
        Gpa(op.host_addr),
        op.flags,
    );
    op.status = status(mapped);
    if let Ok(mapped) = mapped {
        op.handle = mapped.handle;
        op.dev_bus_addr = mapped.mfn.addr().0;
    }
}

fn unmap_one(caller: &Caller<'_>, op: &mut GnttabUnmapGrantRef) {
    op.status = status(map::unmap(caller.domain, op.handle, Gpa(op.host_addr)));
}

/// With nested paging nothing can be put in the place of what is unmapped.
fn unmap_and_replace_one(caller: &Caller<'_>, op: &mut GnttabUnmapAndReplace) {
    op.status = if op.new_addr == 0 {
        status(map::unmap(caller.domain, op.handle, Gpa(op.host_addr)))
    } else {
        GNTST_GENERAL_ERROR
    };
}

#[inline(always)]
fn copy_one(caller: &Caller<'_>, op: &mut GnttabCopy) {
    let end = |pointer: &GnttabCopyPtr, by_grant: bool| {
        if by_grant {
            Ok(CopyEnd::Grant(named(caller, pointer.domid), pointer.u as u32))
        } else if pointer.domid == DOMID_SELF {
            Ok(CopyEnd::Own(Gfn(pointer.u)))
        } else if table::get(DomId(pointer.domid)).is_none() {
            Err(Status(GNTST_BAD_DOMAIN))
        } else {
            Err(Status(GNTST_PERMISSION_DENIED))
        }
    };
    let ends = || {
        let source = end(&op.source, op.flags & GNTCOPY_SOURCE_GREF != 0)?;
        Ok((source, end(&op.dest, op.flags & GNTCOPY_DEST_GREF != 0)?))
    };
    op.status = status(ends().and_then(|(source, dest)| {
        copy(
            caller.domain,
            (source, op.source.offset),
            (dest, op.dest.offset),
            op.len,
        )
    }));
}

fn setup_table(caller: &mut Caller<'_>, at: u64, count: u32) -> Outcome {
    if count != 1 {
        return Err(Errno::EINVAL.into());
    }
    let mut op: GnttabSetupTable = caller.read(at)?;
    op.status = match caller.target(op.dom) {
        Err(Errno::EPERM) => GNTST_PERMISSION_DENIED,
        Err(_) => GNTST_BAD_DOMAIN,
        Ok(domain) if domain.grants.table.grow_to(op.nr_frames).is_err() => GNTST_GENERAL_ERROR,
        Ok(domain) => list_frames(caller, &domain, Part::Shared, op.frame_list, op.nr_frames),
    };
    caller.write(at, &op)?;
    Ok(0)
}

/// Tell where the first `count` frames of a part are mapped; the count was checked.
fn list_frames<T: Compat + PartialEq + From<u64>>(
    caller: &mut Caller<'_>,
    domain: &Domain,
    part: Part,
    list: GuestHandle<T>,
    count: u32,
) -> i16 {
    for index in 0..count {
        let gfn = domain
            .grants
            .table
            .mapped_at(part, index)
            .map_or(u64::MAX, |gfn| gfn.0);
        let gfn = T::from(gfn);
        if !caller.fits(gfn) {
            return GNTST_ADDRESS_TOO_BIG;
        }
        if caller.write_element(list, u64::from(index), &gfn).is_err() {
            return GNTST_BAD_VIRT_ADDR;
        }
    }
    GNTST_OKAY
}

fn get_status_frames(caller: &mut Caller<'_>, at: u64, count: u32) -> Outcome {
    if count != 1 {
        return Err(Errno::EINVAL.into());
    }
    let mut op: GnttabGetStatusFrames = caller.read(at)?;
    op.status = match caller.target(op.dom) {
        Err(Errno::EPERM) => GNTST_PERMISSION_DENIED,
        Err(_) => GNTST_BAD_DOMAIN,
        Ok(domain) if op.nr_frames > domain.grants.table.status_len() => GNTST_GENERAL_ERROR,
        Ok(domain) => list_frames(caller, &domain, Part::Status, op.frame_list, op.nr_frames),
    };
    caller.write(at, &op)?;
    Ok(0)
}

fn query_size(caller: &mut Caller<'_>, at: u64, count: u32) -> Outcome {
    if count != 1 {
        return Err(Errno::EINVAL.into());
    }
    let mut op: GnttabQuerySize = caller.read(at)?;
    op.status = match caller.target(op.dom) {
        Err(Errno::EPERM) => GNTST_PERMISSION_DENIED,
        Err(_) => GNTST_BAD_DOMAIN,
        Ok(domain) => {
            (op.nr_frames, op.max_nr_frames) = domain.grants.table.size();
            GNTST_OKAY
        }
    };
    caller.write(at, &op)?;
    Ok(0)
}

/// The answer names the version in use, whatever became of the wish.
fn set_version(caller: &mut Caller<'_>, at: u64) -> Outcome {
    let mut op: GnttabSetVersion = caller.read(at)?;
    let result = match op.version {
        1 => grant::set_version(caller.domain, Version::V1),
        2 => grant::set_version(caller.domain, Version::V2),
        _ => Err(Errno::EINVAL),
    };
    op.version = caller.domain.grants.table.version() as u32;
    caller.write(at, &op)?;
    result?;
    Ok(0)
}

fn get_version(caller: &mut Caller<'_>, at: u64) -> Outcome {
    let mut op: GnttabGetVersion = caller.read(at)?;
    let domain = caller.target(op.dom)?;
    op.version = domain.grants.table.version() as u32;
    caller.write(at, &op)?;
    Ok(0)
}
