//! `console_io` (hypercall 18): arguments are the command, a count and a buffer.

/// Write `count` bytes.
pub const CONSOLEIO_WRITE: u32 = 0;
/// Read up to `count` bytes; returns how many.
pub const CONSOLEIO_READ: u32 = 1;
