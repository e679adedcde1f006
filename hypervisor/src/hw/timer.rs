//! This CPU's one-shot timer: its local APIC's, by TSC deadline where the CPU has that.

use super::{apic, time};

/// Interrupt no earlier than system time `deadline` (nanoseconds), or never (`u64::MAX`). Replaces what was set before.
pub fn arm(deadline: u64) {
    if deadline == u64::MAX {
        apic::stop_timer();
    } else {
        let clock = time::clock();
        apic::start_timer(clock.tsc_at(deadline), time::tsc());
    }
}
