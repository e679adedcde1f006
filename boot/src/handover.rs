//! What the hypervisor gets from its boot loader besides the memory map.

use arrayvec::ArrayVec;
use bootloader_api::info::MemoryRegion;
use core::fmt;
use core::ops::Range;

use crate::found::{BootError, Found, MAX_COMMAND_LINE, MAX_MODULES, RootPointers};
use crate::memory::{MAX_REGIONS, RegionList};

/// The door through which Oxen was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootPath {
    /// A multiboot 1 loader: GRUB's `multiboot`, `qemu -kernel`.
    Multiboot1,
    /// GRUB's `multiboot2` on BIOS.
    Multiboot2Bios,
    /// GRUB's `multiboot2` on UEFI.
    Multiboot2Efi64,
    /// The PVH entry: as a guest of another hypervisor.
    Pvh,
    /// Our own UEFI application.
    UefiApplication,
}

impl fmt::Display for BootPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Multiboot1 => "multiboot1",
            Self::Multiboot2Bios => "multiboot2 (BIOS)",
            Self::Multiboot2Efi64 => "multiboot2 (EFI64)",
            Self::Pvh => "PVH",
            Self::UefiApplication => "UEFI application",
        })
    }
}

/// A file that the loader put into memory: dom0's kernel, its ramdisk, ...
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// Physical address of the first byte; below 4 GiB.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Its command line, without a file name or GRUB's `placeholder` in front.
    pub command_line: &'static str,
}

/// What the loader told us. The memory of image and modules is `Bootloader` in the memory map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Which door it was.
    pub path: BootPath,
    /// The loader's name for itself, for the boot log; may be empty.
    pub loader: &'static str,
    /// The hypervisor's own command line.
    pub command_line: &'static str,
    /// Modules in the loader's order: the first is dom0's kernel.
    pub modules: &'static [Module],
    /// Physical extent of the image, symbol table included; starts at a multiple of 2 MiB.
    pub image: Range<u64>,
    /// Physical addresses of what may be ACPI's root pointer, to be tried in this order.
    pub rsdps: RootPointers,
    /// Physical address of the EFI system table, when UEFI started us.
    pub efi_system_table: Option<u64>,
}

impl Handover {
    /// Marks the image and the modules as occupied.
    ///
    /// # Errors
    /// When `regions` is full.
    pub fn occupy(&self, regions: &mut RegionList) -> Result<(), BootError> {
        regions.occupy(self.image.start, self.image.end.saturating_sub(self.image.start))?;
        self.modules
            .iter()
            .try_for_each(|module| regions.occupy(module.start, module.len))
    }
}

/// Room for all strings of the loader, in bytes.
const TEXT_LEN: usize = 16 * 1024;

/// Room for what is copied out of the loader's memory; a static, for the life of the hypervisor.
pub struct Kept {
    text: [u8; TEXT_LEN],
    modules: ArrayVec<Module, MAX_MODULES>,
    /// Room for the resolved memory map.
    pub regions: ArrayVec<MemoryRegion, MAX_REGIONS>,
}

impl Kept {
    /// Empty.
    #[expect(clippy::new_without_default, reason = "const, for a static")]
    pub const fn new() -> Self {
        Self {
            text: [0; TEXT_LEN],
            modules: ArrayVec::new_const(),
            regions: ArrayVec::new_const(),
        }
    }

    /// Copies strings and modules of `found`; returns the handover and the room for the memory map. Strings longer
    /// than [`MAX_COMMAND_LINE`] are cut off, what does not fit any more is empty, and bytes that are not printable
    /// ASCII become `?`.
    pub fn copy(
        &'static mut self,
        found: &Found<'_>,
        image: Range<u64>,
    ) -> (Handover, &'static mut ArrayVec<MemoryRegion, MAX_REGIONS>) {
        let Self {
            text,
            modules,
            regions,
        } = self;
        let mut room = &mut text[..];
        let loader = copy_text(&mut room, found.loader);
        let command_line = copy_text(&mut room, found.command_line);
        modules.extend(found.modules.iter().map(|module| Module {
            start: module.start,
            len: module.len,
            command_line: copy_text(&mut room, module.command_line),
        }));
        let handover = Handover {
            path: found.path,
            loader,
            command_line,
            modules,
            image,
            rsdps: found.rsdps.clone(),
            efi_system_table: found.efi.map(|efi| efi.system_table),
        };
        (handover, regions)
    }
}

/// Copies `source` to the front of `room` and takes that part away from it.
fn copy_text(room: &mut &'static mut [u8], source: &[u8]) -> &'static str {
    let len = source.len().min(MAX_COMMAND_LINE);
    let Some((copy, rest)) = core::mem::take(room).split_at_mut_checked(len) else {
        return "";
    };
    *room = rest;
    for (to, &from) in copy.iter_mut().zip(source) {
        *to = if from.is_ascii_graphic() || from == b' ' {
            from
        } else {
            b'?'
        };
    }
    core::str::from_utf8(copy).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::e820;

    #[test]
    fn copies_what_must_survive() {
        let kept = Box::leak(Box::new(Kept::new()));
        let long = vec![b'x'; 3 * MAX_COMMAND_LINE];
        let mut found = Found::new(BootPath::Pvh);
        found.loader = b"GRUB \x1b[2J";
        found.add_module(0x80_0000, 0x80_1000, &long).unwrap();
        let mut regions = RegionList::new();
        regions.add_e820(0, 0x100_0000, e820::RAM).unwrap();

        let (handover, map) = kept.copy(&found, 0x20_0000..0x30_0000);
        assert_eq!(handover.loader, "GRUB ?[2J");
        assert_eq!(handover.modules[0].command_line.len(), MAX_COMMAND_LINE);
        handover.occupy(&mut regions).unwrap();
        regions.resolve(map).unwrap();
        assert_eq!(map.len(), 5);
    }

    #[test]
    fn text_beyond_the_room_is_empty() {
        let mut room = Box::leak(Box::new([0u8; 8])).as_mut_slice();
        assert_eq!(copy_text(&mut room, b"123456"), "123456");
        assert_eq!(copy_text(&mut room, b"789"), "");
        assert_eq!(copy_text(&mut room, b""), "");
    }
}
