//! A front end of channel 1 that does everything wrong, and then talks over it.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::vec::Vec;
use core::mem::offset_of;

use abi::domid::DOMID_SELF;
use abi::grant::GrantRef;
use abi::io::console::{XENCONS_IN_SIZE, XENCONS_OUT_SIZE, XenconsInterface as Page};
use abi::io::xenbus::*;
use guest_rt::hypercall::{event_channel, sched};
use guest_rt::start_info::StartInfo;
use guests::frames::{Frames, SIZE};
use guests::granting::Grants;
use guests::report::Report;
use guests::shared::Shared;
use guests::xenstore::Xenstore;

guest_rt::main!(main);

static RING: Frames<1> = Frames::new();
/// Grant of the ring's page.
const GRANT: GrantRef = 8;
/// Nothing is granted by it.
const NOTHING: GrantRef = 9;
const DEVICE: &str = "device/console/1";

/// The front end.
struct Console {
    store: Xenstore,
    page: Shared,
    port: u32,
}

fn main(_: StartInfo) -> ! {
    let mut report = Report::default();
    let grants = Grants::default();
    let page = Shared::of(&RING);
    grants.grant(GRANT, page.frame(0));
    let mut console = Console {
        store: Xenstore::default(),
        page,
        port: 0,
    };
    for (node, value) in [
        ("protocol", "vt100"),
        ("name", "org.example.channel"),
        ("limit", "1048576"),
        ("type", "ioemu"),
        ("output", "chardev:libxl-channel1"),
    ] {
        let found = console.store.read(&format!("{DEVICE}/{node}"));
        report.equal(node, found.as_deref(), Some(value));
    }
    let renamed = console.store.write(&format!("{DEVICE}/name"), "other");
    report.check("name-is-read-only", !renamed, "it was written");

    let connected = console.connect(NOTHING, None);
    report.check("ring-not-granted", !connected, "the back end connects");
    let connected = console.connect(GRANT, Some(1000));
    report.check("no-such-port", !connected, "the back end connects");
    let connected = console.connect(GRANT, None);
    report.check("connects", connected, "the back end does not connect");
    report.check("ring-mapped", grants.in_use(GRANT), "the grant is not in use");

    // Indices that contradict each other: nothing is taken until they are mended.
    let producer = console.page.load(offset_of!(Page, out_prod));
    let broken = producer.wrapping_add(XENCONS_OUT_SIZE + 1);
    console.page.store(offset_of!(Page, out_prod), broken);
    console.page.store(offset_of!(Page, in_cons), 0x8000_0000);
    console.notify();
    for _ in 0..200 {
        let _ = sched::yield_now();
    }
    let consumer = console.page.load(offset_of!(Page, out_cons));
    report.equal("broken-indices", consumer, producer);
    console.page.store(offset_of!(Page, out_prod), producer);
    let input = console.page.load(offset_of!(Page, in_prod));
    console.page.store(offset_of!(Page, in_cons), input);

    // More than is kept.
    (0..2000).for_each(|_| console.say(&[b'.'; 63]));
    console.say(b"\r\nready\r\n");
    let heard = console.hear();
    report.equal("heard", heard.as_slice(), b"hello\r");
    console.say(b"understood\r\n");

    let connected = console.connect(GRANT, None);
    report.check("connects-again", connected, "the back end does not connect");
    console.say(b"after all\r\n");
    report.finish()
}

impl Console {
    fn set(&self, node: &str, value: u32) {
        self.store.write(&format!("{DEVICE}/{node}"), &format!("{value}"));
    }

    /// The back end's state.
    fn state(&self) -> Option<u32> {
        let back = self.store.read(&format!("{DEVICE}/backend"))?;
        self.store.read(&format!("{back}/state"))?.parse().ok()
    }

    fn wait_for(&self, states: &[u32]) -> u32 {
        loop {
            let state = self.state().unwrap_or_default();
            if states.contains(&state) {
                return state;
            }
            let _ = sched::yield_now();
        }
    }

    /// Closes, and offers the device with this ring. Whether the back end connects.
    fn connect(&mut self, grant: GrantRef, port: Option<u32>) -> bool {
        self.set("state", XENBUS_STATE_CLOSED);
        self.wait_for(&[XENBUS_STATE_CLOSED]);
        if self.port != 0 {
            let _ = event_channel::close(self.port);
        }
        self.page.write(0, &[0; SIZE]);
        self.set("state", XENBUS_STATE_INITIALISING);
        self.wait_for(&[XENBUS_STATE_INIT_WAIT]);
        self.port = event_channel::alloc_unbound(DOMID_SELF, 0).expect("a port");
        self.set("ring-ref", grant);
        self.set("port", port.unwrap_or(self.port));
        self.set("state", XENBUS_STATE_INITIALISED);
        let answers = [XENBUS_STATE_CONNECTED, XENBUS_STATE_CLOSING, XENBUS_STATE_CLOSED];
        self.wait_for(&answers) == XENBUS_STATE_CONNECTED
    }

    fn notify(&self) {
        event_channel::send(self.port).expect("the channel's port");
    }

    /// Writes, and waits until all has been read.
    fn say(&self, bytes: &[u8]) {
        let producer = self.page.load(offset_of!(Page, out_prod));
        for (index, &byte) in bytes.iter().enumerate() {
            let at = producer.wrapping_add(index as u32) % XENCONS_OUT_SIZE;
            self.page.write(offset_of!(Page, out) + at as usize, &[byte]);
        }
        let end = producer.wrapping_add(bytes.len() as u32);
        self.page.store(offset_of!(Page, out_prod), end);
        self.notify();
        while self.page.load(offset_of!(Page, out_cons)) != end {
            // A serial line takes 5 ms for 64 letters.
            let _ = sched::sleep(1_000_000);
        }
    }

    /// Reads to the end of a line.
    fn hear(&self) -> Vec<u8> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\r') {
            let consumer = self.page.load(offset_of!(Page, in_cons));
            while self.page.load(offset_of!(Page, in_prod)) == consumer {
                let _ = sched::sleep(1_000_000);
            }
            let at = offset_of!(Page, in_) + (consumer % XENCONS_IN_SIZE) as usize;
            let mut byte = [0];
            self.page.read(at, &mut byte);
            line.extend(byte);
            self.page
                .store(offset_of!(Page, in_cons), consumer.wrapping_add(1));
            self.notify();
        }
        line
    }
}
