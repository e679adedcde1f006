//! Multiboot 2 information (specification 2.0, section 3.6), read by the `multiboot2` crate.
// UNSAFETY: the crate takes the structure by pointer.
#![expect(unsafe_code, reason = "the multiboot2 crate takes the structure by pointer")]

use crate::found::{BootError, Efi, Found, Physical, arguments};
use crate::handover::BootPath;
use multiboot2::{BootInformation, BootInformationHeader};

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

/// Takes from the information structure what concerns us.
///
/// # Errors
/// When a part of it is malformed or there is neither a memory map nor a firmware to ask.
pub fn parse<'a>(info: &'a BootInformation<'a>) -> Result<Found<'a>, BootError> {
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
