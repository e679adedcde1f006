//! The Oxen hypervisor: everything but the front doors (crate `boot`) and the guest ABI (crate `abi`).
//!
//! Layers, calls go down only:
//!
//! | module        | what it is                                                          | may be unsafe |
//! |---------------|---------------------------------------------------------------------|---------------|
//! | [`hypercall`] | one file per family of Xen's hypercalls                             | no            |
//! | [`virt`]      | exits: one match; CPUID and MSR policy, local APIC, PV clock        | no            |
//! | [`domain`]    | `Domain`, `Vcpu`, life cycle, the table of domains, dom0's builder   | no            |
//! | [`event`]     | event channels                                                      | no            |
//! | [`sched`]     | who runs next on a CPU                                              | no            |
//! | [`mm`]        | frames, p2m (nested page tables), guest memory, own page tables     | yes           |
//! | [`arch`]      | the two back ends, [`arch::vmx`] and [`arch::svm`], behind one trait | yes           |
//! | [`hw`]        | the machine: UART, ACPI, APIC, time, exceptions                     | yes           |
//!
//! The whole library builds on the host, so that all logic is tested by `cargo test`; memory that is
//! physical on the machine is an arena there (see [`mm::phys`]).
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod arch;
#[cfg(target_os = "none")]
mod bring_up;
pub mod cmdline;
pub mod debug_keys;
pub mod domain;
pub mod event;
pub mod grant;
pub mod hw;
pub mod hypercall;
pub mod mm;
pub mod sched;
pub mod slot;
#[cfg(target_os = "none")]
mod start;
pub mod sync;
pub mod types;
pub mod virt;

#[cfg(target_os = "none")]
pub use {bring_up::cannot_start, hw::panic::panic, start::kernel_main};
