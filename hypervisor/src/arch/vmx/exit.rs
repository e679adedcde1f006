//! From an exit's raw fields to [`Exit`] (SDM 3C 25.9 and 28.2.1, reasons in 3D appendix C). Pure.
//!
//! Only the fields that the reason gives a meaning are read. What decoding must also *do* (deliver a host NMI, keep an interrupted
//! event) is the vCPU's business.

use super::event;
use super::field::{self, Fields};
use crate::arch::apic_page::DEFAULT_BASE;
use crate::arch::{Access, CpuMode, EntryFailure, EventKind, Exit, Gprs, IoAccess, IoDirection, NestedFault};
use crate::types::{Gpa, Gva};

/// Basic exit reasons (SDM 3D appendix C).
pub mod reason {
    pub const EXCEPTION_OR_NMI: u16 = 0;
    pub const EXTERNAL_INTERRUPT: u16 = 1;
    pub const TRIPLE_FAULT: u16 = 2;
    pub const INIT: u16 = 3;
    pub const SIPI: u16 = 4;
    pub const INTERRUPT_WINDOW: u16 = 7;
    pub const NMI_WINDOW: u16 = 8;
    pub const TASK_SWITCH: u16 = 9;
    pub const CPUID: u16 = 10;
    pub const GETSEC: u16 = 11;
    pub const HLT: u16 = 12;
    pub const INVD: u16 = 13;
    pub const RDPMC: u16 = 15;
    pub const RDTSC: u16 = 16;
    pub const VMCALL: u16 = 18;
    pub const VMCLEAR: u16 = 19;
    pub const VMXON: u16 = 27;
    pub const CR_ACCESS: u16 = 28;
    pub const IO: u16 = 30;
    pub const RDMSR: u16 = 31;
    pub const WRMSR: u16 = 32;
    pub const MWAIT: u16 = 36;
    pub const MONITOR: u16 = 39;
    pub const PAUSE: u16 = 40;
    pub const MACHINE_CHECK_DURING_ENTRY: u16 = 41;
    pub const TPR_BELOW_THRESHOLD: u16 = 43;
    pub const APIC_ACCESS: u16 = 44;
    pub const VIRTUALIZED_EOI: u16 = 45;
    pub const EPT_VIOLATION: u16 = 48;
    pub const EPT_MISCONFIGURATION: u16 = 49;
    pub const INVEPT: u16 = 50;
    pub const RDTSCP: u16 = 51;
    pub const PREEMPTION_TIMER: u16 = 52;
    pub const INVVPID: u16 = 53;
    pub const WBINVD: u16 = 54;
    pub const XSETBV: u16 = 55;
    pub const APIC_WRITE: u16 = 56;
    pub const VMFUNC: u16 = 59;
    pub const ENCLS: u16 = 60;
    pub const ENCLV: u16 = 70;
}

/// Bit 31 of the exit reason: the entry failed after loading guest state.
const ENTRY_FAILURE: u32 = 1 << 31;
/// EPT violation, qualification bit 12: as [`event::NMI_UNBLOCKED_BY_IRET`].
const EPT_NMI_UNBLOCKED: u64 = 1 << 12;

/// What the guest's registers add to an exit.
pub struct Guest<'a> {
    /// General registers.
    pub gprs: &'a Gprs,
    /// Operating mode.
    pub mode: CpuMode,
}

/// The exit that `exit_reason` and `fields` tell. `guest` is asked only where the reason demands it.
#[inline(always)]
pub fn decode<'a>(exit_reason: u32, fields: &impl Fields, guest: impl FnOnce() -> Guest<'a>) -> Exit {
    let basic = exit_reason as u16;
    if exit_reason & ENTRY_FAILURE != 0 {
        if basic == reason::MACHINE_CHECK_DURING_ENTRY {
            return Exit::MachineCheck;
        }
        let qualification = fields.get(field::EXIT_QUALIFICATION);
        return Exit::EntryFailed(EntryFailure::GuestState {
            reason: basic,
            qualification,
        });
    }
    match basic {
        reason::VMCALL => Exit::Hypercall,
        reason::EXCEPTION_OR_NMI => exception(fields),
        reason::EXTERNAL_INTERRUPT => {
            let info = fields.get(field::EXIT_INTERRUPTION);
            Exit::HostInterrupt((info & event::VALID != 0).then_some(info as u8))
        }
        reason::TRIPLE_FAULT => Exit::TripleFault,
        reason::INIT | reason::SIPI => Exit::HostInit,
        reason::INTERRUPT_WINDOW => Exit::InterruptWindow,
        reason::NMI_WINDOW => Exit::NmiWindow,
        reason::TPR_BELOW_THRESHOLD => Exit::PriorityWindow,
        reason::TASK_SWITCH => Exit::TaskSwitch {
            cause: interrupted_event(fields).map(|e| e.kind),
        },
        reason::CPUID => Exit::Cpuid,
        reason::HLT => Exit::Halt,
        reason::RDPMC => Exit::ForbiddenInstruction,
        reason::CR_ACCESS => control_register(fields, &guest()),
        reason::IO => Exit::Io(port(fields.get(field::EXIT_QUALIFICATION))),
        reason::RDMSR => Exit::Rdmsr,
        reason::WRMSR => Exit::Wrmsr,
        reason::PAUSE => Exit::Pause,
        reason::EPT_VIOLATION => Exit::NestedFault(nested_fault(fields)),
        reason::APIC_ACCESS => Exit::NestedFault(apic_access(fields.get(field::EXIT_QUALIFICATION))),
        reason::APIC_WRITE => Exit::ApicWrite {
            offset: fields.get(field::EXIT_QUALIFICATION) as u16 & 0xfff,
        },
        reason::VIRTUALIZED_EOI => Exit::EndOfInterrupt {
            vector: fields.get(field::EXIT_QUALIFICATION) as u8,
        },
        reason::PREEMPTION_TIMER => Exit::PreemptionTimer,
        reason::RDTSC | reason::RDTSCP => Exit::ReadTsc,
        reason::INVD | reason::WBINVD => Exit::CacheFlush,
        reason::XSETBV => Exit::Xsetbv,
        reason::GETSEC
        | reason::VMCLEAR..=reason::VMXON
        | reason::MWAIT
        | reason::MONITOR
        | reason::INVEPT
        | reason::INVVPID
        | reason::VMFUNC
        | reason::ENCLS
        | reason::ENCLV => Exit::UndefinedInstruction,
        reason::EPT_MISCONFIGURATION => Exit::Unknown {
            code: basic.into(),
            info: fields.get(field::GUEST_PHYSICAL_ADDRESS),
        },
        _ => Exit::Unknown {
            code: basic.into(),
            info: fields.get(field::EXIT_QUALIFICATION),
        },
    }
}

/// The event whose delivery the exit interrupted (IDT-vectoring information). Has a meaning only for the reasons in
/// [`may_interrupt_delivery`].
pub fn interrupted_event(fields: &impl Fields) -> Option<crate::arch::Event> {
    event::decode(
        fields.get(field::IDT_VECTORING),
        || fields.get(field::IDT_VECTORING_ERROR_CODE),
        || fields.get(field::EXIT_INSTRUCTION_LEN),
    )
}

/// Can an exit for this basic reason happen in the middle of the delivery of an event (SDM 3C 25.9.3)?
pub const fn may_interrupt_delivery(basic: u16) -> bool {
    matches!(
        basic,
        reason::EXCEPTION_OR_NMI
            | reason::TASK_SWITCH
            | reason::APIC_ACCESS
            | reason::EPT_VIOLATION
            | reason::EPT_MISCONFIGURATION
    )
}

/// Did the exit hit an IRET that had unblocked NMIs, so that they must be blocked again (SDM 3C 28.2.3)? Undefined, and so "no",
/// where the exit interrupted a delivery, and for #DF.
pub fn nmi_unblocked_by_iret(basic: u16, fields: &impl Fields) -> bool {
    let told = match basic {
        reason::EXCEPTION_OR_NMI => {
            let info = fields.get(field::EXIT_INTERRUPTION);
            info & event::NMI_UNBLOCKED_BY_IRET != 0 && info as u8 != 8
        }
        reason::EPT_VIOLATION => fields.get(field::EXIT_QUALIFICATION) & EPT_NMI_UNBLOCKED != 0,
        _ => false,
    };
    told && fields.get(field::IDT_VECTORING) & event::VALID == 0
}

/// An exception goes on to the guest as what it was: INT1 is no #DB of the CPU's own, and returns behind itself.
fn exception(fields: &impl Fields) -> Exit {
    let info = fields.get(field::EXIT_INTERRUPTION);
    let event = event::decode(
        info,
        || fields.get(field::EXIT_ERROR_CODE),
        || fields.get(field::EXIT_INSTRUCTION_LEN),
    );
    match event {
        Some(event) if event.kind == EventKind::Nmi => Exit::HostNmi,
        // (INT 18 of the guest's is no exception, and does not exit.)
        Some(event) if event.vector == event::MACHINE_CHECK => Exit::MachineCheck,
        Some(event) => Exit::Exception(event),
        None => Exit::Unknown {
            code: reason::EXCEPTION_OR_NMI.into(),
            info: info.into(),
        },
    }
}

/// Qualification of an I/O instruction (SDM 3C table 28-5).
fn port(qualification: u64) -> IoAccess {
    let bit = |n: u32| qualification & (1 << n) != 0;
    IoAccess {
        port: (qualification >> 16) as u16,
        size: (qualification & 7) as u8 + 1,
        direction: if bit(3) { IoDirection::In } else { IoDirection::Out },
        string: bit(4),
        rep: bit(5),
    }
}

/// Qualification of an EPT violation (SDM 3C table 28-7).
fn nested_fault(fields: &impl Fields) -> NestedFault {
    let qualification = fields.get(field::EXIT_QUALIFICATION);
    let bit = |n: u32| qualification & (1 << n) != 0;
    let linear_valid = bit(7);
    NestedFault {
        gpa: Gpa(fields.get(field::GUEST_PHYSICAL_ADDRESS)),
        // With accessed and dirty bits a page walk counts as a write: both bits are set then.
        access: if bit(1) {
            Access::Write
        } else if bit(2) {
            Access::Execute
        } else {
            Access::Read
        },
        present: qualification & 0x38 != 0,
        gva: linear_valid.then(|| Gva(fields.get(field::GUEST_LINEAR_ADDRESS))),
        during_walk: linear_valid && !bit(8),
    }
}

/// Qualification of an access to the APIC-access page that is left to us (SDM 3C table 28-6): as if nothing were mapped there.
fn apic_access(qualification: u64) -> NestedFault {
    let (access, during_walk) = match (qualification >> 12) & 0xf {
        0 => (Access::Read, false),
        2 => (Access::Execute, false),
        // By guest-physical address: a walk of the guest's page tables.
        10 | 15 => (Access::Write, true),
        // Writes, and the delivery of an event, which pushes.
        _ => (Access::Write, false),
    };
    NestedFault {
        gpa: Gpa(DEFAULT_BASE | qualification & 0xfff),
        access,
        present: false,
        gva: None,
        during_walk,
    }
}

/// Qualification of a control-register access (SDM 3C table 28-3). Reads and CR3 never exit here.
fn control_register(fields: &impl Fields, guest: &Guest<'_>) -> Exit {
    let qualification = fields.get(field::EXIT_QUALIFICATION);
    // What the guest reads: its own bits, and the shadow of the bits that are ours.
    let cr0 = || {
        let mask = fields.get(field::CR0_MASK);
        (fields.get(field::GUEST_CR0) & !mask) | (fields.get(field::CR0_SHADOW) & mask)
    };
    let number = (qualification & 0xf) as u8;
    match (qualification >> 4) & 3 {
        0 => {
            let source = gpr(guest.gprs, (qualification >> 8) as u8 & 0xf, || {
                fields.get(field::GUEST_RSP)
            });
            let value = if guest.mode == CpuMode::Long {
                source
            } else {
                source & 0xffff_ffff
            };
            Exit::CrWrite { cr: number, value }
        }
        // CLTS
        2 => Exit::CrWrite {
            cr: 0,
            value: cr0() & !0x8,
        },
        // LMSW sets PE, MP, EM and TS, and cannot clear PE (SDM 2A).
        3 => {
            let old = cr0();
            let source = (qualification >> 16) & 0xf;
            Exit::CrWrite {
                cr: 0,
                value: (old & !0xf) | source | (old & 1),
            }
        }
        _ => Exit::Unknown {
            code: reason::CR_ACCESS.into(),
            info: qualification,
        },
    }
}

/// A general register by its encoding.
fn gpr(gprs: &Gprs, number: u8, rsp: impl FnOnce() -> u64) -> u64 {
    match number {
        0 => gprs.rax,
        1 => gprs.rcx,
        2 => gprs.rdx,
        3 => gprs.rbx,
        4 => rsp(),
        5 => gprs.rbp,
        6 => gprs.rsi,
        7 => gprs.rdi,
        8 => gprs.r8,
        9 => gprs.r9,
        10 => gprs.r10,
        11 => gprs.r11,
        12 => gprs.r12,
        13 => gprs.r13,
        14 => gprs.r14,
        _ => gprs.r15,
    }
}

#[cfg(test)]
#[path = "exit_tests.rs"]
mod tests;
