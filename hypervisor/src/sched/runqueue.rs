//! The order in which vCPUs get a CPU: those that were just woken before those that used up a slice, each group in turn.
//!
//! A vCPU that waits for I/O thus runs as soon as the running slice is interrupted, and vCPUs that compute share the CPU round-robin.

use alloc::collections::VecDeque;

/// vCPUs that wait for one CPU.
#[derive(Debug)]
pub struct RunQueue<T> {
    woken: VecDeque<T>,
    ready: VecDeque<T>,
}

impl<T> RunQueue<T> {
    /// An empty queue.
    pub fn new() -> Self {
        Self {
            woken: VecDeque::new(),
            ready: VecDeque::new(),
        }
    }

    /// Queue one that waited for an event.
    pub fn push_woken(&mut self, entity: T) {
        self.woken.push_back(entity);
    }

    /// Queue one that could go on running.
    pub fn push_ready(&mut self, entity: T) {
        self.ready.push_back(entity);
    }

    /// Take the next one to run.
    pub fn pop(&mut self) -> Option<T> {
        self.woken.pop_front().or_else(|| self.ready.pop_front())
    }

    /// Does nobody wait?
    pub fn is_empty(&self) -> bool {
        self.woken.is_empty() && self.ready.is_empty()
    }

    /// Drop all entries that `which` names. Returns how many.
    pub fn remove(&mut self, which: impl Fn(&T) -> bool) -> usize {
        let before = self.woken.len() + self.ready.len();
        self.woken.retain(|entity| !which(entity));
        self.ready.retain(|entity| !which(entity));
        before - self.woken.len() - self.ready.len()
    }
}

impl<T> Default for RunQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::RunQueue;

    #[test]
    fn woken_before_ready_each_in_order() {
        let mut queue = RunQueue::new();
        queue.push_ready(1);
        queue.push_ready(2);
        queue.push_woken(3);
        queue.push_woken(4);
        let order: Vec<_> = core::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [3, 4, 1, 2]);
        assert!(queue.is_empty());
    }

    #[test]
    fn removed_entries_never_run() {
        let mut queue = RunQueue::new();
        queue.push_ready(1);
        queue.push_woken(1);
        queue.push_ready(2);
        queue.remove(|entity| *entity == 1);
        assert_eq!(queue.pop(), Some(2));
        assert_eq!(queue.pop(), None);
    }
}
