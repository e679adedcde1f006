//! Disk images in QEMU's format qcow2 (QEMU's docs/interop/qcow2.txt), versions 2 and 3.
//!
//! The image is what another disk holds, and grows within that. Tables are kept in memory and written when the disk is
//! flushed, each kind when what it points to is safe ([`pages`]): as with QEMU, whenever the power fails there is an image
//! with all that was flushed before, and at worst a cluster that counts as used and is not.
//!
//! Clusters in use are never moved or freed. What one was compressed to stays when it is written anew, until
//! `qemu-img check -r leaks`.

mod header;
mod pages;

use core::cell::{Cell, RefCell};
use core::ops::Range;

use miniz_oxide::inflate::decompress_slice_iter_to_slice;
use ruzstd::io::Read as _;

use super::extents::{gather, scatter};
use super::{Access, BlockDevice, BlockSizes, Failed, SECTOR, Unusable, read_bytes, zeros};
use crate::executor::Signal;
use header::{AUTOCLEAR, Compression};
pub use header::{HEADER_MAX, Header};
use pages::{Kind, ORDER, Pages};

/// Bits of entries of level 1 and 2.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const ZERO: u64 = 1;

/// Bytes of a page of tables, or those of a cluster if that is smaller.
const PAGE: u64 = 4096;

/// An image in `D`, as a disk.
pub struct Qcow2<D> {
    disk: D,
    header: Header,
    access: Access,
    pages: RefCell<Pages>,
    /// Who changes tables.
    changing: Lock,
    /// No cluster before is free.
    first_free: Cell<u64>,
    /// Clusters that the image may grow to.
    clusters: u64,
}

/// Where a cluster's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nowhere: it is zeros.
    Zeros,
    /// In a cluster at this byte, which may be written if it is nobody else's.
    Cluster { start: u64, own: bool },
    /// Compressed in these bytes.
    Compressed { start: u64, length: u64 },
}

impl<D: BlockDevice> Qcow2<D> {
    /// Opens the image that a disk holds, which may grow to so many bytes of it.
    ///
    /// # Errors
    /// It has none, or one that cannot be used so.
    pub async fn open(disk: D, bytes: u64, access: Access) -> Result<Self, Unusable> {
        let held = disk.sectors().saturating_mul(SECTOR as u64);
        let mut first = read_bytes(&disk, 0..HEADER_MAX.min(held)).await?;
        first.resize(HEADER_MAX as usize, 0);
        let header = Header::parse(&first)?;
        if disk.block_sizes().logical > 1 << header.cluster_bits {
            return Err(Unusable(
                "its clusters are smaller than the blocks of the disk that it is on",
            ));
        }
        if access == Access::ReadWrite {
            if let Some(reason) = header.read_only {
                return Err(reason);
            }
            if header.counted() < bytes.min(header.grown(0)) {
                return Err(Unusable(
                    "its table of reference counts would have to grow: `qemu-img convert -o cluster_size=64k` helps",
                ));
            }
            if header.autoclear != 0 {
                if let Some(bits) = first.get_mut(AUTOCLEAR..AUTOCLEAR + 8) {
                    bits.fill(0);
                }
                let sectors = 0..held.min(HEADER_MAX) / SECTOR as u64;
                first.truncate(sectors.end as usize * SECTOR);
                disk.write(sectors, |pieces| scatter(&first, pieces)).await?;
                disk.flush().await?;
            }
        }
        Ok(Self {
            disk,
            header,
            access,
            pages: RefCell::default(),
            changing: Lock::default(),
            first_free: Cell::new(0),
            clusters: bytes >> header.cluster_bits,
        })
    }

    /// The disk that the image is on.
    pub fn into_inner(self) -> D {
        self.disk
    }

    fn cluster(&self) -> u64 {
        1 << self.header.cluster_bits
    }

    fn page(&self) -> u64 {
        PAGE.min(self.cluster())
    }

    /// Bytes of the disk that the image is on.
    fn held(&self) -> u64 {
        self.disk.sectors().saturating_mul(SECTOR as u64)
    }

    /// An entry of a table: the big-endian word at this byte, a multiple of eight.
    async fn word(&self, at: u64) -> Result<u64, Failed> {
        let (place, offset) = (at / self.page() * self.page(), (at % self.page()) as usize);
        loop {
            let dropped = {
                let mut pages = self.pages.borrow_mut();
                if let Some(word) = pages.word(place, offset) {
                    return Ok(word);
                }
                pages.dropped
            };
            // A table at the end of the image may have been cut off where its entries end.
            let end = place.checked_add(self.page()).ok_or(Failed)?.min(self.held());
            let mut bytes = read_bytes(&self.disk, place..end).await?;
            bytes.resize(self.page() as usize, 0);
            let mut pages = self.pages.borrow_mut();
            // Else the page may have been changed, written and dropped since it was read.
            if pages.dropped == dropped {
                pages.add_read(place, bytes);
            }
        }
    }

    /// Changes an entry that has been looked at.
    async fn set_word(&self, at: u64, word: u64, kind: Kind) -> Result<(), Failed> {
        self.word(at).await?;
        let (place, offset) = (at / self.page() * self.page(), (at % self.page()) as usize);
        self.pages.borrow_mut().set_word(place, offset, word, kind);
        Ok(())
    }

    /// Where a cluster's entry of level 1 is, and its number in the table of level 2.
    fn l1_entry(&self, cluster: u64) -> (u64, u64) {
        let entries = self.cluster() / 8;
        (self.header.l1_table + cluster / entries * 8, cluster % entries)
    }

    /// Where a cluster of the disk is.
    async fn place(&self, cluster: u64) -> Result<Place, Failed> {
        let (l1, number) = self.l1_entry(cluster);
        let table = self.word(l1).await? & OFFSET;
        if table == 0 {
            return Ok(Place::Zeros);
        }
        let entry = self.word(self.aligned(table)? + number * 8).await?;
        if entry & COMPRESSED != 0 {
            let bits = 62 - (self.header.cluster_bits - 8);
            let start = entry & ((1 << bits) - 1);
            let sectors = (entry & !(COPIED | COMPRESSED)) >> bits;
            let length = (sectors + 1) * SECTOR as u64 - start % SECTOR as u64;
            return Ok(Place::Compressed { start, length });
        }
        let start = entry & OFFSET;
        if start == 0 || (self.header.has_zero_flag && entry & ZERO != 0) {
            return Ok(Place::Zeros);
        }
        Ok(Place::Cluster {
            start: self.aligned(start)?,
            own: entry & COPIED != 0,
        })
    }

    fn aligned(&self, start: u64) -> Result<u64, Failed> {
        if start.is_multiple_of(self.cluster()) {
            Ok(start)
        } else {
            Err(Failed)
        }
    }

    /// Parts of `sectors` that are in one cluster each: the cluster, and sectors in it.
    fn parts(&self, sectors: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
        let per_cluster = self.cluster() / SECTOR as u64;
        let clusters = sectors.start / per_cluster..sectors.end.div_ceil(per_cluster);
        clusters.map(move |cluster| {
            let base = cluster * per_cluster;
            (
                cluster,
                sectors.start.max(base) - base..sectors.end.min(base + per_cluster) - base,
            )
        })
    }

    /// The sectors of the disk below, if all are there in one piece; if they are to be written, only where that is all
    /// there is to do.
    async fn in_one(&self, sectors: &Range<u64>, access: Access) -> Result<Option<Range<u64>>, Failed> {
        let mut found: Option<Range<u64>> = None;
        for (cluster, within) in self.parts(sectors.clone()) {
            let start = match self.place(cluster).await? {
                Place::Cluster { start, own } if own || access == Access::ReadOnly => start / SECTOR as u64,
                _ => return Ok(None),
            };
            let here = start + within.start..start + within.end;
            found = match found {
                None => Some(here),
                Some(before) if before.end == here.start => Some(before.start..here.end),
                Some(_) => return Ok(None),
            };
        }
        found.map(|place| self.exists(place)).transpose()
    }

    /// Sectors of the disk below that there are.
    fn exists(&self, sectors: Range<u64>) -> Result<Range<u64>, Failed> {
        if sectors.end <= self.disk.sectors() {
            Ok(sectors)
        } else {
            Err(Failed)
        }
    }

    /// Reads part of a cluster.
    async fn read_part(&self, place: Place, within: Range<u64>, room: &mut [u8]) -> Result<(), Failed> {
        match place {
            Place::Zeros => room.fill(0),
            Place::Cluster { start, .. } => {
                let base = start / SECTOR as u64;
                let place = self.exists(base + within.start..base + within.end)?;
                self.disk.read(place, |pieces| gather(pieces, room)).await?;
            }
            Place::Compressed { start, length } => {
                let end = start.checked_add(length).ok_or(Failed)?.min(self.held());
                let packed = read_bytes(&self.disk, start..end).await?;
                let mut data = zeros(self.cluster() as usize)?;
                unpack(self.header.compression, &packed, &mut data)?;
                let bytes = within.start as usize * SECTOR..within.end as usize * SECTOR;
                room.copy_from_slice(data.get(bytes).ok_or(Failed)?);
            }
        }
        Ok(())
    }

    /// Writes part of a cluster, which gets a place if it has none.
    async fn write_part(&self, cluster: u64, within: Range<u64>, bytes: &[u8]) -> Result<(), Failed> {
        let mut place = self.place(cluster).await?;
        let lock;
        if !matches!(place, Place::Cluster { own: true, .. }) {
            lock = self.changing.lock().await;
            // Somebody else may have given it one.
            place = self.place(cluster).await?;
            if !matches!(place, Place::Cluster { own: true, .. }) {
                return self.write_new(cluster, place, within, bytes, &lock).await;
            }
        }
        let Place::Cluster { start, .. } = place else {
            return Err(Failed);
        };
        let base = start / SECTOR as u64;
        let place = self.exists(base + within.start..base + within.end)?;
        self.disk.write(place, |pieces| scatter(bytes, pieces)).await
    }

    /// Writes a cluster to a new place.
    async fn write_new(
        &self,
        cluster: u64,
        old: Place,
        within: Range<u64>,
        bytes: &[u8],
        lock: &Locked<'_>,
    ) -> Result<(), Failed> {
        let sectors = self.cluster() / SECTOR as u64;
        let mut data = zeros(self.cluster() as usize)?;
        if within != (0..sectors) {
            self.read_part(old, 0..sectors, &mut data).await?;
        }
        let part = data.get_mut(within.start as usize * SECTOR..within.end as usize * SECTOR);
        part.ok_or(Failed)?.copy_from_slice(bytes);
        if self.pages.borrow().is_full() {
            self.write_tables(lock).await?;
        }
        let entry = self.l2_entry(cluster, lock).await?;
        let start = self.allocate(lock).await?;
        let base = start / SECTOR as u64;
        self.disk
            .write(base..base + sectors, |pieces| scatter(&data, pieces))
            .await?;
        self.set_word(entry, start | COPIED, Kind::L2).await
    }

    /// Where a cluster's entry of level 2 is; the table is made if there is none.
    async fn l2_entry(&self, cluster: u64, lock: &Locked<'_>) -> Result<u64, Failed> {
        let (l1, number) = self.l1_entry(cluster);
        let entry = self.word(l1).await?;
        if entry & OFFSET != 0 {
            // Without snapshots every table is its own.
            let own = entry & COPIED != 0;
            return if own {
                Ok(self.aligned(entry & OFFSET)? + number * 8)
            } else {
                Err(Failed)
            };
        }
        let table = self.allocate(lock).await?;
        self.add_new(table, Kind::L2);
        self.set_word(l1, table | COPIED, Kind::L1).await?;
        Ok(table + number * 8)
    }

    /// Puts pages of zeros where a cluster becomes a table.
    fn add_new(&self, start: u64, kind: Kind) {
        let mut pages = self.pages.borrow_mut();
        for place in (start..start + self.cluster()).step_by(self.page() as usize) {
            pages.add_new(place, self.page() as usize, kind);
        }
    }

    /// Takes a free cluster; its first byte.
    ///
    /// # Errors
    /// The disk that the image is on is full, or the counts' table is.
    async fn allocate(&self, _: &Locked<'_>) -> Result<u64, Failed> {
        let order = self.header.refcount_order;
        let counts_per_block = (self.cluster() * 8) >> order;
        let mut cluster = self.first_free.get();
        while cluster < self.clusters {
            let start = cluster << self.header.cluster_bits;
            let block = cluster / counts_per_block;
            if block >= self.header.refcount_entries {
                break;
            }
            let entry = self.header.refcount_table + block * 8;
            let mut counts = self.word(entry).await? & OFFSET;
            // Clusters without counts are free; the first of them becomes their counts.
            let is_block = counts == 0;
            if is_block {
                self.add_new(start, Kind::Refcounts);
                self.set_word(entry, start, Kind::RefcountTable).await?;
                counts = start;
            }
            let bit = (cluster % counts_per_block) << order;
            let at = self.aligned(counts)? + bit / 64 * 8;
            let word = self.word(at).await?;
            let (count, one) = count(word, bit % 64, 1 << order);
            self.first_free.set(cluster + 1);
            if count == 0 {
                self.set_word(at, word | one, Kind::Refcounts).await?;
                if !is_block {
                    return Ok(start);
                }
            }
            cluster += 1;
        }
        Err(Failed)
    }

    /// Writes the tables that have changed, so that each points only to what is safe.
    async fn write_tables(&self, _: &Locked<'_>) -> Result<(), Failed> {
        for kind in ORDER {
            let dirty = self.pages.borrow().dirty(kind);
            for &place in &dirty {
                let bytes = self
                    .pages
                    .borrow()
                    .bytes(place)
                    .map(<[u8]>::to_vec)
                    .ok_or(Failed)?;
                let start = place / SECTOR as u64;
                let sectors = start..start + (bytes.len() / SECTOR) as u64;
                let sectors = self.exists(sectors)?;
                self.disk.write(sectors, |pieces| scatter(&bytes, pieces)).await?;
                self.pages.borrow_mut().written(place);
            }
            // The first flush is for data as well.
            if kind == Kind::Refcounts || !dirty.is_empty() {
                self.disk.flush().await?;
            }
        }
        Ok(())
    }
}

/// A count of `bits` at `bit` of a big-endian word; and what is to be added to the word to make it one more. Counts
/// smaller than a byte begin with its lowest bit.
fn count(word: u64, bit: u64, bits: u64) -> (u64, u64) {
    let shift = match bits {
        8.. => 64 - bit - bits,
        _ => 56 - bit / 8 * 8 + bit % 8,
    };
    let mask = u64::MAX >> (64 - bits);
    (word >> shift & mask, 1 << shift)
}

/// Unpacks a cluster; what follows in the last sector is not part of it.
fn unpack(compression: Compression, packed: &[u8], room: &mut [u8]) -> Result<(), Failed> {
    const WINDOW_MAX: u64 = 8 << 20;
    let unpacked = match compression {
        Compression::Deflate => {
            decompress_slice_iter_to_slice(room, core::iter::once(packed), false, true).map_err(|_| Failed)?
        }
        Compression::Zstd => {
            let decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(packed, WINDOW_MAX);
            decoder
                .map_err(|_| Failed)?
                .read_exact(room)
                .map_err(|_| Failed)?;
            room.len()
        }
    };
    if unpacked == room.len() {
        Ok(())
    } else {
        Err(Failed)
    }
}

impl<D: BlockDevice> BlockDevice for Qcow2<D> {
    fn sectors(&self) -> u64 {
        self.header.size / SECTOR as u64
    }

    fn access(&self) -> Access {
        self.access
    }

    fn block_sizes(&self) -> BlockSizes {
        self.disk.block_sizes()
    }

    fn takes_time(&self) -> bool {
        self.disk.takes_time()
    }

    /// With the request's data that of a cluster which gets a new place, what that was packed to (up to two clusters), and
    /// what that is unpacked to; and what is read or written of the disk meanwhile.
    fn memory(&self, bytes: usize) -> usize {
        let cluster = self.cluster() as usize;
        bytes + 4 * cluster + self.disk.memory(bytes.max(cluster))
    }

    fn discard_granularity(&self) -> Option<u32> {
        None
    }

    async fn read(
        &self,
        sectors: Range<u64>,
        take: impl FnOnce(&[&[u8]]) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        if let Some(place) = self.in_one(&sectors, Access::ReadOnly).await? {
            return self.disk.read(place, take).await;
        }
        let mut data = zeros((sectors.end - sectors.start) as usize * SECTOR)?;
        let mut rest = &mut data[..];
        for (cluster, within) in self.parts(sectors) {
            let length = (within.end - within.start) as usize * SECTOR;
            let (room, after) = rest.split_at_mut_checked(length).ok_or(Failed)?;
            self.read_part(self.place(cluster).await?, within, room).await?;
            rest = after;
        }
        take(&[&data])
    }

    async fn write(
        &self,
        sectors: Range<u64>,
        fill: impl FnOnce(&mut [&mut [u8]]) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        if let Some(place) = self.in_one(&sectors, Access::ReadWrite).await? {
            return self.disk.write(place, fill).await;
        }
        let mut data = zeros((sectors.end - sectors.start) as usize * SECTOR)?;
        fill(&mut [&mut data])?;
        let mut rest = &data[..];
        for (cluster, within) in self.parts(sectors) {
            let length = (within.end - within.start) as usize * SECTOR;
            let (bytes, after) = rest.split_at_checked(length).ok_or(Failed)?;
            self.write_part(cluster, within, bytes).await?;
            rest = after;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), Failed> {
        let lock = self.changing.lock().await;
        self.write_tables(&lock).await
    }

    async fn discard(&self, _: Range<u64>) -> Result<(), Failed> {
        Err(Failed)
    }
}

/// Lets one at a time change tables.
#[derive(Default)]
struct Lock {
    held: Cell<bool>,
    freed: Signal,
}

/// The right to change tables; ends when dropped.
struct Locked<'a>(&'a Lock);

impl Lock {
    async fn lock(&self) -> Locked<'_> {
        while self.held.replace(true) {
            self.freed.wait().await;
        }
        Locked(self)
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.0.held.set(false);
        self.0.freed.notify();
    }
}
