//! Dom0's first vCPU moves to another CPU, again and again: events and timers that are under way meanwhile come, and so do the events and interrupts
//! that its second one sends, each when the last has come; and the clock never steps back. Command line: `moves=N`, and `alone` without the second.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use abi::event_channel::VIRQ_TIMER;
use guest_rt::hypercall::{domctl, event_channel};
use guest_rt::start_info::StartInfo;
use guest_rt::{event, time};
use guests::frames::Frames;
use guests::report::Report;
use guests::{cpu, interrupts, smp};

guest_rt::main!(main);

/// How often it moves, unless the command line says otherwise.
const MOVES: u64 = 10_000;
/// A timer is set every so many moves, and waited for behind the last of them.
const TIMER_EVERY: u64 = 16;
/// So long after it was set it is due, in nanoseconds: some moves later.
const TIMER_NS: u64 = 100_000;
/// What the second vCPU has sent has come long before, in nanoseconds.
const PATIENCE: u64 = 10_000_000_000;
/// Vector of its interrupts.
const VECTOR: u8 = 0x51;

static STACK: Frames<4> = Frames::new();
/// The port of its events.
static PORT: AtomicU32 = AtomicU32::new(0);
/// How many events, and as many interrupts, it has sent.
static SENT: AtomicU64 = AtomicU64::new(0);
/// How many of the events have come.
static CAME: AtomicU64 = AtomicU64::new(0);

extern "C" fn second() -> ! {
    for sent in 1.. {
        SENT.store(sent, SeqCst);
        // One that is refused does not come.
        let _ = event_channel::send(PORT.load(SeqCst));
        cpu::mmio_write(cpu::APIC_ICR_HIGH, 0);
        cpu::mmio_write(cpu::APIC_ICR, VECTOR.into());
        while CAME.load(SeqCst) < sent || interrupts::count(VECTOR) < sent {
            core::hint::spin_loop();
        }
    }
    unreachable!()
}

fn main(info: StartInfo) -> ! {
    cpu::init();
    cpu::enable_local_apic();
    let mut report = Report::default();
    let own = interrupts::bind_ipi(0, &mut report);
    PORT.store(interrupts::bind_ipi(0, &mut report), SeqCst);
    let words = || info.command_line().split_ascii_whitespace();
    let alone = words().any(|word| word == "alone");
    if !alone {
        report.equal("second-vcpu", smp::start(1, second, &STACK), Ok(()));
    }
    let timer = event_channel::bind_virq(VIRQ_TIMER);
    report.check("bind-timer", timer.is_ok(), format!("{timer:?}"));
    if let Ok(timer) = timer {
        let moves = words()
            .find_map(|word| word.strip_prefix("moves=")?.parse().ok())
            .unwrap_or(MOVES);
        let ports = Ports { own, timer };
        move_about(&mut report, moves, ports, alone);
    }
    report.finish()
}

/// The ports of this vCPU's own events, and of its timer.
struct Ports {
    own: u32,
    timer: u32,
}

/// What has come by them.
struct Seen {
    ports: Ports,
    own: u64,
    ticks: u64,
}

impl Seen {
    /// Counts what is pending, the second vCPU's events as well.
    fn take(&mut self) {
        event::take_pending(|port| {
            self.own += u64::from(port == self.ports.own);
            self.ticks += u64::from(port == self.ports.timer);
            if port == PORT.load(SeqCst) {
                CAME.fetch_add(1, SeqCst);
            }
        });
    }
}

fn move_about(report: &mut Report, moves: u64, ports: Ports, alone: bool) {
    let (mut refused, mut elsewhere, mut back, mut early, mut lost) = (0, 0, 0, 0, 0);
    let mut seen = Seen {
        ports,
        own: 0,
        ticks: 0,
    };
    let mut last = time::now();
    let mut deadline = last;
    for round in 0..moves {
        if round % TIMER_EVERY == 0 {
            deadline = time::now() + TIMER_NS;
            refused += u64::from(time::set_timer(Some(deadline)).is_err());
        }
        // Sent on one CPU, seen on the other.
        refused += u64::from(event_channel::send(seen.ports.own).is_err());
        let cpu = round as u32 % 2;
        refused += u64::from(domctl::set_affinity(0, 0, Some(&[1 << cpu]), None).is_err());
        elsewhere += u64::from(!domctl::vcpu_info(0, 0).is_ok_and(|info| info.cpu == cpu));
        let now = time::now();
        back += u64::from(now < last);
        last = now;
        interrupts::enabled(|| ());
        seen.take();
        if round % TIMER_EVERY == TIMER_EVERY - 1 {
            while seen.ticks <= round / TIMER_EVERY {
                interrupts::halt();
                seen.take();
            }
            early += u64::from(time::now() < deadline);
            lost += u64::from(!alone && !next_from_second(&mut seen));
        }
    }
    report.equal("moves", (refused, elsewhere), (0, 0));
    report.equal("events", seen.own, moves);
    report.equal("timers", (seen.ticks, early), (moves / TIMER_EVERY, 0));
    report.equal("clock-steps-back", back, 0);
    report.equal("lost-of-the-second-vcpus", lost, 0);
}

/// Halts until one more of the second vCPU's events, and of its interrupts, has come. Did they?
fn next_from_second(seen: &mut Seen) -> bool {
    let wanted = SENT.load(SeqCst) + 1;
    let end = time::now() + PATIENCE;
    while CAME.load(SeqCst) < wanted || interrupts::count(VECTOR) < wanted {
        if time::set_timer(Some(end)).is_err() || time::now() >= end {
            return false;
        }
        interrupts::halt();
        seen.take();
    }
    true
}
