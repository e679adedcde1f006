//! The registers of a local APIC, in the page where hardware that virtualizes one reads and writes them (SDM 3C 30.1.1; APM vol. 2, 15.29.3).
//!
//! The page is the truth on every back end, whether the hardware looks at it or not, so that there is one model of the local APIC:
//! `virt::lapic`. It belongs to the CPU that runs the vCPU, and changes behind the hypervisor's back only while the guest runs.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use zerocopy::FromZeros;

/// Where the xAPIC's registers are at reset.
pub const DEFAULT_BASE: u64 = 0xfee0_0000;

/// Offsets in the page (SDM 3A table 11-1); an x2APIC's MSR is 0x800 + offset / 16.
#[expect(missing_docs, reason = "the manual's names")]
pub mod reg {
    pub const ID: u32 = 0x20;
    pub const VERSION: u32 = 0x30;
    pub const TPR: u32 = 0x80;
    pub const APR: u32 = 0x90;
    pub const PPR: u32 = 0xa0;
    pub const EOI: u32 = 0xb0;
    pub const REMOTE_READ: u32 = 0xc0;
    pub const LDR: u32 = 0xd0;
    pub const DFR: u32 = 0xe0;
    pub const SVR: u32 = 0xf0;
    pub const ISR: u32 = 0x100;
    pub const ISR_LAST: u32 = 0x170;
    pub const TMR: u32 = 0x180;
    pub const TMR_LAST: u32 = 0x1f0;
    pub const IRR: u32 = 0x200;
    pub const IRR_LAST: u32 = 0x270;
    pub const ESR: u32 = 0x280;
    pub const ICR: u32 = 0x300;
    pub const ICR_HIGH: u32 = 0x310;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_THERMAL: u32 = 0x330;
    pub const LVT_PERFORMANCE: u32 = 0x340;
    pub const LVT_LINT0: u32 = 0x350;
    pub const LVT_LINT1: u32 = 0x360;
    pub const LVT_ERROR: u32 = 0x370;
    pub const TIMER_INITIAL: u32 = 0x380;
    pub const TIMER_CURRENT: u32 = 0x390;
    pub const TIMER_DIVIDE: u32 = 0x3e0;
    pub const SELF_IPI: u32 = 0x3f0;
}

/// The page. Offsets beyond the last register wrap.
#[derive(Debug, FromZeros)]
#[repr(C, align(4096))]
pub struct ApicPage([Register; REGISTERS]);

/// As many as there are places for, 16 bytes each.
const REGISTERS: usize = 64;

#[derive(Debug, FromZeros)]
#[repr(C, align(16))]
struct Register {
    low: AtomicU32,
    /// Bits 32 to 63 of an MSR: an x2APIC's ICR has some.
    high: AtomicU32,
}

impl ApicPage {
    /// All zero.
    pub const fn new() -> Self {
        Self(
            [const {
                Register {
                    low: AtomicU32::new(0),
                    high: AtomicU32::new(0),
                }
            }; REGISTERS],
        )
    }

    #[inline]
    fn at(&self, offset: u32) -> &Register {
        &self.0[offset as usize / 16 % REGISTERS]
    }

    /// The register at `offset`.
    #[inline]
    pub fn get(&self, offset: u32) -> u32 {
        self.at(offset).low.load(Relaxed)
    }

    /// Set the register at `offset`.
    #[inline]
    pub fn set(&self, offset: u32, value: u32) {
        self.at(offset).low.store(value, Relaxed);
    }

    /// The register at `offset`, as RDMSR gives it.
    pub fn get_wide(&self, offset: u32) -> u64 {
        let register = self.at(offset);
        u64::from(register.high.load(Relaxed)) << 32 | u64::from(register.low.load(Relaxed))
    }

    /// Set the register at `offset`, as WRMSR does.
    pub fn set_wide(&self, offset: u32, value: u64) {
        let register = self.at(offset);
        register.low.store(value as u32, Relaxed);
        register.high.store((value >> 32) as u32, Relaxed);
    }

    /// Clear every register.
    pub fn clear(&self) {
        (0..REGISTERS as u32).for_each(|register| self.set_wide(register * 16, 0));
    }

    /// Is `vector` in the bitmap at `bitmap` (ISR, TMR or IRR)?
    pub fn contains(&self, bitmap: u32, vector: u8) -> bool {
        self.get(bitmap + word(vector)) & bit(vector) != 0
    }

    /// Put `vector` into a bitmap.
    pub fn insert(&self, bitmap: u32, vector: u8) {
        let at = bitmap + word(vector);
        self.set(at, self.get(at) | bit(vector));
    }

    /// Take `vector` out of a bitmap.
    pub fn remove(&self, bitmap: u32, vector: u8) {
        let at = bitmap + word(vector);
        self.set(at, self.get(at) & !bit(vector));
    }

    /// The highest vector in a bitmap.
    pub fn highest(&self, bitmap: u32) -> Option<u8> {
        (0..8u8).rev().find_map(|index| {
            let word = self.get(bitmap + u32::from(index) * 16);
            (word != 0).then(|| index * 32 + 31 - word.leading_zeros() as u8)
        })
    }

    /// The processor priority: the higher of the task's and of what is in service (SDM 3A, 11.8.3.1).
    pub fn processor_priority(&self) -> u8 {
        let (task, serviced) = (self.get(reg::TPR) as u8, self.highest(reg::ISR).unwrap_or(0));
        if task >> 4 >= serviced >> 4 {
            task
        } else {
            serviced & 0xf0
        }
    }
}

impl Default for ApicPage {
    fn default() -> Self {
        Self::new()
    }
}

/// Offset of the word of `vector` within a bitmap.
fn word(vector: u8) -> u32 {
    u32::from(vector / 32) * 16
}

fn bit(vector: u8) -> u32 {
    1 << (vector % 32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn layout() {
        assert_eq!((size_of::<ApicPage>(), align_of::<ApicPage>()), (4096, 4096));
        let page = ApicPage::new();
        page.set_wide(reg::ICR, 0x1234_5678_0000_4500);
        let place =
            |offset: u32| core::ptr::from_ref(page.at(offset)).addr() - core::ptr::from_ref(&page).addr();
        assert_eq!(place(reg::ICR), 0x300);
        assert_eq!(page.get(reg::ICR), 0x4500);
        assert_eq!(page.get(reg::ICR_HIGH), 0, "it is the xAPIC's");
        page.set(reg::ICR, 1);
        assert_eq!(page.get_wide(reg::ICR), 0x1234_5678_0000_0001);
        page.clear();
        assert_eq!(page.get_wide(reg::ICR), 0);
    }

    #[test]
    fn priorities() {
        let page = ApicPage::new();
        assert_eq!(page.processor_priority(), 0);
        page.insert(reg::ISR, 0x55);
        assert_eq!(page.processor_priority(), 0x50);
        page.set(reg::TPR, 0x61);
        assert_eq!(page.processor_priority(), 0x61);
        page.set(reg::TPR, 0x53);
        assert_eq!(page.processor_priority(), 0x53, "of equal classes, the task's");
    }

    proptest! {
        /// A bitmap is a set of vectors, and its neighbours are not touched.
        #[test]
        fn bitmaps(vectors in prop::collection::btree_set(any::<u8>(), 0..20), gone: u8) {
            let page = ApicPage::new();
            vectors.iter().for_each(|&vector| page.insert(reg::TMR, vector));
            prop_assert_eq!(page.highest(reg::TMR), vectors.last().copied());
            page.remove(reg::TMR, gone);
            for vector in 0..=u8::MAX {
                prop_assert_eq!(page.contains(reg::TMR, vector), vector != gone && vectors.contains(&vector));
            }
            prop_assert_eq!((page.highest(reg::ISR), page.highest(reg::IRR)), (None, None));
        }
    }
}
