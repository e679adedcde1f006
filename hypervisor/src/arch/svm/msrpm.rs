//! The MSR permission map (APM vol. 2, 15.11), one for all guests, made from [`msr_policy::DIRECT`].

use zerocopy::FromZeros;

use crate::arch::msr_policy::{self, Direct};

/// Two bits a register, read then write, 1 = exits; for three ranges of 8192 registers.
#[derive(FromZeros)]
#[repr(C, align(4096))]
pub struct Msrpm([u8; 8192]);

/// First register of each range, and the byte where its bits begin.
const RANGES: [(u32, usize); 3] = [(0, 0), (0xc000_0000, 0x800), (0xc001_0000, 0x1000)];

impl Msrpm {
    /// Everything exits, but for the pass-through list and `more`.
    pub fn fill(&mut self, more: impl IntoIterator<Item = (u32, Direct)>) {
        self.0.fill(0xff);
        for (msr, direct) in msr_policy::DIRECT.iter().copied().chain(more) {
            let bits = match direct {
                Direct::ReadWrite => 0b11,
                Direct::WriteOnly => 0b10,
            };
            // A register outside the ranges always exits.
            if let Some((byte, shift)) = position(msr)
                && let Some(byte) = self.0.get_mut(byte)
            {
                *byte &= !(bits << shift);
            }
        }
    }
}

/// Byte and shift of the two bits of `msr`.
fn position(msr: u32) -> Option<(usize, u32)> {
    RANGES.iter().find_map(|&(first, base)| {
        let index = msr.checked_sub(first).filter(|&i| i < 8192)?;
        Some((base + index as usize / 4, index % 4 * 2))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::msr_policy::msr;

    #[test]
    fn only_the_list_passes() {
        let mut map = std::boxed::Box::new(Msrpm([0; 8192]));
        map.fill([
            (msr::SPEC_CTRL, Direct::ReadWrite),
            (msr::PRED_CMD, Direct::WriteOnly),
        ]);
        let bits = |msr| position(msr).map_or(3, |(byte, shift)| map.0[byte] >> shift & 3);
        assert_eq!(bits(msr::LSTAR), 0);
        assert_eq!(bits(msr::TSC_AUX), 0);
        assert_eq!(bits(msr::SPEC_CTRL), 0);
        assert_eq!(bits(msr::PRED_CMD), 1, "reads exit, writes do not");
        assert_eq!(bits(msr::EFER), 3);
        assert_eq!(bits(msr::PAT), 3);
        assert_eq!(bits(0xc001_0114), 3);
        assert_eq!(bits(0x4000_0000), 3);
        let open: u32 = map.0.iter().map(|byte| byte.count_zeros()).sum();
        let granted = |&(_, direct): &(u32, Direct)| if direct == Direct::ReadWrite { 2 } else { 1 };
        assert_eq!(open, msr_policy::DIRECT.iter().map(granted).sum::<u32>() + 3);
    }

    #[test]
    fn positions_of_the_manual() {
        assert_eq!(position(0), Some((0, 0)));
        assert_eq!(position(0x1fff), Some((0x7ff, 6)));
        assert_eq!(position(0x2000), None);
        assert_eq!(position(0xc000_0000), Some((0x800, 0)));
        assert_eq!(position(0xc001_1fff), Some((0x17ff, 6)));
    }
}
