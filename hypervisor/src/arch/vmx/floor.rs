//! The floor under every exit: a world switch and nothing else, to compare exit handling with (`bench=floor`).
// UNSAFETY: enters a guest.
#![expect(unsafe_code, reason = "enters a guest")]

use super::entry::{self, How};
use super::exit::{Guest, decode, reason};
use super::field::{self, Fields};
use super::vcpu::Vcpu;
use super::vmcs::Current;
use crate::arch::{CpuMode, Exit, GuestCpu};

/// For [`measure`](crate::arch::floor::measure): all general registers loaded and saved, the exit reason read, RIP advanced by the
/// instruction's length.
///
/// # Errors
/// The guest left for another reason than VMCALL.
pub fn bare_round_trips(vcpu: &mut Vcpu, count: u32) -> Result<(), Exit> {
    if !vcpu.world.work.is_empty() {
        // SAFETY: `measure` has loaded the vCPU, and calls with interrupts off; there are no `Calls`.
        let _by_launch = unsafe { Vcpu::run(vcpu) };
    }
    vcpu.current()
        .set(field::HOST_RIP, entry::plain_exit as *const () as u64);
    for _ in 0..count {
        // SAFETY: as above.
        let (exit_reason, vmcs) =
            unsafe { (entry::switch(&raw mut *vcpu.world, How::Resume), Current::new()) };
        if exit_reason != u32::from(reason::VMCALL) {
            return Err(decode(exit_reason, &vmcs, || Guest {
                gprs: &vcpu.world.gprs,
                mode: CpuMode::Protected32,
            }));
        }
        let len = vmcs.get(field::EXIT_INSTRUCTION_LEN);
        vmcs.set(field::GUEST_RIP, vmcs.get(field::GUEST_RIP) + u64::from(len));
    }
    Ok(())
}
