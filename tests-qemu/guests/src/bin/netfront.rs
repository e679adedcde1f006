//! A network front end that does everything wrong: the back end answers with errors or ends the ring, and serves the
//! next connection as if nothing had been.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;

use abi::io::netif::*;
use guest_rt::start_info::StartInfo;
use guests::netfront::{
    BUFFERS, FIRST_BUFFER, NOTHING, Netfront, PACKET, READ_ONLY, RX_RING, SLOTS, TX_RING, TX_SLOT,
};
use guests::random::Random;
use guests::report::Report;

guest_rt::main!(main);

/// Connections with random rings.
const ROUNDS: u32 = 40;
/// Who asks.
const MAC: [u8; 6] = [0x00, 0x16, 0x3e, 1, 2, 3];
const GATEWAY: [u8; 4] = [10, 88, 0, 1];

fn main(_: StartInfo) -> ! {
    let mut report = Report::default();
    let mut front = Netfront::new();
    bad_connections(&mut front, &mut report);
    works(&mut front, &mut report, "works");
    errors(&mut front, &mut report);
    broken_tx(&mut front, &mut report);
    buffers(&mut front, &mut report);
    random(&mut front, &mut report);
    works(&mut front, &mut report, "works-after-all");
    report.finish()
}

/// A question by ARP for the gateway, from `mac`.
fn question(mac: [u8; 6]) -> Vec<u8> {
    let arp = [0, 1, 8, 0, 6, 4, 0, 1];
    let mut frame = [
        &[0xff; 6],
        &mac[..],
        &[8, 6],
        &arp,
        &mac,
        &[10, 88, 0, 200],
        &[0; 6],
        &GATEWAY,
    ]
    .concat();
    frame.resize(60, 0);
    frame
}

fn request(gref: u32, offset: u16, size: u16, flags: u16, id: u16) -> NetifTxRequest {
    NetifTxRequest {
        gref,
        offset,
        flags,
        id,
        size,
    }
}

/// Extra information behind which there is more.
const ENDLESS: [u8; TX_SLOT] = [
    XEN_NETIF_EXTRA_TYPE_GSO,
    XEN_NETIF_EXTRA_FLAG_MORE,
    1,
    1,
    1,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
];

fn extra(type_: u8, flags: u8, u: [u8; 6]) -> [u8; TX_SLOT] {
    let mut slot = [0; TX_SLOT];
    slot[..8].copy_from_slice(zerocopy::IntoBytes::as_bytes(&NetifExtraInfo { type_, flags, u }));
    slot
}

/// A new connection, over which the gateway answers.
fn works(front: &mut Netfront, report: &mut Report, name: &str) {
    let connected = front.connect();
    report.check(name, connected && asks(front), "the gateway does not answer");
}

fn asks(front: &mut Netfront) -> bool {
    front.fill(&question(MAC));
    front.post(FIRST_BUFFER..FIRST_BUFFER + BUFFERS);
    front.put(&request(PACKET, 0, 60, 0, 7));
    front.publish(None);
    let sent = front
        .answer()
        .is_some_and(|answer| (answer.id, answer.status) == (7, NETIF_RSP_OKAY));
    let Some((response, frame)) = front.received() else {
        return false;
    };
    sent && response.flags == 0 && frame.get(..6) == Some(&MAC) && frame.get(28..32) == Some(&GATEWAY)
}

fn bad_connections(front: &mut Netfront, report: &mut Report) {
    for (name, tx, rx, port) in [
        ("tx-ring-not-granted", NOTHING, RX_RING, None),
        ("rx-ring-not-granted", TX_RING, u32::MAX, None),
        ("ring-read-only", READ_ONLY, RX_RING, None),
        ("no-such-port", TX_RING, RX_RING, Some(1000)),
        ("own-bound-port", TX_RING, RX_RING, Some(1)),
    ] {
        report.check(name, !front.connect_with(tx, rx, port), "the back end connects");
    }
}

/// Packets that are wrong in themselves get an error; the next one is served.
fn errors(front: &mut Netfront, report: &mut Report) {
    for (name, gref, size, flags) in [
        ("not-granted", NOTHING, 60, 0),
        ("beyond-the-table", u32::MAX, 60, 0),
        ("too-short", PACKET, 13, 0),
        ("no-checksum-to-fill", PACKET, 60, NETTXF_CSUM_BLANK),
    ] {
        front.put(&request(gref, 0, size, flags, 9));
        front.publish(None);
        let answer = front.answer().map(|answer| (answer.id, answer.status));
        report.equal(name, answer, Some((9, NETIF_RSP_ERROR)));
    }
    // Not an error: the packet goes nowhere.
    front.fill(&question([0x00, 0x16, 0x3e, 9, 9, 9]));
    front.put(&request(PACKET, 0, 60, 0, 10));
    front.publish(None);
    report.equal(
        "of-another",
        front.answer().map(|answer| answer.status),
        Some(NETIF_RSP_OKAY),
    );
    front.post(FIRST_BUFFER..FIRST_BUFFER + BUFFERS);
    report.check(
        "of-another-silent",
        front.received().is_none(),
        "somebody answers",
    );
}

/// What ends a ring.
fn broken_tx(front: &mut Netfront, report: &mut Report) {
    type Case = (&'static str, fn(&mut Netfront), Option<u32>);
    let cases: [Case; 8] = [
        (
            "leaves-its-page",
            |front| front.put(&request(PACKET, 4090, 60, 0, 1)),
            None,
        ),
        (
            "fragment-missing",
            |front| front.put(&request(PACKET, 0, 60, NETTXF_MORE_DATA, 1)),
            None,
        ),
        (
            "extra-missing",
            |front| front.put(&request(PACKET, 0, 60, NETTXF_EXTRA_INFO, 1)),
            None,
        ),
        (
            "extra-unknown",
            |front| with_extra(front, extra(77, 0, [0; 6])),
            None,
        ),
        (
            "extra-endless",
            |front| {
                with_extra(front, ENDLESS);
                (2..SLOTS).for_each(|_| front.put(&ENDLESS));
            },
            None,
        ),
        (
            "gso-of-no-size",
            |front| with_extra(front, extra(1, 0, [0, 0, 1, 0, 0, 0])),
            None,
        ),
        (
            "too-many-fragments",
            |front| (0..30).for_each(|_| front.put(&request(PACKET, 0, 1, NETTXF_MORE_DATA, 1))),
            None,
        ),
        ("index-far-ahead", |_| {}, Some(0x8000_0000)),
    ];
    for (name, put, producer) in cases {
        let connected = front.connect();
        put(front);
        front.publish(producer);
        report.check(name, connected && front.is_dead(), "the ring is served");
    }
}

fn with_extra(front: &mut Netfront, info: [u8; TX_SLOT]) {
    front.put(&request(PACKET, 0, 60, NETTXF_EXTRA_INFO, 1));
    front.put(&info);
}

/// Buffers that cannot be written to.
fn buffers(front: &mut Netfront, report: &mut Report) {
    for (name, gref) in [("buffer-not-granted", NOTHING), ("buffer-read-only", READ_ONLY)] {
        let connected = front.connect();
        front.fill(&question(MAC));
        front.post([gref].into_iter());
        front.put(&request(PACKET, 0, 60, 0, 1));
        front.publish(None);
        let status = front.received().map(|(response, _)| response.status);
        report.equal(name, (connected, status), (true, Some(NETIF_RSP_ERROR)));
    }
}

/// Rings full of what comes to mind.
fn random(front: &mut Netfront, report: &mut Report) {
    let mut random = Random::new(0x6e65_7466);
    let mut connected = 0;
    for _ in 0..ROUNDS {
        connected += u32::from(front.connect());
        front.post((0..BUFFERS).map(|_| random.pick(&[NOTHING, FIRST_BUFFER, READ_ONLY, u32::MAX])));
        for _ in 0..random.below(SLOTS.into()) {
            let [low, high] = [random.next(), random.next()];
            match random.below(4) {
                0 => front.put(&extra(
                    low as u8 % 6,
                    high as u8 & 1,
                    [low as u8, 0, high as u8 % 3, 0, 0, 0],
                )),
                1 => front.put(&[low, high].map(u64::to_le_bytes).as_flattened()[..TX_SLOT]),
                _ => {
                    let size = (low % 5000) as u16;
                    let flags = (high % 16) as u16;
                    front.put(&request(
                        random.pick(&[PACKET, NOTHING]),
                        0,
                        size.min(4096),
                        flags,
                        1,
                    ));
                }
            }
        }
        let anything = Some(random.next() as u32);
        let producer = random.pick(&[None, None, None, anything]);
        front.publish(producer);
        front.answer();
    }
    report.equal("random", connected, ROUNDS);
}
