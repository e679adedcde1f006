//! Core scheduling: the CPUs of a core, or of a socket, never run vCPUs of different domains at the same time, so that no domain learns of another by what
//! they share.
//!
//! A core is the domain's that one of its CPUs runs, until none of them runs any. Of what else waits nothing gets in: a CPU may have to idle meanwhile.
//! When it is another domain's turn, the core is cleared for it: all leave, and nobody comes in before the last of them has left; then that domain's alone do,
//! on whichever CPU of the core they may run, if any still wants to.
//!
//! Cores are locked one at a time, with a run queue locked or without.

use alloc::vec::Vec;

use super::{Group, Machine, Scheduler, Task};
use crate::sched::entity::Owner;
use crate::sched::runqueue::Admitted;
use crate::sync::atomic::{AtomicU32, Ordering::Relaxed};
use crate::sync::{Mutex, MutexGuard, Rank};

/// Which CPUs do not run different domains at the same time: `sched-gran=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Granularity {
    /// Each CPU runs what it wants.
    #[default]
    Cpu,
    /// Those of a core.
    Core,
    /// Those of a socket.
    Socket,
}

/// The core of a CPU that does not take part yet.
const NONE: u32 = u32::MAX;

/// All cores.
#[derive(Debug)]
pub(super) struct Cores {
    cores: Vec<Mutex<Core>>,
    /// Which of them a CPU belongs to.
    of_cpu: Vec<AtomicU32>,
}

/// CPUs that run one domain at a time.
#[derive(Debug, Default)]
pub(super) struct Core {
    /// What the machine calls it.
    name: u32,
    cpus: Vec<u32>,
    owner: Option<Owner>,
    /// How many of the CPUs run a task.
    running: u32,
    /// All are to leave, for this one's tasks to come.
    next: Option<Owner>,
}

impl Core {
    /// Whose tasks may begin to run?
    pub(super) fn admitted(&self) -> Admitted {
        match (self.running, self.next, self.owner) {
            (0, None, _) => Admitted::All,
            (0, Some(next), _) => Admitted::Only(next),
            (_, None, Some(owner)) => Admitted::Only(owner),
            _ => Admitted::None,
        }
    }

    /// May a task of `owner` begin to run?
    pub(super) fn admits(&self, owner: Owner) -> bool {
        match self.admitted() {
            Admitted::All => true,
            Admitted::Only(admitted) => admitted == owner,
            Admitted::None => false,
        }
    }

    /// A task of `owner`, which [`Core::admits`], begins to run.
    pub(super) fn enter(&mut self, owner: Owner) {
        debug_assert!(
            self.running == 0 || self.owner == Some(owner),
            "two domains on core {}: {self:?}",
            self.name
        );
        self.owner = Some(owner);
        self.next = None;
        self.running += 1;
    }
}

impl Cores {
    /// For `most` CPUs.
    pub(super) fn new(most: u32) -> Self {
        Self {
            cores: (0..most)
                .map(|_| Mutex::new(Rank::Core, Core::default()))
                .collect(),
            of_cpu: (0..most).map(|_| AtomicU32::new(NONE)).collect(),
        }
    }

    /// CPU `id` belongs to the core that the machine calls `name`.
    fn join(&self, id: u32, name: u32) {
        let place = self.cores.iter().position(|core| {
            let core = core.lock();
            core.cpus.is_empty() || core.name == name
        });
        let Some(place) = place else { return };
        if let (Some(core), Some(of_cpu)) = (self.cores.get(place), self.of_cpu.get(id as usize)) {
            let mut core = core.lock();
            core.name = name;
            core.cpus.push(id);
            of_cpu.store(place as u32, Relaxed);
        }
    }
}

impl<T: Task> Scheduler<T> {
    /// CPU `id` belongs to the core, or socket, that the machine calls `name`. Before anything runs there.
    pub fn set_core(&self, id: u32, name: u32) {
        if let Some(cores) = &self.cores {
            cores.join(id, name);
        }
    }

    /// The core of CPU `id`. `None`: each CPU is for itself.
    pub(super) fn core(&self, id: u32) -> Option<MutexGuard<'_, Core>> {
        let cores = self.cores.as_ref()?;
        let place = cores.of_cpu.get(id as usize)?.load(Relaxed);
        Some(cores.cores.get(place as usize)?.lock())
    }

    /// May CPU `id` begin to run a task of `owner`?
    pub(super) fn admits(&self, id: u32, owner: Owner) -> bool {
        self.core(id).is_none_or(|core| core.admits(owner))
    }

    /// The CPUs of CPU `id`'s core, itself included.
    fn siblings(&self, id: u32) -> impl Iterator<Item = u32> {
        (0..).map_while(move |place: usize| self.core(id)?.cpus.get(place).copied())
    }

    /// What each CPU runs, unless that is just being changed: of one core at one time. For reports.
    pub fn currents(&self) -> Vec<Option<T>> {
        let mut currents: Vec<_> = (0..self.cpu_count()).map(|_| None).collect();
        for id in 0..self.cpu_count() {
            let core = self.core(id);
            let siblings = core
                .as_ref()
                .map_or(core::slice::from_ref(&id), |core| &core.cpus);
            if siblings.first() == Some(&id) {
                for &sibling in siblings {
                    if let Some(current) = currents.get_mut(sibling as usize) {
                        *current = self.current(sibling);
                    }
                }
            }
        }
        currents
    }

    /// A task of `owner` begins to run on CPU `id`, if it may.
    pub(super) fn enter_core(&self, id: u32, owner: Owner) -> bool {
        self.core(id).is_none_or(|mut core| {
            let admitted = core.admits(owner);
            if admitted {
                core.enter(owner);
            }
            admitted
        })
    }

    /// What CPU `id` has run does not run any more.
    pub(super) fn leave_core(&self, id: u32) {
        if let Some(mut core) = self.core(id) {
            core.running -= 1;
        }
    }

    /// What CPU `id` runs makes room for a task of `owner`; if that is another domain's, so does all that runs on the core.
    pub(super) fn make_room(&self, id: u32, owner: Owner, machine: &impl Machine<T>) {
        let clear = self.core(id).is_some_and(|mut core| {
            if core.running > 0 && core.owner != Some(owner) {
                core.next.get_or_insert(owner);
            }
            core.next.is_some()
        });
        if clear {
            self.siblings(id).for_each(|id| self.preempt(id, machine));
        } else {
            self.preempt(id, machine);
        }
    }

    /// CPU `here`, of `group`, has begun to run `task`, or found nothing that is admitted to its core. Idle CPUs of the core take what they may now; who else
    /// runs there looks whether its time is over; and who has cleared the core may have missed `task`.
    #[inline]
    pub(super) fn settle_core(
        &self,
        group: &Group<T>,
        here: u32,
        task: Option<&T>,
        machine: &impl Machine<T>,
    ) {
        if self.cores.is_some() {
            self.settle_shared_core(group, here, task, machine);
        }
    }

    #[inline(never)]
    fn settle_shared_core(&self, group: &Group<T>, here: u32, task: Option<&T>, machine: &impl Machine<T>) {
        if let Some(task) = task
            && self.core(here).is_some_and(|core| core.next.is_some())
        {
            return machine.preempt(task);
        }
        if task.is_none() && group.has_waiting() {
            self.offer(group, machine);
        }
        let mut taken = false;
        for id in self.siblings(here).filter(|&id| id != here) {
            if !self.runs_any(id) {
                taken |= self.comes_for_any(id, machine);
            } else if task.is_none() && group.has_waiting() {
                machine.reconsider(id, self.deadline(id));
            }
        }
        // Whom it was cleared for does not want it any more: it is anybody's.
        if task.is_none()
            && !taken
            && self
                .core(here)
                .is_some_and(|mut core| core.running == 0 && core.next.take().is_some())
        {
            for id in self.siblings(here) {
                self.comes_for_any(id, machine);
            }
        }
    }

    /// CPU `id`, if it idles, comes for what waits that it may begin to run. Returns whether there is any.
    fn comes_for_any(&self, id: u32, machine: &impl Machine<T>) -> bool {
        let finds = self.finds_any(id);
        if finds
            && let Some(own) = self.group(id)
            && self.claim(own, id)
        {
            machine.kick(id);
        }
        finds
    }

    /// Does anything wait, in any group, that CPU `id` may begin to run?
    fn finds_any(&self, id: u32) -> bool {
        let mut waiting = self.groups.iter().filter(|group| self.waits_for(group, id));
        waiting.any(|group| self.would_take(&group.queue.lock(), id))
    }
}
