//! The header of an image, checked.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, big_endian};

use crate::block::Unusable;

/// Bytes from the beginning that hold all that is looked at.
pub const HEADER_MAX: u64 = 4096;

/// As it is in the image; version 2 ends before `incompatible`.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Fields {
    magic: [u8; 4],
    version: big_endian::U32,
    backing_file_offset: big_endian::U64,
    backing_file_size: big_endian::U32,
    cluster_bits: big_endian::U32,
    size: big_endian::U64,
    crypt_method: big_endian::U32,
    l1_size: big_endian::U32,
    l1_table_offset: big_endian::U64,
    refcount_table_offset: big_endian::U64,
    refcount_table_clusters: big_endian::U32,
    nb_snapshots: big_endian::U32,
    snapshots_offset: big_endian::U64,
    incompatible: big_endian::U64,
    compatible: big_endian::U64,
    autoclear: big_endian::U64,
    refcount_order: big_endian::U32,
    header_length: big_endian::U32,
    compression_type: u8,
}

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Where `autoclear` is.
pub const AUTOCLEAR: usize = 88;
/// Where `compression_type` is: a header of this length does not have it.
const COMPRESSION_TYPE: u32 = 104;

bitflags::bitflags! {
    /// Incompatible features that are known.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Incompatible: u64 {
        /// Reference counts may be wrong.
        const DIRTY = 1 << 0;
        const CORRUPT = 1 << 1;
        const COMPRESSION_TYPE = 1 << 3;
    }
}

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Deflate, without a header.
    Deflate,
    /// Zstandard.
    Zstd,
}

/// What an image's header says.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of a cluster, as a power of two: 9 to 21.
    pub cluster_bits: u32,
    /// Where the table of level 1 is, and how many entries it has: as many as the disk needs, or more.
    pub l1_table: u64,
    /// Entries of it that the disk needs.
    pub l1_entries: u64,
    /// Where the table of blocks of reference counts is.
    pub refcount_table: u64,
    /// Its entries.
    pub refcount_entries: u64,
    /// Bits of a reference count, as a power of two: 0 to 6.
    pub refcount_order: u32,
    /// How clusters are compressed.
    pub compression: Compression,
    /// Whether an entry can say that a cluster is zeros.
    pub has_zero_flag: bool,
    /// Features to be forgotten by who writes and does not know them.
    pub autoclear: u64,
    /// Why the image must not be written, if there is a reason.
    pub read_only: Option<Unusable>,
}

impl Header {
    /// Reads the first bytes of an image.
    ///
    /// # Errors
    /// It is none, or one that cannot be read.
    pub fn parse(image: &[u8]) -> Result<Self, Unusable> {
        const BROKEN: Unusable = Unusable("the qcow2 header is broken");
        let (fields, _) = Fields::read_from_prefix(image).map_err(|_| BROKEN)?;
        let version = fields.version.get();
        if fields.magic != MAGIC {
            return Err(Unusable("it is no qcow2 image"));
        }
        if ![2, 3].contains(&version) {
            return Err(Unusable("only versions 2 and 3 of qcow2 are supported"));
        }
        if fields.backing_file_offset != 0 {
            return Err(Unusable(
                "a backing file is not supported: `qemu-img rebase -b ''` makes it whole",
            ));
        }
        if fields.crypt_method != 0 {
            return Err(Unusable("encryption is not supported"));
        }
        let bits = match version {
            2 => 0,
            _ => fields.incompatible.get(),
        };
        let features =
            Incompatible::from_bits(bits).ok_or(Unusable("it has features that are not supported"))?;
        let has_compression_type = version > 2 && fields.header_length.get() > COMPRESSION_TYPE;
        let compression = match fields.compression_type {
            _ if !has_compression_type => Compression::Deflate,
            0 => Compression::Deflate,
            1 => Compression::Zstd,
            _ => return Err(Unusable("its compression is not supported")),
        };
        let read_only = if features.intersects(Incompatible::DIRTY | Incompatible::CORRUPT) {
            Some(Unusable(
                "it is dirty or corrupt: `qemu-img check -r all` must be run",
            ))
        } else if fields.nb_snapshots != 0 {
            Some(Unusable("it has snapshots, so it can only be read"))
        } else {
            None
        };
        let cluster_bits = fields.cluster_bits.get();
        let refcount_order = if version == 2 {
            4
        } else {
            fields.refcount_order.get()
        };
        if !(9..=21).contains(&cluster_bits) || refcount_order > 6 {
            return Err(BROKEN);
        }
        let cluster: u64 = 1 << cluster_bits;
        let header = Self {
            size: fields.size.get(),
            cluster_bits,
            l1_table: fields.l1_table_offset.get(),
            // Each stands for a table of level 2, which fills a cluster with entries of 8 bytes.
            l1_entries: fields.size.get().div_ceil(cluster * (cluster / 8)),
            refcount_table: fields.refcount_table_offset.get(),
            refcount_entries: u64::from(fields.refcount_table_clusters.get()) * (cluster / 8),
            refcount_order,
            compression,
            has_zero_flag: version > 2,
            autoclear: if version == 2 { 0 } else { fields.autoclear.get() },
            read_only,
        };
        let aligned = |offset: u64| offset.is_multiple_of(cluster) && offset < 1 << 56;
        let enough = header.l1_entries <= u64::from(fields.l1_size.get());
        if !aligned(header.l1_table) || !aligned(header.refcount_table) || !enough || header.size > 1 << 55 {
            return Err(BROKEN);
        }
        Ok(header)
    }

    /// Bytes of an image that its table of reference counts is large enough for.
    pub fn counted(&self) -> u64 {
        let counts_per_block = (8_u64 << self.cluster_bits) >> self.refcount_order;
        self.refcount_entries
            .saturating_mul(counts_per_block)
            .saturating_mul(1 << self.cluster_bits)
    }

    /// Most bytes that an image of now `bytes` can grow to when all of its clusters are written.
    pub fn grown(&self, bytes: u64) -> u64 {
        let cluster = 1_u64 << self.cluster_bits;
        let tables = self.l1_entries * cluster;
        let more = self.size.next_multiple_of(cluster) + tables;
        let all = more.saturating_add(bytes.next_multiple_of(cluster)) >> self.cluster_bits;
        // Counts of all clusters, those of the counts included: less than one in a hundred more, but in the smallest.
        let counts = all.saturating_mul(8).div_ceil(cluster).saturating_mul(2) + 2;
        all.saturating_add(counts).saturating_mul(cluster)
    }
}
