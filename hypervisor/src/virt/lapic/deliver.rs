//! From arrival to IRR to the guest, and EOI (SDM 3A, 11.8). Errors (11.5.3).

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

use super::arrivals::Trigger;
use super::registers::LVT_MASKED;
use crate::arch::apic_page::reg;
use crate::arch::{Event, GuestCpu, SysReg};
use crate::domain::vcpu::{Request, Vcpu};
use crate::virt::{Running, ioapic};

/// ESR: a vector below 16 in ICR or the self-IPI register.
pub(super) const SEND_ILLEGAL: u32 = 1 << 5;
/// ESR: a vector below 16 has arrived.
const RECEIVE_ILLEGAL: u32 = 1 << 6;
/// ESR: an xAPIC's register that does not exist.
pub(super) const ILLEGAL_REGISTER: u32 = 1 << 7;

/// An interrupt of `vector` for `vcpu`.
pub(in crate::virt) fn raise(vcpu: &Arc<Vcpu>, vector: u8, trigger: Trigger) {
    if vcpu.apic.raise(vector, trigger) {
        vcpu.request(Request::INTERRUPT);
    }
}

/// An interrupt of the vCPU's own, by the LVT entry at `entry`.
pub(super) fn raise_local(running: &mut Running<'_, dyn GuestCpu>, entry: u32) {
    let entry = running.cpu.apic_page().get(entry);
    if entry & LVT_MASKED == 0 {
        raise(running.vcpu, entry as u8, Trigger::Edge);
    }
}

/// It takes interrupts again: an upcall that came meanwhile, while the APIC was disabled or before INIT, was lost; the guest sees the flag only
/// with the interrupt.
pub(super) fn renew_upcall(running: &mut Running<'_, dyn GuestCpu>) {
    let vector = running.vcpu.upcall_vector.load(SeqCst);
    if vector != 0 && running.upcall_due() {
        raise(running.vcpu, vector, Trigger::Edge);
    }
}

/// Note an error for the next write to ESR, with an interrupt if it is the first of its kind since the last.
pub(super) fn error(running: &mut Running<'_, dyn GuestCpu>, kind: u32) {
    if running.lapic.errors & kind == 0 {
        running.lapic.errors |= kind;
        raise_local(running, reg::LVT_ERROR);
    }
}

/// Take in what has arrived, and the guest's CR8: the upper half of the task priority, which changes without an exit (SDM 3A, 11.8.6).
pub(super) fn accept(running: &mut Running<'_, dyn GuestCpu>) {
    let class = running.cpu.read(SysReg::Cr8) as u32 & 0xf;
    let page = running.cpu.apic_page();
    if page.get(reg::TPR) >> 4 != class {
        page.set(reg::TPR, class << 4);
    }
    if running.vcpu.apic.accept(page) {
        error(running, RECEIVE_ILLEGAL);
    }
}

/// Is there an interrupt that the guest would take if it let interrupts in?
pub fn has_deliverable(running: &mut Running<'_, dyn GuestCpu>) -> bool {
    accept(running);
    let priority = running.cpu.apic_page().processor_priority();
    pending(running).is_some_and(|vector| vector >> 4 > priority >> 4)
}

/// The highest interrupt that waits, whatever the priorities.
fn pending(running: &Running<'_, dyn GuestCpu>) -> Option<u8> {
    running
        .cpu
        .apic_page()
        .highest(reg::IRR)
        .filter(|_| running.lapic.enabled)
}

/// Deliver the highest interrupt that the priorities allow, now or as soon as the guest can take one.
pub(in crate::virt) fn deliver(running: &mut Running<'_, dyn GuestCpu>) {
    accept(running);
    if running.cpu.interrupts_changed() {
        return;
    }
    let Some(vector) = pending(running) else {
        return running.cpu.request_priority_window(None);
    };
    let class = vector >> 4;
    let page = running.cpu.apic_page();
    let priority = page.processor_priority();
    // What the one in service holds back comes with the guest's EOI.
    let by_priority = page.get(reg::TPR) as u8 >> 4 >= class;
    running.cpu.request_priority_window(by_priority.then_some(class));
    if class <= priority >> 4 {
        return;
    }
    if running.cpu.interruptible() {
        let page = running.cpu.apic_page();
        page.remove(reg::IRR, vector);
        page.insert(reg::ISR, vector);
        running.cpu.inject(Event::interrupt(vector));
    } else {
        running.cpu.request_interrupt_window(true);
    }
}

/// A write to EOI that the hardware has left to us.
pub(super) fn end_of_interrupt(running: &mut Running<'_, dyn GuestCpu>) {
    let page = running.cpu.apic_page();
    if let Some(vector) = page.highest(reg::ISR) {
        page.remove(reg::ISR, vector);
        if page.contains(reg::TMR, vector) {
            ioapic::end_of_interrupt(running.domain, vector);
        }
    }
    if running.lapic.by_hardware() || page.highest(reg::IRR).is_some() {
        running.vcpu.defer(Request::INTERRUPT);
    }
}
