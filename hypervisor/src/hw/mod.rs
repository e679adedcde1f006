//! The machine: UART, ACPI, interrupt controllers, time, exceptions, power.

pub mod percpu;
