//! The NMI watchdog (`watchdog`): a CPU that stands still, with interrupts off, is reported with its registers and a backtrace, and the machine panics.
//!
//! Every CPU beats about once a second, from its timer. Timer 0 of the PIT (8254) interrupts CPU 0 as NMI, whatever that is doing, which looks at
//! all beats; another CPU that has none left for too long gets an NMI in its turn, and reports itself. So one CPU is watched like many, and any number may hang
//! at once. Time is counted in NMIs: a machine that is itself held up, being emulated, counts none meanwhile.
// UNSAFETY: port I/O.
#![expect(unsafe_code, reason = "port I/O")]

use core::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst};

use x86_64::instructions::port::Port;

use super::ioapic::{self, Line};
use super::percpu::{self, MAX_CPUS};
use super::traps::Frame;
use super::{apic, panic, time};

/// Between two beats of a CPU, in nanoseconds.
pub const BEAT: u64 = 1_000_000_000;
/// NMIs in 10 seconds: the PIT divides 1,193,182 Hz by 65,536.
const NMIS_IN_10_S: u32 = 182;

/// NMIs without a beat that a CPU is allowed; 0: nobody watches.
static LIMIT: AtomicU32 = AtomicU32::new(0);
/// NMIs of the PIT so far.
static NMIS: AtomicU32 = AtomicU32::new(0);
/// A CPU's beats, of which 0 means that nobody watches it; and how many there were when, in [`NMIS`], they changed last.
static BEATS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
static SEEN: [[AtomicU32; 2]; MAX_CPUS] = [const { [const { AtomicU32::new(0) }; 2] }; MAX_CPUS];
/// The CPU that is to report itself, or [`NOBODY`].
static STUCK: AtomicU32 = AtomicU32::new(NOBODY);
const NOBODY: u32 = u32::MAX;

/// What came of [`start`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trial {
    /// NMIs come.
    Works,
    /// None has come within a beat.
    Silent,
    /// There is no I/O APIC by which one could.
    NoLine,
}

/// Watch, on CPU 0, every CPU from its first beat on, if NMIs come; `timeout` in seconds. `timer` is where the PIT's interrupt arrives.
pub fn start(timeout: u32, timer: Line) -> Trial {
    const CHANNEL_0_MODE_2: u8 = 0b0011_0100;
    if !ioapic::route_nmi(timer) {
        return Trial::NoLine;
    }
    // SAFETY: channel 0 of the PIT is the hypervisor's; it drives nothing but this line.
    unsafe {
        Port::<u8>::new(0x43).write(CHANNEL_0_MODE_2);
        // 0 stands for 65,536.
        Port::<u8>::new(0x40).write(0);
        Port::<u8>::new(0x40).write(0);
    }
    LIMIT.store((timeout.saturating_mul(NMIS_IN_10_S) / 10).max(1), SeqCst);
    let patience = time::now_ns() + BEAT;
    while NMIS.load(SeqCst) < 2 {
        if time::now_ns() > patience {
            return Trial::Silent;
        }
        core::hint::spin_loop();
    }
    Trial::Works
}

/// Nobody watches.
pub fn stop() {
    LIMIT.store(0, SeqCst);
}

/// This CPU makes progress.
pub fn beat() {
    if let Some(beats) = BEATS.get(percpu::id() as usize) {
        let next = beats.load(Relaxed).wrapping_add(1);
        beats.store(next.max(1), SeqCst);
    }
}

/// Watch this CPU no more, until it beats.
pub fn forget() {
    if let Some(beats) = BEATS.get(percpu::id() as usize) {
        beats.store(0, SeqCst);
    }
}

/// A non-maskable interrupt came to this CPU. `true`: it was the watchdog's.
pub(super) fn look(frame: &Frame) -> bool {
    let here = percpu::id();
    if STUCK.load(SeqCst) == here {
        report(frame);
    }
    let limit = LIMIT.load(SeqCst);
    if limit == 0 || here != 0 {
        return false;
    }
    let now = NMIS.fetch_add(1, SeqCst).wrapping_add(1);
    for (cpu, (beats, [seen, since])) in (0..).zip(BEATS.iter().zip(&SEEN)) {
        let beats = beats.load(SeqCst);
        if beats == 0 || beats != seen.swap(beats, Relaxed) {
            since.store(now, Relaxed);
        } else if now.wrapping_sub(since.load(Relaxed)) > limit {
            if cpu == here {
                report(frame);
            }
            if STUCK.swap(cpu, SeqCst) == cpu {
                panic!("Watchdog timer detects that CPU{cpu} is stuck, and takes no NMI!");
            }
            // It has as long again for its report.
            since.store(now, Relaxed);
            apic::interrupt(cpu);
        }
    }
    true
}

fn report(frame: &Frame) -> ! {
    panic::fatal(
        format_args!("Watchdog timer detects that CPU{} is stuck!", percpu::id()),
        frame,
    )
}
