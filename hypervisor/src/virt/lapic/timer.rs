//! The timer (SDM 3A, 11.5.4).

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

use super::deliver::raise;
use super::registers::{LVT_MASKED, Lapic, TIMER_MODE, TIMER_PERIODIC, TIMER_TSC_DEADLINE};
use crate::arch::GuestCpu;
use crate::domain::vcpu::{NEVER, Vcpu};
use crate::virt::{Running, time};
use crate::{hw, sched};

/// Nanoseconds of a tick of the timer's undivided clock, as Xen has it.
const BUS_CYCLE: u64 = 10;
/// Nanoseconds from one tick of a periodic timer to the next, at least: a guest cannot have more of the CPU's time spent on its timer.
const MIN_PERIOD: u64 = 100_000;

impl Lapic {
    pub(super) fn divider(&self) -> u64 {
        // Bits 0, 1 and 3 are log2(divider) - 1, wrapping.
        let bits = (self.timer_divide & 3) | (self.timer_divide >> 1 & 4);
        1 << ((bits + 1) & 7)
    }

    pub(super) fn period(&self) -> u64 {
        u64::from(self.timer_initial) * BUS_CYCLE * self.divider()
    }

    pub(super) fn timer_mode(&self) -> u32 {
        self.lvt[0] & TIMER_MODE
    }

    /// SDM 3A, 11.5.4: counts down to 0, then stays there (one-shot) or begins again.
    pub(super) fn current_count(&self, now: u64) -> u32 {
        let period = self.period();
        if period == 0 || self.timer_mode() == TIMER_TSC_DEADLINE {
            return 0;
        }
        let elapsed = now.wrapping_sub(self.timer_start);
        let left = if self.timer_mode() == TIMER_PERIODIC {
            period - elapsed % period
        } else {
            period.saturating_sub(elapsed)
        };
        (left / (BUS_CYCLE * self.divider())) as u32
    }
}

pub(super) fn set_deadline(vcpu: &Arc<Vcpu>, deadline: u64) {
    vcpu.timers.lapic.store(deadline, SeqCst);
    sched::timers_changed(vcpu);
}

pub(super) fn start_timer(running: &mut Running<'_, dyn GuestCpu>) {
    let lapic = &mut *running.lapic;
    if lapic.timer_mode() == TIMER_TSC_DEADLINE {
        return;
    }
    lapic.timer_start = hw::time::now_ns();
    let deadline = if lapic.period() == 0 {
        NEVER
    } else {
        lapic.timer_start.saturating_add(lapic.period())
    };
    set_deadline(running.vcpu, deadline);
}

/// Another divider: a timer that runs goes on from its current count at the new rate.
pub(super) fn divide_timer(running: &mut Running<'_, dyn GuestCpu>, divide: u32) {
    let lapic = &mut *running.lapic;
    let now = hw::time::now_ns();
    let left = lapic.current_count(now);
    lapic.timer_divide = divide;
    if left != 0 {
        let until = u64::from(left) * BUS_CYCLE * lapic.divider();
        lapic.timer_start = now.wrapping_add(until).wrapping_sub(lapic.period());
        set_deadline(running.vcpu, now.saturating_add(until));
    }
}

/// RDMSR of IA32_TSC_DEADLINE.
pub fn tsc_deadline(lapic: &Lapic) -> u64 {
    if lapic.timer_mode() == TIMER_TSC_DEADLINE {
        lapic.tsc_deadline
    } else {
        0
    }
}

/// WRMSR of IA32_TSC_DEADLINE: 0 disarms; ignored in other modes (SDM 3A, 11.5.4.1).
pub fn set_tsc_deadline(running: &mut Running<'_, dyn GuestCpu>, value: u64) {
    if running.lapic.timer_mode() == TIMER_TSC_DEADLINE {
        running.lapic.tsc_deadline = value;
        let deadline = if value == 0 {
            NEVER
        } else {
            time::system_time_of(running.vcpu, value)
        };
        set_deadline(running.vcpu, deadline);
    }
}

/// The timer's deadline has passed: raise its interrupt, and go on if it is periodic.
pub(in crate::virt) fn timer_expired(running: &mut Running<'_, dyn GuestCpu>, deadline: u64, now: u64) {
    let lapic = &mut *running.lapic;
    let mut next = NEVER;
    match lapic.timer_mode() {
        TIMER_PERIODIC => {
            // From deadline to deadline, so that nothing drifts; ticks that were missed are one.
            let period = lapic.period().max(BUS_CYCLE);
            let missed = now.saturating_sub(deadline) / period;
            lapic.timer_start = deadline.saturating_add(missed.saturating_mul(period));
            next = lapic
                .timer_start
                .saturating_add(period)
                .max(now.saturating_add(MIN_PERIOD));
        }
        TIMER_TSC_DEADLINE => lapic.tsc_deadline = 0,
        _ => {}
    }
    running.vcpu.timers.lapic.store(next, SeqCst);
    let entry = running.lapic.lvt[0];
    if entry & LVT_MASKED == 0 {
        raise(running.vcpu, entry as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::VcpuId;

    #[test]
    fn timer_counts_down() {
        let mut lapic = Lapic::new(VcpuId(0));
        lapic.timer_initial = 100;
        lapic.timer_divide = 0xb; // by 1
        assert_eq!(lapic.period(), 1000);
        assert_eq!(lapic.current_count(250), 75);
        assert_eq!(lapic.current_count(5000), 0);
        lapic.lvt[0] = TIMER_PERIODIC;
        assert_eq!(lapic.current_count(1250), 75);
        lapic.timer_divide = 0; // by 2
        assert_eq!(lapic.period(), 2000);
    }
}
