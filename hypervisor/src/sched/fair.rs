//! Virtual time: what is fair between those that share CPUs.
//!
//! Virtual time of a vCPU advances as it runs, the slower the more weight it has; who is furthest behind is next. So those that always want to run get
//! shares by weight. One that wakes has mostly fallen behind: it is ahead of those that compute, and runs at once. How far behind or ahead one can
//! be is bounded, in terms of its own running time: by [`CREDIT`] for what sleeping saves up, by [`LAG`] for what running alone, or not
//! at all, leaves over. The contract is credit2's; the method is that of fair queueing.
//!
//! Who lives within its share has a CPU soon after it woke, whatever its time: times say little where nobody had to wait, or of who came from elsewhere.
//! [`debt`] is what it has run beyond.
//!
//! Times of different groups of CPUs have nothing to do with each other; nor have those of CPUs of a group if vCPUs are pinned to them. So each CPU has a
//! floor: the virtual time that has been contended for there.

/// Virtual time for a nanosecond at weight 1. A CPU's whole time at weight 1 fits for nine years.
const SCALE: u64 = 64;

/// So long can one run, after it slept, before those that did not sleep are its equals.
pub const CREDIT: u64 = 5_000_000;
/// So long can one have run more or less than is fair, at most, before it is forgiven: two slices, as one is what happens.
pub const LAG: u64 = 20_000_000;

/// Virtual time for `ns` nanoseconds of running.
pub const fn virtual_time(ns: u64, weight: u32) -> u64 {
    ns.saturating_mul(SCALE) / if weight == 0 { 1 } else { weight as u64 }
}

/// The time at which one begins to wait that had `time` and did not want to run until now, on a CPU whose floor is `floor`.
pub const fn woken(time: u64, floor: u64, weight: u32) -> u64 {
    between(
        floor.saturating_sub(virtual_time(CREDIT, weight)),
        time,
        floor.saturating_add(virtual_time(LAG, weight)),
    )
}

/// The time of one that has run until now, and has come to `time`, where one with time `rival` waits.
pub const fn stopped(time: u64, rival: u64, weight: u32) -> u64 {
    let lag = virtual_time(LAG, weight);
    between(rival.saturating_sub(lag), time, rival.saturating_add(lag))
}

/// The time elsewhere, at a CPU with floor `to`, of one that has `time` at a CPU with floor `from`.
pub const fn moved(time: u64, from: u64, to: u64) -> u64 {
    if time >= from {
        to.saturating_add(time - from)
    } else {
        to.saturating_sub(from - time)
    }
}

/// What one has run beyond its share, in nanoseconds, that had run `debt` too much `elapsed` nanoseconds ago and ran for `ran` since. Its share is that of `weight` in
/// `cpus` CPUs that those with `load` want, itself included.
pub fn debt(debt: i64, ran: u64, elapsed: u64, weight: u32, cpus: u32, load: u64) -> i64 {
    // A quarter of an hour at most, for the product to fit.
    let elapsed = elapsed.min(1 << 40);
    let wanted = u64::from(weight) * u64::from(cpus);
    let share = elapsed.saturating_mul(wanted) / load.max(1);
    debt.saturating_add_unsigned(ran)
        .saturating_sub_unsigned(share.min(elapsed))
        .clamp(-CREDIT.cast_signed(), LAG.cast_signed())
}

const fn between(least: u64, time: u64, most: u64) -> u64 {
    if time < least {
        least
    } else if time > most {
        most
    } else {
        time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: u64 = virtual_time(3_600_000_000_000, 1);

    #[test]
    fn sleeping_saves_up_no_more_than_a_credit() {
        for weight in [1, 256, 65535] {
            assert_eq!(woken(0, FLOOR, weight), FLOOR - virtual_time(CREDIT, weight));
            assert_eq!(woken(FLOOR - 1, FLOOR, weight), FLOOR - 1);
        }
        assert_eq!(woken(5, 3, 1), 5, "at the beginning of time");
    }

    #[test]
    fn sleeping_clears_no_debt_of_a_slice() {
        let slice = virtual_time(10_000_000, 1);
        assert_eq!(woken(FLOOR + slice, FLOOR, 1), FLOOR + slice);
    }

    #[test]
    fn who_lives_within_its_share_has_no_debt() {
        let half = |debt, ran, elapsed| super::debt(debt, ran, elapsed, 256, 2, 1024);
        assert_eq!(half(0, 3_000_000, 4_000_000), 1_000_000);
        assert_eq!(half(1_000_000, 1_000_000, 4_000_000), 0);
        assert_eq!(half(0, 0, u64::MAX), -CREDIT.cast_signed());
        assert_eq!(half(0, u64::MAX, 0), LAG.cast_signed());
        let alone = super::debt(0, 2_000_000, 3_000_000, 65535, 32, 65535);
        assert_eq!(alone, -1_000_000, "nobody's share is more than a CPU");
    }

    #[test]
    fn an_hour_alone_is_forgiven() {
        let ahead = FLOOR + virtual_time(LAG, 256);
        assert_eq!(stopped(2 * FLOOR, FLOOR, 256), ahead);
        assert_eq!(stopped(0, FLOOR, 256), FLOOR - virtual_time(LAG, 256));
    }

    #[test]
    fn who_moves_keeps_its_lag() {
        assert_eq!(moved(100, 90, 1000), 1010);
        assert_eq!(moved(80, 90, 1000), 990);
        assert_eq!(moved(0, 90, 20), 0);
    }
}
