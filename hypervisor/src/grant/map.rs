//! What a domain has mapped of others' grants.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::grant::{
    GNTMAP_APPLICATION_MAP, GNTMAP_CONTAINS_PTE, GNTMAP_DEVICE_MAP, GNTMAP_HOST_MAP, GNTMAP_READONLY,
    GNTST_BAD_DOMAIN, GNTST_BAD_GNTREF, GNTST_BAD_HANDLE, GNTST_GENERAL_ERROR, GNTST_NO_DEVICE_SPACE,
};

use super::{GrantTable, Purpose, Status};
use crate::domain::{Domain, table};
use crate::mm::guest::Access;
use crate::mm::{fallible, p2m, page_info};
use crate::types::{DomId, Gfn, Gpa, Mfn};

/// One grant that is mapped.
struct Mapping {
    /// Held, not named: what the hypervisor made for a domain, and the domain has granted, may outlive the domain, and its number then
    /// is another's.
    granter: Arc<Domain>,
    reference: u32,
    access: Access,
    gfn: Gfn,
    mfn: Mfn,
}

/// What a handle names.
enum Slot {
    /// Nothing; `next` is another such handle.
    Free { next: Option<u32> },
    /// What is being made.
    Reserved,
    /// This.
    Mapped(Mapping),
}

/// Handles whose memory is taken at once.
const CHUNK: usize = 256;

/// All that a domain has mapped; a handle is an index, in chunks of [`CHUNK`].
pub(super) struct Mappings {
    chunks: Vec<Vec<Slot>>,
    free: Option<u32>,
    count: u32,
    limit: u32,
}

impl Mappings {
    /// How many there are, and may be.
    pub(super) fn size(&self) -> (u32, u32) {
        (self.count, self.limit)
    }

    pub(super) fn new(limit: u32) -> Self {
        Self {
            chunks: Vec::new(),
            free: None,
            count: 0,
            limit,
        }
    }

    fn slot(&mut self, handle: u32) -> Option<&mut Slot> {
        let handle = handle as usize;
        self.chunks.get_mut(handle / CHUNK)?.get_mut(handle % CHUNK)
    }

    /// A handle that nobody else gets, and that names nothing until it is [`set`](Self::set).
    fn reserve(&mut self) -> Option<u32> {
        if let Some(handle) = self.free {
            let slot = self.slot(handle)?;
            if let Slot::Free { next } = *slot {
                *slot = Slot::Reserved;
                self.free = next;
            }
            return Some(handle);
        }
        if self.count >= self.limit {
            return None;
        }
        if self.chunks.len() * CHUNK == self.count as usize {
            let chunk = fallible::room(CHUNK).ok()?;
            self.chunks.try_reserve(1).ok()?;
            self.chunks.push(chunk);
        }
        self.chunks.last_mut()?.push(Slot::Reserved);
        self.count += 1;
        Some(self.count - 1)
    }

    /// `handle`, which was reserved, names `mapping` from now on.
    fn set(&mut self, handle: u32, mapping: Mapping) {
        if let Some(slot) = self.slot(handle) {
            *slot = Slot::Mapped(mapping);
        }
    }

    /// `handle` is not needed (any more).
    fn cancel(&mut self, handle: u32) {
        let next = self.free;
        if let Some(slot) = self.slot(handle) {
            *slot = Slot::Free { next };
            self.free = Some(handle);
        }
    }

    fn take(&mut self, handle: u32, if_it: impl FnOnce(&Mapping) -> bool) -> Result<Mapping, Status> {
        let next = self.free;
        let slot = self.slot(handle).ok_or(Status(GNTST_BAD_HANDLE))?;
        match slot {
            Slot::Mapped(mapping) if if_it(mapping) => {}
            Slot::Mapped(_) => return Err(Status(GNTST_GENERAL_ERROR)),
            Slot::Free { .. } | Slot::Reserved => return Err(Status(GNTST_BAD_HANDLE)),
        }
        let taken = core::mem::replace(slot, Slot::Free { next });
        self.free = Some(handle);
        match taken {
            Slot::Mapped(mapping) => Ok(mapping),
            Slot::Free { .. } | Slot::Reserved => Err(Status(GNTST_BAD_HANDLE)),
        }
    }

    /// The last slot, which is forgotten, when there is no use for any of them.
    fn pop(&mut self) -> Option<Slot> {
        self.free = None;
        while self.chunks.last().is_some_and(Vec::is_empty) {
            self.chunks.pop();
        }
        let slot = self.chunks.last_mut()?.pop()?;
        self.count -= 1;
        Some(slot)
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
pub fn map(
    domain: &Arc<Domain>,
    granter: DomId,
    reference: u32,
    at: Gpa,
    flags: u32,
) -> Result<Mapped, Status> {
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
    let pinned = GrantTable::pin(&granter, reference, domain.id, access, Purpose::Map)?;
    let gfn = at.frame();
    let mfn = pinned.frame.mfn();
    // Named only when it is there: another vCPU that guesses the handle must not undo what is half done.
    let reserved = domain.grants.mappings.lock().reserve();
    let Some(handle) = reserved else {
        pinned.pin.end(&granter);
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
    let mapping = Mapping {
        granter,
        reference,
        access,
        gfn,
        mfn,
    };
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
    release(domain, &mapping);
    Ok(())
}

fn release(domain: &Domain, mapping: &Mapping) {
    let still = |entry: p2m::Entry| {
        matches!(entry.kind, p2m::Kind::GrantRo | p2m::Kind::GrantRw) && entry.mfn == mapping.mfn
    };
    let removed = domain.p2m.unmap_if(mapping.gfn, 0, still).ok().flatten();
    let reference = removed.map(|removed| {
        domain.flush(removed.flush);
        removed.mfn
    });
    mapping.granter.grants.unpin(mapping.reference, mapping.access);
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
            let slot = self.mappings.lock().pop();
            match slot {
                Some(Slot::Mapped(mapping)) => release(domain, &mapping),
                Some(Slot::Free { .. } | Slot::Reserved) => {}
                None => return true,
            }
        }
        false
    }
}
