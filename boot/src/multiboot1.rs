//! Multiboot 1 information (specification 0.6.96, section 3.3).

use crate::found::{BootError, Found, Physical, arguments, c_string};
use crate::handover::BootPath;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// What such a loader leaves in EAX.
pub const MAGIC: u32 = 0x2bad_b002;

const HAS_COMMAND_LINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MEMORY_MAP: u32 = 1 << 6;
const HAS_LOADER_NAME: u32 = 1 << 9;

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Information {
    flags: u32,
    mem: [u32; 2],
    boot_device: u32,
    command_line: u32,
    module_count: u32,
    modules: u32,
    symbols: [u32; 4],
    memory_map_len: u32,
    memory_map: u32,
    drives: [u32; 2],
    config_table: u32,
    loader_name: u32,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ModuleEntry {
    start: u32,
    end: u32,
    string: u32,
    reserved: u32,
}

/// The entry's size field comes before it and does not count itself.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
struct MemoryEntry {
    size: u32,
    start: u64,
    len: u64,
    e820_type: u32,
}

/// Reads the information structure at physical address `at`.
///
/// # Errors
/// When it, or something it points at, is unreadable or contradicts itself.
pub fn parse(memory: &impl Physical, at: u64) -> Result<Found<'_>, BootError> {
    let info: Information = read(memory, at, "multiboot information")?;
    let string = |at: u32| c_string(memory, at.into()).unwrap_or(b"");
    let mut found = Found::new(BootPath::Multiboot1);
    if info.flags & HAS_LOADER_NAME != 0 {
        found.loader = string(info.loader_name);
    }
    if info.flags & HAS_COMMAND_LINE != 0 {
        found.command_line = arguments(string(info.command_line), found.loader);
    }
    if info.flags & HAS_MODULES != 0 {
        for i in 0..u64::from(info.module_count) {
            let entry: ModuleEntry = read(memory, u64::from(info.modules) + 16 * i, "module list")?;
            let line = arguments(string(entry.string), found.loader);
            found.add_module(entry.start.into(), entry.end.into(), line)?;
        }
    }
    if info.flags & HAS_MEMORY_MAP == 0 {
        return Err(BootError::NoMemoryMap);
    }
    let mut at = u64::from(info.memory_map);
    let end = at + u64::from(info.memory_map_len);
    while at < end {
        let entry: MemoryEntry = read(memory, at, "memory map")?;
        if entry.size < 20 {
            return Err(BootError::Malformed("memory map"));
        }
        found.regions.add_e820(entry.start, entry.len, entry.e820_type)?;
        at += u64::from(entry.size) + 4;
    }
    Ok(found)
}

/// A copy of the structure at physical address `at`.
pub(crate) fn read<T: FromBytes>(
    memory: &impl Physical,
    at: u64,
    what: &'static str,
) -> Result<T, BootError> {
    let bytes = memory
        .bytes(at, size_of::<T>())
        .ok_or(BootError::Unreadable(what, at))?;
    T::read_from_bytes(bytes).map_err(|_| BootError::Unreadable(what, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::tests::Pieces;
    use proptest::prelude::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    fn machine() -> Pieces {
        let flags = HAS_COMMAND_LINE | HAS_MODULES | HAS_MEMORY_MAP | HAS_LOADER_NAME;
        Pieces(vec![
            (
                0x1000,
                words(&[
                    flags, 0, 0, 0, 0x2000, 1, 0x3000, 0, 0, 0, 0, 48, 0x4000, 0, 0, 0, 0x2100,
                ]),
            ),
            (0x2000, b"/oxen console=com1\0".to_vec()),
            (0x2100, b"qemu\0".to_vec()),
            (0x3000, words(&[0x80_0000, 0x80_1000, 0x3100, 0])),
            (0x3100, b"vmlinuz console=hvc0\0".to_vec()),
            (
                0x4000,
                words(&[20, 0, 0, 0x9_f000, 0, 1, 20, 0x10_0000, 0, 0x700_0000, 0, 1]),
            ),
        ])
    }

    #[test]
    fn reads_what_qemu_leaves() {
        let memory = machine();
        let found = parse(&memory, 0x1000).unwrap();
        assert_eq!(found.loader, b"qemu");
        assert_eq!(found.command_line, b"console=com1");
        assert_eq!(found.modules.len(), 1);
        assert_eq!(
            (found.modules[0].start, found.modules[0].len),
            (0x80_0000, 0x1000)
        );
        assert_eq!(found.modules[0].command_line, b"console=hvc0");
    }

    #[test]
    fn broken_information_is_refused() {
        let mut memory = machine();
        assert_eq!(
            parse(&memory, 0x999).unwrap_err(),
            BootError::Unreadable("multiboot information", 0x999)
        );
        memory.0[5].1[0] = 0;
        assert_eq!(
            parse(&memory, 0x1000).unwrap_err(),
            BootError::Malformed("memory map")
        );
        let mut memory = machine();
        memory.0[3].1[6] = 0x10;
        assert!(matches!(parse(&memory, 0x1000), Err(BootError::BadModule { .. })));
        let mut memory = machine();
        memory.0[0].1[20] = 200;
        assert!(parse(&memory, 0x1000).is_err());
    }

    proptest! {
        #[test]
        fn no_information_makes_it_panic(noise in proptest::collection::vec((0usize..6, 0usize..68, any::<u8>()), 0..12)) {
            let mut memory = machine();
            for (piece, at, value) in noise {
                if let Some(byte) = memory.0[piece].1.get_mut(at) {
                    *byte = value;
                }
            }
            let _ = parse(&memory, 0x1000).map(|found| found.modules.len());
        }
    }
}
