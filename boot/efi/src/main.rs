//! Oxen as a UEFI application, `oxen.efi`. Reads its configuration from the directory it was started from, loads the files
//! named there, places the embedded hypervisor below 4 GiB, and enters it by the door that GRUB uses on UEFI. On the
//! host it is an empty program.
#![cfg_attr(target_os = "uefi", no_std, no_main)]

#[cfg(target_os = "uefi")]
mod firmware;

#[cfg(not(target_os = "uefi"))]
fn main() {
    eprintln!("This is a UEFI application: build it with scripts/build.");
}
