//! Decisions of the scheduler alone, for who wants to know what one costs.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use super::Share;
use super::scheduler::{GROUP, Granularity, SLICE, Scheduler, Task};
use super::simulator::{IPI, Job, Wishes};

/// What jobs differ in, beside their shares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Apart {
    /// Nothing.
    Not,
    /// Each may run on CPUs of its own choice, CPU 0 among them.
    Affinities,
    /// With core scheduling each is another domain's.
    Domains,
    /// As [`Apart::Affinities`], of the first and the last group's CPUs, but none that has an odd number: these idle, in all groups.
    Halves,
}

/// CPUs that are busy, and jobs that wait for them.
#[derive(Debug)]
pub struct Decisions {
    scheduler: Scheduler<Arc<Job>>,
    wishes: Wishes,
    jobs: Vec<Arc<Job>>,
    /// What CPU 0 runs.
    running: Option<Arc<Job>>,
    now: u64,
    sleeper: usize,
}

impl Decisions {
    /// `cpus` CPUs, all busy or half of them, and `waiting` jobs more than these run; all are awake.
    pub fn new(cpus: u32, waiting: usize, apart: Apart) -> Self {
        let granularity = match apart {
            Apart::Domains => Granularity::Core,
            _ => Granularity::Cpu,
        };
        let scheduler = Scheduler::new(cpus as usize, granularity);
        (0..cpus).for_each(|id| scheduler.set_core(id, id));
        (1..cpus).for_each(|id| scheduler.add_cpu(id));
        let wishes = Wishes::default();
        let busy = if apart == Apart::Halves { cpus / 2 } else { cpus };
        let jobs: Vec<Arc<Job>> = (0..busy as usize + waiting)
            .map(|id| Arc::new(Job::new(id, Arc::new(Share::new()), false, 0)))
            .collect();
        let last = cpus.saturating_sub(GROUP);
        // CPU 0, and of others those whose bits are set in its number.
        let chooses = |number: u32, cpu: u32| cpu < u32::BITS && (number << 1 | 1) >> cpu & 1 != 0;
        for (number, job) in (0..).zip(&jobs) {
            let hard = &job.entity().hard;
            match apart {
                Apart::Affinities => hard.set(|cpu| cpu < cpus && chooses(number, cpu)),
                Apart::Halves if number < busy => hard.set(|cpu| cpu == 2 * number),
                Apart::Halves => hard.set(|cpu| match cpu {
                    _ if cpu % 2 != 0 => false,
                    0..GROUP => chooses(number, cpu / 2),
                    _ => (last..cpus).contains(&cpu) && chooses(number, (GROUP + cpu - last) / 2),
                }),
                Apart::Not | Apart::Domains => {}
            }
        }
        jobs.iter().for_each(|job| scheduler.wake(job, 0, &wishes));
        let first = (0..cpus).map(|id| scheduler.pick(id, 0, &wishes));
        let running = first.collect::<Vec<_>>().swap_remove(0);
        wishes.forget();
        Self {
            scheduler,
            wishes,
            jobs,
            running,
            now: 0,
            sleeper: 0,
        }
    }

    /// A slice of CPU 0 ends: it looks whether somebody is to have the CPU, stops what ran, and picks the next.
    pub fn slice(&mut self) {
        self.now += SLICE;
        self.scheduler.check(0, self.now, &self.wishes);
        if let Some(job) = self.running.take() {
            self.scheduler.put(&job, 0, self.now, &self.wishes);
        }
        self.running = self.scheduler.pick(0, self.now, &self.wishes);
        self.wishes.forget();
    }

    /// The next of those that wait, of whom there are some, goes to sleep and wakes.
    pub fn nap(&mut self) {
        self.now += IPI;
        loop {
            self.sleeper = (self.sleeper + 1) % self.jobs.len();
            if self.jobs[self.sleeper].waits() {
                break;
            }
        }
        let job = &self.jobs[self.sleeper];
        self.scheduler.remove(job);
        self.scheduler.wake(job, self.now, &self.wishes);
        self.wishes.forget();
    }

    /// How often jobs have been looked at so far, or moved in a queue. That is the same each time, unlike nanoseconds.
    pub fn looks(&self) -> u64 {
        self.jobs.iter().map(|job| job.looks.load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Jobs that 10,000 decisions look at.
    fn looks(cpus: u32, waiting: usize, apart: Apart, decide: impl Fn(&mut Decisions)) -> u64 {
        let mut decisions = Decisions::new(cpus, waiting, apart);
        let before = decisions.looks();
        (0..10_000).for_each(|_| decide(&mut decisions));
        decisions.looks() - before
    }

    #[test]
    fn decisions_hardly_grow_with_what_waits() {
        // Where there are a hundred times as many, a heap is seven levels deeper; and so is a tournament, where two are compared for each CPU of a group.
        let (heap, tournament) = (7, 7 * 2 * u64::from(GROUP));
        for (apart, cpus, deeper) in [
            (Apart::Not, 16, heap),
            (Apart::Affinities, 16, tournament),
            (Apart::Domains, 16, tournament),
            (Apart::Halves, 512, tournament),
        ] {
            for decide in [Decisions::slice, Decisions::nap] {
                let [few, many] = [10, 1000].map(|waiting| looks(cpus, waiting, apart, decide));
                assert!(
                    many <= few + 10_000 * deeper,
                    "{apart:?}: {few} looks became {many}"
                );
            }
        }
    }
}
