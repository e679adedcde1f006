//! VM-execution, VM-exit and VM-entry controls: their bits (SDM 3C 25.6 to 25.8) and the choice of a setting that the
//! CPU allows (SDM 3D appendix A.2 to A.5). Pure.

use bitflags::bitflags;

bitflags! {
    /// Pin-based VM-execution controls (SDM 3C 25.6.1).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Pin: u32 {
        /// External interrupts cause exits.
        const EXTERNAL_INTERRUPT = 1 << 0;
        /// NMIs cause exits.
        const NMI = 1 << 3;
        /// NMI blocking is the guest's own.
        const VIRTUAL_NMIS = 1 << 5;
        /// The VMX-preemption timer counts down in the guest.
        const PREEMPTION_TIMER = 1 << 6;
        /// Bits that must be 1 unless the CPU says otherwise (A.3.1).
        const DEFAULT1 = 0x16;
    }

    /// Primary processor-based VM-execution controls (SDM 3C 25.6.2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Primary: u32 {
        /// Exit when the guest can take an interrupt.
        const INTERRUPT_WINDOW = 1 << 2;
        /// The guest's TSC has an offset.
        const TSC_OFFSET = 1 << 3;
        /// HLT exits.
        const HLT = 1 << 7;
        /// MWAIT exits.
        const MWAIT = 1 << 10;
        /// RDPMC exits.
        const RDPMC = 1 << 11;
        /// RDTSC and RDTSCP exit.
        const RDTSC = 1 << 12;
        /// MOV to CR3 exits.
        const CR3_LOAD = 1 << 15;
        /// MOV from CR3 exits.
        const CR3_STORE = 1 << 16;
        /// CR8 is in the virtual-APIC page.
        const TPR_SHADOW = 1 << 21;
        /// Exit when the guest can take an NMI.
        const NMI_WINDOW = 1 << 22;
        /// The I/O bitmaps decide on ports.
        const IO_BITMAPS = 1 << 25;
        /// The MSR bitmap decides on MSRs.
        const MSR_BITMAP = 1 << 28;
        /// MONITOR exits.
        const MONITOR = 1 << 29;
        /// The secondary controls count.
        const SECONDARY = 1 << 31;
        /// Bits that must be 1 unless the CPU says otherwise (A.3.2).
        const DEFAULT1 = 0x0401_e172;
    }

    /// Secondary processor-based VM-execution controls (SDM 3C 25.6.2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Secondary: u32 {
        /// Loads and stores in the APIC-access page are the virtual-APIC page's.
        const APIC_ACCESSES = 1 << 0;
        /// Extended page tables.
        const EPT = 1 << 1;
        /// RDTSCP works.
        const RDTSCP = 1 << 3;
        /// The x2APIC's MSRs are the virtual-APIC page's. Not along with APIC_ACCESSES.
        const X2APIC_MODE = 1 << 4;
        /// Translations are tagged.
        const VPID = 1 << 5;
        /// WBINVD exits.
        const WBINVD = 1 << 6;
        /// Real mode and unpaged protected mode run natively.
        const UNRESTRICTED_GUEST = 1 << 7;
        /// Most reads of the local APIC's registers do not exit, and most writes after they are done.
        const APIC_REGISTERS = 1 << 8;
        /// Interrupts in IRR are delivered without an exit.
        const INTERRUPT_DELIVERY = 1 << 9;
        /// A tight loop of PAUSE exits.
        const PAUSE_LOOP = 1 << 10;
        /// INVPCID works.
        const INVPCID = 1 << 12;
        /// XSAVES and XRSTORS work.
        const XSAVES = 1 << 20;
        /// The TSC is multiplied before the offset is added.
        const TSC_SCALING = 1 << 25;
    }

    /// VM-exit controls (SDM 3C 25.7.1).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct ExitControls: u32 {
        /// Save DR7 and DEBUGCTL.
        const SAVE_DEBUG = 1 << 2;
        /// The host is 64-bit.
        const HOST_LONG_MODE = 1 << 9;
        /// The exit acknowledges the interrupt that caused it and tells its vector.
        const ACKNOWLEDGE_INTERRUPT = 1 << 15;
        /// Save the guest's PAT.
        const SAVE_PAT = 1 << 18;
        /// Load the host's PAT.
        const LOAD_PAT = 1 << 19;
        /// Save the guest's EFER.
        const SAVE_EFER = 1 << 20;
        /// Load the host's EFER.
        const LOAD_EFER = 1 << 21;
        /// Save what is left of the preemption timer.
        const SAVE_PREEMPTION_TIMER = 1 << 22;
        /// Bits that must be 1 unless the CPU says otherwise (A.4).
        const DEFAULT1 = 0x0003_6dff;
    }

    /// VM-entry controls (SDM 3C 25.8.1).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct EntryControls: u32 {
        /// Load DR7 and DEBUGCTL.
        const LOAD_DEBUG = 1 << 2;
        /// The guest is in IA-32e mode: EFER.LMA.
        const LONG_MODE = 1 << 9;
        /// Load the guest's PAT.
        const LOAD_PAT = 1 << 14;
        /// Load the guest's EFER.
        const LOAD_EFER = 1 << 15;
        /// Bits that must be 1 unless the CPU says otherwise (A.5).
        const DEFAULT1 = 0x0000_11ff;
    }
}

/// What we want of one control field.
#[derive(Clone, Copy)]
pub struct Wish {
    /// Must be 1.
    pub required: u32,
    /// 1 where the CPU can.
    pub optional: u32,
    /// Must be 0.
    pub forbidden: u32,
    /// The reserved bits that default to 1 (appendix A.2).
    pub default1: u32,
}

/// The control bits that the CPU cannot set as required.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// Required, but must be 0.
    pub missing: u32,
    /// Forbidden, but must be 1.
    pub forced: u32,
}

/// The setting nearest to `wish` that a CPU with this capability MSR allows: the low half names the bits that must be 1,
/// the high half those that may be 1 (SDM 3D appendix A.3.1). `msr` is the "true" capability MSR where the CPU has it.
///
/// # Errors
/// What stands against the wish.
pub const fn fix(wish: Wish, msr: u64) -> Result<u32, Conflict> {
    let (must, may) = (msr as u32, (msr >> 32) as u32);
    // A bit that we know nothing about keeps its default (algorithm 3 of 32.5.1).
    let unknown = wish.default1 & !(wish.required | wish.optional | wish.forbidden);
    let value = must | ((wish.required | wish.optional | unknown) & may);
    let conflict = Conflict {
        missing: wish.required & !may,
        forced: wish.forbidden & must,
    };
    if conflict.missing | conflict.forced != 0 {
        return Err(conflict);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WISH: Wish = Wish {
        required: 0b0001,
        optional: 0b0110,
        forbidden: 0b1000,
        default1: 0b11_1000,
    };

    #[test]
    fn takes_optional_bits_only_where_allowed() {
        assert_eq!(fix(WISH, 0b0011_0011_u64 << 32), Ok(0b11_0011));
        assert_eq!(fix(WISH, 0b1111_1111_u64 << 32), Ok(0b11_0111));
    }

    #[test]
    fn names_the_conflicts() {
        assert_eq!(
            fix(WISH, 0b1110_u64 << 32),
            Err(Conflict {
                missing: 1,
                forced: 0
            })
        );
        assert_eq!(
            fix(WISH, (0xff_u64 << 32) | 0b1000),
            Err(Conflict {
                missing: 0,
                forced: 0b1000
            })
        );
    }

    proptest! {
        /// Whatever comes out is enterable: all of must, none outside of may.
        #[test]
        fn result_is_always_allowed(required: u32, optional: u32, default1: u32, must: u32, may: u32) {
            let msr = (u64::from(may | must) << 32) | u64::from(must);
            let wish = Wish { required, optional, forbidden: 0, default1 };
            if let Ok(value) = fix(wish, msr) {
                prop_assert_eq!(value & must, must);
                prop_assert_eq!(value & !(may | must), 0);
                prop_assert_eq!(value & required, required);
            } else {
                prop_assert_ne!(required & !(may | must), 0);
            }
        }
    }
}
