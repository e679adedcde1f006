//! Simulated CPUs that share a queue: who gets how much, and how soon.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use proptest::prelude::*;

use super::super::heap::{Slot, UNQUEUED};
use super::*;

const SLICE: u64 = 10_000_000;
const SECOND: u64 = 1_000_000_000;
/// Those that begin at the same time have their first turns until then, one after the other.
const ALL_HAVE_BEGUN: u64 = SECOND;

#[derive(Debug)]
struct Task {
    slot: AtomicU32,
    time: AtomicU64,
    weight: u32,
    /// Runs for the first of these, then sleeps for the second; `None`: always wants to run.
    rhythm: Option<(u64, u64)>,
    only_on: Option<u32>,
    ran: AtomicU64,
    /// Longest wait from waking to running.
    waited: AtomicU64,
}

impl Slot<Waiting> for Arc<Task> {
    fn slot(&self) -> &AtomicU32 {
        &self.slot
    }
}

impl Schedulable for Arc<Task> {
    fn time(&self) -> &AtomicU64 {
        &self.time
    }
    fn may_run_on(&self, cpu: u32) -> bool {
        self.only_on.is_none_or(|only| only == cpu)
    }
}

fn task(weight: u32, rhythm: Option<(u64, u64)>) -> Arc<Task> {
    Arc::new(Task {
        slot: AtomicU32::new(UNQUEUED),
        time: AtomicU64::new(0),
        weight,
        rhythm,
        only_on: None,
        ran: AtomicU64::new(0),
        waited: AtomicU64::new(0),
    })
}

/// One CPU of the simulation: whom it runs, since when, and until when at most.
#[derive(Clone)]
struct Cpu {
    current: Option<(Arc<Task>, u64, u64)>,
}

/// Run `tasks` on `cpus` CPUs for `length` nanoseconds; how long was a CPU idle while somebody waited?
fn simulate(cpus: usize, tasks: &[Arc<Task>], length: u64) -> u64 {
    let mut queue = RunQueue::new();
    let mut machine = vec![Cpu { current: None }; cpus];
    let mut sleeping: Vec<(u64, Arc<Task>)> = Vec::new();
    let mut woken_at: Vec<(u64, Arc<Task>)> = Vec::new();
    for task in tasks {
        queue.push_woken(task);
    }
    let (mut now, mut wasted) = (0, 0);
    while now < length {
        for (id, cpu) in machine.iter_mut().enumerate() {
            if cpu.current.is_none()
                && let Some(task) = queue.pop(id as u32)
            {
                woken_at.retain(|(at, woken)| {
                    if Arc::ptr_eq(woken, &task) && *at >= ALL_HAVE_BEGUN {
                        task.waited.fetch_max(now - at, Relaxed);
                    }
                    !Arc::ptr_eq(woken, &task)
                });
                let burst = task.rhythm.map_or(u64::MAX, |(burst, _)| burst);
                cpu.current = Some((task, now, now + SLICE.min(burst)));
            }
        }
        let next = machine
            .iter()
            .filter_map(|cpu| cpu.current.as_ref().map(|(.., end)| *end))
            .chain(sleeping.iter().map(|(at, _)| *at))
            .min()
            .unwrap_or(length);
        let idle = machine.iter().filter(|cpu| cpu.current.is_none()).count() as u64;
        if tasks.iter().all(|task| task.only_on.is_none()) && !queue.is_empty() {
            wasted += idle * (next - now);
        }
        now = next.max(now);
        let stop = |cpu: &mut Cpu, queue: &mut RunQueue<_>, sleeping: &mut Vec<_>| {
            let Some((task, since, _)) = cpu.current.take() else {
                return;
            };
            let ran = now - since;
            task.ran.fetch_add(ran, Relaxed);
            task.time.fetch_add(virtual_time(ran, task.weight), Relaxed);
            match task.rhythm {
                Some((burst, rest)) if ran >= burst => sleeping.push((now + rest, task)),
                _ => queue.push_ready(&task),
            }
        };
        for cpu in &mut machine {
            if cpu.current.as_ref().is_some_and(|(.., end)| *end <= now) {
                stop(cpu, &mut queue, &mut sleeping);
            }
        }
        let mut index = 0;
        while index < sleeping.len() {
            if sleeping[index].0 > now {
                index += 1;
                continue;
            }
            let (at, task) = sleeping.swap_remove(index);
            queue.push_woken(&task);
            // If nobody is idle, who is furthest ahead makes room, as the scheduler does it.
            let full = machine.iter().all(|cpu| cpu.current.is_some());
            let ahead = machine
                .iter_mut()
                .filter_map(|cpu| {
                    let (running, since, _) = cpu.current.as_ref()?;
                    let time = running.time.load(Relaxed) + virtual_time(now - since, running.weight);
                    Some((time, cpu))
                })
                .max_by_key(|(time, _)| *time);
            if let Some((time, cpu)) = ahead
                && full
                && time > task.time.load(Relaxed)
            {
                stop(cpu, &mut queue, &mut sleeping);
            }
            woken_at.push((at, task));
        }
    }
    wasted
}

fn shares(tasks: &[Arc<Task>]) -> Vec<f64> {
    let total: u64 = tasks.iter().map(|task| task.ran.load(Relaxed)).sum();
    tasks
        .iter()
        .map(|task| task.ran.load(Relaxed) as f64 / total as f64)
        .collect()
}

#[test]
fn two_that_compute_share_by_weight() {
    let tasks = [task(256, None), task(512, None)];
    simulate(1, &tasks, 10 * SECOND);
    let shares = shares(&tasks);
    assert!((shares[1] / shares[0] - 2.0).abs() < 0.02, "{shares:?}");
}

#[test]
fn three_equal_ones_get_two_thirds_of_a_cpu_each() {
    let tasks = [task(256, None), task(256, None), task(256, None)];
    assert_eq!(simulate(2, &tasks, 10 * SECOND), 0);
    for share in shares(&tasks) {
        assert!((share - 1.0 / 3.0).abs() < 0.01, "{share}");
    }
}

#[test]
fn sleeping_saves_up_no_more_than_a_credit() {
    let mut queue = RunQueue::new();
    let (sleeper, busy) = (task(256, None), task(256, None));
    queue.push_ready(&busy);
    busy.time.store(virtual_time(100 * SECOND, 256), Relaxed);
    queue.push_ready(&busy);
    queue.pop(0);
    queue.push_woken(&sleeper);
    assert_eq!(
        queue.first_for(0).map(|(time, _)| time),
        Some(queue.floor() - CREDIT)
    );
}

#[test]
fn one_that_yields_lets_another_go_first() {
    let mut queue = RunQueue::new();
    let (eager, other) = (task(256, None), task(256, None));
    other.time.store(1000, Relaxed);
    queue.push_ready(&other);
    queue.push_yielding(&eager);
    assert!(queue.pop(0).is_some_and(|first| Arc::ptr_eq(&first, &other)));
    assert!(queue.pop(0).is_some_and(|then| Arc::ptr_eq(&then, &eager)));
    queue.push_yielding(&eager);
    assert!(queue.pop(0).is_some(), "alone, it goes on");
}

#[test]
fn a_pinned_one_waits_for_its_cpu() {
    let mut queue = RunQueue::new();
    let pinned = Arc::new(Task {
        only_on: Some(1),
        ..Arc::into_inner(task(256, None)).unwrap()
    });
    let free = task(256, None);
    free.time.store(10, Relaxed);
    queue.push_ready(&pinned);
    queue.push_ready(&free);
    assert!(queue.pop(0).is_some_and(|found| Arc::ptr_eq(&found, &free)));
    assert!(queue.pop(0).is_none());
    assert!(queue.pop(1).is_some_and(|found| Arc::ptr_eq(&found, &pinned)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any weights on one CPU: everybody gets his share, to a slice or two.
    #[test]
    fn shares_follow_weights(weights in prop::collection::vec(16u32..4096, 2..12)) {
        let tasks: Vec<_> = weights.iter().map(|&weight| task(weight, None)).collect();
        let length = 60 * SECOND;
        simulate(1, &tasks, length);
        let total: u32 = weights.iter().sum();
        for task in &tasks {
            let expected = length as f64 * f64::from(task.weight) / f64::from(total);
            let got = task.ran.load(Relaxed) as f64;
            prop_assert!((got - expected).abs() <= 3.0 * SLICE as f64, "{got} instead of {expected}");
        }
    }

    /// One that sleeps most of the time runs within a slice of waking, whatever computes beside it, and no CPU idles while somebody waits.
    #[test]
    fn sleepers_run_soon(
        hogs in prop::collection::vec(64u32..2048, 1..24), cpus in 1usize..9,
        burst in 10_000u64..500_000, rest in 5_000_000u64..50_000_000,
    ) {
        // It wants at most half of its share.
        let total = hogs.iter().sum::<u32>() + 256;
        let share = 256.0 * cpus as f64 / f64::from(total);
        prop_assume!(burst as f64 / (burst + rest) as f64 <= share / 2.0);
        let sleeper = task(256, Some((burst, rest)));
        let mut tasks: Vec<_> = hogs.iter().map(|&weight| task(weight, None)).collect();
        tasks.push(sleeper.clone());
        prop_assert_eq!(simulate(cpus, &tasks, 5 * SECOND), 0);
        let waited = sleeper.waited.load(Relaxed);
        prop_assert!(waited <= SLICE, "waited {waited} ns");
    }

    /// Sleeping now and then gains nobody more than his share.
    #[test]
    fn sleeping_gains_nothing(burst in 100_000u64..9_000_000, rest in 10_000u64..4_000_000) {
        let (sleeper, hog) = (task(256, Some((burst, rest))), task(256, None));
        let length = 20 * SECOND;
        simulate(1, &[sleeper.clone(), hog], length);
        let share = sleeper.ran.load(Relaxed) as f64 / length as f64;
        prop_assert!(share < 0.52, "{share}");
    }
}
