//! Time as guests see it: the TSC with an offset, Xen's PV clock, timers.
//!
//! System time is nanoseconds since Oxen started, a fixed linear function of the machine's TSC. The guest gets that very function (its offset
//! included) in `vcpu_time_info`, written once for each place where that is registered: both sides compute the same numbers for ever, without drift or
//! steps, and no entry has to update anything. While its domain is paused all of a guest's clocks stand still, as on KVM: it sees no gap in which its watchdogs
//! would have barked. They are behind the machine's from then on, and what the guest is told is written anew.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use abi::cpuid::{XEN_CPUID_TSC_EMULATED, XEN_CPUID_TSC_HOST_RELIABLE, XEN_CPUID_TSC_RDTSCP};
use abi::domctl::{TSC_MODE_ALWAYS_EMULATE, TSC_MODE_NEVER_EMULATE};
use abi::event_channel::VIRQ_TIMER;
use abi::shared_info::VcpuTimeInfo;

use super::{Running, decode, lapic};
use crate::arch::{Event, GuestCpu, SysReg};
use crate::domain::vcpu::{NEVER, Vcpu};
use crate::{event, hw, sched};

/// What a vCPU's `vcpu_time_info` says.
pub fn time_info(vcpu: &Vcpu) -> VcpuTimeInfo {
    let clock = hw::time::clock();
    VcpuTimeInfo {
        tsc_timestamp: clock.tsc_base.wrapping_add(vcpu.tsc_offset.load(SeqCst)),
        system_time: vcpu.system_time_at(0),
        tsc_to_system_mul: clock.mul,
        tsc_shift: clock.shift,
        flags: abi::shared_info::XEN_PVCLOCK_TSC_STABLE_BIT,
        ..Default::default()
    }
}

/// System time at which the guest's TSC reads `guest_tsc`, in nanoseconds; now, if it has passed that, and [`NEVER`] if nobody will live to see it.
pub fn system_time_of(vcpu: &Vcpu, guest_tsc: u64) -> u64 {
    let host_tsc = hw::time::tsc();
    let ticks = ticks_until(host_tsc.wrapping_add(vcpu.tsc_offset.load(SeqCst)), guest_tsc);
    ticks.map_or(NEVER, |ticks| {
        hw::time::clock().nanoseconds(host_tsc.saturating_add(ticks))
    })
}

/// What the guest's TSC reads.
pub fn guest_tsc(vcpu: &Vcpu) -> u64 {
    hw::time::tsc().wrapping_add(vcpu.tsc_offset.load(SeqCst))
}

/// RDTSC or RDTSCP, which the hardware has not done as the machine's TSC is not to be trusted. Whether the guest may, it has checked.
pub(super) fn read_tsc(running: &mut Running<'_, dyn GuestCpu>) -> Result<(), Event> {
    let tsc = guest_tsc(running.vcpu);
    let aux = decode::is_rdtscp(running).then(|| running.cpu.read(SysReg::TscAux));
    let registers = running.cpu.gprs();
    registers.rax = tsc & 0xffff_ffff;
    registers.rdx = tsc >> 32;
    if let Some(aux) = aux {
        registers.rcx = aux & 0xffff_ffff;
    }
    Ok(())
}

/// Ticks from `now` to `then`; `None`: more than a clock can count.
fn ticks_until(now: u64, then: u64) -> Option<u64> {
    /// Years at any frequency; and a clock may shift it left without losing bits.
    const LIMIT: u64 = 1 << 56;
    let ticks = then.saturating_sub(now);
    (ticks < LIMIT).then_some(ticks)
}

/// Xen's name for how guests' TSCs come about, the same for all domains.
pub fn tsc_mode() -> u32 {
    if hw::time::trusts_tsc() {
        TSC_MODE_NEVER_EMULATE
    } else {
        TSC_MODE_ALWAYS_EMULATE
    }
}

/// Xen's CPUID leaf 3 (time).
pub(super) fn cpuid(vcpu: &Vcpu, subleaf: u32) -> [u32; 4] {
    // The TSC is the same on all CPUs and never stops, or else it is emulated.
    let flags = XEN_CPUID_TSC_RDTSCP
        | if hw::time::trusts_tsc() {
            XEN_CPUID_TSC_HOST_RELIABLE
        } else {
            XEN_CPUID_TSC_EMULATED
        };
    let clock = hw::time::clock();
    let offset = vcpu.tsc_offset.load(SeqCst);
    match subleaf {
        0 => [flags, tsc_mode(), clock.khz(), 0],
        1 => [
            offset as u32,
            (offset >> 32) as u32,
            clock.mul,
            clock.shift as u8 as u32,
        ],
        2 => [clock.khz(), 0, 0, 0],
        _ => [0; 4],
    }
}

/// Deliver the timers of this vCPU whose time has come.
#[inline(never)]
pub(super) fn expire(running: &mut Running<'_, dyn GuestCpu>) {
    let vcpu = running.vcpu;
    let timers = &vcpu.timers;
    let now = hw::time::now_ns();
    let due = |deadline: u64| deadline != NEVER && deadline <= now;
    let mut tick = false;
    // Another vCPU may stop or set these meanwhile: what it says, holds.
    let replace = |timer: &AtomicU64, old, new| timer.compare_exchange(old, new, SeqCst, SeqCst).is_ok();
    let singleshot = timers.singleshot.load(SeqCst);
    if due(singleshot) {
        tick |= replace(&timers.singleshot, singleshot, NEVER);
    }
    let periodic = timers.periodic.load(SeqCst);
    if due(periodic) {
        // From deadline to deadline, so that nothing drifts; ticks that were missed are one.
        let next = match timers.period.load(SeqCst) {
            0 => NEVER,
            period => periodic.saturating_add(((now - periodic) / period + 1).saturating_mul(period)),
        };
        tick |= replace(&timers.periodic, periodic, next);
    }
    if tick {
        event::raise_virq(running.domain, vcpu.id, VIRQ_TIMER);
    }
    let deadline = timers.lapic.load(SeqCst);
    if due(deadline) {
        lapic::timer_expired(running, deadline, now);
    }
    sched::timers_changed(vcpu);
}

#[cfg(test)]
mod tests {
    use super::ticks_until;

    #[test]
    fn what_has_passed_is_due_now() {
        assert_eq!(ticks_until(100, 150), Some(50));
        assert_eq!(ticks_until(100, 1), Some(0));
        assert_eq!(ticks_until(100, u64::MAX), None);
    }
}
