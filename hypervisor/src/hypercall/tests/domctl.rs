//! Called well and badly: what a new domain may have of ports and grants.

use abi::domctl::*;
use abi::hypercall::HYPERVISOR_DOMCTL;
use abi::{Errno, Union};

use crate::domain::{Domain, table};
use crate::grant::{Part, Version, set_version};
use crate::hypercall::testing::{ARG, World, destroy};
use crate::types::DomId;

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

fn wanted() -> DomctlCreatedomain {
    DomctlCreatedomain {
        flags: XEN_DOMCTL_CDF_HVM | XEN_DOMCTL_CDF_HAP,
        max_vcpus: 1,
        max_evtchn_port: 1023,
        max_grant_frames: 64,
        max_maptrack_frames: 1024,
        grant_opts: 2,
        arch: ArchDomainconfig {
            emulation_flags: XEN_X86_EMU_LAPIC,
            ..Default::default()
        },
        ..Default::default()
    }
}

fn create(dom0: &mut World, wanted: &DomctlCreatedomain) -> Result<Arc<Domain>, Errno> {
    let mut u = Union::default();
    u.set(wanted);
    let request = Domctl {
        cmd: XEN_DOMCTL_CREATEDOMAIN,
        interface_version: XEN_DOMCTL_INTERFACE_VERSION,
        u,
        ..Default::default()
    };
    dom0.put(ARG, &request);
    dom0.call(HYPERVISOR_DOMCTL, &[ARG])?;
    let made = DomId(dom0.get::<Domctl>(ARG).domain);
    Ok(table::get(made).expect("made"))
}

#[test]
fn limits_of_a_new_domain() {
    let mut dom0 = World::privileged();
    let domain = create(&mut dom0, &wanted()).expect("all is well");
    assert_eq!(domain.events.limit(), 1024);
    assert_eq!(domain.grants.table.size(), (1, 64));
    assert_eq!(domain.grants.table.max_len(Part::Status), 8);
    assert_eq!(set_version(&domain, Version::V2), Ok(()));
    destroy(&domain);
    let defaults = DomctlCreatedomain {
        max_evtchn_port: u32::MAX,
        max_grant_frames: -1,
        max_maptrack_frames: -1,
        grant_opts: 1,
        ..wanted()
    };
    let domain = create(&mut dom0, &defaults).expect("all is well");
    assert_eq!(
        domain.events.limit(),
        1 << 17,
        "no more than there can be by any ABI"
    );
    assert_eq!(domain.grants.table.size(), (1, 64));
    assert_eq!(set_version(&domain, Version::V2), Err(Errno::ENOSYS));
    destroy(&domain);
    for bad in [
        DomctlCreatedomain {
            max_grant_frames: 0,
            ..wanted()
        },
        DomctlCreatedomain {
            max_grant_frames: i32::MAX,
            ..wanted()
        },
        DomctlCreatedomain {
            max_maptrack_frames: i32::MAX,
            ..wanted()
        },
        DomctlCreatedomain {
            grant_opts: 0,
            ..wanted()
        },
        DomctlCreatedomain {
            grant_opts: 3,
            ..wanted()
        },
        DomctlCreatedomain {
            grant_opts: 1 << 31 | 2,
            ..wanted()
        },
    ] {
        assert!(matches!(create(&mut dom0, &bad), Err(Errno::EINVAL)), "{bad:?}");
    }
}

#[test]
fn wall_clock_of_a_domain_is_ahead() {
    let mut dom0 = World::privileged();
    let domain = create(&mut dom0, &wanted()).expect("all is well");
    let seconds = || {
        let word = |at| u64::from(domain.shared_info.u32_at(at).load(SeqCst));
        word(3076) | word(3084) << 32
    };
    let mut set = |time_offset_seconds: i64| {
        let mut u = Union::default();
        u.set(&DomctlSettimeoffset { time_offset_seconds });
        let request = Domctl {
            cmd: XEN_DOMCTL_SETTIMEOFFSET,
            interface_version: XEN_DOMCTL_INTERFACE_VERSION,
            domain: domain.id.0,
            u,
            ..Default::default()
        };
        dom0.put(ARG, &request);
        assert_eq!(dom0.call(HYPERVISOR_DOMCTL, &[ARG]), Ok(0));
    };
    set(0);
    let before = seconds();
    set(3600);
    assert_eq!(seconds(), before + 3600);
    set(-7200);
    assert_eq!(seconds(), before.wrapping_sub(7200));
    set(i64::MIN);
    set(0);
    assert_eq!(seconds(), before);
    destroy(&domain);
}
