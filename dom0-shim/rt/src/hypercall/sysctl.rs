//! `sysctl`: information about the host.
// UNSAFETY: hypercalls that read and write lists.
#![expect(unsafe_code, reason = "hypercalls with lists")]

use alloc::vec;
use alloc::vec::Vec;

use abi::domctl::DomctlGetdomaininfo;
use abi::hypercall::HYPERVISOR_SYSCTL;
use abi::sysctl::*;
use abi::{Bitmap, Domid, Errno, Union};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{control, handle, handle_mut};

/// Issues sysctl `cmd`; returns the payload that the hypervisor left.
///
/// # Safety
/// Handles in the payload must be of memory that the operation may access as it does.
unsafe fn call<T: IntoBytes + FromBytes + Immutable>(cmd: u32, payload: &T) -> Result<T, Errno> {
    let mut argument = Sysctl {
        cmd,
        interface_version: XEN_SYSCTL_INTERFACE_VERSION,
        u: Union::of(payload),
    };
    // SAFETY: the caller's promise.
    unsafe { control(HYPERVISOR_SYSCTL, &mut argument) }?;
    Ok(argument.u.get())
}

/// CPUs, memory and capabilities of the host.
pub fn physinfo() -> Result<SysctlPhysinfo, Errno> {
    // SAFETY: the payload has no handle.
    unsafe { call(XEN_SYSCTL_PHYSINFO, &SysctlPhysinfo::default()) }
}

/// Core, socket and node of each CPU.
pub fn cpu_topology() -> Result<Vec<SysctlCputopo>, Errno> {
    let mut places = vec![SysctlCputopo::default(); physinfo()?.max_cpu_id as usize + 1];
    let payload = SysctlCputopoinfo {
        num_cpus: places.len() as u32,
        pad: 0,
        cputopo: handle_mut(&mut places),
    };
    // SAFETY: the hypervisor writes at most `num_cpus` entries.
    let answer = unsafe { call(XEN_SYSCTL_CPUTOPOINFO, &payload) }?;
    places.truncate(answer.num_cpus as usize);
    Ok(places)
}

/// The memory of each node, and the distance from each to each.
pub fn numa() -> Result<(Vec<SysctlMeminfo>, Vec<u32>), Errno> {
    let count = physinfo()?.nr_nodes as usize;
    let mut nodes = vec![SysctlMeminfo::default(); count];
    let mut distances = vec![0; count * count];
    let payload = SysctlNumainfo {
        num_nodes: count as u32,
        pad: 0,
        meminfo: handle_mut(&mut nodes),
        distance: handle_mut(&mut distances),
    };
    // SAFETY: the hypervisor writes at most `num_nodes` entries, and as many distances for each.
    unsafe { call(XEN_SYSCTL_NUMAINFO, &payload) }?;
    Ok((nodes, distances))
}

/// How long (µs) a vCPU runs before one that was woken takes its CPU.
pub fn rate_limit(scheduler: u32) -> Result<u32, Errno> {
    let answer: SysctlCredit2Schedule = scheduler_op(scheduler, XEN_SYSCTL_SCHEDOP_GETINFO, 0)?.u.get();
    Ok(answer.ratelimit_us)
}

/// Changes [`rate_limit`]; 0 switches it off.
pub fn set_rate_limit(scheduler: u32, ratelimit_us: u32) -> Result<(), Errno> {
    scheduler_op(scheduler, XEN_SYSCTL_SCHEDOP_PUTINFO, ratelimit_us).map(|_| ())
}

fn scheduler_op(scheduler: u32, cmd: u32, ratelimit_us: u32) -> Result<SysctlSchedulerOp, Errno> {
    let payload = SysctlSchedulerOp {
        sched_id: scheduler,
        cmd,
        u: Union::of(&SysctlCredit2Schedule { ratelimit_us }),
        ..Default::default()
    };
    // SAFETY: the payload has no handle.
    unsafe { call(XEN_SYSCTL_SCHEDULER_OP, &payload) }
}

/// Which scheduler runs (`XEN_SCHEDULER_*`).
pub fn scheduler_id() -> Result<u32, Errno> {
    // SAFETY: the payload has no handle.
    unsafe { call(XEN_SYSCTL_SCHED_ID, &SysctlSchedId::default()) }.map(|answer| answer.sched_id)
}

/// The first CPU pool with this number or a higher one; its CPUs go to `cpus`, a bitmap.
///
/// # Errors
/// `ENOENT`: there is none.
pub fn cpupool(first: u32, cpus: &mut [u8]) -> Result<SysctlCpupoolOp, Errno> {
    cpupool_bitmap(XEN_SYSCTL_CPUPOOL_OP_INFO, first, cpus)
}

/// The CPUs that are in no pool.
pub fn free_cpus(cpus: &mut [u8]) -> Result<(), Errno> {
    cpupool_bitmap(XEN_SYSCTL_CPUPOOL_OP_FREEINFO, 0, cpus).map(|_| ())
}

fn cpupool_bitmap(op: u32, pool: u32, cpus: &mut [u8]) -> Result<SysctlCpupoolOp, Errno> {
    let payload = SysctlCpupoolOp {
        op,
        cpupool_id: pool,
        cpumap: Bitmap {
            nr_bits: cpus.len() as u32 * 8,
            bitmap: handle_mut(cpus),
            pad: 0,
        },
        ..Default::default()
    };
    // SAFETY: the hypervisor writes at most `nr_bits` bits.
    unsafe { call(XEN_SYSCTL_CPUPOOL_OP, &payload) }
}

/// What is done to a CPU pool.
#[derive(Clone, Copy, Debug)]
pub enum PoolChange {
    /// It is taken away.
    Destroy,
    /// A free CPU is put in.
    AddCpu(u32),
    /// A CPU is taken out.
    RemoveCpu(u32),
    /// A domain is put in.
    MoveDomain(Domid),
}

/// Makes a CPU pool with this scheduler; returns its number.
pub fn create_cpupool(scheduler: u32) -> Result<u32, Errno> {
    let payload = SysctlCpupoolOp {
        op: XEN_SYSCTL_CPUPOOL_OP_CREATE,
        cpupool_id: XEN_SYSCTL_CPUPOOL_PAR_ANY,
        sched_id: scheduler,
        ..Default::default()
    };
    // SAFETY: the payload's handle is null, and not used.
    unsafe { call(XEN_SYSCTL_CPUPOOL_OP, &payload) }.map(|answer| answer.cpupool_id)
}

/// Changes a CPU pool.
pub fn change_cpupool(pool: u32, change: PoolChange) -> Result<(), Errno> {
    let (op, cpu, domid) = match change {
        PoolChange::Destroy => (XEN_SYSCTL_CPUPOOL_OP_DESTROY, 0, 0),
        PoolChange::AddCpu(cpu) => (XEN_SYSCTL_CPUPOOL_OP_ADDCPU, cpu, 0),
        PoolChange::RemoveCpu(cpu) => (XEN_SYSCTL_CPUPOOL_OP_RMCPU, cpu, 0),
        PoolChange::MoveDomain(domain) => (XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, 0, domain.into()),
    };
    let payload = SysctlCpupoolOp {
        op,
        cpupool_id: pool,
        cpu,
        domid,
        ..Default::default()
    };
    // SAFETY: the payload's handle is null, and not used.
    unsafe { call(XEN_SYSCTL_CPUPOOL_OP, &payload) }.map(|_| ())
}

/// Takes a CPU of the machine off or on (`XEN_SYSCTL_CPU_HOTPLUG_*`).
///
/// # Errors
/// `EEXIST`: it is so already. `EBUSY`: it is the last of its pool. Others: see Xen's `cpu_down`.
pub fn cpu_hotplug(cpu: u32, op: u32) -> Result<(), Errno> {
    // SAFETY: the payload has no handle.
    unsafe { call(XEN_SYSCTL_CPU_HOTPLUG, &SysctlCpuHotplug { cpu, op }) }.map(|_| ())
}

/// Up to `count` domains with a number of `first` or higher.
pub fn domains(first: Domid, count: u32) -> Result<Vec<DomctlGetdomaininfo>, Errno> {
    let mut list = vec![DomctlGetdomaininfo::default(); count as usize];
    let payload = SysctlGetdomaininfolist {
        first_domain: first,
        max_domains: count,
        buffer: handle_mut(&mut list),
        ..Default::default()
    };
    // SAFETY: the hypervisor writes at most `max_domains` entries.
    let answer = unsafe { call(XEN_SYSCTL_GETDOMAININFOLIST, &payload) }?;
    list.truncate(answer.num_domains as usize);
    Ok(list)
}

/// The hypervisor's log; `clear` empties it afterwards.
pub fn read_console(clear: bool) -> Result<Vec<u8>, Errno> {
    let mut text = vec![0; 64 * 1024];
    let payload = SysctlReadconsole {
        clear: clear.into(),
        buffer: handle_mut(&mut text),
        count: text.len() as u32,
        ..Default::default()
    };
    // SAFETY: the hypervisor writes at most `count` bytes.
    let answer = unsafe { call(XEN_SYSCTL_READCONSOLE, &payload) }?;
    text.truncate(answer.count as usize);
    Ok(text)
}

/// Acts as if the keys had been typed at the hypervisor's debug prompt.
pub fn debug_keys(keys: &[u8]) -> Result<(), Errno> {
    let payload = SysctlDebugKeys {
        keys: handle(keys),
        nr_keys: keys.len() as u32,
        pad: 0,
    };
    // SAFETY: the hypervisor reads `nr_keys` bytes.
    unsafe { call(XEN_SYSCTL_DEBUG_KEYS, &payload) }.map(|_| ())
}
