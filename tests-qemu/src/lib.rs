//! Oxen in emulators: to use it (`oxen-run`), to test it (`oxen-test`), to measure it (`oxen-bench`).
//!
//! A [`Machine`] says what to boot and where; starting it gives a [`Console`], which a person's terminal or a test's
//! expectations are attached to. Two vehicles have the hardware that Oxen needs: QEMU's TCG emulates AMD-V, Bochs emulates VT-x.

pub mod bench;
pub mod console;
pub mod machine;
pub mod media;
pub mod outputs;
pub mod runner;
pub mod tests;
pub mod xen;

pub use console::Console;
pub use machine::{Door, Machine, Module, Vehicle};
