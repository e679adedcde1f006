//! A domain whose TSC counts at a rate of its own: its clock, its timers and what it writes to its TSC follow.
//!
//! How long a wait takes does not hang on the guest's TSC: a timer that it waits for tells whether the TSC has counted as it is said to.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;

use abi::cpuid::XEN_CPUID_TSC_EMULATED;
use abi::event_channel::VIRQ_TIMER;
use guest_rt::hypercall::event_channel;
use guest_rt::start_info::StartInfo;
use guest_rt::{event, time};
use guests::report::Report;
use guests::{cpu, interrupts};

guest_rt::main!(main);

const MS: u64 = 1_000_000;
/// How long it waits, and how late it may be: the host does other things.
const WAIT: u64 = 400 * MS;
const LATE: u64 = 100 * MS;
/// Xen's CPUID leaf about time.
const TIME: u32 = 0x4000_0003;
const TSC: u32 = 0x10;
const TSC_ADJUST: u32 = 0x3b;
const TSC_DEADLINE: u32 = 0x6e0;
const LVT_TIMER: u64 = cpu::APIC + 0x320;
const DEADLINE_MODE: u32 = 2 << 17;
const VECTOR: u8 = 0x61;

/// Command line: the TSC's kHz, a comma, and 1 if it is emulated, 0 if it is not.
fn main(info: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    let mut numbers = info.command_line().trim().split(',').map(str::parse::<u64>);
    let (Some(Ok(khz)), Some(Ok(emulated))) = (numbers.next(), numbers.next()) else {
        panic!("at which rate?");
    };
    let said = cpu::cpuid(TIME, 0);
    let flag = u64::from(said[0] & XEN_CPUID_TSC_EMULATED);
    report.equal("leaf", (u64::from(said[2]), flag), (khz, emulated));
    by_clock(&mut report, khz);
    by_deadline(&mut report, khz);
    written(&mut report, khz);
    report.finish()
}

/// Xen's timer, by the guest's clock.
fn by_clock(report: &mut Report, khz: u64) {
    let port = event_channel::bind_virq(VIRQ_TIMER);
    report.check("bind-timer", port.is_ok(), format!("{port:?}"));
    let (begin, tsc) = (time::now(), cpu::tsc());
    let mut came = time::set_timer(Some(begin + WAIT)).is_err();
    while !came {
        interrupts::halt();
        event::take_pending(|found| came |= Ok(found) == port);
    }
    let (clock, tsc) = (time::now() - begin, (cpu::tsc() - tsc) * MS / khz);
    report.check(
        "clock",
        (WAIT..WAIT + LATE).contains(&clock),
        format!("{clock} ns"),
    );
    let apart = clock.abs_diff(tsc);
    report.check("tsc", apart < MS, format!("{tsc} ns for {clock} ns"));
}

/// The local APIC's timer, by the guest's TSC.
fn by_deadline(report: &mut Report, khz: u64) {
    cpu::mmio_write(cpu::APIC_SVR, 0x1ff);
    cpu::mmio_write(LVT_TIMER, DEADLINE_MODE | u32::from(VECTOR));
    let before = interrupts::count(VECTOR);
    let begin = cpu::tsc();
    let written = cpu::wrmsr(TSC_DEADLINE, begin + WAIT / MS * khz);
    report.equal("deadline", written, Ok(()));
    while interrupts::count(VECTOR) == before {
        interrupts::halt();
    }
    let waited = (cpu::tsc() - begin) * MS / khz;
    report.check(
        "deadline-comes",
        (WAIT..WAIT + LATE).contains(&waited),
        format!("{waited} ns"),
    );
}

/// The guest moves its TSC: the clock does not.
fn written(report: &mut Report, khz: u64) {
    let second = khz * 1000;
    let clock = time::now();
    let written = cpu::wrmsr(TSC, 10 * second);
    let tsc = cpu::tsc();
    report.equal("write", written, Ok(()));
    report.check(
        "written",
        (10 * second..11 * second).contains(&tsc),
        format!("{tsc}"),
    );
    let adjust = cpu::rdmsr(TSC_ADJUST).unwrap_or(0);
    let adjusted = cpu::wrmsr(TSC_ADJUST, adjust + 100 * second);
    let tsc = cpu::tsc();
    report.equal("adjust", adjusted, Ok(()));
    report.check(
        "adjusted",
        (110 * second..111 * second).contains(&tsc),
        format!("{tsc}"),
    );
    let passed = time::now().wrapping_sub(clock);
    report.check("clock-stays", passed < 1000 * MS, format!("{passed} ns"));
}
