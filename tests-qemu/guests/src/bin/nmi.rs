//! Non-maskable interrupts from another vCPU and from its own, to a vCPU that computes, halts, has interrupts off, is in the handler of one, and
//! takes others at the same time.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use abi::hypercall::HYPERVISOR_VCPU_OP;
use abi::vcpu::VCPUOP_SEND_NMI;
use guest_rt::hypercall::event_channel;
use guest_rt::start_info::StartInfo;
use guests::frames::Frames;
use guests::interrupts::CALLBACK;
use guests::report::Report;
use guests::{cpu, hypercall, interrupts, smp};

guest_rt::main!(main);

/// Events while NMIs come.
const ROUNDS: u64 = 2000;
/// PAUSEs between NMIs that are sent one by one.
const PAUSES: u32 = 10_000;
/// PAUSEs between those that come with events: without any, the first vCPU would do nothing but take NMIs.
const PAUSES_IN_A_STORM: u32 = 1000;
/// After so many ticks of the TSC, what was sent has been lost.
const PATIENCE: u64 = 10_000_000_000;

static STACK: Frames<4> = Frames::new();
/// The second vCPU sends, one by one.
static WANTED: AtomicBool = AtomicBool::new(false);
/// It sends many.
static STORM: AtomicBool = AtomicBool::new(false);
/// How many it has sent.
static SENT: AtomicU64 = AtomicU64::new(0);

extern "C" fn second() -> ! {
    loop {
        let storm = STORM.load(SeqCst);
        if storm || WANTED.load(SeqCst) {
            SENT.fetch_add(1, SeqCst);
            send();
        }
        let pauses = if storm { PAUSES_IN_A_STORM } else { PAUSES };
        for _ in 0..pauses {
            core::hint::spin_loop();
        }
    }
}

fn nmis() -> u64 {
    interrupts::count(cpu::NMI)
}

/// An NMI to the first vCPU, by hypercall.
fn send() -> i64 {
    hypercall::call(HYPERVISOR_VCPU_OP, [VCPUOP_SEND_NMI.into(), 0, 0, 0, 0])
}

/// Has the other vCPU send until one more has come; `wait` until then, again and again, as one may have come just before it. Did it come?
fn from_the_other(wait: impl Fn()) -> bool {
    let before = nmis();
    WANTED.store(true, SeqCst);
    let end = cpu::tsc() + PATIENCE;
    while nmis() == before && cpu::tsc() < end {
        wait();
    }
    WANTED.store(false, SeqCst);
    nmis() > before
}

fn from_its_own(report: &mut Report) {
    report.equal("hypercall", (send(), nmis()), (0, 1));
    interrupts::send_nmi();
    report.equal("local-apic", nmis(), 2);
    interrupts::send_nmi_in_shadow();
    report.equal("in-the-shadow-of-sti", nmis(), 3);
    // One waits for the end of the handler; a third is the same as the second.
    for (others, name) in [(1, "held-until-iret"), (2, "only-one-is-held")] {
        let before = nmis();
        let at_end = interrupts::send_nmi_that_sends(others);
        report.equal(name, (at_end - before, nmis() - before), (1, 2));
    }
    let before = nmis();
    interrupts::enabled(interrupts::send_nmi);
    report.equal("with-interrupts-on", nmis(), before + 1);
}

/// Events, each of which is to come once, while the other vCPU sends NMIs. How many did not.
fn events_in_a_storm(port: u32) -> u64 {
    STORM.store(true, SeqCst);
    let mut wrong = 0;
    interrupts::enable();
    for round in 1..=ROUNDS {
        let sent = event_channel::send(port);
        wrong += u64::from(sent.is_err() || interrupts::count(CALLBACK) != round);
    }
    interrupts::disable();
    STORM.store(false, SeqCst);
    wrong
}

fn main(_: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    let port = interrupts::bind_callback(&mut report);
    from_its_own(&mut report);

    report.equal("second-vcpu", smp::start(1, second, &STACK), Ok(()));
    let computes = from_the_other(core::hint::spin_loop);
    report.equal("interrupts-off", computes, true);
    let computes = interrupts::enabled(|| from_the_other(core::hint::spin_loop));
    report.equal("interrupts-on", computes, true);
    report.equal("halted", from_the_other(interrupts::halt), true);

    let before = (nmis(), SENT.load(SeqCst));
    report.equal("events-in-a-storm", events_in_a_storm(port), 0);
    let came = nmis() - before.0;
    // One more was on its way already, perhaps.
    let sent = SENT.load(SeqCst) - before.1 + 1;
    report.check("storm", came > 0 && came <= sent, came);
    report.equal("after-the-storm", from_the_other(core::hint::spin_loop), true);
    report.finish()
}
