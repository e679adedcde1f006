//! From the linker's ELF64 at virtual addresses to an ELF32 at physical ones.

use object::elf::{FileHeader64, PF_R, PT_LOAD, PT_NOTE, ProgramFlags, ProgramType};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol};

use crate::symbols;

const PAGE: usize = 4096;
const HEADER_LEN: usize = 52;
const PROGRAM_HEADER_LEN: usize = 32;
/// Multiboot 1 loaders look for the header in the first 8 KiB of the file (specification 0.6.96, 3.1).
const MULTIBOOT_SEARCH: usize = 8192;
const MULTIBOOT_MAGIC: [u8; 4] = 0x1bad_b002u32.to_le_bytes();

type Error = Box<dyn std::error::Error>;

/// One program header of the result with what it loads.
struct Segment {
    kind: ProgramType,
    flags: ProgramFlags,
    physical: u32,
    memory_len: u32,
    bytes: Vec<u8>,
}

/// Converts the linked hypervisor and appends its symbol table.
///
/// # Errors
/// When `linked` is no ELF64 file, or not linked by `boot/link.ld`.
pub fn convert(linked: &[u8]) -> Result<Vec<u8>, Error> {
    let file = object::File::parse(linked)?;
    let address = |name: &str| {
        let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name));
        symbol
            .map(|symbol| symbol.address())
            .ok_or_else(|| format!("has no symbol {name}"))
    };
    let base = address("image_start")?;
    let physical_base = address("PHYSICAL_BASE")?;
    let to_physical = |virtual_address: u64| u32::try_from(virtual_address - base + physical_base);

    let header = FileHeader64::<Endianness>::parse(linked)?;
    let mut segments = Vec::new();
    for program in header.program_headers(Endianness::Little, linked)? {
        let kind = program.p_type(Endianness::Little);
        if kind != PT_LOAD && kind != PT_NOTE {
            continue;
        }
        segments.push(Segment {
            kind,
            flags: program.p_flags(Endianness::Little),
            physical: u32::try_from(program.p_paddr(Endianness::Little))?,
            memory_len: u32::try_from(program.p_memsz(Endianness::Little))?,
            bytes: program
                .data(Endianness::Little, linked)
                .map_err(|()| "has a truncated segment")?
                .to_vec(),
        });
    }
    append_symbols(
        &mut segments,
        &symbols::table(&file, base),
        address("symbol_table")? - base,
        physical_base,
    )?;
    let out = write(&segments, to_physical(address("start")?)?)?;
    let search = out.get(..MULTIBOOT_SEARCH).unwrap_or(&out);
    if !search.chunks_exact(4).any(|word| word == MULTIBOOT_MAGIC) {
        return Err("has no multiboot header where loaders look for it".into());
    }
    Ok(out)
}

/// Adds `table` behind the last segment, and its place to the two words at offset `pointer` in the image.
fn append_symbols(
    segments: &mut Vec<Segment>,
    table: &[u8],
    pointer: u64,
    physical_base: u64,
) -> Result<(), Error> {
    let loads = || segments.iter().filter(|segment| segment.kind == PT_LOAD);
    let end = loads()
        .map(|segment| segment.physical + segment.memory_len)
        .max()
        .ok_or("loads nothing")?;
    let physical = end.next_multiple_of(PAGE as u32);
    let len = u32::try_from(table.len())?;
    let offset = physical - u32::try_from(physical_base)?;
    let pointer = usize::try_from(pointer)?;
    let words = segments
        .first_mut()
        .and_then(|segment| segment.bytes.get_mut(pointer..pointer + 8))
        .ok_or("symbol_table is not in the first segment")?;
    words[..4].copy_from_slice(&offset.to_le_bytes());
    words[4..].copy_from_slice(&len.to_le_bytes());
    segments.push(Segment {
        kind: PT_LOAD,
        flags: PF_R,
        physical,
        memory_len: len,
        bytes: table.to_vec(),
    });
    Ok(())
}

/// The file: header, program headers, then each segment on a page boundary (congruent to its address).
fn write(segments: &[Segment], entry: u32) -> Result<Vec<u8>, Error> {
    let mut headers = Vec::new();
    let mut body = vec![0; PAGE - HEADER_LEN - PROGRAM_HEADER_LEN * segments.len()];
    let start = HEADER_LEN + PROGRAM_HEADER_LEN * segments.len();
    let mut word = |value: u32| headers.extend(value.to_le_bytes());
    for segment in segments {
        let at = match segment.kind {
            PT_LOAD => {
                let padding = (segment.physical as usize).wrapping_sub(start + body.len()) % PAGE;
                body.resize(body.len() + padding, 0);
                start + body.len()
            }
            _ => start + body.len(),
        };
        body.extend(&segment.bytes);
        // p_type, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_flags, p_align
        word(segment.kind.0);
        word(u32::try_from(at)?);
        word(segment.physical);
        word(segment.physical);
        word(u32::try_from(segment.bytes.len())?);
        word(segment.memory_len);
        word(segment.flags.0);
        word(if segment.kind == PT_LOAD { PAGE as u32 } else { 4 });
    }
    let mut out = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // e_type EXEC, e_machine 386, e_version
    out.extend([2, 0, 3, 0, 1, 0, 0, 0]);
    for value in [entry, HEADER_LEN as u32, 0, 0] {
        out.extend(value.to_le_bytes());
    }
    // e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx
    for value in [HEADER_LEN, PROGRAM_HEADER_LEN, segments.len(), 0, 0, 0] {
        out.extend(u16::try_from(value)?.to_le_bytes());
    }
    out.extend(headers);
    out.extend(body);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::ObjectSegment;

    #[test]
    fn the_file_reads_back() {
        let mut segments = vec![
            Segment {
                kind: PT_LOAD,
                flags: PF_R,
                physical: 0x20_0000,
                memory_len: 16,
                bytes: vec![1; 16],
            },
            Segment {
                kind: PT_LOAD,
                flags: PF_R,
                physical: 0x20_1008,
                memory_len: 0x5000,
                bytes: vec![2; 5],
            },
        ];
        append_symbols(&mut segments, b"table", 8, 0x20_0000).unwrap();
        let out = write(&segments, 0x20_0004).unwrap();
        let file = object::File::parse(&*out).unwrap();
        assert_eq!(file.entry(), 0x20_0004);
        let read: Vec<_> = file
            .segments()
            .map(|s| (s.address(), s.size(), s.data().unwrap().to_vec()))
            .collect();
        assert_eq!(read[1], (0x20_1008, 0x5000, vec![2; 5]));
        assert_eq!(read[2], (0x20_7000, 5, b"table".to_vec()));
        assert_eq!(read[0].2[8..], [0, 0x70, 0, 0, 5, 0, 0, 0]);
        for segment in file.segments() {
            assert_eq!(segment.file_range().0 % 4096, segment.address() % 4096);
        }
    }

    #[test]
    fn other_files_are_refused() {
        assert!(convert(b"hello").is_err());
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(convert(&own).unwrap_err().to_string().contains("image_start"));
    }
}
