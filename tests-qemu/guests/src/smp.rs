//! A second vCPU.
// UNSAFETY: another vCPU runs on this guest's memory.
#![expect(unsafe_code, reason = "another vCPU runs on this guest's memory")]

use abi::hypercall::HYPERVISOR_VCPU_OP;
use abi::vcpu::{VCPU_HVM_MODE_64B, VCPUOP_INITIALISE, VCPUOP_UP, VcpuHvmContext, VcpuHvmX8664};
use abi::{Errno, Union};
use zerocopy::FromZeros;

use crate::cpu;
use crate::frames::Frames;

/// CR0 of 64-bit mode: PG, WP, NE, ET, MP, PE.
const CR0: u64 = 0x8001_0033;
/// Long mode, enabled and active.
const LONG_MODE: u64 = 0x500;

/// Starts vCPU `vcpu` at `entry`, interrupts off, on this one's page tables and without descriptor tables: an exception or interrupt there ends
/// the guest.
///
/// # Errors
/// The hypervisor's.
pub fn start(vcpu: u32, entry: extern "C" fn() -> !, stack: &'static Frames<4>) -> Result<(), Errno> {
    let registers = VcpuHvmX8664 {
        rip: entry as usize as u64,
        // As after a call (System V ABI, 3.2.2).
        rsp: stack.address() + 4 * 4096 - 8,
        rflags: 2,
        cr0: CR0,
        cr3: cpu::read_cr3(),
        cr4: cpu::read_cr4(),
        efer: LONG_MODE,
        ..FromZeros::new_zeroed()
    };
    let context = VcpuHvmContext {
        mode: VCPU_HVM_MODE_64B,
        pad: 0,
        cpu_regs: Union::of(&registers),
    };
    let on = |sub: u32, argument: u64| {
        // SAFETY: the new vCPU has a stack of its own, and `entry` never returns.
        unsafe { guest_rt::hypercall::raw(HYPERVISOR_VCPU_OP, [sub.into(), vcpu.into(), argument, 0, 0]) }
    };
    on(VCPUOP_INITIALISE, core::ptr::from_ref(&context) as u64)?;
    on(VCPUOP_UP, 0)?;
    Ok(())
}
