//! What waits for one of a group of CPUs, in order of virtual time.
//!
//! Those that may run on the same CPUs of the group are in one heap, least time first; but those that are urgent, as they woke and live within their share, go
//! before the others, in the order in which they came. Nearly always that is one class for all: others are there only while vCPUs
//! are pinned, for each set of CPUs that an administrator named. So who is next is found in O(1), and queued and taken in O(log n). With core scheduling each domain has classes of its own, so
//! that a CPU finds the next of one domain; what is found in O(1) then takes as long as there are domains that wait.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::entity::Owner;
use super::heap::{Heap, Slot};
use super::mask::CpuSet;
use super::scheduler::Task;
use crate::mm::fallible::OutOfMemory;

/// The owner of a class that is for all domains.
const ANY: Owner = 0;

/// The use of a heap for those that wait to run.
#[derive(Debug)]
pub struct Waiting;

impl<T: Task> Slot<Waiting> for T {
    fn slot(&self) -> &AtomicU32 {
        &self.entity().waiting_slot
    }
}

/// What waits for one of a group of CPUs.
#[derive(Debug)]
pub struct RunQueue<T> {
    /// The first is for those that may run on all CPUs, and of any domain; it stays.
    classes: Vec<Class<T>>,
    /// Domains do not share classes.
    by_domain: bool,
    waiting: u32,
    /// Sum of the weights of what waits.
    weight: u64,
}

/// Those that may run on the same CPUs, at the same time.
#[derive(Debug)]
struct Class<T> {
    cpus: CpuSet,
    owner: Owner,
    /// By the time when they came.
    urgent: Heap<T, Waiting>,
    /// By virtual time.
    others: Heap<T, Waiting>,
}

impl<T: Task> Class<T> {
    const fn new(cpus: CpuSet, owner: Owner) -> Self {
        Self {
            cpus,
            owner,
            urgent: Heap::new(),
            others: Heap::new(),
        }
    }

    /// The first, and what orders the firsts of classes: urgent ones come before others.
    #[inline]
    fn first(&self) -> Option<((bool, u64), &T)> {
        match self.urgent.peek() {
            Some((came, item)) => Some(((false, came), item)),
            None => self.others.peek().map(|(time, item)| ((true, time), item)),
        }
    }

    /// The heap that `item`, which waits, is in.
    fn heap_of(&mut self, item: &T) -> &mut Heap<T, Waiting> {
        self.heap(item.entity().urgent.load(Relaxed))
    }

    fn heap(&mut self, urgent: bool) -> &mut Heap<T, Waiting> {
        match urgent {
            true => &mut self.urgent,
            false => &mut self.others,
        }
    }
}

impl<T: Task> RunQueue<T> {
    /// An empty queue, where the next of one domain can be found if `by_domain`.
    pub fn new(by_domain: bool) -> Self {
        Self {
            classes: vec![Class::new(CpuSet::ALL, ANY)],
            by_domain,
            waiting: 0,
            weight: 0,
        }
    }

    /// Have memory for `count` tasks that wait: in the class that is for all, and for as many other classes, of which no task is in more than one.
    /// How many tasks wait in one of those is an administrator's choice of CPUs, or a domain's size with core scheduling: they grow as it is made use
    /// of, by the heap's own reserve if need be.
    ///
    /// # Errors
    /// There is none.
    pub fn reserve(&mut self, count: usize) -> Result<(), OutOfMemory> {
        let more = (count + 1).saturating_sub(self.classes.len());
        self.classes.try_reserve(more).map_err(|_| OutOfMemory)?;
        let Some(for_all) = self.classes.first_mut() else {
            return Ok(());
        };
        for_all.urgent.reserve(count)?;
        for_all.others.reserve(count)
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
    #[inline]
    pub fn push(&mut self, item: &T, time: u64) {
        let entity = item.entity();
        let class = self.class_of(item);
        let weight = entity.share.weight();
        entity.class.store(class, Relaxed);
        entity.urgent.store(false, Relaxed);
        entity.waiting_weight.store(weight, Relaxed);
        self.waiting += 1;
        self.weight += u64::from(weight);
        self.classes[class as usize].others.push(item, time);
    }

    /// `item`, which waits, is urgent from `now` on: it goes before all that are not.
    pub fn urge(&mut self, item: &T, now: u64) {
        let entity = item.entity();
        if let Some(class) = self.classes.get_mut(entity.class.load(Relaxed) as usize) {
            class.heap_of(item).remove(item);
            entity.urgent.store(true, Relaxed);
            class.urgent.push(item, now);
        }
    }

    /// The place of the class that `item` belongs to; one that is empty becomes it if there is none.
    fn class_of(&mut self, item: &T) -> u32 {
        let entity = item.entity();
        let owner = if self.by_domain { entity.owner() } else { ANY };
        if entity.hard.is_all() && owner == ANY {
            return 0;
        }
        let cpus = entity.hard.now();
        let same = |class: &Class<T>| class.cpus == cpus && class.owner == owner;
        let empty = |class: &Class<T>| class.urgent.is_empty() && class.others.is_empty();
        // The first stays what it is.
        let mut others = self.classes.iter().skip(1);
        let found = others.clone().position(same).or_else(|| others.position(empty));
        let place = found.map_or(self.classes.len(), |place| place + 1);
        match self.classes.get_mut(place) {
            Some(class) => (class.cpus, class.owner) = (cpus, owner),
            None => self.classes.push(Class::new(cpus, owner)),
        }
        place as u32
    }

    /// Who would be next on `cpu`, of this group or another, if its core were free; and the virtual time that it waits at: its own, or a later one
    /// if it has yielded.
    pub fn first_for(&self, cpu: u32) -> Option<(u64, &T)> {
        let first = self.first_of(|class| class.cpus.contains(cpu))?;
        let entity = first.entity();
        let class = self.classes.get(entity.class.load(Relaxed) as usize)?;
        let time = match entity.urgent.load(Relaxed) {
            true => entity.time.load(Relaxed),
            false => class.others.peek()?.0,
        };
        Some((time, first))
    }

    /// Who would be next on `cpu` of the domains that are `admitted`.
    pub fn first_admitted(&self, cpu: u32, admitted: impl Fn(Owner) -> bool) -> Option<&T> {
        self.first_of(|class| class.cpus.contains(cpu) && admitted(class.owner))
    }

    /// Who would be next of those that may run on one of `cpus`, which are bits from CPU `first` on.
    pub fn first_abroad(&self, first: u32, cpus: u32) -> Option<&T> {
        self.first_of(|class| class.cpus.window(first) & cpus != 0)
    }

    #[inline(always)]
    fn first_of(&self, eligible: impl Fn(&Class<T>) -> bool) -> Option<&T> {
        if self.waiting == 0 {
            return None;
        }
        let classes = self.classes.iter().filter(|class| eligible(class));
        let first = classes.filter_map(Class::first).min_by_key(|(key, _)| *key);
        first.map(|(_, item)| item)
    }

    /// Take the next for `cpu` of the domains that are `admitted`.
    pub fn pop(&mut self, cpu: u32, admitted: impl Fn(Owner) -> bool) -> Option<T> {
        let first = self.first_admitted(cpu, admitted)?.entity();
        let (class, urgent) = (first.class.load(Relaxed), first.urgent.load(Relaxed));
        let item = self.classes.get_mut(class as usize)?.heap(urgent).pop()?;
        self.forget(&item);
        Some(item)
    }

    /// Take out `item`, which waits.
    pub fn remove(&mut self, item: &T) {
        let entity = item.entity();
        if let Some(class) = self.classes.get_mut(entity.class.load(Relaxed) as usize) {
            class.heap_of(item).remove(item);
            self.forget(item);
        }
    }

    /// `item` does not wait any more.
    fn forget(&mut self, item: &T) {
        self.waiting -= 1;
        self.weight -= u64::from(item.entity().waiting_weight.load(Relaxed));
    }
}
