//! A client of xenstore: one that breaks the protocol, one that floods, one that only wants to be served, one that counts
//! how often it is, and one that measures. Which, says the command line: `what=`.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::mem::offset_of;

use abi::io::xs_wire::*;
use guest_rt::hypercall::{event_channel, sched};
use guest_rt::start_info::StartInfo;
use guest_rt::{event, println};
use guests::cpu;
use guests::random::Random;
use guests::report::Report;
use guests::shared::Shared;
use guests::xenstore::Xenstore;
use zerocopy::IntoBytes;

use XenstoreDomainInterface as Page;

guest_rt::main!(main);

/// Rounds of anything anywhere.
const ROUNDS: u32 = 200;
/// Requests of the one that only wants to be served.
const SERVED: u32 = 200;
/// Nodes of one that only lives, and watches on some of them.
const NODES: u32 = 40;
/// As above.
const WATCHES: u32 = 8;

fn main(info: StartInfo) -> ! {
    cpu::init();
    let command_line = info.command_line();
    let option = |key: &str| {
        command_line
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix(key))
    };
    let store = Xenstore::default();
    match option("what=") {
        Some("break") => breaks(&store),
        Some("flood") => flood(&store),
        Some("served") => served(&store),
        Some("count") => counts(&store),
        Some("live") => live(&store),
        Some("measure") => measure(&store, option("others=").unwrap_or("?")),
        what => panic!("what={what:?}: no such thing"),
    }
}

fn write(store: &Xenstore, transaction: u32, path: &str, value: &str) -> Result<(), String> {
    let payload = format!("{path}\0{value}");
    store.ask(XS_WRITE, transaction, payload.as_bytes()).map(|_| ())
}

fn start(store: &Xenstore) -> Result<u32, String> {
    let number = store.ask(XS_TRANSACTION_START, 0, b"\0")?;
    let text = String::from_utf8_lossy(&number)
        .trim_end_matches('\0')
        .to_string();
    text.parse().map_err(|_| text)
}

/// A node written and read.
fn works(store: &Xenstore, report: &mut Report, name: &str) {
    let written = write(store, 0, "data/x", name);
    let read = store.read("data/x");
    let holds = written.is_ok() && read.as_deref() == Some(name);
    report.check(name, holds, format_args!("{written:?}, {read:?}"));
}

/// Waits until the server says what is wrong; 0 if it does not.
fn error(page: Shared, port: u32) -> u32 {
    const PATIENCE: u32 = 100_000;
    for _ in 0..PATIENCE {
        event_channel::send(port).expect("xenstore's port");
        sched::yield_now().expect("yielding");
        match page.load(offset_of!(Page, error)) {
            XENSTORE_ERROR_NONE => {}
            error => return error,
        }
    }
    XENSTORE_ERROR_NONE
}

fn breaks(store: &Xenstore) -> ! {
    let mut report = Report::default();
    works(store, &mut report, "before");
    refused(store, &mut report);
    quotas(store, &mut report);
    requests(store, &mut report);
    rings(store, &mut report);
    anything(store, &mut report);
    works(store, &mut report, "after-all");
    report.finish()
}

/// What a domain may not do.
fn refused(store: &Xenstore, report: &mut Report) {
    let accessed = Err("EACCES".to_string());
    for (name, kind, payload) in [
        ("write-dom0", XS_WRITE, "/local/domain/0/x\0v"),
        ("rm-root", XS_RM, "/\0"),
        ("introduce", XS_INTRODUCE, "1\x001\x001\0"),
        ("release", XS_RELEASE, "1\0"),
        ("resume", XS_RESUME, "1\0"),
        ("set-target", XS_SET_TARGET, "1\x000\0"),
        ("control", XS_CONTROL, "check\0"),
        ("special", XS_SET_PERMS, "@releaseDomain\0n1\0"),
    ] {
        report.equal(name, store.ask(kind, 0, payload.as_bytes()), accessed.clone());
    }
    let own = store.ask(XS_SET_PERMS, 0, b"data\0n0\0");
    report.equal("give-away", own, Err("EPERM".to_string()));
    let unknown = store.ask(4711, 0, b"\0");
    report.equal("unknown", unknown, Err("ENOSYS".to_string()));
    report.equal(
        "no-transaction",
        write(store, 9, "data/x", ""),
        Err("ENOENT".into()),
    );
}

/// Says in a node how many of its requests have been answered, for ever.
fn counts(store: &Xenstore) -> ! {
    let mut answered = 0u64;
    loop {
        assert!(
            store.write("data/count", &format!("{answered}")),
            "a node of its own"
        );
        answered += 1;
    }
}

/// How often `action` succeeds, and the error that ended it.
fn until_refused(mut action: impl FnMut(u32) -> Result<(), String>) -> (u32, String) {
    let mut count = 0;
    loop {
        match action(count) {
            Ok(()) => count += 1,
            Err(error) => return (count, error),
        }
    }
}

fn quotas(store: &Xenstore, report: &mut Report) {
    let (count, error) = until_refused(|_| start(store).map(|_| ()));
    report.equal("transactions", (count, error.as_str()), (10, "ENOSPC"));
    let (count, error) = until_refused(|index| {
        let payload = format!("data\0{index}\0");
        store.ask(XS_WATCH, 0, payload.as_bytes()).map(|_| ())
    });
    report.equal("watches", (count, error.as_str()), (128, "E2BIG"));
    let reset = store.ask(XS_RESET_WATCHES, 0, b"\0");
    report.check("reset-watches", reset.is_ok(), format_args!("{reset:?}"));
    let (count, error) =
        until_refused(|index| write(store, 0, &format!("data/{}/{}", index / 100, index % 100), ""));
    let holds = (900..1000).contains(&count) && error == "ENOSPC";
    report.check("nodes", holds, format_args!("{count}, {error}"));
    const ALLOWED: u32 = 1900;
    let (size, error) =
        until_refused(|size| write(store, 0, "data/0/0", &"v".repeat((ALLOWED + size) as usize)));
    let size = ALLOWED + size;
    let holds = (2000..2048).contains(&size) && error == "ENOSPC";
    report.check("node-size", holds, format_args!("{size}, {error}"));
    for index in 0..=10 {
        store.remove(&format!("data/{index}"));
    }
    works(store, report, "within-quotas");
}

/// Whole requests with anything in them: each has an answer.
fn requests(store: &Xenstore, report: &mut Report) {
    let mut random = Random::new(1);
    let parts = [
        "data",
        "data/x",
        "@releaseDomain",
        "T",
        "F",
        "0",
        "n1",
        "//",
        "\u{e9}",
        "",
    ];
    let mut errors = 0;
    for _ in 0..ROUNDS {
        let mut payload = Vec::new();
        for _ in 0..random.below(4) {
            payload.extend(random.pick(&parts).as_bytes());
            payload.push(random.pick(&[0, 0, 0, 0xff]));
        }
        let kind = random.below(26) as u32;
        let transaction = random.below(3) as u32;
        errors += u32::from(store.ask(kind, transaction, &payload).is_err());
    }
    report.check("any-requests", errors > 0, "none was refused");
    let reset = store.ask(XS_RESET_WATCHES, 0, b"\0");
    report.check("reset", reset.is_ok(), format_args!("{reset:?}"));
}

/// Broken rings: the server says what is wrong, and starts afresh when asked to.
fn rings(store: &Xenstore, report: &mut Report) {
    let (page, port) = store.parts();
    let load = |offset| page.load(offset);
    type Break<'a> = (&'a str, u32, &'a dyn Fn());
    let header = XsdSockmsg {
        type_: XS_WRITE,
        len: XENSTORE_PAYLOAD_MAX as u32 + 1,
        ..Default::default()
    };
    let breaks: [Break<'_>; 4] = [
        ("request-ahead", XENSTORE_ERROR_RINGIDX, &|| {
            page.store(
                offset_of!(Page, req_prod),
                load(offset_of!(Page, req_cons)) + 1025,
            );
        }),
        ("request-behind", XENSTORE_ERROR_RINGIDX, &|| {
            page.store(
                offset_of!(Page, req_prod),
                load(offset_of!(Page, req_cons)).wrapping_sub(1),
            );
        }),
        ("reply-ahead", XENSTORE_ERROR_RINGIDX, &|| {
            page.store(offset_of!(Page, rsp_cons), load(offset_of!(Page, rsp_prod)) + 1);
            // It looks there when it has something to say.
            push(page, XsdSockmsg::default().as_bytes());
        }),
        ("too-long", XENSTORE_ERROR_PROTO, &|| {
            push(page, header.as_bytes())
        }),
    ];
    for (name, expected, action) in breaks {
        action();
        report.equal(name, error(page, port), expected);
        store.reconnect();
        report.equal(
            "no-error",
            page.load(offset_of!(Page, error)),
            XENSTORE_ERROR_NONE,
        );
        works(store, report, "afresh");
    }
}

/// Puts bytes into the ring of requests, which has room.
fn push(page: Shared, bytes: &[u8]) {
    let producer = page.load(offset_of!(Page, req_prod));
    for (index, byte) in bytes.iter().enumerate() {
        let at = (producer as usize + index) % XENSTORE_RING_SIZE as usize;
        page.write(offset_of!(Page, req) + at, &[*byte]);
    }
    page.store(
        offset_of!(Page, req_prod),
        producer.wrapping_add(bytes.len() as u32),
    );
}

/// Anything anywhere in the page.
fn anything(store: &Xenstore, report: &mut Report) {
    let (page, port) = store.parts();
    let mut random = Random::new(2);
    for _ in 0..ROUNDS {
        for _ in 0..random.below(16) {
            let offset = match random.below(2) {
                0 => random.below(1024) as usize * 4,
                _ => offset_of!(Page, req_cons) + random.below(7) as usize * 4,
            };
            let value = match random.below(3) {
                0 => random.word() as u32,
                1 => random.below(2) as u32,
                _ => random.below(1200) as u32,
            };
            page.store(offset, value);
        }
        event_channel::send(port).expect("xenstore's port");
        sched::yield_now().expect("yielding");
    }
    store.reconnect();
    // Requests that were valid by chance may have left something.
    let reset = store.ask(XS_RESET_WATCHES, 0, b"\0");
    report.check("anything", reset.is_ok(), format_args!("{reset:?}"));
}

/// Requests without end, as fast as they are taken: half of them in a transaction that never ends, of a node that it
/// watches, and nothing said about what was read.
fn flood(store: &Xenstore) -> ! {
    let (page, port) = store.parts();
    println!("FLOOD");
    for index in 0..100 {
        let _ = store.ask(XS_WATCH, 0, format!("data\0{index}\0").as_bytes());
    }
    let mut requests = Vec::new();
    for index in 0..8u32 {
        let payload = format!("data/x\0{index}");
        let header = XsdSockmsg {
            type_: XS_WRITE,
            len: payload.len() as u32,
            ..Default::default()
        };
        requests.extend(header.as_bytes());
        requests.extend(payload.as_bytes());
    }
    let replies = offset_of!(Page, rsp_cons);
    loop {
        let used = page
            .load(offset_of!(Page, req_prod))
            .wrapping_sub(page.load(offset_of!(Page, req_cons)));
        if used as usize + requests.len() <= XENSTORE_RING_SIZE as usize {
            push(page, &requests);
        }
        page.store(replies, page.load(offset_of!(Page, rsp_prod)));
        event_channel::send(port).expect("xenstore's port");
    }
}

/// Reads, writes and transactions, all of which are to work whoever else does what.
fn served(store: &Xenstore) -> ! {
    let mut report = Report::default();
    let mut failed = Vec::new();
    for index in 0..SERVED {
        let value = format!("{index}");
        let done = start(store).and_then(|transaction| {
            write(store, transaction, "data/a", &value)?;
            write(store, transaction, "data/b", &value)?;
            store.ask(XS_TRANSACTION_END, transaction, b"T\0")
        });
        let read = store.read("data/b");
        if done.is_err() || read.as_deref() != Some(&value) {
            failed.push((index, done, read));
        }
    }
    report.equal("served", failed, vec![]);
    report.finish()
}

/// Has some nodes and watches, as front ends and agents do, and leaves it at that.
fn live(store: &Xenstore) -> ! {
    for index in 0..NODES {
        write(store, 0, &format!("data/{index}/state"), "4").expect("writing");
    }
    for index in 0..WATCHES {
        let watch = format!("data/{index}\0token\0");
        store.ask(XS_WATCH, 0, watch.as_bytes()).expect("watching");
    }
    println!("READY");
    loop {
        event::wait();
        event::take_pending(|_| ());
    }
}

/// What requests take, from the first byte written to the last byte of the reply read, everybody's work between
/// included, beside so many other domains.
fn measure(store: &Xenstore, others: &str) -> ! {
    const TRIES: u32 = 100;
    let report = |name: &str, action: &dyn Fn()| {
        let least = (0..TRIES)
            .map(|_| {
                let start = cpu::tsc();
                action();
                cpu::tsc() - start
            })
            .min();
        println!("BENCH {name} beside {others}: {}", least.unwrap_or(0));
    };
    write(store, 0, "data/x", "value").expect("writing");
    report("read", &|| assert!(store.read("data/x").is_some()));
    report("write", &|| assert!(store.write("data/x", "value")));
    report("transaction", &|| {
        let transaction = start(store).expect("a transaction");
        store.ask(XS_READ, transaction, b"data/x\0").expect("reading");
        write(store, transaction, "data/x", "value").expect("writing");
        store
            .ask(XS_TRANSACTION_END, transaction, b"T\0")
            .expect("committing");
    });
    let mut verdict = Report::default();
    verdict.equal("read", store.read("data/x").as_deref(), Some("value"));
    verdict.finish()
}
