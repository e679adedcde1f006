//! Hypercalls: the raw instruction, and typed wrappers by family.
//!
//! `vmcall` or `vmmcall` is chosen by CPU vendor as Linux does. A wrapper is safe to call: every address it passes
//! comes from a reference that outlives the call, and what the hypervisor does to *other* domains is no matter of
//! this guest's memory safety.
// UNSAFETY: the hypercall instruction.
#![expect(unsafe_code, reason = "vmcall/vmmcall; arguments carry addresses")]

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::cpuid::{
    XEN_CPUID_FIRST_LEAF, XEN_CPUID_SIGNATURE_EBX, XEN_CPUID_SIGNATURE_ECX, XEN_CPUID_SIGNATURE_EDX,
};
use abi::{Errno, GuestHandle};

pub mod console;
pub mod domctl;
pub mod event_channel;
pub mod grant;
pub mod hvm;
pub mod memory;
pub mod sched;
pub mod sysctl;
pub mod vcpu;
pub mod version;

/// Whether this CPU's hypercall instruction is AMD's.
static USES_VMMCALL: AtomicBool = AtomicBool::new(false);

/// Chooses the instruction by CPUID vendor: `vmmcall` on AMD and Hygon. Returns whether there is a hypervisor to call:
/// one of Xen's leaves of CPUID says so, which are behind those of another interface that is offered as well.
pub(crate) fn init() -> bool {
    let leaf = core::arch::x86_64::__cpuid(0);
    const AMD: u32 = u32::from_le_bytes(*b"Auth");
    const HYGON: u32 = u32::from_le_bytes(*b"Hygo");
    USES_VMMCALL.store(matches!(leaf.ebx, AMD | HYGON), Ordering::Relaxed);
    const SIGNATURE: [u32; 3] = [
        XEN_CPUID_SIGNATURE_EBX,
        XEN_CPUID_SIGNATURE_ECX,
        XEN_CPUID_SIGNATURE_EDX,
    ];
    (XEN_CPUID_FIRST_LEAF..0x4001_0000).step_by(0x100).any(|base| {
        let leaf = core::arch::x86_64::__cpuid(base);
        [leaf.ebx, leaf.ecx, leaf.edx] == SIGNATURE
    })
}

/// Is this CPU's hypercall instruction `vmmcall`?
pub fn uses_vmmcall() -> bool {
    USES_VMMCALL.load(Ordering::Relaxed)
}

/// Issues hypercall `number`.
///
/// # Errors
/// What the hypervisor returned as a negative number.
///
/// # Safety
/// Guest-virtual addresses among the arguments, or in what they point to, must be those of memory that the
/// operation may read or write as it does.
pub unsafe fn raw(number: u32, arguments: [u64; 5]) -> Result<u64, Errno> {
    let [a1, a2, a3, a4, a5] = arguments;
    let mut rax = u64::from(number);
    macro_rules! issue {
        ($instruction:literal) => {
            // SAFETY: the caller answers for the arguments. The hypervisor changes rax, and its debug builds the
            // argument registers.
            unsafe {
                asm!($instruction, inout("rax") rax, inout("rdi") a1 => _, inout("rsi") a2 => _,
                     inout("rdx") a3 => _, inout("r10") a4 => _, inout("r8") a5 => _, options(nostack))
            }
        };
    }
    if uses_vmmcall() {
        issue!("vmmcall");
    } else {
        issue!("vmcall");
    }
    Errno::decode(rax)
}

/// Issues `number(sub, &mut argument)`.
///
/// # Safety
/// As for [`raw`], for the handles inside the argument.
pub(crate) unsafe fn op<T>(number: u32, sub: u32, argument: &mut T) -> Result<u64, Errno> {
    // SAFETY: the argument itself is exclusively borrowed; the caller answers for its contents.
    unsafe {
        raw(
            number,
            [u64::from(sub), core::ptr::from_mut(argument) as u64, 0, 0, 0],
        )
    }
}

/// Issues `number(&mut argument)`: domctl and sysctl have no sub-operation register.
///
/// # Safety
/// As for [`raw`], for the handles inside the argument.
pub(crate) unsafe fn control<T>(number: u32, argument: &mut T) -> Result<u64, Errno> {
    // SAFETY: as in `op`.
    unsafe { raw(number, [core::ptr::from_mut(argument) as u64, 0, 0, 0, 0]) }
}

/// A handle for a slice that the hypervisor reads.
pub(crate) fn handle<T>(slice: &[T]) -> GuestHandle<T> {
    GuestHandle::new(slice.as_ptr() as u64)
}

/// A handle for a slice that the hypervisor writes.
pub(crate) fn handle_mut<T>(slice: &mut [T]) -> GuestHandle<T> {
    GuestHandle::new(slice.as_mut_ptr() as u64)
}
