//! The machine: UART, ACPI, interrupt controllers, time, exceptions, power.

pub mod acpi;
pub mod apic;
pub mod ioapic;
pub mod irq;
pub mod percpu;
pub mod time;
pub mod timer;
