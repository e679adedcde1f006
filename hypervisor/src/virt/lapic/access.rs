//! Loads, stores, RDMSR and WRMSR.

use super::deliver::{ILLEGAL_REGISTER, accept, end_of_interrupt, error, renew_upcall};
use super::icr::{SELF, send_ipi};
use super::registers::{LVT_MASKED, Refused, SVR_ENABLED, changed, ignored, readable, stored, writable};
use super::timer::{divide_timer, set_mode, start_timer};
use crate::arch::apic_page::reg;
use crate::arch::{GuestCpu, SysReg};
use crate::domain::vcpu::Request;
use crate::hw;
use crate::virt::Running;

/// A load from the page of registers.
pub fn mmio_read(running: &mut Running<'_, dyn GuestCpu>, offset: u32) -> u32 {
    read(running, offset & !0xf).unwrap_or_else(|Refused| {
        error(running, ILLEGAL_REGISTER);
        0
    }) as u32
}

/// A store to the page of registers.
pub fn mmio_write(running: &mut Running<'_, dyn GuestCpu>, offset: u32, value: u32) {
    let (offset, x2apic) = (offset & !0xf, running.lapic.x2apic());
    match writable(offset, x2apic) {
        Some(bits) => write(running, offset, value & bits),
        None if !readable(offset, x2apic) => error(running, ILLEGAL_REGISTER),
        None => {}
    }
}

/// The hardware has put what the guest wrote into the register at `offset`, unchecked (SDM 3C 30.4.3.2).
pub fn written(running: &mut Running<'_, dyn GuestCpu>, offset: u32) {
    let (offset, page) = (offset & !0xf, running.cpu.apic_page());
    if offset == reg::ID {
        return running.lapic.name(page);
    }
    let value = page.get(offset);
    mmio_write(running, offset, value);
}

/// RDMSR of 0x800..0x900.
///
/// # Errors
/// Not in x2APIC mode, or no such register.
pub fn rdmsr(running: &mut Running<'_, dyn GuestCpu>, msr: u32) -> Result<u64, Refused> {
    if running.lapic.x2apic() {
        read(running, (msr - 0x800) * 16)
    } else {
        Err(Refused)
    }
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
    let bits = writable(offset, true).ok_or(Refused)?;
    // Only ICR has a high half (11.12.9).
    let high = (value >> 32) as u32;
    if value as u32 & !(bits | ignored(offset)) != 0 || offset != reg::ICR && high != 0 {
        return Err(Refused);
    }
    if offset == reg::ICR {
        running.cpu.apic_page().set_wide(offset, value);
        send_ipi(running, value as u32, high);
    } else {
        write(running, offset, value as u32 & bits);
    }
    Ok(())
}

/// The register at `offset`, which is a multiple of 16.
fn read(running: &mut Running<'_, dyn GuestCpu>, offset: u32) -> Result<u64, Refused> {
    if !readable(offset, running.lapic.x2apic()) {
        return Err(Refused);
    }
    accept(running);
    let page = running.cpu.apic_page();
    Ok(match offset {
        reg::PPR => page.processor_priority().into(),
        reg::TIMER_CURRENT => running.lapic.timer.current_count(hw::time::now_ns()).into(),
        _ => page.get_wide(offset),
    })
}

/// Writable bits for the register at `offset`, which exists.
fn write(running: &mut Running<'_, dyn GuestCpu>, offset: u32, value: u32) {
    let (lapic, page) = (&mut *running.lapic, running.cpu.apic_page());
    if offset == reg::TPR {
        running.cpu.write(SysReg::Cr8, u64::from(value >> 4));
        running.cpu.apic_page().set(offset, value);
        return running.vcpu.request(Request::INTERRUPT);
    }
    page.set(offset, stored(offset, value));
    match offset {
        reg::EOI => end_of_interrupt(running),
        reg::LDR | reg::DFR => changed(running),
        reg::SVR => enable(running, value & SVR_ENABLED != 0),
        reg::ESR => page.set(offset, core::mem::take(&mut lapic.errors)),
        reg::ICR => {
            let destination = page.get(reg::ICR_HIGH) >> 24;
            send_ipi(running, value, destination);
        }
        reg::SELF_IPI => {
            page.set(offset, 0);
            send_ipi(running, SELF | value, 0);
        }
        reg::LVT_TIMER..=reg::LVT_ERROR => {
            if !lapic.enabled {
                page.set(offset, value | LVT_MASKED);
            }
            if offset == reg::LVT_TIMER {
                set_mode(running, value);
            }
        }
        reg::TIMER_INITIAL => start_timer(running, value),
        reg::TIMER_DIVIDE => divide_timer(running, value),
        _ => {}
    }
}

/// SVR says whether it is enabled by software (SDM 3A, 11.4.7.2).
fn enable(running: &mut Running<'_, dyn GuestCpu>, on: bool) {
    if !on {
        running.lapic.mask_lvt(running.cpu.apic_page());
    }
    if running.lapic.enabled != on {
        running.lapic.enabled = on;
        changed(running);
        running.vcpu.defer(Request::INTERRUPT);
        renew_upcall(running);
    }
}
