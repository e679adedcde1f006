//! Who has which VPID: one per vCPU for its life, none (0) if all 65,535 are taken. Pure.

/// Free and used VPIDs.
pub struct Vpids {
    used: [u64; Vpids::WORDS],
    /// Where the next search begins: the word after the last success.
    next: usize,
}

impl Vpids {
    const WORDS: usize = 1024;

    /// All free, but 0, which is the host's.
    pub const fn new() -> Vpids {
        let mut used = [0; Vpids::WORDS];
        used[0] = 1;
        Vpids { used, next: 0 }
    }

    /// A VPID that nobody has.
    pub fn take(&mut self) -> Option<u16> {
        let order = (self.next..Self::WORDS).chain(0..self.next);
        let word = order.into_iter().find(|&w| self.used[w] != u64::MAX)?;
        let bit = self.used[word].trailing_ones();
        self.used[word] |= 1 << bit;
        self.next = word;
        Some((word as u32 * 64 + bit) as u16)
    }

    /// Give `vpid` back. 0 stays the host's.
    pub fn put(&mut self, vpid: u16) {
        if vpid != 0 {
            self.used[usize::from(vpid) / 64] &= !(1 << (vpid % 64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_zero_once_each() {
        let mut vpids = Vpids::new();
        let mut seen = std::collections::BTreeSet::new();
        while let Some(vpid) = vpids.take() {
            assert!(vpid != 0 && seen.insert(vpid));
        }
        assert_eq!(seen.len(), 65_535);
        vpids.put(0);
        assert_eq!(vpids.take(), None);
        vpids.put(40_000);
        assert_eq!(vpids.take(), Some(40_000));
    }
}
