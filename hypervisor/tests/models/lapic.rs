//! A vCPU's local APIC, and those who send it interrupts.

#[path = "../../src/virt/lapic/arrivals.rs"]
mod arrivals;

use apic_page::{ApicPage, reg};
use arrivals::{Arrivals, Trigger};
use loom::thread;
use std::sync::Arc;

use crate::check;
use crate::domain::wakeup::{Hold, Request, Wakeup};

/// The owner's registers, as far as the models go. Nobody else looks at them, so loom does not know of them.
pub mod apic_page {
    use std::sync::Mutex;

    pub mod reg {
        pub const TMR: u32 = 0x180;
        pub const IRR: u32 = 0x200;
    }

    pub struct ApicPage(Mutex<[u32; 64]>);

    impl ApicPage {
        pub fn new() -> Self {
            Self(Mutex::new([0; 64]))
        }

        pub fn get(&self, offset: u32) -> u32 {
            self.0.lock().expect("no panic")[offset as usize / 16]
        }

        pub fn set(&self, offset: u32, value: u32) {
            self.0.lock().expect("no panic")[offset as usize / 16] = value;
        }
    }
}

/// Vectors of one word, and the bits there.
const WORD: u32 = 1;
const BASE: u32 = 32 * WORD;
const DISK: u8 = 0x31;
const NET: u8 = 0x32;

/// A vCPU that runs.
struct Vcpu {
    wakeup: Wakeup,
    arrivals: Arrivals,
    page: ApicPage,
}

impl Vcpu {
    /// An interrupt, by a sender.
    fn raise(&self, vector: u8, trigger: Trigger) {
        self.arrivals.add(vector, trigger);
        let _ = self.wakeup.request(Request::INTERRUPT);
    }

    /// Before an entry: what the guest then serves, and which of it by an EOI for the I/O APIC, too.
    fn serve(&self) -> Vec<(u8, Trigger)> {
        if !self.wakeup.take_requests().contains(Request::INTERRUPT) {
            return Vec::new();
        }
        assert!(!self.arrivals.accept(&self.page));
        let (irr, tmr) = (reg::IRR + WORD * 16, reg::TMR + WORD * 16);
        let pending = self.page.get(irr);
        self.page.set(irr, 0);
        let levels = self.page.get(tmr);
        let trigger = |bit| {
            if levels >> bit & 1 != 0 {
                Trigger::Level
            } else {
                Trigger::Edge
            }
        };
        (0..32)
            .filter(|bit| pending >> bit & 1 != 0)
            .map(|bit| ((BASE + bit) as u8, trigger(bit)))
            .collect()
    }
}

/// `senders` beside an owner that looks once meanwhile, and again at the end if it was asked to: what was served.
fn served(
    senders: [&'static [(u8, Trigger)]; 2],
    check_served: impl Fn(&[(u8, Trigger)]) + Sync + Send + 'static,
) {
    check(Some(3), move || {
        let vcpu = Arc::new(Vcpu {
            wakeup: Wakeup::new(Hold::empty()),
            arrivals: Arrivals::default(),
            page: ApicPage::new(),
        });
        let senders = senders.map(|interrupts| {
            let vcpu = vcpu.clone();
            thread::spawn(move || {
                let raise = |(vector, trigger): &_| vcpu.raise(*vector, *trigger);
                interrupts.iter().for_each(raise);
            })
        });
        let mut served = vcpu.serve();
        for sender in senders {
            sender.join().expect("no panic");
        }
        served.extend(vcpu.serve());
        check_served(&served);
    });
}

/// Two of one word. The level is known to be one.
#[test]
fn each_interrupt_is_served_once() {
    served([&[(DISK, Trigger::Level)], &[(NET, Trigger::Edge)]], |served| {
        let times = |what| served.iter().filter(|interrupt| **interrupt == what).count();
        assert_eq!(
            (times((DISK, Trigger::Level)), times((NET, Trigger::Edge))),
            (1, 1)
        );
        assert_eq!(served.len(), 2);
    });
}

/// Two of one vector come as one or as two, and none after the last is left behind.
#[test]
fn interrupts_of_one_vector_merge_at_most() {
    served([&[(DISK, Trigger::Edge)], &[(DISK, Trigger::Edge)]], |served| {
        assert!((1..=2).contains(&served.len()), "{served:?}");
        assert!(served.iter().all(|interrupt| *interrupt == (DISK, Trigger::Edge)));
    });
}
