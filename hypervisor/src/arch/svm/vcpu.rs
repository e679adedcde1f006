//! [`Vcpu`]: one guest CPU on AMD-V.
//!
//! The path from exit to entry is what every guest waits for, so that all that is rare hides behind two bytes: [`Before`] says what to
//! do before the next entry, [`After`] what an exit may have to be looked at for. Both are empty on the common path.
// UNSAFETY: enters the guest.
#![expect(unsafe_code, reason = "enters the guest, and reaches this CPU's own data")]

use core::fmt::Write;
use core::ptr::NonNull;

use bitflags::bitflags;
use x86_64::registers::model_specific::Msr;

use super::asid::Asid;
use super::cpu::{Cpu, Host, host};
use super::entry::world_switch;
use super::exit::{Raw, code, decode};
use super::inject;
use super::setup::{set_controls, set_reset_state};
use super::vmcb::{
    self, CR0_ET, DR7_RESET, EFER_SVME, SHADOW, Vmcb, VmcbSegment, clean, cr_write, event, intercept1,
    tlb_control, v_intr,
};
use crate::arch::apic_page::ApicPage;
use crate::arch::debug_regs::DebugRegs;
use crate::arch::fpu::Fpu;
use crate::arch::msr_policy::msr;
use crate::arch::msr_switch::SwitchedMsrs;
use crate::arch::owned::Owned;
use crate::arch::pending::{Combined, combine};
use crate::arch::{
    CpuMode, Event, EventKind, Exit, Flush, Gprs, GuestCpu, Left, OutOfMemory, Segment, SegmentReg, SysReg,
    VcpuConfig,
};
use crate::types::Hpa;

const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_RF: u64 = 1 << 16;
const RFLAGS_VM: u64 = 1 << 17;
const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const ATTR_LONG: u16 = 1 << 9;
const ATTR_BIG: u16 = 1 << 10;
const DR6_BS: u64 = 1 << 14;

bitflags! {
    /// Work before the next entry.
    #[derive(Clone, Copy, Debug)]
    struct Before: u8 {
        /// Put `event` into EVENTINJ.
        const EVENT = 1 << 0;
        /// EVENTINJ or TLB_CONTROL hold what was for one entry only.
        const ONE_SHOT = 1 << 1;
        /// Forget the guest's translations.
        const FLUSH = 1 << 2;
        /// New on this CPU, or its ASID is another's now.
        const NEW_ASID = 1 << 3;
        /// Put the guest's SPEC_CTRL onto the CPU.
        const SPEC_CTRL = 1 << 4;
        /// Two faults too many: do not enter.
        const TRIPLE_FAULT = 1 << 6;
    }
}

bitflags! {
    /// What to look at after an exit.
    #[derive(Clone, Copy, Debug)]
    struct After: u8 {
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
        /// Put the host's SPEC_CTRL back.
        const SPEC_CTRL = 1 << 5;
    }
}

/// A guest CPU.
pub struct Vcpu {
    vmcb: Owned<Vmcb>,
    gprs: Gprs,
    before: Before,
    after: After,
    host: &'static Host,
    /// [`Cpu::state`] of the CPU that this is loaded on.
    host_state: Hpa,
    /// The CPU that this is, or was last, loaded on.
    cpu: Option<NonNull<Cpu>>,
    asid: Asid,
    /// The event to inject next, raw; 0: none.
    event: u64,
    /// How far RIP was moved past the instruction of the event injected last, if it is a software one.
    advanced: u8,
    /// RIP of the IRET that ends the NMI handler, not known to have completed: NMIs are still masked there.
    returning: Option<u64>,
    spec_ctrl: u64,
    debug_regs: DebugRegs,
    msrs: SwitchedMsrs,
    fpu: Fpu,
    apic_page: Owned<ApicPage>,
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
        let list: &[u32] = if host.caps.tsc_aux { &[msr::TSC_AUX] } else { &[] };
        Ok(Vcpu {
            vmcb,
            gprs: Gprs::default(),
            before: Before::NEW_ASID,
            after: After::empty(),
            host,
            host_state: Hpa(0),
            cpu: None,
            asid: Asid::default(),
            event: 0,
            advanced: 0,
            returning: None,
            spec_ctrl: 0,
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
    fn touch(&mut self, part: u32) {
        self.vmcb.control.clean &= !part;
    }

    /// What [`Before`] says. `false`: the guest is not to be entered, it has triple-faulted.
    #[cold]
    #[inline(never)]
    fn prepare(&mut self) -> bool {
        if self.before.contains(Before::TRIPLE_FAULT) {
            return false;
        }
        let todo = core::mem::replace(&mut self.before, Before::empty());
        let event = core::mem::take(&mut self.event);
        self.vmcb.control.event_inj = event;
        if event == 0 {
            self.advanced = 0;
        }
        self.vmcb.control.tlb_control = self.refresh_asid(todo);
        if event != 0 || self.vmcb.control.tlb_control != tlb_control::NOTHING {
            self.before |= Before::ONE_SHOT;
        }
        if todo.contains(Before::SPEC_CTRL) {
            self.before |= Before::SPEC_CTRL;
            self.after |= After::SPEC_CTRL;
            // SAFETY: the flag is set only where the register exists, with a value that the exit loop has checked.
            unsafe { Msr::new(msr::SPEC_CTRL).write(self.spec_ctrl) };
        }
        true
    }

    /// Flush as `todo` demands; gives TLB_CONTROL for the next entry.
    fn refresh_asid(&mut self, todo: Before) -> u8 {
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

    /// Neither an interrupt shadow nor an event already queued.
    fn is_ready(&self) -> bool {
        self.event == 0 && self.vmcb.control.interrupt_shadow & SHADOW == 0
    }

    /// Ask for a VINTR exit: a virtual interrupt of highest priority, which is never delivered.
    fn open_interrupt_window(&mut self) {
        self.vmcb.control.v_intr |= v_intr::IRQ | v_intr::PRIORITY_15 | v_intr::IGNORE_TPR;
        self.vmcb.control.intercept1 |= intercept1::VINTR;
        self.touch(clean::TPR | clean::INTERCEPTS);
    }

    fn close_interrupt_window(&mut self) {
        self.vmcb.control.v_intr &= !v_intr::IRQ;
        self.vmcb.control.intercept1 &= !intercept1::VINTR;
        self.touch(clean::TPR | clean::INTERCEPTS);
    }

    /// The exit came in the middle of an event's delivery: deliver it again (APM vol. 2, 15.7.2, 15.20).
    #[cold]
    #[inline(never)]
    fn requeue(&mut self, raw: u64) {
        if inject::is_software(raw) {
            self.vmcb.save.rip = self.vmcb.save.rip.wrapping_sub(u64::from(self.advanced));
        } else {
            self.event =
                raw & (event::VALID | event::TYPE | event::HAS_ERROR_CODE | 0xff | 0xffff_ffff << 32);
            self.before |= Before::EVENT;
        }
    }

    #[cold]
    #[inline(never)]
    fn restore_spec_ctrl(&mut self) {
        if let Some(cpu) = self.cpu.filter(|_| self.after.contains(After::SPEC_CTRL)) {
            self.after.remove(After::SPEC_CTRL);
            // SAFETY: this CPU's own data; its SPEC_CTRL is the value that the host started with.
            unsafe { Msr::new(msr::SPEC_CTRL).write(cpu.as_ref().spec_ctrl) };
        }
    }

    /// Exits that [`After`] lets concern the back end itself.
    #[cold]
    #[inline(never)]
    fn look_after(&mut self, raw: Raw) -> Exit {
        self.restore_spec_ctrl();
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
    fn step_over_iret(&mut self) {
        self.after |= After::STEPPING;
        self.after
            .set(After::OWN_TRAP, self.vmcb.save.rflags & RFLAGS_TF != 0);
        self.vmcb.save.rflags |= RFLAGS_TF;
    }

    /// An instruction that was carried out for the guest ends as others do: RF is cleared, and a single step traps (APM vol. 2, 13.1.4).
    #[cold]
    fn finish_instruction(&mut self) {
        self.vmcb.save.rflags &= !RFLAGS_RF;
        if self.vmcb.save.rflags & RFLAGS_TF != 0 && !self.after.contains(After::STEPPING) {
            self.vmcb.save.dr6 |= DR6_BS;
            self.touch(clean::DEBUG_REGS);
            self.inject(Event::exception(1, None));
        }
    }

    /// Does the guest's SPEC_CTRL have to be switched by hand.
    fn update_spec_ctrl(&mut self) {
        let Some(cpu) = self.cpu else { return };
        let caps = &self.host.caps;
        // SAFETY: data of the CPU that this is loaded on.
        let differs = unsafe { cpu.as_ref() }.spec_ctrl != self.spec_ctrl;
        self.before.set(
            Before::SPEC_CTRL,
            caps.spec_ctrl && !caps.virtual_spec_ctrl && differs,
        );
    }

    /// Where a software event is to return to: behind its instruction (APM vol. 2, 15.20). CPUs push RIP or, with next-RIP saving,
    /// the next RIP (Bochs has the latter and pushes RIP all the same): both say so.
    fn set_return_address(&mut self, event: Event) {
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

    fn segment_slot(&mut self, reg: SegmentReg) -> &mut VmcbSegment {
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
    fn update_lma(&mut self) {
        let save = &mut self.vmcb.save;
        let active = save.efer & EFER_LME != 0 && save.cr0 & CR0_PG != 0;
        save.efer = if active {
            save.efer | EFER_LMA
        } else {
            save.efer & !EFER_LMA
        };
    }
}

impl GuestCpu for Vcpu {
    #[inline]
    fn run(&mut self) -> Left {
        if !self.before.is_empty() && !self.prepare() {
            return Left::Exit(code::SHUTDOWN);
        }
        debug_assert_eq!(
            vmcb::check(&self.vmcb, self.host.caps.asids - 1, self.host.caps.address_bits),
            Ok(())
        );
        self.vmcb.save.rax = self.gprs.rax;
        // SAFETY: interrupts are off by the contract of `GuestCpu::run`, `load` has recorded this CPU's state page, and the VMCB
        // confines the guest to its nested page tables.
        unsafe { world_switch(self.vmcb.hpa(), &raw mut self.gprs, self.host_state) };
        self.gprs.rax = self.vmcb.save.rax;
        let control = &mut self.vmcb.control;
        control.clean = if self.host.caps.clean_bits { clean::ALL } else { 0 };
        match control.exit_code {
            // VMMCALL is no part of a delivery.
            code::VMMCALL => {
                if !self.after.is_empty() {
                    self.restore_spec_ctrl();
                }
                Left::Hypercall
            }
            code => Left::Exit(code),
        }
    }

    #[inline]
    fn exit(&mut self, code: u64) -> Exit {
        if self.before.contains(Before::TRIPLE_FAULT) {
            // It was not entered, and the VMCB tells of an earlier exit.
            return Exit::TripleFault;
        }
        let control = &self.vmcb.control;
        let raw = Raw {
            code,
            info1: control.exit_info1,
            info2: control.exit_info2,
            int_info: control.exit_int_info,
        };
        if raw.int_info & event::VALID != 0 {
            self.requeue(raw.int_info);
        }
        if self.after.is_empty() {
            decode(raw)
        } else {
            self.look_after(raw)
        }
    }

    #[inline]
    fn gprs(&mut self) -> &mut Gprs {
        &mut self.gprs
    }

    #[inline]
    fn rip(&self) -> u64 {
        self.vmcb.save.rip
    }

    #[inline]
    fn set_rip(&mut self, rip: u64) {
        self.vmcb.save.rip = rip;
    }

    #[inline]
    fn instruction_len(&self) -> Option<u8> {
        let control = &self.vmcb.control;
        let next = if self.host.caps.next_rip {
            control.next_rip
        } else if control.exit_code == code::IOIO {
            control.exit_info2
        } else {
            return None;
        };
        // The difference of the low halves is right in every mode. Next-RIP is 0 where the exit is not an instruction's.
        let len = (next as u32).wrapping_sub(self.vmcb.save.rip as u32);
        (1..=15).contains(&len).then_some(len as u8)
    }

    #[inline]
    fn skip(&mut self, len: u8) {
        let save = &mut self.vmcb.save;
        let next = save.rip.wrapping_add(u64::from(len));
        let wide = save.efer & EFER_LMA != 0 && save.cs.attr & ATTR_LONG != 0;
        save.rip = if wide { next } else { next & 0xffff_ffff };
        let flags = save.rflags;
        self.vmcb.control.interrupt_shadow &= !SHADOW;
        if flags & (RFLAGS_TF | RFLAGS_RF) != 0 {
            self.finish_instruction();
        }
    }

    #[inline]
    fn cpl(&self) -> u8 {
        self.vmcb.save.cpl
    }

    #[inline]
    fn mode(&self) -> CpuMode {
        let save = &self.vmcb.save;
        if save.efer & EFER_LMA != 0 && save.cs.attr & ATTR_LONG != 0 {
            CpuMode::Long
        } else if save.cr0 & CR0_PE == 0 {
            CpuMode::Real
        } else if save.rflags & RFLAGS_VM != 0 {
            CpuMode::Virtual8086
        } else if save.cs.attr & ATTR_BIG != 0 {
            CpuMode::Protected32
        } else {
            CpuMode::Protected16
        }
    }

    fn read(&self, reg: SysReg) -> u64 {
        let save = &self.vmcb.save;
        match reg {
            SysReg::Rsp => save.rsp,
            SysReg::Rflags => save.rflags,
            SysReg::Cr0 => save.cr0,
            SysReg::Cr2 => save.cr2,
            SysReg::Cr3 => save.cr3,
            SysReg::Cr4 => save.cr4,
            SysReg::Cr8 => self.vmcb.control.v_intr & v_intr::TPR & 0xf,
            SysReg::Xcr0 => self.fpu.xcr0(),
            SysReg::Dr0 => self.debug_regs.address(0),
            SysReg::Dr1 => self.debug_regs.address(1),
            SysReg::Dr2 => self.debug_regs.address(2),
            SysReg::Dr3 => self.debug_regs.address(3),
            SysReg::Dr6 => save.dr6,
            SysReg::Dr7 => save.dr7,
            SysReg::Efer => save.efer & !EFER_SVME,
            SysReg::Star => save.star,
            SysReg::Lstar => save.lstar,
            SysReg::Cstar => save.cstar,
            SysReg::Sfmask => save.sfmask,
            SysReg::KernelGsBase => save.kernel_gs_base,
            SysReg::SysenterCs => save.sysenter_cs,
            SysReg::SysenterEsp => save.sysenter_esp,
            SysReg::SysenterEip => save.sysenter_eip,
            SysReg::Pat => save.g_pat,
            SysReg::TscAux => self.msrs.get(msr::TSC_AUX).unwrap_or(0),
            SysReg::SpecCtrl if self.host.caps.virtual_spec_ctrl => save.spec_ctrl,
            SysReg::SpecCtrl => self.spec_ctrl,
            SysReg::GdtrBase => save.gdtr.base,
            SysReg::GdtrLimit => u64::from(save.gdtr.limit),
            SysReg::IdtrBase => save.idtr.base,
            SysReg::IdtrLimit => u64::from(save.idtr.limit),
        }
    }

    fn write(&mut self, reg: SysReg, value: u64) {
        self.touch(clean::ALL);
        let save = &mut self.vmcb.save;
        match reg {
            SysReg::Rsp => save.rsp = value,
            SysReg::Rflags => save.rflags = value | 2,
            SysReg::Cr0 => {
                save.cr0 = value | CR0_ET;
                self.update_lma();
                self.before |= Before::FLUSH;
            }
            SysReg::Cr2 => save.cr2 = value,
            SysReg::Cr3 => save.cr3 = value,
            SysReg::Cr4 => {
                save.cr4 = value;
                self.before |= Before::FLUSH;
            }
            SysReg::Cr8 => {
                let v_intr = &mut self.vmcb.control.v_intr;
                *v_intr = *v_intr & !v_intr::TPR | value & 0xf;
            }
            SysReg::Xcr0 => self.fpu.set_xcr0(value),
            SysReg::Dr0 => self.debug_regs.set_address(0, value),
            SysReg::Dr1 => self.debug_regs.set_address(1, value),
            SysReg::Dr2 => self.debug_regs.set_address(2, value),
            SysReg::Dr3 => self.debug_regs.set_address(3, value),
            SysReg::Dr6 => save.dr6 = value & 0xffff_ffff,
            SysReg::Dr7 => save.dr7 = value & 0xffff_ffff | DR7_RESET,
            SysReg::Efer => {
                save.efer = value | EFER_SVME;
                self.update_lma();
            }
            SysReg::Star => save.star = value,
            SysReg::Lstar => save.lstar = value,
            SysReg::Cstar => save.cstar = value,
            SysReg::Sfmask => save.sfmask = value,
            SysReg::KernelGsBase => save.kernel_gs_base = value,
            SysReg::SysenterCs => save.sysenter_cs = value,
            SysReg::SysenterEsp => save.sysenter_esp = value,
            SysReg::SysenterEip => save.sysenter_eip = value,
            SysReg::Pat => save.g_pat = value,
            SysReg::TscAux => {
                self.msrs.set(msr::TSC_AUX, value);
            }
            SysReg::SpecCtrl => {
                save.spec_ctrl = value;
                self.spec_ctrl = value;
                self.update_spec_ctrl();
            }
            SysReg::GdtrBase => save.gdtr.base = value,
            SysReg::GdtrLimit => save.gdtr.limit = value as u32 & 0xffff,
            SysReg::IdtrBase => save.idtr.base = value,
            SysReg::IdtrLimit => save.idtr.limit = value as u32 & 0xffff,
        }
    }

    fn segment(&self, reg: SegmentReg) -> Segment {
        let save = &self.vmcb.save;
        let segment = match reg {
            SegmentReg::Es => save.es,
            SegmentReg::Cs => save.cs,
            SegmentReg::Ss => save.ss,
            SegmentReg::Ds => save.ds,
            SegmentReg::Fs => save.fs,
            SegmentReg::Gs => save.gs,
            SegmentReg::Ldtr => save.ldtr,
            SegmentReg::Tr => save.tr,
        };
        segment.into()
    }

    fn set_segment(&mut self, reg: SegmentReg, segment: Segment) {
        *self.segment_slot(reg) = segment.into();
        if reg == SegmentReg::Ss {
            // The hardware keeps the privilege level apart and checks it against nothing.
            self.vmcb.save.cpl = (segment.attr.bits() >> 5 & 3) as u8;
        }
        self.touch(clean::SEGMENTS);
    }

    fn apic_page(&self) -> &ApicPage {
        &self.apic_page
    }

    fn inject(&mut self, event: Event) {
        // Of two interrupts the second would be lost here: the caller asks first whether the guest can take one.
        debug_assert!(self.event == 0 || event.kind == EventKind::HardwareException);
        let event = match inject::decode(self.event).map(|first| combine(first, event)) {
            None => event,
            Some(Combined::Event(event)) => event,
            Some(Combined::TripleFault) => {
                self.before |= Before::TRIPLE_FAULT;
                return;
            }
        };
        if event.kind == EventKind::Nmi {
            self.after |= After::NMI_MASKED;
            self.returning = None;
            self.vmcb.control.intercept1 |= intercept1::IRET;
            self.touch(clean::INTERCEPTS);
        }
        self.set_return_address(event);
        self.event = inject::encode(event);
        self.before |= Before::EVENT;
    }

    fn interruptible(&self) -> bool {
        self.is_ready() && self.vmcb.save.rflags & RFLAGS_IF != 0
    }

    fn nmi_allowed(&self) -> bool {
        self.is_ready()
            && !self.after.contains(After::NMI_MASKED)
            && self.returning != Some(self.vmcb.save.rip)
    }

    fn request_interrupt_window(&mut self, on: bool) {
        if on == self.after.contains(After::WANT_INTERRUPT) {
            return;
        }
        self.after.set(After::WANT_INTERRUPT, on);
        if on {
            self.open_interrupt_window();
        } else {
            self.close_interrupt_window();
        }
    }

    fn request_priority_window(&mut self, class: Option<u8>) {
        // Any write of CR8 exits: which class was asked for does not matter.
        let on = if class.is_some() { cr_write::CR8 } else { 0 };
        let old = self.vmcb.control.cr_write;
        let new = old & !cr_write::CR8 | on;
        if new != old {
            self.vmcb.control.cr_write = new;
            self.touch(clean::INTERCEPTS);
        }
    }

    fn request_nmi_window(&mut self, on: bool) -> bool {
        self.after.set(After::WANT_NMI, on);
        let at_iret = self.returning == Some(self.vmcb.save.rip);
        if on && at_iret && !self.after.contains(After::STEPPING) {
            self.step_over_iret();
        }
        // Only the IRET that ends a handler is intercepted, not the end of an interrupt shadow.
        !on || at_iret || self.after.intersects(After::NMI_MASKED | After::STEPPING)
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.vmcb.control.tsc_offset = offset;
        self.touch(clean::INTERCEPTS);
    }

    /// AMD-V has no such timer; the host's own interrupts end a guest's run.
    fn set_preemption_timer(&mut self, _ticks: Option<u64>) {}

    fn flush(&mut self, _what: Flush) {
        self.before |= Before::FLUSH;
    }

    fn load(&mut self) {
        let cpu = Cpu::current();
        // SAFETY: this CPU's own data, interrupts are off.
        let current = cpu.is_some_and(|cpu| unsafe { cpu.as_ref() }.asids.is_current(self.asid));
        if cpu != self.cpu || !current {
            self.before |= Before::NEW_ASID;
            self.touch(clean::ALL);
        }
        self.cpu = cpu;
        self.host_state = Cpu::state(Cpu::current_hpa());
        self.update_spec_ctrl();
        self.debug_regs.load();
        self.msrs.load();
        self.fpu.load();
    }

    fn unload(&mut self) {
        self.fpu.unload();
        self.msrs.unload();
        self.debug_regs.unload();
    }

    fn describe(&self, out: &mut dyn Write) {
        let (c, s) = (&self.vmcb.control, &self.vmcb.save);
        // A log line that cannot be written is lost, which is all that can be done.
        let _ = write!(
            out,
            "svm: exit {:#x} ({:#x}, {:#x}) int {:#x} at {:x}:{:x} cpl {} rflags {:x} rsp {:x} cr0 {:x} cr2 {:x} cr3 {:x} \
             cr4 {:x} efer {:x} asid {}",
            c.exit_code,
            c.exit_info1,
            c.exit_info2,
            c.exit_int_info,
            s.cs.selector,
            s.rip,
            s.cpl,
            s.rflags,
            s.rsp,
            s.cr0,
            s.cr2,
            s.cr3,
            s.cr4,
            s.efer,
            c.asid,
        );
    }
}
