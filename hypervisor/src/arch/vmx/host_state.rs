//! The host-state area of a VMCS (SDM 3C 25.5): what an exit loads.
// UNSAFETY: reads descriptor tables.
#![expect(unsafe_code, reason = "reads descriptor tables and MSRs")]

use core::arch::asm;

use x86_64::instructions::tables::{sgdt, sidt};
use x86_64::registers::control::{Cr0, Cr3, Cr4};
use x86_64::registers::model_specific::{Efer, FsBase, GsBase, Msr};
use x86_64::registers::segmentation::{CS, Segment};

use super::entry::World;
use super::field;
use super::vmcs::Current;
use crate::arch::msr_policy::msr;

/// Base of this CPU's TSS: differs between CPUs, and so names them.
fn tss_base(selector: u16) -> u64 {
    let descriptor = sgdt().base + u64::from(selector & !7);
    // SAFETY: the task register holds a selector of the GDT, whose TSS descriptors have 16 bytes (SDM 3A 8.2.3).
    let [low, high] = unsafe { descriptor.as_ptr::<[u64; 2]>().read_unaligned() };
    ((low >> 16) & 0xff_ffff) | ((low >> 56) << 24) | (high << 32)
}

fn task_register() -> u16 {
    let selector: u16;
    // SAFETY: STR only reads.
    unsafe { asm!("str {:x}", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    selector
}

/// Which CPU this is, in this module's terms.
pub fn this_cpu() -> u64 {
    tss_base(task_register())
}

/// Record this CPU's state in the current VMCS, for exits into `world`.
pub fn record(vmcs: Current, world: &World) {
    let tr = task_register();
    vmcs.set(field::HOST_CR0, Cr0::read_raw());
    vmcs.set(field::HOST_CR4, Cr4::read_raw());
    record_page_tables(vmcs);
    vmcs.set(field::HOST_EFER, Efer::read_raw());
    // SAFETY: every 64-bit CPU has a PAT.
    vmcs.set(field::HOST_PAT, unsafe { Msr::new(msr::PAT).read() });
    vmcs.set(field::HOST_CS_SELECTOR, CS::get_reg().0);
    for selector in [
        field::HOST_ES_SELECTOR,
        field::HOST_SS_SELECTOR,
        field::HOST_DS_SELECTOR,
        field::HOST_FS_SELECTOR,
        field::HOST_GS_SELECTOR,
    ] {
        vmcs.set(selector, 0);
    }
    vmcs.set(field::HOST_TR_SELECTOR, tr);
    vmcs.set(field::HOST_TR_BASE, tss_base(tr));
    vmcs.set(field::HOST_FS_BASE, FsBase::read().as_u64());
    vmcs.set(field::HOST_GS_BASE, GsBase::read().as_u64());
    vmcs.set(field::HOST_GDTR_BASE, sgdt().base.as_u64());
    vmcs.set(field::HOST_IDTR_BASE, sidt().base.as_u64());
    // The hypervisor never executes SYSENTER.
    vmcs.set(field::HOST_SYSENTER_CS, 0);
    vmcs.set(field::HOST_SYSENTER_ESP, 0);
    vmcs.set(field::HOST_SYSENTER_EIP, 0);
    vmcs.set(field::HOST_RSP, world.exit_rsp());
    vmcs.set(field::HOST_RIP, world.exit_rip());
}

/// Record what may change between two loads on the same CPU.
pub fn record_page_tables(vmcs: Current) {
    let (frame, flags) = Cr3::read_raw();
    vmcs.set(field::HOST_CR3, frame.start_address().as_u64() | u64::from(flags));
}
