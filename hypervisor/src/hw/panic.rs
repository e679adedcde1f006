//! The end: what happened, where, and who was running.
// UNSAFETY: follows frame pointers, breaks the console's lock.
#![expect(unsafe_code, reason = "follows frame pointers")]

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::traps::Frame;
use super::{console, percpu, power};
use crate::arch::vmx;

/// Frames of a backtrace, at most.
const DEPTH: usize = 32;

/// The CPU that has panicked, or [`NONE`].
static PANICKED: AtomicU32 = AtomicU32::new(NONE);
const NONE: u32 = u32::MAX;

/// How far up the stack frames are followed, in bytes: those of all CPUs but the first are not larger.
const STACK: u64 = 64 << 10;

/// Print `what` and the registers of `here`, with a backtrace from there, then stop the machine as the command line says.
pub(super) fn fatal(what: fmt::Arguments<'_>, here: &Frame) -> ! {
    match PANICKED.compare_exchange(NONE, percpu::id(), SeqCst, SeqCst) {
        Ok(_) => {}
        // A panic while panicking: nothing more can be trusted.
        Err(cpu) if cpu == percpu::id() => power::after_panic(),
        // The first one tells.
        Err(_) => power::park(),
    }
    power::stop_others();
    // SAFETY: the others stop, or are in the middle of a line that nobody needs any more.
    unsafe { console::seize() };
    log::error!(
        "--- Oxen {}: panic on CPU {} ---",
        env!("CARGO_PKG_VERSION"),
        percpu::id()
    );
    log::error!("{what}\n{here}");
    if let Some(vcpu) = crate::sched::current() {
        log::error!("running: {}v{}", vcpu.domid, vcpu.id.0);
    }
    let (mut at, mut frame) = (here.rip, here.rbp());
    // A return address may lie behind the last instruction of its function, if that was a call which does not return.
    let mut back = 0;
    // In the world switch, and in what it has called until that makes its frame, RBP is the guest's.
    let mut below = here.rsp;
    for _ in 0..DEPTH {
        match boot::symbols::lookup(at.wrapping_sub(back)) {
            Some((name, offset)) => log::error!("  {at:#018x} {name}+{:#x}", offset + back),
            None => log::error!("  {at:#018x}"),
        }
        back = 1;
        let on_stack = frame >= below && frame - here.rsp < STACK && frame.is_multiple_of(8);
        if !on_stack {
            break;
        }
        // SAFETY: the image is compiled with frame pointers, so this is the frame of a function that has not returned; what else it may be, as said
        // above, is on the stack, or just behind it: that faults, and is the end of a panic, too.
        let saved = unsafe { &*(frame as *const [u64; 6]) };
        let [next, address] = vmx::caller_of_handler(saved).unwrap_or([saved[0], saved[1]]);
        if address == 0 {
            break;
        }
        below = frame + 8;
        (frame, at) = (next, address);
    }
    log::error!(
        "{}",
        match power::restarts() {
            true => "restarting the machine",
            false => "noreboot, halted",
        }
    );
    power::after_panic()
}

/// A panic of Rust code.
pub fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let frame = Frame::here();
    fatal(format_args!("{info}"), &frame);
}
