//! Hypercalls from outside 64-bit mode: from a 32-bit code segment, and with paging off.
// UNSAFETY: switches modes, raw hypercalls.
#![expect(
    unsafe_code,
    reason = "switches modes; hypercalls whose arguments are addresses"
)]

use core::arch::global_asm;

global_asm!(
    r#"
    .pushsection .text.compat, "ax"
    .code64
    .globl compat_execute
    /* RDI: a `Request` below 4 GiB. EAX: what its instruction leaves there. */
compat_execute:
    pushq   %rbx
    pushq   %rbp
    movq    %rdi, %rbp
    movq    %rsp, compat_rsp
    sgdt    compat_old_gdt
    lgdt    compat_gdt_pointer
    pushq   $24
    pushq   $compat_segment
    lretq
    .code32
compat_segment:
    cmpl    $0, 28(%ebp)
    je      1f
    movl    %cr0, %eax
    andl    $0x7fffffff, %eax           /* PG */
    movl    %eax, %cr0
    movl    $0xc0000080, %ecx           /* EFER.LME */
    rdmsr
    andl    $~0x100, %eax
    wrmsr
1:  movl    (%ebp), %eax
    movl    4(%ebp), %ebx
    movl    8(%ebp), %ecx
    movl    12(%ebp), %edx
    movl    16(%ebp), %esi
    movl    20(%ebp), %edi
    cmpl    $1, 24(%ebp)
    jb      2f
    je      3f
    wrmsr
    jmp     4f
2:  vmcall
    jmp     4f
3:  vmmcall
4:  cmpl    $0, 28(%ebp)
    movl    %eax, %ebx
    je      5f
    movl    $0xc0000080, %ecx
    rdmsr
    orl     $0x100, %eax
    wrmsr
    movl    %cr0, %eax
    orl     $0x80000000, %eax
    movl    %eax, %cr0
5:  ljmp    $8, $compat_long
    .code64
compat_long:
    movq    compat_rsp, %rsp
    lgdt    compat_old_gdt
    movl    %ebx, %eax
    popq    %rbp
    popq    %rbx
    ret
    .popsection

    .pushsection .data.compat, "aw"
    .balign 8
compat_gdt:
    .quad   0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
compat_gdt_pointer:
    .word   31
    .quad   compat_gdt
    .balign 8
compat_old_gdt:
    .word   0
    .quad   0
    .balign 8
compat_rsp:
    .quad   0
    .popsection
    "#,
    options(att_syntax)
);

/// What to execute, with what in EAX, EBX, ECX, EDX, ESI and EDI, and where.
#[repr(C)]
struct Request {
    registers: [u32; 6],
    instruction: Instruction,
    mode: Mode,
}

#[repr(u32)]
#[derive(Clone, Copy)]
enum Instruction {
    Vmcall,
    Vmmcall,
    Wrmsr,
}

/// Where a call is made from.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// A 32-bit code segment under 64-bit page tables.
    Compatibility,
    /// Protected mode without paging.
    Unpaged,
}

unsafe extern "C" {
    fn compat_execute(request: *const Request) -> u32;
}

fn execute(registers: [u32; 6], instruction: Instruction, mode: Mode) -> u32 {
    let request = Request {
        registers,
        instruction,
        mode,
    };
    // SAFETY: keeps what the ABI wants kept; image and stack are below 4 GiB, mapped one to one; interrupts are off, and nothing
    // faults. What a hypercall does to memory is its caller's business, as in `hypercall::call`.
    unsafe { compat_execute(&request) }
}

/// Issues hypercall `number` from `mode`; what a C caller sees.
pub fn call(mode: Mode, number: u32, [a, b, c, d, e]: [u32; 5]) -> i32 {
    let instruction = if guest_rt::hypercall::uses_vmmcall() {
        Instruction::Vmmcall
    } else {
        Instruction::Vmcall
    };
    execute([number, a, b, c, d, e], instruction, mode) as i32
}

/// WRMSR in a 32-bit code segment, to an MSR that takes the value.
pub fn wrmsr(msr: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    execute([low, 0, msr, high, 0, 0], Instruction::Wrmsr, Mode::Compatibility);
}

/// Address of a value that hypercalls of 32-bit code are to find.
pub fn address<T>(of: &mut T) -> u32 {
    u32::try_from(core::ptr::from_mut(of) as u64).expect("the guest's image and stack are below 4 GiB")
}
