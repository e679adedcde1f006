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

/// Writes a double word to an I/O port.
pub fn outl(port: u16, value: u32) {
    // SAFETY: as in `outb`; a driver for devices that do DMA answers for what it tells them.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) }
}

/// Reads a double word from an I/O port; all ones where no device claims it.
pub fn inl(port: u16) -> u32 {
    let value;
    // SAFETY: as in `outl`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Reads a byte from an I/O port; all ones where no device claims it.
pub fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: as in `outb`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) }
    value
}
