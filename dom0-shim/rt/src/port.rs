//! x86 I/O ports.
// UNSAFETY: port I/O instructions.
#![expect(unsafe_code, reason = "in/out instructions")]

use core::arch::asm;

/// Writes a byte to an I/O port.
pub fn outb(port: u16, value: u8) {
    // SAFETY: a guest's port access can only reach devices; none of them does DMA into this guest's memory
    // without having been programmed to by a driver, and there is no such driver here.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) }
}

/// Reads a byte from an I/O port; all ones where no device claims it.
pub fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: as in `outb`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) }
    value
}
