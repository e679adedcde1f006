//! What begins to wait: where it does, and which CPU makes room for it.

use core::sync::atomic::Ordering::SeqCst;

use super::balance::bits;
use super::{Cpu, Entity, Group, Machine, RunQueue, SLICE, Scheduler, State, Task, fair};

/// What is left to do for a task that may run again, and is on its way into a queue.
enum Next {
    /// Nothing: it runs or waits already, or was handed to a CPU.
    Done,
    /// All: it belongs into another queue by now.
    Again,
    /// Somebody is to make room for it, urgently or not. `None`: nobody can.
    Wait(Option<(Victim, bool)>),
}

/// Who is to make room for a task that waits.
struct Victim {
    /// The CPU.
    id: u32,
    /// Virtual time of what runs there.
    time: u64,
    /// How many CPUs there are for the task, and the weight of all that want one of the group's.
    cpus: u32,
    load: u64,
}

impl<T: Task> Cpu<T> {
    /// Have this CPU, number `id`, look at `then` whether what it runs should make room.
    fn end_slice_at(&self, id: u32, then: u64, machine: &impl Machine<T>) {
        let before = self.slice_end.fetch_min(then, SeqCst);
        machine.reconsider(id, then.min(before));
    }
}

impl<T: Task> Scheduler<T> {
    /// `task` may run again: hand it to an idle CPU, or queue it and see to a CPU for it.
    pub fn wake(&self, task: &T, now: u64, machine: &impl Machine<T>) {
        let home = task.entity().cpu();
        if let Some(group) = self.group(home)
            && group.has_waiting()
        {
            self.leave_busy(task.entity(), group, home);
        }
        self.queue(task, now, machine);
    }

    /// A task goes on in another group than that of CPU `home`, where some wait, if less waits there.
    #[inline(never)]
    fn leave_busy(&self, entity: &Entity, group: &Group<T>, home: u32) {
        if let Some(other) = self.another(group)
            && self.lighter(other, group, entity.share.weight())
        {
            group.with(|_| {
                let target = entity.hard.window(other.first) & self.members(other);
                if entity.cpu() == home && !entity.running() && !entity.waits() && target != 0 {
                    self.rehome(entity, other.first + target.trailing_zeros());
                }
            });
        }
    }

    /// Hand `task`, unless it runs or waits, to an idle CPU, or put it into the queue of the CPU where it was and see to a CPU for it.
    pub(super) fn queue(&self, task: &T, now: u64, machine: &impl Machine<T>) {
        let entity = task.entity();
        loop {
            let home = entity.cpu();
            let Some(group) = self.group(home) else { return };
            // Looked for before the queue is locked, as there may be many groups to look at.
            let idle = match entity.running() {
                true => None,
                false => self.claim_for(entity, group, home),
            };
            let next = group.with(|queue| self.queue_in(queue, task, home, group, idle, now));
            if let Some(id) = idle {
                machine.kick(id);
            }
            match next {
                Next::Again => {}
                Next::Done => return,
                Next::Wait(victim) => {
                    // Who became idle, or began to run, before the task was to be seen in the queue: from now on they see it themselves.
                    if let Some(id) = self.claim_for(entity, group, home) {
                        return machine.kick(id);
                    }
                    let victim = victim.or_else(|| {
                        let victim = self.victim(group, entity, group.load.load(SeqCst), now)?;
                        Some((victim, false))
                    });
                    return self.push_aside(entity, victim, now, machine);
                }
            }
        }
    }

    /// The part of [`Scheduler::queue`] with the lock of `queue`, which is that of `group` and so CPU `home`'s. The CPU `idle` has been claimed for it.
    fn queue_in(
        &self,
        queue: &mut RunQueue<T>,
        task: &T,
        home: u32,
        group: &Group<T>,
        idle: Option<u32>,
        now: u64,
    ) -> Next {
        let entity = task.entity();
        if entity.cpu() != home {
            return Next::Again; // It was taken over in between.
        }
        if entity.running() || entity.waits() {
            return Next::Done; // Whoever runs it looks at it again when it stops.
        }
        if !entity.hard.contains(home)
            && let Some(other) = entity.hard.first_below(self.cpu_count())
        {
            self.rehome(entity, other);
            return Next::Again;
        }
        let weight = entity.share.weight();
        let time = fair::woken(entity.time.load(SeqCst), self.floor(home), weight);
        entity.time.store(time, SeqCst);
        task.enters(State::Waiting, now);
        // Affinity may have changed since the CPU was claimed; who changes that looks at the task with the lock, afterwards. Who waits for the CPU already is not
        // overtaken. If it cannot be handed the task, it is as if none had been claimed: it may have looked, and gone on, before there was anything to find.
        if let Some(id) = idle
            && entity.hard.contains(id)
            && !self.group(id).is_some_and(|group| self.waits_for(group, id))
            && self.hand(task, id)
        {
            return Next::Done;
        }
        let victim = self.victim(group, entity, queue.weight() + u64::from(weight), now);
        let victim = victim.map(|victim| {
            let urgent = entity.within_share(now, victim.cpus, victim.load);
            (victim, urgent)
        });
        match &victim {
            Some((victim, true)) => {
                queue.push_urgent(task, now);
                // It goes before those, and does not pay for it afterwards.
                entity.time.store(time.min(victim.time), SeqCst);
            }
            _ => queue.push(task, time),
        }
        Next::Wait(victim)
    }

    /// Move what neither runs nor waits to CPU `id`. Under the lock of the queue where it was.
    pub(super) fn rehome(&self, entity: &Entity, id: u32) {
        let time = entity.time.load(SeqCst);
        let time = fair::moved(time, self.floor(entity.cpu()), self.floor(id));
        entity.time.store(time, SeqCst);
        entity.cpu.store(id, SeqCst);
    }

    /// A task has begun to wait, for which a victim is to make room: at once, or when it has run for long enough.
    #[inline(always)]
    fn push_aside(
        &self,
        entity: &Entity,
        victim: Option<(Victim, bool)>,
        now: u64,
        machine: &impl Machine<T>,
    ) {
        let Some((victim, urgent)) = victim else { return };
        let Some(target) = self.cpu(victim.id) else { return };
        let since = target.since.load(SeqCst);
        if !urgent && victim.time <= entity.time.load(SeqCst) {
            // Nobody is ahead of it: at the end of a slice.
            target.end_slice_at(victim.id, since + SLICE, machine);
        } else if now < since + self.rate_limit() {
            target.end_slice_at(victim.id, since + self.rate_limit(), machine);
        } else {
            target.slice_end.store(since, SeqCst);
            self.make_room(victim.id, entity.owner(), machine);
        }
    }

    /// Who is to make room in `group` for a task that is to wait there, whose weight makes that of all who do `load`, on a CPU where it may run: one that nobody has
    /// asked yet, one that is ahead of it, one that need not be left alone for longer, if there are such; and of these who is furthest ahead.
    fn victim(&self, group: &Group<T>, entity: &Entity, mut load: u64, now: u64) -> Option<Victim> {
        let mut cpus = 0;
        let mut best = None;
        let (own, rested) = (entity.time.load(SeqCst), now.saturating_sub(self.rate_limit()));
        for bit in bits(self.members(group) & entity.hard.window(group.first)) {
            let id = group.first + bit;
            let cpu = self.cpu(id)?;
            cpus += 1;
            let Some(time) = cpu.time_at(now) else { continue };
            load += u64::from(cpu.weight.load(SeqCst));
            let since = cpu.since.load(SeqCst);
            let asked = cpu.slice_end.load(SeqCst) < since.saturating_add(SLICE);
            best = best.max(Some((!asked, time > own, since <= rested, time, id)));
        }
        let (.., time, id) = best?;
        Some(Victim { id, time, cpus, load })
    }

    pub(super) fn preempt(&self, id: u32, machine: &impl Machine<T>) {
        if let Some(cpu) = self.cpu(id) {
            cpu.seat.look(|current| machine.preempt(current));
        }
    }
}
