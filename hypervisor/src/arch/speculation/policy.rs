//! Which defences a CPU needs, and what stays open. Pure.

use core::fmt;

use bitflags::bitflags;

use super::bits::{capability, extended_8, extended_21, leaf_7, leaf_7_2, spec_ctrl};
use super::precautions::Actions;

bitflags! {
    /// What the hypervisor does.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Defences: u16 {
        /// IBRS stays set, so that guests do not steer the hypervisor's branches.
        const IBRS = 1 << 0;
        /// A vCPU that comes to a CPU finds no branch predictions of the one before.
        const IBPB = 1 << 1;
        /// Each entry flushes L1D, from which a guest could read by its own page tables (L1TF).
        const L1D_FLUSH = 1 << 2;
        /// Each entry clears the CPU's buffers and register files, of which guests could sample what is left (MDS,
        /// TAA, RFDS, TSA).
        const MD_CLEAR = 1 << 3;
        /// The CPU has IBRS set by itself while the hypervisor runs.
        const AUTO_IBRS = 1 << 4;
        /// IBRS is written after each exit, as it only keeps off predictions that are older.
        const IBRS_AT_EXITS = 1 << 5;
        /// Nor do other threads of the core steer the hypervisor's branches.
        const STIBP = 1 << 6;
        /// Nor do guests by the history of their own branches (BHI).
        const BHI_DIS_S = 1 << 7;
        /// Each exit overwrites the predictions of returns.
        const RSB = 1 << 8;
        /// Each exit makes a call of its own, before which the CPU may predict a return by what the guest has called.
        const PBRSB = 1 << 9;
        /// Each exit clears the history of branches.
        const BHB = 1 << 10;
        /// Each exit forgets all branch predictions (Retbleed, SRSO).
        const IBPB_AT_EXITS = 1 << 11;
        /// The CPU predicts less on its way from guests to the hypervisor (SRSO).
        const SPEC_REDUCE = 1 << 12;
        /// Each entry divides, so that the guest does not find the operands of the last division.
        const DIVIDE = 1 << 13;
    }
}

impl Defences {
    /// All that keeps guests from steering indirect branches.
    pub const ANY_IBRS: Defences = Defences::IBRS
        .union(Defences::AUTO_IBRS)
        .union(Defences::IBRS_AT_EXITS);
    /// All that is for predictions of returns alone.
    pub const ANY_RSB: Defences = Defences::RSB.union(Defences::PBRSB);
}

bitflags! {
    /// What guests may still do, whatever is done.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Exposed: u8 {
        /// They steer the hypervisor's indirect branches, of which no code here is free (no retpolines).
        const BRANCHES = 1 << 0;
        /// The same by direct branches of theirs, where nothing helps but to place indirect ones differently (ITS).
        const ITS = 1 << 1;
        /// They overflow the predictor of returns (SRSO), as with microcode that has nothing against it.
        const SRSO = 1 << 2;
        /// They steer returns from another thread of the core (Retbleed).
        const THREADS = 1 << 3;
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

/// Those of `names` whose flags there are.
fn list<T: Copy>(f: &mut fmt::Formatter<'_>, names: &[(T, &str)], has: impl Fn(T) -> bool) -> fmt::Result {
    let mut separator = "";
    for (_, name) in names.iter().filter(|(flag, _)| has(*flag)) {
        write!(f, "{separator}{name}")?;
        separator = ", ";
    }
    Ok(())
}

/// The list for the boot log.
impl fmt::Display for Defences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no defences");
        }
        let names = [
            (Defences::IBRS, "IBRS stays on"),
            (Defences::AUTO_IBRS, "automatic IBRS"),
            (Defences::IBRS_AT_EXITS, "IBRS at exits"),
            (Defences::STIBP, "STIBP"),
            (Defences::BHI_DIS_S, "BHI_DIS_S"),
            (Defences::IBPB, "IBPB between vCPUs"),
            (Defences::IBPB_AT_EXITS, "IBPB at exits"),
            (Defences::SPEC_REDUCE, "BP_SPEC_REDUCE"),
            (Defences::RSB, "RSB overwritten by exits"),
            (Defences::PBRSB, "one RSB entry by exits"),
            (Defences::BHB, "BHB cleared by exits"),
            (Defences::L1D_FLUSH, "L1D flushed by entries"),
            (Defences::MD_CLEAR, "buffers cleared by entries"),
            (Defences::DIVIDE, "divider scrubbed by entries"),
        ];
        list(f, &names, |flag| self.contains(flag))
    }
}

/// The same of what stays open.
impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Exposed::BRANCHES, "indirect branches without IBRS"),
            (Exposed::ITS, "ITS"),
            (Exposed::SRSO, "SRSO"),
            (Exposed::THREADS, "Retbleed by threads of a core"),
        ];
        list(f, &names, |flag| self.contains(flag))
    }
}

/// Who made a CPU, and which it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Maker {
    /// Intel, or who is neither: the only family that speculates is 6.
    Intel { family: u32, model: u32 },
    /// AMD, or Hygon, whose family 18H is AMD's 17H.
    Amd { family: u32 },
}

/// What a CPU says, so that the decision is a pure function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cpu {
    pub maker: Maker,
    /// There is a hypervisor below, which says in CPUID what is true of this machine.
    pub is_virtual: bool,
    /// Its cores have several threads that are on. Asked of AMD's only.
    pub has_threads: bool,
    /// CPUID 7, EDX; 0 on AMD's CPUs.
    pub leaf_7_edx: u32,
    /// CPUID 7.2, EDX; 0 on AMD's CPUs.
    pub leaf_7_2_edx: u32,
    /// It has transactions: RTM.
    pub rtm: bool,
    /// CPUID 8000_0008, EBX; 0 on Intel's CPUs.
    pub extended_8_ebx: u32,
    /// CPUID 8000_0021, EAX; 0 on Intel's CPUs.
    pub extended_21_eax: u32,
    /// CPUID 8000_0021, ECX; 0 on Intel's CPUs.
    pub extended_21_ecx: u32,
    /// IA32_ARCH_CAPABILITIES; 0 without it.
    pub capabilities: u64,
}

impl Cpu {
    /// With the bits that AMD has invented after these CPUs were made. Where there is a hypervisor, it has set them.
    /// `takes_sbpb`: PRED_CMD takes SBPB, which it does since the microcode by which IBPB is for types of branches, too.
    pub fn completed(mut self, takes_sbpb: impl FnOnce() -> bool) -> Cpu {
        let Maker::Amd { family } = self.maker else {
            return self;
        };
        if self.is_virtual {
            return self;
        }
        match family {
            // Zen 3 and 4.
            0x19 => {
                self.extended_8_ebx |= extended_8::BTC_NO;
                if self.has_ibpb() && takes_sbpb() {
                    self.extended_21_eax |= extended_21::IBPB_BRTYPE | extended_21::SBPB;
                }
                if self.extended_21_ecx & extended_21::TSA_NO == 0 {
                    // VERW does nothing of that with older microcode, and no harm.
                    self.extended_21_eax |= extended_21::VERW_CLEAR;
                }
            }
            ..0x19 => {
                if self.has_ibpb() {
                    self.extended_21_eax |= extended_21::IBPB_BRTYPE;
                }
                if family >= 0x17 && !self.has_threads {
                    // A thread by itself has too few entries for it.
                    self.extended_21_eax |= extended_21::SRSO_NO;
                }
            }
            _ => {}
        }
        self
    }

    pub fn has_ibpb(&self) -> bool {
        self.leaf_7_edx & leaf_7::IBRSB != 0 || self.extended_8_ebx & extended_8::IBPB != 0
    }

    pub fn has_l1d_flush(&self) -> bool {
        self.leaf_7_edx & leaf_7::L1D_FLUSH != 0
    }

    /// Does SPEC_CTRL exist?
    pub fn has_spec_ctrl(&self) -> bool {
        const INTEL: u32 = leaf_7::IBRSB | leaf_7::STIBP | leaf_7::SSBD;
        const AMD: u32 = extended_8::IBRS | extended_8::STIBP | extended_8::SSBD;
        self.leaf_7_edx & INTEL != 0 || self.extended_8_ebx & AMD != 0
    }

    fn is_amd(&self) -> bool {
        matches!(self.maker, Maker::Amd { .. })
    }

    /// Does the history of a guest's branches choose among the hypervisor's? Below IBRS that is enhanced; a hypervisor
    /// may hide that it is.
    fn has_bhi(&self) -> bool {
        matches!(self.maker, Maker::Intel { family: 6, .. })
            && self.capabilities & capability::BHI_NO == 0
            && (self.is_virtual || self.capabilities & capability::IBRS_ALL != 0)
    }

    /// The kind of IBRS to use: that which is best.
    fn ibrs(&self) -> Defences {
        let enhanced = self.capabilities & capability::IBRS_ALL != 0
            || self.extended_8_ebx & extended_8::IBRS_ALWAYS != 0;
        if self.extended_21_eax & extended_21::AUTO_IBRS != 0 {
            Defences::AUTO_IBRS
        } else if self.leaf_7_edx & leaf_7::IBRSB == 0 && self.extended_8_ebx & extended_8::IBRS == 0 {
            Defences::empty()
        } else if enhanced {
            Defences::IBRS
        } else {
            Defences::IBRS_AT_EXITS
        }
    }

    /// What of buffers and L1D needs to be cleared, and what could be.
    fn clearing(&self) -> (Defences, Defences) {
        use capability::*;
        let is = |bit| self.capabilities & bit != 0;
        let md_clear = self.leaf_7_edx & leaf_7::MD_CLEAR != 0;
        let verw_clear = self.extended_21_eax & extended_21::VERW_CLEAR != 0
            && self.extended_21_ecx & extended_21::TSA_NO != extended_21::TSA_NO;
        let mut useful = Defences::empty();
        // CPUs without L1TF that have the command all say so.
        useful.set(
            Defences::L1D_FLUSH,
            self.has_l1d_flush() && !is(RDCL_NO | SKIP_L1DFL_VMENTRY),
        );
        useful.set(
            Defences::MD_CLEAR,
            // By what a transaction that was aborted leaves behind, where not by less (TAA).
            md_clear && (!is(MDS_NO) || self.rtm && !is(TAA_NO))
                || is(RFDS_CLEAR) && !is(RFDS_NO)
                || verw_clear,
        );
        let mut possible = Defences::empty();
        possible.set(Defences::L1D_FLUSH, self.has_l1d_flush());
        possible.set(Defences::MD_CLEAR, md_clear || is(RFDS_CLEAR) || verw_clear);
        (useful, possible)
    }

    /// What is done.
    pub fn used(&self, wish: Wish) -> Defences {
        let (clearing, can_clear) = self.clearing();
        let mut used = Defences::empty();
        // One by one, as some are needed only where others are not used.
        let mut decide = |which: Defences, useful: bool, possible: bool| {
            let on = possible && (useful && !wish.off.intersects(which) || wish.on.intersects(which));
            used.set(which, on);
            on
        };
        for which in [Defences::L1D_FLUSH, Defences::MD_CLEAR] {
            decide(which, clearing.contains(which), can_clear.contains(which));
        }
        let (intel, amd) = (self.leaf_7_edx, self.extended_8_ebx);
        let kind = self.ibrs();
        let ibrs = kind != Defences::empty() && decide(kind, true, true);
        // Intel's comes with IBRS, and costs much without.
        let stibp = amd & extended_8::STIBP != 0;
        decide(Defences::STIBP, stibp, stibp || intel & leaf_7::STIBP != 0);
        let has_bhi_control = self.leaf_7_2_edx & leaf_7_2::BHI_CTRL != 0;
        let bhi_control = decide(Defences::BHI_DIS_S, self.has_bhi(), has_bhi_control);
        decide(Defences::BHB, self.has_bhi() && !bhi_control, true);

        let has = |bit| self.extended_21_eax & bit != 0;
        let confuses_types = self.is_amd() && amd & extended_8::BTC_NO == 0;
        let overflows = self.is_amd() && !has(extended_21::SRSO_NO) && has(extended_21::IBPB_BRTYPE);
        let reduces = decide(
            Defences::SPEC_REDUCE,
            self.is_amd() && !has(extended_21::SRSO_NO),
            has(extended_21::SRSO_MSR_FIX),
        );
        let ibpb = self.has_ibpb();
        let at_exits = decide(
            Defences::IBPB_AT_EXITS,
            confuses_types || overflows && !reduces,
            ibpb,
        );
        decide(Defences::IBPB, !at_exits, ibpb);

        // With Intel's enhanced IBRS guests have no hand in the predictions of returns, but on some CPUs in that of the
        // first after an exit; automatic IBRS clears them, as IBPB does on some CPUs. And where indirect branches are
        // open, it is of no use to defend returns.
        let enhanced = kind == Defences::IBRS && !self.is_amd();
        let cleared = kind == Defences::AUTO_IBRS || at_exits && amd & extended_8::IBPB_RET != 0;
        let returns = (ibrs && !enhanced || at_exits) && !cleared;
        let overwrites = decide(Defences::RSB, returns, true);
        let first = enhanced && self.capabilities & capability::PBRSB_NO == 0 && !overwrites;
        decide(Defences::PBRSB, ibrs && first, first);
        let zen_1 = matches!(self.maker, Maker::Amd { family: 0x17 | 0x18 }) && !stibp;
        decide(Defences::DIVIDE, zen_1, self.is_amd());

        if used.contains(Defences::L1D_FLUSH) {
            // The command clears the buffers as well.
            used.remove(Defences::MD_CLEAR);
        }
        used
    }

    /// What stays open with `used`.
    pub fn exposed(&self, used: Defences) -> Exposed {
        let mut exposed = Exposed::empty();
        exposed.set(
            Exposed::BRANCHES,
            !used.intersects(Defences::ANY_IBRS | Defences::IBPB_AT_EXITS),
        );
        // The cores of Skylake's kind that have enhanced IBRS; from Ice Lake on, guests have no hand in it.
        const AFFECTED: [u32; 5] = [0x55, 0x8e, 0x9e, 0xa5, 0xa6];
        exposed.set(
            Exposed::ITS,
            matches!(self.maker, Maker::Intel { family: 6, model } if AFFECTED.contains(&model))
                && self.capabilities & capability::IBRS_ALL != 0
                && self.capabilities & capability::ITS_NO == 0,
        );
        let has = |bit| self.extended_21_eax & bit != 0;
        exposed.set(
            Exposed::SRSO,
            matches!(self.maker, Maker::Amd { family: 0x17..=0x1a })
                && !has(extended_21::SRSO_NO)
                && !used.intersects(Defences::IBPB_AT_EXITS | Defences::SPEC_REDUCE),
        );
        exposed.set(
            Exposed::THREADS,
            self.has_threads
                && self.is_amd()
                && self.extended_8_ebx & extended_8::BTC_NO == 0
                && !used.contains(Defences::STIBP),
        );
        exposed
    }

    /// The SPEC_CTRL that CPUs have while they run the hypervisor.
    pub fn spec_ctrl(used: Defences) -> u32 {
        let bits = [
            (Defences::IBRS | Defences::IBRS_AT_EXITS, spec_ctrl::IBRS),
            (Defences::STIBP, spec_ctrl::STIBP),
            (Defences::BHI_DIS_S, spec_ctrl::BHI_DIS_S),
        ];
        let set = bits.iter().filter(|(which, _)| used.intersects(*which));
        set.fold(0, |all, (_, bit)| all | bit)
    }

    /// What each exit and entry has to do, of any guest.
    pub fn actions(&self, used: Defences) -> Actions {
        // STIBP costs guests where the CPU does not say that it is to stay set.
        let stibp_stays = !self.is_amd() || self.extended_8_ebx & extended_8::STIBP_ALWAYS != 0;
        let actions = [
            (used.contains(Defences::IBRS_AT_EXITS), Actions::SPEC_CTRL),
            (used.contains(Defences::STIBP) && !stibp_stays, Actions::SPEC_CTRL),
            (used.contains(Defences::IBPB_AT_EXITS), Actions::IBPB),
            (used.contains(Defences::RSB), Actions::RSB),
            (used.contains(Defences::PBRSB), Actions::CALL),
            (used.contains(Defences::BHB), Actions::BHB),
            (used.contains(Defences::MD_CLEAR), Actions::VERW),
            (used.contains(Defences::DIVIDE), Actions::DIVIDE),
        ];
        let taken = actions.into_iter().filter(|(needed, _)| *needed);
        taken.map(|(_, action)| action).collect()
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
