//! A dom0 that waits for long, second by second: Xen's clock beside the machine's, and a periodic timer's ticks beside both.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;

use abi::event_channel::VIRQ_TIMER;
use abi::hypercall::HYPERVISOR_VCPU_OP;
use abi::vcpu::{VCPUOP_SET_PERIODIC_TIMER, VcpuSetPeriodicTimer};
use guest_rt::hypercall::event_channel;
use guest_rt::start_info::StartInfo;
use guest_rt::{event, time};
use guests::pm_timer::PmTimer;
use guests::report::Report;
use guests::{cpu, hypercall, interrupts};

guest_rt::main!(main);

const SECOND: u64 = 1_000_000_000;
/// How far the clocks may be apart, of a million: what the TSC's calibration at the start leaves.
const APART: u64 = 10;
/// How late a tick may be seen, in nanoseconds.
const LATE: u64 = 10_000_000;

/// Command line: the number of seconds, and the PM timer's port.
fn main(info: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    let mut numbers = info.command_line().split_whitespace().map(str::parse);
    let (Some(Ok(seconds)), Some(Ok(port))) = (numbers.next(), numbers.next()) else {
        panic!("which timer, and for how long?");
    };
    let virq = event_channel::bind_virq(VIRQ_TIMER);
    report.check("bind-timer", virq.is_ok(), format!("{virq:?}"));
    let argument = VcpuSetPeriodicTimer { period_ns: SECOND };
    let mut pm = PmTimer::new(port as u16);
    let begin = time::now();
    let at = core::ptr::from_ref(&argument) as u64;
    let set = hypercall::call(
        HYPERVISOR_VCPU_OP,
        [VCPUOP_SET_PERIODIC_TIMER.into(), 0, at, 0, 0],
    );
    report.equal("periodic", set, 0);
    let (mut ticks, mut latest) = (0u64, 0);
    while ticks < seconds && set == 0 {
        interrupts::halt();
        event::take_pending(|found| {
            if Ok(found) == virq {
                ticks += 1;
                latest = latest.max((time::now() - begin).abs_diff(ticks * SECOND));
            }
        });
        pm.elapsed();
    }
    let (clock, machine) = (time::now() - begin, pm.elapsed());
    let apart = clock.abs_diff(machine) * 1_000_000 / machine;
    guest_rt::println!("{clock} ns by the clock, {machine} ns by the machine, ticks within {latest} ns");
    report.check(
        "drift",
        apart < APART,
        format!("{clock} ns are {machine} ns for the machine"),
    );
    // One that is lost makes all that follow a second late.
    report.check(
        "ticks",
        latest < LATE,
        format!("{latest} ns from where one belongs"),
    );
    report.finish()
}
