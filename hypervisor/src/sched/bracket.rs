//! A tournament: which of many classes of a run queue is first, for each CPU of a group.
//!
//! Finding that is O(1), a change of a class O(log n) for each of the group's CPUs that are in it.

use alloc::vec::Vec;

use super::scheduler::GROUP;
use super::scheduler::bits;
use crate::mm::fallible::OutOfMemory;

/// No class.
pub const NOBODY: u32 = u32::MAX;

/// The least key is first. [`None`]: nobody waits there.
pub trait Contest {
    /// The key.
    type Key: Ord;

    /// The key of class `index` for CPU `cpu` of the group. `None`: it has nothing for it.
    fn key(&self, index: u32, cpu: u32) -> Option<Self::Key>;

    /// Which of two classes, or [`NOBODY`], is first.
    fn first(&self, one: u32, other: u32, cpu: u32) -> u32 {
        match (self.key(one, cpu), self.key(other, cpu)) {
            (Some(a), Some(b)) if b < a => other,
            (None, Some(_)) => other,
            (None, None) => NOBODY,
            _ => one,
        }
    }
}

/// The tournament.
#[derive(Debug)]
pub struct Bracket {
    /// Winners for each CPU, from the final, 1, on; those of row `n` have won in rows `2n` and `2n + 1`. Classes themselves would be the rows from `leaves` on.
    rows: Vec<[u32; GROUP as usize]>,
    leaves: u32,
}

impl Bracket {
    /// For one class.
    pub const fn new() -> Self {
        Self {
            rows: Vec::new(),
            leaves: 1,
        }
    }

    /// Have memory for `count` classes.
    ///
    /// # Errors
    /// There is none.
    pub fn reserve(&mut self, count: usize) -> Result<(), OutOfMemory> {
        let more = count.next_power_of_two().saturating_sub(self.rows.len());
        self.rows.try_reserve(more).map_err(|_| OutOfMemory)
    }

    /// The first class for CPU `cpu` of the group, or [`NOBODY`].
    pub fn first(&self, cpu: u32) -> u32 {
        self.winner(1, cpu)
    }

    fn winner(&self, row: u32, cpu: u32) -> u32 {
        match row.checked_sub(self.leaves) {
            Some(class) => class,
            None => self.rows[row as usize][cpu as usize],
        }
    }

    /// Let there be `count` classes at least.
    pub fn grow(&mut self, count: u32, contest: &impl Contest) {
        if count > self.leaves {
            self.leaves = count.next_power_of_two();
            self.rows.resize(self.leaves as usize, [NOBODY; GROUP as usize]);
            for row in (1..self.leaves).rev() {
                for cpu in 0..GROUP {
                    self.play(row, cpu, contest);
                }
            }
        }
    }

    /// Class `index`, which has something for `cpus` of the group or just had, has changed. Where many have, that is to be told of each that has something: one of
    /// which nothing was told while it lost it all loses wherever it is compared.
    pub fn update(&mut self, index: u32, cpus: u32, contest: &impl Contest) {
        let mut row = (self.leaves + index) / 2;
        let mut changed = cpus;
        while row > 0 && changed != 0 {
            for cpu in bits(changed) {
                if !self.play(row, cpu, contest) && self.winner(row, cpu) != index {
                    changed &= !(1 << cpu);
                }
            }
            row /= 2;
        }
    }

    /// Who wins in `row`? `false`: who did before.
    fn play(&mut self, row: u32, cpu: u32, contest: &impl Contest) -> bool {
        let [one, other] = [2 * row, 2 * row + 1].map(|row| self.winner(row, cpu));
        let winner = contest.first(one, other, cpu);
        let before = core::mem::replace(&mut self.rows[row as usize][cpu as usize], winner);
        before != winner
    }
}
