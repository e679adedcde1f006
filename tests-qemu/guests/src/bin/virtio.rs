//! What requests to virtio devices cost a guest that has the emulated machine to itself, in ticks of the time-stamp
//! counter: the floor for what they cost by way of a hypervisor and another domain.
//!
//! Started by QEMU without a hypervisor, with a disk and with two network devices that are on one hub. What is counted
//! is the guest's own work, to the device's notification and from its answer on; neither what the emulator does, which takes no
//! instructions, nor the wait for it, nor an interrupt.
// UNSAFETY: buffers are the devices' while requests are under way.
#![expect(unsafe_code, reason = "buffers belong to a device for a while")]
#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::array;
use core::hint::spin_loop;

use guest_rt::println;
use guest_rt::start_info::StartInfo;
use guest_rt::virtio::{self, Function, Identity};
use guests::cpu;
use guests::frames::SIZE;
use guests::tcp::{self, End, FRAME, STREAM, STREAMS};
use smoltcp::phy::{Device, DeviceCapabilities, RxToken, TxToken};
use smoltcp::time::Instant;
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::{DeviceType, Transport};

guest_rt::main!(main);

/// Each measurement is the least of so many.
const TRIES: u32 = 50;

fn main(_: StartInfo) -> ! {
    let functions = virtio::functions();
    let transports = |kind: DeviceType| {
        let of_kind = functions.iter().filter(move |function| function.kind == kind);
        of_kind.map(|function: &Function| function.transport().expect("a device of version 1"))
    };
    let disk = transports(DeviceType::Block).next().expect("a disk");
    measure_disk(&mut Disk::start(disk));
    let mut nics: Vec<Nic> = transports(DeviceType::Network).map(Nic::start).collect();
    let [near, far] = nics.as_mut_slice() else {
        panic!("{} network devices, not 2", nics.len());
    };
    measure_packets(near, far);
    measure_tcp(nics.try_into().ok().expect("there are two"));
    println!("RESULT pass");
    // Nobody has set up the machine's interrupts, so there is none to be halted until.
    loop {
        spin_loop();
    }
}

/// Ticks that `work` takes, and its result.
fn timed<R>(work: impl FnOnce() -> R) -> (u64, R) {
    let start = cpu::tsc();
    let result = work();
    (cpu::tsc() - start, result)
}

/// The least of many tries.
fn bench(name: &str, of: u64, mut round: impl FnMut() -> u64) {
    let least = (0..TRIES).map(|_| round()).min().unwrap_or(0);
    println!("BENCH {name}: {}", least / of);
}

/// What a request to a disk does (virtio 1.2, 5.2.6).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Read = 0,
    Write = 1,
    Flush = 4,
}

/// Requests that are under way at once.
const REQUESTS: usize = 32;
/// Bytes of the largest request.
const LARGEST: usize = 32 * SIZE;

/// A disk with buffers for requests.
struct Disk {
    transport: PciTransport,
    queue: VirtQueue<Identity, 64>,
    buffers: [Buffers; REQUESTS],
}

struct Buffers {
    header: Box<[u8; 16]>,
    data: Vec<u8>,
    status: Box<[u8; 1]>,
    token: u16,
}

impl Buffers {
    /// Calls `work` with what the device reads, and what it writes, of a request with so many bytes of data.
    fn with<R>(
        &mut self,
        operation: Operation,
        bytes: usize,
        work: impl for<'a> FnOnce(&'a [&'a [u8]], &'a mut [&'a mut [u8]]) -> R,
    ) -> R {
        let (header, data, status) = (&self.header[..], &mut self.data[..bytes], &mut self.status[..]);
        match operation {
            Operation::Read => work(&[header], &mut [data, status]),
            Operation::Write => work(&[header, data], &mut [status]),
            Operation::Flush => work(&[header], &mut [status]),
        }
    }
}

impl Disk {
    fn start(mut transport: PciTransport) -> Self {
        const FLUSH: u64 = 1 << 9;
        const INDIRECT: u64 = 1 << 28;
        const VERSION_1: u64 = 1 << 32;
        let features: Features =
            transport.begin_init(Features::from_bits_retain(FLUSH | INDIRECT | VERSION_1));
        let indirect = features.bits() & INDIRECT != 0;
        let queue = VirtQueue::new(&mut transport, 0, indirect, false).expect("a queue");
        transport.finish_init();
        let buffers = array::from_fn(|_| Buffers {
            header: Box::new([0; 16]),
            data: vec![0; LARGEST],
            status: Box::new([0]),
            token: 0,
        });
        Self {
            transport,
            queue,
            buffers,
        }
    }

    /// Sends requests of so many bytes at once; ticks until the device knows of all.
    fn send(&mut self, operation: Operation, bytes: usize, requests: usize) -> u64 {
        let Self {
            transport,
            queue,
            buffers,
        } = self;
        let work = || {
            for (number, buffers) in buffers[..requests].iter_mut().enumerate() {
                let sector = (number * SIZE / 512) as u64;
                buffers.header[..4].copy_from_slice(&(operation as u32).to_le_bytes());
                buffers.header[8..].copy_from_slice(&sector.to_le_bytes());
                // SAFETY: the buffers are on the heap, and nothing touches them until `take` has seen the device's answer.
                let added = buffers.with(operation, bytes, |inputs, outputs| unsafe {
                    queue.add(inputs, outputs)
                });
                buffers.token = added.expect("room for the request");
            }
            if queue.should_notify() {
                transport.notify(0);
            }
        };
        timed(work).0
    }

    /// Waits for the answers to requests; ticks for taking them.
    fn take(&mut self, operation: Operation, bytes: usize, requests: usize) -> u64 {
        let mut ticks = 0;
        for _ in 0..requests {
            while !self.queue.can_pop() {
                spin_loop();
            }
            let work = || {
                let token = self.queue.peek_used().expect("an answer");
                let mut all = self.buffers[..requests].iter_mut();
                // In the order of the requests, most often: the first that is looked at.
                let buffers = all.find(|buffers| buffers.token == token).expect("a request's");
                // SAFETY: the same buffers as in `send`.
                let popped = buffers.with(operation, bytes, |inputs, outputs| unsafe {
                    self.queue.pop_used(token, inputs, outputs)
                });
                popped.is_ok() && *buffers.status == [0]
            };
            let (taken, done) = timed(work);
            assert!(done, "the device says that it has failed");
            ticks += taken;
        }
        ticks
    }
}

bitflags::bitflags! {
    /// Any features.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Features: u64 {
        const _ = !0;
    }
}

fn measure_disk(disk: &mut Disk) {
    use Operation::{Flush, Read, Write};
    for (name, operation, pages, requests) in [
        ("read 4 KiB", Read, 1, 1),
        ("write 4 KiB", Write, 1, 1),
        ("read 64 KiB", Read, 16, 1),
        ("write 64 KiB", Write, 16, 1),
        ("read 128 KiB", Read, 32, 1),
        ("write 128 KiB", Write, 32, 1),
        ("read one of 32", Read, 1, REQUESTS),
        ("write one of 32", Write, 1, REQUESTS),
        ("flush", Flush, 0, 1),
    ] {
        let bytes = pages * SIZE;
        bench(name, requests as u64, || {
            disk.send(operation, bytes, requests) + disk.take(operation, bytes, requests)
        });
    }
}

/// Entries of a network device's queues.
const ENTRIES: usize = 64;
/// Room for a frame and virtio's header.
const BUFFER: usize = 2048;

/// A network device with buffers.
struct Nic {
    mac: [u8; 6],
    /// What came last.
    input: [u8; FRAME],
    sender: Sender,
}

/// What a device reads or writes: it stays where it is.
type Buffer = Box<[u8; BUFFER]>;

struct Sender {
    driver: VirtIONetRaw<Identity, PciTransport, ENTRIES>,
    /// What the device fills and sends, by the entry of its queue.
    filling: [Option<Buffer>; ENTRIES],
    sending: [Option<(Buffer, usize)>; ENTRIES],
    free: Vec<Buffer>,
    header: usize,
}

impl Nic {
    fn start(transport: PciTransport) -> Self {
        let driver = VirtIONetRaw::new(transport).expect("a network device");
        let mut sender = Sender {
            driver,
            filling: [const { None }; ENTRIES],
            sending: [const { None }; ENTRIES],
            free: (0..ENTRIES).map(|_| Box::new([0; BUFFER])).collect(),
            header: 0,
        };
        for buffer in &mut sender.free {
            // All of them begin with the same header, that of a plain frame.
            sender.header = sender
                .driver
                .fill_buffer_header(&mut buffer[..])
                .expect("room for a header");
        }
        for _ in 0..ENTRIES {
            sender.fill(Box::new([0; BUFFER]));
        }
        Self {
            mac: sender.driver.mac_address(),
            input: [0; FRAME],
            sender,
        }
    }

    /// Has a frame come?
    fn has_come(&self) -> bool {
        self.sender.driver.poll_receive().is_some()
    }

    /// Takes a frame that has come; its length.
    fn take(&mut self) -> Option<usize> {
        self.sender.take(&mut self.input)
    }
}

impl Sender {
    /// Gives the device a buffer to fill.
    fn fill(&mut self, mut buffer: Buffer) {
        // SAFETY: the buffer is on the heap, and stays as it is in `filling` until the device is done.
        let token = unsafe { self.driver.receive_begin(&mut buffer[..]) }.expect("room for a buffer");
        self.filling[usize::from(token)] = Some(buffer);
    }

    fn take(&mut self, input: &mut [u8; FRAME]) -> Option<usize> {
        let token = self.driver.poll_receive()?;
        let mut buffer = self.filling[usize::from(token)].take()?;
        // SAFETY: the same buffer as in `fill`.
        let filled = unsafe { self.driver.receive_complete(token, &mut buffer[..]) };
        let (header, length) = filled.expect("the device's answer");
        let length = length.min(FRAME);
        input[..length].copy_from_slice(&buffer[header..header + length]);
        self.fill(buffer);
        Some(length)
    }

    /// Takes back what has been sent. Returns itself, if there is a buffer to send from.
    fn ready(&mut self) -> Option<&mut Self> {
        while let Some(token) = self.driver.poll_transmit() {
            let (buffer, length) = self.sending[usize::from(token)].take()?;
            // SAFETY: the same bytes as in `send`.
            unsafe { self.driver.transmit_complete(token, &buffer[..length]) }.expect("the device's answer");
            self.free.push(buffer);
        }
        (!self.free.is_empty()).then_some(self)
    }

    /// Sends a frame of so many bytes, which `write` writes, from a buffer that is free.
    fn send<R>(&mut self, length: usize, write: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut buffer = self.free.pop().expect("it was ready");
        let end = self.header + length;
        let result = write(&mut buffer[self.header..end]);
        // SAFETY: the buffer is on the heap, and stays as it is in `sending` until the device is done.
        let token = unsafe { self.driver.transmit_begin(&buffer[..end]) }.expect("room for a frame");
        self.sending[usize::from(token)] = Some((buffer, end));
        result
    }
}

/// Frames from one device to the other, whose content does not matter to a hub.
fn measure_packets(near: &mut Nic, far: &mut Nic) {
    for (name, size, packets) in [
        ("packet, 60 bytes", 60, 1),
        ("packet, 1514 bytes", 1514, 1),
        ("one of 16, 60 bytes", 60, 16),
        ("one of 16, 1514 bytes", 1514, 16),
    ] {
        bench(name, packets, || {
            let (mut ticks, ()) = timed(|| {
                for _ in 0..packets {
                    let sender = near.sender.ready().expect("a buffer");
                    sender.send(size, |frame| frame[..12].fill(0xff));
                }
            });
            for _ in 0..packets {
                while !far.has_come() {
                    spin_loop();
                }
                let (taken, length) = timed(|| far.take());
                assert_eq!(length, Some(size));
                ticks += taken;
            }
            ticks
        });
    }
}

/// A connection from one device to the other.
fn measure_tcp(nics: [Nic; 2]) {
    let mut which = 0..;
    let [mut near, mut far] = nics.map(|nic| {
        let mac = nic.mac;
        End::new(nic, mac, which.next().unwrap_or(0))
    });
    while !near.socket().may_send() {
        for end in [&mut near, &mut far] {
            end.take();
            end.send();
        }
    }
    let mut least = u64::MAX;
    for _ in 0..STREAMS {
        let (mut ticks, mut left) = (0, STREAM);
        loop {
            let (filling, more) = timed(|| {
                near.take();
                near.fill(&mut left)
            });
            ticks += filling;
            if !more {
                break;
            }
            ticks += timed(|| near.send()).0;
            while !far.wire.has_come() && !near.wire.has_come() {
                spin_loop();
            }
            if far.wire.has_come() {
                let taking = timed(|| {
                    far.take();
                    far.drop_data();
                    far.send();
                });
                ticks += taking.0;
            }
        }
        assert_eq!(left, 0, "the connection was closed");
        least = least.min(ticks);
    }
    println!("BENCH TCP, 1 MiB: {least}");
}

impl tcp::Wire for Nic {
    /// A tick is a nanosecond.
    fn now(&self) -> Instant {
        Instant::from_micros((cpu::tsc() / 1000) as i64)
    }

    /// The device knows of all already.
    fn flush(&mut self) {}
}

impl Device for Nic {
    type RxToken<'a> = Input<'a>;
    type TxToken<'a> = &'a mut Sender;

    fn receive(&mut self, _now: Instant) -> Option<(Input<'_>, &mut Sender)> {
        let sender = self.sender.ready()?;
        let length = sender.take(&mut self.input)?;
        Some((Input(&self.input[..length]), sender))
    }

    fn transmit(&mut self, _now: Instant) -> Option<&mut Sender> {
        self.sender.ready()
    }

    fn capabilities(&self) -> DeviceCapabilities {
        tcp::capabilities()
    }
}

impl TxToken for &mut Sender {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        self.send(length, fill)
    }
}

/// The frame that has come.
struct Input<'a>(&'a [u8]);

impl RxToken for Input<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}
