//! Copies by grant: from or to frames that are never mapped.

use abi::grant::{
    GNTST_BAD_COPY_ARG, GNTST_BAD_DOMAIN, GNTST_BAD_PAGE, GNTST_BAD_VIRT_ADDR, GNTST_GENERAL_ERROR,
};

use super::{GrantTable, Purpose, Status};
use crate::domain::{Domain, table};
use crate::mm::guest::{Access, GuestFrame};
use crate::types::{DomId, Gfn, PAGE_SIZE};

/// One side of a copy.
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
/// `GNTST_BAD_DOMAIN`, `GNTST_BAD_PAGE` and those of [`GrantTable::pin`]; then `GNTST_BAD_COPY_ARG`: a range leaves its frame;
/// `GNTST_GENERAL_ERROR`: it is not all granted.
pub fn copy(domain: &Domain, from: (CopyEnd, u16), to: (CopyEnd, u16), len: u16) -> Result<(), Status> {
    let end = |offset: u16| u32::from(offset) + u32::from(len);
    let fits = |offset: u16| u64::from(end(offset)) <= PAGE_SIZE;
    let covers = |(first, length): (u16, u16), offset: u16| {
        offset >= first && end(offset) <= u32::from(first) + u32::from(length)
    };
    with_end(domain, from.0, Access::Read, |source, readable| {
        with_end(domain, to.0, Access::Write, |target, writable| {
            if !fits(from.1) || !fits(to.1) {
                return Err(Status(GNTST_BAD_COPY_ARG));
            }
            if !covers(readable, from.1) || !covers(writable, to.1) {
                return Err(Status(GNTST_GENERAL_ERROR));
            }
            target
                .copy_from(to.1.into(), source, from.1.into(), len.into())
                .map_err(|_| Status(GNTST_BAD_VIRT_ADDR))
        })
    })
}

/// Do `work` with the frame of a side, and with the first byte and the number of bytes in it that may be used.
#[inline]
fn with_end(
    domain: &Domain,
    end: CopyEnd,
    access: Access,
    work: impl FnOnce(&GuestFrame, (u16, u16)) -> Result<(), Status>,
) -> Result<(), Status> {
    match end {
        CopyEnd::Own(gfn) => {
            let frame = domain.pin_own(gfn, access).map_err(|_| Status(GNTST_BAD_PAGE))?;
            work(&frame, (0, PAGE_SIZE as u16))
        }
        CopyEnd::Grant(granter, reference) => {
            let granter = table::get(granter).ok_or(Status(GNTST_BAD_DOMAIN))?;
            let pinned = GrantTable::pin(&granter, reference, domain.id, access, Purpose::Copy)?;
            let result = work(&pinned.frame, pinned.range);
            pinned.release(&granter);
            result
        }
    }
}
