//! What a PVH kernel finds at its entry (`arch-x86/hvm/start_info.h`): EBX points at a
//! [`HvmStartInfo`]. All addresses are guest-physical.

/// Value of [`HvmStartInfo::magic`].
pub const XEN_HVM_START_MAGIC_VALUE: u32 = 0x336e_c578;
/// The domain is privileged.
pub const SIF_PRIVILEGED: u32 = 1 << 0;
/// The domain is the initial one (dom0).
pub const SIF_INITDOMAIN: u32 = 1 << 1;

/// Usable RAM.
pub const XEN_HVM_MEMMAP_TYPE_RAM: u32 = 1;
/// Reserved.
pub const XEN_HVM_MEMMAP_TYPE_RESERVED: u32 = 2;
/// ACPI tables, reclaimable.
pub const XEN_HVM_MEMMAP_TYPE_ACPI: u32 = 3;
/// ACPI non-volatile storage.
pub const XEN_HVM_MEMMAP_TYPE_NVS: u32 = 4;
/// Defective or withheld.
pub const XEN_HVM_MEMMAP_TYPE_UNUSABLE: u32 = 5;
/// Disabled.
pub const XEN_HVM_MEMMAP_TYPE_DISABLED: u32 = 6;
/// Persistent memory.
pub const XEN_HVM_MEMMAP_TYPE_PMEM: u32 = 7;

plain! {
    /// The start info page, version 1.
    pub struct HvmStartInfo {
        /// [`XEN_HVM_START_MAGIC_VALUE`].
        pub magic: u32,
        /// 0: up to `rsdp_paddr`; 1: with the memory map.
        pub version: u32,
        /// `SIF_*`.
        pub flags: u32,
        /// Entries at `modlist_paddr`.
        pub nr_modules: u32,
        /// Array of [`HvmModlistEntry`].
        pub modlist_paddr: u64,
        /// Zero-terminated command line, or 0.
        pub cmdline_paddr: u64,
        /// ACPI root pointer, or 0.
        pub rsdp_paddr: u64,
        /// Array of [`HvmMemmapTableEntry`] (version 1).
        pub memmap_paddr: u64,
        /// Entries at `memmap_paddr`; 0 makes the guest ask `XENMEM_MEMORY_MAP`.
        pub memmap_entries: u32,
        /// Zero.
        pub reserved: u32,
    }
    /// One module, usually an initrd.
    pub struct HvmModlistEntry {
        /// Address.
        pub paddr: u64,
        /// Bytes.
        pub size: u64,
        /// Zero-terminated string, or 0.
        pub cmdline_paddr: u64,
        /// Zero.
        pub reserved: u64,
    }
    /// One range of guest-physical memory.
    pub struct HvmMemmapTableEntry {
        /// Start.
        pub addr: u64,
        /// Bytes.
        pub size: u64,
        /// `XEN_HVM_MEMMAP_TYPE_*`.
        pub type_: u32,
        /// Zero.
        pub reserved: u32,
    }
}
