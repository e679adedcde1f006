//! Called well and badly: what a new domain may have of ports and grants.

use abi::domctl::*;
use abi::hypercall::HYPERVISOR_DOMCTL;
use abi::{Errno, Union};

use crate::arch::Event;
use crate::domain::{Config, Domain, table};
use crate::grant::{Part, Version, set_version};
use crate::hw::time::tsc;
use crate::hypercall::testing::{ARG, World, config, destroy};
use crate::types::DomId;
use crate::virt::{cpuid, msr, time};

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
        DomctlCreatedomain {
            flags: wanted().flags | 1 << 8,
            ..wanted()
        },
        DomctlCreatedomain {
            iommu_opts: 1,
            ..wanted()
        },
        DomctlCreatedomain {
            max_grant_frames: 65,
            ..wanted()
        },
        DomctlCreatedomain {
            max_maptrack_frames: 1025,
            ..wanted()
        },
        DomctlCreatedomain {
            arch: ArchDomainconfig {
                emulation_flags: XEN_X86_EMU_LAPIC,
                misc_flags: 2,
            },
            ..wanted()
        },
        DomctlCreatedomain {
            arch: ArchDomainconfig {
                emulation_flags: XEN_X86_EMU_LAPIC | 1 << 31,
                misc_flags: 0,
            },
            ..wanted()
        },
    ] {
        assert!(matches!(create(&mut dom0, &bad), Err(Errno::EINVAL)), "{bad:?}");
    }
}

/// The machine's TSC on the host counts nanoseconds.
#[test]
fn rates_of_a_domains_tsc() {
    let mut dom0 = World::privileged();
    let domain = create(&mut dom0, &wanted()).expect("all is well");
    let own = dom0.domain.id;
    let mut call = |cmd, id: DomId, info: DomctlTscInfo| {
        let mut u = Union::default();
        u.set(&info);
        let request = Domctl {
            cmd,
            domain: id.0,
            interface_version: XEN_DOMCTL_INTERFACE_VERSION,
            u,
            ..Default::default()
        };
        dom0.put(ARG, &request);
        dom0.call(HYPERVISOR_DOMCTL, &[ARG])?;
        Ok::<_, Errno>(dom0.get::<Domctl>(ARG).u.get::<DomctlTscInfo>())
    };
    let info = |tsc_mode, gtsc_khz, elapsed_nsec| DomctlTscInfo {
        tsc_mode,
        gtsc_khz,
        elapsed_nsec,
        ..Default::default()
    };
    // vCPUs that are made afterwards have it, too.
    let half = info(TSC_MODE_DEFAULT, 500_000, 0);
    call(XEN_DOMCTL_SETTSCINFO, domain.id, half).expect("a mode");
    domain.create_vcpus().expect("memory");
    let vcpu = domain.vcpus()[0].clone();
    assert!(time::emulates_tsc(&vcpu));
    let read = || vcpu.tsc.at(tsc());
    for (asked, reads, emulated) in [
        (info(TSC_MODE_DEFAULT, 0, 5_000), 5_000, false),
        (info(TSC_MODE_DEFAULT, 1_000_000, 6_000), 6_000, false),
        (info(TSC_MODE_DEFAULT, 500_000, 8_000), 4_000, true),
        (info(TSC_MODE_DEFAULT, 2_000_000, 8_000), 16_000, true),
        (info(TSC_MODE_ALWAYS_EMULATE, 0, 7_000), 7_000, true),
    ] {
        call(XEN_DOMCTL_SETTSCINFO, domain.id, asked).expect("a mode");
        assert_eq!(
            (read(), time::emulates_tsc(&vcpu)),
            (reads, emulated),
            "{asked:?}"
        );
        let said = call(XEN_DOMCTL_GETTSCINFO, domain.id, info(0, 0, 0)).expect("there");
        let khz = asked.gtsc_khz.max(u32::from(asked.gtsc_khz == 0) * 1_000_000);
        assert_eq!(
            said,
            DomctlTscInfo {
                gtsc_khz: khz,
                incarnation: 1,
                ..asked
            }
        );
        // Its clock is the machine's all the same.
        let clock = time::time_info(&vcpu);
        assert_eq!(clock.system_time, 0);
        assert_eq!(
            u64::from(clock.tsc_to_system_mul) << (clock.tsc_shift + 4),
            1000 * (16 << 32) / (u64::from(khz) / 1000)
        );
    }
    call(
        XEN_DOMCTL_SETTSCINFO,
        domain.id,
        info(TSC_MODE_NEVER_EMULATE, 500_000, 9),
    )
    .expect("a mode");
    assert_eq!((read(), time::emulates_tsc(&vcpu)), (7_000, false));
    let said = call(XEN_DOMCTL_GETTSCINFO, domain.id, info(0, 0, 0)).expect("there");
    assert_eq!((said.tsc_mode, said.gtsc_khz, said.elapsed_nsec), (2, 0, 0));
    for bad in [info(3, 0, 0), info(TSC_MODE_DEFAULT, 1, 0)] {
        assert_eq!(call(XEN_DOMCTL_SETTSCINFO, domain.id, bad), Err(Errno::EINVAL));
    }
    for cmd in [XEN_DOMCTL_SETTSCINFO, XEN_DOMCTL_GETTSCINFO] {
        assert_eq!(call(cmd, own, info(0, 0, 0)), Err(Errno::EINVAL));
    }
    destroy(&domain);
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

#[test]
fn registers_that_do_not_exist() {
    const NOTHING: u64 = 0x1234_5678;
    let outcome = |relaxed, msr| {
        let mut world = World::with(Config {
            relaxed_msrs: relaxed,
            ..config(false)
        });
        let mut outcome = (Ok(()), Ok(0));
        world.caller(|running| {
            running.cpu.gprs().rcx = msr;
            running.cpu.gprs().rax = 7;
            outcome.0 = msr::write(running);
            outcome.1 = msr::read(running).map(|()| running.cpu.gprs().rax);
        });
        outcome
    };
    assert_eq!(outcome(false, NOTHING), (Err(Event::GP0), Err(Event::GP0)));
    assert_eq!(outcome(true, NOTHING), (Ok(()), Ok(0)));
    assert_eq!(
        outcome(true, 0x49).1,
        Err(Event::GP0),
        "PRED_CMD can only be written"
    );
}

#[test]
fn cpuid_faults_in_user_mode_when_the_kernel_says_so() {
    const PLATFORM_INFO: u64 = 0xce;
    const MISC_FEATURES_ENABLES: u64 = 0x140;
    let mut world = World::new();
    world.caller(|running| {
        let mut access = |msr, value: Option<u64>| {
            running.cpu.gprs().rcx = msr;
            match value {
                Some(value) => (running.cpu.gprs().rax, running.cpu.gprs().rdx) = (value, 0),
                None => return msr::read(running).map(|()| running.cpu.gprs().rax),
            }
            msr::write(running).map(|()| 0)
        };
        assert_eq!(access(PLATFORM_INFO, None), Ok(1 << 31));
        assert_eq!(access(PLATFORM_INFO, Some(0)), Err(Event::GP0));
        assert_eq!(access(MISC_FEATURES_ENABLES, Some(2)), Err(Event::GP0));
        assert_eq!(access(MISC_FEATURES_ENABLES, Some(1)), Ok(0));
        assert_eq!(access(MISC_FEATURES_ENABLES, None), Ok(1));
        assert_eq!(cpuid::execute(running), Ok(()), "the kernel's own");
    });
    world.cpu.cpl = 3;
    world.caller(|running| {
        assert_eq!(cpuid::execute(running), Err(Event::GP0));
    });
}
