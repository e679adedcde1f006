//! IA32_APIC_BASE: off, xAPIC and x2APIC (SDM 3A, 11.4.4 and 11.12.5).

use super::access_page;
use super::registers::{Refused, changed};
use super::timer::disarm;
use crate::arch::apic_page::reg;
use crate::arch::{GuestCpu, SysReg};
use crate::virt::Running;

/// This is the bootstrap processor.
pub(super) const BSP: u64 = 1 << 8;
/// x2APIC mode.
pub(super) const X2APIC: u64 = 1 << 10;
/// There is an APIC.
pub(super) const ENABLED: u64 = 1 << 11;
/// Where the xAPIC's page is.
pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What bits 10 and 11 say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// As if the CPU had no local APIC.
    Disabled,
    /// Registers in memory.
    XApic,
    /// Registers by MSRs.
    X2Apic,
}

impl Mode {
    /// The mode in a valid value of IA32_APIC_BASE.
    pub(super) fn of(base: u64) -> Mode {
        match (base & ENABLED != 0, base & X2APIC != 0) {
            (false, _) => Mode::Disabled,
            (true, false) => Mode::XApic,
            (true, true) => Mode::X2Apic,
        }
    }
}

/// The mode after a write of `new` where it was `old`, for a CPU with so many bits of physical address.
///
/// # Errors
/// Reserved bits are set, or there is no such transition: x2APIC mode is entered from xAPIC mode and left only by disabling.
fn transition(old: u64, new: u64, address_bits: u32) -> Result<Mode, Refused> {
    let address = ADDRESS & ((1 << address_bits) - 1);
    if new & !(address | ENABLED | X2APIC | BSP) != 0 || new & (ENABLED | X2APIC) == X2APIC {
        return Err(Refused);
    }
    match (Mode::of(old), Mode::of(new)) {
        (Mode::Disabled, Mode::X2Apic) | (Mode::X2Apic, Mode::XApic) => Err(Refused),
        (_, mode) => Ok(mode),
    }
}

/// WRMSR of IA32_APIC_BASE.
///
/// # Errors
/// A transition that does not exist, or reserved bits.
pub fn write(running: &mut Running<'_, dyn GuestCpu>, value: u64) -> Result<(), Refused> {
    let old = running.lapic.base;
    let mode = transition(old, value, running.domain.config.address_bits)?;
    let new = value & !BSP | old & BSP;
    if new == old {
        return Ok(());
    }
    // While the hardware still looks for accesses there.
    access_page::leave(running.domain);
    let (lapic, page) = (&mut *running.lapic, running.cpu.apic_page());
    lapic.base = new;
    match (Mode::of(old), mode) {
        (Mode::XApic, Mode::X2Apic) => {
            page.set(reg::ICR_HIGH, 0);
            page.set_wide(reg::ICR, 0);
            lapic.name(page);
        }
        // It comes back as after a reset (11.4.3), and until then it has nothing.
        (_, Mode::Disabled) => {
            lapic.reset(page);
            // The task priority is there, too, where the hardware keeps it apart from the page.
            running.cpu.write(SysReg::Cr8, 0);
            running.vcpu.apic.clear();
            disarm(running);
        }
        _ => {}
    }
    changed(running);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn transitions() {
        const OFF: u64 = 0xfee0_0000;
        const XAPIC: u64 = OFF | ENABLED;
        const X2: u64 = XAPIC | X2APIC;
        let allowed = |old, new| transition(old, new, 40).is_ok();
        for (old, to) in [
            (OFF, [true, true, false]),
            (XAPIC, [true, true, true]),
            (X2, [true, false, true]),
        ] {
            assert_eq!([OFF, XAPIC, X2].map(|new| allowed(old, new)), to, "{old:#x}");
            assert!(!allowed(old, OFF | X2APIC), "x2APIC of no APIC");
            assert!(!allowed(old, old | 1) && !allowed(old, old | 1 << 9) && !allowed(old, old | 1 << 40));
            assert!(allowed(old, old ^ 1 << 39) && allowed(old, old ^ BSP));
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_has_no_reserved_bit(old in 0u64..4, new: u64, bits in 32u32..53) {
            if transition(old << 10 & !(1 << 10), new, bits).is_ok() {
                prop_assert_eq!(new & !(ENABLED | X2APIC | BSP) & 0xfff, 0);
                prop_assert_eq!(new >> bits, 0);
            }
        }
    }
}
