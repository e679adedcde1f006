//! Feature bits of `XENVER_GET_FEATURES` and of the ELF notes: bit numbers, submap 0.

/// Page tables may be written directly.
pub const XENFEAT_WRITABLE_PAGE_TABLES: u32 = 0;
/// Descriptor tables may be written directly.
pub const XENFEAT_WRITABLE_DESCRIPTOR_TABLES: u32 = 1;
/// The guest works with guest-physical addresses.
pub const XENFEAT_AUTO_TRANSLATED_PHYSMAP: u32 = 2;
/// The guest kernel may run in supervisor mode.
pub const XENFEAT_SUPERVISOR_MODE_KERNEL: u32 = 3;
/// PAE page directories may lie above 4 GiB.
pub const XENFEAT_PAE_PGDIR_ABOVE_4GB: u32 = 4;
/// MMU updates can preserve accessed and dirty bits.
pub const XENFEAT_MMU_PT_UPDATE_PRESERVE_AD: u32 = 5;
/// Assist for clearing and copying high memory.
pub const XENFEAT_HIGHMEM_ASSIST: u32 = 6;
/// Grant maps honour the available PTE bits.
pub const XENFEAT_GNTTAB_MAP_AVAIL_BITS: u32 = 7;
/// Upcalls may be delivered by vector.
pub const XENFEAT_HVM_CALLBACK_VECTOR: u32 = 8;
/// The PV clock is safe for HVM guests.
pub const XENFEAT_HVM_SAFE_PVCLOCK: u32 = 9;
/// Physical interrupts may be bound to event channels.
pub const XENFEAT_HVM_PIRQS: u32 = 10;
/// The domain may be dom0.
pub const XENFEAT_DOM0: u32 = 11;
/// `XENMEMF_VNODE` is understood.
pub const XENFEAT_MEMORY_OP_VNODE_SUPPORTED: u32 = 13;
/// SMCCC calls (Arm).
pub const XENFEAT_ARM_SMCCC_SUPPORTED: u32 = 14;
/// Notes only: the RSDP may lie anywhere.
pub const XENFEAT_LINUX_RSDP_UNRESTRICTED: u32 = 15;
/// Guest frames are not machine frames.
pub const XENFEAT_NOT_DIRECT_MAPPED: u32 = 16;
/// Guest frames are machine frames.
pub const XENFEAT_DIRECT_MAPPED: u32 = 17;
/// Submaps that exist.
pub const XENFEAT_NR_SUBMAPS: u32 = 1;
