//! Days of the Gregorian calendar, which is that of hardware clocks and of the log.
//!
//! Years are taken to begin in March, so that a leap day is a year's last.

const SECONDS_OF_A_DAY: u64 = 86_400;
/// From the first of March of the year 0 to 1970.
const EPOCH: u64 = 719_468;
const DAYS_OF_400_YEARS: u64 = 146_097;

/// A moment of a day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Date {
    /// All four digits.
    pub year: u64,
    /// From 1.
    pub month: u64,
    /// From 1.
    pub day: u64,
    /// Of 24.
    pub hour: u64,
    /// From 0.
    pub minute: u64,
    /// From 0.
    pub second: u64,
}

impl Date {
    /// Seconds since 1970.
    pub fn seconds(&self) -> u64 {
        let (year, month) = if self.month <= 2 {
            (self.year - 1, self.month + 9)
        } else {
            (self.year, self.month - 3)
        };
        let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + self.day.max(1)
            - 1
            - EPOCH;
        days * SECONDS_OF_A_DAY + (self.hour * 60 + self.minute) * 60 + self.second
    }

    /// So many seconds after 1970 began.
    pub fn at(seconds: u64) -> Date {
        let (days, second) = (seconds / SECONDS_OF_A_DAY + EPOCH, seconds % SECONDS_OF_A_DAY);
        let (centuries, days) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
        // A year is 365 days, but for those that are leap days: each fourth year's, not each hundredth's, and the last one's.
        let year = (days - days / 1460 + days / 36_524 - days / 146_096) / 365;
        let day = days - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        Date {
            year: centuries * 400 + year + u64::from(month >= 10),
            month: if month < 10 { month + 3 } else { month - 9 },
            day: day - (153 * month + 2) / 5 + 1,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn dates_and_seconds_are_the_same_moments(seconds in 0..20_000_000_000u64) {
            let date = Date::at(seconds);
            prop_assert!((1..=12).contains(&date.month) && (1..=31).contains(&date.day), "{date:?}");
            prop_assert_eq!(date.seconds(), seconds);
        }
    }

    #[test]
    fn dates() {
        let known = [
            (0, [1970, 1, 1, 0, 0, 0]),
            (946_684_799, [1999, 12, 31, 23, 59, 59]),
            (951_782_400, [2000, 2, 29, 0, 0, 0]),
            (1_795_418_344, [2026, 11, 23, 7, 19, 4]),
            (4_107_542_400, [2100, 3, 1, 0, 0, 0]),
        ];
        for (seconds, [year, month, day, hour, minute, second]) in known {
            let date = Date {
                year,
                month,
                day,
                hour,
                minute,
                second,
            };
            assert_eq!(Date::at(seconds), date);
            assert_eq!(date.seconds(), seconds);
        }
    }
}
