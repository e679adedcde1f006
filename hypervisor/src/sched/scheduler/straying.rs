//! Soft affinity of what runs: it moves to a CPU that it prefers once one idles.
//!
//! What runs where it would rather not be looks for such a CPU whenever it stops, and stops for that at the end of a slice, if there is one. It is handed over: if it
//! waited for the other CPU, the one that it leaves would take it back.

use core::sync::atomic::Ordering::SeqCst;

use super::balance::bits;
use super::{Entity, Group, Machine, Scheduler, Task};

impl<T: Task> Scheduler<T> {
    /// Would a task rather be elsewhere than on CPU `here`?
    pub(super) fn strays(&self, entity: &Entity, here: u32) -> bool {
        let mut groups = self.groups.iter();
        !entity.soft.contains(here) && groups.any(|group| self.preferred(entity, group) != 0)
    }

    /// The CPUs of `group` that a task prefers of those where it may run, as bits.
    fn preferred(&self, entity: &Entity, group: &Group<T>) -> u32 {
        self.members(group) & entity.hard.window(group.first) & entity.soft.window(group.first)
    }

    /// What CPU `here` runs, which strays, stops if a CPU that it prefers idles.
    pub(super) fn call_back(&self, here: u32, machine: &impl Machine<T>) {
        let (Some(cpu), Some(home)) = (self.cpu(here), self.group(here)) else {
            return;
        };
        let Some(task) = cpu.seat.get() else { return };
        let entity = task.entity();
        let idles = |group: &Group<T>| {
            bits(group.idle.load(SeqCst) & self.preferred(entity, group))
                .any(|bit| self.admits(group.first + bit, entity.owner()))
        };
        if self.idle_near(home, u32::MAX).any(idles) {
            machine.preempt(&task);
        }
    }

    /// Hand `task`, which has stopped on CPU `here`, where it should not be, and can go on, to an idle CPU that it prefers: it counts as running there. `false`: there
    /// is none. Under the lock of the queue of the group of `here`.
    pub(super) fn hand_over(&self, task: &T, here: u32, machine: &impl Machine<T>) -> bool {
        let entity = task.entity();
        let masks = [&entity.hard, &entity.soft];
        let Some(home) = self.group(here) else {
            return false;
        };
        let mut idle = self.idle_near(home, u32::MAX);
        let claimed = idle.find_map(|group| self.claim_one(group, &masks, entity.owner()));
        let Some(id) = claimed else {
            return false;
        };
        let handed = self.hand(task, id);
        machine.kick(id);
        handed
    }
}
