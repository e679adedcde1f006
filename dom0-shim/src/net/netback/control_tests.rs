use proptest::prelude::*;

use super::super::fake::{Front, PAGE, Page, Pages};
use super::super::hash::{Hash, TYPES};
use super::*;
use crate::net::toeplitz;

/// The page that is granted.
const GRANTED: GrantRef = 7;
const NOTHING: GrantRef = 8;
/// Queues of the front end.
const QUEUES: u32 = 2;

struct Both {
    front: Front,
    pages: Pages,
    control: Control<Page>,
    hashing: Hashing,
}

impl Both {
    fn new() -> Self {
        let front = Front::new(SLOT);
        let control = Control::attach(front.page.clone()).unwrap();
        Self {
            control,
            front,
            pages: Pages::default(),
            hashing: Hashing::new(QUEUES),
        }
    }

    /// One request; status and data of the answer.
    fn ask(&mut self, type_: u16, data: [u32; 3]) -> (u32, u32) {
        let request = NetifCtrlRequest { id: 5, type_, data };
        self.front.request(&request);
        self.control.serve(&self.pages, &mut self.hashing).unwrap();
        let response: Slot = self.front.response().unwrap();
        let NetifCtrlResponse { status, data, .. } = response.0;
        assert_eq!((response.0.id, response.0.type_), (5, type_));
        (status, data)
    }

    /// Whether it is done.
    fn set(&mut self, type_: u16, data: [u32; 3]) -> u32 {
        let (status, data) = self.ask(type_, data);
        assert_eq!(data, 0);
        status
    }

    fn grant(&self, entries: &[u32]) {
        self.pages.grant(GRANTED, entries.as_bytes());
    }
}

/// A response in its slot.
#[derive(zerocopy::FromBytes, IntoBytes)]
#[repr(C)]
struct Slot(NetifCtrlResponse, u32);

const SUCCESS: u32 = XEN_NETIF_CTRL_STATUS_SUCCESS;
const INVALID: u32 = XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER;
const NOT_SUPPORTED: u32 = XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED;
const OVERFLOW: u32 = XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW;

const FLAGS: u16 = XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS;
const KEY_IS: u16 = XEN_NETIF_CTRL_TYPE_SET_HASH_KEY;
const SIZE: u16 = XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE;
const MAPPING: u16 = XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING;
const ALGORITHM: u16 = XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM;

#[test]
fn a_front_end_configures_hashes() {
    let mut both = Both::new();
    assert_eq!(
        both.ask(XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE, [0; 3]),
        (SUCCESS, 128)
    );
    let get = XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS;
    assert_eq!(both.ask(get, [0; 3]), (NOT_SUPPORTED, 0), "no algorithm yet");
    assert_eq!(both.set(ALGORITHM, [1, 0, 0]), SUCCESS);
    assert_eq!(both.ask(get, [0; 3]), (SUCCESS, TYPES));
    assert_eq!(both.set(FLAGS, [TYPES, 0, 0]), SUCCESS);
    both.pages.grant(GRANTED, &toeplitz::tests::VERIFICATION);
    assert_eq!(both.set(KEY_IS, [GRANTED, 40, 0]), SUCCESS);
    assert_eq!(both.set(SIZE, [128, 0, 0]), SUCCESS);
    both.grant(&[0, 1, 1]);
    // The hash below is 0x78 modulo 128.
    assert_eq!(both.set(MAPPING, [GRANTED, 3, 0x77]), SUCCESS);
    let tcp = crate::net::netback::hash::tests::VERIFICATION;
    let hash = Hash {
        kind: XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP,
        value: 0x51cc_c178,
    };
    assert_eq!(both.hashing.steer(&tcp), Some((1, Some(hash))));
    assert_eq!(both.set(SIZE, [128, 0, 0]), SUCCESS);
    assert_eq!(both.hashing.steer(&tcp), Some((0, Some(hash))), "a new mapping");
    assert_eq!(both.set(KEY_IS, [NOTHING, 0, 0]), SUCCESS, "no key needs no page");
    assert_eq!(both.hashing.steer(&tcp).unwrap().1.unwrap().value, 0);
    assert_eq!(both.set(ALGORITHM, [0, 0, 0]), SUCCESS);
    assert_eq!(both.hashing.steer(&tcp), None);
}

#[test]
fn what_is_not_possible_is_refused() {
    let mut both = Both::new();
    assert_eq!(both.set(FLAGS, [TYPES, 0, 0]), INVALID, "no algorithm yet");
    assert_eq!(both.set(ALGORITHM, [2, 0, 0]), INVALID);
    assert_eq!(both.set(ALGORITHM, [1, 0, 0]), SUCCESS);
    assert_eq!(both.set(FLAGS, [TYPES + 1, 0, 0]), INVALID);
    both.grant(&[1; 1024]);
    assert_eq!(both.set(KEY_IS, [GRANTED, 41, 0]), OVERFLOW);
    assert_eq!(both.set(KEY_IS, [GRANTED, u32::MAX, 0]), OVERFLOW);
    assert_eq!(both.set(KEY_IS, [NOTHING, 40, 0]), INVALID);
    assert_eq!(both.set(SIZE, [129, 0, 0]), INVALID);
    assert_eq!(both.set(SIZE, [100, 0, 0]), SUCCESS);
    for (data, status) in [
        ([GRANTED, 129, 0], OVERFLOW),
        ([GRANTED, u32::MAX, 2], OVERFLOW),
        ([GRANTED, 101, 0], INVALID),
        ([GRANTED, 2, 99], INVALID),
        ([GRANTED, 1, u32::MAX], INVALID),
        ([NOTHING, 1, 0], INVALID),
        ([GRANTED, 100, 0], SUCCESS),
        ([NOTHING, 0, 100], SUCCESS),
    ] {
        assert_eq!(both.set(MAPPING, data), status, "{data:?}");
    }
    both.grant(&[0, 0, QUEUES]);
    assert_eq!(both.set(MAPPING, [GRANTED, 3, 0]), INVALID, "no such queue");
    assert_eq!(both.set(FLAGS, [TYPES, 0, 0]), SUCCESS);
    assert_eq!(both.hashing.steer(&[0; 60]), Some((1, None)), "as it was");
    for type_ in [0, 8, u16::MAX] {
        assert_eq!(both.set(type_, [0; 3]), NOT_SUPPORTED);
    }
}

#[test]
fn a_full_ring_is_answered_and_a_broken_one_not() {
    let mut both = Both::new();
    let entries = abi::io::ring::ring_entries(PAGE, SLOT);
    both.front.want_event();
    (0..entries).for_each(|_| both.front.request(&NetifCtrlRequest::default()));
    let outcome = both.control.serve(&both.pages, &mut both.hashing);
    assert_eq!(
        outcome,
        Ok(Outcome {
            notify: true,
            more: false
        })
    );
    assert_eq!(both.front.responses::<Slot>().len(), entries as usize);
    both.front.page.store(0, 2 * entries + 1);
    assert!(both.control.serve(&both.pages, &mut both.hashing).is_err());
}

proptest! {
    /// Whatever is asked: an answer, and every packet has a queue.
    #[test]
    fn stands_any_requests(
        requests in prop::collection::vec((0_u16..9, [0_u32..9, 0_u32..200, 0_u32..200], any::<bool>()), 1..40),
        frame in prop::collection::vec(any::<u8>(), 0..80)
    ) {
        let mut both = Both::new();
        both.set(ALGORITHM, [1, 0, 0]);
        both.set(FLAGS, [TYPES, 0, 0]);
        for (type_, mut data, queues) in requests {
            both.grant(&[if queues { 1 } else { 2 }; 1024]);
            if matches!(type_, SIZE) {
                data[0] = data[1];
            }
            both.ask(type_, data);
            if let Some((queue, hash)) = both.hashing.steer(&frame) {
                prop_assert!(queue < QUEUES || hash.is_some_and(|hash| hash.value == queue));
            }
        }
    }
}
