//! How soon a domain that has stopped is started again.
//!
//! While a kernel is unpacked nobody else is served, so a domain that stops as soon as it runs must not be started again
//! at once, time after time. (xl sleeps two seconds before each restart; xend refused those of young domains.)

/// A domain that has run for so long, in nanoseconds, is started again at once.
pub const YOUNG: u64 = 60_000_000_000;
const SHORTEST: u64 = 2_000_000_000;
const LONGEST: u64 = 64_000_000_000;

/// How long to wait, in nanoseconds, before a domain is started again that has run for so long, and was itself started
/// after such a wait.
pub fn delay(ran: u64, last: u64) -> u64 {
    if ran < YOUNG {
        (2 * last).clamp(SHORTEST, LONGEST)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stops_at_once_waits_longer_each_time() {
        let mut last = 0;
        for seconds in [2, 4, 8, 16, 32, 64, 64] {
            last = delay(1, last);
            assert_eq!(last, seconds * 1_000_000_000);
        }
        assert_eq!(delay(YOUNG, last), 0);
        assert_eq!(delay(YOUNG - 1, 0), SHORTEST);
    }
}
