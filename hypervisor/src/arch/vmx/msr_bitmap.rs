//! The MSR bitmap (SDM 3C 25.6.9), made from the policy that both vendors share. Pure.

use crate::arch::msr_policy::{DIRECT, Direct};

/// Offset of the bits for reads; those for writes are 2 KiB further on.
const READS: usize = 0;
const WRITES: usize = 2048;

/// Byte and bit of `msr` within the reads or the writes; `None`: outside of the two ranges, always exits.
fn position(msr: u32) -> Option<(usize, u8)> {
    let base = match msr >> 13 {
        0 => 0,
        n if n == 0xc000_0000_u32 >> 13 => 1024,
        _ => return None,
    };
    let index = msr as usize & 0x1fff;
    Some((base + index / 8, 1 << (index % 8)))
}

/// Fill the page: everything exits but what the policy gives to guests.
pub fn fill(bitmap: &mut [u8; 4096]) {
    bitmap.fill(0xff);
    for &(msr, direct) in DIRECT {
        let Some((byte, bit)) = position(msr) else {
            continue;
        };
        bitmap[WRITES + byte] &= !bit;
        if direct == Direct::ReadWrite {
            bitmap[READS + byte] &= !bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::msr_policy::msr;

    fn exits(bitmap: &[u8; 4096], msr: u32) -> (bool, bool) {
        let (byte, bit) = position(msr).unwrap();
        (bitmap[READS + byte] & bit != 0, bitmap[WRITES + byte] & bit != 0)
    }

    #[test]
    fn only_the_policy_passes() {
        let mut bitmap = [0; 4096];
        fill(&mut bitmap);
        assert_eq!(exits(&bitmap, msr::LSTAR), (false, false));
        assert_eq!(exits(&bitmap, msr::SYSENTER_EIP), (false, false));
        assert_eq!(exits(&bitmap, msr::PRED_CMD), (true, false));
        assert_eq!(exits(&bitmap, msr::EFER), (true, true));
        assert_eq!(exits(&bitmap, msr::SPEC_CTRL), (true, true));
        let clear: u32 = bitmap.iter().map(|b| b.count_zeros()).sum();
        let granted = DIRECT
            .iter()
            .map(|&(_, d)| if d == Direct::ReadWrite { 2 } else { 1 });
        assert_eq!(clear, granted.sum::<u32>());
    }

    #[test]
    fn layout() {
        assert_eq!(position(0x1b), Some((3, 1 << 3)));
        assert_eq!(position(0xc000_0080), Some((1024 + 16, 1)));
        assert_eq!(position(0x4000_0000), None);
        assert_eq!(position(0x2000), None);
    }
}
