//! Interrupt vectors of the guest's own: counted as they come, acknowledged at the local APIC.
// UNSAFETY: sti, cli, hlt.
#![expect(unsafe_code, reason = "interrupts are enabled and disabled")]

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::event_channel::{EVTCHNOP_BIND_IPI, EvtchnBindIpi};
use abi::hvm::HVM_PARAM_CALLBACK_IRQ;
use abi::hypercall::HYPERVISOR_EVENT_CHANNEL_OP;
use guest_rt::hypercall::hvm;

use crate::report::Report;
use crate::{cpu, hypercall};

static COUNTS: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];
static X2APIC: AtomicBool = AtomicBool::new(false);

/// Vector of a callback that is not served at once.
pub const CALLBACK: u8 = 0x96;
static SERVED_AT: AtomicU64 = AtomicU64::new(0);

/// [`CALLBACK`] is served, by taking what is pending, from its `count`-th coming on.
pub fn serve_callback_at(count: u64) {
    SERVED_AT.store(count, Ordering::SeqCst);
}

/// A port of the first vCPU's own, whose events come as [`CALLBACK`] and are served at once.
pub fn bind_callback(report: &mut Report) -> u32 {
    /// HVM_PARAM_CALLBACK_IRQ: the vector in the low byte.
    const VIA_VECTOR: u64 = 2 << 56;
    let port = bind_ipi(0, report);
    let set = hvm::set_own_param(HVM_PARAM_CALLBACK_IRQ, VIA_VECTOR | u64::from(CALLBACK));
    report.equal("set-callback", set, Ok(()));
    serve_callback_at(0);
    port
}

/// A port for events to one of this guest's vCPUs.
pub fn bind_ipi(vcpu: u32, report: &mut Report) -> u32 {
    let mut bind = EvtchnBindIpi { vcpu, port: 0 };
    let bound = hypercall::op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_IPI, &mut bind);
    report.equal("bind-ipi", bound, 0);
    bind.port
}

/// First vector that is an interrupt's.
pub const FIRST: u8 = 32;

/// Called by the trap hook.
pub(crate) fn arrived(vector: u8) {
    let count = COUNTS[usize::from(vector)].fetch_add(1, Ordering::SeqCst) + 1;
    if vector == CALLBACK && count >= SERVED_AT.load(Ordering::SeqCst) {
        guest_rt::event::take_pending(|_| ());
    }
    if X2APIC.load(Ordering::Relaxed) {
        cpu::wrmsr_in_handler(cpu::X2APIC_EOI);
    } else {
        cpu::mmio_write(cpu::APIC_EOI, 0);
    }
}

/// How many NMIs the next one's handler sends to its own CPU, and how many had come at its end.
static NMIS_WITHIN: AtomicU64 = AtomicU64::new(0);
static NMIS_AT_END: AtomicU64 = AtomicU64::new(0);

/// Called by the trap hook.
pub(crate) fn nmi_arrived() {
    let nmis = &COUNTS[usize::from(cpu::NMI)];
    nmis.fetch_add(1, Ordering::SeqCst);
    let within = NMIS_WITHIN.swap(0, Ordering::SeqCst);
    if within != 0 {
        (0..within).for_each(|_| send_nmi());
        NMIS_AT_END.store(nmis.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

/// Sends an NMI to the first vCPU, by the local APIC.
pub fn send_nmi() {
    cpu::mmio_write(cpu::APIC_ICR_HIGH, 0);
    cpu::mmio_write(cpu::APIC_ICR, cpu::ICR_NMI);
}

/// Sends an NMI whose handler sends others; how many had come at the end of that.
pub fn send_nmi_that_sends(others: u64) -> u64 {
    NMIS_WITHIN.store(others, Ordering::SeqCst);
    send_nmi();
    NMIS_AT_END.load(Ordering::SeqCst)
}

/// Sends an NMI in the shadow of an STI; interrupts are off again behind it.
pub fn send_nmi_in_shadow() {
    cpu::mmio_write(cpu::APIC_ICR_HIGH, 0);
    // SAFETY: as for `enable`; the store is to a register of the local APIC.
    unsafe {
        asm!("sti", "mov [{}], {:e}", "cli", in(reg) cpu::APIC_ICR, in(reg) cpu::ICR_NMI, options(nostack))
    }
}

/// Acknowledge by the x2APIC's register from now on.
pub fn use_x2apic() {
    X2APIC.store(true, Ordering::Relaxed);
}

/// How often a vector has come so far.
pub fn count(vector: u8) -> u64 {
    COUNTS[usize::from(vector)].load(Ordering::SeqCst)
}

/// Let interrupts in; one that waits is taken before this returns.
pub fn enable() {
    // SAFETY: every vector has a handler, none of which touches what is interrupted. `sti` lets interrupts in one
    // instruction later (SDM 2B, STI).
    unsafe { asm!("sti", "nop", options(nostack)) }
}

/// Keep interrupts out.
pub fn disable() {
    // SAFETY: has no other effect.
    unsafe { asm!("cli", options(nostack)) }
}

/// Runs `body` with interrupts let in.
pub fn enabled<T>(body: impl FnOnce() -> T) -> T {
    enable();
    let result = body();
    disable();
    result
}

/// Halts until an interrupt has been taken. Interrupts are off before and after.
pub fn halt() {
    // SAFETY: as for `enable`; nothing is taken between `sti` and `hlt`.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
}
