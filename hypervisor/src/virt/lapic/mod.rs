//! The local APIC that guests see (SDM 3A, chapter 11): xAPIC through memory and x2APIC through MSRs.
//!
//! Its registers are in the [`ApicPage`](crate::arch::apic_page::ApicPage), which only the CPU that runs the vCPU touches, and that CPU's hardware where
//! it virtualizes a local APIC: there most accesses, and the delivery of interrupts, come by without an exit, and the code here sees to what is
//! left. [`Lapic`] is what follows from the registers and what guests do not see. [`SharedLapic`] is what other CPUs write: interrupts that arrive, which the owner
//! moves to IRR before it enters the guest, INIT and start-up messages.
//!
//! | file          | what it is                                              |
//! |---------------|---------------------------------------------------------|
//! | `registers`   | [`Lapic`]; which registers there are, reset, modes      |
//! | `shared`      | [`SharedLapic`]                                         |
//! | `arrivals`    | interrupts on their way to IRR                          |
//! | `destination` | what a message's destination matches                    |
//! | `access`      | loads, stores, RDMSR and WRMSR                          |
//! | `access_page` | where the hardware looks for loads and stores           |
//! | `base`        | IA32_APIC_BASE                                          |
//! | `icr`         | messages to other CPUs: interrupts, NMI, INIT, start-up |
//! | `startup`     | a CPU after a start-up message                          |
//! | `timer`       | the timer                                               |
//! | `deliver`     | from arrival to IRR to the guest, and EOI; errors       |

mod access;
mod access_page;
mod arrivals;
mod base;
mod deliver;
mod destination;
mod icr;
mod registers;
mod shared;
mod startup;
mod timer;

pub use access::{mmio_read, mmio_write, rdmsr, written, wrmsr};
pub use access_page::{AccessPage, map as map_access_page};
pub use arrivals::Trigger;
pub use base::write as write_base;
pub use deliver::has_deliverable;
pub(super) use deliver::{deliver, raise};
pub(super) use destination::lowest_priority;
pub use registers::{Lapic, Refused};
pub use shared::SharedLapic;
pub(super) use startup::startup;
pub(super) use timer::timer_expired;
pub use timer::{set_tsc_deadline, tsc_deadline};

#[cfg(test)]
mod tests;
