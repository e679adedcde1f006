//! What waits for one of a group of CPUs, in order of virtual time.
//!
//! Those that may run on the same CPUs of the group are in one heap, least time first. Nearly always that is one heap for all: others are there only while vCPUs
//! are pinned, one for each set of CPUs that an administrator named. So who is next is found in O(1), and queued and taken in O(log n).

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use super::heap::Heap;
use super::mask::CpuSet;
use super::scheduler::Task;

/// The use of a heap for those that wait to run.
#[derive(Debug)]
pub struct Waiting;

/// What waits for one of a group of CPUs.
#[derive(Debug)]
pub struct RunQueue<T> {
    /// The first is for those that may run on all CPUs; it stays.
    classes: Vec<Class<T>>,
    waiting: u32,
    /// Sum of the weights of what waits.
    weight: u64,
}

/// Those that may run on the same CPUs.
#[derive(Debug)]
struct Class<T> {
    cpus: CpuSet,
    heap: Heap<T, Waiting>,
}

impl<T: Task> Class<T> {
    const fn new(cpus: CpuSet) -> Self {
        Self {
            cpus,
            heap: Heap::new(),
        }
    }
}

impl<T: Task> RunQueue<T> {
    /// An empty queue.
    pub fn new() -> Self {
        Self {
            classes: vec![Class::new(CpuSet::ALL)],
            waiting: 0,
            weight: 0,
        }
    }

    /// How many wait.
    pub fn len(&self) -> u32 {
        self.waiting
    }

    /// Sum of the weights of what waits.
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// Queue `item`, which does not wait yet, as one that has `time`.
    pub fn push(&mut self, item: &T, time: u64) {
        let entity = item.entity();
        let class = self.class_of(item);
        let weight = entity.share.weight();
        entity.class.store(class, Relaxed);
        entity.waiting_weight.store(weight, Relaxed);
        self.waiting += 1;
        self.weight += u64::from(weight);
        self.classes[class as usize].heap.set(item, time);
    }

    /// The place of the class that `item` belongs to; one that is empty becomes it if there is none.
    fn class_of(&mut self, item: &T) -> u32 {
        let hard = &item.entity().hard;
        if hard.is_all() {
            return 0;
        }
        let cpus = hard.now();
        let empty = |class: &Class<T>| class.heap.is_empty() && class.cpus != CpuSet::ALL;
        let found = self
            .classes
            .iter()
            .position(|class| class.cpus == cpus)
            .or_else(|| self.classes.iter().position(empty));
        let place = found.unwrap_or(self.classes.len());
        match self.classes.get_mut(place) {
            Some(class) => class.cpus = cpus,
            None => self.classes.push(Class::new(cpus)),
        }
        place as u32
    }

    /// Who would be next on `cpu`, of this group or another: its time, and itself.
    pub fn first_for(&self, cpu: u32) -> Option<(u64, &T)> {
        self.first_of(|cpus| cpus.contains(cpu))
    }

    /// Who would be next of those that may run on one of `cpus`, which are bits from CPU `first` on.
    pub fn first_abroad(&self, first: u32, cpus: u32) -> Option<(u64, &T)> {
        self.first_of(|allowed| allowed.window(first) & cpus != 0)
    }

    fn first_of(&self, eligible: impl Fn(&CpuSet) -> bool) -> Option<(u64, &T)> {
        self.classes
            .iter()
            .filter_map(|class| {
                let (time, item) = class.heap.peek()?;
                eligible(&class.cpus).then_some((time, item))
            })
            .min_by_key(|(time, _)| *time)
    }

    /// Take the next for `cpu`.
    pub fn pop(&mut self, cpu: u32) -> Option<T> {
        let item = self.first_for(cpu)?.1.clone();
        self.remove(&item);
        Some(item)
    }

    /// Take out `item`, which waits.
    pub fn remove(&mut self, item: &T) {
        let entity = item.entity();
        if let Some(class) = self.classes.get_mut(entity.class.load(Relaxed) as usize) {
            class.heap.remove(item);
            self.waiting -= 1;
            self.weight -= u64::from(entity.waiting_weight.load(Relaxed));
        }
    }
}
