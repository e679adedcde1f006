//! Memory for packets that wait.

use alloc::rc::Rc;
use core::cell::Cell;

/// Memory (bytes) for what waits in any queue. Clones share it.
///
/// A queue never holds more than it leaves. One of which nobody takes anything leaves half to the others, two a third,
/// and so on: there is always some for those that move.
#[derive(Clone, Debug)]
pub struct Room(Rc<Cell<usize>>);

impl Room {
    /// So many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Rc::new(Cell::new(bytes)))
    }

    /// Bytes that nothing takes.
    pub fn left(&self) -> usize {
        self.0.get()
    }

    /// Takes `bytes` for a queue that holds `held`. Returns whether it may have them.
    pub fn take(&self, bytes: usize, held: usize) -> bool {
        let left = self.0.get().checked_sub(bytes);
        let left = left.filter(|left| held + bytes <= *left);
        if let Some(left) = left {
            self.0.set(left);
        }
        left.is_some()
    }

    /// A queue has so many bytes less.
    pub fn give_back(&self, bytes: usize) {
        self.0.set(self.0.get() + bytes);
    }
}
