//! The world switch.
//!
//! On exit the CPU loads RSP with the end of [`World::gprs`], so that pushes save the guest's registers without a scratch register. The
//! few instructions until the host's stack is back run with interrupts off, and NMI, #DF and #MC have stacks of their own (IST).
// UNSAFETY: assembler that enters a guest.
#![expect(unsafe_code, reason = "assembler that enters a guest")]

use core::arch::{asm, naked_asm};
use core::mem::offset_of;

use super::field;
use crate::arch::Gprs;
use crate::arch::speculation::precautions::{
    after_exit, before_entry, careful_asm, test_for_verw, verw_if_so, write_spec_ctrl,
};
use crate::arch::speculation::{Actions, Precautions};

/// What the world switch works on. Must not move between being told to the VMCS (HOST_RSP) and the last exit.
#[derive(Debug)]
#[repr(C)]
pub struct World {
    /// The guest's registers. The exit path pushes them in this order.
    pub gprs: Gprs,
    /// The host's RSP while the guest runs.
    host_rsp: u64,
    /// What is done against speculation. SPEC_CTRL as the guest sees it is among it: until it has written another
    /// value than the host's, the CPU keeps that.
    pub precautions: Precautions,
}

const _: () = assert!(offset_of!(World, gprs) == 0 && offset_of!(World, host_rsp) == 15 * 8);
const _: () = assert!(offset_of!(World, precautions) == 16 * 8);

impl World {
    /// All registers zero.
    pub fn new() -> World {
        World {
            gprs: Gprs::default(),
            host_rsp: 0,
            precautions: Precautions::of_any_guest(),
        }
    }

    /// HOST_RSP for this world.
    pub fn exit_rsp(&self) -> u64 {
        (&raw const self.host_rsp) as u64
    }

    /// HOST_RIP: where exits arrive. Those that need no precautions do not even ask for them.
    pub fn exit_rip(&self) -> u64 {
        if self.precautions.actions.intersects(Actions::AT_EXITS) {
            careful_exit as *const () as u64
        } else {
            exit as *const () as u64
        }
    }
}

/// What [`switch`] returns when VMLAUNCH or VMRESUME failed (VMfail). No exit reason has all bits set.
pub const VM_FAIL: u32 = u32::MAX;

/// The instruction that enters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// VMRESUME, for a VMCS that was entered since it was last cleared.
    Resume,
    /// The same, with the world's precautions.
    CarefullyResume,
    /// VMLAUNCH, for one that was not; likewise.
    CarefullyLaunch,
}

/// Enter the guest of the current VMCS; the exit reason.
///
/// # Safety
/// Interrupts are off. The current VMCS has the host's state, and HOST_RSP and HOST_RIP of `world` and this module. What the guest can
/// reach is what its nested tables and bitmaps say, and those are its own.
#[inline(always)]
pub unsafe fn switch(world: &mut World, how: How) -> u32 {
    macro_rules! call {
        ($enter:ident) => {{
            let reason: u32;
            // SAFETY: the caller's. All general registers are declared lost but RBX, RBP and RSP, which `$enter` keeps; the hypervisor
            // has no floating-point registers.
            unsafe {
                asm!(
                    "call {enter}",
                    enter = sym $enter,
                    inout("rdi") world => _,
                    lateout("eax") reason,
                    out("rcx") _, out("rdx") _, out("rsi") _, out("r8") _, out("r9") _, out("r10") _,
                    out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
                );
            }
            reason
        }};
    }
    match how {
        How::Resume => call!(resume),
        How::CarefullyResume => call!(carefully_resume),
        How::CarefullyLaunch => call!(carefully_launch),
    }
}

/// Lines that save what the caller keeps, and the host's RSP. RDI: the world.
macro_rules! leave_host {
    () => {
        "push rbx\npush rbp\nmov [rdi + 15 * 8], rsp\n"
    };
}

/// Lines that load the guest's registers. Flags stay.
macro_rules! load_gprs {
    () => {
        concat!(
            "mov rax, [rdi]\n",
            "mov rcx, [rdi + 1 * 8]\n",
            "mov rdx, [rdi + 2 * 8]\n",
            "mov rbx, [rdi + 3 * 8]\n",
            "mov rbp, [rdi + 4 * 8]\n",
            "mov rsi, [rdi + 5 * 8]\n",
            "mov r8, [rdi + 7 * 8]\n",
            "mov r9, [rdi + 8 * 8]\n",
            "mov r10, [rdi + 9 * 8]\n",
            "mov r11, [rdi + 10 * 8]\n",
            "mov r12, [rdi + 11 * 8]\n",
            "mov r13, [rdi + 12 * 8]\n",
            "mov r14, [rdi + 13 * 8]\n",
            "mov r15, [rdi + 14 * 8]\n",
            "mov rdi, [rdi + 6 * 8]\n",
        )
    };
}

/// Enter by VMRESUME. RDI: the world. Returns through [`exit`] or [`careful_exit`] with the reason in EAX, or by itself
/// with [`VM_FAIL`].
#[unsafe(naked)]
unsafe extern "C" fn resume() {
    naked_asm!(
        leave_host!(),
        load_gprs!(),
        "vmresume",
        "mov eax, {fail}",
        "pop rbp",
        "pop rbx",
        "ret",
        fail = const VM_FAIL,
    )
}

/// `$name`: the same by `$instruction`, with precautions. If it fails, SPEC_CTRL is still the host's to take back.
macro_rules! carefully {
    ($name:ident, $instruction:literal) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            careful_asm!(
                leave_host!(),
                "push rdi",
                before_entry!("rdi + 16 * 8"),
                test_for_verw!("rdi + 16 * 8"),
                load_gprs!(),
                verw_if_so!(),
                $instruction,
                "pop rdi",
                write_spec_ctrl!("rdi + 16 * 8", "{hosts}"),
                "mov eax, {fail}",
                "pop rbp",
                "pop rbx",
                "ret";
                fail = const VM_FAIL,
            )
        }
    };
}
carefully!(carefully_resume, "vmresume");
carefully!(carefully_launch, "vmlaunch");

/// Lines that save the guest's registers into the world, RSP at their end: it is the world then.
macro_rules! save_gprs {
    () => {
        concat!(
            "push r15\n",
            "push r14\n",
            "push r13\n",
            "push r12\n",
            "push r11\n",
            "push r10\n",
            "push r9\n",
            "push r8\n",
            "push rdi\n",
            "push rsi\n",
            "push rbp\n",
            "push rbx\n",
            "push rdx\n",
            "push rcx\n",
            "push rax\n",
        )
    };
}

/// Where the CPU arrives after an exit, RSP at the end of the registers in `World`.
#[unsafe(naked)]
unsafe extern "C" fn exit() {
    naked_asm!(
        save_gprs!(),
        "mov rsp, [rsp + 15 * 8]",
        "mov eax, {reason}",
        "vmread rax, rax",
        "pop rbp",
        "pop rbx",
        "ret",
        reason = const field::EXIT_REASON.encoding(),
    )
}

/// The same where there are precautions to be taken before the return, whose target a guest may have chosen.
#[unsafe(naked)]
unsafe extern "C" fn careful_exit() {
    careful_asm!(
        save_gprs!(),
        "mov rbx, rsp",
        "mov rsp, [rbx + 15 * 8]",
        after_exit!("rbx + 16 * 8"),
        "mov eax, {reason}",
        "vmread rax, rax",
        "pop rbp",
        "pop rbx",
        "ret";
        reason = const field::EXIT_REASON.encoding(),
    )
}
