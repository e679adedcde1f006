//! Runtime of a bare PVH guest, privileged or not: what `dom0-shim` and the test guests have in common.
//!
//! The loader (Oxen, Xen, or a toolstack) enters [`entry`]'s 32-bit code through the PVH ELF note; that builds an
//! identity map, enters long mode and calls the function named with [`main!`]. By then traps, the memory map and
//! the heap are set up.
//!
//! Invariants: one vCPU; guest-physical address == virtual address for everything mapped; interrupts are enabled
//! only inside [`event::wait`] and [`interrupt::take`], whose handlers touch nothing but atomics of their own, so no Rust code of the guest is ever interrupted and nothing here needs a lock for
//! anything but Rust's sake.
//!
//! On the host this crate is empty, so that workspace-wide commands work there.
#![no_std]
#![cfg(target_os = "none")]

extern crate alloc;

pub mod console;
mod entry;
pub mod event;
pub mod foreign;
pub mod hypercall;
pub mod interrupt;
pub mod memory;
pub mod paging;
pub mod port;
pub mod start_info;
pub mod time;
pub mod trap;
pub mod virtio;

/// Names the guest's main function: `fn(guest_rt::start_info::StartInfo) -> !`.
#[macro_export]
macro_rules! main {
    ($main:path) => {
        #[expect(
            unsafe_code,
            reason = "the runtime's entry code finds the guest's main by this symbol"
        )]
        #[unsafe(no_mangle)]
        fn guest_main(info: $crate::start_info::StartInfo) -> ! {
            let main: fn($crate::start_info::StartInfo) -> ! = $main;
            main(info)
        }
    };
}
