//! The MSR bitmap (SDM 3C 25.6.9), made from the policy that both vendors share. Pure.

use bitflags::bitflags;

use crate::arch::apic_page::reg;
use crate::arch::msr_policy::{DIRECT, Direct, msr};

/// Offset of the bits for reads; those for writes are 2 KiB further on.
const READS: usize = 0;
const WRITES: usize = 2048;

bitflags! {
    /// What a vCPU has beyond the policy. There is a bitmap for each combination.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Grants: u8 {
        /// The x2APIC that the hardware virtualizes.
        const X2APIC = 1 << 0;
        /// SPEC_CTRL, which is switched for it.
        const SPEC_CTRL = 1 << 1;
    }
}

impl Grants {
    /// Number of combinations.
    pub const COUNT: usize = 4;
}

/// The MSR of an x2APIC's register at offset 0.
const X2APIC: u32 = 0x800;

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

/// Fill the page: everything exits but what the policy gives to guests, `more`, and `grants`.
pub fn fill(bitmap: &mut [u8; 4096], more: impl IntoIterator<Item = (u32, Direct)>, grants: Grants) {
    bitmap.fill(0xff);
    let spec_ctrl = grants
        .contains(Grants::SPEC_CTRL)
        .then_some((msr::SPEC_CTRL, Direct::ReadWrite));
    for (msr, direct) in DIRECT.iter().copied().chain(more).chain(spec_ctrl) {
        let Some((byte, bit)) = position(msr) else {
            continue;
        };
        bitmap[WRITES + byte] &= !bit;
        if direct == Direct::ReadWrite {
            bitmap[READS + byte] &= !bit;
        }
    }
    if grants.contains(Grants::X2APIC) {
        pass_x2apic(bitmap);
    }
}

/// Let the hardware see to an x2APIC's registers, as far as it does so without an exit (SDM 3C 30.5): every register that can be read but the timer's
/// current count, and writes to the task priority, EOI and self-IPI.
fn pass_x2apic(bitmap: &mut [u8; 4096]) {
    const READ: [core::ops::RangeInclusive<u32>; 9] = [
        reg::ID..=reg::VERSION,
        reg::TPR..=reg::TPR,
        reg::PPR..=reg::PPR,
        reg::LDR..=reg::LDR,
        reg::SVR..=reg::ESR,
        reg::ICR..=reg::ICR,
        reg::LVT_TIMER..=reg::LVT_ERROR,
        reg::TIMER_INITIAL..=reg::TIMER_INITIAL,
        reg::TIMER_DIVIDE..=reg::TIMER_DIVIDE,
    ];
    let mut pass = |half: usize, offset: u32| {
        if let Some((byte, bit)) = position(X2APIC + offset / 16) {
            bitmap[half + byte] &= !bit;
        }
    };
    READ.into_iter()
        .flat_map(|range| range.step_by(16))
        .for_each(|offset| pass(READS, offset));
    [reg::TPR, reg::EOI, reg::SELF_IPI]
        .into_iter()
        .for_each(|offset| pass(WRITES, offset));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exits(bitmap: &[u8; 4096], msr: u32) -> (bool, bool) {
        let (byte, bit) = position(msr).unwrap();
        (bitmap[READS + byte] & bit != 0, bitmap[WRITES + byte] & bit != 0)
    }

    #[test]
    fn only_the_policy_passes() {
        let mut bitmap = [0; 4096];
        fill(&mut bitmap, [], Grants::empty());
        assert_eq!(exits(&bitmap, msr::LSTAR), (false, false));
        assert_eq!(exits(&bitmap, msr::SYSENTER_EIP), (false, false));
        assert_eq!(exits(&bitmap, msr::PRED_CMD), (true, true));
        assert_eq!(exits(&bitmap, msr::EFER), (true, true));
        assert_eq!(exits(&bitmap, msr::SPEC_CTRL), (true, true));
        let clear: u32 = bitmap.iter().map(|b| b.count_zeros()).sum();
        let granted = DIRECT
            .iter()
            .map(|&(_, d)| if d == Direct::ReadWrite { 2 } else { 1 });
        assert_eq!(clear, granted.sum::<u32>());
        let more = [(msr::PRED_CMD, Direct::WriteOnly)];
        fill(&mut bitmap, more, Grants::SPEC_CTRL);
        assert_eq!(exits(&bitmap, msr::PRED_CMD), (true, false));
        assert_eq!(exits(&bitmap, msr::SPEC_CTRL), (false, false));
        assert_eq!(exits(&bitmap, msr::ARCH_CAPABILITIES), (true, true));
        let clear_with: u32 = bitmap.iter().map(|b| b.count_zeros()).sum();
        assert_eq!(clear_with, clear + 3);
    }

    #[test]
    fn of_an_x2apic_what_the_hardware_does_right() {
        let (mut plain, mut bitmap) = ([0; 4096], [0; 4096]);
        fill(&mut plain, [], Grants::empty());
        fill(&mut bitmap, [], Grants::X2APIC);
        for msr in 0x800..0x900 {
            let read = matches!(msr, 0x802 | 0x803 | 0x808 | 0x80a | 0x80d | 0x80f..=0x828 | 0x830 | 0x832..=0x838 | 0x83e);
            let write = matches!(msr, 0x808 | 0x80b | 0x83f);
            assert_eq!(exits(&bitmap, msr), (!read, !write), "{msr:#x}");
            assert_eq!(exits(&plain, msr), (true, true));
        }
        assert_eq!(exits(&bitmap, msr::EFER), (true, true));
        assert_eq!(exits(&bitmap, 0x1b), (true, true));
    }

    #[test]
    fn layout() {
        assert_eq!(position(0x1b), Some((3, 1 << 3)));
        assert_eq!(position(0xc000_0080), Some((1024 + 16, 1)));
        assert_eq!(position(0x4000_0000), None);
        assert_eq!(position(0x2000), None);
    }
}
