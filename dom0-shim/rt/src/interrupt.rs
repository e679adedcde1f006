//! Interrupts of devices: local APIC and I/O APIC lines, collected like events.
//!
//! A handler only takes note. What is noted is found by [`take`] in ordinary context; a level interrupts again after
//! [`end`] unless its device was told before.
// UNSAFETY: enables interrupts, writes MSRs of the local APIC and registers of I/O APICs.
#![expect(unsafe_code, reason = "sti, MSRs, device registers")]

use core::arch::asm;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use x86_64::registers::model_specific::Msr;

/// Vectors of devices.
pub const VECTORS: Range<u8> = 0x40..0x80;

static NOTED: AtomicU64 = AtomicU64::new(0);
static ENABLED: AtomicBool = AtomicBool::new(false);

/// Are interrupts of devices expected? Test guests that never [`enable`] them see these vectors by their hook.
pub(crate) fn is_enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

/// Interrupt context: takes note of an interrupt of [`VECTORS`].
pub(crate) fn note(vector: u8) {
    NOTED.fetch_or(1 << (vector - VECTORS.start), Ordering::SeqCst);
}

/// Lets interrupts in, and calls `found` for each vector that had one, which is to be followed by [`end`].
pub fn take(mut found: impl FnMut(u8)) {
    // SAFETY: handlers save and restore all registers; STI takes effect after the next instruction.
    unsafe { asm!("sti", "nop", "cli", options(nostack)) }
    let mut noted = NOTED.swap(0, Ordering::SeqCst);
    while noted != 0 {
        found(VECTORS.start + noted.trailing_zeros() as u8);
        noted &= noted - 1;
    }
}

/// Ends the interrupt that is in service.
pub fn end() {
    const X2APIC_EOI: u32 = 0x80b;
    // SAFETY: `enable` has switched the local APIC to x2APIC mode before any interrupt could come.
    unsafe { Msr::new(X2APIC_EOI).write(0) }
}

/// Switches the local APIC on, in x2APIC mode (SDM 3A 11.12.1).
pub fn enable() {
    const APIC_BASE: u32 = 0x1b;
    const X2APIC: u64 = 3 << 10;
    const X2APIC_SPURIOUS: u32 = 0x80f;
    const ENABLED_SPURIOUS_0XFF: u64 = 0x1ff;
    ENABLED.store(true, Ordering::Relaxed);
    // SAFETY: no interrupt is expected yet, and nothing else in this guest uses the local APIC.
    unsafe {
        let mut base = Msr::new(APIC_BASE);
        let value = base.read();
        base.write(value | X2APIC);
        Msr::new(X2APIC_SPURIOUS).write(ENABLED_SPURIOUS_0XFF);
    }
}

/// An input of an I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Address of the I/O APIC's registers.
    pub io_apic: u32,
    /// Which of its inputs.
    pub input: u32,
    /// Asserted when low.
    pub active_low: bool,
    /// Interrupts as long as it is asserted.
    pub level: bool,
}

/// Has `line` interrupt the first vCPU with `vector`.
///
/// # Safety
/// There is an I/O APIC at the line's address, and nothing else uses it meanwhile.
pub unsafe fn route(line: Line, vector: u8) {
    const REDIRECTIONS: u32 = 0x10;
    let window = line.io_apic as usize as *mut u32;
    let write = |register: u32, value: u32| {
        // SAFETY: the caller says that this is an I/O APIC; index at 0, data at 0x10 (82093AA datasheet 3.1). All below 4 GiB is mapped.
        unsafe {
            window.write_volatile(register);
            window.byte_add(0x10).write_volatile(value);
        }
    };
    write(REDIRECTIONS + 2 * line.input + 1, 0);
    write(
        REDIRECTIONS + 2 * line.input,
        u32::from(vector) | u32::from(line.active_low) << 13 | u32::from(line.level) << 15,
    );
}
