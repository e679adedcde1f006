//! The rate limit of a device: bytes credited once an interval, as xl's `rate=` says.

/// A rate as a config says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes credited each time.
    pub bytes: u64,
    /// Microseconds from one time to the next.
    pub interval: u32,
}

/// Credit that unused intervals add up to, if `bytes` is less: enough for the largest packet.
const BURST_MIN: u64 = 128 << 10;

/// Credit of one device.
#[derive(Clone, Debug)]
pub struct Bucket {
    rate: Rate,
    credit: u64,
    /// When credit was added last, ns.
    since: u64,
}

impl Bucket {
    /// Starts with the credit of one interval.
    pub fn new(rate: Rate, now: u64) -> Self {
        Self {
            rate,
            credit: rate.bytes,
            since: now,
        }
    }

    /// Pays for a packet.
    ///
    /// # Errors
    /// The credit does not suffice: the time (ns) at which there is more of it.
    pub fn take(&mut self, bytes: usize, now: u64) -> Result<(), u64> {
        let interval = u64::from(self.rate.interval).saturating_mul(1000).max(1);
        let passed = now.saturating_sub(self.since) / interval;
        if passed > 0 {
            let most = self.rate.bytes.max(BURST_MIN);
            let added = self.rate.bytes.saturating_mul(passed);
            self.credit = self.credit.saturating_add(added).min(most);
            self.since = self.since.saturating_add(passed.saturating_mul(interval));
        }
        match self.credit.checked_sub(bytes as u64) {
            Some(rest) => {
                self.credit = rest;
                Ok(())
            }
            None => Err(self.since.saturating_add(interval)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn credit_comes_once_an_interval_and_adds_up_to_a_burst() {
        let rate = Rate {
            bytes: 2000,
            interval: 20_000,
        };
        let mut bucket = Bucket::new(rate, 0);
        assert_eq!(bucket.take(1500, 0), Ok(()));
        assert_eq!(bucket.take(1500, 0), Err(20 * MS));
        assert_eq!(bucket.take(1500, 20 * MS - 1), Err(20 * MS));
        assert_eq!(bucket.take(1500, 20 * MS), Ok(()));
        assert_eq!(bucket.take(65_000, 20 * MS), Err(40 * MS));
        assert_eq!(
            bucket.take(65_000, 1000 * MS),
            Ok(()),
            "a large packet waits, but passes"
        );
        assert_eq!(bucket.take(131_072, 1_000_000 * MS), Ok(()));
        assert!(bucket.take(1, 1_000_000 * MS).is_err(), "no more than a burst");
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate(
            bytes in 1u64..1 << 20, interval in 1u32..1_000_000,
            packets in prop::collection::vec((0u64..50 * MS, 1usize..65_536), 1..100),
        ) {
            let mut bucket = Bucket::new(Rate { bytes, interval }, 0);
            let (mut now, mut sent) = (0, 0);
            for (pause, size) in packets {
                now += pause;
                match bucket.take(size, now) {
                    Ok(()) => sent += size as u64,
                    Err(when) => prop_assert!(when > now),
                }
            }
            let intervals = now / (u64::from(interval) * 1000);
            prop_assert!(sent <= bytes * (intervals + 1));
        }
    }
}
