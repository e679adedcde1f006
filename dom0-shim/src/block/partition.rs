//! Where a disk has a partition: GUID partition tables (UEFI 2.10, 5.3) and those of the master boot record (5.2.1), with
//! logical partitions.
//!
//! What a table says is checked against the disk. Partitions have Linux's numbers.

use alloc::vec::Vec;
use core::ops::Range;

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, little_endian};

use super::{BlockDevice, SECTOR, Unusable, read_bytes};

/// An entry of a master boot record.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct MbrEntry {
    boot_indicator: u8,
    start_chs: [u8; 3],
    kind: u8,
    end_chs: [u8; 3],
    start: little_endian::U32,
    size: little_endian::U32,
}

/// Where a master boot record has its entries.
const MBR_ENTRIES: usize = 446;
const MBR_SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// Kinds of entries: none, the whole disk behind a GUID partition table, a chain of logical partitions.
const EMPTY: u8 = 0;
const PROTECTIVE: u8 = 0xee;
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// Number of the first logical partition.
const FIRST_LOGICAL: u32 = 5;
/// Most logical partitions that are looked at: a chain may have a loop.
const LOGICAL_MAX: u32 = 60;

/// The header of a GUID partition table.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct GptHeader {
    signature: [u8; 8],
    revision: little_endian::U32,
    header_size: little_endian::U32,
    header_crc32: little_endian::U32,
    reserved: little_endian::U32,
    my_lba: little_endian::U64,
    alternate_lba: little_endian::U64,
    first_usable_lba: little_endian::U64,
    last_usable_lba: little_endian::U64,
    disk_guid: [u8; 16],
    partition_entry_lba: little_endian::U64,
    number_of_partition_entries: little_endian::U32,
    size_of_partition_entry: little_endian::U32,
    partition_entry_array_crc32: little_endian::U32,
}

const GPT_SIGNATURE: [u8; 8] = *b"EFI PART";
/// Where the header has its own checksum, which counts as zeros.
const GPT_CRC: Range<usize> = 16..20;
/// Largest array of entries that is read; usual are 16 KiB.
const GPT_ARRAY_MAX: u64 = 1 << 20;

/// The beginning of an entry of a GUID partition table.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct GptEntry {
    kind: [u8; 16],
    guid: [u8; 16],
    starting_lba: little_endian::U64,
    ending_lba: little_endian::U64,
    attributes: little_endian::U64,
    name: [u8; 72],
}

/// The sectors of partition `number`, from 1.
///
/// # Errors
/// There is no such partition, or no table that makes sense.
pub async fn find(disk: &impl BlockDevice, number: u32) -> Result<Range<u64>, Unusable> {
    let entries = boot_record(disk, 0).await?;
    let blocks = match entries.iter().any(|entry| entry.kind == PROTECTIVE) {
        true => by_guid(disk, number).await?,
        false => by_boot_record(disk, &entries, number).await?,
    };
    let factor = block_size(disk) / SECTOR as u64;
    let sectors = |block: u64| block.checked_mul(factor);
    match (sectors(blocks.start), sectors(blocks.end)) {
        (Some(start), Some(end)) if start < end && end <= disk.sectors() => Ok(start..end),
        _ => Err(Unusable("the partition is not within the disk")),
    }
}

/// Tables count in these.
fn block_size(disk: &impl BlockDevice) -> u64 {
    disk.block_sizes().logical.into()
}

const NO_PARTITION: Unusable = Unusable("there is no such partition");

/// The entries of the boot record in a block.
async fn boot_record(disk: &impl BlockDevice, block: u64) -> Result<[MbrEntry; 4], Unusable> {
    let start = block
        .checked_mul(block_size(disk))
        .filter(|at| *at < u64::MAX - SECTOR as u64);
    let start = start.ok_or(NO_PARTITION)?;
    let record = read_bytes(disk, start..start + SECTOR as u64).await?;
    let (entries, signature) =
        <[MbrEntry; 4]>::read_from_prefix(record.get(MBR_ENTRIES..).unwrap_or_default())
            .map_err(|_| NO_PARTITION)?;
    match signature == MBR_SIGNATURE {
        true => Ok(entries),
        false => Err(Unusable("it has no partition table")),
    }
}

async fn by_boot_record(
    disk: &impl BlockDevice,
    entries: &[MbrEntry; 4],
    number: u32,
) -> Result<Range<u64>, Unusable> {
    let blocks = |base: u64, entry: &MbrEntry| {
        let start = base + u64::from(entry.start.get());
        start..start + u64::from(entry.size.get())
    };
    if number < FIRST_LOGICAL {
        let entry = entries.get(number.wrapping_sub(1) as usize);
        let used = entry.filter(|entry| entry.kind != EMPTY && !EXTENDED.contains(&entry.kind));
        return Ok(blocks(0, used.ok_or(NO_PARTITION)?));
    }
    // Each record of the chain has a logical partition, relative to itself, and where the next is, relative to the first.
    let extended = entries.iter().find(|entry| EXTENDED.contains(&entry.kind));
    let first = u64::from(extended.ok_or(NO_PARTITION)?.start.get());
    let mut record = first;
    for logical in FIRST_LOGICAL..FIRST_LOGICAL + LOGICAL_MAX {
        let [partition, next, ..] = boot_record(disk, record).await?;
        if logical == number && partition.kind != EMPTY {
            return Ok(blocks(record, &partition));
        }
        if !EXTENDED.contains(&next.kind) {
            break;
        }
        record = first + u64::from(next.start.get());
    }
    Err(NO_PARTITION)
}

async fn by_guid(disk: &impl BlockDevice, number: u32) -> Result<Range<u64>, Unusable> {
    let block = block_size(disk);
    // The first block has the table, the last one a copy of it.
    let last = (disk.sectors() / (block / SECTOR as u64)).saturating_sub(1);
    let mut table = read_gpt(disk, 1).await;
    if table.is_err() {
        table = read_gpt(disk, last).await;
    }
    let (header, array) = table?;
    let size = header.size_of_partition_entry.get() as usize;
    let entry = array.chunks_exact(size).nth((number as usize).wrapping_sub(1));
    let (entry, _) = GptEntry::read_from_prefix(entry.ok_or(NO_PARTITION)?).map_err(|_| NO_PARTITION)?;
    if entry.kind == [0; 16] {
        return Err(NO_PARTITION);
    }
    let end = entry.ending_lba.get().checked_add(1).ok_or(NO_PARTITION)?;
    Ok(entry.starting_lba.get()..end)
}

/// A header with its array of entries: not empty, checksums are right.
async fn read_gpt(disk: &impl BlockDevice, lba: u64) -> Result<(GptHeader, Vec<u8>), Unusable> {
    const BROKEN: Unusable = Unusable("its GUID partition table is broken");
    let block = block_size(disk);
    let at = |lba: u64| lba.checked_mul(block).ok_or(BROKEN);
    let start = at(lba)?;
    let mut bytes = read_bytes(disk, start..start.checked_add(block).ok_or(BROKEN)?).await?;
    let (header, _) = GptHeader::read_from_prefix(&bytes).map_err(|_| BROKEN)?;
    let covered = bytes.get_mut(..header.header_size.get() as usize).ok_or(BROKEN)?;
    if header.signature != GPT_SIGNATURE
        || covered.len() < size_of::<GptHeader>()
        || header.my_lba.get() != lba
    {
        return Err(BROKEN);
    }
    if let Some(own) = covered.get_mut(GPT_CRC) {
        own.fill(0);
    }
    let (count, size) = (
        u64::from(header.number_of_partition_entries.get()),
        u64::from(header.size_of_partition_entry.get()),
    );
    // Both are of 32 bits.
    let length = count * size;
    if crc32fast::hash(covered) != header.header_crc32.get()
        || size < size_of::<GptEntry>() as u64
        || !(1..=GPT_ARRAY_MAX).contains(&length)
    {
        return Err(BROKEN);
    }
    let start = at(header.partition_entry_lba.get())?;
    let array = read_bytes(disk, start..start.checked_add(length).ok_or(BROKEN)?).await?;
    match crc32fast::hash(&array) == header.partition_entry_array_crc32.get() {
        true => Ok((header, array)),
        false => Err(BROKEN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::ram::RamDisk;
    use crate::block::ram::tests::now;

    const SECTORS: usize = 4096;

    fn look(image: &[u8], number: u32) -> Result<Range<u64>, Unusable> {
        now(find(&RamDisk::read_only(image.to_vec().leak()), number))
    }

    fn entry(record: &mut [u8], index: usize, kind: u8, start: u32, size: u32) {
        let at = MBR_ENTRIES + index * 16;
        record[at + 4] = kind;
        record[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        record[at + 12..at + 16].copy_from_slice(&size.to_le_bytes());
        record[510..512].copy_from_slice(&MBR_SIGNATURE);
    }

    #[test]
    fn of_a_boot_record() {
        let mut image = vec![0; SECTORS * 512];
        assert_eq!(look(&image, 1), Err(Unusable("it has no partition table")));
        entry(&mut image, 0, 0x83, 8, 100);
        entry(&mut image, 1, 0x05, 200, 1000);
        entry(&mut image, 3, 0x83, 4000, 97);
        entry(&mut image[200 * 512..], 0, 0x83, 2, 50);
        entry(&mut image[200 * 512..], 1, 0x05, 100, 200);
        entry(&mut image[300 * 512..], 0, 0x83, 3, 60);
        assert_eq!(look(&image, 1), Ok(8..108));
        assert_eq!(look(&image, 5), Ok(202..252));
        assert_eq!(look(&image, 6), Ok(303..363));
        assert_eq!(
            look(&image, 4),
            Err(Unusable("the partition is not within the disk"))
        );
        for number in [0, 2, 3, 7, 77, u32::MAX] {
            assert_eq!(look(&image, number), Err(NO_PARTITION), "{number}");
        }
        // A chain that goes on for ever.
        entry(&mut image[300 * 512..], 1, 0x05, 0, 200);
        assert_eq!(look(&image, u32::MAX), Err(NO_PARTITION));
        assert_eq!(look(&image, 8), Ok(303..363), "once more");
    }

    /// A table as sgdisk writes it: partition 1, and 3.
    fn gpt() -> Vec<u8> {
        let mut image = vec![0; SECTORS * 512];
        entry(&mut image, 0, PROTECTIVE, 1, SECTORS as u32 - 1);
        let mut array = vec![0; 128 * 128];
        for (index, start, end) in [(0, 34_u64, 99_u64), (2, 100, 199)] {
            let entry = &mut array[index * 128..][..128];
            entry[..16].fill(0xab);
            entry[32..40].copy_from_slice(&start.to_le_bytes());
            entry[40..48].copy_from_slice(&end.to_le_bytes());
        }
        for (lba, entries) in [(1, 2), (SECTORS as u64 - 1, SECTORS as u64 - 33)] {
            let mut header = vec![0; 92];
            header[..8].copy_from_slice(&GPT_SIGNATURE);
            header[12..16].copy_from_slice(&92_u32.to_le_bytes());
            header[24..32].copy_from_slice(&u64::to_le_bytes(lba));
            header[72..80].copy_from_slice(&u64::to_le_bytes(entries));
            header[80..84].copy_from_slice(&128_u32.to_le_bytes());
            header[84..88].copy_from_slice(&128_u32.to_le_bytes());
            header[88..92].copy_from_slice(&crc32fast::hash(&array).to_le_bytes());
            let sum = crc32fast::hash(&header);
            header[GPT_CRC].copy_from_slice(&sum.to_le_bytes());
            image[lba as usize * 512..][..92].copy_from_slice(&header);
            image[entries as usize * 512..][..array.len()].copy_from_slice(&array);
        }
        image
    }

    #[test]
    fn of_a_guid_partition_table() {
        let mut image = gpt();
        assert_eq!(look(&image, 1), Ok(34..100));
        assert_eq!(look(&image, 3), Ok(100..200));
        for number in [0, 2, 129, u32::MAX] {
            assert_eq!(look(&image, number), Err(NO_PARTITION), "{number}");
        }
        image[512 + 40] ^= 1;
        assert_eq!(look(&image, 3), Ok(100..200), "by the copy");
        let last = SECTORS - 1;
        image[last * 512 + 40] ^= 1;
        assert_eq!(
            look(&image, 3),
            Err(Unusable("its GUID partition table is broken"))
        );
        let mut image = gpt();
        for entries in [2, SECTORS - 33] {
            image[entries * 512] ^= 1;
        }
        assert!(look(&image, 3).is_err(), "the array has a checksum of its own");
    }
}
