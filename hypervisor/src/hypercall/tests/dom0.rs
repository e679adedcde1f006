//! Called well and badly: what only dom0 uses, of several families.

use core::sync::atomic::Ordering::SeqCst;

use abi::domid::DOMID_SELF;
use abi::hypercall::*;
use abi::memory::*;
use abi::platform::*;
use abi::sched::*;
use abi::{Errno, GuestHandle, Union};
use zerocopy::{Immutable, IntoBytes};

use crate::hypercall::testing::{BAD, LIST, World};

const PLATFORM: u32 = HYPERVISOR_PLATFORM_OP;
const SCHED: u32 = HYPERVISOR_SCHED_OP;
const MEMORY: u32 = HYPERVISOR_MEMORY_OP;

fn platform(cmd: u32, argument: &(impl IntoBytes + Immutable)) -> PlatformOp {
    PlatformOp {
        cmd,
        interface_version: XENPF_INTERFACE_VERSION,
        u: Union::of(argument),
    }
}

#[test]
fn the_platform_is_dom0s() {
    let mut guest = World::new();
    let mut info = platform(XENPF_GET_CPUINFO, &XenpfPcpuinfo::default());
    assert_eq!(guest.op_alone(PLATFORM, &mut info), Err(Errno::EPERM));
    assert_eq!(guest.call(PLATFORM, &[BAD]), Err(Errno::EFAULT));
    info.interface_version += 1;
    assert_eq!(
        guest.op_alone(PLATFORM, &mut info),
        Err(Errno::EACCES),
        "before the rest is looked at"
    );
}

#[test]
fn cpus() {
    let mut dom0 = World::privileged();
    let mut info = platform(
        XENPF_GET_CPUINFO,
        &XenpfPcpuinfo {
            xen_cpuid: 600,
            ..Default::default()
        },
    );
    assert_eq!(dom0.op_alone(PLATFORM, &mut info), Ok(0));
    assert_eq!(info.u.get::<XenpfPcpuinfo>().flags, XEN_PCPU_FLAGS_INVALID);
    let mut version = platform(XENPF_GET_CPU_VERSION, &XenpfPcpuVersion::default());
    assert_eq!(dom0.op_alone(PLATFORM, &mut version), Ok(0));
    assert_ne!(version.u.get::<XenpfPcpuVersion>().vendor_id, [0; 12]);
    version.u.set(&XenpfPcpuVersion {
        xen_cpuid: 600,
        family: 9,
        ..Default::default()
    });
    assert_eq!(dom0.op_alone(PLATFORM, &mut version), Ok(0));
    let nobody: XenpfPcpuVersion = version.u.get();
    assert_eq!((nobody.vendor_id, nobody.family), ([0; 12], 0));
}

#[test]
fn firmware_and_what_is_not_there() {
    let mut dom0 = World::privileged();
    for (type_, errno) in [
        (XEN_FW_DISK_INFO, Errno::ESRCH),
        (XEN_FW_EFI_INFO, Errno::ENOSYS),
        (77, Errno::EINVAL),
    ] {
        let mut request = platform(
            XENPF_FIRMWARE_INFO,
            &XenpfFirmwareInfo {
                type_,
                ..Default::default()
            },
        );
        assert_eq!(dom0.op_alone(PLATFORM, &mut request), Err(errno));
    }
    for cmd in [XENPF_GETIDLETIME, XENPF_CHANGE_FREQ, 1000] {
        assert_eq!(
            dom0.op_alone(PLATFORM, &mut platform(cmd, &0u8)),
            Err(Errno::ENOSYS)
        );
    }
}

#[test]
fn the_time_of_day() {
    let (guest, mut dom0) = (World::new(), World::privileged());
    let mut time = XenpfSettime64 {
        secs: 0x1_2345_6789,
        nsecs: 500,
        mbz: 0,
        system_time: 1_000_000_600,
    };
    assert_eq!(
        dom0.op_alone(PLATFORM, &mut platform(XENPF_SETTIME64, &time)),
        Ok(0)
    );
    // Domains of other tests set the clock again, but to nothing else.
    let domains = [guest.domain.clone(), dom0.domain.clone()];
    let told = || {
        for domain in &domains {
            let word = |at| domain.shared_info.u32_at(at).load(SeqCst);
            assert_eq!(
                [word(3076), word(3080), word(3084)],
                [0x2345_6787, 999_999_900, 1]
            );
            assert_eq!(word(3072) % 2, 0);
        }
    };
    told();
    // The same in 32 bits, by a system time before the start of the machine.
    let day = time.secs * 1_000_000_000 + u64::from(time.nsecs);
    let earlier = XenpfSettime32 {
        secs: 1,
        nsecs: 0,
        system_time: (1_000_000_000 + time.system_time).wrapping_sub(day),
    };
    assert_eq!(
        dom0.op_alone(PLATFORM, &mut platform(XENPF_SETTIME32, &earlier)),
        Ok(0)
    );
    told();
    time.mbz = 1;
    assert_eq!(
        dom0.op_alone(PLATFORM, &mut platform(XENPF_SETTIME64, &time)),
        Err(Errno::EINVAL)
    );
}

#[test]
fn a_vcpu_is_on_one_cpu_for_a_while() {
    let (mut guest, mut dom0) = (World::new(), World::privileged());
    let pin = |world: &mut World, pcpu| world.op(SCHED, SCHEDOP_PIN_OVERRIDE, &mut SchedPinOverride { pcpu });
    assert_eq!(pin(&mut guest, 0), Err(Errno::EPERM));
    dom0.faults(SCHED, SCHEDOP_PIN_OVERRIDE);
    assert_eq!(pin(&mut dom0, 512), Err(Errno::EINVAL));
    assert_eq!(pin(&mut dom0, -1), Err(Errno::EINVAL), "nothing to undo");
    let entity = |world: &World| {
        let vcpu = world.domain.vcpus()[0].clone();
        [0, 1].map(|cpu| vcpu.entity.hard.contains(cpu))
    };
    assert_eq!(pin(&mut dom0, 0), Ok(0));
    assert_eq!(entity(&dom0), [true, false]);
    assert_eq!(pin(&mut dom0, 0), Err(Errno::EBUSY));
    assert_eq!(pin(&mut dom0, -7), Ok(0));
    assert_eq!(pin(&mut dom0, -1), Err(Errno::EINVAL));
    assert!(entity(&dom0)[0]);
}

#[test]
fn nothing_is_exchanged() {
    let mut guest = World::new();
    let list = MemoryReservation {
        extent_start: GuestHandle::new(LIST),
        nr_extents: 2,
        domid: DOMID_SELF,
        ..Default::default()
    };
    guest.put(LIST, &[3u64, 0x5000]);
    let good = MemoryExchange {
        in_: list,
        out: list,
        nr_exchanged: 0,
    };
    let mut exchange = |change: &dyn Fn(&mut MemoryExchange)| {
        let mut request = good;
        change(&mut request);
        guest.op(MEMORY, XENMEM_EXCHANGE, &mut request)
    };
    assert_eq!(exchange(&|_| {}), Err(Errno::EOPNOTSUPP));
    assert_eq!(
        exchange(&|request| request.nr_exchanged = 1),
        Err(Errno::EINVAL),
        "not mapped"
    );
    assert_eq!(exchange(&|request| request.nr_exchanged = 2), Ok(0));
    assert_eq!(exchange(&|request| request.nr_exchanged = 3), Err(Errno::EINVAL));
    assert_eq!(
        exchange(&|request| request.out.extent_order = 10),
        Err(Errno::EPERM)
    );
    assert_eq!(
        exchange(&|request| request.out.extent_order = 1),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        exchange(&|request| request.in_.nr_extents = u64::MAX),
        Err(Errno::EINVAL)
    );
    assert_eq!(exchange(&|request| request.out.domid = 7), Err(Errno::EINVAL));
    assert_eq!(
        exchange(&|request| request.in_.extent_start = GuestHandle::new(BAD)),
        Err(Errno::EFAULT)
    );
    guest.faults(MEMORY, XENMEM_EXCHANGE);
}
