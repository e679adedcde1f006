//! How soon a domain that has stopped is started again.
//!
//! Unpacking a kernel keeps a CPU busy for seconds, and other domains that are to be made waiting, so one that stops as
//! soon as it runs must not be started again at once, time after time. (xl sleeps two seconds before each restart; xend refused those of young domains.)

use alloc::collections::BTreeSet;
use alloc::string::String;

/// Names of domains that are gone for as long as it takes to start them again: nobody else is to get one.
#[derive(Debug, Default)]
pub struct Reserved(BTreeSet<String>);

impl Reserved {
    /// A domain of this name is about to be destroyed, and will be started again.
    pub fn add(&mut self, name: &str) {
        self.0.insert(name.into());
    }

    /// It has been started, or cannot be.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Is this name reserved?
    pub fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

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
    fn names_are_reserved_over_a_restart() {
        let mut reserved = Reserved::default();
        reserved.add("a");
        assert!(reserved.has("a") && !reserved.has("b"));
        reserved.remove("a");
        assert!(!reserved.has("a"));
    }

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
