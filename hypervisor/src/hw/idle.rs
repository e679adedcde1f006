//! What a CPU does that has nothing to do: it waits by MWAIT (SDM 3A, 9.10.2), which a store by another CPU ends, or by HLT, which takes an interrupt.
//!
//! No wake-up is lost: who goes to sleep says so first and then looks for work; who has work for it leaves that first and then looks whether it sleeps.
// UNSAFETY: the instructions that wait.
#![expect(unsafe_code, reason = "the instructions that wait")]

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};

use super::{irq, percpu};
use crate::arch::machine;

static MWAIT: AtomicBool = AtomicBool::new(false);

/// Use MWAIT, if that is `wanted` and good: on Intel's CPUs, as Xen does. Returns what is used, for the log.
pub fn init(wanted: bool) -> &'static str {
    const MONITOR: u32 = 1 << 3;
    let has = raw_cpuid::cpuid!(1).ecx & MONITOR != 0;
    // The largest line that MONITOR watches (SDM 2A, CPUID leaf 5).
    let fits = has && raw_cpuid::cpuid!(5).ebx as u16 as usize <= align_of::<percpu::Asleep>();
    MWAIT.store(wanted && fits && !machine::is_amd(), Relaxed);
    if MWAIT.load(Relaxed) { "MWAIT" } else { "HLT" }
}

/// Sleep until there is work for this CPU's run loop. Interrupts are off before and after.
pub(super) fn sleep() {
    if MWAIT.load(Relaxed) {
        return mwait();
    }
    if !irq::softirq_pending() {
        x86_64::instructions::interrupts::enable_and_hlt();
        x86_64::instructions::interrupts::disable();
    }
}

fn mwait() {
    let asleep = percpu::this().asleep();
    asleep.store(true, SeqCst);
    // SAFETY: MONITOR and MWAIT have no other effect than to wait; C1 (hint 0) keeps all state. STI lets interrupts in behind MWAIT only.
    unsafe {
        asm!("monitor", in("rax") asleep.as_ptr(), in("ecx") 0, in("edx") 0, options(nostack, preserves_flags));
        if asleep.load(SeqCst) && !irq::softirq_pending() {
            asm!("sti", "mwait", "cli", in("eax") 0, in("ecx") 0, options(nostack));
        }
    }
    asleep.store(false, SeqCst);
}

/// Wake a CPU, if it sleeps by MWAIT. `false`: it takes an interrupt.
pub(super) fn wake(cpu: &percpu::PerCpu) -> bool {
    let asleep = cpu.asleep();
    asleep.load(SeqCst) && asleep.swap(false, SeqCst)
}
