//! This CPU's local APIC (SDM 3A, chapter 11; APM vol. 2, chapter 16): x2APIC where there is one that firmware does not advise against, else the page of
//! registers.
//!
//! Destinations are always physical ids.
// UNSAFETY: MSRs and memory-mapped registers.
#![expect(unsafe_code, reason = "MSRs and memory-mapped registers")]

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use x86_64::registers::model_specific::Msr;

#[cfg(target_os = "none")]
use super::idle;
use super::irq::vector;
use super::percpu::{self, PerCpu};
use super::{acpi, time};
use crate::arch::errata;
use crate::mm::phys;
use crate::types::Hpa;

const APIC_BASE: u32 = 0x1b;
const X2APIC_MSRS: u32 = 0x800;
const TSC_DEADLINE: u32 = 0x6e0;

/// Register offsets; an x2APIC's MSR is 0x800 + offset / 16.
mod reg {
    pub const ID: u32 = 0x20;
    pub const TPR: u32 = 0x80;
    pub const EOI: u32 = 0xb0;
    pub const SVR: u32 = 0xf0;
    pub const ICR: u32 = 0x300;
    pub const ICR_HIGH: u32 = 0x310;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_LINT0: u32 = 0x350;
    pub const LVT_LINT1: u32 = 0x360;
    pub const LVT_ERROR: u32 = 0x370;
    pub const TIMER_INITIAL: u32 = 0x380;
    pub const TIMER_CURRENT: u32 = 0x390;
    pub const TIMER_DIVIDE: u32 = 0x3e0;
}

const MASKED: u32 = 1 << 16;
const LVT_NMI: u32 = 4 << 8;
const MODE_TSC_DEADLINE: u32 = 2 << 17;
const DIVIDE_BY_1: u32 = 0xb;

static X2APIC: AtomicBool = AtomicBool::new(false);
static DEADLINE: AtomicBool = AtomicBool::new(false);
/// Physical address of the registers, in xAPIC mode.
static REGISTERS: AtomicU64 = AtomicU64::new(0);
/// Timer ticks in 2^20 TSC ticks, without TSC deadline.
static TIMER_RATE: AtomicU32 = AtomicU32::new(0);

/// What this machine's local APIC can do, for the log.
pub fn describe() -> &'static str {
    match (X2APIC.load(Relaxed), DEADLINE.load(Relaxed)) {
        (true, true) => "x2APIC, TSC-deadline timer",
        (true, false) => "x2APIC, one-shot timer",
        (false, true) => "xAPIC, TSC-deadline timer",
        (false, false) => "xAPIC, one-shot timer",
    }
}

/// Where the registers of local APICs lie, for CPUs without x2APIC.
pub fn registers() -> Hpa {
    // SAFETY: every CPU with a local APIC has the register; reading it has no side effect.
    Hpa(unsafe { Msr::new(APIC_BASE).read() } & 0x000f_ffff_ffff_f000)
}

const ENABLED: u64 = 1 << 11;
const EXTENDED: u64 = 1 << 10;

/// Choose how all local APICs are reached, by `x2apic=`, before the first [`init`]. `false`: not as that says.
pub fn choose(wish: Option<bool>) -> bool {
    let has = raw_cpuid::native_cpuid::cpuid_count(1, 0).ecx & 1 << 21 != 0;
    // SAFETY: every CPU with a local APIC has the register; reading it has no side effect.
    let on = unsafe { Msr::new(APIC_BASE).read() } & EXTENDED != 0;
    let chosen = is_extended(has, on, wish, acpi::info().no_x2apic);
    X2APIC.store(chosen, Relaxed);
    wish.is_none_or(|wish| wish == chosen)
}

/// x2APIC? One that firmware has switched on stays so: there is no way back but by a reset (SDM 3A, 11.12.5), and newer CPUs have none at all.
fn is_extended(has: bool, on: bool, wish: Option<bool>, advised_against: bool) -> bool {
    on || has && wish.unwrap_or(!advised_against)
}

/// Switch this CPU's local APIC on: on the first CPU after [`time::init`] and [`choose`], then on the others, which are like it. In xAPIC mode its page must be
/// mapped uncached.
///
/// # Panics
/// The CPU has no local APIC.
pub fn init() {
    const SOFTWARE_ENABLED: u32 = 1 << 8;
    let features = raw_cpuid::native_cpuid::cpuid_count(1, 0);
    assert!(features.edx & 1 << 9 != 0, "this CPU has no local APIC");
    let deadline = features.ecx & 1 << 24 != 0 && errata::missing_deadline_microcode().is_none();
    DEADLINE.store(deadline && time::trusts_tsc(), Relaxed);
    let mut base = Msr::new(APIC_BASE);
    // SAFETY: the local APIC belongs to the hypervisor; this turns it on where it is.
    let registers = unsafe {
        let value = base.read();
        base.write(value | ENABLED);
        if X2APIC.load(Relaxed) {
            base.write(value | ENABLED | EXTENDED);
        }
        value & 0x000f_ffff_ffff_f000
    };
    REGISTERS.store(registers, Relaxed);
    write(reg::TPR, 0);
    write(reg::LVT_LINT0, MASKED);
    write(reg::LVT_LINT1, LVT_NMI);
    write(reg::LVT_ERROR, MASKED);
    write(reg::SVR, SOFTWARE_ENABLED | u32::from(vector::SPURIOUS));
    if DEADLINE.load(Relaxed) {
        write(reg::LVT_TIMER, MODE_TSC_DEADLINE | u32::from(vector::TIMER));
    } else {
        write(reg::LVT_TIMER, u32::from(vector::TIMER));
        write(reg::TIMER_DIVIDE, DIVIDE_BY_1);
        if TIMER_RATE.load(Relaxed) == 0 {
            calibrate();
        }
    }
}

/// The TSC is not to be trusted any more: count down instead of waiting for it. On one CPU; the others, which may have begun to wait by the TSC, follow when they
/// set their timers.
pub fn leave_the_tsc() {
    if DEADLINE.swap(false, Relaxed) {
        write(reg::LVT_TIMER, u32::from(vector::TIMER));
        write(reg::TIMER_DIVIDE, DIVIDE_BY_1);
    }
    calibrate();
}

/// Measure the timer against the TSC, which is calibrated.
fn calibrate() {
    const WINDOW_NS: u64 = 2_000_000;
    write(reg::TIMER_INITIAL, u32::MAX);
    let (start, end) = (time::tsc(), time::now_ns() + WINDOW_NS);
    while time::now_ns() < end {}
    let (ticks, tsc) = (u32::MAX - read(reg::TIMER_CURRENT), time::tsc() - start);
    write(reg::TIMER_INITIAL, 0);
    let rate = (u64::from(ticks) << 20) / tsc.max(1);
    TIMER_RATE.store(u32::try_from(rate).unwrap_or(u32::MAX).max(1), Relaxed);
}

/// Interrupt when the TSC reaches `deadline`; it reads `now`.
pub(super) fn start_timer(deadline: u64, now: u64) {
    if DEADLINE.load(Relaxed) {
        // SAFETY: the timer belongs to the hypervisor.
        unsafe { Msr::new(TSC_DEADLINE).write(deadline) };
    } else {
        if !time::trusts_tsc() {
            write(reg::LVT_TIMER, u32::from(vector::TIMER));
            write(reg::TIMER_DIVIDE, DIVIDE_BY_1);
        }
        let ticks = (u128::from(deadline.saturating_sub(now)) * u128::from(TIMER_RATE.load(Relaxed))) >> 20;
        // Too far for the counter: it fires early, and whoever looks arms it again.
        write(reg::TIMER_INITIAL, u32::try_from(ticks + 1).unwrap_or(u32::MAX));
    }
}

/// No timer interrupt.
pub(super) fn stop_timer() {
    if DEADLINE.load(Relaxed) {
        // SAFETY: 0 disarms (SDM 3A, 11.5.4.1).
        unsafe { Msr::new(TSC_DEADLINE).write(0) };
    } else {
        write(reg::TIMER_INITIAL, 0);
    }
}

/// Tell the local APIC that the current interrupt is handled.
pub fn end_of_interrupt() {
    write(reg::EOI, 0);
}

/// This CPU's APIC id.
pub fn id() -> u32 {
    let id = read(reg::ID);
    if X2APIC.load(Relaxed) { id } else { id >> 24 }
}

/// Make CPU `id` leave its guest or wake up.
pub fn kick(id: u32) {
    let Some(cpu) = percpu::get(id) else { return };
    #[cfg(target_os = "none")]
    if idle::wake(cpu) {
        return;
    }
    send(cpu.apic_id(), vector::KICK.into());
}

/// Interprocessor messages (SDM 3A, 11.6.1 and 9.4.4).
mod message {
    const ASSERT: u32 = 1 << 14;
    pub const INIT: u32 = 5 << 8 | ASSERT;
    pub const START_UP: u32 = 6 << 8 | ASSERT;
    pub const NMI: u32 = 4 << 8 | ASSERT;
}

/// Can a message reach the CPU with this number? Without x2APIC there are eight bits for it, and all ones mean everybody.
pub fn reaches(apic_id: u32) -> bool {
    X2APIC.load(Relaxed) || apic_id < 0xff
}

/// INIT: the CPU waits for [`start_up`], whatever it did.
pub fn reset(apic_id: u32) {
    send(apic_id, message::INIT);
}

/// Let a CPU that was [`reset`] begin in real mode at `page`, which is below 1 MiB.
pub fn start_up(apic_id: u32, page: Hpa) {
    send(apic_id, message::START_UP | (page.0 >> 12) as u32 & 0xff);
}

/// A non-maskable interrupt for CPU `id`.
pub fn interrupt(id: u32) {
    if let Some(apic_id) = percpu::get(id).map(PerCpu::apic_id) {
        send(apic_id, message::NMI);
    }
}

/// A non-maskable interrupt for all CPUs of ours but this one. Not for those that were never started: they have nobody to handle it.
pub fn interrupt_others() {
    for cpu in percpu::all().filter(|cpu| cpu.id() != percpu::id()) {
        send(cpu.apic_id(), message::NMI);
    }
}

fn send(apic_id: u32, command: u32) {
    if X2APIC.load(Relaxed) {
        // SAFETY: an interrupt that every CPU's IDT expects, or what starts a CPU that runs nothing of ours.
        unsafe { Msr::new(X2APIC_MSRS + reg::ICR / 16).write(u64::from(apic_id) << 32 | u64::from(command)) };
    } else {
        const PENDING: u32 = 1 << 12;
        // The one before must be on its way (SDM 3A, 11.6.1).
        while read(reg::ICR) & PENDING != 0 {
            core::hint::spin_loop();
        }
        write(reg::ICR_HIGH, apic_id << 24);
        write(reg::ICR, command);
    }
}

fn read(register: u32) -> u32 {
    if X2APIC.load(Relaxed) {
        // SAFETY: reading these registers has no side effect.
        unsafe { Msr::new(X2APIC_MSRS + register / 16).read() as u32 }
    } else {
        // SAFETY: the page is mapped, and the offset within it.
        unsafe { mapped(register).read_volatile() }
    }
}

fn write(register: u32, value: u32) {
    if X2APIC.load(Relaxed) {
        // SAFETY: callers write values that the manual allows.
        unsafe { Msr::new(X2APIC_MSRS + register / 16).write(value.into()) }
    } else {
        // SAFETY: the page is mapped, and the offset within it.
        unsafe { mapped(register).write_volatile(value) }
    }
}

fn mapped(register: u32) -> *mut u32 {
    phys::ptr(Hpa(REGISTERS.load(Relaxed) + u64::from(register))).cast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firmware_and_command_line_choose_the_mode() {
        for (has, on, wish, advised_against, extended) in [
            (true, false, None, false, true),
            (true, false, None, true, false),
            (true, false, Some(true), true, true),
            (true, false, Some(false), false, false),
            (true, true, Some(false), true, true),
            (false, false, Some(true), false, false),
        ] {
            assert_eq!(is_extended(has, on, wish, advised_against), extended);
        }
    }
}
