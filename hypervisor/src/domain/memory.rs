//! A domain's memory as a whole: frames come in, go out, and are shown to others.
//!
//! Every p2m entry stands for one reference on its frames (see [`crate::mm::p2m`]); this is the one place where entries and
//! references meet.

use abi::Errno;
use arrayvec::ArrayVec;

use super::Domain;
use super::vcpu::Request;
use crate::mm::fallible::OutOfMemory;
use crate::mm::guest::{Access, Fault, GuestFrame};
use crate::mm::p2m::{Entry, Flush, Kind, MapError, Removed};
use crate::mm::{frames, page_info};
use crate::types::{Gfn, Mfn};

impl From<MapError> for Errno {
    fn from(error: MapError) -> Errno {
        match error {
            MapError::OutOfRange | MapError::Misaligned => Errno::EINVAL,
            MapError::Occupied => Errno::EBUSY,
            MapError::NoMemory => Errno::ENOMEM,
        }
    }
}

impl From<OutOfMemory> for Errno {
    fn from(_: OutOfMemory) -> Errno {
        Errno::ENOMEM
    }
}

impl From<page_info::OverLimit> for Errno {
    fn from(_: page_info::OverLimit) -> Errno {
        Errno::ENOMEM
    }
}

impl Domain {
    /// Give the domain `1 << order` (0, 9 or 18) new frames at `gfn`.
    ///
    /// # Errors
    /// `ENOMEM`: over its limit, or no frames. `EBUSY`: something is there. `EINVAL`: it cannot address them, or they are not
    /// aligned.
    pub fn populate(&self, gfn: Gfn, order: u32) -> Result<(), Errno> {
        if self.is_dying() {
            return Err(Errno::EINVAL);
        }
        // Before they are there: other vCPUs ask for memory at the same time.
        page_info::charge(self.id, 1 << order, self.max_pages())?;
        let mfn = self
            .new_frames(order)
            .inspect_err(|_| page_info::uncharge(self.id, 1 << order))?;
        self.p2m.map(gfn, mfn, order, Kind::RamRw).map_err(|error| {
            page_info::put(mfn, order);
            Errno::from(error)
        })?;
        // Whoever destroys the domain meanwhile may have been here before it was mapped, in pages of whatever size.
        if self.is_dying() {
            let mut done = 0;
            while done < 1 << order {
                let at = gfn.offset(done);
                done += 1
                    << self
                        .unmap(at, order.min(at.0.trailing_zeros() / 9 * 9))?
                        .unwrap_or(0);
            }
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// New frames of the domain's, which it has been charged for, with a reference on each.
    fn new_frames(&self, order: u32) -> Result<Mfn, Errno> {
        // Whatever was in them, a boot loader's leavings or the hypervisor's own: no domain sees it.
        let mfn = frames::alloc_zeroed_for_domain(order, &self.claim).ok_or(Errno::ENOMEM)?;
        page_info::assign(mfn, order, self.id, page_info::Kind::Ram).map_err(|error| {
            frames::free(mfn, order);
            Errno::from(error)
        })?;
        Ok(mfn)
    }

    /// Take the page at `gfn` away, but no more than `1 << order` (0, 9 or 18) frames of it. Returns the log2 of how many it was, `None` if nothing is
    /// mapped there.
    ///
    /// # Errors
    /// `ENOMEM`: a large page had to be split.
    pub fn unmap(&self, gfn: Gfn, order: u32) -> Result<Option<u32>, Errno> {
        Unmapping::of(self).unmap_if(gfn, order, |_| true)
    }

    /// Take `mfn` away from `gfn`, if that is where it still is.
    ///
    /// # Errors
    /// As [`Domain::unmap`].
    pub fn unmap_frame(&self, gfn: Gfn, mfn: Mfn) -> Result<(), Errno> {
        Unmapping::of(self).unmap_if(gfn, 0, |entry| entry.mfn == mfn)?;
        Ok(())
    }

    /// Map `frame` at `gfn`, in the place of whatever RAM is there.
    ///
    /// # Errors
    /// `EBUSY`: a grant or a device's registers are mapped there. `ENOMEM`, `EINVAL`: as the p2m says.
    pub fn place(&self, gfn: Gfn, frame: GuestFrame, kind: Kind) -> Result<(), Errno> {
        match self.p2m.lookup(gfn).map(|entry| entry.kind) {
            Some(Kind::GrantRw | Kind::GrantRo | Kind::MmioDirect | Kind::ApicAccess) => {
                return Err(Errno::EBUSY);
            }
            Some(_) => drop(self.unmap(gfn, 0)?),
            None => {}
        }
        let mfn = frame.into_reference();
        self.p2m.map(gfn, mfn, 0, kind).map_err(|error| {
            page_info::put(mfn, 0);
            error.into()
        })
    }

    /// Map device registers (or other memory that is no domain's) at `gfn`.
    ///
    /// # Errors
    /// As the p2m says.
    pub fn map_mmio(&self, gfn: Gfn, mfn: Mfn, count: u64) -> Result<(), Errno> {
        Ok(self.p2m.map_range(gfn, mfn, count, Kind::MmioDirect)?)
    }

    /// A reference on the RAM at `gfn`, for another domain to map or for the hypervisor to keep.
    ///
    /// # Errors
    /// There is none, or it does not allow `access`.
    pub fn pin(&self, gfn: Gfn, access: Access) -> Result<GuestFrame, Fault> {
        GuestFrame::pin(&self.p2m, gfn, access)
    }

    /// A reference on the RAM at `gfn` if it is the domain's own, not what another has granted to it: that would outlive the other's
    /// grant if it were granted on.
    ///
    /// # Errors
    /// As [`Domain::pin`]; or it is another domain's.
    pub fn pin_own(&self, gfn: Gfn, access: Access) -> Result<GuestFrame, Fault> {
        GuestFrame::pin_of(&self.p2m, gfn, access, self.id)
    }

    /// Make every CPU forget translations of this domain that were removed. On return no guest code uses them.
    pub fn flush(&self, removed: Flush) {
        self.flush_vcpus();
        removed.done();
    }

    /// Make every vCPU forget all translations. On return none runs with an old one.
    pub fn flush_vcpus(&self) {
        for vcpu in self.vcpus() {
            vcpu.request(Request::FLUSH);
        }
        self.vcpus().iter().for_each(|vcpu| vcpu.wait_for_flush());
    }
}

/// Pages that wait for a flush, at most.
const UNMAPPED: usize = 32;

/// Takes pages away from a domain: CPUs are made to forget many of them at once, and only then are they given back.
pub struct Unmapping<'a> {
    domain: &'a Domain,
    removed: ArrayVec<Removed, UNMAPPED>,
}

impl<'a> Unmapping<'a> {
    /// From `domain`, none yet.
    pub fn of(domain: &'a Domain) -> Self {
        Self {
            domain,
            removed: ArrayVec::new_const(),
        }
    }

    /// Take the page at `gfn` away, but no more than `1 << order` (0, 9 or 18) frames of it, if what is there is `wanted`. Returns the log2 of how many
    /// it was.
    ///
    /// # Errors
    /// `ENOMEM`: a large page had to be split.
    #[inline]
    pub fn unmap_if(
        &mut self,
        gfn: Gfn,
        order: u32,
        wanted: impl Fn(Entry) -> bool,
    ) -> Result<Option<u32>, Errno> {
        let Some(removed) = self.domain.p2m.unmap_if(gfn, order, wanted)? else {
            return Ok(None);
        };
        if self.removed.is_full() {
            self.give_back();
        }
        let order = removed.order;
        self.removed.push(removed);
        Ok(Some(order))
    }

    /// Drop what was unmapped, after no CPU can reach it any more.
    fn give_back(&mut self) {
        if self.removed.is_empty() {
            return;
        }
        self.domain.flush_vcpus();
        for removed in self.removed.drain(..) {
            removed.flush.done();
            if removed.kind.is_ram() {
                page_info::put(removed.mfn, removed.order);
            }
        }
    }
}

impl Drop for Unmapping<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}
