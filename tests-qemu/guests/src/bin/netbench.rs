//! What packets and a TCP connection cost between two domains on a bridge, in ticks of the time-stamp counter; all
//! domains' work is in it, as they share a CPU.
//!
//! It takes two: with `echo` on the command line it sends back what comes, without it it measures; with `tcp` it sends by
//! a TCP connection, and with `sink` it takes what comes by that. All wait blocked, and send events when they are asked
//! for, as the drivers of a real kernel do.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;

use abi::grant::GrantRef;
use abi::io::netif::NetifTxRequest;
use guest_rt::hypercall::sched;
use guest_rt::start_info::StartInfo;
use guest_rt::{println, time};
use guests::cpu;
use guests::netfront::{BUFFERS, FIRST_BUFFER, FIRST_SENT, Netfront, PACKET, read_buffer, write_buffer};
use guests::report::Report;
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

guest_rt::main!(main);

/// The one that measures, and the one that sends back.
const MACS: [[u8; 6]; 2] = [[0, 0x16, 0x3e, 0, 0, 1], [0, 0x16, 0x3e, 0, 0, 2]];
/// For experiments (IEEE 802).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// Each measurement is the least of so many.
const TRIES: u32 = 50;
/// The first packets find the bridge without knowledge of addresses.
const WARM_UP: u32 = 3;

/// Addresses and ports of the two ends of a TCP connection.
const ADDRESSES: [IpAddress; 2] = [IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)];
/// As above.
const PORTS: [u16; 2] = [5000, 5001];
/// Bytes of a full frame, and of the data of TCP in it.
const FRAME: usize = 1514;
/// As above.
const SEGMENT: usize = 1460;
/// What may be under way: it fits the buffers of the one that receives.
const WINDOW: usize = (BUFFERS as usize - 2) * SEGMENT;
/// Bytes that are sent for each measurement, and how many there are.
const STREAM: usize = 1 << 20;
/// As above.
const STREAMS: u32 = 8;

fn main(info: StartInfo) -> ! {
    let mut report = Report::default();
    let mut front = Netfront::new();
    report.check("connect", front.connect(), "refused");
    front.post(FIRST_BUFFER..FIRST_BUFFER + BUFFERS);
    match info.command_line() {
        "sink" => End::new(front, 1).sink(),
        "tcp" => {
            report.check("stream", End::new(front, 0).stream(), "the connection was closed");
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
        let ticks = (0..TRIES)
            .map(|_| round(&mut front, size, packets))
            .skip(WARM_UP as usize)
            .min();
        // There and back.
        println!("BENCH {name}: {}", ticks.unwrap_or(0) / u64::from(2 * packets));
    }
    report.finish()
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

/// One end of a TCP connection.
struct End {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
}

impl End {
    /// The end with one of the addresses; the second listens for the first.
    fn new(front: Netfront, which: usize) -> End {
        let config = Config::new(EthernetAddress(front.mac).into());
        let mut wire = Wire::new(front);
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses
                .push(IpCidr::new(ADDRESSES[which], 24))
                .expect("room for one");
        });
        let buffer = || SocketBuffer::new(vec![0; WINDOW]);
        let mut socket = Socket::new(buffer(), buffer());
        // What is late would be counted as work.
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        let begun = match which {
            0 => socket
                .connect(interface.context(), (ADDRESSES[1], PORTS[1]), PORTS[0])
                .is_ok(),
            _ => socket.listen(PORTS[1]).is_ok(),
        };
        assert!(begun, "a new socket is free");
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(socket);
        End {
            wire,
            interface,
            sockets,
            socket,
        }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    /// Takes all packets that have come.
    fn take(&mut self) {
        let now = now();
        while self
            .interface
            .poll_ingress_single(now, &mut self.wire, &mut self.sockets)
            != PollIngressSingleResult::None
        {}
    }

    /// Sends all that can be sent.
    fn send(&mut self) {
        let now = now();
        while self.interface.poll_egress(now, &mut self.wire, &mut self.sockets) != PollResult::None {}
        self.wire.flush();
    }

    /// Sends streams, and measures how long each takes until all of it is acknowledged. Returns whether all went.
    fn stream(&mut self) -> bool {
        while !self.socket().may_send() {
            self.take();
            self.send();
            let _ = sched::yield_now();
        }
        let bytes = [0x5a; WINDOW];
        let mut least = u64::MAX;
        for _ in 0..STREAMS {
            let start = cpu::tsc();
            let mut left = STREAM;
            loop {
                match self.socket().send_slice(&bytes[..left.min(WINDOW)]) {
                    Ok(taken) => left -= taken,
                    Err(_) => return false,
                }
                if left == 0 && self.socket().send_queue() == 0 {
                    break;
                }
                self.send();
                self.wire.sleep();
                self.take();
            }
            least = least.min(cpu::tsc() - start);
        }
        println!("BENCH TCP, 1 MiB: {least}");
        true
    }

    /// Takes what comes, for ever.
    fn sink(&mut self) -> ! {
        println!("READY");
        loop {
            self.wire.sleep();
            self.take();
            while self.socket().can_recv() {
                let _ = self.socket().recv(|bytes| (bytes.len(), ()));
            }
            self.send();
        }
    }
}

fn now() -> Instant {
    Instant::from_micros((time::now() / 1000) as i64)
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
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities
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
