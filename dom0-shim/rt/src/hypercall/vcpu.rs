//! `vcpu_op`.
// UNSAFETY: hypercalls.
#![expect(unsafe_code, reason = "hypercalls")]

use abi::Errno;
use abi::hypercall::HYPERVISOR_VCPU_OP;
use abi::vcpu::{VCPUOP_SET_SINGLESHOT_TIMER, VCPUOP_STOP_SINGLESHOT_TIMER, VcpuSetSingleshotTimer};

use super::raw;

/// Arms vCPU 0's one-shot timer for a system time in nanoseconds (past: fires at once), or stops it.
pub fn set_timer(deadline: Option<u64>) -> Result<(), Errno> {
    let (command, timeout_abs_ns) = match deadline {
        Some(at) => (VCPUOP_SET_SINGLESHOT_TIMER, at),
        None => (VCPUOP_STOP_SINGLESHOT_TIMER, 0),
    };
    let argument = VcpuSetSingleshotTimer {
        timeout_abs_ns,
        ..Default::default()
    };
    // SAFETY: the hypervisor reads `argument`, which holds no address.
    unsafe {
        raw(
            HYPERVISOR_VCPU_OP,
            [command.into(), 0, &raw const argument as u64, 0, 0],
        )
    }
    .map(|_| ())
}
