//! A block front end that breaks the protocol: requests, rings and nodes with everything wrong that can be. The back
//! end answers with an error or closes the device; what is right works all the while, and at the end nothing of this
//! guest's memory is in use.
//!
//! The domain needs one disk, xvda, of 64 KiB that can be written. With `persistent` on the command line its grants are
//! persistent; with `bench` it measures instead (the disk has 256 KiB then), and with `once` it only writes and reads.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::vec;
use core::mem::offset_of;

use abi::io::blkif::*;
use abi::io::ring::SringHeader;
use guest_rt::hypercall::event_channel;
use guest_rt::println;
use guest_rt::start_info::StartInfo;
use guests::blkfront::*;
use guests::cpu;
use guests::frames::SIZE;
use guests::random::Random;
use guests::report::Report;
use zerocopy::{IntoBytes, transmute};

guest_rt::main!(main);

/// Sectors of the disk.
const SECTORS: u64 = 128;

fn main(info: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    let has = |word| info.command_line().contains(word);
    let mut front = Front::new(has("persistent"));
    report.equal("connect", front.connect(&[]), true);
    let written = ["state", "sectors", "online", "params", "new"].map(|name| {
        let path = format!("{}/{name}", front.back);
        front.store.write(&path, "1")
    });
    report.equal("back-end's-nodes", written, [false; 5]);
    if has("bench") {
        measure(&mut front);
    } else if has("once") {
        good_requests(&mut report, &mut front);
    } else {
        good_requests(&mut report, &mut front);
        bad_requests(&mut report, &mut front);
        bad_indirect(&mut report, &mut front);
        random_requests(&mut report, &mut front);
        report.equal("kept", front.grants.in_use(DATA_REF), front.persistent);
        bad_indices(&mut report, &mut front);
        bad_nodes(&mut report, &mut front);
        larger_rings(&mut report, &mut front);
    }
    front.disconnect();
    let rings = [RING_REF, RING_2_REF].map(|reference| front.grants.in_use(reference));
    report.equal("rings-free", rings, [false; 2]);
    let used = (0..DATA_FRAMES as u32)
        .filter(|frame| front.grants.in_use(DATA_REF + frame))
        .count();
    report.equal("data-free", used, 0);
    report.finish()
}

fn good_requests(report: &mut Report, front: &mut Front) {
    front.data.write(0, &[0x5a; SIZE]);
    front.data.write(SIZE, &[0xa5; SIZE]);
    let write = request(
        BLKIF_OP_WRITE,
        3,
        &[segment(DATA_REF, 0, 7), segment(DATA_REF + 1, 2, 4)],
    );
    report.equal("write", front.status(&write), BLKIF_RSP_OKAY);
    let read = request(BLKIF_OP_READ, 4, &[segment(DATA_REF + 2, 0, 7)]);
    report.equal("read", front.status(&read), BLKIF_RSP_OKAY);
    let mut page = [0; SIZE];
    front.data.read(2 * SIZE, &mut page);
    let right = page[..7 * 512] == [0x5a; 7 * 512] && page[7 * 512..] == [0xa5; 512];
    report.check("data", right, "other bytes than those written");
    report.equal(
        "flush",
        front.status(&request(BLKIF_OP_FLUSH_DISKCACHE, 0, &[])),
        BLKIF_RSP_OKAY,
    );
    let writing = request(BLKIF_OP_WRITE, 0, &[segment(READ_ONLY_REF, 0, 7)]);
    report.equal("write-from-read-only", front.status(&writing), BLKIF_RSP_OKAY);
    list_segments(16);
    let all = indirect(BLKIF_OP_READ, 0, 16, INDIRECT_REF);
    let response = front.ask(&all);
    report.equal(
        "indirect",
        (response.status, response.operation),
        (BLKIF_RSP_OKAY, BLKIF_OP_READ),
    );
}

fn bad_requests(report: &mut Report, front: &mut Front) {
    let good = segment(DATA_REF, 0, 7);
    for (name, request, wanted) in [
        (
            "beyond-the-end",
            request(BLKIF_OP_READ, SECTORS - 7, &[good]),
            BLKIF_RSP_ERROR,
        ),
        (
            "far-beyond",
            request(BLKIF_OP_WRITE, u64::MAX - 3, &[good]),
            BLKIF_RSP_ERROR,
        ),
        (
            "byte-overflow",
            request(BLKIF_OP_READ, 1 << 55, &[good]),
            BLKIF_RSP_ERROR,
        ),
        ("no-segments", request(BLKIF_OP_READ, 0, &[]), BLKIF_RSP_ERROR),
        (
            "12-segments",
            request(BLKIF_OP_READ, 0, &[good; 12]),
            BLKIF_RSP_ERROR,
        ),
        (
            "255-segments",
            request(BLKIF_OP_WRITE, 0, &[good; 255]),
            BLKIF_RSP_ERROR,
        ),
        (
            "barrier-255",
            request(BLKIF_OP_WRITE_BARRIER, 0, &[good; 255]),
            BLKIF_RSP_ERROR,
        ),
        (
            "sector-8",
            request(BLKIF_OP_READ, 0, &[segment(DATA_REF, 0, 8)]),
            BLKIF_RSP_ERROR,
        ),
        (
            "sector-255",
            request(BLKIF_OP_READ, 0, &[segment(DATA_REF, 255, 255)]),
            BLKIF_RSP_ERROR,
        ),
        (
            "backwards",
            request(BLKIF_OP_READ, 0, &[segment(DATA_REF, 5, 4)]),
            BLKIF_RSP_ERROR,
        ),
        (
            "no-grant",
            request(BLKIF_OP_READ, 0, &[good, segment(NO_REF, 0, 7)]),
            BLKIF_RSP_ERROR,
        ),
        (
            "grant-beyond",
            request(BLKIF_OP_WRITE, 0, &[segment(u32::MAX, 0, 7)]),
            BLKIF_RSP_ERROR,
        ),
        (
            "read-only-grant",
            request(BLKIF_OP_READ, 0, &[segment(READ_ONLY_REF, 0, 7)]),
            BLKIF_RSP_ERROR,
        ),
        ("unknown-operation", request(77, 0, &[good]), BLKIF_RSP_EOPNOTSUPP),
        ("reserved-operation", request(4, 0, &[good]), BLKIF_RSP_EOPNOTSUPP),
    ] {
        report.equal(name, front.status(&request), wanted);
    }
    let discard = |nr_sectors: u64| -> BlkifRequest {
        let mut bytes = [0; size_of::<BlkifRequest>()];
        let discard = BlkifRequestDiscard {
            operation: BLKIF_OP_DISCARD,
            flag: BLKIF_DISCARD_SECURE,
            sector_number: 64,
            nr_sectors,
            ..Default::default()
        };
        bytes[..size_of::<BlkifRequestDiscard>()].copy_from_slice(discard.as_bytes());
        transmute!(bytes)
    };
    let offered = front.store.read(&format!("{}/feature-discard", front.back));
    for (sectors, wanted) in [
        (8, BLKIF_RSP_OKAY),
        (65, BLKIF_RSP_ERROR),
        (u64::MAX, BLKIF_RSP_ERROR),
    ] {
        let wanted = if offered.is_some() {
            wanted
        } else {
            BLKIF_RSP_EOPNOTSUPP
        };
        report.equal("discard", front.status(&discard(sectors)), wanted);
    }
}

fn bad_indirect(report: &mut Report, front: &mut Front) {
    list_segments(512);
    for (name, request) in [
        (
            "indirect-65535",
            indirect(BLKIF_OP_READ, 0, u16::MAX, INDIRECT_REF),
        ),
        ("indirect-257", indirect(BLKIF_OP_WRITE, 0, 257, INDIRECT_REF)),
        ("indirect-0", indirect(BLKIF_OP_READ, 0, 0, INDIRECT_REF)),
        ("indirect-no-grant", indirect(BLKIF_OP_READ, 0, 1, NO_REF)),
        ("indirect-beyond", indirect(BLKIF_OP_READ, 0, 17, INDIRECT_REF)),
        (
            "indirect-indirect",
            indirect(BLKIF_OP_INDIRECT, 0, 1, INDIRECT_REF),
        ),
        (
            "indirect-flush",
            indirect(BLKIF_OP_FLUSH_DISKCACHE, 0, 1, INDIRECT_REF),
        ),
    ] {
        report.equal(name, front.status(&request), BLKIF_RSP_ERROR);
    }
}

/// Anything at all; each is answered.
fn random_requests(report: &mut Report, front: &mut Front) {
    let mut random = Random::new(7);
    let mut errors = 0;
    for _ in 0..300 {
        let mut words = [0_u64; size_of::<BlkifRequest>() / 8];
        words.iter_mut().for_each(|word| *word = random.word());
        let mut noise: BlkifRequest = transmute!(words);
        noise.operation = random.below(8) as u8;
        noise.nr_segments = random.below(14) as u8;
        noise.sector_number = random.below(SECTORS * 2);
        for slot in &mut noise.seg {
            let reference = random.pick(&[DATA_REF, INDIRECT_REF, READ_ONLY_REF, RING_REF + 4, NO_REF]);
            *slot = segment(reference, random.below(9) as u8, random.below(9) as u8);
        }
        errors += u32::from(front.status(&noise) != BLKIF_RSP_OKAY);
    }
    report.check(
        "random",
        errors > 0 && errors < 300,
        format!("{errors} of 300 were errors"),
    );
    let read = request(BLKIF_OP_READ, 0, &[segment(DATA_REF, 0, 7)]);
    report.equal("read-after-random", front.status(&read), BLKIF_RSP_OKAY);
}

/// More requests than the ring holds: it is let go of, and a new one works.
fn bad_indices(report: &mut Report, front: &mut Front) {
    for (name, jump) in [
        ("index-33", 33),
        ("index-far", 0x8000_0000),
        ("index-back", u32::MAX),
    ] {
        let announced = front.sent.wrapping_add(jump);
        front.ring.store(offset_of!(SringHeader, req_prod), announced);
        event_channel::send(front.port).expect("the port");
        // Two answers of xenstore later the back end has had its turn as well.
        for _ in 0..2 {
            front.store.read(&front.back);
        }
        let answered = front.ring.load(offset_of!(SringHeader, rsp_prod));
        report.equal(
            name,
            (answered, front.grants.in_use(RING_REF)),
            (front.sent, false),
        );
        front.disconnect();
        report.equal("connect-again", front.connect(&[]), true);
        let read = request(BLKIF_OP_READ, 0, &[segment(DATA_REF, 0, 7)]);
        report.equal("read-again", front.status(&read), BLKIF_RSP_OKAY);
    }
    front.disconnect();
}

/// Nodes that make no sense: the back end closes, and takes good ones afterwards.
fn bad_nodes(report: &mut Report, front: &mut Front) {
    for nodes in [
        ("ring-ref", "300"),
        ("ring-ref", "-1"),
        ("ring-ref", "99999999999999999999"),
        ("ring-ref", "10"),
        ("event-channel", "0"),
        ("event-channel", "4000000000"),
        ("event-channel", ""),
        ("protocol", "arm-abi"),
        ("multi-queue-num-queues", "0"),
        ("multi-queue-num-queues", "5"),
        ("multi-queue-num-queues", "4"),
        ("ring-page-order", "5"),
        ("ring-page-order", "4294967295"),
        ("ring-page-order", "1"),
    ] {
        let (name, value) = nodes;
        let refused = !front.connect(&[nodes]);
        let free = !front.grants.in_use(RING_REF);
        report.check(
            name,
            refused && free,
            format_args!("{value}: refused {refused}, ring free {free}"),
        );
        front.disconnect();
    }
    report.equal("connect-at-last", front.connect(&[]), true);
    let read = request(BLKIF_OP_READ, 0, &[segment(DATA_REF, 0, 7)]);
    report.equal("read-at-last", front.status(&read), BLKIF_RSP_OKAY);
}

/// A ring of two pages, then two rings: each is gone round more than once.
fn larger_rings(report: &mut Report, front: &mut Front) {
    let read = request(BLKIF_OP_READ, 0, &[segment(DATA_REF, 0, 7)]);
    let round = |front: &mut Front| {
        let count = front.entries * 2 + 1;
        (0..count)
            .filter(|_| front.status(&read) != BLKIF_RSP_OKAY)
            .count()
    };
    let (first, second) = (format!("{RING_REF}"), format!("{RING_2_REF}"));
    front.disconnect();
    let nodes = [
        ("ring-page-order", "1"),
        ("ring-ref0", first.as_str()),
        ("ring-ref1", second.as_str()),
    ];
    report.equal("two-pages", front.connect(&nodes), true);
    front.begin(0, 2 * SIZE);
    report.equal("two-pages-entries", (front.entries, round(front)), (64, 0));
    front.disconnect();

    let ports = [(); 2].map(|()| event_channel::alloc_unbound(abi::domid::DOMID_SELF, 0).expect("a port"));
    let channels = ports.map(|port| format!("{port}"));
    let nodes = [
        ("multi-queue-num-queues", "2"),
        ("queue-0/ring-ref", first.as_str()),
        ("queue-0/event-channel", channels[0].as_str()),
        ("queue-1/ring-ref", second.as_str()),
        ("queue-1/event-channel", channels[1].as_str()),
    ];
    report.equal("two-queues", front.connect(&nodes), true);
    let unused = front.port;
    for (port, start) in ports.into_iter().zip([0, SIZE]) {
        front.begin(start, SIZE);
        front.port = port;
        report.equal("two-queues-requests", (front.entries, round(front)), (32, 0));
    }
    event_channel::close(unused).expect("the port");
    event_channel::close(ports[0]).expect("the port");
    let used = [RING_REF, RING_2_REF].map(|reference| front.grants.in_use(reference));
    report.equal("rings-in-use", used, [true; 2]);
}

/// Ticks from a request to its response, or of one among those that are under way at once: all domains' and the
/// hypervisor's work in between included, and what a front end with persistent grants copies itself. Beside them how
/// many events, each a hypercall of who sends it, go either way for 1,000 requests.
fn measure(front: &mut Front) {
    const ROUNDS: usize = 50;
    list_segments(DATA_FRAMES);
    let one = |operation| vec![page_request(operation, 0)];
    let many = |operation| {
        (0..DATA_FRAMES as u32)
            .map(|page| page_request(operation, page))
            .collect()
    };
    let large = |operation, pages| vec![indirect(operation, 0, pages, INDIRECT_REF)];
    for (name, pages, requests) in [
        ("read 4 KiB", 1, one(BLKIF_OP_READ)),
        ("write 4 KiB", 1, one(BLKIF_OP_WRITE)),
        ("read 64 KiB", 16, large(BLKIF_OP_READ, 16)),
        ("write 64 KiB", 16, large(BLKIF_OP_WRITE, 16)),
        ("read 128 KiB", 32, large(BLKIF_OP_READ, 32)),
        ("write 128 KiB", 32, large(BLKIF_OP_WRITE, 32)),
        ("read one of 32", DATA_FRAMES, many(BLKIF_OP_READ)),
        ("write one of 32", DATA_FRAMES, many(BLKIF_OP_WRITE)),
        ("flush", 0, vec![request(BLKIF_OP_FLUSH_DISKCACHE, 0, &[])]),
    ] {
        let mut least = u64::MAX;
        let (mut sent, mut came) = (0, 0);
        let mut buffer = [0; SIZE];
        for _ in 0..ROUNDS {
            let start = cpu::tsc();
            let events = front.ask_at_once(&requests);
            for page in (0..pages).filter(|_| front.persistent) {
                front.data.read(page * SIZE, &mut buffer);
            }
            least = least.min(cpu::tsc() - start);
            sent += events.0;
            came += events.1;
        }
        println!(
            "BENCH {name}{}: {}, {} sent, {} come",
            if front.persistent { ", persistent" } else { "" },
            least / requests.len() as u64,
            sent * 1000 / (ROUNDS * requests.len()),
            came * 1000 / (ROUNDS * requests.len()),
        );
    }
}

/// A request for 4 KiB of the disk, from or to the frame of data of the same number.
fn page_request(operation: u8, page: u32) -> BlkifRequest {
    request(operation, u64::from(page) * 8, &[segment(DATA_REF + page, 0, 7)])
}
