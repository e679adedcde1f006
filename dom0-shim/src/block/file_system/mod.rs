//! Where a disk has a file, by ext4 or FAT, so that the file can be a disk itself.
//!
//! Nothing is ever written but the file's own data, in the blocks that it has: that needs no journal and no file system
//! driver. It is why these are not crates: those that can be had read files, and do not say where they are.

mod ext4;
mod fat;

use alloc::vec::Vec;

use super::extents::{Extent, Extents};
use super::{Access, BlockDevice, SECTOR, Unusable, read_bytes};

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its length.
    pub bytes: u64,
    /// Where it is, up to the end of the block that its last byte is in.
    pub extents: Vec<Extent>,
}

/// Most pieces of a file.
const EXTENTS_MAX: usize = 1 << 16;
/// Largest directory.
const DIRECTORY_MAX: u64 = 4 << 20;

const BROKEN: Unusable = Unusable("the file system is broken");
const NO_FILE: Unusable = Unusable("there is no such file");
const NO_DIRECTORY: Unusable = Unusable("part of the path is no directory");
const FRAGMENTED: Unusable = Unusable("the file is in too many pieces");

/// Looks for a file in the file system of a disk.
///
/// # Errors
/// There is no such file, or no file system that can be read.
pub async fn find(disk: &impl BlockDevice, path: &str) -> Result<File, Unusable> {
    if ext4::is_on(disk).await? {
        return ext4::find(disk, path).await;
    }
    match fat::open(disk).await? {
        Some(fat) => fat.find(path).await,
        None => Err(Unusable("it has neither ext4 nor FAT")),
    }
}

/// A file's contents.
///
/// # Errors
/// As of [`find`]; the file has more than `most` bytes.
pub async fn read(disk: &impl BlockDevice, path: &str, most: u64) -> Result<Vec<u8>, Unusable> {
    let file = find(disk, path).await?;
    contents(disk, &file, most).await
}

async fn contents(disk: &impl BlockDevice, file: &File, most: u64) -> Result<Vec<u8>, Unusable> {
    if file.bytes > most {
        return Err(Unusable("the file is too large"));
    }
    let sectors = file.extents.iter().map(|extent| extent.sectors).sum();
    let extents = Extents::new(disk, &file.extents, sectors, Access::ReadOnly).map_err(Unusable)?;
    Ok(read_bytes(&extents, 0..file.bytes).await?)
}

/// Adds adjacent blocks to a list that must not become too long.
fn append(
    extents: &mut Vec<Extent>,
    start: Option<u64>,
    blocks: u64,
    block_size: u64,
) -> Result<(), Unusable> {
    let sectors = |blocks: u64| blocks.checked_mul(block_size / SECTOR as u64).ok_or(BROKEN);
    let start = start.map(sectors).transpose()?;
    Extent {
        start,
        sectors: sectors(blocks)?,
    }
    .append(extents);
    if extents.len() > EXTENTS_MAX {
        Err(FRAGMENTED)
    } else {
        Ok(())
    }
}

/// A little-endian number of `N` bytes.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<u64, Unusable> {
    let field = bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .ok_or(BROKEN)?;
    Ok(field
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte)))
}
