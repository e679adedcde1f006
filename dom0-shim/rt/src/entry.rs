//! PVH entry: ELF note, 32-bit start, identity map of the first 4 GiB, long mode, and on to Rust.
//!
//! State at entry: 32-bit protected mode, flat segments, paging off, EBX = address of `hvm_start_info`
//! (Xen docs/misc/pvh).
// UNSAFETY: first instructions of the guest, page tables, linker symbols, the allocator's and panic handler's hooks.
#![expect(unsafe_code, reason = "entry assembly and the symbols it shares with Rust")]

use core::arch::global_asm;
use core::panic::PanicInfo;

use crate::start_info::StartInfo;
use crate::{console, event, hypercall, memory, paging, println, trap};

global_asm!(
    r#"
    .pushsection .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18                  /* namesz, descsz, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long pvh_start
    .long 4, 8, 6                   /* XEN_ELFNOTE_GUEST_OS */
    .asciz "Xen"
    .asciz "oxen-rt"
    .long 4, 8, 5                   /* XEN_ELFNOTE_XEN_VERSION */
    .asciz "Xen"
    .asciz "xen-3.0"
    .popsection

    .pushsection .text.entry, "ax"
    .code32
    .globl pvh_start
pvh_start:
    cli
    cld
    movl    $boot_stack_top, %esp
    movl    %ebx, %ebp                  /* start info */
    /* Page directories: 2048 entries of 2 MiB, present | writable | large. */
    movl    $IDENTITY_PDS, %edi
    xorl    %ecx, %ecx
1:  movl    %ecx, %eax
    shll    $21, %eax
    orl     $0x83, %eax
    movl    %eax, (%edi,%ecx,8)
    incl    %ecx
    cmpl    $2048, %ecx
    jne     1b
    movl    $IDENTITY_PDPT, %edi
    movl    $IDENTITY_PDS + 3, %eax
    movl    $4, %ecx
2:  movl    %eax, (%edi)
    addl    $4096, %eax
    addl    $8, %edi
    loop    2b
    movl    $IDENTITY_PDPT + 3, IDENTITY_PML4
    movl    $IDENTITY_PML4, %eax
    movl    %eax, %cr3
    movl    $0x20, %eax                 /* CR4.PAE */
    movl    %eax, %cr4
    movl    $0xc0000080, %ecx           /* EFER.LME */
    rdmsr
    orl     $0x100, %eax
    wrmsr
    movl    $0x80010033, %eax           /* CR0: PG | WP | NE | ET | MP | PE */
    movl    %eax, %cr0
    lgdt    boot_gdt_pointer
    ljmp    $8, $pvh_start64
    .code64
pvh_start64:
    movl    $16, %eax
    movl    %eax, %ds
    movl    %eax, %es
    movl    %eax, %ss
    movl    %ebp, %edi
    xorl    %ebp, %ebp                  /* end of the frame-pointer chain */
    call    {rust_entry}
    ud2
    .popsection

    .pushsection .data.entry, "aw"
    .balign 8
boot_gdt:
    .quad   0, 0x00af9b000000ffff, 0x00cf93000000ffff
boot_gdt_pointer:
    .word   23
    .long   boot_gdt
    .popsection

    .pushsection .bss.entry, "aw", @nobits
    .balign 16
    .skip   {stack_size}
boot_stack_top:
    .popsection
    "#,
    rust_entry = sym rust_entry,
    stack_size = const STACK_SIZE,
    options(att_syntax)
);

/// Bytes of the only stack.
const STACK_SIZE: usize = 128 * 1024;

unsafe extern "Rust" {
    /// The guest's main function, exported by [`crate::main!`].
    safe fn guest_main(info: StartInfo) -> !;
}

/// First Rust code: sets up what the crate promises and calls the guest.
extern "C" fn rust_entry(start_info: u64) -> ! {
    trap::init();
    let hypervisor = hypercall::init();
    if !hypervisor {
        console::use_serial_port();
    }
    // SAFETY: the loader passed this address in EBX; the structure and what it points to is in guest RAM below
    // 4 GiB, which is mapped, and nothing has been allocated yet that could overlap it.
    let info = unsafe { StartInfo::read(start_info) };
    memory::init(&info);
    paging::map_ram();
    if hypervisor {
        event::init();
    }
    guest_main(info)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("PANIC: {info}");
    hypercall::sched::shutdown(abi::sched::SHUTDOWN_CRASH)
}
