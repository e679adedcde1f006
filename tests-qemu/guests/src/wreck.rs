//! Ways in which a guest can end itself.
// UNSAFETY: each function destroys the state that Rust needs, for ever.
#![expect(unsafe_code, reason = "what a hostile guest does to itself")]

use core::arch::{asm, global_asm};

use crate::legacy::leave_long_mode;

global_asm!(
    r#"
    .pushsection .text.wreck, "ax"
    .code64
    .globl wreck_switch_tasks
wreck_switch_tasks:
    /* The base of both segments of type TSS, in the pieces that a descriptor has it in. */
    movl    $wreck_tss, %eax
    movw    %ax, wreck_gdt + 34
    movw    %ax, wreck_gdt + 42
    shrl    $16, %eax
    movb    %al, wreck_gdt + 36
    movb    %al, wreck_gdt + 44
    movb    %ah, wreck_gdt + 39
    movb    %ah, wreck_gdt + 47
    lgdt    wreck_gdt_pointer
    pushq   $24
    pushq   $wreck_compatibility
    lretq
    .code32
wreck_compatibility:
    "#,
    leave_long_mode!(),
    r#"
    movl    $32, %eax
    ltr     %ax
    ljmp    $40, $0
    hlt
    .code64
    .popsection

    .pushsection .data.wreck, "aw"
    .balign 8
wreck_gdt:
    .quad   0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
    .quad   0x0000890000000067, 0x0000890000000067
wreck_gdt_pointer:
    .word   47
    .quad   wreck_gdt
    .balign 8
wreck_tss:
    .zero   104
    .popsection
    "#,
    options(att_syntax)
);

unsafe extern "C" {
    fn wreck_switch_tasks() -> !;
}

/// Leaves long mode, and jumps to another task, by hardware.
pub fn switch_tasks() -> ! {
    // SAFETY: nothing runs in this guest afterwards.
    unsafe { wreck_switch_tasks() }
}

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
