//! The world switch.
// UNSAFETY: leaves the hypervisor for the guest and comes back.
#![expect(unsafe_code, reason = "VMRUN")]

use core::arch::asm;
use core::mem::offset_of;

use crate::arch::Gprs;
use crate::arch::speculation::Precautions;
use crate::arch::speculation::precautions::{
    after_exit, before_entry, careful_asm, test_for_verw, verw_if_so, write_spec_ctrl,
};
use crate::types::Hpa;

/// Run the guest of `vmcb` until it exits. RAX goes through the VMCB, the other registers through `gprs`.
///
/// GIF is clear from before the guest's hidden state is loaded until the host's is back, so that no handler of the host runs on the
/// guest's FS, GS and TR. RFLAGS.IF is set meanwhile: with V_INTR_MASKING it is what lets a physical interrupt end the guest's
/// run (APM vol. 2, 15.21.1). A pending NMI is taken by the host at the STGI.
///
/// # Safety
/// On a CPU that has been enabled, with interrupts off. `vmcb` is a VMCB whose guest cannot reach the hypervisor's memory, `gprs`
/// points to the registers, `host_state` to the page into which this CPU has executed VMSAVE.
#[inline(always)]
pub unsafe fn world_switch(vmcb: Hpa, gprs: *mut Gprs, host_state: Hpa) {
    // SAFETY: by the contract. VMRUN brings back RSP, RFLAGS, RIP, RAX and the control registers (APM vol. 2, 15.6), VMLOAD the
    // rest of the hidden state; RBX and RBP, which the compiler keeps, are saved here and everything else is declared.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "push rdx",
            "push rcx",
            "clgi",
            "sti",
            "vmload rax",
            "mov rdx, [rcx + {rdx}]",
            "mov rbx, [rcx + {rbx}]",
            "mov rbp, [rcx + {rbp}]",
            "mov rsi, [rcx + {rsi}]",
            "mov rdi, [rcx + {rdi}]",
            "mov r8, [rcx + {r8}]",
            "mov r9, [rcx + {r8} + 8]",
            "mov r10, [rcx + {r8} + 16]",
            "mov r11, [rcx + {r8} + 24]",
            "mov r12, [rcx + {r8} + 32]",
            "mov r13, [rcx + {r8} + 40]",
            "mov r14, [rcx + {r8} + 48]",
            "mov r15, [rcx + {r8} + 56]",
            "mov rcx, [rcx + {rcx}]",
            "vmrun rax",
            "vmsave rax",
            "mov rax, [rsp + 8]",
            "vmload rax",
            "pop rax",
            "mov [rax + {rcx}], rcx",
            "mov [rax + {rdx}], rdx",
            "mov [rax + {rbx}], rbx",
            "mov [rax + {rbp}], rbp",
            "mov [rax + {rsi}], rsi",
            "mov [rax + {rdi}], rdi",
            "mov [rax + {r8}], r8",
            "mov [rax + {r8} + 8], r9",
            "mov [rax + {r8} + 16], r10",
            "mov [rax + {r8} + 24], r11",
            "mov [rax + {r8} + 32], r12",
            "mov [rax + {r8} + 40], r13",
            "mov [rax + {r8} + 48], r14",
            "mov [rax + {r8} + 56], r15",
            "pop rdx",
            "pop rbp",
            "pop rbx",
            "cli",
            "stgi",
            rcx = const offset_of!(Gprs, rcx),
            rdx = const offset_of!(Gprs, rdx),
            rbx = const offset_of!(Gprs, rbx),
            rbp = const offset_of!(Gprs, rbp),
            rsi = const offset_of!(Gprs, rsi),
            rdi = const offset_of!(Gprs, rdi),
            r8 = const offset_of!(Gprs, r8),
            inlateout("rax") vmcb.0 => _,
            inlateout("rcx") gprs => _,
            inlateout("rdx") host_state.0 => _,
            lateout("rsi") _, lateout("rdi") _,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
        );
    }
}

/// The same with `precautions`, which are taken before anything returns after the exit. GIF is clear, so that no handler
/// does before.
///
/// # Safety
/// As [`world_switch`]; `precautions` points to what the CPU can do.
pub unsafe fn careful_world_switch(
    vmcb: Hpa,
    gprs: *mut Gprs,
    host_state: Hpa,
    precautions: *mut Precautions,
) {
    // SAFETY: the caller's.
    unsafe { careful(vmcb.0, gprs, host_state.0, precautions) }
}

/// See [`careful_world_switch`]. RDI: the VMCB, RSI: the registers, RDX: the host's state, RCX: the precautions.
#[unsafe(naked)]
unsafe extern "sysv64" fn careful(
    vmcb: u64,
    gprs: *mut Gprs,
    host_state: u64,
    precautions: *mut Precautions,
) {
    careful_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdx",
        "push rsi",
        "push rcx",
        "mov rbx, rcx",
        "clgi",
        "sti",
        before_entry!("rbx"),
        "mov rax, rdi",
        "vmload rax",
        test_for_verw!("rbx"),
        "mov rcx, [rsi + {rcx}]",
        "mov rdx, [rsi + {rdx}]",
        "mov rbx, [rsi + {rbx}]",
        "mov rbp, [rsi + {rbp}]",
        "mov rdi, [rsi + {rdi}]",
        "mov r8, [rsi + {r8}]",
        "mov r9, [rsi + {r8} + 8]",
        "mov r10, [rsi + {r8} + 16]",
        "mov r11, [rsi + {r8} + 24]",
        "mov r12, [rsi + {r8} + 32]",
        "mov r13, [rsi + {r8} + 40]",
        "mov r14, [rsi + {r8} + 48]",
        "mov r15, [rsi + {r8} + 56]",
        "mov rsi, [rsi + {rsi}]",
        verw_if_so!(),
        "vmrun rax",
        "vmsave rax",
        "mov rax, [rsp + 16]",
        "vmload rax",
        "mov rax, [rsp + 8]",
        "mov [rax + {rcx}], rcx",
        "mov [rax + {rdx}], rdx",
        "mov [rax + {rbx}], rbx",
        "mov [rax + {rbp}], rbp",
        "mov [rax + {rsi}], rsi",
        "mov [rax + {rdi}], rdi",
        "mov [rax + {r8}], r8",
        "mov [rax + {r8} + 8], r9",
        "mov [rax + {r8} + 16], r10",
        "mov [rax + {r8} + 24], r11",
        "mov [rax + {r8} + 32], r12",
        "mov [rax + {r8} + 40], r13",
        "mov [rax + {r8} + 48], r14",
        "mov [rax + {r8} + 56], r15",
        "mov rbx, [rsp]",
        after_exit!("rbx"),
        "add rsp, 24",
        "cli",
        "stgi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret";
        rcx = const offset_of!(Gprs, rcx),
        rdx = const offset_of!(Gprs, rdx),
        rbx = const offset_of!(Gprs, rbx),
        rbp = const offset_of!(Gprs, rbp),
        rsi = const offset_of!(Gprs, rsi),
        rdi = const offset_of!(Gprs, rdi),
        r8 = const offset_of!(Gprs, r8),
    )
}
