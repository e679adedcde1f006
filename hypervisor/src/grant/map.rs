//! The using half: what a domain has mapped of others' grants, and copies by grant.

use alloc::vec::Vec;

use abi::grant::{
    GNTMAP_APPLICATION_MAP, GNTMAP_CONTAINS_PTE, GNTMAP_DEVICE_MAP, GNTMAP_HOST_MAP, GNTMAP_READONLY,
    GNTST_BAD_COPY_ARG, GNTST_BAD_DOMAIN, GNTST_BAD_GNTREF, GNTST_BAD_HANDLE, GNTST_BAD_PAGE,
    GNTST_BAD_VIRT_ADDR, GNTST_GENERAL_ERROR, GNTST_NO_DEVICE_SPACE,
};

use super::{GrantTable, Status};
use crate::domain::{Domain, table};
use crate::mm::guest::{Access, GuestFrame};
use crate::mm::{p2m, page_info};
use crate::types::{DomId, Gfn, Gpa, Mfn, PAGE_SIZE};

/// One grant that is mapped.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    granter: DomId,
    reference: u32,
    access: Access,
    gfn: Gfn,
    mfn: Mfn,
}

/// All that a domain has mapped; a handle is an index.
pub(super) struct Mappings {
    slots: Vec<Option<Mapping>>,
    free: Vec<u32>,
    limit: u32,
}

impl Mappings {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            limit,
        }
    }

    /// A handle that nobody else gets, and that names nothing until it is [`set`](Self::set).
    fn reserve(&mut self) -> Option<u32> {
        match self.free.pop() {
            Some(handle) => Some(handle),
            None if (self.slots.len() as u32) < self.limit => {
                self.slots.push(None);
                Some(self.slots.len() as u32 - 1)
            }
            None => None,
        }
    }

    /// `handle`, which was reserved, names `mapping` from now on.
    fn set(&mut self, handle: u32, mapping: Mapping) {
        if let Some(slot) = self.slots.get_mut(handle as usize) {
            *slot = Some(mapping);
        }
    }

    /// `handle`, which was reserved, is not needed.
    fn cancel(&mut self, handle: u32) {
        self.free.push(handle);
    }

    fn take(&mut self, handle: u32, if_it: impl FnOnce(&Mapping) -> bool) -> Result<Mapping, Status> {
        let slot = self
            .slots
            .get_mut(handle as usize)
            .ok_or(Status(GNTST_BAD_HANDLE))?;
        let mapping = slot.ok_or(Status(GNTST_BAD_HANDLE))?;
        if !if_it(&mapping) {
            return Err(Status(GNTST_GENERAL_ERROR));
        }
        *slot = None;
        self.free.push(handle);
        Ok(mapping)
    }
}

/// What a domain gets for a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapped {
    /// Names the mapping when it is undone.
    pub handle: u32,
    /// The machine frame, as devices see it.
    pub mfn: Mfn,
}

/// Map entry `reference` of `granter` into `domain` at `at`, as `flags` (`GNTMAP_*`) say.
///
/// # Errors
/// `GNTST_BAD_DOMAIN`: no such granter. `GNTST_BAD_GNTREF`: neither kind of mapping is asked for, or no such entry.
/// `GNTST_GENERAL_ERROR`: a kind that a domain with nested paging cannot have, not granted, or `at` is in use. `GNTST_NO_DEVICE_SPACE`: too many
/// mappings. `GNTST_BAD_PAGE`: as for [`GrantTable::pin`].
pub fn map(domain: &Domain, granter: DomId, reference: u32, at: Gpa, flags: u32) -> Result<Mapped, Status> {
    if flags & (GNTMAP_DEVICE_MAP | GNTMAP_HOST_MAP) == 0 {
        return Err(Status(GNTST_BAD_GNTREF));
    }
    if flags & (GNTMAP_DEVICE_MAP | GNTMAP_APPLICATION_MAP | GNTMAP_CONTAINS_PTE) != 0 {
        return Err(Status(GNTST_GENERAL_ERROR));
    }
    let granter = table::get(granter).ok_or(Status(GNTST_BAD_DOMAIN))?;
    let access = if flags & GNTMAP_READONLY != 0 {
        Access::Read
    } else {
        Access::Write
    };
    let pinned = GrantTable::pin(&granter, reference, domain.id, access)?;
    let gfn = at.frame();
    let mfn = pinned.frame.mfn();
    let mapping = Mapping {
        granter: granter.id,
        reference,
        access,
        gfn,
        mfn,
    };
    // Named only when it is there: another vCPU that guesses the handle must not undo what is half done.
    let reserved = domain.grants.mappings.lock().reserve();
    let Some(handle) = reserved else {
        granter.grants.unpin(reference, access);
        return Err(Status(GNTST_NO_DEVICE_SPACE));
    };
    let kind = if access == Access::Read {
        p2m::Kind::GrantRo
    } else {
        p2m::Kind::GrantRw
    };
    let frame = pinned.frame.into_reference();
    if domain.p2m.map(gfn, frame, 0, kind).is_err() {
        domain.grants.mappings.lock().cancel(handle);
        granter.grants.unpin(reference, access);
        page_info::put(frame, 0);
        return Err(Status(GNTST_GENERAL_ERROR));
    }
    domain.grants.mappings.lock().set(handle, mapping);
    Ok(Mapped { handle, mfn })
}

/// Undo the mapping `handle`, which is at `at`.
///
/// # Errors
/// `GNTST_BAD_HANDLE`: there is none. `GNTST_GENERAL_ERROR`: it is not at `at`.
pub fn unmap(domain: &Domain, handle: u32, at: Gpa) -> Result<(), Status> {
    let mapping = domain
        .grants
        .mappings
        .lock()
        .take(handle, |mapping| mapping.gfn.addr() == at)?;
    release(domain, mapping);
    Ok(())
}

fn release(domain: &Domain, mapping: Mapping) {
    let still = domain.p2m.lookup(mapping.gfn).is_some_and(|entry| {
        matches!(entry.kind, p2m::Kind::GrantRo | p2m::Kind::GrantRw) && entry.mfn == mapping.mfn
    });
    let removed = if still {
        domain.p2m.unmap(mapping.gfn, 0).ok().flatten()
    } else {
        None
    };
    let reference = removed.map(|removed| {
        domain.flush(removed.flush);
        removed.mfn
    });
    // The granter stays in the table until its last frame comes back, which is below.
    if let Some(granter) = table::get(mapping.granter) {
        granter.grants.unpin(mapping.reference, mapping.access);
    }
    if let Some(mfn) = reference {
        page_info::put(mfn, 0);
    }
}

/// Mappings that one call of [`GrantTable::release_some`] looks at.
const RELEASE_SLICE: usize = 256;

impl GrantTable {
    /// Undo mappings of `domain`, whose table this is and which is being destroyed. `true`: none is left.
    pub fn release_some(&self, domain: &Domain) -> bool {
        for _ in 0..RELEASE_SLICE {
            let mut mappings = self.mappings.lock();
            match mappings.slots.pop() {
                Some(Some(mapping)) => {
                    drop(mappings);
                    release(domain, mapping);
                }
                Some(None) => {}
                None => {
                    mappings.free.clear();
                    return true;
                }
            }
        }
        false
    }
}

/// One end of a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyEnd {
    /// A frame of the caller's own.
    Own(Gfn),
    /// A grant of another domain (or of the caller).
    Grant(DomId, u32),
}

/// Copy `len` bytes from offset `from.1` of one frame to offset `to.1` of another.
///
/// # Errors
/// `GNTST_BAD_COPY_ARG`: a range leaves its frame. `GNTST_BAD_DOMAIN`, `GNTST_BAD_PAGE` and those of [`GrantTable::pin`].
pub fn copy(domain: &Domain, from: (CopyEnd, u16), to: (CopyEnd, u16), len: u16) -> Result<(), Status> {
    let fits = |offset: u16| u64::from(offset) + u64::from(len) <= PAGE_SIZE;
    if !fits(from.1) || !fits(to.1) {
        return Err(Status(GNTST_BAD_COPY_ARG));
    }
    with_end(domain, from.0, Access::Read, |source| {
        with_end(domain, to.0, Access::Write, |target| {
            target
                .copy_from(u64::from(to.1), source, u64::from(from.1), u64::from(len))
                .map_err(|_| Status(GNTST_BAD_VIRT_ADDR))
        })
    })
}

fn with_end(
    domain: &Domain,
    end: CopyEnd,
    access: Access,
    work: impl FnOnce(&GuestFrame) -> Result<(), Status>,
) -> Result<(), Status> {
    match end {
        CopyEnd::Own(gfn) => work(&domain.pin(gfn, access).map_err(|_| Status(GNTST_BAD_PAGE))?),
        CopyEnd::Grant(granter, reference) => {
            let granter = table::get(granter).ok_or(Status(GNTST_BAD_DOMAIN))?;
            let pinned = GrantTable::pin(&granter, reference, domain.id, access)?;
            let result = work(&pinned.frame);
            granter.grants.unpin(reference, access);
            result
        }
    }
}
