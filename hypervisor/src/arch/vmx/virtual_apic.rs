//! The local APIC by hardware (SDM 3C chapter 30): which accesses and interrupts the guest has without an exit.
//!
//! With virtual-interrupt delivery the CPU moves interrupts from IRR to ISR in the virtual-APIC page and takes EOIs. It does not search the bitmaps
//! before it has to, but goes by the guest interrupt status: the highest vector in IRR (RVI) and in ISR (SVI).

use super::caps::VIRTUAL_APIC;
use super::controls::Secondary;
use super::field::{self, Field};
use super::msr_bitmap::Grants;
use super::vcpu::{Vcpu, Work};
use crate::arch::apic_page::{ApicPage, reg};
use crate::arch::{ApicMode, GuestCpu};

/// Which vectors' EOIs exit: those of TMR.
pub const EOI_EXIT_BITMAPS: [Field<u64>; 4] = [
    field::EOI_EXIT_BITMAP0,
    field::EOI_EXIT_BITMAP1,
    field::EOI_EXIT_BITMAP2,
    field::EOI_EXIT_BITMAP3,
];

/// What the VMCS says about the local APIC.
pub struct VirtualApic {
    mode: ApicMode,
    /// Secondary controls as the VMCS has them.
    secondary: Secondary,
    /// EOI-exit bitmap as the VMCS has it.
    eoi_exits: [u64; 4],
}

impl VirtualApic {
    /// Nothing is virtualized; `secondary` are the controls.
    pub fn new(secondary: Secondary) -> Self {
        Self {
            mode: ApicMode::Emulated,
            secondary,
            eoi_exits: [0; 4],
        }
    }
}

/// The secondary controls of `mode`, on a CPU that has them. Accesses to the APIC-access page may be there to virtualize in all modes but x2APIC, which
/// excludes them; without the other controls all but those of the task priority exit.
fn controls(mode: ApicMode) -> Secondary {
    let delivery = Secondary::APIC_REGISTERS.union(Secondary::INTERRUPT_DELIVERY);
    match mode {
        ApicMode::Emulated => Secondary::APIC_ACCESSES,
        ApicMode::XApic => Secondary::APIC_ACCESSES.union(delivery),
        ApicMode::X2Apic => Secondary::X2APIC_MODE.union(delivery),
    }
}

/// TMR, in four words.
fn levels(page: &ApicPage) -> [u64; 4] {
    core::array::from_fn(|index| {
        let word = |half: u32| u64::from(page.get(reg::TMR + index as u32 * 32 + half * 16));
        word(1) << 32 | word(0)
    })
}

impl Vcpu {
    pub(super) fn set_apic_mode(&mut self, mode: ApicMode) {
        if !self.host.caps.virtual_apic || mode == self.virtual_apic.mode {
            return;
        }
        let secondary = self.virtual_apic.secondary.difference(VIRTUAL_APIC) | controls(mode);
        (self.virtual_apic.mode, self.virtual_apic.secondary) = (mode, secondary);
        self.with(|vmcs| vmcs.set(field::SECONDARY_CONTROLS, secondary.bits()));
        self.grant(Grants::X2APIC, mode == ApicMode::X2Apic);
        self.request_priority_window(None);
        // Translations of the APIC-access page were made for the mode before (SDM 3C 30.4.5).
        self.world.work |= Work::FLUSH_NESTED | Work::FLUSH_LINEAR;
    }

    /// See [`GuestCpu::interrupts_changed`].
    pub(super) fn tell_interrupts(&mut self) -> bool {
        if self.virtual_apic.mode == ApicMode::Emulated {
            return false;
        }
        let highest = |bitmap| u16::from(self.apic_page.highest(bitmap).unwrap_or(0));
        let (requested, serviced) = (highest(reg::IRR), highest(reg::ISR));
        let (levels, before) = (levels(&self.apic_page), self.virtual_apic.eoi_exits);
        self.with(|vmcs| {
            vmcs.set(field::GUEST_INTERRUPT_STATUS, serviced << 8 | requested);
            for (index, bitmap) in EOI_EXIT_BITMAPS.into_iter().enumerate() {
                if levels[index] != before[index] {
                    vmcs.set(bitmap, levels[index]);
                }
            }
        });
        self.virtual_apic.eoi_exits = levels;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        for mode in [ApicMode::Emulated, ApicMode::XApic, ApicMode::X2Apic] {
            let controls = controls(mode);
            assert!(VIRTUAL_APIC.contains(controls));
            // A VM entry demands both (SDM 3C 27.2.1.1).
            assert!(!controls.contains(Secondary::APIC_ACCESSES | Secondary::X2APIC_MODE));
            assert_eq!(
                controls.contains(Secondary::APIC_REGISTERS),
                controls.contains(Secondary::INTERRUPT_DELIVERY)
            );
        }
    }

    #[test]
    fn levels_are_tmr() {
        let page = ApicPage::new();
        for vector in [0x20, 0x3f, 0x40, 0xff] {
            page.insert(reg::TMR, vector);
        }
        page.insert(reg::IRR, 0x80);
        assert_eq!(levels(&page), [1 << 0x20 | 1 << 0x3f, 1, 0, 1 << 63]);
    }
}
