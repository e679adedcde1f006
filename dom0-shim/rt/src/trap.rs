//! Exceptions and interrupts: IDT, a common stub, and one hook for guests that expect exceptions.
// UNSAFETY: loads the IDT; its stubs hand a pointer to the saved frame to Rust.
#![expect(unsafe_code, reason = "IDT and trap stubs")]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicPtr, Ordering};

use spin::Once;

use crate::{event, interrupt};

/// Registers saved by the stub, in memory order.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "fields are the registers they are named after")]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    /// Vector number, 0..=255.
    pub vector: u64,
    /// Error code; 0 where the vector has none.
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// What a [`Hook`] made of a trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Resume the guest with the (possibly changed) frame.
    Resume,
    /// Not expected: the runtime prints the frame and ends the guest.
    Unexpected,
}

/// Called for every vector but the event-channel upcall.
pub type Hook = fn(&mut TrapFrame) -> Verdict;

/// The hook as a raw pointer; null = none.
static HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Installs the function that sees every trap first.
pub fn set_hook(hook: Hook) {
    HOOK.store(hook as *mut (), Ordering::Relaxed);
}

global_asm!(
    r#"
    .pushsection .text.trap, "ax"
    .balign 16
    .globl trap_stubs
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if vector > 31
    pushq   $0
    .elseif ((0x60227d00 >> vector) & 1) == 0   /* 8, 10-14, 17, 21, 29, 30 push an error code */
    pushq   $0
    .endif
    pushq   $vector
    jmp     trap_common
    .set vector, vector + 1
    .endr

trap_common:
    pushq %rax; pushq %rbx; pushq %rcx; pushq %rdx; pushq %rsi; pushq %rdi; pushq %rbp
    pushq %r8; pushq %r9; pushq %r10; pushq %r11; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    cld
    movq    %rsp, %rdi
    movq    %rsp, %rbx
    andq    $-16, %rsp
    call    {dispatch}
    movq    %rbx, %rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %r11; popq %r10; popq %r9; popq %r8
    popq %rbp; popq %rdi; popq %rsi; popq %rdx; popq %rcx; popq %rbx; popq %rax
    addq    $16, %rsp                           /* vector, error code */
    iretq
    .popsection
    "#,
    dispatch = sym dispatch,
    options(att_syntax)
);

/// One 64-bit interrupt gate (SDM 3A 6.14.1).
#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    low: u64,
    high: u64,
}

/// Bytes from one stub to the next.
const STUB_SIZE: u64 = 16;

static IDT: Once<[Gate; 256]> = Once::new();

/// Builds and loads the IDT.
pub(crate) fn init() {
    unsafe extern "C" {
        static trap_stubs: u8;
    }
    let stubs = &raw const trap_stubs as u64;
    let idt = IDT.call_once(|| {
        core::array::from_fn(|vector| {
            let target = stubs + vector as u64 * STUB_SIZE;
            const CODE_SELECTOR: u64 = 8 << 16;
            const PRESENT_INTERRUPT_GATE: u64 = 0x8e << 40;
            Gate {
                low: (target & 0xffff)
                    | CODE_SELECTOR
                    | PRESENT_INTERRUPT_GATE
                    | (target >> 16 & 0xffff) << 48,
                high: target >> 32,
            }
        })
    });
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    let pointer = Pointer {
        limit: (size_of_val(idt) - 1) as u16,
        base: idt.as_ptr() as u64,
    };
    // SAFETY: `idt` is static, every gate leads to a stub that saves and restores all registers.
    unsafe { asm!("lidt [{}]", in(reg) &pointer, options(readonly, nostack, preserves_flags)) }
}

/// Called by the stubs with the saved registers.
extern "C" fn dispatch(frame: &mut TrapFrame) {
    if frame.vector == u64::from(event::UPCALL_VECTOR) {
        return event::acknowledge();
    }
    if let Ok(vector) = u8::try_from(frame.vector)
        && interrupt::VECTORS.contains(&vector)
        && interrupt::is_enabled()
    {
        return interrupt::note(vector);
    }
    let hook = HOOK.load(Ordering::Relaxed);
    if !hook.is_null() {
        // SAFETY: the only non-null values stored in HOOK are `Hook` function pointers.
        let hook = unsafe { core::mem::transmute::<*mut (), Hook>(hook) };
        if hook(frame) == Verdict::Resume {
            return;
        }
    }
    let cr2: u64;
    // SAFETY: reading CR2 has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack, preserves_flags)) }
    panic!(
        "unexpected trap {} error {:#x} at {:#x} cr2 {cr2:#x}\n{frame:#x?}",
        frame.vector, frame.error, frame.rip
    );
}
