//! Event injection under load: inter-processor interrupts, event upcalls and timers by the thousand, with interrupts
//! on, off, and let in at any instruction; none may be lost, none come twice.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;

use abi::Errno;
use abi::event_channel::VIRQ_TIMER;
use abi::hvm::{HVM_PARAM_CALLBACK_IRQ, HVMOP_SET_EVTCHN_UPCALL_VECTOR, HvmEvtchnUpcallVector};
use abi::hypercall::{HYPERVISOR_HVM_OP, HYPERVISOR_SCHED_OP};
use abi::sched::{SCHEDOP_POLL, SchedPoll};
use guest_rt::hypercall::{event_channel, hvm};
use guest_rt::start_info::StartInfo;
use guest_rt::{event, time};
use guests::interrupts::CALLBACK;
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
/// Vector of the vCPU's own upcalls.
const OWN: u8 = 0xa7;
/// ICR: destination shorthand "self".
const TO_SELF: u32 = 1 << 18;

fn main(_: StartInfo) -> ! {
    cpu::init();
    cpu::enable_local_apic();
    let mut report = Report::default();
    one_by_one(&mut report);
    several(&mut report);
    upcalls(&mut report);
    with_exceptions(&mut report);
    timers(&mut report);
    callback(&mut report);
    vector_of_its_own(&mut report);
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
    let port = interrupts::bind_ipi(0, report);
    let (mut seen, mut others) = (0u64, 0u64);
    let mut random = Random::new(2);
    for _ in 0..ROUNDS {
        let sent = event_channel::send(port);
        others += u64::from(sent.is_err());
        if random.below(2) == 1 {
            interrupts::enabled(|| ());
        }
        if random.below(3) == 1 {
            // Waits only until the upcall, which is pending or was taken above: then the timer of the next line ends it.
            send(SELF[0]);
            interrupts::halt();
        }
        event::take_pending(|found| if found == port { seen += 1 } else { others += 1 });
    }
    report.equal("event-upcalls", (seen, others), (ROUNDS, 0));
}

/// A callback whose handler leaves the flag set comes again, until it does not.
fn callback(report: &mut Report) {
    const VIA_VECTOR: u64 = 2 << 56;
    const TIMES: u64 = 5;
    let port = interrupts::bind_ipi(0, report);
    let set = |vector: u8| hvm::set_own_param(HVM_PARAM_CALLBACK_IRQ, VIA_VECTOR | u64::from(vector));
    report.check("set-callback", set(CALLBACK).is_ok(), "refused");
    interrupts::serve_callback_at(TIMES);
    report.equal("send", event_channel::send(port), Ok(()));
    interrupts::enabled(|| {
        for _ in 0..10 {
            cpu::cpuid(0, 0);
        }
    });
    report.equal("callback-again", interrupts::count(CALLBACK), TIMES);
    // A wait that begins after all is served ends with the next event only.
    let start = time::now();
    let mut poll = SchedPoll {
        ports: abi::GuestHandle::new(core::ptr::from_ref(&port) as u64),
        nr_ports: 1,
        pad: 0,
        timeout: start + 2_000_000,
    };
    hypercall::op(HYPERVISOR_SCHED_OP, SCHEDOP_POLL, &mut poll);
    let waited = time::now() - start;
    report.check("poll-waits", waited >= 2_000_000, format!("{waited} ns"));
    report.check("set-callback-back", set(event::UPCALL_VECTOR).is_ok(), "refused");
}

/// HVMOP_set_evtchn_upcall_vector: one interrupt of the local APIC each time that the flag is set, among others.
fn vector_of_its_own(report: &mut Report) {
    let port = interrupts::bind_ipi(0, report);
    let set = |vector, vcpu| {
        let mut upcall = HvmEvtchnUpcallVector {
            vcpu,
            vector,
            ..Default::default()
        };
        hypercall::op(HYPERVISOR_HVM_OP, HVMOP_SET_EVTCHN_UPCALL_VECTOR, &mut upcall)
    };
    report.equal("vector-15", set(15, 0), hypercall::error_code(Errno::EINVAL));
    report.equal("vector-vcpu", set(OWN, 500), hypercall::error_code(Errno::ENOENT));
    report.equal("vector", set(OWN, 0), 0);
    let mut random = Random::new(4);
    let (mut sent, mut seen, mut wrong) = (0, 0, 0);
    let before = interrupts::count(SELF[1]);
    for _ in 0..ROUNDS {
        let sends = random.below(4);
        for _ in 0..sends {
            wrong += u64::from(event_channel::send(port).is_err());
            if random.below(3) == 0 {
                send(SELF[1]);
                interrupts::enabled(|| ());
            }
        }
        sent += u64::from(sends > 0);
        interrupts::enabled(|| ());
        wrong += u64::from(interrupts::count(OWN) != sent);
        event::take_pending(|found| seen += u64::from(found == port));
    }
    report.equal("vector-load", (seen, wrong), (sent, 0));
    let others = interrupts::count(SELF[1]) - before;
    report.check("vector-others", others > 0, "none came");
    event_channel::send(port).expect("as before");
    interrupts::halt();
    report.equal("vector-ends-halt", interrupts::count(OWN), sent + 1);
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
