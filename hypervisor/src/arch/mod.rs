//! The two back ends, AMD-V ([`svm`]) and VT-x ([`vmx`]), behind one interface that ends at the vCPU.
//!
//! A vCPU is a value that runs: [`GuestCpu::run`] enters the guest, and an [`Exit`] is a value to match on. Nothing here
//! knows of domains or hypercalls. The hot loop is generic over [`GuestCpu`] (static dispatch); everything else takes
//! `&mut dyn GuestCpu`.

pub mod apic_page;
pub mod calls;
pub mod debug_regs;
pub mod errata;
pub mod exit;
#[cfg(test)]
pub mod fake;
pub mod floor;
pub mod fpu;
pub mod machine;
pub mod msr_policy;
pub mod msr_switch;
pub mod owned;
pub mod pending;
pub mod regs;
pub mod speculation;
pub mod svm;
pub mod try_msr;
pub mod vmx;

pub use calls::{Answer, Calls};
pub use exit::{Access, EntryFailure, Exit, IoAccess, IoDirection, Left, NestedFault};
pub use regs::{CpuMode, Gprs, Segment, SegmentReg, SysReg};

use crate::mm::fallible;
use crate::types::Hpa;
use apic_page::ApicPage;

/// No frame or heap memory left for a control block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

/// Why this machine cannot run guests: a sentence for the log, naming what is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unsupported(pub &'static str);

/// Why a CPU could not switch virtualization on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EnableError {
    /// No memory for the CPU's own structures.
    OutOfMemory,
    /// The CPU refused, or is unlike the one that was probed: a sentence for the log.
    Refused(&'static str),
}

impl core::fmt::Display for EnableError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            EnableError::OutOfMemory => "no memory for the CPU's own structures",
            EnableError::Refused(why) => why,
        })
    }
}

impl From<fallible::OutOfMemory> for OutOfMemory {
    fn from(_: fallible::OutOfMemory) -> Self {
        OutOfMemory
    }
}

impl From<OutOfMemory> for EnableError {
    fn from(_: OutOfMemory) -> Self {
        EnableError::OutOfMemory
    }
}

/// What the vector of an [`Event`] means (SDM 3C 25.8.3 "interruption type", APM vol. 2, 15.20 `TYPE`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// An interrupt from a (virtual) interrupt controller.
    ExternalInterrupt,
    /// Non-maskable interrupt, vector 2.
    Nmi,
    /// A fault or trap that the CPU itself raises; may carry an error code.
    HardwareException,
    /// `INT n`.
    SoftwareInterrupt,
    /// `INT3` and `INTO`.
    SoftwareException,
    /// `INT1` (ICEBP).
    PrivilegedSoftwareException,
}

/// An interrupt or exception to deliver to a guest at its next entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What kind of event.
    pub kind: EventKind,
    /// IDT vector.
    pub vector: u8,
    /// Error code to push, for the exceptions that have one.
    pub error_code: Option<u32>,
    /// Length of the instruction that raised it, for the software kinds (0 otherwise).
    pub instruction_len: u8,
}

impl Event {
    /// An external interrupt of `vector`.
    pub const fn interrupt(vector: u8) -> Event {
        Event {
            kind: EventKind::ExternalInterrupt,
            vector,
            error_code: None,
            instruction_len: 0,
        }
    }
    /// A non-maskable interrupt.
    pub const fn nmi() -> Event {
        Event {
            kind: EventKind::Nmi,
            vector: 2,
            error_code: None,
            instruction_len: 0,
        }
    }
    /// A hardware exception; `error_code` as the vector demands.
    pub const fn exception(vector: u8, error_code: Option<u32>) -> Event {
        Event {
            kind: EventKind::HardwareException,
            vector,
            error_code,
            instruction_len: 0,
        }
    }
    /// #UD, invalid opcode.
    pub const UD: Event = Event::exception(6, None);
    /// #GP(0), general protection.
    pub const GP0: Event = Event::exception(13, Some(0));
}

/// Format of the nested page tables: a closed set, so a value and not a type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NestedFormat {
    /// Intel's extended page tables (SDM 3C 29.3).
    Ept,
    /// AMD's nested page tables (APM vol. 2, 15.25).
    Npt,
}

/// What a guest's translations are flushed for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// Nested mappings changed: drop everything cached for this guest on this CPU.
    Nested,
}

/// What the hardware is to do of a guest's local APIC, where it can. In each mode the task priority is CR8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApicMode {
    /// Nothing: accesses exit, and interrupts are injected.
    Emulated,
    /// Loads and stores at the default address, and the delivery of interrupts.
    XApic,
    /// RDMSR and WRMSR, and the delivery of interrupts.
    X2Apic,
}

/// What a back end needs to make a vCPU's control block.
#[derive(Clone, Copy, Debug)]
pub struct VcpuConfig {
    /// Root of the nested page tables.
    pub nested_root: Hpa,
    /// 12 KiB, page-aligned, physically contiguous: one bit a port, 1 = the guest does not have it, and exits (SDM 3C 25.6.4, APM vol. 2, 15.10.1). Such a
    /// port reads as all ones, which a back end may do itself. The last 4 KiB are all ones. Both vendors read the same bytes (VMX takes pages 0 and 1).
    pub io_bitmap: Hpa,
}

/// A multiplier of 1 in [`GuestCpu::set_tsc_multiplier`]: VT-x's format, 16 bits and 48 behind the point (SDM 3C, 25.6.5).
pub const TSC_MULTIPLIER_ONE: u64 = 1 << TSC_MULTIPLIER_POINT;
/// Its bits behind the point.
pub const TSC_MULTIPLIER_POINT: u32 = 48;

/// The registers that decide how a guest's linear addresses translate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "the architecture's own names")]
pub struct Paging {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    /// For AC, which suspends SMAP.
    pub rflags: u64,
}

/// How linear addresses translate, at supervisor level unless [`Translation::of_user`] made it: CR3, and in one word all bits that steer a walk of the page tables besides it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// CR3.
    pub cr3: u64,
    /// Bits of CR0, CR4, EFER and RFLAGS, each in its own register's place, of which no two are the same.
    pub mode: u64,
}

impl Translation {
    /// CR0.WP and PG.
    const CR0: u64 = 1 << 16 | 1 << 31;
    /// CR4.PSE, PAE and LA57.
    const CR4: u64 = 1 << 4 | 1 << 5 | 1 << 12;
    /// Accesses are the user's. (Bit 2 of all these registers steers no walk; of an entry it lets the user in.)
    pub const BY_USER: u64 = 1 << 2;
    /// CR0.WP.
    const WP: u64 = 1 << 16;
    /// CR4.SMAP.
    const SMAP: u64 = 1 << 21;
    /// EFER.LMA and NXE.
    const EFER: u64 = 1 << 10 | 1 << 11;
    /// RFLAGS.AC.
    const AC: u64 = 1 << 18;

    /// From the registers. RFLAGS are looked at for AC only, which suspends SMAP and means nothing else to a walk.
    #[inline(always)]
    pub fn new(cr0: u64, cr3: u64, cr4: u64, efer: u64, rflags: impl FnOnce() -> u64) -> Translation {
        let mode = cr0 & Self::CR0 | cr4 & (Self::CR4 | Self::SMAP) | efer & Self::EFER;
        let suspended = if cr4 & Self::SMAP != 0 {
            rflags() & Self::AC
        } else {
            0
        };
        Translation {
            cr3,
            mode: mode | suspended,
        }
    }

    /// As code at privilege level 3 accesses data (SDM 3A 5.6.1): user pages only, and only where they may be written.
    pub fn of_user(self) -> Translation {
        let code = self.of_code();
        Translation {
            mode: code.mode | Self::BY_USER | Self::WP,
            ..code
        }
    }

    /// Without SMAP, which is about data: user code is fetched by user code.
    #[inline(always)]
    pub fn of_code(self) -> Translation {
        Translation {
            mode: self.mode & !(Self::SMAP | Self::AC),
            ..self
        }
    }
}

impl From<Paging> for Translation {
    #[inline(always)]
    fn from(paging: Paging) -> Translation {
        Translation::new(paging.cr0, paging.cr3, paging.cr4, paging.efer, || paging.rflags)
    }
}

/// One guest CPU in the hardware's terms. All of it is touched only by the physical CPU that runs it, or by one that
/// holds it while it is not running.
///
/// Contract of `run`: called with interrupts disabled (on SVM with GIF set); returns with interrupts disabled. An event
/// whose delivery was interrupted by the exit (IDT-vectoring information, EXITINTINFO) is kept by the back end and delivered at the next
/// entry by itself, combined with a newly injected exception to #DF as the manuals say (SDM 3A table 6-5).
pub trait GuestCpu: Send {
    /// Hypercalls may be made by `calls` from now on.
    fn set_calls(&mut self, _calls: Calls) {}
    /// Enter the guest, and again after each hypercall that the back end makes by [`Calls`]; return how it left.
    ///
    /// # Safety
    /// `this` points to a vCPU to which nobody has a reference meanwhile but, while they run, the handlers of its [`Calls`], whose pointers are valid.
    // UNSAFETY: a pointer that two use in turns.
    #[expect(unsafe_code, reason = "a pointer that two use in turns")]
    unsafe fn run(this: *mut Self) -> Left
    where
        Self: Sized;
    /// Why the guest left by `code`, asked once after the [`GuestCpu::run`] that returned it: the back end does its own part of the exit here.
    fn exit(&mut self, code: u64) -> Exit;

    /// General registers other than RSP. Valid between runs, `rax` included.
    fn gprs(&mut self) -> &mut Gprs;
    /// Instruction pointer.
    fn rip(&self) -> u64;
    /// Set the instruction pointer.
    fn set_rip(&mut self, rip: u64);
    /// Length of the instruction that caused the last exit, where the hardware told (VM-exit instruction length, NRIPS, EXITINFO2 of
    /// port I/O); `None`: the exit loop has to fetch and decode it.
    fn instruction_len(&self) -> Option<u8>;
    /// Move RIP past an instruction of `len` bytes (truncated to the mode's width) and end the interrupt shadow.
    fn skip(&mut self, len: u8);
    /// The same where the caller knows that the mode is [`CpuMode::Long`].
    fn skip_in_long_mode(&mut self, len: u8) {
        self.skip(len);
    }
    /// Current privilege level.
    fn cpl(&self) -> u8;
    /// Operating mode.
    fn mode(&self) -> CpuMode;
    /// Is this 64-bit code at privilege level 0: where hypercalls come from, asked once for each. `false` may also mean that the
    /// back end cannot tell cheaply; `mode` and `cpl` can.
    fn in_long_mode_kernel(&self) -> bool {
        self.mode() == CpuMode::Long && self.cpl() == 0
    }

    /// Read a system register.
    fn read(&self, reg: SysReg) -> u64;
    /// Write a system register as the guest would see it. The caller has checked architectural validity; the back end adds what hardware
    /// wants on top (CR0.NE and CR4.VMXE on VMX, EFER.SVME on SVM, the CR0.PG/EFER.LMA/entry-control interplay).
    fn write(&mut self, reg: SysReg, value: u64);
    /// What decides how linear addresses translate.
    fn paging(&self) -> Paging {
        Paging {
            cr0: self.read(SysReg::Cr0),
            cr3: self.read(SysReg::Cr3),
            cr4: self.read(SysReg::Cr4),
            efer: self.read(SysReg::Efer),
            rflags: self.read(SysReg::Rflags),
        }
    }
    /// The same, as walks of page tables want it: asked for by each hypercall that has an argument in memory.
    fn translation(&self) -> Translation {
        self.paging().into()
    }
    /// Read a segment register with its hidden part.
    fn segment(&self, reg: SegmentReg) -> Segment;
    /// Write a segment register with its hidden part.
    fn set_segment(&mut self, reg: SegmentReg, segment: Segment);

    /// What the guest's PAE page tables begin with, where an entry does not read them itself (SDM 3A 4.4.1).
    fn set_pdptes(&mut self, _entries: [u64; 4]) {}
    /// The registers of the local APIC.
    fn apic_page(&self) -> &ApicPage;
    /// Let the hardware do from now on what `mode` says. The caller then says [`GuestCpu::interrupts_changed`].
    fn virtualize_apic(&mut self, _mode: ApicMode) {}
    /// IRR, ISR or TMR have changed. `true`: the hardware delivers what is in IRR as soon as the guest can take it; `false`: that is left to the caller.
    fn interrupts_changed(&mut self) -> bool {
        false
    }
    /// What the next entry delivers. `Some` right after an exit: that came in the middle of the delivery, or before it, and is no instruction's.
    fn delivering(&self) -> Option<Event>;
    /// Deliver `event` at the next entry. For interrupts and NMIs the caller has asked [`GuestCpu::interruptible`] or
    /// [`GuestCpu::nmi_allowed`] before.
    fn inject(&mut self, event: Event);
    /// Forget what is to be delivered, and what holds it back: the CPU is as after INIT in this.
    fn forget_events(&mut self);
    /// Would the guest take an external interrupt at its next entry: RFLAGS.IF, no interrupt shadow, and no event queued already.
    fn interruptible(&self) -> bool;
    /// Would the guest take an NMI at its next entry.
    fn nmi_allowed(&self) -> bool;
    /// Exit with [`Exit::InterruptWindow`] as soon as the guest could take an interrupt.
    fn request_interrupt_window(&mut self, on: bool);
    /// Exit, with [`Exit::PriorityWindow`] or for the write itself, when the guest's CR8 falls below `class`, which it is not below now;
    /// `None`: never.
    fn request_priority_window(&mut self, class: Option<u8>);
    /// Exit with [`Exit::NmiWindow`] as soon as the guest could take an NMI. `false`: the hardware has no exit for what keeps the NMI away, which lasts no
    /// more than an instruction or a delivery; the caller has to see to another exit.
    fn request_nmi_window(&mut self, on: bool) -> bool;

    /// Added to the host's TSC to give the guest's.
    fn set_tsc_offset(&mut self, offset: u64);
    /// What the host's TSC is multiplied by before, as a fixed-point number with [`TSC_MULTIPLIER_ONE`], of whose bits the CPU takes as many as
    /// [`machine::tsc_scaling`] says. Where that says none, it stays 1.
    fn set_tsc_multiplier(&mut self, multiplier: u64);
    /// RDTSC and RDTSCP exit with [`Exit::ReadTsc`], from the next entry on; they do not at first.
    fn emulate_tsc(&mut self, on: bool);
    /// Exit with [`Exit::PreemptionTimer`] after about this many nanoseconds spent in the guest, where the hardware can.
    /// A backstop beside the host timer's interrupt, not a clock.
    fn set_preemption_timer(&mut self, time: u64);
    /// Nested translations of this guest changed (an entry was removed or narrowed): flush before the next entry, on whichever CPU.
    fn flush(&mut self, what: Flush);

    /// Put the state that `run` leaves in registers (KERNEL_GS_BASE, STAR.., DR0-3, DR6, TSC_AUX, XCR0, extended state) onto this CPU.
    /// Called when this CPU begins to run the vCPU.
    fn load(&mut self);
    /// Take that state back into memory, and detach the control block from this CPU (VMCLEAR), so that another may load it.
    fn unload(&mut self);

    /// Where an NMI, or a fault while handling one, should say it was: a one-line summary of the control block for logs.
    fn describe(&self, out: &mut dyn core::fmt::Write);
}
