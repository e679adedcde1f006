//! `sched_op`.
// UNSAFETY: hypercalls.
#![expect(unsafe_code, reason = "hypercalls")]

use abi::Errno;
use abi::hypercall::HYPERVISOR_SCHED_OP;
use abi::sched::{SCHEDOP_SHUTDOWN, SCHEDOP_YIELD, SchedShutdown};

use super::{op, raw};

/// Ends this domain for `reason` (`SHUTDOWN_*`).
pub fn shutdown(reason: u32) -> ! {
    loop {
        // SAFETY: the argument holds no address.
        let _ = unsafe {
            op(
                HYPERVISOR_SCHED_OP,
                SCHEDOP_SHUTDOWN,
                &mut SchedShutdown { reason },
            )
        };
    }
}

/// Lets other vCPUs run.
pub fn yield_now() -> Result<(), Errno> {
    // SAFETY: no argument.
    unsafe { raw(HYPERVISOR_SCHED_OP, [SCHEDOP_YIELD.into(), 0, 0, 0, 0]) }.map(|_| ())
}
