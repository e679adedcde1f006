//! Guests at the level of instructions: the run loop, exits, CPUID and MSR policy, local APIC, time.
//!
//! [`run_cpu`] is what a physical CPU does for ever. The loop inside is generic over the back end, so that entry, exit and the frequent
//! reasons are straight code; rarer work goes through `&mut dyn GuestCpu`.

mod control;
pub mod cpuid;
pub mod decode;
mod exits;
pub mod lapic;
pub mod mmio;
pub mod msr;
mod ports;
pub mod time;

use alloc::sync::Arc;

use crate::arch::{Exit, GuestCpu};
use crate::domain::Domain;
use crate::domain::vcpu::{Cpu, Request, Vcpu};
use crate::mm::guest::WalkCache;
use crate::{hw, sched};

use lapic::Lapic;

/// What the CPU that runs a vCPU holds of it.
pub struct Running<'a, C: GuestCpu + ?Sized> {
    /// The domain.
    pub domain: &'a Arc<Domain>,
    /// The vCPU.
    pub vcpu: &'a Arc<Vcpu>,
    /// Its registers.
    pub cpu: &'a mut C,
    /// Its local APIC.
    pub lapic: &'a mut Lapic,
    /// Its recent page walks.
    pub walks: &'a mut WalkCache,
}

impl<'a, C: GuestCpu> Running<'a, C> {
    /// The same without the back end's type, for what is not hot.
    pub fn erase(&mut self) -> Running<'_, dyn GuestCpu> {
        Running {
            domain: self.domain,
            vcpu: self.vcpu,
            cpu: self.cpu,
            lapic: self.lapic,
            walks: self.walks,
        }
    }
}

/// Run guests on this CPU for ever. Interrupts are off, except while idle and where an exit says that the host has one.
pub fn run_cpu() -> ! {
    loop {
        hw::irq::run_softirqs();
        match sched::pick() {
            Some(vcpu) => run_vcpu(&vcpu),
            None => hw::irq::wait(),
        }
    }
}

fn run_vcpu(vcpu: &Arc<Vcpu>) {
    if let Some(domain) = vcpu.domain() {
        sched::load(vcpu);
        let mut private = vcpu.private().lock();
        let private = &mut *private;
        let (lapic, walks) = (&mut private.lapic, &mut private.walks);
        match &mut private.cpu {
            Cpu::Svm(cpu) => run(Running { domain: &domain, vcpu, cpu, lapic, walks }),
            Cpu::Vmx(cpu) => run(Running { domain: &domain, vcpu, cpu, lapic, walks }),
            #[cfg(test)]
            Cpu::Fake(cpu) => run(Running { domain: &domain, vcpu, cpu, lapic, walks }),
        }
    } else {
        vcpu.hold(crate::domain::vcpu::Hold::DOWN);
    }
    sched::put(vcpu);
}

/// Enter and leave the guest until the vCPU has to give up the CPU.
fn run<C: GuestCpu>(mut running: Running<'_, C>) {
    loop {
        if running.vcpu.has_requests() | hw::irq::softirq_pending() && before_entry(&mut running.erase()) == Next::Leave {
            return;
        }
        let exit = running.cpu.run();
        if let Exit::Hypercall = exit {
            exits::hypercall(&mut running);
        } else {
            exits::handle(&mut running.erase(), exit);
        }
    }
}

/// Whether the run loop goes on with this vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Enter,
    Leave,
}

/// The slow part before an entry: interrupts of the host that came in, requests to the vCPU, delivery of its interrupts.
fn before_entry(running: &mut Running<'_, dyn GuestCpu>) -> Next {
    hw::irq::run_softirqs();
    let vcpu = running.vcpu;
    let requests = vcpu.take_requests();
    if requests.contains(Request::FLUSH) {
        running.cpu.flush(crate::arch::Flush::Nested);
    }
    if requests.contains(Request::STARTUP) {
        lapic::startup(running);
    }
    if requests.contains(Request::TIMER) {
        time::expire(running);
    }
    let again = vcpu.take_requests() | requests;
    if again.contains(Request::NMI) {
        if running.cpu.nmi_allowed() {
            running.cpu.inject(crate::arch::Event::nmi());
        } else {
            running.cpu.request_nmi_window(true);
        }
    }
    if again.contains(Request::CALLBACK) {
        exits::deliver_callback(running);
    }
    lapic::deliver(running);
    if again.contains(Request::LEAVE) || !vcpu.runnable() { Next::Leave } else { Next::Enter }
}
