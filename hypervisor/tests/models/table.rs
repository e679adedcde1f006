//! An `Arc` that is taken away while another CPU reads it.

#[path = "../../src/slot.rs"]
mod slot;

use loom::sync::Arc;
use loom::thread;
use slot::Slot;

use crate::check;
use crate::sync::atomic::AtomicU32;

/// Loom tells of an `Arc` that is used after its end, or that never ends.
#[test]
fn what_is_read_stays_and_what_is_taken_goes() {
    check(None, || {
        let shared = Arc::new((Slot::default(), [AtomicU32::new(0), AtomicU32::new(0)]));
        let value = Arc::new(7);
        let address = Arc::as_ptr(&value);
        assert!(shared.0.put(value).is_ok());
        let reader = {
            let shared = shared.clone();
            thread::spawn(move || {
                let (slot, cpus) = &*shared;
                slot.get(&cpus[1]).is_none_or(|found| *found == 7)
            })
        };
        let (slot, cpus) = &*shared;
        let taken = slot.take(address, cpus.iter());
        assert_eq!(taken.as_deref(), Some(&7));
        assert!(slot.take(address, cpus.iter()).is_none());
        drop(taken);
        assert!(slot.get(&cpus[0]).is_none());
        assert!(reader.join().expect("no panic"));
    });
}
