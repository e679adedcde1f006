//! `domctl` (hypercall 36): control of domains. The argument is a [`Domctl`], which holds the
//! structure that its command names.

mod payload;

pub use payload::*;

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

/// [`VcpuGuestContext::flags`]: the FPU state is valid.
pub const VGCF_I387_VALID: u64 = 1 << 0;
/// [`VcpuGuestContext::flags`]: the vCPU is up.
pub const VGCF_ONLINE: u64 = 1 << 5;

impl DomctlGetdomaininfo {
    /// One more than the highest number of a vCPU: of none, 0.
    pub fn vcpu_limit(&self) -> u32 {
        match self.max_vcpu_id {
            XEN_INVALID_MAX_VCPU_ID => 0,
            highest => highest + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_has_no_vcpus_before_it_is_told_how_many() {
        for (max_vcpu_id, limit) in [(XEN_INVALID_MAX_VCPU_ID, 0), (0, 1), (127, 128)] {
            let info = DomctlGetdomaininfo {
                max_vcpu_id,
                ..Default::default()
            };
            assert_eq!(info.vcpu_limit(), limit);
        }
    }
}
