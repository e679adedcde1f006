//! Is the TSC still what it was? A slower timer of the machine tells.
//!
//! All CPUs compare their own counter with the last good reading of any of them: one that has jumped or that counts at another rate is found, and one that is
//! apart from the others. What a reading is worth it says itself: the slower timer was read somewhere between two readings of the TSC, and all of
//! the time between these is granted. So nothing that holds a CPU up, an emulator's host among them, looks like a fault.
//!
//! The slower counter may come round between two readings. How often, only the TSC can tell, which is believed in this: a jump of just so many rounds
//! is not seen. Where the TSC is wrong, less than one round has passed: CPU 0 looks once a second.

/// A slower timer's counter, and the TSC before and after it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading {
    /// The slower counter; only the bits of its mask mean something.
    pub ticks: u64,
    /// The TSC before.
    pub before: u64,
    /// The TSC after.
    pub after: u64,
}

impl Reading {
    /// How long it took, in ticks of the TSC. (If that went back in between, the next reading tells.)
    fn width(&self) -> u64 {
        self.after.saturating_sub(self.before)
    }

    /// The best of some readings, the first of which that took no longer than `enough` ends it: one that was held up is taken again.
    pub fn best(enough: u64, mut read: impl FnMut() -> Reading) -> Reading {
        const TRIES: usize = 8;
        let mut best = read();
        for _ in 1..TRIES {
            if best.width() <= enough {
                break;
            }
            let next = read();
            if next.width() < best.width() {
                best = next;
            }
        }
        best
    }
}

/// A good reading: the slower counter as if it never came round, and the TSC in the middle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Good {
    ticks: u64,
    tsc: u64,
    /// TSC ticks that it took.
    width: u64,
}

/// How the slower timer goes on for the TSC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handover {
    /// The slower counter, which has not come round since, at the last good reading.
    pub ticks: u64,
    /// The TSC then; rather too late by what is not known of it than too early, so that nobody sees time go back.
    pub tsc: u64,
    /// TSC ticks for one of the slower timer, as a 32.32 fixed-point number: as they were measured for as long as the TSC was good.
    pub rate: u64,
}

/// What is known of the TSC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watch {
    /// Ticks of the slower timer in a second, and what they count to.
    hz: u64,
    mask: u64,
    /// TSC ticks for one of these by calibration, 32.32 fixed-point.
    rate: u64,
    first: Good,
    last: Good,
    /// Ticks of the slower timer by which the last reading is behind one before it: a CPU may have been found good that was going wrong.
    behind: i128,
}

/// How far the two may be apart after a moment: a thousandth of a second.
///
/// Readings that are taken well are within microseconds of each other. Linux's watchdog of clocks allows 0.1 to 62 ms.
const APART: u64 = 1000;
/// And how much further for each tick that has passed: one of so many. That is many times what calibration leaves (some of a million), and an eighth of the
/// smallest step in the clock of a CPU whose TSC follows it (100 MHz of 3 GHz).
const DRIFT: u64 = 256;
/// Calibration leaves no more than one of so many.
const CALIBRATED: u64 = 4096;
/// But no further than this part of a round, as a jump of any length would be good else.
const OF_A_ROUND: u64 = 64;

impl Watch {
    /// A watch that begins with a first reading, of a timer of `hz` ticks a second that counts to `mask`, beside a TSC of `tsc_hz`.
    pub fn new(tsc_hz: u64, hz: u64, mask: u64, first: Reading) -> Watch {
        let rate = (u128::from(tsc_hz) << 32) / u128::from(hz.max(1));
        let first = Good {
            ticks: first.ticks & mask,
            tsc: first.before.wrapping_add(first.width() / 2),
            width: first.width(),
        };
        Watch {
            hz,
            mask,
            rate: u64::try_from(rate).unwrap_or(u64::MAX).max(1),
            first,
            last: first,
            behind: 0,
        }
    }

    /// Look at another reading, which is the last good one from then on.
    ///
    /// # Errors
    /// It is not good: by so many microseconds the TSC is ahead of the slower timer, or behind, if negative.
    pub fn look(&mut self, reading: Reading) -> Result<(), i64> {
        let since = reading.ticks.wrapping_sub(self.last.ticks) & self.mask;
        let tsc = reading.before.wrapping_add(reading.width() / 2);
        let counted = tsc.wrapping_sub(self.last.tsc).cast_signed();
        // In ticks of the slower timer, as all that follows.
        let claimed = self.slow(counted.unsigned_abs()) * i128::from(counted.signum());
        let round = i128::from(self.mask) + 1;
        let rounds = ((claimed - i128::from(since) + round / 2).div_euclid(round)).max(0);
        let elapsed = i128::from(since) + rounds * round;
        let drift = (elapsed / i128::from(DRIFT)).min(round / i128::from(OF_A_ROUND));
        let unknown = self.slow(self.last.width.saturating_add(reading.width())) + 2;
        let granted = i128::from(self.hz / APART) + drift + unknown;
        let apart = claimed - elapsed;
        if apart.abs() > granted {
            // One that goes wrong by more than a round is wrong by all that it claims.
            let apart = claimed - i128::from(since);
            return Err(i64::try_from(apart * 1_000_000 / i128::from(self.hz.max(1))).unwrap_or(i64::MAX));
        }
        self.last = Good {
            ticks: self.last.ticks.wrapping_add(u64::try_from(elapsed).unwrap_or(0)),
            tsc,
            width: reading.width(),
        };
        // Beyond what calibration leaves.
        if apart.abs() > elapsed / i128::from(CALIBRATED) + unknown {
            self.behind = (self.behind - apart).clamp(0, granted);
        }
        Ok(())
    }

    /// TSC ticks in ticks of the slower timer.
    fn slow(&self, tsc: u64) -> i128 {
        ((u128::from(tsc) << 32) / u128::from(self.rate)).cast_signed()
    }

    /// Ticks of the slower timer in TSC ticks.
    fn fast(&self, ticks: i128) -> u64 {
        let ticks = u128::try_from(ticks).unwrap_or(0);
        u64::try_from((ticks * u128::from(self.rate)) >> 32).unwrap_or(u64::MAX)
    }

    /// How to go on by the slower timer, from the last good reading on. If that is behind another one, it is of a CPU that was going wrong: time goes on from
    /// the other's, and at the rate of calibration.
    pub fn hand_over(&self) -> Handover {
        /// Shorter than this part of a second nothing is measured better than it was calibrated.
        const ENOUGH: u64 = 4;
        let ticks = self.last.ticks.wrapping_sub(self.first.ticks);
        let tsc = self.last.tsc.wrapping_sub(self.first.tsc);
        let rate = if ticks >= self.hz / ENOUGH && self.behind == 0 {
            (u128::from(tsc) << 32) / u128::from(ticks.max(1))
        } else {
            self.rate.into()
        };
        let unknown = self.first.width + self.last.width + self.fast(self.behind) + (self.rate >> 31);
        Handover {
            ticks: self.last.ticks,
            tsc: self.last.tsc.wrapping_add(unknown),
            rate: u64::try_from(rate).unwrap_or(self.rate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PM_HZ: u64 = 3_579_545;
    const PM_MASK: u64 = 0xff_ffff;
    const TSC_HZ: u64 = 2_400_000_000;
    const WIDTH: u64 = 2_400;

    /// What a good machine reads `us` microseconds after its start, at a TSC of `hz`.
    fn at(us: u64, hz: u64) -> Reading {
        let after = |hz: u64| (u128::from(us) * u128::from(hz) / 1_000_000) as u64;
        Reading {
            ticks: after(PM_HZ) & PM_MASK,
            before: after(hz),
            after: after(hz) + WIDTH,
        }
    }

    fn watch() -> Watch {
        Watch::new(TSC_HZ, PM_HZ, PM_MASK, at(0, TSC_HZ))
    }

    fn moved(reading: Reading, us: i64) -> Reading {
        let by = (i128::from(us) * i128::from(TSC_HZ) / 1_000_000) as u64;
        Reading {
            before: reading.before.wrapping_add(by),
            after: reading.after.wrapping_add(by),
            ..reading
        }
    }

    #[test]
    fn a_jump_is_found_whichever_way_it_goes() {
        for us in [1_600, 10_000, 500_000, 10_000_000, 3_600_000_000, 86_400_000_000] {
            for us in [us, -us] {
                let mut watch = watch();
                assert_eq!(watch.look(at(100_000, TSC_HZ)), Ok(()));
                let found = watch.look(moved(at(200_000, TSC_HZ), us)).expect_err("a jump");
                assert!(found.abs_diff(us) < 10, "{found} {us}");
            }
        }
    }

    #[test]
    fn another_rate_is_found() {
        for hz in [TSC_HZ - 100_000_000, TSC_HZ + 100_000_000] {
            assert!(watch().look(at(1_000_000, hz)).is_err());
        }
    }

    /// One CPU's counter apart from another's: each looks once a second, half a second after the other.
    #[test]
    fn one_that_creeps_away_from_another_is_found() {
        let mut watch = watch();
        let mut found = None;
        for half in 1..200i64 {
            let apart = if half % 2 == 0 { 0 } else { half * 100 };
            if watch
                .look(moved(at(half.unsigned_abs() * 500_000, TSC_HZ), apart))
                .is_err()
            {
                found = Some(apart);
                break;
            }
        }
        assert!(found.is_some_and(|apart| apart < 5_000), "{found:?}");
    }

    proptest! {
        /// However long nobody looked, however well the TSC was calibrated (200 of a million), whatever held up a reading: no alarm.
        #[test]
        fn no_false_alarm(steps in prop::collection::vec((1u64..100_000_000, 0u64..2_000_000_000), 1..40), off in -200i64..200) {
            let hz = TSC_HZ.saturating_add_signed(TSC_HZ as i64 / 1_000_000 * off);
            let mut watch = watch();
            let mut now = 0;
            for (step, held_up) in steps {
                now += step;
                let mut reading = at(now, hz);
                reading.after += held_up;
                prop_assert_eq!(watch.look(reading), Ok(()));
            }
        }

        /// The slower timer goes on where the TSC was, at its rate: not behind, and not far ahead.
        #[test]
        fn time_goes_on(steps in prop::collection::vec(200_000u64..30_000_000, 2..20), off in -200i64..200, until in 1u64..1_000_000) {
            let hz = TSC_HZ.saturating_add_signed(TSC_HZ as i64 / 1_000_000 * off);
            let mut watch = watch();
            let mut now = 0;
            for step in steps {
                now += step;
                prop_assert_eq!(watch.look(at(now, hz)), Ok(()));
            }
            let handover = watch.hand_over();
            let then = at(now + until, hz);
            let ticks = then.ticks.wrapping_sub(handover.ticks) & PM_MASK;
            let goes_on = handover.tsc + ((u128::from(ticks) * u128::from(handover.rate)) >> 32) as u64;
            let ahead = goes_on.wrapping_sub(then.before + WIDTH / 2).cast_signed();
            prop_assert!((-2_000..20_000).contains(&ahead), "{}", ahead);
        }
    }

    /// One CPU falls back by what is still granted; another one is found out after it. Time goes on by the other's all the same.
    #[test]
    fn the_wrong_one_is_blamed_and_time_does_not_go_back() {
        let mut watch = watch();
        assert_eq!(watch.look(at(1_000_000, TSC_HZ)), Ok(()));
        assert_eq!(watch.look(moved(at(1_900_000, TSC_HZ), -4_000)), Ok(()));
        assert_eq!(watch.look(moved(at(1_950_000, TSC_HZ), -4_000)), Ok(()));
        let good = at(2_000_000, TSC_HZ);
        assert!(watch.look(good).is_err());
        let handover = watch.hand_over();
        let ticks = good.ticks.wrapping_sub(handover.ticks) & PM_MASK;
        let goes_on = handover.tsc + ((u128::from(ticks) * u128::from(handover.rate)) >> 32) as u64;
        let ahead = goes_on.wrapping_sub(good.after).cast_signed();
        assert!((0..20_000).contains(&ahead), "{ahead}");
    }

    /// However long a TSC is slower than calibrated, what is added in the end is no more than one look may grant.
    #[test]
    fn what_a_slow_clock_falls_back_by_does_not_pile_up() {
        let mut watch = watch();
        let slow = TSC_HZ - TSC_HZ / 1000;
        for second in 1..3600 {
            assert_eq!(watch.look(at(second * 1_000_000, slow)), Ok(()));
        }
        let handover = watch.hand_over();
        let ahead = handover.tsc.wrapping_sub(at(3599 * 1_000_000, slow).before);
        assert!(ahead < TSC_HZ / 100, "{ahead}");
    }

    #[test]
    fn a_reading_that_was_held_up_is_taken_again() {
        let mut widths = [900, 500, 40, 700].into_iter();
        let best = Reading::best(50, || Reading {
            ticks: 0,
            before: 100,
            after: 100 + widths.next().unwrap(),
        });
        assert_eq!((best.width(), widths.len()), (40, 1));
    }
}
