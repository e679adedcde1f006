//! What a CPU runs, and how others hand it a task.
//!
//! They can while its seat is open, as it is while the CPU idles. The CPU closes it before it looks for a task itself: either it finds what it was handed then, or
//! nothing is handed to it any more.

use crate::sync::atomic::{
    AtomicU8,
    Ordering::{Relaxed, SeqCst},
};
use crate::sync::{Mutex, Rank};

const CLOSED: u8 = 0;
const OPEN: u8 = 1;
/// A task was handed over, or is being so with the lock held.
const TAKEN: u8 = 2;

/// The seat of a CPU.
#[derive(Debug)]
pub struct Seat<T> {
    current: Mutex<Option<T>>,
    /// The CPU itself opens and closes it; others take it when it is open.
    state: AtomicU8,
}

impl<T: Clone> Seat<T> {
    /// An empty one, closed.
    pub fn new() -> Self {
        Self {
            current: Mutex::new(Rank::Current, None),
            state: AtomicU8::new(CLOSED),
        }
    }

    /// Who sits there.
    pub fn get(&self) -> Option<T> {
        self.current.lock().clone()
    }

    /// Who sits there, unless that is just being changed.
    pub fn try_get(&self) -> Option<T> {
        self.current.try_lock()?.clone()
    }

    /// Look at who sits there, if anybody does.
    pub fn look<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.current.lock().as_ref().map(look)
    }

    /// The CPU runs `task` from now on.
    pub fn set(&self, task: Option<T>) {
        *self.current.lock() = task;
    }

    /// Has the CPU idled since it last looked for a task?
    pub fn idles(&self) -> bool {
        self.state.load(Relaxed) != CLOSED
    }

    /// Can the CPU be handed a task?
    pub fn is_open(&self) -> bool {
        self.state.load(Relaxed) == OPEN
    }

    /// The CPU idles.
    pub fn open(&self) {
        self.state.store(OPEN, SeqCst);
    }

    /// The CPU looks for a task. Returns what it was handed.
    pub fn close(&self) -> Option<T> {
        // Nobody else closes or opens it.
        if self.state.load(Relaxed) == CLOSED || self.state.swap(CLOSED, SeqCst) != TAKEN {
            return None;
        }
        self.current.lock().take()
    }

    /// Hand `task` to the CPU; `begin` makes it the CPU's before that can see it. `false`: the seat is not open.
    pub fn hand(&self, task: &T, begin: impl FnOnce()) -> bool {
        let mut current = self.current.lock();
        let open = self.state.compare_exchange(OPEN, TAKEN, SeqCst, SeqCst).is_ok();
        if open {
            begin();
            *current = Some(task.clone());
        }
        open
    }
}
