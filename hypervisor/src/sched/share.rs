//! A domain's share of the CPUs: weight, and cap.
//!
//! A cap is a budget for each period, which the domain's vCPUs spend together. Who overspends begins the next period with the debt, and a few periods' budgets
//! are kept; so in the long run the cap holds exactly, whatever the slices.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst};

use super::pool::POOL_0;
use crate::sync::{Mutex, Rank};

/// Weight of a domain that was given none, as in Xen.
pub const DEFAULT_WEIGHT: u16 = 256;
/// A budget is for so long, in nanoseconds: credit2's period.
pub const PERIOD: u64 = 10_000_000;
/// Budgets that can be left, at most.
const SAVED: i64 = 4;

/// The share of a domain. Its vCPUs hold it, too.
#[derive(Debug)]
pub struct Share {
    /// Number of its CPU pool.
    pool: AtomicU32,
    weight: AtomicU32,
    /// Percent of a CPU; 0: no limit.
    cap: AtomicU32,
    budget: Mutex<Budget>,
}

#[derive(Debug, Default)]
struct Budget {
    /// Nanoseconds that are left in this period.
    left: i64,
    /// When it began.
    start: u64,
    /// When the cap was set: what ran before is not charged.
    set: u64,
}

/// What a domain may still use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// As much as it gets.
    Unlimited,
    /// So many nanoseconds.
    Some(u64),
    /// Nothing before this time.
    NoneUntil(u64),
}

impl Budget {
    /// Begin a new period if the old one is over. What was used too much counts, and so does what could not be used in the last few periods, as somebody
    /// else had the CPU.
    fn refill(&mut self, quota: i64, now: u64) {
        let periods = now.saturating_sub(self.start) / PERIOD;
        if periods > 0 {
            let more = quota.saturating_mul(periods.cast_signed());
            self.left = self.left.saturating_add(more).min(quota.saturating_mul(SAVED));
            self.start = self.start.saturating_add(periods.saturating_mul(PERIOD));
        }
    }
}

impl Share {
    /// The default weight, no cap, in pool 0.
    pub fn new() -> Self {
        Self {
            pool: AtomicU32::new(POOL_0),
            weight: AtomicU32::new(DEFAULT_WEIGHT.into()),
            cap: AtomicU32::new(0),
            budget: Mutex::new(Rank::Budget, Budget::default()),
        }
    }

    /// Its CPU pool.
    #[inline]
    pub fn pool(&self) -> u32 {
        self.pool.load(Relaxed)
    }

    /// Change the pool.
    pub fn set_pool(&self, id: u32) {
        self.pool.store(id, Relaxed);
    }

    /// Its weight, from 1 on.
    pub fn weight(&self) -> u32 {
        self.weight.load(SeqCst)
    }

    /// Its cap in percent of a CPU; 0: none.
    pub fn cap(&self) -> u32 {
        self.cap.load(SeqCst)
    }

    /// Change the weight, from 1 on. The caller has the scheduler told.
    pub fn set_weight(&self, weight: u16) {
        self.weight.store(weight.max(1).into(), SeqCst);
    }

    /// Change the cap. A new budget begins, for what runs as well: the caller has the scheduler told.
    pub fn set_cap(&self, cap: u16, now: u64) {
        let mut budget = self.budget.lock();
        self.cap.store(cap.into(), SeqCst);
        *budget = Budget {
            left: self.quota(),
            start: now,
            set: now,
        };
    }

    /// Nanoseconds in a period.
    fn quota(&self) -> i64 {
        i64::from(self.cap()) * (PERIOD / 100).cast_signed()
    }

    /// What may be used from `now` on.
    pub fn left(&self, now: u64) -> Left {
        let quota = self.quota();
        if quota == 0 {
            return Left::Unlimited;
        }
        let mut budget = self.budget.lock();
        budget.refill(quota, now);
        match u64::try_from(budget.left) {
            Ok(left @ 1..) => Left::Some(left),
            _ => {
                let periods = (-budget.left / quota + 1).unsigned_abs();
                Left::NoneUntil(budget.start.saturating_add(periods.saturating_mul(PERIOD)))
            }
        }
    }

    /// A vCPU has run for `ran` nanoseconds until `now`.
    pub fn charge(&self, ran: u64, now: u64) {
        let quota = self.quota();
        if quota != 0 {
            // The spending first: what was set aside for it is not lost when the new period comes.
            let mut budget = self.budget.lock();
            let ran = ran.min(now.saturating_sub(budget.set));
            budget.left = budget.left.saturating_sub_unsigned(ran);
            budget.refill(quota, now);
        }
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn without_a_cap_there_is_no_limit() {
        let share = Share::new();
        share.charge(u64::MAX, 5);
        assert_eq!(share.left(6), Left::Unlimited);
    }

    #[test]
    fn what_ran_before_a_cap_was_set_is_not_charged() {
        let share = Share::new();
        share.set_cap(50, 100 * PERIOD);
        share.charge(100 * PERIOD + PERIOD / 4, 100 * PERIOD + PERIOD / 4);
        assert_eq!(share.left(100 * PERIOD + PERIOD / 4), Left::Some(PERIOD / 4));
    }

    #[test]
    fn a_few_periods_are_kept() {
        let share = Share::new();
        share.set_cap(50, 0);
        assert_eq!(share.left(PERIOD * 3 / 2), Left::Some(PERIOD));
        assert_eq!(share.left(PERIOD * 100), Left::Some(PERIOD / 2 * SAVED as u64));
    }

    /// One that runs for a whole period has the next one's budget, too.
    #[test]
    fn a_cap_of_more_than_a_cpu_leaves_a_whole_one() {
        let share = Share::new();
        share.set_cap(102, 0);
        let mut now = 0;
        for _ in 0..100 {
            let Left::Some(left) = share.left(now) else {
                panic!("has to wait at {now}")
            };
            now += left;
            share.charge(left, now);
        }
    }

    proptest! {
        /// Whoever runs whenever there is something left, in slices of any length, has what the cap says after a while.
        #[test]
        fn a_cap_holds_in_the_long_run(cap in 1u16..400, slices in prop::collection::vec(1_000u64..30_000_000, 400)) {
            let share = Share::new();
            share.set_cap(cap, 0);
            let (mut now, mut ran) = (0u64, 0u64);
            for slice in slices {
                match share.left(now) {
                    Left::Some(left) => {
                        // As if the slice's end came late, on as many CPUs as the cap wants.
                        let cpus = u64::from(cap).div_ceil(100);
                        let used = left.min(slice) + slice / 3;
                        (now, ran) = (now + used, ran + used * cpus);
                        (0..cpus).for_each(|_| share.charge(used, now));
                    }
                    Left::NoneUntil(then) => {
                        prop_assert!(then > now);
                        now = then;
                    }
                    Left::Unlimited => prop_assert!(false),
                }
            }
            let most = u128::from(now + PERIOD) * u128::from(cap) / 100 + 160_000_000;
            prop_assert!(u128::from(ran) <= most, "{ran} {most}");
        }
    }
}
