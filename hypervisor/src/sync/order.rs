//! The order in which locks are taken.

macro_rules! ranks {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Which lock it is: who holds one takes only those that come later in this list, or try.
        ///
        /// Of those for which [`Rank::nests`] is true several are taken at a time.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Rank {
            $($(#[$doc])* $name,)*
        }

        #[cfg(debug_assertions)]
        const ALL: &[Rank] = &[$(Rank::$name,)*];
    };
}

ranks! {
    /// A vCPU's registers: held by the CPU that runs it, in and out of the guest.
    Vcpu,
    /// One domctl at a time.
    Domctl,
    /// A CPU that goes offline or comes back.
    Hotplug,
    /// CPU pools.
    Pools,
    /// How far a dying domain has been taken apart.
    Teardown,
    /// Pauses of a domain's vCPUs.
    Pausing,
    /// Whose registers a CPU has.
    Loaded,
    /// [`Rank::Vcpu`] where the vCPU does not run.
    VcpuAtRest,
    /// Numbers of domains.
    Domids,
    /// What a domain's CPUID says, its memory map, its handle, its line of console output: nothing is taken inside but memory.
    Description,
    /// A domain's event channels.
    Events,
    /// An I/O APIC that a guest sees.
    IoApic,
    /// What a domain has mapped of others' grants.
    Mappings,
    /// How large a grant table is.
    GrantTable,
    /// A grant.
    Grant,
    /// A change of a p2m.
    P2m,
    /// Where a vCPU's clock, a domain's wall clock and run states are, while they are written.
    Areas,
    /// Where a domain's FIFO event queues are.
    Queues,
    /// The end of one of them.
    Queue,
    /// Where a vCPU's event flags are.
    VcpuInfo,
    /// The CPU in whose timer queue a vCPU is.
    TimerCpu,
    /// A CPU's timers.
    Timers,
    /// What waits for CPUs of a group.
    RunQueue,
    /// Which domain has a core.
    Core,
    /// What a CPU runs.
    Current,
    /// What is left of what a cap allows.
    Budget,
    /// Areas again: a vCPU's run state changes while it is queued.
    RunState,
    /// Tags of address spaces.
    Vpids,
    /// The hypervisor's page tables.
    Paging,
    /// The heap.
    Heap,
    /// Free frames.
    Frames,
    /// What is known of the TSC.
    Clock,
    /// The machine's I/O APICs.
    MachineIoApics,
    /// The log.
    Console,
}

/// From here on locks are taken in any order: those that others hold do not come back.
pub fn panicked() {
    #[cfg(debug_assertions)]
    check::panicked();
}

#[cfg(debug_assertions)]
pub use check::Held;

#[cfg(debug_assertions)]
mod check {
    use core::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

    use super::{ALL, Rank};

    static PANICKED: AtomicBool = AtomicBool::new(false);

    pub(super) fn panicked() {
        PANICKED.store(true, Relaxed);
    }

    impl Rank {
        /// May several of these be held? Always the one with the lesser number first: domain, queue, or grant of a table.
        const fn nests(self) -> bool {
            matches!(self, Rank::Events | Rank::Grant | Rank::Queue)
        }
    }

    /// The locks that a CPU holds.
    #[derive(Debug)]
    pub struct Held {
        /// How many of each rank.
        counts: [AtomicU8; ALL.len()],
    }

    impl Held {
        /// No lock.
        pub const fn none() -> Self {
            Self {
                counts: [const { AtomicU8::new(0) }; ALL.len()],
            }
        }

        /// A lock is about to be taken.
        ///
        /// # Panics
        /// One is held that is taken after it.
        #[track_caller]
        pub(in crate::sync) fn check(&self, rank: Rank) {
            if PANICKED.load(Relaxed) {
                return;
            }
            let later = rank as usize + usize::from(rank.nests());
            for (held, count) in ALL.iter().zip(&self.counts).skip(later) {
                assert!(
                    count.load(Relaxed) == 0,
                    "lock order: {rank:?} is taken while {held:?} is held"
                );
            }
        }

        pub(in crate::sync) fn add(&self, rank: Rank) {
            self.counts[rank as usize].fetch_add(1, Relaxed);
        }

        pub(in crate::sync) fn remove(&self, rank: Rank) {
            self.counts[rank as usize].fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use crate::sync::{Mutex, Rank};

    #[test]
    fn in_order() {
        let (outer, inner) = (Mutex::new(Rank::Events, ()), Mutex::new(Rank::P2m, ()));
        let _held = (outer.lock(), inner.lock());
        let log = Mutex::new(Rank::Console, ());
        drop(log.lock());
    }

    #[test]
    #[should_panic(expected = "lock order: Events is taken while P2m is held")]
    fn out_of_order() {
        let (outer, inner) = (Mutex::new(Rank::Events, ()), Mutex::new(Rank::P2m, ()));
        let _inner = inner.lock();
        let _outer = outer.lock();
    }

    #[test]
    #[should_panic(expected = "lock order: P2m is taken while P2m is held")]
    fn two_of_a_rank_that_does_not_nest() {
        let (one, other) = (Mutex::new(Rank::P2m, ()), Mutex::new(Rank::P2m, ()));
        let _held = (one.lock(), other.lock());
    }
}
