//! Block devices: what a disk is, and how a front end's requests are carried out on one.
//!
//! * [`allowance`]: how many pages of a domain may be kept mapped.
//! * [`claim`]: who uses which sectors of a disk.
//! * [`extents`]: parts of a disk, put together to one.
//! * [`file_system`]: where a disk has a file.
//! * [`partition`]: where a disk has a partition.
//! * [`qcow2`]: disks in images of that format.
//! * [`ram`]: disks in RAM, empty or over an image.
//! * [`request`]: requests of the ring, checked and carried out.
//! * [`ring`]: the ring, in the layout of the front end's kernel.
//! * [`service`]: the ring, served.

pub mod allowance;
pub mod claim;
pub mod extents;
pub mod file_system;
pub mod partition;
pub mod qcow2;
pub mod ram;
pub mod request;
pub mod ring;
pub mod service;

use alloc::vec::Vec;
use core::fmt;
use core::future::Future;
use core::ops::{Deref, Range};

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// A disk, or the memory of a front end, has failed: the request is answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

/// Why what is on a disk cannot be used: a sentence without the full stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unusable(pub &'static str);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl From<Failed> for Unusable {
    fn from(Failed: Failed) -> Self {
        Self("an error of the disk")
    }
}

/// Whether a disk may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read.
    ReadOnly,
    /// Read and written.
    ReadWrite,
}

/// Whether a front end may discard what a disk can forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// It may.
    Offered,
    /// It may not: the disk is to keep the room that it has.
    Refused,
}

/// How a disk's bytes go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// A block's bytes, a power of two.
    pub logical: u32,
    /// Those of a block of the medium: writing less costs reading it.
    pub physical: u32,
}

impl Default for BlockSizes {
    fn default() -> Self {
        Self {
            logical: SECTOR as u32,
            physical: SECTOR as u32,
        }
    }
}

/// A disk. Callers name only sectors that there are, and write only where [`BlockDevice::access`] allows it.
pub trait BlockDevice {
    /// Its size.
    fn sectors(&self) -> u64;

    /// Whether it may be written.
    fn access(&self) -> Access;

    /// Bytes that it reads and writes together at least, and those that it would like to.
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes::default()
    }

    /// Whether others can be served while it carries a request out.
    fn takes_time(&self) -> bool;

    /// Memory that a request takes at most while it is under way, if it moves so many bytes.
    fn memory(&self, bytes: usize) -> usize;

    /// Bytes that are discarded together; `None` if it does not discard.
    fn discard_granularity(&self) -> Option<u32>;

    /// Calls `take` once with the data of `sectors`, in pieces.
    fn read(
        &self,
        sectors: Range<u64>,
        take: impl FnOnce(&[&[u8]]) -> Result<(), Failed>,
    ) -> impl Future<Output = Result<(), Failed>>;

    /// Calls `fill` once with the room for new data of `sectors`, in pieces, and keeps what it leaves there. If it
    /// fails, these sectors may have any data of this disk.
    fn write(
        &self,
        sectors: Range<u64>,
        fill: impl FnOnce(&mut [&mut [u8]]) -> Result<(), Failed>,
    ) -> impl Future<Output = Result<(), Failed>>;

    /// Returns when everything written before is safe.
    fn flush(&self) -> impl Future<Output = Result<(), Failed>>;

    /// Forgets data that nobody needs any more.
    fn discard(&self, sectors: Range<u64>) -> impl Future<Output = Result<(), Failed>>;
}

/// What points to a disk is that disk.
impl<P: Deref<Target: BlockDevice>> BlockDevice for P {
    fn sectors(&self) -> u64 {
        (**self).sectors()
    }

    fn access(&self) -> Access {
        (**self).access()
    }

    fn block_sizes(&self) -> BlockSizes {
        (**self).block_sizes()
    }

    fn takes_time(&self) -> bool {
        (**self).takes_time()
    }

    fn memory(&self, bytes: usize) -> usize {
        (**self).memory(bytes)
    }

    fn discard_granularity(&self) -> Option<u32> {
        (**self).discard_granularity()
    }

    async fn read(
        &self,
        sectors: Range<u64>,
        take: impl FnOnce(&[&[u8]]) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        (**self).read(sectors, take).await
    }

    async fn write(
        &self,
        sectors: Range<u64>,
        fill: impl FnOnce(&mut [&mut [u8]]) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        (**self).write(sectors, fill).await
    }

    async fn flush(&self) -> Result<(), Failed> {
        (**self).flush().await
    }

    async fn discard(&self, sectors: Range<u64>) -> Result<(), Failed> {
        (**self).discard(sectors).await
    }
}

/// Zeros, where data is to be put.
///
/// # Errors
/// There is no memory for so many.
pub fn zeros(bytes: usize) -> Result<Vec<u8>, Failed> {
    let mut zeros = Vec::new();
    zeros.try_reserve_exact(bytes).map_err(|_| Failed)?;
    zeros.resize(bytes, 0);
    Ok(zeros)
}

/// Most bytes that are read of a disk in one go for this domain's own use.
const CHUNK: u64 = 256 << 10;

/// Reads bytes of a disk, for this domain's own use.
///
/// # Errors
/// The disk's; they are behind its end; there is no memory for them.
pub async fn read_bytes(disk: &impl BlockDevice, bytes: Range<u64>) -> Result<Vec<u8>, Failed> {
    let block = u64::from(disk.block_sizes().logical.max(SECTOR as u32));
    let length = bytes.end.checked_sub(bytes.start).ok_or(Failed)?;
    let end = bytes.end.checked_next_multiple_of(block).ok_or(Failed)?;
    if end / SECTOR as u64 > disk.sectors() {
        return Err(Failed);
    }
    let mut read = Vec::new();
    read.try_reserve_exact(usize::try_from(length).map_err(|_| Failed)?)
        .map_err(|_| Failed)?;
    let mut at = bytes.start / block * block;
    while at < end {
        let next = (at + CHUNK).min(end);
        // What is before the first byte and behind the last is only read.
        let wanted = bytes.start.max(at) - at..bytes.end.min(next) - at;
        let take = |pieces: &[&[u8]]| {
            let mut place = 0;
            for piece in pieces {
                let (from, to) = (
                    wanted.start.max(place),
                    wanted.end.min(place + piece.len() as u64),
                );
                if from < to {
                    read.extend_from_slice(&piece[(from - place) as usize..(to - place) as usize]);
                }
                place += piece.len() as u64;
            }
            Ok(())
        };
        disk.read(at / SECTOR as u64..next / SECTOR as u64, take).await?;
        at = next;
    }
    Ok(read)
}

/// Part of a page that a front end has granted; within the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The grant.
    pub reference: u32,
    /// First byte.
    pub offset: u16,
    /// Bytes.
    pub length: u16,
}

/// A front end's granted pages.
pub trait Memory {
    /// Copies data to the front end.
    ///
    /// # Errors
    /// A page is not granted, or only to be read. Other copies may have been done.
    fn copy_to(&self, copies: &[(Segment, &[u8])]) -> Result<(), Failed>;

    /// Copies data from the front end.
    ///
    /// # Errors
    /// A page is not granted. Other copies may have been done.
    fn copy_from(&self, copies: &mut [(Segment, &mut [u8])]) -> Result<(), Failed>;
}
