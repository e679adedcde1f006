//! The pure half of the UEFI application: its options and configuration file, where the embedded hypervisor's parts go, and the
//! multiboot 2 information that it starts the hypervisor with. The half that talks to the firmware is the program.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod config;
pub mod image;
pub mod information;
pub mod options;
