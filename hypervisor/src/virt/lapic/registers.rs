//! The registers that only the vCPU's own CPU touches, and what follows from them.

use core::sync::atomic::Ordering::SeqCst;

use super::DEFAULT_BASE;
use super::destination::Address;
use super::shared::SharedLapic;
use crate::types::VcpuId;

/// Register offsets of the xAPIC's page; an x2APIC's MSR is 0x800 + offset / 16.
pub(super) mod reg {
    pub const ID: u32 = 0x20;
    pub const VERSION: u32 = 0x30;
    pub const TPR: u32 = 0x80;
    pub const PPR: u32 = 0xa0;
    pub const EOI: u32 = 0xb0;
    pub const LDR: u32 = 0xd0;
    pub const DFR: u32 = 0xe0;
    pub const SVR: u32 = 0xf0;
    pub const ISR: u32 = 0x100;
    pub const TMR: u32 = 0x180;
    pub const IRR: u32 = 0x200;
    pub const ESR: u32 = 0x280;
    pub const ICR: u32 = 0x300;
    pub const ICR_HIGH: u32 = 0x310;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_ERROR: u32 = 0x370;
    pub const TIMER_INITIAL: u32 = 0x380;
    pub const TIMER_CURRENT: u32 = 0x390;
    pub const TIMER_DIVIDE: u32 = 0x3e0;
    pub const SELF_IPI: u32 = 0x3f0;
}

/// Version 0x14 with six LVT entries: what Xen says.
pub(super) const VERSION: u32 = 0x0005_0014;
pub(super) const SVR_ENABLED: u32 = 1 << 8;
pub(super) const LVT_MASKED: u32 = 1 << 16;
pub(super) const LVT_COUNT: usize = 6;
/// Bits of each LVT entry that can be written: timer, thermal, performance, LINT0, LINT1, error.
pub(super) const LVT_WRITABLE: [u32; LVT_COUNT] = [
    0x0007_00ff,
    0x0001_07ff,
    0x0001_07ff,
    0x0001_a7ff,
    0x0001_a7ff,
    0x0001_00ff,
];
pub(super) const TIMER_MODE: u32 = 3 << 17;
pub(super) const TIMER_PERIODIC: u32 = 1 << 17;
pub(super) const TIMER_TSC_DEADLINE: u32 = 2 << 17;

/// IA32_APIC_BASE.
pub(super) mod base {
    pub const BSP: u64 = 1 << 8;
    pub const X2APIC: u64 = 1 << 10;
    pub const ENABLED: u64 = 1 << 11;
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}

/// The part of a local APIC that its own vCPU works with.
#[derive(Debug)]
pub struct Lapic {
    pub(super) id: u32,
    pub(super) base: u64,
    pub(super) tpr: u32,
    pub(super) svr: u32,
    pub(super) ldr: u32,
    pub(super) dfr: u32,
    pub(super) isr: [u32; 8],
    pub(super) esr: u32,
    pub(super) icr: u64,
    pub(super) lvt: [u32; LVT_COUNT],
    pub(super) timer_initial: u32,
    pub(super) timer_divide: u32,
    /// System time at which the timer was started, in nanoseconds.
    pub(super) timer_start: u64,
    /// IA32_TSC_DEADLINE, in the guest's TSC.
    pub(super) tsc_deadline: u64,
}

/// A register that does not exist, or a value that it does not take: #GP from the MSR interface, ignored by the memory interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

impl Lapic {
    /// A local APIC after reset, enabled in xAPIC mode, as PVH guests find it.
    pub fn new(vcpu: VcpuId) -> Self {
        let bsp = if vcpu.0 == 0 { base::BSP } else { 0 };
        Self {
            id: pvh::acpi::apic_id(vcpu.0),
            base: DEFAULT_BASE | base::ENABLED | bsp,
            tpr: 0,
            svr: 0xff,
            ldr: 0,
            dfr: u32::MAX,
            isr: [0; 8],
            esr: 0,
            icr: 0,
            lvt: [LVT_MASKED; LVT_COUNT],
            timer_initial: 0,
            timer_divide: 0,
            timer_start: 0,
            tsc_deadline: 0,
        }
    }

    /// IA32_APIC_BASE.
    pub fn base_msr(&self) -> u64 {
        self.base
    }

    /// Is `gpa` in the page of the registers?
    pub fn owns(&self, gpa: crate::types::Gpa) -> bool {
        self.base & (base::ENABLED | base::X2APIC) == base::ENABLED
            && gpa.0 & !0xfff == self.base & base::ADDRESS
    }

    pub(super) fn x2apic(&self) -> bool {
        self.base & base::X2APIC != 0
    }

    /// SDM 3A, 11.12.10.2.
    pub(super) fn x2apic_ldr(&self) -> u32 {
        (self.id >> 4) << 16 | 1 << (self.id & 15)
    }

    pub(super) fn accepts(&self) -> bool {
        self.base & base::ENABLED != 0 && self.svr & SVR_ENABLED != 0
    }

    pub(super) fn highest_in_service(&self) -> u32 {
        (0..8)
            .rev()
            .find_map(|word| {
                (self.isr[word] != 0).then(|| word as u32 * 32 + 31 - self.isr[word].leading_zeros())
            })
            .unwrap_or(0)
    }

    /// SDM 3A, 11.8.3.1.
    pub(super) fn ppr(&self) -> u32 {
        let serviced = self.highest_in_service();
        if self.tpr >> 4 >= serviced >> 4 {
            self.tpr
        } else {
            serviced & 0xf0
        }
    }

    pub(super) fn address(&self) -> Address {
        Address {
            id: self.id,
            logical: self.ldr,
            x2apic: self.x2apic(),
            flat: self.dfr >> 28 == 0xf,
        }
    }

    pub(super) fn read(&self, offset: u32, shared: &SharedLapic, now: u64) -> Result<u32, Refused> {
        let x2apic = self.x2apic();
        Ok(match offset {
            reg::ID if x2apic => self.id,
            reg::ID => self.id << 24,
            reg::VERSION => VERSION,
            reg::TPR => self.tpr,
            reg::PPR => self.ppr(),
            reg::LDR => self.ldr,
            reg::DFR if !x2apic => self.dfr,
            reg::SVR => self.svr,
            reg::ISR..reg::TMR => self.isr[word(offset)],
            reg::TMR..reg::IRR => shared.tmr[word(offset)].load(SeqCst),
            reg::IRR..reg::ESR => shared.irr[word(offset)].load(SeqCst),
            reg::ESR => self.esr,
            reg::ICR => self.icr as u32,
            reg::ICR_HIGH if !x2apic => (self.icr >> 32) as u32,
            reg::LVT_TIMER..=reg::LVT_ERROR => self.lvt[((offset - reg::LVT_TIMER) / 16) as usize],
            reg::TIMER_INITIAL => self.timer_initial,
            reg::TIMER_CURRENT => self.current_count(now),
            reg::TIMER_DIVIDE => self.timer_divide,
            _ => return Err(Refused),
        })
    }
}

fn word(offset: u32) -> usize {
    (offset / 16 % 8) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities() {
        let mut lapic = Lapic::new(VcpuId(1));
        assert_eq!(lapic.id, 2);
        lapic.isr[0x55 / 32] |= 1 << (0x55 % 32);
        assert_eq!(lapic.ppr(), 0x50);
        lapic.tpr = 0x61;
        assert_eq!(lapic.ppr(), 0x61);
    }

    #[test]
    fn unknown_registers_are_refused() {
        let lapic = Lapic::new(VcpuId(0));
        let shared = SharedLapic::new(&Lapic::new(VcpuId(0)));
        for offset in (0..0x1000).step_by(16) {
            let known = lapic.read(offset, &shared, 0).is_ok();
            assert_eq!(
                known,
                matches!(offset, 0x20 | 0x30 | 0x80 | 0xa0 | 0xd0..=0xf0 | 0x100..=0x280 | 0x300..=0x390 | 0x3e0),
                "{offset:#x}"
            );
        }
    }
}
