//! [`Vcpu`]: one guest CPU on AMD-V.
//!
//! The path from exit to entry is what every guest waits for, so that all that is rare hides behind two bytes: [`Before`] says what to
//! do before the next entry, [`After`] what an exit may have to be looked at for. Both are empty on the common path.
// UNSAFETY: enters the guest.
#![expect(unsafe_code, reason = "enters the guest, and reaches this CPU's own data")]

use core::ptr::NonNull;

use bitflags::bitflags;

use super::asid::Asid;
use super::cpu::{Cpu, Host, TSC_RATIO_ONE, host};
use super::entry::{careful_world_switch, world_switch};
use super::exit::{Raw, code, decode};
use super::inject;
use super::setup::{set_controls, set_reset_state};
use super::vmcb::{self, SHADOW, Vmcb, VmcbSegment, clean, event, intercept1, tlb_control, v_intr};
use crate::arch::apic_page::ApicPage;
use crate::arch::debug_regs::DebugRegs;
use crate::arch::fpu::Fpu;
use crate::arch::msr_policy::msr;
use crate::arch::msr_switch::SwitchedMsrs;
use crate::arch::owned::Owned;
use crate::arch::speculation::Precautions;
use crate::arch::{Event, EventKind, Exit, Gprs, GuestCpu, OutOfMemory, SegmentReg, VcpuConfig};
use crate::types::Hpa;

pub(super) const RFLAGS_TF: u64 = 1 << 8;
pub(super) const RFLAGS_RF: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const EFER_LME: u64 = 1 << 8;
pub(super) const EFER_LMA: u64 = 1 << 10;
const DR6_BS: u64 = 1 << 14;

bitflags! {
    /// Work before the next entry.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct Before: u8 {
        /// Put `event` into EVENTINJ.
        const EVENT = 1 << 0;
        /// EVENTINJ or TLB_CONTROL hold what was for one entry only.
        const ONE_SHOT = 1 << 1;
        /// Forget the guest's translations.
        const FLUSH = 1 << 2;
        /// New on this CPU, or its ASID is another's now.
        const NEW_ASID = 1 << 3;
        /// Enter and exit with precautions. Stays set.
        const PRECAUTIONS = 1 << 4;
        /// Two faults too many: do not enter.
        const TRIPLE_FAULT = 1 << 6;
    }
}

impl Before {
    /// What `precautions` demand.
    fn with(precautions: &Precautions) -> Before {
        if precautions.actions.is_empty() {
            Before::empty()
        } else {
            Before::PRECAUTIONS
        }
    }
}

bitflags! {
    /// What to look at after an exit.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct After: u8 {
        /// The caller waits for an interrupt window.
        const WANT_INTERRUPT = 1 << 0;
        /// The caller waits for an NMI window.
        const WANT_NMI = 1 << 1;
        /// NMIs are masked, IRET is intercepted.
        const NMI_MASKED = 1 << 2;
        /// The guest single-steps over its IRET.
        const STEPPING = 1 << 3;
        /// RFLAGS.TF was the guest's own when stepping began.
        const OWN_TRAP = 1 << 4;
        /// V_IRQ was to deliver an interrupt.
        const VIRTUAL_INTERRUPT = 1 << 5;
    }
}

/// A guest CPU.
pub struct Vcpu {
    pub(super) vmcb: Owned<Vmcb>,
    pub(super) gprs: Gprs,
    pub(super) before: Before,
    pub(super) after: After,
    pub(super) host: &'static Host,
    /// [`Cpu::state`] of the CPU that this is loaded on.
    pub(super) host_state: Hpa,
    /// The CPU that this is, or was last, loaded on.
    pub(super) cpu: Option<NonNull<Cpu>>,
    pub(super) asid: Asid,
    /// The event to inject next, raw; 0: none.
    pub(super) event: u64,
    /// How far RIP was moved past the instruction of the event injected last, if it is a software one.
    pub(super) advanced: u8,
    /// RIP of the IRET that ends the NMI handler, not known to have completed: NMIs are still masked there.
    pub(super) returning: Option<u64>,
    /// SPEC_CTRL as the guest sees it, if it is not in the VMCB, is among them. Until the guest has written it, the CPU
    /// keeps the host's value.
    pub(super) precautions: Precautions,
    /// TSC_RATIO of the guest.
    pub(super) tsc_ratio: u64,
    pub(super) debug_regs: DebugRegs,
    pub(super) msrs: SwitchedMsrs,
    pub(super) fpu: Fpu,
    pub(super) apic_page: Owned<ApicPage>,
}

// SAFETY: `cpu` is followed only by the CPU that it belongs to.
unsafe impl Send for Vcpu {}

impl Vcpu {
    /// A CPU as after INIT, but with caches on and in the first 4 GiB of flat nothing: the caller sets it up.
    ///
    /// # Errors
    /// No memory.
    ///
    /// # Panics
    /// If no CPU has been enabled.
    pub fn new(config: &VcpuConfig) -> Result<Vcpu, OutOfMemory> {
        let host = host().expect("svm::enable runs before the first vCPU is made");
        let mut vmcb = Owned::<Vmcb>::zeroed()?;
        set_controls(&mut vmcb, host, config);
        set_reset_state(&mut vmcb);
        let precautions = Precautions::of_any_guest();
        let list: &[u32] = if host.caps.tsc_aux { &[msr::TSC_AUX] } else { &[] };
        Ok(Vcpu {
            vmcb,
            gprs: Gprs::default(),
            before: Before::NEW_ASID | Before::with(&precautions),
            after: After::empty(),
            host,
            host_state: Hpa(0),
            cpu: None,
            asid: Asid::default(),
            event: 0,
            advanced: 0,
            returning: None,
            precautions,
            tsc_ratio: TSC_RATIO_ONE,
            debug_regs: DebugRegs::new(false),
            // SAFETY: TSC_AUX exists, and the hypervisor uses neither RDTSCP's nor RDPID's result.
            msrs: unsafe { SwitchedMsrs::new(list) },
            fpu: Fpu::new()?,
            apic_page: Owned::zeroed()?,
        })
    }

    /// The guest's extended state.
    pub fn fpu(&mut self) -> &mut Fpu {
        &mut self.fpu
    }

    /// A part of the VMCB is about to change.
    pub(super) fn touch(&mut self, part: u32) {
        self.vmcb.control.clean &= !part;
    }

    /// Do what [`Before`] says, then enter. `false`: the guest is not to be entered, it has triple-faulted.
    #[cold]
    #[inline(never)]
    pub(super) fn prepare_and_enter(&mut self) -> bool {
        if self.before.contains(Before::TRIPLE_FAULT) {
            return false;
        }
        let todo = core::mem::replace(&mut self.before, Before::empty());
        let event = core::mem::take(&mut self.event);
        self.queue(event);
        if event == 0 {
            self.advanced = 0;
        }
        self.vmcb.control.tlb_control = self.refresh_asid(todo);
        if event != 0 || self.vmcb.control.tlb_control != tlb_control::NOTHING {
            self.before |= Before::ONE_SHOT;
        }
        if todo.contains(Before::PRECAUTIONS) {
            self.before |= Before::PRECAUTIONS;
            self.enter_with_precautions();
        } else {
            self.enter();
        }
        true
    }

    /// The world switch.
    #[inline(always)]
    pub(super) fn enter(&mut self) {
        self.complete();
        // SAFETY: interrupts are off by the contract of `GuestCpu::run`, `load` has recorded this CPU's state page, and the VMCB
        // confines the guest to its nested page tables.
        unsafe { world_switch(self.vmcb.hpa(), &raw mut self.gprs, self.host_state) };
    }

    /// The same with precautions.
    fn enter_with_precautions(&mut self) {
        self.complete();
        let (gprs, precautions) = (&raw mut self.gprs, &raw mut self.precautions);
        // SAFETY: as in `enter`. SPEC_CTRL is among the precautions where it exists, with the hypervisor's value and one
        // that the exit loop has checked.
        unsafe { careful_world_switch(self.vmcb.hpa(), gprs, self.host_state, precautions) };
    }

    /// The guest has left by IOIO. If that is a plain read, of a port that it does not have, the read is done, and it goes on. (Nobody's request is missed by
    /// that: the vCPU counts as in the guest, so an interrupt comes with it, which is the next exit.)
    #[inline(always)]
    pub(super) fn read_nothing(&mut self) -> bool {
        // EXITINFO1 (APM vol. 2, 15.10.2).
        const IN: u64 = 1 << 0;
        const STRING: u64 = 1 << 2;
        const BYTE: u64 = 1 << 4;
        const WORD: u64 = 1 << 5;
        let Vmcb { control, save } = &mut *self.vmcb;
        let info = control.exit_info1;
        let plain = info & (IN | STRING) == IN && save.rflags & (RFLAGS_TF | RFLAGS_RF) == 0;
        if !plain || !self.after.is_empty() {
            return false;
        }
        self.gprs.rax = if info & BYTE != 0 {
            self.gprs.rax | 0xff
        } else if info & WORD != 0 {
            self.gprs.rax | 0xffff
        } else {
            // A 32-bit result clears the upper half.
            0xffff_ffff
        };
        // RIP behind the instruction (15.10.2).
        save.rip = control.exit_info2;
        control.interrupt_shadow &= !SHADOW;
        true
    }

    /// Before each entry: the VMCB is valid, and has RAX.
    #[inline(always)]
    fn complete(&mut self) {
        debug_assert_eq!(
            vmcb::check(&self.vmcb, self.host.caps.asids - 1, self.host.caps.address_bits),
            Ok(())
        );
        self.vmcb.save.rax = self.gprs.rax;
    }

    /// Put `event` (raw) where the next entry delivers it from: EVENTINJ, or V_IRQ where that has to be, no window is waited for with it, and no
    /// NMI waits for its delivery: then an interrupt of the host is on its way to end it, and would come before V_IRQ at each entry.
    fn queue(&mut self, event: u64) {
        let interrupt = event & (event::VALID | event::TYPE) == event::VALID | event::INTERRUPT;
        let free = self.vmcb.control.v_intr & v_intr::IRQ == 0 && !self.nmi_waits_for_delivery();
        let control = &mut self.vmcb.control;
        if interrupt && self.host.caps.tcg && free {
            let vector = 0xff << v_intr::VECTOR;
            control.v_intr = control.v_intr & !vector | (event & 0xff) << v_intr::VECTOR | v_intr::NOW;
            control.event_inj = 0;
            self.after |= After::VIRTUAL_INTERRUPT;
            self.touch(clean::TPR);
        } else {
            control.event_inj = event;
        }
    }

    /// An interrupt that V_IRQ was to deliver waits for the next entry if this exit came first.
    #[cold]
    #[inline(never)]
    pub(super) fn take_back_interrupt(&mut self) {
        if !self.after.contains(After::VIRTUAL_INTERRUPT) {
            return;
        }
        self.after.remove(After::VIRTUAL_INTERRUPT);
        let control = &mut self.vmcb.control;
        if control.v_intr & v_intr::IRQ != 0 {
            control.v_intr &= !v_intr::IRQ;
            let vector = control.v_intr >> v_intr::VECTOR & 0xff;
            self.touch(clean::TPR);
            self.requeue(event::VALID | event::INTERRUPT | vector);
        }
    }

    /// Flush as `todo` demands; gives TLB_CONTROL for the next entry.
    pub(super) fn refresh_asid(&mut self, todo: Before) -> u8 {
        let Some(mut cpu) = self.cpu else {
            return tlb_control::NOTHING;
        };
        if !todo.intersects(Before::FLUSH | Before::NEW_ASID) {
            return tlb_control::NOTHING;
        }
        if self.host.caps.flush_by_asid && !todo.contains(Before::NEW_ASID) {
            return tlb_control::THIS_ASID;
        }
        // SAFETY: set by `load` to the data of this CPU, which lives for ever; interrupts are off and nobody else holds it.
        let (asid, control) = unsafe { cpu.as_mut() }.asids.take();
        self.asid = asid;
        self.vmcb.control.asid = asid.number;
        self.touch(clean::ASID);
        control
    }

    /// An NMI is kept away by an event or an interrupt shadow, and not by the handler of another.
    fn nmi_waits_for_delivery(&self) -> bool {
        let held = After::NMI_MASKED | After::STEPPING;
        self.after.contains(After::WANT_NMI) && !self.after.intersects(held)
    }

    /// Neither an interrupt shadow nor an event already queued.
    pub(super) fn is_ready(&self) -> bool {
        self.event == 0 && self.vmcb.control.interrupt_shadow & SHADOW == 0
    }

    /// Ask for a VINTR exit: a virtual interrupt of highest priority, which is never delivered.
    pub(super) fn open_interrupt_window(&mut self) {
        self.vmcb.control.v_intr |= v_intr::NOW;
        self.vmcb.control.intercept1 |= intercept1::VINTR;
        self.touch(clean::TPR | clean::INTERCEPTS);
    }

    pub(super) fn close_interrupt_window(&mut self) {
        self.vmcb.control.v_intr &= !v_intr::IRQ;
        self.vmcb.control.intercept1 &= !intercept1::VINTR;
        self.touch(clean::TPR | clean::INTERCEPTS);
    }

    /// The exit came in the middle of an event's delivery: deliver it again (APM vol. 2, 15.7.2, 15.20).
    #[cold]
    #[inline(never)]
    pub(super) fn requeue(&mut self, raw: u64) {
        if inject::is_software(raw) {
            self.vmcb.save.rip = self.vmcb.save.rip.wrapping_sub(u64::from(self.advanced));
        } else {
            self.event =
                raw & (event::VALID | event::TYPE | event::HAS_ERROR_CODE | 0xff | 0xffff_ffff << 32);
            self.before |= Before::EVENT;
        }
    }

    /// Exits that [`After`] lets concern the back end itself.
    #[cold]
    #[inline(never)]
    pub(super) fn look_after(&mut self, raw: Raw) -> Exit {
        self.take_back_interrupt();
        match raw.code {
            code::VINTR => {
                self.close_interrupt_window();
                self.after.remove(After::WANT_INTERRUPT);
                Exit::InterruptWindow
            }
            code::IRET => {
                self.returning = Some(self.vmcb.save.rip);
                self.after.remove(After::NMI_MASKED);
                self.vmcb.control.intercept1 &= !intercept1::IRET;
                self.touch(clean::INTERCEPTS);
                if self.after.contains(After::WANT_NMI) {
                    self.step_over_iret();
                }
                Exit::Handled
            }
            code::EXCEPTION_DB if self.after.contains(After::STEPPING) => {
                let own = self.after.contains(After::OWN_TRAP);
                self.after
                    .remove(After::STEPPING | After::OWN_TRAP | After::WANT_NMI);
                self.returning = None;
                if own {
                    // The guest steps through its NMI handler itself: the trap is its own, too.
                    return decode(raw);
                }
                self.vmcb.save.dr6 &= !DR6_BS;
                self.touch(clean::DEBUG_REGS);
                Exit::NmiWindow
            }
            _ => decode(raw),
        }
    }

    /// Trap after the IRET at RIP, which brings its own TF from the stack.
    pub(super) fn step_over_iret(&mut self) {
        self.after |= After::STEPPING;
        self.after
            .set(After::OWN_TRAP, self.vmcb.save.rflags & RFLAGS_TF != 0);
        self.vmcb.save.rflags |= RFLAGS_TF;
    }

    /// An instruction that was carried out for the guest ends as others do: RF is cleared, and a single step traps (APM vol. 2, 13.1.4).
    #[cold]
    pub(super) fn finish_instruction(&mut self) {
        self.vmcb.save.rflags &= !RFLAGS_RF;
        if self.vmcb.save.rflags & RFLAGS_TF != 0 && !self.after.contains(After::STEPPING) {
            self.vmcb.save.dr6 |= DR6_BS;
            self.touch(clean::DEBUG_REGS);
            self.inject(Event::exception(1, None));
        }
    }

    /// The guest has written SPEC_CTRL: it is switched by hand if it has to be. Where the VMCB has it, the CPU adds what
    /// the register itself has while the guest runs.
    pub(super) fn set_spec_ctrl(&mut self, value: u64) {
        if self.host.caps.virtual_spec_ctrl {
            self.vmcb.save.spec_ctrl = value;
            return;
        }
        // Each write exits, so that it may also cease to be switched.
        self.precautions = Precautions::of_any_guest();
        if self.host.caps.spec_ctrl {
            self.precautions.set_guests(value);
        }
        self.before.remove(Before::PRECAUTIONS);
        self.before |= Before::with(&self.precautions);
    }

    /// Where a software event is to return to: behind its instruction (APM vol. 2, 15.20). CPUs push RIP or, with next-RIP saving,
    /// the next RIP (Bochs has the latter and pushes RIP all the same): both say so.
    pub(super) fn set_return_address(&mut self, event: Event) {
        let software = !matches!(
            event.kind,
            EventKind::ExternalInterrupt | EventKind::Nmi | EventKind::HardwareException
        );
        self.advanced = 0;
        if software {
            self.advanced = event.instruction_len;
            let save = &mut self.vmcb.save;
            save.rip = save.rip.wrapping_add(u64::from(self.advanced));
            self.vmcb.control.next_rip = save.rip;
        }
    }

    pub(super) fn segment_slot(&mut self, reg: SegmentReg) -> &mut VmcbSegment {
        let save = &mut self.vmcb.save;
        match reg {
            SegmentReg::Es => &mut save.es,
            SegmentReg::Cs => &mut save.cs,
            SegmentReg::Ss => &mut save.ss,
            SegmentReg::Ds => &mut save.ds,
            SegmentReg::Fs => &mut save.fs,
            SegmentReg::Gs => &mut save.gs,
            SegmentReg::Ldtr => &mut save.ldtr,
            SegmentReg::Tr => &mut save.tr,
        }
    }

    /// EFER.LMA is EFER.LME and CR0.PG.
    pub(super) fn update_lma(&mut self) {
        let save = &mut self.vmcb.save;
        let active = save.efer & EFER_LME != 0 && save.cr0 & CR0_PG != 0;
        save.efer = if active {
            save.efer | EFER_LMA
        } else {
            save.efer & !EFER_LMA
        };
    }
}
