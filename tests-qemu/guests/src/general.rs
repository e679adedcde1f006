//! The general registers across a hypercall.
// UNSAFETY: a hypercall with chosen values in all registers.
#![expect(unsafe_code, reason = "a hypercall with chosen values in all registers")]

use core::arch::naked_asm;

/// RAX, RDI, RSI and RDX, which are number and arguments, then RCX, RBX, RBP and R8 to R15.
pub type General = [u64; 15];

/// Makes the hypercall that `registers` say; they are as it has left them then.
///
/// # Safety
/// As of `guest_rt::hypercall::raw`.
pub unsafe fn hypercall(registers: &mut General) {
    // SAFETY: the caller's; registers that are a caller's to keep are kept.
    unsafe {
        if guest_rt::hypercall::uses_vmmcall() {
            by_vmmcall(registers);
        } else {
            by_vmcall(registers);
        }
    }
}

macro_rules! by {
    ($name:ident, $instruction:literal) => {
        #[unsafe(naked)]
        unsafe extern "sysv64" fn $name(registers: &mut General) {
            naked_asm!(
                "push rbx; push rbp; push r12; push r13; push r14; push r15; push rdi",
                "mov rax, [rdi]; mov rsi, [rdi + 16]; mov rdx, [rdi + 24]; mov rcx, [rdi + 32]",
                "mov rbx, [rdi + 40]; mov rbp, [rdi + 48]; mov r8, [rdi + 56]; mov r9, [rdi + 64]",
                "mov r10, [rdi + 72]; mov r11, [rdi + 80]; mov r12, [rdi + 88]; mov r13, [rdi + 96]",
                "mov r14, [rdi + 104]; mov r15, [rdi + 112]; mov rdi, [rdi + 8]",
                $instruction,
                "xchg rdi, [rsp]",
                "mov [rdi], rax; mov [rdi + 16], rsi; mov [rdi + 24], rdx; mov [rdi + 32], rcx",
                "mov [rdi + 40], rbx; mov [rdi + 48], rbp; mov [rdi + 56], r8; mov [rdi + 64], r9",
                "mov [rdi + 72], r10; mov [rdi + 80], r11; mov [rdi + 88], r12; mov [rdi + 96], r13",
                "mov [rdi + 104], r14; mov [rdi + 112], r15; pop rax; mov [rdi + 8], rax",
                "pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx; ret",
            )
        }
    };
}
by!(by_vmcall, "vmcall");
by!(by_vmmcall, "vmmcall");
