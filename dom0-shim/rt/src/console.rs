//! Output to the hypervisor's console: `print!`, `println!`.
//!
//! A domain that may use `CONSOLEIO_write` (dom0 always, a domU where the hypervisor logs guests) writes there; the
//! others, and a panicking guest before hypercalls work, write to debug port 0xe9. Without a hypervisor, to the first
//! serial port.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use crate::hypercall::console as console_io;
use crate::port::outb;

/// Set once the hypervisor has refused `CONSOLEIO_write`, or there is none.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// Port of the "Bochs debug console", which Xen and Oxen log for every domain.
const DEBUG_PORT: u16 = 0xe9;
/// Data register of the first serial port, which an emulator takes bytes from without having been told a speed.
const SERIAL_PORT: u16 = 0x3f8;

/// The port to write to when `CONSOLEIO_write` is refused.
static PORT: AtomicU16 = AtomicU16::new(DEBUG_PORT);

/// There is no hypervisor.
pub(crate) fn use_serial_port() {
    PORT.store(SERIAL_PORT, Ordering::Relaxed);
    REFUSED.store(true, Ordering::Relaxed);
}

/// Writes bytes as they are, by whichever way works.
pub fn write(bytes: &[u8]) {
    if !REFUSED.load(Ordering::Relaxed) {
        if console_io::write(bytes).is_ok() {
            return;
        }
        REFUSED.store(true, Ordering::Relaxed);
    }
    let port = PORT.load(Ordering::Relaxed);
    for &byte in bytes {
        outb(port, byte);
    }
}

/// `core::fmt` sink of the console. Formatting pieces are gathered into lines so that one line is one hypercall.
struct Gather {
    buffer: [u8; 256],
    used: usize,
}

impl Gather {
    fn flush(&mut self) {
        write(&self.buffer[..self.used]);
        self.used = 0;
    }
}

impl Write for Gather {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.used == self.buffer.len() {
                self.flush();
            }
            self.buffer[self.used] = byte;
            self.used += 1;
        }
        Ok(())
    }
}

/// Target of the print macros.
pub fn print(args: fmt::Arguments<'_>) {
    let mut out = Gather {
        buffer: [0; 256],
        used: 0,
    };
    // `Gather` never fails; an error can only come from a broken `Display`, whose output so far is still wanted.
    let _ = out.write_fmt(args);
    out.flush();
}

/// Prints to the hypervisor's console.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::console::print(format_args!($($arg)*)) };
}

/// Prints a line to the hypervisor's console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arg:tt)*) => { $crate::console::print(format_args!("{}\n", format_args!($($arg)*))) };
}
