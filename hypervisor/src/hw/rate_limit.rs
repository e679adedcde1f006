//! How many messages that guests cause are printed: a burst, then one in a while (as Xen's `printk_ratelimit`).

/// Nanoseconds that pay for one message.
const INTERVAL: u64 = 5_000_000_000;
/// Messages that can be saved up for.
const BURST: u64 = 10;

/// Time saved up, and what was not printed.
#[derive(Debug)]
pub struct RateLimit {
    saved: u64,
    last: u64,
    missed: u64,
}

impl RateLimit {
    /// With a whole burst saved up.
    pub const fn new() -> Self {
        Self {
            saved: BURST * INTERVAL,
            last: 0,
            missed: 0,
        }
    }

    /// May a message be printed at time `now` (nanoseconds)? Then: how many were not, since the last one that was.
    pub fn allow(&mut self, now: u64) -> Option<u64> {
        let passed = now.saturating_sub(self.last);
        self.last = self.last.max(now);
        self.saved = self.saved.saturating_add(passed).min(BURST * INTERVAL);
        match self.saved.checked_sub(INTERVAL) {
            Some(left) => {
                self.saved = left;
                Some(core::mem::take(&mut self.missed))
            }
            None => {
                self.missed += 1;
                None
            }
        }
    }
}

impl Default for RateLimit {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_in_a_while() {
        let mut limit = RateLimit::new();
        let printed = (0..100).filter(|_| limit.allow(1000).is_some()).count();
        assert_eq!(printed as u64, BURST);
        assert_eq!(limit.allow(INTERVAL / 2), None);
        assert_eq!(limit.allow(INTERVAL + 1000), Some(91));
        assert_eq!(limit.allow(INTERVAL + 1001), None);
        assert_eq!(
            limit.allow(INTERVAL),
            None,
            "a clock that goes back saves nothing up"
        );
        let later = 100 * INTERVAL;
        assert_eq!(limit.allow(later), Some(2));
        assert_eq!(
            (0..100).filter(|_| limit.allow(later).is_some()).count() as u64,
            BURST - 1
        );
    }
}
