//! Files of ext4 (the kernel's Documentation/filesystems/ext4): read without its journal, so it must have been
//! unmounted.

use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::{BROKEN, DIRECTORY_MAX, File, NO_DIRECTORY, NO_FILE, append, contents, number};
use crate::block::{BlockDevice, Unusable, read_bytes};

/// Where the superblock is.
const SUPERBLOCK: u64 = 1024;
const SUPERBLOCK_SIZE: u64 = 1024;
const MAGIC: u64 = 0xef53;

bitflags::bitflags! {
    /// Incompatible features. Those named here change nothing of what is read here, but for `RECOVER` and `BITS64`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Incompatible: u32 {
        const FILETYPE = 0x2;
        /// The journal has changes that are not in their places.
        const RECOVER = 0x4;
        const EXTENTS = 0x40;
        /// Group descriptors have the size that the superblock says.
        const BITS64 = 0x80;
        const FLEX_BG = 0x200;
        const EA_INODE = 0x400;
        const CSUM_SEED = 0x2000;
        const LARGEDIR = 0x4000;
        /// Files may be encrypted, their inodes say so.
        const ENCRYPT = 0x1_0000;
        const CASEFOLD = 0x2_0000;
    }
}

/// Flags of inodes.
const ENCRYPTED: u64 = 0x800;
const BY_EXTENTS: u64 = 0x8_0000;

/// Kinds of files, in an inode's mode.
const KIND: u64 = 0xf000;
const DIRECTORY: u64 = 0x4000;
const REGULAR: u64 = 0x8000;
const LINK: u64 = 0xa000;

const ROOT: u64 = 2;
/// Most symbolic links on a way, as in Linux.
const LINKS_MAX: u32 = 40;
/// Longest target of a symbolic link, as in Linux.
const TARGET_MAX: u64 = 4096;

const EXTENT_MAGIC: u64 = 0xf30a;
const EXTENT_SIZE: usize = 12;
const DEPTH_MAX: u64 = 5;
/// Most nodes of a tree of extents.
const NODES_MAX: u32 = 1 << 12;
/// Extents that are longer are by so much shorter, and have been set aside only.
const WRITTEN_MAX: u64 = 1 << 15;

/// Whether a disk has such a file system, ext2 and ext3 included.
pub async fn is_on(disk: &impl BlockDevice) -> Result<bool, Unusable> {
    if disk.sectors() < 4 {
        return Ok(false);
    }
    let superblock = read_bytes(disk, SUPERBLOCK..SUPERBLOCK + SUPERBLOCK_SIZE).await?;
    Ok(number::<2>(&superblock, 0x38)? == MAGIC)
}

/// Looks for a file.
pub async fn find(disk: &impl BlockDevice, path: &str) -> Result<File, Unusable> {
    let volume = Volume::open(disk).await?;
    let inode = volume.walk(path).await?;
    if inode.mode & KIND != REGULAR {
        return Err(Unusable("it is no regular file"));
    }
    volume.file(&inode).await
}

struct Volume<'a, D> {
    disk: &'a D,
    block_size: u64,
    inodes: u64,
    inodes_per_group: u64,
    inode_size: u64,
    /// Byte at which group descriptors begin, and the size of one.
    descriptors: u64,
    descriptor_size: u64,
    wide_descriptors: bool,
}

struct Inode {
    mode: u64,
    flags: u64,
    bytes: u64,
    /// Its tree's root, or a symbolic link's target.
    block: Vec<u8>,
}

impl<'a, D: BlockDevice> Volume<'a, D> {
    async fn open(disk: &'a D) -> Result<Self, Unusable> {
        let superblock = read_bytes(disk, SUPERBLOCK..SUPERBLOCK + SUPERBLOCK_SIZE).await?;
        let long = |at| number::<4>(&superblock, at);
        let short = |at| number::<2>(&superblock, at);
        let features = Incompatible::from_bits(long(0x60)? as u32)
            .ok_or(Unusable("the file system has features that are not supported"))?;
        if features.contains(Incompatible::RECOVER) {
            return Err(Unusable("the file system was not unmounted: e2fsck must be run"));
        }
        let wide_descriptors = features.contains(Incompatible::BITS64);
        let block_size = match long(0x18)? {
            shift @ 0..=2 => 1024 << shift,
            _ => return Err(Unusable("the file system's blocks are larger than 4 KiB")),
        };
        let inode_size = match long(0x4c)? {
            0 => 128,
            _ => short(0x58)?,
        };
        let descriptor_size = if wide_descriptors { short(0xfe)? } else { 32 };
        let volume = Self {
            disk,
            block_size,
            inodes: long(0)?,
            inodes_per_group: long(0x28)?,
            inode_size,
            descriptors: (long(0x14)? + 1) * block_size,
            descriptor_size,
            wide_descriptors,
        };
        let least = if wide_descriptors { 64 } else { 32 };
        let sizes = (128..=block_size).contains(&inode_size) && descriptor_size >= least;
        if volume.inodes_per_group == 0 || !sizes {
            return Err(BROKEN);
        }
        Ok(volume)
    }

    async fn inode(&self, inode: u64) -> Result<Inode, Unusable> {
        let index = inode
            .checked_sub(1)
            .filter(|_| inode <= self.inodes)
            .ok_or(BROKEN)?;
        let (group, index) = (index / self.inodes_per_group, index % self.inodes_per_group);
        // The superblock's numbers have at most 32 bits.
        let descriptor = self.descriptors + group * self.descriptor_size;
        let descriptor = read_bytes(self.disk, descriptor..descriptor + self.descriptor_size).await?;
        let mut table = number::<4>(&descriptor, 0x8)?;
        if self.wide_descriptors {
            table |= number::<4>(&descriptor, 0x28)? << 32;
        }
        let start = table
            .checked_mul(self.block_size)
            .and_then(|at| at.checked_add(index * self.inode_size));
        let start = start.ok_or(BROKEN)?;
        let end = start.checked_add(self.inode_size).ok_or(BROKEN)?;
        let inode = read_bytes(self.disk, start..end).await?;
        Ok(Inode {
            mode: number::<2>(&inode, 0)?,
            flags: number::<4>(&inode, 0x20)?,
            bytes: number::<4>(&inode, 0x4)? | number::<4>(&inode, 0x6c)? << 32,
            block: inode.get(0x28..0x64).ok_or(BROKEN)?.to_vec(),
        })
    }

    /// The inode that a path leads to, over symbolic links.
    async fn walk(&self, path: &str) -> Result<Inode, Unusable> {
        let names = |path: &str| -> Vec<String> { path.split('/').map(str::to_string).collect() };
        let mut rest: VecDeque<String> = names(path).into();
        let mut directory = ROOT;
        let mut inode = self.inode(ROOT).await?;
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name.is_empty() || name == "." {
                continue;
            }
            if inode.mode & KIND != DIRECTORY {
                return Err(NO_DIRECTORY);
            }
            let found = self.look_up(&inode, &name).await?;
            let next = self.inode(found).await?;
            if next.mode & KIND != LINK {
                (directory, inode) = (found, next);
                continue;
            }
            links += 1;
            if links > LINKS_MAX {
                return Err(Unusable("there are too many symbolic links"));
            }
            let target = self.target(&next).await?;
            if target.starts_with('/') {
                directory = ROOT;
            }
            inode = self.inode(directory).await?;
            for name in names(&target).into_iter().rev() {
                rest.push_front(name);
            }
        }
        Ok(inode)
    }

    /// The number of the inode of this name in a directory.
    async fn look_up(&self, directory: &Inode, name: &str) -> Result<u64, Unusable> {
        let file = self.file(directory).await?;
        let entries = contents(self.disk, &file, DIRECTORY_MAX).await?;
        for block in entries.chunks(self.block_size as usize) {
            let mut rest = block;
            // What an index has in place of entries looks like one that is not used.
            while rest.len() >= 8 {
                let (inode, length) = (number::<4>(rest, 0)?, number::<2>(rest, 4)? as usize);
                let name_length = number::<1>(rest, 6)? as usize;
                if length < 8 || 8 + name_length > length {
                    return Err(BROKEN);
                }
                if inode != 0 && rest.get(8..8 + name_length) == Some(name.as_bytes()) {
                    return Ok(inode);
                }
                rest = rest.get(length..).ok_or(BROKEN)?;
            }
        }
        Err(NO_FILE)
    }

    async fn target(&self, link: &Inode) -> Result<String, Unusable> {
        let bytes = match link.block.get(..link.bytes as usize) {
            Some(short) if link.flags & BY_EXTENTS == 0 => short.to_vec(),
            _ => contents(self.disk, &self.file(link).await?, TARGET_MAX).await?,
        };
        String::from_utf8(bytes).map_err(|_| NO_FILE)
    }

    async fn block(&self, number: u64) -> Result<Vec<u8>, Unusable> {
        let start = number.checked_mul(self.block_size).ok_or(BROKEN)?;
        let end = start.checked_add(self.block_size).ok_or(BROKEN)?;
        Ok(read_bytes(self.disk, start..end).await?)
    }

    /// Follows the tree of extents.
    async fn file(&self, inode: &Inode) -> Result<File, Unusable> {
        if inode.flags & ENCRYPTED != 0 {
            return Err(Unusable("the file is encrypted"));
        }
        if inode.flags & BY_EXTENTS == 0 {
            return Err(Unusable(
                "the file is not in extents: copying it on ext4 makes it so",
            ));
        }
        let blocks = inode.bytes.div_ceil(self.block_size);
        let mut extents = Vec::new();
        // The block behind the last extent.
        let mut next = 0;
        let mut nodes = 1;
        let mut waiting = Vec::from([None]);
        while let Some(child) = waiting.pop() {
            let (node, depth) = match child {
                None => (inode.block.clone(), None),
                Some((block, depth)) => (self.block(block).await?, Some(depth)),
            };
            let (count, own_depth) = (number::<2>(&node, 2)?, number::<2>(&node, 6)?);
            let right = depth.map_or(own_depth <= DEPTH_MAX, |depth| depth == own_depth);
            if number::<2>(&node, 0)? != EXTENT_MAGIC || !right {
                return Err(BROKEN);
            }
            let entries = node
                .get(EXTENT_SIZE..)
                .unwrap_or_default()
                .chunks_exact(EXTENT_SIZE);
            if count > entries.len() as u64 {
                return Err(BROKEN);
            }
            let entries = entries.take(count as usize);
            if own_depth > 0 {
                nodes += count as u32;
                if nodes > NODES_MAX {
                    return Err(super::FRAGMENTED);
                }
                let below = waiting.len();
                for entry in entries {
                    let block = number::<4>(entry, 4)? | number::<2>(entry, 8)? << 32;
                    waiting.push(Some((block, own_depth - 1)));
                }
                if let Some(children) = waiting.get_mut(below..) {
                    children.reverse();
                }
                continue;
            }
            for entry in entries {
                let (first, length) = (number::<4>(entry, 0)?, number::<2>(entry, 4)?);
                let start = number::<4>(entry, 8)? | number::<2>(entry, 6)? << 32;
                let (start, length) = match length {
                    0 => return Err(BROKEN),
                    1..=WRITTEN_MAX => (Some(start), length),
                    _ => (None, length - WRITTEN_MAX),
                };
                // Ascending; a file may have blocks behind its end.
                let hole = first.min(blocks).checked_sub(next).ok_or(BROKEN)?;
                append(&mut extents, None, hole, self.block_size)?;
                next += hole;
                let length = length.min(blocks - next);
                append(&mut extents, start, length, self.block_size)?;
                next += length;
            }
        }
        append(&mut extents, None, blocks - next, self.block_size)?;
        Ok(File {
            bytes: inode.bytes,
            extents,
        })
    }
}
