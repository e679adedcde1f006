//! What it takes to start a PVH guest, as pure functions: the kernel image ([`kernel`]), where everything goes in its memory
//! ([`layout`]), ACPI tables ([`acpi`]) and the first vCPU's state ([`entry`]).
//!
//! Shared by Oxen, which builds dom0, and by dom0-shim, which builds the other domains. Nothing here touches guest memory: the result is a
//! [`layout::Plan`], a list of bytes and the addresses they belong at, for the caller to write.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acpi;
mod decompress;
pub mod entry;
pub mod kernel;
pub mod layout;

#[cfg(test)]
mod fuzz;
