//! Which CPUs of the machine something waits for: how many sets of CPUs that something waits for name each.
//!
//! A set that names all CPUs is counted once, and one that names all of a group once there, as most sets do: what it costs to count one is bounded by the groups
//! that it names, and in those that it names in part by their CPUs. That is done at each wake-up, mostly; so which groups a set names is found once, by
//! [`Named::new`].

use alloc::vec::Vec;

use super::mask::CpuSet;
use super::scheduler::{GROUP, bits, lowest};

/// A set of CPUs, and what it takes to count it.
#[derive(Debug)]
pub struct Named {
    /// The CPUs.
    pub cpus: CpuSet,
    /// Groups of which it names some, as bits. `None`: it names all CPUs there can be.
    groups: Option<u32>,
}

impl Named {
    /// The set that names all CPUs.
    pub const ALL: Self = Self {
        cpus: CpuSet::ALL,
        groups: None,
    };

    /// `cpus`, where groups have `size` CPUs.
    pub fn new(cpus: CpuSet, size: u32) -> Self {
        let names = |number: &u32| cpus.window(number * size) & lowest(size) != 0;
        let groups = (0..u32::BITS)
            .filter(names)
            .fold(0, |bits, number| bits | 1 << number);
        Self {
            cpus,
            groups: (cpus != CpuSet::ALL).then_some(groups),
        }
    }
}

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

    /// There is one more like `set`.
    #[inline(always)]
    pub fn add(&mut self, set: &Named) {
        self.count(set, |count| *count += 1);
    }

    /// One like `set` is gone.
    #[inline(always)]
    pub fn remove(&mut self, set: &Named) {
        self.count(set, |count| *count -= 1);
    }

    #[inline(always)]
    fn count(&mut self, set: &Named, change: impl Fn(&mut u32)) {
        let Some(groups) = set.groups else {
            return change(&mut self.all);
        };
        let all = lowest(self.size);
        for number in bits(groups) {
            let Some(group) = self.groups.get_mut(number as usize) else {
                continue;
            };
            let named = set.cpus.window(number * self.size) & all;
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
