//! `sched_op`.
// UNSAFETY: hypercalls.
#![expect(unsafe_code, reason = "hypercalls")]

use abi::Errno;
use abi::hypercall::HYPERVISOR_SCHED_OP;
use abi::sched::{SCHEDOP_POLL, SCHEDOP_SHUTDOWN, SCHEDOP_YIELD, SchedPoll, SchedShutdown};

use super::{op, raw};
use crate::time;

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

/// Lets other vCPUs run for so many nanoseconds, or until an event comes. In Bochs, a vCPU that waits so takes less than a tenth of what one takes that yields
/// again and again.
pub fn sleep(nanoseconds: u64) -> Result<(), Errno> {
    let mut nothing = SchedPoll {
        timeout: time::now() + nanoseconds,
        ..SchedPoll::default()
    };
    // SAFETY: it names no ports, and so no address.
    unsafe { op(HYPERVISOR_SCHED_OP, SCHEDOP_POLL, &mut nothing) }.map(|_| ())
}
