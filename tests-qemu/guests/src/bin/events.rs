//! Event injection under load: inter-processor interrupts, event upcalls and timers by the thousand, with interrupts
//! on, off, and let in at any instruction; none may be lost, none come twice.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;

use abi::event_channel::{EVTCHNOP_BIND_IPI, EvtchnBindIpi, VIRQ_TIMER};
use abi::hypercall::HYPERVISOR_EVENT_CHANNEL_OP;
use guest_rt::hypercall::event_channel;
use guest_rt::start_info::StartInfo;
use guest_rt::{event, time};
use guests::random::Random;
use guests::report::Report;
use guests::{cpu, hypercall, interrupts};

guest_rt::main!(main);

/// Rounds of each part.
const ROUNDS: u64 = 3000;
/// Vectors for interrupts that this guest sends to itself, lowest priority first.
const SELF: [u8; 4] = [0x41, 0x52, 0x63, 0x74];
/// Vector of the local APIC's timer.
const TIMER: u8 = 0x85;
/// ICR: destination shorthand "self".
const TO_SELF: u32 = 1 << 18;
/// SVR: software enable, and the spurious vector.
const SOFTWARE_ENABLE: u32 = 1 << 8 | 0xff;

fn main(_: StartInfo) -> ! {
    cpu::init();
    cpu::mmio_write(cpu::APIC_SVR, SOFTWARE_ENABLE);
    let mut report = Report::default();
    one_by_one(&mut report);
    several(&mut report);
    upcalls(&mut report);
    with_exceptions(&mut report);
    timers(&mut report);
    report.finish()
}

fn send(vector: u8) {
    cpu::mmio_write(cpu::APIC_ICR, TO_SELF | u32::from(vector));
}

/// With interrupts on: each comes before the next instruction but one.
fn one_by_one(report: &mut Report) {
    let vector = SELF[0];
    let mut wrong = 0;
    interrupts::enable();
    for round in 1..=ROUNDS {
        send(vector);
        cpu::cpuid(0, 0);
        wrong += u64::from(interrupts::count(vector) != round);
    }
    interrupts::disable();
    report.equal("interrupts-on", (wrong, interrupts::count(vector)), (0, ROUNDS));
}

/// Off, several vectors, then on: each vector comes once.
fn several(report: &mut Report) {
    let before = SELF.map(interrupts::count);
    let mut random = Random::new(1);
    let mut sent = [0; SELF.len()];
    for _ in 0..ROUNDS {
        for (index, &vector) in SELF.iter().enumerate() {
            if random.below(2) == 1 {
                send(vector);
                sent[index] += 1;
                // Sent twice while it waits, it comes once.
                if random.below(4) == 0 {
                    send(vector);
                }
            }
        }
        interrupts::enabled(|| ());
    }
    let came: [u64; SELF.len()] =
        core::array::from_fn(|index| interrupts::count(SELF[index]) - before[index]);
    report.equal("interrupts-off-then-on", came, sent);
}

/// Event channels: every send is seen, by upcall or by looking.
fn upcalls(report: &mut Report) {
    let mut bind = EvtchnBindIpi { vcpu: 0, port: 0 };
    let answer = hypercall::op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_IPI, &mut bind);
    report.equal("bind-ipi", answer, 0);
    let (mut seen, mut others) = (0u64, 0u64);
    let mut random = Random::new(2);
    for _ in 0..ROUNDS {
        let sent = event_channel::send(bind.port);
        others += u64::from(sent.is_err());
        if random.below(2) == 1 {
            interrupts::enabled(|| ());
        }
        if random.below(3) == 1 {
            // Waits only until the upcall, which is pending or was taken above: then the timer of the next line ends it.
            send(SELF[0]);
            interrupts::halt();
        }
        event::take_pending(|port| if port == bind.port { seen += 1 } else { others += 1 });
    }
    report.equal("event-upcalls", (seen, others), (ROUNDS, 0));
}

/// Interrupts that become deliverable together with exceptions: both come, and nothing else.
fn with_exceptions(report: &mut Report) {
    let vector = SELF[2];
    let before = interrupts::count(vector);
    let (mut faults, mut wrong) = (0, 0);
    for _ in 0..ROUNDS {
        send(vector);
        interrupts::enable();
        faults += u64::from(cpu::ud2() == Err(cpu::UD0));
        wrong += u64::from(cpu::load(hypercall::UNMAPPED).is_ok());
        interrupts::disable();
    }
    let came = interrupts::count(vector) - before;
    report.equal("with-exceptions", (came, faults, wrong), (ROUNDS, ROUNDS, 0));
}

/// One-shot timers of the local APIC and of the hypervisor while the guest computes, halts, and makes exits.
fn timers(report: &mut Report) {
    const SHOTS: u64 = 200;
    let patience = time::now() + 30_000_000_000;
    let before = interrupts::count(TIMER);
    cpu::mmio_write(cpu::APIC_DIVIDE, 3);
    cpu::mmio_write(cpu::APIC_TIMER, TIMER.into());
    let mut random = Random::new(3);
    for shot in 1..=SHOTS {
        cpu::mmio_write(cpu::APIC_INITIAL, 100 + random.below(5000) as u32);
        interrupts::enabled(|| {
            while interrupts::count(TIMER) < before + shot && time::now() < patience {
                if shot % 2 == 0 {
                    cpu::cpuid(0, 0);
                }
            }
        });
    }
    report.equal("apic-timer-shots", interrupts::count(TIMER) - before, SHOTS);
    let port = event_channel::bind_virq(VIRQ_TIMER);
    report.check("bind-timer", port.is_ok(), format!("{port:?}"));
    let Ok(port) = port else { return };
    let mut early = 0;
    for _ in 0..SHOTS {
        let deadline = time::now() + 20_000 + random.below(200_000);
        let armed = time::set_timer(Some(deadline));
        let mut came = armed.is_err();
        while !came && time::now() < patience {
            interrupts::halt();
            event::take_pending(|found| came |= found == port);
        }
        early += u64::from(time::now() < deadline);
    }
    report.check("event-timer-shots", time::now() < patience, "some did not come");
    report.equal("event-timer-early", early, 0);
}
