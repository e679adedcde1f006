//! A domain that sleeps nearly always, and looks how late it is woken.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;

use abi::event_channel::VIRQ_TIMER;
use guest_rt::hypercall::event_channel;
use guest_rt::start_info::StartInfo;
use guest_rt::{event, time};
use guests::interrupts;
use guests::random::Random;
use guests::report::Report;

guest_rt::main!(main);

/// How often it sleeps, and how long: between one and two of these, in nanoseconds.
const NAPS: u32 = 100;
const NAP: u64 = 10_000_000;
/// A slice of Oxen's scheduler, in nanoseconds.
const SLICE: u64 = 10_000_000;

fn main(_: StartInfo) -> ! {
    guests::cpu::init();
    let mut report = Report::default();
    let port = event_channel::bind_virq(VIRQ_TIMER);
    report.check("bind-timer", port.is_ok(), format!("{port:?}"));
    if let Ok(port) = port {
        let mut random = Random::new(1);
        let mut latest = 0;
        for _ in 0..NAPS {
            let deadline = time::now() + NAP + random.below(NAP);
            let mut came = time::set_timer(Some(deadline)).is_err();
            while !came {
                interrupts::halt();
                event::take_pending(|found| came |= found == port);
            }
            latest = latest.max(time::now().saturating_sub(deadline));
        }
        report.check("late", latest < SLICE, format!("by {latest} ns"));
        guest_rt::println!("late by {latest} ns at most");
    }
    report.finish()
}
