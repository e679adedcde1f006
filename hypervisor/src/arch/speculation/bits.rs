//! What CPUs say of speculation, and what they take.
//!
//! Numbers of bits are those of Intel's "Speculative Execution Side Channel Mitigations" (336996, and SDM vol. 4 table
//! 2-2), and of AMD's "Indirect Branch Control Extension" (APM vol. 3, appendix E.4.7 and E.4.17).

/// CPUID 7, EDX, of Intel's CPUs.
pub mod leaf_7 {
    #![expect(missing_docs, reason = "the architecture's own names")]
    pub const MD_CLEAR: u32 = 1 << 10;
    /// IBRS, and IBPB.
    pub const IBRSB: u32 = 1 << 26;
    pub const STIBP: u32 = 1 << 27;
    pub const L1D_FLUSH: u32 = 1 << 28;
    pub const ARCH_CAPABILITIES: u32 = 1 << 29;
    pub const SSBD: u32 = 1 << 31;
}

/// CPUID 7.2, EDX: which bits SPEC_CTRL has beyond the first three.
pub mod leaf_7_2 {
    #![expect(missing_docs, reason = "the architecture's own names")]
    pub const PSFD: u32 = 1 << 0;
    pub const IPRED_CTRL: u32 = 1 << 1;
    pub const RRSBA_CTRL: u32 = 1 << 2;
    pub const BHI_CTRL: u32 = 1 << 4;
    pub const MCDT_NO: u32 = 1 << 5;
}

/// CPUID 8000_0008, EBX, of AMD's.
pub mod extended_8 {
    #![expect(missing_docs, reason = "the architecture's own names")]
    pub const IBPB: u32 = 1 << 12;
    pub const IBRS: u32 = 1 << 14;
    pub const STIBP: u32 = 1 << 15;
    /// Set IBRS once and leave it.
    pub const IBRS_ALWAYS: u32 = 1 << 16;
    pub const STIBP_ALWAYS: u32 = 1 << 17;
    /// IBRS is better than what software can do.
    pub const IBRS_PREFERRED: u32 = 1 << 18;
    pub const IBRS_SAME_MODE: u32 = 1 << 19;
    pub const SSBD: u32 = 1 << 24;
    pub const SSB_NO: u32 = 1 << 26;
    pub const PSFD: u32 = 1 << 28;
    /// Branch types are not confused (Retbleed).
    pub const BTC_NO: u32 = 1 << 29;
    /// IBPB is for the predictions of returns, too.
    pub const IBPB_RET: u32 = 1 << 30;
}

/// CPUID 8000_0021, EAX, of AMD's.
pub mod extended_21 {
    #![expect(missing_docs, reason = "the architecture's own names")]
    /// VERW clears what transient schedulers leave behind (TSA).
    pub const VERW_CLEAR: u32 = 1 << 5;
    /// EFER has a bit by which the kernel and the hypervisor have IBRS of their own.
    pub const AUTO_IBRS: u32 = 1 << 8;
    pub const SBPB: u32 = 1 << 27;
    /// IBPB is for the predicted types of branches, too.
    pub const IBPB_BRTYPE: u32 = 1 << 28;
    /// The predictor of returns does not overflow by speculation (SRSO).
    pub const SRSO_NO: u32 = 1 << 29;
    pub const SRSO_USER_KERNEL_NO: u32 = 1 << 30;
    /// [`BP_SPEC_REDUCE`](super::BP_SPEC_REDUCE) is there, against SRSO from guests.
    pub const SRSO_MSR_FIX: u32 = 1 << 31;
    /// In ECX: no TSA by the store queue, none by L1D.
    pub const TSA_NO: u32 = 1 << 1 | 1 << 2;
}

/// IA32_ARCH_CAPABILITIES: what a CPU is not vulnerable to, and what helps against the rest.
pub mod capability {
    #![expect(missing_docs, reason = "the architecture's own names")]
    pub const RDCL_NO: u64 = 1 << 0;
    /// Enhanced IBRS: set once, it protects for good.
    pub const IBRS_ALL: u64 = 1 << 1;
    pub const RSBA: u64 = 1 << 2;
    pub const SKIP_L1DFL_VMENTRY: u64 = 1 << 3;
    pub const SSB_NO: u64 = 1 << 4;
    pub const MDS_NO: u64 = 1 << 5;
    pub const IF_PSCHANGE_MC_NO: u64 = 1 << 6;
    pub const TAA_NO: u64 = 1 << 8;
    pub const SBDR_SSDP_NO: u64 = 1 << 13;
    pub const FBSDP_NO: u64 = 1 << 14;
    pub const PSDP_NO: u64 = 1 << 15;
    pub const FB_CLEAR: u64 = 1 << 17;
    pub const RRSBA: u64 = 1 << 19;
    pub const BHI_NO: u64 = 1 << 20;
    pub const PBRSB_NO: u64 = 1 << 24;
    pub const GDS_NO: u64 = 1 << 26;
    pub const RFDS_NO: u64 = 1 << 27;
    pub const RFDS_CLEAR: u64 = 1 << 28;
    /// Set by hypervisors only.
    pub const ITS_NO: u64 = 1 << 62;
}

/// SPEC_CTRL. The upper half is reserved.
pub mod spec_ctrl {
    #![expect(missing_docs, reason = "the architecture's own names")]
    pub const IBRS: u32 = 1 << 0;
    /// Another thread of the core does not steer this one's branches.
    pub const STIBP: u32 = 1 << 1;
    pub const SSBD: u32 = 1 << 2;
    pub const IPRED_DIS: u32 = 1 << 3 | 1 << 4;
    pub const RRSBA_DIS: u32 = 1 << 5 | 1 << 6;
    pub const PSFD: u32 = 1 << 7;
    /// The history of less privileged branches does not choose among the targets of others.
    pub const BHI_DIS_S: u32 = 1 << 10;
}

/// PRED_CMD.IBPB.
pub const PRED_CMD_IBPB: u64 = 1 << 0;
/// PRED_CMD.SBPB.
pub const PRED_CMD_SBPB: u64 = 1 << 7;
/// IA32_FLUSH_CMD.L1D_FLUSH.
pub const FLUSH_CMD_L1D: u64 = 1 << 0;
/// EFER's bit for automatic IBRS (APM vol. 2, 3.1.7).
pub const EFER_AUTO_IBRS: u64 = 1 << 21;
/// BP_CFG, and its bit against SRSO (AMD's "Technical update regarding speculative return stack overflow").
pub const BP_CFG: u32 = 0xc001_102e;
/// See [`BP_CFG`].
pub const BP_SPEC_REDUCE: u64 = 1 << 4;
