//! 2-level delivery, bit by bit.

use super::two_level::*;
use crate::mm::guest::GuestFrame;
use crate::sync::atomic::Ordering::SeqCst;
use crate::types::{DomId, Port, VcpuId};

/// Offset in a `vcpu_info`.
const UPCALL_MASK: u64 = 1;

const QUIET: Delivery = Delivery {
    news: true,
    upcall: false,
};

fn frame() -> GuestFrame {
    GuestFrame::new(DomId(9201)).expect("arena")
}

fn attached(vcpu: u32) -> (GuestFrame, VcpuEvents) {
    let (shared, events) = (frame(), VcpuEvents::new());
    events.attach(VcpuId(vcpu), shared.share().expect("few references"));
    (shared, events)
}

#[test]
fn delivery_goes_level_by_level() {
    let (shared, events) = attached(2);
    assert_eq!(
        set_pending(&shared, Words::LONG, &events, Port(130)),
        Delivery {
            news: true,
            upcall: true
        }
    );
    assert_eq!(shared.u64_at(2048 + 16).load(SeqCst), 1 << 2);
    assert_eq!(shared.u64_at(128 + 8).load(SeqCst), 1 << 2, "selector of vCPU 2");
    assert!(events.upcall_pending());
    assert_eq!(
        set_pending(&shared, Words::LONG, &events, Port(130)),
        Delivery {
            news: false,
            upcall: false
        }
    );
    assert_eq!(
        set_pending(&shared, Words::LONG, &events, Port(131)),
        QUIET,
        "selector was set"
    );
    assert_eq!(
        set_pending(&shared, Words::LONG, &events, Port(4095)),
        QUIET,
        "upcall flag was set"
    );
    assert_eq!(shared.u64_at(128 + 8).load(SeqCst), 1 << 2 | 1 << 63);
}

#[test]
fn a_mask_holds_back_until_unmask() {
    let (shared, events) = attached(0);
    shared.u64_at(2560).store(1 << 5, SeqCst);
    assert_eq!(set_pending(&shared, Words::LONG, &events, Port(5)), QUIET);
    assert!(!events.upcall_pending());
    assert!(is_pending(&shared, Port(5)));
    assert!(unmask(&shared, Words::LONG, &events, Port(5)));
    assert!(events.upcall_pending());
    assert!(!unmask(&shared, Words::LONG, &events, Port(5)), "was not masked");
    shared.u64_at(2560).store(1 << 6, SeqCst);
    assert!(
        !unmask(&shared, Words::LONG, &events, Port(6)),
        "nothing was pending"
    );
    clear_pending(&shared, Port(5));
    assert!(!is_pending(&shared, Port(5)));
}

#[test]
fn a_registered_info_takes_over() {
    let (shared, events) = attached(1);
    shared.u8_at(64 + UPCALL_MASK).store(1, SeqCst);
    let new = frame();
    events
        .register(new.share().expect("few references"), 192)
        .expect("first time");
    assert_eq!(events.register(frame(), 0), Err(AlreadyRegistered));
    events.set_all_pending(Words::LONG);
    assert!(events.upcall_pending());
    assert_eq!(new.u8_at(192 + UPCALL_MASK).load(SeqCst), 1, "carried over");
    events.unmask_upcalls();
    assert_eq!(new.u8_at(192 + UPCALL_MASK).load(SeqCst), 0);
    assert_eq!(shared.u8_at(64).load(SeqCst), 0, "the old place is left alone");
    events.forget();
    assert!(!events.upcall_pending());
}

#[test]
fn a_large_vcpu_number_needs_registration() {
    let (shared, events) = attached(40);
    assert_eq!(set_pending(&shared, Words::LONG, &events, Port(9)), QUIET);
    let new = frame();
    events
        .register(new.share().expect("few references"), 0)
        .expect("first time");
    events.set_all_pending(Words::LONG);
    assert!(events.upcall_pending());
    assert_eq!(new.u8_at(UPCALL_MASK).load(SeqCst), 1, "begins masked");
}

#[test]
fn words_of_32_bits() {
    let (shared, events) = attached(2);
    let words = Words::COMPAT;
    assert_eq!(words.ports(), 1024);
    assert!(set_pending(&shared, words, &events, Port(130)).upcall);
    assert_eq!(shared.u32_at(2048 + 16).load(SeqCst), 1 << 2);
    assert_eq!(shared.u32_at(128 + 4).load(SeqCst), 1 << 4, "selector of vCPU 2");
    assert_eq!(shared.u64_at(128 + 8).load(SeqCst), 0);
    assert_eq!(set_pending(&shared, words, &events, Port(1023)), QUIET);
    assert_eq!(shared.u32_at(128 + 4).load(SeqCst), 1 << 4 | 1 << 31);
    shared.u32_at(2176 + 4).store(1 << 5, SeqCst);
    shared.u64_at(128).store(0, SeqCst);
    assert_eq!(set_pending(&shared, words, &events, Port(37)), QUIET, "masked");
    assert!(unmask(&shared, words, &events, Port(37)));
    assert_eq!(shared.u32_at(128 + 4).load(SeqCst), 1 << 1);
    shared.u64_at(128).store(0, SeqCst);
    events.set_all_pending(words);
    assert_eq!(shared.u64_at(128).load(SeqCst), 0xffff_ffff_0000_0001);
}
