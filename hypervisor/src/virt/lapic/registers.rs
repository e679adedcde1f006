//! Which registers there are, what guests do not see of a local APIC, reset, and what the hardware is to do.

use super::base::{self, Mode};
use super::destination::Address;
use super::timer::Timer;
use crate::arch::apic_page::{ApicPage, DEFAULT_BASE, reg};
use crate::arch::{ApicMode, GuestCpu};
use crate::domain::vcpu::Request;
use crate::types::VcpuId;
use crate::virt::Running;

/// Version 0x14 with six LVT entries: what Xen says.
const VERSION: u32 = 0x0005_0014;
/// SVR: the APIC is enabled by software.
pub(super) const SVR_ENABLED: u32 = 1 << 8;
/// An LVT entry: no interrupts.
pub(super) const LVT_MASKED: u32 = 1 << 16;
/// An LVT entry: delivery status, which is read only.
const LVT_STATUS: u32 = 1 << 12;
/// LINT0 and LINT1: remote IRR, which is read only.
const LINT_REMOTE_IRR: u32 = 1 << 14;
/// The low half of ICR: vector, delivery and destination mode, level, trigger mode, shorthand.
pub(super) const ICR_BITS: u32 = 0x000c_cfff;
/// DFR: bits that read as one.
const DFR_ONES: u32 = 0x0fff_ffff;

/// The LVT entries.
const LVT: core::ops::RangeInclusive<u32> = reg::LVT_TIMER..=reg::LVT_ERROR;

/// A register that does not exist, or a value that it does not take: #GP from the MSR interface, ignored by the memory interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

/// Can the register at `offset` be read? The page holds its value, but that of PPR and of the timer's current count.
pub(super) fn readable(offset: u32, x2apic: bool) -> bool {
    match offset {
        reg::ISR..=reg::IRR_LAST => offset.is_multiple_of(16),
        reg::ID | reg::VERSION | reg::TPR | reg::PPR | reg::LDR | reg::SVR | reg::ESR | reg::ICR => true,
        reg::TIMER_INITIAL | reg::TIMER_CURRENT | reg::TIMER_DIVIDE => true,
        reg::APR | reg::EOI | reg::REMOTE_READ | reg::DFR | reg::ICR_HIGH => !x2apic,
        _ => LVT.contains(&offset) && offset.is_multiple_of(16),
    }
}

/// Which bits of the register at `offset` can be written; `None`: there is no such register, or it is read only.
pub(super) fn writable(offset: u32, x2apic: bool) -> Option<u32> {
    Some(match offset {
        reg::TPR => 0xff,
        // What is written to these does not matter, and in x2APIC mode must be 0.
        reg::EOI | reg::ESR => 0,
        reg::LDR if !x2apic => 0xff00_0000,
        reg::DFR if !x2apic => !DFR_ONES,
        reg::SVR => 0x3ff,
        reg::ICR => ICR_BITS,
        reg::ICR_HIGH if !x2apic => 0xff00_0000,
        reg::LVT_TIMER => 0x0007_00ff,
        reg::LVT_THERMAL | reg::LVT_PERFORMANCE => 0x0001_07ff,
        reg::LVT_LINT0 | reg::LVT_LINT1 => 0x0001_a7ff,
        reg::LVT_ERROR => 0x0001_00ff,
        reg::TIMER_INITIAL => u32::MAX,
        reg::TIMER_DIVIDE => 0xb,
        reg::SELF_IPI if x2apic => 0xff,
        _ => return None,
    })
}

/// Bits that a WRMSR may have set, though they are read only.
pub(super) fn ignored(offset: u32) -> u32 {
    match offset {
        reg::LVT_LINT0 | reg::LVT_LINT1 => LVT_STATUS | LINT_REMOTE_IRR,
        _ if LVT.contains(&offset) => LVT_STATUS,
        _ => 0,
    }
}

/// What the register at `offset` holds after a write of `value`, of which only writable bits are set.
pub(super) fn stored(offset: u32, value: u32) -> u32 {
    match offset {
        reg::DFR => value | DFR_ONES,
        _ => value,
    }
}

/// What guests do not see of a local APIC, and what follows from its registers.
#[derive(Debug)]
pub struct Lapic {
    id: u32,
    /// IA32_APIC_BASE.
    pub(super) base: u64,
    /// SVR says so.
    pub(super) enabled: bool,
    /// Errors since the last write to ESR.
    pub(super) errors: u32,
    pub(super) timer: Timer,
    /// What the hardware does of it.
    hardware: ApicMode,
}

impl Lapic {
    /// A local APIC after reset, in xAPIC mode, as PVH guests find it. `page` will hold its registers.
    pub fn new(vcpu: VcpuId, page: &ApicPage) -> Self {
        let bsp = if vcpu.0 == 0 { base::BSP } else { 0 };
        let mut lapic = Self {
            id: pvh::acpi::apic_id(vcpu.0),
            base: DEFAULT_BASE | base::ENABLED | bsp,
            enabled: false,
            errors: 0,
            timer: Timer::default(),
            hardware: ApicMode::Emulated,
        };
        lapic.reset(page);
        lapic
    }

    /// It was stopped for so many nanoseconds, of which its timer takes no notice.
    pub fn put_off_timer(&mut self, by: u64) {
        self.timer.put_off(by);
    }

    /// Registers as after INIT or a reset (SDM 3A, 11.4.7.1): all but IA32_APIC_BASE.
    pub(super) fn reset(&mut self, page: &ApicPage) {
        (self.enabled, self.errors, self.timer) = (false, 0, Timer::default());
        page.clear();
        page.set(reg::VERSION, VERSION);
        page.set(reg::DFR, u32::MAX);
        page.set(reg::SVR, 0xff);
        self.mask_lvt(page);
        self.name(page);
    }

    /// Mask all LVT entries, as they are while the APIC is disabled by software (SDM 3A, 11.4.7.2).
    pub(super) fn mask_lvt(&self, page: &ApicPage) {
        LVT.step_by(16)
            .for_each(|entry| page.set(entry, page.get(entry) | LVT_MASKED));
    }

    /// The registers that tell its name, which depends on the mode.
    pub(super) fn name(&self, page: &ApicPage) {
        if self.mode() == Mode::X2Apic {
            page.set(reg::ID, self.id);
            // SDM 3A, 11.12.10.2.
            page.set(reg::LDR, (self.id >> 4) << 16 | 1 << (self.id & 15));
        } else {
            page.set(reg::ID, self.id << 24);
        }
    }

    /// IA32_APIC_BASE.
    pub fn base_msr(&self) -> u64 {
        self.base
    }

    /// Is `gpa` in the page of the registers?
    pub fn owns(&self, gpa: crate::types::Gpa) -> bool {
        self.mode() == Mode::XApic && gpa.0 & !0xfff == self.base & base::ADDRESS
    }

    /// What IA32_APIC_BASE says.
    pub(super) fn mode(&self) -> Mode {
        Mode::of(self.base)
    }

    /// Does the CPU have it at all?
    pub fn exists(&self) -> bool {
        self.mode() != Mode::Disabled
    }

    pub(super) fn x2apic(&self) -> bool {
        self.mode() == Mode::X2Apic
    }

    /// What it answers to, by the registers in `page`.
    pub(super) fn address(&self, page: &ApicPage) -> Address {
        Address {
            id: self.id,
            logical: page.get(reg::LDR),
            x2apic: self.x2apic(),
            flat: page.get(reg::DFR) >> 28 == 0xf,
            present: self.mode() != Mode::Disabled,
            enabled: self.enabled,
        }
    }

    /// What the hardware can do of it now: nothing while it is disabled, when interrupts are held (SDM 3A, 11.4.7.2), nor where it is not looked for.
    fn wanted(&self) -> ApicMode {
        match self.mode() {
            _ if !self.enabled => ApicMode::Emulated,
            Mode::X2Apic => ApicMode::X2Apic,
            Mode::XApic if self.base & base::ADDRESS == DEFAULT_BASE => ApicMode::XApic,
            Mode::XApic | Mode::Disabled => ApicMode::Emulated,
        }
    }

    /// Does the hardware deliver interrupts, if it can?
    pub(super) fn by_hardware(&self) -> bool {
        self.hardware != ApicMode::Emulated
    }
}

/// Registers, base or mode have changed: tell senders what it answers to, and the hardware what to do.
pub(super) fn changed(running: &mut Running<'_, dyn GuestCpu>) {
    let lapic = &mut *running.lapic;
    let address = lapic.address(running.cpu.apic_page());
    running.vcpu.apic.publish(address);
    let wanted = lapic.wanted();
    if wanted != lapic.hardware {
        lapic.hardware = wanted;
        running.cpu.virtualize_apic(wanted);
        running.vcpu.defer(Request::INTERRUPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_that_exist() {
        for offset in (0..0x1000).step_by(16) {
            let xapic = matches!(
                offset,
                0x20 | 0x30 | 0x80..=0xf0 | 0x100..=0x280 | 0x300..=0x390 | 0x3e0
            );
            assert_eq!(readable(offset, false), xapic, "{offset:#x}");
            let x2apic = xapic && !matches!(offset, 0x90 | 0xb0 | 0xc0 | 0xe0 | 0x310);
            assert_eq!(readable(offset, true), x2apic, "{offset:#x}");
            let written = matches!(offset, 0x80 | 0xb0 | 0xf0 | 0x280 | 0x300 | 0x320..=0x380 | 0x3e0);
            let xapic = written || matches!(offset, 0xd0 | 0xe0 | 0x310);
            assert_eq!(writable(offset, false).is_some(), xapic, "{offset:#x}");
            let x2apic = written || offset == 0x3f0;
            assert_eq!(writable(offset, true).is_some(), x2apic, "{offset:#x}");
        }
    }

    #[test]
    fn reset_values() {
        let page = ApicPage::new();
        page.set(reg::TPR, 0x20);
        page.insert(reg::IRR, 0x40);
        let mut lapic = Lapic::new(VcpuId(9), &page);
        let nonzero: [(u32, u32); 10] = [
            (reg::ID, 18 << 24),
            (reg::VERSION, 0x5_0014),
            (reg::DFR, u32::MAX),
            (reg::SVR, 0xff),
            (reg::LVT_TIMER, 0x1_0000),
            (reg::LVT_THERMAL, 0x1_0000),
            (reg::LVT_PERFORMANCE, 0x1_0000),
            (reg::LVT_LINT0, 0x1_0000),
            (reg::LVT_LINT1, 0x1_0000),
            (reg::LVT_ERROR, 0x1_0000),
        ];
        let expect = |nonzero: &[(u32, u32)]| {
            for offset in (0..0x400).step_by(16) {
                let value = nonzero
                    .iter()
                    .find(|(at, _)| *at == offset)
                    .map_or(0, |&(_, value)| value);
                assert_eq!(page.get_wide(offset), value.into(), "{offset:#x}");
            }
        };
        expect(&nonzero);
        lapic.base |= base::X2APIC;
        lapic.reset(&page);
        let mut nonzero = nonzero.to_vec();
        nonzero[0].1 = 18;
        nonzero.push((reg::LDR, 1 << 16 | 1 << 2));
        expect(&nonzero);
    }
}
