//! The floor under every exit: a world switch and nothing else, to compare exit handling with (`bench=floor`).
// UNSAFETY: enters a guest.
#![expect(unsafe_code, reason = "enters a guest")]

use super::entry;
use super::exit::{Guest, decode, reason};
use super::field::{self, Fields};
use super::vcpu::Vcpu;
use super::vmcs::Current;
use crate::arch::{CpuMode, Exit};

/// For [`measure`](crate::arch::floor::measure), on a loaded vCPU: all general registers loaded and saved, the exit reason read, RIP
/// advanced by the instruction's length.
#[inline(always)]
pub fn bare_round_trip(vcpu: &mut Vcpu) -> Exit {
    debug_assert!(vcpu.loaded);
    // SAFETY: loaded, and interrupts are off, by the contract of `run`.
    let (exit_reason, vmcs) = unsafe { (entry::switch(&mut vcpu.world, vcpu.launched), Current::new()) };
    if exit_reason != u32::from(reason::VMCALL) {
        return decode(exit_reason, &vmcs, || Guest {
            gprs: &vcpu.world.gprs,
            mode: CpuMode::Protected32,
        });
    }
    let len = vmcs.get(field::EXIT_INSTRUCTION_LEN);
    vmcs.set(field::GUEST_RIP, vmcs.get(field::GUEST_RIP) + u64::from(len));
    Exit::Hypercall
}
