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

/// Lines that load the guest's registers but RAX, from where RSI points. Flags stay.
macro_rules! load_gprs {
    () => {
        concat!(
            "mov rcx, [rsi + {rcx}]\n",
            "mov rdx, [rsi + {rdx}]\n",
            "mov rbx, [rsi + {rbx}]\n",
            "mov rbp, [rsi + {rbp}]\n",
            "mov rdi, [rsi + {rdi}]\n",
            "mov r8, [rsi + {r8}]\n",
            "mov r9, [rsi + {r8} + 8]\n",
            "mov r10, [rsi + {r8} + 16]\n",
            "mov r11, [rsi + {r8} + 24]\n",
            "mov r12, [rsi + {r12}]\n",
            "mov r13, [rsi + {r12} + 8]\n",
            "mov r14, [rsi + {r12} + 16]\n",
            "mov r15, [rsi + {r12} + 24]\n",
            "mov rsi, [rsi + {rsi}]\n",
        )
    };
}

/// Lines that save them, to where RAX points.
macro_rules! save_gprs {
    () => {
        concat!(
            "mov [rax + {rcx}], rcx\n",
            "mov [rax + {rdx}], rdx\n",
            "mov [rax + {rbx}], rbx\n",
            "mov [rax + {rbp}], rbp\n",
            "mov [rax + {rsi}], rsi\n",
            "mov [rax + {rdi}], rdi\n",
            "mov [rax + {r8}], r8\n",
            "mov [rax + {r8} + 8], r9\n",
            "mov [rax + {r8} + 16], r10\n",
            "mov [rax + {r8} + 24], r11\n",
            "mov [rax + {r12}], r12\n",
            "mov [rax + {r12} + 8], r13\n",
            "mov [rax + {r12} + 16], r14\n",
            "mov [rax + {r12} + 24], r15\n",
        )
    };
}

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
            "push rsi",
            "clgi",
            "sti",
            "vmload rax",
            load_gprs!(),
            "vmrun rax",
            "vmsave rax",
            "mov rax, [rsp + 8]",
            "vmload rax",
            "pop rax",
            save_gprs!(),
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
            r12 = const offset_of!(Gprs, r12),
            inlateout("rax") vmcb.0 => _,
            inlateout("rsi") gprs => _,
            inlateout("rdx") host_state.0 => _,
            lateout("rcx") _, lateout("rdi") _,
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
        load_gprs!(),
        verw_if_so!(),
        "vmrun rax",
        "vmsave rax",
        "mov rax, [rsp + 16]",
        "vmload rax",
        "mov rax, [rsp + 8]",
        save_gprs!(),
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
        r12 = const offset_of!(Gprs, r12),
    )
}
