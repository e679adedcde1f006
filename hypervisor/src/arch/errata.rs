//! Bits that AMD's revision guides, or its manual, want set in a CPU before it does anything for long: firmware mostly has.
// UNSAFETY: WRMSR.
#![expect(unsafe_code, reason = "WRMSR")]

use super::machine::{family_and_model, is_amd};
use super::try_msr;

const LS_CFG: u32 = 0xc001_1020;
const DE_CFG: u32 = 0xc001_1029;
const BP_CFG: u32 = 0xc001_102e;

/// One bit, and the CPUs, by family and model, that are to have it.
struct Fix {
    register: u32,
    bit: u64,
    wanted: fn(u32, u32) -> bool,
}

const FIXES: [Fix; 4] = [
    // LFENCE waits for all before it, so that a TSC read behind it is not early (APM vol. 3, LFENCE; vol. 2, 3.2.1). Families 0Fh and 11h
    // have no such register, and always wait.
    Fix {
        register: DE_CFG,
        bit: 1 << 1,
        wanted: |family, _| family >= 0x10 && family != 0x11,
    },
    // Erratum 793: locked accesses to write-combining memory hang (revision guide 51810; XSA-82).
    Fix {
        register: LS_CFG,
        bit: 1 << 15,
        wanted: |family, model| family == 0x16 && model < 0x10,
    },
    // "Zenbleed": registers that were zeroed show what others had in them (AMD-SB-7008). Later microcode does not need it.
    Fix {
        register: DE_CFG,
        bit: 1 << 9,
        wanted: |family, model| {
            family == 0x17 && matches!(model, 0x30..=0x4f | 0x60..=0x7f | 0x90..=0x91 | 0xa0..=0xaf)
        },
    },
    // Erratum 1485: #UD out of nothing while STIBP is off (revision guide 57095).
    Fix {
        register: BP_CFG,
        bit: 1 << 5,
        wanted: |family, model| family == 0x19 && matches!(model, 0x10..=0x1f | 0x60..=0xaf),
    },
];

/// Do it on this CPU. Once its exception handlers are there.
pub fn fix() {
    if !is_amd() {
        return;
    }
    let (family, model) = family_and_model(raw_cpuid::cpuid!(1).eax);
    for fix in FIXES.iter().filter(|fix| (fix.wanted)(family, model)) {
        if let Some(value) = try_msr::read(fix.register)
            && value & fix.bit == 0
        {
            // SAFETY: the bit is the one that AMD documents for this CPU.
            unsafe { try_msr::write(fix.register, value | fix.bit) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_get_what_they_need() {
        let fixes = |signature| {
            let (family, model) = family_and_model(signature);
            let wanted = FIXES.iter().filter(|fix| (fix.wanted)(family, model));
            wanted.map(|fix| (fix.register, fix.bit)).collect::<Vec<_>>()
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
        assert_eq!(fixes(0x0002_0fb1), [], "Athlon 64 X2");
    }
}
