//! What a CPU's VT-x can, from the raw capability MSRs (SDM 3D appendix A). Pure; `cpu` reads the MSRs.

use core::fmt;

use super::controls::{Conflict, EntryControls, ExitControls, Pin, Primary, Secondary, Wish, fix};
use crate::arch::Unsupported;

/// The capability MSRs as read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw {
    /// IA32_VMX_BASIC (A.1).
    pub basic: u64,
    /// IA32_VMX_(TRUE_)PINBASED_CTLS (A.3.1).
    pub pin: u64,
    /// IA32_VMX_(TRUE_)PROCBASED_CTLS (A.3.2).
    pub primary: u64,
    /// IA32_VMX_PROCBASED_CTLS2 (A.3.3); 0 where there are no secondary controls.
    pub secondary: u64,
    /// IA32_VMX_(TRUE_)EXIT_CTLS (A.4).
    pub exit: u64,
    /// IA32_VMX_(TRUE_)ENTRY_CTLS (A.5).
    pub entry: u64,
    /// IA32_VMX_MISC (A.6).
    pub misc: u64,
    /// IA32_VMX_CR0_FIXED0 and FIXED1 (A.7).
    pub cr0_fixed: [u64; 2],
    /// IA32_VMX_CR4_FIXED0 and FIXED1 (A.8).
    pub cr4_fixed: [u64; 2],
    /// IA32_VMX_EPT_VPID_CAP (A.10); 0 where there is neither.
    pub ept_vpid: u64,
}

/// IA32_FEATURE_CONTROL (SDM 3C 24.7).
pub mod feature_control {
    /// No more writes until reset.
    pub const LOCKED: u64 = 1 << 0;
    /// VMXON outside of SMX.
    pub const VMX: u64 = 1 << 2;
}

/// Bits of IA32_VMX_EPT_VPID_CAP.
mod ept_vpid {
    pub const WALK_LENGTH_4: u64 = 1 << 6;
    pub const WRITE_BACK: u64 = 1 << 14;
    pub const PAGES_2M: u64 = 1 << 16;
    pub const PAGES_1G: u64 = 1 << 17;
    pub const INVEPT: u64 = 1 << 20;
    pub const ACCESSED_DIRTY: u64 = 1 << 21;
    pub const INVEPT_SINGLE: u64 = 1 << 25;
    pub const INVEPT_ALL: u64 = 1 << 26;
    pub const INVVPID: u64 = 1 << 32;
    pub const INVVPID_SINGLE: u64 = 1 << 41;
    pub const INVVPID_ALL: u64 = 1 << 42;
}

/// How much an INVEPT or INVVPID at hand can name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// One set of page tables, one VPID.
    Single,
    /// Everything.
    All,
}

/// What this machine's VT-x can, and the control settings to use. The same on all CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// VMCS revision identifier.
    pub revision: u32,
    /// Pin-based controls; the preemption timer is added when one is set.
    pub pin: u32,
    /// Primary processor-based controls; windows are added when asked for.
    pub primary: u32,
    /// Secondary processor-based controls.
    pub secondary: Secondary,
    /// VM-exit controls; saving the preemption timer is added when one is set.
    pub exit: u32,
    /// VM-entry controls; "IA-32e mode guest" is added when it is one.
    pub entry: u32,
    /// The preemption timer counts TSC ticks shifted right by this; `None`: there is no timer that survives exits.
    pub preemption_shift: Option<u8>,
    /// Bits that CR0 must and may have in VMX operation.
    pub cr0_fixed: [u64; 2],
    /// Bits that CR4 must and may have in VMX operation.
    pub cr4_fixed: [u64; 2],
    /// EPT maps 1 GiB pages.
    pub pages_1g: bool,
    /// EPT has accessed and dirty bits.
    pub accessed_dirty: bool,
    /// It can virtualize a local APIC: accesses in memory and by MSRs, and the delivery of interrupts.
    pub virtual_apic: bool,
    /// What INVEPT can.
    pub invept: Scope,
    /// What INVVPID can; `None`: run without VPIDs.
    pub invvpid: Option<Scope>,
}

const PIN: Wish = Wish {
    required: Pin::EXTERNAL_INTERRUPT
        .union(Pin::NMI)
        .union(Pin::VIRTUAL_NMIS)
        .bits(),
    optional: 0,
    // Switched on with `set_preemption_timer`.
    forbidden: Pin::PREEMPTION_TIMER.bits(),
    default1: Pin::DEFAULT1.bits(),
};

const PRIMARY: Wish = Wish {
    required: Primary::TSC_OFFSET
        .union(Primary::HLT)
        .union(Primary::MWAIT)
        .union(Primary::RDPMC)
        .union(Primary::TPR_SHADOW)
        .union(Primary::IO_BITMAPS)
        .union(Primary::MSR_BITMAP)
        .union(Primary::MONITOR)
        .union(Primary::SECONDARY)
        .bits(),
    optional: 0,
    forbidden: Primary::CR3_LOAD
        .union(Primary::CR3_STORE)
        .union(Primary::INTERRUPT_WINDOW)
        .union(Primary::NMI_WINDOW)
        .bits(),
    default1: Primary::DEFAULT1.bits(),
};

/// What it takes to virtualize a local APIC. All or nothing: on CPUs that have a part, guests would save exits for the task priority only, which 64-bit
/// ones have in CR8.
pub const VIRTUAL_APIC: Secondary = Secondary::APIC_ACCESSES
    .union(Secondary::X2APIC_MODE)
    .union(Secondary::APIC_REGISTERS)
    .union(Secondary::INTERRUPT_DELIVERY);

const SECONDARY: Wish = Wish {
    required: Secondary::EPT.union(Secondary::UNRESTRICTED_GUEST).bits(),
    // XSAVES stays off: guests have no supervisor state components.
    optional: Secondary::RDTSCP
        .union(Secondary::VPID)
        .union(Secondary::WBINVD)
        .union(Secondary::PAUSE_LOOP)
        .union(Secondary::INVPCID)
        .union(Secondary::TSC_SCALING)
        .union(VIRTUAL_APIC)
        .bits(),
    forbidden: 0,
    default1: 0,
};

const EXIT: Wish = Wish {
    required: ExitControls::SAVE_DEBUG
        .union(ExitControls::HOST_LONG_MODE)
        .union(ExitControls::ACKNOWLEDGE_INTERRUPT)
        .union(ExitControls::SAVE_PAT)
        .union(ExitControls::LOAD_PAT)
        .union(ExitControls::SAVE_EFER)
        .union(ExitControls::LOAD_EFER)
        .bits(),
    optional: 0,
    // Goes with the timer (27.2.1.2: the one without the other fails the entry).
    forbidden: ExitControls::SAVE_PREEMPTION_TIMER.bits(),
    default1: ExitControls::DEFAULT1.bits(),
};

const ENTRY: Wish = Wish {
    required: EntryControls::LOAD_DEBUG
        .union(EntryControls::LOAD_PAT)
        .union(EntryControls::LOAD_EFER)
        .bits(),
    optional: 0,
    // Follows the guest's EFER.LMA.
    forbidden: EntryControls::LONG_MODE.bits(),
    default1: EntryControls::DEFAULT1.bits(),
};

/// Sentences for the bits of a conflict that have a name of their own.
fn sentence(conflict: Conflict, names: &[(u32, &'static str)], other: &'static str) -> Unsupported {
    let bits = conflict.missing | conflict.forced;
    Unsupported(
        names
            .iter()
            .find(|(bit, _)| bits & bit != 0)
            .map_or(other, |&(_, name)| name),
    )
}

impl Raw {
    /// What these MSRs allow.
    ///
    /// # Errors
    /// A sentence naming the first capability that we cannot do without.
    pub fn caps(&self) -> Result<Caps, Unsupported> {
        let require = |condition: bool, missing| {
            if condition {
                Ok(())
            } else {
                Err(Unsupported(missing))
            }
        };
        // A.1: bits 53:50 are the memory type of VMCSs, 6 is write-back.
        require(
            (self.basic >> 50) & 0xf == 6,
            "VT-x here wants control structures in uncached memory",
        )?;

        let primary = fix(PRIMARY, self.primary).map_err(|conflict| {
            sentence(
                conflict,
                &[
                    (
                        Primary::SECONDARY.bits(),
                        "VT-x here has no extended page tables (EPT): no secondary controls",
                    ),
                    (Primary::TPR_SHADOW.bits(), "VT-x here has no TPR shadow"),
                    (Primary::MSR_BITMAP.bits(), "VT-x here has no MSR bitmaps"),
                    (Primary::CR3_LOAD.bits(), "VT-x here cannot let a guest write CR3"),
                    (Primary::CR3_STORE.bits(), "VT-x here cannot let a guest read CR3"),
                ],
                "VT-x here lacks a primary processor-based control",
            )
        })?;
        let secondary = fix(SECONDARY, self.secondary).map_err(|conflict| {
            sentence(
                conflict,
                &[
                    (
                        Secondary::EPT.bits(),
                        "VT-x here has no extended page tables (EPT)",
                    ),
                    (
                        Secondary::UNRESTRICTED_GUEST.bits(),
                        "VT-x here has no unrestricted guests (real mode under EPT)",
                    ),
                ],
                "VT-x here lacks a secondary processor-based control",
            )
        })?;
        let pin = fix(PIN, self.pin).map_err(|conflict| {
            sentence(
                conflict,
                &[(Pin::VIRTUAL_NMIS.bits(), "VT-x here has no virtual NMIs")],
                "VT-x here lacks a pin-based control",
            )
        })?;
        let exit = fix(EXIT, self.exit).map_err(|_| {
            Unsupported("VT-x here cannot switch EFER and PAT or acknowledge interrupts on exit")
        })?;
        let entry = fix(ENTRY, self.entry)
            .map_err(|_| Unsupported("VT-x here cannot load EFER, PAT or debug controls on entry"))?;

        let has = |bit| self.ept_vpid & bit != 0;
        require(
            has(ept_vpid::WALK_LENGTH_4),
            "EPT here has no tables of four levels",
        )?;
        require(
            has(ept_vpid::WRITE_BACK),
            "EPT here cannot keep its tables in write-back memory",
        )?;
        require(has(ept_vpid::PAGES_2M), "EPT here has no pages of 2 MiB")?;
        let invept = match has(ept_vpid::INVEPT) {
            true if has(ept_vpid::INVEPT_SINGLE) => Scope::Single,
            true if has(ept_vpid::INVEPT_ALL) => Scope::All,
            _ => return Err(Unsupported("EPT here has no usable INVEPT")),
        };
        let mut secondary = Secondary::from_bits_retain(secondary);
        let invvpid = match has(ept_vpid::INVVPID) && secondary.contains(Secondary::VPID) {
            true if has(ept_vpid::INVVPID_SINGLE) => Some(Scope::Single),
            true if has(ept_vpid::INVVPID_ALL) => Some(Scope::All),
            _ => None,
        };
        if invvpid.is_none() {
            secondary.remove(Secondary::VPID);
        }
        // Switched on with `virtualize_apic`, but for the one that guests begin with.
        let virtual_apic = secondary.contains(VIRTUAL_APIC);
        secondary.remove(VIRTUAL_APIC);
        secondary.set(Secondary::APIC_ACCESSES, virtual_apic);
        let timer = (self.pin >> 32) as u32 & Pin::PREEMPTION_TIMER.bits() != 0
            && (self.exit >> 32) as u32 & ExitControls::SAVE_PREEMPTION_TIMER.bits() != 0;
        Ok(Caps {
            revision: self.basic as u32 & 0x7fff_ffff,
            pin,
            primary,
            secondary,
            exit,
            entry,
            preemption_shift: timer.then_some((self.misc & 0x1f) as u8),
            cr0_fixed: self.cr0_fixed,
            cr4_fixed: self.cr4_fixed,
            pages_1g: has(ept_vpid::PAGES_1G),
            accessed_dirty: has(ept_vpid::ACCESSED_DIRTY),
            virtual_apic,
            invept,
            invvpid,
        })
    }
}

impl Caps {
    /// EPT pointer for the tables at `root` (SDM 3C 25.6.11): write-back, four levels, accessed and dirty bits if there.
    pub fn ept_pointer(&self, root: crate::types::Hpa) -> u64 {
        const WRITE_BACK: u64 = 6;
        const FOUR_LEVELS: u64 = 3 << 3;
        const ACCESSED_DIRTY: u64 = 1 << 6;
        root.0 | WRITE_BACK | FOUR_LEVELS | if self.accessed_dirty { ACCESSED_DIRTY } else { 0 }
    }
}

impl Caps {
    /// Are guests' TSCs multiplied?
    pub fn scales_tsc(&self) -> bool {
        self.secondary.contains(Secondary::TSC_SCALING)
    }
}

/// The list for the boot log.
impl fmt::Display for Caps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EPT")?;
        let optional = [
            (true, "2M"),
            (self.pages_1g, "1G"),
            (self.accessed_dirty, "A/D bits"),
            (self.invvpid.is_some(), "VPID"),
            (true, "unrestricted guest"),
            (true, "TPR shadow"),
            (self.virtual_apic, "APIC-register virtualization"),
            (self.virtual_apic, "virtual-interrupt delivery"),
            (self.preemption_shift.is_some(), "preemption timer"),
            (
                self.secondary.contains(Secondary::PAUSE_LOOP),
                "PAUSE-loop exiting",
            ),
            (self.secondary.contains(Secondary::RDTSCP), "RDTSCP"),
            (self.secondary.contains(Secondary::INVPCID), "INVPCID"),
            (self.scales_tsc(), "TSC scaling"),
        ];
        for (_, name) in optional.iter().filter(|(present, _)| *present) {
            write!(f, ", {name}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The minimal variant that must work: EPT with 2 MiB pages, VPID, unrestricted guest, nothing else.
    fn minimal() -> Raw {
        Raw {
            basic: 0x00d8_1000_0000_002b,
            pin: 0x0000_007f_0000_0016,
            primary: 0xfff9_fffe_0400_6172,
            secondary: 0x0000_00ff_0000_0000,
            exit: 0x007f_ffff_0003_6dfb,
            entry: 0x0000_ffff_0000_11fb,
            misc: 0x0004_0005,
            cr0_fixed: [0x8000_0021, 0xffff_ffff],
            cr4_fixed: [0x2000, 0x0006_27ff],
            ept_vpid: 0x0000_0f01_0611_4141,
        }
    }

    fn refusal(change: impl FnOnce(&mut Raw)) -> &'static str {
        let mut raw = minimal();
        change(&mut raw);
        raw.caps().unwrap_err().0
    }

    #[test]
    fn minimal_variant_is_enough() {
        let caps = minimal().caps().unwrap();
        assert_eq!(caps.revision, 0x2b);
        assert!(!caps.pages_1g && !caps.accessed_dirty);
        assert_eq!((caps.invept, caps.invvpid), (Scope::Single, Some(Scope::Single)));
        assert_eq!(caps.primary & Primary::CR3_LOAD.bits(), 0);
        assert_eq!(caps.preemption_shift, Some(5));
        assert_eq!(caps.ept_pointer(crate::types::Hpa(0x5000)), 0x501e);
        assert_eq!(
            std::format!("{caps}"),
            "EPT, 2M, VPID, unrestricted guest, TPR shadow, preemption timer, RDTSCP"
        );
    }

    #[test]
    fn refusals_name_what_is_missing() {
        // core2_penryn_t9600: secondary controls, but no EPT among them.
        assert!(refusal(|r| r.secondary = 0x0000_0041_0000_0000).contains("extended page tables"));
        assert!(refusal(|r| r.secondary &= !(0x80 << 32)).contains("unrestricted"));
        assert!(refusal(|r| r.primary &= !(1 << 63)).contains("EPT"));
        assert!(refusal(|r| r.primary &= !(1 << (32 + 21))).contains("TPR shadow"));
        assert!(refusal(|r| r.primary |= 1 << 15).contains("CR3"));
        assert!(refusal(|r| r.pin &= !(0x20 << 32)).contains("virtual NMIs"));
        assert!(refusal(|r| r.ept_vpid &= !(1 << 20)).contains("INVEPT"));
        assert!(refusal(|r| r.ept_vpid &= !(1 << 16)).contains("2 MiB"));
        assert!(refusal(|r| r.exit &= !(1 << (32 + 21))).contains("EFER"));
    }

    #[test]
    fn a_virtual_apic_is_all_or_nothing() {
        let mut raw = minimal();
        assert!(!raw.caps().unwrap().virtual_apic);
        // corei7_haswell_4770 has bits 8 and 9 as well.
        raw.secondary |= 0x300 << 32;
        let caps = raw.caps().unwrap();
        assert!(caps.virtual_apic);
        assert_eq!(
            caps.secondary.intersection(VIRTUAL_APIC),
            Secondary::APIC_ACCESSES
        );
        assert!(std::format!("{caps}").contains("APIC-register virtualization, virtual-interrupt delivery"));
        for bit in [0, 4, 8, 9] {
            let mut without = raw;
            without.secondary &= !(1 << (32 + bit));
            let caps = without.caps().unwrap();
            assert!(!caps.virtual_apic && !caps.secondary.intersects(VIRTUAL_APIC));
        }
    }

    #[test]
    fn vpid_and_timer_are_optional() {
        let mut raw = minimal();
        raw.secondary &= !(0x20 << 32);
        raw.pin &= !(0x40 << 32);
        let caps = raw.caps().unwrap();
        assert_eq!((caps.invvpid, caps.preemption_shift), (None, None));
        raw = minimal();
        raw.ept_vpid &= !(1 << 32);
        assert!(!raw.caps().unwrap().secondary.contains(Secondary::VPID));
    }
}
