//! Hypervisor CPUID leaves (`arch-x86/cpuid.h`).

/// Base leaf when no Viridian leaves are offered.
pub const XEN_CPUID_FIRST_LEAF: u32 = 0x4000_0000;
/// Distance between the bases a guest probes.
pub const XEN_CPUID_LEAF_STRIDE: u32 = 0x100;
/// Highest sub-leaf number: EAX of the base leaf is base + 5.
pub const XEN_CPUID_MAX_NUM_LEAVES: u32 = 5;
/// "XenV" in EBX of the base leaf.
pub const XEN_CPUID_SIGNATURE_EBX: u32 = 0x566e_6558;
/// "MMXe" in ECX of the base leaf.
pub const XEN_CPUID_SIGNATURE_ECX: u32 = 0x6558_4d4d;
/// "nVMM" in EDX of the base leaf.
pub const XEN_CPUID_SIGNATURE_EDX: u32 = 0x4d4d_566e;
/// Leaf 1 ECX bit 31: running under a hypervisor.
pub const CPUID_1_ECX_HYPERVISOR: u32 = 1 << 31;

/// Base + 2 EBX: the MSR that a guest writes to have a hypercall page filled.
pub const XEN_HYPERCALL_MSR: u32 = 0x4000_0000;
/// Base + 2 ECX: A/D bits survive MMU updates (PV only).
pub const XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD: u32 = 1 << 0;

/// Base + 3.0 EAX: TSC reads are emulated.
pub const XEN_CPUID_TSC_EMULATED: u32 = 1 << 0;
/// Base + 3.0 EAX: the host's TSC is reliable.
pub const XEN_CPUID_TSC_HOST_RELIABLE: u32 = 1 << 1;
/// Base + 3.0 EAX: RDTSCP is available.
pub const XEN_CPUID_TSC_RDTSCP: u32 = 1 << 2;

/// Base + 4 EAX: local APIC accesses are virtualized by hardware.
pub const XEN_HVM_CPUID_APIC_ACCESS_VIRT: u32 = 1 << 0;
/// Base + 4 EAX: x2APIC is virtualized by hardware.
pub const XEN_HVM_CPUID_X2APIC_VIRT: u32 = 1 << 1;
/// Base + 4 EAX: grant and foreign maps reach the IOMMU.
pub const XEN_HVM_CPUID_IOMMU_MAPPINGS: u32 = 1 << 2;
/// Base + 4 EAX: EBX holds the vCPU id.
pub const XEN_HVM_CPUID_VCPU_ID_PRESENT: u32 = 1 << 3;
/// Base + 4 EAX: ECX holds the domain id.
pub const XEN_HVM_CPUID_DOMID_PRESENT: u32 = 1 << 4;
/// Base + 4 EAX: interrupt messages carry 15-bit destination ids.
pub const XEN_HVM_CPUID_EXT_DEST_ID: u32 = 1 << 5;
/// Base + 4 EAX: `HVMOP_SET_EVTCHN_UPCALL_VECTOR` delivers through the local APIC.
pub const XEN_HVM_CPUID_UPCALL_VECTOR: u32 = 1 << 6;
