//! What a message's destination matches (SDM 3A, 11.6.2 and 11.12.9).

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use crate::domain::Domain;
use crate::domain::vcpu::Vcpu;

/// What a local APIC answers to as a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Address {
    pub(super) id: u32,
    pub(super) logical: u32,
    pub(super) x2apic: bool,
    /// DFR says flat, not cluster, model (xAPIC only).
    pub(super) flat: bool,
    /// IA32_APIC_BASE says that there is an APIC.
    pub(super) present: bool,
    /// It is there, and SVR says that it takes interrupts.
    pub(super) enabled: bool,
}

impl Address {
    const ID_BITS: u32 = 28;
    /// Where a packed address says [`Address::enabled`].
    pub(super) const ENABLED: u64 = 1 << 61;

    pub(super) fn pack(self) -> u64 {
        let flag = |on: bool, bit: u32| u64::from(on) << bit;
        u64::from(self.logical)
            | u64::from(self.id & ((1 << Self::ID_BITS) - 1)) << 32
            | flag(self.present, 60)
            | if self.enabled { Self::ENABLED } else { 0 }
            | flag(self.x2apic, 62)
            | flag(self.flat, 63)
    }

    pub(super) fn unpack(word: u64) -> Self {
        let flag = |bit: u32| word & 1 << bit != 0;
        Self {
            id: (word >> 32) as u32 & ((1 << Self::ID_BITS) - 1),
            logical: word as u32,
            present: flag(60),
            enabled: word & Self::ENABLED != 0,
            x2apic: flag(62),
            flat: flag(63),
        }
    }

    /// Is it meant by `destination`?
    pub(super) fn matches(self, destination: u32, logical: bool) -> bool {
        // All bits of the sender's width are a broadcast; only an xAPIC's logical ones go by the bits.
        let broadcast = destination == u32::MAX || destination == 0xff && !logical && !self.x2apic;
        let own = self.logical >> 24;
        self.present
            && match (logical, self.x2apic) {
                _ if broadcast => true,
                (false, _) => destination == self.id,
                (true, true) => {
                    self.logical >> 16 == destination >> 16 && self.logical & destination & 0xffff != 0
                }
                (true, false) if self.flat => own & destination & 0xff != 0,
                (true, false) => {
                    let cluster = destination >> 4 & 15;
                    (cluster == 15 || cluster == own >> 4) && own & destination & 15 != 0
                }
            }
    }
}

/// Who takes a message of lowest priority to `destination` (SDM 3A, 11.6.2.4): those that it matches and that take interrupts have their turns. (The
/// priorities of other CPUs are not known, as they change without exits.)
pub(in crate::virt) fn lowest_priority(
    domain: &Domain,
    destination: u32,
    logical: bool,
) -> Option<&Arc<Vcpu>> {
    let vcpus = domain.vcpus();
    let turn = domain.lowest_priority.load(Relaxed) as usize % vcpus.len().max(1);
    let (before, after) = vcpus.split_at_checked(turn)?;
    let taker = after
        .iter()
        .chain(before)
        .find(|vcpu| vcpu.apic.accepts() && vcpu.apic.answers_to(destination, logical))?;
    domain.lowest_priority.store(taker.id.0.wrapping_add(1), Relaxed);
    Some(taker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        let flat = Address {
            id: 4,
            logical: 0x0400_0000,
            x2apic: false,
            flat: true,
            present: true,
            enabled: false,
        };
        assert!(flat.matches(4, false) && !flat.matches(5, false) && flat.matches(0xff, false));
        assert!(flat.matches(0x06, true) && !flat.matches(0x03, true) && flat.matches(0xff, true));
        let nameless = Address { logical: 0, ..flat };
        assert!(
            !nameless.matches(0xff, true),
            "a logical broadcast goes by the bits"
        );
        let cluster = Address {
            flat: false,
            logical: 0x2400_0000,
            ..flat
        };
        assert!(cluster.matches(0x2c, true) && !cluster.matches(0x14, true) && !cluster.matches(0x23, true));
        assert!(cluster.matches(0xff, true) && cluster.matches(0xf4, true) && !cluster.matches(0xf3, true));
        let x2apic = Address {
            id: 18,
            logical: 1 << 16 | 1 << 2,
            x2apic: true,
            ..flat
        };
        assert!(
            x2apic.matches(0x1_0006, true) && !x2apic.matches(0x2_0004, true) && !x2apic.matches(0xff, false)
        );
        assert!(
            x2apic.matches(u32::MAX, false) && x2apic.matches(u32::MAX, true) && x2apic.matches(18, false)
        );
        let absent = Address {
            present: false,
            ..x2apic
        };
        assert!(!absent.matches(u32::MAX, false) && !absent.matches(18, false));
        for address in [flat, cluster, x2apic, absent] {
            assert_eq!(Address::unpack(address.pack()), address);
        }
    }
}
