//! The machine: UART, ACPI, interrupt controllers, time, exceptions, power.

pub mod acpi;
pub mod apic;
pub mod calendar;
pub mod console;
#[cfg(target_os = "none")]
pub mod idle;
pub mod input;
pub mod ioapic;
pub mod irq;
#[cfg(target_os = "none")]
pub mod panic;
pub mod percpu;
pub mod power;
mod rate_limit;
pub mod remapping;
pub mod serial;
#[cfg(target_os = "none")]
pub mod smp;
pub mod time;
pub mod timer;
pub mod topology;
#[cfg(target_os = "none")]
pub mod traps;
#[cfg(any(target_os = "none", test))]
mod tsc_frequency;
#[cfg(any(target_os = "none", test))]
mod tsc_watch;
mod uart;
#[cfg(target_os = "none")]
pub mod watchdog;

/// Selector of the data segment, the second of each CPU's GDT.
pub const DATA_SEGMENT: u16 = 2 << 3;
