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
use crate::hw::DATA_SEGMENT;

/// What the world switch works on. Must not move between being told to the VMCS (HOST_RSP) and the last exit.
#[derive(Debug, Default)]
#[repr(C)]
pub struct World {
    /// The guest's registers. The exit path pushes them in this order.
    pub gprs: Gprs,
    /// The host's RSP while the guest runs.
    host_rsp: u64,
}

const _: () = assert!(offset_of!(World, gprs) == 0 && offset_of!(World, host_rsp) == 15 * 8);

impl World {
    /// HOST_RSP for this world.
    pub fn exit_rsp(&self) -> u64 {
        (&raw const self.host_rsp) as u64
    }
}

/// HOST_RIP: where exits arrive.
pub fn exit_rip() -> u64 {
    exit as *const () as u64
}

/// What [`switch`] returns when VMLAUNCH or VMRESUME failed (VMfail). No exit reason has all bits set.
pub const VM_FAIL: u32 = u32::MAX;

/// The instruction that enters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// VMRESUME, for a VMCS that was entered since it was last cleared.
    Resume,
    /// The same, after a VERW that clears the CPU's buffers where it does (MD_CLEAR).
    ClearAndResume,
    /// VMLAUNCH, for one that was not. After a VERW, too, as it is rare.
    ClearAndLaunch,
}

/// What VERW works on. It clears for sure with the selector of a data segment that can be written.
static SELECTOR: u16 = DATA_SEGMENT;

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
        How::ClearAndResume => call!(clear_and_resume),
        How::ClearAndLaunch => call!(clear_and_launch),
    }
}

/// `$name`: enter by `$instruction`, the last of them. RDI: the world. Returns through [`exit`] with the reason in EAX,
/// or by itself with [`VM_FAIL`].
macro_rules! enter {
    ($name:ident, $($instruction:literal),+ $(; $selector:ident)?) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            naked_asm!(
                "push rbx",
                "push rbp",
                "mov [rdi + 15 * 8], rsp",
                "mov rax, [rdi]",
                "mov rcx, [rdi + 1 * 8]",
                "mov rdx, [rdi + 2 * 8]",
                "mov rbx, [rdi + 3 * 8]",
                "mov rbp, [rdi + 4 * 8]",
                "mov rsi, [rdi + 5 * 8]",
                "mov r8, [rdi + 7 * 8]",
                "mov r9, [rdi + 8 * 8]",
                "mov r10, [rdi + 9 * 8]",
                "mov r11, [rdi + 10 * 8]",
                "mov r12, [rdi + 11 * 8]",
                "mov r13, [rdi + 12 * 8]",
                "mov r14, [rdi + 13 * 8]",
                "mov r15, [rdi + 14 * 8]",
                "mov rdi, [rdi + 6 * 8]",
                $($instruction,)+
                "mov eax, {fail}",
                "pop rbp",
                "pop rbx",
                "ret",
                fail = const VM_FAIL,
                $(selector = sym $selector,)?
            )
        }
    };
}
enter!(resume, "vmresume");
enter!(clear_and_resume, "verw word ptr [rip + {selector}]", "vmresume"; SELECTOR);
enter!(clear_and_launch, "verw word ptr [rip + {selector}]", "vmlaunch"; SELECTOR);

/// Where the CPU arrives after an exit, RSP at the end of the registers in `World`.
#[unsafe(naked)]
unsafe extern "C" fn exit() {
    naked_asm!(
        "push r15",
        "push r14",
        "push r13",
        "push r12",
        "push r11",
        "push r10",
        "push r9",
        "push r8",
        "push rdi",
        "push rsi",
        "push rbp",
        "push rbx",
        "push rdx",
        "push rcx",
        "push rax",
        "mov rsp, [rsp + 15 * 8]",
        "mov eax, {reason}",
        "vmread rax, rax",
        "pop rbp",
        "pop rbx",
        "ret",
        reason = const field::EXIT_REASON.encoding(),
    )
}
