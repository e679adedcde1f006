//! The VMX instructions (SDM 3C chapter 31).
// UNSAFETY: VMX instructions.
#![expect(unsafe_code, reason = "VMX instructions")]

use core::arch::asm;

use super::caps::Scope;
use super::field::{Field, Fields, Width};
use crate::types::Hpa;

/// The VMCS that is current on this CPU.
///
/// Having one tells you that there is one, and that it stays current for as long as you have this.
#[derive(Clone, Copy)]
pub struct Current(());

impl Current {
    /// # Safety
    /// A VMCS is current on this CPU, and no other is made current while the value lives.
    #[inline(always)]
    pub const unsafe fn new() -> Current {
        Current(())
    }

    /// Write `field`, which must exist on this CPU.
    #[inline(always)]
    pub fn set<T: Width>(self, field: Field<T>, value: T) {
        let encoding = field.encoding();
        if cfg!(debug_assertions) {
            let failed: u8;
            // SAFETY: as below.
            unsafe {
                asm!("vmwrite {}, {}", "setbe {}", in(reg) encoding, in(reg) value.into(),
                    lateout(reg_byte) failed, options(nostack));
            }
            assert!(failed == 0, "VMWRITE {encoding:#x}");
            return;
        }
        // SAFETY: there is a current VMCS (`Current`). What a field means for memory safety is upheld where it is written: host state
        // and addresses of pages only by `host_state`, `reset` and `vcpu`. Not `nomem`, so that it keeps its order with `get`.
        unsafe {
            asm!("vmwrite {}, {}", in(reg) encoding, in(reg) value.into(), options(nostack));
        }
    }

    /// Add to a field: as [`Fields::get`] and [`Current::set`], and an instruction less.
    #[inline(always)]
    pub fn add(self, field: Field<u64>, value: u64) {
        // SAFETY: as in `set`.
        unsafe {
            asm!("vmread {sum}, {field}", "add {sum}, {value}", "vmwrite {field}, {sum}", field = in(reg) field.encoding(),
                value = in(reg) value, sum = out(reg) _, options(nostack));
        }
    }
}

impl Fields for Current {
    /// Read `field`, which must exist on this CPU.
    #[inline(always)]
    fn get<T: Width>(&self, field: Field<T>) -> T {
        let value: u64;
        // SAFETY: there is a current VMCS (`Current`). Declared as a pure read of memory, so that a value that nobody needs is not read,
        // nor one read twice between two writes.
        unsafe {
            asm!("vmread {value}, {field}", field = in(reg) field.encoding(), value = lateout(reg) value,
                options(pure, readonly, nostack));
        }
        T::truncate(value)
    }
}

/// The VMX instruction failed: RFLAGS.CF (no current VMCS) or ZF (with an error number).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failed;

fn check(failed: u8) -> Result<(), Failed> {
    if failed == 0 { Ok(()) } else { Err(Failed) }
}

/// Enter VMX operation.
///
/// # Safety
/// CR0 and CR4 are as VMX operation demands, and `region` is a page with the revision identifier, given to the CPU for good.
pub unsafe fn vmxon(region: Hpa) -> Result<(), Failed> {
    let failed: u8;
    // SAFETY: the caller's.
    unsafe { asm!("vmxon [{}]", "setbe {}", in(reg) &region.0, lateout(reg_byte) failed, options(nostack)) };
    check(failed)
}

/// Leave VMX operation.
///
/// # Safety
/// This CPU is in VMX operation.
pub unsafe fn vmxoff() {
    // SAFETY: the caller's; it can only fail where SMM is treated apart, which nobody has asked for.
    unsafe { asm!("vmxoff", options(nostack)) };
}

/// Make the VMCS at `vmcs` current.
///
/// # Safety
/// This CPU is in VMX operation; `vmcs` is a VMCS that is active on no other CPU.
pub unsafe fn vmptrld(vmcs: Hpa) -> Result<(), Failed> {
    let failed: u8;
    // SAFETY: the caller's.
    unsafe { asm!("vmptrld [{}]", "setbe {}", in(reg) &vmcs.0, lateout(reg_byte) failed, options(nostack)) };
    check(failed)
}

/// The current VMCS; `None`: there is none.
///
/// # Safety
/// This CPU is in VMX operation.
pub unsafe fn vmptrst() -> Option<Hpa> {
    let mut vmcs = 0u64;
    // SAFETY: the caller's; it stores 8 bytes.
    unsafe { asm!("vmptrst [{}]", in(reg) &raw mut vmcs, options(nostack)) };
    (vmcs != u64::MAX).then_some(Hpa(vmcs))
}

/// Write the VMCS at `vmcs` back to memory; it is then not current, not active and not launched.
///
/// # Safety
/// This CPU is in VMX operation; `vmcs` is a VMCS, or a page to become one.
pub unsafe fn vmclear(vmcs: Hpa) -> Result<(), Failed> {
    let failed: u8;
    // SAFETY: the caller's.
    unsafe { asm!("vmclear [{}]", "setbe {}", in(reg) &vmcs.0, lateout(reg_byte) failed, options(nostack)) };
    check(failed)
}

/// Forget guest-physical and combined translations, of `ept_pointer` if `scope` is `Single`.
pub fn invept(scope: Scope, ept_pointer: u64) {
    let descriptor = match scope {
        Scope::Single => [ept_pointer, 0],
        Scope::All => [0, 0],
    };
    // SAFETY: forgetting translations is always sound.
    unsafe {
        asm!("invept {}, [{}]", in(reg) kind(scope), in(reg) &descriptor, options(readonly, nostack));
    }
}

/// Forget linear and combined translations, of `vpid` if `scope` is `Single`.
pub fn invvpid(scope: Scope, vpid: u16) {
    let descriptor = match scope {
        Scope::Single => [u64::from(vpid), 0],
        Scope::All => [0, 0],
    };
    // SAFETY: forgetting translations is always sound.
    unsafe {
        asm!("invvpid {}, [{}]", in(reg) kind(scope), in(reg) &descriptor, options(readonly, nostack));
    }
}

/// INVEPT and INVVPID types (SDM 3C 31.3): both number these two alike.
fn kind(scope: Scope) -> u64 {
    match scope {
        Scope::Single => 1,
        Scope::All => 2,
    }
}
