//! Event channels, 2-level ABI.
//!
//! The upcall interrupt only wakes the vCPU: what is pending is collected by [`take_pending`] in ordinary context.
//! Ports stay unmasked, but those that somebody polls.
// UNSAFETY: the shared info page is written by the hypervisor; interrupts are enabled for `hlt`.
#![expect(unsafe_code, reason = "shared info page, sti/hlt")]

use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use abi::shared_info::{SharedInfo, VcpuInfo, VcpuTimeInfo};

use crate::hypercall::{hvm, memory};

/// Vector of the upcall.
pub const UPCALL_VECTOR: u8 = 0x30;

/// `HVM_PARAM_CALLBACK_IRQ` type "vector", bits 63:56.
const CALLBACK_VIA_VECTOR: u64 = 2 << 56;

/// The page that the hypervisor replaces with the domain's shared info.
#[repr(C, align(4096))]
struct SharedPage(UnsafeCell<SharedInfo>);

// SAFETY: only reached through the atomic accessors below.
unsafe impl Sync for SharedPage {}

static SHARED: SharedPage = SharedPage(UnsafeCell::new(zerocopy::transmute!(
    [0u8; size_of::<SharedInfo>()]
)));

const PENDING: usize = offset_of!(SharedInfo, evtchn_pending);
const MASK: usize = offset_of!(SharedInfo, evtchn_mask);
const UPCALL_PENDING: usize = offset_of!(VcpuInfo, evtchn_upcall_pending);
const PENDING_SEL: usize = offset_of!(VcpuInfo, evtchn_pending_sel);
const TIME: usize = offset_of!(VcpuInfo, time);

fn word(offset: usize) -> &'static AtomicU64 {
    assert!(offset.is_multiple_of(8) && offset + 8 <= size_of::<SharedInfo>());
    // SAFETY: in bounds and aligned, and all access by this guest is atomic.
    unsafe { &*SHARED.0.get().cast::<u8>().add(offset).cast::<AtomicU64>() }
}

fn upcall_pending() -> &'static AtomicU8 {
    // SAFETY: in bounds (first byte of vcpu_info[0]), and all access by this guest is atomic.
    unsafe { &*SHARED.0.get().cast::<u8>().add(UPCALL_PENDING).cast::<AtomicU8>() }
}

/// Maps the shared info page and asks for upcalls on [`UPCALL_VECTOR`].
pub(crate) fn init() {
    memory::map_shared_info(SHARED.0.get() as u64 >> 12).expect("mapping the shared info page");
    hvm::set_own_param(
        abi::hvm::HVM_PARAM_CALLBACK_IRQ,
        CALLBACK_VIA_VECTOR | u64::from(UPCALL_VECTOR),
    )
    .expect("setting the event upcall vector");
}

/// Interrupt context: takes note that the upcall came.
pub(crate) fn acknowledge() {
    upcall_pending().store(0, Ordering::SeqCst);
}

/// Calls `found` for every pending port, clearing it first; an event sent meanwhile is found by the next call.
pub fn take_pending(mut found: impl FnMut(u32)) {
    upcall_pending().store(0, Ordering::SeqCst);
    let mut selector = word(PENDING_SEL).swap(0, Ordering::SeqCst);
    while selector != 0 {
        let index = selector.trailing_zeros();
        selector &= selector - 1;
        let mut bits = word(PENDING + index as usize * 8).swap(0, Ordering::SeqCst);
        while bits != 0 {
            found(index * 64 + bits.trailing_zeros());
            bits &= bits - 1;
        }
    }
}

/// Has a port cause no upcalls, for a vCPU that polls it.
pub fn mask(port: u32) {
    word(MASK + port as usize / 64 * 8).fetch_or(1 << (port % 64), Ordering::SeqCst);
}

/// Takes the event of one port, if there is one.
pub fn take(port: u32) -> bool {
    let bit = 1 << (port % 64);
    word(PENDING + port as usize / 64 * 8).fetch_and(!bit, Ordering::SeqCst) & bit != 0
}

/// Stops the vCPU until an event is pending. Spurious returns are possible.
///
/// The flag alone does not say whether one is: QEMU's TCG (10.0) may deliver an interrupt that was injected a second time, interrupts on or
/// off, if it leaves its execution loop before the next exit; [`acknowledge`] then clears the flag of an event that came since.
pub fn wait() {
    if upcall_pending().load(Ordering::SeqCst) == 0 && word(PENDING_SEL).load(Ordering::SeqCst) == 0 {
        // SAFETY: handlers save and restore all registers; STI's shadow makes an upcall that arrives between the
        // check and HLT end the HLT (SDM 2B, STI).
        unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
    }
}

/// A consistent copy of vCPU 0's clock page.
pub(crate) fn clock() -> VcpuTimeInfo {
    const WORDS: usize = size_of::<VcpuTimeInfo>() / 8;
    loop {
        let copy: [u64; WORDS] = core::array::from_fn(|index| word(TIME + index * 8).load(Ordering::Acquire));
        let again = word(TIME).load(Ordering::Acquire);
        let clock: VcpuTimeInfo = zerocopy::transmute!(copy);
        if copy[0] == again && clock.version.is_multiple_of(2) {
            return clock;
        }
    }
}
