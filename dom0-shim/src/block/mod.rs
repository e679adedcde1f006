//! Block devices: what a disk is, and how a front end's requests are carried out on one.
//!
//! * [`claim`]: who uses a disk.
//! * [`ram`]: disks in RAM, empty or over an image.
//! * [`request`]: requests of the ring, checked and carried out.
//! * [`service`]: the ring, served.

pub mod claim;
pub mod ram;
pub mod request;
pub mod service;

use core::future::Future;
use core::ops::Range;

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// A disk, or the memory of a front end, has failed: the request is answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

/// Whether a disk may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read.
    ReadOnly,
    /// Read and written.
    ReadWrite,
}

/// A disk. Callers name only sectors that there are, and write only where [`BlockDevice::access`] allows it.
pub trait BlockDevice {
    /// Its size.
    fn sectors(&self) -> u64;

    /// Whether it may be written.
    fn access(&self) -> Access;

    /// Whether others can be served while it carries a request out.
    fn takes_time(&self) -> bool;

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
