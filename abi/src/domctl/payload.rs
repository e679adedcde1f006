//! The structures of `domctl`.

#[cfg(doc)]
use super::*;
use crate::event_channel::EvtchnPort;
use crate::memory::Vmemrange;
use crate::{Bitmap, Domid, GuestHandle, Union};

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
