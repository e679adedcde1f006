//! `console_io`.
// UNSAFETY: hypercalls.
#![expect(unsafe_code, reason = "hypercalls with buffers")]

use abi::Errno;
use abi::console_io::{CONSOLEIO_READ, CONSOLEIO_WRITE};
use abi::hypercall::HYPERVISOR_CONSOLE_IO;

use super::raw;

/// Writes to the hypervisor's console.
pub fn write(bytes: &[u8]) -> Result<(), Errno> {
    let arguments = [
        CONSOLEIO_WRITE.into(),
        bytes.len() as u64,
        bytes.as_ptr() as u64,
        0,
        0,
    ];
    // SAFETY: the hypervisor reads `bytes`.
    unsafe { raw(HYPERVISOR_CONSOLE_IO, arguments) }.map(|_| ())
}

/// Reads what was typed at the hypervisor's console; dom0 only. Returns the number of bytes.
pub fn read(buffer: &mut [u8]) -> Result<usize, Errno> {
    let arguments = [
        CONSOLEIO_READ.into(),
        buffer.len() as u64,
        buffer.as_mut_ptr() as u64,
        0,
        0,
    ];
    // SAFETY: the hypervisor writes at most `buffer.len()` bytes.
    let read = unsafe { raw(HYPERVISOR_CONSOLE_IO, arguments) }?;
    Ok((read as usize).min(buffer.len()))
}
