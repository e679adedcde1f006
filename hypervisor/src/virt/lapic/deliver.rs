//! From IRR to the guest, and EOI.

use alloc::sync::Arc;

use crate::arch::{Event, GuestCpu, SysReg};
use crate::domain::vcpu::{Request, Vcpu};
use crate::virt::{Running, ioapic};

/// An interrupt of `vector` for `vcpu`.
pub(in crate::virt) fn raise(vcpu: &Arc<Vcpu>, vector: u8) {
    if vector >= 16 {
        vcpu.apic.raise(vector);
        vcpu.request(Request::INTERRUPT);
    }
}

pub(super) fn end_of_interrupt(running: &mut Running<'_, dyn GuestCpu>) {
    let highest = running.lapic.highest_in_service();
    if let Some(word) = running.lapic.isr.get_mut((highest / 32) as usize) {
        *word &= !(1 << (highest % 32));
    }
    if running.vcpu.apic.take_level(highest as u8) {
        ioapic::end_of_interrupt(running.domain, highest as u8);
    }
    if running.vcpu.apic.highest_pending().is_some() {
        running.vcpu.request(Request::INTERRUPT);
    }
}

/// Is there an interrupt that the guest would take if it let interrupts in?
pub fn has_deliverable(running: &mut Running<'_, dyn GuestCpu>) -> bool {
    take_priority(running);
    next(running).is_some()
}

fn next(running: &Running<'_, dyn GuestCpu>) -> Option<u8> {
    let vector = pending(running)?;
    (vector >> 4 > running.lapic.ppr() as u8 >> 4).then_some(vector)
}

/// The highest interrupt that waits, whatever the priorities.
fn pending(running: &Running<'_, dyn GuestCpu>) -> Option<u8> {
    running
        .vcpu
        .apic
        .highest_pending()
        .filter(|_| running.lapic.accepts())
}

/// The guest's CR8 is the upper half of the task priority, and changes without an exit (SDM 3A, 11.8.6).
pub(super) fn take_priority(running: &mut Running<'_, dyn GuestCpu>) {
    let class = (running.cpu.read(SysReg::Cr8) as u32) & 0xf;
    if running.lapic.tpr >> 4 != class {
        running.lapic.tpr = class << 4;
    }
}

/// Deliver the highest interrupt that the priorities allow, now or as soon as the guest can take one.
pub(in crate::virt) fn deliver(running: &mut Running<'_, dyn GuestCpu>) {
    take_priority(running);
    let Some(vector) = pending(running) else {
        return running.cpu.request_priority_window(None);
    };
    let class = vector >> 4;
    // What the one in service holds back comes with the guest's EOI.
    let by_priority = running.lapic.tpr as u8 >> 4 >= class;
    running.cpu.request_priority_window(by_priority.then_some(class));
    if class <= running.lapic.ppr() as u8 >> 4 {
        return;
    }
    if running.cpu.interruptible() {
        running.vcpu.apic.take(vector);
        running.lapic.isr[usize::from(vector / 32)] |= 1 << (vector % 32);
        running.cpu.inject(Event::interrupt(vector));
    } else {
        running.cpu.request_interrupt_window(true);
    }
}
