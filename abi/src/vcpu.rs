//! `vcpu_op` (hypercall 24): arguments are the operation, the vCPU id and a structure.

use crate::shared_info::VcpuTimeInfo;
use crate::{GuestHandle, Union};

/// Set the start state ([`VcpuHvmContext`]).
pub const VCPUOP_INITIALISE: u32 = 0;
/// Start.
pub const VCPUOP_UP: u32 = 1;
/// Stop.
pub const VCPUOP_DOWN: u32 = 2;
/// Returns 1 when started.
pub const VCPUOP_IS_UP: u32 = 3;
/// Fills a [`VcpuRunstateInfo`].
pub const VCPUOP_GET_RUNSTATE_INFO: u32 = 4;
/// Keep a [`VcpuRunstateInfo`] current ([`VcpuRegisterRunstateMemoryArea`]).
pub const VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA: u32 = 5;
/// Periodic timer ([`VcpuSetPeriodicTimer`]).
pub const VCPUOP_SET_PERIODIC_TIMER: u32 = 6;
/// Stop it; Linux probes for timers with this one.
pub const VCPUOP_STOP_PERIODIC_TIMER: u32 = 7;
/// One-shot timer ([`VcpuSetSingleshotTimer`]).
pub const VCPUOP_SET_SINGLESHOT_TIMER: u32 = 8;
/// Stop it.
pub const VCPUOP_STOP_SINGLESHOT_TIMER: u32 = 9;
/// Move the vCPU's `VcpuInfo` ([`VcpuRegisterVcpuInfo`]).
pub const VCPUOP_REGISTER_VCPU_INFO: u32 = 10;
/// Send an NMI.
pub const VCPUOP_SEND_NMI: u32 = 11;
/// Physical id ([`VcpuGetPhysid`]).
pub const VCPUOP_GET_PHYSID: u32 = 12;
/// Second copy of the clock ([`VcpuRegisterTimeMemoryArea`]).
pub const VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA: u32 = 13;

/// On a CPU.
pub const RUNSTATE_RUNNING: u32 = 0;
/// Wants a CPU.
pub const RUNSTATE_RUNNABLE: u32 = 1;
/// Waits.
pub const RUNSTATE_BLOCKED: u32 = 2;
/// Down or paused.
pub const RUNSTATE_OFFLINE: u32 = 3;
/// In `state_entry_time`: an update is in progress (with `VMASST_TYPE_RUNSTATE_UPDATE_FLAG`).
pub const XEN_RUNSTATE_UPDATE: u64 = 1 << 63;
/// [`VcpuSetSingleshotTimer::flags`]: fail with `ETIME` when the time has passed.
pub const VCPU_SSHOTTMR_FUTURE: u32 = 1;

/// [`VcpuHvmContext::mode`]: 32-bit, [`VcpuHvmX8632`].
pub const VCPU_HVM_MODE_32B: u32 = 0;
/// [`VcpuHvmContext::mode`]: 64-bit, [`VcpuHvmX8664`].
pub const VCPU_HVM_MODE_64B: u32 = 1;

compat! {
    /// Where a vCPU's time went.
    pub struct VcpuRunstateInfo as CompatVcpuRunstateInfo {
        /// `RUNSTATE_*`.
        pub state: u32,
        /// Padding.
        pub pad: u32 as (),
        /// When that state was entered, in system time.
        pub state_entry_time: u64,
        /// Nanoseconds spent in each state.
        pub time: [u64; 4],
    }
    /// Register a runstate area.
    pub struct VcpuRegisterRunstateMemoryArea as CompatVcpuRegisterRunstateMemoryArea {
        /// Guest virtual address.
        pub addr: GuestHandle<VcpuRunstateInfo> as [u32; 2],
    }
}

plain! {
    /// Periodic timer.
    pub struct VcpuSetPeriodicTimer {
        /// Nanoseconds.
        pub period_ns: u64,
    }
}

compat! {
    /// One-shot timer.
    pub struct VcpuSetSingleshotTimer as CompatVcpuSetSingleshotTimer {
        /// Absolute system time.
        pub timeout_abs_ns: u64,
        /// [`VCPU_SSHOTTMR_FUTURE`].
        pub flags: u32,
        /// Padding.
        pub pad: u32 as (),
    }
}

plain! {
    /// Move the vCPU's `VcpuInfo`.
    pub struct VcpuRegisterVcpuInfo {
        /// Guest frame.
        pub mfn: u64,
        /// Offset in it.
        pub offset: u32,
        /// Reserved.
        pub rsvd: u32,
    }
    /// Physical id of a vCPU.
    pub struct VcpuGetPhysid {
        /// APIC id in the low half, ACPI id in the high one.
        pub phys_id: u64,
    }
}

compat! {
    /// Register a second clock.
    pub struct VcpuRegisterTimeMemoryArea as CompatVcpuRegisterTimeMemoryArea {
        /// Guest virtual address.
        pub addr: GuestHandle<VcpuTimeInfo> as [u32; 2],
    }
}

plain! {
    /// Start state in 32-bit mode.
    pub struct VcpuHvmX8632 {
        /// General register.
        pub eax: u32,
        /// General register.
        pub ecx: u32,
        /// General register.
        pub edx: u32,
        /// General register.
        pub ebx: u32,
        /// Stack pointer.
        pub esp: u32,
        /// General register.
        pub ebp: u32,
        /// General register.
        pub esi: u32,
        /// General register.
        pub edi: u32,
        /// Instruction pointer.
        pub eip: u32,
        /// Flags.
        pub eflags: u32,
        /// Control register 0.
        pub cr0: u32,
        /// Control register 3.
        pub cr3: u32,
        /// Control register 4.
        pub cr4: u32,
        /// Zero.
        pub pad1: u32,
        /// Extended features.
        pub efer: u64,
        /// Base of CS.
        pub cs_base: u32,
        /// Base of DS.
        pub ds_base: u32,
        /// Base of SS.
        pub ss_base: u32,
        /// Base of ES.
        pub es_base: u32,
        /// Base of TR.
        pub tr_base: u32,
        /// Limit of CS.
        pub cs_limit: u32,
        /// Limit of DS.
        pub ds_limit: u32,
        /// Limit of SS.
        pub ss_limit: u32,
        /// Limit of ES.
        pub es_limit: u32,
        /// Limit of TR.
        pub tr_limit: u32,
        /// Attributes of CS: descriptor bits 40-47 and 52-55.
        pub cs_ar: u16,
        /// Attributes of DS.
        pub ds_ar: u16,
        /// Attributes of SS.
        pub ss_ar: u16,
        /// Attributes of ES.
        pub es_ar: u16,
        /// Attributes of TR.
        pub tr_ar: u16,
        /// Zero.
        pub pad2: [u16; 3],
    }
    /// Start state in 64-bit mode; segments are flat.
    pub struct VcpuHvmX8664 {
        /// General register.
        pub rax: u64,
        /// General register.
        pub rcx: u64,
        /// General register.
        pub rdx: u64,
        /// General register.
        pub rbx: u64,
        /// Stack pointer.
        pub rsp: u64,
        /// General register.
        pub rbp: u64,
        /// General register.
        pub rsi: u64,
        /// General register.
        pub rdi: u64,
        /// Instruction pointer.
        pub rip: u64,
        /// Flags.
        pub rflags: u64,
        /// Control register 0.
        pub cr0: u64,
        /// Control register 3.
        pub cr3: u64,
        /// Control register 4.
        pub cr4: u64,
        /// Extended features.
        pub efer: u64,
    }
    /// Start state of a vCPU.
    pub struct VcpuHvmContext {
        /// `VCPU_HVM_MODE_*`.
        pub mode: u32,
        /// Zero.
        pub pad: u32,
        /// [`VcpuHvmX8632`] or [`VcpuHvmX8664`].
        pub cpu_regs: Union<15>,
    }
}
