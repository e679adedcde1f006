use proptest::prelude::*;

use super::super::fake::{self, Front, Page, Pages};
use super::*;
use crate::net::packet::Segments;

const ALL: Features = Features {
    scatter_gather: true,
    segments_v4: true,
    segments_v6: true,
    blank_v4: true,
    blank_v6: true,
};

const HASH: Hash = Hash {
    kind: XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP,
    value: 0x0102_0304,
};

fn rx(front: &Front, features: Features) -> Rx<Page> {
    rx_of(&Room::new(usize::MAX / 2), front, features)
}

fn rx_of(room: &Room, front: &Front, features: Features) -> Rx<Page> {
    Rx::attach(front.page.clone(), features, room.clone()).unwrap()
}

/// Posts buffers with grants and ids from `first` on.
fn post(front: &mut Front, pages: &Pages, first: u16, count: u16) {
    for id in first..first + count {
        pages.grant(id.into(), &[]);
        front.request(&NetifRxRequest {
            id,
            pad: 0,
            gref: id.into(),
        });
    }
}

fn packet(bytes: Vec<u8>, checksum: Checksum, segments: Option<u16>) -> Rc<Packet> {
    let segments = segments.map(|size| Segments {
        family: Family::V4,
        size,
    });
    Rc::new(Packet {
        bytes,
        checksum,
        segments,
    })
}

/// A TCP packet with so much payload, of which every part is different.
fn tcp(payload: usize) -> Vec<u8> {
    let bytes: Vec<u8> = (0..payload).map(|n| (n / 9) as u8).collect();
    fake::tcp(&bytes)
}

/// Puts responses together again: packets with flags of the first slot and all extra information.
fn collect(front: &mut Front, pages: &Pages) -> Vec<(Vec<u8>, u16, Vec<NetifExtraInfo>)> {
    let mut packets = Vec::new();
    while let Some(mut response) = front.response::<NetifRxResponse>() {
        let (mut bytes, first, mut extras) = (Vec::new(), response.flags, Vec::new());
        let mut more = first & NETRXF_EXTRA_INFO != 0;
        while more {
            let info: NetifExtraInfo = front.response().unwrap();
            more = info.flags & XEN_NETIF_EXTRA_FLAG_MORE != 0;
            extras.push(info);
        }
        loop {
            let size = usize::try_from(response.status).unwrap();
            bytes.extend_from_slice(&pages.0.borrow()[&response.id.into()][..size]);
            if response.flags & NETRXF_MORE_DATA == 0 {
                break;
            }
            response = front.response().unwrap();
        }
        packets.push((bytes, first, extras));
    }
    packets
}

#[test]
fn packets_arrive_whole() {
    let (mut front, pages) = (Front::new(SLOT), Pages::default());
    let mut rx = rx(&front, ALL);
    let large = tcp(10_000);
    let sent = [
        packet(vec![7; 60], Checksum::Present, None),
        packet(tcp(100), Checksum::Blank, None),
        packet(large.clone(), Checksum::Blank, Some(1448)),
        packet(tcp(200), Checksum::Blank, Some(100)),
        packet(vec![8; 5000], Checksum::Validated, None),
    ];
    sent.iter()
        .for_each(|packet| assert_eq!(rx.queue(packet.clone(), None), Queued::Waiting));
    assert_eq!(rx.put(&pages), Ok(Outcome::default()), "no buffers yet");
    front.want_event();
    post(&mut front, &pages, 1, 5);
    assert!(rx.put(&pages).unwrap().notify);
    let some = collect(&mut front, &pages);
    assert_eq!(
        some.len(),
        2,
        "the third wants four slots, of which there are three"
    );
    assert_eq!(some[0], (vec![7; 60], 0, vec![]));
    assert_eq!(
        some[1],
        (tcp(100), NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED, vec![])
    );
    post(&mut front, &pages, 6, 20);
    rx.put(&pages).unwrap();
    let rest = collect(&mut front, &pages);
    let blank = NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED | NETRXF_EXTRA_INFO;
    assert!(rest[0].0 == large && rest[0].1 == blank | NETRXF_MORE_DATA);
    let info = rest[0].2[0];
    assert_eq!((info.type_, info.flags, info.u), (1, 0, [0xa8, 0x05, 1, 0, 0, 0]));
    assert!(rest[1].0 == tcp(200) && rest[1].1 == blank);
    assert_eq!(rest[2].1, NETRXF_DATA_VALIDATED | NETRXF_MORE_DATA);
    assert!(rx.bytes == 0 && rest.len() == 3);
}

#[test]
fn a_front_end_gets_what_it_takes() {
    let (mut front, pages) = (Front::new(SLOT), Pages::default());
    post(&mut front, &pages, 1, 30);
    let mut rx = rx(&front, Features::default());
    assert_eq!(
        rx.queue(packet(tcp(3000), Checksum::Blank, Some(1000)), None),
        Queued::Waiting
    );
    assert_eq!(
        rx.queue(packet(tcp(10), Checksum::Blank, None), None),
        Queued::Waiting
    );
    assert_eq!(
        rx.queue(packet(vec![1; 4097], Checksum::Present, None), None),
        Queued::Lost,
        "too long for one slot"
    );
    assert_eq!(
        rx.queue(packet(vec![1; 60], Checksum::Blank, None), None),
        Queued::Lost,
        "no checksum can be there"
    );
    rx.put(&pages).unwrap();
    let got = collect(&mut front, &pages);
    assert_eq!(
        got.iter().map(|packet| packet.0.len()).collect::<Vec<_>>(),
        [1054, 1054, 1054, 64]
    );
    assert!(got.iter().all(|packet| packet.1 == NETRXF_DATA_VALIDATED));
}

#[test]
fn hashes_go_with_packets() {
    let (mut front, pages) = (Front::new(SLOT), Pages::default());
    let mut rx = rx(&front, ALL);
    rx.queue(packet(vec![7; 60], Checksum::Present, None), Some(HASH));
    rx.queue(packet(tcp(10_000), Checksum::Blank, Some(1448)), Some(HASH));
    post(&mut front, &pages, 1, 2 + 5 - 1);
    rx.put(&pages).unwrap();
    let hash = NetifExtraInfo {
        type_: 4,
        flags: 0,
        u: [3, 1, 4, 3, 2, 1],
    };
    assert_eq!(
        collect(&mut front, &pages),
        [(vec![7; 60], NETRXF_EXTRA_INFO, vec![hash])]
    );
    post(&mut front, &pages, 7, 1);
    rx.put(&pages).unwrap();
    let got = collect(&mut front, &pages);
    let segments = NetifExtraInfo {
        type_: 1,
        flags: XEN_NETIF_EXTRA_FLAG_MORE,
        u: [0xa8, 0x05, 1, 0, 0, 0],
    };
    assert!(got[0].0 == tcp(10_000) && got[0].2 == [segments, hash]);
}

#[test]
fn what_waits_is_bounded() {
    let front = Front::new(SLOT);
    let mut rx = rx(&front, ALL);
    let taken = (0..100)
        .filter(|_| rx.queue(packet(vec![1; 60_000], Checksum::Present, None), None) == Queued::Waiting);
    assert_eq!(taken.count(), WAITING_MAX / 60_000);
}

/// Sends packets until one is lost; how many were not.
fn fill(rx: &mut Rx<Page>) -> usize {
    let packet = packet(vec![1; 1000], Checksum::Present, None);
    (0..)
        .take_while(|_| rx.queue(packet.clone(), None) == Queued::Waiting)
        .count()
}

#[test]
fn what_waits_for_all_is_bounded_and_nobody_takes_all() {
    let room = Room::new(60 * (1000 + OVERHEAD));
    let (mut front, pages) = (Front::new(SLOT), Pages::default());
    let mut deaf: Vec<_> = (0..5).map(|_| rx_of(&room, &Front::new(SLOT), ALL)).collect();
    let waiting: Vec<_> = deaf.iter_mut().map(fill).collect();
    assert_eq!(waiting, [30, 15, 7, 4, 2]);
    let mut good = rx_of(&room, &front, ALL);
    assert_eq!(fill(&mut good), 1, "of the two that are left");
    post(&mut front, &pages, 1, 1);
    good.put(&pages).unwrap();
    assert_eq!(collect(&mut front, &pages).len(), 1);
    assert_eq!(fill(&mut good), 1);
    deaf.truncate(1);
    assert_eq!(fill(&mut good), 14, "of 29, the rest is the others'");
    drop((deaf, good));
    assert_eq!(room.left(), 60 * (1000 + OVERHEAD));
}

#[test]
fn bad_buffers_are_answered_with_errors_and_bad_rings_end() {
    let (mut front, pages) = (Front::new(SLOT), Pages::default());
    let mut rx = rx(&front, ALL);
    rx.queue(packet(vec![1; 60], Checksum::Present, None), None);
    front.request(&NetifRxRequest {
        id: 3,
        pad: 0,
        gref: 99,
    });
    rx.put(&pages).unwrap();
    let responses = front.responses::<NetifRxResponse>();
    assert_eq!((responses[0].id, responses[0].status), (3, NETIF_RSP_ERROR));
    rx.queue(packet(vec![1; 60], Checksum::Present, None), None);
    front.page.store(0, 258);
    assert!(rx.put(&pages).is_err());
}

proptest! {
    #[test]
    fn every_slot_is_answered_in_its_place(
        sizes in prop::collection::vec((1usize..20_000, any::<bool>(), any::<bool>()), 1..40),
        posts in prop::collection::vec(0u16..40, 1..20)
    ) {
        let (mut front, pages) = (Front::new(SLOT), Pages::default());
        let mut rx = rx(&front, ALL);
        let mut wanted = Vec::new();
        for (size, gso, hashed) in sizes {
            let packet = packet(tcp(size), Checksum::Blank, gso.then_some(1000));
            if rx.queue(packet.clone(), hashed.then_some(HASH)) == Queued::Waiting {
                wanted.push((packet, hashed));
            }
        }
        let (mut next, mut got) = (1, Vec::new());
        for count in posts {
            post(&mut front, &pages, next, count);
            next += count;
            rx.put(&pages).unwrap();
            got.extend(collect(&mut front, &pages));
        }
        for ((bytes, _, extras), (packet, hashed)) in got.iter().zip(&wanted) {
            prop_assert!(*bytes == packet.bytes);
            prop_assert_eq!(extras.len(), usize::from(packet.segments.is_some()) + usize::from(*hashed));
        }
        prop_assert_eq!(rx.waiting.len() + got.len(), wanted.len());
    }
}
