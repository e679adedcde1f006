//! `XEN_SYSCTL_cpu_hotplug`, `XENPF_cpu_online` and its kin: physical CPUs off and on.

use abi::Errno;
use abi::platform::{XEN_PCPU_FLAGS_INVALID, XEN_PCPU_FLAGS_ONLINE, XenpfCpuOl, XenpfPcpuinfo};
use abi::sysctl::{SysctlCpuHotplug, XEN_SYSCTL_CPU_HOTPLUG_OFFLINE, XEN_SYSCTL_CPU_HOTPLUG_ONLINE};

use super::Stop;
use crate::hw::percpu;
use crate::sched::{self, CpuChange, pool};

/// Take a CPU off or on. Hyper-threads are not told apart, so that all of them cannot be switched off or on at once.
pub(super) fn sysctl(request: &SysctlCpuHotplug) -> Result<(), Stop> {
    let change = match request.op {
        XEN_SYSCTL_CPU_HOTPLUG_ONLINE => CpuChange::Online,
        XEN_SYSCTL_CPU_HOTPLUG_OFFLINE => CpuChange::Offline,
        _ => return Err(Errno::EOPNOTSUPP.into()),
    };
    perform(request.cpu, change)
}

/// Until a CPU is offline the call goes on, so that the vCPU that makes it can leave that very CPU.
fn perform(cpu: u32, change: CpuChange) -> Result<(), Stop> {
    match sched::change_cpu(cpu, change)? {
        true => Ok(()),
        false => Err(Stop::Continue),
    }
}

fn exists(cpu: u32) -> bool {
    (cpu as usize) < sched::cpu_count()
}

/// `XENPF_cpu_online`: no error if it is.
pub(super) fn online(request: &XenpfCpuOl) -> Result<(), Stop> {
    match request.cpuid {
        cpu if !exists(cpu) => Err(Errno::EINVAL.into()),
        cpu if pool::online(cpu) => Ok(()),
        cpu => perform(cpu, CpuChange::Online),
    }
}

/// `XENPF_cpu_offline`: no error if it is.
pub(super) fn offline(request: &XenpfCpuOl) -> Result<(), Stop> {
    match request.cpuid {
        0 => Err(Errno::EOPNOTSUPP.into()),
        cpu if !exists(cpu) => Err(Errno::EINVAL.into()),
        cpu => match perform(cpu, CpuChange::Offline) {
            Err(Stop::Errno(Errno::EEXIST)) => Ok(()),
            result => result,
        },
    }
}

/// `XENPF_get_cpuinfo`. ACPI's processor numbers are not kept: those of local APICs stand for them.
pub(super) fn info(request: &mut XenpfPcpuinfo) {
    request.max_present = (sched::cpu_count() as u32).saturating_sub(1);
    let Some(cpu) = percpu::get(request.xen_cpuid).filter(|_| exists(request.xen_cpuid)) else {
        request.flags = XEN_PCPU_FLAGS_INVALID;
        return;
    };
    (request.apic_id, request.acpi_id) = (cpu.apic_id(), cpu.apic_id());
    request.flags = match pool::online(request.xen_cpuid) {
        true => XEN_PCPU_FLAGS_ONLINE,
        false => 0,
    };
}
