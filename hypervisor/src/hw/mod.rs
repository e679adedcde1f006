//! The machine: UART, ACPI, interrupt controllers, time, exceptions, power.

pub mod apic;
pub mod irq;
pub mod percpu;
pub mod time;
pub mod timer;
