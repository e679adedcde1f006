//! Domains that share a CPU. The command line says what one does: `compute` for ever; `share NAME`: compute, and print what share of the CPU it had, in
//! thousandths; `sleep`: sleep again and again, and print how late it was woken.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;

use abi::event_channel::VIRQ_TIMER;
use guest_rt::hypercall::event_channel;
use guest_rt::start_info::StartInfo;
use guest_rt::{event, println, time};
use guests::interrupts;
use guests::random::Random;
use guests::report::Report;

guest_rt::main!(main);

/// Nanoseconds in a millisecond.
const MS: u64 = 1_000_000;
/// For so long dom0 may still be busy with having made this domain.
const BEFORE: u64 = 500 * MS;
/// For how long a share is measured.
const SPAN: u64 = 2000 * MS;
/// A step of the clock by so much or more is one in which somebody else had the CPU.
const AWAY: u64 = MS / 10;
/// How often it sleeps, and how long: between one and two of these.
const NAPS: usize = 300;
const NAP: u64 = 5 * MS;

/// Computes for `span`; how much of that it did not have the CPU.
fn compute(span: u64) -> u64 {
    let mut away = 0;
    let mut last = time::now();
    let end = last + span;
    while last < end {
        let now = time::now();
        if now - last >= AWAY {
            away += now - last;
        }
        last = now;
    }
    away
}

fn share(name: &str, report: &mut Report) {
    compute(BEFORE);
    let start = time::now();
    let away = compute(SPAN);
    let span = time::now() - start;
    println!("BENCH {name}: {}", (span - away) * 1000 / span);
    report.check("share", away < span, "none");
}

fn sleep(report: &mut Report) {
    interrupts::disable();
    let port = event_channel::bind_virq(VIRQ_TIMER);
    report.check("bind-timer", port.is_ok(), "refused");
    let mut random = Random::new(1);
    let mut nap = |length: u64| {
        let deadline = time::now() + length + random.below(length);
        let mut came = time::set_timer(Some(deadline)).is_err();
        while !came {
            interrupts::halt();
            event::take_pending(|found| came |= Ok(found) == port);
        }
        time::now().saturating_sub(deadline)
    };
    nap(BEFORE);
    let mut late: Vec<u64> = (0..NAPS).map(|_| nap(NAP)).collect();
    late.sort_unstable();
    for (part, which) in [("50 %", 500), ("90 %", 900), ("99 %", 990), ("all", 1000)] {
        println!("BENCH {part}: {}", late[NAPS * which / 1000 - 1]);
    }
    report.equal("naps", late.len(), NAPS);
}

fn main(info: StartInfo) -> ! {
    guests::cpu::init();
    let mut report = Report::default();
    // Bochs (2.7) holds the host's interrupts back, too, while a guest computes that keeps its own out.
    interrupts::enable();
    let line = info.command_line().trim();
    match line.split_once(' ').unwrap_or((line, "")) {
        ("share", name) => share(name, &mut report),
        ("sleep", _) => sleep(&mut report),
        _ => {
            println!("READY");
            loop {
                core::hint::black_box(());
            }
        }
    }
    report.finish()
}
