//! With what guests defend themselves against attacks by speculation: as on Xen 4.17, all that the CPU has. Pure.

use crate::arch::speculation::bits::{capability, extended_8, extended_21, leaf_7, leaf_7_2, spec_ctrl};

/// What guests may see of CPUID 7.2, EDX.
pub const LEAF_7_2_EDX: u32 =
    leaf_7_2::PSFD | leaf_7_2::IPRED_CTRL | leaf_7_2::RRSBA_CTRL | leaf_7_2::BHI_CTRL | leaf_7_2::MCDT_NO;

/// What guests may see of CPUID 7, EDX.
pub const LEAF_7_EDX: u32 = leaf_7::MD_CLEAR
    | leaf_7::IBRSB
    | leaf_7::STIBP
    | leaf_7::L1D_FLUSH
    | leaf_7::ARCH_CAPABILITIES
    | leaf_7::SSBD;
/// What guests may see of CPUID 8000_0008, EBX. Not VIRT_SSBD, a register of hypervisors' own for CPUs without SSBD.
pub const EXTENDED_8_EBX: u32 = extended_8::IBPB
    | extended_8::IBRS
    | extended_8::STIBP
    | extended_8::IBRS_ALWAYS
    | extended_8::STIBP_ALWAYS
    | extended_8::IBRS_PREFERRED
    | extended_8::IBRS_SAME_MODE
    | extended_8::SSBD
    | extended_8::SSB_NO
    | extended_8::PSFD
    | extended_8::BTC_NO
    | extended_8::IBPB_RET;
/// What guests may see of CPUID 8000_0021, EAX. Not automatic IBRS, for which EFER would need a bit, nor BP_CFG, which
/// is the machine's.
pub const EXTENDED_21_EAX: u32 = extended_21::VERW_CLEAR
    | extended_21::SBPB
    | extended_21::IBPB_BRTYPE
    | extended_21::SRSO_NO
    | extended_21::SRSO_USER_KERNEL_NO;
/// What guests may see of CPUID 8000_0021, ECX.
pub const EXTENDED_21_ECX: u32 = extended_21::TSA_NO;
/// What guests may see of IA32_ARCH_CAPABILITIES: what the CPU is not vulnerable to, what retpolines do not help
/// against, and what VERW clears. Not whether entries need to flush L1D, which is the hypervisor's business, nor
/// registers that guests do not have.
const CAPABILITIES: u64 = capability::RDCL_NO
    | capability::IBRS_ALL
    | capability::RSBA
    | capability::SSB_NO
    | capability::MDS_NO
    | capability::IF_PSCHANGE_MC_NO
    | capability::TAA_NO
    | capability::SBDR_SSDP_NO
    | capability::FBSDP_NO
    | capability::PSDP_NO
    | capability::FB_CLEAR
    | capability::RRSBA
    | capability::BHI_NO
    | capability::PBRSB_NO
    | capability::GDS_NO
    | capability::RFDS_NO
    | capability::RFDS_CLEAR
    | capability::ITS_NO;

/// The feature words of a guest that tell which of these registers it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Words {
    /// CPUID 7, EDX.
    pub leaf_7_edx: u32,
    /// CPUID 7.2, EDX.
    pub leaf_7_2_edx: u32,
    /// CPUID 8000_0008, EBX.
    pub extended_8_ebx: u32,
}

impl Words {
    /// Without what needs something that is not there. STIBP does nothing on Intel's CPUs that do not have it, and
    /// comes with IBRS.
    pub fn consistent(mut self) -> Words {
        if self.leaf_7_edx & leaf_7::IBRSB != 0 {
            self.leaf_7_edx |= leaf_7::STIBP;
        } else {
            self.leaf_7_edx &= !(leaf_7::STIBP | leaf_7::SSBD);
            self.leaf_7_2_edx &= leaf_7_2::MCDT_NO;
        }
        if self.extended_8_ebx & extended_8::IBRS == 0 {
            self.extended_8_ebx &= !(extended_8::STIBP
                | extended_8::IBRS_ALWAYS
                | extended_8::IBRS_PREFERRED
                | extended_8::IBRS_SAME_MODE
                | extended_8::SSBD
                | extended_8::PSFD);
        }
        if self.extended_8_ebx & extended_8::STIBP == 0 {
            self.extended_8_ebx &= !extended_8::STIBP_ALWAYS;
        }
        if self.extended_8_ebx & extended_8::IBPB == 0 {
            self.extended_8_ebx &= !extended_8::IBPB_RET;
        }
        self
    }

    /// The bits that SPEC_CTRL takes; `None`: no such register.
    pub fn spec_ctrl(&self) -> Option<u64> {
        let intel = |bit| self.leaf_7_edx & bit != 0;
        let more = |bit| self.leaf_7_2_edx & bit != 0;
        let amd = |bit| self.extended_8_ebx & bit != 0;
        if !intel(leaf_7::IBRSB) && !amd(extended_8::IBRS) {
            return None;
        }
        let bits = [
            (true, spec_ctrl::IBRS),
            (intel(leaf_7::STIBP) || amd(extended_8::STIBP), spec_ctrl::STIBP),
            (intel(leaf_7::SSBD) || amd(extended_8::SSBD), spec_ctrl::SSBD),
            (more(leaf_7_2::IPRED_CTRL), spec_ctrl::IPRED_DIS),
            (more(leaf_7_2::RRSBA_CTRL), spec_ctrl::RRSBA_DIS),
            (more(leaf_7_2::PSFD) || amd(extended_8::PSFD), spec_ctrl::PSFD),
            (more(leaf_7_2::BHI_CTRL), spec_ctrl::BHI_DIS_S),
        ];
        let taken = bits.into_iter().filter(|(has, _)| *has);
        Some(taken.fold(0, |all, (_, bit)| all | u64::from(bit)))
    }

    /// IA32_ARCH_CAPABILITIES on a machine where it is `host`; `None`: no such register.
    pub fn capabilities(&self, host: u64) -> Option<u64> {
        let has = |bit| self.leaf_7_edx & bit != 0;
        let without_ibrs = if has(leaf_7::IBRSB) {
            0
        } else {
            capability::IBRS_ALL
        };
        has(leaf_7::ARCH_CAPABILITIES).then_some(host & CAPABILITIES & !without_ibrs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Words = Words {
        leaf_7_edx: 0,
        leaf_7_2_edx: 0,
        extended_8_ebx: 0,
    };

    fn intel(leaf_7_edx: u32, leaf_7_2_edx: u32) -> Words {
        Words {
            leaf_7_edx,
            leaf_7_2_edx,
            ..NOTHING
        }
        .consistent()
    }

    fn amd(extended_8_ebx: u32) -> Words {
        Words {
            extended_8_ebx,
            ..NOTHING
        }
        .consistent()
    }

    #[test]
    fn spec_ctrl_of_intel() {
        assert_eq!(NOTHING.spec_ctrl(), None);
        assert_eq!(intel(leaf_7::SSBD | leaf_7::STIBP, leaf_7_2::PSFD), NOTHING);
        assert_eq!(intel(leaf_7::IBRSB, 0).spec_ctrl(), Some(0b11));
        assert_eq!(intel(leaf_7::IBRSB | leaf_7::SSBD, 0).spec_ctrl(), Some(0b111));
        let all = intel(LEAF_7_EDX, LEAF_7_2_EDX);
        assert_eq!(all.spec_ctrl(), Some(0b100_1111_1111));
        assert_eq!(intel(leaf_7::MD_CLEAR, leaf_7_2::MCDT_NO).spec_ctrl(), None);
    }

    #[test]
    fn spec_ctrl_of_amd() {
        assert_eq!(amd(extended_8::IBPB).spec_ctrl(), None);
        assert_eq!(
            amd(extended_8::SSBD | extended_8::STIBP | extended_8::STIBP_ALWAYS),
            NOTHING
        );
        assert_eq!(amd(extended_8::IBRS).spec_ctrl(), Some(0b1));
        assert_eq!(amd(extended_8::IBRS | extended_8::STIBP).spec_ctrl(), Some(0b11));
        assert_eq!(amd(EXTENDED_8_EBX).spec_ctrl(), Some(0b1000_0111));
        assert_eq!(amd(EXTENDED_8_EBX).extended_8_ebx, EXTENDED_8_EBX);
    }

    #[test]
    fn capabilities_are_filtered() {
        assert_eq!(intel(leaf_7::IBRSB, 0).capabilities(u64::MAX), None);
        let all = intel(LEAF_7_EDX, 0);
        assert_eq!(all.capabilities(0), Some(0));
        // Not TSX_CTRL, SKIP_L1DFL_VMENTRY, FB_CLEAR_CTRL, GDS_CTRL and the like.
        assert_eq!(all.capabilities(u64::MAX), Some(1 << 62 | 0x1d1a_e177));
        let without_ibrs = intel(leaf_7::ARCH_CAPABILITIES, 0);
        assert_eq!(without_ibrs.capabilities(0b11), Some(0b01));
    }
}
