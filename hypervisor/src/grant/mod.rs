//! Grant tables: a domain lets others at single frames of its memory.
//!
//! The table is in frames that the granting domain writes; an [`entry`] says who may use which frame and how, in the form of version 1 or 2.
//! Beside it stands what the hypervisor knows ([`table`](table::Table)): how often each entry is in use. While it is, the entry's "reading" and
//! "writing" flags are set, so that a guest can end a grant only when nobody uses it.
//!
//! The other half is the using domain's: [`map`] and [`copy`]. Being at an entry takes that entry's lock, a handle of a mapping the using
//! domain's; they are never held together.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

pub mod copy;
mod entry;
pub mod map;
mod table;
mod version;

use alloc::sync::Arc;

use abi::Errno;
use abi::grant::{GNTST_BAD_DOMAIN, GNTST_BAD_PAGE, GNTST_GENERAL_ERROR, GTF_PERMIT_ACCESS};

use crate::domain::{self, Domain};
use crate::mm::fallible::OutOfMemory;
use crate::mm::guest::{Access, GuestFrame};
use crate::sync::{Mutex, Once, Rank};
use crate::types::DomId;
use entry::Granted;
use map::Mappings;

pub use entry::Purpose;
pub use table::{Part, Table};
pub use version::Version;

/// A `GNTST_*` other than "okay".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(pub i16);

/// Mappings that a "maptrack frame" of the configuration stands for (Xen's are 16 bytes).
const MAPPINGS_PER_FRAME: u32 = 256;

/// Sizes that no domain's grants exceed, and that they have where a toolstack leaves it to the hypervisor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Frames of the table.
    pub frames: u32,
    /// Frames' worth of mappings of others' grants.
    pub maptrack_frames: u32,
}

impl Limits {
    /// Xen's.
    pub const DEFAULT: Limits = Limits {
        frames: 64,
        maptrack_frames: 1024,
    };
}

static LIMITS: Once<Limits> = Once::new();

/// Set [`limits`], before the first domain is made.
pub fn set_limits(limits: Limits) {
    LIMITS.call_once(|| limits);
}

/// What `gnttab_max_frames=` and `gnttab_max_maptrack_frames=` say.
pub fn limits() -> Limits {
    LIMITS.get().copied().unwrap_or(Limits::DEFAULT)
}

/// Both halves of a domain's grants.
pub struct GrantTable {
    max_version: Version,
    /// What the domain grants.
    pub table: Table,
    mappings: Mutex<Mappings>,
}

/// A granted frame, with a reference.
pub struct Pinned {
    /// The frame.
    pub frame: GuestFrame,
    /// Granted are so many bytes from the first number on.
    pub range: (u16, u16),
    /// The use of the entry that this is by.
    pub pin: Pin,
}

/// A use of an entry, which [`Pin::end`] ends.
#[must_use = "the entry stays in use"]
pub struct Pin {
    reference: u32,
    access: Access,
    /// The entry that this one, transitive, led to.
    through: Option<(Arc<Domain>, u32)>,
}

impl Pin {
    /// End the use of `granter`'s entry; once.
    #[inline(always)]
    pub fn end(&self, granter: &Domain) {
        if let Some((other, reference)) = &self.through {
            other.grants.unpin(*reference, self.access);
        }
        granter.grants.unpin(self.reference, self.access);
    }
}

impl GrantTable {
    /// How many grants of others the domain has mapped, and may have.
    pub fn mapped(&self) -> (u32, u32) {
        self.mappings.lock().size()
    }

    /// A table of one frame, which may grow to `max_frames`, with entries of version 1; the domain may choose others up to `max_version`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(
        owner: DomId,
        max_frames: u32,
        max_maptrack_frames: u32,
        max_version: Version,
    ) -> Result<Self, OutOfMemory> {
        let mappings = Mappings::new(max_maptrack_frames.saturating_mul(MAPPINGS_PER_FRAME));
        let table = Table::new(owner, max_frames).map_err(|_| OutOfMemory)?;
        if max_frames > 0 {
            table.grow_to(1).map_err(|_| OutOfMemory)?;
        }
        Ok(Self {
            max_version,
            table,
            mappings: Mutex::new(Rank::Mappings, mappings),
        })
    }

    // ---- uses ----

    /// Begin to use entry `reference` of `granter`, on behalf of `user`.
    ///
    /// # Errors
    /// `GNTST_BAD_GNTREF`: the table has no such entry. `GNTST_GENERAL_ERROR`: it does not grant `access` to `user`, or is transitive
    /// and leads to its own domain. `GNTST_BAD_DOMAIN`: it leads to one that is not there. `GNTST_BAD_PAGE`: it names memory that `granter` does not own.
    /// `GNTST_EAGAIN`: the table's version is being changed; who asks again finds what has become of the entry.
    #[inline(always)]
    pub fn pin(
        granter: &Domain,
        reference: u32,
        user: DomId,
        access: Access,
        purpose: Purpose,
    ) -> Result<Pinned, Status> {
        let table = &granter.grants.table;
        let granted = {
            let (mut uses, version) = table.lock_entry(reference)?;
            let mut entry = table.entry(version, reference, &mut uses)?;
            entry.begin(user, access, purpose)?
        };
        let status = match granted {
            Granted::Memory { gfn, offset, length } => match granter.pin_own(gfn, access) {
                Ok(frame) => {
                    let pin = Pin {
                        reference,
                        access,
                        through: None,
                    };
                    return Ok(Pinned {
                        frame,
                        range: (offset, length),
                        pin,
                    });
                }
                Err(_) => Status(GNTST_BAD_PAGE),
            },
            Granted::Transitive {
                domain,
                reference: further,
            } => match through(granter, domain, further, access) {
                Ok((domain, pinned)) => {
                    let pin = Pin {
                        reference,
                        access,
                        through: Some((domain, further)),
                    };
                    return Ok(Pinned { pin, ..pinned });
                }
                Err(status) => status,
            },
        };
        granter.grants.unpin(reference, access);
        Err(status)
    }

    /// End a use that [`GrantTable::pin`] began.
    #[inline]
    fn unpin(&self, reference: u32, access: Access) {
        // An entry that is in use is there.
        let _ = self.table.end_use(reference, access);
    }

    /// Write an entry that grants `frame` to `user`, on the domain's behalf (the toolstack's console and xenstore entries).
    ///
    /// # Errors
    /// `GNTST_BAD_GNTREF`: the table has no such entry. `GNTST_EAGAIN`: its version is being changed.
    pub fn seed(&self, reference: u32, user: DomId, frame: u32) -> Result<(), Status> {
        let header = u32::from(GTF_PERMIT_ACCESS) | u32::from(user.0) << 16;
        self.table
            .with_entry(reference, |entry| entry.write(header, frame))
    }
}

/// What a transitive entry of `granter` leads to: not to another of its own, nor to another transitive one.
#[inline(never)]
fn through(
    granter: &Domain,
    domain: DomId,
    reference: u32,
    access: Access,
) -> Result<(Arc<Domain>, Pinned), Status> {
    if domain == granter.id {
        return Err(Status(GNTST_GENERAL_ERROR));
    }
    let domain = domain::table::get(domain).ok_or(Status(GNTST_BAD_DOMAIN))?;
    let pinned = GrantTable::pin(&domain, reference, granter.id, access, Purpose::CopyThrough)?;
    Ok((domain, pinned))
}

/// Choose the form of a domain's entries. All but the first 8 are cleared.
///
/// # Errors
/// `ENOSYS`: the domain may not have it. `EBUSY`: an entry behind the first 8 is in use. `ERANGE`: one of the first 8 has no equivalent. `ENOMEM`.
pub fn set_version(domain: &Domain, version: Version) -> Result<(), Errno> {
    let grants = &domain.grants;
    if version > grants.max_version {
        return Err(Errno::ENOSYS);
    }
    grants.table.set_version(version)?;
    if version == Version::V1 {
        for (gfn, mfn) in grants.table.forget_status() {
            domain.unmap_frame(gfn, mfn)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
