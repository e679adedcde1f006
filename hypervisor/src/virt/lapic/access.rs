//! Loads, stores, RDMSR and WRMSR.

use core::sync::atomic::Ordering::SeqCst;

use super::deliver::{end_of_interrupt, raise, take_priority};
use super::icr::send_ipi;
use super::registers::{LVT_MASKED, LVT_WRITABLE, Refused, SVR_ENABLED, TIMER_MODE, base, reg};
use super::timer::{divide_timer, set_deadline, start_timer};
use crate::arch::{GuestCpu, SysReg};
use crate::domain::vcpu::{NEVER, Request};
use crate::hw;
use crate::virt::Running;

/// A read from the page of registers.
pub fn mmio_read(running: &mut Running<'_, dyn GuestCpu>, offset: u32) -> u32 {
    take_priority(running);
    running
        .lapic
        .read(offset & !0xf, &running.vcpu.apic, hw::time::now_ns())
        .unwrap_or(0)
}

/// A write to the page of registers; what does not exist ignores it.
pub fn mmio_write(running: &mut Running<'_, dyn GuestCpu>, offset: u32, value: u32) {
    let _ = write(running, offset & !0xf, value);
}

/// RDMSR of IA32_APIC_BASE's neighbours 0x800..0x900.
///
/// # Errors
/// Not in x2APIC mode, or no such register.
pub fn rdmsr(running: &mut Running<'_, dyn GuestCpu>, msr: u32) -> Result<u64, Refused> {
    let offset = (msr - 0x800) * 16;
    if !running.lapic.x2apic() || matches!(offset, reg::EOI | reg::SELF_IPI | reg::DFR | reg::ICR_HIGH) {
        return Err(Refused);
    }
    if offset == reg::ICR {
        return Ok(running.lapic.icr);
    }
    take_priority(running);
    running
        .lapic
        .read(offset, &running.vcpu.apic, hw::time::now_ns())
        .map(u64::from)
}

/// WRMSR of 0x800..0x900.
///
/// # Errors
/// Not in x2APIC mode, no such register, read-only, or reserved bits set.
pub fn wrmsr(running: &mut Running<'_, dyn GuestCpu>, msr: u32, value: u64) -> Result<(), Refused> {
    let offset = (msr - 0x800) * 16;
    if !running.lapic.x2apic() {
        return Err(Refused);
    }
    if offset == reg::ICR {
        return send_ipi(running, value, (value >> 32) as u32);
    }
    let low = u32::try_from(value).map_err(|_| Refused)?;
    match offset {
        reg::ID | reg::LDR | reg::DFR | reg::ICR_HIGH => Err(Refused),
        reg::EOI | reg::ESR if low != 0 => Err(Refused),
        reg::SELF_IPI => {
            raise(running.vcpu, low as u8);
            Ok(())
        }
        _ => write(running, offset, low),
    }
}

/// WRMSR of IA32_APIC_BASE.
///
/// # Errors
/// A transition that SDM 3A, 11.12.5 forbids, or reserved bits.
pub fn write_base(running: &mut Running<'_, dyn GuestCpu>, value: u64) -> Result<(), Refused> {
    let lapic = &mut *running.lapic;
    let mode = base::ENABLED | base::X2APIC;
    if value & !(base::ADDRESS | mode | base::BSP) != 0 || value & mode == base::X2APIC {
        return Err(Refused);
    }
    let (old, new) = (lapic.base & mode, value & mode);
    if (old == mode && new == base::ENABLED) || (old == 0 && new == mode) {
        return Err(Refused);
    }
    lapic.base = value & !base::BSP | lapic.base & base::BSP;
    if old != mode && new == mode {
        lapic.ldr = lapic.x2apic_ldr();
    }
    running.vcpu.apic.address.store(lapic.address().pack(), SeqCst);
    Ok(())
}

fn write(running: &mut Running<'_, dyn GuestCpu>, offset: u32, value: u32) -> Result<(), Refused> {
    let lapic = &mut *running.lapic;
    match offset {
        reg::TPR => {
            lapic.tpr = value & 0xff;
            running.cpu.write(SysReg::Cr8, u64::from(lapic.tpr >> 4));
            running.vcpu.request(Request::INTERRUPT);
        }
        reg::EOI => end_of_interrupt(running),
        reg::LDR => {
            lapic.ldr = value & 0xff00_0000;
            publish(running);
        }
        reg::DFR => {
            lapic.dfr = value | 0x0fff_ffff;
            publish(running);
        }
        reg::SVR => {
            let was_enabled = lapic.svr & SVR_ENABLED != 0;
            lapic.svr = value & 0x1ff;
            if value & SVR_ENABLED == 0 {
                lapic.lvt.iter_mut().for_each(|entry| *entry |= LVT_MASKED);
            } else if !was_enabled {
                // What came while it was off, upcalls among it, has been kept (SDM 3A, 11.4.7.2).
                running.vcpu.request(Request::INTERRUPT);
            }
        }
        reg::ESR => lapic.esr = 0,
        reg::ICR => {
            let destination = (lapic.icr >> 56) as u32;
            let command = lapic.icr & !0xffff_ffff | u64::from(value);
            return send_ipi(running, command, destination);
        }
        reg::ICR_HIGH => lapic.icr = lapic.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32,
        reg::LVT_TIMER..=reg::LVT_ERROR => {
            write_lvt(running, ((offset - reg::LVT_TIMER) / 16) as usize, value)
        }
        reg::TIMER_INITIAL => {
            lapic.timer_initial = value;
            start_timer(running);
        }
        reg::TIMER_DIVIDE => divide_timer(running, value & 0xb),
        _ => return Err(Refused),
    }
    Ok(())
}

pub(super) fn publish(running: &mut Running<'_, dyn GuestCpu>) {
    running
        .vcpu
        .apic
        .address
        .store(running.lapic.address().pack(), SeqCst);
}

fn write_lvt(running: &mut Running<'_, dyn GuestCpu>, index: usize, value: u32) {
    let lapic = &mut *running.lapic;
    let mut entry = value & LVT_WRITABLE[index];
    if lapic.svr & SVR_ENABLED == 0 {
        entry |= LVT_MASKED;
    }
    let mode_changed = index == 0 && (entry ^ lapic.lvt[0]) & TIMER_MODE != 0;
    lapic.lvt[index] = entry;
    if mode_changed {
        // SDM 3A, 11.5.4.1: switching to or from TSC-deadline disarms the timer.
        lapic.timer_initial = 0;
        lapic.tsc_deadline = 0;
        set_deadline(running.vcpu, NEVER);
    }
}
