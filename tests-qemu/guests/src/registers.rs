//! The registers that a hypervisor leaves to whoever runs last: x87, SSE and AVX state, and debug registers.
// UNSAFETY: XSAVE and XRSTOR.
#![expect(unsafe_code, reason = "XSAVE and XRSTOR")]

use core::arch::asm;

use crate::cpu;

/// Words of [`Registers`]: FCW, MXCSR; ST0 to ST7, XMM0 to XMM15 and the upper halves of YMM0 to YMM15, two each; DR0 to DR3, DR6, DR7.
const WORDS: usize = 2 + 2 * (8 + 16 + 16) + 6;

/// The values of them all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registers([u64; WORDS]);

/// An area of XSAVE's standard format, with room for AVX.
#[repr(C, align(64))]
struct Area([u64; AREA]);

/// Its words.
const AREA: usize = 1024 / 8;

/// In words of the area (SDM 1, 10.5.1 and 13.4): MXCSR, ST0, XMM0, XSTATE_BV.
const MXCSR: usize = 24 / 8;
const ST: usize = 32 / 8;
const XMM: usize = 160 / 8;
const XSTATE_BV: usize = 512 / 8;

const AVX: u64 = 1 << 2;

/// x87, SSE, and AVX if the CPU has it.
fn components() -> u64 {
    u64::from(cpu::cpuid(0xd, 0)[0]) & 0b111
}

/// Where the area has the upper halves of YMM registers, in words.
fn ymm() -> usize {
    cpu::cpuid(0xd, 2)[1] as usize / 8
}

/// Lets this vCPU use them: CR4 and XCR0.
pub fn enable() {
    const OSFXSR: u64 = 1 << 9;
    const OSXSAVE: u64 = 1 << 18;
    cpu::write_cr4(cpu::read_cr4() | OSFXSR | OSXSAVE).expect("there is XSAVE");
    cpu::xsetbv(0, components()).expect("what CPUID says");
}

impl Registers {
    /// As a vCPU is made. The x87 control word is that of Xen, not of FINIT's.
    pub fn reset() -> Registers {
        let mut words = [0; WORDS];
        (words[0], words[1]) = (0x37f, 0x1f80);
        (words[WORDS - 2], words[WORDS - 1]) = (0xffff_0ff0, 0x400);
        Registers(words)
    }

    /// Values that differ from those of any other `seed` below 16, in each register that can differ so much.
    pub fn pattern(seed: u64) -> Registers {
        let mut words = core::array::from_fn(|index| seed << 60 | 0x0123_4567_89ab << 8 | index as u64);
        // Rounding modes; exceptions are masked.
        words[0] = 0x37f | (seed % 4) << 10;
        words[1] = 0x1f80 | (seed % 4) << 13;
        // The upper words of x87 registers have 16 bits.
        for word in words[2..18].iter_mut().skip(1).step_by(2) {
            *word &= 0xffff;
        }
        let has_avx = components() & AVX != 0;
        if !has_avx {
            words[50..82].fill(0);
        }
        // Breakpoints that are off, with conditions that exist.
        words[WORDS - 2] = 0xffff_0ff0 | (seed % 16);
        words[WORDS - 1] = 0x400 | [0x1111, 0x3333, 0x5555, 0x7777][seed as usize % 4] << 16;
        Registers(words)
    }

    /// What is in the registers of this vCPU.
    pub fn read() -> Registers {
        let mut area = Area([0; AREA]);
        // SAFETY: the area is aligned, and large enough for the components; SSE is not the compiler's.
        unsafe {
            asm!("xsave64 [{}]", in(reg) &raw mut area, in("eax") components(), in("edx") 0, options(nostack, preserves_flags));
        }
        let mut words = [0; WORDS];
        words[0] = area.0[0] & 0xffff;
        words[1] = area.0[MXCSR] & 0xffff_ffff;
        words[2..18].copy_from_slice(&area.0[ST..ST + 16]);
        for word in words[2..18].iter_mut().skip(1).step_by(2) {
            *word &= 0xffff;
        }
        words[18..50].copy_from_slice(&area.0[XMM..XMM + 32]);
        if components() & AVX != 0 {
            words[50..82].copy_from_slice(&area.0[ymm()..ymm() + 32]);
        }
        words[82..].copy_from_slice(&[
            cpu::read_dr0(),
            cpu::read_dr1(),
            cpu::read_dr2(),
            cpu::read_dr3(),
            cpu::read_dr6(),
            cpu::read_dr7(),
        ]);
        Registers(words)
    }

    /// Puts these values there.
    pub fn write(&self) {
        let Registers(words) = self;
        let mut area = Area([0; AREA]);
        area.0[0] = words[0];
        area.0[MXCSR] = words[1];
        area.0[ST..ST + 16].copy_from_slice(&words[2..18]);
        area.0[XMM..XMM + 32].copy_from_slice(&words[18..50]);
        if components() & AVX != 0 {
            area.0[ymm()..ymm() + 32].copy_from_slice(&words[50..82]);
        }
        area.0[XSTATE_BV] = components();
        // SAFETY: as for `read`; the header names components that are enabled, and MXCSR has bits that exist.
        unsafe {
            asm!("xrstor64 [{}]", in(reg) &raw const area, in("eax") components(), in("edx") 0, options(nostack, preserves_flags));
        }
        let writes = [
            cpu::write_dr0(words[82]),
            cpu::write_dr1(words[83]),
            cpu::write_dr2(words[84]),
            cpu::write_dr3(words[85]),
            cpu::write_dr6(words[86]),
            cpu::write_dr7(words[87]),
        ];
        assert_eq!(writes, [Ok(()); 6]);
    }

    /// The first word in which `self` and `other` differ, with its values.
    pub fn difference(&self, other: &Registers) -> Option<(usize, u64, u64)> {
        (0..WORDS)
            .map(|index| (index, self.0[index], other.0[index]))
            .find(|(_, own, others)| own != others)
    }
}
