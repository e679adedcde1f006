//! The end: what happened, where, and who was running.
// UNSAFETY: follows frame pointers, breaks the console's lock.
#![expect(unsafe_code, reason = "follows frame pointers")]

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::traps::Frame;
use super::{console, percpu, power};

/// Frames of a backtrace, at most.
const DEPTH: usize = 32;

/// The CPU that has panicked, or [`NONE`].
static PANICKED: AtomicU32 = AtomicU32::new(NONE);
const NONE: u32 = u32::MAX;

/// Print `what` with a backtrace from `rip` and the frame at `rbp`, then stop the machine as the command line says.
pub(super) fn fatal(what: fmt::Arguments<'_>, rip: u64, rbp: u64) -> ! {
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
    log::error!("{what}");
    if let Some(vcpu) = crate::sched::current() {
        log::error!("running: {}v{}", vcpu.domid, vcpu.id.0);
    }
    let mut at = rip;
    let mut frame = rbp;
    // A return address may lie behind the last instruction of its function, if that was a call which does not return.
    let mut back = 0;
    for _ in 0..DEPTH {
        match boot::symbols::lookup(at.wrapping_sub(back)) {
            Some((name, offset)) => log::error!("  {at:#018x} {name}+{:#x}", offset + back),
            None => log::error!("  {at:#018x}"),
        }
        back = 1;
        // Frames are on hypervisor stacks: upper half, aligned.
        if frame < 1 << 63 || !frame.is_multiple_of(8) {
            break;
        }
        // SAFETY: the image is compiled with frame pointers, so this is the frame of a function that has not returned.
        let [next, address] = unsafe { (frame as *const [u64; 2]).read() };
        if next <= frame || address == 0 {
            break;
        }
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
    fatal(format_args!("{info}\n{frame}"), frame.rip, frame.rbp());
}
