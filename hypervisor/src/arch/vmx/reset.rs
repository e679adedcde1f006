//! A VMCS as it begins: controls, and a guest CPU after reset (SDM 3A table 10-1).

use super::caps::Caps;
use super::controls::Secondary;
use super::field::{self, SegmentFields};
use super::vmcs::Current;
use crate::types::Hpa;

/// Pages that the VMCS points to.
pub struct Pages {
    /// I/O bitmap, two pages.
    pub io_bitmap: Hpa,
    /// MSR bitmap.
    pub msr_bitmap: Hpa,
    /// Virtual-APIC page.
    pub virtual_apic: Hpa,
    /// APIC-access page.
    pub apic_access: Hpa,
    /// What entries load MSRs from: one.
    pub entry_msrs: Option<Hpa>,
    /// EPT pointer.
    pub ept_pointer: u64,
}

/// #DB and #AC, which a guest can make recur for ever within their own delivery, and #MC, which is the host's.
const INTERCEPTED_EXCEPTIONS: u32 = 1 << 1 | 1 << 17 | 1 << 18;

/// CR0 bits that are ours: NE, which VMX operation demands, and CD and NW, which exits do not switch (SDM 3C 28.5.1).
pub const CR0_OWNED: u64 = NE | NW | CD;
/// Numeric error.
pub const NE: u64 = 1 << 5;
/// Extension type, always 1.
pub const ET: u64 = 1 << 4;
/// Not write-through.
pub const NW: u64 = 1 << 29;
/// Cache disable.
pub const CD: u64 = 1 << 30;

/// Machine-check exceptions. Ours: while it is clear a machine check shuts the whole machine down.
pub const MCE: u64 = 1 << 6;
/// VMX.
pub const VMXE: u64 = 1 << 13;
/// CR4 bits that a guest changes without an exit: VME, PVI, TSD, DE, PSE, PAE, PGE, PCE, OSFXSR, OSXMMEXCPT, UMIP, FSGSBASE, PCIDE, OSXSAVE,
/// SMEP, SMAP. Features that are not here may need state switched before a guest can have them.
pub const CR4_GUESTS: u64 = 0x0037_0fbf;

/// PAUSE-loop exiting: PAUSEs nearer than GAP ticks are one loop; one longer than WINDOW exits.
const PLE_GAP: u32 = 128;
const PLE_WINDOW: u32 = 4096;

/// Controls and the fields that they give a meaning. `secondary` are the secondary controls.
pub fn controls(vmcs: Current, caps: &Caps, primary: u32, secondary: Secondary, pages: &Pages, vpid: u16) {
    if secondary.contains(Secondary::VPID) {
        vmcs.set(field::VPID, vpid);
    }
    if caps.virtual_apic {
        vmcs.set(field::APIC_ACCESS_ADDRESS, pages.apic_access.0);
        vmcs.set(field::GUEST_INTERRUPT_STATUS, 0);
        super::virtual_apic::EOI_EXIT_BITMAPS
            .into_iter()
            .for_each(|bitmap| vmcs.set(bitmap, 0));
    }
    vmcs.set(field::PIN_CONTROLS, caps.pin);
    vmcs.set(field::PRIMARY_CONTROLS, primary);
    vmcs.set(field::SECONDARY_CONTROLS, secondary.bits());
    vmcs.set(field::EXIT_CONTROLS, caps.exit);
    vmcs.set(field::ENTRY_CONTROLS, caps.entry);
    vmcs.set(field::EXCEPTION_BITMAP, INTERCEPTED_EXCEPTIONS);
    for zero in [
        field::PAGE_FAULT_ERROR_MASK,
        field::PAGE_FAULT_ERROR_MATCH,
        field::CR3_TARGET_COUNT,
        field::EXIT_MSR_STORE_COUNT,
        field::EXIT_MSR_LOAD_COUNT,
        field::ENTRY_MSR_LOAD_COUNT,
        field::ENTRY_INTERRUPTION,
        field::TPR_THRESHOLD,
    ] {
        vmcs.set(zero, 0);
    }
    if let Some(list) = pages.entry_msrs {
        vmcs.set(field::ENTRY_MSR_LOAD_ADDRESS, list.0);
        vmcs.set(field::ENTRY_MSR_LOAD_COUNT, 1);
    }
    vmcs.set(field::IO_BITMAP_A, pages.io_bitmap.0);
    vmcs.set(field::IO_BITMAP_B, pages.io_bitmap.0 + 0x1000);
    vmcs.set(field::MSR_BITMAP, pages.msr_bitmap.0);
    vmcs.set(field::VIRTUAL_APIC_ADDRESS, pages.virtual_apic.0);
    vmcs.set(field::EPT_POINTER, pages.ept_pointer);
    vmcs.set(field::TSC_OFFSET, 0);
    if secondary.contains(Secondary::TSC_SCALING) {
        vmcs.set(field::TSC_MULTIPLIER, crate::arch::TSC_MULTIPLIER_ONE);
    }
    vmcs.set(field::VMCS_LINK_POINTER, u64::MAX);
    if secondary.contains(Secondary::PAUSE_LOOP) {
        vmcs.set(field::PLE_GAP, PLE_GAP);
        vmcs.set(field::PLE_WINDOW, PLE_WINDOW);
    }
    vmcs.set(field::CR0_MASK, CR0_OWNED);
    vmcs.set(field::CR4_MASK, !CR4_GUESTS);
}

/// The guest CPU.
pub fn guest(vmcs: Current) {
    const DATA: u32 = 0x93;
    const CODE: u32 = 0x9b;
    const LDT: u32 = 0x82;
    const BUSY_TSS: u32 = 0x8b;
    const PAT: u64 = 0x0007_0406_0007_0406;

    let segment = |fields: SegmentFields, selector: u16, base: u64, rights: u32| {
        vmcs.set(fields.selector, selector);
        vmcs.set(fields.base, base);
        vmcs.set(fields.limit, 0xffff);
        vmcs.set(fields.rights, rights);
    };
    segment(field::GUEST_CS, 0xf000, 0xffff_0000, CODE);
    for fields in [
        field::GUEST_ES,
        field::GUEST_SS,
        field::GUEST_DS,
        field::GUEST_FS,
        field::GUEST_GS,
    ] {
        segment(fields, 0, 0, DATA);
    }
    segment(field::GUEST_LDTR, 0, 0, LDT);
    segment(field::GUEST_TR, 0, 0, BUSY_TSS);
    vmcs.set(field::GUEST_GDTR_LIMIT, 0xffff);
    vmcs.set(field::GUEST_IDTR_LIMIT, 0xffff);
    for zero in [
        field::GUEST_GDTR_BASE,
        field::GUEST_IDTR_BASE,
        field::GUEST_CR3,
        field::GUEST_RSP,
        field::GUEST_PENDING_DEBUG,
        field::GUEST_SYSENTER_ESP,
        field::GUEST_SYSENTER_EIP,
        field::GUEST_EFER,
        field::GUEST_DEBUGCTL,
        field::CR4_SHADOW,
    ] {
        vmcs.set(zero, 0);
    }
    for zero in [
        field::GUEST_SYSENTER_CS,
        field::GUEST_INTERRUPTIBILITY,
        field::GUEST_ACTIVITY,
    ] {
        vmcs.set(zero, 0);
    }
    vmcs.set(field::GUEST_CR0, NE | ET);
    vmcs.set(field::CR0_SHADOW, CD | NW | ET);
    vmcs.set(field::GUEST_CR4, VMXE | MCE);
    vmcs.set(field::GUEST_DR7, 0x400);
    vmcs.set(field::GUEST_RFLAGS, 2);
    vmcs.set(field::GUEST_RIP, 0xfff0);
    vmcs.set(field::GUEST_PAT, PAT);
}
