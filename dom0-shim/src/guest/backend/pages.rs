//! The pages that a front end has granted for data.
//!
//! Two ways lead there. With persistent grants the front end uses the same pages again and again: each is mapped once
//! and stays so, and all that a request costs is a copy here and one over there. Without, data is copied by grant: one
//! hypercall a request. To map and unmap a page for each request costs twice as much as that.

use alloc::collections::BTreeMap;
use core::cell::RefCell;

use abi::Domid;
use dom0_shim::block::allowance::Allowance;
use dom0_shim::block::{Failed, Memory, Segment};
use guest_rt::foreign::Mapping;
use guest_rt::hypercall::grant::{Access, Copies, Granted};

/// Most pages kept for a ring, as Linux's back end.
const KEPT_MAX: usize = 1056;

/// The granted pages of one domain, as one ring's requests name them.
pub struct Pages {
    domain: Domid,
    kept: Option<Kept>,
}

struct Kept {
    domain: Domid,
    pages: RefCell<BTreeMap<u32, Mapping>>,
    allowance: Allowance,
}

impl Pages {
    /// Data is copied by grant.
    pub fn copied(domain: Domid) -> Self {
        Self { domain, kept: None }
    }

    /// Pages are mapped at their first use, and stay so as far as `allowance` goes.
    pub fn kept(domain: Domid, allowance: &Allowance) -> Self {
        let kept = Kept {
            domain,
            pages: RefCell::default(),
            allowance: allowance.clone(),
        };
        Self {
            domain,
            kept: Some(kept),
        }
    }

    fn granted(&self, segment: &Segment) -> Granted {
        Granted {
            domain: self.domain,
            reference: segment.reference,
            offset: segment.offset,
        }
    }

    /// Calls `work` with the page of a segment if that is mapped or can be. When one cannot be, `may_map` has the rest
    /// of a request not try, either: all of its segments may be in that page.
    fn with_kept(&self, segment: &Segment, may_map: &mut bool, work: impl FnOnce(&Mapping)) -> bool {
        let Some(kept) = &self.kept else {
            return false;
        };
        let mut pages = kept.pages.borrow_mut();
        if let Some(page) = pages.get(&segment.reference) {
            work(page);
            return true;
        }
        if !*may_map || !kept.allowance.allows(self.domain) || pages.len() >= KEPT_MAX {
            return false;
        }
        // One that may only be read is not persistent; copying tells whether it is granted at all.
        let Ok(page) = Mapping::grants(self.domain, &[segment.reference], Access::Write) else {
            *may_map = false;
            return false;
        };
        work(&page);
        kept.allowance.take(self.domain);
        pages.insert(segment.reference, page);
        true
    }
}

impl Memory for Pages {
    fn copy_to(&self, copies: &[(Segment, &[u8])]) -> Result<(), Failed> {
        let (mut batch, mut may_map) = (Copies::default(), true);
        for (segment, bytes) in copies {
            if !self.with_kept(segment, &mut may_map, |page| {
                page.write(segment.offset.into(), bytes)
            }) {
                batch.to_grant(bytes, self.granted(segment));
            }
        }
        all_done(batch)
    }

    fn copy_from(&self, copies: &mut [(Segment, &mut [u8])]) -> Result<(), Failed> {
        let (mut batch, mut may_map) = (Copies::default(), true);
        for (segment, bytes) in copies {
            if !self.with_kept(segment, &mut may_map, |page| {
                page.read(segment.offset.into(), bytes)
            }) {
                batch.from_grant(self.granted(segment), bytes);
            }
        }
        all_done(batch)
    }
}

fn all_done(batch: Copies<'_>) -> Result<(), Failed> {
    batch.run().try_for_each(|done| done.map_err(|_| Failed))
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.allowance.give_back(self.domain, self.pages.borrow().len());
    }
}
