//! Deadlines of one CPU, soonest first: a binary heap whose entries know where they are, so that moving one is O(log n).

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::domain::vcpu::NEVER;

/// A [`Slot::slot`] of something that has no deadline.
pub const UNQUEUED: u32 = u32::MAX;

/// Something with at most one deadline. It keeps its place in the heap; only the queue (under its lock) uses that.
pub trait Slot: Clone {
    /// Where the place is kept; [`UNQUEUED`] at first.
    fn slot(&self) -> &AtomicU32;
}

/// The deadlines of one CPU, in nanoseconds.
#[derive(Debug)]
pub struct TimerQueue<T> {
    heap: Vec<(u64, T)>,
}

impl<T: Slot> TimerQueue<T> {
    /// An empty queue.
    pub fn new() -> Self {
        Self { heap: Vec::new() }
    }

    /// The soonest deadline, or [`NEVER`].
    pub fn first(&self) -> u64 {
        self.heap.first().map_or(NEVER, |(deadline, _)| *deadline)
    }

    /// How many deadlines there are.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Set `item`'s deadline; [`NEVER`] takes it out.
    pub fn set(&mut self, item: &T, deadline: u64) {
        let slot = item.slot().load(Relaxed);
        match (slot, deadline) {
            (UNQUEUED, NEVER) => {}
            (_, NEVER) => {
                self.take(slot as usize);
            }
            (UNQUEUED, _) => {
                self.heap.push((deadline, item.clone()));
                self.settle(self.heap.len() - 1);
            }
            _ => {
                if let Some(entry) = self.heap.get_mut(slot as usize) {
                    entry.0 = deadline;
                    self.settle(slot as usize);
                }
            }
        }
    }

    /// Take `item` out.
    pub fn remove(&mut self, item: &T) {
        self.set(item, NEVER);
    }

    /// Take out one whose deadline is not after `now`.
    pub fn pop_due(&mut self, now: u64) -> Option<T> {
        (self.first() <= now && !self.heap.is_empty())
            .then(|| self.take(0))
            .flatten()
    }

    fn take(&mut self, at: usize) -> Option<T> {
        if at >= self.heap.len() {
            return None;
        }
        let (_, item) = self.heap.swap_remove(at);
        item.slot().store(UNQUEUED, Relaxed);
        if at < self.heap.len() {
            self.settle(at);
        }
        Some(item)
    }

    /// Move the entry at `at` up or down to its place.
    fn settle(&mut self, mut at: usize) {
        while at > 0 && self.heap[at].0 < self.heap[(at - 1) / 2].0 {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
        loop {
            let smaller = [2 * at + 1, 2 * at + 2]
                .into_iter()
                .filter(|&child| child < self.heap.len())
                .min_by_key(|&child| self.heap[child].0);
            match smaller {
                Some(child) if self.heap[child].0 < self.heap[at].0 => {
                    self.swap(at, child);
                    at = child;
                }
                _ => break,
            }
        }
        self.heap[at].1.slot().store(at as u32, Relaxed);
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.heap[a].1.slot().store(a as u32, Relaxed);
        self.heap[b].1.slot().store(b as u32, Relaxed);
    }
}

impl<T: Slot> Default for TimerQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::sync::Arc;
    use proptest::prelude::*;

    #[derive(Debug)]
    struct Item {
        id: usize,
        slot: AtomicU32,
    }
    impl Slot for Arc<Item> {
        fn slot(&self) -> &AtomicU32 {
            &self.slot
        }
    }

    proptest! {
        /// Against a plain list: same first deadline after every change, everything due comes out in order.
        #[test]
        fn behaves_like_a_list(changes in prop::collection::vec((0usize..16, prop::option::of(0u64..100)), 1..200)) {
            let items: Vec<_> = (0..16).map(|id| Arc::new(Item { id, slot: AtomicU32::new(UNQUEUED) })).collect();
            let mut model = [NEVER; 16];
            let mut queue = TimerQueue::new();
            for (id, deadline) in changes {
                model[id] = deadline.unwrap_or(NEVER);
                queue.set(&items[id], model[id]);
                prop_assert_eq!(queue.first(), model.iter().copied().min().unwrap());
            }
            let mut before = 0;
            while let Some(item) = queue.pop_due(50) {
                let due = core::mem::replace(&mut model[item.id], NEVER);
                prop_assert!(before <= due && due <= 50);
                before = due;
            }
            prop_assert!(model.iter().all(|&left| left > 50));
        }
    }
}
