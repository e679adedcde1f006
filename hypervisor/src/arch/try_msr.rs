//! Reading model-specific registers that may not exist.
// UNSAFETY: RDMSR with a way out of its #GP.
#![expect(unsafe_code, reason = "RDMSR with a way out of its #GP")]

use core::arch::global_asm;

global_asm!(
    ".pushsection .text.try_rdmsr, \"ax\"",
    ".global try_rdmsr, try_rdmsr_at, try_rdmsr_refused",
    "try_rdmsr:",
    "mov ecx, edi",
    "try_rdmsr_at:",
    "rdmsr",
    "shl rdx, 32",
    "or rax, rdx",
    "mov edx, 1",
    "ret",
    "try_rdmsr_refused:",
    "xor edx, edx",
    "ret",
    ".popsection",
);

/// What `try_rdmsr` returns, in RAX and RDX.
#[repr(C)]
struct Tried {
    value: u64,
    exists: u64,
}

unsafe extern "C" {
    fn try_rdmsr(register: u32) -> Tried;
    static try_rdmsr_at: u8;
    static try_rdmsr_refused: u8;
}

/// Value of a register, reading which has no effect; `None`: this CPU has no such register. Once the host's exception handlers are there.
pub fn read(register: u32) -> Option<u64> {
    // SAFETY: reads have no effect, and the handler of #GP asks `resume_after`.
    let tried = unsafe { try_rdmsr(register) };
    (tried.exists != 0).then_some(tried.value)
}

/// Where to go on after #GP at `rip`, if that is [`read`]'s.
pub fn resume_after(rip: u64) -> Option<u64> {
    (rip == (&raw const try_rdmsr_at) as u64).then_some((&raw const try_rdmsr_refused) as u64)
}
