//! What a message's destination matches (SDM 3A, 11.6.2 and 11.12.9).

/// What a local APIC answers to as a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Address {
    pub(super) id: u32,
    pub(super) logical: u32,
    pub(super) x2apic: bool,
    /// DFR says flat, not cluster, model (xAPIC only).
    pub(super) flat: bool,
}

impl Address {
    pub(super) fn pack(self) -> u64 {
        u64::from(self.logical)
            | u64::from(self.id & 0x3fff_ffff) << 32
            | u64::from(self.x2apic) << 62
            | u64::from(self.flat) << 63
    }

    pub(super) fn unpack(word: u64) -> Self {
        Self {
            id: (word >> 32) as u32 & 0x3fff_ffff,
            logical: word as u32,
            x2apic: word & 1 << 62 != 0,
            flat: word & 1 << 63 != 0,
        }
    }

    /// SDM 3A, 11.6.2 and 11.12.9.
    pub(super) fn matches(self, destination: u32, logical: bool) -> bool {
        let broadcast = if self.x2apic { u32::MAX } else { 0xff };
        match (logical, self.x2apic) {
            _ if destination == broadcast => true,
            (false, _) => destination == self.id,
            (true, true) => {
                self.logical >> 16 == destination >> 16 && self.logical & destination & 0xffff != 0
            }
            (true, false) if self.flat => (self.logical >> 24) & destination & 0xff != 0,
            (true, false) => {
                let own = self.logical >> 24;
                own >> 4 == (destination >> 4) & 15 && own & destination & 15 != 0
            }
        }
    }
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
        };
        assert!(flat.matches(4, false) && !flat.matches(5, false) && flat.matches(0xff, false));
        assert!(flat.matches(0x06, true) && !flat.matches(0x03, true));
        let cluster = Address {
            flat: false,
            logical: 0x2400_0000,
            ..flat
        };
        assert!(cluster.matches(0x2c, true) && !cluster.matches(0x14, true) && !cluster.matches(0x23, true));
        let x2apic = Address {
            id: 18,
            logical: 1 << 16 | 1 << 2,
            x2apic: true,
            flat: true,
        };
        assert!(
            x2apic.matches(0x1_0006, true) && !x2apic.matches(0x2_0004, true) && !x2apic.matches(0xff, false)
        );
        assert!(x2apic.matches(u32::MAX, false) && x2apic.matches(18, false));
        assert_eq!(Address::unpack(x2apic.pack()), x2apic);
        assert_eq!(Address::unpack(cluster.pack()), cluster);
    }
}
