//! [`GuestCpu`] for VT-x: a guest CPU's registers, events and controls.
// UNSAFETY: RSP, CR2 and the like of the guest; no memory is touched but what `Vcpu` owns.
#![expect(unsafe_code, reason = "writes CR2 of a loaded guest")]

use core::arch::asm;
use core::fmt::Write;

use x86_64::registers::control::Cr2;

use super::controls::{EntryControls, Primary};
use super::field::{self, Field, Fields, SegmentFields};
use super::reset::{CD, CR0_OWNED, CR4_GUESTS, ET, MCE, NE, NW, VMXE};
use super::segment;
use super::vcpu::{PENDING_STEP, Vcpu, Work, interruptibility, kernel, rflags};
use super::vmcs::Current;
use crate::arch::apic_page::{ApicPage, reg};
use crate::arch::msr_policy::msr;
use crate::arch::{
    ApicMode, Calls, CpuMode, Event, Exit, Flush, Gprs, GuestCpu, Left, Paging, Segment, SegmentReg, SysReg,
    Translation, machine,
};
use crate::hw;

const CR0_PE: u64 = 1 << 0;
const CR0_PG: u64 = 1 << 31;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Operating mode, from the current VMCS.
#[inline(always)]
pub(super) fn mode(vmcs: &impl Fields) -> CpuMode {
    const LONG: u32 = 1 << 13;
    const BIG: u32 = 1 << 14;
    let cs = vmcs.get(field::GUEST_CS.rights);
    if cs & LONG != 0 && vmcs.get(field::GUEST_EFER) & EFER_LMA != 0 {
        CpuMode::Long
    } else if vmcs.get(field::GUEST_CR0) & CR0_PE == 0 {
        CpuMode::Real
    } else if vmcs.get(field::GUEST_RFLAGS) & rflags::VM != 0 {
        CpuMode::Virtual8086
    } else if cs & BIG != 0 {
        CpuMode::Protected32
    } else {
        CpuMode::Protected16
    }
}

const fn segment_fields(register: SegmentReg) -> SegmentFields {
    match register {
        SegmentReg::Es => field::GUEST_ES,
        SegmentReg::Cs => field::GUEST_CS,
        SegmentReg::Ss => field::GUEST_SS,
        SegmentReg::Ds => field::GUEST_DS,
        SegmentReg::Fs => field::GUEST_FS,
        SegmentReg::Gs => field::GUEST_GS,
        SegmentReg::Ldtr => field::GUEST_LDTR,
        SegmentReg::Tr => field::GUEST_TR,
    }
}

/// Where a system register is.
enum Home {
    /// A field of the VMCS, as it is.
    Field(Field<u64>),
    /// A 32-bit field.
    Field32(Field<u32>),
    /// One of the registers in `Vcpu::msrs`.
    Msr(u32),
    /// DR0 to DR3.
    Breakpoint(usize),
    /// Each in its own way.
    Special,
}

const fn home(register: SysReg) -> Home {
    use SysReg::*;
    match register {
        Rsp => Home::Field(field::GUEST_RSP),
        Cr3 => Home::Field(field::GUEST_CR3),
        Dr7 => Home::Field(field::GUEST_DR7),
        Pat => Home::Field(field::GUEST_PAT),
        SysenterEsp => Home::Field(field::GUEST_SYSENTER_ESP),
        SysenterEip => Home::Field(field::GUEST_SYSENTER_EIP),
        GdtrBase => Home::Field(field::GUEST_GDTR_BASE),
        IdtrBase => Home::Field(field::GUEST_IDTR_BASE),
        SysenterCs => Home::Field32(field::GUEST_SYSENTER_CS),
        GdtrLimit => Home::Field32(field::GUEST_GDTR_LIMIT),
        IdtrLimit => Home::Field32(field::GUEST_IDTR_LIMIT),
        Star => Home::Msr(msr::STAR),
        Lstar => Home::Msr(msr::LSTAR),
        Cstar => Home::Msr(msr::CSTAR),
        Sfmask => Home::Msr(msr::SFMASK),
        KernelGsBase => Home::Msr(msr::KERNEL_GS_BASE),
        TscAux => Home::Msr(msr::TSC_AUX),
        Dr0 => Home::Breakpoint(0),
        Dr1 => Home::Breakpoint(1),
        Dr2 => Home::Breakpoint(2),
        Dr3 => Home::Breakpoint(3),
        Rflags | Cr0 | Cr2 | Cr4 | Cr8 | Xcr0 | Dr6 | Efer | SpecCtrl => Home::Special,
    }
}

/// A register of which some bits are ours: the guest sees those as it wrote them.
fn guests_view(vmcs: Current, real: Field<u64>, shadow: Field<u64>, owned: u64) -> u64 {
    (vmcs.get(real) & !owned) | (vmcs.get(shadow) & owned)
}

/// EFER.LMA and the entry control follow from EFER.LME and CR0.PG (SDM 3A 4.1.2); a VM entry demands that all agree.
fn set_long_mode(vmcs: Current, efer: u64, cr0: u64) {
    let long = efer & EFER_LME != 0 && cr0 & CR0_PG != 0;
    vmcs.set(
        field::GUEST_EFER,
        if long { efer | EFER_LMA } else { efer & !EFER_LMA },
    );
    let controls = vmcs.get(field::ENTRY_CONTROLS);
    let bit = EntryControls::LONG_MODE.bits();
    vmcs.set(
        field::ENTRY_CONTROLS,
        if long { controls | bit } else { controls & !bit },
    );
}

/// RFLAGS, and what a VM entry demands to agree with it (SDM 3C 27.3.1.5).
fn set_rflags(vmcs: Current, value: u64) {
    const RESERVED_ONE: u64 = 2;
    const EXISTING: u64 = 0x003f_7fd7;
    vmcs.set(field::GUEST_RFLAGS, (value & EXISTING) | RESERVED_ONE);
    let mut blocking = vmcs.get(field::GUEST_INTERRUPTIBILITY);
    if value & rflags::IF == 0 && blocking & interruptibility::STI != 0 {
        blocking &= !interruptibility::STI;
        vmcs.set(field::GUEST_INTERRUPTIBILITY, blocking);
    }
    let pending = vmcs.get(field::GUEST_PENDING_DEBUG);
    let step = blocking & interruptibility::SHADOW != 0 && value & rflags::TF != 0;
    let new = if step {
        pending | PENDING_STEP
    } else {
        pending & !PENDING_STEP
    };
    if new != pending {
        vmcs.set(field::GUEST_PENDING_DEBUG, new);
    }
}

/// What the end of an instruction means besides RIP, mostly nothing.
#[inline(always)]
fn end_instruction(vmcs: Current) {
    let flags = vmcs.get(field::GUEST_RFLAGS);
    let shadow = if flags & rflags::IF == 0 {
        // Such a guest is entered with the host's interrupts off, too, as Bochs sees it: it masks what is pending while it loads RFLAGS, before it
        // counts the CPU as in a guest, where that exits. Until the guest changes IF only the preemption timer would end that, which does
        // not count what its exits take. So the host lets in what waits for it.
        machine::take_host_interrupts();
        // There is no shadow of STI, and that of MOV SS may last for one instruction more: no interrupt would come in between.
        false
    } else {
        vmcs.get(field::GUEST_INTERRUPTIBILITY) & interruptibility::SHADOW != 0
    };
    if shadow || flags & (rflags::TF | rflags::RF) != 0 {
        finish_instruction(vmcs, flags);
    }
}

/// The rare part of skipping an instruction: it ended an interrupt shadow or a resume flag, and may complete a single step.
#[cold]
fn finish_instruction(vmcs: Current, flags: u64) {
    let blocking = vmcs.get(field::GUEST_INTERRUPTIBILITY);
    vmcs.set(
        field::GUEST_INTERRUPTIBILITY,
        blocking & !interruptibility::SHADOW,
    );
    vmcs.set(field::GUEST_RFLAGS, flags & !rflags::RF);
    if flags & rflags::TF != 0 {
        vmcs.set(
            field::GUEST_PENDING_DEBUG,
            vmcs.get(field::GUEST_PENDING_DEBUG) | PENDING_STEP,
        );
    }
}

impl Vcpu {
    fn read_special(&self, register: SysReg) -> u64 {
        match register {
            SysReg::Rflags => self.with(|vmcs| vmcs.get(field::GUEST_RFLAGS)),
            SysReg::Cr0 => {
                self.with(|vmcs| guests_view(vmcs, field::GUEST_CR0, field::CR0_SHADOW, CR0_OWNED))
            }
            SysReg::Cr4 => {
                self.with(|vmcs| guests_view(vmcs, field::GUEST_CR4, field::CR4_SHADOW, !CR4_GUESTS))
            }
            SysReg::Cr2 if self.loaded => Cr2::read_raw(),
            SysReg::Cr2 => self.cr2,
            SysReg::Cr8 => u64::from(self.apic_page.get(reg::TPR) >> 4 & 0xf),
            SysReg::Xcr0 => self.fpu.xcr0(),
            SysReg::Dr6 => self.debug.dr6(),
            SysReg::Efer => self.with(|vmcs| vmcs.get(field::GUEST_EFER)),
            SysReg::SpecCtrl => self.world.precautions.guests.into(),
            _ => 0,
        }
    }

    fn write_special(&mut self, register: SysReg, value: u64) {
        match register {
            SysReg::Rflags => self.with(|vmcs| set_rflags(vmcs, value)),
            SysReg::Cr0 => {
                self.with(|vmcs| {
                    vmcs.set(field::GUEST_CR0, (value & 0xffff_ffff & !(CD | NW)) | NE | ET);
                    vmcs.set(field::CR0_SHADOW, value);
                    set_long_mode(vmcs, vmcs.get(field::GUEST_EFER), value);
                });
                self.world.work |= Work::FLUSH_LINEAR;
            }
            SysReg::Cr4 => {
                let [must, may] = self.host.caps.cr4_fixed;
                self.with(|vmcs| {
                    vmcs.set(field::GUEST_CR4, ((value | MCE) & may) | must | VMXE);
                    vmcs.set(field::CR4_SHADOW, value);
                });
                self.world.work |= Work::FLUSH_LINEAR;
            }
            SysReg::Cr2 if self.loaded => {
                // SAFETY: a loaded vCPU's CR2 is in the register, which the hypervisor does not use.
                unsafe { asm!("mov cr2, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
            }
            SysReg::Cr2 => self.cr2 = value,
            SysReg::Cr8 => {
                self.apic_page.set(reg::TPR, (value as u32 & 0xf) << 4);
                // An entry demands that the threshold is not above it (SDM 3C 27.2.1.1).
                self.request_priority_window(None);
            }
            SysReg::Xcr0 => self.fpu.set_xcr0(value),
            SysReg::Dr6 => self.debug.set_dr6(value),
            SysReg::Efer => {
                self.with(|vmcs| set_long_mode(vmcs, value, vmcs.get(field::GUEST_CR0)));
                self.world.work |= Work::FLUSH_LINEAR;
            }
            SysReg::SpecCtrl => self.set_spec_ctrl(value),
            _ => {}
        }
    }
}

impl GuestCpu for Vcpu {
    #[inline(always)]
    unsafe fn run(this: *mut Self) -> Left {
        // SAFETY: the caller's.
        unsafe { Vcpu::enter(this) }
    }

    fn set_calls(&mut self, calls: Calls) {
        self.world.calls = calls;
    }

    #[inline(always)]
    fn exit(&mut self, code: u64) -> Exit {
        self.finish(code as u32)
    }

    #[inline(always)]
    fn gprs(&mut self) -> &mut Gprs {
        &mut self.world.gprs
    }

    #[inline(always)]
    fn rip(&self) -> u64 {
        self.with(|vmcs| vmcs.get(field::GUEST_RIP))
    }

    fn set_rip(&mut self, rip: u64) {
        self.with(|vmcs| vmcs.set(field::GUEST_RIP, rip));
    }

    #[inline(always)]
    fn instruction_len(&self) -> Option<u8> {
        // Defined for every exit that an instruction causes (SDM 3C 28.2.5).
        Some(self.current().get(field::EXIT_INSTRUCTION_LEN) as u8)
    }

    #[inline(always)]
    fn skip(&mut self, len: u8) {
        let vmcs = self.current();
        let old = vmcs.get(field::GUEST_RIP);
        let mut new = old.wrapping_add(len.into());
        // Wraps happen only where the low 16 bits do.
        if (new as u16) < u16::from(len) {
            new = truncate_rip(old, new, || mode(&vmcs));
        }
        vmcs.set(field::GUEST_RIP, new);
        end_instruction(vmcs);
    }

    #[inline(always)]
    fn skip_in_long_mode(&mut self, len: u8) {
        let vmcs = self.current();
        vmcs.add(field::GUEST_RIP, len.into());
        end_instruction(vmcs);
    }

    #[inline(always)]
    fn cpl(&self) -> u8 {
        // SS.DPL is the CPL in every mode (SDM 3C 25.4.1).
        (self.with(|vmcs| vmcs.get(field::GUEST_SS.rights)) >> 5) as u8 & 3
    }

    #[inline(always)]
    fn mode(&self) -> CpuMode {
        self.with(|vmcs| mode(&vmcs))
    }

    #[inline(always)]
    fn in_long_mode_kernel(&self) -> bool {
        self.current().get(field::GUEST_CS.rights) & kernel::MASK == kernel::LONG
    }

    fn read(&self, register: SysReg) -> u64 {
        match home(register) {
            Home::Field(field) => self.with(|vmcs| vmcs.get(field)),
            Home::Field32(field) => self.with(|vmcs| vmcs.get(field)).into(),
            Home::Msr(number) => self.msrs.get(number).unwrap_or(0),
            Home::Breakpoint(index) => self.debug.address(index),
            Home::Special => self.read_special(register),
        }
    }

    fn write(&mut self, register: SysReg, value: u64) {
        match home(register) {
            Home::Field(field) => self.with(|vmcs| vmcs.set(field, value)),
            Home::Field32(field) => self.with(|vmcs| vmcs.set(field, value as u32)),
            Home::Msr(number) => {
                self.msrs.set(number, value);
            }
            Home::Breakpoint(index) => self.debug.set_address(index, value),
            Home::Special => self.write_special(register, value),
        }
        if register == SysReg::Cr3 {
            self.world.work |= Work::FLUSH_LINEAR;
        }
    }

    fn segment(&self, register: SegmentReg) -> Segment {
        let fields = segment_fields(register);
        self.with(|vmcs| Segment {
            selector: vmcs.get(fields.selector),
            attr: segment::attr(vmcs.get(fields.rights)),
            limit: vmcs.get(fields.limit),
            base: vmcs.get(fields.base),
        })
    }

    fn set_segment(&mut self, register: SegmentReg, segment: Segment) {
        let fields = segment_fields(register);
        let (rights, limit) = segment::encode(register, &segment);
        self.with(|vmcs| {
            vmcs.set(fields.selector, segment.selector);
            vmcs.set(fields.rights, rights);
            vmcs.set(fields.limit, limit);
            vmcs.set(fields.base, segment.base);
        });
    }

    fn paging(&self) -> Paging {
        self.with(|vmcs| Paging {
            cr0: guests_view(vmcs, field::GUEST_CR0, field::CR0_SHADOW, CR0_OWNED),
            cr3: vmcs.get(field::GUEST_CR3),
            cr4: guests_view(vmcs, field::GUEST_CR4, field::CR4_SHADOW, !CR4_GUESTS),
            efer: vmcs.get(field::GUEST_EFER),
            rflags: vmcs.get(field::GUEST_RFLAGS),
        })
    }

    fn translation(&self) -> Translation {
        // The bits that steer a walk are in the registers themselves as the guest wants them; those of `guests_view` that are not, are others.
        self.with(|vmcs| {
            Translation::new(
                vmcs.get(field::GUEST_CR0),
                vmcs.get(field::GUEST_CR3),
                vmcs.get(field::GUEST_CR4),
                vmcs.get(field::GUEST_EFER),
                || vmcs.get(field::GUEST_RFLAGS),
            )
        })
    }

    fn set_pdptes(&mut self, entries: [u64; 4]) {
        let fields = [
            field::GUEST_PDPTE0,
            field::GUEST_PDPTE1,
            field::GUEST_PDPTE2,
            field::GUEST_PDPTE3,
        ];
        self.with(|vmcs| {
            for (field, entry) in fields.into_iter().zip(entries) {
                vmcs.set(field, entry);
            }
        });
    }

    fn apic_page(&self) -> &ApicPage {
        &self.apic_page
    }

    fn virtualize_apic(&mut self, mode: ApicMode) {
        self.set_apic_mode(mode);
    }

    fn interrupts_changed(&mut self) -> bool {
        self.tell_interrupts()
    }

    #[inline]
    fn delivering(&self) -> Option<Event> {
        self.queued
    }

    #[inline]
    fn inject(&mut self, event: Event) {
        self.queue(event);
    }

    fn forget_events(&mut self) {
        self.queued = None;
        self.world.work.remove(Work::EVENT | Work::SHUTDOWN);
        self.with(|vmcs| {
            vmcs.set(field::GUEST_INTERRUPTIBILITY, 0);
            vmcs.set(field::GUEST_PENDING_DEBUG, 0);
        });
    }

    #[inline]
    fn interruptible(&self) -> bool {
        self.world
            .work
            .intersection(Work::EVENT | Work::SHUTDOWN)
            .is_empty()
            && self.with(|vmcs| {
                vmcs.get(field::GUEST_RFLAGS) & rflags::IF != 0
                    && vmcs.get(field::GUEST_INTERRUPTIBILITY) & interruptibility::SHADOW == 0
            })
    }

    fn nmi_allowed(&self) -> bool {
        let blocking = interruptibility::SHADOW | interruptibility::NMI;
        self.world
            .work
            .intersection(Work::EVENT | Work::SHUTDOWN)
            .is_empty()
            && self.with(|vmcs| vmcs.get(field::GUEST_INTERRUPTIBILITY) & blocking == 0)
    }

    #[inline]
    fn request_interrupt_window(&mut self, on: bool) {
        self.set_primary(Primary::INTERRUPT_WINDOW, on);
    }

    fn request_priority_window(&mut self, class: Option<u8>) {
        let threshold = class.unwrap_or(0);
        if threshold != self.threshold {
            self.threshold = threshold;
            self.with(|vmcs| vmcs.set(field::TPR_THRESHOLD, threshold.into()));
        }
    }

    fn request_nmi_window(&mut self, on: bool) -> bool {
        self.set_primary(Primary::NMI_WINDOW, on);
        true
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.with(|vmcs| vmcs.set(field::TSC_OFFSET, offset));
    }

    fn set_tsc_multiplier(&mut self, multiplier: u64) {
        if self.host.caps.scales_tsc() {
            self.with(|vmcs| vmcs.set(field::TSC_MULTIPLIER, multiplier));
        }
    }

    fn emulate_tsc(&mut self, on: bool) {
        // Every CPU can (SDM 3D, A.3.2).
        self.set_primary(Primary::RDTSC, on);
    }

    fn set_preemption_timer(&mut self, time: u64) {
        let Some(shift) = self.host.caps.preemption_shift else {
            return;
        };
        let count = u32::try_from(hw::time::clock().ticks(time) >> shift).unwrap_or(u32::MAX);
        self.with(|vmcs| vmcs.set(field::PREEMPTION_TIMER, count));
        self.run_preemption_timer(true);
    }

    fn flush(&mut self, what: Flush) {
        match what {
            Flush::Nested => self.world.work |= Work::FLUSH_NESTED,
        }
    }

    fn load(&mut self) {
        if !self.loaded {
            self.attach();
        }
    }

    fn unload(&mut self) {
        if self.loaded {
            self.detach();
        }
    }

    fn describe(&self, out: &mut dyn Write) {
        self.with(|vmcs| {
            let exit = vmcs.get(field::EXIT_REASON);
            // A log that cannot be written to has nobody to tell.
            let _ = write!(
                out,
                "{:?} rip {:#x} rsp {:#x} rflags {:#x} cs {:#x}/{:#x} ss {:#x}/{:#x} cr0 {:#x} cr3 {:#x} cr4 {:#x} efer {:#x} \
                 blocking {:#x} activity {} exit {:#x} qualification {:#x} vectoring {:#x} entry {:#x}",
                mode(&vmcs),
                vmcs.get(field::GUEST_RIP),
                vmcs.get(field::GUEST_RSP),
                vmcs.get(field::GUEST_RFLAGS),
                vmcs.get(field::GUEST_CS.selector),
                vmcs.get(field::GUEST_CS.rights),
                vmcs.get(field::GUEST_SS.selector),
                vmcs.get(field::GUEST_SS.rights),
                vmcs.get(field::GUEST_CR0),
                vmcs.get(field::GUEST_CR3),
                vmcs.get(field::GUEST_CR4),
                vmcs.get(field::GUEST_EFER),
                vmcs.get(field::GUEST_INTERRUPTIBILITY),
                vmcs.get(field::GUEST_ACTIVITY),
                exit,
                vmcs.get(field::EXIT_QUALIFICATION),
                vmcs.get(field::IDT_VECTORING),
                vmcs.get(field::ENTRY_CONTROLS),
            );
        });
    }
}

/// RIP after an instruction that crossed a multiple of 64 KiB: the width of the mode says whether it wraps.
#[cold]
fn truncate_rip(old: u64, new: u64, mode: impl FnOnce() -> CpuMode) -> u64 {
    match mode() {
        CpuMode::Long => new,
        // Instruction pointers beyond 64 KiB are possible in 16-bit segments (unreal mode); only a real wrap is truncated.
        CpuMode::Protected32 => new & 0xffff_ffff,
        _ if old <= 0xffff => new & 0xffff,
        _ => new & 0xffff_ffff,
    }
}
