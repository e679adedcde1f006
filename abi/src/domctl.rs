//! `domctl` (hypercall 36): control of domains. The argument is a [`Domctl`].

use crate::event_channel::EvtchnPort;
use crate::memory::Vmemrange;
use crate::{Bitmap, Domid, GuestHandle, Union};

/// [`Domctl::interface_version`] of Xen 4.17; any other is answered `EACCES`.
pub const XEN_DOMCTL_INTERFACE_VERSION: u32 = 0x15;

/// [`DomctlCreatedomain`].
pub const XEN_DOMCTL_CREATEDOMAIN: u32 = 1;
/// No payload; `ERESTART` and `EAGAIN` mean "again".
pub const XEN_DOMCTL_DESTROYDOMAIN: u32 = 2;
/// No payload.
pub const XEN_DOMCTL_PAUSEDOMAIN: u32 = 3;
/// No payload.
pub const XEN_DOMCTL_UNPAUSEDOMAIN: u32 = 4;
/// [`DomctlGetdomaininfo`] of the first domain with at least this id.
pub const XEN_DOMCTL_GETDOMAININFO: u32 = 5;
/// [`DomctlVcpuaffinity`].
pub const XEN_DOMCTL_SETVCPUAFFINITY: u32 = 9;
/// [`DomctlShadowOp`].
pub const XEN_DOMCTL_SHADOW_OP: u32 = 10;
/// [`DomctlMaxMem`].
pub const XEN_DOMCTL_MAX_MEM: u32 = 11;
/// [`DomctlVcpucontext`].
pub const XEN_DOMCTL_SETVCPUCONTEXT: u32 = 12;
/// [`DomctlVcpucontext`].
pub const XEN_DOMCTL_GETVCPUCONTEXT: u32 = 13;
/// [`DomctlGetvcpuinfo`].
pub const XEN_DOMCTL_GETVCPUINFO: u32 = 14;
/// [`DomctlMaxVcpus`].
pub const XEN_DOMCTL_MAX_VCPUS: u32 = 15;
/// [`DomctlSchedulerOp`].
pub const XEN_DOMCTL_SCHEDULER_OP: u32 = 16;
/// [`DomctlSetdomainhandle`].
pub const XEN_DOMCTL_SETDOMAINHANDLE: u32 = 17;
/// Payload: a byte.
pub const XEN_DOMCTL_SETDEBUGGING: u32 = 18;
/// [`DomctlIrqPermission`].
pub const XEN_DOMCTL_IRQ_PERMISSION: u32 = 19;
/// [`DomctlIomemPermission`].
pub const XEN_DOMCTL_IOMEM_PERMISSION: u32 = 20;
/// [`DomctlIoportPermission`].
pub const XEN_DOMCTL_IOPORT_PERMISSION: u32 = 21;
/// [`DomctlHypercallInit`].
pub const XEN_DOMCTL_HYPERCALL_INIT: u32 = 22;
/// [`DomctlSettimeoffset`].
pub const XEN_DOMCTL_SETTIMEOFFSET: u32 = 24;
/// [`DomctlVcpuaffinity`].
pub const XEN_DOMCTL_GETVCPUAFFINITY: u32 = 25;
/// No payload.
pub const XEN_DOMCTL_RESUMEDOMAIN: u32 = 27;
/// [`DomctlSendtrigger`].
pub const XEN_DOMCTL_SENDTRIGGER: u32 = 28;
/// [`DomctlSubscribe`].
pub const XEN_DOMCTL_SUBSCRIBE: u32 = 29;
/// [`DomctlHvmcontext`].
pub const XEN_DOMCTL_GETHVMCONTEXT: u32 = 33;
/// [`DomctlHvmcontext`].
pub const XEN_DOMCTL_SETHVMCONTEXT: u32 = 34;
/// [`DomctlAddressSize`].
pub const XEN_DOMCTL_SET_ADDRESS_SIZE: u32 = 35;
/// [`DomctlAddressSize`].
pub const XEN_DOMCTL_GET_ADDRESS_SIZE: u32 = 36;
/// [`DomctlAssignDevice`].
pub const XEN_DOMCTL_ASSIGN_DEVICE: u32 = 37;
/// [`DomctlBindPtIrq`].
pub const XEN_DOMCTL_BIND_PT_IRQ: u32 = 38;
/// [`DomctlMemoryMapping`].
pub const XEN_DOMCTL_MEMORY_MAPPING: u32 = 39;
/// [`DomctlIoportMapping`].
pub const XEN_DOMCTL_IOPORT_MAPPING: u32 = 40;
/// PV state of a vCPU.
pub const XEN_DOMCTL_SET_EXT_VCPUCONTEXT: u32 = 42;
/// PV state of a vCPU.
pub const XEN_DOMCTL_GET_EXT_VCPUCONTEXT: u32 = 43;
/// [`DomctlAssignDevice`].
pub const XEN_DOMCTL_TEST_ASSIGN_DEVICE: u32 = 45;
/// [`DomctlSetTarget`].
pub const XEN_DOMCTL_SET_TARGET: u32 = 46;
/// [`DomctlAssignDevice`].
pub const XEN_DOMCTL_DEASSIGN_DEVICE: u32 = 47;
/// [`DomctlBindPtIrq`].
pub const XEN_DOMCTL_UNBIND_PT_IRQ: u32 = 48;
/// [`DomctlGetDeviceGroup`].
pub const XEN_DOMCTL_GET_DEVICE_GROUP: u32 = 50;
/// [`DomctlDebugOp`].
pub const XEN_DOMCTL_DEBUG_OP: u32 = 54;
/// [`DomctlHvmcontextPartial`].
pub const XEN_DOMCTL_GETHVMCONTEXT_PARTIAL: u32 = 55;
/// Introspection.
pub const XEN_DOMCTL_VM_EVENT_OP: u32 = 56;
/// Page sharing.
pub const XEN_DOMCTL_MEM_SHARING_OP: u32 = 57;
/// [`DomctlTscInfo`].
pub const XEN_DOMCTL_GETTSCINFO: u32 = 59;
/// [`DomctlTscInfo`].
pub const XEN_DOMCTL_SETTSCINFO: u32 = 60;
/// [`DomctlGetpageframeinfo3`].
pub const XEN_DOMCTL_GETPAGEFRAMEINFO3: u32 = 61;
/// [`DomctlVcpuextstate`].
pub const XEN_DOMCTL_SETVCPUEXTSTATE: u32 = 62;
/// [`DomctlVcpuextstate`].
pub const XEN_DOMCTL_GETVCPUEXTSTATE: u32 = 63;
/// Introspection.
pub const XEN_DOMCTL_SET_ACCESS_REQUIRED: u32 = 64;
/// [`DomctlAuditP2m`].
pub const XEN_DOMCTL_AUDIT_P2M: u32 = 65;
/// [`DomctlSetVirqHandler`].
pub const XEN_DOMCTL_SET_VIRQ_HANDLER: u32 = 66;
/// Payload: a frame.
pub const XEN_DOMCTL_SET_BROKEN_PAGE_P2M: u32 = 67;
/// [`DomctlNodeaffinity`].
pub const XEN_DOMCTL_SETNODEAFFINITY: u32 = 68;
/// [`DomctlNodeaffinity`].
pub const XEN_DOMCTL_GETNODEAFFINITY: u32 = 69;
/// [`DomctlCacheflush`].
pub const XEN_DOMCTL_CACHEFLUSH: u32 = 71;
/// [`DomctlVcpuMsrs`].
pub const XEN_DOMCTL_GET_VCPU_MSRS: u32 = 72;
/// [`DomctlVcpuMsrs`].
pub const XEN_DOMCTL_SET_VCPU_MSRS: u32 = 73;
/// [`DomctlVnuma`].
pub const XEN_DOMCTL_SETVNUMAINFO: u32 = 74;
/// Cache monitoring.
pub const XEN_DOMCTL_PSR_CMT_OP: u32 = 75;
/// Introspection.
pub const XEN_DOMCTL_MONITOR_OP: u32 = 77;
/// Cache allocation.
pub const XEN_DOMCTL_PSR_ALLOC: u32 = 78;
/// No payload.
pub const XEN_DOMCTL_SOFT_RESET: u32 = 79;
/// Arm.
pub const XEN_DOMCTL_VUART_OP: u32 = 81;
/// [`DomctlCpuPolicy`].
pub const XEN_DOMCTL_GET_CPU_POLICY: u32 = 82;
/// [`DomctlCpuPolicy`].
pub const XEN_DOMCTL_SET_CPU_POLICY: u32 = 83;
/// [`DomctlVmtraceOp`].
pub const XEN_DOMCTL_VMTRACE_OP: u32 = 84;
/// [`DomctlPagingMempool`].
pub const XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE: u32 = 85;
/// [`DomctlPagingMempool`].
pub const XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE: u32 = 86;
/// [`DomctlGdbsxMemio`].
pub const XEN_DOMCTL_GDBSX_GUESTMEMIO: u32 = 1000;
/// Payload: a vCPU id.
pub const XEN_DOMCTL_GDBSX_PAUSEVCPU: u32 = 1001;
/// Payload: a vCPU id.
pub const XEN_DOMCTL_GDBSX_UNPAUSEVCPU: u32 = 1002;
/// [`DomctlGdbsxDomstatus`].
pub const XEN_DOMCTL_GDBSX_DOMSTATUS: u32 = 1003;

/// [`DomctlCreatedomain::flags`]: HVM or PVH.
pub const XEN_DOMCTL_CDF_HVM: u32 = 1 << 0;
/// [`DomctlCreatedomain::flags`]: hardware-assisted paging.
pub const XEN_DOMCTL_CDF_HAP: u32 = 1 << 1;
/// [`DomctlCreatedomain::flags`]: check integrity over S3.
pub const XEN_DOMCTL_CDF_S3_INTEGRITY: u32 = 1 << 2;
/// [`DomctlCreatedomain::flags`]: no out-of-sync shadows.
pub const XEN_DOMCTL_CDF_OOS_OFF: u32 = 1 << 3;
/// [`DomctlCreatedomain::flags`]: the xenstore domain.
pub const XEN_DOMCTL_CDF_XS_DOMAIN: u32 = 1 << 4;
/// [`DomctlCreatedomain::flags`]: may use the IOMMU.
pub const XEN_DOMCTL_CDF_IOMMU: u32 = 1 << 5;
/// [`DomctlCreatedomain::flags`]: nested virtualization.
pub const XEN_DOMCTL_CDF_NESTED_VIRT: u32 = 1 << 6;
/// [`DomctlCreatedomain::flags`]: virtual performance counters.
pub const XEN_DOMCTL_CDF_VPMU: u32 = 1 << 7;
/// [`DomctlCreatedomain::flags`]: the largest.
pub const XEN_DOMCTL_CDF_MAX: u32 = XEN_DOMCTL_CDF_VPMU;
/// [`DomctlCreatedomain::iommu_opts`]: page tables are not shared.
pub const XEN_DOMCTL_IOMMU_NO_SHAREPT: u32 = 1 << 0;
/// [`DomctlCreatedomain::grant_opts`]: highest grant table version.
pub const XEN_DOMCTL_GRANT_VERSION_MASK: u32 = 0xf;
/// Most vCPUs of an HVM or PVH domain.
pub const HVM_MAX_VCPUS: u32 = 128;

/// [`ArchDomainconfig::emulation_flags`]: local APIC.
pub const XEN_X86_EMU_LAPIC: u32 = 1 << 0;
/// [`ArchDomainconfig::emulation_flags`]: HPET.
pub const XEN_X86_EMU_HPET: u32 = 1 << 1;
/// [`ArchDomainconfig::emulation_flags`]: ACPI power management.
pub const XEN_X86_EMU_PM: u32 = 1 << 2;
/// [`ArchDomainconfig::emulation_flags`]: real-time clock.
pub const XEN_X86_EMU_RTC: u32 = 1 << 3;
/// [`ArchDomainconfig::emulation_flags`]: I/O APIC.
pub const XEN_X86_EMU_IOAPIC: u32 = 1 << 4;
/// [`ArchDomainconfig::emulation_flags`]: 8259s.
pub const XEN_X86_EMU_PIC: u32 = 1 << 5;
/// [`ArchDomainconfig::emulation_flags`]: VGA.
pub const XEN_X86_EMU_VGA: u32 = 1 << 6;
/// [`ArchDomainconfig::emulation_flags`]: IOMMU.
pub const XEN_X86_EMU_IOMMU: u32 = 1 << 7;
/// [`ArchDomainconfig::emulation_flags`]: 8254.
pub const XEN_X86_EMU_PIT: u32 = 1 << 8;
/// [`ArchDomainconfig::emulation_flags`]: physical interrupts over event channels.
pub const XEN_X86_EMU_USE_PIRQ: u32 = 1 << 9;
/// [`ArchDomainconfig::emulation_flags`]: PCI configuration space in the hypervisor.
pub const XEN_X86_EMU_VPCI: u32 = 1 << 10;
/// [`ArchDomainconfig::emulation_flags`]: all of them.
pub const XEN_X86_EMU_ALL: u32 = (1 << 11) - 1;
/// [`ArchDomainconfig::misc_flags`]: unknown MSRs read as zero.
pub const XEN_X86_MSR_RELAXED: u32 = 1 << 0;

/// [`DomctlGetdomaininfo::flags`]: being destroyed.
pub const XEN_DOMINF_DYING: u32 = 1 << 0;
/// [`DomctlGetdomaininfo::flags`]: HVM or PVH.
pub const XEN_DOMINF_HVM_GUEST: u32 = 1 << 1;
/// [`DomctlGetdomaininfo::flags`]: shut down.
pub const XEN_DOMINF_SHUTDOWN: u32 = 1 << 2;
/// [`DomctlGetdomaininfo::flags`]: paused by the toolstack.
pub const XEN_DOMINF_PAUSED: u32 = 1 << 3;
/// [`DomctlGetdomaininfo::flags`]: all vCPUs wait.
pub const XEN_DOMINF_BLOCKED: u32 = 1 << 4;
/// [`DomctlGetdomaininfo::flags`]: some vCPU is on a CPU.
pub const XEN_DOMINF_RUNNING: u32 = 1 << 5;
/// [`DomctlGetdomaininfo::flags`]: being debugged.
pub const XEN_DOMINF_DEBUGGED: u32 = 1 << 6;
/// [`DomctlGetdomaininfo::flags`]: the xenstore domain.
pub const XEN_DOMINF_XS_DOMAIN: u32 = 1 << 7;
/// [`DomctlGetdomaininfo::flags`]: hardware-assisted paging.
pub const XEN_DOMINF_HAP: u32 = 1 << 8;
/// [`DomctlGetdomaininfo::flags`]: mask of the shutdown reason, after the shift.
pub const XEN_DOMINF_SHUTDOWNMASK: u32 = 255;
/// [`DomctlGetdomaininfo::flags`]: bit of the shutdown reason.
pub const XEN_DOMINF_SHUTDOWNSHIFT: u32 = 16;
/// [`DomctlGetdomaininfo::max_vcpu_id`]: no vCPUs yet.
pub const XEN_INVALID_MAX_VCPU_ID: u32 = u32::MAX;

/// Page type: broken.
pub const XEN_DOMCTL_PFINFO_BROKEN: u64 = 0xd << 28;
/// Page type: allocate only.
pub const XEN_DOMCTL_PFINFO_XALLOC: u64 = 0xe << 28;
/// Page type: not there.
pub const XEN_DOMCTL_PFINFO_XTAB: u64 = 0xf << 28;
/// Mask of the page type.
pub const XEN_DOMCTL_PFINFO_LTAB_MASK: u64 = 0xf << 28;

/// [`DomctlShadowOp::op`]: off.
pub const XEN_DOMCTL_SHADOW_OP_OFF: u32 = 0;
/// [`DomctlShadowOp::op`]: log dirty pages.
pub const XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY: u32 = 2;
/// [`DomctlShadowOp::op`]: fetch the bitmap and clear it.
pub const XEN_DOMCTL_SHADOW_OP_CLEAN: u32 = 11;
/// [`DomctlShadowOp::op`]: fetch the bitmap.
pub const XEN_DOMCTL_SHADOW_OP_PEEK: u32 = 12;
/// [`DomctlShadowOp::op`]: size of the page-table pool in MiB.
pub const XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION: u32 = 30;
/// [`DomctlShadowOp::op`]: set that size.
pub const XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION: u32 = 31;
/// [`DomctlShadowOp::op`]: enable with `mode`.
pub const XEN_DOMCTL_SHADOW_OP_ENABLE: u32 = 32;
/// [`DomctlShadowOp::mode`] of `OP_ENABLE`: log dirty pages.
pub const XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY: u32 = 1 << 2;
/// [`DomctlShadowOp::mode`] of `OP_CLEAN`: the last pass, the domain is suspended.
pub const XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL: u32 = 1 << 0;

/// [`DomctlVcpuaffinity::flags`]: hard.
pub const XEN_VCPUAFFINITY_HARD: u32 = 1 << 0;
/// [`DomctlVcpuaffinity::flags`]: soft.
pub const XEN_VCPUAFFINITY_SOFT: u32 = 1 << 1;
/// [`DomctlVcpuaffinity::flags`]: override a temporary pin.
pub const XEN_VCPUAFFINITY_FORCE: u32 = 1 << 2;

/// The credit scheduler.
pub const XEN_SCHEDULER_CREDIT: u32 = 5;
/// The credit2 scheduler.
pub const XEN_SCHEDULER_CREDIT2: u32 = 6;
/// The ARINC 653 scheduler.
pub const XEN_SCHEDULER_ARINC653: u32 = 7;
/// The real-time scheduler.
pub const XEN_SCHEDULER_RTDS: u32 = 8;
/// The null scheduler.
pub const XEN_SCHEDULER_NULL: u32 = 9;
/// [`DomctlSchedulerOp::cmd`]: set a domain's parameters.
pub const XEN_DOMCTL_SCHEDOP_PUTINFO: u32 = 0;
/// [`DomctlSchedulerOp::cmd`]: get a domain's parameters.
pub const XEN_DOMCTL_SCHEDOP_GETINFO: u32 = 1;
/// [`DomctlSchedulerOp::cmd`]: set vCPUs' parameters.
pub const XEN_DOMCTL_SCHEDOP_PUTVCPUINFO: u32 = 2;
/// [`DomctlSchedulerOp::cmd`]: get vCPUs' parameters.
pub const XEN_DOMCTL_SCHEDOP_GETVCPUINFO: u32 = 3;

/// [`DomctlSendtrigger::trigger`]: NMI.
pub const XEN_DOMCTL_SENDTRIGGER_NMI: u32 = 0;
/// [`DomctlSendtrigger::trigger`]: reset.
pub const XEN_DOMCTL_SENDTRIGGER_RESET: u32 = 1;
/// [`DomctlSendtrigger::trigger`]: INIT.
pub const XEN_DOMCTL_SENDTRIGGER_INIT: u32 = 2;
/// [`DomctlSendtrigger::trigger`]: power button.
pub const XEN_DOMCTL_SENDTRIGGER_POWER: u32 = 3;
/// [`DomctlSendtrigger::trigger`]: sleep button.
pub const XEN_DOMCTL_SENDTRIGGER_SLEEP: u32 = 4;

/// [`DomctlAssignDevice::dev`]: PCI.
pub const XEN_DOMCTL_DEV_PCI: u32 = 0;
/// [`DomctlAssignDevice::flags`]: tolerate conflicts with reserved memory.
pub const XEN_DOMCTL_DEV_RDM_RELAXED: u32 = 1;
/// [`DomctlBindPtIrq::irq_type`]: PCI line ([`PtIrqPci`]).
pub const PT_IRQ_TYPE_PCI: u32 = 0;
/// [`DomctlBindPtIrq::irq_type`]: ISA interrupt, a byte.
pub const PT_IRQ_TYPE_ISA: u32 = 1;
/// [`DomctlBindPtIrq::irq_type`]: MSI ([`PtIrqMsi`]).
pub const PT_IRQ_TYPE_MSI: u32 = 2;
/// [`DomctlMemoryMapping::add_mapping`]: map.
pub const DPCI_ADD_MAPPING: u32 = 1;
/// [`DomctlMemoryMapping::add_mapping`]: unmap.
pub const DPCI_REMOVE_MAPPING: u32 = 0;

/// [`CpuidLeaf::subleaf`]: the leaf has none.
pub const XEN_CPUID_NO_SUBLEAF: u32 = u32::MAX;
/// [`DomctlTscInfo::tsc_mode`]: native while the frequency matches.
pub const TSC_MODE_DEFAULT: u32 = 0;
/// [`DomctlTscInfo::tsc_mode`]: always emulated.
pub const TSC_MODE_ALWAYS_EMULATE: u32 = 1;
/// [`DomctlTscInfo::tsc_mode`]: never emulated.
pub const TSC_MODE_NEVER_EMULATE: u32 = 2;

/// A UUID, its bytes in the order they are printed.
pub type DomainHandle = [u8; 16];

plain! {
    /// The argument of `domctl`.
    pub struct Domctl {
        /// `XEN_DOMCTL_*`.
        pub cmd: u32,
        /// [`XEN_DOMCTL_INTERFACE_VERSION`].
        pub interface_version: u32,
        /// Target, where there is one.
        pub domain: Domid,
        /// Padding.
        pub pad: [u16; 3],
        /// The structure that `cmd` names.
        pub u: Union<16>,
    }
    /// x86 part of a domain's configuration.
    pub struct ArchDomainconfig {
        /// `XEN_X86_EMU_*`.
        pub emulation_flags: u32,
        /// [`XEN_X86_MSR_RELAXED`].
        pub misc_flags: u32,
    }
    /// Make a domain; id 0 takes a free one, which is returned in [`Domctl::domain`].
    pub struct DomctlCreatedomain {
        /// Security label.
        pub ssidref: u32,
        /// UUID.
        pub handle: DomainHandle,
        /// `XEN_DOMCTL_CDF_*`.
        pub flags: u32,
        /// [`XEN_DOMCTL_IOMMU_NO_SHAREPT`].
        pub iommu_opts: u32,
        /// Most vCPUs.
        pub max_vcpus: u32,
        /// Highest port.
        pub max_evtchn_port: u32,
        /// Most grant table frames; negative for the default.
        pub max_grant_frames: i32,
        /// Most maptrack frames; negative for the default.
        pub max_maptrack_frames: i32,
        /// [`XEN_DOMCTL_GRANT_VERSION_MASK`].
        pub grant_opts: u32,
        /// Trace buffer of each vCPU in bytes.
        pub vmtrace_size: u32,
        /// CPU pool.
        pub cpupool_id: u32,
        /// x86 part.
        pub arch: ArchDomainconfig,
    }
    /// State of a domain.
    pub struct DomctlGetdomaininfo {
        /// Its id.
        pub domain: Domid,
        /// Padding.
        pub pad1: u16,
        /// `XEN_DOMINF_*`.
        pub flags: u32,
        /// Pages owned.
        pub tot_pages: u64,
        /// Most pages.
        pub max_pages: u64,
        /// Pages claimed.
        pub outstanding_pages: u64,
        /// Pages shared.
        pub shr_pages: u64,
        /// Pages paged out.
        pub paged_pages: u64,
        /// Frame of the shared info.
        pub shared_info_frame: u64,
        /// Nanoseconds run, all vCPUs.
        pub cpu_time: u64,
        /// vCPUs that are up.
        pub nr_online_vcpus: u32,
        /// Highest vCPU id, or [`XEN_INVALID_MAX_VCPU_ID`].
        pub max_vcpu_id: u32,
        /// Security label.
        pub ssidref: u32,
        /// UUID.
        pub handle: DomainHandle,
        /// CPU pool.
        pub cpupool: u32,
        /// Width of guest-physical addresses.
        pub gpaddr_bits: u8,
        /// Padding.
        pub pad2: [u8; 7],
        /// x86 part.
        pub arch_config: ArchDomainconfig,
    }
    /// Types of pages.
    pub struct DomctlGetpageframeinfo3 {
        /// How many.
        pub num: u64,
        /// In: frames; out: `XEN_DOMCTL_PFINFO_*`.
        pub array: GuestHandle<u64>,
    }
    /// Counters of dirty logging.
    pub struct DomctlShadowOpStats {
        /// Faults taken.
        pub fault_count: u32,
        /// Pages found dirty.
        pub dirty_count: u32,
    }
    /// Dirty logging, and the page-table pool.
    pub struct DomctlShadowOp {
        /// `XEN_DOMCTL_SHADOW_OP_*`.
        pub op: u32,
        /// Flags of `op`.
        pub mode: u32,
        /// Pool size in MiB.
        pub mb: u32,
        /// Padding.
        pub pad: u32,
        /// Out: the bitmap; null clears only.
        pub dirty_bitmap: GuestHandle<u8>,
        /// In: pages of the bitmap; out: pages done.
        pub pages: u64,
        /// Out: counters.
        pub stats: DomctlShadowOpStats,
    }
    /// Limit of memory.
    pub struct DomctlMaxMem {
        /// In KiB.
        pub max_memkb: u64,
    }
    /// Registers of a vCPU.
    pub struct DomctlVcpucontext {
        /// The vCPU.
        pub vcpu: u32,
        /// Padding.
        pub pad: u32,
        /// A [`VcpuGuestContext`].
        pub ctxt: GuestHandle<VcpuGuestContext>,
    }
    /// State of a vCPU.
    pub struct DomctlGetvcpuinfo {
        /// In: the vCPU.
        pub vcpu: u32,
        /// Is up.
        pub online: u8,
        /// Waits.
        pub blocked: u8,
        /// Is on a CPU.
        pub running: u8,
        /// Padding.
        pub pad0: u8,
        /// Nanoseconds run.
        pub cpu_time: u64,
        /// CPU it is or was on.
        pub cpu: u32,
        /// Padding.
        pub pad1: u32,
    }
    /// NUMA nodes of a domain.
    pub struct DomctlNodeaffinity {
        /// The nodes.
        pub nodemap: Bitmap,
    }
    /// CPUs of a vCPU.
    pub struct DomctlVcpuaffinity {
        /// The vCPU.
        pub vcpu: u32,
        /// `XEN_VCPUAFFINITY_*`.
        pub flags: u32,
        /// Where it may run.
        pub cpumap_hard: Bitmap,
        /// Where it prefers to run.
        pub cpumap_soft: Bitmap,
    }
    /// Number of vCPUs.
    pub struct DomctlMaxVcpus {
        /// The number.
        pub max: u32,
    }
    /// Parameters of credit and credit2.
    pub struct DomctlSchedCredit {
        /// Share.
        pub weight: u16,
        /// Most, in percent of a CPU; 0 for no limit.
        pub cap: u16,
    }
    /// Parameters of the real-time scheduler.
    pub struct DomctlSchedRtds {
        /// Microseconds.
        pub period: u32,
        /// Microseconds in each.
        pub budget: u32,
        /// 1: may use spare time.
        pub flags: u32,
    }
    /// Scheduling parameters of a domain.
    pub struct DomctlSchedulerOp {
        /// `XEN_SCHEDULER_*`.
        pub sched_id: u32,
        /// `XEN_DOMCTL_SCHEDOP_*`.
        pub cmd: u32,
        /// [`DomctlSchedCredit`], [`DomctlSchedRtds`] or [`DomctlSchedVcpus`].
        pub u: Union<2>,
    }
    /// Scheduling parameters of vCPUs.
    pub struct DomctlSchedVcpus {
        /// The parameters.
        pub vcpus: GuestHandle<DomctlSchedparamVcpu>,
        /// In: how many; out: done.
        pub nr_vcpus: u32,
        /// Padding.
        pub padding: u32,
    }
    /// Scheduling parameters of a vCPU.
    pub struct DomctlSchedparamVcpu {
        /// A [`DomctlSchedRtds`], or a [`DomctlSchedCredit`] in the first word.
        pub u: DomctlSchedRtds,
        /// The vCPU.
        pub vcpuid: u32,
    }
    /// UUID of a domain.
    pub struct DomctlSetdomainhandle {
        /// The UUID.
        pub handle: DomainHandle,
    }
    /// Access to an interrupt.
    pub struct DomctlIrqPermission {
        /// The interrupt.
        pub pirq: u32,
        /// 1 allows.
        pub allow_access: u8,
        /// Padding.
        pub pad: [u8; 3],
    }
    /// Access to device memory.
    pub struct DomctlIomemPermission {
        /// First frame.
        pub first_mfn: u64,
        /// Frames.
        pub nr_mfns: u64,
        /// 1 allows.
        pub allow_access: u8,
        /// Padding.
        pub pad: [u8; 7],
    }
    /// Access to ports.
    pub struct DomctlIoportPermission {
        /// First.
        pub first_port: u32,
        /// How many.
        pub nr_ports: u32,
        /// 1 allows.
        pub allow_access: u8,
        /// Padding.
        pub pad: [u8; 3],
    }
    /// Fill a hypercall page.
    pub struct DomctlHypercallInit {
        /// Its frame.
        pub gmfn: u64,
    }
    /// Offset of the domain's clock.
    pub struct DomctlSettimeoffset {
        /// Seconds.
        pub time_offset_seconds: i64,
    }
    /// HVM context ([`crate::hvm_save`]).
    pub struct DomctlHvmcontext {
        /// In: bytes there are; out: used, or needed when the handle is null.
        pub size: u32,
        /// Padding.
        pub pad: u32,
        /// The context.
        pub buffer: GuestHandle<u8>,
    }
    /// Width of addresses.
    pub struct DomctlAddressSize {
        /// 32 or 64.
        pub size: u32,
    }
    /// Press a button.
    pub struct DomctlSendtrigger {
        /// `XEN_DOMCTL_SENDTRIGGER_*`.
        pub trigger: u32,
        /// The vCPU.
        pub vcpu: u32,
    }
    /// Give a device to a domain.
    pub struct DomctlAssignDevice {
        /// [`XEN_DOMCTL_DEV_PCI`].
        pub dev: u32,
        /// [`XEN_DOMCTL_DEV_RDM_RELAXED`].
        pub flags: u32,
        /// PCI: segment, bus, device and function in the low half of the first word.
        pub u: Union<2>,
    }
    /// Devices that must be assigned together.
    pub struct DomctlGetDeviceGroup {
        /// One of them.
        pub machine_sbdf: u32,
        /// Room.
        pub max_sdevs: u32,
        /// Out: how many.
        pub num_sdevs: u32,
        /// Padding.
        pub pad: u32,
        /// Out: the devices.
        pub sdev_array: GuestHandle<u32>,
    }
    /// Bind a physical interrupt.
    pub struct DomctlBindPtIrq {
        /// The interrupt.
        pub machine_irq: u32,
        /// `PT_IRQ_TYPE_*`.
        pub irq_type: u32,
        /// [`PtIrqPci`], [`PtIrqMsi`] or a byte.
        pub u: Union<2>,
    }
    /// To a PCI line.
    pub struct PtIrqPci {
        /// Bus.
        pub bus: u8,
        /// Device.
        pub device: u8,
        /// Line.
        pub intx: u8,
    }
    /// To an MSI.
    pub struct PtIrqMsi {
        /// Vector.
        pub gvec: u8,
        /// Padding.
        pub pad: [u8; 3],
        /// Destination 0-7, redirection hint 8, mode 9, delivery 12-14, trigger 15, unmasked 16.
        pub gflags: u32,
        /// Address of the MSI-X table.
        pub gtable: u64,
    }
    /// Map device memory.
    pub struct DomctlMemoryMapping {
        /// Where to.
        pub first_gfn: u64,
        /// From.
        pub first_mfn: u64,
        /// Frames.
        pub nr_mfns: u64,
        /// [`DPCI_ADD_MAPPING`] or [`DPCI_REMOVE_MAPPING`].
        pub add_mapping: u32,
        /// Zero.
        pub padding: u32,
    }
    /// Map ports.
    pub struct DomctlIoportMapping {
        /// Where to.
        pub first_gport: u32,
        /// From.
        pub first_mport: u32,
        /// How many.
        pub nr_ports: u32,
        /// [`DPCI_ADD_MAPPING`] or [`DPCI_REMOVE_MAPPING`].
        pub add_mapping: u32,
    }
    /// The domain that a stub domain serves.
    pub struct DomctlSetTarget {
        /// Its id.
        pub target: Domid,
    }
    /// A CPUID leaf.
    pub struct CpuidLeaf {
        /// Leaf.
        pub leaf: u32,
        /// Sub-leaf, or [`XEN_CPUID_NO_SUBLEAF`].
        pub subleaf: u32,
        /// EAX.
        pub a: u32,
        /// EBX.
        pub b: u32,
        /// ECX.
        pub c: u32,
        /// EDX.
        pub d: u32,
    }
    /// An MSR.
    pub struct MsrEntry {
        /// Index.
        pub idx: u32,
        /// Zero.
        pub flags: u32,
        /// Value.
        pub val: u64,
    }
    /// CPUID and MSR policy.
    pub struct DomctlCpuPolicy {
        /// In: leaves there is room for, or given; out: leaves there are.
        pub nr_leaves: u32,
        /// The same for MSRs.
        pub nr_msrs: u32,
        /// The leaves.
        pub leaves: GuestHandle<CpuidLeaf>,
        /// The MSRs.
        pub msrs: GuestHandle<MsrEntry>,
        /// Out: leaf refused, or all ones.
        pub err_leaf: u32,
        /// Out: its sub-leaf.
        pub err_subleaf: u32,
        /// Out: MSR refused, or all ones.
        pub err_msr: u32,
        /// Padding.
        pub pad: u32,
    }
    /// Event on suspend.
    pub struct DomctlSubscribe {
        /// The caller's port.
        pub port: EvtchnPort,
    }
    /// Debugging of a vCPU.
    pub struct DomctlDebugOp {
        /// 0 single step off, 1 on.
        pub op: u32,
        /// The vCPU.
        pub vcpu: u32,
    }
    /// One record of the HVM context.
    pub struct DomctlHvmcontextPartial {
        /// `HVM_SAVE_CODE_*`.
        pub type_: u32,
        /// Instance.
        pub instance: u32,
        /// In: room; out: bytes written.
        pub bufsz: u64,
        /// Out: the record without its descriptor.
        pub buffer: GuestHandle<u8>,
    }
    /// The domain's TSC.
    pub struct DomctlTscInfo {
        /// `TSC_MODE_*`.
        pub tsc_mode: u32,
        /// Frequency.
        pub gtsc_khz: u32,
        /// Counts restores.
        pub incarnation: u32,
        /// Padding.
        pub pad: u32,
        /// Nanoseconds since the domain started.
        pub elapsed_nsec: u64,
    }
    /// Read or write guest memory for a debugger.
    pub struct DomctlGdbsxMemio {
        /// PV: third level of a page table, or 0.
        pub pgd3val: u64,
        /// Guest virtual address.
        pub gva: u64,
        /// The caller's buffer.
        pub uva: u64,
        /// Bytes.
        pub len: u32,
        /// 1 writes.
        pub gwr: u8,
        /// Padding.
        pub pad: [u8; 3],
        /// Out: bytes not done.
        pub remain: u32,
        /// Padding.
        pub pad1: u32,
    }
    /// What a debugger should know.
    pub struct DomctlGdbsxDomstatus {
        /// Is paused.
        pub paused: u8,
        /// Padding.
        pub pad: [u8; 3],
        /// vCPU with an event.
        pub vcpu_id: u32,
        /// The event.
        pub vcpu_ev: u32,
    }
    /// Result of an audit of the p2m.
    pub struct DomctlAuditP2m {
        /// Orphans.
        pub orphans: u64,
        /// Bad machine-to-physical entries.
        pub m2p_bad: u64,
        /// Bad physical-to-machine entries.
        pub p2m_bad: u64,
    }
    /// Who gets a global virtual interrupt.
    pub struct DomctlSetVirqHandler {
        /// `VIRQ_*`.
        pub virq: u32,
    }
    /// Extended state of a vCPU.
    pub struct DomctlVcpuextstate {
        /// The vCPU.
        pub vcpu: u32,
        /// Padding.
        pub pad: u32,
        /// Features.
        pub xfeature_mask: u64,
        /// In: room; out: bytes.
        pub size: u64,
        /// The state.
        pub buffer: GuestHandle<u64>,
    }
    /// Flush caches of frames.
    pub struct DomctlCacheflush {
        /// First.
        pub start_pfn: u64,
        /// How many.
        pub nr_pfns: u64,
    }
    /// Memory for page tables.
    pub struct DomctlPagingMempool {
        /// Bytes.
        pub size: u64,
    }
    /// An MSR of a vCPU.
    pub struct DomctlVcpuMsr {
        /// Which.
        pub index: u32,
        /// Zero.
        pub reserved: u32,
        /// Value.
        pub value: u64,
    }
    /// MSRs of a vCPU.
    pub struct DomctlVcpuMsrs {
        /// The vCPU.
        pub vcpu: u32,
        /// In: room; out: how many.
        pub msr_count: u32,
        /// The MSRs.
        pub msrs: GuestHandle<DomctlVcpuMsr>,
    }
    /// Virtual NUMA topology.
    pub struct DomctlVnuma {
        /// Nodes.
        pub nr_vnodes: u32,
        /// Ranges.
        pub nr_vmemranges: u32,
        /// vCPUs.
        pub nr_vcpus: u32,
        /// Zero.
        pub pad: u32,
        /// Distances, node by node.
        pub vdistance: GuestHandle<u32>,
        /// Node of each vCPU.
        pub vcpu_to_vnode: GuestHandle<u32>,
        /// Physical node of each virtual one.
        pub vnode_to_pnode: GuestHandle<u32>,
        /// The ranges.
        pub vmemrange: GuestHandle<Vmemrange>,
    }
    /// Processor trace of a vCPU.
    pub struct DomctlVmtraceOp {
        /// 1 enable to 6 set option.
        pub cmd: u32,
        /// The vCPU.
        pub vcpu: u32,
        /// Option.
        pub key: u64,
        /// Its value.
        pub value: u64,
    }
}

/// [`VcpuGuestContext::flags`]: the FPU state is valid.
pub const VGCF_I387_VALID: u64 = 1 << 0;
/// [`VcpuGuestContext::flags`]: the vCPU is up.
pub const VGCF_ONLINE: u64 = 1 << 5;

plain! {
    /// Integer registers, in the order of a trap frame.
    pub struct CpuUserRegs {
        /// General register.
        pub r15: u64,
        /// General register.
        pub r14: u64,
        /// General register.
        pub r13: u64,
        /// General register.
        pub r12: u64,
        /// General register.
        pub rbp: u64,
        /// General register.
        pub rbx: u64,
        /// General register.
        pub r11: u64,
        /// General register.
        pub r10: u64,
        /// General register.
        pub r9: u64,
        /// General register.
        pub r8: u64,
        /// General register.
        pub rax: u64,
        /// General register.
        pub rcx: u64,
        /// General register.
        pub rdx: u64,
        /// General register.
        pub rsi: u64,
        /// General register.
        pub rdi: u64,
        /// Of the trap.
        pub error_code: u32,
        /// Of the trap.
        pub entry_vector: u32,
        /// Instruction pointer.
        pub rip: u64,
        /// Selector of CS.
        pub cs: u16,
        /// Padding.
        pub pad0: [u16; 1],
        /// PV upcall mask.
        pub saved_upcall_mask: u8,
        /// Padding.
        pub pad1: [u8; 3],
        /// Flags.
        pub rflags: u64,
        /// Stack pointer.
        pub rsp: u64,
        /// Selector of SS.
        pub ss: u16,
        /// Padding.
        pub pad2: [u16; 3],
        /// Selector of ES.
        pub es: u16,
        /// Padding.
        pub pad3: [u16; 3],
        /// Selector of DS.
        pub ds: u16,
        /// Padding.
        pub pad4: [u16; 3],
        /// Selector of FS.
        pub fs: u16,
        /// Padding.
        pub pad5: [u16; 3],
        /// Selector of GS.
        pub gs: u16,
        /// Padding.
        pub pad6: [u16; 3],
    }
    /// A PV trap handler.
    pub struct TrapInfo {
        /// Vector.
        pub vector: u8,
        /// Privilege level 0-1, clear IF 2.
        pub flags: u8,
        /// Selector.
        pub cs: u16,
        /// Padding.
        pub pad: u32,
        /// Handler.
        pub address: u64,
    }
    /// Registers of a vCPU as `DOMCTL_GETVCPUCONTEXT` sees them. Of an HVM vCPU only the integer
    /// registers, the FPU, control and debug registers mean something.
    pub struct VcpuGuestContext {
        /// FXSAVE image.
        pub fpu_ctxt: [u8; 512],
        /// `VGCF_*`.
        pub flags: u64,
        /// Integer registers.
        pub user_regs: CpuUserRegs,
        /// PV trap table.
        pub trap_ctxt: [TrapInfo; 256],
        /// PV.
        pub ldt_base: u64,
        /// PV.
        pub ldt_ents: u64,
        /// PV.
        pub gdt_frames: [u64; 16],
        /// PV.
        pub gdt_ents: u64,
        /// PV.
        pub kernel_ss: u64,
        /// PV.
        pub kernel_sp: u64,
        /// CR0 to CR7.
        pub ctrlreg: [u64; 8],
        /// DR0 to DR7.
        pub debugreg: [u64; 8],
        /// PV.
        pub event_callback_eip: u64,
        /// PV.
        pub failsafe_callback_eip: u64,
        /// PV.
        pub syscall_callback_eip: u64,
        /// PV.
        pub vm_assist: u64,
        /// Base of FS.
        pub fs_base: u64,
        /// Base of GS in the kernel.
        pub gs_base_kernel: u64,
        /// Base of GS in user mode.
        pub gs_base_user: u64,
    }
}
