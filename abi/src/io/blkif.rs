//! Block devices, 64-bit protocol ("x86_64-abi"). Sectors are 512 bytes.
//!
//! In the 32-bit protocol ("x86_32-abi") there is no padding where it only aligns a 64-bit field: in requests that is the
//! word behind the first four bytes, in responses the last one.

use crate::grant::GrantRef;

/// Value of the xenstore node `protocol`.
pub const XEN_IO_PROTO_ABI_X86_64: &str = "x86_64-abi";
/// The same for the 32-bit protocol.
pub const XEN_IO_PROTO_ABI_X86_32: &str = "x86_32-abi";
/// Read.
pub const BLKIF_OP_READ: u8 = 0;
/// Write.
pub const BLKIF_OP_WRITE: u8 = 1;
/// Write with a barrier around it.
pub const BLKIF_OP_WRITE_BARRIER: u8 = 2;
/// Flush the disk's cache.
pub const BLKIF_OP_FLUSH_DISKCACHE: u8 = 3;
/// Discard ([`BlkifRequestDiscard`]).
pub const BLKIF_OP_DISCARD: u8 = 5;
/// Segments are listed in granted pages ([`BlkifRequestIndirect`]).
pub const BLKIF_OP_INDIRECT: u8 = 6;
/// Segments in a [`BlkifRequest`].
pub const BLKIF_MAX_SEGMENTS_PER_REQUEST: usize = 11;
/// Pages of segments in a [`BlkifRequestIndirect`].
pub const BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST: usize = 8;
/// [`BlkifRequestDiscard::flag`]: erase.
pub const BLKIF_DISCARD_SECURE: u8 = 1;
/// Not supported.
pub const BLKIF_RSP_EOPNOTSUPP: i16 = -2;
/// Failed.
pub const BLKIF_RSP_ERROR: i16 = -1;
/// Done.
pub const BLKIF_RSP_OKAY: i16 = 0;
/// Node `info`: a CD-ROM.
pub const VDISK_CDROM: u32 = 1;
/// Node `info`: removable.
pub const VDISK_REMOVABLE: u32 = 2;
/// Node `info`: read only.
pub const VDISK_READONLY: u32 = 4;

plain! {
    /// Part of a granted page.
    pub struct BlkifRequestSegment {
        /// The page.
        pub gref: GrantRef,
        /// First sector.
        pub first_sect: u8,
        /// Last sector, inclusive.
        pub last_sect: u8,
        /// Padding.
        pub pad: u16,
    }
    /// Read, write, barrier, flush.
    pub struct BlkifRequest {
        /// `BLKIF_OP_*`.
        pub operation: u8,
        /// Segments used.
        pub nr_segments: u8,
        /// Device number.
        pub handle: u16,
        /// Padding.
        pub pad: u32,
        /// Echoed in the response.
        pub id: u64,
        /// First sector on the disk.
        pub sector_number: u64,
        /// Memory.
        pub seg: [BlkifRequestSegment; BLKIF_MAX_SEGMENTS_PER_REQUEST],
    }
    /// Discard.
    pub struct BlkifRequestDiscard {
        /// [`BLKIF_OP_DISCARD`].
        pub operation: u8,
        /// [`BLKIF_DISCARD_SECURE`].
        pub flag: u8,
        /// Device number.
        pub handle: u16,
        /// Padding.
        pub pad: u32,
        /// Echoed in the response.
        pub id: u64,
        /// First sector.
        pub sector_number: u64,
        /// Sectors.
        pub nr_sectors: u64,
    }
    /// Read or write with many segments.
    pub struct BlkifRequestIndirect {
        /// [`BLKIF_OP_INDIRECT`].
        pub operation: u8,
        /// [`BLKIF_OP_READ`] or [`BLKIF_OP_WRITE`].
        pub indirect_op: u8,
        /// Segments.
        pub nr_segments: u16,
        /// Padding.
        pub pad0: u32,
        /// Echoed in the response.
        pub id: u64,
        /// First sector on the disk.
        pub sector_number: u64,
        /// Device number.
        pub handle: u16,
        /// Padding.
        pub pad1: u16,
        /// Pages full of [`BlkifRequestSegment`].
        pub indirect_grefs: [GrantRef; BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST],
        /// Padding.
        pub pad2: u32,
    }
    /// Response.
    pub struct BlkifResponse {
        /// As in the request.
        pub id: u64,
        /// As in the request.
        pub operation: u8,
        /// Padding.
        pub pad0: u8,
        /// `BLKIF_RSP_*`.
        pub status: i16,
        /// Padding.
        pub pad1: u32,
    }
}
