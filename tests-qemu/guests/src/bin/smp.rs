//! What it costs to reach a vCPU on another CPU, in ticks of the time-stamp counter: the sender's own, and until the other has come to its handler or goes
//! on. The config pins each vCPU to a CPU of its own.
//!
//! Each line is the least of many tries, less the cost of reading the counter.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use abi::GuestHandle;
use abi::event_channel::EVTCHNOP_SEND;
use abi::hypercall::{HYPERVISOR_EVENT_CHANNEL_OP, HYPERVISOR_SCHED_OP};
use abi::sched::{SCHEDOP_POLL, SchedPoll};
use guest_rt::start_info::StartInfo;
use guest_rt::{event, println};
use guests::report::Report;
use guests::{cpu, hypercall, interrupts, receiver};

guest_rt::main!(main);

/// How often each way is tried.
const TRIES: u32 = 100;
/// After so many ticks the other vCPU has blocked, and its CPU is idle; or it is back from its handler, and in the guest.
const SETTLED: u64 = 200_000;
/// And after so many, what was sent has been lost.
const PATIENCE: u64 = 100_000_000;

static STARTED: AtomicBool = AtomicBool::new(false);
/// The port that the second vCPU waits for; 0: it computes.
static AWAITED: AtomicU32 = AtomicU32::new(0);

extern "C" fn second() -> ! {
    receiver::begin();
    STARTED.store(true, SeqCst);
    loop {
        match AWAITED.load(SeqCst) {
            0 => core::hint::spin_loop(),
            port => wait_for(port),
        }
    }
}

fn wait_for(port: u32) {
    let mut poll = SchedPoll {
        ports: GuestHandle::new(core::ptr::from_ref(&port) as u64),
        nr_ports: 1,
        pad: 0,
        timeout: 0,
    };
    hypercall::op(HYPERVISOR_SCHED_OP, SCHEDOP_POLL, &mut poll);
    receiver::note();
    event::take(port);
}

/// The TSC once `done`, or after [`PATIENCE`].
fn spin(done: impl Fn() -> bool) -> u64 {
    let start = cpu::tsc();
    loop {
        let now = cpu::tsc();
        if done() || now - start > PATIENCE {
            return now;
        }
        core::hint::spin_loop();
    }
}

fn pause(ticks: u64) {
    let end = cpu::tsc() + ticks;
    spin(|| cpu::tsc() >= end);
}

/// Does `send` again and again, which reaches the other vCPU; `again` before each.
fn bench(name: &str, report: &mut Report, mut send: impl FnMut()) {
    let (mut sending, mut reaching, mut arrived) = (u64::MAX, u64::MAX, 0);
    for _ in 0..TRIES {
        pause(SETTLED);
        receiver::forget();
        let start = cpu::tsc();
        send();
        let sent = cpu::tsc();
        spin(|| receiver::came() != 0);
        if let Some(ticks) = receiver::came().checked_sub(start) {
            arrived += 1;
            sending = sending.min(sent - start);
            reaching = reaching.min(ticks);
        }
    }
    report.equal(name, arrived, TRIES);
    let start = cpu::tsc();
    let counter = cpu::tsc() - start;
    println!("BENCH {name}, sender's part: {}", sending - counter);
    println!("BENCH {name}: {}", reaching - counter);
}

fn send(mut port: u32) {
    hypercall::op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_SEND, &mut port);
}

fn main(_: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    let [upcall, polled] = [(); 2].map(|()| interrupts::bind_ipi(receiver::VCPU, &mut report));
    event::mask(polled);
    let started = receiver::start(second);
    report.check("second vCPU", started.is_ok(), "refused");
    spin(|| STARTED.load(SeqCst));
    receiver::aim();
    bench("IPI to its handler", &mut report, receiver::interrupt);
    bench("event to its handler", &mut report, || {
        event::take(upcall);
        send(upcall);
    });
    AWAITED.store(polled, SeqCst);
    bench("wake to running", &mut report, || send(polled));
    report.finish()
}
