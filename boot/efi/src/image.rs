//! The hypervisor's image as made by the tool `image`: what goes where, and where the 64-bit UEFI entry is.

use alloc::vec::Vec;
use object::Endianness;
use object::elf::{FileHeader32, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

/// A part of the image.
#[derive(Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Distance from the image's start, in bytes.
    pub offset: usize,
    /// What is copied there.
    pub bytes: &'a [u8],
}

/// How to load the image.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan<'a> {
    /// Memory that it takes, in bytes. What no segment covers is zero.
    pub len: usize,
    /// What to copy; each lies within `len`.
    pub segments: Vec<Segment<'a>>,
    /// Distance of the entry from the image's start.
    pub entry: usize,
}

const MULTIBOOT2_HEADER: u32 = 0xe852_50d6;
/// The multiboot 2 header lies in the first 32 KiB, on an 8-byte boundary (specification 2.0, 3.1).
const HEADER_SEARCH: usize = 32 * 1024;
const TAG_ENTRY_EFI64: u16 = 9;

/// Reads the ELF32 file `elf`.
///
/// # Errors
/// A sentence, when it is no such file or has no multiboot 2 header with an entry for UEFI.
pub fn plan(elf: &[u8]) -> Result<Plan<'_>, &'static str> {
    const ENDIAN: Endianness = Endianness::Little;
    const BAD: &str = "the embedded hypervisor is not a 32-bit ELF file";
    let header = FileHeader32::<Endianness>::parse(elf).map_err(|_| BAD)?;
    let headers = header.program_headers(ENDIAN, elf).map_err(|_| BAD)?;
    let loads = || headers.iter().filter(|program| program.p_type(ENDIAN) == PT_LOAD);
    let base = loads().map(|program| program.p_paddr(ENDIAN)).min().ok_or(BAD)?;
    let end = loads()
        .map(|program| program.p_paddr(ENDIAN).saturating_add(program.p_memsz(ENDIAN)))
        .max();
    let len = (end.ok_or(BAD)? - base) as usize;
    let mut segments = Vec::new();
    for program in loads() {
        let offset = (program.p_paddr(ENDIAN) - base) as usize;
        let bytes = program.data(ENDIAN, elf).map_err(|()| BAD)?;
        if bytes.len() > len - offset {
            return Err(BAD);
        }
        segments.push(Segment { offset, bytes });
    }
    let entry = efi_entry(elf)
        .and_then(|entry| entry.checked_sub(base))
        .map(|entry| entry as usize);
    let entry = entry
        .filter(|&entry| entry < len)
        .ok_or("the embedded hypervisor has no entry for UEFI")?;
    Ok(Plan { len, segments, entry })
}

/// The linked physical address of the EFI64 entry, from the multiboot 2 header.
fn efi_entry(elf: &[u8]) -> Option<u32> {
    let short = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?));
    let start = (0..HEADER_SEARCH).step_by(8).find(|&at| {
        let sum = (0..4).try_fold(0u32, |sum, i| Some(sum.wrapping_add(word(at + 4 * i)?)));
        word(at) == Some(MULTIBOOT2_HEADER) && sum == Some(0)
    })?;
    let end = start.checked_add(word(start + 8)? as usize)?;
    let mut at = start + 16;
    while at < end {
        let size = word(at + 4)? as usize;
        if short(at)? == TAG_ENTRY_EFI64 {
            return word(at + 8);
        }
        at = at.checked_add(size.max(8).next_multiple_of(8))?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    /// An ELF32 with one segment of 0x2000 bytes at 2 MiB, whose first 72 are a multiboot 2 header.
    fn elf() -> Vec<u8> {
        let mut elf = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0\x01\0\0\0".to_vec();
        elf.extend(words(&[0x20_0000, 52, 0, 0, 52 | 32 << 16, 1, 0]));
        elf.extend(words(&[1, 88, 0x20_0000, 0x20_0000, 48, 0x2000, 7, 0x1000]));
        elf.extend(words(&[0]));
        let checksum = 0u32.wrapping_sub(MULTIBOOT2_HEADER).wrapping_sub(48);
        elf.extend(words(&[MULTIBOOT2_HEADER, 0, 48, checksum]));
        elf.extend(words(&[1, 12, 4, 0, 9, 12, 0x20_0abc, 0]));
        elf
    }

    #[test]
    fn reads_segments_and_entry() {
        let elf = elf();
        let plan = plan(&elf).unwrap();
        assert_eq!((plan.len, plan.entry), (0x2000, 0xabc));
        assert_eq!(
            plan.segments,
            [Segment {
                offset: 0,
                bytes: &elf[88..]
            }]
        );
    }

    #[test]
    fn refuses_what_it_cannot_start() {
        let mut no_entry = elf();
        no_entry[88 + 16 + 16] = 8;
        assert_eq!(
            plan(&no_entry).unwrap_err(),
            "the embedded hypervisor has no entry for UEFI"
        );
        assert!(plan(b"MZ").is_err());
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(at in 0usize..136, value in any::<u8>()) {
            let mut elf = elf();
            elf[at] = value;
            if let Ok(plan) = plan(&elf) {
                prop_assert!(plan.segments.iter().all(|s| s.offset + s.bytes.len() <= plan.len));
            }
        }
    }
}
