//! FIFO queues between senders and a guest that takes events from them, and the guest's switch to these from bits.

#[path = "../../src/event/fifo.rs"]
mod fifo;
#[path = "../../src/event/switch.rs"]
mod switch;
#[path = "../../src/event/two_level.rs"]
mod two_level;

use abi::event_channel::{
    EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MASKED, EVTCHN_FIFO_PENDING,
    EVTCHN_FIFO_PRIORITY_DEFAULT,
};
use fifo::{Fifo, PortState};
use loom::thread;
use std::sync::Arc;
use switch::Switch;
use two_level::{VcpuEvents, Words};

use crate::check;
use crate::mm::guest::GuestFrame;
use crate::sync::atomic::{AtomicU32, Ordering::SeqCst};
use crate::types::{Port, VcpuId};

const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;

const VCPU: VcpuId = VcpuId(0);
const PRIORITY: u64 = EVTCHN_FIFO_PRIORITY_DEFAULT as u64;
const PORTS: usize = 4;

/// A domain of one vCPU.
struct Domain {
    switch: Switch,
    fifo: Fifo,
    ports: [PortState; PORTS],
    events: VcpuEvents,
    info: GuestFrame,
    control: GuestFrame,
    words: GuestFrame,
}

/// What the guest remembers between its upcalls.
#[derive(Default)]
struct Guest {
    head: u32,
    taken: [u32; PORTS],
}

impl Domain {
    /// One that uses FIFO queues.
    fn new() -> Arc<Self> {
        let domain = Self::before_the_switch();
        domain.switches();
        domain
    }

    /// One that has given its vCPU a control block, and has not switched yet.
    fn before_the_switch() -> Arc<Self> {
        let (info, control, words) = (GuestFrame::new(), GuestFrame::new(), GuestFrame::new());
        let (fifo, events) = (Fifo::new(), VcpuEvents::new());
        events.attach(VCPU, info.share());
        fifo.set_control(VCPU, 1, control.share(), 0).expect("the first");
        Arc::new(Self {
            switch: Switch::default(),
            ports: std::array::from_fn(|_| PortState::new()),
            fifo,
            events,
            info,
            control,
            words,
        })
    }

    /// The guest switches, and then gives its ports words.
    fn switches(&self) {
        let ports = (0..).map(Port).zip(&self.ports);
        self.switch.make(&self.info, ports.skip(1));
        self.fifo.add_page(self.words.share()).expect("the first");
        for (port, state) in (0..).zip(&self.ports) {
            if state.take_held_back() {
                self.send(port);
            }
        }
    }

    /// An event, whichever way the domain gets them.
    fn notify(&self, port: u32) {
        if !self.switch.is_made() {
            let _ = two_level::set_pending(&self.info, Words::LONG, &self.events, Port(port));
            if !self.switch.is_made() {
                return;
            }
        }
        self.send(port);
    }

    fn send(&self, port: u32) {
        let state = &self.ports[port as usize];
        let _ = self.fifo.set_pending(Port(port), state, VCPU, &self.events);
    }

    fn word(&self, port: u32) -> &AtomicU32 {
        self.words.u32_at(u64::from(port) * 4)
    }

    /// A guest unmasks as Linux does: by itself if nothing is pending, else by the hypercall.
    fn unmask(&self, port: u32) {
        let word = self.word(port);
        let mut seen = word.load(SeqCst);
        while seen & PENDING == 0 {
            match word.compare_exchange(seen, seen & !MASKED, SeqCst, SeqCst) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
        self.fifo
            .unmask(Port(port), &self.ports[port as usize], VCPU, &self.events);
    }

    /// The guest's upcall, as Linux has it, if one is due.
    fn upcall(&self, guest: &mut Guest) {
        while self.info.u8_at(0).swap(0, SeqCst) != 0 {
            while self.control.u32_at(0).swap(0, SeqCst) != 0 {
                while self.take(guest) {}
            }
        }
    }

    /// Take the first word of the queue. `false`: it was the last one.
    fn take(&self, guest: &mut Guest) -> bool {
        if guest.head == 0 {
            guest.head = self.control.u32_at(8 + PRIORITY * 4).load(SeqCst);
        }
        let port = guest.head;
        let word = self.word(port);
        let mut seen = word.load(SeqCst);
        while let Err(now) =
            word.compare_exchange(seen, seen & !(LINKED | EVTCHN_FIFO_LINK_MASK), SeqCst, SeqCst)
        {
            seen = now;
        }
        guest.head = seen & EVTCHN_FIFO_LINK_MASK;
        if word.load(SeqCst) & (PENDING | MASKED) == PENDING {
            word.fetch_and(!PENDING, SeqCst);
            guest.taken[port as usize] += 1;
        }
        guest.head != 0
    }
}

/// Senders at once, while the guest takes events; what is sent after an event was taken is a new one.
fn delivers(preemptions: Option<usize>, senders: &'static [&'static [u32]]) {
    check(preemptions, move || {
        let domain = Domain::new();
        let senders: Vec<_> = senders
            .iter()
            .map(|ports| {
                let domain = domain.clone();
                thread::spawn(move || ports.iter().for_each(|port| domain.send(*port)))
            })
            .collect();
        let mut guest = Guest::default();
        domain.upcall(&mut guest);
        for sender in senders {
            sender.join().expect("no panic");
        }
        domain.upcall(&mut guest);
        for port in 1..PORTS as u32 {
            let word = domain.word(port).load(SeqCst);
            assert_eq!(word & (PENDING | LINKED), 0, "port {port} is left behind");
        }
        assert!(guest.taken[1] > 0 && guest.taken[2] > 0);
    });
}

#[test]
fn two_senders_and_the_guest_agree_on_a_queue() {
    delivers(None, &[&[1], &[2]]);
}

#[test]
fn a_word_that_is_sent_again_is_linked_anew() {
    delivers(None, &[&[1, 2, 1]]);
}

#[test]
fn a_word_that_was_last_and_is_sent_again_leads_nowhere_else() {
    delivers(Some(5), &[&[1, 1], &[2]]);
}

#[test]
fn two_senders_of_a_port_link_its_word_once() {
    delivers(Some(4), &[&[1, 2], &[1, 3]]);
}

/// An event that comes while the guest unmasks its port is delivered by the sender or by the unmasking.
#[test]
fn an_event_is_not_lost_to_an_unmasking() {
    check(None, || {
        let domain = Domain::new();
        domain.word(1).fetch_or(MASKED, SeqCst);
        let sender = {
            let domain = domain.clone();
            thread::spawn(move || domain.send(1))
        };
        domain.unmask(1);
        let mut guest = Guest::default();
        domain.upcall(&mut guest);
        sender.join().expect("no panic");
        domain.upcall(&mut guest);
        assert_eq!(guest.taken[1], 1);
    });
}

/// The guest switches from bits to queues while events come: each comes by a queue, for all that it was a bit.
fn switches(preemptions: Option<usize>, ports: &'static [u32]) {
    check(preemptions, move || {
        let domain = Domain::before_the_switch();
        let send = |port: &u32| {
            let (domain, port) = (domain.clone(), *port);
            thread::spawn(move || domain.notify(port))
        };
        let senders: Vec<_> = ports.iter().map(send).collect();
        domain.switches();
        let mut guest = Guest::default();
        domain.upcall(&mut guest);
        for sender in senders {
            sender.join().expect("no panic");
        }
        domain.upcall(&mut guest);
        assert!(ports.iter().all(|port| guest.taken[*port as usize] > 0));
    });
}

#[test]
fn an_event_is_not_lost_to_the_switch() {
    switches(None, &[1]);
}

#[test]
fn nor_are_two() {
    switches(Some(4), &[1, 2]);
}
