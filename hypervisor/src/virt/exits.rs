//! What to do about each exit: one match.
// UNSAFETY: as the run loop, hypercalls know the type behind `dyn GuestCpu`.
#![expect(unsafe_code, reason = "hypercalls know the type behind `dyn GuestCpu`")]

use abi::Errno;
use abi::sched::SHUTDOWN_REBOOT;

use super::decode::MovToCr;
use super::{Running, cpuid, decode, ioapic, known, lapic, mmio, msr, ports, time};
use crate::arch::{Answer, CpuMode, Event, Exit, GuestCpu, SysReg, machine};
use crate::domain::vcpu::{Hold, Request};
use crate::hw;
use crate::hypercall;
use crate::sched;

/// RFLAGS.IF.
const INTERRUPT_FLAG: u64 = 1 << 9;

/// VMCALL or VMMCALL, unless it was made on the short way (see [`calls`](crate::arch::calls)). Separate from [`handle`], since this one is hot.
///
/// # Safety
/// `C` is the type behind `running.cpu`.
#[inline]
pub(super) unsafe fn hypercall<C: GuestCpu>(running: &mut Running<'_, dyn GuestCpu>) {
    // SAFETY: the caller's.
    let cpu = unsafe { known::<C>(running.cpu) };
    let Some(len) = decode::length_of_exit(running.domain, running.walks, cpu) else {
        return; // The guest changed its mapping under us: let it fetch again.
    };
    let from_kernel = cpu.in_long_mode_kernel() || (cpu.cpl() == 0 && cpu.mode() == CpuMode::Long);
    if !from_kernel {
        return other_hypercall(running, len);
    }
    let regs = cpu.gprs();
    let (nr, [first, second, third]) = (regs.rax, [regs.rdi, regs.rsi, regs.rdx]);
    let answer = hypercall::call(first, second, third, running, nr);
    let Some(rax) = answer.rax() else {
        return go_on(running);
    };
    // SAFETY: the caller's.
    let cpu = unsafe { known::<C>(running.cpu) };
    cpu.gprs().rax = rax;
    cpu.skip_in_long_mode(len);
}

/// The guest is to execute the instruction again, with arguments that tell how far we are.
#[cold]
pub(super) fn go_on(running: &mut Running<'_, dyn GuestCpu>) {
    let regs = running.cpu.gprs();
    for (register, arg) in [&mut regs.rdi, &mut regs.rsi, &mut regs.rdx]
        .into_iter()
        .zip(core::mem::take(&mut running.next))
    {
        *register = arg;
    }
}

/// A call that does not come from a 64-bit kernel: from a 32-bit or a 16-bit one, with its own registers and layouts, or from nobody who
/// may. As on Xen, the mode decides.
#[inline(never)]
fn other_hypercall(running: &mut Running<'_, dyn GuestCpu>, len: u8) {
    let allowed = match running.cpu.mode() {
        CpuMode::Real => true,
        CpuMode::Protected16 | CpuMode::Protected32 => running.cpu.cpl() == 0,
        CpuMode::Virtual8086 | CpuMode::Long => false,
    };
    let low = |register: u64| u64::from(register as u32);
    let regs = running.cpu.gprs();
    let nr = low(regs.rax);
    let args = [regs.rbx, regs.rcx, regs.rdx].map(low);
    let answer = if allowed {
        hypercall::call_compat(running, nr, args)
    } else {
        Answer::new(Errno::encode(Err(Errno::EPERM)))
    };
    let next = core::mem::take(&mut running.next);
    let regs = running.cpu.gprs();
    let Some(rax) = answer.rax() else {
        for (register, arg) in [&mut regs.rbx, &mut regs.rcx, &mut regs.rdx]
            .into_iter()
            .zip(next)
        {
            *register = low(arg);
        }
        return;
    };
    regs.rax = Errno::decode(rax).map_or(rax, low);
    running.cpu.skip(len);
}

/// Every other exit but exceptions.
pub(super) fn handle(running: &mut Running<'_, dyn GuestCpu>, exit: Exit) {
    match exit {
        Exit::Cpuid => complete(running, cpuid::execute),
        Exit::Rdmsr => complete(running, msr::read),
        Exit::Wrmsr => complete(running, msr::write),
        Exit::Io(access) => complete(running, |running| ports::access(running, access)),
        Exit::NestedFault(fault) => mmio::nested_fault(running, fault),
        Exit::Halt => complete(running, halt),
        Exit::Pause => sched::yield_to_sibling(running.vcpu, running.domain),
        Exit::CrWrite { cr, value } => {
            complete(running, |running| msr::write_control_register(running, cr, value))
        }
        Exit::CrInstruction => control_register_instruction(running),
        Exit::Xsetbv => complete(running, msr::xsetbv),
        Exit::ReadTsc => complete(running, time::read_tsc),
        Exit::CacheFlush => complete(running, |_| Ok(())),
        Exit::UndefinedInstruction => running.cpu.inject(Event::UD),
        Exit::ForbiddenInstruction => running.cpu.inject(Event::GP0),
        Exit::InterruptWindow => {
            running.cpu.request_interrupt_window(false);
            running.vcpu.defer(Request::INTERRUPT | Request::CALLBACK);
        }
        Exit::PriorityWindow => running.vcpu.defer(Request::INTERRUPT),
        Exit::ApicWrite { offset } => lapic::written(running, offset.into()),
        Exit::EndOfInterrupt { vector } => ioapic::end_of_interrupt(running.domain, vector),
        Exit::NmiWindow => {
            let _ = running.cpu.request_nmi_window(false);
            running.vcpu.request(Request::NMI);
        }
        Exit::HostInterrupt(Some(vector)) => hw::irq::handle(vector),
        Exit::HostInterrupt(None) => machine::take_host_interrupts(),
        // Before anything else: going on may use what is broken.
        Exit::MachineCheck => {
            log::error!(
                "machine check while {}v{} ran",
                running.vcpu.domid,
                running.vcpu.id.0
            );
            machine::machine_check()
        }
        Exit::HostNmi | Exit::HostInit | Exit::Handled => {}
        // Taken by the loop itself before they get here.
        Exit::Hypercall | Exit::Exception(_) => {}
        Exit::PreemptionTimer => {
            machine::take_host_interrupts();
            running.vcpu.request(Request::LEAVE);
        }
        Exit::TripleFault => triple_fault(running),
        Exit::TaskSwitch { .. } | Exit::EntryFailed(_) | Exit::Unknown { .. } => {
            running.domain.crash(
                running.vcpu,
                running.cpu,
                format_args!("cannot go on after {exit:?}"),
            );
        }
    }
}

/// Carry out an instruction, then go past it; or deliver the fault that it raises.
fn complete(
    running: &mut Running<'_, dyn GuestCpu>,
    execute: impl FnOnce(&mut Running<'_, dyn GuestCpu>) -> Result<(), Event>,
) {
    let Some(len) = decode::length_of_exit(running.domain, running.walks, running.cpu) else {
        return;
    };
    let result = execute(running);
    finish(running, len, result);
}

/// Go past an instruction that was carried out, or deliver the fault that it raised.
fn finish(running: &mut Running<'_, dyn GuestCpu>, len: u8, result: Result<(), Event>) {
    match result {
        Ok(()) => running.cpu.skip(len),
        Err(fault) => running.cpu.inject(fault),
    }
}

/// A write to a control register that the hardware does not decode. What it is mostly says how long it is, too: it is fetched once.
fn control_register_instruction(running: &mut Running<'_, dyn GuestCpu>) {
    // LMA as the rest of the state wants it: Bochs's AMD-V exits with it changed already.
    let efer = running.cpu.read(SysReg::Efer);
    running.cpu.write(SysReg::Efer, efer);
    let Some(mov) = decode::mov_to_cr(running) else {
        return complete(running, msr::control_register_instruction);
    };
    let result = msr::mov_to_cr(running, mov);
    finish(running, MovToCr::LEN, result);
}

/// HLT: wait for an interrupt; with interrupts off there will be none, so the vCPU is down, as on Xen. The last one down powers the domain off.
fn halt(running: &mut Running<'_, dyn GuestCpu>) -> Result<(), Event> {
    if running.cpu.read(SysReg::Rflags) & INTERRUPT_FLAG != 0 {
        running.vcpu.settle_callback();
        if callback_due(running).is_none() && !lapic::has_deliverable(running) {
            running.vcpu.block();
        }
    } else {
        running.vcpu.hold(Hold::DOWN);
        running.domain.vcpu_went_down();
    }
    Ok(())
}

/// An exception that is intercepted for the host's sake goes on to the guest. Separate from [`handle`] as [`hypercall`] is.
#[inline(never)]
pub(super) fn exception(cpu: &mut impl GuestCpu, event: Event) {
    cpu.inject(event);
}

/// HVM_PARAM_TRIPLE_FAULT_REASON decides what it means; a reboot by default.
fn triple_fault(running: &mut Running<'_, dyn GuestCpu>) {
    let reason = u32::try_from(running.domain.param(abi::hvm::HVM_PARAM_TRIPLE_FAULT_REASON))
        .unwrap_or(SHUTDOWN_REBOOT);
    log::warn!(
        "{}v{} triple fault: {}",
        running.vcpu.domid,
        running.vcpu.id.0,
        super::Described(running.cpu)
    );
    running.domain.log_walks(running.cpu);
    running.domain.shutdown(reason);
}

/// Inject the domain-wide callback vector (HVM_PARAM_CALLBACK_IRQ, type vector): past the local APIC, whenever the guest can take it, and
/// again until it has cleared the upcall flag.
///
/// # Safety
/// `C` is the type behind `running.cpu`.
#[inline(always)]
pub(super) unsafe fn deliver_callback<C: GuestCpu>(running: &mut Running<'_, dyn GuestCpu>) {
    let Some(vector) = callback_due(running) else {
        return;
    };
    let callback = Event::interrupt(vector);
    // SAFETY: the caller's.
    let cpu = unsafe { known::<C>(running.cpu) };
    let injected = cpu.interruptible();
    if injected {
        cpu.inject(callback);
    }
    // If an exit came before it was delivered, that is as if it had just been injected. (A window that waited with it would have QEMU's TCG deliver it twice.)
    if injected || cpu.delivering() == Some(callback) {
        // Whether the flag is still set then is seen before the next entry.
        running.vcpu.defer(Request::CALLBACK);
    } else {
        cpu.request_interrupt_window(true);
    }
}

/// The callback vector, if an upcall by it is pending.
fn callback_due(running: &Running<'_, dyn GuestCpu>) -> Option<u8> {
    let vector = running.domain.callback_vector()?;
    running.vcpu.events.upcall_pending().then_some(vector)
}
