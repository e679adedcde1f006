//! What packets and a TCP connection cost between two domains on a bridge, in ticks of the time-stamp counter; all
//! domains' work is in it, as they share a CPU.
//!
//! It takes two: with `echo` on the command line it sends back what comes, without it it measures; with `tcp` it sends by
//! a TCP connection, and with `sink` it takes what comes by that. All wait blocked, and send events when they are asked
//! for, as the drivers of a real kernel do.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;

use abi::grant::GrantRef;
use abi::io::netif::NetifTxRequest;
use guest_rt::hypercall::sched;
use guest_rt::start_info::StartInfo;
use guest_rt::{println, time};
use guests::cpu;
use guests::netfront::{BUFFERS, FIRST_BUFFER, FIRST_SENT, Netfront, PACKET, read_buffer, write_buffer};
use guests::report::Report;
use guests::tcp::{self, End, FRAME, STREAM, STREAMS};
use smoltcp::phy::{Device, DeviceCapabilities, RxToken, TxToken};
use smoltcp::time::Instant;

guest_rt::main!(main);

/// The one that measures, and the one that sends back.
const MACS: [[u8; 6]; 2] = [[0, 0x16, 0x3e, 0, 0, 1], [0, 0x16, 0x3e, 0, 0, 2]];
/// For experiments (IEEE 802).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// Each measurement is the least of so many.
const TRIES: u32 = 50;
/// Packets before those that are measured: the first find the bridge without knowledge of addresses.
const WARM_UP: u32 = 3;

fn end(front: Netfront, which: usize) -> End<Wire> {
    let mac = front.mac;
    End::new(Wire::new(front), mac, which)
}

fn main(info: StartInfo) -> ! {
    let mut report = Report::default();
    let mut front = Netfront::new();
    report.check("connect", front.connect(), "refused");
    front.post(FIRST_BUFFER..FIRST_BUFFER + BUFFERS);
    match info.command_line() {
        "sink" => sink(end(front, 1)),
        "tcp" => {
            report.check("stream", stream(end(front, 0)), "the connection was closed");
            report.finish();
        }
        _ => {}
    }
    let echo = info.command_line().contains("echo");
    let [own, other] = if echo { [MACS[1], MACS[0]] } else { MACS };
    front.fill(&[&other[..], &own, &ETHERTYPE].concat());
    if echo {
        send_back(&mut front);
    }
    for (name, size, packets) in [
        ("packet, 60 bytes", 60, 1),
        ("packet, 1514 bytes", 1514, 1),
        ("one of 16, 60 bytes", 60, 16),
        ("one of 16, 1514 bytes", 1514, 16),
    ] {
        for _ in 0..WARM_UP {
            round(&mut front, size, packets);
        }
        front.take_events();
        let ticks = (0..TRIES).map(|_| round(&mut front, size, packets)).min();
        // There and back; the events are of this end only.
        let each = u64::from(2 * packets);
        bench(
            name,
            ticks.unwrap_or(0) / each,
            front.take_events(),
            each * u64::from(TRIES),
        );
    }
    report.finish()
}

/// Prints the ticks of a measurement, and how many of the events there were for each 1,000 of `count` operations.
fn bench(name: &str, ticks: u64, (sent, come): (u64, u64), count: u64) {
    let [sent, come] = [sent, come].map(|events| events * 1000 / count);
    println!("BENCH {name}: {ticks}, {sent} sent, {come} come");
}

/// Sends packets of a size, and waits until as many have come back.
fn round(front: &mut Netfront, size: u16, packets: u32) -> u64 {
    let start = cpu::tsc();
    for _ in 0..packets {
        send(front, size);
    }
    front.push();
    let mut back = 0;
    while back < packets {
        front.sleep();
        while let Some((gref, _)) = front.take_received() {
            front.give([gref].into_iter());
            back += 1;
        }
        front.push();
    }
    let end = cpu::tsc();
    while front.take_answer().is_some() {}
    end - start
}

fn send_back(front: &mut Netfront) -> ! {
    println!("READY");
    loop {
        front.sleep();
        while let Some((gref, size)) = front.take_received() {
            front.give([gref].into_iter());
            send(front, size);
        }
        front.push();
        while front.take_answer().is_some() {}
    }
}

fn send(front: &mut Netfront, size: u16) {
    front.put(&NetifTxRequest {
        gref: PACKET,
        offset: 0,
        flags: 0,
        id: 0,
        size,
    });
}

/// Sends streams, and measures how long each takes until all of it is acknowledged. Returns whether all went.
fn stream(mut end: End<Wire>) -> bool {
    while !end.socket().may_send() {
        end.take();
        end.send();
        let _ = sched::yield_now();
    }
    let mut least = u64::MAX;
    end.wire.sender.front.take_events();
    for _ in 0..STREAMS {
        let start = cpu::tsc();
        let mut left = STREAM;
        while end.fill(&mut left) {
            end.send();
            end.wire.sleep();
            end.take();
        }
        if left > 0 {
            return false;
        }
        least = least.min(cpu::tsc() - start);
    }
    let events = end.wire.sender.front.take_events();
    bench("TCP, 1 MiB", least, events, STREAMS.into());
    true
}

/// Takes what comes, for ever.
fn sink(mut end: End<Wire>) -> ! {
    println!("READY");
    loop {
        end.wire.sleep();
        end.take();
        end.drop_data();
        end.send();
    }
}

/// The front end as smoltcp wants it.
struct Wire {
    sender: Sender,
    /// What came last.
    input: [u8; FRAME],
    /// Buffers to give back.
    taken: Vec<GrantRef>,
}

struct Sender {
    front: Netfront,
    /// Buffers to send from that are not under way.
    free: Vec<GrantRef>,
    output: [u8; FRAME],
}

impl Wire {
    fn new(front: Netfront) -> Wire {
        Wire {
            sender: Sender {
                front,
                free: (FIRST_SENT..FIRST_SENT + BUFFERS).collect(),
                output: [0; FRAME],
            },
            input: [0; FRAME],
            taken: Vec::new(),
        }
    }

    /// Blocks until something has come.
    fn sleep(&self) {
        self.sender.front.sleep();
    }
}

impl tcp::Wire for Wire {
    fn now(&self) -> Instant {
        Instant::from_micros((time::now() / 1000) as i64)
    }

    /// Lets the back end see what is to be sent, and gives it back what has been received.
    fn flush(&mut self) {
        self.sender.front.give(self.taken.drain(..));
        self.sender.front.push();
    }
}

impl Device for Wire {
    type RxToken<'a> = Input<'a>;
    type TxToken<'a> = &'a mut Sender;

    fn receive(&mut self, _now: Instant) -> Option<(Input<'_>, &mut Sender)> {
        let sender = self.sender.ready()?;
        let (gref, size) = sender.front.take_received()?;
        self.taken.push(gref);
        let input = &mut self.input[..FRAME.min(size.into())];
        read_buffer(gref, input);
        Some((Input(input), sender))
    }

    fn transmit(&mut self, _now: Instant) -> Option<&mut Sender> {
        self.sender.ready()
    }

    fn capabilities(&self) -> DeviceCapabilities {
        tcp::capabilities()
    }
}

impl Sender {
    /// Itself, if there is a buffer to send from.
    fn ready(&mut self) -> Option<&mut Sender> {
        while let Some(sent) = self.front.take_answer() {
            self.free.push(sent.into());
        }
        (!self.free.is_empty()).then_some(self)
    }
}

impl TxToken for &mut Sender {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let frame = &mut self.output[..length];
        let result = fill(frame);
        let gref = self.free.pop().expect("it was ready");
        write_buffer(gref, frame);
        self.front.put(&NetifTxRequest {
            gref,
            offset: 0,
            flags: 0,
            id: gref as u16,
            size: length as u16,
        });
        result
    }
}

/// The packet that has come.
struct Input<'a>(&'a [u8]);

impl RxToken for Input<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}
