//! The algorithm: who runs next on a CPU, and which CPU runs whom.
//!
//! Groups of up to [`GROUP`] CPUs, neighbours by number, share a [`RunQueue`]: what waits there is anybody's of the group, so that shares hold over all of
//! them and no CPU idles while something waits. A CPU that finds nothing in its own group takes from the others; and a group where more waits than in another
//! gives some of it away before that one's CPUs idle. Nothing global is written on a hot path.
//!
//! Whether a task waits or runs changes under the lock of the queue of its group ([`Entity::cpu`] says which). Run queues are locked one at a time.
//!
//! No ticks: [`Scheduler::deadline`] is the end of a slice only while somebody waits, or what runs would rather be elsewhere.
//!
//! Pure: the time comes with each call, and what the machine is to do goes to a [`Machine`]; so a simulator can run it.

mod balance;
mod cores;
mod straying;
mod waking;

pub use cores::Granularity;

pub(super) use balance::{bits, lowest};

use alloc::vec::Vec;
use core::num::NonZeroU32;

use super::entity::Entity;
use super::fair::{self, virtual_time};
use super::runqueue::{Admitted, RunQueue};
use super::seat::Seat;
use super::share::Left;
use crate::domain::vcpu::NEVER;
use crate::mm::fallible::OutOfMemory;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use crate::sync::{Mutex, Rank};
use cores::Cores;

/// How long a vCPU runs before another that waits gets the CPU, in nanoseconds.
pub const SLICE: u64 = 10_000_000;
/// [`Scheduler::rate_limit`] at first: credit2's default.
const RATE_LIMIT: u64 = 1_000_000;
/// CPUs that share a queue, at most: credit2's default.
pub(super) const GROUP: u32 = 16;

/// What is scheduled.
pub trait Task: Clone {
    /// The scheduler's part of it.
    fn entity(&self) -> &Entity;
    /// May it run?
    fn runnable(&self) -> bool;
    /// Has it been asked to make room ([`Machine::preempt`]), or is about to for another reason?
    fn leaves(&self) -> bool;
    /// It is in `state` from `now` on.
    fn enters(&self, state: State, now: u64);
    /// It is the first of those in a queue that are alike, and is compared with the first of others. For who counts that.
    fn is_compared(&self) {}
}

/// What a task does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Has a CPU.
    Running,
    /// Waits for one.
    Waiting,
    /// Wants none.
    Stopped,
}

/// What the scheduler asks of the machine. Each may happen a little later.
pub trait Machine<T> {
    /// CPU `id`, which had nothing to do, is to [`Scheduler::pick`] again.
    fn kick(&self, id: u32);
    /// [`Scheduler::deadline`] has changed for CPU `id`: to `then`, if it was not before.
    fn reconsider(&self, id: u32, then: u64);
    /// The CPU that runs `task` is to [`Scheduler::put`] it and to pick again.
    fn preempt(&self, task: &T);
    /// `task` is not [`Task::runnable`] until `then`, and is to be woken then.
    fn park(&self, task: &T, then: u64);
}

/// All CPUs and what waits for them.
#[derive(Debug)]
pub struct Scheduler<T> {
    cpus: Vec<Cpu<T>>,
    groups: Vec<Group<T>>,
    /// CPUs of a group.
    size: NonZeroU32,
    /// How many CPUs take part. Their numbers begin with 0.
    count: AtomicU32,
    rate_limit: AtomicU64,
    /// `None`: CPUs may run different domains, whatever they share.
    cores: Option<Cores>,
    /// Groups that may have idle CPUs: a hint, which saves looking at each.
    idle_groups: AtomicU32,
}

/// CPUs that share what waits.
#[derive(Debug)]
struct Group<T> {
    queue: Mutex<RunQueue<T>>,
    number: u32,
    /// The first CPU.
    first: u32,
    /// How many wait, and the sum of their weights, for those who do not hold the lock.
    waiting: AtomicU32,
    load: AtomicU64,
    /// The CPUs, as bits from the first on, that something waits for; and the groups, this one or others.
    wanted: AtomicU32,
    groups_wanted: AtomicU32,
    /// The CPUs, as bits from the first on, that have found nothing to run. Who wakes a task takes the bit of the CPU that is to run it.
    idle: AtomicU32,
    /// When to look next at the others that run.
    look: AtomicU64,
    /// How many other groups were looked at.
    looks: AtomicU32,
    /// The CPUs, as bits from the first on, that are offline.
    offline: AtomicU32,
}

/// What a CPU runs.
#[derive(Debug)]
struct Cpu<T> {
    seat: Seat<T>,
    /// Virtual time of the task that runs when it began, [`NEVER`] if none runs; when that was; and its weight.
    time: AtomicU64,
    since: AtomicU64,
    weight: AtomicU32,
    /// Virtual time that has been contended for here: what begins to wait has about that. Written by the CPU itself.
    floor: AtomicU64,
    /// Nanoseconds spent running tasks.
    busy: AtomicU64,
    /// When the running task is to make room, if another waits.
    slice_end: AtomicU64,
    /// When its domain has used up what a cap allows.
    budget_end: AtomicU64,
    /// The running task would rather be elsewhere. For the CPU itself.
    strays: AtomicBool,
}

impl<T: Task> Group<T> {
    /// Change the queue, and what others see of it without the lock.
    #[inline(always)]
    fn with<R>(&self, work: impl FnOnce(&mut RunQueue<T>) -> R) -> R {
        let mut queue = self.queue.lock();
        let result = work(&mut queue);
        if queue.take_changed() {
            self.publish(&queue);
        }
        result
    }

    #[inline(always)]
    fn publish(&self, queue: &RunQueue<T>) {
        self.waiting.store(queue.len(), SeqCst);
        self.load.store(queue.weight(), SeqCst);
        // Mostly these stay what they are, and a look costs less.
        for (word, bits) in [
            (&self.wanted, queue.wanted()),
            (&self.groups_wanted, queue.groups_wanted()),
        ] {
            if word.load(Relaxed) != bits {
                word.store(bits, SeqCst);
            }
        }
    }

    fn has_waiting(&self) -> bool {
        self.waiting.load(SeqCst) != 0
    }
}

impl<T: Clone> Cpu<T> {
    fn new() -> Self {
        Self {
            seat: Seat::new(),
            time: AtomicU64::new(NEVER),
            since: AtomicU64::new(0),
            weight: AtomicU32::new(1),
            floor: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            slice_end: AtomicU64::new(NEVER),
            budget_end: AtomicU64::new(NEVER),
            strays: AtomicBool::new(false),
        }
    }

    /// Virtual time at `now` of the task that runs. `None`: none does.
    fn time_at(&self, now: u64) -> Option<u64> {
        let time = self.time.load(SeqCst);
        let ran = now.saturating_sub(self.since.load(SeqCst));
        (time != NEVER).then(|| time.saturating_add(virtual_time(ran, self.weight.load(SeqCst))))
    }

    /// Nobody who is contended for here is behind `time`. For the CPU itself.
    fn raise_floor(&self, time: u64) {
        if time > self.floor.load(Relaxed) {
            self.floor.store(time, Relaxed);
        }
    }
}

impl<T: Task> Scheduler<T> {
    /// For `most` CPUs, of which the first takes part at once.
    pub fn new(most: usize, granularity: Granularity) -> Self {
        let by_core = granularity != Granularity::Cpu;
        let most = most.max(1) as u32;
        // Groups that are about equal: shares hold the better, the more CPUs share a queue.
        let size = NonZeroU32::new(most.div_ceil(most.div_ceil(GROUP))).unwrap_or(NonZeroU32::MIN);
        let count = most.div_ceil(size.get());
        let group = |number: u32| Group {
            queue: Mutex::new(Rank::RunQueue, RunQueue::new(number, count, size.get(), by_core)),
            number,
            first: number * size.get(),
            waiting: AtomicU32::new(0),
            load: AtomicU64::new(0),
            wanted: AtomicU32::new(0),
            groups_wanted: AtomicU32::new(0),
            idle: AtomicU32::new(0),
            look: AtomicU64::new(0),
            looks: AtomicU32::new(0),
            offline: AtomicU32::new(0),
        };
        Self {
            cpus: (0..most).map(|_| Cpu::new()).collect(),
            groups: (0..count).map(group).collect(),
            size,
            count: AtomicU32::new(1),
            rate_limit: AtomicU64::new(RATE_LIMIT),
            cores: by_core.then(|| Cores::new(most)),
            idle_groups: AtomicU32::new(0),
        }
    }

    /// Have memory for `count` tasks to wait, whichever CPUs they wait for.
    ///
    /// # Errors
    /// There is none.
    pub fn reserve(&self, count: usize) -> Result<(), OutOfMemory> {
        self.groups
            .iter()
            .try_for_each(|group| group.queue.lock().reserve(count))
    }

    /// CPU `id`, the next that did not, takes part from now on.
    pub fn add_cpu(&self, id: u32) {
        self.count.store(id + 1, SeqCst);
    }

    /// CPU `id` is offline from now on, or is no more. While it is, nobody's [`Entity::hard`] contains it.
    pub fn set_offline(&self, id: u32, offline: bool) {
        let Some(group) = self.group(id) else { return };
        let bit = 1 << (id - group.first);
        match offline {
            true => group.offline.fetch_or(bit, SeqCst),
            false => group.offline.fetch_and(!bit, SeqCst),
        };
    }

    /// How many CPUs take part.
    pub fn cpu_count(&self) -> u32 {
        self.count.load(SeqCst)
    }

    /// How long a task runs, in nanoseconds, before one that was woken takes its CPU.
    pub fn rate_limit(&self) -> u64 {
        self.rate_limit.load(SeqCst)
    }

    /// Change [`Scheduler::rate_limit`].
    pub fn set_rate_limit(&self, limit: u64) {
        self.rate_limit.store(limit, SeqCst);
    }

    /// Nanoseconds that CPU `id` has spent running tasks that run no more.
    pub fn busy(&self, id: u32) -> u64 {
        self.cpu(id).map_or(0, |cpu| cpu.busy.load(SeqCst))
    }

    /// What CPU `id` runs, unless that is just being changed.
    pub fn current(&self, id: u32) -> Option<T> {
        self.cpu(id)?.seat.try_get()
    }

    /// Does CPU `id` run a task? Certain on the CPU itself.
    pub fn runs_any(&self, id: u32) -> bool {
        self.cpu(id).is_some_and(|cpu| cpu.time.load(SeqCst) != NEVER)
    }

    /// How many wait in the group of CPU `id`.
    pub fn waiting(&self, id: u32) -> u32 {
        self.group(id).map_or(0, |group| group.waiting.load(SeqCst))
    }

    fn cpu(&self, id: u32) -> Option<&Cpu<T>> {
        self.cpus.get(id as usize)
    }

    /// The group of CPU `id`.
    fn group(&self, id: u32) -> Option<&Group<T>> {
        self.groups.get((id / self.size) as usize)
    }

    /// The CPUs of `group` that take part, as bits.
    fn members(&self, group: &Group<T>) -> u32 {
        let count = self.cpu_count().saturating_sub(group.first).min(self.size.get());
        lowest(count) & !group.offline.load(Relaxed)
    }

    /// Does anything wait in `group` that CPU `id` may run? In another group than its own, maybe something that only its neighbours may.
    fn waits_for(&self, group: &Group<T>, id: u32) -> bool {
        match id.wrapping_sub(group.first) {
            bit if bit < self.size.get() => group.wanted.load(SeqCst) >> bit & 1 != 0,
            _ => group.groups_wanted.load(SeqCst) >> (id / self.size) & 1 != 0,
        }
    }

    fn floor(&self, id: u32) -> u64 {
        self.cpu(id).map_or(0, |cpu| cpu.floor.load(Relaxed))
    }

    // ---- choosing ----

    /// The next task to run on CPU `here`; it counts as running from here on. `None`: nothing to do.
    pub fn pick(&self, here: u32, now: u64, machine: &impl Machine<T>) -> Option<T> {
        let (cpu, home) = (self.cpu(here)?, self.group(here)?);
        // Somebody has claimed this CPU while it idled: for what waits in any group, or for what it was handed. Who knows: a claim that came late may have handed
        // it something in the place of another.
        let mut claimed = cpu.seat.idles() && !self.claim(home, here);
        let mut handed = self.handed(home, cpu, here, now);
        loop {
            let mut idle = false;
            let found = handed.take().or_else(|| self.take(home, cpu, here, now));
            let found = found.or_else(|| {
                // From here on whoever wakes a task sees that there is room; so what is not seen here, comes here.
                self.set_idle(home, here);
                idle = true;
                let (before, after) = self.groups.split_at(home.number as usize);
                after
                    .iter()
                    .chain(before)
                    .find_map(|group| self.take(group, cpu, here, now))
            });
            let Some(task) = found else {
                self.settle_core(home, here, None, machine);
                cpu.seat.open();
                return None;
            };
            claimed |= idle && !self.claim(home, here);
            let entity = task.entity();
            let budget_end = match entity.share.left(now) {
                Left::Unlimited => NEVER,
                Left::Some(left) => now + left,
                Left::NoneUntil(then) => {
                    machine.park(&task, then);
                    self.stopped(&task, here, now, machine);
                    continue;
                }
            };
            task.enters(State::Running, now);
            cpu.since.store(now, SeqCst);
            cpu.weight.store(entity.share.weight(), SeqCst);
            cpu.time.store(entity.time.load(SeqCst), SeqCst);
            cpu.budget_end.store(budget_end, SeqCst);
            cpu.strays.store(self.strays(entity, here), Relaxed);
            cpu.seat.set(Some(task.clone()));
            self.settle_core(home, here, Some(&task), machine);
            if home.has_waiting() {
                self.spread(home, here, now, machine);
            }
            if claimed {
                self.offer_elsewhere(home, machine);
            }
            return Some(task);
        }
    }

    /// The next for `cpu`, which is number `here`, of what waits in `group`; it runs there from `now` on.
    fn take(&self, group: &Group<T>, cpu: &Cpu<T>, here: u32, now: u64) -> Option<T> {
        if !self.waits_for(group, here) {
            return None;
        }
        group.with(|queue| {
            let mut core = self.core(here);
            while let Some(task) =
                queue.pop(here, core.as_ref().map_or(Admitted::All, |core| core.admitted()))
            {
                let entity = task.entity();
                if !task.runnable() {
                    task.enters(State::Stopped, now);
                    continue;
                }
                if here.wrapping_sub(group.first) >= self.size.get() {
                    self.carry_time(entity, here);
                }
                if let Some(core) = &mut core {
                    core.enter(entity.owner());
                }
                entity.runs_on(here, now);
                self.begin(queue, cpu, entity, here, now);
                return Some(task);
            }
            None
        })
    }

    /// A task is about to come to CPU `here`, maybe from another group, of which it brings its time.
    fn carry_time(&self, entity: &Entity, here: u32) {
        let from = entity.cpu();
        if from / self.size != here / self.size {
            let floor = self.floor(here);
            let time = fair::moved(entity.time.load(SeqCst), self.floor(from), floor);
            let time = fair::woken(time, floor, entity.share.weight());
            entity.time.store(time, SeqCst);
        }
    }

    /// A task, which counts as running on CPU `here`, begins to. Under the lock of `queue`, which is that of the CPU's group or where the task waited.
    fn begin(&self, queue: &RunQueue<T>, cpu: &Cpu<T>, entity: &Entity, here: u32, now: u64) {
        let time = entity.time.load(SeqCst);
        self.begin_alone(cpu, entity, now);
        // Who is behind and waits has yielded: as on credit2 it is not to pay for that with a slice.
        let yielded = queue
            .first_for(here)
            .is_some_and(|(_, next)| next.entity().time.load(SeqCst) < time);
        if yielded {
            cpu.slice_end.store(now + self.rate_limit(), SeqCst);
        }
    }

    /// The same where nobody waits.
    fn begin_alone(&self, cpu: &Cpu<T>, entity: &Entity, now: u64) {
        cpu.raise_floor(entity.time.load(SeqCst));
        entity.spun.store(false, Relaxed);
        cpu.slice_end.store(now + SLICE, SeqCst);
    }

    // ---- stopping ----

    /// `task`, which [`Scheduler::pick`] gave to CPU `here`, runs no more: account its time and queue it again if it can go on.
    pub fn put(&self, task: &T, here: u32, now: u64, machine: &impl Machine<T>) {
        let Some(cpu) = self.cpu(here) else { return };
        cpu.seat.set(None);
        cpu.time.store(NEVER, SeqCst);
        let entity = task.entity();
        let ran = now.saturating_sub(entity.since.load(SeqCst));
        entity.ran.fetch_add(ran, SeqCst);
        cpu.busy.fetch_add(ran, SeqCst);
        entity.share.charge(ran, now);
        let time = entity.time.load(SeqCst);
        let spent = virtual_time(ran, cpu.weight.load(SeqCst));
        entity.time.store(time.saturating_add(spent), SeqCst);
        self.stopped(task, here, now, machine);
    }

    fn stopped(&self, task: &T, here: u32, now: u64, machine: &impl Machine<T>) {
        let (Some(cpu), Some(group)) = (self.cpu(here), self.group(here)) else {
            return;
        };
        let entity = task.entity();
        self.leave_core(here);
        let moves = group.with(|queue| {
            entity.running.store(false, SeqCst);
            let ready = task.runnable();
            task.enters(if ready { State::Waiting } else { State::Stopped }, now);
            let yielding = entity.yielding.swap(false, SeqCst);
            let mut time = entity.time.load(SeqCst);
            let rival = queue.first_for(here).map(|(time, _)| time);
            if let Some(rival) = rival {
                time = fair::stopped(time, rival, entity.share.weight());
                entity.time.store(time, SeqCst);
                cpu.raise_floor(time.min(rival));
            }
            if !ready || !entity.hard.contains(here) {
                return ready;
            }
            if !entity.soft.contains(here) && self.hand_over(task, here, machine) {
                return false;
            }
            match rival {
                Some(rival) if yielding => queue.push(task, time.max(rival + 1)),
                _ => queue.push(task, time),
            }
            false
        });
        if moves {
            self.wake(task, now, machine);
        }
    }

    /// `task`, which runs on CPU `here`, lets others go first. `false`: there are none.
    pub fn yields(&self, task: &T, here: u32) -> bool {
        let others = self.group(here).is_some_and(|group| self.waits_for(group, here));
        if others {
            task.entity().yielding.store(true, SeqCst);
        }
        others
    }

    /// As [`Scheduler::yields`], for one that spins until another task of its domain has run: of `siblings`, which are those tasks, one that waits for this CPU
    /// takes its place in the order, and it takes that one's. So the domain has what it would have had, and spends it on who can use it.
    pub fn yields_to<'a>(&self, task: &T, here: u32, now: u64, siblings: impl Iterator<Item = &'a T>) -> bool
    where
        T: 'a,
    {
        let (Some(cpu), Some(group)) = (self.cpu(here), self.group(here)) else {
            return false;
        };
        if !self.yields(task, here) {
            return false;
        }
        let waits_here = |entity: &Entity| {
            entity.waits()
                && entity.cpu() / self.size == group.number
                && entity.hard.contains(here)
                && !entity.urgent.load(Relaxed)
        };
        // Who waits because it has spun is the last that one would spin for.
        let heir = siblings
            .filter(|sibling| waits_here(sibling.entity()))
            .min_by_key(|sibling| {
                let entity = sibling.entity();
                (entity.spun.load(Relaxed), entity.time.load(SeqCst))
            });
        if let (Some(heir), Some(own)) = (heir, cpu.time_at(now)) {
            group.with(|queue| {
                let theirs = heir.entity().time.load(SeqCst);
                if waits_here(heir.entity()) && theirs > own {
                    queue.remove(heir);
                    heir.entity().time.store(own, SeqCst);
                    queue.push(heir, own);
                    task.entity().time.fetch_add(theirs - own, SeqCst);
                    cpu.time.fetch_add(theirs - own, SeqCst);
                }
            });
        }
        task.entity().spun.store(true, Relaxed);
        true
    }

    /// [`Entity::hard`] or [`Entity::soft`] has changed: `task` leaves where it may not be any more, or should not.
    pub fn affinity_changed(&self, task: &T, now: u64, machine: &impl Machine<T>) {
        self.remove(task);
        if task.entity().running() {
            machine.preempt(task);
        } else if task.runnable() {
            self.wake(task, now, machine);
        }
    }

    /// The weight or the cap of the domain of `task` has changed. What runs goes by those that it was picked with, maybe for ever if nobody else wants the CPU:
    /// it is picked again. Who is being picked counts as running before that is looked at, so it is told, or goes by the new ones.
    pub fn share_changed(&self, task: &T, machine: &impl Machine<T>) {
        if task.entity().running() {
            machine.preempt(task);
        }
    }

    /// Take `task` out of the queue, if it waits.
    pub fn remove(&self, task: &T) {
        let entity = task.entity();
        loop {
            let home = entity.cpu();
            let Some(group) = self.group(home) else { return };
            let settled = group.with(|queue| {
                let here = entity.cpu() == home;
                if here && entity.waits() {
                    queue.remove(task);
                }
                here
            });
            if settled {
                return;
            }
        }
    }

    // ---- time ----

    /// When CPU `here` is to [`Scheduler::check`], or [`NEVER`].
    pub fn deadline(&self, here: u32) -> u64 {
        let running = self.cpu(here).filter(|cpu| cpu.time.load(SeqCst) != NEVER);
        let (Some(cpu), Some(group)) = (running, self.group(here)) else {
            return NEVER;
        };
        let budget_end = cpu.budget_end.load(SeqCst);
        match self.waits_for(group, here) || cpu.strays.load(Relaxed) {
            true => budget_end.min(cpu.slice_end.load(SeqCst)),
            false => budget_end,
        }
    }

    /// End a slice or a budget on CPU `here` that is over.
    pub fn check(&self, here: u32, now: u64, machine: &impl Machine<T>) {
        let Some(cpu) = self.cpu(here) else { return };
        let Some(time) = cpu.time_at(now) else { return };
        let Some(group) = self.group(here) else { return };
        if now >= cpu.budget_end.load(SeqCst) {
            cpu.budget_end.store(NEVER, SeqCst); // Once is enough.
            self.preempt(here, machine);
            return;
        }
        let (contended, strays) = (self.waits_for(group, here), cpu.strays.load(Relaxed));
        if now < cpu.slice_end.load(SeqCst) || !(contended || strays) {
            return;
        }
        if contended && cpu.seat.look(T::leaves) != Some(true) {
            let queue = group.queue.lock();
            let first = queue.first_for(here).map(|(first, task)| (first, task.entity()));
            let owner = first
                .filter(|(first, entity)| *first < time || entity.urgent.load(Relaxed))
                .map(|(_, entity)| entity.owner());
            drop(queue);
            if let Some(owner) = owner {
                self.make_room(here, owner, machine);
            }
        }
        if strays {
            self.call_back(here, machine);
        }
        cpu.slice_end.store(now + SLICE, SeqCst);
    }
}
