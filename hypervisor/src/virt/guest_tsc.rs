//! A guest's TSC: the machine's times a ratio, plus an offset. Hardware that scales computes the very same.

use crate::arch::{TSC_MULTIPLIER_ONE, TSC_MULTIPLIER_POINT};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// A guest's ticks for one of the machine's, as a fixed-point number with [`TSC_MULTIPLIER_ONE`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ratio(u64);

impl Ratio {
    const POINT: u32 = TSC_MULTIPLIER_POINT;
    /// The machine's own rate.
    pub const ONE: Ratio = Ratio(TSC_MULTIPLIER_ONE);

    /// As the hardware wants it.
    pub fn multiplier(self) -> u64 {
        self.0
    }

    /// That of a guest whose TSC counts `khz`, on a machine whose counts `host_hz` in a second, in as many bits behind the point as `bits` says (48 at most).
    /// `None`: it is further from the machine's than any two machines are, a factor of 256.
    pub fn new(khz: u32, host_hz: u64, bits: u32) -> Option<Ratio> {
        const FACTOR: u64 = 256;
        let hz = u64::from(khz) * 1000;
        if hz == 0 || host_hz == 0 || hz / FACTOR > host_hz || host_hz / FACTOR > hz {
            return None;
        }
        let exact = (u128::from(hz) << bits) / u128::from(host_hz);
        u64::try_from(exact << (Self::POINT - bits)).ok().map(Ratio)
    }

    /// What the guest counts while the machine counts `ticks`. As hardware does, from 0 on: differences of what this gives are right, not what it gives of
    /// differences.
    #[inline]
    pub fn scale(self, ticks: u64) -> u64 {
        if self == Self::ONE {
            return ticks;
        }
        ((u128::from(ticks) * u128::from(self.0)) >> Self::POINT) as u64
    }

    /// How far the machine counts until the guest has counted `ticks`; no less.
    pub fn unscale(self, ticks: u64) -> u64 {
        if self == Self::ONE {
            return ticks;
        }
        let exact = (u128::from(ticks) << Self::POINT).div_ceil(u128::from(self.0.max(1)));
        u64::try_from(exact).unwrap_or(u64::MAX)
    }
}

/// The TSC of a vCPU. Only the vCPU changes it, or who has stopped it.
#[derive(Debug)]
pub struct GuestTsc {
    offset: AtomicU64,
    ratio: AtomicU64,
    emulated: AtomicBool,
}

impl GuestTsc {
    /// At the machine's rate.
    pub fn new(offset: u64) -> Self {
        Self {
            offset: AtomicU64::new(offset),
            ratio: AtomicU64::new(Ratio::ONE.0),
            emulated: AtomicBool::new(false),
        }
    }

    /// Added to what is scaled.
    pub fn offset(&self) -> u64 {
        self.offset.load(SeqCst)
    }

    /// The guest's ticks for one of the machine's.
    pub fn ratio(&self) -> Ratio {
        Ratio(self.ratio.load(SeqCst))
    }

    /// What it reads when the machine's reads `host`.
    pub fn at(&self, host: u64) -> u64 {
        self.ratio().scale(host).wrapping_add(self.offset())
    }

    /// It reads `value` when the machine's reads `host`. Returns the offset, which the control block wants to know.
    pub fn set(&self, value: u64, host: u64) -> u64 {
        let offset = value.wrapping_sub(self.ratio().scale(host));
        self.offset.store(offset, SeqCst);
        offset
    }

    /// Count at another rate, by exits if `emulated`. [`GuestTsc::set`] then says what it reads.
    pub fn change_rate(&self, ratio: Ratio, emulated: bool) {
        self.ratio.store(ratio.0, SeqCst);
        self.emulated.store(emulated, SeqCst);
    }

    /// Do reads of it exit, even where the machine's TSC is trusted?
    pub fn emulated(&self) -> bool {
        self.emulated.load(SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ratios() {
        assert_eq!(Ratio::new(2_400_000, 2_400_000_000, 48), Some(Ratio::ONE));
        assert_eq!(Ratio::new(1_200_000, 2_400_000_000, 48), Some(Ratio(1 << 47)));
        assert_eq!(Ratio::new(4_800_000, 2_400_000_000, 32), Some(Ratio(2 << 48)));
        // 32 bits behind the point, as AMD-V has: a third.
        let third = Ratio::new(800_000, 2_400_000_000, 32).expect("a ratio");
        assert_eq!(third.0, 0x5555_5555 << 16);
        for khz in [0, 1, 9_000, 700_000_000] {
            assert_eq!(Ratio::new(khz, 2_400_000_000, 48), None, "{khz}");
        }
        assert_eq!(Ratio::new(1_000_000, 0, 48), None);
    }

    proptest! {
        /// A second is a second, to a thousand-millionth; and what takes back is not early.
        #[test]
        fn rates_are_exact(khz in 100_000u32..6_000_000, hz in 100_000_000u64..6_000_000_000, bits in prop::sample::select(vec![32u32, 48])) {
            let ratio = Ratio::new(khz, hz, bits).expect("a ratio");
            let counted = ratio.scale(hz);
            let exact = u64::from(khz) * 1000;
            prop_assert!(counted <= exact && exact - counted <= (hz >> 31) + 1, "{counted} {exact}");
            let back = ratio.unscale(exact);
            prop_assert!(ratio.scale(back) >= exact && back - hz <= (hz >> 25) + 1, "{back} {hz}");
        }

        #[test]
        fn reads_what_was_set(value: u64, host: u64, khz in 100_000u32..6_000_000, later: u32) {
            let tsc = GuestTsc::new(0);
            tsc.change_rate(Ratio::new(khz, 2_000_000_000, 48).expect("a ratio"), true);
            tsc.set(value, host);
            prop_assert_eq!(tsc.at(host), value);
            prop_assert!(tsc.emulated());
            let host = host & u64::from(u32::MAX);
            tsc.set(0, host);
            let counted = tsc.at(host + u64::from(later));
            prop_assert!(counted.abs_diff(tsc.ratio().scale(later.into())) <= 1);
        }
    }
}
