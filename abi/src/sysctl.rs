//! `sysctl` (hypercall 35): control of the host. The argument is a [`Sysctl`].

use crate::domctl::{CpuidLeaf, DomctlGetdomaininfo, MsrEntry};
use crate::physdev::PhysdevPciDevice;
use crate::{Bitmap, Domid, GuestHandle, Union};

/// [`Sysctl::interface_version`] of Xen 4.17; any other is answered `EACCES`.
pub const XEN_SYSCTL_INTERFACE_VERSION: u32 = 0x15;

/// [`SysctlReadconsole`].
pub const XEN_SYSCTL_READCONSOLE: u32 = 1;
/// Trace buffers.
pub const XEN_SYSCTL_TBUF_OP: u32 = 2;
/// [`SysctlPhysinfo`].
pub const XEN_SYSCTL_PHYSINFO: u32 = 3;
/// [`SysctlSchedId`].
pub const XEN_SYSCTL_SCHED_ID: u32 = 4;
/// Software performance counters.
pub const XEN_SYSCTL_PERFC_OP: u32 = 5;
/// [`SysctlGetdomaininfolist`].
pub const XEN_SYSCTL_GETDOMAININFOLIST: u32 = 6;
/// [`SysctlDebugKeys`].
pub const XEN_SYSCTL_DEBUG_KEYS: u32 = 7;
/// [`SysctlGetcpuinfo`].
pub const XEN_SYSCTL_GETCPUINFO: u32 = 8;
/// [`SysctlAvailheap`].
pub const XEN_SYSCTL_AVAILHEAP: u32 = 9;
/// Power statistics.
pub const XEN_SYSCTL_GET_PMSTAT: u32 = 10;
/// [`SysctlCpuHotplug`].
pub const XEN_SYSCTL_CPU_HOTPLUG: u32 = 11;
/// Power management.
pub const XEN_SYSCTL_PM_OP: u32 = 12;
/// Retire pages.
pub const XEN_SYSCTL_PAGE_OFFLINE_OP: u32 = 14;
/// Lock profile.
pub const XEN_SYSCTL_LOCKPROF_OP: u32 = 15;
/// [`SysctlCputopoinfo`].
pub const XEN_SYSCTL_CPUTOPOINFO: u32 = 16;
/// [`SysctlNumainfo`].
pub const XEN_SYSCTL_NUMAINFO: u32 = 17;
/// [`SysctlCpupoolOp`].
pub const XEN_SYSCTL_CPUPOOL_OP: u32 = 18;
/// [`SysctlSchedulerOp`].
pub const XEN_SYSCTL_SCHEDULER_OP: u32 = 19;
/// Code coverage.
pub const XEN_SYSCTL_COVERAGE_OP: u32 = 20;
/// Cache monitoring.
pub const XEN_SYSCTL_PSR_CMT_OP: u32 = 21;
/// [`SysctlPcitopoinfo`].
pub const XEN_SYSCTL_PCITOPOINFO: u32 = 22;
/// Cache allocation.
pub const XEN_SYSCTL_PSR_ALLOC: u32 = 23;
/// [`SysctlCpuLevellingCaps`].
pub const XEN_SYSCTL_GET_CPU_LEVELLING_CAPS: u32 = 25;
/// [`SysctlCpuFeatureset`].
pub const XEN_SYSCTL_GET_CPU_FEATURESET: u32 = 26;
/// Live patches.
pub const XEN_SYSCTL_LIVEPATCH_OP: u32 = 27;
/// [`SysctlCpuPolicy`].
pub const XEN_SYSCTL_GET_CPU_POLICY: u32 = 29;

/// [`SysctlPhysinfo::capabilities`]: HVM and PVH guests.
pub const XEN_SYSCTL_PHYSCAP_HVM: u32 = 1 << 0;
/// [`SysctlPhysinfo::capabilities`]: PV guests.
pub const XEN_SYSCTL_PHYSCAP_PV: u32 = 1 << 1;
/// [`SysctlPhysinfo::capabilities`]: devices can be assigned.
pub const XEN_SYSCTL_PHYSCAP_DIRECTIO: u32 = 1 << 2;
/// [`SysctlPhysinfo::capabilities`]: hardware-assisted paging.
pub const XEN_SYSCTL_PHYSCAP_HAP: u32 = 1 << 3;
/// [`SysctlPhysinfo::capabilities`]: shadow paging.
pub const XEN_SYSCTL_PHYSCAP_SHADOW: u32 = 1 << 4;
/// [`SysctlPhysinfo::capabilities`]: the IOMMU shares page tables.
pub const XEN_SYSCTL_PHYSCAP_IOMMU_HAP_PT_SHARE: u32 = 1 << 5;
/// [`SysctlPhysinfo::capabilities`]: processor trace.
pub const XEN_SYSCTL_PHYSCAP_VMTRACE: u32 = 1 << 6;
/// [`SysctlPhysinfo::capabilities`]: virtual performance counters.
pub const XEN_SYSCTL_PHYSCAP_VPMU: u32 = 1 << 7;
/// [`SysctlPhysinfo::capabilities`]: grant tables version 1.
pub const XEN_SYSCTL_PHYSCAP_GNTTAB_V1: u32 = 1 << 8;
/// [`SysctlPhysinfo::capabilities`]: grant tables version 2.
pub const XEN_SYSCTL_PHYSCAP_GNTTAB_V2: u32 = 1 << 9;

/// [`SysctlCpupoolOp::op`]: make a pool.
pub const XEN_SYSCTL_CPUPOOL_OP_CREATE: u32 = 1;
/// [`SysctlCpupoolOp::op`]: destroy a pool.
pub const XEN_SYSCTL_CPUPOOL_OP_DESTROY: u32 = 2;
/// [`SysctlCpupoolOp::op`]: the first pool with at least this id.
pub const XEN_SYSCTL_CPUPOOL_OP_INFO: u32 = 3;
/// [`SysctlCpupoolOp::op`]: add a CPU.
pub const XEN_SYSCTL_CPUPOOL_OP_ADDCPU: u32 = 4;
/// [`SysctlCpupoolOp::op`]: remove a CPU.
pub const XEN_SYSCTL_CPUPOOL_OP_RMCPU: u32 = 5;
/// [`SysctlCpupoolOp::op`]: move a domain in.
pub const XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN: u32 = 6;
/// [`SysctlCpupoolOp::op`]: CPUs in no pool.
pub const XEN_SYSCTL_CPUPOOL_OP_FREEINFO: u32 = 7;
/// Any pool, any CPU.
pub const XEN_SYSCTL_CPUPOOL_PAR_ANY: u32 = u32::MAX;

/// [`SysctlSchedulerOp::cmd`]: set.
pub const XEN_SYSCTL_SCHEDOP_PUTINFO: u32 = 0;
/// [`SysctlSchedulerOp::cmd`]: get.
pub const XEN_SYSCTL_SCHEDOP_GETINFO: u32 = 1;
/// Longest rate limit in microseconds.
pub const XEN_SYSCTL_SCHED_RATELIMIT_MAX: u32 = 500_000;
/// Shortest rate limit in microseconds.
pub const XEN_SYSCTL_SCHED_RATELIMIT_MIN: u32 = 100;

/// [`SysctlCpuHotplug::op`]: bring a CPU up.
pub const XEN_SYSCTL_CPU_HOTPLUG_ONLINE: u32 = 0;
/// [`SysctlCpuHotplug::op`]: take a CPU down.
pub const XEN_SYSCTL_CPU_HOTPLUG_OFFLINE: u32 = 1;
/// [`SysctlCpuHotplug::op`]: bring every core's other threads up.
pub const XEN_SYSCTL_CPU_HOTPLUG_SMT_ENABLE: u32 = 2;
/// [`SysctlCpuHotplug::op`]: take every core's other threads down.
pub const XEN_SYSCTL_CPU_HOTPLUG_SMT_DISABLE: u32 = 3;

/// No such core, in [`SysctlCputopo`].
pub const XEN_INVALID_CORE_ID: u32 = u32::MAX;
/// No such socket.
pub const XEN_INVALID_SOCKET_ID: u32 = u32::MAX;
/// No such node.
pub const XEN_INVALID_NODE_ID: u32 = u32::MAX;
/// No such device, in the nodes of [`SysctlPcitopoinfo`].
pub const XEN_INVALID_DEV: u32 = XEN_INVALID_NODE_ID - 1;
/// No such node, in [`SysctlMeminfo`].
pub const XEN_INVALID_MEM_SZ: u64 = u32::MAX as u64;
/// No distance known.
pub const XEN_INVALID_NODE_DIST: u32 = u32::MAX;

/// [`SysctlCpuFeatureset::index`]: as CPUID has it.
pub const XEN_SYSCTL_CPU_FEATURESET_RAW: u32 = 0;
/// [`SysctlCpuFeatureset::index`]: what the hypervisor uses.
pub const XEN_SYSCTL_CPU_FEATURESET_HOST: u32 = 1;
/// [`SysctlCpuFeatureset::index`]: default of PV guests.
pub const XEN_SYSCTL_CPU_FEATURESET_PV: u32 = 2;
/// [`SysctlCpuFeatureset::index`]: default of HVM guests.
pub const XEN_SYSCTL_CPU_FEATURESET_HVM: u32 = 3;
/// [`SysctlCpuFeatureset::index`]: most for PV guests.
pub const XEN_SYSCTL_CPU_FEATURESET_PV_MAX: u32 = 4;
/// [`SysctlCpuFeatureset::index`]: most for HVM guests.
pub const XEN_SYSCTL_CPU_FEATURESET_HVM_MAX: u32 = 5;
/// [`SysctlCpuPolicy::index`]: as CPUID has it.
pub const XEN_SYSCTL_CPU_POLICY_RAW: u32 = 0;
/// [`SysctlCpuPolicy::index`]: what the hypervisor uses.
pub const XEN_SYSCTL_CPU_POLICY_HOST: u32 = 1;
/// [`SysctlCpuPolicy::index`]: most for PV guests.
pub const XEN_SYSCTL_CPU_POLICY_PV_MAX: u32 = 2;
/// [`SysctlCpuPolicy::index`]: most for HVM guests.
pub const XEN_SYSCTL_CPU_POLICY_HVM_MAX: u32 = 3;
/// [`SysctlCpuPolicy::index`]: default of PV guests.
pub const XEN_SYSCTL_CPU_POLICY_PV_DEFAULT: u32 = 4;
/// [`SysctlCpuPolicy::index`]: default of HVM guests.
pub const XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT: u32 = 5;

plain! {
    /// The argument of `sysctl`.
    pub struct Sysctl {
        /// `XEN_SYSCTL_*`.
        pub cmd: u32,
        /// [`XEN_SYSCTL_INTERFACE_VERSION`].
        pub interface_version: u32,
        /// The structure that `cmd` names.
        pub u: Union<16>,
    }
    /// Read the hypervisor's log.
    pub struct SysctlReadconsole {
        /// 1 clears it afterwards.
        pub clear: u8,
        /// 1 reads from `index` on.
        pub incremental: u8,
        /// Padding.
        pub pad0: u8,
        /// Padding.
        pub pad1: u8,
        /// In: start; out: end.
        pub index: u32,
        /// Out: the text.
        pub buffer: GuestHandle<u8>,
        /// In: room; out: bytes.
        pub count: u32,
        /// Padding.
        pub pad2: u32,
    }
    /// The host.
    pub struct SysctlPhysinfo {
        /// Threads of a core.
        pub threads_per_core: u32,
        /// Cores of a socket.
        pub cores_per_socket: u32,
        /// CPUs in use.
        pub nr_cpus: u32,
        /// Highest CPU id.
        pub max_cpu_id: u32,
        /// NUMA nodes.
        pub nr_nodes: u32,
        /// Highest node id.
        pub max_node_id: u32,
        /// CPU frequency.
        pub cpu_khz: u32,
        /// `XEN_SYSCTL_PHYSCAP_*`.
        pub capabilities: u32,
        /// Zero on x86.
        pub arch_capabilities: u32,
        /// Padding.
        pub pad: u32,
        /// Pages of RAM.
        pub total_pages: u64,
        /// Pages free.
        pub free_pages: u64,
        /// Pages free but not yet scrubbed.
        pub scrub_pages: u64,
        /// Pages claimed.
        pub outstanding_pages: u64,
        /// Highest frame.
        pub max_mfn: u64,
        /// CPUID feature words.
        pub hw_cap: [u32; 8],
    }
    /// The scheduler in use.
    pub struct SysctlSchedId {
        /// `XEN_SCHEDULER_*`.
        pub sched_id: u32,
    }
    /// State of many domains.
    pub struct SysctlGetdomaininfolist {
        /// Lowest id.
        pub first_domain: Domid,
        /// Padding.
        pub pad0: u16,
        /// Room.
        pub max_domains: u32,
        /// Out: the domains.
        pub buffer: GuestHandle<DomctlGetdomaininfo>,
        /// Out: how many.
        pub num_domains: u32,
        /// Padding.
        pub pad1: u32,
    }
    /// Press debug keys.
    pub struct SysctlDebugKeys {
        /// The keys.
        pub keys: GuestHandle<u8>,
        /// How many.
        pub nr_keys: u32,
        /// Padding.
        pub pad: u32,
    }
    /// A CPU.
    pub struct SysctlCpuinfo {
        /// Nanoseconds idle.
        pub idletime: u64,
    }
    /// All CPUs.
    pub struct SysctlGetcpuinfo {
        /// Room.
        pub max_cpus: u32,
        /// Padding.
        pub pad0: u32,
        /// Out: the CPUs.
        pub info: GuestHandle<SysctlCpuinfo>,
        /// Out: how many.
        pub nr_cpus: u32,
        /// Padding.
        pub pad1: u32,
    }
    /// Free memory.
    pub struct SysctlAvailheap {
        /// Lowest address width counted.
        pub min_bitwidth: u32,
        /// Highest address width counted; 0 for all.
        pub max_bitwidth: u32,
        /// Node, or -1.
        pub node: i32,
        /// Padding.
        pub pad: u32,
        /// Out: bytes.
        pub avail_bytes: u64,
    }
    /// Take a CPU up or down.
    pub struct SysctlCpuHotplug {
        /// The CPU.
        pub cpu: u32,
        /// `XEN_SYSCTL_CPU_HOTPLUG_*`.
        pub op: u32,
    }
    /// Place of a CPU.
    pub struct SysctlCputopo {
        /// Core.
        pub core: u32,
        /// Socket.
        pub socket: u32,
        /// Node.
        pub node: u32,
    }
    /// Places of all CPUs.
    pub struct SysctlCputopoinfo {
        /// In: room; out: how many.
        pub num_cpus: u32,
        /// Padding.
        pub pad: u32,
        /// Out: the places.
        pub cputopo: GuestHandle<SysctlCputopo>,
    }
    /// Memory of a node.
    pub struct SysctlMeminfo {
        /// Bytes.
        pub memsize: u64,
        /// Bytes free.
        pub memfree: u64,
    }
    /// All nodes.
    pub struct SysctlNumainfo {
        /// In: room; out: how many.
        pub num_nodes: u32,
        /// Padding.
        pub pad: u32,
        /// Out: their memory.
        pub meminfo: GuestHandle<SysctlMeminfo>,
        /// Out: distances, node by node.
        pub distance: GuestHandle<u32>,
    }
    /// CPU pools.
    pub struct SysctlCpupoolOp {
        /// `XEN_SYSCTL_CPUPOOL_OP_*`.
        pub op: u32,
        /// Pool.
        pub cpupool_id: u32,
        /// `XEN_SCHEDULER_*`.
        pub sched_id: u32,
        /// Domain to move.
        pub domid: u32,
        /// CPU to add or remove.
        pub cpu: u32,
        /// Out: domains in it.
        pub n_dom: u32,
        /// Out: CPUs in it.
        pub cpumap: Bitmap,
    }
    /// Parameters of credit.
    pub struct SysctlCreditSchedule {
        /// Time slice in milliseconds.
        pub tslice_ms: u32,
        /// Rate limit in microseconds.
        pub ratelimit_us: u32,
        /// Migration delay in microseconds.
        pub vcpu_migr_delay_us: u32,
    }
    /// Parameters of credit2.
    pub struct SysctlCredit2Schedule {
        /// Rate limit in microseconds, 0 for none.
        pub ratelimit_us: u32,
    }
    /// Parameters of a pool's scheduler.
    pub struct SysctlSchedulerOp {
        /// Pool.
        pub cpupool_id: u32,
        /// `XEN_SCHEDULER_*`.
        pub sched_id: u32,
        /// `XEN_SYSCTL_SCHEDOP_*`.
        pub cmd: u32,
        /// Padding.
        pub pad: u32,
        /// [`SysctlCreditSchedule`] or [`SysctlCredit2Schedule`].
        pub u: Union<2>,
    }
    /// Nodes of PCI devices.
    pub struct SysctlPcitopoinfo {
        /// In: how many; out: done.
        pub num_devs: u32,
        /// Padding.
        pub pad: u32,
        /// The devices.
        pub devs: GuestHandle<PhysdevPciDevice>,
        /// Out: their nodes.
        pub nodes: GuestHandle<u32>,
    }
    /// What CPUID levelling the hardware helps with (PV).
    pub struct SysctlCpuLevellingCaps {
        /// Capabilities; bit 0 is faulting.
        pub caps: u32,
    }
    /// A feature set.
    pub struct SysctlCpuFeatureset {
        /// `XEN_SYSCTL_CPU_FEATURESET_*`.
        pub index: u32,
        /// In: room; out: words.
        pub nr_features: u32,
        /// Out: the words.
        pub features: GuestHandle<u32>,
    }
    /// A CPU policy of the host.
    pub struct SysctlCpuPolicy {
        /// `XEN_SYSCTL_CPU_POLICY_*`.
        pub index: u32,
        /// In: room; out: leaves there are.
        pub nr_leaves: u32,
        /// The same for MSRs.
        pub nr_msrs: u32,
        /// Zero.
        pub pad: u32,
        /// Out: the leaves.
        pub leaves: GuestHandle<CpuidLeaf>,
        /// Out: the MSRs.
        pub msrs: GuestHandle<MsrEntry>,
    }
}
