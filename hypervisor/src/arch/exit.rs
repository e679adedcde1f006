//! Why a guest left: one vendor-neutral enum.

use super::{Event, EventKind};
use crate::types::{Gpa, Gva};

/// What an access was for, as nested page tables and guest page tables know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Data read.
    Read,
    /// Data write (or read-modify-write).
    Write,
    /// Instruction fetch.
    Execute,
}

/// A guest-physical access that the nested page tables did not allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NestedFault {
    /// The guest-physical address.
    pub gpa: Gpa,
    /// What the guest wanted.
    pub access: Access,
    /// The entry was present, but did not allow the access.
    pub present: bool,
    /// The linear address, where the hardware gives it (EPT).
    pub gva: Option<Gva>,
    /// The access was made by the walk of the guest's own page tables, not by the instruction.
    pub during_walk: bool,
}

/// Direction of a port access, as the guest sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoDirection {
    /// `IN`, `INS`.
    In,
    /// `OUT`, `OUTS`.
    Out,
}

/// A port access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoAccess {
    /// The port.
    pub port: u16,
    /// 1, 2 or 4 bytes.
    pub size: u8,
    /// In or out.
    pub direction: IoDirection,
    /// `INS`/`OUTS`: memory is involved, the instruction must be decoded.
    pub string: bool,
    /// With a REP prefix.
    pub rep: bool,
}

/// Why the hardware refused to enter the guest. The domain is crashed; the text goes to the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryFailure {
    /// VMfailValid with this VM-instruction error number (SDM 3C 31.4).
    VmInstructionError(u32),
    /// VM-entry failed after loading guest state: basic exit reason (33, 34) and qualification (SDM 3C 27.8).
    GuestState {
        /// Basic exit reason.
        reason: u16,
        /// Exit qualification.
        qualification: u64,
    },
    /// VMEXIT_INVALID (APM vol. 2, 15.5.1 "canonicalization and consistency checks").
    InvalidVmcb,
}

/// How the guest left. The hypercall stands apart: it is what a guest waits for most, and is told by a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// By VMCALL or VMMCALL.
    Hypercall,
    /// By a hypercall that has been made, and there is something to look at before the next entry. [`OUTSIDE`](super::calls::OUTSIDE) is taken away
    /// already.
    Called,
    /// By a hypercall that is to be made again.
    CallAgain,
    /// By an exit with this code of the back end's, which [`GuestCpu::exit`](super::GuestCpu::exit) makes an [`Exit`] of.
    Exit(u64),
}

/// Why the guest left. RIP still points at the instruction for every kind that names one, unless noted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// VMCALL on VT-x, VMMCALL on AMD-V. (The other vendor's instruction raises #UD in the guest without an exit.)
    Hypercall,
    /// CPUID.
    Cpuid,
    /// RDMSR of the register in ECX.
    Rdmsr,
    /// WRMSR to the register in ECX.
    Wrmsr,
    /// A port that the I/O bitmap does not give to the guest.
    Io(IoAccess),
    /// EPT violation or nested page fault.
    NestedFault(NestedFault),
    /// HLT.
    Halt,
    /// PAUSE, or a loop of them (PLE, pause filter).
    Pause,
    /// A MOV to CR0, CR4 or CR8, CLTS or LMSW that changes a bit which the hypervisor owns: the new full value.
    CrWrite {
        /// 0, 4 or 8 (CR0 in case of CLTS and LMSW).
        cr: u8,
        /// The value that the guest wants the register to have.
        value: u64,
    },
    /// A MOV or LMSW to CR0 or CR4 that changes more than TS and MP, where only the instruction tells the value (AMD-V).
    CrInstruction,
    /// XSETBV: register in ECX, value in EDX:EAX.
    Xsetbv,
    /// RDTSC or RDTSCP (which of them, the instruction tells: TCG says RDTSC of both), after [`GuestCpu::emulate_tsc`](super::GuestCpu::emulate_tsc).
    ReadTsc,
    /// WBINVD, INVD or WBNOINVD.
    CacheFlush,
    /// MONITOR, MWAIT, the virtualization instructions and others that do not exist for guests: #UD.
    UndefinedInstruction,
    /// An instruction that exists, but may not be used: #GP(0).
    ForbiddenInstruction,
    /// An exception that is intercepted (#DB, #AC), for the exit loop to deliver. Fault or trap semantics are
    /// the exception's own: delivering it again is always right. For #DB, DR6 is as the exception leaves it.
    Exception(Event),
    /// The machine signalled a machine check while the guest ran or was entered. It is the host's, as an interrupt is, and the guest has not
    /// seen it.
    MachineCheck,
    /// The guest can take an interrupt now; asked for by `request_interrupt_window`.
    InterruptWindow,
    /// CR8 is below the class that `request_priority_window` named.
    PriorityWindow,
    /// The guest has written a local APIC's register, which holds the value by now. RIP is past the instruction.
    ApicWrite {
        /// The register.
        offset: u16,
    },
    /// The guest has ended an interrupt that is a level; the hardware has done the rest. RIP is past the instruction.
    EndOfInterrupt {
        /// Its vector.
        vector: u8,
    },
    /// The guest can take an NMI now; asked for by `request_nmi_window`.
    NmiWindow,
    /// A host interrupt is due. `Some(vector)`: it was acknowledged (VT-x "acknowledge interrupt on exit") and the exit loop must call its
    /// handler. `None`: it is still pending and is taken when interrupts are enabled for a moment (AMD-V).
    HostInterrupt(Option<u8>),
    /// A host NMI arrived while the guest ran; the back end has already let the host's handler run it.
    HostNmi,
    /// The backstop of `set_preemption_timer`.
    PreemptionTimer,
    /// Triple fault, or shutdown by other means.
    TripleFault,
    /// INIT signal or SIPI reached a guest CPU; meaningless to a guest, ignored.
    HostInit,
    /// It was the back end's own business, and is done.
    Handled,
    /// A task switch through a gate or TSS; not emulated.
    TaskSwitch {
        /// The event that caused it, if it was one.
        cause: Option<EventKind>,
    },
    /// The hardware refused to enter.
    EntryFailed(EntryFailure),
    /// A reason this back end does not know or did not ask for; raw code and details for the log.
    Unknown {
        /// Exit reason or EXITCODE.
        code: u64,
        /// Exit qualification or EXITINFO1.
        info: u64,
    },
}
