//! Dom0's only vCPU moves to another CPU, again and again: events and timers that are under way meanwhile come, and the clock never steps back.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;

use abi::event_channel::{EVTCHNOP_BIND_IPI, EvtchnBindIpi, VIRQ_TIMER};
use abi::hypercall::HYPERVISOR_EVENT_CHANNEL_OP;
use guest_rt::hypercall::{domctl, event_channel};
use guest_rt::start_info::StartInfo;
use guest_rt::{event, time};
use guests::report::Report;
use guests::{hypercall, interrupts};

guest_rt::main!(main);

/// How often it moves, unless the command line says `moves=N`.
const MOVES: u64 = 10_000;
/// A timer is set every so many moves, and waited for behind the last of them.
const TIMER_EVERY: u64 = 16;
/// So long after it was set it is due, in nanoseconds: some moves later.
const TIMER_NS: u64 = 100_000;

fn main(info: StartInfo) -> ! {
    guests::cpu::init();
    let mut report = Report::default();
    let mut bind = EvtchnBindIpi { vcpu: 0, port: 0 };
    let bound = hypercall::op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_IPI, &mut bind);
    report.equal("bind-ipi", bound, 0);
    let timer = event_channel::bind_virq(VIRQ_TIMER);
    report.check("bind-timer", timer.is_ok(), format!("{timer:?}"));
    if let Ok(timer) = timer {
        let moves = info
            .command_line()
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix("moves=")?.parse().ok())
            .unwrap_or(MOVES);
        move_about(&mut report, moves, bind.port, timer);
    }
    report.finish()
}

fn move_about(report: &mut Report, moves: u64, ipi: u32, timer: u32) {
    let (mut seen, mut ticks, mut refused, mut elsewhere, mut back) = (0, 0, 0, 0, 0);
    let mut early = 0;
    let mut last = time::now();
    let mut deadline = last;
    for round in 0..moves {
        if round % TIMER_EVERY == 0 {
            deadline = time::now() + TIMER_NS;
            refused += u64::from(time::set_timer(Some(deadline)).is_err());
        }
        // Sent on one CPU, seen on the other.
        refused += u64::from(event_channel::send(ipi).is_err());
        let cpu = round as u32 % 2;
        refused += u64::from(domctl::set_affinity(0, 0, Some(&[1 << cpu]), None).is_err());
        elsewhere += u64::from(!domctl::vcpu_info(0, 0).is_ok_and(|info| info.cpu == cpu));
        let now = time::now();
        back += u64::from(now < last);
        last = now;
        event::take_pending(|port| {
            seen += u64::from(port == ipi);
            ticks += u64::from(port == timer);
        });
        if round % TIMER_EVERY == TIMER_EVERY - 1 {
            let wanted = round / TIMER_EVERY + 1;
            while ticks < wanted {
                interrupts::halt();
                event::take_pending(|port| ticks += u64::from(port == timer));
            }
            early += u64::from(time::now() < deadline);
        }
    }
    report.equal("moves", (refused, elsewhere), (0, 0));
    report.equal("events", seen, moves);
    report.equal("timers", (ticks, early), (moves / TIMER_EVERY, 0));
    report.equal("clock-steps-back", back, 0);
}
