//! Rings, good and bad: a front end by Linux's rules, whose steps come between any two of the server's; one that
//! writes whatever it likes.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::mem::offset_of;

use abi::io::xs_wire::{XENSTORE_RING_SIZE, XenstoreDomainInterface as Page};
use proptest::prelude::*;

use super::tests::{ask, err, ok, pair};
use super::*;
use crate::backend::bytes::fake;
use crate::backend::ring::Shared;

const SIZE: usize = XENSTORE_RING_SIZE as usize;

/// What a front end does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Write,
    Read,
}

/// A front end as Linux's (drivers/xen/xenbus/xenbus_comms.c), with its page.
struct Front {
    page: fake::Page,
    /// Steps to come, one for each of the server's accesses to a word of the page.
    script: RefCell<VecDeque<Step>>,
    to_write: RefCell<VecDeque<u8>>,
    read: RefCell<Vec<u8>>,
    /// It has sent an event.
    event: Cell<bool>,
}

impl Front {
    fn new(requests: impl IntoIterator<Item = u8>) -> Self {
        Self {
            page: fake::Page::default(),
            script: RefCell::default(),
            to_write: RefCell::new(requests.into_iter().collect()),
            read: RefCell::default(),
            event: Cell::new(false),
        }
    }

    fn word(&self, offset: usize) -> u32 {
        (&self.page).load(offset)
    }

    fn set(&self, offset: usize, value: u32) {
        (&self.page).store(offset, value);
    }

    /// Writes as much as there is room for, and announces it if all before was consumed when it looks.
    fn write(&self) {
        let (consumer, producer) = (
            self.word(offset_of!(Page, req_cons)),
            self.word(offset_of!(Page, req_prod)),
        );
        let room = SIZE - producer.wrapping_sub(consumer) as usize;
        let mut to_write = self.to_write.borrow_mut();
        let count = room.min(to_write.len());
        for (index, byte) in to_write.drain(..count).enumerate() {
            let at = (producer as usize + index) % SIZE;
            (&self.page).write(offset_of!(Page, req) + at, &[byte]);
        }
        self.set(offset_of!(Page, req_prod), producer.wrapping_add(count as u32));
        if count > 0 && producer == self.word(offset_of!(Page, req_cons)) {
            self.event.set(true);
        }
    }

    /// Reads all there is, and says so if the ring was full.
    fn read(&self) {
        let (consumer, producer) = (
            self.word(offset_of!(Page, rsp_cons)),
            self.word(offset_of!(Page, rsp_prod)),
        );
        for index in consumer..producer {
            let mut byte = [0];
            (&self.page).read(offset_of!(Page, rsp) + index as usize % SIZE, &mut byte);
            self.read.borrow_mut().extend(byte);
        }
        self.set(offset_of!(Page, rsp_cons), producer);
        if self.word(offset_of!(Page, rsp_prod)).wrapping_sub(consumer) >= XENSTORE_RING_SIZE {
            self.event.set(true);
        }
    }

    fn step(&self, step: Step) {
        match step {
            Step::Nothing => {}
            Step::Write => self.write(),
            Step::Read => self.read(),
        }
    }

    /// Kinds of the messages read.
    fn kinds(&self) -> Vec<u32> {
        let bytes = self.read.borrow();
        let mut rest = bytes.as_slice();
        let mut kinds = Vec::new();
        while let Some(head) = rest.first_chunk() {
            let header = Header::decode(head);
            kinds.push(header.kind);
            rest = &rest[HEADER_SIZE + header.length as usize..];
        }
        kinds
    }
}

impl Shared for &Front {
    fn size(&self) -> usize {
        4096
    }
    fn load(&self, offset: usize) -> u32 {
        let value = self.word(offset);
        let step = self.script.borrow_mut().pop_front();
        self.step(step.unwrap_or(Step::Nothing));
        value
    }
    fn store(&self, offset: usize, value: u32) {
        self.set(offset, value);
        let step = self.script.borrow_mut().pop_front();
        self.step(step.unwrap_or(Step::Nothing));
    }
    fn read(&self, offset: usize, bytes: &mut [u8]) {
        (&self.page).read(offset, bytes);
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        (&self.page).write(offset, bytes);
    }
}

fn reads(count: usize) -> Vec<u8> {
    let request = message(Kind::Directory, 0, 0, b"data\0");
    request.repeat(count)
}

/// Serves until neither end has anything to do that it knows of.
fn settle(link: &mut Link<&Front>, server: &mut Server, front: &Front, mut more: bool) {
    for _ in 0..10_000 {
        front.write();
        front.read();
        if !front.event.take() && !more {
            return;
        }
        more = link.serve(server).more;
    }
    panic!("this does not end");
}

#[test]
fn a_request_that_comes_while_others_are_taken_is_not_announced() {
    let (mut server, _, guest) = pair();
    let front = Front::new(reads(1));
    let mut link = Link::new(&front, guest);
    front.write();
    assert!(front.event.take());
    front.to_write.borrow_mut().extend(reads(1));
    // Looks at the connection's state, the requests' indices; then comes the second request.
    front
        .script
        .replace(VecDeque::from([Step::Nothing, Step::Nothing, Step::Write]));
    let turn = link.serve(&mut server);
    assert!(!front.event.get(), "the first was not consumed yet");
    assert_eq!(
        turn,
        Turn {
            notify: true,
            more: true
        }
    );
    assert_eq!(
        link.serve(&mut server),
        Turn {
            notify: true,
            more: false
        }
    );
    front.read();
    assert_eq!(front.kinds(), [Kind::Directory as u32; 2]);
}

#[test]
fn a_flood_gets_a_few_answers_at_a_turn() {
    let (mut server, _, guest) = pair();
    let front = Front::new(reads(40));
    let mut link = Link::new(&front, guest);
    front.write();
    for turn in 1..=2 {
        assert!(link.serve(&mut server).more);
        front.read();
        assert_eq!(front.kinds().len(), turn * quota::TURN);
    }
    settle(&mut link, &mut server, &front, true);
    assert_eq!(front.kinds().len(), 40);
}

/// Whether all watches are told, or none as their owner may not know.
#[test]
fn a_flood_of_watch_events_gets_fewer() {
    let (mut server, _, guest) = pair();
    let other = server.connect(6);
    for owner in [guest, other] {
        for token in 0..100 {
            let request = message(
                Kind::Watch,
                0,
                0,
                format!("/local/domain/5/data\0{token}\0").as_bytes(),
            );
            assert_eq!(server.receive(owner, &request, 1), Ok(request.len()));
            while server.take_output(owner).is_some() {}
        }
        // Each of these sets off all watches of the domain's own.
        let front = Front::new(message(Kind::Write, 0, 0, b"data/x\0v").repeat(4));
        let mut link = Link::new(&front, guest);
        front.write();
        link.serve(&mut server);
        let length = HEADER_SIZE + b"data/x\0v".len();
        let taken = front.word(offset_of!(Page, req_cons)) as usize / length;
        assert_eq!(taken, quota::TURN.div_ceil(1 + 100 / quota::CONSIDERED));
        server.reset(owner);
    }
}

#[test]
fn who_does_not_read_is_not_served() {
    let (mut server, zero, guest) = pair();
    ask(
        &mut server,
        zero,
        Kind::Write,
        &format!("/local/domain/5/long\0{}", "v".repeat(900)),
    )
    .unwrap();
    let front = Front::new(message(Kind::Read, 0, 0, b"long\0").repeat(200));
    let mut link = Link::new(&front, guest);
    for _ in 0..100 {
        front.write();
        link.serve(&mut server);
    }
    assert!(front.to_write.borrow().len() > 1000, "there is no room for more");
    assert!(!link.serve(&mut server).more, "it will say when it has read");
    settle(&mut link, &mut server, &front, false);
    assert_eq!(front.kinds(), [Kind::Read as u32; 200]);
}

#[test]
fn a_domain_that_breaks_the_protocol_is_left_alone_until_it_starts_afresh() {
    const PROTO: u32 = 3;
    let (mut server, zero, guest) = pair();
    let mut bytes = message(Kind::Watch, 0, 0, b"data\0t\0");
    bytes.extend(message(Kind::TransactionStart, 0, 0, b"\0"));
    bytes.extend([0xff; 16]);
    let front = Front::new(bytes);
    let mut link = Link::new(&front, guest);
    front.write();
    link.serve(&mut server);
    assert_eq!(front.word(offset_of!(Page, error)), PROTO);
    ask(&mut server, zero, Kind::Write, "/local/domain/5/data\0new").unwrap();
    assert!(!link.flush(&mut server), "its watches are gone");
    front.to_write.borrow_mut().extend(reads(1));
    front.write();
    assert_eq!(
        link.serve(&mut server),
        Turn {
            notify: false,
            more: false
        }
    );

    front.set(offset_of!(Page, connection), 1);
    assert_eq!(
        link.serve(&mut server),
        Turn {
            notify: true,
            more: false
        }
    );
    assert_eq!(front.word(offset_of!(Page, connection)), 0);
    assert_eq!(front.word(offset_of!(Page, error)), 0);
    front.read.borrow_mut().clear();
    front.to_write.borrow_mut().extend(reads(3));
    settle(&mut link, &mut server, &front, false);
    assert_eq!(front.kinds(), [Kind::Directory as u32; 3]);
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![4 => Just(Step::Nothing), 1 => Just(Step::Write), 1 => Just(Step::Read)]
}

/// A place of the page and what is written there: indices most of the time.
fn scribble() -> impl Strategy<Value = (usize, u32)> {
    let anywhere = (0..1024usize).prop_map(|word| word * 4);
    let indices = (0..8usize).prop_map(|word| offset_of!(Page, req_cons) + word * 4);
    let value = prop_oneof![any::<u32>(), 0..3000u32, Just(1)];
    (prop_oneof![anywhere, indices.clone(), indices], value)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Wherever the front end's steps fall, no request stays without its answer.
    #[test]
    fn nothing_is_lost(
        script in prop::collection::vec(step(), 0..300),
        sizes in prop::collection::vec(0usize..600, 1..60),
    ) {
        let (mut server, _, guest) = pair();
        let requests = sizes.iter().flat_map(|size| {
            message(Kind::Write, 0, 0, format!("data/x\0{}", "v".repeat(*size)).as_bytes())
        });
        let front = Front::new(requests);
        let mut link = Link::new(&front, guest);
        front.script.replace(script.into());
        front.write();
        let mut more = false;
        while !front.script.borrow().is_empty() {
            more |= front.event.take() || more;
            let step = front.script.borrow_mut().pop_front();
            front.step(step.unwrap_or(Step::Nothing));
            if more {
                more = link.serve(&mut server).more;
            }
        }
        settle(&mut link, &mut server, &front, more);
        prop_assert_eq!(front.kinds(), alloc::vec![Kind::Write as u32; sizes.len()]);
    }

    /// Whatever one domain writes into its page, the server goes on, and serves another.
    #[test]
    fn any_page(rounds in prop::collection::vec(prop::collection::vec(scribble(), 0..8), 1..40)) {
        let (mut server, zero, guest) = pair();
        let front = Front::new([]);
        let mut link = Link::new(&front, guest);
        let other = server.connect(6);
        let good = Front::new([]);
        let mut good_link = Link::new(&good, other);
        for (index, round) in rounds.iter().enumerate() {
            for &(at, value) in round {
                front.set(at, value);
            }
            link.serve(&mut server);
            good.to_write.borrow_mut().extend(message(Kind::Read, 0, 0, b"/\0"));
            settle(&mut good_link, &mut server, &good, false);
            prop_assert_eq!(good.kinds().len(), index + 1);
        }
        prop_assert_eq!(ask(&mut server, zero, Kind::Control, "check\0"), ok("OK\0"));
        prop_assert_eq!(ask(&mut server, zero, Kind::Read, "/nowhere\0"), err("ENOENT"));
    }
}
