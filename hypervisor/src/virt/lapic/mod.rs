//! The local APIC that guests see (SDM 3A, chapter 11): xAPIC through memory and x2APIC through MSRs, no APIC virtualization by hardware.
//!
//! [`SharedLapic`] is what other CPUs write: interrupts that arrive, INIT and start-up messages. [`Lapic`] is the rest, which only the vCPU's own CPU
//! touches. What a destination matches ([`SharedLapic::answers_to`]) is published by the owner for senders to read.
//!
//! | file          | what it is                                              |
//! |---------------|---------------------------------------------------------|
//! | `registers`   | [`Lapic`]: registers, and what follows from them        |
//! | `shared`      | [`SharedLapic`]                                         |
//! | `destination` | what a message's destination matches                    |
//! | `access`      | loads, stores, RDMSR and WRMSR                          |
//! | `icr`         | messages to other CPUs: interrupts, NMI, INIT, start-up |
//! | `startup`     | a CPU after a start-up message                          |
//! | `timer`       | the timer                                               |
//! | `deliver`     | from IRR to the guest, and EOI                          |

mod access;
mod deliver;
mod destination;
mod icr;
mod registers;
mod shared;
mod startup;
mod timer;

pub use access::{mmio_read, mmio_write, rdmsr, write_base, wrmsr};
pub use deliver::has_deliverable;
pub(super) use deliver::{deliver, raise};
pub use registers::{Lapic, Refused};
pub use shared::SharedLapic;
pub(super) use startup::startup;
pub(super) use timer::timer_expired;
pub use timer::{set_tsc_deadline, tsc_deadline};

/// Where the xAPIC's registers are at reset.
pub const DEFAULT_BASE: u64 = 0xfee0_0000;
