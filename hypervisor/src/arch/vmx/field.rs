//! VMCS field encodings (SDM 3D appendix B), typed by width. Pure.

use core::marker::PhantomData;

/// Integer types that a VMCS field can have. Natural-width fields are `u64`: there is no 32-bit hypervisor.
pub trait Width: Copy + Into<u64> {
    /// Bits 14:13 of the encodings of this width; natural width (3) is `u64` as well.
    const CODES: &'static [u32];
    /// The low bits of `raw`: VMREAD zero-extends, so nothing is lost.
    fn truncate(raw: u64) -> Self;
}

macro_rules! width {
    ($t:ty, $codes:expr) => {
        impl Width for $t {
            const CODES: &'static [u32] = $codes;
            #[inline(always)]
            fn truncate(raw: u64) -> Self {
                raw as $t
            }
        }
    };
}
width!(u16, &[0]);
width!(u32, &[2]);
width!(u64, &[1, 3]);

/// The encoding of a VMCS field that holds a `T`.
pub struct Field<T>(u32, PhantomData<T>);

impl<T> Clone for Field<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Field<T> {}

impl<T: Width> Field<T> {
    /// A field by its encoding, which must have `T`'s width.
    const fn new(encoding: u32) -> Field<T> {
        let code = (encoding >> 13) & 3;
        let mut i = 0;
        while i < T::CODES.len() {
            if T::CODES[i] == code {
                return Field(encoding, PhantomData);
            }
            i += 1;
        }
        panic!("VMCS field encoding of another width");
    }

    /// The encoding, as VMREAD and VMWRITE take it.
    pub const fn encoding(self) -> u64 {
        self.0 as u64
    }
}

/// Where exit decoding reads its fields from: the current VMCS, or a table in tests.
pub trait Fields {
    /// The value of `field`.
    fn get<T: Width>(&self, field: Field<T>) -> T;
}

/// The four fields of a segment register.
#[derive(Clone, Copy)]
pub struct SegmentFields {
    /// Selector.
    pub selector: Field<u16>,
    /// Limit in bytes.
    pub limit: Field<u32>,
    /// Access rights (SDM 3C 25.4.1 table 25-2).
    pub rights: Field<u32>,
    /// Base address.
    pub base: Field<u64>,
}

impl SegmentFields {
    /// The fields of a segment register by `number` in the order of the encodings: ES, CS, SS, DS, FS, GS, LDTR, TR.
    const fn new(number: u32) -> SegmentFields {
        SegmentFields {
            selector: Field::new(0x0800 + 2 * number),
            limit: Field::new(0x4800 + 2 * number),
            rights: Field::new(0x4814 + 2 * number),
            base: Field::new(0x6806 + 2 * number),
        }
    }
}

/// ES.
pub const GUEST_ES: SegmentFields = SegmentFields::new(0);
/// CS.
pub const GUEST_CS: SegmentFields = SegmentFields::new(1);
/// SS.
pub const GUEST_SS: SegmentFields = SegmentFields::new(2);
/// DS.
pub const GUEST_DS: SegmentFields = SegmentFields::new(3);
/// FS.
pub const GUEST_FS: SegmentFields = SegmentFields::new(4);
/// GS.
pub const GUEST_GS: SegmentFields = SegmentFields::new(5);
/// LDTR.
pub const GUEST_LDTR: SegmentFields = SegmentFields::new(6);
/// TR.
pub const GUEST_TR: SegmentFields = SegmentFields::new(7);

macro_rules! fields {
    ($($name:ident: $t:ty = $encoding:literal;)*) => {
        $(
            pub const $name: Field<$t> = Field::new($encoding);
        )*
    };
}

fields! {
    // 16-bit control fields (B.1.1)
    VPID: u16 = 0x0000;
    // 16-bit guest-state field (B.1.2)
    GUEST_INTERRUPT_STATUS: u16 = 0x0810;
    // 16-bit host-state fields (B.1.3)
    HOST_ES_SELECTOR: u16 = 0x0c00;
    HOST_CS_SELECTOR: u16 = 0x0c02;
    HOST_SS_SELECTOR: u16 = 0x0c04;
    HOST_DS_SELECTOR: u16 = 0x0c06;
    HOST_FS_SELECTOR: u16 = 0x0c08;
    HOST_GS_SELECTOR: u16 = 0x0c0a;
    HOST_TR_SELECTOR: u16 = 0x0c0c;
    // 64-bit control fields (B.2.1)
    IO_BITMAP_A: u64 = 0x2000;
    IO_BITMAP_B: u64 = 0x2002;
    MSR_BITMAP: u64 = 0x2004;
    ENTRY_MSR_LOAD_ADDRESS: u64 = 0x200a;
    TSC_OFFSET: u64 = 0x2010;
    VIRTUAL_APIC_ADDRESS: u64 = 0x2012;
    APIC_ACCESS_ADDRESS: u64 = 0x2014;
    EPT_POINTER: u64 = 0x201a;
    EOI_EXIT_BITMAP0: u64 = 0x201c;
    EOI_EXIT_BITMAP1: u64 = 0x201e;
    EOI_EXIT_BITMAP2: u64 = 0x2020;
    EOI_EXIT_BITMAP3: u64 = 0x2022;
    TSC_MULTIPLIER: u64 = 0x2032;
    // 64-bit read-only data field (B.2.2)
    GUEST_PHYSICAL_ADDRESS: u64 = 0x2400;
    // 64-bit guest-state fields (B.2.3)
    VMCS_LINK_POINTER: u64 = 0x2800;
    GUEST_DEBUGCTL: u64 = 0x2802;
    GUEST_PAT: u64 = 0x2804;
    GUEST_EFER: u64 = 0x2806;
    GUEST_PDPTE0: u64 = 0x280a;
    GUEST_PDPTE1: u64 = 0x280c;
    GUEST_PDPTE2: u64 = 0x280e;
    GUEST_PDPTE3: u64 = 0x2810;
    // 64-bit host-state fields (B.2.4)
    HOST_PAT: u64 = 0x2c00;
    HOST_EFER: u64 = 0x2c02;
    // 32-bit control fields (B.3.1)
    PIN_CONTROLS: u32 = 0x4000;
    PRIMARY_CONTROLS: u32 = 0x4002;
    EXCEPTION_BITMAP: u32 = 0x4004;
    PAGE_FAULT_ERROR_MASK: u32 = 0x4006;
    PAGE_FAULT_ERROR_MATCH: u32 = 0x4008;
    CR3_TARGET_COUNT: u32 = 0x400a;
    EXIT_CONTROLS: u32 = 0x400c;
    EXIT_MSR_STORE_COUNT: u32 = 0x400e;
    EXIT_MSR_LOAD_COUNT: u32 = 0x4010;
    ENTRY_CONTROLS: u32 = 0x4012;
    ENTRY_MSR_LOAD_COUNT: u32 = 0x4014;
    ENTRY_INTERRUPTION: u32 = 0x4016;
    ENTRY_ERROR_CODE: u32 = 0x4018;
    ENTRY_INSTRUCTION_LEN: u32 = 0x401a;
    TPR_THRESHOLD: u32 = 0x401c;
    SECONDARY_CONTROLS: u32 = 0x401e;
    PLE_GAP: u32 = 0x4020;
    PLE_WINDOW: u32 = 0x4022;
    // 32-bit read-only data fields (B.3.2)
    VM_INSTRUCTION_ERROR: u32 = 0x4400;
    EXIT_REASON: u32 = 0x4402;
    EXIT_INTERRUPTION: u32 = 0x4404;
    EXIT_ERROR_CODE: u32 = 0x4406;
    IDT_VECTORING: u32 = 0x4408;
    IDT_VECTORING_ERROR_CODE: u32 = 0x440a;
    EXIT_INSTRUCTION_LEN: u32 = 0x440c;
    // 32-bit guest-state fields (B.3.3)
    GUEST_GDTR_LIMIT: u32 = 0x4810;
    GUEST_IDTR_LIMIT: u32 = 0x4812;
    GUEST_INTERRUPTIBILITY: u32 = 0x4824;
    GUEST_ACTIVITY: u32 = 0x4826;
    GUEST_SYSENTER_CS: u32 = 0x482a;
    PREEMPTION_TIMER: u32 = 0x482e;
    // 32-bit host-state field (B.3.4)
    HOST_SYSENTER_CS: u32 = 0x4c00;
    // natural-width control fields (B.4.1)
    CR0_MASK: u64 = 0x6000;
    CR4_MASK: u64 = 0x6002;
    CR0_SHADOW: u64 = 0x6004;
    CR4_SHADOW: u64 = 0x6006;
    // natural-width read-only data fields (B.4.2)
    EXIT_QUALIFICATION: u64 = 0x6400;
    GUEST_LINEAR_ADDRESS: u64 = 0x640a;
    // natural-width guest-state fields (B.4.3)
    GUEST_CR0: u64 = 0x6800;
    GUEST_CR3: u64 = 0x6802;
    GUEST_CR4: u64 = 0x6804;
    GUEST_GDTR_BASE: u64 = 0x6816;
    GUEST_IDTR_BASE: u64 = 0x6818;
    GUEST_DR7: u64 = 0x681a;
    GUEST_RSP: u64 = 0x681c;
    GUEST_RIP: u64 = 0x681e;
    GUEST_RFLAGS: u64 = 0x6820;
    GUEST_PENDING_DEBUG: u64 = 0x6822;
    GUEST_SYSENTER_ESP: u64 = 0x6824;
    GUEST_SYSENTER_EIP: u64 = 0x6826;
    // natural-width host-state fields (B.4.4)
    HOST_CR0: u64 = 0x6c00;
    HOST_CR3: u64 = 0x6c02;
    HOST_CR4: u64 = 0x6c04;
    HOST_FS_BASE: u64 = 0x6c06;
    HOST_GS_BASE: u64 = 0x6c08;
    HOST_TR_BASE: u64 = 0x6c0a;
    HOST_GDTR_BASE: u64 = 0x6c0c;
    HOST_IDTR_BASE: u64 = 0x6c0e;
    HOST_SYSENTER_ESP: u64 = 0x6c10;
    HOST_SYSENTER_EIP: u64 = 0x6c12;
    HOST_RSP: u64 = 0x6c14;
    HOST_RIP: u64 = 0x6c16;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Widths are checked when the constants are built; here the type of the field (bits 11:10, table 25-21).
    #[test]
    fn field_types() {
        let kind = |e: u64| (e >> 10) & 3;
        assert_eq!(kind(EPT_POINTER.encoding()), 0);
        assert_eq!(kind(EXIT_REASON.encoding()), 1);
        assert_eq!(kind(GUEST_TR.base.encoding()), 2);
        assert_eq!(kind(HOST_RIP.encoding()), 3);
    }

    #[test]
    fn segment_fields_follow_the_table() {
        assert_eq!(GUEST_TR.selector.encoding(), 0x080e);
        assert_eq!(GUEST_TR.limit.encoding(), 0x480e);
        assert_eq!(GUEST_TR.rights.encoding(), 0x4822);
        assert_eq!(GUEST_TR.base.encoding(), 0x6814);
        assert_eq!(GUEST_CS.rights.encoding(), 0x4816);
    }
}
