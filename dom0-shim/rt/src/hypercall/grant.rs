//! `grant_table_op`: mapping other domains' grants, and copying from and to them.
// UNSAFETY: hypercalls that write memory.
#![expect(unsafe_code, reason = "hypercalls with lists and memory")]

use alloc::vec::Vec;
use core::marker::PhantomData;

use abi::Domid;
use abi::domid::DOMID_SELF;
use abi::grant::{
    GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTMAP_HOST_MAP, GNTMAP_READONLY, GNTST_EAGAIN,
    GNTST_GENERAL_ERROR, GNTST_OKAY, GNTTABOP_COPY, GNTTABOP_MAP_GRANT_REF, GNTTABOP_UNMAP_GRANT_REF,
    GnttabCopy, GnttabCopyPtr, GnttabMapGrantRef, GnttabUnmapGrantRef, GrantHandle, GrantRef,
};
use abi::hypercall::HYPERVISOR_GRANT_TABLE_OP;

use crate::foreign::PAGE;

/// A `GNTST_*` other than "okay".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub i16);

impl core::fmt::Display for Status {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "grant status {}", self.0)
    }
}

/// What may be done to mapped frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read; the other domain may have granted no more.
    Read,
    /// Read and write.
    Write,
}

/// Issues `sub` on a list of operations, each of which gets a status of its own.
///
/// # Safety
/// Addresses in the operations must be those of memory that they may read or write.
unsafe fn each<T>(sub: u32, list: &mut [T]) -> Result<(), Status> {
    let arguments = [u64::from(sub), list.as_mut_ptr() as u64, list.len() as u64, 0, 0];
    // SAFETY: the list is exclusively borrowed and of the length given; the caller answers for its contents.
    let done = unsafe { super::raw(HYPERVISOR_GRANT_TABLE_OP, arguments) };
    // Only an error of this code, as a list that cannot be read, fails as a whole.
    done.map(|_| ()).map_err(|_| Status(GNTST_GENERAL_ERROR))
}

/// As [`each`], and again for those that `GNTST_EAGAIN` asks for: their domain is changing the version of its grants, which is over soon unless it does so again
/// and again.
///
/// # Safety
/// As of [`each`].
unsafe fn each_in_the_end<T>(sub: u32, list: &mut [T], status: impl Fn(&T) -> i16) -> Result<(), Status> {
    const TRIES: usize = 100;
    // SAFETY: the caller's.
    unsafe { each(sub, list)? };
    let mut tries = TRIES;
    for operation in list {
        while status(operation) == GNTST_EAGAIN && tries > 0 {
            tries -= 1;
            let _ = super::sched::yield_now();
            // SAFETY: as above.
            unsafe { each(sub, core::slice::from_mut(operation))? };
        }
    }
    Ok(())
}

/// Maps grants of `domain` at adjacent frames of this domain from `gfn` on; used by [`crate::foreign`] on frames
/// that are its own to use. All or none.
pub(crate) fn map(
    domain: Domid,
    references: &[GrantRef],
    gfn: u64,
    access: Access,
) -> Result<Vec<GrantHandle>, Status> {
    let flags = match access {
        Access::Read => GNTMAP_HOST_MAP | GNTMAP_READONLY,
        Access::Write => GNTMAP_HOST_MAP,
    };
    let operation = |(&ref_, gfn): (&GrantRef, u64)| GnttabMapGrantRef {
        host_addr: gfn * PAGE as u64,
        flags,
        ref_,
        dom: domain,
        status: GNTST_GENERAL_ERROR,
        ..Default::default()
    };
    let mut list: Vec<_> = references.iter().zip(gfn..).map(operation).collect();
    // SAFETY: the frames are of the foreign window, where nothing of Rust's lives.
    let done = unsafe { each_in_the_end(GNTTABOP_MAP_GRANT_REF, &mut list, |map| map.status) };
    let failed = list
        .iter()
        .map(|done| done.status)
        .find(|&status| status != GNTST_OKAY);
    match (done, failed) {
        (Ok(()), None) => Ok(list.iter().map(|done| done.handle).collect()),
        (result, failed) => {
            let mapped = list
                .iter()
                .zip(gfn..)
                .filter(|(done, _)| done.status == GNTST_OKAY);
            unmap(mapped.map(|(done, gfn)| (done.handle, gfn)));
            result.and(Err(Status(failed.unwrap_or(GNTST_GENERAL_ERROR))))
        }
    }
}

/// Undoes mappings: handle and frame of each.
pub(crate) fn unmap(mappings: impl Iterator<Item = (GrantHandle, u64)>) {
    let operation = |(handle, gfn): (GrantHandle, u64)| GnttabUnmapGrantRef {
        host_addr: gfn * PAGE as u64,
        handle,
        ..Default::default()
    };
    let mut list: Vec<_> = mappings.map(operation).collect();
    // SAFETY: as in `map`; users of the mapping are gone, as it is being dropped.
    let done = unsafe { each(GNTTABOP_UNMAP_GRANT_REF, &mut list) };
    debug_assert!(done.is_ok() && list.iter().all(|done| done.status == GNTST_OKAY));
}

/// Part of a page that another domain has granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Whose.
    pub domain: Domid,
    /// Which grant.
    pub reference: GrantRef,
    /// First byte. The hypervisor refuses what leaves the page.
    pub offset: u16,
}

impl Granted {
    fn end(self, done: usize) -> GnttabCopyPtr {
        GnttabCopyPtr {
            u: self.reference.into(),
            domid: self.domain,
            // An offset that wraps is one that was out of the page, and so is what it wraps with its length.
            offset: self.offset.saturating_add(done as u16),
            ..Default::default()
        }
    }
}

/// A batch of copies between memory of this domain and granted pages, or among these. Nothing is copied before
/// [`Self::run`].
#[derive(Default)]
pub struct Copies<'a> {
    list: Vec<GnttabCopy>,
    /// The memory that the list has addresses of.
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Copies<'a> {
    /// Adds: from `bytes` to a granted page.
    pub fn to_grant(&mut self, bytes: &'a [u8], granted: Granted) {
        self.own(bytes.as_ptr() as u64, bytes.len(), |own, done, len| GnttabCopy {
            source: own,
            dest: granted.end(done),
            len,
            flags: GNTCOPY_DEST_GREF,
            ..Default::default()
        });
    }

    /// Adds: from a granted page to `bytes`.
    pub fn from_grant(&mut self, granted: Granted, bytes: &'a mut [u8]) {
        self.own(bytes.as_mut_ptr() as u64, bytes.len(), |own, done, len| {
            GnttabCopy {
                source: granted.end(done),
                dest: own,
                len,
                flags: GNTCOPY_SOURCE_GREF,
                ..Default::default()
            }
        });
    }

    /// Adds: `len` bytes from one granted page to another.
    pub fn between(&mut self, from: Granted, to: Granted, len: u16) {
        self.list.push(GnttabCopy {
            source: from.end(0),
            dest: to.end(0),
            len,
            flags: GNTCOPY_SOURCE_GREF | GNTCOPY_DEST_GREF,
            ..Default::default()
        });
    }

    /// Adds one operation for each frame of this domain's own that `length` bytes at `address` lie in.
    fn own(
        &mut self,
        address: u64,
        length: usize,
        operation: impl Fn(GnttabCopyPtr, usize, u16) -> GnttabCopy,
    ) {
        let mut done = 0;
        while done < length {
            let at = address + done as u64;
            let offset = at as usize % PAGE;
            let chunk = (length - done).min(PAGE - offset);
            let own = GnttabCopyPtr {
                u: at / PAGE as u64,
                domid: DOMID_SELF,
                offset: offset as u16,
                ..Default::default()
            };
            self.list.push(operation(own, done, chunk as u16));
            done += chunk;
        }
    }

    /// Carries the batch out. Every copy is tried; for each operation (one for every frame of this domain's memory
    /// in question) there is a status.
    pub fn run(mut self) -> impl Iterator<Item = Result<(), Status>> {
        if !self.list.is_empty() {
            // SAFETY: own memory in the list is borrowed for 'a, that which is written exclusively; virtual and
            // guest-physical addresses are the same.
            let done = unsafe { each_in_the_end(GNTTABOP_COPY, &mut self.list, |copy| copy.status) };
            if let Err(Status(status)) = done {
                self.list.iter_mut().for_each(|copy| copy.status = status);
            }
        }
        self.list.into_iter().map(|copy| match copy.status {
            GNTST_OKAY => Ok(()),
            status => Err(Status(status)),
        })
    }
}
