//! The world switch.
//!
//! On exit the CPU loads RSP with the end of [`World::gprs`], so that pushes save the guest's registers without a scratch register. The
//! few instructions until the host's stack is back run with interrupts off, and NMI, #DF and #MC have stacks of their own (IST).
// UNSAFETY: assembler that enters a guest.
#![expect(unsafe_code, reason = "assembler that enters a guest")]

use core::arch::{asm, naked_asm};
use core::mem::offset_of;

use super::exit::reason;
use super::field;
use super::vcpu::{Work, interruptibility, kernel, rflags};
use crate::arch::calls::{Calls, OUTSIDE, SLOTS};
use crate::arch::speculation::precautions::{
    after_exit, before_entry, careful_asm, test_for_verw, verw_if_so, write_spec_ctrl,
};
use crate::arch::speculation::{Actions, Precautions};
use crate::arch::{Gprs, Left};
use crate::hw::percpu;

/// What the world switch works on. Must not move between being told to the VMCS (HOST_RSP) and the last exit.
#[derive(Debug)]
#[repr(C)]
pub struct World {
    /// The guest's registers. The exit path pushes them, from the last on.
    pub gprs: Gprs,
    /// The host's RSP while the guest runs.
    host_rsp: u64,
    /// What is done against speculation. SPEC_CTRL as the guest sees it is among it: until it has written another
    /// value than the host's, the CPU keeps that.
    pub precautions: Precautions,
    /// By what [`exit`] makes hypercalls.
    pub calls: Calls,
    /// What must be done before the next entry.
    pub work: Work,
}

// The order in which registers are pushed and popped, and numbers in the text below.
const _: () = {
    assert!(offset_of!(World, gprs) == 0 && offset_of!(Gprs, rbx) == 0 && offset_of!(Gprs, r15) == 5 * 8);
    assert!(
        offset_of!(Gprs, rax) == 6 * 8 && offset_of!(Gprs, rcx) == 7 * 8 && offset_of!(Gprs, r11) == 14 * 8
    );
    assert!(offset_of!(World, host_rsp) == 15 * 8 && offset_of!(World, precautions) == 16 * 8);
    assert!(size_of::<Work>() == 4 && SLOTS.is_power_of_two());
};

// SAFETY: what `calls` point to is followed only while the guest runs, by the CPU that has said what they are.
unsafe impl Send for World {}

impl World {
    /// All registers zero, and no calls.
    pub fn new() -> World {
        let precautions = Precautions::of_any_guest();
        World {
            gprs: Gprs::default(),
            host_rsp: 0,
            work: if precautions.actions.is_empty() {
                Work::empty()
            } else {
                Work::PRECAUTIONS
            },
            precautions,
            calls: Calls::NONE,
        }
    }

    /// HOST_RSP for this world.
    pub fn exit_rsp(&self) -> u64 {
        (&raw const self.host_rsp) as u64
    }

    /// HOST_RIP: where exits arrive. Only where entries and exits need no precautions are there hypercalls on the short way; where exits
    /// need none, they do not even test for them.
    pub fn exit_rip(&self) -> u64 {
        let exit = if self.precautions.actions.is_empty() {
            exit
        } else if self.precautions.actions.intersects(Actions::AT_EXITS) {
            careful_exit
        } else {
            plain_exit
        };
        exit as *const () as u64
    }
}

/// What [`switch`] returns when VMLAUNCH or VMRESUME failed (VMfail): all bits of a reason, but for the one that says that it is none.
pub const VM_FAIL: u32 = !NO_REASON;
/// Set in what [`switch`] returns when it is no exit reason, of which this bit is reserved (SDM 3C table 25-14).
const NO_REASON: u32 = 1 << 30;
/// A call was made, and there is something to look at.
const CALLED: u32 = NO_REASON;
/// A call is to be made again.
const CALL_AGAIN: u32 = NO_REASON | 1;

/// What the number that [`switch`] returned says.
#[inline(always)]
pub fn left(switched: u32) -> Left {
    if switched == u32::from(reason::VMCALL) {
        Left::Hypercall
    } else if switched & NO_REASON == 0 {
        Left::Exit(switched.into())
    } else if switched == CALLED {
        Left::Called
    } else {
        Left::CallAgain
    }
}

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

/// Enter the guest of the current VMCS, and again after calls on the short way; for [`left`].
///
/// # Safety
/// Interrupts are off. The current VMCS has the host's state, and HOST_RSP and HOST_RIP of `world` and this module. What the guest can
/// reach is what its nested tables and bitmaps say, and those are its own. Nobody has a reference to `world` but, while they run, the handlers of its
/// calls, whose pointers are valid.
#[inline(always)]
pub unsafe fn switch(world: *mut World, how: How) -> u32 {
    macro_rules! call {
        ($enter:ident) => {{
            let switched: u32;
            // SAFETY: the caller's. All general registers are declared lost but RBX, RBP and RSP, which `$enter` keeps; the hypervisor
            // has no floating-point registers.
            unsafe {
                asm!(
                    "call {enter}",
                    enter = sym $enter,
                    inout("rdi") world => _,
                    lateout("eax") switched,
                    out("rcx") _, out("rdx") _, out("rsi") _, out("r8") _, out("r9") _, out("r10") _,
                    out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
                );
            }
            switched
        }};
    }
    match how {
        How::Resume => call!(resume),
        How::CarefullyResume => call!(carefully_resume),
        How::CarefullyLaunch => call!(carefully_launch),
    }
}

/// Lines that save what the caller keeps, and the host's RSP, which has not the alignment of a call: 8 bytes more are. RDI: the world.
macro_rules! leave_host {
    () => {
        "push rbx\npush rbp\nmov [rdi + 15 * 8], rsp\n"
    };
}

/// Lines that return to who called [`switch`].
macro_rules! return_to_host {
    () => {
        "pop rbp\npop rbx\nret\n"
    };
}

/// Lines that load the guest's registers from the world at RDI. Flags stay.
macro_rules! load_gprs {
    () => {
        concat!(
            "mov rbx, [rdi]\n",
            "mov rbp, [rdi + 1 * 8]\n",
            "mov r12, [rdi + 2 * 8]\n",
            "mov r13, [rdi + 3 * 8]\n",
            "mov r14, [rdi + 4 * 8]\n",
            "mov r15, [rdi + 5 * 8]\n",
            "mov rax, [rdi + 6 * 8]\n",
            "mov rcx, [rdi + 7 * 8]\n",
            "mov rdx, [rdi + 8 * 8]\n",
            "mov rsi, [rdi + 9 * 8]\n",
            "mov r8, [rdi + 11 * 8]\n",
            "mov r9, [rdi + 12 * 8]\n",
            "mov r10, [rdi + 13 * 8]\n",
            "mov r11, [rdi + 14 * 8]\n",
            "mov rdi, [rdi + 10 * 8]\n",
        )
    };
}

/// Enter by VMRESUME. RDI: the world. Returns through where exits arrive, or by itself with [`VM_FAIL`].
#[unsafe(naked)]
unsafe extern "C" fn resume() {
    naked_asm!(
        leave_host!(),
        load_gprs!(),
        "vmresume",
        "mov eax, {fail}",
        return_to_host!(),
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
                return_to_host!();
                fail = const VM_FAIL,
            )
        }
    };
}
carefully!(carefully_resume, "vmresume");
carefully!(carefully_launch, "vmlaunch");

/// Lines that save the registers that calls do not preserve, RSP at the end of the world's. It is where RAX is then.
macro_rules! save_others {
    () => {
        concat!(
            "push r11\n",
            "push r10\n",
            "push r9\n",
            "push r8\n",
            "push rdi\n",
            "push rsi\n",
            "push rdx\n",
            "push rcx\n",
            "push rax\n",
        )
    };
}

/// Lines that save the others behind that. RSP is the world then.
macro_rules! save_preserved {
    () => {
        concat!(
            "push r15\n",
            "push r14\n",
            "push r13\n",
            "push r12\n",
            "push rbp\n",
            "push rbx\n",
        )
    };
}

/// Where the CPU arrives after an exit, RSP at the end of the registers in `World`. Nothing but saving them: what each exit takes at least.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn plain_exit() {
    naked_asm!(
        save_others!(),
        save_preserved!(),
        "mov rsp, [rsp + 15 * 8]",
        "mov eax, {reason}",
        "vmread rax, rax",
        return_to_host!(),
        reason = const field::EXIT_REASON.encoding(),
    )
}

/// The same where there are precautions to be taken before the return, whose target a guest may have chosen.
#[unsafe(naked)]
unsafe extern "C" fn careful_exit() {
    careful_asm!(
        save_others!(),
        save_preserved!(),
        "mov rbx, rsp",
        "mov rsp, [rbx + 15 * 8]",
        after_exit!("rbx + 16 * 8"),
        "mov eax, {reason}",
        "vmread rax, rax",
        return_to_host!();
        reason = const field::EXIT_REASON.encoding(),
    )
}

/// The same with hypercalls on the short way, see [`calls`](crate::arch::calls): those of 64-bit kernels, as
/// [`GuestCpu::in_long_mode_kernel`](crate::arch::GuestCpu::in_long_mode_kernel) knows them, that have a handler, and after which nothing is left to do
/// but to go past the instruction. That is as [`GuestCpu::skip_in_long_mode`](crate::arch::GuestCpu::skip_in_long_mode) does it, and the vCPU leaves and
/// enters as by `Wakeup::exited` and `Wakeup::enter`. Whatever is not so comes to the run loop, which does the same for all.
#[unsafe(naked)]
unsafe extern "C" fn exit() {
    naked_asm!(
        save_others!(),
        "mov eax, {reason}",
        "vmread rax, rax",
        "cmp eax, {vmcall}",
        "jne 57f",
        "mov r9d, {cs_rights}",
        "vmread r9, r9",
        "and r9d, {kernel_mask}",
        "cmp r9d, {kernel}",
        "jne 57f",
        "mov r8, [rsp]",
        "cmp r8, [rsp + {count} - 6 * 8]",
        "jae 57f",
        "and r8d, {slots} - 1",
        "mov rcx, [rsp + {context} - 6 * 8]",
        "mov r9, [rsp + {requests} - 6 * 8]",
        "mov r10, [rsp + {handlers} - 6 * 8]",
        // On top of the host's stack is where the guest's RAX is.
        "mov rax, rsp",
        "mov rsp, [rax + 9 * 8]",
        "push rax",
        "mov eax, {rflags}",
        "vmread rax, rax",
        "test eax, {unusual} + {interrupt_flag}",
        "jnz 55f",
        // Leave, and let the host's interrupts in, behind the instruction that follows STI.
        "sti",
        "lock or dword ptr [r9], {outside}",
        "cli",
        // RDI, RSI and RDX are the guest's.
        "52:",
        "call [r10 + 8 * r8]",
        ".global oxen_behind_handler",
        "oxen_behind_handler:",
        "mov r11, [rsp]",
        "test rax, rax",
        "jnz 53f",
        "mov [r11], rdx",
        // Skip the instruction.
        "mov ecx, {length}",
        "vmread rcx, rcx",
        "mov edx, {rip}",
        "vmread rax, rdx",
        "add rax, rcx",
        "vmwrite rdx, rax",
        // Enter, unless there are requests, softirqs or work.
        "mov rcx, [r11 + {requests} - 6 * 8]",
        "lock and dword ptr [rcx], {inside}",
        "mov eax, [rcx]",
        "or eax, gs:[{softirqs}]",
        "or eax, [r11 + {work} - 6 * 8]",
        "jnz 54f",
        "pop rsp",
        "pop rax",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "pop r8",
        "pop r9",
        "pop r10",
        "pop r11",
        "vmresume",
        "lea r11, [rsp - 9 * 8]",
        "mov eax, {fail}",
        "jmp 58f",
        "53: mov eax, {call_again}",
        "jmp 58f",
        "54: mov eax, {called}",
        "58: mov [r11 - 1 * 8], r15",
        "mov [r11 - 2 * 8], r14",
        "mov [r11 - 3 * 8], r13",
        "mov [r11 - 4 * 8], r12",
        "mov [r11 - 5 * 8], rbp",
        "mov [r11 - 6 * 8], rbx",
        "mov rsp, [r11 + 9 * 8]",
        return_to_host!(),
        // The guest's interrupts are on, or the end of the instruction means more.
        "55: test eax, {unusual}",
        "jnz 56f",
        "mov eax, {interruptibility}",
        "vmread rax, rax",
        "test eax, {shadow}",
        "jnz 56f",
        "lock or dword ptr [r9], {outside}",
        "jmp 52b",
        // No call on the short way.
        "56: mov eax, {vmcall}",
        "pop rsp",
        "57:",
        save_preserved!(),
        "mov rsp, [rsp + 15 * 8]",
        return_to_host!(),
        reason = const field::EXIT_REASON.encoding(),
        vmcall = const reason::VMCALL,
        cs_rights = const field::GUEST_CS.rights.encoding(),
        slots = const SLOTS,
        kernel_mask = const kernel::MASK,
        kernel = const kernel::LONG,
        rflags = const field::GUEST_RFLAGS.encoding(),
        unusual = const rflags::TF | rflags::RF,
        interrupt_flag = const rflags::IF,
        interruptibility = const field::GUEST_INTERRUPTIBILITY.encoding(),
        shadow = const interruptibility::SHADOW,
        length = const field::EXIT_INSTRUCTION_LEN.encoding(),
        rip = const field::GUEST_RIP.encoding(),
        count = const offset_of!(World, calls) + offset_of!(Calls, count),
        context = const offset_of!(World, calls) + offset_of!(Calls, context),
        requests = const offset_of!(World, calls) + offset_of!(Calls, requests),
        handlers = const offset_of!(World, calls) + offset_of!(Calls, handlers),
        work = const offset_of!(World, work),
        outside = const OUTSIDE,
        inside = const !OUTSIDE,
        softirqs = const percpu::SOFTIRQS,
        fail = const VM_FAIL,
        called = const CALLED,
        call_again = const CALL_AGAIN,
    )
}

/// RBP and RIP of who has called [`switch`], for backtraces, if that has called a handler whose frame begins with `saved`: its RBP and its return
/// address, then what [`exit`] and before it `leave_host` have pushed. The RBP is the guest's.
pub fn caller_of_handler(saved: &[u64; 6]) -> Option<[u64; 2]> {
    unsafe extern "C" {
        static oxen_behind_handler: u8;
    }
    let [_, address, _world, rbp, _rbx, caller] = *saved;
    (address == (&raw const oxen_behind_handler).addr() as u64).then_some([rbp, caller])
}
