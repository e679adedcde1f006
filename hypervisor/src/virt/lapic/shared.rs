//! What other CPUs write.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use super::destination::Address;
use super::registers::Lapic;

/// The part of a local APIC that others write.
#[derive(Debug)]
pub struct SharedLapic {
    pub(super) irr: [AtomicU32; 8],
    /// Interrupts that are levels: an I/O APIC waits for their ends.
    pub(super) tmr: [AtomicU32; 8],
    /// INIT waits (bit 31), start-up message waits (bit 30), its vector (bits 0..8).
    pub(super) startup: AtomicU32,
    /// See [`Address::pack`].
    pub(super) address: AtomicU64,
}

impl SharedLapic {
    /// The shared part of `own`, to which nothing has come yet.
    pub fn new(own: &Lapic) -> Self {
        Self {
            irr: Default::default(),
            tmr: Default::default(),
            startup: AtomicU32::new(0),
            address: AtomicU64::new(own.address().pack()),
        }
    }

    /// An interrupt of `vector` arrives. (The caller then makes the vCPU look: `Request::INTERRUPT`.)
    pub fn raise(&self, vector: u8) {
        self.irr[usize::from(vector / 32)].fetch_or(1 << (vector % 32), SeqCst);
    }

    /// The interrupt of `vector`, which the caller raises then, is a level.
    pub fn set_level(&self, vector: u8) {
        self.tmr[usize::from(vector / 32)].fetch_or(1 << (vector % 32), SeqCst);
    }

    /// Was the interrupt of `vector` a level? It has ended.
    pub(super) fn take_level(&self, vector: u8) -> bool {
        let (word, bit) = (&self.tmr[usize::from(vector / 32)], 1 << (vector % 32));
        word.load(SeqCst) & bit != 0 && word.fetch_and(!bit, SeqCst) & bit != 0
    }

    /// Is it meant by `destination`?
    pub fn answers_to(&self, destination: u32, logical: bool) -> bool {
        Address::unpack(self.address.load(SeqCst)).matches(destination, logical)
    }

    pub(super) fn highest_pending(&self) -> Option<u8> {
        (0..8).rev().find_map(|word| {
            let bits = self.irr[word].load(SeqCst);
            (bits != 0).then(|| (word * 32) as u8 + 31 - bits.leading_zeros() as u8)
        })
    }

    pub(super) fn take(&self, vector: u8) {
        self.irr[usize::from(vector / 32)].fetch_and(!(1 << (vector % 32)), SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::VcpuId;

    #[test]
    fn pending_interrupts_by_priority() {
        let shared = SharedLapic::new(&Lapic::new(VcpuId(0)));
        assert_eq!(shared.highest_pending(), None);
        shared.raise(0x31);
        shared.raise(0xf3);
        assert_eq!(shared.highest_pending(), Some(0xf3));
        shared.take(0xf3);
        assert_eq!(shared.highest_pending(), Some(0x31));
    }
}
