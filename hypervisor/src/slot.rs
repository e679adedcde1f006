//! A place for an `Arc` that is read without a lock, and without writing to what other CPUs read, too.
//!
//! A reader says on his own CPU's word that he reads ([`Slot::get`]), and is done within a few instructions: with interrupts off, nothing comes
//! in between. Who takes the `Arc` away empties the place first and then waits until no CPU reads ([`Slot::take`]): whoever has seen it by
//! then holds a reference of his own. All of it is sequentially consistent: either the reader finds the place empty, or the taker finds
//! the reader.
// UNSAFETY: an `Arc` as a raw pointer.
#![expect(unsafe_code, reason = "an Arc as a raw pointer")]

use core::ptr::null_mut;

use crate::sync::atomic::{AtomicPtr, AtomicU32, Ordering::SeqCst};
use crate::sync::{Arc, spin_loop};

/// An `Arc`, or nothing.
pub struct Slot<T>(AtomicPtr<T>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(AtomicPtr::new(null_mut()))
    }
}

impl<T> Slot<T> {
    /// Is there nothing?
    pub fn is_empty(&self) -> bool {
        self.0.load(SeqCst).is_null()
    }

    /// What is there. `reading`: how many read on this CPU.
    #[inline]
    pub fn get(&self, reading: &AtomicU32) -> Option<Arc<T>> {
        reading.fetch_add(1, SeqCst);
        let pointer = self.0.load(SeqCst);
        let found = if pointer.is_null() {
            None
        } else {
            // SAFETY: from `Arc::into_raw` in `put`. The slot's own reference is dropped only after `take` has seen that nobody reads; here
            // somebody does.
            unsafe {
                Arc::increment_strong_count(pointer);
                Some(Arc::from_raw(pointer))
            }
        };
        reading.fetch_sub(1, SeqCst);
        found
    }

    /// Put `value` there. `Err`: something is.
    pub fn put(&self, value: Arc<T>) -> Result<(), Arc<T>> {
        let pointer = Arc::into_raw(value).cast_mut();
        match self.0.compare_exchange(null_mut(), pointer, SeqCst, SeqCst) {
            Ok(_) => Ok(()),
            // SAFETY: as it was taken apart above; nobody has seen it.
            Err(_) => Err(unsafe { Arc::from_raw(pointer) }),
        }
    }

    /// Take `value` away, if it is what is there. `readers`: of every CPU, how many read there.
    pub fn take<'a>(&self, value: *const T, readers: impl Iterator<Item = &'a AtomicU32>) -> Option<Arc<T>> {
        let pointer = value.cast_mut();
        self.0
            .compare_exchange(pointer, null_mut(), SeqCst, SeqCst)
            .ok()?;
        for reading in readers {
            while reading.load(SeqCst) != 0 {
                spin_loop();
            }
        }
        // SAFETY: from `Arc::into_raw` in `put`, and the slot's, which no longer has it: one of many takers gets here.
        Some(unsafe { Arc::from_raw(pointer) })
    }
}
