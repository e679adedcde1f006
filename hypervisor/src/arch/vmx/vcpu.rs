//! A guest CPU: its VMCS, and what the VMCS does not hold.
//!
//! Invariants: while `loaded`, the VMCS is current on the CPU that touches the value, and registers that the hardware does not switch are
//! the guest's; else the VMCS is clear, active nowhere. `World` does not move, because the VMCS knows its address.
// UNSAFETY: makes VMCSs current and enters guests.
#![expect(unsafe_code, reason = "makes VMCSs current and enters guests")]

use alloc::boxed::Box;
use core::arch::asm;

use bitflags::bitflags;
use x86_64::registers::control::Cr2;

use super::controls::{ExitControls, Pin, Primary, Secondary};
use super::entry::{self, How, VM_FAIL, World};
use super::exit::{self, Guest, reason};
use super::field::{self, Fields};
use super::msr_bitmap::Grants;
use super::virtual_apic::VirtualApic;
use super::vmcs::{self, Current};
use super::vpid::Vpids;
use super::{Page, cpu, event, host_state, reset};
use crate::arch::apic_page::ApicPage;
use crate::arch::debug_regs::DebugRegs;
use crate::arch::fpu::Fpu;
use crate::arch::msr_policy::msr;
use crate::arch::msr_switch::SwitchedMsrs;
use crate::arch::owned::Owned;
use crate::arch::pending::{Combined, combine};
use crate::arch::speculation::Actions;
use crate::arch::{EntryFailure, Event, EventKind, Exit, Left, OutOfMemory, VcpuConfig};
use crate::sync::{Mutex, Rank};

static VPIDS: Mutex<Vpids> = Mutex::new(Rank::Vpids, Vpids::new());

/// Registers that stay the guest's while the hypervisor runs.
const SWITCHED: &[u32] = &[
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::SFMASK,
    msr::KERNEL_GS_BASE,
    msr::TSC_AUX,
];
/// The same on a CPU without RDTSCP, and so without TSC_AUX.
const SWITCHED_WITHOUT_TSC_AUX: &[u32] = SWITCHED.split_at(5).0;

/// Interruptibility (SDM 3C table 25-3).
pub(super) mod interruptibility {
    /// Blocking by STI or by MOV SS.
    pub const SHADOW: u32 = 3;
    /// Blocking by STI.
    pub const STI: u32 = 1;
    /// Blocking by NMI.
    pub const NMI: u32 = 8;
}

/// Access rights of the code segment (SDM 3C table 25-2) that tell a 64-bit kernel: code that is not conforming runs at the CPL that its descriptor says,
/// so that one field tells mode and CPL. (A kernel in protected mode that sets the L bit, reserved there, is taken for one; it gets what it asked for.)
pub(super) mod kernel {
    const CONFORMING: u32 = 1 << 2;
    const DPL: u32 = 3 << 5;
    /// 64-bit code.
    pub const LONG: u32 = 1 << 13;
    /// What is looked at, of which a 64-bit kernel has [`LONG`] only.
    pub const MASK: u32 = CONFORMING | DPL | LONG;
}

/// RFLAGS bits.
pub(super) mod rflags {
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
}

/// Pending debug exceptions (SDM 3C table 25-4): a single step.
pub(super) const PENDING_STEP: u64 = 1 << 14;
/// DR7.GD, which the delivery of #DB clears.
const DR7_GD: u64 = 1 << 13;

bitflags! {
    /// What must be done before the next entry. Empty in the common case.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Work: u32 {
        /// Nested translations changed.
        const FLUSH_NESTED = 1 << 0;
        /// The guest's own translations changed behind its back.
        const FLUSH_LINEAR = 1 << 1;
        /// Deliver `queued`.
        const EVENT = 1 << 2;
        /// The guest has triple-faulted.
        const SHUTDOWN = 1 << 3;
        /// Enter and exit with the world's precautions. Stays set.
        const PRECAUTIONS = 1 << 4;
        /// Enter by VMLAUNCH: the VMCS was cleared.
        const LAUNCH = 1 << 5;
    }
}

/// One guest CPU. See [`GuestCpu`](crate::arch::GuestCpu) for its methods.
pub struct Vcpu {
    pub(super) world: Box<World>,
    pub(super) loaded: bool,
    /// The event to deliver at the next entry.
    pub(super) queued: Option<Event>,
    /// Pin-based controls as the VMCS has them.
    pub(super) pin: u32,
    /// Primary controls as the VMCS has them.
    pub(super) primary: u32,
    /// TPR_THRESHOLD as the VMCS has it.
    pub(super) threshold: u8,
    pub(super) vmcs: Owned<Page>,
    /// The local APIC's registers, the task priority (CR8) among them.
    pub(super) apic_page: Owned<ApicPage>,
    /// What the hardware does of the local APIC.
    pub(super) virtual_apic: VirtualApic,
    ept_pointer: u64,
    vpid: u16,
    /// The CPU whose state the VMCS has, by `host_state::this_cpu`; 0: none yet.
    cpu: u64,
    pub(super) fpu: Fpu,
    pub(super) debug: DebugRegs,
    pub(super) msrs: SwitchedMsrs,
    /// CR2 while not loaded.
    pub(super) cr2: u64,
    grants: Grants,
    pub(super) host: &'static cpu::Host,
}

impl Vcpu {
    /// A CPU in its state after reset, not loaded. On a CPU where [`super::enable`] has been, with interrupts off.
    ///
    /// # Errors
    /// No memory.
    ///
    /// # Panics
    /// Before the first [`super::enable`].
    pub fn new(config: &VcpuConfig) -> Result<Vcpu, OutOfMemory> {
        let host = cpu::host().expect("VT-x is enabled before the first vCPU is made");
        let caps = &host.caps;
        let has_tsc_aux = caps.secondary.contains(Secondary::RDTSCP);
        let switched = if has_tsc_aux {
            SWITCHED
        } else {
            SWITCHED_WITHOUT_TSC_AUX
        };
        let (vmcs, apic_page) = (cpu::vmcs_page(caps)?, Owned::<ApicPage>::zeroed()?);
        let fpu = Fpu::new()?;
        let vpid = caps.invvpid.and_then(|_| VPIDS.lock().take()).unwrap_or(0);
        let mut secondary = caps.secondary;
        secondary.set(Secondary::VPID, vpid != 0);
        let vcpu = Vcpu {
            world: Box::new(World::new()),
            loaded: false,
            queued: None,
            pin: caps.pin,
            primary: caps.primary,
            threshold: 0,
            vmcs,
            apic_page,
            virtual_apic: VirtualApic::new(secondary),
            ept_pointer: caps.ept_pointer(config.nested_root),
            vpid,
            cpu: 0,
            fpu,
            debug: DebugRegs::new(true),
            // SAFETY: the SYSCALL registers exist on every 64-bit CPU, TSC_AUX where RDTSCP does; the hypervisor uses neither SYSCALL, SWAPGS
            // nor RDTSCP, and values are checked by the exit loop or by the CPU when the guest writes them itself.
            msrs: unsafe { SwitchedMsrs::new(switched) },
            cr2: 0,
            grants: Grants::empty(),
            host,
        };
        // SAFETY: this CPU is in VMX operation; the page is fresh.
        if unsafe { vmcs::vmclear(vcpu.vmcs.hpa()) }.is_err() {
            return Err(OutOfMemory);
        }
        vcpu.with(|vmcs| {
            let pages = reset::Pages {
                io_bitmap: config.io_bitmap,
                msr_bitmap: host.msr_bitmap(Grants::empty()),
                virtual_apic: vcpu.apic_page.hpa(),
                apic_access: host.apic_access,
                entry_msrs: host.entry_msrs,
                ept_pointer: vcpu.ept_pointer,
            };
            reset::controls(vmcs, caps, vcpu.primary, secondary, &pages, vcpu.vpid);
            reset::guest(vmcs);
        });
        Ok(vcpu)
    }

    /// Let `f` work on this VMCS: at once if loaded, else by making it current for as long.
    #[inline(always)]
    pub(super) fn with<R>(&self, f: impl FnOnce(Current) -> R) -> R {
        if self.loaded {
            // SAFETY: loaded, so current on this CPU.
            f(unsafe { Current::new() })
        } else {
            self.with_attached(f)
        }
    }

    /// The VMCS, after an exit.
    #[inline(always)]
    pub(super) fn current(&self) -> Current {
        debug_assert!(self.loaded);
        // SAFETY: who was just running is loaded.
        unsafe { Current::new() }
    }

    #[cold]
    #[inline(never)]
    fn with_attached<R>(&self, f: impl FnOnce(Current) -> R) -> R {
        // SAFETY: interrupts are off, so nobody on this CPU notices; the VMCS is active nowhere, since it is not loaded, and is cleared again
        // before another CPU can want it. VMPTRLD of a VMCS of ours fails only if memory was corrupted.
        unsafe {
            let before = vmcs::vmptrst();
            vmcs::vmptrld(self.vmcs.hpa()).expect("the VMCS is one");
            let result = f(Current::new());
            vmcs::vmclear(self.vmcs.hpa()).expect("the VMCS is one");
            if let Some(before) = before {
                vmcs::vmptrld(before).expect("the VMCS was current before");
            }
            result
        }
    }

    /// See [`GuestCpu::run`](crate::arch::GuestCpu::run).
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub(super) unsafe fn enter(this: *mut Vcpu) -> Left {
        // SAFETY: the caller's: the reference is gone when the world switch begins.
        let (world, how) = unsafe {
            let vcpu = &mut *this;
            let how = if vcpu.world.work.is_empty() || vcpu.only_an_event() {
                How::Resume
            } else {
                match vcpu.do_work() {
                    Some(how) => how,
                    None => return Left::Exit(reason::TRIPLE_FAULT.into()),
                }
            };
            (&raw mut *vcpu.world, how)
        };
        // SAFETY: `run` is called with interrupts off; loaded, and launched if nothing has said otherwise, so the VMCS is current and has this
        // CPU's state and this world; nested tables and bitmaps are the caller's of `new`. SPEC_CTRL, which is among the precautions, exists where
        // guests are offered it or where the hypervisor uses it. Its values are the host's own, one that the exit loop has checked, or one that the
        // CPU has taken from the guest; they do not change what instructions do.
        entry::left(unsafe { entry::switch(world, how) })
    }

    /// If the work that waits is to deliver an event, as mostly, do it. Apart from the rest, since interrupts come this way.
    #[inline(never)]
    fn only_an_event(&mut self) -> bool {
        if self.world.work != Work::EVENT {
            return false;
        }
        self.world.work = Work::empty();
        if let Some(event) = self.queued.take() {
            deliver(self.current(), event);
        }
        true
    }

    /// Do the work that waits; how to enter then. `None`: not at all, as the guest has triple-faulted.
    #[inline(never)]
    fn do_work(&mut self) -> Option<How> {
        debug_assert!(self.loaded);
        let work = self.world.work;
        if work.contains(Work::SHUTDOWN) {
            return None;
        }
        if work.contains(Work::FLUSH_NESTED) {
            vmcs::invept(self.host.caps.invept, self.ept_pointer);
        }
        if work.contains(Work::FLUSH_LINEAR)
            && self.vpid != 0
            && let Some(scope) = self.host.caps.invvpid
        {
            vmcs::invvpid(scope, self.vpid);
        }
        if let Some(event) = self.queued.take() {
            deliver(self.current(), event);
        }
        self.world.work &= Work::PRECAUTIONS;
        Some(if work.contains(Work::LAUNCH) {
            How::CarefullyLaunch
        } else if work.contains(Work::PRECAUTIONS) {
            How::CarefullyResume
        } else {
            How::Resume
        })
    }

    /// Everything about an exit but the world switch. Inlined, so that the exit is never put together in memory.
    #[inline(always)]
    pub(super) fn finish(&mut self, exit_reason: u32) -> Exit {
        // SAFETY: loaded, and a guest was just entered or refused.
        let vmcs = unsafe { Current::new() };
        if exit_reason == VM_FAIL {
            let error = vmcs.get(field::VM_INSTRUCTION_ERROR);
            return self.failed(Exit::EntryFailed(EntryFailure::VmInstructionError(error)));
        }
        let basic = exit_reason as u16;
        if exit::may_interrupt_delivery(basic) {
            self.keep_interrupted_event(basic, vmcs);
        }
        let exit = exit::decode(exit_reason, &vmcs, || Guest {
            gprs: &self.world.gprs,
            mode: super::state::mode(&vmcs),
        });
        match exit {
            Exit::HostNmi => deliver_host_nmi(),
            // An exit for #DB leaves it to us to set DR6 (SDM 3C 28.1).
            Exit::Exception(Event { vector: 1, .. }) => {
                self.debug.raise(vmcs.get(field::EXIT_QUALIFICATION));
            }
            Exit::PreemptionTimer => self.run_preemption_timer(false),
            Exit::EntryFailed(_) => return self.failed(exit),
            _ => {}
        }
        exit
    }

    /// After a failed entry the VMCS is not launched, or may not be (SDM 3C 27.8).
    #[cold]
    fn failed(&mut self, exit: Exit) -> Exit {
        // SAFETY: loaded: the VMCS is this CPU's, and stays its current one.
        unsafe {
            vmcs::vmclear(self.vmcs.hpa()).expect("the VMCS is one");
            vmcs::vmptrld(self.vmcs.hpa()).expect("the VMCS is one");
        }
        self.world.work |= Work::LAUNCH;
        exit
    }

    /// An exit in the middle of a delivery: the event comes again at the next entry (SDM 3C 28.2.4). Else NMI blocking, if the exit hit an
    /// IRET that had ended it.
    fn keep_interrupted_event(&mut self, basic: u16, vmcs: Current) {
        let change_nmi_blocking = |on: bool| {
            let old = vmcs.get(field::GUEST_INTERRUPTIBILITY);
            let new = if on {
                old | interruptibility::NMI
            } else {
                old & !interruptibility::NMI
            };
            vmcs.set(field::GUEST_INTERRUPTIBILITY, new);
        };
        match exit::interrupted_event(&vmcs) {
            // The task switch is the delivery; whoever handles it has the event from the exit.
            Some(_) if basic == reason::TASK_SWITCH => {}
            Some(event) => {
                if event.kind == EventKind::Nmi {
                    change_nmi_blocking(false);
                }
                self.queued = Some(event);
                self.world.work |= Work::EVENT;
            }
            None if exit::nmi_unblocked_by_iret(basic, &vmcs) => change_nmi_blocking(true),
            None => {}
        }
    }

    pub(super) fn queue(&mut self, event: Event) {
        match self
            .queued
            .map_or(Combined::Event(event), |first| combine(first, event))
        {
            Combined::Event(event) => {
                self.queued = Some(event);
                self.world.work |= Work::EVENT;
            }
            Combined::TripleFault => self.world.work |= Work::SHUTDOWN,
        }
    }

    /// Let the preemption timer count, or not.
    pub(super) fn run_preemption_timer(&mut self, on: bool) {
        let (timer, save) = (
            Pin::PREEMPTION_TIMER.bits(),
            ExitControls::SAVE_PREEMPTION_TIMER.bits(),
        );
        let caps = &self.host.caps;
        let (pin, exit) = if on {
            (caps.pin | timer, caps.exit | save)
        } else {
            (caps.pin, caps.exit)
        };
        if pin != self.pin {
            self.pin = pin;
            self.with(|vmcs| {
                vmcs.set(field::PIN_CONTROLS, pin);
                vmcs.set(field::EXIT_CONTROLS, exit);
            });
        }
    }

    pub(super) fn set_primary(&mut self, bits: Primary, on: bool) {
        let new = if on {
            self.primary | bits.bits()
        } else {
            self.primary & !bits.bits()
        };
        if new != self.primary {
            self.primary = new;
            self.with(|vmcs| vmcs.set(field::PRIMARY_CONTROLS, new));
        }
    }

    /// The guest writes SPEC_CTRL. What is not the host's value is taken for the first of many, as a kernel that
    /// protects some of its programs writes it at each switch between them: from now on that does not exit, but all
    /// entries and exits switch the register.
    pub(super) fn set_spec_ctrl(&mut self, value: u64) {
        if self.world.precautions.set_guests(value) {
            // Only an exit then tells what it is.
            self.world.precautions.actions |= Actions::READ_SPEC_CTRL;
            self.world.work |= Work::PRECAUTIONS;
            self.grant(Grants::SPEC_CTRL, true);
            self.with(|vmcs| vmcs.set(field::HOST_RIP, self.world.exit_rip()));
        }
    }

    /// Give or take registers that the guest then reaches without an exit.
    pub(super) fn grant(&mut self, what: Grants, on: bool) {
        self.grants.set(what, on);
        let bitmap = self.host.msr_bitmap(self.grants);
        self.with(|vmcs| vmcs.set(field::MSR_BITMAP, bitmap.0));
    }

    pub(super) fn attach(&mut self) {
        // SAFETY: this CPU is in VMX operation (only then are there vCPUs); not loaded, so active on no other CPU.
        unsafe { vmcs::vmptrld(self.vmcs.hpa()) }.expect("the VMCS is one");
        self.loaded = true;
        self.world.work |= Work::LAUNCH;
        let this_cpu = host_state::this_cpu();
        let world = &self.world;
        self.with(|vmcs| {
            if self.cpu == this_cpu {
                host_state::record_page_tables(vmcs);
            } else {
                host_state::record(vmcs, world);
            }
        });
        if self.cpu != this_cpu {
            // What this CPU may remember of an earlier stay, of another user of the VPID or of the page tables' frame.
            self.world.work |= Work::FLUSH_NESTED | Work::FLUSH_LINEAR;
            self.cpu = this_cpu;
        }
        self.fpu.load();
        self.debug.load();
        self.msrs.load();
        // SAFETY: the hypervisor takes no page faults that it would recover from, so CR2 is the guest's.
        unsafe { asm!("mov cr2, {}", in(reg) self.cr2, options(nomem, nostack, preserves_flags)) };
    }

    pub(super) fn detach(&mut self) {
        self.cr2 = Cr2::read_raw();
        self.msrs.unload();
        self.debug.unload();
        self.fpu.unload();
        // SAFETY: loaded, so this CPU has it.
        unsafe { vmcs::vmclear(self.vmcs.hpa()) }.expect("the VMCS is one");
        self.loaded = false;
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        if self.loaded {
            self.detach();
        }
        VPIDS.lock().put(self.vpid);
    }
}

/// Have the next entry deliver `event` (SDM 3C 27.6).
fn deliver(vmcs: Current, event: Event) {
    if let Some(code) = event.error_code {
        vmcs.set(field::ENTRY_ERROR_CODE, code);
    }
    if event::is_software(event.kind) {
        vmcs.set(
            field::ENTRY_INSTRUCTION_LEN,
            u32::from(event.instruction_len.clamp(1, 15)),
        );
    }
    if event.vector == 1 {
        if event.kind == EventKind::HardwareException {
            // Injection does not (SDM 3C 27.6.1.1), a fault of the CPU's own would.
            vmcs.set(field::GUEST_DR7, vmcs.get(field::GUEST_DR7) & !DR7_GD);
        }
        // The trap of a single step over STI, say: an entry with TF into an interrupt shadow demands that a step is pending, even where that is
        // lost by what is injected (27.3.1.5, 27.7.3).
        let shadow = vmcs.get(field::GUEST_INTERRUPTIBILITY) & interruptibility::SHADOW != 0;
        if shadow && vmcs.get(field::GUEST_RFLAGS) & rflags::TF != 0 {
            let pending = vmcs.get(field::GUEST_PENDING_DEBUG);
            vmcs.set(field::GUEST_PENDING_DEBUG, pending | PENDING_STEP);
        }
    }
    let protected = event.error_code.is_some() && vmcs.get(field::GUEST_CR0) & 1 != 0;
    vmcs.set(field::ENTRY_INTERRUPTION, event::encode(event, protected));
}

/// An NMI that exited was taken, but no handler ran: run the host's. Its IRET ends the blocking of NMIs that the exit began.
fn deliver_host_nmi() {
    // SAFETY: vector 2 is the hypervisor's NMI handler, which may run at any point.
    unsafe { asm!("int 2") };
}
