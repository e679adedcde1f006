//! `sysctl`: information about the host.
// UNSAFETY: hypercalls that read and write lists.
#![expect(unsafe_code, reason = "hypercalls with lists")]

use alloc::vec;
use alloc::vec::Vec;

use abi::domctl::DomctlGetdomaininfo;
use abi::hypercall::HYPERVISOR_SYSCTL;
use abi::sysctl::*;
use abi::{Domid, Errno, Union};
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

/// Which scheduler runs (`XEN_SCHEDULER_*`).
pub fn scheduler_id() -> Result<u32, Errno> {
    // SAFETY: the payload has no handle.
    unsafe { call(XEN_SYSCTL_SCHED_ID, &SysctlSchedId::default()) }.map(|answer| answer.sched_id)
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
