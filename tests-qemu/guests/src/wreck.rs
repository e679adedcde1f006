//! Ways in which a guest can end itself.
// UNSAFETY: each function destroys the state that Rust needs, for ever.
#![expect(unsafe_code, reason = "what a hostile guest does to itself")]

use core::arch::asm;

/// An exception without an interrupt table.
pub fn triple_fault() -> ! {
    let nothing = [0u8; 10];
    // SAFETY: nothing runs in this guest afterwards.
    unsafe { asm!("lidt [{}]", "ud2", in(reg) &nothing, options(noreturn)) }
}

/// Jumps to an address that no page table maps, with an interrupt table there too.
pub fn jump_nowhere() -> ! {
    let idt: [u8; 10] = [0xff, 0x0f, 0, 0xf0, 0xff, 0xff, 0x7f, 0, 0, 0];
    // SAFETY: nothing runs in this guest afterwards.
    unsafe {
        asm!("lidt [{}]", "jmp {}", in(reg) &idt, in(reg) crate::hypercall::UNMAPPED, options(noreturn))
    }
}

/// Jumps to an address.
pub fn jump(address: u64) -> ! {
    // SAFETY: nothing runs in this guest afterwards.
    unsafe { asm!("jmp {}", in(reg) address, options(noreturn)) }
}

/// Loads CR3 with a frame that is no memory.
pub fn no_page_tables() -> ! {
    // SAFETY: nothing runs in this guest afterwards.
    unsafe { asm!("mov cr3, {}", "2: jmp 2b", in(reg) 0xf_ffff_f000u64, options(noreturn)) }
}

/// For ever, deaf to interrupts.
pub fn spin() -> ! {
    // SAFETY: touches nothing.
    unsafe { asm!("cli", "2: jmp 2b", options(noreturn)) }
}

/// Halts, deaf to interrupts: how Linux powers a PVH guest off.
pub fn halt() -> ! {
    // SAFETY: touches nothing.
    unsafe { asm!("cli", "2: hlt", "jmp 2b", options(noreturn)) }
}
