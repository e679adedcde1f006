//! Hypercall numbers (`rax`), the hypercall page, multicalls and `vm_assist`.
//!
//! 64-bit convention: arguments in `rdi rsi rdx r10 r8`, result in `rax` ([`crate::Errno`]).

/// Host platform control, dom0 only ([`crate::platform`]).
pub const HYPERVISOR_PLATFORM_OP: u32 = 7;
/// Memory ([`crate::memory`]).
pub const HYPERVISOR_MEMORY_OP: u32 = 12;
/// Several calls at once ([`MulticallEntry`]).
pub const HYPERVISOR_MULTICALL: u32 = 13;
/// One-shot timer: absolute nanoseconds in the first argument, 0 to stop.
pub const HYPERVISOR_SET_TIMER_OP: u32 = 15;
/// Versions and features ([`crate::version`]).
pub const HYPERVISOR_XEN_VERSION: u32 = 17;
/// Hypervisor console ([`crate::console_io`]).
pub const HYPERVISOR_CONSOLE_IO: u32 = 18;
/// Grant tables ([`crate::grant`]).
pub const HYPERVISOR_GRANT_TABLE_OP: u32 = 20;
/// Guest options (`VMASST_*`).
pub const HYPERVISOR_VM_ASSIST: u32 = 21;
/// PV interrupt return; its slot in the hypercall page is `ud2`.
pub const HYPERVISOR_IRET: u32 = 23;
/// vCPUs ([`crate::vcpu`]).
pub const HYPERVISOR_VCPU_OP: u32 = 24;
/// PV memory management.
pub const HYPERVISOR_MMUEXT_OP: u32 = 26;
/// Security modules.
pub const HYPERVISOR_XSM_OP: u32 = 27;
/// Scheduling and shutdown ([`crate::sched`]).
pub const HYPERVISOR_SCHED_OP: u32 = 29;
/// Event channels ([`crate::event_channel`]).
pub const HYPERVISOR_EVENT_CHANNEL_OP: u32 = 32;
/// Physical devices ([`crate::physdev`]).
pub const HYPERVISOR_PHYSDEV_OP: u32 = 33;
/// HVM and PVH guests ([`crate::hvm`]).
pub const HYPERVISOR_HVM_OP: u32 = 34;
/// Host control ([`crate::sysctl`]).
pub const HYPERVISOR_SYSCTL: u32 = 35;
/// Domain control ([`crate::domctl`]).
pub const HYPERVISOR_DOMCTL: u32 = 36;
/// Kexec.
pub const HYPERVISOR_KEXEC_OP: u32 = 37;
/// Argo messages.
pub const HYPERVISOR_ARGO_OP: u32 = 39;
/// Performance counters.
pub const HYPERVISOR_XENPMU_OP: u32 = 40;
/// Device models ([`crate::dm_op`]).
pub const HYPERVISOR_DM_OP: u32 = 41;
/// Hypervisor file system.
pub const HYPERVISOR_HYPFS_OP: u32 = 42;

/// Slots in the hypercall page.
pub const HYPERCALL_PAGE_SLOTS: usize = 128;
/// Bytes of each slot.
pub const HYPERCALL_PAGE_SLOT_SIZE: usize = 32;

/// `vm_assist` command: turn an option on.
pub const VMASST_CMD_ENABLE: u32 = 0;
/// `vm_assist` command: turn an option off.
pub const VMASST_CMD_DISABLE: u32 = 1;
/// Emulate 4 GiB segments (32-bit PV).
pub const VMASST_TYPE_4GB_SEGMENTS: u32 = 0;
/// Notify of emulated segments (32-bit PV).
pub const VMASST_TYPE_4GB_SEGMENTS_NOTIFY: u32 = 1;
/// Writable page tables (PV).
pub const VMASST_TYPE_WRITABLE_PAGETABLES: u32 = 2;
/// Extended CR3 (32-bit PV).
pub const VMASST_TYPE_PAE_EXTENDED_CR3: u32 = 3;
/// Architectural I/O privilege level (PV).
pub const VMASST_TYPE_ARCHITECTURAL_IOPL: u32 = 4;
/// Mark runstate updates with [`crate::vcpu::XEN_RUNSTATE_UPDATE`].
pub const VMASST_TYPE_RUNSTATE_UPDATE_FLAG: u32 = 5;
/// Strict machine-to-physical view (PV).
pub const VMASST_TYPE_M2P_STRICT: u32 = 32;

compat! {
    /// One call of a multicall.
    pub struct MulticallEntry as CompatMulticallEntry {
        /// Hypercall number.
        pub op: u64 as u32,
        /// Out: what the call returned.
        pub result: u64 as u32,
        /// Arguments.
        pub args: [u64; 6] as [u32; 6],
    }
}
