//! Bits that AMD's revision guides, or its manual, want set or clear in a CPU before it does anything for long: firmware mostly has seen to them. And
//! CPUs of Intel's whose timer needs newer microcode.
// UNSAFETY: WRMSR.
#![expect(unsafe_code, reason = "WRMSR")]

use core::ops::RangeInclusive;

use super::machine::{family_and_model, is_amd};
use super::speculation::bits::BP_CFG;
use super::try_msr;

const LS_CFG: u32 = 0xc001_1020;
const DE_CFG: u32 = 0xc001_1029;
const INT_PENDING_MSG: u32 = 0xc001_0055;

/// Bits, and the CPUs, by family and model, that are to have them set, or clear.
struct Fix {
    register: u32,
    set: u64,
    clear: u64,
    wanted: fn(u32, u32) -> bool,
}

const FIXES: [Fix; 5] = [
    // LFENCE waits for all before it, so that a TSC read behind it is not early (APM vol. 3, LFENCE; vol. 2, 3.2.1). Families 0Fh and 11h
    // have no such register, and always wait.
    Fix {
        register: DE_CFG,
        set: 1 << 1,
        clear: 0,
        wanted: |family, _| family >= 0x10 && family != 0x11,
    },
    // Erratum 793: locked accesses to write-combining memory hang (revision guide 51810; XSA-82).
    Fix {
        register: LS_CFG,
        set: 1 << 15,
        clear: 0,
        wanted: |family, model| family == 0x16 && model < 0x10,
    },
    // "Zenbleed": registers that were zeroed show what others had in them (AMD-SB-7008). Later microcode does not need it.
    Fix {
        register: DE_CFG,
        set: 1 << 9,
        clear: 0,
        wanted: |family, model| {
            family == 0x17 && matches!(model, 0x30..=0x4f | 0x60..=0x7f | 0x90..=0x91 | 0xa0..=0xaf)
        },
    },
    // Erratum 1485: #UD out of nothing while STIBP is off (revision guide 57095).
    Fix {
        register: BP_CFG,
        set: 1 << 5,
        clear: 0,
        wanted: |family, model| family == 0x19 && matches!(model, 0x10..=0x1f | 0x60..=0xaf),
    },
    // Erratum 400: where all cores halt, C1E stops the local APICs' timers, which are all that wakes a CPU (revision guide 41322).
    Fix {
        register: INT_PENDING_MSG,
        set: 0,
        clear: 1 << 28 | 1 << 27,
        wanted: |family, _| matches!(family, 0xf..=0x11),
    },
];

/// Do it on this CPU. Once its exception handlers are there.
pub fn fix() {
    if !is_amd() {
        return;
    }
    let (family, model) = family_and_model(raw_cpuid::cpuid!(1).eax);
    for fix in FIXES.iter().filter(|fix| (fix.wanted)(family, model)) {
        // SAFETY: the bits are those that AMD documents for this CPU.
        unsafe { try_msr::change(fix.register, fix.clear, fix.set) };
    }
}

/// By model and steppings: the microcode from which on the TSC-deadline timer of a family 6 CPU does not lose interrupts (in the specification updates, "The
/// APIC timer may not generate an interrupt in TSC-deadline mode", of Haswell to Kaby Lake; Linux has the revisions).
const DEADLINE_MICROCODE: [(u32, RangeInclusive<u32>, u32); 18] = [
    (0x3c, ANY, 0x22),
    (0x3d, ANY, 0x25),
    (0x3f, 2..=2, 0x3a),
    (0x3f, 4..=4, 0x0f),
    (0x45, ANY, 0x20),
    (0x46, ANY, 0x17),
    (0x47, ANY, 0x17),
    (0x4e, ANY, 0xb2),
    (0x4f, ANY, 0x0b00_0020),
    (0x55, 3..=3, 0x0100_0136),
    (0x55, 4..=4, 0x0200_0014),
    (0x56, 2..=2, 0x0000_0011),
    (0x56, 3..=3, 0x0700_000e),
    (0x56, 4..=4, 0x0f00_000c),
    (0x56, 5..=5, 0x0e00_0003),
    (0x5e, ANY, 0xb2),
    (0x8e, ANY, 0x52),
    (0x9e, ANY, 0x52),
];
const ANY: RangeInclusive<u32> = 0..=0xf;

/// The microcode that this CPU would need for the TSC-deadline timer that it has; `None`: it is good as it is. In a virtual machine the timer is not the
/// CPU's, nor is the revision that it shows.
pub fn missing_deadline_microcode() -> Option<u32> {
    const BIOS_SIGN_ID: u32 = 0x8b;
    const DEADLINE: u32 = 1 << 24;
    const HYPERVISOR: u32 = 1 << 31;
    if is_amd() || raw_cpuid::cpuid!(1).ecx & (DEADLINE | HYPERVISOR) != DEADLINE {
        return None;
    }
    // SAFETY: the register takes any value; CPUID puts the revision there (SDM 3A, 10.11.7.1).
    unsafe { try_msr::write(BIOS_SIGN_ID, 0) };
    let signature = raw_cpuid::cpuid!(1).eax;
    let revision = try_msr::read(BIOS_SIGN_ID).unwrap_or(0) >> 32;
    deadline_microcode(signature, revision as u32)
}

/// The same by CPUID 1, EAX. Revision 0 is an emulator's, which has none.
fn deadline_microcode(signature: u32, revision: u32) -> Option<u32> {
    const FAMILY: u32 = 6;
    let (family, model) = family_and_model(signature);
    let (_, _, least) = DEADLINE_MICROCODE.iter().find(|(affected, steppings, _)| {
        family == FAMILY && model == *affected && steppings.contains(&(signature & 0xf))
    })?;
    (1..*least).contains(&revision).then_some(*least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_get_what_they_need() {
        let fixes = |signature| {
            let (family, model) = family_and_model(signature);
            let wanted = FIXES.iter().filter(|fix| (fix.wanted)(family, model));
            wanted.map(|fix| (fix.register, fix.set)).collect::<Vec<_>>()
        };
        let lfence = (DE_CFG, 1 << 1);
        for (name, signature, others) in [
            ("Kabini", 0x0070_0f01, &[(LS_CFG, 1 << 15)][..]),
            ("Beema", 0x0073_0f01, &[]),
            ("Naples", 0x0080_0f12, &[]),
            ("Rome", 0x0083_0f10, &[(DE_CFG, 1 << 9)]),
            ("Milan", 0x00a0_0f11, &[]),
            ("Genoa", 0x00a1_0f11, &[(BP_CFG, 1 << 5)]),
            ("Raphael", 0x00a6_0f12, &[(BP_CFG, 1 << 5)]),
        ] {
            assert_eq!(fixes(signature), [&[lfence], others].concat(), "{name}");
        }
        assert_eq!(fixes(0x0002_0fb1), [(INT_PENDING_MSG, 0)], "Athlon 64 X2");
        assert_eq!(fixes(0x0010_0fa0), [lfence, (INT_PENDING_MSG, 0)], "Phenom II X6");
    }

    #[test]
    fn microcode_that_the_deadline_timer_needs() {
        for (name, signature, revision, needs) in [
            ("Haswell-EP", 0x0003_06f2, 0x39, Some(0x3a)),
            ("Haswell-EP", 0x0003_06f2, 0x3a, None),
            ("Haswell-EX", 0x0003_06f4, 0x0e, Some(0x0f)),
            ("Broadwell-DE", 0x0005_0663, 0x0700_000d, Some(0x0700_000e)),
            ("Skylake-SP", 0x0005_0654, 0x0200_0013, Some(0x0200_0014)),
            ("Cascade Lake", 0x0005_0657, 0x0500_0001, None),
            ("Kaby Lake", 0x0009_06e9, 0x51, Some(0x52)),
            ("Kaby Lake, in an emulator", 0x0009_06e9, 0, None),
            ("Ice Lake", 0x0007_06e5, 1, None),
            ("Naples", 0x0080_0f12, 1, None),
        ] {
            assert_eq!(deadline_microcode(signature, revision), needs, "{name}");
        }
    }
}
