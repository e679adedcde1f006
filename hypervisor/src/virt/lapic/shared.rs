//! What other CPUs write.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use super::arrivals::{Arrivals, Trigger};
use super::destination::Address;
use super::registers::Lapic;
use crate::arch::apic_page::ApicPage;

/// The part of a local APIC that others write.
#[derive(Debug)]
pub struct SharedLapic {
    arrivals: Arrivals,
    /// INIT or a start-up message waits: see `icr`.
    pub(super) startup: AtomicU32,
    /// See [`Address::pack`].
    address: AtomicU64,
}

impl SharedLapic {
    /// The shared part of `own`, to which nothing has come yet.
    pub fn new(own: &Lapic, page: &ApicPage) -> Self {
        Self {
            arrivals: Arrivals::default(),
            startup: AtomicU32::new(0),
            address: AtomicU64::new(own.address(page).pack()),
        }
    }

    /// An interrupt of `vector` arrives, unless the APIC is disabled: then it is lost. `true`: the caller makes the vCPU look, by
    /// [`Request::INTERRUPT`](crate::domain::vcpu::Request::INTERRUPT).
    #[inline]
    #[must_use]
    pub fn raise(&self, vector: u8, trigger: Trigger) -> bool {
        if !self.accepts() {
            return false;
        }
        self.arrivals.add(vector, trigger);
        true
    }

    /// Is it enabled, by hardware and software?
    #[inline]
    pub fn accepts(&self) -> bool {
        self.address.load(SeqCst) & Address::ENABLED != 0
    }

    /// Is it meant by `destination`?
    pub fn answers_to(&self, destination: u32, logical: bool) -> bool {
        self.address().matches(destination, logical)
    }

    /// Is there an APIC?
    pub(super) fn is_present(&self) -> bool {
        self.address().present
    }

    fn address(&self) -> Address {
        Address::unpack(self.address.load(SeqCst))
    }

    /// What it answers to from now on. For the owner.
    pub(super) fn publish(&self, address: Address) {
        self.address.store(address.pack(), SeqCst);
    }

    /// Forget what has arrived. For the owner.
    pub(super) fn clear(&self) {
        self.arrivals.clear();
    }

    /// See [`Arrivals::accept`]. For the owner.
    pub(super) fn accept(&self, page: &ApicPage) -> bool {
        self.arrivals.accept(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::apic_page::reg;
    use crate::types::VcpuId;

    #[test]
    fn from_arrival_to_irr() {
        let page = ApicPage::new();
        let mut own = Lapic::new(VcpuId(0), &page);
        let shared = SharedLapic::new(&own, &page);
        assert!(!shared.raise(0x31, Trigger::Edge));
        assert!(
            !shared.accept(&page) && page.highest(reg::IRR).is_none(),
            "it is disabled"
        );
        own.enabled = true;
        shared.publish(own.address(&page));
        assert!(shared.raise(0x31, Trigger::Edge));
        assert!(shared.raise(0xf3, Trigger::Level));
        assert_eq!(page.highest(reg::IRR), None, "the owner has not looked yet");
        assert!(!shared.accept(&page));
        assert!(page.contains(reg::IRR, 0x31) && page.contains(reg::IRR, 0xf3));
        assert_eq!(page.highest(reg::TMR), Some(0xf3));
        assert!(!page.contains(reg::TMR, 0x31));
        assert!(shared.raise(0xf3, Trigger::Edge));
        assert!(!shared.accept(&page));
        assert_eq!(page.highest(reg::TMR), None, "an edge by now");
        assert!(shared.raise(15, Trigger::Edge));
        assert!(shared.accept(&page));
        assert!(!page.contains(reg::IRR, 15) && !shared.accept(&page));
        assert!(shared.raise(0x44, Trigger::Level));
        shared.clear();
        assert!(!shared.accept(&page) && !page.contains(reg::IRR, 0x44));
    }
}
