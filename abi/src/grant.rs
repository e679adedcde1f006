//! Grant tables: `grant_table_op` (hypercall 20) and the entries in shared frames.

use crate::{Domid, GuestHandle, Ulong, Union};

/// Index into a grant table.
pub type GrantRef = u32;
/// Names a mapping until it is unmapped.
pub type GrantHandle = u32;

/// Map ([`GnttabMapGrantRef`]).
pub const GNTTABOP_MAP_GRANT_REF: u32 = 0;
/// Unmap ([`GnttabUnmapGrantRef`]).
pub const GNTTABOP_UNMAP_GRANT_REF: u32 = 1;
/// Grow the table ([`GnttabSetupTable`]).
pub const GNTTABOP_SETUP_TABLE: u32 = 2;
/// Log the table ([`GnttabDumpTable`]).
pub const GNTTABOP_DUMP_TABLE: u32 = 3;
/// Give a page away ([`GnttabTransfer`]).
pub const GNTTABOP_TRANSFER: u32 = 4;
/// Copy ([`GnttabCopy`]).
pub const GNTTABOP_COPY: u32 = 5;
/// Size of a table ([`GnttabQuerySize`]).
pub const GNTTABOP_QUERY_SIZE: u32 = 6;
/// Unmap and put another mapping there ([`GnttabUnmapAndReplace`]).
pub const GNTTABOP_UNMAP_AND_REPLACE: u32 = 7;
/// Choose the version of the entries ([`GnttabSetVersion`]).
pub const GNTTABOP_SET_VERSION: u32 = 8;
/// Frames of the version 2 status ([`GnttabGetStatusFrames`]).
pub const GNTTABOP_GET_STATUS_FRAMES: u32 = 9;
/// Version of the entries ([`GnttabGetVersion`]).
pub const GNTTABOP_GET_VERSION: u32 = 10;
/// Swap two entries ([`GnttabSwapGrantRef`]).
pub const GNTTABOP_SWAP_GRANT_REF: u32 = 11;
/// Cache maintenance ([`GnttabCacheFlush`]).
pub const GNTTABOP_CACHE_FLUSH: u32 = 12;

/// Refs kept for the toolstack.
pub const GNTTAB_NR_RESERVED_ENTRIES: u32 = 8;
/// Ref of the console page.
pub const GNTTAB_RESERVED_CONSOLE: GrantRef = 0;
/// Ref of the xenstore page.
pub const GNTTAB_RESERVED_XENSTORE: GrantRef = 1;

/// Nothing granted.
pub const GTF_INVALID: u16 = 0;
/// Access is granted.
pub const GTF_PERMIT_ACCESS: u16 = 1;
/// A transfer is accepted.
pub const GTF_ACCEPT_TRANSFER: u16 = 2;
/// Grants another domain's grant (version 2).
pub const GTF_TRANSITIVE: u16 = 3;
/// Mask of the four types above.
pub const GTF_TYPE_MASK: u16 = 3;
/// Access: read only.
pub const GTF_READONLY: u16 = 1 << 2;
/// Access, set by the hypervisor: mapped for reading.
pub const GTF_READING: u16 = 1 << 3;
/// Access, set by the hypervisor: mapped for writing.
pub const GTF_WRITING: u16 = 1 << 4;
/// Access: page attribute PWT.
pub const GTF_PWT: u16 = 1 << 5;
/// Access: page attribute PCD.
pub const GTF_PCD: u16 = 1 << 6;
/// Access: page attribute PAT.
pub const GTF_PAT: u16 = 1 << 7;
/// Access: part of a page, to copy only (version 2).
pub const GTF_SUB_PAGE: u16 = 1 << 8;
/// Transfer: the hypervisor is committed to it.
pub const GTF_TRANSFER_COMMITTED: u16 = 1 << 2;
/// Transfer: done.
pub const GTF_TRANSFER_COMPLETED: u16 = 1 << 3;

/// Map for the devices of the caller.
pub const GNTMAP_DEVICE_MAP: u32 = 1 << 0;
/// Map for its CPUs.
pub const GNTMAP_HOST_MAP: u32 = 1 << 1;
/// Map read only.
pub const GNTMAP_READONLY: u32 = 1 << 2;
/// Map for user mode (PV).
pub const GNTMAP_APPLICATION_MAP: u32 = 1 << 3;
/// `host_addr` is that of a PTE (PV).
pub const GNTMAP_CONTAINS_PTE: u32 = 1 << 4;

/// [`GnttabCopy::flags`]: the source is a grant.
pub const GNTCOPY_SOURCE_GREF: u16 = 1 << 0;
/// [`GnttabCopy::flags`]: the destination is a grant.
pub const GNTCOPY_DEST_GREF: u16 = 1 << 1;

/// [`GnttabCacheFlush::op`]: clean.
pub const GNTTAB_CACHE_CLEAN: u32 = 1 << 0;
/// [`GnttabCacheFlush::op`]: invalidate.
pub const GNTTAB_CACHE_INVAL: u32 = 1 << 1;
/// [`GnttabCacheFlush::op`]: `a` is a grant reference.
pub const GNTTAB_CACHE_SOURCE_GREF: u32 = 1 << 31;

/// Done.
pub const GNTST_OKAY: i16 = 0;
/// Undefined error.
pub const GNTST_GENERAL_ERROR: i16 = -1;
/// No such domain.
pub const GNTST_BAD_DOMAIN: i16 = -2;
/// No such grant, or not for the caller.
pub const GNTST_BAD_GNTREF: i16 = -3;
/// No such mapping.
pub const GNTST_BAD_HANDLE: i16 = -4;
/// Inappropriate host address.
pub const GNTST_BAD_VIRT_ADDR: i16 = -5;
/// Inappropriate device address.
pub const GNTST_BAD_DEV_ADDR: i16 = -6;
/// No room in the IOMMU.
pub const GNTST_NO_DEVICE_SPACE: i16 = -7;
/// Not allowed.
pub const GNTST_PERMISSION_DENIED: i16 = -8;
/// Inappropriate page.
pub const GNTST_BAD_PAGE: i16 = -9;
/// A copy crosses a page.
pub const GNTST_BAD_COPY_ARG: i16 = -10;
/// Address too large.
pub const GNTST_ADDRESS_TOO_BIG: i16 = -11;
/// Not now: the page is in transit.
pub const GNTST_EAGAIN: i16 = -12;
/// No room for another mapping.
pub const GNTST_NO_SPACE: i16 = -13;

plain! {
    /// Entry of version 1; 512 to a frame.
    pub struct GrantEntryV1 {
        /// `GTF_*`.
        pub flags: u16,
        /// To whom.
        pub domid: Domid,
        /// Guest frame.
        pub frame: u32,
    }
    /// Start of every entry of version 2.
    pub struct GrantEntryHeader {
        /// `GTF_*`.
        pub flags: u16,
        /// To whom.
        pub domid: Domid,
    }
    /// Entry of version 2; 256 to a frame.
    pub struct GrantEntryV2 {
        /// One of [`GrantEntryV2FullPage`], [`GrantEntryV2SubPage`], [`GrantEntryV2Transitive`],
        /// each of which starts with a [`GrantEntryHeader`].
        pub u: Union<2>,
    }
    /// Version 2: a page.
    pub struct GrantEntryV2FullPage {
        /// Header.
        pub hdr: GrantEntryHeader,
        /// Padding.
        pub pad0: u32,
        /// Guest frame.
        pub frame: u64,
    }
    /// Version 2: part of a page.
    pub struct GrantEntryV2SubPage {
        /// Header.
        pub hdr: GrantEntryHeader,
        /// First byte.
        pub page_off: u16,
        /// Bytes.
        pub length: u16,
        /// Guest frame.
        pub frame: u64,
    }
    /// Version 2: a grant of another domain.
    pub struct GrantEntryV2Transitive {
        /// Header.
        pub hdr: GrantEntryHeader,
        /// That domain.
        pub trans_domid: Domid,
        /// Padding.
        pub pad0: u16,
        /// Its grant.
        pub gref: GrantRef,
        /// Unused.
        pub pad1: u32,
    }
    /// Map a grant.
    pub struct GnttabMapGrantRef {
        /// Where to: a guest-physical address for PVH and HVM.
        pub host_addr: u64,
        /// `GNTMAP_*`.
        pub flags: u32,
        /// Which grant.
        pub ref_: GrantRef,
        /// Whose.
        pub dom: Domid,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Out: names the mapping.
        pub handle: GrantHandle,
        /// Out: address for devices.
        pub dev_bus_addr: u64,
    }
    /// Unmap a grant.
    pub struct GnttabUnmapGrantRef {
        /// As given to map, or 0.
        pub host_addr: u64,
        /// As got from map, or 0.
        pub dev_bus_addr: u64,
        /// The mapping.
        pub handle: GrantHandle,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub pad: u16,
    }
}

compat! {
    /// Grow a table and list its frames.
    pub struct GnttabSetupTable as CompatGnttabSetupTable {
        /// Whose.
        pub dom: Domid,
        /// Padding.
        pub pad0: u16,
        /// Frames wanted.
        pub nr_frames: u32,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub pad1: [u16; 3] as u16,
        /// Out: the frames.
        pub frame_list: GuestHandle<Ulong> as u32,
    }
}

plain! {
    /// Log a table.
    pub struct GnttabDumpTable {
        /// Whose.
        pub dom: Domid,
        /// Out: `GNTST_*`.
        pub status: i16,
    }
}

compat! {
    /// Give a page away.
    pub struct GnttabTransfer as CompatGnttabTransfer {
        /// The page.
        pub mfn: u64 as u32,
        /// To whom.
        pub domid: Domid,
        /// Padding.
        pub pad0: u16,
        /// Grant there that accepts it.
        pub ref_: GrantRef,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub pad1: [u16; 3] as u16,
    }
    /// One end of a copy.
    pub struct GnttabCopyPtr as CompatGnttabCopyPtr {
        /// A [`GrantRef`] in the low half, or a frame (`GNTCOPY_*_GREF`).
        pub u: u64 as u32,
        /// Whose.
        pub domid: Domid,
        /// First byte in the page.
        pub offset: u16,
        /// Padding.
        pub pad: u32 as (),
    }
    /// Copy between two pages.
    pub struct GnttabCopy as CompatGnttabCopy {
        /// From.
        pub source: GnttabCopyPtr as CompatGnttabCopyPtr,
        /// To.
        pub dest: GnttabCopyPtr as CompatGnttabCopyPtr,
        /// Bytes.
        pub len: u16,
        /// `GNTCOPY_*`.
        pub flags: u16,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub pad: u16,
    }
}

plain! {
    /// Size of a table.
    pub struct GnttabQuerySize {
        /// Whose.
        pub dom: Domid,
        /// Padding.
        pub pad0: u16,
        /// Out: frames in use.
        pub nr_frames: u32,
        /// Out: frames allowed.
        pub max_nr_frames: u32,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub pad1: u16,
    }
    /// Unmap, and move the mapping at `new_addr` there.
    pub struct GnttabUnmapAndReplace {
        /// As given to map.
        pub host_addr: u64,
        /// Where the replacement is.
        pub new_addr: u64,
        /// The mapping.
        pub handle: GrantHandle,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub pad: u16,
    }
    /// Choose the version of the entries.
    pub struct GnttabSetVersion {
        /// In: 1 or 2; out: the version in use.
        pub version: u32,
    }
}

compat! {
    /// Frames of the version 2 status.
    pub struct GnttabGetStatusFrames as CompatGnttabGetStatusFrames {
        /// Frames wanted.
        pub nr_frames: u32,
        /// Whose.
        pub dom: Domid,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Out: the frames.
        pub frame_list: GuestHandle<u64> as u32,
    }
}

plain! {
    /// Version of the entries.
    pub struct GnttabGetVersion {
        /// Whose.
        pub dom: Domid,
        /// Padding.
        pub pad: u16,
        /// Out: the version.
        pub version: u32,
    }
    /// Swap two entries.
    pub struct GnttabSwapGrantRef {
        /// One.
        pub ref_a: GrantRef,
        /// The other.
        pub ref_b: GrantRef,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub pad: u16,
    }
    /// Cache maintenance.
    pub struct GnttabCacheFlush {
        /// Device address, or a [`GrantRef`] in the low half.
        pub a: u64,
        /// First byte.
        pub offset: u16,
        /// Bytes.
        pub length: u16,
        /// `GNTTAB_CACHE_*`.
        pub op: u32,
    }
}
