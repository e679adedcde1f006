//! Interrupts on their way from those who send them to IRR.
//!
//! A sender notes what kind of signal an interrupt is, then that it has arrived, and then asks the owner to look; the owner takes what has arrived, and then looks at
//! what kind it is. Each that arrives is taken once, or with another of the same vector that was not taken yet: IRR has no more room either.
//!
//! `tests/models` runs this under the interleavings that the memory model allows.

use crate::arch::apic_page::{ApicPage, reg};
use crate::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// What kind of signal an interrupt was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// It is over once it has been seen.
    Edge,
    /// It stays until it is served: an I/O APIC waits for its end.
    Level,
}

/// Interrupts that have arrived and are not in IRR yet.
#[derive(Default, Debug)]
pub struct Arrivals {
    /// Their vectors. Those below 16 have no place in IRR: they are errors.
    arrived: [AtomicU32; 8],
    /// Was the last interrupt of a vector a level?
    levels: [AtomicU32; 8],
}

impl Arrivals {
    /// An interrupt of `vector` arrives. The caller makes the owner look.
    #[inline]
    pub fn add(&self, vector: u8, trigger: Trigger) {
        let (word, bit) = (usize::from(vector / 32), 1 << (vector % 32));
        // Before `arrived`, after which the owner looks. Seldom changes.
        let levels = &self.levels[word];
        match (trigger, levels.load(SeqCst) & bit != 0) {
            (Trigger::Edge, true) => drop(levels.fetch_and(!bit, SeqCst)),
            (Trigger::Level, false) => drop(levels.fetch_or(bit, SeqCst)),
            _ => {}
        }
        self.arrived[word].fetch_or(bit, SeqCst);
    }

    /// Forget what has arrived. For the owner.
    pub fn clear(&self) {
        self.arrived.iter().for_each(|word| word.store(0, SeqCst));
    }

    /// Move what has arrived to IRR, and to TMR what it is (SDM 3A, 11.8.4). For the owner. Returns whether there were vectors below 16.
    pub fn accept(&self, page: &ApicPage) -> bool {
        const ILLEGAL: u32 = 0xffff;
        let mut illegal = false;
        for (index, (arrived, levels)) in self.arrived.iter().zip(&self.levels).enumerate() {
            if arrived.load(SeqCst) == 0 {
                continue;
            }
            let mut new = arrived.swap(0, SeqCst);
            if index == 0 {
                illegal = new & ILLEGAL != 0;
                new &= !ILLEGAL;
            }
            let at = index as u32 * 16;
            let trigger_mode = page.get(reg::TMR + at) & !new | levels.load(SeqCst) & new;
            page.set(reg::TMR + at, trigger_mode);
            page.set(reg::IRR + at, page.get(reg::IRR + at) | new);
        }
        illegal
    }
}
