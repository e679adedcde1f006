//! `domctl`: control of other domains.
// UNSAFETY: hypercalls that read and write lists.
#![expect(unsafe_code, reason = "hypercalls with lists")]

use alloc::vec;
use alloc::vec::Vec;

use abi::domctl::*;
use abi::hypercall::HYPERVISOR_DOMCTL;
use abi::{Bitmap, Domid, Errno, Union};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{control, handle, handle_mut};

/// Issues domctl `cmd`; returns the domain number and payload that the hypervisor left.
///
/// # Safety
/// Handles in the payload must be of memory that the operation may access as it does.
unsafe fn call<T>(cmd: u32, domain: Domid, payload: &T) -> Result<(Domid, T), Errno>
where
    T: IntoBytes + FromBytes + Immutable,
{
    // SAFETY: the caller's promise.
    let (result, domain, payload) = unsafe { call_and_see(cmd, domain, payload) };
    result.map(|()| (domain, payload))
}

/// As [`call`]; returns what the hypervisor left also where it refuses.
///
/// # Safety
/// The same.
unsafe fn call_and_see<T>(cmd: u32, domain: Domid, payload: &T) -> (Result<(), Errno>, Domid, T)
where
    T: IntoBytes + FromBytes + Immutable,
{
    let mut argument = Domctl {
        cmd,
        interface_version: XEN_DOMCTL_INTERFACE_VERSION,
        domain,
        pad: [0; 3],
        u: Union::of(payload),
    };
    // SAFETY: the caller's promise.
    let result = unsafe { control(HYPERVISOR_DOMCTL, &mut argument) };
    (result.map(|_| ()), argument.domain, argument.u.get())
}

/// For payloads without handles.
fn plain<T: IntoBytes + FromBytes + Immutable>(cmd: u32, domain: Domid, payload: &T) -> Result<T, Errno> {
    // SAFETY: no caller's payload has a handle.
    unsafe { call(cmd, domain, payload) }.map(|(_, payload)| payload)
}

/// Creates a domain, paused and empty; 0 lets the hypervisor choose the number, which is returned.
pub fn create(domain: Domid, config: &DomctlCreatedomain) -> Result<Domid, Errno> {
    // SAFETY: the payload has no handle.
    unsafe { call(XEN_DOMCTL_CREATEDOMAIN, domain, config) }.map(|(domain, _)| domain)
}

/// Destroys a domain, or does a slice of it and returns `EAGAIN`/`ERESTART`: call again.
pub fn destroy(domain: Domid) -> Result<(), Errno> {
    plain(XEN_DOMCTL_DESTROYDOMAIN, domain, &0u64).map(|_| ())
}

/// Gives a domain another handle.
pub fn set_handle(domain: Domid, handle: [u8; 16]) -> Result<(), Errno> {
    plain(
        XEN_DOMCTL_SETDOMAINHANDLE,
        domain,
        &DomctlSetdomainhandle { handle },
    )
    .map(|_| ())
}

/// Stops a domain's vCPUs.
pub fn pause(domain: Domid) -> Result<(), Errno> {
    plain(XEN_DOMCTL_PAUSEDOMAIN, domain, &0u64).map(|_| ())
}

/// Lets a domain's vCPUs run.
pub fn unpause(domain: Domid) -> Result<(), Errno> {
    plain(XEN_DOMCTL_UNPAUSEDOMAIN, domain, &0u64).map(|_| ())
}

/// Takes back what a domain that has shut down had set up with the hypervisor, for another kernel to begin in its memory. It is to be paused: it would go on
/// at once.
pub fn soft_reset(domain: Domid) -> Result<(), Errno> {
    plain(XEN_DOMCTL_SOFT_RESET, domain, &0u64).map(|_| ())
}

/// Sends a vCPU something (`XEN_DOMCTL_SENDTRIGGER_*`).
pub fn send_trigger(domain: Domid, trigger: u32, vcpu: u32) -> Result<(), Errno> {
    plain(
        XEN_DOMCTL_SENDTRIGGER,
        domain,
        &DomctlSendtrigger { trigger, vcpu },
    )
    .map(|_| ())
}

/// State of `domain`.
///
/// # Errors
/// `ESRCH` when it does not exist.
pub fn info(domain: Domid) -> Result<DomctlGetdomaininfo, Errno> {
    let info = plain(XEN_DOMCTL_GETDOMAININFO, domain, &DomctlGetdomaininfo::default())?;
    // The hypervisor answers for the next higher domain if this one does not exist.
    if info.domain == domain {
        Ok(info)
    } else {
        Err(Errno::ESRCH)
    }
}

/// Sets the number of vCPUs; once.
pub fn max_vcpus(domain: Domid, max: u32) -> Result<(), Errno> {
    plain(XEN_DOMCTL_MAX_VCPUS, domain, &DomctlMaxVcpus { max }).map(|_| ())
}

/// Limits a domain's memory, KiB.
pub fn max_memory(domain: Domid, kib: u64) -> Result<(), Errno> {
    plain(XEN_DOMCTL_MAX_MEM, domain, &DomctlMaxMem { max_memkb: kib }).map(|_| ())
}

/// Sets the TSC's mode (0 default, 1 always emulate, 2 native) and rate (0: the machine's).
pub fn set_tsc(domain: Domid, mode: u32, khz: u32) -> Result<(), Errno> {
    let payload = DomctlTscInfo {
        tsc_mode: mode,
        gtsc_khz: khz,
        ..Default::default()
    };
    plain(XEN_DOMCTL_SETTSCINFO, domain, &payload).map(|_| ())
}

/// Sets what a domain's clock is ahead of UTC, in seconds.
pub fn set_time_offset(domain: Domid, time_offset_seconds: i64) -> Result<(), Errno> {
    let payload = DomctlSettimeoffset { time_offset_seconds };
    plain(XEN_DOMCTL_SETTIMEOFFSET, domain, &payload).map(|_| ())
}

/// What CPUID tells a domain: all leaves.
pub fn cpu_policy(domain: Domid) -> Result<Vec<CpuidLeaf>, Errno> {
    // SAFETY: null handles ask for the numbers.
    let (_, answer) = unsafe { call(XEN_DOMCTL_GET_CPU_POLICY, domain, &DomctlCpuPolicy::default()) }?;
    let mut leaves = vec![CpuidLeaf::default(); answer.nr_leaves as usize];
    let mut msrs = vec![MsrEntry::default(); answer.nr_msrs as usize];
    let request = DomctlCpuPolicy {
        leaves: handle_mut(&mut leaves),
        msrs: handle_mut(&mut msrs),
        ..answer
    };
    // SAFETY: the hypervisor writes at most `nr_leaves` and `nr_msrs` entries.
    let (_, answer) = unsafe { call(XEN_DOMCTL_GET_CPU_POLICY, domain, &request) }?;
    leaves.truncate(answer.nr_leaves as usize);
    Ok(leaves)
}

/// Changes what CPUID tells a domain that has not run yet.
///
/// # Errors
/// What the hypervisor answers, and the leaf and subleaf that it blames, if it does.
pub fn set_cpu_policy(domain: Domid, leaves: &[CpuidLeaf]) -> Result<(), (Errno, Option<(u32, u32)>)> {
    /// What stands for no leaf.
    const NONE: u32 = u32::MAX;
    let payload = DomctlCpuPolicy {
        nr_leaves: leaves.len() as u32,
        leaves: handle(leaves),
        err_leaf: NONE,
        err_subleaf: NONE,
        err_msr: NONE,
        ..Default::default()
    };
    // SAFETY: the hypervisor reads `nr_leaves` leaves, and no MSR.
    let (result, _, answer) = unsafe { call_and_see(XEN_DOMCTL_SET_CPU_POLICY, domain, &payload) };
    let blamed = (answer.err_leaf != NONE).then_some((answer.err_leaf, answer.err_subleaf));
    result.map_err(|error| (error, blamed))
}

/// Sets the memory for a domain's nested page tables, bytes (a multiple of 4096).
pub fn set_paging_pool(domain: Domid, bytes: u64) -> Result<(), Errno> {
    plain(
        XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE,
        domain,
        &DomctlPagingMempool { size: bytes },
    )
    .map(|_| ())
}

/// Sets weight and cap under the host's scheduler.
pub fn set_scheduling(domain: Domid, scheduler: u32, parameters: DomctlSchedCredit) -> Result<(), Errno> {
    let payload = DomctlSchedulerOp {
        sched_id: scheduler,
        cmd: XEN_DOMCTL_SCHEDOP_PUTINFO,
        u: Union::of(&parameters),
    };
    plain(XEN_DOMCTL_SCHEDULER_OP, domain, &payload).map(|_| ())
}

/// Reads weight and cap under the host's scheduler.
pub fn scheduling(domain: Domid, scheduler: u32) -> Result<DomctlSchedCredit, Errno> {
    let payload = DomctlSchedulerOp {
        sched_id: scheduler,
        cmd: XEN_DOMCTL_SCHEDOP_GETINFO,
        u: Union::default(),
    };
    Ok(plain(XEN_DOMCTL_SCHEDULER_OP, domain, &payload)?.u.get())
}

/// Says where a vCPU may run (`hard`) and where it should (`soft`), each a bitmap of CPUs; nothing changes where nothing is said.
pub fn set_affinity(domain: Domid, vcpu: u32, hard: Option<&[u8]>, soft: Option<&[u8]>) -> Result<(), Errno> {
    // What takes effect is written back.
    let (mut hard, mut soft) = (hard.map(<[u8]>::to_vec), soft.map(<[u8]>::to_vec));
    affinity_call(
        XEN_DOMCTL_SETVCPUAFFINITY,
        domain,
        vcpu,
        hard.as_deref_mut(),
        soft.as_deref_mut(),
    )
}

/// Reads where a vCPU may run, and where it should.
pub fn affinity(domain: Domid, vcpu: u32, hard: &mut [u8], soft: &mut [u8]) -> Result<(), Errno> {
    affinity_call(XEN_DOMCTL_GETVCPUAFFINITY, domain, vcpu, Some(hard), Some(soft))
}

fn affinity_call(
    cmd: u32,
    domain: Domid,
    vcpu: u32,
    hard: Option<&mut [u8]>,
    soft: Option<&mut [u8]>,
) -> Result<(), Errno> {
    let flag = |map: &Option<&mut [u8]>, flag: u32| if map.is_some() { flag } else { 0 };
    let flags = flag(&hard, XEN_VCPUAFFINITY_HARD) | flag(&soft, XEN_VCPUAFFINITY_SOFT);
    let bitmap = |map: Option<&mut [u8]>| {
        map.map_or_else(Bitmap::default, |map| Bitmap {
            nr_bits: map.len() as u32 * 8,
            bitmap: handle_mut(map),
            pad: 0,
        })
    };
    let payload = DomctlVcpuaffinity {
        vcpu,
        flags,
        cpumap_hard: bitmap(hard),
        cpumap_soft: bitmap(soft),
    };
    // SAFETY: the hypervisor reads and writes at most `nr_bits` bits.
    unsafe { call(cmd, domain, &payload) }.map(|_| ())
}

/// State of a vCPU.
pub fn vcpu_info(domain: Domid, vcpu: u32) -> Result<DomctlGetvcpuinfo, Errno> {
    plain(
        XEN_DOMCTL_GETVCPUINFO,
        domain,
        &DomctlGetvcpuinfo {
            vcpu,
            ..Default::default()
        },
    )
}

/// The saved hardware state of a domain.
pub fn hvm_context(domain: Domid) -> Result<Vec<u8>, Errno> {
    let mut request = DomctlHvmcontext::default();
    // SAFETY: a null handle asks for the size.
    let (_, answer) = unsafe { call(XEN_DOMCTL_GETHVMCONTEXT, domain, &request) }?;
    let mut buffer = vec![0; answer.size as usize];
    request = DomctlHvmcontext {
        size: answer.size,
        pad: 0,
        buffer: handle_mut(&mut buffer),
    };
    // SAFETY: the hypervisor writes at most `size` bytes.
    let (_, answer) = unsafe { call(XEN_DOMCTL_GETHVMCONTEXT, domain, &request) }?;
    buffer.truncate(answer.size as usize);
    Ok(buffer)
}

/// Loads hardware state.
pub fn set_hvm_context(domain: Domid, context: &[u8]) -> Result<(), Errno> {
    let payload = DomctlHvmcontext {
        size: context.len() as u32,
        pad: 0,
        buffer: handle(context),
    };
    // SAFETY: the hypervisor reads `size` bytes.
    unsafe { call(XEN_DOMCTL_SETHVMCONTEXT, domain, &payload) }.map(|_| ())
}
