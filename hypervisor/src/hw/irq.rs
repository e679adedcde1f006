//! Interrupts of the host: vectors, what each does, and work that it leaves for the run loop (soft interrupts).
//!
//! Handlers run with interrupts off and only set [`SoftIrq`] bits; the run loop of the CPU does the work before it enters a guest again.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use bitflags::bitflags;

#[cfg(target_os = "none")]
use super::idle;
use super::{apic, ioapic, percpu};

/// Vectors of the host's interrupts, all in one place. Exceptions are 0 to 31.
pub mod vector {
    /// The first vector that is not an exception.
    pub const FIRST: u8 = 32;
    /// Line 0 of the I/O APICs, for dom0; the others follow.
    pub const LINES: u8 = 0x30;
    /// Behind the last one.
    pub const LINES_END: u8 = 0xe0;

    /// The vector of line `gsi` when it is dom0's.
    pub fn of_line(gsi: u32) -> Option<u8> {
        let vector = u8::try_from(gsi).ok()?.checked_add(LINES)?;
        (vector < LINES_END).then_some(vector)
    }

    /// UART with console input.
    pub const CONSOLE: u8 = 0xe0;
    /// One-shot timer of the local APIC.
    pub const TIMER: u8 = 0xf0;
    /// Another CPU has set something for us.
    pub const KICK: u8 = 0xf1;
    /// Spurious interrupt of the local APIC; no EOI.
    pub const SPURIOUS: u8 = 0xff;
}

bitflags! {
    /// Work for the run loop.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct SoftIrq: u32 {
        /// The timer has fired.
        const TIMER = 1 << 0;
        /// The UART has input.
        const CONSOLE = 1 << 1;
        /// There was a non-maskable interrupt.
        const NMI = 1 << 2;
        /// Another CPU wants the vCPU whose registers were left here.
        const EVICT = 1 << 3;
        /// Lines of dom0 have interrupted.
        const LINES = 1 << 4;
        /// The registers of the vCPU that runs here, or was left here, are to be logged.
        const REGISTERS = 1 << 5;
        /// The TSC is not trusted any more: reads of it by the vCPU that runs here are to exit.
        const TSC = 1 << 6;
        /// The log has new lines.
        const LOG = 1 << 7;
    }
}

/// Lines that have interrupted and that dom0 has not been told of.
static ARRIVED: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

fn line_arrived(gsi: u8) {
    ioapic::arrived(gsi.into());
    if let Some(word) = ARRIVED.get(usize::from(gsi / 64)) {
        word.fetch_or(1 << (gsi % 64), SeqCst);
    }
    raise(SoftIrq::LINES);
}

/// Call `tell` for each line that has interrupted.
pub fn take_lines(mut tell: impl FnMut(u32)) {
    for (index, word) in ARRIVED.iter().enumerate() {
        let mut lines = word.swap(0, SeqCst);
        while lines != 0 {
            tell(index as u32 * 64 + lines.trailing_zeros());
            lines &= lines - 1;
        }
    }
}

/// An interrupt of the host, from the IDT or acknowledged by a VM exit.
pub fn handle(vector: u8) {
    match vector {
        vector::TIMER => raise(SoftIrq::TIMER),
        vector::CONSOLE => raise(SoftIrq::CONSOLE),
        vector::LINES..vector::LINES_END => line_arrived(vector - vector::LINES),
        // The exit or wake-up was the point.
        vector::KICK => {}
        vector::SPURIOUS => return,
        _ => log::warn!("unexpected interrupt, vector {vector:#x}"),
    }
    apic::end_of_interrupt();
}

/// Leave work for this CPU's run loop.
pub fn raise(work: SoftIrq) {
    percpu::this().softirqs().fetch_or(work.bits(), SeqCst);
}

/// Is there this work for this CPU's run loop?
pub fn raised(work: SoftIrq) -> bool {
    SoftIrq::from_bits_retain(percpu::this().softirqs().load(SeqCst)).contains(work)
}

/// Leave work for the run loop of CPU `id`, and make it look. Returns whether it had not been left there already.
pub fn raise_on(id: u32, work: SoftIrq) -> bool {
    let Some(cpu) = percpu::get(id) else {
        return false;
    };
    let before = cpu.softirqs().fetch_or(work.bits(), SeqCst);
    apic::kick(id);
    !SoftIrq::from_bits_retain(before).contains(work)
}

/// Is there work for the run loop?
#[inline]
pub fn softirq_pending() -> bool {
    percpu::any_softirq()
}

/// Take the work that waits.
pub fn take_softirqs() -> SoftIrq {
    SoftIrq::from_bits_retain(percpu::this().softirqs().swap(0, SeqCst))
}

/// Nothing to do: sleep until there is, or may be. Returns with interrupts off.
pub fn wait() {
    #[cfg(target_os = "none")]
    idle::sleep();
}
