//! Called badly, and on a machine with one CPU: physical CPUs off and on.

use abi::hypercall::{HYPERVISOR_PLATFORM_OP, HYPERVISOR_SYSCTL};
use abi::platform::*;
use abi::sysctl::*;
use abi::{Errno, Union};

use crate::hypercall::testing::{BAD, World};

fn platform(world: &mut World, cmd: u32, payload: Union<16>) -> Result<Union<16>, Errno> {
    let mut argument = PlatformOp {
        cmd,
        interface_version: XENPF_INTERFACE_VERSION,
        u: payload,
    };
    world.op_alone(HYPERVISOR_PLATFORM_OP, &mut argument)?;
    Ok(argument.u)
}

fn hotplug(world: &mut World, cpu: u32, op: u32) -> Result<u64, Errno> {
    let mut argument = Sysctl {
        cmd: XEN_SYSCTL_CPU_HOTPLUG,
        interface_version: XEN_SYSCTL_INTERFACE_VERSION,
        u: Union::of(&SysctlCpuHotplug { cpu, op }),
    };
    world.op_alone(HYPERVISOR_SYSCTL, &mut argument)
}

#[test]
fn by_sysctl() {
    let mut dom0 = World::privileged();
    for (cpu, op, error) in [
        (0, XEN_SYSCTL_CPU_HOTPLUG_ONLINE, Errno::EEXIST),
        (0, XEN_SYSCTL_CPU_HOTPLUG_OFFLINE, Errno::EINVAL),
        (1, XEN_SYSCTL_CPU_HOTPLUG_ONLINE, Errno::EINVAL),
        (u32::MAX, XEN_SYSCTL_CPU_HOTPLUG_OFFLINE, Errno::EINVAL),
        (0, XEN_SYSCTL_CPU_HOTPLUG_SMT_ENABLE, Errno::EOPNOTSUPP),
        (0, XEN_SYSCTL_CPU_HOTPLUG_SMT_DISABLE, Errno::EOPNOTSUPP),
        (0, 4, Errno::EOPNOTSUPP),
    ] {
        assert_eq!(hotplug(&mut dom0, cpu, op), Err(error), "CPU {cpu}, {op}");
    }
    let mut guest = World::new();
    assert_eq!(
        hotplug(&mut guest, 0, XEN_SYSCTL_CPU_HOTPLUG_ONLINE),
        Err(Errno::EPERM)
    );
}

#[test]
fn by_platform_op() {
    let mut dom0 = World::privileged();
    let of = |cpuid| Union::of(&XenpfCpuOl { cpuid });
    assert!(platform(&mut dom0, XENPF_CPU_ONLINE, of(0)).is_ok(), "it is");
    for (cmd, cpu, error) in [
        (XENPF_CPU_ONLINE, 1, Errno::EINVAL),
        (XENPF_CPU_OFFLINE, 0, Errno::EOPNOTSUPP),
        (XENPF_CPU_OFFLINE, u32::MAX, Errno::EINVAL),
        (XENPF_CPU_HOTADD, 1, Errno::ENOSYS),
    ] {
        assert_eq!(
            platform(&mut dom0, cmd, of(cpu)).err(),
            Some(error),
            "{cmd} {cpu}"
        );
    }
    let mut info = |xen_cpuid| -> XenpfPcpuinfo {
        let asked = XenpfPcpuinfo {
            xen_cpuid,
            ..Default::default()
        };
        platform(&mut dom0, XENPF_GET_CPUINFO, Union::of(&asked))
            .expect("an answer")
            .get()
    };
    assert_eq!((info(0).max_present, info(1).flags), (0, XEN_PCPU_FLAGS_INVALID));

    let mut old = PlatformOp {
        cmd: XENPF_CPU_ONLINE,
        interface_version: XENPF_INTERFACE_VERSION - 1,
        u: of(0),
    };
    assert_eq!(
        dom0.op_alone(HYPERVISOR_PLATFORM_OP, &mut old),
        Err(Errno::EACCES)
    );
    assert_eq!(dom0.call(HYPERVISOR_PLATFORM_OP, &[BAD]), Err(Errno::EFAULT));
    let mut guest = World::new();
    assert_eq!(
        platform(&mut guest, XENPF_CPU_ONLINE, of(0)).err(),
        Some(Errno::EPERM)
    );
}
