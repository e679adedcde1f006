//! Which CPUs share a core, and which a socket: parts of their APIC ids (SDM 3A, 9.9.3; APM vol. 3, CPUID Fn0000_000B, Fn8000_001E).

use raw_cpuid::{CpuId, TopologyType};

use crate::sync::Once;

/// How many of an APIC id's low bits tell a core's threads, and a socket's threads, apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Bits {
    thread: u32,
    socket: u32,
}

impl Bits {
    /// From the levels of CPUID leaf 0BH: what each is, and the bits below the next.
    fn of_levels(levels: impl Iterator<Item = (TopologyType, u32)>) -> Option<Self> {
        levels.fold(None, |bits: Option<Self>, (level, shift)| {
            let thread = match level {
                TopologyType::SMT => shift,
                _ => bits.map_or(0, |bits| bits.thread),
            };
            let socket = shift.max(bits.map_or(0, |bits| bits.socket));
            Some(Self { thread, socket })
        })
    }

    /// Of this machine: the same for all its CPUs.
    fn of_machine() -> Self {
        let cpuid = CpuId::new();
        let levels = cpuid.get_extended_topology_info().into_iter().flatten();
        let levels = levels.map(|level| (level.level_type(), level.shift_right_for_next_apic_id()));
        Self::of_levels(levels).unwrap_or_else(|| {
            let threads = cpuid
                .get_processor_topology_info()
                .map_or(1, |info| info.threads_per_core());
            let size = cpuid.get_processor_capacity_feature_info();
            let thread = u32::from(threads).next_power_of_two().trailing_zeros();
            Self {
                thread,
                socket: size.map_or(0, |info| info.apic_id_size().into()).max(thread),
            }
        })
    }
}

fn bits() -> Bits {
    static BITS: Once<Bits> = Once::new();
    *BITS.call_once(Bits::of_machine)
}

/// The core of the CPU with this APIC id, by a number that no other core of the machine has.
pub fn core(apic_id: u32) -> u32 {
    apic_id.checked_shr(bits().thread).unwrap_or(0)
}

/// Its socket.
pub fn socket(apic_id: u32) -> u32 {
    apic_id.checked_shr(bits().socket).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_say_how_many_bits_each_has() {
        let two = [(TopologyType::SMT, 1), (TopologyType::Core, 4)];
        assert_eq!(
            Bits::of_levels(two.into_iter()),
            Some(Bits { thread: 1, socket: 4 })
        );
        let dies = [
            (TopologyType::SMT, 0),
            (TopologyType::Core, 3),
            (TopologyType::Die, 5),
        ];
        assert_eq!(
            Bits::of_levels(dies.into_iter()),
            Some(Bits { thread: 0, socket: 5 })
        );
        assert_eq!(Bits::of_levels(core::iter::empty()), None);
    }

    #[test]
    fn who_shares_a_core_shares_a_socket() {
        for (one, other) in (0..64).flat_map(|one| (0..64).map(move |other| (one, other))) {
            assert!(
                core(one) != core(other) || socket(one) == socket(other),
                "{one} {other}"
            );
        }
    }
}
