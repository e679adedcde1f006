//! [`GuestCpu`] for AMD-V: a guest CPU's registers, events and controls.
// UNSAFETY: enters the guest.
#![expect(unsafe_code, reason = "enters the guest")]

use core::arch::asm;
use core::fmt::Write;

use super::cpu::{Cpu, tsc_ratio};
use super::exit::{Raw, code, decode};
use super::inject;
use super::vcpu::{After, Before, EFER_LMA, RFLAGS_RF, RFLAGS_TF, Vcpu};
use super::vmcb::{
    CR0_ET, DR7_RESET, EFER_SVME, SHADOW, clean, cr_write, event, intercept1, intercept2, v_intr,
};
use crate::arch::apic_page::ApicPage;
use crate::arch::msr_policy::msr;
use crate::arch::pending::{Combined, combine};
use crate::arch::{
    CpuMode, Event, EventKind, Exit, Flush, Gprs, GuestCpu, Left, Segment, SegmentReg, SysReg,
};

const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_VM: u64 = 1 << 17;
const CR0_PE: u64 = 1;
const ATTR_LONG: u16 = 1 << 9;
const ATTR_BIG: u16 = 1 << 10;

impl GuestCpu for Vcpu {
    #[inline]
    unsafe fn run(this: *mut Self) -> Left {
        // SAFETY: the caller's, and there are no calls.
        let vcpu = unsafe { &mut *this };
        loop {
            if vcpu.before.is_empty() {
                vcpu.enter();
            } else if !vcpu.prepare_and_enter() {
                return Left::Exit(code::SHUTDOWN);
            }
            if vcpu.host.caps.tcg {
                // SAFETY: V_INTR_MASKING is over, so this is the host's own TPR, which is 0 anyhow.
                unsafe { asm!("mov cr8, {}", in(reg) 0u64, options(nomem, nostack, preserves_flags)) };
            }
            vcpu.gprs.rax = vcpu.vmcb.save.rax;
            vcpu.vmcb.control.clean = if vcpu.host.caps.clean_bits { clean::ALL } else { 0 };
            let exit_code = vcpu.vmcb.control.exit_code;
            return match exit_code {
                // VMMCALL is no part of a delivery.
                code::VMMCALL => {
                    if !vcpu.after.is_empty() {
                        vcpu.take_back_interrupt();
                    }
                    Left::Hypercall
                }
                code::IOIO if vcpu.read_nothing() => continue,
                code => Left::Exit(code),
            };
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
            SysReg::SpecCtrl => self.precautions.guests.into(),
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
            SysReg::SpecCtrl => self.set_spec_ctrl(value),
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

    #[inline]
    fn delivering(&self) -> Option<Event> {
        inject::decode(self.event)
    }

    #[inline]
    fn inject(&mut self, event: Event) {
        // Of two interrupts the second would be lost here: the caller asks first whether the guest can take one.
        debug_assert!(self.event == 0 || event.kind == EventKind::HardwareException);
        let event = match self.delivering().map(|first| combine(first, event)) {
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

    fn forget_events(&mut self) {
        // What an entry has had in EVENTINJ or V_IRQ is gone from there by its exit.
        (self.event, self.advanced, self.returning) = (0, 0, None);
        self.before.remove(Before::EVENT | Before::TRIPLE_FAULT);
        self.after
            .remove(After::NMI_MASKED | After::WANT_NMI | After::STEPPING | After::OWN_TRAP);
        self.vmcb.control.interrupt_shadow &= !SHADOW;
        self.vmcb.control.intercept1 &= !intercept1::IRET;
        self.touch(clean::INTERCEPTS);
    }

    #[inline]
    fn interruptible(&self) -> bool {
        self.is_ready() && self.vmcb.save.rflags & RFLAGS_IF != 0
    }

    fn nmi_allowed(&self) -> bool {
        self.is_ready()
            && !self.after.contains(After::NMI_MASKED)
            && self.returning != Some(self.vmcb.save.rip)
    }

    #[inline]
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

    fn set_tsc_multiplier(&mut self, multiplier: u64) {
        self.tsc_ratio = tsc_ratio(multiplier);
    }

    fn emulate_tsc(&mut self, on: bool) {
        let control = &mut self.vmcb.control;
        if on != (control.intercept1 & intercept1::RDTSC != 0) {
            control.intercept1 ^= intercept1::RDTSC;
            control.intercept2 ^= intercept2::RDTSCP;
            self.touch(clean::INTERCEPTS);
        }
    }

    /// AMD-V has no such timer; the host's own interrupts end a guest's run.
    fn set_preemption_timer(&mut self, _time: u64) {}

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
        if cpu != self.cpu {
            self.cpu = cpu;
            self.host_state = Cpu::state(Cpu::current_hpa());
        }
        if self.host.caps.tsc_ratio
            && let Some(mut cpu) = cpu
        {
            // SAFETY: as above, and nobody else refers to it.
            unsafe { cpu.as_mut() }.set_tsc_ratio(self.tsc_ratio);
        }
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
