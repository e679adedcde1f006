//! Multiboot 2 information (specification 2.0, section 3.6), read by the `multiboot2` crate.
// UNSAFETY: the crate takes the structure by pointer.
#![expect(unsafe_code, reason = "the multiboot2 crate takes the structure by pointer")]

use crate::found::{BootError, Efi, Found, Physical, arguments};
use crate::handover::BootPath;
use multiboot2::{BootInformation, BootInformationHeader, TagHeader};

/// What such a loader leaves in EAX.
pub const MAGIC: u32 = multiboot2::MAGIC;
/// Largest information structure that is believed.
const MAX_LEN: usize = 1 << 20;
/// The name by which our own UEFI application introduces itself.
pub const UEFI_APPLICATION: &str = "Oxen UEFI application";

/// The information structure at physical address `at`, checked for its length only.
///
/// # Errors
/// When it is unreadable, too long or misaligned.
pub fn load(memory: &impl Physical, at: u64) -> Result<BootInformation<'_>, BootError> {
    const WHAT: &str = "multiboot 2 information";
    let head = memory.bytes(at, 8).ok_or(BootError::Unreadable(WHAT, at))?;
    let len = match head {
        &[a, b, c, d, ..] => u32::from_le_bytes([a, b, c, d]) as usize,
        _ => return Err(BootError::Malformed(WHAT)),
    };
    if !(16..=MAX_LEN).contains(&len) {
        return Err(BootError::Malformed(WHAT));
    }
    let bytes = memory.bytes(at, len).ok_or(BootError::Unreadable(WHAT, at))?;
    if !bytes.as_ptr().cast::<u64>().is_aligned() {
        return Err(BootError::Malformed(WHAT));
    }
    // SAFETY: `bytes` is aligned, lives as long as `memory` is borrowed, and holds as many bytes as its header says.
    unsafe { BootInformation::load(bytes.as_ptr().cast::<BootInformationHeader>()) }
        .map_err(|_| BootError::Malformed(WHAT))
}

/// Takes from the information structure, which is at physical address `at`, what concerns us.
///
/// # Errors
/// When a part of it is malformed or there is neither a memory map nor a firmware to ask.
pub fn parse<'a>(info: &'a BootInformation<'a>, at: u64) -> Result<Found<'a>, BootError> {
    let mut found = Found::new(BootPath::Multiboot2Bios);
    let loader = info
        .boot_loader_name_tag()
        .and_then(|tag| tag.name().ok())
        .unwrap_or("");
    found.loader = loader.as_bytes();
    // A multiboot 2 loader passes arguments only; the specification leaves no room for a file name.
    let line = info
        .command_line_tag()
        .and_then(|tag| tag.cmdline().ok())
        .unwrap_or("");
    found.command_line = arguments(line.as_bytes(), b"GRUB 2");
    for module in info.module_tags() {
        let line = module.cmdline().unwrap_or("").as_bytes();
        found.add_module(
            module.start_address().into(),
            module.end_address().into(),
            arguments(line, b"GRUB 2"),
        )?;
    }
    if info.efi_bs_not_exited_tag().is_some() {
        let system_table = info
            .efi_sdt64_tag()
            .ok_or(BootError::Malformed("EFI system table"))?;
        let image_handle = info
            .efi_ih64_tag()
            .ok_or(BootError::Malformed("EFI image handle"))?;
        found.efi = Some(Efi {
            system_table: system_table.sdt_address() as u64,
            image_handle: image_handle.image_handle() as u64,
        });
        found.path = match loader {
            UEFI_APPLICATION => BootPath::UefiApplication,
            _ => BootPath::Multiboot2Efi64,
        };
        return Ok(found);
    }
    // There are copies of ACPI's root pointers: a loader that has left UEFI's boot services knows alone where they were.
    let tags = [
        info.rsdp_v2_tag().map(|tag| core::ptr::from_ref(tag).addr()),
        info.rsdp_v1_tag().map(|tag| core::ptr::from_ref(tag).addr()),
    ];
    found.rsdps.extend(
        tags.into_iter()
            .flatten()
            .map(|tag| at + (tag + size_of::<TagHeader>() - info.start_address()) as u64),
    );
    for area in info
        .memory_map_tag()
        .ok_or(BootError::NoMemoryMap)?
        .memory_areas()
    {
        found
            .regions
            .add_e820(area.start_address(), area.size(), area.typ().into())?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use multiboot2::{
        Builder, MaybeDynSized, MemoryArea, MemoryAreaType, MemoryMapTag, RsdpV1Tag, RsdpV2Tag,
    };

    const AT: u64 = 0x1000;

    /// The information, aligned, at [`AT`].
    struct Memory<'a>(&'a [u8]);

    impl Physical for Memory<'_> {
        fn bytes(&self, start: u64, len: usize) -> Option<&[u8]> {
            let from = usize::try_from(start.checked_sub(AT)?).ok()?;
            self.0.get(from..from.checked_add(len)?)
        }
    }

    /// What a loader hands over that has left boot services: a memory map, and copies of both root pointers.
    #[test]
    fn root_pointers_are_found_in_their_tags() {
        let area = MemoryArea::new(0x10_0000, 0x100_0000, MemoryAreaType::Available);
        let information = Builder::new()
            .mmap(MemoryMapTag::new(&[area]))
            .rsdpv1(RsdpV1Tag::new(*b"OXEN  ", 0, 0x1234))
            .rsdpv2(RsdpV2Tag::new(*b"OXEN  ", 2, 0x1234, 36, 0x5678))
            .build();
        let bytes = information.as_bytes();
        let memory = Memory(bytes);
        let loaded = load(&memory, AT).unwrap();
        let found = parse(&loaded, AT).unwrap();
        assert_eq!(found.path, BootPath::Multiboot2Bios);
        let [new, old] = found.rsdps[..] else {
            panic!("{:?}", found.rsdps)
        };
        for (at, revision) in [(new, 2), (old, 0)] {
            let rsdp = memory.bytes(at, 20).unwrap();
            assert!(rsdp.starts_with(b"RSD PTR "));
            assert_eq!(rsdp[15], revision);
        }
    }
}
