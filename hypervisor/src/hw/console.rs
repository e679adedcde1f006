//! The serial console: Oxen's log, and dom0's terminal.
//!
//! Log lines also go to a ring in memory ([`ring`]). Input waits in a queue for dom0.
// UNSAFETY: the UART's ports.
#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "the UART's ports"))]

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use arrayvec::ArrayVec;
use log::{Level, LevelFilter, Log, Metadata, Record};

use super::time;
use crate::sync::Mutex;

/// Bytes of the log that are kept.
pub const RING: usize = 32 << 10;
/// Bytes of input that wait for dom0; more is dropped.
const INPUT: usize = 1024;

struct Console {
    #[cfg(target_os = "none")]
    uart: Option<uart_16550::Uart16550<uart_16550::backend::PioBackend>>,
    ring: [u8; RING],
    /// Bytes ever written to the ring.
    written: u64,
    input: ArrayVec<u8, INPUT>,
    line_open: bool,
}

static CONSOLE: Mutex<Console> = Mutex::new(Console {
    #[cfg(target_os = "none")]
    uart: None,
    ring: [0; RING],
    written: 0,
    input: ArrayVec::new_const(),
    line_open: false,
});

/// Least severe level that is logged, as `log::LevelFilter as u8`.
static LEVEL: AtomicU8 = AtomicU8::new(LevelFilter::Debug as u8);

impl Console {
    fn send(&mut self, bytes: &[u8]) {
        #[cfg(target_os = "none")]
        if let Some(uart) = &mut self.uart {
            for &byte in bytes {
                if byte == b'\n' {
                    uart.send_bytes_exact(b"\r");
                }
                uart.send_bytes_exact(&[byte]);
            }
        }
        if let Some(last) = bytes.last() {
            self.line_open = *last != b'\n' && *last != b'\r';
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.ring[(self.written % RING as u64) as usize] = byte;
            self.written += 1;
        }
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.send(text.as_bytes());
        self.keep(text.as_bytes());
        Ok(())
    }
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() as u8 <= LEVEL.load(Relaxed)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mark = match record.level() {
            Level::Error => "ERROR ",
            Level::Warn => "WARN  ",
            _ => "",
        };
        let ns = time::now_ns();
        let mut console = CONSOLE.lock();
        if console.line_open {
            console.send(b"\n");
        }
        // Writing to the console cannot fail.
        let _ = writeln!(
            console,
            "(oxen) [{:4}.{:06}] {mark}{}",
            ns / 1_000_000_000,
            ns / 1000 % 1_000_000,
            record.args()
        );
    }

    fn flush(&self) {}
}

/// Start logging to the UART at `port`, at 115200 baud.
#[cfg(target_os = "none")]
pub fn init(port: u16) {
    use uart_16550::{Config, Uart16550};
    // SAFETY: the ports of a UART belong to the hypervisor.
    let uart = unsafe { Uart16550::new_port(port) };
    if let Ok(mut uart) = uart
        && uart.init(Config::default()).is_ok()
    {
        CONSOLE.lock().uart = Some(uart);
    }
    let _ = log::set_logger(&Logger);
    log::set_max_level(LevelFilter::Trace);
}

/// Log nothing less severe than `level`.
pub fn set_level(level: LevelFilter) {
    LEVEL.store(level as u8, Relaxed);
}

/// Bytes for the terminal as they are (dom0's output).
pub fn write_bytes(bytes: &[u8]) {
    CONSOLE.lock().send(bytes);
}

/// Input that waits, oldest first. Returns how many bytes there were.
pub fn read_bytes(to: &mut [u8]) -> usize {
    let input = &mut CONSOLE.lock().input;
    let len = input.len().min(to.len());
    for (slot, byte) in to.iter_mut().zip(input.drain(..len)) {
        *slot = byte;
    }
    len
}

/// Fetch what the UART has received. Returns whether there is input for dom0.
pub fn receive() -> bool {
    let mut console = CONSOLE.lock();
    #[cfg(target_os = "none")]
    {
        let console = &mut *console;
        if let Some(uart) = &mut console.uart {
            while let Ok(byte) = uart.try_receive_byte() {
                // Nobody reads: what does not fit is lost, as on any serial line.
                let _ = console.input.try_push(byte);
            }
        }
    }
    !console.input.is_empty()
}

/// Copy the log's ring from byte `from` (counted from the start of time) into `to`. Returns how many bytes, and where to go on.
pub fn ring(from: u64, to: &mut [u8]) -> (usize, u64) {
    let console = CONSOLE.lock();
    let start = from
        .max(console.written.saturating_sub(RING as u64))
        .min(console.written);
    let len = (console.written - start).min(to.len() as u64) as usize;
    for (offset, slot) in to.iter_mut().take(len).enumerate() {
        *slot = console.ring[((start + offset as u64) % RING as u64) as usize];
    }
    (len, start + len as u64)
}

/// For a panic: whoever holds the console's lock will not go on.
///
/// # Safety
/// No other CPU may use the console any more.
#[expect(unsafe_code, reason = "breaks a lock")]
pub unsafe fn seize() {
    // SAFETY: the caller sees to it that nobody else is in there.
    unsafe { CONSOLE.force_unlock() };
}
