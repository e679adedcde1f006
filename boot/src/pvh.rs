//! The PVH entry (Xen public arch-x86/hvm/start_info.h): Oxen as a guest of a hypervisor or virtual machine monitor.

use crate::found::{BootError, Found, Physical, c_string};
use crate::handover::BootPath;
use crate::multiboot1::read;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// First word of the start information.
pub const MAGIC: u32 = 0x336e_c578;

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ModuleEntry {
    start: u64,
    len: u64,
    command_line: u64,
    reserved: u64,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MemoryEntry {
    start: u64,
    len: u64,
    e820_type: u32,
    reserved: u32,
}

/// Whether the word at physical address `at` is PVH's magic number.
pub fn is_start_info(memory: &impl Physical, at: u64) -> bool {
    memory.bytes(at, 4) == Some(&MAGIC.to_le_bytes())
}

/// Reads the start information at physical address `at`.
///
/// # Errors
/// When it, or something it points at, is unreadable, contradicts itself, or has no memory map (version 0).
pub fn parse(memory: &impl Physical, at: u64) -> Result<Found<'_>, BootError> {
    let info: StartInfo = read(memory, at, "PVH start information")?;
    let string = |at: u64| {
        if at == 0 {
            &b""[..]
        } else {
            c_string(memory, at).unwrap_or(b"")
        }
    };
    let mut found = Found::new(BootPath::Pvh);
    found.command_line = string(info.command_line).trim_ascii();
    found.rsdps.extend(Some(info.rsdp).filter(|&rsdp| rsdp != 0));
    for i in 0..u64::from(info.module_count) {
        let at = info
            .modules
            .checked_add(32 * i)
            .ok_or(BootError::Malformed("module list"))?;
        let entry: ModuleEntry = read(memory, at, "module list")?;
        let end = entry
            .start
            .checked_add(entry.len)
            .ok_or(BootError::Malformed("module list"))?;
        found.add_module(entry.start, end, string(entry.command_line).trim_ascii())?;
    }
    if info.version == 0 || info.memory_map_entries == 0 {
        return Err(BootError::NoMemoryMap);
    }
    for i in 0..u64::from(info.memory_map_entries) {
        let at = info
            .memory_map
            .checked_add(24 * i)
            .ok_or(BootError::Malformed("memory map"))?;
        let entry: MemoryEntry = read(memory, at, "memory map")?;
        found.regions.add_e820(entry.start, entry.len, entry.e820_type)?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::tests::Pieces;

    fn quads(quads: &[u64]) -> Vec<u8> {
        quads.iter().flat_map(|q| q.to_le_bytes()).collect()
    }

    fn machine(version: u64) -> Pieces {
        let head = u64::from(MAGIC) | (version << 32);
        Pieces(vec![
            (
                0x1000,
                quads(&[head, 1 << 32, 0x2000, 0x3000, 0xe_0000, 0x4000, 2]),
            ),
            (0x2000, quads(&[0x80_0000, 0x1234, 0x3100, 0])),
            (0x3000, b"loglvl=all\0".to_vec()),
            (0x3100, b"console=hvc0\0".to_vec()),
            (0x4000, quads(&[0, 0xa_0000, 1, 0x10_0000, 0x800_0000, 1])),
        ])
    }

    #[test]
    fn reads_start_information() {
        let memory = machine(1);
        assert!(is_start_info(&memory, 0x1000));
        let found = parse(&memory, 0x1000).unwrap();
        assert_eq!(
            (found.command_line, found.rsdps.as_slice()),
            (&b"loglvl=all"[..], &[0xe_0000][..])
        );
        assert_eq!(found.modules[0].len, 0x1234);
        assert_eq!(found.modules[0].command_line, b"console=hvc0");
        assert!(!found.regions.is_empty());
    }

    #[test]
    fn a_memory_map_is_required() {
        assert_eq!(parse(&machine(0), 0x1000).unwrap_err(), BootError::NoMemoryMap);
    }
}
