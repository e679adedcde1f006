//! The scheduler on CPUs that are not there, with tasks that compute and sleep: nanosecond by nanosecond, the same each time.
//!
//! What [`Machine`] asks for comes a little later, as an interrupt of another CPU does.

use alloc::collections::BinaryHeap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::cmp::Reverse;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

use super::scheduler::{Granularity, Machine, Scheduler, State, Task};
use super::{Entity, Share};
use crate::domain::vcpu::NEVER;

/// How long an interrupt takes to another CPU, in nanoseconds.
pub const IPI: u64 = 2_000;
/// A second, in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;
/// How often it is looked whether CPUs idle while tasks wait.
const SCAN: u64 = 100_000;

/// Pseudo-random numbers (xorshift64*): the same for the same seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number in `range`, which is not empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        range.start + value % (range.end - range.start).max(1)
    }
}

/// How long a task computes at a time, and how long it then sleeps, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Rhythm {
    /// Computing.
    pub burst: Range<u64>,
    /// Sleeping; empty: it yields instead, to another of its domain if it has any.
    pub sleep: Range<u64>,
}

/// A simulated vCPU.
#[derive(Debug)]
pub struct Job {
    id: usize,
    entity: Entity,
    asleep: AtomicBool,
    parked: AtomicBool,
    leaves: AtomicBool,
    state: AtomicU8,
    since: AtomicU64,
    longest_wait: AtomicU64,
    /// How often the scheduler has looked at it.
    pub(super) looks: AtomicU64,
}

impl Job {
    pub(super) fn new(id: usize, share: Arc<Share>, asleep: bool, now: u64) -> Self {
        Self {
            id,
            entity: Entity::new(share),
            asleep: AtomicBool::new(asleep),
            parked: AtomicBool::new(false),
            leaves: AtomicBool::new(false),
            state: AtomicU8::new(STOPPED),
            since: AtomicU64::new(now),
            longest_wait: AtomicU64::new(0),
            looks: AtomicU64::new(0),
        }
    }

    /// Does it wait in a queue?
    pub(super) fn waits(&self) -> bool {
        self.entity.waits()
    }

    /// Only one thread simulates; a locked instruction would be most of what is measured.
    fn count_look(&self) {
        self.looks.store(self.looks.load(Relaxed) + 1, Relaxed);
    }
}

const RUNNING: u8 = 0;
const WAITING: u8 = 1;
const STOPPED: u8 = 2;

impl Task for Arc<Job> {
    fn entity(&self) -> &Entity {
        self.count_look();
        &self.entity
    }

    fn runnable(&self) -> bool {
        !self.asleep.load(Relaxed) && !self.parked.load(Relaxed)
    }

    fn leaves(&self) -> bool {
        self.leaves.load(Relaxed)
    }

    fn enters(&self, state: State, now: u64) {
        let state = match state {
            State::Running => RUNNING,
            State::Waiting => WAITING,
            State::Stopped => STOPPED,
        };
        let before = self.state.swap(state, Relaxed);
        if before != state {
            let since = self.since.swap(now, Relaxed);
            if before == WAITING {
                self.longest_wait.fetch_max(now - since, Relaxed);
            }
        }
    }

    fn is_compared(&self) {
        self.count_look();
    }
}

/// What the scheduler asked for.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Kick(u32),
    Reconsider(u32),
    Preempt(usize),
    Unpark(usize, u64),
}

/// All that it asked for.
#[derive(Debug, Default)]
pub(super) struct Wishes(RefCell<Vec<Wish>>);

impl Wishes {
    pub(super) fn forget(&self) {
        self.0.borrow_mut().clear();
    }
}

impl Machine<Arc<Job>> for Wishes {
    fn kick(&self, id: u32) {
        self.0.borrow_mut().push(Wish::Kick(id));
    }

    fn reconsider(&self, id: u32, _then: u64) {
        self.0.borrow_mut().push(Wish::Reconsider(id));
    }

    fn preempt(&self, job: &Arc<Job>) {
        self.0.borrow_mut().push(Wish::Preempt(job.id));
    }

    fn park(&self, job: &Arc<Job>, then: u64) {
        job.parked.store(true, Relaxed);
        self.0.borrow_mut().push(Wish::Unpark(job.id, then));
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    Wake(usize),
    Unpark(usize),
    Kick(u32),
    Reconsider(u32),
    /// The timer of a CPU, the so-manieth that was set.
    Timer(u32, u64),
    /// What a CPU runs stops, if it is still the so-manieth.
    Leave(u32, u64),
}

#[derive(Clone, Debug, Default)]
struct Cpu {
    running: Option<usize>,
    /// When it began to run that, or to idle.
    since: u64,
    runs: u64,
    timers: u64,
}

/// A job's life.
#[derive(Debug)]
struct Life {
    job: Arc<Job>,
    /// `None`: it always computes.
    rhythm: Option<Rhythm>,
    /// How much it still wants to compute.
    left: u64,
    woken: Option<u64>,
    /// When it was last allowed, or wanted, on other CPUs than before.
    pinned: u64,
    /// Since when it is kept outside its soft affinity, if it is.
    strays: Option<u64>,
    /// It was to leave its CPU before it began there.
    leaves: bool,
    /// Where [`Simulator::used`] counts from.
    used_before: u64,
}

/// A machine, what it runs, and what was seen.
#[derive(Debug)]
pub struct Simulator {
    scheduler: Scheduler<Arc<Job>>,
    wishes: Wishes,
    cpus: Vec<Cpu>,
    /// CPUs of a core.
    threads: u32,
    lives: Vec<Life>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    now: u64,
    random: Random,
    next_scan: u64,
    latencies: Vec<u64>,
    longest_waste: u64,
    longest_stray: u64,
    mixtures: u64,
    switches: u64,
}

impl Simulator {
    /// A machine with `cpus` CPUs that all idle.
    pub fn new(cpus: u32, seed: u64) -> Self {
        Self::with(cpus, 1, Granularity::Cpu, seed)
    }

    /// A machine with `cores` cores of `threads` CPUs, whose cores run one domain at a time.
    pub fn with_cores(cores: u32, threads: u32, seed: u64) -> Self {
        Self::with(cores * threads, threads, Granularity::Core, seed)
    }

    fn with(cpus: u32, threads: u32, granularity: Granularity, seed: u64) -> Self {
        let scheduler = Scheduler::new(cpus as usize, granularity);
        (0..cpus).for_each(|id| scheduler.set_core(id, id / threads));
        (1..cpus).for_each(|id| scheduler.add_cpu(id));
        let mut simulator = Self {
            scheduler,
            wishes: Wishes::default(),
            cpus: (0..cpus).map(|_| Cpu::default()).collect(),
            threads,
            lives: Vec::new(),
            events: BinaryHeap::new(),
            sequence: 0,
            now: 0,
            random: Random::new(seed),
            next_scan: 0,
            latencies: Vec::new(),
            longest_waste: 0,
            longest_stray: 0,
            mixtures: 0,
            switches: 0,
        };
        (0..cpus).for_each(|id| simulator.dispatch(id));
        simulator
    }

    // ---- what is done to it ----

    /// A job with `weight` and a share of its own, which begins now. `None`: it always computes.
    pub fn add(&mut self, weight: u16, rhythm: Option<Rhythm>) -> usize {
        let share = Arc::new(Share::new());
        share.set_weight(weight);
        self.add_to(share, rhythm)
    }

    /// A job of a domain that has `share`.
    pub fn add_to(&mut self, share: Arc<Share>, rhythm: Option<Rhythm>) -> usize {
        let id = self.lives.len();
        self.lives.push(Life {
            job: Arc::new(Job::new(id, share, true, self.now)),
            rhythm,
            left: 0,
            woken: None,
            pinned: 0,
            strays: None,
            leaves: false,
            used_before: 0,
        });
        self.at(self.now, Event::Wake(id));
        id
    }

    /// Change the weight of a job's domain.
    pub fn set_weight(&mut self, id: usize, weight: u16) {
        self.change_share(id, |share| share.set_weight(weight));
    }

    /// Change the cap of a job's domain.
    pub fn set_cap(&mut self, id: usize, cap: u16) {
        let now = self.now;
        self.change_share(id, |share| share.set_cap(cap, now));
    }

    fn change_share(&mut self, id: usize, change: impl FnOnce(&Share)) {
        let share = self.lives[id].job.entity.share.clone();
        change(&share);
        for id in 0..self.lives.len() {
            let job = self.lives[id].job.clone();
            if Arc::ptr_eq(&job.entity.share, &share) {
                self.handle(Event::Unpark(id));
                self.scheduler.share_changed(&job, &self.wishes);
                self.grant();
            }
        }
    }

    /// Let a job run only on CPUs of which `member` is true.
    pub fn pin(&mut self, id: usize, member: impl Fn(u32) -> bool) {
        self.lives[id].job.entity.hard.set(member);
        self.affinity_changed(id);
    }

    /// Let a job run on CPUs of which `member` is true, where it can.
    pub fn prefer(&mut self, id: usize, member: impl Fn(u32) -> bool) {
        self.lives[id].job.entity.soft.set(member);
        self.affinity_changed(id);
    }

    fn affinity_changed(&mut self, id: usize) {
        let job = self.lives[id].job.clone();
        self.lives[id].pinned = self.now;
        self.scheduler.affinity_changed(&job, self.now, &self.wishes);
        self.grant();
    }

    /// What a job does from its next burst on.
    pub fn set_rhythm(&mut self, id: usize, rhythm: Option<Rhythm>) {
        self.lives[id].rhythm = rhythm;
    }

    /// Go on for so many nanoseconds.
    pub fn run(&mut self, time: u64) {
        let end = self.now + time;
        while let Some(&Reverse((then, ..))) = self.events.peek()
            && then <= end
        {
            if let Some(Reverse((then, _, event))) = self.events.pop() {
                self.now = then;
                self.handle(event);
            }
            if self.now >= self.next_scan {
                self.scan();
                self.next_scan = self.now + SCAN;
            }
        }
        self.now = end;
    }

    /// Forget what was seen so far.
    pub fn restart(&mut self) {
        self.latencies.clear();
        self.longest_waste = 0;
        self.longest_stray = 0;
        self.switches = 0;
        for life in &mut self.lives {
            life.used_before = life.job.entity.run_time_at(self.now);
            life.job.longest_wait.store(0, Relaxed);
            if life.job.state.load(Relaxed) == WAITING {
                life.job.since.store(self.now, Relaxed);
            }
        }
    }

    // ---- what was seen ----

    /// Nanoseconds that a job has run.
    pub fn used(&self, id: usize) -> u64 {
        let life = &self.lives[id];
        life.job.entity.run_time_at(self.now) - life.used_before
    }

    /// The longest time that a job waited for a CPU, that which still lasts included.
    pub fn longest_wait(&self, id: usize) -> u64 {
        let job = &self.lives[id].job;
        let current = match job.state.load(Relaxed) {
            WAITING => self.now - job.since.load(Relaxed),
            _ => 0,
        };
        job.longest_wait.load(Relaxed).max(current)
    }

    /// Times from waking to running, sorted.
    pub fn latencies(&self) -> Vec<u64> {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted
    }

    /// The longest time that a CPU idled while a job waited that may run there.
    pub fn longest_waste(&self) -> u64 {
        self.longest_waste
    }

    /// The longest time that a job was kept outside its soft affinity while a CPU in it idled where it may run.
    pub fn longest_stray(&self) -> u64 {
        self.longest_stray
    }

    /// How often a job began to run on a core that ran another domain's. Never forgotten.
    pub fn mixtures(&self) -> u64 {
        self.mixtures
    }

    /// How often a job got a CPU.
    pub fn switches(&self) -> u64 {
        self.switches
    }

    // ---- how it works ----

    fn at(&mut self, then: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((then, self.sequence, event)));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Wake(id) => {
                let life = &mut self.lives[id];
                life.left = match &life.rhythm {
                    Some(rhythm) => self.random.within(rhythm.burst.clone()).max(1),
                    None => NEVER / 2,
                };
                life.woken = Some(self.now);
                life.job.asleep.store(false, Relaxed);
                self.wake(id);
            }
            Event::Unpark(id) => {
                self.lives[id].job.parked.store(false, Relaxed);
                self.wake(id);
            }
            Event::Kick(id) => {
                if self.cpus[id as usize].running.is_none() {
                    self.dispatch(id);
                }
            }
            Event::Reconsider(id) => self.check(id),
            Event::Timer(id, number) => {
                if self.cpus[id as usize].timers == number {
                    self.check(id);
                }
            }
            Event::Leave(id, number) => {
                if self.cpus[id as usize].runs == number {
                    self.leave(id);
                }
            }
        }
    }

    fn wake(&mut self, id: usize) {
        let job = self.lives[id].job.clone();
        if job.runnable() {
            self.scheduler.wake(&job, self.now, &self.wishes);
            self.grant();
        }
    }

    fn check(&mut self, id: u32) {
        self.scheduler.check(id, self.now, &self.wishes);
        self.grant();
        self.arm(id);
    }

    fn arm(&mut self, id: u32) {
        let cpu = &mut self.cpus[id as usize];
        cpu.timers += 1;
        let number = cpu.timers;
        let deadline = self.scheduler.deadline(id);
        if deadline != NEVER {
            self.at(deadline.max(self.now), Event::Timer(id, number));
        }
    }

    /// CPU `id` looks for something to run.
    fn dispatch(&mut self, id: u32) {
        let job = self.scheduler.pick(id, self.now, &self.wishes);
        let cpu = &mut self.cpus[id as usize];
        cpu.since = self.now;
        cpu.runs += 1;
        cpu.running = job.map(|job| job.id);
        let runs = cpu.runs;
        if let Some(job) = cpu.running {
            self.switches += 1;
            self.mixtures += u64::from(self.admitted_since(id, job).is_none());
            let life = &mut self.lives[job];
            if let Some(woken) = life.woken.take() {
                self.latencies.push(self.now - woken);
            }
            if life.job.entity.soft.contains(id) {
                life.strays = None;
            } else {
                life.strays.get_or_insert(self.now);
            }
            let end = self.now.saturating_add(life.left);
            let leaves = core::mem::take(&mut life.leaves);
            self.at(if leaves { self.now } else { end }, Event::Leave(id, runs));
        }
        self.grant();
        self.arm(id);
    }

    /// Since when the other CPUs of CPU `id`'s core run nothing, or jobs of the same domain. `None`: they do not.
    fn admitted_since(&self, id: u32, job: usize) -> Option<u64> {
        let share = |job: usize| Arc::as_ptr(&self.lives[job].job.entity.share);
        let first = id - id % self.threads;
        let others = (first..first + self.threads).filter(|&other| self.threads > 1 && other != id);
        let mut others = others.map(|other| &self.cpus[other as usize]);
        others.try_fold(0, |since, cpu| match cpu.running {
            Some(other) if share(other) != share(job) => None,
            _ => Some(since.max(cpu.since)),
        })
    }

    /// What CPU `id` runs stops, for whatever reason.
    fn leave(&mut self, id: u32) {
        let cpu = &mut self.cpus[id as usize];
        let Some(running) = cpu.running.take() else { return };
        let life = &mut self.lives[running];
        life.left = life.left.saturating_sub(self.now - cpu.since);
        let job = life.job.clone();
        job.leaves.store(false, Relaxed);
        match &life.rhythm {
            Some(rhythm) if life.left == 0 && rhythm.sleep.is_empty() => {
                life.left = self.random.within(rhythm.burst.clone()).max(1);
                let share = &job.entity.share;
                let siblings = self.lives.iter().map(|life| &life.job);
                let siblings = siblings.filter(|other| Arc::ptr_eq(&other.entity.share, share));
                self.scheduler.yields_to(&job, id, self.now, siblings);
            }
            Some(rhythm) if life.left == 0 => {
                let sleep = self.random.within(rhythm.sleep.clone());
                job.asleep.store(true, Relaxed);
                life.strays = None;
                self.at(self.now + sleep, Event::Wake(running));
            }
            None if life.left == 0 => life.left = NEVER / 2,
            _ => {}
        }
        self.scheduler.put(&job, id, self.now, &self.wishes);
        self.grant();
        self.dispatch(id);
    }

    /// See to what the scheduler asked for.
    fn grant(&mut self) {
        let wishes = core::mem::take(&mut *self.wishes.0.borrow_mut());
        for wish in wishes {
            let soon = self.now + IPI;
            match wish {
                Wish::Kick(id) => self.at(soon, Event::Kick(id)),
                Wish::Reconsider(id) => self.at(soon, Event::Reconsider(id)),
                Wish::Unpark(id, then) => self.at(then, Event::Unpark(id)),
                Wish::Preempt(job) => {
                    let life = &mut self.lives[job];
                    let on = life.job.entity.cpu();
                    let cpu = &self.cpus[on as usize];
                    if cpu.running == Some(job) {
                        let runs = cpu.runs;
                        life.job.leaves.store(true, Relaxed);
                        self.at(soon, Event::Leave(on, runs));
                    } else {
                        life.leaves = life.job.entity.running();
                    }
                }
            }
        }
    }

    fn scan(&mut self) {
        let idle: Vec<(u32, u64)> = (0..)
            .zip(&self.cpus)
            .filter(|(_, cpu)| cpu.running.is_none())
            .map(|(id, cpu)| (id, cpu.since))
            .collect();
        if idle.is_empty() {
            return;
        }
        let waiting = self
            .lives
            .iter()
            .filter(|life| life.job.state.load(Relaxed) == WAITING);
        // How long one of the CPUs that idle could have run a job that has wanted to since `since`.
        let longest = |life: &Life, since: u64, wanted: &dyn Fn(u32) -> bool| {
            let idle = idle.iter().filter(|(id, _)| wanted(*id));
            let times = idle.filter_map(|(id, idle)| {
                let admitted = self.admitted_since(*id, life.job.id)?;
                Some(self.now - since.max(*idle).max(admitted).max(life.pinned))
            });
            times.max().unwrap_or(0)
        };
        let wastes = waiting.map(|life| {
            let since = life.job.since.load(Relaxed);
            longest(life, since, &|id| life.job.entity.hard.contains(id))
        });
        let strays = self.lives.iter().filter_map(|life| {
            let Entity { hard, soft, .. } = &life.job.entity;
            Some(longest(life, life.strays?, &|id| {
                hard.contains(id) && soft.contains(id)
            }))
        });
        let (waste, stray) = (wastes.max(), strays.max());
        self.longest_waste = self.longest_waste.max(waste.unwrap_or(0));
        self.longest_stray = self.longest_stray.max(stray.unwrap_or(0));
    }
}

/// What part of a CPU jobs get of `cpus` CPUs that always compute, by weight: nobody more than a whole one.
pub fn fair_shares(weights: &[u16], cpus: u32) -> Vec<f64> {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&index| Reverse(weights[index]));
    let mut shares = alloc::vec![0.0; weights.len()];
    let mut left = f64::from(cpus);
    let mut total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
    for index in order {
        let weight = f64::from(weights[index]);
        let share = (left * weight / total).min(1.0);
        shares[index] = share;
        left -= share;
        total -= weight;
    }
    shares
}

#[cfg(test)]
#[path = "simulator_tests.rs"]
mod tests;
