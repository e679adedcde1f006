//! Address-space identifiers of one CPU.
//!
//! A guest keeps its ASID while it stays on a CPU. It takes a new one to forget its translations (the only way where FlushByAsid is
//! missing), and when it comes to a CPU. When the numbers run out a new generation begins with a flush of everything.

use zerocopy::FromZeros;

use super::vmcb::tlb_control;

/// An ASID as a vCPU holds it: valid on the CPU that gave it, for as long as that CPU's generation is the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Asid {
    /// The identifier; 0, the host's own, before the first one is given.
    pub number: u32,
    /// Generation that it belongs to.
    pub generation: u64,
}

/// Gives out ASIDs 1 to `last`.
#[derive(Debug, FromZeros)]
pub struct AsidPool {
    generation: u64,
    next: u32,
    last: u32,
}

impl AsidPool {
    /// `last`: the number of ASIDs of the CPU less one (CPUID 8000_000Ah, EBX), at least 1.
    pub const fn new(last: u32) -> AsidPool {
        // Whatever ran before may have left translations behind, so that the first one given flushes all.
        AsidPool {
            generation: 0,
            next: u32::MAX,
            last,
        }
    }

    /// Is `asid` still its holder's?
    pub fn is_current(&self, asid: Asid) -> bool {
        asid.number != 0 && asid.generation == self.generation
    }

    /// An ASID without translations, if entered with the TLB_CONTROL given along.
    pub fn take(&mut self) -> (Asid, u8) {
        let mut control = tlb_control::NOTHING;
        if self.next > self.last {
            self.generation += 1;
            self.next = 1;
            control = tlb_control::ALL;
        }
        let asid = Asid {
            number: self.next,
            generation: self.generation,
        };
        self.next += 1;
        (asid, control)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_twice_without_a_flush() {
        let mut pool = AsidPool::new(3);
        let mut seen = std::vec::Vec::new();
        for _ in 0..20 {
            let (asid, control) = pool.take();
            assert!((1..=3).contains(&asid.number));
            if control == tlb_control::ALL {
                seen.clear();
            }
            assert!(!seen.contains(&asid.number));
            seen.push(asid.number);
        }
        assert_eq!(pool.generation, 7);
    }

    #[test]
    fn a_generation_ends_all_before() {
        let mut pool = AsidPool::new(1);
        assert!(!pool.is_current(Asid::default()));
        let (first, control) = pool.take();
        assert_eq!((control, pool.is_current(first)), (tlb_control::ALL, true));
        let (second, _) = pool.take();
        assert!(!pool.is_current(first) && pool.is_current(second));
    }
}
