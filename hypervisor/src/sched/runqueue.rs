//! What waits for one of a group of CPUs, in order of virtual time.
//!
//! Those that may run on the same CPUs of the group are in one heap, least time first; but those that are urgent, as they woke and live within their share, go
//! before the others, in the order in which they came. Nearly always that is one class for all: others are there only while vCPUs
//! are pinned, for each set of CPUs that an administrator named; and with core scheduling each domain has classes of its own, so
//! that a CPU finds the next of one domain. Of many classes a [`Bracket`] knows the first; few are looked at. So who is next on one of the group's CPUs is found in O(1), of one domain in
//! as many steps as it has classes, and queued and taken in O(log n). A CPU of another group, which idles, looks at all classes,
//! if one of them has something for it.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::bracket::{Bracket, Contest};
use super::demand::{Demand, Named};
use super::entity::{Entity, Owner};
use super::heap::{Heap, Slot};
use super::mask::CpuSet;
use super::scheduler::{Task, lowest};
use crate::mm::fallible::{OutOfMemory, ensure_reserve};

/// Classes but the first, up to so many, are looked at one by one: that costs less than the tournament. Once it is held, it is until there are half as many: to begin
/// it costs more than a few rounds.
const FEW: usize = 8;

/// How many classes stay what they are for a while after they became empty, at most.
const LINGERING: usize = 4;

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

/// Whose vCPUs a CPU may begin to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admitted {
    /// Anybody's.
    All,
    /// Those of one domain.
    Only(Owner),
    /// Nobody's.
    None,
}

/// What waits for one of a group of CPUs.
#[derive(Debug)]
pub struct RunQueue<T> {
    classes: Classes<T>,
    /// Those but the first that are for somebody, by owner and CPUs; and the others.
    order: Vec<u32>,
    free: Vec<u32>,
    /// Those that became empty last, and where the next goes: what was in them mostly comes back soon. 0 is none.
    lingering: [u32; LINGERING],
    turn: usize,
    bracket: Bracket,
    /// The bracket is told of what changes.
    many: bool,
    /// Which CPUs classes that have something are for.
    demand: Demand,
    /// The group's number, its first CPU, and how many they are.
    number: u32,
    first: u32,
    size: u32,
    /// Domains do not share classes.
    by_domain: bool,
    waiting: u32,
    /// Sum of the weights of what waits.
    weight: u64,
    /// Something came or went since [`RunQueue::take_changed`].
    changed: bool,
}

/// The first is for those that may run on all CPUs, and of any domain: it stays, and takes no part in the tournament.
#[derive(Debug)]
struct Classes<T>(Vec<Class<T>>);

/// Those that may run on the same CPUs, at the same time.
#[derive(Debug)]
struct Class<T> {
    named: Named,
    /// Those of the group, as bits.
    own: u32,
    owner: Owner,
    stage: Stage,
    /// By the time when they came.
    urgent: Heap<T, Waiting>,
    /// By virtual time.
    others: Heap<T, Waiting>,
}

/// What becomes of a class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// It is for nobody.
    Free,
    /// It is in the order.
    Listed,
    /// It is that, and among those that became empty last.
    Lingering,
}

impl<T: Task> Class<T> {
    const fn new(named: Named, own: u32, owner: Owner) -> Self {
        Self {
            named,
            own,
            owner,
            stage: Stage::Listed,
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

    fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.others.is_empty()
    }

    fn heap(&mut self, urgent: bool) -> &mut Heap<T, Waiting> {
        match urgent {
            true => &mut self.urgent,
            false => &mut self.others,
        }
    }
}

impl<T: Task> Contest for Classes<T> {
    type Key = (bool, u64);

    fn key(&self, index: u32, cpu: u32) -> Option<Self::Key> {
        let class = self.0.get(index as usize).filter(|_| index != 0)?;
        let (key, item) = class.first().filter(|_| class.own >> cpu & 1 != 0)?;
        item.is_compared();
        Some(key)
    }
}

impl<T: Task> RunQueue<T> {
    /// An empty queue for the group with a number, of so many `groups` of `size` CPUs, where the next of one domain can be found if `by_domain`.
    pub fn new(number: u32, groups: u32, size: u32, by_domain: bool) -> Self {
        Self {
            classes: Classes(vec![Class::new(Named::ALL, u32::MAX, ANY)]),
            order: Vec::new(),
            free: Vec::new(),
            lingering: [0; LINGERING],
            turn: 0,
            bracket: Bracket::new(),
            many: false,
            demand: Demand::new(groups, size),
            number,
            first: number * size,
            size,
            by_domain,
            waiting: 0,
            weight: 0,
            changed: false,
        }
    }

    /// Have memory for `count` tasks that wait: in the class that is for all, and for as many other classes, of which no task is in more than one.
    /// How many tasks wait in one of those is an administrator's choice of CPUs, or a domain's size with core scheduling: they grow as it is made use
    /// of, by the heap's own reserve if need be.
    ///
    /// # Errors
    /// There is none.
    pub fn reserve(&mut self, count: usize) -> Result<(), OutOfMemory> {
        ensure_reserve()?;
        let classes = &mut self.classes.0;
        let others = count + LINGERING;
        let more = (others + 1).saturating_sub(classes.len());
        classes.try_reserve(more).map_err(|_| OutOfMemory)?;
        for list in [&mut self.order, &mut self.free] {
            let more = others.saturating_sub(list.len());
            list.try_reserve(more).map_err(|_| OutOfMemory)?;
        }
        self.bracket.reserve(others + 1)?;
        let Some(for_all) = classes.first_mut() else {
            return Ok(());
        };
        for_all.urgent.reserve(count)?;
        for_all.others.reserve(count)
    }

    /// Has something come or gone since this was asked last?
    pub fn take_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    /// How many wait.
    pub fn len(&self) -> u32 {
        self.waiting
    }

    /// Sum of the weights of what waits.
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// The CPUs of the group, as bits, that something waits for.
    pub fn wanted(&self) -> u32 {
        self.wanted_of(self.number)
    }

    /// The CPUs of group `number`, as bits, that something waits for.
    pub fn wanted_of(&self, number: u32) -> u32 {
        self.demand.of(number)
    }

    /// The groups, as bits, that something waits for.
    pub fn groups_wanted(&self) -> u32 {
        self.demand.groups()
    }

    /// Queue `item`, which does not wait yet, as one that has `time`.
    #[inline]
    pub fn push(&mut self, item: &T, time: u64) {
        self.insert(item, time, false);
    }

    /// The same for one that is urgent, from `now` on: it goes before all that are not.
    #[inline]
    pub fn push_urgent(&mut self, item: &T, now: u64) {
        self.insert(item, now, true);
    }

    fn insert(&mut self, item: &T, key: u64, urgent: bool) {
        let entity = item.entity();
        let class = self.class_of(entity);
        let weight = entity.share.weight();
        entity.class.store(class, Relaxed);
        entity.urgent.store(urgent, Relaxed);
        entity.waiting_weight.store(weight, Relaxed);
        self.waiting += 1;
        self.weight += u64::from(weight);
        let began = self.change(class, |class| {
            let began = class.is_empty();
            class.heap(urgent).push(item, key);
            began
        });
        if began == Some(true) {
            self.demand.add(&self.classes.0[class as usize].named);
        }
    }

    /// Change a class, and what others know of it.
    #[inline(always)]
    fn change<R>(&mut self, index: u32, work: impl FnOnce(&mut Class<T>) -> R) -> Option<R> {
        let class = self.classes.0.get_mut(index as usize)?;
        let key = |class: &Class<T>| class.first().map(|(key, _)| key);
        let before = (index != 0 && self.many).then(|| key(class));
        let result = work(class);
        self.changed = true;
        if before.is_some_and(|before| before != key(class)) {
            let own = class.own;
            self.bracket.update(index, own, &self.classes);
        }
        Some(result)
    }

    /// Where the class of these is in the order, or would be.
    fn place_of(&self, owner: Owner, cpus: &CpuSet) -> Result<usize, usize> {
        let key = |index: &u32| {
            let class = &self.classes.0[*index as usize];
            (class.owner, &class.named.cpus)
        };
        self.order
            .binary_search_by(|index| key(index).cmp(&(owner, cpus)))
    }

    /// The number of the class that a task belongs to; one that is free becomes it if there is none.
    fn class_of(&mut self, entity: &Entity) -> u32 {
        let owner = if self.by_domain { entity.owner() } else { ANY };
        if entity.hard.is_all() && owner == ANY {
            return 0;
        }
        // Mostly the one that it was in before.
        let last = entity.class.load(Relaxed);
        let of_last = self.classes.0.get(last as usize).filter(|_| last != 0);
        if of_last.is_some_and(|class| {
            class.stage != Stage::Free && class.owner == owner && entity.hard.is(&class.named.cpus)
        }) {
            return last;
        }
        self.other_class(owner, entity.hard.now())
    }

    /// The same for one that was in another class before, or in none.
    #[inline(never)]
    fn other_class(&mut self, owner: Owner, cpus: CpuSet) -> u32 {
        let place = match self.place_of(owner, &cpus) {
            Ok(place) => return self.order[place],
            Err(place) => place,
        };
        let own = cpus.window(self.first) & lowest(self.size);
        let named = Named::new(cpus, self.size);
        let classes = &mut self.classes.0;
        let index = self.free.pop().unwrap_or(classes.len() as u32);
        match classes.get_mut(index as usize) {
            Some(class) => {
                (class.named, class.own, class.owner) = (named, own, owner);
                class.stage = Stage::Listed;
            }
            None => classes.push(Class::new(named, own, owner)),
        }
        let count = classes.len() as u32;
        self.bracket.grow(count, &self.classes);
        self.order.insert(place, index);
        if self.order.len() > FEW && !self.many {
            self.many = true;
            for &index in &self.order {
                let own = self.classes.0[index as usize].own;
                self.bracket.update(index, own, &self.classes);
            }
        }
        index
    }

    /// Who would be next on `cpu`, of this group or another, if its core were free; and the virtual time that it waits at: its own, or a later one
    /// if it has yielded.
    #[inline(always)]
    pub fn first_for(&self, cpu: u32) -> Option<(u64, &T)> {
        let ((late, key), first) = self.head_for(cpu, Admitted::All)?;
        let time = match late {
            true => key,
            false => first.entity().time.load(Relaxed),
        };
        Some((time, first))
    }

    /// Who would be next on `cpu` of the domains that are `admitted`.
    pub fn first_admitted(&self, cpu: u32, admitted: Admitted) -> Option<&T> {
        self.head_for(cpu, admitted).map(|(_, item)| item)
    }

    /// Does anything wait that `cpu`, of this group or another, may begin to run, of the domains that are `admitted`?
    pub fn has_for(&self, cpu: u32, admitted: Admitted) -> bool {
        self.wants(cpu) && (admitted == Admitted::All || self.first_admitted(cpu, admitted).is_some())
    }

    fn wants(&self, cpu: u32) -> bool {
        self.wanted_of(cpu / self.size) >> (cpu % self.size) & 1 != 0
    }

    /// Who would be next of those that may run on one of `cpus` of another group, which are bits from its first CPU on.
    pub fn first_abroad(&self, number: u32, cpus: u32) -> Option<&T> {
        if self.wanted_of(number) & cpus == 0 {
            return None;
        }
        let first = number * self.size;
        let first = self.first_of(&self.order, |class| class.named.cpus.window(first) & cpus != 0);
        first.map(|(_, item)| item)
    }

    /// The first of the class for all, and of those of `others` that are eligible.
    #[inline(always)]
    fn first_of(&self, others: &[u32], eligible: impl Fn(&Class<T>) -> bool) -> Option<((bool, u64), &T)> {
        let for_all = self.classes.0.first().filter(|class| eligible(class));
        let mut best = for_all.and_then(Class::first);
        for &index in others {
            let class = self.classes.0.get(index as usize).filter(|class| eligible(class));
            if let Some((key, item)) = class.and_then(Class::first) {
                item.is_compared();
                if best.is_none_or(|(least, _)| key < least) {
                    best = Some((key, item));
                }
            }
        }
        best
    }

    #[inline(always)]
    fn head_for(&self, cpu: u32, admitted: Admitted) -> Option<((bool, u64), &T)> {
        if self.waiting == 0 {
            return None;
        }
        let own = cpu.wrapping_sub(self.first);
        match own < self.size && !self.many && admitted == Admitted::All {
            true => self.first_of(&self.order, |class| class.own >> own & 1 != 0),
            false => self.head_of_many(cpu, admitted),
        }
    }

    /// As [`RunQueue::head_for`], where there are many classes, or some are not admitted, or for a CPU of another group.
    #[inline(never)]
    fn head_of_many(&self, cpu: u32, admitted: Admitted) -> Option<((bool, u64), &T)> {
        let own = cpu.wrapping_sub(self.first);
        let winner;
        let places = match admitted {
            _ if !self.wants(cpu) => return None,
            Admitted::None => return None,
            Admitted::Only(owner) => {
                let owner_of = |index: &u32| self.classes.0[*index as usize].owner;
                let from = self.order.partition_point(|index| owner_of(index) < owner);
                let until = self.order.partition_point(|index| owner_of(index) <= owner);
                &self.order[from..until]
            }
            Admitted::All if own < self.size => {
                winner = [self.bracket.first(own)];
                &winner[..]
            }
            Admitted::All => &self.order,
        };
        self.first_of(places, |class| class.named.cpus.contains(cpu))
    }

    /// Take the next for `cpu` of the domains that are `admitted`.
    pub fn pop(&mut self, cpu: u32, admitted: Admitted) -> Option<T> {
        let first = self.first_admitted(cpu, admitted)?.entity();
        // Who is first of all is so in its heap.
        self.take(first.class.load(Relaxed), first.urgent.load(Relaxed), Heap::pop)
    }

    /// Take out `item`, which waits.
    pub fn remove(&mut self, item: &T) {
        let entity = item.entity();
        let (class, urgent) = (entity.class.load(Relaxed), entity.urgent.load(Relaxed));
        self.take(class, urgent, |heap| heap.remove(item));
    }

    /// Have `take` take one out of a heap of class `index`.
    #[inline(always)]
    fn take(
        &mut self,
        index: u32,
        urgent: bool,
        take: impl FnOnce(&mut Heap<T, Waiting>) -> Option<T>,
    ) -> Option<T> {
        let (taken, emptied) = self.change(index, |class| (take(class.heap(urgent)), class.is_empty()))?;
        let taken = taken?;
        self.waiting -= 1;
        self.weight -= u64::from(taken.entity().waiting_weight.load(Relaxed));
        if emptied {
            self.demand.remove(&self.classes.0[index as usize].named);
            self.linger(index);
        }
        Some(taken)
    }

    /// Class `index` became empty: it stays what it is for a while.
    fn linger(&mut self, index: u32) {
        if index != 0
            && let Some(class) = self.classes.0.get_mut(index as usize)
            && class.stage == Stage::Listed
        {
            class.stage = Stage::Lingering;
            let oldest = core::mem::replace(&mut self.lingering[self.turn], index);
            self.turn = (self.turn + 1) % LINGERING;
            if oldest != 0 {
                self.retire(oldest);
            }
        }
    }

    /// Class `index` has been among those that became empty last for long enough: if it is empty, it is free.
    fn retire(&mut self, index: u32) {
        let Some(class) = self.classes.0.get_mut(index as usize) else {
            return;
        };
        class.stage = Stage::Listed;
        if !class.is_empty() {
            return;
        }
        class.stage = Stage::Free;
        let (owner, cpus) = (class.owner, class.named.cpus);
        if let Ok(place) = self.place_of(owner, &cpus) {
            self.order.remove(place);
            self.free.push(index);
            self.many &= self.order.len() > FEW / 2;
        }
    }
}
