//! Two vCPUs that take turns on one CPU: each starts with the registers of a new vCPU, and finds those that it has set as they were.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use abi::hypercall::HYPERVISOR_SCHED_OP;
use abi::sched::SCHEDOP_YIELD;
use guest_rt::start_info::StartInfo;
use guests::frames::Frames;
use guests::registers::{self, Registers};
use guests::report::Report;
use guests::{cpu, hypercall, smp};

guest_rt::main!(main);

/// How often each sets its registers and looks at them when the other has done so.
const ROUNDS: u64 = 200;

static STACK: Frames<4> = Frames::new();

/// How often each vCPU has set its registers.
static TURNS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// What the second vCPU has found: was it new; how often were its registers changed, once it has looked?
static WAS_NEW: AtomicBool = AtomicBool::new(false);
static CHANGED: AtomicU64 = AtomicU64::new(u64::MAX);

extern "C" fn second() -> ! {
    registers::enable();
    WAS_NEW.store(Registers::read() == Registers::reset(), SeqCst);
    CHANGED.store(take_turns(1), SeqCst);
    loop {
        give_way();
    }
}

fn give_way() {
    hypercall::call(HYPERVISOR_SCHED_OP, [SCHEDOP_YIELD.into(), 0, 0, 0, 0]);
}

/// As vCPU `own`; in how many rounds were the registers changed?
fn take_turns(own: usize) -> u64 {
    let mut changed = 0;
    for round in 0..ROUNDS {
        // Each round's are others', so that what is left from earlier rounds is found, too.
        let set = Registers::pattern(2 * (round % 8) + own as u64);
        set.write();
        let other = &TURNS[1 - own];
        let before = other.load(SeqCst);
        TURNS[own].fetch_add(1, SeqCst);
        // It sets its own meanwhile.
        while other.load(SeqCst) == before {
            give_way();
        }
        changed += u64::from(Registers::read() != set);
    }
    // The other one's last round ends, too.
    TURNS[own].fetch_add(1, SeqCst);
    changed
}

fn main(_: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    registers::enable();
    let found = Registers::read();
    report.equal("first-is-new", found.difference(&Registers::reset()), None);
    Registers::pattern(3).write();
    let read = Registers::read();
    report.equal("set", read.difference(&Registers::pattern(3)), None);
    let started = smp::start(1, second, &STACK);
    report.equal("start", started, Ok(()));
    if started.is_ok() {
        report.equal("first-changed", take_turns(0), 0);
        while CHANGED.load(SeqCst) == u64::MAX {
            give_way();
        }
        report.check("second-is-new", WAS_NEW.load(SeqCst), "other values");
        report.equal("second-changed", CHANGED.load(SeqCst), 0);
    }
    report.finish()
}
