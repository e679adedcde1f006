//! Time as guests see it: the TSC with an offset, Xen's PV clock, timers.
//!
//! System time is nanoseconds since Oxen started, a fixed linear function of the machine's TSC. The guest gets that very function (the ratio and offset of its
//! TSC included) in `vcpu_time_info`, written once for each place where that is registered: both sides compute the same numbers for ever, without drift or
//! steps, and no entry has to update anything. While its domain is paused all of a guest's clocks stand still, as on KVM: it sees no gap in which its watchdogs
//! would have barked. They are behind the machine's from then on, and what the guest is told is written anew.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use abi::Errno;
use abi::cpuid::{XEN_CPUID_TSC_EMULATED, XEN_CPUID_TSC_HOST_RELIABLE, XEN_CPUID_TSC_RDTSCP};
use abi::domctl::{DomctlTscInfo, TSC_MODE_ALWAYS_EMULATE, TSC_MODE_DEFAULT, TSC_MODE_NEVER_EMULATE};
use abi::event_channel::VIRQ_TIMER;
use abi::shared_info::VcpuTimeInfo;

use super::guest_tsc::Ratio;
use super::{Running, decode, lapic};
use crate::arch::{Event, GuestCpu, SysReg, TSC_MULTIPLIER_POINT, machine};
use crate::domain::Domain;
use crate::domain::vcpu::{NEVER, Vcpu};
use crate::hw::time::Clock;
use crate::{event, hw, sched};

const NS_PER_MS: u128 = 1_000_000;

/// The clock of a vCPU's TSC: that of the machine's, where it counts at the same rate.
fn guest_clock(vcpu: &Vcpu) -> Clock {
    let clock = hw::time::clock();
    let base = vcpu.tsc.at(clock.tsc_base);
    match vcpu.tsc.ratio() {
        Ratio::ONE => clock.from(base),
        // To the next whole number, which the rate is.
        ratio => Clock::new(ratio.scale(2 * clock.hz()).div_ceil(2), base),
    }
}

/// What a vCPU's `vcpu_time_info` says.
pub fn time_info(vcpu: &Vcpu) -> VcpuTimeInfo {
    let clock = guest_clock(vcpu);
    VcpuTimeInfo {
        tsc_timestamp: clock.tsc_base,
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
    let ticks = ticks_until(vcpu.tsc.at(host_tsc), guest_tsc);
    ticks.map_or(NEVER, |ticks| {
        let then = host_tsc.saturating_add(vcpu.tsc.ratio().unscale(ticks));
        hw::time::clock().nanoseconds(then)
    })
}

/// What the guest's TSC reads.
pub fn guest_tsc(vcpu: &Vcpu) -> u64 {
    vcpu.tsc.at(hw::time::tsc())
}

/// Do reads of the vCPU's TSC exit?
pub fn emulates_tsc(vcpu: &Vcpu) -> bool {
    vcpu.tsc.emulated() || !hw::time::trusts_tsc()
}

/// What a domain's toolstack has said of its TSC (`XEN_DOMCTL_settscinfo`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TscInfo {
    /// `TSC_MODE_*`.
    pub mode: u32,
    /// Its rate.
    pub khz: u32,
    /// How often it was said.
    pub incarnation: u32,
}

impl TscInfo {
    /// Nothing yet: the machine's rate.
    pub fn new() -> Self {
        Self {
            mode: TSC_MODE_DEFAULT,
            khz: hw::time::clock().khz(),
            incarnation: 0,
        }
    }

    /// Of its rate to the machine's; `None`: no machine counts so.
    fn ratio(self) -> Option<Ratio> {
        let clock = hw::time::clock();
        if self.khz == clock.khz() {
            return Some(Ratio::ONE);
        }
        let bits = machine::tsc_scaling().unwrap_or(TSC_MULTIPLIER_POINT);
        Ratio::new(self.khz, clock.hz(), bits)
    }
}

impl Default for TscInfo {
    fn default() -> Self {
        Self::new()
    }
}

/// A vCPU that is stopped has a TSC as its domain's toolstack has said, which reads `value` when the machine's reads `now`.
fn change_tsc(vcpu: &Vcpu, info: TscInfo, value: u64, now: u64) {
    let ratio = info.ratio().unwrap_or(Ratio::ONE);
    let scaled = ratio == Ratio::ONE || machine::tsc_scaling().is_some();
    vcpu.tsc
        .change_rate(ratio, info.mode == TSC_MODE_ALWAYS_EMULATE || !scaled);
    let offset = vcpu.tsc.set(value, now);
    vcpu.with_private(|private| {
        let cpu = private.cpu.as_dyn();
        cpu.set_tsc_multiplier(ratio.multiplier());
        cpu.set_tsc_offset(offset);
    });
}

/// A new vCPU has the TSC of its domain from its start on, when the machine's read `start`.
pub fn take_tsc_info(vcpu: &Vcpu, info: TscInfo, start: u64) {
    if info != TscInfo::new() {
        change_tsc(vcpu, info, vcpu.tsc.at(start), start);
    }
}

/// `XEN_DOMCTL_settscinfo`: how a domain's TSC comes about, at which rate it counts (0: the machine's), and how many nanoseconds it has counted.
///
/// By default it exits only if its rate is not the machine's and the hardware cannot scale. If it is never to exit, it has the machine's rate and goes on as it
/// is, whatever is said.
///
/// # Errors
/// `EINVAL`: there is no such mode, or no machine counts at such a rate.
pub fn set_tsc_info(domain: &Domain, asked: &DomctlTscInfo) -> Result<(), Errno> {
    let clock = hw::time::clock();
    let khz = match (asked.tsc_mode, asked.gtsc_khz) {
        (TSC_MODE_NEVER_EMULATE, _) | (TSC_MODE_DEFAULT | TSC_MODE_ALWAYS_EMULATE, 0) => clock.khz(),
        (TSC_MODE_DEFAULT | TSC_MODE_ALWAYS_EMULATE, khz) => khz,
        _ => return Err(Errno::EINVAL),
    };
    let info = TscInfo {
        mode: asked.tsc_mode,
        khz,
        incarnation: asked.incarnation.wrapping_add(1),
    };
    info.ratio().ok_or(Errno::EINVAL)?;
    let counted = u128::from(asked.elapsed_nsec) * u128::from(khz) / NS_PER_MS;
    domain.while_paused(|| {
        *domain.tsc.lock() = info;
        let now = domain.machine_tsc();
        for vcpu in domain.vcpus() {
            let value = match asked.tsc_mode {
                TSC_MODE_NEVER_EMULATE => vcpu.tsc.at(now),
                _ => counted as u64,
            };
            change_tsc(vcpu, info, value, now);
            domain.publish_time(vcpu);
        }
    });
    Ok(())
}

/// `XEN_DOMCTL_gettscinfo`: what [`set_tsc_info`] takes to go on with this TSC elsewhere. Of one that is never to exit there is nothing to say, as on Xen.
pub fn tsc_info(domain: &Domain) -> DomctlTscInfo {
    let info = *domain.tsc.lock();
    let mut said = DomctlTscInfo {
        tsc_mode: info.mode,
        incarnation: info.incarnation,
        ..Default::default()
    };
    if info.mode != TSC_MODE_NEVER_EMULATE {
        let tsc = domain
            .vcpus()
            .first()
            .map_or(0, |vcpu| vcpu.tsc.at(domain.machine_tsc()));
        said.gtsc_khz = info.khz;
        said.elapsed_nsec = (u128::from(tsc) * NS_PER_MS / u128::from(info.khz.max(1))) as u64;
    }
    said
}

/// RDTSC or RDTSCP, which the hardware has not done, as [`emulates_tsc`] says. Whether the guest may, it has checked.
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

/// Xen's CPUID leaf 3 (time).
pub(super) fn cpuid(running: &Running<'_, dyn GuestCpu>, subleaf: u32) -> [u32; 4] {
    let vcpu = running.vcpu;
    // The TSC is the same on all CPUs and never stops, or else it is emulated.
    let reliable = match hw::time::trusts_tsc() {
        true => XEN_CPUID_TSC_HOST_RELIABLE,
        false => 0,
    };
    let emulated = match emulates_tsc(vcpu) {
        true => XEN_CPUID_TSC_EMULATED,
        false => 0,
    };
    match subleaf {
        0 => {
            let info = *running.domain.tsc.lock();
            let flags = XEN_CPUID_TSC_RDTSCP | reliable | emulated;
            [flags, info.mode, info.khz, info.incarnation]
        }
        1 => {
            let (clock, offset) = (guest_clock(vcpu), vcpu.tsc.offset());
            [
                offset as u32,
                (offset >> 32) as u32,
                clock.mul,
                clock.shift as u8 as u32,
            ]
        }
        2 => [hw::time::clock().khz(), 0, 0, 0],
        _ => [0; 4],
    }
}

/// Deliver the timers of this vCPU whose time has come. `true`: the CPU's timer is to be set, as others are to come.
#[inline(never)]
pub(super) fn expire(running: &mut Running<'_, dyn GuestCpu>) -> bool {
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
    sched::timers_passed(vcpu)
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
