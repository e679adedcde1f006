//! Copies by grant: from or to frames that are never mapped.

use alloc::sync::Arc;

use abi::grant::{
    GNTST_BAD_COPY_ARG, GNTST_BAD_DOMAIN, GNTST_BAD_PAGE, GNTST_BAD_VIRT_ADDR, GNTST_GENERAL_ERROR,
};

use super::{GrantTable, Pin, Pinned, Purpose, Status};
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
    let end = |offset: u16| u64::from(offset) + u64::from(len);
    let fits = |offset: u16| end(offset) <= PAGE_SIZE;
    let covers = |(first, length): (u16, u16), offset: u16| {
        offset >= first && end(offset) <= u64::from(first) + u64::from(length)
    };
    // Not moved out of the results, which takes longer than to look at them there.
    let source = Side::begin(domain, from.0, Access::Read);
    let source = source.as_ref().map_err(|&status| status)?;
    let target = Side::begin(domain, to.0, Access::Write);
    let result = match &target {
        Err(status) => Err(*status),
        Ok(_) if !fits(from.1) || !fits(to.1) => Err(Status(GNTST_BAD_COPY_ARG)),
        Ok(target) if !covers(source.range, from.1) || !covers(target.range, to.1) => {
            Err(Status(GNTST_GENERAL_ERROR))
        }
        Ok(target) => target
            .frame
            .copy_from(to.1.into(), &source.frame, from.1.into(), len.into())
            .map_err(|_| Status(GNTST_BAD_VIRT_ADDR)),
    };
    if let Ok(target) = &target {
        target.end();
    }
    source.end();
    result
}

/// One side of a copy while it is under way.
struct Side {
    frame: GuestFrame,
    /// The first byte and the number of bytes that may be used.
    range: (u16, u16),
    /// The use of a grant that this is by, and whose it is.
    grant: Option<(Arc<Domain>, Pin)>,
}

impl Side {
    #[inline(always)]
    fn begin(domain: &Domain, end: CopyEnd, access: Access) -> Result<Side, Status> {
        match end {
            CopyEnd::Own(gfn) => Side::own(domain, gfn, access),
            CopyEnd::Grant(granter, reference) => Side::grant(granter, reference, domain.id, access),
        }
    }

    #[inline]
    fn own(domain: &Domain, gfn: Gfn, access: Access) -> Result<Side, Status> {
        match domain.pin_own(gfn, access) {
            Ok(frame) => Ok(Side {
                frame,
                range: (0, PAGE_SIZE as u16),
                grant: None,
            }),
            Err(_) => Err(Status(GNTST_BAD_PAGE)),
        }
    }

    #[inline(never)]
    fn grant(granter: DomId, reference: u32, user: DomId, access: Access) -> Result<Side, Status> {
        let granter = table::get(granter).ok_or(Status(GNTST_BAD_DOMAIN))?;
        let Pinned { frame, range, pin } = GrantTable::pin(&granter, reference, user, access, Purpose::Copy)?;
        Ok(Side {
            frame,
            range,
            grant: Some((granter, pin)),
        })
    }

    /// End the use of the grant. Not by `Drop`: what the compiler makes of that is a call, which asks again what kind of side it is.
    #[inline(always)]
    fn end(&self) {
        if let Some((granter, pin)) = &self.grant {
            pin.end(granter);
        }
    }
}
