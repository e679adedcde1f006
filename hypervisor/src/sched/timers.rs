//! In which CPU's timer queue a vCPU is: of the one where its deadlines changed last.
//!
//! Who puts it into a queue, or takes it out for good, holds the lock of its [`Place`]; so it is in one queue at most, and in none once it is forgotten,
//! whoever still has a deadline for it then. A CPU takes those that are due out of its own queue without that lock, and so looks afterwards whether they still are its.
//!
//! `tests/models` runs this under the interleavings that the memory model allows.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::heap::{Heap, Slot, UNQUEUED};
use crate::sync::{Mutex, Rank};

/// The use of a heap for deadlines.
#[derive(Debug)]
pub struct Timers;

/// Those that wait for deadlines on a CPU.
pub type Queue<T> = Mutex<Heap<T, Timers>>;

/// Something with deadlines.
pub trait Timed: Slot<Timers> {
    /// Where that is kept.
    fn place(&self) -> &Place;

    /// Its first deadline.
    fn next(&self) -> u64;
}

/// In whose queue something may be.
#[derive(Debug)]
pub struct Place {
    /// The CPU, or [`FORGOTTEN`].
    cpu: Mutex<u32>,
    slot: AtomicU32,
}

/// In none, nor ever again.
const FORGOTTEN: u32 = u32::MAX;

impl Place {
    /// In no queue yet.
    pub fn new() -> Self {
        Self {
            cpu: Mutex::new(Rank::TimerCpu, 0),
            slot: AtomicU32::new(UNQUEUED),
        }
    }

    /// For [`Slot`].
    pub fn slot(&self) -> &AtomicU32 {
        &self.slot
    }

    /// Is it in a queue? Another CPU may be about to change that.
    pub fn is_queued(&self) -> bool {
        self.slot.load(SeqCst) != UNQUEUED
    }
}

/// A deadline of `item` changed: put it where it belongs in the queue `own` of CPU `here`. `queue_of` finds that of the CPU where it has been.
pub fn queue<'a, T: Timed + 'a>(
    item: &T,
    here: u32,
    own: &Queue<T>,
    queue_of: impl FnOnce(u32) -> Option<&'a Queue<T>>,
) {
    let mut home = item.place().cpu.lock();
    if *home == FORGOTTEN {
        return;
    }
    if *home != here {
        if let Some(other) = queue_of(*home) {
            other.lock().remove(item);
        }
        *home = here;
    }
    // Looked up with the place's lock: of two that change deadlines the later one sees both.
    own.lock().set(item, item.next());
}

/// `item`, which was due in the queue `own` of CPU `here`, is to be seen to again at `next`, unless its deadlines changed elsewhere meanwhile.
pub fn queue_again<T: Timed>(item: &T, here: u32, own: &Queue<T>, next: u64) {
    let home = item.place().cpu.lock();
    if *home == here {
        own.lock().set(item, next);
    }
}

/// Give what is in the queue `own` of CPU `here` to CPU `to`, which has the queue `heir`. Nobody puts anything into the former meanwhile; other CPUs may take some away.
pub fn give_away<T: Timed>(here: u32, own: &Queue<T>, to: u32, heir: &Queue<T>) {
    loop {
        let next = own.lock().peek().map(|(deadline, item)| (deadline, item.clone()));
        let Some((deadline, item)) = next else { break };
        let mut home = item.place().cpu.lock();
        if *home == here {
            own.lock().remove(&item);
            *home = to;
            heir.lock().set(&item, deadline);
        }
    }
}

/// `item` is in no queue any more, whatever deadlines it has or gets.
pub fn forget<'a, T: Timed + 'a>(item: &T, queue_of: impl FnOnce(u32) -> Option<&'a Queue<T>>) {
    let mut home = item.place().cpu.lock();
    if let Some(queue) = queue_of(*home) {
        queue.lock().remove(item);
    }
    *home = FORGOTTEN;
}
