//! Guests at the level of instructions: the run loop, exits, CPUID and MSR policy, local APIC, time.
//!
//! [`run_cpu`] is what a physical CPU does for ever. The loop inside knows the back end's type, so that entry, exit and hypercalls are
//! straight code; all else goes through `&mut dyn GuestCpu`.
// UNSAFETY: tells the run loop the type behind `dyn GuestCpu`.
#![expect(unsafe_code, reason = "the run loop knows the type behind `dyn GuestCpu`")]

pub mod control;
pub mod cpuid;
pub mod decode;
mod emulate;
mod exits;
pub mod guest_tsc;
pub mod ioapic;
pub mod lapic;
pub mod mmio;
pub mod msr;
mod ports;
mod speculation;
pub mod time;

use alloc::sync::Arc;

use abi::Layout;
use arrayvec::ArrayVec;

use crate::arch::{self, Calls, Exit, GuestCpu, Left};
use abi::event_channel::{VIRQ_CON_RING, VIRQ_CONSOLE};

use crate::arch::machine::Vcpu as Cpu;
use crate::domain::vcpu::{Hold, Request, Vcpu};
use crate::domain::{Domain, table};
use crate::event;
use crate::hw::irq::SoftIrq;
use crate::mm::guest::WalkCache;
use crate::types::{DomId, VcpuId};
use crate::{debug_keys, hw, hypercall, sched};

use cpuid::Policy;
use lapic::Lapic;
use msr::Msrs;

/// A line about a vCPU's registers, for logs.
pub struct Described<'a>(pub &'a dyn GuestCpu);

impl core::fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.describe(f);
        Ok(())
    }
}

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
    /// What CPUID says.
    pub policy: &'a Policy,
    /// Its model-specific registers without any effect of their own.
    pub msrs: &'a mut Msrs,
    /// Layout of what the hypercall that it makes points to.
    pub layout: Layout,
    /// First arguments of a hypercall that is to be made again: see [`hypercall::Stop::Continue`].
    pub next: ArrayVec<u64, 3>,
}

impl Running<'_, dyn GuestCpu> {
    /// The guest did what cannot be continued.
    pub fn crash(&mut self, why: core::fmt::Arguments<'_>) {
        self.domain.crash(self.vcpu, self.cpu, why);
    }

    /// Do event channels want to be looked at?
    pub fn upcall_due(&self) -> bool {
        self.vcpu.events.upcall_pending()
    }
}

/// Run guests on this CPU for ever. Interrupts are off, except while idle and where an exit says that the host has one.
pub fn run_cpu() -> ! {
    let (mut now, mut retires) = (hw::time::now_ns(), false);
    loop {
        if hw::irq::softirq_pending() && softirqs(&mut now).contains(SoftIrq::REGISTERS) {
            debug_keys::log_registers_left();
        }
        match sched::pick(&mut now) {
            Some((vcpu, time)) => {
                retires = false;
                run_vcpu(&vcpu, time);
                now = hw::time::now_ns();
                sched::put(&vcpu, now);
            }
            // What it may have been handed before it was told, the next look finds; nothing comes after that.
            None if !retires && sched::told_to_retire() => retires = true,
            None => {
                if core::mem::take(&mut retires) {
                    sched::retire();
                }
                hw::irq::wait();
                now = hw::time::now_ns();
            }
        }
    }
}

/// Work that interrupt handlers left for this CPU; returns what it was. It is `now`, and still is afterwards, unless there was more than the timer's, which may
/// take long.
fn softirqs(now: &mut u64) -> SoftIrq {
    let work = hw::irq::take_softirqs();
    if work.contains(SoftIrq::TIMER) {
        sched::on_timer(now);
    }
    if work.contains(SoftIrq::EVICT) {
        sched::unload_idle();
    }
    if work.contains(SoftIrq::CONSOLE) {
        if hw::console::serve()
            && let Some(dom0) = table::get(DomId::DOM0)
        {
            event::raise_virq(&dom0, VcpuId(0), VIRQ_CONSOLE);
        }
        debug_keys::typed();
    }
    if work.contains(SoftIrq::LINES)
        && let Some(dom0) = table::get(DomId::DOM0)
    {
        hw::irq::take_lines(|gsi| ioapic::assert(&dom0, gsi));
    }
    if work.contains(SoftIrq::LOG) {
        event::raise_global_virq(VIRQ_CON_RING);
    }
    if work.contains(SoftIrq::NMI) {
        log::warn!("CPU {}: non-maskable interrupt", hw::percpu::id());
    }
    if work != SoftIrq::TIMER {
        *now = hw::time::now_ns();
    }
    work
}

/// Run a vCPU, of which the guest leaves after `time` nanoseconds at the latest.
fn run_vcpu(vcpu: &Arc<Vcpu>, time: u64) {
    if let Some(domain) = vcpu.domain() {
        // Who made it stop may have looked just before it counted as running: one of the two sees the other.
        if !vcpu.runnable() {
            return;
        }
        sched::load(vcpu);
        let mut private = vcpu.private().lock();
        let private = &mut *private;
        macro_rules! run_on {
            ($cpu:ident, $type:ty) => {
                // SAFETY: the type of `$cpu`.
                unsafe {
                    let running: Running<'_, dyn GuestCpu> = Running {
                        domain: &domain,
                        vcpu,
                        cpu: $cpu,
                        lapic: &mut private.lapic,
                        walks: &mut private.walks,
                        policy: &private.policy,
                        msrs: &mut private.msrs,
                        layout: Layout::X86_64,
                        next: ArrayVec::new(),
                    };
                    run::<$type>(running, time)
                }
            };
        }
        match &mut private.cpu {
            Cpu::Svm(cpu) => run_on!(cpu, arch::svm::Vcpu),
            Cpu::Vmx(cpu) => run_on!(cpu, arch::vmx::Vcpu),
            #[cfg(test)]
            Cpu::Fake(cpu) => run_on!(cpu, arch::fake::Vcpu),
        }
    } else {
        vcpu.hold(Hold::DOWN);
    }
}

/// Enter and leave the guest until the vCPU has to give up the CPU.
///
/// A guest leaves when the timer is due whatever becomes of the host's interrupts: Bochs holds those back while a guest
/// that was entered with its own interrupts off spins.
///
/// # Safety
/// `C` is the type behind `running.cpu`.
unsafe fn run<C: GuestCpu>(mut running: Running<'_, dyn GuestCpu>, time: u64) {
    let vcpu: &Vcpu = running.vcpu;
    running.cpu.set_preemption_timer(time);
    running.cpu.emulate_tsc(time::emulates_tsc(running.vcpu));
    // Handlers that the back end calls find it by this, and so do we.
    let context = &raw mut running;
    // SAFETY: `running` outlives the loop, and nobody has another reference while one is used: handlers run within `C::run` alone.
    let running = || unsafe { &mut *context };
    // SAFETY: the caller's.
    let before_entry = || unsafe { before_entry::<C>(running()) };
    running().cpu.set_calls(Calls {
        context: context.cast(),
        requests: vcpu.requests_word(),
        ..hypercall::CALLS
    });
    'outside: loop {
        if (!vcpu.enter().is_empty() || hw::irq::softirq_pending()) && before_entry() == Next::Leave {
            break;
        }
        let code = loop {
            // SAFETY: the caller's; nobody puts another vCPU's registers there. The calls are this vCPU's, and handlers take what `running` is.
            match unsafe { C::run(known::<C>(running().cpu)) } {
                Left::Exit(code) => break code,
                Left::Hypercall => {
                    vcpu.exited();
                    // SAFETY: as above.
                    unsafe { exits::hypercall::<C>(running()) };
                    continue 'outside;
                }
                Left::Called => {
                    if before_entry() == Next::Leave {
                        break 'outside;
                    }
                }
                Left::CallAgain => {
                    vcpu.exited();
                    exits::go_on(running());
                    continue 'outside;
                }
            }
        };
        vcpu.exited();
        // SAFETY: as above.
        let cpu = unsafe { known::<C>(running().cpu) };
        match cpu.exit(code) {
            Exit::Exception(event) => exits::exception(cpu, event),
            exit => exits::handle(running(), exit),
        }
    }
    vcpu.exited();
    running().cpu.set_calls(Calls::NONE);
}

/// `cpu` by its type, for calls that are not virtual.
///
/// # Safety
/// `C` is its type.
#[inline(always)]
unsafe fn known<C: GuestCpu>(cpu: &mut dyn GuestCpu) -> &mut C {
    // SAFETY: the caller's.
    unsafe { &mut *core::ptr::from_mut(cpu).cast() }
}

/// Whether the run loop goes on with this vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Enter,
    Leave,
}

/// The slow part before an entry: interrupts of the host that came in, requests to the vCPU, delivery of its interrupts.
///
/// # Safety
/// `C` is the type behind `running.cpu`.
#[inline(never)]
unsafe fn before_entry<C: GuestCpu>(running: &mut Running<'_, dyn GuestCpu>) -> Next {
    let vcpu = running.vcpu;
    let mut set_timer = false;
    if hw::irq::softirq_pending() {
        // It is looked at again below: nobody need interrupt it meanwhile.
        vcpu.exited();
        set_timer = take_softirqs(running);
    }
    let mut requests = vcpu.take_requests();
    // These ask for others.
    const FIRST: Request = Request::FLUSH.union(Request::STARTUP).union(Request::TIMER);
    if requests.intersects(FIRST) {
        if requests.contains(Request::FLUSH) {
            running.cpu.flush(crate::arch::Flush::Nested);
        }
        if requests.contains(Request::STARTUP) {
            lapic::startup(running);
        }
        if requests.contains(Request::TIMER) {
            set_timer |= time::expire(running);
        }
        // Another CPU's new request for one of the above stays: an exit is on its way with it.
        requests |= vcpu.take(!FIRST);
    }
    if requests.contains(Request::NMI) {
        deliver_nmi(running);
    }
    if requests.contains(Request::CALLBACK) {
        // SAFETY: the caller's.
        unsafe { exits::deliver_callback::<C>(running) };
    }
    if requests.intersects(Request::INTERRUPT | Request::STARTUP) {
        lapic::deliver(running);
    }
    if requests.contains(Request::LEAVE) || !vcpu.runnable() {
        return Next::Leave;
    }
    if set_timer {
        sched::set_timer();
    }
    Next::Enter
}

/// Apart from [`before_entry`], as what follows is, so that an upcall does not pay for their registers. `true`: the timer has fired, and is to be set.
#[inline(never)]
fn take_softirqs(running: &mut Running<'_, dyn GuestCpu>) -> bool {
    let mut fired = false;
    while hw::irq::softirq_pending() {
        let work = softirqs(&mut hw::time::now_ns());
        fired |= work.contains(SoftIrq::TIMER);
        if work.contains(SoftIrq::REGISTERS) {
            debug_keys::log_registers_running(running.vcpu, running.cpu);
        }
        if work.contains(SoftIrq::TSC) {
            running.cpu.emulate_tsc(time::emulates_tsc(running.vcpu));
        }
    }
    fired
}

#[inline(never)]
fn deliver_nmi(running: &mut Running<'_, dyn GuestCpu>) {
    if running.cpu.nmi_allowed() {
        running.cpu.inject(crate::arch::Event::nmi());
        let _ = running.cpu.request_nmi_window(false);
        return;
    }
    // It stays asked for: a guest that halts in between must not sleep over it.
    running.vcpu.defer(Request::NMI);
    if !running.cpu.request_nmi_window(true) {
        hw::apic::kick(hw::percpu::id());
    }
}

#[cfg(test)]
mod fuzz;
