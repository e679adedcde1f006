//! What begins to wait: where it does, and which CPU makes room for it.

use core::sync::atomic::Ordering::SeqCst;

use super::balance::bits;
use super::{Cpu, Entity, Group, Machine, SLICE, Scheduler, State, Task, fair};

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
    /// `task` may run again: queue it, and see to a CPU for it.
    pub fn wake(&self, task: &T, now: u64, machine: &impl Machine<T>) {
        let entity = task.entity();
        let home = entity.cpu();
        if let Some(group) = self.group(home)
            && group.has_waiting()
            && let Some(other) = self.another(group)
            && self.lighter(other, group, entity.share.weight())
        {
            group.with(|_| {
                let target = entity.hard.window(other.first) & self.members(other);
                if entity.cpu() == home && !entity.running() && !entity.waits() && target != 0 {
                    self.rehome(entity, other.first + target.trailing_zeros());
                }
            });
        }
        self.queue(task, now, machine);
    }

    /// Put `task`, unless it runs or waits, into the queue of the CPU where it was, and see to a CPU for it.
    pub(super) fn queue(&self, task: &T, now: u64, machine: &impl Machine<T>) {
        let entity = task.entity();
        loop {
            let home = entity.cpu();
            let Some(group) = self.group(home) else { return };
            let queued = group.with(|queue| {
                if entity.cpu() != home {
                    return None; // It was taken over in between.
                }
                if entity.running() || entity.waits() {
                    return Some(false); // Whoever runs it looks at it again when it stops.
                }
                if !entity.hard.contains(home)
                    && let Some(other) = entity.hard.first_below(self.cpu_count())
                {
                    self.rehome(entity, other);
                    return None;
                }
                let time = entity.time.load(SeqCst);
                let time = fair::woken(time, self.floor(home), entity.share.weight());
                entity.time.store(time, SeqCst);
                task.enters(State::Waiting, now);
                queue.push(task, time);
                Some(true)
            });
            match queued {
                None => {}
                Some(false) => return,
                Some(true) => return self.find_cpu(task, group, home, now, machine),
            }
        }
    }

    /// Move what neither runs nor waits to CPU `id`. Under the lock of the queue where it was.
    pub(super) fn rehome(&self, entity: &Entity, id: u32) {
        let time = entity.time.load(SeqCst);
        let time = fair::moved(time, self.floor(entity.cpu()), self.floor(id));
        entity.time.store(time, SeqCst);
        entity.cpu.store(id, SeqCst);
    }

    /// `task` has begun to wait in the queue of `group`, which is CPU `home`'s: find a CPU that takes it.
    #[inline(always)]
    fn find_cpu(&self, task: &T, group: &Group<T>, home: u32, now: u64, machine: &impl Machine<T>) {
        let entity = task.entity();
        if let Some(id) = self.claim_for(entity, group, home) {
            return machine.kick(id);
        }
        let Some(victim) = self.victim(group, entity, now) else {
            return;
        };
        let Some(target) = self.cpu(victim.id) else { return };
        let urgent = entity.within_share(now, victim.cpus, victim.load);
        if urgent {
            let mut queue = group.queue.lock();
            if entity.cpu() == home && entity.waits() {
                queue.urge(task, now);
                // It goes before those, and does not pay for it afterwards.
                entity.time.fetch_min(victim.time, SeqCst);
            }
        }
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

    /// Who is to make room in `group` for a task that waits there, on a CPU where it may run: one that nobody has asked yet, one that is ahead of it, one that need
    /// not be left alone for longer, if there are such; and of these who is furthest ahead.
    fn victim(&self, group: &Group<T>, entity: &Entity, now: u64) -> Option<Victim> {
        let (mut cpus, mut load) = (0, group.load.load(SeqCst));
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
