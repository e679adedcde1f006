//! Interrupts of the host: vectors, what each does, and work that it leaves for the run loop (soft interrupts).
//!
//! Handlers run with interrupts off and only set [`SoftIrq`] bits; the run loop of the CPU does the work before it enters a guest again.

use core::sync::atomic::Ordering::SeqCst;

use bitflags::bitflags;

use super::{apic, percpu};

/// Vectors of the host's interrupts, all in one place. Exceptions are 0 to 31.
pub mod vector {
    /// The first vector that is not an exception.
    pub const FIRST: u8 = 32;
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
    }
}

/// An interrupt of the host, from the IDT or acknowledged by a VM exit.
pub fn handle(vector: u8) {
    match vector {
        vector::TIMER => raise(SoftIrq::TIMER),
        vector::CONSOLE => raise(SoftIrq::CONSOLE),
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

/// Leave work for the run loop of CPU `id`, another one, and make it look.
pub fn raise_on(id: u32, work: SoftIrq) {
    if let Some(cpu) = percpu::get(id) {
        cpu.softirqs().fetch_or(work.bits(), SeqCst);
        apic::kick(id);
    }
}

/// Is there work for the run loop?
#[inline]
pub fn softirq_pending() -> bool {
    percpu::this().softirqs().load(SeqCst) != 0
}

/// Take the work that waits.
pub fn take_softirqs() -> SoftIrq {
    SoftIrq::from_bits_retain(percpu::this().softirqs().swap(0, SeqCst))
}

/// Let interrupts that are pending in, for a moment.
pub fn take_pending() {
    #[cfg(target_os = "none")]
    {
        x86_64::instructions::interrupts::enable();
        // STI takes effect after the next instruction.
        x86_64::instructions::nop();
        x86_64::instructions::interrupts::disable();
    }
}

/// Nothing to do: sleep until an interrupt. Returns with interrupts off.
pub fn wait() {
    #[cfg(target_os = "none")]
    if !softirq_pending() {
        x86_64::instructions::interrupts::enable_and_hlt();
        x86_64::instructions::interrupts::disable();
    }
}
