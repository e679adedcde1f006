//! The hypervisor's own defences against attacks by speculation: which of them a CPU needs, and doing them.
//!
//! None costs the way from an exit to the next entry anything on a CPU that does not need it: IBRS is set once where
//! CPUs want it to stay set, IBPB is for a change of vCPUs, and buffers and L1D are cleared by [`super::vmx`] as it
//! enters.
//!
//! Numbers of bits are those of Intel's "Speculative Execution Side Channel Mitigations" (336996, and SDM vol. 4 table
//! 2-2), and of AMD's "Indirect Branch Control Extension" (APM vol. 3, appendix E.4.7).
// UNSAFETY: RDMSR and WRMSR.
#![expect(unsafe_code, reason = "RDMSR and WRMSR")]

use core::fmt;

use arrayvec::ArrayVec;
use bitflags::bitflags;
use x86_64::registers::model_specific::Msr;

use super::machine::is_amd;
use super::msr_policy::{Direct, msr};
use crate::sync::Once;

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
    pub const BTC_NO: u32 = 1 << 29;
    pub const IBPB_RET: u32 = 1 << 30;
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
}

/// SPEC_CTRL.IBRS.
pub const SPEC_CTRL_IBRS: u64 = 1 << 0;
/// PRED_CMD.IBPB.
const PRED_CMD_IBPB: u64 = 1 << 0;
/// IA32_FLUSH_CMD.L1D_FLUSH.
pub const FLUSH_CMD_L1D: u64 = 1 << 0;

bitflags! {
    /// What the hypervisor does.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Defences: u8 {
        /// IBRS stays set, so that guests do not steer the hypervisor's branches.
        const IBRS = 1 << 0;
        /// A vCPU that comes to a CPU finds no branch predictions of the one before.
        const IBPB = 1 << 1;
        /// Each entry flushes L1D, from which a guest could read by its own page tables (L1TF).
        const L1D_FLUSH = 1 << 2;
        /// Each entry clears the CPU's buffers and register files, of which guests could sample what is left (MDS,
        /// TAA, RFDS).
        const MD_CLEAR = 1 << 3;
    }
}

/// What the command line says: by default, what a CPU needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    /// Where a CPU can, whether it needs it or not.
    pub on: Defences,
    /// Not even where a CPU needs it.
    pub off: Defences,
}

impl Wish {
    /// Nothing is said.
    pub const NONE: Wish = Wish {
        on: Defences::empty(),
        off: Defences::empty(),
    };
}

/// The list for the boot log.
impl fmt::Display for Defences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Defences::IBRS, "IBRS stays on"),
            (Defences::IBPB, "IBPB between vCPUs"),
            (Defences::L1D_FLUSH, "L1D flushed by entries"),
            (Defences::MD_CLEAR, "buffers cleared by entries"),
        ];
        let mut separator = "";
        for (_, name) in names.iter().filter(|(flag, _)| self.contains(*flag)) {
            write!(f, "{separator}{name}")?;
            separator = ", ";
        }
        if self.is_empty() {
            f.write_str("no defences")?;
        }
        Ok(())
    }
}

/// What a CPU says, so that the decision is a pure function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cpu {
    /// CPUID 7, EDX; 0 on AMD's CPUs.
    leaf_7_edx: u32,
    /// It has transactions: RTM.
    rtm: bool,
    /// CPUID 8000_0008, EBX; 0 on Intel's CPUs.
    extended_8_ebx: u32,
    /// IA32_ARCH_CAPABILITIES; 0 without it.
    capabilities: u64,
}

impl Cpu {
    fn this() -> Cpu {
        const RTM: u32 = 1 << 11;
        let (amd, extended_8) = (is_amd(), cpuid(0x8000_0000, 0x8000_0008)[1]);
        let [_, features, _, leaf_7] = cpuid(0, 7);
        let has_capabilities = !amd && leaf_7 & leaf_7::ARCH_CAPABILITIES != 0;
        Cpu {
            leaf_7_edx: if amd { 0 } else { leaf_7 },
            rtm: features & RTM != 0,
            extended_8_ebx: if amd { extended_8 } else { 0 },
            capabilities: if has_capabilities {
                // SAFETY: CPUID says that the register exists; it is read-only.
                unsafe { Msr::new(msr::ARCH_CAPABILITIES).read() }
            } else {
                0
            },
        }
    }

    fn has_ibpb(&self) -> bool {
        self.leaf_7_edx & leaf_7::IBRSB != 0 || self.extended_8_ebx & extended_8::IBPB != 0
    }

    fn has_l1d_flush(&self) -> bool {
        self.leaf_7_edx & leaf_7::L1D_FLUSH != 0
    }

    /// What is of use here, and what is done on demand only.
    fn defences(&self) -> (Defences, Defences) {
        use capability::*;
        let (intel, amd) = (self.leaf_7_edx, self.extended_8_ebx);
        let is = |bit| self.capabilities & bit != 0;
        let always = extended_8::IBRS | extended_8::IBRS_ALWAYS;
        let mut useful = Defences::empty();
        useful.set(
            Defences::IBRS,
            intel & leaf_7::IBRSB != 0 && is(IBRS_ALL) || amd & always == always,
        );
        useful.set(Defences::IBPB, self.has_ibpb());
        // CPUs without L1TF that have the command all say so.
        useful.set(
            Defences::L1D_FLUSH,
            self.has_l1d_flush() && !is(RDCL_NO | SKIP_L1DFL_VMENTRY),
        );
        let md_clear = intel & leaf_7::MD_CLEAR != 0;
        useful.set(
            Defences::MD_CLEAR,
            // By what a transaction that was aborted leaves behind, where not by less (TAA).
            md_clear && (!is(MDS_NO) || self.rtm && !is(TAA_NO)) || is(RFDS_CLEAR) && !is(RFDS_NO),
        );
        let mut possible = useful;
        possible.set(Defences::L1D_FLUSH, self.has_l1d_flush());
        possible.set(Defences::MD_CLEAR, md_clear || is(RFDS_CLEAR));
        (useful, possible)
    }

    /// What is done.
    fn used(&self, wish: Wish) -> Defences {
        let (useful, possible) = self.defences();
        let mut used = (useful - wish.off) | (possible & wish.on);
        if used.contains(Defences::L1D_FLUSH) {
            // The command clears the buffers as well.
            used.remove(Defences::MD_CLEAR);
        }
        used
    }

    /// Does SPEC_CTRL exist?
    fn has_spec_ctrl(&self) -> bool {
        const INTEL: u32 = leaf_7::IBRSB | leaf_7::STIBP | leaf_7::SSBD;
        const AMD: u32 = extended_8::IBRS | extended_8::STIBP | extended_8::SSBD;
        self.leaf_7_edx & INTEL != 0 || self.extended_8_ebx & AMD != 0
    }
}

/// Leaf `leaf`, subleaf 0, zero if it is beyond what leaf `first` says.
fn cpuid(first: u32, leaf: u32) -> [u32; 4] {
    if raw_cpuid::cpuid!(first).eax < leaf {
        return [0; 4];
    }
    let found = raw_cpuid::cpuid!(leaf, 0);
    [found.eax, found.ebx, found.ecx, found.edx]
}

#[derive(Debug)]
struct Host {
    cpu: Cpu,
    used: Defences,
}

static HOST: Once<Host> = Once::new();

/// Decide for this machine. Once, before the first [`enable`].
pub fn init(wish: Wish) -> Defences {
    HOST.call_once(|| {
        let cpu = Cpu::this();
        Host {
            cpu,
            used: cpu.used(wish),
        }
    })
    .used
}

/// What [`init`] decided.
pub fn used() -> Defences {
    HOST.get().map_or(Defences::empty(), |host| host.used)
}

/// IA32_ARCH_CAPABILITIES of this machine; 0 where the CPU has none.
pub fn capabilities() -> u64 {
    HOST.get().map_or(0, |host| host.cpu.capabilities)
}

/// The SPEC_CTRL that CPUs have while they run the hypervisor.
pub fn spec_ctrl() -> u64 {
    if used().contains(Defences::IBRS) {
        SPEC_CTRL_IBRS
    } else {
        0
    }
}

/// The registers of this machine that are commands and not state, so that guests may write them without an exit: their
/// kernels flush branch predictions on context switches, and L1D before they run what they do not trust.
pub fn commands() -> ArrayVec<(u32, Direct), 2> {
    let has = |test: fn(&Cpu) -> bool| HOST.get().is_some_and(|host| test(&host.cpu));
    [
        (has(Cpu::has_ibpb), msr::PRED_CMD),
        (has(Cpu::has_l1d_flush), msr::FLUSH_CMD),
    ]
    .into_iter()
    .filter_map(|(has, msr)| has.then_some((msr, Direct::WriteOnly)))
    .collect()
}

/// Begin on this CPU.
pub fn enable() {
    if HOST.get().is_some_and(|host| host.cpu.has_spec_ctrl()) {
        // SAFETY: the register exists, and takes IBRS where that is used.
        unsafe { Msr::new(msr::SPEC_CTRL).write(spec_ctrl()) };
    }
}

/// Another vCPU comes to this CPU: what the one before has taught the branch predictors is not for it.
pub fn forget_branches() {
    if used().contains(Defences::IBPB) {
        // SAFETY: a command that the CPU has, and that only costs time.
        unsafe { Msr::new(msr::PRED_CMD).write(PRED_CMD_IBPB) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intel_with(leaf_7_edx: u32, capabilities: u64, wish: Wish) -> Defences {
        Cpu {
            leaf_7_edx,
            rtm: false,
            extended_8_ebx: 0,
            capabilities,
        }
        .used(wish)
    }

    fn intel(leaf_7_edx: u32, capabilities: u64) -> Defences {
        intel_with(leaf_7_edx, capabilities, Wish::NONE)
    }

    fn amd(extended_8_ebx: u32) -> Defences {
        Cpu {
            leaf_7_edx: 0,
            rtm: false,
            extended_8_ebx,
            capabilities: 0,
        }
        .used(Wish::NONE)
    }

    #[test]
    fn what_a_cpu_needs() {
        use capability::*;
        assert!(intel(0, 0).is_empty() && amd(0).is_empty());
        // Skylake: IBRS cannot stay on; L1TF, and MDS, for which the flush is good as well.
        let skylake = leaf_7::IBRSB | leaf_7::L1D_FLUSH | leaf_7::MD_CLEAR;
        assert_eq!(intel(skylake, 0), Defences::IBPB | Defences::L1D_FLUSH);
        // As a guest of a hypervisor that flushes.
        let nested = intel(skylake, SKIP_L1DFL_VMENTRY);
        assert_eq!(nested, Defences::IBPB | Defences::MD_CLEAR);
        // Ice Lake.
        let caps = RDCL_NO | IBRS_ALL | MDS_NO;
        assert_eq!(intel(skylake, caps), Defences::IBRS | Defences::IBPB);
        // Cascade Lake: transactions that were aborted leave something, unless it says that they do not.
        let with_rtm = |capabilities| {
            let cpu = Cpu {
                leaf_7_edx: skylake,
                rtm: true,
                extended_8_ebx: 0,
                capabilities,
            };
            cpu.used(Wish::NONE)
        };
        assert!(with_rtm(caps).contains(Defences::MD_CLEAR));
        assert!(!with_rtm(caps | TAA_NO).contains(Defences::MD_CLEAR));
        // Gracemont: register files are sampled.
        assert!(intel(skylake, caps | RFDS_CLEAR).contains(Defences::MD_CLEAR));
        assert!(!intel(skylake, caps | RFDS_CLEAR | RFDS_NO).contains(Defences::MD_CLEAR));
        assert_eq!(amd(extended_8::IBPB | extended_8::IBRS), Defences::IBPB);
        assert_eq!(amd(extended_8::IBRS | extended_8::IBRS_ALWAYS), Defences::IBRS);
    }

    #[test]
    fn what_the_command_line_says() {
        use capability::*;
        let cpu = leaf_7::IBRSB | leaf_7::L1D_FLUSH | leaf_7::MD_CLEAR;
        let safe = RDCL_NO | IBRS_ALL | MDS_NO;
        let with = |on, off| Wish { on, off };
        let none = Defences::empty();
        assert!(intel_with(cpu, safe, with(none, Defences::all())).is_empty());
        assert!(intel_with(0, 0, with(Defences::all(), none)).is_empty());
        let flush = with(Defences::L1D_FLUSH, Defences::IBPB);
        assert_eq!(intel_with(cpu, safe, flush), Defences::IBRS | Defences::L1D_FLUSH);
        assert_eq!(
            intel_with(cpu, 0, with(none, Defences::L1D_FLUSH)),
            Defences::IBPB | Defences::MD_CLEAR
        );
    }

    #[test]
    fn the_log_names_them() {
        let text = |defences: Defences| std::format!("{defences}");
        assert_eq!(
            text(Defences::IBRS | Defences::IBPB),
            "IBRS stays on, IBPB between vCPUs"
        );
        assert_eq!(text(Defences::empty()), "no defences");
    }
}
