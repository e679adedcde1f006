//! A vCPU and those who have news for it.

#[path = "../../src/domain/wakeup.rs"]
pub mod protocol;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use protocol::{Hold, Request, Wakeup};

use crate::check;
use crate::sync::atomic::{AtomicBool, Ordering::Relaxed};

fn running() -> Arc<Wakeup> {
    Arc::new(Wakeup::new(Hold::empty()))
}

/// A vCPU that halts while events come is not left asleep with one of them.
#[test]
fn no_wake_up_is_lost_to_a_halt() {
    check(None, || {
        let vcpu = running();
        let senders = [Request::CALLBACK, Request::INTERRUPT].map(|what| {
            let vcpu = vcpu.clone();
            thread::spawn(move || vcpu.request(what).is_some_and(|effects| effects.wake))
        });
        vcpu.block();
        let asleep = !vcpu.runnable();
        let woken = senders.map(|sender| sender.join().expect("no panic"));
        assert!(vcpu.runnable(), "left asleep");
        assert!(vcpu.was_woken(), "the reason is kept");
        // Who finds itself asleep has left the CPU: just one of the senders queues it.
        let queued = woken.iter().filter(|woken| **woken).count();
        assert!(if asleep { queued == 1 } else { queued <= 1 });
    });
}

/// Of those who take back the reasons not to run, the last one queues the vCPU.
#[test]
fn one_of_those_who_release_queues() {
    check(None, || {
        let vcpu = running();
        vcpu.hold(Hold::BLOCKED);
        vcpu.pause();
        let others = vcpu.clone();
        let unpause = thread::spawn(move || others.unpause());
        let others = vcpu.clone();
        let event = thread::spawn(move || {
            others
                .request(Request::INTERRUPT)
                .is_some_and(|effects| effects.wake)
        });
        let again = vcpu.release(Hold::BLOCKED);
        let queued = [
            again,
            unpause.join().expect("no panic"),
            event.join().expect("no panic"),
        ];
        assert_eq!(queued.iter().filter(|queued| **queued).count(), 1);
        assert!(vcpu.runnable());
    });
}

/// A request is seen before the guest is entered, or its maker sees to an exit.
#[test]
fn who_enters_the_guest_is_told() {
    check(None, || {
        let vcpu = running();
        let sender = vcpu.clone();
        let sender = thread::spawn(move || {
            sender
                .request(Request::NMI)
                .is_some_and(|effects| effects.interrupt)
        });
        let seen = vcpu.enter();
        let interrupted = sender.join().expect("no panic");
        assert!(
            !seen.is_empty() || interrupted,
            "in the guest with a request and no exit on its way"
        );
    });
}

/// A frame that was taken from a guest has its new owner to itself when the flush is over.
#[test]
fn a_flush_ends_all_use_of_a_translation() {
    check(None, || {
        let vcpu = running();
        let mapped = Arc::new(AtomicBool::new(true));
        let frame = Arc::new(UnsafeCell::new(0u32));
        let guest = {
            let (vcpu, mapped, frame) = (vcpu.clone(), mapped.clone(), frame.clone());
            thread::spawn(move || {
                let mut cached = true;
                if !vcpu.enter().is_empty() && vcpu.take_requests().contains(Request::FLUSH) {
                    cached = false;
                }
                // The guest: the CPU walks the tables if the translation is not cached.
                if cached || mapped.load(Relaxed) {
                    frame.with(|_| ());
                }
                vcpu.exited();
            })
        };
        mapped.store(false, Relaxed);
        let _ = vcpu.request(Request::FLUSH);
        vcpu.wait_for_flush();
        frame.with_mut(|_| ());
        guest.join().expect("no panic");
    });
}
