//! The multiboot 2 information that the hypervisor is started with, as GRUB would give it on UEFI.

use alloc::boxed::Box;
use alloc::vec::Vec;
use multiboot2::{
    BootLoaderNameTag, Builder, CommandLineTag, EFIBootServicesNotExitedTag, EFIImageHandle64Tag,
    EFISdt64Tag, MaybeDynSized, ModuleTag,
};

/// A file in memory.
#[derive(Clone, Copy, Debug)]
pub struct LoadedFile<'a> {
    /// Physical address.
    pub start: u32,
    /// The byte after its last; above `start`.
    pub end: u32,
    /// Command line.
    pub arguments: &'a str,
}

/// The structure's bytes. `system_table` and `image_handle` are the firmware's, whose boot services still run.
pub fn build(options: &str, modules: &[LoadedFile<'_>], system_table: u64, image_handle: u64) -> Vec<u8> {
    let mut builder = Builder::new()
        .bootloader(BootLoaderNameTag::new(boot::multiboot2::UEFI_APPLICATION))
        .cmdline(CommandLineTag::new(options))
        .efi64(EFISdt64Tag::new(system_table))
        .efi64_ih(EFIImageHandle64Tag::new(image_handle))
        .efi_bs(EFIBootServicesNotExitedTag::new());
    for module in modules {
        builder = builder.add_module(ModuleTag::new(module.start, module.end, module.arguments));
    }
    let information: Box<_> = builder.build();
    information.as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use boot::found::Efi;
    use boot::{BootPath, Physical};

    /// One aligned piece of memory at 0x1000.
    struct Memory(Vec<u64>, usize);

    impl Physical for Memory {
        fn bytes(&self, start: u64, len: usize) -> Option<&[u8]> {
            let from = usize::try_from(start.checked_sub(0x1000)?).ok()?;
            zerocopy::IntoBytes::as_bytes(&*self.0)
                .get(..self.1)?
                .get(from..from + len)
        }
    }

    fn memory(bytes: &[u8]) -> Memory {
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        Memory(words.collect(), bytes.len())
    }

    #[test]
    fn the_hypervisor_understands_it() {
        let modules = [
            LoadedFile {
                start: 0x10_0000,
                end: 0x10_1234,
                arguments: "root=/dev/sda1",
            },
            LoadedFile {
                start: 0x20_0000,
                end: 0x20_0001,
                arguments: "",
            },
        ];
        let bytes = build("console=com1", &modules, 0x7f00_0000, 0x1234_5678_9abc);
        let memory = memory(&bytes);
        let information = boot::multiboot2::load(&memory, 0x1000).unwrap();
        let found = boot::multiboot2::parse(&information, 0x1000).unwrap();
        assert_eq!(found.path, BootPath::UefiApplication);
        assert_eq!(found.command_line, b"console=com1");
        assert_eq!(
            found.efi,
            Some(Efi {
                system_table: 0x7f00_0000,
                image_handle: 0x1234_5678_9abc
            })
        );
        let read: Vec<_> = found
            .modules
            .iter()
            .map(|m| (m.start, m.len, m.command_line))
            .collect();
        assert_eq!(
            read,
            [
                (0x10_0000, 0x1234, &b"root=/dev/sda1"[..]),
                (0x20_0000, 1, &b""[..])
            ]
        );
    }

    #[test]
    fn cut_off_information_is_refused() {
        let bytes = build("console=com1", &[], 0x7f00_0000, 1);
        for len in 0..bytes.len() {
            assert!(boot::multiboot2::load(&memory(&bytes[..len]), 0x1000).is_err());
        }
    }
}
