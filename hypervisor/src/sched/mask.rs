//! Sets of physical CPUs.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::hw::percpu::MAX_CPUS;

const WORDS: usize = MAX_CPUS / 64;

/// A set that may be read while it is changed: who reads sees each word as it was or as it is.
#[derive(Debug)]
pub struct CpuMask([AtomicU64; WORDS]);

impl CpuMask {
    /// All CPUs there can be.
    pub const fn all() -> Self {
        Self([const { AtomicU64::new(u64::MAX) }; WORDS])
    }

    /// Is `cpu` in it?
    #[inline]
    pub fn contains(&self, cpu: u32) -> bool {
        self.0
            .get(cpu as usize / 64)
            .is_some_and(|word| word.load(Relaxed) & 1 << (cpu % 64) != 0)
    }

    /// Make it the CPUs that `member` names.
    pub fn set(&self, member: impl Fn(u32) -> bool) {
        for (index, word) in (0..).zip(&self.0) {
            let bits = (0..64).filter(|bit| member(index * 64 + bit));
            word.store(bits.fold(0, |bits, bit| bits | 1 << bit), Relaxed);
        }
    }

    /// The first that is in it, below `end`.
    pub fn first_below(&self, end: u32) -> Option<u32> {
        (0..end).find(|&cpu| self.contains(cpu))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members() {
        let mask = CpuMask::all();
        assert!(mask.contains(0) && mask.contains(511) && !mask.contains(512));
        mask.set(|cpu| cpu == 3 || cpu == 130);
        let members: Vec<_> = (0..600).filter(|&cpu| mask.contains(cpu)).collect();
        assert_eq!(members, [3, 130]);
        assert_eq!((mask.first_below(3), mask.first_below(4)), (None, Some(3)));
    }
}
