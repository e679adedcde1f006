//! Which CPUs of the machine something waits for: how many sets of CPUs that something waits for name each.
//!
//! A set that names all CPUs is counted once, and one that names all of a group once there, as most sets do: what it costs to count one is bounded by the groups, and
//! the CPUs of those where the set begins or ends.

use alloc::vec::Vec;

use super::mask::CpuSet;
use super::scheduler::{GROUP, bits, lowest};

/// How many sets name CPUs of a group.
#[derive(Debug, Clone, Default)]
struct OfGroup {
    /// All of them.
    whole: u32,
    /// Each of them, but not all.
    each: [u32; GROUP as usize],
    /// Of which that is not 0, as bits.
    some: u32,
}

/// How many sets name the CPUs of each group.
#[derive(Debug)]
pub struct Demand {
    /// All CPUs there can be.
    all: u32,
    groups: Vec<OfGroup>,
    /// Groups that are named by sets that do not name all CPUs, as bits.
    some: u32,
    /// CPUs of a group.
    size: u32,
}

impl Demand {
    /// None, for `groups` of `size` CPUs.
    pub fn new(groups: u32, size: u32) -> Self {
        Self {
            all: 0,
            groups: (0..groups).map(|_| OfGroup::default()).collect(),
            some: 0,
            size,
        }
    }

    /// One more names `cpus`.
    pub fn add(&mut self, cpus: &CpuSet) {
        self.count(cpus, |count| *count += 1);
    }

    /// One that named `cpus` does no more.
    pub fn remove(&mut self, cpus: &CpuSet) {
        self.count(cpus, |count| *count -= 1);
    }

    fn count(&mut self, cpus: &CpuSet, change: impl Fn(&mut u32)) {
        if *cpus == CpuSet::ALL {
            return change(&mut self.all);
        }
        let all = lowest(self.size);
        for (number, group) in (0..).zip(&mut self.groups) {
            let named = cpus.window(number * self.size) & all;
            if named == all {
                change(&mut group.whole);
            } else {
                for cpu in bits(named) {
                    let count = &mut group.each[cpu as usize];
                    change(count);
                    group.some = group.some & !(1 << cpu) | u32::from(*count != 0) << cpu;
                }
            }
            let some = group.whole != 0 || group.some != 0;
            self.some = self.some & !(1 << number) | u32::from(some) << number;
        }
    }

    /// The CPUs of a group that are named, as bits.
    pub fn of(&self, number: u32) -> u32 {
        match self.groups.get(number as usize) {
            _ if self.all != 0 => u32::MAX,
            Some(group) if group.whole != 0 => u32::MAX,
            Some(group) => group.some,
            None => 0,
        }
    }

    /// The groups of which CPUs are named, as bits.
    pub fn groups(&self) -> u32 {
        if self.all != 0 { u32::MAX } else { self.some }
    }
}
