//! Which CPUs take what waits: idle ones, those whose tasks have had enough, and other groups.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::{Cpu, Entity, Group, Machine, NEVER, SLICE, Scheduler, Task, virtual_time};
use crate::sched::CpuMask;
use crate::sched::entity::Owner;
use crate::sched::runqueue::{Admitted, RunQueue};

/// So long does a group where some wait leave the others alone that run, in nanoseconds.
const LOOK: u64 = 1_000_000;
/// So many go from one group to another at a time.
const GIFTS: u32 = 4;

/// The lowest `count` bits, which are at most 32.
pub(in crate::sched) fn lowest(count: u32) -> u32 {
    u32::MAX.checked_shr(32 - count).unwrap_or(0)
}

/// The numbers of the bits that are set, least first.
pub(in crate::sched) fn bits(mut word: u32) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let bit = word.trailing_zeros();
        word &= word.wrapping_sub(1);
        (bit < 32).then_some(bit)
    })
}

impl<T: Task> Scheduler<T> {
    // ---- idle CPUs ----

    pub(super) fn set_idle(&self, group: &Group<T>, id: u32) {
        group.idle.fetch_or(1 << (id - group.first), SeqCst);
        if self.idle_groups.load(SeqCst) >> group.number & 1 == 0 {
            self.idle_groups.fetch_or(1 << group.number, SeqCst);
        }
    }

    /// Take the bit of CPU `id`. `false`: it has something to do.
    pub(super) fn claim(&self, group: &Group<T>, id: u32) -> bool {
        let bit = 1 << (id - group.first);
        if group.idle.load(SeqCst) & bit == 0 {
            return false;
        }
        let before = group.idle.fetch_and(!bit, SeqCst);
        if before == bit {
            self.idle_groups.fetch_and(!(1 << group.number), SeqCst);
            if group.idle.load(SeqCst) != 0 {
                self.idle_groups.fetch_or(1 << group.number, SeqCst);
            }
        }
        before & bit != 0
    }

    /// Other groups of `these` that may have idle CPUs, those behind `group` first.
    fn idle_elsewhere(&self, group: &Group<T>, these: u32) -> impl Iterator<Item = &Group<T>> {
        let number = group.number;
        let others = self.idle_groups.load(SeqCst) & these & !(1 << number);
        let behind = others & (u32::MAX << number);
        bits(behind)
            .chain(bits(others & !behind))
            .filter_map(|number| self.groups.get(number as usize))
    }

    /// Groups that may have idle CPUs: `group`, and of the others `these`, those behind it first.
    pub(super) fn idle_near<'a>(
        &'a self,
        group: &'a Group<T>,
        these: u32,
    ) -> impl Iterator<Item = &'a Group<T>> {
        core::iter::once(group).chain(self.idle_elsewhere(group, these))
    }

    /// Claim an idle CPU of `group` that is in `masks`, for a task of `owner`.
    pub(super) fn claim_one(&self, group: &Group<T>, masks: &[&CpuMask], owner: Owner) -> Option<u32> {
        let idle = group.idle.load(SeqCst);
        let eligible = masks
            .iter()
            .fold(idle, |bits, mask| bits & mask.window(group.first));
        bits(eligible)
            .map(|bit| group.first + bit)
            .find(|&id| self.admits(id, owner) && self.claim(group, id))
    }

    /// Claim an idle CPU for a task: one that it prefers, if it can be; where it was last (CPU `home` of `group`), if it can be; else nearby.
    #[inline(always)]
    pub(super) fn claim_for(&self, entity: &Entity, group: &Group<T>, home: u32) -> Option<u32> {
        // On a busy machine, or for one CPU, there is nothing to look for.
        let idle = group.idle.load(SeqCst);
        let at_home = idle != 0 && idle & entity.hard.window(group.first) != 0;
        if !at_home && self.idle_groups.load(SeqCst) & !(1 << group.number) == 0 {
            return None;
        }
        self.claim_near(entity, group, home)
    }

    /// The same where there may be one.
    fn claim_near(&self, entity: &Entity, group: &Group<T>, home: u32) -> Option<u32> {
        let (hard, soft) = (&entity.hard, &entity.soft);
        let owner = entity.owner();
        if hard.contains(home) && soft.contains(home) && self.admits(home, owner) && self.claim(group, home) {
            return Some(home);
        }
        let nearest = |masks: &[&CpuMask]| {
            self.idle_near(group, u32::MAX)
                .find_map(|group| self.claim_one(group, masks, owner))
        };
        let preferred = (!soft.is_all()).then(|| nearest(&[hard, soft]));
        preferred.flatten().or_else(|| nearest(&[hard]))
    }

    /// Hand `task`, which neither runs nor waits, to CPU `id`, which was claimed for it while it was idle: it counts as running there. `false`: it cannot be, as the
    /// CPU is on its way to sleep, or not idle any more, or its core another domain's. Under the lock of the queue of the task's group.
    pub(super) fn hand(&self, task: &T, id: u32) -> bool {
        let entity = task.entity();
        // A core that is entered forgets for whom it was cleared, so not in vain.
        let entered = |cpu: &&Cpu<T>| cpu.seat.is_open() && self.enter_core(id, entity.owner());
        let Some(cpu) = self.cpu(id).filter(entered) else {
            return false;
        };
        let begin = || {
            self.carry_time(entity, id);
            // Its time begins when the CPU has looked.
            entity.runs_on(id, NEVER);
        };
        let handed = cpu.seat.hand(task, begin);
        if !handed {
            self.leave_core(id);
        }
        handed
    }

    /// What another CPU has handed to CPU `here`, of group `home`, which looks for a task.
    pub(super) fn handed(&self, home: &Group<T>, cpu: &Cpu<T>, here: u32, now: u64) -> Option<T> {
        let task = cpu.seat.close()?;
        let entity = task.entity();
        // It counts as running here already; and mostly nobody waits.
        entity.since.store(now, SeqCst);
        if self.waits_for(home, here) {
            self.begin(&home.queue.lock(), cpu, entity, here, now);
        } else {
            self.begin_alone(cpu, entity, now);
        }
        Some(task)
    }

    /// Somebody still waits in the group of CPU `here`, which has just taken its next: an idle CPU comes for it; else, now and then, the CPU makes room
    /// whose task is ahead by more than a slice, as its timer need not be set, and another group gets some.
    pub(super) fn spread(&self, group: &Group<T>, here: u32, now: u64, machine: &impl Machine<T>) {
        if self.offer(group, machine) || now < group.look.load(Relaxed) {
            return;
        }
        group.look.store(now + LOOK, Relaxed);
        self.displace(group, here, now, machine);
        self.give_away(group, now, machine);
    }

    /// An idle CPU comes for what waits in `group`. `false`: there is none that may.
    pub(super) fn offer(&self, group: &Group<T>, machine: &impl Machine<T>) -> bool {
        // Mostly nothing that waits here may run where a CPU idles.
        let wanted = group.groups_wanted.load(SeqCst) & !(1 << group.number);
        let at_home = group.idle.load(SeqCst) & group.wanted.load(SeqCst) != 0;
        if !at_home && self.idle_groups.load(SeqCst) & wanted == 0 {
            return false;
        }
        let queue = group.queue.lock();
        for other in self.idle_near(group, wanted) {
            let takers = bits(other.idle.load(SeqCst) & queue.wanted_of(other.number))
                .map(|bit| other.first + bit)
                .filter(|&id| self.would_take(&queue, id));
            for id in takers {
                if self.claim(other, id) {
                    machine.kick(id);
                    return true;
                }
            }
        }
        false
    }

    /// Idle CPUs come for what waits in other groups than `home`, a CPU of which has been claimed and has taken its next. It may have been claimed for one of
    /// theirs, and have found another: nobody else would look.
    pub(super) fn offer_elsewhere(&self, home: &Group<T>, machine: &impl Machine<T>) {
        let others = self.groups.iter().filter(|group| group.number != home.number);
        others.for_each(|group| {
            self.offer(group, machine);
        });
    }

    /// Is there a task in `queue` that CPU `id` may begin to run?
    pub(super) fn would_take(&self, queue: &RunQueue<T>, id: u32) -> bool {
        let admitted = self.core(id).map_or(Admitted::All, |core| core.admitted());
        queue.has_for(id, admitted)
    }

    /// The CPU makes room whose task is furthest ahead of what waits for that CPU, if that is more than a slice.
    fn displace(&self, group: &Group<T>, here: u32, now: u64, machine: &impl Machine<T>) {
        let queue = group.queue.lock();
        let furthest = bits(self.members(group))
            .map(|bit| group.first + bit)
            .filter(|id| *id != here)
            .filter_map(|id| {
                let cpu = self.cpu(id)?;
                let time = cpu.time_at(now)?;
                let slice = virtual_time(SLICE, cpu.weight.load(SeqCst));
                let (first, task) = queue.first_for(id)?;
                let limit = first.saturating_add(slice);
                Some((time.checked_sub(limit)?, id, task.entity().owner()))
            })
            .max();
        drop(queue);
        if let Some((_, id, owner)) = furthest {
            self.make_room(id, owner, machine);
        }
    }

    /// Look at one other group, and give it some of what waits here if less waits there.
    fn give_away(&self, group: &Group<T>, now: u64, machine: &impl Machine<T>) {
        let Some(other) = self.another(group) else { return };
        for _ in 0..GIFTS {
            if !self.lighter(other, group, 1) {
                return;
            }
            let moved = group.with(|queue| {
                let members = self.members(other);
                let task = queue.first_abroad(other.number, members)?.clone();
                let entity = task.entity();
                let target = entity.hard.window(other.first) & members;
                if target == 0 || !self.lighter(other, group, entity.share.weight()) {
                    return None;
                }
                queue.remove(&task);
                self.rehome(entity, other.first + target.trailing_zeros());
                Some(task)
            });
            let Some(task) = moved else { return };
            self.queue(&task, now, machine);
        }
    }

    /// A group other than `group`, another one each time.
    pub(super) fn another(&self, group: &Group<T>) -> Option<&Group<T>> {
        let others = (self.groups.len() as u32)
            .checked_sub(1)
            .filter(|&others| others > 0)?;
        let step = group.looks.fetch_add(1, Relaxed) % others;
        let number = (group.number + 1 + step) % (others + 1);
        self.groups.get(number as usize)
    }

    /// Does less weight wait in `other` for each CPU than in `group`, even when `weight` goes from here to there?
    pub(super) fn lighter(&self, other: &Group<T>, group: &Group<T>, weight: u32) -> bool {
        let load = group.load.load(SeqCst).saturating_sub(weight.into());
        let theirs = other.load.load(SeqCst).saturating_add(weight.into());
        let (cpus, others) = (self.members(group), self.members(other));
        load * u64::from(others.count_ones()) >= theirs * u64::from(cpus.count_ones())
    }
}
