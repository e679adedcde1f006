//! Files of FAT12, FAT16 and FAT32 with long names (Microsoft's "FAT: General Overview of On-Disk Format").

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Range;

use super::{BROKEN, DIRECTORY_MAX, File, NO_DIRECTORY, NO_FILE, append, contents, number};
use crate::block::{BlockDevice, Failed, SECTOR, Unusable, read_bytes};

/// Bytes of a directory's entry.
const ENTRY: usize = 32;
/// Attributes of entries.
const VOLUME: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
const LONG_NAME: u8 = 0x0f;
/// First bytes of names: no entry follows; none here.
const END: u8 = 0;
const DELETED: u8 = 0xe5;
/// A long name's last part, which comes first.
const LAST_PART: u8 = 0x40;
/// Where a part of a long name has its letters.
const LETTERS: [Range<usize>; 3] = [1..11, 14..26, 28..32];
/// Longest name.
const NAME_MAX: usize = 255;
/// Bytes of the table that are kept.
const WINDOW: u64 = 64 << 10;

/// A file system.
pub struct Fat<'a, D> {
    disk: &'a D,
    /// Bits of an entry in the table.
    width: u64,
    /// The table's bytes.
    table: Range<u64>,
    window: RefCell<(u64, Vec<u8>)>,
    sector: u64,
    cluster: u64,
    /// Sector that cluster 2 begins at, and the number behind the last cluster's.
    data: u64,
    clusters_end: u64,
    root: Root,
}

#[derive(Clone, Copy)]
enum Root {
    /// Sectors of it, before the clusters.
    Sectors(u64, u64),
    Cluster(u64),
}

/// The file system of a disk; `None` if it has none.
pub async fn open<D: BlockDevice>(disk: &D) -> Result<Option<Fat<'_, D>>, Unusable> {
    if disk.sectors() == 0 {
        return Ok(None);
    }
    let boot = read_bytes(disk, 0..SECTOR as u64).await?;
    let short = |at| number::<2>(&boot, at);
    let (sector, per_cluster) = (short(11)?, number::<1>(&boot, 13)?);
    let (reserved, tables) = (short(14)?, number::<1>(&boot, 16)?);
    let sizes = [512, 1024, 2048, 4096].contains(&sector) && per_cluster.is_power_of_two();
    if short(510)? != 0xaa55 || !sizes || reserved == 0 || tables == 0 {
        return Ok(None);
    }
    let either = |short: u64, long| {
        if short != 0 {
            Ok(short)
        } else {
            number::<4>(&boot, long)
        }
    };
    let table_sectors = either(short(22)?, 36)?;
    let sectors = either(short(19)?, 32)?;
    let root_sectors = (short(17)? * ENTRY as u64).div_ceil(sector);
    // All have at most 32 bits.
    let root_start = reserved + tables * table_sectors;
    let data = root_start + root_sectors;
    let clusters = sectors.checked_sub(data).ok_or(BROKEN)? / per_cluster;
    let width = match clusters {
        0..4085 => 12,
        4085..65_525 => 16,
        _ => 32,
    };
    let table = reserved * sector..(reserved + table_sectors) * sector;
    if (clusters + 2) * width > (table.end - table.start) * 8 {
        return Err(BROKEN);
    }
    Ok(Some(Fat {
        disk,
        width,
        table,
        window: RefCell::default(),
        sector,
        cluster: sector * per_cluster,
        data,
        clusters_end: clusters + 2,
        root: match width {
            32 => Root::Cluster(number::<4>(&boot, 44)?),
            _ => Root::Sectors(root_start, root_sectors),
        },
    }))
}

/// What a directory says of a file.
struct Entry {
    is_directory: bool,
    cluster: u64,
    bytes: u64,
}

impl<D: BlockDevice> Fat<'_, D> {
    /// Looks for a file; capital letters count as small ones, those of ASCII.
    pub async fn find(&self, path: &str) -> Result<File, Unusable> {
        let mut directory = match self.root {
            Root::Cluster(cluster) => self.chain(cluster, DIRECTORY_MAX).await?,
            Root::Sectors(start, count) => {
                let mut extents = Vec::new();
                append(&mut extents, Some(start), count, self.sector)?;
                File {
                    bytes: count * self.sector,
                    extents,
                }
            }
        };
        let mut names = path.split('/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            let entries = contents(self.disk, &directory, DIRECTORY_MAX).await?;
            let entry = look_up(&entries, name)?.ok_or(NO_FILE)?;
            match (names.peek().is_some(), entry.is_directory) {
                (true, true) => directory = self.chain(entry.cluster, DIRECTORY_MAX).await?,
                (true, false) => return Err(NO_DIRECTORY),
                (false, true) => break,
                (false, false) if entry.bytes == 0 => {
                    return Ok(File {
                        bytes: 0,
                        extents: Vec::new(),
                    });
                }
                (false, false) => {
                    let file = self.chain(entry.cluster, entry.bytes).await?;
                    let bytes = entry.bytes;
                    return if file.bytes < bytes {
                        Err(BROKEN)
                    } else {
                        Ok(File { bytes, ..file })
                    };
                }
            }
        }
        Err(Unusable("it is no regular file"))
    }

    /// Clusters from one on, to the end of the chain or so many bytes, which ends a loop as well.
    async fn chain(&self, first: u64, most: u64) -> Result<File, Unusable> {
        let mut extents = Vec::new();
        let mut bytes = 0;
        let mut cluster = first;
        while bytes < most {
            if !(2..self.clusters_end).contains(&cluster) {
                // The end's mark; or the chain leads nowhere.
                break;
            }
            let start = self.data * self.sector + (cluster - 2) * self.cluster;
            append(
                &mut extents,
                Some(start / SECTOR as u64),
                self.cluster / SECTOR as u64,
                SECTOR as u64,
            )?;
            bytes += self.cluster;
            cluster = self.next(cluster).await?;
        }
        Ok(File { bytes, extents })
    }

    /// What the table has for a cluster.
    async fn next(&self, cluster: u64) -> Result<u64, Failed> {
        let bits = cluster * self.width;
        let at = self.table.start + bits / 8;
        let (start, known) = {
            let window = self.window.borrow();
            (window.0, window.0..window.0 + window.1.len() as u64)
        };
        let start = if known.contains(&at) && known.contains(&(at + 3)) {
            start
        } else {
            // An entry of 12 bits may go over an edge, and the table may end within four bytes of one.
            let end = (at + WINDOW).min(self.table.end + self.sector);
            let end = end.min(self.disk.sectors() * SECTOR as u64);
            *self.window.borrow_mut() = (at, read_bytes(self.disk, at..end).await?);
            at
        };
        let window = self.window.borrow();
        let entry = number::<4>(&window.1, (at - start) as usize).map_err(|_| Failed)?;
        Ok(match self.width {
            12 => entry >> (bits % 8) & 0xfff,
            16 => entry & 0xffff,
            _ => entry & 0x0fff_ffff,
        })
    }
}

fn look_up(entries: &[u8], name: &str) -> Result<Option<Entry>, Unusable> {
    let mut long = LongName::default();
    for entry in entries.chunks_exact(ENTRY) {
        let (first, attributes) = (number::<1>(entry, 0)? as u8, number::<1>(entry, 11)? as u8);
        match (first, attributes) {
            (END, _) => break,
            (DELETED, _) => long = LongName::default(),
            (_, LONG_NAME) => long.add(entry),
            _ if attributes & VOLUME != 0 => long = LongName::default(),
            _ => {
                let long = core::mem::take(&mut long).of(entry);
                let is_it = |own: &str| own.eq_ignore_ascii_case(name);
                if long.as_deref().is_some_and(is_it) || is_it(&short_name(entry)) {
                    return Ok(Some(Entry {
                        is_directory: attributes & DIRECTORY != 0,
                        cluster: number::<2>(entry, 20)? << 16 | number::<2>(entry, 26)?,
                        bytes: number::<4>(entry, 28)?,
                    }));
                }
            }
        }
    }
    Ok(None)
}

/// `NAME.EXT`, whatever the case that Windows NT has noted.
fn short_name(entry: &[u8]) -> String {
    let text = |range: Range<usize>| {
        String::from_utf8_lossy(entry.get(range).unwrap_or_default())
            .trim_end()
            .to_string()
    };
    let (mut name, extension) = (text(0..8), text(8..11));
    if !extension.is_empty() {
        name.push('.');
        name.push_str(&extension);
    }
    name
}

/// A long name, while its parts are read: they come last to first, before the entry that they are of.
#[derive(Default)]
struct LongName {
    letters: Vec<u16>,
    checksum: u8,
}

impl LongName {
    fn add(&mut self, part: &[u8]) {
        if part.first().is_some_and(|first| first & LAST_PART != 0) {
            self.letters.clear();
        }
        let units = LETTERS.iter().filter_map(|range| part.get(range.clone()));
        let mut letters: Vec<u16> = units
            .flat_map(|bytes| {
                bytes
                    .chunks_exact(2)
                    .map(|pair| u16::from(pair[0]) | u16::from(pair[1]) << 8)
            })
            .collect();
        letters.append(&mut self.letters);
        letters.truncate(NAME_MAX + 1);
        self.letters = letters;
        self.checksum = part.get(13).copied().unwrap_or_default();
    }

    /// The name, if it is of this entry.
    fn of(self, entry: &[u8]) -> Option<String> {
        let short = entry.get(..11)?;
        let sum = short
            .iter()
            .fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        let end = self
            .letters
            .iter()
            .position(|letter| *letter == 0)
            .unwrap_or(self.letters.len());
        let letters = self
            .letters
            .get(..end)
            .filter(|letters| !letters.is_empty() && sum == self.checksum)?;
        Some(String::from_utf16_lossy(letters))
    }
}
