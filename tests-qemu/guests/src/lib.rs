//! Bare PVH test guests: one program in `src/bin` is one guest with one subject, and runs on Oxen and on Xen alike.
//!
//! A guest prints `TEST name: pass` or `TEST name: fail: reason` for everything it checks, and ends with `RESULT pass` or
//! `RESULT fail`; `oxen-test` waits for that line. See [`report`].
//!
//! * [`blkfront`]: a block front end, good or bad.
//! * [`compat`]: hypercalls from outside 64-bit mode.
//! * [`cpu`]: instructions that may fault, with the fault as their result.
//! * [`domains`]: domains that a guest makes as dom0.
//! * [`fifo`]: the guest's side of FIFO event channels.
//! * [`frames`]: memory for hypercalls to do with what they like.
//! * [`granting`]: the guest's own grant table.
//! * [`hypercall`]: hypercalls with any arguments.
//! * [`interrupts`]: vectors of the guest's own, counted.
//! * [`legacy`]: out of long mode and back.
//! * [`netfront`]: a network front end, good or bad.
//! * [`pm_timer`]: the machine's timer, beside which other clocks are looked at.
//! * [`random`]: a seeded generator.
//! * [`receiver`]: a second vCPU that interrupts come to.
//! * [`registers`]: what vCPUs would see of each other in registers that are not switched.
//! * [`report`]: the verdict lines.
//! * [`shared`]: memory shared with another domain.
//! * [`smp`]: a second vCPU.
//! * [`startup`]: a second vCPU, started as on a machine.
//! * [`tcp`]: the ends of a connection by which costs are measured.
//! * [`wreck`]: ways in which a guest can end itself.
//! * [`xenstore`]: a client.
//!
//! On the host this crate is empty.
#![no_std]
#![cfg(target_os = "none")]

extern crate alloc;

pub mod blkfront;
pub mod compat;
pub mod cpu;
pub mod domains;
pub mod fifo;
pub mod frames;
pub mod general;
pub mod granting;
pub mod hypercall;
pub mod interrupts;
pub mod legacy;
pub mod netfront;
pub mod pm_timer;
pub mod random;
pub mod receiver;
pub mod registers;
pub mod report;
pub mod shared;
pub mod smp;
pub mod startup;
pub mod tcp;
pub mod wreck;
pub mod xenstore;
