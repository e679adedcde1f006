//! A binary heap, least key first, whose entries know where they are: moving one, or taking it out, is O(log n). Keys are deadlines in one use, and
//! virtual time in the other.
//!
//! Items go in where nothing can fail; so who makes one sees to it that [`Heap::reserve`] has been told of it before.

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::domain::vcpu::NEVER;
use crate::mm::fallible::{OutOfMemory, ensure_reserve};

/// A [`Slot::slot`] of something that is in no heap.
pub const UNQUEUED: u32 = u32::MAX;

/// Something that is in at most one heap for the use `K` at a time. It keeps its place there; only the heap (under its lock) uses that.
pub trait Slot<K>: Clone {
    /// Where the place is kept; [`UNQUEUED`] at first.
    fn slot(&self) -> &AtomicU32;
}

/// The heap for the use `K`.
#[derive(Debug)]
pub struct Heap<T, K> {
    heap: Vec<(u64, T)>,
    used_for: PhantomData<K>,
}

impl<T: Slot<K>, K> Heap<T, K> {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            heap: Vec::new(),
            used_for: PhantomData,
        }
    }

    /// Have memory for `count` items.
    ///
    /// # Errors
    /// There is none.
    pub fn reserve(&mut self, count: usize) -> Result<(), OutOfMemory> {
        let more = count.saturating_sub(self.heap.len());
        if count > self.heap.capacity() {
            ensure_reserve()?;
        }
        self.heap.try_reserve(more).map_err(|_| OutOfMemory)
    }

    /// The least key, or [`NEVER`].
    pub fn first(&self) -> u64 {
        self.heap.first().map_or(NEVER, |(key, _)| *key)
    }

    /// The first, with its key.
    pub fn peek(&self) -> Option<(u64, &T)> {
        self.heap.first().map(|(key, item)| (*key, item))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Set `item`'s key, which puts it in if it was not; [`NEVER`] takes it out.
    pub fn set(&mut self, item: &T, deadline: u64) {
        let slot = item.slot().load(Relaxed);
        match (slot, deadline) {
            (UNQUEUED, NEVER) => {}
            (_, NEVER) => {
                self.take(slot as usize);
            }
            (UNQUEUED, _) => self.push(item, deadline),
            _ => {
                if let Some(entry) = self.heap.get_mut(slot as usize) {
                    entry.0 = deadline;
                    self.settle(slot as usize);
                }
            }
        }
    }

    /// Put `item` in, which is not.
    #[inline(always)]
    pub fn push(&mut self, item: &T, key: u64) {
        self.heap.push((key, item.clone()));
        self.rise(self.heap.len() - 1);
    }

    /// Take `item` out, if it is in.
    pub fn remove(&mut self, item: &T) -> Option<T> {
        self.take(item.slot().load(Relaxed) as usize)
    }

    /// Take out the first.
    pub fn pop(&mut self) -> Option<T> {
        self.take(0)
    }

    /// Take out the first, if its key is not more than `now`.
    pub fn pop_due(&mut self, now: u64) -> Option<T> {
        let (first, _) = self.peek()?;
        (first <= now).then(|| self.pop()).flatten()
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

    /// Move the entry at `at` up to its place, if that is above. Returns where it is then.
    #[inline(always)]
    fn rise(&mut self, mut at: usize) -> usize {
        while at > 0 && self.heap[at].0 < self.heap[(at - 1) / 2].0 {
            at = self.swap(at, (at - 1) / 2);
        }
        self.heap[at].1.slot().store(at as u32, Relaxed);
        at
    }

    /// Move the entry at `at` up or down to its place.
    fn settle(&mut self, at: usize) {
        let mut at = self.rise(at);
        loop {
            let smaller = [2 * at + 1, 2 * at + 2]
                .into_iter()
                .filter(|&child| child < self.heap.len())
                .min_by_key(|&child| self.heap[child].0);
            match smaller {
                Some(child) if self.heap[child].0 < self.heap[at].0 => {
                    at = self.swap(at, child);
                }
                _ => break,
            }
        }
        self.heap[at].1.slot().store(at as u32, Relaxed);
    }

    /// The entry at `at` goes to `to`, and is not told so, as it may go on; that from there comes to `at`.
    fn swap(&mut self, at: usize, to: usize) -> usize {
        self.heap.swap(at, to);
        self.heap[at].1.slot().store(at as u32, Relaxed);
        to
    }
}

impl<T: Slot<K>, K> Default for Heap<T, K> {
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
    impl Slot<()> for Arc<Item> {
        fn slot(&self) -> &AtomicU32 {
            &self.slot
        }
    }

    #[test]
    fn what_is_reserved_needs_no_more_memory() {
        let items: Vec<_> = (0..9)
            .map(|id| {
                Arc::new(Item {
                    id,
                    slot: AtomicU32::new(UNQUEUED),
                })
            })
            .collect();
        let mut queue = Heap::<_, ()>::new();
        assert_eq!(queue.reserve(usize::MAX), Err(OutOfMemory));
        queue.reserve(items.len()).expect("memory");
        let place = queue.heap.as_ptr();
        items.iter().for_each(|item| queue.set(item, item.id as u64));
        assert_eq!(queue.heap.as_ptr(), place);
    }

    proptest! {
        /// Against a plain list: same first deadline after every change, everything due comes out in order.
        #[test]
        fn behaves_like_a_list(changes in prop::collection::vec((0usize..16, prop::option::of(0u64..100)), 1..200)) {
            let items: Vec<_> = (0..16).map(|id| Arc::new(Item { id, slot: AtomicU32::new(UNQUEUED) })).collect();
            let mut model = [NEVER; 16];
            let mut queue = Heap::<_, ()>::new();
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
