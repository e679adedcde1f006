//! FIFO delivery against a model, against threads, and against a guest that writes what it likes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64};

use proptest::prelude::*;

use super::fifo::WORDS;
use super::*;
use crate::hypercall::testing::World;
use abi::event_channel::*;
use core::sync::atomic::Ordering::SeqCst;

const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
const BUSY: u32 = 1 << EVTCHN_FIFO_BUSY;

const CONTROL: Gfn = Gfn(8);
const ARRAY: Gfn = Gfn(9);
const VCPUS: u32 = 2;
const PAIRS: usize = 5;

/// A guest's side of the protocol: what a vCPU keeps, the words, and pairs of ports, of which one end sends to the other.
struct Guest {
    world: World,
    control: GuestFrame,
    words: GuestFrame,
    ready: [u32; VCPUS as usize],
    heads: [[u32; EVTCHN_FIFO_MAX_QUEUES]; VCPUS as usize],
    /// Ports to send on, and where that arrives.
    pairs: Vec<(Port, Port)>,
}

fn control_at(vcpu: u32) -> u32 {
    vcpu * 128
}

impl Guest {
    fn new() -> Self {
        let world = World::new();
        let domain = &world.domain;
        for vcpu in 0..VCPUS {
            init_control(domain, VcpuId(vcpu), CONTROL, control_at(vcpu)).expect("control block");
        }
        expand_array(domain, ARRAY).expect("words");
        let pair = |_| {
            let to = alloc_unbound(domain, domain.id).expect("a port");
            let from = bind_interdomain(domain, domain, to).expect("a port");
            (from, to)
        };
        let pairs = (0..PAIRS).map(pair).collect();
        let page = |gfn| domain.pin(gfn, Access::Write).expect("RAM");
        let mut guest = Self {
            control: page(CONTROL),
            words: page(ARRAY),
            ready: [0; VCPUS as usize],
            heads: [[0; EVTCHN_FIFO_MAX_QUEUES]; VCPUS as usize],
            pairs,
            world,
        };
        // A bind makes the new end pending.
        while guest.take(0).is_some() {}
        guest
    }

    fn word(&self, port: Port) -> &AtomicU32 {
        self.words.u32_at(u64::from(port.0) * 4)
    }

    fn events(&self, vcpu: u32) -> &VcpuEvents {
        &self.world.domain.vcpu(VcpuId(vcpu)).expect("vcpu").events
    }

    /// Take the next word of a vCPU's queues. The port, and whether there was an event.
    fn take(&mut self, vcpu: u32) -> Option<(Port, bool)> {
        let at = u64::from(control_at(vcpu));
        let v = vcpu as usize;
        self.ready[v] |= self.control.u32_at(at).swap(0, SeqCst);
        if self.ready[v] == 0 {
            return None;
        }
        let priority = self.ready[v].trailing_zeros();
        let head = &mut self.heads[v][priority as usize];
        if *head == 0 {
            *head = self.control.u32_at(at + 8 + u64::from(priority) * 4).load(SeqCst);
        }
        let port = Port(*head);
        let word = self.words.u32_at(u64::from(port.0) * 4);
        let before = word
            .fetch_update(SeqCst, SeqCst, |word| {
                Some(word & !(LINKED | EVTCHN_FIFO_LINK_MASK))
            })
            .expect("always");
        *head = before & EVTCHN_FIFO_LINK_MASK;
        if *head == 0 {
            self.ready[v] &= !(1 << priority);
        }
        let handled = word
            .fetch_update(SeqCst, SeqCst, |word| {
                (word & (PENDING | MASKED) == PENDING).then_some(word & !PENDING)
            })
            .is_ok();
        Some((port, handled))
    }

    fn mask(&self, port: Port) {
        self.word(port).fetch_or(MASKED, SeqCst);
    }

    /// As the protocol has it: only what is not pending, and not while the word is busy.
    fn unmask(&self, port: Port) {
        loop {
            let word = self.word(port).load(SeqCst) & !BUSY;
            if word & MASKED == 0 {
                return;
            }
            if word & PENDING != 0 {
                return super::unmask(&self.world.domain, port).expect("a port");
            }
            let unmasked = word & !MASKED;
            if self
                .word(port)
                .compare_exchange(word, unmasked, SeqCst, SeqCst)
                .is_ok()
            {
                return;
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Send(usize),
    Mask(usize),
    Unmask(usize),
    Priority(usize, u32),
    Move(usize, u32),
    Take(u32, usize),
    Scribble(u64, u32),
    ScribbleControl(u64, u32),
}

fn protocol() -> impl Strategy<Value = Op> {
    let pair = 0..PAIRS;
    prop_oneof![
        4 => pair.clone().prop_map(Op::Send),
        1 => pair.clone().prop_map(Op::Mask),
        1 => pair.clone().prop_map(Op::Unmask),
        1 => (pair.clone(), 0..16u32).prop_map(|(pair, priority)| Op::Priority(pair, priority)),
        1 => (pair, 0..VCPUS).prop_map(|(pair, vcpu)| Op::Move(pair, vcpu)),
        2 => (0..VCPUS, 1..6usize).prop_map(|(vcpu, count)| Op::Take(vcpu, count)),
    ]
}

/// What each port's word says, and what is in which queue.
#[derive(Default)]
struct Model {
    pending: [bool; PAIRS],
    masked: [bool; PAIRS],
    linked: [bool; PAIRS],
    target: [(u32, u32); PAIRS],
    queues: [[VecDeque<usize>; 16]; VCPUS as usize],
}

impl Model {
    fn link(&mut self, pair: usize) {
        if self.pending[pair] && !self.masked[pair] && !self.linked[pair] {
            let (vcpu, priority) = self.target[pair];
            self.linked[pair] = true;
            self.queues[vcpu as usize][priority as usize].push_back(pair);
        }
    }

    fn take(&mut self, vcpu: u32) -> Option<(usize, bool)> {
        let pair = self.queues[vcpu as usize]
            .iter_mut()
            .find_map(VecDeque::pop_front)?;
        self.linked[pair] = false;
        let handled = self.pending[pair] && !self.masked[pair];
        self.pending[pair] &= !handled;
        Some((pair, handled))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn queues_are_as_the_model_says(ops in proptest::collection::vec(protocol(), 1..120)) {
        let mut guest = Guest::new();
        let domain = guest.world.domain.clone();
        let mut model = Model { target: [(0, EVTCHN_FIFO_PRIORITY_DEFAULT); PAIRS], ..Model::default() };
        for op in &ops {
            match *op {
                Op::Send(pair) => {
                    send(&domain, guest.pairs[pair].0).expect("a port");
                    model.pending[pair] = true;
                    model.link(pair);
                }
                Op::Mask(pair) => {
                    guest.mask(guest.pairs[pair].1);
                    model.masked[pair] = true;
                }
                Op::Unmask(pair) => {
                    guest.unmask(guest.pairs[pair].1);
                    model.masked[pair] = false;
                    model.link(pair);
                }
                Op::Priority(pair, priority) => {
                    set_priority(&domain, guest.pairs[pair].1, priority).expect("a port");
                    model.target[pair].1 = priority;
                }
                Op::Move(pair, vcpu) => {
                    bind_vcpu(&domain, guest.pairs[pair].1, VcpuId(vcpu)).expect("a port");
                    model.target[pair].0 = vcpu;
                }
                Op::Take(vcpu, count) => {
                    let waits = model.queues[vcpu as usize].iter().any(|queue| !queue.is_empty());
                    prop_assert!(!waits || guest.events(vcpu).upcall_pending() || guest.ready[vcpu as usize] != 0);
                    guest.events(vcpu).with_info(|frame, at| frame.u8_at(at).store(0, SeqCst));
                    for _ in 0..count {
                        let taken = guest.take(vcpu);
                        let expected = model.take(vcpu).map(|(pair, handled)| (guest.pairs[pair].1, handled));
                        prop_assert_eq!(taken, expected, "{:?}", op);
                    }
                    // What is left was looked at already: its upcall is still owed.
                    guest.events(vcpu).mark_upcall_pending();
                }
                Op::Scribble(..) | Op::ScribbleControl(..) => {}
            }
            for (pair, &(_, port)) in guest.pairs.iter().enumerate() {
                let word = guest.word(port).load(SeqCst);
                prop_assert_eq!(word & PENDING != 0, model.pending[pair], "{:?}", op);
                prop_assert_eq!(word & LINKED != 0, model.linked[pair], "{:?}", op);
                prop_assert_eq!(word & BUSY, 0, "{:?}", op);
            }
        }
    }

    #[test]
    fn scribbled_words_lead_nowhere(ops in proptest::collection::vec(prop_oneof![
        protocol(),
        (0..16u64, any::<u32>()).prop_map(|(word, value)| Op::Scribble(word, value)),
        (0..64u64, any::<u32>()).prop_map(|(word, value)| Op::ScribbleControl(word, value)),
    ], 1..120)) {
        let guest = Guest::new();
        let domain = &guest.world.domain;
        for op in &ops {
            match *op {
                Op::Send(pair) => send(domain, guest.pairs[pair].0).expect("a port"),
                Op::Mask(pair) => guest.mask(guest.pairs[pair].1),
                Op::Unmask(pair) => super::unmask(domain, guest.pairs[pair].1).expect("a port"),
                Op::Priority(pair, priority) => set_priority(domain, guest.pairs[pair].1, priority).expect("a port"),
                Op::Move(pair, vcpu) => bind_vcpu(domain, guest.pairs[pair].1, VcpuId(vcpu)).expect("a port"),
                Op::Take(..) => {}
                Op::Scribble(word, value) => guest.words.u32_at(word * 4).store(value, SeqCst),
                Op::ScribbleControl(word, value) => guest.control.u32_at(word * 4).store(value, SeqCst),
            }
        }
        // Only the words, the heads and the ready bits of its own have been written.
        for word in 16..u64::from(WORDS) {
            prop_assert_eq!(guest.words.u32_at(word * 4).load(SeqCst), 0);
        }
        for word in 64..u64::from(WORDS) {
            prop_assert_eq!(guest.control.u32_at(word * 4).load(SeqCst), 0);
        }
        let mut next = Some(Port(1));
        while let Some(from) = next {
            next = close_some(domain, from);
        }
        prop_assert_eq!(reset_delivery(domain), Ok(()));
        let port = bind_ipi(domain, VcpuId(1)).expect("a port");
        send(domain, port).expect("2-level");
        prop_assert!(any_pending(domain, &[port]));
    }
}

/// Several CPUs send, ports move between queues, and the guest masks, unmasks and consumes: the last event of every port is seen.
#[test]
fn no_event_is_lost_between_threads() {
    const SENDS: u64 = 4000;
    let mut guest = Guest::new();
    let domain = guest.world.domain.clone();
    let pairs = guest.pairs.clone();
    let sent: Vec<AtomicU64> = pairs.iter().map(|_| AtomicU64::new(0)).collect();
    let mut seen = vec![0; pairs.len()];
    let finished = AtomicU32::new(0);
    let stop_moving = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for round in 0..SENDS {
                    let pair = round as usize % pairs.len();
                    sent[pair].fetch_add(1, SeqCst);
                    send(&domain, pairs[pair].0).expect("a port");
                }
                finished.fetch_add(1, SeqCst);
            });
        }
        scope.spawn(|| {
            for round in 0..u32::MAX {
                if stop_moving.load(SeqCst) {
                    break;
                }
                let port = pairs[round as usize % pairs.len()].1;
                bind_vcpu(&domain, port, VcpuId(round % VCPUS)).expect("a port");
                set_priority(&domain, port, round % 3).expect("a port");
            }
        });
        let mut round = 0;
        loop {
            let last = finished.load(SeqCst) == 2;
            let masked = pairs[round % pairs.len()].1;
            round += 1;
            guest.mask(masked);
            let mut idle = true;
            for vcpu in (0..VCPUS).chain(0..VCPUS) {
                while let Some((port, handled)) = guest.take(vcpu) {
                    idle = false;
                    if handled {
                        let pair = pairs.iter().position(|pair| pair.1 == port).expect("a pair's");
                        seen[pair] = sent[pair].load(SeqCst);
                    }
                }
                guest.unmask(masked);
            }
            if last && idle {
                break;
            }
        }
        stop_moving.store(true, SeqCst);
    });
    let sent: Vec<u64> = sent.iter().map(|sent| sent.load(SeqCst)).collect();
    assert_eq!(seen, sent);
}

#[test]
fn a_port_in_a_queue_has_no_new_purpose() {
    let mut guest = Guest::new();
    let domain = guest.world.domain.clone();
    let (from, to) = guest.pairs[0];
    send(&domain, from).expect("a port");
    close(&domain, to).expect("a port");
    assert_eq!(guest.word(to).load(SeqCst) & PENDING, 0, "closing clears");
    let ipi = bind_ipi(&domain, VcpuId(0)).expect("a port");
    assert_ne!(ipi, to, "it is linked");
    assert_eq!(guest.take(0), Some((to, false)));
    assert_eq!(
        bind_ipi(&domain, VcpuId(0)),
        Ok(to),
        "found again, although it was passed over"
    );
}

#[test]
fn what_came_before_its_word_comes_with_it() {
    let world = World::new();
    let domain = &world.domain;
    let early = bind_ipi(domain, VcpuId(0)).expect("a port");
    send(domain, early).expect("2-level");
    init_control(domain, VcpuId(0), CONTROL, 0).expect("control block");
    let late = bind_ipi(domain, VcpuId(0)).expect("a port");
    send(domain, late).expect("held back");
    assert!(!any_pending(domain, &[early, late]), "neither has a word");
    expand_array(domain, ARRAY).expect("words");
    assert!(any_pending(domain, &[early]) && any_pending(domain, &[late]));
    let control = domain.pin(CONTROL, Access::Write).expect("RAM");
    assert_eq!(control.u32_at(0).load(SeqCst), 1 << EVTCHN_FIFO_PRIORITY_DEFAULT);
    assert_eq!(
        control
            .u32_at(8 + 4 * u64::from(EVTCHN_FIFO_PRIORITY_DEFAULT))
            .load(SeqCst),
        early.0
    );
    let words = domain.pin(ARRAY, Access::Write).expect("RAM");
    assert_eq!(
        words.u32_at(4 * u64::from(early.0)).load(SeqCst),
        PENDING | LINKED | late.0
    );
}

/// Whether a sender saw the guest on the one side of its switch from 2-level or on the other, or on both.
#[test]
fn no_event_is_lost_in_the_switch() {
    for round in 0..100 {
        let world = World::new();
        let domain = &world.domain;
        let bind = |_| bind_ipi(domain, VcpuId(0)).expect("a port");
        let ports: Vec<Port> = (0..64).map(bind).collect();
        let sending = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                sending.store(true, SeqCst);
                for &port in &ports {
                    send(domain, port).expect("a port");
                }
            });
            while !sending.load(SeqCst) {
                std::thread::yield_now();
            }
            init_control(domain, VcpuId(0), CONTROL, 0).expect("control block");
            expand_array(domain, ARRAY).expect("words");
        });
        let lost = ports
            .iter()
            .filter(|port| !any_pending(domain, &[**port]))
            .count();
        assert_eq!(lost, 0, "in round {round}");
    }
}

#[test]
fn a_dead_domain_holds_no_page() {
    let world = World::new();
    let domain = world.domain.clone();
    init_control(&domain, VcpuId(0), CONTROL, 0).expect("control block");
    expand_array(&domain, ARRAY).expect("words");
    bind_ipi(&domain, VcpuId(0)).expect("a port");
    crate::hypercall::testing::destroy(&domain);
    assert_eq!(domain.total_pages(), 0);
    assert!(table::get(domain.id).is_none());
}
