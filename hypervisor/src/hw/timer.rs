//! This CPU's one-shot timer: its local APIC's, by TSC deadline where the CPU has that.

use super::{apic, time};

/// So far ahead is the timer set at most, in TSC ticks: some minutes at least. Guests may ask for any time: no hardware, nor what stands for it, has to be relied on for centuries.
const FARTHEST: u64 = 1 << 42;

/// Interrupt no earlier than system time `deadline` (nanoseconds), or never (`u64::MAX`). Replaces what was set before. What is too far comes early, and whoever
/// looks sets it again.
pub fn arm(deadline: u64) {
    if deadline == u64::MAX {
        apic::stop_timer();
    } else {
        let now = time::tsc();
        apic::start_timer(tsc_for(time::clock(), deadline, now), now);
    }
}

/// What the TSC, which reads `now`, is to come to for a deadline.
fn tsc_for(clock: &time::Clock, deadline: u64, now: u64) -> u64 {
    clock.tsc_at(deadline).min(now.saturating_add(FARTHEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Never at once for what is yet to come, nor beyond the farthest.
        #[test]
        fn set_for_any_deadline(hz in 1_000_000u64..10_000_000_000, now: u32, ahead in 1_000_000u64..) {
            let clock = time::Clock::new(hz, 0);
            let now = u64::from(now);
            let at = tsc_for(&clock, clock.nanoseconds(now).saturating_add(ahead), now);
            prop_assert!(at > now && at - now <= FARTHEST, "{at:#x}");
        }
    }
}
