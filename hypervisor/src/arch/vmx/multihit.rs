//! Instruction fetches that hang a CPU (iTLB multihit, CVE-2018-12207). Pure.
//!
//! A fetch that finds a page in the TLB both as a part of a large one and as a small one is a machine check on such a CPU. A guest that changes the size
//! of a page and executes from it can bring that about, unless what its nested page tables let it execute are small pages only.

use crate::arch::machine::family_and_model;
use crate::arch::speculation::bits::capability::IF_PSCHANGE_MC_NO;

/// Models of family 6 that have VT-x and are not affected, without saying so: Atoms and Xeon Phis.
const IMMUNE: [u32; 22] = [
    0x1c, 0x26, 0x27, 0x35, 0x36, // Bonnell, Saltwell
    0x37, 0x4a, 0x4c, 0x4d, 0x5a, 0x5d, 0x65, 0x6e, 0x75, // Silvermont, Airmont
    0x5c, 0x5f, 0x7a, // Goldmont
    0x86, 0x96, 0x9c, // Tremont
    0x57, 0x85, // Knights Landing, Knights Mill
];

/// Is a CPU of Intel's affected that has this signature (CPUID 1, EAX) and these capabilities (0 without the register)? One that nobody knows is
/// believed to be.
pub fn affected(signature: u32, capabilities: u64) -> bool {
    let (family, model) = family_and_model(signature);
    family == 6 && !IMMUNE.contains(&model) && capabilities & IF_PSCHANGE_MC_NO == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_is_affected_and_atom_is_not() {
        // Haswell, Cascade Lake; Goldmont; Pentium 4.
        assert!(affected(0x0003_06c3, 0) && affected(0x0005_0657, 1 << 5));
        assert!(!affected(0x0005_0657, IF_PSCHANGE_MC_NO));
        assert!(!affected(0x0005_06c9, 0) && !affected(0x0000_0f43, 0));
    }
}
