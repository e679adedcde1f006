use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

use super::super::fake::{self, Front, Page, Pages};
use super::*;

const FREE: fn(usize) -> Result<(), u64> = |_| Ok(());

fn tx(front: &Front) -> Tx<Page> {
    Tx::attach(front.page.clone()).unwrap()
}

fn request(gref: GrantRef, offset: u16, size: u16, flags: u16, id: u16) -> NetifTxRequest {
    NetifTxRequest {
        gref,
        offset,
        flags,
        id,
        size,
    }
}

fn extra(type_: u8, flags: u8, u: [u8; 6]) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..8].copy_from_slice(NetifExtraInfo { type_, flags, u }.as_bytes());
    slot
}

fn statuses(front: &mut Front) -> Vec<(u16, i16)> {
    let responses = front.responses::<[u8; SLOT]>().into_iter();
    let read = |slot: [u8; SLOT]| NetifTxResponse::read_from_prefix(&slot).unwrap().0;
    responses
        .map(read)
        .map(|response| (response.id, response.status))
        .collect()
}

/// A TCP packet with so much payload.
fn tcp(payload: usize) -> Vec<u8> {
    fake::tcp(&vec![0x77; payload])
}

#[test]
fn takes_packets_of_one_and_of_several_fragments() {
    let (mut front, pages) = (Front::new(SLOT), Pages::default());
    let mut tx = tx(&front);
    assert!(tx.take(&pages, FREE).unwrap().packets.is_empty());
    let bytes: Vec<u8> = (0..6000u32).map(|n| (n / 7) as u8).collect();
    pages.grant(5, &bytes[..3000]);
    pages.grant(6, &bytes[3000..4000]);
    pages.grant(7, &[&[0; 96][..], &bytes[4000..]].concat());
    front.want_event();
    front.request(&request(5, 100, 60, 0, 11));
    front.request(&request(5, 0, 6000, NETTXF_MORE_DATA | NETTXF_DATA_VALIDATED, 12));
    front.request(&request(6, 0, 1000, NETTXF_MORE_DATA, 13));
    front.request(&request(7, 96, 2000, 0, 14));
    let batch = tx.take(&pages, FREE).unwrap();
    assert!(batch.notify && !batch.more && batch.errors == 0);
    assert_eq!(batch.packets[0], Packet::complete(bytes[100..160].to_vec()));
    assert!(batch.packets[1].bytes == bytes && batch.packets[1].checksum == Checksum::Validated);
    assert_eq!(statuses(&mut front), [(11, 0), (12, 0), (13, 0), (14, 0)]);
    assert!(!tx.take(&pages, FREE).unwrap().notify, "nothing new");
}

#[test]
fn offloads_are_taken_over() {
    let (mut front, pages) = (Front::new(SLOT), Pages::default());
    let mut tx = tx(&front);
    pages.grant(1, &tcp(3000));
    front.request(&request(1, 0, 3054, NETTXF_CSUM_BLANK, 1));
    front.request(&request(1, 0, 3054, NETTXF_CSUM_BLANK | NETTXF_EXTRA_INFO, 2));
    front.request(&extra(
        XEN_NETIF_EXTRA_TYPE_HASH,
        XEN_NETIF_EXTRA_FLAG_MORE,
        [0; 6],
    ));
    front.request(&extra(
        XEN_NETIF_EXTRA_TYPE_GSO,
        0,
        [0xa8, 0x05, XEN_NETIF_GSO_TYPE_TCPV4, 0, 0, 0],
    ));
    let batch = tx.take(&pages, FREE).unwrap();
    let states: Vec<_> = batch
        .packets
        .iter()
        .map(|packet| (packet.checksum, packet.segments))
        .collect();
    let segments = Segments {
        family: Family::V4,
        size: 1448,
    };
    assert_eq!(
        states,
        [(Checksum::Blank, None), (Checksum::Blank, Some(segments))]
    );
    assert_eq!(statuses(&mut front), [(1, 0), (2, 0), (0, 1), (0, 1)]);
}

#[test]
fn a_turn_takes_so_much_and_no_more() {
    let (mut front, pages) = (Front::new(SLOT), Pages::default());
    let mut tx = tx(&front);
    pages.grant(1, &tcp(3000));
    for _ in 0..10 {
        front.request(&request(1, 0, 60_000, NETTXF_MORE_DATA, 0));
        (0..13).for_each(|_| front.request(&request(1, 0, 4096, NETTXF_MORE_DATA, 0)));
        front.request(&request(1, 0, 4096, 0, 0));
    }
    let turns = |tx: &mut Tx<_>| {
        let turns = core::iter::from_fn(|| {
            let batch = tx.take(&pages, FREE).unwrap();
            (batch.more || !batch.packets.is_empty()).then_some(batch.packets.len())
        });
        turns.collect::<Vec<_>>()
    };
    assert_eq!(
        turns(&mut tx),
        [3, 3, 3, 1],
        "128 KiB, and what the last has more"
    );
    for _ in 0..3 {
        front.request(&request(1, 0, 3054, NETTXF_EXTRA_INFO, 0));
        let gso = [20, 0, XEN_NETIF_GSO_TYPE_TCPV4, 0, 0, 0];
        front.request(&extra(XEN_NETIF_EXTRA_TYPE_GSO, 0, gso));
    }
    assert_eq!(turns(&mut tx), [2, 1], "153 frames each");
}

#[test]
fn groups_are_entered_and_left() {
    let (mut front, pages) = (Front::new(SLOT), Pages::default());
    let mut tx = tx(&front);
    let group = [1, 0, 0x5e, 0, 0, 1];
    for (id, kind) in [
        (1, XEN_NETIF_EXTRA_TYPE_MCAST_ADD),
        (2, XEN_NETIF_EXTRA_TYPE_MCAST_DEL),
    ] {
        front.request(&request(0, 0, 0, NETTXF_EXTRA_INFO, id));
        front.request(&extra(kind, 0, group));
    }
    let batch = tx.take(&pages, FREE).unwrap();
    assert_eq!(
        batch.groups,
        [(Membership::Enter, Mac(group)), (Membership::Leave, Mac(group))]
    );
    assert_eq!(statuses(&mut front), [(1, 0), (0, 1), (2, 0), (0, 1)]);
}

#[test]
fn what_is_wrong_in_itself_is_answered_with_an_error() {
    let (mut front, pages) = (Front::new(SLOT), Pages::default());
    let mut tx = tx(&front);
    pages.grant(1, &[1; 100]);
    front.request(&request(1, 0, 13, 0, 1));
    front.request(&request(9, 0, 60, 0, 2));
    front.request(&request(1, 0, 60, NETTXF_CSUM_BLANK, 3));
    front.request(&request(1, 0, 60, NETTXF_MORE_DATA, 4));
    front.request(&request(1, 0, 61, 0, 5));
    front.request(&request(1, 0, 60, 0, 6));
    for index in 0..19 {
        let flags = if index < 18 { NETTXF_MORE_DATA } else { 0 };
        front.request(&request(
            1,
            0,
            if index == 0 { 200 } else { 1 },
            flags,
            100 + index,
        ));
    }
    let batch = tx.take(&pages, FREE).unwrap();
    assert_eq!((batch.packets.len(), batch.errors), (1, 5));
    let answers = statuses(&mut front);
    assert_eq!(
        answers[..6],
        [(1, -1), (2, -1), (3, -1), (4, -1), (5, -1), (6, 0)]
    );
    assert!(answers.len() == 25 && answers[6..].iter().all(|answer| answer.1 == -1));
}

#[test]
fn what_no_front_end_writes_ends_the_ring() {
    let more = NETTXF_MORE_DATA;
    let gso = |u| {
        [
            request(1, 0, 60, NETTXF_EXTRA_INFO, 1)
                .as_bytes()
                .try_into()
                .unwrap(),
            extra(1, 0, u),
        ]
    };
    let slots = |requests: &[NetifTxRequest]| -> Vec<[u8; SLOT]> {
        requests
            .iter()
            .map(|request| request.as_bytes().try_into().unwrap())
            .collect()
    };
    let cases = [
        ("a fragment leaves its page", slots(&[request(1, 4000, 97, 0, 1)])),
        (
            "a fragment leaves its page",
            slots(&[request(1, 0, 200, more, 1), request(1, 4095, 2, 0, 1)]),
        ),
        ("a fragment is missing", slots(&[request(1, 0, 200, more, 1)])),
        (
            "a packet of too many fragments",
            slots(&[request(1, 0, 200, more, 1); 30]),
        ),
        (
            "extra information is missing",
            slots(&[request(1, 0, 60, NETTXF_EXTRA_INFO, 1)]),
        ),
        (
            "extra information of unknown type",
            [
                slots(&[request(1, 0, 60, NETTXF_EXTRA_INFO, 1)]),
                [extra(5, 0, [0; 6])].into(),
            ]
            .concat(),
        ),
        ("segmentation of unknown type", gso([1, 0, 0, 0, 0, 0]).into()),
        ("segments of no size", gso([0, 0, 1, 0, 0, 0]).into()),
    ];
    for (reason, slots) in cases {
        let (mut front, pages) = (Front::new(SLOT), Pages::default());
        let mut tx = tx(&front);
        pages.grant(1, &[1; 100]);
        slots.iter().for_each(|slot| front.request(slot));
        assert_eq!(tx.take(&pages, FREE).map(|_| ()), Err(Broken(reason)));
        assert!(front.responses::<[u8; SLOT]>().is_empty());
    }
    for producer in [257, u32::MAX] {
        let front = Front::new(SLOT);
        let mut tx = tx(&front);
        front.page.store(0, producer);
        assert!(tx.take(&Pages::default(), FREE).is_err());
        assert!(Tx::attach(front.page.clone()).is_err());
    }
}

#[test]
fn a_rate_limit_leaves_packets_in_the_ring() {
    let (mut front, pages) = (Front::new(SLOT), Pages::default());
    let mut tx = tx(&front);
    pages.grant(1, &[1; 100]);
    for id in 0..3 {
        front.request(&request(1, 0, 60, 0, id));
    }
    let mut credit = 130usize;
    let pay = |size: usize| {
        credit = credit.checked_sub(size).ok_or(77u64)?;
        Ok(())
    };
    let batch = tx.take(&pages, pay).unwrap();
    assert_eq!(
        (batch.packets.len(), batch.wait_until, batch.more),
        (2, Some(77), false)
    );
    assert_eq!(tx.take(&pages, FREE).unwrap().packets.len(), 1);
    assert_eq!(statuses(&mut front).len(), 3);
}

/// Slots as a malicious front end could write them: near what is right.
fn any_slot() -> impl Strategy<Value = [u8; SLOT]> {
    let size = prop_oneof![0u16..100, 0u16..5000, any::<u16>()];
    let fragment = (
        0u32..4,
        prop_oneof![Just(0u16), 0u16..4200],
        size,
        0u16..16,
        any::<u16>(),
    )
        .prop_map(|(gref, offset, size, flags, id)| {
            request(gref, offset, size, flags, id)
                .as_bytes()
                .try_into()
                .unwrap()
        });
    let info = (0u8..7, 0u8..2, any::<[u8; 2]>(), 0u8..4)
        .prop_map(|(kind, flags, [a, b], gso)| extra(kind, flags, [a, b, gso, 0, 0, 0]));
    prop_oneof![4 => fragment, 1 => info, 1 => any::<[u8; SLOT]>()]
}

proptest! {
    #[test]
    fn every_slot_is_answered_once_or_the_ring_ends(slots in prop::collection::vec(any_slot(), 0..256)) {
        let (mut front, pages) = (Front::new(SLOT), Pages::default());
        let mut tx = tx(&front);
        (1..4).for_each(|gref| pages.grant(gref, &tcp(usize::from(gref as u16) * 1000)));
        slots.iter().for_each(|slot| front.request(slot));
        let mut errors = 0;
        loop {
            match tx.take(&pages, FREE) {
                Err(_) => return Ok(()),
                Ok(batch) => {
                    errors += batch.errors;
                    for packet in &batch.packets {
                        prop_assert!(packet.bytes.len() >= ETHERNET_HEADER && offload::check(packet).is_ok());
                    }
                    if !batch.more {
                        break;
                    }
                }
            }
        }
        let answers = statuses(&mut front);
        prop_assert_eq!(answers.len(), slots.len());
        prop_assert!(answers.iter().filter(|answer| answer.1 == NETIF_RSP_ERROR).count() as u64 >= errors);
    }
}
