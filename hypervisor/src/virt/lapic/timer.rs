//! The timer (SDM 3A, 11.5.4).

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

use super::deliver::raise_local;
use crate::arch::GuestCpu;
use crate::arch::apic_page::reg;
use crate::domain::vcpu::{NEVER, Vcpu};
use crate::virt::{Running, time};
use crate::{hw, sched};

/// Nanoseconds of a tick of the timer's undivided clock, as Xen has it.
const BUS_CYCLE: u64 = 10;
/// Nanoseconds from one tick of a periodic timer to the next, at least: a guest cannot have more of the CPU's time spent on its timer.
const MIN_PERIOD: u64 = 100_000;

/// The timer's entry of the LVT: its mode. (One-shot is 0.)
const MODE: u32 = 3 << 17;
const PERIODIC: u32 = 1 << 17;
const TSC_DEADLINE: u32 = 2 << 17;

/// The timer as it runs. Its registers may hold what has just been written.
#[derive(Default, Debug)]
pub(super) struct Timer {
    /// Bits of [`MODE`].
    mode: u32,
    initial: u32,
    divide: u32,
    /// System time at which it was started, in nanoseconds.
    start: u64,
    /// IA32_TSC_DEADLINE, in the guest's TSC.
    tsc_deadline: u64,
}

impl Timer {
    fn divider(&self) -> u64 {
        // Bits 0, 1 and 3 are log2(divider) - 1, wrapping.
        let bits = (self.divide & 3) | (self.divide >> 1 & 4);
        1 << ((bits + 1) & 7)
    }

    /// In nanoseconds; 0: it is stopped.
    fn period(&self) -> u64 {
        u64::from(self.initial) * BUS_CYCLE * self.divider()
    }

    /// It was stopped for so many nanoseconds.
    pub(super) fn put_off(&mut self, by: u64) {
        self.start = self.start.wrapping_add(by);
    }

    /// Counts down to 0, then stays there (one-shot) or begins again.
    pub(super) fn current_count(&self, now: u64) -> u32 {
        let period = self.period();
        if period == 0 || self.mode == TSC_DEADLINE {
            return 0;
        }
        let elapsed = now.wrapping_sub(self.start);
        let left = if self.mode == PERIODIC {
            period - elapsed % period
        } else {
            period.saturating_sub(elapsed)
        };
        (left / (BUS_CYCLE * self.divider())) as u32
    }
}

fn set_deadline(vcpu: &Arc<Vcpu>, deadline: u64) {
    vcpu.timers.lapic.store(deadline, SeqCst);
    sched::timers_changed(vcpu);
}

/// No interrupt comes of what the timer was started for.
pub(super) fn disarm(running: &mut Running<'_, dyn GuestCpu>) {
    if running.vcpu.timers.lapic.load(SeqCst) != NEVER {
        set_deadline(running.vcpu, NEVER);
    }
}

/// A write to its LVT entry: another mode stops it.
pub(super) fn set_mode(running: &mut Running<'_, dyn GuestCpu>, entry: u32) {
    let timer = &mut running.lapic.timer;
    let mode = entry & MODE;
    if mode != timer.mode {
        *timer = Timer {
            mode,
            divide: timer.divide,
            ..Timer::default()
        };
        running.cpu.apic_page().set(reg::TIMER_INITIAL, 0);
        disarm(running);
    }
}

/// A write to the initial count: it begins anew, or stops. In TSC-deadline mode the register does not take anything.
pub(super) fn start_timer(running: &mut Running<'_, dyn GuestCpu>, initial: u32) {
    let timer = &mut running.lapic.timer;
    if timer.mode == TSC_DEADLINE {
        return running.cpu.apic_page().set(reg::TIMER_INITIAL, 0);
    }
    (timer.initial, timer.start) = (initial, hw::time::now_ns());
    let deadline = match timer.period() {
        0 => NEVER,
        period => timer.start.saturating_add(period),
    };
    set_deadline(running.vcpu, deadline);
}

/// Another divider: a timer that runs goes on from its current count at the new rate.
pub(super) fn divide_timer(running: &mut Running<'_, dyn GuestCpu>, divide: u32) {
    let timer = &mut running.lapic.timer;
    let now = hw::time::now_ns();
    let left = timer.current_count(now);
    timer.divide = divide;
    if left != 0 {
        let until = u64::from(left) * BUS_CYCLE * timer.divider();
        timer.start = now.wrapping_add(until).wrapping_sub(timer.period());
        set_deadline(running.vcpu, now.saturating_add(until));
    }
}

/// RDMSR of IA32_TSC_DEADLINE.
pub fn tsc_deadline(lapic: &super::Lapic) -> u64 {
    lapic.timer.tsc_deadline
}

/// WRMSR of IA32_TSC_DEADLINE: 0 disarms; ignored in other modes (SDM 3A, 11.5.4.1).
pub fn set_tsc_deadline(running: &mut Running<'_, dyn GuestCpu>, value: u64) {
    let timer = &mut running.lapic.timer;
    if timer.mode == TSC_DEADLINE {
        timer.tsc_deadline = value;
        let deadline = match value {
            0 => NEVER,
            _ => time::system_time_of(running.vcpu, value),
        };
        set_deadline(running.vcpu, deadline);
    }
}

/// The timer's deadline has passed: raise its interrupt, and go on if it is periodic.
pub(in crate::virt) fn timer_expired(running: &mut Running<'_, dyn GuestCpu>, deadline: u64, now: u64) {
    let timer = &mut running.lapic.timer;
    let mut next = NEVER;
    match timer.mode {
        PERIODIC => {
            // From deadline to deadline, so that nothing drifts; ticks that were missed are one.
            let period = timer.period().max(BUS_CYCLE);
            let missed = now.saturating_sub(deadline) / period;
            timer.start = deadline.saturating_add(missed.saturating_mul(period));
            next = timer
                .start
                .saturating_add(period)
                .max(now.saturating_add(MIN_PERIOD));
        }
        TSC_DEADLINE => timer.tsc_deadline = 0,
        _ => {}
    }
    running.vcpu.timers.lapic.store(next, SeqCst);
    raise_local(running, reg::LVT_TIMER);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_down() {
        let mut timer = Timer {
            initial: 100,
            divide: 0xb, // by 1
            ..Timer::default()
        };
        assert_eq!(timer.period(), 1000);
        assert_eq!(timer.current_count(250), 75);
        assert_eq!(timer.current_count(5000), 0);
        timer.mode = PERIODIC;
        assert_eq!(timer.current_count(1250), 75);
        timer.divide = 0; // by 2
        assert_eq!(timer.period(), 2000);
    }

    #[test]
    fn dividers() {
        // SDM 3A figure 11-10.
        let by = |divide| {
            Timer {
                divide,
                ..Timer::default()
            }
            .divider()
        };
        let dividers = [0, 1, 2, 3, 8, 9, 10, 11].map(by);
        assert_eq!(dividers, [2, 4, 8, 16, 32, 64, 128, 1]);
    }
}
