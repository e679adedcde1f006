//! A network front end that does everything wrong: the back end answers with errors or ends the ring, and serves the
//! next connection as if nothing had been. What it asks for by its control ring, it gets where that is right. With `once`
//! on the command line it only connects, asks and disconnects.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;

use abi::io::netif::*;
use guest_rt::start_info::StartInfo;
use guests::netfront::{
    BUFFERS, CONTROL_RING, CONTROL_SLOTS, FIRST_BUFFER, NOTHING, Netfront, PACKET, QUEUES, READ_ONLY,
    RX_RING, SLOTS, TX_RING, TX_SLOT,
};
use guests::random::Random;
use guests::report::Report;

guest_rt::main!(main);

/// Connections with random rings.
const ROUNDS: u32 = 40;
const GATEWAY: [u8; 4] = [10, 88, 0, 1];

fn main(info: StartInfo) -> ! {
    let mut report = Report::default();
    let mut front = Netfront::new();
    works(&mut front, &mut report, "works");
    if !info.command_line().contains("once") {
        bad_connections(&mut front, &mut report);
        works(&mut front, &mut report, "works-again");
        errors(&mut front, &mut report);
        broken_tx(&mut front, &mut report);
        buffers(&mut front, &mut report);
        random(&mut front, &mut report);
        control(&mut front, &mut report);
        works(&mut front, &mut report, "works-after-all");
    }
    report.check("lets-go", front.disconnect(), "the back end still has grants");
    report.finish()
}

/// A question by ARP for the gateway, from `mac`.
fn question(mac: [u8; 6]) -> Vec<u8> {
    question_of(mac, [10, 88, 0, 200])
}

/// As above, from a host with another address.
fn question_of(mac: [u8; 6], address: [u8; 4]) -> Vec<u8> {
    let arp = [0, 1, 8, 0, 6, 4, 0, 1];
    let mut frame = [
        &[0xff; 6],
        &mac[..],
        &[8, 6],
        &arp,
        &mac,
        &address,
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
    let mac = front.mac;
    front.fill(&question(mac));
    front.post(FIRST_BUFFER..FIRST_BUFFER + BUFFERS);
    front.put(&request(PACKET, 0, 60, 0, 7));
    front.publish(None);
    let sent = front
        .answer()
        .is_some_and(|answer| (answer.id, answer.status) == (7, NETIF_RSP_OKAY));
    // Others ask, too, and all of the bridge hear it.
    let answer = core::iter::from_fn(|| front.received()).find(|(_, frame, _)| frame.starts_with(&mac));
    let Some((response, frame, _)) = answer else {
        return false;
    };
    sent && response.flags == 0 && frame.get(28..32) == Some(&GATEWAY)
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
        front.fill(&question(front.mac));
        front.post([gref].into_iter());
        front.put(&request(PACKET, 0, 60, 0, 1));
        front.publish(None);
        let status = front.received().map(|(response, ..)| response.status);
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
            let [low, high] = [random.word(), random.word()];
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
        let anything = Some(random.word() as u32);
        let producer = random.pick(&[None, None, None, anything]);
        front.publish(producer);
        front.answer();
    }
    report.equal("random", connected, ROUNDS);
}

/// A front end with two queues and a control ring.
fn control(front: &mut Netfront, report: &mut Report) {
    for (name, ring, port) in [
        ("control-ring-not-granted", NOTHING, None),
        ("control-no-such-port", CONTROL_RING, Some(1000)),
    ] {
        let connected = front.connect_with_control(ring, port);
        report.check(name, !connected, "the back end connects");
    }
    report.equal("control-offered", front.back_end("feature-ctrl-ring"), Some(1));
    let connected = front.connect_with_control(CONTROL_RING, None);
    report.check("control-connects", connected, "refused");
    requests(front, report);
    hashes(front, report);
    report.equal("control-random", random_requests(front), ROUNDS * CONTROL_SLOTS);
    front.publish_control(Some(0x8000_0000));
    report.equal("control-index-far-ahead", front.control_answer(), None);
    let mac = front.mac;
    report.check(
        "control-broken-alone",
        arrival(front, &question(mac)).is_some(),
        "the other rings are not served",
    );
}

/// Full rings of what comes to mind; how many requests are answered.
fn random_requests(front: &mut Netfront) -> u32 {
    let mut random = Random::new(0x6374_726c);
    let mut answered = 0;
    for _ in 0..ROUNDS {
        for _ in 0..CONTROL_SLOTS {
            let gref = random.pick(&[READ_ONLY, NOTHING, 1, u32::MAX]);
            let [first, second, third] = [(); 3].map(|()| {
                let anything = random.word() as u32;
                random.pick(&[anything % 4, anything % 200, anything])
            });
            let data = [random.pick(&[gref, first]), second, third];
            front.put_control(random.below(9) as u16, data);
        }
        front.publish_control(None);
        answered += (0..CONTROL_SLOTS)
            .filter(|_| front.control_answer().is_some())
            .count() as u32;
    }
    answered
}

const SUCCESS: u32 = XEN_NETIF_CTRL_STATUS_SUCCESS;
const NOT_SUPPORTED: u32 = XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED;
const INVALID: u32 = XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER;
const OVERFLOW: u32 = XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW;
/// All hash types.
const TYPES: u32 = XEN_NETIF_CTRL_HASH_TYPE_IPV4
    | XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP
    | XEN_NETIF_CTRL_HASH_TYPE_IPV6
    | XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP;

/// Every request, good and bad; afterwards, packets are hashed by [`key`], and hashes of even numbers are queue 1's.
fn requests(front: &mut Netfront, report: &mut Report) {
    let [get_types, set_types] = [
        XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS,
        XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS,
    ];
    let [get_size, set_size] = [
        XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE,
        XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE,
    ];
    let [set_key, set_mapping, set_algorithm] = [
        XEN_NETIF_CTRL_TYPE_SET_HASH_KEY,
        XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING,
        XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM,
    ];
    front.fill(&key());
    let settings = [
        ("control-type-0", 0, [0; 3], (NOT_SUPPORTED, 0)),
        ("control-type-unknown", 99, [0; 3], (NOT_SUPPORTED, 0)),
        ("types-before-algorithm", get_types, [0; 3], (NOT_SUPPORTED, 0)),
        ("set-types-before-algorithm", set_types, [1, 0, 0], (INVALID, 0)),
        ("algorithm-unknown", set_algorithm, [9, 0, 0], (INVALID, 0)),
        ("algorithm", set_algorithm, [1, 0, 0], (SUCCESS, 0)),
        ("types", get_types, [0; 3], (SUCCESS, TYPES)),
        ("types-unknown", set_types, [1 << 4, 0, 0], (INVALID, 0)),
        ("set-types", set_types, [TYPES, 0, 0], (SUCCESS, 0)),
        ("key-not-granted", set_key, [NOTHING, 40, 0], (INVALID, 0)),
        ("key-beyond-the-table", set_key, [u32::MAX, 40, 0], (INVALID, 0)),
        ("key-too-long", set_key, [READ_ONLY, 41, 0], (OVERFLOW, 0)),
        (
            "key-far-too-long",
            set_key,
            [READ_ONLY, u32::MAX, 0],
            (OVERFLOW, 0),
        ),
        ("key", set_key, [READ_ONLY, 40, 0], (SUCCESS, 0)),
        ("mapping-sizes", get_size, [0; 3], (SUCCESS, 128)),
        ("mapping-too-large", set_size, [129, 0, 0], (INVALID, 0)),
        ("mapping-size", set_size, [2, 0, 0], (SUCCESS, 0)),
    ];
    let mappings = [
        ("mapping-not-granted", 1, [NOTHING, 2, 0], INVALID),
        ("mapping-out-of-range", 1, [READ_ONLY, 2, 1], INVALID),
        ("mapping-far-out-of-range", 1, [READ_ONLY, 1, u32::MAX], INVALID),
        ("mapping-too-long", 1, [READ_ONLY, u32::MAX, 2], OVERFLOW),
        ("mapping", 1, [READ_ONLY, 2, 0], SUCCESS),
        ("mapping-no-such-queue", QUEUES as u8, [READ_ONLY, 1, 0], INVALID),
    ];
    for (name, type_, data, expected) in settings {
        report.equal(name, front.ask(type_, data), Some(expected));
    }
    for (name, first, data, status) in mappings {
        front.fill(&[first, 0, 0, 0, 0, 0, 0, 0]);
        report.equal(name, front.ask(set_mapping, data), Some((status, 0)));
    }
}

/// A key without much order in it.
fn key() -> [u8; 40] {
    core::array::from_fn(|index| (index as u8).wrapping_mul(0x9d) ^ 0x6d)
}

/// The Toeplitz hash, bit by bit.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| u32::from(bytes[at / 8] >> (7 - at % 8) & 1);
    (0..input.len() * 8)
        .filter(|&at| bit(input, at) == 1)
        .map(|at| (at..at + 32).fold(0, |word, at| word << 1 | bit(key, at)))
        .fold(0, |hash, word| hash ^ word)
}

/// Answers of the gateway arrive where their hashes say, and with them.
fn hashes(front: &mut Netfront, report: &mut Report) {
    let even_to_second = |hash: u32| [1, 0][(hash % 2) as usize];
    let even_to_first = |hash: u32| (hash % 2) as usize;
    let used = answers(front, report, "mapped", even_to_second);
    report.equal("both-queues-are-used", used, [true; QUEUES]);
    let set_size = XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE;
    report.equal("no-mapping", front.ask(set_size, [0; 3]), Some((SUCCESS, 0)));
    answers(front, report, "by-hash", even_to_first);
    let set_algorithm = XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM;
    report.equal("no-hash", front.ask(set_algorithm, [0; 3]), Some((SUCCESS, 0)));
    let mac = front.mac;
    let arrived = arrival(front, &ping(mac, [10, 88, 0, 200]));
    report.equal("without-hash", arrived.map(|(_, info)| info), Some(None));
}

/// Asks the gateway from several addresses, by ARP, which has no hash, and by ping. Which queues the answers to pings
/// came by.
fn answers(front: &mut Netfront, report: &mut Report, name: &str, queue: fn(u32) -> usize) -> [bool; QUEUES] {
    let (mac, mut used) = (front.mac, [false; QUEUES]);
    for host in 200..208 {
        let address = [10, 88, 0, host];
        let arrived = arrival(front, &question_of(mac, address));
        report.equal(name, arrived, Some((queue(0), None)));
        let arrived = arrival(front, &ping(mac, address));
        let hash = toeplitz(&key(), [GATEWAY, address].as_flattened());
        let [a, b, c, d] = hash.to_le_bytes();
        let info = NetifExtraInfo {
            type_: XEN_NETIF_EXTRA_TYPE_HASH,
            flags: 0,
            u: [0, XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ as u8, a, b, c, d],
        };
        report.equal(name, arrived, Some((queue(hash), Some(info))));
        used[queue(hash)] = true;
    }
    used
}

/// Sends a frame, to which there is one answer: the queue that it arrives by, and extra information.
fn arrival(front: &mut Netfront, frame: &[u8]) -> Option<(usize, Option<NetifExtraInfo>)> {
    // One of the two takes the hash.
    for queue in &mut front.queues {
        queue.post(FIRST_BUFFER..FIRST_BUFFER + 2);
    }
    front.fill(frame);
    front.put(&request(PACKET, 0, frame.len() as u16, 0, 3));
    front.publish(None);
    front.answer()?;
    let (queue, answer, info) = front.received_by_any()?;
    answer.starts_with(&front.mac).then_some((queue, info))
}

/// A ping of the gateway from `mac`, which has an address.
fn ping(mac: [u8; 6], address: [u8; 4]) -> Vec<u8> {
    const GATEWAY_MAC: [u8; 6] = [2, 0, 0x0a, 0x58, 0, 1];
    let mut ip = [&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0], &address[..], &GATEWAY].concat();
    fill_checksum(&mut ip, 10);
    let mut icmp = [8, 0, 0, 0, 0, 1, 0, 1];
    fill_checksum(&mut icmp, 2);
    let mut frame = [&GATEWAY_MAC, &mac, &[8, 0][..], &ip, &icmp].concat();
    frame.resize(60, 0);
    frame
}

/// Fills the Internet checksum in where it belongs.
fn fill_checksum(bytes: &mut [u8], at: usize) {
    let words = bytes.as_chunks().0.iter();
    let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    let folded = (sum >> 16) + (sum & 0xffff);
    bytes[at..at + 2].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}
