//! CPUs that look for a task, go idle and hand tasks over, and those who wake these; and two CPUs of a core, which is cleared for another domain: the whole
//! scheduler, but for caps.

#[path = "../../src/sched/bracket.rs"]
mod bracket;
#[path = "../../src/sched/demand.rs"]
mod demand;
#[path = "../../src/sched/entity.rs"]
mod entity;
#[path = "../../src/sched/fair.rs"]
mod fair;
#[path = "../../src/sched/heap.rs"]
pub mod heap;
#[path = "../../src/sched/mask.rs"]
mod mask;
#[path = "../../src/sched/runqueue.rs"]
mod runqueue;
#[path = "../../src/sched/scheduler/mod.rs"]
mod scheduler;
#[path = "../../src/sched/seat.rs"]
mod seat;
#[path = "../../src/sched/timers.rs"]
pub mod timers;

/// Everybody's share is the same.
mod share {
    #[derive(Debug)]
    pub struct Share;

    pub enum Left {
        Unlimited,
        Some(u64),
        NoneUntil(u64),
    }

    impl Share {
        pub fn weight(&self) -> u32 {
            256
        }

        pub fn left(&self, _now: u64) -> Left {
            Left::Unlimited
        }

        pub fn charge(&self, _ran: u64, _now: u64) {}
    }
}

pub use entity::Entity;
pub use mask::CpuMask;
pub use share::Share;

use loom::thread;
use scheduler::{Granularity, Machine, Scheduler, State, Task};
use std::sync::{Arc, LazyLock};

use crate::check;
use crate::domain::vcpu::NEVER;
use crate::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// A vCPU.
struct Job {
    id: usize,
    entity: Entity,
    ready: AtomicBool,
    /// It is to leave its CPU. No part of the protocol, so loom does not know of it.
    leaves: Cell<bool>,
}

impl Task for Arc<Job> {
    fn entity(&self) -> &Entity {
        &self.entity
    }

    fn runnable(&self) -> bool {
        self.ready.load(SeqCst)
    }

    fn leaves(&self) -> bool {
        *self.leaves.lock().expect("no panic")
    }

    fn enters(&self, _state: State, _now: u64) {}
}

/// Something that is no part of the protocol: loom does not know of its lock.
type Cell<T> = std::sync::Mutex<T>;

/// Those that jobs are of. A run queue orders domains by where their shares are: in all runs in the same places.
static DOMAINS: LazyLock<[Arc<Share>; 2]> = LazyLock::new(|| [(); 2].map(|()| Arc::new(Share)));

/// A machine, and the interrupts that are on their way.
struct Model {
    scheduler: Scheduler<Arc<Job>>,
    granularity: Granularity,
    jobs: Vec<Arc<Job>>,
    kicked: Cell<Vec<u32>>,
    /// CPUs that are to set their timers, and for when at the latest.
    reconsidering: Cell<Vec<(u32, u64)>>,
    running: Vec<Cell<Option<Arc<Job>>>>,
    /// When their timers fire.
    armed: Vec<Cell<u64>>,
}

impl Machine<Arc<Job>> for Model {
    fn kick(&self, id: u32) {
        self.kicked.lock().expect("no panic").push(id);
    }

    fn reconsider(&self, id: u32, then: u64) {
        self.reconsidering.lock().expect("no panic").push((id, then));
    }

    fn preempt(&self, job: &Arc<Job>) {
        *job.leaves.lock().expect("no panic") = true;
    }

    fn park(&self, _job: &Arc<Job>, _then: u64) {}
}

impl Model {
    /// CPUs that have not looked for anything yet, and jobs that sleep.
    fn new(cpus: u32, jobs: usize) -> Arc<Self> {
        Self::with(cpus, Granularity::Cpu, &vec![DOMAINS[0].clone(); jobs])
    }

    /// The same with two CPUs that are one core, which runs one domain at a time: a job of one, and two of another.
    fn of_a_core() -> Arc<Self> {
        let jobs = [0, 1, 1].map(|domain: usize| DOMAINS[domain].clone());
        Self::with(2, Granularity::Core, &jobs)
    }

    /// The same with a job for each of `domains`.
    fn with(cpus: u32, granularity: Granularity, domains: &[Arc<Share>]) -> Arc<Self> {
        let scheduler = Scheduler::new(cpus as usize, granularity);
        (0..cpus).for_each(|id| scheduler.set_core(id, 0));
        scheduler.add_cpu(cpus - 1);
        let job = |(id, domain): (usize, &Arc<Share>)| {
            Arc::new(Job {
                id,
                entity: Entity::new(domain.clone()),
                ready: AtomicBool::new(false),
                leaves: Cell::default(),
            })
        };
        Arc::new(Self {
            scheduler,
            granularity,
            jobs: domains.iter().enumerate().map(job).collect(),
            kicked: Cell::default(),
            reconsidering: Cell::default(),
            running: (0..cpus).map(|_| Cell::default()).collect(),
            armed: (0..cpus).map(|_| Cell::default()).collect(),
        })
    }

    fn on(&self, cpu: u32) -> Option<Arc<Job>> {
        self.running[cpu as usize].lock().expect("no panic").clone()
    }

    fn set(&self, cpu: u32, job: Option<Arc<Job>>) {
        *self.running[cpu as usize].lock().expect("no panic") = job;
    }

    /// CPU `cpu`, which runs nothing, looks for a task, as the run loop does.
    fn look(&self, cpu: u32) {
        while let Some(job) = self.scheduler.pick(cpu, 0, self) {
            self.set(cpu, Some(job.clone()));
            self.arm(cpu, self.scheduler.deadline(cpu));
            if self.granularity == Granularity::Core {
                self.expect_one_domain();
            }
            if job.runnable() {
                break;
            }
            self.put(cpu);
        }
    }

    fn arm(&self, cpu: u32, then: u64) {
        *self.armed[cpu as usize].lock().expect("no panic") = then;
    }

    /// Where something waits and nothing else is to come, the timer of a CPU that runs something will.
    fn expect_timer(&self, cpu: u32) {
        if self.on(cpu).is_some() && self.scheduler.waiting(cpu) > 0 {
            let armed = *self.armed[cpu as usize].lock().expect("no panic");
            assert_ne!(armed, NEVER, "CPU {cpu} runs on, though something waits");
        }
    }

    /// CPUs that are all one core run jobs of one domain.
    fn expect_one_domain(&self) {
        let running = (0..self.running.len() as u32).filter_map(|cpu| self.on(cpu));
        let domains: Vec<_> = running.map(|job| Arc::as_ptr(&job.entity.share)).collect();
        assert!(
            domains.iter().all(|domain| *domain == domains[0]),
            "two domains on a core"
        );
    }

    /// What CPU `cpu` runs stops.
    fn put(&self, cpu: u32) {
        if let Some(job) = self.on(cpu) {
            self.set(cpu, None);
            self.scheduler.put(&job, cpu, 0, self);
        }
    }

    /// What CPU `cpu` runs goes to sleep, if it runs anything.
    fn sleep(&self, cpu: u32) {
        if let Some(job) = self.on(cpu) {
            job.ready.store(false, SeqCst);
            self.put(cpu);
            self.look(cpu);
        }
    }

    fn wake(&self, job: usize) {
        self.wake_at(job, 0);
    }

    fn wake_at(&self, job: usize, now: u64) {
        let job = &self.jobs[job];
        job.ready.store(true, SeqCst);
        self.scheduler.wake(job, now, self);
    }

    fn allow(&self, job: usize, hard: impl Fn(u32) -> bool) {
        self.jobs[job].entity.hard.set(hard);
        self.scheduler.affinity_changed(&self.jobs[job], 0, self);
    }

    /// Job `job` runs on CPU `cpu`, and may run there only until somebody says otherwise.
    fn occupy(&self, job: usize, cpu: u32) {
        self.jobs[job].entity.hard.set(|id| id == cpu);
        self.wake(job);
        self.look(cpu);
        assert!(self.on(cpu).is_some_and(|on| on.id == job));
    }

    /// All interrupts arrive.
    fn interrupt(&self) {
        loop {
            let kicked = self.kicked.lock().expect("no panic").pop();
            if let Some(cpu) = kicked {
                if self.on(cpu).is_none() {
                    self.look(cpu);
                }
                continue;
            }
            let reconsidering = self.reconsidering.lock().expect("no panic").pop();
            if let Some((cpu, then)) = reconsidering {
                let armed = *self.armed[cpu as usize].lock().expect("no panic");
                self.arm(cpu, armed.min(then));
                continue;
            }
            let leaves = |cpu: &u32| {
                let job = self.on(*cpu);
                job.is_some_and(|job| core::mem::take(&mut *job.leaves.lock().expect("no panic")))
            };
            let Some(cpu) = (0..self.running.len() as u32).find(leaves) else {
                break;
            };
            self.put(cpu);
            self.look(cpu);
        }
    }

    /// All interrupts arrive, and whoever runs then goes to sleep, until nobody does: all that were awake have had their turn.
    fn all_sleep(&self) {
        loop {
            self.interrupt();
            let Some(cpu) = (0..self.running.len() as u32).find(|cpu| self.on(*cpu).is_some()) else {
                break;
            };
            self.sleep(cpu);
        }
        for job in &self.jobs {
            assert!(!job.runnable(), "{} is forgotten", job.id);
        }
    }

    /// All interrupts arrive. Then each job that can runs, on one CPU where it may, as there are enough; and none waits.
    fn settle(&self) {
        self.interrupt();
        for cpu in 0..self.running.len() as u32 {
            assert_eq!(self.scheduler.waiting(cpu), 0, "in the group of CPU {cpu}");
        }
        for job in &self.jobs {
            let cpus: Vec<u32> = (0..self.running.len() as u32)
                .filter(|cpu| self.on(*cpu).is_some_and(|on| on.id == job.id))
                .collect();
            assert_eq!(
                cpus.len(),
                usize::from(job.runnable()),
                "{} is on {cpus:?}",
                job.id
            );
            assert!(cpus.iter().all(|cpu| job.entity.hard.contains(*cpu)), "{cpus:?}");
        }
    }
}

/// Runs `threads` beside each other on what `prepare` has made, and lets it settle.
fn beside<const N: usize>(
    preemptions: Option<usize>,
    prepare: impl Fn() -> Arc<Model> + Sync + Send + 'static,
    threads: [fn(&Model); N],
    after: fn(&Model),
) {
    together(preemptions, prepare, threads, move |model| {
        model.settle();
        after(model);
    });
}

/// Runs `threads` beside each other on what `prepare` has made, and then `after`.
fn together<const N: usize>(
    preemptions: Option<usize>,
    prepare: impl Fn() -> Arc<Model> + Sync + Send + 'static,
    threads: [fn(&Model); N],
    after: impl Fn(&Model) + Sync + Send + 'static,
) {
    check(preemptions, move || {
        let model = prepare();
        let (first, others) = threads.split_first().expect("there is one");
        let others: Vec<_> = others
            .iter()
            .map(|&work| {
                let model = model.clone();
                thread::spawn(move || work(&model))
            })
            .collect();
        first(&model);
        for other in others {
            other.join().expect("no panic");
        }
        after(&model);
    });
}

const CPUS_OF_TWO_GROUPS: u32 = 17;
/// A CPU of the second group, and another.
const THERE: u32 = 9;
const BESIDE: u32 = 10;

#[test]
fn no_wake_up_is_lost_to_a_cpu_that_goes_idle() {
    let prepare = || Model::new(2, 2);
    beside(
        Some(2),
        prepare,
        [
            |model| model.wake(0),
            |model| model.look(0),
            |model| model.look(1),
        ],
        |model| {
            model.wake(1);
            model.settle();
        },
    );
}

#[test]
fn nor_to_one_of_another_group() {
    let prepare = || {
        let model = Model::new(CPUS_OF_TWO_GROUPS, 2);
        model.occupy(1, 0);
        model
    };
    beside(
        Some(2),
        prepare,
        [|model| model.wake(0), |model| model.look(THERE)],
        |_| (),
    );
}

/// One CPU of a group is claimed while another goes idle: who looks for one in that group finds it.
#[test]
fn a_group_with_an_idle_cpu_is_found() {
    let prepare = || {
        let model = Model::new(CPUS_OF_TWO_GROUPS, 3);
        model.occupy(1, 0);
        model.look(BESIDE);
        model.allow(2, |cpu| cpu == BESIDE);
        model
    };
    beside(
        Some(3),
        prepare,
        [|model| model.wake(2), |model| model.look(THERE)],
        |model| {
            model.wake(0);
            model.settle();
        },
    );
}

/// A task that waits is taken by a CPU of another group, and sleeps there, while others wake it: they find out where it is.
#[test]
fn who_goes_to_another_group_is_woken_there() {
    let prepare = || {
        let model = Model::new(CPUS_OF_TWO_GROUPS, 2);
        model.occupy(1, 0);
        model.wake(0);
        model
    };
    beside(
        Some(2),
        prepare,
        [
            |model| {
                model.look(THERE);
                model.sleep(THERE);
            },
            |model| model.wake(0),
            |model| model.wake(0),
        ],
        |_| (),
    );
}

/// CPUs that idle, and jobs that sleep.
fn idle() -> Arc<Model> {
    let model = Model::new(2, 2);
    model.look(0);
    model.look(1);
    model
}

#[test]
fn who_wakes_is_handed_to_a_cpu_that_idles() {
    beside(
        None,
        idle,
        [|model| {
            model.wake(0);
            assert!(model.jobs[0].entity.running(), "it waits");
        }],
        |_| (),
    );
}

/// Both wake, while a CPU that one of them has claimed looks again before that one is there to be found.
#[test]
fn who_claims_a_cpu_that_goes_on_is_not_forgotten() {
    beside(
        Some(2),
        idle,
        [
            |model| model.wake(0),
            |model| model.wake(1),
            |model| model.look(1),
        ],
        |_| (),
    );
}

/// Of two that claim a CPU one after the other, the first is handed to it in the place of the second, which waits in another group: an idle CPU comes for
/// it, or one there makes room.
#[test]
fn who_claims_a_cpu_that_another_is_handed_to_is_not_forgotten() {
    let prepare = || {
        let model = Model::new(CPUS_OF_TWO_GROUPS, 3);
        model.occupy(2, 0);
        model.look(THERE);
        model
    };
    together(
        Some(3),
        prepare,
        [
            |model| model.wake(0),
            |model| model.wake(1),
            |model| {
                model.look(THERE);
                model.look(BESIDE);
            },
        ],
        |model| {
            model.interrupt();
            model.expect_timer(0);
            model.all_sleep();
        },
    );
}

/// One begins to wait for a CPU that goes from one to another: its timer is set, or somebody sees to that.
#[test]
fn a_cpu_that_begins_to_run_knows_who_waits() {
    let prepare = || {
        let model = Model::new(1, 3);
        model.occupy(0, 0);
        model.wake(1);
        model.interrupt();
        model
    };
    together(
        None,
        prepare,
        [|model| model.sleep(0), |model| model.wake(2)],
        |model| {
            model.interrupt();
            model.expect_timer(0);
            model.all_sleep();
        },
    );
}

/// A task of CPU 0 that prefers CPU 1, which idles.
fn stray() -> Arc<Model> {
    let model = Model::new(2, 2);
    model.occupy(0, 0);
    model.jobs[0].entity.hard.set(|_| true);
    model.jobs[0].entity.soft.set(|cpu| cpu == 1);
    model.look(1);
    model
}

#[test]
fn who_is_handed_over_is_not_lost_to_a_cpu_that_looks_for_itself() {
    beside(
        Some(2),
        stray,
        [
            |model| {
                model.put(0);
                model.look(0);
            },
            |model| model.look(1),
            |model| model.wake(1),
        ],
        |_| (),
    );
}

#[test]
fn who_is_handed_over_is_woken_and_pinned() {
    beside(
        Some(2),
        stray,
        [
            |model| {
                model.put(0);
                model.look(0);
            },
            |model| model.wake(0),
            |model| model.allow(0, |cpu| cpu == 0),
        ],
        |_| (),
    );
}

#[test]
fn a_cpu_that_idles_is_handed_a_task() {
    beside(
        None,
        stray,
        [|model| {
            model.put(0);
            model.look(0);
        }],
        |model| assert!(model.on(1).is_some_and(|on| on.id == 0)),
    );
}

/// A time when whoever has run since the start has had enough.
const LATER: u64 = 10 * scheduler::SLICE;

/// Both CPUs of a core look while jobs of two domains wake: one domain has it first, the other then.
#[test]
fn a_core_is_one_domain_s_whoever_looks_first() {
    together(
        Some(2),
        Model::of_a_core,
        [
            |model| {
                model.wake(0);
                model.look(0);
            },
            |model| {
                model.wake(1);
                model.look(1);
            },
        ],
        Model::all_sleep,
    );
}

/// Both CPUs of a core run jobs of a domain. It is cleared for another domain's while one of these goes to sleep.
#[test]
fn a_core_is_cleared_while_its_cpus_look() {
    let prepare = || {
        let model = Model::of_a_core();
        model.occupy(1, 0);
        model.occupy(2, 1);
        model
    };
    together(
        Some(2),
        prepare,
        [
            |model| model.wake_at(0, LATER),
            |model| model.sleep(0),
            |model| {
                model.put(1);
                model.look(1);
            },
        ],
        Model::all_sleep,
    );
}

/// A core is cleared for a job that is not to run on it any more when it is free: it is anybody's again.
#[test]
fn a_core_that_is_cleared_for_nobody_is_anybody_s() {
    let prepare = || {
        let model = Model::of_a_core();
        model.occupy(1, 0);
        model.wake_at(0, LATER);
        model.wake(2);
        model
    };
    together(
        Some(2),
        prepare,
        [
            |model| {
                model.jobs[0].ready.store(false, SeqCst);
                model.scheduler.remove(&model.jobs[0]);
            },
            |model| {
                model.put(0);
                model.look(0);
            },
            |model| model.look(1),
        ],
        Model::all_sleep,
    );
}
