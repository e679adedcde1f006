//! Where the hardware looks for loads and stores of an xAPIC's registers (SDM 3C 30.4, the "APIC-access page").
//!
//! One frame of the machine serves all guests, and none of them ever reads or writes it: what is accessed instead is the
//! [`ApicPage`](crate::arch::apic_page::ApicPage). That holds as long as all vCPUs of a domain that has it mapped have their xAPIC at the default address, so the
//! first that changes its IA32_APIC_BASE unmaps it for good; from then on accesses are emulated.

use crate::arch::apic_page::DEFAULT_BASE;
use crate::arch::machine;
use crate::domain::Domain;
use crate::mm::p2m::Kind;
use crate::types::Gpa;

/// Has a domain the APIC-access page?
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum AccessPage {
    /// Nobody has looked for it yet.
    #[default]
    Absent,
    /// At the default address.
    Mapped,
    /// And never again.
    Gone,
}

/// A vCPU has looked for its xAPIC in vain: map the page, if there is one on this machine. `true`: it is there now.
pub fn map(domain: &Domain) -> bool {
    let Some(page) = machine::apic_access_page() else {
        return false;
    };
    let mut state = domain.apic_access.lock();
    let mapped = *state == AccessPage::Absent
        && domain
            .p2m
            .map(Gpa(DEFAULT_BASE).frame(), page, 0, Kind::ApicAccess)
            .is_ok();
    if mapped {
        *state = AccessPage::Mapped;
    }
    mapped
}

/// A vCPU of `domain` is about to change its IA32_APIC_BASE.
pub(super) fn leave(domain: &Domain) {
    let gfn = Gpa(DEFAULT_BASE).frame();
    let mut state = domain.apic_access.lock();
    let before = core::mem::replace(&mut *state, AccessPage::Gone);
    // The domain may have put something else there.
    let mapped = || {
        domain
            .p2m
            .lookup(gfn)
            .is_some_and(|entry| entry.kind == Kind::ApicAccess)
    };
    if before == AccessPage::Mapped && mapped() {
        // One small page: no table is needed to unmap it.
        let _ = domain.unmap(gfn, 0);
    }
}
