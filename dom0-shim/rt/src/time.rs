//! System time (PV clock) and the one-shot timer.
// UNSAFETY: RDTSC.
#![expect(unsafe_code, reason = "RDTSC")]

use crate::event;
pub use crate::hypercall::vcpu::set_timer;

/// Nanoseconds since the hypervisor started.
pub fn now() -> u64 {
    let clock = event::clock();
    // SAFETY: RDTSC only reads a counter.
    let tsc = unsafe { core::arch::x86_64::_rdtsc() };
    let delta = tsc.wrapping_sub(clock.tsc_timestamp);
    let scaled = match clock.tsc_shift {
        shift @ 0.. => delta << (shift & 63),
        shift => delta >> (shift.unsigned_abs() & 63),
    };
    let nanoseconds = (u128::from(scaled) * u128::from(clock.tsc_to_system_mul)) >> 32;
    clock.system_time.wrapping_add(nanoseconds as u64)
}
