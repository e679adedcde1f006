//! A run queue against a plain list.

use alloc::sync::Arc;

use proptest::prelude::*;

use super::Share;
use super::runqueue::{Admitted, RunQueue};
use super::scheduler::Task;
use super::simulator::Job;

/// CPUs of the group, which is the second, and of the machine.
const SIZE: u32 = 6;
const CPUS: u32 = 18;

proptest! {
    /// Whatever waits, for whichever CPUs: the first for each CPU, of all domains and of each, is the first of all that may run there.
    #[test]
    fn the_first_is_the_first(
        by_domain in any::<bool>(),
        changes in prop::collection::vec((0usize..24, 0u8..4, 0u64..20, any::<u32>()), 1..120),
    ) {
        let shares: Vec<_> = (0..3).map(|_| Arc::new(Share::new())).collect();
        let jobs: Vec<_> = (0..24).map(|id| Arc::new(Job::new(id, shares[id % 3].clone(), false, 0))).collect();
        let mut queue = RunQueue::new(1, CPUS / SIZE, SIZE, by_domain);
        let mut keys = [None; 24];
        for (id, what, time, cpus) in changes {
            let job = &jobs[id];
            match (what, keys[id]) {
                (0..3, None) => {
                    job.entity().hard.set(|cpu| what == 0 || cpus >> (cpu % 8) & 1 != 0);
                    let urgent = what == 2;
                    match urgent {
                        true => queue.push_urgent(job, time),
                        false => queue.push(job, time),
                    }
                    keys[id] = Some((!urgent, time));
                }
                (_, Some(_)) => {
                    queue.remove(job);
                    keys[id] = None;
                }
                _ => {}
            }
            let owners = shares.iter().map(|share| Admitted::Only(Arc::as_ptr(share).addr()));
            for admitted in owners.filter(|_| by_domain).chain([Admitted::All, Admitted::None]) {
                for cpu in 0..CPUS {
                    let may = |id: &usize| match admitted {
                        Admitted::All => jobs[*id].entity().hard.contains(cpu),
                        Admitted::Only(owner) => jobs[*id].entity().hard.contains(cpu) && jobs[*id].entity().owner() == owner,
                        Admitted::None => false,
                    };
                    let wanted = (0..24).filter(may).filter_map(|id| keys[id]).min();
                    let first = queue.first_admitted(cpu, admitted);
                    let id = first.map(|first| jobs.iter().position(|job| Arc::ptr_eq(job, first)).expect("one of them"));
                    prop_assert!(id.is_none_or(|id| may(&id)), "{id:?} on {cpu}");
                    prop_assert_eq!(id.and_then(|id| keys[id]), wanted, "on CPU {}", cpu);
                    prop_assert_eq!(queue.has_for(cpu, admitted), wanted.is_some(), "on CPU {}", cpu);
                }
            }
            let groups = (0..CPUS / SIZE).filter(|number| queue.groups_wanted() >> number & 1 != 0);
            let wanted = (0..CPUS / SIZE).filter(|number| queue.wanted_of(*number) != 0);
            prop_assert!(groups.eq(wanted));
            prop_assert_eq!(queue.len() as usize, keys.iter().flatten().count());
        }
        let waiting: Vec<_> = (0..24).filter(|id| keys[*id].is_some()).collect();
        waiting.iter().for_each(|&id| queue.remove(&jobs[id]));
        prop_assert_eq!((queue.len(), queue.weight()), (0, 0));
    }
}
