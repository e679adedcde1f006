//! Domains that a guest makes as dom0.

use abi::domctl::{
    ArchDomainconfig, DomctlCreatedomain, XEN_DOMCTL_CDF_HAP, XEN_DOMCTL_CDF_HVM, XEN_X86_EMU_LAPIC,
};
use abi::domid::DOMID_FIRST_RESERVED;
use abi::{Domid, Errno};
use guest_rt::hypercall::domctl;

/// What any domain is made with.
pub fn config() -> DomctlCreatedomain {
    DomctlCreatedomain {
        flags: XEN_DOMCTL_CDF_HVM | XEN_DOMCTL_CDF_HAP,
        max_vcpus: 1,
        max_evtchn_port: 1023,
        max_grant_frames: -1,
        max_maptrack_frames: -1,
        grant_opts: 2,
        arch: ArchDomainconfig {
            emulation_flags: XEN_X86_EMU_LAPIC,
            misc_flags: 0,
        },
        ..Default::default()
    }
}

/// Makes one, whose number the hypervisor chooses.
///
/// # Errors
/// The hypervisor's.
pub fn create(config: &DomctlCreatedomain) -> Result<Domid, Errno> {
    domctl::create(DOMID_FIRST_RESERVED, config)
}

/// Destroys one, as often as it takes.
///
/// # Errors
/// The hypervisor's.
pub fn destroy(domain: Domid) -> Result<(), Errno> {
    loop {
        match domctl::destroy(domain) {
            Err(Errno::EAGAIN | Errno::ERESTART) => {}
            result => return result,
        }
    }
}
