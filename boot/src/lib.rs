//! Front doors of the hypervisor. Every way to start Oxen ends in one call, `hypervisor::kernel_main`, with what is
//! described here: [`bootloader_api::BootInfo`] for the machine's memory, [`Handover`] for the rest.
//!
//! | door                        | entry in `entry/start.s` | parsed by      |
//! |-----------------------------|--------------------------|----------------|
//! | multiboot 1 (QEMU, GRUB)    | `start`, 32 bit          | [`multiboot1`] |
//! | multiboot 2, BIOS (GRUB)    | `start`, 32 bit          | [`multiboot2`] |
//! | multiboot 2, UEFI (GRUB)    | `start_efi64`, 64 bit    | [`multiboot2`] |
//! | UEFI application `oxen.efi` | `start_efi64`, 64 bit    | [`multiboot2`] |
//! | PVH (Xen, Firecracker...)   | `start`, 32 bit          | [`pvh`]        |
//!
//! Parsing is pure: it reads the loader's memory through [`Physical`] and is tested on the host. Whatever must
//! survive is copied out of the loader's memory; after that the memory marked usable is free.
#![cfg_attr(not(test), no_std)]

#[cfg(target_os = "none")]
pub mod entry;
pub mod found;
pub mod handover;
pub mod layout;
pub mod memory;
pub mod multiboot1;
pub mod multiboot2;
pub mod pvh;
pub mod symbols;

pub use found::{BootError, Found, Physical};
pub use handover::{BootPath, Handover, Module};
