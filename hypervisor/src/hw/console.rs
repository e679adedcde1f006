//! The serial console: Oxen's log, and dom0's terminal.
//!
//! Log lines also go to a ring in memory ([`ring`]). Messages that guests cause, which are those of [`GUEST_MODULES`], have a threshold of
//! their own. Input waits in a queue for dom0, or is debug keys, whichever its reader has switched it to ([`Input`]).
// UNSAFETY: the UART's ports.
#![expect(unsafe_code, reason = "the UART's ports")]

use alloc::boxed::Box;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::calendar::Date;
use super::input::{Input, Key, Switch};
use super::irq::{self, SoftIrq};
use super::rate_limit::RateLimit;
use super::serial::{Parity, SerialPort};
use super::time;
use crate::cmdline::{CommandLine, GuestLevels, Stamps};
use crate::mm::fallible;
use crate::sync::{Mutex, Rank};

/// Targets of messages that are printed only because of what a guest did: modules, and what guests print themselves.
const GUEST_MODULES: [&str; 5] = [
    "guest",
    "hypervisor::virt",
    "hypervisor::hypercall",
    "hypervisor::event",
    "hypervisor::grant",
];
/// Target of what somebody asked for by a debug key, which is printed whatever the levels are, as on Xen: that module's.
pub const ASKED_FOR: &str = "hypervisor::debug_keys";
/// Bytes of the log that are kept, if `conring_size=` does not say more: all of a boot with `loglvl=all`.
const RING: usize = 64 << 10;

type Uart = uart_16550::Uart16550<uart_16550::backend::PioBackend>;
type Port = super::uart::Port<uart_16550::backend::PioBackend>;

struct Console {
    ports: [Port; 2],
    ring: [u8; RING],
    /// In the place of `ring`, if that is not enough.
    larger: Option<Box<[u8]>>,
    /// Bytes ever written to the ring.
    written: u64,
    /// Where the ring begins since it was last cleared.
    cleared: u64,
    input: Input,
    line_open: bool,
    guests: RateLimit,
    stamps: Stamps,
}

static CONSOLE: Mutex<Console> = Mutex::new(
    Rank::Console,
    Console {
        ports: [const { Port::new() }; 2],
        ring: [0; RING],
        larger: None,
        written: 0,
        cleared: 0,
        input: Input::new(Switch::DEFAULT),
        line_open: false,
        guests: RateLimit::new(),
        stamps: Stamps::Boot,
    },
);

/// Least severe level that is logged of the hypervisor's own messages, as `log::LevelFilter as u8`.
static LEVEL: AtomicU8 = AtomicU8::new(LevelFilter::Info as u8);
/// The same for messages that guests cause: what is always printed, and what is printed if there is not too much of it.
static GUEST_LEVELS: [AtomicU8; 2] = [
    AtomicU8::new(LevelFilter::Off as u8),
    AtomicU8::new(LevelFilter::Warn as u8),
];

impl Console {
    fn send(&mut self, bytes: &[u8]) {
        for port in &mut self.ports {
            port.send(bytes, |byte| self.input.typed(byte));
        }
        if let Some(last) = bytes.last() {
            self.line_open = *last != b'\n' && *last != b'\r';
        }
    }

    fn ring(&mut self) -> &mut [u8] {
        match &mut self.larger {
            Some(ring) => ring,
            None => &mut self.ring,
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let written = self.written;
        let ring = self.ring();
        for (at, &byte) in (written..).zip(bytes) {
            ring[(at % ring.len() as u64) as usize] = byte;
        }
        self.written += bytes.len() as u64;
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.send(text.as_bytes());
        self.keep(text.as_bytes());
        Ok(())
    }
}

/// When a line was written, in nanoseconds of system time.
struct Stamp(Stamps, u64);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NS_PER_S: u64 = 1_000_000_000;
        let &Stamp(stamps, ns) = self;
        let date = |f: &mut fmt::Formatter<'_>, ns: u64| {
            let date = Date::at(ns / NS_PER_S);
            write!(f, "[{:04}-{:02}-{:02} ", date.year, date.month, date.day)?;
            write!(f, "{:02}:{:02}:{:02}", date.hour, date.minute, date.second)
        };
        let of_day = time::wall_clock_base() + ns;
        match stamps {
            Stamps::None => return Ok(()),
            Stamps::Date => date(f, of_day)?,
            Stamps::DateMs => {
                date(f, of_day)?;
                write!(f, ".{:03}", of_day / 1_000_000 % 1000)?;
            }
            Stamps::Boot => write!(f, "[{:4}.{:06}", ns / NS_PER_S, ns / 1000 % 1_000_000)?,
            Stamps::Raw => write!(f, "[{:016x}", time::tsc())?,
        }
        f.write_str("] ")
    }
}

struct Logger;

fn is_about_guests(target: &str) -> bool {
    GUEST_MODULES.iter().any(|module| target.starts_with(module))
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let [_, guests] = &GUEST_LEVELS;
        let limit = match metadata.target() {
            ASKED_FOR => return true,
            target if is_about_guests(target) => guests,
            _ => &LEVEL,
        };
        metadata.level() as u8 <= limit.load(Relaxed)
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
        let [always, _] = &GUEST_LEVELS;
        let mut missed = 0;
        if is_about_guests(record.target()) && record.level() as u8 > always.load(Relaxed) {
            match console.guests.allow(ns) {
                Some(count) => missed = count,
                None => return,
            }
        }
        if console.line_open {
            console.send(b"\n");
        }
        if missed != 0 {
            let _ = writeln!(
                console,
                "(oxen) {missed} messages about guests were left out (guest_loglvl)"
            );
        }
        let stamp = Stamp(console.stamps, ns);
        // Writing to the console cannot fail.
        let _ = writeln!(console, "(oxen) {stamp}{mark}{}", record.args());
        drop(console);
        // Whoever logs may hold any lock: dom0 is told by the run loop.
        irq::raise(SoftIrq::LOG);
    }

    fn flush(&self) {}
}

/// Start logging, as the command line says. Who writes waits until all is sent, until [`queue`].
pub fn init(options: &CommandLine<'_>) {
    set_levels(options.level, options.guest_levels);
    let mut console = CONSOLE.lock();
    console.input = Input::new(options.switch);
    console.stamps = options.stamps;
    for (port, serial) in console.ports.iter_mut().zip(options.console_ports()) {
        if let Some(uart) = set_up(&serial) {
            port.attach(uart, serial.irq);
        }
    }
    drop(console);
    let _ = log::set_logger(&Logger);
    log::set_max_level(LevelFilter::Trace);
}

fn set_up(port: &SerialPort) -> Option<Uart> {
    use uart_16550::spec::registers::{FifoTriggerLevel, IER, Parity as Bits, WordLength};
    use uart_16550::{BaudRate, Config, Uart16550};
    let config = Config {
        interrupts: IER::empty(),
        // What is typed comes at once, not when nothing more has come for the time of four letters. (Bochs's timer for that loses letters, and
        // invents others, where the FIFO was emptied meanwhile.)
        fifo_trigger_level: Some(FifoTriggerLevel::One),
        baud_rate: port.baud.map_or(BaudRate::Baud115200, BaudRate::from_integer),
        data_bits: match port.data_bits {
            5 => WordLength::FiveBits,
            6 => WordLength::SixBits,
            7 => WordLength::SevenBits,
            _ => WordLength::EightBits,
        },
        extra_stop_bits: port.stop_bits == 2,
        parity: match port.parity {
            Parity::None => Bits::Disabled,
            Parity::Odd => Bits::Odd,
            Parity::Even => Bits::Even,
        },
        ..Config::default()
    };
    // SAFETY: where the command line, or the PC's tradition, says that there is a UART. It belongs to the hypervisor.
    let mut uart = unsafe { Uart16550::new_port(port.base) }.ok()?;
    uart.init(config).is_ok().then_some(uart)
}

/// From here on, who writes goes on before all is sent. What a machine that hangs has not sent, nobody sees: a panic sends all.
pub fn queue() {
    CONSOLE.lock().ports.iter_mut().for_each(Port::queue);
}

/// Let the ports interrupt whose ISA interrupts are `routed` here. Another has no input, and who writes to it waits. Returns whether there is input.
pub fn enable_interrupts(routed: &[u8]) -> bool {
    let Console { ports, input, .. } = &mut *CONSOLE.lock();
    let mut any = false;
    for port in ports {
        if port.irq().is_some_and(|irq| routed.contains(&irq)) {
            port.enable_interrupts();
            any = true;
        } else {
            port.stop_queueing(|byte| input.typed(byte));
        }
    }
    any
}

/// Log nothing less severe than these: of the hypervisor's own messages, and of those that guests cause.
pub fn set_levels(own: LevelFilter, guests: GuestLevels) {
    LEVEL.store(own as u8, Relaxed);
    let [always, limited] = &GUEST_LEVELS;
    always.store(guests.always as u8, Relaxed);
    limited.store(guests.limited as u8, Relaxed);
}

/// Bytes for the terminal as they are (dom0's output). `false`: there is no room for them, and nothing is sent.
pub fn try_write(bytes: &[u8]) -> bool {
    let now = time::now_ns();
    let mut console = CONSOLE.lock();
    // Each of them, so that all go on sending.
    let mut room = true;
    for port in &mut console.ports {
        room &= port.has_room(bytes.len(), now);
    }
    if room {
        console.send(bytes);
    }
    room
}

/// Return when all is sent: before the machine stops. If somebody else writes, that ends soon, or never.
pub fn flush() {
    const PATIENCE_NS: u64 = 100_000_000;
    let end = time::now_ns() + PATIENCE_NS;
    let mut console = CONSOLE.try_lock();
    while console.is_none() && time::now_ns() < end {
        core::hint::spin_loop();
        console = CONSOLE.try_lock();
    }
    if let Some(mut console) = console {
        let Console { ports, input, .. } = &mut *console;
        for port in ports {
            port.drain(|byte| input.typed(byte));
        }
    }
}

/// dom0's input that waits, oldest first. Returns how many bytes there were.
pub fn read_bytes(to: &mut [u8]) -> usize {
    CONSOLE.lock().input.read(to)
}

/// What the ports interrupted for: take what was typed, send what waits. Returns whether there is input for dom0.
pub fn serve() -> bool {
    let Console { ports, input, .. } = &mut *CONSOLE.lock();
    for port in ports {
        port.interrupted(|byte| input.typed(byte));
    }
    input.for_dom0()
}

/// The next thing typed that is the hypervisor's own.
pub fn take_key() -> Option<Key> {
    CONSOLE.lock().input.take_key()
}

/// Keep at least `size` bytes of the log from now on. False: there is not so much memory.
pub fn enlarge_ring(size: u64) -> bool {
    if size <= RING as u64 {
        return true;
    }
    let Ok(mut ring) = fallible::slice(size as usize, |_| 0) else {
        return false;
    };
    let mut console = CONSOLE.lock();
    for at in console.written.saturating_sub(RING as u64)..console.written {
        ring[(at % size) as usize] = console.ring[(at % RING as u64) as usize];
    }
    console.larger = Some(ring);
    true
}

/// Copy the log's ring from byte `from` (counted from the start of time) into `to`, but nothing from before it was last cleared. Returns how
/// many bytes, and where to go on.
pub fn ring(from: u64, to: &mut [u8]) -> (usize, u64) {
    let mut console = CONSOLE.lock();
    let (written, cleared) = (console.written, console.cleared);
    let ring = console.ring();
    let oldest = written.saturating_sub(ring.len() as u64).max(cleared);
    let start = from.max(oldest).min(written);
    let len = (written - start).min(to.len() as u64) as usize;
    for (at, slot) in (start..).zip(to.iter_mut().take(len)) {
        *slot = ring[(at % ring.len() as u64) as usize];
    }
    (len, start + len as u64)
}

/// Forget what is in the ring.
pub fn clear_ring() {
    let mut console = CONSOLE.lock();
    console.cleared = console.written;
}

/// For a panic: whoever holds the console's lock will not go on.
///
/// # Safety
/// No other CPU may use the console any more.
pub unsafe fn seize() {
    // SAFETY: the caller sees to it that nobody else is in there.
    unsafe { CONSOLE.force_unlock() };
    crate::sync::panicked();
    let Console { ports, input, .. } = &mut *CONSOLE.lock();
    for port in ports {
        port.stop_queueing(|byte| input.typed(byte));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps() {
        let ns = 1_795_418_344_056_789_012 - time::wall_clock_base();
        let written = |stamps| alloc::format!("{}", Stamp(stamps, ns));
        assert_eq!(written(Stamps::None), "");
        assert_eq!(written(Stamps::Date), "[2026-11-23 07:19:04] ");
        assert_eq!(written(Stamps::DateMs), "[2026-11-23 07:19:04.056] ");
        let since_start = alloc::format!("{}", Stamp(Stamps::Boot, 12_000_034_999));
        assert_eq!(since_start, "[  12.000034] ");
        assert_eq!(written(Stamps::Raw).len(), "[0000000000000000] ".len());
    }
}
