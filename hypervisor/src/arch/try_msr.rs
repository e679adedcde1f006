//! Reading model-specific registers that may not exist, and writing those that may not take it.
// UNSAFETY: RDMSR and WRMSR with a way out of their #GP.
#![expect(unsafe_code, reason = "RDMSR and WRMSR with a way out of their #GP")]

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
    ".global try_wrmsr, try_wrmsr_at, try_wrmsr_refused",
    "try_wrmsr:",
    "mov ecx, edi",
    "mov eax, esi",
    "mov rdx, rsi",
    "shr rdx, 32",
    "try_wrmsr_at:",
    "wrmsr",
    "mov eax, 1",
    "ret",
    "try_wrmsr_refused:",
    "xor eax, eax",
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
    fn try_wrmsr(register: u32, value: u64) -> u64;
    static try_wrmsr_at: u8;
    static try_wrmsr_refused: u8;
}

/// Value of a register, reading which has no effect; `None`: this CPU has no such register. Once the host's exception handlers are there.
pub fn read(register: u32) -> Option<u64> {
    // SAFETY: reads have no effect, and the handler of #GP asks `resume_after`.
    let tried = unsafe { try_rdmsr(register) };
    (tried.exists != 0).then_some(tried.value)
}

/// Write a register; one that does not take the value, as a hypervisor below may decide, stays as it is: `false`.
///
/// # Safety
/// Nothing that runs here minds the value.
pub unsafe fn write(register: u32, value: u64) -> bool {
    // SAFETY: the caller's; the handler of #GP asks `resume_after`.
    unsafe { try_wrmsr(register, value) != 0 }
}

/// Clear and set bits of a register, if it is there and does not have them so.
///
/// # Safety
/// Nothing that runs here minds these bits, and reading the register has no effect.
pub unsafe fn change(register: u32, clear: u64, set: u64) {
    if let Some(value) = read(register)
        && let changed = value & !clear | set
        && value != changed
    {
        // SAFETY: the caller's.
        unsafe { write(register, changed) };
    }
}

/// Where to go on after #GP at `rip`, if that is [`read`]'s or [`write`]'s.
pub fn resume_after(rip: u64) -> Option<u64> {
    let ways = [
        (&raw const try_rdmsr_at, &raw const try_rdmsr_refused),
        (&raw const try_wrmsr_at, &raw const try_wrmsr_refused),
    ];
    let way = ways.into_iter().find(|(at, _)| rip == *at as u64);
    way.map(|(_, refused)| refused as u64)
}
