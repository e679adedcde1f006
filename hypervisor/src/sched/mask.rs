//! Sets of physical CPUs.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::hw::percpu::MAX_CPUS;

const WORDS: usize = MAX_CPUS / 64;

/// A set that does not change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CpuSet([u64; WORDS]);

impl CpuSet {
    /// All CPUs there can be.
    pub const ALL: Self = Self([u64::MAX; WORDS]);

    /// Is `cpu` in it?
    #[inline]
    pub fn contains(&self, cpu: u32) -> bool {
        let word = self.0.get(cpu as usize / 64);
        word.is_some_and(|word| word >> (cpu % 64) & 1 != 0)
    }

    /// The CPUs from `first` on, as bits, that are in it: 32 of them.
    #[inline]
    pub fn window(&self, first: u32) -> u32 {
        let word = |index: u32| self.0.get(index as usize).copied();
        window(first, word)
    }
}

/// 32 bits of `words`, from bit `first` on.
#[inline]
fn window(first: u32, word: impl Fn(u32) -> Option<u64>) -> u32 {
    let (index, shift) = (first / 64, first % 64);
    let low = word(index).unwrap_or(0) >> shift;
    let high = match shift {
        0..=32 => 0,
        _ => word(index + 1).unwrap_or(0) << (64 - shift),
    };
    (low | high) as u32
}

/// A set that may be read while it is changed: who reads sees each word as it was or as it is.
#[derive(Debug)]
pub struct CpuMask {
    words: [AtomicU64; WORDS],
    all: AtomicBool,
}

impl CpuMask {
    /// All CPUs there can be.
    pub const fn all() -> Self {
        Self {
            words: [const { AtomicU64::new(u64::MAX) }; WORDS],
            all: AtomicBool::new(true),
        }
    }

    /// Is `cpu` in it?
    #[inline]
    pub fn contains(&self, cpu: u32) -> bool {
        let word = self.words.get(cpu as usize / 64);
        word.is_some_and(|word| word.load(Relaxed) >> (cpu % 64) & 1 != 0)
    }

    /// Are all CPUs that there can be in it?
    #[inline]
    pub fn is_all(&self) -> bool {
        self.all.load(Relaxed)
    }

    /// Is it `set` now?
    #[inline]
    pub fn is(&self, set: &CpuSet) -> bool {
        let differ = |(own, word): (&AtomicU64, &u64)| own.load(Relaxed) ^ word;
        self.words
            .iter()
            .zip(&set.0)
            .map(differ)
            .fold(0, |all, word| all | word)
            == 0
    }

    /// The set as it is now.
    pub fn now(&self) -> CpuSet {
        CpuSet(self.words.each_ref().map(|word| word.load(Relaxed)))
    }

    /// The CPUs from `first` on, as bits, that are in it: 32 of them.
    #[inline]
    pub fn window(&self, first: u32) -> u32 {
        window(first, |index| Some(self.words.get(index as usize)?.load(Relaxed)))
    }

    /// Make it the CPUs that `member` names.
    pub fn set(&self, member: impl Fn(u32) -> bool) {
        self.all.store(false, Relaxed);
        for (index, word) in (0..).zip(&self.words) {
            let bits = (0..64).filter(|bit| member(index * 64 + bit));
            let bits = bits.fold(0u64, |bits, bit| bits | 1 << bit);
            word.store(bits, Relaxed);
        }
        self.all.store(self.now() == CpuSet::ALL, Relaxed);
    }

    /// The first that is in it, below `end`.
    pub fn first_below(&self, end: u32) -> Option<u32> {
        let first_of = |(index, word): (u32, &AtomicU64)| match word.load(Relaxed) {
            0 => None,
            bits => Some(index * 64 + bits.trailing_zeros()),
        };
        (0..)
            .zip(&self.words)
            .find_map(first_of)
            .filter(|first| *first < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members() {
        let mask = CpuMask::all();
        assert!(mask.contains(0) && mask.contains(511) && !mask.contains(512));
        assert!(mask.is_all() && mask.now() == CpuSet::ALL);
        mask.set(|cpu| cpu == 3 || cpu == 130);
        let members: Vec<_> = (0..600).filter(|&cpu| mask.contains(cpu)).collect();
        assert_eq!((members, mask.is_all()), (vec![3, 130], false));
        assert_eq!((mask.first_below(3), mask.first_below(4)), (None, Some(3)));
        assert!(mask.is(&mask.now()) && !mask.is(&CpuSet::ALL));
    }

    #[test]
    fn windows() {
        let mask = CpuMask::all();
        mask.set(|cpu| cpu % 3 == 0);
        for first in 0..520 {
            let window = (0..32).filter(|bit| mask.contains(first + bit));
            let expected = window.fold(0, |bits, bit| bits | 1 << bit);
            assert_eq!(mask.window(first), expected, "from {first}");
            assert_eq!(mask.now().window(first), expected, "from {first}");
        }
    }
}
