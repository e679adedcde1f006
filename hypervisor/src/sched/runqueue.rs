//! Who of those that wait is next: the one that is furthest behind in virtual time.
//!
//! Virtual time of a vCPU advances as it runs, the slower the more weight it has; so those that always want to run get shares by weight. One that wakes has
//! mostly fallen behind: it is ahead of those that compute, and runs at once. But sleeping saves up no more than [`CREDIT`], so that nobody gets
//! more than a share for long. The contract is credit2's; the method is that of fair queueing.
//!
//! Pure: no clock, no locks.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::heap::{Heap, Slot};
use super::share::DEFAULT_WEIGHT;

/// Virtual time for a nanosecond at weight 1. A CPU's whole time at weight 1 fits for nine years.
const SCALE: u64 = 64;

/// So much virtual time can one that sleeps be behind the others: 5 ms at the default weight.
pub const CREDIT: u64 = virtual_time(5_000_000, DEFAULT_WEIGHT as u32);
/// So much can one be ahead of the others when it comes from elsewhere.
const DEBT: u64 = 4 * CREDIT;

/// Virtual time for `ns` nanoseconds of running.
pub const fn virtual_time(ns: u64, weight: u32) -> u64 {
    ns.saturating_mul(SCALE) / if weight == 0 { 1 } else { weight as u64 }
}

/// The use of a heap for those that wait to run.
#[derive(Debug)]
pub struct Waiting;

/// What can wait here.
pub trait Schedulable: Slot<Waiting> {
    /// Its virtual time: changed only by the queue's owner.
    fn time(&self) -> &AtomicU64;
    /// May it run on this CPU?
    fn may_run_on(&self, cpu: u32) -> bool;
}

/// What waits for one of a group of CPUs.
#[derive(Debug)]
pub struct RunQueue<T> {
    heap: Heap<T, Waiting>,
    /// Nobody who has just been running is behind this.
    floor: u64,
}

impl<T: Schedulable> RunQueue<T> {
    /// An empty queue, whose virtual time is 0.
    pub const fn new() -> Self {
        Self {
            heap: Heap::new(),
            floor: 0,
        }
    }

    /// Where the queue's virtual time has come to.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Does nobody wait?
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Queue one that did not want to run until now, or comes from another queue.
    pub fn push_woken(&mut self, item: &T) {
        let least = self.floor.saturating_sub(CREDIT);
        let time = item.time().load(Relaxed).clamp(least, self.floor + DEBT);
        item.time().store(time, Relaxed);
        self.heap.set(item, time);
    }

    /// Queue one that could go on running.
    pub fn push_ready(&mut self, item: &T) {
        self.heap.set(item, item.time().load(Relaxed));
    }

    /// Queue one that lets the next have its turn, whatever its own time is.
    pub fn push_yielding(&mut self, item: &T) {
        let behind_first = match self.heap.is_empty() {
            true => 0,
            false => self.heap.first() + 1,
        };
        self.heap.set(item, item.time().load(Relaxed).max(behind_first));
    }

    /// Who would be next on `cpu`: its virtual time, and itself.
    pub fn first_for(&self, cpu: u32) -> Option<(u64, &T)> {
        let mut entries = self.heap.iter();
        let first = entries.next()?;
        if first.1.may_run_on(cpu) {
            return Some(first);
        }
        // Only where vCPUs are pinned.
        entries
            .filter(|(_, item)| item.may_run_on(cpu))
            .min_by_key(|(time, _)| *time)
    }

    /// Take the next for `cpu`.
    pub fn pop(&mut self, cpu: u32) -> Option<T> {
        let item = self.first_for(cpu)?.1.clone();
        self.heap.remove(&item);
        self.floor = self.floor.max(item.time().load(Relaxed));
        Some(item)
    }

    /// Take `item` out, if it is in.
    pub fn remove(&mut self, item: &T) {
        self.heap.remove(item);
    }
}

impl<T: Schedulable> Default for RunQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[path = "runqueue_tests.rs"]
mod tests;
