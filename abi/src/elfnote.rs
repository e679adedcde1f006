//! Types of the ELF notes with owner "Xen" in a guest kernel.

/// Owner name of the notes, without the terminating zero.
pub const XEN_ELFNOTE_OWNER: &[u8] = b"Xen";
/// Free-form information.
pub const XEN_ELFNOTE_INFO: u32 = 0;
/// PV entry point.
pub const XEN_ELFNOTE_ENTRY: u32 = 1;
/// PV hypercall page.
pub const XEN_ELFNOTE_HYPERCALL_PAGE: u32 = 2;
/// PV virtual base.
pub const XEN_ELFNOTE_VIRT_BASE: u32 = 3;
/// Offset of the ELF physical addresses.
pub const XEN_ELFNOTE_PADDR_OFFSET: u32 = 4;
/// Xen version asked for ("xen-3.0").
pub const XEN_ELFNOTE_XEN_VERSION: u32 = 5;
/// Name of the guest OS.
pub const XEN_ELFNOTE_GUEST_OS: u32 = 6;
/// Version of the guest OS.
pub const XEN_ELFNOTE_GUEST_VERSION: u32 = 7;
/// Loader type.
pub const XEN_ELFNOTE_LOADER: u32 = 8;
/// PAE mode (PV).
pub const XEN_ELFNOTE_PAE_MODE: u32 = 9;
/// Features as a string.
pub const XEN_ELFNOTE_FEATURES: u32 = 10;
/// Load the symbol table.
pub const XEN_ELFNOTE_BSD_SYMTAB: u32 = 11;
/// Lowest hypervisor address the guest accepts.
pub const XEN_ELFNOTE_HV_START_LOW: u32 = 12;
/// Valid L1 entries (PV).
pub const XEN_ELFNOTE_L1_MFN_VALID: u32 = 13;
/// The guest can resume from a cancelled suspend.
pub const XEN_ELFNOTE_SUSPEND_CANCEL: u32 = 14;
/// Where the initial p2m goes (PV).
pub const XEN_ELFNOTE_INIT_P2M: u32 = 15;
/// Module start is a frame number (PV).
pub const XEN_ELFNOTE_MOD_START_PFN: u32 = 16;
/// Features as a bitmap ([`crate::features`]).
pub const XEN_ELFNOTE_SUPPORTED_FEATURES: u32 = 17;
/// PVH entry point: physical, 32-bit protected mode.
pub const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
