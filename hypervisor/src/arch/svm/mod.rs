//! AMD-V (APM vol. 2, chapter 15).
//!
//! | module    | what it is                                                             | may be unsafe |
//! |-----------|------------------------------------------------------------------------|---------------|
//! | [`vmcb`]  | the control block's layout, and the rules by which VMRUN judges it     | no            |
//! | [`exit`]  | exit codes to [`Exit`](crate::arch::Exit)                              | no            |
//! | [`inject`]| events in their raw form                                               | no            |
//! | [`asid`]  | address-space identifiers of one CPU                                   | no            |
//! | [`msrpm`] | the MSR permission map                                                 | no            |
//! | [`cpu`]   | [`probe`] and [`enable`]: what the machine and each CPU have           | yes           |
//! | [`entry`] | the world switch                                                       | yes           |
//! | [`vcpu`]  | [`Vcpu`]: what is to do before an entry and after an exit              | yes           |
//! | `state`   | the [`GuestCpu`](crate::arch::GuestCpu) that it is                     | yes           |
//!
//! Works with nested paging alone, as QEMU's TCG offers it; uses next-RIP saving, flush by ASID, VMCB clean bits, the
//! pause filter, the TSC ratio and virtualized SPEC_CTRL where they exist.

pub mod asid;
pub mod cpu;
pub mod entry;
pub mod exit;
pub mod inject;
pub mod msrpm;
mod setup;
mod state;
pub mod vcpu;
pub mod vmcb;

pub use cpu::{Caps, TSC_RATIO_POINT, disable, enable, probe};
pub use vcpu::Vcpu;
