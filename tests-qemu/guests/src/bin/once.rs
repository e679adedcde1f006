//! Each interrupt is delivered once, whatever another CPU does to the machine meanwhile: that one makes locked accesses across a page boundary, for
//! which QEMU stops all other CPUs wherever they are. Its TCG then delivers an interrupt of EVENTINJ again, so that the hypervisor must
//! not use that there.
// UNSAFETY: a locked access that no atomic type makes.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "a locked access across a page boundary")]

use core::arch::asm;

use guest_rt::hypercall::event_channel;
use guest_rt::start_info::StartInfo;
use guests::frames::Frames;
use guests::interrupts::CALLBACK;
use guests::report::Report;
use guests::{cpu, interrupts, smp};

guest_rt::main!(main);

/// Events sent.
const ROUNDS: u64 = 20_000;
/// PAUSEs after each, with interrupts on: the other CPU's time to do harm.
const PAUSES: u32 = 200;
/// PAUSEs of the other CPU between its accesses: without any, a machine that is otherwise idle does little else.
const PAUSES_BETWEEN: u32 = 100;

static STACK: Frames<4> = Frames::new();
static PAGES: Frames<2> = Frames::new();

fn main(_: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    let port = interrupts::bind_callback(&mut report);
    report.equal("second-cpu", smp::start(1, shake, &STACK), Ok(()));

    interrupts::enable();
    let mut wrong = 0u64;
    for round in 1..=ROUNDS {
        let sent = event_channel::send(port);
        for _ in 0..PAUSES {
            core::hint::spin_loop();
        }
        wrong += u64::from(sent.is_err() || interrupts::count(CALLBACK) != round);
    }
    interrupts::disable();
    report.equal("once-each", (wrong, interrupts::count(CALLBACK)), (0, ROUNDS));
    report.finish()
}

extern "C" fn shake() -> ! {
    // The first page's last bytes and the second's first.
    let across = PAGES.address() + 4096 - 3;
    loop {
        // SAFETY: within PAGES, which nobody else uses.
        unsafe { asm!("lock inc qword ptr [{}]", in(reg) across, options(nostack)) };
        for _ in 0..PAUSES_BETWEEN {
            core::hint::spin_loop();
        }
    }
}
