//! What CR0 and CR4 of a guest may be, where a write exits (SDM 2B, MOV to and from control registers; SDM 3A, 2.5). Pure.

use crate::arch::{CpuMode, Paging, SysReg};

const CR0_PE: u64 = 1 << 0;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_PCIDE: u64 = 1 << 17;
/// VME to PCE, OSFXSR, OSXMMEXCPT: what every CPU with 64 bits has.
const CR4_EXISTS: u64 = 0x7ff;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// SCE, LME, LMA, NXE. SVME does not exist for guests.
const EFER_EXISTS: u64 = 1 << 0 | EFER_LME | EFER_LMA | 1 << 11;

/// Would a CPU that is in state `now` take `value` in CR0?
pub fn valid_cr0(now: &Paging, mode: CpuMode, value: u64) -> bool {
    let turned_on = value & !now.cr0 & CR0_PG != 0;
    let turned_off = now.cr0 & !value & CR0_PG != 0;
    value >> 32 == 0
        && (value & CR0_PG == 0 || value & CR0_PE != 0)
        && (value & CR0_NW == 0 || value & CR0_CD != 0)
        && !(turned_on && now.efer & EFER_LME != 0 && now.cr4 & CR4_PAE == 0)
        && !(turned_off && (mode == CpuMode::Long || now.cr4 & CR4_PCIDE != 0))
}

/// Would a CPU that has the bits `features` besides, by what its CPUID shows, and is in state `now` take `value` in CR4?
pub fn valid_cr4(now: &Paging, features: u64, value: u64) -> bool {
    let is_long = now.efer & EFER_LMA != 0;
    let wants_pcids = value & !now.cr4 & CR4_PCIDE != 0;
    value & !(CR4_EXISTS | features) == 0
        && !(is_long && value & CR4_PAE == 0)
        && !(wants_pcids && (!is_long || now.cr3 & 0xfff != 0))
}

/// Has `value` no bit that EFER does not have (SDM 3A, 2.2.1)?
pub fn valid_efer(value: u64) -> bool {
    value & !EFER_EXISTS == 0
}

/// Could a CPU with the bits `features` in CR4 besides those that all have, and so many physical-address bits, be in `state`, which somebody describes
/// as a whole? (CR3 may be what no table can be at; then the first access is a triple fault.)
pub fn valid_state(state: &Paging, features: u64, address_bits: u32) -> bool {
    let before = Paging {
        cr0: 0,
        cr3: 0,
        cr4: 0,
        ..*state
    };
    let is_long = state.efer & EFER_LME != 0 && state.cr0 & CR0_PG != 0;
    valid_efer(state.efer)
        && (state.efer & EFER_LMA != 0) == is_long
        && valid_cr4(&before, features, state.cr4)
        && valid_cr0(
            &Paging {
                cr4: state.cr4,
                ..before
            },
            CpuMode::Protected32,
            state.cr0,
        )
        && state.cr3 >> address_bits == 0
}

/// Would a CPU take `value` in this register, which hardware switches with the vCPU or the hypervisor loads for it? (SDM 2B, WRMSR; APM vol. 2, 5.3.1: addresses
/// of 48 bits, as no guest has LA57.)
pub fn valid_switched(register: SysReg, value: u64) -> bool {
    match register {
        SysReg::Lstar | SysReg::Cstar | SysReg::KernelGsBase | SysReg::SysenterEsp | SysReg::SysenterEip => {
            value.cast_signed() << 16 >> 16 == value.cast_signed()
        }
        SysReg::Sfmask | SysReg::TscAux => value >> 32 == 0,
        _ => true,
    }
}

/// Does a CPU in this state page by PAE tables, of which it keeps the first four entries?
pub fn keeps_pdptes(state: &Paging) -> bool {
    state.cr0 & CR0_PG != 0 && state.cr4 & CR4_PAE != 0 && state.efer & EFER_LME == 0
}

/// Would a CPU with so many physical-address bits take this first entry of PAE tables (SDM 3A table 4-8)?
pub fn valid_pdpte(entry: u64, address_bits: u32) -> bool {
    const PRESENT: u64 = 1;
    const RESERVED: u64 = 0x1e6;
    entry & PRESENT == 0 || entry & RESERVED == 0 && entry >> address_bits == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Paging = Paging {
        cr0: CR0_PE | CR0_PG,
        cr3: 0x1000,
        cr4: CR4_PAE,
        efer: EFER_LME | EFER_LMA,
        rflags: 2,
    };

    #[test]
    fn paging_needs_protection_and_long_mode_needs_pae() {
        let off = Paging {
            cr0: CR0_PE,
            cr4: 0,
            efer: EFER_LME,
            ..LONG
        };
        assert!(!valid_cr0(&off, CpuMode::Protected32, CR0_PG | CR0_PE));
        let off = Paging { cr4: CR4_PAE, ..off };
        assert!(valid_cr0(&off, CpuMode::Protected32, CR0_PG | CR0_PE));
        assert!(!valid_cr0(&off, CpuMode::Protected32, CR0_PG));
        assert!(!valid_cr4(&LONG, 0, 0));
    }

    #[test]
    fn cache_bits_and_reserved_bits() {
        assert!(!valid_cr0(&LONG, CpuMode::Long, LONG.cr0 | CR0_NW));
        assert!(valid_cr0(&LONG, CpuMode::Long, LONG.cr0 | CR0_NW | CR0_CD));
        assert!(!valid_cr0(&LONG, CpuMode::Long, LONG.cr0 | 1 << 32));
        // UMIP to CET
        for hidden in 11..24 {
            assert!(!valid_cr4(&LONG, 0, CR4_PAE | 1 << hidden), "{hidden}");
            assert!(valid_cr4(&LONG, 1 << hidden, CR4_PAE | 1 << hidden), "{hidden}");
        }
    }

    #[test]
    fn long_mode_is_left_from_compatibility_mode() {
        assert!(!valid_cr0(&LONG, CpuMode::Long, CR0_PE));
        assert!(valid_cr0(&LONG, CpuMode::Protected32, CR0_PE));
        let pcids = Paging {
            cr4: CR4_PAE | CR4_PCIDE,
            ..LONG
        };
        assert!(!valid_cr0(&pcids, CpuMode::Protected32, CR0_PE));
    }

    #[test]
    fn what_wrmsr_would_not_take() {
        for register in [SysReg::Lstar, SysReg::Cstar, SysReg::KernelGsBase] {
            assert!(
                valid_switched(register, 0x7fff_ffff_ffff) && valid_switched(register, 0xffff_8000 << 32)
            );
            assert!(!valid_switched(register, 1 << 47) && !valid_switched(register, 0xfffe_8000 << 32));
        }
        for register in [SysReg::Sfmask, SysReg::TscAux] {
            assert!(valid_switched(register, 0xffff_ffff) && !valid_switched(register, 1 << 32));
        }
        assert!(valid_switched(SysReg::Star, u64::MAX));
    }

    #[test]
    fn first_entries_of_pae_tables() {
        let pae = Paging { efer: 0, ..LONG };
        assert!(keeps_pdptes(&pae));
        assert!(!keeps_pdptes(&LONG));
        assert!(!keeps_pdptes(&Paging { cr0: CR0_PE, ..pae }));
        assert!(!keeps_pdptes(&Paging { cr4: 0, ..pae }));
        assert!(valid_pdpte(0x5019, 40) && valid_pdpte(u64::MAX - 1, 40));
        for bad in [3, 5, 0x21, 0x41, 0x81, 0x101, 1 << 40 | 1, 1 << 63 | 1] {
            assert!(!valid_pdpte(bad, 40), "{bad:#x}");
        }
    }

    #[test]
    fn pcids_are_turned_on_in_long_mode_with_pcid_0() {
        assert!(valid_cr4(&LONG, CR4_PCIDE, CR4_PAE | CR4_PCIDE));
        let in_use = Paging { cr3: 0x1001, ..LONG };
        assert!(!valid_cr4(&in_use, CR4_PCIDE, CR4_PAE | CR4_PCIDE));
        let legacy = Paging { efer: 0, ..LONG };
        assert!(!valid_cr4(&legacy, CR4_PCIDE, CR4_PAE | CR4_PCIDE));
    }
}
