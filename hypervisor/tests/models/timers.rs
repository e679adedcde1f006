//! A vCPU's deadlines, and the CPUs that wait for them.

use core::sync::atomic::AtomicU32;

use loom::thread;
use std::sync::Arc;

use crate::check;
use crate::domain::vcpu::NEVER;
use crate::sched::heap::{Heap, Slot};
use crate::sched::timers::{self, Place, Queue, Timed, Timers};
use crate::sync::atomic::{AtomicU64, Ordering::SeqCst};
use crate::sync::{Mutex, Rank};

/// A vCPU with two deadlines.
struct Vcpu {
    place: Place,
    deadlines: [AtomicU64; 2],
}

impl Slot<Timers> for Arc<Vcpu> {
    fn slot(&self) -> &AtomicU32 {
        self.place.slot()
    }
}

impl Timed for Arc<Vcpu> {
    fn place(&self) -> &Place {
        &self.place
    }

    fn next(&self) -> u64 {
        let [first, second] = &self.deadlines;
        first.load(SeqCst).min(second.load(SeqCst))
    }
}

const NOW: u64 = 5;
const LATER: u64 = 7;
const LATEST: u64 = 9;

/// Two CPUs and a vCPU.
struct Model {
    queues: [Queue<Arc<Vcpu>>; 2],
    vcpu: Arc<Vcpu>,
}

impl Model {
    fn of(&self, cpu: u32) -> Option<&Queue<Arc<Vcpu>>> {
        self.queues.get(cpu as usize)
    }

    /// On `cpu` a deadline is set.
    fn set(&self, cpu: u32, which: usize, deadline: u64) {
        self.vcpu.deadlines[which].store(deadline, SeqCst);
        let own = &self.queues[cpu as usize];
        timers::queue(&self.vcpu, cpu, own, |cpu| self.of(cpu));
    }

    /// The timer of CPU 0 fires: the first deadline is over if it has come, and the second is the one to be seen to whether or not the vCPU runs.
    fn fires(&self) {
        let due = self.queues[0].lock().pop_due(NOW);
        if let Some(vcpu) = due {
            let passed = |then| (then <= NOW).then_some(NEVER);
            let _ = vcpu.deadlines[0].fetch_update(SeqCst, SeqCst, passed);
            let next = vcpu.deadlines[1].load(SeqCst);
            if next != NEVER {
                timers::queue_again(&vcpu, 0, &self.queues[0], next);
            }
        }
    }

    fn retires(&self) {
        timers::give_away(0, &self.queues[0], 1, &self.queues[1]);
    }

    fn forgets(&self) {
        timers::forget(&self.vcpu, |cpu| self.of(cpu));
    }

    /// For when the vCPU is in the queues.
    fn queued(&self) -> Vec<u64> {
        let first = |queue: &Queue<Arc<Vcpu>>| queue.lock().first();
        self.queues
            .iter()
            .map(first)
            .filter(|first| *first != NEVER)
            .collect()
    }
}

/// What two CPUs do about a vCPU that is in the queue of CPU 0 with `deadlines`.
fn beside(deadlines: [u64; 2], threads: [fn(&Model); 2], after: fn(&Model)) {
    check(None, move || {
        let queue = || Mutex::new(Rank::Timers, Heap::new());
        let vcpu = Arc::new(Vcpu {
            place: Place::new(),
            deadlines: deadlines.map(AtomicU64::new),
        });
        let model = Arc::new(Model {
            queues: [queue(), queue()],
            vcpu,
        });
        timers::queue(&model.vcpu, 0, &model.queues[0], |cpu| model.of(cpu));
        let other = {
            let model = model.clone();
            thread::spawn(move || threads[1](&model))
        };
        threads[0](&model);
        other.join().expect("no panic");
        after(&model);
    });
}

#[test]
fn of_two_deadlines_set_at_once_none_is_lost() {
    beside(
        [NEVER, NEVER],
        [|model| model.set(0, 0, LATER), |model| model.set(1, 1, LATEST)],
        |model| assert_eq!(model.queued(), [LATER]),
    );
}

#[test]
fn a_deadline_that_is_set_while_another_passes_is_waited_for() {
    beside(
        [NOW, LATEST],
        [Model::fires, |model| model.set(1, 0, LATER)],
        |model| {
            let [first, second] = model.vcpu.deadlines.each_ref().map(|then| then.load(SeqCst));
            assert!(first == LATER || first == NEVER && second == LATEST);
            let queued = model.queued();
            assert!(queued.len() == 1 && queued[0] <= first.min(second), "{queued:?}");
        },
    );
}

#[test]
fn a_cpu_that_retires_leaves_no_deadline_behind() {
    beside(
        [LATEST, NEVER],
        [Model::retires, |model| model.set(1, 1, LATER)],
        |model| {
            assert_eq!(model.queues[0].lock().first(), NEVER);
            assert_eq!(model.queued(), [LATER]);
        },
    );
}

/// Whatever still comes to a vCPU that is forgotten: it would stay in memory until then.
#[test]
fn who_is_forgotten_is_in_no_queue() {
    let others: [fn(&Model); 3] = [Model::fires, Model::retires, |model| model.set(1, 0, LATER)];
    for other in others {
        beside([NOW, LATEST], [Model::forgets, other], |model| {
            assert!(model.queued().is_empty())
        });
    }
}
