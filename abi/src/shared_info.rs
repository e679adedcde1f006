//! The page shared with each guest, and the PV clock (`xen.h`, 64-bit layout).

/// vCPUs that have a [`VcpuInfo`] in the shared page.
pub const XEN_LEGACY_MAX_VCPUS: usize = 32;
/// The TSC is stable across vCPUs, see [`VcpuTimeInfo::flags`].
pub const XEN_PVCLOCK_TSC_STABLE_BIT: u8 = 1 << 0;
/// The guest was stopped by its host.
pub const XEN_PVCLOCK_GUEST_STOPPED: u8 = 1 << 1;

plain! {
    /// PV clock: `ns = system_time + (((tsc - tsc_timestamp) << tsc_shift) * mul >> 32)`.
    pub struct VcpuTimeInfo {
        /// Odd while the structure is being written.
        pub version: u32,
        /// Padding.
        pub pad0: u32,
        /// TSC at `system_time`.
        pub tsc_timestamp: u64,
        /// Nanoseconds since boot.
        pub system_time: u64,
        /// 32.32 fixed-point factor.
        pub tsc_to_system_mul: u32,
        /// Left shift (negative: right shift).
        pub tsc_shift: i8,
        /// `XEN_PVCLOCK_*`.
        pub flags: u8,
        /// Padding.
        pub pad1: [u8; 2],
    }
    /// Architectural part of [`VcpuInfo`].
    pub struct ArchVcpuInfo {
        /// Fault address (PV).
        pub cr2: u64,
        /// Padding.
        pub pad: u64,
    }
    /// Per-vCPU event state and clock.
    pub struct VcpuInfo {
        /// Nonzero: some event is pending.
        pub evtchn_upcall_pending: u8,
        /// Nonzero: upcalls are masked.
        pub evtchn_upcall_mask: u8,
        /// Padding.
        pub pad: [u8; 6],
        /// Which words of `evtchn_pending` to look at.
        pub evtchn_pending_sel: u64,
        /// Architectural part.
        pub arch: ArchVcpuInfo,
        /// Clock.
        pub time: VcpuTimeInfo,
    }
    /// Architectural part of [`SharedInfo`]; PV guests only.
    pub struct ArchSharedInfo {
        /// Highest frame in use.
        pub max_pfn: u64,
        /// Root of the guest's p2m list.
        pub pfn_to_mfn_frame_list_list: u64,
        /// Reason of an NMI.
        pub nmi_reason: u64,
        /// Page table of the linear p2m.
        pub p2m_cr3: u64,
        /// Address of the linear p2m.
        pub p2m_vaddr: u64,
        /// Update counter of the linear p2m.
        pub p2m_generation: u64,
    }
    /// The shared page.
    pub struct SharedInfo {
        /// First vCPUs; others register their own.
        pub vcpu_info: [VcpuInfo; XEN_LEGACY_MAX_VCPUS],
        /// Pending bits of the 2-level ABI, one a port.
        pub evtchn_pending: [u64; 64],
        /// Mask bits.
        pub evtchn_mask: [u64; 64],
        /// Odd while the wall clock is being written.
        pub wc_version: u32,
        /// Wall clock at system time 0: seconds, low half.
        pub wc_sec: u32,
        /// Nanoseconds.
        pub wc_nsec: u32,
        /// Seconds, high half.
        pub wc_sec_hi: u32,
        /// Architectural part.
        pub arch: ArchSharedInfo,
    }
}
