//! Out of long mode and back: 32-bit code without paging and with PAE paging.
// UNSAFETY: switches modes.
#![expect(unsafe_code, reason = "switches modes")]

use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, Ordering};

/// In compatibility mode: paging off, and EFER.LME. Takes EAX, ECX and EDX.
macro_rules! leave_long_mode {
    () => {
        r#"
    movl    %cr0, %eax
    andl    $0x7fffffff, %eax
    movl    %eax, %cr0
    movl    $0xc0000080, %ecx           /* EFER.LME */
    rdmsr
    andl    $~0x100, %eax
    wrmsr
        "#
    };
}
pub(crate) use leave_long_mode;

static MARK: AtomicU32 = AtomicU32::new(0);

global_asm!(
    r#"
    .pushsection .text.legacy, "ax"
    .code64
    .globl legacy_pae
    /* EDI: an address. EAX: the word there, read with PAE paging at 1 GiB above; EDX: the same without paging. */
legacy_pae:
    pushq   %rbx
    pushq   %rbp
    movq    %rsp, legacy_rsp
    sgdt    legacy_old_gdt
    lgdt    legacy_gdt_pointer
    movq    %cr3, %rax
    movl    %eax, legacy_cr3
    /* Page tables of the same 1 GiB twice, then the third and fourth; a PDPTE of PAE has no bit but P. */
    movl    $IDENTITY_PDS + 1, %eax
    movl    %eax, legacy_pdpt
    movl    %eax, legacy_pdpt + 8
    addl    $0x2000, %eax
    movl    %eax, legacy_pdpt + 16
    addl    $0x1000, %eax
    movl    %eax, legacy_pdpt + 24
    pushq   $24
    pushq   $legacy_compatibility
    lretq
    .code32
legacy_compatibility:
    "#,
    leave_long_mode!(),
    r#"
    movl    (%edi), %esi                /* no paging */
    movl    $legacy_pdpt, %eax
    movl    %eax, %cr3
    movl    %cr0, %eax
    orl     $0x80000000, %eax
    xorl    $0x20, %eax                 /* NE, too, which the hypervisor may own */
    movl    %eax, %cr0
    movl    0x40000000(%edi), %ebx      /* PAE paging */
    movl    %cr0, %eax
    andl    $0x7fffffff, %eax
    xorl    $0x20, %eax
    movl    %eax, %cr0
    movl    $0xc0000080, %ecx
    rdmsr
    orl     $0x100, %eax
    wrmsr
    movl    legacy_cr3, %eax
    movl    %eax, %cr3
    movl    %cr0, %eax
    orl     $0x80000000, %eax
    movl    %eax, %cr0
    ljmp    $8, $legacy_long
    .code64
legacy_long:
    movq    legacy_rsp, %rsp
    lgdt    legacy_old_gdt
    movl    %ebx, %eax
    movl    %esi, %edx
    popq    %rbp
    popq    %rbx
    ret
    .popsection

    .pushsection .data.legacy, "aw"
    .balign 32
legacy_pdpt:
    .quad   0, 0, 0, 0
legacy_gdt:
    .quad   0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
legacy_gdt_pointer:
    .word   31
    .quad   legacy_gdt
    .balign 8
legacy_old_gdt:
    .word   0
    .quad   0
    .balign 8
legacy_rsp:
    .quad   0
legacy_cr3:
    .long   0
    .popsection
    "#,
    options(att_syntax)
);

/// Two results, in RAX and RDX.
#[repr(C)]
struct Pair {
    paged: u64,
    unpaged: u64,
}

unsafe extern "C" {
    fn legacy_pae(address: u32) -> Pair;
}

/// Leaves long mode, and reads `value` from memory with PAE paging and without paging.
pub fn pae(value: u32) -> [u64; 2] {
    MARK.store(value, Ordering::SeqCst);
    let at = u32::try_from(MARK.as_ptr() as u64).expect("the guest's image is below 4 GiB");
    // SAFETY: keeps what the ABI wants kept; the stack and the code are below 4 GiB, mapped one to one; interrupts are off, and
    // nothing faults.
    let Pair { paged, unpaged } = unsafe { legacy_pae(at) };
    [paged, unpaged]
}
