//! What a hypercall leaves in the general registers, on each way that the hypervisor has for it.
// UNSAFETY: hypercalls with chosen values in all registers.
#![expect(unsafe_code, reason = "hypercalls with chosen values in all registers")]

use alloc::format;

use abi::event_channel::EVTCHNOP_SEND;
use abi::hvm::HVM_PARAM_CALLBACK_IRQ;
use abi::hypercall::*;
use abi::version::{XEN_VERSION_4_17, XENVER_VERSION};
use guest_rt::event::UPCALL_VECTOR;
use guest_rt::hypercall::hvm;
use guests::general::{self, General};
use guests::interrupts::{self, CALLBACK};
use guests::random::Random;
use guests::report::Report;

use super::ENOSYS;

/// Calls in a list that takes more than one go.
const MANY: usize = 100;

/// A call with other registers of all kinds, before and after it.
fn call(number: u64, arguments: [u64; 2], random: &mut Random) -> (General, General) {
    let mut before: General = core::array::from_fn(|_| random.word());
    [before[0], before[1], before[2]] = [number, arguments[0], arguments[1]];
    let mut after = before;
    // SAFETY: pointers are to what the operation takes, if any.
    unsafe { general::hypercall(&mut after) };
    (before, after)
}

pub fn registers(report: &mut Report) {
    const VERSION: u64 = HYPERVISOR_XEN_VERSION as u64;
    let mut random = Random::new(7);
    let mut keeps = |name: &str, number: u64, arguments: [u64; 2], returns: i64, report: &mut Report| {
        let (before, after) = call(number, arguments, &mut random);
        report.equal(&format!("registers-{name}-returns"), after[0] as i64, returns);
        report.equal(&format!("registers-{name}"), &after[1..], &before[1..]);
    };
    let version = [XENVER_VERSION.into(), 0];
    let number = i64::from(XEN_VERSION_4_17);
    keeps("at-once", VERSION, version, number, report);
    interrupts::enable();
    keeps("interrupts-on", VERSION, version, number, report);
    interrupts::disable();
    // All bits of the number count.
    keeps("unknown", 1 << 32 | VERSION, version, ENOSYS, report);
    // The event is to be looked at before the guest goes on, and goes to a handler if interrupts are on.
    let port = interrupts::bind_callback(report);
    let send = [EVTCHNOP_SEND.into(), (&raw const port) as u64];
    keeps("news", HYPERVISOR_EVENT_CHANNEL_OP.into(), send, 0, report);
    interrupts::enable();
    let came = interrupts::count(CALLBACK);
    keeps("upcall", HYPERVISOR_EVENT_CHANNEL_OP.into(), send, 0, report);
    interrupts::disable();
    report.equal("registers-upcall-came", interrupts::count(CALLBACK), came + 1);
    let as_before = 2 << 56 | u64::from(UPCALL_VECTOR);
    let set = hvm::set_own_param(HVM_PARAM_CALLBACK_IRQ, as_before);
    report.equal("registers-callback-as-before", set, Ok(()));
    // A list of calls goes on by its arguments.
    let mut list = [MulticallEntry {
        op: VERSION,
        result: 0,
        args: [XENVER_VERSION.into(), 0, 0, 0, 0, 0],
    }; MANY];
    let calls = [(&raw mut list) as u64, MANY as u64];
    let (before, after) = call(HYPERVISOR_MULTICALL.into(), calls, &mut random);
    report.equal("registers-again-returns", after[0], 0);
    report.equal("registers-again", &after[3..], &before[3..]);
    let made = list
        .iter()
        .filter(|entry| entry.result == u64::from(XEN_VERSION_4_17));
    report.equal("registers-again-made", made.count(), MANY);
}
